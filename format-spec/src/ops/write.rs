//! Writing over files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::layout::{Dinode, ExtentFlags, Incompat, MAX_LEAF_CLUSTERS, RoCompat};
use crate::ops::cow;
use crate::ops::release::unmap;
use crate::read::extent::Extent;
use crate::read::inode;
use crate::txn::{Timestamp, Txn};
use crate::units::{BlockNo, ClusterNo, index, low32};

/// What an overwrite did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overwritten {
    /// Bytes written.
    pub bytes: u64,
    /// Clusters that were copied because others share them.
    pub copied_clusters: u64,
    /// Clusters that were allocated where the file had none.
    pub new_clusters: u64,
}

/// The error for a source that fails.
pub(super) fn source_error(name: &str, source: &std::io::Error) -> Error {
    let what = if source.kind() == std::io::ErrorKind::UnexpectedEof {
        format!("{name}: it became shorter while it was read; try again when nobody writes it")
    } else {
        format!("{name}: {source}")
    };
    Error::Input { what }
}

/// A file's last cluster must have a number.
pub(super) fn check_size(txn: &Txn<'_>, size: u64) -> Result<()> {
    let geo = txn.info().geo;
    let most = u64::from(u32::MAX) << geo.cluster_bits();
    if size <= most {
        return Ok(());
    }
    let what = format!(
        "a file of {size} bytes: with clusters of {} bytes it has at most {most}; use larger clusters",
        geo.cluster_bytes()
    );
    Err(Error::Input { what })
}

/// Writes the bytes of a host file over a file from byte `offset` on, copying clusters that others
/// share first. Where the file has no clusters yet, new ones are made; the file grows as needed.
///
/// Clusters that only this file has are written in place: through the journal when they are few,
/// directly otherwise. In the latter case a crash in the middle leaves some of the bytes old and
/// some new, as with any filesystem.
///
/// # Errors
/// The inode is no regular file, the source cannot be read, the volume is full, or a block cannot
/// be used.
pub fn overwrite(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    offset: u64,
    source: (&File, &str),
    now: Timestamp,
    progress: &dyn Fn(u64),
) -> Result<Overwritten> {
    let (file, file_name) = source;
    let len = file
        .metadata()
        .map_err(|e| source_error(file_name, &e))?
        .len();
    let end = offset.checked_add(len).ok_or(Error::Input {
        what: format!("{file_name}: offset {offset} and length {len} are too large"),
    })?;
    check_size(txn, end)?;
    let dinode = inode::read(txn.view(), blkno)?;
    super::require_plain_file(&dinode, blkno, "written")?;
    super::require_mutable(&dinode, blkno)?;
    let size = dinode.i_size.get();
    let inline = dinode.inline_data().map(<[u8]>::to_vec);
    drop(dinode);
    let mut done = Overwritten {
        bytes: len,
        ..Overwritten::default()
    };
    if len == 0 {
        return Ok(done);
    }
    if let Some(mut bytes) = inline {
        let room = txn.info().geo.block_bytes() as u64;
        if end <= room {
            bytes.resize(bytes.len().max(index(end)), 0);
            file.read_exact_at(&mut bytes[index(offset)..index(end)], 0)
                .map_err(|e| source_error(file_name, &e))?;
            if txn.store_inline(blkno, &bytes)? {
                progress(len);
                touch(txn, blkno, size.max(end), now)?;
                return Ok(done);
            }
            bytes.truncate(index(size));
        }
        done.new_clusters += move_out(txn, blkno, &bytes)?;
    }
    let geo = txn.info().geo;
    let large = end - offset > txn.journal_data_limit();
    if large && txn.is_grouped() {
        // What the group can still give up is not written over: the bytes go to new clusters.
        let whole = (geo.clusters_for(offset), end >> geo.cluster_bits());
        if whole.0 < whole.1 {
            unmap(txn, blkno, low32(whole.0), low32(whole.1))?;
        }
    }
    zero_beyond(txn, blkno, size, offset)?;
    let dense = !txn.info().has(Incompat::SPARSE_ALLOC);
    let start = if dense { offset.min(size) } else { offset };
    let (from, to) = (
        low32(start >> geo.cluster_bits()),
        low32(geo.clusters_for(end)),
    );
    done.copied_clusters = cow::unshare_for_write(txn, blkno, from, to, (offset, end))?;
    done.new_clusters += allocate_range(txn, blkno, from, to, (offset, end))?;
    let root = txn.data_root(blkno)?;
    let extents = txn.tree_extents(&root, from, to)?;
    let direct = large && !txn.is_grouped();
    for extent in &extents {
        let start = u64::from(extent.cpos) << geo.cluster_bits();
        let stop = u64::from(extent.end()) << geo.cluster_bits();
        let (mut at, last) = (start.max(offset), stop.min(end));
        let first = geo.cluster_of(extent.blkno);
        while at < last {
            // New clusters may have joined an extent of old ones.
            let own = low32((at - start) >> geo.cluster_bits());
            let (new, run) = txn.new_run(first.plus(own), extent.clusters - own);
            let same = start + (u64::from(own + run) << geo.cluster_bits());
            let most = if new || direct { 64 << 20 } else { 1 << 20 };
            let step = (last.min(same) - at).min(most);
            let copied = if new || direct {
                txn.copy_data(first, at - start, file, at - offset, step)
            } else {
                copy_journaled(txn, extent.blkno, at - start, file, at - offset, step)
            };
            copied.map_err(|e| source_error(file_name, &e))?;
            progress(step);
            at += step;
        }
    }
    touch(txn, blkno, size.max(end), now)?;
    Ok(done)
}

/// Zeros what lies between a file's end and `end` in clusters that it has: the rest of its last
/// cluster, in which the driver may have left bytes, and what was allocated beyond. Nobody sees
/// these bytes before the commit, so they are not logged.
pub(super) fn zero_beyond(txn: &mut Txn<'_>, blkno: BlockNo, size: u64, end: u64) -> Result<()> {
    let geo = txn.info().geo;
    let (first, last) = (
        low32(size >> geo.cluster_bits()),
        low32(geo.clusters_for(end)),
    );
    if size >= end {
        return Ok(());
    }
    let whole = u64::from(last) << geo.cluster_bits();
    cow::unshare_for_write(txn, blkno, first, last, (size, whole))?;
    let root = txn.data_root(blkno)?;
    // A step of a group cannot write zeros over what the volume may still show: whole clusters get
    // the mark of unwritten ones instead, where there is one.
    let marks = txn.is_grouped() && txn.info().features.ro_compat.contains(RoCompat::UNWRITTEN);
    let mut marked = Vec::new();
    for extent in txn.tree_extents(&root, first, last)? {
        if extent.is_unwritten() {
            continue;
        }
        txn.require_inside(blkno, &extent)?;
        let start = u64::from(extent.cpos) << geo.cluster_bits();
        let stop = u64::from(extent.end()) << geo.cluster_bits();
        let (from, mut to) = (size.max(start), whole.min(stop));
        let (own, end) = (low32(geo.clusters_for(from)), extent.end().min(last));
        if marks && own < end {
            let skip = u64::from(own - extent.cpos) * geo.blocks_per_cluster();
            marked.push(Extent {
                cpos: own,
                clusters: end - own,
                blkno: extent.blkno.plus(skip),
                flags: extent.flags | ExtentFlags::UNWRITTEN,
            });
            to = u64::from(own) << geo.cluster_bits();
        }
        if from < to {
            let cluster = geo.cluster_of(extent.blkno);
            txn.zero_data(cluster, from - start, to - from)?;
        }
    }
    for extent in marked {
        txn.splice(&root, extent.cpos, extent.end(), &[extent])?;
    }
    Ok(())
}

/// Writes bytes over clusters that are in use, through the journal.
fn copy_journaled(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    skip: u64,
    file: &File,
    from: u64,
    len: u64,
) -> std::io::Result<()> {
    let mut bytes = vec![0; index(len)];
    file.read_exact_at(&mut bytes, from)?;
    let size = txn.info().geo.block_bytes();
    let mut at = skip;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let inside = index(at % size as u64);
        let step = rest.len().min(size - inside);
        let block = blkno.plus(at / size as u64);
        let mut edit = txn.edit_raw(block, None).map_err(std::io::Error::other)?;
        edit.bytes_mut()[inside..inside + step].copy_from_slice(&rest[..step]);
        rest = &rest[step..];
        at += step as u64;
    }
    Ok(())
}

pub(super) fn touch(txn: &mut Txn<'_>, blkno: BlockNo, size: u64, now: Timestamp) -> Result<()> {
    let mut inode = txn.edit::<Dinode>(blkno)?;
    inode.i_size = size.into();
    now.set_mtime(&mut inode);
    Ok(())
}

/// Moves data that stood in an inode into a cluster; the number of clusters.
pub(super) fn move_out(txn: &mut Txn<'_>, blkno: BlockNo, bytes: &[u8]) -> Result<u64> {
    txn.make_extent_list(blkno)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let geo = txn.info().geo;
    let (cluster, clusters) = txn.alloc_clusters(1)?;
    txn.write_data(cluster, 0, bytes)?;
    txn.zero_data(
        cluster,
        bytes.len() as u64,
        geo.cluster_bytes() - bytes.len() as u64,
    )?;
    let first = geo.first_block(cluster);
    let extent = Extent {
        cpos: 0,
        clusters,
        blkno: first,
        flags: ExtentFlags::empty(),
    };
    let root = txn.data_root(blkno)?;
    txn.splice(&root, 0, 1, &[extent])?;
    txn.charge_clusters(blkno, 1)?;
    Ok(1)
}

/// Makes the logical clusters `from..to` allocated and written, where `written` is the range of
/// bytes that will be written: holes get clusters, unwritten extents lose that mark, and what lies
/// in them outside of `written` reads as zeros. The number of clusters that were allocated.
pub(super) fn allocate_range(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    from: u32,
    to: u32,
    written: (u64, u64),
) -> Result<u64> {
    let root = txn.data_root(blkno)?;
    let old = txn.tree_extents(&root, from, to)?;
    let geo = txn.info().geo;
    let mut new = Vec::new();
    let mut allocated = 0;
    let mut at = from;
    let mut old = old.iter().peekable();
    while at < to {
        let piece = match old.peek() {
            Some(extent) if extent.cpos <= at => {
                let skip = at - extent.cpos;
                let clusters = extent.end().min(to) - at;
                let first = extent
                    .blkno
                    .plus(u64::from(skip) * geo.blocks_per_cluster());
                let flags = extent.flags.difference(ExtentFlags::UNWRITTEN);
                let blank = extent.is_unwritten();
                old.next();
                let piece = Extent {
                    cpos: at,
                    clusters,
                    blkno: first,
                    flags,
                };
                if !blank {
                    new.push(piece);
                    at = piece.end();
                    continue;
                }
                piece
            }
            next => {
                let end = next.map_or(to, |extent| extent.cpos.min(to));
                let (cluster, clusters) = txn.alloc_clusters((end - at).min(MAX_LEAF_CLUSTERS))?;
                let first = geo.first_block(cluster);
                allocated += u64::from(clusters);
                Extent {
                    cpos: at,
                    clusters,
                    blkno: first,
                    flags: ExtentFlags::empty(),
                }
            }
        };
        // Zeros before and behind what will be written. An unwritten extent reads as zeros until
        // the commit, so its clusters may be written at once, like new ones.
        let start = u64::from(piece.cpos) << geo.cluster_bits();
        let end = u64::from(piece.end()) << geo.cluster_bits();
        let cluster: ClusterNo = geo.cluster_of(piece.blkno);
        if start < written.0 {
            txn.zero_data(cluster, 0, written.0.min(end) - start)?;
        }
        if end > written.1 {
            let skip = written.1.max(start) - start;
            txn.zero_data(cluster, skip, end - start - skip)?;
        }
        new.push(piece);
        at = piece.end();
    }
    txn.splice(&root, from, to, &new)?;
    txn.charge_clusters(blkno, allocated.cast_signed())?;
    Ok(allocated)
}
