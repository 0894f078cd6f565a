//! What our transactions leave on a volume, judged by fsck.ocfs2: directories that outgrow their
//! inodes and their indexes, imported files, clones, and overwrites that break sharing, on volumes
//! of many geometries.
#![allow(clippy::unwrap_used)] // A test may panic.

use cowfs_tests::session::exercise;
use cowfs_tests::{need, oracle};
use tempfile::TempDir;

#[test]
fn fsck_ocfs2_finds_nothing_on_what_we_edit() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    for args in [
        "-M local -b 4096 -C 4096 -N 1 --fs-feature-level=max-features",
        "-M local -b 1024 -C 4096 -N 2 --fs-feature-level=max-features",
        "-M local -b 512 -C 4096 -N 1 -J size=4M --fs-feature-level=max-features",
        "-M local -b 2048 -C 16384 -N 1 --fs-features=metaecc,nousrquota,nogrpquota",
        "-M local -b 4096 -C 1048576 -N 1 --fs-feature-level=max-features",
        "-M local -b 4096 -C 32768 -N 1 --fs-features=noinline-data",
        "-M local -b 1024 -C 4096 -N 1 --fs-features=noindexed-dirs,metaecc",
    ] {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let args: Vec<&str> = args.split(' ').collect();
        oracle::mkfs(&image, 200 << 20, &args).unwrap();
        // What fsck.ocfs2 says of the pristine volume (`DX_TREE_MISSING` of an extent-based system
        // directory) is its own mistake.
        let before = oracle::check(&image).unwrap().codes;
        exercise(&image);
        let report = oracle::check(&image).unwrap();
        assert!(
            report.codes == before && report.finished(),
            "{args:?}: {report:?}"
        );
    }
}
