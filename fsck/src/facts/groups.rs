//! The groups of the suballocators: which block is which bit of which group, which bits something
//! claims, and what each inode is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cowfs_format::layout::FileType;
use cowfs_format::units::BlockNo;

use super::clusters::word_masks;

/// What an allocator gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Inodes.
    Inode,
    /// Extent blocks and other metadata.
    Extent,
}

/// A run of blocks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First bit.
    pub(crate) bit: u32,
    /// Number of bits.
    pub(crate) bits: u32,
    /// First block.
    pub(crate) blkno: BlockNo,
}

/// A group of a suballocator.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) kind: Kind,
    /// Slot of the allocator; `0xFFFF` for the global one.
    pub(crate) slot: u16,
    /// Inode of the allocator.
    pub(crate) allocator: BlockNo,
    /// The descriptor.
    pub(crate) blkno: BlockNo,
    pub(crate) bits: u32,
    /// Where its blocks are.
    pub(crate) runs: Vec<Run>,
    once: Box<[AtomicU64]>,
    twice: Box<[AtomicU64]>,
    /// One for each bit in groups of inodes.
    inodes: Box<[InodeFact]>,
}

/// What is known of an inode.
#[derive(Debug, Default)]
pub(crate) struct InodeFact {
    /// Link count that it states.
    pub(crate) links: AtomicU32,
    /// Names found.
    pub(crate) names: AtomicU32,
    /// Type and marks.
    info: AtomicU32,
}

/// The block is an inode in use, or is damaged but was one.
const SEEN: u32 = 1 << 8;
/// It is too damaged for its fields to be trusted.
const DAMAGED: u32 = 1 << 9;
/// It says that it waits in an orphan directory.
const ORPHANED: u32 = 1 << 10;
/// An orphan directory names it.
const IN_ORPHAN_DIR: u32 = 1 << 11;

impl InodeFact {
    /// Records an inode in use.
    pub(crate) fn set(&self, file_type: Option<FileType>, links: u32, orphaned: bool) {
        self.links.store(links, Ordering::Relaxed);
        let kind = file_type.map_or(0, |t| u32::from(t.dirent()));
        let orphaned = if orphaned { ORPHANED } else { 0 };
        self.info
            .fetch_or(kind | SEEN | orphaned, Ordering::Relaxed);
    }

    /// Records an inode of which nothing can be trusted.
    pub(crate) fn set_damaged(&self) {
        self.info.fetch_or(SEEN | DAMAGED, Ordering::Relaxed);
    }

    /// Records that an orphan directory names it.
    pub(crate) fn set_in_orphan_dir(&self) {
        self.info.fetch_or(IN_ORPHAN_DIR, Ordering::Relaxed);
    }

    fn has(&self, mark: u32) -> bool {
        self.info.load(Ordering::Relaxed) & mark != 0
    }

    /// Whether the inode is in use.
    pub(crate) fn seen(&self) -> bool {
        self.has(SEEN)
    }

    /// Whether its fields cannot be trusted.
    pub(crate) fn damaged(&self) -> bool {
        self.has(DAMAGED)
    }

    /// Whether it says that it waits in an orphan directory.
    pub(crate) fn orphaned(&self) -> bool {
        self.has(ORPHANED)
    }

    /// Whether an orphan directory names it.
    pub(crate) fn in_orphan_dir(&self) -> bool {
        self.has(IN_ORPHAN_DIR)
    }

    /// Type as in directory entries; 0 when not known.
    pub(crate) fn dirent_type(&self) -> u8 {
        self.info.load(Ordering::Relaxed).to_le_bytes()[0]
    }

    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.dirent_type() == FileType::Directory.dirent()
    }
}

impl Group {
    /// A group without claims.
    pub(crate) fn new(
        kind: Kind,
        slot: u16,
        allocator: BlockNo,
        blkno: BlockNo,
        bits: u32,
        runs: Vec<Run>,
    ) -> Self {
        let zeros = |kind_wanted| {
            let words = if kind == kind_wanted {
                bits.div_ceil(64)
            } else {
                0
            };
            (0..words).map(|_| AtomicU64::new(0)).collect()
        };
        let inodes = if kind == Kind::Inode { bits } else { 0 };
        Self {
            kind,
            slot,
            allocator,
            blkno,
            bits,
            runs,
            once: zeros(Kind::Extent),
            twice: zeros(Kind::Extent),
            inodes: (0..inodes).map(|_| InodeFact::default()).collect(),
        }
    }

    /// Claims a bit.
    pub(crate) fn claim(&self, bit: u32) {
        for (index, mask) in word_masks(bit, bit + 1) {
            if let (Some(once), Some(twice)) = (self.once.get(index), self.twice.get(index))
                && once.fetch_or(mask, Ordering::Relaxed) & mask != 0
            {
                twice.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// The claimed bits of a word.
    pub(crate) fn claimed_word(&self, word: usize) -> u64 {
        self.once.get(word).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// The bits of a word that are claimed more than once.
    pub(crate) fn doubled_word(&self, word: usize) -> u64 {
        self.twice
            .get(word)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// The block of a bit.
    pub(crate) fn block_of(&self, bit: u32) -> Option<BlockNo> {
        self.runs
            .iter()
            .find(|run| bit >= run.bit && bit - run.bit < run.bits)
            .map(|run| run.blkno.plus(u64::from(bit - run.bit)))
    }

    /// What is known of the inode of a bit.
    pub(crate) fn inode(&self, bit: u32) -> Option<&InodeFact> {
        self.inodes.get(bit as usize)
    }
}

/// All groups of all suballocators.
#[derive(Debug, Default)]
pub(crate) struct SubGroups {
    groups: Vec<Group>,
    /// Runs in the order of their blocks, with the group of each.
    index: Vec<(Run, u32)>,
}

impl SubGroups {
    /// Builds the index. Groups whose blocks belong to an earlier group are left out and returned
    /// with the allocator of that earlier one.
    pub(crate) fn new(groups: Vec<Group>) -> (Self, Vec<(Group, BlockNo)>) {
        let mut all: Vec<(BlockNo, BlockNo, usize)> = groups
            .iter()
            .enumerate()
            .flat_map(|(i, group)| {
                let end = |run: &Run| run.blkno.plus(u64::from(run.bits));
                group.runs.iter().map(move |run| (run.blkno, end(run), i))
            })
            .collect();
        all.sort_unstable();
        let mut clash: Vec<Option<usize>> = vec![None; groups.len()];
        let mut reach: Option<(BlockNo, usize)> = None;
        for &(first, end, group) in &all {
            if let Some((reached, other)) = reach
                && first < reached
                && other != group
            {
                let (keep, drop) = (other.min(group), other.max(group));
                clash[drop].get_or_insert(keep);
            }
            if reach.is_none_or(|(reached, _)| end > reached) {
                reach = Some((end, group));
            }
        }
        let allocators: Vec<BlockNo> = groups.iter().map(|group| group.allocator).collect();
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for (group, clash) in groups.into_iter().zip(clash) {
            match clash.and_then(|i| allocators.get(i)) {
                None => kept.push(group),
                Some(other) => dropped.push((group, *other)),
            }
        }
        let mut index: Vec<(Run, u32)> = (0u32..)
            .zip(&kept)
            .flat_map(|(i, group)| group.runs.iter().map(move |run| (*run, i)))
            .collect();
        index.sort_unstable_by_key(|(run, _)| run.blkno);
        let groups = kept;
        (Self { groups, index }, dropped)
    }

    /// All groups, in the order of allocators and chains.
    pub(crate) fn all(&self) -> &[Group] {
        &self.groups
    }

    /// The group and bit of a block.
    pub(crate) fn locate(&self, blkno: BlockNo) -> Option<(&Group, u32)> {
        let at = self.index.partition_point(|(run, _)| run.blkno <= blkno);
        let (run, group) = self.index.get(at.checked_sub(1)?)?;
        let offset = u32::try_from(blkno.since(run.blkno)).ok()?;
        let group = self.groups.get(*group as usize)?;
        (offset < run.bits && run.bit + offset < group.bits).then_some((group, run.bit + offset))
    }

    /// What is known of an inode.
    pub(crate) fn inode(&self, blkno: BlockNo) -> Option<&InodeFact> {
        let (group, bit) = self.locate(blkno)?;
        group.inode(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(allocator: u64, blkno: u64, bits: u32) -> Group {
        let blkno = BlockNo(blkno);
        let run = Run {
            bit: 0,
            bits,
            blkno,
        };
        Group::new(Kind::Inode, 0, BlockNo(allocator), blkno, bits, vec![run])
    }

    #[test]
    fn blocks_are_found_and_overlaps_left_out() {
        let (groups, dropped) = SubGroups::new(vec![
            group(1, 1000, 100),
            group(1, 500, 100),
            group(2, 1050, 100),
        ]);
        assert_eq!(dropped.len(), 1);
        assert_eq!(
            (dropped[0].0.blkno, dropped[0].1),
            (BlockNo(1050), BlockNo(1))
        );
        let (found, bit) = groups.locate(BlockNo(599)).unwrap();
        assert_eq!((found.blkno, bit), (BlockNo(500), 99));
        assert!(groups.locate(BlockNo(600)).is_none());
        assert!(groups.locate(BlockNo(499)).is_none());
    }
}
