//! Recovery: what must be done before a volume that was not left cleanly may be written.
//!
//! The logs of all dirty slots are replayed: their images go home, and the logs are emptied. What
//! a slot still owes after that (a window of clusters, clusters to be freed, orphans, changes of
//! quota) is left to whoever mounts or repairs the volume; `DIRTY` stays set so that they know. All
//! of it is space that counts as used, so writing beside it is safe. fsck.cowfs settles it, with
//! the operations of [`settle`](crate::ops::settle).
//!
//! A slot that owes nothing is free again in the slot map. One that does stays held, or is from now
//! on, because a node that mounts the volume looks at no other slots than those and its own.

use crate::device::{Device, DeviceMut, OverlayDevice};
use crate::error::{Error, Result};
use crate::layout::{Dinode, LOCAL_QUOTA_MAGIC, RoCompat};
use crate::read::quota::LocalQuota;
use crate::read::{dir, inode};
use crate::txn::commit::Log;
use crate::txn::mark::Marks;
use crate::units::Slot;
use crate::volume::system::{self, SystemFile};
use crate::volume::{JournalState, Volume};

/// What a recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Slots whose logs were replayed, with the number of transactions and blocks of each.
    pub replayed: Vec<(Slot, u32, usize)>,
    /// Slots that were dirty with nothing to replay and nothing owed, and are so no more.
    pub settled: Vec<Slot>,
    /// Slots that were left cleanly and held all the same, with the nodes that held them: free now.
    pub released: Vec<(Slot, u32)>,
    /// Slots that still owe something to the next mount or repair.
    pub unfinished: Vec<Slot>,
}

/// How much a recovery puts up with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// A journal of no use ends it.
    Whole,
    /// What is damaged is left to a repair.
    PastDamage,
}

impl<D: DeviceMut> Volume<D> {
    /// Replays the journals of all dirty slots. Does nothing on a clean volume.
    ///
    /// # Errors
    /// A node of a cluster holds the volume, a dirty journal cannot be used, or the device fails.
    pub fn recover(&mut self) -> Result<Recovered> {
        self.refuse_shared()?;
        self.replay(Care::Whole)
    }

    /// As [`Volume::recover`], past journals, slot maps and whatever else is damaged: for a repair,
    /// which comes to them next.
    ///
    /// # Errors
    /// A node of a cluster holds the volume, or the device fails.
    pub fn recover_past_damage(&mut self) -> Result<Recovered> {
        self.refuse_shared()?;
        self.replay(Care::PastDamage)
    }

    fn replay(&mut self, care: Care) -> Result<Recovered> {
        self.reload_unfinished();
        let mut done = Recovered::default();
        if !self.pending().is_empty() {
            for (blkno, image) in self.pending() {
                self.device()
                    .write_at(self.info().geo.byte_of(*blkno), image)?;
            }
            self.device().flush()?;
        }
        let mut wrote = false;
        let marks = match Marks::read(self.device(), self.view()) {
            Ok(marks) => Some(marks),
            Err(Error::Io(error)) if error.op != "read" => return Err(Error::Io(error)),
            Err(error) if care == Care::Whole => return Err(error),
            Err(_) => None,
        };
        let mut free = Vec::new();
        for state in self.journals() {
            let journal = match &state.journal {
                Ok(journal) => journal,
                Err(_) if care == Care::PastDamage => continue,
                Err(error) => {
                    return Err(Error::Refused {
                        why: format!("journal of slot {}: {error}", state.slot),
                    });
                }
            };
            if !journal.dirty {
                free.push(state.slot);
                continue;
            }
            let owes = match self.owes(state.slot) {
                Ok(owes) => owes,
                Err(error) if care == Care::Whole => return Err(error),
                Err(_) => true,
            };
            if owes {
                done.unfinished.push(state.slot);
                if let Some(marks) = &marks {
                    marks.hold(state.slot)?;
                }
            } else {
                free.push(state.slot);
            }
            if journal.needs_replay() {
                done.replayed
                    .push((state.slot, state.pending_transactions, state.pending_blocks));
            } else if owes {
                continue;
            } else {
                done.settled.push(state.slot);
            }
            let log = Log {
                device: self.device(),
                base: self.view(),
                journal: journal.clone(),
            };
            let sequence = match state.next_sequence {
                0 => journal.superblock.s_sequence.get(),
                next => next.wrapping_add(1),
            };
            log.write_superblock(sequence, 0)?;
            self.device().flush()?;
            log.set_dirty(owes)?;
            wrote = true;
        }
        if wrote {
            self.device().flush()?;
        }
        if let Some(marks) = &marks {
            free.retain(|slot| marks.is_held(*slot));
            for slot in &free {
                let clean = |state: &&JournalState| {
                    let dirty = state.journal.as_ref().is_ok_and(|journal| journal.dirty);
                    state.slot == *slot && !dirty
                };
                if let Some(node) = marks.holder(*slot)
                    && self.journals().iter().any(|state| clean(&state))
                {
                    done.released.push((*slot, node));
                }
                marks.release(*slot)?;
            }
            if !free.is_empty() {
                self.device().flush()?;
            }
        }
        if wrote {
            self.load_journals();
        }
        Ok(done)
    }
}

impl<D: Device> Volume<OverlayDevice<D>> {
    /// Replays journals over writes that are kept in memory.
    ///
    /// # Errors
    /// The device fails.
    pub fn recover_staged(&mut self) -> Result<Recovered> {
        self.replay(Care::PastDamage)
    }
}

impl<D: Device> Volume<D> {
    /// Whether a slot left work that only a mount or a repair does.
    ///
    /// # Errors
    /// A file of the slot is damaged.
    pub fn owes(&self, slot: Slot) -> Result<bool> {
        let view = self.view();
        let local = inode::read(view, system::find(view, SystemFile::LocalAlloc(slot))?)?;
        let log = inode::read(view, system::find(view, SystemFile::TruncateLog(slot))?)?;
        let used = log
            .body()
            .get(2..4)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
        if Dinode::bitmap_total(&local) != 0 || used != 0 {
            return Ok(true);
        }
        let features = self.info().features.ro_compat;
        for (feature, file, magic) in [
            (
                RoCompat::USRQUOTA,
                SystemFile::LocalUserQuota(slot),
                LOCAL_QUOTA_MAGIC[0],
            ),
            (
                RoCompat::GRPQUOTA,
                SystemFile::LocalGroupQuota(slot),
                LOCAL_QUOTA_MAGIC[1],
            ),
        ] {
            if features.contains(feature)
                && !LocalQuota::open(view, system::find(view, file)?, magic)?.is_clean()
            {
                return Ok(true);
            }
        }
        let orphans = inode::read(view, system::find(view, SystemFile::OrphanDir(slot))?)?;
        let mut found = false;
        dir::for_each_entry(view, &orphans, &mut |entry| {
            found |= entry.name != b"." && entry.name != b"..";
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}
