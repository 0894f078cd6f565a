//! What has no name any more: it gets one in lost+found.

use cowfs_format::error::Result;
use cowfs_format::layout::{FileType, InodeFlags};
use cowfs_format::read::{dir, inode};
use cowfs_format::txn::NewInode;
use cowfs_format::units::BlockNo;

use super::names;
use super::stage::{Stage, cannot};

const LOST_FOUND: &[u8] = b"lost+found";

/// The directory for what has no name, made when there is none.
pub(super) fn lost_found(stage: &mut Stage<'_, '_>) -> Result<BlockNo> {
    let root = stage.view().info().root;
    let now = stage.now;
    let found = {
        let view = stage.view();
        dir::lookup(view, &inode::read(view, root)?, LOST_FOUND)?
    };
    match found {
        Some(found) => Ok(found),
        None => stage.transact(|txn| {
            txn.make_directory(root, LOST_FOUND, &NewInode::at(now, 0o040_755, 0, 0))
        }),
    }
}

/// What an inode hangs in that cannot be reached from the root directory.
enum Above {
    /// No directory names it.
    Nothing,
    /// Another one that is lost as well, and is to be connected in its place.
    Lost,
    /// Itself, by way of its parent and others: it is the first of a ring of directories.
    Itself { parent: BlockNo },
}

fn above(stage: &Stage<'_, '_>, blkno: BlockNo) -> Above {
    let children = &stage.evidence.children;
    let parent = |child: BlockNo| {
        let from = children.partition_point(|(other, _)| *other < child);
        let (found, parent) = children.get(from)?;
        (*found == child).then_some(*parent)
    };
    let Some(first) = parent(blkno) else {
        return Above::Nothing;
    };
    let mut at = first;
    for _ in children {
        // A ring is opened at its lowest number.
        if at <= blkno {
            break;
        }
        match parent(at) {
            Some(next) => at = next,
            None => break,
        }
    }
    if at == blkno {
        Above::Itself { parent: first }
    } else {
        Above::Lost
    }
}

/// Gives an inode a name in lost+found, which says what it was: its number, and where a directory
/// has lain.
pub(super) fn connect(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    match above(stage, blkno) {
        Above::Nothing => {}
        // It comes back with what it hangs in.
        Above::Lost => return Ok(()),
        Above::Itself { parent } => names::forget_in(stage, parent, blkno)?,
    }
    let view = stage.view();
    let inode = inode::read(view, blkno)?;
    if inode.flags().contains(InodeFlags::SYSTEM) {
        drop(inode);
        return names::unnamed(stage, blkno);
    }
    let file_type = inode
        .file_type()
        .ok_or_else(|| cannot("it has no possible type"))?;
    let is_dir = file_type == FileType::Directory;
    let name = if is_dir {
        match dir::lookup(view, &inode, b"..")? {
            Some(parent) => format!("#{blkno}.dir-of-{parent}"),
            None => format!("#{blkno}.dir"),
        }
    } else {
        format!("#{blkno}")
    };
    drop(inode);
    let place = lost_found(stage)?;
    let view = stage.view();
    if dir::lookup(view, &inode::read(view, place)?, name.as_bytes())?.is_some() {
        return Err(cannot("lost+found has such a name already"));
    }
    let now = stage.now;
    stage.transact(|txn| {
        txn.add_name(place, name.as_bytes(), blkno, file_type, now)?;
        if is_dir {
            txn.lead_up(blkno, place)?;
        }
        Ok(())
    })
}
