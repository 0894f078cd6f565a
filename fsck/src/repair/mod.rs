//! Repairs: scan, decide, stage, prove, commit.
//!
//! A round checks the whole staged volume and repairs what was found in one [`Layer`]; the next
//! round's check tells whether that was right, and what it brought to light. Nothing is written
//! before a round has nothing left to do and its check is better than the first one; then everything
//! is, in one [`commit`]. There is a file here for each kind of structure, as in `pass/`.

mod adopt;
mod alloc;
mod block;
mod commit;
mod connect;
mod contents;
mod dir;
mod extents;
mod group;
mod hidden;
mod index;
mod inode;
mod journal;
mod leaves;
mod names;
mod pieces;
pub mod policy;
mod quota;
pub mod rebuild;
mod refcount;
mod sealed;
mod settle;
mod slots;
mod stage;
mod system;
mod tidy;
mod volume;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use cowfs_format::block::View;
use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::error::Result;
use cowfs_format::layout::HashKind;
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::{Item, Outcome, Report, Severity};
use cowfs_format::txn::{Recovered, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::{self as system_file, SystemFile};

use crate::catalogue::{At, Finding, Layer, Problem, VolumeProblem};
use crate::check::{Checked, check_with};
use commit::Target;
pub use commit::take_back;
use hidden::Hidden;
use policy::Decider;
use rebuild::Rebuilt;
pub use sealed::FromSeal;
use stage::{Stage, Staged, cannot};
use tidy::{Tidied, Wish};

/// Rounds after which what is left is left. Each layer takes one, and what a repair brings to light
/// a few more.
const MOST_ROUNDS: usize = 32;

/// How a volume is opened: by its superblock, or by a backup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// The number of the backup superblock, 1 to 6.
    pub backup: Option<u32>,
    /// Block size as a power of two, when it is known.
    pub block_bits: Option<u32>,
}

impl Way {
    /// Opens a volume.
    ///
    /// # Errors
    /// There is none.
    pub fn open<D: Device>(self, device: D) -> Result<Volume<D>> {
        match self.backup {
            Some(number) => Volume::open_backup(device, number, self.block_bits),
            None => Volume::open_mending(device),
        }
    }
}

/// How to repair.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the volume is opened.
    pub way: Way,
    /// The time that repairs leave in what they make.
    pub now: Timestamp,
    /// Whether the device is a copy that nobody else sees, to be written without a journal.
    pub copy: bool,
    /// Repair only what is wrong with this object.
    pub only: Option<BlockNo>,
    /// Pack directories when nothing is left to repair.
    pub optimize: bool,
    /// Index names with bytes of 0x80 and above under these hashes.
    pub name_hash: Option<&'static [HashKind]>,
    /// Where an undo log may stand while a repair is written that no journal can carry.
    pub undo: Option<PathBuf>,
    /// Whether journals beyond help are emptied, whatever they may hold.
    pub reset_journal: bool,
    /// The superblock to go by, when there is none that can be used.
    pub superblock: Option<Rebuilt>,
    /// A file beside the volume with its seal.
    pub seal_file: Option<PathBuf>,
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// What the check of the state that is now on the device says.
    pub checked: Checked,
    /// The findings of all rounds in the order in which they came up, with what was done.
    pub items: Vec<Item>,
    /// Blocks written.
    pub blocks: usize,
    /// Whether a journal was replayed.
    pub replayed: bool,
    /// What came from a seal.
    pub from_seal: Option<FromSeal>,
    tidied: Tidied,
}

impl Repaired {
    /// The report, for a volume of that name.
    #[must_use]
    pub fn report(&self, name: &str) -> Report {
        let mut report = self.checked.report(name);
        report.findings.clone_from(&self.items);
        if let Some(seal) = &self.from_seal {
            report.facts.insert("seal".to_owned(), seal.facts());
        }
        let Tidied {
            packed,
            indexed,
            no_room,
        } = self.tidied;
        for (name, count) in [
            ("directories_packed", packed),
            ("directories_indexed", indexed),
            ("directories_without_room", no_room),
        ] {
            if count > 0 {
                report.facts.insert(name.to_owned(), count.into());
            }
        }
        if self.blocks == 0 && !self.replayed {
            return report;
        }
        report
            .facts
            .insert("blocks_repaired".to_owned(), self.blocks.into());
        if report.exit == ExitBits::CLEAN.code() {
            report.status = "repaired";
            report.exit = ExitBits::CORRECTED.code();
        } else {
            report.status = "repaired in part";
            report.exit |= ExitBits::CORRECTED.code();
        }
        report
    }
}

/// Tells findings of different rounds apart.
fn key(finding: &Finding) -> String {
    let At { inode, block } = finding.at;
    let number = |place: Option<BlockNo>| place.map_or(0, |b| b.0);
    let (inode, block) = (number(inode), number(block));
    format!(
        "{} {inode} {block} {}",
        finding.problem.code(),
        finding.problem
    )
}

/// How bad a state is: errors first, then warnings.
fn badness(findings: &[Finding]) -> [u64; 3] {
    let count = |severity| {
        let entries = findings.iter().map(|finding| finding.problem.entry());
        // What is only told counts when it can be put right.
        let of = entries.filter(|entry| {
            entry.severity == severity && (severity > Severity::Note || entry.remedy.is_some())
        });
        of.count() as u64
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    [errors, warnings, count(Severity::Note)]
}

/// Repairs a volume as far as `decider` allows. Nothing is written when the result would not be
/// better than what there is.
///
/// # Errors
/// The volume cannot be opened, a node of a cluster may be alive, or the device fails.
pub fn repair(
    device: &dyn DeviceMut,
    options: &Options,
    decider: &mut Decider<'_>,
    scanner: &Scanner,
    progress: &Progress,
    alone: &mut dyn FnMut(&mut Volume<&dyn DeviceMut>) -> Result<()>,
) -> Result<Repaired> {
    let undo = options.undo.as_deref();
    if let Some(path) = undo {
        commit::take_back(device, path)?;
    }
    let overlay = OverlayDevice::new(device);
    let mut given = None;
    let mut history = History::default();
    // What cannot even be opened may come back from a seal; only then is anything rebuilt.
    let file = options.seal_file.as_deref();
    let from_seal = match options.way.open(device) {
        Ok(_) => None,
        Err(_) => sealed::reopen(&overlay, file, decider, (scanner, progress))?,
    };
    let reopened = from_seal.is_some();
    let (mut volume, mut replayed) = match &options.superblock {
        _ if reopened => {
            alone(&mut options.way.open::<&dyn DeviceMut>(&overlay)?)?;
            (None, false)
        }
        None => {
            let (volume, recovered) = opened(device, options, decider, alone)?;
            history.recovered(volume.view(), &recovered);
            (Some(volume), !is_nothing(&recovered))
        }
        Some(rebuilt) => {
            given = Some(rebuilt.stage(&overlay)?);
            (None, false)
        }
    };
    let mut staging = Staging {
        overlay,
        way: options.way,
        now: options.now,
        reset_journal: options.reset_journal,
        only: options.only,
        wish: Wish {
            pack: options.optimize,
            hashes: options.name_hash,
            only: options.only,
        },
        tidied: Tidied::default(),
        history,
        tried: HashSet::new(),
        given,
        seal_file: options.seal_file.clone(),
        from_seal,
        withdrawn: false,
    };
    let (first, mut last) = staging.rounds(decider, scanner, progress)?;
    let Staging {
        overlay,
        mut history,
        tried,
        mut from_seal,
        mut tidied,
        ..
    } = staging;
    let mut blocks = 0;
    let mut better = false;
    let score = |checked: &Checked| (checked.left_out, badness(&checked.findings));
    if reopened {
        better = !last.stopped;
        if better {
            blocks = commit::commit(Target::Device(device), &overlay, options.copy, undo)?;
            replayed |= free_slots(device, options, volume, alone)?;
        }
    } else if let Some(first) = first {
        // What a seal gives back may be file contents, of which the check knows nothing; nor does it
        // ask for directories to be tidy.
        let more =
            from_seal.as_ref().is_some_and(FromSeal::gave) || tidied.packed + tidied.indexed > 0;
        let (before, after) = (score(&first), score(&last));
        better = (after < before || more && after == before)
            && badness(&last.aside) <= badness(&first.aside)
            && !last.stopped;
        if better {
            let target = match &mut volume {
                Some(volume) => Target::Volume(volume),
                None => Target::Device(device),
            };
            blocks = commit::commit(target, &overlay, options.copy, undo)?;
            replayed |= free_slots(device, options, volume, alone)?;
        } else {
            let stopped = last.stopped;
            tidied = Tidied::default();
            last = first;
            last.stopped = stopped;
            history.keep_first(&last);
            from_seal = None;
        }
    }
    let items = history.items(&last, better, &tried, from_seal.as_ref());
    Ok(Repaired {
        checked: last,
        items,
        blocks,
        replayed,
        from_seal,
        tidied,
    })
}

/// Whether a recovery wrote nothing.
fn is_nothing(recovered: &Recovered) -> bool {
    let Recovered {
        replayed,
        settled,
        released,
        ..
    } = recovered;
    replayed.is_empty() && settled.is_empty() && released.is_empty()
}

/// Opens a volume to be repaired, its journals replayed.
fn opened<'d>(
    device: &'d dyn DeviceMut,
    options: &Options,
    decider: &Decider<'_>,
    alone: &mut dyn FnMut(&mut Volume<&dyn DeviceMut>) -> Result<()>,
) -> Result<(Volume<&'d dyn DeviceMut>, Recovered)> {
    let mut volume: Volume<&dyn DeviceMut> = options.way.open(device)?;
    alone(&mut volume)?;
    if !volume.pending().is_empty() && !decider.replays() {
        return Err(cannot(
            "its journal must be replayed before anything can be repaired",
        ));
    }
    let recovered = volume.recover_past_damage()?;
    if !recovered.replayed.is_empty() {
        volume = options.way.open(device)?;
        alone(&mut volume)?;
    }
    Ok((volume, recovered))
}

/// Frees the slots that owe nothing any more once a repair is written; whether there were any.
fn free_slots(
    device: &dyn DeviceMut,
    options: &Options,
    volume: Option<Volume<&dyn DeviceMut>>,
    alone: &mut dyn FnMut(&mut Volume<&dyn DeviceMut>) -> Result<()>,
) -> Result<bool> {
    let mut volume = match volume {
        Some(mut volume) => {
            volume.reread()?;
            volume
        }
        None => {
            let mut volume = options.way.open(device)?;
            alone(&mut volume)?;
            volume
        }
    };
    Ok(!is_nothing(&volume.recover_past_damage()?))
}

/// A repair under way.
struct Staging<'d> {
    overlay: OverlayDevice<&'d dyn DeviceMut>,
    way: Way,
    now: Timestamp,
    reset_journal: bool,
    only: Option<BlockNo>,
    /// What is still to be done once nothing is left to repair.
    wish: Wish,
    tidied: Tidied,
    history: History,
    /// Findings that a repair was tried for.
    tried: HashSet<String>,
    /// What was found and staged before the first check.
    given: Option<Finding>,
    seal_file: Option<PathBuf>,
    from_seal: Option<FromSeal>,
    /// Whether what came from the seal was held against the rest.
    withdrawn: bool,
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
    fn rounds(
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
            let plan = if checked.stopped || round == MOST_ROUNDS {
                Vec::new()
            } else {
                self.plan(&checked, volume.info().system_dir, decider)
            };
            let mut stage =
                Stage::new(&mut volume, &checked.evidence, self.now, self.reset_journal);
            for finding in plan {
                let name = key(finding);
                if let Err(error) = apply(&mut stage, finding) {
                    // What a repair of the volume's own files fails to read is written over, and the
                    // repair tried again.
                    let own = matches!(finding.problem, Problem::VolumeProblem(_));
                    if own && block::heal(&stage, &error) {
                        continue;
                    }
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
        let hidden = Hidden::by(all, volume_dir);
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
    match &finding.problem {
        Problem::VolumeProblem(problem) => volume::repair(stage, at, problem),
        Problem::AllocProblem(problem) => alloc::repair(stage, at, problem),
        Problem::InodeProblem(problem) => inode::repair(stage, at, problem),
        Problem::DirProblem(problem) => dir::repair(stage, at, problem),
        Problem::XattrProblem(problem) => xattr::repair(stage, at, problem),
        Problem::RefcountProblem(problem) => refcount::repair(stage, at, problem),
    }
}

/// Everything that came up, in order, and what became of it.
#[derive(Default)]
struct History {
    items: Vec<(String, Item, Option<&'static str>)>,
    known: HashSet<String>,
    /// What was put right before the first check.
    done: HashSet<String>,
    /// Why something was not repaired.
    failures: HashMap<String, String>,
    /// Number of repairs in this round.
    planned: usize,
}

impl History {
    /// Tells what the recovery put right that is a finding of a check.
    fn recovered(&mut self, view: View<'_>, recovered: &Recovered) {
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

    fn add(&mut self, checked: &Checked) {
        for finding in &checked.findings {
            let name = key(finding);
            if self.known.insert(name.clone()) {
                let says = finding.problem.entry().remedy.map(|remedy| remedy.says);
                self.items.push((name, checked.item(finding), says));
            }
        }
    }

    /// Forgets what came up on the way, when the way was not taken.
    fn keep_first(&mut self, first: &Checked) {
        let names: HashSet<String> = first.findings.iter().map(key).collect();
        let done = &self.done;
        self.items
            .retain(|(name, ..)| names.contains(name) || done.contains(name));
    }

    fn failed(&mut self, name: &str, why: &str) {
        self.failures.insert(name.to_owned(), why.to_owned());
    }

    fn forget_failure(&mut self, name: &str) {
        self.failures.remove(name);
    }

    /// The findings with their outcomes, once `last` is what the device holds.
    fn items(
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
