//! Extended attributes: what cannot be made out goes, and takes nothing with it.

use std::ops::Range;

use cowfs_format::error::Result;
use cowfs_format::layout::{
    Dinode, DynFeatures, HashKind, Incompat, XATTR_BLOCK_BODY, XATTR_BUCKET, XattrBlock,
    XattrEntry, XattrHeader, xattr_hash, xattr_prefix,
};
use cowfs_format::ops;
use cowfs_format::read::{extent, inode};
use cowfs_format::units::{BlockNo, ClusterNo, low16};
use zerocopy::FromBytes;

use super::inode::incompat;
use super::stage::{Stage, cannot};
use crate::catalogue::{At, XattrProblem};
use crate::pass::xattr::{LOCAL, pad};

/// Bytes of the header of a set of attributes, and of an entry.
const HEAD: usize = size_of::<XattrHeader>();
const ENTRY: usize = size_of::<XattrEntry>();

/// Repairs a problem of the attributes of an inode.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &XattrProblem) -> Result<()> {
    use XattrProblem as P;
    let owner = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    match *problem {
        P::BlockInvalid { .. } => detach(stage, owner, at.block),
        P::CountInvalid { .. } => recount(stage, at),
        P::EntryInvalid { index, .. }
        | P::NameOffset { index, .. }
        | P::ValueInvalid { index, .. }
        | P::LocationInvalid { index, .. } => {
            stage.drop_attribute(owner, at.block, index);
            Ok(())
        }
        P::HashInvalid { index, .. } => hash(stage, at, index),
        P::FreeStart { expected, .. } => edit(stage, at, |bytes| {
            bytes[2..4].copy_from_slice(&low16(expected).to_le_bytes());
            Ok(())
        }),
        P::ValueLen { expected, .. } => edit(stage, at, |bytes| {
            bytes[4..6].copy_from_slice(&low16(expected).to_le_bytes());
            Ok(())
        }),
        P::BucketCount { limit, .. } => bucket_count(stage, at, limit),
        // Within its bucket, or with the buckets beside it.
        P::Order { .. } | P::BucketFull { .. } => remake(stage, owner),
        P::Flag { .. } => {
            if !stage.view().info().has(Incompat::XATTR) {
                return incompat(stage, Incompat::XATTR);
            }
            stage.edit::<Dinode>(owner, |inode| {
                let features = inode.dyn_features() | DynFeatures::HAS_XATTR;
                inode.i_dyn_features = features.bits().into();
            })
        }
    }
}

/// Edits a set of attributes, from its header on: in the inode, in a block, in a bucket.
fn edit(stage: &Stage<'_, '_>, at: At, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let owner = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    let short = || cannot("there is no room for attributes");
    let Some(block) = at.block.filter(|block| *block != owner) else {
        let size = inode::read(stage.view(), owner)?.inline_xattr_bytes();
        return stage.edit_bytes::<Dinode>(owner, |bytes| {
            let start = bytes.len().checked_sub(size).ok_or_else(short)?;
            change(
                bytes
                    .get_mut(start..)
                    .filter(|room| room.len() >= HEAD)
                    .ok_or_else(short)?,
            )
        });
    };
    let is_block = stage.view().raw(block)?.starts_with(b"XATTR01\0");
    if is_block {
        return stage.edit_bytes::<XattrBlock>(block, |bytes| {
            change(bytes.get_mut(XATTR_BLOCK_BODY..).ok_or_else(short)?)
        });
    }
    let blocks = XATTR_BUCKET >> stage.geo().block_bits();
    stage.edit_run(block, blocks, Some(0x08), change)
}

fn count(bytes: &[u8]) -> usize {
    let room = bytes.len().saturating_sub(HEAD) / ENTRY;
    let count = bytes
        .get(..2)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    usize::from(count).min(room)
}

/// Takes entries out of a set, by their numbers.
pub(super) fn drop_entries(
    stage: &Stage<'_, '_>,
    owner: BlockNo,
    block: Option<BlockNo>,
    gone: &[u64],
) -> Result<()> {
    let at = At {
        inode: Some(owner),
        block,
    };
    edit(stage, at, |bytes| {
        let count = count(bytes);
        let list: Vec<u8> = bytes[HEAD..HEAD + count * ENTRY]
            .chunks_exact(ENTRY)
            .zip(0u64..)
            .filter(|(_, index)| !gone.contains(index))
            .flat_map(|(entry, _)| entry.iter().copied())
            .collect();
        let kept = list.len() / ENTRY;
        bytes[HEAD..HEAD + list.len()].copy_from_slice(&list);
        bytes[HEAD + list.len()..HEAD + count * ENTRY].fill(0);
        bytes[..2].copy_from_slice(&low16(kept as u64).to_le_bytes());
        Ok(())
    })
}

/// Counts the entries of a set again: those from the first on that are possible.
fn recount(stage: &Stage<'_, '_>, at: At) -> Result<()> {
    edit(stage, at, |bytes| {
        let len = bytes.len();
        let room = (len - HEAD) / ENTRY;
        let possible = |index: &usize| {
            let start = HEAD + index * ENTRY;
            let Ok((entry, _)) = XattrEntry::read_from_prefix(&bytes[start..]) else {
                return false;
            };
            let name = usize::from(entry.xe_name_offset.get());
            let end = name + usize::from(entry.xe_name_len);
            xattr_prefix(entry.xe_type).is_some() && name >= start + ENTRY && end <= len
        };
        let mut kept = (0..room).take_while(possible).count();
        // The names lie behind the entries: an entry behind the first name is none.
        let lowest = (0..kept)
            .filter_map(|index| XattrEntry::read_from_prefix(&bytes[HEAD + index * ENTRY..]).ok())
            .map(|(entry, _)| usize::from(entry.xe_name_offset.get()))
            .min();
        if let Some(lowest) = lowest {
            kept = kept.min(lowest.saturating_sub(HEAD) / ENTRY);
        }
        bytes[..2].copy_from_slice(&low16(kept as u64).to_le_bytes());
        Ok(())
    })
}

/// Gives an attribute the hash of its name.
fn hash(stage: &Stage<'_, '_>, at: At, index: u64) -> Result<()> {
    let seed = stage.view().info().dx_seed[3];
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    edit(stage, at, |bytes| {
        let start = index.saturating_mul(ENTRY).saturating_add(HEAD);
        let (entry, _) = XattrEntry::read_from_prefix(bytes.get(start..).unwrap_or_default())
            .map_err(|_| cannot("there is no such attribute"))?;
        let name = usize::from(entry.xe_name_offset.get());
        let name = bytes.get(name..name + usize::from(entry.xe_name_len));
        let name = name.ok_or_else(|| cannot("the attribute has no name"))?;
        let hash = xattr_hash(name, seed, HashKind::Signed);
        bytes[start..start + 4].copy_from_slice(&hash.to_le_bytes());
        Ok(())
    })
}

/// Has the root of a value in a set of attributes, which names `found` as its last leaf, name `leaf`.
pub(super) fn last_leaf(
    stage: &Stage<'_, '_>,
    owner: BlockNo,
    block: BlockNo,
    found: u64,
    leaf: u64,
) -> Result<()> {
    let at = At::within(owner, block);
    edit(stage, at, |bytes| {
        let roots: Vec<usize> = (0..count(bytes))
            .filter_map(|index| XattrEntry::read_from_prefix(&bytes[HEAD + index * ENTRY..]).ok())
            .filter(|(entry, _)| entry.xe_type & LOCAL == 0)
            .map(|(entry, _)| {
                usize::from(entry.xe_name_offset.get()) + pad(entry.xe_name_len.into())
            })
            .collect();
        let places = roots.into_iter().map(|root| root + 8..root + 16);
        let names_it = |place: &Range<usize>| {
            let old = bytes.get(place.clone());
            old == Some(found.to_le_bytes().as_slice())
        };
        let place = places.into_iter().find(names_it);
        let place = place.ok_or_else(|| cannot("the block is the root of no tree"))?;
        bytes[place].copy_from_slice(&leaf.to_le_bytes());
        Ok(())
    })
}

/// Lays out anew what can be made out of the attributes of an inode.
pub(super) fn remake(stage: &mut Stage<'_, '_>, owner: BlockNo) -> Result<()> {
    part(stage, owner, ClusterNo(0), 0)
}

/// As [`remake`]; what uses any of `count` clusters from `first` on gets others.
pub(super) fn part(
    stage: &mut Stage<'_, '_>,
    owner: BlockNo,
    first: ClusterNo,
    count: u32,
) -> Result<()> {
    if count == 0 && !stage.first("attributes", owner) {
        return Ok(());
    }
    stage.transact(|txn| ops::remake_xattrs(txn, owner, first, count))
}

/// Gives up the block of an inode's attributes; those in the inode stay.
fn detach(stage: &mut Stage<'_, '_>, owner: BlockNo, block: Option<BlockNo>) -> Result<()> {
    let inode = inode::read(stage.view(), owner)?;
    let loc = inode.i_xattr_loc.get();
    drop(inode);
    if block.map(|block| block.0) != Some(loc) {
        return remake(stage, owner);
    }
    stage.edit::<Dinode>(owner, |inode| {
        inode.i_xattr_loc = 0.into();
        let features = inode.dyn_features();
        if !features.contains(DynFeatures::INLINE_XATTR) {
            let features = features.difference(DynFeatures::HAS_XATTR);
            inode.i_dyn_features = features.bits().into();
        }
    })
}

/// The hashes that an extent of buckets serves: the first, and the one behind the last.
fn keys(stage: &Stage<'_, '_>, at: At, first: BlockNo) -> Result<(u32, u64)> {
    let owner = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    let view = stage.view();
    let root = BlockNo(inode::read(view, owner)?.i_xattr_loc.get());
    let block = view.block::<XattrBlock>(root)?;
    let space = block.bytes().get(XATTR_BLOCK_BODY + 16..);
    let (found, _) = extent::salvage(view, root, space.unwrap_or_default());
    let number = found.iter().position(|extent| extent.blkno == first);
    let number = number.ok_or_else(|| cannot("the tree of attributes does not lead there"))?;
    let next = found.get(number + 1);
    let end = next.map_or(1 << 32, |next| u64::from(next.cpos));
    Ok((found.get(number).map_or(0, |extent| extent.cpos), end))
}

/// Counts the buckets of an extent again: those from the first on that have entries.
fn bucket_count(stage: &Stage<'_, '_>, at: At, limit: u64) -> Result<()> {
    let first = at.block.ok_or_else(|| cannot("it has no block"))?;
    let blocks = XATTR_BUCKET >> stage.geo().block_bits();
    let view = stage.view();
    let (mut last, end) = keys(stage, at, first)?;
    let sound = |number: &u64| {
        let blkno = first.plus(number * blocks as u64);
        view.bucket(blkno).is_ok_and(|(bytes, state)| {
            let own = bytes
                .get(..2)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            let start = bytes
                .get(2..4)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            // Buckets that were given up have hashes that are served elsewhere now.
            let lowest = bytes.get(HEAD..HEAD + 4);
            let lowest = lowest.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let before = std::mem::replace(&mut last, lowest);
            let highest = HEAD + count(&bytes).saturating_sub(1) * ENTRY;
            let highest = bytes.get(highest..highest + 4);
            let highest = highest.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            state.is_some()
                && lowest >= before
                && u64::from(highest) < end
                && own > 0
                && usize::from(own) == count(&bytes)
                && HEAD + count(&bytes) * ENTRY <= usize::from(start)
        })
    };
    let found = (0..limit).take_while(sound).count().max(1);
    edit(stage, at, |bytes| {
        bytes[6..8].copy_from_slice(&low16(found as u64).to_le_bytes());
        Ok(())
    })
}
