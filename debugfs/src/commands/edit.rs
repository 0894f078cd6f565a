//! Commands that change the volume (`-w`). Each is one transaction: all of it or nothing.

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

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, FILE, Needs, OperandKind, Opt, operand};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "write",
        aliases: &[],
        options: &[Opt {
            short: 'o',
            long: "offset",
            value: Some("BYTES"),
            help: "write over the existing FILE from there on, breaking its sharing as needed",
        }],
        operands: &[operand("HOST", OperandKind::Host, Count::One), FILE],
        summary: "Puts a file of the host into the volume.",
        about: "FILE must not exist yet, except with -o. It gets the mode, owner and time of HOST. \
                Holes stay holes.",
        needs: Needs::Writing,
        says: schema::of::<Written>,
        run: write,
    },
    Command {
        name: "mkdir",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Makes a directory, of mode 0755 and owner 0:0.",
        about: "",
        needs: Needs::Writing,
        says: schema::of::<Made>,
        run: mkdir,
    },
];

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
}

impl Text for Written {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "\tInode: {}   Bytes: {}", self.inode, self.bytes)?;
        if let (Some(copied), Some(new)) = (self.copied_clusters, self.new_clusters) {
            write!(page, "   Copied Clusters: {copied}   New Clusters: {new}")?;
        }
        writeln!(page)
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

fn write(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let host = session.host_dir.join(OsStr::from_bytes(args.need(0)?));
    let (file, meta) = open_host(&host)?;
    let source = (&file, &*host.to_string_lossy());
    let spec = args.need(1)?;
    let now = Timestamp::now();
    let progress = Progress::start(Sink::for_terminal(session.json));
    progress.pass(1, meta.len());
    let step = |bytes| progress.step(bytes);
    let report = if let Some(text) = args.value('o') {
        let offset = parse_size(std::str::from_utf8(text).unwrap_or(""))?;
        let inode = session.find(spec)?;
        let mut txn = session.writable()?.begin()?;
        let done = ops::overwrite(&mut txn, inode, offset, source, now, &step)?;
        txn.commit()?;
        Written {
            inode: inode.0,
            bytes: done.bytes,
            copied_clusters: Some(done.copied_clusters),
            new_clusters: Some(done.new_clusters),
        }
    } else {
        let to = session.parent(spec)?;
        // The time of the last read would change with each run.
        let mut attributes = NewInode::at(now, low16(meta.mode().into()), meta.uid(), meta.gid());
        attributes.mtime = modified(&meta, now);
        let mut txn = session.writable()?.begin()?;
        let inode = ops::import_file(&mut txn, to.directory, &to.name, source, &attributes, &step)?;
        txn.commit()?;
        Written {
            inode: inode.0,
            bytes: meta.len(),
            copied_clusters: None,
            new_clusters: None,
        }
    };
    drop(progress);
    Ok(Some(Box::new(report)))
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

/// A directory that was made.
#[derive(JsonSchema, Serialize)]
struct Made {
    inode: u64,
}

impl Text for Made {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tInode: {}", self.inode)
    }
}

fn mkdir(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let to = session.parent(args.need(0)?)?;
    let new = NewInode::at(Timestamp::now(), 0o040_755, 0, 0);
    let mut txn = session.writable()?.begin()?;
    let inode = txn.make_directory(to.directory, &to.name, &new)?.0;
    txn.commit()?;
    Ok(Some(Box::new(Made { inode })))
}
