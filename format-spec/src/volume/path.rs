//! Names of files inside a volume: `/path`, `//system file`, `<inode>`.

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::FileType;
use crate::read::{dir, inode};
use crate::units::BlockNo;

/// A path whose last part need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The directory.
    pub directory: BlockNo,
    /// The last part.
    pub name: Vec<u8>,
}

fn failed(path: &[u8], why: &'static str) -> Error {
    Error::Path {
        path: String::from_utf8_lossy(path).into_owned(),
        why,
    }
}

/// The inode that a file specification names: `/path` from the root directory, `//path` from the
/// system directory, `<number>` an inode by its block, anything else from `cwd`. Symbolic links
/// are not followed.
///
/// # Errors
/// Nothing has that name, or a directory on the way is damaged.
pub fn resolve(view: View<'_>, cwd: BlockNo, spec: &[u8]) -> Result<BlockNo> {
    let (mut at, rest) = start(view, cwd, spec)?;
    for part in parts(rest) {
        at = step(view, at, part, spec)?;
    }
    Ok(at)
}

/// The directory and name of a file that may not exist yet.
///
/// # Errors
/// The directory does not exist, or the path has no last part that can be a name.
pub fn resolve_parent(view: View<'_>, cwd: BlockNo, spec: &[u8]) -> Result<Parent> {
    let (mut at, rest) = start(view, cwd, spec)?;
    let mut names: Vec<&[u8]> = parts(rest).collect();
    let Some(name) = names.pop() else {
        return Err(failed(spec, "names no file to make"));
    };
    if name == b"." || name == b".." {
        return Err(failed(spec, "\".\" and \"..\" cannot be made"));
    }
    if name.len() > crate::layout::MAX_NAME {
        return Err(failed(spec, "a name has at most 255 bytes"));
    }
    if name.contains(&0) {
        return Err(failed(spec, "a name cannot hold a NUL byte"));
    }
    for part in names {
        at = step(view, at, part, spec)?;
    }
    let directory = inode::read(view, at)?;
    if directory.file_type() != Some(FileType::Directory) {
        return Err(failed(spec, "its parent is no directory"));
    }
    Ok(Parent {
        directory: at,
        name: name.to_vec(),
    })
}

fn start<'a>(view: View<'_>, cwd: BlockNo, spec: &'a [u8]) -> Result<(BlockNo, &'a [u8])> {
    if let Some(rest) = spec.strip_prefix(b"<") {
        let close = rest.iter().position(|&b| b == b'>');
        let number = close
            .and_then(|end| std::str::from_utf8(&rest[..end]).ok())
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| failed(spec, "an inode is given as <number>"))?;
        let behind = close.map_or(&[][..], |end| &rest[end + 1..]);
        return Ok((BlockNo(number), behind));
    }
    if let Some(rest) = spec.strip_prefix(b"//") {
        return Ok((view.info().system_dir, rest));
    }
    if let Some(rest) = spec.strip_prefix(b"/") {
        return Ok((view.info().root, rest));
    }
    if spec.is_empty() {
        return Err(failed(spec, "an empty name"));
    }
    Ok((cwd, spec))
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

fn step(view: View<'_>, at: BlockNo, part: &[u8], spec: &[u8]) -> Result<BlockNo> {
    let directory = inode::read(view, at)?;
    if directory.file_type() != Some(FileType::Directory) {
        return Err(failed(spec, "a part of it is no directory"));
    }
    dir::lookup(view, &directory, part)?.ok_or_else(|| failed(spec, "no such file or directory"))
}
