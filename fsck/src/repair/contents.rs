//! What files of the volume itself hold, for those that have clusters and no structure to speak of.

use cowfs_format::device::DeviceMut;
use cowfs_format::error::Result;
use cowfs_format::layout::{Dinode, HEARTBEAT_BLOCKS, Incompat};
use cowfs_format::read::{extent, inode, slot_map as map};
use cowfs_format::units::{BlockNo, Slot, low32};

use super::adopt;
use super::stage::{Stage, cannot};
use crate::catalogue::At;

/// Gives the slot map the size of its clusters, or clusters in which all slots are free.
pub(super) fn slot_map(stage: &mut Stage<'_, '_>, at: At) -> Result<()> {
    let blkno = at.inode.ok_or_else(|| cannot("it has no place"))?;
    let clusters = u64::from(inode::read(stage.view(), blkno)?.i_clusters.get());
    if clusters == 0 {
        let info = stage.view().info();
        let extended = info.has(Incompat::EXTENDED_SLOT_MAP);
        let bytes = u64::from(info.max_slots) * if extended { 8 } else { 2 };
        // In the old form a free slot is a number that no node has.
        let free = if extended { 0 } else { 0xFF };
        let clusters = low32(stage.geo().clusters_for(bytes));
        return fill(stage, blkno, clusters, free);
    }
    let bits = stage.geo().cluster_bits();
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = (clusters << bits).into())
}

/// Frees a slot in the slot map.
pub(super) fn free_slot(stage: &Stage<'_, '_>, at: At, slot: Slot) -> Result<()> {
    let blkno = at.inode.ok_or_else(|| cannot("it has no place"))?;
    let entry = map::entry(stage.view(), blkno, slot, None)?;
    let (place, bytes) = entry.ok_or_else(|| cannot("the slot map has no such slot"))?;
    Ok(stage.volume.device().write_at(place, &bytes)?)
}

/// Gives the heartbeat file its blocks, all zeros.
pub(super) fn heartbeat(stage: &mut Stage<'_, '_>, at: At) -> Result<()> {
    let blkno = at.inode.ok_or_else(|| cannot("it has no place"))?;
    let geo = stage.geo();
    let clusters = low32(geo.clusters_for(HEARTBEAT_BLOCKS * geo.block_bytes() as u64));
    fill(stage, blkno, clusters, 0)?;
    let size = HEARTBEAT_BLOCKS * geo.block_bytes() as u64;
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = size.into())
}

/// Gives a file one run of clusters filled with a byte: the run that it had, or another.
fn fill(stage: &mut Stage<'_, '_>, blkno: BlockNo, clusters: u32, byte: u8) -> Result<()> {
    let geo = stage.geo();
    match adopt::only_run(stage, clusters) {
        Some(old) => stage.transact(|txn| txn.remake_data(blkno, &old))?,
        None => stage.transact(|txn| txn.remake_space(blkno, clusters, true))?,
    }
    let (found, _) = {
        let inode = inode::read(stage.view(), blkno)?;
        extent::salvage(stage.view(), blkno, inode.body())
    };
    for extent in found {
        for block in 0..u64::from(extent.clusters) * geo.blocks_per_cluster() {
            let mut bytes = vec![byte; geo.block_bytes()];
            stage.put_run(extent.blkno.plus(block), None, &mut bytes)?;
        }
    }
    let size = u64::from(clusters) << geo.cluster_bits();
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = size.into())
}
