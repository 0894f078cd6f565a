//! `unshare`: files get all of their clusters for themselves.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;
use cowfs_format::layout::DynFeatures;
use cowfs_format::ops;
use cowfs_format::read::inode;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::txn::Timestamp;
use cowfs_format::volume::scan::Scanner;
use serde::Serialize;

use crate::volume::{Common, Steps, files_below, in_steps};

/// Arguments of `unshare`.
#[derive(Debug, Args)]
pub(crate) struct UnshareArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Files, and directories with all that is below them
    #[arg(required = true)]
    pub(crate) paths: Vec<OsString>,
}

/// What `unshare` did.
#[derive(Debug, Serialize)]
struct Unshared {
    schema: u32,
    dry_run: bool,
    files: u64,
    /// Files that belonged to a refcount tree, and do not any more.
    unshared_files: u64,
    copied_bytes: u64,
    #[serde(flatten)]
    steps: Steps,
    replayed_transactions: u32,
}

pub(crate) fn run(args: &UnshareArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let volume = &mut opened.volume;
    let scanner = Scanner::new(None)?;
    let inodes = files_below(&scanner, volume.view(), &args.paths)?;
    let now = Timestamp::now();
    let (mut unshared, mut copied) = (0, 0);
    let mut left = inodes.iter().copied().peekable();
    let steps = in_steps(volume, |txn, most| {
        while let Some(blkno) = left.peek().copied() {
            if txn.journal_load() >= most {
                return Ok(false);
            }
            let features = inode::read(txn.view(), blkno)?.dyn_features();
            if features.contains(DynFeatures::HAS_REFCOUNT) {
                copied += ops::make_own(txn, blkno, now)?;
                unshared += 1;
            }
            left.next();
        }
        Ok(true)
    });
    let steps = steps.context("cannot unshare")?;
    let result = Unshared {
        schema: 1,
        dry_run: args.common.dry_run,
        files: inodes.len() as u64,
        unshared_files: unshared,
        copied_bytes: copied << volume.view().geo().cluster_bits(),
        steps,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("were", "would be");
        writeln!(
            out,
            "{unshared} of {} files {verb} unshared, {} copied",
            result.files,
            show_size(result.copied_bytes)
        )?;
        steps.tell(out)
    })
}
