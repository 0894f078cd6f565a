//! A machine that stops at any write: the volume is as before or as after, whoever looks next.
//!
//! Each operation is run once to count its writes, then once for every write at which the device
//! stops. What the device then holds is opened again by this library (which sees it through its
//! journal), recovered, and judged by fsck.ocfs2; and, without our recovery, replayed by fsck.ocfs2.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::path::Path;

use cowfs_format::device::{FaultDevice, FileDevice, MemDevice};
use cowfs_format::error::Result;
use cowfs_format::volume::Volume;
use cowfs_tests::manifest;
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

fn stop_everywhere(block_size: u32, mount: Mount) {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    let before = prepared(block_size, mount);
    for (name, operation) in OPERATIONS {
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
        operation(&mut Volume::open(&device).unwrap()).unwrap();
        let writes = device.writes();
        let after = device.into_base().snapshot();
        let trees = [&before, &after]
            .map(|bytes| manifest::of(Volume::open(MemDevice::new(bytes.clone())).unwrap().view()));
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
            let through_journal = manifest::of(volume.view());
            let which = trees.iter().position(|tree| *tree == through_journal);
            let which =
                which.unwrap_or_else(|| panic!("{name} at write {stop}: neither before nor after"));
            seen[which] += 1;
            let replayable = !volume.pending().is_empty();
            volume.recover().unwrap();
            assert_eq!(
                manifest::of(volume.view()),
                trees[which],
                "{name} at write {stop}: recovery"
            );
            assert!(volume.pending().is_empty());
            let slots = volume.nodes().unwrap().slots;
            assert!(
                slots.iter().all(Option::is_none),
                "{name} at write {stop}: {slots:?}"
            );
            if mount == Mount::Cluster && stop % 4 != 0 {
                continue;
            }
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
            // On a cluster's volume it does nothing without a cluster.
            if mount == Mount::Cluster {
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
                manifest::of(Volume::open(device).unwrap().view()),
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
