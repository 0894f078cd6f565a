//! Clones of trees.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cowfs_format::block::View;
use cowfs_format::device::{FaultDevice, MemDevice};
use cowfs_format::layout::RoCompat;
use cowfs_format::ops::manifest::{self, Fields};
use cowfs_format::ops::{self, CloneOptions, CloneTree, Existing, Marks, TreeOptions};
use cowfs_format::txn::NewInode;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::golden;
use cowfs_tests::manifest::to_text;
use cowfs_tests::session::{NOW, Session as _, contents, find, pattern, writable};
use mkfs_cowfs::Options;

use crate::rig::Image;

pub(crate) fn options(block_size: u32) -> Options {
    let mut options = Options {
        block_size: Some(block_size),
        slots: Some(1),
        journal_size: Some(4 << 20),
        ..Options::default()
    };
    options.features.ro_compat |= RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
    options
}

/// What a directory holds, without what sharing and the moment of the clone change.
pub(crate) fn subtree(view: View<'_>, path: &str) -> String {
    let scanner = Scanner::new(Some(1)).unwrap();
    let fields = Fields {
        sums: true,
        times: false,
        xattrs: true,
        sharing: false,
    };
    let start =
        cowfs_format::volume::path::resolve(view, view.info().root, path.as_bytes()).unwrap();
    let mut entries = Vec::new();
    manifest::gather(&scanner, view, start, fields, &|_| (), |found| {
        assert!(found.faults.is_empty(), "{:?}", found.faults);
        entries.push(found.entry);
        ControlFlow::Continue(())
    });
    to_text(&entries)
}

/// A directory with everything that a directory can hold.
pub(crate) fn varied(volume: &mut Volume<&MemDevice>) {
    for name in ["tree", "tree/empty", "tree/deep", "tree/deep/er", "other"] {
        volume.mkdir(name).unwrap();
    }
    volume.write("tree/large", &pattern(300_000, 1)).unwrap();
    volume.write("tree/deep/tiny", b"a few bytes").unwrap();
    volume.write("tree/nothing", b"").unwrap();
    volume.reflink("tree/large", "tree/deep/clone").unwrap();
    volume
        .overwrite("tree/deep/clone", 70_000, b"changed")
        .unwrap();
    let tree = find(volume, "tree").unwrap();
    let deeper = find(volume, "tree/deep/er").unwrap();
    let large = find(volume, "tree/large").unwrap();
    let nothing = find(volume, "tree/nothing").unwrap();
    let mut txn = volume.begin().unwrap();
    let link = NewInode::at(NOW, 0o120_777, 1000, 100);
    ops::link(&mut txn, large, deeper, b"hard link", NOW).unwrap();
    ops::link(&mut txn, nothing, deeper, b"hard nothing", NOW).unwrap();
    ops::symlink(&mut txn, deeper, b"short", b"../tiny", &link).unwrap();
    ops::symlink(&mut txn, deeper, b"long", &[b'x'; 4000], &link).unwrap();
    let node = |mode| NewInode::at(NOW, mode, 1, 2);
    ops::make_node(&mut txn, tree, b"block", 0x1234, &node(0o060_640)).unwrap();
    ops::make_node(&mut txn, tree, b"fifo", 0, &node(0o010_600)).unwrap();
    for (blkno, name, len) in [
        (large, &b"user.small"[..], 10),
        (large, b"user.large", 20_000),
        (tree, b"user.of.directory", 3000),
        (deeper, b"user.value", 300),
    ] {
        ops::set_xattr(&mut txn, blkno, name, &pattern(len, 3), NOW).unwrap();
    }
    let short = cowfs_format::read::inode::read(txn.view(), deeper).unwrap();
    let short = cowfs_format::read::dir::lookup(txn.view(), &short, b"short")
        .unwrap()
        .unwrap();
    ops::set_xattr(&mut txn, short, b"trusted.of.link", b"value", NOW).unwrap();
    txn.edit::<cowfs_format::layout::Dinode>(tree)
        .unwrap()
        .i_mode = 0o041_751.into();
    txn.commit().unwrap();
}

#[test]
fn a_tree_is_cloned_with_all_that_is_in_it() {
    for block in [4096, 1024] {
        let image = Image::new(48, &options(block), varied);
        image.is_sound("before");
        let before = subtree(image.volume().view(), "/tree");
        let bytes = std::fs::read(&image.path).unwrap();
        let planned = image.json("clone -n -rp", &["/tree", "/copy"]);
        assert!(std::fs::read(&image.path).unwrap() == bytes);
        let done = image.json("clone -rp", &["/tree", "/copy"]);
        assert_eq!(done["files"], planned["files"]);
        let counts = ["files", "directories", "others", "links", "transactions"]
            .map(|key| done[key].as_u64().unwrap());
        assert_eq!(counts, [4, 4, 4, 2, 1], "{done}");
        image.is_sound("one clone");
        assert_eq!(subtree(image.volume().view(), "/copy"), before);
        assert_eq!(subtree(image.volume().view(), "/tree"), before);
        // Into a directory; and a clone of the clone.
        image.json("clone -rp", &["/copy", "/tree/deep/tiny", "/other"]);
        assert_eq!(subtree(image.volume().view(), "/other/copy"), before);
        // What is written to one is not seen in the others.
        let mut volume = writable(&image.path);
        volume
            .overwrite("copy/deep/er/hard link", 5, b"new")
            .unwrap();
        assert_eq!(&contents(&volume, "copy/large")[5..8], b"new");
        drop(volume);
        assert_eq!(subtree(image.volume().view(), "/tree"), before);
        assert_eq!(subtree(image.volume().view(), "/other/copy"), before);
        image.is_sound("three trees");
        // Merged into a tree that exists: what is there is refused, kept or replaced.
        let ran = image.run("clone -rp", &["/copy/deep", "/tree"]);
        assert!(
            ran.code == 1 && ran.err.contains("/tree/deep: a file of that name exists"),
            "{ran:?}"
        );
        let kept = image.json("clone -rp --no-clobber", &["/copy", "/other"]);
        assert_eq!(
            (&kept["files"], &kept["replaced"]),
            (&0.into(), &0.into()),
            "{kept}"
        );
        assert_eq!(subtree(image.volume().view(), "/other/copy"), before);
        let forced = image.json("clone -rp -f -t /other", &["/copy"]);
        assert_eq!(forced["replaced"], 10, "{forced}");
        assert_eq!(&contents(&image.volume(), "other/copy/large")[5..8], b"new");
        image.is_sound("replaced");
    }
}

#[test]
fn what_cannot_be_cloned_changes_nothing() {
    let image = Image::new(48, &options(4096), varied);
    let before = std::fs::read(&image.path).unwrap();
    for (options, paths, says) in [
        ("", &["/tree", "/copy"][..], "-r clones it"),
        ("-r", &["/tree", "/tree/deep"], "into itself"),
        ("-r", &["/", "/tree/x"], "into itself"),
        (
            "-r",
            &["/tree/deep", "/other", "/tree/large"],
            "no directory",
        ),
        ("-f", &["/tree/large", "/tree/large"], "same file"),
        (
            "-f",
            &["/tree/large", "/tree/deep/er/hard link"],
            "same file",
        ),
        ("-rf", &["/tree/deep", "/tree/nothing"], "no directory"),
        ("-i", &["/tree/large", "/tree/nothing"], "terminal"),
        (
            "-f",
            &["/tree/large", "/tree/deep/tiny", "/other/large", "/absent"],
            "no directory",
        ),
        (
            "",
            &["/tree/large", "/tree/./large", "/other"],
            "both become",
        ),
        ("", &["/tree/large"], "needs a target"),
        ("-t /tree/large", &["/tree/nothing"], "no directory"),
        ("-r", &["//", "/x"], "only files of users"),
    ] {
        let ran = image.run(&format!("clone {options}"), paths);
        assert!(
            ran.code == 1 && ran.err.contains(says),
            "{options} {paths:?}: {ran:?}"
        );
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
        assert!(std::fs::read(&image.path).unwrap() == before, "{paths:?}");
    }
}

/// All that the driver knows how to write.
#[test]
fn trees_of_the_driver_are_cloned_whole() {
    for name in ["b4k-c4k-max", "b1k-c4k-default"] {
        let file = golden::open(name).unwrap();
        let image = Image::of(&std::fs::read(file.path()).unwrap());
        let (before, said) = (image.manifest(), image.fsck());
        assert_eq!(said.0, 0);
        let known = cowfs_tests::oracle::check(&image.path)
            .map(|report| report.codes)
            .ok();
        let tops: Vec<String> = (before.iter())
            .filter(|e| !e.path.contains(&b'/') && !e.path.is_empty() && e.path != b"lost+found")
            .filter_map(|e| Some(format!("/{}", std::str::from_utf8(&e.path).ok()?)))
            .filter(|path| find(&image.volume(), path).is_ok())
            .collect();
        assert!(tops.len() > 4, "{tops:?}");
        let mut volume = writable(&image.path);
        volume.mkdir("copy").unwrap();
        drop(volume);
        let tops: Vec<&str> = tops.iter().map(String::as_str).collect();
        let paths = [&tops[..], &["/copy"]].concat();
        image.json("clone -rp", &paths);
        let volume = image.volume();
        for top in tops {
            let [old, new] =
                [top.to_owned(), format!("/copy{top}")].map(|path| subtree(volume.view(), &path));
            assert_eq!(old, new, "{name}: {top}");
        }
        assert_eq!(image.fsck().0, 0, "{name}: {}", image.fsck().1);
        if let Some(known) = known {
            let mut codes = cowfs_tests::oracle::check(&image.path).unwrap().codes;
            codes.retain(|code| !known.contains(code));
            assert!(codes.is_empty(), "{name}: {codes:?}");
        }
    }
}

#[test]
fn a_tree_larger_than_the_journal_is_cloned_in_steps() {
    let image = Image::new(64, &options(4096), |volume| {
        volume.mkdir("many").unwrap();
        let names: Vec<Vec<u8>> = (0..700).map(|n| format!("file {n}").into_bytes()).collect();
        for names in names.chunks(350) {
            volume.touch("many", names).unwrap();
        }
        volume.write("many/large", &pattern(100_000, 1)).unwrap();
    });
    image.is_sound("before");
    let done = image.json("clone -rp", &["/many", "/copy"]);
    assert!(done["transactions"].as_u64().unwrap() > 1, "{done}");
    image.is_sound("after");
    let volume = image.volume();
    assert_eq!(
        subtree(volume.view(), "/many"),
        subtree(volume.view(), "/copy")
    );
    let ran = image.run("clone -r", &["/many", "/copy 2"]);
    assert!(
        ran.out.contains("transactions, each of them whole"),
        "{ran:?}"
    );
}

#[test]
fn a_clone_of_a_tree_stopped_at_any_write_is_before_or_after() {
    let image = Image::new(32, &options(4096), varied);
    let before = std::fs::read(&image.path).unwrap();
    let clone = |device: &FaultDevice<MemDevice>| -> cowfs_format::error::Result<()> {
        let mut volume = Volume::open(device)?;
        let (source, root) = (find(&volume, "tree")?, volume.info().root);
        let options = TreeOptions {
            each: CloneOptions {
                preserve: true,
                uid: 0,
                gid: 0,
                now: NOW,
            },
            recursive: true,
            marks: Marks::Same,
        };
        let mut tree = CloneTree::new(options);
        tree.add(source, root, b"copy", b"/copy");
        let mut txn = volume.begin()?;
        assert!(tree.step(&mut txn, usize::MAX, &mut |_| Ok(Existing::Refuse))?);
        txn.commit().map(drop)
    };
    stopped_anywhere(&before, &clone);
}

/// Runs an operation once, and then once for each write at which the device stops.
pub(crate) fn stopped_anywhere(
    before: &[u8],
    operation: &dyn Fn(&FaultDevice<MemDevice>) -> cowfs_format::error::Result<()>,
) {
    let whole = FaultDevice::stopping_at(MemDevice::new(before.to_vec()), u64::MAX);
    operation(&whole).unwrap();
    let writes = whole.writes();
    let after = Image::of(&whole.into_base().snapshot());
    after.is_sound("after");
    let trees = [Image::of(before).manifest(), after.manifest()];
    assert_ne!(trees[0], trees[1]);
    let mut seen = BTreeSet::new();
    for stop in 0..writes {
        let device = FaultDevice::stopping_at(MemDevice::new(before.to_vec()), stop);
        operation(&device).unwrap_err();
        let mut volume = Volume::open(MemDevice::new(device.into_base().snapshot())).unwrap();
        let through = cowfs_tests::manifest::of(volume.view());
        let which = trees.iter().position(|tree| *tree == through);
        seen.insert(which.unwrap_or_else(|| panic!("write {stop}: neither before nor after")));
        volume.recover().unwrap();
        if stop % 5 == 0 {
            Image::of(&volume.device().snapshot()).is_sound(&format!("write {stop}"));
        }
    }
    assert_eq!(seen.len(), 2, "{writes} writes");
}
