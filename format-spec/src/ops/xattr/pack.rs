//! Packing attributes into areas: the entries from the front, names and values from the back.

use crate::error::{Error, Result};
use crate::layout::{XATTR_BUCKET, XATTR_LOCAL_MAX, XattrEntry, XattrHeader};
use crate::ops::xattr::VALUE_ROOT;
use crate::units::low16;
use zerocopy::IntoBytes;

/// What stays zero behind the last entry of an area: fsck.ocfs2 counts entries up to it.
const GAP: usize = 4;
/// Bit of an entry's type that says that the value stands behind the name.
const HERE: u8 = 0x80;

/// An attribute to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attr {
    /// Number of the name's prefix.
    pub(super) kind: u8,
    /// The name behind its prefix.
    pub(super) suffix: Vec<u8>,
    /// Hash of the name.
    pub(super) hash: u32,
    /// Bytes of the value.
    pub(super) size: u64,
    /// The value, or its root when it has more than 80 bytes.
    pub(super) body: Vec<u8>,
}

impl Attr {
    /// Bytes of name and value, as they are stored.
    pub(super) fn pair_bytes(&self) -> usize {
        self.suffix.len().next_multiple_of(4) + self.body.len().next_multiple_of(4)
    }

    /// Whether the value stands elsewhere.
    pub(super) const fn is_outside(&self) -> bool {
        self.size > XATTR_LOCAL_MAX
    }
}

/// An area that is being filled.
struct Area {
    bytes: Vec<u8>,
    count: usize,
    /// Where the lowest name stands.
    free_start: usize,
    /// Bytes of all names and values.
    pairs: usize,
    /// What no name and value may straddle a multiple of. The entries stand before the first one:
    /// the driver looks for them in the first block of a bucket only.
    border: usize,
}

impl Area {
    fn new(room: usize, border: usize) -> Self {
        Self {
            bytes: vec![0; room],
            count: 0,
            free_start: room,
            pairs: 0,
            border,
        }
    }

    /// Adds an attribute behind the others; false when there is no room.
    fn push(&mut self, attr: &Attr) -> bool {
        debug_assert!(!attr.is_outside() || attr.body.len() == VALUE_ROOT);
        let pair = attr.pair_bytes();
        let mut end = self.free_start;
        if pair > 0
            && end
                .checked_sub(pair)
                .is_some_and(|at| at / self.border != (end - 1) / self.border)
        {
            end -= end % self.border;
        }
        let entry_at = size_of::<XattrHeader>() + self.count * size_of::<XattrEntry>();
        let entries_end = entry_at + size_of::<XattrEntry>();
        let Some(at) = end.checked_sub(pair).filter(|at| *at >= entries_end + GAP) else {
            return false;
        };
        if entries_end > self.border {
            return false;
        }
        let here = if attr.is_outside() { 0 } else { HERE };
        let entry = XattrEntry {
            xe_name_hash: attr.hash.into(),
            xe_name_offset: low16(at as u64).into(),
            xe_name_len: attr.suffix.len().to_le_bytes()[0],
            xe_type: attr.kind | here,
            xe_value_size: attr.size.into(),
        };
        self.bytes[entry_at..entries_end].copy_from_slice(entry.as_bytes());
        self.bytes[at..at + attr.suffix.len()].copy_from_slice(&attr.suffix);
        let value_at = at + attr.suffix.len().next_multiple_of(4);
        self.bytes[value_at..value_at + attr.body.len()].copy_from_slice(&attr.body);
        self.count += 1;
        self.free_start = at;
        self.pairs += pair;
        true
    }

    /// The area, with the words of its header that only buckets have when `bucket`.
    fn finish(mut self, bucket: bool) -> Vec<u8> {
        let words = [self.count, self.free_start, self.pairs];
        let used = if bucket { 3 } else { 1 };
        for (i, word) in words.into_iter().take(used).enumerate() {
            self.bytes[2 * i..2 * i + 2].copy_from_slice(&low16(word as u64).to_le_bytes());
        }
        self.bytes
    }
}

/// Packs attributes into an area of an inode or block; those that do not fit come back.
pub(super) fn pack(room: usize, attrs: Vec<Attr>) -> (Vec<u8>, Vec<Attr>) {
    let mut area = Area::new(room, usize::MAX);
    let left = attrs.into_iter().filter(|attr| !area.push(attr)).collect();
    (area.finish(false), left)
}

/// A bucket, and the hash of its first attribute.
pub(super) struct Bucket {
    pub(super) first: u32,
    pub(super) bytes: Vec<u8>,
}

/// Packs attributes into as few buckets as take them: sorted by hash, equal hashes together. No
/// name and value may lie across blocks.
///
/// # Errors
/// More names have the same hash than a bucket holds.
pub(super) fn pack_buckets(mut attrs: Vec<Attr>, block_bytes: usize) -> Result<Vec<Bucket>> {
    attrs.sort_by_key(|attr| attr.hash);
    let mut buckets = Vec::new();
    let mut area = Area::new(XATTR_BUCKET, block_bytes);
    let mut first = attrs.first().map_or(0, |attr| attr.hash);
    for same in attrs.chunk_by(|a, b| a.hash == b.hash) {
        let (count, free_start, pairs) = (area.count, area.free_start, area.pairs);
        if same.iter().all(|attr| area.push(attr)) {
            continue;
        }
        // Those of them that went in come out again, and go to the next bucket with the others.
        let entries = size_of::<XattrHeader>() + count * size_of::<XattrEntry>();
        area.bytes[entries..free_start].fill(0);
        (area.count, area.free_start, area.pairs) = (count, free_start, pairs);
        let full = std::mem::replace(&mut area, Area::new(XATTR_BUCKET, block_bytes));
        if full.count > 0 {
            let bytes = full.finish(true);
            buckets.push(Bucket { first, bytes });
        }
        first = same[0].hash;
        if !same.iter().all(|attr| area.push(attr)) {
            return Err(Error::NoSpace {
                needed: 1,
                unit: "entries of an xattr bucket (too many names with one hash)",
            });
        }
    }
    if area.count > 0 {
        let bytes = area.finish(true);
        buckets.push(Bucket { first, bytes });
    }
    Ok(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::xattr::{Stored, entries};
    use proptest::prelude::*;

    fn attr() -> impl Strategy<Value = Attr> {
        let names = proptest::collection::vec(any::<u8>(), 1..60);
        let values = proptest::collection::vec(any::<u8>(), 0..=80);
        (1u8..6, names, 0u32..50, values, any::<bool>()).prop_map(
            |(kind, suffix, hash, value, outside)| {
                let (size, body) = if outside {
                    (1000, vec![0; VALUE_ROOT])
                } else {
                    (value.len() as u64, value)
                };
                Attr {
                    kind,
                    suffix,
                    hash: hash * 7,
                    size,
                    body,
                }
            },
        )
    }

    /// What an area holds, as the reader sees it.
    fn seen(area: &[u8]) -> Vec<Attr> {
        entries(area)
            .map(|found| {
                let found = found.unwrap();
                let size = found.entry.xe_value_size.get();
                let body = match found.value {
                    Stored::Here(bytes) => bytes.to_vec(),
                    Stored::Outside(root, list) => [root.as_bytes(), list].concat(),
                };
                Attr {
                    kind: found.entry.xe_type & 0x7F,
                    suffix: found.suffix.to_vec(),
                    hash: found.entry.xe_name_hash.get(),
                    size,
                    body,
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn areas_hold_what_was_packed(attrs in proptest::collection::vec(attr(), 0..20)) {
            let (area, left) = pack(448, attrs.clone());
            let mut all = seen(&area);
            let used = 16 + 16 * all.len();
            prop_assert!(area[used..used + GAP].iter().all(|b| *b == 0));
            prop_assert!(area[2..16].iter().all(|b| *b == 0));
            all.extend(left);
            let key = |attrs: &[Attr]| {
                let mut keys: Vec<_> = attrs.iter().map(|a| format!("{a:?}")).collect();
                keys.sort();
                keys
            };
            prop_assert_eq!(key(&all), key(&attrs));
        }

        #[test]
        fn buckets_are_ordered_and_complete(
            attrs in proptest::collection::vec(attr(), 1..200), bits in 9usize..13,
        ) {
            let block = 1usize << bits;
            let Ok(buckets) = pack_buckets(attrs.clone(), block) else { return Ok(()) };
            let mut all = Vec::new();
            let mut last = None;
            for bucket in &buckets {
                let held = seen(&bucket.bytes);
                prop_assert_eq!(held.first().map(|a| a.hash), Some(bucket.first));
                prop_assert!(last.is_none_or(|last| last < bucket.first));
                prop_assert!(held.is_sorted_by_key(|a| a.hash));
                prop_assert!(16 + 16 * held.len() <= block);
                last = held.last().map(|a| a.hash);
                let pairs: usize = held.iter().map(Attr::pair_bytes).sum();
                prop_assert_eq!(&bucket.bytes[4..6], &low16(pairs as u64).to_le_bytes()[..]);
                for found in entries(&bucket.bytes) {
                    let found = found.unwrap();
                    let at = usize::from(found.entry.xe_name_offset.get());
                    let body = match found.value { Stored::Here(b) => b.len(), _ => VALUE_ROOT };
                    let end = at + (found.suffix.len().next_multiple_of(4) + body).max(1);
                    prop_assert_eq!(at / block, (end - 1) / block);
                }
                all.extend(held);
            }
            let mut expected = attrs;
            expected.sort_by_key(|a| a.hash);
            prop_assert_eq!(all, expected);
        }
    }
}
