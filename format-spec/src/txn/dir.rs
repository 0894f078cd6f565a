//! Adding names to directories.

use std::ops::ControlFlow;

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DINODE_HEAD, DIR_TRAILER, DIR_TRAILER_SIGNATURE, DIRENT_HEAD, Dinode, DirBlockTrailer,
    DirEntry, DynFeatures, ExtentFlags, FileType, Incompat, InlineData, InodeFlags, MAX_NAME,
    dirent_bytes,
};
use crate::read::dir::{self, entries};
use crate::read::extent::Extent;
use crate::txn::inode::make_inline;
use crate::txn::{NewInode, Raw, Timestamp, Txn};
use crate::units::{BlockNo, low16, low32};

/// `i_attr`: the inode may not be changed.
const IMMUTABLE: u32 = 0x10;

/// A name to be added.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewEntry<'a> {
    pub(super) inode: BlockNo,
    pub(super) file_type: u8,
    pub(super) name: &'a [u8],
}

/// Puts an entry into an area if one of its holes is large enough.
pub(super) fn insert(area: &mut [u8], new: &NewEntry<'_>) -> Result<bool, FaultKind> {
    let need = dirent_bytes(new.name.len());
    let mut place = None;
    for entry in entries(area) {
        let entry = entry?;
        if entry.hole() >= need {
            let own = if entry.is_used() {
                dirent_bytes(entry.name.len())
            } else {
                0
            };
            place = Some((entry.offset, own, entry.rec_len));
            break;
        }
    }
    let Some((offset, own, rec_len)) = place else {
        return Ok(false);
    };
    if own > 0 {
        area[offset + 8..offset + 10].copy_from_slice(&low16(own as u64).to_le_bytes());
    }
    write_entry(area, offset + own, rec_len - own, new);
    Ok(true)
}

fn write_entry(area: &mut [u8], offset: usize, rec_len: usize, new: &NewEntry<'_>) {
    let head = DirEntry {
        inode: new.inode.0.into(),
        rec_len: low16(rec_len as u64).into(),
        name_len: new.name.len().to_le_bytes()[0],
        file_type: new.file_type,
    };
    area[offset..offset + DIRENT_HEAD].copy_from_slice(head.as_bytes());
    let at = offset + DIRENT_HEAD;
    area[at..at + new.name.len()].copy_from_slice(new.name);
}

/// Writes entries, which fit, one behind another; the last one has what is left.
pub(super) fn lay_entries(area: &mut [u8], list: &[NewEntry<'_>]) {
    let mut offset = 0;
    for (i, entry) in list.iter().enumerate() {
        let last = i + 1 == list.len();
        let rec_len = if last {
            area.len() - offset
        } else {
            dirent_bytes(entry.name.len())
        };
        write_entry(area, offset, rec_len, entry);
        offset += rec_len;
    }
}

/// Writes the trailer of a directory block into the bytes behind its entries, which are zero; there
/// are none where the volume has no trailers.
pub(super) fn write_trailer(bytes: &mut [u8], blkno: BlockNo, directory: BlockNo) {
    if let Ok((trailer, _)) = DirBlockTrailer::mut_from_prefix(bytes) {
        trailer.db_compat_rec_len = low16(DIR_TRAILER as u64).into();
        trailer.db_signature = DIR_TRAILER_SIGNATURE;
        trailer.db_blkno = blkno.0.into();
        trailer.db_parent_dinode = directory.0.into();
    }
}

/// The largest hole of an area, as a trailer states it: 0 when too small for any name.
pub(super) fn largest_hole(area: &[u8]) -> usize {
    let hole = entries(area)
        .filter_map(|e| e.ok().map(|e| e.hole()))
        .max()
        .unwrap_or(0);
    if hole < dirent_bytes(1) { 0 } else { hole }
}

impl Txn<'_> {
    /// Makes a directory under a name that does not exist yet.
    ///
    /// # Errors
    /// The name exists, the volume is full, or a block cannot be used.
    pub fn make_directory(
        &mut self,
        parent: BlockNo,
        name: &[u8],
        new: &NewInode,
    ) -> Result<BlockNo> {
        self.require_new_name(parent, name)?;
        self.require_more_links(parent, name)?;
        let inode = self.new_inode(new)?;
        self.open_directory(inode, parent)?;
        self.enter_directory(parent, name, inode, new.ctime)?;
        Ok(inode)
    }

    /// Gives the inode of a new directory its own two names.
    ///
    /// # Errors
    /// The volume is full, or a block cannot be used.
    pub(crate) fn open_directory(&mut self, inode: BlockNo, parent: BlockNo) -> Result<()> {
        let dot = NewEntry {
            inode,
            file_type: FileType::Directory.dirent(),
            name: b".",
        };
        let dotdot = NewEntry {
            inode: parent,
            name: b"..",
            ..dot
        };
        if self.info.has(Incompat::INLINE_DATA) {
            let mut dinode = self.edit::<Dinode>(inode)?;
            make_inline(&mut dinode);
            let end = dinode.body_end();
            let area = &mut dinode.bytes_mut()[DINODE_HEAD + size_of::<InlineData>()..end];
            let room = area.len();
            write_entry(area, 0, 16, &dot);
            write_entry(area, 16, room - 16, &dotdot);
            dinode.i_size = (room as u64).into();
        } else {
            let blkno = self.extend_directory(inode)?;
            self.fill_directory_block(blkno, inode, &[dot, dotdot])?;
            if self.info.has(Incompat::INDEXED_DIRS) {
                self.index_directory(inode)?;
            }
        }
        self.edit::<Dinode>(inode)?.set_links(2);
        Ok(())
    }

    /// Puts a new directory under a name, which counts as a link of its parent.
    ///
    /// # Errors
    /// The volume is full, or a block cannot be used.
    pub(crate) fn enter_directory(
        &mut self,
        parent: BlockNo,
        name: &[u8],
        inode: BlockNo,
        now: Timestamp,
    ) -> Result<()> {
        self.add_name(parent, name, inode, FileType::Directory, now)?;
        let mut dinode = self.edit::<Dinode>(parent)?;
        let links = dinode.links().saturating_add(1);
        dinode.set_links(links);
        Ok(())
    }

    /// An error when an inode has as many links as it can have.
    pub(crate) fn require_more_links(&self, blkno: BlockNo, name: &[u8]) -> Result<()> {
        /// Most links of an inode on a volume without indexed directories.
        const LINKS_MAX: u32 = 65_000;
        let most = if self.info.has(Incompat::INDEXED_DIRS) {
            u32::MAX
        } else {
            LINKS_MAX
        };
        let dinode = crate::read::inode::read(self.view(), blkno)?;
        if dinode.links() < most {
            return Ok(());
        }
        let why = match dinode.file_type() {
            Some(FileType::Directory) => "its directory has as many directories as it can have",
            _ => "the file has as many names as it can have",
        };
        let path = String::from_utf8_lossy(name).into_owned();
        Err(Error::Path { path, why })
    }

    /// An error unless a name can be made in a directory: it must not have it yet.
    pub(crate) fn require_new_name(&self, parent: BlockNo, name: &[u8]) -> Result<()> {
        self.require_user_directory(parent, name)?;
        let wrong = |why| {
            let path = String::from_utf8_lossy(name).into_owned();
            Err(Error::Path { path, why })
        };
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) || name.contains(&b'/') {
            return wrong("a name has 1 to 255 bytes, none of them NUL or a slash");
        }
        let view = self.view();
        let directory = crate::read::inode::read(view, parent)?;
        if directory.file_type() != Some(FileType::Directory) {
            return wrong("its parent is no directory");
        }
        if directory.i_attr.get() & IMMUTABLE != 0 {
            return wrong("its directory is immutable; chattr -i it on a mounted volume first");
        }
        if dir::lookup(view, &directory, name)?.is_some() {
            let path = String::from_utf8_lossy(name).into_owned();
            return Err(Error::Path {
                path,
                why: "a file of that name exists",
            });
        }
        Ok(())
    }

    /// An error when a directory is one of the volume's own, in which every name has a meaning.
    pub(crate) fn require_user_directory(&self, directory: BlockNo, name: &[u8]) -> Result<()> {
        let dinode = crate::read::inode::read(self.view(), directory)?;
        // The root directory has the mark of system files, too.
        if dinode.flags().intersects(InodeFlags::SYSTEM) && directory != self.info.root {
            return Err(Error::Path {
                path: String::from_utf8_lossy(name).into_owned(),
                why: "names in the volume's own directories cannot be made or removed",
            });
        }
        Ok(())
    }

    /// Adds a name to a directory; it must not have it yet.
    ///
    /// # Errors
    /// The volume is full, or a block of the directory cannot be used.
    pub fn add_name(
        &mut self,
        directory: BlockNo,
        name: &[u8],
        inode: BlockNo,
        file_type: FileType,
        now: Timestamp,
    ) -> Result<()> {
        let new = NewEntry {
            inode,
            file_type: file_type.dirent(),
            name,
        };
        let features = self.view().block::<Dinode>(directory)?.dyn_features();
        let done = features.contains(DynFeatures::INLINE_DATA) && {
            let mut dinode = self.edit::<Dinode>(directory)?;
            let end = dinode.body_end();
            let area = &mut dinode.bytes_mut()[DINODE_HEAD + size_of::<InlineData>()..end];
            insert(area, &new).map_err(|kind| kind.at(directory))?
        };
        if !done {
            if features.contains(DynFeatures::INLINE_DATA) {
                self.expand_directory(directory)?;
            }
            let indexed = self
                .view()
                .block::<Dinode>(directory)?
                .dyn_features()
                .contains(DynFeatures::INDEXED_DIR);
            if indexed {
                self.add_indexed(directory, &new)?;
            } else {
                self.add_linear(directory, &new)?;
            }
        }
        now.set_mtime(&mut *self.edit::<Dinode>(directory)?);
        Ok(())
    }

    pub(super) fn has_trailer(&self, directory: BlockNo) -> Result<bool> {
        let view = self.view();
        let dinode = view.block::<Dinode>(directory)?;
        Ok(dir::has_trailer(view, &dinode))
    }

    /// Adds an entry to a directory without an index, in the first block with room.
    fn add_linear(&mut self, directory: BlockNo, new: &NewEntry<'_>) -> Result<()> {
        let need = dirent_bytes(new.name.len());
        let with_trailer = self.has_trailer(directory)?;
        let mut place = None;
        let mut failed = None;
        let view = self.view();
        let dinode = crate::read::inode::read(view, directory)?;
        dir::for_each_area(view, &dinode, &mut |area| {
            match area {
                Ok(area) if largest_hole(area.bytes) >= need => {
                    place = area.block;
                    return ControlFlow::Break(());
                }
                Ok(_) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        drop(dinode);
        if let Some(error) = failed {
            return Err(error);
        }
        match place {
            Some(blkno) => {
                let mut block = self.edit_dir_block(blkno, directory, with_trailer)?;
                let end = block.bytes().len() - if with_trailer { DIR_TRAILER } else { 0 };
                insert(&mut block.bytes_mut()[..end], new).map_err(|kind| kind.at(blkno))?;
                Ok(())
            }
            None => {
                let blkno = self.extend_directory(directory)?;
                self.fill_directory_block(blkno, directory, std::slice::from_ref(new))
            }
        }
    }

    /// Adds a block to a directory: the next allocated one behind its size, or a new cluster.
    pub(super) fn extend_directory(&mut self, directory: BlockNo) -> Result<BlockNo> {
        let geo = self.info.geo;
        let (size, clusters) = {
            let dinode = self.view().block::<Dinode>(directory)?;
            (dinode.i_size.get(), dinode.i_clusters.get())
        };
        let root = self.data_root(directory)?;
        let cpos = low32(size >> geo.cluster_bits());
        if cpos >= clusters {
            let (cluster, count) = self.alloc_clusters(1)?;
            let blkno = geo.first_block(cluster);
            let extent = Extent {
                cpos,
                clusters: count,
                blkno,
                flags: ExtentFlags::empty(),
            };
            self.splice(&root, cpos, cpos + 1, &[extent])?;
            self.charge_clusters(directory, 1)?;
        }
        let extents = self.tree_extents(&root, cpos, cpos + 1)?;
        let Some(extent) = extents.first() else {
            let rule = "a directory cannot have a hole";
            return Err(FaultKind::Field {
                field: "i_size",
                value: size,
                rule,
            }
            .at(directory)
            .into());
        };
        let skip = (size >> geo.block_bits()) - u64::from(extent.cpos) * geo.blocks_per_cluster();
        let mut dinode = self.edit::<Dinode>(directory)?;
        dinode.i_size = (size + geo.block_bytes() as u64).into();
        Ok(extent.blkno.plus(skip))
    }

    /// Writes a new directory block with these entries, which fit.
    pub(super) fn fill_directory_block(
        &mut self,
        blkno: BlockNo,
        directory: BlockNo,
        list: &[NewEntry<'_>],
    ) -> Result<()> {
        let mut area = vec![0; self.directory_block_room()];
        lay_entries(&mut area, list);
        self.write_directory_block(blkno, directory, &area)
    }

    /// Usable bytes of a new directory block.
    fn directory_block_room(&self) -> usize {
        let with_trailer =
            self.info.has(Incompat::META_ECC) || self.info.has(Incompat::INDEXED_DIRS);
        self.block_bytes() - if with_trailer { DIR_TRAILER } else { 0 }
    }

    /// Writes a new directory block: entries, and the trailer where the volume has them.
    fn write_directory_block(
        &mut self,
        blkno: BlockNo,
        directory: BlockNo,
        area: &[u8],
    ) -> Result<()> {
        let size = self.block_bytes();
        let mut block = self.fresh::<Raw>(blkno, Some(size - crate::ecc::CHECK_BYTES));
        let bytes = block.bytes_mut();
        bytes[..area.len()].copy_from_slice(area);
        write_trailer(&mut bytes[area.len()..], blkno, directory);
        Ok(())
    }

    /// Moves the entries of a directory from its inode into a block of its own, and indexes it
    /// where the volume has indexes.
    fn expand_directory(&mut self, directory: BlockNo) -> Result<()> {
        let old = {
            let inode = crate::read::inode::read(self.view(), directory)?;
            inode.inline_data().unwrap_or_default().to_vec()
        };
        // It may be in this very directory that the allocator is looked up.
        self.global_bitmap()?;
        self.make_extent_list(directory)?;
        self.edit::<Dinode>(directory)?.i_size = 0.into();
        let blkno = self.extend_directory(directory)?;
        let mut area = vec![0; self.directory_block_room()];
        area[..old.len()].copy_from_slice(&old);
        // The last entry takes the room that the block has beyond the inode.
        let last = entries(&old).filter_map(Result::ok).last();
        if let Some(last) = last {
            let rec_len = area.len() - last.offset;
            let at = last.offset + 8;
            area[at..at + 2].copy_from_slice(&low16(rec_len as u64).to_le_bytes());
        }
        self.write_directory_block(blkno, directory, &area)?;
        if self.info.has(Incompat::INDEXED_DIRS) && directory != self.info.system_dir {
            self.index_directory(directory)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_are_kept_until_the_area_is_full(
            names in proptest::collection::vec(proptest::collection::vec(1u8..255, 1..40), 1..60),
        ) {
            let mut area = vec![0; 448];
            area[8..10].copy_from_slice(&448u16.to_le_bytes());
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (i, name) in names.iter().enumerate() {
                let new = NewEntry { inode: BlockNo(i as u64 + 1), file_type: 1, name };
                let room = largest_hole(&area) >= dirent_bytes(name.len());
                let done = insert(&mut area, &new).unwrap();
                prop_assert_eq!(done, room);
                if done {
                    model.push(name.clone());
                }
            }
            let mut seen: Vec<Vec<u8>> = Vec::new();
            let mut end = 0;
            for entry in entries(&area) {
                let entry = entry.unwrap();
                end = entry.offset + entry.rec_len;
                if entry.is_used() {
                    seen.push(entry.name.to_vec());
                }
            }
            prop_assert_eq!(end, area.len());
            model.sort();
            seen.sort();
            prop_assert_eq!(seen, model);
        }
    }
}
