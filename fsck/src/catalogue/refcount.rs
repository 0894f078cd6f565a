//! Problems of refcount trees.

use super::problems;

problems! {
    /// Problems of refcount trees.
    RefcountProblem;

    /// A refcount block says that it lies in another block than it does.
    RbBlkno { found: u64 } = "RB_BLKNO" Error ask
        "refcount block says that it is block {found}"
        => Blocks "the number of the block is written";

    /// A refcount block carries the generation of another, earlier formatting of the device.
    RbGen { found: u32 } = "RB_GEN" Error ask
        "generation of the volume in the refcount block is {found:#010x}"
        => Blocks "the generation of the volume is written";

    /// A leaf of a refcount tree names another root than the one that leads to it.
    RbParent { found: u64, expected: u64 } = "RB_PARENT" Error preen
        "refcount block says that its root is block {found}, but it is {expected}"
        => Space "the root is named";

    /// All blocks of a refcount tree carry the same generation of the tree; this one has another.
    RbTreeGeneration { found: u32, expected: u32 } = "X_RB_TREE_GENERATION" Error preen
        "refcount block is of tree generation {found:#x}, its root of {expected:#x}"
        => Space "the generation of the root is written";

    /// The first key in a leaf of a refcount tree must be the one under which the tree lists it.
    RbCpos { found: u32, expected: u32 } = "X_RB_CPOS" Error preen
        "refcount block says that its first key is {found}, the tree that it is {expected}"
        => Space "the key of the tree is written";

    /// A list of refcount records claims more room than its block has.
    ListCount { found: u16, expected: u64 } = "REFCOUNT_LIST_COUNT" Error preen
        "list of records claims room for {found}, but has room for {expected}"
        => Blocks "the room that there is is written";

    /// A list of refcount records claims more records in use than it has room for.
    ListUsed { found: u16, count: u64 } = "REFCOUNT_LIST_USED" Error ask
        "{found} records are in use, but there is room for {count}"
        => Space "the tree is made anew from the mappings of its files";

    /// A refcount record names clusters that no file can have.
    ClusterRange { first: u64, count: u32 } = "REFCOUNT_CLUSTER_RANGE" Error ask
        "record of clusters {first} + {count} lies outside of the volume"
        => Space "the tree is made anew from the mappings of its files";

    /// Records of a refcount tree must be sorted and must not overlap, within a block and across blocks.
    Collision { first: u64, expected: u64 } = "REFCOUNT_CLUSTER_COLLISION" Error ask
        "record of cluster {first} begins before {expected}, where the previous one ends"
        => Space "the tree is made anew from the mappings of its files";

    /// A leaf of a refcount tree has no records; it should have been freed.
    ListEmpty {} = "REFCOUNT_LIST_EMPTY" Error preen
        "leaf of the refcount tree is empty"
        => Space "the tree is made anew from the mappings of its files";

    /// A refcount tree leads to a block that is no refcount block. The counts in it are lost.
    BlockInvalid { why: String } = "REFCOUNT_BLOCK_INVALID" Error ask
        "a refcount tree leads here, but the block {why}"
        => Space "the tree is made anew from the mappings of its files";

    /// The root of a refcount tree cannot be made out. Its files can be read, but not written.
    RootBlockInvalid { why: String } = "REFCOUNT_ROOT_BLOCK_INVALID" Error ask
        "root of a refcount tree should be here, but the block {why}"
        => Space "the tree is made anew from the mappings of its files";

    /// The root of a refcount tree miscounts its leaves.
    Clusters { found: u32, expected: u64 } = "REFCOUNT_CLUSTERS" Error preen
        "refcount tree says that it has {found} leaves, but it has {expected}"
        => Space "the leaves are counted again";

    /// A refcount record stands for clusters that no file of the tree maps as shared. They are never freed.
    Redundant { first: u32, count: u32, refcount: u64 } = "REFCOUNT_REC_REDUNDANT" Error preen
        "record counts {refcount} for clusters {first} + {count}, which nothing shares"
        => Space "the tree is made anew from the mappings of its files";

    /// A refcount record counts another number of mappings than files have. A count too small lets the clusters be freed while they are in use.
    CountInvalid { first: u32, count: u32, refcount: u64, expected: u64 } = "REFCOUNT_COUNT_INVALID" Error preen
        "record counts {refcount} for clusters {first} + {count}, but {expected} mappings share them"
        => Space "the tree is made anew from the mappings of its files";

    /// A refcount tree miscounts the files that belong to it. A count too small lets the tree be freed while it is in use.
    Count { found: u32, expected: u64 } = "REFCOUNT_COUNT" Error preen
        "refcount tree says that it has {found} files, but it has {expected}"
        => Space "the files are counted again";
}
