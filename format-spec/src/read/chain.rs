//! Chain allocators: their chains, their groups, the bits of a group.

use std::collections::HashSet;

use zerocopy::FromBytes;

use crate::block::{Checked, View};
use crate::error::{FaultKind, Result};
use crate::layout::{ChainList, ChainRec, Dinode, GROUP_BITMAP, GROUP_LIST, GroupDesc, InodeFlags};
use crate::read::extent::ListView;
use crate::units::{BlockNo, Geometry};

/// The chain list of an allocator inode.
#[derive(Clone, Copy, Debug)]
pub struct ChainsView<'a> {
    /// The header.
    pub head: &'a ChainList,
    /// The chains in use.
    pub recs: &'a [ChainRec],
    /// Chains that fit into the inode.
    pub capacity: usize,
}

impl<'a> ChainsView<'a> {
    /// The chain list that fills `space`, the body of an allocator inode.
    #[must_use]
    pub fn parse(space: &'a [u8]) -> Option<Self> {
        let (head, rest) = ChainList::ref_from_prefix(space).ok()?;
        let capacity = rest.len() / size_of::<ChainRec>();
        let all = <[ChainRec]>::ref_from_bytes(rest.get(..capacity * size_of::<ChainRec>())?);
        let used = usize::from(head.cl_next_free_rec.get()).min(capacity);
        Some(Self {
            head,
            recs: all.ok()?.get(..used)?,
            capacity,
        })
    }
}

/// The chain list of an allocator.
///
/// # Errors
/// The inode is no chain allocator.
pub fn chains<'a>(inode: &'a Checked<'_, Dinode>) -> Result<ChainsView<'a>> {
    let is_chain = inode.flags().contains(InodeFlags::CHAIN);
    is_chain
        .then(|| ChainsView::parse(inode.body()))
        .flatten()
        .ok_or_else(|| {
            let value = inode.i_flags.get().into();
            let rule = "the inode is no chain allocator";
            FaultKind::Field {
                field: "i_flags",
                value,
                rule,
            }
            .at(inode.blkno())
            .into()
        })
}

/// A step of a walk over the groups of an allocator.
#[derive(Debug)]
pub struct GroupStep<'v> {
    /// Index of the chain.
    pub chain: usize,
    /// Where the descriptor is, or should be.
    pub blkno: BlockNo,
    /// The descriptor; an error ends its chain.
    pub group: Result<Checked<'v, GroupDesc>>,
}

/// All groups of an allocator, chain by chain. A chain ends at its first unusable descriptor; a
/// descriptor reached twice is a [`FaultKind::Loop`].
///
/// # Errors
/// The inode is no chain allocator.
pub fn groups<'v>(
    view: View<'v>,
    inode: &Checked<'_, Dinode>,
) -> Result<impl Iterator<Item = GroupStep<'v>> + use<'v>> {
    let heads: Vec<u64> = chains(inode)?
        .recs
        .iter()
        .map(|rec| rec.c_blkno.get())
        .collect();
    let mut chain = 0;
    let mut next = heads.first().copied().unwrap_or(0);
    let mut seen = HashSet::new();
    Ok(std::iter::from_fn(move || {
        while next == 0 {
            chain += 1;
            next = *heads.get(chain)?;
        }
        let blkno = BlockNo(next);
        let group = if seen.insert(next) {
            view.block::<GroupDesc>(blkno)
        } else {
            Err(FaultKind::Loop.at(blkno).into())
        };
        next = group.as_ref().map_or(0, |group| group.bg_next_group.get());
        Some(GroupStep {
            chain,
            blkno,
            group,
        })
    }))
}

impl Checked<'_, GroupDesc> {
    /// The bitmap: `bg_size` bytes, or what fits into the block.
    #[must_use]
    pub fn bitmap(&self) -> &[u8] {
        let room = self.bytes().get(GROUP_BITMAP..).unwrap_or_default();
        room.get(..usize::from(self.bg_size.get())).unwrap_or(room)
    }

    /// Whether a bit is set; bits beyond the bitmap count as set.
    #[must_use]
    pub fn is_set(&self, bit: u32) -> bool {
        crate::units::index(u64::from(bit) / 8).le(&self.bitmap().len())
            && self
                .bitmap()
                .get(bit as usize / 8)
                .is_none_or(|b| b >> (bit % 8) & 1 == 1)
    }

    /// Number of set bits among the first `bg_bits`.
    #[must_use]
    pub fn count_set(&self) -> u32 {
        count_ones(self.bitmap(), u32::from(self.bg_bits.get()))
    }

    /// The extents of a discontiguous group: (first bit, bits, first block) of each, by a list of
    /// clusters with `bits_per_cluster` bits. Empty for contiguous groups.
    #[must_use]
    pub fn discontiguous(&self, bits_per_cluster: u16) -> Vec<(u32, u32, BlockNo)> {
        if GROUP_BITMAP + usize::from(self.bg_size.get()) != GROUP_LIST {
            return Vec::new();
        }
        let Some(list) = self.bytes().get(GROUP_LIST..).and_then(ListView::parse) else {
            return Vec::new();
        };
        let bpc = u32::from(bits_per_cluster);
        list.recs
            .iter()
            .map(|rec| {
                (
                    rec.e_cpos.get().saturating_mul(bpc),
                    u32::from(rec.e_leaf_clusters.get()).saturating_mul(bpc),
                    BlockNo(rec.e_blkno.get()),
                )
            })
            .collect()
    }

    /// The block that a bit of a suballocator group stands for.
    #[must_use]
    pub fn block_of_bit(&self, bit: u32, bits_per_cluster: u16) -> Option<BlockNo> {
        let extents = self.discontiguous(bits_per_cluster);
        if extents.is_empty() {
            return Some(self.blkno().plus(u64::from(bit)));
        }
        extents
            .iter()
            .find(|(first, bits, _)| bit >= *first && bit - first < *bits)
            .map(|(first, _, blkno)| blkno.plus(u64::from(bit - first)))
    }

    /// The cluster that a bit of a cluster group stands for.
    #[must_use]
    pub fn first_cluster(&self, geo: &Geometry) -> u32 {
        if self.blkno() == geo.group_block(0) {
            0
        } else {
            geo.cluster_of(self.blkno()).0
        }
    }
}

/// Set bits among the first `bits` of a bitmap.
#[must_use]
pub fn count_ones(bitmap: &[u8], bits: u32) -> u32 {
    let whole = bitmap.len().min(bits as usize / 8);
    let (words, bytes) = bitmap[..whole].as_chunks();
    let full = words
        .iter()
        .map(|word| u64::from_le_bytes(*word).count_ones());
    let few = bytes.iter().map(|byte| byte.count_ones());
    let full = full.sum::<u32>() + few.sum::<u32>();
    let rest = bits % 8;
    let tail = bitmap
        .get(whole)
        .filter(|_| whole == bits as usize / 8 && rest > 0);
    full + tail.map_or(0, |b| (b & ((1u8 << rest) - 1)).count_ones())
}
