//! `reflink.cowfs clone` as users meet it: on volumes that the driver filled, with attributes in
//! all places, refused where it must be refused; judged by fsck.ocfs2, fsck.cowfs and the driver.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cowfs_format::toolkit::open;
use cowfs_format::volume::Volume;
use cowfs_tests::golden::Golden;
use cowfs_tests::session::contents;
use cowfs_tests::{Entry, Guest, Kernel, golden, need, oracle, sum};

/// Runs the program; its exit status, stdout and stderr.
fn reflink(args: &[&OsStr]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("reflink.cowfs".as_ref()).chain(args.iter().copied());
    let code = reflink_cowfs::run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(err))
}

fn clone(image: &Path, options: &str, source: &[u8], target: &[u8]) -> (u8, String, String) {
    let mut args: Vec<&OsStr> = vec!["clone".as_ref()];
    args.extend(options.split_whitespace().map(OsStr::new));
    args.extend([
        image.as_os_str(),
        OsStr::from_bytes(source),
        OsStr::from_bytes(target),
    ]);
    reflink(&args)
}

fn fsck_cowfs(image: &Path) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    (
        code,
        String::from_utf8_lossy(&[out, err].concat()).into_owned(),
    )
}

fn golden_named(name: &str) -> Golden {
    golden::all()
        .unwrap()
        .into_iter()
        .find(|golden| golden.name == name)
        .unwrap()
}

/// Clones regular files of a golden volume, each to `/clone-N` with all that can be kept; which
/// entry went to which clone. Those with attributes first.
fn clone_files<'g>(image: &Path, walk: &'g [Entry], most: usize) -> BTreeMap<String, &'g Entry> {
    let mut files: Vec<&Entry> = walk.iter().filter(|entry| entry.kind == 'f').collect();
    files.sort_by_key(|entry| {
        (
            std::cmp::Reverse(entry.xattrs.len()),
            std::cmp::Reverse(entry.size),
        )
    });
    files.truncate(most);
    let mut clones = BTreeMap::new();
    for (i, entry) in files.into_iter().enumerate() {
        let target = format!("clone-{i}");
        let source = [b"/", &entry.path[..]].concat();
        let (code, _, err) = clone(image, "-p -q", &source, format!("/{target}").as_bytes());
        assert_eq!(code, 0, "{}: {err}", String::from_utf8_lossy(&source));
        clones.insert(target, entry);
    }
    clones
}

#[test]
fn clones_of_what_the_driver_wrote_leave_both_checkers_silent() {
    need!(oracle::tools());
    for name in [
        "b512-c4k-max",
        "b1k-c4k-default",
        "b2k-c8k-max",
        "b4k-c32k-default",
        "b4k-c1m-max",
    ] {
        let golden = golden_named(name);
        let image = golden.open().unwrap();
        let seen = golden.seen().unwrap().unwrap();
        // What fsck.ocfs2 says of the image as it came is recorded, and is its own mistake.
        let before = oracle::check(image.path()).unwrap().codes;
        let clones = clone_files(image.path(), &seen.walk, 40);
        assert!(clones.len() > 2, "{name}");
        let after = oracle::check(image.path()).unwrap();
        let mut known = after.codes.clone();
        known.retain(|code| !before.contains(code));
        assert!(known.is_empty() && after.finished(), "{name}: {after:?}");
        assert_eq!(
            fsck_cowfs(image.path()).0,
            0,
            "{name}: {:?}",
            fsck_cowfs(image.path())
        );
        let volume = Volume::open(open::read_only(image.path()).unwrap()).unwrap();
        for (clone, entry) in clones {
            let bytes = contents(&volume, &clone);
            assert_eq!(
                sum::sha256(&bytes).as_bytes(),
                entry.payload,
                "{name}: {clone}"
            );
        }
    }
}

#[test]
fn the_driver_sees_clones_as_their_sources() {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    for name in ["b2k-c8k-max", "b4k-c4k-max"] {
        let golden = golden_named(name);
        let image = golden.open().unwrap();
        let seen = golden.seen().unwrap().unwrap();
        let clones = clone_files(image.path(), &seen.walk, 60);
        let script = "mount_vol; walk_vol seen; rm $MNT/clone-[0-4]; umount_vol";
        let guest = Guest::new(Kernel::V6_1).unwrap().disk(image.path());
        let said = guest.run(script).unwrap().expect_success();
        assert!(said.kernel_log.is_empty(), "{said}");
        let walk = said.walk("seen").unwrap();
        for (clone, entry) in clones {
            let found = walk.iter().find(|e| e.path == clone.as_bytes()).unwrap();
            let kept = |e: &Entry| {
                (
                    e.mode,
                    e.uid,
                    e.gid,
                    e.size,
                    e.mtime.clone(),
                    e.payload.clone(),
                    e.xattrs.clone(),
                )
            };
            assert!(
                kept(found) == kept(entry),
                "{name}: {found:?} is no clone of {entry:?}"
            );
        }
        let (code, said) = fsck_cowfs(image.path());
        assert_eq!(code, 0, "{name}: {said}");
    }
    drop(guest);
}

#[test]
fn a_refused_clone_changes_nothing() {
    let golden = golden_named("b4k-c4k-max");
    let image = golden.open().unwrap();
    let seen = golden.seen().unwrap().unwrap();
    let before = std::fs::read(image.path()).unwrap();
    let file = seen
        .walk
        .iter()
        .find(|entry| entry.kind == 'f' && entry.size > 5000)
        .unwrap();
    let source = [b"/", &file.path[..]].concat();
    let long = [b"/", &[b'x'; 256][..]].concat();
    for (options, source, target, says) in [
        ("", &b"/absent"[..], &b"/x"[..], "no such file"),
        ("", &source, &source, "same file"),
        ("", &source, b"/absent/x", "no such file"),
        ("", b"/", b"/x", "into itself"),
        ("", b"//global_bitmap", b"/x", "only files of users"),
        ("", b"<2>", b"/x", ""),
        ("", b"<99999999999>", b"/x", "outside of the volume"),
        ("", &source, &long, "255"),
        ("-n", &source, b"/x", ""),
    ] {
        let (code, out, err) = clone(image.path(), options, source, target);
        assert_eq!(code, u8::from(options != "-n"), "{out}{err}");
        assert!(
            err.contains(says) && err.lines().count() <= 1,
            "{says}: {err}"
        );
        assert!(std::fs::read(image.path()).unwrap() == before, "{says}");
    }
}

#[test]
fn a_clone_into_a_directory_keeps_its_name() {
    let image = golden_named("b4k-c4k-max").open().unwrap();
    let (code, _, err) = clone(image.path(), "", b"/links/a", b"/");
    assert_eq!(code, 0, "{err}");
    let volume = Volume::open(open::read_only(image.path()).unwrap()).unwrap();
    assert_eq!(contents(&volume, "/a"), contents(&volume, "/links/a"));
}

#[test]
fn what_is_no_volume_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let cut = dir.path().join("cut");
    let whole = std::fs::read(golden_named("b4k-c4k-max").open().unwrap().path()).unwrap();
    std::fs::write(&cut, &whole[..1 << 20]).unwrap();
    for volume in [
        dir.path(),
        &empty,
        &cut,
        &dir.path().join("absent"),
        Path::new("/dev/null"),
    ] {
        let (code, out, err) = clone(volume, "", b"/a", b"/b");
        assert_eq!((code, out.as_str()), (1, ""), "{}", volume.display());
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(&volume.display().to_string()), "{err}");
    }
    // A volume without refcount trees can share nothing.
    let golden = golden_named("b512-c4k-compat");
    let image = golden.open().unwrap();
    let (code, _, err) = clone(image.path(), "", b"/plain", b"/x");
    assert_eq!(code, 1);
    assert!(err.contains("refcount feature"), "{err}");
}

/// A node whose heartbeat changes is alive; one that is silent is not waited for forever; and of one
/// that heartbeats elsewhere nothing can be known. The places are asked of debugfs.ocfs2.
#[test]
fn a_volume_that_a_node_of_a_cluster_has_mounted_is_not_written() {
    need!(oracle::tools());
    let image = golden_named("o2cb-named").open().unwrap();
    let place = |name: &str| {
        let stat = oracle::debugfs(image.path(), &format!("stat //{name}")).unwrap();
        let extents = stat.split_once("Block#").unwrap().1;
        let row = extents.lines().nth(1).unwrap();
        let block: u64 = row.split_whitespace().nth(3).unwrap().parse().unwrap();
        block * 1024
    };
    let (slot_map, heartbeat) = (place("slot_map"), place("heartbeat"));
    let write = |at: u64, bytes: &[u8]| {
        let file = std::fs::File::options().write(true).open(image.path());
        file.unwrap().write_all_at(bytes, at).unwrap();
    };
    // Slot 1: valid, node 7; and its record, of a moment long ago.
    write(slot_map + 8, &[1, 0, 0, 0, 7, 0, 0, 0]);
    let record = [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1];
    write(heartbeat + 7 * 512, &record);
    let seen = oracle::debugfs(image.path(), "slotmap").unwrap();
    assert!(seen.contains('7'), "{seen}");
    let hash = || sum::sha256(&std::fs::read(image.path()).unwrap());
    std::thread::scope(|scope| {
        let beating = scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(2));
            write(heartbeat + 7 * 512, &[2]);
        });
        let (code, _, err) = clone(image.path(), "", b"/lost+found", b"/x");
        beating.join().unwrap();
        assert_eq!(code, 1);
        assert!(err.contains("node 7 is alive"), "{err}");
        assert!(err.contains("mounted in slot 1"), "{err}");
    });
    // As it was, but for the heartbeat.
    write(heartbeat + 7 * 512, &[1]);
    let before = hash();
    // The record is silent for long enough, and then it is only that a directory is no file.
    let (code, _, err) = clone(image.path(), "", b"/lost+found", b"/x");
    assert_eq!(code, 1);
    assert!(!err.contains("node 7"), "{err}");
    // Slot 1 is free again, and the checker says what it said of the image as it was made.
    assert_ne!(hash(), before);
    let report = oracle::check(image.path()).unwrap();
    assert_eq!(report.codes, ["DX_TREE_MISSING"]);
}

#[test]
fn the_result_is_told_as_json() {
    let golden = golden_named("b4k-c4k-max");
    let image = golden.open().unwrap();
    let seen = golden.seen().unwrap().unwrap();
    let file = seen
        .walk
        .iter()
        .find(|entry| entry.kind == 'f' && entry.size > 50_000)
        .unwrap();
    let source = [b"/", &file.path[..]].concat();
    let (code, out, _) = clone(image.path(), "--json", &source, b"/x");
    assert_eq!(code, 0);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&value["schema"], &value["size_bytes"]),
        (&1.into(), &file.size.into())
    );
    assert_eq!(value["clones"][0]["source_inode"], file.inode);
    let (code, out, _) = clone(image.path(), "--json", &source, b"/x");
    assert_eq!(code, 1);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value["error"].as_str().unwrap().contains("exists"));
}
