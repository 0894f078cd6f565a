//! Deduplication.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cowfs_format::device::{FaultDevice, MemDevice};
use cowfs_format::layout::RoCompat;
use cowfs_format::ops::dedupe;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::session::{Session as _, contents, find, pattern, writable};
use mkfs_cowfs::Options;
use proptest::prelude::*;

use crate::rig::{Image, counted_right};

const MIB: usize = 1 << 20;

pub(crate) fn options(block_size: u32, cluster_size: u32) -> Options {
    let mut options = Options {
        block_size: Some(block_size),
        cluster_size: Some(cluster_size),
        slots: Some(1),
        journal_size: (cluster_size < 1 << 20).then_some(4 << 20),
        ..Options::default()
    };
    if block_size == 4096 {
        options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    }
    options
}

/// Bytes of a file: windows of 1 MiB by their seeds, and a shorter end.
fn bytes(windows: &[u64], end: (usize, u64)) -> Vec<u8> {
    let whole = windows.iter().flat_map(|seed| pattern(MIB, *seed));
    whole.chain(pattern(end.0, 100 + end.1)).collect()
}

/// Two families of clones, each with a tree of its own, and a file that belongs to none.
pub(crate) fn families(volume: &mut Volume<&MemDevice>) {
    let a = bytes(&[1, 2], (50_000, 1));
    volume.write("a", &a).unwrap();
    volume.reflink("a", "a-clone").unwrap();
    volume.write("b", &a).unwrap();
    for n in 0..3 {
        volume.reflink("b", &format!("b-clone-{n}")).unwrap();
    }
    volume.overwrite("b-clone-1", 5000, b"other").unwrap();
    volume.write("c", &bytes(&[2, 3], (50_000, 1))).unwrap();
    volume.write("d", &bytes(&[2, 2, 2], (0, 0))).unwrap();
}

#[test]
fn files_of_different_trees_come_to_share_in_one() {
    for (block, cluster) in [(4096, 4096), (1024, 8192), (4096, 1 << 20)] {
        let name = format!("{block}/{cluster}");
        let image = Image::new(64, &options(block, cluster), families);
        let (before, free) = (image.contents(), free_clusters(&image));
        // Nothing is written by a dry run.
        let bytes = std::fs::read(&image.path).unwrap();
        let planned = image.json("dedupe -n", &["/"]);
        assert!(std::fs::read(&image.path).unwrap() == bytes, "{name}");
        let done = image.json("dedupe", &["/"]);
        for key in ["shared_bytes", "freed_bytes", "merged_trees", "left_bytes"] {
            assert_eq!(done[key], planned[key], "{name}: {key}");
        }
        assert_eq!(done["merged_trees"], 1, "{name}: {done}");
        image.is_sound(&name);
        assert!(image.contents() == before, "{name}");
        let freed = u64::from(free_clusters(&image) - free) * u64::from(cluster);
        assert_eq!(done["freed_bytes"], freed, "{name}");
        // Once more, there is nothing left to do.
        let again = image.json("dedupe", &["/"]);
        assert_eq!(
            (&again["shared_bytes"], &again["transactions"]),
            (&0.into(), &0.into())
        );
        // Each file can be written, and the others keep what they have.
        let mut volume = writable(&image.path);
        volume.overwrite("a", 0, &pattern(9000, 77)).unwrap();
        volume.overwrite("c", 10, b"c").unwrap();
        drop(volume);
        image.is_sound(&name);
    }
}

fn free_clusters(image: &Image) -> u32 {
    writable(&image.path)
        .begin()
        .unwrap()
        .free_clusters()
        .unwrap()
}

/// A file as the model knows it.
#[derive(Clone, Debug)]
struct Model {
    windows: Vec<u64>,
    end: (usize, u64),
}

fn file() -> impl Strategy<Value = Model> {
    let end = prop_oneof![Just(0usize), 3000usize..60_000, Just(32_768)];
    (prop::collection::vec(0u64..3, 0..3), end, 0u64..2).prop_map(|(windows, len, seed)| Model {
        windows,
        end: (len, seed),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Write(Model),
    Clone(usize),
    /// One window of a file is written over.
    Overwrite(usize, usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => file().prop_map(Step::Write),
        2 => any::<usize>().prop_map(Step::Clone),
        2 => (any::<usize>(), any::<usize>(), 0u64..3).prop_map(|(f, w, s)| Step::Overwrite(f, w, s)),
    ]
}

/// What is stored after a deduplication: of each window as many copies as the file has that has it
/// most often, since no file maps a cluster twice.
fn stored(files: &[Model], cluster: usize) -> usize {
    let mut most: HashMap<(usize, Vec<u8>), usize> = HashMap::new();
    for file in files {
        let mut own: BTreeMap<(usize, Vec<u8>), usize> = BTreeMap::new();
        for seed in &file.windows {
            *own.entry((MIB, pattern(32, *seed))).or_default() += 1;
        }
        if file.end.0 > 0 {
            let mut key = pattern(file.end.0, 100 + file.end.1);
            key.resize(file.end.0.next_multiple_of(cluster), 0);
            *own.entry((key.len(), key)).or_default() += 1;
        }
        for (key, count) in own {
            let most = most.entry(key).or_default();
            *most = (*most).max(count);
        }
    }
    most.iter()
        .map(|((len, _), count)| len / cluster * count)
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn as_little_is_stored_as_can_be(steps in prop::collection::vec(step(), 4..16), small in any::<bool>()) {
        let (block, cluster) = if small { (1024, 4096) } else { (4096, 8192) };
        let mut files: Vec<Model> = Vec::new();
        let image = Image::new(64, &options(block, cluster), |volume| {
        for step in steps {
            let name = format!("file-{}", files.len());
            match step {
                // Data in inodes is not looked at.
                Step::Write(mut model) => {
                    if model.windows.is_empty() && model.end.0 < 5000 {
                        model.end.0 = 0;
                        model.windows.push(1);
                    }
                    volume.write(&name, &bytes(&model.windows, model.end)).unwrap();
                    files.push(model);
                }
                Step::Clone(of) if !files.is_empty() => {
                    let of = of % files.len();
                    volume.reflink(&format!("file-{of}"), &name).unwrap();
                    files.push(files[of].clone());
                }
                Step::Overwrite(of, window, seed) if !files.is_empty() => {
                    let of = of % files.len();
                    let count = files[of].windows.len();
                    if count > 0 {
                        let window = window % count;
                        let new = pattern(MIB, seed);
                        volume.overwrite(&format!("file-{of}"), (window * MIB) as u64, &new).unwrap();
                        files[of].windows[window] = seed;
                    }
                }
                _ => {}
            }
        }
        });
        let before = image.contents();
        image.json("dedupe --windows-only --min-size 1 -j 2", &["/"]);
        prop_assert!(image.contents() == before);
        image.is_sound("after");
        let kept = counted_right(image.volume().view(), "after");
        prop_assert_eq!(kept, stored(&files, usize::try_from(cluster).unwrap()));
    }
}

/// What stands at other places in another file is found by the cluster, and no further.
#[test]
fn equal_runs_are_found_at_any_cluster() {
    for cluster in [4096_usize, 16384] {
        let name = format!("clusters of {cluster}");
        let of = |count: usize, seed| pattern(count * cluster, seed);
        let (size, tail) = (u32::try_from(cluster).unwrap(), pattern(3000, 4));
        let a = [of(700, 1), tail.clone()].concat();
        let b = [of(5, 2), a.clone()].concat();
        // A part of it between other things; too short a part; and one that begins within a cluster.
        let c = [of(3, 3), a[100 * cluster..150 * cluster].to_vec(), of(2, 4)].concat();
        let least = (16_384 / cluster).max(1);
        let short = [
            of(1, 5),
            a[10 * cluster..(10 + least - 1) * cluster].to_vec(),
            of(1, 6),
        ]
        .concat();
        let odd = [vec![7; 100], a.clone()].concat();
        // Many clusters of one byte are nothing to go by, but belong to what they lie in.
        let zeros = vec![0; 40 * cluster];
        let d = [of(9, 7), zeros.clone(), of(9, 8)].concat();
        let e = [of(2, 9), d.clone()].concat();
        let files = [a, b, c, short, odd, d, e, [of(1, 10), zeros].concat()];
        let image = Image::new(96, &options(4096, size), |volume| {
            for (n, bytes) in files.iter().enumerate() {
                volume.write(&format!("{n}"), bytes).unwrap();
            }
            volume.reflink("2", "clone of 2").unwrap();
        });
        let before = image.contents();
        let whole = image.json("dedupe -n --windows-only", &["/"]);
        assert_eq!(whole["freed_bytes"], 0, "{name}: {whole}");
        let planned = image.json("dedupe -n", &["/"]);
        let done = image.json("dedupe -j 2", &["/"]);
        assert_eq!(done["freed_bytes"], planned["freed_bytes"], "{name}");
        // All of a, its end included; 50 clusters; and d. `pattern` repeats nothing.
        let freed = (701 + 50 + 58) * cluster;
        assert_eq!(done["freed_bytes"], freed, "{name}: {done}");
        assert!(image.contents() == before, "{name}");
        image.is_sound(&name);
        let again = image.json("dedupe", &["/"]);
        let nothing = (&again["shared_bytes"], &again["transactions"]);
        assert_eq!(nothing, (&0.into(), &0.into()), "{name}: {again}");
        // They are apart when one is written.
        let mut volume = writable(&image.path);
        volume.overwrite("0", 300 * cluster as u64, b"new").unwrap();
        volume
            .overwrite("clone of 2", 5 * cluster as u64, b"new")
            .unwrap();
        assert!(contents(&volume, "1") == files[1] && contents(&volume, "2") == files[2]);
        drop(volume);
        image.is_sound(&name);
    }
}

/// Clusters of files, by what they hold; equal numbers hold the same bytes.
fn puzzle() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let piece = prop_oneof![
        4 => (1u64..60, 1u64..20).prop_map(|(first, count)| (first..first + count).collect::<Vec<_>>()),
        1 => (100u64..110, 1usize..6).prop_map(|(one, count)| vec![one; count]),
    ];
    let file = prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat());
    prop::collection::vec(file, 2..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]
    /// Whatever files are put together of: their contents stay, no file maps a cluster twice, and
    /// what is freed is what is not stored any more.
    #[test]
    fn runs_are_shared_without_harm(files in puzzle(), clone in any::<usize>()) {
        let image = Image::new(32, &options(4096, 4096), |volume| {
            for (n, clusters) in files.iter().enumerate() {
                let bytes: Vec<u8> = clusters.iter().flat_map(|seed| pattern(4096, *seed)).collect();
                volume.write(&format!("{n}"), &bytes).unwrap();
            }
            volume.reflink(&format!("{}", clone % files.len()), "clone").unwrap();
        });
        let before = image.contents();
        let stored = counted_right(image.volume().view(), "before");
        let done = image.json("dedupe --min-run 1 --min-size 1", &["/"]);
        prop_assert!(image.contents() == before);
        image.is_sound("after");
        let kept = counted_right(image.volume().view(), "after");
        prop_assert_eq!(done["freed_bytes"].as_u64(), Some(((stored - kept) * 4096) as u64));
        // Of each cluster at least as many copies as the file has that has it most often.
        let mut least: HashMap<u64, usize> = HashMap::new();
        for file in &files {
            for seed in file {
                let count = file.iter().filter(|other| *other == seed).count();
                let most = least.entry(*seed).or_default();
                *most = (*most).max(count);
            }
        }
        let least: usize = least.values().sum();
        prop_assert!(kept >= least, "{} < {}", kept, least);
        // Two files of which neither has anything twice: no more than that.
        let plain = |file: &Vec<u64>| {
            let different: BTreeSet<&u64> = file.iter().collect();
            different.len() == file.len()
        };
        if files.len() == 2 && files.iter().all(plain) {
            prop_assert_eq!(kept, least);
        }
    }
}

/// Stopped at any write, the volume is as before or as after; what the files hold never changes.
#[test]
fn a_merge_stopped_at_any_write_is_before_or_after() {
    let image = Image::new(24, &options(4096, 4096), |volume| {
        for name in ["a", "b"] {
            volume.write(name, &pattern(300_000, 1)).unwrap();
            volume.reflink(name, &format!("{name}-clone")).unwrap();
        }
    });
    let before = std::fs::read(&image.path).unwrap();
    let share = |device: &FaultDevice<MemDevice>| -> cowfs_format::error::Result<()> {
        let mut volume = Volume::open(device)?;
        let scanner = Scanner::new(Some(1))?;
        let inodes: Vec<_> = ["a", "a-clone", "b", "b-clone"]
            .iter()
            .map(|name| find(&volume, name).unwrap())
            .collect();
        let found = dedupe::find(&scanner, volume.view(), &inodes, 0, &|_| {})?;
        let mut done = found.done;
        dedupe::run(&mut volume, &scanner, found, &mut done, &|_| {})?;
        assert_eq!((done.merged_trees, done.transactions), (1, 1));
        Ok(())
    };
    crate::tree::stopped_anywhere(&before, &share);
}

/// More than one transaction's worth, in a journal of 4 MiB: whole steps, and the same result.
#[test]
fn what_does_not_fit_one_transaction_is_done_in_several() {
    let image = Image::new(64, &options(1024, 4096), |volume| {
        volume.mkdir("many").unwrap();
        for n in 0..800 {
            volume
                .write(&format!("many/{n}"), &pattern(5000, 1))
                .unwrap();
        }
    });
    let before = image.contents();
    let done = image.json("dedupe", &["/many"]);
    assert!(done["transactions"].as_u64().unwrap() > 1, "{done}");
    assert_eq!(done["freed_bytes"], 799 * 8192);
    assert!(image.contents() == before);
    image.is_sound("in steps");
}
