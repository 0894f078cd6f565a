//! Repairs that are stopped: at any write, or by a power cut that loses any of what was written since the last
//! flush. The next run must end with the bytes that an undisturbed one leaves; only the logs of the journals,
//! whose contents mean nothing any more, may hold other old records.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use cowfs_format::device::{Device, DeviceMut, FaultDevice, OverlayDevice};
use cowfs_format::error::IoError;
use cowfs_format::units::index;

use super::harm::Harm;
use super::run::Cell;
use super::trial::{self, State};
use crate::model::Rng;

const SECTOR: usize = 512;

/// What a repair does to a device.
#[derive(Debug)]
enum Event {
    Write(u64, Vec<u8>),
    /// A flush, with the undo log as it is then, if there is one.
    Flush(Option<Vec<u8>>),
}

/// A device that keeps a record of writes and flushes.
#[derive(Debug)]
struct Recorder<'p> {
    base: OverlayDevice<&'p State>,
    undo: &'p Path,
    events: Mutex<Vec<Event>>,
}

impl Recorder<'_> {
    fn note(&self, event: Event) {
        if let Ok(mut events) = self.events.lock() {
            events.push(event);
        }
    }
}

impl Device for Recorder<'_> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.base.read_at(offset, buf)
    }
}

impl DeviceMut for Recorder<'_> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.note(Event::Write(offset, data.to_vec()));
        self.base.write_at(offset, data)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.note(Event::Flush(std::fs::read(self.undo).ok()));
        Ok(())
    }
}

/// The blocks that differ from the damaged volume, logs of journals apart.
type Bytes = BTreeMap<u64, Vec<u8>>;

/// A cell whose repair is stopped in all ways.
struct Stopped<'c> {
    cell: &'c Cell,
    damaged: State,
    expected: Bytes,
    undo: &'c Path,
}

/// What the cell's device holds now.
fn bytes(cell: &Cell, device: &OverlayDevice<&State>) -> Bytes {
    let unit = cell.subject.info.geo.block_bytes();
    let numbers = device.changed(unit as u64).into_iter();
    let numbers = numbers.filter(|number| !cell.subject.journals.contains(number));
    let block = |number: u64| {
        let mut bytes = vec![0; unit];
        let read = device.read_at(number * unit as u64, &mut bytes);
        (number, read.map(|()| bytes).unwrap_or_default())
    };
    numbers.map(block).collect()
}

/// Stops the repair of a cell at every `step`th write, and cuts the power in `cuts` ways before each of its
/// flushes; the number of ways tried. Nothing is tried of a cell that cannot be made, or whose repair is not
/// clean when it is left alone.
///
/// # Errors
/// A next run ended elsewhere.
pub fn stops(cell: &Cell, step: usize, cuts: usize) -> Result<usize, String> {
    let told = |error: std::io::Error| error.to_string();
    if cell.hits.iter().any(|(_, harm)| *harm == Harm::Unreadable) {
        return Ok(0);
    }
    let Some((damaged, ..)) = trial::damage(cell) else {
        return Ok(0);
    };
    let dir = tempfile::tempdir().map_err(told)?;
    let undo = dir.path().join("undo");
    let recorder = Recorder {
        base: OverlayDevice::new(&damaged),
        undo: &undo,
        events: Mutex::default(),
    };
    if trial::fsck(&recorder, &undo).map_or(true, |report| report.exit != 1) {
        return Ok(0);
    }
    let Recorder { base, events, .. } = recorder;
    let expected = bytes(cell, &base);
    drop(base);
    let events = events.into_inner().unwrap_or_default();
    let stopped = Stopped {
        cell,
        damaged,
        expected,
        undo: &undo,
    };
    let writes = events
        .iter()
        .filter(|event| matches!(event, Event::Write(..)))
        .count();
    let mut tried = 0;
    for stop in (0..writes).step_by(step.max(1)) {
        stopped.at_write(stop as u64)?;
        tried += 1;
    }
    Ok(tried + stopped.cut(&events, cuts)?)
}

impl Stopped<'_> {
    fn at_write(&self, stop: u64) -> Result<(), String> {
        let device = FaultDevice::stopping_at(OverlayDevice::new(&self.damaged), stop);
        if trial::fsck(&device, self.undo).is_ok() {
            return Err(format!("write {stop}: hides that the device failed"));
        }
        self.finish(device.into_base(), &format!("write {stop}"))
    }

    /// The next run, and what it leaves.
    fn finish(&self, device: OverlayDevice<&State>, place: &str) -> Result<(), String> {
        let name = self.cell.name();
        match trial::fsck(&device, self.undo) {
            Err(error) => return Err(format!("{name}, {place}: {error}")),
            Ok(report) if report.exit > 1 => {
                return Err(format!("{name}, {place}: exit {}", report.exit));
            }
            Ok(_) => {}
        }
        if self.undo.exists() {
            return Err(format!("{name}, {place}: the undo log stays"));
        }
        let now = bytes(self.cell, &device);
        if now == self.expected {
            return Ok(());
        }
        let all = self.expected.keys().chain(now.keys());
        let other: Vec<_> = all
            .filter(|at| now.get(at) != self.expected.get(at))
            .collect();
        Err(format!("{name}, {place}: other bytes in blocks {other:?}"))
    }

    /// Cuts the power before each flush.
    fn cut(&self, events: &[Event], ways: usize) -> Result<usize, String> {
        let durable = OverlayDevice::new(&self.damaged);
        let mut rng = Rng::new(self.cell.seed);
        let (mut tried, mut epoch) = (0, 0);
        let mut writes: Vec<(u64, &[u8])> = Vec::new();
        for event in events {
            match event {
                Event::Write(offset, bytes) => {
                    let sectors = bytes.chunks(SECTOR).zip(0_u64..);
                    writes.extend(sectors.map(|(part, i)| (offset + i * SECTOR as u64, part)));
                }
                Event::Flush(log) => {
                    for way in 0..ways {
                        let device = OverlayDevice::new(&self.damaged);
                        copy(&durable, &device)?;
                        // The last one only, all but the first, and any.
                        for (number, (offset, part)) in writes.iter().enumerate() {
                            let kept = match way {
                                0 => number + 1 == writes.len(),
                                1 => number > 0,
                                _ => rng.below(2) == 1,
                            };
                            if kept {
                                device.write_at(*offset, part).map_err(|e| e.to_string())?;
                            }
                        }
                        if let Some(log) = log {
                            std::fs::write(self.undo, log).map_err(|e| e.to_string())?;
                        }
                        self.finish(device, &format!("epoch {epoch}, cut {way}"))?;
                        tried += 1;
                    }
                    for (offset, part) in writes.drain(..) {
                        durable.write_at(offset, part).map_err(|e| e.to_string())?;
                    }
                    epoch += 1;
                }
            }
        }
        Ok(tried)
    }
}

/// Brings one state to another device over the same volume.
fn copy(from: &OverlayDevice<&State>, to: &OverlayDevice<&State>) -> Result<(), String> {
    let mut sector = [0; SECTOR];
    for number in from.changed(SECTOR as u64) {
        let at = number * SECTOR as u64;
        let len = index((from.size() - at).min(SECTOR as u64));
        let done = from.read_at(at, &mut sector[..len]);
        let done = done.and_then(|()| to.write_at(at, &sector[..len]));
        done.map_err(|error| error.to_string())?;
    }
    Ok(())
}
