//! Healthy volumes: nothing may be found on any of them.

use std::process::{Command, Stdio};

use cowfs_format::device::MmapDevice;
use cowfs_format::volume::Volume;
use cowfs_tests::golden;
use fsck_cowfs::{Options, check};

use crate::patch::Patch;

/// Every golden image is as the driver left it, also those that a crash left.
#[test]
fn golden_images_are_clean() {
    let mut seen = 0;
    for image in golden::all().unwrap() {
        let checked = Patch::new(&image.name, true).check(2).unwrap();
        let findings: Vec<_> = checked
            .findings
            .iter()
            .map(|f| f.problem.to_string())
            .collect();
        assert!(checked.is_clean(), "{}: {findings:?}", image.name);
        seen += 1;
    }
    assert!(seen > 10, "only {seen} golden images");
}

/// A crashed volume is told as one, and is no worse for it.
#[test]
fn crashed_volumes_are_told_as_such() {
    let codes = |image| {
        let checked = Patch::new(image, true).check(1).unwrap();
        checked
            .findings
            .iter()
            .map(|f| f.problem.code())
            .collect::<Vec<_>>()
    };
    assert_eq!(codes("dirty-journal"), ["X_JOURNAL_PENDING"]);
    // Clusters that wait in the truncate log came out of the window of the local alloc.
    assert_eq!(codes("truncate-log"), ["X_SLOT_UNRECOVERED"]);
    assert_eq!(
        codes("orphans"),
        ["X_SLOT_UNRECOVERED", "INODE_ORPHANED", "INODE_ORPHANED"]
    );
}

/// Volumes of mkfs.ocfs2 with many sets of options, straight from it.
#[test]
fn fresh_volumes_of_mkfs_ocfs2_are_clean() {
    cowfs_tests::need!(cowfs_tests::oracle::tools());
    let mkfs = cowfs_tests::place::program("mkfs.ocfs2").unwrap();
    let mut sets: Vec<String> = Vec::new();
    for block in [512, 1024, 2048, 4096] {
        for cluster in [4096, 32768, 1 << 20] {
            for level in ["max-compat", "default", "max-features"] {
                sets.push(format!(
                    "400M -b {block} -C {cluster} -N 2 -M local -J size=16M --fs-feature-level={level}"
                ));
            }
        }
    }
    for set in [
        "100M -M local",
        "3G -M cluster -N 5 --fs-feature-level=max-features",
        "20G -M local",
        "300M -T mail",
        "3G -T vmstore",
        "4G -M cluster -N 255 -b 4096 -J size=4M",
        "4G -M cluster -N 40 -b 1024 -J size=4M,block64 --fs-features=metaecc",
        "300M -N 2 --cluster-stack=pcmk --cluster-name=some",
        "300M -N 2 --cluster-stack=o2cb --cluster-name=some --global-heartbeat",
        "400M -N 2 --fs-features=nosparse,nounwritten",
        "2G -M local --fs-features=nobackup-super",
        "400M -M local --fs-features=noindexed-dirs,noxattr,norefcount",
    ] {
        sets.push(set.to_owned());
    }
    for set in &sets {
        let codes = fresh(&mkfs, set);
        assert!(codes.is_empty(), "{set}: {codes:?}");
    }
    // With blocks that end in a trailer and no inline data, mkfs.ocfs2 counts the trailer of
    // lost+found as free and promises room in the root that it has just used; on such a volume the
    // driver's mkdir fails.
    let bad = fresh(
        &mkfs,
        "400M -b 1024 -M local --fs-features=noinline-data,metaecc,indexed-dirs",
    );
    assert_eq!(bad, ["INODE_SIZE", "X_DX_FREE_LIST"]);
}

/// The codes that a fresh volume with these options gives.
fn fresh(mkfs: &std::path::Path, set: &str) -> Vec<&'static str> {
    let (size, options) = set.split_once(' ').unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = cowfs_format::toolkit::size::parse_size(size).unwrap();
    file.as_file().set_len(bytes).unwrap();
    let status = Command::new(mkfs)
        .args(["-q", "-x"])
        .args(options.split(' '))
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "mkfs.ocfs2 {set}");
    let volume = Volume::open(MmapDevice::new(file.as_file()).unwrap()).unwrap();
    check(&volume, &Options::default()).unwrap().codes()
}
