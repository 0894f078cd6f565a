//! Names of cluster locks, and the commands of debugfs.ocfs2 that ask a running kernel.

use std::io::{self, Write};

use anyhow::{Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::{Dinode, InodeFlags};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::lockname::{LockKind, LockName};
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{
    Args, Command, Count, FILE, Needs, Operand, OperandKind, Opt, Run, flag, operand,
};
use crate::words;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "encode",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows the name of the cluster lock of an inode.",
        about: "It is the name under which a mounted cluster shows the lock. A lock name in angle \
                brackets stands for its inode wherever a FILE does.",
        needs: Needs::Volume,
        says: schema::of::<Locks>,
        run: encode,
    },
    Command {
        name: "decode",
        aliases: &[],
        options: &[],
        operands: &[operand("LOCKNAME", OperandKind::Number, Count::Many)],
        summary: "Shows which blocks the names of cluster locks stand for.",
        about: "Names may stand in angle brackets.",
        needs: Needs::Nothing,
        says: schema::of::<Locks>,
        run: decode,
    },
    running("controld", &[], &[word("dump")]),
    running("dlm_locks", &[SAVED, VALUES], &[word("LOCKNAME")]),
    running("fs_locks", &[SAVED, VALUES, BUSY], &[word("LOCKNAME")]),
    running("net_stats", &[SAVED], &[word("INTERVAL"), word("COUNT")]),
];

const SAVED: Opt = Opt {
    short: 'f',
    long: "file",
    value: Some("HOST"),
    help: "as in debugfs.ocfs2: a saved copy",
};
const VALUES: Opt = flag('l', "values", "as in debugfs.ocfs2: lock values too");
const BUSY: Opt = flag('B', "busy", "as in debugfs.ocfs2: busy locks only");

const fn word(name: &'static str) -> Operand {
    operand(name, OperandKind::Number, Count::Optional)
}

/// A command of debugfs.ocfs2 that shows what a kernel keeps in its memory.
const fn running(
    name: &'static str,
    options: &'static [Opt],
    operands: &'static [Operand],
) -> Command {
    const RUN: Run = |_, _| {
        bail!(
            "this shows the state of a mounted volume in a running kernel, which no volume holds; \
             look below /sys/kernel/debug on a node that has it mounted"
        )
    };
    Command {
        name,
        aliases: &[],
        options,
        operands,
        summary: "Needs a running kernel; fails.",
        about: "The command is known so that scripts for debugfs.ocfs2 are told why it fails: what \
                it would show is nowhere on the volume.",
        needs: Needs::Nothing,
        says: schema::nothing,
        run: RUN,
    }
}

/// Names of locks.
#[derive(JsonSchema, Serialize)]
struct Locks {
    locks: Vec<Lock>,
    #[serde(skip)]
    encoding: bool,
}

/// The name of a lock.
#[derive(JsonSchema, Serialize)]
struct Lock {
    lock: String,
    kind: &'static str,
    blkno: u64,
    generation: u32,
    /// The directory of an entry's lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<u64>,
}

impl Lock {
    fn of(name: &LockName) -> Self {
        Self {
            lock: name.to_string(),
            kind: name.kind.name(),
            blkno: name.blkno.0,
            generation: name.generation,
            parent: name.parent.map(|parent| parent.0),
        }
    }
}

impl Text for Locks {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for lock in &self.locks {
            if self.encoding {
                writeln!(page, "\t{}", lock.lock)?;
                continue;
            }
            write!(page, "\t<{}>\t{}\t{}", lock.lock, lock.blkno, lock.kind)?;
            match lock.parent {
                Some(parent) => writeln!(page, "\tin {parent}")?,
                None => writeln!(page, "\tgeneration {:#010x}", lock.generation)?,
            }
        }
        Ok(())
    }
}

fn encode(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let blkno = session.find(args.need(0)?)?;
    let name = name_of(session.view()?, blkno)?;
    Ok(Some(Box::new(Locks {
        locks: vec![Lock::of(&name)],
        encoding: true,
    })))
}

/// The lock of an inode. Only those of system files carry a generation.
fn name_of(view: View<'_>, blkno: BlockNo) -> Result<LockName> {
    let (kind, generation) = if blkno == view.info().superblock {
        (LockKind::Super, 0)
    } else {
        let inode = view.block::<Dinode>(blkno)?;
        let is_system = inode.flags().contains(InodeFlags::SYSTEM);
        let generation = if is_system {
            inode.i_generation.get()
        } else {
            0
        };
        (LockKind::Meta, generation)
    };
    Ok(LockName {
        kind,
        blkno,
        generation,
        parent: None,
    })
}

fn decode(_: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let mut locks = Vec::new();
    for word in args.all() {
        let inner = word
            .strip_prefix(b"<")
            .map_or(&word[..], |inner| inner.strip_suffix(b">").unwrap_or(word));
        match LockName::parse(inner) {
            Some(name) => locks.push(Lock::of(&name)),
            None => bail!("\"{}\" is no name of a lock", words::quoted(word)),
        }
    }
    Ok(Some(Box::new(Locks {
        locks,
        encoding: false,
    })))
}
