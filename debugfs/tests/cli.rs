//! The program as scripts meet it: exit statuses, streams, scripts, JSON, editing.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cowfs_tests::{golden, need, oracle, sum};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"));
    command.stdin(Stdio::null()).env_remove("SOURCE_DATE_EPOCH");
    command
}

fn run(image: &Path, args: &[&str]) -> Output {
    program().args(args).arg(image).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn any_failed_command_makes_the_status_1() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let good = run(image.path(), &["-R", "ls /", "-R", "stat /many"]);
    assert!(good.status.success() && good.stderr.is_empty(), "{good:?}");
    let bad = run(image.path(), &["-R", "ls /nowhere", "-R", "pwd"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(text(&bad.stdout), "/\n");
    let said = text(&bad.stderr);
    assert_eq!(
        said,
        "debugfs.cowfs: ls: /nowhere: no such file or directory\n"
    );
    let stopped = run(image.path(), &["-e", "-R", "ls /nowhere", "-R", "pwd"]);
    assert_eq!(stopped.status.code(), Some(1));
    assert!(stopped.stdout.is_empty());
    for wrong in [
        "frobnicate",
        "ls -x",
        "cat",
        "cat /",
        "group 9",
        "group x",
        "\"open",
    ] {
        let said = run(image.path(), &["-R", wrong]);
        assert_eq!(said.status.code(), Some(1), "{wrong}");
        assert_eq!(text(&said.stderr).lines().count(), 1, "{wrong}: {said:?}");
        assert!(said.stdout.is_empty(), "{wrong}");
    }
}

#[test]
fn scripts_are_read_from_files_and_from_standard_input() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let script = b"# a comment\n\ncd many # another\npwd\nlpwd\nquit\nnot reached\n";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script).unwrap();
    let by_file = run(image.path(), &["-f", file.path().to_str().unwrap()]);
    assert!(by_file.status.success(), "{by_file:?}");
    assert!(text(&by_file.stdout).starts_with("/many\n/"));
    for args in [&["-f", "-"][..], &[]] {
        let mut child = program()
            .args(args)
            .arg(image.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script).unwrap();
        let by_stdin = child.wait_with_output().unwrap();
        assert!(by_stdin.status.success());
        // No prompt off a terminal.
        assert_eq!(by_stdin.stdout, by_file.stdout);
    }
    let absent = run(image.path(), &["-f", "/nonexistent/script"]);
    assert_eq!(absent.status.code(), Some(1));
}

#[test]
fn every_command_answers_in_one_line_of_json() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let out = tempfile::tempdir().unwrap();
    let dump = format!("dump /shared/first {}", out.path().join("out").display());
    let commands = [
        "stats",
        "stats -h",
        "ls",
        "ls -l /shared",
        "stat /shared/first",
        "cat /shared/first",
        &dump,
        "refcount -e /shared/first",
        "extents -o /shared/first",
        "frag /shared/first",
        "group 32768",
        "df",
        "slotmap",
        "hb",
        "logdump 0",
        "block 2",
        "dirblocks /many",
        "dx_root /many",
        "dx_dump /many",
        "dx_space /many",
        "bmap /shared/first 0",
        "icheck 2",
        "ncheck 5",
        "xattr -v /",
        "pwd",
        "curdev",
        "lpwd",
        "help",
        "help ls",
        "stat /absent",
    ];
    let mut args = vec!["--json"];
    for command in &commands {
        args.extend(["-R", command]);
    }
    let said = run(image.path(), &args);
    assert_eq!(said.status.code(), Some(1), "the last one fails");
    let said = text(&said.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), commands.len());
    for (line, command) in lines.iter().zip(commands) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["schema"], 1);
        let name = command.split(' ').next().unwrap();
        assert_eq!(value["command"], name);
        let keys = value.as_object().unwrap().keys();
        for key in keys {
            let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(key.chars().all(snake), "{key}");
        }
        let failed = matches!(command, "group 32768" | "stat /absent");
        if !failed {
            assert!(
                value.get("errors").is_none(),
                "{command}: {}",
                value["errors"]
            );
        }
    }
    assert!(lines.last().unwrap().contains("no such file or directory"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let mut child = program()
        .args([
            "-R",
            "ls -l /many",
            "-R",
            "block 1 2 3 4 5 6 7",
            "-R",
            "cat /fragmented/whole",
        ])
        .arg(image.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(said.stderr.is_empty(), "{said:?}");
}

#[test]
fn what_is_no_volume_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let text_file = dir.path().join("text");
    std::fs::write(&text_file, b"no volume\n".repeat(10_000)).unwrap();
    let whole = golden::open("b4k-c4k-max").unwrap();
    let cut = dir.path().join("cut");
    std::fs::copy(whole.path(), &cut).unwrap();
    let file = std::fs::File::options().write(true).open(&cut).unwrap();
    file.set_len(30 << 20).unwrap();
    for path in [
        dir.path(),
        &fifo,
        &empty,
        &text_file,
        &cut,
        Path::new("/dev/null"),
    ] {
        let said = run(path, &["-R", "stats"]);
        assert_eq!(said.status.code(), Some(1), "{}", path.display());
        let said = text(&said.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    let none = program().args(["-R", "stats"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no volume is open"));
}

#[test]
fn usage_goes_where_it_belongs() {
    let help = program().arg("--help").output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    assert!(text(&help.stdout).contains("refcount [-e] FILE"));
    assert!(
        program()
            .arg("--version")
            .output()
            .unwrap()
            .status
            .success()
    );
    let wrong = program().arg("--frobnicate").output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stdout.is_empty());
}

#[test]
fn a_dumped_file_keeps_its_holes_and_with_p_its_attributes() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let all = golden::all().unwrap();
    let seen = all
        .iter()
        .find(|g| g.name == "b4k-c4k-max")
        .unwrap()
        .seen()
        .unwrap()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for entry in seen
        .walk
        .iter()
        .filter(|e| e.kind == 'f' && e.size > 100_000)
    {
        let out = dir.path().join(format!("{checked}"));
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let command = format!("dump -p /{path} {}", out.display());
        let said = run(image.path(), &["-R", &command]);
        assert!(said.status.success(), "{said:?}");
        let bytes = std::fs::read(&out).unwrap();
        assert_eq!(sum::sha256(&bytes).as_bytes(), entry.payload);
        let meta = std::fs::metadata(&out).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, entry.mode);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(
            format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()),
            entry.mtime
        );
        // The driver allocates whole clusters of 4 KiB, as the host's filesystem does blocks.
        assert!(
            meta.blocks() <= entry.sectors + 16,
            "{path}: {} sectors",
            meta.blocks()
        );
        checked += 1;
    }
    assert!(checked >= 4, "{checked} files");
}

#[test]
fn writing_is_one_transaction_that_fsck_accepts() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i / 7).to_le_bytes()[0])
        .collect();
    std::fs::write(&host, &bytes).unwrap();
    for name in ["b4k-c4k-max", "b512-c4k-max", "b1k-c4k-default"] {
        let image = golden::open(name).unwrap();
        let before = oracle::check(image.path()).unwrap();
        let write = format!("write {} /new/file", host.display());
        let said = run(
            image.path(),
            &["-w", "-e", "-R", "mkdir /new", "-R", &write],
        );
        assert!(said.status.success(), "{name}: {said:?}");
        let back = run(image.path(), &["-R", "cat /new/file"]);
        assert_eq!(back.stdout, bytes, "{name}");
        let again = run(image.path(), &["-w", "-R", &write]);
        assert_eq!(again.status.code(), Some(1), "{name}: it exists already");
        let after = oracle::check(image.path()).unwrap();
        assert_eq!(after.codes, before.codes, "{name}: {}", after.transcript);
    }
    // Over a file that others share: they keep what they had.
    let image = golden::open("b4k-c4k-max").unwrap();
    let third = run(image.path(), &["-R", "cat /shared/third"]).stdout;
    let first = run(image.path(), &["-R", "cat /shared/first"]).stdout;
    let small = dir.path().join("small");
    std::fs::write(&small, b"written over").unwrap();
    let extents = run(image.path(), &["--json", "-R", "extents /shared/first"]).stdout;
    let extents: serde_json::Value = serde_json::from_slice(&extents).unwrap();
    let pieces = extents["extents"].as_array().unwrap();
    let shared = pieces
        .iter()
        .find(|piece| piece["refcount"].as_u64() > Some(1));
    let cluster = usize::try_from(shared.unwrap()["cpos"].as_u64().unwrap()).unwrap();
    let at = cluster * 4096 + 100;
    let over = format!("write --offset {at} {} /shared/first", small.display());
    let said = run(image.path(), &["-w", "--json", "-R", &over]);
    assert!(said.status.success(), "{said:?}");
    let value: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(value["copied_clusters"].as_u64().unwrap() > 0, "{value}");
    assert_eq!(
        run(image.path(), &["-R", "cat /shared/third"]).stdout,
        third
    );
    let mut expected = first;
    expected[at..at + 12].copy_from_slice(b"written over");
    assert_eq!(
        run(image.path(), &["-R", "cat /shared/first"]).stdout,
        expected
    );
    let before = golden::open("b4k-c4k-max").unwrap();
    let before = oracle::check(before.path()).unwrap();
    assert_eq!(oracle::check(image.path()).unwrap().codes, before.codes);
}

#[test]
fn without_w_nothing_is_written() {
    let image = golden::open("dirty-journal").unwrap();
    let before = std::fs::read(image.path()).unwrap();
    let said = run(
        image.path(),
        &["-R", "mkdir /x", "-R", "stats", "-R", "ls /"],
    );
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("start with -w"), "{said:?}");
    assert!(std::fs::read(image.path()).unwrap() == before);
}
