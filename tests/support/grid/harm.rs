//! Ways to damage a block.

use std::collections::BTreeSet;

use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::ecc;
use cowfs_format::error::IoError;
use cowfs_format::layout::{
    Dinode, DxLeaf, DxRoot, ExtentBlock, Field, GroupDesc, RefcountBlock, XattrBlock,
};
use cowfs_format::units::index;

use super::census::{Forced, Place};
use super::subject::Subject;
use crate::model::Rng;

/// A way to damage a block: a column of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Nothing but zeros.
    Zeroed,
    /// Random bytes.
    Garbage,
    /// What the block held before, by the journal; where that does not know, what it might hold from an
    /// earlier formatting of the device, or another block of its kind. The check is right.
    Stale,
    /// One bit.
    OneBit,
    /// Two bits.
    TwoBits,
    /// Up to sixteen bits in a row.
    Burst,
    /// Exchanged with another block of its kind.
    Swapped,
    /// The device fails to read it.
    Unreadable,
}

impl Harm {
    /// All, in the order of the columns.
    pub const ALL: [Self; 8] = [
        Self::Zeroed,
        Self::Garbage,
        Self::Stale,
        Self::OneBit,
        Self::TwoBits,
        Self::Burst,
        Self::Swapped,
        Self::Unreadable,
    ];

    /// The head of the column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zeroed => "zeroed",
            Self::Garbage => "garbage",
            Self::Stale => "stale",
            Self::OneBit => "one bit",
            Self::TwoBits => "two bits",
            Self::Burst => "burst",
            Self::Swapped => "swapped",
            Self::Unreadable => "unreadable",
        }
    }

    /// Damages a place of a subject, over `device`. What may be lost by that, and the sectors that
    /// cannot be read from now on; `None` when it cannot be done to this place.
    ///
    /// # Errors
    /// The device fails.
    pub fn apply(
        self,
        subject: &Subject,
        place: &Place,
        device: &OverlayDevice<&'static dyn Device>,
        rng: &mut Rng,
    ) -> Result<Option<(Forced, BTreeSet<u64>)>, IoError> {
        let len = place.blocks * subject.info.geo.block_bytes();
        let offset = subject.info.geo.byte_of(place.blkno);
        let mut bytes = vec![0; len];
        device.read_at(offset, &mut bytes)?;
        let before = bytes.clone();
        let mut forced = place.forced.clone();
        let other = || {
            let same = |other: &&Place| other.kind == place.kind && other.blkno != place.blkno;
            let others: Vec<&Place> = subject.places.iter().filter(same).collect();
            (!others.is_empty()).then_some(others)
        };
        let bits = 8 * len as u64;
        match self {
            Self::Zeroed => bytes.fill(0),
            Self::Garbage => bytes.fill_with(|| rng.below(256).to_le_bytes()[0]),
            Self::Stale => {
                let older = subject
                    .older
                    .get(&place.blkno)
                    .filter(|_| place.blocks == 1);
                if let Some(older) = older {
                    bytes.copy_from_slice(older);
                } else if !earlier_format(&mut bytes, place.check_at) {
                    let Some(others) = other() else {
                        return Ok(None);
                    };
                    let other = others[index(rng.below(others.len() as u64))];
                    device.read_at(subject.info.geo.byte_of(other.blkno), &mut bytes)?;
                }
            }
            Self::OneBit => flip(&mut bytes, rng.below(bits)),
            Self::TwoBits => {
                let first = rng.below(bits);
                let second = (first + 1 + rng.below(bits - 1)) % bits;
                flip(&mut bytes, first);
                flip(&mut bytes, second);
            }
            Self::Burst => {
                let first = rng.below(bits - 16);
                flip(&mut bytes, first);
                flip(&mut bytes, first + 15);
                for bit in 1..15 {
                    if rng.below(2) == 1 {
                        flip(&mut bytes, first + bit);
                    }
                }
            }
            Self::Swapped => {
                let Some(others) = other() else {
                    return Ok(None);
                };
                let other = others[index(rng.below(others.len() as u64))];
                forced.add(&other.forced);
                let to = subject.info.geo.byte_of(other.blkno);
                device.read_at(to, &mut bytes)?;
                device.write_at(to, &before)?;
            }
            Self::Unreadable => {
                let sectors = offset / 512..(offset + len as u64) / 512;
                return Ok(Some((forced, sectors.collect())));
            }
        }
        if bytes == before {
            return Ok(None);
        }
        device.write_at(offset, &bytes)?;
        Ok(Some((forced, BTreeSet::new())))
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    if let Some(byte) = bytes.get_mut(index(bit / 8)) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Makes a block look as one of an earlier formatting; false when its kind does not say which it is of.
fn earlier_format(bytes: &mut [u8], check_at: Option<usize>) -> bool {
    let (fields, name): (&[Field], &str) = match bytes.get(..8) {
        Some(b"INODE01\0" | b"OCFSV2\0\0") => (Dinode::FIELDS, "i_fs_generation"),
        Some(b"EXBLK01\0") => (ExtentBlock::FIELDS, "h_fs_generation"),
        Some(b"GROUP01\0") => (GroupDesc::FIELDS, "bg_generation"),
        Some(b"DXDIR01\0") => (DxRoot::FIELDS, "dr_fs_generation"),
        Some(b"DXLEAF1\0") => (DxLeaf::FIELDS, "dl_fs_generation"),
        Some(b"XATTR01\0") => (XattrBlock::FIELDS, "xb_fs_generation"),
        Some(b"REFCNT1\0") => (RefcountBlock::FIELDS, "rf_fs_generation"),
        _ => return false,
    };
    let Some(field) = fields.iter().find(|field| field.name == name) else {
        return false;
    };
    let now = field.number(bytes).unwrap_or(0);
    let done = field.set_number(bytes, now ^ 0x5A5A);
    if let Some(at) = check_at {
        ecc::stamp(bytes, at);
    }
    done
}
