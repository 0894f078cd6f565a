//! Walks over extent trees, whatever their root.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::View;
use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    EXTENT_BLOCK_LIST, ExtentBlock, ExtentFlags, ExtentList, ExtentRec, MAX_TREE_DEPTH,
};
use crate::units::BlockNo;

/// An extent list inside a block: its header and its used records.
#[derive(Clone, Copy, Debug)]
pub struct ListView<'a> {
    /// The header.
    pub head: &'a ExtentList,
    /// The records in use; never more than fit into the space of the list.
    pub recs: &'a [ExtentRec],
    /// Records that fit into the space of the list.
    pub capacity: usize,
}

impl<'a> ListView<'a> {
    /// The list that fills `space`.
    #[must_use]
    pub fn parse(space: &'a [u8]) -> Option<Self> {
        let (head, rest) = ExtentList::ref_from_prefix(space).ok()?;
        let capacity = rest.len() / size_of::<ExtentRec>();
        let all = <[ExtentRec]>::ref_from_bytes(rest.get(..capacity * size_of::<ExtentRec>())?);
        let used = usize::from(head.l_next_free_rec.get()).min(capacity);
        Some(Self {
            head,
            recs: all.ok()?.get(..used)?,
            capacity,
        })
    }

    /// Whether the counts of the header are possible.
    #[must_use]
    pub fn counts_are_sane(&self) -> bool {
        let (used, count) = (self.head.l_next_free_rec.get(), self.head.l_count.get());
        used <= count && usize::from(count) <= self.capacity
    }
}

/// A run of clusters mapped by a leaf record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First logical cluster (or hash).
    pub cpos: u32,
    /// Number of clusters.
    pub clusters: u32,
    /// First block.
    pub blkno: BlockNo,
    /// State.
    pub flags: ExtentFlags,
}

impl Extent {
    /// The logical cluster behind the extent.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.cpos.saturating_add(self.clusters)
    }

    /// The extent of a leaf record.
    #[must_use]
    pub fn of(rec: &ExtentRec) -> Self {
        Self {
            cpos: rec.e_cpos.get(),
            clusters: u32::from(rec.e_leaf_clusters.get()),
            blkno: BlockNo(rec.e_blkno.get()),
            flags: rec.flags(),
        }
    }

    /// Whether the extent is allocated but reads as zeros.
    #[must_use]
    pub const fn is_unwritten(&self) -> bool {
        self.flags.contains(ExtentFlags::UNWRITTEN)
    }

    /// Whether the extent is counted in the refcount tree.
    #[must_use]
    pub const fn is_refcounted(&self) -> bool {
        self.flags.contains(ExtentFlags::REFCOUNTED)
    }
}

/// What a walk over an extent tree meets.
#[derive(Debug)]
pub enum TreeStep<'a> {
    /// A list: the root's (no block) or an extent block's.
    List {
        /// The extent block; `None` for the root.
        block: Option<&'a crate::block::Checked<'a, ExtentBlock>>,
        /// Its list.
        list: ListView<'a>,
        /// Depth that the list must have: the parent's less one; the root's own at the root.
        depth: u16,
    },
    /// A leaf record that maps something.
    Extent(Extent),
    /// A part of the tree that cannot be walked; the walk goes on behind it.
    Fault {
        /// What is wrong.
        error: Error,
        /// First key of the part.
        cpos: u32,
        /// Number of keys of the part, as its parent says.
        keys: u32,
    },
}

/// Walks a tree in key order, lists before their records. `root` is the space of the root's list,
/// in block `owner`. The visitor may end the walk; faults do not end it.
///
/// # Errors
/// The root's list does not fit its space.
pub fn walk_tree(
    view: View<'_>,
    owner: BlockNo,
    root: &[u8],
    visit: &mut dyn FnMut(TreeStep<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let list = ListView::parse(root).ok_or_else(|| {
        Error::from(
            FaultKind::Field {
                field: "l_count",
                value: 0,
                rule: "no room for an extent list",
            }
            .at(owner),
        )
    })?;
    let depth = list.head.l_tree_depth.get();
    if visit(TreeStep::List {
        block: None,
        list,
        depth,
    })
    .is_break()
    {
        return Ok(());
    }
    if depth > MAX_TREE_DEPTH {
        let rule = "an extent tree has at most 5 levels";
        let error = FaultKind::Field {
            field: "l_tree_depth",
            value: depth.into(),
            rule,
        };
        let _ = visit(TreeStep::Fault {
            error: error.at(owner).into(),
            cpos: 0,
            keys: u32::MAX,
        });
        return Ok(());
    }
    // Pending records, the next one last; each level adds at most the records of one list.
    let mut pending: Vec<(ExtentRec, u16)> = Vec::new();
    push_records(&mut pending, list, depth);
    // A tree cannot have more blocks than the volume.
    let mut fuel = view.geo().blocks();
    while let Some((rec, depth)) = pending.pop() {
        if depth == 0 {
            if rec.e_leaf_clusters.get() != 0
                && visit(TreeStep::Extent(Extent::of(&rec))).is_break()
            {
                return Ok(());
            }
            continue;
        }
        let blkno = BlockNo(rec.e_blkno.get());
        let (cpos, keys) = (rec.e_cpos.get(), rec.int_clusters());
        if rec.int_clusters() == 0 && blkno.0 == 0 {
            continue;
        }
        let flow = if fuel == 0 {
            visit(TreeStep::Fault {
                error: FaultKind::Loop.at(blkno).into(),
                cpos,
                keys,
            })
        } else {
            fuel -= 1;
            match view.block::<ExtentBlock>(blkno) {
                Err(error) => visit(TreeStep::Fault { error, cpos, keys }),
                Ok(block) => {
                    let space = block.bytes().get(EXTENT_BLOCK_LIST..).unwrap_or_default();
                    match ListView::parse(space) {
                        Some(list) if list.head.l_tree_depth.get() == depth - 1 => {
                            push_records(&mut pending, list, depth - 1);
                            let block = Some(&block);
                            visit(TreeStep::List {
                                block,
                                list,
                                depth: depth - 1,
                            })
                        }
                        Some(list) => {
                            let value = list.head.l_tree_depth.get().into();
                            let rule = "it must be one less than its parent's";
                            let kind = FaultKind::Field {
                                field: "l_tree_depth",
                                value,
                                rule,
                            };
                            visit(TreeStep::Fault {
                                error: kind.at(blkno).into(),
                                cpos,
                                keys,
                            })
                        }
                        None => ControlFlow::Continue(()),
                    }
                }
            }
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

fn push_records(pending: &mut Vec<(ExtentRec, u16)>, list: ListView<'_>, depth: u16) {
    pending.extend(list.recs.iter().rev().map(|rec| (*rec, depth)));
}

/// All extents of a tree, in order.
///
/// # Errors
/// Any part of the tree cannot be walked.
pub fn extents(view: View<'_>, owner: BlockNo, root: &[u8]) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut failed = None;
    walk_tree(view, owner, root, &mut |step| {
        match step {
            TreeStep::Extent(extent) => found.push(extent),
            TreeStep::List { block, list, .. } if !list.counts_are_sane() => {
                let blkno = block.map_or(owner, crate::block::Checked::blkno);
                failed = Some(too_many(&list).at(blkno).into());
                return ControlFlow::Break(());
            }
            TreeStep::List { .. } => {}
            TreeStep::Fault { error, .. } => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(found), Err)
}

/// A part of a tree that cannot be used.
#[derive(Debug)]
pub struct Lost {
    /// First key of the part.
    pub cpos: u32,
    /// The key behind it.
    pub end: u32,
    /// Why.
    pub error: Error,
}

/// The extents that the intact parts of a tree have, in order and without overlaps, and what of
/// the tree is lost.
#[must_use]
pub fn salvage(view: View<'_>, owner: BlockNo, root: &[u8]) -> (Vec<Extent>, Vec<Lost>) {
    let (mut found, mut lost) = (Vec::<Extent>::new(), Vec::<Lost>::new());
    let walked = walk_tree(view, owner, root, &mut |step| {
        let behind = found.last().map_or(0, Extent::end);
        match step {
            TreeStep::Extent(extent) if extent.cpos < behind => lost.push(Lost {
                cpos: extent.cpos,
                end: extent.end(),
                error: misplaced(&extent).at(owner).into(),
            }),
            TreeStep::Extent(extent) => found.push(extent),
            // As many records as fit are taken; who trusts them is told that they may be wrong.
            TreeStep::List { block, list, .. } if !list.counts_are_sane() => {
                let blkno = block.map_or(owner, crate::block::Checked::blkno);
                let cpos = list.recs.first().map_or(behind, |rec| rec.e_cpos.get());
                let error = too_many(&list).at(blkno).into();
                let end = cpos;
                lost.push(Lost { cpos, end, error });
            }
            TreeStep::List { .. } => {}
            TreeStep::Fault { error, cpos, keys } => {
                let end = cpos.saturating_add(keys);
                lost.push(Lost { cpos, end, error });
            }
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = walked {
        let (cpos, end) = (0, u32::MAX);
        lost.push(Lost { cpos, end, error });
    }
    (found, lost)
}

/// An extent that begins before the one in front of it has ended.
const fn misplaced(extent: &Extent) -> FaultKind {
    FaultKind::Field {
        field: "e_cpos",
        value: extent.cpos as u64,
        rule: "the extent lies before the end of the one in front of it",
    }
}

/// A list that counts more records than it has.
const fn too_many(list: &ListView<'_>) -> FaultKind {
    FaultKind::Field {
        field: "l_next_free_rec",
        value: list.head.l_next_free_rec.get() as u64,
        rule: "more records in use than the list has",
    }
}

/// Makes sure that extents follow one another without overlaps.
///
/// # Errors
/// They do not.
pub fn in_order(extents: &[Extent], owner: BlockNo) -> Result<()> {
    match extents.windows(2).find(|pair| pair[1].cpos < pair[0].end()) {
        Some(pair) => Err(misplaced(&pair[1]).at(owner).into()),
        None => Ok(()),
    }
}

/// The extent that a tree has at `key`, or (in hash-keyed trees) the last one that begins at or
/// before it. Descends one path only.
///
/// # Errors
/// A block of the path cannot be used.
pub fn find(view: View<'_>, owner: BlockNo, root: &[u8], key: u32) -> Result<Option<Extent>> {
    let wrong = |blkno: BlockNo, value: u64| {
        let rule = "no possible list of an extent tree";
        Error::from(
            FaultKind::Field {
                field: "l_tree_depth",
                value,
                rule,
            }
            .at(blkno),
        )
    };
    let mut list = ListView::parse(root).ok_or_else(|| wrong(owner, 0))?;
    let mut depth = list.head.l_tree_depth.get();
    if depth > MAX_TREE_DEPTH {
        return Err(wrong(owner, depth.into()));
    }
    let mut block;
    while depth > 0 {
        let at = list.recs.partition_point(|rec| rec.e_cpos.get() <= key);
        let Some(rec) = at.checked_sub(1).and_then(|i| list.recs.get(i)) else {
            return Ok(None);
        };
        let blkno = BlockNo(rec.e_blkno.get());
        block = view.block::<ExtentBlock>(blkno)?;
        depth -= 1;
        list = ListView::parse(block.bytes().get(EXTENT_BLOCK_LIST..).unwrap_or_default())
            .filter(|list| list.head.l_tree_depth.get() == depth)
            .ok_or_else(|| wrong(blkno, depth.into()))?;
    }
    let at = list.recs.partition_point(|rec| rec.e_cpos.get() <= key);
    Ok(at
        .checked_sub(1)
        .and_then(|i| list.recs.get(i))
        .filter(|rec| rec.e_leaf_clusters.get() != 0)
        .map(Extent::of))
}
