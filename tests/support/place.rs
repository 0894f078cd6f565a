//! Where things lie: the source tree, cargo's target directory, programs of the host.
//!
//! What the rig fetches or builds (kernels, initial file systems, records of skipped tests) stays under the target
//! directory, so that `cargo clean` forgets it and nothing lands in the source tree.

use std::path::{Path, PathBuf};

/// The root of the workspace's source tree.
pub fn source_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Files that cargo leaves at the top of a target directory (the first only in one that it made itself).
const MARKS: [&str; 2] = ["CACHEDIR.TAG", ".rustc_info.json"];

/// Cargo's target directory: where this very program was built, or where cargo would build by default when the program
/// was copied elsewhere.
pub fn target_dir() -> PathBuf {
    let tagged = std::env::current_exe().ok().and_then(|exe| {
        exe.ancestors()
            .skip(1)
            .find(|dir| MARKS.iter().any(|mark| dir.join(mark).is_file()))
            .map(Path::to_path_buf)
    });
    tagged
        .or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(|| source_root().join("target"))
}

/// Where kernels and initial file systems are kept: `COWFS_GUEST_CACHE`, or `guest` in the target directory.
pub fn guest_cache() -> PathBuf {
    match std::env::var_os("COWFS_GUEST_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("guest"),
    }
}

/// Finds a program in `PATH` and, because administrators' programs are not in everybody's `PATH`, in the `sbin`s.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// One of our programs, as it was built beside the test that asks.
pub fn own(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    // The test lies in `deps`.
    path.pop();
    path.pop();
    path.join(name)
}
