//! Sums of contents: SHA-256, and for large files one that is quick for images of disks.
//!
//! Files of up to [`WHOLE_MAX`] bytes have their plain SHA-256, the one that `sha256sum` prints. A
//! larger file has the sum of its pieces of 1 MiB (the last one may be shorter): the SHA-256 of, for
//! each piece that does not hold only zeros, its number counted from 0 (8 bytes, least first) and
//! its own SHA-256. It depends on nothing but the contents either, but all threads work on it, and
//! the holes of a disk image cost nothing.
//!
//! The crate `sha2` asks the processor at run time whether it has instructions for SHA-256.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::block::View;
use crate::error::{Error, FaultKind, Result};
use crate::read::extent::Extent;
use crate::read::file::{FileReader, Segment};
use crate::read::inode::Inode;
use crate::units::index;

/// Largest file whose sum is its plain SHA-256.
pub const WHOLE_MAX: u64 = 1 << 30;
/// Bytes of a piece.
pub const PIECE: u64 = 1 << 20;
/// Pieces whose sums wait to be taken together.
const BATCH: usize = 1024;
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// The sum of a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// SHA-256.
    Whole([u8; 32]),
    /// SHA-256 of the numbers and sums of the pieces that are not zero.
    Pieces([u8; 32]),
}

impl Sum {
    /// The sum as it stands in a line, with its key.
    #[must_use]
    pub fn shown(self) -> String {
        let (key, sum) = match self {
            Self::Whole(sum) => ("sha256", sum),
            Self::Pieces(sum) => ("sha256p", sum),
        };
        format!("{key}={}", super::text::hex(&sum))
    }
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The sum of some bytes as the contents of a file.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> Sum {
    if bytes.len() as u64 <= WHOLE_MAX {
        return Sum::Whole(sha256(bytes));
    }
    let mut hasher = Sha256::new();
    for (number, piece) in (0u64..).zip(bytes.chunks(index(PIECE))) {
        if piece.iter().any(|byte| *byte != 0) {
            hasher.update(number.to_le_bytes());
            hasher.update(sha256(piece));
        }
    }
    Sum::Pieces(hasher.finalize().into())
}

/// Sums files of a volume; what files share whole is summed once.
pub struct Summer<'a> {
    known: Mutex<HashMap<[u8; 32], Sum>>,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl std::fmt::Debug for Summer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summer").finish_non_exhaustive()
    }
}

impl<'a> Summer<'a> {
    /// One that tells `progress` of the bytes it has gone through.
    #[must_use]
    pub fn new(progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self {
            known: Mutex::default(),
            progress,
        }
    }

    /// The sum of a regular file.
    ///
    /// # Errors
    /// Contents cannot be read, or are more than a file can have.
    pub fn sum(&self, view: View<'_>, inode: &Inode<'_>) -> Result<Sum> {
        let file = open(view, inode)?;
        let extents = file.extents();
        // Whoever has the same extents has the same contents, without reading them again.
        let reused = inode.links() > 1 || extents.iter().any(Extent::is_refcounted);
        if !reused || file.is_inline() {
            return self.read(view, &file);
        }
        let key = identity(&file);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = known.get(&key).copied() {
            return Ok(sum);
        }
        // Not kept locked while reading: two threads may sum the same file, none waits for another.
        drop(known);
        let sum = self.read(view, &file)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, sum);
        Ok(sum)
    }

    fn read(&self, view: View<'_>, file: &FileReader<'_>) -> Result<Sum> {
        if file.size() <= WHOLE_MAX {
            self.whole(view, file).map(Sum::Whole)
        } else {
            self.pieces(file).map(Sum::Pieces)
        }
    }

    fn whole(&self, view: View<'_>, file: &FileReader<'_>) -> Result<[u8; 32]> {
        let mut hasher = Sha256::new();
        if file.is_inline() {
            let mut bytes = vec![0; index(file.size())];
            file.read_at(0, &mut bytes)?;
            hasher.update(&bytes);
            (self.progress)(file.size());
            return Ok(hasher.finalize().into());
        }
        for segment in file.segments() {
            let mut left = segment.len;
            let mut at = segment.blkno;
            while left > 0 {
                let now = left.min(CHUNK);
                if let Some(blkno) = at {
                    let blocks = view.geo().blocks_for(now);
                    let run = view.run(blkno, index(blocks))?;
                    hasher.update(run.get(..index(now)).unwrap_or(&run));
                    at = Some(blkno.plus(blocks));
                } else {
                    hasher.update(&ZEROS[..index(now)]);
                }
                left -= now;
                (self.progress)(now);
            }
        }
        Ok(hasher.finalize().into())
    }

    fn pieces(&self, file: &FileReader<'_>) -> Result<[u8; 32]> {
        let mut hasher = Sha256::new();
        let mut numbers = pieces_with_data(file.segments());
        let size = file.size();
        loop {
            let batch: Vec<u64> = numbers.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(hasher.finalize().into());
            }
            let sums: Vec<Result<Option<[u8; 32]>>> = batch
                .par_iter()
                .map_init(Vec::new, |bytes: &mut Vec<u8>, number| {
                    let from = number * PIECE;
                    bytes.resize(index(PIECE.min(size - from)), 0);
                    file.read_at(from, bytes)?;
                    (self.progress)(bytes.len() as u64);
                    let any = bytes.iter().any(|byte| *byte != 0);
                    Ok(any.then(|| sha256(bytes)))
                })
                .collect();
            for (number, sum) in batch.iter().zip(sums) {
                if let Some(sum) = sum? {
                    hasher.update(number.to_le_bytes());
                    hasher.update(sum);
                }
            }
        }
    }
}

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The pieces that data touches, in order.
fn pieces_with_data(segments: Vec<Segment>) -> impl Iterator<Item = u64> {
    let mut next = 0;
    let data = segments.into_iter().filter(|run| run.blkno.is_some());
    data.flat_map(move |run| {
        let first = (run.offset / PIECE).max(next);
        next = (run.offset + run.len).div_ceil(PIECE).max(next);
        first..next
    })
}

/// The contents of a regular file, when they are not more than a file can have.
///
/// # Errors
/// The inode or its extents are damaged.
pub fn open<'v>(view: View<'v>, inode: &Inode<'v>) -> Result<FileReader<'v>> {
    let geo = view.geo();
    let field = |field, value, rule| FaultKind::Field { field, value, rule };
    let size = inode.i_size.get();
    // Clusters are counted in 32 bits; a larger size would only bring zeros without end.
    if size >> geo.cluster_bits() > 1 << 32 {
        let rule = "it is more than a file can have";
        return Err(Error::from(field("i_size", size, rule).at(inode.blkno())));
    }
    let file = FileReader::open(view, inode)?;
    let unordered = |pair: &[Extent]| matches!(pair, [a, b] if a.end() > b.cpos);
    if let Some([_, after]) = file.extents().windows(2).find(|pair| unordered(pair)) {
        let rule = "the extent before it reaches beyond it";
        let fault = field("e_cpos", after.cpos.into(), rule).at(inode.blkno());
        return Err(Error::from(fault));
    }
    let mapped: u64 = file.extents().iter().map(|e| u64::from(e.clusters)).sum();
    if mapped > u64::from(geo.clusters()) {
        let rule = "its extents map more clusters than the volume has";
        return Err(Error::from(
            field("i_clusters", mapped, rule).at(inode.blkno()),
        ));
    }
    Ok(file)
}

/// A key that files have in common when they have the same size and the same extents.
#[must_use]
pub fn identity(file: &FileReader<'_>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(file.size().to_le_bytes());
    for extent in file.extents() {
        hasher.update(extent.cpos.to_le_bytes());
        hasher.update(extent.clusters.to_le_bytes());
        hasher.update(extent.blkno.0.to_le_bytes());
        hasher.update([u8::from(extent.is_unwritten())]);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockNo;

    #[test]
    fn sums_are_those_of_the_standard() {
        // FIPS 180-4, example 1.
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex: String = sha256(b"abc").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, sum);
    }

    #[test]
    fn pieces_are_those_that_data_touches() {
        let run = |offset, len, data: bool| Segment {
            offset,
            len,
            blkno: data.then_some(BlockNo(7)),
        };
        let segments = vec![
            run(0, 10, true),
            run(10, 10, true),
            run(20, PIECE * 3, false),
            run(20 + PIECE * 3, PIECE, true),
            run(20 + PIECE * 4, 5, true),
            run(30 + PIECE * 4, PIECE, false),
        ];
        let touched: Vec<u64> = pieces_with_data(segments).collect();
        assert_eq!(touched, [0, 3, 4]);
    }
}
