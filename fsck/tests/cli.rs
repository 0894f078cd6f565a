//! The command line: exit statuses, what goes where, and what is refused in one clear line.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::path::Path;

use cowfs_format::device::MmapDevice;
use cowfs_format::layout::Dinode;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::golden;
use cowfs_tests::said::fsck;
use fsck_cowfs::{check_with, command};

/// A golden image with one wrong link count, and its path.
fn damaged() -> (tempfile::NamedTempFile, String) {
    use std::os::unix::fs::FileExt;
    let file = golden::open("b1k-c4k-default").unwrap();
    let volume = Volume::open(MmapDevice::new(file.as_file()).unwrap()).unwrap();
    let root = volume.info().root;
    let links = Dinode::FIELDS
        .iter()
        .find(|field| field.name == "i_links_count")
        .unwrap();
    let at = volume.info().geo.byte_of(root) + links.offset as u64;
    drop(volume);
    file.as_file().write_all_at(&[77, 0], at).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

#[test]
fn a_clean_volume_is_told_quickly_and_in_full() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let path = image.path().to_str().unwrap();
    let (code, quick, err) = fsck(&["-n", path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(quick.starts_with(&format!("{path}: clean, ")), "{quick}");
    let (code, full, _) = fsck(&["-fn", path]);
    assert_eq!(code, 0);
    assert!(full.contains(" inodes, ") && full != quick, "{full}");
    assert_eq!(fsck(&["-fnq", path]), (0, String::new(), String::new()));
    assert_eq!(fsck(&["-a", path]).0, 0);
}

#[test]
fn a_crashed_volume_is_checked_without_being_asked() {
    let image = golden::open("dirty-journal").unwrap();
    let (code, out, _) = fsck(&["-n", image.path().to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.contains("[X_JOURNAL_PENDING]"), "{out}");
}

#[test]
fn findings_go_to_stdout_with_code_and_place() {
    let (_file, path) = damaged();
    let (code, out, err) = fsck(&["-fn", &path]);
    assert_eq!((code, err.as_str()), (4, ""));
    assert!(
        out.contains("[INODE_COUNT] inode ") && out.contains(" (/): link count is 77"),
        "{out}"
    );
    assert!(
        out.ends_with("clusters\n") && out.contains(": errors, 1 findings, "),
        "{out}"
    );
    let (code, json, _) = fsck(&["-fn", "--json", &path]);
    assert_eq!(code, 4);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["status"], "errors");
    assert_eq!(report["exit"], 4);
    let finding = &report["findings"][0];
    assert_eq!(finding["code"], "INODE_COUNT");
    assert_eq!(finding["path"], "/");
    assert_eq!(finding["details"]["found"], 77);
    let (_, verbose, _) = fsck(&["-fnv", &path]);
    assert!(
        verbose.contains("INODE_COUNT: An inode counts"),
        "{verbose}"
    );
}

#[test]
fn what_is_repaired_is_told() {
    for option in ["-y", "-p", "-a"] {
        let (_file, path) = damaged();
        let (code, out, err) = fsck(&["-f", option, &path]);
        assert_eq!((code, err.as_str()), (1, ""), "{option}: {out}");
        assert!(
            out.contains("\n    repaired: the names are counted again\n"),
            "{out}"
        );
        assert!(out.contains(": repaired, 1 findings, "), "{out}");
        assert_eq!(fsck(&["-fn", &path]).0, 0, "{option}");
    }
}

#[test]
fn a_policy_outdoes_the_other_options() {
    let (_file, path) = damaged();
    let before = std::fs::read(&path).unwrap();
    let (code, out, _) = fsck(&["-fy", "--policy", "INODE_COUNT=no", &path]);
    assert_eq!(code, 4);
    assert!(
        out.contains("\n    left: not to be repaired without a decision\n"),
        "{out}"
    );
    assert!(std::fs::read(&path).unwrap() == before);
    let (code, json, _) = fsck(&["-f", "--json", "--policy", "inode_count=yes", &path]);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["status"], "repaired");
    assert_eq!(report["findings"][0]["outcome"]["repaired"], true);
    assert_eq!(report["facts"]["blocks_repaired"], 1);
}

#[test]
fn a_copy_is_repaired_in_place_of_the_volume() {
    let (_file, path) = damaged();
    let before = std::fs::read(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new").to_str().unwrap().to_owned();
    let (code, out, err) = fsck(&["-fy", "--output", &new, &path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(fsck(&["-fn", &new]).0, 0);
    // What exists is not written over.
    assert_eq!(fsck(&["-fy", "--output", &new, &path]).0, 8);
}

#[test]
fn a_repair_can_be_taken_back() {
    let (_file, path) = damaged();
    let before = std::fs::read(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log").to_str().unwrap().to_owned();
    assert_eq!(fsck(&["-fy", "--undo", &log, &path]).0, 1);
    assert!(std::fs::read(&path).unwrap() != before);
    assert_eq!(fsck(&["--rollback", &log, &path]).0, 1);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn what_is_no_volume_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(place("empty"), "").unwrap();
    std::fs::write(place("zeros"), vec![0; 1 << 20]).unwrap();
    let image = golden::open("pristine-max").unwrap();
    let bytes = std::fs::read(image.path()).unwrap();
    std::fs::write(place("short"), &bytes[..bytes.len() / 2]).unwrap();
    for (path, word) in [
        (place("absent"), "check the path"),
        (dir.path().to_str().unwrap().to_owned(), "directory"),
        (place("empty"), "0 bytes"),
        (place("zeros"), "no OCFS2 superblock"),
        (place("short"), "the device ends at byte"),
        ("/dev/null".to_owned(), "a character device"),
    ] {
        let (code, out, err) = fsck(&["-fn", &path]);
        assert_eq!((code, out.as_str()), (8, ""), "{path}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(word) && err.contains(&path), "{err}");
    }
}

#[test]
fn a_lost_superblock_leads_to_its_backup() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = [
        "mkfs.cowfs",
        "-q",
        "-F",
        "--size",
        "2G",
        "-J",
        "size=4M",
        path,
    ];
    assert_eq!(mkfs_cowfs::run(args, &mut out, &mut err), 0);
    file.as_file().write_all_at(&[0; 512], 2 * 4096).unwrap();
    let (code, _, said) = fsck(&["-fn", path]);
    assert_eq!(code, 8);
    assert!(said.contains("give -r 1"), "{said}");
    for way in [&["-r", "1"][..], &["-b", "262144", "-B", "4096"]] {
        let args: Vec<&str> = ["-fn"].iter().chain(way).chain([&path]).copied().collect();
        let (code, out, _) = fsck(&args);
        assert_eq!(code, 4, "{out}");
        assert!(
            out.contains("[RECOVER_BACKUP_SUPERBLOCK] block 2: "),
            "{out}"
        );
    }
    // Who wants everything repaired need not name it.
    let (code, out, err) = fsck(&["-y", path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert_eq!(fsck(&["-fn", path]).0, 0);
}

#[test]
fn wrong_usage_has_its_own_status() {
    for args in [
        &["--no-such-option", "x"][..],
        &["-n", "-y", "x"],
        &["-p", "-y", "x"],
        &["-n", "--policy", "INODE_COUNT=yes", "x"],
        &["-y", "--policy", "NO_SUCH_CODE=yes", "x"],
        &["-y", "--policy", "INODE_COUNT=perhaps", "x"],
        &["-b", "5", "x"],
        &["-r", "9", "x"],
        &["--threads", "0", "x"],
        &["-n", "-p", "x"],
        &["-n", "-D", "x"],
        &["-n", "-G", "x"],
        &["-P", "-q", "x"],
        &["--name-hash=none", "x"],
        &["--max-memory", "1M", "x"],
        &["--max-memory", "lots", "x"],
        &[],
        &["--explain", "NO_SUCH_CODE"],
    ] {
        let (code, out, err) = fsck(args);
        assert_eq!((code, out.as_str()), (16, ""), "{args:?}: {err}");
        assert!(!err.is_empty());
    }
    assert_eq!(fsck(&["-V"]).0, 0);
    assert_eq!(fsck(&["--help"]).0, 0);
    command().debug_assert();
}

#[test]
fn every_code_is_explained() {
    let (code, all, _) = fsck(&["--explain", "all"]);
    assert_eq!(code, 0);
    assert!(all.lines().count() > 100);
    let (_, one, _) = fsck(&["--explain", "cluster_alloc_bit"]);
    assert_eq!(one.lines().count(), 2, "{one}");
}

#[test]
fn a_stopped_check_says_so() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let volume = Volume::open(MmapDevice::new(image.as_file()).unwrap()).unwrap();
    let scanner = Scanner::new(Some(2)).unwrap();
    scanner.stop();
    let report = check_with(&volume, &scanner, &Progress::default()).report("volume");
    assert_eq!((report.status, report.exit), ("cancelled", 32));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn progress_is_written_for_programs() {
    use std::os::fd::AsRawFd;
    let image = golden::open("b4k-c4k-max").unwrap();
    let path = image.path().to_str().unwrap();
    let progress = tempfile::NamedTempFile::new().unwrap();
    let fd = progress.as_file().as_raw_fd().to_string();
    assert_eq!(
        fsck(&["-fnq", "-C", &fd, path]),
        (0, String::new(), String::new())
    );
    let text = std::fs::read_to_string(Path::new(progress.path())).unwrap();
    let last = text.lines().last().unwrap();
    let words: Vec<&str> = last.split(' ').collect();
    assert_eq!(words.len(), 4, "{last}");
    assert_eq!((words[1], words[3]), (words[2], path), "{last}");
}

/// Every code of fsck.ocfs2's own page of checks is explained: as ours, or where it went.
#[test]
fn the_codes_of_fsck_ocfs2_are_known() {
    let codes = cowfs_tests::need!(cowfs_tests::oracle::check_codes());
    assert!(codes.len() > 100);
    let unknown: Vec<_> = codes
        .iter()
        .filter(|code| fsck(&["--explain", code]).0 != 0)
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
