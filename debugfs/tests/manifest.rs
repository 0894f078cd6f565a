//! `manifest`, `diff` and `verify` as CI jobs meet them: forms, what is found, exit statuses, and
//! what happens to damaged volumes and damaged manifests. That manifests are true is tested in
//! `tests/manifest.rs` of the workspace.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cowfs_tests::golden;
use serde_json::{Value, json};
use support::Shell;
use tempfile::TempDir;

fn run(args: &[&str], image: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"));
    command.stdin(Stdio::null()).args(args).args(image);
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory with a kept manifest in it.
fn keep(contents: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kept");
    fs::write(&path, contents).unwrap();
    (dir, path)
}

/// Runs a command on an image; its exit status, results and complaints.
fn ask(image: &Path, command: &str, operand: &Path) -> (i32, String, String) {
    let said = run(
        &["-R", &format!("{command} {}", operand.display())],
        Some(image),
    );
    (code(&said), text(&said.stdout), text(&said.stderr))
}

#[test]
fn both_forms_of_every_image_verify_it() {
    for golden in golden::all().unwrap() {
        let image = golden.open().unwrap();
        let mut shell = Shell::open(image.path()).unwrap();
        let (_a, lines) = keep(&shell.text("manifest -t"));
        let document = shell.json("manifest -t");
        // As `jq -S` leaves it: sorted members, laid out on many lines.
        let sorted = json!({
            "command": "manifest",
            "entries": document["entries"],
            "fields": document["fields"],
            "manifest": document["manifest"],
            "schema": 1,
        });
        let (_b, document) = keep(&document.to_string());
        let (_c, sorted) = keep(&format!("{sorted:#}"));
        for kept in [&lines, &document, &sorted] {
            let said = shell.run(&format!("verify {}", kept.display()));
            assert!(
                said.good && said.out.is_empty(),
                "{}: {said:?}",
                golden.name
            );
        }
        let (a, b) = (lines.display(), document.display());
        let same = shell.json(&format!("diff -t {a} {b}"));
        assert_eq!(same["differences"], json!([]), "{}", golden.name);
        let names = fs::read_to_string(&lines).unwrap().lines().count() - 1;
        assert_eq!(same["same"], names, "{}", golden.name);
        assert_eq!(shell.session.status().get(), 0);
    }
}

#[test]
fn every_kind_of_change_is_named() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let kept = text(&run(&["-R", "manifest -t"], Some(image.path())).stdout);
    let root = kept.lines().nth(1).unwrap();
    let time = root.split(" time=").nth(1).unwrap();
    let changes = [
        (
            ". type=dir mode=0755",
            ". type=dir mode=0700",
            "changed .: mode 0700 -> 0755",
        ),
        (
            ". type=dir mode=0755 uid=0 gid=0",
            ". type=dir mode=0755 uid=1 gid=2",
            "changed .: uid 1 -> 0; gid 2 -> 0",
        ),
        (
            time,
            "5.000000005",
            &format!("changed .: time 5.000000005 -> {time}"),
        ),
        (
            "./links/a type=file mode=0644 uid=0 gid=0 nlink=3 size=7",
            "./links/a type=file mode=0644 uid=0 gid=0 nlink=3 size=8",
            "changed ./links/a: size 8 -> 7",
        ),
        (
            "./links/a type=file mode=0644 uid=0 gid=0 nlink=3",
            "./links/a type=file mode=0644 uid=0 gid=0",
            "changed ./links/a: nlink - -> 3",
        ),
        (
            "hardlink=./links/a",
            "hardlink=./links/none",
            "changed ./links/b: hardlink ./links/none -> ./links/a",
        ),
        (
            "link=../absent",
            "link=./absent",
            "changed ./links/dangling: link ./absent",
        ),
        (
            "device=1,3",
            "device=1,5",
            "changed ./devices/null: device 1,5 -> 1,3",
        ),
        (
            "type=fifo",
            "type=socket",
            "changed ./devices/fifo: type socket -> fifo",
        ),
        (
            "xattr.user.one=1:1",
            "xattr.user.one=1:2",
            "changed ./attributes/inode: xattr.user.one 1:2 -> 1:1",
        ),
        (
            " xattr.user.empty=0:",
            "",
            "changed ./attributes/inode: xattr.user.empty - -> 0:",
        ),
        (
            "reflink=./attribute_clones/clone:0+4096",
            "reflink=./attribute_clones/clone:0+4096@8192",
            "changed ./attribute_clones/copy: reflink ./attribute_clones/clone:0+4096@8192 -> \
          ./attribute_clones/clone:0+4096",
        ),
        (
            "./devices/null ",
            "./devices/nu ",
            "removed ./devices/nu (char)",
        ),
        (
            "sha256=de7d1b72",
            "sha256=00000000",
            "changed ./inline/size-1: contents sha256=00000000",
        ),
    ];
    for (from, to, expected) in changes {
        assert!(kept.contains(from), "{from}");
        let (_dir, path) = keep(&kept.replacen(from, to, 1));
        let (code, out, err) = ask(image.path(), "verify", &path);
        assert_eq!((code, err.as_str()), (1, ""), "{from}");
        let first = out.lines().next().unwrap();
        assert!(first.starts_with(expected), "{out}\ninstead of\n{expected}");
        let lines = if expected.starts_with("removed") {
            2
        } else {
            1
        };
        assert_eq!(out.lines().count(), lines, "{out}");
    }
    // A name that is not kept was added.
    let lines = kept
        .lines()
        .filter(|line| !line.starts_with("./devices/null "));
    let without: String = lines.map(|line| format!("{line}\n")).collect();
    let (_dir, path) = keep(&without);
    let (code, out, _) = ask(image.path(), "verify", &path);
    assert_eq!((code, out.as_str()), (1, "added ./devices/null (char)\n"));
    // What is not recorded is not compared, and what is asked for must be recorded.
    let bare = text(&run(&["-R", "manifest -nxr"], Some(image.path())).stdout);
    for key in [" sha256=", " xattr.", " reflink=", " time="] {
        assert!(kept.contains(key) && !bare.contains(key), "{key}");
    }
    let (_dir, path) = keep(&bare);
    assert_eq!(
        ask(image.path(), "verify", &path),
        (0, String::new(), String::new())
    );
    let (code, _, err) = ask(image.path(), "diff -t", &path);
    assert!(code == 2 && err.contains("has no times"), "{err}");
}

#[test]
fn a_bad_manifest_is_trouble_at_a_line() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let good = text(&run(&["-R", "manifest"], Some(image.path())).stdout);
    let document = run(&["--json", "-R", "manifest"], Some(image.path())).stdout;
    let document: Value = serde_json::from_slice(&document).unwrap();
    let swapped = {
        let mut lines: Vec<&str> = good.lines().collect();
        lines.swap(3, 4);
        lines.join("\n") + "\n"
    };
    let twice = good.replacen("./acls ", ". ", 1);
    let with = |change: fn(&mut Value)| {
        let mut changed = document.clone();
        change(&mut changed);
        changed.to_string()
    };
    let cases = [
        (String::new(), "the file is empty"),
        (
            good.replacen("#cowfs-manifest 1", "#cowfs-manifest 2", 1),
            "line 1: the form has version",
        ),
        (
            good.replacen("#cowfs", "#othfs", 1),
            "line 1: a manifest begins with",
        ),
        (
            good.replacen("./acls type=dir", "./acls type=dire", 1),
            "line 3: \"type=dire\"",
        ),
        (
            good.replacen("./acls type=dir", "./acls", 1),
            "line 3: type= is missing",
        ),
        (swapped, "line 5: the path comes too late"),
        (twice, "line 3: the path stands twice"),
        (good[..good.len() - 20].to_owned(), "the line is cut short"),
        ("{}".to_owned(), "\"manifest\" or \"fields\" is missing"),
        ("{\"manifest\":".to_owned(), "EOF while parsing"),
        (with(|all| all["manifest"] = json!(7)), "version 7"),
        (
            with(|all| all["fields"] = json!(["smell"])),
            "does not know",
        ),
        (
            with(|all| all["entries"][1]["type"] = json!("door")),
            "entry \"./acls\": type is missing",
        ),
        (
            with(|all| all["entries"][1]["colour"] = json!(1)),
            "unknown field `colour`",
        ),
        (
            with(|all| all["entries"][2] = json!(7)),
            "invalid type: integer `7`",
        ),
        (
            with(|all| all["entries"][1]["path"] = json!("./")),
            "path is missing or impossible",
        ),
        (format!("{document}{document}"), "one object"),
    ];
    for (contents, why) in cases {
        let (_dir, path) = keep(&contents);
        let (code, _, err) = ask(image.path(), "verify", &path);
        assert_eq!(code, 2, "{why}: {err}");
        assert!(err.contains(why), "{err}instead of {why}");
        assert!(err.contains(path.to_str().unwrap()), "{err}");
    }
}

#[test]
fn exit_statuses_tell_a_difference_from_trouble() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let other = golden::open("b1k-c4k-kept").unwrap();
    let (a, b) = (image.path().display(), other.path().display());
    let same = format!("diff {a} {a}");
    let differs = format!("diff {a} {b}");
    let missing = "diff /nonexistent";
    let fails = "ls /nowhere";
    for (commands, status) in [
        (&[same.as_str()][..], 0),
        (&[&differs], 1),
        (&[missing], 2),
        (&[&same, "help"], 0),
        (&[&same, fails], 1),
        (&[&differs, missing, &same], 2),
        (&[missing, fails], 2),
        (&["verify"], 2),
        (&[&format!("verify {b}")], 2),
        (&["diff -x"], 2),
    ] {
        let args: Vec<&str> = commands.iter().flat_map(|c| ["-R", c]).collect();
        let said = run(&args, Some(image.path()));
        assert_eq!(code(&said), status, "{commands:?}: {said:?}");
    }
    // A volume that cannot be opened is no difference.
    for (command, status) in [("verify kept", 2), (missing, 2), ("ls", 1)] {
        let said = run(&["-R", command], Some(Path::new("/nonexistent")));
        assert_eq!(code(&said), status, "{command}");
    }
    // Two images need no open volume; one does.
    assert_eq!(code(&run(&["-R", &differs], None)), 1);
    let said = run(&["-R", &format!("diff {a}")], None);
    assert!(code(&said) == 2 && text(&said.stderr).contains("no volume is open"));
    // A difference is reason enough to stop a script.
    let said = run(&["-e", "-R", &differs, "-R", "help"], Some(image.path()));
    assert!(code(&said) == 1 && !text(&said.stdout).contains("Shows"));
    // Whoever stops reading does not make a difference go away.
    let mut child = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"))
        .args(["-R", &differs])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn what_cannot_be_read_is_trouble_and_the_rest_is_told() {
    let good = golden::open("b4k-c4k-max").unwrap();
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let whole = shell.text("manifest");
    let inode = shell.json("stat /devices/fifo")["inode"].as_u64().unwrap();
    let blocks = shell.json("dirblocks /many");
    let directory = blocks["blocks"][1]["blkno"].as_u64().unwrap();
    let attributes = shell.json("stat /attributes/block")["xattr_block"]
        .as_u64()
        .unwrap();
    drop(shell);
    for block in [inode, directory, attributes] {
        image
            .as_file()
            .write_all_at(&[0xA5; 4096], block * 4096)
            .unwrap();
    }
    let said = run(&["-R", "manifest"], Some(image.path()));
    assert_eq!(code(&said), 1);
    let (out, err) = (text(&said.stdout), text(&said.stderr));
    for line in [
        "./devices/fifo type=unknown trouble=inode\n",
        "./many type=dir mode=0755 uid=0 gid=0 trouble=names\n",
        "./attributes/block type=file mode=0644 uid=0 gid=0 size=0 sha256=\
         e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 trouble=xattrs\n",
    ] {
        assert!(out.contains(line), "{line}");
    }
    for (path, block) in [
        ("./devices/fifo", inode),
        ("./many", directory),
        ("./attributes/block", attributes),
    ] {
        assert!(err.contains(&format!("{path}: block {block}: ")), "{err}");
    }
    // All other lines are there as before, but for names that stood in the lost block, and for
    // links and clones whose first name was among them.
    let lost = |line: &&str| !out.contains(&format!("{line}\n")) && !line.starts_with("./many/");
    assert_eq!(whole.lines().filter(lost).count(), 3);

    let (_dir, kept) = keep(&whole);
    for (command, operand) in [("verify", kept.as_path()), ("diff", good.path())] {
        let (code, out, err) = ask(image.path(), command, operand);
        assert_eq!(code, 2, "{out}{err}");
        assert!(
            out.contains(&format!("trouble ./devices/fifo: block {inode}: ")),
            "{out}"
        );
        assert!(
            out.contains("trouble ./many: ") && out.contains("removed ./many/"),
            "{out}"
        );
        assert!(
            err.contains(&format!("./devices/fifo: block {inode}: ")),
            "{err}"
        );
    }
    // A manifest of a damaged volume proves nothing of what it could not read.
    let (_dir, kept) = keep(&out);
    let (code, out, _) = ask(image.path(), "verify", &kept);
    assert_eq!(code, 2);
    assert!(
        out.contains("trouble ./many: the manifest has trouble=names; block "),
        "{out}"
    );
    let (code, _, _) = ask(good.path(), "verify", &kept);
    assert_eq!(code, 2);
}

#[test]
fn subtrees_are_compared() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let said = run(&["-R", "manifest -t /links"], Some(image.path()));
    let (_dir, kept) = keep(&text(&said.stdout));
    assert!(text(&said.stdout).contains("\n./deep/er type=dir"));
    assert_eq!(ask(image.path(), "verify -p /links", &kept).0, 0);
    assert_eq!(ask(image.path(), "verify", &kept).0, 1);
    let other = golden::open("b4k-c32k-default").unwrap();
    let (code, out, err) = ask(image.path(), "diff -p /links", other.path());
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let (code, _, err) = ask(image.path(), "diff -p /absent", other.path());
    assert!(code == 2 && err.contains("/absent"), "{err}");
    // From the current directory on the host, and with a name that must be quoted.
    let dir = TempDir::new().unwrap();
    fs::copy(&kept, dir.path().join("a b")).unwrap();
    let cd = format!("lcd {}", dir.path().display());
    let said = run(
        &["-R", &cd, "-R", "verify -p /links 'a b'"],
        Some(image.path()),
    );
    assert_eq!(code_and_text(&said), (0, String::new()));
}

fn code_and_text(said: &Output) -> (i32, String) {
    (code(said), text(&said.stdout) + &text(&said.stderr))
}
