//! The check of a metadata block: CRC32 and Hamming code.
//!
//! On volumes with the `metaecc` feature each metadata block carries eight bytes: a CRC-32
//! (reflected polynomial `0xEDB88320`, initial value all ones, *not* inverted at the end) and a
//! Hamming parity word, both over the whole block with those eight bytes as zero.
//!
//! The Hamming code numbers data bit *i* (byte *i*/8, bit *i* mod 8, least significant first) with
//! the *(i+1)*-th positive integer that is not a power of two; the parity word is the exclusive or
//! of the numbers of all set bits. The CRC decides whether a block is good; the parity only serves
//! to find the one bit that makes it good again.

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

/// Hamming parity of a block with the eight bytes at `check_at` taken as zero.
///
/// The code word is built 64 positions at a time: from position 64 on, a group of 64 holds at most
/// one parity position (its first), so the data bits of a group are 64 consecutive ones. A set bit
/// *i* of the group at `position`, a multiple of 64, adds `position + i`: the groups share the low
/// six bits of the sum, so all that is taken of each is whether its number of set bits is odd.
#[must_use]
pub fn parity(block: &[u8], check_at: usize) -> u16 {
    let check = check_at * 8..(check_at + CHECK_BYTES) * 8;
    let bits = block.len() * 8;
    let mut ecc = 0u32;
    // Positions below 64 hold data bits 0..57.
    let low = bits_at(block, 0, &check);
    for bit in 0..57u32.min(u32::try_from(bits).unwrap_or(u32::MAX)) {
        if low >> bit & 1 == 1 {
            ecc ^= position_of_low_bit(bit);
        }
    }
    let mut groups = 0u64;
    let mut position = 64usize;
    loop {
        let powers = position.ilog2() as usize + 1;
        let first = position - powers - 1;
        if first >= bits {
            break;
        }
        let mut word = bits_at(block, first, &check);
        if position.is_power_of_two() {
            word &= !1;
        }
        groups ^= word;
        if is_odd(word) {
            ecc ^= u32::try_from(position).unwrap_or(u32::MAX);
        }
        position += 64;
    }
    ecc ^= sum_of_bits(groups);
    crate::units::low16(u64::from(ecc))
}

/// Whether the number of set bits is odd. Without an instruction that counts bits, which not every
/// processor has, folding is faster than counting.
const fn is_odd(word: u64) -> bool {
    let word = word ^ (word >> 32);
    let word = word ^ (word >> 16);
    let word = word ^ (word >> 8);
    let word = word ^ (word >> 4);
    0x6996 >> (word & 15) & 1 == 1
}

/// Exclusive or of the numbers of the set bits.
fn sum_of_bits(word: u64) -> u32 {
    const MASKS: [u64; 6] = [
        0xAAAA_AAAA_AAAA_AAAA,
        0xCCCC_CCCC_CCCC_CCCC,
        0xF0F0_F0F0_F0F0_F0F0,
        0xFF00_FF00_FF00_FF00,
        0xFFFF_0000_FFFF_0000,
        0xFFFF_FFFF_0000_0000,
    ];
    MASKS.iter().enumerate().fold(0, |sum, (i, mask)| {
        sum | u32::from(is_odd(word & mask)) << i
    })
}

/// Code position of one of the first 57 data bits.
fn position_of_low_bit(bit: u32) -> u32 {
    let mut position = bit + 1;
    let mut power = 1;
    while power <= position {
        position += 1;
        power <<= 1;
    }
    position
}

/// 64 bits of the block from bit `first` on, with the bits of the check field as zero.
fn bits_at(block: &[u8], first: usize, check: &std::ops::Range<usize>) -> u64 {
    let byte = first / 8;
    let mut bytes = [0u8; 16];
    let available = block.get(byte..).unwrap_or_default();
    let count = available.len().min(9);
    bytes[..count].copy_from_slice(&available[..count]);
    if byte < check.end / 8 && byte + 9 > check.start / 8 {
        for (i, b) in bytes.iter_mut().enumerate().take(9) {
            if (check.start / 8..check.end / 8).contains(&(byte + i)) {
                *b = 0;
            }
        }
    }
    let wide = u128::from_le_bytes(bytes) >> (first % 8);
    let b = wide.to_le_bytes();
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
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
