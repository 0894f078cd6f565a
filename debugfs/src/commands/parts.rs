//! Models that several commands share: extent lists, checks, times.

use std::io::{self, Write};

use cowfs_format::block::{Checked, EccState, MetaBlock};
use cowfs_format::layout::{BlockCheck, EXTENT_FLAG_NAMES, ExtentBlock, ExtentRec};
use cowfs_format::read::extent::ListView;
use cowfs_format::time::Utc;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Flags, Page};

/// The check of a block.
#[derive(JsonSchema, Serialize)]
pub(super) struct Check {
    crc32: u32,
    ecc: u16,
    /// The bit that was wrong and is shown corrected.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected_bit: Option<usize>,
}

impl Check {
    pub(super) fn of<B: MetaBlock>(check: &BlockCheck, block: &Checked<'_, B>) -> Self {
        Self {
            crc32: check.bc_crc32.get(),
            ecc: check.bc_ecc.get(),
            corrected_bit: match block.ecc() {
                EccState::Corrected { bit } => Some(bit),
                _ => None,
            },
        }
    }

    /// The check of a block that was not tested.
    pub(super) fn plain(check: &BlockCheck) -> Self {
        Self {
            crc32: check.bc_crc32.get(),
            ecc: check.bc_ecc.get(),
            corrected_bit: None,
        }
    }

    pub(super) fn line(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "\tCRC32: {:08x}   ECC: {:04x}", self.crc32, self.ecc)?;
        match self.corrected_bit {
            Some(bit) => writeln!(page, "   Corrected bit: {bit}"),
            None => writeln!(page),
        }
    }
}

/// An extent list.
#[derive(JsonSchema, Serialize)]
pub(super) struct List {
    pub(super) tree_depth: u16,
    pub(super) count: u16,
    pub(super) next_free_rec: u16,
    pub(super) records: Vec<Rec>,
}

/// A record of an extent list.
#[derive(JsonSchema, Serialize)]
pub(super) struct Rec {
    pub(super) cpos: u32,
    pub(super) clusters: u32,
    pub(super) blkno: u64,
    /// Leaves only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flags: Option<Flags>,
}

impl List {
    pub(super) fn of(list: ListView<'_>) -> Self {
        let depth = list.head.l_tree_depth.get();
        Self {
            tree_depth: depth,
            count: list.head.l_count.get(),
            next_free_rec: list.head.l_next_free_rec.get(),
            records: list.recs.iter().map(|rec| Rec::of(rec, depth)).collect(),
        }
    }

    pub(super) fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self {
            tree_depth,
            count,
            next_free_rec,
            records,
        } = self;
        writeln!(
            page,
            "\tTree Depth: {tree_depth}   Count: {count}   Next Free Rec: {next_free_rec}"
        )?;
        if records.is_empty() {
            return Ok(());
        }
        let flags = if *tree_depth == 0 { "Flags" } else { "" };
        let head = format!(
            "\t{:<2} {:<11}   {:<12}   {:<13}   {flags}",
            "##", "Offset", "Clusters", "Block#"
        );
        writeln!(page, "{}", head.trim_end())?;
        for (i, rec) in records.iter().enumerate() {
            let Rec {
                cpos,
                clusters,
                blkno,
                flags,
            } = rec;
            let flags = flags.as_ref().map_or(String::new(), |flags| {
                format!("{:#x} {}", flags.bits, flags.line())
            });
            let line = format!("\t{i:<2} {cpos:<11}   {clusters:<12}   {blkno:<13}   {flags}");
            writeln!(page, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Rec {
    fn of(rec: &ExtentRec, depth: u16) -> Self {
        let (clusters, flags) = if depth == 0 {
            let flags = Flags::of(rec.e_flags, EXTENT_FLAG_NAMES);
            (u32::from(rec.e_leaf_clusters.get()), Some(flags))
        } else {
            (rec.int_clusters(), None)
        };
        Self {
            cpos: rec.e_cpos.get(),
            clusters,
            blkno: rec.e_blkno.get(),
            flags,
        }
    }
}

/// A block of an extent tree.
#[derive(JsonSchema, Serialize)]
pub(super) struct TreeBlock {
    suballoc_bit: u16,
    suballoc_slot: u16,
    suballoc_group: u64,
    fs_generation: u32,
    pub(super) blkno: u64,
    next_leaf: u64,
    #[serde(flatten)]
    check: Check,
    list: List,
}

impl TreeBlock {
    pub(super) fn of(block: &Checked<'_, ExtentBlock>, list: ListView<'_>) -> Self {
        Self {
            suballoc_bit: block.h_suballoc_bit.get(),
            suballoc_slot: block.h_suballoc_slot.get(),
            suballoc_group: block.h_suballoc_loc.get(),
            fs_generation: block.h_fs_generation.get(),
            blkno: block.h_blkno.get(),
            next_leaf: block.h_next_leaf_blk.get(),
            check: Check::of(&block.h_check, block),
            list: List::of(list),
        }
    }

    pub(super) fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self {
            suballoc_bit,
            suballoc_slot,
            suballoc_group,
            blkno,
            next_leaf,
            ..
        } = self;
        write!(
            page,
            "\tSubAlloc Bit: {suballoc_bit}   SubAlloc Slot: {suballoc_slot}"
        )?;
        if *suballoc_group != 0 {
            write!(page, "   SubAlloc Group: {suballoc_group}")?;
        }
        writeln!(page, "\n\tBlknum: {blkno}   Next Leaf: {next_leaf}")?;
        self.check.line(page)?;
        self.list.lines(page)
    }
}

/// A time, with nanoseconds where the format has them.
#[derive(JsonSchema, Serialize)]
pub(super) struct Time {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

impl Time {
    /// `0x6b036427 0x0 -- 2026-11-22 21:52:39.000000000 UTC`.
    pub(super) fn line(&self) -> String {
        let Self {
            seconds,
            nanoseconds,
        } = self;
        format!(
            "{seconds:#x} {nanoseconds:#x} -- {}.{nanoseconds:09} UTC",
            Utc(*seconds)
        )
    }
}
