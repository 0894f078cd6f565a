//! The blocks of a new volume as bytes.
//!
//! Each function here makes one block from the plan; none of them decides anything.

use cowfs_format::ecc;
use cowfs_format::layout::{
    BlockCheck, ChainList, ChainRec, DINODE_HEAD, DISCONTIG_BITMAP_BYTES, DX_INLINE, DX_ROOT_BODY,
    Dinode, DxEntry, DxEntryList, DxRoot, DynFeatures, EXTENT_BLOCK_LIST, ExtentBlock, ExtentFlags,
    ExtentList, ExtentRec, GROUP_BITMAP, GroupDesc, HashKind, Incompat, InlineData, InodeFlags,
    LocalAlloc, SUPER_BLOCK_BLKNO, SUPER_BLOCK_SIGNATURE, SuperBlock, TruncateLog, dx_hash,
};
use cowfs_format::units::{BlockNo, Slot, low16, low32};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::dirs::{self, Directory};
use crate::files::{Chain, Place, SubAlloc, Tree, block_extents, chain_capacity, inode_extents};
use crate::plan::{Kind, Plan, SystemFile};
use crate::sizes::suballoc_group_clusters;
use crate::space::Run;

/// Offset of the check in an inode.
const INODE_CHECK: usize = 0x80;
/// Offset of the check in a group descriptor.
const GROUP_CHECK: usize = 0x30;
/// Offset of the check in extent blocks and roots of directory indexes.
const EXTENT_CHECK: usize = 0x08;
/// Bytes of inline xattrs that inodes reserve.
const XATTR_INLINE_BYTES: u16 = 256;

/// Copies a structure into a block.
pub(crate) fn put<T: IntoBytes + Immutable>(block: &mut [u8], at: usize, value: &T) {
    let bytes = value.as_bytes();
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Plan {
    fn empty(&self) -> Vec<u8> {
        vec![0; self.geo.block_bytes()]
    }

    /// Puts the check into a block, on volumes that have checks.
    pub(crate) fn stamp(&self, mut block: Vec<u8>, check_at: usize) -> Vec<u8> {
        if self.ecc() {
            ecc::stamp(&mut block, check_at);
        }
        block
    }

    /// The head of an inode of the global inode allocator.
    fn dinode(&self, block: BlockNo, bit: u16, mode: u16, flags: InodeFlags) -> Dinode {
        let mut inode = Dinode::new_zeroed();
        inode.i_signature = *b"INODE01\0";
        inode.i_generation = self.entropy.generation.into();
        inode.i_fs_generation = self.entropy.generation.into();
        inode.i_suballoc_slot = Slot::GLOBAL.0.into();
        inode.i_suballoc_bit = bit.into();
        inode.i_blkno = block.0.into();
        inode.i_mode = mode.into();
        inode.i_flags = (InodeFlags::VALID | InodeFlags::SYSTEM | flags)
            .bits()
            .into();
        inode.i_atime = self.time.into();
        inode.i_ctime = self.time.into();
        inode.i_mtime = self.time.into();
        inode.set_links(1);
        inode
    }

    /// The superblock, or the backup of it at another block.
    pub(crate) fn superblock(&self, at: BlockNo) -> Vec<u8> {
        let mut inode = self.dinode(at, u16::MAX, 0, InodeFlags::SUPER_BLOCK);
        inode.i_signature = SUPER_BLOCK_SIGNATURE;
        inode.i_atime = 0.into();
        inode.i_clusters = self.geo.clusters().into();
        inode.set_links(0);
        let mut sb = SuperBlock::new_zeroed();
        sb.s_minor_rev_level = 90.into();
        sb.s_max_mnt_count = 20.into();
        sb.s_lastcheck = self.time.into();
        sb.s_feature_compat = self.features.compat.bits().into();
        sb.s_feature_incompat = self.features.incompat.bits().into();
        sb.s_feature_ro_compat = self.features.ro_compat.bits().into();
        sb.s_root_blkno = self.root.place.block.0.into();
        sb.s_system_dir_blkno = self.system_dir.place.block.0.into();
        sb.s_blocksize_bits = self.geo.block_bits().into();
        sb.s_clustersize_bits = self.geo.cluster_bits().into();
        sb.s_max_slots = self.slots.into();
        sb.s_uuid_hash = self.uuid_hash.into();
        sb.s_first_cluster_group = self.geo.group_block(0).0.into();
        pad(&mut sb.s_label, self.label.as_bytes());
        sb.s_uuid = self.uuid;
        if let Some(cluster) = &self.cluster {
            sb.ci_stack = cluster.stack;
            sb.ci_stackflags = u8::from(cluster.global_heartbeat);
            pad(&mut sb.ci_cluster, cluster.name.as_bytes());
        }
        if self.features.has(Incompat::XATTR) {
            sb.s_xattr_inline_size = XATTR_INLINE_BYTES.into();
        }
        let [a, b, c] = self.entropy.dx_seed;
        sb.s_dx_seed0 = a.into();
        sb.s_dx_seed1 = b.into();
        sb.s_dx_seed2 = c.into();
        let mut block = self.empty();
        put(&mut block, 0, &inode);
        put(&mut block, DINODE_HEAD, &sb);
        self.stamp(block, INODE_CHECK)
    }

    /// The primary superblock.
    pub(crate) fn primary(&self) -> Vec<u8> {
        self.superblock(BlockNo(SUPER_BLOCK_BLKNO))
    }

    /// Blocks 0 and 1, which make drivers of the older OCFS refuse the volume.
    pub(crate) fn leading_blocks(&self) -> Vec<u8> {
        const TEXT: &[u8] = b"this is an ocfs2 volume\0";
        let mut blocks = vec![2; 2 * self.geo.block_bytes()];
        // Signature and mount point in the first sector, label and cluster name in the second.
        for at in [0x8, 0x88, 512 + 0x30, 512 + 0x84] {
            blocks[at..at + TEXT.len()].copy_from_slice(TEXT);
        }
        blocks
    }

    /// The inode of a system file.
    pub(crate) fn system_inode(&self, file: &SystemFile) -> Vec<u8> {
        let place = self.system_block(file.bit);
        if let Some(dir) = &file.dir {
            return self.directory_inode(dir, InodeFlags::SYSTEM);
        }
        let flags = match file.kind {
            Kind::GlobalInodeAlloc | Kind::GlobalBitmap | Kind::ExtentAlloc | Kind::InodeAlloc => {
                InodeFlags::BITMAP | InodeFlags::CHAIN
            }
            Kind::Heartbeat => InodeFlags::HEARTBEAT,
            Kind::GlobalQuota(_) | Kind::LocalQuota(_) => InodeFlags::QUOTA,
            Kind::Journal => InodeFlags::JOURNAL,
            Kind::LocalAlloc => InodeFlags::BITMAP | InodeFlags::LOCAL_ALLOC,
            Kind::TruncateLog => InodeFlags::DEALLOC,
            Kind::BadBlocks | Kind::SlotMap | Kind::OrphanDir => InodeFlags::empty(),
        };
        let mut inode = self.dinode(place, file.bit, 0o100_644, flags);
        inode.i_size = file.size.into();
        let mut block = self.empty();
        match file.kind {
            Kind::GlobalBitmap => self.bitmap_body(&mut inode, &mut block),
            Kind::GlobalInodeAlloc => self.inode_group_body(&mut inode, &mut block),
            Kind::ExtentAlloc | Kind::InodeAlloc => {
                if let Some(alloc) = &file.alloc {
                    self.suballoc_body(&mut inode, &mut block, alloc);
                }
            }
            Kind::LocalAlloc => {
                let mut local = LocalAlloc::new_zeroed();
                local.la_size = low16((self.geo.block_bytes() - 0xD0) as u64).into();
                put(&mut block, DINODE_HEAD, &local);
            }
            Kind::TruncateLog => {
                let mut log = TruncateLog::new_zeroed();
                log.tl_count = low16(((self.geo.block_bytes() - 0xC8) / 8) as u64).into();
                put(&mut block, DINODE_HEAD, &log);
            }
            _ => self.extent_body(&mut inode, &mut block, &file.tree),
        }
        put(&mut block, 0, &inode);
        self.stamp(block, INODE_CHECK)
    }

    /// The inode of a directory.
    pub(crate) fn directory_inode(&self, dir: &Directory, flags: InodeFlags) -> Vec<u8> {
        let mut inode = self.dinode(dir.place.block, dir.place.bit, 0o040_755, flags);
        inode.set_links(dir.links());
        let mut block = self.empty();
        if dir.tree.extents.is_empty() {
            let len = dirs::inline_bytes(&self.geo);
            let mut head = InlineData::new_zeroed();
            head.id_count = low16(len as u64).into();
            put(&mut block, DINODE_HEAD, &head);
            if let Some((area, _)) = dir.pack(len).first() {
                block[DINODE_HEAD + 8..].copy_from_slice(area);
            }
            inode.i_size = (len as u64).into();
            inode.i_dyn_features = DynFeatures::INLINE_DATA.bits().into();
        } else {
            let blocks = dir.pack(self.dir_area()).len() as u64;
            inode.i_size = (blocks << self.geo.block_bits()).into();
            self.extent_body(&mut inode, &mut block, &dir.tree);
            if let Some(index) = &dir.index {
                inode.i_dyn_features = DynFeatures::INDEXED_DIR.bits().into();
                inode.i_dx_root = index.block.0.into();
            }
        }
        put(&mut block, 0, &inode);
        self.stamp(block, INODE_CHECK)
    }

    /// The inode of `lost+found`, which belongs to the inode allocator of slot 0.
    pub(crate) fn lost_found_inode(&self) -> Vec<u8> {
        let mut block = self.directory_inode(&self.lost_found, InodeFlags::empty());
        if let Ok((inode, _)) = <Dinode as zerocopy::FromBytes>::mut_from_prefix(&mut block) {
            inode.i_suballoc_slot = 0.into();
            inode.i_suballoc_loc = self.lost_found.place.group.0.into();
            inode.i_flags = InodeFlags::VALID.bits().into();
        }
        self.stamp(block, INODE_CHECK)
    }

    /// Bytes of a directory block that hold entries.
    fn dir_area(&self) -> usize {
        let trailer = self
            .features
            .incompat
            .intersects(Incompat::META_ECC.union(Incompat::INDEXED_DIRS));
        let trailer = if trailer {
            cowfs_format::layout::DIR_TRAILER
        } else {
            0
        };
        self.geo.block_bytes() - trailer
    }

    /// The blocks of a directory that is not in its inode.
    pub(crate) fn directory_blocks(&self, dir: &Directory) -> Vec<(BlockNo, Vec<u8>)> {
        let mut blocks = Vec::new();
        // In an index's list of blocks with room, each block comes before those put in earlier.
        let mut next = BlockNo(0);
        for ((area, hole), logical) in dir.pack(self.dir_area()).into_iter().zip(0..) {
            let Some(own) = dir.tree.block(&self.geo, logical) else {
                break;
            };
            let mut block = dirs::block(&self.geo, &area, own, dir.place.block);
            if dir.index.is_some() && hole >= 16 {
                let at = area.len();
                block[at + 0x0E..at + 0x10].copy_from_slice(&low16(hole as u64).to_le_bytes());
                block[at + 0x20..at + 0x28].copy_from_slice(&next.0.to_le_bytes());
                next = own;
            }
            let check_at = block.len() - 8;
            blocks.push((own, self.stamp(block, check_at)));
        }
        blocks
    }

    /// The root of a directory's index, with the entries in it.
    pub(crate) fn index_root(&self, dir: &Directory, place: &Place) -> Vec<u8> {
        let mut root = DxRoot::new_zeroed();
        root.dr_signature = *b"DXDIR01\0";
        root.dr_suballoc_bit = place.bit.into();
        root.dr_suballoc_loc = place.group.0.into();
        root.dr_fs_generation = self.entropy.generation.into();
        root.dr_blkno = place.block.0.into();
        root.dr_flags = DX_INLINE;
        root.dr_dir_blkno = dir.place.block.0.into();
        let [a, b, c] = self.entropy.dx_seed;
        let seed = [a, b, c, self.uuid_hash];
        // All entries of these directories stand in their first block.
        let home = dir.tree.block(&self.geo, 0).unwrap_or_default();
        let mut block = self.empty();
        let mut count = 0u16;
        for (name, _, _) in dir.all() {
            let hash = dx_hash(name.as_bytes(), seed, HashKind::Signed);
            let entry = DxEntry {
                dx_major_hash: hash.major.into(),
                dx_minor_hash: hash.minor.into(),
                dx_dirent_blk: home.0.into(),
            };
            put(
                &mut block,
                DX_ROOT_BODY + 8 + 16 * usize::from(count),
                &entry,
            );
            count += 1;
        }
        root.dr_num_entries = u32::from(count).into();
        root.dr_free_blk = home.0.into();
        let mut list = DxEntryList::new_zeroed();
        list.de_count = low16(((self.geo.block_bytes() - 0xC8) / 16) as u64).into();
        list.de_num_used = count.into();
        put(&mut block, DX_ROOT_BODY, &list);
        put(&mut block, 0, &root);
        self.stamp(block, EXTENT_CHECK)
    }

    /// An extent list, with what points to the file's extent blocks if it has any.
    fn extent_body(&self, inode: &mut Dinode, block: &mut [u8], tree: &Tree) {
        inode.i_clusters = tree.clusters().into();
        let mut list = ExtentList::new_zeroed();
        list.l_count = low16(inode_extents(&self.geo) as u64).into();
        let records: Vec<ExtentRec> = if tree.leaves.is_empty() {
            self.records(tree).collect()
        } else {
            list.l_tree_depth = 1.into();
            inode.i_last_eb_blk = tree.leaves.last().map_or(0, |leaf| leaf.block.0).into();
            let leaves = tree
                .extents
                .chunks(block_extents(&self.geo))
                .zip(&tree.leaves);
            leaves
                .map(|(extents, leaf)| {
                    let first = extents.first().map_or(0, |extent| extent.cpos);
                    let clusters = extents.iter().map(|extent| extent.len).sum();
                    ExtentRec::interior(first, clusters, leaf.block.0)
                })
                .collect()
        };
        list.l_next_free_rec = low16(records.len() as u64).into();
        put(block, DINODE_HEAD, &list);
        for (i, record) in records.iter().enumerate() {
            put(block, DINODE_HEAD + 16 + 16 * i, record);
        }
    }

    /// The records of a file's extents.
    fn records<'a>(&self, tree: &'a Tree) -> impl Iterator<Item = ExtentRec> + use<'a> {
        let geo = self.geo;
        tree.extents.iter().map(move |extent| {
            ExtentRec::leaf(
                extent.cpos,
                low16(u64::from(extent.len)),
                geo.first_block(extent.start).0,
                ExtentFlags::empty(),
            )
        })
    }

    /// The extent blocks of a file.
    pub(crate) fn extent_blocks(&self, tree: &Tree) -> Vec<(BlockNo, Vec<u8>)> {
        let capacity = block_extents(&self.geo);
        let records: Vec<_> = self.records(tree).collect();
        let mut blocks = Vec::new();
        for (i, (records, leaf)) in records.chunks(capacity).zip(&tree.leaves).enumerate() {
            let mut head = ExtentBlock::new_zeroed();
            head.h_signature = *b"EXBLK01\0";
            head.h_suballoc_bit = leaf.bit.into();
            head.h_suballoc_loc = leaf.group.0.into();
            head.h_fs_generation = self.entropy.generation.into();
            head.h_blkno = leaf.block.0.into();
            head.h_next_leaf_blk = tree.leaves.get(i + 1).map_or(0, |next| next.block.0).into();
            let mut list = ExtentList::new_zeroed();
            list.l_count = low16(capacity as u64).into();
            list.l_next_free_rec = low16(records.len() as u64).into();
            let mut block = self.empty();
            put(&mut block, 0, &head);
            put(&mut block, EXTENT_BLOCK_LIST, &list);
            for (i, record) in records.iter().enumerate() {
                put(&mut block, EXTENT_BLOCK_LIST + 16 + 16 * i, record);
            }
            blocks.push((leaf.block, self.stamp(block, EXTENT_CHECK)));
        }
        blocks
    }

    /// Chains of an allocator.
    fn chain_body(&self, block: &mut [u8], cpg: u32, bpc: u64, chains: &[Chain]) {
        let mut list = ChainList::new_zeroed();
        list.cl_cpg = low16(u64::from(cpg)).into();
        list.cl_bpc = low16(bpc).into();
        list.cl_count = low16(chain_capacity(&self.geo) as u64).into();
        list.cl_next_free_rec = low16(chains.len() as u64).into();
        put(block, DINODE_HEAD, &list);
        for (i, &(free, total, first)) in chains.iter().enumerate() {
            let record = ChainRec {
                c_free: free.into(),
                c_total: total.into(),
                c_blkno: first.0.into(),
            };
            put(block, DINODE_HEAD + 16 + 16 * i, &record);
        }
    }

    /// The chains of the cluster bitmap: group after group in turn.
    fn bitmap_body(&self, inode: &mut Dinode, block: &mut [u8]) {
        let groups = self.geo.cluster_groups();
        let capacity = low32(chain_capacity(&self.geo) as u64);
        let chains: Vec<_> = (0..groups.min(capacity))
            .map(|chain| {
                let mut free = 0;
                let mut total = 0;
                for group in (chain..groups).step_by(chain_capacity(&self.geo)) {
                    free += self.space.free(group);
                    total += self.space.bits(group);
                }
                (free, total, self.geo.group_block(chain))
            })
            .collect();
        inode.i_clusters = self.geo.clusters().into();
        inode.id1_low = self.space.used().into();
        inode.id1_high = self.geo.clusters().into();
        self.chain_body(block, self.geo.clusters_per_group(), 1, &chains);
    }

    /// Bits of the group of system inodes: all, and used ones (descriptor, directories, files).
    fn inode_group_bits(&self) -> (u32, u32) {
        let bits = u64::from(self.inode_group.1) * self.geo.blocks_per_cluster();
        (low32(bits), low32(self.files.len() as u64 + 3))
    }

    fn inode_group_body(&self, inode: &mut Dinode, block: &mut [u8]) {
        let (bits, used) = self.inode_group_bits();
        let (start, clusters) = self.inode_group;
        inode.i_clusters = clusters.into();
        inode.id1_low = used.into();
        inode.id1_high = bits.into();
        let chain = (bits - used, bits, self.geo.first_block(start));
        self.chain_body(block, clusters, self.geo.blocks_per_cluster(), &[chain]);
    }

    fn suballoc_body(&self, inode: &mut Dinode, block: &mut [u8], alloc: &SubAlloc) {
        let clusters = alloc.clusters();
        inode.i_clusters = clusters.into();
        inode.i_size = (u64::from(clusters) << self.geo.cluster_bits()).into();
        inode.id1_low = alloc.used().into();
        inode.id1_high = alloc.total().into();
        let cpg = suballoc_group_clusters(&self.geo);
        self.chain_body(block, cpg, self.geo.blocks_per_cluster(), &alloc.chains());
    }

    /// The descriptor of the group of system inodes.
    pub(crate) fn inode_group_desc(&self) -> (BlockNo, Vec<u8>) {
        let own = self.geo.first_block(self.inode_group.0);
        let (bits, used) = self.inode_group_bits();
        let parent = self.file(Kind::GlobalInodeAlloc).map_or(0, |file| file.bit);
        let mut desc = self.group_desc(own, self.system_block(parent), bits, bits - used);
        // The whole block even where groups of other allocators leave room for extents.
        desc.bg_size = low16((self.geo.block_bytes() - GROUP_BITMAP) as u64).into();
        (
            own,
            self.group_block(
                &desc,
                &[Run {
                    start: 0,
                    len: used,
                }],
            ),
        )
    }

    /// The descriptors of an inode or extent allocator.
    pub(crate) fn suballoc_descs<'a>(
        &'a self,
        file: &'a SystemFile,
    ) -> impl Iterator<Item = (BlockNo, Vec<u8>)> + use<'a> {
        file.alloc.iter().flat_map(move |alloc| {
            alloc.groups.iter().map(move |group| {
                let used = u32::from(group.used);
                let bits = alloc.group_bits;
                let parent = self.system_block(file.bit);
                let mut desc = self.group_desc(group.block, parent, bits, bits - used);
                desc.bg_chain = group.chain.into();
                desc.bg_next_group = group.next.0.into();
                if self.features.has(Incompat::DISCONTIG_BG) {
                    desc.bg_size = DISCONTIG_BITMAP_BYTES.into();
                }
                (
                    group.block,
                    self.group_block(
                        &desc,
                        &[Run {
                            start: 0,
                            len: used,
                        }],
                    ),
                )
            })
        })
    }

    /// The descriptor of a cluster group.
    ///
    /// Nearly all groups have the same bitmap, and differ in their heads only. The parity of what
    /// they share is worked out once and kept in `shared`: parity is the exclusive or over the bits.
    pub(crate) fn cluster_desc(&self, group: u32, shared: &mut Option<u16>) -> (BlockNo, Vec<u8>) {
        let own = self.geo.group_block(group);
        let parent = self.file(Kind::GlobalBitmap).map_or(0, |file| file.bit);
        let bits = self.space.bits(group);
        let free = self.space.free(group);
        let mut desc = self.group_desc(own, self.system_block(parent), bits, free);
        let capacity = low32(chain_capacity(&self.geo) as u64);
        desc.bg_chain = low16(u64::from(group % capacity)).into();
        desc.bg_next_group = match group.checked_add(capacity) {
            Some(next) if next < self.geo.cluster_groups() => self.geo.group_block(next).0.into(),
            _ => 0.into(),
        };
        let runs = self.space.runs(group);
        if runs != [Run { start: 0, len: 1 }] || !self.ecc() {
            return (own, self.group_block(&desc, runs));
        }
        let mut block = self.empty();
        put(&mut block, 0, &desc);
        block[GROUP_BITMAP] = 1;
        let head = ecc::parity(&block[..GROUP_BITMAP], GROUP_CHECK);
        let rest = *shared.get_or_insert_with(|| ecc::parity(&block, GROUP_CHECK) ^ head);
        let check = BlockCheck {
            bc_crc32: ecc::crc(&block, GROUP_CHECK).into(),
            bc_ecc: (head ^ rest).into(),
            bc_reserved: 0.into(),
        };
        put(&mut block, GROUP_CHECK, &check);
        (own, block)
    }

    fn group_desc(&self, own: BlockNo, parent: BlockNo, bits: u32, free: u32) -> GroupDesc {
        let mut desc = GroupDesc::new_zeroed();
        desc.bg_signature = *b"GROUP01\0";
        desc.bg_size = low16((self.geo.block_bytes() - GROUP_BITMAP) as u64).into();
        desc.bg_bits = low16(u64::from(bits)).into();
        desc.bg_free_bits_count = low16(u64::from(free)).into();
        desc.bg_generation = self.entropy.generation.into();
        desc.bg_parent_dinode = parent.0.into();
        desc.bg_blkno = own.0.into();
        desc
    }

    fn group_block(&self, desc: &GroupDesc, used: &[Run]) -> Vec<u8> {
        let mut block = self.empty();
        put(&mut block, 0, desc);
        for run in used {
            for bit in run.start..run.start + run.len {
                if let Some(byte) = block.get_mut(GROUP_BITMAP + (bit / 8) as usize) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
        self.stamp(block, GROUP_CHECK)
    }
}

/// Copies text into a NUL-padded field.
fn pad(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}
