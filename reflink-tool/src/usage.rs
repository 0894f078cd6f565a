//! `du` and `delta`: what files take and share, told as debugfs.cowfs tells it.

use std::ffi::OsString;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use cowfs_format::ops::usage::Account;
use cowfs_format::ops::{delta, usage};
use cowfs_format::read::inode;
use cowfs_format::toolkit::report::base64;
use cowfs_format::toolkit::sharing::{Range, Sizes, Totals};
use cowfs_format::volume::path;
use cowfs_format::volume::scan::Scanner;
use serde::Serialize;

use crate::cli::Told;
use crate::volume::{look, shown};

/// Arguments of `du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// A line for each directory below as well
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// A line for each file below as well
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Sizes as numbers of bytes
    #[arg(short, long)]
    pub(crate) bytes: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The volume: an image file or block device
    pub(crate) volume: PathBuf,
    /// Files and directories [default: /]
    pub(crate) paths: Vec<OsString>,
}

/// Arguments of `delta`.
#[derive(Debug, Args)]
pub(crate) struct DeltaArgs {
    /// Read and compare what lies in different places
    #[arg(short, long)]
    pub(crate) contents: bool,
    /// The sums only
    #[arg(short, long)]
    pub(crate) summary: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The volume: an image file or block device
    pub(crate) volume: PathBuf,
    /// A file
    pub(crate) a: OsString,
    /// The file it is compared with
    pub(crate) b: OsString,
}

/// A line of `du`.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    inode: u64,
    directory: bool,
    #[serde(flatten)]
    sizes: Sizes,
}

/// What `du` says.
#[derive(Debug, Serialize)]
struct Listed {
    schema: u32,
    entries: Vec<Line>,
    /// All paths together: what they share with each other only is exclusive to them.
    total: Sizes,
    faults: Vec<String>,
}

pub(crate) fn du(args: &DuArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let volume = look(&args.volume)?;
    let view = volume.view();
    let geo = *view.geo();
    let scanner = Scanner::new(None)?;
    let whole = [OsString::from("/")];
    let paths = if args.paths.is_empty() {
        &whole[..]
    } else {
        &args.paths
    };
    let (mut entries, mut faults, mut all) = (Vec::new(), Vec::new(), Account::default());
    let (mut written, mut first) = (Ok(()), true);
    for given in paths {
        let given = given.as_bytes();
        let start = path::resolve(view, view.info().root, given)?;
        let account = usage::subtree(&scanner, view, start, args.all, |line| {
            let line = match line {
                Ok(line) => line,
                Err((node, error)) => {
                    faults.push(format!("{}: {error}", shown(&joined(given, &node.path))));
                    return ControlFlow::Continue(());
                }
            };
            if line.node.depth > 0 && !args.recursive && !args.all {
                return ControlFlow::Continue(());
            }
            let path = joined(given, &line.node.path);
            let sizes = Sizes::of(line.usage, &geo);
            if args.json {
                entries.push(Line {
                    path_b64: std::str::from_utf8(&path).is_err().then(|| base64(&path)),
                    path: String::from_utf8_lossy(&path).into_owned(),
                    inode: line.node.blkno.0,
                    directory: line.directory,
                    sizes,
                });
                return ControlFlow::Continue(());
            }
            if std::mem::take(&mut first) {
                written = writeln!(out, "{}  Path", Sizes::head());
            }
            if written.is_ok() {
                written = writeln!(out, "{}  {}", sizes.columns(args.bytes), shown(&path));
            }
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        all.merge(account);
    }
    written?;
    let total = Sizes::of(all.usage(), &geo);
    if args.json {
        let listed = Listed {
            schema: 1,
            entries,
            total,
            faults: faults.clone(),
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&listed)?)?;
    } else if paths.len() > 1 {
        writeln!(out, "{}  total", total.columns(args.bytes))?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    for fault in faults {
        writeln!(err, "reflink.cowfs: {fault}")?;
    }
    bail!(Told)
}

fn joined(start: &[u8], below: &[u8]) -> Vec<u8> {
    let slash = !below.is_empty() && !start.ends_with(b"/");
    [start, if slash { b"/" } else { b"" }, below].concat()
}

/// What `delta` says.
#[derive(Debug, Serialize)]
struct Compared {
    schema: u32,
    ranges: Vec<Range>,
    totals: Totals,
}

pub(crate) fn delta(args: &DeltaArgs, out: &mut dyn Write) -> Result<()> {
    let volume = look(&args.volume)?;
    let view = volume.view();
    let find = |path: &OsString| path::resolve(view, view.info().root, path.as_bytes());
    let (a, b) = (
        inode::read(view, find(&args.a)?)?,
        inode::read(view, find(&args.b)?)?,
    );
    let (mut ranges, mut totals) = (Vec::new(), Totals::default());
    let (mut written, mut first) = (Ok(()), true);
    delta::compare(view, &a, &b, args.contents, |range| {
        totals.add(&range);
        let range = Range::of(&range);
        if args.json {
            if !args.summary {
                ranges.push(range);
            }
        } else if !args.summary {
            if std::mem::take(&mut first) {
                written = writeln!(out, "{}", Range::head());
            }
            if written.is_ok() {
                written = writeln!(out, "{}", range.columns());
            }
        }
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    written?;
    if args.json {
        let compared = Compared {
            schema: 1,
            ranges,
            totals,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&compared)?)?;
    } else {
        writeln!(out, "{}", totals.line())?;
    }
    Ok(())
}
