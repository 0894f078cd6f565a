//! The command line: options, exit status, what is printed where.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::error::{Error, Result};
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::toolkit::report::Report;
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::toolkit::{alone, open, undo};
use cowfs_format::txn::Timestamp;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::{self, SystemFile};

use crate::catalogue::{self, Finding};
use crate::check::check_with;
use crate::pass::superblock::needs_check;
use crate::repair::policy::{self, Answer, Decider, Mode, Reply};
use crate::repair::{self, FromSeal, Way, rebuild};
use crate::seal;

/// Checks a volume in the OCFS2 format, and repairs it.
///
/// With -n the volume is only read; one that was not unmounted is checked as it will be once its
/// journals are replayed. Repairs are made in memory, and the whole volume is checked over them
/// until nothing is left to do; only then are they written, all together, through a journal of the
/// volume. Exit status, added up: 0 nothing is wrong, 1 problems were corrected, 4 problems are
/// left, 8 the check or a repair could not be done, 16 wrong usage, 32 interrupted. Without -n, -p,
/// -y or --policy, it asks on a terminal, and only looks elsewhere.
#[derive(Debug, Parser)]
#[command(name = "fsck.cowfs", version, disable_version_flag = true)]
pub struct Args {
    /// Check even when the volume was left cleanly.
    #[arg(short = 'f', long = "force")]
    force: bool,
    /// Only look: nothing is written.
    #[arg(short = 'n', long = "no", conflicts_with_all = ["preen", "yes", "policy", "output", "undo"])]
    no: bool,
    /// Replay journals, and repair what loses nothing and needs no decision.
    #[arg(
        short = 'p',
        long = "preen",
        visible_short_alias = 'a',
        conflicts_with = "yes"
    )]
    preen: bool,
    /// Repair everything that can be.
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Decide about a code, whatever the other options say: yes, no or ask. May be repeated.
    #[arg(long, value_name = "CODE=ANSWER", value_parser = policy::parse)]
    policy: Vec<(&'static str, Answer)>,
    /// Repair into a copy in this new file, and leave the volume alone.
    #[arg(long, value_name = "NEW")]
    output: Option<PathBuf>,
    /// Save what is written over in this new file first; --rollback puts it back.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    undo: Option<PathBuf>,
    /// Empty journals that cannot be used although they hold something: what they hold is lost.
    #[arg(long, conflicts_with = "no")]
    reset_journal: bool,
    /// Use the backup superblock in this block; needs -B.
    #[arg(
        short = 'b',
        long = "superblock",
        value_name = "BLOCK",
        requires = "block_size"
    )]
    superblock: Option<u64>,
    /// Block size of the volume, with -b or -r.
    #[arg(short = 'B', long = "block-size", value_name = "BYTES")]
    block_size: Option<String>,
    /// Use backup superblock number N, 1 to 6.
    #[arg(
        short = 'r',
        long = "backup",
        value_parser = clap::value_parser!(u32).range(1..=6),
        value_name = "N",
        conflicts_with = "superblock"
    )]
    backup: Option<u32>,
    /// Write progress for programs to this open file descriptor, as e2fsck does.
    #[arg(short = 'C', value_name = "FD")]
    progress_fd: Option<i32>,
    /// Say more: the explanation of each kind of finding.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Say nothing but findings.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Number of threads; the result is the same for any.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Put back everything that the undo log FILE saved, and exit; with -n only look.
    ///
    /// FILE is what a run with --undo left. The volume then is byte for byte as before that run, also
    /// when the run was killed; a rollback that was killed is done again. A volume that was changed
    /// after the run is refused.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preen", "yes", "superblock", "backup", "undo"])]
    rollback: Option<PathBuf>,
    #[command(flatten)]
    seal: seal::SealArgs,
    /// Explain a code and exit; `all` explains every code.
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
    /// Print the version and exit.
    #[arg(short = 'V', long = "version")]
    version: bool,
    /// Device or image file.
    #[arg(value_name = "VOLUME", required_unless_present_any = ["explain", "version"])]
    volume: Option<PathBuf>,
}

/// The command line as data, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

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
        let done = self.start(&name).and_then(|(scanner, progress)| {
            let around = seal::Around {
                scanner: &scanner,
                progress: &progress,
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
        let told = self.preen || self.yes || !self.policy.is_empty() || self.output.is_some();
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

    /// How the volume is to be opened.
    fn way(&self) -> Result<Way> {
        let block_bits = match &self.block_size {
            None => None,
            Some(text) => {
                let bytes = parse_size(text)?;
                if !(512..=4096).contains(&bytes) || !bytes.is_power_of_two() {
                    let what = format!("block size {text}: must be 512, 1024, 2048 or 4096");
                    return Err(Error::Input { what });
                }
                Some(bytes.ilog2())
            }
        };
        let backup = match (self.superblock, block_bits) {
            (Some(2), _) => None,
            (Some(block), Some(bits)) => {
                let offset = block
                    .checked_shl(bits)
                    .filter(|offset| offset >> bits == block);
                let number = (1..=6u32).find(|n| offset == Some(1 << (30 + 2 * (n - 1))));
                Some(number.ok_or_else(|| Error::Input {
                    what: format!(
                        "block {block}: no backup superblock can be there; they are at 1, 4, 16, \
                         64, 256 GiB and 1 TiB"
                    ),
                })?)
            }
            _ => self.backup,
        };
        Ok(Way { backup, block_bits })
    }

    fn check(
        &self,
        path: &Path,
        volume: &Volume<Box<dyn Device>>,
        given: Option<Finding>,
    ) -> Result<Report> {
        let name = path.display().to_string();
        if !self.force && given.is_none() && !needs_check(volume) {
            return Ok(clean(volume, &name));
        }
        let (scanner, progress) = self.start(&name)?;
        let mut checked = check_with(volume, &scanner, &progress);
        drop(progress);
        if let Some(given) = given {
            checked.given(given);
        }
        Ok(checked.report(&name))
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
        match way.open(open::read_only(path)?) {
            Ok(volume)
                if !self.force && !stopped && self.output.is_none() && !needs_check(&volume) =>
            {
                return Ok(clean(&volume, &name));
            }
            Ok(_) => {}
            Err(error) if way.backup.is_some() => return Err(error),
            // Who wants everything repaired wants a backup tried, too, and where there is none, what
            // the rest of the volume says.
            Err(error) if self.yes => match usable_backup(path) {
                Some(number) => way.backup = Some(number),
                None => {
                    // A seal comes first, and may be all that is left.
                    match rebuild::rebuild(&open::read_only(path)?) {
                        Ok(rebuilt) => superblock = Some(rebuilt),
                        Err(why) => hopeless = Some(none_at_all(error, &why)),
                    }
                }
            },
            Err(error) => return Err(with_backup(path, error)),
        }
        let device: Box<dyn DeviceMut> = match &self.output {
            Some(new) => Box::new(open::copied(path, new)?),
            None => undo::writable(path, self.undo.as_deref())?,
        };
        let (scanner, progress) = self.start(&name)?;
        let options = repair::Options {
            way,
            now: Timestamp::now(),
            copy: self.output.is_some(),
            undo: log.filter(|_| self.output.is_none()),
            reset_journal: self.reset_journal,
            superblock,
            seal_file: self.seal.seal_file.clone(),
        };
        let mut decider = self.decider();
        let mut watch =
            |volume: &mut Volume<&dyn DeviceMut>| alone::alone(volume, "fsck.cowfs", err);
        let done = repair::repair(
            &device,
            &options,
            &mut decider,
            &scanner,
            &progress,
            &mut watch,
        );
        drop(progress);
        let repaired = done.map_err(|error| match (&error, hopeless) {
            (Error::NotAVolume { .. }, Some(hopeless)) => hopeless,
            _ => error,
        })?;
        let line = repaired.from_seal.as_ref().and_then(FromSeal::line);
        if let Some(line) = line.filter(|_| !self.json) {
            // Nobody listening is no failure.
            let _ = writeln!(out, "{name}: {line}");
        }
        Ok(repaired.report(&name))
    }

    fn decider(&self) -> Decider<'static> {
        let mode = match (self.yes, self.preen) {
            (true, _) => Mode::Yes,
            (_, true) => Mode::Preen,
            _ => Mode::Ask,
        };
        let decider = Decider::new(mode, self.policy.iter().copied());
        if self.asks() || (!self.json && std::io::stdin().is_terminal()) {
            return decider.asking(ask);
        }
        decider
    }

    /// Threads, and somebody to tell how far they are.
    fn start(&self, name: &str) -> Result<(Scanner, Progress)> {
        let scanner = Scanner::new(self.threads.map(usize::from))?;
        // The first interrupt ends the scan, and the exit status says so; a second one kills.
        let interrupt = signal_hook::consts::SIGINT;
        let _ = signal_hook::flag::register_conditional_default(interrupt, scanner.stop_switch());
        let _ = signal_hook::flag::register(interrupt, scanner.stop_switch());
        let sink = match self.progress_fd {
            // e2fsck takes 0 for a bar, and a negative number for numbers nobody asked for yet.
            Some(0) => Sink::for_terminal(self.quiet),
            Some(fd) => {
                let fd = fd.unsigned_abs();
                Sink::lines(fd, name.to_owned()).map_err(|error| {
                    let what = format!("-C {fd}: cannot write progress there: {error}");
                    Error::Input { what }
                })?
            }
            None => Sink::for_terminal(self.quiet),
        };
        Ok((scanner, Progress::start(sink)))
    }

    fn print(&self, report: &Report, out: &mut dyn Write, err: &mut dyn Write) -> ExitBits {
        let done = if self.json {
            report.json(out)
        } else {
            self.text(report, out)
        };
        let bits = exit_bits(report);
        match done {
            // Whoever closed the pipe has seen enough.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                let _ = writeln!(err, "fsck.cowfs: cannot write the report: {error}");
                bits.with(ExitBits::OPERATIONAL)
            }
            _ => bits,
        }
    }

    fn text(&self, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
        report.text_findings(out)?;
        if self.verbose {
            let mut codes: Vec<&str> = report.findings.iter().map(|item| item.code).collect();
            codes.sort_unstable();
            codes.dedup();
            for entry in catalogue::entries().filter(|entry| codes.contains(&entry.code)) {
                writeln!(out, "{}:{}", entry.code, entry.explanation)?;
            }
        }
        if self.quiet {
            return Ok(());
        }
        let number = |key: &str| report.facts.get(key).and_then(serde_json::Value::as_u64);
        let mut words = vec![report.status.to_owned()];
        let errors = report.findings.len() as u64 + report.findings_left_out;
        if errors > 0 {
            words.push(format!("{errors} findings"));
        }
        for (key, what) in [("inodes", "inodes"), ("clusters", "clusters")] {
            if let Some(count) = number(key) {
                words.push(match number(&format!("{key}_used")) {
                    Some(used) => format!("{used}/{count} {what}"),
                    None => format!("{count} {what}"),
                });
            }
        }
        writeln!(out, "{}: {}", report.volume, words.join(", "))
    }
}

/// The exit status that a report asks for.
fn exit_bits(report: &Report) -> ExitBits {
    let all = [
        ExitBits::CORRECTED,
        ExitBits::UNCORRECTED,
        ExitBits::CANCELLED,
    ];
    let set = all.into_iter().filter(|bit| report.exit & bit.code() != 0);
    set.fold(ExitBits::CLEAN, ExitBits::with)
}

/// Tells why nothing could be done.
fn failed(path: &Path, error: &Error, err: &mut dyn Write) -> ExitBits {
    let message = error.to_string();
    let line = if message.contains(&path.display().to_string()) {
        format!("fsck.cowfs: {message}")
    } else {
        format!("fsck.cowfs: {}: {message}", path.display())
    };
    let _ = writeln!(err, "{line}");
    ExitBits::OPERATIONAL
}

/// Tells of a usable backup where the superblock is of no use.
fn with_backup(path: &Path, error: Error) -> Error {
    let Error::NotAVolume { why } = error else {
        return error;
    };
    Error::NotAVolume {
        why: match usable_backup(path) {
            Some(number) => {
                format!("{why}; backup superblock {number} is usable: give -r {number}")
            }
            None => why,
        },
    }
}

/// The error for a device without a superblock that nothing can be made of.
fn none_at_all(error: Error, why: &Error) -> Error {
    match error {
        Error::NotAVolume { why: first } => Error::NotAVolume {
            why: format!("{first}; none can be made anew: {}", bare(why)),
        },
        other => other,
    }
}

/// The words of a refusal.
fn bare(error: &Error) -> String {
    let words = error.to_string();
    words
        .strip_prefix("not written: ")
        .unwrap_or(&words)
        .to_owned()
}

/// The first backup superblock of use.
fn usable_backup(path: &Path) -> Option<u32> {
    (1..=6).find(|number| {
        open::read_only(path).is_ok_and(|device| Volume::open_backup(device, *number, None).is_ok())
    })
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

/// Asks on the terminal.
fn ask(question: &str) -> Reply {
    let mut stdout = std::io::stdout();
    loop {
        if write!(stdout, "{question} (y/n/a) ").is_err() || stdout.flush().is_err() {
            return Reply::No;
        }
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => return Reply::No,
            Ok(_) => {}
        }
        match line.trim() {
            "y" | "yes" => return Reply::Yes,
            "n" | "no" => return Reply::No,
            "a" | "all" => return Reply::All,
            _ => {}
        }
    }
}

/// The report of a volume that says of itself that it is clean.
fn clean(volume: &Volume<Box<dyn Device>>, name: &str) -> Report {
    let view = volume.view();
    let mut facts = serde_json::Map::new();
    let bitmap = system::find(view, SystemFile::GlobalBitmap)
        .and_then(|blkno| cowfs_format::read::inode::read(view, blkno));
    if let Ok(bitmap) = bitmap {
        facts.insert("clusters_used".to_owned(), bitmap.bitmap_used().into());
        facts.insert("clusters".to_owned(), bitmap.bitmap_total().into());
    }
    Report {
        schema: 1,
        program: "fsck.cowfs",
        volume: name.to_owned(),
        status: "clean",
        exit: ExitBits::CLEAN.code(),
        facts,
        ..Report::default()
    }
}

fn explain(code: &str, out: &mut dyn Write, err: &mut dyn Write) -> ExitBits {
    let mut found = false;
    for entry in catalogue::entries() {
        if code == "all" || entry.code.eq_ignore_ascii_case(code) {
            found = true;
            let preen = if entry.preen { ", safe to repair" } else { "" };
            let severity = entry.severity.name();
            let _ = writeln!(
                out,
                "{} ({severity}{preen}):{} {}",
                entry.code,
                entry.explanation,
                entry.repair()
            );
        }
    }
    if found {
        ExitBits::CLEAN
    } else {
        let _ = writeln!(
            err,
            "fsck.cowfs: no code \"{code}\"; --explain all lists them"
        );
        ExitBits::USAGE
    }
}
