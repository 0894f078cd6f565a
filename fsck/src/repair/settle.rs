//! Slots that were not left cleanly: what they still owe is settled as the next mount would do it.
//! Their marks in journals and slot map are taken away once that is on the device.

use cowfs_format::error::Result;
use cowfs_format::ops::settle;
use cowfs_format::units::{BlockNo, Slot};

use super::stage::Stage;

/// Settles what a slot owes, but for its orphans, each of which is a finding of its own.
pub(super) fn slot(stage: &mut Stage<'_, '_>, slot: Slot) -> Result<()> {
    let now = stage.now;
    stage.transact(|txn| settle::settle(txn, slot, now))
}

/// Deletes an inode that waits in an orphan directory.
pub(super) fn orphan(stage: &mut Stage<'_, '_>, blkno: BlockNo, slot: Slot) -> Result<()> {
    let now = stage.now;
    stage.transact(|txn| settle::remove_orphan(txn, slot, blkno, now))
}
