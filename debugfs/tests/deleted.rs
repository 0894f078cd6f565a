//! `lsdel` finds what the driver deleted: the facts of the files were taken before.

#![allow(clippy::unwrap_used)]

mod support;

use cowfs_tests::{Guest, Kernel, golden, need};
use support::Shell;

/// A file of each kind: contents in the inode, a target in the inode, clusters of its own.
const FILES: [&str; 4] = [
    "/inline/size-100",
    "/links/dangling",
    "/fragmented/whole",
    "/devices/fifo",
];

#[test]
fn what_the_driver_deletes_is_listed_with_what_is_left() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let before: Vec<(&str, serde_json::Value)> = {
        let mut shell = Shell::open(image.path()).unwrap();
        assert_eq!(shell.json("lsdel")["deleted"].as_array().unwrap().len(), 0);
        FILES
            .iter()
            .map(|file| (*file, shell.json(&format!("stat {file}"))))
            .collect()
    };
    let guest = need!(Guest::new(Kernel::V6_1)).disk(image.path());
    let mut script = String::from("mount_vol\n");
    for (file, _) in &before {
        script += &format!("rm $MNT{file}\n");
    }
    guest
        .run(&(script + "sync\numount_vol\n"))
        .unwrap()
        .expect_success();
    let mut shell = Shell::open(image.path()).unwrap();
    let after = shell.json("lsdel");
    assert_eq!(after["orphans"].as_array().unwrap().len(), 0);
    let deleted = after["deleted"].as_array().unwrap();
    let mut inodes: Vec<&serde_json::Value> =
        before.iter().map(|(_, stat)| &stat["inode"]).collect();
    inodes.sort_by_key(|inode| inode.as_u64());
    let found: Vec<&serde_json::Value> = deleted.iter().map(|item| &item["inode"]).collect();
    assert_eq!(found, inodes, "{after:#}");
    for (file, stat) in &before {
        let item = deleted.iter().find(|item| item["inode"] == stat["inode"]);
        let item = item.unwrap();
        for key in ["mode", "uid", "gid", "file_type"] {
            assert_eq!(item[key], stat[key], "{file}: {key}");
        }
        assert_eq!(item["allocated"], false, "{file}");
        assert_eq!(item["links"], 0, "{file}");
        assert!(
            item["dtime"].as_u64() > stat["mtime"]["seconds"].as_u64(),
            "{file}"
        );
        let kept = &item["kept"];
        match *file {
            "/inline/size-100" => {
                assert_eq!(kept["kind"], "inline");
                assert_eq!(kept["bytes"], stat["size"]);
            }
            "/links/dangling" => assert_eq!(kept["target"], stat["body"]["target"], "{kept}"),
            "/devices/fifo" => assert_eq!(kept["kind"], "nothing"),
            _ => {
                // The driver cut it before it deleted it; its journal knows what it was.
                assert_eq!(kept["kind"], "nothing", "{item}");
                let image = &item["image"];
                assert_eq!(image["size"], stat["size"], "{item:#}");
                let kept = &image["kept"];
                assert_eq!(kept["kind"], "clusters", "{item:#}");
                let count = |key: &str| kept[key].as_u64().unwrap();
                assert_eq!(
                    count("free") + count("waiting") + count("used"),
                    count("clusters")
                );
                assert_eq!(kept["used"], 0, "nobody was given what it had: {item:#}");
            }
        }
    }
}

#[test]
fn orphans_are_listed_whole() {
    let image = golden::open("orphans").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let said = shell.json("lsdel");
    let orphans = said["orphans"].as_array().unwrap();
    // The recipe of the image: a small file and a large one were removed while open.
    assert_eq!(orphans.len(), 2);
    assert_eq!(orphans[0]["kept"]["kind"], "inline");
    assert_eq!(orphans[0]["kept"]["bytes"], 60);
    assert_eq!(orphans[1]["kept"]["clusters"], 40);
    assert_eq!(orphans[1]["kept"]["used"], 40);
    for orphan in orphans {
        let name = format!("{:016x}", orphan["inode"].as_u64().unwrap());
        assert_eq!(orphan["name"], name.as_str());
        assert_eq!(orphan["links"], 0);
    }
}
