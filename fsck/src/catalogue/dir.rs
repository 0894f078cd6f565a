//! Problems of directories, of their indexes, and of the tree that they form.

use super::problems;

problems! {
    /// Problems of directories.
    DirProblem;

    /// A directory must have at least one block for its first two entries.
    Zero {} = "DIR_ZERO" Error ask
        "directory has no blocks"
        => Trees "the blocks of the directory are counted again; one that has none is empty from now on";

    /// A directory has a second entry named "." or "..".
    DottyDup { name: &'static str } = "DIRENT_DOTTY_DUP" Error ask
        "directory has a second entry \"{name}\""
        => Names "the entry is taken away; a file without a name gets one in lost+found";

    /// The first two entries of a directory must be "." and "..".
    NotDotty { expected: &'static str, found: String } = "DIRENT_NOT_DOTTY" Error ask
        "an entry is named \"{found}\" where \"{expected}\" must be"
        => Names "the entry is put there; a file without a name gets one in lost+found";

    /// The entry "." must lead to the directory itself.
    DotInode { found: u64 } = "DIRENT_DOT_INODE" Error preen
        "entry \".\" leads to inode {found}"
        => Names "the entry leads to the directory";

    /// The entry "." must take no more room than it needs.
    DotExcess { rec_len: u64 } = "DIRENT_DOT_EXCESS" Error preen
        "entry \".\" takes {rec_len} bytes, not 16"
        => Names "the entry takes what it needs; what it covered shows again";

    /// An entry in use has no name.
    NameZero { offset: u64 } = "DIRENT_ZERO" Error ask
        "entry at byte {offset} has an empty name"
        => Names "the entry is taken away; a file without a name gets one in lost+found";

    /// A name cannot hold a slash or a zero byte.
    NameChars { name: String } = "DIRENT_NAME_CHARS" Error ask
        "name \"{name}\" holds a slash or a zero byte"
        => Names "the bytes become underscores";

    /// An entry leads to a block outside of the volume.
    InodeRange { name: String, target: u64 } = "DIRENT_INODE_RANGE" Error ask
        "entry \"{name}\" leads to inode {target}, outside of the volume"
        => Names "the entry is taken away; a file of the volume itself gets an inode";

    /// An entry leads to a block that is no inode in use.
    InodeFree { name: String, target: u64 } = "DIRENT_INODE_FREE" Error ask
        "entry \"{name}\" leads to inode {target}, which is not in use"
        => Names "the entry is taken away; a file of the volume itself gets an inode";

    /// The type in an entry is not that of the inode it leads to.
    Type { name: String, found: u8, expected: u8 } = "DIRENT_TYPE" Error preen
        "entry \"{name}\" says type {found}, but the inode has type {expected}"
        => Names "the type of the inode is written";

    /// A directory can have only one entry that leads to it; this is another one.
    ParentDup { target: u64, first: u64 } = "DIR_PARENT_DUP" Error ask
        "an entry leads to directory {target}, which already has its place in directory {first}"
        => Names "the entry is taken away";

    /// Two entries of a directory have the same name; only one of them can be reached.
    Duplicate { name: String } = "DIRENT_DUPLICATE" Error ask
        "name \"{name}\" stands in the directory more than once"
        => Names "the second one gets another name; a second name of the same file goes";

    /// The length of an entry is not possible. What follows it in the block cannot be made out.
    Length { offset: u64, why: String } = "DIRENT_LENGTH" Error ask
        "entry at byte {offset} is not possible: {why}"
        => Names "the next sound entry follows; what lies between is free";

    /// The trailer of a directory block looks like a free entry to older drivers, so its inode field must be 0.
    TrailerInode { found: u64 } = "DIR_TRAILER_INODE" Error preen
        "inode field of the block's trailer is {found}, not 0"
        => Blocks "the field is cleared";

    /// The trailer of a directory block looks like a free entry to older drivers, so its name must be empty.
    TrailerNameLen { found: u8 } = "DIR_TRAILER_NAME_LEN" Error preen
        "name length in the block's trailer is {found}, not 0"
        => Blocks "the field is cleared";

    /// The trailer of a directory block looks like a free entry of its own size to older drivers.
    TrailerRecLen { found: u16 } = "DIR_TRAILER_REC_LEN" Error preen
        "length in the block's trailer is {found}, not 64"
        => Blocks "the size of a trailer is written";

    /// The trailer of a directory block says that it lies in another block than it does. The driver then refuses the directory.
    TrailerBlkno { found: u64 } = "DIR_TRAILER_BLKNO" Error ask
        "trailer says that it is block {found}"
        => Blocks "the number of the block is written";

    /// The trailer of a directory block names another directory. The driver then refuses the directory.
    TrailerParent { found: u64 } = "DIR_TRAILER_PARENT_INODE" Error ask
        "trailer says that the block belongs to directory {found}"
        => Blocks "the directory is named";

    /// Blocks of this directory must end with a trailer; here there is none. The driver then refuses the directory.
    TrailerSignature {} = "X_DIR_TRAILER_SIGNATURE" Error ask
        "directory block has no trailer"
        => Blocks "a trailer is written; a block without sound entries is empty from then on";

    /// The block that the superblock names as the root directory is no inode in use: nothing on the volume can be reached.
    RootMissing {} = "ROOT_DIR_MISSING" Error ask
        "there is no root directory"
        => Volume "the inode is marked as being in use again, when it is a directory, and made anew otherwise";

    /// The directory for what a repair finds without a name is missing. Nothing is wrong until a repair needs it.
    LostFoundMissing {} = "LOSTFOUND_MISSING" Error preen
        "the root directory has no lost+found"
        => Links "it is made";

    /// A directory cannot be reached from the root directory.
    NotConnected {} = "DIR_NOT_CONNECTED" Error preen
        "directory cannot be reached from the root directory"
        => Links "it gets a name in lost+found";

    /// The entry ".." of a directory must lead to the directory that holds it.
    DotDot { found: u64, expected: u64 } = "DIR_DOTDOT" Error preen
        "entry \"..\" leads to inode {found}, but the directory lies in {expected}"
        => Links "the entry leads to the directory that it lies in";

    /// A directory has an index on a volume without that feature.
    IvDxTree {} = "IV_DX_TREE" Error preen
        "directory has an index on a volume without that feature"
        => Volume "the volume gets the feature";

    /// The index of a directory cannot be made out: lookups in the directory fail.
    DxTreeCorrupt { why: String } = "DX_TREE_CORRUPT" Error preen
        "index of the directory is damaged: {why}"
        => Index "the index is made anew from the names, or taken away where there is no room for one";

    /// A name stands in the directory, but its index leads to it under no hash that any driver uses: it is listed, but cannot be opened.
    DxLookupFailed { name: String } = "DX_LOOKUP_FAILED" Error preen
        "name \"{name}\" cannot be found through the directory's index"
        => Index "the index is made anew from the names, or taken away where there is no room for one";

    /// The index of a directory has an entry that leads to a block of somebody else, or one in a leaf where no lookup looks for it.
    DxStale { major: u32, minor: u32, block: u64 } = "X_DX_STALE" Error preen
        "index entry {major:08x}:{minor:08x} leads to block {block}, but no such name is there"
        => Index "the index is made anew from the names, or taken away where there is no room for one";

    /// The index of a directory has an entry for a name that is not there any more, in a block that is the directory's. Nobody is led astray by it: who looks for a name
    /// compares it with those in the block. Drivers leave such an entry behind when they remove a name with a byte of 0x80 or above that was indexed under both of its hashes.
    DxLeft { major: u32, minor: u32, block: u64 } = "X_DX_LEFT" Note preen
        "index entry {major:08x}:{minor:08x} is left over from a name that was in block {block}"
        => Index "the index is made anew from the names, or taken away where there is no room for one";

    /// The hash of a name with a byte of 0x80 or above depends on the kernel: Linux up to 6.1 on x86 and ocfs2-tools take bytes as signed, Linux from 6.2 on as unsigned.
    /// This directory was filled by both, so that no such kernel finds all of its names, although all of them are listed. Opening, renaming or removing those fails,
    /// and making one again puts the same name there twice. --name-hash=both lets every kernel find every name.
    DxMixed { old: u64, new: u64 } = "X_DX_MIXED_HASH" Note ask
        "Linux up to 6.1 (x86) does not find {old} of its names, Linux from 6.2 on does not find {new} others; see --name-hash";

    /// The hash of a name with a byte of 0x80 or above depends on the kernel: Linux up to 6.1 on x86 and ocfs2-tools take bytes as signed, Linux from 6.2 on as unsigned.
    /// The directories of this volume were filled by kernels of one kind, and those of the other kind do not find these names, although they list them.
    /// --name-hash=both lets every kernel find every name; --name-hash=signed or =unsigned, those that look for that hash.
    DxOneHash { old: u64, new: u64 } = "X_DX_ONE_HASH" Note ask
        "in {old} directories there are names that Linux up to 6.1 (x86) does not find, in {new} some that Linux from 6.2 on does not find; see --name-hash";

    /// The number of names in the root of an index must be right, or an empty directory cannot be removed, or a full one can.
    DxNumEntries { found: u32, expected: u64 } = "X_DX_NUM_ENTRIES" Error preen
        "index says that the directory has {found} names, but it has {expected}"
        => Index "the index is made anew from the names, or taken away where there is no room for one";

    /// The list of directory blocks with room leads to a block of somebody else, loops, or promises more room than there is. New names are put where it leads.
    DxFreeList { why: &'static str, found: u64 } = "X_DX_FREE_LIST" Error preen
        "list of blocks with room: {why} ({found})"
        => Index "the index is made anew from the names, or taken away where there is no room for one";
}
