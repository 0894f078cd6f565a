//! Files on their way out of a volume: what is taken of each, and the forms it leaves in.
//!
//! [`source`] gathers a file from the volume, on all threads, as the walk reads ahead. [`tar`] writes
//! files down one after another in the order of the walk, and [`stream`] gives it a thread for
//! writing; [`copy`] has all threads make files of the host, by the means of [`host`].

pub(crate) mod copy;
pub(crate) mod host;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod tar;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cowfs_format::block::View;
use cowfs_format::read::file::Segment;

/// Bytes that are copied at a time.
pub(crate) const CHUNK: u64 = 1 << 20;
/// Bytes that are asked for ahead of the copy.
const AHEAD: u64 = 8 << 20;

/// Creates a file of the host, or empties one; never the image that is being read.
///
/// # Errors
/// It is that image, or cannot be written.
pub(crate) fn create(path: &Path, volume: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let meta = file.metadata()?;
    if let Ok(image) = std::fs::metadata(volume)
        && (image.dev(), image.ino()) == (meta.dev(), meta.ino())
    {
        return Err(io::Error::other("this is the volume itself"));
    }
    if meta.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Asks for what will be read after the next chunk of a segment.
pub(crate) fn prefetch(view: View<'_>, segment: &Segment, done: u64) {
    let Some(blkno) = segment.blkno else {
        return;
    };
    let bits = view.geo().block_bits();
    // At the start for a stretch, then one chunk for each that is read.
    let (from, len) = if done == 0 {
        (0, AHEAD)
    } else {
        (done.saturating_add(AHEAD - CHUNK), CHUNK)
    };
    let len = len.min(segment.len.saturating_sub(from));
    if len > 0 {
        view.prefetch(blkno.plus(from >> bits), len.div_ceil(1 << bits));
    }
}
