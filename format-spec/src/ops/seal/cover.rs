//! Which blocks a seal protects: everything that allocators and inodes lead to, but logs,
//! heartbeats and the seal itself.

use super::list::{Guard, Span};
use crate::block::View;
use crate::error::Result;
use crate::layout::{
    FileType, InodeFlags, SEAL_NAME, SUPER_BLOCK_BLKNO, SUPER_BLOCK_SIGNATURE, XATTR_BUCKET,
};
use crate::read::holdings::{self, Purpose, Run};
use crate::read::inode::Inode;
use crate::read::{dir, inode};
use crate::units::BlockNo;
use crate::volume::inodes;
use crate::volume::scan::Scanner;
use crate::volume::system::{self, SystemFile};

/// The blocks to be protected, in order, none of them twice; with `data` what files hold, too.
///
/// # Errors
/// A part of the volume is damaged: a seal over it would keep the damage.
pub(super) fn cover(view: View<'_>, scanner: &Scanner, data: bool) -> Result<Vec<Span>> {
    let walk = Cover {
        view,
        data,
        slot_map: system::find(view, SystemFile::SlotMap)?,
        seal: find_seal(view)?,
    };
    let mut spans = walk.fixed()?;
    let (groups, failed) = inodes::groups(view);
    let mut failed = failed.into_iter().next();
    let look = |group: &inodes::InodeGroup| {
        let (mut found, mut error) = (Vec::new(), None);
        inodes::for_each_inode(view, *group, |_, _| false, &mut |_, inode| match inode {
            Ok(inode) => walk.inode(&inode, &mut found, &mut error),
            Err(e) => error = error.take().or(Some(e)),
        });
        (in_order(found), error)
    };
    scanner.run(&groups, look, |(found, error)| {
        spans.extend(found);
        if failed.is_none() {
            failed = error;
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(in_order(spans)),
    }
}

/// The inode of the seal of a volume, if it has one inside.
///
/// # Errors
/// The system directory is damaged.
pub fn find_seal(view: View<'_>) -> Result<Option<BlockNo>> {
    let directory = inode::read(view, view.info().system_dir)?;
    dir::lookup(view, &directory, SEAL_NAME)
}

/// Sorts spans, takes blocks out that come a second time, and joins what follows each other.
pub(super) fn in_order(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| (span.first, span.guard, span.owner, span.len));
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        let Some(last) = out.last_mut() else {
            out.push(span);
            continue;
        };
        let span = span.part(last.end().since(span.first), u64::MAX);
        if span.len == 0 {
            continue;
        }
        let same = (last.guard, last.owner) == (span.guard, span.owner);
        if same && last.end() == span.first {
            last.len += span.len;
        } else {
            out.push(span);
        }
    }
    out
}

struct Cover<'v> {
    view: View<'v>,
    data: bool,
    slot_map: BlockNo,
    seal: Option<BlockNo>,
}

impl Cover<'_> {
    /// What lies at places that the format fixes. The descriptors of the cluster groups come with the
    /// inode of their allocator.
    fn fixed(&self) -> Result<Vec<Span>> {
        let geo = self.view.geo();
        let span = |first, len, guard| Span {
            first: BlockNo(first),
            len,
            guard,
            owner: None,
        };
        let mut spans = vec![
            span(0, SUPER_BLOCK_BLKNO, Guard::Fixed),
            span(SUPER_BLOCK_BLKNO, 1, Guard::Signed),
        ];
        for offset in geo.backup_offsets() {
            let blkno = BlockNo(offset >> geo.block_bits());
            if self.view.raw(blkno)?.starts_with(&SUPER_BLOCK_SIGNATURE) {
                spans.push(span(blkno.0, 1, Guard::Signed));
            }
        }
        Ok(spans)
    }

    fn inode(
        &self,
        inode: &Inode<'_>,
        found: &mut Vec<Span>,
        failed: &mut Option<crate::error::Error>,
    ) {
        let owner = inode.blkno();
        holdings::for_each_run(self.view, inode, &mut |run| match run {
            Err(error) => *failed = failed.take().or(Some(error)),
            Ok(run) => {
                let (guard, owned) = match run.purpose {
                    Purpose::Inode
                    | Purpose::ExtentBlock
                    | Purpose::IndexRoot
                    | Purpose::XattrBlock
                    | Purpose::RefcountRoot
                    | Purpose::RefcountLeaf
                    | Purpose::RefcountExtent
                    | Purpose::GroupDescriptor => (Guard::Signed, false),
                    Purpose::IndexLeaf => (Guard::Signed, true),
                    Purpose::XattrBucket => (self.bucket(), true),
                    Purpose::XattrValue => (Guard::Plain, true),
                    Purpose::Data => return self.contents(inode, &run, found),
                    Purpose::Group | Purpose::Window | Purpose::Truncated => return,
                };
                found.push(Span {
                    first: run.blkno,
                    len: run.blocks,
                    guard,
                    owner: owned.then_some(owner),
                });
            }
        });
    }

    /// A bucket has one check over all of its blocks, which tells of one block only where it is one.
    const fn bucket(&self) -> Guard {
        if self.view.has_ecc() && self.view.geo().block_bytes() == XATTR_BUCKET {
            Guard::Bucket
        } else {
            Guard::Plain
        }
    }

    /// What an inode's extent tree maps.
    fn contents(&self, inode: &Inode<'_>, run: &Run, found: &mut Vec<Span>) {
        let owner = inode.blkno();
        if Some(owner) == self.seal || run.flags.contains(crate::layout::ExtentFlags::UNWRITTEN) {
            return;
        }
        let offset = run.offset.unwrap_or(0);
        let in_size = self.view.geo().blocks_for(inode.i_size.get());
        let upto = |end: u64| run.blocks.min(end.saturating_sub(offset));
        let flags = inode.flags();
        let is_system = flags.contains(InodeFlags::SYSTEM);
        let mut add = |first: u64, len: u64, guard, owned: bool| {
            if len > 0 {
                found.push(Span {
                    first: run.blkno.plus(first),
                    len,
                    guard,
                    owner: owned.then_some(owner),
                });
            }
        };
        match inode.file_type() {
            _ if flags.contains(InodeFlags::JOURNAL) => {
                // Its superblock only; the log is written over and over.
                add(0, upto(1), Guard::Journal, false);
                let more = 1024_u64.div_ceil(self.view.geo().block_bytes() as u64);
                if offset == 0 && upto(more) > 1 {
                    add(1, upto(more) - 1, Guard::Fixed, false);
                }
            }
            _ if flags.contains(InodeFlags::HEARTBEAT) => {}
            _ if flags.contains(InodeFlags::QUOTA) => add(0, upto(in_size), Guard::Quota, false),
            _ if owner == self.slot_map => add(0, upto(in_size), Guard::Slots, false),
            Some(FileType::Directory) => {
                let guard = match dir::has_trailer(self.view, inode) {
                    true => Guard::Trailer,
                    false => Guard::Plain,
                };
                add(0, upto(in_size), guard, true);
            }
            Some(FileType::Symlink) => add(0, upto(in_size), Guard::Plain, true),
            _ if self.data && !is_system => add(0, upto(in_size), Guard::Plain, true),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_block_is_there_once(
            raw in proptest::collection::vec((0u64..60, 1u64..9, any::<bool>()), 0..30),
        ) {
            let spans: Vec<Span> = raw.iter().map(|(first, len, plain)| Span {
                first: BlockNo(*first),
                len: *len,
                guard: if *plain { Guard::Plain } else { Guard::Signed },
                owner: None,
            }).collect();
            let wanted: BTreeSet<u64> =
                spans.iter().flat_map(|span| span.first.0..span.end().0).collect();
            let out = in_order(spans);
            let flat: Vec<u64> = out.iter().flat_map(|span| span.first.0..span.end().0).collect();
            prop_assert!(flat.iter().copied().eq(wanted));
        }
    }
}
