//! Extent trees: single numbers put right in place, and trees made anew from the extents that can
//! still be made out.

use std::collections::HashSet;

use cowfs_format::block::MetaBlock;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    DINODE_HEAD, DX_ROOT_BODY, Dinode, DxRoot, DynFeatures, EXTENT_BLOCK_LIST, ExtentBlock,
    ExtentFlags, FileType, Incompat, REFCOUNT_BODY, RefcountBlock, XATTR_BLOCK_BODY, XattrBlock,
};
use cowfs_format::read::extent::{self, Extent, ListView};
use cowfs_format::read::inode;
use cowfs_format::read::xattr::{is_indexed, tree_list};
use cowfs_format::units::{BlockNo, low16, low32};

use super::stage::{Stage, cannot};
use super::{index, leaves, refcount, xattr};
use crate::catalogue::InodeProblem;

/// Repairs a problem of a tree of `owner`, in the list of `block` or in a block that a list there
/// leads to.
pub(super) fn repair(
    stage: &mut Stage<'_, '_>,
    owner: BlockNo,
    block: BlockNo,
    problem: &InodeProblem,
) -> Result<()> {
    use InodeProblem as P;
    match *problem {
        P::ListCount { expected, .. } if expected > 0 => list(stage, block, |list| {
            list[2..4].copy_from_slice(&low16(expected).to_le_bytes());
        }),
        P::ListDepth { expected, .. } if is_extent_block(stage, block) => {
            list(stage, block, |list| {
                list[..2].copy_from_slice(&expected.to_le_bytes())
            })
        }
        P::NextLeaf { expected, .. } => stage.edit::<ExtentBlock>(block, |head| {
            head.h_next_leaf_blk = expected.into();
        }),
        P::LastEb { found, expected } => last_leaf(stage, owner, block, found, expected),
        _ => remake(stage, owner, block),
    }
}

fn signature(stage: &Stage<'_, '_>, blkno: BlockNo) -> [u8; 8] {
    let mut signature = [0; 8];
    if let Ok(block) = stage.view().raw(blkno) {
        signature.copy_from_slice(block.get(..8).unwrap_or(&[0; 8]));
    }
    signature
}

fn is_extent_block(stage: &Stage<'_, '_>, blkno: BlockNo) -> bool {
    signature(stage, blkno) == ExtentBlock::SIGNATURE
}

/// Edits the list of extents of a block, from its head on.
fn list(stage: &Stage<'_, '_>, blkno: BlockNo, change: impl FnOnce(&mut [u8])) -> Result<()> {
    let (at, check_at) = match signature(stage, blkno) {
        Dinode::SIGNATURE => (DINODE_HEAD, Dinode::CHECK_AT),
        ExtentBlock::SIGNATURE => (EXTENT_BLOCK_LIST, ExtentBlock::CHECK_AT),
        DxRoot::SIGNATURE => (DX_ROOT_BODY, DxRoot::CHECK_AT),
        XattrBlock::SIGNATURE => (XATTR_BLOCK_BODY + 16, XattrBlock::CHECK_AT),
        RefcountBlock::SIGNATURE => (REFCOUNT_BODY, RefcountBlock::CHECK_AT),
        _ => return Err(cannot("the block has no list of extents")),
    };
    stage.edit_run(blkno, 1, Some(check_at), |bytes| {
        let space = bytes.get_mut(at..).filter(|space| space.len() >= 16);
        change(space.ok_or_else(|| cannot("there is no room for a list of extents"))?);
        Ok(())
    })
}

/// Names the rightmost leaf in the root of a tree, which is one of the block itself or of the value of an
/// attribute there.
fn last_leaf(
    stage: &Stage<'_, '_>,
    owner: BlockNo,
    root: BlockNo,
    found: u64,
    leaf: u64,
) -> Result<()> {
    match signature(stage, root) {
        Dinode::SIGNATURE if names_leaf(stage, root, found, leaf)? => {
            stage.edit::<Dinode>(root, |head| head.i_last_eb_blk = leaf.into())
        }
        DxRoot::SIGNATURE => stage.edit::<DxRoot>(root, |head| head.dr_last_eb_blk = leaf.into()),
        RefcountBlock::SIGNATURE => {
            stage.edit::<RefcountBlock>(root, |head| head.rf_last_eb_blk = leaf.into())
        }
        XattrBlock::SIGNATURE if is_indexed(&*stage.view().block::<XattrBlock>(root)?) => {
            stage.edit_bytes::<XattrBlock>(root, |bytes| {
                let place = bytes.get_mut(XATTR_BLOCK_BODY + 8..XATTR_BLOCK_BODY + 16);
                place
                    .ok_or_else(|| cannot("there is no tree of attributes"))?
                    .copy_from_slice(&leaf.to_le_bytes());
                Ok(())
            })
        }
        _ => xattr::last_leaf(stage, owner, root, found, leaf),
    }
}

/// Whether an inode itself names a last leaf as `found`, and should name `leaf`.
fn names_leaf(stage: &Stage<'_, '_>, blkno: BlockNo, found: u64, leaf: u64) -> Result<bool> {
    let inode = inode::read(stage.view(), blkno)?;
    let own = leaf == 0 || reaches(stage, blkno, inode.body(), BlockNo(leaf));
    Ok(inode.i_last_eb_blk.get() == found && own)
}

/// Makes the tree anew that a block belongs to.
fn remake(stage: &mut Stage<'_, '_>, owner: BlockNo, block: BlockNo) -> Result<()> {
    let inode = inode::read(stage.view(), owner)?;
    let in_data = inode.has_extents() && reaches(stage, owner, inode.body(), block);
    let (features, root) = (inode.dyn_features(), BlockNo(inode.i_refcount_loc.get()));
    let attributes = BlockNo(inode.i_xattr_loc.get());
    drop(inode);
    if in_data {
        return data(stage, owner);
    }
    let in_attributes = attributes.0 != 0
        && stage
            .view()
            .block::<XattrBlock>(attributes)
            .is_ok_and(|head| {
                is_indexed(&head) && reaches(stage, attributes, tree_list(&head), block)
            });
    if in_attributes {
        return xattr::remake(stage, owner);
    }
    let indexed = features.contains(DynFeatures::INDEXED_DIR);
    if features.contains(DynFeatures::HAS_REFCOUNT) && !indexed {
        return refcount::remake(stage, root, true);
    }
    if indexed {
        return index::remake(stage, owner);
    }
    xattr::remake(stage, owner)
}

/// Whether a tree leads to a block, by whatever path: `root` is the space of its list, in `owner`.
fn reaches(stage: &Stage<'_, '_>, owner: BlockNo, root: &[u8], wanted: BlockNo) -> bool {
    if owner == wanted {
        return true;
    }
    let mut seen = HashSet::new();
    let mut pending: Vec<BlockNo> = Vec::new();
    let children = |space: &[u8]| -> Vec<BlockNo> {
        let list = ListView::parse(space).filter(|list| list.head.l_tree_depth.get() > 0);
        list.map_or_else(Vec::new, |list| {
            list.recs
                .iter()
                .map(|rec| BlockNo(rec.e_blkno.get()))
                .collect()
        })
    };
    pending.extend(children(root));
    while let Some(blkno) = pending.pop() {
        if blkno == wanted {
            return true;
        }
        if seen.insert(blkno)
            && let Ok(block) = stage.view().raw(blkno)
            && block.starts_with(&ExtentBlock::SIGNATURE)
        {
            pending.extend(children(block.get(EXTENT_BLOCK_LIST..).unwrap_or_default()));
        }
    }
    false
}

/// Makes the tree of an inode's data anew from the extents that can be.
pub(super) fn data(stage: &mut Stage<'_, '_>, owner: BlockNo) -> Result<()> {
    if !stage.first("data", owner) {
        return Ok(());
    }
    let view = stage.view();
    let inode = inode::read(view, owner)?;
    let (found, _) = extent::salvage(view, owner, inode.body());
    let found = leaves::merged(found, leaves::lost(stage, owner)?);
    let shared = inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
    let sparse =
        view.info().has(Incompat::SPARSE_ALLOC) && inode.file_type() == Some(FileType::Regular);
    let system = inode
        .flags()
        .contains(cowfs_format::layout::InodeFlags::SYSTEM)
        && owner != view.info().root;
    drop(inode);
    let mut extents: Vec<Extent> = Vec::new();
    for extent in found {
        let Some(mut extent) = possible(stage, extent) else {
            continue;
        };
        if !shared {
            extent.flags = extent.flags.difference(ExtentFlags::REFCOUNTED);
        }
        if !sparse || system {
            // Where there can be no holes, what is left moves together.
            extent.cpos = extents.last().map_or(0, Extent::end);
        }
        extents.push(extent);
    }
    stage.transact(|txn| txn.remake_data(owner, &extents))
}

/// An extent as far as it can be: inside the volume, from where a cluster begins.
fn possible(stage: &Stage<'_, '_>, mut extent: Extent) -> Option<Extent> {
    let geo = stage.geo();
    if extent.blkno.0 <= cowfs_format::layout::SUPER_BLOCK_BLKNO || !geo.contains(extent.blkno, 1) {
        return None;
    }
    let cluster = geo.cluster_of(extent.blkno);
    extent.blkno = geo.first_block(cluster);
    extent.clusters = extent.clusters.min(geo.clusters() - cluster.0);
    (extent.clusters > 0).then_some(extent)
}

/// Counts the clusters of an inode again.
pub(super) fn recount(stage: &Stage<'_, '_>, owner: BlockNo) -> Result<()> {
    let view = stage.view();
    let inode = inode::read(view, owner)?;
    let (found, lost) = extent::salvage(view, owner, inode.body());
    drop(inode);
    if let Some(part) = lost.into_iter().next() {
        return Err(part.error);
    }
    let clusters: u64 = found.iter().map(|extent| u64::from(extent.clusters)).sum();
    stage.edit::<Dinode>(owner, |inode| inode.i_clusters = low32(clusters).into())
}
