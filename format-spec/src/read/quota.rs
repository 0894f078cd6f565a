//! Quota files: usage and limits of users and groups, and what slots have not merged into them yet.
//!
//! A global file is a tree: from block 1 on, `depth` levels of blocks with references lead from the
//! digits of an id to a leaf, which holds entries of any ids. A slot's local file is a list of
//! chunks, each a bitmap and blocks of changes.

use zerocopy::FromBytes;

use crate::block::View;
use crate::ecc::CHECK_BYTES;
use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DiskDqblk, GlobalQuotaInfo, LocalDqblk, LocalQuotaInfo, QUOTA_TREE_ROOT, QuotaLeaf,
};
use crate::read::{extent::Extent, inode};
use crate::units::{BlockNo, index, low32};

/// A quota file's blocks.
#[derive(Debug)]
struct Blocks<'v> {
    view: View<'v>,
    inode: BlockNo,
    extents: Vec<Extent>,
    /// Blocks up to its size, as far as it has space for them.
    count: u32,
}

/// What a block of a quota file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Block 0 of a global file.
    Info,
    /// References of the tree.
    Tree,
    /// Entries.
    Leaf,
    /// Block 0 of a slot's file.
    LocalInfo,
    /// Bitmap of a chunk.
    Chunk,
    /// Changes.
    Changes,
    /// In no use.
    Unused,
}

impl<'v> Blocks<'v> {
    fn open(view: View<'v>, blkno: BlockNo) -> Result<Self> {
        let inode = inode::read(view, blkno)?;
        let extents = inode.extents(view)?;
        let space: u64 = extents
            .iter()
            .map(|e| u64::from(e.clusters))
            .sum::<u64>()
            .saturating_mul(view.geo().blocks_per_cluster());
        let size = inode.i_size.get() >> view.geo().block_bits();
        Ok(Self {
            view,
            inode: blkno,
            extents,
            count: u32::try_from(size.min(space)).unwrap_or(u32::MAX),
        })
    }

    /// Bytes of a block before its check.
    fn room(&self) -> usize {
        self.view.geo().block_bytes() - CHECK_BYTES
    }

    fn fault(&self, field: &'static str, value: u64, rule: &'static str) -> Error {
        FaultKind::Field { field, value, rule }
            .at(self.inode)
            .into()
    }

    /// Where a block of the file lies.
    fn home(&self, logical: u32) -> Result<BlockNo> {
        let bpc = self.view.geo().blocks_per_cluster();
        let at = u64::from(logical);
        let extent = self
            .extents
            .iter()
            .find(|e| u64::from(e.cpos) * bpc <= at && at < u64::from(e.end()) * bpc)
            .filter(|_| logical < self.count);
        extent
            .map(|e| e.blkno.plus(at - u64::from(e.cpos) * bpc))
            .ok_or_else(|| self.fault("quota block", at, "the quota file has no such block"))
    }

    /// The block of the file that lies there.
    fn logical(&self, blkno: BlockNo) -> Option<u32> {
        let bpc = self.view.geo().blocks_per_cluster();
        let extent = self.extents.iter().find(|e| {
            let blocks = u64::from(e.clusters).saturating_mul(bpc);
            e.blkno <= blkno && blkno.0 - e.blkno.0 < blocks
        })?;
        let logical = u64::from(extent.cpos) * bpc + (blkno.0 - extent.blkno.0);
        u32::try_from(logical).ok().filter(|at| *at < self.count)
    }

    /// A block, after its check was tested.
    fn read(&self, logical: u32) -> Result<Box<[u8]>> {
        let home = self.home(logical)?;
        match self.view.quota_block(home)? {
            (bytes, Some(_)) => Ok(bytes.into_owned()),
            (_, None) => Err(FaultKind::Ecc.at(home).into()),
        }
    }
}

/// A global quota file.
#[derive(Debug)]
pub struct GlobalQuota<'v> {
    blocks: Blocks<'v>,
    /// Its block 0.
    pub info: GlobalQuotaInfo,
}

/// What the walk of a global quota file meets.
#[derive(Debug)]
pub enum Met<'a> {
    /// A block of references.
    Tree(BlockNo),
    /// A leaf.
    Leaf(BlockNo),
    /// An entry of the leaf met last.
    Entry(&'a DiskDqblk),
    /// Something that cannot be used; the walk goes on beside it.
    Fault(Error),
}

impl<'v> GlobalQuota<'v> {
    /// Opens a global quota file by its inode; `magic` tells which.
    ///
    /// # Errors
    /// It is none.
    pub fn open(view: View<'v>, blkno: BlockNo, magic: u32) -> Result<Self> {
        let blocks = Blocks::open(view, blkno)?;
        let block = blocks.read(0)?;
        let info = GlobalQuotaInfo::read_from_prefix(&block).map(|(info, _)| info);
        match info {
            Ok(info) if info.dqh_magic.get() == magic => Ok(Self { blocks, info }),
            other => {
                let found = other.map_or(0, |info| info.dqh_magic.get());
                Err(blocks.fault("dqh_magic", found.into(), "no global quota file"))
            }
        }
    }

    /// Levels of references above the leaves: as many as the digits that an id has in the base of a
    /// block's references.
    #[must_use]
    pub fn depth(block_bytes: usize) -> u32 {
        let refs = (block_bytes.saturating_sub(CHECK_BYTES) / 4).max(2) as u64;
        let (mut depth, mut reach) = (1, refs);
        while reach < 1 << 32 {
            reach = reach.saturating_mul(refs);
            depth += 1;
        }
        depth
    }

    /// Walks the tree; each block is met once, however many references lead to it.
    pub fn walk(&self, each: &mut dyn FnMut(Met<'_>)) {
        let blocks = &self.blocks;
        let depth = Self::depth(blocks.view.geo().block_bytes());
        let mut seen = vec![false; index(u64::from(blocks.count))];
        let mut ahead = vec![(QUOTA_TREE_ROOT, 0)];
        while let Some((logical, level)) = ahead.pop() {
            match seen.get_mut(index(logical.into())) {
                Some(seen) if !*seen => *seen = true,
                // Many references lead to one leaf; but only one to a block of references.
                Some(_) if level == depth => continue,
                _ => {
                    let rule = "a reference of the quota tree leads nowhere, or in a loop";
                    each(Met::Fault(blocks.fault("reference", logical.into(), rule)));
                    continue;
                }
            }
            let (home, bytes) = match (blocks.home(logical), blocks.read(logical)) {
                (Ok(home), Ok(bytes)) => (home, bytes),
                (Err(error), _) | (_, Err(error)) => {
                    each(Met::Fault(error));
                    continue;
                }
            };
            let room = bytes.get(..blocks.room()).unwrap_or_default();
            if level < depth {
                each(Met::Tree(home));
                let refs = room.chunks_exact(4).rev();
                let refs = refs.map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)));
                ahead.extend(refs.filter(|at| *at != 0).map(|at| (at, level + 1)));
                // One leaf may be referred to from all over a block.
                ahead.dedup();
                continue;
            }
            each(Met::Leaf(home));
            let entries = room.get(size_of::<QuotaLeaf>()..).unwrap_or_default();
            for bytes in entries.chunks_exact(size_of::<DiskDqblk>()) {
                if bytes.iter().any(|byte| *byte != 0)
                    && let Ok(entry) = DiskDqblk::ref_from_bytes(bytes)
                {
                    each(Met::Entry(entry));
                }
            }
        }
    }

    /// What a block of the volume is in this file; `None` when it is not of this file.
    #[must_use]
    pub fn role(&self, blkno: BlockNo) -> Option<Role> {
        let logical = self.blocks.logical(blkno)?;
        if logical == 0 {
            return Some(Role::Info);
        }
        let mut role = Role::Unused;
        self.walk(&mut |met| match met {
            Met::Tree(at) if at == blkno => role = Role::Tree,
            Met::Leaf(at) if at == blkno => role = Role::Leaf,
            _ => {}
        });
        Some(role)
    }
}

/// A slot's quota file.
#[derive(Debug)]
pub struct LocalQuota<'v> {
    blocks: Blocks<'v>,
    /// Its block 0.
    pub info: LocalQuotaInfo,
}

/// A change of usage that is not merged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// User or group.
    pub id: u64,
    /// Bytes more or less.
    pub bytes: i64,
    /// Inodes more or less.
    pub inodes: i64,
}

impl<'v> LocalQuota<'v> {
    /// Opens a slot's quota file by its inode; `magic` tells which.
    ///
    /// # Errors
    /// It is none.
    pub fn open(view: View<'v>, blkno: BlockNo, magic: u32) -> Result<Self> {
        let blocks = Blocks::open(view, blkno)?;
        let block = blocks.read(0)?;
        let info = LocalQuotaInfo::read_from_prefix(&block).map(|(info, _)| info);
        match info {
            Ok(info) if info.dqh_magic.get() == magic => Ok(Self { blocks, info }),
            other => {
                let found = other.map_or(0, |info| info.dqh_magic.get());
                Err(blocks.fault("dqh_magic", found.into(), "no quota file of a slot"))
            }
        }
    }

    /// Whether the slot left nothing unmerged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.info.dqi_flags.get() & 1 != 0
    }

    /// Changes in a block, and blocks of changes in a chunk.
    fn shape(&self) -> (usize, usize) {
        let per_block = (self.blocks.room() / size_of::<LocalDqblk>()).max(1);
        (per_block, (self.blocks.room() - 4) * 8 / per_block)
    }

    /// The changes in use, in order.
    ///
    /// # Errors
    /// A block cannot be read.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let (per_block, per_chunk) = self.shape();
        let end = self.info.dqi_blocks.get().min(self.blocks.count);
        let step = u32::try_from(per_chunk + 1).unwrap_or(u32::MAX);
        let mut found = Vec::new();
        let mut chunk = 1_u32;
        while chunk < end {
            let head = self.blocks.read(chunk)?;
            let bitmap = head.get(4..self.blocks.room()).unwrap_or_default();
            let last = end.min(chunk.saturating_add(step));
            for (nth, logical) in (chunk.saturating_add(1)..last).enumerate() {
                let block = self.blocks.read(logical)?;
                let entries = block.chunks_exact(size_of::<LocalDqblk>()).take(per_block);
                for (i, bytes) in entries.enumerate() {
                    let bit = nth * per_block + i;
                    let used = bitmap
                        .get(bit / 8)
                        .is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
                    if used && let Ok(entry) = LocalDqblk::ref_from_bytes(bytes) {
                        found.push(Change {
                            id: entry.dqb_id.get(),
                            bytes: entry.dqb_spacemod.get().cast_signed(),
                            inodes: entry.dqb_inodemod.get().cast_signed(),
                        });
                    }
                }
            }
            chunk = chunk.saturating_add(step);
        }
        Ok(found)
    }

    /// Where a block of the file lies.
    ///
    /// # Errors
    /// The file has no such block.
    pub fn home(&self, logical: u32) -> Result<BlockNo> {
        self.blocks.home(logical)
    }

    /// The heads of all chunks, each with the number of changes that its blocks have room for.
    ///
    /// # Errors
    /// A block is missing.
    pub fn chunks(&self) -> Result<Vec<(BlockNo, u32)>> {
        let (per_block, per_chunk) = self.shape();
        let end = self.info.dqi_blocks.get().min(self.blocks.count);
        let step = low32(per_chunk as u64 + 1);
        let mut found = Vec::new();
        let mut chunk = 1_u32;
        while chunk < end {
            let last = end.min(chunk.saturating_add(step));
            let blocks = u64::from(last - chunk - 1);
            found.push((self.home(chunk)?, low32(blocks * per_block as u64)));
            chunk = chunk.saturating_add(step);
        }
        Ok(found)
    }

    /// What a block of the volume is in this file; `None` when it is not of this file.
    #[must_use]
    pub fn role(&self, blkno: BlockNo) -> Option<Role> {
        let logical = self.blocks.logical(blkno)?;
        let (_, per_chunk) = self.shape();
        Some(match logical {
            0 => Role::LocalInfo,
            _ if logical >= self.info.dqi_blocks.get() => Role::Unused,
            _ if index(u64::from(logical) - 1).is_multiple_of(per_chunk + 1) => Role::Chunk,
            _ => Role::Changes,
        })
    }
}
