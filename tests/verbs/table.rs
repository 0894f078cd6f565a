//! The verbs, and the volume that they are tried on.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cowfs_format::device::{DeviceMut, MemDevice};
use cowfs_format::error::Error;
use cowfs_format::volume::Volume;
use cowfs_tests::said::Sink;
use cowfs_tests::session::{NOW, Session as _, pattern};
use debugfs_cowfs::session::Session;
use mkfs_cowfs::Options;
use tempfile::TempDir;

use crate::boxed;
use crate::device::Shared;

/// Commands of `debugfs.cowfs -w`; HOST is a file of the host. What stands in one line is done one
/// after the other.
const SHELL: &[&str] = &[
    "mkdir /new",
    "mkdir -p /new/a/b",
    "rmdir /empty",
    "write HOST /new",
    "write HOST /shared --offset 5000",
    "write HOST /own --offset 999",
    "unlink /shared",
    "rm /own /shared",
    "rm -r /tree",
    "ln /file /hard",
    "symlink ../target /link",
    "symlink LONG /link",
    "mknod /device b 8:1",
    "mknod /fifo p",
    "mv /file /tree",
    "mv -T /own /file",
    "chmod 600 /file",
    "chmod -R go-rwx /tree",
    "chown 7:8 /file",
    "chown -R 7:7 /tree",
    "touch -d 2001-02-03T04:05:06.789 /file",
    "touch /made",
    "truncate /file 1000",
    "truncate /small 100000",
    "punch /shared 4096 30000",
    "fallocate /own 0 300000",
    "setxattr /file user.new value",
    "setxattr -f HOST /file user.large",
    "rmxattr /attributes user.3",
    "setfacl -m u:1000:rwx /file",
    "reflink /own /clone",
    "set /file.i_mode 0100640",
    "label another",
    "uuid 00112233-4455-6677-8899-aabbccddeeff",
    "feature ^append-dio",
    "begin; mkdir /a; write HOST /a/b; reflink /a/b /a/c; rm /own; chmod 700 /a; commit",
];

/// Those that make what the checkers must find.
const DAMAGING: &[&str] = &["clri /small", "zap -f /own 0", "set /file.i_size 1000000"];

/// Verbs of `reflink.cowfs`; the volume stands between the two.
const REFLINK: &[(&str, &str)] = &[
    ("clone", "/file /clone"),
    ("clone -rp", "/tree /copy"),
    ("clone -f", "/own /file"),
    ("clone -rpf", "/tree /kept-again /other"),
    ("snap", "/tree /snap"),
    ("snap --delete", "/kept"),
    ("restore", "/kept /tree"),
    ("dedupe --min-run 4K", "/"),
    ("unshare", "/shared /tree"),
    ("vm clone", "el5 new"),
    ("vm template", "web new"),
    ("vm snap", "web second"),
    ("vm rollback", "web clean"),
    ("vm rm", "web"),
    ("vm rm --snapshot clean", "web"),
];

/// Something that is typed.
pub(crate) struct Verb {
    program: Program,
    text: String,
    /// Whether the checkers find what it did.
    pub(crate) damages: bool,
    /// Transactions that it may take.
    pub(crate) steps: usize,
}

enum Program {
    Shell(Vec<String>),
    Reflink(Vec<String>),
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All verbs.
pub(crate) fn verbs(host: &Host) -> Vec<Verb> {
    let long = "x".repeat(1000);
    let shell = |line: &&str, damages| Verb {
        program: Program::Shell(
            line.replace("HOST", host.file.to_str().unwrap())
                .replace("LONG", &long)
                .split("; ")
                .map(str::to_owned)
                .collect(),
        ),
        text: (*line).to_owned(),
        damages,
        steps: 1,
    };
    let reflink = |(verb, paths): &(&str, &str)| {
        let words = [verb, "volume", paths];
        let words = words.iter().flat_map(|part| part.split(' '));
        Verb {
            program: Program::Reflink(words.map(str::to_owned).collect()),
            text: format!("{verb} {paths}"),
            damages: false,
            // Windows, then runs.
            steps: if verb.starts_with("dedupe") { 2 } else { 1 },
        }
    };
    let shells = SHELL.iter().map(|line| shell(line, false));
    let damaging = DAMAGING.iter().map(|line| shell(line, true));
    shells
        .chain(damaging)
        .chain(REFLINK.iter().map(reflink))
        .collect()
}

impl Verb {
    /// Does it on a device; an error is what the program said.
    pub(crate) fn run(&self, device: Box<dyn DeviceMut>) -> Result<(), String> {
        match &self.program {
            Program::Shell(lines) => shell(device, lines),
            Program::Reflink(words) => {
                let words = ["reflink.cowfs"]
                    .into_iter()
                    .chain(words.iter().map(String::as_str));
                let (mut out, mut err) = (Vec::new(), Vec::new());
                match reflink_cowfs::run_on(device, words, &mut out, &mut err) {
                    0 => Ok(()),
                    _ => Err(String::from_utf8(err).unwrap()),
                }
            }
        }
    }
}

fn shell(device: Box<dyn DeviceMut>, lines: &[String]) -> Result<(), String> {
    let (out, err) = (Sink::default(), Sink::default());
    let mut session = Session::new(Box::new(out), Box::new(err.clone()));
    session.writes = true;
    session
        .edit(PathBuf::from("volume"), device)
        .map_err(|error| format!("{error:#}"))?;
    for line in lines {
        if !session.line(line.as_bytes()).unwrap() {
            return Err(err.text());
        }
    }
    Ok(())
}

/// What the verbs are tried with.
pub(crate) struct Host {
    _dir: TempDir,
    file: PathBuf,
    /// A volume with room, and one without.
    pub(crate) volume: Vec<u8>,
    pub(crate) full: Vec<u8>,
}

const MACHINE: &str = "name = 'el5'\nmemory = 1024\n\
    disk = ['file:/OVS/seed_pool/el5/System.img,xvda,w']\n\
    vif = ['bridge=xenbr0']\nuuid = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'\n";

impl Host {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("host");
        std::fs::write(&file, pattern(50_000, 9)).unwrap();
        let volume = prepared();
        let full = filled(volume.clone());
        Self {
            _dir: dir,
            file,
            volume,
            full,
        }
    }
}

fn prepared() -> Vec<u8> {
    let device = MemDevice::new(vec![0; 20 << 20]);
    let options = Options {
        block_size: Some(4096),
        cluster_size: Some(4096),
        slots: Some(1),
        journal_size: Some(4 << 20),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    for name in [
        "empty",
        "tree",
        "tree/deep",
        "other",
        "running_pool",
        "seed_pool",
        "seed_pool/el5",
    ] {
        volume.mkdir(name).unwrap();
    }
    for (name, len, seed) in [
        ("file", 60_000, 1),
        ("own", 50_000, 2),
        ("small", 100, 3),
        ("attributes", 10, 4),
        ("twin", 60_000, 1),
        ("tree/large", 40_000, 5),
        ("tree/deep/small", 500, 6),
        ("seed_pool/el5/System.img", 30_000, 7),
    ] {
        volume.write(name, &pattern(len, seed)).unwrap();
    }
    let moved = [pattern(4096, 8), pattern(40_000, 2)].concat();
    volume.write("moved", &moved).unwrap();
    volume
        .write("seed_pool/el5/vm.cfg", MACHINE.as_bytes())
        .unwrap();
    volume.reflink("file", "shared").unwrap();
    for n in 0..6 {
        let value = pattern(700, n);
        volume
            .set_xattr("attributes", &format!("user.{n}"), &value)
            .unwrap();
    }
    drop(volume);
    let device = Shared(Arc::new(device));
    for words in [
        &["snap", "volume", "/tree", "/kept"][..],
        &["clone", "-rp", "volume", "/tree", "/kept-again"],
        &["vm", "clone", "volume", "el5", "web"],
        &["vm", "snap", "volume", "web", "clean"],
    ] {
        let words = ["reflink.cowfs"].into_iter().chain(words.iter().copied());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = reflink_cowfs::run_on(boxed(device.clone()), words, &mut out, &mut err);
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    }
    // Since then the trees went on.
    let mut volume = Volume::open(&device).unwrap();
    volume.overwrite("tree/large", 5000, b"changed").unwrap();
    let disk = "running_pool/web/System.img";
    volume.overwrite(disk, 5000, b"changed").unwrap();
    drop(volume);
    device.0.snapshot()
}

/// The same volume without room.
fn filled(bytes: Vec<u8>) -> Vec<u8> {
    let device = MemDevice::new(bytes);
    let mut volume = Volume::open(&device).unwrap();
    let (mut size, mut count) = (2 << 20, 0);
    while size > 2000 {
        count += 1;
        match volume.write(&format!("fill {count}"), &pattern(size, 1)) {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) => size /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    drop(volume);
    device.snapshot()
}
