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
    BlockHeader, COMMIT, DESCRIPTOR, INCOMPAT_64BIT, INCOMPAT_ASYNC_COMMIT, INCOMPAT_CSUM_V2,
    INCOMPAT_CSUM_V3, INCOMPAT_REVOKE, JournalSuperBlock, LogForm, MAGIC, REVOKE, SUPERBLOCK_V2,
    TAG_ESCAPE,
};
use crate::layout::{Dinode, InodeFlags, JOURNAL_DIRTY};
use crate::read::extent::Extent;
use crate::read::log::{self, Sums};
use crate::units::BlockNo;

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

    /// Whether a block on the device is part of the journal file.
    #[must_use]
    pub fn contains(&self, blkno: BlockNo) -> bool {
        self.extents.iter().any(|e| {
            let blocks = u64::from(e.clusters).saturating_mul(self.bpc);
            e.blkno <= blkno && blkno.0 - e.blkno.0 < blocks
        })
    }

    /// How the records of its log are laid out.
    #[must_use]
    pub const fn form(&self) -> LogForm {
        LogForm::of(self.superblock.s_feature_incompat.get())
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
    let sums = INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3;
    // Asynchronous commits differ in when they are written, not in what they are.
    let known = INCOMPAT_REVOKE | INCOMPAT_64BIT | INCOMPAT_ASYNC_COMMIT | sums;
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
    let form = journal.form();
    let sums = Sums::of(sb);
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
        // A record that was not wholly written ends the log.
        if sums.record(&block, head.h_blocktype.get()) == Some(false) {
            break;
        }
        match head.h_blocktype.get() {
            DESCRIPTOR => {
                let mut cut = false;
                for tag in log::tags(&block, form) {
                    let home = tag.home;
                    if left == 0 {
                        cut = true;
                        break;
                    }
                    let mut image = view.raw(journal.home(at.into())?)?.into_owned();
                    if !sums.image(&tag, result.next_sequence, &image) {
                        let rule = "the image of this block in the log fails its checksum";
                        let (field, value) = ("t_checksum", home.0);
                        let kind = FaultKind::Field { field, value, rule };
                        return Err(kind.at(journal.inode).into());
                    }
                    if tag.flags & TAG_ESCAPE != 0 {
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
            REVOKE => current.revoked.extend(log::revoked(&block, form)),
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
