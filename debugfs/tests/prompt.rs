//! The program on a terminal: the prompt, what it completes and remembers, and that names from the
//! volume never control the terminal.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use cowfs_tests::{golden, session};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Terminal {
    fn run(image: &Path, state: &Path, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"))
            .args(args)
            .arg(image)
            .env("TERM", "xterm")
            .env("XDG_STATE_HOME", state)
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        drop(slave);
        let keys = File::from(master);
        let mut from = keys.try_clone().unwrap();
        let (to, screen) = channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            // When the program has ended, reading fails.
            while let Ok(len @ 1..) = from.read(&mut buf) {
                if to.send(buf[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keys,
            screen,
            seen: Vec::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until some text is on the screen that was not there when last waited for.
    fn wait(&mut self, text: &str) {
        loop {
            let found = self
                .seen
                .windows(text.len())
                .position(|w| w == text.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(Duration::from_secs(60)) {
                Ok(more) => self.seen.extend(more),
                Err(_) => panic!("no {text:?} in {:?}", self.seen.escape_ascii().to_string()),
            }
        }
    }

    /// Waits for the end; whether it was a good one, and the rest of the screen.
    fn end(mut self) -> (bool, Vec<u8>) {
        let status = self.child.wait().unwrap();
        while let Ok(more) = self.screen.recv_timeout(Duration::from_secs(2)) {
            self.seen.extend(more);
        }
        (status.success(), self.seen)
    }
}

#[test]
fn commands_and_paths_are_completed() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::run(image.path(), state.path(), &[]);
    terminal.wait("debugfs.cowfs: ");
    // The command, then the path; the rest of the word stands on the screen.
    terminal.press("stat_s\t\r");
    terminal.wait("Revision: 0.90");
    terminal.wait("debugfs.cowfs: ");
    terminal.press("cd /man\t\r");
    terminal.wait("/many/");
    terminal.wait("debugfs.cowfs: ");
    terminal.press("pwd\r");
    terminal.wait("/many\r\n");
    terminal.wait("debugfs.cowfs: ");
    terminal.press("cd //orphan_dir:0000\r");
    terminal.wait("debugfs.cowfs: ");
    terminal.press("stat //slot\t\r");
    terminal.wait("Inode: 9 ");
    terminal.wait("debugfs.cowfs: ");
    terminal.press("quit\r");
    assert!(terminal.end().0);
}

#[test]
fn what_was_typed_is_remembered() {
    let image = golden::open("pristine-max").unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut first = Terminal::run(image.path(), state.path(), &[]);
    first.wait("debugfs.cowfs: ");
    first.press("stats -h\r");
    first.wait("Journal 3: clean");
    first.wait("debugfs.cowfs: ");
    // The end of the input ends the program.
    first.press("\x04");
    assert!(first.end().0);
    let kept = std::fs::read_to_string(state.path().join("cowfs/debugfs_history")).unwrap();
    assert!(kept.lines().any(|line| line == "stats -h"), "{kept}");
    let mut second = Terminal::run(image.path(), state.path(), &["-n"]);
    // The line above, then the end. Without a prompt there is nothing to wait for.
    second.press("\x1b[A\r");
    second.wait("Journal 3: clean");
    second.press("quit\r");
    let (good, _) = second.end();
    assert!(good);
}

#[test]
fn where_nothing_can_be_kept_the_prompt_works() {
    let image = golden::open("pristine-max").unwrap();
    let mut terminal = Terminal::run(image.path(), Path::new("/dev/null/state"), &[]);
    terminal.wait("debugfs.cowfs: ");
    terminal.press("pwd\r");
    terminal.wait("/\r\n");
    terminal.press("ls /absent\r");
    terminal.wait("no such file or directory");
    terminal.press("quit\r");
    // A command failed.
    assert!(!terminal.end().0);
}

#[test]
fn names_do_not_control_the_terminal() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let state = tempfile::tempdir().unwrap();
    // A name that would clear the screen and turn what follows red, one that rings, and an 8-bit
    // control character as UTF-8.
    let evil = "\u{1b}[2J\u{1b}[31mred\u{7}\u{9b}5m";
    {
        let mut volume = session::writable(image.path());
        let root = volume.info().root;
        let mut txn = volume.begin().unwrap();
        let new = cowfs_format::txn::NewInode::at(
            cowfs_format::txn::Timestamp {
                seconds: 1,
                nanos: 0,
            },
            0o040_755,
            0,
            0,
        );
        txn.make_directory(root, evil.as_bytes(), &new).unwrap();
        txn.commit().unwrap();
    }
    let spec = format!("\"/{}\"", evil.replace('\u{1b}', "\\x1b"));
    let inode = {
        let said = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"))
            .args(["--json", "-R", &format!("stat {spec}")])
            .arg(image.path())
            .output()
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        value["inode"].as_u64().unwrap()
    };
    let missing = format!("stat {spec}/absent");
    let path = format!("ncheck {inode}");
    let inside = format!("cd {spec}");
    let mut args = Vec::new();
    for command in [
        "ls /",
        "ls -l /",
        "dirblocks /",
        &path,
        &missing,
        &inside,
        "pwd",
        "stat_sysdir",
        "logdump 0",
        "df",
        "xattr -v /attributes/block",
        "block 5",
    ] {
        args.extend(["-R", command]);
    }
    let (good, seen) = Terminal::run(image.path(), state.path(), &args).end();
    assert!(!good, "one name is not there");
    let seen_text = seen.escape_ascii().to_string();
    let shown = seen.windows(3).filter(|w| w == b"red").count();
    assert!(shown >= 5, "the name is shown {shown} times: {seen_text}");
    for byte in [0x1b, 0x07] {
        assert!(!seen.contains(&byte), "byte {byte:#x} in {seen_text}");
    }
    assert!(!seen.windows(2).any(|w| w == [0xC2, 0x9B]), "{seen_text}");
}
