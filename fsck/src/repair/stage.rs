//! The staged volume: where repairs edit blocks. Nothing of it reaches the device before the whole
//! was proven.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use cowfs_format::block::{Checked, EccState, MetaBlock, View};
use cowfs_format::device::{DeviceMut, OverlayDevice};
use cowfs_format::ecc::{self, Verdict};
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::GroupDesc;
use cowfs_format::layout::{DINODE_HEAD, Dinode, GROUP_BITMAP};
use cowfs_format::read::chain::{ChainsView, count_ones};
use cowfs_format::txn::{Timestamp, Txn};
use cowfs_format::units::{BlockNo, ClusterNo, Geometry, low16};
use cowfs_format::volume::Volume;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::Evidence;
use crate::pass::superblock;

/// A volume seen through repairs.
pub(super) type Staged<'d> = Volume<OverlayDevice<&'d dyn DeviceMut>>;

/// The error of a repair that cannot be made.
pub(super) fn cannot(why: &str) -> Error {
    let why = why.to_owned();
    Error::Refused { why }
}

/// A staged volume with what its last check learned.
pub(super) struct Stage<'s, 'd> {
    pub(super) volume: &'s mut Staged<'d>,
    pub(super) evidence: &'s Evidence,
    /// The time that repairs leave in what they make.
    pub(super) now: Timestamp,
    /// Whether journals beyond help are emptied, whatever they may hold.
    pub(super) resets_journals: bool,
    /// Whether clusters that hold metadata are not given back, because it may be in use.
    pub(super) spares_metadata: bool,
    /// What was rebuilt as a whole in this round: what of, and where.
    done: HashSet<(&'static str, BlockNo)>,
    /// Attributes to be dropped when the round ends, since dropping one renumbers the others.
    dropped: BTreeMap<(BlockNo, Option<BlockNo>), Vec<u64>>,
    /// Clusters that nothing used and that a repair of this round gave to somebody.
    pub(super) adopted: HashSet<ClusterNo>,
    /// Directories that clusters which nothing uses say they are of.
    pub(super) idle_directories: OnceCell<HashSet<BlockNo>>,
    /// Blocks in clusters that nothing uses, by the group that they say they came from, with their bits.
    pub(super) idle_blocks: OnceCell<HashMap<BlockNo, Vec<(u64, BlockNo)>>>,
    /// Blocks that were in each other's places before this round, and are not any more.
    pub(super) brought_home: HashSet<BlockNo>,
    /// Inodes of system files that got their names again in this round.
    pub(super) named: HashSet<BlockNo>,
}

impl<'s, 'd> Stage<'s, 'd> {
    pub(super) fn new(
        volume: &'s mut Staged<'d>,
        evidence: &'s Evidence,
        now: Timestamp,
        resets_journals: bool,
    ) -> Self {
        let done = HashSet::new();
        Self {
            volume,
            evidence,
            now,
            resets_journals,
            spares_metadata: false,
            done,
            dropped: BTreeMap::new(),
            adopted: HashSet::new(),
            idle_directories: OnceCell::new(),
            idle_blocks: OnceCell::new(),
            brought_home: HashSet::new(),
            named: HashSet::new(),
        }
    }

    /// Notes that an attribute is to be dropped: its owner, its block, its number.
    pub(super) fn drop_attribute(&mut self, owner: BlockNo, block: Option<BlockNo>, index: u64) {
        self.dropped.entry((owner, block)).or_default().push(index);
    }

    /// Ends the round. An attribute that cannot be dropped is found again by the next.
    pub(super) fn finish(self) {
        for ((owner, block), gone) in &self.dropped {
            let _ = super::xattr::drop_entries(&self, *owner, *block, gone);
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        self.volume.view().mending()
    }

    pub(super) fn geo(&self) -> Geometry {
        *self.volume.view().geo()
    }

    /// Whether something is yet to be rebuilt in this round; it then counts as being so.
    pub(super) fn first(&mut self, what: &'static str, blkno: BlockNo) -> bool {
        self.done.insert((what, blkno))
    }

    /// Edits a run of `count` blocks whose check, if any, lies at `check_at`. One flipped bit is put
    /// right on the way; a run whose check says more is not touched.
    pub(super) fn edit_run(
        &self,
        first: BlockNo,
        count: usize,
        check_at: Option<usize>,
        change: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let view = self.view();
        let mut bytes = view.run(first, count)?.into_owned();
        let check_at = check_at.filter(|_| view.has_ecc());
        if let Some(at) = check_at {
            match ecc::verify(&bytes, at) {
                Verdict::Good => {}
                Verdict::OneBit { bit } => ecc::flip(&mut bytes, bit),
                Verdict::Bad => return Err(cannot("its checksum is wrong")),
            }
        }
        change(&mut bytes)?;
        self.put_run(first, check_at, &mut bytes)
    }

    /// Writes a run of blocks, with its check.
    pub(super) fn put_run(
        &self,
        first: BlockNo,
        check_at: Option<usize>,
        bytes: &mut [u8],
    ) -> Result<()> {
        if let Some(at) = check_at.filter(|_| self.view().has_ecc()) {
            ecc::stamp(bytes, at);
        }
        let offset = self.geo().byte_of(first);
        Ok(self.volume.device().write_at(offset, bytes)?)
    }

    /// Edits the bytes of a metadata block. What more than one flipped bit did to it is put right on the way,
    /// when it can be told.
    pub(super) fn edit_bytes<B: MetaBlock>(
        &self,
        blkno: BlockNo,
        change: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let (block, _) = self.view().inspect::<B>(blkno);
        let mended = |block: &Checked<'_, B>| matches!(block.ecc(), EccState::Mended { .. });
        if let Some(block) = block.filter(mended) {
            self.put_run(blkno, Some(B::CHECK_AT), &mut block.into_bytes())?;
        }
        self.edit_run(blkno, 1, Some(B::CHECK_AT), |bytes| {
            if !bytes.starts_with(&B::SIGNATURE) {
                return Err(cannot("the block is not what it was"));
            }
            change(bytes)
        })
    }

    /// Edits the head of a metadata block.
    pub(super) fn edit<B: MetaBlock + IntoBytes>(
        &self,
        blkno: BlockNo,
        change: impl FnOnce(&mut B),
    ) -> Result<()> {
        self.edit_bytes::<B>(blkno, |bytes| {
            let (head, _) = B::mut_from_prefix(bytes).map_err(|_| cannot("the block is short"))?;
            change(head);
            Ok(())
        })
    }

    /// Edits the superblock that the volume was opened by.
    pub(super) fn edit_superblock(
        &self,
        change: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let blkno = self.view().info().superblock;
        let (mut bytes, state) = self.superblock()?;
        if self.view().has_ecc() && matches!(state, EccState::Off) {
            return Err(cannot("its checksum is wrong"));
        }
        change(&mut bytes)?;
        self.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)
    }

    /// The superblock that the volume was opened by, put right as far as its check tells, and what that was.
    pub(super) fn superblock(&self) -> Result<(Box<[u8]>, EccState)> {
        let blkno = self.view().info().superblock;
        let mut bytes = self.view().raw(blkno)?.into_owned();
        let state = match self.view().has_ecc() {
            true => superblock::put_right(&mut bytes, blkno),
            false => EccState::Off,
        };
        Ok((bytes, state))
    }

    /// Runs a transaction over the staged volume.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut txn = self.volume.begin_staged();
        let done = work(&mut txn)?;
        if self.evidence.quota_lost {
            // The files are counted anew once they can be used.
            txn.forget_charges();
        }
        // Nor does an entry that cannot be found keep anything from being repaired: it is counted anew, too.
        let _ = txn.apply_charges();
        txn.write_home()?;
        Ok(done)
    }

    /// Sets or clears bits of a group, and counts them in the group, its chain and its allocator.
    pub(super) fn set_bits(
        &self,
        allocator: BlockNo,
        group: BlockNo,
        bits: std::ops::Range<u32>,
        value: bool,
    ) -> Result<()> {
        let (mut delta, mut chain) = (0i64, 0);
        self.edit_bytes::<GroupDesc>(group, |bytes| {
            let (head, _) =
                GroupDesc::read_from_prefix(bytes).map_err(|_| cannot("the group is short"))?;
            let total = u32::from(head.bg_bits.get());
            let room = usize::from(head.bg_size.get());
            let bitmap = bytes
                .get_mut(GROUP_BITMAP..)
                .and_then(|rest| rest.get_mut(..room))
                .ok_or_else(|| cannot("the bitmap does not fit its block"))?;
            let before = count_ones(bitmap, total);
            for bit in bits.start..bits.end.min(total) {
                if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
                    let mask = 1 << (bit % 8);
                    *byte = if value { *byte | mask } else { *byte & !mask };
                }
            }
            let after = count_ones(bitmap, total);
            delta = i64::from(after) - i64::from(before);
            chain = usize::from(head.bg_chain.get());
            let free = i64::from(head.bg_free_bits_count.get()) - delta;
            let free = low16(u64::try_from(free.max(0)).unwrap_or(0));
            bytes[0x0C..0x0E].copy_from_slice(&free.to_le_bytes());
            Ok(())
        })?;
        self.edit_bytes::<Dinode>(allocator, |bytes| {
            let used = ChainsView::parse(&bytes[DINODE_HEAD..]).map_or(0, |list| list.recs.len());
            if chain < used {
                add(bytes, DINODE_HEAD + 16 + 16 * chain, -delta);
            }
            add(bytes, 0xB8, delta);
            Ok(())
        })
    }
}

/// Adds to a number of 32 bits.
fn add(bytes: &mut [u8], at: usize, delta: i64) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        let now = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
        let new = u32::try_from((i64::from(now) + delta).max(0)).unwrap_or(u32::MAX);
        place.copy_from_slice(&new.to_le_bytes());
    }
}
