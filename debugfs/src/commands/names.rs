//! Commands that go from numbers to names: of inodes, and of the owners of blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::error::Error;
use cowfs_format::layout::FileType;
use cowfs_format::read::dir;
use cowfs_format::read::inode::{self, Inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::inodes;
use cowfs_format::volume::scan::Scanner;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BLOCK, BLOCKS, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ncheck",
        aliases: &["locate"],
        options: &[],
        operands: &[BLOCKS],
        summary: "Shows all paths of inodes.",
        about: "Reads all directories; all inodes, when those that the roots lead to do not have all names \
                of an inode.",
        needs: Needs::Volume,
        says: schema::of::<Paths>,
        run: |session, args| ncheck(session, args, usize::MAX),
    },
    Command {
        name: "findpath",
        aliases: &[],
        options: &[],
        operands: &[BLOCK],
        summary: "Shows one path of an inode.",
        about: "Reads all directories; all inodes, when those that the roots lead to do not have all names \
                of an inode.",
        needs: Needs::Volume,
        says: schema::of::<Paths>,
        run: |session, args| ncheck(session, args, 1),
    },
];

/// A name in a directory.
struct Link {
    parent: BlockNo,
    child: BlockNo,
    name: Vec<u8>,
    directory: bool,
}

/// All paths of inodes, sorted; and what could not be read on the way. System files are given from
/// `//`.
///
/// Directories are read from the two roots down, and nothing else is. Only when that shows fewer
/// names than an inode counts, all inodes are looked through for directories that nothing leads to.
/// What is kept is the names of directories.
pub(super) fn paths(
    scanner: &Scanner,
    view: View<'_>,
    wanted: &[BlockNo],
) -> (BTreeMap<BlockNo, Vec<Vec<u8>>>, Vec<Error>) {
    let wanted: HashSet<BlockNo> = wanted.iter().copied().collect();
    let (links, failed) = links_below(scanner, view, &wanted);
    if accounts_for(view, &links, &wanted) {
        return (joined(view, &links, &wanted), failed);
    }
    let (links, failed) = inodes::collect(scanner, view, |inode, links, faults| {
        if inode.file_type() == Some(FileType::Directory) {
            links_in(view, inode, &wanted, links, faults);
        }
    });
    (joined(view, &links, &wanted), failed)
}

/// The names of a directory that lead to directories and to what is wanted.
fn links_in(
    view: View<'_>,
    directory: &Inode<'_>,
    wanted: &HashSet<BlockNo>,
    links: &mut Vec<Link>,
    faults: &mut Vec<Error>,
) {
    let walked = dir::for_each_area(view, directory, &mut |area| {
        match area {
            Err(error) => faults.push(error),
            Ok(area) => {
                // A bad entry ends its block; what precedes it is good.
                for entry in dir::entries(area.bytes).map_while(Result::ok) {
                    let leads = entry.file_type == FileType::Directory.dirent();
                    if entry.is_used()
                        && (leads || wanted.contains(&entry.inode))
                        && !matches!(entry.name, b"." | b"..")
                    {
                        links.push(Link {
                            parent: directory.blkno(),
                            child: entry.inode,
                            name: entry.name.to_vec(),
                            directory: leads,
                        });
                    }
                }
            }
        }
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
}

/// The same of all directories below the two roots, level by level.
fn links_below(
    scanner: &Scanner,
    view: View<'_>,
    wanted: &HashSet<BlockNo>,
) -> (Vec<Link>, Vec<Error>) {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    let mut level = vec![view.info().root, view.info().system_dir];
    let mut seen: HashSet<BlockNo> = level.iter().copied().collect();
    let look = |blkno: &BlockNo| {
        let (mut links, mut faults) = (Vec::new(), Vec::new());
        match inode::read(view, *blkno) {
            Ok(inode) => links_in(view, &inode, wanted, &mut links, &mut faults),
            Err(error) => faults.push(error),
        }
        (links, faults)
    };
    while !level.is_empty() {
        let mut next = Vec::new();
        scanner.run(&level, look, |(links, faults)| {
            failed.extend(faults);
            let leads = links.iter().filter(|link| link.directory);
            next.extend(
                leads
                    .map(|link| link.child)
                    .filter(|child| seen.insert(*child)),
            );
            found.extend(links);
        });
        level = next;
    }
    (found, failed)
}

/// Whether links are all that the inodes count.
fn accounts_for(view: View<'_>, links: &[Link], wanted: &HashSet<BlockNo>) -> bool {
    let mut counts: HashMap<BlockNo, u32> = HashMap::new();
    for link in links.iter().filter(|link| wanted.contains(&link.child)) {
        *counts.entry(link.child).or_default() += 1;
    }
    let (root, system) = (view.info().root, view.info().system_dir);
    wanted.iter().all(|blkno| {
        let found = counts.get(blkno).copied().unwrap_or(0);
        *blkno == root
            || *blkno == system
            || inode::read(view, *blkno).is_ok_and(|inode| {
                let directory = inode.file_type() == Some(FileType::Directory);
                found >= if directory { 1 } else { inode.links().max(1) }
            })
    })
}

/// The paths that links make.
fn joined(
    view: View<'_>,
    links: &[Link],
    wanted: &HashSet<BlockNo>,
) -> BTreeMap<BlockNo, Vec<Vec<u8>>> {
    let parents: HashMap<BlockNo, &Link> = links
        .iter()
        .filter(|link| link.directory)
        .map(|link| (link.child, link))
        .collect();
    let mut found: BTreeMap<BlockNo, Vec<Vec<u8>>> = BTreeMap::new();
    let (root, system) = (view.info().root, view.info().system_dir);
    for (inode, path) in [(root, &b"/"[..]), (system, b"//")] {
        if wanted.contains(&inode) {
            found.insert(inode, vec![path.to_vec()]);
        }
    }
    for link in links.iter().filter(|link| wanted.contains(&link.child)) {
        let path = path_of(link, &parents, root, system);
        found.entry(link.child).or_default().push(path);
    }
    found.values_mut().for_each(|paths| paths.sort());
    found
}

/// The path of a link, up to a root or to a directory that nothing leads to.
fn path_of(
    link: &Link,
    parents: &HashMap<BlockNo, &Link>,
    root: BlockNo,
    system: BlockNo,
) -> Vec<u8> {
    let mut names = vec![link.name.clone()];
    let mut at = link.parent;
    let mut seen = HashSet::new();
    let head = loop {
        if at == root {
            break b"/".to_vec();
        }
        if at == system {
            break b"//".to_vec();
        }
        match parents.get(&at) {
            Some(link) if seen.insert(at) => {
                names.push(link.name.clone());
                at = link.parent;
            }
            _ => break format!("<{at}>/").into_bytes(),
        }
    };
    names.reverse();
    [head, names.join(&b'/')].concat()
}

/// The paths of inodes.
#[derive(JsonSchema, Serialize)]
struct Paths {
    inodes: Vec<PathsOf>,
}

/// The paths of an inode.
#[derive(JsonSchema, Serialize)]
struct PathsOf {
    inode: u64,
    paths: Vec<PathNamed>,
}

fn ncheck(session: &mut Session, args: &Args, most: usize) -> Result<Option<Box<dyn Report>>> {
    session.scanner()?;
    let wanted: Result<BTreeSet<BlockNo>> = args
        .all()
        .iter()
        .map(|word| session.block_arg(word))
        .collect();
    let wanted: Vec<BlockNo> = wanted?.into_iter().collect();
    let (scanner, view) = session.scan()?;
    let (mut found, failed) = paths(scanner, view, &wanted);
    let mut inodes = Vec::new();
    for inode in wanted {
        let all = found.remove(&inode).unwrap_or_default();
        if all.is_empty() {
            session.fault(format!("no path leads to inode {inode}"));
        }
        inodes.push(PathsOf {
            inode: inode.0,
            paths: all.into_iter().take(most).map(PathNamed::new).collect(),
        });
    }
    for fault in failed {
        session.fault(fault);
    }
    Ok(Some(Box::new(Paths { inodes })))
}

impl Text for Paths {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for item in &self.inodes {
            for path in &item.paths {
                write!(page, "\t{}\t", item.inode)?;
                page.name(path.text())?;
                writeln!(page)?;
            }
        }
        Ok(())
    }
}
