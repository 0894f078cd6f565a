//! Recovery: what must be done before a volume that was not left cleanly may be written.
//!
//! The logs of all dirty slots are replayed: their images go home, and the logs are emptied. What
//! a slot still owes after that (a window of clusters, clusters to be freed, orphans, changes of
//! quota) is left to whoever mounts or repairs the volume; `DIRTY` stays set so that they know. All
//! of it is space that counts as used, so writing beside it is safe.
//!
//! A slot that owes nothing is free again in the slot map. One that does stays held, or is from now
//! on, because a node that mounts the volume looks at no other slots than those and its own.

use crate::device::DeviceMut;
use crate::error::{Error, Result};
use crate::layout::{Dinode, LOCAL_QUOTA_MAGIC, RoCompat};
use crate::read::quota::LocalQuota;
use crate::read::{dir, inode};
use crate::txn::commit::Log;
use crate::txn::mark::Marks;
use crate::units::Slot;
use crate::volume::Volume;
use crate::volume::system::{self, SystemFile};

/// What a recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Slots whose logs were replayed, with the number of transactions and blocks of each.
    pub replayed: Vec<(Slot, u32, usize)>,
    /// Slots that still owe something to the next mount or repair.
    pub unfinished: Vec<Slot>,
}

impl<D: DeviceMut> Volume<D> {
    /// Replays the journals of all dirty slots. Does nothing on a clean volume.
    ///
    /// # Errors
    /// A node of a cluster holds the volume, a dirty journal cannot be used, or the device fails.
    pub fn recover(&mut self) -> Result<Recovered> {
        self.refuse_shared()?;
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
        let marks = Marks::read(self.device(), self.view())?;
        let mut free = Vec::new();
        for state in self.journals() {
            let journal = match &state.journal {
                Ok(journal) => journal,
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
            let owes = self.slot_owes(state.slot)?;
            if owes {
                done.unfinished.push(state.slot);
                marks.hold(state.slot)?;
            } else {
                free.push(state.slot);
            }
            if journal.needs_replay() {
                done.replayed
                    .push((state.slot, state.pending_transactions, state.pending_blocks));
            } else if owes {
                continue;
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
        free.retain(|slot| marks.is_held(*slot));
        for slot in &free {
            marks.release(*slot)?;
        }
        if !free.is_empty() {
            self.device().flush()?;
        }
        if wrote {
            self.load_journals();
        }
        Ok(done)
    }

    /// Whether a slot left work that only a mount or a repair does.
    fn slot_owes(&self, slot: Slot) -> Result<bool> {
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
