//! `demo`: the origin story of the format, told with real figures on a volume of its own.
//!
//! A system image is put on a fresh volume and cloned; the clone takes no space; part of it is
//! overwritten; the growth is what was overwritten, and the original's sum does not change.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cowfs_format::device::{DeviceMut, FileDevice};
use cowfs_format::layout::Dinode;
use cowfs_format::ops::{self, CloneOptions};
use cowfs_format::read::file::FileReader;
use cowfs_format::read::{inode, refcount};
use cowfs_format::toolkit::open;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::txn::{NewInode, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_format::volume::{Volume, path};

use crate::cli::DemoArgs;

/// The image of the announcement of 2009.
const IMAGE_BYTES: u64 = 1_814_420_898;
/// Data in it; the rest are holes, as in a system image fresh from its installer.
const DATA_BYTES: u64 = 300 << 20;
/// What is written into the clone, and where.
const WRITE_BYTES: u64 = 100 << 20;
const WRITE_AT: u64 = 40 << 20;
const VOLUME_BYTES: u64 = 4 << 30;

pub(crate) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<()> {
    let own;
    let directory: &Path = match &args.keep {
        Some(directory) => directory,
        None => {
            own = tempfile::tempdir().context("cannot make a temporary directory")?;
            own.path()
        }
    };
    let image = directory.join("demo.img");
    let system = directory.join("System.img");
    make_system_image(&system).with_context(|| format!("{}", system.display()))?;

    writeln!(out, "$ mkfs.cowfs --size 4G demo.img")?;
    let took = timed(|| make_volume(&image))?;
    writeln!(out, "  an OCFS2 volume of 4 GiB, made in {}", seconds(took))?;

    let mut story = Story {
        volume: writable(&image)?,
        out,
    };
    story.df()?;
    story.put(&system)?;
    let before = story.df()?;
    let sum = story.sum("System.img")?;
    story.clone()?;
    let cloned = story.df()?;
    story.say(&format!(
        "  the clone took {} of metadata",
        show_size(cloned - before)
    ))?;
    ensure!(
        story.sum("clone.img")? == sum,
        "the clone's contents differ from the original's"
    );

    story.overwrite(directory)?;
    let grown = story.df()?;
    let growth = format!(
        "  {} written into the clone took {}",
        show_size(WRITE_BYTES),
        show_size(grown - cloned)
    );
    story.say(&growth)?;
    ensure!(story.sum("System.img")? == sum, "the original changed");
    story.compare("System.img", &system)?;
    story.draw()?;
    drop(story);
    check(&image, out)?;
    if args.keep.is_some() {
        writeln!(
            out,
            "\nThe volume is {}; Linux mounts it: mount -o loop,ro",
            image.display()
        )?;
    }
    Ok(())
}

fn writable(image: &Path) -> Result<Volume<FileDevice>> {
    Ok(Volume::open(open::writable(image)?)?)
}

fn make_volume(image: &Path) -> Result<()> {
    let device = open::create_or_grow(image, VOLUME_BYTES)?;
    mkfs_cowfs::format(&device, &mkfs_cowfs::Options::default())?;
    Ok(device.flush()?)
}

/// A sparse file with data in runs of 20 MiB.
fn make_system_image(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(IMAGE_BYTES)?;
    let run = 20 << 20;
    let gap = IMAGE_BYTES / (DATA_BYTES / run);
    let mut word = 0x2545_F491_4F6C_DD1D_u64;
    let mut buf = vec![0; 1 << 20];
    for start in (0..DATA_BYTES / run).map(|i| i * gap / 4096 * 4096) {
        for at in (0..run).step_by(1 << 20) {
            for bytes in buf.chunks_exact_mut(8) {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            file.write_all_at(&buf, start + at)?;
        }
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn seconds(took: Duration) -> String {
    format!("{:.3} s", took.as_secs_f64())
}

/// The volume while the story is told.
struct Story<'o> {
    volume: Volume<FileDevice>,
    out: &'o mut dyn Write,
}

impl Story<'_> {
    fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "{line}")?)
    }

    fn find(&self, name: &str) -> Result<BlockNo> {
        Ok(path::resolve(
            self.volume.view(),
            self.volume.info().root,
            name.as_bytes(),
        )?)
    }

    /// Prints and gives the bytes in use.
    fn df(&mut self) -> Result<u64> {
        let view = self.volume.view();
        let bitmap = inode::read(view, system::find(view, SystemFile::GlobalBitmap)?)?;
        let bits = view.geo().cluster_bits();
        let used = u64::from(Dinode::bitmap_used(&bitmap)) << bits;
        let total = u64::from(Dinode::bitmap_total(&bitmap)) << bits;
        drop(bitmap);
        self.say("$ debugfs.cowfs -R df demo.img")?;
        self.say(&format!(
            "  {used} bytes used of {total} ({})",
            show_size(used)
        ))?;
        Ok(used)
    }

    fn put(&mut self, source: &Path) -> Result<()> {
        self.say("$ debugfs.cowfs -w -R 'write System.img /System.img' demo.img")?;
        let file = File::open(source)?;
        let attributes = NewInode::at(Timestamp::now(), 0o100_644, 0, 0);
        let took = timed(|| {
            let root = self.volume.info().root;
            let mut txn = self.volume.begin()?;
            let source = (&file, "System.img");
            ops::import_file(&mut txn, root, b"System.img", source, &attributes, &|_| {})?;
            txn.commit()?;
            Ok(())
        })?;
        let size = show_size(DATA_BYTES);
        let took = seconds(took);
        self.say(&format!(
            "  {IMAGE_BYTES} bytes ({size} of data, holes) put in, in {took}"
        ))
    }

    fn clone(&mut self) -> Result<()> {
        self.say("$ reflink.cowfs clone demo.img /System.img /clone.img")?;
        let source = self.find("System.img")?;
        let options = CloneOptions {
            preserve: false,
            uid: 0,
            gid: 0,
            now: Timestamp::now(),
        };
        let took = timed(|| {
            let root = self.volume.info().root;
            let mut txn = self.volume.begin()?;
            ops::clone_file(&mut txn, source, root, b"clone.img", &options)?;
            txn.commit()?;
            Ok(())
        })?;
        self.say(&format!("  cloned in {}, durable", seconds(took)))
    }

    fn overwrite(&mut self, directory: &Path) -> Result<()> {
        let zeros = directory.join("zeros");
        let file = File::create_new(&zeros)?;
        for at in (0..WRITE_BYTES).step_by(1 << 20) {
            file.write_all_at(&[0; 1 << 20], at)?;
        }
        drop(file);
        let file = File::open(&zeros)?;
        self.say(&format!(
            "$ debugfs.cowfs -w -R 'write zeros /clone.img --offset {WRITE_AT}' demo.img"
        ))?;
        let clone = self.find("clone.img")?;
        let took = timed(|| {
            let mut txn = self.volume.begin()?;
            let source = (&file, "zeros");
            ops::overwrite(&mut txn, clone, WRITE_AT, source, Timestamp::now(), &|_| {})?;
            txn.commit()?;
            Ok(())
        })?;
        std::fs::remove_file(zeros)?;
        self.say(&format!(
            "  {} overwritten in {}",
            show_size(WRITE_BYTES),
            seconds(took)
        ))
    }

    /// Prints and gives the CRC-32 of a file.
    fn sum(&mut self, name: &str) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        self.read(name, |_, bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        let sum = hasher.finalize();
        self.say(&format!("  crc32 {sum:08x}  {name}"))?;
        Ok(sum)
    }

    /// Makes sure that a file holds what a host file holds, byte for byte.
    fn compare(&mut self, name: &str, host: &Path) -> Result<()> {
        let file = File::open(host)?;
        let mut expected = vec![0; 1 << 20];
        self.read(name, |at, bytes| {
            file.read_exact_at(&mut expected[..bytes.len()], at)?;
            ensure!(
                expected[..bytes.len()] == *bytes,
                "{name} differs near byte {at}"
            );
            Ok(())
        })?;
        self.say(&format!("  {name} is byte for byte what was put in"))
    }

    /// Reads a file from its start to its end.
    fn read(&self, name: &str, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let blkno = self.find(name)?;
        let view = self.volume.view();
        let inode = inode::read(view, blkno)?;
        let reader = FileReader::open(view, &inode)?;
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        while at < reader.size() {
            let step = cowfs_format::units::index((reader.size() - at).min(1 << 20));
            reader.read_at(at, &mut buf[..step])?;
            visit(at, &buf[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// Draws which parts of the two files are shared.
    fn draw(&mut self) -> Result<()> {
        const CELLS: u64 = 64;
        self.say("\nWho shares what ('#' shared, '+' its own, '.' hole), by the refcount tree:")?;
        for name in ["System.img", "clone.img"] {
            let blkno = self.find(name)?;
            let view = self.volume.view();
            let inode = inode::read(view, blkno)?;
            let geo = view.geo();
            let tree = BlockNo(inode.i_refcount_loc.get());
            let cell_clusters = geo.clusters_for(inode.i_size.get()).div_ceil(CELLS);
            let mut shared = vec![0u64; 64];
            let mut own = vec![0u64; 64];
            for extent in inode.extents(view)? {
                let first = u64::from(geo.cluster_of(extent.blkno).0);
                let counts = if extent.is_refcounted() {
                    refcount::records_in(view, tree, first, first + u64::from(extent.clusters))?
                } else {
                    Vec::new()
                };
                for i in 0..u64::from(extent.clusters) {
                    let cell = usize::try_from((u64::from(extent.cpos) + i) / cell_clusters)?;
                    let is_shared = counts.iter().any(|rec| {
                        let at = rec.r_cpos.get();
                        (at..at + u64::from(rec.r_clusters.get())).contains(&(first + i))
                            && rec.r_refcount.get() > 1
                    });
                    let count = if is_shared { &mut shared } else { &mut own };
                    if let Some(place) = count.get_mut(cell) {
                        *place += 1;
                    }
                }
            }
            let bar: String = shared
                .iter()
                .zip(&own)
                .map(|(shared, own)| match (*shared, *own) {
                    (0, 0) => '.',
                    (s, o) if s >= o => '#',
                    _ => '+',
                })
                .collect();
            let total = |cells: &[u64]| show_size(cells.iter().sum::<u64>() << geo.cluster_bits());
            let line = format!(
                "  {name:<10} {bar}  {} shared, {} own",
                total(&shared),
                total(&own)
            );
            self.say(&line)?;
        }
        Ok(())
    }
}

/// Checks the volume as `fsck.cowfs -fn` does.
fn check(image: &Path, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "\n$ fsck.cowfs -fn demo.img")?;
    let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
    let mut said = Vec::new();
    let mut complaints = Vec::new();
    let code = fsck_cowfs::run(args, &mut said, &mut complaints);
    let text = String::from_utf8_lossy(&said);
    let shown = text.replace(&image.display().to_string(), "demo.img");
    for line in shown.lines() {
        writeln!(out, "  {line}")?;
    }
    if code != 0 {
        bail!(
            "fsck.cowfs: {}",
            String::from_utf8_lossy(&complaints).trim()
        );
    }
    Ok(())
}
