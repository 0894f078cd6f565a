//! Measures the tools side by side with their peers, on this machine's disk.
//!
//! ```text
//! bench [--runs N] [--dir DIR] [--json FILE] [TASK]...   measure; TASK is mkfs, put, clone, check,
//!                                                        ncheck, icheck, du, manifest, out, fill,
//!                                                        check-tree, fill-large, clone-large,
//!                                                        clone-tree, dedupe, delete, sizes, seal,
//!                                                        check-empty, check-scale, check-aged
//! bench sum FILE                                         read a file once, for its checksum
//! bench read FILE METADATA THREADS                       read what an image of the metadata holds
//! bench floor FILE BLOCKS STRIDE                         write scattered blocks, and nothing else
//! ```
//!
//! `tests/bench/run` builds it and the tools, and runs it. It is no part of the suite: what it finds
//! depends on the machine, and on what else the machine does.

mod checks;
mod fill;
mod measure;
mod out;
mod scale;
mod seal;
mod share;
mod stage;
mod table;
mod tasks;
mod tree;
mod walks;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use cowfs_tests::place;
use serde_json::json;

use crate::stage::Stage;
use crate::tasks::Outcome;
use crate::tree::Tree;

/// Measures the tools side by side with their peers.
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Cli {
    /// What to measure [default: all]
    tasks: Vec<Task>,
    /// Runs of each contender; what counts is the median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Directory on the disk to measure, with 12 GB to spare [default: the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write every sample to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Subcommand)]
enum Inner {
    /// Writes one block at each multiple of a stride, and flushes
    #[command(hide = true)]
    Floor {
        file: PathBuf,
        blocks: u64,
        stride: u64,
    },
    /// Reads the metadata of a volume, as an image of it tells where that is, and prints a sum
    #[command(hide = true)]
    Read {
        file: PathBuf,
        metadata: PathBuf,
        threads: usize,
    },
    /// Reads a file once and prints its CRC-32C
    #[command(hide = true)]
    Sum { file: PathBuf },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Format 64 GiB and 4 TiB
    Mkfs,
    /// Put a file of 2 GiB into a volume
    Put,
    /// Clone a file of 1.8 GB
    Clone,
    /// Check an empty volume and a populated one
    Check,
    /// Find the path of an inode among 150,000
    Ncheck,
    /// Find the owners of blocks among 150,000 inodes
    Icheck,
    /// Account for 150,000 files
    Du,
    /// List 150,000 files with all that is known of them
    Manifest,
    /// Take a tree of 150,000 files out
    Out,
    /// Make a volume of 150,000 files, from a directory and from an archive
    Fill,
    /// Check a volume of 220,000 inodes
    CheckTree,
    /// Make a volume of one file of 8 GiB
    FillLarge,
    /// Clone a file of 100 GiB in 100,000 extents
    CloneLarge,
    /// Clone a tree of 1,000 disks
    CloneTree,
    /// Share what 10 GiB hold twice
    Dedupe,
    /// Delete a file of 1,000,000 extents
    Delete,
    /// Change volumes of 10 GiB, 1 TiB and 15 TiB
    Sizes,
    /// Seal 512 MiB, and verify them
    Seal,
    /// Check an empty volume of 15 TiB
    CheckEmpty,
    /// Check volumes of 10,000, 100,000 and 1,000,000 inodes, with one thread and two
    CheckScale,
    /// Check 1,000 clones of one disk, each partly overwritten
    CheckAged,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.inner {
        Some(Inner::Floor {
            file,
            blocks,
            stride,
        }) => {
            tasks::floor(file, *blocks, *stride)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Inner::Read {
            file,
            metadata,
            threads,
        }) => {
            checks::read(file, metadata, *threads)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Inner::Sum { file }) => {
            seal::floor(file)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let target = place::target_dir();
    let dir = cli.dir.as_deref().unwrap_or(&target);
    let stage = Stage::new(dir)?;
    let load = load();
    let outcomes = measure_all(cli, &stage)?;

    let rows: Vec<_> = outcomes.iter().flat_map(|o| o.rows.clone()).collect();
    println!("{}", machine(dir));
    println!("{}\n", versions(&stage).join(", "));
    print!("{}", table::text(&rows));
    let mut missing: Vec<&String> = outcomes.iter().flat_map(|o| &o.missing).collect();
    missing.dedup();
    for missing in missing {
        println!("not measured: {missing}");
    }
    if load > 0.5 {
        println!(
            "the machine was busy when this began (load {load}): the times are not to be quoted"
        );
    }
    if let Some(file) = &cli.json {
        let samples: Vec<_> = outcomes
            .iter()
            .map(|o| json!({ "task": o.task, "contenders": o.samples, "missing": o.missing }))
            .collect();
        let page = json!({
            "schema": 1,
            "machine": machine(dir),
            "load_before": load,
            "peers": versions(&stage),
            "rows": rows,
            "samples": samples,
        });
        std::fs::write(file, format!("{page:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = rows.iter().filter(|row| row.missed()).count();
    if missed > 0 {
        println!("{missed} targets missed");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_all(cli: &Cli, stage: &Stage) -> Result<Vec<Outcome>> {
    let wanted = |task| cli.tasks.is_empty() || cli.tasks.contains(&task);
    let runs = usize::from(cli.runs);
    let mut outcomes = Vec::new();
    if wanted(Task::Mkfs) {
        for (size, bytes) in [("64 GiB", 64 << 30), ("4 TiB", 4 << 40)] {
            eprintln!("mkfs {size}");
            outcomes.push(tasks::mkfs(stage, runs, size, bytes)?);
        }
    }
    if wanted(Task::Put) {
        eprintln!("put");
        outcomes.push(tasks::put(stage, runs)?);
    }
    if wanted(Task::Clone) {
        eprintln!("clone");
        outcomes.push(tasks::clone(stage, runs)?);
    }
    if wanted(Task::Check) {
        for populated in [false, true] {
            eprintln!("check");
            outcomes.extend(tasks::check(stage, runs, populated)?);
        }
    }
    if wanted(Task::FillLarge) {
        eprintln!("fill-large");
        outcomes.push(fill::large(stage, runs)?);
    }
    type Alone = fn(&Stage, usize) -> Result<Outcome>;
    let alone: [(Task, &str, Alone); 7] = [
        (Task::CloneLarge, "clone-large", share::clone_large),
        (Task::CloneTree, "clone-tree", share::clone_tree),
        (Task::Dedupe, "dedupe", share::dedupe),
        (Task::Delete, "delete", share::delete),
        (Task::Sizes, "sizes", share::sizes),
        (Task::CheckEmpty, "check-empty", scale::empty),
        (Task::CheckAged, "check-aged", scale::aged),
    ];
    for (_, name, measure) in alone.iter().filter(|(task, _, _)| wanted(*task)) {
        eprintln!("{name}");
        outcomes.push(measure(stage, runs)?);
    }
    if wanted(Task::Seal) {
        eprintln!("seal");
        outcomes.extend(seal::seal(stage, runs)?);
    }
    if wanted(Task::CheckScale) {
        eprintln!("check-scale");
        outcomes.extend(scale::inodes(stage, runs)?);
    }
    let walks = [
        Task::Ncheck,
        Task::Icheck,
        Task::Du,
        Task::Manifest,
        Task::Out,
        Task::Fill,
        Task::CheckTree,
    ];
    if walks.into_iter().any(wanted) {
        let tree = Tree::new(stage)?;
        if wanted(Task::Ncheck) {
            eprintln!("ncheck");
            outcomes.push(walks::ncheck(stage, &tree, runs)?);
        }
        if wanted(Task::Icheck) {
            eprintln!("icheck");
            outcomes.push(walks::icheck(stage, &tree, runs)?);
        }
        if wanted(Task::Du) {
            eprintln!("du");
            outcomes.push(walks::du(stage, &tree, runs)?);
        }
        if wanted(Task::Manifest) {
            eprintln!("manifest");
            outcomes.extend(walks::manifest(stage, &tree, runs)?);
        }
        if wanted(Task::Out) {
            eprintln!("out");
            outcomes.push(out::tar(stage, &tree, runs)?);
            outcomes.push(out::rdump(stage, &tree, runs)?);
        }
        if wanted(Task::Fill) {
            eprintln!("fill");
            outcomes.extend(fill::many(stage, &tree, runs)?);
        }
        if wanted(Task::CheckTree) {
            eprintln!("check-tree");
            outcomes.extend(checks::many(stage, &tree, runs)?);
        }
    }
    Ok(outcomes)
}

/// The average number of programs that were running in the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(0.0)
}

/// The kind of machine, in one line.
fn machine(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .map_or(0_u64, |kib: u64| kib >> 20);
    let kernel = read("/proc/sys/kernel/osrelease");
    let filesystem = Command::new("findmnt")
        .args(["-n", "-o", "FSTYPE", "-T"])
        .arg(dir)
        .output();
    let filesystem = filesystem.map_or_else(
        |_| "an unknown file system".to_owned(),
        |said| String::from_utf8_lossy(&said.stdout).trim().to_owned(),
    );
    format!(
        "{cores} cores, {memory} GiB of memory, Linux {}, sparse files on {filesystem}",
        kernel.trim()
    )
}

/// What the peers call themselves.
fn versions(stage: &Stage) -> Vec<String> {
    let peers = [
        ("mkfs.ocfs2", "-V"),
        ("mkfs.ext4", "-V"),
        ("mkfs.xfs", "-V"),
        ("mkfs.btrfs", "-V"),
        ("cp", "--version"),
        ("find", "--version"),
        ("debugfs.ocfs2", "-V"),
        ("par2", "-V"),
    ];
    let ask = |(program, flag): (&str, &str)| {
        let said = stage.peer(program, "").ok()?.arg(flag).output().ok()?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().map(|line| line.trim().to_owned())
    };
    peers.into_iter().filter_map(ask).collect()
}
