//! Where the contenders run: a directory on the disk, the tools, and file systems of peers.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cowfs_tests::{Missing, place};

use crate::measure;

/// A directory that holds what is measured, and goes when it is dropped.
pub(crate) struct Stage {
    parent: PathBuf,
    dir: tempfile::TempDir,
    tools: PathBuf,
}

impl Stage {
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let exe = std::env::current_exe()?;
        let tools = exe.parent().unwrap_or(Path::new(".")).to_path_buf();
        let parent = parent.to_path_buf();
        Ok(Self { parent, dir, tools })
    }

    /// The directory beside which everything is kept that outlives a run.
    pub(crate) fn parent(&self) -> &Path {
        &self.parent
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One of our programs, as built beside this one.
    pub(crate) fn ours(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools.join(program));
        command
            .env_remove("SOURCE_DATE_EPOCH")
            .current_dir(self.dir());
        command
    }

    /// A program of the system.
    pub(crate) fn peer(&self, program: &str, package: &str) -> Result<Command> {
        let path = place::program(program).ok_or_else(|| {
            Missing::new(program, format!("Debian's package {package} brings it"))
        })?;
        let mut command = Command::new(path);
        command.current_dir(self.dir());
        Ok(command)
    }

    /// A new sparse file, in the place of an old one.
    pub(crate) fn sparse(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.path(name);
        remove(&path)?;
        File::create(&path)?
            .set_len(bytes)
            .with_context(|| format!("cannot make a sparse file of {bytes} bytes"))?;
        Ok(path)
    }

    /// A new volume of ours.
    pub(crate) fn volume(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.sparse(name, bytes)?;
        measure::run(self.ours("mkfs-cowfs").arg("-q").arg(&path), &[0])?;
        Ok(path)
    }

    /// Commands for `debugfs.cowfs -w`, one after the other.
    pub(crate) fn edit(&self, volume: &Path, commands: &[String]) -> Result<()> {
        let mut debugfs = self.ours("debugfs-cowfs");
        debugfs.arg("-w");
        for command in commands {
            debugfs.args(["-R", command]);
        }
        measure::run(debugfs.arg(volume), &[0])?;
        Ok(())
    }

    /// A file of bytes that nothing can compress or share.
    pub(crate) fn noise(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        self.other_noise(name, bytes, "")
    }

    /// The same, of other bytes for each seed.
    pub(crate) fn other_noise(&self, name: &str, bytes: u64, seed: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for byte in seed.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        let mut chunk = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            for word in chunk.as_chunks_mut::<8>().0 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *word = state.to_le_bytes();
            }
            let now = chunk
                .len()
                .min(usize::try_from(left).unwrap_or(chunk.len()));
            out.write_all(&chunk[..now])?;
            left -= now as u64;
        }
        out.into_inner()?.sync_all()?;
        Ok(path)
    }

    /// Makes a file system in a sparse file and mounts it.
    pub(crate) fn mount(&self, kind: &str, package: &str, bytes: u64) -> Result<Mount> {
        require_root()?;
        let image = self.path(&format!("{kind}.image"));
        remove(&image)?;
        self.make_filesystem(kind, package, &image, bytes)?;
        self.mount_image(kind, &image)
    }

    /// Makes a file system in a sparse file, which is made too.
    pub(crate) fn make_filesystem(
        &self,
        kind: &str,
        package: &str,
        image: &Path,
        bytes: u64,
    ) -> Result<()> {
        let mut mkfs = self.peer(&format!("mkfs.{kind}"), package)?;
        File::create(image)?
            .set_len(bytes)
            .with_context(|| format!("cannot make a sparse file of {bytes} bytes"))?;
        measure::run(mkfs.arg("-q").arg(image), &[0])?;
        Ok(())
    }

    /// Mounts an image, so that reading does not write.
    pub(crate) fn mount_image(&self, kind: &str, image: &Path) -> Result<Mount> {
        require_root()?;
        let at = self.path(kind);
        fs::create_dir_all(&at)?;
        let mut mount = self.peer("mount", "mount")?;
        let mount = mount.args(["-o", "loop,noatime"]).arg(image).arg(&at);
        let done = mount.output()?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(Missing::new(format!("a loop mount of {kind}"), why).into());
        }
        Ok(Mount(at))
    }
}

fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Missing::new("a loop mount", "only root can make one").into())
}

/// A mounted file system, unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns when all that it holds is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(File::open(&self.0)?)?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let ended =
            place::program("umount").map(|umount| Command::new(umount).arg(&self.0).status());
        if !matches!(ended, Some(Ok(status)) if status.success()) {
            eprintln!("bench: {} is still mounted", self.0.display());
        }
    }
}

/// Removes a file that may not exist.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the next reader of a file read it from the disk. What is in memory must be written already.
pub(crate) fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    if rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_err() {
        bail!("{}: cannot be dropped from memory", path.display());
    }
    Ok(())
}
