//! How much memory a run may use, and an end to it when it uses more.
//!
//! A process in a control group dies without a word when the group's limit is reached, and one that
//! fills the machine takes others with it. [`available`] says what there is to be had; a [`Guard`]
//! watches what the process has taken and pulls a switch when that is more than it may.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a guard looks.
const TICK: Duration = Duration::from_millis(5);

/// Bytes that this process may still take: what the machine has left, and what each control group
/// that the process is in has left. `None` where the system does not say.
#[must_use]
pub fn available() -> Option<u64> {
    let machine = number_of("/proc/meminfo", "MemAvailable:");
    groups().into_iter().chain(machine).min()
}

/// Bytes of memory of its own that this process has: mapped files are not counted.
#[must_use]
pub fn used() -> Option<u64> {
    number_of("/proc/self/status", "RssAnon:")
}

/// The most memory, of any kind, that this process had at a time.
#[must_use]
pub fn peak() -> Option<u64> {
    number_of("/proc/self/status", "VmHWM:")
}

/// A number of KiB behind a word at the start of a line, in bytes.
fn number_of(path: &str, word: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// What is left in each control group, of either version.
fn groups() -> Vec<u64> {
    let Ok(text) = fs::read_to_string("/proc/self/cgroup") else {
        return Vec::new();
    };
    let of = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some(match controllers {
            "" => (
                "/sys/fs/cgroup",
                ["memory.max", "memory.current"],
                path.to_owned(),
            ),
            list if list.split(',').any(|name| name == "memory") => (
                "/sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                path.to_owned(),
            ),
            _ => return None,
        })
    };
    let mut left = Vec::new();
    for (top, files, path) in text.lines().filter_map(of) {
        let group = PathBuf::from(top).join(path.trim_start_matches('/'));
        // Each group above bounds the ones below it. In a container the path may name nothing here.
        let above = group.ancestors().take_while(|dir| dir.starts_with(top));
        left.extend(above.filter_map(|dir| left_in(dir, files)));
    }
    left
}

/// What is left in one control group; `None` when it has no limit.
fn left_in(dir: &Path, [limit, usage]: [&str; 2]) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
    };
    let limit = number(limit)?;
    // The page cache counts as used, but gives way.
    let cache = fs::read_to_string(dir.join("memory.stat")).ok();
    let cache = cache.and_then(|text| {
        let words = ["inactive_file ", "total_inactive_file "];
        let line = |word| text.lines().find_map(|line| line.strip_prefix(word));
        words.into_iter().find_map(line)?.trim().parse::<u64>().ok()
    });
    let usage = number(usage)?.saturating_sub(cache.unwrap_or(0));
    Some(limit.saturating_sub(usage))
}

/// Watches that the process takes no more memory than a limit.
#[derive(Debug)]
pub struct Guard {
    exceeded: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Watches from now on, and sets `stop` when the process has more than `limit` bytes.
    #[must_use]
    pub fn start(limit: u64, stop: Arc<AtomicBool>) -> Self {
        let (exceeded, ended) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, end) = (Arc::clone(&exceeded), Arc::clone(&ended));
        let watch = move || {
            while !end.load(Ordering::Relaxed) {
                // Where nothing can be seen there is nothing to watch.
                let Some(used) = used() else { return };
                if used > limit {
                    seen.store(true, Ordering::Relaxed);
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                std::thread::park_timeout(TICK);
            }
        };
        let thread = Some(std::thread::spawn(watch));
        Self {
            exceeded,
            ended,
            thread,
        }
    }

    /// Whether the limit was exceeded.
    #[must_use]
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_seen_and_bounded() {
        let before = used().unwrap();
        assert!(before > 0 && available().unwrap() > 0 && peak().unwrap() >= before);
        let stop = Arc::new(AtomicBool::new(false));
        let guard = Guard::start(before + (64 << 20), Arc::clone(&stop));
        std::thread::sleep(4 * TICK);
        assert!(!guard.exceeded());
        let taken = vec![1u8; 256 << 20];
        for _ in 0..200 {
            if guard.exceeded() {
                break;
            }
            std::thread::sleep(TICK);
        }
        assert!(guard.exceeded() && stop.load(Ordering::Relaxed));
        drop(taken);
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let files = ["memory.max", "memory.current"];
        put("memory.max", "max\n");
        put("memory.current", "4096\n");
        assert_eq!(left_in(dir.path(), files), None);
        put("memory.max", "10000\n");
        assert_eq!(left_in(dir.path(), files), Some(5904));
        put("memory.stat", "anon 1\ninactive_file 96\n");
        assert_eq!(left_in(dir.path(), files), Some(6000));
    }
}
