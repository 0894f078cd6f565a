//! `install.sh` installs programs that run, pages that read well and completions that complete.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cowfs_tests::place;
use tempfile::TempDir;

const PROGRAMS: [&str; 4] = ["mkfs.cowfs", "fsck.cowfs", "debugfs.cowfs", "reflink.cowfs"];

/// Runs the script from a directory that is not the source tree.
fn install(args: &[&str]) -> Output {
    Command::new(place::source_root().join("install.sh"))
        .args(args)
        .current_dir("/")
        .env("CARGO_TARGET_DIR", place::target_dir())
        .env_remove("DESTDIR")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn everything_is_installed() {
    let dir = TempDir::new().unwrap();
    let prefix = dir.path().join("a prefix");
    let done = install(&["--profile", "dev", "--prefix", prefix.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    let said = text(&done.stdout);
    for name in PROGRAMS {
        let program = prefix.join("sbin").join(name);
        let version = Command::new(&program).arg("--version").output().unwrap();
        assert!(version.status.success(), "{name}: {version:?}");
        let expected = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(text(&version.stdout), expected);
        let files = [
            format!("share/man/man8/{name}.8"),
            format!("share/bash-completion/completions/{name}"),
            format!("share/zsh/vendor-completions/_{name}"),
            format!("share/fish/vendor_completions.d/{name}.fish"),
        ];
        for file in files {
            let path = prefix.join(file);
            assert!(fs::metadata(&path).unwrap().len() > 0, "{}", path.display());
            assert!(said.contains(path.to_str().unwrap()), "{said}");
        }
        manual_page(&prefix, name, &program);
        completion(&prefix, name);
    }
    let program = prefix.join("sbin/debugfs.cowfs");
    let schema = Command::new(&program).arg("--json-schema").output();
    let installed = fs::read(prefix.join("share/cowfs/debugfs.schema.json")).unwrap();
    assert!(!installed.is_empty());
    assert!(installed == schema.unwrap().stdout);
}

/// The page names every option that `--help` names, and is good roff.
fn manual_page(prefix: &Path, name: &str, program: &Path) {
    let path = prefix.join("share/man/man8").join(format!("{name}.8"));
    let page = fs::read_to_string(&path).unwrap();
    assert!(
        page.contains(&format!(".TH {}", name.to_uppercase())),
        "{page}"
    );
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"SEE ALSO\""] {
        assert!(
            page.contains(&format!(".SH {section}\n")),
            "{name}: {section}"
        );
    }
    let help = text(&Command::new(program).arg("--help").output().unwrap().stdout);
    let plain = page
        .replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fR", "");
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        // A value that may be left out stands in brackets right behind.
        .filter_map(|word| word.split(['[', '=']).next())
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    for option in options {
        assert!(
            plain.contains(option),
            "{name}: {option} is not in the page"
        );
    }
    match Command::new("groff")
        .args(["-man", "-Tutf8", "-ww"])
        .arg(&path)
        .output()
    {
        Ok(shown) => assert!(shown.stderr.is_empty(), "{name}: {}", text(&shown.stderr)),
        Err(error) => eprintln!("{name}: the page was not rendered: groff: {error}"),
    }
}

/// bash completes `PROGRAM --h` to `--help`.
fn completion(prefix: &Path, name: &str) {
    let script = format!(
        r#"source "$1/share/bash-completion/completions/{name}"
        COMP_WORDS=({name} --h) COMP_CWORD=1
        "_{name}" {name} --h {name}
        echo "${{COMPREPLY[@]}}""#
    );
    let done = Command::new("bash")
        .args(["-euc", &script, "bash"])
        .arg(prefix)
        .output()
        .unwrap();
    assert!(done.status.success(), "{name}: {done:?}");
    let words = text(&done.stdout);
    assert!(
        words.split_whitespace().any(|w| w == "--help"),
        "{name}: {words:?}"
    );
}

#[test]
fn pages_tell_what_programs_know() {
    let dir = TempDir::new().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_gen-docs"))
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let page = |name: &str| {
        let path = dir.path().join("man/man8").join(name);
        fs::read_to_string(path).unwrap().replace("\\-", "-")
    };
    let debugfs = page("debugfs.cowfs.8");
    for command in debugfs_cowfs::table::commands() {
        assert!(
            debugfs.contains(&format!("\\fB{}\\fR", command.usage())),
            "{}",
            command.name
        );
    }
    let fsck = page("fsck.cowfs.8");
    for entry in fsck_cowfs::catalogue::entries() {
        assert!(
            fsck.contains(&format!("\\fB{}\\fR", entry.code)),
            "{}",
            entry.code
        );
    }
    let mkfs = page("mkfs.cowfs.8");
    for (name, _) in mkfs_cowfs::DIFFERENCES {
        assert!(mkfs.contains(&name.replace('\'', "\\*(Aq")), "{name}");
    }
}

#[test]
fn wrong_use_is_refused() {
    let help = install(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--prefix DIR"));
    for (args, says) in [
        (&["--nonsense"][..], "unknown argument"),
        (&["--prefix"][..], "needs a value"),
        (&["--prefix="][..], "is empty"),
        (
            &["--prefix", "/proc/none"][..],
            "cannot write to /proc/none/sbin",
        ),
    ] {
        let done = install(args);
        assert!(!done.status.success(), "{args:?}");
        assert!(text(&done.stderr).contains(says), "{args:?}: {done:?}");
        assert!(done.stdout.is_empty(), "{args:?}: {done:?}");
    }
}
