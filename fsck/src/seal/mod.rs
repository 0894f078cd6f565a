//! The seal on the command line: sealing, renewing, removing and verifying.

mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cowfs_format::device::Device;
use cowfs_format::error::{Error, Result};
use cowfs_format::ops::seal::{self, Beside, Found, Seal, SealOptions, Sealed, State, Watch};
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::{alone, open, undo};
use cowfs_format::txn::Timestamp;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;

pub(crate) use show::{Outcome, shown_runs};

/// Parity in percent when nobody says more.
const PERCENT: &str = "5";

/// What the command line asks of seals.
#[derive(Debug, clap::Args)]
pub(crate) struct SealArgs {
    /// Seal the volume: keep parity of its metadata, PERCENT of it (5), from which lost blocks come back.
    ///
    /// The seal is a file in the system directory, which drivers and other tools leave alone. It
    /// restores any PERCENT blocks of a group of 100, neighbours lie in different groups, and with
    /// nothing but itself: superblock, system directory and root included. -y restores from it before
    /// anything is rebuilt. What changes later is recognised and never put back; --reseal takes it in.
    #[arg(
        long,
        value_name = "PERCENT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = PERCENT,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(seal::MOST_PARITY)),
        conflicts_with_all = ["unseal", "reseal", "verify", "no", "preen", "yes", "policy", "output", "superblock", "backup", "rollback"]
    )]
    seal: Option<u16>,
    /// Seal what files hold as well.
    #[arg(long, requires = "seal")]
    data: bool,
    /// Remove the seal.
    #[arg(long, conflicts_with_all = ["reseal", "verify", "seal_file", "no", "preen", "yes", "policy", "output", "superblock", "backup", "rollback"])]
    unseal: bool,
    /// Renew the seal after changes: only groups that changed are coded anew.
    #[arg(long, conflicts_with_all = ["verify", "no", "preen", "yes", "policy", "output", "superblock", "backup", "rollback"])]
    reseal: bool,
    /// Compare everything that is sealed, and the seal, with their sums. 0: all match; 4: some do not.
    #[arg(long, conflicts_with_all = ["preen", "yes", "policy", "output", "undo", "rollback"])]
    verify: bool,
    /// Keep the seal in this file beside the volume, or take it from there.
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_file: Option<PathBuf>,
}

/// What the rest of the command line gives.
pub(crate) struct Around<'a> {
    pub(crate) scanner: &'a Scanner,
    pub(crate) progress: &'a Progress,
    /// The undo log to be kept.
    pub(crate) undo: Option<&'a Path>,
}

/// Progress as the library tells it.
pub(crate) struct Told<'p> {
    progress: &'p Progress,
    pass: AtomicU64,
}

impl<'p> Told<'p> {
    pub(crate) const fn to(progress: &'p Progress) -> Self {
        Self {
            progress,
            pass: AtomicU64::new(0),
        }
    }
}

impl Watch for Told<'_> {
    fn pass(&self, steps: u64) {
        let number = self.pass.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.pass(number, steps);
    }

    fn step(&self, steps: u64) {
        self.progress.step(steps);
    }
}

impl SealArgs {
    /// Whether the run is about a seal, and nothing else.
    pub(crate) fn is_asked(&self) -> bool {
        self.seal.is_some() || self.unseal || self.reseal || self.verify
    }

    /// Does what is asked.
    pub(crate) fn run(
        &self,
        path: &Path,
        around: &Around<'_>,
        err: &mut dyn Write,
    ) -> Result<Outcome> {
        if self.verify {
            return self.verify(path, around);
        }
        let mut options = SealOptions {
            percent: self.seal.unwrap_or(0),
            data: self.data,
            now: Timestamp::now(),
        };
        if let Some(file) = &self.seal_file {
            return self.beside(path, file, around, &mut options);
        }
        let device = undo::writable(path, around.undo)?;
        let mut volume = Volume::open(device)?;
        alone::alone(&mut volume, "fsck.cowfs", err)?;
        if self.unseal {
            seal::unseal(&mut volume, options.now)?;
            return Ok(Outcome::Unsealed);
        }
        let told = Told::to(around.progress);
        if !self.reseal {
            let sealed = seal::seal(&mut volume, around.scanner, &told, &options)?;
            return Ok(Outcome::Sealed(sealed));
        }
        let Some(found) = Seal::inside(&volume)? else {
            let what = "the volume is not sealed; seal it with --seal".to_owned();
            return Err(Error::Input { what });
        };
        intact(volume.device(), &found, around)?;
        adopt(&mut options, &found);
        let (scanner, device) = (around.scanner, volume.device());
        let renewed = seal::reseal(&volume, &found, device, scanner, &told, &options)?;
        drop(found);
        // Where the old seal has no room for what is new, it is made anew.
        let sealed = match renewed {
            Some(sealed) => sealed,
            None => seal::seal(&mut volume, around.scanner, &told, &options)?,
        };
        Ok(Outcome::Sealed(sealed))
    }

    /// Seals and renews beside the volume, which is only read.
    fn beside(
        &self,
        path: &Path,
        file: &Path,
        around: &Around<'_>,
        options: &mut SealOptions,
    ) -> Result<Outcome> {
        let volume = Volume::open(open::read_only(path)?)?;
        let told = Told::to(around.progress);
        if self.reseal {
            let device = open::writable(file)?;
            let found = named(Seal::beside(&device, around.scanner), file)?;
            same_volume(&volume, &found, file)?;
            intact(volume.device(), &found, around)?;
            adopt(options, &found);
            let renewed = seal::reseal(&volume, &found, &device, around.scanner, &told, options)?;
            return renewed.map(Outcome::Sealed).ok_or_else(|| Error::Input {
                what: format!(
                    "{}: has no room for what is new; remove it and seal again",
                    file.display()
                ),
            });
        }
        if file.exists() {
            let what = format!(
                "{}: exists already; renew it with --reseal, or remove it",
                file.display()
            );
            return Err(Error::Input { what });
        }
        let beside = Beside::new(&volume, around.scanner, options)?;
        let device = open::create_or_grow(file, beside.bytes())?;
        let sealed: Sealed = beside.write(&volume, &device, around.scanner, &told, options)?;
        Ok(Outcome::Sealed(sealed))
    }

    fn verify(&self, path: &Path, around: &Around<'_>) -> Result<Outcome> {
        let device = open::read_only(path)?;
        let told = Told::to(around.progress);
        if let Some(file) = &self.seal_file {
            let own = open::read_only(file)?;
            let found = named(Seal::beside(&own, around.scanner), file)?;
            if let Ok(volume) = Volume::open(&device) {
                same_volume(&volume, &found, file)?;
            }
            let verified = seal::verify(&device, &found, around.scanner, &told)?;
            return Ok(Outcome::verified(&found.seal, verified, around.scanner));
        }
        let volume = Volume::open(&device);
        let by_name = volume.as_ref().map(Seal::inside);
        let found = match by_name {
            Ok(Ok(None)) => {
                let what = "the volume is not sealed; seal it with --seal".to_owned();
                return Err(Error::Input { what });
            }
            Ok(Ok(Some(found))) => found,
            Ok(Err(_)) | Err(_) => {
                let uuid = volume.as_ref().ok().map(|volume| volume.info().uuid);
                Seal::search(&device, around.scanner, uuid).ok_or_else(|| Error::Input {
                    what: match (&volume, uuid) {
                        (Err(error), _) => format!("{error}; and no seal is on it"),
                        _ => "no seal is on it that could be used".to_owned(),
                    },
                })?
            }
        };
        let verified = seal::verify(&device, &found, around.scanner, &told)?;
        Ok(Outcome::verified(&found.seal, verified, around.scanner))
    }
}

/// The seal goes on as it was made.
fn adopt(options: &mut SealOptions, found: &Found<'_>) {
    options.percent = found.seal.shape.parity;
    options.data = found.seal.covers_data();
}

/// An error when something is lost that the seal would no longer have once it is renewed.
fn intact(device: &dyn Device, found: &Found<'_>, around: &Around<'_>) -> Result<()> {
    let told = Told::to(around.progress);
    let verified = seal::verify(device, found, around.scanner, &told)?;
    let lost = verified.count(State::Lost) + verified.count(State::OneBit);
    if lost == 0 {
        return Ok(());
    }
    let why = format!("{lost} sealed blocks are lost; restore them with fsck.cowfs -fy first");
    Err(Error::Refused { why })
}

fn named<T>(done: Result<T>, file: &Path) -> Result<T> {
    done.map_err(|error| Error::Input {
        what: format!("{}: {error}", file.display()),
    })
}

fn same_volume<D: Device>(volume: &Volume<D>, found: &Found<'_>, file: &Path) -> Result<()> {
    if found.seal.uuid == volume.info().uuid {
        return Ok(());
    }
    let what = format!("{}: is the seal of another volume", file.display());
    Err(Error::Input { what })
}
