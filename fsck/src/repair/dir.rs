//! Directory blocks and their entries.

use std::collections::HashSet;
use std::ops::ControlFlow;

use cowfs_format::block::Checked;
use cowfs_format::ecc;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    DINODE_HEAD, DIR_TRAILER, DIR_TRAILER_SIGNATURE, DIRENT_HEAD, Dinode, DirBlockTrailer,
    DirEntry, DynFeatures, FileType, Incompat, InlineData, InodeFlags, dirent_bytes,
};
use cowfs_format::read::dir::{self, Entry, entries, has_trailer};
use cowfs_format::read::{extent, inode};
use cowfs_format::units::{BlockNo, low16};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::stage::{Stage, cannot};
use super::{alloc, connect, index, names, system};
use crate::catalogue::{At, DirProblem};
use crate::pass::dir::shown;

/// Where in an inode its inline entries begin.
const INLINE: usize = DINODE_HEAD + size_of::<InlineData>();

/// Repairs a problem of a directory.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &DirProblem) -> Result<()> {
    use DirProblem as P;
    let directory = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    match problem {
        P::Zero {} => recount(stage, directory).or_else(|_| emptied(stage, directory)),
        P::DottyDup { name } => {
            let name = name.as_bytes();
            change(stage, at, |entry, dotty| {
                (!dotty && entry.name == name).then_some(Change::Remove)
            })
        }
        P::NotDotty { expected, .. } => dotty(stage, at, expected),
        P::DotInode { .. } => set_entry(
            stage,
            at,
            |entry, dotty| dotty && entry.offset == 0,
            |head| head.inode = directory.0.into(),
        ),
        P::DotExcess { .. } => dot_excess(stage, at),
        P::NameZero { offset } => change(stage, at, |entry, _| {
            (entry.offset as u64 == *offset).then_some(Change::Remove)
        }),
        P::NameChars { name } => change(stage, at, |entry, dotty| {
            let clean = |byte: &u8| {
                if matches!(byte, b'/' | 0) {
                    b'_'
                } else {
                    *byte
                }
            };
            let wanted = !dotty && shown(entry.name) == *name;
            wanted.then(|| Change::Rename(entry.name.iter().map(clean).collect()))
        }),
        P::InodeRange { name, target } | P::InodeFree { name, target } => {
            let view = stage.view();
            if directory == view.info().system_dir
                && let Some(file) = stage.evidence.system.file_at(view, BlockNo(*target))
                && file.name() == *name
            {
                return names::found_empty(stage, file, BlockNo(*target));
            }
            change(stage, at, |entry, _| {
                let wanted = entry.inode.0 == *target && shown(entry.name) == *name;
                wanted.then_some(Change::Remove)
            })
        }
        P::Type { name, expected, .. } => {
            let expected = *expected;
            set_entry(
                stage,
                at,
                |entry, _| shown(entry.name) == *name && entry.file_type != expected,
                |head| head.file_type = expected,
            )
        }
        P::ParentDup { target, first } => second_place(stage, directory, *target, *first),
        P::Duplicate { name } => duplicate(stage, at, name),
        P::Length { offset, .. } => length(stage, at, *offset),
        P::TrailerInode { .. } => trailer(stage, at, |t| t.db_compat_inode = 0.into()),
        P::TrailerNameLen { .. } => trailer(stage, at, |t| t.db_compat_name_len = 0),
        P::TrailerRecLen { .. } => trailer(stage, at, |t| {
            t.db_compat_rec_len = low16(DIR_TRAILER as u64).into();
        }),
        P::TrailerBlkno { .. } => {
            let blkno = at.block.map_or(0, |block| block.0);
            trailer(stage, at, |t| t.db_blkno = blkno.into())
        }
        P::TrailerParent { .. } => trailer(stage, at, |t| t.db_parent_dinode = directory.0.into()),
        P::TrailerSignature {} => new_trailer(stage, at),
        P::RootMissing {} => root(stage, directory),
        P::LostFoundMissing {} => connect::lost_found(stage).map(drop),
        P::NotConnected {} => connect::connect(stage, directory),
        P::DotDot { expected, .. } => {
            let expected = BlockNo(*expected);
            let first = first_block(stage, directory)?;
            let at = At {
                inode: Some(directory),
                block: first,
            };
            set_entry(
                stage,
                at,
                |entry, dotty| dotty && entry.name == b"..",
                |head| head.inode = expected.0.into(),
            )
        }
        P::IvDxTree {} => super::inode::incompat(stage, Incompat::INDEXED_DIRS),
        P::DxTreeCorrupt { .. }
        | P::DxLookupFailed { .. }
        | P::DxStale { .. }
        | P::DxLeft { .. }
        | P::DxNumEntries { .. }
        | P::DxFreeList { .. } => index::remake(stage, directory),
        // These are told, and settled by --name-hash.
        P::DxMixed { .. } | P::DxOneHash { .. } => Err(cannot("give --name-hash")),
    }
}

/// Edits the entries of a directory block, or those in the inode. The area is the first one of the
/// directory when the flag is set.
fn edit_area(
    stage: &Stage<'_, '_>,
    at: At,
    edit: impl FnOnce(&mut [u8], bool) -> Result<()>,
) -> Result<()> {
    let directory = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    let Some(blkno) = at.block.filter(|block| *block != directory) else {
        let end = {
            let inode = inode::read(stage.view(), directory)?;
            INLINE + inode.inline_data().map_or(0, <[u8]>::len)
        };
        return stage.edit_bytes::<Dinode>(directory, |bytes| {
            let area = bytes.get_mut(INLINE..end);
            edit(area.ok_or_else(|| cannot("there are no entries"))?, true)
        });
    };
    let with_trailer = has_trailer(stage.view(), &*inode::read(stage.view(), directory)?);
    let first = first_block(stage, directory)? == Some(blkno);
    let len = stage.geo().block_bytes();
    let check_at = with_trailer.then_some(len - ecc::CHECK_BYTES);
    stage.edit_run(blkno, 1, check_at, |bytes| {
        let end = bytes.len() - if with_trailer { DIR_TRAILER } else { 0 };
        edit(&mut bytes[..end], first)
    })
}

/// The first block of a directory; `None` when its entries stand in the inode.
fn first_block(stage: &Stage<'_, '_>, directory: BlockNo) -> Result<Option<BlockNo>> {
    let view = stage.view();
    let inode = inode::read(view, directory)?;
    if inode.dyn_features().contains(DynFeatures::INLINE_DATA) {
        return Ok(None);
    }
    let (found, _) = extent::salvage(view, directory, inode.body());
    Ok(found.first().map(|extent| extent.blkno))
}

/// What is to be done with an entry.
enum Change {
    Remove,
    /// Another name, no longer than there is room for.
    Rename(Vec<u8>),
}

/// Changes the entries for which `choose` has something; it also learns whether an entry stands
/// where "." or ".." must.
fn change(
    stage: &Stage<'_, '_>,
    at: At,
    mut choose: impl FnMut(&Entry<'_>, bool) -> Option<Change>,
) -> Result<()> {
    edit_area(stage, at, |area, first| {
        let mut changes = Vec::new();
        for (number, entry) in entries(area).map_while(Result::ok).enumerate() {
            let dotty = first && number < 2;
            if entry.is_used()
                && let Some(change) = choose(&entry, dotty)
            {
                changes.push((entry.offset, entry.rec_len, change));
            }
        }
        if changes.is_empty() {
            return Err(cannot("the entry is not there"));
        }
        for (offset, rec_len, change) in changes {
            match change {
                Change::Remove => area[offset..offset + 8].fill(0),
                Change::Rename(name) => {
                    if dirent_bytes(name.len()) > rec_len || name.len() > 255 {
                        return Err(cannot("there is no room for another name"));
                    }
                    area[offset + 10] = name.len().to_le_bytes()[0];
                    let from = offset + DIRENT_HEAD;
                    area[from..from + name.len()].copy_from_slice(&name);
                }
            }
        }
        Ok(())
    })
}

/// Changes the heads of entries.
fn set_entry(
    stage: &Stage<'_, '_>,
    at: At,
    choose: impl Fn(&Entry<'_>, bool) -> bool,
    set: impl Fn(&mut DirEntry),
) -> Result<()> {
    edit_area(stage, at, |area, first| {
        let chosen: Vec<usize> = entries(area)
            .map_while(Result::ok)
            .enumerate()
            .filter(|(number, entry)| entry.is_used() && choose(entry, first && *number < 2))
            .map(|(_, entry)| entry.offset)
            .collect();
        if chosen.is_empty() {
            return Err(cannot("the entry is not there"));
        }
        for offset in chosen {
            if let Ok((head, _)) = DirEntry::mut_from_prefix(&mut area[offset..]) {
                set(head);
            }
        }
        Ok(())
    })
}

pub(super) fn write_entry(area: &mut [u8], offset: usize, rec_len: usize, inode: u64, name: &[u8]) {
    let head = DirEntry {
        inode: inode.into(),
        rec_len: low16(rec_len as u64).into(),
        name_len: name.len().to_le_bytes()[0],
        file_type: FileType::Directory.dirent(),
    };
    let end = offset + DIRENT_HEAD + name.len();
    if let Some(place) = area.get_mut(offset..end) {
        place[..DIRENT_HEAD].copy_from_slice(head.as_bytes());
        place[DIRENT_HEAD..].copy_from_slice(name);
    }
}

/// Puts "." or ".." where it must be. What stood there instead has lost its name, and gets one in
/// lost+found when it was its last.
fn dotty(stage: &Stage<'_, '_>, at: At, expected: &str) -> Result<()> {
    let directory = at.inode.unwrap_or_default();
    let root = stage.view().info().root;
    let inode_at = |blkno: BlockNo| {
        let fact = stage.evidence.groups.inode(blkno);
        fact.is_some_and(|fact| fact.seen() && fact.is_dir())
    };
    edit_area(stage, at, |area, _| {
        if area.len() < 32 {
            return Err(cannot("there is no room for it"));
        }
        let mut two = entries(area)
            .map_while(Result::ok)
            .map(|entry| (entry.inode, entry.offset, entry.rec_len));
        let (first, second) = (two.next(), two.next());
        drop(two);
        if expected == "." {
            let rec_len = first.map_or(area.len(), |(_, _, rec_len)| rec_len);
            write_entry(area, 0, rec_len, directory.0, b".");
            return Ok(());
        }
        let Some((inode, offset, rec_len)) = second else {
            // Nothing else is in the block.
            write_entry(area, 0, 16, directory.0, b".");
            let rest = area.len() - 16;
            write_entry(area, 16, rest, root.0, b"..");
            return Ok(());
        };
        let up = if inode_at(inode) { inode } else { root };
        write_entry(area, offset, rec_len, up.0, b"..");
        Ok(())
    })
}

/// Gives "." its own room; what it covered shows again, or goes to the entry after it.
fn dot_excess(stage: &Stage<'_, '_>, at: At) -> Result<()> {
    edit_area(stage, at, |area, _| {
        let mut two = entries(area).map_while(Result::ok);
        let old = two.next().map_or(0, |entry| entry.rec_len);
        let second = two.next().map(|entry| (entry.rec_len, entry.name.len()));
        drop(two);
        if old < 16 {
            return Err(cannot("the entry after it cannot be made out"));
        }
        area[8..10].copy_from_slice(&16u16.to_le_bytes());
        let covered: Vec<bool> = entries(&area[16..old]).map(|entry| entry.is_ok()).collect();
        if !covered.is_empty() && !covered.contains(&false) {
            return Ok(());
        }
        match second {
            Some((rec_len, name_len)) => {
                area.copy_within(old..old + DIRENT_HEAD + name_len, 16);
                let rec_len = low16((rec_len + old - 16) as u64);
                area[24..26].copy_from_slice(&rec_len.to_le_bytes());
            }
            None => {
                area[16..28].fill(0);
                area[24..26].copy_from_slice(&low16(old as u64 - 16).to_le_bytes());
            }
        }
        Ok(())
    })
}

/// Takes a directory's second place away from it; the names of others stay.
fn second_place(stage: &Stage<'_, '_>, directory: BlockNo, target: u64, first: u64) -> Result<()> {
    let keep = directory.0 == first;
    let mut places = Vec::new();
    {
        let view = stage.view();
        let inode = inode::read(view, directory)?;
        dir::for_each_area(view, &inode, &mut |area| {
            if let Ok(area) = area {
                for entry in entries(area.bytes).map_while(Result::ok) {
                    let dotty = matches!(entry.name, b"." | b"..");
                    if entry.inode.0 == target && entry.is_used() && !dotty {
                        places.push((area.block, entry.offset));
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    for (block, offset) in places.into_iter().skip(usize::from(keep)) {
        let at = At {
            inode: Some(directory),
            block,
        };
        change(stage, at, |entry, _| {
            (entry.offset == offset).then_some(Change::Remove)
        })?;
    }
    Ok(())
}

/// The first bytes of a name, at most `most`. Text stays text: it is cut between characters.
fn cut(name: &[u8], most: usize) -> &[u8] {
    let len = match str::from_utf8(name) {
        Ok(text) => (0..=most).rev().find(|&len| text.is_char_boundary(len)),
        Err(_) => Some(name.len().min(most)),
    };
    len.and_then(|len| name.get(..len)).unwrap_or_default()
}

/// Gives the second of two equal names another one; a second name of the same file goes.
fn duplicate(stage: &Stage<'_, '_>, at: At, name: &str) -> Result<()> {
    let directory = at.inode.unwrap_or_default();
    let mut all: HashSet<Vec<u8>> = HashSet::new();
    let mut same: Vec<(BlockNo, Option<BlockNo>, usize)> = Vec::new();
    {
        let view = stage.view();
        let inode = inode::read(view, directory)?;
        dir::for_each_area(view, &inode, &mut |area| {
            if let Ok(area) = area {
                for entry in entries(area.bytes).map_while(Result::ok) {
                    if entry.is_used() {
                        all.insert(entry.name.to_vec());
                        if shown(entry.name) == name {
                            same.push((entry.inode, area.block, entry.offset));
                        }
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    let (Some(&(kept, ..)), Some(&(inode, block, offset))) = (same.first(), same.last()) else {
        return Err(cannot("the entry is not there"));
    };
    if same.len() < 2 {
        return Ok(());
    }
    let at = At {
        inode: Some(directory),
        block,
    };
    change(stage, at, |entry, _| {
        if entry.offset != offset {
            return None;
        }
        if inode == kept {
            return Some(Change::Remove);
        }
        let room = (entry.rec_len - DIRENT_HEAD).min(255);
        let mut names = (1..1000u32).map(|number| {
            let suffix = format!("~{number}");
            let mut name = cut(entry.name, room.saturating_sub(suffix.len())).to_vec();
            name.extend_from_slice(suffix.as_bytes());
            name
        });
        names.find(|name| !all.contains(name)).map(Change::Rename)
    })
}

/// Gives a directory of which no block can be made out an empty one. Whoever lost their names get others.
fn emptied(stage: &mut Stage<'_, '_>, directory: BlockNo) -> Result<()> {
    let info = stage.view().info();
    let (root, system_dir) = (info.root, info.system_dir);
    if directory == system_dir || stage.evidence.system.names(directory) {
        return system::remake(stage, directory);
    }
    let mut children = stage.evidence.children.iter();
    let known = children.find(|(child, _)| *child == directory);
    let parent = known.map_or(root, |(_, parent)| *parent);
    stage.transact(|txn| {
        txn.remake_data(directory, &[])?;
        txn.forget_index(directory)?;
        txn.remake_directory(directory, parent)
    })
}

/// Finds the way on behind the first entry in an inode that cannot be.
pub(super) fn way_on(stage: &Stage<'_, '_>, directory: BlockNo) -> Result<()> {
    let mut end = 0;
    {
        let inode = inode::read(stage.view(), directory)?;
        let area = inode.inline_data().unwrap_or_default();
        for entry in entries(area).map_while(Result::ok) {
            end = entry.offset + entry.rec_len;
        }
    }
    length(stage, At::inode(directory), end as u64)
}

/// Finds the way on behind an entry that cannot be: the next place from which entries follow each
/// other to the end of the area. The entry keeps its name when that can be; else what lies between
/// is free.
fn length(stage: &Stage<'_, '_>, at: At, offset: u64) -> Result<()> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let contains = |blkno: u64| stage.geo().contains(BlockNo(blkno), 1);
    edit_area(stage, at, |area, _| {
        let rest = area.len().saturating_sub(offset);
        let follows = |from: usize| {
            from == area.len()
                || area.get(from..).is_some_and(|tail| {
                    entries(tail).all(|entry| {
                        entry.is_ok_and(|entry| {
                            !entry.is_used() || (contains(entry.inode.0) && !entry.name.is_empty())
                        })
                    })
                })
        };
        let head = area
            .get(offset..)
            .and_then(|tail| DirEntry::read_from_prefix(tail).ok())
            .map(|(head, _)| head);
        let named = head.filter(|head| {
            head.inode.get() != 0 && head.name_len > 0 && contains(head.inode.get())
        });
        let least = named.map_or(16, |head| dirent_bytes(usize::from(head.name_len)).max(16));
        let way = (least..=rest).step_by(4).find(|len| follows(offset + len));
        match (way, named) {
            (Some(len), Some(_)) => {
                area[offset + 8..offset + 10].copy_from_slice(&low16(len as u64).to_le_bytes());
            }
            (Some(len), None) => {
                area[offset..offset + DIRENT_HEAD].fill(0);
                area[offset + 8..offset + 10].copy_from_slice(&low16(len as u64).to_le_bytes());
            }
            (None, _) => {
                // The end is too short for an entry of its own: it goes to the one before.
                let before = entries(area).map_while(Result::ok).last().map(|e| e.offset);
                let before =
                    before.ok_or_else(|| cannot("nothing in the block can be made out"))?;
                let len = area.len() - before;
                area[before + 8..before + 10].copy_from_slice(&low16(len as u64).to_le_bytes());
            }
        }
        Ok(())
    })
}

fn trailer(stage: &Stage<'_, '_>, at: At, set: impl FnOnce(&mut DirBlockTrailer)) -> Result<()> {
    let blkno = at.block.ok_or_else(|| cannot("it has no block"))?;
    let check_at = stage.geo().block_bytes() - ecc::CHECK_BYTES;
    stage.edit_run(blkno, 1, Some(check_at), |bytes| {
        let at = bytes.len() - DIR_TRAILER;
        let trailer = DirBlockTrailer::mut_from_bytes(&mut bytes[at..])
            .map_err(|_| cannot("the block is short"))?;
        set(trailer);
        Ok(())
    })
}

/// Writes the trailer of a block, and makes the block empty when its entries are not sound.
fn new_trailer(stage: &Stage<'_, '_>, at: At) -> Result<()> {
    let (Some(directory), Some(blkno)) = (at.inode, at.block) else {
        return Err(cannot("it has no block"));
    };
    let block = stage.view().raw(blkno)?;
    let end = block.len() - DIR_TRAILER;
    let mut seen = false;
    let sound = entries(&block[..end]).all(|entry| {
        seen = true;
        entry.is_ok_and(|entry| {
            !entry.is_used() || (!entry.name.is_empty() && stage.geo().contains(entry.inode, 1))
        })
    });
    drop(block);
    let mut bytes = stage.view().raw(blkno)?.into_owned();
    if !seen || !sound {
        // Nothing in it can be made out: it is empty from now on, and whose names are lost get others.
        let first = first_block(stage, directory)? == Some(blkno);
        bytes.fill(0);
        let root = stage.view().info().root;
        if first {
            write_entry(&mut bytes, 0, 16, directory.0, b".");
            write_entry(&mut bytes, 16, end - 16, root.0, b"..");
        } else {
            bytes[8..10].copy_from_slice(&low16(end as u64).to_le_bytes());
        }
    }
    if let Ok(trailer) = DirBlockTrailer::mut_from_bytes(&mut bytes[end..]) {
        *trailer = DirBlockTrailer::new_zeroed();
        trailer.db_compat_rec_len = low16(DIR_TRAILER as u64).into();
        trailer.db_signature = DIR_TRAILER_SIGNATURE;
        trailer.db_blkno = blkno.0.into();
        trailer.db_parent_dinode = directory.0.into();
    }
    stage.put_run(
        blkno,
        Some(stage.geo().block_bytes() - ecc::CHECK_BYTES),
        &mut bytes,
    )
}

/// Brings the root directory back: its inode is there and only not marked as being in use, or is made
/// anew.
fn root(stage: &mut Stage<'_, '_>, root: BlockNo) -> Result<()> {
    let (inode, faults) = stage.view().inspect::<Dinode>(root);
    let is_dir = |inode: &Checked<'_, Dinode>| inode.file_type() == Some(FileType::Directory);
    let Some(inode) = inode.filter(|inode| is_dir(inode) && faults.is_empty()) else {
        system::remake(stage, root)?;
        if stage.evidence.groups.locate(root).is_some() {
            alloc::mark(stage, root, true)?;
        }
        return Ok(());
    };
    drop(inode);
    stage.edit::<Dinode>(root, |inode| {
        let marks = InodeFlags::VALID | InodeFlags::SYSTEM;
        inode.i_flags = (inode.flags() | marks).bits().into();
        inode.i_dtime = 0.into();
    })
}

/// Gives a directory the size that ends with the last block of its own. What lies before that and cannot be
/// made out is found by the next check.
pub(super) fn recount(stage: &Stage<'_, '_>, directory: BlockNo) -> Result<()> {
    let view = stage.view();
    let inode = inode::read(view, directory)?;
    let with_trailer = has_trailer(view, &inode);
    let (found, _) = extent::salvage(view, directory, inode.body());
    drop(inode);
    let (mut blocks, mut last_own) = (0u64, 0);
    for extent in found {
        for i in 0..u64::from(extent.clusters) * view.geo().blocks_per_cluster() {
            let blkno = extent.blkno.plus(i);
            let own = view
                .dir_block(blkno, directory, with_trailer)
                .is_ok_and(|(bytes, _)| {
                    let end = bytes.len() - if with_trailer { DIR_TRAILER } else { 0 };
                    let mut list = entries(&bytes[..end]).peekable();
                    list.peek().is_some() && list.all(|entry| entry.is_ok())
                });
            blocks += 1;
            if own {
                last_own = blocks;
            }
        }
    }
    if last_own == 0 {
        return Err(cannot("none of its blocks can be made out"));
    }
    let size = last_own << stage.geo().block_bits();
    stage.edit::<Dinode>(directory, |inode| inode.i_size = size.into())
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn names_are_cut_between_characters() {
        let name = "a\u{e9}\u{e9}".as_bytes();
        let lengths = [0, 1, 1, 3, 3, 5, 5];
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 9].map(|most| cut(name, most).len()),
            lengths
        );
        assert_eq!(cut(b"a\xFF\xFF\xFF", 3), b"a\xFF\xFF");
    }
}
