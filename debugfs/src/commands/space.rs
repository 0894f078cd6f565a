//! Commands about allocator groups.

use std::io::{self, Write};

use anyhow::Result;
use cowfs_format::block::Checked;
use cowfs_format::layout::{GROUP_BITMAP, GROUP_LIST, GroupDesc};
use cowfs_format::read::extent::ListView;
use serde::Serialize;

use super::parts::{Check, List};
use crate::report::{Page, Report, Text};
use crate::session::Session;
use crate::table::{Args, BLOCK, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "group",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows a group descriptor.",
        about: "",
        needs: Needs::Volume,
        run: |session, args| {
            let view = session.view()?;
            let group = view.block::<GroupDesc>(session.block_arg(args.need(0)?)?)?;
            Ok(Some(Box::new(Group::of(&group))))
        },
    },
    Command {
        name: "grpextents",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows the free runs of a group.",
        about: "",
        needs: Needs::Volume,
        run: grpextents,
    },
];

/// A group descriptor.
#[derive(Serialize)]
pub(super) struct Group {
    blkno: u64,
    chain: u16,
    parent_inode: u64,
    generation: u32,
    #[serde(flatten)]
    check: Check,
    total: u16,
    used: u16,
    free: u16,
    contiguous_free: u32,
    contiguous_free_hint: u16,
    bitmap_bytes: u16,
    next_group: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    discontiguous: Option<List>,
}

impl Group {
    pub(super) fn of(group: &Checked<'_, GroupDesc>) -> Self {
        let (total, free) = (group.bg_bits.get(), group.bg_free_bits_count.get());
        let discontiguous = (GROUP_BITMAP + usize::from(group.bg_size.get()) == GROUP_LIST)
            .then(|| ListView::parse(group.bytes().get(GROUP_LIST..).unwrap_or_default()))
            .flatten()
            .filter(|list| list.head.l_next_free_rec.get() > 0)
            .map(List::of);
        Self {
            blkno: group.bg_blkno.get(),
            chain: group.bg_chain.get(),
            parent_inode: group.bg_parent_dinode.get(),
            generation: group.bg_generation.get(),
            check: Check::of(&group.bg_check, group),
            total,
            used: total.saturating_sub(free),
            free,
            contiguous_free: runs(group).iter().map(|run| run.length).max().unwrap_or(0),
            contiguous_free_hint: group.bg_contig_free_bits.get(),
            bitmap_bytes: group.bg_size.get(),
            next_group: group.bg_next_group.get(),
            discontiguous,
        }
    }

    /// The lines of the group that is number `index` of its chain.
    pub(super) fn lines(&self, page: &mut Page<'_>, index: usize) -> io::Result<()> {
        if index == 0 {
            writeln!(
                page,
                "\tGroup Chain: {}   Parent Inode: {}  Generation: {}",
                self.chain, self.parent_inode, self.generation
            )?;
            self.check.line(page)?;
            writeln!(
                page,
                "\t##   {:<15}   {:<6}   {:<6}   {:<6}   {:<6}   Size",
                "Block#", "Total", "Used", "Free", "Contig"
            )?;
        }
        writeln!(
            page,
            "\t{index:<2}   {:<15}   {:<6}   {:<6}   {:<6}   {:<6}   {}",
            self.blkno, self.total, self.used, self.free, self.contiguous_free, self.bitmap_bytes
        )?;
        self.discontiguous
            .as_ref()
            .map_or(Ok(()), |list| list.lines(page))
    }
}

impl Text for Group {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.lines(page, 0)
    }
}

/// Free bits that stand together.
#[derive(Serialize)]
struct Run {
    start: u32,
    length: u32,
}

fn runs(group: &Checked<'_, GroupDesc>) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for bit in 0..u32::from(group.bg_bits.get()) {
        if group.is_set(bit) {
            continue;
        }
        match found.last_mut() {
            Some(run) if run.start + run.length == bit => run.length += 1,
            _ => found.push(Run {
                start: bit,
                length: 1,
            }),
        }
    }
    found
}

/// The free runs of a group.
#[derive(Serialize)]
struct FreeRuns {
    blkno: u64,
    total: u16,
    used: u16,
    free: u16,
    free_extents: Vec<Run>,
    longest: u32,
    average: u32,
}

fn grpextents(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let group = view.block::<GroupDesc>(session.block_arg(args.need(0)?)?)?;
    let (total, free) = (group.bg_bits.get(), group.bg_free_bits_count.get());
    let runs = runs(&group);
    let sum: u32 = runs.iter().map(|run| run.length).sum();
    let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
    Ok(Some(Box::new(FreeRuns {
        blkno: group.bg_blkno.get(),
        total,
        used: total.saturating_sub(free),
        free,
        longest: runs.iter().map(|run| run.length).max().unwrap_or(0),
        average: sum.checked_div(count).unwrap_or(0),
        free_extents: runs,
    })))
}

impl Text for FreeRuns {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tGroup# {}   Total: {}   Used: {}   Free: {}",
            self.blkno, self.total, self.used, self.free
        )?;
        writeln!(page, "\t###   Start    Length")?;
        for (i, run) in self.free_extents.iter().enumerate() {
            writeln!(page, "\t{:<3}   {:<6}   {}", i + 1, run.start, run.length)?;
        }
        writeln!(
            page,
            "\tFree Extent Count: {}   Longest: {}   Average: {}",
            self.free_extents.len(),
            self.longest,
            self.average
        )
    }
}
