//! `snap` and `restore`: a file or tree as it is at one moment, kept read-only, and back.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowfs_format::block::View;
use cowfs_format::ops::{
    self, CloneTree, Existing, Marks, RemoveTree, Thaw, TreeOptions, lies_in, unlink,
};
use cowfs_format::read::{dir, inode};
use cowfs_format::toolkit::size::show_size;
use cowfs_format::txn::{Timestamp, Txn};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::{self, Parent};
use serde::Serialize;

use crate::volume::{
    Common, Steps, clone_options, directory_at, in_steps, is_directory, last_part, shown,
};

/// Arguments of `snap`.
#[derive(Debug, Args)]
pub(crate) struct SnapArgs {
    /// Remove a snapshot: `snap --delete VOLUME SNAPSHOT`
    #[arg(long)]
    pub(crate) delete: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to keep (of --delete: the snapshot)
    pub(crate) source: OsString,
    /// The snapshot: a path that does not exist yet, or a directory to put it into
    #[arg(required_unless_present = "delete", conflicts_with = "delete")]
    pub(crate) snapshot: Option<OsString>,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The snapshot, inside the volume
    pub(crate) snapshot: OsString,
    /// What is to be as the snapshot is; it need not exist
    pub(crate) target: OsString,
}

/// What `snap` or `restore` did.
#[derive(Debug, Serialize)]
struct Kept {
    schema: u32,
    dry_run: bool,
    source: String,
    /// `null` when a snapshot was removed.
    target: Option<String>,
    files: u64,
    directories: u64,
    size_bytes: u64,
    shared_bytes: u64,
    /// Names of what stood there before, or of a snapshot that was removed.
    removed: u64,
    #[serde(flatten)]
    steps: Steps,
    replayed_transactions: u32,
}

pub(crate) fn snap(args: &SnapArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let Some(snapshot) = &args.snapshot else {
        return delete(args, out, err);
    };
    let mut opened = args.common.open(err)?;
    let volume = &mut opened.volume;
    let source_path = args.source.as_bytes();
    let (source, (place, shown_place)) = {
        let view = volume.view();
        let source = path::resolve(view, view.info().root, source_path)?;
        (source, place(view, source_path, snapshot.as_bytes())?)
    };
    if is_directory(volume.view(), source)? && lies_in(volume.view(), place.directory, source)? {
        bail!(
            "{}: a snapshot cannot lie in what it keeps",
            shown(&shown_place)
        );
    }
    let mut tree = CloneTree::new(TreeOptions {
        each: clone_options(true),
        recursive: true,
        marks: Marks::Freeze,
    });
    tree.add(source, place.directory, &place.name, &shown_place);
    let refuse = &mut |_: &[u8]| Ok(Existing::Refuse);
    let steps = in_steps(volume, |txn, most| Ok(tree.step(txn, most, refuse)?));
    let steps = steps.with_context(|| format!("cannot keep {}", shown(source_path)))?;
    let result = Kept {
        schema: 1,
        dry_run: args.common.dry_run,
        source: shown(source_path),
        target: Some(shown(&shown_place)),
        files: tree.done.files,
        directories: tree.done.directories,
        size_bytes: tree.done.size_bytes,
        shared_bytes: tree.done.shared_bytes,
        removed: 0,
        steps,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("keeps", "would keep");
        writeln!(
            out,
            "{}: {verb} {} files, {}, of {}",
            shown(&shown_place),
            result.files,
            show_size(result.size_bytes),
            result.source
        )?;
        steps.tell(out)
    })
}

/// Removes a snapshot.
fn delete(args: &SnapArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let volume = &mut opened.volume;
    let given = args.source.as_bytes();
    let root = volume.view().info().root;
    let snapshot = path::resolve(volume.view(), root, given)?;
    let place = path::resolve_parent(volume.view(), root, given)?;
    let now = Timestamp::now();
    let mut removal = Removal::new(volume.view(), place, snapshot)?;
    let mut thaw = Some(Thaw::new(snapshot));
    let steps = in_steps(volume, |txn, most| {
        if let Some(step) = &mut thaw {
            if !step.step(txn, most, now)? {
                return Ok(false);
            }
            thaw = None;
        }
        removal.step(txn, most, now)
    });
    let steps = steps.with_context(|| format!("cannot remove {}", shown(given)))?;
    let result = Kept {
        schema: 1,
        dry_run: args.common.dry_run,
        source: shown(given),
        target: None,
        files: 0,
        directories: 0,
        size_bytes: 0,
        shared_bytes: 0,
        removed: removal.names,
        steps,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("were", "would be");
        writeln!(
            out,
            "{}: {} names {verb} removed",
            result.source, result.removed
        )?;
        steps.tell(out)
    })
}

pub(crate) fn restore(args: &RestoreArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let volume = &mut opened.volume;
    let (given, target) = (args.snapshot.as_bytes(), args.target.as_bytes());
    let (snapshot, place, old) = {
        let view = volume.view();
        let root = view.info().root;
        let snapshot = path::resolve(view, root, given)?;
        let place = path::resolve_parent(view, root, target)?;
        let old = find(view, &place)?;
        if let Some(old) = old {
            if is_directory(view, old)? != is_directory(view, snapshot)? {
                bail!(
                    "{}: of a file and a directory, none is the snapshot of the other",
                    shown(target)
                );
            }
            let holder = path::resolve_parent(view, root, given);
            if old == snapshot
                || holder.is_ok_and(|p| lies_in(view, p.directory, old).unwrap_or(true))
            {
                bail!("{}: the snapshot itself lies there", shown(target));
            }
        }
        if is_directory(view, snapshot)? && lies_in(view, place.directory, snapshot)? {
            bail!("{}: lies in the snapshot", shown(target));
        }
        (snapshot, place, old)
    };
    let mut back = Restoring::new(volume.view(), snapshot, place, old)?;
    let now = Timestamp::now();
    let steps = in_steps(volume, |txn, most| back.step(txn, most, now));
    let steps = steps.with_context(|| format!("cannot restore {}", shown(target)))?;
    let done = back.tree.done;
    let result = Kept {
        schema: 1,
        dry_run: args.common.dry_run,
        source: shown(given),
        target: Some(shown(target)),
        files: done.files,
        directories: done.directories,
        size_bytes: done.size_bytes,
        shared_bytes: done.shared_bytes,
        removed: back.removed(),
        steps,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("is", "would be");
        writeln!(out, "{}: {verb} as {} is", shown(target), result.source)?;
        steps.tell(out)
    })
}

/// A restoration: the clone is made beside its place, then takes it in one transaction, and what
/// stood there is removed last. In one transaction where that fits.
struct Restoring {
    tree: CloneTree,
    place: Parent,
    /// Name of the clone until it is whole, and of what stood there from then on.
    aside: Vec<u8>,
    old: Option<BlockNo>,
    swapped: bool,
    removal: Option<Removal>,
}

impl Restoring {
    fn new(view: View<'_>, snapshot: BlockNo, place: Parent, old: Option<BlockNo>) -> Result<Self> {
        let mut tree = CloneTree::new(TreeOptions {
            each: clone_options(true),
            recursive: true,
            marks: Marks::Thaw,
        });
        let directory = inode::read(view, place.directory)?;
        let free = |n: &u32| {
            let name = aside(*n);
            dir::lookup(view, &directory, &name).is_ok_and(|found| found.is_none())
        };
        let aside = aside((0..u32::MAX).find(free).unwrap_or_default());
        tree.add(snapshot, place.directory, &aside, &aside);
        Ok(Self {
            tree,
            place,
            aside,
            old,
            swapped: false,
            removal: None,
        })
    }

    fn removed(&self) -> u64 {
        let below = self.removal.as_ref().map_or(0, |removal| removal.names);
        below.max(u64::from(self.old.is_some()))
    }

    fn step(&mut self, txn: &mut Txn<'_>, most: usize, now: Timestamp) -> Result<bool> {
        let refuse = &mut |_: &[u8]| Ok(Existing::Refuse);
        if !self.tree.step(txn, most, refuse)? {
            return Ok(false);
        }
        let directory = self.place.directory;
        if !self.swapped {
            // A file goes when another one takes its name; a directory is moved aside.
            let moved = match self.old {
                Some(old) if is_directory(txn.view(), old)? => Some((old, old_name(&self.aside))),
                _ => None,
            };
            let name = (directory, &self.place.name[..]);
            if let Some((_, aside)) = &moved {
                ops::rename(txn, name, (directory, aside), now)?;
            }
            ops::rename(txn, (directory, &self.aside), name, now)?;
            self.swapped = true;
            if let Some((old, name)) = moved {
                let place = Parent { directory, name };
                self.removal = Some(Removal::new(txn.view(), place, old)?);
            }
        }
        match &mut self.removal {
            Some(removal) => removal.step(txn, most, now),
            None => Ok(true),
        }
    }
}

fn aside(n: u32) -> Vec<u8> {
    format!(".restoring-{n}").into_bytes()
}

fn old_name(aside: &[u8]) -> Vec<u8> {
    [aside, b"-old"].concat()
}

/// The removal of a name with all that is below it.
pub(crate) struct Removal {
    place: Parent,
    tree: Option<RemoveTree>,
    pub(crate) names: u64,
}

impl Removal {
    pub(crate) fn new(view: View<'_>, place: Parent, blkno: BlockNo) -> Result<Self> {
        let tree = is_directory(view, blkno)?
            .then(|| RemoveTree::new(place.directory, place.name.clone(), blkno));
        Ok(Self {
            place,
            tree,
            names: 0,
        })
    }

    pub(crate) fn step(&mut self, txn: &mut Txn<'_>, most: usize, now: Timestamp) -> Result<bool> {
        match &mut self.tree {
            None => {
                unlink(txn, self.place.directory, &self.place.name, now)?;
                self.names = 1;
                Ok(true)
            }
            Some(tree) => {
                let ended = tree.step(txn, most, now)?;
                self.names = tree.names();
                Ok(ended)
            }
        }
    }
}

fn find(view: View<'_>, place: &Parent) -> Result<Option<BlockNo>> {
    Ok(dir::lookup(
        view,
        &inode::read(view, place.directory)?,
        &place.name,
    )?)
}

/// Where a snapshot goes: the path itself, or the source's name in the directory that it names.
fn place(view: View<'_>, source: &[u8], target: &[u8]) -> Result<(Parent, Vec<u8>)> {
    let root = view.info().root;
    match directory_at(view, target)? {
        Some(directory) => {
            let Some(name) = last_part(source) else {
                bail!("{}: is a directory; name the snapshot", shown(target));
            };
            let slash: &[u8] = if target.ends_with(b"/") { b"" } else { b"/" };
            let name = name.to_vec();
            let path = [target, slash, &name].concat();
            Ok((Parent { directory, name }, path))
        }
        None => Ok((path::resolve_parent(view, root, target)?, target.to_vec())),
    }
}
