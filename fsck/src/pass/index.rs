//! Directory indexes: their blocks and clusters, and whether names are found through them.

use std::collections::BTreeSet;

use cowfs_format::block::Checked;
use cowfs_format::layout::{
    DIR_TRAILER, Dinode, DirBlockTrailer, DxHash, DxLeaf, DxRoot, DynFeatures, Incompat,
};
use cowfs_format::read::dx::{self, DxListView};
use cowfs_format::read::extent::Extent;
use cowfs_format::units::{BlockNo, low32};
use zerocopy::FromBytes;

use super::extents::{self, Tree};
use super::inode::is_system;
use crate::catalogue::{At, BlockKind, DirProblem};
use crate::facts::{Cx, Origin, Out};

/// The root of a directory's index, when it has one.
fn root_of(inode: &Checked<'_, Dinode>) -> Option<BlockNo> {
    let dynamic = inode.dyn_features();
    (dynamic.contains(DynFeatures::INDEXED_DIR) && !dynamic.contains(DynFeatures::INLINE_DATA))
        .then(|| BlockNo(inode.i_dx_root.get()))
}

/// Claims what the index of a directory uses and checks its root.
pub(crate) fn claim(cx: &Cx<'_>, out: &mut Out, inode: &Checked<'_, Dinode>) {
    let Some(blkno) = root_of(inode) else { return };
    if !cx.view.info().has(Incompat::INDEXED_DIRS) {
        out.find(At::inode(inode.blkno()), DirProblem::IvDxTree {});
    }
    let at = At::within(inode.blkno(), blkno);
    let Some(root) = cx.inspect::<DxRoot>(out, at, blkno, BlockKind::Dx) else {
        return;
    };
    let origin = Origin {
        slot: root.dr_suballoc_slot.get(),
        bit: root.dr_suballoc_bit.get(),
        loc: root.dr_suballoc_loc.get(),
    };
    cx.claim_meta(out, inode.blkno(), blkno, "directory index root", origin);
    if root.dr_dir_blkno.get() != inode.blkno().0 {
        let why = format!("its root belongs to directory {}", root.dr_dir_blkno);
        out.find(at, DirProblem::DxTreeCorrupt { why });
    }
    if root.is_inline() {
        return;
    }
    let spec = tree(inode, &root);
    let sum = extents::walk(cx, out, spec, &mut |out, extent| {
        let first = cx.view.geo().cluster_of(extent.blkno).0;
        cx.claim(
            out,
            inode.blkno(),
            is_system(cx, inode),
            first,
            extent.clusters,
        );
    });
    if cx.has_quota() {
        let top = cx.view.info().root;
        out.usage
            .count_index(inode, inode.blkno(), top, sum.clusters);
    }
    if !sum.broken && u64::from(root.dr_clusters.get()) != sum.clusters {
        let why = format!(
            "its root counts {} clusters of {}",
            root.dr_clusters, sum.clusters
        );
        out.find(at, DirProblem::DxTreeCorrupt { why });
    }
}

fn tree<'a>(inode: &Checked<'_, Dinode>, root: &'a Checked<'_, DxRoot>) -> Tree<'a> {
    Tree {
        owner: inode.blkno(),
        root: root.blkno(),
        space: root.body(),
        last_eb: root.dr_last_eb_blk.get(),
        holes: true,
        shared: false,
        to_blocks: false,
    }
}

/// The index of a directory, while its names are looked up in it.
pub(crate) struct Index<'v> {
    at: At,
    root: Checked<'v, DxRoot>,
    /// Sorted by hash and block.
    entries: Vec<Entry>,
    /// Whether all leaves could be read.
    whole: bool,
    /// Names that are found under one of their two hashes only, by the hash that they lack.
    lacking: Lacking,
}

/// An entry of the index.
struct Entry {
    hash: u64,
    /// The directory block that it leads to.
    block: u64,
    /// Whether a name was found for it.
    found: bool,
}

/// A name of a directory, under one of its hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// Under which it stands in the index.
    pub(crate) hash: u64,
    pub(crate) place: Place,
}

/// Where the entry of a name stands: number of its block in the directory, and offset there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) area: u32,
    pub(crate) offset: u32,
}

/// How many names of a directory each kind of driver does not find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    /// Not under the hash of Linux up to 6.1 on x86.
    pub(crate) signed: u64,
    /// Not under the hash of Linux from 6.2 on.
    pub(crate) unsigned: u64,
}

/// A hash as one number, in the order of the index.
pub(crate) const fn key(hash: DxHash) -> u64 {
    (hash.major as u64) << 32 | hash.minor as u64
}

impl<'v> Index<'v> {
    /// Reads the index of a directory.
    pub(crate) fn load(cx: &Cx<'v>, out: &mut Out, inode: &Checked<'_, Dinode>) -> Option<Self> {
        let blkno = root_of(inode).filter(|_| cx.view.info().has(Incompat::INDEXED_DIRS))?;
        let at = At::within(inode.blkno(), blkno);
        // What is wrong with the root was told when it was claimed.
        let (root, faults) = cx.view.inspect::<DxRoot>(blkno);
        let root = root.filter(|_| faults.len() <= 1)?;
        let (mut entries, mut whole) = (Vec::new(), true);
        if root.is_inline() {
            whole &= take(out, at, root.inline_entries(), &mut entries, |_| true);
        } else {
            let mut extents: Vec<Extent> = Vec::new();
            let mut unheard = Out::default();
            let mut quiet = |_: &mut Out, extent: &Extent| extents.push(*extent);
            whole &= !extents::walk(cx, &mut unheard, tree(inode, &root), &mut quiet).broken;
            let ends = extents
                .iter()
                .skip(1)
                .map(|next| u64::from(next.cpos))
                .chain([1 << 32]);
            for (extent, end) in extents.iter().zip(ends) {
                whole &= leaves(cx, out, inode, extent, end, &mut entries);
            }
        }
        entries.sort_unstable_by_key(|entry: &Entry| (entry.hash, entry.block));
        Some(Self {
            at,
            root,
            entries,
            whole,
            lacking: Lacking::default(),
        })
    }

    /// The names that are not found through the index, under either hash. `names` are all those of the directory
    /// by their signed hash, `split` those that have another one by that; `blocks` are the directory's.
    pub(crate) fn missing(
        &mut self,
        names: &[Name],
        split: &[Name],
        blocks: &[BlockNo],
    ) -> Vec<Place> {
        let signed = self.look_up(names, blocks);
        let unsigned = self.look_up(split, blocks);
        // With a leaf missing, a name that is not found may be there.
        if !self.whole {
            return Vec::new();
        }
        let split: BTreeSet<Place> = split.iter().map(|name| name.place).collect();
        let nowhere = |place: &Place| !split.contains(place) || unsigned.contains(place);
        let (none, one): (Vec<Place>, Vec<Place>) =
            signed.iter().copied().partition(|place| nowhere(place));
        self.lacking.signed = one.len() as u64;
        self.lacking.unsigned = unsigned.difference(&signed).count() as u64;
        none
    }

    /// Looks names up, which are sorted by a hash; those that have no entry under it.
    fn look_up(&mut self, names: &[Name], blocks: &[BlockNo]) -> BTreeSet<Place> {
        let mut missing = BTreeSet::new();
        let mut rest = self.entries.as_mut_slice();
        for same in names.chunk_by(|one, other| one.hash == other.hash) {
            let Some(Name { hash, .. }) = same.first().copied() else {
                continue;
            };
            let before = rest.iter().take_while(|entry| entry.hash < hash).count();
            rest = rest.get_mut(before..).unwrap_or_default();
            let count = rest.iter().take_while(|entry| entry.hash == hash).count();
            let (run, behind) = rest.split_at_mut(count);
            for name in same {
                let block = blocks
                    .get(name.place.area as usize)
                    .map_or(0, |block| block.0);
                let from = run.partition_point(|entry| entry.block < block);
                let mut of_block = run[from..]
                    .iter_mut()
                    .take_while(|entry| entry.block == block)
                    .peekable();
                if of_block.peek().is_none() {
                    missing.insert(name.place);
                }
                if let Some(entry) = of_block.find(|entry| !entry.found) {
                    entry.found = true;
                }
            }
            rest = behind;
        }
        missing
    }

    /// Checks what is left once all `names` of the directory were looked up. `blocks` are the
    /// directory's blocks, sorted; `complete` says that all of them could be read.
    pub(crate) fn finish(
        self,
        cx: &Cx<'_>,
        out: &mut Out,
        names: u64,
        blocks: &[BlockNo],
        complete: bool,
    ) {
        self.free_list(cx, out, blocks);
        if !complete || !self.whole {
            return;
        }
        for &Entry { hash, block, .. } in self.entries.iter().filter(|entry| !entry.found) {
            let (major, minor) = (low32(hash >> 32), low32(hash));
            let left = blocks.binary_search(&BlockNo(block)).is_ok();
            let problem = if left {
                DirProblem::DxLeft {
                    major,
                    minor,
                    block,
                }
            } else {
                DirProblem::DxStale {
                    major,
                    minor,
                    block,
                }
            };
            out.find(self.at, problem);
        }
        out.tell_hashes(self.at, self.lacking);
        // A name that has an entry under each of its two hashes counts once.
        let found = self.root.dr_num_entries.get();
        if u64::from(found) != names {
            out.find(
                self.at,
                DirProblem::DxNumEntries {
                    found,
                    expected: names,
                },
            );
        }
    }

    /// Walks the list of directory blocks with room.
    fn free_list(&self, cx: &Cx<'_>, out: &mut Out, blocks: &[BlockNo]) {
        let mut next = self.root.dr_free_blk.get();
        let mut steps = 0;
        while next != 0 {
            let found = next;
            let mut wrong = |why| out.find(self.at, DirProblem::DxFreeList { why, found });
            if blocks.binary_search(&BlockNo(next)).is_err() {
                wrong("it leads to a block of somebody else");
                return;
            }
            steps += 1;
            if steps > blocks.len() {
                wrong("it loops");
                return;
            }
            let Ok(bytes) = cx.view.raw(BlockNo(next)) else {
                return;
            };
            let at = bytes.len().saturating_sub(DIR_TRAILER);
            let trailer = DirBlockTrailer::ref_from_bytes(bytes.get(at..).unwrap_or_default());
            next = trailer.map_or(0, |trailer| trailer.db_free_next.get());
        }
    }
}

/// Adds the entries of a list; false when the list cannot be right.
fn take(
    out: &mut Out,
    at: At,
    list: Option<DxListView<'_>>,
    entries: &mut Vec<Entry>,
    belongs: impl Fn(DxHash) -> bool,
) -> bool {
    let Some(list) = list else { return false };
    let (count, used) = (list.head.de_count.get(), list.head.de_num_used.get());
    let sane = used <= count && usize::from(count) <= list.capacity;
    if !sane {
        let why = format!(
            "a list says {used} of {count} entries, with room for {}",
            list.capacity
        );
        out.find(at, DirProblem::DxTreeCorrupt { why });
    }
    for entry in list.entries {
        let (major, minor) = (entry.dx_major_hash.get(), entry.dx_minor_hash.get());
        let (hash, block) = (DxHash { major, minor }, entry.dx_dirent_blk.get());
        if belongs(hash) {
            entries.push(Entry {
                hash: key(hash),
                block,
                found: false,
            });
        } else {
            out.find(
                at,
                DirProblem::DxStale {
                    major,
                    minor,
                    block,
                },
            );
        }
    }
    sane
}

/// Reads the leaves of an extent of the index; false when some could not be read.
fn leaves(
    cx: &Cx<'_>,
    out: &mut Out,
    inode: &Checked<'_, Dinode>,
    extent: &Extent,
    end: u64,
    entries: &mut Vec<Entry>,
) -> bool {
    let mut whole = true;
    for i in 0..u64::from(extent.clusters) * cx.view.geo().blocks_per_cluster() {
        let blkno = extent.blkno.plus(i);
        let at = At::within(inode.blkno(), blkno);
        match cx.inspect::<DxLeaf>(out, at, blkno, BlockKind::Dx) {
            None => whole = false,
            Some(leaf) => {
                whole &= take(out, at, leaf.list(), entries, |hash| {
                    let keys = u64::from(extent.cpos)..end;
                    keys.contains(&u64::from(hash.major))
                        && dx::leaf_of(cx.view, extent, hash) == blkno
                });
            }
        }
    }
    whole
}
