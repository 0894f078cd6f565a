//! Directory entries and the trailer of directory blocks.

use zerocopy::little_endian::{U16, U64};

use super::{BlockCheck, Kind, layout};

/// Longest file name in bytes.
pub const MAX_NAME: usize = 255;

layout! {
    /// Head of a directory entry; the name follows. Entries are multiples of four bytes.
    DirEntry [12] {
        /// Inode of the entry; 0 = free space.
        0x00 inode: U64 = Kind::Block;
        /// Bytes to the next entry.
        0x08 rec_len: U16;
        /// Bytes of the name.
        0x0A name_len: u8;
        /// Type of the inode: 1 regular, 2 directory, 3 char, 4 block, 5 fifo, 6 socket, 7 symlink.
        0x0B file_type: u8;
    }
}

/// Bytes of the head of a directory entry.
pub const DIRENT_HEAD: usize = 12;

/// Bytes that an entry with a name of `name_len` bytes needs.
#[must_use]
pub const fn dirent_bytes(name_len: usize) -> usize {
    (name_len + DIRENT_HEAD + 3) & !3
}

/// Bytes of the trailer.
pub const DIR_TRAILER: usize = 64;
/// Signature inside the trailer.
pub const DIR_TRAILER_SIGNATURE: [u8; 8] = *b"DIRTRL1\0";

layout! {
    /// Trailer: the last 64 bytes of a directory block, disguised as a free entry. Present with
    /// `metaecc` and in indexed directories.
    DirBlockTrailer [64] {
        /// 0, so that the trailer reads as a free entry.
        0x00 db_compat_inode: U64;
        /// 64.
        0x08 db_compat_rec_len: U16;
        /// 0.
        0x0A db_compat_name_len: u8;
        /// Zero.
        0x0B db_reserved0: u8 = Kind::Reserved;
        /// Zero.
        0x0C db_reserved1: U16 = Kind::Reserved;
        /// Largest hole of the block in an indexed directory; 0 when smaller than 16.
        0x0E db_free_rec_len: U16;
        /// `DIRTRL1`.
        0x10 db_signature: [u8; 8] = Kind::Text;
        /// Zero.
        0x18 db_reserved2: U64 = Kind::Reserved;
        /// Next block of the list of blocks with room.
        0x20 db_free_next: U64 = Kind::Block;
        /// Own block number.
        0x28 db_blkno: U64 = Kind::Block;
        /// Inode of the directory.
        0x30 db_parent_dinode: U64 = Kind::Block;
        /// Check of the block.
        0x38 db_check: BlockCheck;
    }
}
