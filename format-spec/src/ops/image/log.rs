//! Logs that still hold transactions.

use super::Imager;
use crate::layout::jbd2::{
    BlockHeader, COMMIT, DESCRIPTOR, INCOMPAT_64BIT, INCOMPAT_REVOKE, MAGIC, REVOKE, TAG_ESCAPE,
};
use crate::read::journal::Journal;
use crate::read::log;
use crate::volume::JournalState;
use zerocopy::FromBytes;

impl Imager<'_, '_> {
    /// Keeps the transactions of a journal that is to be replayed. Comes after everything else,
    /// because the images in a log are taken from their homes in the image.
    pub(super) fn journal(&self, state: &JournalState) {
        let Ok(journal) = &state.journal else {
            return;
        };
        if journal.needs_replay()
            && let Err(error) = self.log(journal)
        {
            self.leave_out(journal.inode, error);
        }
    }

    fn log(&self, journal: &Journal) -> crate::error::Result<()> {
        let view = self.view;
        let sb = &journal.superblock;
        let incompat = sb.s_feature_incompat.get();
        if incompat & !(INCOMPAT_REVOKE | INCOMPAT_64BIT) != 0 {
            let what = format!("journal in inode {}: bits {incompat:#x}", journal.inode);
            return Err(crate::error::Error::Unsupported { what });
        }
        let mut sequence = sb.s_sequence.get();
        let mut at = sb.s_start.get();
        let mut left = sb.s_maxlen.get();
        while left > 0 {
            let home = journal.home(at.into())?;
            let block = view.raw(home)?;
            let Ok((head, _)) = BlockHeader::ref_from_prefix(&block) else {
                break;
            };
            if head.h_magic.get() != MAGIC || head.h_sequence.get() != sequence {
                break;
            }
            let kind = head.h_blocktype.get();
            if !matches!(kind, DESCRIPTOR | REVOKE | COMMIT) {
                break;
            }
            self.put(home, &block);
            left -= 1;
            at = journal.next(at);
            if kind == COMMIT {
                sequence = sequence.wrapping_add(1);
            }
            if kind != DESCRIPTOR {
                continue;
            }
            for log::Tag {
                home: target,
                flags,
                ..
            } in log::tags(&block, journal.form())
            {
                if left == 0 || !view.geo().contains(target, 1) {
                    return Ok(());
                }
                let mut image = vec![0; view.geo().block_bytes()];
                self.out.read_at(view.geo().byte_of(target), &mut image)?;
                if flags & TAG_ESCAPE != 0
                    && let Some(begin) = image.get_mut(..4)
                {
                    begin.fill(0);
                }
                self.put(journal.home(at.into())?, &image);
                left -= 1;
                at = journal.next(at);
            }
        }
        Ok(())
    }
}
