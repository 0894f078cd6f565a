//! All space that an inode holds, run by run, and what each run is for.
//!
//! Accounting, the search for the owners of a block and the map of a volume are all made of this
//! one walk. Space is held in two ways: straight from the cluster bitmap ([`Purpose::in_clusters`]),
//! or as single blocks out of the groups that the allocators below `//` hold.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::{Checked, View};
use crate::error::Error;
use crate::layout::{
    Dinode, DxRoot, DynFeatures, ExtentFlags, InodeFlags, LocalAlloc, RefcountBlock, TruncateLog,
    TruncateRec, XattrBlock,
};
use crate::read::extent::{self, TreeStep};
use crate::read::{chain, xattr};
use crate::units::{BlockNo, ClusterNo};

/// What a run of blocks is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The inode itself.
    Inode,
    /// Contents: of a file, a directory, a journal, a symlink.
    Data,
    /// A block of an extent tree, whatever the tree maps.
    ExtentBlock,
    /// Root of a directory's index.
    IndexRoot,
    /// Leaves of a directory's index.
    IndexLeaf,
    /// A block of xattrs, or the root of a tree of buckets.
    XattrBlock,
    /// Buckets of xattrs.
    XattrBucket,
    /// The value of an xattr.
    XattrValue,
    /// Root of the refcount tree that the inode belongs to.
    RefcountRoot,
    /// A leaf of that tree.
    RefcountLeaf,
    /// A block between them.
    RefcountExtent,
    /// A descriptor of a group of an allocator.
    GroupDescriptor,
    /// Blocks of a group that an allocator of metadata hands out, its descriptor included.
    Group,
    /// Clusters of a slot's local window that nobody was given yet.
    Window,
    /// Clusters in a truncate log: free as soon as somebody empties it.
    Truncated,
}

impl Purpose {
    /// Whether the space was taken straight from the cluster bitmap. Each cluster in use is taken
    /// so for one purpose, or is a fixed part of the volume.
    #[must_use]
    pub const fn in_clusters(self) -> bool {
        matches!(
            self,
            Self::Data
                | Self::IndexLeaf
                | Self::XattrBucket
                | Self::XattrValue
                | Self::Group
                | Self::Window
                | Self::Truncated
        )
    }

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inode => "inode",
            Self::Data => "data",
            Self::ExtentBlock => "extent block",
            Self::IndexRoot => "directory index root",
            Self::IndexLeaf => "directory index leaf",
            Self::XattrBlock => "xattr block",
            Self::XattrBucket => "xattr buckets",
            Self::XattrValue => "xattr value",
            Self::RefcountRoot => "refcount root",
            Self::RefcountLeaf => "refcount leaf",
            Self::RefcountExtent => "extent block of the refcount tree",
            Self::GroupDescriptor => "group descriptor",
            Self::Group => "allocator group",
            Self::Window => "local window",
            Self::Truncated => "truncate log",
        }
    }
}

/// A run of blocks that an inode holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What for.
    pub purpose: Purpose,
    /// First block.
    pub blkno: BlockNo,
    /// Number of blocks.
    pub blocks: u64,
    /// Block of the file that the run begins with; for [`Purpose::Data`] only.
    pub offset: Option<u64>,
    /// State of the extent, where the run is one.
    pub flags: ExtentFlags,
}

/// Is shown each run, or what of an inode cannot be walked.
pub type RunVisitor<'a> = dyn FnMut(Result<Run, Error>) + 'a;

/// Shows all runs that an inode holds. What is damaged is shown as an error, and the rest goes on.
pub fn for_each_run(view: View<'_>, inode: &Checked<'_, Dinode>, visit: &mut RunVisitor<'_>) {
    let mut walk = Walk { view, visit };
    walk.block(Purpose::Inode, inode.blkno());
    if inode.has_extents() {
        walk.tree(inode.blkno(), inode.body(), Purpose::Data);
    }
    let flags = inode.flags();
    if flags.contains(InodeFlags::CHAIN) {
        walk.groups(inode);
    } else if flags.contains(InodeFlags::LOCAL_ALLOC) {
        walk.window(inode);
    } else if flags.contains(InodeFlags::DEALLOC) {
        walk.truncated(inode);
    }
    let features = inode.dyn_features();
    if features.contains(DynFeatures::INDEXED_DIR) {
        let at = BlockNo(inode.i_dx_root.get());
        walk.block(Purpose::IndexRoot, at);
        match view.block::<DxRoot>(at) {
            Ok(root) if !root.is_inline() => walk.tree(at, root.body(), Purpose::IndexLeaf),
            Ok(_) => {}
            Err(error) => (walk.visit)(Err(error)),
        }
    }
    if features.contains(DynFeatures::HAS_REFCOUNT) {
        walk.refcounts(BlockNo(inode.i_refcount_loc.get()));
    }
    if inode.i_xattr_loc.get() != 0 {
        let at = BlockNo(inode.i_xattr_loc.get());
        walk.block(Purpose::XattrBlock, at);
        match view.block::<XattrBlock>(at) {
            Ok(block) if xattr::is_indexed(&block) => {
                walk.tree(at, xattr::tree_list(&block), Purpose::XattrBucket);
            }
            Ok(_) => {}
            Err(error) => (walk.visit)(Err(error)),
        }
    }
    if features.contains(DynFeatures::HAS_XATTR) {
        walk.values(inode);
    }
}

/// Shows all blocks of a refcount tree, which the inodes that belong to it hold together.
pub fn for_each_tree_block(view: View<'_>, root: BlockNo, visit: &mut RunVisitor<'_>) {
    Walk { view, visit }.refcounts(root);
}

struct Walk<'w, 'v, 'f> {
    view: View<'v>,
    visit: &'w mut RunVisitor<'f>,
}

impl Walk<'_, '_, '_> {
    fn run(&mut self, purpose: Purpose, blkno: BlockNo, blocks: u64) {
        (self.visit)(Ok(Run {
            purpose,
            blkno,
            blocks,
            offset: None,
            flags: ExtentFlags::empty(),
        }));
    }

    fn block(&mut self, purpose: Purpose, blkno: BlockNo) {
        self.run(purpose, blkno, 1);
    }

    fn clusters(&mut self, purpose: Purpose, first: u32, clusters: u32) {
        let geo = self.view.geo();
        let blocks = u64::from(clusters) * geo.blocks_per_cluster();
        self.run(purpose, geo.first_block(ClusterNo(first)), blocks);
    }

    /// An extent tree: its blocks, and what its records map.
    fn tree(&mut self, owner: BlockNo, root: &[u8], purpose: Purpose) {
        let per_cluster = self.view.geo().blocks_per_cluster();
        let walked = extent::walk_tree(self.view, owner, root, &mut |step| {
            match step {
                TreeStep::List {
                    block: Some(block), ..
                } => self.block(Purpose::ExtentBlock, block.blkno()),
                TreeStep::List { .. } => {}
                TreeStep::Extent(extent) => {
                    let offset = u64::from(extent.cpos) * per_cluster;
                    (self.visit)(Ok(Run {
                        purpose,
                        blkno: extent.blkno,
                        blocks: u64::from(extent.clusters) * per_cluster,
                        offset: (purpose == Purpose::Data).then_some(offset),
                        flags: extent.flags,
                    }));
                }
                TreeStep::Fault { error, .. } => (self.visit)(Err(error)),
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = walked {
            (self.visit)(Err(error));
        }
    }

    /// The groups of an allocator. Those of the cluster bitmap hold what others hold: only their
    /// descriptors are shown.
    fn groups(&mut self, inode: &Checked<'_, Dinode>) {
        let (bits_per_cluster, groups) = match chain::chains(inode)
            .map(|chains| chains.head.cl_bpc.get())
            .and_then(|bpc| Ok((bpc, chain::groups(self.view, inode)?)))
        {
            Ok(both) => both,
            Err(error) => return (self.visit)(Err(error)),
        };
        let is_bitmap = inode.i_clusters.get() == self.view.geo().clusters();
        for step in groups {
            let group = match step.group {
                Ok(group) => group,
                Err(error) => {
                    (self.visit)(Err(error));
                    continue;
                }
            };
            self.block(Purpose::GroupDescriptor, step.blkno);
            if is_bitmap {
                continue;
            }
            let extents = group.discontiguous(bits_per_cluster);
            if extents.is_empty() {
                self.run(Purpose::Group, step.blkno, group.bg_bits.get().into());
            }
            for (_, bits, first) in extents {
                self.run(Purpose::Group, first, bits.into());
            }
        }
    }

    /// The clear bits of a local window.
    fn window(&mut self, inode: &Checked<'_, Dinode>) {
        let Ok((head, bitmap)) = LocalAlloc::ref_from_prefix(inode.body()) else {
            return;
        };
        let bits = usize::try_from(inode.bitmap_total()).unwrap_or(0);
        let free = |bit: &usize| bitmap.get(bit / 8).is_some_and(|b| b >> (bit % 8) & 1 == 0);
        let first = head.la_bm_off.get();
        for bit in (0..bits.min(bitmap.len() * 8)).filter(free) {
            let cluster = first.saturating_add(u32::try_from(bit).unwrap_or(u32::MAX));
            self.clusters(Purpose::Window, cluster, 1);
        }
    }

    fn truncated(&mut self, inode: &Checked<'_, Dinode>) {
        let Ok((head, rest)) = TruncateLog::ref_from_prefix(inode.body()) else {
            return;
        };
        let used = usize::from(head.tl_used.get());
        for bytes in rest.chunks_exact(size_of::<TruncateRec>()).take(used) {
            if let Ok(rec) = TruncateRec::ref_from_bytes(bytes)
                && rec.t_start.get() != 0
            {
                self.clusters(Purpose::Truncated, rec.t_start.get(), rec.t_clusters.get());
            }
        }
    }

    /// A refcount tree. The records of its root count clusters, but each takes one block.
    fn refcounts(&mut self, at: BlockNo) {
        self.block(Purpose::RefcountRoot, at);
        let root = match self.view.block::<RefcountBlock>(at) {
            Ok(root) if root.is_tree() => root,
            Ok(_) => return,
            Err(error) => return (self.visit)(Err(error)),
        };
        let walked = extent::walk_tree(self.view, at, root.body(), &mut |step| {
            match step {
                TreeStep::List {
                    block: Some(block), ..
                } => self.block(Purpose::RefcountExtent, block.blkno()),
                TreeStep::List { .. } => {}
                TreeStep::Extent(leaf) => self.block(Purpose::RefcountLeaf, leaf.blkno),
                TreeStep::Fault { error, .. } => (self.visit)(Err(error)),
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = walked {
            (self.visit)(Err(error));
        }
    }

    /// The values of xattrs that stand in clusters of their own.
    fn values(&mut self, inode: &Checked<'_, Dinode>) {
        let view = self.view;
        xattr::for_each_area(view, inode, &mut |area| {
            match area {
                Err(error) => (self.visit)(Err(error)),
                Ok((place, area)) => {
                    for entry in xattr::entries(area).flatten() {
                        if let xattr::Stored::Outside(_, list) = entry.value {
                            self.tree(place.blkno(), list, Purpose::XattrValue);
                        }
                    }
                }
            }
            ControlFlow::Continue(())
        });
    }
}
