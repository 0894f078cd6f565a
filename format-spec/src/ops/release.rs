//! Giving back what files no longer map.

use crate::error::Result;
use crate::layout::{Dinode, DynFeatures};
use crate::ops::xattr;
use crate::read::extent::Extent;
use crate::read::inode;
use crate::txn::{Adjust, Timestamp, Txn, summed};
use crate::units::{BlockNo, ClusterNo, low32};

/// Frees the clusters of extents that an inode no longer maps: its own ones when the transaction
/// commits, shared ones when nobody else maps them.
///
/// # Errors
/// An extent lies outside of the volume, or the refcount tree is damaged.
pub(super) fn release(txn: &mut Txn<'_>, inode: BlockNo, extents: &[Extent]) -> Result<()> {
    let mut shared = Vec::new();
    for extent in extents {
        if extent.is_refcounted() {
            txn.require_inside(inode, extent)?;
            shared.push(Adjust {
                first: txn.info().geo.cluster_of(extent.blkno).0.into(),
                clusters: extent.clusters,
                delta: -1,
            });
        } else {
            txn.free_extent(inode, extent)?;
        }
    }
    if shared.is_empty() {
        return Ok(());
    }
    let tree = txn.refcount_root_for(inode)?;
    for (first, count) in txn.refcount_adjust(tree, &summed(&shared))? {
        txn.free_clusters_at_commit(ClusterNo(low32(first)), count);
    }
    Ok(())
}

/// Deletes an inode that no name leads to any more, with all that belongs to it.
///
/// # Errors
/// A part of it is damaged.
pub(super) fn delete_inode(txn: &mut Txn<'_>, blkno: BlockNo, now: Timestamp) -> Result<()> {
    let dinode = inode::read(txn.view(), blkno)?;
    let has_extents = dinode.has_extents();
    let indexed = dinode.dyn_features().contains(DynFeatures::INDEXED_DIR);
    drop(dinode);
    if has_extents {
        unmap(txn, blkno, 0, u32::MAX)?;
    }
    if indexed {
        txn.drop_index(blkno)?;
    }
    xattr::remove_all(txn, blkno)?;
    txn.detach_refcount(blkno)?;
    txn.free_inode(blkno, now)
}

/// Takes the logical clusters `from..to` out of a file; the number of clusters that it loses.
///
/// # Errors
/// The extent tree or the refcount tree is damaged.
pub(super) fn unmap(txn: &mut Txn<'_>, inode: BlockNo, from: u32, to: u32) -> Result<u64> {
    let geo = txn.info().geo;
    let root = txn.data_root(inode)?;
    let mut extents = txn.tree_extents(&root, from, to)?;
    for extent in &mut extents {
        let skip = from.saturating_sub(extent.cpos);
        let end = extent.end().min(to);
        *extent = Extent {
            cpos: extent.cpos + skip,
            clusters: end - extent.cpos - skip,
            blkno: extent
                .blkno
                .plus(u64::from(skip) * geo.blocks_per_cluster()),
            flags: extent.flags,
        };
    }
    if extents.is_empty() {
        return Ok(0);
    }
    txn.splice(&root, from, to, &[])?;
    release(txn, inode, &extents)?;
    let clusters = extents
        .iter()
        .map(|extent| u64::from(extent.clusters))
        .sum();
    txn.charge_clusters(inode, -i64::try_from(clusters).unwrap_or(i64::MAX))?;
    // A file that maps nothing shared may stay attached to its tree, as with the driver.
    debug_assert!(txn.view().block::<Dinode>(inode).is_ok());
    Ok(clusters)
}
