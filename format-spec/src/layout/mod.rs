//! The bytes of the format: structures, signatures, feature bits, name hashes.
//!
//! Nothing here does I/O or decides anything. All integers are little-endian except those of the
//! journal ([`jbd2`]), which are big-endian. Structures hold only bytes and integers of a declared
//! byte order, so any bytes are a valid value of any of them; what the numbers must be is the
//! business of [`crate::block`] and [`crate::read`].
//!
//! Metadata is self-describing: each block begins with a signature and records its own block
//! number, and most record the generation of the volume. Directory blocks and xattr buckets have
//! no room for that at their start; directory blocks carry it in a trailer.

mod alloc;
mod dinode;
mod dir;
mod dx;
mod extent;
mod feature;
mod field;
mod hash;
mod image;
pub mod jbd2;
mod quota;
mod refcount;
mod seal;
mod slot;
mod superblock;
mod xattr;

use zerocopy::little_endian::{U16, U32};

pub use alloc::*;
pub use dinode::*;
pub use dir::*;
pub use dx::*;
pub use extent::*;
pub use feature::*;
pub use field::{Encoding, Field, FieldType, Kind};
pub(crate) use field::{debug_fields, layout};
pub use hash::*;
pub use image::*;
pub use quota::*;
pub use refcount::*;
pub use seal::*;
pub use slot::*;
pub use superblock::*;
pub use xattr::*;

layout! {
    /// The check of a metadata block; see [`crate::ecc`]. All zero on volumes without `metaecc`.
    BlockCheck [8] {
        /// CRC-32 of the block, not inverted at the end.
        0x00 bc_crc32: U32 = Kind::Hex;
        /// Hamming parity of the block.
        0x04 bc_ecc: U16 = Kind::Hex;
        /// Zero.
        0x06 bc_reserved: U16 = Kind::Reserved;
    }
}
