//! Slot map and heartbeat.

use zerocopy::little_endian::{U32, U64};

use super::{Kind, layout};

layout! {
    /// A slot of the extended slot map. (The old form is an array of 16-bit node numbers, `0xFFFF`
    /// for a free slot.)
    ExtendedSlot [8] {
        /// 1 while a node holds the slot.
        0x00 es_valid: u8;
        /// Zero.
        0x01 es_reserved1: [u8; 3] = Kind::Reserved;
        /// The node.
        0x04 es_node_num: U32;
    }
}

/// Number of blocks of the heartbeat file: one a node, and one more.
pub const HEARTBEAT_BLOCKS: u64 = 256;

layout! {
    /// A node's heartbeat: the start of sector *n* of the heartbeat file.
    HeartbeatBlock [0x20] {
        /// Time of the write; a node whose value changes is alive.
        0x00 hb_seq: U64 = Kind::Time;
        /// The node.
        0x08 hb_node: u8;
        /// Padding.
        0x09 hb_pad: [u8; 3] = Kind::Reserved;
        /// CRC32 of the sector with this as zero; begun with zero, not inverted.
        0x0C hb_cksum: U32 = Kind::Hex;
        /// Random, new at each start of the node; 0 in the last record of one that stops in order.
        0x10 hb_generation: U64 = Kind::Hex;
        /// Milliseconds after which a silent node is taken for dead.
        0x18 hb_dead_ms: U32;
        /// Padding.
        0x1C hb_pad1: U32 = Kind::Reserved;
    }
}
