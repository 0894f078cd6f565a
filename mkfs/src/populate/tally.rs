//! How much space a source will take, about: counted by passing through it once.
//!
//! Data is counted to the cluster, for each size of clusters at once; what is around it (directories
//! and their indexes, extents, attributes) is rounded up.

use std::collections::HashMap;

use anyhow::Result;
use cowfs_format::units::Geometry;

use super::{Member, Rules, Source, What, split};
use crate::sizes::suballoc_group_clusters;

/// Sizes of clusters.
const SIZES: usize = 9;
/// log2 of the smallest one.
const FIRST: u32 = *Geometry::CLUSTER_BITS.start();
/// Files up to this size may lie in their inodes, depending on the size of blocks.
const SMALL: usize = 4096;

/// What a source holds.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Inodes.
    inodes: u64,
    /// Clusters of data, for each size of clusters, of files that lie in no inode.
    clusters: [u64; SIZES],
    /// Files and links up to 4 KiB by their size.
    small: Vec<u64>,
    /// Runs of files with more than a few: their records are in extent blocks.
    runs: u64,
    /// For each directory: bytes of its entries, and their number.
    directories: HashMap<Vec<u8>, (u64, u64)>,
    /// Inodes with more attributes than fit into them, and the bytes of these.
    outside: (u64, u64),
    /// Values of attributes that have clusters of their own, for each size of clusters.
    values: [u64; SIZES],
}

impl Tally {
    /// Passes through a source.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn of(source: Source, rules: &Rules) -> Result<Self> {
        let mut tally = Self {
            inodes: 0,
            clusters: [0; SIZES],
            small: vec![0; SMALL + 1],
            runs: 0,
            directories: HashMap::new(),
            outside: (0, 0),
            values: [0; SIZES],
        };
        source.each(rules, &mut |member| {
            tally.count(&member);
            Ok(())
        })?;
        Ok(tally)
    }

    fn count(&mut self, member: &Member<'_>) {
        let (parent, name) = split(&member.path);
        let entry = (12 + name.len() as u64).next_multiple_of(4);
        match self.directories.get_mut(parent) {
            Some(all) => *all = (all.0 + entry, all.1 + 1),
            None => drop(self.directories.insert(parent.to_vec(), (entry, 1))),
        }
        match &member.what {
            What::Link(_) => return,
            What::Directory => {
                self.directories.entry(member.path.clone()).or_default();
            }
            What::File(contents) => match self.small_of(contents.size()) {
                Some(place) => *place += 1,
                None => self.data(contents.runs()),
            },
            What::Symlink(target) => match self.small_of(target.len() as u64) {
                Some(place) => *place += 1,
                None => self.data(&[(0, target.len() as u64)]),
            },
            What::Node(..) => {}
        }
        self.inodes += 1;
        let mut bytes = 0;
        for (name, value) in &member.xattrs {
            let value = value.len() as u64;
            let inside = value <= 80;
            bytes += 16 + name.len() as u64 + if inside { value + 8 } else { 48 };
            if !inside {
                for (bits, count) in (FIRST..).zip(&mut self.values) {
                    *count += value.div_ceil(1 << bits);
                }
            }
        }
        if bytes > 200 {
            self.outside = (self.outside.0 + 1, self.outside.1 + bytes);
        }
    }

    fn small_of(&mut self, size: u64) -> Option<&mut u64> {
        self.small.get_mut(usize::try_from(size).ok()?)
    }

    fn data(&mut self, runs: &[(u64, u64)]) {
        for (bits, count) in (FIRST..).zip(&mut self.clusters) {
            let mut next = 0;
            for (offset, len) in runs {
                let first = (offset >> bits).max(next);
                next = offset.saturating_add(*len).div_ceil(1 << bits);
                *count = count
                    .saturating_add(next.saturating_sub(first))
                    .min(1 << 56);
            }
        }
        if runs.len() > 16 {
            self.runs += runs.len() as u64;
        }
    }

    /// Bytes that it takes on a volume.
    pub(crate) fn bytes(&self, geo: &Geometry) -> u64 {
        let block = geo.block_bytes() as u64;
        let size = cowfs_format::units::index(u64::from(geo.cluster_bits() - FIRST));
        let of = |counts: &[u64; SIZES]| counts.get(size).copied().unwrap_or(0);
        // Behind the head of an inode, and before the attributes.
        let inside = geo.block_bytes().saturating_sub(0xC8 + 256);
        let small: u64 = self.small.iter().skip(inside).sum();
        let mut clusters = of(&self.clusters) + of(&self.values) + small;
        let mut blocks = self.outside.0 + self.outside.1 / block;
        blocks += self.runs * 16 * 5 / 4 / block;
        for (bytes, entries) in self.directories.values() {
            if *bytes < block / 2 {
                continue;
            }
            clusters += geo.clusters_for(bytes * 9 / 8) + 1;
            blocks += 1;
            if entries * 16 > block {
                clusters += geo.clusters_for(entries * 16 * 3 / 2) + 1;
            }
        }
        // Both kinds of blocks come in groups.
        let group = u64::from(suballoc_group_clusters(geo));
        let per_group = (group << geo.cluster_bits()) / block - 1;
        let groups = self.inodes.div_ceil(per_group) + blocks.div_ceil(per_group);
        let all = clusters.saturating_add(groups.saturating_mul(group));
        all.saturating_mul(geo.cluster_bytes())
    }
}
