//! Damages volumes, block by block, and tells what fsck.cowfs and fsck.ocfs2 make of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;
use cowfs_tests::Kernel;
use cowfs_tests::grid::{self, Cell, Harm, ManyPage, Page, Report, Subject, Tally};

/// The volumes, when none is named.
const VOLUMES: [&str; 8] = [
    "b512-c4k-max",
    "b1k-c4k-default",
    "b2k-c8k-max",
    "b4k-c4k-max",
    "b4k-c32k-default",
    "discontiguous",
    "rich",
    "rich, no checks",
];

/// Plays the grid of damage, or seeds of many damaged blocks.
#[derive(Debug, Parser)]
#[command(name = "damage-grid")]
struct Args {
    /// A golden image, or `rich` or `rich, no checks`; all of a fixed list when none is given.
    #[arg(long = "volume")]
    volumes: Vec<String>,
    /// Only the row of this name, or those whose names hold this.
    #[arg(long, default_value = "")]
    kind: String,
    /// Only this column.
    #[arg(long)]
    harm: Option<String>,
    /// Blocks of each kind of each volume.
    #[arg(long, default_value_t = 2)]
    each: usize,
    /// Play each cell so often: other bits, other copies, another block to be swapped with.
    #[arg(long, default_value_t = 1)]
    rolls: u64,
    /// Instead of one block in each cell, two of different kinds, both damaged in the same way.
    #[arg(long)]
    pairs: bool,
    /// Instead of the grid: seeds FROM..TO of many damaged blocks.
    #[arg(long)]
    seeds: Option<String>,
    /// With --seeds: blocks damaged at most.
    #[arg(long, default_value_t = 50)]
    most: u64,
    /// Put fsck.ocfs2 through every N-th cell, too.
    #[arg(long, value_name = "N", num_args = 0..=1, default_value_t = 0, default_missing_value = "1")]
    theirs: usize,
    /// Do not ask fsck.ocfs2 about the results.
    #[arg(long)]
    unjudged: bool,
    /// Tell of every cell.
    #[arg(short, long)]
    verbose: bool,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Write the tables here, between the lines that mark them: `begin` and `end`, or, of seeds, `begin seeds`
    /// and `end seeds`.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Instead of judging: stop each repair at every N-th write, and cut the power in N ways before each flush.
    #[arg(long, value_name = "N")]
    stops: Option<usize>,
    /// Instead of judging: have the driver mount, read and write what was repaired, every N-th cell.
    #[arg(long, value_name = "N")]
    mounts: Option<usize>,
    /// Do not play: save the damaged image of the only cell.
    #[arg(long)]
    save: Option<PathBuf>,
    /// With --save: as fsck.cowfs leaves it.
    #[arg(long, requires = "save")]
    repaired: bool,
}

fn subject(name: &str) -> Result<&'static Subject> {
    match name {
        "rich" => grid::rich(true),
        "rich, no checks" => grid::rich(false),
        name => grid::golden(name),
    }
}

fn cells(args: &Args, subjects: &[&'static Subject]) -> Result<Vec<Cell>> {
    if let Some(range) = &args.seeds {
        let (from, to) = range.split_once("..").context("--seeds FROM..TO")?;
        return Ok(grid::seeds(subjects, from.parse()?..to.parse()?, args.most));
    }
    let wanted = |harm: &Harm| args.harm.as_ref().is_none_or(|name| name == harm.name());
    let harms: Vec<Harm> = Harm::ALL.into_iter().filter(wanted).collect();
    let mut all: Vec<Cell> = subjects
        .iter()
        .flat_map(|subject| match args.pairs {
            true => grid::pairs(subject, &harms),
            false => grid::cells(subject, args.each, &harms),
        })
        .collect();
    let exact = all.iter().any(|cell| cell.kind() == args.kind);
    all.retain(|cell| match exact {
        true => cell.kind() == args.kind,
        false => cell.kind().contains(&args.kind),
    });
    let rolled = |roll: u64| {
        all.iter().cloned().map(move |mut cell| {
            cell.seed ^= roll << 48;
            cell
        })
    };
    Ok((0..args.rolls).flat_map(rolled).collect())
}

fn tell(report: &Report) {
    let Report { cell, ours, theirs } = report;
    let mark = if ours.is_clean() && ours.keeps() {
        "ok"
    } else {
        "BAD"
    };
    println!("{mark} {} [{} ms]", cell.name(), ours.took.as_millis());
    for why in &ours.wrong {
        println!("    {why}");
    }
    for (what, lost) in [
        ("lost", &ours.losses.others),
        ("name lost", &ours.losses.names),
    ] {
        for name in lost.iter().take(5) {
            println!("    {what}: {name}");
        }
        if lost.len() > 5 {
            println!("    {what}: {} in all", lost.len());
        }
    }
    if ours.losses.own > 0 {
        println!("    own: {}", ours.losses.own);
    }
    if let Some(theirs) = theirs
        .as_ref()
        .filter(|theirs| !theirs.is_clean() || !theirs.keeps())
    {
        let lost = theirs.losses.others.len();
        println!("    fsck.ocfs2: {:?}, {lost} lost", theirs.wrong);
    }
}

/// Puts the tables into a page, in the place that it marks.
fn write_page(path: &PathBuf, of: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(path)?;
    let (begin, end) = (format!("<!-- begin{of} -->\n"), format!("<!-- end{of} -->"));
    let (head, rest) = old
        .split_once(&begin)
        .context("the page has no place for tables")?;
    let (_, tail) = rest
        .split_once(&end)
        .context("the place for tables has no end")?;
    Ok(std::fs::write(
        path,
        format!("{head}{begin}\n{text}{end}{tail}"),
    )?)
}

/// Stops the repairs of all cells; whether all next runs ended as they should.
fn stop(cells: &[Cell], step: usize, threads: usize) -> bool {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (tried, repairs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            match grid::stops(cell, step, 2 + step) {
                Ok(ways) => {
                    tried.fetch_add(ways, Ordering::Relaxed);
                    repairs.fetch_add(usize::from(ways > 0), Ordering::Relaxed);
                }
                Err(why) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("BAD {why}");
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let [failed, tried, repairs] = [failed, tried, repairs].map(AtomicUsize::into_inner);
    println!("{repairs} repairs stopped in {tried} ways, {failed} ended elsewhere");
    failed == 0
}

fn run(args: &Args) -> Result<bool> {
    let names: Vec<&str> = args.volumes.iter().map(String::as_str).collect();
    let names = if names.is_empty() {
        &VOLUMES[..]
    } else {
        &names
    };
    let subjects: Vec<_> = names
        .iter()
        .map(|name| subject(name))
        .collect::<Result<_>>()?;
    let cells = cells(args, &subjects)?;
    if let Some(path) = &args.save {
        let [cell] = &cells[..] else {
            bail!("{} cells; --save wants one", cells.len());
        };
        let state = if args.repaired {
            grid::trial(cell, false).and_then(|(_, state)| state)
        } else {
            grid::damage(cell).map(|(state, ..)| state)
        };
        let state = state.context("this cell cannot be made")?;
        std::fs::copy(cell.subject.image(&state)?.path(), path)?;
        return Ok(true);
    }
    if let Some(step) = args.stops {
        return Ok(stop(&cells, step, args.threads));
    }
    if let Some(step) = args.mounts {
        let cells: Vec<Cell> = cells.into_iter().step_by(step).collect();
        let (mut tried, mut against) = (0, 0);
        for cells in cells.chunks(grid::DISKS) {
            let (volumes, said) = grid::mounts(cells, Kernel::V6_12)?;
            tried += volumes;
            against += said.len();
            said.iter().for_each(|line| println!("BAD {line}"));
        }
        println!("{tried} repaired volumes, {against} complaints of the driver");
        return Ok(against == 0);
    }
    let done = AtomicUsize::new(0);
    let each = |report: &Report| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if args.verbose || !report.ours.is_clean() || !report.ours.keeps() {
            tell(report);
        }
        if done.is_multiple_of(100) {
            eprintln!("{done} of {}", cells.len());
        }
    };
    let reports = grid::run(&cells, args.threads, !args.unjudged, args.theirs, &each);
    let (mut page, mut ours, mut theirs) = (Page::default(), Tally::default(), Tally::default());
    let mut many = ManyPage::default();
    for report in &reports {
        page.add(report);
        many.add(report);
        ours.add(&report.ours);
        if let Some(outcome) = &report.theirs {
            theirs.add(outcome);
        }
    }
    let (of, text) = match args.seeds {
        Some(_) => (" seeds", many.text()),
        None => ("", page.text()),
    };
    print!("{text}");
    if let Some(path) = &args.page {
        write_page(path, of, &text)?;
    }
    let slowest = reports.iter().max_by_key(|report| report.ours.took);
    if let Some(slowest) = slowest {
        println!(
            "slowest: {} ms, {}",
            slowest.ours.took.as_millis(),
            slowest.cell.name()
        );
    }
    println!("fsck.cowfs: {ours:?}");
    println!("fsck.ocfs2: {theirs:?}");
    Ok(ours.clean == ours.cells && ours.lossy == 0)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("damage-grid: {error:#}");
            ExitCode::from(2)
        }
    }
}
