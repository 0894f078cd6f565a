//! From bytes to trusted blocks.
//!
//! A [`View`] is a read-only sight of a volume: small, `Copy`, shared by threads. It hands out
//! blocks as [`Checked`] values, and making one is the only place where a block's identity is
//! tested: its signature, its record of its own number, the generation of the volume, and its CRC
//! with the correction of a single flipped bit. A good signature alone proves nothing: journals
//! and earlier formattings are full of good-looking blocks.
//!
//! What drivers read is what [`View::block`] gives. A checker looks through [`View::mending`] and sees
//! more: blocks whose damage the check was not made for, but tells all the same.

mod info;
mod mend;
mod meta;
mod sense;

use std::marker::PhantomData;
use std::ops::Deref;

pub use info::VolumeInfo;
pub use meta::{MetaBlock, check_offset_of, identity_of};
use sense::Sense;
use zerocopy::FromBytes;

use crate::ecc::{self, Flips, Verdict};
use crate::error::{Error, Fault, FaultKind, Result};
use crate::layout::{
    BUCKET_CHECK, DIR_TRAILER, DIR_TRAILER_SIGNATURE, DirBlockTrailer, Incompat, XATTR_BUCKET,
};
use crate::units::{BlockNo, Geometry};

/// Bytes of one or more blocks: borrowed from a mapping or owned.
#[derive(Debug)]
pub enum BlockBuf<'v> {
    /// Bytes that live in the device or a transaction.
    Borrowed(&'v [u8]),
    /// A copy.
    Owned(Box<[u8]>),
    /// A block that a transaction holds. It was tested when it was staged, and gets its check when it
    /// is written.
    Staged(&'v [u8]),
}

impl Deref for BlockBuf<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) | Self::Staged(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl BlockBuf<'_> {
    /// The bytes as a copy of their own.
    #[must_use]
    pub fn into_owned(self) -> Box<[u8]> {
        match self {
            Self::Borrowed(bytes) | Self::Staged(bytes) => bytes.into(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// What blocks are read from: a volume, a volume with staged edits.
pub trait BlockSource: Sync {
    /// Reads `count` blocks from `first` on; the range was found to lie inside the volume.
    ///
    /// # Errors
    /// The device fails.
    fn read_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>>;

    /// As [`BlockSource::read_blocks`], past any mapping: see [`View::scattered`].
    ///
    /// # Errors
    /// The device fails.
    fn copy_blocks(&self, first: BlockNo, count: usize) -> Result<BlockBuf<'_>> {
        self.read_blocks(first, count)
    }

    /// Says that a run of blocks will be read soon.
    fn prefetch_blocks(&self, first: BlockNo, count: u64) {
        let _ = (first, count);
    }
}

/// A read-only sight of a volume.
#[derive(Clone, Copy)]
pub struct View<'v> {
    source: &'v dyn BlockSource,
    info: &'v VolumeInfo,
    mends: bool,
    scattered: bool,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("info", self.info)
            .finish_non_exhaustive()
    }
}

impl<'v> View<'v> {
    /// A view of what `source` holds.
    #[must_use]
    pub const fn new(source: &'v dyn BlockSource, info: &'v VolumeInfo) -> Self {
        Self {
            source,
            info,
            mends: false,
            scattered: false,
        }
    }

    /// The same sight for a checker: a block that more than one bit of damage makes useless to every
    /// driver is handed out as it was ([`EccState::Mended`]), when what was done to it is known and
    /// its contents make sense; and a parity word that would be of no help is noticed.
    #[must_use]
    pub const fn mending(self) -> Self {
        Self {
            mends: true,
            ..self
        }
    }

    /// The same sight for blocks that lie far from each other: they are copied. A mapping would take a
    /// page of page tables for each of them, which costs more than the copy and stays.
    #[must_use]
    pub const fn scattered(self) -> Self {
        Self {
            scattered: true,
            ..self
        }
    }

    /// What the superblock says of the volume.
    #[must_use]
    pub const fn info(self) -> &'v VolumeInfo {
        self.info
    }

    /// Block and cluster sizes.
    #[must_use]
    pub const fn geo(self) -> &'v Geometry {
        &self.info.geo
    }

    /// Whether metadata blocks carry checks.
    #[must_use]
    pub const fn has_ecc(self) -> bool {
        self.info.features.has(Incompat::META_ECC)
    }

    /// The bytes of a run of blocks, whatever they are.
    ///
    /// # Errors
    /// The run lies outside of the volume, or the device fails.
    pub fn run(self, first: BlockNo, count: usize) -> Result<BlockBuf<'v>> {
        if !self.info.geo.contains(first, count as u64) {
            return Err(FaultKind::OutOfVolume.at(first).into());
        }
        if self.scattered {
            self.source.copy_blocks(first, count)
        } else {
            self.source.read_blocks(first, count)
        }
    }

    /// Says that a run of blocks will be read soon; a hint.
    pub fn prefetch(self, first: BlockNo, count: u64) {
        self.source.prefetch_blocks(first, count);
    }

    /// The bytes of a block, whatever it is.
    ///
    /// # Errors
    /// As [`View::run`].
    pub fn raw(self, blkno: BlockNo) -> Result<BlockBuf<'v>> {
        self.run(blkno, 1)
    }

    /// A metadata block, after its identity and check were tested.
    ///
    /// # Errors
    /// The device fails, or the block is not what it should be.
    pub fn block<B: MetaBlock>(self, blkno: BlockNo) -> Result<Checked<'v, B>> {
        let buf = self.raw(blkno)?;
        let view = self.if_near::<B>(&buf, blkno);
        let tested = view.tested(buf, B::CHECK_AT, &self.sense_of::<B>(blkno));
        Ok(identified(tested, blkno, self.info)?)
    }

    /// What `look` makes of the head of a block whose signature, own number and generation are good,
    /// and of what follows it. The check is not tested: this only serves to tell whether a block needs
    /// to be read at all.
    #[must_use]
    pub fn peek<B: MetaBlock, T>(
        self,
        blkno: BlockNo,
        look: impl FnOnce(&B, &[u8]) -> T,
    ) -> Option<T> {
        let buf = self.raw(blkno).ok()?;
        let (head, body) = B::ref_from_prefix(&buf).ok()?;
        let is_itself = buf.get(..8) == Some(B::SIGNATURE.as_slice())
            && head.own_blkno() == blkno.0
            && head.generation() == self.info.fs_generation.0;
        is_itself.then(|| look(head, body))
    }

    /// A metadata block together with all that is wrong in its identity: for checkers, which look
    /// into a damaged block as far as it can be made out. There is no block when it cannot be read
    /// or begins with the wrong signature. The check of a block with faults counts as off.
    #[must_use]
    pub fn inspect<B: MetaBlock>(self, blkno: BlockNo) -> (Option<Checked<'v, B>>, Vec<FaultKind>) {
        let buf = match self.raw(blkno) {
            Ok(buf) => buf,
            Err(Error::Fault(fault)) => return (None, vec![fault.kind]),
            Err(_) => return (None, vec![FaultKind::Unreadable]),
        };
        let view = self.if_near::<B>(&buf, blkno);
        let tested = view.tested(buf, B::CHECK_AT, &self.sense_of::<B>(blkno));
        let (buf, ecc, mut faults) = match tested {
            Ok((buf, ecc)) => (buf, ecc, Vec::new()),
            Err((kind, buf)) => (buf, EccState::Off, vec![kind]),
        };
        let Ok((head, _)) = B::ref_from_prefix(&buf) else {
            return (None, vec![FaultKind::OutOfVolume]);
        };
        let mut found = [0; 8];
        found.copy_from_slice(buf.get(..8).unwrap_or(&[0; 8]));
        if found != B::SIGNATURE {
            let expected = B::NAME;
            return (None, vec![FaultKind::Signature { expected, found }]);
        }
        if head.own_blkno() != blkno.0 {
            let found = head.own_blkno();
            faults.push(FaultKind::SelfBlkno { found });
        }
        if head.generation() != self.info.fs_generation.0 {
            let found = head.generation();
            faults.push(FaultKind::Generation { found });
        }
        let kind = PhantomData;
        let block = Checked {
            buf,
            blkno,
            ecc,
            kind,
        };
        (Some(block), faults)
    }

    /// A bucket of attributes, whose check covers all of its blocks, with what the check said; `None`
    /// in its place when it does not match.
    ///
    /// # Errors
    /// The device fails.
    pub fn bucket(self, first: BlockNo) -> Result<(BlockBuf<'v>, Option<EccState>)> {
        let buf = self.run(first, XATTR_BUCKET >> self.geo().block_bits())?;
        let sense = |sense: Sense<'_>| sense.bucket();
        Ok(told(self.tested(buf, BUCKET_CHECK, &sense)))
    }

    /// A block of a quota file, as [`View::bucket`].
    ///
    /// # Errors
    /// The device fails.
    pub fn quota_block(self, blkno: BlockNo) -> Result<(BlockBuf<'v>, Option<EccState>)> {
        let buf = self.raw(blkno)?;
        let check_at = buf.len().saturating_sub(ecc::CHECK_BYTES);
        let sense = |sense: Sense<'_>| sense.quota();
        Ok(told(self.tested(buf, check_at, &sense)))
    }

    /// A directory block with a trailer that was not looked at, as [`View::bucket`].
    ///
    /// # Errors
    /// The device fails.
    pub fn trailed_block(self, blkno: BlockNo) -> Result<(BlockBuf<'v>, Option<EccState>)> {
        let buf = self.raw(blkno)?;
        let check_at = buf.len().saturating_sub(ecc::CHECK_BYTES);
        let sense = |sense: Sense<'_>| sense.dir_block(blkno, None);
        Ok(told(self.tested(buf, check_at, &sense)))
    }

    /// A directory block; it has a trailer when `with_trailer`, which is then tested.
    ///
    /// # Errors
    /// The device fails, or the trailer does not belong to this block of this directory.
    pub fn dir_block(
        self,
        blkno: BlockNo,
        directory: BlockNo,
        with_trailer: bool,
    ) -> Result<(BlockBuf<'v>, EccState)> {
        if !with_trailer {
            return Ok((self.raw(blkno)?, EccState::Off));
        }
        let (buf, state) = self.trailed_block(blkno)?;
        let state = state.ok_or_else(|| FaultKind::Ecc.at(blkno))?;
        let at = buf.len().saturating_sub(DIR_TRAILER);
        let fault = |kind: FaultKind| Error::from(kind.at(blkno));
        let trailer = DirBlockTrailer::ref_from_bytes(buf.get(at..).unwrap_or_default())
            .map_err(|_| fault(FaultKind::OutOfVolume))?;
        if trailer.db_signature != DIR_TRAILER_SIGNATURE {
            let found = trailer.db_signature;
            return Err(fault(FaultKind::Signature {
                expected: "directory trailer",
                found,
            }));
        }
        if trailer.db_blkno.get() != blkno.0 {
            return Err(fault(FaultKind::SelfBlkno {
                found: trailer.db_blkno.get(),
            }));
        }
        if trailer.db_parent_dinode.get() != directory.0 {
            return Err(fault(FaultKind::Field {
                field: "db_parent_dinode",
                value: trailer.db_parent_dinode.get(),
                rule: "it must be the directory's inode",
            }));
        }
        Ok((buf, state))
    }
}

/// What the check of a block said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EccState {
    /// The volume has no checks.
    Off,
    /// The CRC matched.
    Clean,
    /// One bit was wrong and is corrected in this copy; the device still has it wrong.
    Corrected {
        /// Index of the bit.
        bit: usize,
    },
    /// More was wrong than readers correct, and is corrected in this copy (only [`View::mending`]).
    Mended {
        /// What was wrong.
        flips: Flips,
    },
    /// The CRC matched, but the parity word could not correct anything (only [`View::mending`]).
    Unguarded,
}

/// A metadata block whose identity and check are good.
#[derive(Debug)]
pub struct Checked<'v, B> {
    buf: BlockBuf<'v>,
    blkno: BlockNo,
    ecc: EccState,
    kind: PhantomData<B>,
}

impl<B: MetaBlock> Checked<'_, B> {
    /// Where the block lies.
    #[must_use]
    pub const fn blkno(&self) -> BlockNo {
        self.blkno
    }

    /// The whole block.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// What its check said.
    #[must_use]
    pub const fn ecc(&self) -> EccState {
        self.ecc
    }

    /// The whole block, as a copy of its own.
    #[must_use]
    pub fn into_bytes(self) -> Box<[u8]> {
        self.buf.into_owned()
    }
}

impl<B: MetaBlock> Deref for Checked<'_, B> {
    type Target = B;

    fn deref(&self) -> &B {
        // `decode` made sure that the block is longer than its head, and any bytes are a valid head.
        B::ref_from_prefix(&self.buf)
            .map_or_else(|_| unreachable!("block shorter than head"), |p| p.0)
    }
}

/// Tests a block's identity and check.
///
/// # Errors
/// The block is not what it should be.
pub fn decode<'v, B: MetaBlock>(
    buf: BlockBuf<'v>,
    blkno: BlockNo,
    info: &VolumeInfo,
) -> Result<Checked<'v, B>, Fault> {
    let tested = verified(buf, B::CHECK_AT, info.features.has(Incompat::META_ECC));
    identified(tested, blkno, info)
}

/// Tests the identity of a block whose check was looked at.
fn identified<'v, B: MetaBlock>(
    tested: Tested<'v>,
    blkno: BlockNo,
    info: &VolumeInfo,
) -> Result<Checked<'v, B>, Fault> {
    let (buf, ecc) = tested.map_err(|kind| identify::<B>(kind, blkno))?;
    let (head, _) = B::ref_from_prefix(&buf).map_err(|_| FaultKind::OutOfVolume.at(blkno))?;
    let mut found = [0; 8];
    found.copy_from_slice(buf.get(..8).unwrap_or(&[0; 8]));
    if found != B::SIGNATURE {
        return Err(FaultKind::Signature {
            expected: B::NAME,
            found,
        }
        .at(blkno));
    }
    if head.own_blkno() != blkno.0 {
        return Err(FaultKind::SelfBlkno {
            found: head.own_blkno(),
        }
        .at(blkno));
    }
    if head.generation() != info.fs_generation.0 {
        return Err(FaultKind::Generation {
            found: head.generation(),
        }
        .at(blkno));
    }
    Ok(Checked {
        buf,
        blkno,
        ecc,
        kind: PhantomData,
    })
}

/// A failed check is told as a wrong signature when that is what a reader will want to know.
fn identify<B: MetaBlock>((kind, buf): (FaultKind, BlockBuf<'_>), blkno: BlockNo) -> Fault {
    let mut found = [0; 8];
    found.copy_from_slice(buf.get(..8).unwrap_or(&[0; 8]));
    if found == B::SIGNATURE {
        kind.at(blkno)
    } else {
        FaultKind::Signature {
            expected: B::NAME,
            found,
        }
        .at(blkno)
    }
}

/// A block with what its check said, or with its fault.
type Tested<'v> = Result<(BlockBuf<'v>, EccState), (FaultKind, BlockBuf<'v>)>;

/// The block whatever its check said.
fn told(tested: Tested<'_>) -> (BlockBuf<'_>, Option<EccState>) {
    match tested {
        Ok((buf, state)) => (buf, Some(state)),
        Err((_, buf)) => (buf, None),
    }
}

/// Compares a block with its check and corrects a single bit, in a copy.
fn verified(buf: BlockBuf<'_>, check_at: usize, has_ecc: bool) -> Tested<'_> {
    if !has_ecc {
        return Ok((buf, EccState::Off));
    }
    if let BlockBuf::Staged(_) = buf {
        return Ok((buf, EccState::Clean));
    }
    match ecc::verify(&buf, check_at) {
        Verdict::Good => Ok((buf, EccState::Clean)),
        Verdict::OneBit { bit } => {
            let mut fixed = buf.into_owned();
            ecc::flip(&mut fixed, bit);
            Ok((BlockBuf::Owned(fixed), EccState::Corrected { bit }))
        }
        Verdict::Bad => Err((FaultKind::Ecc, buf)),
    }
}
