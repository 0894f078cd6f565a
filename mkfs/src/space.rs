//! Clusters of the volume being planned: which are taken, and taking more.
//!
//! The cluster groups of a new volume nearly all look alike, so only those from which something
//! was taken are kept, as sorted runs. Allocation is the one of `mkfs.ocfs2`: in each group in
//! order, the first run that is long enough, else the longest that is acceptable.

use std::collections::BTreeMap;

use cowfs_format::error::{Error, Result};
use cowfs_format::units::{ClusterNo, Geometry};

/// A run of taken clusters in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First bit in the group.
    pub start: u32,
    /// Number of bits.
    pub len: u32,
}

/// Taken clusters.
#[derive(Debug)]
pub struct Space {
    geo: Geometry,
    touched: BTreeMap<u32, Vec<Run>>,
    used: u32,
    /// No group before this one has a free cluster.
    open: u32,
}

impl Space {
    /// A volume in which only the superblock's clusters and the group descriptors are taken.
    pub fn new(geo: Geometry) -> Self {
        let first = Run {
            start: 0,
            len: geo.first_group_cluster().0 + 1,
        };
        Self {
            geo,
            touched: BTreeMap::from([(0, vec![first])]),
            used: (geo.cluster_groups() + first.len).saturating_sub(1),
            open: 0,
        }
    }

    /// Number of taken clusters.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Groups from which something was taken, with their taken runs.
    pub fn touched(&self) -> impl Iterator<Item = (u32, &[Run])> {
        self.touched.iter().map(|(group, runs)| (*group, &runs[..]))
    }

    /// Taken runs of a group.
    pub fn runs(&self, group: u32) -> &[Run] {
        self.touched
            .get(&group)
            .map_or(&[Run { start: 0, len: 1 }], |runs| &runs[..])
    }

    /// Bits of a group.
    pub fn bits(&self, group: u32) -> u32 {
        let before = group.saturating_mul(self.geo.clusters_per_group());
        self.geo
            .clusters()
            .saturating_sub(before)
            .min(self.geo.clusters_per_group())
    }

    /// Free bits of a group.
    pub fn free(&self, group: u32) -> u32 {
        let taken: u32 = self.runs(group).iter().map(|run| run.len).sum();
        self.bits(group).saturating_sub(taken)
    }

    /// Takes `wanted` clusters in a row, or the most that one group has in a row if that is `least`
    /// or more. Tells the first one and the number.
    pub fn take(&mut self, least: u32, wanted: u32, what: &str) -> Result<(ClusterNo, u32)> {
        while self.open < self.geo.cluster_groups() && self.free(self.open) == 0 {
            self.open += 1;
        }
        for group in self.open..self.geo.cluster_groups() {
            if self.free(group) < least {
                continue;
            }
            if let Some(run) = self.find(group, least, wanted) {
                self.mark(group, run);
                let first = group * self.geo.clusters_per_group() + run.start;
                return Ok((ClusterNo(first), run.len));
            }
        }
        Err(Error::Input {
            what: format!(
                "the volume is too small: no room for {what}; make it larger, or the journals \
                 smaller (-J size=), or use fewer node slots (-N) or smaller clusters (-C)"
            ),
        })
    }

    /// Takes one particular cluster.
    pub fn take_at(&mut self, cluster: ClusterNo) {
        let cpg = self.geo.clusters_per_group();
        self.mark(
            cluster.0 / cpg,
            Run {
                start: cluster.0 % cpg,
                len: 1,
            },
        );
    }

    /// Cuts the volume down to another geometry, of fewer clusters.
    pub(crate) fn cut(&mut self, geo: Geometry) {
        self.geo = geo;
        self.touched
            .retain(|group, _| *group < geo.cluster_groups());
        let last = geo.cluster_groups().saturating_sub(1);
        let bits = self.bits(last);
        if let Some(runs) = self.touched.get_mut(&last) {
            runs.retain(|run| run.start < bits);
            for run in runs {
                run.len = run.len.min(bits - run.start);
            }
        }
        self.used = (0..geo.cluster_groups())
            .map(|group| self.bits(group) - self.free(group))
            .sum();
    }

    /// A free run in a group.
    fn find(&self, group: u32, least: u32, wanted: u32) -> Option<Run> {
        let mut best: Option<Run> = None;
        let mut start = 0;
        let end = Run {
            start: self.bits(group),
            len: 0,
        };
        for taken in self.runs(group).iter().chain([&end]) {
            let len = taken.start.saturating_sub(start);
            if len >= wanted {
                return Some(Run { start, len: wanted });
            }
            if len >= least && len > best.map_or(0, |b| b.len) {
                best = Some(Run { start, len });
            }
            start = taken.start + taken.len;
        }
        best
    }

    /// Marks a free run as taken.
    fn mark(&mut self, group: u32, run: Run) {
        let runs = self
            .touched
            .entry(group)
            .or_insert_with(|| vec![Run { start: 0, len: 1 }]);
        let at = runs.partition_point(|r| r.start < run.start);
        runs.insert(at, run);
        // Joins what now touches.
        if let Some(next) = runs.get(at + 1).copied()
            && run.start + run.len == next.start
        {
            runs[at].len += next.len;
            runs.remove(at + 1);
        }
        if at > 0 && runs[at - 1].start + runs[at - 1].len == runs[at].start {
            runs[at - 1].len += runs[at].len;
            runs.remove(at);
        }
        self.used += run.len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_taken_and_joined() {
        let geo = Geometry::new(9, 12, 5000).unwrap();
        let mut space = Space::new(geo);
        assert_eq!(space.used(), 3);
        assert_eq!(space.take(10, 10, "x").unwrap(), (ClusterNo(2), 10));
        space.take_at(ClusterNo(100));
        // 12..100 is too short for 200 in a row, but will do when 50 are enough...
        assert_eq!(space.take(200, 200, "x").unwrap(), (ClusterNo(101), 200));
        assert_eq!(space.take(50, 100, "x").unwrap(), (ClusterNo(301), 100));
        // ...and nothing longer is left in the group.
        assert_eq!(space.take(3183, 4000, "x").unwrap(), (ClusterNo(401), 3183));
        assert_eq!(space.take(1, 4000, "x").unwrap(), (ClusterNo(12), 88));
        assert_eq!(
            space.runs(0),
            [Run {
                start: 0,
                len: 3584
            }]
        );
        assert_eq!(space.take(1, 1, "x").unwrap(), (ClusterNo(3585), 1));
        assert_eq!(space.used(), 3584 + 2);
        assert_eq!(space.bits(1), 5000 - 3584);
        assert!(space.take(2000, 2000, "x").is_err());
    }
}
