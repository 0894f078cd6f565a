//! Getting lost blocks back.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{State, Verified};
use super::find::{Found, Seal};
use crate::device::Device;
use crate::ecc::sum32c;
use crate::error::Result;
use crate::units::{BlockNo, index};
use crate::volume::scan::Scanner;

/// What a seal gives back.
#[derive(Debug, Default)]
pub struct Restored {
    /// Blocks as they were when they were sealed, in order.
    pub blocks: Vec<(BlockNo, Vec<u8>)>,
    /// Lost blocks that the seal cannot give back, in order.
    pub beyond: Vec<BlockNo>,
}

/// How many shards of each group are missing, for groups that miss any and have their sums.
pub(super) fn losses(verified: &Verified, seal: &Seal) -> BTreeMap<u64, u64> {
    let mut groups: BTreeMap<u64, u64> = BTreeMap::new();
    let data = verified
        .mismatches
        .iter()
        .filter(|found| found.state != State::OneBit)
        .map(|found| found.slot % seal.shape.groups);
    for group in data.chain(verified.parity.iter().map(|(group, _)| *group)) {
        *groups.entry(group).or_default() += 1;
    }
    for group in &verified.unknown {
        groups.insert(*group, u64::MAX);
    }
    groups
}

/// Computes the lost blocks of what [`verify`](super::verify) found. Each is compared with its sum.
///
/// # Errors
/// The processor cannot do it.
pub fn restore(
    device: &dyn Device,
    found: &Found<'_>,
    verified: &Verified,
    scanner: &Scanner,
) -> Result<Restored> {
    let seal = &found.seal;
    let shape = seal.shape;
    let coder = found.coder(device)?;
    let mut lost: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let (mut gone, mut bits) = (BTreeSet::new(), BTreeSet::new());
    for mismatch in &verified.mismatches {
        match mismatch.state {
            State::OneBit => {
                bits.insert(mismatch.slot);
                continue;
            }
            State::Lost => {
                let group = mismatch.slot % shape.groups;
                lost.entry(group).or_default().push(mismatch.slot);
            }
            State::Newer => {}
        }
        gone.insert(mismatch.slot);
    }
    let parity: BTreeSet<(u64, u64)> = verified.parity.iter().copied().collect();
    let losses = losses(verified, seal);
    let groups: Vec<(u64, Vec<u64>)> = lost.into_iter().collect();
    let work = |(group, slots): &(u64, Vec<u64>)| {
        let group = *group;
        let within = losses
            .get(&group)
            .is_some_and(|lost| *lost <= u64::from(shape.parity));
        let back = within.then(|| {
            let sums = found.store.sums(&shape, seal.serial, group..group + 1);
            let mut shards: Vec<Option<Vec<u8>>> = Vec::new();
            for shard in 0..u64::from(shape.data) {
                let slot = group + shard * shape.groups;
                let mut block = vec![0; shape.block];
                coder
                    .blocks
                    .row(&seal.list, slot, &mut block, &mut Vec::new());
                if bits.contains(&slot) {
                    let stored = sums.get(index(shard)).copied().flatten().unwrap_or(0);
                    shards.push(seal.fixed(&block, stored));
                } else {
                    shards.push((!gone.contains(&slot)).then_some(block));
                }
            }
            for shard in 0..u64::from(shape.parity) {
                let block = found.store.read(shape.parity_block(group, shard));
                shards.push(block.filter(|_| !parity.contains(&(group, shard))));
            }
            coder.reconstruct(&mut shards).ok()?;
            Some((shards, sums))
        });
        let back = back.flatten();
        let each = slots.iter().map(|slot| {
            let shard = index(slot / shape.groups);
            let block = back.as_ref().and_then(|(shards, sums)| {
                let block = shards.get(shard)?.as_ref()?;
                (Some(sum32c(block)) == sums.get(shard).copied().flatten()).then(|| block.clone())
            });
            (*slot, block)
        });
        each.collect::<Vec<_>>()
    };
    let mut done = Restored::default();
    scanner.run(&groups, work, |part| {
        for (slot, block) in part {
            let Some((blkno, _)) = seal.block_in(slot) else {
                continue;
            };
            match block {
                Some(block) => done.blocks.push((blkno, block)),
                None => done.beyond.push(blkno),
            }
        }
    });
    done.blocks.sort_unstable_by_key(|(blkno, _)| *blkno);
    done.beyond.sort_unstable();
    Ok(done)
}
