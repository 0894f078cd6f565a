//! Bytes that the format keeps for later: they are zero until something newer gives them a meaning.

use std::ops::Range;
use std::sync::LazyLock;

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

/// A reserved field: where it begins in its structure, its length, and its name.
type Gap = (usize, usize, &'static str);

/// A structure of a block: where it begins, and its reserved fields.
type Part = (usize, &'static [Gap]);

/// The reserved fields of a structure, listed once: every block of metadata is held against them.
macro_rules! gaps {
    ($structure:ty) => {{
        static GAPS: LazyLock<Vec<Gap>> = LazyLock::new(|| {
            let mut gaps = Vec::new();
            list(<$structure>::FIELDS, 0, &mut gaps);
            gaps
        });
        GAPS.as_slice()
    }};
}

fn list(fields: &[Field], at: usize, gaps: &mut Vec<Gap>) {
    for field in fields {
        match field.kind {
            Kind::Reserved => gaps.push((at + field.offset, field.len, field.name)),
            Kind::Nested(inner) => list(inner, at + field.offset, gaps),
            _ => {}
        }
    }
}

/// The structures that stand in a block by its signature or trailer, but not their records.
fn parts(bytes: &[u8]) -> [Option<Part>; 3] {
    let part = |offset, gaps| Some((offset, gaps));
    match bytes.get(..8).unwrap_or_default() {
        b"INODE01\0" => [part(0, gaps!(Dinode)), body(bytes), None],
        b"EXBLK01\0" => [
            part(0, gaps!(ExtentBlock)),
            part(EXTENT_BLOCK_LIST, gaps!(ExtentList)),
            None,
        ],
        b"GROUP01\0" => [part(0, gaps!(GroupDesc)), None, None],
        b"DXDIR01\0" => {
            let inline = DxRoot::ref_from_prefix(bytes)
                .is_ok_and(|(root, _)| root.dr_flags & DX_INLINE != 0);
            let list = if inline {
                gaps!(DxEntryList)
            } else {
                gaps!(ExtentList)
            };
            [part(0, gaps!(DxRoot)), part(DX_ROOT_BODY, list), None]
        }
        b"DXLEAF1\0" => [
            part(0, gaps!(DxLeaf)),
            part(DX_LEAF_LIST, gaps!(DxEntryList)),
            None,
        ],
        b"XATTR01\0" => {
            let tree = XattrBlock::ref_from_prefix(bytes)
                .is_ok_and(|(block, _)| block.xb_flags.get() & XATTR_INDEXED != 0);
            let list = XATTR_BLOCK_BODY + size_of::<XattrTreeRoot>();
            [
                part(0, gaps!(XattrBlock)),
                part(XATTR_BLOCK_BODY, gaps!(XattrTreeRoot)).filter(|_| tree),
                part(list, gaps!(ExtentList)).filter(|_| tree),
            ]
        }
        b"REFCNT1\0" => {
            let tree = RefcountBlock::ref_from_prefix(bytes)
                .is_ok_and(|(block, _)| block.rf_flags.get() & REFCOUNT_TREE != 0);
            let list = if tree {
                gaps!(ExtentList)
            } else {
                gaps!(RefcountList)
            };
            [
                part(0, gaps!(RefcountBlock)),
                part(REFCOUNT_BODY, list),
                None,
            ]
        }
        signature if *signature == SUPER_BLOCK_SIGNATURE => [
            part(0, gaps!(Dinode)),
            part(SUPER_BLOCK_BODY, gaps!(SuperBlock)),
            None,
        ],
        _ => {
            let end = bytes.len().saturating_sub(DIR_TRAILER);
            let trailer = DirBlockTrailer::ref_from_bytes(bytes.get(end..).unwrap_or_default())
                .is_ok_and(|trailer| trailer.db_signature == DIR_TRAILER_SIGNATURE);
            [
                part(end, gaps!(DirBlockTrailer)).filter(|_| trailer),
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
    let gaps = if flags.contains(InodeFlags::CHAIN) {
        gaps!(ChainList)
    } else if flags.contains(InodeFlags::LOCAL_ALLOC) {
        gaps!(LocalAlloc)
    } else if flags.contains(InodeFlags::DEALLOC) {
        gaps!(TruncateLog)
    } else if inode.dyn_features().contains(DynFeatures::INLINE_DATA) {
        // The driver leaves in the head of inline data what stood there before.
        return None;
    } else if inode.has_extents() {
        gaps!(ExtentList)
    } else {
        return None;
    };
    Some((DINODE_HEAD, gaps))
}

/// The bytes of a reserved field of a structure that begins at `at`.
fn place(at: usize, &(offset, len, _): &Gap) -> Range<usize> {
    at + offset..at + offset + len
}

/// Tells of a block with something in its reserved fields.
pub(crate) fn check(out: &mut Out, at: At, bytes: &[u8]) {
    for (start, gaps) in parts(bytes).into_iter().flatten() {
        let is_set = |gap: &&Gap| {
            let field = bytes.get(place(start, gap)).unwrap_or_default();
            field.iter().any(|byte| *byte != 0)
        };
        if let Some((_, _, field)) = gaps.iter().find(is_set) {
            return out.find(at, VolumeProblem::Reserved { field });
        }
    }
}

/// Clears the reserved fields of a block.
pub(crate) fn clear(bytes: &mut [u8]) {
    for (start, gaps) in parts(bytes).into_iter().flatten() {
        for gap in gaps {
            if let Some(field) = bytes.get_mut(place(start, gap)) {
                field.fill(0);
            }
        }
    }
}
