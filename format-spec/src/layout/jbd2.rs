//! The journal (JBD2): big-endian, unlike the rest of the volume.
//!
//! A journal file is a ring of blocks behind its superblock. A transaction is a run of descriptor
//! blocks, each followed by the images of the blocks that its tags name, then a commit block.

use zerocopy::big_endian::{U16, U32, U64};

use super::{Kind, layout};

/// First four bytes of every record block.
pub const MAGIC: u32 = 0xC03B_3998;
/// `h_blocktype` of a descriptor.
pub const DESCRIPTOR: u32 = 1;
/// `h_blocktype` of a commit record.
pub const COMMIT: u32 = 2;
/// `h_blocktype` of a superblock, version 1 and 2.
pub const SUPERBLOCK_V1: u32 = 3;
/// See above.
pub const SUPERBLOCK_V2: u32 = 4;
/// `h_blocktype` of a revoke record.
pub const REVOKE: u32 = 5;

/// Tag flag: the image's first four bytes were the magic, and are stored as zero.
pub const TAG_ESCAPE: u16 = 1;
/// Tag flag: no UUID follows the tag.
pub const TAG_SAME_UUID: u16 = 2;
/// Tag flag: the block was deleted.
pub const TAG_DELETED: u16 = 4;
/// Tag flag: the last tag of the descriptor.
pub const TAG_LAST: u16 = 8;

/// Compat feature: commit blocks carry a checksum of the transaction.
pub const COMPAT_CHECKSUM: u32 = 1;
/// Incompat feature: revoke records.
pub const INCOMPAT_REVOKE: u32 = 1;
/// Incompat feature: 64-bit block numbers.
pub const INCOMPAT_64BIT: u32 = 2;
/// Incompat feature: commits need not wait for the images.
pub const INCOMPAT_ASYNC_COMMIT: u32 = 4;
/// Incompat feature: checksums, version 2.
pub const INCOMPAT_CSUM_V2: u32 = 8;
/// Incompat feature: checksums, version 3.
pub const INCOMPAT_CSUM_V3: u32 = 16;

/// Bit and name of the journal's incompat features.
pub const INCOMPAT_NAMES: &[(u64, &str)] = &[
    (1, "revoke"),
    (2, "64bit"),
    (4, "async-commit"),
    (8, "csum-v2"),
    (16, "csum-v3"),
];

layout! {
    /// Head of every record block.
    BlockHeader [12] {
        /// [`MAGIC`].
        0x00 h_magic: U32 = Kind::Hex;
        /// What the block is.
        0x04 h_blocktype: U32;
        /// Transaction that it belongs to.
        0x08 h_sequence: U32;
    }
}

layout! {
    /// Superblock of a journal: logical block 0 of the journal file.
    JournalSuperBlock [0x400] {
        /// [`MAGIC`].
        0x00 h_magic: U32 = Kind::Hex;
        /// 4 (3 for version 1).
        0x04 h_blocktype: U32;
        /// 0.
        0x08 h_sequence: U32;
        /// Block size in bytes.
        0x0C s_blocksize: U32;
        /// Blocks of the journal.
        0x10 s_maxlen: U32;
        /// First block of the log: 1, or 2 where the superblock takes two blocks.
        0x14 s_first: U32;
        /// First transaction expected in the log.
        0x18 s_sequence: U32;
        /// Where it starts; 0 = the log is empty.
        0x1C s_start: U32;
        /// Error that stopped the journal.
        0x20 s_errno: U32;
        /// Compat features.
        0x24 s_feature_compat: U32 = Kind::Flags(&[(1, "checksum")]);
        /// Incompat features.
        0x28 s_feature_incompat: U32 = Kind::Flags(INCOMPAT_NAMES);
        /// Ro-compat features.
        0x2C s_feature_ro_compat: U32 = Kind::Hex;
        /// UUID of the volume.
        0x30 s_uuid: [u8; 16] = Kind::Uuid;
        /// 1.
        0x40 s_nr_users: U32;
        /// 0.
        0x44 s_dynsuper: U32;
        /// 0 = no limit.
        0x48 s_max_transaction: U32;
        /// 0 = no limit.
        0x4C s_max_trans_data: U32;
        /// 4 = crc32c, with checksums version 2 or 3.
        0x50 s_checksum_type: u8;
        /// Zero.
        0x51 s_padding2: [u8; 3] = Kind::Reserved;
        /// Fast commit blocks.
        0x54 s_num_fc_blks: U32;
        /// Head of the log (newer kernels).
        0x58 s_head: U32;
        /// Zero.
        0x5C s_padding: [u8; 160] = Kind::Reserved;
        /// Checksum of the superblock, with checksums version 2 or 3.
        0xFC s_checksum: U32 = Kind::Hex;
        /// Not used.
        0x100 s_users: [u8; 768] = Kind::Reserved;
    }
}

layout! {
    /// A tag of a descriptor: an image's home. With 64-bit numbers four more bytes follow.
    BlockTag [8] {
        /// Low half of the block number.
        0x00 t_blocknr: U32 = Kind::Block;
        /// Low half of the checksum, with checksums version 2.
        0x04 t_checksum: U16 = Kind::Hex;
        /// Flags.
        0x06 t_flags: U16 = Kind::Flags(&[(1, "escape"), (2, "same-uuid"), (4, "deleted"), (8, "last")]);
    }
}

layout! {
    /// A tag of a descriptor, with checksums version 3.
    BlockTag3 [16] {
        /// Low half of the block number.
        0x00 t_blocknr: U32 = Kind::Block;
        /// Flags.
        0x04 t_flags: U32 = Kind::Flags(&[(1, "escape"), (2, "same-uuid"), (4, "deleted"), (8, "last")]);
        /// High half of the block number.
        0x08 t_blocknr_high: U32;
        /// Checksum of the transaction's number and the image.
        0x0C t_checksum: U32 = Kind::Hex;
    }
}

layout! {
    /// End of descriptors and revoke records, with checksums version 2 or 3.
    BlockTail [4] {
        /// Checksum of the block with this as zero.
        0x00 t_checksum: U32 = Kind::Hex;
    }
}

/// Bytes of a UUID behind a tag.
pub const TAG_UUID: usize = 16;

/// How the records of a log are laid out: a matter of the journal's features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogForm {
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Whether there are checksums, and which.
    pub checksums: Checksums,
}

/// Checksums of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checksums {
    /// None.
    #[default]
    None,
    /// Version 2: sixteen bits for an image.
    V2,
    /// Version 3: all bits.
    V3,
}

impl LogForm {
    /// The form that incompat features of a journal demand.
    #[must_use]
    pub const fn of(incompat: u32) -> Self {
        Self {
            wide: incompat & INCOMPAT_64BIT != 0,
            checksums: if incompat & INCOMPAT_CSUM_V3 != 0 {
                Checksums::V3
            } else if incompat & INCOMPAT_CSUM_V2 != 0 {
                Checksums::V2
            } else {
                Checksums::None
            },
        }
    }

    /// Whether records have checksums.
    #[must_use]
    pub const fn sums(self) -> bool {
        !matches!(self.checksums, Checksums::None)
    }

    /// Bytes of a tag, without the UUID. (Those of version 2 end with two bytes that nobody uses.)
    #[must_use]
    pub const fn tag_bytes(self) -> usize {
        match (self.checksums, self.wide) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (Checksums::None, true) => 12,
            (Checksums::None, false) => 8,
        }
    }

    /// Bytes at the end of a descriptor or revoke record that are its checksum.
    #[must_use]
    pub const fn tail_bytes(self) -> usize {
        if self.sums() { 4 } else { 0 }
    }
}

layout! {
    /// A commit record.
    CommitBlock [0x3C] {
        /// [`MAGIC`].
        0x00 h_magic: U32 = Kind::Hex;
        /// [`COMMIT`].
        0x04 h_blocktype: U32;
        /// Transaction.
        0x08 h_sequence: U32;
        /// Checksum type, size and padding.
        0x0C h_chksum_type: [u8; 4];
        /// Checksums.
        0x10 h_chksum: [u8; 32];
        /// Time of the commit, seconds.
        0x30 h_commit_sec: U64 = Kind::Time;
        /// Nanoseconds.
        0x38 h_commit_nsec: U32;
    }
}

layout! {
    /// Head of a revoke record; block numbers follow.
    RevokeHeader [16] {
        /// [`MAGIC`].
        0x00 h_magic: U32 = Kind::Hex;
        /// [`REVOKE`].
        0x04 h_blocktype: U32;
        /// Transaction.
        0x08 h_sequence: U32;
        /// Bytes in use, this header included.
        0x0C r_count: U32;
    }
}
