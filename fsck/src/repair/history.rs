//! What came up in the rounds of a repair, and what became of it.

use std::collections::{HashMap, HashSet};

use cowfs_format::block::View;
use cowfs_format::toolkit::report::{Item, Outcome, Severity};
use cowfs_format::txn::Recovered;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::{self as system_file, SystemFile};

use super::sealed::FromSeal;
use crate::catalogue::{At, Finding, VolumeProblem};
use crate::check::Checked;

/// Tells findings of different rounds apart.
pub(super) fn key(finding: &Finding) -> String {
    let At { inode, block } = finding.at;
    let number = |place: Option<BlockNo>| place.map_or(0, |b| b.0);
    let (inode, block) = (number(inode), number(block));
    format!(
        "{} {inode} {block} {}",
        finding.problem.code(),
        finding.problem
    )
}

/// Everything that came up, in order, and what became of it.
#[derive(Default)]
pub(super) struct History {
    items: Vec<(String, Item, Option<&'static str>)>,
    known: HashSet<String>,
    /// What was put right before the first check.
    done: HashSet<String>,
    /// Why something was not repaired.
    failures: HashMap<String, String>,
    /// Number of repairs in this round.
    pub(super) planned: usize,
}

impl History {
    /// Tells what the recovery put right that is a finding of a check.
    pub(super) fn recovered(&mut self, view: View<'_>, recovered: &Recovered) {
        let slot_map = system_file::find(view, SystemFile::SlotMap).ok();
        for &(slot, node) in &recovered.released {
            let at = At {
                inode: slot_map,
                block: None,
            };
            let slot = slot.0;
            let problem = VolumeProblem::SlotHeld { slot, node }.into();
            let finding = Finding { at, problem };
            let name = key(&finding);
            let says = finding.problem.entry().remedy.map(|remedy| remedy.says);
            let item = Checked::default().item(&finding);
            self.known.insert(name.clone());
            self.done.insert(name.clone());
            self.items.push((name, item, says));
        }
    }

    pub(super) fn add(&mut self, checked: &Checked) {
        for finding in &checked.findings {
            let name = key(finding);
            if self.known.insert(name.clone()) {
                let says = finding.problem.entry().remedy.map(|remedy| remedy.says);
                self.items.push((name, checked.item(finding), says));
            }
        }
    }

    /// Forgets what came up on the way, when the way was not taken.
    pub(super) fn keep_first(&mut self, first: &Checked) {
        let names: HashSet<String> = first.findings.iter().map(key).collect();
        let done = &self.done;
        self.items
            .retain(|(name, ..)| names.contains(name) || done.contains(name));
    }

    pub(super) fn failed(&mut self, name: &str, why: &str) {
        self.failures.insert(name.to_owned(), why.to_owned());
    }

    pub(super) fn forget_failure(&mut self, name: &str) {
        self.failures.remove(name);
    }

    /// The findings with their outcomes, once `last` is what the device holds.
    pub(super) fn items(
        self,
        last: &Checked,
        committed: bool,
        tried: &HashSet<String>,
        seal: Option<&FromSeal>,
    ) -> Vec<Item> {
        let from_seal = |item: &Item| {
            let places = [item.place.block, item.place.inode].into_iter().flatten();
            let mut blocks = places.map(BlockNo);
            seal.is_some_and(|seal| blocks.any(|blkno| seal.blocks.contains(&blkno)))
        };
        let left: HashSet<String> = last.findings.iter().map(key).collect();
        let finish = |(name, mut item, says): (String, Item, Option<&'static str>)| {
            let done = self.done.contains(&name);
            let repaired = done || (committed && !left.contains(&name));
            if item.severity == Severity::Note && !repaired {
                return item;
            }
            let failure = self.failures.get(&name);
            let own = says.filter(|_| done || (tried.contains(&name) && failure.is_none()));
            let what = match (repaired, own, failure) {
                (true, None, _) if from_seal(&item) => "it came back from the seal".to_owned(),
                (true, Some(says), _) => says.to_owned(),
                (true, None, _) => "it went with what was repaired beside it".to_owned(),
                (false, _, Some(why)) => why.clone(),
                (false, _, None) if says.is_none() => {
                    "this version has no repair for it".to_owned()
                }
                (false, _, None) => {
                    "no repair of it could be proven; nothing was written for it".to_owned()
                }
            };
            item.outcome = Some(Outcome { repaired, what });
            item
        };
        self.items.into_iter().map(finish).collect()
    }
}
