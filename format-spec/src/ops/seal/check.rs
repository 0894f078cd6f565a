//! Comparing a volume with its seal: every sum, and what a block is that does not match its own.

use std::collections::HashSet;
use std::ops::Range;

use super::Watch;
use super::code::Coder;
use super::find::{Found, Seal};
use super::list::{Guard, Span};
use super::store::sums_of;
use crate::block::{check_offset_of, identity_of};
use crate::device::Device;
use crate::ecc::{self, Verdict, sum32c};
use crate::error::Result;
use crate::layout::{DIR_TRAILER, DIR_TRAILER_SIGNATURE, DirBlockTrailer, SEAL_COPIES, jbd2};
use crate::units::{BlockNo, index};
use crate::volume::scan::Scanner;
use zerocopy::FromBytes;

/// What a block is that does not match its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It changed since the volume was sealed, or cannot be told from one that did.
    Newer,
    /// One bit is flipped, and its own check corrects it.
    OneBit,
    /// It is lost.
    Lost,
}

/// A block that does not match its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its slot.
    pub slot: u64,
    /// The block.
    pub blkno: BlockNo,
    /// What it is.
    pub state: State,
}

/// How a volume compares with its seal.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Protected blocks.
    pub blocks: u64,
    /// Those that do not match, in the order of their slots.
    pub mismatches: Vec<Mismatch>,
    /// Parity shards that do not match, by group and number.
    pub parity: Vec<(u64, u64)>,
    /// Groups whose sums are lost in all copies.
    pub unknown: Vec<u64>,
    /// Blocks of tables that are damaged or of an older writing.
    pub table: u64,
    /// Blocks of the whole seal.
    pub seal_blocks: u64,
    /// Whether nothing of the volume is newer than the seal, as far as blocks tell.
    pub quiet: bool,
}

impl Verified {
    /// Whether every sum matches.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.mismatches.is_empty()
            && self.parity.is_empty()
            && self.unknown.is_empty()
            && self.table == 0
    }

    /// How many mismatches are of a kind.
    #[must_use]
    pub fn count(&self, state: State) -> u64 {
        let of = self.mismatches.iter().filter(|found| found.state == state);
        of.count() as u64
    }

    /// Lost blocks of groups that have lost more than their parity makes good, by what is known now.
    #[must_use]
    pub fn beyond(&self, seal: &Seal) -> Vec<BlockNo> {
        let groups = super::restore::losses(self, seal);
        let lost = self.mismatches.iter().filter(|found| {
            let group = found.slot % seal.shape.groups;
            found.state == State::Lost
                && groups
                    .get(&group)
                    .is_none_or(|gone| *gone > u64::from(seal.shape.parity))
        });
        lost.map(|found| found.blkno).collect()
    }
}

/// What a block tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Sound,
    OneBit,
    Broken,
    /// It could be either.
    Silent,
}

/// Compares everything that a seal protects, and the seal itself, with its sums.
///
/// # Errors
/// The processor cannot do it.
pub fn verify(
    device: &dyn Device,
    found: &Found<'_>,
    scanner: &Scanner,
    watch: &dyn Watch,
) -> Result<Verified> {
    let seal = &found.seal;
    let shape = seal.shape;
    let coder = found.coder(device)?;
    let mut done = Verified {
        blocks: seal.list.blocks(),
        seal_blocks: shape.blocks(),
        ..Verified::default()
    };
    let mut seen: Vec<(u64, BlockNo, Span, Sight)> = Vec::new();
    watch.pass(shape.groups);
    let work = |groups: &Range<u64>| {
        let part = compare(found, &coder, groups);
        watch.step(groups.end - groups.start);
        part
    };
    scanner.run(&Coder::items(&shape), work, |part| {
        seen.extend(part.seen);
        done.parity.extend(part.parity);
        done.unknown.extend(part.unknown);
    });
    let table: Vec<(u64, u64)> = (0..SEAL_COPIES)
        .flat_map(|copy| {
            (0..shape.table())
                .step_by(256)
                .map(move |start| (copy, start))
        })
        .collect();
    let whole = |(copy, start): &(u64, u64)| {
        let numbers = *start..(start + 256).min(shape.table());
        let bad = numbers.filter(|number| !found.table_stands(*copy, *number));
        bad.count() as u64
    };
    scanner.run(&table, whole, |bad| done.table += bad);
    seen.sort_unstable_by_key(|(slot, ..)| *slot);
    done.quiet = !seen
        .iter()
        .any(|(_, _, span, sight)| *sight == Sight::Sound && !matches!(span.guard, Guard::Slots));
    let unlike: HashSet<BlockNo> = seen
        .iter()
        .filter(|(.., sight)| *sight != Sight::OneBit)
        .map(|(_, blkno, ..)| *blkno)
        .collect();
    let judged = seen.into_iter().map(|(slot, blkno, span, sight)| Mismatch {
        slot,
        blkno,
        state: match (sight, span.owner) {
            (Sight::Sound, _) => State::Newer,
            (Sight::OneBit, _) => State::OneBit,
            (Sight::Broken, None) => State::Lost,
            (_, Some(owner)) if !unlike.contains(&owner) => State::Lost,
            _ if done.quiet => State::Lost,
            _ => State::Newer,
        },
    });
    done.mismatches = judged.collect();
    Ok(done)
}

/// What was seen in some groups.
#[derive(Default)]
struct Part {
    seen: Vec<(u64, BlockNo, Span, Sight)>,
    parity: Vec<(u64, u64)>,
    unknown: Vec<u64>,
}

fn compare(found: &Found<'_>, coder: &Coder<'_>, groups: &Range<u64>) -> Part {
    let (seal, shape) = (&found.seal, found.seal.shape);
    let shards = index(shape.shards());
    let sums = found.store.sums(&shape, seal.serial, groups.clone());
    let mut part = Part::default();
    for (i, group) in groups.clone().enumerate() {
        if sums[i * shards..(i + 1) * shards]
            .iter()
            .any(Option::is_none)
        {
            part.unknown.push(group);
        }
    }
    let mut bad = Vec::new();
    let mut off = Vec::new();
    coder.rows(groups, &mut bad, &mut |shard, first, row| {
        for (i, sum) in sums_of(row, shape.block).enumerate() {
            let stored = sums.get(i * shards + shard).copied().flatten();
            if stored.is_some_and(|stored| stored != sum) {
                let at = i * shape.block;
                let block = row.get(at..at + shape.block).unwrap_or_default();
                off.push((first + i as u64, stored.unwrap_or(0), block.to_vec()));
            }
        }
    });
    for slot in bad {
        // Unreadable blocks were taken for zeros, which may even have been right.
        if !off.iter().any(|(other, ..)| *other == slot) {
            let group = index(slot % shape.groups - groups.start);
            let shard = index(slot / shape.groups);
            if sums
                .get(group * shards + shard)
                .copied()
                .flatten()
                .is_some()
            {
                off.push((slot, 0, Vec::new()));
            }
        }
    }
    for (slot, stored, block) in off {
        let Some((blkno, span)) = seal.block_in(slot) else {
            continue;
        };
        let sight = seal.look(&span, blkno, &block, stored);
        part.seen.push((slot, blkno, span, sight));
    }
    let mut start = groups.start;
    while start < groups.end {
        let end = (start + shape.groups_in_turn(start)).min(groups.end);
        let mut row = vec![0; index(end - start) * shape.block];
        for shard in 0..u64::from(shape.parity) {
            found.store.row(shape.parity_block(start, shard), &mut row);
            for (group, sum) in (start..end).zip(sums_of(&row, shape.block)) {
                let i = index(group - groups.start);
                let at = i * shards + usize::from(shape.data) + index(shard);
                if sums
                    .get(at)
                    .copied()
                    .flatten()
                    .is_some_and(|stored| stored != sum)
                {
                    part.parity.push((group, shard));
                }
            }
        }
        start = end;
    }
    part.parity.sort_unstable();
    part
}

impl Found<'_> {
    /// Whether a block of a copy of the table is whole, and of the newest writing.
    fn table_stands(&self, copy: u64, number: u64) -> bool {
        let Some(place) = self.store.place(self.seal.shape.table_block(copy, number)) else {
            return false;
        };
        let block = self.store.blocks.read(place, 1).ok();
        let head = block.as_deref().and_then(super::store::head_of);
        head.is_some_and(|head| {
            head.se_serial.get() == self.seal.serial
                && u64::from(head.se_index.get()) == number
                && head.se_blkno.get() == place.0
        })
    }
}

impl Seal {
    /// The block in a slot; `None` when the slot is empty.
    pub(super) fn block_in(&self, slot: u64) -> Option<(BlockNo, Span)> {
        let run = self.list.runs.get(self.list.run_at(slot))?;
        let inside = slot.checked_sub(run.slot)?;
        Some((run.span.first.plus(inside), run.span))
    }

    /// What a block tells of itself; `stored` is its sum when the volume was sealed.
    fn look(&self, span: &Span, blkno: BlockNo, block: &[u8], stored: u32) -> Sight {
        if block.is_empty() {
            return Sight::Broken;
        }
        match span.guard {
            Guard::Fixed => Sight::Broken,
            Guard::Plain => Sight::Silent,
            Guard::Signed => {
                let Some((own, generation)) = identity_of(block) else {
                    return self.corrected(block, stored, None);
                };
                let mut signature = [0; 8];
                signature.copy_from_slice(block.get(..8).unwrap_or(&[0; 8]));
                let same = own == blkno.0 && generation == self.header.sh_fs_generation.get();
                self.checked(block, check_offset_of(signature), same, stored)
            }
            Guard::Trailer => {
                let at = block.len().saturating_sub(DIR_TRAILER);
                let trailer = DirBlockTrailer::ref_from_bytes(&block[at..]);
                let same = trailer.is_ok_and(|trailer| {
                    trailer.db_signature == DIR_TRAILER_SIGNATURE
                        && trailer.db_blkno.get() == blkno.0
                        && span.owner == Some(BlockNo(trailer.db_parent_dinode.get()))
                });
                let check_at = block.len().saturating_sub(ecc::CHECK_BYTES);
                self.checked(block, Some(check_at), same, stored)
            }
            Guard::Quota if !self.is_checked() => Sight::Silent,
            Guard::Quota => {
                let check_at = block.len().saturating_sub(ecc::CHECK_BYTES);
                self.checked(block, Some(check_at), true, stored)
            }
            Guard::Bucket => self.checked(block, Some(0x08), true, stored),
            Guard::Journal => {
                let magic = block.starts_with(&jbd2::MAGIC.to_be_bytes());
                if magic && block.get(4..8) == Some(&jbd2::SUPERBLOCK_V2.to_be_bytes()) {
                    Sight::Sound
                } else {
                    Sight::Broken
                }
            }
            Guard::Slots => slots(block),
        }
    }

    /// What a block with a check is, of which the rest of its identity is right or not.
    fn checked(&self, block: &[u8], check_at: Option<usize>, same: bool, stored: u32) -> Sight {
        if !self.is_checked() {
            return if same { Sight::Sound } else { Sight::Broken };
        }
        let Some(at) = check_at else {
            return Sight::Broken;
        };
        match ecc::verify(block, at) {
            Verdict::Good if same => Sight::Sound,
            Verdict::Good | Verdict::Bad => Sight::Broken,
            Verdict::OneBit { .. } => {
                let sight = self.corrected(block, stored, Some(at));
                if sight == Sight::Broken && same {
                    // A newer block with a flipped bit, which is put right as any other.
                    Sight::Sound
                } else {
                    sight
                }
            }
        }
    }

    /// Whether the check of a block corrects it into what was sealed. Where a bit of the signature is
    /// flipped, it is not known where the check lies: each place is tried.
    fn corrected(&self, block: &[u8], stored: u32, check_at: Option<usize>) -> Sight {
        let places = match &check_at {
            Some(at) => std::slice::from_ref(at),
            None => &CHECKS_AT,
        };
        let fixes = |at: &usize| corrected(block, stored, *at).is_some();
        if self.is_checked() && places.iter().any(fixes) {
            Sight::OneBit
        } else {
            Sight::Broken
        }
    }

    /// A block with a flipped bit as it was sealed.
    pub(super) fn fixed(&self, block: &[u8], stored: u32) -> Option<Vec<u8>> {
        let end = block.len().saturating_sub(ecc::CHECK_BYTES);
        let mut places = CHECKS_AT.into_iter().chain([end]);
        places.find_map(|at| corrected(block, stored, at))
    }
}

/// Where checks lie in blocks with a signature, and in buckets.
const CHECKS_AT: [usize; 5] = [0x80, 0x30, 0x20, 0x18, 0x08];

/// The block that was sealed, when its check at that place corrects it into that.
fn corrected(block: &[u8], stored: u32, check_at: usize) -> Option<Vec<u8>> {
    let Verdict::OneBit { bit } = ecc::verify(block, check_at) else {
        return None;
    };
    let mut fixed = block.to_vec();
    ecc::flip(&mut fixed, bit);
    (sum32c(&fixed) == stored).then_some(fixed)
}

/// A slot map in either form: nobody in a slot, or a node. It has no check, so a block of zeros, which
/// is a free map in the newer form, tells nothing.
fn slots(block: &[u8]) -> Sight {
    if block.iter().all(|byte| *byte == 0) {
        return Sight::Silent;
    }
    let extended = block
        .chunks_exact(8)
        .all(|entry| entry[0] <= 1 && entry[1..4] == [0; 3] && entry[5..8] == [0; 3]);
    let old = block.chunks_exact(2).all(|entry| {
        let node = u16::from_le_bytes([entry[0], entry[1]]);
        node == 0xFFFF || node <= 0xFF
    });
    if extended || old {
        Sight::Sound
    } else {
        Sight::Broken
    }
}
