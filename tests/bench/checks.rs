//! Checking a volume of 220,000 inodes against the checkers of other file systems on the same tree in
//! their formats, and against no more than reading the same blocks.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use cowfs_format::device::DeviceMut;
use cowfs_format::ops;
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::volume::{Volume, path};

use crate::measure::{Contender, race, run};
use crate::stage::{Stage, forget, remove};
use crate::table::{Figure, Target};
use crate::tasks::{Outcome, if_here};
use crate::tree::{self, IMAGE_BYTES, Tree, kept};

const MIB: u64 = 1 << 20;
/// Directories of many entries, and how many.
const LISTS: (usize, usize) = (2, 30_000);
/// Bytes of an image of which there are clones.
const IMAGE: usize = 64 << 20;
/// Clones of it, and the writes into each.
const CLONES: (u64, u64) = (3, 400);
/// Bytes of each write.
const WRITE: usize = 6000;
/// Inodes of the volume.
const INODES: u64 = 220_400;
/// What was promised of the memory beyond two bits a cluster and 32 bytes an inode.
const MEMORY: u64 = 64 * MIB;

/// Where the writes into a clone go.
fn writes(clone: u64) -> impl Iterator<Item = u64> {
    (0..CLONES.1).map(move |n| n * 160 * 1024 + clone * 28_672)
}

/// Adds to the tree what is hard to check: long directories, and clones that were written to.
fn add_to_volume(image: &Path) -> Result<()> {
    let mut volume = Volume::open(open::writable(image)?)?;
    let now = Timestamp::now();
    let root = volume.info().root;
    let new = NewInode::at(now, 0o100_644, 1000, 1000);
    let numbers: Vec<usize> = (0..LISTS.1).collect();
    for list in 0..LISTS.0 {
        let directory = tree::make_directory(&mut volume, &format!("list-{list}"), now)?;
        for part in numbers.chunks(1000) {
            let mut txn = volume.begin()?;
            for n in part {
                let name = format!("entry-{n}");
                ops::make_node(&mut txn, directory, name.as_bytes(), 0, &new)?;
            }
            txn.commit()?;
        }
    }
    let mut source = tempfile::tempfile()?;
    source.write_all(&vec![0x2A; IMAGE])?;
    source.rewind()?;
    let mut txn = volume.begin()?;
    let disk = ops::import_file(&mut txn, root, b"disk", (&source, "source"), &new, &|_| ())?;
    txn.commit()?;
    let options = tree::preserving(now);
    source.set_len(WRITE as u64)?;
    for clone in 0..CLONES.0 {
        let name = format!("clone-{clone}");
        let mut txn = volume.begin()?;
        ops::clone_file(&mut txn, disk, root, name.as_bytes(), &options)?;
        txn.commit()?;
        let inode = path::resolve(volume.view(), root, name.as_bytes())?;
        let places: Vec<u64> = writes(clone).collect();
        for part in places.chunks(100) {
            let mut txn = volume.begin()?;
            for &offset in part {
                source.rewind()?;
                ops::overwrite(&mut txn, inode, offset, (&source, "source"), now, &|_| ())?;
            }
            txn.commit()?;
        }
    }
    volume.device().flush()?;
    Ok(())
}

/// The same for a mounted file system; one without reflinks has copies.
fn add_to_directory(top: &Path) -> Result<()> {
    for list in 0..LISTS.0 {
        let at = top.join(format!("list-{list}"));
        fs::create_dir(&at)?;
        for n in 0..LISTS.1 {
            File::create(at.join(format!("entry-{n}")))?;
        }
    }
    fs::write(top.join("disk"), vec![0x2A; IMAGE])?;
    for clone in 0..CLONES.0 {
        let to = top.join(format!("clone-{clone}"));
        tree::clone_or_copy(&top.join("disk"), &to)?;
        let to = File::options().write(true).open(to)?;
        for offset in writes(clone) {
            to.write_all_at(&[0x2A; WRITE], offset)?;
        }
    }
    Ok(())
}

fn volume(stage: &Stage, tree: &Tree) -> Result<PathBuf> {
    kept(tree.dir(), "check.volume", |part| {
        eprintln!("making a volume to check");
        let mut cp = stage.peer("cp", "coreutils")?;
        run(cp.arg("--sparse=always").arg(&tree.volume).arg(part), &[0])?;
        add_to_volume(part)
    })
}

/// An image of a peer's, unmounted.
fn peers_image(stage: &Stage, tree: &Tree, kind: &str, package: &str) -> Result<PathBuf> {
    kept(tree.dir(), &format!("check.{kind}"), |part| {
        eprintln!("making an image of {kind} to check");
        stage.make_filesystem(kind, package, part, IMAGE_BYTES)?;
        let mount = stage.mount_image(kind, part)?;
        tree::fill_directory(&mount.path("."))?;
        add_to_directory(&mount.path("."))?;
        mount.sync()
    })
}

/// Ranges of a sparse file that hold data: start and end.
fn ranges(file: &File) -> Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
        found.push((start, end));
        at = end;
    }
    Ok(found)
}

/// Reads what an image of the metadata says that there is of it, on so many threads, and computes the
/// CRC32 of each block: what a check costs at the least.
pub(crate) fn read(file: &Path, metadata: &Path, threads: usize) -> Result<()> {
    const PIECE: u64 = MIB;
    const BLOCK: usize = 4096;
    let (file, metadata) = (File::open(file)?, File::open(metadata)?);
    let mut pieces = Vec::new();
    for (start, end) in ranges(&metadata)? {
        let mut at = start;
        while at < end {
            pieces.push((at, (end - at).min(PIECE)));
            at += PIECE;
        }
    }
    let next = AtomicUsize::new(0);
    let sum = std::thread::scope(|scope| -> Result<u32> {
        let work = || -> Result<u32> {
            let mut buffer = vec![0; usize::try_from(PIECE)?];
            let mut sum = 0;
            while let Some(&(at, len)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let part = &mut buffer[..usize::try_from(len)?];
                file.read_exact_at(part, at)?;
                for block in part.chunks(BLOCK) {
                    sum ^= crc32fast::hash(block);
                }
            }
            Ok(sum)
        };
        let others: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = 0;
        for other in others {
            all ^= other
                .join()
                .map_err(|_| anyhow::anyhow!("a thread died"))??;
        }
        Ok(all)
    })?;
    writeln!(std::io::stdout(), "{sum:08x}")?;
    Ok(())
}

/// The contenders that read a peer's image: name, kind, package, program, arguments.
const PEERS: [(&str, &str, &str, &str, &[&str]); 3] = [
    (
        "xfs_repair -n",
        "xfs",
        "xfsprogs",
        "xfs_repair",
        &["-n", "-f"],
    ),
    ("e2fsck -fn", "ext4", "e2fsprogs", "e2fsck", &["-fn"]),
    (
        "btrfs check",
        "btrfs",
        "btrfs-progs",
        "btrfs",
        &["check", "--readonly"],
    ),
];

/// `fsck.cowfs -fn` on a volume of many inodes, from the disk and from memory.
pub(crate) fn many(stage: &Stage, tree: &Tree, runs: usize) -> Result<Vec<Outcome>> {
    let at = &volume(stage, tree)?;
    let metadata = stage.path("metadata");
    let image = format!("image {}", metadata.display());
    run(
        stage.ours("debugfs-cowfs").args(["-R", &image]).arg(at),
        &[0],
    )?;
    let this = std::env::current_exe()?;
    let mut outcomes = Vec::new();
    for cold in [false, true] {
        let mut missing = Vec::new();
        let ready = move |image: &Path| if cold { forget(image) } else { Ok(()) };
        let ours = |name, threads: &'static str| -> Contender<'_> {
            let once = move |_| {
                ready(at)?;
                let mut fsck = stage.ours("fsck-cowfs");
                run(fsck.args(["-fn", "--threads", threads]).arg(at), &[0])
            };
            (name, Box::new(once))
        };
        let mut field = vec![ours("fsck.cowfs -fn", "2"), ours("one thread", "1")];
        let (this, metadata) = (&this, &metadata);
        let floor = move |_| {
            ready(at)?;
            let mut floor = std::process::Command::new(this);
            run(floor.arg("read").arg(at).arg(metadata).arg("2"), &[0])
        };
        field.push((FLOOR, Box::new(floor)));
        if if_here(&mut missing, stage.peer("fsck.ocfs2", "ocfs2-tools"))?.is_some() {
            let theirs = move |_| {
                ready(at)?;
                let mut fsck = stage.peer("fsck.ocfs2", "ocfs2-tools")?;
                run(fsck.arg("-fn").arg(at), &[0])
            };
            field.push(("fsck.ocfs2 -fn", Box::new(theirs)));
        }
        for (name, kind, package, program, args) in PEERS {
            let image = peers_image(stage, tree, kind, package);
            let Some(image) = if_here(&mut missing, image)? else {
                continue;
            };
            let theirs = move |_| {
                ready(&image)?;
                let mut checker = stage.peer(program, package)?;
                run(checker.args(args).arg(&image), &[0])
                    .with_context(|| image.display().to_string())
            };
            field.push((name, Box::new(theirs)));
        }
        let samples = race(stage.dir(), runs, field)?;
        let how = if cold { "cold" } else { "warm" };
        let task = format!("check 220,000 inodes, {how}");
        let mut done = Outcome::new(&task, samples, missing);
        let time = [
            ("fsck.ocfs2 -fn", Target::Better(30.0)),
            ("xfs_repair -n", Target::AtMost(1.0)),
            ("e2fsck -fn", Target::AtMost(1.1)),
            ("btrfs check", Target::AtMost(1.0)),
            (FLOOR, Target::AtMost(2.0)),
            ("one thread", Target::Told),
        ];
        for (peer, target) in time {
            let target = if cold { Target::Told } else { target };
            done.row(Figure::Time, Some(peer), target);
        }
        done.row(
            Figure::Memory,
            None,
            Target::Absolute(promised(at, INODES)?),
        );
        for (peer, _) in time {
            done.row(Figure::Memory, Some(peer), Target::Told);
        }
        outcomes.push(done);
    }
    remove(&metadata)?;
    Ok(outcomes)
}

const FLOOR: &str = "reading the blocks";

/// Bytes of memory that a check of a volume of so many inodes may take.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn promised(image: &Path, inodes: u64) -> Result<f64> {
    let volume = Volume::open(open::read_only(image)?)?;
    let clusters = u64::from(volume.view().geo().clusters());
    Ok((MEMORY + clusters / 4 + 32 * inodes) as f64)
}
