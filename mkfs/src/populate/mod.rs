//! Filling a new volume from a directory or an archive.
//!
//! A [`Source`] gives members one after the other, parents before what is inside; a [`fill::Filler`]
//! puts them into the volume. Nothing goes through a journal: the volume has no superblock before
//! everything is in its place, so nobody can see it half done.

mod ahead;
mod digest;
mod fill;
mod host;
mod owners;
mod tally;
mod tar;
pub(crate) mod unborn;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cowfs_format::ops::Contents;
use cowfs_format::txn::Timestamp;

pub use fill::{Filled, fill};
pub use owners::{Map, Owners};
pub(crate) use tally::Tally;

/// How a volume is filled.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whose the files are to be.
    pub owners: Owners,
    /// Names that are left out, as shell patterns.
    pub exclude: Vec<String>,
    /// Whether files of equal contents share their clusters.
    pub dedupe: bool,
    /// The time of the operation; later times of the source become this.
    pub now: Timestamp,
    /// Whether times of the source are cut to `now`.
    pub clamp: bool,
    /// Whether the volume is cut behind what it holds, but for that many free bytes.
    pub fit: Option<u64>,
    /// Whether the UUID of the volume is to depend on what it holds.
    pub digest: bool,
    /// Threads that read the source; 0 for as many as there are processors.
    pub threads: usize,
}

impl Rules {
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        }
    }
}

/// A member of a source.
pub(crate) struct Member<'s> {
    /// Path from the root of the volume, without a slash at either end; empty for the root.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) what: What<'s>,
    /// Permission bits.
    pub(crate) mode: u16,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Time of the last change.
    pub(crate) mtime: Timestamp,
    /// Attributes, with ACLs as the volume stores them.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
pub(crate) enum What<'s> {
    /// A directory.
    Directory,
    /// A regular file.
    File(Box<dyn Contents + 's>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A device, FIFO or socket: the type bits of its mode, and its number.
    Node(u16, u64),
    /// Another name of a member that came before.
    Link(Vec<u8>),
}

/// Takes members; its error ends the source.
pub(crate) type Put<'p> = dyn FnMut(Member<'_>) -> Result<()> + 'p;

/// Where the contents of a volume come from.
#[derive(Debug)]
pub enum Source {
    /// A directory of the host.
    Directory(PathBuf),
    /// A tar stream, unpacked, with what to call it in messages.
    Tar(TarStream),
}

/// A tar stream.
pub struct TarStream {
    name: String,
    reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for TarStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarStream")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a source: a directory, an archive (gzip and zstd are told by their first bytes), or
    /// `-`, an archive on standard input.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if path.as_os_str() == "-" {
            let name = "standard input".to_owned();
            return Self::archive(name, Box::new(std::io::stdin()));
        }
        let meta = std::fs::metadata(path).with_context(|| name.clone())?;
        if meta.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let file = File::open(path).with_context(|| name.clone())?;
        Self::archive(name, Box::new(file))
    }

    /// An archive in an open file, from its beginning.
    fn spooled(name: &str, mut file: &File) -> Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Self::archive(name.to_owned(), Box::new(file.try_clone()?))
    }

    fn archive(name: String, mut reader: Box<dyn Read + Send>) -> Result<Self> {
        let mut magic = Vec::new();
        let mut head = reader.by_ref().take(4);
        head.read_to_end(&mut magic).with_context(|| name.clone())?;
        let rest = std::io::Cursor::new(magic.clone()).chain(reader);
        let reader: Box<dyn Read + Send> = match magic.as_slice() {
            [0x1F, 0x8B, ..] => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(rest)))
            }
            [0x28, 0xB5, 0x2F, 0xFD] => {
                Box::new(zstd::Decoder::new(rest).with_context(|| name.clone())?)
            }
            [0xFD, b'7', b'z', b'X'] | [b'B', b'Z', b'h', _] => {
                bail!(
                    "{name}: compressed in a way that is not known here; unpack it with xz or bzip2 and give - as the source"
                )
            }
            _ => Box::new(rest),
        };
        let reader = Box::new(BufReader::with_capacity(1 << 18, reader));
        Ok(Self::Tar(TarStream { name, reader }))
    }

    /// Gives all members, in an order that depends on the source alone.
    pub(crate) fn each(self, rules: &Rules, put: &mut Put<'_>) -> Result<()> {
        let (exclude, threads) = (&rules.exclude[..], rules.threads());
        match self {
            Self::Directory(path) => host::each(&path, exclude, threads, put),
            Self::Tar(stream) if threads > 1 => ahead::reading(stream.reader, |reader| {
                tar::each(reader, &stream.name, exclude, put)
            }),
            Self::Tar(mut stream) => tar::each(&mut stream.reader, &stream.name, exclude, put),
        }
    }
}

/// A source that can be gone through more than once.
#[derive(Debug)]
pub(crate) enum Origin {
    /// What stands at a path.
    Path(PathBuf),
    /// An archive that came in a stream, kept in a file.
    Spool(String, File),
}

impl Origin {
    /// Takes a source. What can be read only once is kept in a file without a name in `dir`.
    pub(crate) fn keep(path: &Path, dir: &Path) -> Result<Self> {
        let dash = path.as_os_str() == "-";
        if !dash && std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() || meta.is_file()) {
            return Ok(Self::Path(path.to_owned()));
        }
        let name = if dash {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        let kept = || {
            format!(
                "{name}: cannot be kept in {} to be read twice",
                dir.display()
            )
        };
        let mut file = tempfile::tempfile_in(dir).with_context(kept)?;
        if dash {
            std::io::copy(&mut std::io::stdin().lock(), &mut file).with_context(kept)?;
        } else {
            let mut stream = File::open(path).with_context(|| name.clone())?;
            std::io::copy(&mut stream, &mut file).with_context(kept)?;
        }
        Ok(Self::Spool(name, file))
    }

    /// The source from its beginning.
    pub(crate) fn open(&self) -> Result<Source> {
        match self {
            Self::Path(path) => Source::open(path),
            Self::Spool(name, file) => Source::spooled(name, file),
        }
    }
}

/// The directory of a path and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|&b| b == b'/');
    let (directory, name) = path.split_at(slash.unwrap_or(0));
    (directory, name.strip_prefix(b"/").unwrap_or(name))
}

/// Whether a path, or the last part of it, matches one of the patterns.
fn excluded(patterns: &[String], path: &[u8]) -> bool {
    let (_, name) = split(path);
    patterns.iter().any(|pattern| {
        let pattern = pattern.trim_start_matches('/').as_bytes();
        fast_glob::glob_match(pattern, path)
            || (!pattern.contains(&b'/') && fast_glob::glob_match(pattern, name))
    })
}

/// An attribute's value as the volume stores it: ACLs lose the head that system calls put before
/// them; one that says no more than the mode is not stored.
fn stored_value(name: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
    if !cowfs_format::read::acl::is_acl(name) {
        return Some(value);
    }
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    (entries.len() > 3 * 8 || name.ends_with(b"default")).then(|| entries.to_vec())
}
