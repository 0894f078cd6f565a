//! What a slot that was not left cleanly still owes, settled: the window of its local alloc is given
//! back, its truncate log carried out, files that were removed while in use are deleted, and its
//! changes of quota merged. A mount does the same.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use super::release::{delete_inode, unmap};
use crate::error::{FaultKind, Result};
use crate::layout::{
    DINODE_HEAD, Dinode, FileType, InodeFlags, LocalAlloc, TruncateLog, TruncateRec,
};
use crate::read::{dir, inode};
use crate::txn::{Timestamp, Txn};
use crate::units::{BlockNo, ClusterNo, Slot, low32};
use crate::volume::system::{self, SystemFile};

/// Names of files that are in use and only lend their end to a direct write begin with this.
const DIRECT: &[u8] = b"dio-";

/// Settles what a slot owes, but for its orphans: see [`remove_orphan`].
///
/// # Errors
/// A file of the slot is damaged.
pub fn settle(txn: &mut Txn<'_>, slot: Slot, now: Timestamp) -> Result<()> {
    window(txn, slot)?;
    log(txn, slot)?;
    direct_writes(txn, slot, now)?;
    txn.merge_local_quotas(slot)
}

/// Frees what a slot has set aside and not handed out.
fn window(txn: &mut Txn<'_>, slot: Slot) -> Result<()> {
    let blkno = system::find(txn.view(), SystemFile::LocalAlloc(slot))?;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    {
        let inode = inode::read(txn.view(), blkno)?;
        let total = inode.bitmap_total();
        let Ok((head, bitmap)) = LocalAlloc::ref_from_prefix(inode.body()) else {
            return Err(FaultKind::OutOfVolume.at(blkno).into());
        };
        let first = head.la_bm_off.get();
        let room = low32(bitmap.len() as u64 * 8);
        let inside = first.checked_add(total);
        if total > room || inside.is_none_or(|end| end > txn.info().geo.clusters()) {
            let rule = "the window must lie in the volume";
            let kind = FaultKind::Field {
                field: "la_bm_off",
                value: first.into(),
                rule,
            };
            return Err(kind.at(blkno).into());
        }
        for bit in 0..total {
            let set = bitmap
                .get(crate::units::index(u64::from(bit) / 8))
                .is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
            match runs.last_mut() {
                _ if set => {}
                Some((start, count)) if *start + *count == first + bit => *count += 1,
                _ => runs.push((first + bit, 1)),
            }
        }
    }
    for (first, count) in runs {
        txn.free_clusters_at_commit(ClusterNo(first), count);
    }
    let mut inode = txn.edit::<Dinode>(blkno)?;
    if inode.id1_high.get() == 0 {
        return Ok(());
    }
    inode.id1_low = 0.into();
    inode.id1_high = 0.into();
    let body = inode.bytes_mut().get_mut(DINODE_HEAD..).unwrap_or_default();
    if let Ok((head, bitmap)) = LocalAlloc::mut_from_prefix(body) {
        head.la_bm_off = 0.into();
        bitmap.fill(0);
    }
    Ok(())
}

/// Frees what a slot has noted to be freed.
fn log(txn: &mut Txn<'_>, slot: Slot) -> Result<()> {
    let blkno = system::find(txn.view(), SystemFile::TruncateLog(slot))?;
    let mut records = Vec::new();
    let mut inode = txn.edit::<Dinode>(blkno)?;
    let body = inode.bytes_mut().get_mut(DINODE_HEAD..).unwrap_or_default();
    if let Ok((head, rest)) = TruncateLog::mut_from_prefix(body) {
        let used = usize::from(head.tl_used.get()) * size_of::<TruncateRec>();
        for record in rest
            .chunks_exact_mut(size_of::<TruncateRec>())
            .take(used / 8)
        {
            if let Ok(record) = TruncateRec::read_from_bytes(record) {
                records.push((record.t_start.get(), record.t_clusters.get()));
            }
            record.fill(0);
        }
        head.tl_used = 0.into();
    }
    for (start, count) in records {
        if start != 0 {
            txn.free_clusters_at_commit(ClusterNo(start), count);
        }
    }
    Ok(())
}

/// The names of a slot's orphan directory, with the inodes that they lead to.
fn orphans(txn: &Txn<'_>, directory: BlockNo) -> Result<Vec<(Vec<u8>, BlockNo)>> {
    let view = txn.view();
    let inode = inode::read(view, directory)?;
    let mut found = Vec::new();
    dir::for_each_entry(view, &inode, &mut |entry| {
        if !matches!(entry.name, b"." | b"..") {
            found.push((entry.name.to_vec(), entry.inode));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Takes back what direct writes that did not come to their end have set aside behind the end of
/// their files.
fn direct_writes(txn: &mut Txn<'_>, slot: Slot, now: Timestamp) -> Result<()> {
    let directory = system::find(txn.view(), SystemFile::OrphanDir(slot))?;
    for (name, blkno) in orphans(txn, directory)? {
        if !name.starts_with(DIRECT) {
            continue;
        }
        let (size, has_extents) = {
            let dinode = inode::read(txn.view(), blkno)?;
            (dinode.i_size.get(), dinode.has_extents())
        };
        if has_extents {
            let end = low32(txn.info().geo.clusters_for(size));
            unmap(txn, blkno, end, u32::MAX)?;
        }
        let mut dinode = txn.edit::<Dinode>(blkno)?;
        let flags = dinode.flags().difference(InodeFlags::DIO_ORPHANED);
        dinode.i_flags = flags.bits().into();
        dinode.i_dio_orphaned_slot = 0.into();
        txn.remove_name(directory, &name, now)?;
    }
    Ok(())
}

/// Deletes an inode that waits in a slot's orphan directory, with all that belongs to it.
///
/// # Errors
/// It does not wait there, or a part of it is damaged.
pub fn remove_orphan(txn: &mut Txn<'_>, slot: Slot, blkno: BlockNo, now: Timestamp) -> Result<()> {
    let directory = system::find(txn.view(), SystemFile::OrphanDir(slot))?;
    let names = orphans(txn, directory)?;
    let name = names
        .into_iter()
        .find(|(name, orphan)| *orphan == blkno && !name.starts_with(DIRECT));
    let dinode = inode::read(txn.view(), blkno)?;
    let is_dir = dinode.file_type() == Some(FileType::Directory);
    let waits = dinode.flags().contains(InodeFlags::ORPHANED);
    drop(dinode);
    let (Some((name, _)), true) = (name, waits) else {
        let rule = "it must wait in an orphan directory, and say so";
        let kind = FaultKind::Field {
            field: "i_flags",
            value: blkno.0,
            rule,
        };
        return Err(kind.at(blkno).into());
    };
    txn.remove_name(directory, &name, now)?;
    if is_dir {
        let mut dinode = txn.edit::<Dinode>(directory)?;
        let links = dinode.links().saturating_sub(1);
        dinode.set_links(links);
    }
    delete_inode(txn, blkno, now)
}
