//! Clones of trees: directories with all that is in them, hard links and attributes included.
//!
//! A [`CloneTree`] is a list of what is still to be made. It is worked off in as many transactions
//! as the journal asks for (one, mostly); whenever it stops, what was made so far is a sound tree.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{Dinode, FileType, InodeFlags};
use crate::ops::clone::{attributes, clone_inode};
use crate::ops::names::{put_target, unlink};
use crate::ops::{CloneOptions, FROZEN_FILE, require_mutable, xattr};
use crate::read::file::FileReader;
use crate::read::{dir, inode};
use crate::txn::Txn;
use crate::units::{BlockNo, index};

/// What becomes of a name that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Refuse,
    /// The clone takes its place; a directory takes in what the cloned one holds.
    Replace,
    /// It stays, and nothing is cloned there; a directory takes in what it does not have yet.
    Keep,
}

/// Whether the clone of a tree can be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marks {
    /// As the source, which must be one that can.
    #[default]
    Same,
    /// Every file and directory is marked as immutable.
    Freeze,
    /// The source is marked as immutable; the clone is not.
    Thaw,
}

/// How a tree is cloned.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// How each file of it is.
    pub each: CloneOptions,
    /// Whether directories are cloned at all.
    pub recursive: bool,
    /// Whether it can be changed.
    pub marks: Marks,
}

/// What was cloned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCloned {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices, FIFOs and sockets.
    pub others: u64,
    /// Names beyond the first of a file.
    pub links: u64,
    /// Files whose place was taken.
    pub replaced: u64,
    /// Names that stayed as they were.
    pub kept: u64,
    /// Sum of the sizes of the regular files.
    pub size_bytes: u64,
    /// What of it is mapped to shared clusters.
    pub shared_bytes: u64,
}

/// A name to be made, or a directory to be finished.
#[derive(Debug)]
enum Item {
    Make {
        source: BlockNo,
        parent: BlockNo,
        name: Vec<u8>,
        /// How it is shown.
        path: Vec<u8>,
        /// Whether the parent is of this clone: then it has only what was cloned there.
        inside: bool,
    },
    Leave {
        source: BlockNo,
        target: BlockNo,
    },
}

/// A clone of one or more trees, as far as it is still to be made.
#[derive(Debug)]
pub struct CloneTree {
    options: TreeOptions,
    left: Vec<Item>,
    /// Files of several names, and their clones.
    links: HashMap<BlockNo, BlockNo>,
    /// What was made.
    pub done: TreeCloned,
}

impl CloneTree {
    /// A clone of nothing.
    #[must_use]
    pub fn new(options: TreeOptions) -> Self {
        Self {
            options,
            left: Vec::new(),
            links: HashMap::new(),
            done: TreeCloned::default(),
        }
    }

    /// Adds a source, which is to be cloned to a name of a directory; what was added first is
    /// cloned last. `path` is how the name is shown.
    pub fn add(&mut self, source: BlockNo, parent: BlockNo, name: &[u8], path: &[u8]) {
        self.left.push(Item::Make {
            source,
            parent,
            name: name.to_vec(),
            path: path.to_vec(),
            inside: false,
        });
    }

    /// Clones until the transaction holds `most` blocks for the journal; true when nothing is left.
    /// `existing` is asked for each name that exists.
    ///
    /// # Errors
    /// Something cannot be cloned, and the message names it; the volume is full; or a block cannot
    /// be used.
    pub fn step(
        &mut self,
        txn: &mut Txn<'_>,
        most: usize,
        existing: &mut dyn FnMut(&[u8]) -> Result<Existing>,
    ) -> Result<bool> {
        let begin = txn.journal_load();
        while let Some(item) = self.left.pop() {
            let load = txn.journal_load();
            if load >= most && load > begin {
                self.left.push(item);
                return Ok(false);
            }
            match item {
                Item::Leave { source, target } => self.leave(txn, source, target)?,
                Item::Make {
                    source,
                    parent,
                    name,
                    path,
                    inside,
                } => {
                    let made = self.make(txn, source, (parent, &name), &path, inside, existing);
                    made.map_err(|error| named(&path, error))?;
                }
            }
        }
        Ok(true)
    }

    fn make(
        &mut self,
        txn: &mut Txn<'_>,
        source: BlockNo,
        (parent, name): (BlockNo, &[u8]),
        path: &[u8],
        inside: bool,
        existing: &mut dyn FnMut(&[u8]) -> Result<Existing>,
    ) -> Result<()> {
        let old = inode::read(txn.view(), source)?;
        let head: Dinode = *old;
        drop(old);
        let system = head.flags().intersects(InodeFlags::SYSTEM) && source != txn.info().root;
        let Some(kind) = head.file_type().filter(|_| !system) else {
            return Err(input("only files of users can be cloned"));
        };
        let directory = kind == FileType::Directory;
        if directory && !self.options.recursive {
            return Err(input("is a directory; -r clones it with all that is in it"));
        }
        if self.options.marks != Marks::Thaw {
            require_mutable(&head, source)?;
        }
        if !inside && let Some(there) = find(txn, parent, name)? {
            if there == source {
                return Err(input("source and target are the same file"));
            }
            let there_head: Dinode = *inode::read(txn.view(), there)?;
            let there_directory = there_head.file_type() == Some(FileType::Directory);
            if directory != there_directory {
                return Err(input(if directory {
                    "exists and is no directory; a directory cannot take its place"
                } else {
                    "exists and is a directory; only a directory can be cloned there"
                }));
            }
            match existing(path)? {
                Existing::Refuse => {
                    return Err(input("a file of that name exists"));
                }
                // The directory that is there takes in what the other one holds.
                _ if directory => return self.children(txn, source, there, path, false),
                Existing::Keep => {
                    self.done.kept += 1;
                    return Ok(());
                }
                Existing::Replace => {
                    unlink(txn, parent, name, self.options.each.now)?;
                    self.done.replaced += 1;
                }
            }
        }
        txn.require_user_directory(parent, name)?;
        if head.links() > 1
            && !directory
            && let Some(known) = self.links.get(&source).copied()
        {
            let mut dinode = txn.edit::<Dinode>(known)?;
            let links = dinode.links().saturating_add(1);
            dinode.set_links(links);
            self.done.links += 1;
            return txn.add_name(parent, name, known, kind, self.options.each.now);
        }
        let target = match kind {
            FileType::Directory => return self.directory(txn, source, &head, (parent, name), path),
            FileType::Regular => self.file(txn, source, &head)?,
            FileType::Symlink => self.symlink(txn, source, &head)?,
            _ => self.node(txn, source, &head)?,
        };
        if head.links() > 1 {
            self.links.insert(source, target);
        }
        self.mark(txn, target)?;
        txn.add_name(parent, name, target, kind, self.options.each.now)
    }

    fn file(&mut self, txn: &mut Txn<'_>, source: BlockNo, head: &Dinode) -> Result<BlockNo> {
        let target = clone_inode(txn, source, &self.options.each)?;
        let clusters = u64::from(txn.view().block::<Dinode>(target)?.i_clusters.get());
        let shared = clusters << txn.info().geo.cluster_bits();
        self.done.files += 1;
        self.done.size_bytes = self.done.size_bytes.saturating_add(head.i_size.get());
        self.done.shared_bytes = self
            .done
            .shared_bytes
            .saturating_add(shared.min(head.i_size.get()));
        Ok(target)
    }

    /// A new inode with the attributes of another one.
    fn inode(&self, txn: &mut Txn<'_>, source: BlockNo, head: &Dinode) -> Result<BlockNo> {
        let target = txn.new_inode(&attributes(head, &self.options.each))?;
        if self.options.each.preserve {
            xattr::copy(txn, source, target)?;
            txn.edit::<Dinode>(target)?.i_attr = head.i_attr;
        }
        Ok(target)
    }

    fn symlink(&mut self, txn: &mut Txn<'_>, source: BlockNo, head: &Dinode) -> Result<BlockNo> {
        let target = self.inode(txn, source, head)?;
        let to = {
            let view = txn.view();
            let reader = FileReader::open(view, &inode::read(view, source)?)?;
            let mut to = vec![0; index(reader.size().min(4095))];
            reader.read_at(0, &mut to)?;
            to
        };
        put_target(txn, target, &to)?;
        self.done.others += 1;
        Ok(target)
    }

    fn node(&mut self, txn: &mut Txn<'_>, source: BlockNo, head: &Dinode) -> Result<BlockNo> {
        let target = self.inode(txn, source, head)?;
        let kind = head.file_type();
        if matches!(kind, Some(FileType::BlockDevice | FileType::CharDevice)) {
            let mut dinode = txn.edit::<Dinode>(target)?;
            dinode.id1_low = head.id1_low;
            dinode.id1_high = head.id1_high;
        }
        self.done.others += 1;
        Ok(target)
    }

    fn directory(
        &mut self,
        txn: &mut Txn<'_>,
        source: BlockNo,
        head: &Dinode,
        (parent, name): (BlockNo, &[u8]),
        path: &[u8],
    ) -> Result<()> {
        let target = self.inode(txn, source, head)?;
        txn.open_directory(target, parent)?;
        txn.enter_directory(parent, name, target, self.options.each.now)?;
        self.done.directories += 1;
        self.left.push(Item::Leave { source, target });
        self.children(txn, source, target, path, true)
    }

    /// Takes in what a directory holds; the last name of it is the first to be cloned.
    fn children(
        &mut self,
        txn: &Txn<'_>,
        source: BlockNo,
        target: BlockNo,
        path: &[u8],
        inside: bool,
    ) -> Result<()> {
        let view = txn.view();
        let mut names: Vec<(Vec<u8>, BlockNo)> = Vec::new();
        dir::for_each_entry(view, &inode::read(view, source)?, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.inode));
            }
            ControlFlow::Continue(())
        })?;
        names.sort_unstable();
        for (name, source) in names.into_iter().rev() {
            let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let path = [path, slash, &name].concat();
            self.left.push(Item::Make {
                source,
                parent: target,
                name,
                path,
                inside,
            });
        }
        Ok(())
    }

    /// A directory has all of its names: it gets its times, and its mark.
    fn leave(&self, txn: &mut Txn<'_>, source: BlockNo, target: BlockNo) -> Result<()> {
        if self.options.each.preserve {
            let head: Dinode = *inode::read(txn.view(), source)?;
            let mut dinode = txn.edit::<Dinode>(target)?;
            dinode.i_mtime = head.i_mtime;
            dinode.i_mtime_nsec = head.i_mtime_nsec;
        }
        self.mark(txn, target)
    }

    fn mark(&self, txn: &mut Txn<'_>, target: BlockNo) -> Result<()> {
        let attr = txn.view().block::<Dinode>(target)?.i_attr.get();
        let wanted = match self.options.marks {
            Marks::Same => return Ok(()),
            Marks::Freeze => attr | FROZEN_FILE,
            Marks::Thaw => attr & !FROZEN_FILE,
        };
        txn.edit::<Dinode>(target)?.i_attr = wanted.into();
        Ok(())
    }
}

/// Whether a directory is another one or lies below it.
///
/// # Errors
/// A directory on the way up is damaged.
pub fn lies_in(view: View<'_>, directory: BlockNo, above: BlockNo) -> Result<bool> {
    let mut at = directory;
    for _ in 0..view.geo().blocks() {
        if at == above {
            return Ok(true);
        }
        let up = dir::lookup(view, &inode::read(view, at)?, b"..")?;
        match up.filter(|up| *up != at && at != view.info().root) {
            Some(up) => at = up,
            None => break,
        }
    }
    Ok(false)
}

fn find(txn: &Txn<'_>, directory: BlockNo, name: &[u8]) -> Result<Option<BlockNo>> {
    let view = txn.view();
    dir::lookup(view, &inode::read(view, directory)?, name)
}

fn input(what: &str) -> Error {
    let what = what.to_owned();
    Error::Input { what }
}

/// An error with the path that it is about.
fn named(path: &[u8], error: Error) -> Error {
    match error {
        Error::Input { what } => Error::Input {
            what: format!("{}: {what}", path.escape_ascii()),
        },
        other => other,
    }
}
