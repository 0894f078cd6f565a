//! Damaged volumes: whatever the bytes, no command panics or runs on, and trouble is said.

#![allow(clippy::unwrap_used)]

#[path = "support/judge.rs"]
mod judge;
mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cowfs_format::dump::{BlockKind, dump};
use cowfs_tests::{fuzz::peak, golden};
use debugfs_cowfs::table::{self, Needs};
use judge::Judge;
use support::Shell;

/// Looks into everything that a volume has, with every command that reads.
const SCRIPT: &[&str] = &[
    "stats",
    "stats -h",
    "df",
    "slotmap",
    "hb",
    "nodes",
    "lsdel",
    "stat_sysdir",
    "logdump 0",
    "logdump -T 0",
    "ls -l /",
    "ls -l //",
    "ls -l /many",
    "ls -l /shared",
    "dirblocks /many",
    "dx_root /many",
    "dx_dump /many",
    "dx_space /many",
    "dx_leaf LEAF",
    "stat //global_bitmap",
    "stat //inode_alloc:0000",
    "stat //truncate_log:0000",
    "stat //local_alloc:0000",
    "stat //journal:0000",
    "stat /shared/first",
    "stat /fragmented/whole",
    "group GROUP",
    "grpextents GROUP",
    "refcount -e /shared/first",
    "extents -o /shared/third",
    "extent EXTENT",
    "frag /fragmented/whole",
    "bmap /fragmented/whole 7",
    "cat /shared/clone",
    "cat /inline/one",
    "dump /shared/clone HOST/dumped",
    "rdump -b /attributes HOST",
    "tar -o HOST/archive /inline",
    "tar -b -o HOST/whole /",
    "xattr -v /attributes/inode",
    "xattr -v /attributes/block",
    "xattr -v /attributes/buckets",
    "icheck 100 5000 9000",
    "owners 100 5000 9000",
    "ncheck 2700 2701 5",
    "findpath 2700",
    "du -r /",
    "du",
    "delta -c /shared/first /shared/third",
    "manifest",
    "manifest -n",
    "verify KEPT",
    "diff KEPT IMAGE",
    "map",
    "quota",
    "image HOST/metadata",
    "image -s HOST/scrambled",
    "encode /many",
    "decode M000000000000000000000502e6bd2c",
    "block 2 3 4 5 6 7 8 9 10",
    "field <5> <2>.s_label /many.l_recs[0].e_cpos",
    "cd /many",
    "pwd",
    "chroot /many",
    "chroot //",
    "cd /",
    "curdev",
    "label",
    "uuid",
    "feature",
];

/// Changes that meet every structure; made in memory, over a damaged volume.
const CHANGES: &[&str] = &[
    "mkdir /new",
    "touch /many/another /inline/another /many.another",
    "write KEPT /new/file",
    "write -o 100 KEPT /shared/first",
    "write -o 5K KEPT /fragmented/whole",
    "reflink /shared/first /clone",
    "reflink -p /shared/third /new/clone",
    "ln /inline/size-100 /many",
    "symlink /LONG /new/link",
    "mv /shared/clone /many",
    "mv /attributes /new",
    "chmod -- u+x /acls/directory /many",
    "chown 5:6 /shared/first /many",
    "setxattr /new/attributes/inode user.new value",
    "setxattr -f KEPT /new/attributes/block user.long",
    "setxattr /new/attributes/buckets user.new value",
    "rmxattr /new/attributes/buckets user.none",
    "setfacl -m u:7:r /acls/directory",
    "truncate /fragmented/whole 50000",
    "truncate /shared/third 3M",
    "punch /shared/first 0 100K",
    "fallocate /holes/middle 0 300K",
    "begin",
    "rm -r /inline",
    "unlink /shared/first /shared/third",
    "commit",
    "rm -r /new /many",
    "rm -r /shared /fragmented /acls /links",
    "abort",
    "set /.i_size 5",
    "clri /lost+found",
    "zap -k -o 16 -l 400 -p ff EXTENT",
    "label x",
    "uuid random",
    "feature nosparse nounwritten",
];

/// Longest time that a command may take, on a machine that does other things as well.
const LINE_MAX: Duration = Duration::from_secs(60);

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

/// What the lines are run with.
struct Rig {
    judge: Judge,
    words: Vec<(&'static str, String)>,
    ran: BTreeSet<&'static str>,
}

impl Rig {
    fn new(image: &Path, dir: &Path) -> Self {
        let mut shell = Shell::open(image).unwrap();
        let kept = dir.join("kept");
        std::fs::write(&kept, shell.text("manifest")).unwrap();
        let group = shell.json("stat //global_bitmap")["body"]["chains"][0]["blkno"].to_string();
        shell.session.json = true;
        let mut ask = |line: &str, path: &str| {
            let said: serde_json::Value = serde_json::from_slice(&shell.run(line).out).unwrap();
            said.pointer(path)
                .map_or("9".to_owned(), ToString::to_string)
        };
        Self {
            judge: Judge::new(),
            words: vec![
                ("LEAF", ask("dx_dump /many", "/leaves/0/blkno")),
                (
                    "EXTENT",
                    ask("stat /fragmented/whole", "/body/tree_blocks/0/blkno"),
                ),
                ("GROUP", group),
                ("KEPT", kept.to_str().unwrap().to_owned()),
                ("IMAGE", image.to_str().unwrap().to_owned()),
            ],
            ran: BTreeSet::new(),
        }
    }

    /// Runs every third line; true when anything failed.
    fn look(&mut self, shell: &mut Shell, seed: usize) -> bool {
        let host = tempfile::tempdir().unwrap();
        let mut failed = false;
        for (i, line) in SCRIPT.iter().enumerate().skip(seed % 3).step_by(3) {
            let mut line = line.replace("HOST", host.path().to_str().unwrap());
            for (name, word) in &self.words {
                line = line.replace(name, word);
            }
            shell.session.json = (i + seed).is_multiple_of(2);
            let start = Instant::now();
            let said = shell.run(&line);
            let took = start.elapsed();
            assert!(took < LINE_MAX, "seed {seed}: {line}: {took:?}");
            let command = table::find(line.split(' ').next().unwrap().as_bytes()).unwrap();
            self.ran.insert(command.name);
            // What failed says so; a difference is said as a result.
            let compares = ["diff", "verify"].contains(&command.name);
            assert!(said.good || compares || !said.err.is_empty(), "{line}");
            let cut_off = said.err.contains("cut off");
            if shell.session.json && !cut_off {
                let value = serde_json::from_slice(&said.out);
                let value = value.unwrap_or_else(|error| panic!("seed {seed}: {line}: {error}"));
                self.judge.demand(&line, &value);
            }
            failed |= !said.good;
        }
        failed
    }

    /// Makes all changes; true when any failed.
    fn change(&mut self, shell: &mut Shell, seed: usize) -> bool {
        let mut failed = false;
        for (i, line) in CHANGES.iter().enumerate() {
            let mut line = line.replace("LONG", &"x".repeat(900));
            for (name, word) in &self.words {
                line = line.replace(name, word);
            }
            shell.session.json = (i + seed).is_multiple_of(2);
            let start = Instant::now();
            let said = shell.run(&line);
            assert!(start.elapsed() < LINE_MAX, "seed {seed}: {line}");
            assert!(said.good || !said.err.is_empty(), "{line}");
            if shell.session.json {
                let value = serde_json::from_slice(&said.out);
                let value = value.unwrap_or_else(|error| panic!("seed {seed}: {line}: {error}"));
                self.judge.demand(&line, &value);
            }
            failed |= !said.good;
        }
        failed
    }

    /// All commands that read had their turn.
    fn demand_all(&self) {
        let session = ["help", "quit", "open", "close", "lcd", "lpwd"];
        let left: Vec<&str> = table::commands()
            .filter(|command| {
                command.needs != Needs::Writing
                    && command.summary != "Needs a running kernel; fails."
                    && !session.contains(&command.name)
            })
            .map(|command| command.name)
            .filter(|name| !self.ran.contains(name))
            .collect();
        assert!(left.is_empty(), "never run here: {left:?}");
    }
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
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(image.path(), dir.path());
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
        if let Ok(mut shell) = Shell::open(image.path()) {
            opened += 1;
            failed += u64::from(rig.look(&mut shell, usize::try_from(seed).unwrap()));
        }
        if let Ok(mut shell) = Shell::dry_run(image.path()) {
            rig.change(&mut shell, usize::try_from(seed).unwrap());
        }
        for at in hurt {
            let good = &bytes[at..at + block];
            image.as_file().write_all_at(good, at as u64).unwrap();
        }
    }
    assert!(opened > rounds / 2, "{opened} of {rounds} opened");
    assert!(failed > 0, "no damage was seen");
    rig.demand_all();
    // The tests here run side by side; each holds two copies of an image and at most 64 MiB of results.
    assert!(peak() < 2 << 30, "{} MiB", peak() >> 20);
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

/// Blocks that are whole and in the wrong place: what is pointed to is something else.
#[test]
fn blocks_in_the_place_of_others() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let bytes = std::fs::read(image.path()).unwrap();
    let others = metadata(&bytes, 1024);
    damage("b1k-c4k-default", 1024, 18, |random, block| {
        let at = others[random.below(others.len())];
        // It keeps the number of the block that it took the place of, so that this gives it away no more.
        let own = block[0x50..0x58].to_vec();
        block.copy_from_slice(&bytes[at..at + 1024]);
        if random.below(2) == 0 {
            block[0x50..0x58].copy_from_slice(&own);
        }
    });
}

/// Blocks that are lost: zeros, ones, noise.
#[test]
fn lost_blocks() {
    damage("b2k-c8k-max", 2048, 12, |random, block| {
        match random.below(3) {
            0 => block.fill(0),
            1 => block.fill(0xFF),
            _ => block.fill_with(|| random.next().to_le_bytes()[0]),
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
