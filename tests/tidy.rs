//! The rules of the house that no compiler knows: floors, who may use whom, sizes of files, words that have no place in
//! the source.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cowfs_tests::place;

/// The floors of `cowfs-format`, from the ground up: code uses its own floor and those below.
const FLOORS: &[&[&str]] = &[
    &["units"],
    &["error", "time"],
    &["layout"],
    &["ecc"],
    &["device"],
    &["block"],
    &["read"],
    &["dump"],
    &["volume"],
    &["txn"],
    &["ops"],
    &["toolkit"],
];

/// The programs, with the programs whose libraries each may use.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("mkfs", &[]),
    ("fsck", &[]),
    ("debugfs", &[]),
    ("reflink-tool", &["mkfs-cowfs", "fsck-cowfs"]),
];

/// Folders of the source tree.
const FOLDERS: &[&str] = &[
    ".ci",
    "format-spec",
    "mkfs",
    "fsck",
    "debugfs",
    "reflink-tool",
    "testdata",
    "tests",
];

/// Lines that a file may have before it is two files.
const MOST_LINES: usize = 700;

/// The only file with `unsafe` code.
const UNSAFE: &str = "format-spec/src/device/mmap.rs";

/// All text files of the source tree, by their path from its root.
fn files() -> Vec<(String, String)> {
    let root = place::source_root();
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        // The lock file names the registry, and is not written by hand.
        if path.is_file() && name != "Cargo.lock" || FOLDERS.contains(&&*name) {
            collect(&root, &path, &mut found);
        }
    }
    assert!(
        found.len() > 100,
        "the source tree is not at {}",
        root.display()
    );
    found
}

fn collect(root: &Path, path: &Path, found: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(root, &entry.unwrap().path(), found);
        }
    } else if let Ok(text) = String::from_utf8(fs::read(path).unwrap()) {
        let name = path.strip_prefix(root).unwrap();
        found.push((name.to_str().unwrap().to_owned(), text));
    }
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
}

/// Fails with all complaints at once.
fn judge(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The modules of its own crate that a file uses, from `crate::name` and `crate::{name, ...}`.
fn uses(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        let word = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    names.insert(word(&group[start..i]));
                    start = i + 1;
                }
                _ => {}
            }
            if c == '}' && start == i + 1 {
                break;
            }
        }
    }
    names
}

#[test]
fn uses_are_found() {
    let text =
        "use crate::a::B;\n// crate::not\nuse crate::{c::{D, E}, f};\nfn g() -> crate::h::I {}";
    let expected = ["a", "c", "f", "h"].map(str::to_owned);
    assert_eq!(uses(text), BTreeSet::from(expected));
}

#[test]
fn floors_use_only_floors_below() {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, text) in rust_files() {
        let Some(inside) = name.strip_prefix("format-spec/src/") else {
            continue;
        };
        let module = inside.split('/').next().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(own) = floor(module) else {
            complaints.push(format!(
                "{name}: module {module} has no floor; give it one here"
            ));
            continue;
        };
        seen.insert(module.to_owned());
        for used in uses(&text) {
            // Names that are no modules are macros of the crate.
            if let Some(other) = floor(&used)
                && (other > own || other == own && used != module)
            {
                complaints.push(format!(
                    "{name}: {module} is below {used} and must not use it"
                ));
            }
        }
    }
    let known: BTreeSet<String> = FLOORS
        .concat()
        .iter()
        .map(|&name| name.to_owned())
        .collect();
    assert_eq!(seen, known, "floors without code");
    judge(&complaints);
}

#[test]
fn programs_do_not_use_each_other() {
    let mut complaints = Vec::new();
    for (folder, allowed) in PROGRAMS {
        let manifest = place::source_root().join(folder).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        let (_, from) = text.split_once("\n[dependencies]\n").unwrap();
        let section = from.split("\n[").next().unwrap();
        let dependencies: Vec<&str> = section
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.ends_with("-cowfs"))
            .collect();
        assert!(section.contains("cowfs-format"), "{folder}: {section}");
        for name in dependencies {
            if !allowed.contains(&name) {
                complaints.push(format!("{folder} must not use {name}"));
            }
        }
    }
    judge(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for (name, text) in rust_files() {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            complaints.push(format!("{name}: {lines} lines; the most is {MOST_LINES}"));
        }
        if !text.starts_with("//!") {
            complaints.push(format!("{name}: does not begin with what it is"));
        }
    }
    judge(&complaints);
}

#[test]
fn unsafe_code_has_one_place() {
    let allowed = |text: &str| {
        text.lines().any(|line| {
            line.trim_start().starts_with("#") && line.contains(concat!("unsafe", "_code"))
        })
    };
    let places: Vec<String> = rust_files()
        .filter(|(_, text)| allowed(text))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(places, [UNSAFE]);
}

/// Pages name files and folders from the root, or from the sources of a package; all of them exist.
#[test]
fn pages_name_what_exists() {
    let root = place::source_root();
    let packages = ["format-spec", "mkfs", "fsck", "debugfs", "reflink-tool"];
    let bases: Vec<_> = std::iter::once(root.clone())
        .chain(
            packages
                .iter()
                .map(|package| root.join(package).join("src")),
        )
        .collect();
    let mut complaints = Vec::new();
    let mut seen = 0;
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let prose = text.split("```").step_by(2);
        for name in prose.flat_map(|text| text.split('`').skip(1).step_by(2)) {
            if !name.contains('/') || name.starts_with('/') || name.contains(['*', ' ']) {
                continue;
            }
            seen += 1;
            if !bases.iter().any(|base| base.join(name).exists()) {
                complaints.push(format!("{page}: `{name}` does not exist"));
            }
        }
    }
    assert!(seen > 20, "only {seen} names");
    judge(&complaints);
}

#[test]
fn some_words_have_no_place() {
    // Each in two parts, or this file would be the first to be found.
    let words = [
        (concat!("/wo", "rk/"), "a path of somebody's machine"),
        (concat!("/ho", "me/"), "a path of somebody's machine"),
        (concat!("crates", ".io"), "the host of a registry"),
        (concat!("TO", "DO"), "work left undone"),
        (concat!("FIX", "ME"), "work left undone"),
    ];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for (number, line) in text.lines().enumerate() {
            for (word, why) in words {
                if line.contains(word) {
                    complaints.push(format!("{name}:{}: \"{word}\": {why}", number + 1));
                }
            }
        }
    }
    judge(&complaints);
}
