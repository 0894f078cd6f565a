//! Putting members into a volume.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail};
use cowfs_format::device::DeviceMut;
use cowfs_format::layout::{Dinode, MAX_NAME};
use cowfs_format::ops::{self, Change, CloneOptions, Contents};
use cowfs_format::read::file::FileReader;
use cowfs_format::read::{dir, inode};
use cowfs_format::txn::{NewInode, Timestamp, Txn};
use cowfs_format::units::{BlockNo, index};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Member, Rules, Source, What, digest, split, unborn};
use crate::plan::Plan;

/// Bytes of metadata that may wait in memory.
const HELD: usize = 24 << 20;

/// What was put into a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filled {
    /// Inodes made, directories included.
    pub inodes: u64,
    /// Names beyond the first of an inode.
    pub links: u64,
    /// Bytes of file data read.
    pub bytes: u64,
    /// Bytes that are shared instead of stored again.
    pub shared_bytes: u64,
    /// A digest of everything that was put in, where the rules ask for one.
    #[serde(skip)]
    pub digest: Option<[u8; 32]>,
}

/// Fills the volume of a plan that is written but for its superblock. `progress` is told of bytes.
///
/// # Errors
/// The source cannot be read or holds what cannot be, or the volume is too small.
pub fn fill(
    device: &dyn DeviceMut,
    plan: &Plan,
    source: Source,
    rules: &Rules,
    progress: &dyn Fn(u64),
) -> Result<Filled> {
    let mut volume = unborn::open(device, plan)?;
    let root = volume.info().root;
    let mut filler = Filler {
        txn: volume.begin()?,
        rules,
        directories: HashMap::from([(
            Vec::new(),
            Directory {
                blkno: root,
                mtime: None,
            },
        )]),
        known: HashMap::new(),
        digest: rules.digest.then(Sha256::new),
        done: Filled::default(),
        progress,
    };
    source.each(rules, &mut |member| filler.put(member))?;
    filler.finish()
}

/// A directory that was made, and the time that it is to have in the end.
struct Directory {
    blkno: BlockNo,
    mtime: Option<Timestamp>,
}

struct Filler<'v, 'r> {
    txn: Txn<'v>,
    rules: &'r Rules,
    directories: HashMap<Vec<u8>, Directory>,
    /// With deduplication: size and digest of contents to the first file that has them.
    known: HashMap<(u64, [u8; 32]), BlockNo>,
    /// Digest of all members so far.
    digest: Option<Sha256>,
    done: Filled,
    progress: &'r dyn Fn(u64),
}

fn shown(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

impl Filler<'_, '_> {
    /// Puts a member into the volume.
    fn put(&mut self, member: Member<'_>) -> Result<()> {
        let place = shown(&member.path);
        self.member(member).with_context(|| place)?;
        if self.txn.staged_blocks() * self.txn.info().geo.block_bytes() > HELD {
            self.txn.write_home()?;
        }
        Ok(())
    }

    fn member(&mut self, mut member: Member<'_>) -> Result<()> {
        let (uid, gid) = self.rules.owners.of(&member.path, member.uid, member.gid);
        let mtime = if self.rules.clamp {
            member.mtime.min(self.rules.now)
        } else {
            member.mtime
        };
        let attributes = |kind: u16| NewInode {
            mode: kind | member.mode,
            uid,
            gid,
            atime: mtime,
            mtime,
            ctime: self.rules.now,
        };
        if let Some(hash) = &mut self.digest {
            digest::describe(hash, &member, (uid, gid), mtime);
        }
        let (parent, name) = split(&member.path);
        if name.len() > MAX_NAME {
            bail!("a name has at most {MAX_NAME} bytes");
        }
        if matches!(member.what, What::Directory) {
            let attributes = attributes(0o040_000);
            let path = std::mem::take(&mut member.path);
            return self.directory(path, &attributes, &member.xattrs);
        }
        if name.is_empty() {
            bail!("the root of a volume is a directory");
        }
        let parent = self.parent(parent)?;
        let blkno = match member.what {
            What::Directory => return Ok(()),
            What::Link(first) => {
                let blkno = self.find(&first)?;
                ops::link(&mut self.txn, blkno, parent, name, self.rules.now)?;
                self.done.links += 1;
                return Ok(());
            }
            What::File(mut contents) => {
                let attributes = attributes(0o100_000);
                match self.digest.take() {
                    None => self.file(parent, name, &mut *contents, &attributes)?,
                    Some(mut hash) => {
                        let mut contents = digest::Digested::new(&mut *contents, &mut hash);
                        let made = self.file(parent, name, &mut contents, &attributes)?;
                        self.digest = Some(hash);
                        made
                    }
                }
            }
            What::Symlink(target) => {
                let attributes = attributes(0o120_000);
                ops::symlink(&mut self.txn, parent, name, &target, &attributes)?
            }
            What::Node(kind, device) => {
                let attributes = attributes(kind);
                ops::make_node(&mut self.txn, parent, name, device, &attributes)?
            }
        };
        self.done.inodes += 1;
        self.attributes(blkno, &member.xattrs)
    }

    fn attributes(&mut self, blkno: BlockNo, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let all: Vec<(&[u8], &[u8])> = xattrs.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        Ok(ops::set_xattrs(&mut self.txn, blkno, &all, self.rules.now)?)
    }

    fn directory(
        &mut self,
        path: Vec<u8>,
        attributes: &NewInode,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<()> {
        let blkno = match self.directories.get(&path) {
            Some(directory) => directory.blkno,
            None => self.make_directory(&path, attributes)?,
        };
        let change = Change {
            mode: Some(attributes.mode),
            uid: Some(attributes.uid),
            gid: Some(attributes.gid),
            atime: Some(attributes.atime),
            mtime: None,
        };
        ops::change(&mut self.txn, blkno, &change, attributes.ctime)?;
        self.attributes(blkno, xattrs)?;
        let mtime = Some(attributes.mtime);
        self.directories.insert(path, Directory { blkno, mtime });
        Ok(())
    }

    /// Makes a directory, or finds one that the volume was made with (`lost+found`).
    fn make_directory(&mut self, path: &[u8], attributes: &NewInode) -> Result<BlockNo> {
        let (parent, name) = split(path);
        let parent = self.parent(parent)?;
        self.make_inside(parent, name, attributes)
    }

    fn make_inside(
        &mut self,
        parent: BlockNo,
        name: &[u8],
        attributes: &NewInode,
    ) -> Result<BlockNo> {
        let view = self.txn.view();
        let found = dir::locate(view, &inode::read(view, parent)?, name)?;
        if let Some(found) = found {
            if name == b"lost+found" && parent == view.info().root {
                return Ok(found.inode);
            }
            bail!("a file of that name came before");
        }
        self.done.inodes += 1;
        Ok(self.txn.make_directory(parent, name, attributes)?)
    }

    /// The inode of a directory; those on the way that the source did not mention are made for
    /// `root`. A path can be deep, so this is a loop.
    fn parent(&mut self, path: &[u8]) -> Result<BlockNo> {
        if let Some(directory) = self.directories.get(path) {
            return Ok(directory.blkno);
        }
        let now = self.rules.now;
        let attributes = NewInode::at(now, 0o040_755, 0, 0);
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends = slashes.map(|(at, _)| at).chain(std::iter::once(path.len()));
        let mut at = self.txn.info().root;
        for end in ends {
            let (prefix, _) = path.split_at(end);
            at = match self.directories.get(prefix) {
                Some(directory) => directory.blkno,
                None => {
                    let blkno = self.make_inside(at, split(prefix).1, &attributes)?;
                    let mtime = Some(now);
                    let directory = Directory { blkno, mtime };
                    self.directories.insert(prefix.to_vec(), directory);
                    blkno
                }
            };
        }
        Ok(at)
    }

    /// The inode of a member that came before.
    fn find(&self, path: &[u8]) -> Result<BlockNo> {
        let (parent, name) = split(path);
        let before = || anyhow!("a link to {}, which did not come before it", shown(path));
        let parent = self.directories.get(parent).ok_or_else(before)?.blkno;
        let view = self.txn.view();
        let found = dir::lookup(view, &inode::read(view, parent)?, name)?;
        found.ok_or_else(before)
    }

    fn file(
        &mut self,
        parent: BlockNo,
        name: &[u8],
        contents: &mut dyn Contents,
        attributes: &NewInode,
    ) -> Result<BlockNo> {
        let size = contents.size();
        let bytes: u64 = contents.runs().iter().map(|run| run.1).sum();
        self.done.bytes += bytes;
        let txn = &mut self.txn;
        let progress = self.progress;
        if !self.rules.dedupe || size <= txn.info().geo.block_bytes() as u64 {
            return Ok(ops::import(
                txn, parent, name, contents, attributes, progress,
            )?);
        }
        // What can be read again is looked up before it is stored, the rest afterwards.
        if contents.can_rewind()
            && let Some(&first) = self.known.get(&(size, digest_of(contents)?))
            && same(contents, &mut Stored::open(txn, first)?)?
        {
            self.done.shared_bytes += bytes;
            return clone(txn, first, parent, name, attributes);
        }
        let blkno = ops::import(txn, parent, name, contents, attributes, progress)?;
        let mut stored = Stored::open(txn, blkno)?;
        let digest = digest_of(&mut stored)?;
        let Some(&first) = self.known.get(&(size, digest)) else {
            self.known.insert((size, digest), blkno);
            return Ok(blkno);
        };
        if !same(&mut stored, &mut Stored::open(txn, first)?)? {
            return Ok(blkno);
        }
        drop(stored);
        self.done.shared_bytes += bytes;
        ops::unlink(txn, parent, name, attributes.ctime)?;
        clone(txn, first, parent, name, attributes)
    }

    /// Gives the directories their times, and writes what is left.
    fn finish(mut self) -> Result<Filled> {
        let mut times: Vec<(BlockNo, Timestamp)> = self
            .directories
            .values()
            .filter_map(|directory| Some((directory.blkno, directory.mtime?)))
            .collect();
        times.sort_unstable_by_key(|(blkno, _)| *blkno);
        for (blkno, mtime) in times {
            let mut inode = self.txn.edit::<Dinode>(blkno)?;
            inode.i_mtime = mtime.seconds.into();
            inode.i_mtime_nsec = mtime.nanos.into();
            inode.i_ctime = self.rules.now.seconds.into();
            inode.i_ctime_nsec = self.rules.now.nanos.into();
            if self.txn.staged_blocks() * self.txn.info().geo.block_bytes() > HELD {
                self.txn.write_home()?;
            }
        }
        self.txn.write_home()?;
        self.done.digest = self.digest.map(|hash| hash.finalize().into());
        Ok(self.done)
    }
}

/// Makes a clone of a file under a name, with attributes of its own.
fn clone(
    txn: &mut Txn<'_>,
    first: BlockNo,
    parent: BlockNo,
    name: &[u8],
    attributes: &NewInode,
) -> Result<BlockNo> {
    let options = CloneOptions {
        preserve: false,
        uid: attributes.uid,
        gid: attributes.gid,
        now: attributes.ctime,
    };
    let blkno = ops::clone_file(txn, first, parent, name, &options)?;
    let mut inode = txn.edit::<Dinode>(blkno)?;
    inode.i_mode = attributes.mode.into();
    inode.i_mtime = attributes.mtime.seconds.into();
    inode.i_mtime_nsec = attributes.mtime.nanos.into();
    inode.i_atime = attributes.atime.seconds.into();
    inode.i_atime_nsec = attributes.atime.nanos.into();
    Ok(blkno)
}

/// A file of the volume, to be compared with contents.
struct Stored<'v> {
    reader: FileReader<'v>,
    runs: [(u64, u64); 1],
}

impl<'v> Stored<'v> {
    fn open(txn: &'v Txn<'_>, blkno: BlockNo) -> Result<Self> {
        let view = txn.view();
        let reader = FileReader::open(view, &inode::read(view, blkno)?)?;
        let runs = [(0, reader.size())];
        Ok(Self { reader, runs })
    }
}

impl Contents for Stored<'_> {
    fn name(&self) -> &'static str {
        "the volume"
    }

    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.reader
            .read_at(offset, buf)
            .map_err(std::io::Error::other)
    }
}

/// Bytes that are compared at a time.
const STEP: u64 = 1 << 18;

/// Reads bytes of contents, in holes too.
fn read(contents: &mut dyn Contents, at: u64, buf: &mut [u8]) -> Result<()> {
    buf.fill(0);
    let end = at + buf.len() as u64;
    for (offset, len) in contents.runs().to_vec() {
        let (from, to) = (offset.max(at), (offset + len).min(end));
        if from < to {
            let part = &mut buf[index(from - at)..index(to - at)];
            let read = contents.read(from, part);
            read.with_context(|| contents.name().to_owned())?;
        }
    }
    Ok(())
}

/// SHA-256 of contents.
fn digest_of(contents: &mut dyn Contents) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; index(STEP)];
    let mut at = 0;
    while at < contents.size() {
        let part = &mut buf[..index((contents.size() - at).min(STEP))];
        read(contents, at, part)?;
        hash.update(&*part);
        at += part.len() as u64;
    }
    Ok(hash.finalize().into())
}

/// Whether two contents have the same bytes: that alone decides, whatever the digests say.
fn same(a: &mut dyn Contents, b: &mut dyn Contents) -> Result<bool> {
    if a.size() != b.size() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; index(STEP)], vec![0; index(STEP)]);
    let mut at = 0;
    while at < a.size() {
        let len = index((a.size() - at).min(STEP));
        read(a, at, &mut left[..len])?;
        read(b, at, &mut right[..len])?;
        if left[..len] != right[..len] {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}
