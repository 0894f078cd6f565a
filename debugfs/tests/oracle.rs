//! The text shows the facts of debugfs.ocfs2: both outputs are parsed, and each field and table row
//! of the one must be in the other.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use cowfs_tests::{golden, need, oracle};
use support::Shell;

/// The facts of an output.
#[derive(Debug, Default)]
struct Facts {
    /// `Key: value`, in order.
    fields: Vec<(String, String)>,
    /// Lines of tables, in order.
    rows: Vec<String>,
}

/// Values that are spelled differently; what is compared is what they mean.
fn normal(key: &str, value: &str) -> String {
    let words = |text: &str| {
        let mut words: Vec<String> = text
            .split_whitespace()
            .map(|word| word.replace('-', "").to_lowercase())
            .map(|word| match word.as_str() {
                // The same bits under two names.
                "allocbitmap" => "bitmap".to_owned(),
                "inlinexattr" => "inlinexattr".to_owned(),
                "hasxattr" => "xattr".to_owned(),
                "hasrefcount" => "refcounted".to_owned(),
                _ => word,
            })
            .collect();
        words.sort();
        words.join(" ")
    };
    match key {
        // The hexadecimal seconds come first.
        "ctime" | "atime" | "mtime" | "dtime" => value.split(" -- ").next().unwrap().to_owned(),
        "Last Check" => date(value),
        // It gives the number only.
        "Attr" => value.split(' ').next().unwrap().to_owned(),
        // It leaves out the bits above the permissions.
        "Mode" => format!("{:o}", u32::from_str_radix(value, 8).unwrap() & 0o777),
        // The oracle takes numbers for signed, and adds the names of its own machine's users.
        "User" | "Group" => {
            let number: i64 = value.split(' ').next().unwrap().parse().unwrap();
            number.rem_euclid(1 << 32).to_string()
        }
        "Type" => match value {
            "Symbolic Link" => "symlink".to_owned(),
            "Char Device" | "Character Device" => "char device".to_owned(),
            other => other.to_lowercase(),
        },
        // It has no name for the bit of quota files.
        "Flags" => words(&value.replace("quota", "")),
        _ => words(value),
    }
}

/// `Sun Nov 22 21:52:39 2026` and `2026-11-22 21:52:39 UTC` in one form.
fn date(text: &str) -> String {
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [_, month, day, time, year] => {
            let month = months.find(month).unwrap() / 3 + 1;
            format!("{year}-{month:02}-{day:0>2} {time}")
        }
        _ => text.trim_end_matches(" UTC").to_owned(),
    }
}

fn facts(text: &str) -> Facts {
    let mut facts = Facts::default();
    for line in text.lines() {
        let line = line.trim();
        let first = line.split_whitespace().next().unwrap_or("");
        let number = first.trim_start_matches('#');
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            let row: Vec<String> = line
                .split_whitespace()
                .map(|word| word.to_lowercase().replace('-', ""))
                .collect();
            facts.rows.push(row.join(" "));
            continue;
        }
        let mut parts: Vec<String> = Vec::new();
        for part in line
            .split("  ")
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match parts.last_mut() {
                // Part of a value.
                Some(last) if !part.contains(": ") && !part.ends_with(':') => {
                    last.push(' ');
                    last.push_str(part);
                }
                _ => parts.push(part.to_owned()),
            }
        }
        for part in parts {
            if let Some((key, value)) = part.split_once(':') {
                let value = normal(key, value.trim());
                facts.fields.push((key.to_owned(), value));
            }
        }
    }
    facts
}

/// All that the oracle says must be said here, in its order; what is said here besides is ours.
fn compare(place: &str, theirs: &str, ours: &str, ours_alone: &[&str]) {
    let (their_facts, our_facts) = (facts(theirs), facts(ours));
    assert!(
        !their_facts.fields.is_empty() || !their_facts.rows.is_empty(),
        "{place}: no facts in {theirs}"
    );
    // Long tables are told by the assertion on their rows.
    let head = |text: &str| -> String { text.chars().take(2000).collect() };
    let both = format!(
        "{place}\n-- theirs\n{}\n-- ours\n{}",
        head(theirs),
        head(ours)
    );
    assert_eq!(their_facts.rows, our_facts.rows, "{both}");
    let mut rest = our_facts.fields.into_iter();
    for (key, value) in their_facts.fields {
        let found = rest.by_ref().find(|(our_key, _)| {
            if *our_key != key {
                assert!(
                    ours_alone.iter().any(|alone| our_key.starts_with(alone)),
                    "{both}\n{our_key} stands before or instead of {key}"
                );
            }
            *our_key == key
        });
        assert_eq!(found, Some((key, value)), "{both}");
    }
}

fn images() -> Vec<(String, tempfile::NamedTempFile)> {
    let mut all: Vec<(String, tempfile::NamedTempFile)> = golden::all()
        .unwrap()
        .into_iter()
        // The oracle does not look into a journal that waits for its replay.
        .filter(|image| image.name != "dirty-journal")
        .map(|image| (image.name.clone(), image.open().unwrap()))
        .collect();
    for (bytes, args) in [
        (
            24u64 << 20,
            &[
                "-b", "512", "-C", "4096", "-M", "local", "-N", "1", "-J", "size=4M",
            ][..],
        ),
        (
            40 << 20,
            &[
                "-b",
                "2048",
                "-C",
                "65536",
                "-M",
                "cluster",
                "-N",
                "4",
                "-L",
                "two words",
            ],
        ),
        (
            300 << 20,
            &["-M", "local", "--fs-feature-level=max-features"],
        ),
        (300 << 20, &["-T", "mail", "-M", "local", "-J", "block64"]),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        oracle::mkfs(file.path(), bytes, args).unwrap();
        all.push((format!("mkfs.ocfs2 {}", args.join(" ")), file));
    }
    all
}

fn theirs(image: &Path, command: &str) -> String {
    let said = oracle::debugfs(image, command).unwrap();
    // Its version goes to the same place.
    let lines = said
        .lines()
        .filter(|line| !line.starts_with("debugfs.ocfs2 "));
    lines.fold(String::new(), |text, line| {
        // The one field that it writes without a colon.
        text + &line.replace("Sub Alloc Group ", "Sub Alloc Group: ") + "\n"
    })
}

/// Inodes of a listing by name; at most `most`, evenly taken.
fn inodes(shell: &mut Shell, directory: &str, most: usize) -> Vec<(String, u64, u64)> {
    let list = shell.json(&format!("ls {directory}"));
    let entries = list["entries"].as_array().unwrap();
    let step = entries.len().div_ceil(most).max(1);
    entries
        .iter()
        .step_by(step)
        .map(|entry| {
            let name = entry["name"].as_str().unwrap().to_owned();
            let number = |key: &str| entry[key].as_u64().unwrap();
            (name, number("inode"), number("file_type"))
        })
        .collect()
}

#[test]
fn stats_are_the_same() {
    need!(oracle::tools());
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        for command in ["stats", "stats -h"] {
            let place = format!("{name}: {command}");
            compare(
                &place,
                &theirs(image.path(), command),
                &shell.text(command),
                &["Journal "],
            );
        }
    }
}

#[test]
fn inodes_and_their_trees_are_the_same() {
    need!(oracle::tools());
    let mut compared = 0;
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        let mut wanted = inodes(&mut shell, "//", usize::MAX);
        for (directory, _, kind) in inodes(&mut shell, "/", 30) {
            if kind == 2 && !directory.starts_with('.') {
                wanted.extend(inodes(&mut shell, &format!("/{directory}"), 12));
            }
        }
        for (file, inode, kind) in wanted {
            let command = format!("stat <{inode}>");
            let ours = shell.text(&command);
            let place = format!("{name}: {command} ({file})");
            let mut theirs = theirs(image.path(), &command);
            if matches!(kind, 3..=6) {
                // It shows the room for extents of devices, FIFOs and sockets, which have none.
                theirs.truncate(theirs.find("	Tree Depth").unwrap_or(theirs.len()));
            }
            compare(&place, &theirs, &ours, &["Device"]);
            compared += 1;
        }
    }
    assert!(compared > 500, "{compared} inodes");
}

#[test]
fn listings_are_the_same() {
    need!(oracle::tools());
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        for directory in ["/", "//", "/many", "/links", "/inline"] {
            if !directory[1..].is_empty()
                && directory != "//"
                && !shell.run(&format!("stat {directory}")).good
            {
                continue;
            }
            // inode, rec_len, name_len, type, name
            let command = format!("ls {directory}");
            let place = format!("{name}: {command}");
            assert_eq!(
                rows(&theirs(image.path(), &command), &[]),
                rows(&shell.text(&command), &[]),
                "{place}"
            );
            // The dates are written differently: 22-Nov-2026 and 2026-11-22. We add link targets.
            let command = format!("ls -l {directory}");
            assert_eq!(
                rows(&theirs(image.path(), &command), &[6]),
                rows(&shell.text(&command), &[6]),
                "{place} -l"
            );
        }
    }
}

/// The words of each line, but those at some places, up to the target of a link.
fn rows(text: &str, without: &[usize]) -> Vec<Vec<String>> {
    text.lines()
        .map(|line| line.split(" -> ").next().unwrap())
        .map(|line| {
            let words = line.split_whitespace().enumerate();
            let kept = words.filter(|(place, _)| !without.contains(place));
            kept.map(|(_, word)| word.to_owned()).collect()
        })
        .filter(|row: &Vec<String>| !row.is_empty())
        .collect()
}

#[test]
fn groups_are_the_same() {
    need!(oracle::tools());
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        let mut compared = 0;
        for (file, _, _) in inodes(&mut shell, "//", usize::MAX) {
            let stat = shell.json(&format!("stat //{file}"));
            let Some(chains) = stat["body"]["chains"].as_array() else {
                continue;
            };
            let groups = chains
                .iter()
                .flat_map(|chain| chain["groups"].as_array().unwrap());
            for group in groups.take(3) {
                let blkno = &group["blkno"];
                let command = format!("group <{blkno}>");
                let ours = shell.text(&command);
                compare(
                    &format!("{name}: {command}"),
                    &theirs(image.path(), &command),
                    &ours,
                    &[],
                );
                let command = format!("grpextents <{blkno}>");
                let their_runs = free_runs(&theirs(image.path(), &command));
                assert_eq!(
                    their_runs,
                    free_runs(&shell.text(&command)),
                    "{name}: {command}"
                );
                compared += 1;
            }
        }
        assert!(compared > 0, "{name}");
    }
}

/// The numbers of a list of free runs; the oracle puts three runs into a line.
fn free_runs(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[test]
fn refcount_trees_are_the_same() {
    need!(oracle::tools());
    let mut compared = 0;
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        for directory in ["/shared", "/reflinks", "/attribute_clones", "/"] {
            if !shell.run(&format!("stat {directory}")).good {
                continue;
            }
            for (file, inode, _) in inodes(&mut shell, directory, usize::MAX) {
                if shell.json(&format!("stat <{inode}>"))["refcount_block"].is_null() {
                    continue;
                }
                let command = format!("refcount <{inode}>");
                let ours = shell.text(&command);
                let place = format!("{name}: {command} ({file})");
                let theirs = theirs(image.path(), &command);
                let (theirs, ours) = (blocks(&theirs), blocks(&ours));
                assert_eq!(theirs.len(), ours.len(), "{place}");
                for (theirs, ours) in theirs.iter().zip(&ours) {
                    compare(&place, theirs, ours, &["Counted"]);
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 10, "{compared} trees");
}

/// The blocks of a refcount tree in order of their keys; the oracle goes from the last leaf to the
/// first.
fn blocks(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim().starts_with("SubAlloc Bit") {
            found.push(String::new());
        }
        let last = found.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
    }
    let key = |block: &String| -> (bool, u64) {
        let number = |name: &str| {
            let value = block.split(name).nth(1).unwrap();
            value.split_whitespace().next().unwrap().parse().unwrap()
        };
        (number("Parent: ") != 0, number("Cpos: "))
    };
    found.sort_by_key(key);
    found
}

#[test]
fn indexes_and_maps_are_the_same() {
    need!(oracle::tools());
    let mut compared = 0;
    for (name, image) in images() {
        let mut shell = Shell::open(image.path()).unwrap();
        if shell.run("stat /many").good {
            let stat = shell.json("stat /many");
            if let Some(root) = stat["dx_root"].as_u64() {
                let command = format!("dx_root <{root}>");
                let (their_text, ours) = (theirs(image.path(), &command), shell.text(&command));
                // The oracle leaves the extent list out.
                assert_eq!(
                    facts(&their_text).fields[..6],
                    facts(&ours).fields[..6],
                    "{name}"
                );
                let dump = theirs(image.path(), "dx_dump /many");
                let ours = shell.text("dx_dump /many");
                let hashes = |text: &str| -> Vec<String> {
                    let lines = text.lines().filter(|line| line.contains("(0x"));
                    let entries = lines.filter(|line| !line.contains(':'));
                    entries
                        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                        .collect()
                };
                assert!(!hashes(&dump).is_empty());
                assert_eq!(hashes(&dump), hashes(&ours), "{name}");
                compared += 1;
            }
        }
        for command in [
            "frag //journal:0000",
            "bmap //journal:0000 5",
            "slotmap",
            "hb",
        ] {
            let words = |text: &str| -> Vec<String> {
                text.split_whitespace().map(str::to_owned).collect()
            };
            let their_text = theirs(image.path(), command);
            assert_eq!(
                words(&their_text),
                words(&shell.text(command)),
                "{name}: {command}"
            );
        }
    }
    assert!(compared >= 4, "{compared} indexes");
}
