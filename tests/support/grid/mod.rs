//! The grid of damage: every kind of block × every way to lose it, on volumes full of files, and what a
//! checker makes of each.
//!
//! A [`Subject`] is a sound volume with a census of its blocks by kind and a record of what it holds. A
//! cell of the grid is a [`Place`] and a [`Harm`]: the block is damaged in an overlay, `fsck.cowfs -fy`
//! runs on it (in this process, with a limit of time), then a second time, and [`Outcome`] says what
//! was wrong with that: whatever is not clean after one run, and every file lost whose own blocks were
//! not hit. `fsck.ocfs2` is asked whether it agrees, and can be put through the same cells.

mod census;
mod contents;
mod crash;
mod foreign;
mod harm;
mod mount;
mod page;
mod run;
mod subject;
mod trial;

pub use census::{Forced, Place};
pub use contents::{Contents, Losses};
pub use crash::stops;
pub use foreign::fsck_ocfs2;
pub use harm::Harm;
pub use mount::{DISKS, mounts};
pub use page::{ManyPage, Page, Tally};
pub use run::{Cell, Report, cells, pairs, run, seeds};
pub use subject::{Subject, golden, rich};
pub use trial::{Outcome, damage, trial};

/// Seconds after which a run counts as hanging.
pub const LIMIT: u64 = 120;
