//! `delta`: what two files have in common, and where they differ.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::ops::delta::{self, Relation};
use cowfs_format::read::inode;
use cowfs_format::toolkit::size::show_size;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, flag, operand};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "delta",
    aliases: &[],
    options: &[
        flag(
            'c',
            "contents",
            "read and compare what lies in different places",
        ),
        flag('s', "summary", "the sums only"),
    ],
    operands: &[
        operand("A", OperandKind::File, Count::One),
        operand("B", OperandKind::File, Count::One),
    ],
    summary: "Shows which ranges of two files are shared, equal, different, or in one only.",
    about: "What both files map to the same clusters is the same, and is not read (shared). What \
            they map to different clusters is apart; -c reads it and tells equal from different, \
            block by block. A range where neither has data is a hole; where one has none, or has \
            ended, it is only_a or only_b.",
    needs: Needs::Volume,
    says: |generator| schema::rows::<Range>(generator, "ranges", schema::of::<Sums>),
    run: delta,
}];

/// A range of bytes at the same place in both files.
#[derive(JsonSchema, Serialize)]
struct Range {
    offset: u64,
    bytes: u64,
    relation: &'static str,
    /// Where the first file has it.
    block_a: Option<u64>,
    /// Where the second file has it.
    block_b: Option<u64>,
    #[serde(skip)]
    first: bool,
}

/// Bytes of each relation.
#[derive(Default, JsonSchema, Serialize)]
struct Totals {
    shared_bytes: u64,
    hole_bytes: u64,
    apart_bytes: u64,
    equal_bytes: u64,
    different_bytes: u64,
    only_a_bytes: u64,
    only_b_bytes: u64,
}

impl Totals {
    const fn of(&mut self, relation: Relation) -> &mut u64 {
        match relation {
            Relation::Shared => &mut self.shared_bytes,
            Relation::Hole => &mut self.hole_bytes,
            Relation::Apart => &mut self.apart_bytes,
            Relation::Equal => &mut self.equal_bytes,
            Relation::Different => &mut self.different_bytes,
            Relation::OnlyA => &mut self.only_a_bytes,
            Relation::OnlyB => &mut self.only_b_bytes,
        }
    }
}

/// The end of the report.
#[derive(JsonSchema, Serialize)]
struct Sums {
    totals: Totals,
}

fn delta(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let (a, b) = (session.find(args.need(0)?)?, session.find(args.need(1)?)?);
    session.scanner()?;
    let (_, view, mut rows) = session.rows("ranges")?;
    let (a, b) = (inode::read(view, a)?, inode::read(view, b)?);
    let mut totals = Totals::default();
    let mut written = Ok(());
    let mut first = true;
    delta::compare(view, &a, &b, args.has('c'), |range| {
        *totals.of(range.relation) += range.bytes;
        if args.has('s') {
            return ControlFlow::Continue(());
        }
        written = rows.row(&Range {
            offset: range.offset,
            bytes: range.bytes,
            relation: range.relation.name(),
            block_a: range.block_a.map(|blkno| blkno.0),
            block_b: range.block_b.map(|blkno| blkno.0),
            first: std::mem::take(&mut first),
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    written?;
    Ok(Some(Box::new(Sums { totals })))
}

impl Text for Range {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.first {
            writeln!(
                page,
                "{:>14} {:>14} {:>12} {:>12}  Relation",
                "Offset", "Bytes", "Block of A", "Block of B"
            )?;
        }
        let block = |blkno: Option<u64>| blkno.map_or("-".to_owned(), |blkno| blkno.to_string());
        writeln!(
            page,
            "{:>14} {:>14} {:>12} {:>12}  {}",
            self.offset,
            self.bytes,
            block(self.block_a),
            block(self.block_b),
            self.relation
        )
    }
}

impl Text for Sums {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut totals = Totals { ..self.totals };
        let mut parts = Vec::new();
        for relation in Relation::ALL {
            let bytes = *totals.of(relation);
            if bytes > 0 {
                parts.push(format!("{} {}", relation.name(), show_size(bytes)));
            }
        }
        if parts.is_empty() {
            parts.push("both files are empty".to_owned());
        }
        writeln!(page, "{}", parts.join(", "))
    }
}
