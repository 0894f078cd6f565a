//! Damage that the check was not made for, found out all the same.
//!
//! The Hamming code corrects one bit. But CRC and parity word together are 48 bits that each flipped
//! bit changes in a way of its own, whatever the contents are: the *syndrome*, the difference between
//! the stored check and the computed one, is the exclusive or of what each flipped bit adds to it.
//! [`explanations`] lists every pair of bits and every run of bits no longer than [`BURST`] that adds
//! up to a given syndrome. There are some 2^31 of these in a block of 4 KiB, so damage of another
//! kind has one only once in 2^17 times; whoever believes an explanation looks at the contents, too.
//!
//! The eight bytes of the check are damaged like any other. A flipped bit of the stored check is a
//! bit of the syndrome itself, and the reserved two bytes are a syndrome of their own: they are zero.

use std::sync::OnceLock;

use super::{CHECK_BYTES, bit_of_position, compute, flip};
use crate::units::{low16, low32};

/// Longest run of bits that is told.
pub const BURST: usize = 16;

/// Bits of the largest block, for which the tables are made.
const MOST_BITS: usize = 4096 * 8;

/// Bits that were flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flips {
    /// Bits of a run: bit `first + i` of the block for each bit *i* of the pattern, bit 0 among them.
    Run {
        /// First flipped bit.
        first: usize,
        /// Which of the bits from it on are flipped.
        pattern: u16,
    },
    /// Two bits further apart.
    Pair {
        /// The lower one.
        first: usize,
        /// The higher one.
        second: usize,
    },
}

impl Flips {
    /// Two bits, in one form only.
    fn pair(a: usize, b: usize) -> Self {
        let (first, second) = (a.min(b), a.max(b));
        match second - first {
            0 => Self::Run { first, pattern: 1 },
            apart if apart < BURST => Self::Run {
                first,
                pattern: 1 | 1 << apart,
            },
            _ => Self::Pair { first, second },
        }
    }

    /// The bits.
    pub fn bits(self) -> impl Iterator<Item = usize> {
        let (first, pattern, second) = match self {
            Self::Run { first, pattern } => (first, pattern, None),
            Self::Pair { first, second } => (first, 1, Some(second)),
        };
        let run = (0..BURST).filter(move |i| pattern >> i & 1 == 1);
        run.map(move |i| first + i).chain(second)
    }

    /// How many bits there are.
    #[must_use]
    pub const fn count(self) -> u32 {
        match self {
            Self::Run { pattern, .. } => pattern.count_ones(),
            Self::Pair { .. } => 2,
        }
    }

    /// Flips them.
    pub fn apply(self, block: &mut [u8]) {
        for bit in self.bits() {
            flip(block, bit);
        }
    }
}

/// What a bit adds to the syndrome, for all bits of a block of any size.
struct Columns {
    /// CRC of a single bit, by its distance from the last bit of the block.
    crcs: Vec<u32>,
    /// Position of a bit in the Hamming code, by its index.
    positions: Vec<u16>,
    /// Index of the bit at a position; no bit has the highest index.
    bits: Vec<u16>,
}

/// The reflected polynomial; its highest bit is what makes a step reversible.
const POLYNOMIAL: u32 = 0xEDB8_8320;

const fn step(state: u32) -> u32 {
    state >> 1 ^ if state & 1 == 0 { 0 } else { POLYNOMIAL }
}

const fn step_back(state: u32) -> u32 {
    if state >> 31 == 0 {
        state << 1
    } else {
        (state ^ POLYNOMIAL) << 1 | 1
    }
}

impl Columns {
    fn get() -> &'static Self {
        static COLUMNS: OnceLock<Columns> = OnceLock::new();
        COLUMNS.get_or_init(|| {
            let states = std::iter::successors(Some(step(1)), |state| Some(step(*state)));
            let numbers = (1u16..=u16::MAX).filter(|number| !number.is_power_of_two());
            let positions: Vec<u16> = numbers.take(MOST_BITS).collect();
            let mut bits = vec![u16::MAX; 1 << 16];
            for (bit, position) in (0u16..).zip(&positions) {
                if let Some(place) = bits.get_mut(usize::from(*position)) {
                    *place = bit;
                }
            }
            Self {
                crcs: states.take(MOST_BITS).collect(),
                positions,
                bits,
            }
        })
    }
}

/// A block whose check does not match.
struct Patient {
    /// Bits of the block.
    bits: usize,
    /// First bit of the check.
    check: usize,
    /// The stored check, as a number, against what it should be: CRC, parity word, reserved bytes.
    syndrome: u64,
    columns: &'static Columns,
}

impl Patient {
    fn new(block: &[u8], check_at: usize) -> Option<Self> {
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let stored = number(block.get(check_at..check_at.checked_add(CHECK_BYTES)?)?)?;
        let due = number(zerocopy::IntoBytes::as_bytes(&compute(block, check_at)))?;
        let bits = block.len() * 8;
        (bits <= MOST_BITS).then(|| Self {
            bits,
            check: check_at * 8,
            syndrome: stored ^ due,
            columns: Columns::get(),
        })
    }

    fn in_check(&self, bit: usize) -> bool {
        (self.check..self.check + 8 * CHECK_BYTES).contains(&bit)
    }

    /// What a flipped bit adds to the syndrome.
    fn column(&self, bit: usize) -> u64 {
        if self.in_check(bit) {
            return 1 << (bit - self.check);
        }
        let crc = self.bits.checked_sub(bit + 1);
        let crc = crc.and_then(|distance| self.columns.crcs.get(distance));
        let position = self.columns.positions.get(bit);
        u64::from(crc.copied().unwrap_or(0)) | u64::from(position.copied().unwrap_or(0)) << 32
    }

    /// The only bit that adds this to the syndrome.
    fn bit_of(&self, column: u64) -> Option<usize> {
        if column.is_power_of_two() {
            return Some(self.check + column.trailing_zeros() as usize);
        }
        let bit = bit_of_position(column >> 32 & 0xFFFF)?;
        let found = bit < self.bits && !self.in_check(bit) && self.column(bit) == column;
        found.then_some(bit)
    }

    /// Every bit, and every two.
    fn pairs(&self, found: &mut Vec<Flips>) {
        found.extend(self.bit_of(self.syndrome).map(|bit| Flips::pair(bit, bit)));
        if self.syndrome.count_ones() == 2 {
            let (low, high) = (self.syndrome.trailing_zeros(), self.syndrome.ilog2());
            found.push(Flips::pair(
                self.check + low as usize,
                self.check + high as usize,
            ));
        }
        // The Hamming code says for each bit which other one makes up the parity with it; one that is
        // alone in its part of the syndrome has its fellow in the check.
        let (crc, parity) = (low32(self.syndrome), low16(self.syndrome >> 32));
        let crcs = self.columns.crcs.get(..self.bits).unwrap_or_default();
        let positions = self.columns.positions.iter();
        for (bit, (own, position)) in crcs.iter().rev().zip(positions).enumerate() {
            let other = self.columns.bits.get(usize::from(position ^ parity));
            let other = usize::from(other.copied().unwrap_or(u16::MAX));
            let behind = self.bits.checked_sub(other + 1);
            let fellow = behind.and_then(|behind| crcs.get(behind));
            let fits = fellow.is_some_and(|fellow| own ^ fellow == crc && other > bit);
            if !(fits || *own == crc || *position == parity) || self.in_check(bit) {
                continue;
            }
            let rest = self.syndrome ^ self.column(bit);
            if let Some(other) = self.bit_of(rest).filter(|other| *other != bit) {
                found.push(Flips::pair(bit, other));
            }
        }
    }

    /// Every run outside of the check. The CRC of a run at the very end of a block is the run itself,
    /// taken forward a step for each of its bits and what stands behind; so the CRC of the damage,
    /// taken back from each place in turn, is the run there, or reaches over it.
    fn runs(&self, found: &mut Vec<Flips>) {
        let parity = low16(self.syndrome >> 32);
        if self.syndrome >> 48 != 0 {
            return;
        }
        let mut crc = low32(self.syndrome);
        for first in (0..self.bits).rev() {
            crc = step_back(crc);
            let Some(pattern) = u16::try_from(crc).ok().filter(|run| run & 1 == 1) else {
                continue;
            };
            let run = Flips::Run { first, pattern };
            let mut sum = 0;
            let inside = run.bits().all(|bit| {
                sum ^= self.columns.positions.get(bit).copied().unwrap_or(0);
                bit < self.bits && !self.in_check(bit)
            });
            if inside && sum == parity {
                found.push(run);
            }
        }
    }

    /// Every run that has a bit of the check: the bits of each place are put together by elimination.
    fn runs_in_check(&self, found: &mut Vec<Flips>) {
        let from = self.check.saturating_sub(BURST - 1);
        for first in from..(self.check + 8 * CHECK_BYTES).min(self.bits) {
            let mut basis: Vec<(u64, u16)> = Vec::with_capacity(BURST);
            let reduced = |basis: &[(u64, u16)], mut value: (u64, u16)| {
                for (column, bits) in basis {
                    if value.0 ^ column < value.0 {
                        value = (value.0 ^ column, value.1 ^ bits);
                    }
                }
                value
            };
            for i in (1..BURST).filter(|i| first + i < self.bits) {
                let value = reduced(&basis, (self.column(first + i), 1 << i));
                if value.0 != 0 {
                    basis.push(value);
                    basis.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.0));
                }
            }
            let (rest, pattern) = reduced(&basis, (self.syndrome ^ self.column(first), 1));
            let run = Flips::Run { first, pattern };
            if rest == 0 && run.bits().any(|bit| self.in_check(bit)) {
                found.push(run);
            }
        }
    }
}

/// All that may have happened to a block whose check lies at `check_at`, when no more than two bits or
/// one run of [`BURST`] bits did; sorted. Empty when none of it did, or the check matches.
#[must_use]
pub fn explanations(block: &[u8], check_at: usize) -> Vec<Flips> {
    let mut found = Vec::new();
    if let Some(patient) = Patient::new(block, check_at).filter(|patient| patient.syndrome != 0) {
        patient.pairs(&mut found);
        patient.runs(&mut found);
        patient.runs_in_check(&mut found);
        found.sort_unstable();
        found.dedup();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecc::stamp;

    /// A block of noise with its check.
    fn noise(bits: u32, seed: u64, check_at: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut block: Vec<u8> = (0..1usize << bits)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        stamp(&mut block, check_at);
        block
    }

    fn damaged(block: &[u8], flips: Flips) -> Vec<u8> {
        let mut block = block.to_vec();
        flips.apply(&mut block);
        block
    }

    /// The columns are what the check itself makes of each single bit.
    #[test]
    fn columns_are_the_checks_of_single_bits() {
        for (bits, check_at) in [(9, 0x80), (10, 1016), (12, 8)] {
            let zeros = vec![0; 1 << bits];
            let patient = Patient::new(&zeros, check_at).unwrap();
            let due = |block: &[u8]| {
                let check = compute(block, check_at);
                u64::from_le_bytes(zerocopy::IntoBytes::as_bytes(&check).try_into().unwrap())
            };
            for bit in (0..patient.bits).filter(|bit| !patient.in_check(*bit)) {
                let mut one = zeros.clone();
                flip(&mut one, bit);
                assert_eq!(patient.column(bit), due(&one) ^ due(&zeros), "{bits} {bit}");
            }
        }
    }

    /// Every pair of bits of a small block, and of the check, is among what is told.
    #[test]
    fn all_pairs_are_explained() {
        let block = noise(9, 77, 0x80);
        // Every pair would be eight million: of some bits, the check's among them, with many.
        let of = [0, 1, 63, 2000, 4095].into_iter();
        for a in of.chain((0x80 * 8..0x88 * 8).step_by(9)) {
            for b in (0..4096).step_by(7).filter(|b| *b != a) {
                let flips = Flips::pair(a, b);
                let found = explanations(&damaged(&block, flips), 0x80);
                assert!(found.contains(&flips), "{a} {b}: {found:?}");
            }
        }
    }

    /// Every place of a run in a block of each size, with some patterns.
    #[test]
    fn all_runs_are_explained() {
        for (bits, check_at, step) in [(9, 0x80, 5), (10, 1016, 61), (12, 8, 977), (12, 4088, 991)]
        {
            let block = noise(bits, 5, check_at);
            let all = block.len() * 8;
            let near = check_at * 8..(check_at + 8) * 8;
            let close = (near.start.saturating_sub(20)..near.end).step_by(step.min(3));
            for first in (0..all).step_by(step).chain(close) {
                for pattern in [1u16, 3, 0xFFFF, 0x8001, 0xA5C3] {
                    let pattern = pattern & (u16::MAX >> 16usize.saturating_sub(all - first));
                    let flips = Flips::Run { first, pattern };
                    let found = explanations(&damaged(&block, flips), check_at);
                    assert!(found.contains(&flips), "{first} {pattern:#x}: {found:?}");
                }
            }
        }
    }

    /// Whatever is told makes the block agree with its check; and damage of other kinds has an
    /// explanation as seldom as the number of those that there are makes likely.
    #[test]
    fn explanations_hold_and_are_rare() {
        let (mut state, mut explained) = (9u64, 0);
        let block = noise(12, 11, 8);
        for _ in 0..500 {
            let mut hurt = block.clone();
            for _ in 0..40 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                flip(&mut hurt, usize::try_from(state >> 49).unwrap());
            }
            for flips in explanations(&hurt, 8) {
                explained += 1;
                let mut mended = hurt.clone();
                flips.apply(&mut mended);
                assert!(crate::ecc::is_whole(&mended, 8), "{flips:?}");
            }
        }
        // 500 of 2^17.4 are 0.003; two would be a fault.
        assert!(explained < 2, "{explained}");
    }
}
