//! `delta`: what two files have in common, and where they differ.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::ops::delta;
use cowfs_format::read::inode;
use cowfs_format::toolkit::sharing::{Range, Totals};
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
    says: |generator| schema::rows::<Line>(generator, "ranges", schema::of::<Sums>),
    run: delta,
}];

/// A range of bytes at the same place in both files.
#[derive(JsonSchema, Serialize)]
struct Line {
    #[serde(flatten)]
    range: Range,
    #[serde(skip)]
    first: bool,
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
        totals.add(&range);
        if args.has('s') {
            return ControlFlow::Continue(());
        }
        written = rows.row(&Line {
            range: Range::of(&range),
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

impl Text for Line {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.first {
            writeln!(page, "{}", Range::head())?;
        }
        writeln!(page, "{}", self.range.columns())
    }
}

impl Text for Sums {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "{}", self.totals.line())
    }
}
