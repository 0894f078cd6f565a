//! Snapshots and back, and files that are to share nothing any more.

use cowfs_format::device::MemDevice;
use cowfs_format::layout::{Dinode, DynFeatures, RoCompat};
use cowfs_format::ops;
use cowfs_format::volume::Volume;
use cowfs_tests::session::{NOW, Session as _, contents, find, pattern, writable};
use mkfs_cowfs::Options;

use crate::rig::Image;
use crate::tree::subtree;

fn options() -> Options {
    let mut options = Options {
        block_size: Some(4096),
        slots: Some(1),
        journal_size: Some(4 << 20),
        ..Options::default()
    };
    options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    options
}

fn disks(volume: &mut Volume<&MemDevice>) {
    for name in ["disks", "disks/below", "snaps"] {
        volume.mkdir(name).unwrap();
    }
    volume.write("disks/one", &pattern(200_000, 1)).unwrap();
    volume
        .write("disks/below/two", &pattern(90_000, 2))
        .unwrap();
    volume.write("disks/below/small", b"small").unwrap();
    let one = find(volume, "disks/one").unwrap();
    let below = find(volume, "disks/below").unwrap();
    let mut txn = volume.begin().unwrap();
    ops::set_xattr(&mut txn, one, b"user.large", &pattern(30_000, 3), NOW).unwrap();
    ops::link(&mut txn, one, below, b"link", NOW).unwrap();
    txn.commit().unwrap();
}

fn refcount_flag(image: &Image, path: &str) -> bool {
    let volume = image.volume();
    let at = find(&volume, path).unwrap();
    let inode = volume.view().block::<Dinode>(at).unwrap();
    inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT)
}

#[test]
fn a_snapshot_stays_and_brings_back_what_was() {
    let image = Image::new(32, &options(), disks);
    let before = subtree(image.volume().view(), "/disks");
    let kept = image.json("snap", &["/disks", "/snaps"]);
    assert_eq!(
        (&kept["files"], &kept["transactions"]),
        (&3.into(), &1.into()),
        "{kept}"
    );
    image.json("snap", &["/disks/one", "/snaps/one"]);
    image.is_sound("kept");

    // All of the snapshot is marked, and is refused to be changed.
    let volume = image.volume();
    for name in ["", "/one", "/below", "/below/small", "/below/link"] {
        let at = find(&volume, &format!("snaps/disks{name}")).unwrap();
        let inode = volume.view().block::<Dinode>(at).unwrap();
        assert_eq!(inode.i_attr.get() & 0x10, 0x10, "{name}");
    }
    drop(volume);
    let mut volume = writable(&image.path);
    volume.overwrite("snaps/disks/one", 0, b"x").unwrap_err();
    for (name, at) in [
        ("disks/one", 100),
        ("disks/below/two", 80_000),
        ("disks/below/small", 0),
    ] {
        volume.overwrite(name, at, b"changed").unwrap();
    }
    volume.write("disks/new", b"new").unwrap();
    drop(volume);
    assert_ne!(subtree(image.volume().view(), "/disks"), before);
    let changed = contents(&image.volume(), "disks/one");
    image.is_sound("changed");

    // Refused, and nothing changes.
    let bytes = std::fs::read(&image.path).unwrap();
    for (verb, paths, says) in [
        (
            "restore",
            &["/snaps/disks", "/snaps"][..],
            "snapshot itself",
        ),
        (
            "restore",
            &["/snaps/disks", "/disks/one"],
            "none is the snapshot",
        ),
        (
            "restore",
            &["/snaps/disks", "/snaps/disks/below/x"],
            "lies in the snapshot",
        ),
        ("restore", &["/absent", "/disks"], "no such file"),
        (
            "snap",
            &["/disks", "/disks/below"],
            "cannot lie in what it keeps",
        ),
        ("snap", &["/disks", "/snaps"], "exists"),
        ("clone -r", &["/snaps/disks", "/x"], "immutable"),
        ("restore -n", &["/snaps/disks", "/disks"], ""),
    ] {
        let ran = image.run(verb, paths);
        assert_eq!(
            ran.code,
            u8::from(!verb.ends_with("-n")),
            "{verb} {paths:?}: {ran:?}"
        );
        assert!(ran.err.contains(says), "{verb} {paths:?}: {ran:?}");
        assert!(
            std::fs::read(&image.path).unwrap() == bytes,
            "{verb} {paths:?}"
        );
    }

    let back = image.json("restore", &["/snaps/disks", "/disks"]);
    assert_eq!(
        (&back["transactions"], &back["removed"]),
        (&1.into(), &7.into()),
        "{back}"
    );
    assert_eq!(subtree(image.volume().view(), "/disks"), before);
    image.is_sound("back");
    assert_eq!(
        image.volume().view().info().root,
        find(&image.volume(), "/").unwrap()
    );
    // What came back can be changed; a file comes back by itself, under another name too.
    let mut volume = writable(&image.path);
    volume.overwrite("disks/one", 100, b"changed").unwrap();
    assert_eq!(contents(&volume, "disks/one"), changed);
    drop(volume);
    image.json("restore", &["/snaps/one", "/disks/one"]);
    image.json("restore", &["/snaps/one", "/disks/other"]);
    assert_eq!(contents(&image.volume(), "disks/one"), pattern(200_000, 1));
    assert_eq!(
        contents(&image.volume(), "disks/other"),
        pattern(200_000, 1)
    );
    image.is_sound("one file");

    let gone = image.json("snap --delete", &["/snaps/disks"]);
    assert_eq!(gone["removed"], 6, "{gone}");
    image.json("snap --delete", &["/snaps/one"]);
    find(&image.volume(), "snaps/disks").unwrap_err();
    image.is_sound("deleted");
}

#[test]
fn a_file_that_shares_nothing_leaves_its_tree() {
    let image = Image::new(32, &options(), disks);
    image.json("clone -rp", &["/disks", "/copy"]);
    let before = image.contents();
    assert!(refcount_flag(&image, "disks/one") && refcount_flag(&image, "copy/one"));
    let done = image.json("unshare", &["/copy"]);
    // Clusters of 4 KiB: 49 and 22 of data, 8 of the attribute.
    assert_eq!(
        (&done["unshared_files"], &done["copied_bytes"]),
        (&2.into(), &(79 * 4096).into())
    );
    assert!(image.contents() == before);
    assert!(!refcount_flag(&image, "copy/one") && refcount_flag(&image, "disks/one"));
    image.is_sound("one side");
    // Nobody shares with these any more: no data is copied, and the trees are gone. Values of
    // attributes are written anew.
    let done = image.json("unshare", &["/disks/one", "/disks/below"]);
    assert_eq!(
        (&done["unshared_files"], &done["copied_bytes"]),
        (&2.into(), &(8 * 4096).into()),
        "{done}"
    );
    assert!(image.contents() == before);
    image.is_sound("both sides");
    let again = image.json("unshare", &["/"]);
    assert_eq!(
        (&again["unshared_files"], &again["journaled_blocks"]),
        (&0.into(), &0.into())
    );
}
