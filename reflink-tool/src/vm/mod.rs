//! `vm`: machines on a repository volume of Oracle VM, cloned and kept whole: directory, disks and
//! configuration in one transaction.

mod config;
mod fresh;
mod list;
mod machine;
mod make;

use std::ffi::OsString;
use std::io::Write;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::volume::Common;

/// The verbs for machines.
#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// List machines and templates with their disks, the space that is theirs alone, and snapshots
    Ls(ListArgs),
    /// Clone a machine or template to a new machine
    ///
    /// The new machine has clones of the disks, and a configuration with a name, UUID, MAC addresses
    /// and paths of its own. They are random, unless SOURCE_DATE_EPOCH is in the environment: then the
    /// same clone of the same machine is the same, bit for bit.
    Clone(MakeArgs),
    /// Clone a machine to a template, which has no MAC addresses
    Template(MakeArgs),
    /// Keep a machine's disks and configuration as they are now
    Snap(SnapshotArgs),
    /// Put a machine back to a snapshot, which stays
    Rollback(SnapshotArgs),
    /// Remove a machine or template with its disks and snapshots, or one snapshot of it
    Rm(RemoveArgs),
}

/// Where the repository is.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The directory of the volume that holds running_pool or VirtualMachines
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) repository: OsString,
}

/// Arguments of `vm ls`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) at: Where,
    /// The volume: an image file or block device
    pub(crate) volume: std::path::PathBuf,
}

/// Arguments of `vm clone` and `vm template`.
#[derive(Debug, Args)]
pub(crate) struct MakeArgs {
    #[command(flatten)]
    pub(crate) at: Where,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The machine or template: its name, or that of its directory
    pub(crate) source: String,
    /// Name of the new one
    pub(crate) name: String,
}

/// Arguments of `vm snap` and `vm rollback`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) at: Where,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The machine: its name, or that of its directory
    pub(crate) machine: String,
    /// Name of the snapshot
    pub(crate) snapshot: String,
}

/// Arguments of `vm rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Remove this snapshot of the machine, and nothing else
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) at: Where,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The machine or template: its name, or that of its directory
    pub(crate) machine: String,
}

impl VmVerb {
    pub(crate) const fn common(&self) -> Option<&Common> {
        match self {
            Self::Ls(_) => None,
            Self::Clone(args) | Self::Template(args) => Some(&args.common),
            Self::Snap(args) | Self::Rollback(args) => Some(&args.common),
            Self::Rm(args) => Some(&args.common),
        }
    }

    pub(crate) fn run(&self, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
        match self {
            Self::Ls(args) => list::run(args, out, err),
            Self::Clone(args) => make::clone(args, false, out, err),
            Self::Template(args) => make::clone(args, true, out, err),
            Self::Snap(args) => make::snap(args, out, err),
            Self::Rollback(args) => make::rollback(args, out, err),
            Self::Rm(args) => make::remove(args, out, err),
        }
    }
}
