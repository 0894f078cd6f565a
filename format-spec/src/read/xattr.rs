//! Extended attributes, in the three places where they can be.
//!
//! A set of entries (an *area*) stands at the end of the inode, in a block of its own, or in the
//! buckets of a tree. An area begins with a header; names and values stand behind the entries, at
//! offsets from the header. Values of more than 80 bytes stand outside, in clusters of their own.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::{BlockBuf, Checked, EccState, View};
use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    Dinode, XATTR_BLOCK_BODY, XATTR_BUCKET, XATTR_INDEXED, XattrBlock, XattrEntry, XattrHeader,
    XattrTreeRoot, XattrValueRoot, xattr_prefix,
};
use crate::read::extent::{self, Extent};
use crate::units::{BlockNo, index};

/// Largest value that any driver makes.
pub const VALUE_MAX: u64 = 65536;

/// Where an area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the end of the inode.
    Inode(BlockNo),
    /// In a block of its own.
    Block(BlockNo),
    /// In a bucket of a tree; its first block.
    Bucket(BlockNo),
}

impl Place {
    /// First block of the area.
    #[must_use]
    pub const fn blkno(self) -> BlockNo {
        match self {
            Self::Inode(blkno) | Self::Block(blkno) | Self::Bucket(blkno) => blkno,
        }
    }
}

/// An attribute.
#[derive(Clone, Copy, Debug)]
pub struct Xattr<'a> {
    /// Its entry.
    pub entry: &'a XattrEntry,
    /// Its name without the prefix.
    pub suffix: &'a [u8],
    /// Its value, or where that is.
    pub value: Stored<'a>,
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// The value itself.
    Here(&'a [u8]),
    /// The root of the value's clusters, and the space of its extent list.
    Outside(&'a XattrValueRoot, &'a [u8]),
}

impl Xattr<'_> {
    /// The name with its prefix; an unknown prefix is given as its number.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let kind = self.entry.xe_type & 0x7F;
        let mut name = match xattr_prefix(kind) {
            Some(prefix) => prefix.as_bytes().to_vec(),
            None => format!("{kind}.").into_bytes(),
        };
        name.extend_from_slice(self.suffix);
        name
    }

    /// The extents of a value that stands outside, in block `owner`.
    ///
    /// # Errors
    /// Its extent tree is damaged.
    pub fn extents(&self, view: View<'_>, owner: BlockNo) -> Result<Vec<Extent>> {
        match self.value {
            Stored::Here(_) => Ok(Vec::new()),
            Stored::Outside(_, list) => extent::extents(view, owner, list),
        }
    }

    /// The value, wherever it is.
    ///
    /// # Errors
    /// It is larger than any driver makes it, or its clusters cannot be read.
    pub fn read(&self, view: View<'_>, owner: BlockNo) -> Result<Vec<u8>> {
        if let Stored::Here(bytes) = self.value {
            return Ok(bytes.to_vec());
        }
        let size = self.entry.xe_value_size.get();
        if size > VALUE_MAX {
            let rule = "a value has at most 65536 bytes";
            return Err(wrong("xe_value_size", size, rule).at(owner).into());
        }
        let geo = view.geo();
        let mut value = Vec::with_capacity(index(size));
        for extent in self.extents(view, owner)? {
            let left = size.saturating_sub(value.len() as u64);
            let blocks = geo
                .blocks_for(left)
                .min(u64::from(extent.clusters) * geo.blocks_per_cluster());
            let run = view.run(extent.blkno, index(blocks))?;
            value.extend_from_slice(run.get(..index(left).min(run.len())).unwrap_or_default());
        }
        if (value.len() as u64) < size {
            let rule = "its clusters are fewer than its size asks for";
            return Err(wrong("xe_value_size", size, rule).at(owner).into());
        }
        Ok(value)
    }
}

const fn wrong(field: &'static str, value: u64, rule: &'static str) -> FaultKind {
    FaultKind::Field { field, value, rule }
}

/// The header of an area.
#[must_use]
pub fn header(area: &[u8]) -> Option<&XattrHeader> {
    XattrHeader::ref_from_prefix(area).ok().map(|pair| pair.0)
}

/// The attributes of an area, in order of their entries. One that cannot be is an error; the others
/// follow. When the header counts more entries than fit, an error comes last.
pub fn entries(area: &[u8]) -> impl Iterator<Item = Result<Xattr<'_>, FaultKind>> {
    let count = header(area).map_or(0, |head| usize::from(head.xh_count.get()));
    let heads = area.get(size_of::<XattrHeader>()..).unwrap_or_default();
    let room = heads.len() / size_of::<XattrEntry>();
    let overflow = (count > room).then(|| {
        let rule = "more entries than fit";
        Err(wrong("xh_count", count as u64, rule))
    });
    heads
        .chunks_exact(size_of::<XattrEntry>())
        .take(count)
        .filter_map(|bytes| XattrEntry::ref_from_bytes(bytes).ok())
        .map(move |entry| attribute(area, entry))
        .chain(overflow)
}

fn attribute<'a>(area: &'a [u8], entry: &'a XattrEntry) -> Result<Xattr<'a>, FaultKind> {
    let offset = usize::from(entry.xe_name_offset.get());
    let name_len = usize::from(entry.xe_name_len);
    let outside = |rule| wrong("xe_name_offset", offset as u64, rule);
    let suffix = area
        .get(offset..offset + name_len)
        .ok_or_else(|| outside("the name lies outside of its area"))?;
    let behind = area
        .get(offset + name_len.next_multiple_of(4)..)
        .ok_or_else(|| outside("the value lies outside of its area"))?;
    let value = if entry.xe_type & 0x80 != 0 {
        let bytes = behind
            .get(..index(entry.xe_value_size.get()))
            .ok_or_else(|| outside("the value lies outside of its area"))?;
        Stored::Here(bytes)
    } else {
        let (root, list) = XattrValueRoot::ref_from_prefix(behind)
            .map_err(|_| outside("the root of the value lies outside of its area"))?;
        // One record behind the head of the list.
        let list = list
            .get(..32)
            .ok_or_else(|| outside("the root of the value lies outside of its area"))?;
        Stored::Outside(root, list)
    };
    Ok(Xattr {
        entry,
        suffix,
        value,
    })
}

/// The area at the end of an inode.
#[must_use]
pub fn inline_area<'a>(inode: &'a Checked<'_, Dinode>) -> Option<&'a [u8]> {
    let len = inode.inline_xattr_bytes();
    let bytes = inode.bytes();
    (len > 0)
        .then(|| bytes.get(bytes.len().checked_sub(len)?..))
        .flatten()
}

/// A bucket, after its check was tested over all of its 4096 bytes.
///
/// # Errors
/// The bucket cannot be read or is damaged.
pub fn bucket(view: View<'_>, first: BlockNo) -> Result<(BlockBuf<'_>, EccState)> {
    let (buf, state) = view.bucket(first)?;
    Ok((buf, state.ok_or_else(|| FaultKind::Ecc.at(first))?))
}

/// Whether the block holds the root of a tree of buckets.
#[must_use]
pub fn is_indexed(block: &XattrBlock) -> bool {
    block.xb_flags.get() & XATTR_INDEXED != 0
}

/// The space of the extent list in the root of a tree of buckets.
#[must_use]
pub fn tree_list<'a>(block: &'a Checked<'_, XattrBlock>) -> &'a [u8] {
    let at = XATTR_BLOCK_BODY + size_of::<XattrTreeRoot>();
    block.bytes().get(at..).unwrap_or_default()
}

/// The buckets in use of an extent of a tree: the first one counts them.
///
/// # Errors
/// The first bucket cannot be used.
pub fn buckets(view: View<'_>, extent: &Extent) -> Result<Vec<BlockNo>> {
    let (first, _) = bucket(view, extent.blkno)?;
    let count = header(&first).map_or(0, |head| u64::from(head.xh_num_buckets.get()));
    let blocks = (XATTR_BUCKET >> view.geo().block_bits()) as u64;
    let room = u64::from(extent.clusters) * view.geo().blocks_per_cluster() / blocks.max(1);
    if count > room {
        let rule = "more buckets than the extent has";
        return Err(wrong("xh_num_buckets", count, rule).at(extent.blkno).into());
    }
    Ok((0..count).map(|i| extent.blkno.plus(i * blocks)).collect())
}

/// Is shown each area with its place, or why an area cannot be used.
pub type AreaVisitor<'a> = dyn FnMut(Result<(Place, &[u8])>) -> ControlFlow<()> + 'a;

/// Visits all areas of an inode that hold attributes. A part that cannot be used is an error item;
/// the visitor decides whether to go on.
pub fn for_each_area(view: View<'_>, inode: &Checked<'_, Dinode>, visit: &mut AreaVisitor<'_>) {
    let _ = areas(view, inode, visit);
}

fn areas(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    visit: &mut AreaVisitor<'_>,
) -> ControlFlow<()> {
    if let Some(area) = inline_area(inode) {
        visit(Ok((Place::Inode(inode.blkno()), area)))?;
    }
    let at = inode.i_xattr_loc.get();
    if at == 0 {
        return ControlFlow::Continue(());
    }
    let block = match view.block::<XattrBlock>(BlockNo(at)) {
        Ok(block) => block,
        Err(error) => return visit(Err(error)),
    };
    if !is_indexed(&block) {
        let area = block.bytes().get(XATTR_BLOCK_BODY..).unwrap_or_default();
        return visit(Ok((Place::Block(block.blkno()), area)));
    }
    let mut flow = ControlFlow::Continue(());
    let walked = extent::walk_tree(view, block.blkno(), tree_list(&block), &mut |step| {
        flow = match step {
            extent::TreeStep::List { .. } => ControlFlow::Continue(()),
            extent::TreeStep::Fault { error, .. } => visit(Err(error)),
            extent::TreeStep::Extent(extent) => bucket_areas(view, &extent, visit),
        };
        flow
    });
    match walked {
        Ok(()) => flow,
        Err(error) => visit(Err(error)),
    }
}

fn bucket_areas(view: View<'_>, extent: &Extent, visit: &mut AreaVisitor<'_>) -> ControlFlow<()> {
    let all = match buckets(view, extent) {
        Ok(all) => all,
        Err(error) => return visit(Err(error)),
    };
    for first in all {
        match bucket(view, first) {
            Ok((area, _)) => visit(Ok((Place::Bucket(first), &area)))?,
            Err(error) => visit(Err(error))?,
        }
    }
    ControlFlow::Continue(())
}

/// The names and values of all attributes of an inode.
///
/// # Errors
/// Any of them is damaged.
pub fn all(view: View<'_>, inode: &Checked<'_, Dinode>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut failed: Option<Error> = None;
    for_each_area(view, inode, &mut |area| {
        let taken = area.and_then(|(place, area)| {
            for entry in entries(area) {
                let entry = entry.map_err(|kind| kind.at(place.blkno()))?;
                found.push((entry.name(), entry.read(view, place.blkno())?));
            }
            Ok(())
        });
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    failed.map_or(Ok(found), Err)
}
