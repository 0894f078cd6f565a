//! `begin`, `commit`, `abort`: several commands that become part of the volume together.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::command;
use crate::report::{Page, Text};
use crate::schema;
use crate::session::Outcome;
use crate::table::Command;

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "begin",
        &[],
        &[],
        (
            "Begins a group of changes, one transaction for all.",
            "Every command that follows sees what those before it changed, and nothing of it is part \
             of the volume before `commit`. A command that fails changes nothing; the group goes on \
             without it, or, with -e, is given up. It is given up as well when the input ends, or the \
             program. The group must fit into the journal. Space that it frees can be used again \
             after the commit.",
        ),
        schema::nothing,
        |session, _| {
            session.begin_group()?;
            Ok(None)
        },
    ),
    command(
        "commit",
        &[],
        &[],
        (
            "Makes a group of changes part of the volume, all together.",
            "When it cannot be done, the volume is as it was before the group, which is given up.",
        ),
        schema::of::<Ended>,
        |session, _| {
            let outcome = session.end_group(true)?;
            Ok(Some(Box::new(Ended { outcome })))
        },
    ),
    command(
        "abort",
        &[],
        &[],
        (
            "Gives a group of changes up.",
            "The volume is as it was before.",
        ),
        schema::nothing,
        |session, _| {
            session.end_group(false)?;
            Ok(None)
        },
    ),
];

/// A group that was committed.
#[derive(JsonSchema, Serialize)]
struct Ended {
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Ended {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Outcome { blocks, .. } = self.outcome;
        writeln!(page, "\tBlocks: {blocks}{}", self.outcome.note())
    }
}
