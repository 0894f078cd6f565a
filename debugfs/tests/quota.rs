//! `quota` against what the driver reported of the same volume before it was unmounted.

#![allow(clippy::unwrap_used)]

mod support;

use cowfs_tests::golden;
use serde_json::Value;
use support::Shell;

/// An id, then used, soft and hard: space in KiB, and inodes.
type Line = (u64, [u64; 6]);

/// What the driver reported: users, then groups, with an empty line between.
fn reported() -> [Vec<Line>; 2] {
    let golden = golden::all().unwrap();
    let golden = golden.iter().find(|g| g.name == "quota-limits").unwrap();
    let text = std::fs::read_to_string(golden.record("quota")).unwrap();
    let (users, groups) = text.trim().split_once("\n\n").unwrap();
    [users, groups].map(|part| {
        let lines = part.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse().unwrap();
            let id = words[0].trim_start_matches('#').parse().unwrap();
            // Each three numbers are followed by warnings and a grace time in brackets.
            (id, [1, 2, 3, 6, 7, 8].map(number))
        });
        lines.collect()
    })
}

#[test]
fn limits_and_usage_are_what_the_driver_reported() {
    let image = golden::open("quota-limits").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    shell.session.json = true;
    let said = shell.run("quota");
    assert!(said.good, "{}", said.err);
    let said: Value = serde_json::from_slice(&said.out).unwrap();
    for (what, reported) in ["user", "group"].into_iter().zip(reported()) {
        assert!(reported.len() > 30, "{reported:?}");
        let kib = |value: &Value| {
            let bytes = value.as_u64().unwrap();
            assert_eq!(bytes % 1024, 0);
            bytes / 1024
        };
        let entries = said[what]["entries"].as_array().unwrap().iter();
        let found: Vec<Line> = entries
            .map(|entry| {
                let bytes = ["bytes", "bytes_soft", "bytes_hard"].map(|key| kib(&entry[key]));
                let inodes = ["inodes", "inodes_soft", "inodes_hard"];
                let inodes = inodes.map(|key| entry[key].as_u64().unwrap());
                let [a, b, c] = bytes;
                let [d, e, f] = inodes;
                (entry["id"].as_u64().unwrap(), [a, b, c, d, e, f])
            })
            .collect();
        assert_eq!(found, reported, "{what}");
        for slot in said[what]["slots"].as_array().unwrap() {
            assert_eq!(slot["clean"], true);
            assert_eq!(slot["changes"], Value::Array(vec![]));
        }
    }
}

/// Two nodes died with changes that they had not merged.
#[test]
fn changes_that_are_not_merged_are_told_by_slot() {
    let image = golden::open("two-dirty-slots").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    shell.session.json = true;
    let said = shell.run("quota user");
    assert!(said.good, "{}", said.err);
    let said: Value = serde_json::from_slice(&said.out).unwrap();
    assert!(said.get("group").is_none());
    let clean: Vec<bool> = said["user"]["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["clean"].as_bool().unwrap())
        .collect();
    assert_eq!(clean, [false, false, true]);
    let said = shell.run("nodes");
    let said: Value = serde_json::from_slice(&said.out).unwrap();
    for (node, line) in said["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(line["node"], node);
        assert_eq!(line["slots"], serde_json::json!([node]));
        assert_eq!(line["dirty"], true);
        assert_eq!(line["heartbeat"]["intact"], true);
        assert_eq!(line["state"], "unknown");
    }
}
