//! `reflink.cowfs` beyond single files: deduplication, trees, snapshots, machines. Judged by fsck.ocfs2,
//! fsck.cowfs, the driver, a model, and what the volume held before.
#![allow(clippy::unwrap_used)] // A test may panic.

mod dedupe;
mod kernel;
mod rig;
mod snap;
mod tree;
mod vm;
