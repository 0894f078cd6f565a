//! Fields of inodes.

use cowfs_format::error::Result;
use cowfs_format::layout::{
    DINODE_HEAD, Dinode, DynFeatures, ExtentBlock, FileType, Incompat, InlineData, InodeFlags,
    RoCompat, XATTR_BLOCK_BODY, XattrBlock, XattrTreeRoot,
};
use cowfs_format::read::dir::entries;
use cowfs_format::read::{extent, inode};
use cowfs_format::units::{BlockNo, Slot, low16, low32};
use zerocopy::FromBytes;

use super::stage::{Stage, cannot};
use super::{alloc, connect, dir, extents, settle, volume};
use crate::catalogue::{At, InodeProblem};

/// Repairs a problem of an inode.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &InodeProblem) -> Result<()> {
    use InodeProblem as P;
    let blkno = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    let block = at.block.unwrap_or(blkno);
    let generation = stage.view().info().fs_generation.0;
    match *problem {
        P::InodeGen { .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.i_fs_generation = generation.into())
        }
        P::InodeBlkno { .. } => stage.edit::<Dinode>(blkno, |inode| inode.i_blkno = blkno.0.into()),
        P::InodeSuballoc { .. } => alloc::origin(stage, blkno),
        P::RootNotDir {} | P::Mode { .. } => mode(stage, blkno),
        P::NzDtime { .. } => stage.edit::<Dinode>(blkno, |inode| inode.i_dtime = 0.into()),
        P::Flags { flags, .. } => stage.edit::<Dinode>(blkno, |inode| {
            inode.i_flags = (inode.i_flags.get() & !flags).into();
        }),
        P::InlineXattrSize { .. } => attributes_room(stage, blkno),
        P::LinkFastData {} => stage.edit::<Dinode>(blkno, |inode| {
            let features = inode.dyn_features().difference(DynFeatures::INLINE_DATA);
            inode.i_dyn_features = features.bits().into();
        }),
        P::LinkNullterm {} => end_link(stage, blkno),
        P::LinkSize { expected, .. } | P::InlineSize { expected, .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.i_size = expected.into())
        }
        P::LinkBlocks { .. } => shorten_link(stage, blkno),
        P::Size { limit, .. } => size(stage, blkno, limit),
        P::Clusters { expected, .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.i_clusters = low32(expected).into())
        }
        P::SparseClusters { expected, .. } => clusters(stage, blkno, block, low32(expected)),
        P::InlineClusters { .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.i_clusters = 0.into())
        }
        P::InlineFlag {} => incompat(stage, Incompat::INLINE_DATA),
        P::RefcountFlag {} => incompat(stage, Incompat::REFCOUNT_TREE),
        P::MarkedUnwritten { .. } => volume::feature(
            stage,
            "s_feature_ro_compat",
            RoCompat::UNWRITTEN.bits().into(),
        ),
        P::InlineCount { expected, .. } => stage.edit_bytes::<Dinode>(blkno, |bytes| {
            let body = bytes.get_mut(DINODE_HEAD..).unwrap_or_default();
            let (head, _) = InlineData::mut_from_prefix(body)
                .map_err(|_| cannot("there is no room for data in the inode"))?;
            head.id_count = low16(expected).into();
            Ok(())
        }),
        P::Count { expected, .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.set_links(low32(expected)))
        }
        P::NotConnected {} => connect::connect(stage, blkno),
        P::OrphanFlag { .. } => orphan(stage, blkno),
        P::Orphaned { slot } => settle::orphan(stage, blkno, Slot(slot)),
        P::RefcountLoc { .. } => {
            stage.edit::<Dinode>(blkno, |inode| inode.i_refcount_loc = 0.into())
        }
        P::EbBlkno { .. } => stage.edit::<ExtentBlock>(block, |head| head.h_blkno = block.0.into()),
        P::EbGen { .. } => {
            stage.edit::<ExtentBlock>(block, |head| head.h_fs_generation = generation.into())
        }
        _ => extents::repair(stage, blkno, block, problem),
    }
}

/// Turns on a feature that inodes use.
pub(super) fn incompat(stage: &mut Stage<'_, '_>, feature: Incompat) -> Result<()> {
    volume::feature(stage, "s_feature_incompat", feature.bits().into())
}

/// Gives an inode a type, by what it holds: a directory begins with an entry for itself.
fn mode(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let view = stage.view();
    let block = inode::read(view, blkno)?;
    let first = |bytes: &[u8]| {
        let entry = entries(bytes).next();
        matches!(entry, Some(Ok(entry)) if entry.name == b"." && entry.inode == blkno)
    };
    let inline = block.dyn_features().contains(DynFeatures::INLINE_DATA);
    let is_dir = if inline {
        block.inline_data().is_some_and(first) || block.body().get(8..).is_some_and(first)
    } else {
        let (found, _) = extent::salvage(view, blkno, block.body());
        found
            .first()
            .and_then(|extent| view.raw(extent.blkno).ok())
            .is_some_and(|bytes| first(&bytes))
    };
    let permissions = block.i_mode.get() & 0o7777;
    drop(block);
    if blkno == view.info().root && !is_dir {
        return Err(cannot("what it holds is no directory"));
    }
    let mode = permissions | if is_dir { 0o040_000 } else { 0o100_000 };
    debug_assert!(FileType::from_mode(mode).is_some());
    stage.edit::<Dinode>(blkno, |inode| inode.i_mode = mode.into())
}

/// Gives the room for attributes in an inode the size that the volume asks for.
fn attributes_room(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let view = stage.view();
    let block = view.raw(view.info().superblock)?;
    let at = cowfs_format::layout::SUPER_BLOCK_BODY + 0xB8;
    let size = block
        .get(at..at + 2)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    drop(block);
    if size < 32 || usize::from(size) + DINODE_HEAD + 16 > stage.geo().block_bytes() {
        return Err(cannot(
            "the superblock names no size for the room of attributes",
        ));
    }
    stage.edit::<Dinode>(blkno, |inode| inode.i_xattr_inline_size = size.into())
}

/// Where the target of a link stands: the inode or its first blocks.
fn target(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<Option<BlockNo>> {
    let view = stage.view();
    let block = inode::read(view, blkno)?;
    if block.i_clusters.get() == 0 {
        return Ok(None);
    }
    let (found, _) = extent::salvage(view, blkno, block.body());
    let first = found.first().map(|extent| extent.blkno);
    first
        .map(Some)
        .ok_or_else(|| cannot("the link has no data"))
}

/// Ends the target of a link where its size says that it ends.
fn end_link(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let inode = inode::read(stage.view(), blkno)?;
    let size = usize::try_from(inode.i_size.get()).unwrap_or(usize::MAX);
    let body = inode.body().len();
    drop(inode);
    let end = |bytes: &mut [u8], room: usize| {
        let at = size.min(room.saturating_sub(1));
        match bytes.get_mut(at) {
            Some(byte) => {
                *byte = 0;
                Ok(())
            }
            None => Err(cannot("the link has no room")),
        }
    };
    match target(stage, blkno)? {
        None => stage.edit_bytes::<Dinode>(blkno, |bytes| {
            end(bytes.get_mut(DINODE_HEAD..).unwrap_or_default(), body)
        }),
        Some(first) => {
            let count = 4096 >> stage.geo().block_bits();
            stage.edit_run(first, count, None, |bytes| end(bytes, 4096))
        }
    }
}

/// Gives a link the size of the target that is there.
fn shorten_link(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let first = target(stage, blkno)?.ok_or_else(|| cannot("the link has no data"))?;
    let bytes = stage.view().run(first, 4096 >> stage.geo().block_bits())?;
    let size = bytes.iter().position(|byte| *byte == 0);
    let size = size.ok_or_else(|| cannot("the target of the link has no end"))? as u64;
    drop(bytes);
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = size.into())
}

fn size(stage: &mut Stage<'_, '_>, blkno: BlockNo, limit: u64) -> Result<()> {
    let file_type = inode::read(stage.view(), blkno)?.file_type();
    if file_type == Some(FileType::Directory) {
        return dir::recount(stage, blkno);
    }
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = limit.into())
}

/// Sets the number of clusters of an inode, or of the tree of its attributes.
fn clusters(stage: &Stage<'_, '_>, blkno: BlockNo, block: BlockNo, expected: u32) -> Result<()> {
    if block == blkno {
        return stage.edit::<Dinode>(blkno, |inode| inode.i_clusters = expected.into());
    }
    stage.edit_bytes::<XattrBlock>(block, |bytes| {
        let body = bytes.get_mut(XATTR_BLOCK_BODY..).unwrap_or_default();
        let (head, _) = XattrTreeRoot::mut_from_prefix(body)
            .map_err(|_| cannot("there is no tree of attributes"))?;
        head.xt_clusters = expected.into();
        Ok(())
    })
}

/// Takes the mark off an inode that waits in no orphan directory.
fn orphan(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let marked = stage
        .evidence
        .groups
        .inode(blkno)
        .is_some_and(|fact| fact.orphaned());
    if !marked {
        return Err(cannot("whether it is to be removed cannot be known"));
    }
    stage.edit::<Dinode>(blkno, |inode| {
        let flags = inode.flags().difference(InodeFlags::ORPHANED);
        inode.i_flags = flags.bits().into();
    })
}
