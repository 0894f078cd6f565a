//! Random operations, ours in random transactions and the driver's by turns, against a plain model of a tree.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cowfs_tests::model::{self, Model, Rng};
use cowfs_tests::said::fsck;
use cowfs_tests::session::writable;
use cowfs_tests::{Guest, Kernel, need, oracle, script};
use tempfile::TempDir;

/// How long a kernel may take for all volumes, beside a second for each step.
const GUEST: Duration = Duration::from_secs(600);

/// Done in groups of up to a dozen, each a transaction; some are given up.
fn play(image: &Path, model: &mut Model, rng: &mut Rng, steps: u64) {
    let mut volume = writable(image);
    let mut done = 0;
    while done < steps {
        let before = (rng.below(12) == 0).then(|| model.clone());
        let mut txn = volume.begin().unwrap();
        for _ in 0..=rng.below(12) {
            model::step(model, rng, &mut txn);
            done += 1;
        }
        match before {
            Some(before) => {
                txn.abort();
                *model = before;
            }
            None => drop(txn.commit().unwrap()),
        }
        if done % 512 < 12 {
            let differs = model::difference(&model.listing(), &model::read(volume.view()));
            assert!(
                differs.is_none(),
                "{}, step {done}: {differs:?}",
                image.display()
            );
        }
    }
}

/// What fsck.cowfs finds. (mkfs.ocfs2 makes a lost+found of a wrong size where directories stand in
/// blocks.)
fn codes(image: &Path) -> Vec<&'static str> {
    let volume = writable(image);
    let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
    checked.codes()
}

/// A volume and what should be on it.
struct Trial {
    args: &'static str,
    image: PathBuf,
    model: Model,
    rng: Rng,
    /// What the checkers found on the new volume.
    known: (Vec<String>, Vec<&'static str>),
    /// Whether Linux 6.12 changed it.
    since_6_12: bool,
}

impl Trial {
    /// A volume of `size` bytes, and more where clusters are large.
    fn new(number: usize, seed: u64, args: &'static str, size: u64, dir: &Path) -> Self {
        let image = dir.join(format!("image-{number}"));
        let list: Vec<&str> = args.split(' ').collect();
        let size = if args.contains("1048576") {
            7 * size
        } else {
            size
        };
        oracle::mkfs(&image, size, &list).unwrap();
        let known = (oracle::check(&image).unwrap().codes, codes(&image));
        Self {
            args,
            image,
            model: Model::default(),
            rng: Rng::new(1000 * seed + number as u64),
            known,
            since_6_12: false,
        }
    }

    /// Takes most of the space, every second cluster of it, so that no group of inodes fits between.
    fn fragment(&mut self, size: u64) {
        let mut volume = writable(&self.image);
        let mut txn = volume.begin().unwrap();
        model::ballast(&mut self.model, &mut txn, "ballast", size / 4 * 3);
        txn.commit().unwrap();
    }

    fn play(&mut self, steps: u64) {
        play(&self.image, &mut self.model, &mut self.rng, steps);
    }

    /// Neither checker finds anything that was not there from the beginning.
    fn is_sound(&self, when: &str) {
        let place = format!("{} after {when}", self.args);
        let mut report = oracle::check(&self.image).unwrap();
        // Said of every file with space behind its end, and of buckets that the driver took something out of.
        let mistaken = ["INODE_SPARSE_SIZE", "XATTR_FREE_START_INVALID"];
        (report.codes).retain(|code| !mistaken.contains(&code.as_str()));
        if self.since_6_12 {
            // It knows one of the two hashes of a name only, and not that of this kernel.
            report.codes.retain(|code| code != "DX_LOOKUP_FAILED");
        }
        assert!(
            report.codes == self.known.0 && report.finished(),
            "{place}: {report:?}"
        );
        let mut now = codes(&self.image);
        // The driver removes one of the two entries that a name with bytes of 0x80 and above has in
        // the index. The other one leads nowhere, which does no harm.
        now.retain(|code| *code != "X_DX_STALE" && !self.known.1.contains(code));
        // Linux 6.1 does not know how many attributes a bucket of small blocks may hold.
        now.retain(|code| *code != BUCKET_FULL || when != Kernel::V6_1.series());
        assert!(now.is_empty(), "{place}: {now:?}");
        let volume = writable(&self.image);
        let differs = model::difference(&self.model.listing(), &model::read(volume.view()));
        assert!(differs.is_none(), "{place}: {differs:?}");
    }
}

/// Newer drivers refuse it; the repair changes nothing that the model knows of.
const BUCKET_FULL: &str = "X_XATTR_BUCKET_FULL";

const VOLUMES: [&str; 8] = [
    "-M local -b 4096 -C 4096 -N 1 --fs-feature-level=max-features",
    "-M local -b 1024 -C 4096 -N 2 --fs-feature-level=max-features",
    "-M local -b 512 -C 4096 -N 1 -J size=4M --fs-feature-level=max-features",
    "-M local -b 2048 -C 16384 -N 1 --fs-features=metaecc,nousrquota,nogrpquota",
    "-M local -b 4096 -C 1048576 -N 1 --fs-feature-level=max-features",
    "-M local -b 4096 -C 32768 -N 1 --fs-features=noinline-data",
    "-M local -b 1024 -C 4096 -N 1 --fs-features=noindexed-dirs,metaecc",
    "-M local -b 512 -C 4096 -N 2 -J size=4M --fs-feature-level=max-compat",
];

/// Our operations on all volumes; then, one kernel after the other, the driver walks what we left, does its own, and we
/// go on from there. `MODEL_STEPS` says how many of ours (a volume), `MODEL_SEED` which.
#[test]
fn random_operations_leave_what_the_model_says() {
    need!(oracle::tools());
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    let steps = number("MODEL_STEPS", 400);
    let seed = number("MODEL_SEED", 1);
    let size = (300 << 20) * (1 + steps / 1000);
    let dir = TempDir::new().unwrap();
    let mut trials: Vec<Trial> = (VOLUMES.into_iter().enumerate())
        .map(|(number, args)| Trial::new(number, seed, args, size, dir.path()))
        .collect();
    // One more of the first kind, without room for a whole group anywhere.
    let mut fragmented = Trial::new(VOLUMES.len(), seed, VOLUMES[0], size, dir.path());
    fragmented.fragment(size);
    trials.push(fragmented);
    thread::scope(|scope| {
        for trial in &mut trials {
            scope.spawn(move || {
                trial.play(steps);
                trial.is_sound("our operations");
            });
        }
    });
    for kernel in Kernel::ALL {
        let mut guest = need!(Guest::new(kernel)).file("noise", script::noise());
        let mut commands = String::new();
        let mut left = Vec::new();
        for (number, trial) in trials.iter_mut().enumerate() {
            left.push(trial.model.clone());
            trial.since_6_12 |= kernel == Kernel::V6_12;
            let features = writable(&trial.image).info().features;
            let lines = script::play(&mut trial.model, &mut trial.rng, features, steps / 10);
            guest = guest
                .disk(&trial.image)
                .file(&format!("script-{number}"), lines);
            let disk = char::from(b'a' + u8::try_from(number).unwrap());
            commands.push_str(&format!(
                "DISK=/dev/vd{disk}; mount_vol; walk_vol walk-{number}; . $IN/script-{number}; umount_vol\n"
            ));
        }
        let said = guest
            .timeout(GUEST + Duration::from_secs(steps))
            .run(&commands)
            .unwrap()
            .expect_success();
        assert!(said.kernel_log.is_empty(), "{said}");
        thread::scope(|scope| {
            for ((number, trial), left) in trials.iter_mut().enumerate().zip(&left) {
                let walk = said.walk(&format!("walk-{number}")).unwrap();
                scope.spawn(move || {
                    let differs = script::difference(left, &walk);
                    assert!(differs.is_none(), "{}: {kernel:?}: {differs:?}", trial.args);
                    trial.is_sound(kernel.series());
                    if codes(&trial.image).contains(&BUCKET_FULL) {
                        let (code, out, err) = fsck(&["-fp", &trial.image.to_string_lossy()]);
                        assert!(code == 1, "{}: {out}{err}", trial.args);
                    }
                    trial.play(steps / 10);
                    trial.is_sound("our operations on what the driver left");
                });
            }
        });
    }
}
