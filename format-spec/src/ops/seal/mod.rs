//! The seal: redundancy over all metadata of a volume (and over what its files hold, on demand), from
//! which whole lost blocks come back. Its bytes are described in `layout/seal.rs`.
//!
//! # The construction
//!
//! Each protected block is one data shard of a group of 100; `PERCENT` parity shards of a block each
//! belong to a group (Reed and Solomon over GF(2^8)), so that any `PERCENT` blocks of a group can be
//! lost. Slots are numbered in the order of the blocks on the volume, and slot *s* belongs to group
//! *s mod G*: neighbours lie in different groups. The parity lies in one piece where the volume has
//! room for that, and its blocks take their turns as if they were slots at that place. Of a run of
//! consecutive blocks of the volume, group *g* then has every *G*-th member at the most, whether it is
//! data or parity, and so every run of up to
//!
//! ```text
//! L = parity shards x G,   G = groups >= protected blocks / 100
//! ```
//!
//! blocks can be lost as a whole. Protected blocks that do not lie side by side make that longer,
//! and clusters in several pieces, or renewed seals in which new blocks took free slots, may make it
//! shorter; so `sh_run` has the exact length, which is computed from the list: the least distance,
//! over all groups, between a member and the one that is *parity shards* further on. (The table has
//! three copies, before and behind the parity, and no such run meets both.)
//!
//! # How a seal is found
//!
//! It does not trust what it protects. The list of blocks, where the seal's own blocks lie, and the
//! sizes of the volume are part of it. By its name in the system directory it is found quickly. When
//! that is gone, a search of the whole device finds the blocks of its tables, each of which says
//! which seal of which volume it belongs to, and where it lies.
//!
//! # What is newer than the seal
//!
//! **Invariant:** what changed since the volume was sealed is never put back. A block that does not
//! match its sum is
//!
//! - *newer*, when it is sound by itself: its signature, number, generation and check are right. On a
//!   volume without checks the first three must do, so there a block whose head is whole is never
//!   taken for lost: that is the limit there.
//! - *lost* otherwise; but a block in clusters (of a directory, an index, attributes, file contents)
//!   may serve another file by now. It is lost only if the inode that led to it is as it was, or if
//!   no block of the whole volume is newer than the seal.
//!
//! A newer block counts as missing for its group, as a lost one does. What comes back is compared with
//! its sum. The journals must be empty when a volume is sealed, and are replayed before a seal is
//! looked at.
//!
//! # Making and renewing
//!
//! The file is made by a transaction like any other and filled afterwards; the first block of the
//! table, without which there is no seal, is written last, and the copies one after the other. A
//! renewed seal keeps each block in its slot, and codes only groups anew in which a sum differs. A
//! run that is stopped there leaves the old tables in at least one copy; the parity that was written
//! already does not match them, and counts as missing.

mod check;
mod code;
mod cover;
mod find;
mod list;
mod make;
mod restore;
mod shape;
mod store;
mod write;

pub use check::{Mismatch, State, Verified, verify};
pub use cover::find_seal;
pub use find::{Found, Seal};
pub use list::{Guard, List, Run, Span};
pub use make::{Beside, reseal, seal, unseal};
pub use restore::{Restored, restore};
pub use shape::{DATA_SHARDS, MOST_PARITY, Shape};

use serde::Serialize;

use crate::txn::Timestamp;

/// How a volume is sealed.
#[derive(Clone, Copy, Debug)]
pub struct SealOptions {
    /// Parity in percent of what is protected, 1 to 100.
    pub percent: u16,
    /// Whether what files hold is protected, too.
    pub data: bool,
    /// The time that the seal says.
    pub now: Timestamp,
}

/// What was sealed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sealed {
    /// Protected blocks.
    pub blocks: u64,
    /// Groups.
    pub groups: u64,
    /// Groups that were coded.
    pub renewed: u64,
    /// Data shards of a group.
    pub data_shards: u16,
    /// Parity shards of a group.
    pub parity_shards: u16,
    /// The longest run of consecutive blocks that can be lost.
    pub run: u64,
    /// Bytes of the seal.
    pub bytes: u64,
    /// Whether it stands beside the volume.
    pub beside: bool,
}

/// Is told how far a seal is.
pub trait Watch: Sync {
    /// A pass of so many steps begins.
    fn pass(&self, steps: u64) {
        let _ = steps;
    }
    /// Steps were done.
    fn step(&self, steps: u64) {
        let _ = steps;
    }
}

impl Watch for () {}
