//! Undo logs: what a device held before it was written, on stable storage before it is.
//!
//! A [`Recording`] device stands between a volume and its device. It gathers what is written until
//! the volume flushes (or 8 MiB have come together), appends what the places held before to the log,
//! flushes that, and only then writes. So at any moment, also after a crash, [`rollback`] can put
//! every byte back; stopped in the middle, it is begun again.
//!
//! # The file
//!
//! All numbers are little-endian; checksums are CRC-32C.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | [`Head`]: whose log it is; never changed |
//! | 1024, 1536 | [`Progress`], twice: how much of the file counts. They are written in turn, and the valid one with the larger serial counts |
//! | 4096 | entries, one behind the other |
//!
//! An entry is an [`EntryHead`] and, unless they were all zeros, the bytes that a unit of 4 KiB of
//! the device (the last may be shorter) held before the first write to it. A unit that is written
//! again later gets an entry without old bytes. Each entry has the checksums of the eight sectors of
//! the unit as they are *about to be written*: sectors are what a device writes in one piece, so
//! whatever a crash leaves is, sector by sector, either what was there or one of these. Anything else
//! was written by somebody else afterwards, and then nothing is put back: the volume has moved on,
//! and old blocks among new ones would destroy it. (Whoever changes a volume in any way writes to
//! the superblock of a journal, and so did the run that made the log.)
//!
//! Entries are appended and flushed; then the progress says so and is flushed; then the volume is
//! written. What stands behind the end that the progress tells has never had an effect. What stands
//! before it must be there and whole, or the log is refused.

mod record;
mod roll;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use record::Recording;
pub use roll::{Undo, Undone};

use crate::ecc::crc32c;
use crate::units::low32;

/// First bytes of an undo log.
pub const UNDO_MAGIC: [u8; 8] = *b"COWUNDO1";
/// Bytes of a unit: what is saved at a time.
const UNIT: u64 = 4096;
/// Bytes of a sector: what is checked at a time.
const SECTOR: usize = 512;
/// Sectors of a unit.
const SECTORS: usize = 8;

const _: () = assert!((SECTORS * SECTOR) as u64 == UNIT);
/// Where the two places of the progress are.
const PROGRESS_AT: [u64; 2] = [1024, 1536];
/// Where the entries begin.
const ENTRIES_AT: u64 = 4096;
/// First bytes of an entry.
const ENTRY_MAGIC: [u8; 4] = *b"Unit";
/// The unit was not written before: its old bytes follow.
const FIRST: u32 = 1;
/// The unit was not written before, and held nothing but zeros.
const ZEROS: u32 = 2;

/// Which volume a log is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// Its generation.
    pub generation: u32,
    /// Byte of the device at which its superblock lies; 0 where there is none that can be read.
    pub at: u64,
}

/// Head of an undo log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    uuid: [u8; 16],
    generation: U32,
    unit: U32,
    superblock_at: U64,
    device_size: U64,
    reserved: [u8; 12],
    crc: U32,
}

/// How much of the file counts.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Progress {
    /// Counts the times that the progress was written.
    serial: U64,
    /// End of the entries.
    end: U64,
    /// Their number.
    entries: U64,
    /// 1 when the program that wrote the log came to its end.
    finished: U32,
    crc: U32,
}

/// Head of an entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryHead {
    magic: [u8; 4],
    /// Of the rest of the head and the bytes that follow.
    crc: U32,
    /// Place of the unit on the device.
    offset: U64,
    /// Its bytes.
    len: U32,
    flags: U32,
    /// Number of the entry.
    number: U64,
    /// Checksums of the sectors as they are about to be written.
    sums: [U32; SECTORS],
}

fn crc(bytes: &[u8]) -> u32 {
    !crc32c(u32::MAX, bytes)
}

/// The checksums of the sectors of a unit.
fn sums(unit: &[u8]) -> [u32; SECTORS] {
    let mut sums = [0; SECTORS];
    for (sum, sector) in sums.iter_mut().zip(unit.chunks(SECTOR)) {
        *sum = crc(sector);
    }
    sums
}

impl Head {
    fn own_crc(&self) -> u32 {
        crc(&self.as_bytes()[..size_of::<Self>() - 4])
    }
}

impl Progress {
    fn own_crc(&self) -> u32 {
        crc(&self.as_bytes()[..size_of::<Self>() - 4])
    }
}

impl EntryHead {
    /// Bytes that follow it.
    fn follows(&self) -> u64 {
        if self.flags.get() == FIRST {
            self.len.get().into()
        } else {
            0
        }
    }

    fn own_crc(&self, old: &[u8]) -> u32 {
        !crc32c(crc32c(u32::MAX, &self.as_bytes()[8..]), old)
    }
}

/// An undo log that is being written.
#[derive(Debug)]
pub struct UndoLog {
    file: File,
    progress: Progress,
}

impl UndoLog {
    /// Creates a log for a device of `device_size` bytes. The file must not exist: an older log is
    /// never overwritten.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn create(path: &Path, volume: Identity, device_size: u64) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        let mut head = Head::new_zeroed();
        head.magic = UNDO_MAGIC;
        head.uuid = volume.uuid;
        head.generation = volume.generation.into();
        head.unit = low32(UNIT).into();
        head.superblock_at = volume.at.into();
        head.device_size = device_size.into();
        head.crc = head.own_crc().into();
        file.write_all_at(head.as_bytes(), 0)?;
        file.set_len(ENTRIES_AT)?;
        let mut progress = Progress::new_zeroed();
        progress.end = ENTRIES_AT.into();
        let mut log = Self { file, progress };
        log.step(0, 0, false)?;
        // The name, too, must be there after a crash.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(log)
    }

    /// Makes what was appended count: `bytes` bytes, `entries` entries.
    fn step(&mut self, bytes: u64, entries: u64, finished: bool) -> io::Result<()> {
        if bytes > 0 {
            self.file.sync_data()?;
        }
        let mut next = self.progress;
        next.serial = (next.serial.get() + 1).into();
        next.end = (next.end.get() + bytes).into();
        next.entries = (next.entries.get() + entries).into();
        next.finished = u32::from(finished).into();
        next.crc = next.own_crc().into();
        let place = PROGRESS_AT[usize::from(next.serial.get() % 2 == 1)];
        self.file.write_all_at(next.as_bytes(), place)?;
        self.file.sync_data()?;
        self.progress = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
