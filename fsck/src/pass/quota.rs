//! Quota files: the tree of each global file, the slots' files, and the usage that they state
//! against what the inodes use.

use std::collections::BTreeMap;

use cowfs_format::device::Device;
use cowfs_format::error::Error;
use cowfs_format::layout::{DiskDqblk, GLOBAL_QUOTA_MAGIC, LOCAL_QUOTA_MAGIC, RoCompat};
use cowfs_format::read::quota::{GlobalQuota, LocalQuota, Met};
use cowfs_format::units::Slot;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::SystemFile;

use super::system::System;
use crate::catalogue::{At, VolumeProblem};
use crate::facts::usage::{Usage, Used};
use crate::facts::{Cx, Out, why};

/// Who is accounted for, with the global file; by the number of the kind.
pub(crate) const KINDS: [(&str, RoCompat, SystemFile); 2] = [
    ("user", RoCompat::USRQUOTA, SystemFile::UserQuota),
    ("group", RoCompat::GRPQUOTA, SystemFile::GroupQuota),
];

/// The file of a slot.
pub(crate) const fn local_file(kind: usize, slot: Slot) -> SystemFile {
    if kind == 0 {
        SystemFile::LocalUserQuota(slot)
    } else {
        SystemFile::LocalGroupQuota(slot)
    }
}

/// Checks all quota files.
pub(crate) fn scan<D: Device>(
    volume: &Volume<D>,
    cx: &Cx<'_>,
    system: &System,
    usage: &Usage,
    out: &mut Out,
) {
    let info = volume.view().info();
    // Changes that are on their way are in no global file yet.
    let journals = volume.journals().iter();
    let mut settled = journals
        .map(|state| state.journal.as_ref())
        .all(|journal| journal.is_ok_and(|journal| !journal.dirty));
    for (kind, (_, feature, _)) in KINDS.iter().enumerate() {
        if info.features.ro_compat.contains(*feature) {
            for slot in (0..info.max_slots).map(Slot) {
                settled &= local(cx, system, out, kind, slot);
            }
        }
    }
    for (kind, (who, feature, file)) in KINDS.into_iter().enumerate() {
        if info.features.ro_compat.contains(feature)
            && let Some(entries) = global(cx, system, out, kind, file)
            && settled
        {
            compare(cx, system, out, (kind, who, file), &entries, usage);
        }
    }
}

/// Checks the file of a slot; whether it holds nothing that is not merged.
fn local(cx: &Cx<'_>, system: &System, out: &mut Out, kind: usize, slot: Slot) -> bool {
    let file = local_file(kind, slot);
    let Some(inode) = system.inode(cx.view, file) else {
        // It was told that it is missing, or lost.
        return true;
    };
    let magic = LOCAL_QUOTA_MAGIC.get(kind).copied().unwrap_or_default();
    let read = LocalQuota::open(cx.view, inode.blkno(), magic).and_then(|quota| {
        quota.changes()?;
        Ok(quota)
    });
    match read {
        Ok(quota) => quota.is_clean(),
        Err(error) => {
            invalid(out, At::inode(inode.blkno()), file, &error);
            true
        }
    }
}

fn invalid(out: &mut Out, at: At, file: SystemFile, error: &Error) {
    let (name, why) = (file.name(), why(error));
    out.find(at, VolumeProblem::QuotaInvalid { name, why });
}

/// Checks a global file; its entries, when all of it can be read.
fn global(
    cx: &Cx<'_>,
    system: &System,
    out: &mut Out,
    kind: usize,
    file: SystemFile,
) -> Option<BTreeMap<u32, DiskDqblk>> {
    let inode = system.inode(cx.view, file)?;
    let at = At::inode(inode.blkno());
    let magic = GLOBAL_QUOTA_MAGIC.get(kind).copied().unwrap_or_default();
    let quota = match GlobalQuota::open(cx.view, inode.blkno(), magic) {
        Ok(quota) => quota,
        Err(error) => {
            invalid(out, at, file, &error);
            return None;
        }
    };
    let mut entries = BTreeMap::new();
    let (mut wrong, mut twice) = (None, None);
    quota.walk(&mut |met| match met {
        Met::Fault(error) => {
            wrong.get_or_insert(error);
        }
        Met::Entry(entry) => {
            let id = entry.dqb_id.get();
            if entries.insert(id, *entry).is_some() {
                twice.get_or_insert(id);
            }
        }
        Met::Tree(_) | Met::Leaf(_) => {}
    });
    if let Some(error) = wrong {
        invalid(out, at, file, &error);
        return None;
    }
    if let Some(id) = twice {
        let (name, why) = (file.name(), format!("{id} has more than one entry"));
        out.find(at, VolumeProblem::QuotaInvalid { name, why });
        return None;
    }
    Some(entries)
}

/// Compares the usage that a file states with what the inodes use.
///
/// The driver charges the clusters of a directory's index to the owner that it had when they were
/// taken, so that there may be as many more as all indexes have. Of number 0, which has no limits
/// that anybody heeds, new volumes do not count all.
fn compare(
    cx: &Cx<'_>,
    system: &System,
    out: &mut Out,
    (kind, who, file): (usize, &'static str, SystemFile),
    entries: &BTreeMap<u32, DiskDqblk>,
    usage: &Usage,
) {
    let Some(blkno) = system.find(file) else {
        return;
    };
    let bits = cx.view.geo().cluster_bits();
    let slack = usage.index_clusters() << bits;
    let used: BTreeMap<u32, Used> = usage.of(kind).collect();
    let ids = entries.keys().chain(used.keys()).copied();
    let ids: std::collections::BTreeSet<u32> = ids.filter(|id| *id != 0).collect();
    for id in ids {
        let stated = entries.get(&id);
        let bytes = stated.map_or(0, |entry| entry.dqb_curspace.get());
        let inodes = stated.map_or(0, |entry| entry.dqb_curinodes.get());
        let counted = used.get(&id).copied().unwrap_or_default();
        let least = counted.clusters << bits;
        if inodes == counted.inodes && (least..=least + slack).contains(&bytes) {
            continue;
        }
        out.find(
            At::inode(blkno),
            VolumeProblem::QuotaUsage {
                who,
                id,
                bytes,
                inodes,
                expected_bytes: (counted.clusters + counted.index) << bits,
                expected_inodes: counted.inodes,
            },
        );
    }
}
