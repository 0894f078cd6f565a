//! Where the blocks of a seal are: in clusters of the volume, or in a file beside it; and the blocks
//! that it protects, as the device has them.

use zerocopy::{FromBytes, IntoBytes};

use super::list::List;
use super::shape::Shape;
use crate::device::{Device, DeviceMut};
use crate::ecc::sum32c;
use crate::error::IoError;
use crate::layout::{SEAL_COPIES, SEAL_HEAD, SEAL_MAGIC, SealHead};
use crate::units::{BlockNo, index};

/// Blocks of a device, whatever they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks<'d> {
    pub(super) device: &'d dyn Device,
    pub(super) bits: u32,
}

impl<'d> Blocks<'d> {
    pub(super) const fn bytes(self) -> usize {
        1 << self.bits
    }

    /// Blocks that lie side by side. They are read, not mapped: what is mapped stays in memory.
    pub(super) fn read(self, first: BlockNo, count: u64) -> Result<Vec<u8>, IoError> {
        let mut bytes = vec![0; index(count) << self.bits];
        self.device.read_at(self.offset(first), &mut bytes)?;
        Ok(bytes)
    }

    pub(super) const fn offset(self, blkno: BlockNo) -> u64 {
        blkno.0.saturating_mul(1 << self.bits)
    }

    /// Reads blocks that lie side by side, one by one where they cannot be read together. What cannot
    /// be read is zeros, and its number from `first` on is shown.
    fn read_into(self, first: BlockNo, row: &mut [u8], bad: &mut dyn FnMut(u64)) {
        if self.device.read_at(self.offset(first), row).is_ok() {
            return;
        }
        for (i, block) in (0u64..).zip(row.chunks_exact_mut(self.bytes())) {
            if self
                .device
                .read_at(self.offset(first.plus(i)), block)
                .is_err()
            {
                block.fill(0);
                bad(i);
            }
        }
    }

    /// Reads what the slots from `from` on hold, in order: blocks, and zeros for empty slots. What
    /// cannot be read is zeros, too, and its slot is noted.
    pub(super) fn row(self, list: &List, from: u64, row: &mut [u8], bad: &mut Vec<u64>) {
        let to = from + (row.len() >> self.bits) as u64;
        let mut at = from;
        let mut rest = row;
        for run in list.runs.get(list.run_at(from)..).unwrap_or_default() {
            if run.slot >= to {
                break;
            }
            let start = run.slot.max(at);
            let (hole, more) = rest.split_at_mut(index(start - at) << self.bits);
            hole.fill(0);
            let count = run.end().min(to) - start;
            let (place, more) = more.split_at_mut(index(count) << self.bits);
            let first = run.span.first.plus(start - run.slot);
            self.read_into(first, place, &mut |i| bad.push(start + i));
            rest = more;
            at = start + count;
        }
        rest.fill(0);
    }
}

/// The blocks of a seal, by their numbers in it.
#[derive(Clone, Debug)]
pub(super) struct Store<'d> {
    pub(super) blocks: Blocks<'d>,
    /// Number in the seal, place, length; none: the number is the place.
    places: Option<Vec<(u64, BlockNo, u64)>>,
}

impl<'d> Store<'d> {
    /// A seal in a file of its own.
    pub(super) const fn beside(blocks: Blocks<'d>) -> Self {
        let places = None;
        Self { blocks, places }
    }

    /// A seal in clusters of the volume.
    pub(super) fn inside(blocks: Blocks<'d>, places: &[(BlockNo, u64)]) -> Self {
        let mut number = 0u64;
        let numbered = places.iter().map(|(first, len)| {
            let place = (number, *first, *len);
            number = number.saturating_add(*len);
            place
        });
        let places = Some(numbered.collect());
        Self { blocks, places }
    }

    /// Where a block lies; `None` behind the end.
    pub(super) fn place(&self, number: u64) -> Option<BlockNo> {
        let Some(places) = &self.places else {
            return Some(BlockNo(number));
        };
        let at = places.partition_point(|(first, _, len)| first.saturating_add(*len) <= number);
        let (first, blkno, _) = places.get(at)?;
        Some(blkno.plus(number.checked_sub(*first)?))
    }

    /// A block, when it can be read.
    pub(super) fn read(&self, number: u64) -> Option<Vec<u8>> {
        self.blocks.read(self.place(number)?, 1).ok()
    }

    /// Where `count` blocks from `number` on lie, when they lie side by side.
    pub(super) fn side_by_side(&self, number: u64, count: u64) -> Option<BlockNo> {
        let first = self.place(number)?;
        let last = self.place(number + count.saturating_sub(1))?;
        (last == first.plus(count.saturating_sub(1))).then_some(first)
    }

    /// Reads blocks from `number` on; what cannot be read is zeros.
    pub(super) fn row(&self, number: u64, row: &mut [u8]) {
        let count = (row.len() >> self.blocks.bits) as u64;
        if let Some(first) = self.side_by_side(number, count) {
            return self.blocks.read_into(first, row, &mut |_| ());
        }
        for (i, block) in (0u64..).zip(row.chunks_exact_mut(self.blocks.bytes())) {
            match self.place(number + i) {
                Some(place) => self.blocks.read_into(place, block, &mut |_| ()),
                None => block.fill(0),
            }
        }
    }

    /// A block of a table: the newest of its copies that is whole, or that of one writing.
    pub(super) fn table(
        &self,
        (table, parity): (u64, u64),
        number: u64,
        serial: Option<u64>,
    ) -> Option<(SealHead, Vec<u8>)> {
        let mut copies = (0..SEAL_COPIES).filter_map(|copy| {
            let place = self.place(super::shape::table_block(table, parity, copy, number))?;
            let bytes = self.blocks.read(place, 1).ok()?;
            let head = head_of(&bytes)?;
            let own = head.se_blkno.get() == place.0 && u64::from(head.se_index.get()) == number;
            let wanted = serial.is_none_or(|serial| head.se_serial.get() == serial);
            (own && wanted).then_some((head, bytes))
        });
        if serial.is_some() {
            return copies.next();
        }
        // The first of the newest ones.
        copies.reduce(|best, next| {
            if next.0.se_serial.get() > best.0.se_serial.get() {
                next
            } else {
                best
            }
        })
    }

    /// The sums of some groups, shard by shard; `None` where no copy has them.
    pub(super) fn sums(
        &self,
        shape: &Shape,
        serial: u64,
        groups: std::ops::Range<u64>,
    ) -> Vec<Option<u32>> {
        let sizes = (shape.table(), shape.parity_blocks());
        let per = shape.sums_per_block();
        let (mut at, end) = (groups.start * shape.shards(), groups.end * shape.shards());
        let mut sums = Vec::with_capacity(index(end - at));
        while at < end {
            let stop = (at / per + 1).saturating_mul(per).min(end);
            let block = self.table(sizes, 1 + shape.list + at / per, Some(serial));
            for i in at..stop {
                let from = SEAL_HEAD + index(i % per) * 4;
                let sum = block
                    .as_ref()
                    .and_then(|(_, bytes)| bytes.get(from..from + 4));
                sums.push(sum.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            at = stop;
        }
        sums
    }
}

/// The head of a block of a table, when the block is whole.
pub(super) fn head_of(block: &[u8]) -> Option<SealHead> {
    if !block.starts_with(&SEAL_MAGIC) {
        return None;
    }
    let (head, rest) = SealHead::read_from_prefix(block).ok()?;
    let sum = sum_of(&head, rest);
    (sum == head.se_crc.get() && 1 << head.se_block_bits.get().min(63) == block.len() as u64)
        .then_some(head)
}

fn sum_of(head: &SealHead, rest: &[u8]) -> u32 {
    let mut head = *head;
    head.se_crc = 0.into();
    crc32c_of(head.as_bytes(), rest)
}

fn crc32c_of(head: &[u8], rest: &[u8]) -> u32 {
    let state = crate::ecc::crc32c(u32::MAX, head);
    !crate::ecc::crc32c(state, rest)
}

/// Writes the blocks of a table.
#[derive(Debug)]
pub(super) struct TableWriter<'d> {
    pub(super) device: &'d dyn DeviceMut,
    pub(super) store: Store<'d>,
    pub(super) shape: Shape,
    pub(super) uuid: [u8; 16],
    pub(super) serial: u64,
}

impl TableWriter<'_> {
    /// Writes block `number` of a copy: what `body` holds, and zeros behind it.
    pub(super) fn write(&self, copy: u64, number: u64, body: &[u8]) -> Result<(), IoError> {
        let shape = &self.shape;
        let Some(place) = self.store.place(shape.table_block(copy, number)) else {
            return Err(crate::device::beyond_end("write", number, body.len(), 0));
        };
        let mut block = vec![0; shape.block];
        if let Some(room) = block.get_mut(SEAL_HEAD..SEAL_HEAD + body.len()) {
            room.copy_from_slice(body);
        }
        let bits = shape.block.trailing_zeros();
        let mut head = SealHead {
            se_magic: SEAL_MAGIC,
            se_crc: 0.into(),
            se_index: crate::units::low32(number).into(),
            se_uuid: self.uuid,
            se_serial: self.serial.into(),
            se_blkno: place.0.into(),
            se_table: crate::units::low32(shape.table()).into(),
            se_copy: crate::units::low16(copy).into(),
            se_block_bits: crate::units::low16(bits.into()).into(),
            se_parity: shape.parity_blocks().into(),
        };
        head.se_crc = sum_of(&head, &block[SEAL_HEAD..]).into();
        block[..SEAL_HEAD].copy_from_slice(head.as_bytes());
        self.device
            .write_at(self.store.blocks.offset(place), &block)
    }

    /// Makes the other copies what copy 0 is, one after the other: while one is written, another one
    /// is whole.
    pub(super) fn copy_rest(&self) -> Result<(), IoError> {
        self.device.flush()?;
        for copy in 1..SEAL_COPIES {
            for number in 0..self.shape.table() {
                let from = self.store.place(self.shape.table_block(0, number));
                let Some(from) = from else { continue };
                let block = self.store.blocks.read(from, 1)?;
                self.write(copy, number, &block[SEAL_HEAD..])?;
            }
            self.device.flush()?;
        }
        Ok(())
    }
}

/// CRC-32C of each block of a row.
pub(super) fn sums_of(row: &[u8], block: usize) -> impl Iterator<Item = u32> + '_ {
    row.chunks_exact(block).map(sum32c)
}
