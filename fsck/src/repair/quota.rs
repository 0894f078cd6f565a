//! Quota files, written anew: limits are kept as far as they can be read, usage is what the inodes
//! use, and the slots have nothing to merge.

use std::collections::BTreeMap;

use cowfs_format::ecc::{self, CHECK_BYTES, Verdict};
use cowfs_format::error::Result;
use cowfs_format::layout::{
    Dinode, DiskDqblk, GLOBAL_QUOTA_MAGIC, GlobalQuotaInfo, LOCAL_QUOTA_MAGIC, LocalQuotaInfo,
    QUOTA_TREE_ROOT, QuotaLeaf,
};
use cowfs_format::read::quota::GlobalQuota;
use cowfs_format::read::{extent, inode};
use cowfs_format::units::{BlockNo, Slot, index, low16, low32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::stage::{Stage, cannot};
use crate::catalogue::At;
use crate::pass::quota::{KINDS, local_file};

/// Grace times of a new file, in seconds, and how often changes are merged, in milliseconds.
const GRACE: u32 = 604_800;
const MERGE_EVERY: u32 = 10_000;

/// Writes a quota file anew.
pub(super) fn remake(stage: &mut Stage<'_, '_>, at: At) -> Result<()> {
    let blkno = at.inode.ok_or_else(|| cannot("it has no place"))?;
    if !stage.first("quota file", blkno) {
        return Ok(());
    }
    let system = &stage.evidence.system;
    for (kind, (_, _, file)) in KINDS.into_iter().enumerate() {
        if system.find(file) == Some(blkno) {
            return global(stage, kind, blkno);
        }
        let mut slots = (0..stage.view().info().max_slots).map(Slot);
        if slots.any(|slot| system.find(local_file(kind, slot)) == Some(blkno)) {
            return local(stage, kind, blkno);
        }
    }
    Err(cannot("no name tells what it was"))
}

/// The blocks of a file, in order.
fn blocks(stage: &Stage<'_, '_>, blkno: BlockNo) -> Result<Vec<BlockNo>> {
    let inode = inode::read(stage.view(), blkno)?;
    let (extents, _) = extent::salvage(stage.view(), blkno, inode.body());
    let bpc = stage.geo().blocks_per_cluster();
    let runs = extents
        .into_iter()
        .map(|extent| (extent.blkno, u64::from(extent.clusters) * bpc));
    Ok(runs
        .flat_map(|(first, count)| (0..count).map(move |nth| first.plus(nth)))
        .collect())
}

/// Writes the contents of a file, over its own blocks or, where there are too few, over others.
fn write(stage: &mut Stage<'_, '_>, blkno: BlockNo, contents: &mut [Vec<u8>]) -> Result<()> {
    let geo = stage.geo();
    let size = (contents.len() as u64) << geo.block_bits();
    if blocks(stage, blkno)?.len() < contents.len() {
        let clusters = low32(geo.clusters_for(size));
        stage.transact(|txn| {
            txn.forget_charges();
            txn.remake_space(blkno, clusters, false)
        })?;
    }
    for (home, bytes) in blocks(stage, blkno)?.into_iter().zip(contents) {
        stage.put_run(home, Some(geo.block_bytes() - CHECK_BYTES), bytes)?;
    }
    stage.edit::<Dinode>(blkno, |inode| inode.i_size = size.into())
}

/// A slot's file without changes.
fn local(stage: &mut Stage<'_, '_>, kind: usize, blkno: BlockNo) -> Result<()> {
    let block = vec![0; stage.geo().block_bytes()];
    let mut contents = vec![block.clone(), block];
    if let Ok((info, _)) = LocalQuotaInfo::mut_from_prefix(&mut contents[0]) {
        info.dqh_magic = LOCAL_QUOTA_MAGIC.get(kind).copied().unwrap_or(0).into();
        info.dqi_flags = 1.into();
        info.dqi_chunks = 1.into();
        info.dqi_blocks = 2.into();
    }
    write(stage, blkno, &mut contents)
}

/// What can be kept of a global file.
struct Kept {
    info: GlobalQuotaInfo,
    entries: BTreeMap<u32, DiskDqblk>,
}

/// Reads what can still be read of a global file: every block whose check is right and that looks
/// like a leaf, whether the tree leads there or not.
fn kept(stage: &Stage<'_, '_>, kind: usize, blkno: BlockNo) -> Result<Kept> {
    let magic = GLOBAL_QUOTA_MAGIC.get(kind).copied().unwrap_or_default();
    let mut info = GlobalQuotaInfo::new_zeroed();
    info.dqi_bgrace = GRACE.into();
    info.dqi_igrace = GRACE.into();
    info.dqi_syncms = MERGE_EVERY.into();
    let mut entries = BTreeMap::new();
    for (logical, home) in blocks(stage, blkno)?.into_iter().enumerate() {
        let mut bytes = stage.view().raw(home)?.into_owned();
        let room = bytes.len() - CHECK_BYTES;
        if stage.view().has_ecc() {
            match ecc::verify(&bytes, room) {
                Verdict::Good => {}
                Verdict::OneBit { bit } => ecc::flip(&mut bytes, bit),
                Verdict::Bad => continue,
            }
        }
        if logical == 0 {
            match GlobalQuotaInfo::read_from_prefix(&bytes) {
                Ok((old, _)) if old.dqh_magic.get() == magic => info = old,
                _ => {}
            }
            continue;
        }
        for entry in leaf(&bytes[..room]) {
            entries.entry(entry.dqb_id.get()).or_insert(entry);
        }
    }
    info.dqh_magic = magic.into();
    info.dqh_version = 0.into();
    Ok(Kept { info, entries })
}

/// The entries of a block, when it looks like a leaf.
fn leaf(room: &[u8]) -> Vec<DiskDqblk> {
    let Ok((head, rest)) = QuotaLeaf::ref_from_prefix(room) else {
        return Vec::new();
    };
    let all = rest.chunks_exact(size_of::<DiskDqblk>());
    let used = all.filter(|bytes| bytes.iter().any(|byte| *byte != 0));
    let found: Vec<DiskDqblk> = used
        .filter_map(|bytes| DiskDqblk::read_from_bytes(bytes).ok())
        .collect();
    let pads = |entry: &DiskDqblk| entry.dqb_pad1.get() == 0 && entry.dqb_pad2.get() == 0;
    let is_one = head.dqdh_pad1.get() == 0
        && head.dqdh_pad2.get() == 0
        && usize::from(head.dqdh_entries.get()) == found.len()
        && found.iter().all(pads);
    if is_one { found } else { Vec::new() }
}

fn global(stage: &mut Stage<'_, '_>, kind: usize, blkno: BlockNo) -> Result<()> {
    let Kept { info, mut entries } = kept(stage, kind, blkno)?;
    let bits = stage.geo().cluster_bits();
    for entry in entries.values_mut() {
        entry.dqb_curspace = 0.into();
        entry.dqb_curinodes = 0.into();
        entry.dqb_use_count = 0.into();
    }
    for (id, used) in stage.evidence.usage.of(kind) {
        let entry = entries.entry(id).or_insert_with(|| {
            let mut entry = DiskDqblk::new_zeroed();
            entry.dqb_id = id.into();
            entry
        });
        entry.dqb_curspace = ((used.clusters + used.index) << bits).into();
        entry.dqb_curinodes = used.inodes.into();
    }
    // What says nothing looks like an unused entry, or is one.
    entries.retain(|id, entry| {
        let bytes = entry.as_bytes();
        bytes.iter().skip(size_of_val(id)).any(|byte| *byte != 0)
    });
    let mut contents = tree(stage.geo().block_bytes(), info, &entries);
    write(stage, blkno, &mut contents)
}

/// The blocks of a global file with these entries.
fn tree(
    block: usize,
    mut info: GlobalQuotaInfo,
    entries: &BTreeMap<u32, DiskDqblk>,
) -> Vec<Vec<u8>> {
    let room = block - CHECK_BYTES;
    let refs = (room / 4) as u64;
    let depth = GlobalQuota::depth(block);
    let per_leaf = (room - size_of::<QuotaLeaf>()) / size_of::<DiskDqblk>();
    let mut blocks = vec![vec![0; block]; 2];
    let mut open: Option<(usize, usize)> = None;
    for (id, entry) in entries {
        let mut node = QUOTA_TREE_ROOT as usize;
        for level in 0..depth {
            let below = refs.saturating_pow(depth - 1 - level);
            let at = index(u64::from(*id) / below.max(1) % refs) * 4;
            let next = blocks[node][at..at + 4]
                .try_into()
                .map_or(0, u32::from_le_bytes);
            let last = level + 1 == depth;
            let child = match (next, last, open) {
                (0, true, Some((leaf, _))) => leaf,
                (0, ..) => {
                    blocks.push(vec![0; block]);
                    blocks.len() - 1
                }
                (next, ..) => next as usize,
            };
            blocks[node][at..at + 4].copy_from_slice(&low32(child as u64).to_le_bytes());
            node = child;
        }
        let slot = open
            .filter(|(leaf, _)| *leaf == node)
            .map_or(0, |(_, used)| used);
        let at = size_of::<QuotaLeaf>() + slot * size_of::<DiskDqblk>();
        blocks[node][at..at + size_of::<DiskDqblk>()].copy_from_slice(entry.as_bytes());
        let used = slot + 1;
        if let Ok((head, _)) = QuotaLeaf::mut_from_prefix(&mut blocks[node]) {
            head.dqdh_entries = low16(used as u64).into();
        }
        open = (used < per_leaf).then_some((node, used));
    }
    info.dqi_blocks = low32(blocks.len() as u64).into();
    info.dqi_free_blk = 0.into();
    info.dqi_free_entry = low32(open.map_or(0, |(leaf, _)| leaf) as u64).into();
    if let Ok((head, _)) = GlobalQuotaInfo::mut_from_prefix(&mut blocks[0]) {
        *head = info;
    }
    blocks
}
