//! A regular file mapped read-only: no copy and no system call a block.
//!
//! This is the one file with `unsafe` code. A mapping is only sound while nobody shortens the
//! file; callers hold a lock on it. Should somebody shorten it all the same, the kernel ends the
//! process with SIGBUS: nothing is written, because a mapping is never used for writing.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::{Device, beyond_end, range};
use crate::error::IoError;

/// Bytes that the kernel maps at a time, at the most, where it holds a file in large pieces: as many of
/// them count as memory of the process for a single byte that was looked at.
const PIECE: usize = 2 << 20;

/// Pieces that stay mapped. What was mapped first goes first.
const MOST_PIECES: usize = 16;

/// A file mapped into memory, read-only. However much of it is read, the process keeps only some
/// megabytes of it.
#[derive(Debug)]
pub struct MmapDevice {
    map: Mmap,
    /// A bit for each piece that is mapped.
    is_mapped: Box<[AtomicU64]>,
    /// The pieces that are mapped, in the order in which that began.
    pieces: Mutex<VecDeque<usize>>,
}

impl MmapDevice {
    /// Maps a whole regular file.
    ///
    /// # Errors
    /// The file cannot be mapped (empty, too large for the address space, no regular file).
    pub fn new(file: &File) -> std::io::Result<Self> {
        // Safety: the file is open for reading and locked by the caller, so that no cooperating
        // program shortens it; we never hand out a mutable reference.
        let map = unsafe { Mmap::map(file)? };
        // Metadata lies scattered. Reading ahead around every block of it costs far more than it
        // saves, above all in the holes of sparse images; runs are asked for by `prefetch`.
        let _ = map.advise(Advice::Random);
        let words = map.len().div_ceil(PIECE).div_ceil(64);
        Ok(Self {
            map,
            is_mapped: (0..words).map(|_| AtomicU64::new(0)).collect(),
            pieces: Mutex::default(),
        })
    }

    /// The bytes of a range inside the file.
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        let pieces = range.start / PIECE..range.end.div_ceil(PIECE);
        for piece in pieces {
            let bit = 1 << (piece % 64);
            let Some(word) = self.is_mapped.get(piece / 64) else {
                break;
            };
            // Most reads end with the first half: they are in a piece that is mapped.
            let is_new = word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
            if is_new {
                self.begins(piece);
            }
        }
        self.map.get(range).unwrap_or_default()
    }

    /// Notes that a piece is mapped from now on, in the place of the oldest one.
    fn begins(&self, piece: usize) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.push_back(piece);
        let oldest = (pieces.len() > MOST_PIECES).then(|| pieces.pop_front());
        drop(pieces);
        let Some(oldest) = oldest.flatten() else {
            return;
        };
        if let Some(word) = self.is_mapped.get(oldest / 64) {
            word.fetch_and(!(1 << (oldest % 64)), Ordering::Relaxed);
        }
        let start = oldest * PIECE;
        let len = PIECE.min(self.map.len() - start);
        let advice = UncheckedAdvice::DontNeed;
        // Safety: the mapping is of a file and never written, so that a page which is dropped
        // comes back with the same bytes when somebody who still holds a slice looks at it.
        let _ = unsafe { self.map.unchecked_advise_range(advice, start, len) };
    }
}

impl Device for MmapDevice {
    fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let range = range(offset, buf.len(), self.map.len())
            .ok_or_else(|| beyond_end("read", offset, buf.len(), self.size()))?;
        buf.copy_from_slice(self.bytes(range));
        Ok(())
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        Some(self.bytes(range(offset, len, self.map.len())?))
    }

    fn prefetch(&self, offset: u64, len: usize) {
        if let Some(range) = range(offset, len, self.map.len()) {
            let _ = self
                .map
                .advise_range(Advice::WillNeed, range.start, range.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_read_stays_the_same_and_little_of_it_stays_mapped() {
        let mut file = tempfile::tempfile().unwrap();
        let pieces = 3 * MOST_PIECES;
        file.set_len((pieces * PIECE) as u64).unwrap();
        file.write_all(b"first").unwrap();
        let device = MmapDevice::new(&file).unwrap();
        let held = device.mapped(0, 5).unwrap();
        for piece in 0..pieces as u64 {
            // Over the end of one piece into the next.
            let at = (piece + 1) * PIECE as u64 - 2;
            let len = if piece + 1 == pieces as u64 { 2 } else { 4 };
            assert_eq!(device.mapped(at, len).unwrap(), vec![0; len]);
        }
        let mapped = || -> u32 {
            let words = device.is_mapped.iter();
            words
                .map(|word| word.load(Ordering::Relaxed).count_ones())
                .sum()
        };
        assert_eq!(mapped() as usize, MOST_PIECES);
        assert_eq!(device.pieces.lock().unwrap().len(), MOST_PIECES);
        assert_eq!(held, b"first");
        assert!(device.mapped((pieces * PIECE) as u64 - 1, 2).is_none());
    }
}
