//! A run under way: its threads, who is told how far they are, and what may end it early.

use std::time::{Duration, Instant};

use cowfs_format::device::Device;
use cowfs_format::error::{Error, Result};
use cowfs_format::toolkit::memory::{self, Guard};
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::toolkit::report::Report;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use serde_json::{Value, json};

use super::Args;
use crate::check::least_memory;

/// Part of what is free that a run takes for itself when nobody says more.
const SHARE: (u64, u64) = (9, 10);

/// What the passes are called.
const PASSES: [&str; 7] = [
    "superblock and journals",
    "groups",
    "inodes",
    "refcount trees",
    "directories",
    "counts and bitmaps",
    "owners of shared clusters",
];

/// A run under way.
pub(super) struct Running {
    pub(super) scanner: Scanner,
    pub(super) progress: Progress,
    guard: Option<Guard>,
    limit: Option<u64>,
    began: Instant,
}

impl Running {
    /// Starts threads, progress, and the watches over interrupts and memory.
    pub(super) fn start(args: &Args, name: &str) -> Result<Self> {
        let scanner = Scanner::new(args.threads.map(usize::from))?;
        // The first interrupt ends the scan, and the exit status says so; a second one kills.
        let interrupt = signal_hook::consts::SIGINT;
        let _ = signal_hook::flag::register_conditional_default(interrupt, scanner.stop_switch());
        let _ = signal_hook::flag::register(interrupt, scanner.stop_switch());
        let limit = args.max_memory.or_else(|| {
            let (part, of) = SHARE;
            Some(memory::available()? / of * part)
        });
        let guard = limit.map(|limit| Guard::start(limit, scanner.stop_switch()));
        Ok(Self {
            progress: Progress::start(sink(args, name)?),
            scanner,
            guard,
            limit,
            began: Instant::now(),
        })
    }

    /// Refuses a volume whose very size asks for more memory than there may be.
    pub(super) fn afford<D: Device>(&self, volume: &Volume<D>) -> Result<()> {
        match self.limit {
            Some(limit) if least_memory(volume.view().geo()) > limit => Err(too_little(limit)),
            _ => Ok(()),
        }
    }

    /// Ends the run: what it did, or that it took too much memory. Tells what it used, if asked.
    pub(super) fn end(self, args: &Args, report: Report) -> Result<Report> {
        let passes = self.progress.timings();
        let exceeded = self.guard.as_ref().is_some_and(Guard::exceeded);
        drop((self.guard, self.progress));
        if let Some(limit) = self
            .limit
            .filter(|_| exceeded && report.status == "cancelled")
        {
            return Err(too_little(limit));
        }
        let mut report = report;
        if args.timings > 0 {
            let mut used = used(self.began.elapsed());
            if args.timings > 1 {
                let of = |(pass, time): (&u64, &Duration)| {
                    let name = PASSES.get(cowfs_format::units::index(*pass));
                    json!({
                        "pass": pass,
                        "name": name.unwrap_or(&""),
                        "seconds": time.as_secs_f64(),
                    })
                };
                used.insert("passes".to_owned(), passes.iter().map(of).collect());
            }
            report.facts.insert("used".to_owned(), Value::Object(used));
        }
        Ok(report)
    }
}

fn too_little(limit: u64) -> Error {
    let limit = show_size(limit);
    Error::Refused {
        why: format!(
            "the check needs more than the {limit} of memory that it may use; give it more with \
             --max-memory, or run it where there is more"
        ),
    }
}

/// Who is told how far the run is.
fn sink(args: &Args, name: &str) -> Result<Sink> {
    let lines = |fd: u32, option: &str| {
        Sink::lines(fd, name.to_owned()).map_err(|error| {
            let what = format!("{option}: cannot write progress there: {error}");
            Error::Input { what }
        })
    };
    match args.progress_fd {
        // e2fsck takes 0 for a bar, and a negative number for numbers nobody asked for yet.
        Some(fd) if fd != 0 => lines(fd.unsigned_abs(), &format!("-C {fd}")),
        _ => match Sink::for_terminal(args.quiet) {
            Sink::Hidden if args.progress => lines(2, "-P"),
            sink => Ok(sink),
        },
    }
}

/// What the process used, as far as the system tells.
fn used(elapsed: Duration) -> serde_json::Map<String, Value> {
    let mut used = serde_json::Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        used.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("seconds", Some(json!(elapsed.as_secs_f64())));
    put("memory_bytes", memory::peak().map(Value::from));
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let number = |word: &str| -> Option<Value> {
        let rest = io.lines().find_map(|line| line.strip_prefix(word))?;
        rest.trim().parse::<u64>().ok().map(Value::from)
    };
    put("read_bytes", number("read_bytes:"));
    put("written_bytes", number("write_bytes:"));
    used
}
