//! Transactions: staged edits of metadata that reach the volume all together or not at all.
//!
//! A [`Txn`] borrows its volume exclusively, so nobody reads stale blocks beside it. Edits are made
//! in copies of whole blocks, in place: bytes that this library does not know survive. Nothing is
//! written before [`Txn::commit`], except into space that was free when the transaction began
//! (file data, new blocks), which nothing refers to until the commit.
//!
//! Space that a transaction frees is not handed out again by it: until the commit is durable, the
//! volume on disk still uses it.

mod clusters;
mod commit;
mod data;
mod dir;
mod dx;
mod group;
mod inode;
mod local_quota;
mod mark;
mod merge;
mod pack;
mod quota;
mod recover;
mod refcount;
mod remake;
mod suballoc;
mod system;
mod tree;
mod unlink;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) use clusters::ClusterPool;
pub use commit::Committed;
pub use group::{Group, NotBegun};
pub use inode::{NewInode, Timestamp};
pub use recover::Recovered;
pub(crate) use refcount::{Adjust, sharers_of, summed};
pub use tree::TreeRoot;

use crate::block::{BlockBuf, BlockSource, MetaBlock, View, VolumeInfo};
use crate::device::{Device, DeviceMut, OverlayDevice};
use crate::ecc;
use crate::error::{Error, Result};
use crate::layout::{HashKind, Incompat, RoCompat};
use crate::units::{BlockNo, Slot};
use crate::volume::Volume;

/// A transaction on a volume.
pub struct Txn<'v> {
    base: &'v dyn BlockSource,
    device: &'v dyn DeviceMut,
    info: &'v VolumeInfo,
    /// Slot whose journal and allocators the transaction uses.
    slot: Slot,
    staged: BTreeMap<BlockNo, Staged>,
    /// How many of them are not fresh: they go through the journal.
    logged: usize,
    clusters: clusters::ClusterAlloc,
    suballocs: suballoc::SubAllocs,
    charges: quota::Charges,
    /// Set when a commit fails so late that its log must be replayed.
    unfinished: &'v AtomicBool,
    /// Whether it is a step of a [`Group`]: then only what this step allocated is written at once,
    /// because what earlier steps staged can still be given up.
    grouped: bool,
    /// Hashes under which names that have two are entered into indexes.
    name_hashes: &'static [HashKind],
}

/// All hashes of a name: whoever looks finds it.
const EVERY_HASH: &[HashKind] = &[HashKind::Unsigned, HashKind::Signed];

/// The blocks that a transaction holds.
type StagedBlocks = BTreeMap<BlockNo, Staged>;

/// A block as it will be. Copies share the bytes until one of them is edited.
#[derive(Clone, Debug)]
struct Staged {
    bytes: Arc<Vec<u8>>,
    /// Whether the block may be written before the commit: it lies in space that was free when the
    /// transaction began, and nobody looks there.
    fresh: bool,
    /// Where its check lies; `None` on volumes without checks and in blocks that have none.
    check_at: Option<usize>,
}

impl Staged {
    /// Gives the block its check, as the last thing before it is written.
    fn stamp(&mut self) {
        if let Some(check_at) = self.check_at {
            ecc::stamp(Arc::make_mut(&mut self.bytes).as_mut_slice(), check_at);
        }
    }
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Txn")
            .field("staged", &self.staged.len())
            .finish_non_exhaustive()
    }
}

impl<D: DeviceMut> Volume<D> {
    /// Begins a transaction. Dirty journals must have been replayed: see [`Volume::recover`]; and on
    /// a volume that a cluster has used, nobody may be alive: see [`Volume::watch`].
    ///
    /// # Errors
    /// The volume cannot be written by this library, or must be recovered first.
    pub fn begin(&mut self) -> Result<Txn<'_>> {
        self.reload_unfinished();
        let usable = self.journals().iter().find(|j| j.journal.is_ok());
        let slot = usable.map(|j| j.slot);
        self.begin_in(slot)
    }

    /// As [`Volume::begin`], with the journal and the allocators of that slot.
    ///
    /// # Errors
    /// As [`Volume::begin`], or there is no such slot, or its journal is of no use.
    pub fn begin_in(&mut self, slot: Option<Slot>) -> Result<Txn<'_>> {
        let refused = |why: String| Err(Error::Refused { why });
        let features = self.info().features;
        let unknown = features.ro_compat.difference(RoCompat::all());
        if !unknown.is_empty() {
            return refused(format!(
                "unknown ro_compat feature bits {:#x}",
                unknown.bits()
            ));
        }
        let busy = Incompat::RESIZE_INPROG.union(Incompat::TUNEFS_INPROG);
        if features.incompat.intersects(busy) {
            return refused("an interrupted resize or tuning; finish it with its tool".to_owned());
        }
        self.reload_unfinished();
        if !self.pending().is_empty() {
            return refused("its journal is dirty; it must be replayed first".to_owned());
        }
        self.refuse_shared()?;
        let usable = |slot: &Slot| {
            let mut states = self.journals().iter();
            states.any(|state| state.slot == *slot && state.journal.is_ok())
        };
        let Some(slot) = slot.filter(usable) else {
            let mut errors = self
                .journals()
                .iter()
                .filter_map(|j| j.journal.as_ref().err());
            return refused(match errors.next() {
                Some(error) => format!("no slot has a usable journal: {error}"),
                None => "no slot has a journal; run fsck.cowfs".to_owned(),
            });
        };
        let volume: &Self = self;
        Ok(Txn {
            base: volume,
            device: volume.device(),
            info: volume.info(),
            slot,
            staged: BTreeMap::new(),
            logged: 0,
            clusters: clusters::ClusterAlloc::default(),
            suballocs: suballoc::SubAllocs::default(),
            charges: quota::Charges::default(),
            unfinished: volume.unfinished(),
            grouped: false,
            name_hashes: EVERY_HASH,
        })
    }
}

impl<D: Device> Volume<OverlayDevice<D>> {
    /// Begins a transaction over writes that are kept in memory, to be ended with
    /// [`Txn::write_home`]: nobody else sees them, so neither journals nor other nodes matter.
    pub fn begin_staged(&mut self) -> Txn<'_> {
        let usable = self.journals().iter().find(|j| j.journal.is_ok());
        let slot = usable.map_or(Slot(0), |j| j.slot);
        let volume: &Self = self;
        Txn {
            base: volume,
            device: volume.device(),
            info: volume.info(),
            slot,
            staged: BTreeMap::new(),
            clusters: clusters::ClusterAlloc::default(),
            suballocs: suballoc::SubAllocs::default(),
            logged: 0,
            charges: quota::Charges::default(),
            unfinished: volume.unfinished(),
            grouped: false,
            name_hashes: EVERY_HASH,
        }
    }
}

impl BlockSource for Txn<'_> {
    fn read_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>> {
        read_over(self.base, &self.staged, first, count)
    }

    fn prefetch_blocks(&self, first: BlockNo, count: u64) {
        self.base.prefetch_blocks(first, count);
    }
}

/// Blocks as they are with what is staged over them.
fn read_over<'b>(
    base: &'b dyn BlockSource,
    staged: &'b StagedBlocks,
    first: BlockNo,
    count: usize,
) -> Result<BlockBuf<'b>> {
    let mut staged = staged.range(first..first.plus(count as u64)).peekable();
    if staged.peek().is_none() {
        return base.read_blocks(first, count);
    }
    if count == 1
        && let Some((_, block)) = staged.peek()
    {
        return Ok(BlockBuf::Staged(&block.bytes));
    }
    let mut buf = base.read_blocks(first, count)?.into_owned();
    let bytes = buf.len() / count.max(1);
    for (blkno, block) in staged {
        let at = crate::units::index(blkno.since(first)) * bytes;
        buf[at..at + bytes].copy_from_slice(&block.bytes);
    }
    Ok(BlockBuf::Owned(buf))
}

impl<'v> Txn<'v> {
    /// The volume as this transaction will leave it.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self, self.info)
    }

    /// What the superblock says of the volume.
    #[must_use]
    pub const fn info(&self) -> &'v VolumeInfo {
        self.info
    }

    /// Bytes of a block.
    fn block_bytes(&self) -> usize {
        self.info.geo.block_bytes()
    }

    /// Edits a metadata block in place, after its identity and check were tested.
    ///
    /// # Errors
    /// The block cannot be read or is not what it should be.
    pub fn edit<B: MetaBlock>(&mut self, blkno: BlockNo) -> Result<Edit<'_, B>> {
        let block = self.view().block::<B>(blkno)?;
        if !self.staged.contains_key(&blkno) {
            let bytes = block.into_bytes();
            self.stage(blkno, bytes);
        }
        Ok(self.guard(blkno, Some(B::CHECK_AT)))
    }

    /// Edits a directory block.
    ///
    /// # Errors
    /// The block cannot be read or does not belong to the directory.
    pub(crate) fn edit_dir_block(
        &mut self,
        blkno: BlockNo,
        directory: BlockNo,
        with_trailer: bool,
    ) -> Result<Edit<'_, Raw>> {
        let (buf, _) = self.view().dir_block(blkno, directory, with_trailer)?;
        if !self.staged.contains_key(&blkno) {
            let bytes = buf.into_owned();
            self.stage(blkno, bytes);
        }
        let check_at = self.block_bytes() - ecc::CHECK_BYTES;
        Ok(self.guard(blkno, with_trailer.then_some(check_at)))
    }

    /// Edits a block without a signature; its check, if any, lies at `check_at`.
    ///
    /// # Errors
    /// The block cannot be read.
    pub(crate) fn edit_raw(
        &mut self,
        blkno: BlockNo,
        check_at: Option<usize>,
    ) -> Result<Edit<'_, Raw>> {
        if !self.staged.contains_key(&blkno) {
            let bytes = self.view().raw(blkno)?.into_owned();
            self.stage(blkno, bytes);
        }
        Ok(self.guard(blkno, check_at))
    }

    /// A new block, all zeros, in space that this transaction allocated. Its check, if any, lies
    /// at `check_at`.
    pub(crate) fn fresh<B>(&mut self, blkno: BlockNo, check_at: Option<usize>) -> Edit<'_, B> {
        let staged = Staged {
            bytes: Arc::new(vec![0; self.block_bytes()]),
            fresh: true,
            check_at: None,
        };
        self.put(blkno, staged);
        self.guard(blkno, check_at)
    }

    fn put(&mut self, blkno: BlockNo, staged: Staged) {
        self.logged += usize::from(!staged.fresh);
        let old = self.staged.insert(blkno, staged);
        self.logged -= usize::from(old.is_some_and(|old| !old.fresh));
    }

    fn take(&mut self, blkno: BlockNo) -> Option<Staged> {
        let old = self.staged.remove(&blkno)?;
        self.logged -= usize::from(!old.fresh);
        Some(old)
    }

    /// Sends a new block through the journal all the same. New inodes need that: fsck.ocfs2 takes
    /// any valid inode in a group of inodes for one in use, whatever the bitmap says.
    pub(crate) fn journal_fresh(&mut self, blkno: BlockNo) {
        if let Some(staged) = self.staged.get_mut(&blkno) {
            self.logged += usize::from(staged.fresh);
            staged.fresh = false;
        }
    }

    /// Takes a whole block as it is to be, check and all: for repairs, which were proven before.
    ///
    /// # Errors
    /// The block lies outside of the volume, or the bytes are no block.
    pub fn put_block(&mut self, blkno: BlockNo, bytes: Box<[u8]>) -> Result<()> {
        if !self.info.geo.contains(blkno, 1) || bytes.len() != self.block_bytes() {
            return Err(crate::error::FaultKind::OutOfVolume.at(blkno).into());
        }
        self.stage(blkno, bytes);
        Ok(())
    }

    /// The slot whose journal the commit goes through.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// Forgets a staged block that is no longer part of the volume.
    fn forget(&mut self, blkno: BlockNo) {
        self.take(blkno);
    }

    /// Takes a block of the volume into the transaction.
    fn stage(&mut self, blkno: BlockNo, bytes: Box<[u8]>) {
        let staged = Staged {
            bytes: Arc::new(bytes.into_vec()),
            fresh: false,
            check_at: None,
        };
        self.put(blkno, staged);
    }

    /// A guard for a block that is staged; its check, if any, lies at `check_at`.
    fn guard<B>(&mut self, blkno: BlockNo, check_at: Option<usize>) -> Edit<'_, B> {
        let has_ecc = self.info.has(Incompat::META_ECC);
        let size = self.block_bytes();
        let logged = &mut self.logged;
        let staged = self.staged.entry(blkno).or_insert_with(|| {
            *logged += 1;
            Staged {
                bytes: Arc::new(vec![0; size]),
                fresh: false,
                check_at: None,
            }
        });
        staged.check_at = check_at.filter(|_| has_ecc);
        Edit {
            bytes: Arc::make_mut(&mut staged.bytes).as_mut_slice(),
            kind: PhantomData,
        }
    }

    /// The most bytes of file data worth sending through the journal: a quarter of the smallest
    /// journal there is.
    pub(crate) const fn journal_data_limit(&self) -> u64 {
        1 << 20
    }

    /// Number of blocks that the transaction holds in memory.
    #[must_use]
    pub fn staged_blocks(&self) -> usize {
        self.staged.len()
    }

    /// Writes what the transaction holds to its places and forgets it, without a journal: for a
    /// volume that is being made and has no superblock yet, so that nobody can see it half done.
    /// Space that was freed can be used again at once.
    ///
    /// # Errors
    /// The device fails, or a quota file cannot be extended.
    pub fn write_home(&mut self) -> Result<()> {
        self.apply_charges()?;
        self.apply_freed_blocks()?;
        self.apply_freed_clusters()?;
        self.clusters = clusters::ClusterAlloc::default();
        let geo = self.info.geo;
        self.logged = 0;
        let mut run: Vec<u8> = Vec::new();
        let mut start = BlockNo(0);
        for (blkno, mut block) in std::mem::take(&mut self.staged) {
            block.stamp();
            let follows = start.plus((run.len() >> geo.block_bits()) as u64) == blkno;
            if !run.is_empty() && (!follows || run.len() >= 1 << 20) {
                self.device.write_at(geo.byte_of(start), &run)?;
                run.clear();
            }
            if run.is_empty() {
                start = blkno;
            }
            run.extend_from_slice(&block.bytes);
        }
        if !run.is_empty() {
            self.device.write_at(geo.byte_of(start), &run)?;
        }
        Ok(())
    }

    /// Whether it is a step of a group, whose earlier steps the volume does not have yet.
    pub(crate) const fn is_grouped(&self) -> bool {
        self.grouped
    }

    /// Ends the transaction without changing the volume.
    pub fn abort(self) {
        drop(self);
    }
}

/// Stands for a block without a head of its own.
#[derive(Debug)]
pub struct Raw;

/// A staged block being edited. It says where the check of the block lies, so that the commit can
/// compute it: no block is written with a stale one.
#[derive(Debug)]
pub struct Edit<'t, B> {
    bytes: &'t mut [u8],
    kind: PhantomData<B>,
}

impl<B> Edit<'_, B> {
    /// The whole block.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The whole block, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl<B: MetaBlock> Deref for Edit<'_, B> {
    type Target = B;

    fn deref(&self) -> &B {
        B::ref_from_prefix(self.bytes)
            .map_or_else(|_| unreachable!("block shorter than head"), |p| p.0)
    }
}

impl<B: MetaBlock + zerocopy::IntoBytes> DerefMut for Edit<'_, B> {
    fn deref_mut(&mut self) -> &mut B {
        B::mut_from_prefix(self.bytes)
            .map_or_else(|_| unreachable!("block shorter than head"), |p| p.0)
    }
}
