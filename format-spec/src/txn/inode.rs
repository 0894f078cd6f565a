//! Making and changing inodes.

use crate::error::Result;
use crate::layout::{
    DINODE_HEAD, Dinode, DynFeatures, ExtentList, ExtentRec, FileType, Incompat, InlineData,
    InodeFlags,
};
use crate::txn::suballoc::SubBlock;
use crate::txn::{Edit, Txn};
use crate::units::{BlockNo, Slot, low16};
use crate::volume::system::SystemFile;
use zerocopy::FromBytes;

/// A point in time, as inodes keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds.
    pub nanos: u32,
}

impl Timestamp {
    /// Now; with `SOURCE_DATE_EPOCH` in the environment, that time.
    #[must_use]
    pub fn now() -> Self {
        let fixed = std::env::var("SOURCE_DATE_EPOCH")
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(seconds) = fixed {
            return Self { seconds, nanos: 0 };
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(Self::default(), |d| Self {
            seconds: d.as_secs(),
            nanos: d.subsec_nanos(),
        })
    }

    /// Stores this as the time of the last change of an inode's data, which changes the inode too.
    pub(crate) fn set_mtime(self, inode: &mut Dinode) {
        inode.i_mtime = self.seconds.into();
        inode.i_mtime_nsec = self.nanos.into();
        self.set_ctime(inode);
    }

    /// Stores this as the time of the last change of an inode.
    pub(crate) fn set_ctime(self, inode: &mut Dinode) {
        inode.i_ctime = self.seconds.into();
        inode.i_ctime_nsec = self.nanos.into();
    }
}

/// Attributes of an inode to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewInode {
    /// POSIX mode with the type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last access.
    pub atime: Timestamp,
    /// Time of the last change of the data.
    pub mtime: Timestamp,
    /// Time of the last change of the inode.
    pub ctime: Timestamp,
}

impl NewInode {
    /// An inode with this mode and owner, made now.
    #[must_use]
    pub const fn at(now: Timestamp, mode: u16, uid: u32, gid: u32) -> Self {
        Self {
            mode,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
        }
    }
}

impl Txn<'_> {
    /// Makes an inode without contents (and, for a directory, without entries), and charges it.
    ///
    /// # Errors
    /// The volume is full or an allocator is damaged.
    pub fn new_inode(&mut self, new: &NewInode) -> Result<BlockNo> {
        let sub = self.alloc_inode()?;
        self.write_new_inode(sub, new);
        self.charge(new.uid, new.gid, 0, 1);
        Ok(sub.blkno)
    }

    pub(super) fn write_new_inode(&mut self, sub: SubBlock, new: &NewInode) {
        let generation = self.info.fs_generation.0;
        let inline = self.info.has(Incompat::INLINE_DATA);
        let mut inode: Edit<'_, Dinode> = self.fresh(sub.blkno, Some(0x80));
        inode.i_signature = *b"INODE01\0";
        inode.i_generation = generation.into();
        inode.i_suballoc_slot = sub.slot.0.into();
        inode.i_suballoc_bit = sub.bit.into();
        inode.i_suballoc_loc = sub.group.0.into();
        inode.i_blkno = sub.blkno.0.into();
        inode.i_fs_generation = generation.into();
        inode.i_flags = InodeFlags::VALID.bits().into();
        inode.i_mode = new.mode.into();
        inode.i_uid = new.uid.into();
        inode.i_gid = new.gid.into();
        inode.set_links(1);
        set_times(&mut inode, new);
        match FileType::from_mode(new.mode) {
            Some(FileType::Directory) if inline => make_inline(&mut inode),
            // Devices and the like have one too: the driver looks at it whatever the type.
            _ => make_extent_list(&mut inode),
        }
        self.journal_fresh(sub.blkno);
    }

    /// Frees an inode whose contents and attributes are gone already.
    ///
    /// It is written once more, without the mark that it is in use: fsck.ocfs2 believes that mark
    /// rather than the bitmap.
    ///
    /// # Errors
    /// The inode or its allocator cannot be used.
    pub(crate) fn free_inode(&mut self, blkno: BlockNo, now: Timestamp) -> Result<()> {
        let mut inode = self.edit::<Dinode>(blkno)?;
        let (uid, gid) = (inode.i_uid.get(), inode.i_gid.get());
        let slot = Slot(inode.i_suballoc_slot.get());
        let (bit, loc) = (inode.i_suballoc_bit.get(), inode.i_suballoc_loc.get());
        let gone = InodeFlags::VALID.union(InodeFlags::ORPHANED);
        inode.i_flags = inode.flags().difference(gone).bits().into();
        inode.i_dtime = now.seconds.into();
        inode.set_links(0);
        self.charge(uid, gid, 0, -1);
        self.free_bit(SystemFile::InodeAlloc(slot), blkno, bit, loc)
    }

    /// Gives an inode an empty extent list in place of what its body holds.
    pub(crate) fn make_extent_list(&mut self, blkno: BlockNo) -> Result<()> {
        make_extent_list(&mut self.edit::<Dinode>(blkno)?);
        Ok(())
    }

    /// Stores bytes in an inode that has no contents yet; false when they do not fit or the volume
    /// does not store data in inodes.
    ///
    /// # Errors
    /// The inode cannot be read.
    pub fn store_inline(&mut self, blkno: BlockNo, data: &[u8]) -> Result<bool> {
        if !self.info.has(Incompat::INLINE_DATA) {
            return Ok(false);
        }
        let mut inode = self.edit::<Dinode>(blkno)?;
        let end = inode.body_end();
        let start = DINODE_HEAD + size_of::<InlineData>();
        if data.len() > end - start {
            return Ok(false);
        }
        make_inline(&mut inode);
        inode.i_size = (data.len() as u64).into();
        inode.bytes_mut()[start..start + data.len()].copy_from_slice(data);
        Ok(true)
    }
}

impl Edit<'_, Dinode> {
    /// Where the body of the inode ends: what follows is kept for xattrs. The head of a list or of
    /// data fits before it, whatever the inode says.
    pub(crate) fn body_end(&self) -> usize {
        let len = self.bytes().len();
        let end = len.saturating_sub(self.inline_xattr_bytes());
        end.max(DINODE_HEAD + size_of::<ExtentList>())
    }
}

fn set_times(inode: &mut Dinode, new: &NewInode) {
    inode.i_atime = new.atime.seconds.into();
    inode.i_atime_nsec = new.atime.nanos.into();
    new.mtime.set_mtime(inode);
    new.ctime.set_ctime(inode);
}

/// Gives the inode an empty extent list.
fn make_extent_list(inode: &mut Edit<'_, Dinode>) {
    let features = inode.dyn_features().difference(DynFeatures::INLINE_DATA);
    inode.i_dyn_features = features.bits().into();
    let end = inode.body_end();
    let body = &mut inode.bytes_mut()[DINODE_HEAD..end];
    body.fill(0);
    let capacity = (body.len() - size_of::<ExtentList>()) / size_of::<ExtentRec>();
    if let Ok((head, _)) = ExtentList::mut_from_prefix(body) {
        head.l_count = low16(capacity as u64).into();
    }
}

/// Makes the inode's body an empty room for data.
pub(super) fn make_inline(inode: &mut Edit<'_, Dinode>) {
    let features = inode.dyn_features() | DynFeatures::INLINE_DATA;
    inode.i_dyn_features = features.bits().into();
    let end = inode.body_end();
    let body = &mut inode.bytes_mut()[DINODE_HEAD..end];
    body.fill(0);
    let room = body.len() - size_of::<InlineData>();
    if let Ok((head, _)) = InlineData::mut_from_prefix(body) {
        head.id_count = low16(room as u64).into();
    }
}
