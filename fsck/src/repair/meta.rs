//! Blocks of metadata that two structures use, or that lie where no allocator gives out blocks: the
//! structure that should not use one is laid out anew in blocks of its own.
//!
//! What it lay in before is not freed here: whatever nobody uses then is found by the next check.

use std::collections::BTreeSet;

use cowfs_format::block::MetaBlock;
use cowfs_format::error::Result;
use cowfs_format::layout::{Dinode, ExtentBlock, FileType, RefcountBlock, XattrBlock};
use cowfs_format::read::{holdings, inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::inodes;

use super::stage::{Stage, cannot};
use super::{extents, index, refcount, xattr};

/// Leaves a block to the first of the inodes that use it.
pub(super) fn shared(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let owners = users(stage, blkno)?;
    for owner in owners.into_iter().skip(1) {
        anew(stage, owner, blkno)?;
    }
    Ok(())
}

/// The inodes that use a block, each tree of refcounts as one of its files.
fn users(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<BTreeSet<BlockNo>> {
    let view = stage.view();
    let (mut found, mut trees) = (BTreeSet::new(), BTreeSet::new());
    let counts = view.raw(blkno)?.starts_with(&RefcountBlock::SIGNATURE);
    for group in inodes::groups(view).0 {
        inodes::for_each_inode(view, group, |_, _| false, &mut |owner, inode| {
            let Ok(inode) = inode else { return };
            let mut uses = false;
            holdings::for_each_run(view, &inode, &mut |run| {
                uses |= run.is_ok_and(|run| !run.purpose.in_clusters() && run.blkno == blkno);
            });
            if uses && (!counts || trees.insert(inode.i_refcount_loc.get())) {
                found.insert(owner);
            }
        });
    }
    Ok(found)
}

/// Lays out anew what of an inode uses a block.
pub(super) fn anew(stage: &mut Stage<'_, '_>, owner: BlockNo, blkno: BlockNo) -> Result<()> {
    let view = stage.view();
    let dinode: Dinode = *inode::read(view, owner)?;
    let is_directory = dinode.file_type() == Some(FileType::Directory);
    let signature = view.raw(blkno)?.first_chunk::<8>().copied();
    match signature {
        Some(XattrBlock::SIGNATURE) => xattr::remake(stage, owner),
        Some(RefcountBlock::SIGNATURE) => {
            let root = BlockNo(dinode.i_refcount_loc.get());
            refcount::remake(stage, root, root != blkno)
        }
        Some(ExtentBlock::SIGNATURE) => {
            // Which of its trees it is in does not matter: none of them loses anything.
            if dinode.has_extents() {
                extents::data(stage, owner)?;
            }
            if dinode.i_xattr_loc.get() != 0 {
                xattr::remake(stage, owner)?;
            }
            if is_directory {
                index::remake(stage, owner)?;
            }
            Ok(())
        }
        _ if is_directory => index::remake(stage, owner),
        _ => Err(cannot("it is no block of a kind that could be made anew")),
    }
}
