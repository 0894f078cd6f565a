//! The page that shows a grid.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::harm::Harm;
use super::run::Report;
use super::trial::Outcome;

/// Sums over some cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cells.
    pub cells: usize,
    /// Of these, clean after one run.
    pub clean: usize,
    /// Of these, given up.
    pub gave_up: usize,
    /// Cells that lost a file or a name that was not hit.
    pub lossy: usize,
    /// Files lost that were not hit.
    pub others: usize,
    /// Files changed or lost whose own blocks were hit.
    pub own: usize,
}

impl Tally {
    /// Counts an outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.cells += 1;
        self.clean += usize::from(outcome.is_clean());
        self.gave_up += usize::from(outcome.gave_up);
        self.lossy += usize::from(!outcome.keeps());
        self.others += outcome.losses.others.len();
        self.own += outcome.losses.own;
    }

    /// As a cell of a table: how many of how many are clean; in how many others something was lost that was
    /// not hit.
    fn shown(&self) -> String {
        if self.cells == 0 {
            return String::new();
        }
        let clean = if self.clean == self.cells {
            format!("{}", self.cells)
        } else {
            format!("**{}/{}**", self.clean, self.cells)
        };
        if self.lossy == 0 {
            clean
        } else {
            format!("{clean} −{}", self.lossy)
        }
    }
}

/// A grid as Markdown.
#[derive(Debug, Default)]
pub struct Page {
    ours: BTreeMap<&'static str, BTreeMap<Harm, Tally>>,
    theirs: BTreeMap<&'static str, BTreeMap<Harm, Tally>>,
}

impl Page {
    /// Adds a cell with one hit.
    pub fn add(&mut self, report: &Report) {
        let Some((_, harm)) = report.cell.hits.first() else {
            return;
        };
        let kind = report.cell.kind();
        let ours = self.ours.entry(kind).or_default();
        ours.entry(*harm).or_default().add(&report.ours);
        if let Some(outcome) = &report.theirs {
            let theirs = self.theirs.entry(kind).or_default();
            theirs.entry(*harm).or_default().add(outcome);
        }
    }

    /// Both tables.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (program, grid) in [("fsck.cowfs", &self.ours), ("fsck.ocfs2", &self.theirs)] {
            if !grid.is_empty() {
                let _ = writeln!(text, "### {program}\n\n{}", table(grid));
            }
        }
        text
    }
}

/// Blocks damaged at most in the cells of one row of the table of seeds.
const CLASSES: [usize; 4] = [5, 10, 20, usize::MAX];

/// Cells of many damaged blocks as Markdown, by how many.
#[derive(Debug, Default)]
pub struct ManyPage {
    rows: [[Tally; 2]; CLASSES.len()],
}

impl ManyPage {
    /// Adds a cell.
    pub fn add(&mut self, report: &Report) {
        let hits = report.cell.hits.len();
        let class = CLASSES.iter().position(|most| hits <= *most);
        let [ours, theirs] = &mut self.rows[class.unwrap_or(0)];
        ours.add(&report.ours);
        if let Some(outcome) = &report.theirs {
            theirs.add(outcome);
        }
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "| damaged blocks | program | volumes | clean after one run | gave up | lost more than was hit |\n\
                        |---|---|---|---|---|---|\n"
            .to_owned();
        let mut least = 1;
        for (row, most) in self.rows.iter().zip(CLASSES) {
            let name = match most {
                usize::MAX => format!("{least} and more"),
                most => format!("{least} to {most}"),
            };
            least = most.saturating_add(1);
            for (program, tally) in ["fsck.cowfs", "fsck.ocfs2"].into_iter().zip(row) {
                if tally.cells > 0 {
                    let Tally {
                        cells,
                        clean,
                        gave_up,
                        lossy,
                        ..
                    } = tally;
                    let percent = clean * 1000 / cells;
                    let (whole, tenth) = (percent / 10, percent % 10);
                    let _ = writeln!(
                        text,
                        "| {name} | {program} | {cells} | {clean} ({whole}.{tenth} %) | {gave_up} | {lossy} |"
                    );
                }
            }
        }
        text
    }
}

fn table(grid: &BTreeMap<&'static str, BTreeMap<Harm, Tally>>) -> String {
    let names: Vec<&str> = Harm::ALL.iter().map(|harm| harm.name()).collect();
    let mut text = format!("| block | {} |\n|---|", names.join(" | "));
    text += &"---|".repeat(names.len());
    text.push('\n');
    let mut sums: BTreeMap<Harm, Tally> = BTreeMap::new();
    for (kind, row) in grid {
        let mut cells = Vec::new();
        for harm in Harm::ALL {
            let tally = row.get(&harm).copied().unwrap_or_default();
            cells.push(tally.shown());
            let sum = sums.entry(harm).or_default();
            sum.cells += tally.cells;
            sum.clean += tally.clean;
            sum.lossy += tally.lossy;
        }
        let _ = writeln!(text, "| {kind} | {} |", cells.join(" | "));
    }
    let cells = Harm::ALL.map(|harm| sums.get(&harm).copied().unwrap_or_default().shown());
    let _ = writeln!(text, "| **all** | {} |", cells.join(" | "));
    text
}
