//! The golden images in `testdata/images`: small whole volumes made by mkfs.ocfs2 and the driver, with what the oracles
//! said of each. `testdata/README.md` says what each holds; `make-golden` makes them.

use crate::extents::{self, FileExtents};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::place;
use crate::walk::{self, Entry};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Names end in this.
const PACKED: &str = ".img.zst";
/// What is zero for so many bytes stays a hole.
const PIECE: usize = 4096;

/// A golden image and what was recorded of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Golden {
    /// Its name, that of the files without their endings.
    pub name: String,
}

/// Where the images lie.
pub fn directory() -> PathBuf {
    place::source_root().join("testdata").join("images")
}

/// All golden images, by name.
pub fn all() -> Result<Vec<Golden>> {
    let dir = directory();
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(PACKED) {
            found.push(Golden {
                name: name.to_owned(),
            });
        }
    }
    found.sort();
    Ok(found)
}

/// Unpacks the image of this name into a sparse temporary file.
pub fn open(name: &str) -> Result<NamedTempFile> {
    let packed = directory().join(format!("{name}{PACKED}"));
    let file =
        fs::File::open(&packed).with_context(|| format!("no golden image {}", packed.display()))?;
    let to = tempfile::Builder::new()
        .prefix("golden-")
        .suffix(".img")
        .tempfile()?;
    unpack(file, to.as_file()).with_context(|| format!("cannot unpack {}", packed.display()))?;
    Ok(to)
}

fn unpack(packed: impl Read, to: &fs::File) -> Result<()> {
    let mut from = zstd::Decoder::new(BufReader::new(packed))?;
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = 0;
    loop {
        piece.clear();
        let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if read == 0 {
            to.set_len(at)?;
            return Ok(());
        }
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(&piece, at)?;
        }
        at += read as u64;
    }
}

/// Packs an image as the golden ones are. The window spans the image, so that what the journal repeats costs nothing.
pub fn pack(image: &Path) -> Result<Vec<u8>> {
    let mut packer = zstd::Encoder::new(Vec::new(), 19)?;
    packer.long_distance_matching(true)?;
    packer.window_log(27)?;
    packer.include_checksum(true)?;
    std::io::copy(&mut fs::File::open(image)?, &mut packer)?;
    Ok(packer.finish()?)
}

/// What the driver shows of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every path.
    pub walk: Vec<Entry>,
    /// Where files lie.
    pub extents: Vec<FileExtents>,
}

/// Asks the driver what it sees of these volumes, in one guest for each kernel, since booting costs most. The volumes are
/// mounted for writing, so that what a crash left behind is recovered.
pub fn ask(volumes: &[(&Golden, &Path)]) -> Result<Vec<Seen>> {
    let mut seen = vec![Seen::default(); volumes.len()];
    for kernel in Kernel::ALL {
        let asked = |golden: &Golden| golden.kernels().contains(&kernel);
        let these: Vec<usize> = (0..volumes.len())
            .filter(|n| asked(volumes[*n].0))
            .collect();
        let mut guest = Guest::new(kernel)?.timeout(Duration::from_secs(900));
        let mut script = String::new();
        for (n, letter) in these.iter().zip('a'..='z') {
            let (golden, image) = volumes[*n];
            guest = guest.disk(image);
            // A name that cannot be looked up is an error, except where that is the point.
            let or = if golden.kernels().len() > 1 {
                "|| :"
            } else {
                ""
            };
            let name = &golden.name;
            script += &format!(
                "DISK=/dev/vd{letter}; mount_vol; walk_vol {name} {or}\nextents_vol {name} {or}\n"
            );
            script += "umount_vol\n";
        }
        if these.is_empty() {
            continue;
        }
        let said = guest.run(&script)?;
        ensure!(
            said.status == Some(0),
            "the driver does not read the volumes:\n{said}"
        );
        for n in these {
            let (golden, to) = (volumes[n].0, &mut seen[n]);
            let (walk, extents) = (said.walk(&golden.name)?, said.extents(&golden.name)?);
            to.walk.extend(
                walk.into_iter()
                    .filter(|new| !to.walk.contains(new))
                    .collect::<Vec<_>>(),
            );
            to.extents.extend(
                extents
                    .into_iter()
                    .filter(|new| !to.extents.contains(new))
                    .collect::<Vec<_>>(),
            );
        }
    }
    for Seen { walk, extents } in &mut seen {
        walk.sort_by(|a, b| a.path.cmp(&b.path));
        extents.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(seen)
}

impl Golden {
    /// Unpacks the image into a sparse temporary file.
    pub fn open(&self) -> Result<NamedTempFile> {
        open(&self.name)
    }

    /// Where the recorded output `kind` lies.
    pub fn record(&self, kind: &str) -> PathBuf {
        directory().join(format!("{}.{kind}.txt", self.name))
    }

    fn text(&self, kind: &str) -> Result<String> {
        let path = self.record(kind);
        fs::read_to_string(&path).with_context(|| format!("no record {}", path.display()))
    }

    /// The kernels that are asked what they see. Neither sees all names of a directory that both have written into
    /// (their name hashes differ): only together do they know the whole.
    pub fn kernels(&self) -> &'static [Kernel] {
        if self.name.starts_with("mixed-") {
            &Kernel::ALL
        } else {
            &[Kernel::V6_1]
        }
    }

    /// What `fsck.ocfs2 -fn` printed.
    pub fn fsck(&self) -> Result<String> {
        self.text("fsck")
    }

    /// What `debugfs.ocfs2 -R stats` printed.
    pub fn stats(&self) -> Result<String> {
        self.text("stats")
    }

    /// The volume as the driver shows it (after its own recovery, when the image was left by a crash). None when the
    /// driver cannot mount it without a cluster.
    pub fn seen(&self) -> Result<Option<Seen>> {
        if !self.record("walk").is_file() {
            return Ok(None);
        }
        let walk = walk::from_text(&self.text("walk")?)?;
        Ok(Some(Seen {
            walk,
            extents: extents::from_text(&self.text("extents")?)?,
        }))
    }
}
