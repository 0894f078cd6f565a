//! Trees taken out of volumes: what GNU tar unpacks of our stream, and what rdump makes, is what the
//! driver showed; hostile volumes reach nothing beside the target; damaged files are never silently
//! short.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cowfs_tests::golden::{self, Golden};
use cowfs_tests::walk::{Entry, Value};
use cowfs_tests::{Missing, need, place, sum};
use support::{Shell, word};
use tempfile::TempDir;

/// A tmpfs of our own: of the file systems of the host the one that takes attributes and targets of
/// symlinks of any size.
struct Mounted {
    dir: TempDir,
}

impl Mounted {
    fn new() -> anyhow::Result<Self> {
        let missing = |why: String| Missing::new("a tmpfs with large attributes", why);
        if !rustix::process::geteuid().is_root() {
            return Err(missing("only root can mount".to_owned()).into());
        }
        let mount = place::program("mount").ok_or_else(|| missing("no mount(8)".to_owned()))?;
        let dir = TempDir::new()?;
        let at = dir.path().join("at");
        fs::create_dir(&at)?;
        let done = Command::new(mount)
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&at)
            .output()?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(missing(why).into());
        }
        let mounted = Self { dir };
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&at, "user.large", &[0; 60_000], flags)
            .and_then(|()| rustix::fs::removexattr(&at, "user.large"))
            .map_err(|error| missing(format!("{error}; Linux 6.6 has it")))?;
        Ok(mounted)
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("at").join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(umount) = place::program("umount") {
            let _ = Command::new(umount)
                .arg(self.dir.path().join("at"))
                .status();
        }
    }
}

/// Unpacks with GNU tar, everything that the stream has.
fn unpack(archive: &Path, to: &Path) {
    let done = Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
        ])
        .args(["--same-owner", "-p", "-C"])
        .arg(to)
        .arg("-xf")
        .arg(archive)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    // It warns of times to come, which one golden file has.
    let odd: Vec<&str> = said
        .lines()
        .filter(|l| !l.contains("in the future"))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
}

/// A tree of the host, in the form of the driver's listing; and the bytes that it takes on disk.
fn listing(top: &Path) -> (Vec<Entry>, BTreeMap<Vec<u8>, u64>) {
    let mut todo = vec![(b".".to_vec(), top.to_path_buf())];
    let (mut found, mut disk) = (Vec::new(), BTreeMap::new());
    while let Some((path, at)) = todo.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        let kind = meta.file_type();
        let (letter, payload) = if kind.is_dir() {
            for child in fs::read_dir(&at).unwrap() {
                let child = child.unwrap();
                let name = child.file_name().into_vec();
                let path = if path == b"." {
                    name
                } else {
                    [&path[..], b"/", &name].concat()
                };
                todo.push((path, child.path()));
            }
            ('d', Vec::new())
        } else if kind.is_symlink() {
            ('l', fs::read_link(&at).unwrap().into_os_string().into_vec())
        } else if kind.is_file() {
            ('f', sum::sha256(&fs::read(&at).unwrap()).into_bytes())
        } else if kind.is_fifo() {
            ('p', Vec::new())
        } else if kind.is_socket() {
            ('s', Vec::new())
        } else {
            let (major, minor) = (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            );
            let letter = if kind.is_block_device() { 'b' } else { 'c' };
            (letter, format!("{major}:{minor}").into_bytes())
        };
        disk.insert(path.clone(), meta.blocks() * 512);
        found.push(Entry {
            kind: letter,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            links: meta.nlink(),
            size: meta.size(),
            sectors: 0,
            inode: 0,
            mtime: format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()),
            payload,
            xattrs: attributes(&at),
            path,
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    (found, disk)
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Value> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..len].split(|&b| b == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        found.insert(name.to_vec(), Value::of(&value[..len]));
    }
    found
}

/// Holds a tree of the host against the driver's listing.
fn compare(image: &Golden, how: &str, recorded: &[Entry], top: &Path, with_root: bool) {
    let (found, disk) = listing(top);
    // The driver reads the root before it replays the journal, and goes on showing that.
    let with_root = with_root && image.name != "dirty-journal";
    let comparable = |mut entry: Entry| {
        // Sizes of directories are the file system's own business, and inode numbers.
        (entry.sectors, entry.inode) = (0, 0);
        if entry.kind == 'd' {
            entry.size = 0;
        }
        (entry.path != b"." || with_root).then_some(entry)
    };
    let found: Vec<Entry> = found.into_iter().filter_map(comparable).collect();
    let expected = recorded.iter().cloned().filter_map(comparable);
    let expected: Vec<Entry> = expected.collect();
    for (a, b) in found.iter().zip(&expected) {
        assert_eq!(a, b, "{} {how}", image.name);
    }
    assert_eq!(found.len(), expected.len(), "{} {how}", image.name);
    // Attributes take space of their own on the host.
    let plain = |entry: &&Entry| entry.kind == 'f' && entry.xattrs.is_empty();
    for entry in recorded.iter().filter(plain) {
        // Unwritten space of the volume is a hole of the copy; the last block is rounded up.
        let most = (entry.sectors * 512).max(entry.size.min(4096)) + 4096;
        let taken = disk[&entry.path];
        let place = entry.path.escape_ascii();
        assert!(
            taken <= most,
            "{} {how} {place}: {taken} > {most}",
            image.name
        );
    }
}

#[test]
fn copies_are_what_the_driver_shows() {
    let host = need!(Mounted::new());
    let (mut compared, mut holes) = (0, 0);
    for image in golden::all().unwrap() {
        let Some(seen) = image.seen().unwrap() else {
            continue;
        };
        let file = image.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        let archive = host.dir.path().join("archive.tar");
        let line = format!("tar / -o {}", word_of(&archive));
        shell.text(&line);
        let unpacked = host.fresh(&format!("{}.tar", image.name));
        unpack(&archive, &unpacked);
        compare(&image, "tar", &seen.walk, &unpacked, true);
        let dumped = host.fresh(&format!("{}.rdump", image.name));
        shell.text(&format!("rdump / {}", word_of(&dumped)));
        compare(&image, "rdump", &seen.walk, &dumped, false);
        compared += seen.walk.len();
        holes += seen
            .walk
            .iter()
            .filter(|e| e.size > e.sectors * 512)
            .count();
        // The stream is the same each time, and ends on a record.
        let first = fs::read(&archive).unwrap();
        shell.text(&line);
        assert!(fs::read(&archive).unwrap() == first && first.len() % 10240 == 0);
        for old in [unpacked, dumped] {
            fs::remove_dir_all(old).unwrap();
        }
    }
    assert!(compared > 3000 && holes > 10, "{compared} {holes}");
}

/// A path of the host as a word of a command line.
fn word_of(path: &Path) -> String {
    debugfs_cowfs::words::quoted(path.as_os_str().as_bytes())
}

#[test]
fn sizes_and_names_beyond_the_fields_of_a_header() {
    let image = golden::open("pristine-max").unwrap();
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    let file = File::create(&source).unwrap();
    // More than the 8 GiB that a header can say, almost all of it a hole.
    let size = (9u64 << 30) + 5;
    file.set_len(size).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"middle", 5 << 30).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    let mut shell = Shell::edit(image.path()).unwrap();
    let deep: Vec<String> = (0..3).map(|i| format!("{i}{}", "d".repeat(200))).collect();
    let mut at = String::new();
    for part in &deep {
        at = format!("{at}/{part}");
        shell.text(&format!("mkdir {at}"));
    }
    let name = "f".repeat(255);
    shell.text(&format!("write {} {at}/{name}", word_of(&source)));
    drop(shell);
    let mut shell = Shell::open(image.path()).unwrap();
    let archive = dir.path().join("archive.tar");
    shell.text(&format!("tar / -o {}", word_of(&archive)));
    assert!(fs::metadata(&archive).unwrap().len() < 1 << 20);
    let (unpacked, dumped) = (dir.path().join("unpacked"), dir.path().join("dumped"));
    fs::create_dir(&unpacked).unwrap();
    fs::create_dir(&dumped).unwrap();
    let done = Command::new("tar")
        .arg("-C")
        .arg(&unpacked)
        .arg("-xf")
        .arg(&archive)
        .status();
    assert!(done.unwrap().success());
    shell.run(&format!("rdump / {}", word_of(&dumped)));
    for top in [unpacked, dumped] {
        let path = top.join(&at[1..]).join(&name);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() * 512 < 1 << 20, "{}", meta.blocks());
        let copy = File::open(&path).unwrap();
        for (offset, text) in [(0, &b"start"[..]), (5 << 30, b"middle"), (size - 3, b"end")] {
            let mut bytes = vec![0; text.len()];
            copy.read_exact_at(&mut bytes, offset).unwrap();
            assert_eq!(bytes, text);
        }
    }
}

/// Where the entry of a name stands in a block: the name's bytes follow its head of 12 bytes.
fn entry_at(bytes: &[u8], inode: u64, name: &[u8]) -> usize {
    let head = inode.to_le_bytes();
    // The length of the record and the type lie around the length of the name.
    let found = bytes.windows(12 + name.len()).enumerate().filter(|(_, w)| {
        w[..8] == head[..] && usize::from(w[10]) == name.len() && &w[12..] == name
    });
    let found: Vec<usize> = found.map(|(at, _)| at).collect();
    assert_eq!(found.len(), 1, "{}", name.escape_ascii());
    found[0]
}

/// An image without checks, whose `/links` holds names that lead elsewhere.
struct Hostile {
    image: tempfile::NamedTempFile,
    bytes: Vec<u8>,
    /// The one block of `/links`.
    links: usize,
    inodes: BTreeMap<Vec<u8>, u64>,
}

impl Hostile {
    fn new() -> Self {
        let golden = golden::all().unwrap();
        let golden = golden.iter().find(|g| g.name == "b512-c4k-compat").unwrap();
        let image = golden.open().unwrap();
        let bytes = fs::read(image.path()).unwrap();
        let walk = golden.seen().unwrap().unwrap().walk;
        let inodes = walk.into_iter().map(|e| (e.path, e.inode)).collect();
        let blocks = Shell::open(image.path()).unwrap().json("dirblocks /links");
        let links = blocks["blocks"][0]["blkno"].as_u64().unwrap();
        Self {
            image,
            bytes,
            links: usize::try_from(links).unwrap() * 512,
            inodes,
        }
    }

    /// Gives an entry of `/links` another name.
    fn rename(&mut self, name: &str, to: &[u8]) {
        let inode = self.inodes[format!("links/{name}").as_bytes()];
        let block = &self.bytes[self.links..self.links + 512];
        let at = self.links + entry_at(block, inode, name.as_bytes());
        let room = usize::from(u16::from_le_bytes([self.bytes[at + 8], self.bytes[at + 9]]));
        assert!(12 + to.len() <= room, "{name} has room for {}", room - 12);
        self.bytes[at + 10] = u8::try_from(to.len()).unwrap();
        self.bytes[at + 12..at + 12 + to.len()].copy_from_slice(to);
    }

    fn inode_bytes(&mut self, path: &str) -> &mut [u8] {
        let at = usize::try_from(self.inodes[path.as_bytes()]).unwrap() * 512;
        &mut self.bytes[at..at + 512]
    }

    fn open(&self) -> Shell {
        fs::write(self.image.path(), &self.bytes).unwrap();
        Shell::open(self.image.path()).unwrap()
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_by_name() {
    let mut hostile = Hostile::new();
    hostile.rename("a", b"../x");
    hostile.rename("b", b"/");
    hostile.rename("deep", b"..");
    hostile.rename("fast", b".");
    hostile.rename(" ", b"");
    hostile.rename("dangling", b"n\0l");
    let mut shell = hostile.open();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let archive = dir.path().join("archive.tar");
    for line in [
        format!("rdump / {}", word_of(&target)),
        format!("tar / -o {}", word_of(&archive)),
    ] {
        let said = shell.run(&line);
        assert!(!said.good);
        for name in ["../x", ": /:", ": ..:", ": .:", ": : a file", "n\\x00l"] {
            assert!(said.err.contains(name), "{name}: {}", said.err);
        }
    }
    // Nothing but the target and the archive was made, and of the directory the honest names.
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(beside.len(), 2);
    let names = |top: &Path| {
        let mut names: Vec<Vec<u8>> = (fs::read_dir(top.join("links")).unwrap())
            .map(|entry| entry.unwrap().file_name().into_vec())
            .collect();
        names.sort();
        names
    };
    let made = names(&target);
    assert!(
        made.len() >= 4 && made.contains(&b"latin-\xe9".to_vec()),
        "{made:?}"
    );
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(&archive)
        .output()
        .unwrap();
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        !listed.contains("..") && listed.contains("./links/"),
        "{listed}"
    );
}

/// A symlink that leads out, and a directory and files that go by its name as well.
#[test]
fn nothing_goes_through_a_link() {
    let outside = TempDir::new().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let before = fs::metadata(&victim).unwrap();
    for target in [outside.path().to_path_buf(), victim.clone()] {
        let mut hostile = Hostile::new();
        let link = target.as_os_str().as_bytes();
        let inode = hostile.inode_bytes("links/fast");
        inode[0x20..0x28].copy_from_slice(&(link.len() as u64).to_le_bytes());
        inode[0xC0..0xC0 + link.len()].copy_from_slice(link);
        // All of these names are "fast" now: the link, a directory with files in it, a file of
        // three names.
        for name in ["deep", "a", "b"] {
            hostile.rename(name, b"fast");
        }
        let mut shell = hostile.open();
        let dir = TempDir::new().unwrap();
        let said = shell.run(&format!("rdump /links {}", word_of(dir.path())));
        assert!(!said.good && said.err.contains("exists"), "{}", said.err);
        assert!(dir.path().join("links").is_dir());
        let left: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        let after = fs::metadata(&victim).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(
            (before.mode(), before.mtime_nsec(), before.ctime_nsec()),
            (after.mode(), after.mtime_nsec(), after.ctime_nsec())
        );
    }
}

#[test]
fn what_exists_is_not_written_over() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("inline")).unwrap();
    let said = shell.run(&format!("rdump /inline /holes {}", word_of(dir.path())));
    assert!(
        !said.good && said.err.contains("/inline: left out: File exists"),
        "{}",
        said.err
    );
    // What else was asked for is there; nothing went into the directory that was.
    assert!(dir.path().join("holes/middle").is_file());
    assert_eq!(fs::read_dir(dir.path().join("inline")).unwrap().count(), 0);
    // The volume itself is never the target.
    let own = word_of(image.path());
    for line in [
        format!("tar / -o {own}"),
        format!("dump /inline/size-100 {own}"),
    ] {
        let said = shell.run(&line);
        assert!(
            !said.good && said.err.contains("the volume itself"),
            "{}",
            said.err
        );
    }
    assert!(shell.run("ls /").good);
}

/// Who is not root gets all that the host lets them have; the rest is counted.
#[test]
fn without_root_everything_but_owners_and_devices_comes_out() {
    let root = rustix::process::geteuid().is_root();
    let setpriv = place::program("setpriv").ok_or_else(|| {
        let why = "Debian's package util-linux brings it".to_owned();
        Missing::new("setpriv", why).into()
    });
    let setpriv: anyhow::Result<PathBuf> = setpriv;
    let setpriv = if root { Some(need!(setpriv)) } else { None };
    let images = golden::all().unwrap();
    let golden = (images.iter()).find(|image| image.name == "b4k-c4k-max");
    let golden = golden.unwrap();
    let image = golden.open().unwrap();
    let dir = TempDir::new().unwrap();
    // Where somebody else can reach the program, the volume and the target.
    let everybody = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let (program, volume) = (dir.path().join("program"), dir.path().join("volume"));
    fs::copy(env!("CARGO_BIN_EXE_debugfs-cowfs"), &program).unwrap();
    fs::copy(image.path(), &volume).unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    for (path, mode) in [
        (dir.path(), 0o755),
        (&program, 0o755),
        (&volume, 0o644),
        (&to, 0o777),
    ] {
        everybody(path, mode);
    }
    let mut command = setpriv.map_or_else(
        || Command::new(&program),
        |setpriv| {
            let mut command = Command::new(setpriv);
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            command.arg(&program);
            command
        },
    );
    command.args([
        "-R",
        &format!("rdump /inline /holes /devices {}", word_of(&to)),
    ]);
    let done = command.arg(&volume).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    // The devices are two.
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("2 devices were not made"), "{said}");
    let mut compared = 0;
    for entry in golden.seen().unwrap().unwrap().walk {
        let below = [&b"inline/"[..], b"holes/"]
            .iter()
            .any(|top| entry.path.starts_with(top));
        if entry.kind == 'f' && below {
            let path = to.join(std::ffi::OsStr::from_bytes(&entry.path));
            let sum = sum::sha256(&fs::read(&path).unwrap()).into_bytes();
            assert_eq!(sum, entry.payload, "{}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 5, "{compared}");
    assert!(to.join("devices/fifo").exists());
    assert!(!to.join("devices/null").exists());
}

#[test]
fn sockets_are_named_and_left_out_of_tar_only() {
    let mut hostile = Hostile::new();
    hostile.inode_bytes("devices/fifo")[0x28..0x2A].copy_from_slice(&0o140_644u16.to_le_bytes());
    let mut shell = hostile.open();
    let dir = TempDir::new().unwrap();
    let archive = dir.path().join("archive.tar");
    let said = shell.run(&format!("tar /devices -o {}", word_of(&archive)));
    assert!(
        said.good && said.err.contains("/devices/fifo: a socket"),
        "{}",
        said.err
    );
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(&archive)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    shell.run(&format!("rdump /devices/fifo {}", word_of(dir.path())));
    let made = fs::symlink_metadata(dir.path().join("fifo")).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.mode() & 0o7777, 0o644);
}

/// A file whose extent tree lost a leaf: refused whole, or given with zeros where the leaf said.
#[test]
fn damaged_files_are_never_silently_short() {
    let image = golden::open("b512-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let whole = shell.run("cat /fragmented/whole").out;
    let extents = shell.json("extents /fragmented/whole");
    let extents = extents["extents"].as_array().unwrap().clone();
    // A leaf in the middle, by its place in the image: an extent block of depth 0 whose first
    // record is one of the file's extents.
    let bytes = fs::read(image.path()).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let middle = number(&extents[extents.len() / 2]["blkno"]);
    let word = |at: usize, len: usize| {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(word)
    };
    let leaf = (0..bytes.len() / 512).map(|n| n * 512).find(|&at| {
        let used = usize::try_from(word(at + 0x34, 2)).unwrap();
        // A copy in the journal says that it is another block.
        bytes[at..at + 8] == *b"EXBLK01\0"
            && word(at + 0x18, 8) == (at / 512) as u64
            && word(at + 0x30, 2) == 0
            && (0..used.min(28)).any(|i| word(at + 0x40 + i * 16 + 8, 8) == middle)
    });
    let leaf = leaf.unwrap();
    let used = usize::try_from(word(leaf + 0x34, 2)).unwrap();
    let record = |i: usize| (word(leaf + 0x40 + i * 16, 4), word(leaf + 0x44 + i * 16, 2));
    drop(shell);
    image
        .as_file()
        .write_all_at(&[0; 512], leaf as u64)
        .unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let dir = TempDir::new().unwrap();
    for line in [
        "cat /fragmented/whole".to_owned(),
        format!(
            "dump /fragmented/whole {}",
            word_of(&dir.path().join("dump"))
        ),
        format!("rdump /fragmented {}", word_of(dir.path())),
        format!("tar /fragmented -o {}", word_of(&dir.path().join("tar"))),
    ] {
        let said = shell.run(&line);
        assert!(!said.good && said.out.is_empty(), "{line}");
        let name = format!("block {}", leaf / 512);
        assert!(said.err.contains(&name), "{line}: {}", said.err);
    }
    // The other file is there, the damaged one is not.
    assert!(dir.path().join("fragmented/cut").is_file());
    assert!(!dir.path().join("fragmented/whole").exists());
    let said = shell.run("cat -b /fragmented/whole");
    assert!(!said.good && said.out.len() == whole.len());
    // What the leaf maps is lost, and what else differs is not.
    let mut expected = whole;
    for (cpos, clusters) in (0..used).map(record) {
        let from = usize::try_from(cpos * 4096).unwrap();
        let to = usize::try_from((cpos + clusters) * 4096)
            .unwrap()
            .min(expected.len());
        expected[from.min(to)..to].fill(0);
    }
    assert!(said.out == expected);
    let (first, last) = (record(0), record(used - 1));
    let (from, to) = (first.0 * 4096, (last.0 + last.1) * 4096);
    let range = format!("bytes {from} to ");
    assert!(said.err.contains(&range), "{range}: {}", said.err);
    assert!(to > from);
    for line in [
        format!(
            "dump -b /fragmented/whole {}",
            word_of(&dir.path().join("saved"))
        ),
        format!("rdump -b /fragmented/whole {}", word_of(dir.path())),
        format!("tar -b /fragmented -o {}", word_of(&dir.path().join("tar"))),
    ] {
        let said = shell.run(&line);
        assert!(
            !said.good && said.err.contains(&range),
            "{line}: {}",
            said.err
        );
    }
    let unpacked = dir.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let done = Command::new("tar")
        .arg("-C")
        .arg(&unpacked)
        .arg("-xf")
        .arg(dir.path().join("tar"))
        .status();
    assert!(done.unwrap().success());
    for copy in ["saved", "whole", "unpacked/whole"] {
        assert!(
            fs::read(dir.path().join(copy)).unwrap() == expected,
            "{copy}"
        );
    }
}

#[test]
fn a_directory_is_listed_past_a_lost_block() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let blocks = shell.json("dirblocks /many");
    let blocks = blocks["blocks"].as_array().unwrap();
    let lost = blocks[1]["blkno"].as_u64().unwrap();
    let used = |block: &serde_json::Value| {
        let entries = block["entries"].as_array().unwrap();
        entries.iter().filter(|entry| entry["inode"] != 0).count()
    };
    let all: usize = blocks.iter().map(used).sum();
    let kept = all - used(&blocks[1]) - 2;
    drop(shell);
    image
        .as_file()
        .write_all_at(&[0; 4096], lost * 4096)
        .unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let dir = TempDir::new().unwrap();
    let said = shell.run(&format!("rdump {} {}", word(b"many"), word_of(dir.path())));
    assert!(
        !said.good && said.err.contains(&format!("block {lost}")),
        "{}",
        said.err
    );
    assert_eq!(fs::read_dir(dir.path().join("many")).unwrap().count(), kept);
}
