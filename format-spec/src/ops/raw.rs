//! Putting bytes over blocks, whatever they hold.

use crate::error::{Error, Result};
use crate::read::inode;
use crate::read::journal::Journal;
use crate::txn::Txn;
use crate::units::BlockNo;
use crate::volume::system::{self, SystemFile};

/// Puts bytes in the place of blocks, one after the other. They are written as they are: checks in
/// them must be right already.
///
/// # Errors
/// A block lies outside of the volume, or is one that every commit writes itself: of the journal that
/// the transaction goes through, or of the slot map.
pub fn put_blocks(txn: &mut Txn<'_>, first: BlockNo, bytes: &[u8]) -> Result<()> {
    let size = txn.info().geo.block_bytes();
    for (i, part) in bytes.chunks(size).enumerate() {
        let blkno = first.plus(i as u64);
        if let Some(file) = own_file(txn, blkno)? {
            let why = format!(
                "block {blkno} belongs to {file}, which every commit writes itself: it can only be \
                 written directly, past the journal"
            );
            return Err(Error::Refused { why });
        }
        let mut block = txn.edit_raw(blkno, None)?;
        if let Some(place) = block.bytes_mut().get_mut(..part.len()) {
            place.copy_from_slice(part);
        }
    }
    Ok(())
}

/// The file of the volume's own that a block belongs to, if commits write to it.
fn own_file(txn: &Txn<'_>, blkno: BlockNo) -> Result<Option<&'static str>> {
    let view = txn.view();
    let journal = system::find(view, SystemFile::Journal(txn.slot()))?;
    if blkno == journal || Journal::open(view, journal)?.contains(blkno) {
        return Ok(Some("the journal"));
    }
    let map = inode::read(view, system::find(view, SystemFile::SlotMap)?)?;
    let blocks = view.geo().blocks_per_cluster();
    let inside = |first: BlockNo, clusters: u32| {
        first <= blkno && blkno.since(first) < u64::from(clusters).saturating_mul(blocks)
    };
    let extents = map.extents(view)?;
    let held = extents.iter().any(|e| inside(e.blkno, e.clusters));
    Ok(held.then_some("the slot map"))
}
