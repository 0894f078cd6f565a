//! The Linux driver mounts, fills and unmounts volumes of `mkfs.cowfs`, after which neither checker finds anything.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use cowfs_format::device::FileDevice;
use cowfs_tests::said::silent;
use cowfs_tests::{Guest, Kernel, need, oracle};
use mkfs_cowfs::cli::Args;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Volumes: size in MiB, options, and the options of the mount.
const VOLUMES: &[(u64, &str, &str)] = &[
    // What the program makes without options.
    (300, "", ""),
    // mkfs.ocfs2 fails here: its own default journal is too small for it.
    (64, "-b 512", ""),
    // On mkfs.ocfs2's volume the driver cannot create a directory: the quota files contradict themselves.
    (
        100,
        "--fs-feature-level=max-features --fs-features=noinline-data",
        "usrquota,grpquota",
    ),
    (
        100,
        "-b 4K -C 8K --fs-feature-level=max-features",
        "usrquota,grpquota",
    ),
    (64, "-b 1K -C 16K --fs-feature-level=max-compat", ""),
    (600, "-b 2K -C 512K -N 3 --fs-features=noindexed-dirs", ""),
    (
        300,
        "-b 4K -C 1M --fs-features=noinline-data -J block64",
        "",
    ),
    (
        1030,
        "-b 1K -C 64K -N 40 -J size=8M --fs-feature-level=max-features",
        "usrquota",
    ),
    (
        80,
        "-b 512 -C 4K -N 2 -J size=20M --fs-features=noextended-slotmap,noxattr",
        "",
    ),
    // The journal lies in more pieces than its inode has room for.
    (600, "-b 512 -C 4K -J size=320M", ""),
];

/// What is done on each volume: `fill OPTIONS`.
const FILL: &str = r#"
fill() {
    if [ -n "$1" ]; then mount_vol "$1"; else mount_vol; fi
    test -d $MNT/lost+found
    mkdir $MNT/dir
    i=0
    while [ $i -lt 150 ]; do echo $i >$MNT/dir/a-name-of-some-length-$i; i=$((i + 1)); done
    dd if=/dev/urandom of=$MNT/data bs=64K count=40 status=none
    cp $MNT/data $MNT/copy
    rm $MNT/dir/a-name-of-some-length-7
    umount_vol
    if [ -n "$1" ]; then mount_vol "$1"; else mount_vol; fi
    cmp $MNT/data $MNT/copy
    test $(ls $MNT/dir | wc -l) = 149
    umount_vol
}
"#;

fn format(dir: &Path, number: usize, mib: u64, options: &str) -> PathBuf {
    let path = dir.join(format!("{number}.img"));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(mib << 20).unwrap();
    let words = options.split(' ').filter(|word| !word.is_empty());
    let args = ["mkfs.cowfs"].into_iter().chain(words).chain(["image"]);
    let options = Args::try_parse_from(args).unwrap().options().unwrap();
    mkfs_cowfs::format(&FileDevice::new(file).unwrap(), &options).unwrap();
    path
}

fn driver_takes_them(guest: Guest) {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let mut guest = guest;
    let mut script = FILL.to_owned();
    let mut images = Vec::new();
    for (number, (mib, options, mount)) in VOLUMES.iter().enumerate() {
        let image = format(dir.path(), number, *mib, options);
        guest = guest.disk(&image);
        images.push((image, options));
        let letter = char::from(b'a' + u8::try_from(number).unwrap());
        script.push_str(&format!(
            "DISK=/dev/vd{letter}; echo volume {number}; fill '{mount}'\n"
        ));
    }
    let said = guest.run(&script).unwrap().expect_success();
    assert!(said.kernel_log.is_empty(), "{said}");
    for (image, options) in images {
        let written = || image.metadata().unwrap().modified().unwrap();
        let before = written();
        for option in ["-fn", "-fy"] {
            silent(option, &image).unwrap_or_else(|said| panic!("{options}: {said}"));
        }
        assert_eq!(written(), before, "{options}: a repair writes");
        let report = oracle::check(&image).unwrap();
        let codes: Vec<_> = report
            .codes
            .iter()
            // Wrong about system directories with extents, and about quota files that the driver has grown.
            .filter(|code| !["DX_TREE_MISSING", "INODE_SPARSE_SIZE"].contains(&code.as_str()))
            .collect();
        assert!(
            codes.is_empty() && report.finished(),
            "{options}: {}",
            report.transcript
        );
    }
}

#[test]
fn linux_6_1_fills_our_volumes() {
    driver_takes_them(need!(Guest::new(Kernel::V6_1)));
}

#[test]
fn linux_6_12_fills_our_volumes() {
    driver_takes_them(need!(Guest::new(Kernel::V6_12)));
}
