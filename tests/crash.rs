//! A machine that stops at any write: the volume is as before or as after, whoever looks next.
//!
//! Each operation is run once to count its writes, then once for every write at which the device
//! stops. What the device then holds is opened again by this library (which sees it through its
//! journal), recovered, and judged by fsck.ocfs2; and, without our recovery, replayed by fsck.ocfs2.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use cowfs_format::device::{FaultDevice, FileDevice, MemDevice};
use cowfs_format::error::Result;
use cowfs_format::volume::Volume;
use cowfs_tests::manifest::{self, Manifest};
use cowfs_tests::session::{NOW, Session, pattern};
use cowfs_tests::{need, oracle};
use mkfs_cowfs::{Mount, Options};
use tempfile::TempDir;

/// An operation of the test: what it is called and what it does in one transaction.
type Operation = (&'static str, fn(&mut dyn Session) -> Result<()>);

/// A volume with a file and a clone of it.
fn prepared(block_size: u32, mount: Mount) -> Vec<u8> {
    let device = MemDevice::new(vec![0; 24 << 20]);
    let options = Options {
        block_size: Some(block_size),
        mount,
        // With two slots, a commit holds its own. (With small blocks and two slots, fsck.ocfs2 wrongly
        // misses an index of the system directory.)
        slots: Some(if block_size == 4096 { 2 } else { 1 }),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    volume.write("file", &pattern(300_000, 1)).unwrap();
    volume.reflink("file", "shared").unwrap();
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
        s.write("large", &pattern(1_000_000, 1))
    }),
    ("clone", |s| s.reflink("file", "clone")),
    ("overwrite a shared part", |s| {
        s.overwrite("shared", 5000, &pattern(100_000, 9))
    }),
    ("overwrite a part of its own", |s| {
        s.overwrite("file", 299_000, &pattern(30_000, 9))
    }),
];

/// Stops an operation at each of its writes.
fn stop_everywhere(block_size: u32, mount: Mount) {
    let before = prepared(block_size, mount);
    for &(name, operation) in OPERATIONS {
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
        operation(&mut Volume::open(&device).unwrap()).unwrap();
        let writes = device.writes();
        let after = device.into_base().snapshot();
        let trees = [&before, &after]
            .map(|bytes| manifest::of(Volume::open(MemDevice::new(bytes.clone())).unwrap().view()));
        assert_ne!(trees[0], trees[1], "{name} does nothing");
        let trial = Trial {
            name,
            operation,
            before: &before,
            trees: &trees,
            mount,
        };
        let (next, seen) = (AtomicU64::new(0), [AtomicU64::new(0), AtomicU64::new(0)]);
        let stops = || {
            let dir = TempDir::new().unwrap();
            loop {
                let stop = next.fetch_add(1, Ordering::Relaxed);
                if stop >= writes {
                    return;
                }
                let which = trial.stop_at(stop, &dir.path().join("image"));
                seen[which].fetch_add(1, Ordering::Relaxed);
            }
        };
        // fsck.ocfs2 spends most of its time waiting for the kernel.
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(stops))));
        assert!(
            seen.iter().all(|times| times.load(Ordering::Relaxed) > 0),
            "{name}: {seen:?} of {writes} writes"
        );
    }
}

/// An operation that is to be stopped.
struct Trial<'a> {
    name: &'a str,
    operation: fn(&mut dyn Session) -> Result<()>,
    before: &'a [u8],
    /// What is in the volume before and after.
    trees: &'a [Manifest; 2],
    mount: Mount,
}

impl Trial<'_> {
    /// Stops it at a write; which of the trees is there then.
    fn stop_at(&self, stop: u64, image: &Path) -> usize {
        let name = self.name;
        let device = FaultDevice::stopping_at(MemDevice::new(self.before.to_vec()), stop);
        let done = (self.operation)(&mut Volume::open(&device).unwrap());
        assert!(
            done.is_err(),
            "{name} at write {stop} hides that the device failed"
        );
        let left = device.into_base().snapshot();

        let mut volume = Volume::open(MemDevice::new(left.clone())).unwrap();
        let through_journal = manifest::of(volume.view());
        let which = (self.trees.iter()).position(|tree| *tree == through_journal);
        let which =
            which.unwrap_or_else(|| panic!("{name} at write {stop}: neither before nor after"));
        let replayable = !volume.pending().is_empty();
        volume.recover().unwrap();
        assert_eq!(
            manifest::of(volume.view()),
            self.trees[which],
            "{name} at write {stop}: recovery"
        );
        assert!(volume.pending().is_empty());
        let slots = volume.nodes().unwrap().slots;
        assert!(
            slots.iter().all(Option::is_none),
            "{name} at write {stop}: {slots:?}"
        );
        if self.mount == Mount::Cluster && stop % 4 != 0 {
            return which;
        }
        save(&volume.device().snapshot(), image);
        self.find_silent(stop, image);

        // The same without us: fsck.ocfs2 replays (and stops after it on a local volume).
        // Where there is nothing to replay, one stop in four will do. On a cluster's volume it does
        // nothing without a cluster.
        if self.mount == Mount::Cluster || (!replayable && stop % 4 != 0) {
            return which;
        }
        save(&left, image);
        oracle::repair(image).unwrap();
        oracle::repair(image).unwrap();
        self.find_silent(stop, image);
        let device = FileDevice::new(File::open(image).unwrap()).unwrap();
        assert_eq!(
            manifest::of(Volume::open(device).unwrap().view()),
            self.trees[which],
            "{name} at {stop}"
        );
        which
    }

    fn find_silent(&self, stop: u64, image: &Path) {
        let report = oracle::check(image).unwrap();
        assert!(
            report.is_silent() && report.finished(),
            "{} at write {stop}: {report:?}",
            self.name
        );
    }
}

#[test]
fn a_volume_stopped_at_any_write_is_before_or_after() {
    need!(oracle::tools());
    stop_everywhere(4096, Mount::Local);
}

#[test]
fn a_volume_of_small_blocks_stopped_at_any_write_is_before_or_after() {
    need!(oracle::tools());
    stop_everywhere(1024, Mount::Local);
}

#[test]
fn a_volume_of_a_cluster_stopped_at_any_write_is_before_or_after() {
    need!(oracle::tools());
    stop_everywhere(4096, Mount::Cluster);
}
