//! A picture of a volume: equal parts of it (*cells*), each with how much of what lies there.
//!
//! Everything is counted in blocks, so that the kinds of metadata that share a cluster are told
//! apart. A shared cluster counts once, by what its refcount tree says. Memory is the cells, whatever
//! the size of the volume, and one number for each inode that shares.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{Compat, DynFeatures, ExtentFlags, FileType, GroupDesc, InodeFlags};
use crate::read::holdings::{self, Purpose, Run};
use crate::read::inode::Inode;
use crate::read::refcount;
use crate::units::{BlockNo, ClusterNo, Geometry, index, low32};
use crate::volume::inodes;
use crate::volume::scan::Scanner;

/// What a block is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Free by the cluster bitmap.
    Free,
    /// Data of one file, or of several of which only one is left.
    Data,
    /// Data that two extents map.
    Shared,
    /// Data that three and more extents map.
    SharedMore,
    /// Contents and indexes of directories.
    Directory,
    /// Inodes.
    Inode,
    /// Blocks of extent trees.
    ExtentBlock,
    /// Blocks, buckets and values of xattrs.
    Xattr,
    /// Refcount trees.
    Refcount,
    /// Room of the allocators of metadata.
    Room,
    /// Journals.
    Journal,
    /// Other system files, local windows, and what is being freed.
    System,
    /// Descriptors of groups.
    Descriptor,
    /// The superblock and its backups.
    Superblock,
    /// In use by the cluster bitmap, and nothing known holds it.
    Unknown,
}

/// Number of kinds.
pub const KINDS: usize = 15;

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; KINDS] = [
        Self::Free,
        Self::Data,
        Self::Shared,
        Self::SharedMore,
        Self::Directory,
        Self::Inode,
        Self::ExtentBlock,
        Self::Xattr,
        Self::Refcount,
        Self::Room,
        Self::Journal,
        Self::System,
        Self::Descriptor,
        Self::Superblock,
        Self::Unknown,
    ];

    /// A word for it, which does not change.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Data => "data",
            Self::Shared => "shared",
            Self::SharedMore => "shared_more",
            Self::Directory => "directories",
            Self::Inode => "inodes",
            Self::ExtentBlock => "extent_blocks",
            Self::Xattr => "xattrs",
            Self::Refcount => "refcounts",
            Self::Room => "metadata_room",
            Self::Journal => "journals",
            Self::System => "system",
            Self::Descriptor => "group_descriptors",
            Self::Superblock => "superblocks",
            Self::Unknown => "unknown",
        }
    }

    /// For people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Free => "Free",
            Self::Data => "File data of one file",
            Self::Shared => "File data of two files",
            Self::SharedMore => "File data of three and more",
            Self::Directory => "Directories",
            Self::Inode => "Inodes",
            Self::ExtentBlock => "Extent blocks",
            Self::Xattr => "Extended attributes",
            Self::Refcount => "Refcount trees",
            Self::Room => "Room for metadata",
            Self::Journal => "Journals",
            Self::System => "System files",
            Self::Descriptor => "Group descriptors",
            Self::Superblock => "Superblock and backups",
            Self::Unknown => "In use, holder unknown",
        }
    }

    const fn at(self) -> usize {
        self as usize
    }
}

/// A part of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Blocks of each kind, in the order of [`Kind::ALL`].
    pub blocks: [u64; KINDS],
    /// Places where a file that goes on elsewhere goes on here.
    pub breaks: u64,
    /// Runs of free clusters, cut at the borders of the cell.
    pub free_runs: u64,
    /// Blocks of the longest of them.
    pub longest_free: u64,
}

impl Cell {
    /// Blocks of a kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> u64 {
        self.blocks[kind.at()]
    }

    /// All blocks.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.blocks.iter().sum()
    }

    /// Blocks that are not free.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.all() - self.of(Kind::Free)
    }

    /// Blocks of file data, however shared.
    #[must_use]
    pub const fn data(&self) -> u64 {
        self.of(Kind::Data) + self.of(Kind::Shared) + self.of(Kind::SharedMore)
    }

    /// The kind that takes most of what is not free.
    #[must_use]
    pub fn foremost(&self) -> Kind {
        let used = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Free);
        used.filter(|kind| self.of(*kind) > 0)
            .max_by_key(|kind| (self.of(*kind), std::cmp::Reverse(*kind)))
            .unwrap_or(Kind::Free)
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.blocks.iter_mut().zip(other.blocks) {
            *sum += more;
        }
        self.breaks += other.breaks;
        self.free_runs += other.free_runs;
        self.longest_free = self.longest_free.max(other.longest_free);
    }
}

/// A volume in equal parts.
#[derive(Clone, Debug)]
pub struct Map {
    /// Clusters of a cell; the last one may have less.
    pub cell_clusters: u64,
    /// The cells in order.
    pub cells: Vec<Cell>,
    /// All of them together.
    pub total: Cell,
    /// Regular files that have clusters.
    pub files: u64,
    /// Those of them that lie in more than one piece.
    pub broken_files: u64,
    /// Blocks of the longest run of free clusters, wherever cells end.
    pub longest_free: u64,
}

/// Counters that all threads add to; sums do not depend on their order.
struct Sheet<'g> {
    geo: &'g Geometry,
    /// Blocks of a cell.
    span: u64,
    cells: Vec<Counters>,
    files: AtomicU64,
    broken_files: AtomicU64,
    longest_free: AtomicU64,
}

#[derive(Default)]
struct Counters {
    blocks: [AtomicU64; KINDS],
    breaks: AtomicU64,
    free_runs: AtomicU64,
    longest_free: AtomicU64,
    /// Single blocks handed out by the allocators: part of the groups that were counted as room.
    singles: AtomicU64,
}

fn bump(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Sheet<'_> {
    /// Shows the parts of a run of blocks that lie in each cell.
    fn parts(&self, first: BlockNo, blocks: u64, mut each: impl FnMut(&Counters, u64)) {
        let end = first.0.saturating_add(blocks).min(self.geo.blocks());
        let mut at = first.0;
        while at < end {
            let number = at / self.span;
            let stop = ((number + 1) * self.span).min(end);
            if let Some(cell) = self.cells.get(index(number)) {
                each(cell, stop - at);
            }
            at = stop;
        }
    }

    fn add(&self, kind: Kind, first: BlockNo, blocks: u64) {
        self.parts(first, blocks, |cell, part| {
            bump(&cell.blocks[kind.at()], part)
        });
    }

    /// A block out of an allocator's group.
    fn single(&self, kind: Kind, at: BlockNo) {
        self.parts(at, 1, |cell, part| {
            bump(&cell.blocks[kind.at()], part);
            bump(&cell.singles, part);
        });
    }

    fn free(&self, first: ClusterNo, clusters: u64) {
        let blocks = clusters * self.geo.blocks_per_cluster();
        self.longest_free.fetch_max(blocks, Ordering::Relaxed);
        self.parts(self.geo.first_block(first), blocks, |cell, part| {
            bump(&cell.blocks[Kind::Free.at()], part);
            bump(&cell.free_runs, 1);
            cell.longest_free.fetch_max(part, Ordering::Relaxed);
        });
    }

    fn inode(&self, view: View<'_>, inode: &Inode<'_>, faults: &mut Vec<Error>) {
        let flags = inode.flags();
        let regular = inode.file_type() == Some(FileType::Regular);
        let contents = if flags.contains(InodeFlags::JOURNAL) {
            Kind::Journal
        } else if inode.file_type() == Some(FileType::Directory) {
            Kind::Directory
        } else if flags.contains(InodeFlags::SYSTEM) {
            Kind::System
        } else {
            Kind::Data
        };
        let bitmap = inode.i_clusters.get() == self.geo.clusters();
        let mut pieces = 0_u64;
        // Where the file would go on if it did not break.
        let mut goes_on = None;
        holdings::for_each_run(view, inode, &mut |run| match run {
            Err(error) => faults.push(error),
            Ok(run) => {
                self.run(&run, contents, bitmap);
                if run.purpose == Purpose::Data && regular && contents == Kind::Data {
                    if goes_on.is_some_and(|blkno| blkno != run.blkno) {
                        self.parts(run.blkno, 1, |cell, _| bump(&cell.breaks, 1));
                    }
                    pieces += u64::from(goes_on != Some(run.blkno));
                    goes_on = Some(run.blkno.plus(run.blocks));
                }
            }
        });
        bump(&self.files, u64::from(pieces > 0));
        bump(&self.broken_files, u64::from(pieces > 1));
    }

    fn run(&self, run: &Run, contents: Kind, bitmap: bool) {
        // What is counted in a refcount tree is added when the tree is read.
        let counted = run.flags.contains(ExtentFlags::REFCOUNTED);
        match run.purpose {
            Purpose::Data if !counted => self.add(contents, run.blkno, run.blocks),
            Purpose::XattrValue if !counted => self.add(Kind::Xattr, run.blkno, run.blocks),
            Purpose::Data | Purpose::XattrValue => {}
            Purpose::IndexLeaf => self.add(Kind::Directory, run.blkno, run.blocks),
            Purpose::XattrBucket => self.add(Kind::Xattr, run.blkno, run.blocks),
            Purpose::Group => self.add(Kind::Room, run.blkno, run.blocks),
            Purpose::Window | Purpose::Truncated => {
                self.add(Kind::System, run.blkno, run.blocks);
            }
            Purpose::Inode => self.single(Kind::Inode, run.blkno),
            Purpose::ExtentBlock => self.single(Kind::ExtentBlock, run.blkno),
            Purpose::IndexRoot => self.single(Kind::Directory, run.blkno),
            Purpose::XattrBlock => self.single(Kind::Xattr, run.blkno),
            // Those of the cluster bitmap are fixed areas.
            Purpose::GroupDescriptor if !bitmap => self.single(Kind::Descriptor, run.blkno),
            Purpose::GroupDescriptor
            | Purpose::RefcountRoot
            | Purpose::RefcountLeaf
            | Purpose::RefcountExtent => {}
        }
    }

    /// A refcount tree: its blocks, and the clusters that it counts.
    fn tree(&self, view: View<'_>, root: BlockNo) -> Result<()> {
        holdings::for_each_tree_block(view, root, &mut |run| {
            if let Ok(run) = run {
                self.single(Kind::Refcount, run.blkno);
            }
        });
        for rec in refcount::records(view, root)? {
            let kind = match rec.r_refcount.get() {
                0 | 1 => Kind::Data,
                2 => Kind::Shared,
                _ => Kind::SharedMore,
            };
            let first = self.geo.first_block(ClusterNo(low32(rec.r_cpos.get())));
            let blocks = u64::from(rec.r_clusters.get()) * self.geo.blocks_per_cluster();
            self.add(kind, first, blocks);
        }
        Ok(())
    }

    /// The free clusters of a group.
    fn group(&self, view: View<'_>, number: u32) -> Result<()> {
        let group = view.block::<GroupDesc>(self.geo.group_block(number))?;
        let first = number.saturating_mul(self.geo.clusters_per_group());
        let bits = u32::from(group.bg_bits.get()).min(self.geo.clusters_per_group());
        let mut at = 0;
        while at < bits {
            let free = run_of(group.bitmap(), at, bits, false);
            if free > 0 {
                self.free(ClusterNo(first.saturating_add(at)), free.into());
            }
            at += free;
            at += run_of(group.bitmap(), at, bits, true);
        }
        Ok(())
    }

    fn fixed(&self, view: View<'_>) {
        let per_cluster = self.geo.blocks_per_cluster();
        let first = u64::from(self.geo.first_group_cluster().0) * per_cluster;
        self.add(Kind::Superblock, BlockNo(0), first);
        if view.info().features.compat.contains(Compat::BACKUP_SB) {
            for offset in self.geo.backup_offsets() {
                let block = BlockNo(offset >> self.geo.block_bits());
                let cluster = self.geo.cluster_of(block);
                self.add(Kind::Superblock, self.geo.first_block(cluster), per_cluster);
            }
        }
        for number in 0..self.geo.cluster_groups() {
            self.add(Kind::Descriptor, self.geo.group_block(number), per_cluster);
        }
    }

    fn finish(self) -> Map {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut total = Cell::default();
        let mut cells = Vec::with_capacity(self.cells.len());
        let mut left = self.geo.blocks();
        for counters in &self.cells {
            let mut cell = Cell {
                blocks: std::array::from_fn(|kind| get(&counters.blocks[kind])),
                breaks: get(&counters.breaks),
                free_runs: get(&counters.free_runs),
                longest_free: get(&counters.longest_free),
            };
            let room = &mut cell.blocks[Kind::Room.at()];
            *room = room.saturating_sub(get(&counters.singles));
            let here = self.span.min(left);
            left -= here;
            cell.blocks[Kind::Unknown.at()] = here.saturating_sub(cell.all());
            total.add(&cell);
            cells.push(cell);
        }
        Map {
            cell_clusters: self.span / self.geo.blocks_per_cluster(),
            cells,
            total,
            files: get(&self.files),
            broken_files: get(&self.broken_files),
            longest_free: get(&self.longest_free),
        }
    }
}

/// Bits from `at` on that are all set, or all clear, up to `end`. Bits that are not there are set.
fn run_of(bitmap: &[u8], at: u32, end: u32, set: bool) -> u32 {
    let mut bit = at;
    while bit < end {
        let byte = bitmap.get(bit as usize / 8).copied().unwrap_or(0xFF);
        let rest = (if set { !byte } else { byte }) >> (bit % 8);
        if rest != 0 {
            return (bit + rest.trailing_zeros()).min(end) - at;
        }
        bit = (bit / 8 + 1) * 8;
    }
    end.saturating_sub(at)
}

/// Draws the map of a volume in at most `cells` parts, and gives what could not be read.
#[must_use]
pub fn map(scanner: &Scanner, view: View<'_>, cells: u32) -> (Map, Vec<Error>) {
    let geo = view.geo();
    let cell_clusters = u64::from(geo.clusters().div_ceil(cells.max(1)).max(1));
    let count = u64::from(geo.clusters()).div_ceil(cell_clusters);
    let sheet = Sheet {
        geo,
        span: cell_clusters * geo.blocks_per_cluster(),
        cells: std::iter::repeat_with(Counters::default)
            .take(index(count))
            .collect(),
        files: AtomicU64::new(0),
        broken_files: AtomicU64::new(0),
        longest_free: AtomicU64::new(0),
    };
    sheet.fixed(view);
    let (mut trees, mut failed) = inodes::collect(scanner, view, |inode, trees, faults| {
        sheet.inode(view, inode, faults);
        let tree = inode.i_refcount_loc.get();
        let shares = inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
        if shares && tree != 0 {
            trees.push(BlockNo(tree));
        }
    });
    trees.sort_unstable();
    trees.dedup();
    let keep = |failed: &mut Vec<Error>, done: Result<()>| failed.extend(done.err());
    scanner.run(
        &trees,
        |root| sheet.tree(view, *root),
        |done| keep(&mut failed, done),
    );
    let groups: Vec<u32> = (0..geo.cluster_groups()).collect();
    scanner.run(
        &groups,
        |group| sheet.group(view, *group),
        |done| keep(&mut failed, done),
    );
    (sheet.finish(), failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_end_where_a_count_of_each_bit_ends_them() {
        let bitmap = [0x00, 0xFF, 0xF0, 0x0F, 0x5A, 0xFF, 0x00, 0x80];
        for end in 0..70 {
            for at in 0..=end {
                for set in [false, true] {
                    let is = |bit: &u32| {
                        let byte = bitmap.get(*bit as usize / 8).copied().unwrap_or(0xFF);
                        (byte >> (bit % 8) & 1 == 1) == set
                    };
                    let naive = (at..end).take_while(is).fold(0, |count, _| count + 1);
                    assert_eq!(run_of(&bitmap, at, end, set), naive, "{at} {end} {set}");
                }
            }
        }
    }
}
