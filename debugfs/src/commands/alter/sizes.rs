//! Commands that change how long files are, and where they have clusters.

use anyhow::Result;
use cowfs_format::ops;
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::txn::Timestamp;

use super::{Altered, Said, command, counted, find, one, text_of, word};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, FILE, flag};

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "truncate",
        &[],
        &[FILE, word("SIZE")],
        (
            "Makes a file SIZE bytes long.",
            "What lies behind is freed, what is new reads as zeros. Sizes and offsets may have a \
             suffix: K, M, G, T.",
        ),
        schema::of::<Altered>,
        truncate,
    ),
    command(
        "punch",
        &[],
        &[FILE, word("OFFSET"), word("LENGTH")],
        (
            "Makes a range of bytes of a file a hole.",
            "Whole clusters are freed, parts of clusters become zeros. The size stays. Tells the \
             number of clusters that the file lost.",
        ),
        schema::of::<Altered>,
        punch,
    ),
    command(
        "fallocate",
        &[flag(
            'k',
            "keep-size",
            "the file does not grow, also when the range ends behind it",
        )],
        &[FILE, word("OFFSET"), word("LENGTH")],
        (
            "Gives a file clusters for a range of bytes where it has none.",
            "They are unwritten extents, which read as zeros. Tells the number of clusters that were \
             allocated.",
        ),
        schema::of::<Altered>,
        fallocate,
    ),
];

fn truncate(session: &mut Session, args: &Args) -> Said {
    let (spec, size) = (args.need(0)?, parse_size(text_of(args, 1)?)?);
    one(session, |txn, base| {
        let inode = find(txn, base, spec)?;
        ops::truncate(txn, inode, size, Timestamp::now())?;
        Ok(inode)
    })
}

/// The range of bytes that the second and third operand give.
fn range(args: &Args) -> Result<(u64, u64)> {
    Ok((
        parse_size(text_of(args, 1)?)?,
        parse_size(text_of(args, 2)?)?,
    ))
}

fn punch(session: &mut Session, args: &Args) -> Said {
    let (spec, range) = (args.need(0)?, range(args)?);
    counted(session, |txn, base| {
        let inode = find(txn, base, spec)?;
        let freed = ops::punch(txn, inode, range, Timestamp::now())?;
        Ok((inode, Some(freed)))
    })
}

fn fallocate(session: &mut Session, args: &Args) -> Said {
    let (spec, range, keep) = (args.need(0)?, range(args)?, args.has('k'));
    counted(session, |txn, base| {
        let inode = find(txn, base, spec)?;
        let allocated = ops::fallocate(txn, inode, range, keep, Timestamp::now())?;
        Ok((inode, Some(allocated)))
    })
}
