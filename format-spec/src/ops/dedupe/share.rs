//! Sharing what was planned, step by step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{Dinode, DynFeatures, ExtentFlags, RefcountBlock};
use crate::ops::dedupe::Deduped;
use crate::ops::dedupe::plan::{Move, Plan};
use crate::read::extent::Extent;
use crate::txn::{Adjust, Txn, summed};
use crate::units::{BlockNo, ClusterNo, Geometry, low32};
use crate::volume::inodes;
use crate::volume::scan::Scanner;

/// Blocks that a part of a file may change, beside its inode: leaves of two extent trees and of the
/// refcount tree.
const PER_MOVE: usize = 5;

/// A plan that is being carried out.
#[derive(Debug)]
pub(super) struct Sharing {
    plan: Plan,
    next: usize,
    /// All inodes of each tree, once that had to be found out; and what is known of it otherwise.
    members: HashMap<BlockNo, Vec<BlockNo>>,
    whole: bool,
}

/// A change of a file's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    cpos: u32,
    end: u32,
    /// The clusters of the first one before and after; `None`: they stay, and are shared.
    place: Option<(u32, u32)>,
}

impl Sharing {
    pub(super) fn new(mut plan: Plan) -> Self {
        let members = std::mem::take(&mut plan.members);
        Self {
            plan,
            next: 0,
            members,
            whole: false,
        }
    }

    pub(super) const fn moves(&self) -> usize {
        self.plan.moves.len()
    }

    pub(super) const fn is_done(&self) -> bool {
        self.next >= self.plan.moves.len()
    }

    /// Forgets the last step, which was not committed.
    pub(super) fn back(&mut self, taken: usize) {
        self.next -= taken.min(self.next);
        // What belongs to which tree is found out anew.
        self.members.clear();
        self.whole = false;
    }

    /// Shares the next parts, at most `most` and no more than what fits into `room` blocks of the
    /// journal; how many were taken.
    pub(super) fn step(
        &mut self,
        txn: &mut Txn<'_>,
        scanner: &Scanner,
        (most, room): (usize, usize),
        done: &mut Deduped,
    ) -> Result<usize> {
        let room = room - room / 4;
        let cpg = txn.info().geo.clusters_per_group();
        let begin = self.next;
        let (mut cost, mut groups, mut inodes) = (8, BTreeSet::new(), BTreeSet::new());
        let mut chosen: Vec<Move> = Vec::new();
        while let Some(step) = self.plan.moves.get(self.next).copied() {
            let mut more = PER_MOVE;
            more += usize::from(!inodes.contains(&step.file));
            more += usize::from(!inodes.contains(&step.source.file));
            let last = step.from + step.clusters.saturating_sub(1);
            let freed = (step.from / cpg..=last / cpg).filter(|group| !groups.contains(group));
            let freed: Vec<u32> = freed.collect();
            let merging = self.cost_of_union(txn, scanner, step)?;
            let load = txn.journal_load();
            if self.next > begin
                && (load + cost + more + freed.len() + merging > room || self.next - begin >= most)
            {
                break;
            }
            self.next += 1;
            if load + cost + more + freed.len() + merging > room {
                // Not even alone.
                done.left_bytes += u64::from(step.clusters) << txn.info().geo.cluster_bits();
                continue;
            }
            cost += more + freed.len();
            groups.extend(freed);
            inodes.extend([step.file, step.source.file]);
            self.unite(txn, step, done)?;
            chosen.push(step);
        }
        self.share(txn, &chosen, done)?;
        Ok(self.next - begin)
    }

    fn inode(&self, file: usize) -> Result<BlockNo> {
        let what = || "a plan names a file that it does not have".to_owned();
        let file = self.plan.files.get(file);
        file.map(|file| file.inode)
            .ok_or_else(|| Error::Input { what: what() })
    }

    /// Inodes that change their tree when a part is shared.
    fn cost_of_union(&mut self, txn: &Txn<'_>, scanner: &Scanner, step: Move) -> Result<usize> {
        let (a, b) = (self.inode(step.file)?, self.inode(step.source.file)?);
        let (Some(a), Some(b)) = (tree_of(txn, a)?, tree_of(txn, b)?) else {
            return Ok(3);
        };
        if a == b {
            return Ok(0);
        }
        self.learn(txn, scanner, a)?;
        self.learn(txn, scanner, b)?;
        let count = |tree: &BlockNo| self.members.get(tree).map_or(0, Vec::len);
        Ok(count(&a).min(count(&b)) + 4)
    }

    /// Makes sure that all inodes of a tree are known. When the files looked at are not all of them,
    /// all inodes of the volume are.
    fn learn(&mut self, txn: &Txn<'_>, scanner: &Scanner, tree: BlockNo) -> Result<()> {
        let attached = txn.view().block::<RefcountBlock>(tree)?.rf_count.get();
        let known = self.members.get(&tree).map_or(0, Vec::len);
        if self.whole || known as u64 == u64::from(attached) {
            return Ok(());
        }
        let (found, mut failed) = inodes::collect(scanner, txn.view(), |inode, found, _| {
            if inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
                found.push((BlockNo(inode.i_refcount_loc.get()), inode.blkno()));
            }
        });
        if let Some(error) = failed.pop() {
            return Err(error);
        }
        self.members.clear();
        for (tree, inode) in found {
            self.members.entry(tree).or_default().push(inode);
        }
        self.whole = true;
        Ok(())
    }

    /// Makes two files belong to one refcount tree.
    fn unite(&mut self, txn: &mut Txn<'_>, step: Move, done: &mut Deduped) -> Result<()> {
        let (target, source) = (self.inode(step.file)?, self.inode(step.source.file)?);
        match (tree_of(txn, target)?, tree_of(txn, source)?) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => {
                let count = |tree: &BlockNo| self.members.get(tree).map_or(0, Vec::len);
                let (from, into) = if count(&a) < count(&b) {
                    (a, b)
                } else {
                    (b, a)
                };
                let moved = self.members.remove(&from).unwrap_or_default();
                txn.merge_refcount(from, into, &moved)?;
                self.members.entry(into).or_default().extend(moved);
                done.merged_trees += 1;
            }
            (Some(tree), None) => self.attach(txn, source, tree)?,
            (None, Some(tree)) => self.attach(txn, target, tree)?,
            (None, None) => {
                let tree = txn.refcount_root_for(source)?;
                self.members.entry(tree).or_default().push(source);
                self.attach(txn, target, tree)?;
            }
        }
        Ok(())
    }

    fn attach(&mut self, txn: &mut Txn<'_>, inode: BlockNo, tree: BlockNo) -> Result<()> {
        self.members.entry(tree).or_default().push(inode);
        txn.attach_once(inode, tree)
    }

    /// Changes the mappings of all files that the chosen parts touch, and counts.
    fn share(&self, txn: &mut Txn<'_>, chosen: &[Move], done: &mut Deduped) -> Result<()> {
        let mut edits: BTreeMap<usize, Vec<Edit>> = BTreeMap::new();
        for step in chosen {
            edits.entry(step.file).or_default().push(Edit {
                cpos: step.cpos,
                end: step.cpos + step.clusters,
                place: Some((step.from, step.to)),
            });
            edits.entry(step.source.file).or_default().push(Edit {
                cpos: step.source.cpos,
                end: step.source.cpos + step.clusters,
                place: None,
            });
            done.shared_bytes += u64::from(step.clusters) << txn.info().geo.cluster_bits();
        }
        let mut changes: BTreeMap<BlockNo, Vec<Adjust>> = BTreeMap::new();
        let mut freed = 0;
        for (file, edits) in edits {
            let inode = self.inode(file)?;
            let tree = tree_of(txn, inode)?.ok_or_else(|| moved(inode))?;
            let edits = joined(edits);
            let (Some(first), Some(last)) = (edits.first(), edits.last()) else {
                continue;
            };
            let (from, to) = (first.cpos, last.end);
            let root = txn.data_root(inode)?;
            let old = txn.tree_extents(&root, from, to)?;
            let rewritten = rewrite(txn.info().geo, inode, &old, &edits, (from, to))?;
            txn.splice(&root, from, to, &rewritten.extents)?;
            let changes = changes.entry(tree).or_default();
            changes.extend(rewritten.changes);
            for (first, clusters) in rewritten.alone {
                txn.free_clusters_at_commit(ClusterNo(first), clusters);
                freed += u64::from(clusters);
            }
        }
        for (tree, changes) in changes {
            for (first, clusters) in txn.refcount_adjust(tree, &summed(&changes))? {
                txn.free_clusters_at_commit(ClusterNo(low32(first)), clusters);
                freed += u64::from(clusters);
            }
        }
        done.freed_bytes += freed << txn.info().geo.cluster_bits();
        Ok(())
    }
}

/// The refcount tree of an inode.
fn tree_of(txn: &Txn<'_>, inode: BlockNo) -> Result<Option<BlockNo>> {
    let dinode = txn.view().block::<Dinode>(inode)?;
    let attached = dinode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
    Ok(attached.then(|| BlockNo(dinode.i_refcount_loc.get())))
}

fn moved(inode: BlockNo) -> Error {
    let (field, value) = ("e_blkno", 0);
    let rule = "the file maps something else than it did a moment ago";
    FaultKind::Field { field, value, rule }.at(inode).into()
}

/// Edits in order; what is to be shared several times is marked once.
fn joined(mut edits: Vec<Edit>) -> Vec<Edit> {
    edits.sort_by_key(|edit| (edit.cpos, edit.end));
    let mut found: Vec<Edit> = Vec::with_capacity(edits.len());
    for edit in edits {
        match found.last_mut() {
            Some(last) if last.place.is_none() && edit.place.is_none() && edit.cpos <= last.end => {
                last.end = last.end.max(edit.end);
            }
            _ => found.push(edit),
        }
    }
    found
}

/// A mapping as it will be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rewritten {
    /// The extents of the range.
    extents: Vec<Extent>,
    /// Changes of counts.
    changes: Vec<Adjust>,
    /// Clusters that were the file's alone, and are not mapped any more.
    alone: Vec<(u32, u32)>,
}

/// Edits the extents of a range.
fn rewrite(
    geo: Geometry,
    inode: BlockNo,
    old: &[Extent],
    edits: &[Edit],
    (from, to): (u32, u32),
) -> Result<Rewritten> {
    let mut made = Rewritten::default();
    let mut edits = edits.iter().copied();
    let mut edit = edits.next();
    for extent in old {
        let first = geo.cluster_of(extent.blkno).0;
        let mut at = extent.cpos.max(from);
        let end = extent.end().min(to);
        while at < end {
            while edit.is_some_and(|edit| edit.end <= at) {
                edit = edits.next();
            }
            let stop = match edit {
                Some(edit) if edit.cpos <= at => edit.end.min(end),
                Some(edit) => edit.cpos.min(end),
                None => end,
            };
            let (cluster, clusters) = (first + (at - extent.cpos), stop - at);
            let counted = |first: u32, delta| Adjust {
                first: first.into(),
                clusters,
                delta,
            };
            let mut part = Extent {
                cpos: at,
                clusters,
                blkno: geo.first_block(ClusterNo(cluster)),
                flags: extent.flags,
            };
            if let Some(edit) = edit.filter(|edit| edit.cpos <= at) {
                if extent.is_unwritten() {
                    return Err(moved(inode));
                }
                part.flags |= ExtentFlags::REFCOUNTED;
                match edit.place {
                    None if extent.is_refcounted() => {}
                    None => made.changes.push(counted(cluster, 1)),
                    Some((before, after)) => {
                        let skip = at - edit.cpos;
                        if before + skip != cluster {
                            return Err(moved(inode));
                        }
                        if extent.is_refcounted() {
                            made.changes.push(counted(cluster, -1));
                        } else {
                            made.alone.push((cluster, clusters));
                        }
                        made.changes.push(counted(after + skip, 1));
                        part.blkno = geo.first_block(ClusterNo(after + skip));
                    }
                }
            }
            made.extents.push(part);
            at = stop;
        }
    }
    let covered: u64 = made
        .extents
        .iter()
        .map(|extent| u64::from(extent.clusters))
        .sum();
    let wanted: u64 = old
        .iter()
        .map(|extent| u64::from(extent.end().min(to).saturating_sub(extent.cpos.max(from))))
        .sum();
    if covered != wanted || edit.is_some_and(|edit| edit.cpos >= to) {
        return Err(moved(inode));
    }
    Ok(made)
}
