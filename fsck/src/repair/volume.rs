//! Superblocks, journals, the slot map, and what the system files are marked as.

use cowfs_format::ecc;
use cowfs_format::error::Result;
use cowfs_format::layout::jbd2::{
    BlockHeader, INCOMPAT_64BIT, INCOMPAT_REVOKE, JournalSuperBlock, MAGIC, SUPERBLOCK_V2,
};
use cowfs_format::layout::{
    Compat, Dinode, Field, InodeFlags, JOURNAL_DIRTY, SUPER_BLOCK_BLKNO, SUPER_BLOCK_BODY,
    SuperBlock,
};
use cowfs_format::read::extent::{self, Extent};
use cowfs_format::read::inode;
use cowfs_format::units::{BlockNo, Slot, low32};
use cowfs_format::volume::system::SystemFile;
use zerocopy::{FromBytes, IntoBytes};

use super::stage::{Stage, cannot};
use super::{block, extents};
use crate::catalogue::{At, VolumeProblem};
use crate::pass::system::{KINDS, wanted};

/// Repairs a problem of the volume as a whole.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &VolumeProblem) -> Result<()> {
    use VolumeProblem as P;
    match problem {
        P::BadCrc { what } => block::stamp(stage, at, what),
        P::EccOneBit { what, .. } => block::flip(stage, at, what),
        P::SuperblockClusters { superblock, .. } => bitmap_clusters(stage, *superblock),
        P::FirstGroup { expected, .. } => set(stage, "s_first_cluster_group", *expected),
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
        P::JournalInvalid { slot, .. } => journal(stage, Slot(*slot)),
        P::JournalUnknownFeature { slot, features } => {
            journal_features(stage, Slot(*slot), |now| now & !features)
        }
        P::JournalMissingFeature { slot, features } => {
            journal_features(stage, Slot(*slot), |now| now | features)
        }
        P::JournalTooSmall { .. } => match at.inode {
            Some(inode) => extents::recount(stage, inode),
            None => Err(cannot("it has no place")),
        },
        P::SlotMapInvalid { .. } => slot_map(stage, at),
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
    let blkno = stage.view().info().superblock;
    stage.edit_run(blkno, 1, Some(0x80), |bytes| {
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
    let from = stage.view().info().superblock;
    let mut bytes = stage.view().raw(from)?.into_owned();
    let has_ecc = stage.view().has_ecc();
    if has_ecc && let ecc::Verdict::OneBit { bit } = ecc::verify(&bytes, 0x80) {
        ecc::flip(&mut bytes, bit);
    }
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

/// Marks a system file as what its name says.
fn system_flags(stage: &Stage<'_, '_>, at: At, name: &str) -> Result<()> {
    let all = wanted(stage.view());
    let (_, flags) = all
        .into_iter()
        .find(|(file, _)| file.name() == name)
        .ok_or_else(|| cannot("no system file has that name"))?;
    let inode = at.inode.ok_or_else(|| cannot("it has no place"))?;
    stage.edit::<Dinode>(inode, |inode| {
        let others = inode.flags().difference(KINDS);
        let marks = InodeFlags::SYSTEM | InodeFlags::VALID;
        inode.i_flags = (others | flags | marks).bits().into();
    })
}

/// A journal's inode and extents, when it is clean: what a dirty one holds must not be lost.
fn clean_journal(stage: &Stage<'_, '_>, slot: Slot) -> Result<(BlockNo, Vec<Extent>)> {
    let blkno = stage
        .evidence
        .system
        .find(SystemFile::Journal(slot))
        .ok_or_else(|| cannot("there is no such journal"))?;
    let view = stage.view();
    let journal = inode::read(view, blkno)?;
    if !journal.flags().contains(InodeFlags::JOURNAL) {
        return Err(cannot("its inode is not marked as a journal"));
    }
    if Dinode::journal_flags(&journal) & JOURNAL_DIRTY != 0 {
        return Err(cannot("it is dirty, and what it may hold would be lost"));
    }
    let (found, lost) = extent::salvage(view, blkno, journal.body());
    match lost.into_iter().next() {
        Some(part) => Err(part.error),
        None => Ok((blkno, found)),
    }
}

/// The blocks of a file, in order.
fn blocks<'a>(extents: &'a [Extent], bpc: u64) -> impl Iterator<Item = BlockNo> + 'a {
    extents.iter().flat_map(move |extent| {
        let count = u64::from(extent.clusters) * bpc;
        (0..count).map(|i| extent.blkno.plus(i))
    })
}

/// Makes the superblock of a clean journal anew; its log is empty.
fn journal(stage: &Stage<'_, '_>, slot: Slot) -> Result<()> {
    let (_, extents) = clean_journal(stage, slot)?;
    let (view, geo) = (stage.view(), stage.geo());
    let bpc = geo.blocks_per_cluster();
    let others = stage.volume.journals().iter();
    let others = others.filter_map(|state| state.journal.as_ref().ok());
    let features = others.map(|journal| journal.superblock.s_feature_incompat.get());
    let wide = if geo.blocks() > u64::from(u32::MAX) {
        INCOMPAT_64BIT
    } else {
        0
    };
    let known = INCOMPAT_64BIT | INCOMPAT_REVOKE;
    let features = features.fold(wide, |all, one| all | (one & known));
    // No old record in the log may ever look like the next transaction.
    let mut sequence = 0;
    for blkno in blocks(&extents, bpc).skip(1) {
        let block = view.raw(blkno)?;
        if let Ok((head, _)) = BlockHeader::ref_from_prefix(&block)
            && head.h_magic.get() == MAGIC
        {
            sequence = sequence.max(head.h_sequence.get());
        }
    }
    let length: u64 = extents.iter().map(|e| u64::from(e.clusters) * bpc).sum();
    let mut sb = JournalSuperBlock::read_from_bytes(&[0; 1024])
        .map_err(|_| cannot("no room for a journal superblock"))?;
    sb.h_magic = MAGIC.into();
    sb.h_blocktype = SUPERBLOCK_V2.into();
    sb.s_blocksize = low32(geo.block_bytes() as u64).into();
    sb.s_maxlen = low32(length).into();
    let own = 1024usize.div_ceil(geo.block_bytes());
    sb.s_first = low32(own as u64).into();
    sb.s_sequence = sequence.wrapping_add(1).max(1).into();
    sb.s_feature_incompat = features.into();
    sb.s_uuid = view.info().uuid;
    sb.s_nr_users = 1.into();
    let mut bytes = sb.as_bytes().to_vec();
    bytes.resize(own * geo.block_bytes(), 0);
    let homes: Vec<BlockNo> = blocks(&extents, bpc).take(own).collect();
    for (home, part) in homes
        .into_iter()
        .zip(bytes.chunks_exact_mut(geo.block_bytes()))
    {
        stage.put_run(home, None, part)?;
    }
    Ok(())
}

/// Changes the features of a clean journal.
fn journal_features(
    stage: &Stage<'_, '_>,
    slot: Slot,
    change: impl FnOnce(u32) -> u32,
) -> Result<()> {
    let (_, extents) = clean_journal(stage, slot)?;
    let geo = stage.geo();
    let home = blocks(&extents, geo.blocks_per_cluster())
        .next()
        .ok_or_else(|| cannot("it has no blocks"))?;
    stage.edit_run(home, 1, None, |bytes| {
        let place = bytes
            .get_mut(0x28..0x2C)
            .ok_or_else(|| cannot("the journal's superblock is short"))?;
        let now = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
        place.copy_from_slice(&change(now).to_be_bytes());
        Ok(())
    })
}

/// Gives the slot map the size of its clusters.
fn slot_map(stage: &Stage<'_, '_>, at: At) -> Result<()> {
    let blkno = at.inode.ok_or_else(|| cannot("it has no place"))?;
    let bits = stage.geo().cluster_bits();
    let inode = inode::read(stage.view(), blkno)?;
    let clusters = u64::from(inode.i_clusters.get());
    drop(inode);
    if clusters == 0 {
        return Err(cannot("it has no clusters"));
    }
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = (clusters << bits).into())
}
