//! Packs and unpacks the inputs that fuzzing keeps:  fuzz-corpus keep|unpack TARGET FOLDER

use std::path::Path;
use std::process::ExitCode;

use cowfs_tests::fuzz;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["keep", target, folder] => fuzz::keep(target, Path::new(folder)),
        ["unpack", target, folder] => fuzz::unpack(target, Path::new(folder)),
        _ => {
            eprintln!("usage: fuzz-corpus keep|unpack TARGET FOLDER");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(count) => {
            println!("{count} inputs");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fuzz-corpus: {error:#}");
            ExitCode::FAILURE
        }
    }
}
