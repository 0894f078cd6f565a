//! Chains of groups, linked anew from what the volume holds.
//!
//! The groups of the global bitmap lie at places that follow from the geometry. Those of the other
//! allocators are found by their descriptors, wherever a cluster is in use; where a chain leads to a
//! descriptor that is lost, the blocks behind it tell whether it was one, and which bits were set.

use std::collections::BTreeSet;

use cowfs_format::block::{MetaBlock, check_offset_of};
use cowfs_format::error::Result;
use cowfs_format::layout::{
    ChainRec, DINODE_HEAD, DISCONTIG_BITMAP_BYTES, Dinode, DxRoot, ExtentBlock, GROUP_BITMAP,
    GROUP_LIST, GroupDesc, Incompat, InodeFlags, RefcountBlock, XattrBlock,
};
use cowfs_format::read::chain::{ChainsView, count_ones};
use cowfs_format::read::extent::ListView;
use cowfs_format::units::{BlockNo, ClusterNo, Slot, low16, low32};
use cowfs_format::volume::system::SystemFile;
use zerocopy::{FromBytes, IntoBytes};

use super::stage::{Stage, cannot};
use super::{block, pieces, system};
use crate::facts::groups::Kind;
use crate::pass::bitmap;
use crate::pass::chains::Allocator;

/// Whether an inode is the global bitmap.
pub(super) fn is_global(stage: &Stage<'_, '_>, inode: BlockNo) -> bool {
    stage.evidence.system.find(SystemFile::GlobalBitmap) == Some(inode)
}

fn allocator_of(stage: &Stage<'_, '_>, inode: BlockNo) -> Option<Allocator> {
    let all = stage.evidence.system.allocators(stage.view());
    all.into_iter().find(|allocator| allocator.inode == inode)
}

/// Whether an inode is an allocator of blocks.
pub(super) fn is_allocator(stage: &Stage<'_, '_>, inode: BlockNo) -> bool {
    allocator_of(stage, inode).is_some()
}

/// What all groups of an allocator have in common.
struct Plan {
    inode: BlockNo,
    /// `None` for the global bitmap.
    allocator: Option<Allocator>,
    cpg: u16,
    bpc: u16,
    /// Room for chains.
    room: usize,
}

/// What the groups of an allocator have in common, and the heads of its chains.
fn plan(stage: &Stage<'_, '_>, inode: BlockNo) -> Result<(Plan, Vec<BlockNo>)> {
    let allocator = allocator_of(stage, inode);
    let global = is_global(stage, inode);
    if allocator.is_none() && !global {
        return Err(cannot("it is no allocator"));
    }
    let (block, faults) = stage.view().inspect::<Dinode>(inode);
    let block = block
        .filter(|_| faults.is_empty())
        .ok_or_else(|| cannot("the inode of the allocator is damaged"))?;
    let chains = ChainsView::parse(block.body())
        .ok_or_else(|| cannot("there is no room for a list of chains"))?;
    let plan = Plan {
        inode,
        allocator,
        cpg: if global {
            low16(stage.geo().clusters_per_group().into())
        } else {
            chains.head.cl_cpg.get()
        },
        bpc: if global {
            1
        } else {
            low16(stage.geo().blocks_per_cluster())
        },
        room: chains.capacity,
    };
    let heads = chains.recs.iter().map(|r| BlockNo(r.c_blkno.get()));
    Ok((plan, heads.collect()))
}

/// Leaves a group that hangs in two allocators to the one that more of its blocks say they came from.
pub(super) fn leave(
    stage: &mut Stage<'_, '_>,
    group: BlockNo,
    allocators: [BlockNo; 2],
) -> Result<()> {
    let first = stage.geo().cluster_of(group);
    let given = |inode: BlockNo| -> Result<u32> {
        let (plan, _) = plan(stage, inode)?;
        let clusters: Vec<ClusterNo> = (0..plan.cpg.into())
            .map(|nth| ClusterNo(first.0.saturating_add(nth)))
            .collect();
        let bits = bits_of(stage, &plan, 0);
        Ok(count_ones(&used(stage, &plan, &clusters, bits)?, bits))
    };
    let [one, other] = allocators;
    if one == other {
        // Two of its groups claim the same clusters, or it is linked twice.
        let (plan, _) = plan(stage, one)?;
        pieces::relist(stage, group, plan.cpg.into())?;
        return rebuild(stage, one);
    }
    let (owner, loser) = match given(one)? >= given(other)? {
        true => (one, other),
        false => (other, one),
    };
    stage.edit::<GroupDesc>(group, |desc| desc.bg_parent_dinode = owner.0.into())?;
    rebuild(stage, loser)
}

/// Links the groups of an allocator anew, makes lost descriptors again and counts everything.
pub(super) fn rebuild(stage: &mut Stage<'_, '_>, inode: BlockNo) -> Result<()> {
    if !stage.first("allocator", inode) {
        return Ok(());
    }
    let (plan, heads) = plan(stage, inode)?;
    let geo = stage.geo();
    let groups: Vec<BlockNo> = if plan.allocator.is_none() {
        (0..geo.cluster_groups())
            .map(|k| geo.group_block(k))
            .collect()
    } else {
        find(stage, &plan, &heads)?
    };
    for (index, &group) in (0u32..).zip(&groups) {
        if !is_group(stage, &plan, group) {
            let bits = bits_of(stage, &plan, index);
            make(stage, &plan, group, bits)?;
        }
    }
    link(stage, &plan, &groups)
}

/// Bits of group number `index`.
fn bits_of(stage: &Stage<'_, '_>, plan: &Plan, index: u32) -> u32 {
    match plan.allocator {
        Some(_) => u32::from(plan.cpg) * u32::from(plan.bpc),
        None => {
            let (clusters, cpg) = (stage.geo().clusters(), u32::from(plan.cpg));
            clusters.saturating_sub(index.saturating_mul(cpg)).min(cpg)
        }
    }
}

/// Whether a block is a sound descriptor of the allocator.
fn is_group(stage: &Stage<'_, '_>, plan: &Plan, blkno: BlockNo) -> bool {
    hangs_in(stage, blkno, plan.inode)
}

/// Whether a block is a sound descriptor that names that allocator.
pub(super) fn hangs_in(stage: &Stage<'_, '_>, blkno: BlockNo, allocator: BlockNo) -> bool {
    let (desc, faults) = stage.view().inspect::<GroupDesc>(blkno);
    desc.is_some_and(|desc| faults.is_empty() && desc.bg_parent_dinode.get() == allocator.0)
}

/// The groups of an allocator of blocks, in the order of their places.
fn find(stage: &Stage<'_, '_>, plan: &Plan, heads: &[BlockNo]) -> Result<Vec<BlockNo>> {
    let geo = stage.geo();
    let bits = u32::from(plan.cpg) * u32::from(plan.bpc);
    if bits == 0 || bits > 0xFFFF {
        return Err(cannot("how large its groups are cannot be known"));
    }
    let mut found = BTreeSet::new();
    let mut lost: BTreeSet<BlockNo> = heads.iter().copied().collect();
    if plan
        .allocator
        .is_some_and(|allocator| allocator.slot == Slot::GLOBAL.0)
    {
        // The volume's own inodes lie where the superblock says, whatever leads to their group.
        lost.extend(system::own_group(stage).map(|(group, _)| group));
    }
    if let Some(allocator) = &plan.allocator {
        let missed = stage.evidence.missed_groups.iter();
        let own = missed.filter(|(slot, _)| allocator.gives_inodes_to(*slot));
        lost.extend(own.map(|(_, group)| *group));
    }
    for number in 0..geo.cluster_groups() {
        let (desc, faults) = stage.view().inspect::<GroupDesc>(geo.group_block(number));
        let desc = desc.filter(|_| faults.len() <= 1);
        let base = number * geo.clusters_per_group();
        for bit in 0..geo.clusters_per_group().min(geo.clusters() - base) {
            if desc.as_ref().is_some_and(|desc| !desc.is_set(bit)) {
                continue;
            }
            let blkno = geo.first_block(ClusterNo(base + bit));
            let Ok(block) = stage.view().raw(blkno) else {
                continue;
            };
            // Nothing else leads to a group whose descriptor is lost along with the chains.
            if heads.is_empty()
                && let Some((slot, group)) = bitmap::home_of(&block, blkno, stage.view())
                && plan.allocator.is_some_and(|own| own.gives_inodes_to(slot))
            {
                lost.insert(group);
            }
            let signed = block.starts_with(&GroupDesc::SIGNATURE);
            drop(block);
            if signed {
                block::exchange(stage, blkno)?;
            }
            if signed && is_group(stage, plan, blkno) {
                let (group, _) = stage.view().inspect::<GroupDesc>(blkno);
                let next = group.map_or(0, |group| group.bg_next_group.get());
                lost.insert(BlockNo(next));
                found.insert(blkno);
            }
        }
    }
    // Where a chain led to something else, a group may have been.
    for blkno in lost {
        let possible = geo.is_cluster_aligned(blkno) && geo.contains(blkno, 1);
        let taken = stage
            .evidence
            .groups
            .locate(blkno)
            .is_some_and(|(group, _)| group.allocator != plan.inode);
        if possible
            && !taken
            && !found.contains(&blkno)
            && blkno.0 != 0
            && let Ok(clusters) = pieces::clusters(stage, blkno, plan.cpg.into())
        {
            let bitmap = used(stage, plan, &clusters, bits)?;
            if bitmap.iter().any(|byte| *byte != 0) {
                found.insert(blkno);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Clusters of each group of an allocator, by the first of its groups that is found, or by another
/// allocator of the same kind.
pub(super) fn clusters_of_group(
    stage: &Stage<'_, '_>,
    inode: BlockNo,
    file: SystemFile,
) -> Result<u16> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster().max(1);
    match file {
        SystemFile::GlobalBitmap => return Ok(low16(geo.clusters_per_group().into())),
        SystemFile::GlobalInodeAlloc => {
            let (_, bits) = super::system::own_group(stage)?;
            return Ok(low16(u64::from(bits) / bpc));
        }
        _ => {}
    }
    for cluster in 0..geo.clusters() {
        let blkno = geo.first_block(ClusterNo(cluster));
        let block = stage.view().raw(blkno);
        if !block.is_ok_and(|block| block.starts_with(&GroupDesc::SIGNATURE)) {
            continue;
        }
        let (desc, faults) = stage.view().inspect::<GroupDesc>(blkno);
        if let Some(desc) = desc.filter(|_| faults.is_empty())
            && desc.bg_parent_dinode.get() == inode.0
        {
            return Ok(low16(u64::from(desc.bg_bits.get()) / bpc));
        }
    }
    let all = stage.evidence.system.allocators(stage.view());
    let own = all.iter().find(|allocator| allocator.inode == inode);
    let same = all
        .iter()
        .filter(|other| other.inode != inode && own.is_some_and(|own| own.kind == other.kind));
    for other in same.filter(|other| other.slot != 0xFFFF) {
        let (block, faults) = stage.view().inspect::<Dinode>(other.inode);
        if let Some(chains) = block
            .as_ref()
            .filter(|_| faults.is_empty())
            .and_then(|inode| ChainsView::parse(inode.body()))
        {
            return Ok(chains.head.cl_cpg.get());
        }
    }
    // As in a new volume.
    let megabytes = match geo.block_bits() {
        9 => 1,
        10 => 2,
        _ => 4,
    };
    Ok(low16((megabytes << 20) >> geo.cluster_bits()))
}

/// Bits that the group of the volume's own inodes has in a new volume.
pub(super) fn bits_of_own_group(stage: &Stage<'_, '_>) -> u32 {
    let slots = u64::from(stage.view().info().max_slots);
    let bpc = stage.geo().blocks_per_cluster().max(1);
    low32((6 + 7 + 8 * slots.max(32)).next_multiple_of(bpc))
}

/// The bitmap of a lost group in these clusters, from the blocks that say that they came from it. The bit
/// of the descriptor is left out.
fn used(stage: &Stage<'_, '_>, plan: &Plan, clusters: &[ClusterNo], bits: u32) -> Result<Vec<u8>> {
    let mut bitmap = vec![0u8; (bits as usize).div_ceil(8)];
    let Some(allocator) = plan.allocator else {
        return Ok(bitmap);
    };
    let generation = stage.view().info().fs_generation.0;
    let bpc = u32::from(plan.bpc.max(1));
    for bit in 1..bits {
        let Some(cluster) = clusters.get((bit / bpc) as usize) else {
            break;
        };
        let blkno = stage.geo().first_block(*cluster).plus((bit % bpc).into());
        // Of two inodes in each other's places, each counts as used in its own.
        let lies = block::partner(stage, blkno).unwrap_or(blkno);
        let Ok(block) = stage.view().raw(lies) else {
            continue;
        };
        if in_use(&block, blkno, generation, &allocator, bit) {
            bitmap[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }
    Ok(bitmap)
}

/// Whether a block is of the kind that an allocator gives out, in use, and from that bit of it.
fn in_use(block: &[u8], blkno: BlockNo, generation: u32, from: &Allocator, bit: u32) -> bool {
    let mut signature = [0; 8];
    signature.copy_from_slice(block.get(..8).unwrap_or(&[0; 8]));
    if check_offset_of(signature).is_none() {
        return false;
    }
    macro_rules! said {
        ($type:ty, $slot:ident, $bit:ident) => {
            <$type>::ref_from_prefix(block).is_ok_and(|(head, _)| {
                head.own_blkno() == blkno.0
                    && head.generation() == generation
                    && head.$slot.get() == from.slot
                    && u32::from(head.$bit.get()) == bit
            })
        };
    }
    match (from.kind, signature) {
        (Kind::Inode, Dinode::SIGNATURE) => {
            let valid = Dinode::ref_from_prefix(block)
                .is_ok_and(|(inode, _)| inode.flags().contains(InodeFlags::VALID));
            valid && said!(Dinode, i_suballoc_slot, i_suballoc_bit)
        }
        (Kind::Extent, ExtentBlock::SIGNATURE) => {
            said!(ExtentBlock, h_suballoc_slot, h_suballoc_bit)
        }
        (Kind::Extent, DxRoot::SIGNATURE) => said!(DxRoot, dr_suballoc_slot, dr_suballoc_bit),
        (Kind::Extent, XattrBlock::SIGNATURE) => {
            said!(XattrBlock, xb_suballoc_slot, xb_suballoc_bit)
        }
        (Kind::Extent, RefcountBlock::SIGNATURE) => {
            said!(RefcountBlock, rf_suballoc_slot, rf_suballoc_bit)
        }
        _ => false,
    }
}

/// Makes a descriptor. In the global bitmap everything counts as used until all claims are known.
fn make(stage: &mut Stage<'_, '_>, plan: &Plan, blkno: BlockNo, bits: u32) -> Result<()> {
    let geo = stage.geo();
    let mut bytes = vec![0u8; geo.block_bytes()];
    let small = plan.allocator.is_some() && stage.view().info().has(Incompat::DISCONTIG_BG);
    let size = if small {
        usize::from(DISCONTIG_BITMAP_BYTES)
    } else {
        geo.block_bytes() - GROUP_BITMAP
    };
    let mut list = Vec::new();
    let mut bitmap = match plan.allocator {
        Some(_) => {
            let clusters = pieces::clusters(stage, blkno, plan.cpg.into())?;
            list = pieces::list(stage, &clusters)?;
            stage.adopted.extend(&clusters);
            used(stage, plan, &clusters, bits)?
        }
        None => {
            let mut all = vec![0xFF; (bits as usize).div_ceil(8)];
            if let Some(last) = all.last_mut().filter(|_| !bits.is_multiple_of(8)) {
                *last = (1 << (bits % 8)) - 1;
            }
            all
        }
    };
    if let Some(first) = bitmap.first_mut() {
        *first |= 1;
    }
    let place = bytes
        .get_mut(GROUP_BITMAP..GROUP_BITMAP + size.min(bitmap.len()))
        .ok_or_else(|| cannot("the bitmap does not fit its block"))?;
    place.copy_from_slice(bitmap.get(..place.len()).unwrap_or_default());
    if let Some(place) = bytes.get_mut(GROUP_LIST..GROUP_LIST + list.len()) {
        place.copy_from_slice(&list);
    }
    let free = bits - count_ones(&bitmap, bits);
    let (desc, _) =
        GroupDesc::mut_from_prefix(&mut bytes).map_err(|_| cannot("the block is short"))?;
    desc.bg_signature = GroupDesc::SIGNATURE;
    desc.bg_size = low16(size as u64).into();
    desc.bg_bits = low16(bits.into()).into();
    desc.bg_free_bits_count = low16(free.into()).into();
    desc.bg_generation = stage.view().info().fs_generation.0.into();
    desc.bg_parent_dinode = plan.inode.0.into();
    desc.bg_blkno = blkno.0.into();
    stage.put_run(blkno, Some(GroupDesc::CHECK_AT), &mut bytes)
}

/// Links groups into chains, as evenly as they come, and counts.
fn link(stage: &Stage<'_, '_>, plan: &Plan, groups: &[BlockNo]) -> Result<()> {
    let count = groups.len().min(plan.room).max(1);
    let mut recs: Vec<(u64, u64, u64)> = vec![(0, 0, 0); groups.len().min(plan.room)];
    for (index, &group) in groups.iter().enumerate() {
        let chain = index % count;
        let next = groups.get(index + count).map_or(0, |next| next.0);
        let (mut free, mut total) = (0, 0);
        stage.edit::<GroupDesc>(group, |desc| {
            desc.bg_chain = low16(chain as u64).into();
            desc.bg_next_group = next.into();
            free = u64::from(desc.bg_free_bits_count.get());
            total = u64::from(desc.bg_bits.get());
        })?;
        if let Some(rec) = recs.get_mut(chain) {
            rec.0 += free;
            rec.1 += total;
            if rec.2 == 0 {
                rec.2 = group.0;
            }
        }
    }
    let free: u64 = recs.iter().map(|rec| rec.0).sum();
    let total: u64 = recs.iter().map(|rec| rec.1).sum();
    let clusters = total / u64::from(plan.bpc.max(1));
    let cluster_bits = stage.geo().cluster_bits();
    stage.edit_bytes::<Dinode>(plan.inode, |bytes| {
        let body = bytes.get_mut(DINODE_HEAD..).unwrap_or_default();
        let (head, rest) = body.split_at_mut(16.min(body.len()));
        head[0..2].copy_from_slice(&plan.cpg.to_le_bytes());
        head[2..4].copy_from_slice(&plan.bpc.to_le_bytes());
        head[4..6].copy_from_slice(&low16(plan.room as u64).to_le_bytes());
        head[6..8].copy_from_slice(&low16(recs.len() as u64).to_le_bytes());
        rest.fill(0);
        for (place, rec) in rest.chunks_exact_mut(size_of::<ChainRec>()).zip(&recs) {
            let rec = ChainRec {
                c_free: low32(rec.0).into(),
                c_total: low32(rec.1).into(),
                c_blkno: rec.2.into(),
            };
            place.copy_from_slice(rec.as_bytes());
        }
        Ok(())
    })?;
    stage.edit::<Dinode>(plan.inode, |inode| {
        inode.i_clusters = low32(clusters).into();
        inode.i_size = (clusters << cluster_bits).into();
        inode.id1_low = low32(total.saturating_sub(free)).into();
        inode.id1_high = low32(total).into();
    })
}

/// Counts the extents of a group anew: as many as hold the clusters of a group.
pub(super) fn pieces(stage: &Stage<'_, '_>, allocator: BlockNo, group: BlockNo) -> Result<()> {
    let (block, _) = stage.view().inspect::<Dinode>(allocator);
    let cpg = block
        .as_ref()
        .and_then(|inode| ChainsView::parse(inode.body()))
        .map_or(0, |chains| u32::from(chains.head.cl_cpg.get()));
    drop(block);
    stage.edit_bytes::<GroupDesc>(group, |bytes| {
        let space = bytes.get_mut(GROUP_LIST..).unwrap_or_default();
        let list = ListView::parse(space).ok_or_else(|| cannot("there is no list of extents"))?;
        let (mut used, mut next) = (0u16, 0u32);
        for rec in list.recs {
            if next >= cpg || rec.e_cpos.get() != next {
                break;
            }
            next += u32::from(rec.e_leaf_clusters.get());
            used += 1;
        }
        if next != cpg {
            return Err(cannot("the extents of the group cannot be made out"));
        }
        space[4..6].copy_from_slice(&used.to_le_bytes());
        Ok(())
    })
}
