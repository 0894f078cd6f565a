//! Against a live cluster of two nodes: who has a volume mounted, and what then may be done with it.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cowfs_format::volume::Volume;
use cowfs_tests::said::Sink;
use cowfs_tests::session::{contents, find, killed_commit, pattern};
use cowfs_tests::{Cluster, Kernel, need, oracle};
use debugfs_cowfs::session::{Session, Superblock};
use serde_json::Value;

/// A fresh volume for a cluster.
fn volume(dir: &Path) -> PathBuf {
    let image = dir.join("volume.img");
    let options = "-b 4096 -C 4096 -N 2 -J size=4M -M cluster --cluster-stack=o2cb \
                   --cluster-name=rig --fs-feature-level=max-features";
    let options: Vec<&str> = options.split_whitespace().collect();
    oracle::mkfs(&image, 64 << 20, &options).unwrap();
    image
}

/// A volume for a cluster that we made, filled and cloned on: `/file` and its clone, and a tree
/// beside its own.
fn volume_of_ours(dir: &Path) -> PathBuf {
    let (image, source) = (dir.join("ours.img"), dir.join("source"));
    std::fs::create_dir_all(source.join("tree/deep")).unwrap();
    std::fs::write(source.join("file"), pattern(1 << 20, 1)).unwrap();
    std::fs::write(source.join("tree/disk"), pattern(700_000, 2)).unwrap();
    std::fs::write(source.join("tree/deep/\u{e9}t\u{e9}"), b"small").unwrap();
    std::fs::hard_link(source.join("tree/disk"), source.join("tree/deep/link")).unwrap();
    let options = format!(
        "mkfs.cowfs -q -b 4096 -C 4096 -N 2 -J size=4M -M cluster --cluster-stack=o2cb \
         --cluster-name=rig --fs-feature-level=max-features --size 96M -d {} IMAGE",
        source.display()
    );
    let (code, said) = program(
        |args, out, err| mkfs_cowfs::run(args, out, err),
        &options,
        &image,
    );
    assert_eq!(code, 0, "{said}");
    for verb in ["clone IMAGE /file /clone", "clone -rp IMAGE /tree /copy"] {
        let (code, said) = program(
            |args, out, err| reflink_cowfs::run(args, out, err),
            &format!("reflink.cowfs {verb}"),
            &image,
        );
        assert_eq!(code, 0, "{said}");
    }
    image
}

/// Runs a command of debugfs.cowfs: its results, or what it complained of; and what it said besides.
fn debugfs(image: &Path, writes: bool, line: &str) -> (Result<String, String>, String) {
    let (out, err) = (Sink::default(), Sink::default());
    let mut session = Session::new(Box::new(out.clone()), Box::new(err.clone()));
    (session.json, session.writes) = (true, writes);
    let done = match session.open(image.to_path_buf(), Superblock::default()) {
        Ok(()) => match session.line(line.as_bytes()).unwrap() {
            true => Ok(out.text()),
            false => Err(err.text()),
        },
        Err(error) => Err(format!("{error:#}\n")),
    };
    (done, err.text())
}

/// What `nodes` says: of each node its state and its slots.
fn nodes(image: &Path, watch: u32) -> Vec<(u64, String, String)> {
    let line = format!("nodes --watch {watch}");
    let said: Value = serde_json::from_str(&debugfs(image, false, &line).0.unwrap()).unwrap();
    assert_eq!(said["cluster_stack"], "o2cb");
    assert_eq!(said["cluster_name"], "rig");
    let nodes = said["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            assert_eq!(node["heartbeat"]["intact"], true, "{node}");
            (
                node["node"].as_u64().unwrap(),
                node["state"].as_str().unwrap().to_owned(),
                node["slots"].to_string(),
            )
        })
        .collect()
}

fn line(node: u64, state: &str, slots: &str) -> (u64, String, String) {
    (node, state.to_owned(), slots.to_owned())
}

/// Runs reflink.cowfs or mkfs.cowfs: its exit status and its complaints.
fn program(
    run: impl FnOnce(Vec<&OsStr>, &mut dyn Write, &mut dyn Write) -> u8,
    args: &str,
    image: &Path,
) -> (u8, String) {
    let args = args.split(' ').map(|arg| match arg {
        "IMAGE" => image.as_os_str(),
        other => OsStr::new(other),
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(args.collect(), &mut out, &mut err);
    (code, String::from_utf8(err).unwrap())
}

fn reflink(image: &Path, target: &str) -> (u8, String) {
    let args = format!("reflink.cowfs clone IMAGE /file {target}");
    program(
        |args, out, err| reflink_cowfs::run(args, out, err),
        &args,
        image,
    )
}

fn silent(image: &Path) {
    let report = oracle::check(image).unwrap();
    assert!(report.is_silent() && report.finished(), "{report:?}");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    let said = String::from_utf8_lossy(&[out, err].concat()).into_owned();
    assert_eq!(code, 0, "{said}");
}

/// Every program that writes says one line, which names the node that was seen first, and nothing is written.
fn all_writers_refuse(image: &Path, nodes: &[u8]) {
    let alive = |node: &u8| {
        format!("node {node} is alive (its heartbeat changes) and has the volume mounted")
    };
    let refused = |said: &str| {
        assert!(
            nodes.iter().any(|node| said.contains(&alive(node))),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    let (done, besides) = debugfs(image, true, "mkdir /refused");
    refused(&done.unwrap_err());
    assert_eq!(besides, "");
    let (code, said) = reflink(image, "/refused");
    assert_eq!(code, 1);
    refused(&said);
    let (code, said) = program(
        |args, out, err| mkfs_cowfs::run(args, out, err),
        "mkfs.cowfs -F IMAGE",
        image,
    );
    assert_eq!(code, 1);
    refused(&said);
    let (code, said) = program(
        |args, out, err| fsck_cowfs::run(args.into_iter().map(Into::into), out, err),
        "fsck.cowfs -fy IMAGE",
        image,
    );
    assert_eq!(code, 8);
    refused(&said);
}

#[test]
fn living_nodes_are_seen_and_dead_ones_are_recovered() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let image = volume(dir.path());
    let mut cluster = need!(Cluster::boot(Kernel::V6_1, &image));
    cluster.run(0, "mount_vol").unwrap();
    cluster.run(1, "mount_vol").unwrap();

    // The promise of reflinks on a cluster: one node makes a clone, another one writes to it.
    let made = "dd if=/dev/urandom of=$MNT/file bs=64K count=16 status=none
                cp --reflink=always $MNT/file $MNT/clone
                sha256sum <$MNT/file";
    let sum = cluster.run(0, made).unwrap();
    let same = cluster.run(1, "sha256sum <$MNT/clone").unwrap();
    assert_eq!(same, sum);
    let written = "head -c 300000 /dev/zero | dd of=$MNT/clone bs=1K seek=100 conv=notrunc,fsync \
                   status=none iflag=fullblock; sha256sum <$MNT/clone";
    let broken = cluster.run(1, written).unwrap();
    assert_ne!(broken, sum);
    assert_eq!(cluster.run(0, "sha256sum <$MNT/clone").unwrap(), broken);
    assert_eq!(cluster.run(0, "sha256sum <$MNT/file").unwrap(), sum);
    cluster.run_both("sync").unwrap();

    assert_eq!(
        nodes(&image, 5),
        [line(0, "alive", "[0]"), line(1, "alive", "[1]")]
    );
    all_writers_refuse(&image, &[0, 1]);

    // A power cut: node 1 is dead, node 0 takes its slot over.
    cluster
        .run(1, "echo of node 1 >$MNT/one; xfs_io -c fsync $MNT/one")
        .unwrap();
    cluster.kill(1);
    let seen = nodes(&image, 16);
    assert_eq!(seen[0], line(0, "alive", "[0]"));
    assert_eq!((seen[1].0, seen[1].1.as_str()), (1, "dead"));
    all_writers_refuse(&image, &[0]);
    assert_eq!(cluster.run(0, "cat $MNT/one").unwrap(), "of node 1\n");
    assert_eq!(
        nodes(&image, 5),
        [line(0, "alive", "[0]"), line(1, "silent", "[]")],
        "node 0 has recovered slot 1"
    );

    // Node 0 dies, too: its slot stays held, and nobody is left to recover it but us.
    cluster
        .run(0, "echo of node 0 >$MNT/zero; xfs_io -c fsync $MNT/zero")
        .unwrap();
    cluster.kill(0);
    let began = Instant::now();
    let (code, said) = reflink(&image, "/after");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("node 0 holds slot 0: watching"), "{said}");
    // The nodes give each other up after 16 s: 8 beats.
    let took = began.elapsed().as_secs();
    assert!((14..40).contains(&took), "{took} s");
    silent(&image);
    let volume = Volume::open(cowfs_format::toolkit::open::read_only(&image).unwrap()).unwrap();
    assert_eq!(contents(&volume, "zero"), b"of node 0\n");
    assert_eq!(contents(&volume, "after"), contents(&volume, "file"));
    assert_ne!(contents(&volume, "clone"), contents(&volume, "file"));
}

/// A node that mounts the volume after that takes another slot than ours, if it is told to: the
/// transaction must be finished all the same, before the node looks at anything. Then both use what
/// we made, filled and cloned, and each breaks sharing in the sight of the other.
#[test]
fn two_nodes_share_a_volume_of_ours_with_a_commit_in_a_slot_of_neither() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let image = volume_of_ours(dir.path());
    killed_commit(&image);
    let mut cluster = need!(Cluster::boot(Kernel::V6_1, &image));
    cluster.run(1, "mount_vol preferred_slot=1").unwrap();
    let seen = cluster.run(1, "for i in 1 2 3 4 5 6 7 8 9 10; do test -e $MNT/ours && break; sleep 1; done; sha256sum <$MNT/ours; ls $MNT").unwrap();
    let sum = cowfs_tests::sum::sha256(&pattern(5000, 7));
    assert!(seen.starts_with(&sum.to_string()), "{seen}");
    // The slot is free again, and the next node can have it.
    cluster
        .run(0, "mount_vol; cp $MNT/ours $MNT/theirs")
        .unwrap();
    cluster
        .run(1, "cmp $MNT/ours $MNT/theirs; rm $MNT/ours")
        .unwrap();

    // What each of them sees, by names; written to a clone on one node, and seen on the other.
    let mut model = BTreeMap::from([
        ("file", pattern(1 << 20, 1)),
        ("clone", pattern(1 << 20, 1)),
        ("tree/disk", pattern(700_000, 2)),
        ("copy/disk", pattern(700_000, 2)),
        ("copy/deep/\u{e9}t\u{e9}", b"small".to_vec()),
    ]);
    for (node, name, at, fill) in [
        (1, "clone", 100_000, b'1'),
        (0, "copy/deep/link", 300_000, b'0'),
        (0, "file", 500_000, b'2'),
        (1, "tree/disk", 0, b'3'),
    ] {
        let write = format!(
            "head -c 200000 /dev/zero | tr '\\0' {} |
             dd of=$MNT/{name} bs=1000 seek={} conv=notrunc,fsync iflag=fullblock status=none",
            char::from(fill),
            at / 1000
        );
        cluster.run(node, &write).unwrap();
        let name = if name == "copy/deep/link" {
            "copy/disk"
        } else {
            name
        };
        model.get_mut(name).unwrap()[at..at + 200_000].fill(fill);
        for (name, bytes) in &model {
            let seen = cluster.run(1 - node, &format!("sha256sum <\"$MNT/{name}\""));
            let sum = cowfs_tests::sum::sha256(bytes).to_string();
            let seen = seen.unwrap();
            assert!(
                seen.starts_with(&sum),
                "{name} on node {}: {seen}",
                1 - node
            );
        }
    }
    cluster.run_both("sync").unwrap();
    all_writers_refuse(&image, &[0, 1]);
    cluster.run(1, "cd /; umount_vol; leave").unwrap();
    all_writers_refuse(&image, &[0]);
    cluster.end().unwrap();
    silent(&image);
    let volume = Volume::open(cowfs_format::toolkit::open::read_only(&image).unwrap()).unwrap();
    for (name, bytes) in &model {
        assert!(contents(&volume, name) == *bytes, "{name}");
    }
    drop(volume);

    // Both have left, and their last heartbeats say so: nobody need watch them.
    assert_eq!(
        nodes(&image, 1),
        [line(0, "left", "[]"), line(1, "left", "[]")]
    );
    let began = Instant::now();
    let (done, besides) = debugfs(&image, true, "mkdir /again");
    done.unwrap();
    assert_eq!(besides, "");
    assert!(began.elapsed().as_secs() < 4);
    silent(&image);
    let volume = Volume::open(cowfs_format::toolkit::open::read_only(&image).unwrap()).unwrap();
    find(&volume, "again").unwrap();
    assert_eq!(contents(&volume, "theirs"), pattern(5000, 7));
}
