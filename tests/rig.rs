//! Proof of the rig itself: the oracles run, agree with each other, and notice what is wrong.

#![allow(clippy::unwrap_used)]

use cowfs_tests::{Ending, Guest, Kernel, need, oracle, sum};
use std::path::{Path, PathBuf};

const FILL: &str = r"
    mount_vol
    mkdir $MNT/dir
    cp $IN/poem $MNT/dir/poem
    ln -s poem $MNT/dir/link
    ln $MNT/dir/poem $MNT/hard
    setfattr -n user.note -v abc $MNT/dir/poem
    setfacl -m u:1000:rw $MNT/dir/poem
    mknod $MNT/null c 1 3
    dd if=/dev/zero of=$MNT/big bs=64K count=4 status=none
    cp --reflink=always $MNT/big $MNT/clone
    walk_vol before
    umount_vol
    mount_vol ro
    walk_vol after
    umount_vol
    cp $IN/poem $OUT/poem
    uname -r
";

/// A fresh volume of mkfs.ocfs2; for tests that have made sure that ocfs2-tools are here.
fn volume(dir: &Path) -> PathBuf {
    let image = dir.join("volume.img");
    let options = "-b 4096 -C 4096 -N 2 -J size=4M -M local --fs-feature-level=max-features";
    oracle::mkfs(&image, 64 << 20, &options.split(' ').collect::<Vec<_>>()).unwrap();
    image
}

fn driver_and_tools_agree(guest: Guest) {
    let dir = tempfile::tempdir().unwrap();
    let image = volume(dir.path());
    let poem = "I met a traveller from an antique land\n";
    let said = guest
        .disk(&image)
        .file("poem", poem)
        .run(FILL)
        .unwrap()
        .expect_success();
    assert!(said.stdout.starts_with(said.kernel.series()), "{said}");
    assert_eq!(std::fs::read_to_string(said.out("poem")).unwrap(), poem);

    let walk = said.walk("after").unwrap();
    assert_eq!(
        walk,
        said.walk("before").unwrap(),
        "what is on disk is what was in memory"
    );
    let at = |path: &str| {
        walk.iter()
            .find(|entry| entry.path == path.as_bytes())
            .unwrap_or_else(|| panic!("{path}"))
    };
    let file = at("dir/poem");
    assert_eq!(file.payload, sum::sha256(poem.as_bytes()).as_bytes());
    assert_eq!((file.links, file.inode), (2, at("hard").inode));
    let names: Vec<_> = file
        .xattrs
        .keys()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    assert_eq!(names, ["system.posix_acl_access", "user.note"]);
    assert_eq!(
        (at("dir/link").kind, at("dir/link").payload.as_slice()),
        ('l', &b"poem"[..])
    );
    assert_eq!(
        (at("null").kind, at("null").payload.as_slice()),
        ('c', &b"1:3"[..])
    );
    assert_eq!(at("big").payload, at("clone").payload);
    assert_ne!(at("big").inode, at("clone").inode);

    let report = oracle::check(&image).unwrap();
    assert!(report.is_silent(), "{}", report.transcript);
    let stat = oracle::debugfs(&image, "stat /dir/poem").unwrap();
    assert!(stat.contains(&format!("Inode: {}", file.inode)), "{stat}");
}

#[test]
fn linux_6_1_and_ocfs2_tools_agree() {
    need!(oracle::tools());
    driver_and_tools_agree(need!(Guest::new(Kernel::V6_1)));
}

#[test]
fn linux_6_12_and_ocfs2_tools_agree() {
    need!(oracle::tools());
    driver_and_tools_agree(need!(Guest::new(Kernel::V6_12)));
}

#[test]
fn a_crash_leaves_a_dirty_journal_that_the_driver_replays() {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    let dir = tempfile::tempdir().unwrap();
    let image = volume(dir.path());
    let script =
        "mount_vol; echo kept > $MNT/file; xfs_io -c fsync $MNT/file; echo here; crash; echo not";
    let said = guest.disk(&image).run(script).unwrap();
    assert_eq!(
        (said.ending, said.status),
        (Ending::Crashed, None),
        "{said}"
    );
    assert_eq!(said.stdout, "here\n");
    let dirty = oracle::debugfs(&image, "stat //journal:0000").unwrap();
    assert!(dirty.contains("Dirty"), "{dirty}");
    assert!(
        !oracle::debugfs(&image, "ls /").unwrap().contains("file"),
        "the entry is only in the journal"
    );

    let guest = need!(Guest::new(Kernel::V6_1));
    let said = guest
        .disk(&image)
        .run("mount_vol; cat $MNT/file; umount_vol")
        .unwrap();
    assert_eq!(
        (said.status, said.stdout.as_str()),
        (Some(0), "kept\n"),
        "{said}"
    );
    assert!(oracle::check(&image).unwrap().is_silent());
}

#[test]
fn a_script_that_fails_a_hanging_one_and_a_sick_volume_are_noticed() {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    let said = guest.run("echo one; cat $IN/absent; echo two").unwrap();
    assert_eq!(
        (said.ending, said.stdout.as_str()),
        (Ending::PoweredOff, "one\n"),
        "{said}"
    );
    assert_ne!(said.status, Some(0));
    assert!(said.console.contains("absent"), "{said}");
    assert!(said.success().is_err());

    let guest = need!(Guest::new(Kernel::V6_1)).timeout(std::time::Duration::from_secs(20));
    let said = guest.run("echo begun; sleep 1000").unwrap();
    assert_eq!(
        (said.ending, said.status, said.stdout.as_str()),
        (Ending::TimedOut, None, "begun\n"),
        "{said}"
    );

    // The root directory's inode is made unreadable: the checker and the driver must both object.
    let dir = tempfile::tempdir().unwrap();
    let image = volume(dir.path());
    let stats = oracle::debugfs(&image, "stats").unwrap();
    let root: u64 = stats
        .split_once("Root Blknum:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .expect("debugfs.ocfs2 tells the root's block");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"NONSENSE", root * 4096).unwrap();
    assert!(!oracle::check(&image).unwrap().is_silent());
    let said = need!(Guest::new(Kernel::V6_1))
        .disk(&image)
        .run("mount_vol")
        .unwrap();
    assert_ne!(said.status, Some(0));
    assert!(!said.kernel_log.is_empty(), "{said}");
}
