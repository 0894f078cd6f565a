//! The inode block.

use bitflags::bitflags;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::{BlockCheck, ExtentFlags, ExtentList, ExtentRec, Kind, layout};

/// Bytes of the head that all dinodes share; the body (`id2`) follows.
pub const DINODE_HEAD: usize = 0xC0;

/// Bit and name of `i_flags`.
pub const INODE_FLAG_NAMES: &[(u64, &str)] = &[
    (0x0001, "valid"),
    (0x0004, "orphaned"),
    (0x0010, "system"),
    (0x0020, "superblock"),
    (0x0040, "localalloc"),
    (0x0080, "bitmap"),
    (0x0100, "journal"),
    (0x0200, "heartbeat"),
    (0x0400, "chain"),
    (0x0800, "dealloc"),
    (0x1000, "quota"),
    (0x2000, "dio-orphaned"),
];

/// Bit and name of `i_dyn_features`.
pub const DYN_FEATURE_NAMES: &[(u64, &str)] = &[
    (0x01, "inline-data"),
    (0x02, "xattr"),
    (0x04, "inline-xattr"),
    (0x08, "indexed-dir"),
    (0x10, "refcounted"),
];

/// Bit and name of `i_attr`.
pub const ATTR_NAMES: &[(u64, &str)] = &[
    (0x1, "secrm"),
    (0x2, "unrm"),
    (0x4, "compr"),
    (0x8, "sync"),
    (0x10, "immutable"),
    (0x20, "append"),
    (0x40, "nodump"),
    (0x80, "noatime"),
    (0x1_0000, "dirsync"),
];

layout! {
    /// Head of every inode block. What follows it depends on the inode: an extent list, inline
    /// data, a fast symlink, a chain list, a local alloc, a truncate log or the superblock body.
    Dinode [0xC0] {
        /// `INODE01`, or `OCFSV2` in the superblock.
        0x00 i_signature: [u8; 8] = Kind::Text;
        /// Generation of the inode (NFS handles).
        0x08 i_generation: U32 = Kind::Hex;
        /// Slot whose inode allocator owns the block; `0xFFFF` = `global_inode_alloc`.
        0x0C i_suballoc_slot: U16;
        /// Bit of the block in its allocator group.
        0x0E i_suballoc_bit: U16;
        /// High half of the link count (directories on volumes with indexed directories).
        0x10 i_links_count_hi: U16;
        /// Bytes reserved at the end of the block for xattrs, with `INLINE_XATTR`.
        0x12 i_xattr_inline_size: U16;
        /// Clusters of the data extent tree.
        0x14 i_clusters: U32;
        /// Owner.
        0x18 i_uid: U32;
        /// Group.
        0x1C i_gid: U32;
        /// Size in bytes.
        0x20 i_size: U64;
        /// POSIX mode with the type.
        0x28 i_mode: U16 = Kind::Mode;
        /// Low half of the link count.
        0x2A i_links_count: U16;
        /// What kind of inode it is.
        0x2C i_flags: U32 = Kind::Flags(INODE_FLAG_NAMES);
        /// Time of the last access, seconds.
        0x30 i_atime: U64 = Kind::Time;
        /// Time of the last change of the inode, seconds.
        0x38 i_ctime: U64 = Kind::Time;
        /// Time of the last change of the data, seconds.
        0x40 i_mtime: U64 = Kind::Time;
        /// Time of the deletion; 0 while in use.
        0x48 i_dtime: U64 = Kind::Time;
        /// Own block number.
        0x50 i_blkno: U64 = Kind::Block;
        /// Rightmost leaf of the extent tree; 0 when the list below holds the extents itself.
        0x58 i_last_eb_blk: U64 = Kind::Block;
        /// Generation of the volume.
        0x60 i_fs_generation: U32 = Kind::Hex;
        /// Nanoseconds of `i_atime`.
        0x64 i_atime_nsec: U32;
        /// Nanoseconds of `i_ctime`.
        0x68 i_ctime_nsec: U32;
        /// Nanoseconds of `i_mtime`.
        0x6C i_mtime_nsec: U32;
        /// Attributes as `chattr` sets them.
        0x70 i_attr: U32 = Kind::Flags(ATTR_NAMES);
        /// Slot whose orphan directory holds the inode, with `ORPHANED`.
        0x74 i_orphaned_slot: U16;
        /// How the inode's contents are stored.
        0x76 i_dyn_features: U16 = Kind::Flags(DYN_FEATURE_NAMES);
        /// Xattr block; 0 = none.
        0x78 i_xattr_loc: U64 = Kind::Block;
        /// Check of the block.
        0x80 i_check: BlockCheck;
        /// Root of the directory index, with `INDEXED_DIR`.
        0x88 i_dx_root: U64 = Kind::Block;
        /// Root of the refcount tree, with `HAS_REFCOUNT`.
        0x90 i_refcount_loc: U64 = Kind::Block;
        /// Allocator group of the block; 0 = the block number less the bit.
        0x98 i_suballoc_loc: U64 = Kind::Block;
        /// Slot of the orphan entry of a direct write in flight.
        0xA0 i_dio_orphaned_slot: U16;
        /// Zero.
        0xA2 i_reserved2: [u8; 22] = Kind::Reserved;
        /// Device number, allocator counts or journal state: see [`Dinode::bitmap_used`] and its
        /// siblings.
        0xB8 id1_low: U32;
        /// High half of the above.
        0xBC id1_high: U32;
    }
}

bitflags! {
    /// `i_flags`: what kind of inode it is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        /// In use; cleared on delete.
        const VALID = 0x0001;
        /// Has an entry in an orphan directory.
        const ORPHANED = 0x0004;
        /// A system inode (also the root directory that mkfs made).
        const SYSTEM = 0x0010;
        /// The superblock.
        const SUPER_BLOCK = 0x0020;
        /// A local allocator.
        const LOCAL_ALLOC = 0x0040;
        /// An allocator: `id1` holds the used and total bits.
        const BITMAP = 0x0080;
        /// A journal.
        const JOURNAL = 0x0100;
        /// The heartbeat area.
        const HEARTBEAT = 0x0200;
        /// A chain allocator.
        const CHAIN = 0x0400;
        /// A truncate log.
        const DEALLOC = 0x0800;
        /// A quota file.
        const QUOTA = 0x1000;
        /// In an orphan directory because of a direct write in flight.
        const DIO_ORPHANED = 0x2000;
    }
}

bitflags! {
    /// `i_dyn_features`: how the inode's contents are stored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DynFeatures: u16 {
        /// Data or directory entries stand in the inode block.
        const INLINE_DATA = 0x01;
        /// There are xattrs somewhere.
        const HAS_XATTR = 0x02;
        /// The end of the inode block is reserved for xattrs.
        const INLINE_XATTR = 0x04;
        /// The directory has an index.
        const INDEXED_DIR = 0x08;
        /// The inode belongs to a refcount tree.
        const HAS_REFCOUNT = 0x10;
    }
}

/// `ij_flags` bit 0: the journal's slot was not left cleanly.
pub const JOURNAL_DIRTY: u32 = 1;

/// The file type of a dinode, from its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

impl FileType {
    /// The type bits of a POSIX mode.
    #[must_use]
    pub const fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }

    /// The type byte of a directory entry.
    #[must_use]
    pub const fn dirent(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The letter that `ls -l` shows.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Regular => '-',
            Self::Directory => 'd',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::Symlink => 'l',
        }
    }
}

impl Dinode {
    /// `i_flags`.
    #[must_use]
    pub const fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.i_flags.get())
    }

    /// `i_dyn_features`.
    #[must_use]
    pub const fn dyn_features(&self) -> DynFeatures {
        DynFeatures::from_bits_retain(self.i_dyn_features.get())
    }

    /// The file type, when the mode names one.
    #[must_use]
    pub const fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.i_mode.get())
    }

    /// Link count, both halves.
    #[must_use]
    pub fn links(&self) -> u32 {
        u32::from(self.i_links_count_hi.get()) << 16 | u32::from(self.i_links_count.get())
    }

    /// Stores the link count.
    pub fn set_links(&mut self, links: u32) {
        let b = links.to_le_bytes();
        self.i_links_count = U16::from_bytes([b[0], b[1]]);
        self.i_links_count_hi = U16::from_bytes([b[2], b[3]]);
    }

    /// Used bits of an allocator inode (`i_used`).
    #[must_use]
    pub const fn bitmap_used(&self) -> u32 {
        self.id1_low.get()
    }

    /// All bits of an allocator inode (`i_total`).
    #[must_use]
    pub const fn bitmap_total(&self) -> u32 {
        self.id1_high.get()
    }

    /// Flags of a journal inode (`ij_flags`).
    #[must_use]
    pub const fn journal_flags(&self) -> u32 {
        self.id1_low.get()
    }

    /// How often a journal's slot was recovered (`ij_recovery_generation`).
    #[must_use]
    pub const fn journal_recovery_generation(&self) -> u32 {
        self.id1_high.get()
    }

    /// Device number of a device inode (`i_rdev`).
    #[must_use]
    pub fn rdev(&self) -> u64 {
        u64::from(self.id1_high.get()) << 32 | u64::from(self.id1_low.get())
    }

    /// Major and minor number of a device inode; see [`device_number`] for how they are packed.
    #[must_use]
    pub const fn device(&self) -> (u32, u32) {
        unpacked(self.id1_low.get())
    }

    /// Bytes at the end of the block that are kept for inline xattrs.
    #[must_use]
    pub fn inline_xattr_bytes(&self) -> usize {
        if self.dyn_features().contains(DynFeatures::INLINE_XATTR) {
            usize::from(self.i_xattr_inline_size.get())
        } else {
            0
        }
    }

    /// Whether the body holds an extent list.
    #[must_use]
    pub fn has_extents(&self) -> bool {
        let flags = self.flags();
        let no_list = InodeFlags::SUPER_BLOCK
            .union(InodeFlags::LOCAL_ALLOC)
            .union(InodeFlags::CHAIN)
            .union(InodeFlags::DEALLOC);
        if flags.intersects(no_list) || self.dyn_features().contains(DynFeatures::INLINE_DATA) {
            return false;
        }
        match self.file_type() {
            Some(FileType::Regular | FileType::Directory) => true,
            Some(FileType::Symlink) => self.i_clusters.get() != 0,
            _ => false,
        }
    }
}

impl Dinode {
    /// Whether the inode says, in two fields each, that it holds no space but its own block: its data
    /// stand in it, and it has no xattrs, index or refcount tree. No single wrong field says so of an
    /// inode that does hold space.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.dyn_features() == DynFeatures::INLINE_DATA
            && self.i_clusters.get() == 0
            && self.has_only_contents()
    }

    /// Whether the inode says, in two fields each, that it holds nothing but its own block and the
    /// clusters of these records: `body` is what follows the head of the inode.
    #[must_use]
    pub fn holds_only<'b>(&self, body: &'b [u8]) -> Option<&'b [ExtentRec]> {
        let clusters = u64::from(self.i_clusters.get());
        if clusters == 0 || !self.dyn_features().is_empty() || !self.has_only_contents() {
            return None;
        }
        let (list, room) = ExtentList::ref_from_prefix(body).ok()?;
        let used = usize::from(list.l_next_free_rec.get());
        let recs =
            <[ExtentRec]>::ref_from_bytes(room.get(..used * size_of::<ExtentRec>())?).ok()?;
        let mapped = recs.iter().map(|rec| u64::from(rec.e_leaf_clusters.get()));
        let is_whole = list.l_tree_depth.get() == 0
            && recs
                .iter()
                .all(|rec| rec.e_flags & ExtentFlags::REFCOUNTED.bits() == 0)
            && list.l_next_free_rec.get() <= list.l_count.get()
            && mapped.sum::<u64>() == clusters;
        is_whole.then_some(recs)
    }

    /// Whether it is an inode in use and nothing else, without xattrs of their own place, index or
    /// refcount tree.
    fn has_only_contents(&self) -> bool {
        self.flags() == InodeFlags::VALID
            && self.i_xattr_loc.get() == 0
            && self.i_dx_root.get() == 0
            && self.i_refcount_loc.get() == 0
    }
}

layout! {
    /// Header of data stored in the inode block, at byte `0xC0`; the data follows.
    InlineData [8] {
        /// Capacity in bytes.
        0x00 id_count: U16;
        /// Zero.
        0x02 id_reserved0: U16 = Kind::Reserved;
        /// Zero.
        0x04 id_reserved1: U32 = Kind::Reserved;
    }
}

const fn unpacked(packed: u32) -> (u32, u32) {
    (packed >> 8 & 0xFFF, packed & 0xFF | packed >> 12 & 0xF_FF00)
}

/// The number of a device as its inode keeps it: 12 bits of the major above 8 bits of the minor,
/// whose other 12 bits stand above both.
#[must_use]
pub const fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xFF) | (major << 8) | ((minor & !0xFF) << 12)
}

#[cfg(test)]
mod device_tests {
    use super::*;

    #[test]
    fn devices_are_unpacked() {
        // 8,1; and 0x45,0x12367, whose minor has more than eight bits.
        assert_eq!(unpacked(0x0801), (8, 1));
        assert_eq!(unpacked(0x1230_4567), (0x45, 0x1_2367));
        assert_eq!(device_number(8, 1), 0x0801);
        assert_eq!(device_number(0x45, 0x1_2367), 0x1230_4567);
    }
}
