//! Blocks of quota files and the heartbeat file: most of them have no signature.

use zerocopy::FromBytes;

use super::kind::BlockKind;
use super::lay::Lay;
use super::{Name, Value};
use crate::ecc::CHECK_BYTES;
use crate::layout::{
    BlockCheck, DiskDqblk, Encoding, GLOBAL_QUOTA_MAGIC, GlobalQuotaInfo, HeartbeatBlock, Kind,
    LOCAL_QUOTA_MAGIC, LocalDqblk, LocalQuotaChunk, QuotaLeaf,
};

/// Bytes of a node's place in the heartbeat file.
const SECTOR: usize = 512;

/// The quota blocks that can be told by themselves.
pub(super) fn detect(bytes: &[u8]) -> Option<BlockKind> {
    let (info, _) = GlobalQuotaInfo::ref_from_prefix(bytes).ok()?;
    let magic = info.dqh_magic.get();
    if info.dqh_version.get() != 0 {
        None
    } else if GLOBAL_QUOTA_MAGIC.contains(&magic) {
        Some(BlockKind::QuotaInfo)
    } else if LOCAL_QUOTA_MAGIC.contains(&magic) {
        Some(BlockKind::QuotaLocalInfo)
    } else {
        None
    }
}

/// A block of a quota file: its contents, and its check.
pub(super) fn quota(lay: &mut Lay<'_>, inner: impl FnOnce(&mut Lay<'_>)) {
    let len = lay.left().len().saturating_sub(CHECK_BYTES);
    lay.group(Name::Field("quota"), len, inner);
    lay.fields(BlockCheck::FIELDS);
}

/// References, as many as are not zero; runs of zeros stay bytes.
pub(super) fn tree(lay: &mut Lay<'_>) {
    numbers(lay, "reference", 4, 0);
}

/// Numbers up to the last that is not made of `free` bytes alone, with runs of such folded.
fn numbers(lay: &mut Lay<'_>, name: &'static str, width: usize, free: u8) {
    let mut index = 0;
    while lay.left().len() >= width {
        let left = lay.left();
        let none = left
            .chunks_exact(width)
            .take_while(|number| number.iter().all(|byte| *byte == free))
            .count();
        if none > 0 {
            lay.plain("free", none * width);
            index += none;
            continue;
        }
        let number = left
            .iter()
            .take(width)
            .rev()
            .fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
        lay.group(Name::Item(name, index), width, |lay| {
            let value = Value::Number(number, Encoding::Little, Kind::Number);
            lay.leaf("number", width, value);
        });
        index += 1;
    }
}

/// Like records; those that are all zeros stay bytes.
fn records(
    lay: &mut Lay<'_>,
    name: &'static str,
    size: usize,
    fields: &'static [crate::layout::Field],
) {
    let mut index = 0;
    while lay.left().len() >= size {
        let free = lay
            .left()
            .chunks_exact(size)
            .take_while(|record| record.iter().all(|byte| *byte == 0))
            .count();
        if free > 0 {
            lay.plain("free", free * size);
            index += free;
            continue;
        }
        lay.group(Name::Item(name, index), size, |lay| lay.fields(fields));
        index += 1;
    }
}

pub(super) fn leaf(lay: &mut Lay<'_>) {
    lay.fields(QuotaLeaf::FIELDS);
    records(lay, "entry", size_of::<DiskDqblk>(), DiskDqblk::FIELDS);
}

pub(super) fn chunk(lay: &mut Lay<'_>) {
    lay.fields(LocalQuotaChunk::FIELDS);
    lay.rest("dqc_bitmap");
}

pub(super) fn changes(lay: &mut Lay<'_>) {
    records(lay, "change", size_of::<LocalDqblk>(), LocalDqblk::FIELDS);
}

pub(super) fn heartbeat(lay: &mut Lay<'_>) {
    let mut sector = 0;
    while !lay.left().is_empty() {
        let len = lay.left().len().min(SECTOR);
        let used = lay.left().iter().take(len).any(|byte| *byte != 0);
        if used {
            lay.group(Name::Item("sector", sector), len, |lay| {
                lay.fields(HeartbeatBlock::FIELDS);
            });
        } else {
            lay.plain("free", len);
        }
        sector += 1;
    }
}
