//! Changing what the superblock and its backups say of a volume: label, UUID, features.

use zerocopy::FromBytes;

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{
    COMPAT_NAMES, Compat, DynFeatures, Features, FileType, INCOMPAT_NAMES, Incompat, InodeFlags,
    RO_COMPAT_NAMES, RoCompat, SUPER_BLOCK_BLKNO, SUPER_BLOCK_BODY, SUPER_BLOCK_SIGNATURE,
    SuperBlock, uuid_hash,
};
use crate::read::inode::Inode;
use crate::txn::Txn;
use crate::units::BlockNo;
use crate::volume::inodes;
use crate::volume::scan::Scanner;

/// Bytes of an inode that are kept for attributes where nothing else was chosen.
const XATTR_INLINE_BYTES: u16 = 256;

/// Edits the superblock and its backups in the same way; the number of blocks. A backup that is none
/// any more stays as it is.
///
/// # Errors
/// A block cannot be read.
fn edit_superblocks(txn: &mut Txn<'_>, edit: &dyn Fn(&mut SuperBlock)) -> Result<usize> {
    let geo = txn.info().geo;
    let mut places = vec![BlockNo(SUPER_BLOCK_BLKNO)];
    if txn.info().features.compat.contains(Compat::BACKUP_SB) {
        let offsets = (0..6).map(|i| 1u64 << (30 + 2 * i));
        places.extend(offsets.map(|offset| BlockNo(offset >> geo.block_bits())));
    }
    let uuid = txn.info().uuid;
    let mut edited = 0;
    for blkno in places {
        if !geo.contains(blkno, 1) {
            continue;
        }
        // What stands there may be a file's by now.
        let ours = {
            let block = txn.view().raw(blkno)?;
            let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
            let same = SuperBlock::ref_from_prefix(body).is_ok_and(|(sb, _)| sb.s_uuid == uuid);
            block.starts_with(&SUPER_BLOCK_SIGNATURE) && same
        };
        if !ours {
            continue;
        }
        let mut block = txn.edit_raw(blkno, Some(0x80))?;
        let body = block.bytes_mut().get_mut(SUPER_BLOCK_BODY..);
        if let Some(Ok((sb, _))) = body.map(SuperBlock::mut_from_prefix) {
            edit(sb);
            edited += 1;
        }
    }
    Ok(edited)
}

/// Gives the volume a label; the number of superblocks that say so.
///
/// # Errors
/// It is longer than 64 bytes, or a block cannot be read.
pub fn set_label(txn: &mut Txn<'_>, label: &[u8]) -> Result<usize> {
    let mut padded = [0; 64];
    match padded.get_mut(..label.len()) {
        Some(place) if !label.contains(&0) => place.copy_from_slice(label),
        _ => {
            let what = "a label has at most 64 bytes, and no NUL".to_owned();
            return Err(Error::Input { what });
        }
    }
    edit_superblocks(txn, &|sb| sb.s_label = padded)
}

/// Gives the volume a UUID; the number of superblocks that say so. The hash of the old one stays,
/// which the hashes of names and attributes are made with.
///
/// # Errors
/// A block cannot be read.
pub fn set_uuid(txn: &mut Txn<'_>, uuid: [u8; 16]) -> Result<usize> {
    edit_superblocks(txn, &|sb| sb.s_uuid = uuid)
}

/// A feature by its name, as a set that holds only it.
#[must_use]
pub fn feature(name: &str) -> Option<Features> {
    let bit = |table: &[(u64, &str)]| {
        let found = table.iter().find(|(_, known)| *known == name)?;
        u32::try_from(found.0).ok()
    };
    if let Some(bit) = bit(COMPAT_NAMES) {
        return Some(Features::from_words(bit, 0, 0));
    }
    if let Some(bit) = bit(INCOMPAT_NAMES) {
        return Some(Features::from_words(0, bit, 0));
    }
    bit(RO_COMPAT_NAMES).map(|bit| Features::from_words(0, 0, bit))
}

/// Why a feature cannot be switched on (or off) on a volume that exists; `None` when it can. Those
/// that can be switched off can be only as long as nothing uses them: see [`user_of`].
#[must_use]
pub fn fixed(feature: Features, on: bool) -> Option<&'static str> {
    let incompat = feature.incompat;
    let free = Incompat::SPARSE_ALLOC
        | Incompat::INLINE_DATA
        | Incompat::XATTR
        | Incompat::INDEXED_DIRS
        | Incompat::REFCOUNT_TREE
        | Incompat::APPEND_DIO;
    if free.intersects(incompat) || feature.ro_compat.contains(RoCompat::UNWRITTEN) {
        return None;
    }
    if incompat.contains(Incompat::DISCONTIG_BG) {
        let why = "its allocator groups may already consist of several extents";
        return (!on).then_some(why);
    }
    Some(if incompat.contains(Incompat::META_ECC) {
        "every block of metadata would have to be written anew; make a new volume"
    } else if !feature.ro_compat.is_empty() {
        "quota files would have to be made or removed; make a new volume"
    } else if incompat.contains(Incompat::EXTENDED_SLOT_MAP) {
        "the slot map would have to be written anew; make a new volume"
    } else if incompat.intersects(Incompat::LOCAL_MOUNT | Incompat::CLUSTERINFO)
        || incompat.contains(Incompat::USERSPACE_STACK)
    {
        "which cluster mounts the volume is chosen when it is made"
    } else if !feature.compat.is_empty() {
        "it is chosen when the volume is made"
    } else {
        "it is a mark that a tool was interrupted or that there is no volume, not a choice"
    })
}

/// An inode that uses a feature which is to be switched off, if there is one.
///
/// # Errors
/// An inode cannot be read, so that nobody knows.
pub fn user_of(scanner: &Scanner, view: View<'_>, feature: Features) -> Result<Option<BlockNo>> {
    let (found, failed) = inodes::collect(scanner, view, |inode, found, failed| {
        match uses(view, inode, feature) {
            Ok(true) if found.is_empty() => found.push(inode.blkno()),
            Ok(_) => {}
            Err(error) => failed.push(error),
        }
    });
    match failed.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(found.first().copied()),
    }
}

fn uses(view: View<'_>, inode: &Inode<'_>, feature: Features) -> Result<bool> {
    let marks = inode.dyn_features();
    for (bit, mark) in [
        (Incompat::INLINE_DATA, DynFeatures::INLINE_DATA),
        (Incompat::XATTR, DynFeatures::HAS_XATTR),
        (Incompat::INDEXED_DIRS, DynFeatures::INDEXED_DIR),
        (Incompat::REFCOUNT_TREE, DynFeatures::HAS_REFCOUNT),
    ] {
        if feature.incompat.contains(bit) && marks.contains(mark) {
            return Ok(true);
        }
    }
    let unwritten = feature.ro_compat.contains(RoCompat::UNWRITTEN);
    let sparse = feature.incompat.contains(Incompat::SPARSE_ALLOC);
    let plain = inode.file_type() == Some(FileType::Regular)
        && !inode.flags().intersects(InodeFlags::SYSTEM);
    if !plain || !(unwritten || sparse) || marks.contains(DynFeatures::INLINE_DATA) {
        return Ok(false);
    }
    let extents = inode.extents(view)?;
    if unwritten
        && extents
            .iter()
            .any(crate::read::extent::Extent::is_unwritten)
    {
        return Ok(true);
    }
    let mut end = 0;
    for extent in &extents {
        if sparse && extent.cpos != end {
            return Ok(true);
        }
        end = extent.end();
    }
    Ok(sparse && u64::from(end) < view.geo().clusters_for(inode.i_size.get()))
}

/// Switches features on and off; the number of superblocks that say so. `seeds` are random numbers
/// for the hashes of names, in case the volume had no indexes.
///
/// # Errors
/// A feature cannot be switched like this, or needs another one. That nothing uses those that are
/// switched off is the caller's to know.
pub fn switch_features(
    txn: &mut Txn<'_>,
    on: Features,
    off: Features,
    seeds: [u32; 3],
) -> Result<usize> {
    let old = txn.info().features;
    let compat = (old.compat | on.compat) - off.compat;
    let incompat = (old.incompat | on.incompat) - off.incompat;
    let ro_compat = (old.ro_compat | on.ro_compat) - off.ro_compat;
    if ro_compat.contains(RoCompat::UNWRITTEN) && !incompat.contains(Incompat::SPARSE_ALLOC) {
        let why = "unwritten needs sparse: switch both on, or both off".to_owned();
        return Err(Error::Refused { why });
    }
    let hash = uuid_hash(&txn.info().uuid);
    let hashed = Incompat::XATTR | Incompat::INDEXED_DIRS;
    edit_superblocks(txn, &|sb| {
        sb.s_feature_compat = compat.bits().into();
        sb.s_feature_incompat = incompat.bits().into();
        sb.s_feature_ro_compat = ro_compat.bits().into();
        if !old.incompat.intersects(hashed) && incompat.intersects(hashed) {
            sb.s_uuid_hash = hash.into();
        }
        if on.has(Incompat::XATTR) && sb.s_xattr_inline_size.get() == 0 {
            sb.s_xattr_inline_size = XATTR_INLINE_BYTES.into();
        }
        if on.has(Incompat::INDEXED_DIRS) && !old.has(Incompat::INDEXED_DIRS) {
            let [a, b, c] = seeds;
            sb.s_dx_seed0 = a.into();
            sb.s_dx_seed1 = b.into();
            sb.s_dx_seed2 = c.into();
        }
    })
}
