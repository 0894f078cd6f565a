//! Whether the contents of a block make sense.
//!
//! An explanation of damage that goes beyond the one bit of the Hamming code may be a coincidence
//! (see [`crate::ecc::explanations`]). It is believed only when the block that it leads to could have
//! been written: what must hold of a kind of block, whatever volume it is of, is asked here. That a
//! block makes no sense is no finding; a checker says what is wrong with it in its own words.

use std::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::VolumeInfo;
use crate::ecc::{CHECK_BYTES, Flips};
use crate::layout::{
    ChainList, ChainRec, DINODE_HEAD, DIR_TRAILER, DIRENT_HEAD, DX_INLINE, DX_LEAF_LIST,
    DX_ROOT_BODY, Dinode, DirBlockTrailer, DirEntry, DiskDqblk, DxEntry, DxEntryList, DxLeaf,
    DxRoot, DynFeatures, EXTENT_BLOCK_LIST, ExtentBlock, ExtentFlags, ExtentList, ExtentRec, Field,
    FileType, GLOBAL_QUOTA_MAGIC, GROUP_BITMAP, GlobalQuotaInfo, GroupDesc, HashKind, InlineData,
    InodeFlags, Kind, LOCAL_QUOTA_MAGIC, LocalDqblk, LocalQuotaChunk, LocalQuotaInfo,
    MAX_TREE_DEPTH, QuotaLeaf, REFCOUNT_BODY, REFCOUNT_TREE, RefcountBlock, RefcountList,
    RefcountRec, XATTR_BLOCK_BODY, XATTR_INDEXED, XATTR_LOCAL_MAX, XattrBlock, XattrEntry,
    XattrHeader, XattrTreeRoot, dirent_bytes, xattr_hash, xattr_prefix,
};
use crate::units::{BlockNo, index};

/// Bytes on each side of a flipped bit that tell whether it stands alone.
const AROUND: usize = 16;

/// A block as an explanation has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sense<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) info: &'a VolumeInfo,
    pub(super) flips: Flips,
}

/// A head and how many records behind it are in use, of how many that fit.
struct List<'a, H, R> {
    head: &'a H,
    recs: &'a [R],
}

impl<'a, H, R> List<'a, H, R>
where
    H: FromBytes + Immutable + KnownLayout + zerocopy::Unaligned,
    R: FromBytes + Immutable + KnownLayout + zerocopy::Unaligned,
{
    /// The list at the start of `space`, when its counts are possible.
    fn parse(space: &'a [u8], counts: impl Fn(&H) -> (u16, u16)) -> Option<Self> {
        let (head, rest) = H::ref_from_prefix(space).ok()?;
        let (used, count) = counts(head);
        let (used, count) = (usize::from(used), usize::from(count));
        let room = rest.len() / size_of::<R>();
        let recs = rest.get(..used.checked_mul(size_of::<R>())?)?;
        let recs = <[R]>::ref_from_bytes(recs).ok()?;
        (used <= count && count <= room).then_some(Self { head, recs })
    }

    /// Bytes in use.
    fn len(&self) -> usize {
        size_of::<H>() + size_of_val(self.recs)
    }
}

/// What the records of an extent list lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// Runs of clusters.
    Clusters,
    /// Blocks.
    Blocks,
}

impl Sense<'_> {
    /// Whether a metadata block makes sense, by its signature.
    pub(super) fn block(self) -> bool {
        let made = match self.bytes.get(..8) {
            Some(b"INODE01\0") => self.inode(),
            Some(b"EXBLK01\0") => self.extent_block(),
            Some(b"GROUP01\0") => self.group(),
            Some(b"DXDIR01\0") => self.dx_root(),
            Some(b"DXLEAF1\0") => self.dx_leaf(),
            Some(b"XATTR01\0") => self.xattr_block(),
            Some(b"REFCNT1\0") => self.refcount_block(),
            _ => None,
        };
        made.is_some()
    }

    /// Whether a bucket of attributes makes sense.
    pub(super) fn bucket(self) -> bool {
        self.attributes(0..self.bytes.len(), true).is_some()
    }

    /// Whether a block of a quota file makes sense: as any of the kinds that there are.
    pub(super) fn quota(self) -> bool {
        let Some(end) = self.bytes.len().checked_sub(CHECK_BYTES) else {
            return false;
        };
        let bytes = &self.bytes[..end];
        let sense = quota_head(bytes) || self.quota_references(bytes) || self.quota_entries(bytes);
        (sense || quota_changes(bytes) || quota_chunk(bytes))
            && self.quiet_within(0..end, size_of::<DiskDqblk>()).is_some()
    }

    /// Whether it is a block of references to other blocks of the file.
    fn quota_references(self, bytes: &[u8]) -> bool {
        let (numbers, _) = bytes.as_chunks();
        let blocks = self.info.geo.blocks();
        let within = |number: &[u8; 4]| u64::from(u32::from_le_bytes(*number)) < blocks;
        numbers.iter().all(within)
    }

    /// Whether it is a block of usage and limits, as many as it says.
    fn quota_entries(self, bytes: &[u8]) -> bool {
        let Ok((head, rest)) = QuotaLeaf::ref_from_prefix(bytes) else {
            return false;
        };
        let blocks = self.info.geo.blocks();
        let (mut used, clear) = (0, |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0));
        let sense = rest.chunks(size_of::<DiskDqblk>()).all(|bytes| {
            let Ok(entry) = DiskDqblk::ref_from_bytes(bytes) else {
                return clear(bytes);
            };
            used += u16::from(!clear(bytes));
            entry.dqb_pad1.get() == 0 && entry.dqb_pad2.get() == 0
        });
        sense
            && used == head.dqdh_entries.get()
            && (head.dqdh_pad1.get(), head.dqdh_pad2.get()) == (0, 0)
            && u64::from(head.dqdh_next_free.get()) < blocks
            && u64::from(head.dqdh_prev_free.get()) < blocks
    }

    /// Whether a directory block with a trailer makes sense.
    pub(super) fn dir_block(self, blkno: BlockNo, directory: Option<BlockNo>) -> bool {
        let Some(end) = self.bytes.len().checked_sub(DIR_TRAILER) else {
            return false;
        };
        let Ok(trailer) = DirBlockTrailer::ref_from_bytes(&self.bytes[end..]) else {
            return false;
        };
        let own = trailer.db_signature == crate::layout::DIR_TRAILER_SIGNATURE
            && trailer.db_blkno.get() == blkno.0
            && directory.is_none_or(|directory| trailer.db_parent_dinode.get() == directory.0)
            && trailer.db_compat_inode.get() == 0
            && usize::from(trailer.db_compat_rec_len.get()) == DIR_TRAILER
            && trailer.db_compat_name_len == 0
            && self.in_volume(trailer.db_free_next.get())
            && usize::from(trailer.db_free_rec_len.get()) <= end;
        own && self.reserved(DirBlockTrailer::FIELDS, end).is_some() && self.entries(0..end)
    }

    /// A block number that may be there: 0, or one of the volume.
    fn in_volume(self, blkno: u64) -> bool {
        blkno == 0 || self.info.geo.contains(BlockNo(blkno), 1)
    }

    /// Whether the correction sets no bit in this range that stands alone among zeros. What is not in
    /// use is zero or left over from something; a lone bit is neither.
    fn quiet(self, range: Range<usize>) -> Option<()> {
        self.quiet_within(range, AROUND)
    }

    fn quiet_within(self, range: Range<usize>, around: usize) -> Option<()> {
        let lone = self.flips.bits().any(|bit| {
            let at = bit / 8;
            if !range.contains(&at)
                || self
                    .bytes
                    .get(at)
                    .is_none_or(|byte| byte >> (bit % 8) & 1 == 0)
            {
                return false;
            }
            let near = at.saturating_sub(around).max(range.start)..(at + around).min(range.end);
            near.filter(|near| self.flips.bits().all(|bit| bit / 8 != *near))
                .all(|near| self.bytes.get(near) == Some(&0))
        });
        (!lone).then_some(())
    }

    /// Whether the reserved fields of a structure at `at` are zero.
    fn reserved(self, fields: &[Field], at: usize) -> Option<()> {
        is_reserved_clear(fields, self.bytes.get(at..)?).then_some(())
    }

    fn inode(self) -> Option<()> {
        let (inode, _) = Dinode::ref_from_prefix(self.bytes).ok()?;
        let flags = InodeFlags::from_bits(inode.i_flags.get())?;
        let dynamic = DynFeatures::from_bits(inode.i_dyn_features.get())?;
        let second = 1_000_000_000;
        let times = [inode.i_atime_nsec, inode.i_ctime_nsec, inode.i_mtime_nsec];
        let sane = times.iter().all(|nanos| nanos.get() < second)
            && self.reserved(Dinode::FIELDS, 0).is_some()
            && [inode.i_xattr_loc, inode.i_last_eb_blk, inode.i_dx_root]
                .iter()
                .chain([&inode.i_refcount_loc, &inode.i_suballoc_loc])
                .all(|blkno| self.in_volume(blkno.get()));
        let kind = inode.file_type().filter(|_| sane)?;
        let mut end = self.bytes.len();
        if dynamic.contains(DynFeatures::INLINE_XATTR) {
            let start = end.checked_sub(inode.inline_xattr_bytes())?;
            if start < DINODE_HEAD || inode.inline_xattr_bytes() < size_of::<XattrHeader>() {
                return None;
            }
            self.attributes(start..end, false)?;
            end = start;
        }
        let body = self.bytes.get(DINODE_HEAD..end)?;
        let used = if flags.contains(InodeFlags::CHAIN) {
            self.chains(body)?
        } else if flags.intersects(InodeFlags::LOCAL_ALLOC | InodeFlags::DEALLOC) {
            return Some(());
        } else if dynamic.contains(DynFeatures::INLINE_DATA) {
            self.inline(inode, kind, end)?
        } else if inode.has_extents() {
            self.extents(DINODE_HEAD..end, Leads::Clusters)?
        } else if kind == FileType::Symlink {
            let len = index(inode.i_size.get());
            let name = body.get(..len)?;
            if name.contains(&0) || body.get(len) != Some(&0) {
                return None;
            }
            len + 1
        } else {
            // Devices have an empty list of extents here.
            size_of::<ExtentList>()
        };
        self.quiet(DINODE_HEAD + used..end)
    }

    /// Bytes in use of data in an inode.
    fn inline(self, inode: &Dinode, kind: FileType, end: usize) -> Option<usize> {
        let start = DINODE_HEAD + size_of::<InlineData>();
        let (head, _) = InlineData::ref_from_prefix(self.bytes.get(DINODE_HEAD..)?).ok()?;
        let (room, size) = (usize::from(head.id_count.get()), index(inode.i_size.get()));
        self.reserved(InlineData::FIELDS, DINODE_HEAD)?;
        if inode.i_clusters.get() != 0 || size > room || start + room > end {
            return None;
        }
        if kind == FileType::Directory && !self.entries(start..start + size) {
            return None;
        }
        Some(size_of::<InlineData>() + size)
    }

    fn chains(self, body: &[u8]) -> Option<usize> {
        let list = List::<ChainList, ChainRec>::parse(body, |head| {
            (head.cl_next_free_rec.get(), head.cl_count.get())
        })?;
        self.reserved(ChainList::FIELDS, DINODE_HEAD)?;
        let sane = list
            .recs
            .iter()
            .all(|chain| chain.c_free <= chain.c_total && self.in_volume(chain.c_blkno.get()));
        (sane && list.head.cl_cpg.get() > 0 && list.head.cl_bpc.get() > 0).then(|| list.len())
    }

    /// Bytes in use of an extent list.
    fn extents(self, range: Range<usize>, leads: Leads) -> Option<usize> {
        let list = List::<ExtentList, ExtentRec>::parse(self.bytes.get(range.clone())?, |head| {
            (head.l_next_free_rec.get(), head.l_count.get())
        })?;
        self.reserved(ExtentList::FIELDS, range.start)?;
        let depth = list.head.l_tree_depth.get();
        let geo = &self.info.geo;
        let mut end = 0;
        for rec in list.recs {
            let (start, blkno) = (u64::from(rec.e_cpos.get()), BlockNo(rec.e_blkno.get()));
            let len = match depth {
                0 => u64::from(rec.e_leaf_clusters.get()),
                _ => u64::from(rec.int_clusters()),
            };
            let empty = len == 0 && blkno.0 == 0;
            let sane = empty
                || (start >= end
                    && start + len <= 1 << 32
                    && match (depth, leads) {
                        (0, Leads::Clusters) => {
                            geo.is_cluster_aligned(blkno)
                                && geo
                                    .contains(blkno, len << (geo.cluster_bits() - geo.block_bits()))
                        }
                        _ => geo.contains(blkno, 1),
                    }
                    && (depth > 0
                        || rec.e_reserved1 == 0 && ExtentFlags::from_bits(rec.e_flags).is_some()));
            if !sane || depth > MAX_TREE_DEPTH {
                return None;
            }
            // Interior records need not reach to the next one, and the last may say more.
            end = if depth == 0 {
                end.max(start + len)
            } else {
                start
            };
        }
        Some(list.len())
    }

    fn extent_block(self) -> Option<()> {
        let (head, _) = ExtentBlock::ref_from_prefix(self.bytes).ok()?;
        let used = self.extents(EXTENT_BLOCK_LIST..self.bytes.len(), Leads::Clusters);
        // The leaves of a refcount tree lead to blocks.
        let used =
            used.or_else(|| self.extents(EXTENT_BLOCK_LIST..self.bytes.len(), Leads::Blocks))?;
        let links = [head.h_next_leaf_blk, head.h_suballoc_loc];
        links
            .iter()
            .all(|blkno| self.in_volume(blkno.get()))
            .then_some(())?;
        self.quiet(EXTENT_BLOCK_LIST + used..self.bytes.len())
    }

    fn group(self) -> Option<()> {
        let (head, _) = GroupDesc::ref_from_prefix(self.bytes).ok()?;
        self.reserved(GroupDesc::FIELDS, 0)?;
        let bits = usize::from(head.bg_bits.get());
        let room = usize::from(head.bg_size.get());
        let bitmap = self.bytes.get(GROUP_BITMAP..)?.get(..room)?;
        let (whole, rest) = bitmap.split_at_checked(bits / 8)?;
        let part = rest
            .first()
            .map_or(0, |byte| byte & !(u8::MAX << (bits % 8)));
        let set: u32 = whole
            .iter()
            .chain([&part])
            .map(|byte| byte.count_ones())
            .sum();
        let free = u32::from(head.bg_free_bits_count.get());
        let sane = bits.div_ceil(8) <= room
            && u64::from(free) + u64::from(set) == bits as u64
            && bitmap.first().is_some_and(|byte| byte & 1 == 1)
            && head.bg_parent_dinode.get() != 0
            && [head.bg_next_group, head.bg_parent_dinode]
                .iter()
                .all(|blkno| self.in_volume(blkno.get()));
        sane.then_some(())?;
        self.quiet(GROUP_BITMAP + bits.div_ceil(8)..self.bytes.len())
    }

    /// Bytes in use of a list of index entries.
    fn names(self, range: Range<usize>) -> Option<usize> {
        let list = List::<DxEntryList, DxEntry>::parse(self.bytes.get(range.clone())?, |head| {
            (head.de_num_used.get(), head.de_count.get())
        })?;
        self.reserved(DxEntryList::FIELDS, range.start)?;
        let lead = |entry: &DxEntry| {
            let blkno = entry.dx_dirent_blk.get();
            blkno != 0 && self.in_volume(blkno)
        };
        list.recs.iter().all(lead).then(|| list.len())
    }

    fn dx_root(self) -> Option<()> {
        let (head, _) = DxRoot::ref_from_prefix(self.bytes).ok()?;
        self.reserved(DxRoot::FIELDS, 0)?;
        let links = [
            head.dr_last_eb_blk,
            head.dr_dir_blkno,
            head.dr_free_blk,
            head.dr_suballoc_loc,
        ];
        let sane = head.dr_flags & !DX_INLINE == 0
            && head.dr_dir_blkno.get() != 0
            && links.iter().all(|blkno| self.in_volume(blkno.get()));
        sane.then_some(())?;
        let body = DX_ROOT_BODY..self.bytes.len();
        let used = if head.dr_flags & DX_INLINE != 0 {
            self.names(body.clone())?
        } else {
            self.extents(body.clone(), Leads::Clusters)?
        };
        self.quiet(body.start + used..body.end)
    }

    fn dx_leaf(self) -> Option<()> {
        self.reserved(DxLeaf::FIELDS, 0)?;
        let used = self.names(DX_LEAF_LIST..self.bytes.len())?;
        self.quiet(DX_LEAF_LIST + used..self.bytes.len())
    }

    fn refcount_block(self) -> Option<()> {
        let (head, _) = RefcountBlock::ref_from_prefix(self.bytes).ok()?;
        self.reserved(RefcountBlock::FIELDS, 0)?;
        let links = [head.rf_parent, head.rf_last_eb_blk, head.rf_suballoc_loc];
        links
            .iter()
            .all(|blkno| self.in_volume(blkno.get()))
            .then_some(())?;
        let body = REFCOUNT_BODY..self.bytes.len();
        let used = if head.rf_flags.get() & REFCOUNT_TREE != 0 {
            self.extents(body.clone(), Leads::Blocks)?
        } else {
            let space = self.bytes.get(body.clone())?;
            let list = List::<RefcountList, RefcountRec>::parse(space, |head| {
                (head.rl_used.get(), head.rl_count.get())
            })?;
            self.reserved(RefcountList::FIELDS, body.start)?;
            let mut end = 0;
            for rec in list.recs {
                let (start, len) = (rec.r_cpos.get(), u64::from(rec.r_clusters.get()));
                let clusters = u64::from(self.info.geo.clusters());
                let sane = start >= end && len > 0 && start < clusters && len <= clusters - start;
                (sane && rec.r_refcount.get() > 0).then_some(())?;
                end = start + len;
            }
            list.len()
        };
        self.quiet(body.start + used..body.end)
    }

    fn xattr_block(self) -> Option<()> {
        let (head, _) = XattrBlock::ref_from_prefix(self.bytes).ok()?;
        self.reserved(XattrBlock::FIELDS, 0)?;
        self.in_volume(head.xb_suballoc_loc.get()).then_some(())?;
        match head.xb_flags.get() {
            0 => self.attributes(XATTR_BLOCK_BODY..self.bytes.len(), false),
            XATTR_INDEXED => {
                self.reserved(XattrTreeRoot::FIELDS, XATTR_BLOCK_BODY)?;
                let list = XATTR_BLOCK_BODY + size_of::<XattrTreeRoot>()..self.bytes.len();
                let used = self.extents(list.clone(), Leads::Clusters)?;
                self.quiet(list.start + used..list.end)
            }
            _ => None,
        }
    }

    /// A set of attributes: each has the hash of its name.
    fn attributes(self, range: Range<usize>, bucket: bool) -> Option<()> {
        let space = self.bytes.get(range.clone())?;
        let (head, rest) = XattrHeader::ref_from_prefix(space).ok()?;
        let used = usize::from(head.xh_count.get()) * size_of::<XattrEntry>();
        let entries = <[XattrEntry]>::ref_from_bytes(rest.get(..used)?).ok()?;
        let floor = size_of::<XattrHeader>() + used;
        let (mut lowest, mut previous) = (space.len(), 0);
        for entry in entries {
            let offset = usize::from(entry.xe_name_offset.get());
            let name = space.get(offset..offset + usize::from(entry.xe_name_len))?;
            let (size, hash) = (entry.xe_value_size.get(), entry.xe_name_hash.get());
            let local = entry.xe_type & 0x80 != 0;
            let behind = if local {
                index(size)
            } else {
                size_of::<ExtentList>()
            };
            let kinds = [HashKind::Signed, HashKind::Unsigned];
            let sane = offset >= floor
                && xattr_prefix(entry.xe_type).is_some()
                && local == (size <= XATTR_LOCAL_MAX)
                && offset + name.len() + behind <= space.len()
                && kinds
                    .into_iter()
                    .any(|kind| xattr_hash(name, self.info.dx_seed[3], kind) == hash)
                && (!bucket || previous <= hash);
            sane.then_some(())?;
            lowest = lowest.min(offset);
            previous = hash;
        }
        if bucket && usize::from(head.xh_free_start.get()) > lowest {
            return None;
        }
        self.quiet(range.start + floor..range.start + lowest)
    }

    /// Whether a range of bytes is full of directory entries that can be.
    fn entries(self, range: Range<usize>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let rest = self.bytes.get(at..range.end).unwrap_or_default();
            let Ok((head, tail)) = DirEntry::ref_from_prefix(rest) else {
                return false;
            };
            let (rec_len, name_len) = (usize::from(head.rec_len.get()), usize::from(head.name_len));
            if rec_len < dirent_bytes(1) || !rec_len.is_multiple_of(4) || rec_len > rest.len() {
                return false;
            }
            if head.inode.get() != 0 {
                let name = tail.get(..name_len).unwrap_or_default();
                let sane = rec_len >= dirent_bytes(name_len)
                    && (1..=7).contains(&head.file_type)
                    && self.in_volume(head.inode.get())
                    && !name.is_empty()
                    && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
                let end = at + dirent_bytes(name_len);
                if !sane || self.quiet(end..at + rec_len).is_none() {
                    return false;
                }
            } else if self.quiet(at + DIRENT_HEAD..at + rec_len).is_none() {
                return false;
            }
            at += rec_len;
        }
        at == range.end
    }
}

/// Whether the reserved fields of a structure are zero.
pub(super) fn is_reserved_clear(fields: &[Field], structure: &[u8]) -> bool {
    let mut reserved = fields
        .iter()
        .filter(|field| matches!(field.kind, Kind::Reserved));
    reserved.all(|field| field.bytes(structure).iter().all(|byte| *byte == 0))
}

/// Whether it is the first block of a quota file. Behind its head there may be what the block held
/// before: the driver does not clear it.
fn quota_head(bytes: &[u8]) -> bool {
    let is_global = GlobalQuotaInfo::ref_from_prefix(bytes).is_ok_and(|(head, _)| {
        GLOBAL_QUOTA_MAGIC.contains(&head.dqh_magic.get())
            && head.dqh_version.get() == 0
            && head.dqi_free_blk < head.dqi_blocks
            && head.dqi_free_entry < head.dqi_blocks
    });
    let is_local = LocalQuotaInfo::ref_from_prefix(bytes).is_ok_and(|(head, _)| {
        LOCAL_QUOTA_MAGIC.contains(&head.dqh_magic.get())
            && head.dqh_version.get() == 0
            && head.dqi_flags.get() <= 1
            && head.dqi_chunks < head.dqi_blocks
    });
    is_global || is_local
}

/// Whether it is a block of changes of usage: an id has 32 bits, and a change of the number of inodes
/// is no large number.
fn quota_changes(bytes: &[u8]) -> bool {
    let (changes, _) = bytes.as_chunks::<{ size_of::<LocalDqblk>() }>();
    changes.iter().all(|bytes| {
        LocalDqblk::ref_from_bytes(bytes).is_ok_and(|change| {
            let inodes = change.dqb_inodemod.get().cast_signed().unsigned_abs();
            change.dqb_id.get() >> 32 == 0 && inodes >> 32 == 0
        })
    })
}

/// Whether it is the head of a chunk of such blocks. A bit is set for each change that is not merged
/// yet, and few are.
fn quota_chunk(bytes: &[u8]) -> bool {
    let Ok((head, bitmap)) = LocalQuotaChunk::ref_from_prefix(bytes) else {
        return false;
    };
    let set: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    set <= 64 && index(head.dqc_free.get().into()) <= bitmap.len() * 8
}
