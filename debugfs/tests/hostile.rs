//! Damaged volumes: whatever the bytes, no command panics or runs on, and trouble is said.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cowfs_format::dump::{BlockKind, dump};
use cowfs_tests::golden;
use support::Shell;

/// Looks into everything that a volume has.
const SCRIPT: &[&str] = &[
    "stats",
    "df",
    "slotmap",
    "hb",
    "logdump 0",
    "ls -l /",
    "ls -l //",
    "dirblocks /many",
    "dx_dump /many",
    "dx_space /many",
    "stat //global_bitmap",
    "stat //inode_alloc:0000",
    "stat //truncate_log:0000",
    "stat //local_alloc:0000",
    "stat //journal:0000",
    "group 32768",
    "ls -l /many",
    "ls -l /shared",
    "stat /shared/first",
    "refcount -e /shared/first",
    "extents -o /shared/third",
    "cat /shared/clone",
    "cat /inline/one",
    "frag /fragmented/whole",
    "xattr -v /attributes/inode",
    "xattr -v /attributes/block",
    "xattr -v /attributes/buckets",
    "icheck 100 5000 9000",
    "ncheck 2700 2701 5",
    "block 2 3 4 5 6 7 8 9 10",
];

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Steele and others, "Fast splittable pseudorandom number generators".
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Runs the script; true when anything failed.
fn look(shell: &mut Shell) -> bool {
    let mut failed = false;
    for (i, line) in SCRIPT.iter().enumerate() {
        shell.session.json = i % 2 == 0;
        let said = shell.run(line);
        // What failed says so.
        assert_eq!(said.good, said.err.is_empty(), "{line}");
        failed |= !said.good;
    }
    failed
}

/// The metadata blocks of an image: where something that can be damaged stands.
fn metadata(bytes: &[u8], block: usize) -> Vec<usize> {
    let kinds = bytes.chunks_exact(block).map(BlockKind::detect).enumerate();
    kinds
        .filter(|(at, kind)| *kind != BlockKind::Raw && *at > 2)
        .map(|(at, _)| at * block)
        .collect()
}

fn damage(name: &str, block: usize, rounds: u64, change: impl Fn(&mut Random, &mut [u8])) {
    let image = golden::open(name).unwrap();
    let bytes = std::fs::read(image.path()).unwrap();
    let places = metadata(&bytes, block);
    assert!(places.len() > 50, "{}", places.len());
    let (mut failed, mut opened) = (0, 0);
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut hurt = Vec::new();
        for _ in 0..1 + random.below(40) {
            let at = places[random.below(places.len())];
            let mut copy = bytes[at..at + block].to_vec();
            change(&mut random, &mut copy);
            image.as_file().write_all_at(&copy, at as u64).unwrap();
            hurt.push(at);
        }
        let start = Instant::now();
        if let Ok(mut shell) = Shell::open(image.path()) {
            opened += 1;
            failed += u64::from(look(&mut shell));
        }
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(60),
            "{name}, seed {seed}: {took:?}"
        );
        for at in hurt {
            let good = &bytes[at..at + block];
            image.as_file().write_all_at(good, at as u64).unwrap();
        }
    }
    assert!(opened > rounds / 2, "{opened} of {rounds} opened");
    assert!(failed > 0, "no damage was seen");
}

#[test]
fn flipped_bytes_with_checks() {
    damage("b4k-c4k-max", 4096, 15, |random, block| {
        for _ in 0..1 + random.below(8) {
            let at = random.below(block.len());
            block[at] = random.next().to_le_bytes()[0];
        }
    });
}

/// Without checks the readers meet every wrong number themselves.
#[test]
fn flipped_bytes_without_checks() {
    damage("b1k-c4k-default", 1024, 40, |random, block| {
        for _ in 0..1 + random.below(4) {
            // Mostly in the heads, where the counts and pointers are.
            let limit = if random.below(3) == 0 {
                block.len()
            } else {
                0x140
            };
            let at = random.below(limit);
            block[at] = match random.below(3) {
                0 => 0xFF,
                1 => 0,
                _ => random.next().to_le_bytes()[0],
            };
        }
    });
}

/// Checks that are right again: the numbers are wrong and nothing warns of it.
#[test]
fn flipped_bytes_under_good_checks() {
    damage("b512-c4k-max", 512, 30, |random, block| {
        for _ in 0..1 + random.below(4) {
            let at = 0x10 + random.below(block.len() - 0x10);
            block[at] = random.next().to_le_bytes()[0];
        }
        let mut signature = [0; 8];
        signature.copy_from_slice(&block[..8]);
        if let Some(at) = cowfs_format::block::check_offset_of(signature) {
            cowfs_format::ecc::stamp(block, at);
        }
    });
}

#[test]
fn an_unreadable_block_is_named_and_the_rest_is_shown() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let entries = shell.json("ls /many")["entries"].as_array().unwrap().len();
    let blocks = shell.json("dirblocks /many");
    let blocks = blocks["blocks"].as_array().unwrap();
    assert!(blocks.len() >= 2);
    let lost = blocks[1]["blkno"].as_u64().unwrap();
    drop(shell);
    image
        .as_file()
        .write_all_at(&[0xA5; 4096], lost * 4096)
        .unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let said = shell.run("ls /many");
    assert!(!said.good);
    assert!(said.err.contains(&format!("block {lost}")), "{}", said.err);
    let shown = String::from_utf8(said.out).unwrap().lines().count();
    let in_lost = blocks[1]["entries"].as_array().unwrap();
    let in_lost = in_lost.iter().filter(|entry| entry["inode"] != 0).count();
    assert_eq!(shown, entries - in_lost);
}

#[test]
fn all_metadata_of_all_images_is_dumped_whole() {
    for golden in golden::all().unwrap() {
        let image = golden.open().unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        let block = match golden.name.split('-').next().unwrap() {
            "b512" => 512,
            "b1k" => 1024,
            "b2k" => 2048,
            _ => 4096,
        };
        for at in metadata(&bytes, block) {
            let part = &bytes[at..at + block];
            let tree = dump(BlockKind::detect(part), part);
            let joined: Vec<u8> = tree
                .leaves()
                .iter()
                .flat_map(|leaf| leaf.raw.to_vec())
                .collect();
            assert!(joined == part, "{} byte {at}", golden.name);
        }
    }
}
