//! Extended attributes.

use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, Kind, layout};

/// Size of a bucket of the xattr tree, whatever the block size.
pub const XATTR_BUCKET: usize = 4096;
/// Offset of the check in a bucket.
pub const BUCKET_CHECK: usize = 8;
/// Largest value stored beside its name.
pub const XATTR_LOCAL_MAX: u64 = 80;
/// `xb_flags`: the block holds a tree of buckets.
pub const XATTR_INDEXED: u16 = 1;
/// Offset of the header or tree root in an xattr block.
pub const XATTR_BLOCK_BODY: usize = 0x30;

layout! {
    /// Head of an xattr block; a header with entries or a tree root follows at byte `0x30`.
    XattrBlock [0x30] {
        /// `XATTR01`.
        0x00 xb_signature: [u8; 8] = Kind::Text;
        /// Slot whose extent allocator owns the block.
        0x08 xb_suballoc_slot: U16;
        /// Bit of the block in its allocator group.
        0x0A xb_suballoc_bit: U16;
        /// Generation of the volume.
        0x0C xb_fs_generation: U32 = Kind::Hex;
        /// Own block number.
        0x10 xb_blkno: U64 = Kind::Block;
        /// Check of the block.
        0x18 xb_check: BlockCheck;
        /// Bit 0: a tree of buckets.
        0x20 xb_flags: U16 = Kind::Flags(&[(1, "indexed")]);
        /// Zero.
        0x22 xb_reserved0: U16 = Kind::Reserved;
        /// Zero.
        0x24 xb_reserved1: U32 = Kind::Reserved;
        /// Allocator group of the block; 0 = the block number less the bit.
        0x28 xb_suballoc_loc: U64 = Kind::Block;
    }
}

layout! {
    /// Head of the tree of buckets; its extent list follows (keys are name hashes).
    XattrTreeRoot [16] {
        /// Clusters of buckets.
        0x00 xt_clusters: U32;
        /// Zero.
        0x04 xt_reserved0: U32 = Kind::Reserved;
        /// Rightmost leaf of the extent tree.
        0x08 xt_last_eb_blk: U64 = Kind::Block;
    }
}

layout! {
    /// Head of a set of entries (inode, block or bucket); the entries follow.
    XattrHeader [16] {
        /// Number of entries.
        0x00 xh_count: U16;
        /// Lowest name or value (buckets only).
        0x02 xh_free_start: U16;
        /// Bytes of all names and values (buckets only).
        0x04 xh_name_value_len: U16;
        /// Buckets of this extent (first bucket only).
        0x06 xh_num_buckets: U16;
        /// Check over the 4096 bytes of the bucket (buckets only).
        0x08 xh_check: BlockCheck;
    }
}

layout! {
    /// An attribute.
    XattrEntry [16] {
        /// Hash of the name.
        0x00 xe_name_hash: U32 = Kind::Hex;
        /// Offset of the name from the header.
        0x04 xe_name_offset: U16;
        /// Bytes of the name, without its prefix.
        0x06 xe_name_len: u8;
        /// Prefix in the low 7 bits; bit 7: the value stands behind the name.
        0x07 xe_type: u8 = Kind::Hex;
        /// Bytes of the value.
        0x08 xe_value_size: U64;
    }
}

layout! {
    /// Root of a value stored in clusters of its own; an extent list of one record follows.
    XattrValueRoot [16] {
        /// Clusters of the value.
        0x00 xr_clusters: U32;
        /// Zero.
        0x04 xr_reserved0: U32 = Kind::Reserved;
        /// Rightmost leaf of the extent tree.
        0x08 xr_last_eb_blk: U64 = Kind::Block;
    }
}

layout! {
    /// An entry of an ACL; an ACL is the whole value of its attribute.
    AclEntry [8] {
        /// Whom the entry is about.
        0x00 e_tag: U16 = Kind::Hex;
        /// What they may do: 4 read, 2 write, 1 execute.
        0x02 e_perm: U16;
        /// Number of the user or group; all ones where none is meant.
        0x04 e_id: U32;
    }
}

/// Name prefix of each `xe_type`.
#[must_use]
pub const fn xattr_prefix(kind: u8) -> Option<&'static str> {
    Some(match kind & 0x7F {
        1 => "user.",
        2 => "system.posix_acl_access",
        3 => "system.posix_acl_default",
        4 => "trusted.",
        5 => "security.",
        _ => return None,
    })
}

/// The `xe_type` of a full name, and what of the name is stored; the inverse of [`xattr_prefix`].
#[must_use]
pub fn xattr_type(name: &[u8]) -> Option<(u8, &[u8])> {
    let (prefixes, whole) = ([1, 4, 5], [2, 3]);
    let behind = |kind: u8| name.strip_prefix(xattr_prefix(kind)?.as_bytes());
    let found = prefixes.into_iter().find_map(|kind| {
        let suffix = behind(kind).filter(|suffix| !suffix.is_empty())?;
        Some((kind, suffix))
    });
    found.or_else(|| {
        let kind = whole.into_iter().find(|kind| behind(*kind) == Some(&[]))?;
        Some((kind, &[][..]))
    })
}
