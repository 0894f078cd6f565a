//! The sizes of a seal, and which block of it is what.

use crate::error::{Error, Result};
use crate::layout::{SEAL_COPIES, SEAL_HEAD};

/// Data shards of a group; with it the redundancy in percent is the number of parity shards.
pub const DATA_SHARDS: u16 = 100;
/// The most parity shards: more than a block for each protected one serves nobody.
pub const MOST_PARITY: u16 = 100;

/// The sizes of a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a block.
    pub block: usize,
    /// Data shards of a group.
    pub data: u16,
    /// Parity shards of a group.
    pub parity: u16,
    /// Number of groups.
    pub groups: u64,
    /// Blocks of the list.
    pub list: u64,
    /// Group of the first parity block.
    pub seam: u64,
}

impl Shape {
    /// A seal for `blocks` blocks, with some room for more, and for a list of `list` bytes.
    ///
    /// # Errors
    /// The redundancy is not possible.
    pub(super) fn new(block: usize, percent: u16, blocks: u64, list: u64) -> Result<Self> {
        if !(1..=MOST_PARITY).contains(&percent) {
            let what = format!("a seal of {percent} %: it can have 1 to {MOST_PARITY} %");
            return Err(Error::Input { what });
        }
        let slots = blocks + blocks / 16 + 16;
        let room = block as u64 - SEAL_HEAD as u64;
        Ok(Self {
            block,
            data: DATA_SHARDS,
            parity: percent,
            groups: slots.div_ceil(DATA_SHARDS.into()),
            list: (list + list / 4 + 256).div_ceil(room),
            seam: 0,
        })
    }

    /// Slots for protected blocks.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.groups.saturating_mul(self.data.into())
    }

    /// Shards of a group.
    #[must_use]
    pub fn shards(&self) -> u64 {
        u64::from(self.data) + u64::from(self.parity)
    }

    /// Blocks of parity.
    #[must_use]
    pub fn parity_blocks(&self) -> u64 {
        self.groups.saturating_mul(self.parity.into())
    }

    /// Sums in a block of them.
    #[must_use]
    pub const fn sums_per_block(&self) -> u64 {
        ((self.block - SEAL_HEAD) / 4) as u64
    }

    /// Blocks of a table.
    #[must_use]
    pub fn table(&self) -> u64 {
        let sums = self.groups.saturating_mul(self.shards());
        (1 + self.list).saturating_add(sums.div_ceil(self.sums_per_block()))
    }

    /// Blocks of the whole seal.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.table()
            .saturating_mul(SEAL_COPIES)
            .saturating_add(self.parity_blocks())
    }

    /// The block of the seal that is block `index` of a copy of the table.
    #[must_use]
    pub fn table_block(&self, copy: u64, index: u64) -> u64 {
        table_block(self.table(), self.parity_blocks(), copy, index)
    }

    /// How many groups from `group` on have their parity shards side by side in the seal.
    #[must_use]
    pub fn groups_in_turn(&self, group: u64) -> u64 {
        let seam = self.seam % self.groups.max(1);
        if group < seam {
            seam - group
        } else {
            self.groups - group
        }
    }

    /// The block of the seal that holds a parity shard of a group.
    #[must_use]
    pub fn parity_block(&self, group: u64, shard: u64) -> u64 {
        let first = (group + self.groups - self.seam % self.groups.max(1)) % self.groups.max(1);
        self.table() + first + shard * self.groups
    }
}

/// As [`Shape::table_block`], by what the head of any block of a table says.
pub(super) const fn table_block(table: u64, parity: u64, copy: u64, index: u64) -> u64 {
    let start = if copy == 0 {
        0
    } else {
        table.saturating_mul(copy).saturating_add(parity)
    };
    start.saturating_add(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_is_one_thing() {
        for (block, percent, blocks, seam) in
            [(512, 5, 1234, 7), (4096, 1, 10, 0), (1024, 100, 900, 3)]
        {
            let mut shape = Shape::new(block, percent, blocks, 100).unwrap();
            shape.seam = seam;
            assert!(shape.slots() >= blocks);
            let mut seen = vec![0u32; usize::try_from(shape.blocks()).unwrap()];
            let mut see = |at: u64| seen[usize::try_from(at).unwrap()] += 1;
            for group in 0..shape.groups {
                for shard in 0..u64::from(shape.parity) {
                    let at = shape.parity_block(group, shard);
                    see(at);
                    if group + 1 < shape.groups && shape.groups_in_turn(group) > 1 {
                        assert_eq!(shape.parity_block(group + 1, shard), at + 1);
                    }
                    // What the layout says of the order of parity blocks.
                    let p = at - shape.table();
                    assert_eq!((shape.seam + p) % shape.groups, group);
                    assert_eq!(p / shape.groups, shard);
                }
            }
            for copy in 0..SEAL_COPIES {
                (0..shape.table()).for_each(|index| see(shape.table_block(copy, index)));
            }
            assert!(seen.iter().all(|&count| count == 1));
        }
        assert!(Shape::new(4096, 0, 1, 1).is_err() && Shape::new(4096, 101, 1, 1).is_err());
    }
}
