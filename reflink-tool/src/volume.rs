//! What all verbs share: the volume, how it is opened, and how a result is told.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use cowfs_format::device::{DeviceMut, OverlayDevice};
use cowfs_format::ops::CloneOptions;
use cowfs_format::toolkit::alone::alone;
use cowfs_format::toolkit::report::PathText;
use cowfs_format::toolkit::{open, undo};
use cowfs_format::txn::Timestamp;
use cowfs_format::volume::Volume;
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
        let device: Box<dyn DeviceMut> = if self.dry_run {
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
