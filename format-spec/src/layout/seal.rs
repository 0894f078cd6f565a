//! The seal: parity of Reed and Solomon over the metadata of a volume, made by this toolkit.
//!
//! It is no part of the OCFS2 format. Inside of a volume it is the contents of a file, which no driver
//! opens: [`SEAL_NAME`] in the system directory. It has no feature bit and changes no meaning. It can
//! stand in a file beside the volume as well. Either way it is a row of blocks of the volume's size:
//!
//! ```text
//! table, copy 0     parity                      table, copy 1    table, copy 2
//! T blocks          one block for each group    T blocks         T blocks
//!                   and parity shard, raw
//! ```
//!
//! Each block of a table begins with a [`SealHead`], by which a search of the whole device finds and
//! tells it without anything else. Behind the heads a table holds three things, each beginning with a
//! block of its own:
//!
//! ```text
//! block 0           SealHeader
//! block 1 ..        the list: a stream of SealHeader.sh_list_bytes bytes (below)
//! behind it         the sums: one CRC-32C, a little-endian u32, for each shard of each group, group
//!                   by group: first its data shards, then its parity shards
//! ```
//!
//! The list is made of numbers of 7 bits a byte, lowest first, bit 7 set in all bytes but the last;
//! "difference" is a number from the end of the one before it, with its sign in bit 0:
//!
//! ```text
//! count of places   then each: difference of block, length: where the seal's own blocks lie, in order
//! count of runs     then each: slots skipped, length, difference of block, guard,
//!                   and with SEAL_OWNED in the guard the difference of the owner's inode
//! count of journals then each: slot, next transaction, at the time of sealing
//! ```
//!
//! Protected blocks stand in *slots*. Slot *s* is data shard *s / groups* of group *s mod groups*;
//! empty slots are shards of zeros. Parity block *p* of the seal belongs to group
//! *(seam + p) mod groups* and is the next parity shard of it.

use zerocopy::little_endian::{U16, U32, U64};

use super::{Kind, layout};

/// Name of the seal in the system directory.
pub const SEAL_NAME: &[u8] = b"cowfs_seal";
/// `se_magic`.
pub const SEAL_MAGIC: [u8; 8] = *b"CFSSEAL1";
/// Copies of the table.
pub const SEAL_COPIES: u64 = 3;
/// Bytes of the head of each block of a table.
pub const SEAL_HEAD: usize = 0x40;

/// `sh_flags`: file contents are protected, too.
pub const SEAL_DATA: u32 = 1;
/// `sh_flags`: the seal stands beside the volume.
pub const SEAL_BESIDE: u32 = 2;
/// `sh_flags`: the volume has checks in its metadata.
pub const SEAL_CHECKED: u32 = 4;

/// In a guard: the block lies in clusters that its owner's inode leads to, and the inode's number
/// follows.
pub const SEAL_OWNED: u64 = 0x80;

layout! {
    /// Head of each block of a seal's table.
    SealHead [0x40] {
        /// [`SEAL_MAGIC`].
        0x00 se_magic: [u8; 8] = Kind::Text;
        /// CRC-32C of the block with this field as zero.
        0x08 se_crc: U32 = Kind::Hex;
        /// Number of the block in its table.
        0x0C se_index: U32;
        /// UUID of the volume.
        0x10 se_uuid: [u8; 16] = Kind::Uuid;
        /// Which writing of the seal it belongs to; higher ones are newer.
        0x20 se_serial: U64;
        /// Where the block lies: of the volume, or of the file beside it.
        0x28 se_blkno: U64 = Kind::Block;
        /// Blocks of a table.
        0x30 se_table: U32;
        /// Copy of the table, 0 to 2.
        0x34 se_copy: U16;
        /// log2 of the block size.
        0x36 se_block_bits: U16;
        /// Blocks of parity.
        0x38 se_parity: U64;
    }
}

layout! {
    /// What a seal protects and how, behind the head of block 0 of its table.
    SealHeader [0x70] {
        /// Generation of the volume.
        0x00 sh_fs_generation: U32 = Kind::Hex;
        /// log2 of the cluster size.
        0x04 sh_cluster_bits: U32;
        /// Clusters of the volume.
        0x08 sh_clusters: U32;
        /// Flags.
        0x0C sh_flags: U32 = Kind::Flags(&[(1, "data"), (2, "beside"), (4, "checked")]);
        /// Data shards of a group.
        0x10 sh_data_shards: U16;
        /// Parity shards of a group.
        0x12 sh_parity_shards: U16;
        /// CRC-32C of the list.
        0x14 sh_list_crc: U32 = Kind::Hex;
        /// Bytes of the list.
        0x18 sh_list_bytes: U64;
        /// Number of groups.
        0x20 sh_groups: U64;
        /// Protected blocks.
        0x28 sh_blocks: U64;
        /// Group of the first parity block.
        0x30 sh_seam: U64;
        /// Blocks of the list, room to grow included.
        0x38 sh_list_blocks: U64;
        /// The longest run of consecutive blocks that can be lost and is still restored.
        0x40 sh_run: U64;
        /// When it was sealed, seconds.
        0x48 sh_time: U64 = Kind::Time;
        /// When it was last renewed, seconds.
        0x50 sh_renewed: U64 = Kind::Time;
        /// Zero.
        0x58 sh_reserved: [u8; 24] = Kind::Reserved;
    }
}
