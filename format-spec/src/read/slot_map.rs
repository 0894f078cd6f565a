//! Which node holds which slot.

use zerocopy::FromBytes;

use crate::block::View;
use crate::error::Result;
use crate::layout::{ExtendedSlot, Incompat};
use crate::read::{file, inode};
use crate::units::BlockNo;

/// The node of each slot, `None` for a free one, from the slot map's inode.
///
/// # Errors
/// The slot map cannot be read.
pub fn read(view: View<'_>, slot_map: BlockNo) -> Result<Vec<Option<u32>>> {
    let inode = inode::read(view, slot_map)?;
    let slots = usize::from(view.info().max_slots);
    let extended = view.info().has(Incompat::EXTENDED_SLOT_MAP);
    let mut bytes = vec![0; slots * if extended { 8 } else { 2 }];
    file::FileReader::open(view, &inode)?.read_at(0, &mut bytes)?;
    Ok(if extended {
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
            .map(|node| (node != 0xFFFF).then_some(u32::from(node)))
            .collect()
    })
}
