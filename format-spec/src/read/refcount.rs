//! Refcount trees: which ranges of clusters are shared, by how many mappings.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::{Checked, View};
use crate::error::{Error, FaultKind, Result};
use crate::layout::{REFCOUNT_BODY, REFCOUNT_TREE, RefcountBlock, RefcountList, RefcountRec};
use crate::read::extent;
use crate::units::BlockNo;

/// The record list of a refcount block.
#[derive(Clone, Copy, Debug)]
pub struct RefcountListView<'a> {
    /// The header.
    pub head: &'a RefcountList,
    /// The records in use.
    pub recs: &'a [RefcountRec],
    /// Records that fit.
    pub capacity: usize,
}

impl<'a> RefcountListView<'a> {
    /// The list that fills `space`.
    #[must_use]
    pub fn parse(space: &'a [u8]) -> Option<Self> {
        let (head, rest) = RefcountList::ref_from_prefix(space).ok()?;
        let capacity = rest.len() / size_of::<RefcountRec>();
        let all = <[RefcountRec]>::ref_from_bytes(rest.get(..capacity * size_of::<RefcountRec>())?);
        let used = usize::from(head.rl_used.get()).min(capacity);
        Some(Self {
            head,
            recs: all.ok()?.get(..used)?,
            capacity,
        })
    }
}

impl Checked<'_, RefcountBlock> {
    /// Whether the records stand in leaf blocks below this root.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        self.rf_flags.get() & REFCOUNT_TREE != 0
    }

    /// The union behind the head: the extent list or the record list.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes().get(REFCOUNT_BODY..).unwrap_or_default()
    }

    /// The record list of a block that holds records.
    #[must_use]
    pub fn records(&self) -> Option<RefcountListView<'_>> {
        (!self.is_tree())
            .then(|| RefcountListView::parse(self.body()))
            .flatten()
    }
}

/// A step of a walk over the leaves of a refcount tree.
#[derive(Debug)]
pub struct LeafStep<'v> {
    /// Key under which the parent lists the leaf (0 for a root that holds the records).
    pub cpos: u32,
    /// Where the leaf is.
    pub blkno: BlockNo,
    /// The leaf.
    pub leaf: Result<Checked<'v, RefcountBlock>>,
}

/// Visits all blocks of a tree that hold records: its leaves, or the root itself.
///
/// # Errors
/// The root cannot be used or its extent tree is damaged.
pub fn for_each_leaf<'v>(
    view: View<'v>,
    root: BlockNo,
    visit: &mut dyn FnMut(LeafStep<'v>) -> ControlFlow<()>,
) -> Result<()> {
    let block = view.block::<RefcountBlock>(root)?;
    if !block.is_tree() {
        let _ = visit(LeafStep {
            cpos: 0,
            blkno: root,
            leaf: Ok(block),
        });
        return Ok(());
    }
    for rec in extent::extents(view, root, block.body())? {
        let leaf = view.block::<RefcountBlock>(rec.blkno);
        if visit(LeafStep {
            cpos: rec.cpos,
            blkno: rec.blkno,
            leaf,
        })
        .is_break()
        {
            break;
        }
    }
    Ok(())
}

/// All records of a tree, in order.
///
/// # Errors
/// Any block of the tree cannot be used.
pub fn records(view: View<'_>, root: BlockNo) -> Result<Vec<RefcountRec>> {
    let mut found = Vec::new();
    let mut failed: Option<Error> = None;
    for_each_leaf(view, root, &mut |step| match step.leaf {
        Ok(leaf) => {
            match leaf.records() {
                Some(list) => found.extend_from_slice(list.recs),
                None => {
                    let value = leaf.rf_flags.get().into();
                    let rule = "a leaf must hold records";
                    let kind = FaultKind::Field {
                        field: "rf_flags",
                        value,
                        rule,
                    };
                    failed = Some(kind.at(step.blkno).into());
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// The records of a tree that touch the clusters `first..end`, in order.
///
/// # Errors
/// A block of the tree cannot be used.
pub fn records_in(view: View<'_>, root: BlockNo, first: u64, end: u64) -> Result<Vec<RefcountRec>> {
    let block = view.block::<RefcountBlock>(root)?;
    let mut found = Vec::new();
    let mut take = |block: &Checked<'_, RefcountBlock>| {
        let recs = block.records().map(|list| list.recs).unwrap_or_default();
        let ends = |rec: &RefcountRec| rec.r_cpos.get().saturating_add(rec.r_clusters.get().into());
        let from = recs.partition_point(|rec| ends(rec) <= first);
        found.extend(recs[from..].iter().take_while(|rec| rec.r_cpos.get() < end));
    };
    if !block.is_tree() {
        take(&block);
        return Ok(found);
    }
    let leaves = extent::extents(view, root, block.body())?;
    let from = leaves
        .partition_point(|leaf| u64::from(leaf.cpos) <= first)
        .saturating_sub(1);
    for leaf in leaves[from..]
        .iter()
        .take_while(|leaf| u64::from(leaf.cpos) < end.max(1))
    {
        take(&view.block::<RefcountBlock>(leaf.blkno)?);
    }
    Ok(found)
}

/// A range of clusters with the number of extents that map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// First cluster.
    pub first: u64,
    /// The cluster behind the last one.
    pub end: u64,
    /// Number of mappings; 1 where there is no record.
    pub count: u32,
}

/// Cuts ranges of clusters, given as (first, end) and sorted by their beginnings, where the counts
/// of a tree change. The ranges may overlap each other. One walk over the tree, whatever their number.
///
/// # Errors
/// A block of the tree cannot be used.
pub fn counted(view: View<'_>, root: BlockNo, ranges: &[(u64, u64)]) -> Result<Vec<Counted>> {
    let block = view.block::<RefcountBlock>(root)?;
    let leaves = if block.is_tree() {
        extent::extents(view, root, block.body())?
    } else {
        Vec::new()
    };
    let mut cut = Cut {
        found: Vec::with_capacity(ranges.len()),
        leaf: None,
    };
    for &(first, end) in ranges {
        let mut at = first;
        if !block.is_tree() {
            at = cut.by(&block, at, end);
        }
        let from = leaves
            .partition_point(|leaf| u64::from(leaf.cpos) <= first)
            .saturating_sub(1);
        let near = leaves.get(from..).unwrap_or_default();
        for rec in near.iter().take_while(|leaf| u64::from(leaf.cpos) < end) {
            let leaf = match cut.leaf.take() {
                Some(leaf) if leaf.blkno() == rec.blkno => leaf,
                _ => view.block::<RefcountBlock>(rec.blkno)?,
            };
            at = cut.by(&leaf, at, end);
            cut.leaf = Some(leaf);
        }
        cut.push(at, end, 1);
    }
    Ok(cut.found)
}

/// The state of [`counted`].
struct Cut<'v> {
    found: Vec<Counted>,
    /// The leaf read last: neighbours among the ranges mostly have the same.
    leaf: Option<Checked<'v, RefcountBlock>>,
}

impl Cut<'_> {
    /// Cuts the range `at..end` by the records of a block; the end of what they cover.
    fn by(&mut self, block: &Checked<'_, RefcountBlock>, mut at: u64, end: u64) -> u64 {
        let recs = block.records().map(|list| list.recs).unwrap_or_default();
        let ends = |rec: &RefcountRec| rec.r_cpos.get().saturating_add(rec.r_clusters.get().into());
        let from = recs.partition_point(|rec| ends(rec) <= at);
        let near = recs.get(from..).unwrap_or_default();
        for rec in near.iter().take_while(|rec| rec.r_cpos.get() < end) {
            let first = rec.r_cpos.get().max(at);
            self.push(at, first, 1);
            let stop = ends(rec).min(end).max(first);
            self.push(first, stop, rec.r_refcount.get().max(1));
            at = stop;
        }
        at
    }

    fn push(&mut self, first: u64, end: u64, count: u32) {
        if first >= end {
            return;
        }
        match self.found.last_mut() {
            Some(last) if last.end == first && last.count == count => last.end = end,
            _ => self.found.push(Counted { first, end, count }),
        }
    }
}
