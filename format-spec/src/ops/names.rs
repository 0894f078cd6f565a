//! Names: making, moving and removing them.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::layout::{DINODE_HEAD, Dinode, ExtentFlags, FileType, InodeFlags};
use crate::ops::release::delete_inode;
use crate::read::extent::Extent;
use crate::read::{dir, inode};
use crate::txn::{NewInode, Timestamp, Txn};
use crate::units::{BlockNo, low32};

fn no(name: &[u8], why: &'static str) -> Error {
    let path = String::from_utf8_lossy(name).into_owned();
    Error::Path { path, why }
}

/// What the verbs need to know of an inode.
struct Kind {
    file_type: FileType,
    links: u32,
}

fn kind_of(txn: &Txn<'_>, blkno: BlockNo, name: &[u8]) -> Result<Kind> {
    let dinode = inode::read(txn.view(), blkno)?;
    if dinode.flags().intersects(InodeFlags::SYSTEM) {
        return Err(no(name, "it belongs to the volume itself"));
    }
    super::require_mutable(&dinode, blkno)?;
    let Some(file_type) = dinode.file_type() else {
        return Err(no(name, "its inode has no possible type; run fsck.cowfs"));
    };
    let links = dinode.links();
    Ok(Kind { file_type, links })
}

fn set_links(txn: &mut Txn<'_>, blkno: BlockNo, links: u32, now: Timestamp) -> Result<()> {
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    dinode.set_links(links);
    now.set_ctime(&mut dinode);
    Ok(())
}

/// Counts a directory more (or less) among the links of its parent.
fn count_child(txn: &mut Txn<'_>, parent: BlockNo, more: bool) -> Result<()> {
    let mut dinode = txn.edit::<Dinode>(parent)?;
    let links = dinode.links();
    dinode.set_links(if more {
        links.saturating_add(1)
    } else {
        links.saturating_sub(1)
    });
    Ok(())
}

/// An error unless names may be taken out of a directory, and this is one that may.
fn require_removable(txn: &Txn<'_>, parent: BlockNo, name: &[u8]) -> Result<()> {
    if matches!(name, b"." | b"..") {
        return Err(no(name, "\".\" and \"..\" stay as long as their directory"));
    }
    txn.require_user_directory(parent, name)?;
    super::require_mutable(&*inode::read(txn.view(), parent)?, parent)
}

/// Takes a name out of a directory that is no directory itself; the file goes with its last name.
///
/// # Errors
/// There is no such name, it is a directory, or a block cannot be used.
pub fn unlink(txn: &mut Txn<'_>, parent: BlockNo, name: &[u8], now: Timestamp) -> Result<()> {
    require_removable(txn, parent, name)?;
    let blkno = txn.require_name(parent, name)?.inode;
    let kind = kind_of(txn, blkno, name)?;
    if kind.file_type == FileType::Directory {
        return Err(no(name, "it is a directory; use rmdir, or rm -r"));
    }
    txn.remove_name(parent, name, now)?;
    drop_link(txn, blkno, kind.links, now)
}

fn drop_link(txn: &mut Txn<'_>, blkno: BlockNo, links: u32, now: Timestamp) -> Result<()> {
    if links > 1 {
        return set_links(txn, blkno, links - 1, now);
    }
    delete_inode(txn, blkno, now)
}

/// Removes an empty directory.
///
/// # Errors
/// There is no such name, it is no directory or not empty, or a block cannot be used.
pub fn rmdir(txn: &mut Txn<'_>, parent: BlockNo, name: &[u8], now: Timestamp) -> Result<()> {
    require_removable(txn, parent, name)?;
    let blkno = txn.require_name(parent, name)?.inode;
    require_empty(txn, blkno, name)?;
    txn.remove_name(parent, name, now)?;
    count_child(txn, parent, false)?;
    delete_inode(txn, blkno, now)
}

fn require_empty(txn: &Txn<'_>, blkno: BlockNo, name: &[u8]) -> Result<()> {
    if kind_of(txn, blkno, name)?.file_type != FileType::Directory {
        return Err(no(name, "it is no directory"));
    }
    if !txn.directory_is_empty(blkno)? {
        return Err(no(name, "the directory is not empty"));
    }
    Ok(())
}

/// Gives a file another name.
///
/// # Errors
/// The name exists, the file is a directory or has too many names, or a block cannot be used.
pub fn link(
    txn: &mut Txn<'_>,
    blkno: BlockNo,
    parent: BlockNo,
    name: &[u8],
    now: Timestamp,
) -> Result<()> {
    txn.require_new_name(parent, name)?;
    let kind = kind_of(txn, blkno, name)?;
    if kind.file_type == FileType::Directory {
        return Err(no(name, "a directory has one name only"));
    }
    txn.require_more_links(blkno, name)?;
    set_links(txn, blkno, kind.links + 1, now)?;
    txn.add_name(parent, name, blkno, kind.file_type, now)
}

/// Makes a symbolic link: a short target stands in the inode, a longer one in a cluster.
///
/// # Errors
/// The name exists, the target is empty or too long, the volume is full, or a block cannot be used.
pub fn symlink(
    txn: &mut Txn<'_>,
    parent: BlockNo,
    name: &[u8],
    target: &[u8],
    attributes: &NewInode,
) -> Result<BlockNo> {
    txn.require_new_name(parent, name)?;
    if target.is_empty() || target.contains(&0) || target.len() >= 4096 {
        return Err(no(name, "a target has 1 to 4095 bytes, and no NUL"));
    }
    let blkno = txn.new_inode(attributes)?;
    put_target(txn, blkno, target)?;
    txn.add_name(parent, name, blkno, FileType::Symlink, attributes.ctime)?;
    Ok(blkno)
}

/// Gives a new symbolic link its target, which has 1 to 4095 bytes.
///
/// # Errors
/// The volume is full, or a block cannot be used.
pub(super) fn put_target(txn: &mut Txn<'_>, blkno: BlockNo, target: &[u8]) -> Result<()> {
    let geo = txn.info().geo;
    let mut dinode = txn.edit::<Dinode>(blkno)?;
    let end = dinode.body_end();
    let body = &mut dinode.bytes_mut()[DINODE_HEAD..end];
    // A NUL behind the target stands in the inode, too.
    if target.len() < body.len() {
        body.fill(0);
        body[..target.len()].copy_from_slice(target);
        dinode.i_size = (target.len() as u64).into();
        return Ok(());
    }
    txn.make_extent_list(blkno)?;
    let clusters = low32(geo.clusters_for(target.len() as u64 + 1));
    let Some(cluster) = txn.alloc_contiguous(clusters)? else {
        return Err(Error::NoSpace {
            needed: clusters.into(),
            unit: "clusters",
        });
    };
    let room = u64::from(clusters) << geo.cluster_bits();
    txn.write_data(cluster, 0, target)?;
    txn.zero_data(cluster, target.len() as u64, room - target.len() as u64)?;
    let extent = Extent {
        cpos: 0,
        clusters,
        blkno: geo.first_block(cluster),
        flags: ExtentFlags::empty(),
    };
    let root = txn.data_root(blkno)?;
    txn.splice(&root, 0, clusters, &[extent])?;
    txn.edit::<Dinode>(blkno)?.i_size = (target.len() as u64).into();
    txn.charge_clusters(blkno, clusters.into())
}

/// Makes an inode without contents under a name: an empty file, a device (with its number), a FIFO
/// or a socket, as the mode says.
///
/// # Errors
/// The name exists, the mode is of another type, the volume is full, or a block cannot be used.
pub fn make_node(
    txn: &mut Txn<'_>,
    parent: BlockNo,
    name: &[u8],
    device: u64,
    attributes: &NewInode,
) -> Result<BlockNo> {
    txn.require_new_name(parent, name)?;
    let file_type = match FileType::from_mode(attributes.mode) {
        None | Some(FileType::Directory | FileType::Symlink) => {
            return Err(no(
                name,
                "the mode is none of a file, device, FIFO or socket",
            ));
        }
        Some(file_type) => file_type,
    };
    let blkno = txn.new_inode(attributes)?;
    match file_type {
        FileType::BlockDevice | FileType::CharDevice => {
            let mut dinode = txn.edit::<Dinode>(blkno)?;
            dinode.id1_low = low32(device & 0xFFFF_FFFF).into();
            dinode.id1_high = low32(device >> 32).into();
        }
        FileType::Regular => {
            txn.store_inline(blkno, &[])?;
        }
        _ => {}
    }
    txn.add_name(parent, name, blkno, file_type, attributes.ctime)?;
    Ok(blkno)
}

/// Moves a name, as rename(2) does: what `to` named before is gone afterwards.
///
/// # Errors
/// There is no such name, what stands at the new one cannot be replaced by it, a directory would
/// come to lie inside itself, or a block cannot be used.
pub fn rename(
    txn: &mut Txn<'_>,
    from: (BlockNo, &[u8]),
    to: (BlockNo, &[u8]),
    now: Timestamp,
) -> Result<()> {
    let ((old_parent, old_name), (new_parent, new_name)) = (from, to);
    require_removable(txn, old_parent, old_name)?;
    if matches!(new_name, b"." | b"..") {
        return Err(no(new_name, "\".\" and \"..\" cannot be made"));
    }
    txn.require_user_directory(new_parent, new_name)?;
    let blkno = txn.require_name(old_parent, old_name)?.inode;
    let kind = kind_of(txn, blkno, old_name)?;
    let directory = kind.file_type == FileType::Directory;
    if directory && old_parent != new_parent {
        require_outside(txn, blkno, new_parent, new_name)?;
    }
    let view = txn.view();
    let replaced = dir::lookup(view, &inode::read(view, new_parent)?, new_name)?;
    match replaced {
        Some(same) if same == blkno => return Ok(()),
        Some(old) => {
            require_removable(txn, new_parent, new_name)?;
            let target = kind_of(txn, old, new_name)?;
            if directory {
                require_empty(txn, old, new_name)?;
            } else if target.file_type == FileType::Directory {
                return Err(no(new_name, "it is a directory"));
            }
            txn.lead_name(new_parent, new_name, blkno, kind.file_type)?;
            now.set_mtime(&mut *txn.edit::<Dinode>(new_parent)?);
            if directory {
                count_child(txn, new_parent, false)?;
                delete_inode(txn, old, now)?;
            } else {
                drop_link(txn, old, target.links, now)?;
            }
        }
        None => {
            txn.require_new_name(new_parent, new_name)?;
            if directory && old_parent != new_parent {
                txn.require_more_links(new_parent, new_name)?;
            }
            txn.add_name(new_parent, new_name, blkno, kind.file_type, now)?;
        }
    }
    txn.remove_name(old_parent, old_name, now)?;
    if directory && old_parent != new_parent {
        txn.lead_name(blkno, b"..", new_parent, FileType::Directory)?;
    }
    if directory {
        count_child(txn, old_parent, false)?;
        count_child(txn, new_parent, true)?;
    }
    now.set_ctime(&mut *txn.edit::<Dinode>(blkno)?);
    Ok(())
}

/// An error when the directory `inside` is `blkno` or lies below it.
fn require_outside(txn: &Txn<'_>, blkno: BlockNo, inside: BlockNo, name: &[u8]) -> Result<()> {
    let view = txn.view();
    let mut at = inside;
    let mut passed = HashSet::new();
    while passed.insert(at) {
        if at == blkno {
            return Err(no(name, "a directory cannot be moved into itself"));
        }
        if at == view.info().root {
            return Ok(());
        }
        let directory = inode::read(view, at)?;
        match dir::lookup(view, &directory, b"..")? {
            Some(up) => at = up,
            None => break,
        }
    }
    Err(no(
        name,
        "its directory does not lead up to the root; run fsck.cowfs",
    ))
}
