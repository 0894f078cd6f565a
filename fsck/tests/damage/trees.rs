//! Recipes for inodes, extent trees, directories, attributes and refcount trees.

use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::layout::{
    DINODE_HEAD, Dinode, DirBlockTrailer, DirEntry, DxEntry, DxEntryList, DxRoot, ExtentBlock,
    ExtentList, HashKind, RefcountBlock, RefcountList, RefcountRec, XattrBlock, XattrEntry,
    XattrHeader, XattrValueRoot, xattr_hash,
};
use cowfs_format::units::{BlockNo, Slot, low16};
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::SystemFile::{Journal, OrphanDir};
use zerocopy::IntoBytes;

use crate::patch::Patch;

const FAR: u64 = 1 << 40;
/// Where the list of extents lies in an inode and in an extent block.
const BODY: usize = DINODE_HEAD;
const EB: usize = 0x30;

fn set(p: &mut Patch, path: &str, name: &str, value: u64) {
    let inode = p.inode(path);
    p.set_inode(inode, name, value);
}

/// Sets a field of a record of a file's own list.
fn rec(p: &mut Patch, path: &str, index: usize, name: &str, value: u64) {
    let inode = p.inode(path);
    p.set_rec(inode, BODY, index, name, value);
}

/// The extent block that a file's list names first.
fn first_block(p: &Patch, path: &str) -> u64 {
    let inode = p.inode(path);
    assert!(
        p.get(inode, BODY, ExtentList::FIELDS, "l_tree_depth") > 0,
        "{path} has no tree"
    );
    p.rec(inode, BODY, 0, "e_blkno")
}

/// Sets a field of an entry of a directory.
fn entry(p: &mut Patch, dir: &str, name: &str, field: &str, value: u64) {
    let (block, at) = p.entry(dir, name);
    p.set(block, at, DirEntry::FIELDS, field, value);
}

/// Writes another name of the same length into an entry.
fn rename(p: &mut Patch, dir: &str, name: &str, to: &[u8]) {
    let (block, at) = p.entry(dir, name);
    assert_eq!(name.len(), to.len());
    p.edit(block, |bytes| {
        bytes[at + 12..at + 12 + to.len()].copy_from_slice(to)
    });
}

/// Takes an entry out of a directory.
fn unlink(p: &mut Patch, dir: &str, name: &str) {
    entry(p, dir, name, "inode", 0);
}

/// Sets a field of the trailer of the first block of a directory.
fn trailer(p: &mut Patch, field: &str, value: u64) {
    let (block, _) = p.entry("/many", "..");
    let at = p.info.geo.block_bytes() - 64;
    p.set(block, at, DirBlockTrailer::FIELDS, field, value);
}

fn dx_root(p: &Patch) -> u64 {
    p.inode_field(p.inode("/many"), "i_dx_root")
}

/// An index block and where in it an entry of a name other than "." and ".." is.
fn dx_entry(p: &Patch) -> (u64, usize) {
    let root = dx_root(p);
    let inline = p.get(root, 0, DxRoot::FIELDS, "dr_flags") == 1;
    let first = p.rec(root, 0xC0, 0, "e_blkno");
    let (block, from) = if inline { (root, 0xC8) } else { (first, 0x30) };
    let hashed = |at: &usize| p.get(block, *at, DxEntry::FIELDS, "dx_major_hash") != 0;
    let at = (from..).step_by(16).find(hashed).unwrap();
    (block, at)
}

/// Indexes the names of a directory under these hashes only.
pub(crate) fn rehash(p: &Patch, kinds: &'static [HashKind]) {
    let directory = BlockNo(p.inode("/foreign"));
    let mut volume = Volume::open(OverlayDevice::new(&p.device)).unwrap();
    let mut txn = volume.begin_staged();
    txn.index_under(kinds);
    assert!(txn.rehash_directory(directory).unwrap());
    txn.write_home().unwrap();
    let device = volume.into_device();
    let unit = p.info.geo.block_bytes();
    for number in device.changed(unit as u64) {
        let mut bytes = vec![0; unit];
        device.read_at(number * unit as u64, &mut bytes).unwrap();
        p.device.write_at(number * unit as u64, &bytes).unwrap();
    }
}

/// Changes the plain block of attributes of a file. `at` is from the header on.
fn xattr(p: &mut Patch, at: usize, fields: &[cowfs_format::layout::Field], name: &str, value: u64) {
    let inode = p.inode("/attributes/block");
    let block = p.inode_field(inode, "i_xattr_loc");
    assert_eq!(p.get(block, 0, XattrBlock::FIELDS, "xb_flags"), 0);
    p.set(block, 0x30 + at, fields, name, value);
}

/// Has the root of the first value that stands in clusters of its own name a last leaf.
fn value_leaf(p: &mut Patch, leaf: u64) {
    let inode = p.inode("/attributes/block");
    let block = p.inode_field(inode, "i_xattr_loc");
    let bytes = p.read(block);
    let set = &bytes[0x30..];
    let entries = set[16..].chunks_exact(16);
    let count = usize::from(u16::from_le_bytes([set[0], set[1]]));
    let outside = entries.take(count).find(|entry| entry[7] & 0x80 == 0);
    let entry = outside.expect("no value stands in clusters");
    let name = usize::from(u16::from_le_bytes([entry[4], entry[5]]));
    let root = 0x30 + name + usize::from(entry[6]).next_multiple_of(4);
    p.set(block, root, XattrValueRoot::FIELDS, "xr_last_eb_blk", leaf);
}

/// Changes the first bucket of a file's tree of attributes.
fn bucket(
    p: &mut Patch,
    at: usize,
    fields: &[cowfs_format::layout::Field],
    name: &str,
    value: u64,
) {
    let inode = p.inode("/attributes/buckets");
    let block = p.inode_field(inode, "i_xattr_loc");
    assert_eq!(p.get(block, 0, XattrBlock::FIELDS, "xb_flags"), 1);
    let first = p.rec(block, 0x40, 0, "e_blkno");
    let field = fields.iter().find(|field| field.name == name).unwrap();
    p.edit_bucket(first, |bytes| {
        assert!(field.set_number(&mut bytes[at..], value))
    });
}

/// Puts more attributes, without values, into the first bucket of a tree than its first block has room
/// for, in place of all that its extent holds.
fn fill_bucket(p: &mut Patch, path: &str) {
    let root = p.inode_field(p.inode(path), "i_xattr_loc");
    let list = ExtentList::FIELDS;
    let end = match p.get(root, 0x40, list, "l_next_free_rec") {
        1 => 1 << 32,
        _ => p.rec(root, 0x40, 1, "e_cpos"),
    };
    let held = (p.info.geo.block_bytes() - 16) / 16 + 1;
    let seed = p.info.dx_seed[3];
    let mut names: Vec<(u32, String)> = (0..1000)
        .map(|n| format!("n{n:03}"))
        .map(|name| (xattr_hash(name.as_bytes(), seed, HashKind::Signed), name))
        .filter(|(hash, _)| u64::from(*hash) < end)
        .take(held)
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), held);
    p.edit_bucket(p.rec(root, 0x40, 0, "e_blkno"), |bytes| {
        bytes.fill(0);
        for (n, (hash, name)) in names.iter().enumerate() {
            let at = 4096 - 4 * (n + 1);
            bytes[at..at + 4].copy_from_slice(name.as_bytes());
            let entry = XattrEntry {
                xe_name_hash: (*hash).into(),
                xe_name_offset: low16(at as u64).into(),
                xe_name_len: 4,
                xe_type: 0x80 | 1,
                xe_value_size: 0.into(),
            };
            bytes[16 + 16 * n..32 + 16 * n].copy_from_slice(entry.as_bytes());
        }
        for (at, value) in [(0, held), (2, 4096 - 4 * held), (4, 4 * held), (6, 1)] {
            bytes[at..at + 2].copy_from_slice(&low16(value as u64).to_le_bytes());
        }
    });
}

/// The root of the refcount tree with leaves.
fn tree(p: &Patch) -> u64 {
    let root = p.inode_field(p.inode("/shared/first"), "i_refcount_loc");
    assert_eq!(p.get(root, 0, RefcountBlock::FIELDS, "rf_flags"), 2);
    root
}

fn leaf(p: &Patch) -> u64 {
    p.rec(tree(p), 0x80, 1, "e_blkno")
}

/// Sets a field of a leaf of the refcount tree.
fn set_leaf(p: &mut Patch, field: &str, value: u64) {
    let block = leaf(p);
    p.set(block, 0, RefcountBlock::FIELDS, field, value);
}

/// Sets a field of the list of a leaf.
fn set_leaf_list(p: &mut Patch, field: &str, value: u64) {
    let block = leaf(p);
    p.set(block, 0x80, RefcountList::FIELDS, field, value);
}

/// Sets a field of a record of a leaf.
fn set_leaf_rec(p: &mut Patch, index: usize, field: &str, value: u64) {
    let block = leaf(p);
    p.set(block, 0x90 + 16 * index, RefcountRec::FIELDS, field, value);
}

fn without_incompat(p: &mut Patch, bit: u64) {
    let now = u64::from(p.info.features.incompat.bits());
    p.set_super("s_feature_incompat", now & !bit);
}

crate::define! {
    INODE_GEN InodeGen "b4k-c4k-max": |p| set(p, "/holes/only", "i_fs_generation", 5);
    INODE_BLKNO InodeBlkno "b4k-c4k-max": |p| set(p, "/holes/only", "i_blkno", 5);
    INODE_SUBALLOC InodeSuballoc "b4k-c4k-max": |p| set(p, "/holes/only", "i_suballoc_bit", 5);
    ROOT_NOTDIR RootNotDir "b4k-c4k-max": |p| set(p, "/", "i_mode", 0o100_644);
    INODE_NZ_DTIME NzDtime "b4k-c4k-max": |p| set(p, "/holes/only", "i_dtime", 5);
    X_INODE_MODE Mode "b4k-c4k-max": |p| set(p, "/holes/only", "i_mode", 0o644);
    X_INODE_FLAGS Flags "b4k-c4k-max": |p| {
        // A directory that says that it is a truncate log.
        let directory = p.inode("/holes");
        let flags = p.inode_field(directory, "i_flags");
        p.set_inode(directory, "i_flags", flags | 0x800);
    };
    X_XATTR_INLINE_SIZE InlineXattrSize "b4k-c4k-max": |p| {
        let inode = p.inode("/attributes/inode");
        p.set_inode(inode, "i_xattr_inline_size", 9999);
    };
    LINK_FAST_DATA LinkFastData "b4k-c4k-max": |p| set(p, "/links/fast", "i_dyn_features", 1);
    LINK_NULLTERM LinkNullterm "b4k-c4k-max": |p| {
        let inode = p.inode("/links/fast");
        p.edit(inode, |bytes| bytes[0xC0..].fill(b'x'));
    };
    LINK_SIZE LinkSize "b4k-c4k-max": |p| set(p, "/links/fast", "i_size", 200);
    LINK_BLOCKS LinkBlocks "b4k-c4k-max": |p| set(p, "/links/shortest-slow", "i_size", 1 << 30);
    INODE_SIZE Size "b4k-c4k-max": |p| set(p, "/many", "i_size", 4095);
    INODE_INLINE_SIZE InlineSize "b4k-c4k-max": |p| set(p, "/inline/size-100", "i_size", 1 << 20);
    INODE_CLUSTERS Clusters "b4k-c4k-max": |p| set(p, "/many", "i_clusters", 99);
    INODE_SPARSE_CLUSTERS SparseClusters "b4k-c4k-max": |p| set(p, "/holes/middle", "i_clusters", 99);
    INODE_INLINE_CLUSTERS InlineClusters "b4k-c4k-max": |p| set(p, "/inline/size-100", "i_clusters", 1);
    INLINE_DATA_FLAG_INVALID InlineFlag "b4k-c4k-max": |p| without_incompat(p, 0x40);
    INLINE_DATA_COUNT_INVALID InlineCount "b4k-c4k-max": |p| {
        let inode = p.inode("/inline/size-100");
        p.edit(inode, |bytes| bytes[0xC0..0xC2].fill(0xFF));
    };
    INODE_COUNT Count "b4k-c4k-max": |p| set(p, "/links/a", "i_links_count", 77);
    INODE_NOT_CONNECTED NotConnected "b4k-c4k-max": |p| unlink(p, "/holes", "only");
    INODE_ORPHANED Orphaned "orphans": |_| {};
    X_ORPHAN_FLAG OrphanFlag "b4k-c4k-max": |p| set(p, "/holes/only", "i_flags", 5);
    REFCOUNT_FLAG_INVALID RefcountFlag "b4k-c4k-max": |p| without_incompat(p, 0x1000);
    REFCOUNT_LOC_INVALID RefcountLoc "b4k-c4k-max": |p| set(p, "/holes/only", "i_refcount_loc", 50);
    EB_BLKNO EbBlkno "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set(block, 0, ExtentBlock::FIELDS, "h_blkno", 5);
    };
    EB_GEN EbGen "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set(block, 0, ExtentBlock::FIELDS, "h_fs_generation", 5);
    };
    EXTENT_EB_INVALID ExtentEbInvalid "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.edit(block, |bytes| bytes[0] = b'X');
    };
    EXTENT_BLKNO_RANGE ExtentEbRange "b4k-c4k-max": |p| rec(p, "/fragmented/whole", 0, "e_blkno", FAR);
    EXTENT_MARKED_UNWRITTEN MarkedUnwritten "b4k-c4k-max": |p| {
        let now = u64::from(p.info.features.ro_compat.bits());
        p.set_super("s_feature_ro_compat", now & !1);
    };
    EXTENT_MARKED_REFCOUNTED MarkedRefcounted "b4k-c4k-max": |p| rec(p, "/holes/middle", 0, "e_flags", 2);
    EXTENT_BLKNO_UNALIGNED ExtentUnaligned "b4k-c32k-default": |p| {
        let inode = p.inode("/holes/middle");
        let block = p.rec(inode, BODY, 0, "e_blkno");
        p.set_rec(inode, BODY, 0, "e_blkno", block + 1);
    };
    EXTENT_CLUSTERS_OVERRUN ExtentOverrun "b4k-c4k-max": |p| {
        let last = p.info.geo.blocks() - 1;
        rec(p, "/holes/middle", 0, "e_blkno", last);
        rec(p, "/holes/middle", 0, "e_leaf_clusters", 2);
    };
    EXTENT_BLKNO_RANGE ExtentRange "b4k-c4k-max": |p| rec(p, "/holes/middle", 0, "e_blkno", FAR);
    EXTENT_LIST_DEPTH ListDepth "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set_list(block, EB, "l_tree_depth", 3);
    };
    EXTENT_LIST_COUNT ListCount "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set_list(block, EB, "l_count", 9999);
    };
    EXTENT_LIST_FREE ListFree "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set_list(block, EB, "l_next_free_rec", 9999);
    };
    EXTENT_OVERLAP Overlap "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        let cpos = p.rec(block, EB, 0, "e_cpos");
        p.set_rec(block, EB, 1, "e_cpos", cpos);
    };
    NO_HOLES NoHoles "b4k-c4k-max": |p| {
        let journal = p.system(Journal(Slot(0)));
        p.set_rec(journal, BODY, 0, "e_cpos", 1);
    };
    X_EXTENT_EMPTY_REC EmptyRec "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set_rec(block, EB, 1, "e_leaf_clusters", 0);
    };
    X_LAST_EB LastEb "b4k-c4k-max": |p| set(p, "/fragmented/whole", "i_last_eb_blk", 0);
    X_LAST_EB LastEb "b2k-c8k-max": |p| value_leaf(p, 77);
    X_NEXT_LEAF NextLeaf "b4k-c4k-max": |p| {
        let block = first_block(p, "/fragmented/whole");
        p.set(block, 0, ExtentBlock::FIELDS, "h_next_leaf_blk", 7);
    };
    X_EXTENT_PARENT_RANGE ParentRange "b4k-c4k-max": |p| rec(p, "/fragmented/whole", 0, "e_cpos", 9);

    DIR_ZERO Zero "b4k-c4k-max": |p| set(p, "/many", "i_size", 0);
    DIRENT_DOTTY_DUP DottyDup "b4k-c4k-max": |p| {
        rename(p, "/links", "a", b".");
    };
    DIRENT_NOT_DOTTY NotDotty "b4k-c4k-max": |p| rename(p, "/links", "..", b"ab");
    DIRENT_DOT_INODE DotInode "b4k-c4k-max": |p| entry(p, "/links", ".", "inode", 77);
    DIRENT_DOT_EXCESS DotExcess "b4k-c4k-max": |p| entry(p, "/links", ".", "rec_len", 32);
    DIRENT_ZERO NameZero "b4k-c4k-max": |p| entry(p, "/links", "a", "name_len", 0);
    DIRENT_NAME_CHARS NameChars "b4k-c4k-max": |p| rename(p, "/links", "a", b"/");
    DIRENT_INODE_RANGE InodeRange "b4k-c4k-max": |p| entry(p, "/links", "a", "inode", FAR);
    DIRENT_INODE_FREE InodeFree "b4k-c4k-max": |p| entry(p, "/links", "a", "inode", 3);
    DIRENT_TYPE Type "b4k-c4k-max": |p| entry(p, "/links", "a", "file_type", 6);
    DIRENT_TYPE Type "b4k-c4k-max": |p| entry(p, "/links", ".", "file_type", 1);
    DIR_PARENT_DUP ParentDup "b4k-c4k-max": |p| {
        let other = p.inode("/holes");
        entry(p, "/links", "a", "inode", other);
    };
    DIRENT_DUPLICATE Duplicate "b4k-c4k-max": |p| rename(p, "/links", "a", b"b");
    DIRENT_LENGTH Length "b4k-c4k-max": |p| entry(p, "/links", "a", "rec_len", 3);
    DIR_TRAILER_INODE TrailerInode "b4k-c4k-max": |p| trailer(p, "db_compat_inode", 5);
    DIR_TRAILER_NAME_LEN TrailerNameLen "b4k-c4k-max": |p| trailer(p, "db_compat_name_len", 5);
    DIR_TRAILER_REC_LEN TrailerRecLen "b4k-c4k-max": |p| trailer(p, "db_compat_rec_len", 16);
    DIR_TRAILER_BLKNO TrailerBlkno "b4k-c4k-max": |p| trailer(p, "db_blkno", 5);
    DIR_TRAILER_PARENT_INODE TrailerParent "b4k-c4k-max": |p| trailer(p, "db_parent_dinode", 5);
    X_DIR_TRAILER_SIGNATURE TrailerSignature "b4k-c4k-max": |p| {
        let (block, _) = p.entry("/many", "..");
        p.edit(block, |bytes| bytes[4096 - 0x30] = b'X');
    };
    ROOT_DIR_MISSING RootMissing "b4k-c4k-max": |p| set(p, "/", "i_flags", 0);
    LOSTFOUND_MISSING LostFoundMissing "b4k-c4k-max": |p| rename(p, "/", "lost+found", b"found+lost");
    DIR_NOT_CONNECTED NotConnected "b4k-c4k-max": |p| unlink(p, "/links", "deep");
    DIR_DOTDOT DotDot "b4k-c4k-max": |p| {
        let other = p.system(OrphanDir(Slot(0)));
        entry(p, "/links", "..", "inode", other);
    };
    IV_DX_TREE IvDxTree "b4k-c4k-max": |p| without_incompat(p, 0x400);
    DX_TREE_CORRUPT DxTreeCorrupt "b4k-c4k-max": |p| {
        let root = dx_root(p);
        p.set(root, 0, DxRoot::FIELDS, "dr_dir_blkno", 5);
    };
    DX_LOOKUP_FAILED DxLookupFailed "b4k-c4k-max": |p| {
        let (block, at) = dx_entry(p);
        p.set(block, at, DxEntry::FIELDS, "dx_dirent_blk", 5);
    };
    X_DX_LEFT DxLeft "b4k-c4k-max": |p| {
        // As what a driver leaves of a name that had two entries: the same place, another hash.
        let (block, at) = dx_entry(p);
        let list = if p.read(block).starts_with(b"DXDIR01\0") { 0xC0 } else { 0x28 };
        let used = p.get(block, list, DxEntryList::FIELDS, "de_num_used");
        let new = list + 8 + 16 * usize::try_from(used).unwrap();
        p.edit(block, |bytes| {
            bytes.copy_within(at..at + 16, new);
            bytes[new + 7] ^= 0x80;
        });
        p.set(block, list, DxEntryList::FIELDS, "de_num_used", used + 1);
    };
    X_DX_MIXED_HASH DxMixed "mixed-hashes": |_| {};
    X_DX_ONE_HASH DxOneHash "mixed-hashes": |p| rehash(p, &[HashKind::Signed]);
    X_DX_STALE DxStale "b4k-c4k-max": |p| {
        let (block, at) = dx_entry(p);
        p.set(block, at, DxEntry::FIELDS, "dx_dirent_blk", 5);
    };
    X_DX_NUM_ENTRIES DxNumEntries "b4k-c4k-max": |p| {
        let root = dx_root(p);
        p.set(root, 0, DxRoot::FIELDS, "dr_num_entries", 5);
    };
    X_DX_FREE_LIST DxFreeList "b4k-c4k-max": |p| {
        let root = dx_root(p);
        p.set(root, 0, DxRoot::FIELDS, "dr_free_blk", 5);
    };

    XATTR_BLOCK_INVALID BlockInvalid "b2k-c8k-max": |p| {
        let block = p.inode_field(p.inode("/attributes/block"), "i_xattr_loc");
        p.edit(block, |bytes| bytes[0] = b'Y');
    };
    XATTR_COUNT_INVALID CountInvalid "b2k-c8k-max": |p| {
        xattr(p, 0, XattrHeader::FIELDS, "xh_count", 9999);
    };
    XATTR_ENTRY_INVALID EntryInvalid "b2k-c8k-max": |p| {
        xattr(p, 16, XattrEntry::FIELDS, "xe_type", 0x80 | 33);
    };
    XATTR_NAME_OFFSET_INVALID NameOffset "b2k-c8k-max": |p| {
        xattr(p, 16, XattrEntry::FIELDS, "xe_name_offset", 2);
    };
    XATTR_VALUE_INVALID ValueInvalid "b2k-c8k-max": |p| {
        xattr(p, 16, XattrEntry::FIELDS, "xe_name_offset", 2048 - 0x30 - 8);
        xattr(p, 16, XattrEntry::FIELDS, "xe_name_len", 5);
    };
    XATTR_LOCATION_INVALID LocationInvalid "b2k-c8k-max": |p| {
        xattr(p, 16, XattrEntry::FIELDS, "xe_value_size", 5000);
    };
    XATTR_HASH_INVALID HashInvalid "b2k-c8k-max": |p| {
        xattr(p, 16, XattrEntry::FIELDS, "xe_name_hash", 5);
    };
    XATTR_FREE_START_INVALID FreeStart "b2k-c8k-max": |p| {
        bucket(p, 0, XattrHeader::FIELDS, "xh_free_start", 4096);
    };
    XATTR_FREE_START_INVALID FreeStart "b2k-c8k-max": |p| {
        bucket(p, 0, XattrHeader::FIELDS, "xh_free_start", 0);
    };
    XATTR_VALUE_LEN_INVALID ValueLen "b2k-c8k-max": |p| {
        bucket(p, 0, XattrHeader::FIELDS, "xh_name_value_len", 1);
    };
    XATTR_BUCKET_COUNT_INVALID BucketCount "b2k-c8k-max": |p| {
        bucket(p, 0, XattrHeader::FIELDS, "xh_num_buckets", 0);
    };
    X_XATTR_BUCKET_FULL BucketFull "b512-c4k-max": |p| fill_bucket(p, "/attributes/buckets");
    X_XATTR_ORDER Order "b2k-c8k-max": |p| {
        bucket(p, 16, XattrEntry::FIELDS, "xe_name_hash", 0xFFFF_FFFF);
    };
    X_XATTR_FLAG Flag "b2k-c8k-max": |p| without_incompat(p, 0x200);

    RB_BLKNO RbBlkno "b4k-c4k-max": |p| set_leaf(p, "rf_blkno", 5);
    RB_GEN RbGen "b4k-c4k-max": |p| set_leaf(p, "rf_fs_generation", 5);
    RB_PARENT RbParent "b4k-c4k-max": |p| set_leaf(p, "rf_parent", 5);
    X_RB_TREE_GENERATION RbTreeGeneration "b4k-c4k-max": |p| set_leaf(p, "rf_generation", 5);
    X_RB_CPOS RbCpos "b4k-c4k-max": |p| set_leaf(p, "rf_cpos", 5);
    REFCOUNT_LIST_COUNT ListCount "b4k-c4k-max": |p| set_leaf_list(p, "rl_count", 9999);
    REFCOUNT_LIST_USED ListUsed "b4k-c4k-max": |p| set_leaf_list(p, "rl_used", 9999);
    REFCOUNT_CLUSTER_RANGE ClusterRange "b4k-c4k-max": |p| set_leaf_rec(p, 0, "r_cpos", 1 << 33);
    REFCOUNT_CLUSTER_COLLISION Collision "b4k-c4k-max": |p| {
        let first = p.get(leaf(p), 0x90, RefcountRec::FIELDS, "r_cpos");
        set_leaf_rec(p, 1, "r_cpos", first);
    };
    REFCOUNT_LIST_EMPTY ListEmpty "b4k-c4k-max": |p| set_leaf_list(p, "rl_used", 0);
    REFCOUNT_BLOCK_INVALID BlockInvalid "b4k-c4k-max": |p| {
        let block = leaf(p);
        p.edit(block, |bytes| bytes[0] = b'X');
    };
    REFCOUNT_ROOT_BLOCK_INVALID RootBlockInvalid "b4k-c4k-max": |p| {
        let block = tree(p);
        p.edit(block, |bytes| bytes[0] = b'X');
    };
    REFCOUNT_CLUSTERS Clusters "b4k-c4k-max": |p| {
        let block = tree(p);
        p.set(block, 0, RefcountBlock::FIELDS, "rf_clusters", 9);
    };
    REFCOUNT_REC_REDUNDANT Redundant "b4k-c4k-max": |p| {
        let used = p.get(leaf(p), 0x80, RefcountList::FIELDS, "rl_used");
        let last = usize::try_from(used).unwrap() - 1;
        let count = p.get(leaf(p), 0x90 + 16 * last, RefcountRec::FIELDS, "r_clusters");
        set_leaf_rec(p, last, "r_clusters", count + 1);
    };
    REFCOUNT_COUNT_INVALID CountInvalid "b4k-c4k-max": |p| set_leaf_rec(p, 0, "r_refcount", 9);
    REFCOUNT_COUNT Count "b4k-c4k-max": |p| {
        let block = tree(p);
        p.set(block, 0, RefcountBlock::FIELDS, "rf_count", 9);
    };
}

const _: () = assert!(size_of::<Dinode>() == DINODE_HEAD);
