//! Commit: through the volume's own journal, so that whoever opens the volume next (this library,
//! the kernel, fsck.ocfs2) finishes what was begun.
//!
//! The order of writes, with a flush between the steps:
//!
//! 1. File data and new blocks into free space; the log: descriptors, images, commit record.
//! 2. The journal superblock says where the log starts, and the slot map that the slot is held (see
//!    `mark.rs`); then `DIRTY` is set in the journal's inode. From here on the transaction is part
//!    of the volume.
//! 3. The images to their homes.
//! 4. `DIRTY` is cleared and the journal superblock says that the log is empty. The slot is free.
//!
//! While `DIRTY` is clear nobody looks at the log, so an unfinished step 1 or 2 leaves the volume as
//! it was.

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, IntoBytes};

use crate::block::View;
use crate::device::DeviceMut;
use crate::error::{Error, Result};
use crate::layout::jbd2::{
    BlockHeader, COMMIT, DESCRIPTOR, JournalSuperBlock, LogForm, MAGIC, TAG_ESCAPE, TAG_LAST,
    TAG_SAME_UUID, TAG_UUID,
};
use crate::layout::{Dinode, JOURNAL_DIRTY};
use crate::read::journal::Journal;
use crate::read::log::{self, Sums};
use crate::txn::Txn;
use crate::txn::mark::Marks;
use crate::units::BlockNo;
use crate::volume::system::{self, SystemFile};

/// What a commit wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Blocks that went through the journal.
    pub journaled: usize,
    /// New blocks that went straight to their homes.
    pub fresh: usize,
}

impl Txn<'_> {
    /// How many blocks that a transaction changes fit into the journal, beside what describes them.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn journal_room(&self) -> Result<usize> {
        let base = View::new(self.base, self.info);
        let journal = Journal::open(base, system::find(base, SystemFile::Journal(self.slot))?)?;
        let sb = &journal.superblock;
        let room = sb.s_maxlen.get().saturating_sub(sb.s_first.get());
        let each = per_descriptor(base.geo().block_bytes(), sb);
        // A descriptor for each run of images, the commit record, and the block that ends the log.
        let room = crate::units::index(room.into()).saturating_sub(3);
        Ok(room - room.div_ceil(each + 1))
    }

    /// How many blocks the transaction would send through the journal if it were committed now: at
    /// most so many.
    #[must_use]
    pub fn journal_load(&self) -> usize {
        self.logged + self.groups_to_free() + self.freed_groups() + self.charged_blocks()
    }

    /// Makes the transaction part of the volume.
    ///
    /// # Errors
    /// The transaction is larger than the journal, or the device fails: then the volume is as before.
    /// [`Error::Unfinished`]: the device failed late, and the volume is as after once its journal is
    /// replayed, which [`Volume::recover`](crate::volume::Volume::recover) does.
    pub fn commit(mut self) -> Result<Committed> {
        self.apply_charges()?;
        self.apply_freed_blocks()?;
        self.apply_freed_clusters()?;
        self.staged.values_mut().for_each(super::Staged::stamp);
        let geo = self.info.geo;

        let mut journaled: Vec<(BlockNo, &[u8])> = Vec::new();
        let mut fresh = 0;
        for (blkno, block) in &self.staged {
            if block.fresh {
                self.device.write_at(geo.byte_of(*blkno), &block.bytes)?;
                fresh += 1;
            } else {
                // A block that cannot be read is one to be written.
                let old = self.base.read_blocks(*blkno, 1);
                if !old.is_ok_and(|old| *old == *block.bytes) {
                    journaled.push((*blkno, &block.bytes));
                }
            }
        }
        if journaled.is_empty() {
            self.device.flush()?;
            return Ok(Committed {
                journaled: 0,
                fresh,
            });
        }
        let base = View::new(self.base, self.info);
        let journal = Journal::open(base, system::find(base, SystemFile::Journal(self.slot))?)?;
        let log = Log {
            device: self.device,
            base,
            journal,
        };
        let sequence = log.journal.superblock.s_sequence.get();
        let blocks = log.encode(&journaled, sequence)?;

        // 1. The log.
        log.write_log(&blocks)?;
        // 2. The commit point.
        let marks = Marks::read(self.device, base)?;
        let held = marks.hold(self.slot)?;
        if log.journal.dirty {
            self.device.flush()?;
            log.write_superblock(sequence, log.journal.superblock.s_first.get())?;
        } else {
            log.write_superblock(sequence, log.journal.superblock.s_first.get())?;
            self.device.flush()?;
            log.set_dirty(true)?;
        }
        // 3. and 4.: whatever fails from here on, the change is made.
        let finished = self.finish(&log, &journaled, sequence, held.then_some(&marks));
        if let Err(error) = finished {
            self.unfinished.store(true, Ordering::Relaxed);
            let why = error.to_string();
            return Err(Error::Unfinished { why });
        }
        Ok(Committed {
            journaled: journaled.len(),
            fresh,
        })
    }

    /// Brings what the log holds home, and empties it; `held` are the marks when the slot was taken
    /// for this transaction.
    fn finish(
        &self,
        log: &Log<'_>,
        journaled: &[(BlockNo, &[u8])],
        sequence: u32,
        held: Option<&Marks<'_>>,
    ) -> Result<()> {
        self.device.flush()?;
        // 3. The homes.
        for (blkno, bytes) in journaled {
            let place = self.info.geo.byte_of(*blkno);
            self.device.write_at(place, bytes)?;
        }
        self.device.flush()?;
        // 4. Done.
        if !log.journal.dirty {
            log.set_dirty(false)?;
        }
        log.write_superblock(sequence.wrapping_add(1), 0)?;
        self.device.flush()?;
        if let Some(marks) = held
            && !log.journal.dirty
        {
            marks.release(self.slot)?;
            self.device.flush()?;
        }
        Ok(())
    }
}

/// A journal that is written.
pub(super) struct Log<'t> {
    pub(super) device: &'t dyn DeviceMut,
    pub(super) base: View<'t>,
    pub(super) journal: Journal,
}

impl Log<'_> {
    /// The log of one transaction: its descriptors, images and commit record.
    fn encode(&self, images: &[(BlockNo, &[u8])], sequence: u32) -> Result<Vec<Box<[u8]>>> {
        let size = self.base.geo().block_bytes();
        let sb = &self.journal.superblock;
        let form = LogForm::of(sb.s_feature_incompat.get());
        let sums = Sums::of(sb);
        let per_descriptor = per_descriptor(size, sb);
        let mut blocks = Vec::with_capacity(images.len() + images.len() / per_descriptor + 2);
        for part in images.chunks(per_descriptor) {
            let mut descriptor = record(size, DESCRIPTOR, sequence);
            let mut at = size_of::<BlockHeader>();
            let start = blocks.len();
            for (i, (blkno, bytes)) in part.iter().enumerate() {
                let mut image: Box<[u8]> = (*bytes).into();
                let mut flags = 0;
                if image.starts_with(&MAGIC.to_be_bytes()) {
                    image[..4].fill(0);
                    flags |= TAG_ESCAPE;
                }
                if i > 0 {
                    flags |= TAG_SAME_UUID;
                }
                if i + 1 == part.len() {
                    flags |= TAG_LAST;
                }
                if !form.wide && blkno.0 > u64::from(u32::MAX) {
                    let why = "its journal has 32-bit block numbers, but the volume needs more";
                    return Err(Error::Refused {
                        why: why.to_owned(),
                    });
                }
                let checksum = sums.of_image(sequence, &image);
                let tag = log::encode_tag(form, *blkno, flags, checksum);
                descriptor[at..at + tag.len()].copy_from_slice(&tag);
                at += tag.len();
                if i == 0 {
                    at += TAG_UUID;
                }
                blocks.push(image);
            }
            sums.stamp(&mut descriptor, DESCRIPTOR);
            blocks.insert(start, descriptor);
        }
        let mut commit = record(size, COMMIT, sequence);
        sums.stamp(&mut commit, COMMIT);
        blocks.push(commit);
        let room = sb.s_maxlen.get().saturating_sub(sb.s_first.get());
        if blocks.len() as u64 >= u64::from(room) {
            return Err(Error::Refused {
                why: format!(
                    "the change needs {} journal blocks, but the journal has {room}",
                    blocks.len()
                ),
            });
        }
        Ok(blocks)
    }

    /// Writes the log from its first block on, and behind it a block that ends it.
    fn write_log(&self, blocks: &[Box<[u8]>]) -> Result<()> {
        let size = self.base.geo().block_bytes();
        let first = u64::from(self.journal.superblock.s_first.get());
        let end: Box<[u8]> = vec![0; size].into_boxed_slice();
        let mut run: Vec<u8> = Vec::new();
        let mut run_home = None;
        for (i, block) in blocks.iter().chain(std::iter::once(&end)).enumerate() {
            let home = self.journal.home(first + i as u64)?;
            let contiguous = run_home
                .is_some_and(|start: BlockNo| start.plus((run.len() / size) as u64) == home);
            if !contiguous || run.len() >= 1 << 20 {
                self.write_run(run_home, &run)?;
                run.clear();
                run_home = Some(home);
            }
            run.extend_from_slice(block);
        }
        self.write_run(run_home, &run)
    }

    fn write_run(&self, home: Option<BlockNo>, run: &[u8]) -> Result<()> {
        if let Some(home) = home {
            self.device.write_at(self.base.geo().byte_of(home), run)?;
        }
        Ok(())
    }

    /// Writes where the log starts (0: it is empty) and its first transaction.
    pub(super) fn write_superblock(&self, sequence: u32, start: u32) -> Result<()> {
        let mut sb: JournalSuperBlock = self.journal.superblock;
        sb.s_sequence = sequence.into();
        sb.s_start = start.into();
        Sums::of(&sb).stamp_superblock(&mut sb);
        let size = self.base.geo().block_bytes();
        for (i, part) in sb.as_bytes().chunks(size).enumerate() {
            let home = self.journal.home(i as u64)?;
            self.device.write_at(self.base.geo().byte_of(home), part)?;
        }
        Ok(())
    }

    /// Sets or clears `DIRTY` in the journal's inode.
    pub(super) fn set_dirty(&self, dirty: bool) -> Result<()> {
        let mut block = self.base.block::<Dinode>(self.journal.inode)?.into_bytes();
        let (inode, _) = Dinode::mut_from_prefix(&mut block)
            .map_err(|_| crate::error::FaultKind::OutOfVolume.at(self.journal.inode))?;
        let flags = inode.id1_low.get();
        inode.id1_low = (if dirty {
            flags | JOURNAL_DIRTY
        } else {
            flags & !JOURNAL_DIRTY
        })
        .into();
        if self.base.has_ecc() {
            crate::ecc::stamp(&mut block, 0x80);
        }
        self.device
            .write_at(self.base.geo().byte_of(self.journal.inode), &block)?;
        Ok(())
    }
}

/// How many images a descriptor of a log has room for.
fn per_descriptor(size: usize, sb: &JournalSuperBlock) -> usize {
    let form = LogForm::of(sb.s_feature_incompat.get());
    // The first tag of a descriptor is followed by a UUID; the others follow closely.
    let space = size - size_of::<BlockHeader>() - TAG_UUID - form.tail_bytes();
    space / form.tag_bytes()
}

/// An empty record block.
fn record(size: usize, kind: u32, sequence: u32) -> Box<[u8]> {
    let mut block = vec![0; size].into_boxed_slice();
    let head = BlockHeader {
        h_magic: MAGIC.into(),
        h_blocktype: kind.into(),
        h_sequence: sequence.into(),
    };
    block[..size_of::<BlockHeader>()].copy_from_slice(head.as_bytes());
    block
}
