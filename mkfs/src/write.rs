//! Writing a planned volume to a device.
//!
//! What the device held is made unrecognisable first, and the superblock is written last, after
//! everything else is on stable storage: a run that is stopped leaves nothing that looks like a
//! volume. Memory does not grow with the volume: descriptors are made one after the other.

use cowfs_format::device::DeviceMut;
use cowfs_format::error::Result;
use cowfs_format::layout::{InodeFlags, SUPER_BLOCK_BLKNO};
use cowfs_format::units::{BlockNo, ClusterNo, index};

use crate::files::Tree;
use crate::plan::{Kind, Plan, SystemFile};

/// Wiped at both ends of the volume: any signature that a program looks for lies there.
const WIPE: u64 = 1 << 20;
/// Adjacent blocks are written together up to this many bytes.
const BATCH: usize = 1 << 18;

/// Descriptors of cluster groups after which the device may begin to store them.
const BEGIN: u32 = 1024;

/// Writes the volume but for its superblock.
pub(crate) fn body(device: &dyn DeviceMut, plan: &Plan) -> Result<()> {
    let volume = plan.geo.bytes();
    if !is_zero(device, 0, WIPE.min(volume)) {
        device.write_zeros(0, WIPE.min(volume))?;
        device.flush()?;
    }
    let clean = plan.discard && device.discard(0, volume)?;
    let end = volume.saturating_sub(WIPE);
    if !clean {
        device.write_zeros(end, volume - end)?;
    }
    let mut out = Writer::new(device, plan, clean);
    out.cluster_groups()?;
    out.system_inodes()?;
    out.directories()?;
    for file in &plan.files {
        out.contents(file)?;
    }
    out.backups()?;
    out.bytes(0, &plan.leading_blocks())?;
    out.flush()
}

/// Writes again what says the size or the UUID of the volume, but for its superblock: the backups of
/// that, and the superblocks of the journals.
pub(crate) fn identity(device: &dyn DeviceMut, plan: &Plan) -> Result<()> {
    let mut out = Writer::new(device, plan, true);
    out.backups()?;
    for file in plan.files.iter().filter(|file| file.kind == Kind::Journal) {
        out.file_blocks(file, &[plan.journal_superblock()])?;
    }
    out.flush()
}

/// Writes the superblock, once everything else is on stable storage.
pub(crate) fn superblock(device: &dyn DeviceMut, plan: &Plan) -> Result<()> {
    device.flush()?;
    device.write_at(
        plan.geo.byte_of(BlockNo(SUPER_BLOCK_BLKNO)),
        &plan.primary(),
    )?;
    device.flush()?;
    Ok(())
}

/// Whether a range can be read and holds nothing but zeros.
fn is_zero(device: &dyn DeviceMut, offset: u64, len: u64) -> bool {
    let mut buffer = vec![0; index(len)];
    device.read_at(offset, &mut buffer).is_ok() && buffer.iter().all(|byte| *byte == 0)
}

/// Writes blocks, joining neighbours.
struct Writer<'a> {
    device: &'a dyn DeviceMut,
    plan: &'a Plan,
    /// Whether the device reads as zeros where nothing was written.
    clean: bool,
    start: u64,
    batch: Vec<u8>,
}

impl<'a> Writer<'a> {
    const fn new(device: &'a dyn DeviceMut, plan: &'a Plan, clean: bool) -> Self {
        Self {
            device,
            plan,
            clean,
            start: 0,
            batch: Vec::new(),
        }
    }
}

impl Writer<'_> {
    fn bytes(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let follows = self.start + self.batch.len() as u64 == offset;
        if !follows || self.batch.len() + data.len() > BATCH {
            self.flush()?;
            self.start = offset;
        }
        self.batch.extend_from_slice(data);
        Ok(())
    }

    fn block(&mut self, at: BlockNo, data: &[u8]) -> Result<()> {
        self.bytes(self.plan.geo.byte_of(at), data)
    }

    fn flush(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            self.device.write_at(self.start, &self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Makes clusters read as zeros.
    fn zeros(&mut self, start: ClusterNo, clusters: u32) -> Result<()> {
        if !self.clean {
            let geo = &self.plan.geo;
            self.flush()?;
            self.device.write_zeros(
                geo.byte_of(geo.first_block(start)),
                u64::from(clusters) << geo.cluster_bits(),
            )?;
        }
        Ok(())
    }

    fn zero_tree(&mut self, tree: &Tree) -> Result<()> {
        for extent in &tree.extents {
            self.zeros(extent.start, extent.len)?;
        }
        Ok(())
    }

    fn cluster_groups(&mut self) -> Result<()> {
        let mut shared = None;
        for group in 0..self.plan.geo.cluster_groups() {
            let (at, block) = self.plan.cluster_desc(group, &mut shared);
            self.block(at, &block)?;
            if (group + 1).is_multiple_of(BEGIN) {
                let first = self
                    .plan
                    .geo
                    .byte_of(self.plan.geo.group_block(group + 1 - BEGIN));
                let end = self.plan.geo.byte_of(at);
                self.device.begin_flush(first, end.saturating_sub(first));
            }
        }
        Ok(())
    }

    fn system_inodes(&mut self) -> Result<()> {
        let (at, block) = self.plan.inode_group_desc();
        self.block(at, &block)?;
        for dir in [&self.plan.root, &self.plan.system_dir] {
            let block = self.plan.directory_inode(dir, InodeFlags::SYSTEM);
            self.block(dir.place.block, &block)?;
        }
        for file in &self.plan.files {
            let block = self.plan.system_inode(file);
            self.block(self.plan.system_block(file.bit), &block)?;
        }
        let block = self.plan.lost_found_inode();
        self.block(self.plan.lost_found.place.block, &block)
    }

    fn directories(&mut self) -> Result<()> {
        let plan = self.plan;
        let orphans = plan.files.iter().filter_map(|file| file.dir.as_ref());
        for dir in [&plan.root, &plan.system_dir, &plan.lost_found]
            .into_iter()
            .chain(orphans)
        {
            if dir.tree.extents.is_empty() {
                continue;
            }
            self.zero_tree(&dir.tree)?;
            for (at, block) in plan.directory_blocks(dir) {
                self.block(at, &block)?;
            }
            if let Some(index) = &dir.index {
                self.block(index.block, &plan.index_root(dir, index))?;
            }
        }
        Ok(())
    }

    fn contents(&mut self, file: &SystemFile) -> Result<()> {
        let plan = self.plan;
        if file.dir.is_some() {
            return Ok(());
        }
        self.zero_tree(&file.tree)?;
        match file.kind {
            Kind::Journal => {
                for (at, block) in plan.extent_blocks(&file.tree) {
                    self.block(at, &block)?;
                }
                self.file_blocks(file, &[plan.journal_superblock()])
            }
            Kind::SlotMap if plan.slot_map_fill() != 0 => {
                let fill = vec![plan.slot_map_fill(); plan.geo.block_bytes()];
                let blocks = file.size >> plan.geo.block_bits();
                (0..blocks).try_for_each(|logical| match file.tree.block(&plan.geo, logical) {
                    Some(at) => self.block(at, &fill),
                    None => Ok(()),
                })
            }
            Kind::GlobalQuota(quota) => self.file_blocks(file, &plan.global_quota(quota)),
            Kind::LocalQuota(quota) => self.file_blocks(file, &plan.local_quota(quota)),
            Kind::ExtentAlloc | Kind::InodeAlloc => {
                for (at, block) in plan.suballoc_descs(file) {
                    self.block(at, &block)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Writes the first blocks of a file.
    fn file_blocks(&mut self, file: &SystemFile, blocks: &[Vec<u8>]) -> Result<()> {
        for (block, logical) in blocks.iter().zip(0..) {
            if let Some(at) = file.tree.block(&self.plan.geo, logical) {
                self.block(at, block)?;
            }
        }
        Ok(())
    }

    fn backups(&mut self) -> Result<()> {
        let plan = self.plan;
        if !plan.has_backups() {
            return Ok(());
        }
        for offset in plan.geo.backup_offsets() {
            let at = BlockNo(offset >> plan.geo.block_bits());
            self.zeros(plan.geo.cluster_of(at), 1)?;
            self.block(at, &plan.superblock(at))?;
        }
        Ok(())
    }
}
