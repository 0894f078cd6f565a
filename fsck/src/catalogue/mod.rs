//! The catalogue: everything that can be wrong with a volume, as data.
//!
//! A problem is a typed variant that holds the numbers of one occurrence; its row in the catalogue
//! holds what is true of all of them: a stable code, how bad it is, whether it may be repaired
//! without asking, a message and a paragraph that explains it. Where fsck.ocfs2 knows a problem,
//! the code is the one of its checks page; codes of our own begin with `X_`. Text output, JSON,
//! `--explain` and the tests that damage volumes all read these tables.

mod alloc;
mod dir;
mod elsewhere;
mod inode;
mod refcount;
mod volume;
mod xattr;

use std::fmt;

use cowfs_format::error::FaultKind;
use cowfs_format::toolkit::report::Severity;
use cowfs_format::units::BlockNo;
use serde::Serialize;

pub use alloc::AllocProblem;
pub use dir::DirProblem;
pub use elsewhere::{ELSEWHERE, Elsewhere};
pub use inode::InodeProblem;
pub use refcount::RefcountProblem;
pub use volume::VolumeProblem;
pub use xattr::XattrProblem;

/// What the catalogue says of a problem.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Name of the variant; unique, unlike the code.
    pub name: &'static str,
    /// Stable code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Whether the repair loses nothing and needs no decision.
    pub preen: bool,
    /// The paragraph that explains it.
    pub explanation: &'static str,
    /// How it is repaired; `None`: it is told, and left.
    pub remedy: Option<Remedy>,
}

impl Entry {
    /// The sentence that tells how it is repaired, or that it is not.
    #[must_use]
    pub fn repair(&self) -> String {
        match self.remedy {
            Some(remedy) => format!("Repair: {}.", remedy.says),
            None if self.severity == Severity::Note => "Nothing is to be repaired.".to_owned(),
            None => "Not repaired: it is told, and left as it is.".to_owned(),
        }
    }
}

/// How a problem is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// When: problems of one layer are repaired before those of the next are believed.
    pub layer: Layer,
    /// What the repair does, in words that follow "repair:".
    pub says: &'static str,
}

/// The order of repairs. What a layer says can be believed once the layers before it are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Checks of blocks, and what blocks say of themselves.
    Blocks,
    /// Superblocks, journals, system files.
    Volume,
    /// Chains of groups and their counts.
    Groups,
    /// Bits of what is in use but marked as free.
    Marks,
    /// Inodes, extents, attributes.
    Trees,
    /// What the files of the volume itself hold: journals, slot map, heartbeats, quota.
    System,
    /// Entries of directories.
    Names,
    /// Indexes of directories.
    Index,
    /// The tree of directories, and link counts.
    Links,
    /// What is marked as used for nothing, and who shares what.
    Space,
    /// What slots that were not left cleanly still owe.
    Slots,
}

impl Layer {
    /// All layers, in order.
    pub const ALL: [Self; 11] = [
        Self::Blocks,
        Self::Volume,
        Self::Groups,
        Self::Marks,
        Self::Trees,
        Self::System,
        Self::Names,
        Self::Index,
        Self::Links,
        Self::Space,
        Self::Slots,
    ];
}

/// Declares the problems of an area.
macro_rules! problems {
    (
        $(#[$meta:meta])*
        $area:ident;
        $(
            $(#[doc = $doc:literal])+
            $name:ident { $( $field:ident : $type:ty ),* $(,)? } = $code:literal $severity:ident $preen:ident
                $message:literal $(=> $layer:ident $says:literal)?;
        )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs)]
        pub enum $area {
            $( $(#[doc = $doc])+ $name { $( $field: $type ),* }, )*
        }

        impl $area {
            /// The rows of the catalogue.
            pub const ENTRIES: &'static [$crate::catalogue::Entry] = &[
                $( $crate::catalogue::Entry {
                    name: stringify!($name),
                    code: $code,
                    severity: cowfs_format::toolkit::report::Severity::$severity,
                    preen: problems!(@preen $preen),
                    explanation: concat!($( $doc ),+),
                    remedy: problems!(@remedy $($layer $says)?),
                }, )*
            ];

            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $( Self::$name { .. } => stringify!($name), )*
                }
            }
        }

        impl std::fmt::Display for $area {
            #[allow(unused_variables)]
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $( Self::$name { $( $field ),* } => write!(f, $message), )*
                }
            }
        }

        impl From<$area> for $crate::catalogue::Problem {
            fn from(problem: $area) -> Self {
                Self::$area(problem)
            }
        }
    };
    (@preen preen) => { true };
    (@preen ask) => { false };
    (@remedy) => { None };
    (@remedy $layer:ident $says:literal) => {
        Some($crate::catalogue::Remedy {
            layer: $crate::catalogue::Layer::$layer,
            says: $says,
        })
    };
}
pub(crate) use problems;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Problem {
    VolumeProblem(VolumeProblem),
    AllocProblem(AllocProblem),
    InodeProblem(InodeProblem),
    DirProblem(DirProblem),
    XattrProblem(XattrProblem),
    RefcountProblem(RefcountProblem),
}

/// All rows of the catalogue, by area.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [
        VolumeProblem::ENTRIES,
        AllocProblem::ENTRIES,
        InodeProblem::ENTRIES,
        DirProblem::ENTRIES,
        XattrProblem::ENTRIES,
        RefcountProblem::ENTRIES,
    ]
    .into_iter()
    .flatten()
}

impl Problem {
    /// Its row in the catalogue.
    #[must_use]
    pub fn entry(&self) -> &'static Entry {
        let (entries, name) = match self {
            Self::VolumeProblem(p) => (VolumeProblem::ENTRIES, p.name()),
            Self::AllocProblem(p) => (AllocProblem::ENTRIES, p.name()),
            Self::InodeProblem(p) => (InodeProblem::ENTRIES, p.name()),
            Self::DirProblem(p) => (DirProblem::ENTRIES, p.name()),
            Self::XattrProblem(p) => (XattrProblem::ENTRIES, p.name()),
            Self::RefcountProblem(p) => (RefcountProblem::ENTRIES, p.name()),
        };
        // Both come from the same macro call, so the name is always there.
        entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap_or(&VolumeProblem::ENTRIES[0])
    }

    /// Whether it keeps quota files from being used.
    pub(crate) fn loses_quota(&self) -> bool {
        match self {
            Self::VolumeProblem(
                VolumeProblem::SystemFileLost { name, .. }
                | VolumeProblem::SystemFileMissing { name },
            ) => name.starts_with("aquota."),
            Self::VolumeProblem(
                VolumeProblem::SystemDirLost { .. }
                | VolumeProblem::QuotaInvalid { .. }
                | VolumeProblem::QuotaUsage { .. },
            ) => true,
            _ => false,
        }
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.entry().code
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumeProblem(p) => p.fmt(f),
            Self::AllocProblem(p) => p.fmt(f),
            Self::InodeProblem(p) => p.fmt(f),
            Self::DirProblem(p) => p.fmt(f),
            Self::XattrProblem(p) => p.fmt(f),
            Self::RefcountProblem(p) => p.fmt(f),
        }
    }
}

/// Where a problem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The inode it belongs to.
    pub inode: Option<BlockNo>,
    /// The block it is in, when that is not the inode's own.
    pub block: Option<BlockNo>,
}

impl At {
    /// In an inode's own block.
    #[must_use]
    pub const fn inode(inode: BlockNo) -> Self {
        Self {
            inode: Some(inode),
            block: None,
        }
    }

    /// In a block that no inode owns.
    #[must_use]
    pub const fn block(block: BlockNo) -> Self {
        Self {
            inode: None,
            block: Some(block),
        }
    }

    /// In another block of an inode.
    #[must_use]
    pub const fn within(inode: BlockNo, block: BlockNo) -> Self {
        Self {
            inode: Some(inode),
            block: Some(block),
        }
    }
}

/// A problem with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where.
    pub at: At,
    /// What.
    pub problem: Problem,
}

/// What kind of metadata block was expected; chooses the code for a block of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// An inode.
    Inode,
    /// An extent block.
    Extent,
    /// A group descriptor.
    Group,
    /// The root or a leaf of a directory index.
    Dx,
    /// An xattr block.
    Xattr,
    /// The root of a refcount tree.
    RefcountRoot,
    /// A leaf of a refcount tree.
    RefcountLeaf,
}

impl BlockKind {
    /// The name for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inode => "inode",
            Self::Extent => "extent block",
            Self::Group => "group descriptor",
            Self::Dx => "directory index block",
            Self::Xattr => "xattr block",
            Self::RefcountRoot => "refcount tree root",
            Self::RefcountLeaf => "refcount block",
        }
    }

    /// The problem that a fault in a block of this kind is.
    #[must_use]
    pub fn problem(self, fault: &FaultKind) -> Problem {
        let what = self.name();
        match *fault {
            FaultKind::Ecc => return VolumeProblem::BadCrc { what }.into(),
            FaultKind::Unreadable => return VolumeProblem::Unreadable { what }.into(),
            _ => {}
        }
        let why = fault.to_string();
        match (self, fault) {
            (Self::Inode, &FaultKind::SelfBlkno { found }) => {
                InodeProblem::InodeBlkno { found }.into()
            }
            (Self::Inode, &FaultKind::Generation { found }) => {
                InodeProblem::InodeGen { found }.into()
            }
            // A block without the signature is told as a wrong bit of the allocator, and none
            // outside of the volume is ever asked for.
            (Self::Inode, _) => VolumeProblem::Unreadable { what }.into(),
            (Self::Extent, &FaultKind::SelfBlkno { found }) => {
                InodeProblem::EbBlkno { found }.into()
            }
            (Self::Extent, &FaultKind::Generation { found }) => {
                InodeProblem::EbGen { found }.into()
            }
            (Self::Extent, FaultKind::OutOfVolume) => InodeProblem::ExtentEbRange {}.into(),
            (Self::Extent, _) => InodeProblem::ExtentEbInvalid { why }.into(),
            (Self::Group, &FaultKind::SelfBlkno { found }) => {
                AllocProblem::GroupBlkno { found }.into()
            }
            (Self::Group, &FaultKind::Generation { found }) => {
                AllocProblem::GroupGen { found }.into()
            }
            (Self::Group, FaultKind::OutOfVolume) => AllocProblem::ChainLinkRange {}.into(),
            (Self::Group, _) => AllocProblem::ChainLinkMagic { why }.into(),
            (Self::Dx, _) => DirProblem::DxTreeCorrupt { why }.into(),
            (Self::Xattr, _) => XattrProblem::BlockInvalid { why }.into(),
            (Self::RefcountRoot | Self::RefcountLeaf, &FaultKind::SelfBlkno { found }) => {
                RefcountProblem::RbBlkno { found }.into()
            }
            (Self::RefcountRoot | Self::RefcountLeaf, &FaultKind::Generation { found }) => {
                RefcountProblem::RbGen { found }.into()
            }
            (Self::RefcountRoot, _) => RefcountProblem::RootBlockInvalid { why }.into(),
            (Self::RefcountLeaf, _) => RefcountProblem::BlockInvalid { why }.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_well_formed_and_explained() {
        let mut names = std::collections::HashSet::new();
        for entry in entries() {
            let key = (entry.code, entry.name);
            assert!(names.insert(key), "{key:?} twice");
            let well_formed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(entry.code.chars().all(well_formed), "{}", entry.code);
            assert!(entry.explanation.len() > 25, "{} needs words", entry.code);
        }
    }
}
