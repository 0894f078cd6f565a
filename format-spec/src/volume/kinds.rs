//! What a block is by its place in the volume, for blocks that do not say it themselves.

use crate::block::View;
use crate::dump::BlockKind;
use crate::error::Result;
use crate::layout::{GLOBAL_QUOTA_MAGIC, Incompat, LOCAL_QUOTA_MAGIC, RoCompat};
use crate::read::inode;
use crate::read::journal::Journal;
use crate::read::quota::{GlobalQuota, LocalQuota, Role};
use crate::units::{BlockNo, Slot};
use crate::volume::system::{self, SystemFile};

/// What a block is: what it says of itself, or where it lies. Damage to the files asked for their
/// blocks only makes the answer poorer.
#[must_use]
pub fn kind_of(view: View<'_>, blkno: BlockNo, bytes: &[u8]) -> BlockKind {
    match BlockKind::detect(bytes) {
        BlockKind::JournalDescriptor(_) => {
            form(view, blkno).map_or_else(|| BlockKind::detect(bytes), BlockKind::JournalDescriptor)
        }
        BlockKind::JournalRevoke(_) => {
            form(view, blkno).map_or_else(|| BlockKind::detect(bytes), BlockKind::JournalRevoke)
        }
        BlockKind::Raw => by_place(view, blkno).unwrap_or(BlockKind::Raw),
        other => other,
    }
}

/// The form of the log in which a block lies.
fn form(view: View<'_>, blkno: BlockNo) -> Option<crate::layout::jbd2::LogForm> {
    let journals = slots(view).filter_map(|slot| {
        let inode = system::find(view, SystemFile::Journal(slot)).ok()?;
        Journal::open(view, inode).ok()
    });
    journals
        .into_iter()
        .find(|journal| journal.contains(blkno))
        .map(|journal| journal.form())
}

fn slots(view: View<'_>) -> impl Iterator<Item = Slot> {
    (0..view.info().max_slots).map(Slot)
}

fn by_place(view: View<'_>, blkno: BlockNo) -> Option<BlockKind> {
    let lies_in = |file: SystemFile| lies_in(view, file, blkno).unwrap_or(false);
    if lies_in(SystemFile::SlotMap) {
        return Some(if view.info().has(Incompat::EXTENDED_SLOT_MAP) {
            BlockKind::SlotMapExtended
        } else {
            BlockKind::SlotMap
        });
    }
    if lies_in(SystemFile::Heartbeat) {
        return Some(BlockKind::Heartbeat);
    }
    let features = view.info().features.ro_compat;
    let quotas = [
        (RoCompat::USRQUOTA, SystemFile::UserQuota, 0),
        (RoCompat::GRPQUOTA, SystemFile::GroupQuota, 1),
    ];
    for (feature, file, which) in quotas {
        if !features.contains(feature) {
            continue;
        }
        if lies_in(file) {
            let inode = system::find(view, file).ok()?;
            let quota = GlobalQuota::open(view, inode, *GLOBAL_QUOTA_MAGIC.get(which)?).ok()?;
            return quota.role(blkno).and_then(kind_of_role);
        }
        for slot in slots(view) {
            let file = match which {
                0 => SystemFile::LocalUserQuota(slot),
                _ => SystemFile::LocalGroupQuota(slot),
            };
            if lies_in(file) {
                let inode = system::find(view, file).ok()?;
                let quota = LocalQuota::open(view, inode, *LOCAL_QUOTA_MAGIC.get(which)?).ok()?;
                return quota.role(blkno).and_then(kind_of_role);
            }
        }
    }
    None
}

const fn kind_of_role(role: Role) -> Option<BlockKind> {
    Some(match role {
        Role::Info => BlockKind::QuotaInfo,
        Role::Tree => BlockKind::QuotaTree,
        Role::Leaf => BlockKind::QuotaLeaf,
        Role::LocalInfo => BlockKind::QuotaLocalInfo,
        Role::Chunk => BlockKind::QuotaChunk,
        Role::Changes => BlockKind::QuotaChanges,
        Role::Unused => return None,
    })
}

/// Whether a block is part of a system file.
fn lies_in(view: View<'_>, file: SystemFile, blkno: BlockNo) -> Result<bool> {
    let inode = inode::read(view, system::find(view, file)?)?;
    let bpc = view.geo().blocks_per_cluster();
    Ok(inode.extents(view)?.iter().any(|e| {
        let blocks = u64::from(e.clusters).saturating_mul(bpc);
        e.blkno <= blkno && blkno.0 - e.blkno.0 < blocks
    }))
}
