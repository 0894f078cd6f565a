//! What our transactions leave on a volume, judged by fsck.ocfs2: directories that outgrow their
//! inodes and their indexes, imported files, clones, and overwrites that break sharing, on volumes
//! of many geometries.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::os::unix::fs::FileExt;

use cowfs_format::ops;
use cowfs_format::read;
use cowfs_format::toolkit::open;
use cowfs_format::txn::NewInode;
use cowfs_tests::session::{NOW, Session, contents, exercise, find, writable};
use cowfs_tests::{need, oracle};
use mkfs_cowfs::Options;
use tempfile::TempDir;

#[test]
fn fsck_ocfs2_finds_nothing_on_what_we_edit() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    for args in [
        "-M local -b 4096 -C 4096 -N 1 --fs-feature-level=max-features",
        "-M local -b 1024 -C 4096 -N 2 --fs-feature-level=max-features",
        "-M local -b 512 -C 4096 -N 1 -J size=4M --fs-feature-level=max-features",
        "-M local -b 2048 -C 16384 -N 1 --fs-features=metaecc,nousrquota,nogrpquota",
        "-M local -b 4096 -C 1048576 -N 1 --fs-feature-level=max-features",
        "-M local -b 4096 -C 32768 -N 1 --fs-features=noinline-data",
        "-M local -b 1024 -C 4096 -N 1 --fs-features=noindexed-dirs,metaecc",
    ] {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let args: Vec<&str> = args.split(' ').collect();
        oracle::mkfs(&image, 200 << 20, &args).unwrap();
        // What fsck.ocfs2 says of the pristine volume (`DX_TREE_MISSING` of an extent-based system
        // directory) is its own mistake.
        let before = oracle::check(&image).unwrap().codes;
        exercise(&image);
        let report = oracle::check(&image).unwrap();
        assert!(
            report.codes == before && report.finished(),
            "{args:?}: {report:?}"
        );
    }
}

/// 240,000 extents in leaves of 28 are more blocks than the journal of 4 MiB holds.
#[test]
fn a_change_larger_than_the_journal_is_one_transaction() {
    need!(oracle::tools());
    const PIECES: u64 = 240_000;
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    let file = File::create_new(&image).unwrap();
    file.set_len(1300 << 20).unwrap();
    let device = open::writable(&image).unwrap();
    let options = Options {
        block_size: Some(512),
        journal_size: Some(4 << 20),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    drop(device);
    let pieces = dir.path().join("pieces");
    let file = File::create_new(&pieces).unwrap();
    for i in 0..PIECES {
        file.write_all_at(&i.to_le_bytes(), i * 8192).unwrap();
    }
    let file = File::open(&pieces).unwrap();

    let mut volume = writable(&image);
    let root = volume.info().root;
    let new = NewInode::at(NOW, 0o100_644, 0, 0);
    let mut txn = volume.begin().unwrap();
    ops::import_file(&mut txn, root, b"pieces", (&file, "pieces"), &new, &|_| {}).unwrap();
    txn.commit().unwrap();
    volume.reflink("pieces", "clone").unwrap();
    volume.reflink("clone", "again").unwrap();
    drop(volume);
    let report = oracle::check(&image).unwrap();
    // The system directory does not fit into an inode of 512 bytes: see above.
    assert_eq!(report.codes, ["DX_TREE_MISSING"], "{report:?}");
}

/// A clone that gets clusters of its own shares nothing any more, and reads the same.
#[test]
fn an_unshared_clone_is_a_plain_file() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    oracle::mkfs(&image, 200 << 20, &["-M", "local", "--fs-features=metaecc"]).unwrap();
    let expected = exercise(&image);
    let mut volume = writable(&image);
    for name in ["clone 2", "large", "clone 1", "clone 3"] {
        let inode = find(&volume, name).unwrap();
        let mut txn = volume.begin().unwrap();
        ops::unshare(&mut txn, inode).unwrap();
        txn.commit().unwrap();
        let view = volume.view();
        let inode = read::inode::read(view, inode).unwrap();
        let extents = inode.extents(view).unwrap();
        assert!(!extents.iter().any(|extent| extent.is_refcounted()));
        drop(inode);
        assert!(contents(&volume, name) == expected[name], "{name}");
    }
    drop(volume);
    let report = oracle::check(&image).unwrap();
    assert!(report.is_silent() && report.finished(), "{report:?}");
}
