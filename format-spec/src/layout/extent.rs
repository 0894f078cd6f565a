//! Extent lists and extent blocks: how a file (or a hash space) maps to clusters.
//!
//! A tree begins with a list in its root: a dinode, a dx root, an xattr tree or value root, or a
//! refcount root. With depth 0 the list's records map clusters themselves; with depth *n* they
//! point to extent blocks whose lists have depth *n* - 1. Leaves are also linked left to right.

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, Kind, layout};

/// The deepest tree that tools and drivers handle.
pub const MAX_TREE_DEPTH: u16 = 5;
/// The most clusters a leaf record can cover.
pub const MAX_LEAF_CLUSTERS: u32 = 0xFFFF;

layout! {
    /// Header of an extent list; its records follow.
    ExtentList [16] {
        /// 0: the records map clusters; *n*: they point to extent blocks of depth *n* - 1.
        0x00 l_tree_depth: U16;
        /// Capacity in records.
        0x02 l_count: U16;
        /// Records in use.
        0x04 l_next_free_rec: U16;
        /// Zero.
        0x06 l_reserved1: U16 = Kind::Reserved;
        /// Zero.
        0x08 l_reserved2: U64 = Kind::Reserved;
    }
}

/// Bit and name of `e_flags`.
pub const EXTENT_FLAG_NAMES: &[(u64, &str)] = &[(1, "unwritten"), (2, "refcounted")];

layout! {
    /// A record of an extent list. In interior lists the third to sixth bytes together are
    /// `e_int_clusters`: see [`ExtentRec::int_clusters`].
    ExtentRec [16] {
        /// First logical cluster (or hash).
        0x00 e_cpos: U32;
        /// Clusters mapped, in leaves.
        0x04 e_leaf_clusters: U16;
        /// Zero, in leaves.
        0x06 e_reserved1: u8;
        /// State of the clusters, in leaves.
        0x07 e_flags: u8 = Kind::Flags(EXTENT_FLAG_NAMES);
        /// First block: of the data, or of the child.
        0x08 e_blkno: U64 = Kind::Block;
    }
}

layout! {
    /// A record of an interior list (the same bytes as [`ExtentRec`]).
    ExtentRecInterior [16] {
        /// First logical cluster (or hash) of the subtree.
        0x00 e_cpos: U32;
        /// Logical clusters that the subtree covers, holes included.
        0x04 e_int_clusters: U32;
        /// The child.
        0x08 e_blkno: U64 = Kind::Block;
    }
}

bitflags! {
    /// `e_flags` of a leaf record.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ExtentFlags: u8 {
        /// Allocated, but reads as zeros.
        const UNWRITTEN = 0x01;
        /// Counted in the refcount tree; must be copied before it is written.
        const REFCOUNTED = 0x02;
    }
}

impl ExtentRec {
    /// `e_int_clusters`, when the record stands in an interior list.
    #[must_use]
    pub const fn int_clusters(&self) -> u32 {
        let low = self.e_leaf_clusters.to_bytes();
        u32::from_le_bytes([low[0], low[1], self.e_reserved1, self.e_flags])
    }

    /// A record of an interior list.
    #[must_use]
    pub const fn interior(cpos: u32, clusters: u32, blkno: u64) -> Self {
        let b = clusters.to_le_bytes();
        Self {
            e_cpos: U32::new(cpos),
            e_leaf_clusters: U16::from_bytes([b[0], b[1]]),
            e_reserved1: b[2],
            e_flags: b[3],
            e_blkno: U64::new(blkno),
        }
    }

    /// A record of a leaf list.
    #[must_use]
    pub const fn leaf(cpos: u32, clusters: u16, blkno: u64, flags: ExtentFlags) -> Self {
        Self {
            e_cpos: U32::new(cpos),
            e_leaf_clusters: U16::new(clusters),
            e_reserved1: 0,
            e_flags: flags.bits(),
            e_blkno: U64::new(blkno),
        }
    }

    /// `e_flags`, when the record stands in a leaf list.
    #[must_use]
    pub const fn flags(&self) -> ExtentFlags {
        ExtentFlags::from_bits_retain(self.e_flags)
    }
}

layout! {
    /// Head of an extent block; its list follows at byte `0x30`.
    ExtentBlock [0x30] {
        /// `EXBLK01`.
        0x00 h_signature: [u8; 8] = Kind::Text;
        /// Check of the block.
        0x08 h_check: BlockCheck;
        /// Slot whose extent allocator owns the block.
        0x10 h_suballoc_slot: U16;
        /// Bit of the block in its allocator group.
        0x12 h_suballoc_bit: U16;
        /// Generation of the volume.
        0x14 h_fs_generation: U32 = Kind::Hex;
        /// Own block number.
        0x18 h_blkno: U64 = Kind::Block;
        /// Allocator group of the block; 0 = the block number less the bit.
        0x20 h_suballoc_loc: U64 = Kind::Block;
        /// Next leaf in logical order; 0 in the last leaf and in interior blocks.
        0x28 h_next_leaf_blk: U64 = Kind::Block;
    }
}

/// Offset of the list in an extent block.
pub const EXTENT_BLOCK_LIST: usize = 0x30;
