//! Allocators: counts, bits, and what blocks say of where they came from.

use cowfs_format::block::{MetaBlock, check_offset_of};
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{
    ChainList, ChainRec, DINODE_HEAD, Dinode, DxRoot, ExtentBlock, FileType, GROUP_BITMAP,
    GROUP_LIST, GroupDesc, InodeFlags, RefcountBlock, XattrBlock,
};
use cowfs_format::read::inode;
use cowfs_format::units::{BlockNo, ClusterNo, low16, low32};
use cowfs_format::volume::system::SystemFile;
use zerocopy::FromBytes;

use super::stage::{Stage, cannot};
use super::{adopt, group, meta, pieces, slots, system, xattr};
use crate::catalogue::{AllocProblem, At};
use crate::facts::groups::InodeFact;

/// Repairs a problem of an allocator.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &AllocProblem) -> Result<()> {
    use AllocProblem as P;
    let owner = || at.inode.ok_or_else(|| cannot("it has no inode"));
    let block = || {
        at.block
            .or(at.inode)
            .ok_or_else(|| cannot("it has no place"))
    };
    match *problem {
        P::ChainCpg { .. } => {
            let file = stage.evidence.system.file_at(stage.view(), owner()?);
            let file = file.ok_or_else(|| cannot("how large its groups are cannot be known"))?;
            let cpg = group::clusters_of_group(stage, owner()?, file)?;
            chains(stage, owner()?, |list| list.cl_cpg = cpg.into())
        }
        P::ChainBpc { expected, .. } => {
            chains(stage, owner()?, |list| list.cl_bpc = expected.into())
        }
        P::ChainCount { expected, .. } => chains(stage, owner()?, |list| {
            list.cl_count = low16(expected).into()
        }),
        P::GroupGen { .. } => {
            let generation = stage.view().info().fs_generation.0;
            stage.edit::<GroupDesc>(block()?, |desc| desc.bg_generation = generation.into())
        }
        P::GroupBlkno { .. } => {
            let blkno = block()?;
            stage.edit::<GroupDesc>(blkno, |desc| desc.bg_blkno = blkno.0.into())
        }
        P::GroupParent { found, expected } => {
            if group::is_allocator(stage, BlockNo(found)) {
                // It is the chain that is wrong, or both are.
                group::rebuild(stage, owner()?)?;
                return group::rebuild(stage, BlockNo(found));
            }
            stage.edit::<GroupDesc>(block()?, |desc| desc.bg_parent_dinode = expected.into())
        }
        P::GroupDuplicate { other } => group::leave(stage, block()?, [owner()?, BlockNo(other)]),
        P::GroupChain { expected, .. } => {
            stage.edit::<GroupDesc>(block()?, |desc| desc.bg_chain = low16(expected).into())
        }
        P::GroupFreeBits { expected, .. } => stage.edit::<GroupDesc>(block()?, |desc| {
            desc.bg_free_bits_count = low16(expected.into()).into();
        }),
        P::GroupBits { expected, .. } => stage.edit::<GroupDesc>(block()?, |desc| {
            desc.bg_bits = low16(expected.into()).into();
        }),
        P::GroupSize { expected, .. } => {
            stage.edit::<GroupDesc>(block()?, |desc| desc.bg_size = expected.into())
        }
        P::GroupSelfBit {} => stage.set_bits(owner()?, block()?, 0..1, true),
        P::GroupTailBits { .. } => tail(stage, block()?),
        P::GroupUnexpected {}
        | P::GroupUnlinked {}
        | P::GroupExpected { .. }
        | P::GroupChainLoop { .. }
        | P::ChainNextFree { .. }
        | P::ChainEmpty { .. }
        | P::ChainHeadRange { .. }
        | P::ChainLinkMagic { .. }
        | P::ChainLinkGen { .. }
        | P::ChainLinkRange {} => group::rebuild(stage, owner()?),
        P::ChainIClusters { expected, .. } => {
            let bits = stage.geo().cluster_bits();
            stage.edit::<Dinode>(owner()?, |inode| {
                inode.i_clusters = low32(expected).into();
                inode.i_size = (expected << bits).into();
            })
        }
        P::ChainISize { expected, .. } => {
            stage.edit::<Dinode>(owner()?, |inode| inode.i_size = expected.into())
        }
        // Where more than the use of bits is wrong, a group may be missing: it is looked for.
        P::ChainGroupBits {
            total,
            expected_total,
            ..
        }
        | P::ChainBits {
            total,
            expected_total,
            ..
        } if u64::from(total) != expected_total => group::rebuild(stage, owner()?),
        P::ChainGroupBits {
            expected_used,
            expected_total,
            ..
        } => stage.edit::<Dinode>(owner()?, |inode| {
            inode.id1_low = low32(expected_used).into();
            inode.id1_high = low32(expected_total).into();
        }),
        P::ChainUnused { chain } => {
            let (allocator, rec) = (owner()?, chain_rec(chain));
            let head = {
                let block = stage.view().raw(allocator)?;
                let rec = block
                    .get(rec.clone())
                    .and_then(|rec| ChainRec::ref_from_bytes(rec).ok());
                rec.map_or(0, |rec| rec.c_blkno.get())
            };
            if group::hangs_in(stage, BlockNo(head), allocator) {
                // It is the number of chains that is wrong.
                return group::rebuild(stage, allocator);
            }
            stage.edit_bytes::<Dinode>(allocator, |bytes| {
                let rec = bytes
                    .get_mut(rec)
                    .ok_or_else(|| cannot("there is no such chain"))?;
                rec.fill(0);
                Ok(())
            })
        }
        P::ChainBits {
            chain,
            expected_free,
            expected_total,
            ..
        } => {
            let rec = chain_rec(chain);
            stage.edit_bytes::<Dinode>(owner()?, |bytes| {
                let rec = bytes
                    .get_mut(rec)
                    .ok_or_else(|| cannot("there is no such chain"))?;
                rec[..4].copy_from_slice(&low32(expected_free).to_le_bytes());
                rec[4..8].copy_from_slice(&low32(expected_total).to_le_bytes());
                Ok(())
            })
        }
        P::DiscontigDepth { .. } => list(stage, block()?, 0, 0),
        P::DiscontigCount { expected, .. } => list(stage, block()?, 2, low16(expected)),
        P::DiscontigRange { .. } | P::DiscontigClusters { .. } => {
            pieces::remake(stage, owner()?, block()?)
        }
        P::DiscontigNextFree { .. } => group::pieces(stage, owner()?, block()?),
        P::InodeBitUnused { bit, .. } => inode_bit(stage, block()?, bit, false),
        P::InodeBitFree { bit } => inode_bit(stage, block()?, bit, true),
        P::InodeCopy { of, .. } => forget_copy(stage, block()?, BlockNo(of)),
        P::MetaBitFree { .. } => mark(stage, block()?, true),
        P::MetaShared { .. } => meta::shared(stage, block()?),
        P::MetaForeign { .. } => meta::anew(stage, owner()?, block()?),
        P::MetaLeak { first, count } => stage.set_bits(
            owner()?,
            block()?,
            first..first.saturating_add(count),
            false,
        ),
        P::ClusterFree { first, count } => clusters(stage, at, first, count, true),
        P::ClusterLeak { first, count } => {
            let spared = |cluster: u32| stage.spares_metadata && has_metadata(stage, cluster);
            let all: Vec<u32> = (first..first.saturating_add(count)).collect();
            let mut runs = all.chunk_by(|one, next| spared(*one) == spared(*next));
            runs.try_for_each(|run| match run.first() {
                Some(first) if !spared(*first) => {
                    clusters(stage, at, *first, low32(run.len() as u64), false)
                }
                _ => Ok(()),
            })
        }
        P::DupClusters {
            first,
            count,
            other,
        } => part(stage, owner()?, BlockNo(other), first, count),
        P::DupClustersSystem { other, .. } => give_way(stage, owner()?, BlockNo(other)),
        P::SuballocFields { .. } => origin(stage, block()?),
        _ => slots::repair(stage, at, problem),
    }
}

/// Marks a copy of an inode as deleted, unless it may be all that is left of it.
fn forget_copy(stage: &Stage<'_, '_>, blkno: BlockNo, of: BlockNo) -> Result<()> {
    let own = stage.evidence.groups.inode(of);
    if own.is_some_and(InodeFact::damaged) {
        return Err(cannot("the inode itself is damaged"));
    }
    let mut block = stage.view().raw(blkno)?.into_owned();
    if let Ok((inode, _)) = Dinode::mut_from_prefix(&mut block) {
        let rest = inode.flags() - InodeFlags::VALID;
        inode.i_flags = rest.bits().into();
    }
    stage.put_run(blkno, Some(Dinode::CHECK_AT), &mut block)
}

/// Where the record of a chain lies in the inode of an allocator.
fn chain_rec(chain: u64) -> std::ops::Range<usize> {
    let at = usize::try_from(chain).unwrap_or(usize::MAX);
    let at = at.saturating_mul(16).saturating_add(DINODE_HEAD + 16);
    at..at.saturating_add(16)
}

fn chains(
    stage: &Stage<'_, '_>,
    allocator: BlockNo,
    change: impl FnOnce(&mut ChainList),
) -> Result<()> {
    stage.edit_bytes::<Dinode>(allocator, |bytes| {
        let body = bytes.get_mut(DINODE_HEAD..).unwrap_or_default();
        let (list, _) =
            ChainList::mut_from_prefix(body).map_err(|_| cannot("there is no list of chains"))?;
        change(list);
        Ok(())
    })
}

/// Sets a number of the list of extents of a group.
fn list(stage: &Stage<'_, '_>, group: BlockNo, at: usize, value: u16) -> Result<()> {
    stage.edit_bytes::<GroupDesc>(group, |bytes| {
        let place = bytes.get_mut(GROUP_LIST + at..GROUP_LIST + at + 2);
        let place = place.ok_or_else(|| cannot("there is no list of extents"))?;
        place.copy_from_slice(&value.to_le_bytes());
        Ok(())
    })
}

/// Clears the bits behind the end of a group.
fn tail(stage: &Stage<'_, '_>, group: BlockNo) -> Result<()> {
    stage.edit_bytes::<GroupDesc>(group, |bytes| {
        let (head, _) =
            GroupDesc::read_from_prefix(bytes).map_err(|_| cannot("the group is short"))?;
        let bits = usize::from(head.bg_bits.get());
        let end = GROUP_BITMAP + usize::from(head.bg_size.get());
        let bitmap = bytes
            .get_mut(GROUP_BITMAP..end)
            .ok_or_else(|| cannot("the bitmap does not fit its block"))?;
        for (index, byte) in bitmap.iter_mut().enumerate().skip(bits / 8) {
            let kept = bits.saturating_sub(index * 8);
            *byte &= if kept >= 8 { 0xFF } else { (1 << kept) - 1 };
        }
        Ok(())
    })
}

/// The allocator and the group that a block came from.
fn group_of(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<(BlockNo, BlockNo)> {
    let found = stage.evidence.groups.locate(blkno);
    let (group, _) = found.ok_or_else(|| cannot("it lies in no group"))?;
    Ok((group.allocator, group.blkno))
}

/// Marks a block in the group that it came from as used or as free.
pub(super) fn mark(stage: &Stage<'_, '_>, blkno: BlockNo, used: bool) -> Result<()> {
    let found = stage.evidence.groups.locate(blkno);
    let (group, bit) = found.ok_or_else(|| cannot("it lies in no group"))?;
    stage.set_bits(
        group.allocator,
        group.blkno,
        bit..bit.saturating_add(1),
        used,
    )
}

/// Whether a block that should hold an inode holds none, not even one that was deleted.
fn is_lost(stage: &Stage<'_, '_>, blkno: BlockNo) -> bool {
    let signature = stage.view().raw(blkno).ok();
    signature.is_some_and(|block| !block.starts_with(&Dinode::SIGNATURE))
}

fn inode_bit(stage: &mut Stage<'_, '_>, blkno: BlockNo, bit: u32, used: bool) -> Result<()> {
    let (allocator, group) = group_of(stage, blkno)?;
    let inodes = SystemFile::GlobalInodeAlloc;
    if !used && stage.evidence.system.find(inodes) == Some(allocator) {
        return system::remake(stage, blkno);
    }
    if !used && is_lost(stage, blkno) && adopt::has_directory(stage, blkno) {
        return system::directory(stage, blkno, InodeFlags::empty());
    }
    stage.set_bits(allocator, group, bit..bit.saturating_add(1), used)
}

/// Sets or clears clusters of one group in the global bitmap.
fn clusters(stage: &Stage<'_, '_>, at: At, first: u32, count: u32, used: bool) -> Result<()> {
    let (Some(bitmap), Some(group)) = (at.inode, at.block) else {
        return Err(cannot("it has no place"));
    };
    let bit = first % stage.geo().clusters_per_group().max(1);
    stage.set_bits(bitmap, group, bit..bit.saturating_add(count), used)
}

/// Whether a cluster holds a block that says it is metadata.
fn has_metadata(stage: &Stage<'_, '_>, cluster: u32) -> bool {
    let first = stage.geo().first_block(ClusterNo(cluster));
    (0..stage.geo().blocks_per_cluster()).any(|nth| {
        let block = stage.view().raw(first.plus(nth));
        let signature = block.ok().and_then(|block| block.first_chunk().copied());
        signature.is_none_or(|signature| check_offset_of(signature).is_some())
    })
}

/// Whether what an inode holds may move to other clusters.
fn moves(stage: &Stage<'_, '_>, blkno: BlockNo) -> bool {
    inode::read(stage.view(), blkno).is_ok_and(|inode| {
        let kind = inode.file_type();
        let file = matches!(kind, Some(FileType::Regular | FileType::Symlink));
        file && !inode.flags().contains(InodeFlags::SYSTEM)
    })
}

/// Makes a file of the volume itself anew that claims what something else claims, when nobody misses what it
/// holds and the other cannot move. Of two such files it is the one with the higher number.
fn give_way(stage: &mut Stage<'_, '_>, owner: BlockNo, other: BlockNo) -> Result<()> {
    if moves(stage, other) {
        // That gets a copy.
        return Ok(());
    }
    let is_missed = |blkno| {
        use SystemFile as F;
        let file = stage.evidence.system.file_at(stage.view(), blkno);
        !matches!(
            file,
            Some(
                F::BadBlocks
                    | F::SlotMap
                    | F::Heartbeat
                    | F::Journal(_)
                    | F::UserQuota
                    | F::GroupQuota
                    | F::LocalUserQuota(_)
                    | F::LocalGroupQuota(_)
            )
        )
    };
    if is_missed(owner) || (!is_missed(other) && owner < other) {
        return Ok(());
    }
    system::remake(stage, owner)
}

/// Gives one of two files that use the same clusters a copy of its own. The one with the lower
/// number keeps them, unless it is the only one of the two that can move.
fn part(
    stage: &mut Stage<'_, '_>,
    owner: BlockNo,
    other: BlockNo,
    first: u32,
    count: u32,
) -> Result<()> {
    if !moves(stage, owner) || (owner < other && moves(stage, other)) {
        return Ok(());
    }
    let first = ClusterNo(first);
    match stage.transact(|txn| txn.part(owner, first, count)) {
        // It is not its data that is there.
        Ok(0) => xattr::part(stage, owner, first, count),
        Ok(_) => Ok(()),
        // What claims more than there is room for has an extent that never was: it goes.
        Err(error @ Error::NoSpace { .. }) => {
            for loser in stage.evidence.most_doubled().chain([owner]) {
                if moves(stage, loser) && stage.transact(|txn| txn.unmap(loser, first, count))? > 0
                {
                    return Ok(());
                }
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Writes into a block where it came from.
pub(super) fn origin(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<()> {
    let found = stage.evidence.groups.locate(blkno);
    let (group, bit) = found.ok_or_else(|| cannot("it lies in no group"))?;
    let (slot, bit, loc) = (group.slot, low16(bit.into()), group.blkno.0);
    let mut signature = [0; 8];
    signature.copy_from_slice(stage.view().raw(blkno)?.get(..8).unwrap_or(&[0; 8]));
    macro_rules! set {
        ($type:ty, $slot:ident, $bit:ident, $loc:ident) => {
            stage.edit::<$type>(blkno, |head| {
                head.$slot = slot.into();
                head.$bit = bit.into();
                head.$loc = loc.into();
            })
        };
    }
    match signature {
        Dinode::SIGNATURE => set!(Dinode, i_suballoc_slot, i_suballoc_bit, i_suballoc_loc),
        ExtentBlock::SIGNATURE => {
            set!(ExtentBlock, h_suballoc_slot, h_suballoc_bit, h_suballoc_loc)
        }
        DxRoot::SIGNATURE => set!(DxRoot, dr_suballoc_slot, dr_suballoc_bit, dr_suballoc_loc),
        XattrBlock::SIGNATURE => {
            set!(
                XattrBlock,
                xb_suballoc_slot,
                xb_suballoc_bit,
                xb_suballoc_loc
            )
        }
        RefcountBlock::SIGNATURE => {
            set!(
                RefcountBlock,
                rf_suballoc_slot,
                rf_suballoc_bit,
                rf_suballoc_loc
            )
        }
        _ => {
            debug_assert!(check_offset_of(signature).is_none());
            Err(cannot("the block is not what it was"))
        }
    }
}
