//! Refcount trees: made anew from the mappings of all files that belong to them.

use cowfs_format::error::Result;
use cowfs_format::layout::RefcountBlock;
use cowfs_format::units::{BlockNo, low16, low32};

use super::stage::{Stage, cannot};
use crate::catalogue::{At, RefcountProblem};
use crate::pass::refcount::spans;

/// Repairs a problem of a refcount tree.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &RefcountProblem) -> Result<()> {
    use RefcountProblem as P;
    let block = at.block.ok_or_else(|| cannot("it has no block"))?;
    let generation = stage.view().info().fs_generation.0;
    let set = |change: &dyn Fn(&mut RefcountBlock)| {
        stage.edit::<RefcountBlock>(block, |head| change(head))
    };
    match *problem {
        P::RbBlkno { .. } => set(&|head| head.rf_blkno = block.0.into()),
        P::RbGen { .. } => set(&|head| head.rf_fs_generation = generation.into()),
        P::RbParent { expected, .. } => set(&|head| head.rf_parent = expected.into()),
        P::RbTreeGeneration { expected, .. } => set(&|head| head.rf_generation = expected.into()),
        P::RbCpos { expected, .. } => set(&|head| head.rf_cpos = expected.into()),
        P::ListCount { expected, .. } => stage.edit_bytes::<RefcountBlock>(block, |bytes| {
            let at = cowfs_format::layout::REFCOUNT_BODY;
            let place = bytes.get_mut(at..at + 2);
            let place = place.ok_or_else(|| cannot("there is no room for records"))?;
            place.copy_from_slice(&low16(expected).to_le_bytes());
            Ok(())
        }),
        P::Clusters { expected, .. } => set(&|head| head.rf_clusters = low32(expected).into()),
        P::Count { expected, .. } => set(&|head| head.rf_count = low32(expected).into()),
        P::ListUsed { .. }
        | P::ClusterRange { .. }
        | P::Collision { .. }
        | P::ListEmpty {}
        | P::BlockInvalid { .. }
        | P::RootBlockInvalid { .. }
        | P::Redundant { .. }
        | P::CountInvalid { .. } => {
            let root = root_of(stage, at)?;
            remake(stage, root, true)
        }
    }
}

/// The root of the tree that a problem is in: that of the inode it was told of.
fn root_of(stage: &Stage<'_, '_>, at: At) -> Result<BlockNo> {
    let inode = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    let attached = &stage.evidence.attached;
    let found = attached.iter().find(|(_, attached)| *attached == inode);
    found
        .map(|(root, _)| *root)
        .ok_or_else(|| cannot("no file belongs to it"))
}

/// Makes a tree anew, in its root when that can be used and `stays`.
pub(super) fn remake(stage: &mut Stage<'_, '_>, root: BlockNo, stays: bool) -> Result<()> {
    if !stage.first("refcounts", root) {
        return Ok(());
    }
    let evidence = stage.evidence;
    let inodes: Vec<BlockNo> = evidence
        .attached
        .iter()
        .filter(|(attached, _)| *attached == root)
        .map(|(_, inode)| *inode)
        .collect();
    let from = evidence.shares.partition_point(|share| share.0 < root);
    let to = evidence.shares.partition_point(|share| share.0 <= root);
    let shares = evidence.shares.get(from..to).unwrap_or_default();
    let counted: Vec<(u32, u32, u32)> = spans(shares)
        .into_iter()
        .map(|span| (span.first, span.end - span.first, low32(span.count)))
        .collect();
    let (block, faults) = stage.view().inspect::<RefcountBlock>(root);
    let kept = (stays && block.is_some() && faults.is_empty()).then_some(root);
    drop(block);
    stage
        .transact(|txn| txn.remake_refcounts(kept, &inodes, &counted))
        .map(drop)
}
