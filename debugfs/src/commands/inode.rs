//! `stat`: an inode, with whatever its body holds.

use std::io::{self, Write};

use anyhow::Result;
use cowfs_format::block::{Checked, View};
use cowfs_format::error::Error;
use cowfs_format::layout::{
    ATTR_NAMES, DYN_FEATURE_NAMES, Dinode, FileType, INODE_FLAG_NAMES, InlineData, InodeFlags,
    LocalAlloc, TruncateLog,
};
use cowfs_format::read::chain;
use cowfs_format::read::extent::{self, TreeStep};
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use super::parts::{Check, List, Time, TreeBlock};
use super::space::Group;
use super::volume::truncate_records;
use crate::report::{Flags, Page, Report, Target, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, FILE, Needs, flag};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "stat",
    aliases: &[],
    options: &[
        flag(
            't',
            "traverse",
            "show all blocks of the extent tree and all groups (as is usual)",
        ),
        flag('T', "no-traverse", "show the inode block only"),
    ],
    operands: &[FILE],
    summary: "Shows an inode: its fields, its extents, chains, log or bitmap.",
    about: "",
    needs: Needs::Volume,
    says: schema::of::<Stat>,
    run: stat,
}];

/// An inode.
#[derive(JsonSchema, Serialize)]
pub(super) struct Stat {
    inode: u64,
    mode: u16,
    generation: u32,
    fs_generation: u32,
    #[serde(flatten)]
    check: Check,
    file_type: Option<&'static str>,
    attr: Flags,
    flags: Flags,
    dyn_features: Flags,
    uid: u32,
    gid: u32,
    size: u64,
    links: u32,
    clusters: u32,
    ctime: Time,
    atime: Time,
    mtime: Time,
    dtime: u64,
    xattr_block: Option<u64>,
    xattr_inline_size: usize,
    dx_root: Option<u64>,
    refcount_block: Option<u64>,
    last_extent_block: u64,
    orphaned_slot: u16,
    suballoc_slot: Option<u16>,
    suballoc_bit: u16,
    suballoc_group: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<Rdev>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmap: Option<Bitmap>,
    body: Body,
}

/// A device number.
#[derive(JsonSchema, Serialize)]
struct Rdev {
    major: u32,
    minor: u32,
}

/// The counts of an allocator.
#[derive(JsonSchema, Serialize)]
struct Bitmap {
    total: u32,
    used: u32,
    free: u32,
}

/// What the body of an inode holds.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Body {
    None,
    Superblock,
    InlineData {
        capacity: u16,
    },
    FastSymlink {
        #[serde(flatten)]
        target: Target,
    },
    Extents {
        list: List,
        tree_blocks: Vec<TreeBlock>,
    },
    Journal {
        journal_flags: Flags,
        recovery_generation: u32,
        list: List,
        tree_blocks: Vec<TreeBlock>,
    },
    LocalAlloc {
        first_cluster: u32,
        bitmap_bytes: u16,
    },
    TruncateLog {
        capacity: u16,
        used: u16,
        records: Vec<Cut>,
    },
    Chains {
        clusters_per_group: u16,
        bits_per_cluster: u16,
        capacity: u16,
        next_free_rec: u16,
        chains: Vec<Chain>,
    },
}

/// A record of a truncate log.
#[derive(JsonSchema, Serialize)]
struct Cut {
    cluster: u32,
    clusters: u32,
}

/// A chain of groups.
#[derive(JsonSchema, Serialize)]
struct Chain {
    total: u32,
    free: u32,
    blkno: u64,
    groups: Vec<Group>,
}

fn stat(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = view.block::<Dinode>(session.find(args.need(0)?)?)?;
    let mut faults = Vec::new();
    let traverse = !args.has('T') || args.has('t');
    let stat = Stat::whole(view, &inode, traverse, &mut faults);
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(stat)))
}

/// Name of a type of file.
pub(super) const fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "regular",
        FileType::Directory => "directory",
        FileType::CharDevice => "char device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Symlink => "symlink",
    }
}

impl Stat {
    /// The inode fields of the superblock.
    pub(super) fn superblock(head: &Dinode) -> Self {
        let mut stat = Self::of(head, Check::plain(&head.i_check));
        stat.body = Body::Superblock;
        stat
    }

    /// An inode with its body; with the blocks and groups that belong to it when `traverse`.
    pub(super) fn whole(
        view: View<'_>,
        inode: &Checked<'_, Dinode>,
        traverse: bool,
        faults: &mut Vec<Error>,
    ) -> Self {
        let check = Check::of(&inode.i_check, inode);
        let mut stat = Self::of(inode, check);
        stat.body = body(view, inode, traverse, faults);
        stat
    }

    fn of(inode: &Dinode, check: Check) -> Self {
        let some = |value: u64| (value != 0).then_some(value);
        let slot = inode.i_suballoc_slot.get();
        let kind = inode.file_type();
        Self {
            inode: inode.i_blkno.get(),
            mode: inode.i_mode.get(),
            generation: inode.i_generation.get(),
            fs_generation: inode.i_fs_generation.get(),
            check,
            file_type: kind.map(type_name),
            attr: Flags::of(inode.i_attr.get(), ATTR_NAMES),
            flags: Flags::of(inode.i_flags.get(), INODE_FLAG_NAMES),
            dyn_features: Flags::of(inode.i_dyn_features.get(), DYN_FEATURE_NAMES),
            uid: inode.i_uid.get(),
            gid: inode.i_gid.get(),
            size: inode.i_size.get(),
            links: inode.links(),
            clusters: inode.i_clusters.get(),
            ctime: Time {
                seconds: inode.i_ctime.get(),
                nanoseconds: inode.i_ctime_nsec.get(),
            },
            atime: Time {
                seconds: inode.i_atime.get(),
                nanoseconds: inode.i_atime_nsec.get(),
            },
            mtime: Time {
                seconds: inode.i_mtime.get(),
                nanoseconds: inode.i_mtime_nsec.get(),
            },
            dtime: inode.i_dtime.get(),
            xattr_block: some(inode.i_xattr_loc.get()),
            xattr_inline_size: inode.inline_xattr_bytes(),
            dx_root: some(inode.i_dx_root.get()),
            refcount_block: some(inode.i_refcount_loc.get()),
            last_extent_block: inode.i_last_eb_blk.get(),
            orphaned_slot: inode.i_orphaned_slot.get(),
            suballoc_slot: (slot != 0xFFFF).then_some(slot),
            suballoc_bit: inode.i_suballoc_bit.get(),
            suballoc_group: some(inode.i_suballoc_loc.get()),
            rdev: matches!(kind, Some(FileType::CharDevice | FileType::BlockDevice)).then(|| {
                let (major, minor) = inode.device();
                Rdev { major, minor }
            }),
            bitmap: inode.flags().contains(InodeFlags::BITMAP).then(|| {
                let (total, used) = (inode.bitmap_total(), inode.bitmap_used());
                let free = total.saturating_sub(used);
                Bitmap { total, used, free }
            }),
            body: Body::None,
        }
    }
}

fn body(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    traverse: bool,
    faults: &mut Vec<Error>,
) -> Body {
    let flags = inode.flags();
    let space = inode.body();
    if flags.contains(InodeFlags::LOCAL_ALLOC) {
        return LocalAlloc::ref_from_prefix(space).map_or(Body::None, |(head, _)| {
            Body::LocalAlloc {
                first_cluster: head.la_bm_off.get(),
                bitmap_bytes: head.la_size.get(),
            }
        });
    }
    if flags.contains(InodeFlags::CHAIN) {
        return chains(view, inode, traverse, faults);
    }
    if flags.contains(InodeFlags::DEALLOC) {
        return TruncateLog::ref_from_prefix(space).map_or(Body::None, |(head, _)| {
            let cut = |rec: cowfs_format::layout::TruncateRec| Cut {
                cluster: rec.t_start.get(),
                clusters: rec.t_clusters.get(),
            };
            Body::TruncateLog {
                capacity: head.tl_count.get(),
                used: head.tl_used.get(),
                records: truncate_records(space).into_iter().map(cut).collect(),
            }
        });
    }
    if inode.inline_data().is_some() {
        return InlineData::ref_from_prefix(space).map_or(Body::None, |(head, _)| {
            let capacity = head.id_count.get();
            Body::InlineData { capacity }
        });
    }
    if let Some(target) = inode.fast_symlink() {
        let target = Target::new(target);
        return Body::FastSymlink { target };
    }
    if !inode.has_extents() {
        return Body::None;
    }
    let Some((list, tree_blocks)) = tree(view, inode, traverse, faults) else {
        return Body::None;
    };
    if flags.contains(InodeFlags::JOURNAL) {
        Body::Journal {
            journal_flags: Flags::of(inode.journal_flags(), &[(1, "dirty")]),
            recovery_generation: inode.journal_recovery_generation(),
            list,
            tree_blocks,
        }
    } else {
        Body::Extents { list, tree_blocks }
    }
}

/// The lists of an inode's extent tree.
fn tree(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    traverse: bool,
    faults: &mut Vec<Error>,
) -> Option<(List, Vec<TreeBlock>)> {
    let (mut root, mut blocks) = (None, Vec::new());
    let walked = extent::walk_tree(view, inode.blkno(), inode.body(), &mut |step| {
        match step {
            TreeStep::List {
                block: Some(block),
                list,
                ..
            } => blocks.push(TreeBlock::of(block, list)),
            TreeStep::List { list, .. } => {
                root = Some(List::of(list));
                if !traverse {
                    return std::ops::ControlFlow::Break(());
                }
            }
            TreeStep::Fault { error, .. } => faults.push(error),
            TreeStep::Extent(_) => {}
        }
        std::ops::ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    Some((root?, blocks))
}

fn chains(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    traverse: bool,
    faults: &mut Vec<Error>,
) -> Body {
    let found = match chain::chains(inode) {
        Ok(found) => found,
        Err(error) => {
            faults.push(error);
            return Body::None;
        }
    };
    let bits_per_cluster = found.head.cl_bpc.get();
    let mut all: Vec<Chain> = found
        .recs
        .iter()
        .map(|rec| Chain {
            total: rec.c_total.get(),
            free: rec.c_free.get(),
            blkno: rec.c_blkno.get(),
            groups: Vec::new(),
        })
        .collect();
    if traverse && let Ok(steps) = chain::groups(view, inode) {
        for step in steps {
            match step.group {
                Ok(group) => {
                    if let Some(chain) = all.get_mut(step.chain) {
                        chain.groups.push(Group::of(&group));
                    }
                }
                Err(error) => faults.push(error),
            }
        }
    }
    Body::Chains {
        clusters_per_group: found.head.cl_cpg.get(),
        bits_per_cluster,
        capacity: found.head.cl_count.get(),
        next_free_rec: found.head.cl_next_free_rec.get(),
        chains: all,
    }
}

impl Text for Stat {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tInode: {0}   Mode: 0{1:o}   Generation: {2} ({2:#x})",
            self.inode,
            self.mode & 0o7777,
            self.generation
        )?;
        writeln!(page, "\tFS Generation: {0} ({0:#x})", self.fs_generation)?;
        self.check.line(page)?;
        writeln!(
            page,
            "\tType: {}   Attr: {:#x} {}  Flags: {}",
            self.file_type.unwrap_or("unknown"),
            self.attr.bits,
            self.attr.line(),
            self.flags.line()
        )?;
        writeln!(
            page,
            "\tDynamic Features: ({:#x}) {}",
            self.dyn_features.bits,
            self.dyn_features.line()
        )?;
        if self.xattr_block.is_some() || self.xattr_inline_size > 0 {
            writeln!(
                page,
                "\tExtended Attributes Block: {}  Extended Attributes Inline Size: {}",
                self.xattr_block.unwrap_or(0),
                self.xattr_inline_size
            )?;
        }
        writeln!(
            page,
            "\tUser: {}   Group: {}   Size: {}",
            self.uid, self.gid, self.size
        )?;
        writeln!(
            page,
            "\tLinks: {}   Clusters: {}",
            self.links, self.clusters
        )?;
        for (name, time) in [
            ("ctime", &self.ctime),
            ("atime", &self.atime),
            ("mtime", &self.mtime),
        ] {
            writeln!(page, "\t{name}: {}", time.line())?;
        }
        writeln!(
            page,
            "\tdtime: {:#x} -- {} UTC",
            self.dtime,
            cowfs_format::time::Utc(self.dtime)
        )?;
        writeln!(
            page,
            "\tRefcount Block: {}",
            self.refcount_block.unwrap_or(0)
        )?;
        writeln!(
            page,
            "\tLast Extblk: {}   Orphan Slot: {}",
            self.last_extent_block, self.orphaned_slot
        )?;
        let slot = self
            .suballoc_slot
            .map_or("Global".to_owned(), |slot| slot.to_string());
        write!(
            page,
            "\tSub Alloc Slot: {slot}   Sub Alloc Bit: {}",
            self.suballoc_bit
        )?;
        match self.suballoc_group {
            Some(group) => writeln!(page, "   Sub Alloc Group: {group}")?,
            None => writeln!(page)?,
        }
        if let Some(root) = self.dx_root {
            writeln!(page, "\tIndexed Tree Root: {root}")?;
        }
        if let Some(Rdev { major, minor }) = &self.rdev {
            writeln!(page, "\tDevice: {major}, {minor}")?;
        }
        if let Some(Bitmap { total, used, free }) = &self.bitmap {
            writeln!(
                page,
                "\tBitmap Total: {total}   Used: {used}   Free: {free}"
            )?;
        }
        self.body.text(page)
    }
}

impl Body {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self {
            Self::None | Self::Superblock => Ok(()),
            Self::InlineData { capacity } => writeln!(page, "\tInline Data Max: {capacity}"),
            Self::FastSymlink { target } => {
                write!(page, "\tFast Symlink Destination: ")?;
                page.name(target.text())?;
                writeln!(page)
            }
            Self::Extents { list, tree_blocks } => tree_text(page, list, tree_blocks),
            Self::Journal {
                journal_flags,
                recovery_generation,
                list,
                tree_blocks,
            } => {
                writeln!(page, "\tJournal Flags: {}", journal_flags.line())?;
                writeln!(page, "\tRecovery Generation: {recovery_generation}")?;
                tree_text(page, list, tree_blocks)
            }
            Self::LocalAlloc {
                first_cluster,
                bitmap_bytes,
            } => writeln!(
                page,
                "\tLocal Bitmap Offset: {first_cluster}   Size: {bitmap_bytes}"
            ),
            Self::TruncateLog {
                capacity,
                used,
                records,
            } => {
                writeln!(page, "\tTotal Records: {capacity}   Used: {used}")?;
                writeln!(page, "\t##   Start Cluster   Num Clusters")?;
                for (i, Cut { cluster, clusters }) in records.iter().enumerate() {
                    writeln!(page, "\t{i:<2}   {cluster:<13}   {clusters}")?;
                }
                Ok(())
            }
            Self::Chains {
                clusters_per_group,
                bits_per_cluster,
                capacity,
                next_free_rec,
                chains,
            } => {
                writeln!(
                    page,
                    "\tClusters per Group: {clusters_per_group}   Bits per Cluster: {bits_per_cluster}"
                )?;
                writeln!(page, "\tCount: {capacity}   Next Free Rec: {next_free_rec}")?;
                writeln!(
                    page,
                    "\t##   {:<10}   {:<10}   {:<10}   Block#",
                    "Total", "Used", "Free"
                )?;
                for (i, chain) in chains.iter().enumerate() {
                    let Chain {
                        total, free, blkno, ..
                    } = chain;
                    let used = total.saturating_sub(*free);
                    writeln!(
                        page,
                        "\t{i:<2}   {total:<10}   {used:<10}   {free:<10}   {blkno}"
                    )?;
                }
                for chain in chains.iter().filter(|chain| !chain.groups.is_empty()) {
                    writeln!(page)?;
                    for (i, group) in chain.groups.iter().enumerate() {
                        group.lines(page, i)?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn tree_text(page: &mut Page<'_>, list: &List, blocks: &[TreeBlock]) -> io::Result<()> {
    list.lines(page)?;
    blocks.iter().try_for_each(|block| block.lines(page))
}
