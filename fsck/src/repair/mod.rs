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
mod history;
mod index;
mod inode;
mod journal;
mod leaves;
mod meta;
mod names;
mod pieces;
pub mod policy;
mod quota;
pub mod rebuild;
mod refcount;
mod rounds;
mod sealed;
mod settle;
mod slots;
mod stage;
mod system;
mod tidy;
mod volume;
mod xattr;

use std::collections::HashSet;
use std::path::PathBuf;

use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::error::Result;
use cowfs_format::layout::HashKind;
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::{Item, Report, Severity};
use cowfs_format::txn::{Recovered, Timestamp};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;

use crate::catalogue::{Finding, Problem, VolumeProblem};
use crate::check::Checked;
use commit::Target;
pub use commit::take_back;
use history::History;
use policy::Decider;
use rebuild::Rebuilt;
use rounds::Staging;
pub use sealed::FromSeal;
use stage::cannot;
use tidy::{Tidied, Wish};

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

/// How often repairs are tried again of what is left in the end.
const RETRIES: usize = 2;

/// How much of a state cannot be seen at all: each of these hides what else there is to find.
fn blindness(findings: &[Finding]) -> usize {
    let blind = |finding: &&Finding| {
        use VolumeProblem as P;
        matches!(
            finding.problem,
            Problem::VolumeProblem(
                P::SuperblockLost { .. } | P::SuperblockGen { .. } | P::SystemDirLost { .. }
            )
        )
    };
    findings.iter().filter(blind).count()
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
        retries: RETRIES,
        short: false,
        spares_metadata: false,
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
    let score = |checked: &Checked| {
        let findings = &checked.findings;
        (blindness(findings), checked.left_out, badness(findings))
    };
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
