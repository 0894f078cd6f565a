//! An open volume: the device, what its superblock says, and what its journals still hold.

pub mod inodes;
pub mod kinds;
pub mod lockname;
pub mod path;
pub mod scan;
pub mod system;
pub mod tree;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::block::{BlockBuf, BlockSource, View, VolumeInfo};
use crate::device::{Device, Identity};
use crate::error::{Error, IoError, Result};
use crate::layout::{SUPER_BLOCK_BLKNO, SUPER_BLOCK_SIGNATURE};
use crate::read::journal::{self, Journal};
use crate::units::{BlockNo, Geometry, Slot};
use system::SystemFile;

/// An open volume.
///
/// Reading goes through [`Volume::view`], which shows the volume as it will be once its journals
/// are replayed. Writing goes through [`crate::txn`].
#[derive(Debug)]
pub struct Volume<D> {
    device: D,
    info: VolumeInfo,
    pending: BTreeMap<BlockNo, Box<[u8]>>,
    journals: Vec<JournalState>,
    /// What [`Volume::watch`] found, when it found nobody alive.
    alone: Option<watch::Alone>,
    /// Whether somebody else answers for that: see [`Volume::trust`].
    trusted: bool,
    /// Whether a commit failed so late that the journals must be read again.
    unfinished: AtomicBool,
}

/// What was found in a slot's journal when the volume was opened.
#[derive(Debug)]
pub struct JournalState {
    /// The slot.
    pub slot: Slot,
    /// The journal, or why it cannot be used.
    pub journal: Result<Journal>,
    /// Number of blocks that wait in its log.
    pub pending_blocks: usize,
    /// Number of transactions that wait in its log.
    pub pending_transactions: u32,
    /// Transaction id behind the last one of the log.
    pub next_sequence: u32,
}

impl<D: Device> Volume<D> {
    /// Opens the volume on a device by its primary superblock.
    ///
    /// # Errors
    /// There is no volume, or none that this library can read.
    pub fn open(device: D) -> Result<Self> {
        let info = probe(&device, false)?;
        Self::with_info(device, info)
    }

    /// As [`Volume::open`], for a checker: a superblock that drivers refuse because more than one bit of
    /// it flipped is taken as it was, where that is known.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_mending(device: D) -> Result<Self> {
        let info = probe(&device, true)?;
        Self::with_info(device, info)
    }

    /// Opens a volume by its backup superblock number `backup`, 1 to 6.
    ///
    /// # Errors
    /// There is no usable backup there.
    pub fn open_backup(device: D, backup: u32, block_bits: Option<u32>) -> Result<Self> {
        if !(1..=6).contains(&backup) {
            let what = format!("there is no backup superblock {backup}; they are numbered 1 to 6");
            return Err(Error::Input { what });
        }
        let offset = 1u64 << (30 + 2 * (backup - 1));
        for bits in Geometry::BLOCK_BITS
            .rev()
            .filter(|b| block_bits.is_none_or(|want| want == *b))
        {
            let mut block = vec![0; 1 << bits];
            if device.read_at(offset, &mut block).is_err() {
                continue;
            }
            if let Ok(info) = VolumeInfo::from_superblock(&block, BlockNo(offset >> bits))
                && info.geo.block_bits() == bits
            {
                return Self::with_info(device, info);
            }
        }
        let why = format!("no backup superblock {backup} at byte {offset}");
        Err(Error::NotAVolume { why })
    }

    fn with_info(device: D, info: VolumeInfo) -> Result<Self> {
        if device.size() < info.geo.bytes() {
            return Err(Error::NotAVolume {
                why: format!(
                    "the volume has {} bytes, but the device ends at byte {}",
                    info.geo.bytes(),
                    device.size()
                ),
            });
        }
        let mut volume = Self {
            device,
            info,
            pending: BTreeMap::new(),
            journals: Vec::new(),
            alone: None,
            trusted: false,
            unfinished: AtomicBool::new(false),
        };
        volume.load_journals();
        Ok(volume)
    }

    /// Set by a commit that failed when its change was in the log already.
    pub(crate) const fn unfinished(&self) -> &AtomicBool {
        &self.unfinished
    }

    /// After a commit that failed when its change was in the log already: shows the volume with that
    /// change, and lets nothing begin before it is replayed. Else does nothing.
    pub fn reload_unfinished(&mut self) {
        if std::mem::take(self.unfinished.get_mut()) {
            self.load_journals();
        }
    }

    /// (Re)reads all journals and what they still hold.
    pub(crate) fn load_journals(&mut self) {
        self.pending.clear();
        let mut states = Vec::new();
        let mut pending = BTreeMap::new();
        for slot in (0..self.info.max_slots).map(Slot) {
            let view = self.view();
            let mut state = JournalState {
                slot,
                journal: system::find(view, SystemFile::Journal(slot))
                    .and_then(|blkno| Journal::open(view, blkno)),
                pending_blocks: 0,
                pending_transactions: 0,
                next_sequence: 0,
            };
            if let Ok(journal) = &state.journal
                && journal.needs_replay()
            {
                match journal::pending(view, journal) {
                    Ok(found) => {
                        state.pending_blocks = found.blocks.len();
                        state.pending_transactions = found.transactions;
                        state.next_sequence = found.next_sequence;
                        pending.extend(found.blocks);
                    }
                    Err(error) => state.journal = Err(error),
                }
            }
            states.push(state);
        }
        self.pending = pending;
        self.journals = states;
        // The log may hold a newer superblock.
        let blkno = self.info.superblock;
        if let Some(block) = self.pending.get(&blkno)
            && let Ok(info) = VolumeInfo::from_superblock(block, blkno)
        {
            self.info = info;
        }
    }

    /// Learns anew what the superblock and the journals say, after they may have changed.
    ///
    /// # Errors
    /// The superblock cannot be used any more; then all stays as it was learned before.
    pub fn reread(&mut self) -> Result<()> {
        let blkno = self.info.superblock;
        let mut block = vec![0; self.info.geo.block_bytes()];
        self.device
            .read_at(self.info.geo.byte_of(blkno), &mut block)?;
        self.info = VolumeInfo::from_superblock(&block, blkno)?;
        self.load_journals();
        Ok(())
    }

    /// What the superblock says.
    pub const fn info(&self) -> &VolumeInfo {
        &self.info
    }

    /// The device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The device, when the volume is no longer needed.
    pub fn into_device(self) -> D {
        self.device
    }

    /// The state of each slot's journal.
    pub fn journals(&self) -> &[JournalState] {
        &self.journals
    }

    /// Blocks that wait in journals, with their images.
    pub const fn pending(&self) -> &BTreeMap<BlockNo, Box<[u8]>> {
        &self.pending
    }

    /// A sight of the volume as it will be once its journals are replayed.
    pub fn view(&self) -> View<'_> {
        View::new(self, &self.info)
    }
}

impl<D: Device> BlockSource for Volume<D> {
    fn read_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>> {
        let bytes = self.info.geo.block_bytes();
        let offset = self.info.geo.byte_of(first);
        match self.pending.range(first..first.plus(count as u64)).next() {
            Some((_, image)) if count == 1 => return Ok(BlockBuf::Borrowed(image)),
            Some(_) => {}
            None => {
                if let Some(mapped) = self.device.mapped(offset, count * bytes) {
                    return Ok(BlockBuf::Borrowed(mapped));
                }
            }
        }
        self.copy_blocks(first, count)
    }

    fn copy_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>> {
        let bytes = self.info.geo.block_bytes();
        let mut buf = vec![0; count * bytes].into_boxed_slice();
        self.device
            .read_at(self.info.geo.byte_of(first), &mut buf)?;
        let replaced = self.pending.range(first..first.plus(count as u64));
        for (blkno, image) in replaced {
            let at = crate::units::index(blkno.since(first)) * bytes;
            buf[at..at + bytes].copy_from_slice(image);
        }
        Ok(BlockBuf::Owned(buf))
    }

    fn prefetch_blocks(&self, first: BlockNo, count: u64) {
        let geo = &self.info.geo;
        let bytes = crate::units::index(count.saturating_mul(geo.block_bytes() as u64));
        self.device.prefetch(geo.byte_of(first), bytes);
    }
}

/// Which volume is on a device, when its superblock can be read.
pub fn identity(device: &impl Device) -> Option<Identity> {
    let info = probe(device, false).ok()?;
    Some(Identity {
        uuid: info.uuid,
        generation: info.fs_generation.0,
        at: info.geo.byte_of(info.superblock),
    })
}

/// Finds the superblock of a device.
/// Looks for the superblock; one that is damaged counts when `mends` and it is known what it was.
fn probe(device: &impl Device, mends: bool) -> Result<VolumeInfo> {
    let mut sector = [0; 512];
    device.read_at(0, &mut sector).map_err(|error| {
        let why = if is_end(&error) {
            format!("the device has only {} bytes", device.size())
        } else {
            error.to_string()
        };
        Error::NotAVolume { why }
    })?;
    if VolumeInfo::is_ocfs1(&sector) {
        return Err(Error::Unsupported {
            what: "an OCFS version 1 volume".to_owned(),
        });
    }
    let mut first_error = None;
    for bits in Geometry::BLOCK_BITS {
        let mut block = vec![0; 1 << bits];
        match device.read_at(SUPER_BLOCK_BLKNO << bits, &mut block) {
            Ok(()) if block.starts_with(&SUPER_BLOCK_SIGNATURE) || mends && is_near(&block) => {}
            // A place that cannot be read may be the one; one beyond the end is not.
            Err(error) if !is_end(&error) => {
                let why = error.to_string();
                first_error.get_or_insert(Error::NotAVolume { why });
                continue;
            }
            _ => continue,
        }
        let blkno = BlockNo(SUPER_BLOCK_BLKNO);
        let info = VolumeInfo::from_superblock(&block, blkno).or_else(|error| {
            let mended = VolumeInfo::mended(&block, blkno).filter(|_| mends);
            mended.map(|(info, _)| info).ok_or(error)
        });
        match info {
            Ok(info) if info.geo.block_bits() == bits => return Ok(info),
            Ok(info) => {
                let bits = info.geo.block_bits();
                let why =
                    format!("the superblock asks for blocks of 2^{bits} bytes but lies elsewhere");
                first_error.get_or_insert(Error::NotAVolume { why });
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::NotAVolume {
        why: "no OCFS2 superblock at 1, 2, 4 or 8 KiB".to_owned(),
    }))
}

/// Whether a block may have begun with the signature before no more than a few bits of it flipped.
fn is_near(block: &[u8]) -> bool {
    let pairs = block.iter().zip(SUPER_BLOCK_SIGNATURE);
    let wrong: u32 = pairs.map(|(found, due)| (found ^ due).count_ones()).sum();
    wrong <= 16
}

/// Whether a read failed because the device ends there.
fn is_end(error: &IoError) -> bool {
    error.source.kind() == std::io::ErrorKind::UnexpectedEof
}
