//! Codes of fsck.ocfs2 that are not codes here: what they are about is told under another one, or is
//! no problem of the volume.

/// A code of fsck.ocfs2 that is none of ours.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    /// The code of fsck.ocfs2.
    pub code: &'static str,
    /// Our codes for what it tells.
    pub ours: &'static [&'static str],
    /// Why there is no such code here.
    pub why: &'static str,
}

const fn elsewhere(
    code: &'static str,
    ours: &'static [&'static str],
    why: &'static str,
) -> Elsewhere {
    Elsewhere { code, ours, why }
}

/// What tells of blocks of quota files.
const QUOTA: &[&str] = &["BAD_CRC32", "X_ECC_BURST"];

/// All of them. A code that the catalogue has is never looked up here.
pub const ELSEWHERE: &[Elsewhere] = &[
    elsewhere(
        "EB_GEN_FIX",
        &["EB_GEN"],
        "It asks for one of two repairs of the same problem.",
    ),
    elsewhere(
        "INODE_GEN_FIX",
        &["INODE_GEN"],
        "It asks for one of two repairs of the same problem.",
    ),
    elsewhere(
        "RB_GEN_FIX",
        &["RB_GEN"],
        "It asks for one of two repairs of the same problem.",
    ),
    elsewhere(
        "LALLOC_CLEAR",
        &[
            "LALLOC_SIZE",
            "LALLOC_NZ_USED",
            "LALLOC_NZ_BM",
            "LALLOC_BM_OVERRUN",
        ],
        "It asks whether the local alloc is to be emptied once something is wrong with it.",
    ),
    elsewhere(
        "FIXED_CHAIN_CLUSTERS",
        &["SUPERBLOCK_CLUSTERS"],
        "It follows the repair of the global bitmap.",
    ),
    elsewhere(
        "DUP_CLUSTERS_DELETE",
        &["DUP_CLUSTERS_CLONE", "DUP_CLUSTERS_SYSFILE_CLONE"],
        "No file is deleted to settle who has a cluster.",
    ),
    elsewhere(
        "DUP_CLUSTERS_ADD_REFCOUNT",
        &["DUP_CLUSTERS_CLONE", "DUP_CLUSTERS_SYSFILE_CLONE"],
        "It offers another repair of the same problem.",
    ),
    elsewhere(
        "DX_TREE_MISSING",
        &[],
        "A directory without an index is read all the same, and mkfs.ocfs2 itself makes a system \
         directory that has none. Nothing is wrong.",
    ),
    elsewhere(
        "INODE_SPARSE_SIZE",
        &[],
        "A file may have clusters beyond its end: they were set aside for it (fallocate), or belong \
         to a quota file. Nothing is wrong.",
    ),
    elsewhere(
        "RECOVER_CLUSTER_INFO",
        &[],
        "No cluster stack needs to run here: whether a node is alive is told from its heartbeats.",
    ),
    elsewhere(
        "QMAGIC_INVALID",
        QUOTA,
        "A quota file that cannot be read costs its limits, not what its damaged blocks say.",
    ),
    elsewhere(
        "QTREE_BLK_INVALID",
        QUOTA,
        "A quota file that cannot be read costs its limits, not what its damaged blocks say.",
    ),
    elsewhere(
        "DQBLK_INVALID",
        QUOTA,
        "It asks whether limits from a damaged block are to be used.",
    ),
    elsewhere(
        "DUP_DQBLK_INVALID",
        QUOTA,
        "It asks which limits of two are to be used.",
    ),
    elsewhere(
        "DUP_DQBLK_VALID",
        QUOTA,
        "It asks which limits of two are to be used.",
    ),
    elsewhere(
        "DISCONTIG_BG_CORRUPT_LEAVES",
        &["DISCONTIG_BG_CLUSTERS", "DISCONTIG_BG_REC_RANGE"],
        "One code tells of all extents that do not make up a group.",
    ),
    elsewhere(
        "DISCONTIG_BG_LEAF_CLUSTERS",
        &["DISCONTIG_BG_CLUSTERS"],
        "One code tells of all extents that do not make up a group.",
    ),
    elsewhere(
        "DISCONTIG_BG_LESS_CLUSTERS",
        &["DISCONTIG_BG_CLUSTERS"],
        "One code tells of all extents that do not make up a group.",
    ),
    elsewhere(
        "DISCONTIG_BG_REC_CORRUPT",
        &["DISCONTIG_BG_CLUSTERS"],
        "One code tells of all extents that do not make up a group.",
    ),
    elsewhere(
        "DISCONTIG_BG_LIST_CORRUPT",
        &["DISCONTIG_BG_NEXT_FREE_REC", "DISCONTIG_BG_CLUSTERS"],
        "The list and its extents are told apart.",
    ),
];
