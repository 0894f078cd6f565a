//! Directories laid out anew: packed, and indexed under the hashes that are wanted.

use std::collections::HashSet;
use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::ecc::CHECK_BYTES;
use crate::error::Result;
use crate::layout::{
    DIR_TRAILER, Dinode, DirBlockTrailer, DxRoot, DynFeatures, HashKind, Incompat, dirent_bytes,
    dx_hash, hash_is_split,
};
use crate::read::{dir, dx, inode};
use crate::txn::Txn;
use crate::txn::dir::{NewEntry, lay_entries, write_trailer};
use crate::units::{BlockNo, low32};

/// The names of a directory with blocks of its own, and these blocks.
#[derive(Default)]
struct Contents {
    names: Vec<(Vec<u8>, BlockNo, u8, BlockNo)>,
    blocks: Vec<BlockNo>,
    with_trailer: bool,
    indexed: bool,
}

impl Contents {
    /// The names, in as few blocks as they fit in, each with so much room.
    fn closed_up(&self, room: usize) -> Vec<Vec<NewEntry<'_>>> {
        let mut blocks: Vec<Vec<NewEntry<'_>>> = Vec::new();
        let mut left = 0;
        for (name, inode, file_type, _) in &self.names {
            let need = dirent_bytes(name.len());
            if need > left {
                blocks.push(Vec::new());
                left = room;
            }
            left -= need;
            let entry = NewEntry {
                inode: *inode,
                file_type: *file_type,
                name,
            };
            if let Some(block) = blocks.last_mut() {
                block.push(entry);
            }
        }
        blocks
    }
}

impl Txn<'_> {
    /// Indexes names that are entered from now on under these hashes, where a name has two.
    pub const fn index_under(&mut self, kinds: &'static [HashKind]) {
        self.name_hashes = kinds;
    }

    /// Closes up the names of a directory and frees the blocks that are then empty. False when that
    /// would free none; the directory is then as it was.
    ///
    /// # Errors
    /// A part of the directory is damaged, or the volume is full.
    pub fn pack_directory(&mut self, directory: BlockNo) -> Result<bool> {
        let contents = self.contents(directory)?;
        let room = self.block_bytes()
            - if contents.with_trailer {
                DIR_TRAILER
            } else {
                0
            };
        let blocks = contents.closed_up(room);
        if blocks.len() >= contents.blocks.len() {
            return Ok(false);
        }
        if contents.indexed {
            self.drop_index(directory)?;
        }
        for (blkno, entries) in contents.blocks.iter().zip(&blocks) {
            let mut block = self.edit_dir_block(*blkno, directory, contents.with_trailer)?;
            let bytes = block.bytes_mut();
            bytes.get_mut(..room).unwrap_or_default().fill(0);
            lay_entries(bytes.get_mut(..room).unwrap_or_default(), entries);
            if contents.with_trailer
                && let Ok(trailer) = DirBlockTrailer::mut_from_bytes(&mut bytes[room..])
            {
                trailer.db_free_rec_len = 0.into();
                trailer.db_free_next = 0.into();
            }
        }
        self.cut_directory(directory, blocks.len() as u64)?;
        if contents.indexed {
            self.index_directory(directory)?;
        }
        Ok(true)
    }

    /// Indexes a directory that has none although it has blocks of its own, where the volume has
    /// indexes. False when there is nothing to do.
    ///
    /// # Errors
    /// A part of the directory is damaged, or the volume is full.
    pub fn index_anew(&mut self, directory: BlockNo) -> Result<bool> {
        let contents = self.contents(directory)?;
        let can_be = self.info.has(Incompat::INDEXED_DIRS) && !contents.blocks.is_empty();
        if contents.indexed || !can_be {
            return Ok(false);
        }
        // Without an index, names may stand where a trailer belongs.
        let room = self.block_bytes() - DIR_TRAILER;
        let blocks = contents.closed_up(room);
        for (number, entries) in blocks.iter().enumerate() {
            let Some(&blkno) = contents.blocks.get(number) else {
                let blkno = self.extend_directory(directory)?;
                self.fill_directory_block(blkno, directory, entries)?;
                continue;
            };
            let check_at = self.block_bytes() - CHECK_BYTES;
            let mut block = self.edit_raw(blkno, Some(check_at))?;
            let bytes = block.bytes_mut();
            bytes.fill(0);
            lay_entries(&mut bytes[..room], entries);
            write_trailer(&mut bytes[room..], blkno, directory);
        }
        self.cut_directory(directory, blocks.len() as u64)?;
        self.index_directory(directory)?;
        Ok(true)
    }

    /// Indexes the names of a directory under the hashes that are wanted, and no others. False when
    /// they are already.
    ///
    /// # Errors
    /// A part of the directory is damaged, or the volume is full.
    pub fn rehash_directory(&mut self, directory: BlockNo) -> Result<bool> {
        let contents = self.contents(directory)?;
        if !contents.indexed {
            return Ok(false);
        }
        let seed = self.info.dx_seed;
        let mut wanted: HashSet<(u32, u32, u64)> = HashSet::new();
        for (name, _, _, block) in &contents.names {
            let kinds = if hash_is_split(name) {
                self.name_hashes
            } else {
                &[HashKind::Signed]
            };
            wanted.extend(kinds.iter().map(|kind| {
                let hash = dx_hash(name, seed, *kind);
                (hash.major, hash.minor, block.0)
            }));
        }
        let mut there = HashSet::new();
        let root = BlockNo(inode::read(self.view(), directory)?.i_dx_root.get());
        let root = self.view().block::<DxRoot>(root)?;
        let mut take = |list: Option<dx::DxListView<'_>>| {
            let entries = list.map(|list| list.entries).unwrap_or_default();
            there.extend(entries.iter().map(|entry| {
                let (major, minor) = (entry.dx_major_hash.get(), entry.dx_minor_hash.get());
                (major, minor, entry.dx_dirent_blk.get())
            }));
        };
        take(root.inline_entries());
        let mut failed = None;
        dx::for_each_leaf(self.view(), &root, &mut |_, leaf| {
            match leaf {
                Ok(leaf) => take(leaf.list()),
                Err(error) => failed = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        drop(root);
        if there == wanted {
            return Ok(false);
        }
        self.drop_index(directory)?;
        self.index_directory(directory)?;
        Ok(true)
    }

    fn contents(&self, directory: BlockNo) -> Result<Contents> {
        let view = self.view();
        let dinode = inode::read(view, directory)?;
        let mut contents = Contents {
            with_trailer: dir::has_trailer(view, &dinode),
            indexed: dinode.dyn_features().contains(DynFeatures::INDEXED_DIR)
                && !dinode.dyn_features().contains(DynFeatures::INLINE_DATA),
            ..Contents::default()
        };
        let mut failed = None;
        dir::for_each_area(view, &dinode, &mut |area| {
            let area = match area {
                Ok(area) => area,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let Some(block) = area.block else {
                // What stands in the inode takes no room anywhere else.
                return ControlFlow::Break(());
            };
            contents.blocks.push(block);
            for entry in dir::entries(area.bytes) {
                match entry {
                    Ok(entry) if entry.is_used() => contents.names.push((
                        entry.name.to_vec(),
                        entry.inode,
                        entry.file_type,
                        block,
                    )),
                    Ok(_) => {}
                    Err(kind) => failed = Some(kind.at(block).into()),
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(contents), Err)
    }

    /// Gives a directory so many blocks and frees the clusters behind them.
    fn cut_directory(&mut self, directory: BlockNo, blocks: u64) -> Result<()> {
        let geo = self.info.geo;
        let size = blocks << geo.block_bits();
        let keep = low32(geo.clusters_for(size));
        let root = self.data_root(directory)?;
        let mut gone = self.tree_extents(&root, keep, u32::MAX)?;
        for extent in &mut gone {
            let skip = keep.saturating_sub(extent.cpos);
            let blocks = u64::from(skip) * geo.blocks_per_cluster();
            extent.cpos += skip;
            extent.clusters -= skip;
            extent.blkno = extent.blkno.plus(blocks);
        }
        if !gone.is_empty() {
            self.splice(&root, keep, u32::MAX, &[])?;
            let mut clusters = 0;
            for extent in &gone {
                self.free_extent(directory, extent)?;
                clusters += i64::from(extent.clusters);
            }
            self.charge_clusters(directory, -clusters)?;
        }
        self.edit::<Dinode>(directory)?.i_size = size.into();
        Ok(())
    }
}
