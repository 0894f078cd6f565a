//! Metadata images: ours show the facts of the volume and none of its data, scrambled ones keep their
//! form, and those of o2image are read.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowfs_tests::golden::{self, Golden};
use cowfs_tests::walk::Entry;
use cowfs_tests::{Missing, need, oracle, place};
use debugfs_cowfs::session::Superblock;
use serde_json::Value;
use support::{Shell, bytes, word};
use tempfile::TempDir;

/// Writes an image of a golden volume beside it.
fn imaged(shell: &mut Shell, dir: &TempDir, option: &str) -> PathBuf {
    let path = dir.path().join(format!("image{option}"));
    shell.text(&format!("image {option} {}", path.display()));
    path
}

/// What the commands say of all metadata.
fn facts(shell: &mut Shell, walk: &[Entry]) -> Vec<(String, Value)> {
    let mut lines: Vec<String> = [
        "stats",
        "df",
        "slotmap",
        "hb",
        "ls -l //",
        "stat //journal:0000",
    ]
    .map(str::to_owned)
    .to_vec();
    for entry in walk {
        let name = word(&entry.path);
        lines.push(format!("stat {name}"));
        lines.push(format!("xattr -v {name}"));
        match entry.kind {
            'd' => lines.extend([format!("ls -l {name}"), format!("dirblocks {name}")]),
            'f' => lines.push(format!("extents {name}")),
            _ => {}
        }
    }
    let mut said = Vec::new();
    for line in lines {
        said.push((line.clone(), shell.json(&line)));
    }
    said
}

fn each(check: impl Fn(&Golden, &Path, &mut Shell, &[Entry])) {
    let mut checked = 0;
    for image in golden::all().unwrap() {
        let file = image.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        let walk = image.seen().unwrap().unwrap_or_default().walk;
        check(&image, file.path(), &mut shell, &walk);
        checked += 1;
    }
    assert!(checked >= 12, "{checked} images");
}

#[test]
fn images_show_the_facts_of_the_volume() {
    each(|golden, volume, shell, walk| {
        let dir = TempDir::new().unwrap();
        let image = imaged(shell, &dir, "");
        let mut looked = Shell::open(&image).unwrap();
        let (found, expected) = (facts(&mut looked, walk), facts(shell, walk));
        for (found, expected) in found.iter().zip(&expected) {
            let mut found = found.clone();
            let mut expected = expected.clone();
            // The check of an inode whose data was taken out is another, and the file.
            for said in [&mut found.1, &mut expected.1] {
                if let Some(said) = said.as_object_mut() {
                    let apart = ["check", "crc32", "ecc", "volume"];
                    said.retain(|key, _| !apart.contains(&key.as_str()));
                }
            }
            assert_eq!(found, expected, "{}", golden.name);
        }
        // It has the size of the volume and is small on disk.
        let (of_image, of_volume) = (fs::metadata(&image).unwrap(), fs::metadata(volume).unwrap());
        assert_eq!(of_image.len(), of_volume.len());
    });
}

#[test]
fn images_hold_no_data_of_files() {
    each(|golden, volume, shell, walk| {
        let dir = TempDir::new().unwrap();
        let whole = fs::read(volume).unwrap();
        let stats = shell.json("stats");
        let block = usize::try_from(stats["block_size"].as_u64().unwrap()).unwrap();
        let per_cluster = stats["cluster_size"].as_u64().unwrap() / block as u64;
        for option in ["", "--scramble"] {
            let image = fs::read(imaged(shell, &dir, option)).unwrap();
            for entry in walk.iter().filter(|entry| entry.kind == 'f') {
                let place = format!("{} {option} {}", golden.name, entry.path.escape_ascii());
                let inode = usize::try_from(entry.inode).unwrap() * block;
                let said = shell.json(&format!("extents {}", word(&entry.path)));
                for piece in said["extents"].as_array().unwrap() {
                    let number = |key: &str| piece[key].as_u64().unwrap();
                    let from = usize::try_from(number("blkno")).unwrap() * block;
                    let len = number("clusters") * per_cluster * block as u64;
                    let data = &image[from..from + usize::try_from(len).unwrap()];
                    assert!(data.iter().all(|&byte| byte == 0), "{place}");
                }
                // The data of an inline file stands behind its head of 0xC8 bytes.
                let inline = image[inode + 0x76] & 1 != 0;
                if inline && entry.size > 0 {
                    let size = usize::try_from(entry.size).unwrap();
                    let data = |bytes: &[u8]| bytes[inode + 0xC8..inode + 0xC8 + size].to_vec();
                    // What is in a log only is not in its place yet.
                    let there = data(&whole).iter().any(|&byte| byte != 0);
                    assert!(there || golden.name == "dirty-journal", "{place}");
                    assert!(data(&image).iter().all(|&byte| byte == 0), "{place}");
                }
            }
        }
    });
}

/// The tree as directories of entries by number, with the lengths of the names.
fn form(shell: &mut Shell, at: &[u8], found: &mut BTreeMap<u64, Vec<(u64, usize, u64)>>) {
    let mut todo = vec![at.to_vec()];
    while let Some(path) = todo.pop() {
        let list = shell.json(&format!("ls {}", word(&path)));
        let mut names = BTreeSet::new();
        let mut entries = Vec::new();
        for entry in list["entries"].as_array().unwrap() {
            let name = bytes(entry, "name");
            let number = |key: &str| entry[key].as_u64().unwrap();
            entries.push((number("inode"), name.len(), number("file_type")));
            if name == b"." || name == b".." {
                continue;
            }
            assert!(names.insert(name.clone()), "{} twice", name.escape_ascii());
            let path = [&path[..], b"/", &name].concat();
            let path = path.strip_prefix(b"./").unwrap_or(&path).to_vec();
            // By the index, where there is one.
            let stat = shell.json(&format!("stat {}", word(&path)));
            assert_eq!(stat["inode"], number("inode"), "{}", path.escape_ascii());
            if number("file_type") == 2 {
                todo.push(path);
            }
        }
        found.insert(list["inode"].as_u64().unwrap(), entries);
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    // The first byte finds most of what is none.
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == what[0]) {
        if bytes[from + at..].starts_with(what) {
            return true;
        }
        from += at + 1;
    }
    false
}

#[test]
fn scrambled_images_keep_their_form_and_no_words() {
    each(|golden, _, shell, walk| {
        let dir = TempDir::new().unwrap();
        let path = imaged(shell, &dir, "--scramble");
        let mut looked = Shell::open(&path).unwrap();
        let (mut found, mut expected) = (BTreeMap::new(), BTreeMap::new());
        form(&mut looked, b".", &mut found);
        form(shell, b".", &mut expected);
        assert_eq!(found, expected, "{}", golden.name);
        // The same each time.
        let once = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        imaged(shell, &dir, "--scramble");
        assert!(fs::read(&path).unwrap() == once, "{}", golden.name);
        // What the image may hold: what is not zero of it.
        let stored: Vec<u8> = once
            .chunks(512)
            .filter(|part| part.iter().any(|&byte| byte != 0))
            .flatten()
            .copied()
            .collect();
        let mut words: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in walk {
            let name = entry.path.rsplit(|&b| b == b'/').next().unwrap();
            words.insert(name.to_vec());
            if entry.kind == 'l' {
                words.insert(entry.payload.clone());
            }
            for (name, value) in &entry.xattrs {
                if let cowfs_tests::walk::Value::Short(value) = value
                    && !name.starts_with(b"system.")
                {
                    words.insert(value.clone());
                }
            }
        }
        words.remove(&b"lost+found"[..]);
        for word in words.iter().filter(|word| word.len() >= 7) {
            // Runs of one digit stand in form of zeros everywhere.
            assert!(
                !contains(&stored, word),
                "{} holds {}",
                golden.name,
                word.escape_ascii()
            );
        }
    });
}

#[test]
fn the_other_checker_says_the_same_of_an_image() {
    need!(oracle::tools());
    each(|golden, volume, shell, _| {
        let dir = TempDir::new().unwrap();
        let image = imaged(shell, &dir, "");
        let (found, expected) = (
            oracle::check(&image).unwrap(),
            oracle::check(volume).unwrap(),
        );
        assert_eq!(found.codes, expected.codes, "{}", golden.name);
        let scrambled = imaged(shell, &dir, "--scramble");
        let found = oracle::check(&scrambled).unwrap();
        // Names without bytes of 0x80 and above have no second hash to complain of.
        let codes: Vec<&String> = (expected.codes.iter())
            .filter(|code| golden.name != "mixed-hashes" || *code != "DX_LOOKUP_FAILED")
            .collect();
        assert_eq!(
            found.codes.iter().collect::<Vec<_>>(),
            codes,
            "{}",
            golden.name
        );
    });
}

fn o2image() -> anyhow::Result<PathBuf> {
    let found = place::program("o2image");
    Ok(found.ok_or_else(|| Missing::new("o2image", "Debian's package ocfs2-tools brings it"))?)
}

#[test]
fn images_of_o2image_are_read() {
    let program = need!(o2image());
    let mut compared = 0;
    for name in [
        "b512-c4k-max",
        "b1k-c4k-default",
        "b4k-c4k-max",
        "b4k-c32k-default",
    ] {
        let golden = golden::all().unwrap();
        let golden = golden.iter().find(|golden| golden.name == name).unwrap();
        let walk = golden.seen().unwrap().unwrap().walk;
        let file = golden.open().unwrap();
        let mut shell = Shell::open(file.path()).unwrap();
        let dir = TempDir::new().unwrap();
        for (kind, options) in [("packed", &[][..]), ("raw", &["-r"][..])] {
            let image = dir.path().join(kind);
            let made = Command::new(&program)
                .args(options)
                .arg(file.path())
                .arg(&image)
                .output()
                .unwrap();
            assert!(image.is_file(), "{}", String::from_utf8_lossy(&made.stderr));
            let mut looked = Shell::image(&image).unwrap();
            for entry in &walk {
                // It leaves out values of attributes and targets of symlinks that stand in
                // clusters of their own.
                if entry.kind == 'l' && entry.sectors > 0 {
                    continue;
                }
                let mut lines = vec![format!("stat {}", word(&entry.path))];
                match entry.kind {
                    'd' => lines.push(format!("ls {}", word(&entry.path))),
                    'f' => lines.push(format!("extents {}", word(&entry.path))),
                    _ => {}
                }
                for line in lines {
                    assert_eq!(
                        looked.json(&line),
                        shell.json(&line),
                        "{name} {kind} {line}"
                    );
                    compared += 1;
                }
            }
            for line in ["stats", "ls -l //", "logdump 0", "group 32768"] {
                let (found, expected) = (looked.run(line), shell.run(line));
                assert_eq!(
                    found.good, expected.good,
                    "{name} {kind} {line}: {}",
                    found.err
                );
                assert!(found.out == expected.out, "{name} {kind} {line}");
            }
            // A packed image is known without being told; what it does not hold is said.
            let plain = Shell::open(&image);
            assert_eq!(plain.is_ok(), kind == "packed", "{name} {kind}");
            if kind == "packed" {
                let said = looked.run("cat /fragmented/whole");
                assert!(
                    !said.good && said.err.contains("cannot be read"),
                    "{}",
                    said.err
                );
            }
        }
    }
    assert!(compared > 2000, "{compared}");
}

#[test]
fn an_image_is_not_written() {
    let golden = golden::open("pristine-max").unwrap();
    let mut shell = Shell::open(golden.path()).unwrap();
    shell.session.writes = true;
    let by = Superblock {
        image: true,
        ..Superblock::default()
    };
    let error = shell.session.open(golden.path().to_path_buf(), by);
    assert!(error.unwrap_err().to_string().contains("is not written"));
}
