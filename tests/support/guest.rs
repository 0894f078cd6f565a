//! Linux in a small virtual machine: the driver as the oracle.
//!
//! A [`Guest`] boots one of Debian's kernels under QEMU's own emulation (with hardware acceleration this boot hung on
//! machines tried, and CI has none), with the images as disks, runs one shell script and switches off. The script is
//! bash, ends at the first command that fails, and finds ready:
//!
//! - `$DISK` (the first disk, `/dev/vda`; the others follow as `/dev/vdb` ...), `$MNT`, and files handed in below `$IN`;
//! - `mount_vol [OPTIONS]` and `umount_vol`; `crash`, which stops the machine with everything mounted;
//! - `walk_vol NAME` and `extents_vol NAME`, which record the volume for [`Transcript::walk`] and [`Transcript::extents`];
//! - `$OUT`: files left there are handed out ([`Transcript::out`]).
//!
//! At most two guests run at once on a machine, however many tests ask: more would only make all of them late.

use crate::cpio::Archive;
use crate::extents::{self, FileExtents};
use crate::kernel::{self, Boot, Kernel};
use crate::place;
use crate::skip::Missing;
use crate::walk::{self, Entry};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const AT_ONCE: usize = 2;
const OUT_DISK_BYTES: u64 = 4 << 30;

/// Kernel messages that mean trouble. Where a test provokes trouble it looks for its own.
const TROUBLE: &[&str] = &[
    "BUG:",
    "kernel BUG",
    "Oops",
    "WARNING:",
    "Call Trace",
    "general protection",
    "Kernel panic",
    "blocked for more",
    "ERROR",
    "OCFS2: ",
    "orruption",
    "I/O error",
    "segfault",
];

#[derive(Debug)]
struct Disk {
    image: PathBuf,
    /// How QEMU opens it.
    options: &'static str,
}

/// A disk of one machine's own.
const OWN: &str = ",format=raw,if=virtio,cache=unsafe";
/// A disk that the machine cannot write.
const READ_ONLY: &str = ",format=raw,if=virtio,cache=unsafe,readonly=on";
/// A disk that several machines have at once: what one has written, the others read.
const SHARED: &str = ",format=raw,if=virtio,cache=none,file.locking=off";

/// A machine about to be booted.
#[derive(Debug)]
pub struct Guest {
    qemu: PathBuf,
    boot: Boot,
    modules: Vec<String>,
    kernel: Kernel,
    disks: Vec<Disk>,
    files: Vec<(String, Vec<u8>)>,
    memory_mib: u32,
    timeout: Duration,
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The script ended and the machine was switched off.
    PoweredOff,
    /// The script asked for a crash and got it.
    Crashed,
    /// The machine stopped by itself in the middle: a kernel panic.
    Died,
    /// Time ran out and the machine was killed.
    TimedOut,
}

/// What a guest left behind.
#[derive(Debug)]
pub struct Transcript {
    /// The kernel that ran.
    pub kernel: Kernel,
    /// How it ended.
    pub ending: Ending,
    /// The script's exit status; none unless it came to its end.
    pub status: Option<i32>,
    /// The script's stdout.
    pub stdout: String,
    /// The console: the script's stderr and the kernel's errors.
    pub console: String,
    /// The kernel's messages since its boot; after a crash or a death only the console has any.
    pub dmesg: String,
    /// Those kernel messages that mean trouble.
    pub kernel_log: Vec<String>,
    /// How long it took.
    pub took: Duration,
    out: TempDir,
}

impl Guest {
    /// A machine with this kernel. The error is [`Missing`] where QEMU or the kernel is not to be had.
    pub fn new(kernel: Kernel) -> Result<Self> {
        let qemu = place::program("qemu-system-x86_64").ok_or_else(|| {
            Missing::new(
                "qemu-system-x86_64",
                "Debian's package qemu-system-x86 brings it",
            )
        })?;
        let boot = kernel::prepare(kernel)?;
        let timeout = Duration::from_secs(300);
        Ok(Self {
            qemu,
            modules: boot.modules.clone(),
            boot,
            kernel,
            disks: Vec::new(),
            files: Vec::new(),
            memory_mib: 768,
            timeout,
        })
    }

    /// Adds an image as the next disk.
    pub fn disk(mut self, image: impl AsRef<Path>) -> Self {
        self.disks.push(Disk {
            image: image.as_ref().to_path_buf(),
            options: OWN,
        });
        self
    }

    /// Adds an image as the next disk, which other machines have at the same time.
    pub fn shared_disk(mut self, image: impl AsRef<Path>) -> Self {
        self.disks.push(Disk {
            image: image.as_ref().to_path_buf(),
            options: SHARED,
        });
        self
    }

    /// Adds an image as the next disk, which the machine cannot write.
    pub fn read_only_disk(mut self, image: impl AsRef<Path>) -> Self {
        self.disks.push(Disk {
            image: image.as_ref().to_path_buf(),
            options: READ_ONLY,
        });
        self
    }

    /// Hands a file in as `$IN/NAME`. It lives in the machine's memory: large ones are better put on a disk.
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), contents.into()));
        self
    }

    /// Loads also the modules that a node of a cluster needs.
    pub(crate) fn clustered(mut self) -> Self {
        self.modules.clone_from(&self.boot.modules);
        self.modules.extend(self.boot.cluster_modules.clone());
        self
    }

    /// Sets the machine's memory.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Sets how long the machine may run (otherwise five minutes).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Boots, runs the script, and tells how it went. A script that fails is not an error here: see
    /// [`Transcript::expect_success`].
    pub fn run(&self, script: &str) -> Result<Transcript> {
        let place = place::guest_cache();
        let work = tempfile::Builder::new().prefix("run-").tempdir_in(&place)?;
        let initramfs = work.path().join("initramfs");
        self.write_initramfs(&initramfs, script)?;
        let out_disk = work.path().join("out");
        File::create(&out_disk)?.set_len(OUT_DISK_BYTES)?;

        let _turn = turn(&place)?;
        let began = Instant::now();
        let (console, protocol) = (work.path().join("console"), work.path().join("protocol"));
        let mut command = self.command(&initramfs, &console)?;
        command
            .arg("-serial")
            .arg(option("file:", &protocol, ""))
            .arg("-drive")
            .arg(option("file=", &out_disk, OWN));

        let mut machine = Machine(command.spawn().context("cannot start QEMU")?);
        let in_time = machine.wait(self.timeout)?;
        let complaint = machine.complaint();
        let console = read(&console)?;
        let protocol = read(&protocol)?;
        if in_time && protocol.is_empty() && console.is_empty() {
            bail!("QEMU did not boot: {complaint}");
        }
        let mut said = Transcript::parse(self.kernel, &protocol, console, work)?;
        said.took = began.elapsed();
        if !in_time {
            said.ending = Ending::TimedOut;
        }
        Ok(said)
    }

    /// QEMU with this machine's kernel and disks, and its console in a file.
    pub(crate) fn command(&self, initramfs: &Path, console: &Path) -> Result<Command> {
        let mut command = Command::new(&self.qemu);
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m"])
            .arg(self.memory_mib.to_string())
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
                "-monitor",
                "none",
            ])
            .arg("-serial")
            .arg(option("file:", console, ""))
            .arg("-kernel")
            .arg(&self.boot.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args([
                "-append",
                // On a busy host the timer may seem broken while the kernel tests it: that is a panic.
                "console=ttyS0 quiet panic=-1 oops=panic mitigations=off cryptomgr.notests no_timer_check",
            ]);
        for disk in &self.disks {
            let image = disk
                .image
                .canonicalize()
                .with_context(|| format!("no image {}", disk.image.display()))?;
            command
                .arg("-drive")
                .arg(option("file=", &image, disk.options));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// The base archive, and behind it what only this boot has.
    pub(crate) fn write_initramfs(&self, path: &Path, script: &str) -> Result<()> {
        let letter = u8::try_from(self.disks.len())
            .ok()
            .and_then(|n| b'a'.checked_add(n))
            .filter(|l| *l <= b'z');
        let letter = char::from(letter.context("a guest has 25 disks at most")?);
        let mut to = BufWriter::new(File::create(path)?);
        io::copy(&mut File::open(&self.boot.base)?, &mut to)?;
        let mut archive = Archive::new(to);
        archive.char_device("dev/console", 5, 1)?;
        archive.file("init", include_bytes!("init.sh"))?;
        archive.file("rig/run.sh", include_bytes!("run.sh"))?;
        archive.file("rig/script", script.as_bytes())?;
        let env = format!(
            "MODULES='{}'\nOUT_DISK=/dev/vd{letter}\n",
            self.modules.join(" ")
        );
        archive.file("rig/env", env.as_bytes())?;
        archive.directory("in")?;
        for (name, contents) in &self.files {
            archive.file(&format!("in/{name}"), contents)?;
        }
        archive.finish()?.flush()?;
        Ok(())
    }
}

/// The lines of the kernel's messages that mean trouble.
pub(crate) fn troubles(messages: &str) -> Vec<String> {
    let trouble = messages
        .lines()
        .filter(|line| TROUBLE.iter().any(|word| line.contains(word)));
    trouble.map(str::to_owned).collect()
}

/// A QEMU option that names a file; QEMU wants commas in names doubled.
pub(crate) fn option(before: &str, file: &Path, after: &str) -> OsString {
    let name = file.to_string_lossy().replace(',', ",,");
    OsString::from(format!("{before}{name}{after}"))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).replace('\r', "")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Waits until fewer than [`AT_ONCE`] guests run; it is one's turn for as long as the file is held.
pub(crate) fn turn(place: &Path) -> Result<File> {
    let mut files = Vec::new();
    for n in 0..AT_ONCE {
        files.push(File::create(place.join(format!("turn-{n}")))?);
    }
    loop {
        for (n, file) in files.iter().enumerate() {
            match file.try_lock() {
                Ok(()) => return Ok(files.swap_remove(n)),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(e)) => {
                    return Err(e).context("cannot lock a guest's turn");
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A running QEMU, killed when it is let go.
pub(crate) struct Machine(pub(crate) Child);

impl Machine {
    /// Waits for its end; false when it had to be killed.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let began = Instant::now();
        while began.elapsed() < timeout {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(false)
    }

    pub(crate) fn complaint(&mut self) -> String {
        let mut said = String::new();
        if let Some(stderr) = self.0.stderr.take() {
            // What QEMU complains of only explains a failure found otherwise.
            let _ = io::Read::read_to_string(&mut io::BufReader::new(stderr), &mut said);
        }
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Transcript {
    fn parse(kernel: Kernel, protocol: &str, console: String, work: TempDir) -> Result<Self> {
        let mut said = Self {
            kernel,
            ending: Ending::Died,
            status: None,
            stdout: String::new(),
            console,
            dmesg: String::new(),
            kernel_log: Vec::new(),
            took: Duration::ZERO,
            out: work,
        };
        for section in protocol.split('\u{1e}').skip(1) {
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            match head.split_once(' ').unwrap_or((head, "")) {
                ("begin", _) => body.clone_into(&mut said.stdout),
                ("status", number) => said.status = number.parse().ok(),
                ("dmesg", _) => body.clone_into(&mut said.dmesg),
                ("crash", _) => said.ending = Ending::Crashed,
                ("end", _) => said.ending = Ending::PoweredOff,
                (other, _) => bail!("the guest's protocol has an unknown section {other:?}"),
            }
        }
        let messages = if said.dmesg.is_empty() {
            &said.console
        } else {
            &said.dmesg
        };
        said.kernel_log = troubles(messages);
        if said.ending == Ending::PoweredOff {
            said.unpack()?;
        }
        Ok(said)
    }

    /// Unpacks the files handed out: the disk holds a tar archive, or nothing.
    fn unpack(&self) -> Result<()> {
        let disk = self.out.path().join("out");
        let mut head = [0_u8; 512];
        io::Read::read_exact(&mut File::open(&disk)?, &mut head)?;
        fs::create_dir(self.out.path().join("files"))?;
        if head.iter().any(|byte| *byte != 0) {
            let files = self.out.path().join("files");
            kernel::output(
                Command::new("tar")
                    .arg("-xf")
                    .arg(&disk)
                    .arg("-C")
                    .arg(files),
            )?;
        }
        fs::remove_file(disk)?;
        Ok(())
    }

    /// A file that the script left in `$OUT`; it is gone with the transcript.
    pub fn out(&self, name: &str) -> PathBuf {
        self.out.path().join("files").join(name)
    }

    /// What `walk_vol NAME` recorded, sorted by path.
    pub fn walk(&self, name: &str) -> Result<Vec<Entry>> {
        let file = |kind: &str| {
            let path = self.out(&format!("{name}.{kind}"));
            fs::read(&path).with_context(|| format!("the guest handed out no {name}.{kind}"))
        };
        walk::parse(
            &file("find")?,
            &file("devices")?,
            &file("sums")?,
            &file("xattrs")?,
        )
    }

    /// What `extents_vol NAME` recorded, sorted by path.
    pub fn extents(&self, name: &str) -> Result<Vec<FileExtents>> {
        extents::parse(
            &fs::read(self.out(&format!("{name}.extents")))
                .context("the guest handed out no extents")?,
        )
    }

    /// An error unless the script came to its end with status 0 and the kernel had no trouble.
    pub fn success(self) -> Result<Self> {
        let fine = self.ending == Ending::PoweredOff
            && self.status == Some(0)
            && self.kernel_log.is_empty();
        ensure!(fine, "in the guest all was not well:\n{self}");
        Ok(self)
    }

    /// As [`Self::success`], for tests.
    ///
    /// # Panics
    ///
    /// With the whole transcript, when all was not well.
    pub fn expect_success(self) -> Self {
        match self.success() {
            Ok(said) => said,
            Err(e) => panic!("{e}"),
        }
    }
}

impl std::fmt::Display for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.status.map_or("none".to_owned(), |n| n.to_string());
        let series = self.kernel.series();
        writeln!(
            f,
            "kernel {series}: {:?} after {:.1?}, status {status}",
            self.ending, self.took
        )?;
        writeln!(
            f,
            "--- stdout\n{}\n--- console\n{}",
            self.stdout, self.console
        )?;
        writeln!(f, "--- kernel's troubles\n{}", self.kernel_log.join("\n"))
    }
}
