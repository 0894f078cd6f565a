//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fsck_cowfs::run(
        std::env::args_os(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    )
}
