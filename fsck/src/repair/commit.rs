//! The commit: what was staged and proven, to the device, all of it or nothing: through a journal of
//! the volume, or, where that cannot be, under an undo log beside it.

use std::collections::HashSet;
use std::path::Path;

use cowfs_format::device::{Device, DeviceMut, OverlayDevice, Undo};
use cowfs_format::error::{Error, Result};
use cowfs_format::read::{extent, inode};
use cowfs_format::toolkit::undo;
use cowfs_format::units::{BlockNo, Geometry, Slot};
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_format::volume::{Volume, identity};

use super::stage::cannot;

/// What a repair is written to.
pub(super) enum Target<'v, 'd> {
    /// A volume, through one of its journals if that can be.
    Volume(&'v mut Volume<&'d dyn DeviceMut>),
    /// A device whose volume cannot be opened before the repair is written.
    Device(&'d dyn DeviceMut),
}

impl Target<'_, '_> {
    fn device(&self) -> &dyn DeviceMut {
        match self {
            Self::Volume(volume) => *volume.device(),
            Self::Device(device) => *device,
        }
    }
}

/// Writes the blocks that differ; their number.
pub(super) fn commit(
    target: Target<'_, '_>,
    overlay: &OverlayDevice<&dyn DeviceMut>,
    copy: bool,
    undo: Option<&Path>,
) -> Result<usize> {
    let geo = match &target {
        Target::Volume(volume) => volume.info().geo,
        Target::Device(_) => Volume::open(overlay)?.info().geo,
    };
    let unit = geo.block_bytes() as u64;
    let mut images = Vec::new();
    for number in overlay.changed(unit) {
        let mut bytes = vec![0; geo.block_bytes()].into_boxed_slice();
        overlay.read_at(number * unit, &mut bytes)?;
        images.push((BlockNo(number), bytes));
    }
    let count = images.len();
    if copy {
        let device = target.device();
        for (blkno, bytes) in &images {
            device.write_at(geo.byte_of(*blkno), bytes)?;
        }
        device.flush()?;
        return Ok(count);
    }
    let error = match target {
        Target::Volume(volume) => match through_journal(volume, &images) {
            Ok(()) => return Ok(count),
            Err(error @ Error::Unfinished { .. }) => return Err(error),
            // What fails to be read (the slot map, say) is what is to be written over.
            Err(Error::Io(error)) if error.op != "read" => return Err(Error::Io(error)),
            Err(error) => match undo {
                Some(path) => return under_undo(*volume.device(), geo, path, &images),
                None => error.to_string(),
            },
        },
        Target::Device(device) => match undo {
            Some(path) => return under_undo(device, geo, path, &images),
            None => "it has none that can be used".to_owned(),
        },
    };
    Err(cannot(&format!(
        "the repair cannot go through a journal of the volume ({error}); nothing was written; \
         repair into a copy with --output"
    )))
}

/// Writes blocks to their homes under a log of what was there before, which stands beside the volume
/// for as long as it may be needed; their number.
fn under_undo(
    device: &dyn DeviceMut,
    geo: Geometry,
    path: &Path,
    images: &[(BlockNo, Box<[u8]>)],
) -> Result<usize> {
    let refused = |error: std::io::Error| {
        let path = path.display();
        cannot(&format!("the undo log {path} cannot be written: {error}"))
    };
    let recording = undo::recording(device, path)?;
    for (blkno, bytes) in images {
        recording.write_at(geo.byte_of(*blkno), bytes)?;
    }
    recording.flush()?;
    drop(recording);
    std::fs::remove_file(path).map_err(refused)?;
    Ok(images.len())
}

/// Takes back what a run wrote that was stopped under its undo log; whether there was one.
///
/// # Errors
/// The log is damaged or of another volume, the volume was changed since, or the device fails.
pub fn take_back(device: &dyn DeviceMut, path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    // A run that was stopped while it created its log has written nothing else.
    if !Undo::never_begun(path).unwrap_or(false) {
        let undo = Undo::open(path)?;
        if !undo.is_finished() {
            undo.check(device, identity(&device))?;
            undo.restore(device)?;
        }
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
