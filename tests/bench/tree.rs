//! A tree of many files, as a volume and as an XFS image that is mounted: what walks are measured
//! on.
//!
//! Making it takes longer than measuring it, so both images are kept beside the directory of the
//! run, in `bench-tree-<version>`, and used again. Whoever changes what is in the tree counts
//! [`VERSION`] up.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cowfs_format::device::{DeviceMut, FileDevice};
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::toolkit::open;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{Volume, path};

use crate::measure;
use crate::stage::{Mount, Stage};

/// Version of the tree.
const VERSION: u32 = 1;
/// Bytes of either image, sparse.
pub(crate) const IMAGE_BYTES: u64 = 4 << 30;
/// Files of one transaction.
const BATCH: usize = 1000;

/// A directory of the tree: its path and how many files it holds.
struct Directory {
    path: String,
    files: usize,
}

/// The tree of many files.
pub(crate) struct Tree {
    dir: PathBuf,
    /// The image of the volume.
    pub(crate) volume: PathBuf,
    /// The same tree mounted as XFS; an error when that cannot be had here.
    pub(crate) xfs: Result<Mount>,
}

impl Tree {
    /// The tree, made now if no earlier run left it.
    pub(crate) fn new(stage: &Stage) -> Result<Self> {
        let dir = stage.parent().join(format!("bench-tree-{VERSION}"));
        fs::create_dir_all(&dir)?;
        let volume = kept(&dir, "volume.image", |part| {
            let at = part.display();
            eprintln!("making a volume of {} files", files());
            File::create(part)?.set_len(IMAGE_BYTES)?;
            let mut mkfs = stage.ours("mkfs-cowfs");
            measure::run(mkfs.args(["-q", "-J", "size=128M"]).arg(part), &[0])?;
            fill_volume(part).with_context(|| format!("cannot fill {at}"))
        })?;
        let xfs = xfs(stage, &dir);
        Ok(Self { dir, volume, xfs })
    }

    /// Where images of the tree are kept.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn xfs(stage: &Stage, dir: &Path) -> Result<Mount> {
    let image = kept(dir, "xfs.image", |part| {
        eprintln!("making an XFS of {} files", files());
        stage.make_filesystem("xfs", "xfsprogs", part, IMAGE_BYTES)?;
        let mount = stage.mount_image("xfs", part)?;
        fill_directory(&mount.path("."))?;
        mount.sync()
    })?;
    stage.mount_image("xfs", &image)
}

/// A file that `make` makes once: under another name, so that half of one is never taken for it.
pub(crate) fn kept(
    dir: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let path = dir.join(name);
    if !path.exists() {
        let part = dir.join(format!("{name}.part-{}", std::process::id()));
        make(&part).inspect_err(|_| drop(fs::remove_file(&part)))?;
        fs::rename(&part, &path)?;
    }
    Ok(path)
}

/// Two large directories, 40 of a thousand files, 400 of some two hundred, two of them far down.
fn directories() -> Vec<Directory> {
    let mut all = Vec::new();
    let mut add = |path: String, files| all.push(Directory { path, files });
    for n in 0..2 {
        add(format!("mail-{n}"), 20_000);
    }
    add("archive".to_owned(), 0);
    for n in 0..40 {
        add(format!("archive/year-{n}"), 1000);
    }
    add("home".to_owned(), 0);
    for user in 0..20 {
        add(format!("home/user-{user}"), 10);
        for project in 0..20 {
            add(
                format!("home/user-{user}/project-{project}"),
                100 + project * 10,
            );
        }
    }
    let mut deep = "deep".to_owned();
    for level in 0..20 {
        add(deep.clone(), 10);
        deep = format!("{deep}/level-{level}");
    }
    add("clones".to_owned(), 0);
    all
}

/// The files of `/clones`: clones of the files of `mail-0` with these numbers.
fn clones() -> impl Iterator<Item = usize> {
    (0..20_000).filter(|n| size_class(*n) >= 6).take(2000)
}

fn files() -> usize {
    directories().iter().map(|d| d.files).sum::<usize>() + clones().count()
}

/// Sizes of files: seven of sixteen fit into an inode.
const SIZES: [usize; 16] = [
    60, 300, 900, 1500, 2200, 3000, 3500, 3900, 4096, 4096, 4000, 3950, 6000, 8192, 12_000, 30_000,
];

/// The size of a file, by its number in its directory.
fn size_class(n: usize) -> usize {
    (n.wrapping_mul(0x9E37_79B1) >> 12) % SIZES.len()
}

fn file_name(n: usize) -> String {
    format!("file number {n:05}.data")
}

/// The contents of a class of files.
fn contents(class: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ class as u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(SIZES[class]).collect()
}

fn fill_volume(image: &Path) -> Result<()> {
    let mut volume = Volume::open(open::writable(image)?)?;
    let now = Timestamp::now();
    let mut sources = Vec::new();
    for class in 0..SIZES.len() {
        let mut file = tempfile::tempfile()?;
        file.write_all(&contents(class))?;
        file.rewind()?;
        sources.push(file);
    }
    for directory in directories() {
        let made = make_directory(&mut volume, &directory.path, now)?;
        let numbers: Vec<usize> = (0..directory.files).collect();
        for part in numbers.chunks(BATCH) {
            let mut txn = volume.begin()?;
            for &n in part {
                let new = NewInode::at(now, 0o100_644, 1000, 1000);
                let source = (&sources[size_class(n)], "source");
                ops::import_file(
                    &mut txn,
                    made,
                    file_name(n).as_bytes(),
                    source,
                    &new,
                    &|_| (),
                )?;
            }
            txn.commit()?;
        }
    }
    let options = preserving(now);
    let numbers: Vec<usize> = clones().collect();
    for part in numbers.chunks(100) {
        let root = volume.view().info().root;
        let into = path::resolve(volume.view(), root, b"/clones")?;
        let mut txn = volume.begin()?;
        for &n in part {
            let name = file_name(n);
            let from = format!("/mail-0/{name}");
            let from = path::resolve(txn.view(), root, from.as_bytes())?;
            ops::clone_file(&mut txn, from, into, name.as_bytes(), &options)?;
        }
        txn.commit()?;
    }
    volume.device().flush()?;
    Ok(())
}

/// How files are cloned: with all their attributes.
pub(crate) const fn preserving(now: Timestamp) -> CloneOptions {
    CloneOptions {
        preserve: true,
        uid: 0,
        gid: 0,
        now,
    }
}

pub(crate) fn make_directory(
    volume: &mut Volume<FileDevice>,
    at: &str,
    now: Timestamp,
) -> Result<BlockNo> {
    let root = volume.view().info().root;
    let to = path::resolve_parent(volume.view(), root, format!("/{at}").as_bytes())?;
    let mut txn = volume.begin()?;
    let new = NewInode::at(now, 0o040_755, 1000, 1000);
    let made = txn.make_directory(to.directory, &to.name, &new)?;
    txn.commit()?;
    Ok(made)
}

pub(crate) fn fill_directory(top: &Path) -> Result<()> {
    let contents: Vec<Vec<u8>> = (0..SIZES.len()).map(contents).collect();
    for directory in directories() {
        let at = top.join(&directory.path);
        fs::create_dir(&at)?;
        for n in 0..directory.files {
            fs::write(at.join(file_name(n)), &contents[size_class(n)])?;
        }
    }
    for n in clones() {
        let from = top.join("mail-0").join(file_name(n));
        clone_or_copy(&from, &top.join("clones").join(file_name(n)))?;
    }
    Ok(())
}

/// A clone of a mounted file, or a copy where there are no clones.
pub(crate) fn clone_or_copy(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from)?;
    match rustix::fs::ioctl_ficlone(File::create(to)?, &source) {
        Err(rustix::io::Errno::OPNOTSUPP) => fs::copy(from, to).map(drop)?,
        done => done?,
    }
    Ok(())
}
