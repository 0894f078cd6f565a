//! Leaves of a tree that its own blocks lead to no more: they are marked as used, nothing uses them, and the
//! leaves of a tree name each other in order.

use std::collections::BTreeMap;

use cowfs_format::error::Result;
use cowfs_format::layout::{EXTENT_BLOCK_LIST, ExtentBlock, GroupDesc};
use cowfs_format::read::extent::{self, Extent, ListView, TreeStep};
use cowfs_format::read::inode;
use cowfs_format::units::BlockNo;

use super::stage::Stage;
use crate::facts::groups::{Group, Kind};

/// A leaf that nothing leads to.
struct Leaf {
    next: BlockNo,
    extents: Vec<Extent>,
}

/// The extents of leaves of an inode's data that were lost with what led to them.
pub(super) fn lost(stage: &Stage<'_, '_>, owner: BlockNo) -> Result<Vec<Extent>> {
    let view = stage.view();
    let inode = inode::read(view, owner)?;
    let mut known: Vec<(BlockNo, BlockNo)> = Vec::new();
    let mut whole = true;
    extent::walk_tree(view, owner, inode.body(), &mut |step| {
        match step {
            TreeStep::List {
                block: Some(block),
                depth: 0,
                ..
            } => known.push((block.blkno(), BlockNo(block.h_next_leaf_blk.get()))),
            TreeStep::Fault { .. } => whole = false,
            _ => {}
        }
        std::ops::ControlFlow::Continue(())
    })?;
    if whole {
        return Ok(Vec::new());
    }
    let mut idle = idle_leaves(stage);
    let mut found = Vec::new();
    // Forwards: what a known leaf names as the next one.
    for (_, next) in &known {
        let mut at = *next;
        while let Some(leaf) = idle.remove(&at) {
            found.extend(leaf.extents);
            at = leaf.next;
        }
    }
    // Backwards: what names the first known leaf, or the last of all, as the next one.
    let mut at = match known.first() {
        Some((first, _)) => *first,
        None => {
            let last = BlockNo(inode.i_last_eb_blk.get());
            if let Some(leaf) = idle.remove(&last) {
                found.extend(leaf.extents);
            }
            last
        }
    };
    loop {
        let mut before = idle
            .iter()
            .filter(|(_, leaf)| leaf.next == at)
            .map(|(blkno, _)| *blkno);
        let (Some(one), None) = (before.next(), before.next()) else {
            break;
        };
        if let Some(leaf) = idle.remove(&one) {
            found.extend(leaf.extents);
        }
        at = one;
    }
    Ok(found)
}

/// Leaves in the groups of metadata that are marked as used and that nothing uses.
fn idle_leaves(stage: &Stage<'_, '_>) -> BTreeMap<BlockNo, Leaf> {
    let groups = stage.evidence.groups.all().iter();
    let groups = groups.filter(|group| group.kind == Kind::Extent);
    groups.flat_map(|group| idle_in(stage, group)).collect()
}

fn idle_in(stage: &Stage<'_, '_>, group: &Group) -> Vec<(BlockNo, Leaf)> {
    let view = stage.view();
    let (Some(desc), _) = view.inspect::<GroupDesc>(group.blkno) else {
        return Vec::new();
    };
    let claimed = |bit: u32| group.claimed_word((bit / 64) as usize) >> (bit % 64) & 1 == 1;
    let idle = (1..group.bits).filter(|bit| desc.is_set(*bit) && !claimed(*bit));
    let leaf = |bit| {
        let blkno = group.block_of(bit)?;
        let block = view.block::<ExtentBlock>(blkno).ok()?;
        let list = ListView::parse(block.bytes().get(EXTENT_BLOCK_LIST..)?)?;
        if list.head.l_tree_depth.get() != 0 || !list.counts_are_sane() {
            return None;
        }
        let extents = list.recs.iter().map(Extent::of);
        let extents = extents.filter(|extent| extent.clusters > 0).collect();
        let next = BlockNo(block.h_next_leaf_blk.get());
        Some((blkno, Leaf { next, extents }))
    };
    idle.filter_map(leaf).collect()
}

/// Puts extents that were found again among those that are known. What is known is believed first.
pub(super) fn merged(known: Vec<Extent>, again: Vec<Extent>) -> Vec<Extent> {
    let mut all: BTreeMap<u32, Extent> =
        known.iter().map(|extent| (extent.cpos, *extent)).collect();
    for extent in again {
        let before = all.range(..=extent.cpos).next_back();
        let free = before.is_none_or(|(_, before)| before.end() <= extent.cpos)
            && all.range(extent.cpos..extent.end()).next().is_none();
        if free {
            all.insert(extent.cpos, extent);
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowfs_format::layout::ExtentFlags;

    #[test]
    fn what_is_known_is_believed_first() {
        let extent = |cpos, clusters| Extent {
            cpos,
            clusters,
            blkno: BlockNo(u64::from(cpos)),
            flags: ExtentFlags::empty(),
        };
        let known = vec![extent(0, 10), extent(20, 10)];
        let again = vec![
            extent(9, 3),
            extent(10, 10),
            extent(15, 2),
            extent(18, 3),
            extent(30, 1),
        ];
        let merged: Vec<u32> = merged(known, again)
            .iter()
            .map(|extent| extent.cpos)
            .collect();
        assert_eq!(merged, [0, 10, 20, 30]);
    }
}
