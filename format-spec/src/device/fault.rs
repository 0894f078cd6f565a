//! A device that fails on purpose, for tests of what a crash or a bad block leaves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Device, DeviceMut};
use crate::error::IoError;

/// Passes everything on until a chosen write, from which on all writes and flushes fail, as if the
/// machine had stopped there; fails one chosen read or write; and fails reads of chosen ranges.
#[derive(Debug)]
pub struct FaultDevice<D> {
    base: D,
    reads: AtomicU64,
    writes: AtomicU64,
    stop_at: u64,
    failing_read: u64,
    failing_write: u64,
    unreadable: Mutex<BTreeSet<u64>>,
}

impl<D> FaultDevice<D> {
    const fn sound(base: D) -> Self {
        Self {
            base,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            stop_at: u64::MAX,
            failing_read: u64::MAX,
            failing_write: u64::MAX,
            unreadable: Mutex::new(BTreeSet::new()),
        }
    }

    /// A device whose writes from number `stop_at` on (counted from 0) fail.
    pub const fn stopping_at(base: D, stop_at: u64) -> Self {
        let mut device = Self::sound(base);
        device.stop_at = stop_at;
        device
    }

    /// A device of which one read, number `nth` (counted from 0), fails.
    pub const fn failing_read(base: D, nth: u64) -> Self {
        let mut device = Self::sound(base);
        device.failing_read = nth;
        device
    }

    /// A device of which one write, number `nth` (counted from 0), fails.
    pub const fn failing_write(base: D, nth: u64) -> Self {
        let mut device = Self::sound(base);
        device.failing_write = nth;
        device
    }

    /// A device on which every read that touches one of these 512-byte sectors fails, until the sector
    /// is written: a disk then gives it another place.
    pub fn unreadable(base: D, sectors: impl IntoIterator<Item = u64>) -> Self {
        let mut device = Self::sound(base);
        device.unreadable = Mutex::new(sectors.into_iter().collect());
        device
    }

    /// Number of reads tried so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Number of writes tried so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// The device below.
    pub fn into_base(self) -> D {
        self.base
    }

    /// Whole sectors that were written can be read again.
    fn heal(&self, offset: u64, len: u64) {
        let mut unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !unreadable.is_empty() {
            let written = offset.div_ceil(512)..offset.saturating_add(len) / 512;
            unreadable.retain(|sector| !written.contains(sector));
        }
    }

    fn stopped(&self, op: &'static str, offset: u64, len: u64) -> Result<(), IoError> {
        let writes = self.writes.load(Ordering::SeqCst);
        if writes > self.stop_at {
            let source = std::io::Error::other("the device has stopped");
            return Err(IoError {
                op,
                offset,
                len,
                source,
            });
        }
        Ok(())
    }
}

/// The error of a device that cannot do it.
fn broken(op: &'static str, offset: u64, len: u64) -> IoError {
    const EIO: i32 = 5;
    IoError {
        op,
        offset,
        len,
        source: std::io::Error::from_raw_os_error(EIO),
    }
}

impl<D: Device> Device for FaultDevice<D> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        let end = offset.saturating_add(buf.len() as u64).div_ceil(512);
        let unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let unreadable = unreadable.range(offset / 512..end).next().is_some();
        if unreadable || number == self.failing_read {
            return Err(broken("read", offset, buf.len() as u64));
        }
        self.base.read_at(offset, buf)
    }
}

impl<D: DeviceMut> DeviceMut for FaultDevice<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        self.stopped("write", offset, data.len() as u64)?;
        if number == self.failing_write {
            return Err(broken("write", offset, data.len() as u64));
        }
        self.base.write_at(offset, data)?;
        self.heal(offset, data.len() as u64);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        self.stopped("zero", offset, len)?;
        if number == self.failing_write {
            return Err(broken("zero", offset, len));
        }
        self.base.write_zeros(offset, len)?;
        self.heal(offset, len);
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        self.stopped("flush", 0, 0)?;
        self.base.flush()
    }
}
