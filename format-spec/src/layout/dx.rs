//! Directory index: hash of a name to the directory block that holds its entry.

use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, Kind, layout};

layout! {
    /// Head of the root of a directory index. At byte `0xC0` follows an extent list (keys are
    /// major hashes) or, with `INLINE`, an entry list.
    DxRoot [0xC0] {
        /// `DXDIR01`.
        0x00 dr_signature: [u8; 8] = Kind::Text;
        /// Check of the block.
        0x08 dr_check: BlockCheck;
        /// Slot whose extent allocator owns the block.
        0x10 dr_suballoc_slot: U16;
        /// Bit of the block in its allocator group.
        0x12 dr_suballoc_bit: U16;
        /// Generation of the volume.
        0x14 dr_fs_generation: U32 = Kind::Hex;
        /// Own block number.
        0x18 dr_blkno: U64 = Kind::Block;
        /// Rightmost leaf of the extent tree.
        0x20 dr_last_eb_blk: U64 = Kind::Block;
        /// Clusters of index leaves.
        0x28 dr_clusters: U32;
        /// Bit 0: the entries stand in this block.
        0x2C dr_flags: u8 = Kind::Flags(&[(1, "inline")]);
        /// Zero.
        0x2D dr_reserved0: u8 = Kind::Reserved;
        /// Zero.
        0x2E dr_reserved1: U16 = Kind::Reserved;
        /// Inode of the directory.
        0x30 dr_dir_blkno: U64 = Kind::Block;
        /// Names in the directory, `.` and `..` included.
        0x38 dr_num_entries: U32;
        /// Zero.
        0x3C dr_reserved2: U32 = Kind::Reserved;
        /// First block of the list of directory blocks with room.
        0x40 dr_free_blk: U64 = Kind::Block;
        /// Allocator group of the block; 0 = the block number less the bit.
        0x48 dr_suballoc_loc: U64 = Kind::Block;
        /// Zero.
        0x50 dr_reserved3: [u8; 112] = Kind::Reserved;
    }
}

/// `dr_flags`: the entries stand in the root block.
pub const DX_INLINE: u8 = 1;
/// Offset of the union (extent list or entry list) in a dx root.
pub const DX_ROOT_BODY: usize = 0xC0;
/// Offset of the entry list in a dx leaf.
pub const DX_LEAF_LIST: usize = 0x28;

layout! {
    /// Head of an entry list; its entries follow, packed and in no order.
    DxEntryList [8] {
        /// Zero.
        0x00 de_reserved: U32 = Kind::Reserved;
        /// Capacity in entries.
        0x04 de_count: U16;
        /// Entries in use.
        0x06 de_num_used: U16;
    }
}

layout! {
    /// One name of a directory.
    DxEntry [16] {
        /// First half of the hash of the name: the key of the index tree.
        0x00 dx_major_hash: U32 = Kind::Hex;
        /// Second half: its low bits choose the leaf inside a cluster.
        0x04 dx_minor_hash: U32 = Kind::Hex;
        /// Directory block that holds the entry.
        0x08 dx_dirent_blk: U64 = Kind::Block;
    }
}

layout! {
    /// Head of an index leaf; its entry list follows at byte `0x28`.
    DxLeaf [0x28] {
        /// `DXLEAF1`.
        0x00 dl_signature: [u8; 8] = Kind::Text;
        /// Check of the block.
        0x08 dl_check: BlockCheck;
        /// Own block number.
        0x10 dl_blkno: U64 = Kind::Block;
        /// Generation of the volume.
        0x18 dl_fs_generation: U32 = Kind::Hex;
        /// Zero.
        0x1C dl_reserved0: U32 = Kind::Reserved;
        /// Zero.
        0x20 dl_reserved1: U64 = Kind::Reserved;
    }
}
