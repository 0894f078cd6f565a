//! What is said of a seal, as text and as JSON.

use cowfs_format::ops::seal::{Seal, Sealed, State, Verified};
use cowfs_format::time::Utc;
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::report::Report;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;
use serde_json::{Map, Value};

/// Runs of blocks in a line of text; the JSON has all of them.
const MOST_RUNS: usize = 16;

/// What a run about a seal did or found.
pub(crate) enum Outcome {
    /// The volume was sealed, or its seal renewed.
    Sealed(Sealed),
    /// The seal was removed.
    Unsealed,
    /// The volume was compared with its seal.
    Verified(Box<Compared>),
}

/// A comparison, in numbers.
pub(crate) struct Compared {
    when: u64,
    run: u64,
    verified: Verified,
    lost: Vec<BlockNo>,
    newer: Vec<BlockNo>,
    beyond: Vec<BlockNo>,
    stopped: bool,
}

/// Runs of consecutive blocks: first and last.
fn runs(blocks: &[BlockNo]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == block.0 => *last = block.0,
            _ => runs.push((block.0, block.0)),
        }
    }
    runs
}

/// Blocks as text, as far as a line has room.
pub(crate) fn shown_runs(blocks: &[BlockNo]) -> String {
    let runs = runs(blocks);
    let one = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let mut words: Vec<String> = runs.iter().take(MOST_RUNS).map(one).collect();
    if runs.len() > MOST_RUNS {
        words.push("...".to_owned());
    }
    words.join(", ")
}

fn as_json(blocks: &[BlockNo]) -> Value {
    let pairs = runs(blocks).into_iter();
    pairs.map(|(first, last)| vec![first, last]).collect()
}

impl Outcome {
    pub(super) fn verified(seal: &Seal, verified: Verified, scanner: &Scanner) -> Self {
        let of = |states: &[State]| {
            let found = verified.mismatches.iter();
            let mut blocks: Vec<BlockNo> = found
                .filter(|found| states.contains(&found.state))
                .map(|found| found.blkno)
                .collect();
            blocks.sort_unstable();
            blocks
        };
        let mut beyond = verified.beyond(seal);
        beyond.sort_unstable();
        Self::Verified(Box::new(Compared {
            when: seal.header.sh_renewed.get(),
            run: seal.header.sh_run.get(),
            lost: of(&[State::Lost, State::OneBit]),
            newer: of(&[State::Newer]),
            beyond,
            stopped: scanner.stopped(),
            verified,
        }))
    }

    /// The report of it, and lines of text.
    pub(crate) fn report(&self, name: &str) -> (Report, Vec<String>) {
        let mut report = Report {
            schema: 1,
            program: "fsck.cowfs",
            volume: name.to_owned(),
            ..Report::default()
        };
        let mut facts = Map::new();
        let lines = match self {
            Self::Unsealed => {
                report.status = "unsealed";
                vec![format!("{name}: the seal is removed")]
            }
            Self::Sealed(sealed) => {
                report.status = "sealed";
                let numbers = [
                    ("blocks", sealed.blocks),
                    ("groups", sealed.groups),
                    ("groups_coded", sealed.renewed),
                    ("data_shards", sealed.data_shards.into()),
                    ("parity_shards", sealed.parity_shards.into()),
                    ("longest_run", sealed.run),
                    ("seal_bytes", sealed.bytes),
                ];
                facts.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
                facts.insert("beside".to_owned(), sealed.beside.into());
                vec![format!(
                    "{name}: sealed {} blocks: any {} of {} in a group can be lost, and up to {} in \
                     a row; {} of {} groups coded, the seal has {}",
                    sealed.blocks,
                    sealed.parity_shards,
                    u32::from(sealed.data_shards) + u32::from(sealed.parity_shards),
                    sealed.run,
                    sealed.renewed,
                    sealed.groups,
                    show_size(sealed.bytes)
                )]
            }
            Self::Verified(compared) => {
                compared.facts(&mut facts);
                let (status, exit) = if compared.stopped {
                    ("cancelled", ExitBits::CANCELLED)
                } else if compared.verified.is_clean() {
                    ("verified", ExitBits::CLEAN)
                } else if compared.lost.is_empty() && compared.own() == 0 {
                    ("stale", ExitBits::UNCORRECTED)
                } else {
                    ("damaged", ExitBits::UNCORRECTED)
                };
                (report.status, report.exit) = (status, exit.code());
                compared.lines(name)
            }
        };
        report.facts = facts;
        (report, lines)
    }
}

impl Compared {
    /// Blocks of the seal itself that are damaged.
    fn own(&self) -> u64 {
        self.verified.table + self.verified.parity.len() as u64
    }

    fn facts(&self, facts: &mut Map<String, Value>) {
        let pairs = [
            ("sealed", Value::from(Utc(self.when).to_string())),
            ("blocks", self.verified.blocks.into()),
            ("longest_run", self.run.into()),
            ("lost", as_json(&self.lost)),
            ("newer", as_json(&self.newer)),
            ("beyond", as_json(&self.beyond)),
            ("seal_blocks", self.verified.seal_blocks.into()),
            ("seal_blocks_lost", self.own().into()),
            ("groups_without_sums", self.verified.unknown.len().into()),
        ];
        facts.extend(pairs.map(|(name, value)| (name.to_owned(), value)));
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let when = Utc(self.when);
        if self.stopped {
            return vec![format!("{name}: interrupted")];
        }
        if self.verified.is_clean() {
            let blocks = self.verified.blocks;
            return vec![format!(
                "{name}: sealed {when}, all sums of {blocks} blocks match"
            )];
        }
        let mut lines = Vec::new();
        if !self.newer.is_empty() {
            lines.push(format!(
                "{name}: {} blocks changed since {when}: {}; --reseal takes them in",
                self.newer.len(),
                shown_runs(&self.newer)
            ));
        }
        if !self.lost.is_empty() {
            let back = self.lost.len() - self.beyond.len();
            lines.push(format!(
                "{name}: {} blocks are lost: {}; -fy restores {back} of them from the seal of {when}",
                self.lost.len(),
                shown_runs(&self.lost)
            ));
        }
        if !self.beyond.is_empty() {
            lines.push(format!(
                "{name}: {} lost blocks are beyond the seal: {}",
                self.beyond.len(),
                shown_runs(&self.beyond)
            ));
        }
        if self.own() > 0 {
            lines.push(format!(
                "{name}: {} of {} blocks of the seal itself are lost; --reseal renews them",
                self.own(),
                self.verified.seal_blocks
            ));
        }
        if !self.verified.unknown.is_empty() {
            lines.push(format!(
                "{name}: the sums of {} groups are lost; nothing can be said of these",
                self.verified.unknown.len()
            ));
        }
        lines
    }
}
