//! Refcount trees: how many mappings share a range of clusters.

use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, Kind, layout};

/// `rf_flags`: a block of records below a root.
pub const REFCOUNT_LEAF: u32 = 1;
/// `rf_flags`: a root whose records stand in leaf blocks.
pub const REFCOUNT_TREE: u32 = 2;
/// Offset of the union (record list or extent list) in a refcount block.
pub const REFCOUNT_BODY: usize = 0x80;

layout! {
    /// Head of a refcount block. At byte `0x80` follows a record list or, in a root with the
    /// `TREE` flag, an extent list that points to leaf blocks.
    RefcountBlock [0x80] {
        /// `REFCNT1`.
        0x00 rf_signature: [u8; 8] = Kind::Text;
        /// Slot whose extent allocator owns the block.
        0x08 rf_suballoc_slot: U16;
        /// Bit of the block in its allocator group.
        0x0A rf_suballoc_bit: U16;
        /// Generation of the volume.
        0x0C rf_fs_generation: U32 = Kind::Hex;
        /// Own block number.
        0x10 rf_blkno: U64 = Kind::Block;
        /// The root, in a leaf.
        0x18 rf_parent: U64 = Kind::Block;
        /// Check of the block.
        0x20 rf_check: BlockCheck;
        /// Rightmost extent block of the tree.
        0x28 rf_last_eb_blk: U64 = Kind::Block;
        /// Inodes attached to the tree (root only).
        0x30 rf_count: U32;
        /// 0 = root that holds the records itself.
        0x34 rf_flags: U32 = Kind::Flags(&[(1, "leaf"), (2, "tree")]);
        /// Number of leaf blocks (root with `TREE`).
        0x38 rf_clusters: U32;
        /// First key of a leaf.
        0x3C rf_cpos: U32;
        /// Generation of the tree, the same in all its blocks.
        0x40 rf_generation: U32 = Kind::Hex;
        /// Zero.
        0x44 rf_reserved0: U32 = Kind::Reserved;
        /// Allocator group of the block; 0 = the block number less the bit.
        0x48 rf_suballoc_loc: U64 = Kind::Block;
        /// Zero.
        0x50 rf_reserved1: [u8; 48] = Kind::Reserved;
    }
}

layout! {
    /// Head of a record list; its records follow, sorted and disjoint.
    RefcountList [16] {
        /// Capacity in records.
        0x00 rl_count: U16;
        /// Records in use.
        0x02 rl_used: U16;
        /// Zero.
        0x04 rl_reserved2: U32 = Kind::Reserved;
        /// Zero.
        0x08 rl_reserved1: U64 = Kind::Reserved;
    }
}

layout! {
    /// A range of clusters with the number of extent records that map it.
    RefcountRec [16] {
        /// First physical cluster.
        0x00 r_cpos: U64;
        /// Number of clusters.
        0x08 r_clusters: U32;
        /// Number of mappings, at least 1.
        0x0C r_refcount: U32;
    }
}
