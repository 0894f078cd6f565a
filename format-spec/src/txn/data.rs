//! Writing file data.
//!
//! Data does not go through the journal where nothing on disk refers to its clusters yet: it is written
//! at once, and what refers to it comes with the commit. Blocks that an earlier operation staged, because
//! they hold what the volume shows before the commit or stand beside it, stay staged. A step of a [`super::Group`] must be more
//! careful: what earlier steps staged can still be given up, and then the volume is as it was. So only
//! what the step itself allocated is written at once, and everything else is staged, block by block.

use std::os::unix::fs::FileExt;

use crate::error::Result;
use crate::txn::Txn;
use crate::units::{BlockNo, ClusterNo, index, low32};

/// A part of a range of data.
struct Piece {
    /// First byte on the device.
    offset: u64,
    len: u64,
    /// The block that it is a part of, when it must be staged.
    staged: Option<BlockNo>,
}

impl Txn<'_> {
    /// Writes file data into clusters that this transaction allocated, `skip` bytes behind the
    /// start of `cluster`. Nothing refers to them before the commit. What a group's step did not
    /// allocate itself is staged.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn write_data(&mut self, cluster: ClusterNo, skip: u64, data: &[u8]) -> Result<()> {
        let mut rest = data;
        for piece in self.pieces(cluster, skip, data.len() as u64) {
            let (part, behind) = rest.split_at(index(piece.len).min(rest.len()));
            rest = behind;
            match piece.staged {
                None => self.device.write_at(piece.offset, part)?,
                Some(blkno) => self.fill(blkno, &piece, |place| place.copy_from_slice(part))?,
            }
        }
        Ok(())
    }

    /// Copies `len` bytes from byte `from` of a host file into clusters, `skip` bytes behind the
    /// start of `cluster`.
    ///
    /// # Errors
    /// The file cannot be read or ends too early, or the device fails.
    pub(crate) fn copy_data(
        &mut self,
        cluster: ClusterNo,
        skip: u64,
        file: &std::fs::File,
        mut from: u64,
        len: u64,
    ) -> std::io::Result<()> {
        for piece in self.pieces(cluster, skip, len) {
            match piece.staged {
                None => self.device.copy_from(file, from, piece.offset, piece.len)?,
                Some(blkno) => self
                    .fill(blkno, &piece, |place| file.read_exact_at(place, from))
                    .map_err(std::io::Error::other)??,
            }
            from += piece.len;
        }
        Ok(())
    }

    /// Makes a range of new clusters read as zeros.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn zero_data(&mut self, cluster: ClusterNo, skip: u64, len: u64) -> Result<()> {
        for piece in self.pieces(cluster, skip, len) {
            match piece.staged {
                None => self.device.write_zeros(piece.offset, piece.len)?,
                Some(blkno) => self.fill(blkno, &piece, |place| place.fill(0))?,
            }
        }
        Ok(())
    }

    /// Gives the bytes of a piece that is staged to `fill`.
    fn fill<T>(
        &mut self,
        blkno: BlockNo,
        piece: &Piece,
        fill: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T> {
        let skip = index(piece.offset - self.info.geo.byte_of(blkno));
        let mut edit = self.edit_raw(blkno, None)?;
        Ok(fill(&mut edit.bytes_mut()[skip..skip + index(piece.len)]))
    }

    /// A range of bytes behind the start of `cluster` in parts that go to the device at once, and
    /// parts that are staged, block by block.
    fn pieces(&self, cluster: ClusterNo, skip: u64, len: u64) -> Vec<Piece> {
        let geo = self.info.geo;
        let base = u64::from(cluster.0) << geo.cluster_bits();
        let mut pieces = Vec::new();
        for (direct, from, len) in self.written_runs(cluster, skip, len) {
            let (mut offset, end) = (base + from, base + from + len);
            let first = BlockNo(offset >> geo.block_bits());
            let behind = BlockNo(end.div_ceil(geo.block_bytes() as u64));
            let mut push = |to: u64, staged| {
                if to > offset {
                    let len = to - offset;
                    pieces.push(Piece {
                        offset,
                        len,
                        staged,
                    });
                    offset = to;
                }
            };
            let mut stage = |blkno: BlockNo| {
                push(geo.byte_of(blkno), None);
                push(geo.byte_of(blkno.plus(1)).min(end), Some(blkno));
            };
            if direct {
                self.staged
                    .range(first..behind)
                    .for_each(|(blkno, _)| stage(*blkno));
            } else {
                (first.0..behind.0).map(BlockNo).for_each(stage);
            }
            push(end, None);
        }
        pieces
    }

    /// The parts of a range of bytes behind the start of `cluster` that may be written at once
    /// (true), and those that must be staged: only a step of a group has such.
    fn written_runs(&self, cluster: ClusterNo, skip: u64, len: u64) -> Vec<(bool, u64, u64)> {
        if !self.grouped || len == 0 {
            return vec![(true, skip, len)];
        }
        let bits = self.info.geo.cluster_bits();
        let end = skip + len;
        let mut runs: Vec<(bool, u64, u64)> = Vec::new();
        let mut at = skip;
        while at < end {
            let own = low32(at >> bits);
            let stop = ((u64::from(own) + 1) << bits).min(end);
            let new = self.is_new_cluster(cluster.plus(own));
            match runs.last_mut() {
                Some((same, _, len)) if *same == new => *len += stop - at,
                _ => runs.push((new, at, stop - at)),
            }
            at = stop;
        }
        runs
    }
}
