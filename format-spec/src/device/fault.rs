//! A device that fails on purpose, for tests of what a crash or a bad block leaves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Device, DeviceMut};
use crate::error::IoError;

/// Passes everything on until a chosen write, from which on all writes and flushes fail, as if the
/// machine had stopped there; and fails reads of chosen ranges.
#[derive(Debug)]
pub struct FaultDevice<D> {
    base: D,
    writes: AtomicU64,
    stop_at: u64,
    unreadable: BTreeSet<u64>,
}

impl<D> FaultDevice<D> {
    /// A device whose writes from number `stop_at` on (counted from 0) fail.
    pub const fn stopping_at(base: D, stop_at: u64) -> Self {
        Self {
            base,
            writes: AtomicU64::new(0),
            stop_at,
            unreadable: BTreeSet::new(),
        }
    }

    /// A device on which every read that touches one of these 512-byte sectors fails.
    pub fn unreadable(base: D, sectors: impl IntoIterator<Item = u64>) -> Self {
        Self {
            base,
            writes: AtomicU64::new(0),
            stop_at: u64::MAX,
            unreadable: sectors.into_iter().collect(),
        }
    }

    /// Number of writes tried so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// The device below.
    pub fn into_base(self) -> D {
        self.base
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

impl<D: Device> Device for FaultDevice<D> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let end = offset.saturating_add(buf.len() as u64).div_ceil(512);
        if self.unreadable.range(offset / 512..end).next().is_some() {
            let source = std::io::Error::from_raw_os_error(5);
            return Err(IoError {
                op: "read",
                offset,
                len: buf.len() as u64,
                source,
            });
        }
        self.base.read_at(offset, buf)
    }
}

impl<D: DeviceMut> DeviceMut for FaultDevice<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.stopped("write", offset, data.len() as u64)?;
        self.base.write_at(offset, data)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.stopped("zero", offset, len)?;
        self.base.write_zeros(offset, len)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.stopped("flush", 0, 0)?;
        self.base.flush()
    }
}
