//! The system directory: which system file is which inode.

use std::collections::HashMap;
use std::ops::ControlFlow;

use cowfs_format::block::{Checked, View};
use cowfs_format::layout::{Dinode, InodeFlags, RoCompat};
use cowfs_format::read::dir;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::SystemFile;

use super::chains::Allocator;
use crate::catalogue::{At, VolumeProblem};
use crate::facts::Out;
use crate::facts::groups::Kind;

/// The names of the system directory.
#[derive(Debug, Default)]
pub(crate) struct System {
    files: HashMap<Vec<u8>, BlockNo>,
}

impl System {
    /// Reads the system directory as far as it can be read; what is wrong with it is told when all
    /// directories are.
    pub(crate) fn read(view: View<'_>) -> Self {
        let mut files = HashMap::new();
        let (directory, _) = view.inspect::<Dinode>(view.info().system_dir);
        if let Some(directory) = directory {
            // A damaged block ends the walk; the names before it are good.
            let _ = dir::for_each_entry(view, &directory, &mut |entry| {
                files.entry(entry.name.to_vec()).or_insert(entry.inode);
                ControlFlow::Continue(())
            });
        }
        Self { files }
    }

    /// The inode of a system file.
    pub(crate) fn find(&self, file: SystemFile) -> Option<BlockNo> {
        self.files.get(file.name().as_bytes()).copied()
    }

    /// The inode of a system file, read as far as it can be made out.
    pub(crate) fn inode<'v>(
        &self,
        view: View<'v>,
        file: SystemFile,
    ) -> Option<Checked<'v, Dinode>> {
        let (inode, faults) = view.inspect::<Dinode>(self.find(file)?);
        inode.filter(|_| faults.len() <= 1)
    }

    /// The suballocators, those of inodes first.
    pub(crate) fn allocators(&self, view: View<'_>) -> Vec<Allocator> {
        let slots = || (0..view.info().max_slots).map(Slot);
        let global = [(SystemFile::GlobalInodeAlloc, Kind::Inode, Slot::GLOBAL)];
        let inodes = slots().map(|slot| (SystemFile::InodeAlloc(slot), Kind::Inode, slot));
        let extents = slots().map(|slot| (SystemFile::ExtentAlloc(slot), Kind::Extent, slot));
        global
            .into_iter()
            .chain(inodes)
            .chain(extents)
            .filter_map(|(file, kind, slot)| {
                let inode = self.find(file)?;
                Some(Allocator {
                    inode,
                    kind,
                    slot: slot.0,
                })
            })
            .collect()
    }
}

/// The files that a volume must have, with the flags that each must carry.
pub(crate) fn wanted(view: View<'_>) -> Vec<(SystemFile, InodeFlags)> {
    let chain = InodeFlags::BITMAP | InodeFlags::CHAIN;
    let none = InodeFlags::empty();
    let mut wanted = vec![
        (SystemFile::GlobalInodeAlloc, chain),
        (SystemFile::SlotMap, none),
        (SystemFile::Heartbeat, InodeFlags::HEARTBEAT),
        (SystemFile::GlobalBitmap, chain),
    ];
    let ro_compat = view.info().features.ro_compat;
    let (user, group) = (
        ro_compat.contains(RoCompat::USRQUOTA),
        ro_compat.contains(RoCompat::GRPQUOTA),
    );
    if user {
        wanted.push((SystemFile::UserQuota, InodeFlags::QUOTA));
    }
    if group {
        wanted.push((SystemFile::GroupQuota, InodeFlags::QUOTA));
    }
    for slot in (0..view.info().max_slots).map(Slot) {
        wanted.extend([
            (SystemFile::OrphanDir(slot), none),
            (SystemFile::ExtentAlloc(slot), chain),
            (SystemFile::InodeAlloc(slot), chain),
            (SystemFile::Journal(slot), InodeFlags::JOURNAL),
            (
                SystemFile::LocalAlloc(slot),
                InodeFlags::BITMAP | InodeFlags::LOCAL_ALLOC,
            ),
            (SystemFile::TruncateLog(slot), InodeFlags::DEALLOC),
        ]);
        if user {
            wanted.push((SystemFile::LocalUserQuota(slot), InodeFlags::QUOTA));
        }
        if group {
            wanted.push((SystemFile::LocalGroupQuota(slot), InodeFlags::QUOTA));
        }
    }
    wanted
}

/// Flags that say what kind of system file an inode is.
pub(crate) const KINDS: InodeFlags = InodeFlags::LOCAL_ALLOC
    .union(InodeFlags::BITMAP)
    .union(InodeFlags::JOURNAL)
    .union(InodeFlags::HEARTBEAT)
    .union(InodeFlags::CHAIN)
    .union(InodeFlags::DEALLOC)
    .union(InodeFlags::QUOTA)
    .union(InodeFlags::SUPER_BLOCK);

/// Checks that all system files are there and are what their names say.
pub(crate) fn files(view: View<'_>, system: &System, out: &mut Out) {
    for (file, flags) in wanted(view) {
        let Some(blkno) = system.find(file) else {
            let at = At::inode(view.info().system_dir);
            match file {
                SystemFile::OrphanDir(slot) => {
                    out.find(at, VolumeProblem::OrphanDirMissing { slot: slot.0 });
                }
                _ => out.find(at, VolumeProblem::SystemFileMissing { name: file.name() }),
            }
            continue;
        };
        let Some(inode) = system.inode(view, file) else {
            continue;
        };
        let marks = InodeFlags::SYSTEM | InodeFlags::VALID;
        if inode.flags().intersection(KINDS) != flags || !inode.flags().contains(marks) {
            let (name, flags) = (file.name(), inode.i_flags.get());
            out.find(
                At::inode(blkno),
                VolumeProblem::SystemFileKind { name, flags },
            );
        }
    }
}
