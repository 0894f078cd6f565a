//! Accounting usage in the global quota files.
//!
//! Charges are gathered while a transaction is made and applied once, when it commits. An id that
//! the files do not know gets an entry; the tree of blocks that leads to it grows as needed.

use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    Dinode, DiskDqblk, ExtentFlags, GLOBAL_QUOTA_MAGIC, GlobalQuotaInfo, QUOTA_TREE_ROOT,
    QuotaLeaf, RoCompat,
};
use crate::read::extent::Extent;
use crate::read::{file::FileReader, inode};
use crate::txn::{Edit, Raw, Txn};
use crate::units::BlockNo;
use crate::volume::system::{self, SystemFile};

/// Changes of usage: id to bytes and inodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Charges {
    users: BTreeMap<u32, (i64, i64)>,
    groups: BTreeMap<u32, (i64, i64)>,
}

/// Offset of the free heads in block 0.
const DQI_BLOCKS: usize = 0x14;
const DQI_FREE_BLK: usize = 0x18;
const DQI_FREE_ENTRY: usize = 0x1C;

impl Txn<'_> {
    /// Notes a change of usage.
    pub(crate) fn charge(&mut self, uid: u32, gid: u32, bytes: i64, inodes: i64) {
        for (map, id) in [
            (&mut self.charges.users, uid),
            (&mut self.charges.groups, gid),
        ] {
            let entry = map.entry(id).or_default();
            entry.0 = entry.0.saturating_add(bytes);
            entry.1 = entry.1.saturating_add(inodes);
        }
    }

    /// Notes that an inode's clusters changed by a signed number.
    pub(crate) fn charge_clusters(&mut self, inode: BlockNo, clusters: i64) -> Result<()> {
        let (uid, gid) = {
            let dinode = self.view().block::<Dinode>(inode)?;
            (dinode.i_uid.get(), dinode.i_gid.get())
        };
        let bytes = clusters.saturating_mul(1 << self.info.geo.cluster_bits());
        self.charge(uid, gid, bytes, 0);
        Ok(())
    }

    /// Forgets the changes of usage: for a repair of a volume whose quota files are of no use yet.
    pub fn forget_charges(&mut self) {
        self.charges = Charges::default();
    }

    /// How many blocks of quota files the commit will change, at most: for each id its entry, and
    /// the way that leads to it.
    pub(super) fn charged_blocks(&self) -> usize {
        let features = self.info.features.ro_compat;
        if !features.intersects(RoCompat::USRQUOTA.union(RoCompat::GRPQUOTA)) {
            return 0;
        }
        6 * (self.charges.users.len() + self.charges.groups.len())
    }

    /// Writes the gathered changes into the quota files of the volume, if it has any, and forgets them. A
    /// commit does so by itself.
    ///
    /// # Errors
    /// A quota file cannot be used, or the volume is full.
    pub fn apply_charges(&mut self) -> Result<()> {
        let charges = std::mem::take(&mut self.charges);
        let features = self.info.features.ro_compat;
        for (feature, file, magic, changes) in [
            (
                RoCompat::USRQUOTA,
                SystemFile::UserQuota,
                GLOBAL_QUOTA_MAGIC[0],
                charges.users,
            ),
            (
                RoCompat::GRPQUOTA,
                SystemFile::GroupQuota,
                GLOBAL_QUOTA_MAGIC[1],
                charges.groups,
            ),
        ] {
            if !features.contains(feature) || changes.is_empty() {
                continue;
            }
            let kind = if file == SystemFile::UserQuota {
                "user"
            } else {
                "group"
            };
            let mut quota = QuotaFile::open(self, file, magic, kind)?;
            for (id, (bytes, inodes)) in changes {
                if (bytes, inodes) != (0, 0) {
                    quota.change(self, id, bytes, inodes)?;
                }
            }
        }
        Ok(())
    }
}

/// A global quota file.
pub(super) struct QuotaFile {
    /// `user` or `group`.
    kind: &'static str,
    inode: BlockNo,
    extents: Vec<Extent>,
    blocks: u64,
}

impl QuotaFile {
    pub(super) fn open(
        txn: &Txn<'_>,
        file: SystemFile,
        magic: u32,
        owner: &'static str,
    ) -> Result<Self> {
        let view = txn.view();
        let blkno = system::find(view, file)?;
        let inode = inode::read(view, blkno)?;
        let reader = FileReader::open(view, &inode)?;
        let mut head = [0; size_of::<GlobalQuotaInfo>()];
        reader.read_at(0, &mut head)?;
        let found = GlobalQuotaInfo::read_from_bytes(&head).map_or(0, |info| info.dqh_magic.get());
        if found != magic {
            let rule = "no global quota file; run fsck.cowfs";
            let kind = FaultKind::Field {
                field: "dqh_magic",
                value: found.into(),
                rule,
            };
            return Err(kind.at(blkno).into());
        }
        let blocks = inode.i_size.get() >> view.geo().block_bits();
        Ok(Self {
            kind: owner,
            inode: blkno,
            extents: reader.extents().to_vec(),
            blocks,
        })
    }

    /// The place of a logical block of the file.
    fn home(&self, txn: &Txn<'_>, logical: u32) -> Result<BlockNo> {
        let bpc = txn.info.geo.blocks_per_cluster();
        let logical = u64::from(logical);
        self.extents
            .iter()
            .find(|e| u64::from(e.cpos) * bpc <= logical && logical < u64::from(e.end()) * bpc)
            .filter(|_| logical < self.blocks)
            .map(|e| e.blkno.plus(logical - u64::from(e.cpos) * bpc))
            .ok_or_else(|| {
                let rule = "the quota file has no such block; run fsck.cowfs";
                FaultKind::Field {
                    field: "quota tree",
                    value: logical,
                    rule,
                }
                .at(self.inode)
                .into()
            })
    }

    fn edit<'t>(&self, txn: &'t mut Txn<'_>, logical: u32) -> Result<Edit<'t, Raw>> {
        let home = self.home(txn, logical)?;
        let check_at = txn.block_bytes() - crate::ecc::CHECK_BYTES;
        txn.edit_raw(home, Some(check_at))
    }

    fn word(&self, txn: &Txn<'_>, logical: u32, at: usize) -> Result<u32> {
        let block = txn.view().raw(self.home(txn, logical)?)?;
        Ok(block
            .get(at..at + 4)
            .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }

    fn set_word(&self, txn: &mut Txn<'_>, logical: u32, at: usize, value: u32) -> Result<()> {
        self.edit(txn, logical)?.bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// Adds to the usage of an id, making its entry when it has none.
    fn change(&mut self, txn: &mut Txn<'_>, id: u32, bytes: i64, inodes: i64) -> Result<()> {
        let (leaf, slot) = self.entry(txn, id)?;
        let at = entry_at(slot);
        let mut block = self.edit(txn, leaf)?;
        if let Ok((entry, _)) = DiskDqblk::mut_from_prefix(&mut block.bytes_mut()[at..]) {
            // Who gives back is never refused. A limit of 0 is none.
            let add = |value: u64, delta: i64, limit: u64, unit| {
                let sum = value.saturating_add_signed(delta);
                if delta <= 0 || limit == 0 || sum <= limit {
                    return Ok(sum);
                }
                let who = format!("{} {id}", self.kind);
                Err(Error::Quota { who, limit, unit })
            };
            let (space, most) = (entry.dqb_curspace.get(), entry.dqb_bhardlimit.get());
            entry.dqb_curspace = add(space, bytes, most, "bytes")?.into();
            let (count, most) = (entry.dqb_curinodes.get(), entry.dqb_ihardlimit.get());
            entry.dqb_curinodes = add(count, inodes, most, "inodes")?.into();
        }
        Ok(())
    }

    /// Adds what a slot noted to the usage of an id, whatever its limits; the slot no longer holds
    /// the entry.
    pub(super) fn merge(
        &mut self,
        txn: &mut Txn<'_>,
        id: u32,
        bytes: i64,
        inodes: i64,
    ) -> Result<()> {
        let (leaf, slot) = self.entry(txn, id)?;
        let at = entry_at(slot);
        let mut block = self.edit(txn, leaf)?;
        if let Ok((entry, _)) = DiskDqblk::mut_from_prefix(&mut block.bytes_mut()[at..]) {
            let space = entry.dqb_curspace.get().saturating_add_signed(bytes);
            let count = entry.dqb_curinodes.get().saturating_add_signed(inodes);
            let holders = entry.dqb_use_count.get().saturating_sub(1);
            entry.dqb_curspace = space.into();
            entry.dqb_curinodes = count.into();
            entry.dqb_use_count = holders.into();
        }
        Ok(())
    }

    /// Leaf and index of the entry of an id; the entry is made when there is none.
    fn entry(&mut self, txn: &mut Txn<'_>, id: u32) -> Result<(u32, usize)> {
        let refs = (txn.block_bytes() - crate::ecc::CHECK_BYTES) / 4;
        let mut depth = 1;
        let mut reach = refs as u64;
        while reach < 1 << 32 {
            reach *= refs as u64;
            depth += 1;
        }
        let mut node = QUOTA_TREE_ROOT;
        for level in 0..depth {
            let below = (refs as u64).pow(depth - 1 - level);
            let index = crate::units::index(u64::from(id) / below % refs as u64);
            let child = self.word(txn, node, index * 4)?;
            if child != 0 {
                node = child;
                continue;
            }
            let child = if level + 1 == depth {
                self.leaf_with_room(txn)?
            } else {
                self.new_block(txn)?
            };
            self.set_word(txn, node, index * 4, child)?;
            if level + 1 == depth {
                return self.new_entry(txn, child, id).map(|slot| (child, slot));
            }
            node = child;
        }
        let leaf = node;
        let block = txn.view().raw(self.home(txn, leaf)?)?;
        let slots = entries_per_leaf(txn.block_bytes());
        let found = (0..slots).find(|slot| {
            let at = entry_at(*slot);
            block
                .get(at..at + 88)
                .is_some_and(|e| e.iter().any(|b| *b != 0) && e[..4] == id.to_le_bytes())
        });
        match found {
            Some(slot) => Ok((leaf, slot)),
            None => {
                let rule = "the quota tree leads to a leaf without the entry; run fsck.cowfs";
                let kind = FaultKind::Field {
                    field: "dqb_id",
                    value: id.into(),
                    rule,
                };
                Err(Error::Fault(kind.at(self.home(txn, leaf)?)))
            }
        }
    }

    /// A leaf with a free entry: the head of the list of such leaves, or a new one.
    fn leaf_with_room(&mut self, txn: &mut Txn<'_>) -> Result<u32> {
        let head = self.word(txn, 0, DQI_FREE_ENTRY)?;
        if head != 0 {
            return Ok(head);
        }
        let leaf = self.new_block(txn)?;
        self.set_word(txn, 0, DQI_FREE_ENTRY, leaf)?;
        Ok(leaf)
    }

    /// Makes the entry of an id in a leaf from the list of leaves with room.
    fn new_entry(&mut self, txn: &mut Txn<'_>, leaf: u32, id: u32) -> Result<usize> {
        let slots = entries_per_leaf(txn.block_bytes());
        let home = self.home(txn, leaf)?;
        let mut block = self.edit(txn, leaf)?;
        let bytes = block.bytes_mut();
        let slot = (0..slots).find(|slot| {
            bytes[entry_at(*slot)..entry_at(*slot) + 88]
                .iter()
                .all(|b| *b == 0)
        });
        let Some(slot) = slot else {
            let rule = "the leaf is in the list of leaves with room but has none; run fsck.cowfs";
            let kind = FaultKind::Field {
                field: "dqdh_entries",
                value: slots as u64,
                rule,
            };
            return Err(kind.at(home).into());
        };
        let mut entry =
            DiskDqblk::read_from_bytes(&[0; 88]).map_err(|_| FaultKind::OutOfVolume.at(home))?;
        entry.dqb_id = id.into();
        bytes[entry_at(slot)..entry_at(slot) + 88].copy_from_slice(entry.as_bytes());
        let (head, _) =
            QuotaLeaf::mut_from_prefix(bytes).map_err(|_| FaultKind::OutOfVolume.at(home))?;
        head.dqdh_entries = head.dqdh_entries.get().saturating_add(1).into();
        let full = usize::from(head.dqdh_entries.get()) >= slots;
        let next = head.dqdh_next_free.get();
        if full {
            head.dqdh_next_free = 0.into();
            head.dqdh_prev_free = 0.into();
        }
        if full {
            self.set_word(txn, 0, DQI_FREE_ENTRY, next)?;
            if next != 0 {
                self.set_word(txn, next, 4, 0)?;
            }
        }
        Ok(slot)
    }

    /// A block for the tree, all zeros: from the list of unused ones, or a new one at the end.
    fn new_block(&mut self, txn: &mut Txn<'_>) -> Result<u32> {
        let unused = self.word(txn, 0, DQI_FREE_BLK)?;
        if unused != 0 {
            let next = self.word(txn, unused, 0)?;
            self.set_word(txn, 0, DQI_FREE_BLK, next)?;
            self.edit(txn, unused)?.bytes_mut().fill(0);
            return Ok(unused);
        }
        let geo = txn.info.geo;
        let logical = crate::units::low32(self.blocks);
        let allocated: u64 = self.extents.iter().map(|e| u64::from(e.clusters)).sum();
        if self.blocks >= allocated * geo.blocks_per_cluster() {
            let cpos = crate::units::low32(allocated);
            let (cluster, clusters) = txn.alloc_clusters(1)?;
            let extent = Extent {
                cpos,
                clusters,
                blkno: geo.first_block(cluster),
                flags: ExtentFlags::empty(),
            };
            let root = txn.data_root(self.inode)?;
            txn.splice(&root, cpos, cpos + 1, &[extent])?;
            self.extents.push(extent);
        }
        self.blocks += 1;
        let home = self.home(txn, logical)?;
        let check_at = txn.block_bytes() - crate::ecc::CHECK_BYTES;
        txn.fresh::<Raw>(home, Some(check_at));
        let mut inode = txn.edit::<Dinode>(self.inode)?;
        inode.i_size = (self.blocks << geo.block_bits()).into();
        self.set_word(txn, 0, DQI_BLOCKS, logical + 1)?;
        Ok(logical)
    }
}

const fn entries_per_leaf(block_bytes: usize) -> usize {
    (block_bytes - crate::ecc::CHECK_BYTES - size_of::<QuotaLeaf>()) / size_of::<DiskDqblk>()
}

const fn entry_at(slot: usize) -> usize {
    size_of::<QuotaLeaf>() + slot * size_of::<DiskDqblk>()
}
