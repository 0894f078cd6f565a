//! Heartbeats: what nodes of a cluster write, every two seconds, to show that they live.
//!
//! Node *n* writes sector *n* of the heartbeat file (a sector of the device: 512 or 4096 bytes,
//! whatever the block size). Records stay when a node goes; one that goes in order says so in its
//! last record. Any other record says only that its node was there once. A node is alive if its record changes: that takes two looks, a while apart. The
//! record's own time is by the node's clock and proves nothing.

use zerocopy::FromBytes;

use crate::block::View;
use crate::device::Device;
use crate::error::Result;
use crate::layout::{HEARTBEAT_BLOCKS, HeartbeatBlock};
use crate::read::runs::Runs;
use crate::units::BlockNo;

/// Smallest sector of a device.
const SECTOR: usize = 512;
/// Nodes that a cluster can have.
const NODES: usize = 255;
/// Largest sector of a device.
const LARGEST_SECTOR: usize = 4096;

/// Where the heartbeats are on the device, from the inode of the heartbeat file.
///
/// # Errors
/// The file is damaged.
pub fn region(view: View<'_>, heartbeat: BlockNo) -> Result<Runs> {
    let blocks = HEARTBEAT_BLOCKS * view.geo().block_bytes() as u64;
    Runs::find(view, heartbeat, blocks.min((NODES * LARGEST_SECTOR) as u64))
}

/// The heartbeats of all nodes at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    bytes: Vec<u8>,
}

/// What a node has written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Sector of 512 bytes where it stands.
    pub sector: usize,
    /// The node.
    pub node: u8,
    /// When it was written, in seconds by the node's clock.
    pub seq: u64,
    /// Random, new at each start of the node; 0 when it has left.
    pub generation: u64,
    /// The check as stored.
    pub checksum: u32,
    /// Whether the check matches.
    pub intact: bool,
    /// Milliseconds of silence after which the cluster takes the node for dead.
    pub dead_ms: u32,
}

impl Beat {
    /// Whether the node has said that it goes: the last record of a node that stops in order has
    /// generation 0.
    #[must_use]
    pub const fn left(&self) -> bool {
        self.intact && self.generation == 0
    }
}

impl Sample {
    /// Reads the region as the medium holds it now.
    ///
    /// # Errors
    /// The device fails.
    pub fn take(device: &(impl Device + ?Sized), region: &Runs) -> Result<Self> {
        let bytes = region.read_fresh(device)?;
        Ok(Self { bytes })
    }

    /// The records of nodes that ever wrote one.
    #[must_use]
    pub fn beats(&self) -> Vec<Beat> {
        let sectors = self.bytes.chunks_exact(SECTOR).enumerate();
        sectors
            .filter_map(|(sector, bytes)| {
                let at = sector * SECTOR;
                let large = self.bytes.get(at..at.saturating_add(LARGEST_SECTOR));
                let (block, _) = HeartbeatBlock::ref_from_prefix(bytes).ok()?;
                (block.hb_seq.get() != 0).then(|| Beat {
                    sector,
                    node: block.hb_node,
                    seq: block.hb_seq.get(),
                    generation: block.hb_generation.get(),
                    checksum: block.hb_cksum.get(),
                    intact: [Some(bytes), large]
                        .into_iter()
                        .flatten()
                        .any(|sector| block.hb_cksum.get() == checksum(sector)),
                    dead_ms: block.hb_dead_ms.get(),
                })
            })
            .collect()
    }

    /// The nodes whose sectors are not what they were in an earlier sample: they are alive.
    #[must_use]
    pub fn changed_since(&self, earlier: &Self) -> Vec<u8> {
        let pairs = self.bytes.chunks(SECTOR).zip(earlier.bytes.chunks(SECTOR));
        let mut nodes: Vec<u8> = pairs
            .filter(|(now, then)| now != then)
            .filter_map(|(now, _)| Some(HeartbeatBlock::ref_from_prefix(now).ok()?.0.hb_node))
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// CRC-32 of a sector with its check taken as zero; the start value is zero, and the end is not
/// inverted.
fn checksum(sector: &[u8]) -> u32 {
    const CHECK: std::ops::Range<usize> = 0x0C..0x10;
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::MAX);
    hasher.update(sector.get(..CHECK.start).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(sector.get(CHECK.end..).unwrap_or_default());
    !hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that Linux 6.1 wrote.
    #[test]
    fn the_check_is_that_of_the_driver() {
        let mut bytes = vec![0; 1024];
        bytes[..8].copy_from_slice(&1_795_397_237u64.to_le_bytes());
        bytes[0x0C..0x10].copy_from_slice(&2_994_906_514u32.to_le_bytes());
        bytes[0x10..0x18].copy_from_slice(&6_791_224_668_063_006_194u64.to_le_bytes());
        bytes[0x18..0x1C].copy_from_slice(&16_000u32.to_le_bytes());
        let sample = Sample { bytes };
        let beats = sample.beats();
        assert!(beats.len() == 1 && beats[0].intact, "{beats:?}");
        let mut later = sample.clone();
        later.bytes[512 + 8] = 1;
        assert_eq!(later.changed_since(&sample), [1]);
        assert_eq!(later.changed_since(&later), [0; 0]);
    }
}
