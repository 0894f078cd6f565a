//! Quota files. Every block of a quota file ends with its check.

use zerocopy::little_endian::{U16, U32, U64};

use super::{Kind, layout};

/// Magic of the global user and group quota files.
pub const GLOBAL_QUOTA_MAGIC: [u32; 2] = [0x0CF5_2470, 0x0CF5_2471];
/// Magic of the local user and group quota files.
pub const LOCAL_QUOTA_MAGIC: [u32; 2] = [0x0CF5_24C0, 0x0CF5_24C1];
/// Logical block of the root of the quota tree.
pub const QUOTA_TREE_ROOT: u32 = 1;

layout! {
    /// Block 0 of a global quota file.
    GlobalQuotaInfo [0x20] {
        /// Magic number.
        0x00 dqh_magic: U32 = Kind::Hex;
        /// 0.
        0x04 dqh_version: U32;
        /// Grace time of the space limit, seconds.
        0x08 dqi_bgrace: U32;
        /// Grace time of the inode limit, seconds.
        0x0C dqi_igrace: U32;
        /// Milliseconds between merges of local changes.
        0x10 dqi_syncms: U32;
        /// Blocks in use.
        0x14 dqi_blocks: U32;
        /// First of the list of unused blocks; 0 = none.
        0x18 dqi_free_blk: U32;
        /// First of the list of leaves with room; 0 = none.
        0x1C dqi_free_entry: U32;
    }
}

layout! {
    /// Head of a leaf of the quota tree; its entries follow.
    QuotaLeaf [16] {
        /// Next leaf with room.
        0x00 dqdh_next_free: U32;
        /// Previous leaf with room.
        0x04 dqdh_prev_free: U32;
        /// Entries in use.
        0x08 dqdh_entries: U16;
        /// Zero.
        0x0A dqdh_pad1: U16 = Kind::Reserved;
        /// Zero.
        0x0C dqdh_pad2: U32 = Kind::Reserved;
    }
}

layout! {
    /// Usage and limits of a user or group; all zero = unused.
    DiskDqblk [88] {
        /// User or group.
        0x00 dqb_id: U32;
        /// Slots that hold it; 0 on a clean volume.
        0x04 dqb_use_count: U32;
        /// Hard limit of inodes.
        0x08 dqb_ihardlimit: U64;
        /// Soft limit of inodes.
        0x10 dqb_isoftlimit: U64;
        /// Inodes in use.
        0x18 dqb_curinodes: U64;
        /// Hard limit of space, bytes.
        0x20 dqb_bhardlimit: U64;
        /// Soft limit of space, bytes.
        0x28 dqb_bsoftlimit: U64;
        /// Space in use, bytes.
        0x30 dqb_curspace: U64;
        /// When the grace time of the space limit ends.
        0x38 dqb_btime: U64 = Kind::Time;
        /// When the grace time of the inode limit ends.
        0x40 dqb_itime: U64 = Kind::Time;
        /// Zero.
        0x48 dqb_pad1: U64 = Kind::Reserved;
        /// Zero.
        0x50 dqb_pad2: U64 = Kind::Reserved;
    }
}

layout! {
    /// Block 0 of a slot's local quota file.
    LocalQuotaInfo [0x14] {
        /// Magic number.
        0x00 dqh_magic: U32 = Kind::Hex;
        /// 0.
        0x04 dqh_version: U32;
        /// Bit 0: left cleanly.
        0x08 dqi_flags: U32 = Kind::Flags(&[(1, "clean")]);
        /// Chunks of the file.
        0x0C dqi_chunks: U32;
        /// Blocks of the file.
        0x10 dqi_blocks: U32;
    }
}

layout! {
    /// Head of a chunk of a slot's quota file; a bit for each of its changes follows.
    LocalQuotaChunk [4] {
        /// Unused changes in the blocks that there are.
        0x00 dqc_free: U32;
    }
}

layout! {
    /// A change of usage that a slot has not yet merged into the global file.
    LocalDqblk [24] {
        /// User or group.
        0x00 dqb_id: U64;
        /// Change of the space in bytes, signed.
        0x08 dqb_spacemod: U64 = Kind::Hex;
        /// Change of the number of inodes, signed.
        0x10 dqb_inodemod: U64 = Kind::Hex;
    }
}
