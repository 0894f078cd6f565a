//! Volumes that are filled while they are made: the tree of many files, as a directory and as an
//! archive, and one large file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::measure::{Contender, Cost, race, run, run_writing};
use crate::stage::{Stage, remove};
use crate::table::{Figure, Target};
use crate::tasks::{Outcome, if_here};
use crate::tree::Tree;

/// Bytes of the images.
const IMAGE: &str = "4G";
const IMAGE_BYTES: u64 = 4 << 30;
/// What was promised of the memory.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

const MKE2FS: &str = "mke2fs -d";
const BTRFS: &str = "mkfs.btrfs --rootdir";

/// One run of `mkfs.cowfs -d`.
fn ours<'c>(stage: &'c Stage, source: PathBuf, size: &'static str) -> Contender<'c> {
    let image = stage.path("filled");
    let contender = move |_| -> Result<Cost> {
        let mut mkfs = stage.ours("mkfs-cowfs");
        mkfs.args(["-q", "--size", size, "-d"]).arg(&source);
        let cost = run_writing(mkfs.arg(&image), &image)?;
        remove(&image)?;
        Ok(cost)
    };
    ("mkfs.cowfs -d", Box::new(contender))
}

/// Puts the source among the arguments of a peer.
type Arguments = fn(&mut Command, &Path);

/// The peers, which read directories.
fn peers<'c>(
    stage: &'c Stage,
    source: &Path,
    missing: &mut Vec<String>,
) -> Result<Vec<Contender<'c>>> {
    let mut field: Vec<Contender<'c>> = Vec::new();
    let programs: [(&str, &str, &str, Arguments); 2] = [
        (MKE2FS, "mke2fs", "e2fsprogs", |command, source| {
            // As many inodes as the tree has files, and some.
            command
                .args(["-q", "-t", "ext4", "-N", "200000", "-d"])
                .arg(source);
        }),
        (BTRFS, "mkfs.btrfs", "btrfs-progs", |command, source| {
            command.args(["-q", "--rootdir"]).arg(source);
        }),
    ];
    for (name, program, package, arguments) in programs {
        if if_here(missing, stage.peer(program, package))?.is_none() {
            continue;
        }
        let source = source.to_path_buf();
        let contender = move |_| {
            let image = stage.sparse("theirs", IMAGE_BYTES)?;
            let mut mkfs = stage.peer(program, package)?;
            arguments(&mut mkfs, &source);
            let cost = run_writing(mkfs.arg(&image), &image)?;
            remove(&image)?;
            Ok(cost)
        };
        field.push((name, Box::new(contender)));
    }
    Ok(field)
}

fn told(task: &str, samples: Vec<crate::measure::Samples>, missing: Vec<String>) -> Outcome {
    let mut done = Outcome::new(task, samples, missing);
    for peer in [MKE2FS, BTRFS] {
        done.row(Figure::Time, Some(peer), Target::AtMost(0.5));
    }
    done.row(Figure::Memory, None, Target::Absolute(MEMORY));
    for peer in [MKE2FS, BTRFS] {
        done.row(Figure::Memory, Some(peer), Target::Told);
    }
    done
}

/// The tree of many files, from a directory, from an archive, and into the smallest volume.
pub(crate) fn many(stage: &Stage, tree: &Tree, runs: usize) -> Result<Vec<Outcome>> {
    let mut missing = Vec::new();
    let top = match &tree.xfs {
        Ok(mount) => mount.path("."),
        Err(error) => {
            missing.push(format!("{error:#}"));
            return Ok(vec![Outcome::new(
                "fill, 150,000 files",
                Vec::new(),
                missing,
            )]);
        }
    };
    let archive = stage.path("tree.tar");
    let mut tar = stage.peer("tar", "tar")?;
    run(
        tar.arg("-cf").arg(&archive).arg("-C").arg(&top).arg("."),
        &[0],
    )?;
    let mut outcomes = Vec::new();
    for (task, source, size) in [
        ("fill from a directory, 150,000 files", &top, IMAGE),
        ("fill from an archive, 150,000 files", &archive, IMAGE),
        ("fill the smallest volume, 150,000 files", &top, "auto"),
    ] {
        let mut missing = missing.clone();
        let mut field = vec![ours(stage, source.clone(), size)];
        // The peers read the directory, whatever we read.
        field.extend(peers(stage, &top, &mut missing)?);
        let samples = race(stage.dir(), runs, field)?;
        outcomes.push(told(task, samples, missing));
    }
    remove(&archive)?;
    Ok(outcomes)
}

/// One file of 8 GiB.
pub(crate) fn large(stage: &Stage, runs: usize) -> Result<Outcome> {
    let dir = stage.path("large");
    fs::create_dir_all(&dir)?;
    let source = stage.noise("large/file", 8 << 30)?;
    let copy = stage.path("copy");
    let (from, to) = (source.clone(), copy.clone());
    let cp = move |_| {
        let mut cp = stage.peer("cp", "coreutils")?;
        let cost = run_writing(cp.arg(&from).arg(&to), &to)?;
        remove(&to)?;
        Ok(cost)
    };
    let field: Vec<Contender<'_>> = vec![ours(stage, dir, "9G"), ("cp + sync", Box::new(cp))];
    let samples = race(stage.dir(), runs, field)?;
    remove(&source)?;
    let mut done = Outcome::new("fill with one file of 8 GiB", samples, Vec::new());
    // 0.9 of the throughput.
    done.row(Figure::Time, Some("cp + sync"), Target::AtMost(1.11));
    done.row(Figure::Memory, None, Target::Absolute(MEMORY));
    Ok(done)
}
