//! Making one refcount tree of two.
//!
//! A cluster is counted in one tree, and all files that map it belong to that tree. Two files of
//! different trees can therefore share nothing until their trees are one: everything that one of
//! them counts is counted in the other, and every inode that belonged to it is led there.

use crate::error::{FaultKind, Result};
use crate::layout::{Dinode, DynFeatures, RefcountBlock};
use crate::read::holdings::{self, Purpose};
use crate::read::refcount;
use crate::txn::{Adjust, Txn};
use crate::units::{BlockNo, low32};

impl Txn<'_> {
    /// Moves all that the tree `from` counts, and all its `members`, to the tree `into`; `from` is
    /// gone then.
    ///
    /// # Errors
    /// The members are not those that the tree counts, the volume is full, or a block cannot be
    /// used.
    pub(crate) fn merge_refcount(
        &mut self,
        from: BlockNo,
        into: BlockNo,
        members: &[BlockNo],
    ) -> Result<()> {
        let attached = self.view().block::<RefcountBlock>(from)?.rf_count.get();
        if members.len() as u64 != u64::from(attached) || from == into {
            let rule = "another number of inodes belongs to the tree";
            let (field, value) = ("rf_count", attached.into());
            return Err(FaultKind::Field { field, value, rule }.at(from).into());
        }
        let counted: Vec<Adjust> = refcount::records(self.view(), from)?
            .iter()
            .map(|rec| Adjust {
                first: rec.r_cpos.get(),
                clusters: rec.r_clusters.get(),
                delta: rec.r_refcount.get().into(),
            })
            .collect();
        for inode in members {
            let mut dinode = self.edit::<Dinode>(*inode)?;
            let belongs = dinode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
            if !belongs || dinode.i_refcount_loc.get() != from.0 {
                let rule = "the inode belongs to another tree";
                let (field, value) = ("i_refcount_loc", dinode.i_refcount_loc.get());
                return Err(FaultKind::Field { field, value, rule }.at(*inode).into());
            }
            dinode.i_refcount_loc = into.0.into();
        }
        let mut root = self.edit::<RefcountBlock>(into)?;
        let count = u64::from(root.rf_count.get()) + u64::from(attached);
        root.rf_count = low32(count).into();
        self.refcount_adjust(into, &super::summed(&counted))?;

        let (mut blocks, mut failed) = (Vec::new(), None);
        holdings::for_each_tree_block(self.view(), from, &mut |run| match run {
            Ok(run) => blocks.push((run.purpose, run.blkno)),
            Err(error) => failed = Some(error),
        });
        if let Some(error) = failed {
            return Err(error);
        }
        for (purpose, blkno) in blocks {
            match purpose {
                Purpose::RefcountExtent => self.free_extent_block(Some(blkno))?,
                _ => self.free_refcount_block(blkno)?,
            }
        }
        Ok(())
    }
}
