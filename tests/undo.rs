//! Undo logs: whatever a tool did to a volume comes back byte for byte, wherever it was stopped.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cowfs_format::device::{Device, DeviceMut, FaultDevice, MemDevice, Recording, Undo, UndoLog};
use cowfs_format::error::{IoError, Result};
use cowfs_format::volume::{Volume, identity};
use cowfs_tests::session::{NOW, Session as _, pattern};
use debugfs_cowfs::session::{Session, Superblock};
use mkfs_cowfs::Options;
use tempfile::TempDir;

const BYTES: usize = 16 << 20;

/// A volume of 4 KiB blocks with a file and a clone of it, in space that held other things before.
fn prepared() -> Vec<u8> {
    let device = MemDevice::new(pattern(BYTES, 3));
    let options = Options {
        block_size: Some(4096),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    volume.write("file", &pattern(300_000, 1)).unwrap();
    volume.reflink("file", "shared").unwrap();
    drop(volume);
    device.snapshot()
}

/// What is done to the volume: transactions of several kinds, and data in free space.
fn edit<D: DeviceMut>(device: D) -> Result<()> {
    let mut volume = Volume::open(device)?;
    volume.recover()?;
    volume.mkdir("directory")?;
    volume.write("directory/new", &pattern(200_000, 5))?;
    volume.reflink("file", "clone")?;
    volume.overwrite("shared", 5000, &pattern(30_000, 9))
}

fn recording<D: DeviceMut>(base: D, path: &Path) -> Recording<D> {
    let volume = identity(&base).unwrap();
    let log = UndoLog::create(path, volume, base.size()).unwrap();
    Recording::new(base, log)
}

fn roll_back(path: &Path, bytes: Vec<u8>, stop: u64) -> Vec<u8> {
    let device = FaultDevice::stopping_at(MemDevice::new(bytes), stop);
    let undo = Undo::open(path).unwrap();
    undo.check(&device, identity(&device)).unwrap();
    let done = undo.restore(&device);
    assert!(done.is_ok() || stop < u64::MAX);
    device.into_base().snapshot()
}

#[test]
fn an_edit_that_is_stopped_at_any_write_comes_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("undo");
    let before = prepared();
    let writes = {
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), u64::MAX);
        edit(recording(&device, &path)).unwrap();
        device.writes()
    };
    assert!(writes > 10, "{writes}");
    for stop in 0..=writes {
        std::fs::remove_file(&path).unwrap();
        let device = FaultDevice::stopping_at(MemDevice::new(before.clone()), stop);
        let done = edit(recording(&device, &path));
        assert_eq!(done.is_ok(), stop == writes);
        let left = device.into_base().snapshot();
        assert!(left != before || stop == 0);
        // The rollback stops, too: early, in the middle, near its end.
        for again in [1, stop / 2, stop] {
            let half = roll_back(&path, left.clone(), again);
            assert!(
                roll_back(&path, half, u64::MAX) == before,
                "{stop}, {again}"
            );
        }
    }
    // A volume that was used after it all is not touched.
    let device = MemDevice::new(before.clone());
    std::fs::remove_file(&path).unwrap();
    edit(recording(&device, &path)).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    volume.mkdir("later").unwrap();
    drop(volume);
    let undo = Undo::open(&path).unwrap();
    let said = undo.check(&device, identity(&device)).unwrap_err();
    assert!(said.to_string().contains("was changed after"), "{said}");
}

/// Memory that keeps what was written since the last flush.
#[derive(Debug)]
struct Epochs {
    base: MemDevice,
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
    /// Contents at the last flush.
    durable: Mutex<Vec<u8>>,
    log: PathBuf,
    before: Vec<u8>,
    tried: Mutex<u64>,
}

impl Device for Epochs {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), IoError> {
        self.base.read_at(offset, buf)
    }
}

impl DeviceMut for Epochs {
    fn write_at(&self, offset: u64, data: &[u8]) -> std::result::Result<(), IoError> {
        self.writes.lock().unwrap().push((offset, data.to_vec()));
        self.base.write_at(offset, data)
    }

    /// Any sectors of what was written may have come to the disk, and any may not.
    fn flush(&self) -> std::result::Result<(), IoError> {
        let writes = std::mem::take(&mut *self.writes.lock().unwrap());
        let mut tried = self.tried.lock().unwrap();
        for way in 0..6_u64 {
            *tried += 1;
            let mut left = self.durable.lock().unwrap().clone();
            let mut seed = *tried;
            for (offset, bytes) in &writes {
                for (number, sector) in bytes.chunks(512).enumerate() {
                    seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(way);
                    if way == 0 || seed >> 62 < way {
                        let at = usize::try_from(*offset).unwrap() + number * 512;
                        left[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            assert!(
                roll_back(&self.log, left, u64::MAX) == self.before,
                "cut {tried}"
            );
        }
        *self.durable.lock().unwrap() = self.base.snapshot();
        Ok(())
    }
}

#[test]
fn a_power_cut_loses_nothing_of_what_was() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("undo");
    let before = prepared();
    let device = Epochs {
        base: MemDevice::new(before.clone()),
        writes: Mutex::default(),
        durable: Mutex::new(before.clone()),
        log: log.clone(),
        before,
        tried: Mutex::default(),
    };
    edit(recording(&device, &log)).unwrap();
    assert!(*device.tried.lock().unwrap() > 60);
}

/// Runs fsck.cowfs; its exit status and what it says.
fn fsck(args: &[&str]) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs"].iter().chain(args).map(Into::into);
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    out.extend(err);
    (code, String::from_utf8(out).unwrap())
}

/// What a session says goes nowhere.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn debugfs(image: &Path, undo: &Path, lines: &[&str]) -> anyhow::Result<()> {
    let mut session = Session::new(Box::new(Nowhere), Box::new(Nowhere));
    session.writes = true;
    session.undo = Some(undo.to_owned());
    session.open(image.to_owned(), Superblock::default())?;
    for line in lines {
        anyhow::ensure!(session.line(line.as_bytes())?, "{line}");
    }
    Ok(())
}

fn reflink(args: &[&str]) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["reflink.cowfs"].iter().chain(args);
    let code = reflink_cowfs::run(args, &mut out, &mut err);
    out.extend(err);
    (code, String::from_utf8(out).unwrap())
}

#[test]
fn every_writing_program_keeps_a_log_and_fsck_rolls_it_back() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (image, undo, source) = (at("image"), at("undo"), at("source"));
    let before = prepared();
    std::fs::write(&image, &before).unwrap();
    std::fs::write(&source, pattern(100_000, 4)).unwrap();
    let bytes = || std::fs::read(&image).unwrap();

    let write = format!("write {source} /put");
    let overwrite = format!("write -o 4K {source} /shared");
    let lines = ["mkdir /d", &write, &overwrite];
    debugfs(Path::new(&image), Path::new(&undo), &lines).unwrap();
    let edited = bytes();
    assert!(edited != before);
    let said = debugfs(Path::new(&image), Path::new(&undo), &lines).unwrap_err();
    assert!(format!("{said:#}").contains("exists already"), "{said:#}");
    assert!(bytes() == edited);
    let look = fsck(&["--rollback", &undo, "-n", &image]);
    assert!(look.0 == 0 && look.1.contains("would put back"), "{look:?}");
    assert!(bytes() == edited);

    // On top of it a clone, under a log of its own. The first log is out of its turn then.
    let second = at("second");
    let (code, said) = reflink(&["clone", "--undo", &second, &image, "/put", "/clone"]);
    assert_eq!(code, 0, "{said}");
    let refused = fsck(&["--rollback", &undo, &image]);
    assert!(
        refused.0 == 8 && refused.1.contains("was changed after"),
        "{refused:?}"
    );
    let done = fsck(&["--rollback", &second, "--json", &image]);
    let json: serde_json::Value = serde_json::from_str(&done.1).unwrap();
    assert!(
        done.0 == 1 && json["restored_bytes"].as_u64() > Some(4096),
        "{done:?}"
    );
    assert!(bytes() == edited);
    let again = fsck(&["--rollback", &second, &image]);
    assert!(
        again.0 == 0 && again.1.contains("before already"),
        "{again:?}"
    );
    let done = fsck(&["--rollback", &undo, &image]);
    assert!(done.0 == 1 && done.1.contains("put back"), "{done:?}");
    assert!(bytes() == before);

    // Formatting is undone as well.
    let third = at("third");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = [
        "mkfs.cowfs",
        "-q",
        "-F",
        "-b",
        "1K",
        "--undo",
        &third,
        &image,
    ];
    assert_eq!(mkfs_cowfs::run(args, &mut out, &mut err), 0, "{err:?}");
    assert!(bytes() != before);
    assert_eq!(fsck(&["--rollback", &third, &image]).0, 1);
    assert!(bytes() == before);

    // Another volume, a log that is cut off, and none.
    let other = at("other");
    let device = MemDevice::new(vec![0; BYTES]);
    mkfs_cowfs::format(&device, &Options::default()).unwrap();
    std::fs::write(&other, device.snapshot()).unwrap();
    let log = std::fs::read(&undo).unwrap();
    let torn = at("torn");
    std::fs::write(&torn, &log[..log.len() - 5]).unwrap();
    for (log, volume, why) in [
        (&undo, &other, "the undo log is of the volume 0707"),
        (&torn, &image, "is cut off"),
        (&source, &image, "is no undo log"),
        (&at("absent"), &image, "cannot open"),
        (&undo, &at("absent"), "check the path"),
    ] {
        let (code, said) = fsck(&["--rollback", log, volume]);
        assert!(
            code == 8 && said.contains(why) && said.lines().count() == 1,
            "{said}"
        );
    }
    assert!(bytes() == before);
    assert!(std::fs::read(&other).unwrap() == device.snapshot());
}
