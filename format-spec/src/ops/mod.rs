//! Whole operations that more than one program uses. Those that change the volume are each made
//! inside one transaction.

pub mod acl;
mod attributes;
mod clone;
mod clone_tree;
pub mod compare;
mod cow;
pub mod dedupe;
pub mod delta;
pub mod image;
mod import;
pub mod manifest;
pub mod map;
mod names;
mod own;
mod raw;
mod release;
mod remove_tree;
mod resize;
pub mod seal;
pub mod settle;
pub mod tune;
pub mod usage;
mod write;
mod xattr;

pub use attributes::{Change, change};
pub use clone::{CloneOptions, clone_file};
pub use clone_tree::{CloneTree, Existing, Marks, TreeCloned, TreeOptions, lies_in};
pub use cow::unshare;
pub use import::{Contents, HostFile, import, import_file};
pub use names::{link, make_node, rename, rmdir, symlink, unlink};
pub use own::{Thaw, freeze, make_own};
pub use raw::put_blocks;
pub use remove_tree::RemoveTree;
pub use resize::{fallocate, punch, truncate};
pub use write::{Overwritten, overwrite};
pub use xattr::{remake_xattrs, remove_xattr, set_xattr, set_xattrs};

use crate::error::{Error, Result};
use crate::layout::{Dinode, FileType, InodeFlags};
use crate::units::BlockNo;

/// An error unless an inode is a regular file that belongs to a user.
fn require_plain_file(inode: &Dinode, blkno: BlockNo, verb: &str) -> Result<()> {
    let is_system = inode.flags().intersects(InodeFlags::SYSTEM);
    if inode.file_type() == Some(FileType::Regular) && !is_system {
        return Ok(());
    }
    let what = format!("inode {blkno}: only regular files can be {verb}");
    Err(Error::Input { what })
}

/// `i_attr`: the file may not be changed.
const FROZEN_FILE: u32 = 0x10;
/// `i_attr`: the file may only be appended to.
const APPEND_ONLY: u32 = 0x20;

/// An error when an inode is marked as one that may not be changed.
fn require_mutable(inode: &Dinode, blkno: BlockNo) -> Result<()> {
    if inode.i_attr.get() & (FROZEN_FILE | APPEND_ONLY) == 0 {
        return Ok(());
    }
    let what = format!(
        "inode {blkno} is immutable or append-only; chattr -i -a it on a mounted volume first"
    );
    Err(Error::Input { what })
}
