//! Copying all attributes of a file to its clone.
//!
//! Names and small values are copied; values that stand in clusters of their own are shared like
//! the data, in the same refcount tree.

use std::ops::ControlFlow;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    Dinode, DynFeatures, EXTENT_BLOCK_LIST, ExtentBlock, ExtentFlags, Incompat, XATTR_BLOCK_BODY,
    XattrBlock, XattrValueRoot,
};
use crate::ops::xattr::{VALUE_ROOT, ecc_of_bucket, new_block, value_root};
use crate::read::extent::{Extent, ListView};
use crate::read::xattr::{self, Place, Stored};
use crate::read::{extent, inode};
use crate::txn::{Adjust, TreeRoot, Txn, summed};
use crate::units::{BlockNo, low16};

/// A value that stands outside: where its root stands in its area, and its clusters.
struct Outside {
    at: usize,
    extents: Vec<Extent>,
}

/// Copies all attributes of `source` to `target`, a new inode without contents.
///
/// # Errors
/// An attribute is damaged, the volume is full, or values cannot be shared.
pub(in crate::ops) fn copy(txn: &mut Txn<'_>, source: BlockNo, target: BlockNo) -> Result<()> {
    let old = inode::read(txn.view(), source)?;
    if !old.dyn_features().contains(DynFeatures::HAS_XATTR) {
        return Ok(());
    }
    let loc = old.i_xattr_loc.get();
    let inline_bytes = old.inline_xattr_bytes();
    drop(old);
    let mut dinode = txn.edit::<Dinode>(target)?;
    let mut features = dinode.dyn_features() | DynFeatures::HAS_XATTR;
    if inline_bytes > 0 {
        features |= DynFeatures::INLINE_XATTR;
        dinode.i_xattr_inline_size = low16(inline_bytes as u64).into();
    }
    dinode.i_dyn_features = features.bits().into();
    // The room at the end of the inode is now the attributes'.
    txn.make_extent_list(target)?;

    let mut areas = Vec::new();
    let mut failed = None;
    let view = txn.view();
    let old = inode::read(view, source)?;
    xattr::for_each_area(view, &old, &mut |area| match area {
        Ok((place, bytes)) => {
            areas.push((place, bytes.to_vec()));
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    drop(old);
    if let Some(error) = failed {
        return Err(error);
    }
    let mut copies = Vec::with_capacity(areas.len());
    for (place, bytes) in areas {
        let copied = share_values(txn, source, target, place, &bytes)?;
        copies.push((place, copied));
    }
    if let Some((_, area)) = copies
        .iter()
        .find(|(place, _)| matches!(place, Place::Inode(_)))
    {
        let mut dinode = txn.edit::<Dinode>(target)?;
        let start = dinode.bytes().len() - inline_bytes;
        dinode.bytes_mut()[start..].copy_from_slice(area);
    }
    if loc != 0 {
        copy_block(txn, BlockNo(loc), target, &copies)?;
    }
    Ok(())
}

/// The values of an area that stand outside.
fn outside_values(txn: &Txn<'_>, place: Place, area: &[u8]) -> Result<Vec<Outside>> {
    let mut found = Vec::new();
    for attribute in xattr::entries(area) {
        let attribute = attribute.map_err(|kind| kind.at(place.blkno()))?;
        if let Stored::Outside(..) = attribute.value {
            let name_at = usize::from(attribute.entry.xe_name_offset.get());
            let at = name_at + attribute.suffix.len().next_multiple_of(4);
            let extents = attribute.extents(txn.view(), place.blkno())?;
            found.push(Outside { at, extents });
        }
    }
    Ok(found)
}

/// Shares the values of an area that stand outside: marks and counts them, and gives the area as
/// the target is to have it.
fn share_values(
    txn: &mut Txn<'_>,
    source: BlockNo,
    target: BlockNo,
    place: Place,
    area: &[u8],
) -> Result<Vec<u8>> {
    let mut copied = area.to_vec();
    let values = outside_values(txn, place, area)?;
    if values.is_empty() {
        return Ok(copied);
    }
    if !txn.info().has(Incompat::REFCOUNT_TREE) {
        let why = "large xattrs cannot be shared on a volume without the refcount feature";
        return Err(Error::Refused {
            why: why.to_owned(),
        });
    }
    let tree = txn.refcount_root_for(source)?;
    txn.attach_once(target, tree)?;
    let geo = txn.info().geo;
    let mut changes = Vec::new();
    let mut marked = area.to_vec();
    for value in values {
        for extent in &value.extents {
            changes.push(Adjust {
                first: geo.cluster_of(extent.blkno).0.into(),
                clusters: extent.clusters,
                delta: if extent.is_refcounted() { 1 } else { 2 },
            });
        }
        let root = &mut marked[value.at..value.at + VALUE_ROOT];
        mark_root(txn, root)?;
        let shared: Vec<Extent> = value
            .extents
            .iter()
            .map(|e| Extent {
                flags: e.flags | ExtentFlags::REFCOUNTED,
                ..*e
            })
            .collect();
        let root = value_root(txn, &shared)?;
        copied[value.at..value.at + VALUE_ROOT].copy_from_slice(&root);
    }
    if marked != area {
        write_area(txn, place, &mut marked)?;
    }
    txn.refcount_adjust(tree, &summed(&changes))?;
    if let Place::Bucket(_) = place {
        ecc_of_bucket(txn, &mut copied);
    }
    Ok(copied)
}

/// Marks all extents of a value as counted, in its root or in the leaf below it.
fn mark_root(txn: &mut Txn<'_>, root: &mut [u8]) -> Result<()> {
    let head = size_of::<XattrValueRoot>();
    let (depth, child) = {
        let list = ListView::parse(&root[head..]);
        list.and_then(|l| l.recs.first().map(|rec| (l.head.l_tree_depth.get(), *rec)))
            .map_or((0, None), |(depth, rec)| (depth, Some(rec)))
    };
    let Some(child) = child else { return Ok(()) };
    match depth {
        0 => root[head + 16 + 7] |= ExtentFlags::REFCOUNTED.bits(),
        1 => {
            let mut leaf = txn.edit::<ExtentBlock>(BlockNo(child.e_blkno.get()))?;
            let space = &mut leaf.bytes_mut()[EXTENT_BLOCK_LIST..];
            let used = ListView::parse(space).map_or(0, |list| list.recs.len());
            for rec in space[16..].chunks_exact_mut(16).take(used) {
                rec[7] |= ExtentFlags::REFCOUNTED.bits();
            }
        }
        _ => {
            let rule = "a value of 64 KiB has a tree of one level at most";
            let kind = FaultKind::Field {
                field: "l_tree_depth",
                value: depth.into(),
                rule,
            };
            return Err(kind.at(BlockNo(child.e_blkno.get())).into());
        }
    }
    Ok(())
}

/// Writes an area of the source back, with its check.
fn write_area(txn: &mut Txn<'_>, place: Place, area: &mut [u8]) -> Result<()> {
    match place {
        Place::Inode(blkno) => {
            let mut block = txn.edit::<Dinode>(blkno)?;
            let start = block.bytes().len() - area.len();
            block.bytes_mut()[start..].copy_from_slice(area);
        }
        Place::Block(blkno) => {
            let mut block = txn.edit::<XattrBlock>(blkno)?;
            block.bytes_mut()[XATTR_BLOCK_BODY..].copy_from_slice(area);
        }
        Place::Bucket(first) => {
            ecc_of_bucket(txn, area);
            let size = txn.info().geo.block_bytes();
            for (i, part) in area.chunks(size).enumerate() {
                let mut block = txn.edit_raw(first.plus(i as u64), None)?;
                block.bytes_mut().copy_from_slice(part);
            }
        }
    }
    Ok(())
}

/// Gives the target an xattr block like the source's.
fn copy_block(
    txn: &mut Txn<'_>,
    source: BlockNo,
    target: BlockNo,
    copies: &[(Place, Vec<u8>)],
) -> Result<()> {
    let old = txn.view().block::<XattrBlock>(source)?;
    let flags = old.xb_flags.get();
    let extents = if xattr::is_indexed(&old) {
        Some(extent::extents(txn.view(), source, xattr::tree_list(&old))?)
    } else {
        None
    };
    drop(old);
    let blkno = new_block(txn, target)?;
    let mut block = txn.edit::<XattrBlock>(blkno)?;
    block.xb_flags = flags.into();
    if let Some((_, area)) = copies
        .iter()
        .find(|(place, _)| matches!(place, Place::Block(_)))
    {
        block.bytes_mut()[XATTR_BLOCK_BODY..].copy_from_slice(area);
    }
    let Some(extents) = extents else {
        return Ok(());
    };

    let geo = txn.info().geo;
    let mut new = Vec::with_capacity(extents.len());
    for extent in &extents {
        // The buckets of an extent stand side by side.
        let cluster = txn
            .alloc_contiguous(extent.clusters)?
            .ok_or(Error::NoSpace {
                needed: extent.clusters.into(),
                unit: "contiguous clusters for xattrs",
            })?;
        let first = geo.first_block(cluster);
        for (place, area) in copies {
            let Place::Bucket(at) = place else { continue };
            let end = extent
                .blkno
                .plus(u64::from(extent.clusters) * geo.blocks_per_cluster());
            if (extent.blkno..end).contains(at) {
                let skip = at.since(extent.blkno) << geo.block_bits();
                txn.write_data(cluster, skip, area)?;
            }
        }
        new.push(Extent {
            blkno: first,
            ..*extent
        });
    }
    let root = TreeRoot::xattr_tree(blkno, geo.block_bytes());
    txn.splice(&root, 0, u32::MAX, &new)
}
