//! A regular file mapped read-only: no copy and no system call a block.
//!
//! This is the one file with `unsafe` code. A mapping is only sound while nobody shortens the
//! file; callers hold a lock on it. Should somebody shorten it all the same, the kernel ends the
//! process with SIGBUS: nothing is written, because a mapping is never used for writing.
#![allow(unsafe_code)]

use std::fs::File;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::{Device, beyond_end, range};
use crate::error::IoError;

/// Bytes that the kernel maps at a time, at the most, when it has read them from a disk: what is given
/// back is whole pieces, or the rest of them stays.
const PIECE: usize = 2 << 20;

/// A file mapped into memory, read-only.
#[derive(Debug)]
pub struct MmapDevice {
    map: Mmap,
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
        Ok(Self { map })
    }
}

impl Device for MmapDevice {
    fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let range = range(offset, buf.len(), self.map.len())
            .ok_or_else(|| beyond_end("read", offset, buf.len(), self.size()))?;
        buf.copy_from_slice(&self.map[range]);
        Ok(())
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.map.get(range(offset, len, self.map.len())?)
    }

    fn prefetch(&self, offset: u64, len: usize) {
        if let Some(range) = range(offset, len, self.map.len()) {
            let _ = self
                .map
                .advise_range(Advice::WillNeed, range.start, range.len());
        }
    }

    fn release(&self, offset: u64, len: usize) {
        if let Some(range) = range(offset, len, self.map.len()) {
            let start = range.start - range.start % PIECE;
            let end = range.end.next_multiple_of(PIECE).min(self.map.len());
            let advice = UncheckedAdvice::DontNeed;
            // Safety: the mapping is of a file and never written, so that a page which is dropped
            // comes back with the same bytes when somebody who still holds a slice looks at it.
            let _ = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
        }
    }
}
