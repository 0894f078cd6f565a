//! Writes kept in memory over a device that is only read: dry runs and staged states.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::{Device, DeviceMut, beyond_end};
use crate::error::IoError;

/// Granularity of the overlay; the smallest block size, so that blocks never share a piece.
const PIECE: u64 = 512;

/// A device seen through the writes made so far, none of which reaches it.
#[derive(Debug)]
pub struct OverlayDevice<D> {
    base: D,
    pieces: RwLock<BTreeMap<u64, Box<[u8]>>>,
}

impl<D: Device> OverlayDevice<D> {
    /// An overlay without writes.
    pub const fn new(base: D) -> Self {
        Self {
            base,
            pieces: RwLock::new(BTreeMap::new()),
        }
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    /// Number of bytes that were written over.
    #[must_use]
    pub fn overlaid_bytes(&self) -> u64 {
        self.pieces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len() as u64
            * PIECE
    }
}

impl<D: Device> OverlayDevice<D> {
    /// The numbers of the units of `unit` bytes (a multiple of 512) that read differently from the
    /// device below, in order. What cannot be read there differs.
    pub fn changed(&self, unit: u64) -> Vec<u64> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let mut units: Vec<u64> = Vec::new();
        for (&at, piece) in pieces.iter() {
            let number = at / unit.max(PIECE);
            if units.last() == Some(&number) {
                continue;
            }
            let mut below = vec![0; crate::units::index(PIECE.min(self.size() - at))];
            let read = self.base.read_at(at, &mut below);
            if read.is_err() || piece.get(..below.len()) != Some(&below) {
                units.push(number);
            }
        }
        units
    }
}

impl<D: Device> Device for OverlayDevice<D> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let size = self.size();
        let end = offset.checked_add(buf.len() as u64);
        let Some(end) = end.filter(|end| *end <= size) else {
            return Err(beyond_end("read", offset, buf.len(), size));
        };
        let read = self.base.read_at(offset, buf);
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        if read.is_err() {
            // What fails below may have been written over here.
            let mut at = offset;
            while at < end {
                let next = (at / PIECE * PIECE + PIECE).min(end);
                if !pieces.contains_key(&(at / PIECE * PIECE)) {
                    let (from, to) = (at - offset, next - offset);
                    let part = &mut buf[crate::units::index(from)..crate::units::index(to)];
                    self.base.read_at(at, part)?;
                }
                at = next;
            }
        }
        for (&at, piece) in pieces.range(offset / PIECE * PIECE..end) {
            let from = at.max(offset);
            let to = (at + PIECE).min(end);
            let (src, dst) = (
                crate::units::index(from - at),
                crate::units::index(from - offset),
            );
            let len = crate::units::index(to - from);
            buf[dst..dst + len].copy_from_slice(&piece[src..src + len]);
        }
        Ok(())
    }

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(buf.len() as u64);
        if pieces.range(offset / PIECE * PIECE..end).next().is_some() {
            drop(pieces);
            return self.read_at(offset, buf);
        }
        self.base.read_fresh(offset, buf)
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(len as u64)?;
        if pieces.range(offset / PIECE * PIECE..end).next().is_some() {
            return None;
        }
        self.base.mapped(offset, len)
    }
}

impl<D: Device> DeviceMut for OverlayDevice<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let size = self.size();
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > size)
        {
            return Err(beyond_end("write", offset, data.len(), size));
        }
        let mut pieces = self.pieces.write().unwrap_or_else(PoisonError::into_inner);
        let end = offset + data.len() as u64;
        let mut at = offset / PIECE * PIECE;
        while at < end {
            let piece = match pieces.entry(at) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    let mut bytes = vec![0; crate::units::index(PIECE.min(size - at))];
                    if at < offset || end - at < bytes.len() as u64 {
                        self.base.read_at(at, &mut bytes)?;
                    }
                    bytes.resize(crate::units::index(PIECE), 0);
                    e.insert(bytes.into())
                }
            };
            let from = at.max(offset);
            let to = (at + PIECE).min(end);
            let (dst, src) = (
                crate::units::index(from - at),
                crate::units::index(from - offset),
            );
            let len = crate::units::index(to - from);
            piece[dst..dst + len].copy_from_slice(&data[src..src + len]);
            at += PIECE;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{FaultDevice, MemDevice};
    use proptest::prelude::*;

    #[test]
    fn what_lies_beyond_the_end_is_an_error() {
        let overlay = OverlayDevice::new(MemDevice::new(vec![0; 8192]));
        for offset in [8192, 8191, u64::MAX, u64::MAX - 511] {
            assert!(overlay.read_at(offset, &mut [0; 512]).is_err());
            assert!(overlay.read_fresh(offset, &mut [0; 512]).is_err());
            assert!(overlay.write_at(offset, &[0; 512]).is_err());
            assert!(overlay.mapped(offset, 512).is_none());
        }
    }

    proptest! {
        #[test]
        fn reads_what_was_written_and_leaves_the_base(
            writes in proptest::collection::vec((0usize..3000, 1usize..900, any::<u8>()), 0..12),
        ) {
            let base = MemDevice::new((0..4000u32).map(|i| i.to_le_bytes()[0]).collect());
            let before = base.snapshot();
            let overlay = OverlayDevice::new(&base);
            let mut model = before.clone();
            for (at, len, byte) in writes {
                overlay.write_at(at as u64, &vec![byte; len]).unwrap();
                model[at..at + len].fill(byte);
            }
            let mut seen = vec![0; 4000];
            overlay.read_at(0, &mut seen).unwrap();
            prop_assert_eq!(&seen, &model);
            let mut part = vec![0; 700];
            overlay.read_at(1234, &mut part).unwrap();
            prop_assert_eq!(&part[..], &model[1234..1934]);
            let differs = |unit: &u64| {
                let at = usize::try_from(unit * 1024).unwrap();
                model[at..4000.min(at + 1024)] != before[at..4000.min(at + 1024)]
            };
            prop_assert_eq!(overlay.changed(1024), (0..4).filter(differs).collect::<Vec<_>>());
            prop_assert_eq!(base.snapshot(), before);
        }
    }

    #[test]
    fn what_fails_below_is_read_once_it_was_written_over() {
        let base = FaultDevice::unreadable(MemDevice::new(vec![1; 4096]), [2, 3]);
        let overlay = OverlayDevice::new(&base);
        let mut seen = vec![0; 2048];
        assert!(overlay.read_at(0, &mut seen).is_err());
        assert!(
            overlay.write_at(1100, &[2; 10]).is_err(),
            "the rest is not known"
        );
        overlay.write_at(1024, &[2; 1024]).unwrap();
        overlay.read_at(0, &mut seen).unwrap();
        assert_eq!((seen[1023], seen[1024], seen[2047]), (1, 2, 2));
        assert_eq!(overlay.changed(1024), [1]);
        base.write_at(1024, &[2; 1024]).unwrap();
        assert!(
            base.read_at(0, &mut seen).is_ok(),
            "a disk gives it another place"
        );
        assert!(overlay.changed(1024).is_empty());
    }

    #[test]
    fn refuses_to_write_beyond_the_end() {
        let overlay = OverlayDevice::new(MemDevice::new(vec![0; 1000]));
        assert!(overlay.write_at(990, &[1; 10]).is_ok());
        assert!(overlay.write_at(991, &[1; 10]).is_err());
        assert!(overlay.write_at(u64::MAX, &[1; 10]).is_err());
    }
}
