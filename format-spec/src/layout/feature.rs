//! Feature bits of the superblock.

use bitflags::bitflags;

bitflags! {
    /// Features that any driver may ignore.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Compat: u32 {
        /// Backup superblocks are kept at 1 GiB, 4 GiB, 16 GiB, 64 GiB, 256 GiB and 1 TiB.
        const BACKUP_SB = 0x1;
        /// The feature words of the journal superblocks are trustworthy.
        const JBD2_SB = 0x2;
    }
}

bitflags! {
    /// Features without which a volume cannot be read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Incompat: u32 {
        /// The device holds only a heartbeat area.
        const HEARTBEAT_DEV = 0x0002;
        /// A resize was interrupted.
        const RESIZE_INPROG = 0x0004;
        /// The volume is mounted by one machine only, without a cluster stack.
        const LOCAL_MOUNT = 0x0008;
        /// Regular files may have holes.
        const SPARSE_ALLOC = 0x0010;
        /// A tuning operation was interrupted; `s_tunefs_flag` says which.
        const TUNEFS_INPROG = 0x0020;
        /// Small files and directories are stored in their inode block.
        const INLINE_DATA = 0x0040;
        /// The cluster information names a stack other than o2cb.
        const USERSPACE_STACK = 0x0080;
        /// The slot map has a record of eight bytes for each slot.
        const EXTENDED_SLOT_MAP = 0x0100;
        /// Extended attributes.
        const XATTR = 0x0200;
        /// Directories have an index by name hash.
        const INDEXED_DIRS = 0x0400;
        /// Metadata blocks carry a CRC32 and ECC.
        const META_ECC = 0x0800;
        /// Files may share clusters through refcount trees.
        const REFCOUNT_TREE = 0x1000;
        /// Allocator groups may consist of several extents.
        const DISCONTIG_BG = 0x2000;
        /// The cluster information is valid for any stack.
        const CLUSTERINFO = 0x4000;
        /// Direct I/O may append without the cluster lock.
        const APPEND_DIO = 0x8000;
    }
}

bitflags! {
    /// Features without which a volume can be read but not written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RoCompat: u32 {
        /// Extents may be allocated but unwritten.
        const UNWRITTEN = 0x1;
        /// Usage by user is accounted.
        const USRQUOTA = 0x2;
        /// Usage by group is accounted.
        const GRPQUOTA = 0x4;
    }
}

/// Bit and name of the compat features, as the tools print them.
pub const COMPAT_NAMES: &[(u64, &str)] = &[(0x1, "backup-super"), (0x2, "strict-journal-super")];

/// Bit and name of the incompat features.
pub const INCOMPAT_NAMES: &[(u64, &str)] = &[
    (0x0002, "heartbeat-device"),
    (0x0004, "aborted-resize"),
    (0x0008, "local"),
    (0x0010, "sparse"),
    (0x0020, "aborted-tunefs"),
    (0x0040, "inline-data"),
    (0x0080, "userspace-stack"),
    (0x0100, "extended-slotmap"),
    (0x0200, "xattr"),
    (0x0400, "indexed-dirs"),
    (0x0800, "metaecc"),
    (0x1000, "refcount"),
    (0x2000, "discontig-bg"),
    (0x4000, "clusterinfo"),
    (0x8000, "append-dio"),
];

/// Bit and name of the ro_compat features.
pub const RO_COMPAT_NAMES: &[(u64, &str)] =
    &[(0x1, "unwritten"), (0x2, "usrquota"), (0x4, "grpquota")];

/// The features of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Features that any driver may ignore.
    pub compat: Compat,
    /// Features without which the volume cannot be read.
    pub incompat: Incompat,
    /// Features without which it cannot be written.
    pub ro_compat: RoCompat,
}

impl Features {
    /// The three feature words, unknown bits included.
    #[must_use]
    pub const fn from_words(compat: u32, incompat: u32, ro_compat: u32) -> Self {
        Self {
            compat: Compat::from_bits_retain(compat),
            incompat: Incompat::from_bits_retain(incompat),
            ro_compat: RoCompat::from_bits_retain(ro_compat),
        }
    }

    /// Whether an incompat feature is on.
    #[must_use]
    pub const fn has(&self, feature: Incompat) -> bool {
        self.incompat.contains(feature)
    }

    /// Names of all features that are on; a bit without a name is given as a number.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (word, table, label) in [
            (self.compat.bits(), COMPAT_NAMES, "compat"),
            (self.incompat.bits(), INCOMPAT_NAMES, "incompat"),
            (self.ro_compat.bits(), RO_COMPAT_NAMES, "ro_compat"),
        ] {
            for bit in (0..32)
                .map(|i| 1u64 << i)
                .filter(|bit| u64::from(word) & bit != 0)
            {
                match table.iter().find(|(b, _)| *b == bit) {
                    Some((_, name)) => names.push((*name).to_owned()),
                    None => names.push(format!("unknown-{label}-{bit:#x}")),
                }
            }
        }
        names
    }
}
