//! The rounds of a repair: each checks what the last one staged.

use std::collections::HashSet;
use std::path::PathBuf;

use cowfs_format::device::{DeviceMut, OverlayDevice};
use cowfs_format::error::{Error, Result};
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::Report;
use cowfs_format::txn::Timestamp;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;

use super::hidden::Hidden;
use super::history::{History, key};
use super::policy::Decider;
use super::sealed::{self, FromSeal};
use super::stage::{Stage, Staged, cannot};
use super::tidy::{Tidied, Wish};
use super::{Way, alloc, block, dir, inode, refcount, volume, xattr};
use crate::catalogue::{Finding, Layer, Problem};
use crate::check::{Checked, check_with};

/// Rounds after which what is left is left. Each layer takes one, and what a repair brings to light
/// a few more.
const MOST_ROUNDS: usize = 32;

/// A repair under way.
pub(super) struct Staging<'d> {
    pub(super) overlay: OverlayDevice<&'d dyn DeviceMut>,
    pub(super) way: Way,
    pub(super) now: Timestamp,
    pub(super) reset_journal: bool,
    pub(super) only: Option<BlockNo>,
    /// What is still to be done once nothing is left to repair.
    pub(super) wish: Wish,
    pub(super) tidied: Tidied,
    pub(super) history: History,
    /// Findings that a repair was tried for.
    pub(super) tried: HashSet<String>,
    /// How often what is left is tried again, once nothing else is left to do: what was missing for it, space or
    /// something readable, may have come with another repair, or another repair undid it.
    pub(super) retries: usize,
    /// Whether a repair that takes a decision failed for want of space.
    pub(super) short: bool,
    /// Whether space is given back although damage hides who uses some of it.
    pub(super) spares_metadata: bool,
    /// What was found and staged before the first check.
    pub(super) given: Option<Finding>,
    pub(super) seal_file: Option<PathBuf>,
    pub(super) from_seal: Option<FromSeal>,
    /// Whether what came from the seal was held against the rest.
    pub(super) withdrawn: bool,
}

impl<'d> Staging<'d> {
    /// Lets a seal give back what is lost, in the first round, and takes back in the next what does
    /// not fit; whether anything changed.
    fn seal(
        &mut self,
        round: usize,
        volume: &Staged<'d>,
        checked: &Checked,
        decider: &mut Decider<'_>,
        shared: (&Scanner, &Progress),
    ) -> Result<bool> {
        if checked.stopped {
            return Ok(false);
        }
        match &mut self.from_seal {
            Some(taken) if !self.withdrawn => {
                self.withdrawn = true;
                sealed::withdraw(volume, checked, taken)
            }
            None if round == 0 => {
                let file = self.seal_file.as_deref();
                self.from_seal = sealed::restore(volume, checked, file, decider, shared)?;
                Ok(self.from_seal.as_ref().is_some_and(FromSeal::gave))
            }
            _ => Ok(false),
        }
    }

    /// Repairs in memory until there is nothing left to do; the first check and the last one.
    pub(super) fn rounds(
        &mut self,
        decider: &mut Decider<'_>,
        scanner: &Scanner,
        progress: &Progress,
    ) -> Result<(Option<Checked>, Checked)> {
        let mut first = None;
        for round in 0.. {
            let unused = OverlayDevice::new(*self.overlay.base());
            let overlay = std::mem::replace(&mut self.overlay, unused);
            let mut volume: Staged<'d> = self.way.open(overlay)?;
            if !volume.pending().is_empty() {
                // A journal that came to light with a repair.
                volume.recover_staged()?;
                volume.reread()?;
            }
            let mut checked = check_with(&volume, scanner, progress);
            if let Some(given) = self.given.take() {
                checked.given(given);
            }
            if let Some(only) = self.only {
                checked.keep_only(only);
            }
            self.history.add(&checked);
            if self.seal(round, &volume, &checked, decider, (scanner, progress))? {
                first.get_or_insert(checked);
                self.overlay = volume.into_device();
                continue;
            }
            let system_dir = volume.info().system_dir;
            let mut plan = Vec::new();
            if !checked.stopped && round < MOST_ROUNDS {
                plan = self.plan(&checked, system_dir, decider);
                if plan.is_empty() && self.retries > 0 {
                    self.retries -= 1;
                    let left: HashSet<String> = checked.findings.iter().map(key).collect();
                    self.tried.retain(|name| !left.contains(name));
                    plan = self.plan(&checked, system_dir, decider);
                }
            }
            let mut stage =
                Stage::new(&mut volume, &checked.evidence, self.now, self.reset_journal);
            stage.spares_metadata = self.spares_metadata;
            for finding in plan {
                let name = key(finding);
                if let Err(error) = apply(&mut stage, finding) {
                    // What a repair of the volume's own files fails to read is written over, and the
                    // repair tried again.
                    let own = matches!(finding.problem, Problem::VolumeProblem(_));
                    if own && block::heal(&stage, &error) {
                        continue;
                    }
                    let decided = !finding.problem.entry().preen;
                    self.short |= decided && matches!(error, Error::NoSpace { .. });
                    let why = error.to_string();
                    let why = why.strip_prefix("not written: ").unwrap_or(&why);
                    self.history.failed(&name, why);
                }
                self.tried.insert(name);
            }
            let mut more = !checked.stopped && self.history.planned > 0;
            if !more && checked.is_clean() && self.wish.is_any() {
                let wish = std::mem::take(&mut self.wish);
                self.tidied = wish.grant(&mut stage)?;
                more = self.tidied.packed + self.tidied.indexed > 0;
            }
            stage.finish();
            self.history.planned = 0;
            self.overlay = volume.into_device();
            if !more {
                return Ok((first, checked));
            }
            first.get_or_insert(checked);
        }
        Err(cannot("the rounds of the repair did not end"))
    }

    /// What is to be repaired in this round: findings of the first layer that has any.
    fn plan<'c>(
        &mut self,
        checked: &'c Checked,
        volume_dir: BlockNo,
        decider: &mut Decider<'_>,
    ) -> Vec<&'c Finding> {
        let all = checked.findings.iter().chain(&checked.aside);
        let hidden = Hidden::by(all, volume_dir, self.short);
        self.spares_metadata = hidden.hides_claims();
        for layer in Layer::ALL {
            let mut plan = Vec::new();
            for finding in &checked.findings {
                let entry = finding.problem.entry();
                let Some(remedy) = entry.remedy.filter(|remedy| remedy.layer == layer) else {
                    continue;
                };
                let name = key(finding);
                if self.tried.contains(&name) {
                    continue;
                }
                if let Some(why) = hidden.forbids(finding) {
                    self.history.failed(&name, why);
                    continue;
                }
                let shown = shown(checked, finding, remedy.says);
                if decider.allows(finding, &name, &shown) {
                    self.history.forget_failure(&name);
                    plan.push(finding);
                } else {
                    self.history
                        .failed(&name, "not to be repaired without a decision");
                }
            }
            if !plan.is_empty() {
                self.history.planned = plan.len();
                return plan;
            }
        }
        Vec::new()
    }
}

/// The question about a finding.
fn shown(checked: &Checked, finding: &Finding, says: &str) -> String {
    let report = Report {
        findings: vec![checked.item(finding)],
        ..Report::default()
    };
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = report.text_findings(&mut text);
    format!("{}    repair: {says}?", String::from_utf8_lossy(&text))
}

/// Repairs what a finding is about.
fn apply(stage: &mut Stage<'_, '_>, finding: &Finding) -> Result<()> {
    let at = finding.at;
    if let Some(blkno) = at.block.or(at.inode)
        && block::was_elsewhere(stage, blkno)?
    {
        // What is wrong with it besides is told by the next round.
        return Ok(());
    }
    match &finding.problem {
        Problem::VolumeProblem(problem) => volume::repair(stage, at, problem),
        Problem::AllocProblem(problem) => alloc::repair(stage, at, problem),
        Problem::InodeProblem(problem) => inode::repair(stage, at, problem),
        Problem::DirProblem(problem) => dir::repair(stage, at, problem),
        Problem::XattrProblem(problem) => xattr::repair(stage, at, problem),
        Problem::RefcountProblem(problem) => refcount::repair(stage, at, problem),
    }
}
