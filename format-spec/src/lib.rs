//! The OCFS2 on-disk format.
pub mod device;
pub mod ecc;
pub mod error;
pub mod layout;
pub mod toolkit;
pub mod units;
