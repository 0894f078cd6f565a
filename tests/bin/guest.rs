//! Boots a guest by hand: the quickest way to ask the driver something.
//!
//! ```text
//! guest fetch                                  fetch both kernels
//! guest run [-k 6.1|6.12] [-d IMAGE]... SCRIPT run a script (a file, or - for stdin) with these disks
//! guest walk [-k 6.1|6.12] IMAGE               print the volume as the driver shows it
//! ```

use anyhow::{Context, Result, bail};
use cowfs_tests::{Ending, Guest, Kernel, kernel, walk};
use std::process::ExitCode;

const USAGE: &str = "usage: guest fetch | guest run [-k 6.1|6.12] [-d IMAGE]... SCRIPT | guest walk [-k 6.1|6.12] IMAGE";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("guest: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let verb = args.next().context(USAGE)?;
    let (mut kernel, mut disks, mut operand) = (Kernel::V6_1, Vec::new(), None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-k" => {
                kernel = args
                    .next()
                    .and_then(|k| Kernel::of_series(&k))
                    .context(USAGE)?
            }
            "-d" => disks.push(args.next().context(USAGE)?),
            _ if operand.is_none() => operand = Some(arg),
            _ => bail!(USAGE),
        }
    }
    match (verb.as_str(), operand) {
        ("fetch", None) => {
            for kernel in Kernel::ALL {
                kernel::prepare(kernel)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ("run", Some(script)) => {
            let script = match script.as_str() {
                "-" => std::io::read_to_string(std::io::stdin())?,
                file => {
                    std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?
                }
            };
            let said = disks
                .iter()
                .fold(Guest::new(kernel)?, Guest::disk)
                .run(&script)?;
            print!("{}", said.stdout);
            eprint!("{}", said.console);
            for line in &said.kernel_log {
                eprintln!("kernel: {line}");
            }
            eprintln!("{:?} after {:.1?}", said.ending, said.took);
            let well = matches!(
                (said.ending, said.status),
                (Ending::PoweredOff, Some(0)) | (Ending::Crashed, _)
            );
            Ok(if well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        ("walk", Some(image)) => {
            let said = Guest::new(kernel)?
                .read_only_disk(image)
                .run("mount_vol ro; walk_vol it; umount_vol")?;
            print!("{}", walk::to_text(&said.success()?.walk("it")?));
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!(USAGE),
    }
}
