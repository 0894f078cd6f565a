//! The device that saves what it holds before it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zerocopy::{FromZeros, IntoBytes};

use super::{ENTRY_MAGIC, EntryHead, FIRST, SECTOR, UNIT, UndoLog, ZEROS, sums};
use crate::device::{Device, DeviceMut, beyond_end};
use crate::error::IoError;
use crate::units::{index, low32};

/// Units that may wait for the next flush.
const WAITING: usize = 2048;
/// Bytes that are written to the log, or the device, at a time.
const RUN: usize = 1 << 20;

/// A device that saves what it holds in an undo log before it is written. Writes wait in memory until
/// a flush, or until there are many of them; reads see them.
///
/// When it is dropped, writes that nobody flushed are forgotten, and the log says that it is
/// finished, unless something failed.
#[derive(Debug)]
pub struct Recording<D: DeviceMut> {
    base: D,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: UndoLog,
    /// Units whose old bytes are in the log.
    saved: BTreeSet<u64>,
    waiting: BTreeMap<u64, Box<[u8]>>,
    /// Once the log or the device has failed, nothing more is written.
    failed: bool,
}

impl<D: DeviceMut> Recording<D> {
    /// Takes a device and a log that was created for it.
    pub const fn new(base: D, log: UndoLog) -> Self {
        Self {
            base,
            state: Mutex::new(State {
                log,
                saved: BTreeSet::new(),
                waiting: BTreeMap::new(),
                failed: false,
            }),
        }
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Saves what the waiting units replace, and writes them.
    fn drain(&mut self, base: &dyn DeviceMut) -> Result<(), IoError> {
        if self.failed {
            return Err(undo_error(io::Error::other(
                "nothing is written any more after an earlier failure",
            )));
        }
        let waiting = std::mem::take(&mut self.waiting);
        let done = self.write(base, &waiting);
        self.failed = done.is_err();
        done
    }

    fn write(
        &mut self,
        base: &dyn DeviceMut,
        waiting: &BTreeMap<u64, Box<[u8]>>,
    ) -> Result<(), IoError> {
        let mut old = vec![0; index(UNIT)];
        let mut out: Vec<u8> = Vec::new();
        let (mut written, mut entries) = (0u64, 0u64);
        let end = self.log.progress.end.get();
        let first = self.log.progress.entries.get();
        let mut changed = Vec::new();
        for (offset, new) in waiting {
            let old = &mut old[..new.len()];
            let whole = read_parts(base, *offset, old);
            if whole && *old == **new {
                continue;
            }
            changed.push((*offset, &**new));
            let mut head = EntryHead::new_zeroed();
            head.magic = ENTRY_MAGIC;
            head.offset = (*offset).into();
            head.len = low32(new.len() as u64).into();
            head.number = (first + entries).into();
            head.sums = sums(new).map(Into::into);
            let mut bytes: &[u8] = &[];
            if !self.saved.contains(offset) {
                if old.iter().all(|byte| *byte == 0) {
                    head.flags = ZEROS.into();
                } else {
                    head.flags = FIRST.into();
                    bytes = old;
                }
            }
            head.crc = head.own_crc(bytes).into();
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(bytes);
            entries += 1;
            if out.len() >= RUN {
                self.append(&mut out, end, &mut written)?;
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.append(&mut out, end, &mut written)?;
        let step = self.log.step(written, entries, false);
        step.map_err(undo_error)?;
        self.saved.extend(changed.iter().map(|(offset, _)| *offset));
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        for (offset, new) in changed {
            let follows = start + run.len() as u64 == offset;
            if !run.is_empty() && (!follows || run.len() >= RUN) {
                base.write_at(start, &run)?;
                run.clear();
            }
            if run.is_empty() {
                start = offset;
            }
            run.extend_from_slice(new);
        }
        base.write_at(start, &run)
    }

    fn append(&self, out: &mut Vec<u8>, end: u64, written: &mut u64) -> Result<(), IoError> {
        let wrote = self.log.file.write_all_at(out, end + *written);
        wrote.map_err(undo_error)?;
        *written += out.len() as u64;
        out.clear();
        Ok(())
    }
}

/// Reads a unit, or what can be read of it, sector by sector; whether that is all. What cannot be read is
/// zeros: there is nothing else to put back.
fn read_parts(base: &dyn DeviceMut, offset: u64, unit: &mut [u8]) -> bool {
    if base.read_at(offset, unit).is_ok() {
        return true;
    }
    for (number, sector) in (0u64..).zip(unit.chunks_mut(SECTOR)) {
        if base
            .read_at(offset + number * SECTOR as u64, sector)
            .is_err()
        {
            sector.fill(0);
        }
    }
    false
}

fn undo_error(source: io::Error) -> IoError {
    IoError {
        op: "save for the undo log",
        offset: 0,
        len: 0,
        source,
    }
}

impl<D: DeviceMut> Device for Recording<D> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let state = self.state();
        self.base.read_at(offset, buf)?;
        let end = offset.saturating_add(buf.len() as u64);
        for (&at, unit) in state.waiting.range(offset / UNIT * UNIT..end) {
            let (from, to) = (at.max(offset), (at + unit.len() as u64).min(end));
            if from < to {
                buf[index(from - offset)..index(to - offset)]
                    .copy_from_slice(&unit[index(from - at)..index(to - at)]);
            }
        }
        Ok(())
    }

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let end = offset.saturating_add(buf.len() as u64);
        let waits = {
            let state = self.state();
            let mut units = state.waiting.range(offset / UNIT * UNIT..end);
            units.next().is_some()
        };
        if waits {
            self.read_at(offset, buf)
        } else {
            self.base.read_fresh(offset, buf)
        }
    }
}

impl<D: DeviceMut> DeviceMut for Recording<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let size = self.size();
        let end = offset.checked_add(data.len() as u64);
        let Some(end) = end.filter(|end| *end <= size) else {
            return Err(beyond_end("write", offset, data.len(), size));
        };
        let mut state = self.state();
        let mut at = offset / UNIT * UNIT;
        while at < end {
            let len = UNIT.min(size - at);
            let (from, to) = (at.max(offset), (at + len).min(end));
            let new = &data[index(from - offset)..index(to - offset)];
            if let Some(unit) = state.waiting.get_mut(&at) {
                unit[index(from - at)..index(to - at)].copy_from_slice(new);
            } else {
                let mut unit = vec![0; index(len)].into_boxed_slice();
                if new.len() < unit.len() {
                    read_parts(&self.base, at, &mut unit);
                }
                unit[index(from - at)..index(to - at)].copy_from_slice(new);
                state.waiting.insert(at, unit);
            }
            if state.waiting.len() >= WAITING {
                state.drain(&self.base)?;
            }
            at += UNIT;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        self.state().drain(&self.base)?;
        self.base.flush()
    }
}

impl<D: DeviceMut> Drop for Recording<D> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.failed && !std::thread::panicking() {
            // Without this mark a rollback is a little less strict.
            let _ = state.log.step(0, 0, true);
        }
    }
}
