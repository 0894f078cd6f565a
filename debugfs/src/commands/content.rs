//! Commands that take files out: to where results go, or to a file on the host.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use cowfs_format::block::{Checked, View};
use cowfs_format::layout::{Dinode, FileType};
use cowfs_format::read::file::{FileReader, Gap};
use cowfs_format::read::inode;
use cowfs_format::units::index;
use schemars::JsonSchema;
use serde::Serialize;

use crate::out::{self, CHUNK, source};
use crate::report::{Content, Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BEST_EFFORT, Command, Count, FILE, Needs, OperandKind, flag, operand};

/// Largest file that fits into a JSON document.
const JSON_MAX: u64 = 64 << 20;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "cat",
        aliases: &[],
        options: &[BEST_EFFORT],
        operands: &[FILE],
        summary: "Writes the contents of a file, or the target of a symlink.",
        about: "Parts that cannot be read are written as zeros and reported.",
        needs: Needs::Volume,
        says: schema::of::<Cat>,
        run: cat,
    },
    Command {
        name: "dump",
        aliases: &[],
        options: &[
            BEST_EFFORT,
            flag('p', "preserve", "keep owner, mode and times"),
        ],
        operands: &[FILE, operand("HOST", OperandKind::Host, Count::One)],
        summary: "Copies a file to a file on the host.",
        about: "Holes stay holes. Parts that cannot be read become holes and are reported. A symlink \
                becomes a symlink.",
        needs: Needs::Volume,
        says: schema::of::<Dumped>,
        run: dump,
    },
];

/// Contents of a file, for JSON.
#[derive(JsonSchema, Serialize)]
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

/// The contents of a regular file or symlink, and what is lost of them.
fn contents<'v>(
    view: View<'v>,
    inode: &Checked<'_, Dinode>,
    args: &Args,
) -> Result<(FileReader<'v>, Vec<String>)> {
    let place = || format!("inode {}", inode.blkno());
    match inode.file_type() {
        Some(FileType::Regular | FileType::Symlink) => {
            source::open(view, inode, args.has('b')).with_context(place)
        }
        Some(FileType::Directory) => bail!("{} is a directory", place()),
        _ => bail!("{} has no contents", place()),
    }
}

fn cat(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let blkno = session.find(args.need(0)?)?;
    let json = session.json;
    let (view, out) = session.view_and_out()?;
    let inode = inode::read(view, blkno)?;
    let (file, mut faults) = contents(view, &inode, args)?;
    let size = file.size();
    if json && size > JSON_MAX {
        bail!("the file has {size} bytes, too many for JSON; use `dump`");
    }
    let (mut offset, mut kept, mut buf, mut gaps) = (0, Vec::new(), Vec::new(), Vec::new());
    while offset < size {
        buf.resize(index((size - offset).min(CHUNK)), 0);
        file.read_around(offset, &mut buf, &mut gaps);
        offset += buf.len() as u64;
        if json {
            kept.extend_from_slice(&buf);
        } else {
            out.write_all(&buf)?;
        }
    }
    faults.extend(gaps.iter().map(source::lost));
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
#[derive(JsonSchema, Serialize)]
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
    let (file, mut faults) = contents(view, &inode, args)?;
    if inode.file_type() == Some(FileType::Symlink) {
        return dump_link(&inode, &file, &path).with_context(|| path.display().to_string());
    }
    let place = || path.display().to_string();
    let host = out::create(&path, &session.opened()?.path).with_context(place)?;
    let (data_bytes, gaps) = copy(&file, &host).with_context(place)?;
    faults.extend(gaps.iter().map(source::lost));
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
fn copy(file: &FileReader<'_>, host: &File) -> io::Result<(u64, Vec<Gap>)> {
    host.set_len(file.size())?;
    let (mut copied, mut gaps) = (0, Vec::new());
    let mut buf = Vec::new();
    for segment in file.segments() {
        if segment.blkno.is_none() && !file.is_inline() {
            continue;
        }
        let mut done = 0;
        while done < segment.len {
            buf.resize(index((segment.len - done).min(CHUNK)), 0);
            let at = segment.offset + done;
            file.read_around(at, &mut buf, &mut gaps);
            host.write_all_at(&buf, at)?;
            done += buf.len() as u64;
        }
        copied += segment.len;
    }
    Ok((copied, gaps))
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
