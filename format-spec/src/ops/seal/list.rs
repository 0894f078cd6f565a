//! What a seal protects: runs of blocks in slots, and how they are written down.

use crate::layout::SEAL_OWNED;
use crate::units::{BlockNo, Slot};

/// What tells of a block that differs from its sum whether it is newer or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// It begins with a signature and says its number.
    Signed,
    /// A directory block with a trailer.
    Trailer,
    /// A block of a quota file: a check at its end.
    Quota,
    /// A bucket of attributes: a check at its start, and no identity.
    Bucket,
    /// The first block of a journal.
    Journal,
    /// The slot map.
    Slots,
    /// Nothing ever changes it.
    Fixed,
    /// Nothing in it tells.
    Plain,
}

const GUARDS: [Guard; 8] = [
    Guard::Signed,
    Guard::Trailer,
    Guard::Quota,
    Guard::Bucket,
    Guard::Journal,
    Guard::Slots,
    Guard::Fixed,
    Guard::Plain,
];

/// A run of protected blocks, before they have slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First block.
    pub first: BlockNo,
    /// Number of blocks.
    pub len: u64,
    /// What tells of their state.
    pub guard: Guard,
    /// The inode that leads to them, when they lie in clusters, which may serve another file later.
    pub owner: Option<BlockNo>,
}

impl Span {
    /// The block behind it.
    #[must_use]
    pub const fn end(&self) -> BlockNo {
        self.first.plus(self.len)
    }

    /// The part of it from `skip` blocks on, of at most `len` blocks.
    pub(super) fn part(&self, skip: u64, len: u64) -> Self {
        Self {
            first: self.first.plus(skip),
            len: len.min(self.len.saturating_sub(skip)),
            ..*self
        }
    }
}

/// A run of protected blocks in consecutive slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First slot.
    pub slot: u64,
    /// The blocks.
    pub span: Span,
}

impl Run {
    /// The slot behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.slot.saturating_add(self.span.len)
    }
}

/// A seal's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Where the blocks of the seal lie, in order; empty when it stands beside the volume.
    pub places: Vec<(BlockNo, u64)>,
    /// What is protected, in the order of the slots.
    pub runs: Vec<Run>,
    /// The next transaction of each slot's journal when it was sealed.
    pub journals: Vec<(Slot, u32)>,
}

impl List {
    /// Gives spans slots in their order, from slot 0 on.
    pub(super) fn in_slots(spans: &[Span]) -> Vec<Run> {
        let mut slot = 0u64;
        let numbered = spans.iter().map(|span| {
            let run = Run { slot, span: *span };
            slot = run.end();
            run
        });
        numbered.collect()
    }

    /// Number of protected blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.span.len).sum()
    }

    /// The run that holds a slot, or the first one behind it.
    pub(super) fn run_at(&self, slot: u64) -> usize {
        self.runs.partition_point(|run| run.end() <= slot)
    }

    /// The stream of the list.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.number(self.places.len() as u64);
        let mut before = 0;
        for (first, len) in &self.places {
            out.difference(&mut before, first.0);
            out.number(*len);
            before = before.saturating_add(*len);
        }
        out.number(self.runs.len() as u64);
        let (mut slot, mut block, mut owner) = (0, 0, 0);
        for Run { slot: at, span } in &self.runs {
            out.number(at.saturating_sub(slot));
            out.number(span.len);
            out.difference(&mut block, span.first.0);
            let guard = GUARDS.iter().position(|guard| *guard == span.guard);
            let guard = guard.unwrap_or(0) as u64;
            match span.owner {
                Some(inode) => {
                    out.number(guard | SEAL_OWNED);
                    out.difference(&mut owner, inode.0);
                }
                None => out.number(guard),
            }
            slot = at.saturating_add(span.len);
            block = block.saturating_add(span.len);
        }
        out.number(self.journals.len() as u64);
        for (slot, sequence) in &self.journals {
            out.number(slot.0.into());
            out.number((*sequence).into());
        }
        out.0
    }

    /// The list in a stream of bytes; `None` when it is none. No slot is given twice.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader(bytes);
        let mut list = Self::default();
        let mut before = 0;
        for _ in 0..input.number()? {
            let first = BlockNo(input.difference(&mut before)?);
            let len = input.number()?;
            before = before.checked_add(len)?;
            list.places.push((first, len));
        }
        let (mut slot, mut block, mut owner) = (0u64, 0, 0);
        for _ in 0..input.number()? {
            let at = slot.checked_add(input.number()?)?;
            let len = input.number()?;
            let first = BlockNo(input.difference(&mut block)?);
            let flags = input.number()?;
            let guard = *GUARDS.get(crate::units::index(flags & !SEAL_OWNED))?;
            let inode = match flags & SEAL_OWNED {
                0 => None,
                _ => Some(BlockNo(input.difference(&mut owner)?)),
            };
            slot = at.checked_add(len)?;
            block = block.checked_add(len)?;
            let span = Span {
                first,
                len,
                guard,
                owner: inode,
            };
            list.runs.push(Run { slot: at, span });
        }
        for _ in 0..input.number()? {
            let slot = Slot(u16::try_from(input.number()?).ok()?);
            let sequence = u32::try_from(input.number()?).ok()?;
            list.journals.push((slot, sequence));
        }
        Some(list)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut value: u64) {
        loop {
            let [low, ..] = (value & 0x7F).to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    /// Writes how far `value` lies from `before`, which becomes it.
    fn difference(&mut self, before: &mut u64, value: u64) {
        let step = value.wrapping_sub(*before).cast_signed();
        self.number(((step << 1) ^ (step >> 63)).cast_unsigned());
        *before = value;
    }
}

struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            let part = u64::from(first & 0x7F);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn difference(&mut self, before: &mut u64) -> Option<u64> {
        let number = self.number()?;
        let step = (number >> 1) ^ (number & 1).wrapping_neg();
        *before = before.wrapping_add(step);
        Some(*before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run() -> impl Strategy<Value = (u64, u64, u64, usize, Option<u64>)> {
        let block = prop_oneof![0u64..5000, Just(1 << 40), Just(u64::MAX >> 1)];
        let owner = proptest::option::of(0u64..1 << 50);
        (0u64..9, 0u64..1 << 33, block, 0usize..8, owner)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            places in proptest::collection::vec((0u64..1 << 60, 0u64..1 << 30), 0..5),
            runs in proptest::collection::vec(run(), 0..40),
            journals in proptest::collection::vec((any::<u16>(), any::<u32>()), 0..4),
        ) {
            let mut list = List {
                places: places.into_iter().map(|(first, len)| (BlockNo(first), len)).collect(),
                runs: Vec::new(),
                journals: journals.into_iter().map(|(slot, next)| (Slot(slot), next)).collect(),
            };
            let mut slot = 0;
            for (skip, len, first, guard, owner) in runs {
                let span = Span {
                    first: BlockNo(first),
                    len,
                    guard: GUARDS[guard],
                    owner: owner.map(BlockNo),
                };
                list.runs.push(Run { slot: slot + skip, span });
                slot += skip + len;
            }
            let bytes = list.encode();
            for end in 0..bytes.len() {
                prop_assert_eq!(List::decode(&bytes[..end]), None);
            }
            prop_assert_eq!(List::decode(&bytes), Some(list));
        }

        #[test]
        fn any_bytes_are_a_list_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Each entry takes bytes, so that no count makes the list larger than its stream.
            if let Some(list) = List::decode(&bytes) {
                prop_assert!(list.runs.len() + list.places.len() <= bytes.len());
            }
        }
    }
}
