//! A machine that stops at any write: the volume is as before or as after, whoever looks next.
//!
//! Each operation is run once to count its writes, then once for every write at which the device
//! stops. What the device then holds is opened again by this library (which sees it through its
//! journal), recovered, and judged by fsck.ocfs2; and, without our recovery, replayed by fsck.ocfs2.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use cowfs_format::block::View;
use cowfs_format::device::{Device, DeviceMut, FaultDevice, FileDevice, MemDevice};
use cowfs_format::error::Result;
use cowfs_format::layout::FileType;
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::{dir, file::FileReader, inode};
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};
use cowfs_tests::{oracle, skip};
use mkfs_cowfs::Options;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp {
    seconds: 1_700_000_000,
    nanos: 0,
};

/// Path to contents (of files) or nothing (of directories).
type Tree = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn tree(view: View<'_>) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![(Vec::new(), view.info().root)];
    while let Some((path, blkno)) = todo.pop() {
        let directory = inode::read(view, blkno).unwrap();
        dir::for_each_entry(view, &directory, &mut |entry| {
            if entry.name == b"." || entry.name == b".." {
                return ControlFlow::Continue(());
            }
            let path = [&path[..], b"/", entry.name].concat();
            let inode = inode::read(view, entry.inode).unwrap();
            if inode.file_type() == Some(FileType::Directory) {
                found.insert(path.clone(), None);
                todo.push((path, entry.inode));
            } else {
                let reader = FileReader::open(view, &inode).unwrap();
                let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
                reader.read_at(0, &mut bytes).unwrap();
                found.insert(path, Some(bytes));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    found
}

struct Source {
    _dir: TempDir,
    file: File,
}

fn source(bytes: &[u8]) -> Source {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("source");
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let file = File::open(path).unwrap();
    Source { _dir: dir, file }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i * 7 + i / 251).to_le_bytes()[0])
        .collect()
}

/// An operation of the test: what it is called and what it does in one transaction.
type Operation = (&'static str, fn(&mut dyn Session) -> Result<()>);

/// A volume on whatever device, opened for writing.
trait Session {
    fn mkdir(&mut self, name: &str) -> Result<()>;
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()>;
    fn clone(&mut self, from: &str, to: &str) -> Result<()>;
}

impl<D: DeviceMut> Session for Volume<D> {
    fn mkdir(&mut self, name: &str) -> Result<()> {
        let root = self.info().root;
        let new = NewInode::at(NOW, 0o040_755, 0, 0);
        let mut txn = self.begin()?;
        txn.make_directory(root, name.as_bytes(), &new)?;
        txn.commit().map(drop)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let root = self.info().root;
        let new = NewInode::at(NOW, 0o100_644, 0, 0);
        let source = source(bytes);
        let mut txn = self.begin()?;
        let from = (&source.file, "source");
        ops::import_file(&mut txn, root, name.as_bytes(), from, &new, &|_| {})?;
        txn.commit().map(drop)
    }

    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let inode = find(self, name)?;
        let source = source(bytes);
        let mut txn = self.begin()?;
        let from = (&source.file, "source");
        ops::overwrite(&mut txn, inode, offset, from, NOW, &|_| {})?;
        txn.commit().map(drop)
    }

    fn clone(&mut self, from: &str, to: &str) -> Result<()> {
        let source = find(self, from)?;
        let root = self.info().root;
        let options = CloneOptions {
            preserve: true,
            uid: 0,
            gid: 0,
            now: NOW,
        };
        let mut txn = self.begin()?;
        ops::clone_file(&mut txn, source, root, to.as_bytes(), &options)?;
        txn.commit().map(drop)
    }
}

fn find<D: Device>(volume: &Volume<D>, name: &str) -> Result<BlockNo> {
    path::resolve(volume.view(), volume.info().root, name.as_bytes())
}

/// A volume with a file and a clone of it.
fn prepared(block_size: u32) -> Vec<u8> {
    let device = MemDevice::new(vec![0; 24 << 20]);
    let options = Options {
        block_size: Some(block_size),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    volume.write("file", &pattern(300_000)).unwrap();
    Session::clone(&mut volume, "file", "shared").unwrap();
    drop(volume);
    device.snapshot()
}

fn save(bytes: &[u8], path: &Path) {
    std::fs::write(path, bytes).unwrap();
}

const OPERATIONS: &[Operation] = &[
    ("mkdir", |s| s.mkdir("directory")),
    ("write a small file", |s| s.write("small", b"a few bytes")),
    ("write a large file", |s| {
        s.write("large", &pattern(1_000_000))
    }),
    ("clone", |s| s.clone("file", "clone")),
    ("overwrite a shared part", |s| {
        s.overwrite("shared", 5000, &pattern(100_000))
    }),
    ("overwrite a part of its own", |s| {
        s.overwrite("file", 299_000, &pattern(30_000))
    }),
];

fn stop_everywhere(block_size: u32) {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    let before = prepared(block_size);
    for (name, operation) in OPERATIONS {
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
        operation(&mut Volume::open(&device).unwrap()).unwrap();
        let writes = device.writes();
        let after = device.into_base().snapshot();
        let trees = [&before, &after]
            .map(|bytes| tree(Volume::open(MemDevice::new(bytes.clone())).unwrap().view()));
        assert_ne!(trees[0], trees[1], "{name} does nothing");
        let mut seen = [0, 0];
        for stop in 0..writes {
            let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), stop);
            let done = operation(&mut Volume::open(&device).unwrap());
            assert!(
                done.is_err(),
                "{name} at write {stop} hides that the device failed"
            );
            let left = device.into_base().snapshot();

            let mut volume = Volume::open(MemDevice::new(left.clone())).unwrap();
            let through_journal = tree(volume.view());
            let which = trees.iter().position(|tree| *tree == through_journal);
            let which =
                which.unwrap_or_else(|| panic!("{name} at write {stop}: neither before nor after"));
            seen[which] += 1;
            volume.recover().unwrap();
            assert_eq!(
                tree(volume.view()),
                trees[which],
                "{name} at write {stop}: recovery"
            );
            assert!(volume.pending().is_empty());
            save(&volume.device().snapshot(), &image);
            let report = oracle::check(&image).unwrap();
            assert!(
                report.is_silent() && report.finished(),
                "{name} at write {stop}: {report:?}"
            );

            // The same without us: fsck.ocfs2 replays (and stops after it on a local volume).
            // Where there is nothing to replay, one stop in four will do.
            if !replayable && stop % 4 != 0 {
                continue;
            }
            save(&left, &image);
            oracle::repair(&image).unwrap();
            oracle::repair(&image).unwrap();
            let report = oracle::check(&image).unwrap();
            assert!(
                report.is_silent() && report.finished(),
                "{name} at write {stop}: {report:?}"
            );
            let device = FileDevice::new(File::open(&image).unwrap()).unwrap();
            assert_eq!(
                tree(Volume::open(device).unwrap().view()),
                trees[which],
                "{name} at {stop}"
            );
        }
        assert!(
            seen[0] > 0 && seen[1] > 0,
            "{name}: {seen:?} of {writes} writes"
        );
    }
}

#[test]
fn a_volume_stopped_at_any_write_is_before_or_after() {
    let name = "a_volume_stopped_at_any_write_is_before_or_after";
    if skip::value_or_record(name, oracle::tools()).is_some() {
        stop_everywhere(4096);
    }
}

#[test]
fn a_volume_of_small_blocks_stopped_at_any_write_is_before_or_after() {
    let name = "a_volume_of_small_blocks_stopped_at_any_write_is_before_or_after";
    if skip::value_or_record(name, oracle::tools()).is_some() {
        stop_everywhere(1024);
    }
}
