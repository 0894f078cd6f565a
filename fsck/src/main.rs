//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    ExitCode::from(fsck_cowfs::run(std::env::args_os(), &mut out, &mut err))
}
