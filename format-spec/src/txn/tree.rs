//! Editing extent trees, whatever their root.
//!
//! There is one operation: [`Txn::splice`] replaces what a range of keys maps to. It rewrites the
//! leaves that the range touches (splitting or dropping leaves as the number of records asks for),
//! then rebuilds the interior levels above from the list of leaves, writing only the blocks that
//! come out different. Interior blocks are few (one for some 250 leaves), which makes this as cheap
//! as rotating records between neighbours and far simpler to get right.

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DINODE_HEAD, DX_ROOT_BODY, Dinode, EXTENT_BLOCK_LIST, ExtentBlock, ExtentList, ExtentRec,
    MAX_LEAF_CLUSTERS, MAX_TREE_DEPTH, REFCOUNT_BODY, XATTR_BLOCK_BODY,
};
use crate::read::extent::{Extent, ListView};
use crate::txn::{Edit, Raw, Txn};
use crate::units::{BlockNo, Slot, low16};
use crate::volume::system::SystemFile;

/// Where the root of an extent tree is and which fields beside it describe the tree.
#[derive(Clone, Copy, Debug)]
pub struct TreeRoot {
    /// Block that holds the root.
    pub block: BlockNo,
    /// Offset of its check; `None` when it has none.
    check_at: Option<usize>,
    /// The space of the root's list.
    list: (usize, usize),
    /// Offset of the block number of the rightmost leaf.
    last_eb_at: usize,
    /// Offset of the count of clusters.
    clusters_at: usize,
    /// Whether neighbouring records may be joined.
    merge: bool,
}

impl TreeRoot {
    /// The data of an inode whose block has `block_bytes` bytes, of which the last `xattr_bytes`
    /// are kept for xattrs.
    #[must_use]
    pub const fn dinode(block: BlockNo, block_bytes: usize, xattr_bytes: usize) -> Self {
        Self {
            block,
            check_at: Some(0x80),
            list: (DINODE_HEAD, block_bytes - xattr_bytes),
            last_eb_at: 0x58,
            clusters_at: 0x14,
            merge: true,
        }
    }

    /// The index of a directory.
    #[must_use]
    pub const fn dx(block: BlockNo, block_bytes: usize) -> Self {
        Self {
            block,
            check_at: Some(0x08),
            list: (DX_ROOT_BODY, block_bytes),
            last_eb_at: 0x20,
            clusters_at: 0x28,
            merge: false,
        }
    }

    /// A refcount tree.
    #[must_use]
    pub const fn refcount(block: BlockNo, block_bytes: usize) -> Self {
        Self {
            block,
            check_at: Some(0x20),
            list: (REFCOUNT_BODY, block_bytes),
            last_eb_at: 0x28,
            clusters_at: 0x38,
            merge: false,
        }
    }

    /// The tree of buckets in an xattr block.
    #[must_use]
    pub const fn xattr_tree(block: BlockNo, block_bytes: usize) -> Self {
        Self {
            block,
            check_at: Some(0x18),
            list: (XATTR_BLOCK_BODY + 16, block_bytes),
            last_eb_at: XATTR_BLOCK_BODY + 8,
            clusters_at: XATTR_BLOCK_BODY,
            merge: false,
        }
    }
}

/// A leaf of a tree: the root itself when the tree has no extent blocks.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    block: Option<BlockNo>,
    /// Key under which the parent lists it.
    first: u32,
    /// Key behind what it maps, as far as the parent says.
    end: u32,
}

/// Rewrites of more leaves than this go to new blocks.
pub(super) const SHADOW_BLOCKS: usize = 128;

/// The blocks of a tree, without the contents of its leaves.
struct Shape {
    leaves: Vec<Leaf>,
    /// Interior blocks, level by level from the root down.
    interior: Vec<BlockNo>,
}

impl Txn<'_> {
    /// The space of a tree's root list.
    fn root_list(&self, root: &TreeRoot) -> Result<Box<[u8]>> {
        let block = self.view().raw(root.block)?;
        let space = block.get(root.list.0..root.list.1).unwrap_or_default();
        Ok(space.into())
    }

    fn shape(&self, root: &TreeRoot) -> Result<Shape> {
        let wrong = |blkno: BlockNo, value: u64, rule| {
            Error::from(
                FaultKind::Field {
                    field: "l_tree_depth",
                    value,
                    rule,
                }
                .at(blkno),
            )
        };
        let space = self.root_list(root)?;
        let list = ListView::parse(&space)
            .filter(ListView::counts_are_sane)
            .ok_or_else(|| wrong(root.block, 0, "no possible list of an extent tree"))?;
        let depth = list.head.l_tree_depth.get();
        if depth > MAX_TREE_DEPTH {
            return Err(wrong(
                root.block,
                depth.into(),
                "an extent tree has at most 5 levels",
            ));
        }
        let mut level: Vec<Leaf> = Vec::new();
        if depth == 0 {
            level.push(Leaf {
                block: None,
                first: 0,
                end: u32::MAX,
            });
            return Ok(Shape {
                leaves: level,
                interior: Vec::new(),
            });
        }
        let children = |list: ListView<'_>| -> Vec<Leaf> {
            list.recs
                .iter()
                .filter(|rec| rec.e_blkno.get() != 0)
                .map(|rec| Leaf {
                    block: Some(BlockNo(rec.e_blkno.get())),
                    first: rec.e_cpos.get(),
                    end: rec.e_cpos.get().saturating_add(rec.int_clusters()),
                })
                .collect()
        };
        level.extend(children(list));
        let mut interior = Vec::new();
        let most = self.info.geo.blocks();
        for depth in (1..depth).rev() {
            let mut next = Vec::new();
            for node in &level {
                let blkno = node.block.unwrap_or(root.block);
                interior.push(blkno);
                if (interior.len() + next.len()) as u64 > most {
                    return Err(FaultKind::Loop.at(blkno).into());
                }
                let block = self.view().block::<ExtentBlock>(blkno)?;
                let list = ListView::parse(&block.bytes()[EXTENT_BLOCK_LIST..])
                    .filter(|l| l.counts_are_sane() && l.head.l_tree_depth.get() == depth)
                    .ok_or_else(|| wrong(blkno, depth.into(), "no possible list of its depth"))?;
                next.extend(children(list));
            }
            level = next;
        }
        Ok(Shape {
            leaves: level,
            interior,
        })
    }

    /// The records of a leaf that map something.
    fn leaf_extents(&self, root: &TreeRoot, leaf: &Leaf) -> Result<Vec<Extent>> {
        let sane = |space: &[u8], blkno: BlockNo| {
            let list = ListView::parse(space).filter(ListView::counts_are_sane);
            let list = list
                .filter(|l| l.head.l_tree_depth.get() == 0)
                .ok_or_else(|| {
                    let rule = "no possible list of a leaf";
                    FaultKind::Field {
                        field: "l_next_free_rec",
                        value: 0,
                        rule,
                    }
                    .at(blkno)
                })?;
            Ok(list
                .recs
                .iter()
                .filter(|rec| rec.e_leaf_clusters.get() != 0)
                .map(Extent::of)
                .collect())
        };
        match leaf.block {
            None => sane(&self.root_list(root)?, root.block),
            Some(blkno) => {
                let block = self.view().block::<ExtentBlock>(blkno)?;
                sane(&block.bytes()[EXTENT_BLOCK_LIST..], blkno)
            }
        }
    }

    /// The extents of a tree that touch the keys `from..to`.
    ///
    /// # Errors
    /// A block of the tree cannot be used.
    pub(crate) fn tree_extents(&self, root: &TreeRoot, from: u32, to: u32) -> Result<Vec<Extent>> {
        let shape = self.shape(root)?;
        let mut found = Vec::new();
        for leaf in touched(&shape.leaves, from, to).map(|i| shape.leaves[i]) {
            found.extend(self.leaf_extents(root, &leaf)?);
        }
        found.retain(|e| e.end() > from && e.cpos < to);
        Ok(found)
    }

    /// Replaces what the keys `from..to` map to by `new`, which lies in that range, in order.
    /// Extents that straddle an end of the range keep their other part. Keeps the root's count of
    /// clusters; freeing what is no longer mapped is up to the caller.
    ///
    /// # Errors
    /// A block of the tree cannot be used, or the volume is full.
    pub(crate) fn splice(
        &mut self,
        root: &TreeRoot,
        from: u32,
        to: u32,
        new: &[Extent],
    ) -> Result<()> {
        let mut shape = self.shape(root)?;
        let range = touched(&shape.leaves, from, to);
        let mut old = Vec::new();
        for leaf in &shape.leaves[range.clone()] {
            old.extend(self.leaf_extents(root, leaf)?);
        }
        let before: u64 = old.iter().map(|e| u64::from(e.clusters)).sum();
        let records = self.merged(root, old, from, to, new);
        let after: u64 = records.iter().map(|e| u64::from(e.clusters)).sum();

        let capacity = |bytes: usize| (bytes - size_of::<ExtentList>()) / size_of::<ExtentRec>();
        let root_capacity = capacity(root.list.1 - root.list.0);
        let leaf_capacity = capacity(self.block_bytes() - EXTENT_BLOCK_LIST);
        let in_root = shape.leaves.first().is_none_or(|leaf| leaf.block.is_none());
        let emptied = records.is_empty() && range.len() == shape.leaves.len();
        if (in_root && records.len() <= root_capacity) || emptied {
            for leaf in &shape.leaves {
                self.free_extent_block(leaf.block)?;
            }
            for blkno in shape.interior {
                self.free_extent_block(Some(blkno))?;
            }
            let recs: Vec<ExtentRec> = records.iter().map(leaf_rec).collect();
            return self.write_root(root, 0, &recs, BlockNo(0), before, after);
        }

        // Spread the records over as many leaves as they need; keep the blocks there are.
        let old_leaves: Vec<Leaf> = shape.leaves[range.clone()].to_vec();
        let appending = range.end == shape.leaves.len();
        let parts = spread(&records, leaf_capacity, old_leaves.len(), appending);
        let shadow = parts.len() > SHADOW_BLOCKS;
        let old_blocks: Vec<BlockNo> = old_leaves.iter().filter_map(|leaf| leaf.block).collect();
        let mut blocks = self.reusable(&old_blocks, shadow)?.into_iter();
        let mut new_leaves = Vec::with_capacity(parts.len());
        for part in &parts {
            let block = match blocks.next() {
                Some(block) => block,
                None => self.new_extent_block()?,
            };
            let (Some(first), Some(last)) = (part.first(), part.last()) else {
                continue;
            };
            new_leaves.push(Leaf {
                block: Some(block),
                first: first.cpos,
                end: last.end(),
            });
            let recs: Vec<ExtentRec> = part.iter().map(leaf_rec).collect();
            self.write_extent_list(block, 0, &recs)?;
        }
        let unused: Vec<BlockNo> = blocks.collect();
        for block in unused {
            self.free_extent_block(Some(block))?;
        }
        let changed = range.start.saturating_sub(1)..range.start + new_leaves.len();
        shape.leaves.splice(range, new_leaves);
        self.link_leaves(&shape.leaves, changed)?;
        let bottom_up: Vec<BlockNo> = shape.interior.iter().rev().copied().collect();
        let spare = self.reusable(&bottom_up, shadow)?;
        let capacities = (root_capacity, leaf_capacity);
        self.rebuild_interior(root, &shape.leaves, spare, capacities, before, after)
    }

    /// Which of a tree's blocks may be written anew. A large rewrite leaves those that are part of
    /// the volume alone (they are freed) and goes to new ones, which need not pass through the
    /// journal: so a change of a tree of any size fits a journal of any size.
    fn reusable(&mut self, blocks: &[BlockNo], shadow: bool) -> Result<Vec<BlockNo>> {
        let mut kept = Vec::with_capacity(blocks.len());
        for blkno in blocks {
            if shadow && !self.staged.get(blkno).is_some_and(|staged| staged.fresh) {
                self.free_extent_block(Some(*blkno))?;
            } else {
                kept.push(*blkno);
            }
        }
        Ok(kept)
    }

    /// The records of the touched leaves with `from..to` replaced by `new`, joined where that is
    /// allowed.
    fn merged(
        &self,
        root: &TreeRoot,
        old: Vec<Extent>,
        from: u32,
        to: u32,
        new: &[Extent],
    ) -> Vec<Extent> {
        let geo = self.info.geo;
        let mut records: Vec<Extent> = Vec::with_capacity(old.len() + new.len() + 1);
        let mut behind = Vec::new();
        for extent in old {
            if extent.cpos < from {
                let clusters = extent.clusters.min(from - extent.cpos);
                records.push(Extent { clusters, ..extent });
            }
            if extent.end() > to {
                let skip = to.saturating_sub(extent.cpos);
                let blocks = u64::from(skip) * geo.blocks_per_cluster();
                behind.push(Extent {
                    cpos: extent.cpos + skip,
                    clusters: extent.clusters - skip,
                    blkno: extent.blkno.plus(blocks),
                    flags: extent.flags,
                });
            }
        }
        records.extend_from_slice(new);
        records.append(&mut behind);
        if !root.merge {
            return records;
        }
        let mut joined: Vec<Extent> = Vec::with_capacity(records.len());
        for extent in records {
            if let Some(last) = joined.last_mut()
                && last.end() == extent.cpos
                && last.flags == extent.flags
                && last
                    .blkno
                    .plus(u64::from(last.clusters) * geo.blocks_per_cluster())
                    == extent.blkno
                && last.clusters.saturating_add(extent.clusters) <= MAX_LEAF_CLUSTERS
            {
                last.clusters += extent.clusters;
            } else {
                joined.push(extent);
            }
        }
        joined
    }

    /// Links the leaves of a range to their right neighbours.
    fn link_leaves(&mut self, leaves: &[Leaf], range: std::ops::Range<usize>) -> Result<()> {
        for i in range {
            let Some(blkno) = leaves.get(i).and_then(|leaf| leaf.block) else {
                continue;
            };
            let next = leaves
                .get(i + 1)
                .and_then(|leaf| leaf.block)
                .map_or(0, |b| b.0);
            if self
                .view()
                .block::<ExtentBlock>(blkno)?
                .h_next_leaf_blk
                .get()
                != next
            {
                self.edit::<ExtentBlock>(blkno)?.h_next_leaf_blk = next.into();
            }
        }
        Ok(())
    }

    /// Builds the levels above the leaves anew, in the blocks to spare and in new ones.
    fn rebuild_interior(
        &mut self,
        root: &TreeRoot,
        leaves: &[Leaf],
        spare: Vec<BlockNo>,
        (root_capacity, node_capacity): (usize, usize),
        before: u64,
        after: u64,
    ) -> Result<()> {
        let mut spare = spare.into_iter();
        let mut level = leaves.to_vec();
        let mut depth = 1;
        while level.len() > root_capacity {
            let mut parents = Vec::with_capacity(level.len() / node_capacity + 1);
            for (i, children) in level.chunks(node_capacity).enumerate() {
                let block = match spare.next() {
                    Some(block) => block,
                    None => self.new_extent_block()?,
                };
                let (first, last) = (children[0], children[children.len() - 1]);
                // A node's range ends where its right neighbour begins.
                let follower = level.get(i * node_capacity + children.len());
                let end = follower.map_or(last.end, |leaf| leaf.first);
                self.write_extent_list(block, depth, &interior_recs(children, end))?;
                parents.push(Leaf {
                    block: Some(block),
                    first: first.first,
                    end,
                });
            }
            level = parents;
            depth += 1;
        }
        let unused: Vec<BlockNo> = spare.collect();
        for block in unused {
            self.free_extent_block(Some(block))?;
        }
        if depth > MAX_TREE_DEPTH {
            return Err(Error::NoSpace {
                needed: 1,
                unit: "levels of an extent tree",
            });
        }
        let end = level.last().map_or(0, |leaf| leaf.end);
        let last_eb = leaves
            .last()
            .and_then(|leaf| leaf.block)
            .unwrap_or(BlockNo(0));
        self.write_root(
            root,
            depth,
            &interior_recs(&level, end),
            last_eb,
            before,
            after,
        )
    }

    /// Writes the list, the rightmost leaf and the count of clusters of a root.
    fn write_root(
        &mut self,
        root: &TreeRoot,
        depth: u16,
        recs: &[ExtentRec],
        last_eb: BlockNo,
        before: u64,
        after: u64,
    ) -> Result<()> {
        let mut block: Edit<'_, Raw> = self.edit_raw(root.block, root.check_at)?;
        let bytes = block.bytes_mut();
        write_list(&mut bytes[root.list.0..root.list.1], depth, recs);
        bytes[root.last_eb_at..root.last_eb_at + 8].copy_from_slice(&last_eb.0.to_le_bytes());
        let at = root.clusters_at;
        let count = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let count = (u64::from(count) + after).saturating_sub(before);
        bytes[at..at + 4].copy_from_slice(&crate::units::low32(count).to_le_bytes());
        Ok(())
    }

    /// Writes the list of an extent block, if it differs from what the block has.
    fn write_extent_list(&mut self, blkno: BlockNo, depth: u16, recs: &[ExtentRec]) -> Result<()> {
        let mut space = self.view().raw(blkno)?[EXTENT_BLOCK_LIST..].to_vec();
        write_list(&mut space, depth, recs);
        if self.view().raw(blkno)?[EXTENT_BLOCK_LIST..] == *space {
            return Ok(());
        }
        let mut block = self.edit::<ExtentBlock>(blkno)?;
        if depth > 0 {
            block.h_next_leaf_blk = 0.into();
        }
        block.bytes_mut()[EXTENT_BLOCK_LIST..].copy_from_slice(&space);
        Ok(())
    }

    fn new_extent_block(&mut self) -> Result<BlockNo> {
        let sub = self.alloc_metadata()?;
        let generation = self.info.fs_generation.0;
        let mut block: Edit<'_, ExtentBlock> = self.fresh(sub.blkno, Some(0x08));
        block.h_signature = *b"EXBLK01\0";
        block.h_suballoc_slot = sub.slot.0.into();
        block.h_suballoc_bit = sub.bit.into();
        block.h_suballoc_loc = sub.group.0.into();
        block.h_fs_generation = generation.into();
        block.h_blkno = sub.blkno.0.into();
        Ok(sub.blkno)
    }

    /// Makes an extent block that holds all extents of an attribute's value.
    ///
    /// # Errors
    /// The volume is full.
    pub(crate) fn new_value_leaf(&mut self, extents: &[Extent]) -> Result<BlockNo> {
        let block = self.new_extent_block()?;
        let recs: Vec<ExtentRec> = extents.iter().map(leaf_rec).collect();
        self.write_extent_list(block, 0, &recs)?;
        Ok(block)
    }

    /// Frees an extent block when the transaction commits.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn free_extent_block(&mut self, blkno: Option<BlockNo>) -> Result<()> {
        let Some(blkno) = blkno else { return Ok(()) };
        let (slot, bit, loc) = {
            let block = self.view().block::<ExtentBlock>(blkno)?;
            (
                block.h_suballoc_slot.get(),
                block.h_suballoc_bit.get(),
                block.h_suballoc_loc.get(),
            )
        };
        self.free_sub(SystemFile::ExtentAlloc(Slot(slot)), blkno, bit, loc)
    }

    /// The root of an inode's data.
    ///
    /// # Errors
    /// The inode cannot be read.
    pub(crate) fn data_root(&self, inode: BlockNo) -> Result<TreeRoot> {
        let dinode = self.view().block::<Dinode>(inode)?;
        let room = self.block_bytes() - DINODE_HEAD - size_of::<ExtentList>();
        let xattr_bytes = dinode.inline_xattr_bytes().min(room);
        Ok(TreeRoot::dinode(inode, self.block_bytes(), xattr_bytes))
    }
}

/// The leaves that the keys `from..to` touch; at least one.
fn touched(leaves: &[Leaf], from: u32, to: u32) -> std::ops::Range<usize> {
    let first = leaves
        .partition_point(|leaf| leaf.first <= from)
        .saturating_sub(1);
    let end = leaves
        .partition_point(|leaf| leaf.first < to)
        .max(first + 1);
    first..end.min(leaves.len())
}

/// Cuts records into leaves: full ones where a tree only grows at its end, even ones elsewhere, so
/// that the next insertion finds room.
fn spread(records: &[Extent], capacity: usize, leaves: usize, appending: bool) -> Vec<&[Extent]> {
    let needed = records.len().div_ceil(capacity).max(1);
    if needed <= leaves.max(1) || appending {
        return records.chunks(capacity).collect();
    }
    let even = records.len().div_ceil(needed);
    records.chunks(even).collect()
}

fn leaf_rec(extent: &Extent) -> ExtentRec {
    ExtentRec::leaf(
        extent.cpos,
        low16(extent.clusters.into()),
        extent.blkno.0,
        extent.flags,
    )
}

/// Records for the children of a node whose range ends at `end`.
fn interior_recs(children: &[Leaf], end: u32) -> Vec<ExtentRec> {
    let ends = children
        .iter()
        .skip(1)
        .map(|child| child.first)
        .chain(std::iter::once(end));
    children
        .iter()
        .zip(ends)
        .map(|(child, end)| {
            let clusters = end.saturating_sub(child.first);
            ExtentRec::interior(child.first, clusters, child.block.map_or(0, |b| b.0))
        })
        .collect()
}

/// Writes a list into its space; records that are not in use become zero.
fn write_list(space: &mut [u8], depth: u16, recs: &[ExtentRec]) {
    let capacity = (space.len() - size_of::<ExtentList>()) / size_of::<ExtentRec>();
    let end = size_of::<ExtentList>() + capacity * size_of::<ExtentRec>();
    space[size_of::<ExtentList>()..end].fill(0);
    if let Ok((head, rest)) = ExtentList::mut_from_prefix(space) {
        head.l_tree_depth = depth.into();
        head.l_count = low16(capacity as u64).into();
        head.l_next_free_rec = low16(recs.len() as u64).into();
        for (place, rec) in rest.chunks_exact_mut(size_of::<ExtentRec>()).zip(recs) {
            place.copy_from_slice(rec.as_bytes());
        }
    }
}
