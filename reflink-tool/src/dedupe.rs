//! `dedupe`: what files hold twice is kept once.

use std::ffi::OsString;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use clap::Args;
use cowfs_format::ops::dedupe::{self, Deduped, Limits, Tick};
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::toolkit::size::{parse_size, show_size};
use cowfs_format::volume::scan::Scanner;
use serde::Serialize;

use crate::volume::{Common, files_below};

/// Arguments of `dedupe`.
#[derive(Debug, Args)]
pub(crate) struct DedupeArgs {
    /// Leave out files that are smaller
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = size)]
    pub(crate) min_size: u64,
    /// Share equal data that does not begin at a multiple of 1 MiB when so much of it lies together
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = size)]
    pub(crate) min_run: u64,
    /// Compare only what begins at multiples of 1 MiB of the files; reads less
    #[arg(long, conflicts_with = "min_run")]
    pub(crate) windows_only: bool,
    /// Threads that read and compare [default: one a processor]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Files, and directories with all that is below them
    #[arg(required = true)]
    pub(crate) paths: Vec<OsString>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// What `dedupe` did.
#[derive(Debug, Serialize)]
struct Said {
    schema: u32,
    dry_run: bool,
    files: u64,
    skipped_files: u64,
    mapped_bytes: u64,
    /// Mapped by another of the files already.
    already_shared_bytes: u64,
    shared_bytes: u64,
    /// Equal to something, and left where it is.
    left_bytes: u64,
    freed_bytes: u64,
    merged_trees: u64,
    transactions: u64,
    read_bytes: u64,
    replayed_transactions: u32,
}

pub(crate) fn run(args: &DedupeArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let scanner = Scanner::new(args.threads)?;
    let volume = &mut opened.volume;
    let inodes = files_below(&scanner, volume.view(), &args.paths)?;
    let progress = Progress::start(Sink::for_terminal(args.common.quiet || args.common.json));
    let pass = AtomicU64::new(0);
    let tick = |tick: Tick| match tick {
        Tick::Pass(total) => progress.pass(pass.fetch_add(1, Ordering::Relaxed) + 1, total),
        Tick::Step(steps) => progress.step(steps),
    };
    let found = dedupe::find(&scanner, volume.view(), &inodes, args.min_size, &tick)?;
    let mut done = found.done;
    let mut ended = dedupe::run(volume, &scanner, found, &mut done, &tick);
    if ended.is_ok() && !args.windows_only {
        let limits = Limits {
            least: args.min_run,
            ..Limits::default()
        };
        let bounds = (args.min_size, limits);
        let found = dedupe::find_runs(&scanner, volume.view(), &inodes, bounds, &tick);
        ended = found.and_then(|found| {
            done.read_bytes += found.done.read_bytes;
            dedupe::run(volume, &scanner, found, &mut done, &tick)
        });
    }
    drop(progress);
    ended.with_context(|| match done.transactions {
        0 => "nothing was changed".to_owned(),
        n => format!(
            "stopped after {n} whole transactions, which stay ({} shared)",
            show_size(done.shared_bytes)
        ),
    })?;
    let Deduped {
        files,
        skipped,
        mapped_bytes,
        already_bytes,
        shared_bytes,
        left_bytes,
        freed_bytes,
        merged_trees,
        transactions,
        read_bytes,
    } = done;
    let result = Said {
        schema: 1,
        dry_run: args.common.dry_run,
        files,
        skipped_files: skipped,
        mapped_bytes,
        already_shared_bytes: already_bytes,
        shared_bytes,
        left_bytes,
        freed_bytes,
        merged_trees,
        transactions,
        read_bytes,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("shares", "would share");
        writeln!(
            out,
            "{files} files of {}: {verb} {} more and free {}; {} were shared already",
            show_size(mapped_bytes),
            show_size(shared_bytes),
            show_size(freed_bytes),
            show_size(already_bytes)
        )?;
        if left_bytes > 0 {
            writeln!(
                out,
                "{} are equal to others and stay",
                show_size(left_bytes)
            )?;
        }
        if merged_trees > 0 {
            writeln!(out, "{merged_trees} refcount trees merged into others")?;
        }
        if transactions > 1 {
            writeln!(out, "{transactions} transactions, each of them whole")?;
        }
        Ok(())
    })
}
