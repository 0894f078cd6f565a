//! Inodes of the volume itself, made anew where their names lead: what they held follows from the
//! rest of the volume, or is nothing that anybody misses.

use cowfs_format::block::MetaBlock;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    ChainList, DINODE_HEAD, Dinode, DynFeatures, FileType, Incompat, InlineData, InodeFlags,
    LocalAlloc, TruncateLog, TruncateRec,
};
use cowfs_format::units::{BlockNo, low16};
use cowfs_format::volume::system::SystemFile;
use zerocopy::{FromBytes, FromZeros};

use super::dir::write_entry;
use super::group;
use super::stage::{Stage, cannot};
use crate::pass::system::wanted;

/// Makes the inode of a system file, or of the root directory, anew.
pub(super) fn remake(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    if blkno == stage.view().info().root {
        return directory(stage, blkno, InodeFlags::SYSTEM);
    }
    let files = wanted(stage.view());
    let found = files
        .into_iter()
        .find(|(file, _)| stage.evidence.system.find(*file) == Some(blkno));
    let (file, flags) = found.ok_or_else(|| cannot("no name tells what it was"))?;
    let flags = flags | InodeFlags::SYSTEM;
    match file {
        SystemFile::TruncateLog(_) => {
            let mut bytes = fresh(stage, blkno, 0o100_644, flags)?;
            if let Ok((head, rest)) = TruncateLog::mut_from_prefix(&mut bytes[DINODE_HEAD..]) {
                head.tl_count = low16((rest.len() / size_of::<TruncateRec>()) as u64).into();
            }
            stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)
        }
        SystemFile::LocalAlloc(_) => {
            let mut bytes = fresh(stage, blkno, 0o100_644, flags)?;
            if let Ok((head, rest)) = LocalAlloc::mut_from_prefix(&mut bytes[DINODE_HEAD..]) {
                head.la_size = low16(rest.len() as u64).into();
            }
            stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)
        }
        SystemFile::OrphanDir(_) => directory(stage, blkno, flags),
        SystemFile::GlobalBitmap
        | SystemFile::GlobalInodeAlloc
        | SystemFile::InodeAlloc(_)
        | SystemFile::ExtentAlloc(_) => {
            let cpg = group::clusters_of_group(stage, blkno)?;
            let mut bytes = fresh(stage, blkno, 0o100_644, flags)?;
            if let Ok((head, rest)) = ChainList::mut_from_prefix(&mut bytes[DINODE_HEAD..]) {
                head.cl_cpg = cpg.into();
                head.cl_count = low16((rest.len() / 16) as u64).into();
            }
            stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)?;
            group::rebuild(stage, blkno)
        }
        _ => Err(cannot("what it held cannot be made anew")),
    }
}

/// An inode in use, without contents.
fn fresh(stage: &Stage<'_, '_>, blkno: BlockNo, mode: u16, flags: InodeFlags) -> Result<Vec<u8>> {
    let found = stage.evidence.groups.locate(blkno);
    let (group, bit) = found.ok_or_else(|| cannot("it lies in no group"))?;
    let generation = stage.view().info().fs_generation.0;
    let mut bytes = vec![0; stage.geo().block_bytes()];
    let mut inode = Dinode::new_zeroed();
    inode.i_signature = Dinode::SIGNATURE;
    inode.i_generation = generation.into();
    inode.i_suballoc_slot = group.slot.into();
    inode.i_suballoc_bit = low16(bit.into()).into();
    inode.i_suballoc_loc = group.blkno.0.into();
    inode.i_blkno = blkno.0.into();
    inode.i_fs_generation = generation.into();
    inode.i_flags = (flags | InodeFlags::VALID).bits().into();
    inode.i_mode = mode.into();
    inode.set_links(1);
    let (seconds, nanos) = (stage.now.seconds.into(), stage.now.nanos.into());
    (inode.i_atime, inode.i_ctime, inode.i_mtime) = (seconds, seconds, seconds);
    (inode.i_atime_nsec, inode.i_ctime_nsec, inode.i_mtime_nsec) = (nanos, nanos, nanos);
    let (head, _) =
        Dinode::mut_from_prefix(&mut bytes).map_err(|_| cannot("the block is short"))?;
    *head = inode;
    Ok(bytes)
}

/// An empty directory that stands in its inode.
fn directory(stage: &Stage<'_, '_>, blkno: BlockNo, flags: InodeFlags) -> Result<()> {
    let info = stage.view().info();
    if !info.has(Incompat::INLINE_DATA) {
        return Err(cannot(
            "the volume has no directories that stand in their inodes",
        ));
    }
    let up = if blkno == info.root {
        info.root
    } else {
        info.system_dir
    };
    let mut bytes = fresh(stage, blkno, 0o040_755, flags)?;
    let (inode, body) =
        Dinode::mut_from_prefix(&mut bytes).map_err(|_| cannot("the block is short"))?;
    debug_assert_eq!(inode.file_type(), Some(FileType::Directory));
    let (head, area) =
        InlineData::mut_from_prefix(body).map_err(|_| cannot("the block is short"))?;
    let room = area.len();
    head.id_count = low16(room as u64).into();
    inode.i_size = (room as u64).into();
    inode.i_dyn_features = DynFeatures::INLINE_DATA.bits().into();
    inode.set_links(2);
    write_entry(area, 0, 16, blkno.0, b".");
    write_entry(area, 16, room.saturating_sub(16), up.0, b"..");
    stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)
}
