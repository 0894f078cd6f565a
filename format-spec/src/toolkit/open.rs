//! Opening a volume with the safety checks that every tool owes its user.
//!
//! Writers get the device for themselves: a block device exclusively (the kernel then refuses it
//! while anything has it mounted, in use as swap, or as part of an array), an image file under a
//! lock, and neither while it is mounted or stands behind a loop device. Readers take no more than
//! a shared lock. Nothing is opened but regular files and block devices: opening a FIFO would hang
//! and opening some character devices has effects.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::size::show_size;
use crate::device::{Device, FileDevice, MmapDevice, PackedDevice, PaddedDevice, is_packed};
use crate::error::{Error, IoError, Result};

/// Opens for reading: regular files are mapped, block devices are read positionally. A packed
/// metadata image is opened as the device that it was made from.
///
/// # Errors
/// The path is no regular file or block device, cannot be read, or is being written by another
/// program of this toolkit.
pub fn read_only(path: &Path) -> Result<Box<dyn Device>> {
    let device = read_only_raw(path)?;
    if is_packed(&device) {
        return Ok(Box::new(PackedDevice::open(device)?));
    }
    Ok(device)
}

/// Opens a metadata image for reading: a packed one, which [`read_only`] knows as well, or a raw
/// one, which may end before its volume does.
///
/// # Errors
/// As [`read_only`].
pub fn metadata_image(path: &Path) -> Result<Box<dyn Device>> {
    let device = read_only_raw(path)?;
    if is_packed(&device) {
        return Ok(Box::new(PackedDevice::open(device)?));
    }
    Ok(Box::new(PaddedDevice::new(device)))
}

fn read_only_raw(path: &Path) -> Result<Box<dyn Device>> {
    check_type(path)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flag_bits(OFlags::NONBLOCK))
        .open(path)
        .map_err(|e| cannot("open", path, &e))?;
    let regular = file
        .metadata()
        .map_err(|e| cannot("open", path, &e))?
        .is_file();
    if !regular {
        let device = FileDevice::new(file).map_err(|e| cannot("open", path, &e))?;
        return Ok(Box::new(device));
    }
    let locked = match lock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => {
            return Err(Error::Input {
                what: format!(
                    "{}: another program is writing to it; wait until it has finished",
                    path.display()
                ),
            });
        }
        // A filesystem without locks.
        Err(_) => false,
    };
    let map = MmapDevice::new(&file);
    let device = FileDevice::new(file).map_err(|e| cannot("open", path, &e))?;
    if locked && let Ok(map) = map {
        return Ok(Box::new(LockedMap { map, file: device }));
    }
    Ok(Box::new(device))
}

/// Opens for writing, exclusively.
///
/// # Errors
/// The path is no regular file or block device, cannot be written, or is in use.
pub fn writable(path: &Path) -> Result<FileDevice> {
    let block = check_type(path)?;
    let mut flags = OFlags::NONBLOCK;
    if block {
        // Without O_CREAT this asks the kernel for exclusive use of a block device.
        flags |= OFlags::EXCL;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flag_bits(flags))
        .open(path)
        .map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::BUSY) => busy(path),
            _ => cannot("open for writing", path, &e),
        })?;
    claim(path, file)
}

/// Creates an image file of `size` bytes, or grows one to it, and opens it for writing. The file is
/// sparse where the filesystem can do that.
///
/// # Errors
/// As [`writable`]; or the file is already larger, or the path is a block device.
pub fn create_or_grow(path: &Path, size: u64) -> Result<FileDevice> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(|e| cannot("create", path, &e))?;
            grow(path, file, size)
        }
        _ => {
            if check_type(path)? {
                return Err(Error::Input {
                    what: format!(
                        "{}: is a block device, whose size cannot be set; leave out the size, or \
                         give a number of blocks",
                        path.display()
                    ),
                });
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|e| cannot("open for writing", path, &e))?;
            grow(path, file, size)
        }
    }
}

/// Copies an image or device into a file that does not exist yet, and opens that for writing. The
/// copy shares its space with the original where the filesystem can do that, and has holes for zeros
/// otherwise.
///
/// # Errors
/// The original cannot be read, the file exists, or it cannot be written.
pub fn copied(path: &Path, new: &Path) -> Result<FileDevice> {
    let from = read_only(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(new)
        .map_err(|e| cannot("create", new, &e))?;
    let device = claim(new, file)?;
    let file = device.file();
    let whole = File::open(path).is_ok_and(|original| {
        original
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() == from.size())
            && rustix::fs::ioctl_ficlone(file, &original).is_ok()
    });
    if !whole {
        file.set_len(from.size())
            .map_err(|e| cannot("grow", new, &e))?;
        let mut piece = vec![0; 1 << 20];
        let mut at = 0;
        while at < from.size() {
            let len = crate::units::index((from.size() - at).min(1 << 20));
            let piece = &mut piece[..len];
            from.read_at(at, piece).map_err(Error::Io)?;
            if piece.iter().any(|byte| *byte != 0) {
                std::os::unix::fs::FileExt::write_all_at(file, piece, at)
                    .map_err(|e| cannot("write", new, &e))?;
            }
            at += len as u64;
        }
    }
    let file = file.try_clone().map_err(|e| cannot("open", new, &e))?;
    FileDevice::new(file).map_err(|e| cannot("open", new, &e))
}

/// Gives an image file its size, under the lock of a writer.
fn grow(path: &Path, file: File, size: u64) -> Result<FileDevice> {
    let device = claim(path, file)?;
    if device.size() > size {
        return Err(Error::Input {
            what: format!(
                "{}: is larger already ({}) than the size asked for ({}); leave out the size to \
                 use all of it, or shorten the file",
                path.display(),
                show_size(device.size()),
                show_size(size)
            ),
        });
    }
    let file = device
        .file()
        .try_clone()
        .map_err(|e| cannot("open", path, &e))?;
    file.set_len(size)
        .map_err(|e| match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::FBIG | Errno::INVAL) => Error::Input {
                what: format!(
                    "{}: this filesystem cannot hold a file of {}",
                    path.display(),
                    show_size(size)
                ),
            },
            _ => cannot("grow", path, &e),
        })?;
    FileDevice::new(file).map_err(|e| cannot("open", path, &e))
}

/// Locks an open file and makes sure that nothing else uses it.
fn claim(path: &Path, file: File) -> Result<FileDevice> {
    if let Some(use_) = in_use(&file) {
        return Err(Error::Refused {
            why: format!("{} {use_}", path.display()),
        });
    }
    // Other errors than this one mean a filesystem without locks.
    if let Err(Errno::WOULDBLOCK) = lock(&file, FlockOperation::NonBlockingLockExclusive) {
        return Err(Error::Refused {
            why: format!(
                "another program holds a lock on {}; wait until it has finished",
                path.display()
            ),
        });
    }
    FileDevice::new(file).map_err(|e| cannot("open", path, &e))
}

/// Locks a file, trying for a moment: a lock that was just let go lives on in a child process that
/// its holder forked, until the child has become another program.
fn lock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match flock(file, operation) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(10)),
            done => return done,
        }
    }
    flock(file, operation)
}

/// Bytes of a sector: the smallest block that a volume on this device can have. 512 for files.
///
/// # Errors
/// The path cannot be opened.
pub fn sector_size(path: &Path) -> Result<u32> {
    if !check_type(path)? {
        return Ok(512);
    }
    let file = File::open(path).map_err(|e| cannot("open", path, &e))?;
    rustix::fs::ioctl_blksszget(&file)
        .map_err(|e| cannot("read the sector size of", path, &e.into()))
}

/// What else uses an open file or block device, with the remedy: `"is mounted on /mnt; unmount it
/// first"`.
#[must_use]
pub fn in_use(file: &File) -> Option<String> {
    let meta = file.metadata().ok()?;
    if meta.file_type().is_block_device() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let place = mount_of(&mounts, meta.rdev())?;
        return Some(format!("is mounted on {place}; unmount it first"));
    }
    let name = loop_device_over(&meta)?;
    Some(format!(
        "is attached to /dev/{name}; detach it (losetup -d /dev/{name}) or use the device itself"
    ))
}

/// Where a device is mounted, by its number, from the text of a mountinfo file.
fn mount_of(mountinfo: &str, rdev: u64) -> Option<String> {
    let number = format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
    mountinfo.lines().find_map(|line| {
        let mut words = line.split(' ');
        let device = words.nth(2)?;
        let place = words.nth(1)?;
        (device == number).then(|| unescape(place))
    })
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The loop device that stands over a file.
fn loop_device_over(meta: &std::fs::Metadata) -> Option<String> {
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("loop") {
            continue;
        }
        let Ok(backing) = std::fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let same = std::fs::metadata(backing.trim_end_matches('\n'))
            .is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()));
        if same {
            return Some(name);
        }
    }
    None
}

/// Refuses what is no regular file or block device; tells whether it is a block device.
fn check_type(path: &Path) -> Result<bool> {
    let meta = std::fs::metadata(path).map_err(|e| cannot("open", path, &e))?;
    let kind = meta.file_type();
    let what = if kind.is_file() {
        return Ok(false);
    } else if kind.is_block_device() {
        return Ok(true);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "neither file nor device"
    };
    Err(Error::Input {
        what: format!(
            "{}: is {what}; give an image file or a block device",
            path.display()
        ),
    })
}

/// The error for a block device that the kernel says is in use.
fn busy(path: &Path) -> Error {
    let place = std::fs::metadata(path).ok().and_then(|meta| {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mount_of(&mounts, meta.rdev())
    });
    let why = match place {
        Some(place) => format!("{} is mounted on {place}; unmount it first", path.display()),
        None => format!(
            "{} is in use (mounted, swap, or part of another device); release it first",
            path.display()
        ),
    };
    Error::Refused { why }
}

/// The error for a path that the operating system refuses.
fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check its permissions or run as root",
        io::ErrorKind::ReadOnlyFilesystem => "; it lies on a read-only filesystem",
        _ => "",
    };
    Error::Input {
        what: format!("{}: cannot {what}: {error}{remedy}", path.display()),
    }
}

/// Open flags as the standard library takes them.
fn flag_bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// A mapped file that keeps its lock. What is read without looking into the map goes past it.
#[derive(Debug)]
struct LockedMap {
    map: MmapDevice,
    file: FileDevice,
}

impl Device for LockedMap {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.file.read_at(offset, buf)
    }

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.file.read_fresh(offset, buf)
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.map.mapped(offset, len)
    }

    fn prefetch(&self, offset: u64, len: usize) {
        self.map.prefetch(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceMut;

    #[test]
    fn a_file_is_mapped_for_reading_and_written_exclusively() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7u8; 8192]).unwrap();
        let reader = read_only(&path).unwrap();
        assert_eq!(reader.mapped(4096, 2), Some(&[7u8, 7][..]));
        let refused = writable(&path).unwrap_err().to_string();
        assert!(refused.contains("holds a lock"), "{refused}");
        drop(reader);
        let writer = writable(&path).unwrap();
        writer.write_at(0, b"new").unwrap();
        for error in [
            read_only(&path).unwrap_err().to_string(),
            writable(&path).unwrap_err().to_string(),
        ] {
            assert!(error.contains("wait until it has finished"), "{error}");
        }
    }

    #[test]
    fn only_files_and_block_devices_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for (path, word) in [
            (dir.path(), "a directory"),
            (fifo.as_path(), "a FIFO"),
            (Path::new("/dev/null"), "a character device"),
            (&dir.path().join("absent"), "check the path"),
        ] {
            for error in [read_only(path).map(drop), writable(path).map(drop)] {
                let message = error.unwrap_err().to_string();
                assert!(message.contains(word), "{message}");
                assert!(message.contains(&path.display().to_string()), "{message}");
            }
        }
    }

    #[test]
    fn an_image_is_created_and_grown_but_never_shortened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        assert_eq!(create_or_grow(&path, 1 << 20).unwrap().size(), 1 << 20);
        assert_eq!(create_or_grow(&path, 2 << 20).unwrap().size(), 2 << 20);
        let message = create_or_grow(&path, 1 << 20).unwrap_err().to_string();
        assert!(message.contains("larger already (2 MiB)"), "{message}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 << 20);
    }

    #[test]
    fn a_growing_image_keeps_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let held = create_or_grow(&path, 4096).unwrap();
        assert!(writable(&path).is_err());
        drop(held);
        writable(&path).unwrap();
    }

    #[test]
    fn mountinfo_is_read() {
        let text = "26 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    40 26 7:3 / /mnt/a\\040b rw,relatime shared:1 - ocfs2 /dev/loop3 rw\n";
        assert_eq!(
            mount_of(text, rustix::fs::makedev(7, 3)).as_deref(),
            Some("/mnt/a b")
        );
        assert_eq!(mount_of(text, rustix::fs::makedev(7, 30)), None);
    }
}
