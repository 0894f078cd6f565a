//! Walks over a [`View`](crate::block::View): pure readers without policy.
//!
//! Every loop here is bounded by the geometry of the volume, nothing recurses on pointers from
//! disk, and a wrong number is an error with a place.

pub mod acl;
pub mod chain;
pub mod cluster;
pub mod dir;
pub mod dx;
pub mod extent;
pub mod file;
pub mod heartbeat;
pub mod holdings;
pub mod inode;
pub mod journal;
pub mod log;
pub mod quota;
pub mod refcount;
pub mod runs;
pub mod slot_map;
pub mod xattr;
