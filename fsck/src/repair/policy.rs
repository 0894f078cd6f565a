//! Who decides: what a run may repair, by options, by code, or by asking.

use std::collections::{HashMap, HashSet};

use cowfs_format::toolkit::report::Severity;

use super::sealed::FromSeal;
use crate::catalogue::{self, Entry, Finding, Layer};

/// What a run does about problems that no `--policy` speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Repairs what loses nothing and needs no decision.
    Preen,
    /// Repairs everything that can be.
    Yes,
    /// Asks for each.
    Ask,
}

/// The decision about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Repair.
    Yes,
    /// Leave.
    No,
    /// Ask; leave when nobody can be asked.
    Ask,
}

/// What somebody who was asked said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This one.
    Yes,
    /// Not this one.
    No,
    /// This one and all that follow.
    All,
}

/// Asks about a finding: what is wrong and how it would be repaired.
pub type Asker<'a> = dyn FnMut(&str) -> Reply + 'a;

/// Decides about findings, each once.
pub struct Decider<'a> {
    mode: Mode,
    codes: HashMap<&'static str, Answer>,
    asker: Option<Box<Asker<'a>>>,
    answered: HashSet<(String, bool)>,
    all: bool,
}

impl std::fmt::Debug for Decider<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decider")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Reads a policy, `CODE=yes`, `CODE=no` or `CODE=ask`.
///
/// # Errors
/// There is no such code or no such answer.
pub fn parse(text: &str) -> Result<(&'static str, Answer), String> {
    let (code, answer) = text
        .split_once('=')
        .ok_or("must be CODE=yes, CODE=no or CODE=ask")?;
    let answer = match answer {
        "yes" => Answer::Yes,
        "no" => Answer::No,
        "ask" => Answer::Ask,
        _ => return Err(format!("answer \"{answer}\": must be yes, no or ask")),
    };
    catalogue::entries()
        .find(|entry| entry.code.eq_ignore_ascii_case(code))
        .map(|entry| (entry.code, answer))
        .ok_or_else(|| format!("no code \"{code}\"; --explain all lists them"))
}

/// Whether a problem is what a slot still owes.
fn is_due(entry: &Entry) -> bool {
    entry
        .remedy
        .is_some_and(|remedy| remedy.layer == Layer::Slots)
}

impl<'a> Decider<'a> {
    /// A decider without anybody to ask.
    #[must_use]
    pub fn new(mode: Mode, codes: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        Self {
            mode,
            codes: codes.into_iter().collect(),
            asker: None,
            answered: HashSet::new(),
            all: false,
        }
    }

    /// With somebody to ask.
    #[must_use]
    pub fn asking(mut self, asker: impl FnMut(&str) -> Reply + 'a) -> Self {
        self.asker = Some(Box::new(asker));
        self
    }

    fn answer(&self, entry: &Entry) -> Answer {
        if let Some(answer) = self.codes.get(entry.code) {
            return *answer;
        }
        match self.mode {
            Mode::Yes => Answer::Yes,
            Mode::Ask => Answer::Ask,
            // What is only told needs no repair on its own account, and never a risk; but what the
            // next mount would do anyway is done.
            Mode::Preen if entry.preen && (entry.severity > Severity::Note || is_due(entry)) => {
                Answer::Yes
            }
            Mode::Preen => Answer::No,
        }
    }

    /// Whether a finding, named by `key`, is to be repaired.
    pub(super) fn allows(&mut self, finding: &Finding, key: &str, shown: &str) -> bool {
        match self.answer(finding.problem.entry()) {
            Answer::Yes => return true,
            Answer::No => return false,
            Answer::Ask if self.all => return true,
            Answer::Ask => {}
        }
        for answer in [true, false] {
            if self.answered.contains(&(key.to_owned(), answer)) {
                return answer;
            }
        }
        let reply = self.asker.as_mut().map_or(Reply::No, |ask| ask(shown));
        self.all |= reply == Reply::All;
        let answer = reply != Reply::No;
        self.answered.insert((key.to_owned(), answer));
        answer
    }

    /// Whether what a seal gives back is to be taken. Where nothing is newer than the seal, that loses
    /// nothing.
    pub(super) fn allows_seal(&mut self, taken: &FromSeal) -> bool {
        match self.mode {
            Mode::Yes => true,
            Mode::Preen => taken.quiet,
            Mode::Ask if self.all => true,
            Mode::Ask => {
                let shown = taken.line().unwrap_or_default();
                let reply = self.asker.as_mut().map_or(Reply::No, |ask| {
                    ask(&format!("{shown}\n    repair: restore them?"))
                });
                self.all |= reply == Reply::All;
                reply != Reply::No
            }
        }
    }

    /// Whether the journals of a volume that was not unmounted may be replayed.
    pub(super) fn replays(&self) -> bool {
        self.codes.get("X_JOURNAL_PENDING") != Some(&Answer::No)
    }
}
