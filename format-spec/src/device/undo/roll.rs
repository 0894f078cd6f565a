//! Putting back what an undo log saved.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{
    ENTRIES_AT, ENTRY_MAGIC, EntryHead, FIRST, Head, Identity, PROGRESS_AT, Progress, SECTOR,
    SECTORS, UNDO_MAGIC, UNIT, ZEROS,
};
use crate::device::{Device, DeviceMut};
use crate::error::{Error, Result};
use crate::units::index;

/// An undo log that was read, and is whole.
#[derive(Debug)]
pub struct Undo {
    file: File,
    volume: Identity,
    device_size: u64,
    finished: bool,
    units: BTreeMap<u64, Unit>,
}

/// A unit of the device.
#[derive(Debug)]
struct Unit {
    len: usize,
    /// Where its old bytes are in the log; `None`: they were zeros.
    old: Option<u64>,
    /// What its sectors may hold, by their checksums: what was last written there, or, when nobody
    /// knows how far the writer came, anything that ever was.
    sums: Vec<[u32; SECTORS]>,
}

/// Takes a place, what is known of it, its old bytes and those now.
type Each<'e> = dyn FnMut(u64, &Unit, &[u8], &[u8]) -> Result<()> + 'e;

/// What a rollback did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Bytes that the log has of the volume.
    pub saved: u64,
    /// Bytes that were put back; the others had come back already, or were never written.
    pub restored: u64,
}

fn refused<T>(why: String) -> Result<T> {
    Err(Error::Refused { why })
}

impl Undo {
    /// Reads a log, and makes sure that all of it is there.
    ///
    /// # Errors
    /// It is no undo log, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        let wrong = |error: io::Error| Error::Input {
            what: format!("{name}: cannot open: {error}"),
        };
        // Opening a FIFO would hang.
        if !std::fs::metadata(path).map_err(wrong)?.is_file() {
            return refused(format!("{name}: is no undo log of this toolkit"));
        }
        let file = File::open(path).map_err(wrong)?;
        match Self::read(file) {
            Ok(Ok(undo)) => Ok(undo),
            Ok(Err(why)) => refused(format!("{name}: {why}")),
            Err(error) => refused(format!("{name}: cannot be read: {error}")),
        }
    }

    fn read(file: File) -> io::Result<Result<Self, String>> {
        let mut head = Head::new_zeroed();
        let read = file.read_exact_at(head.as_mut_bytes(), 0);
        if read.is_err() || head.magic != UNDO_MAGIC {
            return Ok(Err("is no undo log of this toolkit".to_owned()));
        }
        if head.crc.get() != head.own_crc() || u64::from(head.unit.get()) != UNIT {
            return Ok(Err("its head is damaged".to_owned()));
        }
        let mut progress: Option<Progress> = None;
        for place in PROGRESS_AT {
            let mut found = Progress::new_zeroed();
            let read = file.read_exact_at(found.as_mut_bytes(), place);
            if read.is_ok()
                && found.crc.get() == found.own_crc()
                && progress.is_none_or(|other| other.serial.get() < found.serial.get())
            {
                progress = Some(found);
            }
        }
        let Some(progress) = progress else {
            return Ok(Err(
                "it was never begun; nothing was written under it".to_owned()
            ));
        };
        let finished = progress.finished.get() == 1;
        let entries = progress.entries.get();
        if progress.end.get() > file.metadata()?.len() {
            return Ok(Err(format!(
                "is cut off: it has {} bytes of {}",
                file.metadata()?.len(),
                progress.end
            )));
        }
        let mut units: BTreeMap<u64, Unit> = BTreeMap::new();
        let mut stream = BufReader::with_capacity(1 << 18, &file);
        stream.seek(SeekFrom::Start(ENTRIES_AT))?;
        let mut at = ENTRIES_AT;
        let mut old = vec![0; index(UNIT)];
        for number in 0..entries {
            let mut entry = EntryHead::new_zeroed();
            stream.read_exact(entry.as_mut_bytes())?;
            at += size_of::<EntryHead>() as u64;
            let wrong = |why: &str| Ok(Err(format!("entry {number} {why}; the log is damaged")));
            let offset = entry.offset.get();
            let len = u64::from(entry.len.get());
            let inside = offset.checked_add(len);
            let whole = entry.magic == ENTRY_MAGIC
                && entry.number.get() == number
                && offset.is_multiple_of(UNIT)
                && (1..=UNIT).contains(&len)
                && inside.is_some_and(|end| end <= head.device_size.get());
            if !whole {
                return wrong("is none");
            }
            let old = &mut old[..index(entry.follows())];
            stream.read_exact(old)?;
            if entry.crc.get() != entry.own_crc(old) {
                return wrong("does not match its checksum");
            }
            let sums = entry.sums.map(|sum| sum.get());
            let known = units.get_mut(&offset);
            match (entry.flags.get(), known) {
                (FIRST | ZEROS, None) => {
                    let unit = Unit {
                        len: index(len),
                        old: (entry.flags.get() == FIRST).then_some(at),
                        sums: vec![sums],
                    };
                    units.insert(offset, unit);
                }
                (0, Some(unit)) if unit.len == index(len) => {
                    if finished {
                        unit.sums.clear();
                    }
                    unit.sums.push(sums);
                }
                _ => return wrong("is about a unit that it cannot be about"),
            }
            at += entry.follows();
        }
        if at != progress.end.get() {
            return Ok(Err("its entries end elsewhere than it says".to_owned()));
        }
        drop(stream);
        Ok(Ok(Self {
            file,
            volume: Identity {
                uuid: head.uuid,
                generation: head.generation.get(),
                at: head.superblock_at.get(),
            },
            device_size: head.device_size.get(),
            finished,
            units,
        }))
    }

    /// Whether a file is what is left of a log whose writer was stopped while it created it. A log counts
    /// from its first progress on, and nothing is written under one that does not.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn never_begun(path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > ENTRIES_AT {
            return Ok(false);
        }
        let mut bytes = vec![0; index(meta.len())];
        file.read_exact_at(&mut bytes, 0)?;
        let begun = PROGRESS_AT.iter().any(|place| {
            let found = bytes.get(index(*place)..).map(Progress::read_from_prefix);
            matches!(found, Some(Ok((found, _))) if found.crc.get() == found.own_crc())
        });
        // A head that did not reach the disk is zeros there, or the file is empty.
        let magic = bytes.get(..UNDO_MAGIC.len()).unwrap_or_default();
        let own = magic == UNDO_MAGIC || bytes.iter().all(|byte| *byte == 0);
        Ok(own && !begun)
    }

    /// Which volume it is about.
    #[must_use]
    pub const fn volume(&self) -> Identity {
        self.volume
    }

    /// Whether the program that wrote it came to its end.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes that it has of the volume.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.units.values().map(|unit| unit.len as u64).sum()
    }

    /// Makes sure that a device holds what the writer of the log left there, and tells how many
    /// bytes are to be put back. `found` is the volume that is there now, if any.
    ///
    /// # Errors
    /// It is another device or volume, or it was changed since; or it cannot be read.
    pub fn check(&self, device: &dyn Device, found: Option<Identity>) -> Result<Undone> {
        self.same_volume(device, found)?;
        let mut done = Undone {
            saved: self.saved(),
            restored: 0,
        };
        let mut foreign: Option<(u64, u64)> = None;
        self.each_different(device, &mut |offset, unit, old, now| {
            done.restored += unit.len as u64;
            let ours = |number: usize| {
                let range = number * SECTOR..unit.len.min((number + 1) * SECTOR);
                let (old, now) = (&old[range.clone()], &now[range]);
                old == now || {
                    let sum = super::crc(now);
                    unit.sums.iter().any(|sums| sums.get(number) == Some(&sum))
                }
            };
            if !(0..unit.len.div_ceil(SECTOR)).all(ours) {
                let (first, count) = foreign.unwrap_or((offset, 0));
                foreign = Some((first, count + 1));
            }
            Ok(())
        })?;
        match foreign {
            None => Ok(done),
            Some((first, count)) => refused(format!(
                "the volume was changed after the undo log was written ({count} of {} places, the \
                 first at byte {first}); what was done since would be destroyed",
                self.units.len()
            )),
        }
    }

    /// Puts everything back, and flushes it. Call [`check`](Self::check) before. Stopped at any
    /// write, it can be done again.
    ///
    /// # Errors
    /// The log cannot be read again, or the device fails.
    pub fn restore(&self, device: &dyn DeviceMut) -> Result<Undone> {
        let mut done = Undone {
            saved: self.saved(),
            restored: 0,
        };
        self.each_different(device, &mut |offset, unit, old, _| {
            done.restored += unit.len as u64;
            Ok(device.write_at(offset, old)?)
        })?;
        device.flush()?;
        Ok(done)
    }

    fn same_volume(&self, device: &dyn Device, found: Option<Identity>) -> Result<()> {
        if device.size() != self.device_size {
            return refused(format!(
                "the undo log is of a device of {} bytes, this one has {}",
                self.device_size,
                device.size()
            ));
        }
        // Where the superblock itself was written, its own entry says what may be there.
        let written = self.units.contains_key(&(self.volume.at / UNIT * UNIT));
        if written || self.volume.at == 0 {
            return Ok(());
        }
        match found {
            Some(found) if found == self.volume => Ok(()),
            Some(found) => refused(format!(
                "the undo log is of the volume {}, this is {}",
                show(&self.volume),
                show(&found)
            )),
            None => refused(format!(
                "the undo log is of the volume {}, and here is none",
                show(&self.volume)
            )),
        }
    }

    /// Calls `each` with the place, the old bytes and those now of all units that differ.
    fn each_different(&self, device: &dyn Device, each: &mut Each<'_>) -> Result<()> {
        let mut now = vec![0; index(UNIT)];
        let mut old = vec![0; index(UNIT)];
        for (offset, unit) in &self.units {
            let (now, old) = (&mut now[..unit.len], &mut old[..unit.len]);
            device.read_at(*offset, now)?;
            match unit.old {
                None => old.fill(0),
                Some(at) => self
                    .file
                    .read_exact_at(old, at)
                    .map_err(|error| Error::Input {
                        what: format!("the undo log cannot be read: {error}"),
                    })?,
            }
            if now != old {
                each(*offset, unit, old, now)?;
            }
        }
        Ok(())
    }
}

/// A volume in messages.
fn show(volume: &Identity) -> String {
    let uuid = u128::from_be_bytes(volume.uuid);
    format!("{uuid:032X} (generation {:#010x})", volume.generation)
}
