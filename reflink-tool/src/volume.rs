//! What all verbs share: the volume, how it is opened, and how a result is told.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use cowfs_format::block::View;
use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::layout::FileType;
use cowfs_format::ops::CloneOptions;
use cowfs_format::read::inode;
use cowfs_format::toolkit::alone::alone;
use cowfs_format::toolkit::report::PathText;
use cowfs_format::toolkit::{open, undo};
use cowfs_format::txn::{Timestamp, Txn};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::tree::{self, Event};
use cowfs_format::volume::{Volume, path};
use serde::Serialize;

/// What every verb that writes takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Do everything but write; say what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing when all is well
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Save what is written over in FILE first; `fsck.cowfs --rollback FILE` puts it back
    #[arg(long, value_name = "FILE")]
    pub(crate) undo: Option<PathBuf>,
    /// The volume: an image file or block device that is not mounted
    pub(crate) volume: PathBuf,
    /// A device that stands for it
    #[arg(skip)]
    pub(crate) given: RefCell<Option<Box<dyn DeviceMut>>>,
}

/// What a verb writes to.
pub(crate) type Writable = Volume<Box<dyn DeviceMut>>;

/// A volume that is open for a verb.
pub(crate) struct Opened {
    pub(crate) volume: Writable,
    /// Transactions found in dirty journals and finished first.
    pub(crate) replayed: u32,
}

impl Common {
    /// Opens the volume: for writing; for a dry run, with all writes kept in memory.
    pub(crate) fn open(&self, err: &mut dyn Write) -> Result<Opened> {
        let device: Box<dyn DeviceMut> = if let Some(given) = self.given.take() {
            given
        } else if self.dry_run {
            Box::new(OverlayDevice::new(open::read_only(&self.volume)?))
        } else {
            undo::writable(&self.volume, self.undo.as_deref())?
        };
        let name = self.volume.display().to_string();
        let mut volume = Volume::open(device).context(name)?;
        alone(&mut volume, "reflink.cowfs", err)?;
        let recovered = volume.recover()?;
        let replayed = recovered.replayed.iter().map(|(_, count, _)| count).sum();
        Ok(Opened { volume, replayed })
    }

    /// What is said to have been done, or that it would be.
    pub(crate) const fn verb(&self, done: &'static str, would: &'static str) -> &'static str {
        if self.dry_run { would } else { done }
    }

    /// Tells the result, as JSON or in the words of `text`.
    pub(crate) fn tell<T: Serialize>(
        &self,
        out: &mut dyn Write,
        result: &T,
        text: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(result)?)?;
        } else if !self.quiet {
            text(out)?;
        }
        Ok(())
    }
}

/// Opens the volume of a verb that only looks.
pub(crate) fn look(volume: &Path) -> Result<Volume<Box<dyn Device>>> {
    let name = volume.display().to_string();
    Volume::open(open::read_only(volume)?).context(name)
}

/// Whether an inode is a directory.
pub(crate) fn is_directory(view: View<'_>, blkno: BlockNo) -> Result<bool> {
    Ok(inode::read(view, blkno)?.file_type() == Some(FileType::Directory))
}

/// The directory at a path, if there is one; as with cp, a link that leads to one stands for it.
pub(crate) fn directory_at(view: View<'_>, given: &[u8]) -> Result<Option<BlockNo>> {
    let slash: &[u8] = if given.ends_with(b"/") { b"" } else { b"/" };
    let found = path::resolve(view, view.info().root, &[given, slash].concat());
    let found = path::absent(found)?;
    match found {
        Some(blkno) if is_directory(view, blkno)? => Ok(found),
        _ => Ok(None),
    }
}

/// What was written, and in how many transactions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Steps {
    pub(crate) transactions: u64,
    /// Blocks that went through the journal.
    journaled_blocks: u64,
    /// New blocks of metadata.
    new_blocks: u64,
}

impl Steps {
    /// Says so when it was more than one.
    pub(crate) fn tell(self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.transactions > 1 {
            writeln!(
                out,
                "{} transactions, each of them whole",
                self.transactions
            )?;
        }
        Ok(())
    }
}

/// Blocks of the journal that one step of an operation may still need when it is asked to stop:
/// leaves of two trees that are changed in place, and what leads to them.
const RESERVE: usize = 300;

/// Works in as many transactions as the journal asks for. `work` is told how much of the journal a
/// transaction may fill, and says whether nothing is left.
pub(crate) fn in_steps(
    volume: &mut Writable,
    mut work: impl FnMut(&mut Txn<'_>, usize) -> Result<bool>,
) -> Result<Steps> {
    let mut steps = Steps::default();
    loop {
        let done = {
            let mut txn = volume.begin()?;
            let room = txn.journal_room()?;
            let most = room.saturating_sub(RESERVE).max(room / 2);
            let ended = work(&mut txn, most).and_then(|ended| Ok((ended, txn.commit()?)));
            ended.map(|(ended, committed)| {
                steps.transactions += 1;
                steps.journaled_blocks += committed.journaled as u64;
                steps.new_blocks += committed.fresh as u64;
                ended
            })
        };
        match done {
            Ok(true) => return Ok(steps),
            Ok(false) => {}
            Err(error) if steps.transactions > 0 => {
                let n = steps.transactions;
                let what = format!("stopped after {n} whole transactions, which stay");
                return Err(error.context(what));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The last part of a path, unless that is no name.
pub(crate) fn last_part(path: &[u8]) -> Option<&[u8]> {
    let last = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty());
    last.filter(|name| !name.starts_with(b"<") && !matches!(*name, b"." | b".."))
}

/// A path as it is shown.
pub(crate) fn shown(path: &[u8]) -> String {
    PathText(path.to_vec()).shown()
}

/// How files are cloned: for whoever runs the program, now.
pub(crate) fn clone_options(preserve: bool) -> CloneOptions {
    CloneOptions {
        preserve,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        now: Timestamp::now(),
    }
}

/// The regular files at paths and below them, in the order of a walk, each once.
pub(crate) fn files_below(
    scanner: &Scanner,
    view: View<'_>,
    paths: &[OsString],
) -> Result<Vec<BlockNo>> {
    let (mut found, mut known) = (Vec::new(), HashSet::new());
    for given in paths {
        let start = path::resolve(view, view.info().root, given.as_bytes())?;
        let mut failed = None;
        tree::walk(
            scanner,
            view,
            start,
            |_, inode| inode.file_type(),
            |event| match event {
                Event::Found(node, Some(FileType::Regular)) => {
                    if known.insert(node.blkno) {
                        found.push(node.blkno);
                    }
                    ControlFlow::Continue(())
                }
                Event::Failed(node, error) => {
                    failed = Some((node.path, error));
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            },
        );
        if let Some((below, error)) = failed {
            let place = [given.as_bytes(), b"/", &below].concat();
            return Err(anyhow!(error).context(shown(&place)));
        }
    }
    Ok(found)
}
