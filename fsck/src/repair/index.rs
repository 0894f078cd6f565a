//! Directory indexes: made anew from the names in the directory's blocks.

use cowfs_format::error::Result;
use cowfs_format::layout::Incompat;
use cowfs_format::units::BlockNo;

use super::stage::Stage;

/// Makes the index of a directory anew.
pub(super) fn remake(stage: &mut Stage<'_, '_>, directory: BlockNo) -> Result<()> {
    if !stage.first("index", directory) {
        return Ok(());
    }
    let indexed = stage.view().info().has(Incompat::INDEXED_DIRS);
    stage.transact(|txn| {
        if indexed {
            txn.remake_index(directory)
        } else {
            txn.forget_index(directory)
        }
    })
}
