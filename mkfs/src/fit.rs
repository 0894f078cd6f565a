//! The smallest volume that holds a tree: what is planned before it is filled, and cut off behind.
//!
//! How much space a tree takes is known only when it is in its place. So a tally of the source (see
//! `populate/tally.rs`) estimates the size; the estimate settles what follows from the size of a
//! volume (blocks, clusters, journals), and with these the tree is put into a volume that is larger
//! than it can need, sparse on the host. Space is handed out from the front, so what is free then
//! lies behind, and is cut off: the last cluster group is shortened, groups behind it leave their
//! chains, and the superblock, which is written last, tells of the smaller volume.

use cowfs_format::block::View;
use cowfs_format::device::DeviceMut;
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{ChainRec, DINODE_HEAD, Dinode, GROUP_BITMAP, GroupDesc};
use cowfs_format::units::{BlockNo, Geometry};
use zerocopy::{FromZeros, IntoBytes};

use crate::files::chain_capacity;
use crate::options::Options;
use crate::plan::{Kind, Plan};
use crate::populate::Tally;
use crate::populate::unborn;
use crate::sizes::least_blocks;

/// Bytes beyond the estimate that the volume has while it is filled.
const SLACK: u64 = 64 << 20;

/// What a volume for a tree is first made as: the options with everything settled that follows from
/// its size, and the bytes that it needs at the most, unless the tally is wrong.
pub(crate) fn settle(options: &Options, tally: &Tally, free: u64) -> Result<(Options, u64)> {
    let mut bytes = 8 << 20;
    let mut settled = loop {
        match Plan::new(options, bytes) {
            Ok(plan) => break plan,
            // Smaller than any volume with these options.
            Err(error) if bytes >= 1 << 50 => return Err(error),
            Err(_) => bytes *= 2,
        }
    };
    // What a volume itself takes grows with its size, and so does the size of its blocks.
    for _ in 0..8 {
        let geo = settled.geo;
        let system = u64::from(settled.space.used()) << geo.cluster_bits();
        let wanted = system
            .saturating_add(tally.bytes(&geo))
            .saturating_add(free);
        bytes = wanted.max(bytes.min(geo.bytes()));
        let next = Plan::new(options, bytes)?;
        let same = same_sizes(&next, &settled);
        settled = next;
        if same {
            break;
        }
    }
    let geo = settled.geo;
    let options = Options {
        block_size: u32::try_from(geo.block_bytes()).ok(),
        cluster_size: u32::try_from(geo.cluster_bytes()).ok(),
        slots: Some(settled.slots),
        journal_size: Some(settled.journal_bytes),
        journal64: Some(settled.journal64),
        extent_groups: Some(settled.extent_groups),
        ..options.clone()
    };
    let most = geo.bytes().saturating_add(geo.bytes() / 16);
    Ok((options, most.saturating_add(SLACK)))
}

/// The estimate behind the bytes that [`settle`] tells.
pub(crate) const fn estimate(most: u64) -> u64 {
    most.saturating_sub(SLACK) / 17 * 16
}

fn same_sizes(a: &Plan, b: &Plan) -> bool {
    let of = |plan: &Plan| {
        (
            plan.geo.block_bits(),
            plan.geo.cluster_bits(),
            plan.slots,
            plan.journal_bytes,
            plan.extent_groups,
        )
    };
    of(a) == of(b)
}

/// Cuts a volume that is filled, and has no superblock yet, behind its last cluster in use, but
/// leaves `free` bytes free. The plan says afterwards how large it is.
///
/// # Errors
/// The volume has less free space than that, or the device fails.
pub(crate) fn cut(device: &dyn DeviceMut, plan: &mut Plan, free: u64) -> Result<()> {
    let mut volume = unborn::open(device, plan)?;
    let old = plan.geo;
    let clusters = end(volume.view(), plan, free)?;
    let Some(geo) = Geometry::new(old.block_bits(), old.cluster_bits(), clusters) else {
        return Ok(());
    };
    let mut txn = volume.begin()?;
    let groups = geo.cluster_groups();
    let capacity = chain_capacity(&geo);
    let mut chains = vec![ChainRec::new_zeroed(); capacity.min(index(groups))];
    let mut used = 0;
    for group in 0..groups {
        let first = group.saturating_mul(geo.clusters_per_group());
        let bits = (clusters - first).min(geo.clusters_per_group());
        let blkno = geo.group_block(group);
        let (old_bits, mut taken, next) = {
            let desc = txn.view().block::<GroupDesc>(blkno)?;
            let bits = desc.bg_bits.get();
            let taken = bits.saturating_sub(desc.bg_free_bits_count.get());
            (u32::from(bits), u32::from(taken), desc.bg_next_group.get())
        };
        let follower = group.saturating_add(u32::try_from(capacity).unwrap_or(u32::MAX));
        let last = next != 0 && follower >= groups;
        if bits < old_bits || last {
            let mut desc = txn.edit::<GroupDesc>(blkno)?;
            if last {
                desc.bg_next_group = 0.into();
            }
            taken -= clear_behind(desc.bytes_mut(), bits, old_bits);
            desc.bg_bits = low16(bits).into();
            desc.bg_free_bits_count = low16(bits.saturating_sub(taken)).into();
        }
        used += taken;
        if let Some(chain) = chains.get_mut(index(group) % capacity) {
            chain.c_free = (chain.c_free.get() + bits.saturating_sub(taken)).into();
            chain.c_total = (chain.c_total.get() + bits).into();
            if chain.c_blkno.get() == 0 {
                chain.c_blkno = blkno.0.into();
            }
        }
    }
    let bitmap = plan.file(Kind::GlobalBitmap).map_or(0, |file| file.bit);
    let mut inode = txn.edit::<Dinode>(plan.system_block(bitmap))?;
    inode.i_size = geo.bytes().into();
    inode.i_clusters = clusters.into();
    inode.id1_low = used.into();
    inode.id1_high = clusters.into();
    let records = &mut inode.bytes_mut()[DINODE_HEAD..];
    records[6..8].copy_from_slice(&low16(u32::try_from(chains.len()).unwrap_or(0)).to_le_bytes());
    records[16..].fill(0);
    for (place, chain) in records[16..].chunks_exact_mut(16).zip(&chains) {
        place.copy_from_slice(chain.as_bytes());
    }
    txn.write_home()?;
    plan.geo = geo;
    plan.space.cut(geo);
    for file in &mut plan.files {
        if file.kind == Kind::GlobalBitmap {
            file.size = geo.bytes();
        }
    }
    Ok(())
}

/// Clusters of the smallest volume.
fn end(view: View<'_>, plan: &Plan, free: u64) -> Result<u32> {
    let geo = plan.geo;
    let per_group = geo.clusters_per_group();
    let backups: Vec<u32> = geo
        .backup_offsets()
        .filter(|_| plan.has_backups())
        .map(|offset| geo.cluster_of(BlockNo(offset >> geo.block_bits())).0)
        .collect();
    // What the volume has for itself wherever it ends.
    let own = |cluster: u32| cluster.is_multiple_of(per_group) || backups.contains(&cluster);
    let mut end = 0;
    for group in (0..geo.cluster_groups()).rev() {
        let desc = view.block::<GroupDesc>(geo.group_block(group))?;
        let first = group * per_group;
        let bitmap = desc.bitmap();
        let bits = u32::from(desc.bg_bits.get());
        let taken = |bit: &u32| {
            bitmap
                .get(index(bit / 8))
                .is_some_and(|b| b >> (bit % 8) & 1 == 1)
        };
        let last = (0..bits).rev().find(|bit| taken(bit) && !own(first + bit));
        if let Some(bit) = last {
            end = first + bit + 1;
            break;
        }
    }
    let mut unused = 0;
    for group in 0..end.div_ceil(per_group) {
        let desc = view.block::<GroupDesc>(geo.group_block(group))?;
        unused += u32::from(desc.bg_free_bits_count.get());
        let stop = (group + 1).saturating_mul(per_group).min(geo.clusters());
        if stop > end {
            let behind = end..stop;
            unused -= low32(behind.filter(|cluster| !own(*cluster)).count() as u64);
        }
    }
    let least = least_blocks(&geo, plan.journal_bytes, plan.slots) << geo.block_bits();
    let least = u32::try_from(geo.clusters_for(least)).unwrap_or(u32::MAX);
    let wanted = u32::try_from(geo.clusters_for(free)).unwrap_or(u32::MAX);
    while end < least || unused < wanted {
        if end >= geo.clusters() {
            return Err(Error::NoSpace {
                needed: u64::from(wanted.saturating_sub(unused)),
                unit: "clusters",
            });
        }
        if own(end) {
            end += 1;
            continue;
        }
        let group = (end / per_group + 1).saturating_mul(per_group);
        let behind = backups.iter().copied().filter(|backup| *backup > end);
        let stop = behind.min().unwrap_or(u32::MAX).min(group);
        let stop = stop.min(geo.clusters());
        let more = wanted.saturating_sub(unused).max(least.saturating_sub(end));
        let more = more.min(stop - end);
        unused += more;
        end += more;
    }
    Ok(end)
}

/// Clears the bits of a group's descriptor that it no longer has; how many of them were set.
fn clear_behind(block: &mut [u8], bits: u32, old_bits: u32) -> u32 {
    let mut cleared = 0;
    for bit in bits..old_bits {
        if let Some(byte) = block.get_mut(GROUP_BITMAP + index(bit / 8)) {
            let mask = 1 << (bit % 8);
            cleared += u32::from(*byte & mask != 0);
            *byte &= !mask;
        }
    }
    cleared
}

fn index(n: u32) -> usize {
    cowfs_format::units::index(n.into())
}

fn low16(n: u32) -> u16 {
    cowfs_format::units::low16(n.into())
}

const fn low32(n: u64) -> u32 {
    cowfs_format::units::low32(n)
}
