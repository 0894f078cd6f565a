//! Random operations, grouped into random transactions, against a plain model of a tree.
#![allow(clippy::unwrap_used)] // A test may panic.

use cowfs_tests::model::{self, Model, Rng};
use cowfs_tests::session::writable;
use cowfs_tests::{need, oracle};
use tempfile::TempDir;

/// Done in groups of up to a dozen, each a transaction; some are given up.
fn play(image: &std::path::Path, seed: u64, steps: u64) -> Model {
    let mut rng = Rng::new(seed);
    let mut model = Model::default();
    let mut volume = writable(image);
    let mut done = 0;
    while done < steps {
        let before = (rng.below(12) == 0).then(|| model.clone());
        let mut txn = volume.begin().unwrap();
        for _ in 0..=rng.below(12) {
            model::step(&mut model, &mut rng, &mut txn);
            done += 1;
        }
        match before {
            Some(before) => {
                txn.abort();
                model = before;
            }
            None => drop(txn.commit().unwrap()),
        }
        if done % 512 < 12 {
            let differs = model::difference(&model.listing(), &model::read(volume.view()));
            assert!(differs.is_none(), "seed {seed}, step {done}: {differs:?}");
        }
    }
    let differs = model::difference(&model.listing(), &model::read(volume.view()));
    assert!(differs.is_none(), "seed {seed}: {differs:?}");
    model
}

/// What fsck.cowfs finds. (mkfs.ocfs2 makes a lost+found of a wrong size where directories stand in
/// blocks.)
fn codes(image: &std::path::Path) -> Vec<&'static str> {
    let volume = writable(image);
    let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
    checked.codes()
}

#[test]
fn random_operations_leave_what_the_model_says() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    for (seed, args) in [
        "-M local -b 4096 -C 4096 -N 1 --fs-feature-level=max-features",
        "-M local -b 1024 -C 4096 -N 2 --fs-feature-level=max-features",
        "-M local -b 512 -C 4096 -N 1 -J size=4M --fs-feature-level=max-features",
        "-M local -b 2048 -C 16384 -N 1 --fs-features=metaecc,nousrquota,nogrpquota",
        "-M local -b 4096 -C 1048576 -N 1 --fs-feature-level=max-features",
        "-M local -b 4096 -C 32768 -N 1 --fs-features=noinline-data",
        "-M local -b 1024 -C 4096 -N 1 --fs-features=noindexed-dirs,metaecc",
        "-M local -b 512 -C 4096 -N 2 -J size=4M --fs-feature-level=max-compat",
    ]
    .into_iter()
    .enumerate()
    {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let list: Vec<&str> = args.split(' ').collect();
        let size = if args.contains("1048576") {
            2 << 30
        } else {
            300 << 20
        };
        oracle::mkfs(&image, size, &list).unwrap();
        let before = (oracle::check(&image).unwrap().codes, codes(&image));
        play(&image, seed as u64 + 1, 1000);
        let mut report = oracle::check(&image).unwrap();
        // Said of every file with space behind its end, the driver's own ones too.
        report.codes.retain(|code| code != "INODE_SPARSE_SIZE");
        assert!(
            report.codes == before.0 && report.finished(),
            "{args}: {report:?}"
        );
        let mut now = codes(&image);
        now.retain(|code| !before.1.contains(code));
        assert!(now.is_empty(), "{args}: {now:?}");
    }
}
