//! Filling a new volume from a directory or an archive.
//!
//! A [`Source`] gives members one after the other, parents before what is inside; a [`fill::Filler`]
//! puts them into the volume. Nothing goes through a journal: the volume has no superblock before
//! everything is in its place, so nobody can see it half done.

mod fill;
mod host;
mod owners;
mod tar;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowfs_format::ops::Contents;
use cowfs_format::txn::Timestamp;

pub use fill::{Filled, fill};
pub use owners::{Map, Owners};

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
    Directory(std::path::PathBuf),
    /// A tar stream, unpacked, with what to call it in messages.
    Tar(TarStream),
}

/// A tar stream.
pub struct TarStream {
    name: String,
    reader: Box<dyn Read>,
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

    fn archive(name: String, mut reader: Box<dyn Read>) -> Result<Self> {
        let mut magic = Vec::new();
        let mut head = reader.by_ref().take(4);
        head.read_to_end(&mut magic).with_context(|| name.clone())?;
        let rest = std::io::Cursor::new(magic.clone()).chain(reader);
        let reader: Box<dyn Read> = match magic.as_slice() {
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

    /// Gives all members.
    pub(crate) fn each(self, exclude: &[String], put: &mut Put<'_>) -> Result<()> {
        match self {
            Self::Directory(path) => host::each(&path, exclude, put),
            Self::Tar(stream) => tar::each(stream.reader, &stream.name, exclude, put),
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
