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
use cowfs_format::ops;
use cowfs_format::txn::{Group, NewInode};
use cowfs_format::volume::Volume;
use cowfs_format::volume::path;
use cowfs_tests::manifest::{self, Manifest};
use cowfs_tests::session::{NOW, Session, find, pattern, source};
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
        if self.mount == Mount::Cluster && !stop.is_multiple_of(4) {
            return which;
        }
        save(&volume.device().snapshot(), image);
        self.find_silent(stop, image);

        // The same without us: fsck.ocfs2 replays (and stops after it on a local volume).
        // Where there is nothing to replay, one stop in four will do. On a cluster's volume it does
        // nothing without a cluster.
        if self.mount == Mount::Cluster || (!replayable && !stop.is_multiple_of(4)) {
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

type Stopping = FaultDevice<MemDevice>;

/// Several changes of one group, among them such as would be written in place one by one: over more
/// than a megabyte, and behind the end of a file that is longer on the disk.
fn group(device: &Stopping, keep: bool) -> Result<()> {
    let mut group = Group::begin(Volume::open(device)?).map_err(|not| not.error)?;
    let root = group.view().info().root;
    let new = NewInode::at(NOW, 0o040_755, 1000, 100);
    let directory = group.step(|txn| txn.make_directory(root, b"directory", &new))?;
    let of = |group: &Group<&Stopping>, name: &str| {
        path::resolve(group.view(), root, name.as_bytes()).unwrap()
    };
    let (file, shared) = (of(&group, "file"), of(&group, "shared"));
    let new = NewInode {
        mode: 0o100_644,
        ..new
    };
    for (i, len) in [(0u8, 10), (1, 50_000)] {
        let bytes = source(&pattern(len, 4));
        let from = (&bytes.file, "source");
        group.step(|txn| {
            ops::import_file(txn, directory, &[b'a' + i], from, &new, &|_| {}).map(drop)
        })?;
    }
    // Shorter and longer again: what stood behind the end must not come back, nor be lost.
    group.step(|txn| ops::truncate(txn, file, 1000, NOW))?;
    group.step(|txn| ops::truncate(txn, file, 200_000, NOW))?;
    let bytes = source(&pattern(1_200_000, 8));
    group.step(|txn| {
        let from = (&bytes.file, "source");
        ops::overwrite(txn, shared, 100, from, NOW, &|_| {}).map(drop)
    })?;
    // Over what the step before wrote.
    group.step(|txn| {
        let from = (&bytes.file, "source");
        ops::overwrite(txn, shared, 300_001, from, NOW, &|_| {}).map(drop)
    })?;
    group.step(|txn| ops::rename(txn, (root, b"shared"), (directory, b"b"), NOW))?;
    if !keep {
        let _ = group.abort();
        return Ok(());
    }
    group.commit().1.map(drop)
}

/// Removes a tree, a few names in each transaction.
fn remove_tree(device: &Stopping, seen: &mut dyn FnMut(&Volume<&Stopping>)) -> Result<()> {
    let mut volume = Volume::open(device)?;
    let (root, directory) = (volume.info().root, find(&volume, "tree")?);
    let mut tree = ops::RemoveTree::new(root, b"tree".to_vec(), directory);
    loop {
        let mut txn = volume.begin()?;
        let done = tree.step(&mut txn, 6, NOW)?;
        txn.commit()?;
        seen(&volume);
        if done {
            return Ok(());
        }
    }
}

/// Stops `run` at each of its writes: what is there then, after recovery, must be one of `states`, a
/// sound volume. How often each was there.
fn stop_in(
    before: &[u8],
    states: &[Manifest],
    run: &dyn Fn(&Stopping) -> Result<()>,
) -> Vec<usize> {
    let device = FaultDevice::stopping_at(MemDevice::new(before.to_vec()), u64::MAX);
    run(&device).unwrap();
    let writes = device.writes();
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    let mut seen = vec![0; states.len()];
    for stop in 0..writes {
        let device = FaultDevice::stopping_at(MemDevice::new(before.to_vec()), stop);
        assert!(run(&device).is_err(), "the stop at write {stop} is hidden");
        let mut volume = Volume::open(device.into_base()).unwrap();
        let through_journal = manifest::of(volume.view());
        volume.recover().unwrap();
        let tree = manifest::of(volume.view());
        assert_eq!(tree, through_journal, "write {stop}");
        let which = states.iter().position(|state| *state == tree);
        seen[which.unwrap_or_else(|| panic!("write {stop}: another state"))] += 1;
        let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
        assert!(checked.is_clean(), "write {stop}: {:?}", checked.codes());
        if stop % 8 == 0 {
            save(&volume.device().snapshot(), &image);
            let report = oracle::check(&image).unwrap();
            assert!(
                report.is_silent() && report.finished(),
                "write {stop}: {report:?}"
            );
        }
    }
    seen
}

#[test]
fn a_group_stopped_at_any_write_is_there_altogether_or_not_at_all() {
    need!(oracle::tools());
    let device = MemDevice::new(prepared(4096, Mount::Local));
    // A file of its own, long enough to be written in place.
    let mut volume = Volume::open(&device).unwrap();
    volume.write("own", &pattern(1_500_000, 3)).unwrap();
    let root = volume.info().root;
    let mut txn = volume.begin().unwrap();
    ops::rename(&mut txn, (root, b"own"), (root, b"shared"), NOW).unwrap();
    txn.commit().unwrap();
    let before = device.snapshot();
    let tree = |bytes: Vec<u8>| manifest::of(Volume::open(MemDevice::new(bytes)).unwrap().view());
    let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
    group(&device, false).unwrap();
    assert!(device.writes() > 0);
    let states = [tree(before.clone()), tree(device.into_base().snapshot())];
    assert_eq!(states[0], states[1], "what was given up");
    let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
    group(&device, true).unwrap();
    let states = [tree(before.clone()), tree(device.into_base().snapshot())];
    assert_ne!(states[0], states[1]);
    let seen = stop_in(&before, &states, &|device| group(device, true));
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn a_tree_that_is_removed_is_sound_whenever_it_stops() {
    need!(oracle::tools());
    let device = MemDevice::new(prepared(4096, Mount::Local));
    let mut volume = Volume::open(&device).unwrap();
    volume.mkdir("tree").unwrap();
    volume.mkdir("tree/inner").unwrap();
    for i in 0..6 {
        volume.reflink("file", &format!("tree/inner/{i}")).unwrap();
        volume
            .write(&format!("tree/{i}"), &pattern(9000, i))
            .unwrap();
    }
    drop(volume);
    let before = device.snapshot();
    let mut states = vec![manifest::of(Volume::open(&device).unwrap().view())];
    let whole = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
    remove_tree(&whole, &mut |volume| {
        states.push(manifest::of(volume.view()))
    })
    .unwrap();
    assert!(states.len() > 4, "{} states", states.len());
    let seen = stop_in(&before, &states, &|device| remove_tree(device, &mut |_| {}));
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}
