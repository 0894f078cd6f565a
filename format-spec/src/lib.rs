//! The OCFS2 on-disk format.
