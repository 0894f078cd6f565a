//! Checks of blocks: flipped bits put right, contents that were found sound given a new check.

use cowfs_format::block::{MetaBlock, check_offset_of};
use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::ecc;
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{
    BUCKET_CHECK, DIR_TRAILER_SIGNATURE, Dinode, DirBlockTrailer, DxLeaf, DxRoot, ExtentBlock,
    GroupDesc, RefcountBlock, XATTR_BUCKET, XattrBlock,
};
use cowfs_format::units::{BlockNo, index};
use zerocopy::FromBytes;

use super::stage::{Stage, cannot};
use crate::catalogue::At;
use crate::pass::reserved;

/// How many blocks a check covers, and where it lies, by the name of what they hold.
fn extent_of_check(stage: &Stage<'_, '_>, what: &str) -> Result<(usize, usize)> {
    let geo = stage.geo();
    Ok(match what {
        "inode" | "superblock" | "backup superblock" => (1, 0x80),
        "group descriptor" => (1, 0x30),
        "extent block" | "directory index block" => (1, 0x08),
        "refcount tree root" | "refcount block" => (1, 0x20),
        "directory block" | "quota block" => (1, geo.block_bytes() - ecc::CHECK_BYTES),
        "xattr bucket" => (XATTR_BUCKET >> geo.block_bits(), BUCKET_CHECK),
        "xattr block" => (1, XattrBlock::CHECK_AT),
        _ => return Err(cannot("it is not known where its check lies")),
    })
}

fn place(at: At) -> Result<BlockNo> {
    at.block
        .or(at.inode)
        .ok_or_else(|| cannot("it has no place"))
}

/// Writes back what the ECC corrects.
pub(super) fn flip(stage: &Stage<'_, '_>, at: At, what: &str) -> Result<()> {
    let blkno = place(at)?;
    let (count, check_at) = extent_of_check(stage, what)?;
    stage.edit_run(blkno, count, Some(check_at), |_| Ok(()))
}

/// Puts right the bits that were found flipped.
pub(super) fn mend(stage: &Stage<'_, '_>, at: At, what: &str, bits: &[u64]) -> Result<()> {
    let blkno = place(at)?;
    let (count, check_at) = extent_of_check(stage, what)?;
    let mut bytes = stage.view().run(blkno, count)?.into_owned();
    for bit in bits {
        ecc::flip(&mut bytes, index(*bit));
    }
    if !ecc::is_whole(&bytes, check_at) {
        return Err(cannot("the block is not what it was"));
    }
    stage.put_run(blkno, Some(check_at), &mut bytes)
}

/// Clears what stands in reserved fields of a block.
pub(super) fn clear_reserved(stage: &Stage<'_, '_>, at: At) -> Result<()> {
    let blkno = place(at)?;
    let check_at = {
        let block = stage.view().raw(blkno)?;
        let mut signature = [0; 8];
        signature.copy_from_slice(block.get(..8).unwrap_or(&[0; 8]));
        check_offset_of(signature).unwrap_or(block.len().saturating_sub(ecc::CHECK_BYTES))
    };
    stage.edit_run(blkno, 1, Some(check_at), |bytes| {
        reserved::clear(bytes);
        Ok(())
    })
}

/// Gives a block whose identity is right a check for what it holds. What it holds is looked at by
/// the next round like anything else.
pub(super) fn stamp(stage: &Stage<'_, '_>, at: At, what: &str) -> Result<()> {
    let blkno = place(at)?;
    let (count, check_at) = extent_of_check(stage, what)?;
    let mut bytes = stage.view().run(blkno, count)?.into_owned();
    stage.put_run(blkno, Some(check_at), &mut bytes)
}

/// The block that a sound block says it is.
fn says(stage: &Stage<'_, '_>, blkno: BlockNo) -> Option<BlockNo> {
    let view = stage.view();
    let block = view.raw(blkno).ok()?;
    let signature = *block.first_chunk()?;
    let whole = |check_at| !view.has_ecc() || ecc::is_whole(&block, check_at);
    macro_rules! head {
        ($type:ty) => {{
            let (head, _) = <$type>::ref_from_prefix(&block).ok()?;
            let own = head.generation() == view.info().fs_generation.0 && whole(<$type>::CHECK_AT);
            own.then(|| BlockNo(head.own_blkno()))
        }};
    }
    match signature {
        Dinode::SIGNATURE => head!(Dinode),
        ExtentBlock::SIGNATURE => head!(ExtentBlock),
        GroupDesc::SIGNATURE => head!(GroupDesc),
        DxRoot::SIGNATURE => head!(DxRoot),
        DxLeaf::SIGNATURE => head!(DxLeaf),
        XattrBlock::SIGNATURE => head!(XattrBlock),
        RefcountBlock::SIGNATURE => head!(RefcountBlock),
        _ => {
            let (_, trailer) = DirBlockTrailer::ref_from_suffix(&block).ok()?;
            let own = trailer.db_signature == DIR_TRAILER_SIGNATURE
                && whole(block.len() - ecc::CHECK_BYTES);
            own.then(|| BlockNo(trailer.db_blkno.get()))
        }
    }
}

/// Whether a block was in the place of another before this round: the two are brought home when both say so.
pub(super) fn was_elsewhere(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<bool> {
    if let Some(other) = exchange(stage, blkno)? {
        stage.brought_home.extend([blkno, other]);
    }
    Ok(stage.brought_home.contains(&blkno))
}

/// The block that a block is in the place of, when that is in its place, too.
pub(super) fn partner(stage: &Stage<'_, '_>, blkno: BlockNo) -> Option<BlockNo> {
    let other = says(stage, blkno).filter(|other| *other != blkno)?;
    let mutual = stage.geo().contains(other, 1) && says(stage, other) == Some(blkno);
    mutual.then_some(other)
}

/// Brings two blocks home that are in each other's places, when both say so; the other one.
pub(super) fn exchange(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<Option<BlockNo>> {
    let Some(other) = partner(stage, blkno) else {
        return Ok(None);
    };
    let mut here = stage.view().raw(blkno)?.into_owned();
    let mut there = stage.view().raw(other)?.into_owned();
    stage.put_run(other, None, &mut here)?;
    stage.put_run(blkno, None, &mut there)?;
    Ok(Some(other))
}

/// What a device reads in one piece.
const SECTOR: usize = 512;

/// Writes a block over that cannot be read. What is left of it is looked at by the next round.
pub(super) fn rewrite(stage: &Stage<'_, '_>, at: At, what: &str) -> Result<()> {
    let blkno = place(at)?;
    let bucket = what == "xattr bucket";
    let count = if bucket {
        extent_of_check(stage, what)?.0
    } else {
        1
    };
    let len = count * stage.geo().block_bytes();
    overwrite(stage, stage.geo().byte_of(blkno), len as u64).map(drop)
}

/// Writes over what a repair failed to read; whether there was such a thing.
pub(super) fn heal(stage: &Stage<'_, '_>, error: &Error) -> bool {
    match error {
        Error::Io(error) if error.op == "read" => {
            // A block is of use as a whole only.
            let block = stage.geo().block_bytes() as u64;
            let end = error.offset.saturating_add(error.len);
            let first = error.offset / block * block;
            let len = end.saturating_sub(first).checked_next_multiple_of(block);
            overwrite(stage, first, len.unwrap_or(error.len)).unwrap_or(false)
        }
        _ => false,
    }
}

/// Makes zeros of the sectors of a range that fail to be read; whether there are any.
fn overwrite(stage: &Stage<'_, '_>, offset: u64, len: u64) -> Result<bool> {
    let device = stage.volume.device();
    let mut sector = [0; SECTOR];
    let mut any = false;
    let first = offset / SECTOR as u64;
    for number in first..offset.saturating_add(len).div_ceil(SECTOR as u64) {
        let at = number * SECTOR as u64;
        if device.read_at(at, &mut sector).is_err() {
            device.write_at(at, &[0; SECTOR])?;
            any = true;
        }
    }
    Ok(any)
}
