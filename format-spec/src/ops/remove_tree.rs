//! Removing a directory with all that is in it, in as many transactions as that takes.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::layout::FileType;
use crate::ops::names::{rmdir, unlink};
use crate::read::{dir, inode};
use crate::txn::{Timestamp, Txn};
use crate::units::BlockNo;

/// A directory that is being emptied.
#[derive(Debug)]
struct Level {
    parent: BlockNo,
    name: Vec<u8>,
    directory: BlockNo,
    /// Names that are still there; `None` before they were read.
    inside: Option<Vec<(Vec<u8>, BlockNo)>>,
}

/// The removal of a directory, deepest names first, so that after each step what is left is a sound
/// tree. Memory follows the largest directories on one path.
#[derive(Debug)]
pub struct RemoveTree {
    open: Vec<Level>,
    /// The directories of `open`: on a damaged volume one can lie inside itself.
    passed: HashSet<BlockNo>,
    names: u64,
}

impl RemoveTree {
    /// The removal of `directory`, which `parent` has under `name`.
    #[must_use]
    pub fn new(parent: BlockNo, name: Vec<u8>, directory: BlockNo) -> Self {
        let top = Level {
            parent,
            name,
            directory,
            inside: None,
        };
        Self {
            open: vec![top],
            passed: HashSet::from([directory]),
            names: 0,
        }
    }

    /// Names removed so far.
    #[must_use]
    pub const fn names(&self) -> u64 {
        self.names
    }

    /// Removes names until the transaction holds `most` blocks; true when nothing is left.
    ///
    /// # Errors
    /// A name cannot be removed, or a block cannot be used. The removal cannot go on then, because
    /// the transaction must be given up.
    pub fn step(&mut self, txn: &mut Txn<'_>, most: usize, now: Timestamp) -> Result<bool> {
        while let Some(level) = self.open.last_mut() {
            if txn.staged_blocks() >= most {
                return Ok(false);
            }
            let inside = match &mut level.inside {
                Some(inside) => inside,
                unread => unread.insert(names(txn, level.directory)?),
            };
            let Some((name, blkno)) = inside.pop() else {
                rmdir(txn, level.parent, &level.name, now)?;
                self.names += 1;
                self.passed.remove(&level.directory);
                self.open.pop();
                continue;
            };
            let kind = inode::read(txn.view(), blkno)?.file_type();
            if kind == Some(FileType::Directory) {
                let parent = level.directory;
                if !self.passed.insert(blkno) {
                    let path = String::from_utf8_lossy(&name).into_owned();
                    let why = "the directory lies inside itself; run fsck.cowfs";
                    return Err(Error::Path { path, why });
                }
                self.open.push(Level {
                    parent,
                    name,
                    directory: blkno,
                    inside: None,
                });
            } else {
                unlink(txn, level.directory, &name, now)?;
                self.names += 1;
            }
        }
        Ok(true)
    }
}

/// The names in a directory with what they lead to.
fn names(txn: &Txn<'_>, directory: BlockNo) -> Result<Vec<(Vec<u8>, BlockNo)>> {
    let view = txn.view();
    let mut found = Vec::new();
    dir::for_each_entry(view, &inode::read(view, directory)?, &mut |entry| {
        if !matches!(entry.name, b"." | b"..") {
            found.push((entry.name.to_vec(), entry.inode));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
