//! The superblock and its backups, the journals, the slot map.

use cowfs_format::block::{EccState, MetaBlock, View, VolumeInfo};
use cowfs_format::device::Device;
use cowfs_format::ecc::{self, Verdict};
use cowfs_format::layout::jbd2::{INCOMPAT_64BIT, INCOMPAT_REVOKE};
use cowfs_format::layout::{
    Compat, Dinode, Features, Field, GroupDesc, HEARTBEAT_BLOCKS, Incompat, SUPER_BLOCK_BLKNO,
    SUPER_BLOCK_BODY, SuperBlock,
};
use cowfs_format::read::{extent, inode, slot_map};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::SystemFile;
use zerocopy::FromBytes;

use super::system::System;
use crate::catalogue::{At, VolumeProblem};
use crate::facts::{Cx, Out, note_ecc, why};

/// Fields of the superblock that may differ in backups.
const LOOSE: [&str; 5] = [
    "s_mnt_count",
    "s_state",
    "s_errors",
    "s_lastcheck",
    "s_max_mnt_count",
];

/// Checks the superblock against the volume, and the backups against the superblock.
pub(crate) fn scan(cx: &Cx<'_>, system: &System, out: &mut Out) {
    let view = cx.view;
    let info = view.info();
    let at = At::block(info.superblock);
    let Ok(block) = view.raw(info.superblock) else {
        return;
    };
    let mut block = block.into_owned();
    correct(cx, out, at, "superblock", &mut block);
    super::reserved::check(out, at, &block);
    let unfinished = Incompat::RESIZE_INPROG | Incompat::TUNEFS_INPROG;
    let bits = info.features.incompat.intersection(unfinished).bits();
    if bits != 0 {
        out.find(at, VolumeProblem::TunefsUnfinished { bits });
    }
    let expected = view.geo().group_block(0);
    if info.first_cluster_group != expected {
        let (found, expected) = (info.first_cluster_group.0, expected.0);
        out.find(at, VolumeProblem::FirstGroup { found, expected });
    }
    let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
    if let Ok((sb, _)) = SuperBlock::ref_from_prefix(body)
        && sb.s_state.get() & 1 != 0
    {
        out.find(at, VolumeProblem::ErrorState {});
    }
    if let Some(bitmap) = system.inode(view, SystemFile::GlobalBitmap) {
        let (superblock, bitmap) = (view.geo().clusters(), bitmap.i_clusters.get());
        if superblock != bitmap {
            out.find(at, VolumeProblem::SuperblockClusters { superblock, bitmap });
        }
    }
    if info.superblock.0 != SUPER_BLOCK_BLKNO {
        primary(cx, out, &block);
    }
    if info.features.compat.contains(Compat::BACKUP_SB) {
        backups(cx, out, &block);
    }
}

/// Groups of clusters that are asked for the generation of the volume.
const GROUPS_ASKED: u32 = 16;
/// Inodes behind that of the system directory that are asked: the files of the volume itself.
const INODES_ASKED: u64 = 24;

/// The generation on which the first inodes of the volume and groups of its clusters agree, three at least,
/// when the superblock has another one that next to none of them has.
pub(crate) fn generation_of_the_rest(view: View<'_>) -> Option<u32> {
    let info = view.info();
    let inode = |blkno: BlockNo| {
        let block = view.raw(blkno).ok()?;
        let (head, _) = Dinode::ref_from_prefix(&block).ok()?;
        let own = head.i_signature == Dinode::SIGNATURE && head.i_blkno.get() == blkno.0;
        own.then(|| head.i_fs_generation.get())
    };
    let group = |blkno: BlockNo| {
        let block = view.raw(blkno).ok()?;
        let (head, _) = GroupDesc::ref_from_prefix(&block).ok()?;
        let own = head.bg_signature == GroupDesc::SIGNATURE && head.bg_blkno.get() == blkno.0;
        own.then(|| head.bg_generation.get())
    };
    let groups = 0..view.geo().cluster_groups().min(GROUPS_ASKED);
    let files = (1..=INODES_ASKED).map(|nth| info.system_dir.plus(nth));
    let witnesses: Vec<u32> = [info.root, info.system_dir]
        .into_iter()
        .chain(files)
        .filter_map(inode)
        .chain(groups.filter_map(|number| group(view.geo().group_block(number))))
        .collect();
    let votes = |generation: u32| {
        witnesses
            .iter()
            .filter(|found| **found == generation)
            .count()
    };
    let agreed = witnesses
        .iter()
        .copied()
        .max_by_key(|found| votes(*found))?;
    let many = votes(agreed) >= 3 && votes(agreed) * 2 > witnesses.len();
    (many && votes(info.fs_generation.0) * 4 <= votes(agreed)).then_some(agreed)
}

/// Tells of a superblock of another generation than everything else.
pub(crate) fn stale(cx: &Cx<'_>, expected: u32, out: &mut Out) {
    let info = cx.view.info();
    let found = info.fs_generation.0;
    let at = At::block(info.superblock);
    out.find(at, VolumeProblem::SuperblockGen { found, expected });
}

/// Puts right what the check of a superblock tells, and notes it.
fn correct(cx: &Cx<'_>, out: &mut Out, at: At, what: &'static str, block: &mut [u8]) {
    if cx.view.has_ecc() {
        let state = put_right(block, at.block.unwrap_or_default());
        note_ecc(out, at, what, state);
    }
}

/// Puts right what the check of a superblock tells; the check is off where it tells nothing.
pub(crate) fn put_right(block: &mut [u8], place: BlockNo) -> EccState {
    match ecc::verify(block, 0x80) {
        Verdict::Good => EccState::Clean,
        Verdict::OneBit { bit } => {
            ecc::flip(block, bit);
            EccState::Corrected { bit }
        }
        Verdict::Bad => match VolumeInfo::mended(block, place) {
            Some((_, flips)) => {
                flips.apply(block);
                EccState::Mended { flips }
            }
            None => EccState::Off,
        },
    }
}

/// Looks at the primary superblock of a volume that was opened through a backup.
fn primary(cx: &Cx<'_>, out: &mut Out, backup: &[u8]) {
    let blkno = BlockNo(SUPER_BLOCK_BLKNO);
    let why = match cx.view.raw(blkno) {
        Err(error) => why(&error),
        Ok(block) => match VolumeInfo::from_superblock(&block, blkno) {
            Err(error) => why(&error),
            Ok(_) => match differing(backup, &block) {
                Some(field) => format!("it differs in {field}"),
                None => return,
            },
        },
    };
    out.find(At::block(blkno), VolumeProblem::RecoverBackup { why });
}

/// Claims the clusters of the backups and compares each with the superblock.
fn backups(cx: &Cx<'_>, out: &mut Out, primary: &[u8]) {
    let view = cx.view;
    let geo = view.geo();
    for (number, offset) in (1u32..).zip(geo.backup_offsets()) {
        let blkno = BlockNo(offset >> geo.block_bits());
        cx.claim(
            out,
            view.info().superblock,
            true,
            geo.cluster_of(blkno).0,
            1,
        );
        if blkno == view.info().superblock {
            continue;
        }
        let at = At::block(blkno);
        let Ok(block) = view.raw(blkno) else {
            let what = "backup superblock";
            out.find(at, VolumeProblem::Unreadable { what });
            continue;
        };
        let mut block = block.into_owned();
        correct(cx, out, at, "backup superblock", &mut block);
        if let Err(error) = VolumeInfo::from_superblock(&block, blkno) {
            let why = why(&error);
            out.find(at, VolumeProblem::BackupInvalid { number, why });
            continue;
        }
        let generation = |block: &[u8]| {
            Dinode::ref_from_prefix(block).map_or((0, 0), |(head, _)| {
                (head.i_fs_generation.get(), head.i_clusters.get())
            })
        };
        let field = if generation(primary) == generation(&block) {
            differing(primary, &block)
        } else {
            Some("i_fs_generation or i_clusters")
        };
        if let Some(field) = field {
            out.find(at, VolumeProblem::BackupStale { number, field });
        }
    }
}

/// The first field of the superblock body that differs and must not.
fn differing(primary: &[u8], backup: &[u8]) -> Option<&'static str> {
    let body = |block: &'_ [u8], field: &Field| {
        field
            .bytes(block.get(SUPER_BLOCK_BODY..).unwrap_or_default())
            .to_vec()
    };
    // A backup carries the mark that there are backups; the primary was asked for it already.
    SuperBlock::FIELDS
        .iter()
        .filter(|field| !LOOSE.contains(&field.name))
        .find(|field| body(primary, field) != body(backup, field))
        .map(|field| field.name)
}

/// Features that a journal may have.
pub(crate) const KNOWN_INCOMPAT: u32 = INCOMPAT_REVOKE | INCOMPAT_64BIT;

/// Checks the journals and tells what they hold.
pub(crate) fn journals<D: Device>(volume: &Volume<D>, system: &System, out: &mut Out) {
    let view = volume.view();
    let sizes: Vec<Option<u32>> = volume
        .journals()
        .iter()
        .map(|state| {
            let inode = system.inode(view, SystemFile::Journal(state.slot))?;
            Some(inode.i_clusters.get())
        })
        .collect();
    let largest = sizes.iter().flatten().copied().max().unwrap_or(0);
    let features = volume
        .journals()
        .iter()
        .filter_map(|state| state.journal.as_ref().ok())
        .map(|journal| journal.superblock.s_feature_incompat.get() & KNOWN_INCOMPAT)
        .fold(0, |all, features| all | features);
    for (state, size) in volume.journals().iter().zip(&sizes) {
        let slot = state.slot.0;
        let Some(blkno) = system.find(SystemFile::Journal(state.slot)) else {
            continue;
        };
        let at = At::inode(blkno);
        if let Some(clusters) = size.filter(|size| *size < largest) {
            out.find(
                at,
                VolumeProblem::JournalTooSmall {
                    slot,
                    clusters,
                    largest,
                },
            );
        }
        let journal = match &state.journal {
            Ok(journal) => journal,
            Err(error) => {
                let head = 1024u64.div_ceil(view.geo().block_bytes() as u64);
                if !unreadable(view, out, blkno, head, "journal superblock") {
                    let why = why(error);
                    out.find(at, VolumeProblem::JournalInvalid { slot, why });
                }
                continue;
            }
        };
        let sb = &journal.superblock;
        let unknown = (sb.s_feature_incompat.get() & !KNOWN_INCOMPAT)
            | sb.s_feature_compat.get()
            | sb.s_feature_ro_compat.get();
        if unknown != 0 {
            out.find(
                at,
                VolumeProblem::JournalUnknownFeature {
                    slot,
                    features: unknown,
                },
            );
        }
        let missing = features & !sb.s_feature_incompat.get();
        if missing != 0 {
            out.find(
                at,
                VolumeProblem::JournalMissingFeature {
                    slot,
                    features: missing,
                },
            );
        }
        if state.pending_transactions > 0 {
            let (transactions, blocks) = (state.pending_transactions, state.pending_blocks as u64);
            out.find(
                at,
                VolumeProblem::JournalPending {
                    slot,
                    transactions,
                    blocks,
                },
            );
        } else if journal.dirty && volume.owes(state.slot).unwrap_or(false) {
            // One that owes nothing is only marked, and damage that hides it is told elsewhere.
            out.find(at, VolumeProblem::SlotUnrecovered { slot });
        }
    }
}

/// Checks the slot map, and that nobody holds a slot that was left cleanly.
pub(crate) fn slots<D: Device>(volume: &Volume<D>, cx: &Cx<'_>, system: &System, out: &mut Out) {
    let Some(blkno) = system.find(SystemFile::SlotMap) else {
        return;
    };
    let at = At::inode(blkno);
    let Some(inode) = system.inode(cx.view, SystemFile::SlotMap) else {
        return;
    };
    let extended = cx.view.info().has(Incompat::EXTENDED_SLOT_MAP);
    let needed = u64::from(cx.view.info().max_slots) * if extended { 8 } else { 2 };
    let size = inode.i_size.get();
    if size < needed {
        let why = format!("it has {size} bytes for {needed} bytes of slots");
        out.find(at, VolumeProblem::SlotMapInvalid { why });
        return;
    }
    let nodes = match slot_map::read(cx.view, blkno) {
        Ok(nodes) => nodes,
        Err(error) => {
            let blocks = cx.view.geo().blocks_for(needed);
            if !unreadable(cx.view, out, blkno, blocks, "slot map") {
                let why = why(&error);
                out.find(at, VolumeProblem::SlotMapInvalid { why });
            }
            return;
        }
    };
    for (state, node) in volume.journals().iter().zip(nodes) {
        let clean = state.journal.as_ref().is_ok_and(|journal| !journal.dirty);
        if let Some(node) = node.filter(|_| clean) {
            let slot = state.slot.0;
            out.find(at, VolumeProblem::SlotHeld { slot, node });
        }
    }
}

/// Checks that the heartbeat file has a block for each node that there can be.
pub(crate) fn heartbeat(cx: &Cx<'_>, system: &System, out: &mut Out) {
    let Some(inode) = system.inode(cx.view, SystemFile::Heartbeat) else {
        return;
    };
    if !inode.has_extents() {
        return;
    }
    let (extents, lost) = extent::salvage(cx.view, inode.blkno(), inode.body());
    if !lost.is_empty() {
        // The tree is looked at like that of any inode.
        return;
    }
    let bpc = cx.view.geo().blocks_per_cluster();
    let found = extents
        .first()
        .map_or(0, |first| u64::from(first.clusters) * bpc);
    let found = found.min(inode.i_size.get() >> cx.view.geo().block_bits());
    if found < HEARTBEAT_BLOCKS {
        let expected = HEARTBEAT_BLOCKS;
        out.find(
            At::inode(inode.blkno()),
            VolumeProblem::HeartbeatInvalid { found, expected },
        );
    }
}

/// Looks for blocks that the device fails to read among the first blocks of a file; whether there are any.
fn unreadable(
    view: View<'_>,
    out: &mut Out,
    inode: BlockNo,
    mut blocks: u64,
    what: &'static str,
) -> bool {
    let extents = inode::read(view, inode).and_then(|inode| inode.extents(view));
    let mut any = false;
    for extent in extents.unwrap_or_default() {
        let own = (u64::from(extent.clusters) * view.geo().blocks_per_cluster()).min(blocks);
        blocks -= own;
        for blkno in (0..own).map(|i| extent.blkno.plus(i)) {
            if view.raw(blkno).is_err() {
                any = true;
                let at = At::within(inode, blkno);
                out.find(at, VolumeProblem::Unreadable { what });
            }
        }
    }
    any
}

/// Whether the superblock says that a check is due, or the volume was not left cleanly.
pub(crate) fn needs_check<D: Device>(volume: &Volume<D>) -> bool {
    let view = volume.view();
    let unfinished = Incompat::RESIZE_INPROG | Incompat::TUNEFS_INPROG;
    let features: Features = view.info().features;
    let error = view.raw(view.info().superblock).ok().is_none_or(|block| {
        let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
        SuperBlock::ref_from_prefix(body).map_or(true, |(sb, _)| sb.s_state.get() & 1 != 0)
    });
    let dirty = volume
        .journals()
        .iter()
        .any(|state| state.journal.as_ref().map_or(true, |journal| journal.dirty));
    error || dirty || features.incompat.intersects(unfinished)
}
