//! The contents of system files: journals, slot map, quota files.

use cowfs_format::layout::jbd2::{self, JournalSuperBlock};
use cowfs_format::layout::{
    DiskDqblk, GLOBAL_QUOTA_MAGIC, GlobalQuotaInfo, Incompat, LOCAL_QUOTA_MAGIC, LocalQuotaInfo,
    QuotaLeaf,
};
use cowfs_format::units::low32;
use zerocopy::FromZeros;

use crate::blocks::put;
use crate::plan::{Plan, Quota, quota_depth};

/// Seconds for which a soft limit of quotas may be exceeded: a week.
const GRACE: u32 = 604_800;
/// Milliseconds between merges of local changes of quotas.
const SYNC_MS: u32 = 10_000;

impl Quota {
    const fn magic(self, magics: [u32; 2]) -> u32 {
        match self {
            Self::User => magics[0],
            Self::Group => magics[1],
        }
    }
}

impl Plan {
    /// The superblock of a journal, which spans two blocks when they are of 512 bytes.
    pub(crate) fn journal_superblock(&self) -> Vec<u8> {
        let mut head = JournalSuperBlock::new_zeroed();
        head.h_magic = jbd2::MAGIC.into();
        head.h_blocktype = jbd2::SUPERBLOCK_V2.into();
        head.s_blocksize = low32(self.geo.block_bytes() as u64).into();
        head.s_maxlen = low32(self.journal_bytes >> self.geo.block_bits()).into();
        head.s_first = if self.geo.block_bits() == 9 { 2 } else { 1 }.into();
        head.s_sequence = 1.into();
        head.s_start = 1.into();
        if self.journal64 {
            head.s_feature_incompat = jbd2::INCOMPAT_64BIT.into();
        }
        head.s_uuid = self.uuid;
        head.s_nr_users = 1.into();
        let mut blocks = vec![0; self.geo.block_bytes().max(1024)];
        put(&mut blocks, 0, &head);
        blocks
    }

    /// The byte that fills an empty slot map.
    #[must_use]
    pub(crate) const fn slot_map_fill(&self) -> u8 {
        if self.features.has(Incompat::EXTENDED_SLOT_MAP) {
            0
        } else {
            0xFF
        }
    }

    fn quota_block(&self, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut block = vec![0; self.geo.block_bytes()];
        fill(&mut block);
        let check_at = block.len() - 8;
        self.stamp(block, check_at)
    }

    /// The blocks of a global quota file, which knows root only.
    pub(crate) fn global_quota(&self, quota: Quota) -> Vec<Vec<u8>> {
        let leaf = quota_depth(&self.geo) + 1;
        let mut blocks = vec![self.quota_block(|block| {
            let mut info = GlobalQuotaInfo::new_zeroed();
            info.dqh_magic = quota.magic(GLOBAL_QUOTA_MAGIC).into();
            info.dqi_bgrace = GRACE.into();
            info.dqi_igrace = GRACE.into();
            info.dqi_syncms = SYNC_MS.into();
            info.dqi_blocks = (leaf + 1).into();
            info.dqi_free_entry = leaf.into();
            put(block, 0, &info);
        })];
        for level in 1..leaf {
            // Number 0 is the first reference at each level.
            blocks.push(self.quota_block(|block| {
                put(block, 0, &zerocopy::little_endian::U32::new(level + 1));
            }));
        }
        blocks.push(self.quota_block(|block| {
            let mut head = QuotaLeaf::new_zeroed();
            head.dqdh_entries = 1.into();
            let (bytes, inodes) = self.quota_usage();
            let mut entry = DiskDqblk::new_zeroed();
            entry.dqb_curinodes = inodes.into();
            entry.dqb_curspace = bytes.into();
            put(block, 0, &head);
            put(block, size_of::<QuotaLeaf>(), &entry);
        }));
        blocks
    }

    /// The blocks of a slot's quota file.
    pub(crate) fn local_quota(&self, quota: Quota) -> Vec<Vec<u8>> {
        let head = self.quota_block(|block| {
            let mut info = LocalQuotaInfo::new_zeroed();
            info.dqh_magic = quota.magic(LOCAL_QUOTA_MAGIC).into();
            // Left cleanly.
            info.dqi_flags = 1.into();
            info.dqi_chunks = 1.into();
            info.dqi_blocks = 2.into();
            put(block, 0, &info);
        });
        vec![head, self.quota_block(|_| {})]
    }
}
