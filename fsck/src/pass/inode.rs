//! Inodes: every one in every inode allocator.

use cowfs_format::block::{Checked, MetaBlock, View};
use cowfs_format::error::FaultKind;
use cowfs_format::layout::{
    Dinode, DynFeatures, FileType, GroupDesc, Incompat, InlineData, InodeFlags,
};
use cowfs_format::read::extent::Extent;
use cowfs_format::units::{BlockNo, Slot};
use zerocopy::FromBytes;

use super::extents::{self, Sum, Tree};
use super::system::KINDS;
use super::{index as dx_index, reserved, xattr};
use crate::catalogue::{AllocProblem, At, BlockKind, InodeProblem};
use crate::facts::groups::{Group, Kind};
use crate::facts::{Cx, Out, note_ecc};

/// Looks at all inodes of a group.
pub(crate) fn scan_group(cx: &Cx<'_>, group: &Group) -> Out {
    let mut out = Out::default();
    if group.kind != Kind::Inode {
        return out;
    }
    let (Some(desc), _) = cx.view.inspect::<GroupDesc>(group.blkno) else {
        return out;
    };
    for run in &group.runs {
        cx.view.prefetch(run.blkno, u64::from(run.bits));
    }
    for bit in 1..group.bits {
        let Some(blkno) = group.block_of(bit) else {
            continue;
        };
        if desc.is_set(bit) {
            scan_used(cx, &mut out, group, bit, blkno);
        } else if cx.doubles.is_none() {
            free(cx, &mut out, group, bit, blkno);
        }
    }
    out.coalesce_shares();
    out
}

/// Looks at a block that is marked as free and may hold an inode all the same.
fn free(cx: &Cx<'_>, out: &mut Out, group: &Group, bit: u32, blkno: BlockNo) {
    let at = At::inode(blkno);
    let Ok(block) = cx.view.raw(blkno) else {
        return;
    };
    match inode_in(cx.view, &block).map(|inode| inode.i_blkno.get()) {
        None => {}
        Some(of) if of != blkno.0 => out.find(at, AllocProblem::InodeCopy { bit, of }),
        Some(_) => {
            out.find(at, AllocProblem::InodeBitFree { bit });
            if let Some(inode) = cx.inspect(out, at, blkno, BlockKind::Inode) {
                scan(cx, out, group, bit, &inode);
            }
        }
    }
}

/// The inode in use that a block holds, which may never have been one: blocks that were never used hold
/// anything, so all marks of an inode must be there.
pub(crate) fn in_use<'b>(view: View<'_>, block: &'b [u8], blkno: BlockNo) -> Option<&'b Dinode> {
    inode_in(view, block).filter(|inode| inode.i_blkno.get() == blkno.0)
}

/// The inode in use that a block holds, be it this block's or another's.
fn inode_in<'b>(view: View<'_>, block: &'b [u8]) -> Option<&'b Dinode> {
    let (inode, _) = Dinode::ref_from_prefix(block).ok()?;
    let valid = inode.i_signature == Dinode::SIGNATURE
        && inode.i_fs_generation.get() == view.info().fs_generation.0
        && inode.flags().contains(InodeFlags::VALID);
    valid.then_some(inode)
}

fn scan_used(cx: &Cx<'_>, out: &mut Out, group: &Group, bit: u32, blkno: BlockNo) {
    let at = At::inode(blkno);
    let (inode, faults) = cx.view.inspect::<Dinode>(blkno);
    let unused = match &inode {
        Some(inode) if faults.is_empty() && !inode.flags().contains(InodeFlags::VALID) => {
            Some("holds an inode that was deleted")
        }
        None if matches!(faults.first(), Some(FaultKind::Signature { .. })) => {
            Some("holds no inode")
        }
        _ => None,
    };
    if let Some(why) = unused {
        out.find(at, AllocProblem::InodeBitUnused { bit, why });
        return;
    }
    for fault in &faults {
        out.find(at, BlockKind::Inode.problem(fault));
    }
    let valid = |inode: &Checked<'_, Dinode>| inode.flags().contains(InodeFlags::VALID);
    match inode.filter(|inode| faults.len() <= 1 && valid(inode)) {
        Some(inode) => {
            note_ecc(out, at, BlockKind::Inode.name(), inode.ecc());
            reserved::check(out, at, inode.bytes());
            scan(cx, out, group, bit, &inode);
        }
        None => {
            if let Some(fact) = group.inode(bit) {
                fact.set_damaged();
            }
        }
    }
}

/// Looks at an inode in use: its fields, and all that hangs in it.
fn scan(cx: &Cx<'_>, out: &mut Out, group: &Group, bit: u32, inode: &Checked<'_, Dinode>) {
    let at = At::inode(inode.blkno());
    let flags = inode.flags();
    let file_type = inode.file_type();
    if let Some(fact) = group.inode(bit) {
        fact.set(
            file_type,
            inode.links(),
            flags.contains(InodeFlags::ORPHANED),
        );
    }
    out.inodes += 1;
    origin(out, group, bit, inode);
    if cx.has_quota() {
        out.usage.count(inode, inode.blkno(), cx.view.info().root);
    }
    if inode.i_dtime.get() != 0 {
        let dtime = inode.i_dtime.get();
        out.find(at, InodeProblem::NzDtime { dtime });
    }
    let Some(file_type) = file_type else {
        let mode = inode.i_mode.get();
        out.find(at, InodeProblem::Mode { mode });
        return;
    };
    let shared = refcount_fields(cx, out, inode);
    xattr::scan(cx, out, inode, shared);
    let foreign = foreign_flags(cx, group, inode);
    if !foreign.is_empty() {
        let (found, flags) = (inode.i_flags.get(), foreign.bits());
        out.find(at, InodeProblem::Flags { found, flags });
    }
    let special = InodeFlags::CHAIN | InodeFlags::LOCAL_ALLOC | InodeFlags::DEALLOC;
    if flags.difference(foreign).intersects(special) {
        return;
    }
    if inode.dyn_features().contains(DynFeatures::INLINE_DATA) {
        inline(cx, out, inode, file_type);
    } else if inode.has_extents() {
        data(cx, out, inode, file_type, shared);
    } else if file_type == FileType::Symlink {
        fast_link(out, inode);
    }
    if file_type == FileType::Directory {
        out.dirs.push(inode.blkno());
        dx_index::claim(cx, out, inode);
    }
}

/// The flags of an inode that only files of the volume itself have, when it is none of them.
fn foreign_flags(cx: &Cx<'_>, group: &Group, inode: &Checked<'_, Dinode>) -> InodeFlags {
    let tops = [cx.view.info().root, cx.view.info().system_dir];
    let foreign = match group.slot == Slot::GLOBAL.0 {
        true if tops.contains(&inode.blkno()) => KINDS,
        true => InodeFlags::empty(),
        false => KINDS | InodeFlags::SYSTEM,
    };
    inode.flags().intersection(foreign)
}

/// Compares where the inode says that it came from with where it is.
fn origin(out: &mut Out, group: &Group, bit: u32, inode: &Dinode) {
    let (slot, own_bit) = (inode.i_suballoc_slot.get(), inode.i_suballoc_bit.get());
    let loc = inode.i_suballoc_loc.get();
    let named = if loc == 0 {
        inode.i_blkno.get().wrapping_sub(u64::from(own_bit))
    } else {
        loc
    };
    if slot != group.slot || u32::from(own_bit) != bit || named != group.blkno.0 {
        let blkno = group.block_of(bit).unwrap_or(group.blkno);
        out.find(
            At::inode(blkno),
            InodeProblem::InodeSuballoc {
                slot,
                bit: own_bit,
                expected_slot: group.slot,
                expected_bit: bit,
            },
        );
    }
}

/// Checks the fields of a refcount tree and attaches the inode to it; true when it has one.
fn refcount_fields(cx: &Cx<'_>, out: &mut Out, inode: &Checked<'_, Dinode>) -> bool {
    let at = At::inode(inode.blkno());
    let root = inode.i_refcount_loc.get();
    if !inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
        if root != 0 {
            out.find(at, InodeProblem::RefcountLoc { found: root });
        }
        return false;
    }
    if !cx.view.info().has(Incompat::REFCOUNT_TREE) {
        out.find(at, InodeProblem::RefcountFlag {});
        return false;
    }
    out.attached.push((BlockNo(root), inode.blkno()));
    true
}

/// Whether an inode belongs to the system: it is never deleted to resolve a conflict.
pub(crate) fn is_system(cx: &Cx<'_>, inode: &Checked<'_, Dinode>) -> bool {
    inode.flags().contains(InodeFlags::SYSTEM) && inode.blkno() != cx.view.info().root
}

/// Claims an extent: for its inode alone, or as a share of a refcount tree.
pub(crate) fn claim_extent(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    shared: bool,
    extent: &Extent,
) {
    let first = cx.view.geo().cluster_of(extent.blkno).0;
    if shared && extent.is_refcounted() && cx.doubles.is_none() {
        let root = BlockNo(inode.i_refcount_loc.get());
        out.shares.push((root, first, 1));
        out.shares
            .push((root, first.saturating_add(extent.clusters), -1));
        return;
    }
    cx.claim(
        out,
        inode.blkno(),
        is_system(cx, inode),
        first,
        extent.clusters,
    );
}

fn inline(cx: &Cx<'_>, out: &mut Out, inode: &Checked<'_, Dinode>, file_type: FileType) {
    let at = At::inode(inode.blkno());
    if !cx.view.info().has(Incompat::INLINE_DATA) {
        out.find(at, InodeProblem::InlineFlag {});
    }
    if file_type == FileType::Symlink {
        out.find(at, InodeProblem::LinkFastData {});
    }
    if inode.i_clusters.get() != 0 {
        let found = inode.i_clusters.get();
        out.find(at, InodeProblem::InlineClusters { found });
    }
    let body = inode.body();
    let room = body.len().saturating_sub(size_of::<InlineData>()) as u64;
    let count = InlineData::ref_from_prefix(body).map_or(0, |(head, _)| head.id_count.get());
    if u64::from(count) > room {
        let (found, expected) = (count, room);
        out.find(at, InodeProblem::InlineCount { found, expected });
    }
    let (found, expected) = (inode.i_size.get(), u64::from(count).min(room));
    let wrong = match file_type {
        FileType::Directory => found != expected,
        _ => found > expected,
    };
    if wrong {
        out.find(at, InodeProblem::InlineSize { found, expected });
    }
}

fn fast_link(out: &mut Out, inode: &Checked<'_, Dinode>) {
    let at = At::inode(inode.blkno());
    match inode.body().iter().position(|&byte| byte == 0) {
        None => out.find(at, InodeProblem::LinkNullterm {}),
        Some(expected) => link_size(out, at, inode.i_size.get(), expected as u64),
    }
}

fn link_size(out: &mut Out, at: At, found: u64, expected: u64) {
    if found != expected {
        out.find(at, InodeProblem::LinkSize { found, expected });
    }
}

fn data(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    file_type: FileType,
    shared: bool,
) {
    let sparse = cx.view.info().has(Incompat::SPARSE_ALLOC);
    let system = is_system(cx, inode);
    let regular = file_type == FileType::Regular && !system;
    let tree = Tree {
        owner: inode.blkno(),
        root: inode.blkno(),
        space: inode.body(),
        last_eb: inode.i_last_eb_blk.get(),
        holes: sparse && regular,
        shared,
        to_blocks: false,
    };
    let mut first = None;
    let sum = extents::walk(cx, out, tree, &mut |out, extent| {
        first.get_or_insert(extent.blkno);
        claim_extent(cx, out, inode, shared, extent);
    });
    if sum.broken {
        return;
    }
    sizes(cx, out, inode, file_type, &sum, sparse && regular);
    if file_type == FileType::Symlink {
        slow_link(cx, out, inode, &sum, first);
    }
}

fn sizes(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    file_type: FileType,
    sum: &Sum,
    sparse: bool,
) {
    let at = At::inode(inode.blkno());
    let geo = cx.view.geo();
    let found = inode.i_clusters.get();
    if sparse && u64::from(found) != sum.clusters {
        let expected = sum.clusters;
        out.find(at, InodeProblem::SparseClusters { found, expected });
    } else if !sparse && u64::from(found) != sum.end {
        let expected = sum.end;
        out.find(at, InodeProblem::Clusters { found, expected });
    }
    let (size, bytes) = (inode.i_size.get(), sum.end << geo.cluster_bits());
    let block = geo.block_bytes() as u64;
    let mut wrong = |limit, why| {
        out.find(
            at,
            InodeProblem::Size {
                found: size,
                limit,
                why,
            },
        )
    };
    match file_type {
        FileType::Directory if size == 0 || sum.end == 0 => {
            out.find(at, crate::catalogue::DirProblem::Zero {});
        }
        FileType::Directory if !size.is_multiple_of(block) => {
            wrong(block, "a directory has whole blocks");
        }
        FileType::Directory | FileType::Regular if !sparse && size > bytes => {
            wrong(bytes, "it is more than is allocated");
        }
        _ => {}
    }
}

fn slow_link(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    sum: &Sum,
    first: Option<BlockNo>,
) {
    let at = At::inode(inode.blkno());
    let size = inode.i_size.get();
    let needed = cx.view.geo().clusters_for(size.saturating_add(1));
    if sum.clusters < needed {
        let (found, expected) = (sum.clusters, needed);
        out.find(at, InodeProblem::LinkBlocks { found, expected });
        return;
    }
    // A target and its end take at most 4096 bytes, and a cluster has no fewer.
    let blocks = 4096 >> cx.view.geo().block_bits();
    let Some(Ok(target)) = first.map(|blkno| cx.view.run(blkno, blocks)) else {
        return;
    };
    match target.iter().position(|&byte| byte == 0) {
        None => out.find(at, InodeProblem::LinkNullterm {}),
        Some(expected) => link_size(out, at, size, expected as u64),
    }
}
