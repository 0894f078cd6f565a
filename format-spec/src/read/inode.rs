//! Inodes: where their contents and lists are.

use crate::block::{Checked, View};
use crate::error::{Error, FaultKind, Result};
use crate::layout::{DINODE_HEAD, Dinode, DynFeatures, InlineData, InodeFlags};
use crate::read::extent::{self, Extent};
use crate::units::BlockNo;

/// An inode in use.
pub type Inode<'v> = Checked<'v, Dinode>;

/// Reads an inode that must be in use.
///
/// # Errors
/// The block is no inode of this volume, or the inode is free.
pub fn read(view: View<'_>, blkno: BlockNo) -> Result<Inode<'_>> {
    let inode = view.block::<Dinode>(blkno)?;
    if !inode.flags().contains(InodeFlags::VALID) {
        let kind = FaultKind::Field {
            field: "i_flags",
            value: inode.i_flags.get().into(),
            rule: "the inode is not in use",
        };
        return Err(Error::Fault(kind.at(blkno)));
    }
    Ok(inode)
}

impl Checked<'_, Dinode> {
    /// The body (`id2`), up to the xattrs at the end of the block.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        let bytes = self.bytes();
        let end = bytes.len().saturating_sub(self.inline_xattr_bytes());
        bytes.get(DINODE_HEAD..end).unwrap_or_default()
    }

    /// The data stored in the inode, when it is stored there: its first `i_size` bytes (for a
    /// directory, all of its room).
    #[must_use]
    pub fn inline_data(&self) -> Option<&[u8]> {
        if !self.dyn_features().contains(DynFeatures::INLINE_DATA) {
            return None;
        }
        let room = self.body().get(size_of::<InlineData>()..)?;
        let size = crate::units::index(self.i_size.get()).min(room.len());
        room.get(..size)
    }

    /// The target of a fast symlink.
    #[must_use]
    pub fn fast_symlink(&self) -> Option<&[u8]> {
        let fast = self.file_type() == Some(crate::layout::FileType::Symlink)
            && self.i_clusters.get() == 0
            && !self.dyn_features().contains(DynFeatures::INLINE_DATA);
        let size = crate::units::index(self.i_size.get());
        fast.then(|| self.body().get(..size)).flatten()
    }

    /// All extents of the data.
    ///
    /// # Errors
    /// The extent tree is damaged.
    pub fn extents(&self, view: View<'_>) -> Result<Vec<Extent>> {
        if !self.has_extents() {
            return Ok(Vec::new());
        }
        extent::extents(view, self.blkno(), self.body())
    }
}
