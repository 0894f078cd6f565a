//! `reflink.cowfs`: see the library.

use std::io::{stderr, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    let code = reflink_cowfs::run(
        std::env::args_os(),
        &mut stdout().lock(),
        &mut stderr().lock(),
    );
    ExitCode::from(code)
}
