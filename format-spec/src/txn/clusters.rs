//! Allocating and freeing clusters: the global bitmap.

use std::collections::BTreeMap;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{ChainRec, DINODE_HEAD, Dinode, GROUP_BITMAP, GroupDesc, MAX_LEAF_CLUSTERS};
use crate::read::chain::ChainsView;
use crate::read::extent::Extent;
use crate::txn::Txn;
use crate::units::{BlockNo, ClusterNo};
use crate::volume::system::{self, SystemFile};

/// What a transaction knows of the global bitmap.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterAlloc {
    /// Inode of the global bitmap.
    inode: Option<BlockNo>,
    /// Length of a run to the first group that may have one: a transaction only takes clusters, so
    /// a group that was passed over stays so.
    first_group: BTreeMap<u32, u32>,
    /// Shortest run worth taking while longer ones may follow.
    min_run: u32,
    /// Clusters to be freed by the commit: first to count, disjoint.
    freed: BTreeMap<u32, u32>,
    /// Clusters that this transaction allocated: first to count, disjoint.
    taken: BTreeMap<u32, u32>,
}

impl ClusterAlloc {
    /// Takes what was allocated so far for part of the volume, as the next step of a group must.
    pub(super) fn settle(&mut self) {
        self.taken.clear();
    }
}

/// Clusters for a known total demand, allocated in runs as long as they come and handed out in
/// pieces: what is asked for piece by piece still lies side by side.
#[derive(Debug)]
pub(crate) struct ClusterPool {
    /// Clusters that will still be asked for, those at hand included.
    demand: u64,
    /// Clusters at hand.
    run: (ClusterNo, u32),
}

impl ClusterPool {
    /// A pool for `demand` clusters in all.
    pub(crate) const fn new(demand: u64) -> Self {
        Self {
            demand,
            run: (ClusterNo(0), 0),
        }
    }

    /// At most `want` contiguous clusters.
    ///
    /// # Errors
    /// The volume is full or its allocator is damaged.
    pub(crate) fn take(&mut self, txn: &mut Txn<'_>, want: u32) -> Result<(ClusterNo, u32)> {
        let want = want.min(MAX_LEAF_CLUSTERS);
        if self.run.1 == 0 {
            let demand = u32::try_from(self.demand).unwrap_or(u32::MAX).max(want);
            self.run = txn.alloc_clusters(demand)?;
        }
        let (first, count) = self.run;
        let taken = count.min(want);
        self.run = (first.plus(taken), count - taken);
        self.demand = self.demand.saturating_sub(taken.into());
        Ok((first, taken))
    }
}

/// A run of set or clear bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) len: u32,
}

/// The first run of at least `min` clear bits among the first `bits`, cut to `max`.
pub(super) fn find_clear(bitmap: &[u8], bits: u32, min: u32, max: u32) -> Option<Run> {
    let mut bit = 0;
    while bit < bits {
        // Whole bytes of set bits are passed over at once.
        let byte = bitmap.get(bit as usize / 8)?;
        if bit.is_multiple_of(8) && *byte == 0xFF {
            bit += 8;
            continue;
        }
        if byte >> (bit % 8) & 1 == 1 {
            bit += 1;
            continue;
        }
        let first = bit;
        while bit < bits && bit - first < max {
            let Some(byte) = bitmap.get(bit as usize / 8) else {
                break;
            };
            if bit.is_multiple_of(8) && *byte == 0 && bits - bit >= 8 && max - (bit - first) >= 8 {
                bit += 8;
            } else if byte >> (bit % 8) & 1 == 0 {
                bit += 1;
            } else {
                break;
            }
        }
        if bit - first >= min {
            return Some(Run {
                first,
                len: bit - first,
            });
        }
    }
    None
}

/// Sets or clears a run of bits; the number of bits that changed.
pub(super) fn set_bits(bitmap: &mut [u8], run: Run, value: bool) -> u32 {
    let mut changed = 0;
    for bit in run.first..run.first.saturating_add(run.len) {
        let Some(byte) = bitmap.get_mut(bit as usize / 8) else {
            break;
        };
        let mask = 1u8 << (bit % 8);
        if (*byte & mask != 0) != value {
            *byte ^= mask;
            changed += 1;
        }
    }
    changed
}

/// An error when a group's bitmap has not as many clear bits as the group says. Then bits were
/// lost, and what looks free may be in use.
pub(super) fn require_counted(desc: &GroupDesc, bitmap: &[u8], blkno: BlockNo) -> Result<()> {
    let bits = usize::from(desc.bg_bits.get());
    let used: u32 = bitmap.iter().take(bits / 8).map(|b| b.count_ones()).sum();
    let rest = bitmap.get(bits / 8).map_or(0, |last| {
        (last & ((1u16 << (bits % 8)) - 1).to_le_bytes()[0]).count_ones()
    });
    let free = desc.bg_free_bits_count.get();
    if u64::from(used + rest) + u64::from(free) == bits as u64 {
        return Ok(());
    }
    let rule = "the group's bitmap has another number of clear bits";
    Err(FaultKind::Field {
        field: "bg_free_bits_count",
        value: free.into(),
        rule,
    }
    .at(blkno)
    .into())
}

impl Txn<'_> {
    /// The inode of the cluster allocator, looked up once.
    ///
    /// # Errors
    /// The system directory does not have it.
    pub(super) fn global_bitmap(&mut self) -> Result<BlockNo> {
        if let Some(inode) = self.clusters.inode {
            return Ok(inode);
        }
        let inode = system::find(self.view(), SystemFile::GlobalBitmap)?;
        self.clusters.inode = Some(inode);
        Ok(inode)
    }

    /// Number of free clusters.
    ///
    /// # Errors
    /// The global bitmap's inode cannot be read.
    pub fn free_clusters(&mut self) -> Result<u32> {
        let bitmap = self.global_bitmap()?;
        let inode = self.view().block::<Dinode>(bitmap)?;
        Ok(inode.bitmap_total().saturating_sub(inode.bitmap_used()))
    }

    /// Allocates one run of at most `want` clusters; shorter runs come when space is scattered.
    ///
    /// # Errors
    /// The volume is full or its allocator is damaged.
    pub(crate) fn alloc_clusters(&mut self, want: u32) -> Result<(ClusterNo, u32)> {
        let geo = self.info.geo;
        // Runs below 1 MiB are left alone as long as there are others.
        let good = (1u32 << 20u32.saturating_sub(geo.cluster_bits())).max(1);
        if self.clusters.min_run == 0 {
            self.clusters.min_run = good;
        }
        loop {
            let min = self.clusters.min_run.min(want);
            let known = self.clusters.first_group.range(..=min);
            let first = known.map(|(_, group)| *group).max().unwrap_or(0);
            for group in first..geo.cluster_groups() {
                if let Some(run) = self.take_run(group, min, want)? {
                    self.clusters.first_group.insert(min, group);
                    return Ok(run);
                }
            }
            self.clusters.first_group.insert(min, geo.cluster_groups());
            if self.clusters.min_run == 1 {
                return Err(Error::NoSpace {
                    needed: want.into(),
                    unit: "clusters",
                });
            }
            self.clusters.min_run = (self.clusters.min_run / 4).max(1);
        }
    }

    /// Allocates exactly `count` contiguous clusters; `None` when there is no such run.
    ///
    /// # Errors
    /// The allocator is damaged.
    pub(crate) fn alloc_contiguous(&mut self, count: u32) -> Result<Option<ClusterNo>> {
        for group in 0..self.info.geo.cluster_groups() {
            if let Some((cluster, _)) = self.take_run(group, count, count)? {
                return Ok(Some(cluster));
            }
        }
        Ok(None)
    }

    /// Takes a run of `min` to `max` clusters from a group, if it has one.
    pub(super) fn take_run(
        &mut self,
        group: u32,
        min: u32,
        max: u32,
    ) -> Result<Option<(ClusterNo, u32)>> {
        let geo = self.info.geo;
        let blkno = geo.group_block(group);
        let run = {
            let desc = self.view().block::<GroupDesc>(blkno)?;
            if u32::from(desc.bg_free_bits_count.get()) < min {
                return Ok(None);
            }
            require_counted(&desc, desc.bitmap(), blkno)?;
            find_clear(desc.bitmap(), desc.bg_bits.get().into(), min, max)
        };
        let Some(run) = run else { return Ok(None) };
        let bitmap = self.global_bitmap()?;
        self.change_bits(bitmap, blkno, run, true)?;
        let first = if group == 0 {
            0
        } else {
            geo.cluster_of(blkno).0
        };
        self.clusters.taken.insert(first + run.first, run.len);
        Ok(Some((ClusterNo(first + run.first), run.len)))
    }

    /// Whether this transaction allocated a cluster: nothing on disk refers to it yet, so it can be
    /// written at once.
    pub(crate) fn is_new_cluster(&self, cluster: ClusterNo) -> bool {
        let before = self.clusters.taken.range(..=cluster.0).next_back();
        before.is_some_and(|(first, count)| cluster.0 - first < *count)
    }

    /// Whether this transaction allocated a cluster, and how many of the `count` clusters from there
    /// on have the same answer.
    pub(crate) fn new_run(&self, cluster: ClusterNo, count: u32) -> (bool, u32) {
        let new = self.is_new_cluster(cluster);
        let run = (1..count).find(|step| self.is_new_cluster(cluster.plus(*step)) != new);
        (new, run.unwrap_or(count))
    }

    /// Sets (`used`) or clears bits of a group, with all the counts that follow.
    pub(super) fn change_bits(
        &mut self,
        allocator: BlockNo,
        group: BlockNo,
        run: Run,
        used: bool,
    ) -> Result<()> {
        let mut desc = self.edit::<GroupDesc>(group)?;
        let chain = desc.bg_chain.get();
        let size = usize::from(desc.bg_size.get());
        let bits = u32::from(desc.bg_bits.get());
        let free = desc.bg_free_bits_count.get();
        let end = run.first.checked_add(run.len).filter(|end| *end <= bits);
        let changed = match desc.bytes_mut().get_mut(GROUP_BITMAP..GROUP_BITMAP + size) {
            Some(bitmap) if end.is_some() => set_bits(bitmap, run, used),
            _ => 0,
        };
        let delta = u16::try_from(changed).unwrap_or(u16::MAX);
        let after = if used {
            free.checked_sub(delta)
        } else {
            free.checked_add(delta)
        };
        let (Some(after), true) = (after, changed == run.len) else {
            let rule = "its bitmap and its count of free bits disagree with the volume";
            let kind = FaultKind::Field {
                field: "bg_free_bits_count",
                value: free.into(),
                rule,
            };
            return Err(kind.at(group).into());
        };
        desc.bg_free_bits_count = after.into();
        desc.bg_contig_free_bits = 0.into();

        let mut inode = self.edit::<Dinode>(allocator)?;
        let low = inode.id1_low.get();
        let low = if used {
            low.checked_add(changed)
        } else {
            low.checked_sub(changed)
        };
        let body = inode.bytes().get(DINODE_HEAD..).unwrap_or_default();
        let rec = ChainsView::parse(body).and_then(|c| c.recs.get(usize::from(chain)).copied());
        let c_free = rec.and_then(|rec| {
            let free = rec.c_free.get();
            if used {
                free.checked_sub(changed)
            } else {
                free.checked_add(changed)
            }
        });
        let (Some(low), Some(c_free)) = (low, c_free) else {
            let rule = "the counts of the allocator disagree with its groups";
            let kind = FaultKind::Field {
                field: "c_free",
                value: chain.into(),
                rule,
            };
            return Err(kind.at(allocator).into());
        };
        inode.id1_low = low.into();
        let at = DINODE_HEAD + 16 + usize::from(chain) * size_of::<ChainRec>();
        if let Some(place) = inode.bytes_mut().get_mut(at..at + 4) {
            place.copy_from_slice(&c_free.to_le_bytes());
        }
        Ok(())
    }

    /// Frees a run of clusters when the transaction commits.
    pub(crate) fn free_clusters_at_commit(&mut self, first: ClusterNo, count: u32) {
        if count > 0 {
            self.clusters.freed.insert(first.0, count);
        }
    }

    /// Frees the clusters of an extent of `owner` when the transaction commits.
    ///
    /// # Errors
    /// The extent lies outside of the volume.
    pub(crate) fn free_extent(&mut self, owner: BlockNo, extent: &Extent) -> Result<()> {
        self.require_inside(owner, extent)?;
        self.free_clusters_at_commit(self.info.geo.cluster_of(extent.blkno), extent.clusters);
        Ok(())
    }

    /// An error unless an extent of `owner` lies inside the volume.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn require_inside(&self, owner: BlockNo, extent: &Extent) -> Result<()> {
        let geo = &self.info.geo;
        let blocks = u64::from(extent.clusters) * geo.blocks_per_cluster();
        if geo.contains(extent.blkno, blocks) {
            return Ok(());
        }
        let rule = "an extent lies outside of the volume";
        let value = extent.blkno.0;
        let field = "e_blkno";
        Err(FaultKind::Field { field, value, rule }.at(owner).into())
    }

    /// How many groups have clusters that the commit will free, at most.
    pub(super) fn groups_to_free(&self) -> usize {
        let cpg = self.info.geo.clusters_per_group();
        let mut groups = 0;
        let mut next = 0;
        for (first, count) in &self.clusters.freed {
            let from = (first / cpg).max(next);
            let end = first.saturating_add(*count).div_ceil(cpg);
            groups += end.saturating_sub(from);
            next = next.max(end);
        }
        // And the bitmap's inode.
        groups as usize + usize::from(groups > 0)
    }

    /// Clears the bits of all clusters that were freed.
    pub(super) fn apply_freed_clusters(&mut self) -> Result<()> {
        let freed = std::mem::take(&mut self.clusters.freed);
        if freed.is_empty() {
            return Ok(());
        }
        let bitmap = self.global_bitmap()?;
        let geo = self.info.geo;
        let cpg = geo.clusters_per_group();
        for (first, count) in freed {
            let mut at = first;
            let end = first.saturating_add(count);
            while at < end {
                let group = at / cpg;
                let stop = end.min((group + 1).saturating_mul(cpg));
                let run = Run {
                    first: at - group * cpg,
                    len: stop - at,
                };
                self.change_bits(bitmap, geo.group_block(group), run, false)?;
                at = stop;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_found_as_a_plain_search_finds_them(
            bitmap in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 1..40),
            cut in 0u32..8, min in 1u32..40, extra in 0u32..40,
        ) {
            let bits = u32::try_from(bitmap.len()).unwrap() * 8 - cut;
            let max = min + extra;
            let clear = |bit: u32| bitmap[bit as usize / 8] >> (bit % 8) & 1 == 0;
            let expected = (0..bits)
                .filter(|&first| clear(first) && (first == 0 || !clear(first - 1)))
                .map(|first| Run { first, len: (first..bits).take_while(|&b| clear(b)).fold(0, |n, _| n + 1) })
                .find(|run| run.len >= min)
                .map(|run| Run { len: run.len.min(max), ..run });
            prop_assert_eq!(find_clear(&bitmap, bits, min, max), expected);
        }
    }

    #[test]
    fn a_group_whose_count_is_wrong_is_refused() {
        let mut bytes = vec![0u8; 512];
        let (desc, bitmap) =
            <GroupDesc as zerocopy::FromBytes>::mut_from_prefix(&mut bytes).unwrap();
        bitmap[..3].copy_from_slice(&[0xFF, 0x01, 0xF8]);
        desc.bg_bits = 19.into();
        // Nine of the first nineteen bits are set; those behind do not count.
        for (free, sound) in [(10, true), (9, false), (11, false), (20, false)] {
            desc.bg_free_bits_count = free.into();
            let said = require_counted(desc, bitmap, BlockNo(1));
            assert_eq!(said.is_ok(), sound, "{free}");
        }
        desc.bg_bits = 0xFFFF.into();
        require_counted(desc, bitmap, BlockNo(1)).unwrap_err();
    }
}
