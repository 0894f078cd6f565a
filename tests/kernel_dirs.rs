//! Directories that `fsck.cowfs` lays out anew, with `-D`, with `--name-hash`, or because a name stood there twice,
//! judged by the driver: it lists them, opens every name, removes names and makes others.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cowfs_format::ops;
use cowfs_format::read::{dir, inode};
use cowfs_tests::said::{fsck, silent};
use cowfs_tests::session::{NOW, contents, find, writable};
use cowfs_tests::{Guest, Kernel, need, sum};

/// Names made in a directory from which most are removed again.
const MANY: usize = 480;

/// Names that Linux 6.1 makes a second time, since they are indexed under the hash that it does not look for. An entry
/// has room for the multiple of four bytes that its name needs, and those of some are full.
const TWICE: &[&str] = &[
    "\u{e9}",
    "\u{e9}\u{e9}",
    "\u{e9}t\u{e9}",
    "a\u{e9}\u{e9}\u{e9}b",
    "d\u{e9}j\u{e0} vu, and of some length",
];
/// A directory that is made twice.
const FOLDER: &str = "r\u{e9}pertoire";
/// A file, and a second name of it that is made twice.
const LINKED: &str = "linked";
const LINK: &str = "li\u{e9}";

/// Contents of files, by path.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

fn path(directory: &str, name: impl AsRef<[u8]>) -> Vec<u8> {
    [directory.as_bytes(), b"/", name.as_ref()].concat()
}

/// Names of all kinds: ASCII, UTF-8, bytes that are no text.
fn name(i: usize) -> Vec<u8> {
    let tail = "-and-some-more-of-it".repeat(i % 5);
    match i % 4 {
        0 => format!("file {i}{tail}").into_bytes(),
        1 => format!("\u{e9}t\u{e9} {i}{tail}").into_bytes(),
        2 => format!("{i} \u{65e5}\u{672c}{tail}").into_bytes(),
        _ => [&[0xFF, 0x80][..], i.to_string().as_bytes(), &[0xC3]].concat(),
    }
}

fn twice() -> Vec<String> {
    let longest = "\u{e9}".repeat(127) + "x";
    let all = TWICE.iter().map(|&name| name.to_owned());
    all.chain([longest]).collect()
}

/// A volume with names of all kinds, in one directory with holes, and what is on it.
fn volume(dir: &Path) -> (PathBuf, Files) {
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    let mut files = Files::new();
    for (directory, names) in [("mixed", 80), ("many", MANY), ("few", 60)] {
        let paths = (0..names).map(|i| path(directory, name(i)));
        files.extend(paths.map(|path| (path.clone(), path)));
    }
    let inside = format!("{FOLDER}/inside");
    for name in twice().into_iter().chain([LINKED.to_owned(), inside]) {
        let bytes = format!("first of {name}\n").into_bytes();
        files.insert(path("mixed", name), bytes);
    }
    for (path, bytes) in &files {
        let path = tree.join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mixed = tree.join("mixed");
    fs::hard_link(mixed.join(LINKED), mixed.join(LINK)).unwrap();
    files.insert(path("mixed", LINK), files[&path("mixed", LINKED)].clone());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = "mkfs.cowfs -q --size 32M -b 1K -C 4K -J size=4M -d".split(' ');
    let paths = [tree.as_os_str(), image.as_os_str()];
    let args = args.map(OsStr::new).chain(paths);
    let code = mkfs_cowfs::run(args, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));

    let mut volume = writable(&image);
    let many = find(&volume, "many").unwrap();
    let mut txn = volume.begin().unwrap();
    for i in (0..MANY).filter(|i| i % 4 != i / 4 % 4) {
        ops::unlink(&mut txn, many, &name(i), NOW).unwrap();
        files.remove(&path("many", name(i)));
    }
    txn.commit().unwrap();
    (image, files)
}

/// The codes of what is found on a volume, and how often each is.
fn found(image: &Path) -> BTreeMap<String, usize> {
    let (_, out, err) = fsck(&["-fn", "--json", image.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{err}"));
    let mut codes = BTreeMap::new();
    for finding in report["findings"].as_array().unwrap() {
        *codes
            .entry(finding["code"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    codes
}

fn counted(codes: &[(&str, usize)]) -> BTreeMap<String, usize> {
    codes
        .iter()
        .map(|&(code, n)| (code.to_owned(), n))
        .collect()
}

/// A copy of a volume, which a run of fsck.cowfs with this option changed. What is then told of it is `left`.
fn laid_out(from: &Path, to: &str, option: &str, left: &[(&str, usize)]) -> PathBuf {
    let image = from.with_file_name(to);
    fs::copy(from, &image).unwrap();
    let (code, out, err) = fsck(&["-f", "-y", option, image.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (1, ""), "{option}: {out}");
    assert_eq!(found(&image), counted(left), "{option}");
    if left.is_empty() {
        silent("-fn", &image).unwrap();
    }
    image
}

/// What the driver does on a volume, and what is then there.
struct Work {
    /// Names that it removes.
    gone: Vec<Vec<u8>>,
    /// Names that it makes, with [`AGAIN`] in the file.
    made: Vec<Vec<u8>>,
    after: Files,
}

const AGAIN: &[u8] = b"again\n";

impl Work {
    fn on(files: &Files) -> Self {
        let mut after = files.clone();
        after.retain(|path, _| !path.starts_with(b"few/"));
        let both = |numbers: std::ops::Range<usize>| {
            numbers.flat_map(|i| ["mixed", "many"].map(|directory| path(directory, name(i))))
        };
        let there = both(0..MANY).filter(|path| after.contains_key(path));
        let gone: Vec<Vec<u8>> = there.step_by(3).collect();
        after.retain(|path, _| !gone.contains(path));
        // Only names with one hash are made again: nothing is then left in the index of those.
        let again = gone.iter().filter(|path| path.is_ascii()).step_by(2);
        let made: Vec<Vec<u8>> = again.cloned().chain(both(MANY..MANY + 24)).collect();
        after.extend(made.iter().map(|path| (path.clone(), AGAIN.to_vec())));
        Self { gone, made, after }
    }

    /// How many names with two hashes it removes below a directory.
    fn split(&self, below: &str) -> usize {
        let split = |path: &&Vec<u8>| !path.is_ascii() && path.starts_with(below.as_bytes());
        self.gone.iter().filter(split).count()
    }
}

const FUNCTIONS: &str = r#"
    # judge NAME FILES: every name opens what it should; some are removed and others made, and a whole directory goes.
    judge() {
        mount_vol
        cd $MNT
        sha256sum --quiet -c $IN/$1.before >&2
        xargs -0 rm <$IN/$1.gone
        while IFS= read -r -d '' name; do
            echo again >"$name"
        done <$IN/$1.made
        rm -r few
        umount_vol
        mount_vol
        cd $MNT
        sha256sum --quiet -c $IN/$1.after >&2
        [ "$(find mixed many ! -type d -print0 | tr -dc '\0' | wc -c)" = "$2" ]
        umount_vol
    }

    # twice FOLDER LINKED LINK: what is there and cannot be found is made again.
    twice() {
        mount_vol
        cd $MNT/mixed
        while IFS= read -r name; do
            [ ! -e "$name" ]
            echo "second of $name" >"$name"
        done <$IN/twice
        [ ! -e "$1" ]
        mkdir "$1"
        echo "second of $1/inside" >"$1/inside"
        ln "$2" "$3"
        umount_vol
    }
"#;

/// A guest with what it has to do.
struct Judge {
    guest: Guest,
    script: String,
    disks: u8,
}

impl Judge {
    fn new(guest: Guest) -> Self {
        Self {
            guest,
            script: FUNCTIONS.to_owned(),
            disks: 0,
        }
    }

    fn disk(mut self, image: &Path, command: &str) -> Self {
        let letter = char::from(b'a' + self.disks);
        self.script
            .push_str(&format!("DISK=/dev/vd{letter}; {command}\n"));
        self.disks += 1;
        self.guest = self.guest.disk(image);
        self
    }

    /// Adds a volume with these files.
    fn volume(mut self, image: &Path, files: &Files) -> Self {
        let name = image.file_name().unwrap().to_str().unwrap();
        let list = |paths: &[Vec<u8>]| [paths.join(&0), vec![0]].concat();
        let work = Work::on(files);
        self.guest = self
            .guest
            .file(&format!("{name}.before"), sums(files))
            .file(&format!("{name}.gone"), list(&work.gone))
            .file(&format!("{name}.made"), list(&work.made))
            .file(&format!("{name}.after"), sums(&work.after));
        self.disk(image, &format!("judge {name} {}", work.after.len()))
    }

    fn run(self) {
        let said = self.guest.run(&self.script).unwrap().expect_success();
        assert!(said.kernel_log.is_empty(), "{said}");
    }
}

/// Files as `sha256sum -c` takes them.
fn sums(files: &Files) -> Vec<u8> {
    let line = |(path, bytes): (&Vec<u8>, &Vec<u8>)| {
        [sum::sha256(bytes).as_bytes(), b"  ", path, b"\n"].concat()
    };
    files.iter().flat_map(line).collect()
}

/// What a checker finds on a volume that the driver worked on, and that it can all be settled.
fn settled(image: &Path, left: &[(&str, usize)]) {
    assert_eq!(found(image), counted(left), "{}", image.display());
    laid_out(image, "settled", "--name-hash=both", &[]);
}

/// The names in a directory.
fn names(image: &Path, directory: &str) -> Vec<Vec<u8>> {
    let volume = writable(image);
    let directory = find(&volume, directory).unwrap();
    let directory = inode::read(volume.view(), directory).unwrap();
    let mut names = Vec::new();
    dir::for_each_entry(volume.view(), &directory, &mut |entry| {
        names.push(entry.name.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    names.retain(|name| name != b"." && name != b"..");
    names
}

/// Repairs a volume on which the driver made names twice; what is then on it.
fn repaired(image: &Path, files: &Files) -> Files {
    let twice = twice();
    let duplicates = twice.len() + 2;
    assert_eq!(found(image)["DIRENT_DUPLICATE"], duplicates);
    let path_of = image.to_str().unwrap();
    let (code, out, err) = fsck(&["-fy", path_of]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let once = fs::read(image).unwrap();
    let (code, out, err) = fsck(&["-fy", path_of]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(fs::read(image).unwrap() == once, "bytes changed: {out}");

    let known: BTreeSet<&[u8]> = files
        .keys()
        .filter_map(|path| path.strip_prefix(b"mixed/"))
        .map(|path| path.split(|byte| *byte == b'/').next().unwrap())
        .collect();
    let all = names(image, "mixed");
    let others = all.iter().filter(|name| !known.contains(&name[..]));
    // Of text, another name is text.
    let others: Vec<&str> = others.map(|name| str::from_utf8(name).unwrap()).collect();
    // The link was no other file, and has no other name.
    assert_eq!(others.len(), duplicates - 1, "{others:?}");
    assert_eq!(all.len(), known.len() + others.len());

    let volume = writable(image);
    let inode = |name| find(&volume, &format!("mixed/{name}")).unwrap();
    assert_eq!(inode(LINK), inode(LINKED));
    let mut files = files.clone();
    let mut there = BTreeSet::new();
    for name in twice
        .iter()
        .map(String::as_str)
        .chain([FOLDER])
        .chain(others)
    {
        let inside = format!("{name}/inside");
        let is_folder = find(&volume, &format!("mixed/{inside}")).is_ok();
        let file = if is_folder { inside } else { name.to_owned() };
        let bytes = contents(&volume, &format!("mixed/{file}"));
        there.insert(bytes.clone());
        files.insert(path("mixed", file), bytes);
    }
    let inside = format!("{FOLDER}/inside");
    let wanted = twice.iter().chain([&inside]).flat_map(|name| {
        ["first", "second"].map(|which| format!("{which} of {name}\n").into_bytes())
    });
    assert_eq!(there, wanted.collect());
    files
}

/// Told of a volume on which names have one hash only.
const ONE_HASH: (&str, usize) = ("X_DX_ONE_HASH", 1);

#[test]
fn linux_agrees_with_directories_that_are_laid_out_anew() {
    let (old, new) = (
        need!(Guest::new(Kernel::V6_1)),
        need!(Guest::new(Kernel::V6_12)),
    );
    let dir = tempfile::tempdir().unwrap();
    let (image, files) = volume(dir.path());
    let packed = laid_out(&image, "packed", "-D", &[]);
    let size = |image| {
        let volume = writable(image);
        let many = find(&volume, "many").unwrap();
        inode::read(volume.view(), many).unwrap().i_size.get()
    };
    assert!(size(&packed) * 2 < size(&image), "{}", size(&packed));
    let signed = laid_out(&packed, "signed", "--name-hash=signed", &[ONE_HASH]);
    let unsigned = laid_out(&packed, "unsigned", "--name-hash=unsigned", &[ONE_HASH]);
    let both = laid_out(&signed, "both", "--name-hash=both", &[]);
    let copy = |image: &Path, name| {
        let copy = image.with_file_name(name);
        fs::copy(image, &copy).unwrap();
        copy
    };
    let (also_both, made_twice) = (copy(&both, "also-both"), copy(&unsigned, "made-twice"));
    let mut judge = Judge::new(old)
        .volume(&signed, &files)
        .volume(&both, &files)
        .disk(
            &made_twice,
            &format!("twice '{FOLDER}' '{LINKED}' '{LINK}'"),
        );
    judge.guest = judge.guest.file("twice", twice().join("\n") + "\n");
    judge.run();
    // Of the two entries of a name that it removes the driver takes out the one that it looks for.
    let work = Work::on(&files);
    let left = [ONE_HASH, ("X_DX_LEFT", work.split("m"))];
    settled(&signed, &[ONE_HASH]);
    settled(&both, &left);

    let twice_files = repaired(&made_twice, &files);
    Judge::new(new)
        .volume(&unsigned, &files)
        .volume(&also_both, &files)
        .volume(&made_twice, &twice_files)
        .run();
    settled(&unsigned, &[ONE_HASH]);
    settled(&also_both, &left);
    // The repair made one of the indexes anew, under both hashes.
    let left = [ONE_HASH, ("X_DX_LEFT", work.split("mixed/"))];
    settled(&made_twice, &left);
}
