//! `diff` and `verify`: volumes and kept manifests held against each other.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use cowfs_format::block::View;
use cowfs_format::device::Device;
use cowfs_format::layout::FileType;
use cowfs_format::ops::compare::{self, Change, Counts, Side, Verdict};
use cowfs_format::ops::manifest::{Fields, kind_name, text};
use cowfs_format::toolkit::open;
use cowfs_format::toolkit::report::PathText;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};
use schemars::JsonSchema;
use serde::Serialize;

use super::manifest::{NO_SHARING, NO_XATTRS, TIMES, progress};
use crate::kept::{Kept, shown_path};
use crate::report::{Page, Report, Rows, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, Opt, flag, operand};

const PATH: Opt = Opt {
    short: 'p',
    long: "path",
    value: Some("PATH"),
    help: "compare the subtrees below PATH, not all from the root directories on",
};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "diff",
        aliases: &[],
        options: &[
            flag('n', "no-contents", "do not compare contents"),
            TIMES,
            NO_XATTRS,
            NO_SHARING,
            PATH,
        ],
        operands: &[
            operand("A", OperandKind::Host, Count::One),
            operand("B", OperandKind::Host, Count::Optional),
        ],
        summary: "Compares two volumes by what they hold, or a volume and a kept manifest.",
        about: "A and B are images or devices of volumes, or files that `manifest` wrote (as text or \
                JSON); without B, the open volume is what A is compared with. Compared are paths, \
                types, modes, owners, attributes, link counts, sizes, devices, targets, hard links, \
                extended attributes, sharing and contents; of two volumes contents are compared byte \
                by byte, without sums. What a manifest does not record is not compared. A line for \
                each difference: `removed PATH (TYPE)` (only in A), `added PATH (TYPE)` (only in B), \
                `changed PATH: KEY OLD -> NEW; ...` with the keys of `manifest` (- where there is \
                none), `trouble PATH: WHY` where it cannot be said. Exit status: 0 when all is the \
                same, 1 when something differs, 2 when something could not be read or compared.",
        needs: Needs::Nothing,
        says: |generator| {
            schema::rows::<Difference>(generator, "differences", schema::of::<Outcome>)
        },
        run: diff,
    },
    Command {
        name: "verify",
        aliases: &[],
        options: &[PATH],
        operands: &[operand("MANIFEST", OperandKind::Host, Count::One)],
        summary: "Checks the open volume against a kept manifest.",
        about: "MANIFEST is a file that `manifest` wrote, as text or JSON; all that it records is \
                checked. With -p PATH, it is the manifest of that subtree. Differences are shown as \
                by `diff MANIFEST`, and the exit status is the same: 0 when the volume is as it \
                should be, 1 when it is not, 2 when that cannot be said.",
        needs: Needs::Volume,
        says: |generator| {
            schema::rows::<Difference>(generator, "differences", schema::of::<Outcome>)
        },
        run: verify,
    },
];

/// One side, before it is told what of it is compared.
enum Operand {
    Volume(Box<Volume<Box<dyn Device>>>),
    Kept(Kept),
}

impl Operand {
    fn open(session: &Session, word: &[u8]) -> Result<Self> {
        let place: PathBuf = session.host_dir.join(OsStr::from_bytes(word));
        if let Some(kept) = Kept::open(&place)? {
            return Ok(Self::Kept(kept));
        }
        let shown = || place.display().to_string();
        let device = open::read_only(&place)?;
        let volume = Volume::open(device).with_context(shown)?;
        Ok(Self::Volume(Box::new(volume)))
    }

    const fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Volume(_) => None,
            Self::Kept(kept) => Some(kept),
        }
    }
}

/// The inode that a subtree starts at.
fn start(view: View<'_>, at: Option<&[u8]>) -> Result<BlockNo> {
    let root = view.info().root;
    Ok(at.map_or(Ok(root), |at| path::resolve(view, root, at))?)
}

fn diff(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let left = Operand::open(session, args.need(0)?)?;
    let right = match args.get(1) {
        Some(word) => Some(Operand::open(session, word)?),
        None => None,
    };
    let fields = Fields {
        sums: !args.has('n'),
        times: args.has('t'),
        xattrs: !args.has('x'),
        sharing: !args.has('r'),
    };
    if fields.times {
        let kept = [Some(&left), right.as_ref()];
        if kept
            .into_iter()
            .flatten()
            .filter_map(Operand::kept)
            .any(|kept| !kept.fields.times)
        {
            bail!("-t: the manifest was written without -t and has no times");
        }
    }
    run(session, left, right, fields, args.value('p'))
}

fn verify(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let word = args.need(0)?;
    let left = Operand::open(session, word)?;
    let Some(fields) = left.kept().map(|kept| kept.fields) else {
        let shown = PathText(word.to_vec()).shown();
        bail!("{shown}: no manifest; `diff` compares two volumes");
    };
    run(session, left, None, fields, args.value('p'))
}

fn run(
    session: &mut Session,
    left: Operand,
    right: Option<Operand>,
    fields: Fields,
    at: Option<&[u8]>,
) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    if right.is_none() {
        session.opened()?;
    }
    let (first, second) = (side_of(Some(left)), side_of(right));
    let progress = [&first, &second]
        .into_iter()
        .find_map(|side| side.0.as_ref())
        .map(|volume| progress(session, volume.view()));
    let status = session.status();
    let (scanner, open, mut rows) = session.rows_beside("differences")?;
    let left = side(first.0.as_deref(), first.1, None, at)?;
    let right = side(second.0.as_deref(), second.1, open, at)?;
    let fields = fields.and(left.fields()).and(right.fields());
    let step = |bytes| {
        if let Some(progress) = &progress {
            progress.step(bytes);
        }
    };
    let mut any = false;
    let ended = compare::compare(scanner, left, right, fields, &step, |path, verdict| {
        // Should the reader of the rows go away, the status must tell all the same.
        let worse = match verdict {
            Verdict::Trouble(_) => crate::table::TROUBLE,
            _ => crate::table::DIFFERENT,
        };
        status.set(status.get().max(worse));
        any = true;
        tell(&mut rows, path, verdict)
    })?;
    let counts = ended.map_err(|why| anyhow!("{why}"))?;
    if any {
        session.differs();
    }
    Ok(Some(Box::new(Outcome::new(counts, fields))))
}

type Opened = Box<Volume<Box<dyn Device>>>;

fn side_of(operand: Option<Operand>) -> (Option<Opened>, Option<Kept>) {
    match operand {
        Some(Operand::Volume(volume)) => (Some(volume), None),
        Some(Operand::Kept(kept)) => (None, Some(kept)),
        None => (None, None),
    }
}

/// A side of the comparison: a volume of its own, a manifest, or else the open volume.
fn side<'a>(
    volume: Option<&'a Volume<Box<dyn Device>>>,
    kept: Option<Kept>,
    open: Option<View<'a>>,
    at: Option<&[u8]>,
) -> Result<Side<'a>> {
    if let Some(kept) = kept {
        return Ok(Side::Kept(kept.fields, Box::new(|each| kept.tell(each))));
    }
    let view = volume.map(Volume::view).or(open);
    let view = view.ok_or_else(|| anyhow!("no volume is open; use `open VOLUME`"))?;
    Ok(Side::Volume(view, start(view, at)?))
}

/// A difference.
#[derive(JsonSchema, Serialize)]
struct Difference {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    /// `removed`, `added`, `changed` or `trouble`.
    difference: &'static str,
    /// Type of what was removed or added.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Changed>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
    #[serde(skip)]
    shown: String,
}

/// What differs of a name: the values as they stand in the lines of manifests.
#[derive(JsonSchema, Serialize)]
struct Changed {
    key: String,
    left: Option<String>,
    right: Option<String>,
}

impl From<Change> for Changed {
    fn from(change: Change) -> Self {
        let Change { key, left, right } = change;
        Self { key, left, right }
    }
}

fn tell(rows: &mut Rows<'_>, path: &[u8], verdict: Verdict) -> io::Result<()> {
    let (json_path, path_b64) = shown_path(path);
    let mut row = Difference {
        path: json_path,
        path_b64,
        difference: "changed",
        kind: None,
        changes: Vec::new(),
        faults: Vec::new(),
        shown: text::shown_path(path),
    };
    let name = |kind: Option<FileType>| Some(kind_name(kind));
    match verdict {
        Verdict::Removed(kind) => (row.difference, row.kind) = ("removed", name(kind)),
        Verdict::Added(kind) => (row.difference, row.kind) = ("added", name(kind)),
        Verdict::Changed(changes) => {
            row.changes = changes.into_iter().map(Changed::from).collect();
        }
        Verdict::Trouble(faults) => (row.difference, row.faults) = ("trouble", faults),
    }
    for fault in &row.faults {
        rows.fault(format!("{}: {fault}", row.shown));
    }
    rows.row(&row)
}

impl Text for Difference {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "{} {}", self.difference, self.shown)?;
        if let Some(kind) = self.kind {
            write!(page, " ({kind})")?;
        }
        for (n, Changed { key, left, right }) in self.changes.iter().enumerate() {
            write!(page, "{} {key}", if n == 0 { ":" } else { ";" })?;
            let dash = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
            match (left, right) {
                (None, Some(how)) if key == "contents" => write!(page, " {how}")?,
                _ => write!(page, " {} -> {}", dash(left), dash(right))?,
            }
        }
        for (n, fault) in self.faults.iter().enumerate() {
            let shown = PathText(fault.clone().into_bytes()).shown();
            write!(page, "{} {shown}", if n == 0 { ":" } else { ";" })?;
        }
        writeln!(page)
    }
}

/// How a comparison ended; as text, silence means that all is the same.
#[derive(JsonSchema, Serialize)]
struct Outcome {
    /// What was compared besides what every manifest records.
    fields: Vec<&'static str>,
    same: u64,
    removed: u64,
    added: u64,
    changed: u64,
    trouble: u64,
}

impl Outcome {
    fn new(counts: Counts, fields: Fields) -> Self {
        let Counts {
            same,
            removed,
            added,
            changed,
            trouble,
        } = counts;
        Self {
            fields: fields.names().collect(),
            same,
            removed,
            added,
            changed,
            trouble,
        }
    }
}

impl Text for Outcome {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}
