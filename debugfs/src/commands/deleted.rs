//! `lsdel`: inodes that were removed and can still be seen, with what of them is intact.
//!
//! The driver removes a file in steps: its inode goes into the orphan directory of a slot while
//! anyone has it open; then it is cut to nothing, its inode is marked as deleted and its block is
//! free. What stood in the inode itself outlives that, until the block is used again. Where the
//! clusters of a file were is forgotten, unless a journal still holds an older image of the inode.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use cowfs_format::block::{self, BlockBuf, Checked, MetaBlock, View};
use cowfs_format::error::Error;
use cowfs_format::layout::jbd2::{BlockHeader, DESCRIPTOR, MAGIC};
use cowfs_format::layout::{Dinode, GroupDesc, InodeFlags};
use cowfs_format::read::extent::{self, TreeStep};
use cowfs_format::read::journal::Journal;
use cowfs_format::read::{chain, dir, inode};
use cowfs_format::time::Utc;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::inodes;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use super::inode::type_name;
use super::list::mode_text;
use super::volume::truncate_records;
use crate::report::{Named, Page, Report, Target, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "lsdel",
    aliases: &[],
    options: &[],
    operands: &[],
    summary: "Lists removed inodes that can still be seen: orphans, and deleted ones.",
    about: "An orphan has all that it had; the next mount of its slot deletes it. Of a deleted inode \
            what stood in its block is intact: small contents, targets of symlinks, owner, mode and \
            times. Where larger contents were is known only if a journal still holds an older image \
            of the inode; its clusters are then counted as free, as waiting in a truncate log, or as \
            in use again. What cannot be known: whether a cluster that is free was used and freed by \
            another file in between; the names of deleted files; and anything of an inode whose \
            block has been used again.",
    needs: Needs::Volume,
    says: schema::of::<Removed>,
    run: lsdel,
}];

/// Removed inodes.
#[derive(JsonSchema, Serialize)]
struct Removed {
    orphans: Vec<Orphan>,
    deleted: Vec<Deleted>,
}

/// What is known of an inode.
#[derive(JsonSchema, Serialize)]
struct Facts {
    inode: u64,
    file_type: Option<&'static str>,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    links: u32,
    mtime: u64,
}

/// An inode in an orphan directory.
#[derive(JsonSchema, Serialize)]
struct Orphan {
    slot: u16,
    #[serde(flatten)]
    name: Named,
    /// Whether it is there for a direct write beyond its end only, and is not to be deleted.
    append: bool,
    #[serde(flatten)]
    facts: Facts,
    kept: Kept,
}

/// A deleted inode.
#[derive(JsonSchema, Serialize)]
struct Deleted {
    #[serde(flatten)]
    facts: Facts,
    dtime: u64,
    /// Whether its allocator still counts the block as used.
    allocated: bool,
    kept: Kept,
    /// The newest image in a journal that has more of its contents.
    image: Option<LogImage>,
}

/// What is left of the contents of an inode.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Kept {
    /// There is nothing, or nothing is left.
    Nothing,
    /// All stands in the inode.
    Inline { bytes: u64 },
    /// The target stands in the inode.
    Target {
        #[serde(flatten)]
        target: Target,
    },
    /// Clusters that the inode names.
    Clusters(Clusters),
}

/// What became of clusters.
#[derive(Default, JsonSchema, Serialize)]
struct Clusters {
    clusters: u64,
    /// Free now; nothing was written there unless a file came and went.
    free: u64,
    /// In a truncate log: not given to anyone yet.
    waiting: u64,
    /// In use: by the inode itself while it is an orphan, else by others.
    used: u64,
    /// Whether parts of the tree could not be read.
    incomplete: bool,
}

/// An older image of an inode.
#[derive(JsonSchema, Serialize)]
struct LogImage {
    slot: u16,
    log_block: u32,
    sequence: Option<u32>,
    size: u64,
    mtime: u64,
    kept: Kept,
}

/// Which clusters are in use.
struct Space<'v> {
    view: View<'v>,
    /// By first cluster.
    groups: Vec<(u32, Checked<'v, GroupDesc>)>,
    /// First clusters and numbers of clusters in truncate logs, sorted.
    waiting: Vec<(u32, u32)>,
}

impl<'v> Space<'v> {
    fn read(view: View<'v>, faults: &mut Vec<Error>) -> cowfs_format::error::Result<Self> {
        let bitmap = inode::read(view, system::find(view, SystemFile::GlobalBitmap)?)?;
        let mut groups = Vec::new();
        for step in chain::groups(view, &bitmap)? {
            match step.group {
                Ok(group) => groups.push((group.first_cluster(view.geo()), group)),
                Err(error) => faults.push(error),
            }
        }
        groups.sort_by_key(|(first, _)| *first);
        let mut waiting = Vec::new();
        for slot in (0..view.info().max_slots).map(Slot) {
            let log = system::find(view, SystemFile::TruncateLog(slot));
            match log.and_then(|at| inode::read(view, at)) {
                Ok(log) => waiting.extend(
                    truncate_records(log.body())
                        .iter()
                        .map(|rec| (rec.t_start.get(), rec.t_clusters.get())),
                ),
                Err(error) => faults.push(error),
            }
        }
        waiting.sort_unstable();
        Ok(Self {
            view,
            groups,
            waiting,
        })
    }

    fn is_used(&self, cluster: u32) -> bool {
        let next = self.groups.partition_point(|(first, _)| *first <= cluster);
        let group = next.checked_sub(1).and_then(|at| self.groups.get(at));
        // What no group tells of is not known to be free.
        group.is_none_or(|(first, group)| group.is_set(cluster - first))
    }

    fn is_waiting(&self, cluster: u32) -> bool {
        let next = self.waiting.partition_point(|(first, _)| *first <= cluster);
        let record = next.checked_sub(1).and_then(|at| self.waiting.get(at));
        record.is_some_and(|(first, count)| cluster - first < *count)
    }

    /// What became of the clusters of an inode; none when it has none.
    fn clusters(&self, inode: &Checked<'_, Dinode>) -> Option<Clusters> {
        if !inode.has_extents() || inode.i_clusters.get() == 0 {
            return None;
        }
        let mut found = Clusters::default();
        // No file has more clusters than the volume, but a damaged tree can say so.
        let mut left = u64::from(self.view.geo().clusters());
        let walked = extent::walk_tree(self.view, inode.blkno(), inode.body(), &mut |step| {
            match step {
                TreeStep::Extent(extent) => {
                    let first = self.view.geo().cluster_of(extent.blkno).0;
                    for cluster in first..first.saturating_add(extent.clusters) {
                        if left == 0 {
                            found.incomplete = true;
                            return ControlFlow::Break(());
                        }
                        left -= 1;
                        found.clusters += 1;
                        if !self.is_used(cluster) {
                            found.free += 1;
                        } else if self.is_waiting(cluster) {
                            found.waiting += 1;
                        } else {
                            found.used += 1;
                        }
                    }
                }
                TreeStep::Fault { .. } => found.incomplete = true,
                TreeStep::List { .. } => {}
            }
            ControlFlow::Continue(())
        });
        found.incomplete |= walked.is_err();
        Some(found)
    }

    fn kept(&self, inode: &Checked<'_, Dinode>) -> Kept {
        if let Some(target) = inode.fast_symlink().filter(|target| !target.is_empty()) {
            let target = Target::new(target);
            return Kept::Target { target };
        }
        if inode.inline_data().is_some() {
            let bytes = inode.i_size.get();
            return Kept::Inline { bytes };
        }
        self.clusters(inode).map_or(Kept::Nothing, Kept::Clusters)
    }
}

impl Facts {
    fn of(inode: &Checked<'_, Dinode>) -> Self {
        Self {
            inode: inode.blkno().0,
            file_type: inode.file_type().map(type_name),
            mode: inode.i_mode.get(),
            uid: inode.i_uid.get(),
            gid: inode.i_gid.get(),
            size: inode.i_size.get(),
            links: inode.links(),
            mtime: inode.i_mtime.get(),
        }
    }
}

fn lsdel(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    let (scanner, view) = session.scan()?;
    let mut faults = Vec::new();
    let space = Space::read(view, &mut faults).context("the cluster bitmap")?;
    let mut orphans = Vec::new();
    for slot in (0..view.info().max_slots).map(Slot) {
        if let Err(error) = orphans_of(&space, slot, &mut orphans, &mut faults) {
            faults.push(error);
        }
    }
    let (groups, failed) = inodes::groups(view);
    faults.extend(failed);
    let mut deleted = Vec::new();
    let look = |group: &inodes::InodeGroup| {
        let mut found = Vec::new();
        let walked = for_each_deleted(view, *group, &mut |inode, allocated| {
            found.push(Deleted {
                facts: Facts::of(inode),
                dtime: inode.i_dtime.get(),
                allocated,
                kept: space.kept(inode),
                image: None,
            });
        });
        (found, walked)
    };
    scanner.run(&groups, look, |(found, walked): (Vec<Deleted>, _)| {
        deleted.extend(found);
        faults.extend(walked.err());
    });
    let mut images = images(&space, &deleted, &mut faults);
    for item in &mut deleted {
        item.image = images.remove(&item.facts.inode);
    }
    deleted.sort_by_key(|item| item.facts.inode);
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(Removed { orphans, deleted })))
}

/// The inodes in the orphan directory of a slot.
fn orphans_of(
    space: &Space<'_>,
    slot: Slot,
    found: &mut Vec<Orphan>,
    faults: &mut Vec<Error>,
) -> Result<(), Error> {
    let view = space.view;
    let directory = inode::read(view, system::find(view, SystemFile::OrphanDir(slot))?)?;
    let mut names = Vec::new();
    dir::for_each_entry(view, &directory, &mut |entry| {
        if entry.is_used() && entry.name != b"." && entry.name != b".." {
            names.push((entry.name.to_vec(), entry.inode));
        }
        ControlFlow::Continue(())
    })?;
    for (name, at) in names {
        match inode::read(view, at) {
            Ok(inode) => found.push(Orphan {
                slot: slot.0,
                append: name.starts_with(b"dio-"),
                name: Named::new(name),
                facts: Facts::of(&inode),
                kept: space.kept(&inode),
            }),
            Err(error) => faults.push(error),
        }
    }
    Ok(())
}

/// Calls `visit` for each deleted inode of a group, with whether its bit is still set. Blocks that
/// are no inodes of this volume were never used, or by others.
fn for_each_deleted(
    view: View<'_>,
    group: inodes::InodeGroup,
    visit: &mut dyn FnMut(&Checked<'_, Dinode>, bool),
) -> Result<(), Error> {
    let desc = view.block::<GroupDesc>(group.blkno)?;
    for bit in 0..u32::from(desc.bg_bits.get()) {
        let blkno = desc.block_of_bit(bit, group.bits_per_cluster);
        let Some(blkno) = blkno.filter(|blkno| *blkno != group.blkno) else {
            continue;
        };
        if let Ok(inode) = view.block::<Dinode>(blkno)
            && !inode.flags().contains(InodeFlags::VALID)
            && inode.i_dtime.get() != 0
        {
            visit(&inode, desc.is_set(bit));
        }
    }
    Ok(())
}

/// The newest images that the journals hold of inodes before they were cut.
fn images(
    space: &Space<'_>,
    deleted: &[Deleted],
    faults: &mut Vec<Error>,
) -> BTreeMap<u64, LogImage> {
    let wanted: HashMap<u64, u64> = deleted
        .iter()
        .map(|item| (item.facts.inode, item.facts.size))
        .collect();
    let view = space.view;
    let mut found: BTreeMap<u64, LogImage> = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    for slot in (0..view.info().max_slots).map(Slot) {
        let journal = system::find(view, SystemFile::Journal(slot))
            .and_then(|blkno| Journal::open(view, blkno));
        let journal = match journal {
            Ok(journal) => journal,
            Err(error) => {
                faults.push(error);
                continue;
            }
        };
        let mut sequence = None;
        for at in journal.superblock.s_first.get()..journal.superblock.s_maxlen.get() {
            let bytes = journal.home(at.into()).and_then(|blkno| view.raw(blkno));
            let Ok(bytes) = bytes else { continue };
            if let Ok((head, _)) = BlockHeader::ref_from_prefix(&bytes)
                && head.h_magic.get() == MAGIC
            {
                let opens = head.h_blocktype.get() == DESCRIPTOR;
                sequence = opens.then(|| head.h_sequence.get());
                continue;
            }
            let Some(inode) = image_of(view, &bytes, &wanted) else {
                continue;
            };
            let known = found.get(&inode.blkno().0);
            if known.is_none_or(|known| known.sequence <= sequence) {
                let image = LogImage {
                    slot: slot.0,
                    log_block: at,
                    sequence,
                    size: inode.i_size.get(),
                    mtime: inode.i_mtime.get(),
                    kept: space.kept(&inode),
                };
                found.insert(inode.blkno().0, image);
            }
        }
    }
    found
}

/// The inode that a block of a log is an image of, when it is wanted, was in use and had more than
/// the inode has now.
fn image_of(
    view: View<'_>,
    bytes: &[u8],
    wanted: &HashMap<u64, u64>,
) -> Option<Checked<'static, Dinode>> {
    if !bytes.starts_with(&Dinode::SIGNATURE) {
        return None;
    }
    let (head, _) = Dinode::ref_from_prefix(bytes).ok()?;
    let home = head.own_blkno();
    let size = *wanted.get(&home)?;
    let image = block::decode::<Dinode>(BlockBuf::Owned(bytes.into()), BlockNo(home), view.info());
    image
        .ok()
        .filter(|inode| inode.flags().contains(InodeFlags::VALID) && inode.i_size.get() > size)
}

impl Clusters {
    fn line(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self {
            clusters,
            free,
            waiting,
            used,
            ..
        } = self;
        write!(
            page,
            "{clusters} clusters, {free} free now, {waiting} waiting, {used} in use"
        )?;
        if self.incomplete {
            write!(page, " (its tree is not whole)")?;
        }
        Ok(())
    }
}

impl Kept {
    fn line(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self {
            Self::Nothing => write!(page, "no contents"),
            Self::Inline { bytes } => write!(page, "{bytes} bytes in the inode"),
            Self::Target { target } => {
                write!(page, "-> ")?;
                page.name(target.text())
            }
            Self::Clusters(clusters) => clusters.line(page),
        }
    }
}

impl Facts {
    fn line(&self, page: &mut Page<'_>, time: u64) -> io::Result<()> {
        write!(
            page,
            "\t{:<12} {} {:>3} {:>5} {:>5} {:>12} {} ",
            self.inode,
            mode_text(self.mode),
            self.links,
            self.uid,
            self.gid,
            self.size,
            Utc(time)
        )
    }
}

impl Text for Removed {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tOrphans: {}", self.orphans.len())?;
        for orphan in &self.orphans {
            orphan.facts.line(page, orphan.facts.mtime)?;
            orphan.kept.line(page)?;
            let why = if orphan.append { ", appending" } else { "" };
            writeln!(page, "; slot {}{why}", orphan.slot)?;
        }
        writeln!(page, "\tDeleted: {}", self.deleted.len())?;
        for item in &self.deleted {
            item.facts.line(page, item.dtime)?;
            item.kept.line(page)?;
            if let Some(image) = &item.image {
                let LogImage {
                    slot,
                    log_block,
                    size,
                    ..
                } = image;
                write!(
                    page,
                    "; in block {log_block} of journal {slot}: {size} bytes, "
                )?;
                image.kept.line(page)?;
            }
            writeln!(page)?;
        }
        Ok(())
    }
}
