//! Directory entries, wherever they are stored.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::{Checked, View};
use crate::error::{Error, FaultKind, Result};
use crate::layout::{
    DIR_TRAILER, DIRENT_HEAD, Dinode, DirEntry, DynFeatures, FileType, HashKind, Incompat,
    InlineData, dirent_bytes, dx_hash, hash_is_split,
};
use crate::read::{dx, extent};
use crate::units::BlockNo;

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Inode of the entry; 0 = free space.
    pub inode: BlockNo,
    /// Type byte.
    pub file_type: u8,
    /// Name.
    pub name: &'a [u8],
    /// Bytes to the next entry.
    pub rec_len: usize,
    /// Offset in its area.
    pub offset: usize,
}

impl Entry<'_> {
    /// Whether the entry is in use.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.inode.0 != 0
    }

    /// Bytes of the entry that are free for another.
    #[must_use]
    pub const fn hole(&self) -> usize {
        if self.is_used() {
            self.rec_len.saturating_sub(dirent_bytes(self.name.len()))
        } else {
            self.rec_len
        }
    }
}

/// The entries of an area (an inode's inline data, or a block up to its trailer), free ones too.
/// After an impossible entry comes one error, then nothing.
pub fn entries(area: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, FaultKind>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset >= area.len() {
            return None;
        }
        let entry = parse(area, offset);
        offset = match &entry {
            Ok(entry) => offset + entry.rec_len,
            Err(_) => area.len(),
        };
        Some(entry)
    })
}

fn parse(area: &[u8], offset: usize) -> Result<Entry<'_>, FaultKind> {
    let rest = area.get(offset..).unwrap_or_default();
    let wrong = |value: usize, rule| FaultKind::Field {
        field: "rec_len",
        value: value as u64,
        rule,
    };
    let Ok((head, tail)) = DirEntry::ref_from_prefix(rest) else {
        return Err(wrong(rest.len(), "too few bytes are left for an entry"));
    };
    let rec_len = usize::from(head.rec_len.get());
    let name_len = usize::from(head.name_len);
    if rec_len < 16 || !rec_len.is_multiple_of(4) || rec_len > rest.len() {
        return Err(wrong(
            rec_len,
            "it must be a multiple of 4, at least 16, inside the block",
        ));
    }
    if head.inode.get() != 0 && rec_len < dirent_bytes(name_len) {
        return Err(wrong(rec_len, "the name is longer than the entry"));
    }
    let name = tail
        .get(..name_len.min(rec_len - DIRENT_HEAD))
        .unwrap_or_default();
    Ok(Entry {
        inode: BlockNo(head.inode.get()),
        file_type: head.file_type,
        name,
        rec_len,
        offset,
    })
}

/// Whether the blocks of a directory end with trailers.
#[must_use]
pub fn has_trailer(view: View<'_>, inode: &Dinode) -> bool {
    view.has_ecc() || inode.dyn_features().contains(DynFeatures::INDEXED_DIR)
}

/// An area of a directory that holds entries.
#[derive(Debug)]
pub struct Area<'a> {
    /// The directory block; `None` for the inode's inline data.
    pub block: Option<BlockNo>,
    /// The bytes: entries up to the end.
    pub bytes: &'a [u8],
    /// Whether the block needed an ECC correction.
    pub ecc: crate::block::EccState,
}

/// Visits all areas of a directory in order. A block that cannot be used, of the directory or of
/// its extent tree, is an error item; the visitor decides whether to go on.
///
/// # Errors
/// The inode is no directory.
pub fn for_each_area(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    visit: &mut dyn FnMut(Result<Area<'_>>) -> ControlFlow<()>,
) -> Result<()> {
    if inode.file_type() != Some(FileType::Directory) {
        return Err(Error::Fault(
            FaultKind::Field {
                field: "i_mode",
                value: inode.i_mode.get().into(),
                rule: "the inode is no directory",
            }
            .at(inode.blkno()),
        ));
    }
    if let Some(bytes) = inode.inline_data() {
        let ecc = inode.ecc();
        let _ = visit(Ok(Area {
            block: None,
            bytes,
            ecc,
        }));
        return Ok(());
    }
    let geo = view.geo();
    let blocks = geo.blocks_for(inode.i_size.get());
    let with_trailer = has_trailer(view, inode);
    let (extents, lost) = if inode.has_extents() {
        extent::salvage(view, inode.blkno(), inode.body())
    } else {
        (Vec::new(), Vec::new())
    };
    let whole = lost.is_empty();
    for part in lost {
        if visit(Err(part.error)).is_break() {
            return Ok(());
        }
    }
    let mut seen = 0;
    for extent in extents {
        let first = u64::from(extent.cpos) * geo.blocks_per_cluster();
        for i in 0..u64::from(extent.clusters) * geo.blocks_per_cluster() {
            if first + i >= blocks {
                break;
            }
            seen += 1;
            let blkno = extent.blkno.plus(i);
            let flow = match view.dir_block(blkno, inode.blkno(), with_trailer) {
                Ok((buf, ecc)) => {
                    let end = buf.len() - if with_trailer { DIR_TRAILER } else { 0 };
                    visit(Ok(Area {
                        block: Some(blkno),
                        bytes: &buf[..end],
                        ecc,
                    }))
                }
                Err(error) => visit(Err(error)),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
    if whole && seen < blocks {
        let kind = FaultKind::Field {
            field: "i_size",
            value: inode.i_size.get(),
            rule: "the directory has fewer blocks than that",
        };
        let _ = visit(Err(kind.at(inode.blkno()).into()));
    }
    Ok(())
}

/// Visits all entries in use, `.` and `..` included.
///
/// # Errors
/// Any part of the directory is damaged.
pub fn for_each_entry(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    visit: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut failed = None;
    for_each_area(view, inode, &mut |area| {
        let area = match area {
            Ok(area) => area,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        for entry in entries(area.bytes) {
            match entry {
                Ok(entry) if entry.is_used() => visit(&entry)?,
                Ok(_) => {}
                Err(kind) => {
                    failed = Some(kind.at(area.block.unwrap_or(inode.blkno())).into());
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(()), Err)
}

/// Where a name stands in a directory, and what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The directory block; `None` when the entries stand in the inode.
    pub block: Option<BlockNo>,
    /// The inode.
    pub inode: BlockNo,
    /// Type byte of the entry.
    pub file_type: u8,
}

/// The inode of a name in a directory; see [`locate`].
///
/// # Errors
/// A part of the directory that had to be read is damaged.
pub fn lookup(view: View<'_>, inode: &Checked<'_, Dinode>, name: &[u8]) -> Result<Option<BlockNo>> {
    Ok(locate(view, inode, name)?.map(|located| located.inode))
}

/// Finds a name in a directory. Uses the index, with both hashes of a name that has two, and reads
/// the entries one after another where there is none.
///
/// # Errors
/// A part of the directory that had to be read is damaged.
pub fn locate(view: View<'_>, inode: &Checked<'_, Dinode>, name: &[u8]) -> Result<Option<Located>> {
    let indexed = inode.dyn_features().contains(DynFeatures::INDEXED_DIR)
        && view.info().has(Incompat::INDEXED_DIRS)
        && inode.inline_data().is_none();
    if indexed {
        let kinds: &[HashKind] = if hash_is_split(name) {
            &[HashKind::Unsigned, HashKind::Signed]
        } else {
            &[HashKind::Signed]
        };
        for &kind in kinds {
            let hash = dx_hash(name, view.info().dx_seed, kind);
            for blkno in dx::find(view, BlockNo(inode.i_dx_root.get()), hash)? {
                let (buf, _) = view.dir_block(blkno, inode.blkno(), true)?;
                let found = find_in(&buf[..buf.len() - DIR_TRAILER], Some(blkno), name);
                if let Some(found) = found.map_err(|kind| kind.at(blkno))? {
                    return Ok(Some(found));
                }
            }
        }
        return Ok(None);
    }
    let mut result = Ok(None);
    for_each_area(view, inode, &mut |area| {
        result = area.and_then(|area| {
            let place = area.block.unwrap_or(inode.blkno());
            Ok(find_in(area.bytes, area.block, name).map_err(|kind| kind.at(place))?)
        });
        match result {
            Ok(None) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    result
}

fn find_in(area: &[u8], block: Option<BlockNo>, name: &[u8]) -> Result<Option<Located>, FaultKind> {
    for entry in entries(area) {
        let entry = entry?;
        if entry.is_used() && entry.name == name {
            return Ok(Some(Located {
                block,
                inode: entry.inode,
                file_type: entry.file_type,
            }));
        }
    }
    Ok(None)
}

/// Bytes before the first entry of inline data.
pub const INLINE_HEAD: usize = size_of::<InlineData>();
