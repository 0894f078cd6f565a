//! The Hamming parity word.

use super::CHECK_BYTES;

/// Hamming parity of a block with the eight bytes at `check_at` taken as zero.
///
/// The block is looked at as words of 64 bits, and these as rows: from a power of two of words to the next.
/// All bits of a row have their positions at the same distance `c` behind their index, but for the last `c`
/// bits of its last word, where the next power of two takes one more. So bit *b* of word *w* has the
/// position `64 w + b + c`, or, when `b + c` is 64 or more, `64 (w + 1) + (b + c - 64)`.
///
/// Of the positions of all set bits the exclusive or is wanted, so that all that is asked of each bit of a
/// position is whether an odd number of set bits have it. `Sum` brings those bits together first.
#[must_use]
pub fn parity(block: &[u8], check_at: usize) -> u16 {
    // Bits that are not set add nothing, and most blocks end with many.
    let block = block.get(..block.len().min(MOST * 8)).unwrap_or_default();
    let (words, _) = block.as_chunks();
    let (lines, rest) = words.as_chunks::<LINE>();
    let is_used = |line: &[Word; LINE]| {
        let words = line.map(u64::from_le_bytes);
        words.into_iter().fold(0, |or, word| or | word) != 0
    };
    let used = match lines.iter().rposition(is_used) {
        _ if !rest.is_empty() => words.len(),
        Some(line) => (line + 1) * LINE,
        None => 0,
    };
    let words = words.get(..used).unwrap_or_default();
    if used <= FEW {
        of_words::<FEW>(words, check_at)
    } else {
        of_words::<MOST>(words, check_at)
    }
}

/// Eight bytes of a block.
type Word = [u8; 8];

/// Words that are tested for zero together.
const LINE: usize = 32;

/// Words of a short block: that is how much of most inodes is in use.
const FEW: usize = 64;

/// Words of the largest block with a check.
const MOST: usize = 4096 / 8;

/// The parity of a block of at most `WORDS` words, a power of two.
fn of_words<const WORDS: usize>(words: &[Word], check_at: usize) -> u16 {
    // The block without the check, and zeros behind.
    let mut all = [0; WORDS];
    for (word, bytes) in all.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    for byte in check_at..check_at + CHECK_BYTES {
        if let Some(word) = all.get_mut(byte / 8) {
            *word &= !(0xFF << (byte % 8 * 8));
        }
    }
    let mut sum = Sum::default();
    for power in (0..WORDS.ilog2()).take_while(|power| 1 << power < words.len()) {
        sum.add_row(power, all.get_mut(1 << power..).unwrap_or_default());
    }
    let first = FIRST_WORD.iter().map(|mask| all[0] & mask);
    let rows = LOW_MASKS.iter().map(|mask| sum.low & mask);
    let ecc = bits(first) ^ bits(rows.chain(sum.high));
    crate::units::low16(ecc)
}

/// A number of bits that tell which of some words have an odd number of set bits.
fn bits(words: impl Iterator<Item = u64>) -> u64 {
    (0..).zip(words).fold(0, |bits, (power, word)| {
        bits | u64::from(is_odd(word)) << power
    })
}

/// Words in which the set bits that have a certain bit of their position are brought together.
#[derive(Default)]
struct Sum {
    /// Each set bit stands where the low six bits of its position say.
    low: u64,
    /// The words of each higher bit.
    high: [u64; 10],
}

impl Sum {
    /// Adds the row of words `1 << power..2 << power`, with which `row` begins; they are not kept.
    fn add_row(&mut self, power: u32, row: &mut [u64]) {
        let distance = power + 8;
        let carrying = u64::MAX << (64 - distance);
        let last = row.get((1 << power) - 1).copied().unwrap_or(0) & carrying;
        // Folded in half, the upper half shows which words have the highest bit of `w`. Of `w + 1` the
        // same is true, but that a word whose lower bits are all set carries into that bit: these
        // words are now the last of the lower half.
        for (power, high) in (0..power).zip(&mut self.high).rev() {
            let (below, above) = row.split_at_mut(1 << power);
            let mut odd = 0;
            for (below, above) in below.iter_mut().zip(above) {
                odd ^= *above;
                *below ^= *above;
            }
            let carry = below.last().copied().unwrap_or(0) & carrying;
            *high ^= odd ^ carry;
        }
        let all = row.first().copied().unwrap_or(0);
        // The bit that the whole row has, and the carry out of the row: behind the next power, which no
        // data bit has as its position, the distance is one more.
        let mut top = self.high.iter_mut().skip(power as usize);
        for (high, word) in top.by_ref().zip([all ^ last, last]) {
            *high ^= word;
        }
        self.low ^= all.rotate_left(distance);
        self.low ^= last.rotate_left(distance) ^ last.rotate_left(distance + 1);
    }
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

/// For each of the low six bits of a position, the places in a turned word that have it.
const LOW_MASKS: [u64; 6] = [
    0xAAAA_AAAA_AAAA_AAAA,
    0xCCCC_CCCC_CCCC_CCCC,
    0xF0F0_F0F0_F0F0_F0F0,
    0xFF00_FF00_FF00_FF00,
    0xFFFF_0000_FFFF_0000,
    0xFFFF_FFFF_0000_0000,
];

/// For each bit of a position, the bits of the first word whose positions have it.
const FIRST_WORD: [u64; 7] = {
    let mut masks = [0; 7];
    let (mut bit, mut position) = (0, 0u32);
    while bit < 64 {
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
