//! Journals: what a log still holds.
//!
//! A dirty journal's transactions belong to the volume although they are not yet in their homes.
//! [`pending`] reads a log into a map from home block to image; a volume opened for reading looks
//! blocks up there first, so that it is seen as it will be after recovery, without a write.

use std::collections::BTreeMap;

use zerocopy::FromBytes;

use crate::block::View;
use crate::error::{Error, FaultKind, Result};
use crate::layout::jbd2::{
    BlockHeader, BlockTag, COMMIT, DESCRIPTOR, INCOMPAT_64BIT, INCOMPAT_REVOKE, JournalSuperBlock,
    MAGIC, REVOKE, RevokeHeader, SUPERBLOCK_V2, TAG_ESCAPE, TAG_LAST, TAG_SAME_UUID,
};
use crate::layout::{Dinode, InodeFlags, JOURNAL_DIRTY};
use crate::read::extent::Extent;
use crate::units::{BlockNo, index};

/// A journal's place on the device and its superblock.
#[derive(Clone, Debug)]
pub struct Journal {
    /// The journal's inode.
    pub inode: BlockNo,
    /// Whether its slot was not left cleanly.
    pub dirty: bool,
    /// Its superblock.
    pub superblock: JournalSuperBlock,
    extents: Vec<Extent>,
    bpc: u64,
}

impl Journal {
    /// Reads a journal's inode and superblock.
    ///
    /// # Errors
    /// The inode is no journal, or the superblock is not one that this library understands.
    pub fn open(view: View<'_>, blkno: BlockNo) -> Result<Self> {
        let inode = crate::read::inode::read(view, blkno)?;
        let fault =
            |field, value, rule| Error::from(FaultKind::Field { field, value, rule }.at(blkno));
        if !inode.flags().contains(InodeFlags::JOURNAL) {
            return Err(fault(
                "i_flags",
                inode.i_flags.get().into(),
                "the inode is no journal",
            ));
        }
        let extents = inode.extents(view)?;
        let bpc = view.geo().blocks_per_cluster();
        let mut journal = Self {
            inode: blkno,
            dirty: Dinode::journal_flags(&inode) & JOURNAL_DIRTY != 0,
            superblock: JournalSuperBlock::read_from_bytes(&[0; 1024])
                .map_err(|_| fault("i_size", 0, "no room for a journal superblock"))?,
            extents,
            bpc,
        };
        let mut bytes = Vec::with_capacity(1024);
        for logical in 0..1024usize.div_ceil(view.geo().block_bytes()) {
            bytes.extend_from_slice(&view.raw(journal.home(logical as u64)?)?);
        }
        let (superblock, _) = JournalSuperBlock::read_from_prefix(&bytes)
            .map_err(|_| fault("i_size", 0, "no room for a journal superblock"))?;
        let sb = &superblock;
        if sb.h_magic.get() != MAGIC || sb.h_blocktype.get() != SUPERBLOCK_V2 {
            return Err(fault(
                "h_magic",
                sb.h_magic.get().into(),
                "no journal superblock",
            ));
        }
        if sb.s_blocksize.get() as usize != view.geo().block_bytes() {
            let rule = "it must be the block size of the volume";
            return Err(fault("s_blocksize", sb.s_blocksize.get().into(), rule));
        }
        let blocks: u64 = journal
            .extents
            .iter()
            .map(|e| u64::from(e.clusters) * bpc)
            .sum();
        let (first, maxlen) = (sb.s_first.get(), sb.s_maxlen.get());
        if first == 0 || first >= maxlen || u64::from(maxlen) > blocks {
            return Err(fault(
                "s_maxlen",
                maxlen.into(),
                "the log does not fit its file",
            ));
        }
        let start = sb.s_start.get();
        // A clean journal's start means nothing; mkfs.ocfs2 writes 1 even where the log begins at 2.
        if journal.dirty && start != 0 && !(first..maxlen).contains(&start) {
            return Err(fault("s_start", start.into(), "it must lie in the log"));
        }
        journal.superblock = superblock;
        Ok(journal)
    }

    /// Whether the log holds transactions that are not in their homes yet.
    #[must_use]
    pub fn needs_replay(&self) -> bool {
        self.dirty && self.superblock.s_start.get() != 0
    }

    /// The block on the device of a logical block of the journal file.
    ///
    /// # Errors
    /// The file is shorter.
    pub fn home(&self, logical: u64) -> Result<BlockNo> {
        let cpos = logical / self.bpc;
        self.extents
            .iter()
            .find(|e| u64::from(e.cpos) <= cpos && cpos < u64::from(e.end()))
            .map(|e| e.blkno.plus(logical - u64::from(e.cpos) * self.bpc))
            .ok_or_else(|| {
                let rule = "the journal file has no such block";
                FaultKind::Field {
                    field: "i_clusters",
                    value: logical,
                    rule,
                }
                .at(self.inode)
                .into()
            })
    }

    /// Block behind a block of the log, which is a ring.
    #[must_use]
    pub fn next(&self, at: u32) -> u32 {
        if at + 1 >= self.superblock.s_maxlen.get() {
            self.superblock.s_first.get()
        } else {
            at + 1
        }
    }
}

/// The images of a log, and where the log ends.
#[derive(Debug, Default)]
pub struct Pending {
    /// Home block to image, the newest one.
    pub blocks: BTreeMap<BlockNo, Box<[u8]>>,
    /// Number of complete transactions.
    pub transactions: u32,
    /// Transaction id behind the last complete one.
    pub next_sequence: u32,
}

/// What one transaction holds.
#[derive(Default)]
struct Transaction {
    images: Vec<(BlockNo, Box<[u8]>)>,
    revoked: Vec<BlockNo>,
}

/// Reads the complete transactions of a journal that needs replay.
///
/// # Errors
/// The journal has features that this library does not know, or cannot be read.
pub fn pending(view: View<'_>, journal: &Journal) -> Result<Pending> {
    let sb = &journal.superblock;
    let known = INCOMPAT_REVOKE | INCOMPAT_64BIT;
    let (incompat, rest) = (
        sb.s_feature_incompat.get(),
        sb.s_feature_compat.get() | sb.s_feature_ro_compat.get(),
    );
    if incompat & !known != 0 || rest != 0 {
        return Err(Error::Unsupported {
            what: format!(
                "journal in inode {}: feature bits {incompat:#x}",
                journal.inode
            ),
        });
    }
    let mut result = Pending {
        next_sequence: sb.s_sequence.get(),
        ..Pending::default()
    };
    let mut found: Vec<Transaction> = Vec::new();
    let mut at = sb.s_start.get();
    // The log is a ring: it cannot hold more blocks than it has.
    let mut left = sb.s_maxlen.get();
    let mut current = Transaction::default();
    while left > 0 && at != 0 {
        let block = view.raw(journal.home(at.into())?)?;
        let Ok((head, _)) = BlockHeader::ref_from_prefix(&block) else {
            break;
        };
        if head.h_magic.get() != MAGIC || head.h_sequence.get() != result.next_sequence {
            break;
        }
        left -= 1;
        at = journal.next(at);
        match head.h_blocktype.get() {
            DESCRIPTOR => {
                let mut cut = false;
                for (home, flags) in tags(&block, incompat & INCOMPAT_64BIT != 0) {
                    if left == 0 {
                        cut = true;
                        break;
                    }
                    let mut image = view.raw(journal.home(at.into())?)?.into_owned();
                    if flags & TAG_ESCAPE != 0 {
                        image[..4].copy_from_slice(&MAGIC.to_be_bytes());
                    }
                    left -= 1;
                    at = journal.next(at);
                    if !view.geo().contains(home, 1) {
                        let rule = "a transaction names a block outside of the volume";
                        let kind = FaultKind::Field {
                            field: "t_blocknr",
                            value: home.0,
                            rule,
                        };
                        return Err(kind.at(journal.inode).into());
                    }
                    current.images.push((home, image));
                }
                if cut {
                    break;
                }
            }
            REVOKE => current
                .revoked
                .extend(revoked(&block, incompat & INCOMPAT_64BIT != 0)),
            COMMIT => {
                found.push(std::mem::take(&mut current));
                result.next_sequence = result.next_sequence.wrapping_add(1);
                result.transactions += 1;
            }
            _ => break,
        }
    }
    // A revoke in transaction s cancels images of s and of all before it.
    let mut revoked_last: BTreeMap<BlockNo, usize> = BTreeMap::new();
    for (i, transaction) in found.iter().enumerate() {
        revoked_last.extend(transaction.revoked.iter().map(|home| (*home, i)));
    }
    for (i, transaction) in found.into_iter().enumerate() {
        for (home, image) in transaction.images {
            if revoked_last.get(&home).is_none_or(|last| *last < i) {
                result.blocks.insert(home, image);
            }
        }
    }
    Ok(result)
}

/// The tags of a descriptor: home block and flags.
#[must_use]
pub fn tags(block: &[u8], wide: bool) -> Vec<(BlockNo, u16)> {
    let mut found = Vec::new();
    let mut at = size_of::<BlockHeader>();
    while let Some(bytes) = block.get(at..) {
        let Ok((tag, rest)) = BlockTag::ref_from_prefix(bytes) else {
            break;
        };
        let mut home = u64::from(tag.t_blocknr.get());
        at += size_of::<BlockTag>();
        if wide {
            let Some(high) = rest.get(..4) else { break };
            home |= u64::from(u32::from_be_bytes([high[0], high[1], high[2], high[3]])) << 32;
            at += 4;
        }
        let flags = tag.t_flags.get();
        found.push((BlockNo(home), flags));
        if flags & TAG_SAME_UUID == 0 {
            at += 16;
        }
        if flags & TAG_LAST != 0 {
            break;
        }
    }
    found
}

/// The blocks of a revoke record.
#[must_use]
pub fn revoked(block: &[u8], wide: bool) -> Vec<BlockNo> {
    let Ok((head, _)) = RevokeHeader::ref_from_prefix(block) else {
        return Vec::new();
    };
    let end = index(head.r_count.get().into()).min(block.len());
    let bytes = block
        .get(size_of::<RevokeHeader>()..end)
        .unwrap_or_default();
    bytes
        .chunks_exact(if wide { 8 } else { 4 })
        .map(|b| BlockNo(b.iter().fold(0, |n, &b| n << 8 | u64::from(b))))
        .collect()
}
