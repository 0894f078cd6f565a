//! The passes: each looks at one kind of structure, claims what it uses and notes what is wrong.

pub(crate) mod bitmap;
pub(crate) mod chains;
pub(crate) mod cluster_groups;
pub(crate) mod connect;
pub(crate) mod dir;
pub(crate) mod extents;
pub(crate) mod index;
pub(crate) mod inode;
pub(crate) mod quota;
pub(crate) mod quota_blocks;
pub(crate) mod refcount;
pub(crate) mod reserved;
pub(crate) mod slots;
pub(crate) mod superblock;
pub(crate) mod system;
pub(crate) mod xattr;
