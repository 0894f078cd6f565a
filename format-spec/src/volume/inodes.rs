//! All inodes of a volume, by its inode allocators.
//!
//! What directories do not reach is found as well. The work items are the allocators' groups; see
//! [`crate::volume::scan`] for how they are shared out.

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{Dinode, GroupDesc, InodeFlags};
use crate::read::chain;
use crate::read::inode::{self, Inode};
use crate::units::{BlockNo, Slot};
use crate::volume::scan::Scanner;
use crate::volume::system::{self, SystemFile};

/// A group of inodes.
#[derive(Clone, Copy, Debug)]
pub struct InodeGroup {
    /// Its descriptor.
    pub blkno: BlockNo,
    /// Bits of a cluster.
    pub bits_per_cluster: u16,
}

/// The groups of all inode allocators, and what could not be read of them.
#[must_use]
pub fn groups(view: View<'_>) -> (Vec<InodeGroup>, Vec<Error>) {
    let slots = (0..view.info().max_slots).map(|slot| SystemFile::InodeAlloc(Slot(slot)));
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for file in std::iter::once(SystemFile::GlobalInodeAlloc).chain(slots) {
        if let Err(error) = groups_of(view, file, &mut found, &mut failed) {
            failed.push(error);
        }
    }
    (found, failed)
}

fn groups_of(
    view: View<'_>,
    file: SystemFile,
    found: &mut Vec<InodeGroup>,
    failed: &mut Vec<Error>,
) -> Result<()> {
    let inode = inode::read(view, system::find(view, file)?)?;
    let bits_per_cluster = chain::chains(&inode)?.head.cl_bpc.get();
    for step in chain::groups(view, &inode)? {
        match step.group {
            Ok(group) => found.push(InodeGroup {
                blkno: group.blkno(),
                bits_per_cluster,
            }),
            Err(error) => failed.push(error),
        }
    }
    Ok(())
}

/// Calls `visit` for each inode in use of a group, and for each block of the group that should be
/// an inode and is none. A block that is marked in use while its inode is deleted is left out, and
/// so is one whose head lets `skip` pass it over.
pub fn for_each_inode<'v>(
    view: View<'v>,
    group: InodeGroup,
    skip: impl Fn(&Dinode, &[u8]) -> bool,
    visit: &mut dyn FnMut(BlockNo, Result<Inode<'v>>),
) {
    let desc = match view.block::<GroupDesc>(group.blkno) {
        Ok(desc) => desc,
        Err(error) => return visit(group.blkno, Err(error)),
    };
    view.prefetch(group.blkno, u64::from(desc.bg_bits.get()));
    for bit in 0..u32::from(desc.bg_bits.get()) {
        if !desc.is_set(bit) {
            continue;
        }
        let Some(blkno) = desc.block_of_bit(bit, group.bits_per_cluster) else {
            continue;
        };
        if blkno == group.blkno || view.peek(blkno, &skip) == Some(true) {
            continue;
        }
        match view.block::<Dinode>(blkno) {
            Ok(inode) if !inode.flags().contains(InodeFlags::VALID) => {}
            inode => visit(blkno, inode),
        }
    }
}

/// What `work` makes of each inode, in the order of the groups and blocks, and what could not be
/// read.
pub fn collect<'v, T: Send>(
    scanner: &Scanner,
    view: View<'v>,
    work: impl Fn(&Inode<'v>, &mut Vec<T>, &mut Vec<Error>) + Sync,
) -> (Vec<T>, Vec<Error>) {
    collect_but(scanner, view, |_, _| false, work)
}

/// As [`collect`], without the inodes that `skip` passes over by their heads. These are not tested
/// against their checks, which is most of the work of reading an inode: `skip` must not rely on a
/// single field.
pub fn collect_but<'v, T: Send>(
    scanner: &Scanner,
    view: View<'v>,
    skip: impl Fn(&Dinode, &[u8]) -> bool + Sync,
    work: impl Fn(&Inode<'v>, &mut Vec<T>, &mut Vec<Error>) + Sync,
) -> (Vec<T>, Vec<Error>) {
    let (groups, mut failed) = groups(view);
    let mut found = Vec::new();
    let look = |group: &InodeGroup| {
        let (mut part, mut faults) = (Vec::new(), Vec::new());
        for_each_inode(view, *group, &skip, &mut |_, inode| match inode {
            Ok(inode) => work(&inode, &mut part, &mut faults),
            Err(error) => faults.push(error),
        });
        (part, faults)
    };
    scanner.run(&groups, look, |(part, faults)| {
        found.extend(part);
        failed.extend(faults);
    });
    (found, failed)
}
