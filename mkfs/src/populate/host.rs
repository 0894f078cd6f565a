//! A directory of the host as a source.
//!
//! One thread walks the directories; others open files, and read small ones and attributes ahead;
//! the caller gets the members in the order of the walk, names in bytewise order. A file that
//! changes between the first look at it and its last byte ends the source.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use cowfs_format::layout::device_number;
use cowfs_format::ops::{Contents, HostFile};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::{index, low16};
use rustix::fs::OFlags;

use super::{Member, Put, What, excluded, stored_value};

/// Files up to this size are read into memory and written from there; larger ones are copied by
/// the kernel.
const SMALL: u64 = 1 << 18;
/// Files that one thread reads at a time, at the most, and the bytes of small ones among them.
const BATCH: (usize, u64) = (64, 1 << 19);
/// Batches that may wait: what bounds the memory.
const WAITING: usize = 16;

/// Something that the walk came to.
struct Found {
    host: PathBuf,
    path: Vec<u8>,
    meta: Metadata,
}

impl Found {
    fn place(&self) -> String {
        self.host.display().to_string()
    }

    /// Whether its contents are read ahead. One with several names is, when the first comes.
    fn is_small(&self) -> bool {
        let meta = &self.meta;
        meta.is_file() && meta.len() <= SMALL && meta.blocks() * 512 >= meta.len()
    }
}

/// What was read of it.
struct Loaded {
    found: Found,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    body: Body,
}

enum Body {
    /// Nothing to be read.
    Empty,
    /// All bytes of a small file.
    Bytes(Vec<u8>),
    /// The target of a symbolic link.
    Target(Vec<u8>),
    /// A file that is read while it is put in.
    Later,
}

/// Gives a directory and all that is inside, names in bytewise order.
pub(super) fn each(
    top: &Path,
    exclude: &[String],
    threads: usize,
    put: &mut Put<'_>,
) -> Result<()> {
    // Names of the same file: its device and inode number lead to the first of them.
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    if threads < 2 {
        return walk(top, exclude, &mut |found| {
            give(load(found)?, &mut links, put)?;
            Ok(true)
        });
    }
    let (jobs, work) = sync_channel(threads);
    let work = Mutex::new(work);
    std::thread::scope(|scope| {
        // The answers are taken in the order in which the walk asked.
        let (ask, order) = sync_channel(WAITING);
        for _ in 1..threads {
            scope.spawn(|| read_batches(&work));
        }
        scope.spawn(move || walk_batches(top, exclude, &ask, &jobs));
        for answer in order {
            for loaded in answer.recv().unwrap_or_default() {
                give(loaded?, &mut links, put)?;
            }
        }
        Ok(())
    })
}

/// What came of a batch.
type Answer = Vec<Result<Loaded>>;
/// A batch, and where its answer goes.
type Job = (Vec<Found>, SyncSender<Answer>);

/// Walks, and hands what it comes to to other threads; ends when nobody wants more.
fn walk_batches(
    top: &Path,
    exclude: &[String],
    ask: &SyncSender<Receiver<Answer>>,
    jobs: &SyncSender<Job>,
) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let send = |batch: Vec<Found>| {
        let (to, answer) = sync_channel(1);
        ask.send(answer).is_ok() && jobs.send((batch, to)).is_ok()
    };
    let walked = walk(top, exclude, &mut |found| {
        if found.is_small() {
            bytes += found.meta.len();
        }
        batch.push(found);
        if batch.len() < BATCH.0 && bytes < BATCH.1 {
            return Ok(true);
        }
        bytes = 0;
        Ok(send(std::mem::take(&mut batch)))
    });
    if send(batch)
        && let Err(error) = walked
    {
        let (to, answer) = sync_channel(1);
        let _ = to.send(vec![Err(error)]);
        let _ = ask.send(answer);
    }
}

/// Reads batches until there are no more.
fn read_batches(work: &Mutex<Receiver<Job>>) {
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((batch, answer)) = job else {
            return;
        };
        // Nobody may want it any more.
        let _ = answer.send(batch.into_iter().map(load).collect());
    }
}

/// What is still to be visited: a path on the host and in the volume.
struct Todo {
    host: PathBuf,
    path: Vec<u8>,
}

/// Walks a directory and all that is inside, as long as `each` says to go on.
fn walk(top: &Path, exclude: &[String], each: &mut dyn FnMut(Found) -> Result<bool>) -> Result<()> {
    let mut todo = vec![Todo {
        host: top.to_owned(),
        path: Vec::new(),
    }];
    while let Some(Todo { host, path }) = todo.pop() {
        let place = || host.display().to_string();
        let meta = if path.is_empty() {
            std::fs::metadata(&host)
        } else {
            std::fs::symlink_metadata(&host)
        };
        let meta = meta.with_context(place)?;
        if meta.is_dir() {
            let mut names: Vec<OsString> = Vec::new();
            for entry in std::fs::read_dir(&host).with_context(place)? {
                names.push(entry.with_context(place)?.file_name());
            }
            names.sort_unstable();
            for name in names.into_iter().rev() {
                let host = host.join(&name);
                let mut inside = path.clone();
                if !inside.is_empty() {
                    inside.push(b'/');
                }
                inside.extend_from_slice(&name.into_vec());
                if !excluded(exclude, &inside) {
                    todo.push(Todo { host, path: inside });
                }
            }
        }
        if !each(Found { host, path, meta })? {
            break;
        }
    }
    Ok(())
}

/// Reads what can be read ahead.
fn load(found: Found) -> Result<Loaded> {
    let place = || found.place();
    let xattrs = attributes(&found.host).with_context(place)?;
    let kind = found.meta.file_type();
    let body = if kind.is_symlink() {
        let target = std::fs::read_link(&found.host).with_context(place)?;
        Body::Target(target.into_os_string().into_vec())
    } else if found.is_small() {
        let file = open(&found)?;
        let mut bytes = vec![0; index(found.meta.len())];
        let read = file.read_exact_at(&mut bytes, 0);
        unchanged(&found, &file)?;
        read.with_context(place)?;
        Body::Bytes(bytes)
    } else if kind.is_file() {
        Body::Later
    } else {
        Body::Empty
    };
    Ok(Loaded {
        found,
        xattrs,
        body,
    })
}

/// Opens a file that the walk came to, whatever has taken its place.
fn open(found: &Found) -> Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits())?)
        .open(&found.host)
        .with_context(|| found.place())?;
    unchanged(found, &file)?;
    Ok(file)
}

/// An error when a file is not as it was when the walk came to it.
fn unchanged(found: &Found, file: &File) -> Result<()> {
    let now = file.metadata().with_context(|| found.place())?;
    let facts = |meta: &Metadata| {
        let file = (meta.dev(), meta.ino(), meta.mode());
        (file, meta.len(), meta.mtime(), meta.mtime_nsec())
    };
    if facts(&now) != facts(&found.meta) {
        bail!(
            "{}: was changed while it was read; try again when nobody writes there",
            found.place()
        );
    }
    Ok(())
}

/// Gives one member.
fn give(loaded: Loaded, links: &mut HashMap<(u64, u64), Vec<u8>>, put: &mut Put<'_>) -> Result<()> {
    let Loaded {
        found,
        xattrs,
        body,
    } = loaded;
    let meta = &found.meta;
    let kind = meta.file_type();
    let name = found.place();
    let place = || name.clone();
    if !kind.is_dir() && meta.nlink() > 1 {
        let key = (meta.dev(), meta.ino());
        if let Some(first) = links.get(&key) {
            let what = What::Link(first.clone());
            return put(member(&found, what, Vec::new())).with_context(place);
        }
        links.insert(key, found.path.clone());
    }
    let what = match body {
        Body::Target(target) => What::Symlink(target),
        Body::Bytes(bytes) => What::File(Box::new(Bytes::new(&name, bytes))),
        Body::Later => {
            let file = open(&found)?;
            let contents = Box::new(HostFile::new(&file, &name)?);
            put(member(&found, What::File(contents), xattrs)).with_context(place)?;
            return unchanged(&found, &file);
        }
        Body::Empty if kind.is_dir() => What::Directory,
        Body::Empty
            if kind.is_fifo()
                || kind.is_socket()
                || kind.is_char_device()
                || kind.is_block_device() =>
        {
            let device = meta.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            What::Node(
                low16(u64::from(meta.mode() & 0o170_000)),
                device_number(major, minor),
            )
        }
        Body::Empty => bail!("{name}: of a type that is not known"),
    };
    put(member(&found, what, xattrs)).with_context(place)
}

fn member<'s>(found: &Found, what: What<'s>, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Member<'s> {
    let meta = &found.meta;
    Member {
        path: found.path.clone(),
        what,
        mode: low16(u64::from(meta.mode() & 0o7777)),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Timestamp {
            seconds: u64::try_from(meta.mtime()).unwrap_or(0),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        },
        xattrs,
    }
}

/// A small file that was read.
struct Bytes<'f> {
    name: &'f str,
    bytes: Vec<u8>,
    run: [(u64, u64); 1],
}

impl<'f> Bytes<'f> {
    fn new(name: &'f str, bytes: Vec<u8>) -> Self {
        let run = [(0, bytes.len() as u64)];
        Self { name, bytes, run }
    }
}

impl Contents for Bytes<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn runs(&self) -> &[(u64, u64)] {
        if self.bytes.is_empty() {
            &[]
        } else {
            &self.run
        }
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let rest = self.bytes.get(index(offset)..).unwrap_or_default();
        let part = rest.get(..buf.len());
        buf.copy_from_slice(part.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn can_rewind(&self) -> bool {
        true
    }
}

/// The extended attributes of a file of the host.
fn attributes(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = [0u8; 4096];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => len,
        Err(rustix::io::Errno::RANGE) => return many_attributes(path),
        Err(error) => return Err(error.into()),
    };
    values(path, &names[..len])
}

fn many_attributes(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    values(path, &names[..len])
}

fn values(path: &Path, names: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut value = vec![0u8; 65536];
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])
            .with_context(|| format!("attribute {}", String::from_utf8_lossy(name)))?;
        if let Some(value) = stored_value(name, value[..index(len as u64)].to_vec()) {
            found.push((name.to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What a source gives, or why it ends; `change` is done when its first file comes.
    fn gone_through(top: &Path, threads: usize, change: &dyn Fn()) -> Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        each(top, &[], threads, &mut |member| {
            if paths.len() == 1 {
                change();
            }
            if let What::File(mut contents) = member.what {
                for (offset, len) in contents.runs().to_vec() {
                    contents.read(offset, &mut vec![0; index(len)])?;
                }
            }
            paths.push(member.path);
            Ok(())
        })?;
        Ok(paths)
    }

    #[test]
    fn a_source_that_changes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        // More than is read ahead, and behind them files that are not.
        for n in 0..3000 {
            fs::write(top.join(format!("a{n:04}")), b"small").unwrap();
        }
        let large = top.join("b large");
        fs::write(&large, vec![1; 400_000]).unwrap();
        let last = top.join("c last");
        let renew = || {
            fs::write(&large, vec![1; 400_000]).unwrap();
            fs::write(&last, b"last").unwrap();
        };
        for threads in [1, 2, 5] {
            renew();
            let paths = gone_through(top, threads, &|| ()).unwrap();
            assert_eq!(paths.len(), 3003);
            assert!(paths.is_sorted());
            let failed = |change: &dyn Fn()| {
                renew();
                format!("{:#}", gone_through(top, threads, change).unwrap_err())
            };
            let said = failed(&|| fs::remove_file(&last).unwrap());
            assert!(said.contains("c last: No such file"), "{said}");
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        for size in [10_000, 1_000_000] {
            fs::write(&file, vec![1; size]).unwrap();
            let meta = fs::symlink_metadata(&file).unwrap();
            let (host, path) = (file.clone(), b"file".to_vec());
            let found = Found { host, path, meta };
            fs::write(&file, vec![1; size - 1]).unwrap();
            let mut put = |_: Member<'_>| Ok(());
            let gone = load(found)
                .and_then(|loaded| give(loaded, &mut HashMap::new(), &mut put))
                .unwrap_err();
            let said = format!("{gone:#}");
            assert!(
                said.contains("file: was changed while it was read"),
                "{said}"
            );
        }
    }
}
