//! The index of a directory: roots, leaves, entries, the list of blocks with room.

use std::ops::ControlFlow;

use zerocopy::FromBytes;

use crate::block::{Checked, View};
use crate::error::{FaultKind, Result};
use crate::layout::{
    DX_INLINE, DX_LEAF_LIST, DX_ROOT_BODY, DxEntry, DxEntryList, DxHash, DxLeaf, DxRoot,
};
use crate::read::extent::{self, Extent};
use crate::units::BlockNo;

/// An entry list: its header and its used entries.
#[derive(Clone, Copy, Debug)]
pub struct DxListView<'a> {
    /// The header.
    pub head: &'a DxEntryList,
    /// The entries in use.
    pub entries: &'a [DxEntry],
    /// Entries that fit.
    pub capacity: usize,
}

impl<'a> DxListView<'a> {
    /// The list that fills `space`.
    #[must_use]
    pub fn parse(space: &'a [u8]) -> Option<Self> {
        let (head, rest) = DxEntryList::ref_from_prefix(space).ok()?;
        let capacity = rest.len() / size_of::<DxEntry>();
        let all = <[DxEntry]>::ref_from_bytes(rest.get(..capacity * size_of::<DxEntry>())?);
        let used = usize::from(head.de_num_used.get()).min(capacity);
        Some(Self {
            head,
            entries: all.ok()?.get(..used)?,
            capacity,
        })
    }
}

impl Checked<'_, DxRoot> {
    /// Whether the entries stand in the root block.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.dr_flags & DX_INLINE != 0
    }

    /// The union behind the head: the extent list or the entry list.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes().get(DX_ROOT_BODY..).unwrap_or_default()
    }

    /// The entry list of a root that holds its entries itself.
    #[must_use]
    pub fn inline_entries(&self) -> Option<DxListView<'_>> {
        self.is_inline()
            .then(|| DxListView::parse(self.body()))
            .flatten()
    }
}

impl Checked<'_, DxLeaf> {
    /// The entry list.
    #[must_use]
    pub fn list(&self) -> Option<DxListView<'_>> {
        DxListView::parse(self.bytes().get(DX_LEAF_LIST..).unwrap_or_default())
    }
}

/// The leaf that serves a hash, in the extent whose key range holds the major hash.
#[must_use]
pub fn leaf_of(view: View<'_>, extent: &Extent, hash: DxHash) -> BlockNo {
    let bpc = view.geo().blocks_per_cluster();
    let index = hash
        .major
        .saturating_sub(extent.cpos)
        .min(extent.clusters.saturating_sub(1));
    extent
        .blkno
        .plus(u64::from(index) * bpc + (u64::from(hash.minor) & (bpc - 1)))
}

/// The directory blocks that may hold an entry whose name has this hash.
///
/// # Errors
/// A block of the index cannot be used.
pub fn find(view: View<'_>, root: BlockNo, hash: DxHash) -> Result<Vec<BlockNo>> {
    let root = view.block::<DxRoot>(root)?;
    let matching = |list: DxListView<'_>| {
        list.entries
            .iter()
            .filter(|e| e.dx_major_hash.get() == hash.major && e.dx_minor_hash.get() == hash.minor)
            .map(|e| BlockNo(e.dx_dirent_blk.get()))
            .collect()
    };
    if root.is_inline() {
        return Ok(root.inline_entries().map(matching).unwrap_or_default());
    }
    let Some(extent) = extent::find(view, root.blkno(), root.body(), hash.major)? else {
        return Ok(Vec::new());
    };
    let leaf = view.block::<DxLeaf>(leaf_of(view, &extent, hash))?;
    Ok(leaf.list().map(matching).unwrap_or_default())
}

/// Visits all leaves of an index in order; for an index inside its root, nothing.
///
/// # Errors
/// The extent tree of the index is damaged.
pub fn for_each_leaf<'v>(
    view: View<'v>,
    root: &Checked<'_, DxRoot>,
    visit: &mut dyn FnMut(BlockNo, Result<Checked<'v, DxLeaf>>) -> ControlFlow<()>,
) -> Result<()> {
    if root.is_inline() {
        return Ok(());
    }
    let bpc = view.geo().blocks_per_cluster();
    for extent in extent::extents(view, root.blkno(), root.body())? {
        for i in 0..u64::from(extent.clusters) * bpc {
            let blkno = extent.blkno.plus(i);
            if visit(blkno, view.block::<DxLeaf>(blkno)).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The blocks of the list of directory blocks with room, in list order.
///
/// # Errors
/// A block of the list cannot be used, or the list loops.
pub fn free_list(view: View<'_>, root: &Checked<'_, DxRoot>) -> Result<Vec<BlockNo>> {
    let mut found = Vec::new();
    let mut next = root.dr_free_blk.get();
    while next != 0 {
        let blkno = BlockNo(next);
        if found.len() as u64 > view.geo().blocks() || found.contains(&blkno) && found.len() > 4096
        {
            return Err(FaultKind::Loop.at(blkno).into());
        }
        let (buf, _) = view.dir_block(blkno, BlockNo(root.dr_dir_blkno.get()), true)?;
        let at = buf.len() - crate::layout::DIR_TRAILER;
        let trailer = crate::layout::DirBlockTrailer::ref_from_bytes(&buf[at..])
            .map_err(|_| FaultKind::OutOfVolume.at(blkno))?;
        next = trailer.db_free_next.get();
        found.push(blkno);
    }
    Ok(found)
}
