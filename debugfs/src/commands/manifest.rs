//! `manifest`: what a subtree holds, in a form that two volumes with the same tree share.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::ops::manifest::{self, Entry, Fields, text};
use cowfs_format::read::inode;
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::kept::Item;
use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, Opt, flag, operand};

/// Leaves extended attributes out.
pub(super) const NO_XATTRS: Opt = flag('x', "no-xattrs", "leave extended attributes out");
/// Leaves sharing out.
pub(super) const NO_SHARING: Opt = flag('r', "no-sharing", "leave out which files share clusters");
/// Takes times in.
pub(super) const TIMES: Opt = flag('t', "times", "take times of modification in");

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "manifest",
    aliases: &[],
    options: &[
        flag(
            'n',
            "no-sums",
            "leave sums of contents out, and read no contents",
        ),
        TIMES,
        NO_XATTRS,
        NO_SHARING,
    ],
    operands: &[operand("PATH", OperandKind::File, Count::Optional)],
    summary: "Lists what a subtree holds, sorted and without any number of a block, for `verify`.",
    about: "Without PATH, the whole volume from its root directory. Volumes with the same tree have \
            the same manifest, whatever their geometry and history. The first line is \
            `#cowfs-manifest 1` and what is recorded: sums, times, xattrs, sharing. Then comes a \
            line for each name, depth first, names bytewise: the path from PATH on (`.`, `./NAME`), \
            and key=value for type (file, dir, link, char, block, fifo, socket; unknown when the \
            inode cannot be read), mode, uid, gid, attr (attributes of chattr, if any), nlink (if \
            not 1), size, time (seconds.nanoseconds), device (major,minor), link (target), sha256, \
            hardlink (the first name of the same file), reflink, xattr.NAME, and trouble (what could \
            not be read: inode, names, contents, target, xattrs; the command then fails). \
            reflink=PATH:OFFSET+LENGTH@AT,... says which bytes lie in clusters of a file that comes \
            earlier, and where there (@AT is left out when it is OFFSET); holes inside count as part \
            of them. xattr.NAME=LENGTH:VALUE, or LENGTH:sha256:SUM for more than 64 bytes. Files of \
            more than 1 GiB have sha256p instead of sha256: the SHA-256 of, for each MiB that is not \
            all zeros, its number (8 bytes, least first) and its SHA-256. Bytes other than printable \
            ASCII, and the backslash, are a backslash and three octal digits (also = in the name of \
            an attribute, and : in the path of a reflink). Memory grows with the largest directories, \
            with files that have several names, and with runs of clusters that can be shared.",
    needs: Needs::Volume,
    says: |generator| schema::rows::<Item>(generator, "entries", schema::of::<Head>),
    run: manifest,
}];

/// An entry; the first one stands below the head.
struct Row<'a> {
    head: Option<Fields>,
    entry: &'a Entry,
    line: &'a std::cell::RefCell<String>,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Item::from(self.entry).serialize(serializer)
    }
}

impl Text for Row<'_> {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut line = self.line.borrow_mut();
        line.clear();
        if let Some(fields) = self.head {
            line.push_str(&text::head(fields));
        }
        text::write(&mut line, self.entry);
        page.write_all(line.as_bytes())
    }
}

/// What the form is and what is recorded; the text has it in its first line.
#[derive(JsonSchema, Serialize)]
struct Head {
    manifest: u32,
    fields: Vec<&'static str>,
}

impl Text for Head {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn manifest(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    let start = match args.get(0) {
        Some(path) => session.find(path)?,
        None => session.base().root,
    };
    let fields = Fields {
        sums: !args.has('n'),
        times: args.has('t'),
        xattrs: !args.has('x'),
        sharing: !args.has('r'),
    };
    let progress = progress(session, session.view()?);
    let (scanner, view, mut rows) = session.rows("entries")?;
    let line = std::cell::RefCell::new(String::new());
    let mut head = Some(fields);
    let mut written = Ok(());
    let step = |bytes| progress.step(bytes);
    manifest::gather(scanner, view, start, fields, &step, |found| {
        for fault in &found.faults {
            rows.fault(format!("{}: {fault}", text::shown_path(&found.entry.path)));
        }
        written = rows.row(&Row {
            head: head.take(),
            entry: &found.entry,
            line: &line,
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    written?;
    Ok(Some(Box::new(Head {
        manifest: manifest::VERSION,
        fields: fields.names().collect(),
    })))
}

/// Progress over the bytes in use of a volume; hidden where results go to the same terminal.
pub(super) fn progress(session: &Session, view: View<'_>) -> Progress {
    let progress = Progress::start(Sink::for_terminal(session.terminal));
    let bitmap = system::find(view, SystemFile::GlobalBitmap);
    let used = bitmap
        .and_then(|blkno| inode::read(view, blkno))
        .map_or(0, |bitmap| bitmap.bitmap_used());
    progress.pass(1, u64::from(used) << view.geo().cluster_bits());
    progress
}
