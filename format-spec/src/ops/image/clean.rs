//! What is taken out of single blocks.

use crate::block::Checked;
use crate::layout::{
    DINODE_HEAD, Dinode, DynFeatures, FileType, XATTR_LOCAL_MAX, XattrEntry, XattrHeader,
};
use crate::read::dir::INLINE_HEAD;
use zerocopy::FromBytes;

/// Letters that replace others: names of them have one hash, and no meaning to a shell.
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// Numbers without a pattern, the same for the same start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        // Steele and others, "Fast splittable pseudorandom number generators".
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A letter.
    pub(super) fn letter(&mut self) -> u8 {
        LETTERS[usize::from(self.next().to_le_bytes()[0] & 63)]
    }
}

/// The letter of a number below 64.
pub(super) fn letter(number: usize) -> u8 {
    LETTERS[number & 63]
}

/// Takes the data of a file out of its inode, with `scramble` also the target of a symlink, values
/// of attributes, and whatever an inode that is not in use holds.
pub(super) fn inode(inode: &Checked<'_, Dinode>, bytes: &mut [u8], scramble: bool, used: bool) {
    let reserved = inode.inline_xattr_bytes().min(bytes.len());
    let end = bytes.len() - reserved;
    let kind = inode.file_type();
    let inline = inode.dyn_features().contains(DynFeatures::INLINE_DATA);
    if inline
        && !matches!(kind, Some(FileType::Directory | FileType::Symlink))
        && let Some(data) = bytes.get_mut(DINODE_HEAD + INLINE_HEAD..end)
    {
        data.fill(0);
    }
    // Of a removed file the flag may be gone and the data still there.
    if !used && kind != Some(FileType::Symlink) && !inline {
        let capacity = (end.saturating_sub(DINODE_HEAD + 16) / 16).to_le_bytes();
        let counted = bytes.get(DINODE_HEAD + 2..DINODE_HEAD + 4);
        if counted != capacity.get(..2)
            && let Some(rest) = bytes.get_mut(DINODE_HEAD..end)
        {
            rest.fill(0);
        }
    }
    if !scramble {
        return;
    }
    if !used {
        if let Some(rest) = bytes.get_mut(DINODE_HEAD..) {
            rest.fill(0);
        }
        return;
    }
    if kind == Some(FileType::Symlink) && (inline || inode.i_clusters.get() == 0) {
        let from = DINODE_HEAD + if inline { INLINE_HEAD } else { 0 };
        let size = crate::units::index(inode.i_size.get());
        if let Some(body) = bytes.get_mut(from..end) {
            let size = size.min(body.len());
            let (text, rest) = body.split_at_mut(size);
            target(text, inode.blkno().0);
            rest.fill(0);
        }
    }
    if reserved > 0
        && let Some(area) = bytes.get_mut(end..)
    {
        xattrs(area);
    }
}

/// Replaces the target of a symlink; slashes stay.
pub(super) fn target(text: &mut [u8], seed: u64) {
    let mut random = Random(seed);
    for byte in text.iter_mut().filter(|byte| !matches!(byte, b'/' | 0)) {
        *byte = random.letter();
    }
}

/// Replaces the values that stand in an area of attributes and zeroes what no entry describes.
/// ACLs, which name no more than the inode does, stay.
pub(super) fn xattrs(area: &mut [u8]) {
    const HEAD: usize = size_of::<XattrHeader>();
    const ENTRY: usize = size_of::<XattrEntry>();
    let count = XattrHeader::ref_from_prefix(area).map_or(0, |(head, _)| head.xh_count.get());
    let heads = HEAD + usize::from(count) * ENTRY;
    let mut clean = vec![0; area.len()];
    let heads = heads.min(area.len());
    clean[..heads].copy_from_slice(&area[..heads]);
    let Some(entries) = area.get(HEAD..heads) else {
        return;
    };
    for bytes in entries.chunks_exact(ENTRY) {
        let Ok(entry) = XattrEntry::ref_from_bytes(bytes) else {
            continue;
        };
        let name = usize::from(entry.xe_name_offset.get());
        let value = name + usize::from(entry.xe_name_len).next_multiple_of(4);
        let local = entry.xe_type & 0x80 != 0;
        let size = entry.xe_value_size.get().min(XATTR_LOCAL_MAX);
        // The root of a value outside, with its list of one record.
        let len = if local { crate::units::index(size) } else { 48 };
        let name_end = name + usize::from(entry.xe_name_len);
        if name < heads || value + len > area.len() {
            continue;
        }
        clean[name..name_end].copy_from_slice(&area[name..name_end]);
        let acl = matches!(entry.xe_type & 0x7F, 2 | 3);
        if acl || !local {
            clean[value..value + len].copy_from_slice(&area[value..value + len]);
        } else {
            let mut random = Random(u64::from(entry.xe_name_hash.get()));
            for byte in &mut clean[value..value + len] {
                *byte = random.letter();
            }
        }
    }
    area.copy_from_slice(&clean);
}
