//! A tree of many files taken out of a volume, against GNU tar on the same tree mounted.
//!
//! GNU tar writes into a file as well: it reads nothing when the file is /dev/null. Files are taken out
//! into memory: what a disk's file system takes to create 150,000 of them varies by ten and more, with
//! what was deleted there a moment ago.

use std::fs;

use anyhow::Result;

use crate::measure::{Contender, Cost, race, run};
use crate::stage::{Stage, remove};
use crate::table::{Figure, Target};
use crate::tasks::Outcome;
use crate::tree::Tree;
use crate::walks::mounted;

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

/// The tree as a tar stream.
pub(crate) fn tar(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let to = stage.path("ours.tar");
    let ours = |_| {
        let cost = out(stage, tree, &format!("tar / -o {}", to.display()))?;
        fs::remove_file(&to)?;
        Ok(cost)
    };
    let field: Vec<Contender<'_>> = vec![("debugfs.cowfs", Box::new(ours))];
    against_tar(stage, tree, runs, "tar", field)
}

/// The tree as files of the host.
pub(crate) fn rdump(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let archive = stage.path("ours.tar");
    let ours = |_| {
        let to = tempfile::tempdir_in(MEMORY)?;
        out(stage, tree, &format!("rdump / {}", to.path().display()))
    };
    let theirs = |_| {
        let to = tempfile::tempdir_in(MEMORY)?;
        let mut tar = stage.peer("tar", "tar")?;
        run(tar.arg("-xf").arg(&archive).arg("-C").arg(to.path()), &[0])
    };
    out(stage, tree, &format!("tar / -o {}", archive.display()))?;
    let field: Vec<Contender<'_>> = vec![
        ("debugfs.cowfs", Box::new(ours)),
        ("tar -x", Box::new(theirs)),
    ];
    let mut done = against_tar(stage, tree, runs, "rdump", field)?;
    done.row(Figure::Time, Some("tar -x"), Target::Told);
    remove(&archive)?;
    Ok(done)
}

/// Runs one command on the tree.
fn out(stage: &Stage, tree: &Tree, command: &str) -> Result<Cost> {
    let mut debugfs = stage.ours("debugfs-cowfs");
    run(debugfs.args(["-R", command]).arg(&tree.volume), &[0])
}

fn against_tar(
    stage: &Stage,
    tree: &Tree,
    runs: usize,
    task: &str,
    ours: Vec<Contender<'_>>,
) -> Result<Outcome> {
    let mut missing = Vec::new();
    let theirs = stage.path("theirs.tar");
    let text = theirs.to_string_lossy().into_owned();
    let args = ["-cf", &text, "."];
    // Contenders may borrow from here, too.
    let mut field: Vec<Contender<'_>> = ours;
    let gnu = ("tar", "tar");
    field.extend(mounted(
        stage,
        tree,
        "tar -c, XFS",
        gnu,
        &args,
        &mut missing,
    )?);
    let samples = race(stage.dir(), runs, field)?;
    // Only there when GNU tar and the mount were.
    let _ = fs::remove_file(&theirs);
    let mut done = Outcome::new(&format!("{task}, 150,000 files"), samples, missing);
    done.row(Figure::Time, Some("tar -c, XFS"), Target::Better(1.0));
    done.row(Figure::Memory, Some("tar -c, XFS"), Target::Told);
    Ok(done)
}
