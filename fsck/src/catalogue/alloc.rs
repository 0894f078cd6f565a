//! Problems of allocators: chains, groups, bitmaps, local allocs, truncate logs, ownership.

use super::problems;

problems! {
    /// Problems of allocators.
    AllocProblem;

    /// The cluster allocator counts a different number of clusters in each group than the geometry of the volume asks for, or a suballocator gives groups of no clusters.
    ChainCpg { found: u16, expected: u32 } = "CHAIN_CPG" Error ask
        "groups have {found} clusters, but must have {expected}"
        => Groups "the size is written that follows from the geometry, or that other groups have";

    /// The number of bits a cluster has in an allocator follows from what it allocates: one in the cluster allocator, the blocks of a cluster elsewhere.
    ChainBpc { found: u16, expected: u16 } = "X_CHAIN_BPC" Error ask
        "a cluster has {found} bits, but must have {expected}"
        => Groups "the number that follows from the geometry is written";

    /// A descriptor hangs in the cluster allocator at a block where no group of clusters begins.
    GroupUnexpected {} = "GROUP_UNEXPECTED_DESC" Error ask
        "a group of clusters cannot begin here"
        => Groups "the groups are linked anew, each where it belongs";

    /// Where a group of clusters begins there must be its descriptor, linked into the cluster allocator; here it is not. Its clusters cannot be allocated.
    GroupExpected { group: u32 } = "GROUP_EXPECTED_DESC" Error ask
        "the descriptor of cluster group {group} is not linked into the global bitmap"
        => Groups "the groups are linked anew, each where it belongs";

    /// A group descriptor carries the generation of another, earlier formatting of the device.
    GroupGen { found: u32 } = "GROUP_GEN" Error ask
        "generation of the group descriptor is {found:#010x}, not the volume's"
        => Blocks "the generation of the volume is written";

    /// A group descriptor names another allocator inode than the one whose chain leads to it.
    GroupParent { found: u64, expected: u64 } = "GROUP_PARENT" Error ask
        "group descriptor says that it belongs to allocator {found}, but hangs in {expected}"
        => Groups "the allocator is written; or, where another one owns the group, the chains of both are linked anew";

    /// A group descriptor was reached through two allocators or two chains; its blocks would be given out twice.
    GroupDuplicate { other: u64 } = "GROUP_DUPLICATE" Error ask
        "group descriptor hangs in allocator {other} as well"
        => Groups "the group is left to the allocator that more of its blocks say they came from";

    /// A group descriptor names an allocator, but hangs in none of its chains, and its clusters count for nothing; or inodes say that they came from a group which no chain has. What came from the group seems not to be in use.
    GroupUnlinked {} = "X_GROUP_UNLINKED" Error ask
        "group hangs in none of the chains of the allocator that it names"
        => Groups "the groups of the allocator are looked for on the volume and linked anew";

    /// A group descriptor says that it lies in another block than it does.
    GroupBlkno { found: u64 } = "GROUP_BLKNO" Error ask
        "group descriptor says that it is block {found}"
        => Blocks "the number of the block is written; two descriptors that stand in each other's place change it";

    /// A group descriptor names another chain of its allocator than the one it hangs in.
    GroupChain { found: u16, expected: u64 } = "GROUP_CHAIN" Error preen
        "group descriptor says that it is in chain {found}, but is in {expected}"
        => Groups "the number of the chain is written";

    /// The number of free bits in a group descriptor is not that of its bitmap. A number too large lets the driver look for space that is not there.
    GroupFreeBits { found: u16, expected: u32 } = "GROUP_FREE_BITS" Error preen
        "group descriptor says that {found} bits are free, its bitmap that {expected} are"
        => Groups "the bits are counted again";

    /// The number of bits of a group is fixed by its allocator, except in the last group of the volume; the descriptor has another one.
    GroupBits { found: u16, expected: u32 } = "X_GROUP_BITS" Error ask
        "group has {found} bits, but must have {expected}"
        => Groups "the number that its allocator asks for is written";

    /// The size of a group's bitmap is fixed by the block size and the features of the volume; the descriptor has another one.
    GroupSize { found: u16, expected: u16 } = "X_GROUP_SIZE" Error ask
        "bitmap of the group has {found} bytes, but must have {expected}"
        => Groups "the size that the volume asks for is written";

    /// The first bit of a group stands for its own descriptor and must be set, or the descriptor may be overwritten.
    GroupSelfBit {} = "X_GROUP_SELF_BIT" Error preen
        "group descriptor is not marked as used in its own bitmap"
        => Groups "the bit is set";

    /// Bits of a bitmap behind the last bit of its group stand for nothing and must be clear.
    GroupTailBits { count: u32 } = "X_GROUP_TAIL_BITS" Warning preen
        "{count} bits are set behind the end of the group"
        => Groups "the bits are cleared";

    /// A chain of groups comes back to a group that it has already passed. Drivers follow it for ever.
    GroupChainLoop { chain: u64 } = "GROUP_CHAIN_LOOP" Error ask
        "chain {chain} loops back to this group descriptor"
        => Groups "the groups are linked anew";

    /// The list of chains in an allocator inode claims more room than the inode has.
    ChainCount { found: u16, expected: u64 } = "CHAIN_COUNT" Error preen
        "list of chains claims room for {found}, but has room for {expected}"
        => Groups "the room that there is is written";

    /// The list of chains in an allocator inode claims more chains in use than it has room for.
    ChainNextFree { found: u16, count: u64 } = "CHAIN_NEXT_FREE" Error preen
        "{found} chains are in use, but there is room for {count}"
        => Groups "the groups are looked for on the volume and linked anew";

    /// Records of chains that are not in use must be zero: the driver adds the bits of the first group of a new chain to what stands there, and links the group to the block that it names.
    ChainUnused { chain: u64 } = "X_CHAIN_UNUSED" Error preen
        "record of chain {chain}, which is not in use, is not zero"
        => Groups "the record is cleared; when it leads to a group of the allocator, the groups are linked anew";

    /// A chain that is in use has no group. Chains in use must come first in the list, and each must have one.
    ChainEmpty { chain: u64 } = "CHAIN_EMPTY" Error preen
        "chain {chain} is in use but has no group"
        => Groups "the groups are looked for on the volume and linked anew";

    /// The number of clusters in an allocator inode is not that of its groups.
    ChainIClusters { found: u32, expected: u64 } = "CHAIN_I_CLUSTERS" Error preen
        "allocator says that it has {found} clusters, its groups have {expected}"
        => Groups "the clusters of the groups are counted again";

    /// The size of an allocator inode must be that of its clusters.
    ChainISize { found: u64, expected: u64 } = "CHAIN_I_SIZE" Warning preen
        "size of the allocator is {found}, but must be {expected}"
        => Groups "the size of its clusters is written";

    /// The counts of used and all bits in an allocator inode are not those of its groups.
    ChainGroupBits { used: u32, total: u32, expected_used: u64, expected_total: u64 } = "CHAIN_GROUP_BITS" Error preen
        "allocator says that {used} of {total} bits are used, its groups that {expected_used} of {expected_total} are"
        => Groups "the bits of the groups are counted again";

    /// A chain of an allocator begins at a block that cannot hold a group descriptor.
    ChainHeadRange { chain: u64, found: u64 } = "CHAIN_HEAD_LINK_RANGE" Error ask
        "chain {chain} begins at block {found}, outside of the volume"
        => Groups "the groups are looked for on the volume and linked anew";

    /// A chain leads to a block that is no group descriptor of this volume. Its groups from there on cannot be reached.
    ChainLinkMagic { why: String } = "CHAIN_LINK_MAGIC" Error ask
        "a chain leads here, but the block {why}"
        => Groups "the descriptor is made anew from the blocks that came from its group, and the groups are linked anew";

    /// A chain leads to a descriptor of another, earlier formatting of the device: besides the generation, its block number or allocator is wrong too.
    ChainLinkGen { found: u32 } = "CHAIN_LINK_GEN" Error ask
        "a chain leads to a group descriptor of another volume (generation {found:#010x})"
        => Groups "the descriptor is made anew from the blocks that came from its group, and the groups are linked anew";

    /// A chain leads to a block outside of the volume. Its groups from there on cannot be reached.
    ChainLinkRange {} = "CHAIN_LINK_RANGE" Error ask
        "a chain leads to this block, which lies outside of the volume"
        => Groups "the groups are looked for on the volume and linked anew";

    /// The counts of free and all bits of a chain are not the sums over its groups.
    ChainBits { chain: u64, free: u32, total: u32, expected_free: u64, expected_total: u64 } = "CHAIN_BITS" Error preen
        "chain {chain} says that {free} of {total} bits are free, its groups that {expected_free} of {expected_total} are"
        => Groups "the bits of the chain are counted again";

    /// A group of several extents lists them flat; its list claims to have levels.
    DiscontigDepth { found: u16 } = "DISCONTIG_BG_DEPTH" Error ask
        "list of the group's extents has depth {found}, but must be flat"
        => Groups "the list is marked as flat";

    /// The list of the extents of a group claims more room than the descriptor has.
    DiscontigCount { found: u16, expected: u64 } = "DISCONTIG_BG_COUNT" Error preen
        "list of the group's extents claims room for {found}, but has room for {expected}"
        => Groups "the room that there is is written";

    /// The list of the extents of a group claims more extents in use than there is room for.
    DiscontigNextFree { found: u16, count: u64 } = "DISCONTIG_BG_NEXT_FREE_REC" Error ask
        "{found} extents of the group are in use, but there is room for {count}"
        => Groups "the extents that make up a group are counted again";

    /// An extent of a group lies outside of the volume or does not begin with a cluster.
    DiscontigRange { found: u64 } = "DISCONTIG_BG_REC_RANGE" Error ask
        "extent of the group at block {found} cannot be: outside of the volume or not aligned"
        => Groups "the extent is found by its blocks, which name their group, among the clusters that nothing else uses; so is the whole list, when none of it can be made out";

    /// The extents of a group must follow each other without gaps, beginning with the descriptor, and hold as many clusters as every group of the allocator.
    DiscontigClusters { found: u64, expected: u64 } = "DISCONTIG_BG_CLUSTERS" Error ask
        "extents of the group hold {found} clusters in order, but must hold {expected}"
        => Groups "each extent gets the length up to where the next one begins";

    /// A block of an inode allocator is marked as used but holds no inode in use. The block is lost for new inodes.
    InodeBitUnused { bit: u32, why: &'static str } = "INODE_ALLOC_REPAIR" Error ask
        "bit {bit} of the inode allocator is set, but the block {why}"
        => Marks "the bit is cleared, and names that lead there are taken away; an inode of the volume itself is made anew, and so is that of a directory whose blocks say that they are of it (for root alone to enter: its owner and mode are lost)";

    /// A block of an inode allocator holds an inode in use but is marked as free: the next new inode may overwrite it.
    InodeBitFree { bit: u32 } = "INODE_ALLOC_REPAIR" Error preen
        "inode is in use, but bit {bit} of its allocator group is clear"
        => Marks "the bit is set";

    /// A free block of an inode allocator holds a copy of an inode in use. Linux does not look into free blocks, but fsck.ocfs2 takes the copy for an inode.
    InodeCopy { bit: u32, of: u64 } = "X_INODE_COPY" Note preen
        "bit {bit} of the inode allocator is clear, but the block holds a copy of inode {of}"
        => Marks "the copy is marked as deleted, once nothing is wrong with the inode itself";

    /// A block of metadata is in use but marked as free in its allocator: the next block of metadata may overwrite it.
    MetaBitFree { bit: u32, what: &'static str } = "X_EXTENT_ALLOC_BIT" Error preen
        "{what} is in use, but bit {bit} of its allocator group is clear"
        => Marks "the bit is set";

    /// Blocks are marked as used in a metadata allocator, but nothing refers to them: space is lost until the bits are cleared.
    MetaLeak { first: u32, count: u32 } = "X_EXTENT_ALLOC_LEAK" Warning preen
        "{count} blocks from bit {first} on are marked as used, but nothing uses them"
        => Space "the bits are cleared";

    /// Two structures use the same block of metadata: a change of one destroys the other.
    MetaShared { what: &'static str } = "X_META_SHARED" Error ask
        "{what} is used by more than one owner"
        => Trees "the inode with the lowest number keeps it; what the others have in it is laid out anew, in blocks of their own";

    /// A block of metadata lies where no allocator gives out blocks. It will be overwritten when the cluster is given to a file.
    MetaForeign { what: &'static str } = "X_META_FOREIGN" Error ask
        "{what} lies in no group of an allocator"
        => Trees "what is in it is laid out anew, in blocks of an allocator";

    /// A block of metadata names a place in an allocator that is not its own. When it is freed, a block of somebody else is marked as free.
    SuballocFields { what: &'static str, slot: u16, bit: u16, expected_slot: u16, expected_bit: u32 } = "X_SUBALLOC_FIELDS" Error preen
        "{what} says that it came from slot {slot} bit {bit}, but it is slot {expected_slot} bit {expected_bit}"
        => Marks "the place that it has is written";

    /// Clusters are in use but marked as free: they may be given to another file, whose data then overwrite these.
    ClusterFree { first: u32, count: u32 } = "CLUSTER_ALLOC_BIT" Error preen
        "clusters {first} + {count} are in use but marked as free"
        => Marks "the clusters are marked as used";

    /// Clusters are marked as used, but nothing uses them: space is lost until the bits are cleared. While damage hides who may use them they stay as they are; but where a repair that somebody decided on finds no space, those without metadata are freed.
    ClusterLeak { first: u32, count: u32 } = "CLUSTER_ALLOC_BIT" Warning preen
        "clusters {first} + {count} are marked as used, but nothing uses them"
        => Space "the clusters are marked as free";

    /// Clusters are claimed by this file and by something else, without being shared through a refcount tree. Data of at least one of the two is wrong, and a write to one changes the other.
    DupClusters { first: u32, count: u32, other: u64 } = "DUP_CLUSTERS_CLONE" Error ask
        "clusters {first} + {count} are claimed by {other} as well"
        => Trees "the file with the higher number gets a copy of its own; a file gets it rather than a directory";

    /// Clusters are claimed by this system file or allocator and by something else. System structures take precedence over files.
    DupClustersSystem { first: u32, count: u32, other: u64 } = "DUP_CLUSTERS_SYSFILE_CLONE" Error ask
        "clusters {first} + {count} of a system file are claimed by {other} as well"
        => Trees "the system file keeps them, and a file that uses them gets a copy; where that cannot be moved, a journal, quota file, slot map or heartbeat file gives way and is made anew";

    /// The bitmap of a local alloc fills the rest of its inode; the inode gives it another size.
    LallocSize { found: u16, expected: u16 } = "LALLOC_SIZE" Error preen
        "bitmap of the local alloc has {found} bytes, but must have {expected}"
        => Space "the size that there is is written";

    /// A local alloc that holds no window must count no bits.
    LallocNzUsed { found: u32 } = "LALLOC_NZ_USED" Error preen
        "local alloc has no window, but {found} used bits"
        => Space "the window is given back";

    /// A local alloc that holds no window must not name a first cluster.
    LallocNzBm { found: u32 } = "LALLOC_NZ_BM" Error preen
        "local alloc has no window, but one that begins at cluster {found}"
        => Space "the window is given back";

    /// The window of a local alloc begins beyond the end of the volume.
    LallocOverrun { found: u32 } = "LALLOC_BM_OVERRUN" Error preen
        "window of the local alloc begins at cluster {found}, beyond the end of the volume"
        => Space "the window is given back";

    /// The window of a local alloc has more clusters than its bitmap has bits.
    LallocBmSize { found: u32, expected: u32 } = "LALLOC_BM_SIZE" Error preen
        "window of the local alloc has {found} clusters, its bitmap only {expected} bits"
        => Space "the window is given back";

    /// The window of a local alloc reaches over the end of the volume.
    LallocStraddle { first: u32, count: u32 } = "LALLOC_BM_STRADDLE" Error preen
        "window of the local alloc, clusters {first} + {count}, reaches over the end of the volume"
        => Space "the window is given back";

    /// A local alloc counts more used bits than its window has.
    LallocUsedOverrun { found: u32, total: u32 } = "LALLOC_USED_OVERRUN" Error preen
        "local alloc counts {found} used bits in a window of {total}"
        => Space "the window is given back";

    /// A local alloc counts another number of used bits than its bitmap has.
    LallocUsed { found: u32, expected: u32 } = "LALLOC_USED" Error preen
        "local alloc counts {found} used bits, its bitmap has {expected}"
        => Space "the bits are counted again";

    /// A local alloc marks clusters of its window as free that are in use, or as handed out that nobody uses; or clusters of the window are free in the global bitmap.
    LallocRepair { first: u32, count: u32, why: &'static str } = "LALLOC_REPAIR" Error preen
        "window of the local alloc: clusters {first} + {count} {why}"
        => Space "the window is given back";

    /// A truncate log claims more room for records than its inode has.
    DeallocCount { found: u16, expected: u64 } = "DEALLOC_COUNT" Error preen
        "truncate log claims room for {found} records, but has room for {expected}"
        => Space "the room that there is is written";

    /// A truncate log claims more records in use than it has room for.
    DeallocUsed { found: u16, count: u64 } = "DEALLOC_USED" Error ask
        "truncate log has {found} records in use, but room for {count}"
        => Space "the records are dropped; what they had for nothing is freed";

    /// A record of a truncate log begins beyond the end of the volume.
    TruncateStart { record: u64, start: u32 } = "TRUNCATE_REC_START_RANGE" Error preen
        "record {record} of the truncate log begins at cluster {start}, beyond the end of the volume"
        => Space "the record is dropped; what it had for nothing is freed";

    /// A record of a truncate log names clusters that are free, as an old copy of the log does: a driver that replays it takes the volume for damaged.
    TruncateFree { first: u32, count: u32 } = "X_TRUNCATE_REC_FREE" Error preen
        "truncate log would free clusters {first} + {count}, which are free already"
        => Space "the records that name them are dropped; what they held back besides is found as such and freed";

    /// A record of a truncate log has so many clusters that their numbers overflow.
    TruncateWrap { record: u64, start: u32, count: u32 } = "TRUNCATE_REC_WRAP" Error preen
        "record {record} of the truncate log, clusters {start} + {count}, overflows"
        => Space "the record is dropped; what it had for nothing is freed";

    /// A record of a truncate log reaches over the end of the volume.
    TruncateRange { record: u64, start: u32, count: u32 } = "TRUNCATE_REC_RANGE" Error preen
        "record {record} of the truncate log, clusters {start} + {count}, reaches over the end of the volume"
        => Space "the record is dropped; what it had for nothing is freed";

    /// A record of a truncate log names clusters that are in use: when it is replayed, they are marked as free and given to others.
    TruncateUsed { first: u32, count: u32 } = "X_TRUNCATE_REC_USED" Error ask
        "truncate log would free clusters {first} + {count}, which are in use"
        => Space "the record is dropped; what it had for nothing is freed";
}
