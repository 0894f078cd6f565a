//! The commands that change a volume: what each does is seen by debugfs.ocfs2 or known of a file of the
//! host that was treated alike; afterwards neither checker finds anything.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod group;
mod raw;
mod verbs;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use cowfs_format::device::MemDevice;
use cowfs_format::layout::{Incompat, RoCompat};
use cowfs_format::toolkit::open;
use cowfs_format::units::index;
use cowfs_format::volume::Volume;
use cowfs_tests::oracle;
use cowfs_tests::session::pattern;
use mkfs_cowfs::Options;
use support::Shell;
use tempfile::NamedTempFile;

/// A volume of 32 MiB with all features, in blocks and clusters of these sizes.
pub(crate) fn volume(block_size: u32, cluster_size: u32) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    // Clusters of 1 MiB leave a smaller volume no room for files.
    let mib = if cluster_size == 1 << 20 { 200 } else { 32 };
    image.as_file().set_len(mib << 20).unwrap();
    let mut options = Options {
        block_size: Some(block_size),
        cluster_size: Some(cluster_size),
        slots: Some(1),
        ..Options::default()
    };
    if cluster_size < 1 << 20 {
        options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    }
    options.features.incompat |= Incompat::META_ECC;
    mkfs_cowfs::format(&open::writable(image.path()).unwrap(), &options).unwrap();
    image
}

/// Neither checker has anything to say.
pub(crate) fn demand_sound(image: &Path, what: &str) {
    let report = oracle::check(image).unwrap();
    let mut codes = report.codes.clone();
    if report.transcript.contains("Block size:         512") {
        // Its own mistake about the system directory; see `oracle::Report`.
        let known = codes.iter().position(|code| code == "DX_TREE_MISSING");
        known.map(|at| codes.remove(at));
    }
    assert!(codes.is_empty() && report.finished(), "{what}: {report:?}");
    let volume = Volume::open(MemDevice::new(std::fs::read(image).unwrap())).unwrap();
    let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
    assert!(checked.is_clean(), "{what}: {:?}", checked.codes());
}

/// What debugfs.ocfs2 says of an inode, as words after their keys.
pub(crate) fn theirs(image: &Path, path: &str) -> String {
    oracle::debugfs(image, &format!("stat {path}")).unwrap()
}

pub(crate) fn bytes_of(image: &Path, path: &str) -> Vec<u8> {
    let mut shell = Shell::seen(image);
    let said = shell.run(&format!("cat {path}"));
    assert!(said.good, "{}", said.err);
    said.out
}

/// What a volume holds, contents included and times left out.
pub(crate) fn manifest(image: &Path) -> String {
    Shell::seen(image).text("manifest -r")
}

/// Numbers without a pattern, the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A script of commands that mostly succeed, and what the files of it hold in the end.
pub(crate) fn script(random: &mut Random, dir: &Path, lines: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut sources = Vec::new();
    for (i, len) in [0usize, 1, 700, 4096, 70_000, 1_500_000]
        .into_iter()
        .enumerate()
    {
        let path = dir.join(format!("source-{i}"));
        std::fs::write(&path, pattern(len, i as u64)).unwrap();
        sources.push(path.to_str().unwrap().to_owned());
    }
    for _ in 0..lines {
        let file = |random: &mut Random| {
            format!(
                "/{}{}",
                ["", "a/", "a/b/", "c/"][index(random.below(4))],
                random.below(5)
            )
        };
        let (one, two) = (file(random), file(random));
        let size = [0, 1, 3000, 4096, 20_000, 100_000, 2_000_000][index(random.below(7))];
        let offset = random.below(size + 5000);
        let source = &sources[index(random.below(6))];
        all.push(match random.below(24) {
            0..=3 => format!("write {source} {one}"),
            4..=6 => format!("write -o {offset} {source} {one}"),
            7 => format!("truncate {one} {size}"),
            8 => format!("truncate {one} {offset}"),
            9 => format!("punch {one} {offset} {size}"),
            10 => format!("fallocate {one} {offset} {size}"),
            11 => format!("fallocate -k {one} {offset} {size}"),
            12 | 13 => format!("reflink {one} {two}"),
            14 => format!("reflink -p {one} {two}"),
            15 => format!("mv {one} {two}"),
            16 => format!("ln {one} {two}"),
            17 => format!("unlink {one}"),
            18 => format!("symlink {one} {two}"),
            19 => format!("chmod {:o} {one}", random.below(0o7777)),
            20 => format!("chown {}:{} {one}", random.below(3), random.below(3)),
            21 => format!(
                "setxattr {one} user.{} {}",
                random.below(4),
                "v".repeat(index(size.min(3000)))
            ),
            22 => format!("setfacl -m u:{}:rw {one}", random.below(9)),
            _ => format!("rm -r /c /{}", random.below(5)),
        });
        if all.len() % 9 == 1 {
            all.push("mkdir -p /a/b".to_owned());
            all.push("mkdir -p /c/d".to_owned());
        }
    }
    all
}

pub(crate) fn program(image: &Path, args: &[&str], script: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_debugfs-cowfs"))
        .args(args)
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that stops early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
    let said = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        said.status.code().unwrap(),
        text(said.stdout),
        text(said.stderr),
    )
}
