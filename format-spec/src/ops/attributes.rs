//! Modes, owners and times of files.

use crate::error::Result;
use crate::layout::{Dinode, FileType, InodeFlags};
use crate::ops::xattr;
use crate::read::inode;
use crate::txn::{Timestamp, Txn};
use crate::units::BlockNo;

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;

/// What is to change of an inode's attributes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last access.
    pub atime: Option<Timestamp>,
    /// Time of the last change of the data.
    pub mtime: Option<Timestamp>,
}

/// Changes attributes of an inode, with the rules of Linux: a new mode reaches the access ACL, a
/// new owner takes the set-ID bits and the capabilities of a file away and moves its quota.
///
/// # Errors
/// The inode belongs to the volume itself, is immutable, or a block cannot be used.
pub fn change(txn: &mut Txn<'_>, blkno: BlockNo, change: &Change, now: Timestamp) -> Result<()> {
    let head: Dinode = *inode::read(txn.view(), blkno)?;
    if head.flags().intersects(InodeFlags::SYSTEM) && blkno != txn.info().root {
        let what = format!("inode {blkno} belongs to the volume itself");
        return Err(crate::error::Error::Input { what });
    }
    super::require_mutable(&head, blkno)?;
    let mut mode = head.i_mode.get();
    if change.uid.is_some() || change.gid.is_some() {
        move_quota(txn, &head, change);
        if head.file_type() != Some(FileType::Directory) {
            let lost = if mode & GROUP_EXEC != 0 {
                SUID | SGID
            } else {
                SUID
            };
            mode &= !lost;
            drop_capabilities(txn, blkno, now)?;
        }
    }
    if let Some(bits) = change.mode {
        mode = (mode & 0o170_000) | (bits & 0o7777);
        chmod_acl(txn, blkno, mode, now)?;
    }
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    dinode.i_mode = mode.into();
    if let Some(uid) = change.uid {
        dinode.i_uid = uid.into();
    }
    if let Some(gid) = change.gid {
        dinode.i_gid = gid.into();
    }
    if let Some(time) = change.mtime {
        time.set_mtime(&mut dinode);
    }
    if let Some(time) = change.atime {
        dinode.i_atime = time.seconds.into();
        dinode.i_atime_nsec = time.nanos.into();
    }
    now.set_ctime(&mut dinode);
    Ok(())
}

fn move_quota(txn: &mut Txn<'_>, head: &Dinode, change: &Change) {
    let clusters = i64::from(head.i_clusters.get());
    let bytes = clusters.saturating_mul(1 << txn.info().geo.cluster_bits());
    let (uid, gid) = (head.i_uid.get(), head.i_gid.get());
    txn.charge(uid, gid, -bytes, -1);
    let (uid, gid) = (change.uid.unwrap_or(uid), change.gid.unwrap_or(gid));
    txn.charge(uid, gid, bytes, 1);
}

/// The value of an attribute, if the inode has it.
pub(super) fn value_of(txn: &Txn<'_>, blkno: BlockNo, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let view = txn.view();
    let dinode = inode::read(view, blkno)?;
    let all = crate::read::xattr::all(view, &dinode)?;
    Ok(all
        .into_iter()
        .find(|(held, _)| held == name)
        .map(|(_, value)| value))
}

fn drop_capabilities(txn: &mut Txn<'_>, blkno: BlockNo, now: Timestamp) -> Result<()> {
    let name = b"security.capability";
    if value_of(txn, blkno, name)?.is_some() {
        xattr::remove_xattr(txn, blkno, name, now)?;
    }
    Ok(())
}

/// Writes permission bits into the access ACL, where there is one: its entries for the owner, the
/// others, and the mask (or, without one, the group).
fn chmod_acl(txn: &mut Txn<'_>, blkno: BlockNo, mode: u16, now: Timestamp) -> Result<()> {
    let name = b"system.posix_acl_access";
    let Some(mut acl) = value_of(txn, blkno, name)? else {
        return Ok(());
    };
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let masked = acl.chunks_exact(8).any(|entry| tag(entry) == 0x10);
    for entry in acl.chunks_exact_mut(8) {
        let bits = match (tag(entry), masked) {
            (0x01, _) => mode >> 6,
            (0x10, _) | (0x04, false) => mode >> 3,
            (0x20, _) => mode,
            _ => continue,
        };
        entry[2..4].copy_from_slice(&(bits & 7).to_le_bytes());
    }
    xattr::set_xattr(txn, blkno, name, &acl, now)
}
