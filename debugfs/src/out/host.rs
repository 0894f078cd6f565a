//! A tree of files that is made below a directory of the host, and never beside it.
//!
//! What is written comes from a volume that may be hostile. Every name is therefore used relative
//! to an open directory that this program made or was given, is one component, and is never
//! followed: files and directories must be new, and a directory is opened again only as one. A
//! symbolic link is made, but nothing goes through it.
//!
//! Who is not root cannot give files away or make devices. Such things are counted, and told once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

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

/// A directory on the way to the current one.
#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    fd: Option<OwnedFd>,
}

/// A directory of the host and the place below it where files are made.
#[derive(Debug)]
pub(crate) struct Tree {
    base: OwnedFd,
    levels: Vec<Level>,
    /// What could not be set.
    pub(crate) unset: Unset,
}

impl Tree {
    /// Takes a directory that exists.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            base,
            levels: Vec::new(),
            unset: Unset::default(),
        })
    }

    /// The current directory.
    fn here(&mut self) -> io::Result<BorrowedFd<'_>> {
        let open = self.levels.iter().rposition(|level| level.fd.is_some());
        let from = open.map_or(0, |at| at + 1);
        for at in from..self.levels.len() {
            let (above, rest) = self.levels.split_at_mut(at);
            let parent = above
                .last()
                .and_then(|level| level.fd.as_ref())
                .unwrap_or(&self.base);
            if let Some(level) = rest.first_mut() {
                level.fd = Some(open_directory(parent.as_fd(), &level.name)?);
            }
            if let Some(old) = at.checked_sub(OPEN_MOST)
                && let Some(level) = self.levels.get_mut(old)
            {
                level.fd = None;
            }
        }
        let last = self.levels.last().and_then(|level| level.fd.as_ref());
        Ok(last.unwrap_or(&self.base).as_fd())
    }

    /// Makes a directory, which becomes the current one.
    pub(crate) fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        let here = self.here()?;
        // For nobody else until it is whole.
        mkdirat(here, name, Mode::RWXU)?;
        let fd = open_directory(here, name)?;
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

    /// Gives the current directory its attributes and goes back to the one above.
    pub(crate) fn leave(&mut self, taken: &Taken) -> io::Result<()> {
        let fd = self.here()?.try_clone_to_owned()?;
        self.levels.pop();
        self.dress(fd.as_fd(), taken)
    }

    /// Makes a regular file, to be filled.
    pub(crate) fn create(&mut self, name: &[u8]) -> io::Result<File> {
        check(name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.here()?, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(fd))
    }

    /// Gives a file its attributes.
    pub(crate) fn finish(&mut self, file: &File, taken: &Taken) -> io::Result<()> {
        self.dress(file.as_fd(), taken)
    }

    /// Removes a file that could not be filled.
    pub(crate) fn remove(&mut self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(self.here()?, name, AtFlags::empty())?)
    }

    /// Makes another name for a file that was made at `path` from the start of the tree.
    pub(crate) fn link(&mut self, path: &[Vec<u8>], name: &[u8]) -> io::Result<()> {
        check(name)?;
        let Some((old, directories)) = path.split_last() else {
            return Err(Errno::NOENT.into());
        };
        let mut from: Option<OwnedFd> = None;
        for directory in directories {
            let parent = from.as_ref().unwrap_or(&self.base);
            from = Some(open_directory(parent.as_fd(), directory)?);
        }
        let base = self.base.try_clone()?;
        let from = from.as_ref().unwrap_or(&base);
        Ok(linkat(
            from,
            &old[..],
            self.here()?,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Makes what has no contents to be written: a symlink, a device, a FIFO, a socket. False when
    /// only root could.
    pub(crate) fn node(&mut self, name: &[u8], taken: &Taken) -> io::Result<bool> {
        check(name)?;
        let here = self.here()?;
        // Permissions are set once the owner is.
        let mode = Mode::RUSR | Mode::WUSR;
        let (kind, device) = match &taken.body {
            Body::Symlink(target) => {
                symlinkat(&target[..], here, name)?;
                self.dress_symlink(name, taken)?;
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
                self.unset.devices += 1;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.dress_node(name, taken)?;
        Ok(true)
    }

    /// Gives an open file or directory its attributes.
    fn dress(&mut self, fd: BorrowedFd<'_>, taken: &Taken) -> io::Result<()> {
        let (uid, gid) = owner(taken);
        let mode = self.mode_after(fchown(fd, uid, gid), taken)?;
        // Attributes of a file that may not be written are set before it is that; an ACL after
        // the mode, which it is a part of.
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
            self.xattr_set(name, fsetxattr(fd, &name[..], value, XattrFlags::empty()));
        }
        fchmod(fd, mode)?;
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| acl::is_acl(name)) {
            let value = [&ACL_VERSION[..], value].concat();
            self.xattr_set(name, fsetxattr(fd, &name[..], &value, XattrFlags::empty()));
        }
        Ok(futimens(fd, &times(taken))?)
    }

    /// Gives a symlink its attributes.
    fn dress_symlink(&mut self, name: &[u8], taken: &Taken) -> io::Result<()> {
        let here = self.here()?.try_clone_to_owned()?;
        let (uid, gid) = owner(taken);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        self.mode_after(chownat(&here, name, uid, gid, flags), taken)?;
        // There is no call for attributes relative to a directory; this path is one.
        let path = [
            format!("/proc/self/fd/{}/", here.as_raw_fd()).as_bytes(),
            name,
        ]
        .concat();
        for (name, value) in &taken.xattrs {
            self.xattr_set(
                name,
                lsetxattr(&path[..], &name[..], value, XattrFlags::empty()),
            );
        }
        Ok(utimensat(&here, name, &times(taken), flags)?)
    }

    /// Gives a device, FIFO or socket its attributes. It is not opened, but held, so that all of
    /// them go to what was made.
    fn dress_node(&mut self, name: &[u8], taken: &Taken) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = openat(self.here()?, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode);
        if kind == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        let (uid, gid) = owner(taken);
        let mode = self.mode_after(chown(&*path, uid, gid), taken)?;
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
            self.xattr_set(
                name,
                setxattr(&*path, &name[..], value, XattrFlags::empty()),
            );
        }
        chmod(&*path, mode)?;
        for (name, value) in taken.xattrs.iter().filter(|(name, _)| acl::is_acl(name)) {
            let value = [&ACL_VERSION[..], value].concat();
            self.xattr_set(
                name,
                setxattr(&*path, &name[..], &value, XattrFlags::empty()),
            );
        }
        Ok(utimensat(CWD, &*path, &times(taken), AtFlags::empty())?)
    }

    /// The mode of a file, once its owner was set or could not be: a program that changes its user
    /// must not do so to the wrong one.
    fn mode_after(&mut self, owned: rustix::io::Result<()>, taken: &Taken) -> io::Result<Mode> {
        let mode = match owned {
            Ok(()) => taken.mode,
            Err(Errno::PERM | Errno::INVAL) => {
                self.unset.owners += 1;
                taken.mode & 0o1777
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Mode::from_raw_mode(mode))
    }

    /// Counts an attribute that the host does not take.
    fn xattr_set(&mut self, name: &[u8], set: rustix::io::Result<()>) {
        if let Err(error) = set {
            self.unset.xattrs += 1;
            self.unset.xattr.get_or_insert_with(|| {
                let error = io::Error::from(error);
                format!("{}: {error}", name.escape_ascii())
            });
        }
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

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
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
