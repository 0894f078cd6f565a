//! Recipes for the volume, its allocators and its slots.

use cowfs_format::block::MetaBlock;
use cowfs_format::layout::jbd2::JournalSuperBlock;
use cowfs_format::layout::{
    ChainList, ChainRec, Dinode, DirEntry, ExtentBlock, ExtentList, GLOBAL_QUOTA_MAGIC, LocalAlloc,
    SuperBlock, TruncateLog, TruncateRec, XattrBlock,
};
use cowfs_format::read::quota::{GlobalQuota, Met};
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::SystemFile::{
    self, ExtentAlloc, GlobalBitmap, Heartbeat, InodeAlloc, Journal, SlotMap,
};

use crate::patch::Patch;

const S0: Slot = Slot(0);
const FAR: u64 = 1 << 40;

/// Sets a field of the list of chains.
fn chains(p: &mut Patch, file: SystemFile, name: &str, value: u64) {
    let inode = p.system(file);
    p.set(inode, 0xC0, ChainList::FIELDS, name, value);
}

/// Sets a field of the first chain.
fn chain(p: &mut Patch, file: SystemFile, name: &str, value: u64) {
    let inode = p.system(file);
    p.set(inode, 0xD0, ChainRec::FIELDS, name, value);
}

/// Sets a field of the first group of an inode allocator.
fn group(p: &mut Patch, name: &str, value: u64) {
    let blkno = p.group(InodeAlloc(S0));
    p.set_group(blkno, name, value);
}

/// Writes a field of a journal's superblock, which has no check.
fn journal(p: &mut Patch, slot: u16, name: &str, value: u64) {
    let inode = p.system(Journal(Slot(slot)));
    let block = p.rec(inode, 0xC0, 0, "e_blkno");
    p.set(block, 0, JournalSuperBlock::FIELDS, name, value);
}

/// Renames an entry of the system directory by its first letter.
fn rename_system(p: &mut Patch, name: &str) {
    let (block, at) = p.entry("//", name);
    p.edit(block, |bytes| bytes[at + size_of::<DirEntry>()] = b'X');
}

/// Sets up a window of a local alloc.
fn window(p: &mut Patch, off: u64, total: u64, used: u64) {
    let inode = p.system(SystemFile::LocalAlloc(S0));
    p.set(inode, 0xC0, LocalAlloc::FIELDS, "la_bm_off", off);
    p.set_inode(inode, "id1_high", total);
    p.set_inode(inode, "id1_low", used);
}

/// Puts a record into a truncate log.
fn truncate(p: &mut Patch, start: u64, clusters: u64) {
    let inode = p.system(SystemFile::TruncateLog(S0));
    p.set(inode, 0xC0, TruncateLog::FIELDS, "tl_used", 1);
    p.set(inode, 0xC8, TruncateRec::FIELDS, "t_start", start);
    p.set(inode, 0xC8, TruncateRec::FIELDS, "t_clusters", clusters);
}

/// A cluster that a file uses.
fn used_cluster(p: &Patch) -> u64 {
    let file = p.inode("/holes/middle");
    p.rec(file, 0xC0, 0, "e_blkno") / p.info.geo.blocks_per_cluster()
}

/// The list of extents in the descriptor of a discontiguous group.
fn pieces(p: &Patch) -> u64 {
    let inode = p.system(InodeAlloc(S0));
    (0..2)
        .map(|i| p.get(inode, 0xD0 + 16 * i, ChainRec::FIELDS, "c_blkno"))
        .find(|group| p.get(*group, 0x140, ExtentList::FIELDS, "l_next_free_rec") > 0)
        .unwrap()
}

/// The first extent block of a file.
fn extent_block(p: &Patch, path: &str) -> u64 {
    let inode = p.inode(path);
    assert!(p.get(inode, 0xC0, ExtentList::FIELDS, "l_tree_depth") > 0);
    p.rec(inode, 0xC0, 0, "e_blkno")
}

/// An entry of the users' quota file that is not of number 0: its block and offset.
fn quota_entry(p: &Patch) -> (u64, usize) {
    let volume = p.volume();
    let file = BlockNo(p.system(SystemFile::UserQuota));
    let quota = GlobalQuota::open(volume.view(), file, GLOBAL_QUOTA_MAGIC[0]).unwrap();
    let (mut leaf, mut found) = (0, None);
    quota.walk(&mut |met| match met {
        Met::Leaf(blkno) => leaf = blkno.0,
        Met::Entry(entry) if entry.dqb_id.get() != 0 && entry.dqb_curinodes.get() != 0 => {
            found = Some((leaf, entry.dqb_id.get()));
        }
        _ => {}
    });
    let (leaf, id) = found.unwrap();
    let block = p.read(leaf);
    // Entries follow a head of 16 bytes.
    let mut at = (16..block.len()).step_by(88);
    let at = at.find(|at| block[*at..*at + 4] == id.to_le_bytes());
    (leaf, at.unwrap())
}

crate::define! {
    BAD_CRC32 BadCrc "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        p.raw(inode, 0x18, &[1, 2, 3, 4]);
    };
    X_ECC_ONE_BIT EccOneBit "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        let byte = p.read(inode)[0x20];
        p.raw(inode, 0x20, &[byte ^ 4]);
    };
    X_ECC_TWO_BITS EccTwoBits "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        let bytes = p.read(inode);
        p.raw(inode, 0x20, &[bytes[0x20] ^ 4]);
        p.raw(inode, 0x40, &[bytes[0x40] ^ 1]);
    };
    X_ECC_BURST EccBurst "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        p.raw(inode, 0x20, &[0x9A, 0x5C]);
    };
    X_ECC_OF_CHECK EccOfCheck "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        let byte = p.read(inode)[0x81];
        p.raw(inode, 0x81, &[byte ^ 0x10]);
    };
    X_ECC_PARITY EccParity "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        p.raw(inode, 0x84, &[0xFF, 0x3C]);
    };
    X_RESERVED Reserved "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        p.set(inode, 0xC0, ExtentList::FIELDS, "l_reserved2", 7);
    };
    X_UNREADABLE Unreadable "b4k-c4k-max": |p| {
        let inode = p.inode("/holes/only");
        p.fail(inode);
    };
    SUPERBLOCK_CLUSTERS SuperblockClusters "b4k-c4k-max": |p| {
        let inode = p.system(GlobalBitmap);
        p.set_inode(inode, "i_clusters", 99);
    };
    X_FIRST_GROUP FirstGroup "b4k-c4k-max": |p| p.set_super("s_first_cluster_group", 77);
    X_TUNEFS_UNFINISHED TunefsUnfinished "b4k-c4k-max": |p| {
        let now = u64::from(p.info.features.incompat.bits());
        p.set_super("s_feature_incompat", now | 0x20);
    };
    X_ERROR_STATE ErrorState "b4k-c4k-max": |p| p.set_super("s_state", 1);
    RECOVER_BACKUP_SUPERBLOCK RecoverBackup "backups": |p| p.raw(2, 0, &[0; 4096]);
    X_BACKUP_SUPER_INVALID BackupInvalid "backups": |p| p.raw((1 << 30) / 4096, 0, &[0; 4096]);
    X_BACKUP_SUPER_STALE BackupStale "backups": |p| {
        p.set((1 << 30) / 4096, 0xC0, SuperBlock::FIELDS, "s_max_slots", 9);
    };
    X_SYSTEM_FILE_MISSING SystemFileMissing "b4k-c4k-max": |p| rename_system(p, "journal:0000");
    ORPHAN_DIR_MISSING OrphanDirMissing "b4k-c4k-max": |p| rename_system(p, "orphan_dir:0000");
    X_SUPERBLOCK_GEN SuperblockGen "b4k-c4k-max": |p| {
        let old = p.get(2, 0, Dinode::FIELDS, "i_fs_generation");
        p.set(2, 0, Dinode::FIELDS, "i_fs_generation", old ^ 0x5A5A);
    };
    X_SUPERBLOCK_LOST SuperblockLost "b4k-c4k-max": |p| p.raw(2, 0, &[0; 4096]);
    X_SYSTEM_DIR_LOST SystemDirLost "b4k-c4k-max": |p| {
        let inode = p.info.system_dir.0;
        p.raw(inode, 0, &[0; 4096]);
    };
    X_SYSTEM_DIR_BLOCK SystemDirBlock "b1k-c4k-default": |p| {
        let (block, at) = p.entry("//", "slot_map");
        p.edit(block, |bytes| bytes[at + 8] = 1);
    };
    X_QUOTA_INVALID QuotaInvalid "b4k-c4k-max": |p| {
        let inode = p.system(SystemFile::GroupQuota);
        let block = p.rec(inode, 0xC0, 0, "e_blkno");
        p.raw(block, 0, &[0; 4]);
    };
    X_QUOTA_USAGE QuotaUsage "quota-limits": |p| {
        let (leaf, at) = quota_entry(p);
        p.put_quota(leaf, at + 0x18, &77u64.to_le_bytes());
    };
    X_SLOT_HELD SlotHeld "b4k-c4k-max": |p| {
        let inode = p.system(SlotMap);
        let block = p.rec(inode, 0xC0, 0, "e_blkno");
        p.raw(block, 8, &[1, 0, 0, 0, 7, 0, 0, 0]);
    };
    X_SYSTEM_FILE_LOST SystemFileLost "b4k-c4k-max": |p| {
        let inode = p.system(Journal(Slot(1)));
        p.raw(inode, 0, &[0; 4096]);
    };
    X_HEARTBEAT_INVALID HeartbeatInvalid "b4k-c4k-max": |p| {
        let inode = p.system(Heartbeat);
        p.set_inode(inode, "i_size", 4096);
    };
    X_SYSTEM_FILE_KIND SystemFileKind "b4k-c4k-max": |p| {
        let inode = p.system(Heartbeat);
        p.set_inode(inode, "i_flags", 0x11);
    };
    JOURNAL_FILE_INVALID JournalInvalid "b4k-c4k-max": |p| journal(p, 1, "h_magic", 0);
    JOURNAL_UNKNOWN_FEATURE JournalUnknownFeature "b4k-c4k-max": |p| {
        journal(p, 1, "s_feature_incompat", 8);
    };
    JOURNAL_MISSING_FEATURE JournalMissingFeature "b4k-c4k-max": |p| {
        journal(p, 1, "s_feature_incompat", 1);
    };
    JOURNAL_TOO_SMALL JournalTooSmall "b4k-c4k-max": |p| {
        let inode = p.system(Journal(Slot(1)));
        p.set_inode(inode, "i_clusters", 1000);
    };
    X_JOURNAL_PENDING JournalPending "dirty-journal": |_| {};
    X_SLOT_UNRECOVERED SlotUnrecovered "orphans": |_| {};
    X_SLOT_MAP_INVALID SlotMapInvalid "b4k-c4k-max": |p| {
        let inode = p.system(SlotMap);
        p.set_inode(inode, "i_size", 3);
    };

    CHAIN_CPG ChainCpg "b4k-c4k-max": |p| chains(p, GlobalBitmap, "cl_cpg", 4);
    X_CHAIN_BPC ChainBpc "b4k-c4k-max": |p| chains(p, GlobalBitmap, "cl_bpc", 7);
    GROUP_UNEXPECTED_DESC GroupUnexpected "b4k-c4k-max": |p| {
        let other = p.group(InodeAlloc(S0));
        chain(p, GlobalBitmap, "c_blkno", other);
    };
    GROUP_EXPECTED_DESC GroupExpected "b4k-c4k-max": |p| {
        let other = p.group(InodeAlloc(S0));
        chain(p, GlobalBitmap, "c_blkno", other);
    };
    X_GROUP_UNLINKED GroupUnlinked "b4k-c4k-max": |p| {
        chain(p, InodeAlloc(S0), "c_blkno", 0);
        let inode = p.system(InodeAlloc(S0));
        p.set(inode, 0xC0, ChainList::FIELDS, "cl_next_free_rec", 0);
    };
    GROUP_GEN GroupGen "b4k-c4k-max": |p| group(p, "bg_generation", 3);
    GROUP_PARENT GroupParent "b4k-c4k-max": |p| group(p, "bg_parent_dinode", 99);
    GROUP_DUPLICATE GroupDuplicate "b4k-c4k-max": |p| {
        let other = p.group(ExtentAlloc(S0));
        chain(p, ExtentAlloc(Slot(1)), "c_blkno", other);
        chains(p, ExtentAlloc(Slot(1)), "cl_next_free_rec", 1);
    };
    GROUP_BLKNO GroupBlkno "b4k-c4k-max": |p| group(p, "bg_blkno", 5);
    GROUP_CHAIN GroupChain "b4k-c4k-max": |p| group(p, "bg_chain", 2);
    GROUP_FREE_BITS GroupFreeBits "b4k-c4k-max": |p| group(p, "bg_free_bits_count", 3);
    X_GROUP_BITS GroupBits "b4k-c4k-max": |p| group(p, "bg_bits", 512);
    X_GROUP_SIZE GroupSize "b4k-c4k-max": |p| group(p, "bg_size", 200);
    X_GROUP_SELF_BIT GroupSelfBit "b4k-c4k-max": |p| {
        let group = p.group(InodeAlloc(S0));
        p.flip_bit(group, 0);
    };
    X_GROUP_TAIL_BITS GroupTailBits "b4k-c4k-max": |p| {
        let group = p.group(InodeAlloc(S0));
        p.edit(group, |bytes| bytes[0x40 + 255] = 0x80);
    };
    GROUP_CHAIN_LOOP GroupChainLoop "b4k-c4k-max": |p| {
        let own = p.group(InodeAlloc(S0));
        group(p, "bg_next_group", own);
    };
    CHAIN_COUNT ChainCount "b4k-c4k-max": |p| chains(p, InodeAlloc(S0), "cl_count", 9999);
    CHAIN_NEXT_FREE ChainNextFree "b4k-c4k-max": |p| {
        chains(p, InodeAlloc(S0), "cl_next_free_rec", 9999);
    };
    CHAIN_EMPTY ChainEmpty "b4k-c4k-max": |p| chain(p, InodeAlloc(S0), "c_blkno", 0);
    X_CHAIN_UNUSED ChainUnused "b4k-c4k-max": |p| {
        let inode = p.system(InodeAlloc(S0));
        let used = p.get(inode, 0xC0, ChainList::FIELDS, "cl_next_free_rec");
        let rec = 0xD0 + 16 * usize::try_from(used).unwrap();
        p.set(inode, rec, ChainRec::FIELDS, "c_blkno", 5);
    };
    CHAIN_I_CLUSTERS ChainIClusters "b4k-c4k-max": |p| {
        let inode = p.system(InodeAlloc(S0));
        p.set_inode(inode, "i_clusters", 3);
    };
    CHAIN_I_SIZE ChainISize "b4k-c4k-max": |p| {
        let inode = p.system(InodeAlloc(S0));
        p.set_inode(inode, "i_size", 3);
    };
    CHAIN_GROUP_BITS ChainGroupBits "b4k-c4k-max": |p| {
        let inode = p.system(InodeAlloc(S0));
        p.set_inode(inode, "id1_low", 3);
    };
    CHAIN_HEAD_LINK_RANGE ChainHeadRange "b4k-c4k-max": |p| chain(p, InodeAlloc(S0), "c_blkno", FAR);
    CHAIN_LINK_MAGIC ChainLinkMagic "b4k-c4k-max": |p| {
        let inode = p.info.root.0;
        chain(p, InodeAlloc(S0), "c_blkno", inode);
    };
    CHAIN_LINK_GEN ChainLinkGen "b4k-c4k-max": |p| {
        group(p, "bg_parent_dinode", 99);
        group(p, "bg_generation", 3);
    };
    CHAIN_LINK_RANGE ChainLinkRange "b4k-c4k-max": |p| group(p, "bg_next_group", FAR);
    CHAIN_BITS ChainBits "b4k-c4k-max": |p| chain(p, GlobalBitmap, "c_free", 7);
    DISCONTIG_BG_DEPTH DiscontigDepth "discontiguous": |p| {
        let group = pieces(p);
        p.set_list(group, 0x140, "l_tree_depth", 1);
    };
    DISCONTIG_BG_COUNT DiscontigCount "discontiguous": |p| {
        let group = pieces(p);
        p.set_list(group, 0x140, "l_count", 9999);
    };
    DISCONTIG_BG_NEXT_FREE_REC DiscontigNextFree "discontiguous": |p| {
        let group = pieces(p);
        p.set_list(group, 0x140, "l_next_free_rec", 9999);
    };
    DISCONTIG_BG_REC_RANGE DiscontigRange "discontiguous": |p| {
        let group = pieces(p);
        p.set_rec(group, 0x140, 1, "e_blkno", FAR);
    };
    DISCONTIG_BG_CLUSTERS DiscontigClusters "discontiguous": |p| {
        let group = pieces(p);
        p.set_rec(group, 0x140, 1, "e_leaf_clusters", 1);
    };
    INODE_ALLOC_REPAIR InodeBitUnused "b4k-c4k-max": |p| {
        let group = p.group(InodeAlloc(S0));
        let bit = p.bit_that_is(group, false);
        p.flip_bit(group, bit);
    };
    INODE_ALLOC_REPAIR InodeBitFree "b4k-c4k-max": |p| {
        let group = p.group(InodeAlloc(S0));
        let bit = p.bit_that_is(group, true);
        p.flip_bit(group, bit);
    };
    X_INODE_COPY InodeCopy "b4k-c4k-max": |p| {
        let group = p.group(InodeAlloc(S0));
        let bit = p.bit_that_is(group, false);
        let mut inode = p.read(p.inode("/holes/only"));
        p.put(group + u64::try_from(bit).unwrap(), &mut inode, Some(Dinode::CHECK_AT));
    };
    X_EXTENT_ALLOC_BIT MetaBitFree "b4k-c4k-max": |p| {
        let block = extent_block(p, "/fragmented/whole");
        let bit = p.get(block, 0, ExtentBlock::FIELDS, "h_suballoc_bit");
        p.flip_bit(block - bit, usize::try_from(bit).unwrap());
    };
    X_EXTENT_ALLOC_LEAK MetaLeak "b4k-c4k-max": |p| {
        let group = p.group(ExtentAlloc(S0));
        let bit = p.bit_that_is(group, false);
        p.flip_bit(group, bit);
    };
    X_META_SHARED MetaShared "b4k-c4k-max": |p| {
        let (one, other) = (p.inode("/attributes/block"), p.inode("/attributes/buckets"));
        let block = p.inode_field(other, "i_xattr_loc");
        p.set_inode(one, "i_xattr_loc", block);
    };
    X_META_FOREIGN MetaForeign "b4k-c4k-max": |p| {
        let inode = p.inode("/attributes/block");
        let mut block = p.read(p.inode_field(inode, "i_xattr_loc"));
        let place = used_cluster(p) * p.info.geo.blocks_per_cluster();
        let own = XattrBlock::FIELDS.iter().find(|f| f.name == "xb_blkno").unwrap();
        assert!(own.set_number(&mut block, place));
        p.put(place, &mut block, Some(0x18));
        p.set_inode(inode, "i_xattr_loc", place);
    };
    X_SUBALLOC_FIELDS SuballocFields "b4k-c4k-max": |p| {
        let block = extent_block(p, "/fragmented/whole");
        p.add(block, 0, ExtentBlock::FIELDS, "h_suballoc_bit", 1);
    };
    CLUSTER_ALLOC_BIT ClusterFree "b4k-c4k-max": |p| {
        let (group, cluster) = (p.group(GlobalBitmap), used_cluster(p));
        p.flip_bit(group, usize::try_from(cluster).unwrap());
    };
    CLUSTER_ALLOC_BIT ClusterLeak "b4k-c4k-max": |p| {
        let group = p.group(GlobalBitmap);
        let bit = p.bit_that_is(group, false);
        p.flip_bit(group, bit);
    };
    DUP_CLUSTERS_CLONE DupClusters "b4k-c4k-max": |p| {
        let (one, other) = (p.inode("/holes/middle"), p.inode("/holes/only"));
        let block = p.rec(one, 0xC0, 0, "e_blkno");
        p.set_list(other, 0xC0, "l_next_free_rec", 1);
        p.set_rec(other, 0xC0, 0, "e_cpos", 0);
        p.set_rec(other, 0xC0, 0, "e_leaf_clusters", 1);
        p.set_rec(other, 0xC0, 0, "e_blkno", block);
    };
    DUP_CLUSTERS_SYSFILE_CLONE DupClustersSystem "b4k-c4k-max": |p| {
        let (file, journal) = (p.inode("/holes/middle"), p.system(Journal(S0)));
        let block = p.rec(journal, 0xC0, 0, "e_blkno");
        p.set_rec(file, 0xC0, 0, "e_blkno", block);
    };
    LALLOC_SIZE LallocSize "b4k-c4k-max": |p| {
        let inode = p.system(SystemFile::LocalAlloc(S0));
        p.set(inode, 0xC0, LocalAlloc::FIELDS, "la_size", 9999);
    };
    LALLOC_NZ_USED LallocNzUsed "b4k-c4k-max": |p| window(p, 0, 0, 4);
    LALLOC_NZ_BM LallocNzBm "b4k-c4k-max": |p| window(p, 4, 0, 0);
    LALLOC_BM_OVERRUN LallocOverrun "b4k-c4k-max": |p| window(p, 1 << 30, 8, 0);
    LALLOC_BM_SIZE LallocBmSize "b4k-c4k-max": |p| window(p, 100, 1 << 20, 0);
    LALLOC_BM_STRADDLE LallocStraddle "b4k-c4k-max": |p| {
        let clusters = u64::from(p.info.geo.clusters());
        window(p, clusters - 4, 8, 0);
    };
    LALLOC_USED_OVERRUN LallocUsedOverrun "b4k-c4k-max": |p| window(p, 100, 8, 9);
    LALLOC_USED LallocUsed "b4k-c4k-max": |p| window(p, 100, 8, 3);
    LALLOC_REPAIR LallocRepair "b4k-c4k-max": |p| {
        let cluster = used_cluster(p);
        window(p, cluster, 1, 0);
    };
    DEALLOC_COUNT DeallocCount "b4k-c4k-max": |p| {
        let inode = p.system(SystemFile::TruncateLog(S0));
        p.set(inode, 0xC0, TruncateLog::FIELDS, "tl_count", 9999);
    };
    DEALLOC_USED DeallocUsed "b4k-c4k-max": |p| {
        let inode = p.system(SystemFile::TruncateLog(S0));
        p.set(inode, 0xC0, TruncateLog::FIELDS, "tl_used", 9999);
    };
    TRUNCATE_REC_START_RANGE TruncateStart "b4k-c4k-max": |p| truncate(p, 1 << 30, 1);
    TRUNCATE_REC_WRAP TruncateWrap "b4k-c4k-max": |p| truncate(p, 100, 0xFFFF_FFFF);
    TRUNCATE_REC_RANGE TruncateRange "b4k-c4k-max": |p| truncate(p, 100, 1 << 30);
    X_TRUNCATE_REC_USED TruncateUsed "b4k-c4k-max": |p| {
        let cluster = used_cluster(p);
        truncate(p, cluster, 1);
    };
    X_TRUNCATE_REC_FREE TruncateFree "b4k-c4k-max": |p| {
        let group = p.group(GlobalBitmap);
        let cluster = p.bit_that_is(group, false) as u64;
        truncate(p, cluster, 1);
    };
}
