//! Edits by the library, each in a transaction of its own, and what a volume then holds.

#![allow(clippy::unwrap_used)] // Part of tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use cowfs_format::device::{Device, DeviceMut, FaultDevice, MemDevice};
use cowfs_format::error::Result;
use cowfs_format::layout::FileType;
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::{file::FileReader, inode};
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::path::{self, Parent};
use tempfile::TempDir;

/// When all edits of the tests happen.
pub const NOW: Timestamp = Timestamp {
    seconds: 1_700_000_000,
    nanos: 5,
};

/// A host file with given contents.
#[derive(Debug)]
pub struct Source {
    _dir: TempDir,
    /// The file.
    pub file: File,
}

/// A host file that holds `bytes`.
///
/// # Panics
/// There is no room for temporary files.
#[must_use]
pub fn source(bytes: &[u8]) -> Source {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("source");
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let file = File::open(path).unwrap();
    Source { _dir: dir, file }
}

/// Bytes that differ between places nearby and between seeds.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes()[0])
        .collect()
}

/// A volume on whatever device, opened for writing.
#[allow(missing_docs, reason = "the names say it")]
pub trait Session {
    fn mkdir(&mut self, path: &str) -> Result<()>;
    fn touch(&mut self, directory: &str, names: &[Vec<u8>]) -> Result<()>;
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()>;
    fn reflink(&mut self, from: &str, to: &str) -> Result<()>;
    fn set_xattr(&mut self, path: &str, name: &str, value: &[u8]) -> Result<()>;
}

impl<D: DeviceMut> Session for Volume<D> {
    fn mkdir(&mut self, path: &str) -> Result<()> {
        let parent = parent(self, path)?;
        let new = NewInode::at(NOW, 0o040_755, 1000, 100);
        let mut txn = self.begin()?;
        txn.make_directory(parent.directory, &parent.name, &new)?;
        txn.commit().map(drop)
    }

    fn touch(&mut self, directory: &str, names: &[Vec<u8>]) -> Result<()> {
        let directory = find(self, directory)?;
        let new = NewInode::at(NOW, 0o100_644, 1000, 100);
        let mut txn = self.begin()?;
        for name in names {
            let inode = txn.new_inode(&new)?;
            txn.add_name(directory, name, inode, FileType::Regular, NOW)?;
        }
        txn.commit().map(drop)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let parent = parent(self, name)?;
        let new = NewInode::at(NOW, 0o100_644, 1000, 100);
        let source = source(bytes);
        let mut txn = self.begin()?;
        let from = (&source.file, "source");
        ops::import_file(
            &mut txn,
            parent.directory,
            &parent.name,
            from,
            &new,
            &|_| {},
        )?;
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

    fn reflink(&mut self, from: &str, to: &str) -> Result<()> {
        let source = find(self, from)?;
        let parent = parent(self, to)?;
        let options = CloneOptions {
            preserve: true,
            uid: 0,
            gid: 0,
            now: NOW,
        };
        let mut txn = self.begin()?;
        ops::clone_file(&mut txn, source, parent.directory, &parent.name, &options)?;
        txn.commit().map(drop)
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        let inode = find(self, path)?;
        let mut txn = self.begin()?;
        ops::set_xattr(&mut txn, inode, name.as_bytes(), value, NOW)?;
        txn.commit().map(drop)
    }
}

fn parent<D: Device>(volume: &Volume<D>, name: &str) -> Result<Parent> {
    path::resolve_parent(volume.view(), volume.info().root, name.as_bytes())
}

/// The inode of a path from the root directory.
///
/// # Errors
/// There is none.
pub fn find<D: Device>(volume: &Volume<D>, name: &str) -> Result<BlockNo> {
    path::resolve(volume.view(), volume.info().root, name.as_bytes())
}

/// Opens an image for writing, after recovery.
///
/// # Panics
/// It is no volume that can be written.
#[must_use]
pub fn writable(image: &std::path::Path) -> Volume<cowfs_format::device::FileDevice> {
    let device = cowfs_format::toolkit::open::writable(image).unwrap();
    let mut volume = Volume::open(device).unwrap();
    volume.recover().unwrap();
    volume
}

/// The contents of a file.
///
/// # Panics
/// It does not exist or cannot be read.
#[must_use]
pub fn contents<D: Device>(volume: &Volume<D>, name: &str) -> Vec<u8> {
    let view = volume.view();
    let inode = inode::read(view, find(volume, name).unwrap()).unwrap();
    let reader = FileReader::open(view, &inode).unwrap();
    let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What every kind of volume is put through: directories that outgrow their inodes, their first
/// block and the roots of their indexes, with names that have two hashes; files in inodes, in one
/// cluster and in many; clones of clones; overwrites in each. Gives the contents of the files.
///
/// # Panics
/// Anything fails, or a file reads differently from what was written.
pub fn exercise(image: &std::path::Path) -> BTreeMap<&'static str, Vec<u8>> {
    let mut volume = writable(image);
    volume.mkdir("names").unwrap();
    for batch in 0..12 {
        let names: Vec<Vec<u8>> = (0..40)
            .map(|i| match i % 3 {
                0 => format!("file {batch}-{i}"),
                1 => format!("\u{e9}t\u{e9} {batch}-{i}"),
                _ => format!("{}-{batch}-{i}", "long".repeat(20)),
            })
            .map(String::into_bytes)
            .collect();
        volume.touch("names", &names).unwrap();
    }
    for name in [
        "names/file 11-0",
        "names/file 0-39",
        "names/\u{e9}t\u{e9} 3-1",
    ] {
        find(&volume, name).unwrap();
    }
    let mut expected = BTreeMap::new();
    for (name, len) in [("tiny", 10), ("small", 3000), ("large", 3_000_000)] {
        expected.insert(name, pattern(len, 1));
        volume.write(name, &expected[name]).unwrap();
    }
    for (from, to) in [
        ("large", "clone 1"),
        ("large", "clone 2"),
        ("clone 1", "clone 3"),
        ("tiny", "tiny 2"),
    ] {
        volume.reflink(from, to).unwrap();
        expected.insert(to, expected[from].clone());
    }
    for (seed, (name, offset, len)) in [
        ("clone 1", 1_500_000, 10),
        ("clone 1", 0, 4096),
        ("clone 2", 2_999_990, 200_000),
        ("large", 100, 2_000_000),
        ("clone 3", 5_000_000, 1),
        ("tiny 2", 5000, 9000),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = pattern(len, 100 + seed as u64);
        volume.overwrite(name, offset as u64, &bytes).unwrap();
        let model = expected.entry(name).or_default();
        model.resize(model.len().max(offset + len), 0);
        model[offset..offset + len].copy_from_slice(&bytes);
    }
    for (name, bytes) in &expected {
        assert!(contents(&volume, name) == *bytes, "{name}");
    }
    expected
}

/// A commit of ours that was killed after `DIRTY` and before anything went home: it leaves the file
/// `ours`.
///
/// # Panics
/// No such commit can be made.
pub fn killed_commit(image: &std::path::Path) {
    let before = std::fs::read(image).unwrap();
    for stop in 0.. {
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), stop);
        let mut volume = Volume::open(&device).unwrap();
        volume
            .write("ours", &pattern(5000, 7))
            .expect_err("stopped too late");
        drop(volume);
        let left = device.into_base().snapshot();
        let volume = Volume::open(MemDevice::new(left.clone())).unwrap();
        if !volume.pending().is_empty() {
            assert_eq!(contents(&volume, "ours"), pattern(5000, 7));
            std::fs::write(image, left).unwrap();
            return;
        }
    }
}
