//! `write`: putting bytes of the host into files of the volume.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowfs_format::ops;
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::low16;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Said, command, find, place, text, value};
use crate::report::{Page, Text};
use crate::schema;
use crate::session::{Outcome, Session};
use crate::table::{Args, Command, Count, FILE, OperandKind, operand};

pub(in crate::commands) const COMMANDS: &[Command] = &[command(
    "write",
    &[value(
        'o',
        "offset",
        "BYTES",
        "write over the existing FILE from there on, breaking its sharing as needed",
    )],
    &[operand("HOST", OperandKind::Host, Count::One), FILE],
    (
        "Puts a file of the host into the volume.",
        "FILE must not exist yet, except with -o. It gets the mode, owner and time of HOST. Holes stay \
         holes.",
    ),
    schema::of::<Written>,
    write,
)];

/// What was written.
#[derive(JsonSchema, Serialize)]
struct Written {
    inode: u64,
    bytes: u64,
    /// Clusters copied because others share them; with an offset only.
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_clusters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_clusters: Option<u64>,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Written {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "\tInode: {}   Bytes: {}", self.inode, self.bytes)?;
        if let (Some(copied), Some(new)) = (self.copied_clusters, self.new_clusters) {
            write!(page, "   Copied Clusters: {copied}   New Clusters: {new}")?;
        }
        writeln!(page, "{}", self.outcome.note())
    }
}

/// Opens a regular file; anything else could hang.
fn open_host(path: &Path) -> Result<(File, std::fs::Metadata)> {
    let place = || path.display().to_string();
    if !std::fs::metadata(path).with_context(place)?.is_file() {
        bail!("{} is no regular file", path.display());
    }
    let file = File::open(path).with_context(place)?;
    let meta = file.metadata().with_context(place)?;
    Ok((file, meta))
}

fn write(session: &mut Session, args: &Args) -> Said {
    let host = session.host_dir.join(OsStr::from_bytes(args.need(0)?));
    let (file, meta) = open_host(&host)?;
    let source = (&file, &*host.to_string_lossy());
    let spec = args.need(1)?;
    let base = session.base();
    let now = Timestamp::now();
    let progress = Progress::start(Sink::for_terminal(session.json));
    progress.pass(1, meta.len());
    let step = |bytes| progress.step(bytes);
    let written = if let Some(word) = args.value('o') {
        let offset = parse_size(text(word)?)?;
        let ((inode, done), outcome) = session.change(|txn| {
            let inode = find(txn, base, spec)?;
            let done = ops::overwrite(txn, inode, offset, source, now, &step)?;
            Ok((inode, done))
        })?;
        Written {
            inode: inode.0,
            bytes: done.bytes,
            copied_clusters: Some(done.copied_clusters),
            new_clusters: Some(done.new_clusters),
            outcome,
        }
    } else {
        // The time of the last read would change with each run.
        let mut attributes = NewInode::at(now, low16(meta.mode().into()), meta.uid(), meta.gid());
        attributes.mtime = modified(&meta, now);
        let (inode, outcome) = session.change(|txn| {
            let to = place(txn, base, spec)?;
            let new = &attributes;
            Ok(ops::import_file(
                txn,
                to.directory,
                &to.name,
                source,
                new,
                &step,
            )?)
        })?;
        Written {
            inode: inode.0,
            bytes: meta.len(),
            copied_clusters: None,
            new_clusters: None,
            outcome,
        }
    };
    drop(progress);
    Ok(Some(Box::new(written)))
}

/// When a host file was changed, but not after `now`, which may be a fixed time.
fn modified(meta: &std::fs::Metadata, now: Timestamp) -> Timestamp {
    let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
    let nanos = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
    if (seconds, nanos) < (now.seconds, now.nanos) {
        Timestamp { seconds, nanos }
    } else {
        now
    }
}
