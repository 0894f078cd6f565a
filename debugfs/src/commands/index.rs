//! Commands about the index of a directory.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use cowfs_format::block::{Checked, MetaBlock};
use cowfs_format::error::Error;
use cowfs_format::layout::{DxLeaf, DxRoot, DynFeatures};
use cowfs_format::read::dx::{self, DxListView};
use cowfs_format::read::extent::ListView;
use cowfs_format::read::inode;
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;

use super::list::{Trailer, trailer_of};
use super::parts::{Check, List};
use crate::report::{Flags, Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BLOCK, Command, FILE, Needs};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "dx_root",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows the root of a directory's index.",
        about: "The root block may be given as <BLOCK>.",
        needs: Needs::Volume,
        says: schema::of::<Root>,
        run: |session, args| {
            let at = root_of(session, args.need(0)?)?;
            let root = session.view()?.block::<DxRoot>(at)?;
            Ok(Some(Box::new(Root::of(&root))))
        },
    },
    Command {
        name: "dx_leaf",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows a leaf of a directory's index.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<Leaf>,
        run: |session, args| {
            let at = session.block_arg(args.need(0)?)?;
            let leaf = session.view()?.block::<DxLeaf>(at)?;
            Ok(Some(Box::new(Leaf::of(&leaf))))
        },
    },
    Command {
        name: "dx_dump",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows a directory's index: its root and all its leaves.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<Index>,
        run: dx_dump,
    },
    Command {
        name: "dx_space",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows the list of a directory's blocks with room.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<Space>,
        run: dx_space,
    },
];

/// The root that a file specification names: a directory's, or the block itself.
fn root_of(session: &Session, spec: &[u8]) -> Result<BlockNo> {
    let view = session.view()?;
    let at = session.find(spec)?;
    if view.raw(at)?.starts_with(&DxRoot::SIGNATURE) {
        return Ok(at);
    }
    let inode = inode::read(view, at)?;
    if !inode.dyn_features().contains(DynFeatures::INDEXED_DIR) {
        bail!("inode {at} is no directory with an index");
    }
    Ok(BlockNo(inode.i_dx_root.get()))
}

/// The root of an index.
#[derive(JsonSchema, Serialize)]
pub(super) struct Root {
    blkno: u64,
    fs_generation: u32,
    clusters: u32,
    last_extent_block: u64,
    dir_inode: u64,
    suballoc_slot: u16,
    suballoc_bit: u16,
    suballoc_group: u64,
    flags: Flags,
    total_entries: u32,
    free_blk: u64,
    #[serde(flatten)]
    check: Check,
    entries: Option<Entries>,
    list: Option<List>,
}

/// An entry list.
#[derive(JsonSchema, Serialize)]
struct Entries {
    count: u16,
    used: u16,
    entries: Vec<Entry>,
}

/// A name's hash, and the block where its entry is.
#[derive(JsonSchema, Serialize)]
struct Entry {
    major_hash: u32,
    minor_hash: u32,
    dirent_blk: u64,
}

/// A leaf of an index.
#[derive(JsonSchema, Serialize)]
pub(super) struct Leaf {
    blkno: u64,
    fs_generation: u32,
    #[serde(flatten)]
    check: Check,
    entries: Option<Entries>,
}

/// Blocks with room, by their trailers.
#[derive(JsonSchema, Serialize)]
struct Space {
    blocks: Vec<Trailer>,
}

/// All of an index.
#[derive(JsonSchema, Serialize)]
struct Index {
    root: Root,
    leaves: Vec<Leaf>,
}

impl Entries {
    fn of(list: DxListView<'_>) -> Self {
        Self {
            count: list.head.de_count.get(),
            used: list.head.de_num_used.get(),
            entries: list
                .entries
                .iter()
                .map(|entry| Entry {
                    major_hash: entry.dx_major_hash.get(),
                    minor_hash: entry.dx_minor_hash.get(),
                    dirent_blk: entry.dx_dirent_blk.get(),
                })
                .collect(),
        }
    }

    fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tCount: {}  Num Used: {}", self.count, self.used)?;
        writeln!(page, "\t## Hash (Major Minor)         Dir Block#")?;
        for (i, entry) in self.entries.iter().enumerate() {
            writeln!(
                page,
                "\t {i:<2} ({:#010x} {:#010x})    {}",
                entry.major_hash, entry.minor_hash, entry.dirent_blk
            )?;
        }
        Ok(())
    }
}

impl Root {
    pub(super) fn of(root: &Checked<'_, DxRoot>) -> Self {
        let list = || ListView::parse(root.body()).map(List::of);
        Self {
            blkno: root.dr_blkno.get(),
            fs_generation: root.dr_fs_generation.get(),
            clusters: root.dr_clusters.get(),
            last_extent_block: root.dr_last_eb_blk.get(),
            dir_inode: root.dr_dir_blkno.get(),
            suballoc_slot: root.dr_suballoc_slot.get(),
            suballoc_bit: root.dr_suballoc_bit.get(),
            suballoc_group: root.dr_suballoc_loc.get(),
            flags: Flags::of(root.dr_flags, &[(1, "inline")]),
            total_entries: root.dr_num_entries.get(),
            free_blk: root.dr_free_blk.get(),
            check: Check::of(&root.dr_check, root),
            entries: root.inline_entries().map(Entries::of),
            list: if root.is_inline() { None } else { list() },
        }
    }
}

impl Leaf {
    pub(super) fn of(leaf: &Checked<'_, DxLeaf>) -> Self {
        Self {
            blkno: leaf.dl_blkno.get(),
            fs_generation: leaf.dl_fs_generation.get(),
            check: Check::of(&leaf.dl_check, leaf),
            entries: leaf.list().map(Entries::of),
        }
    }
}

fn dx_space(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let at = root_of(session, args.need(0)?)?;
    let view = session.view()?;
    let root = view.block::<DxRoot>(at)?;
    let mut blocks = Vec::new();
    let mut faults = Vec::new();
    for blkno in dx::free_list(view, &root)? {
        match trailer_of(view, blkno) {
            Ok(trailer) => blocks.push(trailer),
            Err(error) => faults.push(error),
        }
    }
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(Space { blocks })))
}

fn dx_dump(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let at = root_of(session, args.need(0)?)?;
    let view = session.view()?;
    let root = view.block::<DxRoot>(at)?;
    let (mut leaves, mut faults) = (Vec::new(), Vec::<Error>::new());
    let walked = dx::for_each_leaf(view, &root, &mut |_, leaf| {
        match leaf {
            Ok(leaf) => leaves.push(Leaf::of(&leaf)),
            Err(error) => faults.push(error),
        }
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    let root = Root::of(&root);
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(Index { root, leaves })))
}

impl Text for Root {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tDir Index Root: {}   FS Generation: {1} ({1:#x})",
            self.blkno, self.fs_generation
        )?;
        writeln!(
            page,
            "\tClusters: {}   Last Extblk: {}   Dir Inode: {}",
            self.clusters, self.last_extent_block, self.dir_inode
        )?;
        write!(
            page,
            "\tSub Alloc Slot: {}   Sub Alloc Bit: {}",
            self.suballoc_slot, self.suballoc_bit
        )?;
        if self.suballoc_group != 0 {
            write!(page, "   SubAlloc Group: {}", self.suballoc_group)?;
        }
        writeln!(
            page,
            "\n\tFlags: ({:#x}) {}",
            self.flags.bits,
            self.flags.line()
        )?;
        writeln!(page, "\tTotal Entry Count: {}", self.total_entries)?;
        writeln!(page, "\tFirst Block With Room: {}", self.free_blk)?;
        self.check.line(page)?;
        if let Some(entries) = &self.entries {
            entries.lines(page)?;
        }
        self.list.as_ref().map_or(Ok(()), |list| list.lines(page))
    }
}

impl Text for Leaf {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tDir Index Leaf: {}  FS Generation: {1} ({1:#x})",
            self.blkno, self.fs_generation
        )?;
        self.check.line(page)?;
        self.entries
            .as_ref()
            .map_or(Ok(()), |list| list.lines(page))
    }
}

impl Text for Index {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.root.text(page)?;
        self.leaves.iter().try_for_each(|leaf| leaf.text(page))
    }
}

impl Text for Space {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.blocks.iter().try_for_each(|block| block.lines(page))
    }
}
