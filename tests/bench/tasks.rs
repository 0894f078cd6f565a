//! What is measured, and what was promised of it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use cowfs_format::device::DeviceMut;
use cowfs_format::ops;
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::volume::{Volume, path};
use cowfs_tests::Missing;
use mkfs_cowfs::{Options, Plan};

use crate::measure::{Contender, Samples, race, run, run_writing};
use crate::stage::{Stage, forget, remove};
use crate::table::{Figure, Row, Target};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The system image of the announcement of reflink for OCFS2.
const IMAGE_BYTES: u64 = 1_814_420_898;

/// What one task yields: all samples, and the rows made of them.
pub(crate) struct Outcome {
    pub(crate) task: String,
    pub(crate) samples: Vec<Samples>,
    pub(crate) rows: Vec<Row>,
    /// Peers that are not here.
    pub(crate) missing: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(task: &str, samples: Vec<Samples>, missing: Vec<String>) -> Self {
        Self {
            task: task.to_owned(),
            samples,
            rows: Vec::new(),
            missing,
        }
    }

    /// Adds a row, unless the peer is missing.
    pub(crate) fn row(&mut self, figure: Figure, peer: Option<&str>, target: Target) {
        let row = Row::new(&self.task, figure, &self.samples, peer, target);
        self.rows.extend(row);
    }
}

/// Keeps what is here, notes what is missing; other errors are errors.
pub(crate) fn if_here<T>(missing: &mut Vec<String>, tried: Result<T>) -> Result<Option<T>> {
    match tried {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is::<Missing>() => {
            missing.push(format!("{error:#}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Formatting a sparse file.
pub(crate) fn mkfs(stage: &Stage, runs: usize, size: &str, bytes: u64) -> Result<Outcome> {
    let mut missing = Vec::new();
    let geo = Plan::new(&Options::default(), bytes)?.geo;
    // The disk work that no program can do without: a block for each group of clusters.
    let groups = u64::from(geo.cluster_groups());
    let stride = u64::from(geo.clusters_per_group()) << geo.cluster_bits();
    let this = std::env::current_exe()?;
    let mut field: Vec<Contender<'_>> = vec![
        (
            "mkfs.cowfs",
            Box::new(move |_| {
                let file = stage.sparse("a", bytes)?;
                let cost = run_writing(stage.ours("mkfs-cowfs").arg("-q").arg(&file), &file)?;
                remove(&file)?;
                Ok(cost)
            }),
        ),
        (
            "the floor",
            Box::new(move |_| {
                let file = stage.sparse("b", bytes)?;
                let mut command = std::process::Command::new(&this);
                command.arg("floor").arg(&file);
                command.args([groups.to_string(), stride.to_string()]);
                let cost = run_writing(&mut command, &file)?;
                remove(&file)?;
                Ok(cost)
            }),
        ),
    ];
    let peers: [(&str, &str, &[&str]); 3] = [
        ("mkfs.ocfs2", "ocfs2-tools", &["-q", "-F", "-M", "local"]),
        ("mkfs.ext4", "e2fsprogs", &["-q", "-F"]),
        ("mkfs.xfs", "xfsprogs", &["-q", "-f"]),
    ];
    for (program, package, args) in peers {
        if if_here(&mut missing, stage.peer(program, package))?.is_some() {
            let contender = move |_| {
                let file = stage.sparse("c", bytes)?;
                let mut command = stage.peer(program, package)?;
                let cost = run_writing(command.args(args).arg(&file), &file)?;
                remove(&file)?;
                Ok(cost)
            };
            field.push((program, Box::new(contender)));
        }
    }
    let samples = race(stage.dir(), runs, field)?;
    let mut done = Outcome::new(&format!("mkfs {size}"), samples, missing);
    // A small volume is a few blocks and three flushes; the floor flushes once.
    let near = if bytes >= 1 << 40 {
        Target::AtMost(1.3)
    } else {
        Target::Told
    };
    done.row(Figure::Time, Some("the floor"), near);
    done.row(Figure::Time, Some("mkfs.ocfs2"), Target::Better(4.0));
    done.row(Figure::Time, Some("mkfs.ext4"), Target::Told);
    done.row(Figure::Time, Some("mkfs.xfs"), Target::Told);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let most = |mib: u64| Target::Absolute((mib * MIB) as f64);
    done.row(Figure::Memory, None, most(16));
    done.row(Figure::Memory, Some("mkfs.ocfs2"), Target::Told);
    done.row(Figure::Allocated, None, most(200));
    for peer in ["mkfs.ocfs2", "mkfs.ext4", "mkfs.xfs"] {
        done.row(Figure::Allocated, Some(peer), Target::Told);
    }
    Ok(done)
}

/// The floor: scattered blocks into a sparse file, and nothing else.
pub(crate) fn floor(file: &Path, blocks: u64, stride: u64) -> Result<()> {
    let file = File::options().write(true).open(file)?;
    let block = [0x55; 4096];
    for n in 0..blocks {
        file.write_all_at(&block, n * stride)?;
    }
    file.sync_data()?;
    Ok(())
}

/// Putting a large file into a volume, against copying it to the same disk.
pub(crate) fn put(stage: &Stage, runs: usize) -> Result<Outcome> {
    let source = stage.noise("source", 2 * GIB)?;
    let field: Vec<Contender<'_>> = vec![
        (
            "debugfs.cowfs write",
            Box::new(|_| {
                let volume = stage.volume("volume", 4 * GIB)?;
                forget(&volume)?;
                let mut debugfs = stage.ours("debugfs-cowfs");
                debugfs
                    .args(["-w", "-R", "write source /file"])
                    .arg(&volume);
                let cost = run_writing(&mut debugfs, &volume)?;
                remove(&volume)?;
                Ok(cost)
            }),
        ),
        (
            "cp + sync",
            Box::new(|_| {
                let copy = stage.path("copy");
                let mut cp = stage.peer("cp", "coreutils")?;
                let cost = run_writing(cp.arg(&source).arg(&copy), &copy)?;
                remove(&copy)?;
                Ok(cost)
            }),
        ),
    ];
    let samples = race(stage.dir(), runs, field)?;
    remove(&source)?;
    let mut done = Outcome::new("put 2 GiB in", samples, Vec::new());
    // 0.8 of the throughput.
    done.row(Figure::Time, Some("cp + sync"), Target::AtMost(1.25));
    done.row(Figure::Memory, Some("cp + sync"), Target::Told);
    Ok(done)
}

/// Cloning a large file, whole process and durable.
pub(crate) fn clone(stage: &Stage, runs: usize) -> Result<Outcome> {
    let mut missing = Vec::new();
    let source = stage.noise("source", IMAGE_BYTES)?;
    let volume = stage.volume("volume", 4 * GIB)?;
    stage.edit(&volume, &["write source /image".to_owned()])?;
    let mut mounts = Vec::new();
    let kinds = [
        ("xfs", "xfsprogs", "cp --reflink, XFS"),
        ("btrfs", "btrfs-progs", "cp --reflink, btrfs"),
    ];
    for (kind, package, name) in kinds {
        if let Some(mount) = if_here(&mut missing, stage.mount(kind, package, 4 * GIB))? {
            run(
                stage
                    .peer("cp", "coreutils")?
                    .arg(&source)
                    .arg(mount.path("image")),
                &[0],
            )?;
            mount.sync()?;
            mounts.push((name, mount));
        }
    }
    let at = &volume;
    let mut field: Vec<Contender<'_>> = vec![(
        "reflink.cowfs clone",
        Box::new(move |turn| {
            let mut clone = stage.ours("reflink-cowfs");
            clone.args(["clone", "-q"]).arg(at);
            run(clone.args(["/image", &format!("/clone-{turn}")]), &[0])
        }),
    )];
    for (name, mount) in &mounts {
        let contender = move |turn| {
            let clone = mount.path(&format!("clone-{turn}"));
            let mut cp = stage.peer("cp", "coreutils")?;
            cp.arg("--reflink=always").arg(mount.path("image"));
            let copied = run(cp.arg(&clone), &[0])?;
            let mut sync = stage.peer("sync", "coreutils")?;
            Ok(copied.then(run(sync.arg("-f").arg(&clone), &[0])?))
        };
        field.push((name, Box::new(contender)));
    }
    let samples = race(stage.dir(), runs, field)?;
    drop(mounts);
    let mut done = Outcome::new("clone 1.8 GB", samples, missing);
    for (_, _, name) in kinds {
        done.row(Figure::Time, Some(name), Target::AtMost(1.0));
    }
    for file in ["source", "volume", "xfs.image", "btrfs.image"] {
        remove(&stage.path(file))?;
    }
    Ok(done)
}

/// Checking a volume, from the disk and from memory.
pub(crate) fn check(stage: &Stage, runs: usize, populated: bool) -> Result<Vec<Outcome>> {
    let volume = stage.volume("volume", 64 * GIB)?;
    let name = if populated {
        populate(stage, &volume)?;
        "populated"
    } else {
        "empty"
    };
    let mut outcomes = Vec::new();
    for cold in [true, false] {
        let mut missing = Vec::new();
        let at = &volume;
        let ready = move || if cold { forget(at) } else { Ok(()) };
        let mut field: Vec<Contender<'_>> = vec![(
            "fsck.cowfs",
            Box::new(move |_| {
                ready()?;
                run(stage.ours("fsck-cowfs").arg("-fn").arg(at), &[0])
            }),
        )];
        if if_here(&mut missing, stage.peer("fsck.ocfs2", "ocfs2-tools"))?.is_some() {
            let contender = move |_| {
                ready()?;
                let mut fsck = stage.peer("fsck.ocfs2", "ocfs2-tools")?;
                run(fsck.arg("-fn").arg(at), &[0])
            };
            field.push(("fsck.ocfs2", Box::new(contender)));
        }
        let samples = race(stage.dir(), runs, field)?;
        let how = if cold { "cold" } else { "warm" };
        let task = format!("check {name} 64 GiB, {how}");
        let mut done = Outcome::new(&task, samples, missing);
        done.row(Figure::Time, Some("fsck.ocfs2"), Target::Better(10.0));
        if cold {
            done.row(Figure::Memory, Some("fsck.ocfs2"), Target::Told);
        }
        outcomes.push(done);
    }
    remove(&volume)?;
    Ok(outcomes)
}

/// Fills a volume: the system image, three clones with scattered writes into each, and 20,000 small
/// files in 20 directories.
fn populate(stage: &Stage, volume: &Path) -> Result<()> {
    let source = stage.noise("source", IMAGE_BYTES)?;
    stage.edit(volume, &["write source /image".to_owned()])?;
    remove(&source)?;
    for n in 0..3 {
        let mut clone = stage.ours("reflink-cowfs");
        clone.args(["clone", "-q"]).arg(volume);
        run(clone.args(["/image", &format!("/clone-{n}")]), &[0])?;
    }
    let mut volume = Volume::open(open::writable(volume)?)?;
    let mut small = tempfile::tempfile_in(stage.dir())?;
    small.write_all(&[0x2A; 6000])?;
    // Large enough to leave no trace of order, small enough for one transaction each.
    let (batch, writes) = (200, 100);
    for n in 0..3_u64 {
        let view = volume.view();
        let name = format!("/clone-{n}");
        let inode = path::resolve(view, view.info().root, name.as_bytes())?;
        for part in 0..5 {
            let mut txn = volume.begin()?;
            for i in 0..writes {
                let offset = (part * writes + i) * 3 * MIB + n * 7 * 4096;
                let source = (&small, "small");
                ops::overwrite(&mut txn, inode, offset, source, Timestamp::now(), &|_| ())?;
            }
            txn.commit()?;
        }
    }
    for n in 0..20 {
        let root = volume.view().info().root;
        let mut txn = volume.begin()?;
        let new = NewInode::at(Timestamp::now(), 0o040_755, 0, 0);
        let name = format!("directory-{n}");
        let made = txn.make_directory(root, name.as_bytes(), &new)?;
        txn.commit()?;
        for first in (0..1000).step_by(batch) {
            let mut txn = volume.begin()?;
            for i in first..first + batch {
                let new = NewInode::at(Timestamp::now(), 0o100_644, 0, 0);
                let name = format!("file number {i}");
                let source = (&small, "small");
                ops::import_file(&mut txn, made, name.as_bytes(), source, &new, &|_| ())?;
            }
            txn.commit()?;
        }
    }
    volume.device().flush()?;
    Ok(())
}
