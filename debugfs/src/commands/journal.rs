//! Commands about what nodes write for themselves: the logs of journals, heartbeats.

use std::io::{self, Write};

use anyhow::{Context, Result};
use cowfs_format::block::View;
use cowfs_format::dump::{self, BlockKind};
use cowfs_format::layout::HeartbeatBlock;
use cowfs_format::layout::jbd2::{
    BlockHeader, COMMIT, DESCRIPTOR, INCOMPAT_64BIT, INCOMPAT_NAMES, MAGIC, REVOKE,
};
use cowfs_format::read::file::FileReader;
use cowfs_format::read::inode;
use cowfs_format::read::journal::Journal;
use cowfs_format::units::{Slot, index};
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use crate::report::{Flags, Page, Report, Text};
use crate::schema;
use crate::session::{Session, number};
use crate::table::{Args, Command, Count, Needs, OperandKind, operand};

/// Bytes of a node's place in the heartbeat file.
const SECTOR: usize = 512;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "logdump",
        aliases: &[],
        options: &[],
        operands: &[operand("SLOT", OperandKind::Number, Count::One)],
        summary: "Shows the journal of a slot block by block.",
        about: "Blocks of finished transactions stay in the log until they are overwritten; `live` \
                marks those from the start of the log on that a replay would use.",
        needs: Needs::Volume,
        says: schema::of::<Log>,
        run: logdump,
    },
    Command {
        name: "hb",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows the heartbeats of nodes.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<Heartbeats>,
        run: hb,
    },
];

/// A journal.
#[derive(JsonSchema, Serialize)]
struct Log {
    slot: u16,
    inode: u64,
    dirty: bool,
    block_size: u32,
    blocks: u32,
    first_block: u32,
    first_commit_id: u32,
    start: u32,
    errno: u32,
    feature_compat: u32,
    feature_incompat: Flags,
    feature_ro_compat: u32,
    uuid: String,
    records: Vec<Record>,
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
    /// Home blocks of a descriptor or revoke record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    homes: Vec<u64>,
}

fn logdump(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let slot = u16::try_from(number(args.need(0)?)?).context("no such slot")?;
    if slot >= view.info().max_slots {
        anyhow::bail!("the volume has {} slots", view.info().max_slots);
    }
    let journal = Journal::open(view, system::find(view, SystemFile::Journal(Slot(slot)))?)?;
    let (records, faults) = records(view, &journal);
    let sb = &journal.superblock;
    let log = Log {
        slot,
        inode: journal.inode.0,
        dirty: journal.dirty,
        block_size: sb.s_blocksize.get(),
        blocks: sb.s_maxlen.get(),
        first_block: sb.s_first.get(),
        first_commit_id: sb.s_sequence.get(),
        start: sb.s_start.get(),
        errno: sb.s_errno.get(),
        feature_compat: sb.s_feature_compat.get(),
        feature_incompat: Flags::of(sb.s_feature_incompat.get(), INCOMPAT_NAMES),
        feature_ro_compat: sb.s_feature_ro_compat.get(),
        uuid: sb.s_uuid.iter().map(|byte| format!("{byte:02X}")).collect(),
        records,
    };
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(log)))
}

/// All blocks of the log; runs of blocks that are no records are one.
fn records(view: View<'_>, journal: &Journal) -> (Vec<Record>, Vec<cowfs_format::error::Error>) {
    let sb = &journal.superblock;
    let live = live(view, journal);
    let wide = sb.s_feature_incompat.get() & INCOMPAT_64BIT != 0;
    let (mut found, mut faults) = (Vec::<Record>::new(), Vec::new());
    for at in sb.s_first.get()..sb.s_maxlen.get() {
        let block = journal.home(at.into()).and_then(|blkno| view.raw(blkno));
        let block = match block {
            Ok(block) => block,
            Err(error) => {
                faults.push(error);
                continue;
            }
        };
        let head = BlockHeader::ref_from_prefix(&block).ok();
        let head = head.filter(|(head, _)| head.h_magic.get() == MAGIC);
        let (kind, layout) = match head.map(|(head, _)| head.h_blocktype.get()) {
            Some(DESCRIPTOR) => ("descriptor", Some(BlockKind::JournalDescriptor { wide })),
            Some(REVOKE) => ("revoke", Some(BlockKind::JournalRevoke { wide })),
            Some(COMMIT) => ("commit", None),
            _ => ("data", None),
        };
        let is_live = live.contains(&at);
        match found.last_mut() {
            Some(last) if kind == "data" && last.kind == "data" && last.live == is_live => {
                last.last = at;
            }
            _ => found.push(Record {
                first: at,
                last: at,
                kind,
                sequence: head
                    .filter(|_| kind != "data")
                    .map(|(head, _)| head.h_sequence.get()),
                live: is_live,
                homes: layout.map_or_else(Vec::new, |layout| homes(layout, &block)),
            }),
        }
    }
    (found, faults)
}

/// The home blocks that a descriptor or revoke record names.
fn homes(kind: BlockKind, block: &[u8]) -> Vec<u64> {
    let tree = dump::dump(kind, block);
    let mut found: Vec<u64> = Vec::new();
    for leaf in tree.leaves() {
        match (leaf.name.to_string().as_str(), &leaf.value) {
            ("t_blocknr" | "r_blocknr", dump::Value::Number(number, ..)) => found.push(*number),
            ("t_blocknr_high", _) => {
                let high = leaf.raw.iter().fold(0, |n, &b| n << 8 | u64::from(b));
                if let Some(last) = found.last_mut() {
                    *last |= high << 32;
                }
            }
            _ => {}
        }
    }
    found
}

/// The blocks of the log that a replay would use.
fn live(view: View<'_>, journal: &Journal) -> std::collections::HashSet<u32> {
    let sb = &journal.superblock;
    let wide = sb.s_feature_incompat.get() & INCOMPAT_64BIT != 0;
    let (mut found, mut open) = (std::collections::HashSet::new(), Vec::new());
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
            DESCRIPTOR => homes(BlockKind::JournalDescriptor { wide }, &block).len(),
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
        writeln!(page, "\tDirty: {}", if self.dirty { "yes" } else { "no" })?;
        for record in &self.records {
            if record.first == record.last {
                write!(page, "\n\tBlock {}: {}", record.first, record.kind)?;
            } else {
                write!(
                    page,
                    "\n\tBlock {} to {}: {}",
                    record.first, record.last, record.kind
                )?;
            }
            if let Some(sequence) = record.sequence {
                write!(page, "   Seq: {sequence}")?;
            }
            writeln!(page, "{}", if record.live { "   live" } else { "" })?;
            for chunk in record.homes.chunks(8) {
                let line: Vec<String> = chunk.iter().map(ToString::to_string).collect();
                writeln!(page, "\t    {}", line.join(" "))?;
            }
        }
        Ok(())
    }
}

/// The heartbeats of nodes that ever wrote one.
#[derive(JsonSchema, Serialize)]
struct Heartbeats {
    nodes: Vec<Heartbeat>,
}

/// A heartbeat.
#[derive(JsonSchema, Serialize)]
struct Heartbeat {
    place: usize,
    node: u8,
    seq: u64,
    generation: u64,
    checksum: u32,
    dead_ms: u32,
}

fn hb(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = inode::read(view, system::find(view, SystemFile::Heartbeat)?)?;
    let file = FileReader::open(view, &inode)?;
    // One sector for each of 255 nodes.
    let mut bytes = vec![0; index(file.size()).min(255 * SECTOR)];
    file.read_at(0, &mut bytes)?;
    let nodes = bytes
        .chunks_exact(SECTOR)
        .enumerate()
        .filter_map(|(place, sector)| {
            let (block, _) = HeartbeatBlock::ref_from_prefix(sector).ok()?;
            (block.hb_seq.get() != 0).then(|| Heartbeat {
                place,
                node: block.hb_node,
                seq: block.hb_seq.get(),
                generation: block.hb_generation.get(),
                checksum: block.hb_cksum.get(),
                dead_ms: block.hb_dead_ms.get(),
            })
        })
        .collect();
    Ok(Some(Box::new(Heartbeats { nodes })))
}

impl Text for Heartbeats {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tnode: node              seq       generation checksum deadms"
        )?;
        for beat in &self.nodes {
            writeln!(
                page,
                "\t{:>4}: {:>4} {:016x} {:016x} {:08x} {:>6}",
                beat.place, beat.node, beat.seq, beat.generation, beat.checksum, beat.dead_ms
            )?;
        }
        Ok(())
    }
}
