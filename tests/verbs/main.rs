//! Every verb that writes, as it is typed, on a device that stops at any write, loses part of what was
//! not flushed, fails a read or a write, or is full: the volume is as before or as after, and what
//! failed says so in one line. And what an undo log kept of it comes back byte for byte.
#![allow(clippy::unwrap_used)] // A test may panic.

mod device;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cowfs_format::device::{Device, DeviceMut, FaultDevice, MemDevice, Recording, Undo, UndoLog};
use cowfs_format::ops::manifest::{self, Entry, Fields};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::{Volume, identity};
use cowfs_tests::{manifest::ALL, oracle};
use tempfile::TempDir;

use crate::device::{Event, Recorder, Shared, losses};
use crate::table::{Host, Verb, verbs};

/// What is seen of a volume through its journal: the tree, what of it cannot be read, and the
/// superblock's block.
#[derive(PartialEq)]
struct Seen {
    tree: Vec<Entry>,
    faults: Vec<String>,
    superblock: Vec<u8>,
}

fn seen<D: Device>(volume: &Volume<D>, fields: Fields) -> Seen {
    let view = volume.view();
    let scanner = Scanner::new(Some(1)).unwrap();
    let (mut tree, mut faults) = (Vec::new(), Vec::new());
    manifest::gather(&scanner, view, view.info().root, fields, &|_| (), |found| {
        faults.extend(found.faults.iter().map(|fault| format!("{fault:?}")));
        tree.push(found.entry);
        std::ops::ControlFlow::Continue(())
    });
    let superblock = view.raw(BlockNo(2)).unwrap().to_vec();
    Seen {
        tree,
        faults,
        superblock,
    }
}

fn in_bytes(bytes: &[u8], fields: Fields) -> Seen {
    seen(
        &Volume::open(MemDevice::new(bytes.to_vec())).unwrap(),
        fields,
    )
}

/// Whether fsck.cowfs finds nothing.
fn is_sound<D: Device>(volume: &Volume<D>, what: &str) {
    let checked = fsck_cowfs::check(volume, &fsck_cowfs::Options::default()).unwrap();
    assert!(checked.is_clean(), "{what}: {:?}", checked.codes());
}

fn oracle_is_silent(bytes: &[u8], dir: &TempDir, what: &str) {
    if oracle::tools().is_ok() {
        let image = dir.path().join("judged");
        std::fs::write(&image, bytes).unwrap();
        let report = oracle::check(&image).unwrap();
        assert!(
            report.is_silent() && report.finished(),
            "{what}: {report:?}"
        );
    }
}

/// Does `work` for all verbs, on two threads.
fn for_all(work: impl Fn(&Verb, &Host) + Sync) {
    let host = Host::new();
    let (all, next) = (verbs(&host), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(verb) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(verb, &host);
                }
            });
        }
    });
}

/// What a verb did to a volume: all its writes and flushes, and the states that it went through.
struct Record {
    events: Vec<Event>,
    states: Vec<Seen>,
    after: Vec<u8>,
}

fn record(verb: &Verb, before: &[u8]) -> Record {
    let device = Shared(Arc::new(Recorder::new(before.to_vec())));
    verb.run(Box::new(device.clone())).unwrap();
    let (events, after) = device.0.taken();
    // What a flush finds is a state of the volume; there is one more than transactions.
    let mut image = before.to_vec();
    let mut states = vec![in_bytes(before, ALL)];
    for event in &events {
        match event {
            Event::Write(at, bytes) => image[*at..at + bytes.len()].copy_from_slice(bytes),
            Event::Flush => {
                let state = in_bytes(&image, ALL);
                if !states.contains(&state) {
                    states.push(state);
                }
            }
        }
    }
    assert!(image == after);
    assert!(in_bytes(&after, ALL) == *states.last().unwrap(), "{verb}");
    let count = states.len();
    assert!(
        (2..=1 + verb.steps).contains(&count),
        "{verb}: {count} states"
    );
    Record {
        events,
        states,
        after,
    }
}

/// The image is as before or as after a transaction, through its journal and after recovery; which.
fn judge(image: Vec<u8>, verb: &Verb, states: &[Seen], place: &str) -> usize {
    let place = format!("{verb}: {place}");
    let mut volume = Volume::open(MemDevice::new(image)).unwrap();
    let through = seen(&volume, ALL);
    let which = states.iter().position(|state| *state == through);
    let which = which.unwrap_or_else(|| panic!("{place}: neither before nor after"));
    volume.recover().unwrap();
    assert!(seen(&volume, ALL) == states[which], "{place}: recovery");
    if !verb.damages {
        is_sound(&volume, &place);
    }
    which
}

#[test]
fn a_verb_cut_off_at_any_write_did_all_or_nothing() {
    for_all(|verb, host| {
        let Record {
            events,
            states,
            after,
        } = record(verb, &host.volume);
        let dir = TempDir::new().unwrap();
        if !verb.damages {
            let volume = Volume::open(MemDevice::new(after.clone())).unwrap();
            is_sound(&volume, &verb.to_string());
            oracle_is_silent(&after, &dir, &verb.to_string());
        }
        let mut seed = 0x2545_F491_4F6C_DD1D;
        let (mut image, mut durable) = (host.volume.clone(), host.volume.clone());
        let mut since: Vec<(usize, &[u8])> = Vec::new();
        let (mut times, mut number) = (vec![0; states.len()], 0);
        for event in &events {
            match event {
                // The device stops in front of this write.
                Event::Write(offset, bytes) => {
                    let place = format!("write {number}");
                    times[judge(image.clone(), verb, &states, &place)] += 1;
                    image[*offset..offset + bytes.len()].copy_from_slice(bytes);
                    let sectors = bytes.chunks(512).enumerate();
                    since.extend(sectors.map(|(n, part)| (offset + n * 512, part)));
                    number += 1;
                }
                // Some of the sectors since the last flush are on the disk, and some are not.
                Event::Flush => {
                    for kept in losses(since.len(), &mut seed) {
                        let mut left = durable.clone();
                        for ((offset, bytes), _) in since.iter().zip(kept).filter(|w| w.1) {
                            left[*offset..offset + bytes.len()].copy_from_slice(bytes);
                        }
                        let place = format!("flush in front of write {number}");
                        times[judge(left, verb, &states, &place)] += 1;
                    }
                    durable.clone_from(&image);
                    since.clear();
                }
            }
        }
        assert!(times.iter().all(|times| *times > 0), "{verb}: {times:?}");
    });
}

#[test]
fn a_verb_on_a_device_that_fails_says_so_and_changes_nothing() {
    /// Reads, and writes, that fail: so many of each, spread over all.
    const TRIED: u64 = 8;
    let fields = Fields {
        times: false,
        ..ALL
    };
    for_all(|verb, host| {
        let sound = |read, write| {
            let base = MemDevice::new(host.volume.clone());
            Shared(Arc::new(match write {
                u64::MAX => FaultDevice::failing_read(base, read),
                _ => FaultDevice::failing_write(base, write),
            }))
        };
        let before = in_bytes(&host.volume, fields);
        let device = sound(u64::MAX, u64::MAX);
        verb.run(Box::new(device.clone())).unwrap();
        let (reads, writes) = (device.0.reads(), device.0.writes());
        let spread = |count: u64, of: fn(u64) -> (u64, u64)| {
            let step = usize::try_from(count / TRIED).unwrap().max(1);
            (0..count).step_by(step).map(of)
        };
        let faults = spread(reads, |n| (n, u64::MAX)).chain(spread(writes, |n| (u64::MAX, n)));
        let mut failed = 0;
        for (read, write) in faults {
            let place = format!("{verb}: read {read}, write {write}");
            let device = sound(read, write);
            let done = verb.run(Box::new(device.clone()));
            let mut volume = Volume::open(&device).unwrap();
            if let Err(said) = done {
                failed += 1;
                assert!(
                    said.lines().count() == 1 && said.contains("os error 5"),
                    "{place}: {said}"
                );
                // Whole transactions stay, and beyond the commit point whoever comes next finishes
                // it. The line says that.
                let told = [
                    "finished when the volume is opened again",
                    "whole transactions",
                    "was made and stays",
                ];
                let told = told.iter().any(|words| said.contains(words));
                let same = seen(&volume, fields) == before;
                assert!(same || told, "{place}: {said}");
            }
            volume.recover().unwrap();
            if !verb.damages {
                is_sound(&volume, &place);
            }
        }
        assert!(failed > TRIED, "{verb}: {failed}");
    });
}

#[test]
fn a_verb_on_a_full_volume_does_it_or_leaves_all_as_it_was() {
    let failed = AtomicUsize::new(0);
    for_all(|verb, host| {
        let device = Shared(Arc::new(MemDevice::new(host.full.clone())));
        let done = verb.run(Box::new(device.clone()));
        let volume = Volume::open(&device).unwrap();
        if let Err(said) = done {
            failed.fetch_add(1, Ordering::Relaxed);
            assert!(
                said.lines().count() == 1 && said.contains("no space left"),
                "{verb}: {said}"
            );
            let as_before = seen(&volume, ALL) == in_bytes(&host.full, ALL);
            assert!(as_before, "{verb}: {said}");
        }
        if !verb.damages {
            is_sound(&volume, &verb.to_string());
        }
    });
    assert!(failed.into_inner() > 5);
}

#[test]
fn a_verb_is_undone_byte_for_byte() {
    for_all(|verb, host| {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("undo");
        let device = Shared(Arc::new(MemDevice::new(host.volume.clone())));
        let known = identity(&device).unwrap();
        let kept = UndoLog::create(&log, known, device.size()).unwrap();
        verb.run(Box::new(Recording::new(device.clone(), kept)))
            .unwrap();
        assert!(device.0.snapshot() != host.volume, "{verb}: does nothing");
        let undo = Undo::open(&log).unwrap();
        undo.check(&device, identity(&device)).unwrap();
        undo.restore(&device).unwrap();
        assert!(device.0.snapshot() == host.volume, "{verb}");
    });
}

/// A device that stands for a volume somewhere else.
fn boxed<D: DeviceMut + 'static>(device: D) -> Box<dyn DeviceMut> {
    Box::new(device)
}
