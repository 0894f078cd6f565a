//! Directories of a new volume: their entries, as bytes in the inode or in blocks.

use cowfs_format::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, DirBlockTrailer, DirEntry, FileType, dirent_bytes,
};
use cowfs_format::units::{BlockNo, Geometry, low16};
use zerocopy::FromZeros;

use crate::blocks::put;
use crate::files::{Place, Tree};

/// Longest name that the system directory is sized for.
const SYSTEM_NAME: usize = 40;

/// A directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its inode.
    pub place: Place,
    /// Inode of the directory above.
    pub parent: BlockNo,
    /// Names, inodes, and whether they are directories; without `.` and `..`.
    pub entries: Vec<(String, BlockNo, bool)>,
    /// Its clusters; none when the entries stand in the inode.
    pub tree: Tree,
    /// Root of its index.
    pub index: Option<Place>,
}

impl Directory {
    /// A directory without entries.
    pub(crate) const fn new(place: Place, parent: BlockNo) -> Self {
        Self {
            place,
            parent,
            entries: Vec::new(),
            tree: Tree {
                extents: Vec::new(),
                leaves: Vec::new(),
            },
            index: None,
        }
    }

    /// Link count: itself, its entry above, and its subdirectories.
    pub(crate) fn links(&self) -> u32 {
        let below = self.entries.iter().filter(|entry| entry.2).count();
        u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// All entries with `.` and `..`.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, BlockNo, bool)> {
        [(".", self.place.block, true), ("..", self.parent, true)]
            .into_iter()
            .chain(
                self.entries
                    .iter()
                    .map(|(name, block, dir)| (&name[..], *block, *dir)),
            )
    }

    /// The entries packed into areas of `len` bytes, and the largest hole of each.
    pub(crate) fn pack(&self, len: usize) -> Vec<(Vec<u8>, usize)> {
        let mut areas: Vec<(Vec<u8>, usize)> = Vec::new();
        // Offset and own length of the last entry, and the end of what is used.
        let mut last = (0, 0);
        for (name, block, dir) in self.all() {
            let need = dirent_bytes(name.len());
            let mut at = last.0 + last.1;
            if areas.is_empty() || at + need > len {
                areas.push((vec![0; len], 0));
                at = 0;
            } else if let Some((area, _)) = areas.last_mut() {
                set_length(area, last.0, last.1);
            }
            last = (at, need);
            if let Some((area, hole)) = areas.last_mut() {
                let mut entry = DirEntry::new_zeroed();
                entry.inode = block.0.into();
                entry.rec_len = low16((len - at) as u64).into();
                entry.name_len = low16(name.len() as u64).to_le_bytes()[0];
                entry.file_type = if dir {
                    FileType::Directory
                } else {
                    FileType::Regular
                }
                .dirent();
                put(area, at, &entry);
                area[at + 12..at + 12 + name.len()].copy_from_slice(name.as_bytes());
                *hole = len - at - need;
            }
        }
        areas
    }
}

/// Shortens an entry.
fn set_length(area: &mut [u8], at: usize, len: usize) {
    area[at + 8..at + 10].copy_from_slice(&low16(len as u64).to_le_bytes());
}

/// Clusters of the system directory; 0 when it fits into its inode.
pub(crate) fn system_dir_clusters(geo: &Geometry, inline: bool, slots: u16) -> u32 {
    let entries = 7 + 8 * usize::from(slots);
    let need = dirent_bytes(SYSTEM_NAME);
    if inline && entries * need <= inline_bytes(geo) {
        return 0;
    }
    let blocks = entries.div_ceil(geo.block_bytes() / need);
    let clusters = geo.clusters_for((blocks as u64) << geo.block_bits());
    u32::try_from(clusters).unwrap_or(u32::MAX)
}

/// Bytes of data that an inode has room for.
pub(crate) const fn inline_bytes(geo: &Geometry) -> usize {
    geo.block_bytes() - 0xC8
}

/// A directory block from its entries, with a trailer when there is room for one.
pub(crate) fn block(geo: &Geometry, area: &[u8], own: BlockNo, dir: BlockNo) -> Vec<u8> {
    let mut block = vec![0; geo.block_bytes()];
    block[..area.len()].copy_from_slice(area);
    if area.len() + DIR_TRAILER == block.len() {
        let mut trailer = DirBlockTrailer::new_zeroed();
        trailer.db_compat_rec_len = low16(DIR_TRAILER as u64).into();
        trailer.db_signature = DIR_TRAILER_SIGNATURE;
        trailer.db_blkno = own.0.into();
        trailer.db_parent_dinode = dir.0.into();
        put(&mut block, area.len(), &trailer);
    }
    block
}
