//! A power cut: what was written since the last flush reaches the disk in any order, or in part.
//!
//! A session of several operations is recorded, with its flushes. For every flush, the sectors that
//! were written since the one before are thought lost in many ways: all, all but one, one only,
//! random ones. Whatever is left must read as before or as after the operation that was going on,
//! with everything kept that a command had reported as done; and it must recover to a sound volume.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::path::Path;
use std::sync::Mutex;

use cowfs_format::device::{Device, DeviceMut, MemDevice};
use cowfs_format::error::{IoError, Result};
use cowfs_format::volume::Volume;
use cowfs_tests::manifest::{self, Manifest};
use cowfs_tests::session::{NOW, Session, pattern};
use cowfs_tests::{need, oracle};
use mkfs_cowfs::Options;

const SECTOR: usize = 512;

#[derive(Debug)]
enum Event {
    Write(u64, Vec<u8>),
    Flush,
    /// An operation said that it is done.
    Done,
}

/// Memory that keeps a record of all writes and flushes.
#[derive(Debug)]
struct Recorder {
    base: MemDevice,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl Device for Recorder {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), IoError> {
        self.base.read_at(offset, buf)
    }
}

impl DeviceMut for Recorder {
    fn write_at(&self, offset: u64, data: &[u8]) -> std::result::Result<(), IoError> {
        self.note(Event::Write(offset, data.to_vec()));
        self.base.write_at(offset, data)
    }

    fn flush(&self) -> std::result::Result<(), IoError> {
        self.note(Event::Flush);
        Ok(())
    }
}

/// An operation of the session, in a transaction of its own.
type Operation = fn(&mut Volume<&Recorder>) -> Result<()>;

/// The operations follow each other closely: each writes its log over that of the one before.
const OPERATIONS: &[Operation] = &[
    |v| v.write("file", &pattern(40_000, 1)),
    |v| v.mkdir("directory"),
    |v| v.reflink("file", "clone"),
    |v| v.overwrite("clone", 5000, &pattern(20_000, 2)),
    |v| v.reflink("clone", "directory/clone"),
    |v| v.write("directory/small", b"a few bytes"),
];

fn empty(block_size: u32) -> Vec<u8> {
    let device = MemDevice::new(vec![0; 24 << 20]);
    let options = Options {
        block_size: Some(block_size),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    device.snapshot()
}

/// Runs the operations; all that they wrote, and what the volume held before and after each.
fn record(image: Vec<u8>) -> (Vec<Event>, Vec<Manifest>) {
    let device = Recorder {
        base: MemDevice::new(image),
        events: Mutex::new(Vec::new()),
    };
    let mut volume = Volume::open(&device).unwrap();
    let mut trees = vec![manifest::of(volume.view())];
    for operation in OPERATIONS {
        operation(&mut volume).unwrap();
        device.note(Event::Done);
        trees.push(manifest::of(volume.view()));
    }
    drop(volume);
    (device.events.into_inner().unwrap(), trees)
}

/// The ways to lose some of `count` sectors that are tried: true where a sector is kept.
fn losses(count: usize, seed: &mut u64) -> Vec<Vec<bool>> {
    let mut random = |bound: usize| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed % bound as u64).unwrap()
    };
    let mut ways = vec![vec![false; count]];
    for _ in 0..6 {
        let one = random(count);
        ways.push((0..count).map(|i| i == one).collect());
        ways.push((0..count).map(|i| i != one).collect());
        let cut = random(count);
        ways.push((0..count).map(|i| i >= cut).collect());
        ways.push((0..count).map(|_| random(2) == 0).collect());
    }
    // The first and the last of what was written are the likeliest to matter.
    ways.push((0..count).map(|i| i > 0).collect());
    ways.push((0..count).map(|i| i + 1 == count).collect());
    ways
}

fn apply(image: &mut [u8], writes: &[(u64, &[u8])], kept: &[bool]) {
    for ((offset, bytes), _) in writes.iter().zip(kept).filter(|(_, kept)| **kept) {
        let at = usize::try_from(*offset).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn cut_everywhere(block_size: u32) {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = empty(block_size);
    let (events, trees) = record(durable.clone());
    let (mut done, mut seed, mut tried) = (0, 0x2545_F491_4F6C_DD1D, 0_usize);
    let mut writes: Vec<(u64, &[u8])> = Vec::new();
    let mut promised = 0;
    for event in &events {
        match event {
            Event::Done => done += 1,
            Event::Write(offset, bytes) => {
                let sectors = bytes.chunks(SECTOR).zip(0_u64..);
                writes.extend(sectors.map(|(part, i)| (offset + i * SECTOR as u64, part)));
            }
            Event::Flush => {
                let allowed = &trees[promised..=(done + 1).min(trees.len() - 1)];
                for kept in losses(writes.len().max(1), &mut seed) {
                    let mut image = durable.clone();
                    apply(&mut image, &writes, &kept);
                    let judge = (tried % 16 == 0).then_some(dir.path());
                    tried += 1;
                    let place = format!("in operation {done}, cut {tried}");
                    assert_sound(image, allowed, judge, &place);
                }
                apply(&mut durable, &writes, &vec![true; writes.len()]);
                writes.clear();
                promised = done;
            }
        }
    }
    assert_eq!(done, OPERATIONS.len());
    assert!(tried > 500, "only {tried} cuts were tried");
    // What the last operation wrote after its last flush may be lost as well.
    for kept in losses(writes.len().max(1), &mut seed) {
        let mut image = durable.clone();
        apply(&mut image, &writes, &kept);
        assert_sound(image, &trees[done..], Some(dir.path()), "in the end");
    }
}

/// The volume reads as one of `allowed`, recovers to the same, and fsck.ocfs2 agrees where asked.
fn assert_sound(image: Vec<u8>, allowed: &[Manifest], judge: Option<&Path>, place: &str) {
    let mut volume = Volume::open(MemDevice::new(image)).unwrap();
    let seen = manifest::of(volume.view());
    assert!(allowed.contains(&seen), "{place}: neither before nor after");
    volume.recover().unwrap();
    assert!(manifest::of(volume.view()) == seen, "{place}: recovery");
    if let Some(dir) = judge {
        let image = dir.join("image");
        std::fs::write(&image, volume.device().snapshot()).unwrap();
        let report = oracle::check(&image).unwrap();
        assert!(report.is_silent(), "{place}: {report:?}");
    }
}

#[test]
fn a_power_cut_loses_all_or_nothing() {
    need!(oracle::tools());
    cut_everywhere(4096);
}

#[test]
fn a_power_cut_on_small_blocks_loses_all_or_nothing() {
    need!(oracle::tools());
    cut_everywhere(1024);
}
