//! The checks of the blocks of quota files. What stands in them is another matter.

use cowfs_format::read::extent;
use cowfs_format::units::Slot;
use cowfs_format::volume::system::SystemFile;

use super::system::System;
use crate::catalogue::{At, VolumeProblem};
use crate::facts::{Cx, Out, note_ecc};

/// Looks at all blocks of all quota files.
pub(crate) fn scan(cx: &Cx<'_>, system: &System, out: &mut Out) {
    if !cx.view.has_ecc() {
        return;
    }
    let slots = (0..cx.view.info().max_slots).map(Slot);
    let local = slots.flat_map(|slot| {
        [
            SystemFile::LocalUserQuota(slot),
            SystemFile::LocalGroupQuota(slot),
        ]
    });
    for file in [SystemFile::UserQuota, SystemFile::GroupQuota]
        .into_iter()
        .chain(local)
    {
        file_blocks(cx, system, out, file);
    }
}

fn file_blocks(cx: &Cx<'_>, system: &System, out: &mut Out, file: SystemFile) {
    let Some(inode) = system
        .inode(cx.view, file)
        .filter(|inode| inode.has_extents())
    else {
        return;
    };
    let what = "quota block";
    let geo = cx.view.geo();
    let blocks = geo.blocks_for(inode.i_size.get());
    let (extents, _) = extent::salvage(cx.view, inode.blkno(), inode.body());
    for extent in extents {
        let first = u64::from(extent.cpos) * geo.blocks_per_cluster();
        let count = u64::from(extent.clusters) * geo.blocks_per_cluster();
        for i in 0..count.min(blocks.saturating_sub(first)) {
            let blkno = extent.blkno.plus(i);
            let at = At::within(inode.blkno(), blkno);
            match cx.view.quota_block(blkno) {
                Ok((_, Some(state))) => note_ecc(out, at, what, state),
                Ok((_, None)) => out.find(at, VolumeProblem::BadCrc { what }),
                Err(_) => out.find(at, VolumeProblem::Unreadable { what }),
            }
        }
    }
}
