//! What is done when nothing is left to repair: directories are packed, and names indexed under other
//! hashes. It is staged and checked like a repair.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::HashKind;
use cowfs_format::units::BlockNo;

use super::stage::Stage;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// Pack directories.
    pub(super) pack: bool,
    /// Index names under these hashes.
    pub(super) hashes: Option<&'static [HashKind]>,
    /// In this directory only.
    pub(super) only: Option<BlockNo>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tidied {
    /// Directories that were packed.
    pub(super) packed: u64,
    /// Directories that were indexed anew.
    pub(super) indexed: u64,
    /// Directories for which the volume has no room.
    pub(super) no_room: u64,
}

impl Wish {
    /// Whether anything is asked for.
    pub(super) const fn is_any(&self) -> bool {
        self.pack || self.hashes.is_some()
    }

    /// Does it, in all directories that users see.
    pub(super) fn grant(self, stage: &mut Stage<'_, '_>) -> Result<Tidied> {
        let info = stage.view().info();
        let (root, system_dir) = (info.root, info.system_dir);
        let children = stage.evidence.children.iter();
        let mut directories: Vec<BlockNo> = children
            .filter(|(_, parent)| *parent != system_dir)
            .map(|(child, _)| *child)
            .chain([root])
            .filter(|directory| self.only.is_none_or(|only| only == *directory))
            .collect();
        directories.sort_unstable();
        directories.dedup();
        let mut done = Tidied::default();
        for directory in directories {
            let one = stage.transact(|txn| {
                if let Some(kinds) = self.hashes {
                    txn.index_under(kinds);
                }
                let packed = self.pack && txn.pack_directory(directory)?;
                let indexed = self.hashes.is_some() && txn.rehash_directory(directory)?;
                Ok((packed, indexed))
            });
            match one {
                Ok((packed, indexed)) => {
                    done.packed += u64::from(packed);
                    done.indexed += u64::from(indexed);
                }
                Err(Error::NoSpace { .. }) => done.no_room += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
