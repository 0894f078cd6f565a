//! How a check grows: with the size of a volume, the number of its inodes, and that of mappings of
//! shared clusters.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cowfs_format::device::DeviceMut;
use cowfs_format::ops;
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::volume::{Volume, path};

use crate::checks::promised;
use crate::measure::{Contender, race, run};
use crate::stage::{Stage, remove};
use crate::table::{Figure, Target};
use crate::tasks::Outcome;
use crate::tree;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

/// `fsck.cowfs -fn` on so many threads.
fn check<'c>(
    stage: &'c Stage,
    name: &'c str,
    threads: &'static str,
    volume: &'c Path,
) -> Contender<'c> {
    let contender = move |_| {
        let mut fsck = stage.ours("fsck-cowfs");
        run(fsck.args(["-fn", "--threads", threads]).arg(volume), &[0])
    };
    (name, Box::new(contender))
}

/// An empty volume of 15 TiB: half a gigabyte of group descriptors.
pub(crate) fn empty(stage: &Stage, runs: usize) -> Result<Outcome> {
    let volume = stage.volume("volume", 15 * TIB)?;
    let samples = race(
        stage.dir(),
        runs,
        vec![check(stage, "fsck.cowfs -fn", "2", &volume)],
    )?;
    remove(&volume)?;
    let mut done = Outcome::new("check an empty 15 TiB, warm", samples, Vec::new());
    done.row(Figure::Time, None, Target::Absolute(1.0));
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let most = (96 * MIB) as f64;
    done.row(Figure::Memory, None, Target::Absolute(most));
    Ok(done)
}

/// Volumes of ten, a hundred and a thousand directories of a thousand files.
pub(crate) fn inodes(stage: &Stage, runs: usize) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (directories, size) in [(10, "10,000"), (100, "100,000"), (1000, "1,000,000")] {
        let volume = stage.volume("volume", 16 * GIB)?;
        fill(&volume, directories)?;
        let field = vec![
            check(stage, "two threads", "2", &volume),
            check(stage, "one thread", "1", &volume),
        ];
        let samples = race(stage.dir(), runs, field)?;
        let mut done = Outcome::new(&format!("check {size} inodes, warm"), samples, Vec::new());
        done.row(Figure::Time, Some("one thread"), Target::Told);
        let most = promised(&volume, directories * 1000)?;
        done.row(Figure::Memory, None, Target::Absolute(most));
        outcomes.push(done);
        remove(&volume)?;
    }
    Ok(outcomes)
}

fn fill(image: &Path, directories: u64) -> Result<()> {
    let mut volume = Volume::open(open::writable(image)?)?;
    let now = Timestamp::now();
    let new = NewInode::at(now, 0o100_644, 1000, 1000);
    for n in 0..directories {
        let directory = tree::make_directory(&mut volume, &format!("directory-{n}"), now)?;
        let mut txn = volume.begin()?;
        for n in 0..1000 {
            let name = format!("file-{n}");
            ops::make_node(&mut txn, directory, name.as_bytes(), 0, &new)?;
        }
        txn.commit()?;
    }
    volume.device().flush()?;
    Ok(())
}

/// Extents of a disk, and those of them that each clone has overwritten.
const EXTENTS: (u64, u64) = (1000, 100);

/// A disk and a thousand clones of it, in each of which other extents were overwritten: 1,000,000
/// mappings of a hundred times fewer clusters. Beside it the same with a tenth of the clones.
pub(crate) fn aged(stage: &Stage, runs: usize) -> Result<Outcome> {
    let many = disks(stage, "many", 1000)?;
    let few = disks(stage, "few", 100)?;
    let field = vec![
        check(stage, "1,000 clones", "2", &many),
        check(stage, "100 clones", "2", &few),
    ];
    let samples = race(stage.dir(), runs, field)?;
    let mut done = Outcome::new(
        "check clones of 1,000,000 extents, warm",
        samples,
        Vec::new(),
    );
    done.row(Figure::Time, Some("100 clones"), Target::Told);
    done.row(Figure::Memory, Some("100 clones"), Target::Told);
    let most = promised(&many, 1000)?;
    done.row(Figure::Memory, None, Target::Absolute(most));
    remove(&many)?;
    remove(&few)?;
    Ok(done)
}

fn disks(stage: &Stage, name: &str, clones: u64) -> Result<PathBuf> {
    let image = stage.volume(name, 16 * GIB)?;
    let mut volume = Volume::open(open::writable(&image)?)?;
    let now = Timestamp::now();
    let root = volume.info().root;
    let directory = tree::make_directory(&mut volume, "disks", now)?;
    let new = NewInode::at(now, 0o100_644, 0, 0);
    let block = volume.info().geo.block_bytes() as u64;
    // Every other block of the file is a hole, so that each extent is one block.
    let mut txn = volume.begin()?;
    let disk = ops::make_node(&mut txn, directory, b"disk", 0, &new)?;
    ops::fallocate(&mut txn, disk, (0, 2 * block * EXTENTS.0), false, now)?;
    for n in 0..EXTENTS.0 {
        ops::punch(&mut txn, disk, ((2 * n + 1) * block, block), now)?;
    }
    txn.commit()?;
    let mut source = tempfile::tempfile_in(stage.dir())?;
    source.write_all(&vec![0x2A; usize::try_from(block)?])?;
    for clone in 0..clones {
        let name = format!("clone-{clone}");
        let mut txn = volume.begin()?;
        ops::clone_file(
            &mut txn,
            disk,
            directory,
            name.as_bytes(),
            &tree::preserving(now),
        )?;
        txn.commit()?;
        let to = format!("/disks/clone-{clone}");
        let inode = path::resolve(volume.view(), root, to.as_bytes())?;
        let mut txn = volume.begin()?;
        for n in 0..EXTENTS.1 {
            // Prime steps: each clone has its own.
            let extent = (clone * 7919 + n * 13) % EXTENTS.0;
            let source = (&source, "source");
            ops::overwrite(&mut txn, inode, 2 * extent * block, source, now, &|_| ())?;
        }
        txn.commit()?;
    }
    volume.device().flush()?;
    drop(volume);
    Ok(image)
}
