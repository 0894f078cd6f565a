//! Keeping the index of a directory right.
//!
//! A name with a byte from `0x80` on has two hashes (see [`crate::layout::hash_is_split`]), and
//! each kernel looks under one of them. Such a name gets an entry under each, so that every kernel
//! and ocfs2-tools find it. `dr_num_entries` counts names, not entries: the kernel compares it with
//! 2 to tell an empty directory, and takes one off for each name it removes.

use std::ops::ControlFlow;

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DIR_TRAILER, DX_INLINE, DX_LEAF_LIST, DX_ROOT_BODY, Dinode, DirBlockTrailer, DxEntry,
    DxEntryList, DxHash, DxLeaf, DxRoot, DynFeatures, ExtentFlags, ExtentList, ExtentRec, HashKind,
    dirent_bytes, dx_hash, hash_is_split,
};
use crate::read::dx::{self, DxListView};
use crate::read::extent::{self, Extent};
use crate::read::{dir, inode};
use crate::txn::dir::{NewEntry, insert, largest_hole};
use crate::txn::{EVERY_HASH, Edit, TreeRoot, Txn};
use crate::units::{BlockNo, Slot, low16};
use crate::volume::system::SystemFile;

impl Txn<'_> {
    /// The hashes of a name among these kinds; one that has only one hash has that.
    fn hashes(&self, name: &[u8], kinds: &[HashKind]) -> Vec<DxHash> {
        let kinds = if hash_is_split(name) {
            kinds
        } else {
            &[HashKind::Signed]
        };
        let seed = self.info.dx_seed;
        kinds
            .iter()
            .map(|kind| dx_hash(name, seed, *kind))
            .collect()
    }

    /// Makes the index of a directory from its entries.
    pub(super) fn index_directory(&mut self, directory: BlockNo) -> Result<()> {
        let sub = self.alloc_metadata()?;
        let generation = self.info.fs_generation.0;
        let mut root: Edit<'_, DxRoot> = self.fresh(sub.blkno, Some(0x08));
        root.dr_signature = *b"DXDIR01\0";
        root.dr_suballoc_slot = sub.slot.0.into();
        root.dr_suballoc_bit = sub.bit.into();
        root.dr_suballoc_loc = sub.group.0.into();
        root.dr_fs_generation = generation.into();
        root.dr_blkno = sub.blkno.0.into();
        root.dr_dir_blkno = directory.0.into();
        root.dr_flags = DX_INLINE;
        write_entries(&mut root.bytes_mut()[DX_ROOT_BODY..], &[]);
        let mut dinode = self.edit::<Dinode>(directory)?;
        let features = dinode.dyn_features() | DynFeatures::INDEXED_DIR;
        dinode.i_dyn_features = features.bits().into();
        dinode.i_dx_root = sub.blkno.0.into();

        let mut names = Vec::new();
        let mut blocks = Vec::new();
        let mut failed = None;
        let view = self.view();
        let dinode = inode::read(view, directory)?;
        dir::for_each_area(view, &dinode, &mut |area| {
            match area {
                Ok(area) => {
                    let blkno = area.block.unwrap_or(directory);
                    blocks.push(blkno);
                    for entry in dir::entries(area.bytes).filter_map(Result::ok) {
                        if entry.is_used() {
                            names.push((entry.name.to_vec(), blkno));
                        }
                    }
                }
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
        for (name, blkno) in names {
            self.index_name(directory, &name, blkno)?;
        }
        for blkno in blocks {
            self.update_room(directory, blkno)?;
        }
        Ok(())
    }

    /// Adds an entry to an indexed directory.
    pub(super) fn add_indexed(&mut self, directory: BlockNo, new: &NewEntry<'_>) -> Result<()> {
        let need = dirent_bytes(new.name.len());
        let root = BlockNo(self.view().block::<Dinode>(directory)?.i_dx_root.get());
        let blkno = match self.block_with_room(root, directory, need)? {
            Some(blkno) => {
                let mut block = self.edit_dir_block(blkno, directory, true)?;
                let end = block.bytes().len() - DIR_TRAILER;
                let done = insert(&mut block.bytes_mut()[..end], new);
                if !done.map_err(|kind| kind.at(blkno))? {
                    let rule = "the block has less room than its trailer says; run fsck.cowfs";
                    let kind = FaultKind::Field {
                        field: "db_free_rec_len",
                        value: 0,
                        rule,
                    };
                    return Err(kind.at(blkno).into());
                }
                blkno
            }
            None => {
                let blkno = self.extend_directory(directory)?;
                self.fill_directory_block(blkno, directory, std::slice::from_ref(new))?;
                blkno
            }
        };
        self.index_name(directory, new.name, blkno)?;
        self.update_room(directory, blkno)
    }

    /// The first block of the list of blocks with room that has `need` bytes.
    fn block_with_room(
        &self,
        root: BlockNo,
        directory: BlockNo,
        need: usize,
    ) -> Result<Option<BlockNo>> {
        let view = self.view();
        let mut next = view.block::<DxRoot>(root)?.dr_free_blk.get();
        let mut fuel = view.geo().blocks();
        while next != 0 && fuel > 0 {
            fuel -= 1;
            let blkno = BlockNo(next);
            let (buf, _) = view.dir_block(blkno, directory, true)?;
            let trailer = trailer_of(&buf).ok_or(FaultKind::OutOfVolume.at(blkno))?;
            if usize::from(trailer.db_free_rec_len.get()) >= need {
                return Ok(Some(blkno));
            }
            next = trailer.db_free_next.get();
        }
        Ok(None)
    }

    /// States the largest hole of a block in its trailer, and keeps the block in the list of blocks
    /// with room, or out of it.
    pub(super) fn update_room(&mut self, directory: BlockNo, blkno: BlockNo) -> Result<()> {
        let root = BlockNo(self.view().block::<Dinode>(directory)?.i_dx_root.get());
        let head = self.view().block::<DxRoot>(root)?.dr_free_blk.get();
        let (listed, next) = {
            let (buf, _) = self.view().dir_block(blkno, directory, true)?;
            let trailer = trailer_of(&buf).ok_or(FaultKind::OutOfVolume.at(blkno))?;
            (
                trailer.db_free_rec_len.get() != 0,
                trailer.db_free_next.get(),
            )
        };
        let mut block = self.edit_dir_block(blkno, directory, true)?;
        let bytes = block.bytes_mut();
        let end = bytes.len() - DIR_TRAILER;
        let hole = largest_hole(&bytes[..end]);
        if let Some(trailer) = trailer_mut(bytes) {
            trailer.db_free_rec_len = low16(hole as u64).into();
            if hole > 0 && !listed {
                trailer.db_free_next = head.into();
            } else if hole == 0 {
                trailer.db_free_next = 0.into();
            }
        }
        if hole > 0 && !listed {
            self.edit::<DxRoot>(root)?.dr_free_blk = blkno.0.into();
        } else if hole == 0 && listed {
            self.unlist(root, directory, blkno, next)?;
        }
        Ok(())
    }

    /// Takes a block out of the list of blocks with room.
    fn unlist(
        &mut self,
        root: BlockNo,
        directory: BlockNo,
        blkno: BlockNo,
        next: u64,
    ) -> Result<()> {
        let mut at = self.view().block::<DxRoot>(root)?.dr_free_blk.get();
        if at == blkno.0 {
            self.edit::<DxRoot>(root)?.dr_free_blk = next.into();
            return Ok(());
        }
        let mut fuel = self.info.geo.blocks();
        while at != 0 && fuel > 0 {
            fuel -= 1;
            let here = BlockNo(at);
            let (buf, _) = self.view().dir_block(here, directory, true)?;
            at = trailer_of(&buf).map_or(0, |trailer| trailer.db_free_next.get());
            drop(buf);
            if at == blkno.0 {
                let mut block = self.edit_dir_block(here, directory, true)?;
                if let Some(trailer) = trailer_mut(block.bytes_mut()) {
                    trailer.db_free_next = next.into();
                }
                break;
            }
        }
        Ok(())
    }

    /// Adds a name to the index.
    fn index_name(&mut self, directory: BlockNo, name: &[u8], blkno: BlockNo) -> Result<()> {
        let root = BlockNo(self.view().block::<Dinode>(directory)?.i_dx_root.get());
        for hash in self.hashes(name, self.name_hashes) {
            let entry = DxEntry {
                dx_major_hash: hash.major.into(),
                dx_minor_hash: hash.minor.into(),
                dx_dirent_blk: blkno.0.into(),
            };
            self.index_entry(directory, root, hash, &entry)?;
        }
        let mut block = self.edit::<DxRoot>(root)?;
        block.dr_num_entries = block.dr_num_entries.get().saturating_add(1).into();
        Ok(())
    }

    fn index_entry(
        &mut self,
        directory: BlockNo,
        root: BlockNo,
        hash: DxHash,
        entry: &DxEntry,
    ) -> Result<()> {
        let mut block = self.edit::<DxRoot>(root)?;
        if block.dr_flags & DX_INLINE != 0 {
            if push_entry(&mut block.bytes_mut()[DX_ROOT_BODY..], entry) {
                return Ok(());
            }
            self.outgrow_root(directory, root)?;
        }
        // A full leaf is split; several splits may be needed where hashes lie close together.
        for _ in 0..32 {
            let (leaf, extent) = self.leaf_for(root, hash)?;
            let mut block = self.edit::<DxLeaf>(leaf)?;
            if push_entry(&mut block.bytes_mut()[DX_LEAF_LIST..], entry) {
                return Ok(());
            }
            self.split_leaf(directory, root, leaf, &extent, hash)?;
        }
        Err(Error::NoSpace {
            needed: 1,
            unit: "entries of a directory index leaf",
        })
    }

    /// Takes a name that stood in block `blkno` out of the index. A name with two hashes may have
    /// been entered under one of them only.
    pub(super) fn unindex_name(
        &mut self,
        directory: BlockNo,
        name: &[u8],
        blkno: BlockNo,
    ) -> Result<()> {
        let root = BlockNo(self.view().block::<Dinode>(directory)?.i_dx_root.get());
        let mut removed = false;
        for hash in self.hashes(name, EVERY_HASH) {
            removed |= self.unindex_entry(root, hash, blkno)?;
        }
        if !removed {
            let rule = "the index has no entry for a name of this block; run fsck.cowfs";
            let kind = FaultKind::Field {
                field: "dx_dirent_blk",
                value: blkno.0,
                rule,
            };
            return Err(kind.at(root).into());
        }
        let mut block = self.edit::<DxRoot>(root)?;
        block.dr_num_entries = block.dr_num_entries.get().saturating_sub(1).into();
        Ok(())
    }

    /// Takes one entry out of the list that serves its hash; false when it is not there.
    fn unindex_entry(&mut self, root: BlockNo, hash: DxHash, blkno: BlockNo) -> Result<bool> {
        let without = |list: Option<DxListView<'_>>| {
            let mut entries = list?.entries.to_vec();
            let at = entries.iter().position(|entry| {
                entry.dx_major_hash.get() == hash.major
                    && entry.dx_minor_hash.get() == hash.minor
                    && entry.dx_dirent_blk.get() == blkno.0
            })?;
            entries.remove(at);
            Some(entries)
        };
        let block = self.view().block::<DxRoot>(root)?;
        if block.dr_flags & DX_INLINE != 0 {
            let Some(entries) = without(block.inline_entries()) else {
                return Ok(false);
            };
            drop(block);
            let mut block = self.edit::<DxRoot>(root)?;
            write_entries(&mut block.bytes_mut()[DX_ROOT_BODY..], &entries);
            return Ok(true);
        }
        drop(block);
        let (leaf, _) = self.leaf_for(root, hash)?;
        let Some(entries) = without(self.view().block::<DxLeaf>(leaf)?.list()) else {
            return Ok(false);
        };
        let mut block = self.edit::<DxLeaf>(leaf)?;
        write_entries(&mut block.bytes_mut()[DX_LEAF_LIST..], &entries);
        Ok(true)
    }

    /// Frees the index of a directory.
    ///
    /// # Errors
    /// The index is damaged.
    pub(crate) fn drop_index(&mut self, directory: BlockNo) -> Result<()> {
        let root = BlockNo(self.view().block::<Dinode>(directory)?.i_dx_root.get());
        let (inline, slot, bit, loc) = {
            let block = self.view().block::<DxRoot>(root)?;
            (
                block.dr_flags & DX_INLINE != 0,
                block.dr_suballoc_slot.get(),
                block.dr_suballoc_bit.get(),
                block.dr_suballoc_loc.get(),
            )
        };
        if !inline {
            let tree = TreeRoot::dx(root, self.block_bytes());
            let leaves = self.tree_extents(&tree, 0, u32::MAX)?;
            self.splice(&tree, 0, u32::MAX, &[])?;
            let mut clusters = 0;
            for extent in &leaves {
                self.free_extent(root, extent)?;
                clusters += i64::from(extent.clusters);
            }
            self.charge_clusters(directory, -clusters)?;
        }
        self.free_sub(SystemFile::ExtentAlloc(Slot(slot)), root, bit, loc)?;
        let mut dinode = self.edit::<Dinode>(directory)?;
        let features = dinode.dyn_features().difference(DynFeatures::INDEXED_DIR);
        dinode.i_dyn_features = features.bits().into();
        dinode.i_dx_root = 0.into();
        Ok(())
    }

    fn leaf_for(&self, root: BlockNo, hash: DxHash) -> Result<(BlockNo, Extent)> {
        let view = self.view();
        let block = view.block::<DxRoot>(root)?;
        let extent = extent::find(view, root, block.body(), hash.major)?.ok_or_else(|| {
            let rule = "no leaf serves this hash; run fsck.cowfs";
            FaultKind::Field {
                field: "e_cpos",
                value: hash.major.into(),
                rule,
            }
            .at(root)
        })?;
        Ok((dx::leaf_of(view, &extent, hash), extent))
    }

    /// Formats a new cluster of empty leaves; the first one's block.
    fn new_leaves(&mut self, directory: BlockNo) -> Result<BlockNo> {
        let (cluster, _) = self.alloc_clusters(1)?;
        // Linux charges the clusters of an index to the directory's owner.
        self.charge_clusters(directory, 1)?;
        let first = self.info.geo.first_block(cluster);
        let generation = self.info.fs_generation.0;
        for i in 0..self.info.geo.blocks_per_cluster() {
            let blkno = first.plus(i);
            let mut leaf: Edit<'_, DxLeaf> = self.fresh(blkno, Some(0x08));
            leaf.dl_signature = *b"DXLEAF1\0";
            leaf.dl_blkno = blkno.0.into();
            leaf.dl_fs_generation = generation.into();
            write_entries(&mut leaf.bytes_mut()[DX_LEAF_LIST..], &[]);
        }
        Ok(first)
    }

    /// Moves the entries that stand in the root into leaves.
    fn outgrow_root(&mut self, directory: BlockNo, root: BlockNo) -> Result<()> {
        let first = self.new_leaves(directory)?;
        let old: Vec<DxEntry> = {
            let block = self.view().block::<DxRoot>(root)?;
            block
                .inline_entries()
                .map(|list| list.entries.to_vec())
                .unwrap_or_default()
        };
        let bpc = self.info.geo.blocks_per_cluster();
        for entry in old {
            let leaf = first.plus(u64::from(entry.dx_minor_hash.get()) & (bpc - 1));
            let mut block = self.edit::<DxLeaf>(leaf)?;
            if !push_entry(&mut block.bytes_mut()[DX_LEAF_LIST..], &entry) {
                return Err(Error::NoSpace {
                    needed: 1,
                    unit: "entries of a directory index leaf",
                });
            }
        }
        let mut block = self.edit::<DxRoot>(root)?;
        block.dr_flags &= !DX_INLINE;
        let body = &mut block.bytes_mut()[DX_ROOT_BODY..];
        body.fill(0);
        let capacity = (body.len() - size_of::<ExtentList>()) / size_of::<ExtentRec>();
        if let Ok((head, _)) = ExtentList::mut_from_prefix(body) {
            head.l_count = low16(capacity as u64).into();
        }
        let tree = TreeRoot::dx(root, self.block_bytes());
        let extent = Extent {
            cpos: 0,
            clusters: 1,
            blkno: first,
            flags: ExtentFlags::empty(),
        };
        self.splice(&tree, 0, 1, &[extent])
    }

    /// Splits the cluster of a full leaf in two at a hash in the middle.
    fn split_leaf(
        &mut self,
        directory: BlockNo,
        root: BlockNo,
        leaf: BlockNo,
        extent: &Extent,
        hash: DxHash,
    ) -> Result<()> {
        let geo = self.info.geo;
        let bpc = geo.blocks_per_cluster();
        let index = leaf.since(extent.blkno) / bpc;
        let leaf_cpos = extent.cpos.saturating_add(crate::units::low32(index));
        let old = extent.blkno.plus(index * bpc);
        if leaf_cpos.saturating_add(1) < extent.end() {
            // A cluster in the middle of an extent serves one hash only: no split helps.
            return Err(Error::NoSpace {
                needed: 1,
                unit: "entries of a directory index leaf",
            });
        }
        let split = {
            let block = self.view().block::<DxLeaf>(leaf)?;
            let list = block
                .list()
                .map(|list| list.entries.to_vec())
                .unwrap_or_default();
            split_hash(&list, leaf_cpos, hash.major).ok_or(Error::NoSpace {
                needed: 1,
                unit: "entries of a directory index leaf (too many names with one hash)",
            })?
        };
        let new = self.new_leaves(directory)?;
        for i in 0..bpc {
            let entries: Vec<DxEntry> = {
                let block = self.view().block::<DxLeaf>(old.plus(i))?;
                block
                    .list()
                    .map(|list| list.entries.to_vec())
                    .unwrap_or_default()
            };
            let (stay, go): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .partition(|e| e.dx_major_hash.get() < split);
            let mut block = self.edit::<DxLeaf>(old.plus(i))?;
            write_entries(&mut block.bytes_mut()[DX_LEAF_LIST..], &stay);
            let mut block = self.edit::<DxLeaf>(new.plus(i))?;
            write_entries(&mut block.bytes_mut()[DX_LEAF_LIST..], &go);
        }
        let tree = TreeRoot::dx(root, self.block_bytes());
        let extent = Extent {
            cpos: split,
            clusters: 1,
            blkno: new,
            flags: ExtentFlags::empty(),
        };
        self.splice(&tree, split, split.saturating_add(1), &[extent])
    }
}

/// Where to split a full leaf of the cluster with key `leaf_cpos`, when a name with hash `major`
/// does not fit: as the driver chooses. `None` when no split helps.
fn split_hash(entries: &[DxEntry], leaf_cpos: u32, major: u32) -> Option<u32> {
    let mut majors: Vec<u32> = entries.iter().map(|e| e.dx_major_hash.get()).collect();
    majors.sort_unstable();
    let (first, last) = (*majors.first()?, *majors.last()?);
    if first == last {
        return if first == major {
            None
        } else if first == leaf_cpos {
            leaf_cpos.checked_add(1)
        } else {
            Some(first.max(major))
        };
    }
    let middle = majors.len() / 2;
    let above = |majors: &[u32]| majors.iter().copied().find(|m| *m > leaf_cpos);
    let split = above(&majors[middle..])?;
    // With many equal hashes in the upper half, everything would move: split above the lower ones.
    if split > first {
        Some(split)
    } else {
        majors.iter().copied().find(|m| *m > first)
    }
}

fn trailer_of(block: &[u8]) -> Option<&DirBlockTrailer> {
    let at = block.len().checked_sub(DIR_TRAILER)?;
    DirBlockTrailer::ref_from_bytes(block.get(at..)?).ok()
}

fn trailer_mut(block: &mut [u8]) -> Option<&mut DirBlockTrailer> {
    let at = block.len().checked_sub(DIR_TRAILER)?;
    DirBlockTrailer::mut_from_bytes(block.get_mut(at..)?).ok()
}

/// Appends an entry to a list; false when the list is full.
fn push_entry(space: &mut [u8], entry: &DxEntry) -> bool {
    let Some(list) = DxListView::parse(space) else {
        return false;
    };
    let used = list.entries.len();
    let count = usize::from(list.head.de_count.get()).min(list.capacity);
    if used >= count {
        return false;
    }
    let at = size_of::<DxEntryList>() + std::mem::size_of_val(list.entries);
    space[at..at + size_of::<DxEntry>()].copy_from_slice(entry.as_bytes());
    space[6..8].copy_from_slice(&low16(used as u64 + 1).to_le_bytes());
    true
}

/// Writes a list into its space; entries that are not in use become zero.
fn write_entries(space: &mut [u8], entries: &[DxEntry]) {
    let capacity = DxListView::parse(space).map_or(0, |list| list.capacity);
    space.fill(0);
    if let Ok((head, rest)) = DxEntryList::mut_from_prefix(space) {
        head.de_count = low16(capacity as u64).into();
        head.de_num_used = low16(entries.len() as u64).into();
        for (place, entry) in rest.chunks_exact_mut(size_of::<DxEntry>()).zip(entries) {
            place.copy_from_slice(entry.as_bytes());
        }
    }
}
