//! The OCFS2 on-disk format: its bytes, how to read them, how to change them.
//!
//! The crate is a tower; a module uses only those above it in this list.
//!
//! | floor | what it holds |
//! |---|---|
//! | [`units`], [`time`], [`error`] | numbers with a kind, geometry, dates, errors with a place |
//! | [`layout`] | the bytes: structures, signatures, feature bits, field tables, name hashes |
//! | [`ecc`] | CRC32 and Hamming code of metadata blocks |
//! | [`device`] | files, maps, memory, overlays, faults |
//! | [`block`] | a block's identity, tested once; the read-only [`block::View`] |
//! | [`read`] | walks: extent trees, chains, directories, refcount trees, journals |
//! | [`dump`] | any block as a tree of named values that covers every byte |
//! | [`volume`] | an open volume, its system files, paths |
//! | [`txn`] | staged edits, allocators, tree edits, commit through the journal, replay |
//! | [`ops`] | whole operations: import, clone, overwrite |
//! | [`toolkit`] | what the programs share: sizes, opening with safety checks |
pub mod block;
pub mod device;
pub mod dump;
pub mod ecc;
pub mod error;
pub mod layout;
pub mod ops;
pub mod read;
pub mod time;
pub mod toolkit;
pub mod txn;
pub mod units;
pub mod volume;
