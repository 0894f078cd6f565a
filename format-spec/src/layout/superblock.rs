//! The superblock: block 2 of the volume, a dinode whose body describes the volume.

use zerocopy::little_endian::{U16, U32, U64};

use super::{COMPAT_NAMES, INCOMPAT_NAMES, Kind, RO_COMPAT_NAMES, layout};

/// Block of the primary superblock.
pub const SUPER_BLOCK_BLKNO: u64 = 2;
/// Signature of the superblock, where other inodes have `INODE01`.
pub const SUPER_BLOCK_SIGNATURE: [u8; 8] = *b"OCFSV2\0\0";
/// Offset of the body in the superblock.
pub const SUPER_BLOCK_BODY: usize = 0xC0;
/// Node slots that a volume has at most.
pub const MAX_SLOTS: u16 = 255;

layout! {
    /// Body of the superblock, at byte `0xC0` of its dinode.
    SuperBlock [0x140] {
        /// 0; drivers demand it.
        0x00 s_major_rev_level: U16;
        /// 90; drivers demand it.
        0x02 s_minor_rev_level: U16;
        /// Mounts since the last check (not maintained by drivers).
        0x04 s_mnt_count: U16;
        /// Mounts after which a check is due.
        0x06 s_max_mnt_count: U16;
        /// Bit 0: the driver met an error.
        0x08 s_state: U16 = Kind::Flags(&[(1, "error")]);
        /// Set when the last check left errors.
        0x0A s_errors: U16;
        /// Seconds after which a check is due; 0 = never.
        0x0C s_checkinterval: U32;
        /// Time of the last check.
        0x10 s_lastcheck: U64 = Kind::Time;
        /// 0 = Linux.
        0x18 s_creator_os: U32;
        /// Features that any driver may ignore.
        0x1C s_feature_compat: U32 = Kind::Flags(COMPAT_NAMES);
        /// Features without which the volume cannot be read.
        0x20 s_feature_incompat: U32 = Kind::Flags(INCOMPAT_NAMES);
        /// Features without which it cannot be written.
        0x24 s_feature_ro_compat: U32 = Kind::Flags(RO_COMPAT_NAMES);
        /// Inode of the root directory.
        0x28 s_root_blkno: U64 = Kind::Block;
        /// Inode of the system directory.
        0x30 s_system_dir_blkno: U64 = Kind::Block;
        /// log2 of the block size, 9 to 12.
        0x38 s_blocksize_bits: U32;
        /// log2 of the cluster size, 12 to 20.
        0x3C s_clustersize_bits: U32;
        /// Number of node slots, 1 to 255.
        0x40 s_max_slots: U16;
        /// Which tuning operation is in progress.
        0x42 s_tunefs_flag: U16 = Kind::Flags(&[(1, "remove-slot"), (2, "dir-trailer")]);
        /// Hash of the UUID: the start value of xattr hashes and fourth seed of directory hashes.
        0x44 s_uuid_hash: U32 = Kind::Hex;
        /// Descriptor of the first cluster group.
        0x48 s_first_cluster_group: U64 = Kind::Block;
        /// Label, NUL padded.
        0x50 s_label: [u8; 64] = Kind::Text;
        /// UUID.
        0x90 s_uuid: [u8; 16] = Kind::Uuid;
        /// Cluster stack: `o2cb`, `pcmk`, ...
        0xA0 ci_stack: [u8; 4] = Kind::Text;
        /// Bit 0: global heartbeat.
        0xA4 ci_stackflags: u8 = Kind::Flags(&[(1, "global-heartbeat")]);
        /// Zero.
        0xA5 ci_reserved: [u8; 3] = Kind::Reserved;
        /// Cluster name, NUL padded.
        0xA8 ci_cluster: [u8; 16] = Kind::Text;
        /// Bytes reserved at the end of an inode for its xattrs.
        0xB8 s_xattr_inline_size: U16;
        /// Zero.
        0xBA s_reserved0: U16 = Kind::Reserved;
        /// First seed of directory hashes.
        0xBC s_dx_seed0: U32 = Kind::Hex;
        /// Second seed.
        0xC0 s_dx_seed1: U32 = Kind::Hex;
        /// Third seed.
        0xC4 s_dx_seed2: U32 = Kind::Hex;
        /// Zero; the structure ends with the first 512 bytes of the block.
        0xC8 s_reserved2: [u8; 120] = Kind::Reserved;
    }
}

layout! {
    /// First sector of the volume: makes a driver of the older OCFS refuse it.
    OcfsHeader [0x200] {
        /// Major version; 1 would mean an OCFS (version 1) volume. Filled with 2s.
        0x000 minor_version: U32 = Kind::Hex;
        /// See above.
        0x004 major_version: U32 = Kind::Hex;
        /// `this is an ocfs2 volume`.
        0x008 signature: [u8; 128] = Kind::Text;
        /// `this is an ocfs2 volume`.
        0x088 mount_point: [u8; 128] = Kind::Text;
        /// Filled with 2s.
        0x108 rest: [u8; 248];
    }
}
