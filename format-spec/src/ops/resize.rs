//! Changing how long files are, and where they have clusters.

use crate::error::{Error, Result};
use crate::layout::{ExtentFlags, Incompat, MAX_LEAF_CLUSTERS, RoCompat};
use crate::ops::release::unmap;
use crate::ops::write::{allocate_range, check_size, move_out, touch, zero_beyond};
use crate::ops::{cow, require_plain_file};
use crate::read::extent::Extent;
use crate::read::inode;
use crate::txn::{Timestamp, Txn};
use crate::units::{BlockNo, index, low32};

/// Data of a file that is about to change shape: where it stands, and how long it is.
struct Shape {
    size: u64,
    inline: Option<Vec<u8>>,
}

fn shape(txn: &Txn<'_>, blkno: BlockNo, verb: &str) -> Result<Shape> {
    let dinode = inode::read(txn.view(), blkno)?;
    require_plain_file(&dinode, blkno, verb)?;
    super::require_mutable(&dinode, blkno)?;
    Ok(Shape {
        size: dinode.i_size.get(),
        inline: dinode.inline_data().map(<[u8]>::to_vec),
    })
}

/// Makes a file `size` bytes long: what lies behind is freed, what is new reads as zeros.
///
/// # Errors
/// The inode is no regular file, the volume is full, or a block cannot be used.
pub fn truncate(txn: &mut Txn<'_>, blkno: BlockNo, size: u64, now: Timestamp) -> Result<()> {
    let old = shape(txn, blkno, "truncated")?;
    check_size(txn, size)?;
    if let Some(mut bytes) = old.inline {
        if size <= txn.info().geo.block_bytes() as u64 {
            let mut resized = bytes.clone();
            resized.resize(index(size), 0);
            if txn.store_inline(blkno, &resized)? {
                return touch(txn, blkno, size, now);
            }
        }
        bytes.truncate(index(old.size));
        move_out(txn, blkno, &bytes)?;
    }
    let geo = txn.info().geo;
    let (from, to) = (geo.clusters_for(old.size), geo.clusters_for(size));
    if size < old.size {
        unmap(txn, blkno, low32(to), u32::MAX)?;
        zero_bytes(txn, blkno, size, to << geo.cluster_bits())?;
    } else {
        zero_beyond(txn, blkno, old.size, size)?;
        if !txn.info().has(Incompat::SPARSE_ALLOC) {
            allocate_range(txn, blkno, low32(from), low32(to), (0, 0))?;
        }
    }
    touch(txn, blkno, size, now)
}

/// Makes a range of bytes of a file a hole: whole clusters are freed, parts of clusters become
/// zeros. The size does not change.
///
/// # Errors
/// The inode is no regular file, the volume has no holes, or a block cannot be used.
pub fn punch(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    (from, len): (u64, u64),
    now: Timestamp,
) -> Result<u64> {
    let old = shape(txn, blkno, "punched")?;
    if !txn.info().has(Incompat::SPARSE_ALLOC) {
        let why = "the volume was made without the sparse feature: files have no holes";
        return Err(Error::Refused {
            why: why.to_owned(),
        });
    }
    let geo = txn.info().geo;
    let end = from
        .saturating_add(len)
        .min(u64::from(u32::MAX) << geo.cluster_bits());
    if end <= from {
        return Ok(0);
    }
    if let Some(mut bytes) = old.inline {
        let to = end.min(old.size);
        if from < to {
            bytes[index(from)..index(to)].fill(0);
            txn.store_inline(blkno, &bytes)?;
            touch(txn, blkno, old.size, now)?;
        }
        return Ok(0);
    }
    let first = geo.clusters_for(from);
    let last = end >> geo.cluster_bits();
    let (head_end, tail) = (first << geo.cluster_bits(), last << geo.cluster_bits());
    zero_bytes(txn, blkno, from, end.min(head_end))?;
    if last >= first {
        zero_bytes(txn, blkno, tail, end)?;
    }
    let freed = if first < last {
        unmap(txn, blkno, low32(first), low32(last))?
    } else {
        0
    };
    touch(txn, blkno, old.size, now)?;
    Ok(freed)
}

/// Gives a file clusters for a range of bytes where it has none; they read as zeros. The file grows
/// to the end of the range unless `keep_size`. The number of clusters that were allocated.
///
/// # Errors
/// The inode is no regular file, the volume has no unwritten extents, the volume is full, or a
/// block cannot be used.
pub fn fallocate(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    (from, len): (u64, u64),
    keep_size: bool,
    now: Timestamp,
) -> Result<u64> {
    let old = shape(txn, blkno, "allocated")?;
    let features = txn.info().features;
    if !features.ro_compat.contains(RoCompat::UNWRITTEN) || !features.has(Incompat::SPARSE_ALLOC) {
        let why = "the volume was made without the unwritten feature";
        return Err(Error::Refused {
            why: why.to_owned(),
        });
    }
    let end = from.checked_add(len).ok_or_else(|| Error::Input {
        what: format!("offset {from} and length {len} are too large"),
    })?;
    check_size(txn, end)?;
    if len == 0 {
        return Ok(0);
    }
    if let Some(mut bytes) = old.inline {
        bytes.truncate(index(old.size));
        move_out(txn, blkno, &bytes)?;
    }
    let geo = txn.info().geo;
    let first = low32(from >> geo.cluster_bits());
    let last = low32(geo.clusters_for(end));
    let root = txn.data_root(blkno)?;
    let mut all = Vec::new();
    let mut at = first;
    let mut allocated = 0;
    for extent in txn.tree_extents(&root, first, last)? {
        allocated += fill_hole(txn, at, extent.cpos, &mut all)?;
        let skip = first.saturating_sub(extent.cpos);
        all.push(Extent {
            cpos: extent.cpos + skip,
            clusters: extent.end().min(last) - extent.cpos - skip,
            blkno: extent
                .blkno
                .plus(u64::from(skip) * geo.blocks_per_cluster()),
            flags: extent.flags,
        });
        at = extent.end();
    }
    allocated += fill_hole(txn, at, last, &mut all)?;
    txn.splice(&root, first, last, &all)?;
    txn.charge_clusters(blkno, i64::try_from(allocated).unwrap_or(i64::MAX))?;
    let mut size = old.size;
    if !keep_size && end > size {
        zero_beyond(txn, blkno, size, end)?;
        size = end;
    }
    touch(txn, blkno, size, now)?;
    Ok(allocated)
}

/// Allocates the logical clusters `at..end`, which have none, as unwritten extents.
fn fill_hole(txn: &mut Txn<'_>, mut at: u32, end: u32, all: &mut Vec<Extent>) -> Result<u64> {
    let mut allocated = 0;
    while at < end {
        let (cluster, clusters) = txn.alloc_clusters((end - at).min(MAX_LEAF_CLUSTERS))?;
        all.push(Extent {
            cpos: at,
            clusters,
            blkno: txn.info().geo.first_block(cluster),
            flags: ExtentFlags::UNWRITTEN,
        });
        at += clusters;
        allocated += u64::from(clusters);
    }
    Ok(allocated)
}

/// Makes bytes that are part of a file zeros, through the journal, copying shared clusters first.
/// Holes and unwritten extents are zeros already. The range lies within one cluster.
fn zero_bytes(txn: &mut Txn<'_>, blkno: BlockNo, from: u64, to: u64) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let geo = txn.info().geo;
    let (first, last) = (
        low32(from >> geo.cluster_bits()),
        low32(geo.clusters_for(to)),
    );
    cow::unshare_for_write(txn, blkno, first, last, (from, to))?;
    let root = txn.data_root(blkno)?;
    for extent in txn.tree_extents(&root, first, last)? {
        if extent.is_unwritten() {
            continue;
        }
        let start = u64::from(extent.cpos) << geo.cluster_bits();
        let end = u64::from(extent.end()) << geo.cluster_bits();
        let (mut at, stop) = (from.max(start), to.min(end));
        while at < stop {
            let inside = index(at % geo.block_bytes() as u64);
            let step = (stop - at).min((geo.block_bytes() - inside) as u64);
            let block = extent.blkno.plus((at - start) >> geo.block_bits());
            let mut edit = txn.edit_raw(block, None)?;
            edit.bytes_mut()[inside..inside + index(step)].fill(0);
            at += step;
        }
    }
    Ok(())
}
