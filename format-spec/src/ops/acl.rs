//! Access control lists of files that are changed or made, with the rules of Linux.

use crate::error::{Error, Result};
use crate::layout::{Dinode, FileType};
use crate::ops::attributes::{Change, change, value_of};
use crate::ops::xattr;
use crate::read::acl::{self, AclTag};
use crate::read::inode;
use crate::txn::{NewInode, Timestamp, Txn};
use crate::units::BlockNo;

/// The attribute that holds the ACL of a file.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds what files made in a directory get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const SGID: u16 = 0o2000;

/// The access ACL of an inode; without one, what its mode says.
///
/// # Errors
/// A block cannot be used, or the value is no ACL.
pub fn access(txn: &Txn<'_>, blkno: BlockNo) -> Result<Vec<(AclTag, u16)>> {
    match value_of(txn, blkno, ACCESS)? {
        Some(value) => parsed(&value, blkno),
        None => {
            let mode = inode::read(txn.view(), blkno)?.i_mode.get();
            Ok(acl::of_mode(mode))
        }
    }
}

/// The default ACL of a directory, if it has one.
///
/// # Errors
/// As [`access`].
pub fn default(txn: &Txn<'_>, blkno: BlockNo) -> Result<Option<Vec<(AclTag, u16)>>> {
    let value = value_of(txn, blkno, DEFAULT)?;
    value.map(|value| parsed(&value, blkno)).transpose()
}

fn parsed(value: &[u8], blkno: BlockNo) -> Result<Vec<(AclTag, u16)>> {
    acl::entries(value).ok_or_else(|| {
        let what = format!("inode {blkno}: its ACL cannot be read; remove it with rmxattr");
        Error::Input { what }
    })
}

/// Gives a file an access ACL: its mode follows, and an ACL that says no more than the mode is not
/// stored.
///
/// # Errors
/// It is no complete ACL, or a block cannot be used.
pub fn set_access(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    entries: &[(AclTag, u16)],
    now: Timestamp,
) -> Result<()> {
    let head: Dinode = *inode::read(txn.view(), blkno)?;
    if head.file_type() == Some(FileType::Symlink) {
        let what = format!("inode {blkno} is a symbolic link, which has no ACL");
        return Err(Error::Input { what });
    }
    let bits = acl::mode_bits(entries).ok_or_else(|| incomplete(blkno))?;
    if entries.len() > 3 {
        xattr::set_xattr(txn, blkno, ACCESS, &acl::stored(entries), now)?;
    } else if value_of(txn, blkno, ACCESS)?.is_some() {
        xattr::remove_xattr(txn, blkno, ACCESS, now)?;
    }
    let wanted = Change {
        mode: Some(head.i_mode.get() & 0o7000 | bits),
        ..Change::default()
    };
    change(txn, blkno, &wanted, now)
}

/// Gives a directory a default ACL, or takes it away.
///
/// # Errors
/// It is no complete ACL, the inode is no directory, or a block cannot be used.
pub fn set_default(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    entries: Option<&[(AclTag, u16)]>,
    now: Timestamp,
) -> Result<()> {
    if inode::read(txn.view(), blkno)?.file_type() != Some(FileType::Directory) {
        let what = format!("inode {blkno}: only directories have a default ACL");
        return Err(Error::Input { what });
    }
    match entries {
        Some(entries) => {
            acl::mode_bits(entries).ok_or_else(|| incomplete(blkno))?;
            xattr::set_xattr(txn, blkno, DEFAULT, &acl::stored(entries), now)
        }
        None if value_of(txn, blkno, DEFAULT)?.is_some() => {
            xattr::remove_xattr(txn, blkno, DEFAULT, now)
        }
        None => Ok(()),
    }
}

fn incomplete(blkno: BlockNo) -> Error {
    let what = format!(
        "inode {blkno}: an ACL has one entry each for user::, group:: and other::, nobody twice, and \
         a mask:: when it names anyone"
    );
    Error::Input { what }
}

/// What a new file has from its directory.
#[derive(Debug, Default)]
pub struct Inherited {
    access: Option<Vec<(AclTag, u16)>>,
    default: Option<Vec<(AclTag, u16)>>,
}

/// Adjusts the attributes of an inode that will be made in a directory, as the driver does: in a
/// directory with the set-group-ID bit it gets the directory's group, and as a directory that bit as
/// well; a default ACL takes bits of the mode away, and where there is none `umask` does.
///
/// # Errors
/// A block cannot be used, or the default ACL cannot be read.
pub fn inherit(
    txn: &Txn<'_>,
    parent: BlockNo,
    new: &mut NewInode,
    umask: u16,
) -> Result<Inherited> {
    let (mode, gid) = {
        let directory = inode::read(txn.view(), parent)?;
        (directory.i_mode.get(), directory.i_gid.get())
    };
    let kind = FileType::from_mode(new.mode);
    if mode & SGID != 0 {
        new.gid = gid;
        if kind == Some(FileType::Directory) {
            new.mode |= SGID;
        }
    }
    if kind == Some(FileType::Symlink) {
        return Ok(Inherited::default());
    }
    let Some(inherited) = default(txn, parent)? else {
        new.mode &= !(umask & 0o777);
        return Ok(Inherited::default());
    };
    let mut access = inherited.clone();
    acl::mask_by_mode(&mut access, new.mode);
    let bits = acl::mode_bits(&access).ok_or_else(|| incomplete(parent))?;
    new.mode = new.mode & !0o777 | bits;
    Ok(Inherited {
        access: (access.len() > 3).then_some(access),
        default: (kind == Some(FileType::Directory)).then_some(inherited),
    })
}

impl Inherited {
    /// Gives the new inode what it inherits beside its mode and group.
    ///
    /// # Errors
    /// The volume is full, or a block cannot be used.
    pub fn give(&self, txn: &mut Txn<'_>, blkno: BlockNo, now: Timestamp) -> Result<()> {
        let access = self.access.as_deref().map(|acl| (ACCESS, acl::stored(acl)));
        let default = self.default.as_deref();
        let default = default.map(|acl| (DEFAULT, acl::stored(acl)));
        let all: Vec<_> = [default, access].into_iter().flatten().collect();
        let all: Vec<(&[u8], &[u8])> = all.iter().map(|(name, acl)| (*name, &acl[..])).collect();
        xattr::set_xattrs(txn, blkno, &all, now)
    }
}
