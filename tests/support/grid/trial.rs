//! One cell: damage, repair, judgement.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cowfs_format::device::{Device, DeviceMut, FaultDevice, OverlayDevice};
use cowfs_format::error::Result;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::{Report, Severity};
use cowfs_format::txn::Timestamp;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use fsck_cowfs::repair::policy::{Decider, Mode};
use fsck_cowfs::repair::{Options, Way, rebuild, repair, take_back};

use super::LIMIT;
use super::census::Forced;
use super::contents::{Contents, Losses};
use super::foreign;
use super::harm::Harm;
use super::run::Cell;
use crate::model::Rng;

/// A state of a subject.
pub(super) type State = OverlayDevice<&'static dyn Device>;

/// What became of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is wrong with the repair; empty: the volume is clean after one run, and the second has nothing
    /// to do.
    pub wrong: Vec<String>,
    /// Whether nothing at all was done: the program refused, gave up, or did not end.
    pub gave_up: bool,
    /// Whether the damage was seen.
    pub seen: bool,
    /// What is lost.
    pub losses: Losses,
    /// How long the first run took.
    pub took: Duration,
}

impl Outcome {
    /// Whether one run made the volume clean.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty() && !self.gave_up
    }

    /// Whether nothing was lost but what was hit.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.losses.others.is_empty() && self.losses.names.is_empty()
    }

    /// A run that gave up.
    pub(super) fn gave_up(why: String) -> Self {
        Self {
            wrong: vec![why],
            gave_up: true,
            ..Self::default()
        }
    }
}

/// Damages a subject: its state then, what may be lost, and which sectors cannot be read. `None` when the cell
/// cannot be made.
///
/// # Panics
/// The device in memory fails.
#[must_use]
pub fn damage(cell: &Cell) -> Option<(State, Forced, BTreeSet<u64>)> {
    let state = cell.subject.overlay();
    let mut rng = Rng::new(cell.seed);
    let (mut forced, mut unreadable) = (Forced::default(), BTreeSet::new());
    let mut any = false;
    for &(place, harm) in &cell.hits {
        let place = cell.subject.places.get(place)?;
        let applied = harm.apply(cell.subject, place, &state, &mut rng);
        if let Some((own, sectors)) = applied.unwrap_or_else(|error| panic!("{error}")) {
            forced.add(&own);
            unreadable.extend(sectors);
            any = true;
        }
    }
    // Nobody knows what is in a sector that cannot be read, also when the disk gives it another place.
    for sector in &unreadable {
        let lost = state.write_at(sector * 512, &[0; 512]);
        lost.unwrap_or_else(|error| panic!("{error}"));
    }
    any.then_some((state, forced, unreadable))
}

/// `fsck.cowfs -fy`, as the program does it.
pub(super) fn fsck(device: &dyn DeviceMut, undo: &Path) -> Result<Report> {
    take_back(device, undo)?;
    let scanner = Scanner::new(Some(1))?;
    let (mut backup, mut superblock) = (None, None);
    if Volume::open_mending(device).is_err() {
        backup = (1..=6).find(|number| Volume::open_backup(device, *number, None).is_ok());
        if backup.is_none() {
            superblock = Some(rebuild::rebuild(&device)?);
        }
    }
    let options = Options {
        way: Way {
            backup,
            block_bits: None,
        },
        now: Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        },
        copy: false,
        undo: Some(undo.to_owned()),
        superblock,
        ..Options::default()
    };
    let mut decider = Decider::new(Mode::Yes, []);
    let mut alone = |volume: &mut Volume<&dyn DeviceMut>| {
        volume.trust();
        Ok(())
    };
    let progress = Progress::default();
    let done = repair(
        device,
        &options,
        &mut decider,
        &scanner,
        &progress,
        &mut alone,
    )?;
    Ok(done.report("volume"))
}

/// What a report leaves undone, shortly.
fn left(report: &Report) -> Vec<String> {
    let items = report.findings.iter().filter_map(|item| {
        let outcome = item.outcome.as_ref().filter(|outcome| !outcome.repaired)?;
        (item.severity > Severity::Note)
            .then(|| format!("left: {} {} ({})", item.code, item.message, outcome.what))
    });
    items.take(8).collect()
}

fn judged(cell: &Cell, judge: bool) -> Option<(Outcome, State)> {
    let (state, forced, unreadable) = damage(cell)?;
    let dir = match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(error) => return Some((Outcome::gave_up(error.to_string()), state)),
    };
    let log = dir.path().join("undo");
    let device = FaultDevice::unreadable(&state, unreadable);
    let began = Instant::now();
    let first = fsck(&device, &log);
    let took = began.elapsed();
    let mut outcome = Outcome {
        took,
        ..Outcome::default()
    };
    match first {
        Err(error) => outcome = Outcome::gave_up(format!("refused: {error}")),
        Ok(report) => {
            outcome.seen = report.exit != 0;
            if report.exit > 1 {
                outcome.wrong.push(format!("exit {}", report.exit));
                outcome.wrong.extend(left(&report));
            } else {
                let writes = device.writes();
                match fsck(&device, &log) {
                    Err(error) => outcome.wrong.push(format!("second run: {error}")),
                    Ok(second) if second.exit != 0 || device.writes() != writes => {
                        let codes: Vec<_> = second.findings.iter().map(|item| item.code).collect();
                        let exit = second.exit;
                        outcome
                            .wrong
                            .push(format!("second run: exit {exit}, {codes:?}"));
                    }
                    Ok(_) => {}
                }
            }
        }
    }
    let after = Volume::open(&state).map(|volume| Contents::of(volume.view()));
    let after = after.unwrap_or_default();
    outcome.losses = cell.subject.contents.lost(&after, &forced);
    if judge && outcome.is_clean() {
        match foreign::new_codes(cell.subject, &state) {
            Ok(codes) if codes.is_empty() => {}
            Ok(codes) => outcome.wrong.push(format!("fsck.ocfs2 says {codes:?}")),
            Err(error) => outcome.wrong.push(format!("fsck.ocfs2: {error:#}")),
        }
    }
    drop(device);
    Some((outcome, state))
}

/// Plays a cell with fsck.cowfs; with `judge`, fsck.ocfs2 is asked about the result. `None` when the cell
/// cannot be made. The state that the repair left is given back.
#[must_use]
pub fn trial(cell: &Cell, judge: bool) -> Option<(Outcome, Option<State>)> {
    let (to, from) = mpsc::channel();
    let own = cell.clone();
    std::thread::spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(|| judged(&own, judge)));
        // Nobody listens any more when time has run out.
        let _ = to.send(done.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        }));
    });
    match from.recv_timeout(Duration::from_secs(LIMIT)) {
        Ok(Ok(done)) => done.map(|(outcome, state)| (outcome, Some(state))),
        Ok(Err(panic)) => Some((Outcome::gave_up(format!("PANIC: {panic}")), None)),
        Err(_) => Some((
            Outcome::gave_up(format!("HANG: longer than {LIMIT} s")),
            None,
        )),
    }
}

/// Whether a harm can be played on a program that reads image files.
pub(super) const fn on_files(harm: Harm) -> bool {
    !matches!(harm, Harm::Unreadable)
}
