//! The groups of the global bitmap.
//!
//! Their places follow from the geometry, so they are read in parallel and in disk order; the
//! chains are then walked in memory over what was read.

use std::collections::HashSet;

use cowfs_format::block::Checked;
use cowfs_format::layout::{Dinode, GroupDesc};
use cowfs_format::units::BlockNo;

use super::chains::{self, Chains, Totals};
use crate::catalogue::{AllocProblem, At, BlockKind};
use crate::facts::{Cx, Out};

/// What the chains need to know of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupFact {
    next: u64,
    chain: u16,
    free: u16,
    bits: u16,
    /// Whether the descriptor can be used.
    pub(crate) usable: bool,
    /// Whether only the descriptor's own cluster is marked as used.
    pub(crate) empty: bool,
    linked: bool,
}

/// Clusters that group `group` must have.
pub(crate) fn bits_of(cx: &Cx<'_>, group: u32) -> u32 {
    let geo = cx.view.geo();
    let per_group = geo.clusters_per_group();
    let first = group.saturating_mul(per_group);
    geo.clusters().saturating_sub(first).min(per_group)
}

/// Looks at a run of groups at their places, and claims the clusters of their descriptors.
pub(crate) fn scan(
    cx: &Cx<'_>,
    bitmap: BlockNo,
    groups: std::ops::Range<u32>,
) -> (Out, Vec<GroupFact>) {
    let mut out = Out::default();
    let geo = cx.view.geo();
    let facts = groups.map(|group| {
        let blkno = geo.group_block(group);
        let at = At::within(bitmap, blkno);
        let cluster = geo.cluster_of(blkno).0;
        if group == 0 {
            // The superblock and what lies before it share the first clusters.
            cx.claim(&mut out, bitmap, true, 0, cluster + 1);
        } else if cx.doubles.is_some() {
            // Otherwise the claim on its own cluster goes without saying.
            cx.claim(&mut out, bitmap, true, cluster, 1);
        }
        let view = cx.view.scattered();
        let desc = cx.inspect_in::<GroupDesc>(view, &mut out, at, blkno, BlockKind::Group);
        let Some(desc) = desc else {
            return GroupFact::default();
        };
        let bits = bits_of(cx, group);
        chains::descriptor(cx, &mut out, at, &desc, bitmap, bits, true);
        fact(&desc, bits)
    });
    let facts = facts.collect();
    (out, facts)
}

fn fact(desc: &Checked<'_, GroupDesc>, bits: u32) -> GroupFact {
    let bitmap = desc.bitmap();
    let empty = bitmap.first() == Some(&1) && desc.count_set() == 1 && bits > 1;
    GroupFact {
        next: desc.bg_next_group.get(),
        chain: desc.bg_chain.get(),
        free: desc.bg_free_bits_count.get(),
        bits: desc.bg_bits.get(),
        usable: true,
        empty,
        linked: false,
    }
}

/// Walks the chains of the global bitmap over the groups that were read.
pub(crate) fn link(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    facts: &mut [GroupFact],
) {
    let geo = cx.view.geo();
    let at = At::inode(inode.blkno());
    let Some(chains) = chains::list(out, inode, 1) else {
        return;
    };
    if u32::from(chains.cpg) != geo.clusters_per_group() {
        let (found, expected) = (chains.cpg, geo.clusters_per_group());
        out.find(at, AllocProblem::ChainCpg { found, expected });
    }
    let mut sums = vec![Totals::default(); chains.chains.len()];
    let mut broken = false;
    for (chain, sum) in chains.chains.iter().zip(&mut sums) {
        let mut walk = ChainWalk {
            cx,
            out,
            inode: inode.blkno(),
            chain,
            sum,
        };
        broken |= walk.run(facts);
    }
    for (group, fact) in (0u32..).zip(facts.iter()) {
        if !fact.linked && fact.usable {
            let at = At::within(inode.blkno(), geo.group_block(group));
            out.find(at, AllocProblem::GroupExpected { group });
        }
    }
    if !broken {
        sums_of(cx, out, inode, &chains, &sums);
    }
}

fn sums_of(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    chains: &Chains,
    sums: &[Totals],
) {
    chains::totals(cx, out, inode, chains, sums);
}

struct ChainWalk<'a, 'v> {
    cx: &'a Cx<'v>,
    out: &'a mut Out,
    inode: BlockNo,
    chain: &'a chains::Chain,
    sum: &'a mut Totals,
}

impl ChainWalk<'_, '_> {
    /// Walks the chain; true when it could not be followed to its end.
    fn run(&mut self, facts: &mut [GroupFact]) -> bool {
        let geo = self.cx.view.geo();
        let per_group = u64::from(geo.clusters_per_group()) * geo.blocks_per_cluster();
        let mut mine: HashSet<u64> = HashSet::new();
        let mut next = self.chain.head.0;
        while next != 0 {
            let blkno = BlockNo(next);
            let at = At::within(self.inode, blkno);
            if !mine.insert(next) {
                let chain = self.chain.index;
                self.out.find(at, AllocProblem::GroupChainLoop { chain });
                return true;
            }
            if !geo.contains(blkno, 1) {
                if blkno == self.chain.head {
                    let (chain, found) = (self.chain.index, next);
                    let at = At::inode(self.inode);
                    self.out
                        .find(at, AllocProblem::ChainHeadRange { chain, found });
                } else {
                    self.out.find(at, AllocProblem::ChainLinkRange {});
                }
                return true;
            }
            let group = u32::try_from(next / per_group).unwrap_or(u32::MAX);
            let fact = facts
                .get_mut(group as usize)
                .filter(|_| geo.group_block(group) == blkno);
            let Some(fact) = fact else {
                self.out.find(at, AllocProblem::GroupUnexpected {});
                let Some(desc) = chains::read(self.cx, self.out, at, blkno, self.inode) else {
                    return true;
                };
                next = desc.bg_next_group.get();
                continue;
            };
            if fact.linked {
                self.out.find(
                    at,
                    AllocProblem::GroupDuplicate {
                        other: self.inode.0,
                    },
                );
                return true;
            }
            fact.linked = true;
            if !fact.usable {
                return true;
            }
            if u64::from(fact.chain) != self.chain.index {
                let (found, expected) = (fact.chain, self.chain.index);
                self.out
                    .find(at, AllocProblem::GroupChain { found, expected });
            }
            self.sum.free += u64::from(fact.free);
            self.sum.total += u64::from(fact.bits);
            next = fact.next;
        }
        false
    }
}
