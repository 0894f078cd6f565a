//! The driver of Linux on sealed volumes: it mounts them, keeps the seal, and what it writes is never
//! rolled back.

use cowfs_tests::said::fsck;
use cowfs_tests::{Guest, Kernel, golden, need, oracle};

use crate::rig::Dice;

const SCRIPT: &str = r#"
    mount_vol
    cd $MNT
    mkdir sealed
    for i in $(seq 1 120); do echo "line $i" >sealed/file$i; done
    dd if=/dev/zero of=sealed/large bs=64k count=40 status=none
    find . -xdev -type f -print0 | sort -z >/list
    head -z -n 30 /list | xargs -0 rm -f
    cp -r sealed sealed2
    sync
    umount_vol
    mount_vol
    find $MNT -xdev -type f -print0 | sort -z | xargs -0 sha256sum >/dev/null
    umount_vol
"#;

/// After the driver's changes: a damaged block that was sealed before may be gone for good, but what the
/// driver wrote and nobody damaged is there.
fn goes_on(kernel: Kernel, name: &str) {
    need!(oracle::tools());
    let guest = need!(Guest::new(kernel));
    let file = golden::open(name).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    assert_eq!(fsck(&["--seal=100", &path]).0, 0);
    let said = guest
        .disk(file.path())
        .run(SCRIPT)
        .unwrap()
        .expect_success();
    assert!(said.kernel_log.is_empty(), "{said}");
    // The seal is there, whole and stale; nothing counts as lost.
    let (code, out, _) = fsck(&["--verify", "--json", &path]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["status"]), (4, &"stale".into()), "{out}");
    assert_eq!(fsck(&["-fn", &path]).0, 0);
    // INODE_SPARSE_SIZE is its known mistake about quota files that the driver made longer.
    let known = oracle::check(golden::open(name).unwrap().path()).unwrap();
    let said = oracle::check(file.path()).unwrap();
    let new = |code: &&String| *code != "INODE_SPARSE_SIZE" && !known.codes.contains(code);
    assert_eq!(said.codes.iter().find(new), None, "{}", said.transcript);

    // A repair changes nothing, with the seal and all.
    let written = std::fs::read(&path).unwrap();
    assert_eq!(fsck(&["-fy", &path]).0, 0);
    assert!(std::fs::read(&path).unwrap() == written);

    // Sealed blocks that did not change since are lost: they come back, and nothing else moves.
    let newer: Vec<(u64, u64)> = serde_json::from_value(report["facts"]["newer"].clone()).unwrap();
    let seal = crate::program::seal_of(&path);
    let block = seal.shape.block;
    let changed = |blkno: u64| {
        newer
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&blkno))
    };
    let kept: Vec<u64> = seal
        .list
        .runs
        .iter()
        // What lies in clusters is put back only where its inode is as it was.
        .filter(|run| run.span.owner.is_none_or(|owner| !changed(owner.0)))
        .flat_map(|run| (0..run.span.len).map(|i| run.span.first.plus(i).0))
        .filter(|blkno| !changed(*blkno) && *blkno > 2)
        .collect();
    let mut dice = Dice::new(5);
    for blkno in dice.some(&kept, 8) {
        let rubbish = dice.rubbish(block);
        crate::program::write(&path, blkno * block as u64, &rubbish);
    }
    let (code, out, err) = fsck(&["-fy", &path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert_eq!(fsck(&["-fn", &path]).0, 0, "{out}");
    let now = std::fs::read(&path).unwrap();
    let differ: Vec<usize> = (0..now.len() / block)
        .filter(|i| now[i * block..(i + 1) * block] != written[i * block..(i + 1) * block])
        .collect();
    // Only the log of the commit, and what it marks there.
    let journal = |blkno: &usize| {
        seal.list.runs.iter().any(|run| {
            run.span.guard == cowfs_format::ops::seal::Guard::Journal
                && (*blkno as u64).wrapping_sub(run.span.first.0) < (4 << 20) / block as u64
        })
    };
    let others: Vec<usize> = differ.into_iter().filter(|blkno| !journal(blkno)).collect();
    assert!(others.is_empty(), "{others:?}: {out}");
}

#[test]
fn linux_6_1_goes_on_with_a_sealed_volume() {
    goes_on(Kernel::V6_1, "b4k-c4k-max");
}

#[test]
fn linux_6_12_goes_on_with_a_sealed_volume() {
    goes_on(Kernel::V6_12, "b1k-c4k-default");
}
