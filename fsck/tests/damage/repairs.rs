//! Repairs: every recipe's damage is repaired, where the catalogue says that it can be; the result
//! has nothing left to do, in our eyes and in those of fsck.ocfs2, and what was not damaged is as it
//! was. What cannot be repaired is named, and not written to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cowfs_format::device::{Device, DeviceMut, FaultDevice, OverlayDevice};
use cowfs_format::error::Result;
use cowfs_format::layout::{ChainList, Incompat};
use cowfs_format::read::inode;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::{Item, Report, Severity};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::Slot;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_tests::{golden, manifest, oracle};
use fsck_cowfs::catalogue::entries;
use fsck_cowfs::repair::policy::{Answer, Decider, Mode};
use fsck_cowfs::repair::{Options, Repaired, Way, rebuild, repair};

use crate::patch::{Base, Patch};
use crate::{Recipe, all};

/// Entries without a repair. Whoever adds a repair strikes its line.
const LEFT: &[(&str, &str)] = &[
    // All names are there; --name-hash settles who finds them.
    ("X_DX_MIXED_HASH", "DxMixed"),
    ("X_DX_ONE_HASH", "DxOneHash"),
];

/// Lines of the manifest that the repair of most recipes may change: the file that was damaged and
/// its directory, by their times or what they lost.
const FEW: usize = 3;
/// Where it is more: all that moves with a directory into lost+found.
const MORE: &[(&str, &str, usize)] = &[("DIR_NOT_CONNECTED", "NotConnected", 8)];

pub(crate) type Stack<'p> = FaultDevice<&'p OverlayDevice<Base>>;

fn options(device: &dyn Device) -> Options {
    // As the program does it: a backup when there is one, and what can be found when there is none.
    let lost = Volume::open_mending(device).is_err();
    let backup = lost && Volume::open_backup(device, 1, None).is_ok();
    let superblock = (lost && !backup).then(|| rebuild::rebuild(device).unwrap());
    let way = Way {
        backup: backup.then_some(1),
        block_bits: None,
    };
    let now = Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    };
    Options {
        way,
        now,
        copy: false,
        undo: None,
        reset_journal: false,
        superblock,
        seal_file: None,
        only: None,
        optimize: false,
        name_hash: None,
    }
}

/// Repairs a device.
pub(crate) fn run(device: &dyn DeviceMut, mode: Mode) -> Result<Repaired> {
    run_with(device, mode, None)
}

/// Repairs a device, under an undo log where a journal will not do.
pub(crate) fn run_with(
    device: &dyn DeviceMut,
    mode: Mode,
    undo: Option<&Path>,
) -> Result<Repaired> {
    decided(device, Decider::new(mode, []), undo)
}

fn decided(
    device: &dyn DeviceMut,
    mut decider: Decider<'_>,
    undo: Option<&Path>,
) -> Result<Repaired> {
    let mut options = options(&device);
    options.undo = undo.map(Path::to_owned);
    with_options(device, &options, &mut decider)
}

/// Repairs everything on a device, journals beyond help emptied.
pub(crate) fn resetting(device: &dyn DeviceMut, undo: &Path) -> Result<Repaired> {
    let mut options = options(&device);
    options.undo = Some(undo.to_owned());
    options.reset_journal = true;
    with_options(device, &options, &mut Decider::new(Mode::Yes, []))
}

fn with_options(
    device: &dyn DeviceMut,
    options: &Options,
    decider: &mut Decider<'_>,
) -> Result<Repaired> {
    let scanner = Scanner::new(Some(2))?;
    let (progress, mut alone) = (Progress::default(), |_: &mut Volume<&dyn DeviceMut>| Ok(()));
    repair(device, options, decider, &scanner, &progress, &mut alone)
}

/// The device of a damaged image, which counts its writes.
pub(crate) fn device(patch: &Patch) -> Stack<'_> {
    FaultDevice::unreadable(&patch.device, patch.unreadable.iter().copied())
}

fn damaged(recipe: &Recipe) -> Patch {
    let mut patch = Patch::new(recipe.image, true);
    (recipe.damage)(&mut patch);
    patch
}

/// An image as a file.
fn saved(device: &dyn Device) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(device.size()).unwrap();
    let mut piece = vec![0; 1 << 16];
    for at in (0..device.size()).step_by(piece.len()) {
        let len = usize::try_from((device.size() - at).min(1 << 16)).unwrap();
        device.read_at(at, &mut piece[..len]).unwrap();
        if piece[..len].iter().any(|byte| *byte != 0) {
            file.as_file().write_all_at(&piece[..len], at).unwrap();
        }
    }
    file
}

/// The codes that fsck.ocfs2 gives for an image.
pub(crate) fn foreign_codes(patch: &Patch) -> BTreeSet<String> {
    let file = saved(&patch.device);
    let report = oracle::check(file.path()).unwrap();
    // What it gives up on is told of the recipe, like a code.
    let unfinished = (!report.finished()).then_some(report.transcript);
    report.codes.into_iter().chain(unfinished).collect()
}

/// What is known of an image before it is damaged.
pub(crate) struct Sound {
    pub(crate) lines: BTreeSet<String>,
    pub(crate) foreign: BTreeSet<String>,
}

impl Sound {
    pub(crate) fn of(image: &str) -> Self {
        let patch = Patch::new(image, true);
        // The image with backups is ours and too large to be summed up often.
        let foreign = if image == "backups" {
            BTreeSet::new()
        } else {
            foreign_codes(&patch)
        };
        let lines = lines(&patch);
        Self { lines, foreign }
    }
}

/// The lines of an image's manifest.
pub(crate) fn lines(patch: &Patch) -> BTreeSet<String> {
    let text = manifest::to_text(&manifest::of(patch.volume().view()));
    text.lines().map(str::to_owned).collect()
}

/// Findings of a run that are shown in its transcript.
const SHOWN: usize = 8;

/// What a run says.
fn said(option: &str, mut report: Report) -> String {
    let more = report.findings.len().saturating_sub(SHOWN) as u64;
    report.findings.truncate(SHOWN);
    report.findings_left_out += more;
    let mut text = Vec::new();
    report.text_findings(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    format!("{option}: {}, exit {}\n{text}", report.status, report.exit)
}

/// What is said of a recipe that has a repair, before it, of it, and after it; or what is wrong with it.
fn repaired(recipe: &Recipe, sound: &Sound) -> std::result::Result<String, String> {
    let patch = damaged(recipe);
    let found = patch.check(2).map(|checked| checked.report("volume"));
    let mut transcript = match found {
        Ok(report) => said("-n", report),
        Err(error) => format!("-n: {error}\n"),
    };
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let report = run_with(&device(&patch), Mode::Yes, Some(&log))
        .map_err(|error| format!("refused: {error}"))?
        .report("volume");
    transcript += &said("-y", report.clone());
    let left: Vec<String> = report
        .findings
        .iter()
        .filter_map(|item| {
            let outcome = item.outcome.as_ref().filter(|outcome| !outcome.repaired)?;
            Some(format!("{} {} ({})", item.code, item.message, outcome.what))
        })
        .collect();
    if report.exit != 1 || !left.is_empty() {
        return Err(format!("exit {}: {left:?}", report.exit));
    }
    let told = |item: &Item| item.code == recipe.code && item.outcome.is_some();
    if !report.findings.iter().any(told) && recipe.code != "X_JOURNAL_PENDING" {
        return Err("its repair is not told".to_owned());
    }
    let checked = patch.check(2).map_err(|error| error.to_string())?;
    if !checked.is_clean() {
        return Err(format!("not clean: {:?}", checked.codes()));
    }
    let again = device(&patch);
    let second = run(&again, Mode::Yes).map_err(|error| format!("again: {error}"))?;
    let second = second.report("volume");
    if (second.exit, again.writes()) != (0, 0) {
        return Err("a second run writes".to_owned());
    }
    transcript += &said("-y", second);
    let lost = sound.lines.difference(&lines(&patch)).count();
    let more = MORE
        .iter()
        .find(|more| (more.0, more.1) == (recipe.code, recipe.name));
    if lost > more.map_or(FEW, |more| more.2) {
        return Err(format!("{lost} files changed"));
    }
    if recipe.image != "backups" {
        let foreign = foreign_codes(&patch);
        let new: Vec<_> = foreign.difference(&sound.foreign).collect();
        if !new.is_empty() {
            return Err(format!("fsck.ocfs2 says {new:?}"));
        }
    }
    Ok(transcript)
}

#[test]
fn every_repair_leaves_nothing_to_do() {
    cowfs_tests::need!(oracle::tools());
    let mut images: BTreeMap<&str, Sound> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut transcripts = String::new();
    for recipe in all().filter(|recipe| !LEFT.contains(&(recipe.code, recipe.name))) {
        let Recipe {
            code, name, image, ..
        } = recipe;
        let sound = images.entry(image).or_insert_with(|| Sound::of(image));
        match repaired(recipe, sound) {
            Ok(said) => transcripts += &format!("== {code} {name} ({image})\n{said}\n"),
            Err(why) => wrong.push(format!("{code} {name}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // That what is said is right is tested above and, of each finding, in `main.rs`; this tells that it has
    // changed. `INSTA_UPDATE=always` writes it anew.
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("repairs", transcripts));
}

/// What has no repair is told as such, and stays.
#[test]
fn what_cannot_be_repaired_is_named_and_stays() {
    let without: BTreeSet<_> = entries()
        .filter(|entry| entry.remedy.is_none())
        .map(|entry| (entry.code, entry.name))
        .collect();
    assert_eq!(without, LEFT.iter().copied().collect());
    for recipe in all().filter(|recipe| without.contains(&(recipe.code, recipe.name))) {
        let patch = damaged(recipe);
        let device = device(&patch);
        let report = run(&device, Mode::Yes).unwrap().report("volume");
        let item = report.findings.iter().find(|item| item.code == recipe.code);
        let item = item.unwrap_or_else(|| panic!("{}: not told", recipe.code));
        if item.severity > Severity::Note {
            assert!(report.exit & 4 != 0, "{}: {}", recipe.code, report.exit);
            let outcome = item.outcome.as_ref().unwrap();
            assert!(
                !outcome.repaired && outcome.what.contains("no repair"),
                "{outcome:?}"
            );
        }
        // Something else may have been repaired beside it; if not, nothing was written.
        assert_eq!(report.exit & 1 != 0, device.writes() > 0, "{}", recipe.code);
    }
}

/// A volume that is sound is not written to, whatever may be.
#[test]
fn healthy_volumes_are_not_touched() {
    for image in golden::all().unwrap() {
        let patch = Patch::new(&image.name, true);
        let volume = patch.volume();
        if !volume.info().has(Incompat::LOCAL_MOUNT) {
            continue;
        }
        // What a slot still owes is no damage, but is due.
        let pending = !volume.pending().is_empty();
        let owes = |slot| volume.owes(Slot(slot)).unwrap();
        let owes = (0..volume.info().max_slots).any(owes);
        drop(volume);
        for expected in [u8::from(pending || owes), 0] {
            let device = device(&patch);
            let report = run(&device, Mode::Yes).unwrap().report("volume");
            assert_eq!(
                report.exit, expected,
                "{}: {:?}",
                image.name, report.findings
            );
            assert_eq!(device.writes() > 0, expected > 0, "{}", image.name);
        }
    }
}

/// Without a decision only what is safe is repaired.
#[test]
fn preening_leaves_what_needs_a_decision() {
    for (code, exit) in [
        ("INODE_COUNT", 1),
        ("X_ECC_ONE_BIT", 1),
        ("CLUSTER_ALLOC_BIT", 1),
        ("INODE_GEN", 4),
        ("DIRENT_LENGTH", 4),
        ("EXTENT_OVERLAP", 4),
    ] {
        let recipe = all().find(|recipe| recipe.code == code).unwrap();
        let patch = damaged(recipe);
        let device = device(&patch);
        let report = run(&device, Mode::Preen).unwrap().report("volume");
        assert_eq!(report.exit & 5, exit, "{code}: {:?}", report.findings);
        assert_eq!(device.writes() > 0, exit == 1, "{code}");
    }
}

/// Stopped at any write, the next run ends with the bytes that an undisturbed one leaves; only the
/// journals, whose contents mean nothing any more, may hold other old records.
#[test]
fn a_repair_stopped_at_any_write_is_finished_by_the_next_run() {
    for (code, name) in [
        ("INODE_COUNT", "Count"),
        ("CLUSTER_ALLOC_BIT", "ClusterLeak"),
        ("DX_TREE_CORRUPT", "DxTreeCorrupt"),
        ("EXTENT_EB_INVALID", "ExtentEbInvalid"),
        ("REFCOUNT_ROOT_BLOCK_INVALID", "RootBlockInvalid"),
        ("X_SLOT_UNRECOVERED", "SlotUnrecovered"),
    ] {
        let recipe = all().find(|recipe| (recipe.code, recipe.name) == (code, name));
        let patch = damaged(recipe.unwrap());
        let journals = journal_blocks(&patch);
        let unit = patch.info.geo.block_bytes() as u64;
        let state = |device: &OverlayDevice<&OverlayDevice<Base>>| {
            let mut blocks = BTreeMap::new();
            for number in device.changed(unit) {
                if !journals.contains(&number) {
                    let mut bytes = vec![0; patch.info.geo.block_bytes()];
                    device.read_at(number * unit, &mut bytes).unwrap();
                    blocks.insert(number, bytes);
                }
            }
            blocks
        };
        let whole = FaultDevice::stopping_at(OverlayDevice::new(&patch.device), u64::MAX);
        assert_eq!(
            run(&whole, Mode::Yes).unwrap().report("volume").exit,
            1,
            "{code}"
        );
        let writes = whole.writes();
        let expected = state(&whole.into_base());
        assert!(
            !expected.is_empty() && writes > 5,
            "{code}: {writes} writes"
        );
        for stop in 0..writes {
            let device = FaultDevice::stopping_at(OverlayDevice::new(&patch.device), stop);
            assert!(run(&device, Mode::Yes).is_err(), "{code} at {stop}");
            let device = device.into_base();
            let report = run(&device, Mode::Yes).unwrap().report("volume");
            assert_eq!(
                report.exit & !1,
                0,
                "{code} at {stop}: {:?}",
                report.findings
            );
            assert!(state(&device) == expected, "{code} at {stop}: other bytes");
        }
    }
}

/// The same without a journal that could carry the repair: it is written under an undo log.
#[test]
fn a_repair_under_an_undo_log_is_taken_back_and_made_again() {
    let mut patch = Patch::new("b4k-c4k-max", true);
    for slot in [Slot(0), Slot(1)] {
        let journal = patch.system(SystemFile::Journal(slot));
        patch.set_inode(journal, "i_dtime", 5);
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let whole = FaultDevice::stopping_at(OverlayDevice::new(&patch.device), u64::MAX);
    assert!(run(&whole, Mode::Yes).is_err(), "no log, no repair");
    assert_eq!(whole.writes(), 0);
    let done = run_with(&whole, Mode::Yes, Some(&log)).unwrap();
    assert_eq!(done.report("volume").exit, 1);
    assert!(!log.exists());
    let writes = whole.writes();
    let unit = patch.info.geo.block_bytes() as u64;
    let expected = whole.into_base();
    assert_eq!(expected.changed(unit).len(), 2);
    assert!(writes > 0);
    for stop in 0..writes {
        let device = FaultDevice::stopping_at(OverlayDevice::new(&patch.device), stop);
        assert!(run_with(&device, Mode::Yes, Some(&log)).is_err(), "{stop}");
        assert!(log.exists(), "{stop}");
        let device = device.into_base();
        let report = run_with(&device, Mode::Yes, Some(&log))
            .unwrap()
            .report("volume");
        assert_eq!(report.exit, 1, "{stop}");
        assert!(!log.exists(), "{stop}");
        let changed = device.changed(unit);
        assert_eq!(changed, expected.changed(unit), "{stop}");
        for number in changed {
            let mut two = [vec![0; 4096], vec![0; 4096]];
            device.read_at(number * unit, &mut two[0]).unwrap();
            expected.read_at(number * unit, &mut two[1]).unwrap();
            assert!(two[0] == two[1], "{stop}");
        }
    }
}

/// A block of each kind, and the most files whose contents may be lost with it.
fn targets(p: &Patch) -> Vec<(&'static str, u64, usize)> {
    let s0 = Slot(0);
    let file = p.inode("/fragmented/whole");
    let many = p.inode("/many");
    let dir_block = p.entry("/many", "..").0;
    vec![
        ("inode of a file", file, 1),
        ("inode of a directory", p.inode("/links"), 0),
        ("inode of the root directory", p.info.root.0, 0),
        ("extent block", p.rec(file, 0xC0, 0, "e_blkno"), 1),
        ("directory block", dir_block, 0),
        ("index root", p.inode_field(many, "i_dx_root"), 0),
        (
            "xattr block",
            p.inode_field(p.inode("/attributes/block"), "i_xattr_loc"),
            0,
        ),
        (
            "refcount root",
            p.inode_field(p.inode("/shared/first"), "i_refcount_loc"),
            0,
        ),
        ("cluster group", p.group(SystemFile::GlobalBitmap), 0),
        ("inode group", p.group(SystemFile::InodeAlloc(s0)), 0),
        ("extent group", p.group(SystemFile::ExtentAlloc(s0)), 0),
        ("global_bitmap", p.system(SystemFile::GlobalBitmap), 0),
        ("inode_alloc", p.system(SystemFile::InodeAlloc(s0)), 0),
        ("extent_alloc", p.system(SystemFile::ExtentAlloc(s0)), 0),
        ("local_alloc", p.system(SystemFile::LocalAlloc(s0)), 0),
        ("truncate_log", p.system(SystemFile::TruncateLog(s0)), 0),
        ("orphan_dir", p.system(SystemFile::OrphanDir(s0)), 0),
    ]
}

/// The checksums of the contents of all files. (Names may go with a directory; many of the names of
/// these directories are of one file.)
fn contents(lines: &BTreeSet<String>) -> BTreeSet<String> {
    let words = lines.iter().flat_map(|line| line.split(' '));
    let sums = words.filter(|word| word.starts_with("sha256="));
    sums.map(str::to_owned).collect()
}

/// A whole block lost costs what is in it, and nothing else.
#[test]
fn a_lost_block_costs_its_own_object_only() {
    let sound = Patch::new("b4k-c4k-max", true);
    let before = contents(&lines(&sound));
    let mut wrong = Vec::new();
    for (what, blkno, most) in targets(&sound) {
        for (how, byte) in [("zeroed", 0u8), ("garbage", 0xA7)] {
            let mut patch = Patch::new("b4k-c4k-max", true);
            let bytes: Vec<u8> = (0..4096u32)
                .map(|i| byte.wrapping_mul((i ^ i >> 3).to_le_bytes()[0] | 1))
                .collect();
            patch.raw(blkno, 0, &bytes);
            let device = device(&patch);
            let report = match run(&device, Mode::Yes) {
                Ok(repaired) => repaired.report("volume"),
                Err(error) => {
                    wrong.push(format!("{what}, {how}: {error}"));
                    continue;
                }
            };
            let clean = patch.check(2).is_ok_and(|checked| checked.is_clean());
            if report.exit != 1 || !clean {
                let left: Vec<_> = report
                    .findings
                    .iter()
                    .filter_map(|item| {
                        let left = item.outcome.as_ref().filter(|outcome| !outcome.repaired)?;
                        Some((item.code, &item.message, &left.what))
                    })
                    .take(6)
                    .collect();
                wrong.push(format!("{what}, {how}: exit {}: {left:?}", report.exit));
                continue;
            }
            let after = contents(&lines(&patch));
            let lost = before.difference(&after).count();
            if lost > most {
                wrong.push(format!("{what}, {how}: {lost} files lost"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A group of inodes that no chain leads to any more is looked for before anybody believes that its
/// inodes are gone.
#[test]
fn a_lost_chain_costs_nothing() {
    let before = lines(&Patch::new("b4k-c4k-max", true));
    let mut patch = Patch::new("b4k-c4k-max", true);
    let inode = patch.system(SystemFile::InodeAlloc(Slot(0)));
    patch.set(inode, 0xC0, ChainList::FIELDS, "cl_next_free_rec", 0);
    let careful = device(&patch);
    let codes = [
        "CHAIN_GROUP_BITS",
        "CHAIN_BITS",
        "CHAIN_I_CLUSTERS",
        "X_CHAIN_UNUSED",
        "X_GROUP_UNLINKED",
    ];
    let decider = Decider::new(Mode::Yes, codes.map(|code| (code, Answer::No)));
    let report = decided(&careful, decider, None).unwrap().report("volume");
    assert!(report.exit & 4 != 0, "{}", report.exit);
    assert!(
        report
            .findings
            .iter()
            .any(|item| item.code == "DIRENT_INODE_FREE")
    );
    assert_eq!(careful.writes(), 0, "{:?}", report.findings);
    let report = run(&device(&patch), Mode::Yes).unwrap().report("volume");
    assert_eq!(report.exit, 1, "{:?}", report.findings);
    assert!(lines(&patch) == before);
}

/// The blocks of all journals.
fn journal_blocks(patch: &Patch) -> BTreeSet<u64> {
    let volume = patch.volume();
    let view = volume.view();
    let bpc = view.geo().blocks_per_cluster();
    let mut blocks = BTreeSet::new();
    for slot in (0..view.info().max_slots).map(Slot) {
        let blkno = system::find(view, SystemFile::Journal(slot)).unwrap();
        let inode = inode::read(view, blkno).unwrap();
        for extent in inode.extents(view).unwrap() {
            let first = extent.blkno.0;
            blocks.extend(first..first + u64::from(extent.clusters) * bpc);
        }
    }
    blocks
}
