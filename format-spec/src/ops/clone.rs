//! Copy-on-write clones: a new file that shares all clusters of an old one.

use crate::error::{Error, FaultKind, Result};
use crate::layout::{DINODE_HEAD, Dinode, ExtentFlags, FileType, Incompat, InlineData};
use crate::read::extent::Extent;
use crate::read::inode;
use crate::txn::{Adjust, NewInode, Timestamp, Txn, summed};
use crate::units::{BlockNo, low32};

/// How a clone is made.
#[derive(Clone, Copy, Debug)]
pub struct CloneOptions {
    /// Keep owner, mode, times and attributes, and xattrs; otherwise the clone has the source's
    /// permission bits, the given owner and the time of the operation.
    pub preserve: bool,
    /// Owner of the clone, unless kept.
    pub uid: u32,
    /// Group of the clone, unless kept.
    pub gid: u32,
    /// Time of the operation.
    pub now: Timestamp,
}

/// Clones a regular file into a directory under a name that does not exist yet. The clone shares
/// the source's clusters up to its size; both are copied on write from then on. Small files that
/// stand in their inodes are copied.
///
/// # Errors
/// The source cannot be shared, the name exists, the volume is full, or a block cannot be used.
pub fn clone_file(
    txn: &mut Txn<'_>,
    source: BlockNo,
    parent: BlockNo,
    name: &[u8],
    options: &CloneOptions,
) -> Result<BlockNo> {
    let old = inode::read(txn.view(), source)?;
    super::require_plain_file(&old, source, "cloned")?;
    super::require_mutable(&old, source)?;
    drop(old);
    txn.require_new_name(parent, name)?;
    let target = clone_inode(txn, source, options)?;
    txn.add_name(parent, name, target, FileType::Regular, options.now)?;
    Ok(target)
}

/// Clones a regular file, whether it may be changed or not, to an inode that has no name yet.
///
/// # Errors
/// As [`clone_file`].
pub(super) fn clone_inode(
    txn: &mut Txn<'_>,
    source: BlockNo,
    options: &CloneOptions,
) -> Result<BlockNo> {
    let old = inode::read(txn.view(), source)?;
    let head: Dinode = *old;
    let inline = old.inline_data().map(<[u8]>::to_vec);
    drop(old);
    if inline.is_none() && head.i_size.get() > 0 && !txn.info().has(Incompat::REFCOUNT_TREE) {
        let why = "the volume was made without the refcount feature; cp the file instead";
        return Err(Error::Refused {
            why: why.to_owned(),
        });
    }
    let target = txn.new_inode(&attributes(&head, options))?;
    if options.preserve {
        super::xattr::copy(txn, source, target)?;
    }
    match inline {
        Some(bytes) => copy_inline(txn, target, &bytes)?,
        None => share(txn, source, target, head.i_size.get(), options.now)?,
    }
    let mut inode = txn.edit::<Dinode>(target)?;
    inode.i_size = head.i_size;
    if options.preserve {
        inode.i_attr = head.i_attr;
    }
    Ok(target)
}

/// What the clone of an inode is made with.
pub(super) fn attributes(old: &Dinode, options: &CloneOptions) -> NewInode {
    let now = options.now;
    if !options.preserve {
        return NewInode::at(now, old.i_mode.get() & 0o170_777, options.uid, options.gid);
    }
    let time = |seconds: u64, nanos: u32| Timestamp { seconds, nanos };
    NewInode {
        mode: old.i_mode.get(),
        uid: old.i_uid.get(),
        gid: old.i_gid.get(),
        atime: time(old.i_atime.get(), old.i_atime_nsec.get()),
        mtime: time(old.i_mtime.get(), old.i_mtime_nsec.get()),
        ctime: now,
    }
}

/// Copies data that stands in the source's inode; it may not fit where the target keeps xattrs.
fn copy_inline(txn: &mut Txn<'_>, target: BlockNo, bytes: &[u8]) -> Result<()> {
    if txn.store_inline(target, bytes)? {
        return Ok(());
    }
    let room = txn.info().geo.block_bytes() - DINODE_HEAD - size_of::<InlineData>();
    let rule = "data in the inode is longer than an inode can hold";
    let kind = FaultKind::Field {
        field: "i_size",
        value: (bytes.len().max(room)) as u64,
        rule,
    };
    Err(kind.at(target).into())
}

/// Maps the source's clusters from the target too, and counts them.
fn share(
    txn: &mut Txn<'_>,
    source: BlockNo,
    target: BlockNo,
    size: u64,
    now: Timestamp,
) -> Result<()> {
    let geo = txn.info().geo;
    let source_root = txn.data_root(source)?;
    let all = txn.tree_extents(&source_root, 0, u32::MAX)?;
    let end = low32(geo.clusters_for(size));
    let mut shared: Vec<Extent> = all
        .iter()
        .filter(|extent| extent.cpos < end)
        .map(|extent| Extent {
            clusters: extent.clusters.min(end - extent.cpos),
            ..*extent
        })
        .collect();
    if shared.is_empty() {
        return Ok(());
    }
    for extent in &shared {
        txn.require_inside(source, extent)?;
    }
    let tree = txn.refcount_root_for(source)?;
    let changes: Vec<Adjust> = shared
        .iter()
        .map(|extent| Adjust {
            first: geo.cluster_of(extent.blkno).0.into(),
            clusters: extent.clusters,
            // A range that was the source's alone is now mapped twice.
            delta: if extent.is_refcounted() { 1 } else { 2 },
        })
        .collect();
    let flagged = shared.iter().all(Extent::is_refcounted);
    for extent in &mut shared {
        extent.flags |= ExtentFlags::REFCOUNTED;
    }
    if !flagged {
        let last = shared.last().map_or(0, Extent::end);
        txn.splice(&source_root, 0, last, &shared)?;
        now.set_ctime(&mut *txn.edit::<Dinode>(source)?);
    }
    let gone = txn.refcount_adjust(tree, &summed(&changes))?;
    debug_assert!(gone.is_empty());
    txn.attach_once(target, tree)?;
    let target_root = txn.data_root(target)?;
    let clusters: i64 = shared.iter().map(|extent| i64::from(extent.clusters)).sum();
    txn.splice(&target_root, 0, u32::MAX, &shared)?;
    txn.charge_clusters(target, clusters)
}
