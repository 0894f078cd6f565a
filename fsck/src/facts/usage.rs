//! What users and groups use, counted from the inodes.

use std::collections::BTreeMap;

use cowfs_format::layout::{Dinode, InodeFlags};
use cowfs_format::units::BlockNo;

/// What a user or group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Clusters of data.
    pub(crate) clusters: u64,
    /// Clusters of directory indexes.
    pub(crate) index: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

/// What all users and all groups use: two maps, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    by_kind: [BTreeMap<u32, Used>; 2],
}

impl Usage {
    /// Counts an inode, unless it belongs to the volume itself.
    pub(crate) fn count(&mut self, inode: &Dinode, blkno: BlockNo, root: BlockNo) {
        self.change(inode, blkno, root, |used| {
            used.clusters += u64::from(inode.i_clusters.get());
            used.inodes += 1;
        });
    }

    /// Counts the clusters of the index of a directory.
    pub(crate) fn count_index(
        &mut self,
        inode: &Dinode,
        blkno: BlockNo,
        root: BlockNo,
        clusters: u64,
    ) {
        self.change(inode, blkno, root, |used| used.index += clusters);
    }

    fn change(
        &mut self,
        inode: &Dinode,
        blkno: BlockNo,
        root: BlockNo,
        change: impl Fn(&mut Used),
    ) {
        if inode.flags().contains(InodeFlags::SYSTEM) && blkno != root {
            return;
        }
        let ids = [inode.i_uid.get(), inode.i_gid.get()];
        for (map, id) in self.by_kind.iter_mut().zip(ids) {
            change(map.entry(id).or_default());
        }
    }

    /// Adds what a later item counted.
    pub(crate) fn append(&mut self, later: Self) {
        for (map, more) in self.by_kind.iter_mut().zip(later.by_kind) {
            for (id, more) in more {
                let used = map.entry(id).or_default();
                used.clusters += more.clusters;
                used.index += more.index;
                used.inodes += more.inodes;
            }
        }
    }

    /// What users (0) or groups (1) use, by number.
    pub(crate) fn of(&self, kind: usize) -> impl Iterator<Item = (u32, Used)> + '_ {
        let map = self.by_kind.get(kind).into_iter().flatten();
        map.map(|(id, used)| (*id, *used))
    }

    /// Clusters of the indexes of all directories.
    pub(crate) fn index_clusters(&self) -> u64 {
        self.of(0).map(|(_, used)| used.index).sum()
    }
}
