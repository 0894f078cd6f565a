//! Allocators: chains of groups, group descriptors, local allocs, truncate logs.

use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, Kind, layout};

layout! {
    /// Head of the chain list in an allocator inode, at byte `0xC0`; its records follow.
    ChainList [16] {
        /// Clusters of a group.
        0x00 cl_cpg: U16;
        /// Bits of a cluster: 1 in the cluster bitmap, the blocks of a cluster elsewhere.
        0x02 cl_bpc: U16;
        /// Capacity in records.
        0x04 cl_count: U16;
        /// Records in use.
        0x06 cl_next_free_rec: U16;
        /// Zero.
        0x08 cl_reserved1: U64 = Kind::Reserved;
    }
}

layout! {
    /// A chain of groups.
    ChainRec [16] {
        /// Free bits of all its groups.
        0x00 c_free: U32;
        /// All bits of all its groups.
        0x04 c_total: U32;
        /// Its first group.
        0x08 c_blkno: U64 = Kind::Block;
    }
}

layout! {
    /// Head of a group descriptor, the first block of a group; the bitmap follows.
    GroupDesc [0x40] {
        /// `GROUP01`.
        0x00 bg_signature: [u8; 8] = Kind::Text;
        /// Bytes of the bitmap.
        0x08 bg_size: U16;
        /// Bits in use for this group.
        0x0A bg_bits: U16;
        /// Bits that are clear.
        0x0C bg_free_bits_count: U16;
        /// Chain that the group belongs to.
        0x0E bg_chain: U16;
        /// Generation of the volume.
        0x10 bg_generation: U32 = Kind::Hex;
        /// Longest run of clear bits, a hint; 0 = not known.
        0x14 bg_contig_free_bits: U16;
        /// Zero.
        0x16 bg_reserved1: U16 = Kind::Reserved;
        /// Next group of the chain; 0 = last.
        0x18 bg_next_group: U64 = Kind::Block;
        /// The allocator inode.
        0x20 bg_parent_dinode: U64 = Kind::Block;
        /// Own block number.
        0x28 bg_blkno: U64 = Kind::Block;
        /// Check of the block.
        0x30 bg_check: BlockCheck;
        /// Zero.
        0x38 bg_reserved2: U64 = Kind::Reserved;
    }
}

/// Offset of the bitmap in a group descriptor.
pub const GROUP_BITMAP: usize = 0x40;
/// Bytes of the bitmap of a suballocator group on volumes with discontiguous groups.
pub const DISCONTIG_BITMAP_BYTES: u16 = 256;
/// Offset of the extent list in the descriptor of a discontiguous group.
pub const GROUP_LIST: usize = 0x140;

layout! {
    /// Head of a local alloc, at byte `0xC0` of its inode; the bitmap follows.
    LocalAlloc [16] {
        /// First cluster of the window.
        0x00 la_bm_off: U32;
        /// Bytes of the bitmap.
        0x04 la_size: U16;
        /// Zero.
        0x06 la_reserved1: U16 = Kind::Reserved;
        /// Zero.
        0x08 la_reserved2: U64 = Kind::Reserved;
    }
}

layout! {
    /// Head of a truncate log, at byte `0xC0` of its inode; the records follow.
    TruncateLog [8] {
        /// Capacity in records.
        0x00 tl_count: U16;
        /// Records in use.
        0x02 tl_used: U16;
        /// Zero.
        0x04 tl_reserved1: U32 = Kind::Reserved;
    }
}

layout! {
    /// A run of clusters that is free but not yet marked so.
    TruncateRec [8] {
        /// First cluster; 0 = ignore the record.
        0x00 t_start: U32;
        /// Number of clusters.
        0x04 t_clusters: U32;
    }
}
