//! The Hamming parity word.

use super::CHECK_BYTES;

/// Hamming parity of a block with the eight bytes at `check_at` taken as zero.
///
/// The code word is built 64 positions at a time: from position 64 on, a group of 64 holds at most
/// one parity position (its first), so the data bits of a group are 64 consecutive ones. A set bit
/// *i* of the group at `position`, a multiple of 64, adds `position + i`: the groups share the low
/// six bits of the sum, so all that is taken of each is whether its number of set bits is odd.
///
/// Between two powers of two the groups are one run of bits. All runs are laid over each other, word
/// by word; which of the words are odd then, summed by position, is found by folding them in half once
/// for each bit of the position. What is left is that each run adds the power that it begins with when
/// its own number of set bits is odd.
#[must_use]
pub fn parity(block: &[u8], check_at: usize) -> u16 {
    // Words of the block without the check, and zeros behind. Bits that are not set add nothing, and
    // most blocks end with many.
    let len = block.len().min(MOST_BYTES);
    let (eights, _) = block.get(..len).unwrap_or_default().as_chunks();
    let (lines, rest) = eights.as_chunks::<LINE>();
    let is_used = |line: &[[u8; 8]; LINE]| {
        let words = line.map(u64::from_le_bytes);
        words.into_iter().fold(0, |or, word| or | word) != 0
    };
    let used = lines.iter().rposition(is_used).map_or(0, |line| line + 1);
    let len = if rest.is_empty() {
        used * LINE * 8
    } else {
        len
    };
    let (eights, _) = block.get(..len).unwrap_or_default().as_chunks();
    let mut all = [0; MOST_BYTES / 8 + 2];
    for (word, eight) in all.iter_mut().zip(eights) {
        *word = u64::from_le_bytes(*eight);
    }
    for byte in check_at..check_at + CHECK_BYTES {
        if let Some(word) = all.get_mut(byte / 8) {
            *word &= !(0xFF << (byte % 8 * 8));
        }
    }
    let bits = len * 8;
    let mut ecc = 0u32;
    // Positions below 64 hold data bits 0..57.
    for (power, mask) in LOW_MASKS.iter().enumerate() {
        ecc |= u32::from(is_odd(all[0] & mask)) << power;
    }
    let mut words = [0u64; MOST_BYTES / 16];
    let mut most = 1;
    for power in 6..16u32 {
        let position = 1usize << power;
        let first = position - power as usize - 2;
        if first >= bits {
            break;
        }
        let needed = (bits - first).div_ceil(64).next_power_of_two();
        let run = needed.min(position / 64);
        most = most.max(run);
        let odd = lay(&all, first, words.get_mut(..run).unwrap_or_default());
        ecc ^= u32::from(is_odd(odd)) << power;
    }
    let (whole, index) = fold(words.get_mut(..most).unwrap_or_default());
    ecc ^= index << 6 ^ sum_of_bits(whole);
    crate::units::low16(u64::from(ecc))
}

/// Words that are tested for zero together.
const LINE: usize = 8;

/// Bytes of the largest block with a check. The upper half of its bits lies between two powers of
/// two.
const MOST_BYTES: usize = 4096;

/// Lays the bits of `all` from bit `first` on, 64 to a word, over what is in `words`, but the very
/// first bit: its place is that of a parity bit. The exclusive or of all that was laid.
fn lay(all: &[u64], first: usize, words: &mut [u64]) -> u64 {
    let shift = first % 64;
    let from = all.get(first / 64..).unwrap_or_default();
    let behind = from.get(1..).unwrap_or_default();
    let mut sum = 0;
    for ((word, low), high) in words.iter_mut().zip(from).zip(behind) {
        // Shifted in two steps, since nothing may be shifted by 64.
        let laid = low >> shift | high << 1 << (63 - shift);
        *word ^= laid;
        sum ^= laid;
    }
    let own = from.first().map_or(0, |low| low >> shift & 1);
    if let Some(word) = words.first_mut() {
        *word ^= own;
    }
    sum ^ own
}

/// Exclusive or of all words, and that of the indexes of the words with an odd number of set bits.
/// The number of words is a power of two; they are not kept.
fn fold(words: &mut [u64]) -> (u64, u32) {
    let (mut half, mut index) = (words.len() / 2, 0);
    while half > 0 {
        let (low, high) = words.split_at_mut(half);
        let mut odd = 0;
        for (low, high) in low.iter_mut().zip(high.iter().take(half)) {
            odd ^= high;
            *low ^= high;
        }
        index |= u32::from(is_odd(odd)) << half.ilog2();
        half /= 2;
    }
    (words.first().copied().unwrap_or(0), index)
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

/// For each bit of a code position below 64, the data bits whose positions have it.
const LOW_MASKS: [u64; 6] = {
    let mut masks = [0; 6];
    let (mut bit, mut position) = (0, 0u32);
    while bit < 57 {
        position += 1;
        while position.is_power_of_two() {
            position += 1;
        }
        let mut power = 0;
        while power < masks.len() {
            if position >> power & 1 == 1 {
                masks[power] |= 1 << bit;
            }
            power += 1;
        }
        bit += 1;
    }
    masks
};
