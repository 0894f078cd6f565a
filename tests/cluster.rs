//! Against a live cluster of two nodes.

#![allow(clippy::unwrap_used)]

use cowfs_tests::{Cluster, Kernel, need, oracle};
use std::path::{Path, PathBuf};

/// A fresh volume for a cluster.
fn volume(dir: &Path) -> PathBuf {
    let image = dir.join("volume.img");
    let options = "-b 4096 -C 4096 -N 2 -J size=4M -M cluster --cluster-stack=o2cb \
                   --cluster-name=rig --fs-feature-level=max-features";
    oracle::mkfs(&image, 64 << 20, &options.split(' ').collect::<Vec<_>>()).unwrap();
    image
}

#[test]
fn two_nodes_share_a_volume() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let image = volume(dir.path());
    let mut cluster = need!(Cluster::boot(Kernel::V6_1, &image));
    cluster.run(0, "mount_vol").unwrap();
    cluster.run(1, "mount_vol").unwrap();
    cluster.run(0, "echo hello > $MNT/file").unwrap();
    assert_eq!(cluster.run(1, "cat $MNT/file").unwrap(), "hello\n");
    cluster.end().unwrap();
}
