//! Writing a seal: parity, sums, list and header, in an order in which a run can be stopped.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use zerocopy::IntoBytes;

use super::code::Coder;
use super::find::Found;
use super::list::List;
use super::shape::Shape;
use super::store::{Blocks, Store, TableWriter};
use super::{Sealed, Watch};
use crate::ecc::sum32c;
use crate::error::{Error, Result};
use crate::layout::{SEAL_BESIDE, SEAL_HEAD, SealHeader};
use crate::units::index;
use crate::volume::scan::Scanner;

/// A seal that is being written.
pub(super) struct Work<'w> {
    pub(super) source: Blocks<'w>,
    pub(super) list: &'w List,
    pub(super) writer: TableWriter<'w>,
    pub(super) header: SealHeader,
}

impl Work<'_> {
    /// Writes parity and tables. With `old`, groups that this seal holds as they are now are left.
    pub(super) fn write(
        mut self,
        scanner: &Scanner,
        watch: &dyn Watch,
        old: Option<&Found<'_>>,
    ) -> Result<Sealed> {
        let shape = self.writer.shape;
        let stream = self.list.encode();
        let room = shape.block - SEAL_HEAD;
        if stream.len() as u64 > shape.list * room as u64 || self.list.blocks() > shape.slots() {
            let why = "the volume changed while it was sealed; seal it again".to_owned();
            return Err(Error::Refused { why });
        }
        let coder = Coder::new(self.source, self.list, shape)?;
        let items = Coder::items(&shape);
        watch.pass(shape.groups);
        let failed = Mutex::new(None);
        let work = |groups: &Range<u64>| {
            let done = self.code(&coder, groups, old);
            watch.step(groups.end - groups.start);
            done.map_err(|error| {
                scanner_failed(&failed, error);
            })
            .ok()
        };
        let mut sums = SumsWriter {
            writer: &self.writer,
            body: Vec::new(),
            next: 1 + shape.list,
        };
        let mut renewed = 0;
        scanner.run(&items, work, |done| {
            let Some((part, changed)) = done else { return };
            renewed += changed;
            if let Err(error) = sums.add(&part) {
                scanner_failed(&failed, error.into());
            }
        });
        if let Err(error) = sums.finish() {
            scanner_failed(&failed, error.into());
        }
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if scanner.stopped() {
            let why = "interrupted; the seal is not finished".to_owned();
            return Err(Error::Refused { why });
        }
        drop(coder);
        let run = promise(self.list, &self.writer.store, &shape, self.is_beside());
        let header = &mut self.header;
        header.sh_data_shards = shape.data.into();
        header.sh_parity_shards = shape.parity.into();
        header.sh_list_crc = sum32c(&stream).into();
        header.sh_list_bytes = (stream.len() as u64).into();
        header.sh_groups = shape.groups.into();
        header.sh_blocks = self.list.blocks().into();
        header.sh_seam = shape.seam.into();
        header.sh_list_blocks = shape.list.into();
        header.sh_run = run.into();
        let mut parts = stream.chunks(room);
        for number in 1..=shape.list {
            self.writer
                .write(0, number, parts.next().unwrap_or_default())?;
        }
        self.writer.device.flush()?;
        self.writer.write(0, 0, self.header.as_bytes())?;
        self.writer.copy_rest()?;
        Ok(Sealed {
            blocks: self.list.blocks(),
            groups: shape.groups,
            renewed,
            data_shards: shape.data,
            parity_shards: shape.parity,
            run,
            bytes: shape.blocks().saturating_mul(shape.block as u64),
            beside: self.is_beside(),
        })
    }

    fn is_beside(&self) -> bool {
        self.header.sh_flags.get() & SEAL_BESIDE != 0
    }

    /// Codes some groups and writes their parity; their sums, and how many groups changed.
    fn code(
        &self,
        coder: &Coder<'_>,
        groups: &Range<u64>,
        old: Option<&Found<'_>>,
    ) -> Result<(Vec<u32>, u64)> {
        let shape = &self.writer.shape;
        let shards = index(shape.shards());
        if let Some(old) = old
            && let Some(sums) = self.unchanged(coder, groups, old)
        {
            return Ok((sums, 0));
        }
        let coded = coder.encode(groups)?;
        let before = old.map(|old| old.store.sums(shape, old.seal.serial, groups.clone()));
        let stands = |group: u64| {
            let i = index(group - groups.start);
            let mine = &coded.sums[i * shards..(i + 1) * shards];
            let before = before
                .as_ref()
                .map(|before| &before[i * shards..(i + 1) * shards]);
            before.is_some_and(|before| {
                before
                    .iter()
                    .zip(mine)
                    .all(|(before, now)| *before == Some(*now))
                    && self.parity_stands(group, mine)
            })
        };
        let (mut changed, mut start) = (0, groups.start);
        while start < groups.end {
            if stands(start) {
                start += 1;
                continue;
            }
            // As many as lie side by side are written together.
            let most = (start + shape.groups_in_turn(start)).min(groups.end);
            let end = (start + 1..most)
                .find(|group| stands(*group))
                .unwrap_or(most);
            for (shard, row) in (0u64..).zip(&coded.parity) {
                let from = index(start - groups.start) * shape.block;
                let to = index(end - groups.start) * shape.block;
                self.write_parity(shape.parity_block(start, shard), &row[from..to])?;
            }
            changed += end - start;
            start = end;
        }
        Ok((coded.sums, changed))
    }

    /// Writes blocks of the seal that follow each other.
    fn write_parity(&self, number: u64, row: &[u8]) -> Result<()> {
        let store = &self.writer.store;
        let size = self.writer.shape.block;
        if let Some(first) = store.side_by_side(number, (row.len() / size) as u64) {
            let offset = store.blocks.offset(first);
            return Ok(self.writer.device.write_at(offset, row)?);
        }
        for (number, block) in (number..).zip(row.chunks_exact(size)) {
            if let Some(place) = store.place(number) {
                let offset = store.blocks.offset(place);
                self.writer.device.write_at(offset, block)?;
            }
        }
        Ok(())
    }

    /// The sums of some groups of which nothing changed.
    fn unchanged(
        &self,
        coder: &Coder<'_>,
        groups: &Range<u64>,
        old: &Found<'_>,
    ) -> Option<Vec<u32>> {
        let shape = &self.writer.shape;
        let shards = index(shape.shards());
        let before = old.store.sums(shape, old.seal.serial, groups.clone());
        let sums: Vec<u32> = before.into_iter().collect::<Option<_>>()?;
        let (mut bad, mut same) = (Vec::new(), true);
        coder.rows(groups, &mut bad, &mut |shard, _, row| {
            let now = super::store::sums_of(row, shape.block).enumerate();
            same &= now
                .into_iter()
                .all(|(i, sum)| sums.get(i * shards + shard) == Some(&sum));
        });
        let stands = |(i, group): (usize, u64)| {
            self.parity_stands(group, &sums[i * shards..(i + 1) * shards])
        };
        let good = bad.is_empty() && same && groups.clone().enumerate().all(stands);
        good.then_some(sums)
    }

    /// Whether the parity of a group is there as its sums say.
    fn parity_stands(&self, group: u64, sums: &[u32]) -> bool {
        let shape = &self.writer.shape;
        (0..u64::from(shape.parity)).all(|shard| {
            let block = self.writer.store.read(shape.parity_block(group, shard));
            let sum = sums.get(usize::from(shape.data) + index(shard));
            block.is_some_and(|block| Some(&sum32c(&block)) == sum)
        })
    }
}

fn scanner_failed(failed: &Mutex<Option<Error>>, error: Error) {
    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    failed.get_or_insert(error);
}

/// Writes sums to copy 0 of a table as they come.
struct SumsWriter<'w, 'd> {
    writer: &'w TableWriter<'d>,
    body: Vec<u8>,
    next: u64,
}

impl SumsWriter<'_, '_> {
    fn add(&mut self, sums: &[u32]) -> Result<(), crate::error::IoError> {
        let room = self.writer.shape.block - SEAL_HEAD;
        for sum in sums {
            self.body.extend_from_slice(&sum.to_le_bytes());
            if self.body.len() == room {
                self.finish()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), crate::error::IoError> {
        if self.body.is_empty() {
            return Ok(());
        }
        self.writer.write(0, self.next, &self.body)?;
        self.body.clear();
        self.next += 1;
        Ok(())
    }
}

/// The longest run of consecutive blocks that can be lost without a group losing more than its
/// parity makes good, and without all copies of the table.
fn promise(list: &List, store: &Store<'_>, shape: &Shape, beside: bool) -> u64 {
    let most = usize::from(shape.parity);
    let mut longest = u64::MAX;
    if !beside {
        for index in 0..shape.table() {
            let ends = [0, 2].map(|copy| store.place(shape.table_block(copy, index)));
            if let [Some(first), Some(last)] = ends {
                longest = longest.min(last.since(first).max(first.since(last)));
            }
        }
    }
    for groups in Coder::items(shape) {
        let mut members: Vec<Vec<u64>> = groups.clone().map(|_| Vec::new()).collect();
        for shard in 0..u64::from(shape.data) {
            let base = shard * shape.groups;
            let (from, to) = (base + groups.start, base + groups.end);
            for run in list.runs.get(list.run_at(from)..).unwrap_or_default() {
                if run.slot >= to {
                    break;
                }
                for slot in run.slot.max(from)..run.end().min(to) {
                    if let Some(group) = members.get_mut(index(slot - from)) {
                        group.push(run.span.first.0 + (slot - run.slot));
                    }
                }
            }
        }
        for (group, members) in groups.zip(&mut members) {
            if !beside {
                let parity = (0..u64::from(shape.parity))
                    .filter_map(|shard| store.place(shape.parity_block(group, shard)));
                members.extend(parity.map(|blkno| blkno.0));
            }
            members.sort_unstable();
            for pair in members.windows(most + 1) {
                longest = longest.min(pair[most] - pair[0]);
            }
        }
    }
    longest
}
