//! Undo logs as the tools have them: begun when a volume is opened for writing, and rolled back.

use std::path::Path;

use super::open;
use crate::device::{DeviceMut, Recording, Undo, UndoLog, Undone};
use crate::error::{Error, Result};
use crate::volume::identity;

/// Opens for writing, as [`open::writable`]. With `undo`, everything that is written over is saved
/// in that file first, which must not exist yet.
///
/// # Errors
/// As [`open::writable`]; or the file exists or cannot be written.
pub fn writable(path: &Path, undo: Option<&Path>) -> Result<Box<dyn DeviceMut>> {
    let device = open::writable(path)?;
    match undo {
        None => Ok(Box::new(device)),
        Some(undo) => Ok(Box::new(recording(device, undo)?)),
    }
}

/// Begins an undo log for the volume on a device; it lasts until what is returned is dropped.
///
/// # Errors
/// The file exists or cannot be written.
pub fn recording<D: DeviceMut>(device: D, undo: &Path) -> Result<Recording<D>> {
    let volume = identity(&device).unwrap_or_default();
    let log = UndoLog::create(undo, volume, device.size()).map_err(|error| Error::Input {
        what: match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!(
                "{}: exists already; an undo log has a file of its own, choose another name",
                undo.display()
            ),
            _ => format!("{}: cannot keep an undo log: {error}", undo.display()),
        },
    })?;
    Ok(Recording::new(device, log))
}

/// Puts back what an undo log saved of the volume at `path`; `look` only says what would be. A
/// rollback that was stopped is simply done again.
///
/// # Errors
/// The log is damaged, or about another volume; the volume was changed since, is in use, or fails.
pub fn roll_back(path: &Path, undo: &Path, look: bool) -> Result<Undone> {
    let log = Undo::open(undo)?;
    if look {
        let device = open::read_only(path)?;
        return log.check(&device, identity(&device));
    }
    let device = open::writable(path)?;
    log.check(&device, identity(&device))?;
    log.restore(&device)
}
