//! Which node holds which slot.
//!
//! A node enters itself when it mounts the volume and takes itself out when it unmounts. An entry
//! therefore means that its node has the volume mounted, or died with it; a mount recovers the
//! journals of dead nodes by these entries and by nothing else: a dirty journal in a slot without
//! an entry is left alone until somebody takes that slot.

use zerocopy::FromBytes;

use crate::block::View;
use crate::device::Device;
use crate::error::Result;
use crate::layout::{ExtendedSlot, Incompat};
use crate::read::runs::Runs;
use crate::read::{file, inode};
use crate::units::{BlockNo, Slot};

/// The node of each slot, `None` for a free one, from the slot map's inode.
///
/// # Errors
/// The slot map cannot be read.
pub fn read(view: View<'_>, slot_map: BlockNo) -> Result<Vec<Option<u32>>> {
    let inode = inode::read(view, slot_map)?;
    let mut bytes = vec![0; length(view)];
    file::FileReader::open(view, &inode)?.read_at(0, &mut bytes)?;
    Ok(decode(view, &bytes))
}

/// As [`read`], as the medium holds it now.
///
/// # Errors
/// The slot map cannot be read.
pub fn read_fresh(
    view: View<'_>,
    device: &(impl Device + ?Sized),
    slot_map: BlockNo,
) -> Result<Vec<Option<u32>>> {
    let runs = Runs::find(view, slot_map, length(view) as u64)?;
    Ok(decode(view, &runs.read_fresh(device)?))
}

/// The place on the device of a slot's entry, and its bytes for a node or, with none, for a free
/// slot. `None`: the slot map has no such entry.
///
/// # Errors
/// The slot map cannot be read.
pub fn entry(
    view: View<'_>,
    slot_map: BlockNo,
    slot: Slot,
    node: Option<u16>,
) -> Result<Option<(u64, Vec<u8>)>> {
    let bytes = if is_extended(view) {
        let valid = u8::from(node.is_some());
        let [low, high] = node.unwrap_or(0).to_le_bytes();
        vec![valid, 0, 0, 0, low, high, 0, 0]
    } else {
        node.unwrap_or(FREE).to_le_bytes().to_vec()
    };
    let runs = Runs::find(view, slot_map, length(view) as u64)?;
    let place = runs.place_of(usize::from(slot.0) * bytes.len());
    Ok(place.map(|place| (place, bytes)))
}

/// A free slot of the old form.
const FREE: u16 = 0xFFFF;

fn is_extended(view: View<'_>) -> bool {
    view.info().has(Incompat::EXTENDED_SLOT_MAP)
}

/// Bytes of the slot map.
fn length(view: View<'_>) -> usize {
    usize::from(view.info().max_slots) * if is_extended(view) { 8 } else { 2 }
}

fn decode(view: View<'_>, bytes: &[u8]) -> Vec<Option<u32>> {
    if is_extended(view) {
        bytes
            .chunks_exact(8)
            .map(|b| ExtendedSlot::read_from_bytes(b).ok())
            .map(|slot| {
                slot.filter(|s| s.es_valid != 0)
                    .map(|s| s.es_node_num.get())
            })
            .collect()
    } else {
        bytes
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
            .map(|node| (node != FREE).then_some(u32::from(node)))
            .collect()
    }
}
