//! The OCFS2 on-disk format: its bytes, how to read them, how to change them.
//!
//! These pages are the specification that cowfs is written to: each structure with every field and
//! its offset, each rule where the code that keeps it stands. This page is the map.
//!
//! # A volume
//!
//! A volume is an array of *blocks* (512 to 4096 bytes), the unit of metadata, and at the same
//! time of *clusters* (4 KiB to 1 MiB, whole blocks), the unit of space for data. Both are counted
//! from the start of the device; [`units::Geometry`] converts one to the other.
//!
//! ```text
//!  block 0, 1        made to be refused by the first version of the format
//!  block 2           the superblock: sizes, features, UUID, and two inodes: the root directory
//!                    and the system directory
//!  behind it         descriptor of cluster group 0: one bit a cluster, from the volume's start
//!  every 8 x (block size - 64) clusters
//!                    descriptor of the next cluster group
//!  1, 4, 16, 64, 256 GiB, 1 TiB
//!                    backup superblocks, as far as they lie inside
//!  anywhere else     file data, directory blocks, groups of inodes and other metadata blocks
//!
//!  superblock -> root directory -> the files of the users
//!             -> system directory
//!                  global_bitmap          allocator of clusters
//!                  global_inode_alloc     allocator of the system files' own inodes
//!                  slot_map, heartbeat    which node has mounted the volume in which slot
//!                  bad_blocks, aquota.user, aquota.group
//!                  for each slot 0000, 0001, ... (a node writes only to its own)
//!                    journal:0000         a JBD2 log
//!                    inode_alloc:0000     allocator of inodes
//!                    extent_alloc:0000    allocator of all other metadata blocks
//!                    local_alloc:0000     a window of clusters set aside for the node
//!                    truncate_log:0000    clusters that are still to be freed
//!                    orphan_dir:0000      files without a name that are still open
//!                    aquota.user:0000, aquota.group:0000
//! ```
//!
//! # Its blocks
//!
//! | block | begins with | check at | taken from | holds, or leads to |
//! |---|---|---|---|---|
//! | superblock ([`layout::SuperBlock`]) | `OCFSV2` | `0x80` | fixed places | the two first directories |
//! | inode ([`layout::Dinode`]) | `INODE01` | `0x80` | `inode_alloc` | small contents; else an extent list |
//! | extent block ([`layout::ExtentBlock`]) | `EXBLK01` | `0x08` | `extent_alloc` | clusters, or lower extent blocks |
//! | group descriptor ([`layout::GroupDesc`]) | `GROUP01` | `0x30` | its own group | a bitmap; the next group of the chain |
//! | directory block ([`layout::DirEntry`], [`layout::DirBlockTrailer`]) | - | last 8 bytes | clusters | names |
//! | index root ([`layout::DxRoot`]) | `DXDIR01` | `0x08` | `extent_alloc` | hashes of names; else an extent list of leaves |
//! | index leaf ([`layout::DxLeaf`]) | `DXLEAF1` | `0x08` | clusters | hashes of names, with directory blocks |
//! | xattr block ([`layout::XattrBlock`]) | `XATTR01` | `0x18` | `extent_alloc` | attributes; else an extent list of buckets |
//! | xattr bucket ([`layout::XattrHeader`]) | - | `0x08` | clusters, 4 KiB each | attributes |
//! | refcount block ([`layout::RefcountBlock`]) | `REFCNT1` | `0x20` | `extent_alloc` | how many files share which clusters |
//! | quota block ([`layout::QuotaLeaf`]) | - | last 8 bytes | clusters | usage by user or group |
//!
//! Checks exist with the feature `metaecc` only: see [`ecc`]. Data, targets of long symbolic links,
//! the slot map, heartbeats and the log have none. The log of a journal ([`layout::jbd2`]) has
//! blocks of its own, big-endian ones.
//!
//! # How things hang together
//!
//! - **Space.** The global bitmap is a list of *chains* of cluster groups, and the allocators of
//!   inodes and metadata blocks are chains of smaller groups that are themselves made of clusters:
//!   [`layout::ChainList`], [`read::chain`].
//! - **Contents.** An extent list maps clusters of a file to clusters of the volume; a list that
//!   is full becomes a tree: [`layout::ExtentList`], [`read::extent`], [`txn`].
//! - **Names.** Directory entries stand in blocks (or in the inode), an index by hash beside them:
//!   [`read::dir`], [`layout::DxHash`].
//! - **Sharing.** An extent with the flag *refcounted* may be mapped by several files. They share a
//!   refcount tree that counts the mappings of each range; before such an extent is written, its
//!   clusters are copied: [`layout::RefcountRec`], [`ops`].
//! - **Change.** What must change together goes through the journal of a slot first:
//!   [`read::journal`], [`txn`].
//!
//! # The crate
//!
//! The crate is a tower; a module uses only those above it in this list.
//!
//! | floor | what it holds |
//! |---|---|
//! | [`units`], [`time`], [`error`] | numbers with a kind, geometry, dates, errors with a place |
//! | [`layout`] | the bytes: structures, signatures, feature bits, field tables, name hashes |
//! | [`ecc`] | CRC32 and Hamming code of metadata blocks |
//! | [`device`] | files, maps, memory, overlays, faults |
//! | [`block`] | a block's identity, tested once; the read-only [`block::View`] |
//! | [`read`] | walks: extent trees, chains, directories, refcount trees, journals |
//! | [`dump`] | any block as a tree of named values that covers every byte |
//! | [`volume`] | an open volume, its system files, paths |
//! | [`txn`] | staged edits, allocators, tree edits, commit through the journal, replay |
//! | [`ops`] | whole operations: import, clone, overwrite, seal |
//! | [`toolkit`] | what the programs share: sizes, opening with safety checks |
pub mod block;
pub mod device;
pub mod dump;
pub mod ecc;
pub mod error;
pub mod layout;
pub mod ops;
pub mod read;
pub mod time;
pub mod toolkit;
pub mod txn;
pub mod units;
pub mod volume;
