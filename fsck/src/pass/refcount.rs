//! Refcount trees: their blocks, their records, and the mappings that the records count.

use cowfs_format::block::Checked;
use cowfs_format::layout::{REFCOUNT_LEAF, REFCOUNT_TREE, RefcountBlock, RefcountRec};
use cowfs_format::read::extent::Extent;
use cowfs_format::read::refcount::RefcountListView;
use cowfs_format::units::BlockNo;

use super::extents::{self, Tree};
use crate::catalogue::{At, BlockKind, InodeProblem, RefcountProblem};
use crate::facts::{Cx, Origin, Out};

/// A tree, the number of inodes attached to it, the first of them, and the mappings found: where
/// their number changes, in the order of clusters.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    pub(crate) root: BlockNo,
    pub(crate) inodes: u64,
    pub(crate) first: BlockNo,
    pub(crate) shares: &'a [(BlockNo, u32, i32)],
}

/// A run of clusters with a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) end: u32,
    pub(crate) count: u64,
}

/// Checks a tree and claims its blocks and the clusters that its files share.
pub(crate) fn scan(cx: &Cx<'_>, tree: &Attached<'_>) -> Out {
    let mut out = Out::default();
    let mapped = spans(tree.shares);
    let mut claimed: Option<(u32, u32)> = None;
    for span in &mapped {
        match &mut claimed {
            Some((_, end)) if *end == span.first => *end = span.end,
            other => {
                if let Some((first, end)) = other.replace((span.first, span.end)) {
                    cx.claim(&mut out, tree.first, false, first, end - first);
                }
            }
        }
    }
    if let Some((first, end)) = claimed {
        cx.claim(&mut out, tree.first, false, first, end - first);
    }
    let at = At::within(tree.first, tree.root);
    let kind = BlockKind::RefcountRoot;
    let Some(root) = cx.inspect::<RefcountBlock>(&mut out, at, tree.root, kind) else {
        return out;
    };
    claim(cx, &mut out, tree, &root);
    if u64::from(root.rf_count.get()) != tree.inodes {
        let (found, expected) = (root.rf_count.get(), tree.inodes);
        out.find(at, RefcountProblem::Count { found, expected });
    }
    if root.rf_parent.get() != 0 {
        let (found, expected) = (root.rf_parent.get(), 0);
        out.find(at, RefcountProblem::RbParent { found, expected });
    }
    let mut records = Records {
        cx,
        spans: Vec::new(),
        end: 0,
    };
    let whole = if root.rf_flags.get() & REFCOUNT_TREE == 0 {
        records.list(&mut out, at, &root, (0, 1 << 32))
    } else {
        leaves(cx, &mut out, tree, &root, &mut records)
    };
    if whole {
        compare(&mut out, at, &records.spans, &mapped);
    }
    out
}

fn claim(cx: &Cx<'_>, out: &mut Out, tree: &Attached<'_>, block: &Checked<'_, RefcountBlock>) {
    let origin = Origin {
        slot: block.rf_suballoc_slot.get(),
        bit: block.rf_suballoc_bit.get(),
        loc: block.rf_suballoc_loc.get(),
    };
    cx.claim_meta(out, tree.first, block.blkno(), "refcount block", origin);
}

/// The runs of clusters that are mapped, with the number of mappings.
pub(crate) fn spans(shares: &[(BlockNo, u32, i32)]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut count, mut since) = (0i64, 0u32);
    for &(_, cluster, change) in shares {
        if count > 0 && cluster > since {
            let count = count.unsigned_abs();
            spans.push(Span {
                first: since,
                end: cluster,
                count,
            });
        }
        count += i64::from(change);
        since = cluster;
    }
    spans
}

/// Walks the leaves of a tree; false when some of its records could not be read.
fn leaves(
    cx: &Cx<'_>,
    out: &mut Out,
    tree: &Attached<'_>,
    root: &Checked<'_, RefcountBlock>,
    records: &mut Records<'_, '_>,
) -> bool {
    let spec = Tree {
        owner: tree.first,
        root: tree.root,
        space: root.body(),
        last_eb: root.rf_last_eb_blk.get(),
        holes: true,
        shared: false,
        to_blocks: true,
    };
    let mut found: Vec<Extent> = Vec::new();
    let sum = extents::walk(cx, out, spec, &mut |_, extent| found.push(*extent));
    let mut whole = !sum.broken;
    let keys = found
        .iter()
        .skip(1)
        .map(|next| u64::from(next.cpos))
        .chain([1 << 32]);
    for (extent, end) in found.iter().zip(keys) {
        let at = At::within(tree.first, extent.blkno);
        let kind = BlockKind::RefcountLeaf;
        let Some(leaf) = cx.inspect::<RefcountBlock>(out, at, extent.blkno, kind) else {
            whole = false;
            continue;
        };
        claim(cx, out, tree, &leaf);
        if leaf.rf_flags.get() & REFCOUNT_LEAF == 0 {
            let why = "is no leaf".to_owned();
            out.find(at, RefcountProblem::BlockInvalid { why });
            whole = false;
            continue;
        }
        if leaf.rf_parent.get() != tree.root.0 {
            let (found, expected) = (leaf.rf_parent.get(), tree.root.0);
            out.find(at, RefcountProblem::RbParent { found, expected });
        }
        if leaf.rf_generation.get() != root.rf_generation.get() {
            let (found, expected) = (leaf.rf_generation.get(), root.rf_generation.get());
            out.find(at, RefcountProblem::RbTreeGeneration { found, expected });
        }
        if leaf.rf_cpos.get() != extent.cpos {
            let (found, expected) = (leaf.rf_cpos.get(), extent.cpos);
            out.find(at, RefcountProblem::RbCpos { found, expected });
        }
        if leaf.records().is_some_and(|list| list.recs.is_empty()) {
            out.find(at, RefcountProblem::ListEmpty {});
        }
        whole &= records.list(out, at, &leaf, (u64::from(extent.cpos), end));
    }
    if !sum.broken && u64::from(root.rf_clusters.get()) != found.len() as u64 {
        let (found, expected) = (root.rf_clusters.get(), found.len() as u64);
        let at = At::within(tree.first, tree.root);
        out.find(at, RefcountProblem::Clusters { found, expected });
    }
    whole
}

/// The records of a tree, as they are read.
struct Records<'a, 'v> {
    cx: &'a Cx<'v>,
    spans: Vec<Span>,
    end: u64,
}

impl Records<'_, '_> {
    /// Reads the records of a block; false when some cannot be used.
    fn list(
        &mut self,
        out: &mut Out,
        at: At,
        block: &Checked<'_, RefcountBlock>,
        keys: (u64, u64),
    ) -> bool {
        let Some(list) = RefcountListView::parse(block.body()) else {
            return false;
        };
        let (count, used) = (list.head.rl_count.get(), list.head.rl_used.get());
        if usize::from(count) > list.capacity {
            let (found, expected) = (count, list.capacity as u64);
            out.find(at, RefcountProblem::ListCount { found, expected });
        }
        let room = list.capacity.min(usize::from(count));
        let mut whole = usize::from(used) <= room;
        if !whole {
            let (found, count) = (used, room as u64);
            out.find(at, RefcountProblem::ListUsed { found, count });
        }
        for rec in list.recs {
            whole &= self.record(out, at, rec, keys);
        }
        whole
    }

    fn record(&mut self, out: &mut Out, at: At, rec: &RefcountRec, keys: (u64, u64)) -> bool {
        let (first, count) = (rec.r_cpos.get(), rec.r_clusters.get());
        let end = first.saturating_add(u64::from(count));
        let clusters = u64::from(self.cx.view.geo().clusters());
        if first == 0 || count == 0 || end > clusters {
            out.find(at, RefcountProblem::ClusterRange { first, count });
            return false;
        }
        if first < keys.0 || end > keys.1 {
            let cpos = u32::try_from(first).unwrap_or(u32::MAX);
            let (first, end) = keys;
            out.find(at, InodeProblem::ParentRange { cpos, first, end });
        }
        if first < self.end {
            let expected = self.end;
            out.find(at, RefcountProblem::Collision { first, expected });
            return false;
        }
        self.end = end;
        // Both are below the number of clusters, which has 32 bits.
        let (first, end) = (u32::try_from(first), u32::try_from(end));
        if let (Ok(first), Ok(end)) = (first, end) {
            let count = u64::from(rec.r_refcount.get());
            self.spans.push(Span { first, end, count });
        }
        true
    }
}

/// Compares what the records count with the mappings found. Both are sorted and disjoint.
fn compare(out: &mut Out, at: At, records: &[Span], mapped: &[Span]) {
    let (mut records, mut mapped) = (records.iter().copied(), mapped.iter().copied());
    let (mut record, mut map) = (records.next(), mapped.next());
    let mut wrong: Option<(Span, u64)> = None;
    let mut note = |out: &mut Out, span: Option<Span>, expected: u64| {
        if let (Some((last, last_expected)), Some(span)) = (&mut wrong, span)
            && last.end == span.first
            && (last.count, *last_expected) == (span.count, expected)
        {
            last.end = span.end;
            return;
        }
        if let Some((last, expected)) = wrong.take() {
            let Span {
                first,
                end,
                count: refcount,
            } = last;
            let count = end - first;
            if expected == 0 {
                out.find(
                    at,
                    RefcountProblem::Redundant {
                        first,
                        count,
                        refcount,
                    },
                );
            } else {
                out.find(
                    at,
                    RefcountProblem::CountInvalid {
                        first,
                        count,
                        refcount,
                        expected,
                    },
                );
            }
        }
        wrong = span.map(|span| (span, expected));
    };
    while record.is_some() || map.is_some() {
        // The next stretch in which neither changes.
        let starts = [record, map].into_iter().flatten().map(|span| span.first);
        let Some(first) = starts.min() else { break };
        let bounds = [record, map].into_iter().flatten().map(|span| {
            if span.first > first {
                span.first
            } else {
                span.end
            }
        });
        let Some(end) = bounds.min() else { break };
        let count_of =
            |span: Option<Span>| span.filter(|s| s.first <= first).map_or(0, |s| s.count);
        let (count, expected) = (count_of(record), count_of(map));
        if count != expected {
            note(out, Some(Span { first, end, count }), expected);
        }
        let advance = |span: &mut Option<Span>, rest: &mut dyn Iterator<Item = Span>| {
            if let Some(current) = span {
                current.first = current.first.max(end);
                if current.first >= current.end {
                    *span = rest.next();
                }
            }
        };
        advance(&mut record, &mut records);
        advance(&mut map, &mut mapped);
    }
    note(out, None, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u32, end: u32, count: u64) -> Span {
        Span { first, end, count }
    }

    #[test]
    fn mappings_add_up_to_spans() {
        let root = BlockNo(1);
        let shares = [
            (root, 10, 1),
            (root, 15, 1),
            (root, 20, -1),
            (root, 30, -1),
            (root, 40, 2),
        ];
        let expected = [span(10, 15, 1), span(15, 20, 2), span(20, 30, 1)];
        assert_eq!(spans(&shares), expected);
    }

    #[test]
    fn differences_are_told_as_ranges() {
        let codes = |records: &[Span], mapped: &[Span]| {
            let mut out = Out::default();
            compare(&mut out, At::default(), records, mapped);
            out.findings
                .iter()
                .map(|f| f.problem.to_string())
                .collect::<Vec<_>>()
        };
        let equal = [span(10, 20, 2), span(20, 30, 1)];
        assert!(codes(&equal, &equal).is_empty());
        assert!(codes(&[span(10, 20, 2)], &[span(10, 12, 2), span(12, 20, 2)]).is_empty());
        let found = codes(&[span(10, 20, 2)], &[span(5, 12, 2), span(15, 20, 1)]);
        assert_eq!(
            found,
            [
                "record counts 0 for clusters 5 + 5, but 2 mappings share them",
                "record counts 2 for clusters 12 + 3, which nothing shares",
                "record counts 2 for clusters 15 + 5, but 1 mappings share them",
            ]
        );
    }
}
