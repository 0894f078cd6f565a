//! `mkfs.cowfs` on block devices, by way of loop devices.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, ensure};
use cowfs_tests::{Missing, need, oracle, place};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn system(program: &str, args: &[&str]) -> Result<String> {
    let path = place::program(program)
        .ok_or_else(|| Missing::new(program, "a system program of Debian"))?;
    let ran = Command::new(path)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.status.success(), "{program} {args:?}: {said}");
    Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

/// Held by whoever has a loop device: attaching another one looks at all of them, and for a moment
/// nobody else can then open the first.
static LOOPS: Mutex<()> = Mutex::new(());

/// A loop device, detached when dropped. Only one test has one at a time.
struct Loop(
    String,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Loop {
    fn over(image: &Path, sector: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Missing::new("a loop device", "only root can make one").into());
        }
        let alone = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
        let made = system(
            "losetup",
            &["-f", "--show", "-b", sector, image.to_str().unwrap()],
        );
        match made {
            Ok(device) => Ok(Self(device, alone)),
            Err(error) if error.is::<Missing>() => Err(error),
            Err(error) => Err(Missing::new("a loop device", format!("{error:#}")).into()),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = system("losetup", &["-d", &self.0]);
    }
}

/// A mount, unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = system("umount", &[self.0.to_str().unwrap()]);
    }
}

/// Runs the program: exit status, stdout, stderr.
fn mkfs(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = mkfs_cowfs::run(["mkfs.cowfs"].iter().chain(args), &mut out, &mut err);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn image(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("image");
    // Allocated, so that a discard shows.
    std::fs::write(&path, vec![0x55; 64 << 20]).unwrap();
    path
}

#[test]
fn a_loop_device_is_formatted_and_its_file_is_not() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let device = need!(Loop::over(&image, "512"));
    let (code, _, err) = mkfs(&["-q", image.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(
        err.contains(&format!("is attached to {}", device.0)),
        "{err}"
    );
    let (code, out, err) = mkfs(&["-L", "looped", &device.0]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("Block size: 1024"), "{out}");
    let report = oracle::check(Path::new(&device.0)).unwrap();
    assert!(report.is_silent(), "{}", report.transcript);
    drop(device);
    File::open(&image).unwrap().sync_all().unwrap();
    let allocated = image.metadata().unwrap().blocks() * 512;
    assert!(
        allocated < 8 << 20,
        "discarded: {allocated} bytes are still allocated"
    );
}

#[test]
fn blocks_are_as_large_as_sectors() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let device = need!(Loop::over(&image, "4096"));
    let (code, _, err) = mkfs(&["-b", "1K", &device.0]);
    assert_eq!(code, 1);
    assert!(err.contains("sectors of 4096 bytes"), "{err}");
    let (code, out, err) = mkfs(&["--nodiscard", &device.0]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("Block size: 4096"), "{out}");
    let report = oracle::check(Path::new(&device.0)).unwrap();
    assert!(report.is_silent(), "{}", report.transcript);
}

#[test]
fn a_mounted_device_is_refused_even_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let device = need!(Loop::over(&image, "512"));
    need!(system("mkfs.ext4", &["-q", "-F", &device.0]));
    let (code, _, err) = mkfs(&[&device.0]);
    assert_eq!(code, 1);
    assert!(
        err.contains("an ext2, ext3 or ext4 filesystem (signature at byte 1080)"),
        "{err}"
    );
    let place = dir.path().join("mnt");
    std::fs::create_dir(&place).unwrap();
    system("mount", &[&device.0, place.to_str().unwrap()]).unwrap();
    let mounted = Mounted(&place);
    let (code, _, err) = mkfs(&["-F", &device.0]);
    assert_eq!(code, 1);
    assert!(
        err.contains(&format!("is mounted on {}", place.display())),
        "{err}"
    );
    drop(mounted);
    assert_eq!(mkfs(&["-F", "-q", &device.0]).0, 0);
}
