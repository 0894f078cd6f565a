//! Copy on write: giving a file clusters of its own where it shares them.

use crate::error::{Error, Result};
use crate::layout::{Dinode, DynFeatures, ExtentFlags};
use crate::read::extent::Extent;
use crate::read::refcount;
use crate::txn::{Adjust, ClusterPool, Txn, sharers_of, summed};
use crate::units::{BlockNo, ClusterNo, low32};

/// Bytes that the driver copies at once, where it has the choice.
const CHUNK_BYTES: u64 = 1 << 20;

/// The logical clusters to copy before `[write, write_end)` is written, given the file's shared
/// extents from the one that holds `write` on: the rule of the driver, which copies chunks of 1 MiB
/// aligned to the start of the extent, so that files do not fragment more than they must.
fn region(extents: &[Extent], write: u32, write_end: u32, chunk: u32) -> (u32, u32) {
    let Some(first) = extents.first() else {
        return (write, write);
    };
    let (mut start, mut len) = (first.cpos, 0u32);
    for extent in extents {
        if !extent.is_refcounted() || (len > 0 && start + len != extent.cpos) {
            break;
        }
        let n = extent.clusters;
        let end = extent.end();
        let aligned = |clusters: u32| clusters.div_ceil(chunk).saturating_mul(chunk);
        if n <= chunk {
            len += n;
        } else if len > 0 || start == write {
            let want = write_end.saturating_sub(start + len).max(chunk);
            len += aligned(want).min(n);
        } else if start + chunk >= write_end {
            len = chunk;
        } else if end - write <= chunk {
            start = end - chunk;
            len = chunk;
        } else {
            let skip = (write - start) / chunk * chunk;
            start += skip;
            let want = write_end.saturating_sub(write).max(chunk);
            len = if end - write <= want {
                end - start
            } else {
                aligned(write_end - start).min(end - start)
            };
        }
        if start + len >= write_end {
            break;
        }
    }
    (start, start + len)
}

/// Gives a file clusters of its own for all that a write to the logical clusters `from..to` will
/// touch. The bytes in `written` will be overwritten and need not be copied. The number of clusters
/// that were copied.
///
/// # Errors
/// The volume is full, or a block cannot be used.
pub(super) fn unshare_for_write(
    txn: &mut Txn<'_>,
    inode: BlockNo,
    from: u32,
    to: u32,
    written: (u64, u64),
) -> Result<u64> {
    let Some(tree) = tree_of(txn, inode)? else {
        return Ok(0);
    };
    let root = txn.data_root(inode)?;
    let chunk = low32(CHUNK_BYTES.div_ceil(txn.info().geo.cluster_bytes()));
    let mut copied = 0;
    let mut at = from;
    while at < to {
        let extents = txn.tree_extents(&root, at, u32::MAX)?;
        let skip = extents
            .iter()
            .take_while(|e| !e.is_refcounted() || e.end() <= at)
            .count();
        let Some(shared) = extents.get(skip).filter(|e| e.cpos < to) else {
            break;
        };
        let write = at.max(shared.cpos);
        let (start, end) = region(&extents[skip..], write, to, chunk);
        copied += copy_region(txn, inode, tree, start, end, written)?;
        at = end.max(write + 1);
    }
    Ok(copied)
}

/// Gives a file clusters of its own for all of its data. The number of clusters that were copied.
///
/// # Errors
/// The volume is full, or a block cannot be used.
pub fn unshare(txn: &mut Txn<'_>, inode: BlockNo) -> Result<u64> {
    let Some(tree) = tree_of(txn, inode)? else {
        return Ok(0);
    };
    copy_region(txn, inode, tree, 0, u32::MAX, (0, 0))
}

/// Ranges of clusters, disjoint.
#[derive(Default)]
struct RangeSet(std::collections::BTreeMap<u64, u32>);

impl RangeSet {
    fn insert(&mut self, first: u64, count: u32) {
        self.0.insert(first, count);
    }

    fn contains(&self, cluster: &u64) -> bool {
        let before = self.0.range(..=cluster).next_back();
        before.is_some_and(|(first, count)| cluster - first < u64::from(*count))
    }
}

fn tree_of(txn: &Txn<'_>, inode: BlockNo) -> Result<Option<BlockNo>> {
    let view = txn.view();
    let dinode = view.block::<Dinode>(inode)?;
    let attached = dinode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
    Ok(attached.then(|| BlockNo(dinode.i_refcount_loc.get())))
}

/// Unshares the logical clusters `start..end`: what nobody else maps loses its mark, the rest is
/// copied.
fn copy_region(
    txn: &mut Txn<'_>,
    inode: BlockNo,
    tree: BlockNo,
    start: u32,
    end: u32,
    written: (u64, u64),
) -> Result<u64> {
    let geo = txn.info().geo;
    let root = txn.data_root(inode)?;
    let extents = txn.tree_extents(&root, start, end)?;
    let pieces = pieces_of(txn, tree, &extents, start, end)?;
    let shared = pieces.iter().filter(|piece| piece.sharers > 1);
    let copied: u64 = shared.map(|piece| u64::from(piece.extent.clusters)).sum();
    // Better to know before bytes are copied than in the middle.
    let free = u64::from(txn.free_clusters()?);
    if copied > free {
        let needed = copied - free;
        return Err(Error::NoSpace {
            needed,
            unit: "clusters",
        });
    }
    let mut pool = ClusterPool::new(copied);
    let mut changes = Vec::new();
    let mut kept = RangeSet::default();
    let mut new = Vec::with_capacity(pieces.len());
    for Piece { extent, sharers } in pieces {
        let flags = extent.flags.difference(ExtentFlags::REFCOUNTED);
        let mut from = geo.cluster_of(extent.blkno);
        if sharers > 0 {
            let first = u64::from(from.0);
            changes.push(Adjust {
                first,
                clusters: extent.clusters,
                delta: -1,
            });
        }
        if sharers <= 1 {
            if sharers == 1 {
                kept.insert(from.0.into(), extent.clusters);
            }
            new.push(Extent { flags, ..extent });
            continue;
        }
        let mut cpos = extent.cpos;
        while cpos < extent.end() {
            let (to, got) = pool.take(txn, extent.end() - cpos)?;
            if !extent.is_unwritten() {
                copy_clusters(txn, from, to, got, cpos, written)?;
            }
            new.push(Extent {
                cpos,
                clusters: got,
                blkno: geo.first_block(to),
                flags,
            });
            cpos += got;
            from = from.plus(got);
        }
    }
    txn.splice(&root, start, end, &new)?;
    for (first, count) in txn.refcount_adjust(tree, &summed(&changes))? {
        // Nobody counts these any more. Those kept above are this file's own now; the others it
        // mapped more than once, and has left altogether.
        if !kept.contains(&first) {
            txn.free_clusters_at_commit(ClusterNo(low32(first)), count);
        }
    }
    Ok(copied)
}

/// A part of a file's mapping, and how many mappings its clusters have: 0 = they are not counted.
struct Piece {
    extent: Extent,
    sharers: u32,
}

/// The mapping of the logical clusters `start..end`, cut where the number of sharers changes.
fn pieces_of(
    txn: &Txn<'_>,
    tree: BlockNo,
    extents: &[Extent],
    start: u32,
    end: u32,
) -> Result<Vec<Piece>> {
    let geo = txn.info().geo;
    let bpc = geo.blocks_per_cluster();
    let cut = |extent: &Extent| {
        let (from, to) = (extent.cpos.max(start), extent.end().min(end));
        let blkno = extent.blkno.plus(u64::from(from - extent.cpos) * bpc);
        Extent {
            cpos: from,
            clusters: to - from,
            blkno,
            flags: extent.flags,
        }
    };
    let counted = extents.iter().filter(|e| e.is_refcounted()).map(cut);
    let range = counted.fold((u64::MAX, 0), |(first, last), extent| {
        let at = u64::from(geo.cluster_of(extent.blkno).0);
        (first.min(at), last.max(at + u64::from(extent.clusters)))
    });
    let records = if range.0 < range.1 {
        refcount::records_in(txn.view(), tree, range.0, range.1)?
    } else {
        Vec::new()
    };
    let mut pieces = Vec::with_capacity(extents.len());
    for extent in extents.iter().map(cut) {
        if !extent.is_refcounted() {
            pieces.push(Piece { extent, sharers: 0 });
            continue;
        }
        let first = u64::from(geo.cluster_of(extent.blkno).0);
        for (cluster, clusters, sharers) in sharers_of(tree, &records, first, extent.clusters)? {
            let cpos = extent.cpos + low32(cluster - first);
            let blkno = BlockNo(cluster * bpc);
            let extent = Extent {
                cpos,
                clusters,
                blkno,
                flags: extent.flags,
            };
            pieces.push(Piece { extent, sharers });
        }
    }
    Ok(pieces)
}

/// Copies clusters, leaving out what will be overwritten.
fn copy_clusters(
    txn: &mut Txn<'_>,
    from: ClusterNo,
    to: ClusterNo,
    count: u32,
    cpos: u32,
    written: (u64, u64),
) -> Result<()> {
    let geo = txn.info().geo;
    let start = u64::from(cpos) << geo.cluster_bits();
    let end = start + (u64::from(count) << geo.cluster_bits());
    let (skip_from, skip_to) = (written.0.clamp(start, end), written.1.clamp(start, end));
    for (first, last) in [(start, skip_from), (skip_to.max(skip_from), end)] {
        let mut at = first;
        while at < last {
            // Whole blocks are read; steps begin at multiples of a block.
            let inside = at % geo.block_bytes() as u64;
            let step = (last - at).min(CHUNK_BYTES);
            let block = geo.first_block(from).plus((at - start) >> geo.block_bits());
            let blocks = geo.blocks_for(inside + step);
            let run = txn.view().run(block, crate::units::index(blocks))?;
            let run = run.into_owned();
            let bytes = &run[crate::units::index(inside)..crate::units::index(inside + step)];
            txn.write_data(to, at - start, bytes)?;
            at += step;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(cpos: u32, clusters: u32) -> Extent {
        let blkno = BlockNo(1000 + u64::from(cpos));
        Extent {
            cpos,
            clusters,
            blkno,
            flags: ExtentFlags::REFCOUNTED,
        }
    }

    #[test]
    fn regions_are_those_the_driver_copies() {
        // Measured: a file of 3 MB in clusters of 4 KiB, ten bytes written at 1,500,000.
        assert_eq!(region(&[shared(0, 733)], 366, 367, 256), (256, 512));
        // Measured: clusters of 16 KiB, clusters 610..762 written; 576..767 were replaced.
        assert_eq!(region(&[shared(0, 1024)], 610, 762, 64), (576, 768));
    }

    #[test]
    fn regions_cover_the_write_within_the_shared_extents() {
        for chunk in [1, 4, 64, 256] {
            for n in [1u32, 3, 64, 100, 257, 700] {
                for write in 0..n {
                    for end in [write + 1, (write + 5).min(n), (write + 300).min(n), n] {
                        if end <= write {
                            continue;
                        }
                        let (from, to) = region(&[shared(0, n)], write, end, chunk);
                        assert!(
                            from <= write && to >= end && to <= n,
                            "{chunk} {n} {write} {end}"
                        );
                    }
                }
            }
        }
    }
}
