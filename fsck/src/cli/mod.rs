//! The command line: options, exit status, what is printed where.

mod args;
mod ask;
mod print;
mod running;
mod superblock;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::error::{Error, Result};
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::report::Report;
use cowfs_format::toolkit::{alone, open, undo};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};

use args::NameHash;
pub use args::{Args, command};
use ask::ask;
use print::{clean, exit_bits, explain, failed};
use running::Running;
use superblock::{none_at_all, usable_backup, with_backup};

use crate::catalogue::{self, Finding};
use crate::check::check_with;
use crate::pass::superblock::needs_check;
use crate::repair::policy::{Answer, Decider, Mode};
use crate::repair::{self, FromSeal, rebuild};
use crate::seal;

/// Runs the program: results to `out`, everything else to `err`. Returns the exit status.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    match Args::try_parse_from(args) {
        Err(error) if error.exit_code() == 0 => {
            let _ = write!(out, "{error}");
            ExitBits::CLEAN.code()
        }
        Err(error) => {
            let _ = write!(err, "{error}");
            ExitBits::USAGE.code()
        }
        Ok(args) => args.run(out, err).code(),
    }
}

/// A volume to be looked at, and what was found when it was opened.
type Opened = (Volume<Box<dyn Device>>, Option<Finding>);

impl Args {
    fn run(&self, out: &mut dyn Write, err: &mut dyn Write) -> ExitBits {
        if self.version {
            let _ = writeln!(out, "fsck.cowfs {}", env!("CARGO_PKG_VERSION"));
            return ExitBits::CLEAN;
        }
        if let Some(code) = &self.explain {
            return explain(code, out, err);
        }
        if self.json_schema {
            let _ = writeln!(out, "{:#}", crate::schema::document());
            return ExitBits::CLEAN;
        }
        let Some(path) = &self.volume else {
            return ExitBits::USAGE;
        };
        if let Some(log) = &self.rollback {
            return self.roll_back(path, log, out, err);
        }
        if self.seal.is_asked() {
            return self.run_seal(path, out, err);
        }
        let done = if self.repairs() {
            self.repair(path, out, err)
        } else {
            self.open(path)
                .and_then(|(volume, given)| self.check(path, &volume, given))
        };
        match done {
            Ok(report) => self.print(&report, out, err),
            Err(error) => failed(path, &error, err),
        }
    }

    fn run_seal(&self, path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> ExitBits {
        let name = path.display().to_string();
        let done = Running::start(self, &name).and_then(|running| {
            let around = seal::Around {
                scanner: &running.scanner,
                progress: &running.progress,
                undo: self.undo.as_deref(),
            };
            self.seal.run(path, &around, err)
        });
        let (report, lines) = match done {
            Ok(outcome) => outcome.report(&name),
            Err(error) => return failed(path, &error, err),
        };
        if self.json {
            return self.print(&report, out, err);
        }
        if !self.quiet || report.exit != ExitBits::CLEAN.code() {
            for line in lines {
                // Nobody listening is no failure.
                let _ = writeln!(out, "{line}");
            }
        }
        exit_bits(&report)
    }

    fn roll_back(
        &self,
        path: &Path,
        log: &Path,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> ExitBits {
        let done = match undo::roll_back(path, log, self.no) {
            Ok(done) => done,
            Err(error) => return failed(path, &error, err),
        };
        let name = path.display().to_string();
        // Nobody listening is no failure.
        let _ = if self.json {
            let report = serde_json::json!({
                "schema": 1,
                "program": "fsck.cowfs",
                "volume": name,
                "rollback": log.display().to_string(),
                "saved_bytes": done.saved,
                "restored_bytes": done.restored,
                "written": !self.no && done.restored > 0,
            });
            writeln!(out, "{report:#}")
        } else if self.quiet {
            Ok(())
        } else if done.restored == 0 {
            writeln!(out, "{name}: is as it was before already")
        } else {
            let did = if self.no { "would put" } else { "put" };
            writeln!(
                out,
                "{name}: {did} back {} bytes of {}",
                done.restored, done.saved
            )
        };
        if self.no || done.restored == 0 {
            ExitBits::CLEAN
        } else {
            ExitBits::CORRECTED
        }
    }

    /// Whether the run may write.
    fn repairs(&self) -> bool {
        let told = self.preen
            || self.yes
            || self.generations
            || self.optimize
            || self.name_hash.is_some()
            || !self.policy.is_empty()
            || self.output.is_some();
        told || (!self.no && self.asks())
    }

    /// Whether there is somebody to ask.
    fn asks(&self) -> bool {
        let told = self.no || self.preen || self.yes || self.json;
        !told && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    /// Opens the volume to be looked at; where it has no superblock at all, by what the rest of it
    /// says, which is the first finding.
    fn open(&self, path: &Path) -> Result<Opened> {
        let way = self.way()?;
        let error = match way.open(open::read_only(path)?) {
            Ok(volume) => return Ok((volume, None)),
            Err(error) if way.backup.is_some() => return Err(error),
            Err(error) => error,
        };
        if usable_backup(path).is_none()
            && let Ok((volume, given)) = rebuild::open(open::read_only(path)?)
        {
            let device: Box<dyn Device> = Box::new(volume.into_device());
            return Ok((Volume::open(device)?, Some(given)));
        }
        Err(with_backup(path, error))
    }

    fn check(
        &self,
        path: &Path,
        volume: &Volume<Box<dyn Device>>,
        given: Option<Finding>,
    ) -> Result<Report> {
        let name = path.display().to_string();
        if !self.must_check() && given.is_none() && !needs_check(volume) {
            return Ok(clean(volume, &name));
        }
        let only = self.only(volume)?;
        let running = Running::start(self, &name)?;
        running.afford(volume)?;
        let mut checked = check_with(volume, &running.scanner, &running.progress);
        if let Some(given) = given {
            checked.given(given);
        }
        if let Some(only) = only {
            checked.keep_only(only);
        }
        running.end(self, checked.report(&name))
    }

    /// Whether the volume is checked although it says that it is clean.
    fn must_check(&self) -> bool {
        self.force || self.optimize || self.name_hash.is_some() || self.only.is_some()
    }

    /// The block of the only object that is asked for.
    fn only(&self, volume: &Volume<Box<dyn Device>>) -> Result<Option<BlockNo>> {
        let Some(text) = &self.only else {
            return Ok(None);
        };
        let view = volume.view();
        let number = text.strip_prefix("group:").unwrap_or(text);
        let number = number
            .strip_prefix('<')
            .and_then(|n| n.strip_suffix('>'))
            .unwrap_or(number);
        let block = match number.parse() {
            Ok(number) => BlockNo(number),
            Err(_) => path::resolve(view, view.info().root, text.as_bytes())?,
        };
        if !view.geo().contains(block, 1) {
            let what = format!("--only {text}: the volume has no block {block}");
            return Err(Error::Input { what });
        }
        Ok(Some(block))
    }

    /// Checks a volume and repairs it.
    fn repair(&self, path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> Result<Report> {
        let name = path.display().to_string();
        let mut way = self.way()?;
        let (mut superblock, mut hopeless) = (None, None);
        let log = undo_log(path);
        // What a run that was stopped has left is no volume to go by.
        let stopped = match log.as_ref().filter(|_| self.output.is_none()) {
            Some(log) if log.exists() => repair::take_back(&open::writable(path)?, log)?,
            _ => false,
        };
        let running = Running::start(self, &name)?;
        let mut only = None;
        match way.open(open::read_only(path)?) {
            Ok(volume) => {
                let due = self.must_check() || stopped || self.output.is_some();
                if !due && !needs_check(&volume) {
                    return Ok(clean(&volume, &name));
                }
                running.afford(&volume)?;
                only = self.only(&volume)?;
            }
            Err(error) if way.backup.is_some() => return Err(error),
            // Who wants everything repaired wants a backup tried, too, and where there is none, what
            // the rest of the volume says.
            Err(error) if self.yes => match usable_backup(path) {
                Some(number) => way.backup = Some(number),
                // A seal comes first, and may be all that is left.
                None => match rebuild::rebuild(&open::read_only(path)?) {
                    Ok(rebuilt) => superblock = Some(rebuilt),
                    Err(why) => hopeless = Some(none_at_all(error, &why)),
                },
            },
            Err(error) => return Err(with_backup(path, error)),
        }
        let device: Box<dyn DeviceMut> = match &self.output {
            Some(new) => Box::new(open::copied(path, new)?),
            None => undo::writable(path, self.undo.as_deref())?,
        };
        let options = repair::Options {
            way,
            now: Timestamp::now(),
            copy: self.output.is_some(),
            undo: log.filter(|_| self.output.is_none()),
            only,
            optimize: self.optimize,
            name_hash: self.name_hash.map(NameHash::kinds),
            reset_journal: self.reset_journal,
            superblock,
            seal_file: self.seal.seal_file.clone(),
        };
        let mut decider = self.decider();
        let mut watch = |volume: &mut Volume<&dyn DeviceMut>| {
            if self.trusted {
                volume.trust();
                return Ok(());
            }
            alone::alone(volume, "fsck.cowfs", err)
        };
        let done = repair::repair(
            &device,
            &options,
            &mut decider,
            &running.scanner,
            &running.progress,
            &mut watch,
        );
        let repaired = done.map_err(|error| match (&error, hopeless) {
            (Error::NotAVolume { .. }, Some(hopeless)) => hopeless,
            _ => error,
        })?;
        let line = repaired.from_seal.as_ref().and_then(FromSeal::line);
        if let Some(line) = line.filter(|_| !self.json) {
            // Nobody listening is no failure.
            let _ = writeln!(out, "{name}: {line}");
        }
        running.end(self, repaired.report(&name))
    }

    fn decider(&self) -> Decider<'static> {
        let mode = match (self.yes, self.preen) {
            (true, _) => Mode::Yes,
            (_, true) => Mode::Preen,
            _ => Mode::Ask,
        };
        let generations = catalogue::entries()
            .map(|entry| entry.code)
            .filter(|code| self.generations && code.ends_with("_GEN"))
            .map(|code| (code, Answer::Yes));
        let decider = Decider::new(mode, generations.chain(self.policy.iter().copied()));
        if self.asks() || (!self.json && std::io::stdin().is_terminal()) {
            return decider.asking(ask);
        }
        decider
    }
}

/// Where an undo log may stand while a repair of an image file is written. Beside a device there is
/// no place for one.
fn undo_log(path: &Path) -> Option<PathBuf> {
    let path = std::fs::canonicalize(path)
        .ok()
        .filter(|path| path.is_file())?;
    let mut name = path.file_name()?.to_owned();
    name.push(".fsck-undo");
    Some(path.with_file_name(name))
}
