//! The tree of directories, and link counts: drawn from the facts of all directories.

use std::sync::atomic::Ordering;

use cowfs_format::block::View;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::BlockNo;

use crate::catalogue::{At, DirProblem, InodeProblem};
use crate::facts::groups::Kind;
use crate::facts::{Cx, Out};

/// What all directories together say of their tree.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Child, parent, in the order of the scan.
    pub(crate) children: Vec<(BlockNo, BlockNo)>,
    /// Directory, where its ".." leads.
    pub(crate) dirs: Vec<(BlockNo, Option<BlockNo>)>,
}

/// What is known of a directory's way to the root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Unknown,
    Under,
    Reached,
    Lost,
}

/// Checks that every directory hangs in the tree once, and that its ".." says so.
pub(crate) fn tree(cx: &Cx<'_>, links: &mut Links) -> Out {
    let mut out = Out::default();
    let tops = [cx.view.info().root, cx.view.info().system_dir];
    // A stable sort keeps the entry that was met first in front.
    links.children.sort_by_key(|(child, _)| *child);
    let mut parents: Vec<(BlockNo, BlockNo)> = Vec::new();
    for &(child, parent) in &links.children {
        let first = match parents.last() {
            _ if tops.contains(&child) => Some(child),
            Some((last, first)) if *last == child => Some(*first),
            _ => None,
        };
        match first {
            None => parents.push((child, parent)),
            Some(first) => {
                let (target, first) = (child.0, first.0);
                out.find(At::inode(parent), DirProblem::ParentDup { target, first });
            }
        }
    }
    links.dirs.sort_unstable();
    let mut ways = vec![Way::Unknown; links.dirs.len()];
    let position = |dir: BlockNo| links.dirs.binary_search_by_key(&dir, |(dir, _)| *dir).ok();
    let parent_of = |dir: BlockNo| {
        let at = parents
            .binary_search_by_key(&dir, |(child, _)| *child)
            .ok()?;
        parents.get(at).map(|(_, parent)| *parent)
    };
    for &(dir, dotdot) in &links.dirs {
        let mut path = Vec::new();
        let mut at = dir;
        let way = loop {
            let Some(i) = position(at) else {
                break Way::Lost;
            };
            match ways.get(i).copied().unwrap_or(Way::Lost) {
                Way::Unknown if tops.contains(&at) => break Way::Reached,
                Way::Unknown => {}
                Way::Under => break Way::Lost,
                known => break known,
            }
            ways[i] = Way::Under;
            path.push(i);
            match parent_of(at) {
                Some(parent) => at = parent,
                None => break Way::Lost,
            }
        };
        for i in path {
            ways[i] = way;
        }
        let expected = if tops.contains(&dir) {
            Some(dir)
        } else {
            parent_of(dir)
        };
        let orphaned = cx.groups.inode(dir).is_some_and(|fact| fact.orphaned());
        if way == Way::Lost {
            out.find(At::inode(dir), DirProblem::NotConnected {});
        } else if let (Some(found), Some(expected)) = (dotdot, expected)
            && found != expected
            && !orphaned
        {
            let (found, expected) = (found.0, expected.0);
            out.find(At::inode(dir), DirProblem::DotDot { found, expected });
        }
    }
    out
}

/// Compares the link counts of a group's inodes with the names found.
pub(crate) fn counts(cx: &Cx<'_>, group: &crate::facts::groups::Group) -> Out {
    let mut out = Out::default();
    if group.kind != Kind::Inode {
        return out;
    }
    let tops = [cx.view.info().root, cx.view.info().system_dir];
    for bit in 1..group.bits {
        let Some(fact) = group
            .inode(bit)
            .filter(|fact| fact.seen() && !fact.damaged())
        else {
            continue;
        };
        let Some(blkno) = group.block_of(bit) else {
            continue;
        };
        let at = At::inode(blkno);
        if fact.orphaned() != fact.in_orphan_dir() {
            let why = if fact.orphaned() {
                "says that it waits in an orphan directory, but is in none"
            } else {
                "is in an orphan directory, but does not say so"
            };
            out.find(at, InodeProblem::OrphanFlag { why });
            continue;
        }
        if fact.orphaned() {
            continue;
        }
        let (found, expected) = (
            fact.links.load(Ordering::Relaxed),
            u64::from(fact.names.load(Ordering::Relaxed)),
        );
        if expected == 0 && !fact.is_dir() {
            out.find(at, InodeProblem::NotConnected {});
        } else if u64::from(found) != expected
            && (expected > 1 || !fact.is_dir() || tops.contains(&blkno))
        {
            out.find(at, InodeProblem::Count { found, expected });
        }
    }
    out
}

/// Checks the two directories that a volume cannot do without.
pub(crate) fn tops(cx: &Cx<'_>) -> Out {
    let mut out = Out::default();
    let view: View<'_> = cx.view;
    let root = view.info().root;
    let fact = cx.groups.inode(root).filter(|fact| fact.seen());
    match fact {
        None => out.find(At::inode(root), DirProblem::RootMissing {}),
        Some(fact) if fact.damaged() => {}
        Some(fact) if !fact.is_dir() => out.find(At::inode(root), InodeProblem::RootNotDir {}),
        Some(_) => {
            let found =
                inode::read(view, root).and_then(|root| dir::lookup(view, &root, b"lost+found"));
            if matches!(found, Ok(None)) {
                out.find(At::inode(root), DirProblem::LostFoundMissing {});
            }
        }
    }
    out
}
