//! The grid of damage, a part of it: each kind of block of volumes full of files, lost in each way. One run
//! of `fsck.cowfs -fy` leaves a clean volume, in its own eyes and in those of fsck.ocfs2, and every file whose
//! own blocks were not hit is as it was. `damage-grid` plays the whole.
#![allow(clippy::unwrap_used)] // A test may panic.

use cowfs_tests::grid::{self, Harm, Report};
use cowfs_tests::{Guest, Kernel, need, oracle};
fn quiet(_: &Report) {}

/// What must hold of any cell.
fn costs(report: &Report, bad: &mut Vec<String>) {
    let ours = &report.ours;
    if !ours.is_clean() || !ours.keeps() {
        let (wrong, losses) = (&ours.wrong, &ours.losses);
        bad.push(format!("{}: {wrong:?} {losses:?}", report.cell.name()));
    }
}

#[test]
fn a_damaged_block_costs_what_was_in_it() {
    need!(oracle::tools());
    let mut bad = Vec::new();
    let mut clean = 0;
    for (name, step) in [("b4k-c4k-max", 5), ("b1k-c4k-default", 7)] {
        let cells = grid::cells(grid::golden(name).unwrap(), 1, &Harm::ALL);
        // Which cells fsck.ocfs2 judges does not depend on what is in them.
        for judge in [false, true] {
            let these: Vec<_> = (0..)
                .zip(&cells)
                .filter(|(number, _)| (number % step == 0) == judge)
                .map(|(_, cell)| cell.clone())
                .collect();
            for report in grid::run(&these, 2, judge, 0, &quiet) {
                costs(&report, &mut bad);
                clean += 1;
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(clean > 250, "only {clean} cells");
}

/// The driver mounts, reads, writes and unmounts what was repaired.
#[test]
fn the_driver_takes_what_was_repaired() {
    need!(Guest::new(Kernel::V6_12));
    let subject = grid::golden("b4k-c4k-max").unwrap();
    let cells = grid::cells(subject, 1, &[Harm::Zeroed, Harm::Garbage, Harm::Stale]);
    // One machine's disks, spread over all kinds.
    let step = cells.len().div_ceil(grid::DISKS);
    let cells: Vec<_> = cells.into_iter().step_by(step).collect();
    let (tried, against) = grid::mounts(&cells, Kernel::V6_12).unwrap();
    assert!(against.is_empty(), "{}", against.join("\n"));
    assert!(tried > 15, "only {tried} volumes");
}

/// Up to ten damaged blocks at once cost no more than one does, nor do two of any two kinds.
#[test]
fn several_damaged_blocks_cost_what_was_in_them() {
    need!(oracle::tools());
    let names = ["b4k-c4k-max", "b1k-c4k-default", "b2k-c8k-max"];
    let subjects: Vec<_> = names
        .iter()
        .map(|name| grid::golden(name).unwrap())
        .collect();
    let mut cells = grid::seeds(&subjects, 1..60, 10);
    let harms = [Harm::Zeroed, Harm::Swapped];
    let pairs = grid::pairs(grid::golden("b512-c4k-max").unwrap(), &harms);
    cells.extend(pairs.into_iter().step_by(8));
    let mut bad = Vec::new();
    let reports = grid::run(&cells, 2, false, 0, &quiet);
    for report in &reports {
        costs(report, &mut bad);
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(reports.len() > 200, "only {} cells", reports.len());
}

/// Repairs that are stopped at any write, or by a power cut, and begun again end with the same bytes.
#[test]
fn a_repair_that_is_stopped_is_finished_by_the_next_run() {
    need!(oracle::tools());
    let subject = grid::golden("b1k-c4k-default").unwrap();
    let harms = [Harm::Zeroed, Harm::Garbage, Harm::Burst];
    let cells = grid::cells(subject, 1, &harms);
    let (mut repairs, mut ways) = (0, 0);
    for cell in cells {
        let tried = grid::stops(&cell, 4, 3).unwrap();
        repairs += usize::from(tried > 0);
        ways += tried;
    }
    assert!(
        repairs >= 30 && ways > 300,
        "{repairs} repairs, {ways} ways"
    );
}
