//! Problems of inodes and of the extent trees below them.

use super::problems;

problems! {
    /// Problems of inodes and extent trees.
    InodeProblem;

    /// An inode carries the generation of another, earlier formatting of the device. Drivers refuse it.
    InodeGen { found: u32 } = "INODE_GEN" Error ask
        "generation of the volume in the inode is {found:#010x}"
        => Blocks "the generation of the volume is written";

    /// An inode says that it lies in another block than it does. Drivers refuse it.
    InodeBlkno { found: u64 } = "INODE_BLKNO" Error ask
        "inode says that it is block {found}"
        => Blocks "the number of the block is written";

    /// An inode names another place in an inode allocator than the one it lies in. When it is deleted, another inode is marked as free.
    InodeSuballoc { slot: u16, bit: u16, expected_slot: u16, expected_bit: u32 } = "INODE_SUBALLOC" Error preen
        "inode says that it came from slot {slot} bit {bit}, but it is slot {expected_slot} bit {expected_bit}"
        => Marks "the place that it has is written";

    /// The root directory is no directory: nothing on the volume can be reached.
    RootNotDir {} = "ROOT_NOTDIR" Error ask
        "the root directory is no directory"
        => Trees "the root directory is marked as a directory, when its contents are those of one";

    /// An inode in use carries a time of deletion.
    NzDtime { dtime: u64 } = "INODE_NZ_DTIME" Error preen
        "inode is in use but carries a time of deletion ({dtime})"
        => Trees "the time is cleared";

    /// The type of an inode is none that the format knows.
    Mode { mode: u16 } = "X_INODE_MODE" Error ask
        "mode {mode:#o} names no type of file"
        => Trees "it becomes a directory when its contents are those of one, and a file otherwise; the permissions stay";

    /// The flags of an inode that belongs to users say that it is a structure of the volume. Drivers and fsck.ocfs2 then do not take it for the file or directory that it is.
    Flags { found: u32, flags: u32 } = "X_INODE_FLAGS" Error ask
        "flags {found:#x} include {flags:#x}, which only files of the volume itself have"
        => Trees "these flags are cleared";

    /// The room for attributes in an inode is smaller than any, or does not fit into it.
    InlineXattrSize { found: u64 } = "X_XATTR_INLINE_SIZE" Error ask
        "there cannot be room of {found} bytes for attributes in the inode"
        => Trees "the size that the superblock names is written";

    /// The target of a symbolic link stands in the inode, and at the same time the inode says that it has data.
    LinkFastData {} = "LINK_FAST_DATA" Error ask
        "link has its target in the inode, but inline data as well"
        => Trees "the mark of inline data is taken away";

    /// The target of a symbolic link must end with a zero byte.
    LinkNullterm {} = "LINK_NULLTERM" Error ask
        "target of the link does not end with a zero byte"
        => Trees "the target ends where the size says";

    /// The size of a symbolic link must be the length of its target.
    LinkSize { found: u64, expected: u64 } = "LINK_SIZE" Error preen
        "size of the link is {found}, its target has {expected} bytes"
        => Trees "the length of the target is written";

    /// A symbolic link has too few blocks for its target.
    LinkBlocks { found: u64, expected: u64 } = "LINK_BLOCKS" Error ask
        "link has {found} clusters, its size asks for {expected}"
        => Trees "the length of the target that is there is written";

    /// The size of a file or directory does not fit what is allocated for it: a directory's must be whole blocks that all exist; no file of a volume without holes can be larger than its clusters.
    Size { found: u64, limit: u64, why: &'static str } = "INODE_SIZE" Error ask
        "size {found} is not possible: {why} ({limit})"
        => Trees "the size that is possible is written; blocks of a directory are counted again";

    /// More data than fit into the inode are said to be stored in it.
    InlineSize { found: u64, expected: u64 } = "INODE_INLINE_SIZE" Error ask
        "size of the inline data is {found}, but must be {expected}"
        => Trees "the size that is possible is written";

    /// On a volume without holes, the number of clusters in an inode must be that up to the end of its last extent.
    Clusters { found: u32, expected: u64 } = "INODE_CLUSTERS" Error preen
        "inode says that it has {found} clusters, its extents have {expected}"
        => Trees "the clusters are counted again";

    /// The number of clusters in an inode is not that of its extents.
    SparseClusters { found: u32, expected: u64 } = "INODE_SPARSE_CLUSTERS" Error preen
        "inode says that it has {found} clusters, its extents have {expected}"
        => Trees "the clusters are counted again";

    /// An inode whose data stand in its own block must have no clusters.
    InlineClusters { found: u32 } = "INODE_INLINE_CLUSTERS" Error preen
        "inode has inline data, but says that it has {found} clusters"
        => Trees "the number is cleared";

    /// An inode has inline data although the volume does not have that feature.
    InlineFlag {} = "INLINE_DATA_FLAG_INVALID" Error ask
        "inode has inline data on a volume without that feature"
        => Volume "the volume gets the feature: the data cannot be read without it";

    /// The room for inline data is said to be larger than the inode's.
    InlineCount { found: u16, expected: u64 } = "INLINE_DATA_COUNT_INVALID" Error preen
        "room for inline data is said to be {found} bytes, but is {expected}"
        => Trees "the room that there is is written";

    /// An inode counts another number of names than directories hold. A count too small lets the file vanish while names for it are left.
    Count { found: u32, expected: u64 } = "INODE_COUNT" Error preen
        "link count is {found}, but {expected} names lead to the inode"
        => Links "the names are counted again";

    /// An inode in use has no name in any directory.
    NotConnected {} = "INODE_NOT_CONNECTED" Error preen
        "inode is in use, but no directory names it"
        => Links "it gets a name in lost+found";

    /// A file was deleted while in use and the machine stopped before its space was freed. It waits in the orphan directory; the next mount frees it.
    Orphaned { slot: u16 } = "INODE_ORPHANED" Note preen
        "inode waits in the orphan directory of slot {slot} to be freed"
        => Slots "the inode is deleted with all that belongs to it, as the next mount would do";

    /// An inode says that it waits in an orphan directory, and does not; or the other way round.
    OrphanFlag { why: &'static str } = "X_ORPHAN_FLAG" Error ask
        "inode {why}"
        => Trees "the mark is taken away where no orphan directory has it";

    /// A file is said to share clusters on a volume without refcount trees.
    RefcountFlag {} = "REFCOUNT_FLAG_INVALID" Error ask
        "inode has a refcount tree on a volume without that feature"
        => Volume "the volume gets the feature: shared clusters would be freed too early without it";

    /// An inode names the root of a refcount tree but does not say that it has one.
    RefcountLoc { found: u64 } = "REFCOUNT_LOC_INVALID" Error preen
        "inode names refcount tree {found}, but is not marked as having one"
        => Trees "the number is cleared";

    /// An extent block says that it lies in another block than it does.
    EbBlkno { found: u64 } = "EB_BLKNO" Error ask
        "extent block says that it is block {found}"
        => Blocks "the number of the block is written";

    /// An extent block carries the generation of another, earlier formatting of the device.
    EbGen { found: u32 } = "EB_GEN" Error ask
        "generation of the extent block is {found:#010x}, not the volume's"
        => Blocks "the generation of the volume is written";

    /// An extent tree leads to a block that is no extent block. What it mapped is lost.
    ExtentEbInvalid { why: String } = "EXTENT_EB_INVALID" Error ask
        "an extent tree leads here, but the block {why}"
        => Trees "the tree is made anew from the extents that can be made out; what the block mapped is lost";

    /// An extent tree leads to an extent block outside of the volume. What it mapped is lost.
    ExtentEbRange {} = "EXTENT_BLKNO_RANGE" Error ask
        "an extent tree leads to this block, which lies outside of the volume"
        => Trees "the tree is made anew from the extents that can be made out; what the block mapped is lost";

    /// An extent is marked as allocated but unwritten on a volume without that feature.
    MarkedUnwritten { cpos: u32 } = "EXTENT_MARKED_UNWRITTEN" Error preen
        "extent at {cpos} is marked as unwritten on a volume without that feature"
        => Volume "the volume gets the feature: stale data would show without it";

    /// An extent is marked as shared, but its file has no refcount tree.
    MarkedRefcounted { cpos: u32 } = "EXTENT_MARKED_REFCOUNTED" Error ask
        "extent at {cpos} is marked as shared, but the file has no refcount tree"
        => Trees "the mark is taken away";

    /// An extent must begin where a cluster begins; this one begins inside of one.
    ExtentUnaligned { cpos: u32, found: u64 } = "EXTENT_BLKNO_UNALIGNED" Error ask
        "extent at {cpos} begins at block {found}, inside of a cluster"
        => Trees "the extent begins where its cluster does";

    /// An extent reaches over the end of the volume.
    ExtentOverrun { cpos: u32, first: u64, count: u32 } = "EXTENT_CLUSTERS_OVERRUN" Error ask
        "extent at {cpos}, {count} clusters from block {first} on, reaches over the end of the volume"
        => Trees "the extent ends where the volume does";

    /// An extent maps blocks outside of the volume, or those of the superblock.
    ExtentRange { cpos: u32, found: u64 } = "EXTENT_BLKNO_RANGE" Error ask
        "extent at {cpos} begins at block {found}, where no data can be"
        => Trees "the tree is made anew without the extent";

    /// The depth of a list in an extent tree must be one less than its parent's, and at most 5 at the root.
    ListDepth { found: u16, expected: u16 } = "EXTENT_LIST_DEPTH" Error ask
        "list of extents has depth {found}, not {expected}"
        => Trees "the depth that the parent asks for is written";

    /// A list of extents claims room for more records than it has.
    ListCount { found: u16, expected: u64 } = "EXTENT_LIST_COUNT" Error preen
        "list of extents claims room for {found} records, but has room for {expected}"
        => Trees "the room that there is is written";

    /// A list of extents claims more records in use than it has room for.
    ListFree { found: u16, count: u64 } = "EXTENT_LIST_FREE" Error ask
        "list of extents has {found} records in use, but room for {count}"
        => Trees "the tree is made anew from the extents that can be made out";

    /// Extents of a file must follow each other; this one begins before the previous one ends, so that some positions have two places on the device.
    Overlap { cpos: u32, expected: u64 } = "EXTENT_OVERLAP" Error ask
        "extent at {cpos} begins before {expected}, where the previous one ends"
        => Trees "the tree is made anew without the extent";

    /// Directories, system files, values of attributes, and all files of a volume without that feature must have no holes.
    NoHoles { cpos: u64, count: u64 } = "NO_HOLES" Error ask
        "{count} clusters from {cpos} on are a hole, where none can be"
        => Trees "what is there moves together";

    /// An extent of no clusters may only be the first record of a leaf below a root.
    EmptyRec { cpos: u32 } = "X_EXTENT_EMPTY_REC" Error preen
        "extent at {cpos} has no clusters"
        => Trees "the tree is made anew without the record";

    /// The root of an extent tree must name the rightmost leaf; appending to the file writes there.
    LastEb { found: u64, expected: u64 } = "X_LAST_EB" Error preen
        "root of the extent tree says that block {found} is its last leaf, but it is {expected}"
        => Trees "the last leaf is named";

    /// Each leaf of an extent tree must name the next one.
    NextLeaf { found: u64, expected: u64 } = "X_NEXT_LEAF" Error preen
        "leaf of the extent tree says that block {found} is the next leaf, but it is {expected}"
        => Trees "the next leaf is named";

    /// What a subtree maps must lie between its key and the next one's, or lookups miss it.
    ParentRange { cpos: u32, first: u64, end: u64 } = "X_EXTENT_PARENT_RANGE" Error ask
        "key {cpos} lies outside of the range {first} to {end} that the parent gives to the subtree"
        => Trees "the tree is made anew from its extents";
}
