//! `clone`: files and trees, like cp; one transaction, or as many as the journal asks for.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use cowfs_format::block::View;
use cowfs_format::error::Error;
use cowfs_format::ops::{CloneTree, Existing, Marks, TreeCloned, TreeOptions, lies_in};
use cowfs_format::read::inode;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::{self, Parent};
use serde::Serialize;

use crate::volume::{
    Common, Steps, Writable, clone_options, directory_at, in_steps, is_directory, last_part, shown,
};

/// Arguments of `clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Clone directories with all that is in them
    ///
    /// Hard links within what is cloned are hard links of the clone. A directory is never cloned
    /// into itself.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Keep owner, mode, times, attributes and extended attributes
    ///
    /// Without this the clone has the permission bits of the source, belongs to whoever runs the
    /// program, is dated now, and has no extended attributes, as with `cp --reflink`.
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Put clones in the place of files that exist; directories take in what the others hold
    #[arg(short, long, conflicts_with_all = ["interactive", "no_clobber"])]
    pub(crate) force: bool,
    /// Ask before a file is replaced; only on a terminal
    #[arg(short, long, conflicts_with = "no_clobber")]
    pub(crate) interactive: bool,
    /// Leave files that exist as they are, and clone the others (-n is the dry run, as everywhere)
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Clone all sources into this directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) target_directory: Option<OsString>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to clone, inside the volume; then, without -t, the clone: a path that does not exist
    /// yet, or a directory to put it into
    #[arg(required = true, value_name = "SOURCE... TARGET")]
    pub(crate) paths: Vec<OsString>,
}

/// A source and its clone.
#[derive(Debug, Serialize)]
struct Pair {
    source: String,
    target: String,
    source_inode: u64,
    /// `null` when nothing was cloned there.
    target_inode: Option<u64>,
}

/// What a clone did.
#[derive(Debug, Serialize)]
struct Cloned {
    schema: u32,
    dry_run: bool,
    clones: Vec<Pair>,
    files: u64,
    directories: u64,
    others: u64,
    links: u64,
    replaced: u64,
    kept: u64,
    size_bytes: u64,
    shared_bytes: u64,
    #[serde(flatten)]
    steps: Steps,
    /// Transactions found in dirty journals and finished first.
    replayed_transactions: u32,
}

/// A source that was found, and where its clone goes.
struct Job {
    source: BlockNo,
    source_path: Vec<u8>,
    place: Parent,
    target_path: Vec<u8>,
}

pub(crate) fn run(args: &CloneArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let volume = &mut opened.volume;
    let jobs = jobs(volume.view(), args)?;
    let options = TreeOptions {
        each: clone_options(args.preserve),
        recursive: args.recursive,
        marks: Marks::Same,
    };
    let mut tree = CloneTree::new(options);
    for job in jobs.iter().rev() {
        tree.add(
            job.source,
            job.place.directory,
            &job.place.name,
            &job.target_path,
        );
    }
    let mut ask = asking(args, err);
    let steps = in_steps(volume, |txn, most| Ok(tree.step(txn, most, &mut ask)?));
    drop(ask);
    let steps = steps.context(match &jobs[..] {
        [job] => format!(
            "cannot clone {} to {}",
            shown(&job.source_path),
            shown(&job.target_path)
        ),
        _ => "cannot clone".to_owned(),
    })?;
    let clones = jobs.iter().map(|job| pair(volume, job)).collect();
    let TreeCloned {
        files,
        directories,
        others,
        links,
        replaced,
        kept,
        size_bytes,
        shared_bytes,
    } = tree.done;
    let result = Cloned {
        schema: 1,
        dry_run: args.common.dry_run,
        clones,
        files,
        directories,
        others,
        links,
        replaced,
        kept,
        size_bytes,
        shared_bytes,
        steps,
        replayed_transactions: opened.replayed,
    };
    args.common.tell(out, &result, |out| {
        let verb = args.common.verb("shares", "would share");
        let sizes = format!("{} of {}", show_size(shared_bytes), show_size(size_bytes));
        match &result.clones[..] {
            [one] if files == 1 && directories == 0 => {
                writeln!(out, "{}: {verb} {sizes} with {}", one.target, one.source)?;
            }
            [one] => writeln!(
                out,
                "{}: {files} files in {directories} directories: {verb} {sizes} with {}",
                one.target, one.source
            )?,
            all => writeln!(
                out,
                "{} clones: {files} files in {directories} directories: {verb} {sizes}",
                all.len()
            )?,
        }
        if kept > 0 {
            writeln!(out, "{kept} files existed and stay")?;
        }
        result.steps.tell(out)
    })
}

/// What to do about names that exist.
fn asking<'a>(
    args: &'a CloneArgs,
    err: &'a mut dyn Write,
) -> impl FnMut(&[u8]) -> Result<Existing, Error> + 'a {
    move |path| {
        if args.force {
            return Ok(Existing::Replace);
        }
        if args.no_clobber {
            return Ok(Existing::Keep);
        }
        if !args.interactive {
            return Ok(Existing::Refuse);
        }
        let path = shown(path);
        if !std::io::stdin().is_terminal() {
            let what = format!(
                "{path}: exists, and -i cannot ask without a terminal; use -f or --no-clobber"
            );
            return Err(Error::Input { what });
        }
        let _ = write!(err, "reflink.cowfs: replace {path}? ");
        let _ = err.flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        let yes = read.is_ok() && answer.trim_start().starts_with(['y', 'Y']);
        Ok(if yes {
            Existing::Replace
        } else {
            Existing::Keep
        })
    }
}

fn pair(volume: &Writable, job: &Job) -> Pair {
    let view = volume.view();
    let made = inode::read(view, job.place.directory)
        .and_then(|directory| cowfs_format::read::dir::lookup(view, &directory, &job.place.name));
    Pair {
        source: shown(&job.source_path),
        target: shown(&job.target_path),
        source_inode: job.source.0,
        target_inode: made.ok().flatten().map(|blkno| blkno.0),
    }
}

/// Finds all sources and the places of their clones.
fn jobs(view: View<'_>, args: &CloneArgs) -> Result<Vec<Job>> {
    let (sources, target) = match (&args.target_directory, &args.paths[..]) {
        (Some(target), sources) => (sources, target),
        (None, [sources @ .., target]) if !sources.is_empty() => (sources, target),
        _ => bail!("a clone needs a target: SOURCE TARGET, or -t DIR SOURCE..."),
    };
    let target = target.as_bytes();
    let root = view.info().root;
    // As with cp, a link that leads to a directory stands for it.
    let into = directory_at(view, target)?;
    if into.is_none() && (args.target_directory.is_some() || sources.len() > 1) {
        bail!(
            "{}: is no directory, which several clones need",
            shown(target)
        );
    }
    let mut jobs: Vec<Job> = Vec::with_capacity(sources.len());
    for given in sources {
        let given = given.as_bytes();
        let source = path::resolve(view, root, given)?;
        let (place, target_path) = match into {
            None => (path::resolve_parent(view, root, target)?, target.to_vec()),
            Some(directory) => {
                let name = last_part(given)
                    .ok_or_else(|| anyhow!("{}: is a directory; name the clone", shown(target)))?;
                let slash: &[u8] = if target.ends_with(b"/") { b"" } else { b"/" };
                let place = Parent {
                    directory,
                    name: name.to_vec(),
                };
                (place, [target, slash, name].concat())
            }
        };
        if is_directory(view, source)? && lies_in(view, place.directory, source)? {
            bail!(
                "{}: a directory cannot be cloned into itself ({})",
                shown(given),
                shown(&target_path)
            );
        }
        if let Some(twice) = jobs.iter().find(|job| job.place == place) {
            bail!(
                "{} and {} would both become {}",
                shown(&twice.source_path),
                shown(given),
                shown(&target_path)
            );
        }
        jobs.push(Job {
            source,
            source_path: given.to_vec(),
            place,
            target_path,
        });
    }
    Ok(jobs)
}
