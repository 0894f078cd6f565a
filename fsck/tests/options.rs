//! Options that change what a run does or may take: signals, memory, one object only, packing,
//! hashes of names.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use cowfs_format::device::{FileDevice, MmapDevice};
use cowfs_format::error::Error;
use cowfs_format::layout::{Dinode, DxRoot, HashKind, dx_hash, hash_is_split};
use cowfs_format::ops;
use cowfs_format::read::{dir, dx, inode};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};
use cowfs_tests::said::{fsck, silent};
use cowfs_tests::session::{NOW, Session, pattern, writable};
use cowfs_tests::{golden, oracle};

fn mkfs(args: &[&str]) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["mkfs.cowfs", "-q"].iter().chain(args);
    let code = mkfs_cowfs::run(args, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
}

fn opened(path: &str) -> Volume<MmapDevice> {
    Volume::open(MmapDevice::new(&File::open(path).unwrap()).unwrap()).unwrap()
}

fn found(volume: &Volume<MmapDevice>, name: &str) -> BlockNo {
    path::resolve(volume.view(), volume.info().root, name.as_bytes()).unwrap()
}

/// A golden image with the link counts of some files made wrong, and its path.
fn with_wrong_counts(paths: &[&str]) -> (tempfile::NamedTempFile, String) {
    let file = golden::open("b1k-c4k-default").unwrap();
    let name = file.path().to_str().unwrap().to_owned();
    let volume = opened(&name);
    let links = Dinode::FIELDS
        .iter()
        .find(|field| field.name == "i_links_count")
        .unwrap();
    for path in paths {
        let at = volume.info().geo.byte_of(found(&volume, path)) + links.offset as u64;
        file.as_file().write_all_at(&[77, 0], at).unwrap();
    }
    (file, name)
}

/// A run that is interrupted ends soon, says so with its status, and has written nothing.
#[test]
fn an_interrupted_run_leaves_the_volume_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v").to_str().unwrap().to_owned();
    // Some 16,000 groups to look at.
    mkfs(&["--size", "2T", "-J", "size=4M", &path]);
    let file = File::options().write(true).read(true).open(&path).unwrap();
    let root = found(&opened(&path), "/");
    file.write_all_at(&[77, 0], root.0 * 4096 + 0x2A).unwrap();
    let before = file.metadata().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fsck-cowfs"))
        .args(["-fy", "--threads", "1", "-C", "2", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.split(' ').count(), 4, "{line}");
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let sent = Instant::now();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(status.code(), Some(32), "{said}");
    assert!(sent.elapsed().as_secs() < 20);
    assert!(said.contains("cancelled"), "{said}");
    let after = file.metadata().unwrap();
    let times = |of: &std::fs::Metadata| (of.mtime(), of.mtime_nsec(), of.blocks());
    assert_eq!(times(&before), times(&after));
    let mut links = [0; 2];
    file.read_exact_at(&mut links, root.0 * 4096 + 0x2A)
        .unwrap();
    assert_eq!(links, [77, 0]);
}

/// What does not fit is refused in a line that tells what to do, and nothing is written.
#[test]
fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v").to_str().unwrap().to_owned();
    mkfs(&["--size", "2T", "-J", "size=4M", &path]);
    for mode in ["-fn", "-fy"] {
        // The two bits of each of 2^29 clusters are 128 MiB.
        let (code, out, err) = fsck(&[mode, "--max-memory", "100M", &path]);
        assert_eq!((code, out.as_str()), (8, ""), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(
            err.contains("--max-memory") && err.contains("100 MiB"),
            "{err}"
        );
    }
    let image = golden::open("b4k-c4k-max").unwrap();
    let path = image.path().to_str().unwrap();
    assert_eq!(fsck(&["-fn", "--max-memory", "4G", path]).0, 0);
}

#[test]
fn only_one_object_is_repaired() {
    let (_file, path) = with_wrong_counts(&["/holes/only", "/holes/middle"]);
    let codes = |args: &[&str]| {
        let (code, out, err) = fsck(&[&["--json"], args, &[&path]].concat());
        assert_eq!(err, "", "{out}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let inodes = report["findings"].as_array().unwrap().iter();
        let inodes: Vec<u64> = inodes.map(|item| item["inode"].as_u64().unwrap()).collect();
        (code, inodes)
    };
    let volume = opened(&path);
    let (one, two) = (
        found(&volume, "/holes/only").0,
        found(&volume, "/holes/middle").0,
    );
    drop(volume);
    assert_eq!(codes(&["-fn"]), (4, vec![one.min(two), one.max(two)]));
    assert_eq!(codes(&["-n", "--only", "/holes/middle"]), (4, vec![two]));
    assert_eq!(codes(&["-n", "--only", "/"]), (0, vec![]));
    assert_eq!(codes(&["-y", "--only", &two.to_string()]), (1, vec![two]));
    assert_eq!(codes(&["-fn"]), (4, vec![one]));
    let (code, _, err) = fsck(&["-n", "--only", "/absent", &path]);
    assert_eq!((code, err.lines().count()), (8, 1), "{err}");
    let (code, _, err) = fsck(&["-n", "--only", "99999999", &path]);
    assert_eq!((code, err.lines().count()), (8, 1), "{err}");
}

/// A file that cannot be written, seen by somebody who is nobody.
#[test]
fn looking_needs_no_rights_but_reading() {
    let dir = tempfile::tempdir().unwrap();
    let image = golden::open("b4k-c4k-max").unwrap();
    let path = dir.path().join("v");
    std::fs::copy(image.path(), &path).unwrap();
    let mode = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    mode(&path, 0o444);
    // The program itself may lie where nobody may look.
    let program = dir.path().join("fsck.cowfs");
    std::fs::copy(env!("CARGO_BIN_EXE_fsck-cowfs"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    if !command
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        command = Command::new(&program);
    } else {
        command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program);
    }
    let done = command.arg("-fn").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}");
}

#[test]
fn a_run_tells_what_it_used() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let path = image.path().to_str().unwrap();
    let (_, out, _) = fsck(&["-fnt", path]);
    assert!(out.lines().last().unwrap().contains(" s, "), "{out}");
    assert!(!out.contains("pass 2"), "{out}");
    let (_, out, _) = fsck(&["-fntt", path]);
    assert!(out.contains("pass 2 (inodes): "), "{out}");
    let (_, json, _) = fsck(&["-fntt", "--json", path]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["facts"]["used"]["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["facts"]["used"]["passes"].as_array().unwrap().len() > 3);
}

/// How many names of a directory a driver of each kind finds.
fn reachable(path: &str, directory: &str) -> (usize, usize, usize) {
    let volume = opened(path);
    let view = volume.view();
    let directory = inode::read(view, found(&volume, directory)).unwrap();
    let root = BlockNo(directory.i_dx_root.get());
    let (mut names, mut old, mut new) = (0, 0, 0);
    dir::for_each_area(view, &directory, &mut |area| {
        let area = area.unwrap();
        for entry in dir::entries(area.bytes).map(Result::unwrap) {
            if !entry.is_used() || !hash_is_split(entry.name) {
                continue;
            }
            let finds = |kind| {
                let hash = dx_hash(entry.name, view.info().dx_seed, kind);
                let blocks = dx::find(view, root, hash).unwrap();
                usize::from(blocks.contains(&area.block.unwrap()))
            };
            names += 1;
            old += finds(HashKind::Signed);
            new += finds(HashKind::Unsigned);
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    (names, old, new)
}

/// Each hash that is asked for leads to all names, and the other to none.
#[test]
fn names_are_indexed_under_the_hashes_that_are_wanted() {
    let image = golden::open("mixed-hashes").unwrap();
    let path = image.path().to_str().unwrap();
    let (code, out, _) = fsck(&["-fn", path]);
    assert_eq!(code, 0);
    assert!(
        out.contains("[X_DX_MIXED_HASH]") && out.contains("(/foreign)"),
        "{out}"
    );
    let (names, old, new) = reachable(path, "/foreign");
    assert!(names > 100 && old > 0 && new > 0 && old + new == names);
    for (which, old, new) in [("both", 1, 1), ("signed", 1, 0), ("unsigned", 0, 1)] {
        let option = format!("--name-hash={which}");
        let (code, out, err) = fsck(&[&option, path]);
        assert_eq!((code, err.as_str()), (1, ""), "{out}");
        assert_eq!(
            reachable(path, "/foreign"),
            (names, names * old, names * new),
            "{which}"
        );
        assert_eq!(
            fsck(&[&option, path]).0,
            0,
            "{which}: a second run has nothing to do"
        );
        let (code, out, _) = fsck(&["-fn", path]);
        assert_eq!(code, 0, "{out}");
        assert_eq!(out.contains("[X_DX_ONE_HASH]"), which != "both", "{out}");
        assert!(!out.contains("[X_DX_MIXED_HASH]"), "{out}");
    }
}

/// A directory in which nearly all names were removed: -D gives its blocks back, once.
#[test]
fn directories_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v").to_str().unwrap().to_owned();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("many")).unwrap();
    for i in 0..600 {
        std::fs::write(tree.join(format!("many/a rather long name {i}")), "").unwrap();
    }
    mkfs(&["--size", "64M", "-d", tree.to_str().unwrap(), &path]);
    let blocks = || {
        let volume = opened(&path);
        let many = inode::read(volume.view(), found(&volume, "/many")).unwrap();
        many.i_size.get() / 4096
    };
    let before = blocks();
    assert!(before > 5);
    assert_eq!(fsck(&["-fyD", &path]).0, 0, "they are full");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut volume = Volume::open(FileDevice::new(file).unwrap()).unwrap();
    let many = path::resolve(volume.view(), volume.info().root, b"/many").unwrap();
    let now = Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    };
    let mut txn = volume.begin().unwrap();
    for i in (0..600).filter(|i| i % 10 != 0) {
        let name = format!("a rather long name {i}");
        ops::unlink(&mut txn, many, name.as_bytes(), now).unwrap();
    }
    txn.commit().unwrap();
    drop(volume);
    assert_eq!(blocks(), before);
    let (code, out, err) = fsck(&["-fyD", "--json", &path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["facts"]["directories_packed"], 1);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0);
    assert!(blocks() * 5 < before, "{} of {before}", blocks());
    assert_eq!(fsck(&["-fyD", &path]).0, 0);
    let volume = opened(&path);
    for i in (0..600).step_by(10) {
        found(&volume, &format!("/many/a rather long name {i}"));
    }
}

/// A name with two entries in the index is one name: the driver removes a directory only when two are counted, its own
/// and its parent's, and it takes off one for each that it removes.
#[test]
fn names_count_once_in_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v").to_str().unwrap().to_owned();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("many")).unwrap();
    for i in 0..60 {
        let name = format!("many/a rather long n\u{e4}me {i}");
        std::fs::write(tree.join(name), "").unwrap();
    }
    let features = "--fs-features=nometaecc";
    mkfs(&[
        features,
        "--size",
        "24M",
        "-b",
        "1K",
        "-d",
        tree.to_str().unwrap(),
        &path,
    ]);
    assert_eq!(reachable(&path, "/many"), (60, 60, 60));
    let root = {
        let volume = opened(&path);
        let many = inode::read(volume.view(), found(&volume, "/many")).unwrap();
        many.i_dx_root.get()
    };
    let at = DxRoot::FIELDS
        .iter()
        .find(|field| field.name == "dr_num_entries")
        .unwrap();
    let at = root * 1024 + at.offset as u64;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let counted = || {
        let mut count = [0; 4];
        file.read_exact_at(&mut count, at).unwrap();
        u32::from_le_bytes(count)
    };
    assert_eq!(counted(), 62);
    file.write_all_at(&122_u32.to_le_bytes(), at).unwrap();
    let (code, out, _) = fsck(&["-fn", &path]);
    assert_eq!(code, 4);
    assert!(out.contains("[X_DX_NUM_ENTRIES]"), "{out}");
    assert_eq!(fsck(&["-fy", &path]).0, 1);
    silent("-fn", Path::new(&path)).unwrap();
}

/// Fills a volume to its last cluster; what it was filled with.
fn fill(path: &str, prefix: &str) -> Vec<String> {
    let mut volume = writable(Path::new(path));
    let mut names = Vec::new();
    for len in [1 << 20, 1 << 16, 4096] {
        loop {
            let name = format!("{prefix} {}", names.len());
            match volume.write(&name, &pattern(len, 1)) {
                Ok(()) => names.push(name),
                Err(Error::NoSpace { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    names
}

fn remove(path: &str, names: &[String]) {
    let mut volume = writable(Path::new(path));
    let root = volume.info().root;
    let mut txn = volume.begin().unwrap();
    for name in names {
        ops::unlink(&mut txn, root, name.as_bytes(), NOW).unwrap();
    }
    txn.commit().unwrap();
}

/// A directory that lost its index, and got none again for want of room, has one again after -D.
#[test]
fn directories_are_indexed_once_there_is_room() {
    cowfs_tests::need!(oracle::tools());
    // Blocks end with a trailer on the first, and only in indexed directories on the second.
    for features in ["metaecc", "nometaecc"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v").to_str().unwrap().to_owned();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("many")).unwrap();
        let name = |i| format!("a rather long n\u{e4}me {i}");
        for i in 0..400 {
            std::fs::write(tree.join("many").join(name(i)), "").unwrap();
        }
        let features = format!("--fs-features={features}");
        let sizes = "--size 24M -b 1K -C 4K -J size=4M -d".split(' ');
        let rest = [features.as_str(), tree.to_str().unwrap(), &path];
        let (first, rest) = rest.split_at(1);
        mkfs(&[first, &sizes.collect::<Vec<_>>(), rest].concat());
        let root = || {
            let volume = opened(&path);
            let many = inode::read(volume.view(), found(&volume, "/many")).unwrap();
            many.i_dx_root.get()
        };
        let run = |options: &str| {
            let (code, out, err) = fsck(&[options, "--json", &path]);
            let report: serde_json::Value = serde_json::from_str(&out).expect(&err);
            (code, report["facts"].clone())
        };

        let mut filled = fill(&path, "first");
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 1024], root() * 1024).unwrap();
        assert_eq!((run("-fy").0, root()), (1, 0), "it has an index");
        // What its index had is free now.
        let more = fill(&path, "more");
        assert!(!more.is_empty());
        filled.extend(more);
        let (_, facts) = run("-fyD");
        assert_eq!((&facts["directories_without_room"], root()), (&1.into(), 0));

        remove(&path, &filled);
        let more: Vec<Vec<u8>> = (400..450).map(|i| name(i).into_bytes()).collect();
        writable(Path::new(&path)).touch("many", &more).unwrap();
        let (code, facts) = run("-fyD");
        assert_eq!(
            (code, &facts["directories_indexed"]),
            (1, &1.into()),
            "{facts}"
        );
        assert!(root() != 0);
        silent("-fn", Path::new(&path)).unwrap();
        assert_eq!(run("-fyD").0, 0, "a second run has nothing to do");
        let report = oracle::check(Path::new(&path)).unwrap();
        assert!(report.is_silent(), "{features}: {report:?}");
        let volume = opened(&path);
        for i in 0..450 {
            found(&volume, &format!("/many/{}", name(i)));
        }
    }
}

/// What is said with `--json` is what the schema tells of. The judge is a validator that others wrote.
#[test]
fn reports_are_as_the_schema_says() {
    let (code, schema, _) = fsck(&["--json-schema"]);
    assert_eq!(code, 0);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert!(schema["properties"]["findings"]["items"]["properties"]["code"]["enum"].is_array());
    let judge = jsonschema::validator_for(&schema).unwrap();
    let (_file, path) = with_wrong_counts(&["/holes/only"]);
    let mixed = golden::open("mixed-hashes").unwrap();
    let mixed = mixed.path().to_str().unwrap();
    for args in [
        &["-n", &path][..],
        &["-fn", &path],
        &["-fntt", &path],
        &["-fy", &path],
        &["-fn", mixed],
    ] {
        let (_, out, err) = fsck(&[&["--json"], args].concat());
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let wrong: Vec<String> = judge.iter_errors(&report).map(|e| e.to_string()).collect();
        assert!(wrong.is_empty(), "{args:?}: {wrong:?} {err}");
    }
    let wrong = serde_json::json!({ "schema": 1, "findings": [{ "code": "NO_SUCH_CODE" }] });
    assert!(!judge.is_valid(&wrong));
}
