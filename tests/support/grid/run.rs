//! Cells by the hundred.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cowfs_format::units::index;

use super::foreign::fsck_ocfs2;
use super::harm::Harm;
use super::subject::Subject;
use super::trial::{Outcome, trial};
use crate::model::Rng;

/// What is damaged, and how.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The volume.
    pub subject: &'static Subject,
    /// Numbers of places, and what happens to each.
    pub hits: Vec<(usize, Harm)>,
    /// For whatever of it is left to chance.
    pub seed: u64,
}

impl Cell {
    /// The kind of the block that is hit first: the row of a cell with one.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let first = self
            .hits
            .first()
            .and_then(|(place, _)| self.subject.places.get(*place));
        first.map_or("", |place| place.kind)
    }

    /// In words.
    #[must_use]
    pub fn name(&self) -> String {
        let hits = self.hits.iter().map(|(place, harm)| {
            let place = &self.subject.places[*place];
            format!("{} {} {}", place.kind, place.blkno, harm.name())
        });
        let hits: Vec<_> = hits.collect();
        format!(
            "{}: {} (seed {})",
            self.subject.name,
            hits.join(", "),
            self.seed
        )
    }
}

/// A cell and what became of it, with fsck.cowfs and, where it was asked, with fsck.ocfs2.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cell.
    pub cell: Cell,
    /// By fsck.cowfs.
    pub ours: Outcome,
    /// By fsck.ocfs2.
    pub theirs: Option<Outcome>,
}

/// The cells of a subject: of each kind of block so many, spread over those there are, with each harm.
#[must_use]
pub fn cells(subject: &'static Subject, each: usize, harms: &[Harm]) -> Vec<Cell> {
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, place) in subject.places.iter().enumerate() {
        kinds.entry(place.kind).or_default().push(number);
    }
    let mut cells = Vec::new();
    for places in kinds.into_values() {
        let count = places.len().min(each);
        for i in 0..count {
            // The first, the last, and those between.
            let at = i * (places.len() - 1) / (count - 1).max(1);
            for &harm in harms {
                let seed = subject.places[places[at]].blkno.0 * 8 + harm as u64;
                let hits = vec![(places[at], harm)];
                cells.push(Cell {
                    subject,
                    hits,
                    seed,
                });
            }
        }
    }
    cells
}

/// The cells of a subject with two blocks of different kinds each, both lost in the same way.
#[must_use]
pub fn pairs(subject: &'static Subject, harms: &[Harm]) -> Vec<Cell> {
    let mut pairs = Vec::new();
    for harm in harms {
        let cells = cells(subject, 1, &[*harm]);
        for (number, one) in cells.iter().enumerate() {
            pairs.extend(cells[..number].iter().map(|other| Cell {
                subject,
                hits: [&other.hits[..], &one.hits[..]].concat(),
                seed: one.seed ^ other.seed << 20,
            }));
        }
    }
    pairs
}

/// Cells of 1 to `most` damaged blocks each, by seeds.
#[must_use]
pub fn seeds(subjects: &[&'static Subject], seeds: std::ops::Range<u64>, most: u64) -> Vec<Cell> {
    let cell = |seed: u64| {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let subject = subjects[index(rng.below(subjects.len() as u64))];
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, place) in subject.places.iter().enumerate() {
            kinds.entry(place.kind).or_default().push(number);
        }
        let kinds: Vec<Vec<usize>> = kinds.into_values().collect();
        // As many cells with few blocks as with many.
        let bound = 1 + rng.below(most);
        let count = 1 + rng.below(bound);
        let hits = (0..count)
            .map(|_| {
                let places = &kinds[index(rng.below(kinds.len() as u64))];
                let place = places[index(rng.below(places.len() as u64))];
                (place, Harm::ALL[index(rng.below(Harm::ALL.len() as u64))])
            })
            .collect();
        Cell {
            subject,
            hits,
            seed,
        }
    };
    seeds.map(cell).collect()
}

/// Plays cells on so many threads; `judge` asks fsck.ocfs2 about our results, and every `theirs`-th cell is played
/// by it, too (0: none). `each` is told of every report as it comes. The reports are in the order of the cells.
pub fn run(
    cells: &[Cell],
    threads: usize,
    judge: bool,
    theirs: usize,
    each: &(dyn Fn(&Report) + Sync),
) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let reports: Mutex<BTreeMap<usize, Report>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(cell) = cells.get(number) else {
                return;
            };
            let Some((ours, _)) = trial(cell, judge) else {
                continue;
            };
            let report = Report {
                cell: cell.clone(),
                ours,
                theirs: (theirs > 0 && number.is_multiple_of(theirs))
                    .then(|| fsck_ocfs2(cell))
                    .flatten(),
            };
            each(&report);
            if let Ok(mut reports) = reports.lock() {
                reports.insert(number, report);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    reports
        .into_inner()
        .unwrap_or_default()
        .into_values()
        .collect()
}
