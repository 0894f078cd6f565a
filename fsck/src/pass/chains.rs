//! Chain allocators: the list of chains in the inode, the descriptors that hang in them.

use std::collections::HashMap;

use cowfs_format::block::Checked;
use cowfs_format::layout::{
    ChainList, ChainRec, DISCONTIG_BITMAP_BYTES, Dinode, GROUP_BITMAP, GROUP_LIST, GroupDesc,
    Incompat,
};
use cowfs_format::read::chain::{ChainsView, count_ones};
use cowfs_format::read::extent::ListView;
use cowfs_format::units::{BlockNo, Slot};

use crate::catalogue::{AllocProblem, At, BlockKind};
use crate::facts::groups::{Group, Kind, Run};
use crate::facts::{Cx, Out};

/// An allocator of the system directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocator {
    pub(crate) inode: BlockNo,
    pub(crate) kind: Kind,
    pub(crate) slot: u16,
}

impl Allocator {
    /// Whether it is the one that a slot's inodes come from.
    pub(crate) fn gives_inodes_to(self, slot: u16) -> bool {
        self.kind == Kind::Inode && self.slot == slot && slot != Slot::GLOBAL.0
    }
}

/// A chain as its record in the inode describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) index: u64,
    pub(crate) head: BlockNo,
    pub(crate) free: u32,
    pub(crate) total: u32,
}

/// The list of chains of an allocator inode.
#[derive(Debug)]
pub(crate) struct Chains {
    pub(crate) cpg: u16,
    pub(crate) bpc: u16,
    pub(crate) chains: Vec<Chain>,
}

/// Sums over the groups of a chain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Checks the list of chains of an allocator inode.
pub(crate) fn list(out: &mut Out, inode: &Checked<'_, Dinode>, want_bpc: u16) -> Option<Chains> {
    let at = At::inode(inode.blkno());
    let view = ChainsView::parse(inode.body())?;
    let (count, used) = (view.head.cl_count.get(), view.head.cl_next_free_rec.get());
    if usize::from(count) > view.capacity {
        let (found, expected) = (count, view.capacity as u64);
        out.find(at, AllocProblem::ChainCount { found, expected });
    }
    let room = view.capacity.min(usize::from(count));
    if usize::from(used) > room {
        let (found, count) = (used, room as u64);
        out.find(at, AllocProblem::ChainNextFree { found, count });
    }
    let bpc = view.head.cl_bpc.get();
    if bpc != want_bpc {
        let (found, expected) = (bpc, want_bpc);
        out.find(at, AllocProblem::ChainBpc { found, expected });
    }
    let unused = inode
        .body()
        .get(size_of::<ChainList>()..)
        .unwrap_or_default();
    let unused = unused.chunks_exact(size_of::<ChainRec>()).take(room);
    for (chain, rec) in (0u64..).zip(unused).skip(used.into()) {
        if rec.iter().any(|byte| *byte != 0) {
            out.find(at, AllocProblem::ChainUnused { chain });
        }
    }
    let mut chains = Vec::new();
    for (index, rec) in (0u64..).zip(view.recs) {
        if rec.c_blkno.get() == 0 {
            out.find(at, AllocProblem::ChainEmpty { chain: index });
            continue;
        }
        chains.push(Chain {
            index,
            head: BlockNo(rec.c_blkno.get()),
            free: rec.c_free.get(),
            total: rec.c_total.get(),
        });
    }
    let cpg = view.head.cl_cpg.get();
    Some(Chains {
        cpg,
        bpc: want_bpc,
        chains,
    })
}

/// Compares the counts of an allocator inode with the sums over its chains.
pub(crate) fn totals(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    chains: &Chains,
    sums: &[Totals],
) {
    let at = At::inode(inode.blkno());
    for (chain, sum) in chains.chains.iter().zip(sums) {
        if (u64::from(chain.free), u64::from(chain.total)) != (sum.free, sum.total) {
            out.find(
                at,
                AllocProblem::ChainBits {
                    chain: chain.index,
                    free: chain.free,
                    total: chain.total,
                    expected_free: sum.free,
                    expected_total: sum.total,
                },
            );
        }
    }
    let free: u64 = sums.iter().map(|sum| sum.free).sum();
    let total: u64 = sums.iter().map(|sum| sum.total).sum();
    let (used_bits, all_bits) = (inode.bitmap_used(), inode.bitmap_total());
    let used = total.saturating_sub(free);
    if (u64::from(used_bits), u64::from(all_bits)) != (used, total) {
        out.find(
            at,
            AllocProblem::ChainGroupBits {
                used: used_bits,
                total: all_bits,
                expected_used: used,
                expected_total: total,
            },
        );
    }
    let clusters = total / u64::from(chains.bpc.max(1));
    if u64::from(inode.i_clusters.get()) != clusters {
        let (found, expected) = (inode.i_clusters.get(), clusters);
        out.find(at, AllocProblem::ChainIClusters { found, expected });
    }
    let bytes = u64::from(inode.i_clusters.get()) << cx.view.geo().cluster_bits();
    if inode.i_size.get() != bytes {
        let (found, expected) = (inode.i_size.get(), bytes);
        out.find(at, AllocProblem::ChainISize { found, expected });
    }
}

/// Checks what all descriptors have in common. `bits` is what the group must have.
pub(crate) fn descriptor(
    cx: &Cx<'_>,
    out: &mut Out,
    at: At,
    desc: &Checked<'_, GroupDesc>,
    allocator: BlockNo,
    bits: u32,
    cluster_group: bool,
) {
    if desc.bg_parent_dinode.get() != allocator.0 {
        let (found, expected) = (desc.bg_parent_dinode.get(), allocator.0);
        out.find(at, AllocProblem::GroupParent { found, expected });
    }
    if u32::from(desc.bg_bits.get()) != bits {
        let (found, expected) = (desc.bg_bits.get(), bits);
        out.find(at, AllocProblem::GroupBits { found, expected });
    }
    let block = cx.view.geo().block_bytes();
    let full = u16::try_from(block - GROUP_BITMAP).unwrap_or(u16::MAX);
    let small = cx.view.info().has(Incompat::DISCONTIG_BG) && !cluster_group;
    let size = desc.bg_size.get();
    if size != full && !(small && size == DISCONTIG_BITMAP_BYTES) {
        let (found, expected) = (size, if small { DISCONTIG_BITMAP_BYTES } else { full });
        out.find(at, AllocProblem::GroupSize { found, expected });
    }
    let bitmap = desc.bitmap();
    let set = count_ones(bitmap, bits);
    let free = bits.saturating_sub(set);
    if u32::from(desc.bg_free_bits_count.get()) != free {
        let (found, expected) = (desc.bg_free_bits_count.get(), free);
        out.find(at, AllocProblem::GroupFreeBits { found, expected });
    }
    let all = u32::try_from(bitmap.len() * 8).unwrap_or(u32::MAX);
    let count = count_ones(bitmap, all) - set;
    if count > 0 {
        out.find(at, AllocProblem::GroupTailBits { count });
    }
    if !desc.is_set(0) {
        out.find(at, AllocProblem::GroupSelfBit {});
    }
}

/// How many bits each group of a suballocator has, when it is not as many as its inode `says` and all groups and
/// the counts of the chains agree on it: then it is not the groups that are wrong.
fn other_bits(cx: &Cx<'_>, allocator: &Allocator, chains: &Chains, says: u32) -> Option<u32> {
    let mut all = None;
    for chain in &chains.chains {
        let (mut next, mut total) = (chain.head, 0);
        while next.0 != 0 && total < chain.total {
            let (desc, faults) = cx.view.inspect::<GroupDesc>(next);
            let own = |desc: &Checked<'_, GroupDesc>| {
                faults.is_empty() && desc.bg_parent_dinode.get() == allocator.inode.0
            };
            let desc = desc.filter(own)?;
            let bits = u32::from(desc.bg_bits.get());
            if bits == 0 || bits == says || *all.get_or_insert(bits) != bits {
                return None;
            }
            total += bits;
            next = BlockNo(desc.bg_next_group.get());
        }
        if total != chain.total || next.0 != 0 {
            return None;
        }
    }
    all
}

/// Walks the chains of a suballocator and claims the clusters of its groups.
pub(crate) fn suballocator(cx: &Cx<'_>, allocator: &Allocator) -> (Out, Vec<Group>) {
    let (mut out, mut groups) = (Out::default(), Vec::new());
    let (inode, faults) = cx.view.inspect::<Dinode>(allocator.inode);
    // What is wrong with the inode itself is told when all inodes are looked at.
    let Some(inode) = inode.filter(|_| faults.len() <= 1) else {
        return (out, groups);
    };
    let geo = cx.view.geo();
    let bpc = u16::try_from(geo.blocks_per_cluster()).unwrap_or(u16::MAX);
    let Some(chains) = list(&mut out, &inode, bpc) else {
        return (out, groups);
    };
    let bits = u32::from(chains.cpg) * u32::from(chains.bpc);
    let most = u32::try_from((geo.block_bytes() - GROUP_BITMAP) * 8).unwrap_or(u32::MAX);
    let other_bits = other_bits(cx, allocator, &chains, bits);
    if !chains.chains.is_empty() && (bits == 0 || bits > most || other_bits.is_some()) {
        let bits = other_bits.unwrap_or(most);
        let (found, expected) = (chains.cpg, bits / u32::from(bpc.max(1)));
        out.find(
            At::inode(allocator.inode),
            AllocProblem::ChainCpg { found, expected },
        );
        return (out, groups);
    }
    let mut seen: HashMap<BlockNo, u64> = HashMap::new();
    let mut sums = vec![Totals::default(); chains.chains.len()];
    for (chain, sum) in chains.chains.iter().zip(&mut sums) {
        let mut next = chain.head;
        while next.0 != 0 {
            let at = At::within(allocator.inode, next);
            if let Some(other) = seen.insert(next, chain.index) {
                if other == chain.index {
                    out.find(at, AllocProblem::GroupChainLoop { chain: chain.index });
                } else {
                    out.find(
                        at,
                        AllocProblem::GroupDuplicate {
                            other: allocator.inode.0,
                        },
                    );
                }
                break;
            }
            if !geo.contains(next, 1) {
                let found = next.0;
                let index = chain.index;
                if next == chain.head {
                    let at = At::inode(allocator.inode);
                    out.find(
                        at,
                        AllocProblem::ChainHeadRange {
                            chain: index,
                            found,
                        },
                    );
                } else {
                    out.find(at, AllocProblem::ChainLinkRange {});
                }
                break;
            }
            let Some(desc) = read(cx, &mut out, at, next, allocator.inode) else {
                break;
            };
            if u64::from(desc.bg_chain.get()) != chain.index {
                let (found, expected) = (desc.bg_chain.get(), chain.index);
                out.find(at, AllocProblem::GroupChain { found, expected });
            }
            descriptor(cx, &mut out, at, &desc, allocator.inode, bits, false);
            sum.free += u64::from(desc.bg_free_bits_count.get());
            sum.total += u64::from(desc.bg_bits.get());
            let runs = runs(cx, &mut out, at, &desc, &chains, bits);
            for run in &runs {
                let clusters = run.bits.div_ceil(u32::from(bpc.max(1)));
                let first = geo.cluster_of(run.blkno).0;
                cx.claim(&mut out, allocator.inode, true, first, clusters);
            }
            let Allocator { inode, kind, slot } = *allocator;
            groups.push(Group::new(kind, slot, inode, next, bits, runs));
            next = BlockNo(desc.bg_next_group.get());
        }
    }
    totals(cx, &mut out, &inode, &chains, &sums);
    (out, groups)
}

/// Reads a descriptor that a chain leads to; one of another volume ends the chain.
pub(crate) fn read<'v>(
    cx: &Cx<'v>,
    out: &mut Out,
    at: At,
    blkno: BlockNo,
    allocator: BlockNo,
) -> Option<Checked<'v, GroupDesc>> {
    let (block, faults) = cx.view.inspect::<GroupDesc>(blkno);
    if let Some(block) = &block {
        let found = block.bg_generation.get();
        let foreign = found != cx.view.info().fs_generation.0;
        if foreign
            && (block.bg_blkno.get() != blkno.0 || block.bg_parent_dinode.get() != allocator.0)
        {
            out.find(at, AllocProblem::ChainLinkGen { found });
            return None;
        }
    }
    for fault in &faults {
        out.find(at, BlockKind::Group.problem(fault));
    }
    let block = block.filter(|_| faults.len() <= 1)?;
    crate::facts::note_ecc(out, at, BlockKind::Group.name(), block.ecc());
    super::reserved::check(out, at, block.bytes());
    Some(block)
}

/// Where the blocks of a suballocator group are.
fn runs(
    cx: &Cx<'_>,
    out: &mut Out,
    at: At,
    desc: &Checked<'_, GroupDesc>,
    chains: &Chains,
    bits: u32,
) -> Vec<Run> {
    let blkno = desc.blkno();
    let listed = pieces(cx, out, at, desc, chains);
    if let Some(runs) = listed {
        return runs;
    }
    if !cx.view.geo().contains(blkno, u64::from(bits)) {
        let found = blkno.0;
        out.find(at, AllocProblem::DiscontigRange { found });
        return Vec::new();
    }
    vec![Run {
        bit: 0,
        bits,
        blkno,
    }]
}

/// The extents of a discontiguous group; `None` when the group is one run.
fn pieces(
    cx: &Cx<'_>,
    out: &mut Out,
    at: At,
    desc: &Checked<'_, GroupDesc>,
    chains: &Chains,
) -> Option<Vec<Run>> {
    let blkno = desc.blkno();
    if GROUP_BITMAP + usize::from(desc.bg_size.get()) != GROUP_LIST
        || !cx.view.info().has(Incompat::DISCONTIG_BG)
    {
        return None;
    }
    let list = desc.bytes().get(GROUP_LIST..).and_then(ListView::parse)?;
    let (count, used) = (list.head.l_count.get(), list.head.l_next_free_rec.get());
    if used == 0 {
        return None;
    }
    let depth = list.head.l_tree_depth.get();
    if depth != 0 {
        out.find(at, AllocProblem::DiscontigDepth { found: depth });
    }
    if usize::from(count) > list.capacity {
        let (found, expected) = (count, list.capacity as u64);
        out.find(at, AllocProblem::DiscontigCount { found, expected });
    }
    let room = list.capacity.min(usize::from(count));
    if usize::from(used) > room {
        let (found, count) = (used, room as u64);
        out.find(at, AllocProblem::DiscontigNextFree { found, count });
    }
    let geo = cx.view.geo();
    let bpc = u32::from(chains.bpc);
    let (mut runs, mut next) = (Vec::new(), 0u32);
    for rec in list.recs {
        let (clusters, first) = (
            u32::from(rec.e_leaf_clusters.get()),
            BlockNo(rec.e_blkno.get()),
        );
        if !geo.contains(first, u64::from(clusters * bpc)) || !geo.is_cluster_aligned(first) {
            out.find(at, AllocProblem::DiscontigRange { found: first.0 });
            break;
        }
        let in_order = rec.e_cpos.get() == next && (next > 0 || first == blkno);
        if !in_order || clusters == 0 || next + clusters > u32::from(chains.cpg) {
            break;
        }
        let (bit, bits) = (next * bpc, clusters * bpc);
        runs.push(Run {
            bit,
            bits,
            blkno: first,
        });
        next += clusters;
    }
    if next != u32::from(chains.cpg) {
        let (found, expected) = (u64::from(next), u64::from(chains.cpg));
        out.find(at, AllocProblem::DiscontigClusters { found, expected });
    }
    Some(runs)
}
