//! A tree of many files taken out of a volume, against GNU tar on the same tree mounted.
//!
//! GNU tar writes into a file as well: it reads nothing when the file is /dev/null.

use std::fs;

use anyhow::Result;

use crate::measure::{Contender, race, run};
use crate::stage::Stage;
use crate::table::{Figure, Target};
use crate::tasks::Outcome;
use crate::tree::Tree;
use crate::walks::mounted;

/// The tree as a tar stream.
pub(crate) fn tar(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let to = stage.path("ours.tar");
    let ours = |_| {
        let mut debugfs = stage.ours("debugfs-cowfs");
        let command = format!("tar / -o {}", to.display());
        let cost = run(debugfs.args(["-R", &command]).arg(&tree.volume), &[0])?;
        fs::remove_file(&to)?;
        Ok(cost)
    };
    against_tar(stage, tree, runs, "tar", Box::new(ours))
}

/// The tree as files of the host.
pub(crate) fn rdump(stage: &Stage, tree: &Tree, runs: usize) -> Result<Outcome> {
    let to = stage.path("dumped");
    let ours = |_| {
        fs::create_dir(&to)?;
        let mut debugfs = stage.ours("debugfs-cowfs");
        let command = format!("rdump / {}", to.display());
        let cost = run(debugfs.args(["-R", &command]).arg(&tree.volume), &[0])?;
        fs::remove_dir_all(&to)?;
        Ok(cost)
    };
    against_tar(stage, tree, runs, "rdump", Box::new(ours))
}

fn against_tar<'c>(
    stage: &'c Stage,
    tree: &'c Tree,
    runs: usize,
    task: &str,
    ours: Box<dyn FnMut(usize) -> Result<crate::measure::Cost> + 'c>,
) -> Result<Outcome> {
    let mut missing = Vec::new();
    let theirs = stage.path("theirs.tar");
    let text = theirs.to_string_lossy().into_owned();
    let args = ["-cf", &text, "."];
    let mut field: Vec<Contender<'_>> = vec![("debugfs.cowfs", ours)];
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
