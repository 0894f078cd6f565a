//! Changes of usage that a slot did not merge into the global quota files any more.

use zerocopy::FromBytes;

use crate::error::Result;
use crate::layout::{
    GLOBAL_QUOTA_MAGIC, LOCAL_QUOTA_MAGIC, LocalQuotaChunk, LocalQuotaInfo, RoCompat,
};
use crate::read::quota::{LocalQuota, Role};
use crate::txn::Txn;
use crate::txn::quota::QuotaFile;
use crate::units::{BlockNo, Slot};
use crate::volume::system::{self, SystemFile};

/// Bit 0 of a local file's flags: it was left cleanly.
const CLEAN: u32 = 1;

impl Txn<'_> {
    /// Merges what a slot noted of usage into the global files, and marks its files as left cleanly.
    /// Nothing is refused for a limit: what was used is used.
    ///
    /// # Errors
    /// A quota file is damaged.
    pub(crate) fn merge_local_quotas(&mut self, slot: Slot) -> Result<()> {
        let features = self.info.features.ro_compat;
        for (feature, global, local, kind) in [
            (
                RoCompat::USRQUOTA,
                SystemFile::UserQuota,
                SystemFile::LocalUserQuota(slot),
                0,
            ),
            (
                RoCompat::GRPQUOTA,
                SystemFile::GroupQuota,
                SystemFile::LocalGroupQuota(slot),
                1,
            ),
        ] {
            if features.contains(feature) {
                self.merge_local_quota(global, local, kind)?;
            }
        }
        Ok(())
    }

    fn merge_local_quota(
        &mut self,
        global: SystemFile,
        local: SystemFile,
        kind: usize,
    ) -> Result<()> {
        let magic = |all: [u32; 2]| all.get(kind).copied().unwrap_or_default();
        let blkno = system::find(self.view(), local)?;
        let quota = LocalQuota::open(self.view(), blkno, magic(LOCAL_QUOTA_MAGIC))?;
        if quota.is_clean() {
            return Ok(());
        }
        let changes = quota.changes()?;
        let blocks: Vec<(BlockNo, u32)> = quota.chunks()?;
        let info = quota.home(0)?;
        debug_assert_eq!(quota.role(info), Some(Role::LocalInfo));
        let owner = ["user", "group"].get(kind).copied().unwrap_or_default();
        let mut file = QuotaFile::open(self, global, magic(GLOBAL_QUOTA_MAGIC), owner)?;
        for change in changes {
            let id = crate::units::low32(change.id);
            file.merge(self, id, change.bytes, change.inodes)?;
        }
        let check_at = self.block_bytes() - crate::ecc::CHECK_BYTES;
        for (home, entries) in blocks {
            let mut block = self.edit_raw(home, Some(check_at))?;
            let room = check_at;
            let bytes = block.bytes_mut();
            bytes[..room].fill(0);
            if let Ok((head, _)) = LocalQuotaChunk::mut_from_prefix(bytes) {
                head.dqc_free = entries.into();
            }
        }
        let mut block = self.edit_raw(info, Some(check_at))?;
        if let Ok((head, _)) = LocalQuotaInfo::mut_from_prefix(block.bytes_mut()) {
            head.dqi_flags = (head.dqi_flags.get() | CLEAN).into();
        }
        Ok(())
    }
}
