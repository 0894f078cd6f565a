//! Finding a seal: by its name in the system directory, in a file, or by a search of the whole device
//! for blocks that say that they belong to one.

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::FromBytes;

use super::code::Coder;
use super::cover::find_seal;
use super::list::List;
use super::shape::{Shape, table_block};
use super::store::{Blocks, Store, head_of};
use crate::device::Device;
use crate::ecc::sum32c;
use crate::error::{Error, Result};
use crate::layout::{
    SEAL_BESIDE, SEAL_CHECKED, SEAL_COPIES, SEAL_DATA, SEAL_HEAD, SEAL_MAGIC, SealHead, SealHeader,
};
use crate::read::inode;
use crate::units::{BlockNo, Geometry, Slot, index};
use crate::volume::Volume;
use crate::volume::scan::Scanner;

/// The most bytes of a list; more would be a list of nearly every block of the largest volume.
const MOST_LIST: u64 = 1 << 30;
/// Bytes of a work item of a search.
const PIECE: u64 = 4 << 20;

/// What a seal says of itself.
#[derive(Clone, Debug)]
pub struct Seal {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// Which writing of the seal it is.
    pub serial: u64,
    /// Its header.
    pub header: SealHeader,
    /// Sizes of the volume.
    pub geo: Geometry,
    /// Its own sizes.
    pub shape: Shape,
    /// What it protects.
    pub list: List,
}

/// A seal, and where its blocks are.
#[derive(Clone, Debug)]
pub struct Found<'d> {
    /// The seal.
    pub seal: Seal,
    pub(super) store: Store<'d>,
}

impl Seal {
    /// Whether it protects what files hold.
    #[must_use]
    pub fn covers_data(&self) -> bool {
        self.header.sh_flags.get() & SEAL_DATA != 0
    }

    /// Whether the volume's metadata blocks have checks.
    #[must_use]
    pub(super) fn is_checked(&self) -> bool {
        self.header.sh_flags.get() & SEAL_CHECKED != 0
    }

    /// The next transactions of journals when the volume was sealed.
    #[must_use]
    pub fn journals(&self) -> &[(Slot, u32)] {
        &self.list.journals
    }

    /// Finds the seal of a volume by its name. `None`: it has none inside.
    ///
    /// # Errors
    /// The system directory or the seal is damaged beyond use; a search may find more.
    pub fn inside<D: Device>(volume: &Volume<D>) -> Result<Option<Found<'_>>> {
        let view = volume.view();
        let Some(file) = find_seal(view)? else {
            return Ok(None);
        };
        let geo = *view.geo();
        let per_cluster = geo.blocks_per_cluster();
        let extents = inode::read(view, file)?.extents(view)?;
        let places: Vec<(BlockNo, u64)> = extents
            .iter()
            .map(|extent| (extent.blkno, u64::from(extent.clusters) * per_cluster))
            .collect();
        let blocks = Blocks {
            device: volume.device(),
            bits: geo.block_bits(),
        };
        let count: u64 = places.iter().map(|(_, len)| len).sum();
        let store = Store::inside(blocks, &places);
        match in_store(store, count) {
            Some(found) if found.seal.uuid == volume.info().uuid && !found.is_beside() => {
                Ok(Some(found))
            }
            _ => Err(Error::Input {
                what: "its seal was not finished, or is damaged beyond use; --seal makes it anew"
                    .to_owned(),
            }),
        }
    }

    /// Finds a seal that stands in a file of its own.
    ///
    /// # Errors
    /// The file holds none, or one that is damaged beyond use.
    pub fn beside<'d>(device: &'d dyn Device, scanner: &Scanner) -> Result<Found<'d>> {
        let by_head = Geometry::BLOCK_BITS.rev().find_map(|bits| {
            let store = Store::beside(Blocks { device, bits });
            in_store(store, device.size() >> bits)
        });
        let found = by_head.or_else(|| {
            let all = searched(device, scanner);
            all.into_iter().find(Found::is_beside)
        });
        found.filter(Found::is_beside).ok_or_else(|| Error::Input {
            what: "it holds no seal, or one that is damaged beyond use".to_owned(),
        })
    }

    /// Searches a device for the newest seal that stands on it; with `uuid` of that volume.
    #[must_use]
    pub fn search<'d>(
        device: &'d dyn Device,
        scanner: &Scanner,
        uuid: Option<[u8; 16]>,
    ) -> Option<Found<'d>> {
        let all = searched(device, scanner).into_iter();
        let mut inside = all.filter(|found| {
            !found.is_beside()
                && uuid.is_none_or(|uuid| uuid == found.seal.uuid)
                && found.seal.geo.bytes() <= device.size()
        });
        inside.next()
    }
}

impl Found<'_> {
    pub(super) fn is_beside(&self) -> bool {
        self.seal.header.sh_flags.get() & SEAL_BESIDE != 0
    }

    /// The parity of its groups, over the blocks of a device.
    pub(super) fn coder<'a>(&'a self, device: &'a dyn Device) -> Result<Coder<'a>> {
        let blocks = Blocks {
            device,
            bits: self.seal.geo.block_bits(),
        };
        Coder::new(blocks, &self.seal.list, self.seal.shape)
    }
}

/// The seal in a row of `count` blocks.
fn in_store(store: Store<'_>, count: u64) -> Option<Found<'_>> {
    // The first block and the last one of a seal say where all others are. Where both are lost, any
    // block of a table does.
    let head_at = |number: u64| {
        let place = store.place(number)?;
        let head = head_of(&store.blocks.read(place, 1).ok()?)?;
        (head.se_blkno.get() == place.0).then_some(head)
    };
    let first = head_at(0);
    let head = first.or_else(|| (0..count).rev().find_map(head_at))?;
    let sizes = (u64::from(head.se_table.get()), head.se_parity.get());
    let (newest, block) = store.table(sizes, 0, None)?;
    let header = header_of(&block)?;
    let serial = newest.se_serial.get();
    let listed = |number| {
        let (_, block) = store.table(sizes, number, Some(serial))?;
        Some(block)
    };
    let seal = assemble(&newest, header, listed)?;
    Some(Found { seal, store })
}

fn header_of(block: &[u8]) -> Option<SealHeader> {
    let (header, _) = SealHeader::read_from_prefix(block.get(SEAL_HEAD..)?).ok()?;
    Some(header)
}

/// Puts a seal together from its header and what `listed` gives for the blocks of its list.
fn assemble(
    head: &SealHead,
    header: SealHeader,
    listed: impl Fn(u64) -> Option<Vec<u8>>,
) -> Option<Seal> {
    let bits = u32::from(head.se_block_bits.get());
    let geo = Geometry::new(bits, header.sh_cluster_bits.get(), header.sh_clusters.get())?;
    let shape = Shape {
        block: geo.block_bytes(),
        data: header.sh_data_shards.get(),
        parity: header.sh_parity_shards.get(),
        groups: header.sh_groups.get(),
        list: header.sh_list_blocks.get(),
        seam: header.sh_seam.get(),
    };
    // Numbers that no seal of this volume can have would only cost time and memory.
    let bytes = header.sh_list_bytes.get();
    let room = (shape.block - SEAL_HEAD) as u64;
    let possible = (1..=255).contains(&shape.data)
        && (1..=255).contains(&shape.parity)
        && shape.shards() <= 255
        && shape.groups > 0
        && shape.groups <= geo.blocks()
        && shape.seam < shape.groups
        && bytes <= MOST_LIST
        && shape.list <= MOST_LIST / room
        && bytes <= shape.list.saturating_mul(room)
        && shape.table() == u64::from(head.se_table.get())
        && shape.parity_blocks() == head.se_parity.get();
    if !possible {
        return None;
    }
    let mut stream = Vec::new();
    let mut number = 1;
    while (stream.len() as u64) < bytes {
        let block = listed(number)?;
        let want = index(bytes) - stream.len();
        let body = block.get(SEAL_HEAD..)?;
        stream.extend_from_slice(body.get(..want.min(body.len()))?);
        number += 1;
    }
    if sum32c(&stream) != header.sh_list_crc.get() {
        return None;
    }
    let list = List::decode(&stream)?;
    let inside = |first: BlockNo, len: u64| geo.contains(first, len);
    let sound = list
        .runs
        .iter()
        .all(|run| run.end() <= shape.slots() && inside(run.span.first, run.span.len))
        && list.places.iter().all(|(first, len)| inside(*first, *len));
    sound.then_some(Seal {
        uuid: head.se_uuid,
        serial: head.se_serial.get(),
        header,
        geo,
        shape,
        list,
    })
}

/// All seals of which a search finds enough, the newest first.
fn searched<'d>(device: &'d dyn Device, scanner: &Scanner) -> Vec<Found<'d>> {
    let starts = (0..device.size()).step_by(index(PIECE));
    let pieces: Vec<Range<u64>> = starts
        .map(|start| start..(start + PIECE).min(device.size()))
        .collect();
    // By UUID and writing, which block of a table lies where.
    let mut seals: BTreeMap<(u64, [u8; 16]), Parts> = BTreeMap::new();
    scanner.run(
        &pieces,
        |piece| heads_in(device, piece),
        |found| {
            for (offset, head) in found {
                let key = (head.se_serial.get(), head.se_uuid);
                let parts = seals.entry(key).or_insert_with(|| Parts {
                    head,
                    at: BTreeMap::new(),
                });
                parts.at.entry(head.se_index.get()).or_insert(offset);
            }
        },
    );
    let newest = seals.into_values().rev();
    newest.filter_map(|parts| parts.seal(device)).collect()
}

/// What a search found of a seal.
struct Parts {
    head: SealHead,
    at: BTreeMap<u32, u64>,
}

impl Parts {
    fn seal(self, device: &dyn Device) -> Option<Found<'_>> {
        let bits = u32::from(self.head.se_block_bits.get());
        let blocks = Blocks { device, bits };
        let block = |number: u64| {
            let offset = self.at.get(&u32::try_from(number).ok()?)?;
            let mut bytes = vec![0; blocks.bytes()];
            device.read_at(*offset, &mut bytes).ok()?;
            head_of(&bytes).map(|_| bytes)
        };
        let header = header_of(&block(0)?)?;
        let seal = assemble(&self.head, header, block)?;
        let store = if header.sh_flags.get() & SEAL_BESIDE != 0 {
            Store::beside(blocks)
        } else {
            Store::inside(blocks, &seal.list.places)
        };
        // The list must know the places at which its own blocks were found.
        let (table, parity) = (seal.shape.table(), seal.shape.parity_blocks());
        let known = (0..SEAL_COPIES).any(|copy| {
            let place = store.place(table_block(table, parity, copy, 0));
            place.is_some_and(|place| self.at.get(&0) == Some(&blocks.offset(place)))
        });
        known.then_some(Found { seal, store })
    }
}

/// The heads of tables' blocks that lie in a piece of a device, with their places.
fn heads_in(device: &dyn Device, piece: &Range<u64>) -> Vec<(u64, SealHead)> {
    const STEP: usize = 512;
    let len = index(piece.end - piece.start);
    let buffer;
    let bytes = match device.mapped(piece.start, len) {
        Some(bytes) => bytes,
        None => {
            let mut read = vec![0; len];
            if device.read_at(piece.start, &mut read).is_err() {
                // What can be read of it is looked at.
                for (chunk, at) in read.chunks_mut(STEP).zip((piece.start..).step_by(STEP)) {
                    if device.read_at(at, chunk).is_err() {
                        chunk.fill(0);
                    }
                }
            }
            buffer = read;
            &buffer
        }
    };
    let mut found = Vec::new();
    for (i, chunk) in bytes.chunks(STEP).enumerate() {
        if !chunk.starts_with(&SEAL_MAGIC) {
            continue;
        }
        let at = piece.start + (i * STEP) as u64;
        let Ok((head, _)) = SealHead::read_from_prefix(chunk) else {
            continue;
        };
        let bits = u32::from(head.se_block_bits.get());
        if !Geometry::BLOCK_BITS.contains(&bits)
            || head.se_blkno.get().checked_mul(1 << bits) != Some(at)
        {
            continue;
        }
        let mut block = vec![0; 1 << bits];
        if device.read_at(at, &mut block).is_ok()
            && let Some(head) = head_of(&block)
        {
            found.push((at, head));
        }
    }
    found
}
