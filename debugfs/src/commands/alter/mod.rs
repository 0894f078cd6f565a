//! Commands that change the volume (`-w`). Each is one transaction: all of it or nothing.

pub(super) mod attributes;
mod below;
pub(super) mod content;
pub(super) mod group;
mod mode;
pub(super) mod names;
pub(super) mod raw;
pub(super) mod sizes;
pub(super) mod tune;

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::read::{dir, inode};
use cowfs_format::txn::Txn;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::{self, Base, Parent};
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::session::{Outcome, Session};
use crate::table::{Args, Command, Count, Needs, Operand, OperandKind, Opt, Run, operand};
use crate::words;

/// What a command gives.
type Said = Result<Option<Box<dyn Report>>>;

/// Blocks of one transaction of a change that may take many: an eighth of the smallest journal of
/// 4 KiB blocks.
const HELD: usize = 128;

/// A file inside the volume that need not exist yet.
const NEW: Operand = operand("NEW", OperandKind::File, Count::One);
/// Files inside the volume.
const FILES: Operand = operand("FILE", OperandKind::File, Count::Many);

/// An option with a value.
const fn value(short: char, long: &'static str, name: &'static str, help: &'static str) -> Opt {
    Opt {
        short,
        long,
        value: Some(name),
        help,
    }
}

/// An operand that is neither file nor block.
const fn word(name: &'static str) -> Operand {
    operand(name, OperandKind::Word, Count::One)
}

/// A command that changes the volume.
const fn command(
    name: &'static str,
    options: &'static [Opt],
    operands: &'static [Operand],
    (summary, about): (&'static str, &'static str),
    says: crate::schema::Says,
    run: Run,
) -> Command {
    Command {
        name,
        aliases: &[],
        options,
        operands,
        summary,
        about,
        needs: Needs::Writing,
        says,
        run,
    }
}

/// What a command did to one file.
#[derive(JsonSchema, Serialize)]
struct Altered {
    /// The inode that was changed or made.
    inode: u64,
    /// Clusters that the file lost or got, where the command is about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<u64>,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Altered {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "\tInode: {}", self.inode)?;
        if let Some(clusters) = self.clusters {
            write!(page, "   Clusters: {clusters}")?;
        }
        writeln!(page, "{}", self.outcome.note())
    }
}

/// What a command did to several files.
#[derive(JsonSchema, Serialize)]
struct AllAltered {
    /// The inodes of the operands, in their order.
    inodes: Vec<u64>,
    #[serde(flatten)]
    below: Option<Below>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What a command did to whole trees.
#[derive(JsonSchema, Serialize)]
struct Below {
    /// How many inodes were changed, those of the operands and all below them.
    changed: u64,
    /// Transactions that it took.
    transactions: u64,
}

impl Text for AllAltered {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let inodes: Vec<String> = self.inodes.iter().map(u64::to_string).collect();
        let s = if inodes.len() == 1 { "" } else { "s" };
        let note = self.outcome.note();
        if let Some(below) = &self.below {
            return writeln!(page, "\tInodes changed: {}{note}", below.changed);
        }
        writeln!(page, "\tInode{s}: {}{note}", inodes.join(" "))
    }
}

/// Changes one file; the closure is given the transaction and where names begin.
fn one(session: &mut Session, change: impl FnOnce(&mut Txn<'_>, Base) -> Result<BlockNo>) -> Said {
    counted(session, |txn, base| Ok((change(txn, base)?, None)))
}

/// Changes one file, and tells a number of clusters.
fn counted(
    session: &mut Session,
    change: impl FnOnce(&mut Txn<'_>, Base) -> Result<(BlockNo, Option<u64>)>,
) -> Said {
    let base = session.base();
    let ((inode, clusters), outcome) = session.change(|txn| change(txn, base))?;
    Ok(Some(Box::new(Altered {
        inode: inode.0,
        clusters,
        outcome,
    })))
}

/// Changes each of some files, all in one transaction.
fn each(
    session: &mut Session,
    specs: &[Vec<u8>],
    mut change: impl FnMut(&mut Txn<'_>, Base, &[u8]) -> Result<BlockNo>,
) -> Said {
    let base = session.base();
    let (inodes, outcome) = session.change(|txn| {
        let all = specs.iter().map(|spec| Ok(change(txn, base, spec)?.0));
        all.collect::<Result<Vec<u64>>>()
    })?;
    let below = None;
    Ok(Some(Box::new(AllAltered {
        inodes,
        below,
        outcome,
    })))
}

/// The inode that a file specification names, as the transaction has it.
fn find(txn: &Txn<'_>, base: Base, spec: &[u8]) -> Result<BlockNo> {
    Ok(path::resolve_from(txn.view(), base, spec)?)
}

/// The same, or nothing where there is none.
fn found(txn: &Txn<'_>, base: Base, spec: &[u8]) -> Result<Option<BlockNo>> {
    Ok(path::absent(path::resolve_from(txn.view(), base, spec))?)
}

/// The directory and name of a file that may not exist yet.
fn place(txn: &Txn<'_>, base: Base, spec: &[u8]) -> Result<Parent> {
    Ok(path::resolve_parent_from(txn.view(), base, spec)?)
}

/// What a place names now.
fn entry(txn: &Txn<'_>, at: &Parent) -> Result<Option<BlockNo>> {
    let view = txn.view();
    Ok(dir::lookup(
        view,
        &inode::read(view, at.directory)?,
        &at.name,
    )?)
}

/// Where an existing file has its name: the place, and the inode.
fn named(txn: &Txn<'_>, base: Base, spec: &[u8]) -> Result<(Parent, BlockNo)> {
    let at = place(txn, base, spec)?;
    match entry(txn, &at)? {
        Some(inode) => Ok((at, inode)),
        None => bail!("{}: no such file or directory", words::quoted(spec)),
    }
}

/// Where a file called `name` comes to stand that is put to NEW: inside it when it is a directory,
/// as with cp(1) and mv(1).
fn put_to(txn: &Txn<'_>, base: Base, new: &[u8], name: &[u8]) -> Result<Parent> {
    // A link that stands last is followed behind a slash only.
    let inside = found(txn, base, &[new, b"/"].concat())?;
    match inside {
        Some(directory) if is_directory(txn.view(), directory)? => Ok(Parent {
            directory,
            name: name.to_vec(),
        }),
        _ => place(txn, base, new),
    }
}

fn is_directory(view: View<'_>, blkno: BlockNo) -> Result<bool> {
    Ok(inode::read(view, blkno)?.file_type() == Some(FileType::Directory))
}

/// An operand that is text.
fn text_of(args: &Args, index: usize) -> Result<&str> {
    text(args.need(index)?)
}

fn text(word: &[u8]) -> Result<&str> {
    std::str::from_utf8(word).with_context(|| format!("\"{}\" is no text", words::quoted(word)))
}
