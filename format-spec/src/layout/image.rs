//! Packed metadata images, as o2image of ocfs2-tools writes them.
//!
//! ```text
//! block 0                 header; the rest of its block holds anything
//! block 1 ..= n           the n blocks of the volume that the image holds, in the order of their
//!                         numbers
//! byte (n + 1) * block    a bitmap in pieces of 4096 bytes, one bit for each block of the volume,
//!                         lowest bit first: set = the image holds the block
//! ```
//!
//! "Block" is a block of the volume. The *k*-th set bit belongs to block *k* of the image, counted
//! from 1. The raw images of o2image have no such form: they are the volume as a sparse file, which
//! ends behind the last block that was written.

use zerocopy::little_endian::{U32, U64};

use super::{Kind, layout};

/// `hdr_magic`.
pub const IMAGE_MAGIC: u32 = 0x72A3_D45F;
/// `hdr_magic_desc`, filled up with zeros.
pub const IMAGE_DESC: [u8; 16] = *b"OCFS2 IMAGE\0\0\0\0\0";
/// The only `hdr_version` that there is.
pub const IMAGE_VERSION: u64 = 1;
/// Bytes of a piece of the bitmap.
pub const IMAGE_BITMAP_BLOCK: u64 = 4096;

layout! {
    /// Header of a packed metadata image.
    ImageHeader [0x78] {
        /// [`IMAGE_MAGIC`].
        0x00 hdr_magic: U32 = Kind::Hex;
        /// When the image was made, seconds.
        0x04 hdr_timestamp: U32;
        /// [`IMAGE_DESC`]; only the text and one NUL are written, what is behind them is not set.
        0x08 hdr_magic_desc: [u8; 16] = Kind::Text;
        /// [`IMAGE_VERSION`].
        0x18 hdr_version: U64;
        /// Blocks of the volume.
        0x20 hdr_fsblkcnt: U64;
        /// Bytes of a block.
        0x28 hdr_fsblksz: U64;
        /// Blocks that the image holds.
        0x30 hdr_imgblkcnt: U64;
        /// Bytes of a piece of the bitmap.
        0x38 hdr_bmpblksz: U64;
        /// Number of backup superblocks.
        0x40 hdr_superblkcnt: U64;
        /// Where the image holds them, in its blocks.
        0x48 hdr_superblocks: [u8; 48] = Kind::Raw;
    }
}
