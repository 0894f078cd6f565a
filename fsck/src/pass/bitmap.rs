//! What the bitmaps say against what was found in use.

use std::ops::Range;

use cowfs_format::block::{MetaBlock, View};
use cowfs_format::layout::{Dinode, GroupDesc, InodeFlags};
use cowfs_format::units::{BlockNo, ClusterNo, Slot};
use cowfs_format::volume::system::SystemFile;

use super::cluster_groups::{GroupFact, bits_of};
use super::inode;
use super::system::System;
use crate::catalogue::{AllocProblem, At};
use crate::facts::clusters::{Joiner, bitmap_word, word_masks};
use crate::facts::groups::{Group, Kind};
use crate::facts::{Cx, Out};

/// Clusters that are marked as used although no file claims them, because a local alloc or a
/// truncate log holds them; sorted, disjoint: first and end.
pub(crate) type Held = Vec<(u32, u32)>;

/// Compares a cluster group with the claims on its clusters.
pub(crate) fn clusters(
    cx: &Cx<'_>,
    bitmap: BlockNo,
    group: u32,
    fact: GroupFact,
    (system, held): (&System, &Held),
) -> Out {
    let mut out = Out::default();
    let geo = cx.view.geo();
    let blkno = geo.group_block(group);
    if fact.empty && group > 0 && !cx.clusters.touched(group) {
        return out;
    }
    let (Some(desc), _) = cx.view.scattered().inspect::<GroupDesc>(blkno) else {
        return out;
    };
    let bits = bits_of(cx, group);
    let base = group * geo.clusters_per_group();
    let at = At::within(bitmap, blkno);
    let (mut free, mut leaked) = (Joiner::default(), Joiner::default());
    let (mut free_runs, mut leaked_runs) = (Vec::new(), Vec::new());
    let held = held_words(held, base, bits);
    let mut held = held.into_iter().peekable();
    for (index, mask) in word_masks(0, bits) {
        let marked = bitmap_word(desc.bitmap(), index) & mask;
        let claimed = cx.clusters.word(group, index) & mask;
        let mut held_here = 0;
        while let Some((_, mask)) = held.next_if(|(at, _)| *at == index) {
            held_here |= mask;
        }
        let word_base = base + u32::try_from(index * 64).unwrap_or(0);
        free.add(word_base, claimed & !marked, &mut |a, b| {
            free_runs.push((a, b))
        });
        leaked.add(word_base, marked & !claimed & !held_here, &mut |a, b| {
            leaked_runs.push((a, b))
        });
    }
    free.finish(&mut |a, b| free_runs.push((a, b)));
    leaked.finish(&mut |a, b| leaked_runs.push((a, b)));
    for (first, count) in free_runs {
        out.find(at, AllocProblem::ClusterFree { first, count });
    }
    // A bitmap in which most is marked for nothing is garbled, or was just made: a descriptor there may be what
    // was left of a group that was given back.
    let leaks: u32 = leaked_runs.iter().map(|(_, count)| count).sum();
    let few = leaks <= bits / 2;
    for (first, count) in leaked_runs {
        unlinked(
            cx,
            system,
            &mut out,
            first..first.saturating_add(count),
            few,
        );
        out.find(at, AllocProblem::ClusterLeak { first, count });
    }
    out
}

/// Looks for groups of allocators among clusters that nothing uses: by the inodes in them, and by descriptors.
fn unlinked(cx: &Cx<'_>, system: &System, out: &mut Out, clusters: Range<u32>, descriptors: bool) {
    let mut last = None;
    for cluster in clusters {
        let blkno = cx.view.geo().first_block(ClusterNo(cluster));
        let Ok(block) = cx.view.raw(blkno) else {
            continue;
        };
        let found = if descriptors && block.starts_with(&GroupDesc::SIGNATURE) {
            named_by_group(cx, blkno).map(|allocator| (allocator, blkno))
        } else {
            named_by_inode(cx, system, &block, blkno)
        };
        if let Some((allocator, group)) = found.filter(|_| found != last) {
            last = found;
            out.find(At::within(allocator, group), AllocProblem::GroupUnlinked {});
        }
    }
}

/// The allocator that a descriptor names.
fn named_by_group(cx: &Cx<'_>, blkno: BlockNo) -> Option<BlockNo> {
    let (desc, faults) = cx.view.inspect::<GroupDesc>(blkno);
    let desc = desc.filter(|_| faults.is_empty())?;
    let parent = BlockNo(desc.bg_parent_dinode.get());
    let (inode, _) = cx.view.inspect::<Dinode>(parent);
    let marks = InodeFlags::VALID | InodeFlags::SYSTEM | InodeFlags::CHAIN;
    inode?.flags().contains(marks).then_some(parent)
}

/// The allocator of inodes that a block came from, and its group there, when no group of it is known at
/// all: then it was made anew, and its descriptors are lost as well. (Where it has groups, an inode beside
/// them is what was left of a group that was given back.)
fn named_by_inode(
    cx: &Cx<'_>,
    system: &System,
    block: &[u8],
    blkno: BlockNo,
) -> Option<(BlockNo, BlockNo)> {
    let (slot, group) = home_of(block, blkno, cx.view)?;
    let mut groups = cx.groups.all().iter();
    if groups.any(|known| known.kind == Kind::Inode && known.slot == slot) {
        return None;
    }
    let allocator = system.find(SystemFile::InodeAlloc(Slot(slot)))?;
    Some((allocator, group))
}

/// The slot and the group that an inode says it came from which lies in no group that is known.
pub(crate) fn missed_group(cx: &Cx<'_>, blkno: BlockNo) -> Option<(u16, BlockNo)> {
    if cx.groups.locate(blkno).is_some() {
        return None;
    }
    home_of(&cx.view.raw(blkno).ok()?, blkno, cx.view)
}

/// The slot and the group that an inode in use says it came from.
pub(crate) fn home_of(block: &[u8], blkno: BlockNo, view: View<'_>) -> Option<(u16, BlockNo)> {
    let inode = inode::in_use(view, block, blkno)?;
    let group = match inode.i_suballoc_loc.get() {
        0 => blkno.0.checked_sub(inode.i_suballoc_bit.get().into())?,
        group => group,
    };
    Some((inode.i_suballoc_slot.get(), BlockNo(group)))
}

/// The parts of the held ranges in `base..base + bits`, as words.
fn held_words(held: &Held, base: u32, bits: u32) -> Vec<(usize, u64)> {
    let end = base.saturating_add(bits);
    let from = held.partition_point(|&(_, held_end)| held_end <= base);
    held.iter()
        .skip(from)
        .take_while(|&&(first, _)| first < end)
        .flat_map(|&(first, held_end)| word_masks(first.max(base) - base, held_end.min(end) - base))
        .collect()
}

/// Compares a group of metadata blocks with the claims on its blocks.
pub(crate) fn metadata(cx: &Cx<'_>, group: &Group) -> Out {
    let mut out = Out::default();
    if group.kind != Kind::Extent {
        return out;
    }
    let (Some(desc), _) = cx.view.inspect::<GroupDesc>(group.blkno) else {
        return out;
    };
    let at = At::within(group.allocator, group.blkno);
    let mut joiner = Joiner::default();
    let mut leaks = Vec::new();
    for (index, mask) in word_masks(0, group.bits) {
        let marked = bitmap_word(desc.bitmap(), index) & mask;
        // The descriptor claims its own bit.
        let claimed = group.claimed_word(index) | u64::from(index == 0);
        let base = u32::try_from(index * 64).unwrap_or(0);
        let unmarked = group.claimed_word(index) & !marked & mask;
        each_bit(unmarked, base, |bit| {
            if let Some(blkno) = group.block_of(bit) {
                let what = what_is(cx, blkno);
                out.find(At::block(blkno), AllocProblem::MetaBitFree { bit, what });
            }
        });
        each_bit(group.doubled_word(index), base, |bit| {
            if let Some(blkno) = group.block_of(bit) {
                let what = what_is(cx, blkno);
                out.find(At::block(blkno), AllocProblem::MetaShared { what });
            }
        });
        joiner.add(base, marked & !claimed, &mut |first, count| {
            leaks.push((first, count))
        });
    }
    joiner.finish(&mut |first, count| leaks.push((first, count)));
    for (first, count) in leaks {
        out.find(at, AllocProblem::MetaLeak { first, count });
    }
    out
}

fn each_bit(mut word: u64, base: u32, mut visit: impl FnMut(u32)) {
    while word != 0 {
        visit(base + word.trailing_zeros());
        word &= word - 1;
    }
}

/// The name of what a claimed block holds, by its signature.
fn what_is(cx: &Cx<'_>, blkno: BlockNo) -> &'static str {
    let Ok(block) = cx.view.raw(blkno) else {
        return "block of metadata";
    };
    match block.get(..5) {
        Some(b"EXBLK") => "extent block",
        Some(b"XATTR") => "xattr block",
        Some(b"DXDIR") => "directory index root",
        Some(b"REFCN") => "refcount block",
        _ => "block of metadata",
    }
}
