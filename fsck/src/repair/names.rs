//! Names of system files that are gone. The inodes of these files lie one behind the other, in an
//! order that the names follow, and their marks and contents tell what they are; so each can be
//! told from its place, and from its contents where its place is taken by something else.

use cowfs_format::block::Checked;
use cowfs_format::error::Result;
use cowfs_format::layout::{Dinode, FileType, InodeFlags};
use cowfs_format::read::chain::ChainsView;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::SystemFile;

use super::stage::{Stage, cannot};
use super::system;
use crate::pass::system::{FIRST_FILE_BIT, KINDS, in_order, wanted};

/// Gives a system file its name again; where it has no inode any more, one is made. A name that leads
/// somewhere else is given up for that.
pub(super) fn name(stage: &mut Stage<'_, '_>, name: &str) -> Result<()> {
    let order = in_order(stage.view());
    let file = order.iter().find(|file| file.name() == name).copied();
    let file = file.ok_or_else(|| cannot("no system file has that name"))?;
    let (group, bits) = system::own_group(stage)?;
    let home = |file: SystemFile| {
        let place = order.iter().position(|other| *other == file)?;
        Some(group.plus(FIRST_FILE_BIT + place as u64))
            .filter(|home| home.since(group) < u64::from(bits))
    };
    let blkno = match find(stage, file, group, bits, home(file)) {
        Some(blkno) => blkno,
        None => {
            let mut free = home(file)
                .into_iter()
                .chain((1..bits).map(|bit| group.plus(bit.into())));
            let blkno = free.find(|blkno| is_free(stage, *blkno));
            let blkno = blkno.ok_or_else(|| cannot("there is no room for its inode"))?;
            system::make(stage, file, blkno)?;
            blkno
        }
    };
    stage.named.insert(blkno);
    let directory = stage.view().info().system_dir;
    let wrong = wrong_name(stage, &order, blkno)?;
    let file_type = match file {
        SystemFile::OrphanDir(_) => FileType::Directory,
        _ => FileType::Regular,
    };
    let now = stage.now;
    let misled = stage.evidence.system.find(file).is_some();
    let misled = misled.then(|| name.as_bytes().to_vec());
    stage.transact(|txn| {
        for wrong in misled.into_iter().chain(wrong) {
            txn.forget_name(directory, &wrong, now)?;
        }
        txn.add_name(directory, name.as_bytes(), blkno, file_type, now)
    })
}

/// Gives a system file an inode whose name leads to none.
pub(super) fn found_empty(
    stage: &mut Stage<'_, '_>,
    file: SystemFile,
    blkno: BlockNo,
) -> Result<()> {
    if is_misled(stage, blkno) {
        return name(stage, &file.name());
    }
    if stage.evidence.groups.locate(blkno).is_none() {
        return Err(cannot("the group of its inode is lost"));
    }
    system::make(stage, file, blkno)
}

/// Takes the names of an inode out of the system directory: what it was, this volume does not need.
pub(super) fn forget(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let system_dir = stage.view().info().system_dir;
    forget_in(stage, system_dir, blkno)
}

/// Takes the names of an inode out of a directory.
pub(super) fn forget_in(
    stage: &mut Stage<'_, '_>,
    directory: BlockNo,
    blkno: BlockNo,
) -> Result<()> {
    let view = stage.view();
    let mut names = Vec::new();
    dir::for_each_entry(view, &inode::read(view, directory)?, &mut |entry| {
        if entry.inode == blkno && !matches!(entry.name, b"." | b"..") {
            names.push(entry.name.to_vec());
        }
        std::ops::ControlFlow::Continue(())
    })?;
    let now = stage.now;
    stage.transact(|txn| {
        for name in names {
            txn.forget_name(directory, &name, now)?;
        }
        Ok(())
    })
}

/// Whether a name of a system file leads out of the group of the volume's own inodes: then it is the name
/// that is wrong.
pub(super) fn is_misled(stage: &Stage<'_, '_>, inode: BlockNo) -> bool {
    system::own_group(stage).is_ok_and(|(group, bits)| {
        let bit = inode.0.checked_sub(group.0);
        !bit.is_some_and(|bit| (1..u64::from(bits)).contains(&bit))
    })
}

/// Names an inode of the volume itself that no name leads to: as the file that stands at its place,
/// when that is one that nobody misses, or by its number.
pub(super) fn unnamed(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let (group, _) = system::own_group(stage)?;
    let view = stage.view();
    let directory = view.info().system_dir;
    let bad = SystemFile::BadBlocks;
    let kinds = inode::read(view, blkno)?.flags().intersection(KINDS);
    let is_bad = blkno == group.plus(FIRST_FILE_BIT)
        && kinds.is_empty()
        && stage.evidence.system.find(bad).is_none();
    let name = if is_bad {
        bad.name()
    } else {
        format!("#{blkno}")
    };
    let now = stage.now;
    let file_type = inode::read(view, blkno)?.file_type();
    let file_type = file_type.ok_or_else(|| cannot("it has no possible type"))?;
    stage.transact(|txn| txn.add_name(directory, name.as_bytes(), blkno, file_type, now))
}

/// Whether a block of the group of the volume's own inodes holds nothing that is in use, or nothing that can
/// be made out.
fn is_free(stage: &Stage<'_, '_>, blkno: BlockNo) -> bool {
    let info = stage.view().info();
    let taken = stage.named.contains(&blkno)
        || stage.evidence.system.names(blkno)
        || blkno == info.root
        || blkno == info.system_dir;
    let (inode, faults) = stage.view().inspect::<Dinode>(blkno);
    let in_use = inode.is_some_and(|inode| inode.flags().contains(InodeFlags::VALID));
    !taken && (!in_use || faults.len() > 1)
}

/// The inode of a file that lost its name.
fn find(
    stage: &Stage<'_, '_>,
    file: SystemFile,
    group: BlockNo,
    bits: u32,
    home: Option<BlockNo>,
) -> Option<BlockNo> {
    let order = in_order(stage.view());
    let flags = wanted(stage.view())
        .into_iter()
        .find(|(other, _)| *other == file);
    let flags = flags.map_or(InodeFlags::empty(), |(_, flags)| flags);
    let fits = |blkno: BlockNo| {
        let named = order
            .iter()
            .any(|file| stage.evidence.system.find(*file) == Some(blkno));
        if named || stage.named.contains(&blkno) {
            return false;
        }
        let (inode, faults) = stage.view().inspect::<Dinode>(blkno);
        inode.is_some_and(|inode| {
            let is_dir = inode.file_type() == Some(FileType::Directory);
            let marks = InodeFlags::VALID | InodeFlags::SYSTEM;
            faults.len() <= 1
                && inode.flags().contains(marks)
                && inode.flags().intersection(KINDS) == flags
                && is_dir == matches!(file, SystemFile::OrphanDir(_))
                && contents_fit(stage, file, group, &inode)
        })
    };
    if let Some(home) = home.filter(|home| fits(*home)) {
        return Some(home);
    }
    // Only what bears marks of its own can be told anywhere else.
    if flags.is_empty() {
        return None;
    }
    let homes: Vec<BlockNo> = (0u64..)
        .zip(&order)
        .filter(|(_, other)| stage.evidence.system.find(**other).is_none())
        .map(|(place, _)| group.plus(FIRST_FILE_BIT + place))
        .collect();
    (1..u64::from(bits))
        .map(|bit| group.plus(bit))
        .filter(|blkno| !homes.contains(blkno))
        .find(|blkno| fits(*blkno))
}

/// Whether what an inode holds is what the file must hold.
fn contents_fit(
    stage: &Stage<'_, '_>,
    file: SystemFile,
    group: BlockNo,
    inode: &Checked<'_, Dinode>,
) -> bool {
    let global = file == SystemFile::GlobalBitmap;
    if !inode.flags().contains(InodeFlags::CHAIN) {
        return true;
    }
    let Some(chains) = ChainsView::parse(inode.body()) else {
        return false;
    };
    let first = chains.recs.first().map(|rec| BlockNo(rec.c_blkno.get()));
    let is_bitmap = first == Some(stage.geo().group_block(0));
    let is_own = first == Some(group);
    match file {
        SystemFile::GlobalBitmap => is_bitmap || chains.recs.is_empty(),
        SystemFile::GlobalInodeAlloc => is_own || chains.recs.is_empty(),
        _ => !global && !is_bitmap && !is_own,
    }
}

/// A name of the system directory that leads to an inode and that no system file has.
fn wrong_name(
    stage: &Stage<'_, '_>,
    order: &[SystemFile],
    blkno: BlockNo,
) -> Result<Option<Vec<u8>>> {
    let view = stage.view();
    let directory = inode::read(view, view.info().system_dir)?;
    let mut found = None;
    dir::for_each_entry(view, &directory, &mut |entry| {
        let own = matches!(entry.name, b"." | b"..");
        let known = order
            .iter()
            .any(|file| file.name().as_bytes() == entry.name);
        if entry.inode == blkno && !own && !known {
            found = Some(entry.name.to_vec());
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(found)
}
