//! A tree of files that is made below a directory of the host, and never beside it.
//!
//! What is written comes from a volume that may be hostile. Every name is therefore used relative
//! to an open directory that this program made or was given, is one component, and is never
//! followed: files and directories must be new, and a directory is opened again only as one. A
//! symbolic link is made, but nothing goes through it.
//!
//! Who is not root cannot give files away or make devices. Such things are counted, and told once.
//!
//! A [`Tree`] is a place in the tree, for one thread; a [`Place`] is a directory of it in which any
//! thread makes files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use cowfs_format::read::acl;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chown,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat,
    openat, setxattr, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::source::{Body, Moment, Taken};

/// Directories of a path that are kept open.
const OPEN_MOST: usize = 64;
/// The version that the kernel puts before an ACL.
const ACL_VERSION: [u8; 4] = 2u32.to_le_bytes();

/// What the host did not let be set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unset {
    /// Files that keep the owner of the process.
    pub(crate) owners: u64,
    /// Devices that were not made.
    pub(crate) devices: u64,
    /// Attributes that were not set.
    pub(crate) xattrs: u64,
    /// The first of these, and why.
    pub(crate) xattr: Option<String>,
}

impl Unset {
    /// Adds what later files are without.
    pub(crate) fn join(&mut self, later: Self) {
        self.owners += later.owners;
        self.devices += later.devices;
        self.xattrs += later.xattrs;
        if self.xattr.is_none() {
            self.xattr = later.xattr;
        }
    }
}

/// A directory on the way to the current one.
#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    fd: Option<Place>,
}

/// An open directory of the host, in which files are made.
#[derive(Clone, Debug)]
pub(crate) struct Place(Arc<OwnedFd>);

/// A directory of the host and the place below it where files are made.
#[derive(Debug)]
pub(crate) struct Tree {
    base: Place,
    levels: Vec<Level>,
}

impl Tree {
    /// Takes a directory that exists.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            base: Place(Arc::new(base)),
            levels: Vec::new(),
        })
    }

    /// The current directory.
    pub(crate) fn here(&mut self) -> io::Result<Place> {
        let open = self.levels.iter().rposition(|level| level.fd.is_some());
        let from = open.map_or(0, |at| at + 1);
        for at in from..self.levels.len() {
            let (above, rest) = self.levels.split_at_mut(at);
            let parent = above
                .last()
                .and_then(|level| level.fd.as_ref())
                .unwrap_or(&self.base);
            if let Some(level) = rest.first_mut() {
                level.fd = Some(parent.directory(&level.name)?);
            }
            if let Some(old) = at.checked_sub(OPEN_MOST)
                && let Some(level) = self.levels.get_mut(old)
            {
                level.fd = None;
            }
        }
        let last = self.levels.last().and_then(|level| level.fd.as_ref());
        Ok(last.unwrap_or(&self.base).clone())
    }

    /// Makes a directory, which becomes the current one.
    pub(crate) fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        let here = self.here()?;
        // For nobody else until it is whole.
        mkdirat(&*here.0, name, Mode::RWXU)?;
        let fd = here.directory(name)?;
        self.levels.push(Level {
            name: name.to_vec(),
            fd: Some(fd),
        });
        let old = self.levels.len().checked_sub(OPEN_MOST + 1);
        if let Some(level) = old.and_then(|at| self.levels.get_mut(at)) {
            level.fd = None;
        }
        Ok(())
    }

    /// Goes back to the directory above; the one that was left, which has no attributes yet.
    pub(crate) fn leave(&mut self) -> io::Result<Place> {
        let left = self.here()?;
        self.levels.pop();
        Ok(left)
    }

    /// Makes another name in `place` for a file that was made at `path` from the start of the tree.
    pub(crate) fn link(&self, path: &[Vec<u8>], place: &Place, name: &[u8]) -> io::Result<()> {
        check(name)?;
        let Some((old, directories)) = path.split_last() else {
            return Err(Errno::NOENT.into());
        };
        let mut from = self.base.clone();
        for directory in directories {
            from = from.directory(directory)?;
        }
        Ok(linkat(
            &*from.0,
            &old[..],
            &*place.0,
            name,
            AtFlags::empty(),
        )?)
    }
}

impl Place {
    /// Opens a directory in this one.
    fn directory(&self, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&*self.0, name, flags, Mode::empty())?;
        Ok(Self(Arc::new(fd)))
    }

    /// Makes a regular file, to be filled.
    pub(crate) fn create(&self, name: &[u8]) -> io::Result<File> {
        check(name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&*self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(fd))
    }

    /// Gives a file its attributes.
    pub(crate) fn finish(&self, file: &File, taken: &Taken, unset: &mut Unset) -> io::Result<()> {
        dress(file.as_fd(), taken, unset)
    }

    /// Gives the directory itself its attributes, once all that is in it is made.
    pub(crate) fn finish_directory(&self, taken: &Taken, unset: &mut Unset) -> io::Result<()> {
        dress(self.0.as_fd(), taken, unset)
    }

    /// Removes a file that could not be filled.
    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&*self.0, name, AtFlags::empty())?)
    }

    /// Makes what has no contents to be written: a symlink, a device, a FIFO, a socket. False when
    /// only root could.
    pub(crate) fn node(&self, name: &[u8], taken: &Taken, unset: &mut Unset) -> io::Result<bool> {
        check(name)?;
        let here = &*self.0;
        // Permissions are set once the owner is.
        let mode = Mode::RUSR | Mode::WUSR;
        let (kind, device) = match &taken.body {
            Body::Symlink(target) => {
                symlinkat(&target[..], here, name)?;
                self.dress_symlink(name, taken, unset)?;
                return Ok(true);
            }
            Body::Device {
                block,
                major,
                minor,
            } => {
                let kind = if *block {
                    FileType::BlockDevice
                } else {
                    FileType::CharacterDevice
                };
                (kind, makedev(*major, *minor))
            }
            Body::Socket => (FileType::Socket, 0),
            _ => (FileType::Fifo, 0),
        };
        match mknodat(here, name, kind, mode, device) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                unset.devices += 1;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.dress_node(name, taken, unset)?;
        Ok(true)
    }

    /// Gives a symlink its attributes.
    fn dress_symlink(&self, name: &[u8], taken: &Taken, unset: &mut Unset) -> io::Result<()> {
        let here = &*self.0;
        let (uid, gid) = owner(taken);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        mode_after(chownat(here, name, uid, gid, flags), taken, unset)?;
        // There is no call for attributes relative to a directory; this path is one.
        let path = [
            format!("/proc/self/fd/{}/", here.as_raw_fd()).as_bytes(),
            name,
        ]
        .concat();
        for (name, value) in &taken.xattrs {
            xattr_set(
                name,
                lsetxattr(&path[..], &name[..], value, XattrFlags::empty()),
                unset,
            );
        }
        Ok(utimensat(here, name, &times(taken), flags)?)
    }

    /// Gives a device, FIFO or socket its attributes. It is not opened, but held, so that all of
    /// them go to what was made.
    fn dress_node(&self, name: &[u8], taken: &Taken, unset: &mut Unset) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = openat(&*self.0, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode);
        if kind == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        let (uid, gid) = owner(taken);
        let mode = mode_after(chown(&*path, uid, gid), taken, unset)?;
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
            xattr_set(
                name,
                setxattr(&*path, &name[..], value, XattrFlags::empty()),
                unset,
            );
        }
        chmod(&*path, mode)?;
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| acl::is_acl(name)) {
            let value = [&ACL_VERSION[..], value].concat();
            xattr_set(
                name,
                setxattr(&*path, &name[..], &value, XattrFlags::empty()),
                unset,
            );
        }
        Ok(utimensat(CWD, &*path, &times(taken), AtFlags::empty())?)
    }
}

/// Gives an open file or directory its attributes.
fn dress(fd: BorrowedFd<'_>, taken: &Taken, unset: &mut Unset) -> io::Result<()> {
    let (uid, gid) = owner(taken);
    let mode = mode_after(fchown(fd, uid, gid), taken, unset)?;
    // Attributes of a file that may not be written are set before it is that; an ACL after
    // the mode, which it is a part of.
    for (name, value) in taken.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
        xattr_set(
            name,
            fsetxattr(fd, &name[..], value, XattrFlags::empty()),
            unset,
        );
    }
    fchmod(fd, mode)?;
    for (name, value) in taken.xattrs.iter().filter(|(name, _)| acl::is_acl(name)) {
        let value = [&ACL_VERSION[..], value].concat();
        xattr_set(
            name,
            fsetxattr(fd, &name[..], &value, XattrFlags::empty()),
            unset,
        );
    }
    Ok(futimens(fd, &times(taken))?)
}

/// The mode of a file, once its owner was set or could not be: a program that changes its user
/// must not do so to the wrong one.
fn mode_after(owned: rustix::io::Result<()>, taken: &Taken, unset: &mut Unset) -> io::Result<Mode> {
    let mode = match owned {
        Ok(()) => taken.mode,
        Err(Errno::PERM | Errno::INVAL) => {
            unset.owners += 1;
            taken.mode & 0o1777
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Mode::from_raw_mode(mode))
}

/// Counts an attribute that the host does not take.
fn xattr_set(name: &[u8], set: rustix::io::Result<()>, unset: &mut Unset) {
    if let Err(error) = set {
        unset.xattrs += 1;
        unset.xattr.get_or_insert_with(|| {
            let error = io::Error::from(error);
            format!("{}: {error}", name.escape_ascii())
        });
    }
}

/// Owner and group. The largest number means "leave it" to the kernel, so nobody can be that.
fn owner(taken: &Taken) -> (Option<Uid>, Option<Gid>) {
    (
        (taken.uid != u32::MAX).then(|| Uid::from_raw(taken.uid)),
        (taken.gid != u32::MAX).then(|| Gid::from_raw(taken.gid)),
    )
}

/// Refuses a name that leads elsewhere. The walk has refused such names before; this is the wall
/// behind it.
fn check(name: &[u8]) -> io::Result<()> {
    let leads_away = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    if leads_away || name.contains(&0) {
        return Err(io::Error::other("no name that a file can have"));
    }
    Ok(())
}

fn times(taken: &Taken) -> Timestamps {
    let time = |moment: Moment| Timespec {
        tv_sec: moment.seconds,
        tv_nsec: moment.nanoseconds.into(),
    };
    Timestamps {
        last_access: time(taken.accessed),
        last_modification: time(taken.modified),
    }
}
