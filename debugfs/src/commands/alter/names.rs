//! Commands that make, move and remove names.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::layout::device_number;
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::inode;
use cowfs_format::txn::{NewInode, Timestamp, Txn};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::{Base, Parent};
use schemars::JsonSchema;
use serde::Serialize;

use super::mode::Mode;
use super::{
    AllAltered, Altered, FILES, HELD, NEW, Said, command, each, entry, find, found, is_directory,
    named, one, place, put_to, text, text_of, value, word,
};
use crate::report::{Page, Text};
use crate::schema;
use crate::session::{Outcome, Session};
use crate::table::{Args, Command, Count, FILE, OperandKind, Opt, flag, operand};
use crate::words;

const MODE: Opt = value(
    'm',
    "mode",
    "MODE",
    "permission bits, octal or symbolic, in place of the usual ones less 022",
);
const PLAIN: Opt = flag(
    'T',
    "no-target-directory",
    "NEW is the name itself, also when it is a directory",
);
/// Bits that are taken from the mode of what is made without `-m`, as by a shell's umask.
const UMASK: u16 = 0o022;

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "mkdir",
        &[
            MODE,
            flag('p', "parents", "make the directories above it as well"),
        ],
        &[FILE],
        (
            "Makes a directory, of owner 0:0.",
            "It has the mode 0755. In a directory with the set-group-ID bit it gets that directory's \
             group and the bit; a default ACL is inherited and decides on the mode. With -p it may \
             exist already.",
        ),
        schema::of::<Altered>,
        mkdir,
    ),
    command(
        "rmdir",
        &[],
        &[FILES],
        ("Removes empty directories.", ""),
        schema::of::<AllAltered>,
        rmdir,
    ),
    command(
        "unlink",
        &[],
        &[FILES],
        (
            "Removes names that are no directories.",
            "A file goes with its last name. Clusters that others share stay.",
        ),
        schema::of::<AllAltered>,
        unlink,
    ),
    command(
        "rm",
        &[flag(
            'r',
            "recursive",
            "directories with all that is in them",
        )],
        &[FILES],
        (
            "Removes files and, with -r, directories.",
            "Without -r it is one transaction. With -r a directory is emptied from its deepest names \
             on, in as many transactions as that takes; stopped in the middle, it leaves a sound \
             volume on which some of the names are gone. Inside of a group it is all or nothing.",
        ),
        schema::of::<Removed>,
        remove,
    ),
    command(
        "ln",
        &[PLAIN],
        &[FILE, NEW],
        (
            "Gives a file another name.",
            "When NEW is a directory, the name is made in it.",
        ),
        schema::of::<Altered>,
        link,
    ),
    command(
        "symlink",
        &[],
        &[word("TARGET"), NEW],
        (
            "Makes a symbolic link to TARGET, of owner 0:0.",
            "TARGET is stored as it stands and need not exist.",
        ),
        schema::of::<Altered>,
        symlink,
    ),
    command(
        "mknod",
        &[MODE],
        &[
            NEW,
            word("TYPE"),
            operand("MAJOR", OperandKind::Word, Count::Optional),
            operand("MINOR", OperandKind::Word, Count::Optional),
        ],
        (
            "Makes an empty file (f), FIFO (p), socket (s), or block (b) or character (c) device.",
            "Devices have a number, MAJOR MINOR or MAJOR:MINOR. The owner is 0:0, the mode 0644. \
             Group and ACL are inherited as by mkdir.",
        ),
        schema::of::<Altered>,
        mknod,
    ),
    command(
        "mv",
        &[PLAIN],
        &[FILES, NEW],
        (
            "Moves names, as rename(2) does.",
            "When NEW is a directory, they are moved into it. What the new name led to is replaced: a \
             file by a file, with -T an empty directory by a directory.",
        ),
        schema::of::<AllAltered>,
        rename,
    ),
    command(
        "reflink",
        &[
            flag(
                'p',
                "preserve",
                "keep owner, times and extended attributes, ACLs among them",
            ),
            PLAIN,
        ],
        &[FILE, NEW],
        (
            "Makes a copy-on-write clone of a file.",
            "It shares all clusters of the file; both are copied on write from then on. Without -p it \
             has the mode of the file, the owner 0:0, and what a new file inherits. `reflink.cowfs` \
             clones trees.",
        ),
        schema::of::<Altered>,
        reflink,
    ),
];

/// The mode of what is made: asked for with `-m`, and then without umask, or the usual one.
fn mode_of(args: &Args, kind: u16, usual: u16) -> Result<(u16, u16)> {
    match args.value('m') {
        None => Ok((kind | usual, UMASK)),
        Some(word) => {
            let mode = Mode::parse(text(word)?)?.applied(kind | usual & !UMASK);
            Ok((mode, 0))
        }
    }
}

/// Makes something in a directory, with what it inherits there.
pub(super) fn make(
    txn: &mut Txn<'_>,
    at: &Parent,
    (mode, umask): (u16, u16),
    make: impl FnOnce(&mut Txn<'_>, &NewInode) -> cowfs_format::error::Result<BlockNo>,
) -> Result<BlockNo> {
    let now = Timestamp::now();
    let mut new = NewInode::at(now, mode, 0, 0);
    let inherited = ops::acl::inherit(txn, at.directory, &mut new, umask)?;
    let inode = make(txn, &new)?;
    inherited.give(txn, inode, now)?;
    Ok(inode)
}

fn mkdir(session: &mut Session, args: &Args) -> Said {
    let mode = mode_of(args, 0o040_000, 0o777)?;
    let spec = args.need(0)?;
    one(session, |txn, base| {
        if args.has('p') {
            return make_path(txn, base, spec, mode);
        }
        let at = place(txn, base, spec)?;
        make(txn, &at, mode, |txn, new| {
            txn.make_directory(at.directory, &at.name, new)
        })
    })
}

/// Makes a directory and those above it, as far as they do not exist yet.
fn make_path(txn: &mut Txn<'_>, base: Base, spec: &[u8], mode: (u16, u16)) -> Result<BlockNo> {
    let mut ends: Vec<usize> = (1..spec.len())
        .filter(|&at| spec[at] == b'/' && spec[at - 1] != b'/')
        .collect();
    if !spec.ends_with(b"/") {
        ends.push(spec.len());
    }
    let mut last = None;
    let count = ends.len();
    for (i, end) in ends.into_iter().enumerate() {
        let part = spec.get(..end).unwrap_or_default();
        // Links on the way are followed.
        last = match found(txn, base, &[part, b"/"].concat())? {
            Some(inode) if is_directory(txn.view(), inode)? => Some(inode),
            Some(_) => bail!("{}: it is no directory", words::quoted(part)),
            None => {
                let at = place(txn, base, part)?;
                let mode = if i + 1 == count {
                    mode
                } else {
                    (0o040_777, UMASK)
                };
                Some(make(txn, &at, mode, |txn, new| {
                    txn.make_directory(at.directory, &at.name, new)
                })?)
            }
        };
    }
    last.map_or_else(|| find(txn, base, spec), Ok)
}

fn rmdir(session: &mut Session, args: &Args) -> Said {
    each(session, args.all(), |txn, base, spec| {
        let (at, inode) = named(txn, base, spec)?;
        ops::rmdir(txn, at.directory, &at.name, Timestamp::now())?;
        Ok(inode)
    })
}

fn unlink(session: &mut Session, args: &Args) -> Said {
    each(session, args.all(), |txn, base, spec| {
        let (at, inode) = named(txn, base, spec)?;
        ops::unlink(txn, at.directory, &at.name, Timestamp::now())?;
        Ok(inode)
    })
}

/// What was removed.
#[derive(JsonSchema, Serialize)]
struct Removed {
    /// Names that are gone.
    names: u64,
    /// Transactions that it took.
    transactions: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Removed {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let s = if self.names == 1 { "" } else { "s" };
        writeln!(
            page,
            "\tRemoved {} name{s}{}",
            self.names,
            self.outcome.note()
        )
    }
}

fn remove(session: &mut Session, args: &Args) -> Said {
    let base = session.base();
    let batches = args.has('r') && !session.in_group();
    let most = if batches { HELD } else { usize::MAX };
    let mut left = args.all().iter();
    let mut tree = None;
    let (mut names, mut transactions, mut blocks) = (0, 0, 0);
    // Each round is a transaction: as many names as it holds.
    loop {
        let step = session.change(|txn| {
            let mut gone = 0;
            while txn.staged_blocks() < most {
                let Some(mut one) = tree.take() else {
                    let Some(spec) = left.next() else { break };
                    match begin_removal(txn, base, spec, args.has('r'))? {
                        Some(directory) => tree = Some(directory),
                        None => gone += 1,
                    }
                    continue;
                };
                let before = one.names();
                let done = one.step(txn, most, Timestamp::now())?;
                gone += one.names() - before;
                if !done {
                    tree = Some(one);
                }
            }
            Ok(gone)
        });
        let (gone, outcome) = step.with_context(|| match names {
            0 => "nothing was removed".to_owned(),
            names => format!("{names} names were removed before"),
        })?;
        names += gone;
        transactions += 1;
        blocks += outcome.blocks;
        if tree.is_none() && left.len() == 0 {
            let outcome = Outcome { blocks, ..outcome };
            return Ok(Some(Box::new(Removed {
                names,
                transactions,
                outcome,
            })));
        }
    }
}

/// Removes a name, unless it is a directory: then begins to remove that.
fn begin_removal(
    txn: &mut Txn<'_>,
    base: Base,
    spec: &[u8],
    recursive: bool,
) -> Result<Option<ops::RemoveTree>> {
    let (at, inode) = named(txn, base, spec)?;
    if !is_directory(txn.view(), inode)? {
        ops::unlink(txn, at.directory, &at.name, Timestamp::now())?;
        return Ok(None);
    }
    if !recursive {
        bail!(
            "{} is a directory; use rmdir, or rm -r",
            words::quoted(spec)
        );
    }
    // What cannot be removed in the end is left alone from the start.
    for kept in [base.root, base.cwd, txn.info().root] {
        if inode == kept {
            bail!("{} is in use as a current directory", words::quoted(spec));
        }
    }
    Ok(Some(ops::RemoveTree::new(at.directory, at.name, inode)))
}

/// The name that a file comes with: the last part of what it was called.
fn last_part(spec: &[u8]) -> &[u8] {
    let trimmed = spec.iter().rposition(|&b| b != b'/');
    let spec = trimmed.map_or(&[][..], |last| spec.get(..=last).unwrap_or_default());
    spec.rsplit(|&b| b == b'/').next().unwrap_or(spec)
}

/// Where NEW is for a file that was called `spec`.
fn target(txn: &Txn<'_>, base: Base, args: &Args, new: &[u8], spec: &[u8]) -> Result<Parent> {
    if args.has('T') {
        return place(txn, base, new);
    }
    put_to(txn, base, new, last_part(spec))
}

fn link(session: &mut Session, args: &Args) -> Said {
    let (spec, new) = (args.need(0)?, args.need(1)?);
    one(session, |txn, base| {
        let inode = find(txn, base, spec)?;
        let at = target(txn, base, args, new, spec)?;
        ops::link(txn, inode, at.directory, &at.name, Timestamp::now())?;
        Ok(inode)
    })
}

fn symlink(session: &mut Session, args: &Args) -> Said {
    let (target, new) = (args.need(0)?, args.need(1)?);
    one(session, |txn, base| {
        let at = place(txn, base, new)?;
        make(txn, &at, (0o120_777, 0), |txn, new| {
            ops::symlink(txn, at.directory, &at.name, target, new)
        })
    })
}

fn mknod(session: &mut Session, args: &Args) -> Said {
    let kind: u16 = match text_of(args, 1)? {
        "f" => 0o100_000,
        "p" => 0o010_000,
        "s" => 0o140_000,
        "b" => 0o060_000,
        "c" | "u" => 0o020_000,
        other => bail!("\"{other}\" is none of the types f, p, s, b and c"),
    };
    let device = match (kind, args.get(2)) {
        (0o060_000 | 0o020_000, Some(_)) => device_of(args)?,
        (0o060_000 | 0o020_000, None) => bail!("a device has a number; give MAJOR MINOR"),
        (_, Some(_)) => bail!("only devices have a number"),
        (_, None) => 0,
    };
    let mode = mode_of(args, kind, 0o666)?;
    let new = args.need(0)?;
    one(session, |txn, base| {
        let at = place(txn, base, new)?;
        make(txn, &at, mode, |txn, new| {
            ops::make_node(txn, at.directory, &at.name, device, new)
        })
    })
}

/// The device number that the third and perhaps fourth operand give.
fn device_of(args: &Args) -> Result<u64> {
    let first = text_of(args, 2)?;
    let (major, minor) = match (first.split_once(':'), args.get(3)) {
        (Some(pair), None) => pair,
        (None, Some(minor)) => (first, text(minor)?),
        _ => bail!("a device has a number; give MAJOR MINOR or MAJOR:MINOR"),
    };
    let number = |word: &str, most: u32| -> Result<u32> {
        let number = word.parse().ok().filter(|number| *number <= most);
        number.with_context(|| format!("\"{word}\" is no number from 0 to {most}"))
    };
    Ok(device_number(
        number(major, 0xFFF)?,
        number(minor, 0xF_FFFF)?,
    ))
}

fn rename(session: &mut Session, args: &Args) -> Said {
    let (new, specs) = args.all().split_last().context("NEW is missing")?;
    if specs.len() > 1 {
        let directory = session.find(&[new, &b"/"[..]].concat())?;
        if args.has('T') || !is_directory(session.view()?, directory)? {
            bail!("several files can be moved into a directory only");
        }
    }
    each(session, specs, |txn, base, spec| {
        let (from, inode) = named(txn, base, spec)?;
        let to = target(txn, base, args, new, &from.name)?;
        ops::rename(
            txn,
            (from.directory, &from.name),
            (to.directory, &to.name),
            Timestamp::now(),
        )?;
        Ok(inode)
    })
}

fn reflink(session: &mut Session, args: &Args) -> Said {
    let (spec, new) = (args.need(0)?, args.need(1)?);
    let preserve = args.has('p');
    let now = Timestamp::now();
    one(session, |txn, base| {
        let source = find(txn, base, spec)?;
        let at = target(txn, base, args, new, spec)?;
        if entry(txn, &at)?.is_some() {
            bail!("{}: a file of that name exists", words::quoted(new));
        }
        let mode = inode::read(txn.view(), source)?.i_mode.get();
        let mut like = NewInode::at(now, mode, 0, 0);
        let inherited = ops::acl::inherit(txn, at.directory, &mut like, 0)?;
        let options = CloneOptions {
            preserve,
            uid: like.uid,
            gid: like.gid,
            now,
        };
        let inode = ops::clone_file(txn, source, at.directory, &at.name, &options)?;
        if !preserve {
            let wanted = ops::Change {
                mode: Some(like.mode),
                ..ops::Change::default()
            };
            ops::change(txn, inode, &wanted, now)?;
            inherited.give(txn, inode, now)?;
        }
        Ok(inode)
    })
}
