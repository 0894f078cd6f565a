//! Setting and removing attributes.
//!
//! A change lays all attributes of the inode out anew: at the end of the inode as far as they fit
//! there, the others in a block, or in buckets when the block is too small. Values of more than 80
//! bytes keep their clusters; only the roots of their trees move.

use std::ops::ControlFlow;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DINODE_HEAD, Dinode, DynFeatures, ExtentFlags, ExtentList, ExtentRec, FileType, HashKind,
    Incompat, InlineData, XATTR_BLOCK_BODY, XATTR_BUCKET, XATTR_INDEXED, XATTR_LOCAL_MAX,
    XattrBlock, XattrValueRoot, xattr_hash, xattr_type,
};
use crate::ops::release::release;
use crate::ops::xattr::pack::{self, Attr, Bucket};
use crate::ops::xattr::{VALUE_ROOT, ecc_of_bucket, new_block, value_root};
use crate::read::extent::{self, Extent, ListView};
use crate::read::{inode, xattr};
use crate::txn::{Timestamp, TreeRoot, Txn};
use crate::units::{BlockNo, ClusterNo, Slot, low16};
use crate::volume::system::SystemFile;

/// Largest part of a tree of buckets that is one extent: no driver makes longer ones.
const EXTENT_MAX: u64 = 65536;

/// Sets an attribute of an inode to a value, whether it has it or not. ACLs are given as they are
/// stored: entries of 8 bytes, without the head that system calls use.
///
/// # Errors
/// The volume has no attributes, the name or value is not possible, the volume is full, or a block
/// cannot be used.
pub fn set_xattr(
    txn: &mut Txn<'_>,
    inode: BlockNo,
    name: &[u8],
    value: &[u8],
    now: Timestamp,
) -> Result<()> {
    set_xattrs(txn, inode, &[(name, value)], now)
}

/// Sets several attributes at once: see [`set_xattr`].
///
/// # Errors
/// As [`set_xattr`].
pub fn set_xattrs(
    txn: &mut Txn<'_>,
    inode: BlockNo,
    changes: &[(&[u8], &[u8])],
    now: Timestamp,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if !txn.info().has(Incompat::XATTR) {
        let why = "the volume was made without the xattr feature".to_owned();
        return Err(Error::Refused { why });
    }
    crate::ops::require_mutable(&*inode::read(txn.view(), inode)?, inode)?;
    let mut attrs = attributes(txn, inode)?;
    for (name, value) in changes {
        let mut attr = named(txn, name)?;
        if value.len() as u64 > xattr::VALUE_MAX {
            return Err(wrong_name(name, "a value has at most 65536 bytes"));
        }
        if let Some(at) = position(&attrs, &attr) {
            let old = attrs.remove(at);
            drop_value(txn, inode, &old)?;
        }
        attr.size = value.len() as u64;
        attr.body = if attr.size > XATTR_LOCAL_MAX {
            new_value(txn, value)?.to_vec()
        } else {
            value.to_vec()
        };
        attrs.push(attr);
    }
    reserve(txn, inode)?;
    store(txn, inode, attrs)?;
    now.set_ctime(&mut *txn.edit::<Dinode>(inode)?);
    Ok(())
}

/// Removes an attribute of an inode.
///
/// # Errors
/// The inode does not have it, or a block cannot be used.
pub fn remove_xattr(txn: &mut Txn<'_>, inode: BlockNo, name: &[u8], now: Timestamp) -> Result<()> {
    crate::ops::require_mutable(&*inode::read(txn.view(), inode)?, inode)?;
    let mut attrs = attributes(txn, inode)?;
    let wanted = named(txn, name)?;
    let Some(at) = position(&attrs, &wanted) else {
        return Err(wrong_name(name, "the file has no such attribute"));
    };
    let old = attrs.remove(at);
    drop_value(txn, inode, &old)?;
    store(txn, inode, attrs)?;
    now.set_ctime(&mut *txn.edit::<Dinode>(inode)?);
    Ok(())
}

/// Frees all that the attributes of an inode take up outside of it. The inode is about to go.
///
/// # Errors
/// An attribute is damaged.
pub(in crate::ops) fn remove_all(txn: &mut Txn<'_>, inode: BlockNo) -> Result<()> {
    let features = txn.view().block::<Dinode>(inode)?.dyn_features();
    if !features.contains(DynFeatures::HAS_XATTR) {
        return Ok(());
    }
    for attr in attributes(txn, inode)? {
        drop_value(txn, inode, &attr)?;
    }
    store(txn, inode, Vec::new())
}

fn wrong_name(name: &[u8], why: &'static str) -> Error {
    let path = String::from_utf8_lossy(name).into_owned();
    Error::Path { path, why }
}

/// An attribute of this name, without value.
fn named(txn: &Txn<'_>, name: &[u8]) -> Result<Attr> {
    let Some((kind, suffix)) = xattr_type(name) else {
        let why = "attributes are named user.*, trusted.*, security.* or system.posix_acl_*";
        return Err(wrong_name(name, why));
    };
    if suffix.len() > 255 || suffix.contains(&0) {
        let why = "a name has at most 255 bytes behind its prefix, and no NUL";
        return Err(wrong_name(name, why));
    }
    let [.., uuid_hash] = txn.info().dx_seed;
    Ok(Attr {
        kind,
        suffix: suffix.to_vec(),
        hash: xattr_hash(suffix, uuid_hash, HashKind::Signed),
        size: 0,
        body: Vec::new(),
    })
}

fn position(attrs: &[Attr], wanted: &Attr) -> Option<usize> {
    let same = |attr: &Attr| attr.kind == wanted.kind && attr.suffix == wanted.suffix;
    attrs.iter().position(same)
}

/// The attributes of an area.
fn of_area(area: &[u8]) -> impl Iterator<Item = Result<Attr, FaultKind>> {
    xattr::entries(area).map(|attribute| {
        let attribute = attribute?;
        let at = usize::from(attribute.entry.xe_name_offset.get())
            + attribute.suffix.len().next_multiple_of(4);
        let body = match attribute.value {
            xattr::Stored::Here(bytes) => bytes.to_vec(),
            xattr::Stored::Outside(..) => {
                let root = area.get(at..at + VALUE_ROOT);
                root.ok_or(FaultKind::OutOfVolume)?.to_vec()
            }
        };
        let attr = Attr {
            kind: attribute.entry.xe_type & 0x7F,
            suffix: attribute.suffix.to_vec(),
            hash: attribute.entry.xe_name_hash.get(),
            size: attribute.entry.xe_value_size.get(),
            body,
        };
        let wrong = attr.is_outside()
            != (attr.body.len() == VALUE_ROOT && attr.size > XATTR_LOCAL_MAX)
            || (!attr.is_outside() && attr.body.len() as u64 != attr.size);
        if wrong {
            return Err(FaultKind::Field {
                field: "xe_value_size",
                value: attr.size,
                rule: "values of at most 80 bytes stand behind their names, others do not",
            });
        }
        Ok(attr)
    })
}

/// All attributes of an inode.
fn attributes(txn: &Txn<'_>, blkno: BlockNo) -> Result<Vec<Attr>> {
    let view = txn.view();
    let dinode = inode::read(view, blkno)?;
    let mut found = Ok(Vec::new());
    xattr::for_each_area(view, &dinode, &mut |area| {
        let taken = area.and_then(|(place, area)| {
            let all: Result<Vec<Attr>, FaultKind> = of_area(area).collect();
            Ok(all.map_err(|kind| kind.at(place.blkno()))?)
        });
        match taken {
            Ok(of_area) => {
                if let Ok(all) = &mut found {
                    all.extend(of_area);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                found = Err(error);
                ControlFlow::Break(())
            }
        }
    });
    found
}

/// Lays the attributes of an inode that can still be made out into another block and other buckets.
/// Values that use any of `count` clusters from `first` on are copied to clusters of their own. What the
/// attributes lay in before is not freed here: a check finds it in use for nothing.
///
/// # Errors
/// The inode cannot be used, or the volume is full.
pub fn remake_xattrs(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    first: ClusterNo,
    count: u32,
) -> Result<()> {
    let (view, geo) = (txn.view(), txn.info().geo);
    let dinode = inode::read(view, blkno)?;
    let mut found: Vec<Attr> = Vec::new();
    let mut copied: Vec<(usize, Vec<u8>)> = Vec::new();
    let behind = geo.first_block(ClusterNo(first.0.saturating_add(count)));
    let first = geo.first_block(first);
    xattr::for_each_area(view, &dinode, &mut |area| {
        let Ok((place, area)) = area else {
            return ControlFlow::Continue(());
        };
        let both = xattr::entries(area).zip(of_area(area));
        for (entry, attr) in both.map_while(|(entry, attr)| Some((entry.ok()?, attr.ok()?))) {
            let Ok(extents) = entry.extents(view, place.blkno()) else {
                continue;
            };
            let blocks = |e: &Extent| u64::from(e.clusters) * geo.blocks_per_cluster();
            let all: u64 = extents.iter().map(blocks).sum();
            let sound = extents.iter().all(|e| geo.contains(e.blkno, blocks(e)))
                && (!attr.is_outside() || all >= geo.blocks_for(attr.size));
            if !sound || position(&found, &attr).is_some() {
                continue;
            }
            let meets = |e: &Extent| e.blkno < behind && first < e.blkno.plus(blocks(e));
            if extents.iter().any(meets)
                && let Ok(value) = entry.read(view, place.blkno())
            {
                copied.push((found.len(), value));
            }
            found.push(attr);
        }
        ControlFlow::Continue(())
    });
    drop(dinode);
    for (at, value) in copied {
        let root = new_value(txn, &value)?;
        if let Some(attr) = found.get_mut(at) {
            attr.body = root.to_vec();
        }
    }
    txn.edit::<Dinode>(blkno)?.i_xattr_loc = 0.into();
    store(txn, blkno, found)
}

/// Writes a value into clusters of its own; the root of its tree.
fn new_value(txn: &mut Txn<'_>, value: &[u8]) -> Result<[u8; VALUE_ROOT]> {
    let geo = txn.info().geo;
    let mut extents: Vec<Extent> = Vec::new();
    let mut rest = value;
    let mut cpos = 0;
    while !rest.is_empty() {
        let want = crate::units::low32(geo.clusters_for(rest.len() as u64));
        let (cluster, clusters) = txn.alloc_clusters(want)?;
        let room = u64::from(clusters) << geo.cluster_bits();
        let (part, behind) = rest.split_at(rest.len().min(crate::units::index(room)));
        txn.write_data(cluster, 0, part)?;
        txn.zero_data(cluster, part.len() as u64, room - part.len() as u64)?;
        extents.push(Extent {
            cpos,
            clusters,
            blkno: geo.first_block(cluster),
            flags: ExtentFlags::empty(),
        });
        cpos += clusters;
        rest = behind;
    }
    value_root(txn, &extents)
}

/// Frees the clusters of a value that is no longer wanted.
fn drop_value(txn: &mut Txn<'_>, inode: BlockNo, attr: &Attr) -> Result<()> {
    if !attr.is_outside() {
        return Ok(());
    }
    let list = attr
        .body
        .get(size_of::<XattrValueRoot>()..)
        .unwrap_or_default();
    let extents = extent::extents(txn.view(), inode, list)?;
    release(txn, inode, &extents)?;
    let below = ListView::parse(list).and_then(|list| {
        let rec = list.recs.first()?;
        (list.head.l_tree_depth.get() > 0)
            .then(|| (list.head.l_tree_depth.get(), rec.e_blkno.get()))
    });
    match below {
        None => Ok(()),
        Some((1, leaf)) => txn.free_extent_block(Some(BlockNo(leaf))),
        Some((depth, node)) => {
            let rule = "a value of 64 KiB has a tree of one level at most";
            let kind = FaultKind::Field {
                field: "l_tree_depth",
                value: depth.into(),
                rule,
            };
            Err(kind.at(BlockNo(node)).into())
        }
    }
}

/// Keeps room for attributes at the end of the inode, where the volume does that and the inode
/// still has it.
fn reserve(txn: &mut Txn<'_>, blkno: BlockNo) -> Result<()> {
    let room = usize::from(txn.info().xattr_inline_size);
    let block = txn.info().geo.block_bytes();
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    let features = dinode.dyn_features();
    let enough = block > 512 && room > 64 && room.is_multiple_of(16) && room <= block / 2;
    if !enough || features.contains(DynFeatures::INLINE_XATTR) {
        return Ok(());
    }
    let head: Dinode = *dinode;
    let body = &mut dinode.bytes_mut()[DINODE_HEAD..];
    let inline = features.contains(DynFeatures::INLINE_DATA);
    let fast_symlink = head.file_type() == Some(FileType::Symlink) && !head.has_extents();
    let size = crate::units::index(head.i_size.get());
    let used = if inline {
        size_of::<InlineData>().saturating_add(size)
    } else if fast_symlink {
        size
    } else {
        let records = ListView::parse(body).map_or(usize::MAX, |list| list.recs.len());
        size_of::<ExtentList>().saturating_add(records.saturating_mul(size_of::<ExtentRec>()))
    };
    if used > body.len() - room {
        return Ok(());
    }
    // The head of the list or data counts what it has room for.
    let end = body.len() - room;
    let counted = if inline {
        Some((0, end - size_of::<InlineData>()))
    } else if fast_symlink {
        None
    } else {
        Some((2, (end - size_of::<ExtentList>()) / size_of::<ExtentRec>()))
    };
    if let Some((at, count)) = counted {
        body[at..at + 2].copy_from_slice(&low16(count as u64).to_le_bytes());
    }
    body[end..].fill(0);
    dinode.i_xattr_inline_size = low16(room as u64).into();
    let features = features | DynFeatures::INLINE_XATTR | DynFeatures::HAS_XATTR;
    dinode.i_dyn_features = features.bits().into();
    Ok(())
}

/// Lays the attributes of an inode out, in place of those it has.
fn store(txn: &mut Txn<'_>, blkno: BlockNo, attrs: Vec<Attr>) -> Result<()> {
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    let room = dinode.bytes().len() - dinode.body_end();
    let inline = dinode.dyn_features().contains(DynFeatures::INLINE_XATTR) && room > 0;
    let attrs = if inline {
        let (area, left) = pack::pack(room, attrs);
        let start = dinode.body_end();
        dinode.bytes_mut()[start..].copy_from_slice(&area);
        left
    } else {
        attrs
    };
    let loc = dinode.i_xattr_loc.get();
    store_outside(txn, blkno, loc, attrs)?;
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    let any = inline || dinode.i_xattr_loc.get() != 0;
    let features = if any {
        dinode.dyn_features() | DynFeatures::HAS_XATTR
    } else {
        dinode.dyn_features().difference(DynFeatures::HAS_XATTR)
    };
    dinode.i_dyn_features = features.bits().into();
    Ok(())
}

/// Stores what did not fit into the inode in its xattr block, or in buckets below that.
fn store_outside(txn: &mut Txn<'_>, inode: BlockNo, loc: u64, attrs: Vec<Attr>) -> Result<()> {
    if loc != 0 {
        drop_buckets(txn, BlockNo(loc))?;
    }
    if attrs.is_empty() {
        return if loc == 0 {
            Ok(())
        } else {
            drop_block(txn, inode, BlockNo(loc))
        };
    }
    let block = if loc == 0 {
        new_block(txn, inode)?
    } else {
        BlockNo(loc)
    };
    let block_bytes = txn.info().geo.block_bytes();
    let (area, left) = pack::pack(block_bytes - XATTR_BLOCK_BODY, attrs.clone());
    let mut edit = txn.edit::<XattrBlock>(block)?;
    if left.is_empty() {
        edit.xb_flags = 0.into();
        edit.bytes_mut()[XATTR_BLOCK_BODY..].copy_from_slice(&area);
        return Ok(());
    }
    edit.xb_flags = XATTR_INDEXED.into();
    edit.bytes_mut()[XATTR_BLOCK_BODY..].fill(0);
    let buckets = pack::pack_buckets(attrs, block_bytes)?;
    let extents = write_buckets(txn, &buckets)?;
    let root = TreeRoot::xattr_tree(block, block_bytes);
    txn.splice(&root, 0, u32::MAX, &extents)
}

/// Writes buckets into new clusters, in runs that lie side by side; the records of their tree.
fn write_buckets(txn: &mut Txn<'_>, buckets: &[Bucket]) -> Result<Vec<Extent>> {
    let geo = txn.info().geo;
    let per_cluster = crate::units::index(geo.cluster_bytes()) / XATTR_BUCKET;
    let most = (EXTENT_MAX / geo.cluster_bytes()).max(1);
    let mut extents = Vec::new();
    let mut rest = buckets;
    while !rest.is_empty() {
        let want = (rest.len().div_ceil(per_cluster) as u64).min(most);
        let (cluster, clusters) = txn.alloc_clusters(crate::units::low32(want))?;
        let (run, behind) = rest.split_at(rest.len().min(clusters as usize * per_cluster));
        for (i, bucket) in run.iter().enumerate() {
            let mut bytes = bucket.bytes.clone();
            if i == 0 {
                bytes[6..8].copy_from_slice(&low16(run.len() as u64).to_le_bytes());
            }
            ecc_of_bucket(txn, &mut bytes);
            txn.write_data(cluster, (i * XATTR_BUCKET) as u64, &bytes)?;
        }
        let used = (run.len() * XATTR_BUCKET) as u64;
        let room = u64::from(clusters) << geo.cluster_bits();
        txn.zero_data(cluster, used, room - used)?;
        extents.push(Extent {
            cpos: if extents.is_empty() { 0 } else { run[0].first },
            clusters,
            blkno: geo.first_block(cluster),
            flags: ExtentFlags::empty(),
        });
        rest = behind;
    }
    Ok(extents)
}

/// Frees the buckets below an xattr block, and the blocks of their tree.
fn drop_buckets(txn: &mut Txn<'_>, block: BlockNo) -> Result<()> {
    if !xattr::is_indexed(&*txn.view().block::<XattrBlock>(block)?) {
        return Ok(());
    }
    let root = TreeRoot::xattr_tree(block, txn.info().geo.block_bytes());
    for extent in txn.tree_extents(&root, 0, u32::MAX)? {
        txn.free_extent(block, &extent)?;
    }
    txn.splice(&root, 0, u32::MAX, &[])
}

fn drop_block(txn: &mut Txn<'_>, inode: BlockNo, block: BlockNo) -> Result<()> {
    let (slot, bit, loc) = {
        let head = txn.view().block::<XattrBlock>(block)?;
        (
            head.xb_suballoc_slot.get(),
            head.xb_suballoc_bit.get(),
            head.xb_suballoc_loc.get(),
        )
    };
    txn.free_sub(SystemFile::ExtentAlloc(Slot(slot)), block, bit, loc)?;
    txn.edit::<Dinode>(inode)?.i_xattr_loc = 0.into();
    Ok(())
}
