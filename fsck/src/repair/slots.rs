//! Local allocs and truncate logs: what they hold back is given back. A window or a record that is
//! wrong is dropped; what it had for nothing is then found as such and freed.

use cowfs_format::error::Result;
use cowfs_format::layout::{DINODE_HEAD, Dinode, LocalAlloc, TruncateLog, TruncateRec};
use cowfs_format::units::{BlockNo, low16};
use zerocopy::{FromBytes, FromZeros};

use super::stage::{Stage, cannot};
use crate::catalogue::{AllocProblem, At};

/// Repairs a problem of what a slot holds back.
pub(super) fn repair(stage: &mut Stage<'_, '_>, at: At, problem: &AllocProblem) -> Result<()> {
    use AllocProblem as P;
    let inode = at.inode.ok_or_else(|| cannot("it has no inode"))?;
    match *problem {
        P::LallocSize { expected, .. } => local(stage, inode, |_, head, _| {
            head.la_size = expected.into();
        }),
        P::LallocUsed { expected, .. } => {
            stage.edit::<Dinode>(inode, |inode| inode.id1_low = expected.into())
        }
        P::LallocNzUsed { .. }
        | P::LallocNzBm { .. }
        | P::LallocOverrun { .. }
        | P::LallocBmSize { .. }
        | P::LallocStraddle { .. }
        | P::LallocUsedOverrun { .. }
        | P::LallocRepair { .. } => {
            if !stage.first("window", inode) {
                return Ok(());
            }
            stage.edit::<Dinode>(inode, |inode| {
                inode.id1_low = 0.into();
                inode.id1_high = 0.into();
            })?;
            local(stage, inode, |_, head, bitmap| {
                head.la_bm_off = 0.into();
                bitmap.fill(0);
            })
        }
        P::DeallocCount { expected, .. } => log(stage, inode, |head, _| {
            head.tl_count = low16(expected).into()
        }),
        P::DeallocUsed { .. } => log(stage, inode, |head, recs| {
            head.tl_used = 0.into();
            recs.fill(TruncateRec::new_zeroed());
        }),
        P::TruncateStart { record, .. }
        | P::TruncateWrap { record, .. }
        | P::TruncateRange { record, .. } => log(stage, inode, |_, recs| {
            let index = usize::try_from(record).unwrap_or(usize::MAX);
            if let Some(rec) = recs.get_mut(index) {
                *rec = TruncateRec::new_zeroed();
            }
        }),
        P::TruncateUsed { first, count } | P::TruncateFree { first, count } => {
            log(stage, inode, |head, recs| {
                let used = usize::from(head.tl_used.get()).min(recs.len());
                for rec in &mut recs[..used] {
                    let (start, clusters) = (rec.t_start.get(), rec.t_clusters.get());
                    let meets = start < first.saturating_add(count)
                        && first < start.saturating_add(clusters);
                    if meets {
                        *rec = TruncateRec::new_zeroed();
                    }
                }
            })
        }
        _ => Err(cannot("this version has no repair for it")),
    }
}

fn local(
    stage: &Stage<'_, '_>,
    inode: BlockNo,
    change: impl FnOnce(BlockNo, &mut LocalAlloc, &mut [u8]),
) -> Result<()> {
    stage.edit_bytes::<Dinode>(inode, |bytes| {
        let body = bytes.get_mut(DINODE_HEAD..).unwrap_or_default();
        let (head, bitmap) =
            LocalAlloc::mut_from_prefix(body).map_err(|_| cannot("there is no local alloc"))?;
        change(inode, head, bitmap);
        Ok(())
    })
}

fn log(
    stage: &Stage<'_, '_>,
    inode: BlockNo,
    change: impl FnOnce(&mut TruncateLog, &mut [TruncateRec]),
) -> Result<()> {
    stage.edit_bytes::<Dinode>(inode, |bytes| {
        let body = bytes.get_mut(DINODE_HEAD..).unwrap_or_default();
        let (head, rest) =
            TruncateLog::mut_from_prefix(body).map_err(|_| cannot("there is no truncate log"))?;
        let whole = rest.len() / size_of::<TruncateRec>() * size_of::<TruncateRec>();
        let recs = <[TruncateRec]>::mut_from_bytes(&mut rest[..whole])
            .map_err(|_| cannot("there is no truncate log"))?;
        change(head, recs);
        Ok(())
    })
}
