//! `refcount`: the tree that counts the sharing of clusters.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use cowfs_format::block::{Checked, MetaBlock};
use cowfs_format::layout::{Dinode, DynFeatures, RefcountBlock};
use cowfs_format::read::extent::{self, TreeStep};
use cowfs_format::read::refcount;
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;

use super::parts::{Check, List, TreeBlock};
use crate::report::{Flags, Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, FILE, Needs, flag};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "refcount",
    aliases: &[],
    options: &[flag(
        'e',
        "extents",
        "show the extent tree above the leaves too",
    )],
    operands: &[FILE],
    summary: "Shows the refcount tree of a file: root, leaves, records.",
    about: "The root block of a tree may be given as <BLOCK>.",
    needs: Needs::Volume,
    says: schema::of::<Tree>,
    run: refcount,
}];

/// A refcount tree.
#[derive(JsonSchema, Serialize)]
struct Tree {
    root: Block,
    list: Option<List>,
    tree_blocks: Vec<TreeBlock>,
    leaves: Vec<Block>,
    shared_clusters: u64,
    counted_clusters: u64,
}

/// A block of a refcount tree.
#[derive(JsonSchema, Serialize)]
pub(super) struct Block {
    blkno: u64,
    parent: u64,
    suballoc_bit: u16,
    suballoc_slot: u16,
    suballoc_group: u64,
    fs_generation: u32,
    generation: u32,
    cpos: u32,
    last_extent_block: u64,
    count: u32,
    clusters: u32,
    flags: Flags,
    #[serde(flatten)]
    check: Check,
    records: Option<Records>,
}

/// The records of a block.
#[derive(JsonSchema, Serialize)]
struct Records {
    count: u16,
    used: u16,
    records: Vec<Record>,
}

/// A range of clusters that is mapped `refcount` times.
#[derive(JsonSchema, Serialize)]
struct Record {
    cluster: u64,
    clusters: u32,
    refcount: u32,
}

impl Block {
    pub(super) fn of(block: &Checked<'_, RefcountBlock>) -> Self {
        Self {
            blkno: block.rf_blkno.get(),
            parent: block.rf_parent.get(),
            suballoc_bit: block.rf_suballoc_bit.get(),
            suballoc_slot: block.rf_suballoc_slot.get(),
            suballoc_group: block.rf_suballoc_loc.get(),
            fs_generation: block.rf_fs_generation.get(),
            generation: block.rf_generation.get(),
            cpos: block.rf_cpos.get(),
            last_extent_block: block.rf_last_eb_blk.get(),
            count: block.rf_count.get(),
            clusters: block.rf_clusters.get(),
            flags: Flags::of(block.rf_flags.get(), &[(1, "leaf"), (2, "tree")]),
            check: Check::of(&block.rf_check, block),
            records: block.records().map(|list| Records {
                count: list.head.rl_count.get(),
                used: list.head.rl_used.get(),
                records: list
                    .recs
                    .iter()
                    .map(|rec| Record {
                        cluster: rec.r_cpos.get(),
                        clusters: rec.r_clusters.get(),
                        refcount: rec.r_refcount.get(),
                    })
                    .collect(),
            }),
        }
    }
}

/// The root that a file specification names: a file's tree, or the block itself.
fn root_of(session: &Session, spec: &[u8]) -> Result<BlockNo> {
    let view = session.view()?;
    let at = session.find(spec)?;
    if view.raw(at)?.starts_with(&RefcountBlock::SIGNATURE) {
        return Ok(at);
    }
    let inode = view.block::<Dinode>(at)?;
    if !inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
        bail!("inode {at} has no refcount tree");
    }
    Ok(BlockNo(inode.i_refcount_loc.get()))
}

fn refcount(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let at = root_of(session, args.need(0)?)?;
    let view = session.view()?;
    let root = view.block::<RefcountBlock>(at)?;
    let mut tree = Tree {
        root: Block::of(&root),
        list: None,
        tree_blocks: Vec::new(),
        leaves: Vec::new(),
        shared_clusters: 0,
        counted_clusters: 0,
    };
    let mut faults = Vec::new();
    if root.is_tree() {
        // The leaves are taken one by one, so that a damaged one hides no other.
        let show = args.has('e');
        extent::walk_tree(view, at, root.body(), &mut |step| {
            match step {
                TreeStep::Fault { error, .. } => faults.push(error),
                TreeStep::Extent(extent) => match view.block::<RefcountBlock>(extent.blkno) {
                    Ok(leaf) => tree.leaves.push(Block::of(&leaf)),
                    Err(error) => faults.push(error),
                },
                TreeStep::List { .. } if !show => {}
                TreeStep::List {
                    block: Some(block),
                    list,
                    ..
                } => tree.tree_blocks.push(TreeBlock::of(block, list)),
                TreeStep::List { list, .. } => tree.list = Some(List::of(list)),
            }
            ControlFlow::Continue(())
        })?;
    } else if root.rf_parent.get() != 0 {
        bail!("block {at} is a leaf; its root is block {}", root.rf_parent);
    }
    let blocks = std::iter::once(&tree.root).chain(&tree.leaves);
    for record in blocks
        .filter_map(|block| block.records.as_ref())
        .flat_map(|r| &r.records)
    {
        tree.counted_clusters += u64::from(record.clusters);
        if record.refcount > 1 {
            tree.shared_clusters += u64::from(record.clusters);
        }
    }
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(tree)))
}

/// How often the clusters of a tree are mapped: (first cluster, clusters, count).
pub(super) fn counts(
    view: cowfs_format::block::View<'_>,
    root: BlockNo,
) -> cowfs_format::error::Result<Vec<(u64, u64, u32)>> {
    Ok(refcount::records(view, root)?
        .iter()
        .map(|rec| {
            (
                rec.r_cpos.get(),
                u64::from(rec.r_clusters.get()),
                rec.r_refcount.get(),
            )
        })
        .collect())
}

impl Block {
    pub(super) fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(
            page,
            "\tSubAlloc Bit: {}   SubAlloc Slot: {}",
            self.suballoc_bit, self.suballoc_slot
        )?;
        if self.suballoc_group != 0 {
            write!(page, "   SubAlloc Group: {}", self.suballoc_group)?;
        }
        writeln!(page, "\n\tFS Generation: {0} ({0:#x})", self.fs_generation)?;
        writeln!(page, "\tBlknum: {}   Parent: {}", self.blkno, self.parent)?;
        writeln!(
            page,
            "\tCpos: {}   Last Leaf block: {}",
            self.cpos, self.last_extent_block
        )?;
        writeln!(
            page,
            "\tReftree Count: {}   Ref clusters: {}",
            self.count, self.clusters
        )?;
        writeln!(
            page,
            "\tFlags: {:#x} {}",
            self.flags.bits,
            self.flags.line()
        )?;
        self.check.line(page)?;
        let Some(list) = &self.records else {
            return Ok(());
        };
        writeln!(
            page,
            "\tRefcount records: {}   Used: {}",
            list.count, list.used
        )?;
        writeln!(
            page,
            "\t### {:<20}   {:<12}   Reference count",
            "Physical cpos", "Clusters"
        )?;
        for (i, record) in list.records.iter().enumerate() {
            let Record {
                cluster,
                clusters,
                refcount,
            } = record;
            writeln!(page, "\t{i:<3} {cluster:<20}   {clusters:<12}   {refcount}")?;
        }
        Ok(())
    }
}

impl Text for Tree {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.root.lines(page)?;
        if let Some(list) = &self.list {
            list.lines(page)?;
        }
        self.tree_blocks.iter().try_for_each(|b| b.lines(page))?;
        self.leaves.iter().try_for_each(|leaf| leaf.lines(page))?;
        writeln!(
            page,
            "\tCounted clusters: {}   Shared clusters: {}",
            self.counted_clusters, self.shared_clusters
        )
    }
}
