//! Groups that lie in pieces. Their lists say twice how long each piece is: by its own length, and by
//! where the next one begins. Where a piece is, its blocks say: each names its group and its bit.

use cowfs_format::block::MetaBlock;
use cowfs_format::error::Result;
use cowfs_format::layout::{Dinode, ExtentBlock, ExtentRec, GROUP_LIST, GroupDesc};
use cowfs_format::read::chain::ChainsView;
use cowfs_format::read::extent::ListView;
use cowfs_format::units::{BlockNo, low16};
use zerocopy::FromBytes;

use super::adopt;
use super::stage::{Stage, cannot};

/// A piece: first cluster of the group, number of clusters, first block.
type Piece = (u32, u32, BlockNo);

/// Lists the pieces of a group anew.
pub(super) fn remake(stage: &mut Stage<'_, '_>, allocator: BlockNo, group: BlockNo) -> Result<()> {
    if !stage.first("pieces", group) {
        return Ok(());
    }
    let (inode, _) = stage.view().inspect::<Dinode>(allocator);
    let clusters = inode
        .as_ref()
        .and_then(|inode| ChainsView::parse(inode.body()))
        .map_or(0, |chains| u32::from(chains.head.cl_cpg.get()));
    drop(inode);
    let mut pieces = listed(stage, group, clusters)?;
    let bpc = stage.geo().blocks_per_cluster();
    for (nth, piece) in pieces.iter_mut().enumerate() {
        let geo = stage.geo();
        let (cpos, count, first) = *piece;
        let inside = geo.contains(first, u64::from(count) * bpc) && geo.is_cluster_aligned(first);
        if nth == 0 && first != group {
            piece.2 = group;
        } else if nth > 0 && !inside {
            let bits = u64::from(cpos) * bpc..u64::from(cpos + count) * bpc;
            let found = adopt::run(stage, count, |stage, blkno| {
                let bit = bit_of(stage, blkno, group)?;
                let back = bit
                    .checked_sub(bits.start)
                    .filter(|_| bits.contains(&bit))?;
                blkno.0.checked_sub(back).map(BlockNo)
            })?;
            piece.2 = found.ok_or_else(|| cannot("where its pieces are cannot be known"))?;
        }
    }
    stage.edit_bytes::<GroupDesc>(group, |bytes| {
        let space = bytes.get_mut(GROUP_LIST..).unwrap_or_default();
        let rest = space.get_mut(16..).unwrap_or_default();
        for (place, (cpos, count, first)) in rest.chunks_exact_mut(16).zip(&pieces) {
            if let Ok(rec) = ExtentRec::mut_from_bytes(place) {
                rec.e_cpos = (*cpos).into();
                rec.e_leaf_clusters = low16((*count).into()).into();
                rec.e_blkno = first.0.into();
            }
        }
        let used = low16(pieces.len() as u64);
        if let Some(place) = space.get_mut(4..6) {
            place.copy_from_slice(&used.to_le_bytes());
        }
        Ok(())
    })
}

/// The pieces as the list has them, with lengths that make up the group.
fn listed(stage: &Stage<'_, '_>, group: BlockNo, clusters: u32) -> Result<Vec<Piece>> {
    let (desc, _) = stage.view().inspect::<GroupDesc>(group);
    let desc = desc.ok_or_else(|| cannot("the descriptor cannot be read"))?;
    let space = desc.bytes().get(GROUP_LIST..).unwrap_or_default();
    let list = ListView::parse(space).ok_or_else(|| cannot("there is no list of extents"))?;
    let mut pieces: Vec<Piece> = list
        .recs
        .iter()
        .map(|rec| {
            let count = u32::from(rec.e_leaf_clusters.get());
            (rec.e_cpos.get(), count, BlockNo(rec.e_blkno.get()))
        })
        .collect();
    let starts: Vec<u32> = pieces.iter().map(|piece| piece.0).collect();
    let ends = starts.iter().skip(1).copied().chain([clusters]);
    let lengths: Option<Vec<u32>> = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| end.checked_sub(*start).filter(|length| *length > 0))
        .collect();
    if let Some(lengths) = lengths.filter(|_| starts.first() == Some(&0)) {
        for (piece, length) in pieces.iter_mut().zip(lengths) {
            piece.1 = length;
        }
        return Ok(pieces);
    }
    let mut next = 0;
    for piece in &mut pieces {
        piece.0 = next;
        next += piece.1;
    }
    if next == clusters && pieces.iter().all(|piece| piece.1 > 0) {
        return Ok(pieces);
    }
    Err(cannot("how long its pieces are cannot be known"))
}

/// The bit of a group that a block says that it is.
fn bit_of(stage: &Stage<'_, '_>, blkno: BlockNo, group: BlockNo) -> Option<u64> {
    let block = stage.view().raw(blkno).ok()?;
    let generation = stage.view().info().fs_generation.0;
    if let Ok((head, _)) = Dinode::ref_from_prefix(&block)
        && head.i_signature == Dinode::SIGNATURE
        && head.own_blkno() == blkno.0
        && head.generation() == generation
        && head.i_suballoc_loc.get() == group.0
    {
        return Some(head.i_suballoc_bit.get().into());
    }
    let (head, _) = ExtentBlock::ref_from_prefix(&block).ok()?;
    let own = block.starts_with(&ExtentBlock::SIGNATURE)
        && head.own_blkno() == blkno.0
        && head.generation() == generation
        && head.h_suballoc_loc.get() == group.0;
    own.then(|| head.h_suballoc_bit.get().into())
}
