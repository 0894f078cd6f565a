//! What is said with `--json` is what the schema tells of, for every command.
//!
//! The judge is a validator that others wrote.

#![allow(clippy::unwrap_used)]

#[path = "support/judge.rs"]
mod judge;
mod support;

use std::collections::BTreeSet;
use std::process::Command;

use cowfs_tests::golden;
use debugfs_cowfs::{schema, table};
use judge::Judge;
use serde_json::{Value, json};
use support::Shell;

/// Commands for each volume. What a volume does not have fails, and that is validated as well.
const LINES: &[&str] = &[
    "stats",
    "stats -h",
    "df",
    "df -h",
    "slotmap",
    "map -n 16",
    "hb",
    "nodes",
    "quota",
    "quota group",
    "logdump 0",
    "logdump -T 0",
    "lsdel",
    "ls",
    "ls -l",
    "ls -l //",
    "ls -l /links",
    "ls -l /attributes",
    "ls -l /many",
    "ls -l /foreign",
    "dirblocks /",
    "dirblocks /many",
    "dirblocks /foreign",
    "dx_root /many",
    "dx_dump /many",
    "dx_dump /foreign",
    "dx_leaf LEAF",
    "dx_space /many",
    "stat /",
    "stat /many",
    "stat /inline/one",
    "stat /links/symlink",
    "stat /devices/null",
    "stat /shared/first",
    "stat -T /fragmented/whole",
    "stat /fragmented/whole",
    "stat //global_bitmap",
    "stat //inode_alloc:0000",
    "stat //truncate_log:0000",
    "stat //local_alloc:0000",
    "stat //journal:0000",
    "stat <2>",
    "group GROUP",
    "grpextents GROUP",
    "refcount -e /shared/first",
    "refcount /reflinks/first",
    "extents -o /shared/third",
    "extents -o /reflinks/first",
    "extents /holes/middle",
    "extent EXTENT",
    "frag /fragmented/whole",
    "bmap /fragmented/whole 0",
    "bmap /inline/one 0",
    "cat /inline/one",
    "cat /shared/clone",
    "dump /shared/clone HOST",
    "dump -p /inline/one HOST",
    "xattr -v /attributes/inode",
    "xattr -v /attributes/block",
    "xattr -v /attributes/buckets",
    "xattr -v /acls",
    "xattr /",
    "stat_sysdir",
    "encode /",
    "encode //global_bitmap",
    "decode LOCK",
    "decode <LOCK> nonsense",
    "du",
    "du -rb /",
    "du -a / //",
    "icheck 2 GROUP 5000 9000",
    "owners 2 GROUP 5000 9000",
    "delta /shared/first /shared/third",
    "delta -c /reflinks/first /shared/first",
    "delta -s /holes/middle /inline/one",
    "delta / /",
    "manifest",
    "manifest -ntx /attributes",
    "manifest -t /reflinks",
    "manifest /absent",
    "diff IMAGE IMAGE",
    "diff -n OTHER",
    "diff -p /links OTHER IMAGE",
    "verify HOST",
    "verify KEPT",
    "tar -o HOST /inline",
    "tar /inline",
    "rdump /links /inline DIRECTORY",
    "rdump -v /attributes DIRECTORY",
    "rdump /absent DIRECTORY",
    "map",
    "image DIRECTORY/metadata",
    "image -s DIRECTORY/scrambled",
    "ncheck 5 ROOT 2700 4664",
    "ncheck ROOT",
    "findpath 5 ROOT",
    "findpath ROOT",
    "block 2 3 4 5 6 7 8 9 10",
    "block -t raw 1",
    "field <2>.s_label <2>.s_feature_incompat block:2",
    "field /many.i_dyn_features block:GROUP.bg_bitmap",
    "field -t slot_map_extended block:2.slot[0]",
    "field /absent.i_size /.i_siz",
    "image HOST",
    "cd //",
    "pwd",
    "chroot /inline",
    "chroot //",
    "cd /",
    "lcd /",
    "lpwd",
    "curdev",
    "help",
    "help ls",
    "? nothing",
    // Failures: of commands, of their arguments, of names.
    "stat /absent",
    "cat /",
    "ls -x",
    "ls a b c",
    "block 99999999999",
    "controld dump",
    "dlm_locks",
    "fs_locks",
    "net_stats",
    "group 3",
    "frobnicate",
    "\"ls",
    "open /nonexistent",
    "label",
    "uuid",
    "feature",
    "feature append-dio",
    "mkdir /directory",
    "write /nonexistent /file",
];

/// Commands with `-w`, at the end of which the volume is closed and opened again.
const WRITING: &[&str] = &[
    "mkdir /directory",
    "write HOST /directory/file",
    "write -o 1 HOST /directory/file",
    "write HOST /directory/file",
    "mkdir -p /directory/a/b",
    "rmdir /directory/a/b /directory/a",
    "mknod /directory/fifo p",
    "unlink /directory/fifo",
    "ln /directory/file /directory/second",
    "symlink file /directory/link",
    "mv /directory/link /directory/moved",
    "reflink /directory/file /directory/clone",
    "chmod u+x /directory/file /directory/second",
    "chown 5: /directory/file",
    "touch -a /directory/file",
    "truncate /directory/file 100000",
    "punch /directory/file 0 50000",
    "fallocate /directory/file 0 1M",
    "setxattr /directory/file user.name value",
    "rmxattr /directory/file user.name",
    "setfacl -m u:5:r /directory/file",
    "begin",
    "rm -r /directory",
    "label label",
    "abort",
    "begin",
    "rm /directory/second",
    "commit",
    "rm -r /directory /absent",
    "rm -r /directory",
    "touch /new",
    "set /new.i_mode 0100600",
    "set /new.i_nothing 5",
    "zap -l 1 -o 0 0",
    "clri /new",
    "label other",
    "uuid 00112233445566778899aabbccddeeff",
    "feature append-dio",
    "feature nometaecc",
    "close",
    "stat /",
    "open IMAGE",
    "quit",
];

fn command_of(line: &str) -> Option<&'static str> {
    let word = line.split(' ').next().unwrap();
    table::find(word.as_bytes()).ok().map(|found| found.name)
}

/// The numbers that stand for the places of a volume in the lines above.
fn places(shell: &mut Shell) -> Vec<(&'static str, String)> {
    let stats = shell.json("stats");
    let bitmap = shell.json("stat //global_bitmap");
    let mut found = vec![
        ("ROOT", stats["root_blkno"].to_string()),
        ("GROUP", bitmap["body"]["chains"][0]["blkno"].to_string()),
    ];
    shell.session.json = true;
    let mut ask = |line: &str, path: &str| {
        let said: Value = serde_json::from_slice(&shell.run(line).out).unwrap();
        said.pointer(path).map(ToString::to_string)
    };
    let leaf = ask("dx_dump /many", "/leaves/0/blkno");
    let extent = ask("stat /fragmented/whole", "/body/tree_blocks/0/blkno");
    let lock = ask("encode //global_bitmap", "/locks/0/lock").unwrap();
    found.push(("LOCK", lock.replace('"', "")));
    found.extend(leaf.map(|number| ("LEAF", number)));
    found.extend(extent.map(|number| ("EXTENT", number)));
    found
}

#[test]
fn every_command_says_what_the_schema_tells_of() {
    let judge = Judge::new();
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    std::fs::write(&host, "contents\n").unwrap();
    let host = host.to_str().unwrap();
    let kept = dir.path().join("kept");
    let other = golden::open("pristine-max").unwrap();
    let (mut succeeded, mut failed) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = 0;
    for golden in golden::all().unwrap() {
        let image = golden.open().unwrap();
        let path = image.path().to_str().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let manifest = Shell::open(image.path()).unwrap().run("manifest -n");
        std::fs::write(&kept, manifest.out).unwrap();
        let words = [
            ("HOST", host),
            ("IMAGE", path),
            ("OTHER", other.path().to_str().unwrap()),
            ("KEPT", kept.to_str().unwrap()),
            ("DIRECTORY", directory.path().to_str().unwrap()),
        ];
        for (writes, script) in [(false, LINES), (true, WRITING)] {
            let mut shell = Shell::open(image.path()).unwrap();
            let places = places(&mut shell);
            shell.session.json = true;
            if writes {
                if golden.name == "o2cb-classic" {
                    // A node could have it mounted.
                    continue;
                }
                shell.session.close();
                shell.session.writes = true;
                shell
                    .session
                    .open(image.path().to_path_buf(), Default::default())
                    .unwrap();
            }
            for line in script {
                let mut line = (*line).to_owned();
                for (name, number) in &places {
                    line = line.replace(name, number);
                }
                for (name, word) in words {
                    line = line.replace(name, word);
                }
                let said = shell.run(&line);
                let value: Value = serde_json::from_slice(&said.out)
                    .unwrap_or_else(|error| panic!("{}: {line}: {error}", golden.name));
                judge.demand(&format!("{}: {line}", golden.name), &value);
                let clean = value.get("errors").is_none();
                // Volumes that differ are no error, and no success either.
                let differs = value
                    .get("differences")
                    .is_some_and(|all| *all != json!([]));
                assert_eq!(said.good, clean && !differs, "{line}");
                if let Some(name) = command_of(&line) {
                    let into = if said.good {
                        &mut succeeded
                    } else {
                        &mut failed
                    };
                    into.insert(name);
                }
                lines += 1;
            }
        }
    }
    // These fail everywhere; that they said so was validated.
    let all: BTreeSet<&str> = table::commands()
        .filter(|command| command.summary != "Needs a running kernel; fails.")
        .map(|command| command.name)
        .collect();
    assert!(table::commands().all(|c| succeeded.contains(c.name) || failed.contains(c.name)));
    let missing: Vec<_> = all.difference(&succeeded).collect();
    assert!(missing.is_empty(), "never succeeded here: {missing:?}");
    assert!(failed.len() > 10, "{failed:?}");
    assert!(lines > 1000, "{lines}");
}

/// Names and values that are not UTF-8 keep all their bytes.
#[test]
fn names_that_are_not_utf8_are_whole_in_base64() {
    let image = golden::open("mixed-hashes").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let said = shell.json("ls /foreign");
    let names: Vec<Vec<u8>> = said["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| support::bytes(entry, "name"))
        .collect();
    // As the driver listed them.
    let walk = golden::Golden {
        name: "mixed-hashes".to_owned(),
    };
    let walk = walk.seen().unwrap().unwrap().walk;
    let mut foreign = 0;
    for entry in &walk {
        if let Some(name) = entry.path.strip_prefix(b"foreign/") {
            assert!(names.iter().any(|known| known == name), "{name:?}");
            foreign += usize::from(std::str::from_utf8(name).is_err());
        }
    }
    assert!(foreign >= 80, "{foreign}");
    let in_json = said["entries"].as_array().unwrap().iter();
    let in_json = in_json.filter(|entry| entry.get("name_b64").is_some());
    assert_eq!(in_json.count(), foreign);
}

/// The judge sees what is wrong.
#[test]
fn the_schema_refuses_other_lines() {
    let judge = Judge::new();
    let good = json!({"schema": 1, "command": "slotmap", "slots": [{"slot": 0, "node": null}]});
    judge.demand("slotmap", &good);
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let without = |key: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().unwrap().remove(key);
        changed
    };
    for bad in [
        with("schema", 2.into()),
        with("command", "ls".into()),
        with("command", "frobnicate".into()),
        with("errors", json!([])),
        with("errors", "text".into()),
        with("surprise", 1.into()),
        with("slots", json!([{"slot": 0}])),
        with("slots", json!([{"slot": 0, "node": null, "surprise": 1}])),
        with("slots", json!([{"slot": "0", "node": null}])),
        without("schema"),
        without("command"),
        without("slots"),
    ] {
        assert!(!judge.whole.is_valid(&bad), "{bad}");
    }
    // Without the model, but with a reason.
    let mut failed = with("errors", json!(["why"]));
    failed.as_object_mut().unwrap().remove("slots");
    assert!(judge.whole.is_valid(&failed));
}

#[test]
fn the_program_prints_the_schema() {
    let program = env!("CARGO_BIN_EXE_debugfs-cowfs");
    let said = Command::new(program).arg("--json-schema").output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let printed: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(printed, schema::document());
    let said = Command::new(program)
        .args(["--json-schema", "volume"])
        .output();
    assert_eq!(said.unwrap().status.code(), Some(1));
}
