//! A file as it is in the volume, gathered so that it can be written down elsewhere.
//!
//! Damage never makes a file silently short. Without salvage, a file that cannot be read whole is
//! refused with the reason. With it, what the intact blocks say is kept, what they do not say reads
//! as zeros, and each such range becomes a complaint.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow, bail};
use cowfs_format::block::{Checked, View};
use cowfs_format::layout::{Dinode, DynFeatures, FileType};
use cowfs_format::read::file::{FileReader, Gap};
use cowfs_format::read::inode::Inode;
use cowfs_format::read::xattr;
use cowfs_format::units::index;

/// Files up to this size are read by the threads that read ahead.
const SMALL: u64 = 64 << 10;
/// Bytes of such files that may wait to be written.
const BUDGET: u64 = 64 << 20;
/// Longest target of a symlink.
const TARGET_MAX: u64 = 4095;

/// A time: seconds, as the kernel reads them, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Moment {
    fn new(seconds: u64, nanoseconds: u32) -> Self {
        Self {
            seconds: seconds.cast_signed(),
            nanoseconds: nanoseconds.min(999_999_999),
        }
    }
}

/// What a file is, besides its attributes.
#[derive(Debug)]
pub(crate) enum Body {
    /// A file whose contents were read: all of them.
    Small(Vec<u8>),
    /// A file whose contents are to be read when they are written down.
    Large,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A device.
    Device {
        /// Whether it is a block device.
        block: bool,
        major: u32,
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// It cannot be taken, and why.
    Refused(String),
}

/// A file.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) body: Body,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) links: u32,
    pub(crate) accessed: Moment,
    pub(crate) modified: Moment,
    /// Extended attributes, ordered by name; ACLs as the volume stores them.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What could not be read.
    pub(crate) faults: Vec<String>,
}

/// Takes files out of a volume.
#[derive(Debug)]
pub(crate) struct Taker<'v> {
    view: View<'v>,
    salvage: bool,
    waiting: AtomicU64,
}

impl<'v> Taker<'v> {
    /// A taker; with `salvage` it takes what is left of damaged files.
    pub(crate) const fn new(view: View<'v>, salvage: bool) -> Self {
        Self {
            view,
            salvage,
            waiting: AtomicU64::new(0),
        }
    }

    /// Whether what is left of damaged files is taken.
    pub(crate) const fn salvages(&self) -> bool {
        self.salvage
    }

    /// Takes a file; contents of a larger one are left for [`Taker::contents`].
    pub(crate) fn take(&self, inode: &Inode<'v>) -> Taken {
        let mut taken = Taken {
            body: Body::Fifo,
            mode: u32::from(inode.i_mode.get()) & 0o7777,
            uid: inode.i_uid.get(),
            gid: inode.i_gid.get(),
            size: 0,
            links: inode.links(),
            accessed: Moment::new(inode.i_atime.get(), inode.i_atime_nsec.get()),
            modified: Moment::new(inode.i_mtime.get(), inode.i_mtime_nsec.get()),
            xattrs: Vec::new(),
            faults: Vec::new(),
        };
        taken.body = match self.body(inode, &mut taken) {
            Ok(body) => body,
            Err(error) => Body::Refused(format!("{error:#}")),
        };
        if inode.dyn_features().contains(DynFeatures::HAS_XATTR) {
            taken.xattrs = self.xattrs(inode, &mut taken.faults);
        }
        taken
    }

    fn body(&self, inode: &Inode<'v>, taken: &mut Taken) -> Result<Body> {
        Ok(match inode.file_type() {
            Some(FileType::Regular) => {
                let file = self.open(inode, taken)?;
                taken.size = file.size();
                let small = file.size() <= SMALL && file.segments().len() <= 1;
                if !small || !self.reserve(file.size()) {
                    return Ok(Body::Large);
                }
                let mut bytes = vec![0; index(file.size())];
                let mut gaps = Vec::new();
                file.read_around(0, &mut bytes, &mut gaps);
                taken.faults.extend(gaps.iter().map(lost));
                if let Some(fault) = taken.faults.first().filter(|_| !self.salvage) {
                    bail!("{fault}");
                }
                Body::Small(bytes)
            }
            Some(FileType::Symlink) => Body::Symlink(self.target(inode)?),
            Some(FileType::Directory) => Body::Directory,
            Some(FileType::CharDevice) => device(inode, false),
            Some(FileType::BlockDevice) => device(inode, true),
            Some(FileType::Fifo) => Body::Fifo,
            Some(FileType::Socket) => Body::Socket,
            None => bail!("its mode {:o} names no type of file", inode.i_mode.get()),
        })
    }

    /// Opens the contents of a regular file.
    fn open(&self, inode: &Inode<'v>, taken: &mut Taken) -> Result<FileReader<'v>> {
        let (file, faults) = open(self.view, inode, self.salvage)?;
        taken.faults.extend(faults);
        Ok(file)
    }

    /// The contents of a file that was too large to be read ahead.
    ///
    /// # Errors
    /// They cannot be read at all.
    pub(crate) fn contents(&self, inode: &Inode<'v>) -> Result<FileReader<'v>> {
        // What is lost was told when the file was taken.
        Ok(open(self.view, inode, self.salvage)?.0)
    }

    fn reserve(&self, bytes: u64) -> bool {
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > BUDGET {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Says that a file was written down and its contents are dropped.
    pub(crate) fn release(&self, taken: &Taken) {
        if let Body::Small(bytes) = &taken.body {
            self.waiting
                .fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
    }

    fn target(&self, inode: &Inode<'v>) -> Result<Vec<u8>> {
        let file = FileReader::open(self.view, inode)?;
        if !(1..=TARGET_MAX).contains(&file.size()) {
            bail!("the target of the symlink has {} bytes", file.size());
        }
        let mut target = vec![0; index(file.size())];
        file.read_at(0, &mut target)?;
        if target.contains(&0) {
            bail!("the target of the symlink holds a NUL byte");
        }
        Ok(target)
    }

    /// The attributes that can be read.
    fn xattrs(&self, inode: &Inode<'v>, faults: &mut Vec<String>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        xattr::for_each_area(self.view, inode, &mut |area| {
            let (place, bytes) = match area {
                Ok(area) => area,
                Err(error) => {
                    faults.push(format!("attributes cannot be read: {error}"));
                    return ControlFlow::Continue(());
                }
            };
            for entry in xattr::entries(bytes) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(kind) => {
                        let fault = kind.at(place.blkno());
                        faults.push(format!("an attribute cannot be read: {fault}"));
                        continue;
                    }
                };
                let name = entry.name();
                match entry.read(self.view, place.blkno()) {
                    Ok(value) if !name.contains(&0) => found.push((name, value)),
                    Ok(_) => faults.push(format!(
                        "the name of attribute {} holds a NUL byte",
                        name.escape_ascii()
                    )),
                    Err(error) => faults.push(format!(
                        "attribute {} cannot be read: {error}",
                        name.escape_ascii()
                    )),
                }
            }
            ControlFlow::Continue(())
        });
        found.sort();
        found
    }
}

/// Opens the contents of a file; with `salvage` what is left of them, and what is not.
///
/// # Errors
/// They cannot be read whole, or not at all.
pub(crate) fn open<'v>(
    view: View<'v>,
    inode: &Checked<'_, Dinode>,
    salvage: bool,
) -> Result<(FileReader<'v>, Vec<String>)> {
    let size = inode.i_size.get();
    // Clusters are counted in 32 bits; a larger size would only bring zeros without end.
    if size >> view.geo().cluster_bits() > 1 << 32 {
        bail!("i_size is {size}, more than a file can have");
    }
    let count = |file: &FileReader<'_>| {
        if inode.has_extents() {
            file.verify_count(inode)
        } else {
            Ok(())
        }
    };
    if !salvage {
        let opened = FileReader::open(view, inode).and_then(|file| count(&file).map(|()| file));
        let file = opened.map_err(|e| anyhow!("{e}, or use --best-effort for what is left"))?;
        return Ok((file, Vec::new()));
    }
    let (file, gaps) = FileReader::salvage(view, inode)?;
    let mut faults: Vec<String> = gaps.iter().map(lost).collect();
    if gaps.is_empty() {
        faults.extend(count(&file).err().map(|error| error.to_string()));
    }
    Ok((file, faults))
}

/// A device.
fn device(inode: &Dinode, block: bool) -> Body {
    let (major, minor) = inode.device();
    Body::Device {
        block,
        major,
        minor,
    }
}

/// What is said of a range that cannot be read.
pub(crate) fn lost(gap: &Gap) -> String {
    let Gap { offset, len, error } = gap;
    if *len == 0 {
        return error.to_string();
    }
    let end = offset.saturating_add(*len);
    format!("bytes {offset} to {end} cannot be read: {error}")
}
