//! Giving files all of their clusters for themselves, and marks that keep snapshots as they are.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::error::Result;
use crate::layout::{Dinode, DynFeatures, FileType};
use crate::ops::cow::unshare;
use crate::ops::xattr::set_xattrs;
use crate::ops::{FROZEN_FILE, require_mutable, require_plain_file};
use crate::read::{dir, inode, xattr};
use crate::txn::{Timestamp, Txn};
use crate::units::BlockNo;

/// Gives a file clusters of its own for all that it shares, data and large attributes, and lets it
/// leave its refcount tree; the tree goes with the last file. The number of clusters that were
/// copied.
///
/// # Errors
/// It is no regular file that can be changed, the volume is full, or a block cannot be used.
pub fn make_own(txn: &mut Txn<'_>, blkno: BlockNo, now: Timestamp) -> Result<u64> {
    let head: Dinode = *inode::read(txn.view(), blkno)?;
    require_plain_file(&head, blkno, "unshared")?;
    if !head.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
        return Ok(0);
    }
    require_mutable(&head, blkno)?;
    let mut copied = unshare(txn, blkno)?;
    let values = shared_values(txn, blkno)?;
    let all: Vec<(&[u8], &[u8])> = values.iter().map(|(n, v)| (&n[..], &v[..])).collect();
    set_xattrs(txn, blkno, &all, now)?;
    let geo = txn.info().geo;
    copied += values
        .iter()
        .map(|(_, value)| geo.clusters_for(value.len() as u64))
        .sum::<u64>();
    txn.detach_refcount(blkno)?;
    now.set_ctime(&mut *txn.edit::<Dinode>(blkno)?);
    Ok(copied)
}

/// A list of names with their values.
type Values = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes whose values stand in clusters that are counted.
fn shared_values(txn: &Txn<'_>, blkno: BlockNo) -> Result<Values> {
    let view = txn.view();
    let dinode = inode::read(view, blkno)?;
    let mut found = Ok(Vec::new());
    xattr::for_each_area(view, &dinode, &mut |area| {
        let taken = area.and_then(|(place, area)| {
            let mut values: Values = Vec::new();
            for attribute in xattr::entries(area) {
                let attribute = attribute.map_err(|kind| kind.at(place.blkno()))?;
                let extents = attribute.extents(view, place.blkno())?;
                if extents
                    .iter()
                    .any(crate::read::extent::Extent::is_refcounted)
                {
                    values.push((attribute.name(), attribute.read(view, place.blkno())?));
                }
            }
            Ok(values)
        });
        match (taken, &mut found) {
            (Ok(values), Ok(all)) => all.extend(values),
            (Err(error), found) => *found = Err(error),
            _ => {}
        }
        if found.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    found
}

/// Takes the mark of a file that may not be changed from a tree of them, such as a snapshot, in as
/// many transactions as the journal asks for.
#[derive(Debug)]
pub struct Thaw {
    left: Vec<BlockNo>,
    seen: HashSet<BlockNo>,
}

impl Thaw {
    /// A tree, from its inode on.
    #[must_use]
    pub fn new(start: BlockNo) -> Self {
        Self {
            left: vec![start],
            seen: HashSet::new(),
        }
    }

    /// Goes on until the transaction holds `most` blocks for the journal; true when nothing is left.
    ///
    /// # Errors
    /// A block cannot be used.
    pub fn step(&mut self, txn: &mut Txn<'_>, most: usize, now: Timestamp) -> Result<bool> {
        while let Some(blkno) = self.left.pop() {
            if txn.journal_load() >= most {
                self.left.push(blkno);
                return Ok(false);
            }
            if !self.seen.insert(blkno) {
                continue;
            }
            let view = txn.view();
            let dinode = inode::read(view, blkno)?;
            let attr = dinode.i_attr.get();
            if dinode.file_type() == Some(FileType::Directory) {
                let left = &mut self.left;
                dir::for_each_entry(view, &dinode, &mut |entry| {
                    if !matches!(entry.name, b"." | b"..") {
                        left.push(entry.inode);
                    }
                    ControlFlow::Continue(())
                })?;
            }
            drop(dinode);
            if attr & FROZEN_FILE != 0 {
                let mut dinode = txn.edit::<Dinode>(blkno)?;
                dinode.i_attr = (attr & !FROZEN_FILE).into();
                now.set_ctime(&mut dinode);
            }
        }
        Ok(true)
    }
}

/// Marks an inode as one that may not be changed, as snapshots are.
///
/// # Errors
/// The inode cannot be read.
pub fn freeze(txn: &mut Txn<'_>, blkno: BlockNo) -> Result<()> {
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    dinode.i_attr = (dinode.i_attr.get() | FROZEN_FILE).into();
    Ok(())
}
