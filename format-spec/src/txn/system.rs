//! System files beside those that every volume has: made and removed under a name in the system
//! directory. They are charged to nobody.

use crate::error::{Error, Result};
use crate::layout::{Dinode, ExtentFlags, FileType, InodeFlags, MAX_LEAF_CLUSTERS};
use crate::read::extent::Extent;
use crate::read::{dir, inode};
use crate::txn::{NewInode, Timestamp, Txn};
use crate::units::{BlockNo, ClusterNo, Slot};
use crate::volume::system::SystemFile;

impl Txn<'_> {
    /// Makes a system file of `clusters` clusters, which hold anything: as far behind on the volume
    /// as there is room, and in one piece where that can be.
    ///
    /// # Errors
    /// The name exists, the allocator of system inodes has none left, or the volume is full.
    pub fn make_system_file(
        &mut self,
        name: &[u8],
        clusters: u32,
        now: Timestamp,
    ) -> Result<BlockNo> {
        let directory = self.info.system_dir;
        let taken = dir::lookup(self.view(), &inode::read(self.view(), directory)?, name)?;
        if taken.is_some() {
            return Err(Error::Path {
                path: format!("//{}", String::from_utf8_lossy(name)),
                why: "a file of that name exists",
            });
        }
        let free = self.free_clusters()?;
        if free < clusters {
            return Err(Error::NoSpace {
                needed: u64::from(clusters - free),
                unit: "clusters",
            });
        }
        let Some(sub) = self.take_bit(SystemFile::GlobalInodeAlloc, Slot::GLOBAL)? else {
            return Err(Error::Refused {
                why: "the allocator of system inodes is full".to_owned(),
            });
        };
        let new = NewInode::at(now, 0o100_644, 0, 0);
        self.write_new_inode(sub, &new);
        let size = u64::from(clusters) << self.info.geo.cluster_bits();
        let mut dinode = self.edit::<Dinode>(sub.blkno)?;
        dinode.i_flags = (dinode.flags() | InodeFlags::SYSTEM).bits().into();
        dinode.i_size = size.into();
        let extents = self.clusters_from_behind(clusters)?;
        let root = self.data_root(sub.blkno)?;
        self.splice(&root, 0, u32::MAX, &extents)?;
        self.add_name(directory, name, sub.blkno, FileType::Regular, now)?;
        Ok(sub.blkno)
    }

    /// Removes a system file that is not one of those that every volume has.
    ///
    /// # Errors
    /// There is none of that name, or a part of it is damaged.
    pub fn remove_system_file(&mut self, name: &[u8], now: Timestamp) -> Result<()> {
        let directory = self.info.system_dir;
        let blkno = self.remove_name(directory, name, now)?;
        let root = self.data_root(blkno)?;
        let extents = self.tree_extents(&root, 0, u32::MAX)?;
        self.splice(&root, 0, u32::MAX, &[])?;
        for extent in &extents {
            self.free_extent(blkno, extent)?;
        }
        let mut inode = self.edit::<Dinode>(blkno)?;
        let (bit, loc) = (inode.i_suballoc_bit.get(), inode.i_suballoc_loc.get());
        inode.i_flags = inode.flags().difference(InodeFlags::VALID).bits().into();
        inode.i_dtime = now.seconds.into();
        inode.set_links(0);
        self.free_bit(SystemFile::GlobalInodeAlloc, blkno, bit, loc)
    }

    /// Clusters as extents in the order of the volume, from its last groups.
    fn clusters_from_behind(&mut self, count: u32) -> Result<Vec<Extent>> {
        let geo = self.info.geo;
        let mut runs: Vec<(ClusterNo, u32)> = Vec::new();
        let mut left = count;
        // One piece; where there is none, pieces that are as long as they come.
        let mut least = count.max(1);
        while left > 0 {
            for group in (0..geo.cluster_groups()).rev() {
                while left > 0
                    && let Some(run) = self.take_run(group, least.min(left), left)?
                {
                    left -= run.1;
                    runs.push(run);
                }
            }
            if least == 1 && left > 0 {
                let (needed, unit) = (left.into(), "clusters");
                return Err(Error::NoSpace { needed, unit });
            }
            least = (least / 2).max(1);
        }
        runs.sort_unstable();
        let mut extents = Vec::new();
        let mut cpos = 0u32;
        for (first, clusters) in runs {
            let mut at = 0;
            while at < clusters {
                let step = (clusters - at).min(MAX_LEAF_CLUSTERS);
                extents.push(Extent {
                    cpos,
                    clusters: step,
                    blkno: geo.first_block(first.plus(at)),
                    flags: ExtentFlags::empty(),
                });
                cpos = cpos.saturating_add(step);
                at += step;
            }
        }
        Ok(extents)
    }
}
