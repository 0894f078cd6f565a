//! Commands about where the contents of a file are.

use std::io::{self, Write};

use anyhow::{Context, Result};
use cowfs_format::block::{Checked, View};
use cowfs_format::error::Error;
use cowfs_format::layout::{
    Dinode, DynFeatures, EXTENT_BLOCK_LIST, EXTENT_FLAG_NAMES, ExtentBlock, MAX_LEAF_CLUSTERS,
};
use cowfs_format::read::extent::{self, Extent, ListView, TreeStep};
use cowfs_format::read::xattr;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::inodes;
use schemars::JsonSchema;
use serde::Serialize;

use super::names;
use super::parts::TreeBlock;
use super::refcount;
use crate::report::{Flags, Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::{Session, number};
use crate::table::{Args, BLOCK, Command, Count, FILE, Needs, OperandKind, flag, operand};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "extents",
        aliases: &[],
        options: &[flag(
            'o',
            "owners",
            "find who else maps the clusters (reads all inodes)",
        )],
        operands: &[FILE],
        summary: "Shows which clusters a file has, with their state and sharing.",
        about: "A shared extent is cut where the number of its mappings changes.",
        needs: Needs::Volume,
        says: schema::of::<Map>,
        run: extents,
    },
    Command {
        name: "frag",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows how fragmented a file is.",
        about: "The score is the percentage of extents to clusters, times the clusters of a MiB.",
        needs: Needs::Volume,
        says: schema::of::<Frag>,
        run: frag,
    },
    Command {
        name: "bmap",
        aliases: &[],
        options: &[],
        operands: &[FILE, operand("LOGICAL", OperandKind::Number, Count::One)],
        summary: "Shows which block of the volume a block of a file is.",
        about: "0 stands for none: a hole, or contents that stand in the inode.",
        needs: Needs::Volume,
        says: schema::of::<Mapped>,
        run: bmap,
    },
    Command {
        name: "extent",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows a block of an extent tree.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<TreeBlock>,
        run: |session, args| {
            let view = session.view()?;
            let block = view.block::<ExtentBlock>(session.block_arg(args.need(0)?)?)?;
            let space = block.bytes().get(EXTENT_BLOCK_LIST..).unwrap_or_default();
            let list = ListView::parse(space).context("the block has no room for a list")?;
            Ok(Some(Box::new(TreeBlock::of(&block, list))))
        },
    },
];

impl Text for TreeBlock {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.lines(page)
    }
}

/// Where a file is.
#[derive(JsonSchema, Serialize)]
struct Map {
    inode: u64,
    size: u64,
    clusters: u32,
    inline: bool,
    extents: Vec<Piece>,
    #[serde(skip)]
    with_owners: bool,
}

/// A run of clusters of a file.
#[derive(JsonSchema, Serialize)]
struct Piece {
    cpos: u32,
    clusters: u64,
    cluster: u64,
    blkno: u64,
    flags: Flags,
    /// Mappings of these clusters, by the refcount tree; null when not counted there.
    refcount: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owners: Option<Vec<Owner>>,
}

/// Another mapping of clusters.
#[derive(Clone, JsonSchema, Serialize)]
struct Owner {
    inode: u64,
    #[serde(flatten)]
    path: Option<PathNamed>,
    /// Whether the clusters belong to the value of an xattr.
    xattr: bool,
    cpos: u32,
    #[serde(skip)]
    extent: (u64, u64),
}

fn extents(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let with_owners = args.has('o');
    if with_owners {
        session.scanner()?;
    }
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let mut faults = Vec::new();
    let found = data_extents(view, &inode, &mut faults);
    let counts = if inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
        refcount::counts(view, BlockNo(inode.i_refcount_loc.get())).unwrap_or_else(|error| {
            faults.push(error);
            Vec::new()
        })
    } else {
        Vec::new()
    };
    let mut map = Map {
        inode: inode.blkno().0,
        size: inode.i_size.get(),
        clusters: inode.i_clusters.get(),
        inline: inode.inline_data().is_some() || inode.fast_symlink().is_some(),
        extents: found
            .iter()
            .flat_map(|e| pieces(view, e, &counts))
            .collect(),
        with_owners,
    };
    if with_owners {
        owners(session, &mut map, &mut faults)?;
    }
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(map)))
}

/// The extents of an inode's data, as far as its tree can be walked.
fn data_extents(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    faults: &mut Vec<Error>,
) -> Vec<Extent> {
    let mut found = Vec::new();
    if inode.has_extents() {
        let walked = extent::walk_tree(view, inode.blkno(), inode.body(), &mut |step| {
            match step {
                TreeStep::Extent(extent) => found.push(extent),
                TreeStep::Fault { error, .. } => faults.push(error),
                TreeStep::List { .. } => {}
            }
            std::ops::ControlFlow::Continue(())
        });
        faults.extend(walked.err());
    }
    found
}

/// An extent, cut where the count of its mappings changes.
fn pieces(view: View<'_>, extent: &Extent, counts: &[(u64, u64, u32)]) -> Vec<Piece> {
    let geo = view.geo();
    let start = u64::from(geo.cluster_of(extent.blkno).0);
    let end = start.saturating_add(extent.clusters.into());
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        // Records are sorted and disjoint, unless the tree is damaged.
        let next = counts.partition_point(|(first, len, _)| first.saturating_add(*len) <= at);
        let record = counts.get(next).filter(|_| extent.is_refcounted());
        let (stop, refcount) = match record {
            Some((first, len, count)) if *first <= at => {
                (first.saturating_add(*len).min(end), Some(*count))
            }
            Some((first, ..)) => ((*first).min(end), None),
            None => (end, None),
        };
        let skip = at - start;
        found.push(Piece {
            cpos: extent
                .cpos
                .saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)),
            clusters: stop - at,
            cluster: at,
            blkno: extent.blkno.plus(skip * geo.blocks_per_cluster()).0,
            flags: Flags::of(extent.flags.bits(), EXTENT_FLAG_NAMES),
            refcount,
            owners: None,
        });
        at = stop;
    }
    found
}

/// Finds all other mappings of the pieces of a file.
fn owners(session: &Session, map: &mut Map, faults: &mut Vec<Error>) -> Result<()> {
    let (scanner, view) = session.scan()?;
    let mut wanted: Vec<(u64, u64)> = map
        .extents
        .iter()
        .map(|piece| (piece.cluster, piece.cluster + piece.clusters))
        .collect();
    wanted.sort_unstable();
    let touches = |start: u64, end: u64| {
        let at = wanted.partition_point(|(_, stop)| *stop <= start);
        wanted.get(at).is_some_and(|(first, _)| *first < end)
    };
    let this = map.inode;
    let (mut found, failed) = inodes::collect(scanner, view, |inode, found, faults| {
        let mut add = |extent: &Extent, xattr: bool| {
            let start = u64::from(view.geo().cluster_of(extent.blkno).0);
            let end = start.saturating_add(extent.clusters.into());
            if touches(start, end) {
                found.push(Owner {
                    inode: inode.blkno().0,
                    path: None,
                    xattr,
                    cpos: extent.cpos,
                    extent: (start, end),
                });
            }
        };
        if inode.blkno().0 != this {
            for extent in data_extents(view, inode, faults) {
                add(&extent, false);
            }
        }
        for extent in value_extents(view, inode, faults) {
            add(&extent, true);
        }
    });
    faults.extend(failed);
    let inodes: Vec<BlockNo> = found.iter().map(|owner| BlockNo(owner.inode)).collect();
    let (paths, failed) = names::paths(scanner, view, &inodes);
    faults.extend(failed);
    for owner in &mut found {
        let path = paths.get(&BlockNo(owner.inode)).and_then(|all| all.first());
        owner.path = path.map(|path| PathNamed::new(path.as_slice()));
    }
    // By place: those that reach a piece begin less than the longest extent before it.
    found.sort_by_key(|owner| (owner.extent, owner.inode, owner.cpos));
    let longest = u64::from(MAX_LEAF_CLUSTERS);
    for piece in &mut map.extents {
        let (start, end) = (piece.cluster, piece.cluster + piece.clusters);
        let from = found.partition_point(|owner| owner.extent.0 + longest < start);
        let to = found.partition_point(|owner| owner.extent.0 < end);
        let near = found.get(from..to).unwrap_or_default();
        let here = near
            .iter()
            .filter(|owner| start < owner.extent.1)
            .map(|owner| {
                let skip = start.saturating_sub(owner.extent.0);
                Owner {
                    cpos: owner
                        .cpos
                        .saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)),
                    ..owner.clone()
                }
            });
        piece.owners = Some(here.collect());
    }
    Ok(())
}

/// The extents of all xattr values of an inode that stand in clusters of their own.
pub(super) fn value_extents(
    view: View<'_>,
    inode: &Checked<'_, Dinode>,
    faults: &mut Vec<Error>,
) -> Vec<Extent> {
    let mut found = Vec::new();
    if !inode.dyn_features().contains(DynFeatures::HAS_XATTR) {
        return found;
    }
    xattr::for_each_area(view, inode, &mut |area| {
        match area {
            Err(error) => faults.push(error),
            Ok((place, area)) => {
                for entry in xattr::entries(area).flatten() {
                    match entry.extents(view, place.blkno()) {
                        Ok(extents) => found.extend(extents),
                        Err(error) => faults.push(error),
                    }
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    });
    found
}

impl Text for Map {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tInode: {}   Size: {}   Clusters: {}",
            self.inode, self.size, self.clusters
        )?;
        if self.inline {
            return writeln!(page, "\tThe contents stand in the inode.");
        }
        if self.extents.is_empty() {
            return writeln!(page, "\tNo extents.");
        }
        writeln!(
            page,
            "\t{:<3} {:<10}   {:<9}   {:<10}   {:<13}   {:<5}   Flags",
            "##", "Offset", "Clusters", "Cluster#", "Block#", "Count"
        )?;
        for (i, piece) in self.extents.iter().enumerate() {
            let Piece {
                cpos,
                clusters,
                cluster,
                blkno,
                ..
            } = piece;
            let count = piece.refcount.map_or("-".to_owned(), |n| n.to_string());
            writeln!(
                page,
                "\t{i:<3} {cpos:<10}   {clusters:<9}   {cluster:<10}   {blkno:<13}   {count:<5}   {:#x} {}",
                piece.flags.bits,
                piece.flags.line()
            )?;
            for owner in piece.owners.iter().flatten() {
                write!(page, "\t    also inode {}", owner.inode)?;
                if owner.xattr {
                    write!(page, " (xattr)")?;
                }
                write!(page, " at {}", owner.cpos)?;
                if let Some(path) = &owner.path {
                    write!(page, ": ")?;
                    page.name(path.text())?;
                }
                writeln!(page)?;
            }
        }
        if self.with_owners {
            let alone: u64 = self
                .extents
                .iter()
                .filter(|piece| piece.owners.as_ref().is_some_and(Vec::is_empty))
                .map(|piece| piece.clusters)
                .sum();
            writeln!(page, "\tClusters of this file alone: {alone}")?;
        }
        Ok(())
    }
}

/// How fragmented a file is.
#[derive(JsonSchema, Serialize)]
struct Frag {
    inode: u64,
    percent: f64,
    clusters: u32,
    extents: usize,
    score: f64,
}

fn frag(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let extents = inode.extents(view)?.len();
    let clusters = inode.i_clusters.get();
    let percent = if clusters > 1 {
        100.0 * extents as f64 / f64::from(clusters)
    } else {
        0.0
    };
    let clusters_per_mib = (1u64 << 20) >> view.geo().cluster_bits();
    Ok(Some(Box::new(Frag {
        inode: inode.blkno().0,
        percent,
        clusters,
        extents,
        score: percent * clusters_per_mib as f64,
    })))
}

impl Text for Frag {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "Inode: {}\t% fragmented: {:.2}\tclusters: {}\textents: {}\tscore: {:.0}",
            self.inode, self.percent, self.clusters, self.extents, self.score
        )
    }
}

/// The block behind a block of a file.
#[derive(JsonSchema, Serialize)]
struct Mapped {
    inode: u64,
    logical: u64,
    /// Null in a hole.
    blkno: Option<u64>,
}

fn bmap(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let logical = number(args.need(1)?)?;
    let per_cluster = view.geo().blocks_per_cluster();
    let cpos = u32::try_from(logical / per_cluster).context("no file is that long")?;
    let extent = if inode.has_extents() {
        extent::find(view, inode.blkno(), inode.body(), cpos)?
    } else {
        None
    };
    let extent = extent.filter(|extent| cpos < extent.end());
    let skip = |extent: Extent| logical - u64::from(extent.cpos) * per_cluster;
    Ok(Some(Box::new(Mapped {
        inode: inode.blkno().0,
        logical,
        blkno: extent.map(|extent| extent.blkno.plus(skip(extent)).0),
    })))
}

impl Text for Mapped {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self.blkno {
            Some(blkno) => writeln!(page, "\t{blkno}"),
            None => writeln!(page, "\t0"),
        }
    }
}
