//! What was measured, against what was promised, as a table and as JSON.

use std::fmt::Write;

use cowfs_format::toolkit::size::show_size;
use serde::Serialize;

use crate::measure::{Cost, Samples};

/// What of a cost is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    Time,
    /// User and system time.
    Processor,
    Memory,
    Allocated,
}

impl Figure {
    const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Processor => "processor time",
            Self::Memory => "memory",
            Self::Allocated => "disk space",
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn of(self, cost: &Cost) -> f64 {
        match self {
            Self::Time => cost.wall_s,
            Self::Processor => cost.cpu_s,
            Self::Memory => cost.memory_bytes as f64,
            Self::Allocated => cost.allocated_bytes.unwrap_or(0) as f64,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Time | Self::Processor if value < 0.1 => format!("{:.1} ms", value * 1e3),
            Self::Time | Self::Processor => format!("{value:.2} s"),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it was a number of bytes"
            )]
            _ => show_size(value as u64),
        }
    }
}

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// At most so many times the peer's.
    AtMost(f64),
    /// At least so many times better than the peer's.
    Better(f64),
    /// At most so much, whatever the peers need.
    Absolute(f64),
    /// At most so much more than the peer.
    Beyond(f64),
    /// Nothing: told for its own sake.
    Told,
}

/// One row: our figure against a peer's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    task: String,
    figure: Figure,
    ours: f64,
    peer: Option<String>,
    theirs: Option<f64>,
    target: Target,
    /// Whether the target was met; none where there is none.
    met: Option<bool>,
}

impl Row {
    /// Compares the first contender with a peer (or, for absolute targets, with none).
    pub(crate) fn new(
        task: &str,
        figure: Figure,
        samples: &[Samples],
        peer: Option<&str>,
        target: Target,
    ) -> Option<Self> {
        let ours = figure.of(&samples.first()?.median());
        let theirs = match peer {
            Some(name) => Some(figure.of(&samples.iter().find(|s| s.name == name)?.median())),
            None => None,
        };
        let met = match (target, theirs) {
            (Target::Told, _) => None,
            (Target::Absolute(most), _) => Some(ours <= most),
            (Target::AtMost(most), Some(theirs)) => Some(ours <= most * theirs),
            (Target::Beyond(most), Some(theirs)) => Some(ours <= theirs + most),
            (Target::Better(least), Some(theirs)) => Some(theirs >= least * ours),
            _ => return None,
        };
        Some(Self {
            task: task.to_owned(),
            figure,
            ours,
            peer: peer.map(str::to_owned),
            theirs,
            target,
            met,
        })
    }

    pub(crate) fn missed(&self) -> bool {
        self.met == Some(false)
    }

    fn cells(&self) -> [String; 7] {
        let show = |value| self.figure.show(value);
        let theirs = self.theirs.map(show).unwrap_or_default();
        let factor = |value: f64| match value {
            v if v >= 100.0 => format!("{v:.0}"),
            v if v >= 9.95 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        };
        let ratio = match (self.target, self.theirs) {
            (Target::AtMost(_), Some(theirs)) => format!("{} of its", factor(self.ours / theirs)),
            (_, Some(theirs)) if theirs < self.ours => {
                format!("{} x more", factor(self.ours / theirs))
            }
            (_, Some(theirs)) => format!("{} x less", factor(theirs / self.ours)),
            (_, None) => String::new(),
        };
        let target = match self.target {
            Target::AtMost(most) => format!("<= {most}"),
            Target::Better(least) => format!(">= {least} x"),
            Target::Absolute(most) => format!("<= {}", show(most)),
            Target::Beyond(most) => format!("<= {} more", show(most)),
            Target::Told => String::new(),
        };
        let met = match self.met {
            Some(true) => "pass",
            Some(false) => "MISSED",
            None => "",
        };
        [
            format!("{}: {}", self.task, self.figure.name()),
            show(self.ours),
            self.peer.clone().unwrap_or_default(),
            theirs,
            ratio,
            target,
            met.to_owned(),
        ]
    }
}

const HEADS: [&str; 7] = ["task", "cowfs", "peer", "needs", "ratio", "target", ""];

/// The table, in columns for a terminal; it is a Markdown table too.
pub(crate) fn text(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = rows.iter().map(Row::cells).collect();
    let widths: Vec<usize> = HEADS
        .iter()
        .enumerate()
        .map(|(i, head)| {
            let widest = cells.iter().map(|row| row[i].len()).max().unwrap_or(0);
            widest.max(head.len())
        })
        .collect();
    let mut page = String::new();
    let mut line = |row: &[String]| {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(page, "| {cell:<width$} ");
        }
        page.push_str("|\n");
    };
    line(&HEADS.map(str::to_owned));
    line(&widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>());
    for row in &cells {
        line(row);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str, wall_s: f64) -> Samples {
        let cost = Cost {
            wall_s,
            memory_bytes: 4 << 20,
            ..Cost::default()
        };
        Samples {
            name: name.to_owned(),
            runs: vec![cost],
        }
    }

    #[test]
    fn targets_are_judged() {
        let field = [samples("ours", 2.0), samples("peer", 4.0)];
        let row = |target| Row::new("t", Figure::Time, &field, Some("peer"), target).unwrap();
        for (target, missed) in [
            (Target::AtMost(0.5), false),
            (Target::AtMost(0.49), true),
            (Target::Better(2.0), false),
            (Target::Better(2.1), true),
            (Target::Absolute(2.0), false),
            (Target::Absolute(1.9), true),
            (Target::Beyond(-2.0), false),
            (Target::Beyond(-2.1), true),
            (Target::Told, false),
        ] {
            assert_eq!(row(target).missed(), missed, "{target:?}");
        }
        assert!(Row::new("t", Figure::Time, &field, Some("absent"), Target::Told).is_none());
    }

    #[test]
    fn the_table_is_markdown() {
        let field = [samples("ours", 0.0123), samples("peer", 1.23)];
        let rows = [
            Row::new("t", Figure::Time, &field, Some("peer"), Target::Better(4.0)).unwrap(),
            Row::new("t", Figure::Memory, &field, None, Target::Absolute(1e6)).unwrap(),
        ];
        let page = text(&rows);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        assert!(lines[2].contains("12.3 ms") && lines[2].contains("100 x less"));
        assert!(lines[2].ends_with("| pass   |"), "{page}");
        assert!(lines[3].contains("MISSED"));
    }
}
