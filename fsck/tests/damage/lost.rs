//! Every block of the structures of a volume itself, lost one at a time: one run repairs it, no name
//! of the system directory is given up, no file loses its contents, fsck.ocfs2 finds nothing more
//! than before, and a second run has nothing to write.

use std::collections::BTreeSet;

use cowfs_format::layout::GroupDesc;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_tests::oracle;
use fsck_cowfs::repair::policy::Mode;

use crate::flips::{covered, found_of, images_with_checks};
use crate::patch::Patch;
use crate::repairs::{Sound, device, foreign_codes, lines, resetting, run, run_with};

/// Volumes that the driver filled, and new ones of ours.
const VOLUMES: &[&str] = &[
    "b4k-c4k-max",
    "b1k-c4k-default",
    "b512-c4k-compat",
    "b4k-c32k-default",
    "quota-limits",
    "pristine-max",
    "new 64M -b 4096 -N 1",
    "new 64M -b 1024 -C 4096 -N 2 --fs-features=nometaecc",
];

/// Blocks of a volume's own structures, each with what it is.
fn blocks(patch: &Patch) -> Vec<(String, u64)> {
    let volume = patch.volume();
    let view = volume.view();
    let (root, system_dir) = (view.info().root, view.info().system_dir);
    let mut blocks = vec![
        ("superblock".to_owned(), 2),
        ("root directory".to_owned(), root.0),
        ("system directory".to_owned(), system_dir.0),
    ];
    let mut names = Vec::new();
    for top in [root, system_dir] {
        let directory = inode::read(view, top).unwrap();
        for extent in directory.extents(view).unwrap() {
            let size = directory.i_size.get() >> view.geo().block_bits();
            let first = u64::from(extent.cpos) * view.geo().blocks_per_cluster();
            let count = u64::from(extent.clusters) * view.geo().blocks_per_cluster();
            for block in 0..count.min(size.saturating_sub(first)) {
                let name = format!("block {} of directory {top}", first + block);
                blocks.push((name, extent.blkno.0 + block));
            }
        }
    }
    dir::for_each_entry(
        view,
        &inode::read(view, system_dir).unwrap(),
        &mut |entry| {
            if !entry.name.starts_with(b".") {
                let name = String::from_utf8_lossy(entry.name).into_owned();
                names.push((name, entry.inode));
            }
            std::ops::ControlFlow::Continue(())
        },
    )
    .unwrap();
    for (name, blkno) in names {
        let file = inode::read(view, blkno).unwrap();
        if name.contains("_alloc:") && !name.starts_with("local") || name.contains("global_") {
            let chains = cowfs_format::read::chain::chains(&file).unwrap();
            for rec in chains.recs {
                let group = rec.c_blkno.get();
                blocks.push((format!("group {group} of {name}"), group));
                let next = view.block::<GroupDesc>(BlockNo(group)).unwrap();
                assert_eq!(next.bg_next_group.get(), 0, "chains are short here");
            }
        } else if file.has_extents() && !name.starts_with("heartbeat") {
            let extents = file.extents(view).unwrap();
            let quota = name.starts_with("aquota");
            let size = file.i_size.get() >> view.geo().block_bits();
            let most = if quota { size } else { 1 };
            for logical in 0..most {
                let bpc = view.geo().blocks_per_cluster();
                let home = extents.iter().find_map(|e| {
                    let first = u64::from(e.cpos) * bpc;
                    let end = u64::from(e.end()) * bpc;
                    (first..end)
                        .contains(&logical)
                        .then(|| e.blkno.0 + (logical - first))
                });
                if let Some(home) = home {
                    blocks.push((format!("block {logical} of {name}"), home));
                }
            }
        }
        blocks.push((name, blkno.0));
    }
    blocks
}

/// The names of the system directory.
fn system_names(patch: &Patch) -> BTreeSet<Vec<u8>> {
    let volume = patch.volume();
    let view = volume.view();
    let mut names = BTreeSet::new();
    let directory = inode::read(view, view.info().system_dir).unwrap();
    dir::for_each_entry(view, &directory, &mut |entry| {
        names.insert(entry.name.to_vec());
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    names
}

/// The checksums of the contents of all files.
fn contents(lines: &BTreeSet<String>) -> BTreeSet<String> {
    let words = lines.iter().flat_map(|line| line.split(' '));
    let sums = words.filter(|word| word.starts_with("sha256="));
    sums.map(str::to_owned).collect()
}

/// What is wrong once a block was lost and the volume repaired.
fn wrong_with(image: &str, blkno: u64, byte: u8, sound: &Sound, ask: bool) -> Result<(), String> {
    let mut patch = Patch::new(image, true);
    let names = system_names(&patch);
    let len = u32::try_from(patch.info.geo.block_bytes()).unwrap();
    let bytes: Vec<u8> = (0..len)
        .map(|i| byte.wrapping_mul((i ^ i >> 3).to_le_bytes()[0] | 1))
        .collect();
    if patch.read(blkno) == bytes {
        // Nothing is lost with a block of zeros: a slot map in which all slots are free.
        return Ok(());
    }
    patch.raw(blkno, 0, &bytes);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let report = run_with(&device(&patch), Mode::Yes, Some(&log))
        .map_err(|error| format!("refused: {error}"))?
        .report("volume");
    let left: Vec<String> = report
        .findings
        .iter()
        .filter_map(|item| {
            let left = item.outcome.as_ref().filter(|outcome| !outcome.repaired)?;
            Some(format!("{} {} ({})", item.code, item.message, left.what))
        })
        .take(6)
        .collect();
    if report.exit != 1 {
        return Err(format!("exit {}: {left:?}", report.exit));
    }
    let checked = patch.check(2).map_err(|error| error.to_string())?;
    if !checked.is_clean() {
        return Err(format!("not clean: {:?}", checked.codes()));
    }
    let again = device(&patch);
    let second = run_with(&again, Mode::Yes, Some(&log)).map_err(|e| format!("again: {e}"))?;
    if (second.report("volume").exit, again.writes()) != (0, 0) {
        let codes: Vec<_> = second.items.iter().map(|item| item.code).collect();
        return Err(format!("a second run writes: {codes:?}"));
    }
    let gone: Vec<String> = names
        .difference(&system_names(&patch))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    if !gone.is_empty() {
        return Err(format!("system files given up: {gone:?}"));
    }
    let lost = contents(&sound.lines)
        .difference(&contents(&lines(&patch)))
        .count();
    if lost > 0 {
        return Err(format!("{lost} files lost"));
    }
    if ask {
        let foreign = foreign_codes(&patch);
        let new: Vec<_> = foreign.difference(&sound.foreign).collect();
        if !new.is_empty() {
            return Err(format!("fsck.ocfs2 says {new:?}"));
        }
    }
    Ok(())
}

#[test]
fn any_lost_block_of_the_volume_itself_is_made_anew() {
    let ask = oracle::tools().is_ok();
    let only = std::env::var("COWFS_LOST").unwrap_or_default();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for image in VOLUMES.iter().filter(|image| image.contains(&only)) {
        let patch = Patch::new(image, true);
        let sound = Sound::of(image);
        for (what, blkno) in blocks(&patch) {
            for (how, byte) in [("zeroed", 0u8), ("garbage", 0xA7)] {
                let ask = ask && byte == 0;
                if let Err(why) = wrong_with(image, blkno, byte, &sound, ask) {
                    wrong.push(format!("{image}: {what}, {how}: {why}"));
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 0);
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Two blocks that say that they are each other are exchanged: not a name, not an attribute is lost.
#[test]
fn blocks_in_each_others_places_go_home() {
    // Those that say which block they are.
    let kinds = [
        "inode",
        "extent block",
        "group",
        "index root",
        "index leaf",
        "xattr block",
        "refcount block",
        "directory block",
    ];
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut tried = BTreeSet::new();
    for image in images_with_checks() {
        // Files that wait to be deleted are, without any damage.
        let sound = Patch::new(&image, true);
        run_with(&device(&sound), Mode::Yes, Some(&log)).unwrap();
        let (all, before) = (covered(&sound), lines(&sound));
        for kind in kinds {
            let of: Vec<u64> = found_of(&all, kind);
            let [first, .., last] = of[..] else { continue };
            let mut patch = Patch::new(&image, true);
            let (one, other) = (patch.read(first), patch.read(last));
            patch.raw(first, 0, &other);
            patch.raw(last, 0, &one);
            let repaired = run_with(&device(&patch), Mode::Yes, Some(&log)).unwrap();
            let what = format!("{image}: {kind} {first} and {last}");
            assert_eq!(repaired.report("volume").exit, 1, "{what}");
            for blkno in [first, last] {
                assert!(patch.read(blkno) == sound.read(blkno), "{what}: {blkno}");
            }
            assert_eq!(lines(&patch), before, "{what}");
            tried.insert(kind);
        }
    }
    assert_eq!(tried.len(), kinds.len(), "only {tried:?}");
}

/// Directories with blocks of their own, by path.
fn directories(patch: &Patch) -> Vec<(String, BlockNo)> {
    let volume = patch.volume();
    let view = volume.view();
    let mut found = Vec::new();
    let mut left = vec![(String::new(), view.info().root)];
    while let Some((path, blkno)) = left.pop() {
        let directory = inode::read(view, blkno).unwrap();
        dir::for_each_entry(view, &directory, &mut |entry| {
            if entry.file_type == 2 && !entry.name.starts_with(b".") {
                let name = String::from_utf8_lossy(entry.name);
                left.push((format!("{path}/{name}"), entry.inode));
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        if directory.has_extents() && !path.is_empty() {
            found.push((path, blkno));
        }
    }
    found
}

/// The blocks of a directory say whose they are: all that is lost with its inode is what stood in it.
#[test]
fn a_directory_whose_inode_is_lost_keeps_its_names() {
    let mut tried = 0;
    for image in [
        "b4k-c4k-max",
        "b1k-c4k-default",
        "b512-c4k-compat",
        "b2k-c8k-max",
    ] {
        let sound = Sound::of(image);
        for (path, blkno) in directories(&Patch::new(image, true)) {
            let line = format!(".{path} ");
            for byte in [0, 0xA7] {
                let mut patch = Patch::new(image, true);
                let bytes = vec![byte; patch.info.geo.block_bytes()];
                patch.raw(blkno.0, 0, &bytes);
                let report = run(&device(&patch), Mode::Yes).unwrap().report("volume");
                assert_eq!(report.exit, 1, "{image}, {path}: {:?}", report.findings);
                assert!(patch.check(2).unwrap().is_clean(), "{image}, {path}");
                let after = lines(&patch);
                let gone: Vec<_> = sound.lines.difference(&after).collect();
                assert!(
                    gone.iter().all(|gone| gone.starts_with(&line)),
                    "{image}, {path}: {gone:?}"
                );
                let new = foreign_codes(&patch);
                let new: Vec<_> = new.difference(&sound.foreign).collect();
                assert!(new.is_empty(), "{image}, {path}: fsck.ocfs2 says {new:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 10, "{tried}");
}

/// What a dirty journal holds is given up only when that is asked for.
#[test]
fn a_dirty_journal_is_emptied_only_when_told() {
    let mut patch = Patch::new("dirty-journal", true);
    let inode = patch.system(SystemFile::Journal(Slot(0)));
    let first = patch.rec(inode, 0xC0, 0, "e_blkno");
    patch.raw(first, 0, &[0; 1024]);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let report = run_with(&device(&patch), Mode::Yes, Some(&log))
        .unwrap()
        .report("volume");
    assert!(report.exit & 4 != 0, "{:?}", report.findings);
    let told = report.findings.iter().any(|item| {
        let outcome = item.outcome.as_ref();
        outcome.is_some_and(|outcome| outcome.what.contains("--reset-journal"))
    });
    assert!(told, "{:?}", report.findings);
    let report = resetting(&device(&patch), &log).unwrap().report("volume");
    assert_eq!(report.exit, 1, "{:?}", report.findings);
    assert!(patch.check(2).unwrap().is_clean());
}

/// Which files the list of blocks above must have met.
#[test]
fn all_system_files_are_among_them() {
    let patch = Patch::new("b4k-c4k-max", true);
    let blocks = blocks(&patch);
    for file in [
        SystemFile::SlotMap,
        SystemFile::Journal(Slot(1)),
        SystemFile::UserQuota,
    ] {
        let blkno = system::find(patch.volume().view(), file).unwrap().0;
        assert!(blocks.iter().any(|(_, block)| *block == blkno), "{file:?}");
    }
}
