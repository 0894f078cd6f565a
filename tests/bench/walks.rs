//! What goes through a whole volume of many files, against its peers on the same tree.
//!
//! The mounted walks have the tree in the kernel's caches: one run that is not counted warms them.

use std::process::Command;

use anyhow::Result;
use cowfs_format::toolkit::open;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};
use cowfs_tests::Missing;

use crate::measure::{Contender, race, run};
use crate::stage::Stage;
use crate::table::{Figure, Target};
use crate::tasks::{Outcome, if_here};
use crate::tree::Tree;

/// A file of the tree, in the midst of it.
const SOME_FILE: &str = "/archive/year-20/file number 00500.data";

/// The contender that is the program under test: one command of `debugfs.cowfs`.
pub(crate) fn ours<'c>(stage: &'c Stage, tree: &'c Tree, command: &'c str) -> Contender<'c> {
    let once = move |_| {
        let mut debugfs = stage.ours("debugfs-cowfs");
        run(debugfs.args(["-R", command]).arg(&tree.volume), &[0])
    };
    ("debugfs.cowfs", Box::new(once))
}

/// `debugfs.ocfs2` with a command, if it is here.
pub(crate) fn debugfs_ocfs2<'c>(
    stage: &'c Stage,
    tree: &'c Tree,
    command: &'c str,
    missing: &mut Vec<String>,
) -> Result<Option<Contender<'c>>> {
    let here = if_here(missing, stage.peer("debugfs.ocfs2", "ocfs2-tools"))?;
    let once = move |_| {
        let mut debugfs = stage.peer("debugfs.ocfs2", "ocfs2-tools")?;
        run(debugfs.args(["-R", command]).arg(&tree.volume), &[0])
    };
    Ok(here.map(|_| -> Contender<'c> { ("debugfs.ocfs2", Box::new(once)) }))
}

/// A program that walks the mounted tree, which is its working directory, if that is here.
pub(crate) fn mounted<'c>(
    stage: &'c Stage,
    tree: &'c Tree,
    name: &'c str,
    (program, package): (&'c str, &'c str),
    args: &'c [&'c str],
    missing: &mut Vec<String>,
) -> Result<Option<Contender<'c>>> {
    let mount = match &tree.xfs {
        Ok(mount) => mount.path("."),
        Err(error) if error.is::<Missing>() => {
            missing.push(format!("{error:#}"));
            return Ok(None);
        }
        Err(error) => anyhow::bail!("{error:#}"),
    };
    let walk = move || -> Result<Command> {
        let mut command = stage.peer(program, package)?;
        command.args(args).current_dir(&mount);
        Ok(command)
    };
    let Some(mut first) = if_here(missing, walk())? else {
        return Ok(None);
    };
    run(&mut first, &[0])?;
    Ok(Some((name, Box::new(move |_| run(&mut walk()?, &[0])))))
}

/// From an inode to its path.
pub(crate) fn ncheck(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let mut missing = Vec::new();
    let command = format!("ncheck <{}>", inode(tree, SOME_FILE)?.0);
    let mut field = vec![ours(stage, tree, &command)];
    field.extend(debugfs_ocfs2(stage, tree, &command, &mut missing)?);
    let find = ("find", "findutils");
    let mut peer = |name, args| mounted(stage, tree, name, find, args, &mut missing);
    field.extend(peer("find -ls, XFS", &["-ls"])?);
    field.extend(peer("find -inum, XFS", &["-inum", "1"])?);
    let samples = race(stage.dir(), runs, field)?;
    let mut done = Outcome::new("ncheck, 150,000 files", samples, missing);
    done.row(Figure::Time, Some("debugfs.ocfs2"), Target::Better(10.0));
    done.row(Figure::Time, Some("find -ls, XFS"), Target::Better(2.0));
    done.row(Figure::Time, Some("find -inum, XFS"), Target::Told);
    done.row(Figure::Memory, Some("debugfs.ocfs2"), Target::Told);
    Ok(done)
}

/// What the volume holds: as a listing without contents, and with their sums.
pub(crate) fn manifest(stage: &Stage, tree: &Tree, runs: usize) -> Result<Vec<Outcome>> {
    let mut missing = Vec::new();
    let mut field = vec![ours(stage, tree, "manifest -n")];
    // It has no recursive listing; this is what a script would have it do.
    let script = listings(stage, tree)?;
    if if_here(&mut missing, stage.peer("debugfs.ocfs2", "ocfs2-tools"))?.is_some() {
        let once = move |_| {
            let mut debugfs = stage.peer("debugfs.ocfs2", "ocfs2-tools")?;
            // It ends with 1 after any script.
            run(debugfs.arg("-f").arg(&script).arg(&tree.volume), &[0, 1])
        };
        field.push(("debugfs.ocfs2", Box::new(once)));
    }
    let find = ("find", "findutils");
    let peer = mounted(stage, tree, "find -ls, XFS", find, &["-ls"], &mut missing)?;
    field.extend(peer);
    let samples = race(stage.dir(), runs, field)?;
    let mut names = Outcome::new("manifest -n, 150,000 files", samples, missing);
    names.row(Figure::Time, Some("debugfs.ocfs2"), Target::Better(10.0));
    names.row(Figure::Time, Some("find -ls, XFS"), Target::Better(2.0));
    names.row(Figure::Memory, Some("debugfs.ocfs2"), Target::Told);

    let mut missing = Vec::new();
    let sums = ["-type", "f", "-exec", "sha256sum", "{}", "+"];
    let mut field = vec![ours(stage, tree, "manifest")];
    let peer = mounted(stage, tree, "sha256sum, XFS", find, &sums, &mut missing)?;
    field.extend(peer);
    let samples = race(stage.dir(), runs, field)?;
    let mut contents = Outcome::new("manifest, 150,000 files", samples, missing);
    contents.row(Figure::Time, Some("sha256sum, XFS"), Target::Told);
    Ok(vec![names, contents])
}

/// A script for debugfs.ocfs2 that lists each directory of the tree.
fn listings(stage: &Stage, tree: &Tree) -> Result<std::path::PathBuf> {
    let mut debugfs = stage.ours("debugfs-cowfs");
    let said = debugfs
        .args(["-R", "manifest -nxr"])
        .arg(&tree.volume)
        .output()?;
    let mut script = String::new();
    for line in String::from_utf8(said.stdout)?.lines() {
        if let Some((path, _)) = line.split_once(" type=dir ") {
            let path = path.strip_prefix('.').unwrap_or(path);
            script.push_str(&format!("ls -l /{}\n", path.trim_start_matches('/')));
        }
    }
    let at = stage.path("listings");
    std::fs::write(&at, script)?;
    Ok(at)
}

/// From blocks to their owners.
pub(crate) fn icheck(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let mut missing = Vec::new();
    let blkno = inode(tree, SOME_FILE)?;
    let command = format!("icheck {blkno} 300000 400000");
    let mut field = vec![ours(stage, tree, &command)];
    field.extend(debugfs_ocfs2(stage, tree, &command, &mut missing)?);
    let find = ("find", "findutils");
    let peer = mounted(stage, tree, "find -ls, XFS", find, &["-ls"], &mut missing)?;
    field.extend(peer);
    let samples = race(stage.dir(), runs, field)?;
    let mut done = Outcome::new("icheck, 150,000 files", samples, missing);
    done.row(Figure::Time, Some("debugfs.ocfs2"), Target::Better(10.0));
    done.row(Figure::Time, Some("find -ls, XFS"), Target::Better(2.0));
    done.row(Figure::Memory, Some("debugfs.ocfs2"), Target::Told);
    Ok(done)
}

/// The space of all directories.
pub(crate) fn du(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let mut missing = Vec::new();
    let mut field = vec![ours(stage, tree, "du -r /")];
    let coreutils = ("du", "coreutils");
    let peer = mounted(stage, tree, "du, XFS", coreutils, &[], &mut missing)?;
    field.extend(peer);
    let find = ("find", "findutils");
    let peer = mounted(stage, tree, "find -ls, XFS", find, &["-ls"], &mut missing)?;
    field.extend(peer);
    let samples = race(stage.dir(), runs, field)?;
    let mut done = Outcome::new("du -r /, 150,000 files", samples, missing);
    done.row(Figure::Time, Some("du, XFS"), Target::Better(2.0));
    done.row(Figure::Time, Some("find -ls, XFS"), Target::Better(2.0));
    done.row(Figure::Memory, Some("du, XFS"), Target::Told);
    Ok(done)
}

/// The inode of a file of the volume.
fn inode(tree: &Tree, at: &str) -> Result<BlockNo> {
    let volume = Volume::open(open::read_only(&tree.volume)?)?;
    let view = volume.view();
    Ok(path::resolve(view, view.info().root, at.as_bytes())?)
}
