//! Extended attributes: in the inode, in a block, in a tree of buckets.

use cowfs_format::block::Checked;
use cowfs_format::layout::{
    Dinode, DynFeatures, HashKind, Incompat, XATTR_BLOCK_BODY, XATTR_BUCKET, XATTR_INDEXED,
    XATTR_LOCAL_MAX, XattrBlock, XattrEntry, XattrHeader, XattrTreeRoot, XattrValueRoot,
    xattr_hash, xattr_prefix,
};
use cowfs_format::read::extent::Extent;
use cowfs_format::units::BlockNo;
use zerocopy::FromBytes;

use super::extents::{self, Tree};
use super::inode::{claim_extent, is_system};
use crate::catalogue::{At, BlockKind, InodeProblem, VolumeProblem, XattrProblem};
use crate::facts::{Cx, Origin, Out, note_ecc};

/// Bit of `xe_type`: the value stands beside the name.
pub(crate) const LOCAL: u8 = 0x80;
/// Bytes of the root of a value: its head, an extent list of one record.
const VALUE_ROOT: usize = size_of::<XattrValueRoot>() + 32;

/// What owns the attributes that are being looked at.
#[derive(Clone, Copy)]
struct Owner<'a, 'v> {
    inode: &'a Checked<'v, Dinode>,
    shared: bool,
}

/// Looks at all attributes of an inode.
pub(crate) fn scan(cx: &Cx<'_>, out: &mut Out, inode: &Checked<'_, Dinode>, shared: bool) {
    let at = At::inode(inode.blkno());
    let dynamic = inode.dyn_features();
    let has = dynamic.contains(DynFeatures::HAS_XATTR);
    let inline = dynamic.contains(DynFeatures::INLINE_XATTR);
    let loc = inode.i_xattr_loc.get();
    if (has || inline || loc != 0) && !cx.view.info().has(Incompat::XATTR) {
        let why = "has attributes on a volume without that feature";
        out.find(at, XattrProblem::Flag { why });
    }
    let owner = Owner { inode, shared };
    if inline {
        let size = inode.inline_xattr_bytes();
        let bytes = inode.bytes();
        let start = bytes
            .len()
            .checked_sub(size)
            .filter(|start| *start >= 0xC0 + 16 && size >= 32);
        match start {
            None => {
                let found = size as u64;
                out.find(at, InodeProblem::InlineXattrSize { found });
            }
            Some(start) => {
                let region = Region {
                    bytes: &bytes[start..],
                    at,
                    bucket: None,
                };
                region.scan(cx, out, owner);
            }
        }
    }
    if loc == 0 {
        return;
    }
    if !has {
        let why = "has a block of attributes but is not marked as having any";
        out.find(at, XattrProblem::Flag { why });
    }
    let blkno = BlockNo(loc);
    let at = At::within(inode.blkno(), blkno);
    let Some(block) = cx.inspect::<XattrBlock>(out, at, blkno, BlockKind::Xattr) else {
        return;
    };
    let origin = Origin {
        slot: block.xb_suballoc_slot.get(),
        bit: block.xb_suballoc_bit.get(),
        loc: block.xb_suballoc_loc.get(),
    };
    cx.claim_meta(out, inode.blkno(), blkno, "xattr block", origin);
    let body = block.bytes().get(XATTR_BLOCK_BODY..).unwrap_or_default();
    if block.xb_flags.get() & XATTR_INDEXED == 0 {
        Region {
            bytes: body,
            at,
            bucket: None,
        }
        .scan(cx, out, owner);
    } else {
        tree(cx, out, owner, blkno, body);
    }
}

/// Looks at a tree of buckets.
fn tree(cx: &Cx<'_>, out: &mut Out, owner: Owner<'_, '_>, root: BlockNo, body: &[u8]) {
    let Ok((head, space)) = XattrTreeRoot::ref_from_prefix(body) else {
        return;
    };
    let inode = owner.inode;
    let spec = Tree {
        owner: inode.blkno(),
        root,
        space,
        last_eb: head.xt_last_eb_blk.get(),
        holes: true,
        shared: false,
        to_blocks: false,
    };
    let mut last_hash = None;
    let sum = extents::walk(cx, out, spec, &mut |out, extent| {
        let first = cx.view.geo().cluster_of(extent.blkno).0;
        cx.claim(
            out,
            inode.blkno(),
            is_system(cx, inode),
            first,
            extent.clusters,
        );
        buckets(cx, out, owner, extent, &mut last_hash);
    });
    if !sum.broken && u64::from(head.xt_clusters.get()) != sum.clusters {
        let (found, expected) = (head.xt_clusters.get(), sum.clusters);
        let at = At::within(inode.blkno(), root);
        out.find(at, InodeProblem::SparseClusters { found, expected });
    }
}

/// Looks at the buckets of an extent.
fn buckets(
    cx: &Cx<'_>,
    out: &mut Out,
    owner: Owner<'_, '_>,
    extent: &Extent,
    last_hash: &mut Option<u32>,
) {
    let geo = cx.view.geo();
    let per_bucket = XATTR_BUCKET >> geo.block_bits();
    let room = (u64::from(extent.clusters) << geo.cluster_bits()) / XATTR_BUCKET as u64;
    let mut number = 1;
    let mut at_bucket = 0;
    while at_bucket < number {
        let blkno = extent.blkno.plus(at_bucket * per_bucket as u64);
        let at = At::within(owner.inode.blkno(), blkno);
        let what = "xattr bucket";
        match cx.view.bucket(blkno) {
            Err(_) => out.find(at, VolumeProblem::Unreadable { what }),
            Ok((bytes, state)) => {
                match state {
                    Some(state) => note_ecc(out, at, what, state),
                    None => out.find(at, VolumeProblem::BadCrc { what }),
                }
                if at_bucket == 0
                    && let Ok((head, _)) = XattrHeader::ref_from_prefix(&bytes)
                {
                    let found = head.xh_num_buckets.get();
                    if found == 0 || u64::from(found) > room {
                        out.find(at, XattrProblem::BucketCount { found, limit: room });
                    }
                    number = u64::from(found).min(room);
                }
                let floor = Some(extent.cpos);
                Region {
                    bytes: &bytes,
                    at,
                    bucket: Some(Bucket { floor, last_hash }),
                }
                .scan(cx, out, owner);
            }
        }
        at_bucket += 1;
    }
}

/// What holds of a bucket besides what holds of any set of attributes.
struct Bucket<'a> {
    /// Least hash that its extent serves.
    floor: Option<u32>,
    /// Highest hash of the buckets before.
    last_hash: &'a mut Option<u32>,
}

/// A set of attributes: a header, entries from the start, names and values from the end.
struct Region<'a> {
    bytes: &'a [u8],
    at: At,
    bucket: Option<Bucket<'a>>,
}

pub(crate) const fn pad(bytes: usize) -> usize {
    (bytes + 3) & !3
}

impl Region<'_> {
    fn scan(mut self, cx: &Cx<'_>, out: &mut Out, owner: Owner<'_, '_>) {
        let Ok((head, rest)) = XattrHeader::ref_from_prefix(self.bytes) else {
            return;
        };
        let found = head.xh_count.get();
        let limit = rest.len() / (size_of::<XattrEntry>() + 4);
        if usize::from(found) > limit {
            let limit = limit as u64;
            out.find(self.at, XattrProblem::CountInvalid { found, limit });
            return;
        }
        let entries_end = size_of::<XattrHeader>() + usize::from(found) * size_of::<XattrEntry>();
        let block = cx.view.geo().block_bytes();
        if self.bucket.is_some() && entries_end > block {
            let limit = (block - size_of::<XattrHeader>()) / size_of::<XattrEntry>();
            let limit = limit as u64;
            out.find(self.at, XattrProblem::BucketFull { found, limit });
        }
        let entries = rest
            .get(..entries_end - size_of::<XattrHeader>())
            .unwrap_or_default();
        let Ok(entries) = <[XattrEntry]>::ref_from_bytes(entries) else {
            return;
        };
        let mut places = Vec::with_capacity(entries.len());
        let mut previous = None;
        for (i, entry) in (0u64..).zip(entries) {
            if let Some(place) = self.entry(cx, out, owner, i, entry, entries_end) {
                places.push((place.0, place.1, i));
            }
            let found = entry.xe_name_hash.get();
            if let Some(bucket) = &self.bucket {
                let after = previous.is_none_or(|previous| previous <= found);
                let above = bucket.floor.is_none_or(|floor| floor <= found);
                let apart = previous.is_some() || bucket.last_hash.is_none_or(|h| h < found);
                if !(after && above && apart) {
                    out.find(self.at, XattrProblem::Order { index: i, found });
                }
            }
            previous = Some(found);
        }
        if let Some(bucket) = &mut self.bucket
            && previous.is_some()
        {
            *bucket.last_hash = previous;
        }
        self.places(cx, out, head, places);
    }

    /// Checks an entry; returns where its name and value lie: start and padded length.
    fn entry(
        &self,
        cx: &Cx<'_>,
        out: &mut Out,
        owner: Owner<'_, '_>,
        index: u64,
        entry: &XattrEntry,
        floor: usize,
    ) -> Option<(usize, usize)> {
        let offset = usize::from(entry.xe_name_offset.get());
        let name_len = usize::from(entry.xe_name_len);
        let name = self
            .bytes
            .get(offset..offset + name_len)
            .filter(|_| offset >= floor);
        let Some(name) = name else {
            let found = entry.xe_name_offset.get();
            out.find(self.at, XattrProblem::NameOffset { index, found });
            return None;
        };
        if xattr_prefix(entry.xe_type).is_none() {
            let why = "its type is none that the format knows";
            out.find(self.at, XattrProblem::EntryInvalid { index, why });
        }
        let seed = cx.view.info().dx_seed[3];
        let found = entry.xe_name_hash.get();
        let kinds = [HashKind::Signed, HashKind::Unsigned];
        if kinds
            .iter()
            .all(|kind| xattr_hash(name, seed, *kind) != found)
        {
            out.find(self.at, XattrProblem::HashInvalid { index, found });
        }
        let size = entry.xe_value_size.get();
        let local = entry.xe_type & LOCAL != 0;
        if local != (size <= XATTR_LOCAL_MAX) {
            out.find(self.at, XattrProblem::LocationInvalid { index, size });
            return None;
        }
        let value_at = offset + pad(name_len);
        let value_len = if local {
            cowfs_format::units::index(size)
        } else {
            VALUE_ROOT
        };
        let Some(value) = self.bytes.get(value_at..value_at + value_len) else {
            let why = "it reaches over the end of its place";
            out.find(self.at, XattrProblem::ValueInvalid { index, why });
            return None;
        };
        if !local {
            self.outside(cx, out, owner, index, value, size);
        }
        Some((offset, pad(name_len) + pad(value_len)))
    }

    /// Checks a value in clusters of its own.
    fn outside(
        &self,
        cx: &Cx<'_>,
        out: &mut Out,
        owner: Owner<'_, '_>,
        index: u64,
        value: &[u8],
        size: u64,
    ) {
        let Ok((head, space)) = XattrValueRoot::ref_from_prefix(value) else {
            return;
        };
        let inode = owner.inode;
        let spec = Tree {
            owner: inode.blkno(),
            root: self.at.block.unwrap_or(inode.blkno()),
            space,
            last_eb: head.xr_last_eb_blk.get(),
            holes: false,
            shared: owner.shared,
            to_blocks: false,
        };
        let sum = extents::walk(cx, out, spec, &mut |out, extent| {
            claim_extent(cx, out, inode, owner.shared, extent);
        });
        if sum.broken {
            return;
        }
        if u64::from(head.xr_clusters.get()) != sum.clusters {
            let why = "its root miscounts its clusters";
            out.find(self.at, XattrProblem::ValueInvalid { index, why });
        }
        if cx.view.geo().clusters_for(size) > sum.clusters {
            let why = "it is longer than its clusters";
            out.find(self.at, XattrProblem::ValueInvalid { index, why });
        }
    }

    /// Compares the places of names and values with each other and with the header.
    fn places(
        &self,
        cx: &Cx<'_>,
        out: &mut Out,
        head: &XattrHeader,
        mut places: Vec<(usize, usize, u64)>,
    ) {
        places.sort_unstable();
        let overlaps = places.windows(2).filter(|w| w[0].0 + w[0].1 > w[1].0);
        for pair in overlaps {
            let (index, why) = (pair[1].2, "its name and value overlap another one's");
            out.find(self.at, XattrProblem::EntryInvalid { index, why });
        }
        if self.bucket.is_none() || places.len() != usize::from(head.xh_count.get()) {
            return;
        }
        let lowest = places.first().map_or(XATTR_BUCKET, |place| place.0) as u64;
        let found = head.xh_free_start.get();
        // Names and values do not cross blocks, so the start may lie below the lowest of them; but not where
        // entries are, nor below the end of a bucket that holds nothing.
        let table = (size_of::<XattrHeader>() + size_of::<XattrEntry>() * places.len()) as u64;
        let least = if places.is_empty() { lowest } else { table };
        if !(least..=lowest).contains(&found.into()) {
            let expected = lowest;
            out.find(self.at, XattrProblem::FreeStart { found, expected });
        }
        let expected: u64 = places.iter().map(|place| place.1 as u64).sum();
        let found = head.xh_name_value_len.get();
        if u64::from(found) != expected {
            out.find(self.at, XattrProblem::ValueLen { found, expected });
        }
        let block = cx.view.geo().block_bytes();
        for (start, len, index) in places {
            if start / block != (start + len.max(1) - 1) / block {
                let why = "its name and value cross the end of a block";
                out.find(self.at, XattrProblem::EntryInvalid { index, why });
            }
        }
    }
}
