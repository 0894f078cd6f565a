//! Whole operations that more than one program uses. Those that change the volume are each made
//! inside one transaction.

mod clone;
pub mod compare;
mod cow;
pub mod delta;
pub mod manifest;
pub mod usage;
mod write;
mod xattr;

pub use clone::{CloneOptions, clone_file};
pub use cow::unshare;
pub use write::{Overwritten, import_file, overwrite};

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
