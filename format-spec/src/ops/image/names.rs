//! New names for the entries of a directory.
//!
//! A name gets another of the same length, so that no entry moves. Where the directory is indexed
//! the index must lead from the new name to its entry: the hash of the new name replaces that of the
//! old one where it stands, so it must belong into that leaf. Leaves hold what falls into a range
//! of hashes and has certain low bits, so enough names are tried until each leaf has those that it
//! needs; which entry of a leaf gets which is a matter of order. The result is a function of the
//! directory's number and form, and says nothing of the old names but their lengths.
//!
//! Of a very short name there may be no other that fits. It is kept, and counted.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;

use zerocopy::{FromBytes, IntoBytes};

use super::clean::{Random, letter};
use crate::block::View;
use crate::layout::{
    DIRENT_HEAD, DirEntry, DxEntry, DxEntryList, DxHash, DxRoot, DynFeatures, HashKind, dx_hash,
    hash_is_split,
};
use crate::read::extent::{self, Extent};
use crate::read::inode::Inode;
use crate::read::{dir, dx};
use crate::units::BlockNo;

/// Names that are tried for each that is needed, and at least.
const TRIES_EACH: u64 = 64;
const TRIES_LEAST: u64 = 1 << 16;

/// Where an entry is: its block (none in the inode) and its offset.
type Spot = (Option<BlockNo>, usize);
/// An entry of the index: major and minor hash, and the directory block.
type Key = (u32, u32, u64);
/// The leaves that the hashes of a name belong into.
type Leaves = (u64, u64);

/// The new names of a directory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    names: HashMap<Spot, Vec<u8>>,
    hashes: HashMap<Key, DxHash>,
    /// Names that were replaced.
    pub(super) scrambled: u64,
    /// Names that were not.
    pub(super) kept: u64,
}

/// A name to be replaced.
struct Old {
    spot: Spot,
    name: Vec<u8>,
}

/// The leaves of an index, and which of them hold a hash.
struct Index {
    /// None for an index inside of its root, which has one leaf.
    extents: Option<Vec<Extent>>,
    keys: HashSet<Key>,
}

impl Plan {
    /// New names for a directory.
    pub(super) fn of(view: View<'_>, inode: &Inode<'_>) -> Self {
        let olds = olds(view, inode);
        let index = index(view, inode);
        let seed = view.info().dx_seed;
        let mut plan = Self::default();
        let taken: HashSet<&[u8]> = olds.iter().map(|old| &old.name[..]).collect();
        // What is needed: by length and leaves, the entries in their order.
        let mut needed: BTreeMap<usize, HashMap<Leaves, VecDeque<usize>>> = BTreeMap::new();
        for (i, old) in olds.iter().enumerate() {
            let leaves = index.leaves_of(view, old, seed);
            let of_length = needed.entry(old.name.len()).or_default();
            of_length.entry(leaves).or_default().push_back(i);
        }
        for (len, mut wanted) in needed {
            let count: usize = wanted.values().map(VecDeque::len).sum();
            let mut left = count;
            let mut made: HashSet<Vec<u8>> = HashSet::new();
            let mut random = Random(inode.blkno().0 ^ (len as u64) << 56);
            let leaves = index.extents.as_ref().map_or(1, |all| all.len() as u64 * 8);
            let tries =
                TRIES_LEAST.saturating_add((count as u64 + leaves).saturating_mul(TRIES_EACH));
            for turn in 0..tries {
                if left == 0 {
                    break;
                }
                // One name in two with a byte that makes its hash depend on its writer, where such
                // are needed at all.
                let split = turn % 2 == 1 && wanted.keys().any(|leaves| leaves.0 != leaves.1);
                let name = candidate(&mut random, turn, len, split);
                if taken.contains(&name[..]) || made.contains(&name) {
                    continue;
                }
                let Some(leaves) = index.leaves(view, &name, seed) else {
                    continue;
                };
                if split && leaves.0 == leaves.1 {
                    continue;
                }
                let Some(i) = wanted.get_mut(&leaves).and_then(VecDeque::pop_front) else {
                    continue;
                };
                left -= 1;
                if let Some(old) = olds.get(i) {
                    plan.replace(&index, old, &name, seed);
                }
                made.insert(name);
            }
            plan.kept += left as u64;
        }
        plan
    }

    fn replace(&mut self, index: &Index, old: &Old, new: &[u8], seed: [u32; 4]) {
        for kind in [HashKind::Signed, HashKind::Unsigned] {
            let hash = dx_hash(&old.name, seed, kind);
            let key = (
                hash.major,
                hash.minor,
                old.spot.0.map_or(0, |blkno| blkno.0),
            );
            if index.keys.contains(&key) {
                self.hashes.insert(key, dx_hash(new, seed, kind));
            }
        }
        self.names.insert(old.spot, new.to_vec());
        self.scrambled += 1;
    }

    /// Renames the entries of an area, and zeroes what no entry in use describes.
    pub(super) fn rename(&self, block: Option<BlockNo>, area: &mut [u8]) {
        let entries: Vec<(usize, usize, Option<usize>)> = dir::entries(area)
            .map_while(Result::ok)
            .map(|e| (e.offset, e.rec_len, e.is_used().then_some(e.name.len())))
            .collect();
        let mut end = 0;
        for (offset, rec_len, name_len) in entries {
            end = offset + rec_len;
            let Some(entry) = area.get_mut(offset..end) else {
                break;
            };
            let Some((head, rest)) = entry.split_at_mut_checked(DIRENT_HEAD) else {
                break;
            };
            match name_len {
                Some(len) => {
                    let (name, rest) = rest.split_at_mut(len.min(rest.len()));
                    rest.fill(0);
                    if let Some(new) = self.names.get(&(block, offset))
                        && new.len() == name.len()
                    {
                        name.copy_from_slice(new);
                    }
                }
                None => {
                    rest.fill(0);
                    if let Ok(head) = DirEntry::mut_from_bytes(head) {
                        (head.name_len, head.file_type) = (0, 0);
                    }
                }
            }
        }
        // Behind an impossible entry stands what nobody can read.
        area.get_mut(end..).unwrap_or_default().fill(0);
    }

    /// Replaces the hashes of an entry list, and zeroes the entries that are not in use.
    pub(super) fn reindex(&self, list: &mut [u8]) {
        let Ok((head, rest)) = DxEntryList::mut_from_prefix(list) else {
            return;
        };
        let used = usize::from(head.de_num_used.get());
        for (i, bytes) in rest.chunks_exact_mut(size_of::<DxEntry>()).enumerate() {
            let Ok(entry) = DxEntry::mut_from_bytes(bytes) else {
                continue;
            };
            if i >= used {
                entry.as_mut_bytes().fill(0);
                continue;
            }
            let (major, minor) = (entry.dx_major_hash.get(), entry.dx_minor_hash.get());
            let key = (major, minor, entry.dx_dirent_blk.get());
            if let Some(hash) = self.hashes.get(&key) {
                entry.dx_major_hash = hash.major.into();
                entry.dx_minor_hash = hash.minor.into();
            }
        }
    }
}

/// The names of a directory, other than those that have a meaning of their own.
fn olds(view: View<'_>, inode: &Inode<'_>) -> Vec<Old> {
    let root = inode.blkno() == view.info().root;
    let mut found = Vec::new();
    let _ = dir::for_each_area(view, inode, &mut |area| {
        let Ok(area) = area else {
            return ControlFlow::Continue(());
        };
        for entry in dir::entries(area.bytes)
            .flatten()
            .filter(dir::Entry::is_used)
        {
            let own = matches!(entry.name, b"" | b"." | b"..");
            if own || root && entry.name == b"lost+found" {
                continue;
            }
            found.push(Old {
                spot: (area.block, entry.offset),
                name: entry.name.to_vec(),
            });
        }
        ControlFlow::Continue(())
    });
    found
}

/// A name of a given length. Of one or two letters all are tried, in their order.
fn candidate(random: &mut Random, turn: u64, len: usize, split: bool) -> Vec<u8> {
    let number = usize::try_from(turn).unwrap_or(usize::MAX);
    let mut name: Vec<u8> = match len {
        1 => vec![letter(number)],
        2 => vec![letter(number), letter(number / 64)],
        _ => (0..len).map(|_| random.letter()).collect(),
    };
    if split && let Some(first) = name.first_mut() {
        // A byte of Latin-1.
        *first |= 0x80;
    }
    name
}

/// The index of a directory; an empty one when there is none or it cannot be read.
fn index(view: View<'_>, inode: &Inode<'_>) -> Index {
    let mut index = Index {
        extents: None,
        keys: HashSet::new(),
    };
    if !inode.dyn_features().contains(DynFeatures::INDEXED_DIR) {
        return index;
    }
    let Ok(root) = view.block::<DxRoot>(BlockNo(inode.i_dx_root.get())) else {
        return index;
    };
    let mut add = |entries: &[DxEntry]| {
        index.keys.extend(entries.iter().map(|entry| {
            let (major, minor) = (entry.dx_major_hash.get(), entry.dx_minor_hash.get());
            (major, minor, entry.dx_dirent_blk.get())
        }));
    };
    if let Some(list) = root.inline_entries() {
        add(list.entries);
        return index;
    }
    let _ = dx::for_each_leaf(view, &root, &mut |_, leaf| {
        if let Ok(leaf) = leaf
            && let Some(list) = leaf.list()
        {
            add(list.entries);
        }
        ControlFlow::Continue(())
    });
    index.extents = Some(extent::salvage(view, root.blkno(), root.body()).0);
    index
}

impl Index {
    /// The leaf that a hash belongs into.
    fn leaf(&self, view: View<'_>, hash: DxHash) -> Option<u64> {
        let Some(extents) = &self.extents else {
            return Some(0);
        };
        let at = extents.partition_point(|extent| extent.cpos <= hash.major);
        let extent = extents.get(at.checked_sub(1)?)?;
        Some(dx::leaf_of(view, extent, hash).0)
    }

    /// The leaves of a name by its two hashes.
    fn leaves(&self, view: View<'_>, name: &[u8], seed: [u32; 4]) -> Option<Leaves> {
        let leaf = |kind| self.leaf(view, dx_hash(name, seed, kind));
        Some((leaf(HashKind::Signed)?, leaf(HashKind::Unsigned)?))
    }

    /// The leaves that a new name must belong into: those that hold the old one. Of a name with
    /// two hashes the index mostly holds one, and the new name needs no second one.
    fn leaves_of(&self, view: View<'_>, old: &Old, seed: [u32; 4]) -> Leaves {
        let place = |kind| {
            let hash = dx_hash(&old.name, seed, kind);
            let key = (
                hash.major,
                hash.minor,
                old.spot.0.map_or(0, |blkno| blkno.0),
            );
            let there = self.keys.contains(&key);
            there.then(|| self.leaf(view, hash)).flatten()
        };
        let signed = place(HashKind::Signed);
        if !hash_is_split(&old.name) {
            let leaf = signed.or_else(|| self.any());
            return (leaf.unwrap_or(0), leaf.unwrap_or(0));
        }
        let unsigned = place(HashKind::Unsigned);
        let one = signed.or(unsigned).or_else(|| self.any()).unwrap_or(0);
        (signed.unwrap_or(one), unsigned.unwrap_or(one))
    }

    /// Some leaf, for a name that the index does not hold.
    fn any(&self) -> Option<u64> {
        let first = self.extents.as_ref()?.first()?;
        Some(first.blkno.0)
    }
}
