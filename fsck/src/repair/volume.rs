//! Superblocks, and what the system files are marked as.

use cowfs_format::error::Result;
use cowfs_format::layout::{
    Compat, Dinode, Field, InodeFlags, SUPER_BLOCK_BLKNO, SUPER_BLOCK_BODY, SuperBlock,
};
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::SystemFile;
use zerocopy::FromBytes;

use super::stage::{Stage, cannot};
use super::{block, contents, extents, journal, names, quota, settle, system};
use crate::catalogue::{At, VolumeProblem};
use crate::pass::superblock::KNOWN_INCOMPAT;
use crate::pass::system::{KINDS, wanted};

/// Repairs a problem of the volume as a whole.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &VolumeProblem) -> Result<()> {
    use VolumeProblem as P;
    match problem {
        P::BadCrc { what } => block::stamp(stage, at, what),
        P::EccOneBit { what, .. } => block::flip(stage, at, what),
        P::Unreadable { what } => block::rewrite(stage, at, what),
        P::EccTwoBits { what, bits } | P::EccBurst { what, bits } => {
            block::mend(stage, at, what, bits)
        }
        P::EccOfCheck { what, bit } => block::mend(stage, at, what, &[*bit]),
        P::EccParity { what } => block::stamp(stage, at, what),
        P::Reserved { .. } => block::clear_reserved(stage, at),
        P::SuperblockClusters { superblock, .. } => bitmap_clusters(stage, *superblock),
        P::SuperblockGen { expected, .. } => stage.edit_superblock(|bytes| {
            let head = Dinode::mut_from_prefix(bytes);
            let (head, _) = head.map_err(|_| cannot("the block is short"))?;
            head.i_generation = (*expected).into();
            head.i_fs_generation = (*expected).into();
            Ok(())
        }),
        P::FirstGroup { expected, .. } => set(stage, "s_first_cluster_group", *expected),
        P::TunefsUnfinished { bits } => {
            let now = get(stage, "s_feature_incompat")?;
            set(stage, "s_feature_incompat", now & !u64::from(*bits))?;
            set(stage, "s_tunefs_flag", 0)
        }
        P::ErrorState {} => {
            let now = get(stage, "s_state")?;
            set(stage, "s_state", now & !1)
        }
        P::RecoverBackup { .. } => copy_superblock(stage, BlockNo(SUPER_BLOCK_BLKNO)),
        P::BackupInvalid { .. } | P::BackupStale { .. } => match at.block {
            Some(blkno) => copy_superblock(stage, blkno),
            None => Err(cannot("it has no place")),
        },
        P::SystemFileKind { name, .. } => system_flags(stage, at, name),
        P::JournalInvalid { slot, .. } => journal::remake(stage, Slot(*slot)),
        P::JournalUnknownFeature { slot, .. } if stage.resets_journals => {
            journal::remake(stage, Slot(*slot))
        }
        P::JournalUnknownFeature { slot, .. } => journal::features(stage, Slot(*slot), |sb| {
            let known = sb.s_feature_incompat.get() & KNOWN_INCOMPAT;
            sb.s_feature_incompat = known.into();
            sb.s_feature_compat = 0.into();
            sb.s_feature_ro_compat = 0.into();
        }),
        P::JournalMissingFeature { slot, features } => {
            journal::features(stage, Slot(*slot), |sb| {
                sb.s_feature_incompat = (sb.s_feature_incompat.get() | features).into();
            })
        }
        P::JournalTooSmall { .. } => match at.inode {
            Some(inode) => extents::recount(stage, inode),
            None => Err(cannot("it has no place")),
        },
        P::SystemDirLost { .. } => system::remake(stage, stage.view().info().system_dir),
        P::SystemDirBlock { .. } => match at.block {
            Some(block) => system::empty_block(stage, block),
            None => Err(cannot("it has no place")),
        },
        P::SlotHeld { slot, .. } => contents::free_slot(stage, at, Slot(*slot)),
        P::SystemFileLost { name, .. } => match at.inode {
            Some(inode) if names::is_misled(stage, inode) => names::name(stage, name),
            Some(inode) => system::remake(stage, inode),
            None => Err(cannot("it has no place")),
        },
        P::SystemFileMissing { name } => names::name(stage, name),
        P::OrphanDirMissing { slot } => {
            names::name(stage, &SystemFile::OrphanDir(Slot(*slot)).name())
        }
        // It was staged before the volume could be opened.
        P::SuperblockLost { .. } => Ok(()),
        P::SlotUnrecovered { slot } => settle::slot(stage, Slot(*slot)),
        P::SlotMapInvalid { .. } => contents::slot_map(stage, at),
        P::QuotaInvalid { .. } | P::QuotaUsage { .. } => quota::remake(stage, at),
        P::HeartbeatInvalid { .. } => contents::heartbeat(stage, at),
        _ => Err(cannot("this version has no repair for it")),
    }
}

fn field(name: &str) -> Result<&'static Field> {
    let found = SuperBlock::FIELDS.iter().find(|field| field.name == name);
    found.ok_or_else(|| cannot("the superblock has no such field"))
}

fn get(stage: &Stage<'_, '_>, name: &str) -> Result<u64> {
    let block = stage.view().raw(stage.view().info().superblock)?;
    let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
    field(name)?
        .number(body)
        .ok_or_else(|| cannot("the field is no number"))
}

/// Sets a field of the superblock. The backups follow, since they then differ.
pub(super) fn set(stage: &Stage<'_, '_>, name: &str, value: u64) -> Result<()> {
    let field = field(name)?;
    stage.edit_superblock(|bytes| {
        let body = bytes.get_mut(SUPER_BLOCK_BODY..).unwrap_or_default();
        if field.set_number(body, value) {
            Ok(())
        } else {
            Err(cannot("the field cannot hold that"))
        }
    })
}

/// Turns a feature on that inodes use: what they hold can be read in no other way.
pub(super) fn feature(stage: &mut Stage<'_, '_>, word: &'static str, bit: u64) -> Result<()> {
    let blkno = stage.view().info().superblock;
    if !stage.first(word, blkno) {
        return Ok(());
    }
    let now = get(stage, word)?;
    set(stage, word, now | bit)
}

/// Writes the superblock in use to another place.
fn copy_superblock(stage: &Stage<'_, '_>, to: BlockNo) -> Result<()> {
    let (mut bytes, _) = stage.superblock()?;
    let (head, body) =
        Dinode::mut_from_prefix(&mut bytes).map_err(|_| cannot("the superblock is short"))?;
    head.i_blkno = to.0.into();
    if let Ok((sb, _)) = SuperBlock::mut_from_prefix(body) {
        let compat = sb.s_feature_compat.get();
        if to.0 != SUPER_BLOCK_BLKNO {
            sb.s_feature_compat = (compat | Compat::BACKUP_SB.bits()).into();
        }
    }
    stage.put_run(to, Some(0x80), &mut bytes)
}

/// Gives the cluster allocator the number of clusters that the superblock has, when its groups have
/// as many.
fn bitmap_clusters(stage: &Stage<'_, '_>, clusters: u32) -> Result<()> {
    let bitmap = stage
        .evidence
        .system
        .find(SystemFile::GlobalBitmap)
        .ok_or_else(|| cannot("there is no global bitmap"))?;
    stage.edit::<Dinode>(bitmap, |inode| {
        // The same number of all bits tells that it is the inode's count that is wrong.
        if inode.bitmap_total() == clusters {
            inode.i_clusters = clusters.into();
        }
    })
}

/// Marks a system file as what its name says; or has the name lead elsewhere, when that is another's file.
fn system_flags(stage: &mut Stage<'_, '_>, at: At, name: &str) -> Result<()> {
    let inode = at.inode.ok_or_else(|| cannot("it has no place"))?;
    let all = wanted(stage.view());
    let system = &stage.evidence.system;
    let of_another = |(file, _): &(SystemFile, InodeFlags)| {
        file.name() != name && system.find(*file) == Some(inode)
    };
    if all.iter().any(of_another) {
        return names::name(stage, name);
    }
    let (_, flags) = all
        .into_iter()
        .find(|(file, _)| file.name() == name)
        .ok_or_else(|| cannot("no system file has that name"))?;
    stage.edit::<Dinode>(inode, |inode| {
        let others = inode.flags().difference(KINDS);
        let marks = InodeFlags::SYSTEM | InodeFlags::VALID;
        inode.i_flags = (others | flags | marks).bits().into();
    })
}
