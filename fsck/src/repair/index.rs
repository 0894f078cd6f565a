//! Directory indexes: made anew from the names in the directory's blocks.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::Incompat;
use cowfs_format::units::BlockNo;

use super::stage::Stage;

/// Makes the index of a directory anew, or takes it away where there is no room for one: the directory is then read
/// name by name.
pub(super) fn remake(stage: &mut Stage<'_, '_>, directory: BlockNo) -> Result<()> {
    if !stage.first("index", directory) {
        return Ok(());
    }
    if stage.view().info().has(Incompat::INDEXED_DIRS) {
        match stage.transact(|txn| txn.remake_index(directory)) {
            // While its clusters are hidden, leaks stay, and there may be no room until it is gone.
            Err(Error::NoSpace { .. }) => {}
            made => return made,
        }
    }
    stage.transact(|txn| txn.forget_index(directory))
}
