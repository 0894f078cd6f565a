//! The files of a new volume: allocators, and inodes with their extents.

use cowfs_format::error::{Error, Result};
use cowfs_format::units::{BlockNo, ClusterNo, Geometry};

use crate::space::Space;

/// A run of clusters of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First logical cluster.
    pub cpos: u32,
    /// Number of clusters.
    pub len: u32,
    /// First physical cluster.
    pub start: ClusterNo,
}

/// A block taken from an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub block: BlockNo,
    /// Its bit in its group.
    pub bit: u16,
    /// The group's descriptor.
    pub group: BlockNo,
}

/// A group of an inode or extent allocator.
#[derive(Clone, Copy, Debug)]
pub struct SubGroup {
    /// The descriptor.
    pub block: BlockNo,
    /// Next group of the chain.
    pub next: BlockNo,
    /// Chain.
    pub chain: u16,
    /// Bits in use: the first ones.
    pub used: u16,
}

/// An inode or extent allocator.
#[derive(Clone, Debug)]
pub struct SubAlloc {
    /// Clusters of a group.
    pub group_clusters: u32,
    /// Bits of a group.
    pub group_bits: u32,
    /// Chains that the inode has room for.
    pub chain_capacity: usize,
    /// The groups, in order of their blocks.
    pub groups: Vec<SubGroup>,
    /// Groups that are full.
    full: usize,
}

/// A chain of an allocator: free bits, all bits, first group.
pub(crate) type Chain = (u32, u32, BlockNo);

impl SubAlloc {
    /// An allocator without groups.
    pub fn new(geo: &Geometry, group_clusters: u32) -> Self {
        let bits = u64::from(group_clusters) * geo.blocks_per_cluster();
        Self {
            group_clusters,
            group_bits: u32::try_from(bits).unwrap_or(u32::MAX),
            chain_capacity: chain_capacity(geo),
            groups: Vec::new(),
            full: 0,
        }
    }

    /// Adds a group, as the head of the next chain in turn.
    pub fn grow(&mut self, geo: &Geometry, space: &mut Space, what: &str) -> Result<()> {
        let (start, _) = space.take(self.group_clusters, self.group_clusters, what)?;
        let turn = self.groups.len() % self.chain_capacity;
        let next = match self.groups.len().checked_sub(self.chain_capacity) {
            Some(previous) => self.groups.get(previous).map_or(BlockNo(0), |g| g.block),
            None => BlockNo(0),
        };
        self.groups.push(SubGroup {
            block: geo.first_block(start),
            next,
            chain: u16::try_from(turn).unwrap_or(u16::MAX),
            used: 1,
        });
        Ok(())
    }

    /// Takes a block, after adding a group if need be.
    pub fn take(&mut self, geo: &Geometry, space: &mut Space, what: &str) -> Result<Place> {
        loop {
            let Some(group) = self.groups.get_mut(self.full) else {
                self.grow(geo, space, what)?;
                continue;
            };
            if u32::from(group.used) >= self.group_bits {
                self.full += 1;
                continue;
            }
            let bit = group.used;
            group.used += 1;
            return Ok(Place {
                block: group.block.plus(u64::from(bit)),
                bit,
                group: group.block,
            });
        }
    }

    /// All bits of all groups.
    pub fn total(&self) -> u32 {
        let groups = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        groups.saturating_mul(self.group_bits)
    }

    /// Bits in use.
    pub fn used(&self) -> u32 {
        self.groups.iter().map(|group| u32::from(group.used)).sum()
    }

    /// Clusters of all groups.
    pub fn clusters(&self) -> u32 {
        let groups = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        groups.saturating_mul(self.group_clusters)
    }

    /// The chains.
    pub fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![(0, 0, BlockNo(0)); self.groups.len().min(self.chain_capacity)];
        for group in &self.groups {
            if let Some((free, total, first)) = chains.get_mut(usize::from(group.chain)) {
                *free += self.group_bits - u32::from(group.used);
                *total += self.group_bits;
                *first = group.block;
            }
        }
        chains
    }
}

/// Chain records that an inode has room for.
pub(crate) const fn chain_capacity(geo: &Geometry) -> usize {
    (geo.block_bytes() - 0xD0) / 16
}

/// Extent records that an inode has room for.
pub(crate) const fn inode_extents(geo: &Geometry) -> usize {
    (geo.block_bytes() - 0xD0) / 16
}

/// Extent records that an extent block has room for.
pub(crate) const fn block_extents(geo: &Geometry) -> usize {
    (geo.block_bytes() - 0x40) / 16
}

/// Where a file's clusters are.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The extents, in order.
    pub extents: Vec<Extent>,
    /// Extent blocks, left to right, when the extents do not fit into the inode.
    pub leaves: Vec<Place>,
}

impl Tree {
    /// Clusters mapped.
    pub fn clusters(&self) -> u32 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// First cluster.
    pub fn first(&self) -> Option<ClusterNo> {
        self.extents.first().map(|extent| extent.start)
    }

    /// The block that holds a logical block.
    pub fn block(&self, geo: &Geometry, logical: u64) -> Option<BlockNo> {
        let bpc = geo.blocks_per_cluster();
        let cpos = u32::try_from(logical / bpc).ok()?;
        let extent = self
            .extents
            .iter()
            .find(|extent| (extent.cpos..extent.cpos + extent.len).contains(&cpos))?;
        let cluster = ClusterNo(extent.start.0 + (cpos - extent.cpos));
        Some(geo.first_block(cluster).plus(logical % bpc))
    }

    /// Appends `count` clusters, in as few runs as the free space allows. Extent blocks, where they
    /// are needed, come from `blocks`.
    pub fn extend(
        &mut self,
        geo: &Geometry,
        space: &mut Space,
        blocks: &mut SubAlloc,
        count: u32,
        what: &str,
    ) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let (start, len) = space.take(1, left, what)?;
            self.append(geo, space, blocks, start, len, what)?;
            left -= len;
        }
        Ok(())
    }

    fn append(
        &mut self,
        geo: &Geometry,
        space: &mut Space,
        blocks: &mut SubAlloc,
        start: ClusterNo,
        len: u32,
        what: &str,
    ) -> Result<()> {
        if let Some(last) = self.extents.last_mut()
            && last.start.0 + last.len == start.0
        {
            last.len += len;
            return Ok(());
        }
        let room = if self.leaves.is_empty() {
            inode_extents(geo)
        } else {
            self.leaves.len() * block_extents(geo)
        };
        if self.extents.len() == room {
            if self.leaves.len() == inode_extents(geo) {
                return Err(Error::Input {
                    what: format!("{what} would be in too many pieces; use larger blocks (-b)"),
                });
            }
            // A full inode's list moves to an extent block as it is; a full extent block gets
            // a right neighbour.
            self.leaves.push(blocks.take(geo, space, what)?);
        }
        let cpos = self.clusters();
        self.extents.push(Extent { cpos, len, start });
        Ok(())
    }
}
