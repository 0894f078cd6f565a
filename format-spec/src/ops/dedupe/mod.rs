//! Deduplication: files that hold the same bytes share the clusters that hold them.
//!
//! What is looked at are *windows*: 1 MiB of a file, aligned in the file (one cluster where clusters
//! are larger; less at the end of a file). Two windows are equal when they map data at the same
//! places and all bytes of those clusters are equal, what lies behind the end of the file included,
//! so that sharing changes nothing that anybody could read. Whole files that are equal are equal
//! window by window, and so are equal parts of files that stand at multiples of 1 MiB, at the same
//! place or another. Holes and space that was never written hold nothing and stay as they are.
//!
//! What equal windows do not have in common, *runs* of clusters may: data that was moved within a
//! file, files put together of others. They are looked for after the windows were shared, in what is
//! then still stored, at any cluster of the files.
//!
//! [`find`] reads: a sample of each window, all of those whose samples agree, and once more what is
//! to be shared, byte for byte; nothing rests on a sum. [`find_runs`] reads each cluster once for its
//! sum, and compares what is to be shared in the same way. `plan` decides what comes to lie where: the
//! copy that most files map already stays, and no inode maps a cluster twice (fsck.ocfs2 dies of
//! that). What would free nothing, because others outside of the files looked at map it too, stays.
//! [`run`] shares, in one transaction if it fits the journal, else in several; each leaves a sound
//! volume, and the contents of no file change at any point. Times and quota stay as they are: the
//! driver charges shared clusters to each file that maps them.

mod find;
mod plan;
mod ranges;
mod runs;
mod share;

pub use find::{Found, find};
pub use runs::{Limits, find_runs};

use crate::device::DeviceMut;
use crate::error::{Error, Result};
use crate::volume::Volume;
use crate::volume::scan::Scanner;

/// Bytes of a window, unless clusters are larger.
pub const WINDOW: u64 = 1 << 20;

/// What is told while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// The next pass begins, and has so many steps.
    Pass(u64),
    /// So many steps more are done.
    Step(u64),
}

/// Is told of progress.
pub type Ticker<'a> = &'a (dyn Fn(Tick) + Sync);

/// What a deduplication found and did, in bytes of clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deduped {
    /// Files looked at.
    pub files: u64,
    /// Files left out: their contents stand in the inode, they are smaller than what was asked for,
    /// or they may not be changed.
    pub skipped: u64,
    /// What the files map.
    pub mapped_bytes: u64,
    /// What of it another one of the files maps in the same clusters.
    pub already_bytes: u64,
    /// What equals something else, and shares its clusters now.
    pub shared_bytes: u64,
    /// What equals something else and stays: the file has the same data twice, or sharing it would
    /// free nothing or not fit the journal.
    pub left_bytes: u64,
    /// Space that nobody maps any more.
    pub freed_bytes: u64,
    /// Refcount trees that were merged into others.
    pub merged_trees: u64,
    /// Transactions that it took.
    pub transactions: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// Shares what was found, in as few transactions as the journal allows.
///
/// # Errors
/// The volume cannot be written, or a part of it is damaged. What was committed before stays, and
/// `done` tells of it.
pub fn run<D: DeviceMut>(
    volume: &mut Volume<D>,
    scanner: &Scanner,
    found: Found,
    done: &mut Deduped,
    tick: Ticker<'_>,
) -> Result<()> {
    let mut sharing = share::Sharing::new(plan::plan(volume.view(), found, done)?);
    tick(Tick::Pass(sharing.moves() as u64));
    // At most so many moves in one transaction; fewer when they turn out to be too large.
    let mut most = usize::MAX;
    while !sharing.is_done() {
        let before = *done;
        let mut txn = volume.begin()?;
        let room = txn.journal_room()?;
        let taken = sharing.step(&mut txn, scanner, (most, room), done)?;
        if txn.journal_load() > room {
            txn.abort();
            *done = before;
            sharing.back(taken);
            if taken <= 1 {
                let why = "a single change is larger than the journal".to_owned();
                return Err(Error::Refused { why });
            }
            most = taken / 2;
            continue;
        }
        let committed = txn.commit();
        // A commit that fails late is made all the same.
        if matches!(committed, Ok(_) | Err(Error::Unfinished { .. })) {
            done.transactions += 1;
        } else {
            *done = before;
        }
        committed?;
        tick(Tick::Step(taken as u64));
    }
    Ok(())
}
