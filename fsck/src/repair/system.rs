//! Inodes of the volume itself, made anew where their names lead: what they held follows from the
//! rest of the volume, or is nothing that anybody misses. Files that have clusters of their own
//! come without them here; [`contents`](super::contents) gives them some once space can be trusted.

use cowfs_format::block::MetaBlock;
use cowfs_format::ecc;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    ChainList, DINODE_HEAD, DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, DirBlockTrailer,
    DynFeatures, ExtentList, FileType, GroupDesc, Incompat, InlineData, InodeFlags, LocalAlloc,
    TruncateLog, TruncateRec,
};
use cowfs_format::read::{dir, inode};
use cowfs_format::units::{BlockNo, low16};
use cowfs_format::volume::system::SystemFile;
use zerocopy::{FromBytes, FromZeros};

use super::dir::write_entry;
use super::stage::{Stage, cannot};
use super::{adopt, alloc, group, names};
use crate::pass::system::{dir_blocks, wanted};

/// Makes the inode of a system file, of the system directory, or of the root directory anew. What was
/// something else is not in use any more.
pub(super) fn remake(stage: &mut Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let info = stage.view().info();
    if blkno == info.root || blkno == info.system_dir {
        return directory(stage, blkno, InodeFlags::SYSTEM);
    }
    match stage.evidence.system.file_at(stage.view(), blkno) {
        Some(file) => make(stage, file, blkno),
        None => {
            names::forget(stage, blkno)?;
            alloc::mark(stage, blkno, false)
        }
    }
}

/// Makes the inode of a system file in a block.
pub(super) fn make(stage: &mut Stage<'_, '_>, file: SystemFile, blkno: BlockNo) -> Result<()> {
    if !stage.first("system file", blkno) {
        return Ok(());
    }
    let files = wanted(stage.view());
    let flags = files.iter().find(|(other, _)| *other == file);
    let flags = flags.map_or(InodeFlags::empty(), |(_, flags)| *flags) | InodeFlags::SYSTEM;
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
            let cpg = group::clusters_of_group(stage, blkno, file)?;
            let mut bytes = fresh(stage, blkno, 0o100_644, flags)?;
            if let Ok((head, rest)) = ChainList::mut_from_prefix(&mut bytes[DINODE_HEAD..]) {
                head.cl_cpg = cpg.into();
                head.cl_count = low16((rest.len() / 16) as u64).into();
            }
            stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)?;
            // An allocator that has no name yet finds its groups in the next round.
            if stage.evidence.system.find(file) == Some(blkno) {
                group::rebuild(stage, blkno)?;
            }
            Ok(())
        }
        _ => {
            let mut bytes = fresh(stage, blkno, 0o100_644, flags)?;
            empty_list(&mut bytes);
            stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)
        }
    }
}

/// Gives an inode without room for attributes an empty list of extents.
fn empty_list(bytes: &mut [u8]) {
    if let Ok((head, rest)) = ExtentList::mut_from_prefix(&mut bytes[DINODE_HEAD..]) {
        head.l_count = low16((rest.len() / 16) as u64).into();
    }
}

/// The group of the inodes of the volume itself: its descriptor, and how many bits it has.
pub(super) fn own_group(stage: &Stage<'_, '_>) -> Result<(BlockNo, u32)> {
    /// Blocks before the system directory in which the descriptor is looked for.
    const NEAR: u64 = 4096;
    let view = stage.view();
    let (root, system_dir) = (view.info().root, view.info().system_dir);
    for known in [system_dir, root] {
        if let Some((group, _)) = stage.evidence.groups.locate(known)
            && group.slot == 0xFFFF
        {
            return Ok((group.blkno, group.bits));
        }
    }
    for back in 1..NEAR.min(system_dir.0) {
        let blkno = BlockNo(system_dir.0 - back);
        if blkno == stage.geo().group_block(0) {
            // Clusters lie before the inodes.
            break;
        }
        let (desc, faults) = view.inspect::<GroupDesc>(blkno);
        if let Some(desc) = desc.filter(|_| faults.len() <= 1) {
            let bits = match faults.is_empty() {
                true => u32::from(desc.bg_bits.get()),
                // It may be another group's.
                false => group::bits_of_own_group(stage),
            };
            if u64::from(bits) > back {
                return Ok((blkno, bits));
            }
            break;
        }
    }
    // Without its descriptor: an inode of it says how far it is from there. Where there is none, either: the
    // first two inodes of a new volume are the two directories.
    let new = BlockNo(root.0.saturating_sub(1));
    let as_new = system_dir.0 == root.0 + 1 && stage.geo().is_cluster_aligned(new);
    let around = system_dir.0.saturating_sub(NEAR)..system_dir.0 + NEAR;
    let bits = group::bits_of_own_group(stage);
    around
        .map(BlockNo)
        .find_map(|blkno| {
            let (inode, faults) = view.inspect::<Dinode>(blkno);
            let inode = inode.filter(|inode| {
                let own = inode.i_suballoc_slot.get() == 0xFFFF;
                faults.is_empty() && own && inode.flags().contains(InodeFlags::VALID)
            })?;
            let group = blkno.0.checked_sub(inode.i_suballoc_bit.get().into())?;
            let inside = (group + 1..group + u64::from(bits)).contains(&system_dir.0);
            inside.then_some((BlockNo(group), bits))
        })
        .or_else(|| as_new.then_some((new, bits)))
        .ok_or_else(|| cannot("the group of the volume's own inodes cannot be found"))
}

/// An inode in use, without contents.
fn fresh(stage: &Stage<'_, '_>, blkno: BlockNo, mode: u16, flags: InodeFlags) -> Result<Vec<u8>> {
    let found = stage.evidence.groups.locate(blkno);
    let (slot, group, bit) = match found {
        Some((group, bit)) => (group.slot, group.blkno, u64::from(bit)),
        None => {
            let (group, bits) = own_group(stage)?;
            let bit = blkno.0.checked_sub(group.0);
            let bit = bit.filter(|bit| (1..u64::from(bits)).contains(bit));
            (
                0xFFFF,
                group,
                bit.ok_or_else(|| cannot("it lies in no group"))?,
            )
        }
    };
    let generation = stage.view().info().fs_generation.0;
    let mut bytes = vec![0; stage.geo().block_bytes()];
    let mut inode = Dinode::new_zeroed();
    inode.i_signature = Dinode::SIGNATURE;
    inode.i_generation = generation.into();
    inode.i_suballoc_slot = slot.into();
    inode.i_suballoc_bit = low16(bit).into();
    inode.i_suballoc_loc = group.0.into();
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

/// A directory in place of a lost one: of its old blocks, where they can be found, or an empty one.
pub(super) fn directory(
    stage: &mut Stage<'_, '_>,
    blkno: BlockNo,
    flags: InodeFlags,
) -> Result<()> {
    // Whom a directory of the user's was for is lost with its inode.
    let mode = if flags.contains(InodeFlags::SYSTEM) {
        0o755
    } else {
        0o700
    };
    let mut bytes = fresh(stage, blkno, 0o040_000 | mode, flags)?;
    let found = adopt::directory_blocks(stage, blkno)?;
    if !found.extents.is_empty() {
        empty_list(&mut bytes);
        stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)?;
        stage.transact(|txn| txn.remake_data(blkno, &found.extents))?;
        let size = found.blocks << stage.geo().block_bits();
        stage.edit::<Dinode>(blkno, |inode| {
            inode.i_size = size.into();
            inode.set_links(2);
        })?;
        let indexed = stage.view().info().has(Incompat::INDEXED_DIRS);
        if indexed && found.trailers && !flags.contains(InodeFlags::SYSTEM) {
            return stage.transact(|txn| txn.remake_index(blkno));
        }
        return Ok(());
    }
    let info = stage.view().info();
    if !info.has(Incompat::INLINE_DATA) {
        return new_blocks(stage, blkno, bytes);
    }
    let up = parent_of(stage, blkno);
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

/// Gives a block of the system directory its check, when only that is wrong, and empties it when it
/// holds no entries that can be made out.
pub(super) fn empty_block(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let view = stage.view();
    let directory = view.info().system_dir;
    if blkno == directory {
        return super::dir::way_on(stage, directory);
    }
    let inode = inode::read(view, directory)?;
    let with_trailer = dir::has_trailer(view, &inode);
    let first = dir_blocks(view, &inode).first() == Some(&blkno);
    drop(inode);
    let mut bytes = vec![0; stage.geo().block_bytes()];
    let end = bytes.len() - if with_trailer { DIR_TRAILER } else { 0 };
    if let Ok(old) = view.raw(blkno)
        && with_trailer
        && is_sound(&old, end, blkno, directory)
    {
        bytes.copy_from_slice(&old);
        let check_at = bytes.len() - ecc::CHECK_BYTES;
        return stage.put_run(blkno, Some(check_at), &mut bytes);
    }
    if first {
        write_entry(&mut bytes[..end], 0, 16, directory.0, b".");
        write_entry(&mut bytes[..end], 16, end - 16, directory.0, b"..");
    } else {
        bytes[8..10].copy_from_slice(&low16(end as u64).to_le_bytes());
    }
    if with_trailer && let Ok(trailer) = DirBlockTrailer::mut_from_bytes(&mut bytes[end..]) {
        *trailer = DirBlockTrailer::new_zeroed();
        trailer.db_compat_rec_len = low16(DIR_TRAILER as u64).into();
        trailer.db_signature = DIR_TRAILER_SIGNATURE;
        trailer.db_blkno = blkno.0.into();
        trailer.db_parent_dinode = directory.0.into();
    }
    let check_at = with_trailer.then(|| bytes.len() - ecc::CHECK_BYTES);
    stage.put_run(blkno, check_at, &mut bytes)
}

/// Whether the entries and the trailer of a block are those of a block of a directory.
fn is_sound(block: &[u8], end: usize, blkno: BlockNo, directory: BlockNo) -> bool {
    let trailer = DirBlockTrailer::ref_from_bytes(block.get(end..).unwrap_or_default());
    let own = trailer.is_ok_and(|trailer| {
        trailer.db_signature == DIR_TRAILER_SIGNATURE
            && trailer.db_blkno.get() == blkno.0
            && trailer.db_parent_dinode.get() == directory.0
    });
    own && dir::entries(block.get(..end).unwrap_or_default()).all(|entry| entry.is_ok())
}

/// Where ".." of a directory of the volume itself leads.
fn parent_of(stage: &Stage<'_, '_>, blkno: BlockNo) -> BlockNo {
    let info = stage.view().info();
    if blkno == info.root {
        info.root
    } else {
        info.system_dir
    }
}

/// An empty directory with a block of its own, on a volume that has no others.
fn new_blocks(stage: &mut Stage<'_, '_>, blkno: BlockNo, mut bytes: Vec<u8>) -> Result<()> {
    empty_list(&mut bytes);
    let up = parent_of(stage, blkno);
    stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut bytes)?;
    stage.transact(|txn| txn.remake_directory(blkno, up))
}
