//! What our transactions leave on a volume, judged by fsck.ocfs2: directories that outgrow their
//! inodes and their indexes, imported files, clones, and overwrites that break sharing, on volumes
//! of many geometries.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use cowfs_format::device::Device;
use cowfs_format::layout::Dinode;
use cowfs_format::layout::{DxRoot, FileType, RoCompat};
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::{self, file::FileReader};
use cowfs_format::toolkit::open;
use cowfs_format::txn::NewInode;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_tests::session::{NOW, Session, contents, exercise, find, source, writable};
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

/// Usage of an id in a global quota file, by a walk down its tree: bytes and inodes.
fn quota_of<D: Device>(volume: &Volume<D>, file: SystemFile, id: u32) -> (u64, u64) {
    let view = volume.view();
    let inode = read::inode::read(view, system::find(view, file).unwrap()).unwrap();
    let reader = FileReader::open(view, &inode).unwrap();
    let size = view.geo().block_bytes();
    let block = |number: u32| {
        let mut bytes = vec![0; size];
        let at = u64::from(number) * size as u64;
        reader.read_at(at, &mut bytes).unwrap();
        bytes
    };
    // Every tree block of 4 KiB has 1,022 references, and four levels reach all ids.
    assert_eq!(size, 4096);
    let mut node = 1;
    for below in [1022u32.pow(3), 1022u32.pow(2), 1022, 1] {
        let at = usize::try_from(id / below % 1022).unwrap() * 4;
        node = u32::from_le_bytes(block(node)[at..at + 4].try_into().unwrap());
        if node == 0 {
            return (0, 0);
        }
    }
    let leaf = block(node);
    let entry = leaf[16..size - 8]
        .chunks_exact(88)
        .find(|entry| entry[..4] == id.to_le_bytes() && entry.iter().any(|b| *b != 0))
        .unwrap();
    let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
    (number(0x30), number(0x18))
}

/// What Linux charges: the clusters of the data and of directory indexes, and the inodes.
#[test]
fn usage_is_charged_as_the_driver_charges_it() {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    File::create_new(&image)
        .unwrap()
        .set_len(200 << 20)
        .unwrap();
    let mut options = Options {
        block_size: Some(4096),
        ..Options::default()
    };
    options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    mkfs_cowfs::format(&open::writable(&image).unwrap(), &options).unwrap();
    exercise(&image);
    let volume = writable(&image);
    let view = volume.view();
    let (mut clusters, mut inodes) = (0, 0);
    let mut owned = vec![find(&volume, "names").unwrap(), view.info().root];
    let mut at = 0;
    while let Some(directory) = owned.get(at).copied() {
        at += 1;
        let inode = read::inode::read(view, directory).unwrap();
        if inode.i_uid.get() == 1000 {
            inodes += 1;
            clusters += u64::from(inode.i_clusters.get());
            if inode.i_dx_root.get() != 0 {
                let root = view
                    .block::<DxRoot>(BlockNo(inode.i_dx_root.get()))
                    .unwrap();
                clusters += u64::from(root.dr_clusters.get());
            }
        }
        if inode.file_type() == Some(FileType::Directory) && at <= 2 {
            read::dir::for_each_entry(view, &inode, &mut |entry| {
                if entry.file_type == FileType::Regular.dirent() {
                    owned.push(entry.inode);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        }
    }
    // The directory, its names, three files and four clones.
    assert_eq!(inodes, 480 + 7 + 1);
    let bytes = clusters * view.geo().cluster_bytes();
    assert_eq!(
        quota_of(&volume, SystemFile::UserQuota, 1000),
        (bytes, inodes)
    );
    assert_eq!(
        quota_of(&volume, SystemFile::GroupQuota, 100),
        (bytes, inodes)
    );
    assert_eq!(quota_of(&volume, SystemFile::UserQuota, 4711), (0, 0));
}

/// Where files cannot have holes, a write behind the end fills what lies between with zeros, and
/// so do the holes of an imported file. What once stood in the last cluster stays unseen.
#[test]
fn files_have_no_holes_where_the_format_has_none() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    for args in [
        "-M local -b 512 -C 4096 -J size=4M --fs-feature-level=max-compat",
        "-M local -b 4096 -C 32768 -J size=4M --fs-features=nosparse",
    ] {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let args: Vec<&str> = args.split(' ').collect();
        oracle::mkfs(&image, 64 << 20, &args).unwrap();
        let mut volume = writable(&image);
        volume.write("file", &[1; 9000]).unwrap();
        // As the driver leaves it when it cuts a file: the rest of the cluster as it was.
        let inode = find(&volume, "file").unwrap();
        let mut txn = volume.begin().unwrap();
        txn.edit::<Dinode>(inode).unwrap().i_size = 8500.into();
        txn.commit().unwrap();
        let mut expected = vec![1; 8500];
        for (offset, len) in [(8700, 10), (200_000, 70_000), (270_000, 5), (400_000, 1)] {
            volume
                .overwrite("file", offset as u64, &vec![2; len])
                .unwrap();
            expected.resize(offset, 0);
            expected.resize(offset + len, 2);
            assert!(contents(&volume, "file") == expected, "{args:?} {offset}");
        }
        volume.write("empty", b"").unwrap();
        volume.overwrite("empty", 100_000, b"x").unwrap();

        let holes = dir.path().join("holes");
        let file = File::create(&holes).unwrap();
        file.write_all_at(b"end", 300_000).unwrap();
        file.set_len(500_000).unwrap();
        let file = File::open(&holes).unwrap();
        let root = volume.info().root;
        let new = NewInode::at(NOW, 0o100_644, 0, 0);
        let mut txn = volume.begin().unwrap();
        ops::import_file(&mut txn, root, b"holes", (&file, "holes"), &new, &|_| {}).unwrap();
        txn.commit().unwrap();
        drop(volume);
        let report = oracle::check(&image).unwrap();
        assert!(
            report.is_silent() && report.finished(),
            "{args:?}: {report:?}"
        );
    }
}

/// Every name in the volume's own directories has a meaning: in an orphan directory it would be an
/// inode that waits to be freed.
#[test]
fn nothing_is_made_in_the_directories_of_the_volume_itself() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    oracle::mkfs(&image, 64 << 20, &["-M", "local"]).unwrap();
    let mut volume = writable(&image);
    volume.write("file", b"bytes").unwrap();
    let file = find(&volume, "file").unwrap();
    let orphans = system::find(volume.view(), SystemFile::OrphanDir(Slot(0))).unwrap();
    for directory in [volume.info().system_dir, orphans] {
        let mut txn = volume.begin().unwrap();
        let new = NewInode::at(NOW, 0o040_755, 0, 0);
        let made = txn.make_directory(directory, b"new", &new);
        let said = made.unwrap_err().to_string();
        assert!(said.contains("volume's own"), "{said}");
        let options = CloneOptions {
            preserve: true,
            uid: 0,
            gid: 0,
            now: NOW,
        };
        ops::clone_file(&mut txn, file, directory, b"new", &options).unwrap_err();
        let bytes = source(b"bytes");
        let from = (&bytes.file, "source");
        ops::import_file(&mut txn, directory, b"new", from, &new, &|_| {}).unwrap_err();
    }
}
