//! Where volumes differ from those of `mkfs.ocfs2`: for the manual page, and for the tests that
//! compare the two.

/// The differences, given the same options, UUID, time and seeds: a name, and what `mkfs.ocfs2`
/// does there. Everything else is the same, byte for byte.
pub const DIFFERENCES: &[(&str, &str)] = &[
    (
        "times",
        "mkfs.ocfs2 takes the time anew for inodes that it writes later; ours all have one time",
    ),
    (
        "quota usage",
        "mkfs.ocfs2 counts the quota before it makes lost+found: one inode and one directory too few",
    ),
    (
        "quota info",
        "with indexed directories and without inline data, mkfs.ocfs2 reads its quota file's header back \
         before it has written it, and writes the stale one: blocks and the list of leaves with room are \
         wrong, fsck.ocfs2 says QMAGIC_INVALID, and the driver cannot create files",
    ),
    (
        "quota garbage",
        "mkfs.ocfs2 leaves what its memory held behind the header of a global quota file",
    ),
    (
        "blocks given back",
        "while it inserts into an extent tree mkfs.ocfs2 takes a block for a copy, and leaves the copy in it when it \
         gives the block back",
    ),
    (
        "lost+found size",
        "without inline data mkfs.ocfs2 takes the directory trailer off the size of lost+found, which \
         must be whole blocks",
    ),
    (
        "lost+found garbage",
        "without inline data mkfs.ocfs2 leaves what its memory held in the free space of lost+found",
    ),
    (
        "root's room",
        "when mkfs.ocfs2 links lost+found into an indexed root directory it leaves the trailer's note of the \
         free space as it was",
    ),
];
