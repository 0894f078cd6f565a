//! The code: parity of groups, and lost shards from the others.

use std::ops::Range;

use reed_solomon_erasure::galois_8::ReedSolomon;

use super::list::List;
use super::shape::Shape;
use super::store::{Blocks, sums_of};
use crate::error::{Error, IoError, Result};
use crate::units::index;

/// Bytes of a row that are worked on at a time: with its parity they stay in the caches.
const ROW: usize = 64 << 10;

/// Groups of a seal over a device.
pub(super) struct Coder<'s> {
    pub(super) blocks: Blocks<'s>,
    pub(super) list: &'s List,
    pub(super) shape: Shape,
    codec: ReedSolomon,
}

/// The parity of some groups.
pub(super) struct Coded {
    /// Shard by shard, the blocks of all groups.
    pub(super) parity: Vec<Vec<u8>>,
    /// Group by group, the sums of all shards.
    pub(super) sums: Vec<u32>,
}

impl<'s> Coder<'s> {
    /// # Errors
    /// The processor lacks what the code is made for.
    pub(super) fn new(blocks: Blocks<'s>, list: &'s List, shape: Shape) -> Result<Self> {
        usable()?;
        let (data, parity) = (usize::from(shape.data), usize::from(shape.parity));
        let codec = ReedSolomon::new(data, parity).map_err(|error| Error::Input {
            what: format!("a seal of {data} and {parity} shards cannot be: {error}"),
        })?;
        Ok(Self {
            blocks,
            list,
            shape,
            codec,
        })
    }

    /// Work items: runs of groups.
    pub(super) fn items(shape: &Shape) -> Vec<Range<u64>> {
        let step = (ROW / shape.block).max(1);
        let starts = (0..shape.groups).step_by(step);
        starts
            .map(|start| start..(start + step as u64).min(shape.groups))
            .collect()
    }

    /// Shows the data shards of some groups, in order.
    pub(super) fn rows(
        &self,
        groups: &Range<u64>,
        bad: &mut Vec<u64>,
        each: &mut dyn FnMut(usize, u64, &[u8]),
    ) {
        let mut row = vec![0; index(groups.end - groups.start) * self.shape.block];
        for shard in 0..usize::from(self.shape.data) {
            let from = shard as u64 * self.shape.groups + groups.start;
            self.blocks.row(self.list, from, &mut row, bad);
            each(shard, from, &row);
        }
    }

    /// The parity of some groups.
    ///
    /// # Errors
    /// A block cannot be read.
    pub(super) fn encode(&self, groups: &Range<u64>) -> Result<Coded> {
        let count = index(groups.end - groups.start);
        let shards = index(self.shape.shards());
        let mut parity = vec![vec![0; count * self.shape.block]; usize::from(self.shape.parity)];
        let mut sums = vec![0; count * shards];
        let (mut bad, mut failed) = (Vec::new(), None);
        let mut note = |shard: usize, row: &[u8]| {
            for (group, sum) in sums_of(row, self.shape.block).enumerate() {
                if let Some(place) = sums.get_mut(group * shards + shard) {
                    *place = sum;
                }
            }
        };
        self.rows(groups, &mut bad, &mut |shard, _, row| {
            note(shard, row);
            if let Err(error) = self.codec.encode_single_sep(shard, row, &mut parity) {
                failed = Some(error);
            }
        });
        for (i, row) in parity.iter().enumerate() {
            note(usize::from(self.shape.data) + i, row);
        }
        if let Some(slot) = bad.first() {
            return Err(unreadable(self.list, *slot).into());
        }
        match failed {
            Some(error) => Err(coding(error)),
            None => Ok(Coded { parity, sums }),
        }
    }

    /// Fills in the data shards of a group that are missing, where enough of the others are there.
    ///
    /// # Errors
    /// Too many are missing.
    pub(super) fn reconstruct(&self, shards: &mut [Option<Vec<u8>>]) -> Result<()> {
        self.codec.reconstruct_data(shards).map_err(coding)
    }
}

fn coding(error: reed_solomon_erasure::Error) -> Error {
    let what = format!("the parity of a seal: {error}");
    Error::Input { what }
}

fn unreadable(list: &List, slot: u64) -> IoError {
    let run = list.runs.get(list.run_at(slot));
    let blkno = run.map_or(0, |run| run.span.first.0 + slot.saturating_sub(run.slot));
    IoError {
        op: "read",
        offset: blkno,
        len: 1,
        source: std::io::Error::other("a block that is to be sealed (its number is given)"),
    }
}

/// The code is built for processors with these; on others its first instruction would be the last.
fn usable() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if !(has!("avx2") && has!("bmi2") && has!("fma") && has!("movbe")) {
            let what = "the parity of a seal needs a processor with AVX2, and this one has none; \
                        use another machine"
                .to_owned();
            return Err(Error::Unsupported { what });
        }
    }
    Ok(())
}
