//! The program as a user meets it.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

const UUID: &str = "7210819e-252f-4cbd-b10c-00d04b14149e";

fn mkfs(args: &[&str]) -> Output {
    mkfs_at(args, None)
}

fn mkfs_at(args: &[&str], epoch: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkfs-cowfs"));
    command.args(args).env_remove("SOURCE_DATE_EPOCH");
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs what must be refused: status 1, one line of reasons, nothing on stdout. Tells the line.
fn refused(args: &[&str]) -> String {
    let out = mkfs(args);
    assert_eq!(out.status.code(), Some(1), "{args:?}");
    assert_eq!(text(&out.stdout), "", "{args:?}");
    text(&out.stderr)
}

fn image(dir: &Path, bytes: u64) -> String {
    let path = dir.join("image");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_image_is_created_sparse_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.img");
    let name = path.to_str().unwrap();
    let out = mkfs(&["--size", "10G", "-L", "backup", "-U", UUID, name]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    for line in [
        "Label: backup",
        "UUID: 7210819E-252F-4CBD-B10C-00D04B14149E",
        "Block size: 4096",
        "Node slots: 1",
        "Backup superblocks: 2",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} in\n{said}");
    }
    let meta = path.metadata().unwrap();
    assert_eq!(meta.len(), 10 << 30);
    assert!(
        meta.blocks() * 512 < 2 << 20,
        "{} bytes allocated",
        meta.blocks() * 512
    );
    // Growing works, over the volume only with -F; shrinking does not.
    assert!(refused(&["--size", "11G", name]).contains("holds an OCFS2 volume"));
    assert!(mkfs(&["--size", "11G", "-F", "-q", name]).status.success());
    assert!(refused(&["--size", "1G", "-F", name]).contains("larger already"));
}

#[test]
fn with_a_date_the_image_is_the_same_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, args: &[&str], epoch| {
        let path = dir.path().join(name);
        let args = [args, &["-q", "--size", "20M", path.to_str().unwrap()]].concat();
        assert!(mkfs_at(&args, epoch).status.success());
        std::fs::read(path).unwrap()
    };
    let first = make("a", &["-U", UUID], Some("1700000000"));
    assert!(first == make("b", &["-U", UUID], Some("1700000000")));
    assert!(first != make("c", &["-U", UUID], Some("1700000001")));
    // Without -U the UUID follows from the label and the sizes.
    let derived = make("d", &["-L", "x"], Some("1700000000"));
    assert!(derived == make("e", &["-L", "x"], Some("1700000000")));
    assert!(derived != make("f", &["-L", "y"], Some("1700000000")));
    // Without a date nothing is repeated.
    assert!(make("g", &["-U", UUID], None) != make("h", &["-U", UUID], None));
    let bad = mkfs_at(&["-n", "--size", "20M", "x"], Some("yesterday"));
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains("number of seconds"));
}

#[test]
fn what_the_device_holds_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let name = image(dir.path(), 20 << 20);
    let file = File::options().write(true).open(&name).unwrap();
    file.write_all_at(b"\x53\xEF", 0x438).unwrap();
    file.write_all_at(b"SWAPSPACE2", 4086).unwrap();
    let before = std::fs::read(&name).unwrap();
    let line = refused(&[&name]);
    assert!(
        line.contains("an ext2, ext3 or ext4 filesystem (signature at byte 1080)"),
        "{line}"
    );
    assert!(
        line.contains("swap space (signature at byte 4086)"),
        "{line}"
    );
    assert!(line.contains("-F"), "{line}");
    assert!(
        std::fs::read(&name).unwrap() == before,
        "nothing was written"
    );
    assert!(mkfs(&["-F", "-q", &name]).status.success());
    let line = refused(&[&name]);
    assert!(
        line.contains("an OCFS2 volume") && !line.contains("ext2"),
        "{line}"
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let name = image(dir.path(), 20 << 20);
    assert!(mkfs(&["-n", &name]).status.success());
    assert!(std::fs::read(&name).unwrap().iter().all(|byte| *byte == 0));
    let absent = dir.path().join("absent");
    let out = mkfs(&["-n", "--json", "--size", "4T", absent.to_str().unwrap()]);
    assert!(!absent.exists());
    let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(plan["written"], false);
    assert_eq!(plan["clusters"], 1u64 << 30);
    assert_eq!(plan["cluster_groups"], 33289);
    assert_eq!(plan["features"].as_array().unwrap().len(), 13);
    assert_eq!(plan["system_files"][1]["name"], "global_inode_alloc");
}

#[test]
fn nonsense_is_refused_in_one_line_and_nothing_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.img");
    let name = path.to_str().unwrap();
    for (args, word) in [
        (&["-b", "3000"][..], "power of two"),
        (&["-b", "8K"], "4096"),
        (&["-C", "2M"], "1048576"),
        (&["-N", "0"], "1 to 255"),
        (&["-J", "size=1M"], "at least 4 MiB"),
        (&["-J", "size=1G"], "-J size="),
        (
            &["-M", "local", "--cluster-stack=o2cb", "--cluster-name=c"],
            "-M local",
        ),
        (&["--cluster-stack=o2cb"], "--cluster-name"),
        (
            &["--cluster-stack=abcd", "--cluster-name=c"],
            "o2cb, pcmk or cman",
        ),
        (
            &["--cluster-stack=o2cb", "--cluster-name=a-b"],
            "letters and digits",
        ),
        (
            &[
                "--cluster-stack=pcmk",
                "--cluster-name=c",
                "--global-heartbeat",
            ],
            "o2cb",
        ),
        (&["--fs-features=clusterinfo"], "--cluster-stack"),
        (&["--fs-features=sparse,nosparse"], "sparse"),
        (&["--fs-feature-level=most"], "max-features"),
        (&["-T", "vmstore"], "2 GiB"),
        (&["-L", &"x".repeat(64)], "up to 63"),
    ] {
        let line = refused(&[args, &["--size", "100M", name]].concat());
        assert!(line.contains(word), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
        assert!(!path.exists(), "{args:?}");
    }
    for (args, word) in [
        (&["-U", "1234"][..], "32 hexadecimal digits"),
        (&["-J", "bogus"], "block64"),
        (&["-T", "huge"], "datafiles"),
        (&["-M", "nfs"], "cluster"),
        (&["--size", "10X"], "no size"),
        (&[], "Usage"),
    ] {
        let said = refused(args);
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (path, word) in [
        (dir.path().to_str().unwrap(), "a directory"),
        ("/dev/null", "a character device"),
        (dir.path().join("absent").to_str().unwrap(), "--size"),
        (&image(dir.path(), 0), "too small"),
    ] {
        let line = refused(&[path]);
        assert!(line.contains(word) && line.contains(path), "{line}");
    }
    let name = image(dir.path(), 20 << 20);
    let held = File::open(&name).unwrap();
    held.lock().unwrap();
    assert!(refused(&[&name]).contains("holds a lock"));
    assert!(refused(&[&name, "999999999"]).contains("lock"));
    drop(held);
    assert!(refused(&[&name, "999999999"]).contains("device has"));
    assert!(
        mkfs(&["-q", &name, "12000"]).status.success(),
        "a part of the file"
    );
}

#[test]
fn with_json_errors_are_json_too() {
    let out = mkfs(&["--json", "--size", "1K", "x"]);
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["error"].as_str().unwrap().contains("too small"));
}

#[test]
fn help_and_version_go_to_stdout() {
    for arg in ["--help", "-h", "--version", "-V"] {
        let out = mkfs(&[arg]);
        assert!(out.status.success());
        assert!(text(&out.stdout).contains("mkfs.cowfs"), "{arg}");
    }
}

#[test]
fn the_command_is_well_formed() {
    mkfs_cowfs::command().debug_assert();
    // Every feature that can be named is named in the help.
    let help = mkfs_cowfs::command().render_long_help().to_string();
    for name in mkfs_cowfs::features::names() {
        assert!(help.contains(name), "{name}");
    }
}

#[test]
fn a_fitting_volume_needs_something_to_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.img");
    let name = path.to_str().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let source = source.to_str().unwrap();
    assert!(refused(&["--size", "auto", name]).contains("give -d"));
    let said = refused(&["--size", "20M", "--free", "1M", "-d", source, name]);
    assert!(said.contains("--size auto"), "{said}");
    let said = refused(&["--size", "auto", "-d", source, "/dev/null"]);
    assert!(said.contains("give the size"), "{said}");
    let said = refused(&["--size", "auto", "-d", "/absent", name]);
    assert!(said.contains("/absent"), "{said}");
    // A dry run makes no file.
    assert!(
        mkfs(&["-n", "--size", "auto", "-d", source, name])
            .status
            .success()
    );
    assert!(!path.exists());
    // A larger file is shortened; one that holds something is not touched without -F.
    File::create(&path).unwrap().set_len(1 << 30).unwrap();
    assert!(
        mkfs(&["-q", "--size", "auto", "-d", source, name])
            .status
            .success()
    );
    let size = path.metadata().unwrap().len();
    assert!(size < 40 << 20, "{size}");
    let said = refused(&["--size", "auto", "-d", source, name]);
    assert!(said.contains("holds an OCFS2 volume"), "{said}");
    assert_eq!(path.metadata().unwrap().len(), size);
    // Too small for this mount: the least volume that its options allow.
    let slots = [
        "-F", "-q", "-M", "cluster", "-N", "8", "--size", "auto", "-d", source, name,
    ];
    assert!(mkfs(&slots).status.success());
}
