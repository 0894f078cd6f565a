//! Which clusters are claimed, and which more than once.
//!
//! Two bits a cluster, in pieces of one cluster group that exist only once something in the group
//! is claimed: an empty volume of many terabytes costs next to nothing. The descriptor of a group
//! is its first cluster (but for group 0) and counts as claimed from the start. Claims are atomic
//! and commute, so the order in which threads make them does not show.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The claims on one cluster group.
#[derive(Debug)]
struct Piece {
    once: Box<[AtomicU64]>,
    twice: OnceLock<Box<[AtomicU64]>>,
}

/// The claims on all clusters.
#[derive(Debug)]
pub(crate) struct Clusters {
    total: u32,
    per_group: u32,
    pieces: Vec<OnceLock<Piece>>,
    doubled: AtomicBool,
}

/// The claims on word `index` of a group before anything else is claimed.
const fn own_claim(group: u32, index: usize) -> u64 {
    (group > 0 && index == 0) as u64
}

impl Piece {
    fn new(group: u32, words: u32) -> Self {
        let once = (0..words as usize).map(|index| AtomicU64::new(own_claim(group, index)));
        Self {
            once: once.collect(),
            twice: OnceLock::new(),
        }
    }
}

fn zeros(words: u32) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl Clusters {
    /// No claims on a volume of `total` clusters in groups of `per_group` (a multiple of 64).
    pub(crate) fn new(total: u32, per_group: u32) -> Self {
        Self {
            total,
            per_group,
            pieces: (0..total.div_ceil(per_group))
                .map(|_| OnceLock::new())
                .collect(),
            doubled: AtomicBool::new(false),
        }
    }

    /// Claims clusters; what lies beyond the end of the volume is ignored.
    pub(crate) fn claim(&self, first: u32, count: u32) {
        let end = first.saturating_add(count).min(self.total);
        let mut at = first;
        while at < end {
            let group = at / self.per_group;
            let group_start = group * self.per_group;
            let stop = end.min(group_start.saturating_add(self.per_group));
            if let Some(piece) = self.pieces.get(group as usize) {
                let words = self.per_group / 64;
                let piece = piece.get_or_init(|| Piece::new(group, words));
                self.claim_bits(piece, at - group_start, stop - group_start);
            }
            at = stop;
        }
    }

    fn claim_bits(&self, piece: &Piece, from: u32, to: u32) {
        for (index, mask) in word_masks(from, to) {
            let Some(word) = piece.once.get(index) else {
                return;
            };
            let again = word.fetch_or(mask, Ordering::Relaxed) & mask;
            if again != 0 {
                self.doubled.store(true, Ordering::Relaxed);
                let words = self.per_group / 64;
                let twice = piece.twice.get_or_init(|| zeros(words));
                if let Some(word) = twice.get(index) {
                    word.fetch_or(again, Ordering::Relaxed);
                }
            }
        }
    }

    /// The claims on clusters `64 * word ..` of a group.
    pub(crate) fn word(&self, group: u32, word: usize) -> u64 {
        self.pieces
            .get(group as usize)
            .and_then(OnceLock::get)
            .and_then(|piece| piece.once.get(word))
            .map_or(own_claim(group, word), |word| word.load(Ordering::Relaxed))
    }

    /// Whether anything of a group is claimed.
    pub(crate) fn touched(&self, group: u32) -> bool {
        self.pieces
            .get(group as usize)
            .is_some_and(|piece| piece.get().is_some())
    }

    /// Whether a cluster is claimed.
    pub(crate) fn is_claimed(&self, cluster: u32) -> bool {
        let bit = cluster % self.per_group;
        self.word(cluster / self.per_group, bit as usize / 64) >> (bit % 64) & 1 == 1
    }

    /// The ranges that are claimed more than once: first and end, in order.
    pub(crate) fn doubles(&self) -> Vec<(u32, u32)> {
        let mut found: Vec<(u32, u32)> = Vec::new();
        if !self.doubled.load(Ordering::Relaxed) {
            return found;
        }
        for (group, piece) in (0u32..).zip(&self.pieces) {
            let Some(twice) = piece.get().and_then(|piece| piece.twice.get()) else {
                continue;
            };
            for (index, word) in (0u32..).zip(twice) {
                let base = group * self.per_group + index * 64;
                for (first, count) in runs(word.load(Ordering::Relaxed)) {
                    let (first, end) = (base + first, base + first + count);
                    match found.last_mut() {
                        Some(last) if last.1 == first => last.1 = end,
                        _ => found.push((first, end)),
                    }
                }
            }
        }
        found
    }
}

/// The words of a bitmap that hold bits `from..to`, each with a mask of them.
pub(crate) fn word_masks(from: u32, to: u32) -> impl Iterator<Item = (usize, u64)> {
    let mut at = from;
    std::iter::from_fn(move || {
        (at < to).then(|| {
            let (index, low) = (at / 64, at % 64);
            let count = (to - at).min(64 - low);
            at += count;
            (index as usize, (u64::MAX >> (64 - count)) << low)
        })
    })
}

/// The runs of set bits of a word: first and number.
pub(crate) fn runs(mut word: u64) -> impl Iterator<Item = (u32, u32)> {
    let mut base = 0;
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let skip = word.trailing_zeros();
        word >>= skip;
        let count = word.trailing_ones();
        word = word.checked_shr(count).unwrap_or(0);
        let first = base + skip;
        base = first + count;
        Some((first, count))
    })
}

/// Joins runs of bits that come word by word into ranges.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    open: Option<(u32, u32)>,
}

impl Joiner {
    /// Adds the set bits of a word whose first bit is number `base`; hands on ranges that ended.
    pub(crate) fn add(&mut self, base: u32, word: u64, each: &mut dyn FnMut(u32, u32)) {
        for (first, count) in runs(word) {
            let first = base + first;
            match &mut self.open {
                Some((_, end)) if *end == first => *end = first + count,
                open => {
                    if let Some((start, end)) = open.replace((first, first + count)) {
                        each(start, end - start);
                    }
                }
            }
        }
    }

    /// Hands on the last range.
    pub(crate) fn finish(self, each: &mut dyn FnMut(u32, u32)) {
        if let Some((start, end)) = self.open {
            each(start, end - start);
        }
    }
}

/// Word `index` of a bitmap as it lies on the device; bits behind its end are 0.
pub(crate) fn bitmap_word(bitmap: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    let from = (index * 8).min(bitmap.len());
    let to = (from + 8).min(bitmap.len());
    bytes[..to - from].copy_from_slice(&bitmap[from..to]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_counted_across_words_and_groups() {
        let clusters = Clusters::new(1000, 128);
        clusters.claim(60, 200);
        clusters.claim(100, 10);
        clusters.claim(255, 10);
        clusters.claim(990, 100);
        assert!(clusters.is_claimed(60) && clusters.is_claimed(264) && !clusters.is_claimed(265));
        assert_eq!(clusters.doubles(), [(100, 110), (128, 129), (255, 260)]);
        assert!(!clusters.touched(3) && clusters.touched(7));
    }

    #[test]
    fn runs_are_joined() {
        assert_eq!(runs(0b0110_0001).collect::<Vec<_>>(), [(0, 1), (5, 2)]);
        assert_eq!(runs(u64::MAX).collect::<Vec<_>>(), [(0, 64)]);
        let (mut joiner, mut found) = (Joiner::default(), Vec::new());
        joiner.add(0, 1 << 63, &mut |a, b| found.push((a, b)));
        joiner.add(64, 0b101, &mut |a, b| found.push((a, b)));
        joiner.finish(&mut |a, b| found.push((a, b)));
        assert_eq!(found, [(63, 2), (66, 1)]);
    }
}
