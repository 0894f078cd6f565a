//! Names of files inside a volume: `/path`, `//system file`, `<inode>`, `<lock name>`.
//!
//! Symbolic links on the way are followed, as everywhere; one that stands last is not, unless a
//! slash comes behind it. `..` does not lead out of the root directory.

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::FileType;
use crate::read::file::FileReader;
use crate::read::{dir, inode};
use crate::units::{BlockNo, index};
use crate::volume::lockname::LockName;

/// Symbolic links that are followed for one name, as many as Linux follows.
const MAX_LINKS: u32 = 40;
/// Bytes of a path at most, and so of the target of a link.
const MAX_PATH: u64 = 4096;

/// Where names begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The root directory, where `/path` begins.
    pub root: BlockNo,
    /// The current directory.
    pub cwd: BlockNo,
}

/// A path whose last part need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The directory.
    pub directory: BlockNo,
    /// The last part.
    pub name: Vec<u8>,
}

/// What a path names, or nothing when it names nothing. That a block on the way cannot be read is no
/// answer to that.
///
/// # Errors
/// A block on the way is damaged, or the device fails.
pub fn absent<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Path { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(path: &[u8], why: &'static str) -> Error {
    Error::Path {
        path: String::from_utf8_lossy(path).into_owned(),
        why,
    }
}

/// The inode that a file specification names: `/path` from the root directory, `//path` from the
/// system directory, `<number>` an inode by its block (also `<0x...>`, or the name of its lock),
/// anything else from `cwd`.
///
/// # Errors
/// Nothing has that name, or a directory on the way is damaged.
pub fn resolve(view: View<'_>, cwd: BlockNo, spec: &[u8]) -> Result<BlockNo> {
    let root = view.info().root;
    resolve_from(view, Base { root, cwd }, spec)
}

/// As [`resolve`], with a root directory of one's own.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_from(view: View<'_>, base: Base, spec: &[u8]) -> Result<BlockNo> {
    let (at, rest) = start(view, base, spec)?;
    let follow_last = rest.ends_with(b"/") || rest.ends_with(b"/.");
    walk(view, base, at, rest, follow_last, spec)
}

/// The directory and name of a file that may not exist yet.
///
/// # Errors
/// The directory does not exist, or the path has no last part that can be a name.
pub fn resolve_parent(view: View<'_>, cwd: BlockNo, spec: &[u8]) -> Result<Parent> {
    let root = view.info().root;
    resolve_parent_from(view, Base { root, cwd }, spec)
}

/// As [`resolve_parent`], with a root directory of one's own.
///
/// # Errors
/// As [`resolve_parent`].
pub fn resolve_parent_from(view: View<'_>, base: Base, spec: &[u8]) -> Result<Parent> {
    let (at, rest) = start(view, base, spec)?;
    let end = rest.iter().rposition(|&b| b != b'/');
    let rest = end.map_or(&[][..], |end| rest.get(..=end).unwrap_or_default());
    let cut = rest.iter().rposition(|&b| b == b'/');
    let (way, name) = cut.map_or((&[][..], rest), |cut| {
        let (way, name) = rest.split_at(cut);
        (way, name.get(1..).unwrap_or_default())
    });
    if name.is_empty() {
        return Err(failed(spec, "names no file to make"));
    }
    if name == b"." || name == b".." {
        return Err(failed(spec, "\".\" and \"..\" cannot be made"));
    }
    if name.len() > crate::layout::MAX_NAME {
        return Err(failed(spec, "a name has at most 255 bytes"));
    }
    if name.contains(&0) {
        return Err(failed(spec, "a name cannot hold a NUL byte"));
    }
    let at = walk(view, base, at, way, true, spec)?;
    let directory = inode::read(view, at)?;
    if directory.file_type() != Some(FileType::Directory) {
        return Err(failed(spec, "its parent is no directory"));
    }
    Ok(Parent {
        directory: at,
        name: name.to_vec(),
    })
}

fn start<'a>(view: View<'_>, base: Base, spec: &'a [u8]) -> Result<(BlockNo, &'a [u8])> {
    if let Some(rest) = spec.strip_prefix(b"<") {
        let wrong = || failed(spec, "an inode is given as <number> or <lock name>");
        let close = rest.iter().position(|&b| b == b'>').ok_or_else(wrong)?;
        let (inner, behind) = rest.split_at(close);
        let blkno = block(inner.trim_ascii()).ok_or_else(wrong)?;
        return Ok((blkno, behind.get(1..).unwrap_or_default()));
    }
    if let Some(rest) = spec.strip_prefix(b"//") {
        return Ok((view.info().system_dir, rest));
    }
    if let Some(rest) = spec.strip_prefix(b"/") {
        return Ok((base.root, rest));
    }
    if spec.is_empty() {
        return Err(failed(spec, "an empty name"));
    }
    Ok((base.cwd, spec))
}

/// A block given as a number, as `0x` and a hexadecimal number, or by the name of its lock.
#[must_use]
pub fn block(word: &[u8]) -> Option<BlockNo> {
    if let Some(name) = LockName::parse(word) {
        return Some(name.blkno);
    }
    let text = std::str::from_utf8(word).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().map(BlockNo)
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

/// Follows a path from a directory on.
fn walk(
    view: View<'_>,
    base: Base,
    mut at: BlockNo,
    path: &[u8],
    follow_last: bool,
    spec: &[u8],
) -> Result<BlockNo> {
    // The next part is the last one of the list.
    let mut left: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
    let mut links = 0;
    while let Some(part) = left.pop() {
        let directory = inode::read(view, at)?;
        if directory.file_type() != Some(FileType::Directory) {
            return Err(failed(spec, "a part of it is no directory"));
        }
        if part == b".." && (at == base.root || at == view.info().system_dir) {
            continue;
        }
        let next = dir::lookup(view, &directory, &part)?
            .ok_or_else(|| failed(spec, "no such file or directory"))?;
        if !left.is_empty() || follow_last {
            let inode = inode::read(view, next)?;
            if inode.file_type() == Some(FileType::Symlink) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(failed(spec, "too many symbolic links"));
                }
                let file = FileReader::open(view, &inode)?;
                let mut target = vec![0; index(file.size().min(MAX_PATH))];
                file.read_at(0, &mut target)?;
                if target.starts_with(b"/") {
                    at = base.root;
                }
                left.extend(parts(&target).rev().map(<[u8]>::to_vec));
                continue;
            }
        }
        at = next;
    }
    Ok(at)
}
