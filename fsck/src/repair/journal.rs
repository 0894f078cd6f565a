//! Journals: their superblocks, their features, and their clusters.

use cowfs_format::error::Result;
use cowfs_format::layout::jbd2::{
    BlockHeader, INCOMPAT_64BIT, INCOMPAT_REVOKE, JournalSuperBlock, MAGIC, SUPERBLOCK_V2,
};
use cowfs_format::layout::{Dinode, InodeFlags, JOURNAL_DIRTY};
use cowfs_format::read::extent::{self, Extent};
use cowfs_format::read::inode;
use cowfs_format::read::journal::{Journal, pending};
use cowfs_format::units::{BlockNo, Slot, low32};
use cowfs_format::volume::system::SystemFile;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::adopt;
use super::stage::{Stage, cannot};

/// Bytes of the smallest journal.
const SMALLEST: u64 = 4 << 20;

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
    if Dinode::journal_flags(&journal) & JOURNAL_DIRTY != 0 && !stage.resets_journals {
        return Err(cannot(
            "it is dirty, and what it may hold would be lost; --reset-journal gives it up",
        ));
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

/// Makes the superblock of a clean journal anew; its log is empty. One without clusters gets those
/// that it had, or others.
pub(super) fn remake(stage: &mut Stage<'_, '_>, slot: Slot) -> Result<()> {
    let (blkno, mut extents) = clean_journal(stage, slot)?;
    if extents.is_empty() {
        if refill(stage, blkno)? {
            return Ok(());
        }
        (_, extents) = clean_journal(stage, slot)?;
    }
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
        if let Ok(block) = view.raw(blkno)
            && let Ok((head, _)) = BlockHeader::ref_from_prefix(&block)
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

/// Gives a journal clusters: true when they are those that it had, with its log.
fn refill(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<bool> {
    let geo = stage.geo();
    let old = adopt::journal(stage)?;
    let mut clusters = 0;
    if let Some(extents) = &old {
        clusters = extents.iter().map(|extent| extent.clusters).sum();
        stage.transact(|txn| txn.remake_data(blkno, extents))?;
    } else {
        for state in stage.volume.journals() {
            if let Ok(journal) = &state.journal {
                let blocks = u64::from(journal.superblock.s_maxlen.get());
                clusters = clusters.max(low32(blocks / geo.blocks_per_cluster().max(1)));
            }
        }
        if clusters == 0 {
            clusters = low32(geo.clusters_for(SMALLEST.max(1024 * geo.block_bytes() as u64)));
        }
        stage.transact(|txn| txn.remake_space(blkno, clusters, false))?;
    }
    let size = u64::from(clusters) << geo.cluster_bits();
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = size.into())?;
    if old.is_none() {
        return Ok(false);
    }
    // Whether it was left cleanly stood in the inode; its log tells it, too. In a log that was left
    // cleanly no transaction is where the first one must be.
    mark(stage, blkno, true)?;
    let dirty = Journal::open(stage.view(), blkno)
        .and_then(|journal| pending(stage.view(), &journal))
        .is_ok_and(|pending| pending.transactions > 0);
    if !dirty {
        mark(stage, blkno, false)?;
    }
    Ok(Journal::open(stage.view(), blkno).is_ok())
}

/// Marks a journal as one that was not left cleanly, or as one that was.
fn mark(stage: &Stage<'_, '_>, blkno: BlockNo, dirty: bool) -> Result<()> {
    stage.edit::<Dinode>(blkno, |inode| {
        let others = inode.id1_low.get() & !JOURNAL_DIRTY;
        inode.id1_low = (others | if dirty { JOURNAL_DIRTY } else { 0 }).into();
    })
}

/// Changes the features of a clean journal.
pub(super) fn features(
    stage: &Stage<'_, '_>,
    slot: Slot,
    change: impl FnOnce(&mut JournalSuperBlock),
) -> Result<()> {
    let (_, extents) = clean_journal(stage, slot)?;
    let geo = stage.geo();
    let home = blocks(&extents, geo.blocks_per_cluster())
        .next()
        .ok_or_else(|| cannot("it has no blocks"))?;
    stage.edit_run(home, 1, None, |bytes| {
        // The smallest blocks do not hold all of it.
        let mut head = JournalSuperBlock::new_zeroed();
        let len = bytes.len().min(size_of::<JournalSuperBlock>());
        head.as_mut_bytes()[..len].copy_from_slice(&bytes[..len]);
        change(&mut head);
        bytes[..len].copy_from_slice(&head.as_bytes()[..len]);
        Ok(())
    })
}
