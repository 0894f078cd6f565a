//! Trees made anew from what a repair found. What they were made of before is not freed here: a
//! check finds it in use for nothing, and a repair frees it then.

use zerocopy::FromBytes;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DIR_TRAILER, Dinode, DirBlockTrailer, DynFeatures, ExtentFlags, REFCOUNT_BODY, RefcountBlock,
    RefcountList,
};
use crate::read::extent::Extent;
use crate::read::{dir, inode};
use crate::txn::{Adjust, Timestamp, TreeRoot, Txn};
use crate::units::{BlockNo, ClusterNo, low16, low32};

impl Txn<'_> {
    /// Gives the data of an inode another tree, of these extents in order.
    ///
    /// # Errors
    /// The inode cannot be used, or the volume is full.
    pub fn remake_data(&mut self, inode: BlockNo, extents: &[Extent]) -> Result<()> {
        self.make_extent_list(inode)?;
        let mut dinode = self.edit::<Dinode>(inode)?;
        dinode.i_clusters = 0.into();
        dinode.i_last_eb_blk = 0.into();
        let root = self.data_root(inode)?;
        self.splice(&root, 0, u32::MAX, extents)
    }

    /// Gives an inode without data `clusters` clusters, in one run when `whole`; what they hold is
    /// whatever was there.
    ///
    /// # Errors
    /// The inode cannot be used, or the volume is full.
    pub fn remake_space(&mut self, inode: BlockNo, clusters: u32, whole: bool) -> Result<()> {
        let geo = self.info.geo;
        let mut extents: Vec<Extent> = Vec::new();
        let mut cpos = 0;
        while cpos < clusters {
            let left = clusters - cpos;
            let run = self.alloc_contiguous(left)?.map(|first| (first, left));
            let (first, got) = match run {
                Some(run) => run,
                None if whole => {
                    return Err(Error::NoSpace {
                        needed: left.into(),
                        unit: "clusters in one run",
                    });
                }
                None => self.alloc_clusters(left)?,
            };
            extents.push(Extent {
                cpos,
                clusters: got,
                blkno: geo.first_block(first),
                flags: ExtentFlags::empty(),
            });
            cpos += got;
        }
        self.remake_data(inode, &extents)
    }

    /// Makes an inode without data an empty directory below `parent`.
    ///
    /// # Errors
    /// The inode cannot be used, or the volume is full.
    pub fn remake_directory(&mut self, inode: BlockNo, parent: BlockNo) -> Result<()> {
        self.open_directory(inode, parent)
    }

    /// Gives a directory another index, made from its entries.
    ///
    /// # Errors
    /// A block of the directory cannot be used, or the volume is full.
    pub fn remake_index(&mut self, directory: BlockNo) -> Result<()> {
        let blocks = self.directory_blocks(directory)?;
        for blkno in blocks {
            let mut block = self.edit_dir_block(blkno, directory, true)?;
            let bytes = block.bytes_mut();
            let at = bytes.len().saturating_sub(DIR_TRAILER);
            if let Ok(trailer) = DirBlockTrailer::mut_from_bytes(&mut bytes[at..]) {
                trailer.db_free_rec_len = 0.into();
                trailer.db_free_next = 0.into();
            }
        }
        self.index_directory(directory)
    }

    /// Takes the index of a directory away.
    ///
    /// # Errors
    /// The inode cannot be used.
    pub fn forget_index(&mut self, directory: BlockNo) -> Result<()> {
        let mut dinode = self.edit::<Dinode>(directory)?;
        let features = dinode.dyn_features().difference(DynFeatures::INDEXED_DIR);
        dinode.i_dyn_features = features.bits().into();
        dinode.i_dx_root = 0.into();
        Ok(())
    }

    fn directory_blocks(&self, directory: BlockNo) -> Result<Vec<BlockNo>> {
        let view = self.view();
        let dinode = inode::read(view, directory)?;
        let (mut blocks, mut failed) = (Vec::new(), None);
        dir::for_each_area(view, &dinode, &mut |area| {
            match area {
                Ok(area) => blocks.extend(area.block),
                Err(error) => failed = Some(error),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(blocks), Err)
    }

    /// Makes the refcount tree of some inodes anew: in its root, when that can still be used, or in
    /// a new one. `counted` are ranges of clusters with their numbers of mappings, in order.
    ///
    /// # Errors
    /// An inode or the root cannot be used, or the volume is full.
    pub fn remake_refcounts(
        &mut self,
        root: Option<BlockNo>,
        inodes: &[BlockNo],
        counted: &[(u32, u32, u32)],
    ) -> Result<BlockNo> {
        let root = match root {
            Some(root) => {
                let mut block = self.edit::<RefcountBlock>(root)?;
                block.rf_flags = 0.into();
                block.rf_clusters = 0.into();
                block.rf_last_eb_blk = 0.into();
                block.rf_parent = 0.into();
                block.rf_cpos = 0.into();
                let body = block
                    .bytes_mut()
                    .get_mut(REFCOUNT_BODY..)
                    .ok_or(FaultKind::OutOfVolume.at(root))?;
                body.fill(0);
                let room = (body.len() - size_of::<RefcountList>()) / 16;
                if let Ok((head, _)) = RefcountList::mut_from_prefix(body) {
                    head.rl_count = low16(room as u64).into();
                }
                root
            }
            None => self.new_refcount_tree()?,
        };
        for &inode in inodes {
            self.edit::<Dinode>(inode)?.i_refcount_loc = root.0.into();
        }
        self.edit::<RefcountBlock>(root)?.rf_count = low32(inodes.len() as u64).into();
        let changes: Vec<Adjust> = counted
            .iter()
            .map(|&(first, clusters, count)| Adjust {
                first: first.into(),
                clusters,
                delta: count.into(),
            })
            .collect();
        self.refcount_adjust(root, &changes)?;
        Ok(root)
    }

    /// The parts of the extents of an inode's data that lie in `count` clusters from `first` on.
    fn data_in(&self, root: &TreeRoot, first: ClusterNo, count: u32) -> Result<Vec<Extent>> {
        let geo = self.info.geo;
        let range = u64::from(first.0)..u64::from(first.0) + u64::from(count);
        let part = |extent: Extent| {
            let start = u64::from(geo.cluster_of(extent.blkno).0);
            let from = start.max(range.start);
            let end = (start + u64::from(extent.clusters)).min(range.end);
            (from < end).then(|| Extent {
                cpos: extent.cpos + low32(from - start),
                clusters: low32(end - from),
                blkno: geo.first_block(ClusterNo(low32(from))),
                flags: extent.flags,
            })
        };
        let all = self.tree_extents(root, 0, u32::MAX)?;
        Ok(all.into_iter().filter_map(part).collect())
    }

    /// Gives the data of an inode clusters of its own where it uses any of `count` clusters from
    /// `first` on, with the same contents. The number of clusters that it has got.
    ///
    /// # Errors
    /// The inode cannot be used, or the volume is full.
    pub fn part(&mut self, inode: BlockNo, first: ClusterNo, count: u32) -> Result<u64> {
        let geo = self.info.geo;
        let root = self.data_root(inode)?;
        let mut parted = 0;
        for extent in self.data_in(&root, first, count)? {
            let start = geo.cluster_of(extent.blkno).0;
            let mut fresh = Vec::new();
            let mut done = 0;
            while done < extent.clusters {
                let (cluster, clusters) = self.alloc_clusters(extent.clusters - done)?;
                for i in 0..clusters {
                    let old = geo.first_block(ClusterNo(start + done + i));
                    let blocks = crate::units::index(geo.blocks_per_cluster());
                    let data = self.view().run(old, blocks)?.into_owned();
                    self.write_data(ClusterNo(cluster.0 + i), 0, &data)?;
                }
                fresh.push(Extent {
                    cpos: extent.cpos + done,
                    clusters,
                    blkno: geo.first_block(cluster),
                    flags: extent.flags.difference(ExtentFlags::REFCOUNTED),
                });
                done += clusters;
            }
            self.splice(&root, extent.cpos, extent.end(), &fresh)?;
            parted += u64::from(extent.clusters);
        }
        Ok(parted)
    }

    /// Takes a name out of a directory, whatever it leads to.
    ///
    /// # Errors
    /// The directory has no such name, or a block of it cannot be used.
    pub fn forget_name(
        &mut self,
        directory: BlockNo,
        name: &[u8],
        now: Timestamp,
    ) -> Result<BlockNo> {
        self.remove_name(directory, name, now)
    }

    /// Takes `count` clusters from `first` on out of what the data of an inode maps; they are not
    /// freed. The number of clusters that it has lost.
    ///
    /// # Errors
    /// The inode cannot be used, or the volume is full.
    pub fn unmap(&mut self, inode: BlockNo, first: ClusterNo, count: u32) -> Result<u64> {
        let root = self.data_root(inode)?;
        let mut lost = 0;
        for extent in self.data_in(&root, first, count)? {
            self.splice(&root, extent.cpos, extent.end(), &[])?;
            lost += u64::from(extent.clusters);
        }
        Ok(lost)
    }

    /// Leads ".." of a directory elsewhere.
    ///
    /// # Errors
    /// The directory has no such entry, or a block of it cannot be used.
    pub fn lead_up(&mut self, directory: BlockNo, parent: BlockNo) -> Result<()> {
        let file_type = crate::layout::FileType::Directory;
        self.lead_name(directory, b"..", parent, file_type)
            .map(drop)
    }
}
