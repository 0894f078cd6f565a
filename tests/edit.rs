//! What our transactions leave on a volume, judged by fsck.ocfs2: directories that outgrow their
//! inodes and their indexes, imported files, clones, and overwrites that break sharing, on volumes
//! of many geometries.
#![allow(clippy::unwrap_used)] // A test may panic.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use cowfs_format::device::FileDevice;
use cowfs_format::layout::FileType;
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::{file::FileReader, inode};
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};
use cowfs_tests::{oracle, skip};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp {
    seconds: 1_700_000_000,
    nanos: 5,
};

fn writable(image: &Path) -> Volume<FileDevice> {
    let mut volume = Volume::open(open::writable(image).unwrap()).unwrap();
    volume.recover().unwrap();
    volume
}

fn find(volume: &Volume<FileDevice>, name: &str) -> BlockNo {
    path::resolve(volume.view(), volume.info().root, name.as_bytes()).unwrap()
}

fn contents(volume: &Volume<FileDevice>, name: &str) -> Vec<u8> {
    let view = volume.view();
    let inode = inode::read(view, find(volume, name)).unwrap();
    let reader = FileReader::open(view, &inode).unwrap();
    let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Bytes that no two offsets nearby share.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes()[0])
        .collect()
}

fn host_file(dir: &TempDir, bytes: &[u8]) -> File {
    let path = dir.path().join("source");
    std::fs::File::create(&path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
    File::open(path).unwrap()
}

/// The work that every volume is put through.
fn exercise(image: &Path) {
    let dir = TempDir::new().unwrap();
    let mut volume = writable(image);
    let root = volume.info().root;
    let regular = NewInode::at(NOW, 0o100_644, 1000, 100);
    let directory = NewInode::at(NOW, 0o040_755, 1000, 100);

    // Names: a directory that outgrows its inode, its first block, and the root of its index.
    let mut txn = volume.begin().unwrap();
    let names = txn.make_directory(root, b"names", &directory).unwrap();
    txn.commit().unwrap();
    for batch in 0..12 {
        let mut txn = volume.begin().unwrap();
        for i in 0..40 {
            let name = match i % 3 {
                0 => format!("file {batch}-{i}"),
                1 => format!("\u{e9}t\u{e9} {batch}-{i}"),
                _ => format!("{}-{batch}-{i}", "long".repeat(20)),
            };
            let inode = txn.new_inode(&regular).unwrap();
            txn.add_name(names, name.as_bytes(), inode, FileType::Regular, NOW)
                .unwrap();
        }
        txn.commit().unwrap();
    }
    for i in [0, 3, 39] {
        find(&volume, &format!("/names/file 11-{i}"));
    }
    find(&volume, "/names/\u{e9}t\u{e9} 3-1");

    // Contents: inline, one cluster, many clusters with a hole.
    for (name, len) in [("tiny", 10), ("small", 3000), ("large", 3_000_000)] {
        let bytes = pattern(len, 1);
        let file = host_file(&dir, &bytes);
        let mut txn = volume.begin().unwrap();
        ops::import_file(
            &mut txn,
            root,
            name.as_bytes(),
            (&file, name),
            &regular,
            &|_| {},
        )
        .unwrap();
        txn.commit().unwrap();
        assert_eq!(contents(&volume, name), bytes, "{name}");
    }

    // Clones of clones, then overwrites in each.
    let options = CloneOptions {
        preserve: true,
        uid: 0,
        gid: 0,
        now: NOW,
    };
    for (from, to) in [
        ("large", "clone 1"),
        ("large", "clone 2"),
        ("clone 1", "clone 3"),
        ("tiny", "tiny 2"),
    ] {
        let source = find(&volume, from);
        let mut txn = volume.begin().unwrap();
        ops::clone_file(&mut txn, source, root, to.as_bytes(), &options).unwrap();
        txn.commit().unwrap();
    }
    let mut expected = vec![pattern(3_000_000, 1); 4];
    let files = ["large", "clone 1", "clone 2", "clone 3"];
    for (round, (which, offset, len)) in [
        (1, 1_500_000, 10),
        (1, 0, 4096),
        (2, 2_999_990, 200_000),
        (0, 100, 2_000_000),
        (3, 5_000_000, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = pattern(len, 100 + round as u64);
        let model: &mut Vec<u8> = &mut expected[which];
        model.resize(model.len().max(offset + len), 0);
        model[offset..offset + len].copy_from_slice(&bytes);
        let inode = find(&volume, files[which]);
        let source = host_file(&dir, &bytes);
        let mut txn = volume.begin().unwrap();
        ops::overwrite(
            &mut txn,
            inode,
            offset as u64,
            (&source, "source"),
            NOW,
            &|_| {},
        )
        .unwrap();
        txn.commit().unwrap();
    }
    for (name, bytes) in files.iter().zip(&expected) {
        assert!(contents(&volume, name) == *bytes, "{name}");
    }
}

#[test]
fn fsck_ocfs2_finds_nothing_on_what_we_edit() {
    if skip::value_or_record("fsck_ocfs2_finds_nothing_on_what_we_edit", oracle::tools()).is_none()
    {
        return;
    }
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
