//! What each command says, kept: one file for each command of the table, with its text and its JSON
//! on a few golden volumes.
//!
//! A snapshot tells that something changed, not that it is right. That the facts are right is tested
//! elsewhere: against debugfs.ocfs2 (`oracle`), the driver's records (`record`, `deleted`) and the
//! schema. Look at a changed snapshot with these in mind; `INSTA_UPDATE=always` writes it anew.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use cowfs_tests::{golden, sum};
use debugfs_cowfs::table;

/// Lines of a text that are kept; of the rest its sum.
const LINES: usize = 60;

/// Command lines and the volumes that they are run on. `IMAGE` and `DIR` stand for the volume and
/// for a directory of the host with the file `host` in it. A line that begins with `-w` is run on a
/// copy of its own. `; ` separates commands that are run together; the last one has the snapshot.
const SCRIPT: &[(&str, &[&str])] = &[
    ("block 5", &["pristine-max"]),
    ("block 3627", &["b4k-c4k-max"]),
    ("bmap /fragmented/whole 100", &["b4k-c4k-max"]),
    ("bmap /links/fast 0", &["b4k-c4k-max"]),
    ("cat /inline/size-100", &["b4k-c4k-max"]),
    ("cat /links/dangling", &["b4k-c4k-max"]),
    ("cat /inline", &["b4k-c4k-max"]),
    ("cd /links", &["b4k-c4k-max"]),
    ("cd /links/a", &["b4k-c4k-max"]),
    ("chroot /links", &["b4k-c4k-max"]),
    ("close", &["pristine-max"]),
    ("controld dump", &["pristine-max"]),
    ("curdev", &["pristine-max"]),
    (
        "decode <M0000000000000000000005a69530bd>",
        &["pristine-max"],
    ),
    ("decode N000000000000000500000a33", &["pristine-max"]),
    ("delta /shared/first /shared/third", &["b4k-c4k-max"]),
    ("df", &["b4k-c4k-max", "b512-c4k-compat"]),
    ("df -h", &["b4k-c1m-max"]),
    ("diff IMAGE IMAGE", &["pristine-max"]),
    ("dirblocks /many", &["b4k-c4k-max"]),
    ("dirblocks /inline", &["b4k-c4k-max"]),
    ("dlm_locks", &["pristine-max"]),
    ("du /shared", &["b4k-c4k-max"]),
    ("du -r /reflinks", &["b2k-c8k-max"]),
    ("dump /inline/size-100 DIR/out", &["b4k-c4k-max"]),
    ("dx_dump /many", &["b4k-c4k-max"]),
    ("dx_leaf 3640", &["b4k-c4k-max"]),
    ("dx_root /many", &["b4k-c4k-max"]),
    ("dx_root <8813>", &["b512-c4k-max"]),
    ("dx_space /many", &["b4k-c4k-max"]),
    ("encode /", &["b4k-c4k-max"]),
    ("encode <2>", &["b4k-c4k-max"]),
    ("extent 11830", &["b4k-c4k-max"]),
    ("extents /shared/first", &["b4k-c4k-max"]),
    ("extents -o /reflinks/original", &["b2k-c8k-max"]),
    (
        "field <5>.i_size /links/a.i_mode block:3.bg_bits",
        &["b4k-c4k-max"],
    ),
    ("field /nowhere.i_size", &["b4k-c4k-max"]),
    ("findpath <2601>", &["b4k-c4k-max"]),
    (
        "frag /fragmented/whole",
        &["b4k-c4k-max", "b1k-c4k-default"],
    ),
    ("fs_locks -B", &["pristine-max"]),
    ("group 3", &["b4k-c4k-max"]),
    ("grpextents 3", &["b4k-c4k-max"]),
    ("hb", &["o2cb-classic"]),
    ("help help", &["pristine-max"]),
    ("help logdump", &["pristine-max"]),
    ("icheck 1 2 3 5 3627 11815 16000", &["b4k-c4k-max"]),
    ("lcd DIR", &["pristine-max"]),
    ("lcd DIR/absent", &["pristine-max"]),
    ("logdump 0", &["orphans"]),
    ("logdump -T 0", &["dirty-journal"]),
    ("lpwd", &["pristine-max"]),
    ("ls", &["b4k-c4k-max"]),
    ("ls -l /devices", &["b4k-c4k-max"]),
    ("ls /absent", &["b4k-c4k-max"]),
    ("lsdel", &["orphans", "pristine-max"]),
    ("map -n 32", &["b4k-c4k-max"]),
    ("manifest -n /links", &["b512-c4k-compat"]),
    ("ncheck <2647> 5 9", &["b4k-c4k-max"]),
    ("net_stats", &["pristine-max"]),
    ("nodes", &["o2cb-classic", "pristine-max"]),
    ("open DIR/host", &["pristine-max"]),
    ("owners 5 5249 16000", &["b4k-c4k-max"]),
    ("image DIR/out.img", &["b512-c4k-compat"]),
    ("pwd", &["pristine-max"]),
    ("quota", &["b2k-c8k-max"]),
    ("quit", &["pristine-max"]),
    ("rdump -v /links/deep DIR", &["b512-c4k-compat"]),
    ("refcount -e /shared/first", &["b4k-c4k-max"]),
    ("refcount /file", &["b4k-c1m-max"]),
    ("slotmap", &["dirty-journal", "o2cb-named"]),
    ("stat /inline/size-100", &["b4k-c4k-max"]),
    ("stat //inode_alloc:0000", &["discontiguous"]),
    ("stat -T /fragmented/whole", &["b512-c4k-max"]),
    ("stat /devices/null", &["b4k-c4k-max"]),
    ("stat_sysdir", &["o2cb-named"]),
    ("stats", &["dirty-journal", "o2cb-named"]),
    ("stats -h", &["b512-c4k-compat"]),
    ("tar -o DIR/out.tar /links/deep", &["b512-c4k-compat"]),
    ("verify DIR/host", &["pristine-max"]),
    ("xattr /attributes/block", &["b4k-c4k-max"]),
    ("xattr -v /acls/directory", &["b4k-c4k-max"]),
    ("feature", &["b4k-c4k-max", "b512-c4k-compat"]),
    ("label", &["b4k-c4k-max"]),
    ("uuid", &["b4k-c4k-max"]),
    ("-w abort", &["pristine-max"]),
    ("-w begin; mkdir /new; abort", &["pristine-max"]),
    ("-w begin", &["pristine-max"]),
    ("-w chmod u+s,o-rwx /inline/size-100", &["b4k-c4k-max"]),
    ("-w chown 5:6 /inline/size-100 /many", &["b4k-c4k-max"]),
    ("-w clri /inline/size-100", &["b4k-c4k-max"]),
    ("-w begin; mkdir /new; commit", &["pristine-max"]),
    ("-w fallocate /inline/size-100 0 100K", &["b4k-c4k-max"]),
    ("-w feature norefcount", &["pristine-max", "b4k-c4k-max"]),
    ("-w label new", &["pristine-max"]),
    ("-w ln /inline/size-100 /many", &["b4k-c4k-max"]),
    ("-w mkdir /new", &["pristine-max"]),
    ("-w begin; mkdir /new", &["pristine-max"]),
    ("-w mknod /new c 1 3", &["pristine-max"]),
    ("-w mv /inline/size-100 /new", &["b4k-c4k-max"]),
    ("-w punch /shared/first 0 1M", &["b4k-c4k-max"]),
    ("-w reflink /shared/first /new", &["b4k-c4k-max"]),
    ("-w rm /many", &["b4k-c4k-max"]),
    ("-w rm -r /inline /links", &["b4k-c4k-max"]),
    ("-w rmdir /many", &["b4k-c4k-max"]),
    (
        "-w setxattr /many user.a b; rmxattr /many user.a",
        &["b4k-c4k-max"],
    ),
    ("-w set /inline/size-100.i_mode 0100600", &["b4k-c4k-max"]),
    ("-w set /inline/size-100.i_mode 01777777", &["b4k-c4k-max"]),
    ("-w setfacl -m u:7:rwx /inline/size-100", &["b4k-c4k-max"]),
    (
        "-w setxattr /inline/size-100 user.new value",
        &["b4k-c4k-max"],
    ),
    ("-w symlink /inline/size-100 /new", &["b4k-c4k-max"]),
    ("-w touch -d 1.5 /inline/size-100 /new", &["b4k-c4k-max"]),
    ("-w truncate /inline/size-100 1M", &["b4k-c4k-max"]),
    ("-w unlink /inline/size-100 /absent", &["b4k-c4k-max"]),
    ("-w unlink /inline/size-100", &["b4k-c4k-max"]),
    (
        "-w uuid 00112233-4455-6677-8899-aabbccddeeff",
        &["pristine-max"],
    ),
    ("-w zap -l 16 -p 5a 5", &["pristine-max"]),
    ("-w mkdir /lost+found", &["pristine-max"]),
    ("-w write DIR/host /new", &["pristine-max"]),
    ("-w write -o 5 DIR/host /shared/first", &["b4k-c4k-max"]),
];

/// The beginning of a text; of the rest how much it is, and its sum.
fn head(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let kept = lines.iter().take(LINES).fold(String::new(), |kept, line| {
        // A line of JSON that holds a file is cut as well.
        let cut: String = line.chars().take(200).collect();
        let dots = if cut.len() < line.len() { "..." } else { "" };
        kept + cut.trim_end() + dots + "\n"
    });
    match lines.len().checked_sub(LINES) {
        None | Some(0) => kept,
        Some(more) => {
            let sum = sum::sha256(text.as_bytes());
            format!("{kept}({more} more lines; SHA-256 of all: {sum})\n")
        }
    }
}

/// What a line says on a volume: its text or its JSON, its trouble, its exit status.
fn said(image: &Path, line: &str, json: bool) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("host"), "a file of the host\n").unwrap();
    let place = dir.path().canonicalize().unwrap();
    let (writes, line) = match line.strip_prefix("-w ") {
        Some(line) => (true, line),
        None => (false, line),
    };
    let request = line
        .replace("DIR", place.to_str().unwrap())
        .replace("IMAGE", image.to_str().unwrap());
    let mut program = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"));
    if json {
        program.arg("--json");
    }
    if writes {
        program.arg("-w");
    }
    for request in request.split("; ") {
        program.args(["-R", request]);
    }
    let ran = program
        .arg(image)
        .current_dir(&place)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let plain = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace(image.to_str().unwrap(), "IMAGE")
            .replace(place.to_str().unwrap(), "DIR")
    };
    let mut out = plain(&ran.stdout);
    if json {
        let values = serde_json::Deserializer::from_str(&out).into_iter::<serde_json::Value>();
        let pretty = values.map(|value| serde_json::to_string_pretty(&value.unwrap()).unwrap());
        out = pretty.collect::<Vec<_>>().join("\n");
    }
    let mut text = head(&out);
    if !json {
        for line in plain(&ran.stderr).lines() {
            text += &format!("stderr: {line}\n");
        }
    }
    if let Some(code @ 1..) = ran.status.code() {
        text += &format!("exit status {code}\n");
    }
    text
}

fn command_of(line: &str) -> &'static str {
    let last = line.trim_start_matches("-w ").rsplit("; ").next().unwrap();
    let word = last.split(' ').next().unwrap();
    table::find(word.as_bytes()).unwrap().name
}

#[test]
fn every_command_has_a_snapshot() {
    let have: BTreeSet<&str> = SCRIPT.iter().map(|(line, _)| command_of(line)).collect();
    let all: BTreeSet<&str> = table::commands().map(|command| command.name).collect();
    let missing: Vec<_> = all.difference(&have).collect();
    assert!(missing.is_empty(), "no snapshot of {missing:?}");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    for entry in std::fs::read_dir(kept).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.strip_suffix(".snap").unwrap_or(&name);
        assert!(all.contains(stem), "{name} is of no command");
    }
}

#[test]
fn commands_say_what_they_said() {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    let mut images = BTreeMap::new();
    for (line, volumes) in SCRIPT {
        for volume in *volumes {
            for json in [false, true] {
                let own = line
                    .starts_with("-w ")
                    .then(|| golden::open(volume).unwrap());
                let image = match &own {
                    Some(own) => own,
                    None => images
                        .entry(*volume)
                        .or_insert_with(|| golden::open(volume).unwrap()),
                };
                let title = if json { " --json" } else { "" };
                let text = texts.entry(command_of(line)).or_default();
                *text += &format!("== {line}{title} ({volume})\n");
                *text += &said(image.path(), line, json);
            }
        }
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (command, text) in texts {
            insta::assert_snapshot!(command, text);
        }
    });
}
