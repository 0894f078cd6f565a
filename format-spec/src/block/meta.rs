//! What each kind of metadata block says of itself.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::layout::{
    Dinode, DxLeaf, DxRoot, ExtentBlock, GroupDesc, RefcountBlock, SUPER_BLOCK_SIGNATURE,
    XattrBlock,
};

/// The head of a kind of metadata block.
pub trait MetaBlock: FromBytes + Immutable + KnownLayout + Unaligned {
    /// Name for messages.
    const NAME: &'static str;
    /// First eight bytes.
    const SIGNATURE: [u8; 8];
    /// Offset of the check.
    const CHECK_AT: usize;
    /// The block's record of its own number.
    fn own_blkno(&self) -> u64;
    /// The block's record of the generation of the volume.
    fn generation(&self) -> u32;
}

macro_rules! meta_block {
    ($($t:ty: $name:literal, $signature:expr, $check_at:expr, $blkno:ident, $generation:ident;)*) => {
        $(impl MetaBlock for $t {
            const NAME: &'static str = $name;
            const SIGNATURE: [u8; 8] = $signature;
            const CHECK_AT: usize = $check_at;
            fn own_blkno(&self) -> u64 {
                self.$blkno.get()
            }
            fn generation(&self) -> u32 {
                self.$generation.get()
            }
        })*

        /// Offset of the check in a block with this signature; `None` when it begins like no
        /// metadata block (directory blocks, xattr buckets and quota blocks have no signature).
        #[must_use]
        pub fn check_offset_of(signature: [u8; 8]) -> Option<usize> {
            if signature == SUPER_BLOCK_SIGNATURE {
                return Some(Dinode::CHECK_AT);
            }
            $(if signature == <$t>::SIGNATURE {
                return Some(<$t>::CHECK_AT);
            })*
            None
        }

        /// What a block that begins with a signature says of itself: its number and the generation
        /// of its volume. `None` when it begins like no metadata block.
        #[must_use]
        pub fn identity_of(block: &[u8]) -> Option<(u64, u32)> {
            if block.starts_with(&SUPER_BLOCK_SIGNATURE) {
                let (head, _) = Dinode::ref_from_prefix(block).ok()?;
                return Some((head.own_blkno(), head.generation()));
            }
            $(if block.starts_with(&<$t>::SIGNATURE) {
                let (head, _) = <$t>::ref_from_prefix(block).ok()?;
                return Some((head.own_blkno(), head.generation()));
            })*
            None
        }
    };
}

meta_block! {
    Dinode: "inode", *b"INODE01\0", 0x80, i_blkno, i_fs_generation;
    ExtentBlock: "extent block", *b"EXBLK01\0", 0x08, h_blkno, h_fs_generation;
    GroupDesc: "group descriptor", *b"GROUP01\0", 0x30, bg_blkno, bg_generation;
    DxRoot: "directory index root", *b"DXDIR01\0", 0x08, dr_blkno, dr_fs_generation;
    DxLeaf: "directory index leaf", *b"DXLEAF1\0", 0x08, dl_blkno, dl_fs_generation;
    XattrBlock: "xattr block", *b"XATTR01\0", 0x18, xb_blkno, xb_fs_generation;
    RefcountBlock: "refcount block", *b"REFCNT1\0", 0x20, rf_blkno, rf_fs_generation;
}
