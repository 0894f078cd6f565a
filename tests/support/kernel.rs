//! Debian's kernels, fetched and unpacked but never installed, and the first file system they boot into.
//!
//! Two of them, because they disagree: 6.2 changed how the hash of a name takes bytes of 0x80 and above, so that 6.1
//! and 6.12 find different entries in one and the same directory index.
//!
//! The initial file system holds busybox, the driver's modules and a few dynamic programs with their libraries, all
//! taken from the host. What a single boot adds (the script, files handed in) is a second archive behind it: [`crate::guest`].

use crate::cpio::Archive;
use crate::place;
use crate::skip::Missing;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules in the order in which they must be loaded. One that a kernel has built in has no file there.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "libcrc32c",
    "jbd2",
    "quota_tree",
    "configfs",
    "ocfs2_stackglue",
    "ocfs2_nodemanager",
    "ocfs2",
];

/// Modules that a guest needs besides when it is a node of a cluster.
const CLUSTER_MODULES: &[&str] = &[
    "failover",
    "net_failover",
    "virtio_net",
    "ocfs2_dlm",
    "ocfs2_stack_o2cb",
];

/// Programs of the host that guests get, each with the Debian package that brings it. Busybox has its own makes of
/// many, but those lack `--reflink`, `-printf`, `-z` and the like.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("chattr", "e2fsprogs"),
    ("cp", "coreutils"),
    ("dd", "coreutils"),
    ("fallocate", "util-linux"),
    ("filefrag", "e2fsprogs"),
    ("find", "findutils"),
    ("getfacl", "acl"),
    ("getfattr", "attr"),
    ("head", "coreutils"),
    ("ln", "coreutils"),
    ("mkdir", "coreutils"),
    ("rm", "coreutils"),
    ("setfacl", "acl"),
    ("setfattr", "attr"),
    ("sha256sum", "coreutils"),
    ("stat", "coreutils"),
    ("sync", "coreutils"),
    ("touch", "coreutils"),
    ("truncate", "coreutils"),
    ("xargs", "findutils"),
    ("xfs_io", "xfsprogs"),
    ("xfs_quota", "xfsprogs"),
];

/// A series of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Bookworm's: name hashes take bytes as signed.
    V6_1,
    /// The later one: name hashes take bytes as unsigned.
    V6_12,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The series, as in `6.12`.
    pub fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The kernel of this series, if there is one.
    pub fn of_series(series: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.series() == series)
    }

    fn meta_package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-amd64",
            Self::V6_12 => "linux-image-6.12-amd64",
        }
    }

    /// The package of the kernel itself: what the meta-package depends on, or the newest of its series that apt knows
    /// when the meta-package is absent or, on another release of Debian, stands for another series.
    fn package(self) -> Result<String> {
        let prefix = format!("linux-image-{}.", self.series());
        let depends = output(Command::new("apt-cache").args(["depends", self.meta_package()]))?;
        let depended = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        let search = format!(
            "^linux-image-{}\\.[0-9].*-amd64$",
            self.series().replace('.', "\\.")
        );
        let known = output(Command::new("apt-cache").args(["search", "--names-only", &search]))?;
        let mut known: Vec<&str> = known
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        known.retain(|name| {
            !["-rt-", "-cloud-", "-dbg", "unsigned"]
                .iter()
                .any(|odd| name.contains(odd))
        });
        known.sort_by_key(|name| numbers(name));
        let found = depended
            .chain(known.into_iter().rev())
            .find(|name| name.starts_with(&prefix));
        Ok(found.map(str::to_owned).ok_or_else(|| {
            Missing::new(
                format!("a Debian kernel {}", self.series()),
                "`apt-get update` with Debian's main and security archives brings it",
            )
        })?)
    }
}

/// The numbers in a name, for comparing versions.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

/// A kernel ready to boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The archive of programs and modules.
    pub base: PathBuf,
    /// The modules to load, in order.
    pub modules: Vec<String>,
    /// The modules that a node of a cluster loads besides.
    pub cluster_modules: Vec<String>,
}

/// Makes a kernel ready to boot: fetches it when it is not in the cache, and packs the base archive when the host's
/// programs have changed since it was packed.
pub fn prepare(kernel: Kernel) -> Result<Boot> {
    let dir = place::guest_cache().join(kernel.series());
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Test programs run side by side; the first one here does the work, the others find it done.
    let lock = File::create(dir.join("lock")).context("cannot make the kernel cache's lock")?;
    lock.lock().context("cannot lock the kernel cache")?;
    if !dir.join("package").is_file() || !dir.join("kernel").is_file() {
        fetch(kernel, &dir)?;
    }
    let there = |names: &[&str]| {
        let names = names
            .iter()
            .filter(|name| module_file(&dir, name).is_file());
        names.map(|name| (*name).to_owned()).collect()
    };
    let boot = Boot {
        kernel: dir.join("kernel"),
        base: dir.join("base.cpio"),
        modules: there(MODULES),
        cluster_modules: there(CLUSTER_MODULES),
    };
    pack_base(&dir, &boot.base)?;
    Ok(boot)
}

fn module_file(dir: &Path, name: &str) -> PathBuf {
    dir.join("modules").join(format!("{name}.ko"))
}

/// Downloads the package, unpacks it, and keeps the kernel and the modules wanted. The file `package` comes last.
fn fetch(kernel: Kernel, dir: &Path) -> Result<()> {
    let apt = || Missing::new("apt-get", "the kernels are Debian's and fetched with it");
    place::program("apt-get").ok_or_else(apt)?;
    let package = kernel.package()?;
    eprintln!("fetching {package}, once");
    let temporary = tempfile::tempdir_in(dir).context("cannot make a directory for unpacking")?;
    let download = Command::new("apt-get")
        .args(["-q", "download", &package])
        .current_dir(&temporary)
        .output()?;
    if !download.status.success() {
        let said = String::from_utf8_lossy(&download.stderr);
        let said = said
            .lines()
            .find(|line| line.starts_with("E:"))
            .unwrap_or("apt-get download failed");
        bail!(Missing::new(
            format!("the Debian package {package}"),
            said.to_owned()
        ));
    }
    let deb = files_below(temporary.path())?
        .into_iter()
        .find(|file| file.extension().is_some_and(|e| e == "deb"));
    let deb = deb.context("apt-get download left no package")?;
    let tree = temporary.path().join("tree");
    output(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;

    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files_below(&tree)? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(name, file);
    }
    let (_, image) = files
        .range("vmlinuz-".to_owned()..)
        .next()
        .filter(|(name, _)| name.starts_with("vmlinuz-"))
        .with_context(|| format!("{package} holds no kernel"))?;
    let image = fs::read(image)?;
    // The plain kernel boots in half the time: under emulation, unpacking itself takes the packed one seconds.
    fs::write(dir.join("kernel"), unpacked(&image)?.unwrap_or(image))?;
    let built_in = match files.get("modules.builtin") {
        Some(list) => fs::read_to_string(list)?,
        None => String::new(),
    };
    fs::create_dir_all(dir.join("modules"))?;
    for name in MODULES.iter().chain(CLUSTER_MODULES) {
        let to = module_file(dir, name);
        if let Some(plain) = files.get(&format!("{name}.ko")) {
            fs::copy(plain, to)?;
        } else if let Some(packed) = files.get(&format!("{name}.ko.xz")) {
            let unpacked = Command::new(busybox()?).arg("xzcat").arg(packed).output()?;
            ensure!(
                unpacked.status.success(),
                "cannot unpack {}",
                packed.display()
            );
            fs::write(to, unpacked.stdout)?;
        } else {
            let there = format!("/{name}.ko");
            // Newer kernels have dropped some of them altogether (libcrc32c); one missed says so when it is loaded.
            if !built_in.lines().any(|line| line.ends_with(&there)) {
                eprintln!("{package} has no module {name}");
            }
        }
    }
    fs::write(dir.join("package"), format!("{package}\n"))?;
    Ok(())
}

/// The plain kernel inside a packed one, if it can be had: the boot protocol (x86, 2.08 and later) tells where the
/// packed bytes lie; the last four of them are the size they unpack to.
fn unpacked(image: &[u8]) -> Result<Option<Vec<u8>>> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let place = || {
        let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
        let (offset, length) = (word(0x248)?, word(0x24c)?);
        image.get(setup + offset..)?.get(..length.checked_sub(4)?)
    };
    let plain = match place() {
        Some(packed) if packed.starts_with(b"\xfd7zXZ\0") => {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(packed)?;
            xzcat(file.path())?
        }
        Some(packed) if packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => zstd::decode_all(packed)?,
        _ => return Ok(None),
    };
    Ok(plain.starts_with(b"\x7fELF").then_some(plain))
}

fn xzcat(packed: &Path) -> Result<Vec<u8>> {
    // Busybox's own xz does not know the filter for x86 code that the kernel is packed with.
    let xz = place::program("xz")
        .ok_or_else(|| Missing::new("xz", "Debian's package xz-utils brings it"))?;
    let unpacked = Command::new(xz)
        .args(["-dc", "--format=xz"])
        .stdin(File::open(packed)?)
        .output()?;
    ensure!(
        unpacked.status.success(),
        "cannot unpack {}",
        packed.display()
    );
    Ok(unpacked.stdout)
}

fn busybox() -> Result<PathBuf> {
    let found = place::program("busybox");
    Ok(
        found
            .ok_or_else(|| Missing::new("busybox", "Debian's package busybox-static brings it"))?,
    )
}

/// Packs busybox, the modules and the programs with their libraries, unless the archive there is of the same files.
fn pack_base(dir: &Path, base: &Path) -> Result<()> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    files.insert("bin/busybox".to_owned(), busybox()?);
    for file in files_below(&dir.join("modules"))? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(format!("modules/{name}"), file);
    }
    let mut programs = Vec::new();
    for (name, package) in PROGRAMS {
        let remedy = format!("Debian's package {package} brings it");
        let program = place::program(name).ok_or_else(|| Missing::new(*name, remedy))?;
        files.insert(format!("gnu/{name}"), program.clone());
        programs.push(program);
    }
    for library in libraries(&programs)? {
        files.insert(
            library.trim_start_matches('/').to_owned(),
            PathBuf::from(library),
        );
    }
    let mut list = String::new();
    for (name, file) in &files {
        let meta =
            fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?;
        writeln!(
            list,
            "{name} {} {}.{}",
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec()
        )?;
    }
    let list_file = dir.join("base.list");
    if base.is_file() && fs::read_to_string(&list_file).is_ok_and(|then| then == list) {
        return Ok(());
    }
    // A guest that is booting may have the old archive open: replace it, never write into it.
    let temporary = tempfile::NamedTempFile::new_in(dir)?;
    let mut archive = Archive::new(BufWriter::new(temporary.as_file()));
    for (name, file) in &files {
        archive.file(name, &fs::read(file)?)?;
    }
    archive.finish()?;
    temporary.persist(base)?;
    fs::write(list_file, list)?;
    Ok(())
}

/// The shared libraries that these programs load, and their loader, by absolute path.
fn libraries(programs: &[PathBuf]) -> Result<Vec<String>> {
    let said = output(Command::new("ldd").args(programs))?;
    let mut found: Vec<String> = said
        .split_whitespace()
        .filter(|w| w.starts_with('/') && !w.ends_with(':'))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut ahead) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                ahead.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Runs a program and yields what it printed; an error tells what it said on its other channel.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ran = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    ensure!(
        ran.status.success(),
        "{name} ended with {}: {}",
        ran.status,
        String::from_utf8_lossy(&ran.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}
