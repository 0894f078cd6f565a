//! Editing refcount trees.
//!
//! Changes come in batches: [`Txn::refcount_adjust`] takes a sorted list of ranges, each with the
//! change of its count, and rewrites leaf by leaf. A leaf that overflows is cut into several; a root
//! that overflows moves its records into leaves.

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    Dinode, DynFeatures, ExtentFlags, REFCOUNT_BODY, REFCOUNT_LEAF, REFCOUNT_TREE, RefcountBlock,
    RefcountList, RefcountRec,
};
use crate::read::extent::Extent;
use crate::txn::suballoc::SubBlock;
use crate::txn::tree::SHADOW_BLOCKS;
use crate::txn::{Edit, TreeRoot, Txn};
use crate::units::{BlockNo, Slot, low16, low32};
use crate::volume::system::SystemFile;

/// A change of the count of a range of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adjust {
    /// First cluster.
    pub(crate) first: u64,
    /// Number of clusters.
    pub(crate) clusters: u32,
    /// Change of the count; a range without a record has count 0.
    pub(crate) delta: i64,
}

/// A range with its count, while records are being rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    first: u64,
    clusters: u64,
    count: i64,
}

impl Counted {
    const fn end(&self) -> u64 {
        self.first + self.clusters
    }
}

/// Applies sorted, disjoint changes to sorted, disjoint records. Gives the new records, joined
/// where neighbours have the same count, and the ranges whose count fell to 0.
fn apply(
    records: &[Counted],
    changes: &[Counted],
) -> Result<(Vec<Counted>, Vec<Counted>), (u64, i64)> {
    let mut edges: Vec<u64> = Vec::with_capacity(2 * (records.len() + changes.len()));
    for range in records.iter().chain(changes) {
        edges.push(range.first);
        edges.push(range.end());
    }
    edges.sort_unstable();
    edges.dedup();
    let mut new: Vec<Counted> = Vec::with_capacity(records.len() + 2 * changes.len());
    let mut dropped = Vec::new();
    let (mut r, mut c) = (0, 0);
    for pair in edges.windows(2) {
        let (first, end) = (pair[0], pair[1]);
        while records.get(r).is_some_and(|range| range.end() <= first) {
            r += 1;
        }
        while changes.get(c).is_some_and(|range| range.end() <= first) {
            c += 1;
        }
        let held = records
            .get(r)
            .filter(|range| range.first <= first)
            .map_or(0, |r| r.count);
        let delta = changes
            .get(c)
            .filter(|range| range.first <= first)
            .map_or(0, |c| c.count);
        let count = held + delta;
        let range = Counted {
            first,
            clusters: end - first,
            count,
        };
        if count < 0 || count > i64::from(u32::MAX) {
            return Err((first, count));
        }
        if count == 0 {
            if held > 0 {
                dropped.push(range);
            }
            continue;
        }
        match new.last_mut() {
            Some(last)
                if last.end() == first
                    && last.count == count
                    && last.clusters + range.clusters <= u64::from(u32::MAX) =>
            {
                last.clusters += range.clusters;
            }
            _ => new.push(range),
        }
    }
    Ok((new, dropped))
}

impl Txn<'_> {
    /// Makes an empty refcount tree, attached to nobody yet.
    fn new_refcount_block(
        &mut self,
        sub: SubBlock,
        tree_generation: u32,
    ) -> Edit<'_, RefcountBlock> {
        let generation = self.info.fs_generation.0;
        let size = self.block_bytes();
        let mut block: Edit<'_, RefcountBlock> = self.fresh(sub.blkno, Some(0x20));
        block.rf_signature = *b"REFCNT1\0";
        block.rf_suballoc_slot = sub.slot.0.into();
        block.rf_suballoc_bit = sub.bit.into();
        block.rf_suballoc_loc = sub.group.0.into();
        block.rf_fs_generation = generation.into();
        block.rf_blkno = sub.blkno.0.into();
        block.rf_generation = tree_generation.into();
        write_records(&mut block.bytes_mut()[REFCOUNT_BODY..size], &[]);
        block
    }

    /// The refcount tree of an inode; a new one when it has none.
    ///
    /// # Errors
    /// The volume is full, or a block cannot be used.
    pub(crate) fn refcount_root_for(&mut self, inode: BlockNo) -> Result<BlockNo> {
        let dinode = self.view().block::<Dinode>(inode)?;
        if dinode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
            return Ok(BlockNo(dinode.i_refcount_loc.get()));
        }
        drop(dinode);
        let root = self.new_refcount_tree()?;
        self.attach_refcount(inode, root)?;
        Ok(root)
    }

    /// Makes the root of a tree that nobody is attached to yet.
    pub(super) fn new_refcount_tree(&mut self) -> Result<BlockNo> {
        let sub = self.alloc_metadata()?;
        // Any value serves; the block number makes trees of one volume differ.
        let tree_generation = low32(sub.blkno.0 ^ u64::from(self.info.fs_generation.0));
        self.new_refcount_block(sub, tree_generation);
        Ok(sub.blkno)
    }

    /// Attaches an inode to a refcount tree.
    fn attach_refcount(&mut self, inode: BlockNo, root: BlockNo) -> Result<()> {
        let mut block = self.edit::<RefcountBlock>(root)?;
        block.rf_count = block.rf_count.get().saturating_add(1).into();
        let mut dinode = self.edit::<Dinode>(inode)?;
        let features = dinode.dyn_features() | DynFeatures::HAS_REFCOUNT;
        dinode.i_dyn_features = features.bits().into();
        dinode.i_refcount_loc = root.0.into();
        Ok(())
    }

    /// Attaches an inode to a refcount tree unless it is attached already.
    ///
    /// # Errors
    /// A block cannot be used.
    pub(crate) fn attach_once(&mut self, inode: BlockNo, root: BlockNo) -> Result<()> {
        let features = self.view().block::<Dinode>(inode)?.dyn_features();
        if features.contains(DynFeatures::HAS_REFCOUNT) {
            return Ok(());
        }
        self.attach_refcount(inode, root)
    }

    /// Detaches an inode, which maps no shared cluster any more, from its refcount tree. The tree
    /// goes with the last one.
    ///
    /// # Errors
    /// The tree is damaged: it counts clusters although nobody is left.
    pub(crate) fn detach_refcount(&mut self, inode: BlockNo) -> Result<()> {
        let mut dinode = self.edit::<Dinode>(inode)?;
        let features = dinode.dyn_features();
        if !features.contains(DynFeatures::HAS_REFCOUNT) {
            return Ok(());
        }
        let root = BlockNo(dinode.i_refcount_loc.get());
        let features = features.difference(DynFeatures::HAS_REFCOUNT);
        dinode.i_dyn_features = features.bits().into();
        dinode.i_refcount_loc = 0.into();
        let block = self.view().block::<RefcountBlock>(root)?;
        let (attached, is_tree) = (block.rf_count.get(), block.is_tree());
        drop(block);
        if attached > 1 {
            self.edit::<RefcountBlock>(root)?.rf_count = (attached - 1).into();
            return Ok(());
        }
        if is_tree || !self.records_of(root)?.is_empty() {
            let rule = "clusters are counted that no attached file maps; run fsck.cowfs";
            let kind = FaultKind::Field {
                field: "rf_count",
                value: attached.into(),
                rule,
            };
            return Err(kind.at(root).into());
        }
        self.free_refcount_block(root)
    }

    /// Changes the counts of ranges of clusters, given in order. Gives the ranges that nobody maps
    /// any more, for the caller to free.
    ///
    /// # Errors
    /// The tree is damaged, a count would become negative, or the volume is full.
    pub(crate) fn refcount_adjust(
        &mut self,
        root: BlockNo,
        changes: &[Adjust],
    ) -> Result<Vec<(u64, u32)>> {
        let changes: Vec<Counted> = changes
            .iter()
            .filter(|change| change.clusters > 0 && change.delta != 0)
            .map(|c| Counted {
                first: c.first,
                clusters: c.clusters.into(),
                count: c.delta,
            })
            .collect();
        let mut dropped = Vec::new();
        let block = self.view().block::<RefcountBlock>(root)?;
        let is_tree = block.is_tree();
        drop(block);
        if !is_tree {
            self.adjust_root(root, &changes, &mut dropped)?;
        } else {
            self.adjust_leaves(root, &changes, &mut dropped)?;
        }
        Ok(dropped
            .into_iter()
            .map(|d| (d.first, low32(d.clusters)))
            .collect())
    }

    fn records_of(&self, blkno: BlockNo) -> Result<Vec<Counted>> {
        let block = self.view().block::<RefcountBlock>(blkno)?;
        let list = block.records().ok_or_else(|| {
            let rule = "it must hold records";
            Error::from(
                FaultKind::Field {
                    field: "rf_flags",
                    value: block.rf_flags.get().into(),
                    rule,
                }
                .at(blkno),
            )
        })?;
        Ok(list
            .recs
            .iter()
            .map(|rec| Counted {
                first: rec.r_cpos.get(),
                clusters: rec.r_clusters.get().into(),
                count: rec.r_refcount.get().into(),
            })
            .collect())
    }

    fn applied(
        &self,
        blkno: BlockNo,
        changes: &[Counted],
        dropped: &mut Vec<Counted>,
    ) -> Result<Vec<Counted>> {
        let records = self.records_of(blkno)?;
        let (new, gone) = apply(&records, changes).map_err(|(first, _)| {
            let rule = "its count disagrees with the mappings; run fsck.cowfs";
            Error::from(
                FaultKind::Field {
                    field: "r_refcount",
                    value: first,
                    rule,
                }
                .at(blkno),
            )
        })?;
        dropped.extend(gone);
        Ok(new)
    }

    fn record_capacity(&self) -> usize {
        (self.block_bytes() - REFCOUNT_BODY - size_of::<RefcountList>()) / size_of::<RefcountRec>()
    }

    /// Changes a tree whose root holds the records.
    fn adjust_root(
        &mut self,
        root: BlockNo,
        changes: &[Counted],
        dropped: &mut Vec<Counted>,
    ) -> Result<()> {
        let records = self.applied(root, changes, dropped)?;
        if records.len() <= self.record_capacity() {
            let mut block = self.edit::<RefcountBlock>(root)?;
            write_records(&mut block.bytes_mut()[REFCOUNT_BODY..], &records);
            return Ok(());
        }
        let mut leaves = Vec::new();
        for part in even_parts(&records, self.record_capacity()) {
            let key = if leaves.is_empty() {
                0
            } else {
                low32(part[0].first)
            };
            leaves.push(self.new_leaf(root, key, part)?);
        }
        let mut block = self.edit::<RefcountBlock>(root)?;
        block.rf_flags = REFCOUNT_TREE.into();
        block.rf_clusters = 0.into();
        block.rf_last_eb_blk = 0.into();
        block.bytes_mut()[REFCOUNT_BODY..].fill(0);
        let tree = TreeRoot::refcount(root, self.block_bytes());
        self.splice(&tree, 0, u32::MAX, &leaves)
    }

    /// Changes a tree whose records stand in leaves.
    fn adjust_leaves(
        &mut self,
        root: BlockNo,
        changes: &[Counted],
        dropped: &mut Vec<Counted>,
    ) -> Result<()> {
        let tree = TreeRoot::refcount(root, self.block_bytes());
        let before = self.tree_extents(&tree, 0, u32::MAX)?;
        let borders: Vec<u64> = before.iter().skip(1).map(|leaf| leaf.cpos.into()).collect();
        let changes = cut_at(changes, &borders);
        let touched = (0..before.len()).filter(|i| {
            let first = i.checked_sub(1).map_or(0, |left| borders[left]);
            let end = borders.get(*i).copied().unwrap_or(u64::MAX);
            let at = changes.partition_point(|change| change.first < first);
            changes.get(at).is_some_and(|change| change.first < end)
        });
        // As with extent trees: a large rewrite goes to new blocks.
        let shadow = touched.count() > SHADOW_BLOCKS;
        let mut rest = &changes[..];
        let mut after = Vec::with_capacity(before.len());
        for (i, leaf) in before.iter().enumerate() {
            let end = borders.get(i).copied().unwrap_or(u64::MAX);
            let (mine, later) = rest.split_at(rest.partition_point(|change| change.first < end));
            rest = later;
            if mine.is_empty() {
                after.push(*leaf);
                continue;
            }
            let records = self.applied(leaf.blkno, mine, dropped)?;
            let Some(first) = records.first() else {
                self.free_refcount_block(leaf.blkno)?;
                continue;
            };
            // The first leaf also serves keys below its own.
            let key = if first.first < leaf.cpos.into() {
                0
            } else {
                leaf.cpos
            };
            for (n, part) in even_parts(&records, self.record_capacity()).enumerate() {
                let key = if n == 0 { key } else { low32(part[0].first) };
                if n > 0 || shadow {
                    after.push(self.new_leaf(root, key, part)?);
                    continue;
                }
                let mut block = self.edit::<RefcountBlock>(leaf.blkno)?;
                block.rf_cpos = key.into();
                write_records(&mut block.bytes_mut()[REFCOUNT_BODY..], part);
                after.push(Extent { cpos: key, ..*leaf });
            }
            if shadow {
                self.free_refcount_block(leaf.blkno)?;
            }
        }
        if after != before {
            self.splice(&tree, 0, u32::MAX, &after)?;
        }
        if after.is_empty() {
            let mut block = self.edit::<RefcountBlock>(root)?;
            block.rf_flags = 0.into();
            block.rf_parent = 0.into();
            block.rf_cpos = 0.into();
            let body = &mut block.bytes_mut()[REFCOUNT_BODY..];
            body.fill(0);
            write_records(body, &[]);
        }
        Ok(())
    }

    /// Makes a leaf that holds `records` under `key`; its record in the tree of leaves.
    fn new_leaf(&mut self, root: BlockNo, key: u32, records: &[Counted]) -> Result<Extent> {
        let tree_generation = self
            .view()
            .block::<RefcountBlock>(root)?
            .rf_generation
            .get();
        let sub = self.alloc_metadata()?;
        let mut block = self.new_refcount_block(sub, tree_generation);
        block.rf_flags = REFCOUNT_LEAF.into();
        block.rf_parent = root.0.into();
        block.rf_cpos = key.into();
        write_records(&mut block.bytes_mut()[REFCOUNT_BODY..], records);
        Ok(Extent {
            cpos: key,
            clusters: 1,
            blkno: sub.blkno,
            flags: ExtentFlags::empty(),
        })
    }

    pub(super) fn free_refcount_block(&mut self, blkno: BlockNo) -> Result<()> {
        let (slot, bit, loc) = {
            let block = self.view().block::<RefcountBlock>(blkno)?;
            (
                block.rf_suballoc_slot.get(),
                block.rf_suballoc_bit.get(),
                block.rf_suballoc_loc.get(),
            )
        };
        self.free_sub(SystemFile::ExtentAlloc(Slot(slot)), blkno, bit, loc)
    }
}

/// How many mappings each part of a range of clusters has, by the records of its tree (in order):
/// first cluster, number of clusters, number of mappings.
///
/// # Errors
/// A part of the range has no record.
pub(crate) fn sharers_of(
    root: BlockNo,
    records: &[RefcountRec],
    first: u64,
    clusters: u32,
) -> Result<Vec<(u64, u32, u32)>> {
    let end = first + u64::from(clusters);
    let stop_of = |rec: &RefcountRec| rec.r_cpos.get().saturating_add(rec.r_clusters.get().into());
    let mut at = first;
    let mut found = Vec::new();
    let from = records.partition_point(|rec| stop_of(rec) <= first);
    for rec in &records[from..] {
        if at >= end || rec.r_cpos.get() > at {
            break;
        }
        let stop = stop_of(rec).min(end);
        found.push((at, low32(stop - at), rec.r_refcount.get()));
        at = stop;
    }
    if at < end {
        let rule = "a shared cluster has no record; run fsck.cowfs";
        return Err(FaultKind::Field {
            field: "r_cpos",
            value: at,
            rule,
        }
        .at(root)
        .into());
    }
    Ok(found)
}

/// Changes in any order, overlapping or not, as disjoint ones in order: cut at every edge, with
/// the sum of what falls together.
pub(crate) fn summed(changes: &[Adjust]) -> Vec<Adjust> {
    let mut edges: Vec<(u64, i64)> = Vec::with_capacity(2 * changes.len());
    for change in changes {
        edges.push((change.first, change.delta));
        edges.push((change.first + u64::from(change.clusters), -change.delta));
    }
    edges.sort_unstable_by_key(|(edge, _)| *edge);
    let mut found: Vec<Adjust> = Vec::with_capacity(edges.len());
    let mut delta = 0;
    let mut before = 0;
    for (edge, step) in edges {
        if delta != 0 && edge > before {
            found.push(Adjust {
                first: before,
                clusters: low32(edge - before),
                delta,
            });
        }
        delta += step;
        before = edge;
    }
    found
}

/// Cuts ranges at borders; both are sorted.
fn cut_at(changes: &[Counted], borders: &[u64]) -> Vec<Counted> {
    let mut found = Vec::with_capacity(changes.len());
    for change in changes {
        let mut first = change.first;
        let from = borders.partition_point(|border| *border <= first);
        for border in borders[from..]
            .iter()
            .take_while(|border| **border < change.end())
        {
            found.push(Counted {
                first,
                clusters: border - first,
                ..*change
            });
            first = *border;
        }
        found.push(Counted {
            first,
            clusters: change.end() - first,
            ..*change
        });
    }
    found
}

/// Cuts records into as few parts as fit, of even length.
fn even_parts(records: &[Counted], capacity: usize) -> std::slice::Chunks<'_, Counted> {
    let parts = records.len().div_ceil(capacity).max(1);
    records.chunks(records.len().div_ceil(parts).max(1))
}

/// Writes a record list into its space; records that are not in use become zero.
fn write_records(space: &mut [u8], records: &[Counted]) {
    let capacity = (space.len() - size_of::<RefcountList>()) / size_of::<RefcountRec>();
    space[size_of::<RefcountList>()..].fill(0);
    if let Ok((head, rest)) = RefcountList::mut_from_prefix(space) {
        head.rl_count = low16(capacity as u64).into();
        head.rl_used = low16(records.len() as u64).into();
        for (place, record) in rest.chunks_exact_mut(size_of::<RefcountRec>()).zip(records) {
            let rec = RefcountRec {
                r_cpos: record.first.into(),
                r_clusters: low32(record.clusters).into(),
                r_refcount: low32(record.count.unsigned_abs()).into(),
            };
            place.copy_from_slice(rec.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ranges(counts: &BTreeMap<u64, i64>) -> Vec<Counted> {
        let mut found: Vec<Counted> = Vec::new();
        for (&first, &count) in counts {
            match found.last_mut() {
                Some(last) if last.end() == first && last.count == count => last.clusters += 1,
                _ => found.push(Counted {
                    first,
                    clusters: 1,
                    count,
                }),
            }
        }
        found
    }

    proptest! {
        #[test]
        fn changes_are_what_counting_each_cluster_gives(
            held in proptest::collection::btree_map(0u64..60, 1i64..4, 0..40),
            delta in proptest::collection::btree_map(0u64..60, -1i64..3, 0..40),
        ) {
            let delta: BTreeMap<u64, i64> = delta
                .into_iter()
                .filter(|(k, d)| *d != 0 && held.get(k).copied().unwrap_or(0) + d >= 0)
                .collect();
            let mut model = held.clone();
            for (k, d) in &delta {
                *model.entry(*k).or_default() += d;
            }
            let gone: Vec<u64> = model.iter().filter(|(_, c)| **c == 0).map(|(k, _)| *k).collect();
            model.retain(|_, c| *c != 0);
            let (new, dropped) = apply(&ranges(&held), &ranges(&delta)).unwrap();
            prop_assert_eq!(new, ranges(&model));
            let dropped: Vec<u64> = dropped.iter().flat_map(|d| d.first..d.end()).collect();
            prop_assert_eq!(dropped, gone);
        }

        #[test]
        fn sums_are_what_adding_each_cluster_gives(
            changes in proptest::collection::vec((0u64..60, 1u32..9, -2i64..3), 0..20),
        ) {
            let mut model: BTreeMap<u64, i64> = BTreeMap::new();
            let mut all = Vec::new();
            for (first, clusters, delta) in changes {
                all.push(Adjust { first, clusters, delta });
                for cluster in first..first + u64::from(clusters) {
                    *model.entry(cluster).or_default() += delta;
                }
            }
            model.retain(|_, delta| *delta != 0);
            let mut seen: BTreeMap<u64, i64> = BTreeMap::new();
            for range in summed(&all) {
                for cluster in range.first..range.first + u64::from(range.clusters) {
                    prop_assert_eq!(seen.insert(cluster, range.delta), None);
                }
            }
            prop_assert_eq!(seen, model);
        }

        #[test]
        fn cutting_keeps_what_is_covered(
            changes in proptest::collection::btree_map(0u64..60, 1i64..3, 0..30),
            borders in proptest::collection::btree_set(0u64..60, 0..6),
        ) {
            let borders: Vec<u64> = borders.into_iter().collect();
            let whole = ranges(&changes);
            let cut = cut_at(&whole, &borders);
            for part in &cut {
                prop_assert!(part.clusters > 0);
                prop_assert!(!borders.iter().any(|b| part.first < *b && *b < part.end()));
            }
            let keys = |list: &[Counted]| -> Vec<(u64, i64)> {
                list.iter().flat_map(|c| (c.first..c.end()).map(|k| (k, c.count))).collect()
            };
            prop_assert_eq!(keys(&cut), keys(&whole));
        }
    }

    #[test]
    fn a_count_never_becomes_negative() {
        let held = [Counted {
            first: 5,
            clusters: 2,
            count: 1,
        }];
        let change = [Counted {
            first: 5,
            clusters: 3,
            count: -1,
        }];
        assert_eq!(apply(&held, &change), Err((7, -1)));
    }
}
