//! Which blocks are metadata: everything that allocators and inodes lead to.

use super::clean;
use super::names::Plan;
use super::{Imager, locked};
use crate::error::{Error, FaultKind};
use crate::layout::{
    BUCKET_CHECK, DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, DxLeaf, DxRoot, DynFeatures,
    ExtentBlock, FileType, GroupDesc, InodeFlags, RefcountBlock, XattrBlock, jbd2,
};
use crate::read::extent::{self, Extent};
use crate::read::inode::Inode;
use crate::read::xattr::{self, Stored};
use crate::read::{chain, dir, inode};
use crate::units::{BlockNo, Slot};
use crate::volume::scan::Scanner;
use crate::volume::system::{self, SystemFile};

/// A group of a suballocator, and what its blocks are.
struct Group {
    blkno: BlockNo,
    bits_per_cluster: u16,
    inodes: bool,
}

impl<'v> Imager<'v, '_> {
    /// Everything that allocators lead to.
    pub(super) fn allocators(&self, scanner: &Scanner) {
        let mut groups = Vec::new();
        self.chains(SystemFile::GlobalBitmap, &mut |_, _| ());
        let slots = || (0..self.view.info().max_slots).map(Slot);
        let inode_allocs = std::iter::once(SystemFile::GlobalInodeAlloc)
            .chain(slots().map(SystemFile::InodeAlloc));
        for file in inode_allocs {
            self.chains(file, &mut |blkno, bits_per_cluster| {
                groups.push(Group {
                    blkno,
                    bits_per_cluster,
                    inodes: true,
                });
            });
        }
        for file in slots().map(SystemFile::ExtentAlloc) {
            self.chains(file, &mut |blkno, bits_per_cluster| {
                groups.push(Group {
                    blkno,
                    bits_per_cluster,
                    inodes: false,
                });
            });
        }
        scanner.run(&groups, |group| self.group(group), |()| ());
        // Should their allocator be lost, these are known all the same.
        for &blkno in &self.known {
            self.inode(blkno, true);
        }
        for file in self.plain_system_files() {
            if let Ok(blkno) = system::find(self.view, file) {
                self.system_file(blkno);
            }
        }
    }

    /// System files whose contents are metadata.
    fn plain_system_files(&self) -> Vec<SystemFile> {
        let mut files = vec![
            SystemFile::SlotMap,
            SystemFile::Heartbeat,
            SystemFile::UserQuota,
            SystemFile::GroupQuota,
        ];
        for slot in (0..self.view.info().max_slots).map(Slot) {
            files.extend([
                SystemFile::LocalUserQuota(slot),
                SystemFile::LocalGroupQuota(slot),
            ]);
        }
        files
    }

    fn system_file(&self, blkno: BlockNo) {
        let Ok(inode) = inode::read(self.view, blkno) else {
            return;
        };
        if inode.has_extents() {
            let blocks = self.view.geo().blocks_for(inode.i_size.get());
            self.tree(blkno, inode.body(), &mut |extent| {
                self.copy_upto(extent, blocks);
            });
        }
    }

    /// Copies the blocks of an extent that lie among the first `blocks` of their file.
    fn copy_upto(&self, extent: &Extent, blocks: u64) {
        let bpc = self.view.geo().blocks_per_cluster();
        let first = u64::from(extent.cpos) * bpc;
        let count = (u64::from(extent.clusters) * bpc).min(blocks.saturating_sub(first));
        if !extent.is_unwritten() {
            self.copy(extent.blkno, count);
        }
    }

    /// The groups of an allocator; their descriptors are kept.
    fn chains(&self, file: SystemFile, each: &mut dyn FnMut(BlockNo, u16)) {
        let found = system::find(self.view, file)
            .and_then(|blkno| inode::read(self.view, blkno))
            .and_then(|inode| {
                let bits = chain::chains(&inode)?.head.cl_bpc.get();
                Ok((bits, chain::groups(self.view, &inode)?))
            });
        // What is wrong with the inode is seen where it is kept.
        let Ok((bits, steps)) = found else {
            return;
        };
        for step in steps {
            self.keep::<GroupDesc>(step.blkno, |_, _| ());
            if step.group.is_ok() {
                each(step.blkno, bits);
            }
        }
    }

    fn group(&self, group: &Group) {
        let Ok(desc) = self.view.block::<GroupDesc>(group.blkno) else {
            return;
        };
        for bit in 0..u32::from(desc.bg_bits.get()) {
            let Some(blkno) = desc.block_of_bit(bit, group.bits_per_cluster) else {
                continue;
            };
            if blkno == group.blkno {
                continue;
            }
            if group.inodes {
                self.inode(blkno, desc.is_set(bit));
            } else if desc.is_set(bit) {
                self.metadata(blkno);
            }
        }
    }

    /// A block of an allocator of metadata blocks.
    fn metadata(&self, blkno: BlockNo) {
        let mut signature = [0; 8];
        match self.view.raw(blkno) {
            Ok(bytes) => signature.copy_from_slice(bytes.get(..8).unwrap_or(&[0; 8])),
            Err(error) => return self.leave_out(blkno, error),
        }
        match &signature {
            b"EXBLK01\0" => drop(self.keep::<ExtentBlock>(blkno, |_, _| ())),
            b"REFCNT1\0" => drop(self.keep::<RefcountBlock>(blkno, |_, _| ())),
            b"XATTR01\0" => drop(self.xattr_block(blkno)),
            // With scrambling, its directory keeps it.
            b"DXDIR01\0" if !self.scramble => drop(self.keep::<DxRoot>(blkno, |_, _| ())),
            b"DXDIR01\0" => {}
            _ => {
                let kind = FaultKind::Signature {
                    expected: "metadata block",
                    found: signature,
                };
                self.leave_out(blkno, kind.at(blkno));
            }
        }
    }

    /// An inode with all that it leads to; a free one only when one is still there.
    fn inode(&self, blkno: BlockNo, used: bool) {
        let valid = |inode: &Dinode| inode.flags().contains(InodeFlags::VALID);
        if self.known.contains(&blkno) && !locked(&self.seen).insert(blkno) {
            return;
        }
        if !used {
            match self.view.block::<Dinode>(blkno) {
                Ok(inode) if !valid(&inode) => {}
                // A block that was never an inode may have been data.
                _ => return,
            }
        }
        let plan = self.plan(blkno);
        let kept = self.keep::<Dinode>(blkno, |inode, bytes| {
            clean::inode(inode, bytes, self.scramble, used && valid(inode));
            if let Some(plan) = &plan
                && inode.inline_data().is_some()
            {
                let from = crate::layout::DINODE_HEAD + dir::INLINE_HEAD;
                let to = bytes.len() - inode.inline_xattr_bytes();
                if let Some(area) = bytes.get_mut(from..to) {
                    plan.rename(None, area);
                }
            }
        });
        let Some(inode) = kept.filter(|inode| used && valid(inode)) else {
            return;
        };
        self.attributes(&inode);
        self.refcounts(&inode);
        if inode.dyn_features().contains(DynFeatures::INDEXED_DIR) {
            self.index(&inode, plan.as_ref());
        }
        if !inode.has_extents() {
            return;
        }
        let blocks = self.view.geo().blocks_for(inode.i_size.get());
        let journal = inode.flags().contains(InodeFlags::JOURNAL);
        match inode.file_type() {
            Some(FileType::Directory) => self.tree(blkno, inode.body(), &mut |extent| {
                self.directory(&inode, extent, blocks, plan.as_ref());
            }),
            Some(FileType::Symlink) => self.target(&inode),
            _ if journal => self.tree(blkno, inode.body(), &mut |extent| {
                if extent.cpos == 0 {
                    self.journal_superblock(extent.blkno);
                }
            }),
            _ => self.tree(blkno, inode.body(), &mut |_| ()),
        }
    }

    /// The superblock of a journal.
    fn journal_superblock(&self, first: BlockNo) {
        let begins = self.view.raw(first);
        if begins.is_ok_and(|bytes| bytes.starts_with(&jbd2::MAGIC.to_be_bytes())) {
            self.copy(
                first,
                1024_u64.div_ceil(self.view.geo().block_bytes() as u64),
            );
        }
    }

    /// The names that a directory of users gets, with scrambling.
    fn plan(&self, blkno: BlockNo) -> Option<Plan> {
        if !self.scramble {
            return None;
        }
        let inode = inode::read(self.view, blkno).ok()?;
        let root = self.view.info().root;
        let system = inode.flags().contains(InodeFlags::SYSTEM) && blkno != root;
        if system || inode.file_type() != Some(FileType::Directory) {
            return None;
        }
        let plan = Plan::of(self.view, &inode);
        self.count(plan.scrambled, plan.kept);
        Some(plan)
    }

    fn directory(&self, inode: &Inode<'_>, extent: &Extent, blocks: u64, plan: Option<&Plan>) {
        let view = self.view;
        let with_trailer = dir::has_trailer(view, inode);
        let bpc = view.geo().blocks_per_cluster();
        let first = u64::from(extent.cpos) * bpc;
        let count = (u64::from(extent.clusters) * bpc).min(blocks.saturating_sub(first));
        for blkno in (0..count).map(|i| extent.blkno.plus(i)) {
            match view.dir_block(blkno, inode.blkno(), with_trailer) {
                Ok((block, state)) => {
                    let end = block.len() - if with_trailer { DIR_TRAILER } else { 0 };
                    if dir::entries(&block[..end])
                        .next()
                        .is_none_or(|e| e.is_err())
                    {
                        // Nothing else says that this is a directory's block.
                        let rule = "no entry of a directory";
                        let kind = FaultKind::Field {
                            field: "rec_len",
                            value: 0,
                            rule,
                        };
                        self.leave_out(blkno, kind.at(blkno));
                        continue;
                    }
                    let mut bytes = block.to_vec();
                    if let Some(plan) = plan {
                        plan.rename(Some(blkno), &mut bytes[..end]);
                    }
                    let check_at = block.len() - crate::ecc::CHECK_BYTES;
                    self.put_stamped(blkno, bytes, &block, (check_at, state));
                }
                Err(error) => self.bad_directory_block(blkno, error),
            }
        }
    }

    /// A directory block with a fault is kept when its trailer at least is one.
    fn bad_directory_block(&self, blkno: BlockNo, error: Error) {
        if let Ok(bytes) = self.view.raw(blkno) {
            let at = bytes.len().saturating_sub(DIR_TRAILER) + 0x10;
            let trailer = bytes.get(at..at + 8) == Some(&DIR_TRAILER_SIGNATURE[..]);
            if trailer && !self.scramble {
                return self.put(blkno, &bytes);
            }
        }
        self.leave_out(blkno, error);
    }

    fn index(&self, inode: &Inode<'_>, plan: Option<&Plan>) {
        let rename = |bytes: &mut [u8], at: usize| {
            if let (Some(plan), Some(list)) = (plan, bytes.get_mut(at..)) {
                plan.reindex(list);
            }
        };
        let root = self.keep::<DxRoot>(BlockNo(inode.i_dx_root.get()), |root, bytes| {
            if root.is_inline() {
                rename(bytes, crate::layout::DX_ROOT_BODY);
            }
        });
        let Some(root) = root.filter(|root| !root.is_inline()) else {
            return;
        };
        let bpc = self.view.geo().blocks_per_cluster();
        self.tree(root.blkno(), root.body(), &mut |extent| {
            for i in 0..u64::from(extent.clusters) * bpc {
                self.keep::<DxLeaf>(extent.blkno.plus(i), |_, bytes| {
                    rename(bytes, crate::layout::DX_LEAF_LIST);
                });
            }
        });
    }

    /// The blocks of a symlink's target.
    fn target(&self, inode: &Inode<'_>) {
        let block = self.view.geo().block_bytes() as u64;
        let bpc = self.view.geo().blocks_per_cluster();
        let size = inode.i_size.get();
        self.tree(inode.blkno(), inode.body(), &mut |extent| {
            let first = u64::from(extent.cpos) * bpc;
            for i in 0..u64::from(extent.clusters) * bpc {
                let left = size.saturating_sub((first + i) * block).min(block);
                let blkno = extent.blkno.plus(i);
                if left == 0 {
                    break;
                }
                let Ok(bytes) = self.view.raw(blkno) else {
                    continue;
                };
                let mut bytes = bytes.to_vec();
                let (target, rest) = bytes.split_at_mut(crate::units::index(left));
                rest.fill(0);
                if self.scramble {
                    clean::target(target, inode.blkno().0 ^ i << 48);
                }
                self.put(blkno, &bytes);
            }
        });
    }

    fn xattr_block(&self, blkno: BlockNo) -> Option<crate::block::Checked<'v, XattrBlock>> {
        self.keep::<XattrBlock>(blkno, |block, bytes| {
            if self.scramble
                && !xattr::is_indexed(block)
                && let Some(area) = bytes.get_mut(crate::layout::XATTR_BLOCK_BODY..)
            {
                clean::xattrs(area);
            }
        })
    }

    /// The attributes that stand outside of the inode.
    fn attributes(&self, inode: &Inode<'_>) {
        if inode.i_xattr_loc.get() != 0
            && let Some(block) = self.xattr_block(BlockNo(inode.i_xattr_loc.get()))
            && xattr::is_indexed(&block)
        {
            self.tree(block.blkno(), xattr::tree_list(&block), &mut |extent| {
                for first in xattr::buckets(self.view, extent).unwrap_or_default() {
                    self.bucket(first);
                }
            });
        }
        xattr::for_each_area(self.view, inode, &mut |area| {
            if let Ok((place, bytes)) = area {
                for entry in xattr::entries(bytes).flatten() {
                    let Stored::Outside(_, list) = entry.value else {
                        continue;
                    };
                    let size = entry.entry.xe_value_size.get().min(xattr::VALUE_MAX);
                    let blocks = self.view.geo().blocks_for(size);
                    self.tree(place.blkno(), list, &mut |extent| {
                        if !self.scramble {
                            self.copy_upto(extent, blocks);
                        }
                    });
                }
            }
            std::ops::ControlFlow::Continue(())
        });
    }

    fn bucket(&self, first: BlockNo) {
        match xattr::bucket(self.view, first) {
            Ok((area, state)) => {
                let mut bytes = area.to_vec();
                if self.scramble {
                    clean::xattrs(&mut bytes);
                }
                self.put_stamped(first, bytes, &area, (BUCKET_CHECK, state));
            }
            // Without a signature nothing says that this is a bucket.
            Err(error) => self.leave_out(first, error),
        }
    }

    /// The refcount tree of an inode, once.
    fn refcounts(&self, inode: &Inode<'_>) {
        let at = BlockNo(inode.i_refcount_loc.get());
        if at.0 == 0 || !locked(&self.seen).insert(at) {
            return;
        }
        let Some(root) = self.keep::<RefcountBlock>(at, |_, _| ()) else {
            return;
        };
        if !root.is_tree() {
            return;
        }
        // The leaves of this tree are single blocks, whatever their records count.
        let mut leaves: Vec<extent::Extent> = Vec::new();
        self.tree(at, root.body(), &mut |extent| leaves.push(*extent));
        for leaf in leaves {
            self.keep::<RefcountBlock>(leaf.blkno, |_, _| ());
        }
    }
}
