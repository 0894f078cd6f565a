//! What the slots hold back: windows of local allocs, records of truncate logs.
//!
//! Both mark clusters as used that no file has. They are legal on a volume that was not unmounted
//! (and truncate logs for a while after), and must not look like leaks.

use cowfs_format::block::{Checked, View};
use cowfs_format::layout::{Dinode, GroupDesc, LocalAlloc, TruncateLog, TruncateRec};
use cowfs_format::units::{ClusterNo, Slot};
use cowfs_format::volume::system::SystemFile;
use zerocopy::FromBytes;

use super::bitmap::Held;
use super::system::System;
use crate::catalogue::{AllocProblem, At};
use crate::facts::clusters::{Joiner, bitmap_word, word_masks};
use crate::facts::{Cx, Out};

/// Checks all slots' local allocs and truncate logs, once all claims are known; returns the
/// clusters that they hold back.
pub(crate) fn scan(cx: &Cx<'_>, system: &System, out: &mut Out) -> Held {
    let slots = || (0..cx.view.info().max_slots).map(Slot);
    let mut held = Held::new();
    for slot in slots() {
        if let Some(inode) = system.inode(cx.view, SystemFile::TruncateLog(slot)) {
            truncate_log(cx, out, &inode, &mut held);
        }
    }
    // What was handed out of a window and is given up again waits in a truncate log, of any slot.
    let mut waiting = held.clone();
    waiting.sort_unstable();
    for slot in slots() {
        if let Some(inode) = system.inode(cx.view, SystemFile::LocalAlloc(slot)) {
            local_alloc(cx, out, &inode, &waiting, &mut held);
        }
    }
    held.sort_unstable();
    // Ranges may only overlap when something is wrong; the comparison wants them disjoint.
    let mut end = 0;
    for range in &mut held {
        range.0 = range.0.max(end);
        end = end.max(range.1);
    }
    held.retain(|range| range.0 < range.1);
    held
}

fn local_alloc(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    waiting: &[(u32, u32)],
    held: &mut Held,
) {
    let at = At::inode(inode.blkno());
    let Ok((head, bitmap)) = LocalAlloc::ref_from_prefix(inode.body()) else {
        return;
    };
    let room = u16::try_from(bitmap.len()).unwrap_or(u16::MAX);
    let size = head.la_size.get();
    if size > room {
        let (found, expected) = (size, room);
        out.find(at, AllocProblem::LallocSize { found, expected });
    }
    let (used, total, first) = (
        inode.bitmap_used(),
        inode.bitmap_total(),
        head.la_bm_off.get(),
    );
    if total == 0 {
        if used != 0 {
            out.find(at, AllocProblem::LallocNzUsed { found: used });
        }
        if first != 0 {
            out.find(at, AllocProblem::LallocNzBm { found: first });
        }
        return;
    }
    let clusters = cx.view.geo().clusters();
    let bits = u32::from(size.min(room)) * 8;
    if first >= clusters {
        out.find(at, AllocProblem::LallocOverrun { found: first });
        return;
    }
    if total > bits {
        let (found, expected) = (total, bits);
        out.find(at, AllocProblem::LallocBmSize { found, expected });
        return;
    }
    if total > clusters - first {
        out.find(
            at,
            AllocProblem::LallocStraddle {
                first,
                count: total,
            },
        );
        return;
    }
    if used > total {
        out.find(at, AllocProblem::LallocUsedOverrun { found: used, total });
    }
    let set = cowfs_format::read::chain::count_ones(bitmap, total);
    if used != set && used <= total {
        let (found, expected) = (used, set);
        out.find(at, AllocProblem::LallocUsed { found, expected });
    }
    window(cx, out, at, bitmap, (first, total), waiting);
    held.push((first, first + total));
}

/// Compares a window with what its clusters are used for; those that wait to be freed are in use.
fn window(
    cx: &Cx<'_>,
    out: &mut Out,
    at: At,
    bitmap: &[u8],
    (start, total): (u32, u32),
    waiting: &[(u32, u32)],
) {
    let waits = |cluster: u32| {
        let behind = waiting.partition_point(|range| range.0 <= cluster);
        let before = behind.checked_sub(1).and_then(|at| waiting.get(at));
        before.is_some_and(|range| cluster < range.1)
    };
    let (mut taken, mut unused) = (Joiner::default(), Joiner::default());
    let mut found: Vec<(u32, u32, &'static str)> = Vec::new();
    let in_use = "are in use but free in the window";
    let idle = "are handed out but not in use";
    for (index, mask) in word_masks(0, total) {
        let marked = bitmap_word(bitmap, index) & mask;
        let base = start + u32::try_from(index * 64).unwrap_or(0);
        let claimed = (0..64)
            .filter(|bit| mask >> bit & 1 == 1)
            .filter(|bit| cx.clusters.is_claimed(base + bit) || waits(base + bit))
            .fold(0u64, |word, bit| word | 1 << bit);
        taken.add(base, claimed & !marked, &mut |a, b| {
            found.push((a, b, in_use))
        });
        unused.add(base, marked & !claimed, &mut |a, b| {
            found.push((a, b, idle))
        });
    }
    taken.finish(&mut |a, b| found.push((a, b, in_use)));
    unused.finish(&mut |a, b| found.push((a, b, idle)));
    let mut free = Joiner::default();
    let not_marked = "are marked as free in the global bitmap";
    for (base, word) in free_words(cx.view, start, total) {
        free.add(base, word, &mut |a, b| found.push((a, b, not_marked)));
    }
    free.finish(&mut |a, b| found.push((a, b, not_marked)));
    for (first, count, why) in found {
        out.find(at, AllocProblem::LallocRepair { first, count, why });
    }
}

/// The clusters of a range that the global bitmap marks as free, as words.
fn free_words(view: View<'_>, first: u32, count: u32) -> Vec<(u32, u64)> {
    let geo = view.geo();
    let per_group = geo.clusters_per_group();
    let mut words = Vec::new();
    let (mut at, end) = (first, first.saturating_add(count).min(geo.clusters()));
    while at < end {
        let group = at / per_group;
        let base = group * per_group;
        let stop = end.min(base.saturating_add(per_group));
        if let (Some(desc), _) = view.inspect::<GroupDesc>(geo.group_block(group)) {
            for (index, mask) in word_masks(at - base, stop - base) {
                let word = !bitmap_word(desc.bitmap(), index) & mask;
                words.push((base + u32::try_from(index * 64).unwrap_or(0), word));
            }
        }
        at = stop;
    }
    words
}

fn truncate_log(cx: &Cx<'_>, out: &mut Out, inode: &Checked<'_, Dinode>, held: &mut Held) {
    let at = At::inode(inode.blkno());
    let Ok((head, rest)) = TruncateLog::ref_from_prefix(inode.body()) else {
        return;
    };
    let room = rest.len() / size_of::<TruncateRec>();
    let (count, used) = (head.tl_count.get(), head.tl_used.get());
    if usize::from(count) > room {
        let (found, expected) = (count, room as u64);
        out.find(at, AllocProblem::DeallocCount { found, expected });
    }
    let room = room.min(usize::from(count));
    if usize::from(used) > room {
        let (found, count) = (used, room as u64);
        out.find(at, AllocProblem::DeallocUsed { found, count });
    }
    let recs = rest.get(..usize::from(used).min(room) * size_of::<TruncateRec>());
    let Ok(recs) = <[TruncateRec]>::ref_from_bytes(recs.unwrap_or_default()) else {
        return;
    };
    let clusters = cx.view.geo().clusters();
    for (record, rec) in (0u64..).zip(recs) {
        let (start, count) = (rec.t_start.get(), rec.t_clusters.get());
        if start == 0 || count == 0 {
            continue;
        }
        if start >= clusters {
            out.find(at, AllocProblem::TruncateStart { record, start });
        } else if start.checked_add(count).is_none() {
            out.find(
                at,
                AllocProblem::TruncateWrap {
                    record,
                    start,
                    count,
                },
            );
        } else if count > clusters - start {
            out.find(
                at,
                AllocProblem::TruncateRange {
                    record,
                    start,
                    count,
                },
            );
        } else {
            let ClusterNo(end) = ClusterNo(start).plus(count);
            in_use(cx, out, at, start, end);
            let mut free = Joiner::default();
            let mut tell = |first, count| {
                out.find(at, AllocProblem::TruncateFree { first, count });
            };
            for (base, word) in free_words(cx.view, start, count) {
                free.add(base, word, &mut tell);
            }
            free.finish(&mut tell);
            held.push((start, end));
        }
    }
}

/// Clusters of a record that something claims.
fn in_use(cx: &Cx<'_>, out: &mut Out, at: At, start: u32, end: u32) {
    let per_group = cx.view.geo().clusters_per_group();
    let mut joiner = Joiner::default();
    let mut found = Vec::new();
    let mut from = start;
    while from < end {
        let group = from / per_group;
        let base = group * per_group;
        let stop = end.min(base.saturating_add(per_group));
        if cx.clusters.touched(group) {
            for (index, mask) in word_masks(from - base, stop - base) {
                let word = cx.clusters.word(group, index) & mask;
                let base = base + u32::try_from(index * 64).unwrap_or(0);
                joiner.add(base, word, &mut |a, b| found.push((a, b)));
            }
        }
        from = stop;
    }
    joiner.finish(&mut |a, b| found.push((a, b)));
    for (first, count) in found {
        out.find(at, AllocProblem::TruncateUsed { first, count });
    }
}
