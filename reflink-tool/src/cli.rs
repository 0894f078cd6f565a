//! Arguments of `reflink.cowfs`, and what runs for each verb.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::dedupe::DedupeArgs;
use crate::{clone, dedupe, demo};

/// Clone files copy-on-write on a volume that nobody has mounted
#[derive(Debug, Parser)]
#[command(
    name = "reflink.cowfs",
    version,
    long_about = "Clones files copy-on-write on an unmounted OCFS2 volume: the clone takes no space \
        for its data until one of the two is written. Every change is one transaction through the \
        volume's own journal: after a crash the volume is as before or as after, whoever opens it \
        next.\n\n\
        Paths are inside the volume: /path from its root directory, //name from its system \
        directory, <number> an inode by its block.\n\n\
        Exit status: 0 done, 1 not done (one line on stderr says why, and the volume is as before)."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Clone a file: both share all clusters until one is written
    Clone(CloneArgs),
    /// Keep once what files hold twice
    ///
    /// Looks for equal parts among the files: windows of 1 MiB that begin at multiples of 1 MiB in
    /// their files, at the same place or another, and the shorter ends of files; so also for whole
    /// files. What is equal, byte for byte, comes to share the clusters that most files map already.
    /// The contents, times and quota of files stay as they are. Refcount trees are merged where that
    /// is needed. No file comes to map a cluster twice: what a file holds twice by itself stays.
    Dedupe(DedupeArgs),
    /// Show what copy-on-write does, on a volume made in a temporary directory
    Demo(DemoArgs),
}

/// Arguments of `clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Keep owner, mode, times, attributes and extended attributes
    ///
    /// Without this the clone has the permission bits of the source, belongs to whoever runs the
    /// program, is dated now, and has no extended attributes, as with `cp --reflink`.
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Do everything but write; say what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing when all is well
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Save what is written over in FILE first; `fsck.cowfs --rollback FILE` puts it back
    #[arg(long, value_name = "FILE")]
    pub(crate) undo: Option<PathBuf>,
    /// The volume: an image file or block device that is not mounted
    pub(crate) volume: PathBuf,
    /// The file to clone, inside the volume
    pub(crate) source: OsString,
    /// The clone: a path that does not exist yet, or a directory to put it into
    pub(crate) target: OsString,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the volume, in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// The command, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program and tells its exit status.
pub fn run<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            let to: &mut dyn Write = if usage { err } else { out };
            let _ = write!(to, "{}", error.render());
            return u8::from(usage);
        }
    };
    let (json, done) = match &cli.verb {
        Verb::Clone(args) => (args.json, clone::run(args, out, err)),
        Verb::Dedupe(args) => (args.common.json, dedupe::run(args, out, err)),
        Verb::Demo(args) => (false, demo::run(args, out)),
    };
    match done {
        Ok(()) => 0,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            if json {
                let report = serde_json::json!({ "schema": 1, "error": format!("{error:#}") });
                let _ = writeln!(out, "{report:#}");
            }
            let _ = writeln!(err, "reflink.cowfs: {error:#}");
            1
        }
    }
}

/// Nobody reads what is printed any more: no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
