//! Allocating and freeing single blocks: inode and extent allocators.

use std::collections::HashMap;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    ChainRec, DINODE_HEAD, DISCONTIG_BITMAP_BYTES, Dinode, ExtentFlags, ExtentList, ExtentRec,
    GROUP_BITMAP, GROUP_LIST, GroupDesc, Incompat,
};
use crate::read::chain::{self, ChainsView};
use crate::txn::clusters::{Run, find_clear, require_counted};
use crate::txn::{Edit, Txn};
use crate::units::{BlockNo, Slot, low16};
use crate::volume::system::{self, SystemFile};
use zerocopy::{FromBytes, IntoBytes};

/// What a transaction knows of the suballocators.
#[derive(Clone, Debug, Default)]
pub(super) struct SubAllocs {
    inodes: HashMap<SystemFile, BlockNo>,
    /// Group that served the last request of an allocator.
    current: HashMap<BlockNo, BlockNo>,
    /// Bits to be cleared by the commit: allocator, group, bit.
    freed: Vec<(BlockNo, BlockNo, u32)>,
}

/// A block that a suballocator handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubBlock {
    /// The block.
    pub(crate) blkno: BlockNo,
    /// Slot of its allocator.
    pub(crate) slot: Slot,
    /// Its bit.
    pub(crate) bit: u16,
    /// Its group.
    pub(crate) group: BlockNo,
}

impl Txn<'_> {
    fn allocator(&mut self, file: SystemFile) -> Result<BlockNo> {
        if let Some(blkno) = self.suballocs.inodes.get(&file) {
            return Ok(*blkno);
        }
        let blkno = system::find(self.view(), file)?;
        self.suballocs.inodes.insert(file, blkno);
        Ok(blkno)
    }

    /// Allocates a metadata block (extent block, dx root, refcount block, xattr block).
    ///
    /// # Errors
    /// The volume is full or an allocator is damaged.
    pub(crate) fn alloc_metadata(&mut self) -> Result<SubBlock> {
        self.alloc_sub(SystemFile::ExtentAlloc)
    }

    /// Allocates an inode block.
    ///
    /// # Errors
    /// The volume is full or an allocator is damaged.
    pub(crate) fn alloc_inode(&mut self) -> Result<SubBlock> {
        self.alloc_sub(SystemFile::InodeAlloc)
    }

    fn alloc_sub(&mut self, file: fn(Slot) -> SystemFile) -> Result<SubBlock> {
        let slot = self.slot;
        if let Some(found) = self.take_bit(file(slot), slot)? {
            return Ok(found);
        }
        if self.grow(file(slot))?
            && let Some(found) = self.take_bit(file(slot), slot)?
        {
            return Ok(found);
        }
        // No cluster is left for a new group: other slots may have room in theirs.
        for other in (0..self.info.max_slots)
            .map(Slot)
            .filter(|other| *other != slot)
        {
            if let Some(found) = self.take_bit(file(other), other)? {
                return Ok(found);
            }
        }
        Err(Error::NoSpace {
            needed: 1,
            unit: "metadata blocks",
        })
    }

    /// Takes a bit from an allocator, if any of its groups has one.
    pub(super) fn take_bit(&mut self, file: SystemFile, slot: Slot) -> Result<Option<SubBlock>> {
        let allocator = self.allocator(file)?;
        if let Some(&group) = self.suballocs.current.get(&allocator)
            && let Some(found) = self.take_bit_of(allocator, group, slot)?
        {
            return Ok(Some(found));
        }
        let inode = self.view().block::<Dinode>(allocator)?;
        let recs = chain::chains(&inode)?.recs.to_vec();
        drop(inode);
        for rec in recs.iter().filter(|rec| rec.c_free.get() > 0) {
            let mut next = rec.c_blkno.get();
            let mut fuel = rec.c_total.get();
            while next != 0 && fuel > 0 {
                fuel -= 1;
                let group = BlockNo(next);
                if let Some(found) = self.take_bit_of(allocator, group, slot)? {
                    self.suballocs.current.insert(allocator, group);
                    return Ok(Some(found));
                }
                next = self.view().block::<GroupDesc>(group)?.bg_next_group.get();
            }
        }
        Ok(None)
    }

    fn take_bit_of(
        &mut self,
        allocator: BlockNo,
        group: BlockNo,
        slot: Slot,
    ) -> Result<Option<SubBlock>> {
        let bpc = low16(self.info.geo.blocks_per_cluster());
        let found = {
            let desc = self.view().block::<GroupDesc>(group)?;
            if desc.bg_free_bits_count.get() == 0 {
                return Ok(None);
            }
            require_counted(&desc, desc.bitmap(), group)?;
            find_clear(desc.bitmap(), desc.bg_bits.get().into(), 1, 1)
                .map(|run| (run, desc.block_of_bit(run.first, bpc)))
        };
        let Some((run, blkno)) = found else {
            return Ok(None);
        };
        let Some(blkno) = blkno.filter(|blkno| self.info.geo.contains(*blkno, 1)) else {
            let rule = "a bit of the group stands for no block";
            let kind = FaultKind::Field {
                field: "bg_list",
                value: run.first.into(),
                rule,
            };
            return Err(kind.at(group).into());
        };
        self.change_bits(allocator, group, run, true)?;
        Ok(Some(SubBlock {
            blkno,
            slot,
            bit: low16(run.first.into()),
            group,
        }))
    }

    /// Adds a group to an allocator; false when the volume has no clusters for one.
    fn grow(&mut self, file: SystemFile) -> Result<bool> {
        let allocator = self.allocator(file)?;
        let inode = self.view().block::<Dinode>(allocator)?;
        let chains = chain::chains(&inode)?;
        let (cpg, bpc) = (chains.head.cl_cpg.get(), chains.head.cl_bpc.get());
        let count = usize::from(chains.head.cl_count.get()).min(chains.capacity);
        let used = chains.recs.len();
        // Unused chains are filled first; then the chain with the fewest bits.
        let chain = if used < count {
            used
        } else {
            let totals = chains.recs.iter().enumerate();
            totals
                .min_by_key(|(i, rec)| (rec.c_total.get(), *i))
                .map_or(0, |(i, _)| i)
        };
        let next = chains.recs.get(chain).map_or(0, |rec| rec.c_blkno.get());
        drop(inode);
        let bits = u32::from(cpg) * u32::from(bpc);
        if cpg == 0 || bits > 0xFFFF {
            let rule = "no group can have that many bits";
            return Err(FaultKind::Field {
                field: "cl_cpg",
                value: cpg.into(),
                rule,
            }
            .at(allocator)
            .into());
        }
        let Some(extents) = self.group_extents(cpg)? else {
            return Ok(false);
        };
        let geo = self.info.geo;
        let discontig = self.info.has(Incompat::DISCONTIG_BG);
        let blkno = geo.first_block(crate::units::ClusterNo(extents[0].first));
        let generation = self.info.fs_generation.0;
        let block_bytes = geo.block_bytes();
        let mut desc: Edit<'_, GroupDesc> = self.fresh(blkno, Some(0x30));
        desc.bg_signature = *b"GROUP01\0";
        desc.bg_size = if discontig {
            DISCONTIG_BITMAP_BYTES
        } else {
            low16(block_bytes as u64 - 64)
        }
        .into();
        desc.bg_bits = low16(bits.into()).into();
        desc.bg_free_bits_count = low16(u64::from(bits) - 1).into();
        desc.bg_chain = low16(chain as u64).into();
        desc.bg_generation = generation.into();
        desc.bg_next_group = next.into();
        desc.bg_parent_dinode = allocator.0.into();
        desc.bg_blkno = blkno.0.into();
        desc.bytes_mut()[GROUP_BITMAP] = 1;
        if extents.len() > 1 {
            let space = &mut desc.bytes_mut()[GROUP_LIST..];
            let capacity = (space.len() - size_of::<ExtentList>()) / size_of::<ExtentRec>();
            let (head, rest) =
                ExtentList::mut_from_prefix(space).map_err(|_| FaultKind::OutOfVolume.at(blkno))?;
            head.l_count = low16(capacity as u64).into();
            head.l_next_free_rec = low16(extents.len() as u64).into();
            let mut cpos = 0;
            for (run, place) in extents.iter().zip(rest.chunks_exact_mut(16)) {
                let first = geo.first_block(crate::units::ClusterNo(run.first));
                let rec =
                    ExtentRec::leaf(cpos, low16(run.len.into()), first.0, ExtentFlags::empty());
                place.copy_from_slice(rec.as_bytes());
                cpos += run.len;
            }
        }

        let mut inode = self.edit::<Dinode>(allocator)?;
        let clusters = inode.i_clusters.get().saturating_add(cpg.into());
        inode.i_clusters = clusters.into();
        inode.i_size = (u64::from(clusters) << geo.cluster_bits()).into();
        inode.id1_low = inode.id1_low.get().saturating_add(1).into();
        inode.id1_high = inode.id1_high.get().saturating_add(bits).into();
        let old = ChainsView::parse(&inode.bytes()[DINODE_HEAD..])
            .and_then(|c| c.recs.get(chain).copied());
        let rec = ChainRec {
            c_free: old
                .map_or(0, |r| r.c_free.get())
                .saturating_add(bits - 1)
                .into(),
            c_total: old
                .map_or(0, |r| r.c_total.get())
                .saturating_add(bits)
                .into(),
            c_blkno: blkno.0.into(),
        };
        let bytes = inode.bytes_mut();
        if old.is_none() {
            bytes[DINODE_HEAD + 6..DINODE_HEAD + 8]
                .copy_from_slice(&low16(chain as u64 + 1).to_le_bytes());
        }
        let at = DINODE_HEAD + 16 + chain * size_of::<ChainRec>();
        bytes[at..at + size_of::<ChainRec>()].copy_from_slice(rec.as_bytes());
        self.suballocs.current.insert(allocator, blkno);
        Ok(true)
    }

    /// The clusters of a new group: one run, or several where the volume allows that.
    fn group_extents(&mut self, cpg: u16) -> Result<Option<Vec<Run>>> {
        let want = u32::from(cpg);
        if let Some(first) = self.alloc_contiguous(want)? {
            return Ok(Some(vec![Run {
                first: first.0,
                len: want,
            }]));
        }
        if !self.info.has(Incompat::DISCONTIG_BG) || self.free_clusters()? < want {
            return Ok(None);
        }
        let capacity =
            (self.block_bytes() - GROUP_LIST - size_of::<ExtentList>()) / size_of::<ExtentRec>();
        let mut runs = Vec::new();
        let mut have = 0;
        while have < want {
            let (first, len) = self.alloc_clusters(want - have)?;
            runs.push(Run {
                first: first.0,
                len,
            });
            have += len;
        }
        if runs.len() > capacity {
            for run in runs {
                self.free_clusters_at_commit(crate::units::ClusterNo(run.first), run.len);
            }
            return Ok(None);
        }
        Ok(Some(runs))
    }

    /// Frees a block of an allocator when the transaction commits.
    pub(crate) fn free_sub(
        &mut self,
        file: SystemFile,
        blkno: BlockNo,
        bit: u16,
        loc: u64,
    ) -> Result<()> {
        self.free_bit(file, blkno, bit, loc)?;
        self.forget(blkno);
        Ok(())
    }

    /// Frees the bit of a block whose last state is to be written all the same.
    pub(super) fn free_bit(
        &mut self,
        file: SystemFile,
        blkno: BlockNo,
        bit: u16,
        loc: u64,
    ) -> Result<()> {
        let allocator = self.allocator(file)?;
        let group = if loc != 0 {
            BlockNo(loc)
        } else {
            BlockNo(blkno.0.saturating_sub(bit.into()))
        };
        self.suballocs.freed.push((allocator, group, bit.into()));
        Ok(())
    }

    /// How many blocks of allocators the commit will change to free single blocks, at most.
    pub(super) fn freed_groups(&self) -> usize {
        let groups = self
            .suballocs
            .freed
            .iter()
            .map(|(allocator, group, _)| (allocator, group));
        2 * groups.collect::<std::collections::HashSet<_>>().len()
    }

    /// Clears the bits of all blocks that were freed.
    pub(super) fn apply_freed_blocks(&mut self) -> Result<()> {
        for (allocator, group, bit) in std::mem::take(&mut self.suballocs.freed) {
            self.change_bits(allocator, group, Run { first: bit, len: 1 }, false)?;
        }
        Ok(())
    }
}
