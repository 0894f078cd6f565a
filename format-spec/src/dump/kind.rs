//! The kinds of blocks, how they are recognised, and where their parts lie.

use zerocopy::FromBytes;

use super::lay::Lay;
use super::{Name, Value, system};
use crate::block::MetaBlock;
use crate::ecc::CHECK_BYTES;
use crate::layout::jbd2::{
    self, BlockHeader, BlockTag, BlockTag3, Checksums, CommitBlock, JournalSuperBlock, LogForm,
};
use crate::layout::{
    BUCKET_CHECK, ChainList, ChainRec, DINODE_HEAD, DIR_TRAILER, DIR_TRAILER_SIGNATURE,
    DIRENT_HEAD, Dinode, DirBlockTrailer, DirEntry, DxEntry, DxEntryList, DxLeaf, DxRoot,
    DynFeatures, Encoding, ExtendedSlot, ExtentBlock, ExtentList, ExtentRec, ExtentRecInterior,
    FileType, GROUP_BITMAP, GROUP_LIST, GlobalQuotaInfo, GroupDesc, InlineData, InodeFlags, Kind,
    LocalAlloc, LocalQuotaInfo, OcfsHeader, RefcountBlock, RefcountList, RefcountRec,
    SUPER_BLOCK_SIGNATURE, SuperBlock, TruncateLog, TruncateRec, XATTR_BUCKET, XattrBlock,
    XattrEntry, XattrHeader, XattrTreeRoot, XattrValueRoot,
};
use crate::read::dir;
use crate::units::index;

/// What a block is laid out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// First sector of the volume.
    OcfsHeader,
    /// The superblock.
    SuperBlock,
    /// An inode.
    Dinode,
    /// A block of an extent tree.
    ExtentBlock,
    /// First block of an allocator group.
    GroupDesc,
    /// A block of directory entries.
    DirBlock,
    /// Root of a directory index.
    DxRoot,
    /// Leaf of a directory index.
    DxLeaf,
    /// A block of xattrs, or the root of their tree.
    XattrBlock,
    /// A bucket of xattrs (4096 bytes).
    XattrBucket,
    /// A block of a refcount tree.
    RefcountBlock,
    /// Superblock of a journal.
    JournalSuper,
    /// Descriptor of a journal of this form.
    JournalDescriptor(LogForm),
    /// Commit record of a journal.
    JournalCommit,
    /// Revoke record of a journal of this form.
    JournalRevoke(LogForm),
    /// Block 0 of a global quota file.
    QuotaInfo,
    /// References of a quota tree.
    QuotaTree,
    /// Entries of a quota tree.
    QuotaLeaf,
    /// Block 0 of a slot's quota file.
    QuotaLocalInfo,
    /// Bitmap of a chunk of a slot's quota file.
    QuotaChunk,
    /// Changes in a slot's quota file.
    QuotaChanges,
    /// A block of the slot map, as node numbers of 16 bits.
    SlotMap,
    /// A block of the extended slot map.
    SlotMapExtended,
    /// Heartbeats.
    Heartbeat,
    /// Bytes.
    Raw,
}

/// The forms that logs have.
const FORMS: [LogForm; 5] = [
    LogForm::of(0),
    LogForm::of(jbd2::INCOMPAT_64BIT),
    LogForm::of(jbd2::INCOMPAT_CSUM_V2),
    LogForm::of(jbd2::INCOMPAT_CSUM_V2 | jbd2::INCOMPAT_64BIT),
    LogForm::of(jbd2::INCOMPAT_CSUM_V3),
];

impl BlockKind {
    /// All kinds.
    pub const ALL: [Self; 32] = [
        Self::OcfsHeader,
        Self::SuperBlock,
        Self::Dinode,
        Self::ExtentBlock,
        Self::GroupDesc,
        Self::DirBlock,
        Self::DxRoot,
        Self::DxLeaf,
        Self::XattrBlock,
        Self::XattrBucket,
        Self::RefcountBlock,
        Self::JournalSuper,
        Self::JournalDescriptor(FORMS[0]),
        Self::JournalDescriptor(FORMS[1]),
        Self::JournalDescriptor(FORMS[2]),
        Self::JournalDescriptor(FORMS[3]),
        Self::JournalDescriptor(FORMS[4]),
        Self::JournalCommit,
        Self::JournalRevoke(FORMS[0]),
        Self::JournalRevoke(FORMS[1]),
        Self::JournalRevoke(FORMS[2]),
        Self::JournalRevoke(FORMS[3]),
        Self::QuotaInfo,
        Self::QuotaTree,
        Self::QuotaLeaf,
        Self::QuotaLocalInfo,
        Self::QuotaChunk,
        Self::QuotaChanges,
        Self::SlotMap,
        Self::SlotMapExtended,
        Self::Heartbeat,
        Self::Raw,
    ];

    /// Where the check lies in a block (or bucket) of this kind, on volumes with checks; `None` for
    /// what has none of that sort.
    #[must_use]
    pub fn check_at(self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.len().checked_sub(CHECK_BYTES);
        match self {
            Self::SuperBlock | Self::Dinode => Some(Dinode::CHECK_AT),
            Self::ExtentBlock => Some(ExtentBlock::CHECK_AT),
            Self::GroupDesc => Some(GroupDesc::CHECK_AT),
            Self::DxRoot => Some(DxRoot::CHECK_AT),
            Self::DxLeaf => Some(DxLeaf::CHECK_AT),
            Self::XattrBlock => Some(XattrBlock::CHECK_AT),
            Self::RefcountBlock => Some(RefcountBlock::CHECK_AT),
            Self::XattrBucket => (bytes.len() == XATTR_BUCKET).then_some(BUCKET_CHECK),
            Self::DirBlock => {
                let trailer = bytes.get(bytes.len().checked_sub(DIR_TRAILER)?..)?;
                let (trailer, _) = DirBlockTrailer::ref_from_prefix(trailer).ok()?;
                end.filter(|_| trailer.db_signature == DIR_TRAILER_SIGNATURE)
            }
            Self::QuotaInfo
            | Self::QuotaTree
            | Self::QuotaLeaf
            | Self::QuotaLocalInfo
            | Self::QuotaChunk
            | Self::QuotaChanges => end,
            _ => None,
        }
    }

    /// Name, as it is given on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OcfsHeader => "ocfs_header",
            Self::SuperBlock => "superblock",
            Self::Dinode => "dinode",
            Self::ExtentBlock => "extent_block",
            Self::GroupDesc => "group_desc",
            Self::DirBlock => "dir_block",
            Self::DxRoot => "dx_root",
            Self::DxLeaf => "dx_leaf",
            Self::XattrBlock => "xattr_block",
            Self::XattrBucket => "xattr_bucket",
            Self::RefcountBlock => "refcount_block",
            Self::JournalSuper => "journal_superblock",
            Self::JournalDescriptor(form) => match (form.checksums, form.wide) {
                (Checksums::None, false) => "journal_descriptor",
                (Checksums::None, true) => "journal_descriptor_64",
                (Checksums::V2, false) => "journal_descriptor_v2",
                (Checksums::V2, true) => "journal_descriptor_v2_64",
                (Checksums::V3, _) => "journal_descriptor_v3",
            },
            Self::JournalCommit => "journal_commit",
            Self::JournalRevoke(form) => match (form.sums(), form.wide) {
                (false, false) => "journal_revoke",
                (false, true) => "journal_revoke_64",
                (true, false) => "journal_revoke_sum",
                (true, true) => "journal_revoke_sum_64",
            },
            Self::QuotaInfo => "quota_info",
            Self::QuotaTree => "quota_tree",
            Self::QuotaLeaf => "quota_leaf",
            Self::QuotaLocalInfo => "quota_local_info",
            Self::QuotaChunk => "quota_chunk",
            Self::QuotaChanges => "quota_changes",
            Self::SlotMap => "slot_map",
            Self::SlotMapExtended => "slot_map_extended",
            Self::Heartbeat => "heartbeat",
            Self::Raw => "raw",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What a block says that it is. Blocks without a signature (directory blocks without trailer,
    /// buckets, most quota blocks, the slot map, heartbeats, data) are [`BlockKind::Raw`], and
    /// records of a log are taken for those of one without features: see
    /// [`kind_of`](crate::volume::kinds::kind_of) for what a block is by its place.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Self {
        let mut signature = [0; 8];
        signature.copy_from_slice(bytes.get(..8).unwrap_or(&[0; 8]));
        let trailer = bytes.len().checked_sub(DIR_TRAILER).and_then(|at| {
            let (trailer, _) = DirBlockTrailer::ref_from_prefix(bytes.get(at..)?).ok()?;
            Some(trailer.db_signature)
        });
        match signature {
            SUPER_BLOCK_SIGNATURE => return Self::SuperBlock,
            Dinode::SIGNATURE => return Self::Dinode,
            ExtentBlock::SIGNATURE => return Self::ExtentBlock,
            GroupDesc::SIGNATURE => return Self::GroupDesc,
            DxRoot::SIGNATURE => return Self::DxRoot,
            DxLeaf::SIGNATURE => return Self::DxLeaf,
            XattrBlock::SIGNATURE => return Self::XattrBlock,
            RefcountBlock::SIGNATURE => return Self::RefcountBlock,
            _ => {}
        }
        if let Ok((head, _)) = BlockHeader::ref_from_prefix(bytes)
            && head.h_magic.get() == jbd2::MAGIC
        {
            return match head.h_blocktype.get() {
                jbd2::SUPERBLOCK_V1 | jbd2::SUPERBLOCK_V2 => Self::JournalSuper,
                jbd2::DESCRIPTOR => Self::JournalDescriptor(FORMS[0]),
                jbd2::COMMIT => Self::JournalCommit,
                jbd2::REVOKE => Self::JournalRevoke(FORMS[0]),
                _ => Self::Raw,
            };
        }
        if let Some(kind) = system::detect(bytes) {
            return kind;
        }
        let header = OcfsHeader::ref_from_prefix(bytes).ok();
        match (trailer, header) {
            (Some(DIR_TRAILER_SIGNATURE), _) => Self::DirBlock,
            (_, Some((head, _))) if head.signature.starts_with(b"this is an ocfs2 volume") => {
                Self::OcfsHeader
            }
            _ => Self::Raw,
        }
    }
}

/// Lays out all of a block.
pub(super) fn lay_out(lay: &mut Lay<'_>, kind: BlockKind) {
    match kind {
        BlockKind::OcfsHeader => lay.fields(OcfsHeader::FIELDS),
        BlockKind::SuperBlock => {
            lay.fields(Dinode::FIELDS);
            lay.fields(SuperBlock::FIELDS);
        }
        BlockKind::Dinode => dinode(lay),
        BlockKind::ExtentBlock => {
            lay.fields(ExtentBlock::FIELDS);
            extent_list(lay, "h_list");
        }
        BlockKind::GroupDesc => group(lay),
        BlockKind::DirBlock => dir_block(lay),
        BlockKind::DxRoot => {
            let inline = DxRoot::ref_from_prefix(lay.left())
                .is_ok_and(|(root, _)| root.dr_flags & crate::layout::DX_INLINE != 0);
            lay.fields(DxRoot::FIELDS);
            if inline {
                dx_entries(lay, "dr_entries");
            } else {
                extent_list(lay, "dr_list");
            }
        }
        BlockKind::DxLeaf => {
            lay.fields(DxLeaf::FIELDS);
            dx_entries(lay, "dl_list");
        }
        BlockKind::XattrBlock => xattr_block(lay),
        BlockKind::XattrBucket => xattr_area(lay, "bucket"),
        BlockKind::RefcountBlock => refcount(lay),
        BlockKind::JournalSuper => lay.fields(JournalSuperBlock::FIELDS),
        BlockKind::JournalDescriptor(form) => descriptor(lay, form),
        BlockKind::JournalCommit => lay.fields(CommitBlock::FIELDS),
        BlockKind::JournalRevoke(form) => revoke(lay, form),
        BlockKind::QuotaInfo => system::quota(lay, |lay| lay.fields(GlobalQuotaInfo::FIELDS)),
        BlockKind::QuotaTree => system::quota(lay, system::tree),
        BlockKind::QuotaLeaf => system::quota(lay, system::leaf),
        BlockKind::QuotaLocalInfo => system::quota(lay, |lay| lay.fields(LocalQuotaInfo::FIELDS)),
        BlockKind::QuotaChunk => system::quota(lay, system::chunk),
        BlockKind::QuotaChanges => system::quota(lay, system::changes),
        BlockKind::SlotMap => lay.numbers("node", 2),
        BlockKind::SlotMapExtended => {
            lay.records("slot", ExtendedSlot::FIELDS, usize::MAX);
        }
        BlockKind::Heartbeat => system::heartbeat(lay),
        BlockKind::Raw => lay.rest("bytes"),
    }
}

fn dinode(lay: &mut Lay<'_>) {
    let bytes = lay.left();
    let Ok((head, _)) = Dinode::ref_from_prefix(bytes) else {
        return;
    };
    lay.fields(Dinode::FIELDS);
    let xattrs = head.inline_xattr_bytes();
    let body = lay.left().len().saturating_sub(xattrs);
    let (flags, inline) = (
        head.flags(),
        head.dyn_features().contains(DynFeatures::INLINE_DATA),
    );
    let size = index(head.i_size.get());
    lay.group(Name::Field("id2"), body, |lay| {
        if flags.contains(InodeFlags::SUPER_BLOCK) {
            lay.fields(SuperBlock::FIELDS);
        } else if flags.contains(InodeFlags::LOCAL_ALLOC) {
            lay.fields(LocalAlloc::FIELDS);
            lay.rest("la_bitmap");
        } else if flags.contains(InodeFlags::CHAIN) {
            let used = ChainList::ref_from_prefix(lay.left())
                .map_or(0, |(list, _)| list.cl_next_free_rec.get());
            lay.fields(ChainList::FIELDS);
            lay.records("cl_recs", ChainRec::FIELDS, used.into());
        } else if flags.contains(InodeFlags::DEALLOC) {
            let used =
                TruncateLog::ref_from_prefix(lay.left()).map_or(0, |(log, _)| log.tl_used.get());
            lay.fields(TruncateLog::FIELDS);
            lay.records("tl_recs", TruncateRec::FIELDS, used.into());
        } else if inline {
            lay.fields(InlineData::FIELDS);
            match head.file_type() {
                Some(FileType::Directory) => dir_entries(lay),
                _ => lay.plain("id_data", size),
            }
        } else if head.file_type() == Some(FileType::Symlink) && head.i_clusters.get() == 0 {
            lay.text("i_symlink", size);
        } else if head.has_extents() {
            extent_list(lay, "i_list");
        }
    });
    if xattrs > 0 {
        xattr_area(lay, "inline_xattrs");
    }
}

fn extent_list(lay: &mut Lay<'_>, name: &'static str) {
    let len = lay.left().len();
    lay.group(Name::Field(name), len, |lay| {
        let (depth, used) = ExtentList::ref_from_prefix(lay.left()).map_or((0, 0), |(list, _)| {
            (list.l_tree_depth.get(), list.l_next_free_rec.get())
        });
        lay.fields(ExtentList::FIELDS);
        let fields = if depth == 0 {
            ExtentRec::FIELDS
        } else {
            ExtentRecInterior::FIELDS
        };
        lay.records("l_recs", fields, used.into());
    });
}

fn group(lay: &mut Lay<'_>) {
    let size = GroupDesc::ref_from_prefix(lay.left())
        .map_or(0, |(group, _)| usize::from(group.bg_size.get()));
    lay.fields(GroupDesc::FIELDS);
    lay.plain("bg_bitmap", size);
    if GROUP_BITMAP + size == GROUP_LIST && lay.left().iter().any(|&b| b != 0) {
        extent_list(lay, "bg_list");
    }
}

fn dir_block(lay: &mut Lay<'_>) {
    let bytes = lay.left();
    let at = bytes.len().saturating_sub(DIR_TRAILER);
    let trailer = DirBlockTrailer::ref_from_prefix(bytes.get(at..).unwrap_or_default())
        .is_ok_and(|(trailer, _)| trailer.db_signature == DIR_TRAILER_SIGNATURE);
    if trailer {
        lay.group(Name::Field("entries"), at, dir_entries);
        let name = Name::Field("trailer");
        lay.group(name, DIR_TRAILER, |lay| lay.fields(DirBlockTrailer::FIELDS));
    } else {
        dir_entries(lay);
    }
}

/// Entries up to the end, or up to the first impossible one.
fn dir_entries(lay: &mut Lay<'_>) {
    let area = lay.left();
    for (index, entry) in dir::entries(area).enumerate() {
        let Ok(entry) = entry else { return };
        let name_len = entry.name.len();
        lay.group(Name::Item("dirent", index), entry.rec_len, |lay| {
            lay.fields(DirEntry::FIELDS);
            lay.text("name", name_len.min(entry.rec_len - DIRENT_HEAD));
            lay.rest("slack");
        });
    }
}

fn dx_entries(lay: &mut Lay<'_>, name: &'static str) {
    let len = lay.left().len();
    lay.group(Name::Field(name), len, |lay| {
        let used =
            DxEntryList::ref_from_prefix(lay.left()).map_or(0, |(list, _)| list.de_num_used.get());
        lay.fields(DxEntryList::FIELDS);
        lay.records("de_entries", DxEntry::FIELDS, used.into());
    });
}

fn xattr_block(lay: &mut Lay<'_>) {
    let indexed = XattrBlock::ref_from_prefix(lay.left())
        .is_ok_and(|(block, _)| block.xb_flags.get() & crate::layout::XATTR_INDEXED != 0);
    lay.fields(XattrBlock::FIELDS);
    if indexed {
        lay.fields(XattrTreeRoot::FIELDS);
        extent_list(lay, "xt_list");
    } else {
        xattr_area(lay, "xb_header");
    }
}

/// Header, entries, and the names and values that the entries point to.
fn xattr_area(lay: &mut Lay<'_>, name: &'static str) {
    let area = lay.left();
    lay.group(Name::Field(name), area.len(), |lay| {
        let count = XattrHeader::ref_from_prefix(area).map_or(0, |(head, _)| head.xh_count.get());
        lay.fields(XattrHeader::FIELDS);
        let heads = area.get(size_of::<XattrHeader>()..).unwrap_or_default();
        let mut pairs: Vec<(usize, usize, XattrEntry)> = heads
            .chunks_exact(size_of::<XattrEntry>())
            .take(count.into())
            .filter_map(|bytes| XattrEntry::read_from_bytes(bytes).ok())
            .enumerate()
            .map(|(index, entry)| (usize::from(entry.xe_name_offset.get()), index, entry))
            .collect();
        lay.records("xh_entries", XattrEntry::FIELDS, count.into());
        // Names and values stand from the end downward; those that overlap are left as bytes.
        pairs.sort_by_key(|(offset, ..)| *offset);
        for (offset, item, entry) in pairs {
            let at = area.len() - lay.left().len();
            let Some(gap) = offset.checked_sub(at) else {
                continue;
            };
            let name_len = usize::from(entry.xe_name_len);
            let padded = name_len.next_multiple_of(4);
            if gap + padded > lay.left().len() {
                break;
            }
            let local = entry.xe_type & 0x80 != 0;
            let value_len = if local {
                index(entry.xe_value_size.get()).min(80)
            } else {
                size_of::<XattrValueRoot>() + size_of::<ExtentList>() + 16
            };
            lay.plain("free", gap);
            // The index is that of the entry in `xh_entries`.
            lay.group(Name::Item("xattr", item), padded + value_len, |lay| {
                lay.text("name", name_len);
                lay.plain("padding", padded - name_len);
                if local {
                    lay.plain("value", value_len);
                } else {
                    lay.fields(XattrValueRoot::FIELDS);
                    extent_list(lay, "xr_list");
                }
            });
        }
    });
}

fn refcount(lay: &mut Lay<'_>) {
    let tree = RefcountBlock::ref_from_prefix(lay.left())
        .is_ok_and(|(block, _)| block.rf_flags.get() & crate::layout::REFCOUNT_TREE != 0);
    lay.fields(RefcountBlock::FIELDS);
    if tree {
        extent_list(lay, "rf_list");
        return;
    }
    let len = lay.left().len();
    lay.group(Name::Field("rf_records"), len, |lay| {
        let used =
            RefcountList::ref_from_prefix(lay.left()).map_or(0, |(list, _)| list.rl_used.get());
        lay.fields(RefcountList::FIELDS);
        lay.records("rl_recs", RefcountRec::FIELDS, used.into());
    });
}

/// Lays out a record of a log up to its checksum, and its checksum.
fn with_tail(lay: &mut Lay<'_>, form: LogForm, inner: impl FnOnce(&mut Lay<'_>)) {
    let len = lay.left().len().saturating_sub(form.tail_bytes());
    lay.group(Name::Field("record"), len, inner);
    if form.sums() {
        lay.fields(jbd2::BlockTail::FIELDS);
    }
}

fn descriptor(lay: &mut Lay<'_>, form: LogForm) {
    with_tail(lay, form, |lay| {
        lay.fields(BlockHeader::FIELDS);
        let mut tag_index = 0;
        while let Some(flags) = tag_flags(lay.left(), form) {
            let uuid = if flags & jbd2::TAG_SAME_UUID == 0 {
                jbd2::TAG_UUID
            } else {
                0
            };
            let len = form.tag_bytes() + uuid;
            if lay.left().len() < len {
                break;
            }
            lay.group(Name::Item("tag", tag_index), len, |lay| {
                if form.checksums == Checksums::V3 {
                    lay.fields(BlockTag3::FIELDS);
                } else {
                    lay.fields(BlockTag::FIELDS);
                    if form.wide {
                        lay.plain("t_blocknr_high", 4);
                    }
                }
                let unused = lay.left().len().saturating_sub(uuid);
                lay.plain("t_unused", unused);
                lay.plain("uuid", uuid);
            });
            tag_index += 1;
            if flags & jbd2::TAG_LAST != 0 {
                break;
            }
        }
    });
}

/// The flags of the tag at the start of bytes.
fn tag_flags(bytes: &[u8], form: LogForm) -> Option<u16> {
    if form.checksums == Checksums::V3 {
        let (tag, _) = BlockTag3::ref_from_prefix(bytes).ok()?;
        let [low, next, ..] = tag.t_flags.get().to_le_bytes();
        return Some(u16::from_le_bytes([low, next]));
    }
    Some(BlockTag::ref_from_prefix(bytes).ok()?.0.t_flags.get())
}

fn revoke(lay: &mut Lay<'_>, form: LogForm) {
    with_tail(lay, form, |lay| {
        let used = jbd2::RevokeHeader::ref_from_prefix(lay.left())
            .map_or(0, |(head, _)| index(head.r_count.get().into()));
        lay.fields(jbd2::RevokeHeader::FIELDS);
        let width = if form.wide { 8 } else { 4 };
        let end = used.saturating_sub(size_of::<jbd2::RevokeHeader>());
        for _ in 0..end.min(lay.left().len()) / width {
            lay.number_be("r_blocknr", width);
        }
    });
}

impl Lay<'_> {
    /// Numbers of `len` bytes, up to the end.
    fn numbers(&mut self, name: &'static str, len: usize) {
        for index in 0..self.left().len() / len {
            self.group(Name::Item(name, index), len, |lay| {
                let number = lay.left().iter().rev();
                let number = number.fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
                let value = Value::Number(number, Encoding::Little, Kind::Number);
                lay.leaf("number", len, value);
            });
        }
    }

    /// A block number of a journal.
    fn number_be(&mut self, name: &'static str, len: usize) {
        let raw = self.left();
        let number = raw
            .iter()
            .take(len)
            .fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
        let value = Value::Number(number, Encoding::Big, Kind::Block);
        self.leaf(name, len, value);
    }
}

const _: () = assert!(DINODE_HEAD == size_of::<Dinode>());
