//! A writer of cpio archives in the `newc` form, which the kernel unpacks as its first file system.
//!
//! Writing them here rather than through `cpio` needs neither that program nor root: device nodes are mere numbers.
//! The kernel accepts several archives one behind another; later ones add to or replace what earlier ones brought.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHAR_DEVICE: u32 = 0o020_600;

/// An archive being written.
#[derive(Debug)]
pub struct Archive<W: Write> {
    to: W,
    entries: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub fn new(to: W) -> Self {
        Self {
            to,
            entries: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory and the directories above it; adding one twice is no mistake.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..]
                .find('/')
                .map_or(path.len(), |n| end + 1 + n);
            if self.directories.insert(path[..end].to_owned()) {
                self.entry(&path[..end], DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// Adds an executable file with these contents, and the directories above it.
    pub fn file(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, EXECUTABLE, (0, 0), contents)
    }

    /// Adds a symbolic link, and the directories above it.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    /// Adds a character device, and the directories above it.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, CHAR_DEVICE, (major, minor), &[])
    }

    /// Ends the archive and hands the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            Some(above) => self.directory(above),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        rdev: (u32, u32),
        contents: &[u8],
    ) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.entries += 1;
        let size = u32::try_from(contents.len())
            .map_err(|_| io::Error::other("file too large for cpio"))?;
        let name_size = u32::try_from(path.len() + 1)
            .map_err(|_| io::Error::other("name too long for cpio"))?;
        let links = 1;
        write!(
            self.to,
            "070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}",
            self.entries, 0, 0, 0
        )?;
        write!(
            self.to,
            "{:08X}{:08X}{:08X}{:08X}{name_size:08X}{:08X}",
            0, 0, rdev.0, rdev.1, 0
        )?;
        self.to.write_all(path.as_bytes())?;
        self.padding(110 + path.len() + 1, 1)?;
        self.to.write_all(contents)?;
        self.padding(contents.len(), 0)
    }

    /// Writes `extra` zeros and as many more as bring a run of `length` bytes to a multiple of four.
    fn padding(&mut self, length: usize, extra: usize) -> io::Result<()> {
        let zeros = [0_u8; 4];
        self.to.write_all(&zeros[..extra])?;
        self.to.write_all(&zeros[..(4 - length % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_start_at_multiples_of_four() {
        for name in ["a", "ab", "abc", "abcd"] {
            let mut archive = Archive::new(Vec::new());
            archive.file(name, b"12345").unwrap();
            let bytes = archive.finish().unwrap();
            let magics: Vec<usize> = bytes
                .windows(6)
                .enumerate()
                .filter(|(_, w)| w == b"070701")
                .map(|(at, _)| at)
                .collect();
            assert_eq!(magics.len(), 2);
            assert!(magics.iter().all(|at| at % 4 == 0), "{name}: {magics:?}");
            assert_eq!(bytes.len() % 4, 0);
        }
    }

    #[test]
    fn directories_come_once_and_before_what_they_hold() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b/c", b"").unwrap();
        archive.file("/a/b/d", b"").unwrap();
        let text = String::from_utf8(archive.finish().unwrap()).unwrap();
        let names: Vec<&str> = text
            .split("070701")
            .skip(1)
            .map(|e| e[104..].trim_matches('\0'))
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
    }
}
