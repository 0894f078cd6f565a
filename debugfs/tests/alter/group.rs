//! Groups of commands, dry runs, and what takes several transactions.

use cowfs_tests::{golden, need, oracle};
use tempfile::{NamedTempFile, TempDir};

use crate::support::Shell;
use crate::{Random, demand_sound, manifest, program, script, volume};

/// Commands one by one, and the same commands as a group, lead to the same volume; a group that is
/// given up leads nowhere.
#[test]
fn a_group_does_what_its_commands_do_alone() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    for (seed, (block, cluster)) in [(512, 4096), (4096, 4096), (1024, 65536), (4096, 32768)]
        .into_iter()
        .enumerate()
    {
        let mut random = Random(seed as u64 + 5);
        let image = volume(block, cluster);
        let mut shell = Shell::edit(image.path()).unwrap();
        for line in script(&mut random, dir.path(), 40) {
            shell.run(&line);
        }
        drop(shell);
        for round in 0..2 {
            let lines = script(&mut random, dir.path(), 25);
            let before = manifest(image.path());
            let alone = NamedTempFile::new().unwrap();
            std::fs::copy(image.path(), alone.path()).unwrap();
            let mut shell = Shell::edit(alone.path()).unwrap();
            let good: Vec<bool> = lines.iter().map(|line| shell.run(line).good).collect();
            drop(shell);
            assert!(good.iter().filter(|good| **good).count() > 10, "{good:?}");
            let wanted = manifest(alone.path());
            let what = format!("{block}/{cluster} {round}");
            for keep in [false, true] {
                let mut shell = Shell::edit(image.path()).unwrap();
                shell.text("begin");
                for (line, good) in lines.iter().zip(&good) {
                    let said = shell.run(line);
                    assert_eq!(said.good, *good, "{what}: {line}: {}", said.err);
                }
                assert!(
                    shell.text("manifest -r") == wanted,
                    "{what}: seen in the group"
                );
                // Nobody else sees anything of it.
                assert!(
                    manifest(image.path()) == before,
                    "{what}: before the commit"
                );
                shell.text(if keep { "commit" } else { "abort" });
                let after = shell.text("manifest -r");
                assert!(
                    after == *if keep { &wanted } else { &before },
                    "{what} {keep}"
                );
            }
            assert!(manifest(image.path()) == wanted, "{what}");
        }
        demand_sound(image.path(), &format!("{block}/{cluster}"));
    }
}

#[test]
fn a_group_that_is_not_committed_is_given_up() {
    let image = volume(4096, 4096);
    let before = std::fs::read(image.path()).unwrap();
    let given_up =
        "debugfs.cowfs: the group was not committed: the volume is as it was before it\n";
    for (args, script) in [
        (&["-w"][..], "begin\nmkdir /a\n"),
        (&["-w"], "begin\nmkdir /a\nquit\ncommit\n"),
        (&["-w", "-R", "begin", "-R", "mkdir /a"], ""),
    ] {
        let (code, _, err) = program(image.path(), args, script);
        assert_eq!((code, &err[..]), (1, given_up), "{script}");
        assert!(std::fs::read(image.path()).unwrap() == before, "{script}");
    }
    let failing = "begin\nmkdir /a\nmkdir /a\ncommit\n";
    let (code, _, err) = program(image.path(), &["-w", "-e"], failing);
    assert_eq!(code, 1);
    assert!(err.ends_with(given_up) && err.lines().count() == 2, "{err}");
    assert!(std::fs::read(image.path()).unwrap() == before);
    // Without -e the command that failed is left out.
    let (code, out, _) = program(image.path(), &["-w", "--json"], failing);
    assert_eq!(code, 1);
    let states: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].clone())
        .collect();
    let null = serde_json::Value::Null;
    assert_eq!(
        states,
        [null.clone(), "staged".into(), null, "committed".into()]
    );
    let mut shell = Shell::edit(image.path()).unwrap();
    assert!(shell.text("ls /").contains(" a\n"));

    shell.text("begin");
    for (line, why) in [
        ("begin", "begun already"),
        ("close", "commit or abort"),
        ("open /nonexistent", "commit or abort"),
    ] {
        let said = shell.run(line);
        assert!(!said.good && said.err.contains(why), "{line}: {}", said.err);
    }
    // A current directory that was never there.
    shell.text("mkdir /a/b");
    shell.text("cd /a/b");
    shell.text("abort");
    assert_eq!(shell.text("pwd"), "/\n");
    assert!(!Shell::seen(image.path()).run("begin").good);
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let image = volume(4096, 4096);
    let before = std::fs::read(image.path()).unwrap();
    let lines = script(&mut Random(77), dir.path(), 30);
    let text = lines.join("\n") + "\nls -l /\n";
    let (code, out, err) = program(image.path(), &["-w", "-n"], &text);
    assert!(std::fs::read(image.path()).unwrap() == before);
    let (again, long, _) = program(image.path(), &["-w", "--dry-run"], &text);
    assert!(std::fs::read(image.path()).unwrap() == before);
    assert_eq!(again, code);
    assert_eq!(out.lines().count(), long.lines().count());
    assert!(
        out.lines()
            .filter(|line| line.ends_with("(dry run)"))
            .count()
            > 10,
        "{out}"
    );
    let (real, done, said) = program(image.path(), &["-w"], &text);
    assert_eq!((real, said), (code, err));
    let plain = |out: &str| -> Vec<String> {
        // Times differ.
        let words = |line: &str| line.replace("   (dry run)", "");
        out.lines()
            .filter(|l| l.contains("Inode"))
            .map(words)
            .collect()
    };
    assert_eq!(plain(&done), plain(&out));
    assert!(std::fs::read(image.path()).unwrap() != before);
    // A dirty journal would be replayed, and is not.
    let image = golden::open("dirty-journal").unwrap();
    let before = std::fs::read(image.path()).unwrap();
    let (code, _, err) = program(image.path(), &["-w", "-n", "-R", "mkdir /new"], "");
    assert!(code == 0 && err.contains("would replay"), "{err}");
    assert!(std::fs::read(image.path()).unwrap() == before);
    let (code, ..) = program(image.path(), &["--dry-run", "-R", "ls"], "");
    assert_eq!(code, 1, "--dry-run without -w");
}

/// Removing a large tree takes several transactions, and inside of a group one.
#[test]
fn large_trees_are_removed_in_batches() {
    need!(oracle::tools());
    let image = golden::open("b4k-c4k-max").unwrap();
    let before = oracle::check(image.path()).unwrap().codes;
    let mut shell = Shell::edit(image.path()).unwrap();
    // Each has an inode, and each of these lies in a block of its own.
    shell.text("begin");
    shell.text("mkdir /wide");
    for i in 0..200 {
        shell.text(&format!("mkdir /wide/{i}"));
    }
    shell.text("commit");
    for group in [true, false] {
        let had = manifest(image.path()).lines().count();
        if group {
            shell.text("begin");
        }
        let said = shell.json("rm -r /wide /many /shared /attributes");
        let (names, taken) = (said["names"].as_u64(), said["transactions"].as_u64());
        let left = shell.text("manifest -r").lines().count();
        assert_eq!(names, Some((had - left) as u64));
        if group {
            assert_eq!(taken, Some(1));
            shell.text("abort");
        } else {
            assert!(taken > Some(1), "{said}");
        }
    }
    let after = oracle::check(image.path()).unwrap();
    assert_eq!(after.codes, before, "{}", after.transcript);
}
