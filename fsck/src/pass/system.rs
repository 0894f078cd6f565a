//! The system directory: which system file is which inode.

use std::collections::HashMap;
use std::ops::ControlFlow;

use cowfs_format::block::{Checked, View};
use cowfs_format::layout::{DIR_TRAILER, Dinode, FileType, InodeFlags, RoCompat};
use cowfs_format::read::{dir, extent};
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::SystemFile;

use super::chains::Allocator;
use crate::catalogue::{AllocProblem, At, BlockKind, VolumeProblem};
use crate::facts::groups::Kind;
use crate::facts::{Cx, Out, note_ecc, why};

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

    /// The system file that is found at an inode.
    pub(crate) fn file_at(&self, view: View<'_>, blkno: BlockNo) -> Option<SystemFile> {
        let mut known = in_order(view).into_iter();
        known.find(|file| self.find(*file) == Some(blkno))
    }

    /// Whether any name leads to an inode.
    pub(crate) fn names(&self, blkno: BlockNo) -> bool {
        self.files.values().any(|named| *named == blkno)
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
    let info = view.info();
    wanted_with(info.features.ro_compat, info.max_slots)
}

/// The files that a volume with these kinds of quota and so many slots must have.
fn wanted_with(quota: RoCompat, slots: u16) -> Vec<(SystemFile, InodeFlags)> {
    let chain = InodeFlags::BITMAP | InodeFlags::CHAIN;
    let none = InodeFlags::empty();
    let mut wanted = vec![
        (SystemFile::GlobalInodeAlloc, chain),
        (SystemFile::SlotMap, none),
        (SystemFile::Heartbeat, InodeFlags::HEARTBEAT),
        (SystemFile::GlobalBitmap, chain),
    ];
    let (user, group) = (
        quota.contains(RoCompat::USRQUOTA),
        quota.contains(RoCompat::GRPQUOTA),
    );
    if user {
        wanted.push((SystemFile::UserQuota, InodeFlags::QUOTA));
    }
    if group {
        wanted.push((SystemFile::GroupQuota, InodeFlags::QUOTA));
    }
    for slot in (0..slots).map(Slot) {
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

/// Bit of the first file of the system directory in the group of the volume's own inodes: the descriptor, the root
/// and the system directory come before.
pub(crate) const FIRST_FILE_BIT: u64 = 3;

/// The files of the system directory in the order in which a new volume gets their inodes, which
/// then lie one behind the other.
pub(crate) fn in_order(view: View<'_>) -> Vec<SystemFile> {
    let info = view.info();
    let order = in_order_with(info.features.ro_compat, info.max_slots);
    order.into_iter().map(|(file, _)| file).collect()
}

/// The files of the system directory in that order, with their flags, in a volume with these kinds of quota
/// and so many slots.
pub(crate) fn in_order_with(quota: RoCompat, slots: u16) -> Vec<(SystemFile, InodeFlags)> {
    let mut order = vec![(SystemFile::BadBlocks, InodeFlags::empty())];
    order.extend(wanted_with(quota, slots));
    // The names of a kind come together, slot by slot; a stable sort leaves the slots in order.
    order.sort_by_key(|(file, _)| match file {
        SystemFile::BadBlocks => 0,
        SystemFile::GlobalInodeAlloc => 1,
        SystemFile::SlotMap => 2,
        SystemFile::Heartbeat => 3,
        SystemFile::GlobalBitmap => 4,
        SystemFile::UserQuota => 5,
        SystemFile::GroupQuota => 6,
        SystemFile::OrphanDir(_) => 7,
        SystemFile::ExtentAlloc(_) => 8,
        SystemFile::InodeAlloc(_) => 9,
        SystemFile::Journal(_) => 10,
        SystemFile::LocalAlloc(_) => 11,
        SystemFile::TruncateLog(_) => 12,
        SystemFile::LocalUserQuota(_) => 13,
        SystemFile::LocalGroupQuota(_) => 14,
    });
    order
}

/// Why the block of an inode of the volume itself can be no inode any more: it is none, or it is
/// wrong in more than one way. The system directory must be a directory that has names, too.
fn lost(view: View<'_>, blkno: BlockNo) -> Option<String> {
    let (inode, faults) = view.inspect::<Dinode>(blkno);
    let usable = inode.is_some() && faults.len() <= 1;
    let fault = faults.first().filter(|_| !usable);
    if let Some(fault) = fault {
        return Some(fault.to_string());
    }
    let inode = inode.filter(|_| blkno == view.info().system_dir)?;
    if inode.file_type() != Some(FileType::Directory) {
        return Some("is no directory".to_owned());
    }
    let empty = inode.inline_data().is_none() && dir_blocks(view, &inode).is_empty();
    empty.then(|| "has no blocks".to_owned())
}

/// Tells which blocks of the system directory hold no entries that can be made out; whether there
/// are any.
fn blocks(view: View<'_>, out: &mut Out) -> bool {
    let blkno = view.info().system_dir;
    let (inode, _) = view.inspect::<Dinode>(blkno);
    let Some(inode) = inode else {
        return false;
    };
    if let Some(area) = inode.inline_data() {
        let wrong = dir::entries(area).find_map(Result::err);
        if let Some(fault) = &wrong {
            let why = fault.to_string();
            out.find(
                At::within(blkno, blkno),
                VolumeProblem::SystemDirBlock { why },
            );
        }
        return wrong.is_some();
    }
    if !inode.has_extents() {
        return false;
    }
    let with_trailer = dir::has_trailer(view, &inode);
    let mut found = false;
    for block in dir_blocks(view, &inode) {
        let why = match view.dir_block(block, blkno, with_trailer) {
            Err(error) => Some(why(&error)),
            Ok((bytes, _)) => {
                let end = bytes.len() - if with_trailer { DIR_TRAILER } else { 0 };
                let area = bytes.get(..end).unwrap_or_default();
                let wrong = dir::entries(area).find_map(Result::err);
                wrong.map(|fault| fault.to_string())
            }
        };
        if let Some(why) = why {
            found = true;
            let at = At::within(blkno, block);
            out.find(at, VolumeProblem::SystemDirBlock { why });
        }
    }
    found
}

/// The blocks of a directory, in order, as far as its extents can be made out.
pub(crate) fn dir_blocks(view: View<'_>, inode: &Checked<'_, Dinode>) -> Vec<BlockNo> {
    let geo = view.geo();
    let bpc = geo.blocks_per_cluster();
    let size = geo.blocks_for(inode.i_size.get());
    let (extents, _) = extent::salvage(view, inode.blkno(), inode.body());
    let runs = extents.into_iter().map(|extent| {
        let first = u64::from(extent.cpos) * bpc;
        let count = (u64::from(extent.clusters) * bpc).min(size.saturating_sub(first));
        (extent.blkno, count)
    });
    runs.flat_map(|(first, count)| (0..count).map(move |nth| first.plus(nth)))
        .collect()
}

/// Looks at the inodes of system files whose group was not found: as long as it is lost, nobody else does,
/// and it may be an inode among them that it cannot be found without.
pub(crate) fn outside(cx: &Cx<'_>, system: &System, out: &mut Out) {
    let directory = cx.view.info().system_dir;
    let mut all: Vec<BlockNo> = system.files.values().copied().collect();
    all.push(directory);
    all.sort_unstable();
    all.dedup();
    for blkno in all {
        if cx.groups.locate(blkno).is_some() {
            continue;
        }
        let (inode, faults) = cx.view.inspect::<Dinode>(blkno);
        let Some(inode) = inode else {
            continue;
        };
        if let [fault] = faults.as_slice() {
            out.find(At::inode(blkno), BlockKind::Inode.problem(fault));
        }
        note_ecc(out, At::inode(blkno), BlockKind::Inode.name(), inode.ecc());
        let allocator = system.find(SystemFile::GlobalInodeAlloc);
        if let Some(allocator) = allocator.filter(|_| blkno == directory && faults.is_empty()) {
            // It may hang in no chain because its allocator was made anew, or is an old copy.
            let bit = u64::from(inode.i_suballoc_bit.get());
            let group = BlockNo(blkno.0.saturating_sub(bit));
            out.find(At::within(allocator, group), AllocProblem::GroupUnlinked {});
        }
    }
}

/// Checks that all system files are there and are what their names say.
pub(crate) fn files(view: View<'_>, system: &System, out: &mut Out) {
    let directory = view.info().system_dir;
    if let Some(why) = lost(view, directory) {
        // Without it, nothing more can be said of any system file.
        out.find(At::inode(directory), VolumeProblem::SystemDirLost { why });
        return;
    }
    if blocks(view, out) {
        // Names may stand in what cannot be read; they are missed once that is settled.
        return;
    }
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
        if let Some(why) = lost(view, blkno) {
            let name = file.name();
            out.find(
                At::inode(blkno),
                VolumeProblem::SystemFileLost { name, why },
            );
            continue;
        }
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
