//! A device that cannot read or write one thing, a volume that is full, an owner who may not have
//! more: what was begun fails in one line, and the volume is as before.
#![allow(clippy::unwrap_used)] // A test may panic.

use cowfs_format::device::{Device, FaultDevice, MemDevice};
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::RoCompat;
use cowfs_format::ops::{self, Change, CloneOptions, CloneTree, Existing, Marks, TreeOptions};
use cowfs_format::txn::{NewInode, Txn};
use cowfs_format::volume::Volume;
use cowfs_tests::manifest;
use cowfs_tests::session::{NOW, Session, find, pattern};
use mkfs_cowfs::{Options, Plan, Rules, Source, execute_filled};
use tempfile::TempDir;

/// An operation of the test: what it is called and what it does in one transaction.
type Operation = (&'static str, fn(&mut dyn Session) -> Result<()>);

/// Something that is tried on a volume.
type Attempt<'a> = dyn Fn(&mut Volume<&MemDevice>) -> Result<()> + 'a;

const OPERATIONS: &[Operation] = &[
    ("mkdir", |s| s.mkdir("directory")),
    ("write", |s| s.write("large", &pattern(1_200_000, 1))),
    ("clone", |s| s.reflink("file", "clone")),
    ("overwrite a shared part", |s| {
        s.overwrite("shared", 5000, &pattern(100_000, 9))
    }),
    ("overwrite a part of its own", |s| {
        s.overwrite("own", 999, &pattern(5000, 9))
    }),
    ("set an attribute", |s| {
        s.set_xattr("own", "user.large", &pattern(40_000, 2))
    }),
];

fn options() -> Options {
    Options {
        block_size: Some(2048),
        uuid: Some([7; 16]),
        time: Some(NOW.seconds),
        ..Options::default()
    }
}

fn prepared(options: &Options) -> Vec<u8> {
    let device = MemDevice::new(vec![0; 16 << 20]);
    mkfs_cowfs::format(&device, options).unwrap();
    let mut volume = Volume::open(&device).unwrap();
    volume.write("file", &pattern(300_000, 1)).unwrap();
    volume.reflink("file", "shared").unwrap();
    volume.write("own", &pattern(20_000, 1)).unwrap();
    drop(volume);
    device.snapshot()
}

fn is_sound(bytes: Vec<u8>) -> bool {
    let volume = Volume::open(MemDevice::new(bytes)).unwrap();
    let report = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
    report.is_clean()
}

#[test]
fn one_error_of_the_device_leaves_the_volume_as_before() {
    let before = prepared(&options());
    for (name, operation) in OPERATIONS {
        let device = FaultDevice::failing_read(MemDevice::new(before.clone()), u64::MAX);
        let mut volume = Volume::open(&device).unwrap();
        let opened = device.reads();
        let trees = manifest::of(volume.view());
        let looked = device.reads() - opened;
        operation(&mut volume).unwrap();
        let (reads, writes) = (device.reads() - looked, device.writes());
        let trees = [trees, manifest::of(volume.view())];
        assert_ne!(trees[0], trees[1], "{name}");
        assert!(reads - opened > 5 && writes > 5, "{name}: {reads} {writes}");
        drop(volume);

        let (mut failed, mut late, mut unneeded) = (0, 0, 0);
        let faults = (opened..reads).map(|n| (n, u64::MAX));
        for (read, write) in faults.chain((0..writes).map(|n| (u64::MAX, n))) {
            let place = format!("{name}, read {read}, write {write}");
            let base = MemDevice::new(before.clone());
            let device = if write == u64::MAX {
                FaultDevice::failing_read(base, read)
            } else {
                FaultDevice::failing_write(base, write)
            };
            let mut volume = Volume::open(&device).unwrap();
            let done = operation(&mut volume);
            if done.is_ok() && write == u64::MAX {
                // What the change writes over need not be read.
                assert!(manifest::of(volume.view()) == trees[1], "{place}");
                unneeded += 1;
                continue;
            }
            let is_late = matches!(done, Err(Error::Unfinished { .. }));
            let error = done.expect_err(&place).to_string();
            assert!(
                error.lines().count() == 1 && error.contains("os error 5"),
                "{error}"
            );
            failed += 1;
            // Who goes on with the same volume sees it through its journal, and must replay that.
            volume.reload_unfinished();
            let expected = &trees[usize::from(is_late)];
            assert!(manifest::of(volume.view()) == *expected, "{place}: {error}");
            if is_late && !volume.pending().is_empty() {
                late += 1;
                assert!(volume.mkdir("too early").is_err(), "{place}");
            }
            volume.recover().unwrap();
            assert!(manifest::of(volume.view()) == *expected, "{place}: {error}");
            volume.mkdir("afterwards").unwrap();
            drop(volume);
            if failed % 4 == 0 {
                assert!(is_sound(device.into_base().snapshot()), "{place}");
            }
        }
        assert!(late > 0 && late < failed, "{name}: {late} of {failed}");
        assert!(
            unneeded <= writes,
            "{name}: {unneeded} reads did not matter"
        );
    }
}

#[test]
fn one_error_of_the_device_leaves_no_volume_half_filled() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    for n in 0..40 {
        let path = dir.path().join(format!("directory/file {n}"));
        std::fs::write(path, pattern(n * 3000, 1)).unwrap();
    }
    let fill = |device: &FaultDevice<MemDevice>| {
        let mut plan = Plan::new(&options(), device.size()).unwrap();
        let source = Source::open(dir.path()).unwrap();
        let rules = Rules {
            fit: Some(0),
            digest: true,
            ..Rules::default()
        };
        execute_filled(device, &mut plan, source, &rules, &|_| ())
    };
    let memory = || MemDevice::new(vec![0; 16 << 20]);
    let device = FaultDevice::failing_read(memory(), u64::MAX);
    fill(&device).unwrap();
    let (reads, writes) = (device.reads(), device.writes());
    assert!(is_sound(device.into_base().snapshot()));
    let mut failed = 0;
    let reads = (0..reads).step_by(1 + usize::try_from(reads / 60).unwrap());
    let faults = reads.map(|n| FaultDevice::failing_read(memory(), n));
    let writes = (0..writes).step_by(1 + usize::try_from(writes / 60).unwrap());
    for device in faults.chain(writes.map(|n| FaultDevice::failing_write(memory(), n))) {
        let done = fill(&device);
        let left = device.into_base().snapshot();
        match done {
            // Whether the first bytes are zeros may be unknown: then they are made so.
            Ok(_) => assert!(is_sound(left)),
            Err(error) => {
                failed += 1;
                let said = format!("{error:#}");
                assert!(
                    said.lines().count() == 1 && said.contains("os error 5"),
                    "{said}"
                );
                assert!(Volume::open(MemDevice::new(left)).is_err(), "{said}");
            }
        }
    }
    assert!(failed > 60, "{failed}");
}

#[test]
fn a_full_volume_stays_as_it_is() {
    let mut bytes = prepared(&options());
    // Large files as long as they fit, then smaller ones.
    let mut size = 2 << 20;
    let mut count = 0;
    let device = MemDevice::new(std::mem::take(&mut bytes));
    let mut volume = Volume::open(&device).unwrap();
    while size > 4000 {
        count += 1;
        match volume.write(&format!("fill {count}"), &pattern(size, 1)) {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) => size /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    let tree = manifest::of(volume.view());
    let mut failed = Vec::new();
    for (name, operation) in OPERATIONS {
        let Err(error) = operation(&mut volume) else {
            continue;
        };
        assert!(matches!(error, Error::NoSpace { .. }), "{name}: {error}");
        failed.push(*name);
        assert!(volume.pending().is_empty());
    }
    for name in ["write", "overwrite a shared part", "set an attribute"] {
        assert!(failed.contains(&name), "{name} found room on a full volume");
    }
    // What found room is allowed to be there; nothing else is.
    let after = manifest::of(volume.view());
    if failed.len() == OPERATIONS.len() {
        assert_eq!(after, tree);
    }
    drop(volume);
    assert!(is_sound(device.snapshot()));
}

#[test]
fn who_has_all_that_the_quota_allows_gets_no_more() {
    let mut options = options();
    // Without checks, so that a limit can be set by writing it.
    options.features.incompat -= cowfs_format::layout::Incompat::META_ECC;
    options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    let mut bytes = prepared(&options);
    // The entry of the owner of all files: id, then limits, inodes and bytes. The journals, which lie
    // before the quota files, hold copies of it.
    let entry = (0..bytes.len() - 0x48)
        .step_by(8)
        .rfind(|at| {
            let word = |o: usize| u64::from_le_bytes(bytes[at + o..at + o + 8].try_into().unwrap());
            let id = bytes[*at..at + 4] == 1000_u32.to_le_bytes();
            id && (1..10).contains(&word(0x18)) && (300_000..1_000_000).contains(&word(0x30))
        })
        .unwrap();
    let word = |o: usize| u64::from_le_bytes(bytes[entry + o..entry + o + 8].try_into().unwrap());
    let limits = [(0x08, word(0x18) + 1), (0x20, word(0x30) + (1 << 20))];
    for (at, limit) in limits {
        bytes[entry + at..entry + at + 8].copy_from_slice(&limit.to_le_bytes());
    }
    let device = MemDevice::new(bytes);
    let mut volume = Volume::open(&device).unwrap();
    // Somebody else's, and too large for user 1000.
    let root = volume.info().root;
    let mut txn = volume.begin().unwrap();
    let new = NewInode::at(NOW, 0o100_644, 0, 0);
    let other = ops::make_node(&mut txn, root, b"other", 0, &new).unwrap();
    ops::fallocate(&mut txn, other, (0, 1_200_000), false, NOW).unwrap();
    txn.commit().unwrap();
    let tree = manifest::of(volume.view());
    let names = [b"a".to_vec(), b"b".to_vec()];
    let large = pattern(1_200_000, 1);
    let (file, own) = (
        find(&volume, "file").unwrap(),
        find(&volume, "own").unwrap(),
    );
    let new = NewInode::at(NOW, 0o120_777, 1000, 100);
    let each = CloneOptions {
        preserve: true,
        uid: 1000,
        gid: 100,
        now: NOW,
    };
    let in_one = |volume: &mut Volume<&MemDevice>, work: &dyn Fn(&mut Txn<'_>) -> Result<()>| {
        let mut txn = volume.begin()?;
        work(&mut txn)?;
        txn.commit().map(drop)
    };
    let attempts: [&Attempt<'_>; 8] = [
        &|volume| volume.write("large", &large),
        &|volume| volume.overwrite("own", 20_000, &large),
        &|volume| volume.touch("/", &names),
        &|volume| {
            in_one(volume, &|txn| {
                ops::symlink(txn, root, b"a", b"target", &new)?;
                ops::symlink(txn, root, b"b", b"target", &new).map(drop)
            })
        },
        &|volume| {
            in_one(volume, &|txn| {
                ops::fallocate(txn, own, (0, 1_200_000), false, NOW).map(drop)
            })
        },
        // What is shared is charged to each who maps it.
        &|volume| {
            in_one(volume, &|txn| {
                ops::clone_file(txn, file, root, b"a", &each)?;
                ops::clone_file(txn, file, root, b"b", &each).map(drop)
            })
        },
        &|volume| {
            in_one(volume, &|txn| {
                let uid = Change {
                    uid: Some(1000),
                    ..Change::default()
                };
                ops::change(txn, other, &uid, NOW)
            })
        },
        &|volume| {
            in_one(volume, &|txn| {
                let mut tree = CloneTree::new(TreeOptions {
                    each,
                    recursive: true,
                    marks: Marks::Freeze,
                });
                tree.add(file, root, b"a", b"a");
                tree.add(own, root, b"b", b"b");
                let done = tree.step(txn, usize::MAX, &mut |_| Ok(Existing::Refuse))?;
                assert!(done);
                Ok(())
            })
        },
    ];
    for attempt in attempts {
        let error = attempt(&mut volume).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("hard limit of user 1000 is reached"),
            "{said}"
        );
        assert!(manifest::of(volume.view()) == tree, "{said}");
    }
    // What is within the limits is had.
    volume.touch("/", &names[..1]).unwrap();
    volume.overwrite("own", 20_000, &large[..900_000]).unwrap();
    drop(volume);
    assert!(is_sound(device.snapshot()));
}
