//! Numbers with a kind, and the geometry that converts between them.
//!
//! Every quantity the format stores has a unit, and mixing two units is the classic mistake of
//! block-level tools. Block and cluster numbers, logical clusters, slots and generations are
//! therefore types of their own; [`Geometry`] is the only place that converts one to another.
//! All arithmetic here saturates: the operands come from disk.

use std::fmt;

macro_rules! unit {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The number `count` further on, saturating.
            #[must_use]
            pub const fn plus(self, count: $inner) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// How far this number lies behind `start`; 0 when it lies before it.
            #[must_use]
            pub const fn since(self, start: Self) -> $inner {
                self.0.saturating_sub(start.0)
            }
        }
    };
}

unit! {
    /// A block number, in units of the block size, from the start of the device.
    BlockNo(u64)
}
unit! {
    /// A physical cluster number, in units of the cluster size, from the start of the device.
    ClusterNo(u32)
}
unit! {
    /// A logical cluster: a position inside a file (or in the key space of an extent tree).
    Cpos(u32)
}
unit! {
    /// A node slot, `0..s_max_slots`. [`Slot::GLOBAL`] stands for the global inode allocator.
    Slot(u16)
}
unit! {
    /// A 32-bit generation: of the volume, an inode or a refcount tree.
    Generation(u32)
}

impl Slot {
    /// The value that `i_suballoc_slot` holds for inodes of `global_inode_alloc`.
    pub const GLOBAL: Self = Self(0xFFFF);
}

/// Block size, cluster size and size of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block_bits: u32,
    cluster_bits: u32,
    clusters: u32,
}

impl Geometry {
    /// Smallest and largest legal log2 of the block size (512 bytes to 4 KiB).
    pub const BLOCK_BITS: std::ops::RangeInclusive<u32> = 9..=12;
    /// Smallest and largest legal log2 of the cluster size (4 KiB to 1 MiB).
    pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 12..=20;

    /// A geometry, when the sizes are legal.
    #[must_use]
    pub fn new(block_bits: u32, cluster_bits: u32, clusters: u32) -> Option<Self> {
        (Self::BLOCK_BITS.contains(&block_bits) && Self::CLUSTER_BITS.contains(&cluster_bits))
            .then_some(Self {
                block_bits,
                cluster_bits,
                clusters,
            })
    }

    /// log2 of the block size.
    #[must_use]
    pub const fn block_bits(&self) -> u32 {
        self.block_bits
    }

    /// log2 of the cluster size.
    #[must_use]
    pub const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        1 << self.block_bits
    }

    /// Bytes of a cluster.
    #[must_use]
    pub const fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Blocks of a cluster.
    #[must_use]
    pub const fn blocks_per_cluster(&self) -> u64 {
        1 << (self.cluster_bits - self.block_bits)
    }

    /// Clusters of the volume.
    #[must_use]
    pub const fn clusters(&self) -> u32 {
        self.clusters
    }

    /// Blocks of the volume; a tail of the device smaller than a cluster does not belong to it.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        u64::from(self.clusters) << (self.cluster_bits - self.block_bits)
    }

    /// Bytes of the volume.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.clusters) << self.cluster_bits
    }

    /// First block of a cluster.
    #[must_use]
    pub fn first_block(&self, cluster: ClusterNo) -> BlockNo {
        BlockNo(u64::from(cluster.0) << (self.cluster_bits - self.block_bits))
    }

    /// Cluster that holds a block; saturates for blocks that no volume can have.
    #[must_use]
    pub fn cluster_of(&self, block: BlockNo) -> ClusterNo {
        let cluster = block.0 >> (self.cluster_bits - self.block_bits);
        ClusterNo(u32::try_from(cluster).unwrap_or(u32::MAX))
    }

    /// Byte offset of a block on the device.
    #[must_use]
    pub const fn byte_of(&self, block: BlockNo) -> u64 {
        block.0.saturating_mul(1 << self.block_bits)
    }

    /// Whether `count` blocks from `block` on lie inside the volume.
    #[must_use]
    pub fn contains(&self, block: BlockNo, count: u64) -> bool {
        block
            .0
            .checked_add(count)
            .is_some_and(|end| end <= self.blocks())
    }

    /// Whether a block is the first one of a cluster.
    #[must_use]
    pub const fn is_cluster_aligned(&self, block: BlockNo) -> bool {
        block.0.is_multiple_of(self.blocks_per_cluster())
    }

    /// Clusters that `bytes` bytes take.
    #[must_use]
    pub const fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(1 << self.cluster_bits)
    }

    /// Blocks that `bytes` bytes take.
    #[must_use]
    pub const fn blocks_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(1 << self.block_bits)
    }

    /// Clusters of a full cluster group: one bit each in a descriptor of one block.
    #[must_use]
    pub const fn clusters_per_group(&self) -> u32 {
        ((1u32 << self.block_bits) - 64) * 8
    }

    /// Number of cluster groups of the volume.
    #[must_use]
    pub const fn cluster_groups(&self) -> u32 {
        self.clusters.div_ceil(self.clusters_per_group())
    }

    /// Cluster that holds the descriptor of cluster group 0: the first one behind the superblock.
    #[must_use]
    pub const fn first_group_cluster(&self) -> ClusterNo {
        ClusterNo(if self.cluster_bits - self.block_bits >= 2 {
            1
        } else {
            3u32.div_ceil(1 << (self.cluster_bits - self.block_bits))
        })
    }

    /// Block of the descriptor of cluster group `group`.
    #[must_use]
    pub fn group_block(&self, group: u32) -> BlockNo {
        if group == 0 {
            self.first_block(self.first_group_cluster())
        } else {
            self.first_block(ClusterNo(group.saturating_mul(self.clusters_per_group())))
        }
    }

    /// Byte offsets of the backup superblocks that lie inside the volume (1 GiB times powers of 4).
    pub fn backup_offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let bytes = self.bytes();
        (0..6)
            .map(|i| 1u64 << (30 + 2 * i))
            .take_while(move |&offset| offset < bytes)
    }
}

/// A `u64` as an index; saturates where `usize` is narrower, so that a bounds check refuses it.
#[must_use]
pub fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The low 16 bits.
#[must_use]
pub const fn low16(value: u64) -> u16 {
    let b = value.to_le_bytes();
    u16::from_le_bytes([b[0], b[1]])
}

/// The low 32 bits.
#[must_use]
pub const fn low32(value: u64) -> u32 {
    let b = value.to_le_bytes();
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_matches_the_examples_of_the_format() {
        // (block size, cluster size) -> block of the first cluster group, as mkfs.ocfs2 places it.
        for (block_bits, cluster_bits, block) in [
            (10, 12, 4),
            (11, 13, 4),
            (12, 15, 8),
            (9, 12, 8),
            (12, 12, 3),
            (11, 12, 4),
        ] {
            let geo = Geometry::new(block_bits, cluster_bits, 1 << 16).unwrap();
            assert_eq!(
                geo.group_block(0),
                BlockNo(block),
                "{block_bits}/{cluster_bits}"
            );
        }
        let geo = Geometry::new(12, 12, 1 << 20).unwrap();
        assert_eq!(geo.clusters_per_group(), 32256);
        assert_eq!(geo.backup_offsets().collect::<Vec<_>>(), [1 << 30]);
    }
}
