//! The program: sealing, verifying, renewing, removing, repairing; text, JSON and exit statuses.

use std::path::Path;

use cowfs_format::device::{Device, DeviceMut, FileDevice, MemDevice};
use cowfs_format::layout::SEAL_MAGIC;
use cowfs_format::ops::seal::{Guard, Seal};
use cowfs_format::volume::Volume;
use cowfs_tests::said::fsck;
use cowfs_tests::session::{Session, exercise, pattern, writable};
use cowfs_tests::{golden, need, oracle};
use tempfile::NamedTempFile;

use crate::rig::{Dice, scanner};

fn sealed(name: &str, how: &[&str]) -> (NamedTempFile, String) {
    let file = golden::open(name).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let mut args = how.to_vec();
    args.push(&path);
    let (code, out, err) = fsck(&args);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains(": sealed "), "{out}");
    (file, path)
}

pub(crate) fn seal_of(path: &str) -> Seal {
    let device = FileDevice::new(std::fs::File::open(path).unwrap()).unwrap();
    let volume = Volume::open(device).unwrap();
    let found = Seal::inside(&volume).unwrap().unwrap();
    found.seal.clone()
}

pub(crate) fn write(path: &str, offset: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
}

/// The protected blocks that differ between two images, but for journals, which every commit changes.
fn differ(seal: &Seal, before: &[u8], path: &str) -> Vec<u64> {
    let after = std::fs::read(path).unwrap();
    let block = seal.shape.block;
    let runs = seal.list.runs.iter();
    let kept = runs.filter(|run| run.span.guard != Guard::Journal);
    let blocks = kept.flat_map(|run| (0..run.span.len).map(|i| run.span.first.plus(i).0));
    let same = |blkno: &u64| {
        let at = usize::try_from(*blkno).unwrap() * block;
        before[at..at + block] == after[at..at + block]
    };
    blocks.filter(|blkno| !same(blkno)).collect()
}

#[test]
fn a_seal_is_made_verified_and_removed() {
    let (_file, path) = sealed("b4k-c4k-max", &["--seal"]);
    let (code, out, _) = fsck(&["--verify", &path]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains(" match\n"), "{out}");
    let (code, out, _) = fsck(&["--verify", "--json", &path]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["status"]), (0, &"verified".into()));
    assert_eq!(fsck(&["-fn", &path]).0, 0);
    // What it says does not depend on the threads.
    assert_eq!(
        fsck(&["--verify", "--json", "--threads", "1", &path]).1,
        out
    );

    let (code, out, err) = fsck(&["--unseal", &path]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(fsck(&["-fn", &path]).0, 0);
    let (code, _, err) = fsck(&["--verify", &path]);
    assert_eq!(code, 8);
    assert!(err.contains("not sealed"), "{err}");
    // Nothing is left that a search could take for a seal.
    let bytes = std::fs::read(&path).unwrap();
    assert!(
        !bytes
            .chunks(512)
            .any(|sector| sector.starts_with(&SEAL_MAGIC))
    );
}

#[test]
fn the_seal_depends_on_nothing_but_the_volume() {
    let one = sealed("b2k-c8k-max", &["--seal=7", "--data", "--threads", "1"]);
    let many = sealed("b2k-c8k-max", &["--seal=7", "--data", "--threads", "8"]);
    let (a, b) = (seal_of(&one.1), seal_of(&many.1));
    assert_eq!(a.list, b.list);
    assert_eq!(a.shape, b.shape);
}

/// Damage, and a repair with nothing but the seal.
fn repaired(name: &str, how: &[&str], damage: impl Fn(&Seal, &mut Dice) -> Vec<u64>) {
    let (_file, path) = sealed(name, how);
    let seal = seal_of(&path);
    let before = std::fs::read(&path).unwrap();
    let mut dice = Dice::new(11);
    let lost = damage(&seal, &mut dice);
    for blkno in &lost {
        let rubbish = dice.rubbish(seal.shape.block);
        write(&path, blkno * seal.shape.block as u64, &rubbish);
    }
    assert_eq!(fsck(&["--verify", &path]).0, 4, "{name}");
    // Into a copy nothing goes through a journal: every block is as it was.
    let copy = format!("{path}.copy");
    let (code, out, err) = fsck(&["-fy", "--output", &copy, &path]);
    assert_eq!((code, err.as_str()), (1, ""), "{name}: {out}");
    assert!(out.contains(" blocks restored: "), "{name}: {out}");
    let (code, verified, _) = fsck(&["--verify", &copy]);
    assert_eq!(code, 0, "{name}: {verified}{out}");
    std::fs::remove_file(&copy).unwrap();

    comes_back(name, &seal, &before, &path);
    // The second time there is nothing to do.
    let (_, out, _) = fsck(&["-fy", &path]);
    assert!(out.contains(": clean, "), "{name}: {out}");
}

/// Repairs in place: everything that was sealed is as it was before, and nothing is left to find.
fn comes_back(name: &str, seal: &Seal, before: &[u8], path: &str) {
    let (code, out, err) = fsck(&["-fy", path]);
    assert_eq!((code, err.as_str()), (1, ""), "{name}: {out}");
    assert_eq!(
        differ(seal, before, path),
        Vec::<u64>::new(),
        "{name}: {out}"
    );
    assert_eq!(fsck(&["-fn", path]).0, 0, "{name}");
}

#[test]
fn the_first_blocks_of_a_volume_come_back() {
    for name in ["b4k-c4k-max", "b1k-c4k-default", "b512-c4k-compat"] {
        repaired(name, &["--seal=20"], |seal, _| {
            (0..seal.header.sh_run.get().min(60)).collect()
        });
    }
}

/// The classic of all accidents, on a volume whose seal is made for it.
#[test]
fn sixteen_mebibytes_of_zeros_are_made_good() {
    for name in ["b4k-c4k-max", "b2k-c8k-max"] {
        let (_file, path) = sealed(name, &["--seal=100", "--data"]);
        let seal = seal_of(&path);
        let before = std::fs::read(&path).unwrap();
        write(&path, 0, &vec![0; 16 << 20]);
        comes_back(name, &seal, &before, &path);
    }
}

/// All inodes of one group of an allocator.
#[test]
fn a_group_of_inodes_comes_back() {
    repaired("b4k-c4k-max", &["--seal=50"], |seal, _| {
        let signed = seal
            .list
            .runs
            .iter()
            .filter(|run| run.span.guard == Guard::Signed);
        let longest = signed.max_by_key(|run| run.span.len).unwrap();
        (0..longest.span.len)
            .map(|i| longest.span.first.plus(i).0)
            .collect()
    });
}

#[test]
fn file_contents_come_back() {
    repaired(
        "b4k-c32k-default",
        &["--seal=10", "--data"],
        |seal, dice| {
            let plain = seal
                .list
                .runs
                .iter()
                .filter(|run| run.span.guard == Guard::Plain);
            let blocks: Vec<u64> = plain
                .flat_map(|run| (0..run.span.len).map(|i| run.span.first.plus(i).0))
                .collect();
            dice.some(&blocks, 10)
        },
    );
}

/// More is lost than the seal has parity for: that is said, and the rest of the repair goes on.
#[test]
fn what_is_beyond_is_said() {
    let (_file, path) = sealed("b4k-c4k-max", &["--seal=1"]);
    let seal = seal_of(&path);
    let slots = seal.list.runs.iter().flat_map(|run| {
        (0..run.span.len).map(|i| (run.slot + i, run.span.first.plus(i).0, run.span.guard))
    });
    let group: Vec<u64> = slots
        .filter(|(slot, _, guard)| slot % seal.shape.groups == 1 && *guard == Guard::Signed)
        .map(|(_, blkno, _)| blkno)
        .collect();
    for blkno in &group[group.len() - 2..] {
        write(&path, blkno * 4096, &[0xEE; 4096]);
    }
    let (code, out, _) = fsck(&["--verify", &path]);
    assert_eq!(code, 4);
    assert!(out.contains("2 lost blocks are beyond the seal"), "{out}");
    let (code, out, _) = fsck(&["-fy", "--json", &path]);
    assert_eq!(code & 1, 1, "{out}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        report["facts"]["seal"]["beyond"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn a_seal_beside_the_volume_does_the_same() {
    let file = golden::open("b1k-c4k-default").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let before = std::fs::read(&path).unwrap();
    let beside = format!("{path}.seal");
    let (code, _, err) = fsck(&["--seal=10", "--seal-file", &beside, &path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        std::fs::read(&path).unwrap() == before,
        "the volume is only read"
    );
    assert_eq!(fsck(&["--verify", "--seal-file", &beside, &path]).0, 0);
    assert_eq!(fsck(&["--seal", "--seal-file", &beside, &path]).0, 8);
    // The superblock and the root are lost, and a part of the seal.
    write(&path, 0, &vec![0; 40 << 10]);
    write(&beside, 0, &[0; 4096]);
    assert_eq!(fsck(&["-fy", &path]).0, 8);
    let (code, out, err) = fsck(&["-fy", "--seal-file", &beside, &path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert_eq!(fsck(&["-fn", &path]).0, 0);
    // The seal of another volume is refused.
    let other = golden::open("b4k-c4k-max").unwrap();
    let (code, _, err) = fsck(&[
        "--verify",
        "--seal-file",
        &beside,
        other.path().to_str().unwrap(),
    ]);
    assert_eq!(code, 8);
    assert!(err.contains("another volume"), "{err}");
    std::fs::remove_file(&beside).unwrap();
}

/// Changes are recognised, renewing codes only what changed, and afterwards the new state is kept.
#[test]
fn a_stale_seal_is_recognised_and_renewed() {
    let (file, path) = {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let device = FileDevice::new(file.reopen().unwrap()).unwrap();
        mkfs_cowfs::format(&device, &mkfs_cowfs::Options::default()).unwrap();
        drop(device);
        let mut volume = writable(file.path());
        let names: Vec<Vec<u8>> = (0..1500)
            .map(|i| format!("name {i}").into_bytes())
            .collect();
        volume.mkdir("many").unwrap();
        volume.touch("many", &names).unwrap();
        (file, path)
    };
    assert_eq!(fsck(&["--seal", &path]).0, 0);
    {
        let mut volume = writable(file.path());
        volume.mkdir("fresh").unwrap();
        volume.write("fresh/file", &pattern(50_000, 1)).unwrap();
    }
    let (code, out, _) = fsck(&["--verify", "--json", &path]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["status"]), (4, &"stale".into()));
    assert!(
        report["facts"]["lost"].as_array().unwrap().is_empty(),
        "{out}"
    );
    // A repair puts nothing back.
    let before = std::fs::read(&path).unwrap();
    assert_eq!(fsck(&["-fy", &path]).0, 0);
    assert!(std::fs::read(&path).unwrap() == before);

    let (code, out, err) = fsck(&["--reseal", "--json", &path]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let (coded, all) = (&report["facts"]["groups_coded"], &report["facts"]["groups"]);
    assert!(
        coded.as_u64().unwrap() > 0 && coded.as_u64() < all.as_u64(),
        "{out}"
    );
    assert_eq!(fsck(&["--verify", &path]).0, 0);
    // Without changes nothing is coded.
    let (_, out, _) = fsck(&["--reseal", "--json", &path]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["facts"]["groups_coded"], 0);
    // What is new is protected now.
    let seal = seal_of(&path);
    let sealed = std::fs::read(&path).unwrap();
    let run = usize::try_from(seal.header.sh_run.get().min(50)).unwrap();
    write(&path, 0, &vec![0; run * seal.shape.block]);
    assert_eq!(fsck(&["-fy", &path]).0, 1);
    assert_eq!(differ(&seal, &sealed, &path), Vec::<u64>::new());
}

/// A volume that grew beyond the slots of its seal is sealed anew.
#[test]
fn a_seal_without_room_is_made_anew() {
    let (_file, path) = sealed("pristine-max", &["--seal"]);
    {
        let mut volume = writable(Path::new(&path));
        volume.mkdir("many").unwrap();
        let names: Vec<Vec<u8>> = (0..300).map(|i| format!("name {i}").into_bytes()).collect();
        volume.touch("many", &names).unwrap();
    }
    let (code, out, err) = fsck(&["--reseal", &path]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(fsck(&["--verify", &path]).0, 0);
    assert_eq!(fsck(&["-fn", &path]).0, 0);
}

#[test]
fn what_is_damaged_is_not_sealed() {
    let file = golden::open("b4k-c4k-max").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let device = FileDevice::new(std::fs::File::open(&path).unwrap()).unwrap();
    let root = Volume::open(device).unwrap().info().root;
    write(&path, root.0 * 4096 + 0x100, &[0x55; 64]);
    let (code, _, err) = fsck(&["--seal", &path]);
    assert_eq!(code, 8);
    assert_eq!(err.lines().count(), 1, "{err}");
    let dirty = golden::open("dirty-journal").unwrap();
    let (code, _, err) = fsck(&["--seal", dirty.path().to_str().unwrap()]);
    assert_eq!(code, 8);
    assert!(err.contains("journal"), "{err}");
}

/// fsck.ocfs2 keeps the file, whatever it repairs.
#[test]
fn ocfs2_tools_tolerate_a_seal() {
    need!(oracle::tools());
    for name in [
        "b4k-c4k-max",
        "b512-c4k-compat",
        "b1k-c4k-default",
        "b4k-c1m-max",
    ] {
        let expected = oracle::check(golden::open(name).unwrap().path()).unwrap();
        let (file, path) = sealed(name, &["--seal"]);
        let said = oracle::check(file.path()).unwrap();
        assert_eq!(said.codes, expected.codes, "{name}: {}", said.transcript);
        // It repairs what it wrongly objects to in any case.
        let expected = oracle::repair(golden::open(name).unwrap().path()).unwrap();
        let said = oracle::repair(file.path()).unwrap();
        assert_eq!(said.codes, expected.codes, "{name}: {}", said.transcript);
        let listed = oracle::debugfs(file.path(), "ls //").unwrap();
        assert!(listed.contains("cowfs_seal"), "{name}: {listed}");
        let (code, out, _) = fsck(&["--verify", "--json", &path]);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        // What it repaired may be newer; nothing of the seal is lost.
        assert_eq!(report["facts"]["seal_blocks_lost"], 0, "{name}: {out}");
        assert!(code == 0 || report["status"] == "stale", "{name}: {out}");
    }
}

/// Any bytes where a seal should be: no panic, and a line that says so.
#[test]
fn a_hostile_seal_is_refused() {
    let (_file, path) = sealed("b512-c4k-max", &["--seal"]);
    let bytes = std::fs::read(&path).unwrap();
    let seal = seal_of(&path);
    let block = seal.shape.block as u64;
    let table = seal.shape.table();
    let places: Vec<u64> = seal
        .list
        .places
        .iter()
        .flat_map(|(at, len)| at.0..at.0 + len)
        .collect();
    let parity = seal.shape.parity_blocks();
    for seed in 0..60 {
        let device = MemDevice::new(bytes.clone());
        let mut dice = Dice::new(seed + 99);
        // The same bytes change in all copies, and each block gets the sum that it then needs.
        let number = if seed % 2 == 0 { 0 } else { dice.below(table) };
        let at = 0x10 + dice.below(block - 0x14);
        let junk = dice.roll().to_le_bytes();
        for copy in 0..3u64 {
            let start = if copy == 0 { 0 } else { copy * table + parity };
            let place = places[usize::try_from(start + number).unwrap()];
            let mut head = vec![0; usize::try_from(block).unwrap()];
            device.read_at(place * block, &mut head).unwrap();
            let from = usize::try_from(at).unwrap();
            head[from..from + 4].copy_from_slice(&junk[..4]);
            head[8..12].fill(0);
            let sum = cowfs_format::ecc::sum32c(&head);
            head[8..12].copy_from_slice(&sum.to_le_bytes());
            device.write_at(place * block, &head).unwrap();
        }
        let volume = Volume::open(&device).unwrap();
        if let Ok(Some(found)) = Seal::inside(&volume) {
            let scanner = scanner();
            let verified = cowfs_format::ops::seal::verify(&device, &found, &scanner, &()).unwrap();
            let _ = cowfs_format::ops::seal::restore(&device, &found, &verified, &scanner);
        }
        let _ = Seal::search(&device, &scanner(), None);
    }
}

/// Our own edits keep a seal and are never rolled back by it.
#[test]
fn edits_beside_a_seal_stay() {
    need!(oracle::tools());
    let dir = tempfile::TempDir::new().unwrap();
    let image = dir.path().join("image");
    let path = image.to_str().unwrap();
    {
        let file = std::fs::File::create_new(&image).unwrap();
        file.set_len(120 << 20).unwrap();
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&image)
            .unwrap();
        let device = FileDevice::new(file).unwrap();
        mkfs_cowfs::format(&device, &mkfs_cowfs::Options::default()).unwrap();
    }
    assert_eq!(fsck(&["--seal=10", path]).0, 0);
    exercise(&image);
    assert_eq!(fsck(&["-fn", path]).0, 0);
    assert!(oracle::check(&image).unwrap().is_silent());
    let before = std::fs::read(&image).unwrap();
    let (code, out, _) = fsck(&["-fy", path]);
    assert_eq!(code, 0, "{out}");
    assert!(std::fs::read(&image).unwrap() == before);
}
