//! Taking names out of directories, and leading them elsewhere.

use std::ops::ControlFlow;

use crate::error::{Error, FaultKind, Result};
use crate::layout::{DINODE_HEAD, DIR_TRAILER, Dinode, DynFeatures, FileType, InlineData};
use crate::read::dir::{self, Located, entries};
use crate::read::inode;
use crate::txn::{Timestamp, Txn};
use crate::units::{BlockNo, low16};

/// Takes the entry of a name out of an area: its room goes to the entry before it. False when the
/// name is not there.
fn take_out(area: &mut [u8], name: &[u8]) -> Result<bool, FaultKind> {
    let mut before = None;
    let mut found = None;
    for entry in entries(area) {
        let entry = entry?;
        if entry.is_used() && entry.name == name {
            found = Some((entry.offset, entry.rec_len));
            break;
        }
        before = Some((entry.offset, entry.rec_len));
    }
    let Some((offset, rec_len)) = found else {
        return Ok(false);
    };
    match before {
        Some((at, own)) => {
            let joined = low16((own + rec_len) as u64).to_le_bytes();
            area[at + 8..at + 10].copy_from_slice(&joined);
        }
        None => area[offset..offset + 8].fill(0),
    }
    Ok(true)
}

/// Leads the entry of a name to another inode. False when the name is not there.
fn lead(area: &mut [u8], name: &[u8], to: BlockNo, file_type: u8) -> Result<bool, FaultKind> {
    let mut found = None;
    for entry in entries(area) {
        let entry = entry?;
        if entry.is_used() && entry.name == name {
            found = Some(entry.offset);
            break;
        }
    }
    if let Some(at) = found {
        area[at..at + 8].copy_from_slice(&to.0.to_le_bytes());
        area[at + 11] = file_type;
    }
    Ok(found.is_some())
}

impl Txn<'_> {
    /// Where a name of a directory stands.
    ///
    /// # Errors
    /// The directory does not have it, or cannot be used.
    pub(crate) fn require_name(&self, directory: BlockNo, name: &[u8]) -> Result<Located> {
        let view = self.view();
        let dinode = inode::read(view, directory)?;
        dir::locate(view, &dinode, name)?.ok_or_else(|| Error::Path {
            path: String::from_utf8_lossy(name).into_owned(),
            why: "no such file or directory",
        })
    }

    /// Takes a name out of a directory; the inode that it named.
    ///
    /// # Errors
    /// The directory does not have it, or a block of the directory cannot be used.
    pub(crate) fn remove_name(
        &mut self,
        directory: BlockNo,
        name: &[u8],
        now: Timestamp,
    ) -> Result<BlockNo> {
        let located = self.require_name(directory, name)?;
        self.edit_entries(directory, located.block, |area| take_out(area, name))?;
        let features = self.view().block::<Dinode>(directory)?.dyn_features();
        if let Some(blkno) = located.block
            && features.contains(DynFeatures::INDEXED_DIR)
        {
            self.unindex_name(directory, name, blkno)?;
            self.update_room(directory, blkno)?;
        }
        now.set_mtime(&mut *self.edit::<Dinode>(directory)?);
        Ok(located.inode)
    }

    /// Leads a name of a directory to another inode; the one that it named.
    ///
    /// # Errors
    /// The directory does not have it, or a block of the directory cannot be used.
    pub(crate) fn lead_name(
        &mut self,
        directory: BlockNo,
        name: &[u8],
        to: BlockNo,
        file_type: FileType,
    ) -> Result<BlockNo> {
        let located = self.require_name(directory, name)?;
        let file_type = file_type.dirent();
        self.edit_entries(directory, located.block, |area| {
            lead(area, name, to, file_type)
        })?;
        Ok(located.inode)
    }

    /// Edits the entries that stand in a block of a directory, or in its inode.
    fn edit_entries(
        &mut self,
        directory: BlockNo,
        block: Option<BlockNo>,
        change: impl FnOnce(&mut [u8]) -> Result<bool, FaultKind>,
    ) -> Result<()> {
        let done = match block {
            None => {
                let mut dinode = self.edit::<Dinode>(directory)?;
                let end = dinode.body_end();
                change(&mut dinode.bytes_mut()[DINODE_HEAD + size_of::<InlineData>()..end])
            }
            Some(blkno) => {
                let with_trailer = self.has_trailer(directory)?;
                let mut block = self.edit_dir_block(blkno, directory, with_trailer)?;
                let end = block.bytes().len() - if with_trailer { DIR_TRAILER } else { 0 };
                change(&mut block.bytes_mut()[..end])
            }
        };
        done.map_err(|kind| kind.at(block.unwrap_or(directory)))?;
        Ok(())
    }

    /// Whether a directory has no names but its own two.
    ///
    /// # Errors
    /// A part of it is damaged.
    pub(crate) fn directory_is_empty(&self, directory: BlockNo) -> Result<bool> {
        let view = self.view();
        let dinode = inode::read(view, directory)?;
        let mut empty = true;
        dir::for_each_entry(view, &dinode, &mut |entry| {
            if matches!(entry.name, b"." | b"..") {
                return ControlFlow::Continue(());
            }
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::dir::{NewEntry, insert};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn names_come_and_go_as_in_a_map(
            steps in proptest::collection::vec((any::<bool>(), 0u8..30, 1usize..30), 1..120),
        ) {
            let mut area = vec![0; 448];
            area[8..10].copy_from_slice(&448u16.to_le_bytes());
            let mut model: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for (i, (add, letter, len)) in steps.into_iter().enumerate() {
                let name = vec![letter + b'a'; len];
                let inode = i as u64 + 1;
                if !add {
                    let gone = take_out(&mut area, &name).unwrap();
                    prop_assert_eq!(gone, model.remove(&name).is_some());
                } else if let Some(old) = model.get_mut(&name) {
                    prop_assert!(lead(&mut area, &name, BlockNo(inode), 2).unwrap());
                    *old = inode;
                } else {
                    let new = NewEntry { inode: BlockNo(inode), file_type: 1, name: &name };
                    if insert(&mut area, &new).unwrap() {
                        model.insert(name, inode);
                    }
                }
                let (mut seen, mut end) = (BTreeMap::new(), 0);
                for entry in entries(&area) {
                    let entry = entry.unwrap();
                    prop_assert_eq!(entry.offset, end);
                    end += entry.rec_len;
                    if entry.is_used() {
                        seen.insert(entry.name.to_vec(), entry.inode.0);
                    }
                }
                prop_assert_eq!(end, area.len());
                prop_assert_eq!(&seen, &model);
            }
        }
    }
}
