//! `debugfs.cowfs`: looks into volumes. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    debugfs_cowfs::run(std::env::args_os())
}
