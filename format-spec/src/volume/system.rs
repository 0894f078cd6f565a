//! The files of the system directory.

use crate::block::View;
use crate::error::{Error, Result};
use crate::read::{dir, inode};
use crate::units::{BlockNo, Slot};

/// A file of the system directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SystemFile {
    /// Clusters that must not be used.
    BadBlocks,
    /// Allocator of system inodes.
    GlobalInodeAlloc,
    /// Which node holds which slot.
    SlotMap,
    /// One block for each node to sign life in.
    Heartbeat,
    /// Allocator of clusters.
    GlobalBitmap,
    /// Usage by user.
    UserQuota,
    /// Usage by group.
    GroupQuota,
    /// Inodes of a slot that are unlinked but in use.
    OrphanDir(Slot),
    /// Allocator of a slot's metadata blocks.
    ExtentAlloc(Slot),
    /// Allocator of a slot's inodes.
    InodeAlloc(Slot),
    /// A slot's journal.
    Journal(Slot),
    /// A slot's window of clusters.
    LocalAlloc(Slot),
    /// A slot's list of clusters to be freed.
    TruncateLog(Slot),
    /// A slot's changes of usage by user.
    LocalUserQuota(Slot),
    /// A slot's changes of usage by group.
    LocalGroupQuota(Slot),
}

impl SystemFile {
    /// Name in the system directory.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::BadBlocks => "bad_blocks".to_owned(),
            Self::GlobalInodeAlloc => "global_inode_alloc".to_owned(),
            Self::SlotMap => "slot_map".to_owned(),
            Self::Heartbeat => "heartbeat".to_owned(),
            Self::GlobalBitmap => "global_bitmap".to_owned(),
            Self::UserQuota => "aquota.user".to_owned(),
            Self::GroupQuota => "aquota.group".to_owned(),
            Self::OrphanDir(slot) => format!("orphan_dir:{slot:04}", slot = slot.0),
            Self::ExtentAlloc(slot) => format!("extent_alloc:{slot:04}", slot = slot.0),
            Self::InodeAlloc(slot) => format!("inode_alloc:{slot:04}", slot = slot.0),
            Self::Journal(slot) => format!("journal:{slot:04}", slot = slot.0),
            Self::LocalAlloc(slot) => format!("local_alloc:{slot:04}", slot = slot.0),
            Self::TruncateLog(slot) => format!("truncate_log:{slot:04}", slot = slot.0),
            Self::LocalUserQuota(slot) => format!("aquota.user:{slot:04}", slot = slot.0),
            Self::LocalGroupQuota(slot) => format!("aquota.group:{slot:04}", slot = slot.0),
        }
    }
}

/// The inode of a system file.
///
/// # Errors
/// The system directory is damaged or lacks the file.
pub fn find(view: View<'_>, file: SystemFile) -> Result<BlockNo> {
    let directory = inode::read(view, view.info().system_dir)?;
    let name = file.name();
    dir::lookup(view, &directory, name.as_bytes())?.ok_or(Error::Path {
        path: format!("//{name}"),
        why: "the system directory lacks this file; run fsck.cowfs",
    })
}
