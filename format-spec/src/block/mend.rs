//! Blocks that more than one flipped bit damaged, as they were.

use super::sense::Sense;
use super::{BlockBuf, EccState, MetaBlock, Tested, View, verified};
use crate::ecc;
use crate::units::BlockNo;

/// Bits that a block's identity may differ in before looking for an explanation is idle. Garbage
/// differs in half of them.
const MOST_WRONG: u32 = 16;

impl View<'_> {
    /// Compares a block with its check. One bit is corrected; more only in a view that mends, and only
    /// into a block that makes sense.
    pub(super) fn tested<'b>(
        self,
        buf: BlockBuf<'b>,
        check_at: usize,
        sense: &dyn Fn(Sense<'_>) -> bool,
    ) -> Tested<'b> {
        match verified(buf, check_at, self.has_ecc()) {
            Err((kind, buf)) if self.mends => match self.mended(&buf, check_at, sense) {
                Some((fixed, flips)) => Ok((BlockBuf::Owned(fixed), EccState::Mended { flips })),
                None => Err((kind, buf)),
            },
            Ok((buf, EccState::Clean)) if self.mends && !is_staged(&buf) => {
                let parity = ecc::stored(&buf, check_at).map(|check| check.bc_ecc.get());
                let state = if parity == Some(ecc::parity(&buf, check_at)) {
                    EccState::Clean
                } else {
                    EccState::Unguarded
                };
                Ok((buf, state))
            }
            tested => tested,
        }
    }

    /// The only sensible block that this one was, and what was done to it.
    fn mended(
        self,
        bytes: &[u8],
        check_at: usize,
        sense: &dyn Fn(Sense<'_>) -> bool,
    ) -> Option<(Box<[u8]>, ecc::Flips)> {
        let mut found = None;
        for flips in ecc::explanations(bytes, check_at) {
            let mut fixed: Box<[u8]> = bytes.into();
            flips.apply(&mut fixed);
            let sensible = sense(Sense {
                bytes: &fixed,
                info: self.info,
                flips,
            });
            if sensible && found.replace((fixed, flips)).is_some() {
                return None;
            }
        }
        found
    }

    /// This view, or one that does not mend when a block is nowhere near what it should be.
    pub(super) fn if_near<B: MetaBlock>(self, bytes: &[u8], blkno: BlockNo) -> Self {
        let wrong = wrong::<B>(bytes, blkno, self.info.fs_generation.0);
        Self {
            mends: self.mends && wrong <= MOST_WRONG,
            ..self
        }
    }

    /// What must hold of a metadata block of this kind at this place.
    pub(super) fn sense_of<B: MetaBlock>(self, blkno: BlockNo) -> impl Fn(Sense<'_>) -> bool {
        move |sense| wrong::<B>(sense.bytes, blkno, self.info.fs_generation.0) == 0 && sense.block()
    }
}

const fn is_staged(buf: &BlockBuf<'_>) -> bool {
    matches!(buf, BlockBuf::Staged(_))
}

/// Bits in which a block differs from what is known of it.
fn wrong<B: MetaBlock>(bytes: &[u8], blkno: BlockNo, generation: u32) -> u32 {
    let Ok((head, _)) = B::ref_from_prefix(bytes) else {
        return u32::MAX;
    };
    let signature = bytes.iter().zip(B::SIGNATURE);
    signature
        .map(|(found, due)| (found ^ due).count_ones())
        .chain([
            (head.own_blkno() ^ blkno.0).count_ones(),
            (head.generation() ^ generation).count_ones(),
        ])
        .sum()
}
