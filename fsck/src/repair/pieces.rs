//! Groups that lie in pieces. Their lists say twice how long each piece is: by its own length, and by
//! where the next one begins. Where a piece is, its blocks say: each names its group and its bit. That
//! tells also where a group lay whose descriptor is lost.

use std::collections::{BTreeSet, HashMap};

use cowfs_format::block::MetaBlock;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    Dinode, DxRoot, ExtentBlock, ExtentFlags, ExtentList, ExtentRec, GROUP_LIST, GroupDesc,
    Incompat, RefcountBlock, XattrBlock,
};
use cowfs_format::read::chain::ChainsView;
use cowfs_format::read::extent::ListView;
use cowfs_format::units::{BlockNo, ClusterNo, index, low16, low32};
use zerocopy::{FromBytes, IntoBytes};

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
    let Ok(mut pieces) = listed(stage, group, clusters) else {
        return relist(stage, group, clusters);
    };
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
                let (_, bit) = origin(stage, blkno).filter(|(from, _)| *from == group)?;
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

/// Writes a list of pieces by what lies where, for a group whose own list cannot be made out.
pub(super) fn relist(stage: &Stage<'_, '_>, group: BlockNo, count: u32) -> Result<()> {
    if !stage.view().info().has(Incompat::DISCONTIG_BG) {
        return Ok(());
    }
    let known = clusters(stage, group, count)?;
    let new = list(stage, &known)?;
    stage.edit_bytes::<GroupDesc>(group, |bytes| {
        let space = bytes.get_mut(GROUP_LIST..).unwrap_or_default();
        space.fill(0);
        if let Some(place) = space.get_mut(..new.len()) {
            place.copy_from_slice(&new);
        }
        Ok(())
    })
}

/// Where the clusters of a group lie whose descriptor is lost, of which there are `count`: where blocks
/// say so, and beside those, as far as nothing uses what lies there.
pub(super) fn clusters(
    stage: &Stage<'_, '_>,
    group: BlockNo,
    count: u32,
) -> Result<Vec<ClusterNo>> {
    let geo = stage.geo();
    let first = geo.cluster_of(group);
    let fits = geo.contains(group, u64::from(count) * geo.blocks_per_cluster());
    let in_one = || {
        let one = (0..count).map(|nth| ClusterNo(first.0 + nth)).collect();
        let fits = fits.then_some(one);
        fits.ok_or_else(|| cannot("where its clusters lie cannot be known"))
    };
    if !stage.view().info().has(Incompat::DISCONTIG_BG) {
        return in_one();
    }
    let bpc = geo.blocks_per_cluster();
    let idle_blocks = stage
        .idle_blocks
        .get_or_init(|| blocks_by_group(stage, &adopt::idle(stage)));
    let own = held(stage, group);
    let own_blocks = blocks_by_group(stage, &own);
    let known: Vec<&(u64, BlockNo)> = [idle_blocks, &own_blocks]
        .into_iter()
        .filter_map(|blocks| blocks.get(&group))
        .flatten()
        .collect();
    if known.is_empty() {
        return in_one();
    }
    let mut idle: BTreeSet<ClusterNo> = adopt::idle(stage).into_iter().chain(own).collect();
    let mut places: Vec<Option<ClusterNo>> = vec![None; count as usize];
    let mut put = |nth: usize, cluster: ClusterNo, idle: &mut BTreeSet<ClusterNo>| {
        let place = places.get_mut(nth).filter(|place| place.is_none());
        match place {
            Some(place) if idle.remove(&cluster) => {
                *place = Some(cluster);
                true
            }
            _ => false,
        }
    };
    put(0, first, &mut idle);
    for &(bit, blkno) in known {
        let cluster = geo.cluster_of(blkno);
        if geo.first_block(cluster).plus(bit % bpc) == blkno {
            put(index(bit / bpc), cluster, &mut idle);
        }
    }
    if places.contains(&None) {
        let of_others = of_other_groups(stage, &idle, group);
        idle.retain(|cluster| !of_others.contains(cluster));
    }
    // Behind what is known, before it, and anywhere: where no block is in use, it does not matter.
    for nth in 1..places.len() {
        if let Some(last) = places[nth - 1]
            && places[nth].is_none()
            && idle.remove(&ClusterNo(last.0 + 1))
        {
            places[nth] = Some(ClusterNo(last.0 + 1));
        }
    }
    for nth in (1..places.len()).rev() {
        if let Some(next) = places[nth]
            && places[nth - 1].is_none()
            && next.0 > 0
            && idle.remove(&ClusterNo(next.0 - 1))
        {
            places[nth - 1] = Some(ClusterNo(next.0 - 1));
        }
    }
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = idle.pop_first();
    }
    let found: Option<Vec<ClusterNo>> = places.into_iter().collect();
    // What uses a part of it is told by the next round.
    found.map_or_else(in_one, Ok)
}

/// The clusters of other groups whose descriptors lie in some clusters and are sound: a chain may lead to them
/// only once their allocator is repaired.
fn of_other_groups(
    stage: &Stage<'_, '_>,
    among: &BTreeSet<ClusterNo>,
    group: BlockNo,
) -> BTreeSet<ClusterNo> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster().max(1);
    let mut found = BTreeSet::new();
    for &cluster in among {
        let blkno = geo.first_block(cluster);
        let signed = stage.view().raw(blkno);
        if blkno == group || !signed.is_ok_and(|block| block.starts_with(&GroupDesc::SIGNATURE)) {
            continue;
        }
        let (desc, faults) = stage.view().inspect::<GroupDesc>(blkno);
        let Some(desc) = desc.filter(|_| faults.is_empty()) else {
            continue;
        };
        let count = low32(u64::from(desc.bg_bits.get()) / bpc);
        let in_one = || vec![(0, count, blkno)];
        for (_, count, first) in listed(stage, blkno, count).unwrap_or_else(|_| in_one()) {
            let first = geo.cluster_of(first).0;
            found.extend((first..first.saturating_add(count)).map(ClusterNo));
        }
    }
    found
}

/// The clusters that a group holds as far as it is known.
fn held(stage: &Stage<'_, '_>, group: BlockNo) -> Vec<ClusterNo> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster().max(1);
    let mut all = stage.evidence.groups.all().iter();
    let Some(known) = all.find(|known| known.blkno == group) else {
        return Vec::new();
    };
    let clusters = (0..known.bits).step_by(index(bpc));
    let mut clusters: Vec<ClusterNo> = clusters
        .filter_map(|bit| Some(geo.cluster_of(known.block_of(bit)?)))
        .collect();
    clusters.dedup();
    clusters
}

/// The blocks in some clusters which say that they came from a group: by group, with their bits. (For the
/// clusters that nothing uses, looked up once a round: a garbled list of chains asks for hundreds of groups.)
fn blocks_by_group(
    stage: &Stage<'_, '_>,
    clusters: &[ClusterNo],
) -> HashMap<BlockNo, Vec<(u64, BlockNo)>> {
    let geo = stage.geo();
    let mut found: HashMap<BlockNo, Vec<(u64, BlockNo)>> = HashMap::new();
    for &cluster in clusters {
        for nth in 0..geo.blocks_per_cluster() {
            let blkno = geo.first_block(cluster).plus(nth);
            if let Some((group, bit)) = origin(stage, blkno) {
                found.entry(group).or_default().push((bit, blkno));
            }
        }
    }
    found
}

/// The list of extents that clusters make up, for a descriptor; nothing when they are one run.
pub(super) fn list(stage: &Stage<'_, '_>, clusters: &[ClusterNo]) -> Result<Vec<u8>> {
    let geo = stage.geo();
    let runs: Vec<&[ClusterNo]> = clusters.chunk_by(|a, b| a.0 + 1 == b.0).collect();
    let room = geo
        .block_bytes()
        .saturating_sub(GROUP_LIST + size_of::<ExtentList>());
    let room = room / size_of::<ExtentRec>();
    if runs.len() <= 1 {
        return Ok(Vec::new());
    }
    if runs.len() > room {
        return Err(cannot("it lies in more pieces than its list has room for"));
    }
    let head = ExtentList {
        l_tree_depth: 0.into(),
        l_count: low16(room as u64).into(),
        l_next_free_rec: low16(runs.len() as u64).into(),
        l_reserved1: 0.into(),
        l_reserved2: 0.into(),
    };
    let mut bytes = head.as_bytes().to_vec();
    let mut next = 0;
    for run in runs {
        let (count, first) = (low16(run.len() as u64), run.first().copied());
        let first = geo.first_block(first.unwrap_or_default());
        let rec = ExtentRec::leaf(next, count, first.0, ExtentFlags::empty());
        bytes.extend_from_slice(rec.as_bytes());
        next += u32::from(count);
    }
    Ok(bytes)
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

/// The group that a block says that it came from, and its bit there.
fn origin(stage: &Stage<'_, '_>, blkno: BlockNo) -> Option<(BlockNo, u64)> {
    let block = stage.view().raw(blkno).ok()?;
    let generation = stage.view().info().fs_generation.0;
    let mut signature = [0; 8];
    signature.copy_from_slice(block.get(..8)?);
    macro_rules! said {
        ($type:ty, $bit:ident, $loc:ident) => {{
            let (head, _) = <$type>::ref_from_prefix(&block).ok()?;
            let own = head.own_blkno() == blkno.0 && head.generation() == generation;
            own.then(|| (BlockNo(head.$loc.get()), head.$bit.get().into()))
        }};
    }
    match signature {
        Dinode::SIGNATURE => said!(Dinode, i_suballoc_bit, i_suballoc_loc),
        ExtentBlock::SIGNATURE => said!(ExtentBlock, h_suballoc_bit, h_suballoc_loc),
        DxRoot::SIGNATURE => said!(DxRoot, dr_suballoc_bit, dr_suballoc_loc),
        XattrBlock::SIGNATURE => said!(XattrBlock, xb_suballoc_bit, xb_suballoc_loc),
        RefcountBlock::SIGNATURE => said!(RefcountBlock, rf_suballoc_bit, rf_suballoc_loc),
        _ => None,
    }
}
