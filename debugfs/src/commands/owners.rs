//! From blocks to the inodes that use them: `icheck` as debugfs.ocfs2 has it, and `owners`, which
//! tells all that is known of a block.

use std::io::{self, Write};

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::error::Error;
use cowfs_format::layout::{Compat, Dinode, ExtentFlags, GroupDesc};
use cowfs_format::read::holdings::{self, Purpose};
use cowfs_format::read::{chain, inode, refcount};
use cowfs_format::units::{self, BlockNo, ClusterNo, low32};
use cowfs_format::volume::inodes;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::names;
use crate::report::{Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BLOCKS, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "icheck",
        aliases: &[],
        options: &[],
        operands: &[BLOCKS],
        summary: "Shows which inodes use blocks, and for what.",
        about: "Reads all inodes. A shared block has several owners; `owners` tells more of them.",
        needs: Needs::Volume,
        says: schema::of::<Uses>,
        run: icheck,
    },
    Command {
        name: "owners",
        aliases: &[],
        options: &[],
        operands: &[BLOCKS],
        summary: "Shows all that holds blocks, with paths, and how many sharers were recorded.",
        about: "Reads all inodes and directories. Told are: all inodes whose data, extent tree, \
                index, xattrs or refcount tree hold the block, system files included; the bit of \
                the allocator that it came from; what the cluster bitmap says of its cluster; and, \
                for a cluster in a refcount tree, how many mappings are recorded and were found.",
        needs: Needs::Volume,
        says: schema::of::<Known>,
        run: owners,
    },
];

/// The uses of blocks.
#[derive(JsonSchema, Serialize)]
struct Uses {
    blocks: Vec<Used>,
}

/// The uses of a block.
#[derive(JsonSchema, Serialize)]
struct Used {
    blkno: u64,
    /// What the cluster bitmap says; nothing when its group cannot be read.
    cluster_in_use: Option<bool>,
    owners: Vec<Use>,
}

/// A use of a block.
#[derive(Clone, JsonSchema, Serialize)]
struct Use {
    inode: u64,
    #[serde(rename = "use")]
    what: &'static str,
    /// Block of the file, for data.
    offset: Option<u64>,
}

/// A use of a block, as the search finds it.
#[derive(Clone, Copy)]
struct Hit {
    blkno: BlockNo,
    inode: BlockNo,
    purpose: Purpose,
    /// Block of the file, for data.
    offset: Option<u64>,
    flags: ExtentFlags,
    /// The refcount tree of the inode; 0 = none.
    tree: BlockNo,
}

impl Hit {
    /// Whether it is the block's own use: an allocator holds all blocks that others got from it.
    const fn is_told(&self) -> bool {
        !matches!(
            self.purpose,
            Purpose::Group | Purpose::Window | Purpose::Truncated
        )
    }
}

/// All uses of blocks, which are sorted; in the order of the inodes. And what cannot be read.
///
/// Most inodes tell in their heads that they hold none of the blocks, and are not tested against their
/// checks. Where not all owners that there must be are found so, all inodes are read.
fn search(scanner: &Scanner, view: View<'_>, wanted: &[BlockNo]) -> (Vec<Hit>, Vec<Error>) {
    let is_wanted = |first: BlockNo, blocks: u64| {
        let at = wanted.partition_point(|blkno| *blkno < first);
        (wanted.get(at)).is_some_and(|blkno| blkno.since(first) < blocks)
    };
    let bits = view.geo().cluster_bits() - view.geo().block_bits();
    let holds_none = |inode: &Dinode, body: &[u8]| {
        if is_wanted(BlockNo(inode.i_blkno.get()), 1) {
            return false;
        }
        inode.holds_nothing()
            || inode.holds_only(body).is_some_and(|recs| {
                !recs.iter().any(|rec| {
                    let blocks = u64::from(rec.e_leaf_clusters.get()) << bits;
                    is_wanted(BlockNo(rec.e_blkno.get()), blocks)
                })
            })
    };
    let (hits, failed) = search_but(scanner, view, wanted, holds_none);
    if wanted
        .iter()
        .all(|blkno| has_all_owners(view, &hits, *blkno))
    {
        return (hits, failed);
    }
    search_but(scanner, view, wanted, |_, _| false)
}

/// Whether the uses of a block that were found are as many as there must be.
fn has_all_owners(view: View<'_>, hits: &[Hit], blkno: BlockNo) -> bool {
    let cluster = view.geo().cluster_of(blkno);
    if fixed(view, blkno).is_some() || in_use(view, cluster).is_ok_and(|used| !used) {
        return true;
    }
    let holders = || {
        hits.iter()
            .filter(|hit| hit.blkno == blkno && hit.is_told())
    };
    match holders().find(|hit| hit.flags.contains(ExtentFlags::REFCOUNTED)) {
        Some(shared) => recorded(view, shared.tree, cluster)
            .is_ok_and(|recorded| holders().count() >= units::index(recorded.into())),
        // What an allocator has not given out, or a slot holds in reserve, is nobody's.
        None if holders().next().is_none() => hits.iter().any(|hit| {
            hit.blkno == blkno
                && match hit.purpose {
                    Purpose::Group => bit_of(view, hit.inode, blkno)
                        .is_ok_and(|bit| bit.is_some_and(|(.., in_use)| !in_use)),
                    _ => true,
                }
        }),
        None => true,
    }
}

/// Mappings of a cluster by the record of its refcount tree; 0 = there is none.
fn recorded(view: View<'_>, tree: BlockNo, cluster: ClusterNo) -> Result<u32, Error> {
    let first = u64::from(cluster.0);
    let records = refcount::records_in(view, tree, first, first + 1)?;
    Ok(records.first().map_or(0, |rec| rec.r_refcount.get()))
}

fn search_but(
    scanner: &Scanner,
    view: View<'_>,
    wanted: &[BlockNo],
    skip: impl Fn(&Dinode, &[u8]) -> bool + Sync,
) -> (Vec<Hit>, Vec<Error>) {
    inodes::collect_but(scanner, view, skip, |inode, found, faults| {
        holdings::for_each_run(view, inode, &mut |run| {
            let run = match run {
                Ok(run) => run,
                Err(error) => return faults.push(error),
            };
            let start = wanted.partition_point(|blkno| *blkno < run.blkno);
            for blkno in wanted.get(start..).unwrap_or_default() {
                let skip = blkno.since(run.blkno);
                if skip >= run.blocks {
                    break;
                }
                found.push(Hit {
                    blkno: *blkno,
                    inode: inode.blkno(),
                    purpose: run.purpose,
                    offset: run.offset.map(|offset| offset + skip),
                    flags: run.flags,
                    tree: BlockNo(inode.i_refcount_loc.get()),
                });
            }
        });
    })
}

/// The blocks that were asked for, as given and sorted.
fn blocks(session: &mut Session, args: &Args) -> Result<(Vec<BlockNo>, Vec<BlockNo>)> {
    session.scanner()?;
    let given: Result<Vec<BlockNo>> = args.all().iter().map(|w| session.block_arg(w)).collect();
    let given = given?;
    let mut wanted = given.clone();
    wanted.sort_unstable();
    wanted.dedup();
    Ok((given, wanted))
}

fn icheck(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let (given, wanted) = blocks(session, args)?;
    let (scanner, view) = session.scan()?;
    let (found, mut failed) = search(scanner, view, &wanted);
    let bitmap = system::find(view, SystemFile::GlobalBitmap).ok();
    let blocks = given
        .into_iter()
        .map(|blkno| {
            let here = |hit: &&Hit| hit.blkno == blkno;
            let mut owners: Vec<Use> = (found.iter().filter(|hit| hit.is_told()).filter(here))
                .map(|hit| Use {
                    inode: hit.inode.0,
                    what: hit.purpose.name(),
                    offset: hit.offset,
                })
                .collect();
            // What stands around the descriptors of the cluster bitmap is the bitmap's.
            let inode = match fixed(view, blkno) {
                None | Some("group descriptor") => None,
                Some(what @ "beside a group descriptor") => bitmap.map(|inode| (inode, what)),
                Some(what) => Some((view.info().superblock, what)),
            };
            if let Some((inode, what)) = inode {
                owners.push(Use {
                    inode: inode.0,
                    what,
                    offset: None,
                });
            }
            let in_use = in_use(view, view.geo().cluster_of(blkno));
            Used {
                blkno: blkno.0,
                cluster_in_use: in_use.map_err(|error| failed.push(error)).ok(),
                owners,
            }
        })
        .collect();
    for fault in failed {
        session.fault(fault);
    }
    Ok(Some(Box::new(Uses { blocks })))
}

/// All that is known of blocks.
#[derive(JsonSchema, Serialize)]
struct Known {
    blocks: Vec<Block>,
}

/// All that is known of a block.
#[derive(JsonSchema, Serialize)]
struct Block {
    blkno: u64,
    cluster: u32,
    /// What the cluster bitmap says; nothing when its group cannot be read.
    cluster_in_use: Option<bool>,
    /// The fixed area that the block is part of.
    fixed: Option<&'static str>,
    /// The bit of the allocator that the block came from.
    allocator: Option<Bit>,
    /// What the refcount tree has of the cluster.
    refcount: Option<Recorded>,
    /// Mappings of the cluster that were found.
    found: usize,
    owners: Vec<Owner>,
}

/// A bit of an allocator.
#[derive(JsonSchema, Serialize)]
struct Bit {
    inode: u64,
    #[serde(flatten)]
    path: Option<PathNamed>,
    group: u64,
    bit: u32,
    in_use: bool,
}

/// What a refcount tree has of a cluster.
#[derive(JsonSchema, Serialize)]
struct Recorded {
    root: u64,
    /// Mappings by the record; 0 = there is none.
    recorded: u32,
}

/// What holds a block.
#[derive(JsonSchema, Serialize)]
struct Owner {
    inode: u64,
    /// The first of its paths.
    #[serde(flatten)]
    path: Option<PathNamed>,
    /// Number of its paths.
    paths: usize,
    #[serde(rename = "use")]
    what: &'static str,
    /// Block of the file, for data.
    offset: Option<u64>,
    /// Whether the extent is marked as counted in the refcount tree.
    refcounted: bool,
    /// Whether the extent reads as zeros.
    unwritten: bool,
}

fn owners(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let (given, wanted) = blocks(session, args)?;
    let (scanner, view) = session.scan()?;
    let (found, mut failed) = search(scanner, view, &wanted);
    let mut inodes: Vec<BlockNo> = found.iter().map(|hit| hit.inode).collect();
    inodes.sort_unstable();
    inodes.dedup();
    let (paths, more) = names::paths(scanner, view, &inodes);
    failed.extend(more);
    let path = |inode: BlockNo| {
        let all = paths.get(&inode).map(Vec::as_slice).unwrap_or_default();
        (
            all.first().map(|path| PathNamed::new(path.as_slice())),
            all.len(),
        )
    };
    let mut blocks = Vec::new();
    for blkno in given {
        let hits: Vec<&Hit> = found.iter().filter(|hit| hit.blkno == blkno).collect();
        let mut keep = |tried: Result<_, Error>| tried.map_err(|error| failed.push(error)).ok();
        let cluster = view.geo().cluster_of(blkno);
        let allocator = hits.iter().find(|hit| hit.purpose == Purpose::Group);
        let allocator = allocator
            .and_then(|hit| keep(bit_of(view, hit.inode, blkno)).flatten())
            .map(|(inode, group, bit, in_use)| Bit {
                inode: inode.0,
                path: path(inode).0,
                group: group.0,
                bit,
                in_use,
            });
        let counted = (hits.iter()).find(|hit| hit.flags.contains(ExtentFlags::REFCOUNTED));
        let mut refcount = None;
        if let Some(hit) = counted {
            match recorded(view, hit.tree, cluster) {
                Ok(recorded) => {
                    refcount = Some(Recorded {
                        root: hit.tree.0,
                        recorded,
                    });
                }
                Err(error) => failed.push(error),
            }
        }
        let in_use = match in_use(view, cluster) {
            Ok(in_use) => Some(in_use),
            Err(error) => {
                failed.push(error);
                None
            }
        };
        let owners: Vec<Owner> = (hits.iter())
            .filter(|hit| hit.purpose != Purpose::Group)
            .map(|hit| {
                let (path, paths) = path(hit.inode);
                Owner {
                    inode: hit.inode.0,
                    path,
                    paths,
                    what: hit.purpose.name(),
                    offset: hit.offset,
                    refcounted: hit.flags.contains(ExtentFlags::REFCOUNTED),
                    unwritten: hit.flags.contains(ExtentFlags::UNWRITTEN),
                }
            })
            .collect();
        let maps = |hit: &&&Hit| hit.purpose.in_clusters() && hit.purpose != Purpose::Group;
        blocks.push(Block {
            blkno: blkno.0,
            cluster: cluster.0,
            cluster_in_use: in_use,
            fixed: fixed(view, blkno),
            allocator,
            refcount,
            found: hits.iter().filter(maps).count(),
            owners,
        });
    }
    for fault in failed {
        session.fault(fault);
    }
    Ok(Some(Box::new(Known { blocks })))
}

/// Where a block stands in its allocator: the inode, the group, the bit, and whether that is set.
fn bit_of(
    view: View<'_>,
    allocator: BlockNo,
    blkno: BlockNo,
) -> Result<Option<(BlockNo, BlockNo, u32, bool)>, Error> {
    let inode = inode::read(view, allocator)?;
    let per_cluster = chain::chains(&inode)?.head.cl_bpc.get();
    for step in chain::groups(view, &inode)? {
        let Ok(group) = step.group else { continue };
        let mut extents = group.discontiguous(per_cluster);
        if extents.is_empty() {
            extents.push((0, u32::from(group.bg_bits.get()), group.blkno()));
        }
        for (first, bits, start) in extents {
            if blkno >= start && blkno.since(start) < u64::from(bits) {
                let bit = first.saturating_add(low32(blkno.since(start)));
                return Ok(Some((allocator, group.blkno(), bit, group.is_set(bit))));
            }
        }
    }
    Ok(None)
}

/// What the cluster bitmap says of a cluster.
fn in_use(view: View<'_>, cluster: ClusterNo) -> Result<bool, Error> {
    let geo = view.geo();
    let number = cluster.0 / geo.clusters_per_group();
    let group = view.block::<GroupDesc>(geo.group_block(number))?;
    Ok(group.is_set(cluster.0 % geo.clusters_per_group()))
}

/// The fixed area that a block lies in.
fn fixed(view: View<'_>, blkno: BlockNo) -> Option<&'static str> {
    let geo = view.geo();
    let cluster = geo.cluster_of(blkno);
    if cluster < geo.first_group_cluster() {
        return Some(match blkno.0 {
            2 => "superblock",
            _ => "beside the superblock",
        });
    }
    let has_backups = view.info().features.compat.contains(Compat::BACKUP_SB);
    if has_backups {
        let block = |offset: u64| BlockNo(offset >> geo.block_bits());
        let here = (geo.backup_offsets().map(block)).find(|at| geo.cluster_of(*at) == cluster);
        if let Some(at) = here {
            return Some(if at == blkno {
                "backup superblock"
            } else {
                "beside a backup superblock"
            });
        }
    }
    let group = geo.group_block(cluster.0 / geo.clusters_per_group());
    (geo.cluster_of(group) == cluster).then_some(if group == blkno {
        "group descriptor"
    } else {
        "beside a group descriptor"
    })
}

impl Text for Known {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for block in &self.blocks {
            let state = match block.cluster_in_use {
                Some(true) => "in use",
                Some(false) => "free",
                None => "unknown",
            };
            write!(
                page,
                "Block {}: cluster {} is {state}",
                block.blkno, block.cluster
            )?;
            if let Some(fixed) = block.fixed {
                write!(page, "; {fixed}")?;
            }
            match &block.refcount {
                Some(Recorded { root, recorded }) => {
                    write!(
                        page,
                        "; {recorded} mappings recorded in refcount tree {root}, {} found",
                        block.found
                    )?;
                }
                None if block.found > 1 => {
                    write!(page, "; {} mappings found, none recorded", block.found)?;
                }
                None => {}
            }
            writeln!(page)?;
            if let Some(bit) = &block.allocator {
                let state = if bit.in_use { "in use" } else { "free" };
                write!(
                    page,
                    "\tbit {} of group {} is {state}, in ",
                    bit.bit, bit.group
                )?;
                place(page, bit.inode, bit.path.as_ref(), 1)?;
            }
            for owner in &block.owners {
                let itself = owner.what == Purpose::Inode.name();
                write!(page, "\t{}", if itself { "this is" } else { owner.what })?;
                if let Some(offset) = owner.offset {
                    write!(page, ", block {offset}")?;
                }
                if owner.unwritten {
                    write!(page, ", unwritten")?;
                }
                write!(page, "{}", if itself { " " } else { " of " })?;
                place(page, owner.inode, owner.path.as_ref(), owner.paths)?;
            }
            if block.owners.is_empty() && block.fixed.is_none() {
                writeln!(page, "\tNothing holds it.")?;
            }
        }
        Ok(())
    }
}

/// `inode 1234 /path (and 2 other names)`
fn place(
    page: &mut Page<'_>,
    inode: u64,
    path: Option<&PathNamed>,
    paths: usize,
) -> io::Result<()> {
    write!(page, "inode {inode}")?;
    match path {
        Some(path) => {
            write!(page, " ")?;
            page.name(path.text())?;
        }
        None => write!(page, ", which no path leads to")?,
    }
    if paths > 1 {
        write!(page, " (one of {paths} names)")?;
    }
    writeln!(page)
}

impl Text for Uses {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\t{:<15}   {:<15}   {:<15}   Use",
            "Block#", "Inode", "Block Offset"
        )?;
        for block in &self.blocks {
            if block.owners.is_empty() {
                let free = block.cluster_in_use == Some(false);
                let state = if free { "Unused" } else { "Unknown" };
                writeln!(page, "\t{:<15}   {state}", block.blkno)?;
            }
            for Use {
                inode,
                what,
                offset,
            } in &block.owners
            {
                let offset = offset.map_or(String::new(), |offset| offset.to_string());
                writeln!(
                    page,
                    "\t{:<15}   {inode:<15}   {offset:<15}   {what}",
                    block.blkno
                )?;
            }
        }
        Ok(())
    }
}
