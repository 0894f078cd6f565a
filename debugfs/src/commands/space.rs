//! Commands about allocator groups.

use std::collections::HashSet;
use std::io::{self, Write};

use anyhow::Result;
use cowfs_format::block::Checked;
use cowfs_format::error::FaultKind;
use cowfs_format::layout::{GROUP_BITMAP, GROUP_LIST, GroupDesc};
use cowfs_format::read::extent::ListView;
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;

use super::parts::{Check, List};
use crate::report::{Page, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{BLOCK, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "group",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows a group descriptor and those that follow it in its chain.",
        about: "Contig is counted from the bitmap; the hint that newer drivers keep is shown in JSON.",
        needs: Needs::Volume,
        says: schema::of::<Groups>,
        run: |session, args| {
            let groups = following(session, args.need(0)?, Group::of)?;
            Ok(Some(Box::new(Groups { groups })))
        },
    },
    Command {
        name: "grpextents",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows the free runs of a group and of those that follow it in its chain.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<AllFreeRuns>,
        run: |session, args| {
            let groups = following(session, args.need(0)?, FreeRuns::of)?;
            Ok(Some(Box::new(AllFreeRuns { groups })))
        },
    },
];

/// A group descriptor.
#[derive(JsonSchema, Serialize)]
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

/// Groups of a chain.
#[derive(JsonSchema, Serialize)]
struct Groups {
    groups: Vec<Group>,
}

impl Text for Groups {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut groups = self.groups.iter().enumerate();
        groups.try_for_each(|(i, group)| group.lines(page, i))
    }
}

/// What `make` makes of a group and of those behind it in its chain. What follows a group that
/// cannot be used is not known; that is a fault.
fn following<T>(
    session: &mut Session,
    word: &[u8],
    make: impl Fn(&Checked<'_, GroupDesc>) -> T,
) -> Result<Vec<T>> {
    let view = session.view()?;
    let first = session.block_arg(word)?;
    let mut found = vec![];
    let (mut at, mut seen, mut fault) = (first, HashSet::new(), None);
    while at.0 != 0 {
        if !seen.insert(at) {
            fault = Some(FaultKind::Loop.at(at).into());
            break;
        }
        match view.block::<GroupDesc>(at) {
            Ok(group) => {
                found.push(make(&group));
                at = BlockNo(group.bg_next_group.get());
            }
            Err(error) if at == first => return Err(error.into()),
            Err(error) => {
                fault = Some(error);
                break;
            }
        }
    }
    if let Some(fault) = fault {
        session.fault(fault);
    }
    Ok(found)
}

/// Free bits that stand together.
#[derive(JsonSchema, Serialize)]
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
#[derive(JsonSchema, Serialize)]
struct FreeRuns {
    blkno: u64,
    total: u16,
    used: u16,
    free: u16,
    free_extents: Vec<Run>,
    longest: u32,
    average: u32,
}

/// The free runs of the groups of a chain.
#[derive(JsonSchema, Serialize)]
struct AllFreeRuns {
    groups: Vec<FreeRuns>,
}

impl FreeRuns {
    fn of(group: &Checked<'_, GroupDesc>) -> Self {
        let (total, free) = (group.bg_bits.get(), group.bg_free_bits_count.get());
        let runs = runs(group);
        let sum: u32 = runs.iter().map(|run| run.length).sum();
        let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        Self {
            blkno: group.bg_blkno.get(),
            total,
            used: total.saturating_sub(free),
            free,
            longest: runs.iter().map(|run| run.length).max().unwrap_or(0),
            average: sum.checked_div(count).unwrap_or(0),
            free_extents: runs,
        }
    }
}

impl Text for AllFreeRuns {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.groups.iter().try_for_each(|group| group.text(page))
    }
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
