//! `clone`: one file, one transaction.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::device::{DeviceMut, OverlayDevice};
use cowfs_format::layout::FileType;
use cowfs_format::ops;
use cowfs_format::read::inode;
use cowfs_format::toolkit::alone::alone;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::toolkit::{open, undo};
use cowfs_format::volume::Volume;
use cowfs_format::volume::path::{self, Parent};
use serde::Serialize;

use crate::cli::CloneArgs;
use crate::volume::{clone_options, shown};

/// What a clone did.
#[derive(Debug, Serialize)]
struct Cloned {
    schema: u32,
    dry_run: bool,
    source: String,
    target: String,
    source_inode: u64,
    target_inode: u64,
    size_bytes: u64,
    shared_bytes: u64,
    /// Space that the clone took for its own metadata, in blocks written.
    journaled_blocks: usize,
    new_blocks: usize,
    /// Transactions found in dirty journals and finished first.
    replayed_transactions: u32,
}

pub(crate) fn run(args: &CloneArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let name = args.volume.display().to_string();
    let cloned = if args.dry_run {
        // The same work over an overlay: nothing reaches the volume.
        let device = OverlayDevice::new(open::read_only(&args.volume)?);
        clone(Volume::open(device).context(name)?, args, err)?
    } else {
        let device = undo::writable(&args.volume, args.undo.as_deref())?;
        clone(Volume::open(device).context(name)?, args, err)?
    };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&cloned)?)?;
    } else if !args.quiet {
        let verb = if args.dry_run {
            "would share"
        } else {
            "shares"
        };
        writeln!(
            out,
            "{}: {verb} {} of {} with {}",
            cloned.target,
            show_size(cloned.shared_bytes),
            show_size(cloned.size_bytes),
            cloned.source
        )?;
    }
    Ok(())
}

fn clone<D: DeviceMut>(
    mut volume: Volume<D>,
    args: &CloneArgs,
    err: &mut dyn Write,
) -> Result<Cloned> {
    alone(&mut volume, "reflink.cowfs", err)?;
    let recovered = volume.recover()?;
    let view = volume.view();
    let root = view.info().root;
    let source = path::resolve(view, root, args.source.as_bytes())?;
    let target = place(&volume, args)?;
    let target_name = shown(&target.name);
    let options = clone_options(args.preserve);
    let mut txn = volume.begin()?;
    let made = ops::clone_file(&mut txn, source, target.directory, &target.name, &options)
        .with_context(|| {
            format!(
                "cannot clone {} to {target_name}",
                shown(args.source.as_bytes())
            )
        })?;
    let (size_bytes, shared_bytes) = {
        let view = txn.view();
        let inode = inode::read(view, made)?;
        let shared: u64 = inode
            .extents(view)?
            .iter()
            .map(|e| u64::from(e.clusters))
            .sum();
        (
            inode.i_size.get(),
            (shared << view.geo().cluster_bits()).min(inode.i_size.get()),
        )
    };
    let committed = txn.commit()?;
    Ok(Cloned {
        schema: 1,
        dry_run: args.dry_run,
        source: shown(args.source.as_bytes()),
        target: shown(args.target.as_bytes()),
        source_inode: source.0,
        target_inode: made.0,
        size_bytes,
        shared_bytes,
        journaled_blocks: committed.journaled,
        new_blocks: committed.fresh,
        replayed_transactions: recovered.replayed.iter().map(|(_, count, _)| count).sum(),
    })
}

/// Where the clone goes: the path itself, or the source's name in the directory that it names.
fn place<D: DeviceMut>(volume: &Volume<D>, args: &CloneArgs) -> Result<Parent> {
    let view = volume.view();
    let root = view.info().root;
    let target = args.target.as_bytes();
    let Ok(existing) = path::resolve(view, root, target) else {
        return Ok(path::resolve_parent(view, root, target)?);
    };
    if inode::read(view, existing)?.file_type() != Some(FileType::Directory) {
        bail!(
            "{}: a file of that name exists; remove it first or choose another",
            shown(target)
        );
    }
    let name = args
        .source
        .as_bytes()
        .rsplit(|b| *b == b'/')
        .find(|part| !part.is_empty());
    match name {
        Some(name) if !name.starts_with(b"<") => Ok(Parent {
            directory: existing,
            name: name.to_vec(),
        }),
        _ => bail!("{}: is a directory; name the clone", shown(target)),
    }
}
