//! The commit: what was staged and proven, to the device, all of it or nothing: through a journal of
//! the volume, or, where that cannot be, under an undo log beside it.

use std::collections::HashSet;
use std::path::Path;

use cowfs_format::device::{Device, DeviceMut, OverlayDevice, Undo};
use cowfs_format::error::{Error, Result};
use cowfs_format::read::{extent, inode};
use cowfs_format::toolkit::undo;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_format::volume::{Volume, identity};

use super::stage::cannot;

/// Writes the blocks that differ; their number.
pub(super) fn commit(
    volume: &mut Volume<&dyn DeviceMut>,
    overlay: &OverlayDevice<&dyn DeviceMut>,
    copy: bool,
    undo: Option<&Path>,
) -> Result<usize> {
    let geo = volume.info().geo;
    let unit = geo.block_bytes() as u64;
    let mut images = Vec::new();
    for number in overlay.changed(unit)? {
        let mut bytes = vec![0; geo.block_bytes()].into_boxed_slice();
        overlay.read_at(number * unit, &mut bytes)?;
        images.push((BlockNo(number), bytes));
    }
    let count = images.len();
    if copy {
        for (blkno, bytes) in &images {
            volume.device().write_at(geo.byte_of(*blkno), bytes)?;
        }
        volume.device().flush()?;
        return Ok(count);
    }
    match (through_journal(volume, &images), undo) {
        (Ok(()), _) => Ok(count),
        (Err(error @ (Error::Io(_) | Error::Unfinished { .. })), _) => Err(error),
        (Err(_), Some(path)) => under_undo(volume, path, &images).map(|()| count),
        (Err(error), None) => Err(cannot(&format!(
            "the repair cannot go through a journal of the volume ({error}); nothing was written; \
             repair into a copy with --output"
        ))),
    }
}

/// Writes blocks to their homes under a log of what was there before, which stands beside the volume
/// for as long as it may be needed.
fn under_undo(
    volume: &Volume<&dyn DeviceMut>,
    path: &Path,
    images: &[(BlockNo, Box<[u8]>)],
) -> Result<()> {
    let device: &dyn DeviceMut = *volume.device();
    let refused = |error: std::io::Error| {
        let path = path.display();
        cannot(&format!("the undo log {path} cannot be written: {error}"))
    };
    let recording = undo::recording(device, path)?;
    for (blkno, bytes) in images {
        recording.write_at(volume.info().geo.byte_of(*blkno), bytes)?;
    }
    recording.flush()?;
    drop(recording);
    std::fs::remove_file(path).map_err(refused)
}

/// Takes back what a run wrote that was stopped under its undo log; whether there was one.
pub(super) fn take_back(device: &dyn DeviceMut, path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let undo = Undo::open(path)?;
    if !undo.is_finished() {
        undo.check(device, identity(&device))?;
        undo.restore(device)?;
    }
    std::fs::remove_file(path).map_err(|error| {
        let path = path.display();
        cannot(&format!("the undo log {path} cannot be removed: {error}"))
    })?;
    Ok(true)
}

/// Commits through the journal of a slot.
fn through_journal(
    volume: &mut Volume<&dyn DeviceMut>,
    images: &[(BlockNo, Box<[u8]>)],
) -> Result<()> {
    // A journal that the repair itself changes cannot carry it.
    let mut slots: Vec<Slot> = volume.journals().iter().map(|state| state.slot).collect();
    slots.retain(|slot| {
        blocks_of_commit(volume, *slot)
            .is_ok_and(|way| !images.iter().any(|(blkno, _)| way.contains(blkno)))
    });
    let Some(slot) = slots.first() else {
        return Err(cannot("it changes every journal, or the slot map"));
    };
    let mut txn = volume.begin_in(Some(*slot))?;
    for (blkno, bytes) in images {
        txn.put_block(*blkno, bytes.clone())?;
    }
    txn.commit()?;
    Ok(())
}

/// The blocks that a commit itself writes: they cannot be part of what it commits.
fn blocks_of_commit(volume: &Volume<&dyn DeviceMut>, slot: Slot) -> Result<HashSet<BlockNo>> {
    let view = volume.view();
    let mut blocks = HashSet::new();
    for file in [SystemFile::Journal(slot), SystemFile::SlotMap] {
        let blkno = system::find(view, file)?;
        if matches!(file, SystemFile::Journal(_)) {
            blocks.insert(blkno);
        }
        let inode = inode::read(view, blkno)?;
        let (extents, lost) = extent::salvage(view, blkno, inode.body());
        if let Some(part) = lost.into_iter().next() {
            return Err(part.error);
        }
        for extent in extents {
            let count = u64::from(extent.clusters) * view.geo().blocks_per_cluster();
            blocks.extend((0..count).map(|i| extent.blkno.plus(i)));
        }
    }
    Ok(blocks)
}
