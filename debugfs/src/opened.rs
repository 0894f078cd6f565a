//! The volume that commands work on: open for reading, for writing, or in the midst of a group of
//! changes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowfs_format::block::View;
use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::toolkit::alone::alone;
use cowfs_format::toolkit::{open, undo as undo_log};
use cowfs_format::txn::{Committed, Group, Txn};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::watch::Nodes;
use cowfs_format::volume::{JournalState, Volume};
use schemars::JsonSchema;
use serde::Serialize;

/// Which superblock to open a volume by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Superblock {
    /// Number of the backup; `None` for the primary one.
    pub backup: Option<u32>,
    /// log2 of the block size, to find the backup.
    pub block_bits: Option<u32>,
    /// Whether the file is a metadata image, of whichever kind.
    pub image: bool,
}

impl Superblock {
    fn open<D: Device>(self, device: D) -> cowfs_format::error::Result<Volume<D>> {
        match self.backup {
            Some(backup) => Volume::open_backup(device, backup, self.block_bits),
            None => Volume::open(device),
        }
    }
}

/// What is said when a change is part of the volume, but what it changed cannot be read again.
const MADE: &str = "the change was made and stays, but the volume cannot be read after it";

/// A volume that commands look into.
#[derive(Debug)]
pub struct Open {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether what is written stays in memory.
    dry_run: bool,
    volume: Access,
}

/// An open volume; without `-w` it is on a device that cannot be written.
#[derive(Debug)]
enum Access {
    Read(Volume<Box<dyn Device>>),
    Write(Volume<Box<dyn DeviceMut>>),
    /// Between `begin` and `commit` or `abort`.
    Group(Box<Group<Box<dyn DeviceMut>>>),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is part of the volume.
    Committed,
    /// It is part of a group that was begun and not committed yet.
    Staged,
    /// It was made in memory only, over the volume.
    DryRun,
}

/// What became of a change, and how much it was.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct Outcome {
    /// What became of the change.
    pub state: State,
    /// Blocks of metadata that it wrote; inside of a group, blocks that the group holds so far.
    pub blocks: usize,
}

impl Outcome {
    const fn of(committed: Committed, state: State) -> Self {
        let blocks = committed.journaled + committed.fresh;
        Self { state, blocks }
    }

    /// What text says of it: nothing when all is as usual.
    #[must_use]
    pub const fn note(self) -> &'static str {
        match self.state {
            State::Committed => "",
            State::Staged => "   (staged)",
            State::DryRun => "   (dry run)",
        }
    }
}

impl Open {
    /// Opens a volume for reading, on whatever device; `path` is what it is called.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn to_read(path: PathBuf, device: Box<dyn Device>, by: Superblock) -> Result<Self> {
        let place = || path.display().to_string();
        let volume = Access::Read(by.open(device).with_context(place)?);
        Ok(Self {
            path,
            dry_run: false,
            volume,
        })
    }

    /// Opens a volume for writing, and replays its journals; in a `dry_run`, for writing to memory
    /// over it. What it held before is saved in the file `undo`. What happens meanwhile is said on
    /// `err`.
    ///
    /// # Errors
    /// It cannot be opened, or may be mounted.
    pub(crate) fn to_write(
        path: PathBuf,
        by: Superblock,
        (dry_run, undo): (bool, Option<&Path>),
        err: &mut dyn Write,
    ) -> Result<Self> {
        let place = || path.display().to_string();
        if by.image {
            bail!("{}: a metadata image is not written", place());
        }
        let device: Box<dyn DeviceMut> = if dry_run {
            Box::new(OverlayDevice::new(open::read_only(&path)?))
        } else {
            undo_log::writable(&path, undo)?
        };
        Self::on_device(path, device, by, dry_run, err)
    }

    /// As [`Open::to_write`], on whatever device; `path` is what it is called.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn on_device(
        path: PathBuf,
        device: Box<dyn DeviceMut>,
        by: Superblock,
        dry_run: bool,
        err: &mut dyn Write,
    ) -> Result<Self> {
        let place = || path.display().to_string();
        let mut volume = by.open(device).with_context(place)?;
        alone(&mut volume, "debugfs.cowfs", err).with_context(place)?;
        let recovered = volume.recover().with_context(place)?;
        for (slot, transactions, blocks) in recovered.replayed {
            let what = if dry_run { "would replay" } else { "replayed" };
            writeln!(
                err,
                "debugfs.cowfs: {what} the journal of slot {slot}: {transactions} transactions, \
                 {blocks} blocks"
            )?;
        }
        let volume = Access::Write(volume);
        Ok(Self {
            path,
            dry_run,
            volume,
        })
    }

    /// An error unless the volume is open for writing.
    ///
    /// # Errors
    /// It is not.
    pub fn require_writable(&self) -> Result<()> {
        match self.volume {
            Access::Read(_) => bail!("the volume is open for reading only; start with -w"),
            Access::Write(_) | Access::Group(_) => Ok(()),
        }
    }

    /// Makes a change: one transaction, or a step of the group that was begun. All of it or nothing.
    ///
    /// # Errors
    /// The change fails, or cannot be committed; the volume is as before.
    pub fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<(T, Outcome)> {
        self.require_writable()?;
        let state = self.written();
        match &mut self.volume {
            Access::Write(volume) => {
                let mut txn = volume.begin()?;
                let done = change(&mut txn)?;
                let committed = txn.commit();
                // Also after a failure: then a log may wait, and nothing may be begun over it.
                let reread = volume.reread();
                let committed = committed?;
                reread.context(MADE)?;
                Ok((done, Outcome::of(committed, state)))
            }
            Access::Group(group) => {
                let done = group.step(change)?;
                let state = State::Staged;
                let blocks = group.staged_blocks();
                Ok((done, Outcome { state, blocks }))
            }
            Access::Read(_) => bail!("the volume is open for reading only"),
        }
    }

    /// Whether a group was begun and neither committed nor given up yet.
    #[must_use]
    pub const fn in_group(&self) -> bool {
        matches!(self.volume, Access::Group(_))
    }

    /// Begins a group of changes; it can be that none begins, and why.
    pub(crate) fn begin(self) -> (Self, Result<()>) {
        let Self {
            path,
            dry_run,
            volume,
        } = self;
        let (volume, begun) = match volume {
            Access::Write(volume) => match Group::begin(volume) {
                Ok(group) => (Access::Group(Box::new(group)), Ok(())),
                Err(not) => (Access::Write(not.volume), Err(not.error.into())),
            },
            Access::Group(group) => {
                let why = "a group was begun already; commit or abort it first";
                (Access::Group(group), Err(anyhow!(why)))
            }
            read @ Access::Read(_) => (read, Err(anyhow!("the volume is open for reading only"))),
        };
        let open = Self {
            path,
            dry_run,
            volume,
        };
        (open, begun)
    }

    /// Ends the group: its changes become part of the volume, or (`keep` is false) are given up.
    pub(crate) fn end(self, keep: bool) -> (Self, Result<Outcome>) {
        let state = self.written();
        let Self {
            path,
            dry_run,
            volume,
        } = self;
        let (volume, ended) = match volume {
            Access::Group(group) => {
                let (mut volume, done) = if keep {
                    group.commit()
                } else {
                    (group.abort(), Ok(Committed::default()))
                };
                let reread = volume.reread();
                let done = done.map_err(anyhow::Error::from).and_then(|done| {
                    if keep {
                        reread.context(MADE)?
                    } else {
                        reread?
                    }
                    Ok(Outcome::of(done, state))
                });
                (Access::Write(volume), done)
            }
            other => (
                other,
                Err(anyhow!("no group was begun; `begin` begins one")),
            ),
        };
        let open = Self {
            path,
            dry_run,
            volume,
        };
        (open, ended)
    }

    /// Writes bytes over blocks at once, without the journal, which may be what is written over.
    ///
    /// # Errors
    /// A group was begun, somebody may have the volume mounted, or the device fails.
    pub fn write_direct(&mut self, first: BlockNo, bytes: &[u8]) -> Result<Outcome> {
        self.require_writable()?;
        let state = self.written();
        let Access::Write(volume) = &mut self.volume else {
            bail!("what is written at once cannot be part of a group; commit or abort it first");
        };
        volume.refuse_shared()?;
        let geo = volume.info().geo;
        if !geo.contains(first, (bytes.len() >> geo.block_bits()) as u64) {
            bail!("block {first} lies outside of the volume");
        }
        volume.device().write_at(geo.byte_of(first), bytes)?;
        volume.device().flush()?;
        // Whoever breaks the superblock goes on with what it said.
        let _ = volume.reread();
        let blocks = bytes.len() >> geo.block_bits();
        Ok(Outcome { state, blocks })
    }

    /// What becomes of what is written.
    const fn written(&self) -> State {
        if self.dry_run {
            State::DryRun
        } else {
            State::Committed
        }
    }

    /// A sight of the volume.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        match &self.volume {
            Access::Read(volume) => volume.view(),
            Access::Write(volume) => volume.view(),
            Access::Group(group) => group.view(),
        }
    }

    /// What the disk says of the nodes of its cluster now.
    ///
    /// # Errors
    /// The slot map or the heartbeat file is damaged.
    pub fn nodes(&self) -> cowfs_format::error::Result<Nodes> {
        match &self.volume {
            Access::Read(volume) => volume.nodes(),
            Access::Write(volume) => volume.nodes(),
            Access::Group(group) => group.volume().nodes(),
        }
    }

    /// The states of its journals.
    #[must_use]
    pub fn journals(&self) -> &[JournalState] {
        match &self.volume {
            Access::Read(volume) => volume.journals(),
            Access::Write(volume) => volume.journals(),
            Access::Group(group) => group.volume().journals(),
        }
    }
}
