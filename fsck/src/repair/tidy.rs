//! What is done when nothing is left to repair: directories are packed and get an index, and names are
//! indexed under other hashes. It is staged and checked like a repair.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::HashKind;
use cowfs_format::txn::Txn;
use cowfs_format::units::BlockNo;

use super::stage::Stage;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// Pack directories, and index those that could have an index.
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
            let mut no_room = false;
            for step in [Self::index, Self::lay_out] {
                let made = stage.transact(|txn| {
                    if let Some(kinds) = self.hashes {
                        txn.index_under(kinds);
                    }
                    step(self, txn, directory)
                });
                match made {
                    Ok((packed, indexed)) => {
                        done.packed += u64::from(packed);
                        done.indexed += u64::from(indexed);
                    }
                    Err(Error::NoSpace { .. }) => no_room = true,
                    Err(error) => return Err(error),
                }
            }
            done.no_room += u64::from(no_room);
        }
        Ok(done)
    }

    /// Gives a directory the index that it lacks, which closes its names up, too. Where there is no
    /// room for one they can still be packed.
    fn index(self, txn: &mut Txn<'_>, directory: BlockNo) -> Result<(bool, bool)> {
        Ok((false, self.pack && txn.index_anew(directory)?))
    }

    /// Packs a directory and indexes its names under other hashes; whether it did either.
    fn lay_out(self, txn: &mut Txn<'_>, directory: BlockNo) -> Result<(bool, bool)> {
        let packed = self.pack && txn.pack_directory(directory)?;
        let indexed = self.hashes.is_some() && txn.rehash_directory(directory)?;
        Ok((packed, indexed))
    }
}
