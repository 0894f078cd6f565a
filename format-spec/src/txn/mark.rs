//! Entries of the slot map, as a commit and a recovery write them.
//!
//! A node that mounts the volume looks into the journals of those slots that the slot map says are
//! held, and into that of its own slot; of the others it knows nothing. Were a commit of ours
//! killed between `DIRTY` and the last image on its way home, and a node then took another slot
//! (the mount option `preferred_slot`), it would read blocks of before and after the transaction;
//! and whoever took our slot later would replay the old images over newer blocks. So as long as
//! our transaction is in the log, its slot is held: by node 254 on a cluster's volume, which every
//! mount then finds dead and recovers, by node 0 on a volume for local mounts, whose driver then
//! takes that very slot.
//!
//! Where no other slot is free, nothing is entered: a mount would find no slot for itself; and the
//! first to mount can then take none but ours.

use crate::block::View;
use crate::device::DeviceMut;
use crate::error::Result;
use crate::layout::Incompat;
use crate::read::slot_map;
use crate::units::{BlockNo, Slot};
use crate::volume::system::{self, SystemFile};
use crate::volume::watch::OURS;

/// The slot map of a volume that is written.
pub(super) struct Marks<'t> {
    device: &'t dyn DeviceMut,
    view: View<'t>,
    slot_map: BlockNo,
    slots: Vec<Option<u32>>,
}

impl<'t> Marks<'t> {
    pub(super) fn read(device: &'t dyn DeviceMut, view: View<'t>) -> Result<Self> {
        let slot_map = system::find(view, SystemFile::SlotMap)?;
        let slots = slot_map::read_fresh(view, device, slot_map)?;
        Ok(Self {
            device,
            view,
            slot_map,
            slots,
        })
    }

    /// Whether somebody holds a slot.
    pub(super) fn is_held(&self, slot: Slot) -> bool {
        self.holder(slot).is_some()
    }

    /// The node that holds a slot.
    pub(super) fn holder(&self, slot: Slot) -> Option<u32> {
        self.slots.get(usize::from(slot.0)).copied().flatten()
    }

    /// Holds a slot that is free, if another one is free too; whether it did.
    pub(super) fn hold(&self, slot: Slot) -> Result<bool> {
        let free = self.slots.iter().filter(|node| node.is_none()).count();
        if self.is_held(slot) || free < 2 {
            return Ok(false);
        }
        let local = self.view.info().has(Incompat::LOCAL_MOUNT);
        self.write(slot, Some(if local { 0 } else { OURS }))
    }

    /// Makes a slot free.
    pub(super) fn release(&self, slot: Slot) -> Result<()> {
        self.write(slot, None).map(drop)
    }

    fn write(&self, slot: Slot, node: Option<u16>) -> Result<bool> {
        let entry = slot_map::entry(self.view, self.slot_map, slot, node)?;
        let Some((place, bytes)) = entry else {
            return Ok(false);
        };
        self.device.write_at(place, &bytes)?;
        Ok(true)
    }
}
