//! Extent trees, whatever their root: the walk that every owner of clusters goes through.

use std::collections::HashSet;

use cowfs_format::error::FaultKind;
use cowfs_format::layout::{
    EXTENT_BLOCK_LIST, ExtentBlock, ExtentFlags, ExtentRec, MAX_TREE_DEPTH, RoCompat,
};
use cowfs_format::read::extent::{Extent, ListView};
use cowfs_format::units::BlockNo;

use crate::catalogue::{At, BlockKind, InodeProblem};
use crate::facts::{Cx, Origin, Out};

/// A tree to be walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'a> {
    /// The inode that owns it.
    pub(crate) owner: BlockNo,
    /// The block that holds its root.
    pub(crate) root: BlockNo,
    /// The space of the root's list.
    pub(crate) space: &'a [u8],
    /// What the root names as the last leaf.
    pub(crate) last_eb: u64,
    /// Whether keys may be left out.
    pub(crate) holes: bool,
    /// Whether the extents may be marked as shared.
    pub(crate) shared: bool,
    /// Whether the records lead to single blocks of metadata (refcount trees).
    pub(crate) to_blocks: bool,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// Clusters mapped.
    pub(crate) clusters: u64,
    /// Key behind the last extent.
    pub(crate) end: u64,
    /// Whether a part of the tree could not be walked, so that sums mean nothing.
    pub(crate) broken: bool,
}

/// A child that waits to be walked: its record, the depth it must have, the end of its keys.
type Pending = (ExtentRec, u16, u64);

struct Walk<'a, 'v, 't> {
    cx: &'a Cx<'v>,
    tree: Tree<'t>,
    sum: Sum,
    /// The last leaf met and the one that it says is next.
    leaf: Option<(BlockNo, u64)>,
    pending: Vec<Pending>,
    visited: HashSet<u64>,
}

/// Walks a tree, checks it and hands each sound extent to `visit`.
pub(crate) fn walk(
    cx: &Cx<'_>,
    out: &mut Out,
    tree: Tree<'_>,
    visit: &mut dyn FnMut(&mut Out, &Extent),
) -> Sum {
    let mut walk = Walk {
        cx,
        tree,
        sum: Sum::default(),
        leaf: None,
        pending: Vec::new(),
        visited: HashSet::new(),
    };
    walk.run(out, visit);
    walk.sum
}

impl Walk<'_, '_, '_> {
    fn run(&mut self, out: &mut Out, visit: &mut dyn FnMut(&mut Out, &Extent)) {
        let at = At::within(self.tree.owner, self.tree.root);
        let Some(list) = ListView::parse(self.tree.space) else {
            self.sum.broken = true;
            out.find(
                at,
                InodeProblem::ListCount {
                    found: 0,
                    expected: 0,
                },
            );
            return;
        };
        let depth = list.head.l_tree_depth.get();
        if depth > MAX_TREE_DEPTH {
            self.sum.broken = true;
            let (found, expected) = (depth, MAX_TREE_DEPTH);
            out.find(at, InodeProblem::ListDepth { found, expected });
            return;
        }
        self.list(out, at, list, depth, (0, 1 << 32), visit);
        while let Some((rec, depth, end)) = self.pending.pop() {
            self.child(out, &rec, depth, end, visit);
        }
        self.check_last_leaf(out, at);
    }

    /// Checks a list; walks its extents or puts its children on the stack.
    fn list(
        &mut self,
        out: &mut Out,
        at: At,
        list: ListView<'_>,
        depth: u16,
        keys: (u64, u64),
        visit: &mut dyn FnMut(&mut Out, &Extent),
    ) {
        let (count, used) = (list.head.l_count.get(), list.head.l_next_free_rec.get());
        if usize::from(count) > list.capacity {
            let (found, expected) = (count, list.capacity as u64);
            out.find(at, InodeProblem::ListCount { found, expected });
        }
        let room = list.capacity.min(usize::from(count));
        if usize::from(used) > room {
            self.sum.broken = true;
            let (found, count) = (used, room as u64);
            out.find(at, InodeProblem::ListFree { found, count });
        }
        if depth == 0 {
            for (index, rec) in list.recs.iter().enumerate() {
                self.leaf_rec(out, at, index, rec, keys, visit);
            }
            return;
        }
        let from = self.pending.len();
        let next_keys = list
            .recs
            .iter()
            .skip(1)
            .map(|rec| u64::from(rec.e_cpos.get()));
        for (rec, end) in list.recs.iter().zip(next_keys.chain([keys.1])) {
            let cpos = rec.e_cpos.get();
            if !(keys.0..keys.1).contains(&u64::from(cpos)) || end < u64::from(cpos) {
                let (first, end) = (keys.0, keys.1.min(end));
                out.find(at, InodeProblem::ParentRange { cpos, first, end });
            }
            self.pending.push((*rec, depth - 1, end));
        }
        if let Some(children) = self.pending.get_mut(from..) {
            children.reverse();
        }
    }

    fn child(
        &mut self,
        out: &mut Out,
        rec: &ExtentRec,
        depth: u16,
        end: u64,
        visit: &mut dyn FnMut(&mut Out, &Extent),
    ) {
        let blkno = BlockNo(rec.e_blkno.get());
        if rec.int_clusters() == 0 && blkno.0 == 0 {
            return;
        }
        let at = At::within(self.tree.owner, blkno);
        // A child met twice would make the walk exponential in the depth of the tree.
        if !self.visited.insert(blkno.0) {
            self.sum.broken = true;
            out.find(at, BlockKind::Extent.problem(&FaultKind::Loop));
            return;
        }
        let Some(block) = self
            .cx
            .inspect::<ExtentBlock>(out, at, blkno, BlockKind::Extent)
        else {
            self.sum.broken = true;
            return;
        };
        let origin = Origin {
            slot: block.h_suballoc_slot.get(),
            bit: block.h_suballoc_bit.get(),
            loc: block.h_suballoc_loc.get(),
        };
        self.cx
            .claim_meta(out, self.tree.owner, blkno, "extent block", origin);
        let space = block.bytes().get(EXTENT_BLOCK_LIST..).unwrap_or_default();
        let Some(list) = ListView::parse(space) else {
            return;
        };
        let found = list.head.l_tree_depth.get();
        if found != depth {
            self.sum.broken = true;
            let expected = depth;
            out.find(at, InodeProblem::ListDepth { found, expected });
            return;
        }
        if depth == 0 {
            let next = block.h_next_leaf_blk.get();
            if let Some((previous, found)) = self.leaf.replace((blkno, next))
                && found != blkno.0
                && !self.sum.broken
            {
                let (at, expected) = (At::within(self.tree.owner, previous), blkno.0);
                out.find(at, InodeProblem::NextLeaf { found, expected });
            }
        }
        let keys = (u64::from(rec.e_cpos.get()), end);
        self.list(out, at, list, depth, keys, visit);
    }

    fn leaf_rec(
        &mut self,
        out: &mut Out,
        at: At,
        index: usize,
        rec: &ExtentRec,
        keys: (u64, u64),
        visit: &mut dyn FnMut(&mut Out, &Extent),
    ) {
        let extent = Extent::of(rec);
        let cpos = extent.cpos;
        if extent.clusters == 0 {
            if index > 0 {
                out.find(at, InodeProblem::EmptyRec { cpos });
            }
            return;
        }
        let (start, end) = (
            u64::from(cpos),
            u64::from(cpos) + u64::from(extent.clusters),
        );
        // The last key is 2^32 - 1; a record of a hash-keyed tree may end right behind it.
        if start < keys.0 || end > keys.1 {
            let (first, end) = keys;
            out.find(at, InodeProblem::ParentRange { cpos, first, end });
        }
        if start < self.sum.end {
            let expected = self.sum.end;
            out.find(at, InodeProblem::Overlap { cpos, expected });
        } else if start > self.sum.end && !self.tree.holes && !self.sum.broken {
            let (cpos, count) = (self.sum.end, start - self.sum.end);
            out.find(at, InodeProblem::NoHoles { cpos, count });
        }
        self.sum.end = self.sum.end.max(end);
        self.sum.clusters += u64::from(extent.clusters);
        self.flags(out, at, &extent);
        if self.in_volume(out, at, &extent) {
            visit(out, &extent);
        }
    }

    fn flags(&self, out: &mut Out, at: At, extent: &Extent) {
        let cpos = extent.cpos;
        let features = self.cx.view.info().features;
        if extent.flags.contains(ExtentFlags::UNWRITTEN)
            && !features.ro_compat.contains(RoCompat::UNWRITTEN)
        {
            out.find(at, InodeProblem::MarkedUnwritten { cpos });
        }
        if extent.flags.contains(ExtentFlags::REFCOUNTED) && !self.tree.shared {
            out.find(at, InodeProblem::MarkedRefcounted { cpos });
        }
    }

    /// Whether what an extent maps can be.
    fn in_volume(&self, out: &mut Out, at: At, extent: &Extent) -> bool {
        if self.tree.to_blocks {
            return true;
        }
        let geo = self.cx.view.geo();
        let (cpos, found) = (extent.cpos, extent.blkno.0);
        if !geo.is_cluster_aligned(extent.blkno) {
            out.find(at, InodeProblem::ExtentUnaligned { cpos, found });
        }
        if found <= cowfs_format::layout::SUPER_BLOCK_BLKNO || !geo.contains(extent.blkno, 1) {
            out.find(at, InodeProblem::ExtentRange { cpos, found });
            return false;
        }
        let blocks = u64::from(extent.clusters) * geo.blocks_per_cluster();
        if !geo.contains(extent.blkno, blocks) {
            let (first, count) = (found, extent.clusters);
            out.find(at, InodeProblem::ExtentOverrun { cpos, first, count });
            return false;
        }
        true
    }

    fn check_last_leaf(&self, out: &mut Out, at: At) {
        if self.sum.broken {
            return;
        }
        let (expected, next) = self.leaf.map_or((0, 0), |(blkno, next)| (blkno.0, next));
        if next != 0 {
            let at = At::within(self.tree.owner, BlockNo(expected));
            out.find(
                at,
                InodeProblem::NextLeaf {
                    found: next,
                    expected: 0,
                },
            );
        }
        if self.tree.last_eb != expected {
            let found = self.tree.last_eb;
            out.find(at, InodeProblem::LastEb { found, expected });
        }
    }
}
