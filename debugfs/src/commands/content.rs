//! Commands that take files out: to where results go, or to a file on the host.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use cowfs_format::block::{Checked, View};
use cowfs_format::error::{Error, Fault, FaultKind};
use cowfs_format::layout::{Dinode, FileType};
use cowfs_format::read::file::FileReader;
use cowfs_format::read::inode;
use cowfs_format::units::{BlockNo, index};
use serde::Serialize;

use crate::report::{Content, Page, PathNamed, Report, Text};
use crate::session::Session;
use crate::table::{Args, Command, Count, FILE, Needs, OperandKind, flag, operand};

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;
/// Largest file that fits into a JSON document.
const JSON_MAX: u64 = 64 << 20;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "cat",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Writes the contents of a file, or the target of a symlink.",
        about: "Parts that cannot be read are written as zeros and reported.",
        needs: Needs::Volume,
        run: cat,
    },
    Command {
        name: "dump",
        aliases: &[],
        options: &[flag('p', "preserve", "keep owner, mode and times")],
        operands: &[FILE, operand("HOST", OperandKind::Host, Count::One)],
        summary: "Copies a file to a file on the host.",
        about: "Holes stay holes. Parts that cannot be read become holes and are reported. A symlink \
                becomes a symlink.",
        needs: Needs::Volume,
        run: dump,
    },
];

/// Contents of a file, for JSON.
#[derive(Serialize)]
struct Cat {
    inode: u64,
    size: u64,
    #[serde(flatten)]
    content: Content,
}

impl Text for Cat {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// The contents of a regular file or symlink.
fn contents<'v>(view: View<'v>, inode: &Checked<'_, Dinode>) -> Result<FileReader<'v>> {
    let size = inode.i_size.get();
    // Clusters are counted in 32 bits; a larger size would only bring zeros without end.
    if size >> view.geo().cluster_bits() > 1 << 32 {
        bail!(
            "inode {}: i_size is {size}, more than a file can have",
            inode.blkno()
        );
    }
    match inode.file_type() {
        Some(FileType::Regular | FileType::Symlink) => Ok(FileReader::open(view, inode)?),
        Some(FileType::Directory) => bail!("inode {} is a directory", inode.blkno()),
        _ => bail!("inode {} has no contents", inode.blkno()),
    }
}

/// Reads a part of a file; blocks that cannot be read are zeros, and come back as faults.
fn read(view: View<'_>, file: &FileReader<'_>, offset: u64, buf: &mut [u8]) -> Vec<Error> {
    if file.read_at(offset, buf).is_ok() {
        return Vec::new();
    }
    let size = view.geo().block_bytes();
    let mut faults = Vec::new();
    for (i, part) in buf.chunks_mut(size).enumerate() {
        let at = offset.saturating_add((i * size) as u64);
        if let Err(error) = file.read_at(at, part) {
            part.fill(0);
            faults.push(place(view, file, at).map_or(error, Error::from));
        }
    }
    faults
}

/// The block behind a byte of a file, as one that cannot be read.
fn place(view: View<'_>, file: &FileReader<'_>, offset: u64) -> Option<Fault> {
    let geo = view.geo();
    let cluster = u32::try_from(offset >> geo.cluster_bits()).ok()?;
    let extent = file
        .extents()
        .iter()
        .find(|extent| extent.cpos <= cluster && cluster < extent.end())?;
    let skip = offset - (u64::from(extent.cpos) << geo.cluster_bits());
    let blkno: BlockNo = extent.blkno.plus(skip >> geo.block_bits());
    let inside = geo.contains(blkno, 1);
    let kind = if inside {
        FaultKind::Unreadable
    } else {
        FaultKind::OutOfVolume
    };
    Some(kind.at(blkno))
}

fn cat(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let blkno = session.find(args.need(0)?)?;
    let json = session.json;
    let (view, out) = session.view_and_out()?;
    let inode = inode::read(view, blkno)?;
    let file = contents(view, &inode)?;
    let size = file.size();
    if json && size > JSON_MAX {
        bail!("the file has {size} bytes, too many for JSON; use `dump`");
    }
    let (mut offset, mut kept, mut buf, mut faults) = (0, Vec::new(), Vec::new(), Vec::new());
    while offset < size {
        buf.resize(index((size - offset).min(CHUNK)), 0);
        faults.extend(read(view, &file, offset, &mut buf));
        offset += buf.len() as u64;
        if json {
            kept.extend_from_slice(&buf);
        } else {
            out.write_all(&buf)?;
        }
    }
    for fault in faults {
        session.fault(fault);
    }
    if !json {
        return Ok(None);
    }
    Ok(Some(Box::new(Cat {
        inode: blkno.0,
        size,
        content: Content::new(kept),
    })))
}

/// What was copied.
#[derive(Serialize)]
struct Dumped {
    inode: u64,
    #[serde(flatten)]
    path: PathNamed,
    size: u64,
    data_bytes: u64,
}

impl Text for Dumped {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn dump(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let path = session.host_dir.join(OsStr::from_bytes(args.need(1)?));
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let file = contents(view, &inode)?;
    if inode.file_type() == Some(FileType::Symlink) {
        return dump_link(&inode, &file, &path).with_context(|| path.display().to_string());
    }
    let host = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    let (data_bytes, faults) =
        copy(view, &file, &host).with_context(|| path.display().to_string())?;
    if args.has('p') {
        preserve(&inode, &host).with_context(|| path.display().to_string())?;
    }
    let report = Dumped {
        inode: inode.blkno().0,
        path: PathNamed::new(path.as_os_str().as_bytes()),
        size: file.size(),
        data_bytes,
    };
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(report)))
}

/// Makes a symlink on the host, in place of a file that has its name.
fn dump_link(
    inode: &Checked<'_, Dinode>,
    file: &FileReader<'_>,
    path: &Path,
) -> Result<Option<Box<dyn Report>>> {
    // A path has at most 4096 bytes.
    let mut target = vec![0; index(file.size().min(4096))];
    file.read_at(0, &mut target)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
    Ok(Some(Box::new(Dumped {
        inode: inode.blkno().0,
        path: PathNamed::new(path.as_os_str().as_bytes()),
        size: file.size(),
        data_bytes: target.len() as u64,
    })))
}

/// Copies data; holes stay holes.
fn copy(view: View<'_>, file: &FileReader<'_>, host: &File) -> io::Result<(u64, Vec<Error>)> {
    host.set_len(file.size())?;
    let (mut copied, mut faults) = (0, Vec::new());
    let mut buf = Vec::new();
    for segment in file.segments() {
        if segment.blkno.is_none() && !file.is_inline() {
            continue;
        }
        let mut done = 0;
        while done < segment.len {
            buf.resize(index((segment.len - done).min(CHUNK)), 0);
            let at = segment.offset + done;
            faults.extend(read(view, file, at, &mut buf));
            host.write_all_at(&buf, at)?;
            done += buf.len() as u64;
        }
        copied += segment.len;
    }
    Ok((copied, faults))
}

fn preserve(inode: &Dinode, host: &File) -> io::Result<()> {
    std::os::unix::fs::fchown(host, Some(inode.i_uid.get()), Some(inode.i_gid.get()))?;
    let mode = u32::from(inode.i_mode.get()) & 0o7777;
    host.set_permissions(Permissions::from_mode(mode))?;
    let time = |seconds: u64, nanoseconds: u32| {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds.min(999_999_999)))
    };
    let modified = time(inode.i_mtime.get(), inode.i_mtime_nsec.get());
    let accessed = time(inode.i_atime.get(), inode.i_atime_nsec.get());
    let mut times = std::fs::FileTimes::new();
    if let (Some(modified), Some(accessed)) = (modified, accessed) {
        times = times.set_modified(modified).set_accessed(accessed);
    }
    host.set_times(times)
}
