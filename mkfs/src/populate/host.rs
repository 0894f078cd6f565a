//! A directory of the host as a source.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cowfs_format::layout::device_number;
use cowfs_format::ops::{Contents, HostFile};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::{index, low16};

use super::{Member, Put, What, excluded, stored_value};

/// Files up to this size are read into memory and written from there; larger ones are copied by
/// the kernel.
const SMALL: u64 = 1 << 20;

/// What is still to be visited: a path on the host and in the volume.
struct Todo {
    host: PathBuf,
    path: Vec<u8>,
}

/// Gives a directory and all that is inside, names in bytewise order.
pub(super) fn each(top: &Path, exclude: &[String], put: &mut Put<'_>) -> Result<()> {
    // Names of the same file: its device and inode number lead to the first of them.
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
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
        let directory = meta.is_dir();
        if directory {
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
        let key = (meta.dev(), meta.ino());
        let first = (!directory && meta.nlink() > 1)
            .then(|| links.get(&key))
            .flatten();
        if let Some(first) = first {
            let member = member(path, What::Link(first.clone()), &meta, Vec::new());
            put(member).with_context(place)?;
            continue;
        }
        if !directory && meta.nlink() > 1 {
            links.insert(key, path.clone());
        }
        let xattrs = attributes(&host).with_context(place)?;
        let kind = meta.file_type();
        if kind.is_file() {
            let file = File::open(&host).with_context(place)?;
            let name = place();
            let contents = contents(&file, &name, &meta)?;
            put(member(path, What::File(contents), &meta, xattrs)).with_context(place)?;
            continue;
        }
        let what = if directory {
            What::Directory
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&host).with_context(place)?;
            What::Symlink(target.into_os_string().into_vec())
        } else if kind.is_fifo()
            || kind.is_socket()
            || kind.is_char_device()
            || kind.is_block_device()
        {
            let device = meta.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            What::Node(
                low16(u64::from(meta.mode() & 0o170_000)),
                device_number(major, minor),
            )
        } else {
            bail!("{}: of a type that is not known", host.display());
        };
        put(member(path, what, &meta, xattrs)).with_context(place)?;
    }
    Ok(())
}

fn member<'s>(
    path: Vec<u8>,
    what: What<'s>,
    meta: &Metadata,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
) -> Member<'s> {
    Member {
        path,
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

/// A file of which no hole can be told, and which is small.
struct Small<'f> {
    file: &'f File,
    name: &'f str,
    size: u64,
    run: [(u64, u64); 1],
}

impl Contents for Small<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self) -> &[(u64, u64)] {
        if self.size == 0 { &[] } else { &self.run }
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn can_rewind(&self) -> bool {
        true
    }
}

fn contents<'f>(file: &'f File, name: &'f str, meta: &Metadata) -> Result<Box<dyn Contents + 'f>> {
    let size = meta.len();
    if size > SMALL || meta.blocks() * 512 < size {
        return Ok(Box::new(HostFile::new(file, name)?));
    }
    let run = [(0, size)];
    Ok(Box::new(Small {
        file,
        name,
        size,
        run,
    }))
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
