//! `icheck`: from blocks to the inodes that use them.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::block::{Checked, View};
use cowfs_format::error::Error;
use cowfs_format::layout::{Dinode, DxRoot, DynFeatures, InodeFlags, RefcountBlock, XattrBlock};
use cowfs_format::read::extent::{self, Extent, TreeStep};
use cowfs_format::read::{chain, xattr};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::inodes;
use serde::Serialize;

use super::extents::value_extents;
use crate::report::{Page, Report, Text};
use crate::session::Session;
use crate::table::{Args, BLOCKS, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "icheck",
    aliases: &[],
    options: &[],
    operands: &[BLOCKS],
    summary: "Shows which inodes use blocks, and for what.",
    about: "Reads all inodes. A shared block has several owners.",
    needs: Needs::Volume,
    run: icheck,
}];

/// The uses of blocks.
#[derive(Serialize)]
struct Uses {
    blocks: Vec<Used>,
}

/// The uses of a block.
#[derive(Serialize)]
struct Used {
    blkno: u64,
    owners: Vec<Use>,
}

/// A use of a block.
#[derive(Clone, Serialize)]
struct Use {
    inode: u64,
    #[serde(rename = "use")]
    what: &'static str,
    /// Block of the file, for data.
    offset: Option<u64>,
    #[serde(skip)]
    blkno: BlockNo,
}

/// Looks which of the wanted blocks an inode uses.
struct Look<'a, 'v> {
    view: View<'v>,
    /// Sorted.
    wanted: &'a [BlockNo],
    inode: BlockNo,
    found: &'a mut Vec<Use>,
    faults: &'a mut Vec<Error>,
}

fn icheck(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    let given: Result<Vec<BlockNo>> = args.all().iter().map(|w| session.block_arg(w)).collect();
    let given = given?;
    let mut wanted = given.clone();
    wanted.sort_unstable();
    wanted.dedup();
    let (scanner, view) = session.scan()?;
    let (found, failed) = inodes::collect(scanner, view, |inode, found, faults| {
        let mut look = Look {
            view,
            wanted: &wanted,
            inode: inode.blkno(),
            found,
            faults,
        };
        look.inode(inode);
    });
    let blocks = given
        .into_iter()
        .map(|blkno| {
            let mut owners: Vec<Use> = found.iter().filter(|u| u.blkno == blkno).cloned().collect();
            if blkno == view.info().superblock {
                owners.push(Use {
                    inode: blkno.0,
                    what: "superblock",
                    offset: None,
                    blkno,
                });
            }
            Used {
                blkno: blkno.0,
                owners,
            }
        })
        .collect();
    for fault in failed {
        session.fault(fault);
    }
    Ok(Some(Box::new(Uses { blocks })))
}

impl Look<'_, '_> {
    /// A run of blocks, used for `what`; with the offset of the run in the file, for data.
    fn run(&mut self, first: BlockNo, count: u64, what: &'static str, offset: Option<u64>) {
        let start = self.wanted.partition_point(|blkno| *blkno < first);
        for blkno in self.wanted.get(start..).unwrap_or_default() {
            let skip = blkno.since(first);
            if skip >= count {
                break;
            }
            self.found.push(Use {
                inode: self.inode.0,
                what,
                offset: offset.map(|offset| offset + skip),
                blkno: *blkno,
            });
        }
    }

    fn extent(&mut self, extent: &Extent, what: &'static str, is_data: bool) {
        let per_cluster = self.view.geo().blocks_per_cluster();
        let offset = is_data.then(|| u64::from(extent.cpos) * per_cluster);
        let count = u64::from(extent.clusters) * per_cluster;
        self.run(extent.blkno, count, what, offset);
    }

    /// An extent tree: its blocks, and what its records map.
    fn tree(&mut self, owner: BlockNo, root: &[u8], what: &'static str, is_data: bool) {
        let view = self.view;
        let walked = extent::walk_tree(view, owner, root, &mut |step| {
            match step {
                TreeStep::List {
                    block: Some(block), ..
                } => self.run(block.blkno(), 1, "extent block", None),
                TreeStep::List { .. } => {}
                TreeStep::Extent(extent) => self.extent(&extent, what, is_data),
                TreeStep::Fault { error, .. } => self.faults.push(error),
            }
            ControlFlow::Continue(())
        });
        self.faults.extend(walked.err());
    }

    fn inode(&mut self, inode: &Checked<'_, Dinode>) {
        let view = self.view;
        self.run(inode.blkno(), 1, "inode", None);
        if inode.has_extents() {
            self.tree(inode.blkno(), inode.body(), "data", true);
        }
        if inode.flags().contains(InodeFlags::CHAIN)
            && let Ok(groups) = chain::groups(view, inode)
        {
            for group in groups {
                self.run(group.blkno, 1, "group descriptor", None);
            }
        }
        if inode.dyn_features().contains(DynFeatures::INDEXED_DIR) {
            let at = BlockNo(inode.i_dx_root.get());
            self.run(at, 1, "directory index root", None);
            match view.block::<DxRoot>(at) {
                Ok(root) if !root.is_inline() => {
                    self.tree(at, root.body(), "directory index leaf", false);
                }
                Ok(_) => {}
                Err(error) => self.faults.push(error),
            }
        }
        if inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT) {
            let at = BlockNo(inode.i_refcount_loc.get());
            self.run(at, 1, "refcount root", None);
            match view.block::<RefcountBlock>(at) {
                Ok(root) if root.is_tree() => self.leaves(at, root.body()),
                Ok(_) => {}
                Err(error) => self.faults.push(error),
            }
        }
        if inode.i_xattr_loc.get() != 0 {
            let at = BlockNo(inode.i_xattr_loc.get());
            self.run(at, 1, "xattr block", None);
            match view.block::<XattrBlock>(at) {
                Ok(block) if xattr::is_indexed(&block) => {
                    self.tree(at, xattr::tree_list(&block), "xattr buckets", false);
                }
                Ok(_) => {}
                Err(error) => self.faults.push(error),
            }
        }
        for extent in value_extents(view, inode, self.faults) {
            self.extent(&extent, "xattr value", false);
        }
    }

    /// The leaves of a refcount tree, whose records count one cluster but take one block.
    fn leaves(&mut self, owner: BlockNo, root: &[u8]) {
        match extent::extents(self.view, owner, root) {
            Ok(leaves) => {
                for leaf in leaves {
                    self.run(leaf.blkno, 1, "refcount leaf", None);
                }
            }
            Err(error) => self.faults.push(error),
        }
    }
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
                writeln!(page, "\t{:<15}   Unknown", block.blkno)?;
            }
            for Use {
                inode,
                what,
                offset,
                ..
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
