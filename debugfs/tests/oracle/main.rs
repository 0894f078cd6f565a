//! Every command of debugfs.ocfs2 tells here what it tells there: a table of commands, each run on
//! all golden volumes and on some that mkfs.ocfs2 makes now. Both texts are taken apart into facts;
//! the layout is not compared. Where the facts differ stands in `differences`, with the reasons.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod differences;
mod facts;
mod volumes;

use std::collections::BTreeSet;
use std::sync::Mutex;

use cowfs_tests::{need, oracle};
use debugfs_cowfs::table;
use differences::{ALL, Change};
use facts::Fact;
use volumes::Volume;

/// A command of the table.
struct Case {
    /// The command, or the command with an option; differences name it.
    name: &'static str,
    /// The command lines for a volume; a line feed separates commands whose texts belong together.
    lines: fn(&Volume) -> Vec<String>,
    facts: fn(&str) -> Vec<Fact>,
    /// How many lines there must be over all volumes.
    least: usize,
}

const CASES: &[Case] = &[
    Case {
        name: "bmap",
        lines: Volume::bmap,
        facts: facts::lines,
        least: 100,
    },
    Case {
        name: "cat",
        lines: |v| v.each("cat", |f| f.is_plain() && f.size < 1 << 20, 12),
        facts: facts::lines,
        least: 60,
    },
    Case {
        name: "cd",
        lines: |v| v.each_path("cd PATH\nls\ncd ..\nls .", |f| f.kind == 2, 4),
        facts: facts::listing,
        least: 20,
    },
    Case {
        name: "chroot",
        lines: |v| v.each_path("chroot PATH\nls -l /\nls //", |f| f.kind == 2, 3),
        facts: facts::listing,
        least: 20,
    },
    Case {
        name: "close",
        lines: |v| vec![format!("close\nopen {}\ncurdev\nls -l", v.path())],
        facts: facts::listing,
        least: 6,
    },
    Case {
        name: "decode",
        lines: Volume::decode,
        facts: facts::pairs,
        least: 20,
    },
    Case {
        name: "dirblocks",
        lines: |v| v.each("dirblocks", |f| f.kind == 2 && !f.inline, 4),
        facts: facts::fields,
        least: 8,
    },
    Case {
        name: "dx_dump",
        lines: |v| v.each("dx_dump", |f| f.dx_root != 0, 3),
        facts: facts::fields,
        least: 4,
    },
    Case {
        name: "dx_root",
        lines: |v| v.blocks("dx_root", |f| (f.dx_root != 0).then_some(f.dx_root), 3),
        facts: facts::fields,
        least: 4,
    },
    Case {
        name: "dx_leaf",
        lines: Volume::dx_leaf,
        facts: facts::fields,
        least: 8,
    },
    Case {
        name: "dx_space",
        lines: |v| v.each("dx_space", |f| f.dx_root != 0, 3),
        facts: facts::fields,
        least: 4,
    },
    Case {
        name: "encode",
        lines: |v| v.each("encode", |_| true, 12),
        facts: facts::lines,
        least: 60,
    },
    Case {
        name: "extent",
        lines: Volume::extent,
        facts: facts::fields,
        least: 8,
    },
    Case {
        name: "findpath",
        lines: |v| v.each("findpath", |f| f.links == 1 || f.kind == 2, 6),
        facts: facts::paths,
        least: 40,
    },
    Case {
        name: "frag",
        lines: |v| v.each("frag", |f| f.has_extents, 12),
        facts: facts::lines,
        least: 60,
    },
    Case {
        name: "group",
        lines: |v| v.groups("group"),
        facts: facts::fields,
        least: 40,
    },
    Case {
        name: "grpextents",
        lines: |v| v.groups("grpextents"),
        facts: facts::numbers,
        least: 40,
    },
    Case {
        name: "hb",
        lines: |_| vec!["hb".to_owned()],
        facts: facts::lines,
        least: 6,
    },
    Case {
        name: "locate",
        lines: |v| vec![format!("locate {}", v.some(6))],
        facts: facts::paths,
        least: 6,
    },
    Case {
        name: "logdump",
        lines: |v| v.slots("logdump"),
        facts: facts::fields,
        least: 6,
    },
    Case {
        name: "ls",
        lines: |v| v.each("ls", |f| f.kind == 2, 8),
        facts: facts::listing,
        least: 40,
    },
    Case {
        name: "ls -l",
        lines: |v| v.each_path("ls -l PATH", |f| f.kind == 2, 8),
        facts: facts::listing,
        least: 40,
    },
    Case {
        name: "ncheck",
        lines: |v| vec![format!("ncheck {}", v.some(6))],
        facts: facts::paths,
        least: 6,
    },
    Case {
        name: "refcount",
        lines: |v| v.each("refcount", |f| f.refcounts != 0, 20),
        facts: facts::refcounts,
        least: 10,
    },
    Case {
        name: "refcount -e",
        lines: |v| {
            v.blocks(
                "refcount -e",
                |f| (f.refcounts != 0).then_some(f.refcounts),
                20,
            )
        },
        facts: facts::refcounts,
        least: 10,
    },
    Case {
        name: "slotmap",
        lines: |_| vec!["slotmap".to_owned()],
        facts: facts::lines,
        least: 6,
    },
    Case {
        name: "stat",
        lines: |v| v.each("stat", |_| true, 60),
        facts: facts::fields,
        least: 500,
    },
    Case {
        name: "stat -T",
        lines: |v| v.each_path("stat -T PATH", |_| true, 12),
        facts: facts::fields,
        least: 80,
    },
    Case {
        name: "stat_sysdir",
        lines: |_| vec!["stat_sysdir".to_owned()],
        facts: facts::fields,
        least: 6,
    },
    Case {
        name: "stats",
        lines: |v| {
            let backup = v.backup.then(|| "stats -s 1".to_owned());
            let plain = ["stats", "stats -h"].map(str::to_owned);
            plain.into_iter().chain(backup).collect()
        },
        facts: facts::fields,
        least: 20,
    },
    Case {
        name: "xattr",
        lines: |v| v.each("xattr", |f| f.has_xattrs, 20),
        facts: facts::xattrs,
        least: 10,
    },
    Case {
        name: "xattr -v",
        lines: |v| v.each("xattr -v", |f| f.has_xattrs, 20),
        facts: facts::xattrs,
        least: 10,
    },
];

/// Commands of debugfs.ocfs2 that the table has no line for.
const ELSEWHERE: &[(&str, &str)] = &[
    ("?", "help"),
    (
        "controld",
        "it needs a running kernel: kernel_commands_say_so",
    ),
    ("dlm_locks", "as controld"),
    ("fs_locks", "as controld"),
    ("net_stats", "as controld"),
    ("curdev", "the case of close"),
    ("open", "the case of close"),
    ("dump", "dumped_files_are_the_same"),
    ("rdump", "dumped_trees_are_the_same"),
    ("help", "every_command_is_compared"),
    ("icheck", "blocks_have_the_same_users"),
    ("lcd", "quit_ends_and_lcd_shows"),
    ("quit", "quit_ends_and_lcd_shows"),
];

/// Brings the facts of both together; the names of the differences that were seen.
fn reconcile(case: &str, theirs: &mut Vec<Fact>, ours: &mut Vec<Fact>) -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for difference in ALL.iter().filter(|d| d.commands.contains(&case)) {
        let before = (theirs.clone(), ours.clone());
        let drop = |facts: &mut Vec<Fact>, keys: &[&str]| {
            facts.retain(|fact| !keys.iter().any(|key| fact.key.starts_with(key)));
        };
        match difference.change {
            Change::OursAlone(keys) => drop(ours, keys),
            Change::TheirsAlone(keys) => drop(theirs, keys),
            Change::Ours(change) => change(ours),
            Change::Theirs(change) => change(theirs),
            Change::Beside(change) => change(theirs, ours),
        }
        if before != (theirs.clone(), ours.clone()) {
            seen.insert(difference.name);
        }
    }
    seen
}

/// What a comparison found, over all volumes.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    seen: BTreeSet<&'static str>,
    lines: Vec<(&'static str, usize)>,
}

fn compare(volume: &Volume, case: &Case, found: &Mutex<Found>) {
    let lines = (case.lines)(volume);
    let theirs = volume.theirs(&lines);
    let mut ours = volume.ours(&lines);
    ours.truncate(theirs.len());
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for ((line, theirs), ours) in lines.iter().zip(&theirs).zip(&ours) {
        let place = format!("{}: {line}", volume.name);
        let (mut their_facts, mut our_facts) = ((case.facts)(theirs), (case.facts)(ours));
        seen.extend(reconcile(case.name, &mut their_facts, &mut our_facts));
        if their_facts != our_facts {
            let pairs = their_facts.iter().zip(&our_facts);
            let same = pairs.take_while(|(theirs, ours)| theirs == ours).count();
            wrong.push(format!(
                "{place}: {} facts there, {} here; fact {same} differs:\n  there {:?}\n  here  {:?}",
                their_facts.len(),
                our_facts.len(),
                their_facts.get(same),
                our_facts.get(same)
            ));
        }
    }
    if theirs.len() != lines.len() || ours.len() != lines.len() {
        wrong.push(format!("{}: {}: a text is missing", volume.name, case.name));
    }
    let mut found = found.lock().unwrap();
    found.wrong.extend(wrong);
    found.seen.extend(seen);
    found.lines.push((case.name, lines.len()));
}

#[test]
fn facts_are_the_same() {
    need!(oracle::tools());
    let found = Mutex::new(Found::default());
    let names = Mutex::new(volumes::names());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(name) = names.lock().unwrap().pop() else {
                        break;
                    };
                    let volume = Volume::open(&name);
                    for case in CASES {
                        compare(&volume, case, &found);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let shown: Vec<&str> = found.wrong.iter().take(30).map(String::as_str).collect();
    assert!(
        found.wrong.is_empty(),
        "{} differ:\n{}",
        found.wrong.len(),
        shown.join("\n")
    );
    for case in CASES {
        let counts = found.lines.iter().filter(|(name, _)| *name == case.name);
        let sum: usize = counts.map(|(_, count)| count).sum();
        assert!(sum >= case.least, "{}: {sum} lines", case.name);
    }
    for difference in ALL {
        let (name, why) = (difference.name, difference.why);
        assert!(found.seen.contains(name), "nothing has: {name} ({why})");
    }
}

#[test]
fn every_command_is_compared() {
    need!(oracle::tools());
    let volume = Volume::open("pristine-max");
    let theirs = volume.theirs(&["help".to_owned()]).remove(0);
    let ours = volume.ours(&["help".to_owned()]).remove(0);
    let mut commands = BTreeSet::new();
    for line in theirs.lines() {
        let words = line.split([' ', ',']).filter(|word| !word.is_empty());
        let name = words.into_iter().next().unwrap();
        commands.insert(name.to_owned());
        assert!(
            table::find(name.as_bytes()).is_ok(),
            "{name} is unknown here"
        );
        assert!(
            ours.lines()
                .any(|line| line.split(' ').next() == Some(name))
                || table::find(name.as_bytes()).unwrap().name != name,
            "{name} is not in our help"
        );
        let cases = CASES
            .iter()
            .map(|case| case.name.split(' ').next().unwrap());
        let elsewhere = ELSEWHERE.iter().map(|(name, _)| *name);
        assert!(
            cases.chain(elsewhere).any(|known| known == name),
            "{name} is not compared"
        );
    }
    assert!(commands.len() >= 40, "{commands:?}");
}

#[test]
fn blocks_have_the_same_users() {
    need!(oracle::tools());
    let (mut used, mut unused) = (0, 0);
    for name in volumes::names()
        .into_iter()
        .filter(|name| !name.contains(' '))
    {
        let volume = Volume::open(&name);
        let line = format!("icheck {}", volume.spread(60));
        let theirs = volume.theirs(std::slice::from_ref(&line)).remove(0);
        let ours = volume.ours(std::slice::from_ref(&line)).remove(0);
        let rows = |text: &str| -> Vec<Vec<String>> {
            text.lines()
                .skip(1)
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .collect()
        };
        let ours = rows(&ours);
        for row in rows(&theirs) {
            let has = |what: &str| ours.iter().any(|o| o[0] == row[0] && o[1] == what);
            match row[1].as_str() {
                // It knows data, extent blocks, inodes and groups; we also know the rest.
                "Unknown" => {}
                "Unused" => {
                    assert!(has("Unused"), "{name}: {row:?}");
                    unused += 1;
                }
                inode => {
                    // It stops at the first owner of what is shared; which that is says nothing.
                    let offset = row.get(2);
                    let same = |o: &Vec<String>| {
                        let at = o[1] == inode && (offset.is_none() || o.get(2) == offset);
                        o[0] == row[0] && at
                    };
                    assert!(ours.iter().any(same), "{name}: {row:?} in {ours:?}");
                    used += 1;
                }
            }
        }
    }
    assert!(used > 150 && unused > 150, "{used} used, {unused} unused");
}

#[test]
fn dumped_files_are_the_same() {
    need!(oracle::tools());
    let mut compared = 0;
    for name in [
        "b4k-c4k-max",
        "b512-c4k-compat",
        "b1k-c4k-default",
        "b2k-c8k-max",
    ] {
        let volume = Volume::open(name);
        let dir = tempfile::tempdir().unwrap();
        // Both may give files to other users, or neither.
        let option = if rustix::process::geteuid().is_root() {
            " -p"
        } else {
            ""
        };
        for file in volume.files(|f| (f.is_plain() || f.kind == 7) && f.size < 1 << 20, 10) {
            let seen = ["theirs", "ours"].map(|side| {
                let to = dir.path().join(format!("{side}-{compared}"));
                let line = format!("dump{option} <{}> {}", file.inode, to.display());
                if side == "ours" {
                    volume.ours(&[line]);
                } else {
                    volume.theirs(&[line]);
                }
                volumes::host_facts(&to, !option.is_empty())
            });
            assert_eq!(seen[0], seen[1], "{name}: {}", file.path);
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared} files");
}

#[test]
fn dumped_trees_are_the_same() {
    need!(oracle::tools());
    for (name, directory) in [
        ("b4k-c4k-max", "/links"),
        ("b4k-c4k-max", "/shared"),
        ("b1k-c4k-default", "/inline"),
        ("b512-c4k-max", "/fragmented"),
    ] {
        let volume = Volume::open(name);
        let seen = ["theirs", "ours"].map(|side| {
            let dir = tempfile::tempdir().unwrap();
            let line = format!("rdump {directory} {}", dir.path().display());
            if side == "ours" {
                volume.ours(&[line]);
            } else {
                volume.theirs(&[line]);
            }
            volumes::host_tree(dir.path())
        });
        assert!(seen[0].len() > 2, "{name}: {directory}: {:?}", seen[0]);
        assert_eq!(seen[0], seen[1], "{name}: {directory}");
    }
}

#[test]
fn quit_ends_and_lcd_shows() {
    need!(oracle::tools());
    let volume = Volume::open("pristine-max");
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let lines = [
        format!("lcd {}\nlcd", here.display()),
        "quit\nls".to_owned(),
    ];
    let (theirs, ours) = (volume.theirs(&lines), volume.ours(&lines));
    assert_eq!(theirs[0].trim(), here.to_str().unwrap());
    assert_eq!(ours[0].trim(), theirs[0].trim());
    // Nothing comes behind.
    assert!(
        theirs.len() < 3 && theirs.get(1).is_none_or(String::is_empty),
        "{theirs:?}"
    );
    assert!(ours.get(1).is_none_or(String::is_empty), "{ours:?}");
}

#[test]
fn kernel_commands_say_so() {
    let volume = Volume::open("pristine-max");
    for line in [
        "controld dump",
        "dlm_locks",
        "fs_locks -B",
        "net_stats -f x 1 2",
    ] {
        let (good, said) = volume.fails(line);
        assert!(!good, "{line}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("running kernel"), "{said}");
    }
}

/// No golden volume was left by nodes that are alive, so heartbeats and slots are written here, as
/// bytes; debugfs.ocfs2 says what they mean.
#[test]
fn heartbeats_and_slots_are_read_alike() {
    need!(oracle::tools());
    for name in [
        "o2cb-classic",
        "o2cb-named",
        "b512-c4k-compat",
        "pristine-max",
    ] {
        let volume = Volume::open(name);
        let mut sectors = vec![0u8; 255 * 512];
        for (node, seed) in [(0usize, 7u64), (3, 11), (200, 13), (254, 17)] {
            let sector = &mut sectors[node * 512..][..512];
            let number = |n: u64| seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(low(n));
            sector[..8].copy_from_slice(&(number(1) | 1).to_le_bytes());
            sector[8] = u8::try_from(node).unwrap();
            sector[12..16].copy_from_slice(&number(2).to_le_bytes()[..4]);
            sector[16..24].copy_from_slice(&number(3).to_le_bytes());
            sector[24..28].copy_from_slice(&number(4).to_le_bytes()[..4]);
        }
        volume.write_file("//heartbeat", &sectors);
        let slots = match name {
            // One byte that it is valid, three of padding, the node; or two bytes for the node.
            "b512-c4k-compat" => vec![0xFF, 0xFF, 5, 0],
            _ => vec![1, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0],
        };
        volume.write_file("//slot_map", &slots);
        let lines = ["hb", "slotmap"].map(str::to_owned);
        let (theirs, ours) = (volume.theirs(&lines), volume.ours(&lines));
        for (theirs, ours) in theirs.iter().zip(&ours) {
            assert!(theirs.lines().count() > 1, "{name}: {theirs}");
            // The sums are made up; debugfs.ocfs2 does not look whether they are right.
            let ours = ours.replace("checksum wrong", "");
            assert_eq!(facts::lines(theirs), facts::lines(&ours), "{name}");
        }
        assert_eq!(theirs.len(), 2);
    }
}

fn low(n: u64) -> u32 {
    u32::try_from(n * 9).unwrap()
}
