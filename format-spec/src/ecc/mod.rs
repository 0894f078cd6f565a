//! The check of a metadata block: CRC32 and Hamming code.
//!
//! On volumes with the `metaecc` feature each metadata block carries eight bytes: a CRC-32
//! (reflected polynomial `0xEDB88320`, initial value all ones, *not* inverted at the end) and a
//! Hamming parity word, both over the whole block with those eight bytes as zero.
//!
//! The Hamming code numbers data bit *i* (byte *i*/8, bit *i* mod 8, least significant first) with
//! the *(i+1)*-th positive integer that is not a power of two; the parity word is the exclusive or
//! of the numbers of all set bits. The CRC decides whether a block is good; the parity only serves
//! to find the one bit that makes it good again. What else can be made of the two is in [`explanations`].

mod flips;
mod parity;

pub use flips::{BURST, Flips, explanations};
pub use parity::parity;

use crate::layout::BlockCheck;

/// Size of the stored check.
pub const CHECK_BYTES: usize = 8;
const _: () = assert!(size_of::<BlockCheck>() == CHECK_BYTES);

/// What a comparison of a block with its check gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CRC matches.
    Good,
    /// It matches once this data bit is flipped.
    OneBit {
        /// Index of the bit in the block.
        bit: usize,
    },
    /// It matches no way.
    Bad,
}

/// CRC of `block` with the eight bytes at `check_at` taken as zero.
#[must_use]
pub fn crc(block: &[u8], check_at: usize) -> u32 {
    // The check is blanked in a copy of the piece around it: the CRC is fastest over long runs whose
    // lengths are multiples of a cache line.
    const PIECE: usize = 256;
    let inside = check_at % PIECE;
    let inside = if inside > PIECE - CHECK_BYTES {
        0
    } else {
        inside
    };
    let (head, rest) = block
        .split_at_checked(check_at - inside)
        .unwrap_or((block, &[]));
    let (near, tail) = rest.split_at(rest.len().min(PIECE));
    let mut piece = [0; PIECE];
    let piece = piece.get_mut(..near.len()).unwrap_or_default();
    piece.copy_from_slice(near);
    if let Some(check) = piece.get_mut(inside..inside + CHECK_BYTES) {
        check.fill(0);
    }
    let mut hasher = crc32fast::Hasher::new();
    for part in [head, piece, tail] {
        hasher.update(part);
    }
    !hasher.finalize()
}

/// CRC-32C (Castagnoli) of more bytes, from the state that earlier ones left; neither the start nor
/// the end is inverted. Journals use it, with all ones as the first state.
#[must_use]
pub fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!state, bytes)
}

/// CRC-32C of bytes as it is usual elsewhere: undo logs and seals have it so.
#[must_use]
pub fn sum32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The check that belongs to `block`, whose check field lies at `check_at`.
#[must_use]
pub fn compute(block: &[u8], check_at: usize) -> BlockCheck {
    BlockCheck {
        bc_crc32: crc(block, check_at).into(),
        bc_ecc: parity(block, check_at).into(),
        bc_reserved: 0.into(),
    }
}

/// Computes the check of `block` and stores it at `check_at`.
pub fn stamp(block: &mut [u8], check_at: usize) {
    let check = compute(block, check_at);
    if let Some(place) = block.get_mut(check_at..check_at + CHECK_BYTES) {
        place.copy_from_slice(zerocopy::IntoBytes::as_bytes(&check));
    }
}

/// Compares a block with its stored check.
#[must_use]
pub fn verify(block: &[u8], check_at: usize) -> Verdict {
    let Some(stored) = stored(block, check_at) else {
        return Verdict::Bad;
    };
    if crc(block, check_at) == stored.bc_crc32.get() {
        return Verdict::Good;
    }
    let syndrome = parity(block, check_at) ^ stored.bc_ecc.get();
    let Some(bit) = bit_of_position(u64::from(syndrome)) else {
        return Verdict::Bad;
    };
    if bit / 8 >= block.len() || (check_at..check_at + CHECK_BYTES).contains(&(bit / 8)) {
        return Verdict::Bad;
    }
    let mut fixed = block.to_vec();
    flip(&mut fixed, bit);
    if crc(&fixed, check_at) == stored.bc_crc32.get() {
        Verdict::OneBit { bit }
    } else {
        Verdict::Bad
    }
}

/// Whether all eight bytes of the stored check are those that belong to `block`.
#[must_use]
pub fn is_whole(block: &[u8], check_at: usize) -> bool {
    let due = compute(block, check_at);
    block.get(check_at..check_at.saturating_add(CHECK_BYTES))
        == Some(zerocopy::IntoBytes::as_bytes(&due))
}

/// The check stored in a block.
#[must_use]
pub fn stored(block: &[u8], check_at: usize) -> Option<BlockCheck> {
    let bytes = block.get(check_at..check_at.checked_add(CHECK_BYTES)?)?;
    zerocopy::FromBytes::read_from_bytes(bytes).ok()
}

/// Flips data bit `bit` of a block.
pub fn flip(block: &mut [u8], bit: usize) {
    if let Some(byte) = block.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Index of the data bit that has code position `position`; `None` for parity positions.
fn bit_of_position(position: u64) -> Option<usize> {
    if position < 3 || position.is_power_of_two() {
        return None;
    }
    usize::try_from(position - u64::from(position.ilog2()) - 2).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC catalogues.
    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xE306_9283);
    }
    use proptest::prelude::*;

    /// The definition, bit by bit: the oracle of the fast form.
    fn slow_parity(block: &[u8]) -> u16 {
        let mut position = 0u32;
        let mut ecc = 0u32;
        for bit in 0..block.len() * 8 {
            position += 1;
            while position.is_power_of_two() {
                position += 1;
            }
            if block[bit / 8] >> (bit % 8) & 1 == 1 {
                ecc ^= position;
            }
        }
        u16::try_from(ecc).unwrap()
    }

    #[test]
    fn vectors_of_the_format() {
        let ramp = |n: usize, f: fn(usize) -> usize| -> Vec<u8> {
            (0..n).map(|i| u8::try_from(f(i) & 255).unwrap()).collect()
        };
        let mut first = vec![0; 512];
        first[0] = 1;
        for (block, crc32, ecc) in [
            (vec![0; 512], 0x4d55_8a87, 0),
            (first, 0x5d27_51af, 3),
            (ramp(512, |i| i), 0xe39e_ca89, 0x1f72),
            (ramp(1024, |i| 7 * i + 3), 0xa2c2_1712, 0x363d),
            (ramp(4096, |i| i), 0x5d6e_df7d, 0xbf62),
        ] {
            assert_eq!(!crc32fast::hash(&block), crc32);
            assert_eq!(slow_parity(&block), ecc);
            assert_eq!(parity(&block, block.len()), ecc);
        }
    }

    proptest! {
        #[test]
        fn fast_parity_is_the_definition(
            bits in 9u32..=12, seed in any::<[u8; 32]>(), at in 0usize..64,
        ) {
            let mut block: Vec<u8> =
                (0..1usize << bits).map(|i| seed[i % 32].wrapping_mul(seed[i / 32 % 32])).collect();
            let at = at * 8;
            let fast = parity(&block, at);
            block[at..at + 8].fill(0);
            prop_assert_eq!(fast, slow_parity(&block));
        }

        #[test]
        fn every_flipped_bit_is_found(bits in 9u32..=12, seed in any::<u64>(), bit in any::<usize>()) {
            let mut block: Vec<u8> = (0u64..1 << bits)
                .map(|i| (i.wrapping_mul(seed | 1) >> 13).to_le_bytes()[0])
                .collect();
            stamp(&mut block, 0x80);
            prop_assert_eq!(verify(&block, 0x80), Verdict::Good);
            let bit = bit % (block.len() * 8);
            flip(&mut block, bit);
            let expected = if (0x80 * 8..0x88 * 8).contains(&bit) {
                // A flipped bit of the check itself: the CRC half fails, the others go unnoticed.
                if bit < 0x84 * 8 { Verdict::Bad } else { Verdict::Good }
            } else {
                Verdict::OneBit { bit }
            };
            prop_assert_eq!(verify(&block, 0x80), expected);
        }

        #[test]
        fn two_flipped_bits_are_never_taken_for_good(a in 0usize..4096, b in 0usize..4096) {
            prop_assume!(a != b);
            let mut block = vec![0x5Au8; 512];
            stamp(&mut block, 8);
            flip(&mut block, a);
            flip(&mut block, b);
            let check = 8 * 8..16 * 8;
            prop_assume!(!check.contains(&a) && !check.contains(&b));
            prop_assert_eq!(verify(&block, 8), Verdict::Bad);
        }
    }
}
