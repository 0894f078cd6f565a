//! Extended attributes of files that are changed: copied to a clone, set, removed.

mod copy;
mod pack;
mod set;

pub(super) use copy::copy;
pub(super) use set::remove_all;
pub use set::{remake_xattrs, remove_xattr, set_xattr, set_xattrs};

use zerocopy::IntoBytes;

use crate::ecc;
use crate::error::Result;
use crate::layout::{
    BUCKET_CHECK, Dinode, ExtentList, ExtentRec, Incompat, XattrBlock, XattrValueRoot,
};
use crate::read::extent::Extent;
use crate::txn::{Edit, Txn};
use crate::units::{BlockNo, low16};

/// Bytes of a value's root: its head and a list of one record.
const VALUE_ROOT: usize = 48;

/// The root of a value with these extents: one stands in the root, more stand in a leaf.
fn value_root(txn: &mut Txn<'_>, extents: &[Extent]) -> Result<[u8; VALUE_ROOT]> {
    let clusters: u32 = extents.iter().map(|e| e.clusters).sum();
    let (depth, last_eb, rec) = match extents {
        [] => (0u16, 0, None),
        [one] => {
            let count = low16(one.clusters.into());
            (
                0,
                0,
                Some(ExtentRec::leaf(one.cpos, count, one.blkno.0, one.flags)),
            )
        }
        many => {
            let leaf = txn.new_value_leaf(many)?;
            (1, leaf.0, Some(ExtentRec::interior(0, clusters, leaf.0)))
        }
    };
    let head = XattrValueRoot {
        xr_clusters: clusters.into(),
        xr_reserved0: 0.into(),
        xr_last_eb_blk: last_eb.into(),
    };
    let list = ExtentList {
        l_tree_depth: depth.into(),
        l_count: 1.into(),
        l_next_free_rec: u16::from(rec.is_some()).into(),
        l_reserved1: 0.into(),
        l_reserved2: 0.into(),
    };
    let mut root = [0; VALUE_ROOT];
    root[..16].copy_from_slice(head.as_bytes());
    root[16..32].copy_from_slice(list.as_bytes());
    if let Some(rec) = rec {
        root[32..].copy_from_slice(rec.as_bytes());
    }
    Ok(root)
}

/// A bucket's check covers all of its blocks.
fn ecc_of_bucket(txn: &Txn<'_>, bucket: &mut [u8]) {
    if txn.info().has(Incompat::META_ECC) {
        ecc::stamp(bucket, BUCKET_CHECK);
    }
}

/// Gives an inode an xattr block, still empty.
fn new_block(txn: &mut Txn<'_>, inode: BlockNo) -> Result<BlockNo> {
    let sub = txn.alloc_metadata()?;
    let generation = txn.info().fs_generation.0;
    let mut block: Edit<'_, XattrBlock> = txn.fresh(sub.blkno, Some(0x18));
    block.xb_signature = *b"XATTR01\0";
    block.xb_suballoc_slot = sub.slot.0.into();
    block.xb_suballoc_bit = sub.bit.into();
    block.xb_suballoc_loc = sub.group.0.into();
    block.xb_fs_generation = generation.into();
    block.xb_blkno = sub.blkno.0.into();
    txn.edit::<Dinode>(inode)?.i_xattr_loc = sub.blkno.0.into();
    Ok(sub.blkno)
}
