//! ocfs2-tools as oracles: `mkfs.ocfs2`, `fsck.ocfs2`, `debugfs.ocfs2`.
//!
//! Their exit codes say nothing; what counts is what they print. `fsck.ocfs2` puts a code in brackets before each thing
//! it finds. It is wrong on some healthy volumes: see [`Report`].

use crate::place;
use crate::skip::Missing;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `fsck.ocfs2` said of a volume.
///
/// Known to be wrong on healthy volumes, and never to be imitated: `INODE_SPARSE_SIZE` on quota files grown by the
/// kernel and on files with preallocation beyond their end, `DX_TREE_MISSING` on an extent-based system directory of a
/// fresh volume, quota figures of a fresh volume. A test that meets one of these names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The codes found, in order, with repetitions.
    pub codes: Vec<String>,
    /// All it printed, the image's path replaced by `IMAGE`.
    pub transcript: String,
}

impl Report {
    /// Reads a transcript.
    pub fn of(transcript: String) -> Self {
        let codes = transcript
            .lines()
            .filter_map(code)
            .map(str::to_owned)
            .collect();
        Self { codes, transcript }
    }

    /// True when nothing was found and the check came to its end.
    pub fn is_silent(&self) -> bool {
        self.codes.is_empty() && self.finished()
    }

    /// True when the check ran to its end, or found the volume clean and stopped.
    pub fn finished(&self) -> bool {
        [
            "All passes succeeded",
            "Pass 4b: Checking inodes link counts",
            "is clean",
        ]
        .iter()
        .any(|words| self.transcript.contains(words))
    }
}

/// The code in brackets at the head of a line, if there is one.
fn code(line: &str) -> Option<&str> {
    let (code, _) = line.strip_prefix('[')?.split_once(']')?;
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (!code.is_empty() && code.chars().all(plain)).then_some(code)
}

fn program(name: &str) -> Result<PathBuf> {
    let found = place::program(name);
    Ok(found.ok_or_else(|| Missing::new(name, "Debian's package ocfs2-tools brings it"))?)
}

/// An error of type [`Missing`] unless ocfs2-tools are here.
pub fn tools() -> Result<()> {
    for name in ["mkfs.ocfs2", "fsck.ocfs2", "debugfs.ocfs2"] {
        program(name)?;
    }
    Ok(())
}

/// The codes of the page that describes the checks of fsck.ocfs2.
///
/// # Errors
/// The page is not here.
pub fn check_codes() -> Result<Vec<String>> {
    let page = "/usr/share/man/man8/fsck.ocfs2.checks.8.gz";
    let text = Command::new("zcat").arg(page).output()?;
    let text = String::from_utf8_lossy(&text.stdout);
    let sections = text.lines().filter_map(|line| line.strip_prefix(".SS "));
    let codes: Vec<String> = sections
        .map(|code| code.trim_matches('"').to_owned())
        .collect();
    if codes.is_empty() {
        return Err(Missing::new(page, "Debian's package ocfs2-tools brings it").into());
    }
    Ok(codes)
}

/// Address space that fsck.ocfs2 gets. It fills a part of all memory with caches, which takes it far longer than the
/// check of a small volume; where it gets no more it makes do with smaller ones.
const ADDRESS_SPACE: u64 = 128 << 20;
/// Bytes of a volume for which that is enough.
const SMALL: u64 = 8 << 30;

/// `fsck.ocfs2`, for a small volume with little memory, where that can be had.
pub(crate) fn fsck(image: &Path) -> Result<Command> {
    let fsck = program("fsck.ocfs2")?;
    let small = std::fs::metadata(image).is_ok_and(|meta| meta.len() <= SMALL);
    let Some(prlimit) = place::program("prlimit").filter(|_| small) else {
        return Ok(Command::new(fsck));
    };
    let mut command = Command::new(prlimit);
    command.arg(format!("--as={ADDRESS_SPACE}")).arg(fsck);
    Ok(command)
}

fn run(name: &str, args: &[&str], image: &Path) -> Result<String> {
    if name != "fsck.ocfs2" {
        return run_as(Command::new(program(name)?), name, args, image);
    }
    let printed = run_as(fsck(image)?, name, args, image)?;
    // Now and then its caches leave too little of what it gets.
    if printed.contains("Memory allocation failed") {
        return run_as(Command::new(program(name)?), name, args, image);
    }
    Ok(printed)
}

fn run_as(mut command: Command, name: &str, args: &[&str], image: &Path) -> Result<String> {
    let ran = command
        .args(args)
        .arg(image)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let printed = [ran.stdout, ran.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).replace(&*image.to_string_lossy(), "IMAGE");
    ensure!(
        ran.status.code().is_some(),
        "{name} {args:?} died of {}:\n{printed}",
        ran.status
    );
    Ok(printed)
}

/// `fsck.ocfs2 -fn`: looks, changes nothing.
pub fn check(image: &Path) -> Result<Report> {
    run("fsck.ocfs2", &["-fn"], image).map(Report::of)
}

/// `fsck.ocfs2 -fy`: repairs. After replaying the journal of a dirty local volume it stops with a cluster error; call it
/// again.
pub fn repair(image: &Path) -> Result<Report> {
    run("fsck.ocfs2", &["-fy"], image).map(Report::of)
}

/// `debugfs.ocfs2 -R COMMAND`, read-only.
pub fn debugfs(image: &Path, command: &str) -> Result<String> {
    run("debugfs.ocfs2", &["-n", "-R", command], image)
}

/// Makes `image` a sparse file of `bytes` bytes and formats it with `mkfs.ocfs2 ARGS`.
pub fn mkfs(image: &Path, bytes: u64, args: &[&str]) -> Result<()> {
    let program = program("mkfs.ocfs2")?;
    std::fs::File::create(image)?.set_len(bytes)?;
    let ran = Command::new(program)
        .args(["-q", "-F"])
        .args(args)
        .arg(image)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("cannot run mkfs.ocfs2")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(
        ran.status.success(),
        "mkfs.ocfs2 {args:?} ended with {}: {}",
        ran.status,
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn codes_are_what_stands_in_brackets_at_the_head_of_a_line() {
        let report = Report::of(
            "[INODE_COUNT] x\n  [NOT] y\n[not] z\n[DX_TREE_MISSING] u [V]\n[]\n".to_owned(),
        );
        assert_eq!(report.codes, ["INODE_COUNT", "DX_TREE_MISSING"]);
        assert!(!report.finished());
    }
}
