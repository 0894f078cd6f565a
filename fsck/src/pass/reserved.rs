//! Bytes that the format keeps for later: they are zero until something newer gives them a meaning.

use cowfs_format::layout::{
    ChainList, DINODE_HEAD, DIR_TRAILER, DIR_TRAILER_SIGNATURE, DX_INLINE, DX_LEAF_LIST,
    DX_ROOT_BODY, Dinode, DirBlockTrailer, DxEntryList, DxLeaf, DxRoot, DynFeatures,
    EXTENT_BLOCK_LIST, ExtentBlock, ExtentList, Field, GroupDesc, InodeFlags, Kind, LocalAlloc,
    REFCOUNT_BODY, REFCOUNT_TREE, RefcountBlock, RefcountList, SUPER_BLOCK_BODY,
    SUPER_BLOCK_SIGNATURE, SuperBlock, TruncateLog, XATTR_BLOCK_BODY, XATTR_INDEXED, XattrBlock,
    XattrTreeRoot,
};
use zerocopy::FromBytes;

use crate::catalogue::{At, VolumeProblem};
use crate::facts::Out;

/// A structure of a block: where it begins, and its fields.
type Part = (usize, &'static [Field]);

/// The structures that stand in a block by its signature or trailer, but not their records.
fn parts(bytes: &[u8]) -> [Option<Part>; 3] {
    let part = |offset, fields| Some((offset, fields));
    match bytes.get(..8).unwrap_or_default() {
        b"INODE01\0" => [part(0, Dinode::FIELDS), body(bytes), None],
        b"EXBLK01\0" => [
            part(0, ExtentBlock::FIELDS),
            part(EXTENT_BLOCK_LIST, ExtentList::FIELDS),
            None,
        ],
        b"GROUP01\0" => [part(0, GroupDesc::FIELDS), None, None],
        b"DXDIR01\0" => {
            let inline = DxRoot::ref_from_prefix(bytes)
                .is_ok_and(|(root, _)| root.dr_flags & DX_INLINE != 0);
            let list = if inline {
                DxEntryList::FIELDS
            } else {
                ExtentList::FIELDS
            };
            [part(0, DxRoot::FIELDS), part(DX_ROOT_BODY, list), None]
        }
        b"DXLEAF1\0" => [
            part(0, DxLeaf::FIELDS),
            part(DX_LEAF_LIST, DxEntryList::FIELDS),
            None,
        ],
        b"XATTR01\0" => {
            let tree = XattrBlock::ref_from_prefix(bytes)
                .is_ok_and(|(block, _)| block.xb_flags.get() & XATTR_INDEXED != 0);
            let list = XATTR_BLOCK_BODY + size_of::<XattrTreeRoot>();
            [
                part(0, XattrBlock::FIELDS),
                part(XATTR_BLOCK_BODY, XattrTreeRoot::FIELDS).filter(|_| tree),
                part(list, ExtentList::FIELDS).filter(|_| tree),
            ]
        }
        b"REFCNT1\0" => {
            let tree = RefcountBlock::ref_from_prefix(bytes)
                .is_ok_and(|(block, _)| block.rf_flags.get() & REFCOUNT_TREE != 0);
            let list = if tree {
                ExtentList::FIELDS
            } else {
                RefcountList::FIELDS
            };
            [
                part(0, RefcountBlock::FIELDS),
                part(REFCOUNT_BODY, list),
                None,
            ]
        }
        signature if *signature == SUPER_BLOCK_SIGNATURE => [
            part(0, Dinode::FIELDS),
            part(SUPER_BLOCK_BODY, SuperBlock::FIELDS),
            None,
        ],
        _ => {
            let end = bytes.len().saturating_sub(DIR_TRAILER);
            let trailer = DirBlockTrailer::ref_from_bytes(bytes.get(end..).unwrap_or_default())
                .is_ok_and(|trailer| trailer.db_signature == DIR_TRAILER_SIGNATURE);
            [
                part(end, DirBlockTrailer::FIELDS).filter(|_| trailer),
                None,
                None,
            ]
        }
    }
}

/// What stands in the body of an inode.
fn body(bytes: &[u8]) -> Option<Part> {
    let (inode, _) = Dinode::ref_from_prefix(bytes).ok()?;
    let flags = inode.flags();
    let fields = if flags.contains(InodeFlags::CHAIN) {
        ChainList::FIELDS
    } else if flags.contains(InodeFlags::LOCAL_ALLOC) {
        LocalAlloc::FIELDS
    } else if flags.contains(InodeFlags::DEALLOC) {
        TruncateLog::FIELDS
    } else if inode.dyn_features().contains(DynFeatures::INLINE_DATA) {
        // The driver leaves in the head of inline data what stood there before.
        return None;
    } else if inode.has_extents() {
        ExtentList::FIELDS
    } else {
        return None;
    };
    Some((DINODE_HEAD, fields))
}

/// The first reserved field of a structure that is not zero.
fn first(fields: &[Field], structure: &[u8]) -> Option<&'static str> {
    fields.iter().find_map(|field| match field.kind {
        Kind::Reserved => {
            let set = field.bytes(structure).iter().any(|byte| *byte != 0);
            set.then_some(field.name)
        }
        Kind::Nested(inner) => first(inner, field.bytes(structure)),
        _ => None,
    })
}

/// Tells of a block with something in its reserved fields.
pub(crate) fn check(out: &mut Out, at: At, bytes: &[u8]) {
    let set = parts(bytes)
        .into_iter()
        .flatten()
        .find_map(|(at, fields)| first(fields, bytes.get(at..).unwrap_or_default()));
    if let Some(field) = set {
        out.find(at, VolumeProblem::Reserved { field });
    }
}

/// Clears the reserved fields of a block.
pub(crate) fn clear(bytes: &mut [u8]) {
    for (at, fields) in parts(bytes).into_iter().flatten() {
        clear_in(fields, bytes.get_mut(at..).unwrap_or_default());
    }
}

fn clear_in(fields: &[Field], structure: &mut [u8]) {
    for field in fields {
        let place = structure.get_mut(field.offset..field.offset + field.len);
        match (field.kind, place) {
            (Kind::Reserved, Some(place)) => place.fill(0),
            (Kind::Nested(inner), Some(place)) => clear_in(inner, place),
            _ => {}
        }
    }
}
