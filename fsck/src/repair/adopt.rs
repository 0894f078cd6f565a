//! Clusters that are marked as used and that nothing uses: they are what a lost inode mapped. Where
//! their contents say so, the inode gets them back.

use std::collections::HashSet;

use cowfs_format::error::Result;
use cowfs_format::layout::jbd2::{JournalSuperBlock, MAGIC, SUPERBLOCK_V2};
use cowfs_format::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, DirBlockTrailer, ExtentFlags, GroupDesc, Incompat,
};
use cowfs_format::read::dir::{Entry, entries};
use cowfs_format::read::extent::Extent;
use cowfs_format::units::{BlockNo, ClusterNo, index};
use cowfs_format::volume::system::SystemFile;
use zerocopy::FromBytes;

use super::stage::Stage;
use crate::pass::system::in_order;

/// Idle clusters that are looked at: no file of the volume itself has more.
const MOST_IDLE: usize = 1 << 20;

/// Blocks of a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where they are.
    pub(super) extents: Vec<Extent>,
    /// How many of them hold entries.
    pub(super) blocks: u64,
    /// Whether they end with trailers.
    pub(super) trailers: bool,
}

/// Appends a cluster to extents.
fn append(extents: &mut Vec<Extent>, blkno: BlockNo, bpc: u64) {
    let cpos = extents.last().map_or(0, Extent::end);
    if let Some(last) = extents.last_mut()
        && last.blkno.plus(u64::from(last.clusters) * bpc) == blkno
    {
        last.clusters += 1;
        return;
    }
    extents.push(Extent {
        cpos,
        clusters: 1,
        blkno,
        flags: ExtentFlags::empty(),
    });
}

/// Clusters that nothing uses and that no repair of this round has taken, in order.
pub(super) fn idle(stage: &Stage<'_, '_>) -> Vec<ClusterNo> {
    let leaks = stage.evidence.leaks.iter();
    let all = leaks.flat_map(|&(first, count)| (first..first.saturating_add(count)).map(ClusterNo));
    all.filter(|cluster| !stage.adopted.contains(cluster))
        .take(MOST_IDLE)
        .collect()
}

/// Clusters of the first cluster group that are marked as used: where a new volume has what it
/// needs most. For when nobody knows who uses what.
fn first_group(stage: &Stage<'_, '_>) -> Vec<ClusterNo> {
    let geo = stage.geo();
    let (desc, faults) = stage.view().inspect::<GroupDesc>(geo.group_block(0));
    let desc = desc.filter(|_| faults.len() <= 1);
    let count = geo.clusters_per_group().min(geo.clusters());
    (0..count)
        .filter(|bit| desc.as_ref().is_none_or(|desc| desc.is_set(*bit)))
        .map(ClusterNo)
        .collect()
}

/// Whether nothing uses a cluster that begins with the two own names of a directory. (Looked up once a
/// round: as many directories as there are inodes in a group may ask.)
pub(super) fn has_directory(stage: &Stage<'_, '_>, directory: BlockNo) -> bool {
    let own = stage.idle_directories.get_or_init(|| {
        let (geo, view) = (stage.geo(), stage.view());
        let own = idle(stage).into_iter().filter_map(|cluster| {
            let block = view.raw(geo.first_block(cluster)).ok()?;
            let mut names = entries(&block).map_while(std::result::Result::ok);
            let dot = names.next().filter(|entry| entry.name == b".")?.inode;
            names.next().filter(|entry| entry.name == b"..")?;
            Some(dot)
        });
        own.collect()
    });
    own.contains(&directory)
}

/// What a block looks like to somebody who looks for the blocks of a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// It begins with the directory's own two names.
    First,
    /// It is of the directory, or may be.
    Later,
    /// It is something else.
    Other,
}

/// The blocks of a directory whose inode is lost: those that name it in their trailers, or, where
/// there are no trailers, those that begin with its own two names and others that hold nothing but
/// entries.
pub(super) fn directory_blocks(stage: &mut Stage<'_, '_>, directory: BlockNo) -> Result<Found> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster();
    let candidates = if directory == stage.view().info().system_dir {
        first_group(stage)
    } else {
        idle(stage)
    };
    let mut heads = Vec::new();
    for cluster in candidates {
        let look = look(stage, geo.first_block(cluster), directory)?;
        if look != Look::Other {
            heads.push((look, cluster));
        }
    }
    heads.sort_unstable();
    let Some(&(Look::First, first)) = heads.first() else {
        return Ok(Found::default());
    };
    let trailers = {
        let blkno = geo.first_block(first);
        trailer(&stage.view().raw(blkno)?, blkno).is_some()
    };
    let info = stage.view().info();
    if !trailers && directory != info.root && directory != info.system_dir {
        // Entries do not say whose they are: only what follows the first cluster is believed.
        let mut next = first.0;
        heads.retain(|(_, cluster)| {
            let follows = next == cluster.0;
            next += u32::from(follows);
            follows
        });
    }
    let mut found = Found {
        trailers,
        ..Found::default()
    };
    for (_, cluster) in heads {
        let first = geo.first_block(cluster);
        let mut own = 1;
        while own < bpc && look(stage, first.plus(own), directory)? == Look::Later {
            own += 1;
        }
        append(&mut found.extents, first, bpc);
        found.blocks += own;
        stage.adopted.insert(cluster);
        if own < bpc {
            // What follows an unused block is none of it.
            break;
        }
    }
    Ok(found)
}

/// The trailer of a directory block, if it ends with its own.
fn trailer(block: &[u8], blkno: BlockNo) -> Option<&DirBlockTrailer> {
    let at = block.len().saturating_sub(DIR_TRAILER);
    let trailer = DirBlockTrailer::ref_from_bytes(block.get(at..)?).ok()?;
    let own = trailer.db_signature == DIR_TRAILER_SIGNATURE && trailer.db_blkno.get() == blkno.0;
    own.then_some(trailer)
}

fn look(stage: &Stage<'_, '_>, blkno: BlockNo, directory: BlockNo) -> Result<Look> {
    let view = stage.view();
    let Ok(block) = view.raw(blkno) else {
        return Ok(Look::Other);
    };
    let trailer = trailer(&block, blkno);
    if trailer.is_none() && view.info().has(Incompat::META_ECC) {
        return Ok(Look::Other);
    }
    let end = block.len() - if trailer.is_some() { DIR_TRAILER } else { 0 };
    let area = block.get(..end).unwrap_or_default();
    let sound = entries(area).all(|entry| {
        entry.is_ok_and(|e| !e.is_used() || (!e.name.is_empty() && view.geo().contains(e.inode, 1)))
    });
    let mut names = entries(area).map_while(std::result::Result::ok);
    let is_dot = |e: &Entry<'_>| e.name == b"." && e.inode == directory;
    let dot = names.next().is_some_and(|entry| is_dot(&entry));
    let dotdot = names.next().is_some_and(|entry| entry.name == b"..");
    let own = match trailer {
        Some(trailer) => trailer.db_parent_dinode.get() == directory.0,
        None if dot => true,
        // Without trailers, what the names are must do.
        None if directory == view.info().system_dir => {
            let own = in_order(view).into_iter().map(SystemFile::name);
            let own: HashSet<Vec<u8>> = own.map(String::into_bytes).collect();
            entries(area).any(|entry| entry.is_ok_and(|entry| own.contains(entry.name)))
        }
        None => entries(area).any(|entry| entry.is_ok_and(|entry| entry.is_used())),
    };
    Ok(match (own && sound, dot && dotdot) {
        (true, true) => Look::First,
        (true, false) => Look::Later,
        (false, _) => Look::Other,
    })
}

/// The clusters of a journal that has lost its inode: they begin with its superblock, which says
/// how many blocks there are.
pub(super) fn journal(stage: &mut Stage<'_, '_>) -> Result<Option<Vec<Extent>>> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster();
    let idle = idle(stage);
    for (nth, &cluster) in idle.iter().enumerate() {
        let first = geo.first_block(cluster);
        let blocks = 1024usize.div_ceil(geo.block_bytes());
        let bytes = stage.view().run(first, blocks)?;
        let Ok((sb, _)) = JournalSuperBlock::ref_from_prefix(&bytes) else {
            continue;
        };
        let is_one = sb.h_magic.get() == MAGIC
            && sb.h_blocktype.get() == SUPERBLOCK_V2
            && sb.s_blocksize.get() as usize == geo.block_bytes()
            && sb.s_uuid == stage.view().info().uuid;
        let wanted = u64::from(sb.s_maxlen.get()) / bpc;
        let rest = idle.get(nth..).unwrap_or_default();
        if !is_one || wanted == 0 || (rest.len() as u64) < wanted {
            continue;
        }
        let taken = &rest[..index(wanted)];
        let mut extents = Vec::new();
        for &cluster in taken {
            append(&mut extents, geo.first_block(cluster), bpc);
        }
        stage.adopted.extend(taken);
        return Ok(Some(extents));
    }
    Ok(None)
}

/// One run of idle clusters of that length, when all that is idle is that run.
pub(super) fn only_run(stage: &mut Stage<'_, '_>, count: u32) -> Option<Vec<Extent>> {
    let geo = stage.geo();
    let idle = idle(stage);
    if idle.len() != index(count.into()) {
        return None;
    }
    let mut extents = Vec::new();
    for &cluster in &idle {
        append(
            &mut extents,
            geo.first_block(cluster),
            geo.blocks_per_cluster(),
        );
    }
    if extents.len() != 1 {
        return None;
    }
    stage.adopted.extend(&idle);
    Some(extents)
}

/// A run of idle clusters: the one to whose first block a block in it leads by `start`, or, where
/// none does, the first that is as long.
pub(super) fn run(
    stage: &mut Stage<'_, '_>,
    count: u32,
    start: impl Fn(&Stage<'_, '_>, BlockNo) -> Option<BlockNo>,
) -> Result<Option<BlockNo>> {
    let geo = stage.geo();
    let bpc = geo.blocks_per_cluster();
    let idle = idle(stage);
    let whole = |first: ClusterNo| {
        let at = idle.partition_point(|cluster| *cluster < first);
        let run = idle.get(at..at + index(count.into()));
        run.filter(|run| run.first() == Some(&first) && is_run(run))
            .map(<[ClusterNo]>::to_vec)
    };
    let mut found = None;
    'search: for &cluster in &idle {
        for block in 0..bpc {
            let blkno = geo.first_block(cluster).plus(block);
            if let Some(first) = start(stage, blkno)
                && geo.is_cluster_aligned(first)
                && let Some(run) = whole(geo.cluster_of(first))
            {
                found = Some(run);
                break 'search;
            }
        }
    }
    let found = found.or_else(|| idle.iter().find_map(|cluster| whole(*cluster)));
    let Some(run) = found else { return Ok(None) };
    stage.adopted.extend(&run);
    Ok(run.first().map(|first| geo.first_block(*first)))
}

/// Whether clusters follow each other.
fn is_run(clusters: &[ClusterNo]) -> bool {
    clusters.windows(2).all(|two| two[0].0 + 1 == two[1].0)
}
