//! Commands that change what the superblock says: label, UUID, features.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::layout::{COMPAT_NAMES, Features, INCOMPAT_NAMES, RO_COMPAT_NAMES};
use cowfs_format::ops::tune;
use schemars::JsonSchema;
use serde::Serialize;

use super::attributes::hex;
use super::{Said, text};
use crate::report::{Label, Page, Text};
use crate::schema;
use crate::session::{Outcome, Session};
use crate::table::{Args, Command, Count, Needs, OperandKind, operand};
use crate::words;

/// A command that shows something, and with an operand changes it.
const fn command(
    name: &'static str,
    operand: &'static [crate::table::Operand],
    (summary, about): (&'static str, &'static str),
    says: schema::Says,
    run: crate::table::Run,
) -> Command {
    Command {
        name,
        aliases: &[],
        options: &[],
        operands: operand,
        summary,
        about,
        needs: Needs::Volume,
        says,
        run,
    }
}

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "label",
        &[operand("LABEL", OperandKind::Word, Count::Optional)],
        (
            "Shows the label of the volume, or changes it.",
            "A label has at most 64 bytes; \"\" is none. The backups of the superblock follow. Changing \
             it needs -w.",
        ),
        schema::of::<Labelled>,
        label,
    ),
    command(
        "uuid",
        &[operand("UUID", OperandKind::Word, Count::Optional)],
        (
            "Shows the UUID of the volume, or changes it.",
            "UUID is 32 hexadecimal digits, with or without dashes, or `random`. The backups of the \
             superblock follow. A cluster knows a volume by it. Changing it needs -w.",
        ),
        schema::of::<Identified>,
        uuid,
    ),
    command(
        "feature",
        &[
            operand("FEATURE", OperandKind::Word, Count::Optional),
            operand("FEATURE", OperandKind::Word, Count::Optional),
            operand("FEATURE", OperandKind::Word, Count::Optional),
        ],
        (
            "Lists the features of the volume, or switches some on and off.",
            "FEATURE switches one on, ^FEATURE or noFEATURE off. On a volume that exists sparse, \
             unwritten, inline-data, xattr, indexed-dirs, refcount and append-dio can be switched on, and \
             off as long as no file uses them, which a scan of all inodes finds out; discontig-bg can be \
             switched on. The others are chosen by mkfs. What files use already does not change: an \
             existing directory gets no index. The backups of the superblock follow. Switching needs -w.",
        ),
        schema::of::<Switched>,
        feature,
    ),
];

/// What the superblocks say after a change.
#[derive(JsonSchema, Serialize)]
struct Changed {
    /// Superblocks that were changed, backups included.
    superblocks: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

fn note(changed: Option<&Changed>) -> &'static str {
    changed.map_or("", |changed| changed.outcome.note())
}

/// The label.
#[derive(JsonSchema, Serialize)]
struct Labelled {
    #[serde(flatten)]
    label: Label,
    /// Absent when it is only shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Changed>,
}

impl Text for Labelled {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.name(self.label.text())?;
        writeln!(page, "{}", note(self.changed.as_ref()))
    }
}

fn label(session: &mut Session, args: &Args) -> Said {
    let changed = match args.get(0) {
        None => None,
        Some(label) => {
            session.require_writable()?;
            let changed = session.change(|txn| Ok(tune::set_label(txn, label)?));
            Some(changed_of(changed?))
        }
    };
    let label = Label::new(session.view()?.info().label.clone());
    Ok(Some(Box::new(Labelled { label, changed })))
}

const fn changed_of((superblocks, outcome): (usize, Outcome)) -> Changed {
    Changed {
        superblocks,
        outcome,
    }
}

/// The UUID.
#[derive(JsonSchema, Serialize)]
struct Identified {
    uuid: String,
    /// Absent when it is only shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Changed>,
}

impl Text for Identified {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "{}{}", self.uuid, note(self.changed.as_ref()))
    }
}

fn uuid(session: &mut Session, args: &Args) -> Said {
    let changed = match args.get(0) {
        None => None,
        Some(word) => {
            session.require_writable()?;
            let uuid = if word == b"random" {
                random_uuid()?
            } else {
                let digits: Vec<u8> = word.iter().copied().filter(|b| *b != b'-').collect();
                let bytes = hex(&digits).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
                bytes.with_context(|| {
                    format!(
                        "\"{}\" is no UUID, which has 32 hexadecimal digits",
                        words::quoted(word)
                    )
                })?
            };
            let changed = session.change(|txn| Ok(tune::set_uuid(txn, uuid)?));
            Some(changed_of(changed?))
        }
    };
    let uuid = session.view()?.info().uuid_text();
    Ok(Some(Box::new(Identified { uuid, changed })))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let source = std::fs::File::open("/dev/urandom");
    let filled = source.and_then(|mut file| file.read_exact(&mut bytes));
    filled.context("/dev/urandom")?;
    Ok(bytes)
}

/// A random UUID: version 4 of the usual kind.
fn random_uuid() -> Result<[u8; 16]> {
    let number = u128::from_be_bytes(random()?);
    let version = number & !(0xF << 76) | 4 << 76;
    Ok((version & !(3 << 62) | 2 << 62).to_be_bytes())
}

/// The features.
#[derive(JsonSchema, Serialize)]
struct Switched {
    /// Names of those that are on.
    on: Vec<String>,
    /// Names of those that are off.
    off: Vec<&'static str>,
    /// Absent when they are only shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Changed>,
}

impl Text for Switched {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut line = String::new();
        for name in &self.on {
            let _ = write!(line, "{name} ");
        }
        writeln!(
            page,
            "On:  {}{}",
            line.trim_end(),
            note(self.changed.as_ref())
        )?;
        writeln!(page, "Off: {}", self.off.join(" "))
    }
}

fn feature(session: &mut Session, args: &Args) -> Said {
    let changed = if args.all().is_empty() {
        None
    } else {
        session.require_writable()?;
        let (on, off) = asked_for(args)?;
        refuse_used(session, off)?;
        let seeds = random::<12>()?;
        let seed = |at: usize| {
            let bytes = seeds.get(at..at + 4).and_then(|part| part.try_into().ok());
            u32::from_le_bytes(bytes.unwrap_or_default())
        };
        let seeds = [seed(0), seed(4), seed(8)];
        let changed = session.change(|txn| Ok(tune::switch_features(txn, on, off, seeds)?));
        Some(changed_of(changed?))
    };
    let features = session.view()?.info().features;
    let on = features.names();
    let all = [COMPAT_NAMES, INCOMPAT_NAMES, RO_COMPAT_NAMES];
    let off = all
        .iter()
        .flat_map(|table| table.iter().map(|(_, name)| *name));
    let off = off.filter(|name| !on.iter().any(|on| on == name)).collect();
    Ok(Some(Box::new(Switched { on, off, changed })))
}

/// The features to be switched on, and those to be switched off.
fn asked_for(args: &Args) -> Result<(Features, Features)> {
    let none = Features::from_words(0, 0, 0);
    let (mut on, mut off) = (none, none);
    for word in args.all() {
        let word = text(word)?;
        let name = word.strip_prefix('^').or_else(|| word.strip_prefix("no"));
        // No feature begins with these letters.
        let (name, wanted) = name.map_or((word, true), |name| (name, false));
        let Some(feature) = tune::feature(name) else {
            bail!(
                "no feature {}; `feature` lists all",
                words::quoted(name.as_bytes())
            );
        };
        if let Some(why) = tune::fixed(feature, wanted) {
            let how = if wanted { "on" } else { "off" };
            bail!("{name} cannot be switched {how}: {why}");
        }
        let into = if wanted { &mut on } else { &mut off };
        into.compat |= feature.compat;
        into.incompat |= feature.incompat;
        into.ro_compat |= feature.ro_compat;
    }
    Ok((on, off))
}

/// An error when a file uses a feature that is to be switched off.
fn refuse_used(session: &mut Session, off: Features) -> Result<()> {
    if off == Features::from_words(0, 0, 0) {
        return Ok(());
    }
    session.scanner()?;
    let (scanner, view) = session.scan()?;
    for name in off.names() {
        let Some(feature) = tune::feature(&name) else {
            continue;
        };
        if let Some(inode) = tune::user_of(scanner, view, feature)? {
            bail!("{name} cannot be switched off: inode {inode} uses it, perhaps others");
        }
    }
    Ok(())
}
