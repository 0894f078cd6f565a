//! Images of metadata blocks in a journal: each shown as its block would be, from its bytes alone.
//!
//! An image is what the block was when its transaction was committed, so nothing that it points to
//! is followed: that may be something else today.

use std::io::{self, Write};

use cowfs_format::block::{self, BlockBuf, Checked, MetaBlock, View};
use cowfs_format::dump::BlockKind;
use cowfs_format::error::{Error, FaultKind};
use cowfs_format::layout::{
    Dinode, DxLeaf, DxRoot, EXTENT_BLOCK_LIST, ExtentBlock, GroupDesc, RefcountBlock,
    XATTR_BLOCK_BODY, XattrBlock,
};
use cowfs_format::read::extent::ListView;
use cowfs_format::read::xattr::{self, Place};
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use super::index::{Leaf, Root};
use super::inode::Stat;
use super::list::DirBlock;
use super::parts::TreeBlock;
use super::refcount::Block;
use super::space::Group;
use super::xattr::Area;
use crate::report::{Page, Text};

/// What a block of a log is an image of.
#[derive(JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum Image {
    Inode(Box<Stat>),
    Extents(TreeBlock),
    Group(Group),
    Directory(DirBlock),
    Xattrs(Area),
    /// A root of a tree of buckets, of which nothing else is shown.
    XattrTree {
        blkno: u64,
        tree: bool,
    },
    Refcounts(Block),
    IndexRoot(Root),
    IndexLeaf(Leaf),
}

/// Name of a kind of image, as debugfs.ocfs2 calls it; `None` for what is no metadata.
pub(super) const fn title(kind: BlockKind) -> Option<&'static str> {
    Some(match kind {
        BlockKind::SuperBlock | BlockKind::Dinode => "Inode",
        BlockKind::ExtentBlock => "Extent",
        BlockKind::GroupDesc => "Group",
        BlockKind::DirBlock => "Dirblock",
        BlockKind::XattrBlock => "Xattr",
        BlockKind::RefcountBlock => "Refcount",
        BlockKind::DxRoot => "DxRoot",
        BlockKind::DxLeaf => "DxLeaf",
        _ => return None,
    })
}

fn checked<B: MetaBlock>(view: View<'_>, bytes: &[u8]) -> Result<Checked<'static, B>, Error> {
    let home = B::ref_from_prefix(bytes).map_or(0, |(head, _)| head.own_blkno());
    let buf = BlockBuf::Owned(bytes.into());
    Ok(block::decode(buf, BlockNo(home), view.info())?)
}

impl Image {
    /// What the bytes are an image of; an error when they are damaged.
    pub(super) fn of(
        view: View<'_>,
        kind: BlockKind,
        bytes: &[u8],
        faults: &mut Vec<Error>,
    ) -> Result<Option<Self>, Error> {
        let cut = || Error::from(FaultKind::OutOfVolume.at(BlockNo(0)));
        Ok(Some(match kind {
            BlockKind::SuperBlock => {
                let (head, _) = Dinode::ref_from_prefix(bytes).map_err(|_| cut())?;
                Self::Inode(Box::new(Stat::superblock(head)))
            }
            BlockKind::Dinode => {
                let inode = checked::<Dinode>(view, bytes)?;
                Self::Inode(Box::new(Stat::whole(view, &inode, false, faults)))
            }
            BlockKind::ExtentBlock => {
                let block = checked::<ExtentBlock>(view, bytes)?;
                let space = block.bytes().get(EXTENT_BLOCK_LIST..).unwrap_or_default();
                let list = ListView::parse(space).ok_or_else(cut)?;
                Self::Extents(TreeBlock::of(&block, list))
            }
            BlockKind::GroupDesc => Self::Group(Group::of(&checked::<GroupDesc>(view, bytes)?)),
            BlockKind::DirBlock => Self::Directory(DirBlock::alone(bytes, faults).ok_or_else(cut)?),
            BlockKind::XattrBlock => {
                let block = checked::<XattrBlock>(view, bytes)?;
                if xattr::is_indexed(&block) {
                    let (blkno, tree) = (block.blkno().0, true);
                    return Ok(Some(Self::XattrTree { blkno, tree }));
                }
                let area = block.bytes().get(XATTR_BLOCK_BODY..).unwrap_or_default();
                Self::Xattrs(Area::of(None, Place::Block(block.blkno()), area, faults))
            }
            BlockKind::RefcountBlock => {
                Self::Refcounts(Block::of(&checked::<RefcountBlock>(view, bytes)?))
            }
            BlockKind::DxRoot => Self::IndexRoot(Root::of(&checked::<DxRoot>(view, bytes)?)),
            BlockKind::DxLeaf => Self::IndexLeaf(Leaf::of(&checked::<DxLeaf>(view, bytes)?)),
            _ => return Ok(None),
        }))
    }
}

impl Text for Image {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self {
            Self::Inode(stat) => stat.text(page),
            Self::Extents(block) => block.lines(page),
            Self::Group(group) => group.lines(page, 0),
            Self::Directory(block) => block.lines(page),
            Self::Xattrs(area) => area.lines(page, true),
            Self::XattrTree { blkno, .. } => {
                writeln!(page, "\tRoot of a tree of buckets: {blkno}")
            }
            Self::Refcounts(block) => block.lines(page),
            Self::IndexRoot(root) => root.text(page),
            Self::IndexLeaf(leaf) => leaf.text(page),
        }
    }
}
