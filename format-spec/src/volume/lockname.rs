//! Names of cluster locks: each object that nodes lock is named by its block.
//!
//! A name is a letter for what the lock guards, six zeros, the block in 16 hexadecimal digits and a
//! generation in 8. Locks of directory entries are the exception: the letter, the directory in 16
//! digits and the entry's inode in 8 (the driver itself keeps the latter as raw bytes; this is the
//! form in which it prints them).

use std::fmt;

use crate::units::BlockNo;

/// What stands between the letter and the block.
const PAD: &str = "000000";

/// What a lock guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// An inode and what belongs to it.
    Meta,
    /// The data of a file (drivers before 2.6.25).
    Data,
    /// The superblock: mounting and recovery.
    Super,
    /// Renaming directories.
    Rename,
    /// Reads and writes of a file.
    ReadWrite,
    /// A directory entry.
    Dentry,
    /// A file being open, so that it is not deleted.
    Open,
    /// flock(2).
    Flock,
    /// A global quota file.
    Quota,
    /// Handles of NFS.
    NfsSync,
    /// The scan for orphans.
    OrphanScan,
    /// A refcount tree.
    Refcount,
    /// Trimming free space.
    Trim,
}

impl LockKind {
    /// All kinds with their letters and names.
    pub const ALL: [(Self, char, &'static str); 13] = [
        (Self::Meta, 'M', "meta"),
        (Self::Data, 'D', "data"),
        (Self::Super, 'S', "super"),
        (Self::Rename, 'R', "rename"),
        (Self::ReadWrite, 'W', "read/write"),
        (Self::Dentry, 'N', "dentry"),
        (Self::Open, 'O', "open"),
        (Self::Flock, 'F', "flock"),
        (Self::Quota, 'Q', "quota"),
        (Self::NfsSync, 'Y', "nfs-sync"),
        (Self::OrphanScan, 'P', "orphan-scan"),
        (Self::Refcount, 'T', "refcount"),
        (Self::Trim, 'I', "trim"),
    ];

    /// Name of the kind, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(kind, ..)| *kind == self);
        found.map_or("", |(.., name)| name)
    }

    fn letter(self) -> char {
        let found = Self::ALL.iter().find(|(kind, ..)| *kind == self);
        found.map_or('M', |(_, letter, _)| *letter)
    }
}

/// The name of a lock, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockName {
    /// What the lock guards.
    pub kind: LockKind,
    /// The inode or other block that is locked.
    pub blkno: BlockNo,
    /// Generation of the volume for system files, else mostly 0.
    pub generation: u32,
    /// The directory, for the lock of an entry.
    pub parent: Option<BlockNo>,
}

impl LockName {
    /// Takes a name apart; `None` when it is none.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let letter = name.chars().next()?;
        let (kind, ..) = *LockKind::ALL
            .iter()
            .find(|(_, known, _)| *known == letter)?;
        let rest = name.get(letter.len_utf8()..)?;
        if !rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let hex = |from: usize, to: usize| u64::from_str_radix(rest.get(from..to)?, 16).ok();
        if kind == LockKind::Dentry {
            return (rest.len() == 24).then_some(Self {
                kind,
                blkno: BlockNo(hex(16, 24)?),
                generation: 0,
                parent: Some(BlockNo(hex(0, 16)?)),
            });
        }
        (rest.len() == 30 && rest.starts_with(PAD)).then_some(Self {
            kind,
            blkno: BlockNo(hex(6, 22)?),
            generation: u32::try_from(hex(22, 30)?).ok()?,
            parent: None,
        })
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = self.kind.letter();
        match self.parent {
            Some(parent) => write!(f, "{letter}{:016x}{:08x}", parent.0, self.blkno.0),
            None => write!(
                f,
                "{letter}{PAD}{:016x}{:08x}",
                self.blkno.0, self.generation
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LockKind, LockName};
    use crate::units::BlockNo;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        // What debugfs.ocfs2 prints for a root directory, and the example of its manual page.
        for (name, blkno, generation) in [
            ("M0000000000000000000005a69530bd", 5, 0xa695_30bd),
            ("M000000000000000040c40c044069cf", 0x40_c40c, 0x0440_69cf),
        ] {
            let parsed = LockName::parse(name.as_bytes()).unwrap();
            assert_eq!(parsed.kind, LockKind::Meta);
            assert_eq!(
                (parsed.blkno, parsed.generation),
                (BlockNo(blkno), generation)
            );
            assert_eq!(parsed.to_string(), name);
        }
        let entry = LockName::parse(b"N000000000000000500000a33").unwrap();
        assert_eq!(entry.parent, Some(BlockNo(5)));
        assert_eq!(entry.blkno, BlockNo(0xa33));
        assert_eq!(entry.to_string(), "N000000000000000500000a33");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            &b""[..],
            b"M",
            b"5",
            b"X0000000000000000000005a69530bd",
            b"M1000000000000000000005a69530bd",
            b"M0000000000000000000005a69530b",
            b"M0000000000000000000005a69530bdd",
            b"M00000000000000000000+5a69530bd",
            b"N0000000000000005",
            b"\xff00000000000000000005a69530bd",
            "M\u{e9}00000000000000000005a69530b".as_bytes(),
        ] {
            assert_eq!(LockName::parse(name), None, "{}", name.escape_ascii());
        }
    }
}
