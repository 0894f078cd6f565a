//! Manifests: what a subtree holds, as facts that do not depend on where it lies.
//!
//! An [`Entry`] says of one name all that a user of the tree could see: type, mode, owner, size,
//! attributes, contents (as a sum), which names are the same file, and which files share space.
//! No number of a block or an inode is in it, so two volumes that hold the same tree have the same
//! manifest, whatever their geometry and history. Entries come in the order of
//! [`crate::volume::tree::walk`]: depth first, the names of a directory bytewise, which is the
//! order of paths when the slash sorts before every other byte ([`order`]).
//!
//! Groups are named after their first member in that order. A file with several names says under
//! each but the first which one that is ([`Entry::hard_link`]). A cluster that several files share
//! belongs to the first file that maps it; the others say which of their bytes are whose
//! ([`Entry::shares`]). Only what is inside the subtree counts.
//!
//! [`gather`] makes the entries of a volume, [`text`] writes and reads them as lines, and
//! [`crate::ops::compare`] holds two sources of entries against each other.

mod gather;
mod groups;
pub mod sum;
pub mod text;

use std::cmp::Ordering;
use std::sync::Arc;

pub use gather::{Found, gather, gather_here};

use crate::layout::FileType;
use sum::Sum;

/// Version of the form; a reader refuses any other.
pub const VERSION: u32 = 1;

/// Largest value of an attribute that stands in a manifest itself; of a longer one stands the sum.
pub const VALUE_SHOWN: usize = 64;

/// Which facts are recorded. Type, mode, owner, size, devices, targets and hard links always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Sums of the contents of files.
    pub sums: bool,
    /// Times of the last change of the contents.
    pub times: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Which files share space.
    pub sharing: bool,
}

impl Default for Fields {
    /// All but times.
    fn default() -> Self {
        Self {
            sums: true,
            times: false,
            xattrs: true,
            sharing: true,
        }
    }
}

impl Fields {
    /// What both record.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            sums: self.sums && other.sums,
            times: self.times && other.times,
            xattrs: self.xattrs && other.xattrs,
            sharing: self.sharing && other.sharing,
        }
    }

    /// The names of what is recorded.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("sums", self.sums),
            ("times", self.times),
            ("xattrs", self.xattrs),
            ("sharing", self.sharing),
        ];
        all.into_iter().filter_map(|(name, is)| is.then_some(name))
    }

    /// The fields of these names.
    #[must_use]
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut fields = Self {
            sums: false,
            times: false,
            xattrs: false,
            sharing: false,
        };
        for name in names {
            *match name {
                "sums" => &mut fields.sums,
                "times" => &mut fields.times,
                "xattrs" => &mut fields.xattrs,
                "sharing" => &mut fields.sharing,
                _ => return None,
            } = true;
        }
        Some(fields)
    }
}

/// What a manifest says of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path from the start of the subtree, without a slash at either end; empty for the start.
    pub path: Vec<u8>,
    /// Type; unknown when the inode cannot be read, and then all that follows is empty.
    pub kind: Option<FileType>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Attributes as `chattr` sets them.
    pub attr: u32,
    /// Number of names, inside the subtree and outside; of a directory, 1.
    pub links: u32,
    /// Bytes of a regular file.
    pub size: Option<u64>,
    /// Time of the last change of the contents: seconds and nanoseconds.
    pub mtime: Option<(u64, u32)>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Sum of the contents of a regular file.
    pub sum: Option<Sum>,
    /// The first name of the same file, unless that is this one.
    pub hard_link: Option<Vec<u8>>,
    /// What of the file lies in clusters of files that come earlier, in the order of the offsets.
    pub shares: Vec<Share>,
    /// Extended attributes, by name.
    pub xattrs: Vec<Xattr>,
    /// What could not be read.
    pub trouble: Vec<Trouble>,
}

impl Entry {
    /// An entry that says nothing yet.
    #[must_use]
    pub const fn empty(path: Vec<u8>) -> Self {
        Self {
            path,
            kind: None,
            mode: 0,
            uid: 0,
            gid: 0,
            attr: 0,
            links: 1,
            size: None,
            mtime: None,
            device: None,
            target: None,
            sum: None,
            hard_link: None,
            shares: Vec::new(),
            xattrs: Vec::new(),
            trouble: Vec::new(),
        }
    }

    /// Notes what could not be read.
    pub fn note(&mut self, trouble: Trouble) {
        if let Err(at) = self.trouble.binary_search(&trouble) {
            self.trouble.insert(at, trouble);
        }
    }
}

/// Bytes of a file that lie in clusters of a file that comes earlier. Holes inside the range count
/// as part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Path of the file that comes first.
    pub path: Arc<[u8]>,
    /// First byte there.
    pub at: u64,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its prefix.
    pub name: Vec<u8>,
    /// Value.
    pub value: Value,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// At most [`VALUE_SHOWN`] bytes.
    Short(Vec<u8>),
    /// SHA-256 and number of bytes of a longer one.
    Long([u8; 32], u64),
}

impl Value {
    /// How a value is recorded.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() <= VALUE_SHOWN {
            Self::Short(bytes)
        } else {
            Self::Long(sum::sha256(&bytes), bytes.len() as u64)
        }
    }
}

/// What of a name could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The inode.
    Inode,
    /// Names in the directory.
    Names,
    /// The contents of the file.
    Contents,
    /// The target of the symbolic link.
    Target,
    /// Extended attributes.
    Xattrs,
}

impl Trouble {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Inode,
        Self::Names,
        Self::Contents,
        Self::Target,
        Self::Xattrs,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inode => "inode",
            Self::Names => "names",
            Self::Contents => "contents",
            Self::Target => "target",
            Self::Xattrs => "xattrs",
        }
    }

    /// What goes by a word.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trouble| trouble.name() == name)
    }
}

/// The word for a type.
#[must_use]
pub const fn kind_name(kind: Option<FileType>) -> &'static str {
    match kind {
        Some(FileType::Regular) => "file",
        Some(FileType::Directory) => "dir",
        Some(FileType::CharDevice) => "char",
        Some(FileType::BlockDevice) => "block",
        Some(FileType::Fifo) => "fifo",
        Some(FileType::Socket) => "socket",
        Some(FileType::Symlink) => "link",
        None => "unknown",
    }
}

/// The type that goes by a word; the inner `None` is the unknown one.
#[must_use]
pub fn kind_named(name: &str) -> Option<Option<FileType>> {
    let all = [
        FileType::Regular,
        FileType::Directory,
        FileType::CharDevice,
        FileType::BlockDevice,
        FileType::Fifo,
        FileType::Socket,
        FileType::Symlink,
    ];
    all.into_iter()
        .map(Some)
        .chain([None])
        .find(|kind| kind_name(*kind) == name)
}

/// The order of the entries: that of paths when the slash sorts before every other byte.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    match (a.get(same), b.get(same)) {
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_the_order_of_the_walk() {
        let sorted: [&[u8]; 7] = [b"", b"a", b"a/b", b"a/b/c", b"a!", b"a.b", b"b"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(order(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn words_are_read_back() {
        for trouble in Trouble::ALL {
            assert_eq!(Trouble::named(trouble.name()), Some(trouble));
        }
        for name in [
            "file", "dir", "char", "block", "fifo", "socket", "link", "unknown",
        ] {
            assert_eq!(kind_name(kind_named(name).unwrap()), name);
        }
        let all = Fields {
            times: true,
            ..Fields::default()
        };
        assert_eq!(Fields::named(all.names()), Some(all));
        assert_eq!(Fields::named(["sums", "colour"]), None);
    }
}
