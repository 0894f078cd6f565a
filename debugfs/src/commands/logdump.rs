//! `logdump`: the log of a journal, block by block.

use std::collections::HashSet;
use std::io::{self, Write};

use anyhow::{Context, Result};
use cowfs_format::block::View;
use cowfs_format::dump::BlockKind;
use cowfs_format::layout::jbd2::{BlockHeader, COMMIT, DESCRIPTOR, INCOMPAT_NAMES, MAGIC, REVOKE};
use cowfs_format::read::journal::Journal;
use cowfs_format::read::log::{self, Sums};
use cowfs_format::units::Slot;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use super::logged::{self, Image};
use crate::report::{Flags, Page, Report, Rows, Text, Told};
use crate::schema;
use crate::session::{Session, number};
use crate::table::{Args, Command, Count, Needs, OperandKind, flag, operand};

/// Names of the flags of a tag.
const TAG_FLAGS: &[(u64, &str)] = &[(1, "escape"), (2, "same-uuid"), (4, "deleted"), (8, "last")];

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "logdump",
    aliases: &[],
    options: &[flag(
        'T',
        "no-images",
        "name the images of blocks, but do not show what they hold",
    )],
    operands: &[operand("SLOT", OperandKind::Number, Count::One)],
    summary: "Shows the journal of a slot block by block.",
    about: "Blocks of finished transactions stay in the log until they are overwritten; `live` \
            marks those from the start of the log on that a replay would use. An image is shown \
            as it was then, and nothing that it points to is followed.",
    needs: Needs::Volume,
    says: |generator| schema::rows::<Record>(generator, "records", schema::of::<Log>),
    run: logdump,
}];

/// A journal.
#[derive(JsonSchema, Serialize)]
struct Log {
    slot: u16,
    inode: u64,
    dirty: bool,
    sequence: u32,
    block_type: u32,
    block_size: u32,
    blocks: u32,
    first_block: u32,
    first_commit_id: u32,
    start: u32,
    errno: u32,
    users: u32,
    dynamic_superblock: u32,
    max_transaction: u32,
    max_transaction_data: u32,
    feature_compat: u32,
    feature_incompat: Flags,
    feature_ro_compat: u32,
    uuid: String,
}

/// A run of blocks of a log.
#[derive(JsonSchema, Serialize)]
struct Record {
    first: u32,
    last: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    sequence: Option<u32>,
    /// Whether a replay would use it.
    live: bool,
    /// Whether its checksum matches, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<bool>,
    /// The blocks that a descriptor names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    /// The blocks that a revoke record names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revoked: Vec<u64>,
    /// What an image shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Image>,
    #[serde(skip)]
    title: &'static str,
}

/// A block that a descriptor names; its image follows.
#[derive(JsonSchema, Serialize)]
struct Tag {
    blkno: u64,
    flags: Flags,
}

fn logdump(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    let view = session.view()?;
    let slot = u16::try_from(number(args.need(0)?)?).context("no such slot")?;
    if slot >= view.info().max_slots {
        anyhow::bail!("the volume has {} slots", view.info().max_slots);
    }
    let journal = Journal::open(view, system::find(view, SystemFile::Journal(Slot(slot)))?)?;
    let sb = &journal.superblock;
    let log = Log {
        slot,
        inode: journal.inode.0,
        dirty: journal.dirty,
        sequence: sb.h_sequence.get(),
        block_type: sb.h_blocktype.get(),
        block_size: sb.s_blocksize.get(),
        blocks: sb.s_maxlen.get(),
        first_block: sb.s_first.get(),
        first_commit_id: sb.s_sequence.get(),
        start: sb.s_start.get(),
        errno: sb.s_errno.get(),
        users: sb.s_nr_users.get(),
        dynamic_superblock: sb.s_dynsuper.get(),
        max_transaction: sb.s_max_transaction.get(),
        max_transaction_data: sb.s_max_trans_data.get(),
        feature_compat: sb.s_feature_compat.get(),
        feature_incompat: Flags::of(sb.s_feature_incompat.get(), INCOMPAT_NAMES),
        feature_ro_compat: sb.s_feature_ro_compat.get(),
        uuid: sb.s_uuid.iter().map(|byte| format!("{byte:02X}")).collect(),
    };
    let (_, view, mut rows) = session.rows("records")?;
    rows.head(&log)?;
    records(view, &journal, !args.has('T'), &mut rows)?;
    Ok(Some(Box::new(Told(log))))
}

/// All blocks of the log; runs of blocks that are neither records nor metadata are one.
fn records(view: View<'_>, journal: &Journal, images: bool, rows: &mut Rows<'_>) -> io::Result<()> {
    let sb = &journal.superblock;
    let live = live(view, journal);
    let (form, sums) = (journal.form(), Sums::of(sb));
    let mut before: Option<Record> = None;
    // Where the superblock takes a second block, it has nothing in it.
    for at in 1..sb.s_maxlen.get() {
        let block = journal.home(at.into()).and_then(|blkno| view.raw(blkno));
        let block = match block {
            Ok(block) => block,
            Err(error) => {
                rows.fault(error);
                continue;
            }
        };
        let head = BlockHeader::ref_from_prefix(&block).ok();
        let head = head.filter(|(head, _)| head.h_magic.get() == MAGIC);
        let mut record = Record {
            first: at,
            last: at,
            kind: "data",
            sequence: head.map(|(head, _)| head.h_sequence.get()),
            live: live.contains(&at),
            checksum: None,
            tags: Vec::new(),
            revoked: Vec::new(),
            image: None,
            title: "Data",
        };
        match head.map(|(head, _)| head.h_blocktype.get()) {
            Some(DESCRIPTOR) => {
                (record.kind, record.title) = ("descriptor", "Journal Descriptor");
                let tags = log::tags(&block, form).into_iter();
                let tag = |tag: log::Tag| Tag {
                    blkno: tag.home.0,
                    flags: Flags::of(tag.flags, TAG_FLAGS),
                };
                record.tags = tags.map(tag).collect();
            }
            Some(REVOKE) => {
                (record.kind, record.title) = ("revoke", "Journal Revoke Block");
                let revoked = log::revoked(&block, form).into_iter();
                record.revoked = revoked.map(|home| home.0).collect();
            }
            Some(COMMIT) => (record.kind, record.title) = ("commit", "Journal Commit Block"),
            Some(_) => (record.kind, record.title) = ("unknown", "Unknown Block Type"),
            None => {
                let kind = BlockKind::detect(&block);
                if let Some(title) = logged::title(kind) {
                    (record.kind, record.title) = (kind.name(), title);
                    if images {
                        // What an image of older days holds is no trouble of this volume.
                        let image = Image::of(view, kind, &block, &mut Vec::new());
                        record.image = image.ok().flatten();
                    }
                }
            }
        }
        if let Some((head, _)) = head.filter(|_| form.sums()) {
            record.checksum = sums.record(&block, head.h_blocktype.get());
        }
        match &mut before {
            Some(last)
                if record.kind == "data" && last.kind == "data" && last.live == record.live =>
            {
                last.last = at;
            }
            _ => {
                if let Some(record) = before.replace(record) {
                    rows.row(&record)?;
                }
            }
        }
    }
    before.map_or(Ok(()), |record| rows.row(&record))
}

/// The blocks of the log that a replay would use.
fn live(view: View<'_>, journal: &Journal) -> HashSet<u32> {
    let sb = &journal.superblock;
    let (form, sums) = (journal.form(), Sums::of(sb));
    let (mut found, mut open) = (HashSet::new(), Vec::new());
    let (mut at, mut sequence) = (sb.s_start.get(), sb.s_sequence.get());
    let mut left = sb.s_maxlen.get();
    while at != 0 && left > 0 {
        let block = journal.home(at.into()).and_then(|blkno| view.raw(blkno));
        let Ok(block) = block else { break };
        let Ok((head, _)) = BlockHeader::ref_from_prefix(&block) else {
            break;
        };
        if head.h_magic.get() != MAGIC || head.h_sequence.get() != sequence {
            break;
        }
        let images = match head.h_blocktype.get() {
            kind if sums.record(&block, kind) == Some(false) => break,
            DESCRIPTOR => log::tags(&block, form).len(),
            COMMIT | REVOKE => 0,
            _ => break,
        };
        for _ in 0..=images {
            open.push(at);
            at = journal.next(at);
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
        // Without its commit a transaction does not count.
        if head.h_blocktype.get() == COMMIT {
            found.extend(open.drain(..));
            sequence = sequence.wrapping_add(1);
        }
    }
    found
}

impl Text for Log {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tBlock 0: Journal Superblock")?;
        writeln!(page, "\tSeq: {}   Type: {}", self.sequence, self.block_type)?;
        writeln!(
            page,
            "\tBlocksize: {}   Total Blocks: {}   First Block: {}",
            self.block_size, self.blocks, self.first_block
        )?;
        writeln!(
            page,
            "\tFirst Commit ID: {}   Start Log Blknum: {}",
            self.first_commit_id, self.start
        )?;
        writeln!(page, "\tError: {}", self.errno)?;
        writeln!(page, "\tFeature Compat: {}", self.feature_compat)?;
        writeln!(
            page,
            "\tFeature Incompat: {} {}",
            self.feature_incompat.bits,
            self.feature_incompat.line()
        )?;
        writeln!(page, "\tFeature RO compat: {}", self.feature_ro_compat)?;
        writeln!(page, "\tJournal UUID: {}", self.uuid)?;
        writeln!(
            page,
            "\tFS Share Cnt: {}   Dynamic Superblk Blknum: {}",
            self.users, self.dynamic_superblock
        )?;
        writeln!(
            page,
            "\tPer Txn Block Limit    Journal: {}    Data: {}",
            self.max_transaction, self.max_transaction_data
        )?;
        writeln!(page, "\tDirty: {}", if self.dirty { "yes" } else { "no" })?;
        Ok(())
    }
}

impl Text for Record {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self { first, last, .. } = self;
        let live = if self.live { "   live" } else { "" };
        if first == last {
            writeln!(page, "\n\tBlock {first}: {}{live}", self.title)?;
        } else {
            writeln!(page, "\n\tBlock {first} to {last}: {}{live}", self.title)?;
        }
        if let Some(sequence) = self.sequence {
            let number = match self.kind {
                "descriptor" => DESCRIPTOR,
                "commit" => COMMIT,
                "revoke" => REVOKE,
                _ => 0,
            };
            let wrong = if self.checksum == Some(false) {
                "   checksum wrong"
            } else {
                ""
            };
            writeln!(page, "\tSeq: {sequence}   Type: {number}{wrong}")?;
        }
        if !self.tags.is_empty() {
            writeln!(page, "\tNo. Blocknum        Flags")?;
        }
        for (i, tag) in self.tags.iter().enumerate() {
            let line = format!("\t{i:>2}. {:<15} {}", tag.blkno, tag.flags.line());
            writeln!(page, "{}", line.trim_end())?;
        }
        for (i, home) in self.revoked.iter().enumerate() {
            writeln!(page, "\trevoke[{i}]: {home}")?;
        }
        self.image.as_ref().map_or(Ok(()), |image| image.text(page))
    }
}
