//! Arguments of `reflink.cowfs`, and what runs for each verb.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use cowfs_format::device::DeviceMut;

use crate::clone::CloneArgs;
use crate::dedupe::DedupeArgs;
use crate::snap::{RestoreArgs, SnapArgs};
use crate::unshare::UnshareArgs;
use crate::usage::{DeltaArgs, DuArgs};
use crate::vm::VmVerb;
use crate::volume::Common;
use crate::{clone, dedupe, demo, snap, unshare, usage};

/// Clone, keep and deduplicate files copy-on-write on a volume that nobody has mounted
#[derive(Debug, Parser)]
#[command(
    name = "reflink.cowfs",
    version,
    long_about = "Clones files and trees copy-on-write on an unmounted OCFS2 volume, keeps and restores \
        snapshots of them, finds what is stored twice, and tells who shares what with whom. A clone \
        takes no space for its data until one side is written. Every change is a transaction through \
        the volume's own journal: after a crash the volume is as before or as after, whoever opens it \
        next. What does not fit one transaction is done in several, each of which leaves a sound \
        volume; the result says how many, and so does the message should a later one fail.\n\n\
        -n is the dry run of every verb that writes: all of it is done, in memory only.\n\n\
        Paths are inside the volume: /path from its root directory, //name from its system \
        directory, <number> an inode by its block.\n\n\
        Exit status: 0 done, 1 not done (one line on stderr says why; the volume is as before, or as \
        after the last whole transaction where the line says so)."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Clone files and trees: the clones share all clusters until one side is written
    ///
    /// Several sources go into a directory. The clone of a tree is one transaction where that fits
    /// the journal; a larger one is made in steps, each of which leaves a sound volume, and the
    /// result says so.
    Clone(CloneArgs),
    /// Keep once what files hold twice
    ///
    /// Looks for equal parts among the files: first windows of 1 MiB that begin at multiples of 1 MiB
    /// in their files, and the shorter ends of files, so also for whole files; then runs of clusters
    /// that begin anywhere. What is equal, byte for byte, comes to share the clusters that most files
    /// map already. The contents, times and quota of files stay as they are. Refcount trees are merged
    /// where that is needed. No file comes to map a cluster twice: what a file holds twice by itself
    /// stays. Of more than 16 GiB of different data (with clusters of 4 KiB) only some clusters are
    /// remembered, and short runs may be missed.
    Dedupe(DedupeArgs),
    /// Keep a file or tree as it is at this moment, read-only
    ///
    /// The snapshot shares all clusters with what it was taken of, and keeps owners, modes, times and
    /// attributes. All that is in it is marked as immutable: a mounted volume refuses to change it
    /// (chattr -i takes the mark away), and so do these programs.
    Snap(SnapArgs),
    /// Make a file or tree what a snapshot of it is
    ///
    /// The clone of the snapshot is made beside the target and takes its place in one transaction;
    /// what stood there is removed. The snapshot stays.
    Restore(RestoreArgs),
    /// Give files copies of their own of all clusters that they share
    ///
    /// Data and large extended attributes are copied; then the files belong to no refcount tree any
    /// more, and a tree that nobody belongs to is gone. Contents stay as they are.
    Unshare(UnshareArgs),
    /// Show the space that files and directories take, alone and shared
    ///
    /// Exclusive is what would become free if the path were removed; Shared, what others map too.
    /// The columns are those of du of debugfs.cowfs.
    Du(DuArgs),
    /// Show which ranges of two files are shared, equal, different, or in one only
    Delta(DeltaArgs),
    /// Clone, keep and remove virtual machines of Oracle VM, on a repository volume
    ///
    /// Repositories of Oracle VM 2 (running_pool, seed_pool) and 3 (VirtualMachines, Templates,
    /// VirtualDisks) are understood. Each verb is one transaction; only a removal that does not fit
    /// one is made in steps. Configurations (vm.cfg) are read as literals, never executed, and
    /// changed only where they must be.
    #[command(subcommand)]
    Vm(VmVerb),
    /// Show what copy-on-write does, on a volume made in a temporary directory
    Demo(DemoArgs),
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

impl Verb {
    /// What the verbs that write have in common.
    const fn common(&self) -> Option<&Common> {
        match self {
            Self::Clone(args) => Some(&args.common),
            Self::Dedupe(args) => Some(&args.common),
            Self::Snap(args) => Some(&args.common),
            Self::Restore(args) => Some(&args.common),
            Self::Unshare(args) => Some(&args.common),
            Self::Vm(verb) => verb.common(),
            Self::Du(_) | Self::Delta(_) | Self::Demo(_) => None,
        }
    }

    fn json(&self) -> bool {
        match self {
            Self::Du(args) => args.json,
            Self::Delta(args) => args.json,
            Self::Vm(VmVerb::Ls(args)) => args.json,
            _ => self.common().is_some_and(|common| common.json),
        }
    }
}

/// Runs the program and tells its exit status.
pub fn run<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    start(args, None, out, err)
}

/// Runs a verb that writes on a device, instead of opening the volume that the arguments name: for
/// devices that fail.
pub fn run_on<I, T>(
    device: Box<dyn DeviceMut>,
    args: I,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    start(args, Some(device), out, err)
}

fn start<I, T>(
    args: I,
    device: Option<Box<dyn DeviceMut>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8
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
    if let (Some(device), Some(common)) = (device, cli.verb.common()) {
        common.given.replace(Some(device));
    }
    let done = match &cli.verb {
        Verb::Clone(args) => clone::run(args, out, err),
        Verb::Dedupe(args) => dedupe::run(args, out, err),
        Verb::Snap(args) => snap::snap(args, out, err),
        Verb::Restore(args) => snap::restore(args, out, err),
        Verb::Du(args) => usage::du(args, out, err),
        Verb::Delta(args) => usage::delta(args, out),
        Verb::Vm(verb) => verb.run(out, err),
        Verb::Unshare(args) => unshare::run(args, out, err),
        Verb::Demo(args) => demo::run(args, out),
    };
    match done {
        Ok(()) => 0,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) if error.is::<Told>() => 1,
        Err(error) => {
            if cli.verb.json() {
                let report = serde_json::json!({ "schema": 1, "error": format!("{error:#}") });
                let _ = writeln!(out, "{report:#}");
            }
            let _ = writeln!(err, "reflink.cowfs: {error:#}");
            1
        }
    }
}

/// The failure of a verb that has told why already.
#[derive(Debug, thiserror::Error)]
#[error("something could not be read")]
pub(crate) struct Told;

/// Nobody reads what is printed any more: no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
