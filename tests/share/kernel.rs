//! What the driver makes of merged trees, cloned trees and snapshots.

use cowfs_tests::session::{Session as _, contents, writable};
use cowfs_tests::{Entry, Guest, Kernel, need, oracle, sum};

use crate::rig::Image;

const FILES: [&str; 8] = [
    "a",
    "a-clone",
    "b",
    "b-clone-0",
    "b-clone-1",
    "b-clone-2",
    "c",
    "d",
];

/// Writes into every file of the first volume, where it is shared and where it is not; tries to change
/// a snapshot on the second one.
const SCRIPT: &str = r#"
    mount_vol
    cd $MNT
    sha256sum -c $IN/sums >&2
    n=0
    for file in a a-clone b b-clone-0 b-clone-1 b-clone-2 c d; do
        n=$((n + 1))
        dd if=/dev/zero of=$file bs=4096 seek=$((n * 20)) count=3 conv=notrunc status=none
        cp --reflink=always $file copy-of-$file
    done
    rm copy-of-a b-clone-0
    umount_vol
    DISK=/dev/vdb
    mount_vol
    walk_vol second
    cd $MNT
    for file in snap/large snap/deep/tiny; do
        if echo more >>$file; then exit 1; fi
    done
    if touch snap/new; then exit 2; fi
    if rm snap/nothing; then exit 3; fi
    dd if=/dev/zero of=copy/large bs=4096 seek=3 count=2 conv=notrunc status=none
    umount_vol
"#;

#[test]
fn linux_writes_to_what_was_merged_and_cloned() {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    let first = Image::new(
        64,
        &crate::dedupe::options(4096, 4096),
        crate::dedupe::families,
    );
    let done = first.json("dedupe", &["/"]);
    assert_eq!(done["merged_trees"], 1);
    let second = Image::new(48, &crate::tree::options(4096), crate::tree::varied);
    second.json("clone -rp", &["/tree", "/copy"]);
    second.json("snap", &["/tree", "/snap"]);
    let before: Vec<Vec<u8>> = FILES
        .iter()
        .map(|name| contents(&first.volume(), name))
        .collect();
    let sums: String = FILES
        .iter()
        .zip(&before)
        .map(|(name, bytes)| format!("{}  {name}\n", sum::sha256(bytes)))
        .collect();
    let guest = guest
        .disk(&first.path)
        .disk(&second.path)
        .file("sums", sums);
    let said = guest.run(SCRIPT).unwrap().expect_success();
    assert!(said.kernel_log.is_empty(), "{said}");

    let volume = first.volume();
    for (n, (name, mut bytes)) in (1..).zip(FILES.iter().zip(before)) {
        let at = n * 20 * 4096;
        bytes.resize(bytes.len().max(at + 3 * 4096), 0);
        bytes[at..at + 3 * 4096].fill(0);
        for name in [(*name).to_owned(), format!("copy-of-{name}")] {
            if !matches!(&name[..], "copy-of-a" | "b-clone-0") {
                assert!(contents(&volume, &name) == bytes, "{name}");
            }
        }
    }
    drop(volume);
    first.is_sound("written by Linux");
    // And once more by us, on what the driver left.
    first.json("dedupe", &["/"]);
    first.is_sound("deduplicated again");
    let mut volume = writable(&first.path);
    volume.overwrite("c", 4096, b"and we write on").unwrap();
    drop(volume);
    first.is_sound("written by both");

    // The clone and the snapshot look like the tree, but for what makes them others.
    let walk = said.walk("second").unwrap();
    let below = |top: &str| -> Vec<Entry> {
        let inside = walk.iter().filter(|entry| {
            entry.path == top.as_bytes() || entry.path.starts_with(format!("{top}/").as_bytes())
        });
        let cut = |entry: &Entry| Entry {
            path: entry.path[top.len()..].to_vec(),
            inode: 0,
            sectors: 0,
            ..entry.clone()
        };
        inside.map(cut).collect()
    };
    let tree = below("tree");
    assert_eq!(tree.len(), 14, "{tree:?}");
    assert_eq!(below("copy"), tree);
    assert_eq!(below("snap"), tree);
    second.is_sound("cloned");
}
