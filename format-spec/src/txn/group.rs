//! Several changes, made one after the other, that become part of the volume together.
//!
//! A [`Txn`] lives as long as its borrow of the volume. A [`Group`] owns the volume while changes
//! gather, so that a program can read commands in between: each [`Group::step`] is a `Txn` over what
//! the steps before it staged, and [`Group::view`] shows that state to every walk. A step that fails
//! leaves the group as it was.
//!
//! Nothing that is in use is written before the commit, not even data: what a step allocated it
//! writes at once, everything else is staged and goes through the journal (`Txn::written_runs`).

use crate::block::{BlockBuf, BlockSource, View, VolumeInfo};
use crate::device::{Device, DeviceMut};
use crate::error::{Error, Result};
use crate::txn::clusters::ClusterAlloc;
use crate::txn::quota::Charges;
use crate::txn::suballoc::SubAllocs;
use crate::txn::{Committed, StagedBlocks, Txn, read_over};
use crate::units::{BlockNo, Slot};
use crate::volume::Volume;

/// A volume together with changes that it does not have yet.
#[derive(Debug)]
pub struct Group<D> {
    volume: Volume<D>,
    /// What the superblock says with the changes.
    info: VolumeInfo,
    parts: Parts,
}

/// What a transaction holds, apart from its borrows.
#[derive(Clone, Debug)]
struct Parts {
    slot: Slot,
    staged: StagedBlocks,
    logged: usize,
    clusters: ClusterAlloc,
    suballocs: SubAllocs,
    charges: Charges,
}

/// A group that could not begin: the volume, and why.
#[derive(Debug)]
pub struct NotBegun<D> {
    /// The volume, as it was.
    pub volume: Volume<D>,
    /// Why.
    pub error: Error,
}

impl<D: DeviceMut> Group<D> {
    /// Begins a group of changes.
    ///
    /// # Errors
    /// As [`Volume::begin`].
    pub fn begin(mut volume: Volume<D>) -> Result<Self, Box<NotBegun<D>>> {
        let parts = match volume.begin() {
            Ok(txn) => parts_of(txn),
            Err(error) => return Err(Box::new(NotBegun { volume, error })),
        };
        let info = volume.info().clone();
        Ok(Self {
            volume,
            info,
            parts,
        })
    }

    /// Makes a change, all of it or nothing.
    ///
    /// # Errors
    /// The change fails; the group is as before.
    pub fn step<T, E: From<Error>>(
        &mut self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let saved = self.parts.clone();
        let taken = std::mem::replace(&mut self.parts, saved);
        let mut txn = joined(&self.volume, &self.info, taken);
        let done = change(&mut txn)?;
        let (load, room) = (txn.journal_load(), txn.journal_room()?);
        if load > room {
            let why = format!(
                "with it the group changes {load} blocks, but the journal has room for {room}; \
                 commit what there is first"
            );
            return Err(Error::Refused { why }.into());
        }
        let mut parts = parts_of(txn);
        parts.clusters.settle();
        if let Some(block) = parts.staged.get(&self.info.superblock) {
            let mut block = block.clone();
            block.stamp();
            self.info = VolumeInfo::from_superblock(&block.bytes, self.info.superblock)?;
        }
        self.parts = parts;
        Ok(done)
    }

    /// Makes the changes part of the volume.
    ///
    /// # Errors
    /// As [`Txn::commit`].
    pub fn commit(self) -> (Volume<D>, Result<Committed>) {
        let Self {
            volume,
            info,
            parts,
        } = self;
        let done = joined(&volume, &info, parts).commit();
        (volume, done)
    }
}

impl<D: Device> Group<D> {
    /// The volume with the changes.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self, &self.info)
    }

    /// The volume without the changes.
    #[must_use]
    pub const fn volume(&self) -> &Volume<D> {
        &self.volume
    }

    /// Number of blocks that the changes hold in memory.
    #[must_use]
    pub fn staged_blocks(&self) -> usize {
        self.parts.staged.len()
    }

    /// Gives the changes up.
    #[must_use]
    pub fn abort(self) -> Volume<D> {
        self.volume
    }
}

impl<D: Device> BlockSource for Group<D> {
    fn read_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>> {
        read_over(&self.volume, &self.parts.staged, first, count)
    }

    fn prefetch_blocks(&self, first: BlockNo, count: u64) {
        self.volume.prefetch_blocks(first, count);
    }
}

fn joined<'v, D: DeviceMut>(volume: &'v Volume<D>, info: &'v VolumeInfo, parts: Parts) -> Txn<'v> {
    Txn {
        base: volume,
        device: volume.device(),
        info,
        slot: parts.slot,
        staged: parts.staged,
        logged: parts.logged,
        clusters: parts.clusters,
        suballocs: parts.suballocs,
        charges: parts.charges,
        unfinished: volume.unfinished(),
        grouped: true,
        name_hashes: super::EVERY_HASH,
    }
}

fn parts_of(txn: Txn<'_>) -> Parts {
    Parts {
        slot: txn.slot,
        staged: txn.staged,
        logged: txn.logged,
        clusters: txn.clusters,
        suballocs: txn.suballocs,
        charges: txn.charges,
    }
}
