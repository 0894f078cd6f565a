//! Making and renewing a seal.

use std::ops::Range;

use super::cover::{cover, find_seal};
use super::find::{Found, Seal};
use super::list::{List, Run, Span};
use super::shape::Shape;
use super::store::{Blocks, Store, TableWriter};
use super::write::Work;
use super::{SealOptions, Sealed, Watch};
use crate::device::{Device, DeviceMut};
use crate::error::{Error, Result};
use crate::layout::{SEAL_BESIDE, SEAL_CHECKED, SEAL_DATA, SEAL_HEAD, SEAL_NAME, SealHeader};
use crate::read::inode;
use crate::units::{BlockNo, Slot};
use crate::volume::Volume;
use crate::volume::scan::Scanner;

/// Seals a volume in clusters of its own. A seal that it has already goes first.
///
/// # Errors
/// A journal is dirty, a part of the volume is damaged, there is no room, or the device fails. A seal
/// that is not finished is none; everything else of the volume is sound.
pub fn seal<D: DeviceMut>(
    volume: &mut Volume<D>,
    scanner: &Scanner,
    watch: &dyn Watch,
    options: &SealOptions,
) -> Result<Sealed> {
    let serial = match Seal::inside(volume) {
        Ok(found) => found.map_or(0, |found| found.seal.serial),
        Err(_) => 0,
    };
    if find_seal(volume.view())?.is_some() {
        unseal(volume, options.now)?;
    }
    let spans = settled(volume, scanner, options.data)?;
    let geo = volume.info().geo;
    let list = List {
        runs: List::in_slots(&spans),
        ..List::default()
    };
    let blocks = list.blocks() + 8;
    let shape = Shape::new(
        geo.block_bytes(),
        options.percent,
        blocks,
        list.encode().len() as u64,
    )?;
    let bytes = shape.blocks() << geo.block_bits();
    let clusters = u32::try_from(geo.clusters_for(bytes)).unwrap_or(u32::MAX);
    let mut txn = volume.begin()?;
    let made = txn.make_system_file(SEAL_NAME, clusters, options.now);
    let file = made.map_err(|error| match error {
        Error::Refused { why } => Error::Refused {
            why: format!("{why}; keep the seal beside the volume with --seal-file"),
        },
        error => error,
    })?;
    txn.commit()?;
    volume.reread()?;

    // The seal's own inode is part of what is protected now.
    let spans = settled(volume, scanner, options.data)?;
    let places = places(volume, file, shape.blocks())?;
    let list = List {
        places,
        runs: List::in_slots(&spans),
        journals: sequences(volume),
    };
    let source = Blocks {
        device: volume.device(),
        bits: geo.block_bits(),
    };
    let store = Store::inside(source, &list.places);
    let shape = Shape {
        seam: seam(&list, &store, &shape),
        ..shape
    };
    let work = Work {
        source,
        list: &list,
        writer: TableWriter {
            device: volume.device(),
            store,
            shape,
            uuid: volume.info().uuid,
            serial: next_serial(serial, options),
        },
        header: header(volume, options, 0),
    };
    work.write(scanner, watch, None)
}

/// A seal that will stand in a file beside the volume.
#[derive(Debug)]
pub struct Beside {
    list: List,
    shape: Shape,
}

impl Beside {
    /// Settles what a seal beside a volume holds.
    ///
    /// # Errors
    /// A journal is dirty, or a part of the volume is damaged.
    pub fn new<D: Device>(
        volume: &Volume<D>,
        scanner: &Scanner,
        options: &SealOptions,
    ) -> Result<Self> {
        let spans = settled(volume, scanner, options.data)?;
        let list = List {
            places: Vec::new(),
            runs: List::in_slots(&spans),
            journals: sequences(volume),
        };
        let (block, bytes) = (volume.info().geo.block_bytes(), list.encode().len() as u64);
        let shape = Shape::new(block, options.percent, list.blocks(), bytes)?;
        Ok(Self { list, shape })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shape.blocks().saturating_mul(self.shape.block as u64)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A device fails.
    pub fn write<D: Device>(
        &self,
        volume: &Volume<D>,
        file: &dyn DeviceMut,
        scanner: &Scanner,
        watch: &dyn Watch,
        options: &SealOptions,
    ) -> Result<Sealed> {
        let bits = volume.info().geo.block_bits();
        let work = Work {
            source: Blocks {
                device: volume.device(),
                bits,
            },
            list: &self.list,
            writer: TableWriter {
                device: file,
                store: Store::beside(Blocks { device: file, bits }),
                shape: self.shape,
                uuid: volume.info().uuid,
                serial: next_serial(0, options),
            },
            header: header(volume, options, SEAL_BESIDE),
        };
        work.write(scanner, watch, None)
    }
}

/// Renews a seal after the volume was changed: only groups that changed are coded anew. `None` when
/// the seal has no room for what is new; then it must be made anew.
///
/// # Errors
/// A journal is dirty, a part of the volume is damaged, or a device fails. Stopped on the way, the
/// seal protects what it did, but for groups that were coded anew already.
pub fn reseal<D: Device>(
    volume: &Volume<D>,
    found: &Found<'_>,
    device: &dyn DeviceMut,
    scanner: &Scanner,
    watch: &dyn Watch,
    options: &SealOptions,
) -> Result<Option<Sealed>> {
    let old = &found.seal;
    let spans = settled(volume, scanner, old.covers_data())?;
    let Some(runs) = moved(&old.list.runs, &spans, old.shape.slots()) else {
        return Ok(None);
    };
    let list = List {
        places: old.list.places.clone(),
        runs,
        journals: sequences(volume),
    };
    let room = old.shape.list * (old.shape.block - SEAL_HEAD) as u64;
    if list.encode().len() as u64 > room {
        return Ok(None);
    }
    let bits = volume.info().geo.block_bits();
    let target = Blocks { device, bits };
    let store = if old.list.places.is_empty() {
        Store::beside(target)
    } else {
        Store::inside(target, &list.places)
    };
    let mut header = header(
        volume,
        options,
        old.header.sh_flags.get() & (SEAL_BESIDE | SEAL_DATA),
    );
    header.sh_time = old.header.sh_time;
    let work = Work {
        source: Blocks {
            device: volume.device(),
            bits,
        },
        list: &list,
        writer: TableWriter {
            device,
            store,
            shape: old.shape,
            uuid: volume.info().uuid,
            serial: next_serial(old.serial, options),
        },
        header,
    };
    work.write(scanner, watch, Some(found)).map(Some)
}

/// Takes the seal out of a volume.
///
/// # Errors
/// It has none, a journal is dirty, or the device fails.
pub fn unseal<D: DeviceMut>(volume: &mut Volume<D>, now: crate::txn::Timestamp) -> Result<()> {
    let Some(file) = find_seal(volume.view())? else {
        let what = "the volume is not sealed".to_owned();
        return Err(Error::Input { what });
    };
    let places = places(volume, file, u64::MAX)?;
    let mut txn = volume.begin()?;
    txn.remove_system_file(SEAL_NAME, now)?;
    txn.commit()?;
    volume.reread()?;
    // A search of the whole device must not take what is left of it for a seal.
    let blocks = Blocks {
        device: volume.device(),
        bits: volume.info().geo.block_bits(),
    };
    let zeros = vec![0; blocks.bytes()];
    for (first, len) in places {
        for blkno in (0..len).map(|i| first.plus(i)) {
            let block = blocks.read(blkno, 1)?;
            if block.starts_with(&crate::layout::SEAL_MAGIC) {
                drop(block);
                volume.device().write_at(blocks.offset(blkno), &zeros)?;
            }
        }
    }
    Ok(volume.device().flush()?)
}

/// What is to be protected of a volume whose journals are empty.
fn settled<D: Device>(volume: &Volume<D>, scanner: &Scanner, data: bool) -> Result<Vec<Span>> {
    if !volume.pending().is_empty() {
        let why =
            "its journal is dirty; replay it with fsck.cowfs -y before it is sealed".to_owned();
        return Err(Error::Refused { why });
    }
    cover(volume.view(), scanner, data)
}

/// The runs of blocks of a seal's file.
fn places<D: Device>(volume: &Volume<D>, file: BlockNo, most: u64) -> Result<Vec<(BlockNo, u64)>> {
    let view = volume.view();
    let per_cluster = view.geo().blocks_per_cluster();
    let mut left = most;
    let mut places: Vec<(BlockNo, u64)> = Vec::new();
    for extent in inode::read(view, file)?.extents(view)? {
        let len = (u64::from(extent.clusters) * per_cluster).min(left);
        left -= len;
        match places.last_mut() {
            _ if len == 0 => {}
            Some((first, before)) if first.plus(*before) == extent.blkno => *before += len,
            _ => places.push((extent.blkno, len)),
        }
    }
    Ok(places)
}

fn sequences<D: Device>(volume: &Volume<D>) -> Vec<(Slot, u32)> {
    let journals = volume.journals().iter();
    let known = journals.filter_map(|state| {
        let journal = state.journal.as_ref().ok()?;
        Some((state.slot, journal.superblock.s_sequence.get()))
    });
    known.collect()
}

fn next_serial(old: u64, options: &SealOptions) -> u64 {
    (old + 1).max(options.now.seconds << 8)
}

/// The group whose turn it is where the parity lies: that of the first protected block behind it. So
/// a run of consecutive blocks meets the groups in turn, across parity as well.
fn seam(list: &List, store: &Store<'_>, shape: &Shape) -> u64 {
    let Some(place) = store.place(shape.table()) else {
        return 0;
    };
    let before = |run: &Run| place.since(run.span.first).min(run.span.len);
    let slots: u64 = list.runs.iter().map(before).sum();
    slots % shape.groups.max(1)
}

fn header<D: Device>(volume: &Volume<D>, options: &SealOptions, flags: u32) -> SealHeader {
    let info = volume.info();
    let data = if options.data { SEAL_DATA } else { 0 };
    let checked = if volume.view().has_ecc() {
        SEAL_CHECKED
    } else {
        0
    };
    SealHeader {
        sh_fs_generation: info.fs_generation.0.into(),
        sh_cluster_bits: info.geo.cluster_bits().into(),
        sh_clusters: info.geo.clusters().into(),
        sh_flags: (flags | data | checked).into(),
        sh_time: options.now.seconds.into(),
        sh_renewed: options.now.seconds.into(),
        ..zerocopy::FromZeros::new_zeroed()
    }
}

/// Gives spans the slots that their blocks have already, and new blocks those that are free; `None`
/// when there are too few.
fn moved(old: &[Run], spans: &[Span], slots: u64) -> Option<Vec<Run>> {
    let mut by_block: Vec<&Run> = old.iter().collect();
    by_block.sort_unstable_by_key(|run| run.span.first);
    let (mut kept, mut fresh): (Vec<Run>, Vec<Span>) = (Vec::new(), Vec::new());
    for span in spans {
        let mut skip = 0;
        while skip < span.len {
            let at = span.first.plus(skip);
            let next = by_block.partition_point(|run| run.span.end() <= at);
            let (len, slot) = match by_block.get(next) {
                Some(run) if run.span.first <= at => (
                    run.span.end().since(at),
                    Some(run.slot + at.since(run.span.first)),
                ),
                Some(run) => (run.span.first.since(at), None),
                None => (span.len, None),
            };
            let part = span.part(skip, len);
            match slot {
                Some(slot) => kept.push(Run { slot, span: part }),
                None => fresh.push(part),
            }
            skip += part.len.max(1);
        }
    }
    kept.sort_unstable_by_key(|run| run.slot);
    // Free slots lie before, between and behind those.
    let ends = kept.iter().map(|run| (run.slot, run.end()));
    let mut holes = Vec::new();
    let mut from = 0;
    for (start, end) in ends.chain([(slots, slots)]) {
        if start > from {
            holes.push(from..start);
        }
        from = from.max(end);
    }
    let mut holes = holes.into_iter();
    let mut hole: Range<u64> = 0..0;
    for span in fresh {
        let mut skip = 0;
        while skip < span.len {
            if hole.is_empty() {
                hole = holes.next()?;
            }
            let part = span.part(skip, hole.end - hole.start);
            kept.push(Run {
                slot: hole.start,
                span: part,
            });
            hole.start += part.len;
            skip += part.len;
        }
    }
    kept.sort_unstable_by_key(|run| run.slot);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::super::list::Guard;
    use super::*;

    fn span(first: u64, len: u64) -> Span {
        Span {
            first: BlockNo(first),
            len,
            guard: Guard::Signed,
            owner: None,
        }
    }

    #[test]
    fn blocks_that_stay_keep_their_slots() {
        let old = List::in_slots(&[span(10, 10), span(40, 5)]);
        // 12..=14 went, 15 to 19 and 40.. stay, 60..=64 are new.
        let runs = moved(
            &old,
            &[span(10, 2), span(15, 5), span(40, 5), span(60, 5)],
            20,
        )
        .unwrap();
        let at = |slot: u64| {
            let run = runs.iter().find(|run| run.slot <= slot && slot < run.end());
            run.map(|run| run.span.first.0 + slot - run.slot)
        };
        let wanted = [
            10, 11, 60, 61, 62, 15, 16, 17, 18, 19, 40, 41, 42, 43, 44, 63, 64,
        ];
        let found: Vec<_> = (0..20).filter_map(at).collect();
        assert_eq!(found, wanted);
        assert_eq!(at(2), Some(60));
        assert!(moved(&old, &[span(10, 2), span(100, 19)], 20).is_none());
    }
}
