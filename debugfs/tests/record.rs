//! Golden images show the same facts here as in the Linux driver, which was asked when they were made.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use cowfs_tests::extents::{Extent, FileExtents};
use cowfs_tests::golden::{self, Seen};
use cowfs_tests::oracle;
use cowfs_tests::sum;
use cowfs_tests::walk::{Entry, Value};
use support::{Shell, bytes, word};

fn each(check: impl Fn(&str, &mut Shell, &Seen)) {
    let mut checked = 0;
    for image in golden::all().unwrap() {
        let Some(seen) = image.seen().unwrap() else {
            continue;
        };
        let file = image.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        check(&image.name, &mut shell, &seen);
        checked += 1;
    }
    assert!(checked >= 8, "{checked} images");
}

fn kind_of(letter: char) -> &'static str {
    match letter {
        'f' => "regular",
        'd' => "directory",
        'l' => "symlink",
        'c' => "char device",
        'b' => "block device",
        'p' => "fifo",
        's' => "socket",
        other => panic!("{other}"),
    }
}

#[test]
fn inodes_are_what_the_driver_shows() {
    each(|image, shell, seen| {
        for entry in &seen.walk {
            // The driver reads the root before it replays the journal, and goes on showing what it
            // read; the next test looks at the root.
            if image == "dirty-journal" && entry.path == b"." {
                continue;
            }
            let stat = shell.json(&format!("stat {}", word(&entry.path)));
            let place = format!("{image} {}", entry.path.escape_ascii());
            assert_eq!(stat["inode"], entry.inode, "{place}");
            assert_eq!(stat["file_type"], kind_of(entry.kind), "{place}");
            assert_eq!(
                stat["mode"].as_u64().unwrap() & 0o7777,
                u64::from(entry.mode),
                "{place}"
            );
            assert_eq!(stat["uid"], entry.uid, "{place}");
            assert_eq!(stat["gid"], entry.gid, "{place}");
            assert_eq!(stat["links"], entry.links, "{place}");
            assert_eq!(stat["size"], entry.size, "{place}");
            let mtime = &stat["mtime"];
            let nanoseconds = mtime["nanoseconds"].as_u64().unwrap();
            assert_eq!(
                format!("{}.{nanoseconds:09}", mtime["seconds"]),
                entry.mtime,
                "{place}"
            );
            if matches!(entry.kind, 'b' | 'c') {
                let device = format!("{}:{}", stat["rdev"]["major"], stat["rdev"]["minor"]);
                assert_eq!(device.as_bytes(), entry.payload, "{place}");
            }
        }
    });
}

#[test]
fn contents_have_the_recorded_sums() {
    each(|image, shell, seen| {
        for entry in seen.walk.iter().filter(|e| matches!(e.kind, 'f' | 'l')) {
            let said = shell.run(&format!("cat {}", word(&entry.path)));
            let place = format!("{image} {}", entry.path.escape_ascii());
            assert!(said.good, "{place}: {}", said.err);
            if entry.kind == 'f' {
                assert_eq!(sum::sha256(&said.out).as_bytes(), entry.payload, "{place}");
            } else {
                assert_eq!(said.out, entry.payload, "{place}");
            }
        }
    });
}

#[test]
fn listings_name_exactly_what_the_driver_names() {
    each(|image, shell, seen| {
        let mut names: BTreeMap<&[u8], Vec<(&[u8], u64)>> = BTreeMap::new();
        for Entry {
            path, inode, kind, ..
        } in &seen.walk
        {
            if *kind == 'd' {
                names.entry(path).or_default();
            }
            if path == b"." {
                continue;
            }
            let cut = path.iter().rposition(|&b| b == b'/');
            let (parent, name) =
                cut.map_or((&b"."[..], &path[..]), |at| (&path[..at], &path[at + 1..]));
            names.entry(parent).or_default().push((name, *inode));
        }
        for (directory, mut expected) in names {
            let list = shell.json(&format!("ls -l {}", word(directory)));
            let mut found: Vec<(Vec<u8>, u64)> = list["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| (bytes(entry, "name"), entry["inode"].as_u64().unwrap()))
                .filter(|(name, _)| name != b"." && name != b"..")
                .collect();
            found.sort();
            expected.sort_unstable();
            let found: Vec<(&[u8], u64)> = found.iter().map(|(n, i)| (&n[..], *i)).collect();
            assert_eq!(found, expected, "{image} {}", directory.escape_ascii());
        }
    });
}

#[test]
fn attributes_are_what_the_driver_shows() {
    let mut checked = 0;
    for image in golden::all().unwrap() {
        let Some(seen) = image.seen().unwrap() else {
            continue;
        };
        let file = image.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        for entry in &seen.walk {
            let said = shell.json(&format!("xattr {}", word(&entry.path)));
            let mut found = BTreeMap::new();
            for area in said["areas"].as_array().unwrap() {
                for item in area["xattrs"].as_array().unwrap() {
                    let (name, mut value) = (bytes(item, "name"), bytes(item, "value"));
                    if name.starts_with(b"system.posix_acl") {
                        // The driver puts the version of the kernel's own form before it.
                        value.splice(0..0, 2u32.to_le_bytes());
                    }
                    found.insert(name, Value::of(&value));
                    checked += 1;
                }
            }
            let path = entry.path.escape_ascii();
            assert_eq!(found, entry.xattrs, "{} {path}", image.name);
        }
    }
    assert!(checked > 500, "{checked} attributes");
}

/// Runs of blocks with the same state that follow one another are one.
fn merged(runs: impl IntoIterator<Item = (u64, u64, u64, bool)>) -> Vec<(u64, u64, u64, bool)> {
    let mut found: Vec<(u64, u64, u64, bool)> = Vec::new();
    for run in runs {
        match found.last_mut() {
            Some(last)
                if last.0 + last.2 == run.0 && last.1 + last.2 == run.1 && last.3 == run.3 =>
            {
                last.2 += run.2;
            }
            _ => found.push(run),
        }
    }
    found
}

#[test]
fn extents_are_where_the_driver_says() {
    let mut checked = 0;
    for image in golden::all().unwrap() {
        let Some(seen) = image.seen().unwrap() else {
            continue;
        };
        let file = image.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        let stats = shell.json("stats");
        let size = |key: &str| stats[key].as_u64().unwrap();
        let per_cluster = size("cluster_size") / size("block_size");
        for FileExtents { path, extents } in &seen.extents {
            let said = shell.json(&format!("extents {}", word(path)));
            let found = said["extents"].as_array().unwrap().iter().map(|piece| {
                let number = |key: &str| piece[key].as_u64().unwrap();
                (
                    number("cpos") * per_cluster,
                    number("blkno"),
                    number("clusters") * per_cluster,
                    piece["flags"]["bits"].as_u64().unwrap() & 1 != 0,
                )
            });
            let has = |extent: &Extent, flag: &str| extent.flags.iter().any(|f| f == flag);
            let expected = extents
                .iter()
                .filter(|extent| !has(extent, "inline"))
                .map(|e| (e.logical, e.physical, e.length, has(e, "unwritten")));
            let place = format!("{} {}", image.name, path.escape_ascii());
            assert_eq!(merged(found), merged(expected), "{place}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked} files");
}

#[test]
fn owners_are_those_that_map_the_same_blocks() {
    let mut shared = 0;
    for name in ["b4k-c4k-max", "b512-c4k-max", "b2k-c8k-max"] {
        let file = golden::open(name).unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        let all = golden::all().unwrap();
        let seen = all
            .iter()
            .find(|g| g.name == name)
            .unwrap()
            .seen()
            .unwrap()
            .unwrap();
        // From the driver's extents: who maps each block.
        let mut maps: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
        for FileExtents { path, extents } in &seen.extents {
            for block in extents
                .iter()
                .flat_map(|e| e.physical..e.physical + e.length)
            {
                maps.entry(block).or_default().push(path);
            }
        }
        for FileExtents { path, .. } in &seen.extents {
            let said = shell.json(&format!("extents --owners {}", word(path)));
            for piece in said["extents"].as_array().unwrap() {
                let blkno = piece["blkno"].as_u64().unwrap();
                let mut found: Vec<Vec<u8>> = piece["owners"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|owner| owner["xattr"] == false)
                    .map(|owner| bytes(owner, "path")[1..].to_vec())
                    .collect();
                found.push(path.clone());
                found.sort();
                let mut expected: Vec<Vec<u8>> = maps[&blkno].iter().map(|p| p.to_vec()).collect();
                expected.sort();
                assert_eq!(
                    found,
                    expected,
                    "{name} {} block {blkno}",
                    path.escape_ascii()
                );
                if let Some(count) = piece["refcount"].as_u64() {
                    assert_eq!(count, expected.len() as u64, "{name} block {blkno}");
                    shared += 1;
                }
            }
        }
    }
    assert!(shared > 100, "{shared} shared extents");
}

#[test]
fn paths_are_found_from_inodes() {
    each(|image, shell, seen| {
        let mut names: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for entry in seen.walk.iter().filter(|entry| entry.path != b".") {
            let path = [b"/", &entry.path[..]].concat();
            names.entry(entry.inode).or_default().push(path);
        }
        let numbers: Vec<String> = names.keys().map(ToString::to_string).collect();
        if numbers.is_empty() {
            return;
        }
        let said = shell.json(&format!("ncheck {}", numbers.join(" ")));
        for item in said["inodes"].as_array().unwrap() {
            let paths = item["paths"].as_array().unwrap();
            let found: Vec<Vec<u8>> = paths.iter().map(|path| bytes(path, "path")).collect();
            let mut expected = names[&item["inode"].as_u64().unwrap()].clone();
            expected.sort();
            assert_eq!(found, expected, "{image}");
        }
    });
}

#[test]
fn a_dirty_journal_is_seen_as_replayed_and_said() {
    let file = golden::open("dirty-journal").unwrap();
    let mut shell = Shell::open(file.path()).unwrap();
    assert!(shell.text("stats").contains("Journal 0: dirty, "));
    let said = shell.json("stats");
    assert!(said["journals"][0]["pending_blocks"].as_u64().unwrap() > 0);
    // The root in its home is older than the one in the log, which has all directories.
    assert_eq!(shell.json("stat /")["links"], 7);
    assert!(shell.text("ls /").contains("reflinks"));
    if oracle::tools().is_ok() {
        oracle::repair(file.path()).unwrap();
        let replayed = oracle::debugfs(file.path(), "stat /").unwrap();
        assert!(replayed.contains("Links: 7 "), "{replayed}");
    }
}
