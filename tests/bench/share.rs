//! What touches many extents or much data: clones of large files and trees, deduplication, removal;
//! and the same small changes on volumes of all sizes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cowfs_format::ops;
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::volume::Volume;

use crate::measure::{Contender, Cost, race, run, run_writing};
use crate::stage::{Stage, remove};
use crate::table::{Figure, Target};
use crate::tasks::Outcome;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Makes a file of so many extents of `each` bytes, with a hole behind each of them. Nothing is
/// written to it: what it costs to change does not depend on that.
fn fragmented(image: &Path, name: &str, extents: u64, each: u64) -> Result<()> {
    let mut volume = Volume::open(open::writable(image)?)?;
    let now = Timestamp::now();
    let root = volume.info().root;
    let mut txn = volume.begin()?;
    let new = NewInode::at(now, 0o100_644, 0, 0);
    let inode = ops::make_node(&mut txn, root, name.as_bytes(), 0, &new)?;
    ops::fallocate(&mut txn, inode, (0, 2 * each * extents), false, now)?;
    txn.commit()?;
    let numbers: Vec<u64> = (0..extents).collect();
    for part in numbers.chunks(4000) {
        let mut txn = volume.begin()?;
        for n in part {
            ops::punch(&mut txn, inode, ((2 * n + 1) * each, each), now)?;
        }
        txn.commit()?;
    }
    Ok(())
}

/// A copy of an image, made without time on the disk for its holes.
fn copied(stage: &Stage, image: &Path) -> Result<PathBuf> {
    let copy = stage.path("copied");
    remove(&copy)?;
    let mut cp = stage.peer("cp", "coreutils")?;
    run(cp.arg("--sparse=always").arg(image).arg(&copy), &[0])?;
    Ok(copy)
}

/// A contender: a program on a fresh copy of a volume.
fn on_copy<'c>(
    stage: &'c Stage,
    name: &'static str,
    image: &'c Path,
    (program, before, after): (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ),
) -> Contender<'c> {
    let contender = move |_| -> Result<Cost> {
        let copy = copied(stage, image)?;
        let mut command = stage.ours(program);
        command.args(before).arg(&copy).args(after);
        let cost = run_writing(&mut command, &copy)?;
        remove(&copy)?;
        Ok(cost)
    };
    (name, Box::new(contender))
}

/// What it costs to open a volume for writing, and nothing else.
const OPENING: &str = "opening it";

fn opening<'c>(stage: &'c Stage, image: &'c Path) -> Contender<'c> {
    let arguments: (_, &[&str], &[&str]) = ("debugfs-cowfs", &["-w", "-R", "pwd"], &[]);
    on_copy(stage, OPENING, image, arguments)
}

/// The first clone of a file of 100 GiB in 100,000 extents: all of them come to be shared.
pub(crate) fn clone_large(stage: &Stage, runs: usize) -> Result<Outcome> {
    let volume = stage.volume("volume", 300 * GIB)?;
    fragmented(&volume, "disk", 100_000, MIB)?;
    let arguments: (_, &[&str], &[&str]) =
        ("reflink-cowfs", &["clone", "-q"], &["/disk", "/clone"]);
    let field = vec![
        on_copy(stage, "reflink.cowfs clone", &volume, arguments),
        opening(stage, &volume),
    ];
    let samples = race(stage.dir(), runs, field)?;
    remove(&volume)?;
    let mut done = Outcome::new("clone 100 GiB in 100,000 extents", samples, Vec::new());
    done.row(Figure::Time, Some(OPENING), Target::Beyond(0.05));
    done.row(Figure::Processor, None, Target::Told);
    done.row(Figure::Memory, None, Target::Told);
    Ok(done)
}

/// A tree of a thousand disks of 1 GiB.
pub(crate) fn clone_tree(stage: &Stage, runs: usize) -> Result<Outcome> {
    let volume = stage.volume("volume", 2 * TIB)?;
    {
        let mut volume = Volume::open(open::writable(&volume)?)?;
        let now = Timestamp::now();
        let root = volume.info().root;
        let mut txn = volume.begin()?;
        let new = NewInode::at(now, 0o040_755, 0, 0);
        let directory = txn.make_directory(root, b"disks", &new)?;
        txn.commit()?;
        let new = NewInode::at(now, 0o100_644, 0, 0);
        let numbers: Vec<u64> = (0..1000).collect();
        for part in numbers.chunks(100) {
            let mut txn = volume.begin()?;
            for n in part {
                let name = format!("disk-{n}.img");
                let inode = ops::make_node(&mut txn, directory, name.as_bytes(), 0, &new)?;
                ops::fallocate(&mut txn, inode, (0, GIB), false, now)?;
                for hole in 0..8 {
                    let at = hole * 128 * MIB + 64 * MIB;
                    ops::punch(&mut txn, inode, (at, MIB), now)?;
                }
            }
            txn.commit()?;
        }
    }
    let arguments: (_, &[&str], &[&str]) = (
        "reflink-cowfs",
        &["clone", "-q", "-rp"],
        &["/disks", "/copy"],
    );
    let field = vec![
        on_copy(stage, "reflink.cowfs clone -rp", &volume, arguments),
        opening(stage, &volume),
    ];
    let samples = race(stage.dir(), runs, field)?;
    remove(&volume)?;
    let mut done = Outcome::new("clone a tree of 1,000 disks", samples, Vec::new());
    done.row(Figure::Time, None, Target::Absolute(1.0));
    done.row(Figure::Time, Some(OPENING), Target::Told);
    done.row(Figure::Memory, None, Target::Told);
    Ok(done)
}

/// 10 GiB, half of it twice: what is found is as large as what is not. All but the writing of some
/// blocks is done by a dry run, too.
pub(crate) fn dedupe(stage: &Stage, runs: usize) -> Result<Outcome> {
    let volume = stage.volume("volume", 11 * GIB)?;
    let source = stage.noise("source", 2 * GIB + 512 * MIB)?;
    let write = |name: &str| format!("write source /{name}");
    stage.edit(&volume, &[write("a"), write("b")])?;
    // Other bytes, of which nothing is twice.
    for name in ["c", "d"] {
        stage.other_noise("source", 2 * GIB + 512 * MIB, name)?;
        stage.edit(&volume, &[write(name)])?;
    }
    remove(&source)?;
    let at = &volume;
    let dedupe = |name: &'static str, option: &'static [&'static str]| -> Contender<'_> {
        let contender = move |_| {
            let mut dedupe = stage.ours("reflink-cowfs");
            run(
                dedupe.args(["dedupe", "-nq"]).args(option).arg(at).arg("/"),
                &[0],
            )
        };
        (name, Box::new(contender))
    };
    const READING: &str = "dd of the image";
    let reading = move |_| {
        let mut dd = stage.peer("dd", "coreutils")?;
        let input = format!("if={}", at.display());
        run(dd.arg(input).args(["of=/dev/null", "bs=1M"]), &[0])
    };
    let field: Vec<Contender<'_>> = vec![
        dedupe("reflink.cowfs dedupe -n", &[]),
        dedupe("dedupe -n --windows-only", &["--windows-only"]),
        (READING, Box::new(reading)),
    ];
    let samples = race(stage.dir(), runs, field)?;
    remove(&volume)?;
    let mut done = Outcome::new("dedupe 10 GiB", samples, Vec::new());
    // 0.7 of the rate.
    done.row(Figure::Time, Some(READING), Target::AtMost(1.43));
    done.row(Figure::Time, Some("dedupe -n --windows-only"), Target::Told);
    done.row(Figure::Memory, None, Target::Told);
    Ok(done)
}

/// A file of a million extents.
pub(crate) fn delete(stage: &Stage, runs: usize) -> Result<Outcome> {
    let volume = stage.volume("volume", 16 * GIB)?;
    fragmented(&volume, "file", 1_000_000, 4096)?;
    let arguments: (_, &[&str], &[&str]) = ("debugfs-cowfs", &["-w", "-R", "unlink /file"], &[]);
    let field = vec![
        on_copy(stage, "debugfs.cowfs unlink", &volume, arguments),
        opening(stage, &volume),
    ];
    let samples = race(stage.dir(), runs, field)?;
    remove(&volume)?;
    let mut done = Outcome::new("delete a file of 1,000,000 extents", samples, Vec::new());
    done.row(Figure::Time, None, Target::Absolute(10.0));
    done.row(Figure::Memory, None, Target::Told);
    Ok(done)
}

/// The same changes on volumes of 15 TiB, 1 TiB and 10 GiB: what they cost must follow what they
/// touch.
pub(crate) fn sizes(stage: &Stage, runs: usize) -> Result<Outcome> {
    let source = stage.noise("source", 20 * MIB)?;
    let mut field: Vec<Contender<'_>> = Vec::new();
    let volumes = [
        ("on 15 TiB", "15-tib", 15 * TIB),
        ("on 1 TiB", "1-tib", TIB),
        ("on 10 GiB", "10-gib", 10 * GIB),
    ];
    let mut images = Vec::new();
    for (name, file, bytes) in volumes {
        let volume = stage.volume(file, bytes)?;
        let at = volume.clone();
        let contender = move |turn| {
            let mut debugfs = stage.ours("debugfs-cowfs");
            debugfs.arg("-w");
            for line in [
                format!("mkdir /d{turn}"),
                format!("write source /d{turn}/file"),
                format!("reflink /d{turn}/file /d{turn}/clone"),
                format!("write source /d{turn}/clone --offset 1M"),
                format!("punch /d{turn}/file 2M 3M"),
                format!("rm -r /d{turn}"),
            ] {
                debugfs.args(["-R", &line]);
            }
            run_writing(debugfs.arg(&at), &at)
        };
        field.push((name, Box::new(contender)));
        images.push(volume);
    }
    let samples = race(stage.dir(), runs, field)?;
    for image in images.iter().chain([&source]) {
        remove(image)?;
    }
    let mut done = Outcome::new("change volumes of all sizes", samples, Vec::new());
    for (peer, _, _) in volumes.into_iter().skip(1) {
        done.row(Figure::Processor, Some(peer), Target::AtMost(1.5));
        done.row(Figure::Time, Some(peer), Target::Told);
        done.row(Figure::Memory, Some(peer), Target::Told);
    }
    Ok(done)
}
