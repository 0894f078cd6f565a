//! Fields, inodes and blocks that are written over, and what the superblock says.

use cowfs_format::device::MemDevice;
use cowfs_format::volume::Volume;
use cowfs_tests::{need, oracle};
use tempfile::NamedTempFile;

use crate::support::Shell;
use crate::{demand_sound, manifest, program, theirs, volume};

/// The codes of what our checker finds.
fn codes(image: &NamedTempFile) -> Vec<&'static str> {
    let volume = Volume::open(MemDevice::new(std::fs::read(image).unwrap())).unwrap();
    let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
    checked.codes()
}

fn prepared(block: u32) -> NamedTempFile {
    let image = volume(block, 4096);
    let (code, _, err) = program(
        image.path(),
        &["-w", "-e"],
        "mkdir /d\ntouch /d/f\nfallocate /d/f 0 20000\nsetxattr /d user.a b\n",
    );
    assert_eq!(code, 0, "{err}");
    image
}

/// Any field can be set, its block keeps a right check, and debugfs.ocfs2 sees the value.
#[test]
fn fields_are_set_by_name() {
    need!(oracle::tools());
    let image = prepared(1024);
    let mut shell = Shell::edit(image.path()).unwrap();
    let inode = shell.json("stat /d/f")["inode"].as_u64().unwrap();
    for (line, seen) in [
        ("set /d/f.i_size 0x4e21", "Size: 20001"),
        ("set /d/f.i_mode 0100600", "Mode: 0600"),
        ("set /d/f.i_mtime 1234567890", "mtime: 0x499602d2"),
        ("set /d/f.i_uid 4294967295", "User: -1 "),
        (&format!("set <{inode}>.i_links_count 1"), "Links: 1"),
        (&format!("set block:{inode}.i_generation 77"), "(0x4d)"),
    ] {
        let said = shell.json(line);
        assert_eq!(said["stamped"], true, "{line}");
        assert_eq!(said["state"], "committed", "{line}");
        let stat = theirs(image.path(), "/d/f");
        assert!(stat.contains(seen), "{line}: {stat}");
    }
    shell.text("set /d/f.i_size 20000");
    shell.text("set /d/f.i_generation 0x12345678");
    shell.text("set /d/f.i_uid 0");
    // Flags by name, text, a directory's entry, a group's bitmap.
    let flags = shell.json("field /d/f.i_flags")["blocks"][0]["fields"][0]["number"].clone();
    let said = shell.json("set /d/f.i_flags valid,orphaned");
    assert_ne!(said["old"], said["new"]);
    shell.text("set /d/f.i_flags valid");
    let after = shell.json("field /d/f.i_flags")["blocks"][0]["fields"][0]["number"].clone();
    assert_eq!(flags, after);
    let quoted = shell.text("set <2>.s_label \"a label\"");
    assert!(quoted.contains("\"a label\""), "{quoted}");
    assert!(
        oracle::debugfs(image.path(), "stats")
            .unwrap()
            .contains("Label: a label")
    );
    drop(shell);
    demand_sound(image.path(), "set and set back");

    // What is wrong afterwards is found by name, not as a wrong check.
    let mut shell = Shell::edit(image.path()).unwrap();
    shell.text("set /d/f.i_clusters 99");
    drop(shell);
    let report = oracle::check(image.path()).unwrap();
    assert_eq!(report.codes, ["INODE_SPARSE_CLUSTERS"], "{report:?}");
    assert_eq!(codes(&image), report.codes);
}

#[test]
fn what_is_no_field_or_does_not_fit_is_refused() {
    let image = prepared(4096);
    let before = std::fs::read(image.path()).unwrap();
    let mut shell = Shell::edit(image.path()).unwrap();
    let journal = shell.json("stat //journal:0000")["inode"].as_u64().unwrap();
    let log = shell.json("bmap //journal:0000 5")["blkno"]
        .as_u64()
        .unwrap();
    for (line, why) in [
        ("set /d/f.i_nothing 1", "no field"),
        ("set /d/f 1", "fields; name one"),
        ("set /d/f.i_*time 1", "fields; name one"),
        ("set /absent.i_size 1", "no such file"),
        ("set /d/f.i_mode 0777777777", "does not fit into 2 bytes"),
        ("set /d/f.i_mode 8", "no mode"),
        ("set /d/f.i_uid 4294967296", "does not fit into 4 bytes"),
        ("set /d/f.i_uid x", "no number"),
        ("set /d/f.i_flags valid,odd", "no flag"),
        ("set /d/f.i_signature INODE01xx", "does not fit into 8"),
        ("set <2>.s_uuid 0011", "give 32 digits"),
        ("set <2>.s_uuid xyz", "hexadecimal"),
        (
            "set <2>.s_blocksize_bits 30",
            "could not be opened any more",
        ),
        ("set block:99999999.i_size 1", "outside of the volume"),
        (
            &format!("set <{journal}>.i_size 1"),
            "which every commit writes",
        ),
        (&format!("zap {log}"), "which every commit writes"),
        ("zap 99999999", "outside of the volume"),
        ("zap -o 4096 5", "no part of it"),
        ("zap -o 4000 -l 200 5", "no part of it"),
        ("zap -p xyz 5", "hexadecimal"),
        ("zap -f /d/f 100", "has no block 100"),
        ("clri <1>", "no inode"),
        ("clri /absent", "no such file"),
        (
            "label 123456789012345678901234567890123456789012345678901234567890123456",
            "64 bytes",
        ),
        ("uuid 1234", "no UUID"),
        ("feature nothing", "no feature"),
        ("feature nometaecc", "every block"),
        ("feature metaecc", "every block"),
        ("feature usrquota", "quota files"),
        ("feature local", "when it is made"),
        ("feature ^backup-super", "when the volume is made"),
        ("feature noextended-slotmap", "slot map"),
        ("feature ^discontig-bg", "several extents"),
        ("feature aborted-resize", "not a choice"),
        ("feature noxattr", "uses it"),
        ("feature noinline-data", "uses it"),
        ("feature nounwritten", "uses it"),
        ("feature nosparse", "needs sparse"),
    ] {
        let said = shell.run(line);
        assert!(!said.good, "{line}");
        assert_eq!(said.err.lines().count(), 1, "{line}: {}", said.err);
        assert!(said.err.contains(why), "{line}: {}", said.err);
        assert!(std::fs::read(image.path()).unwrap() == before, "{line}");
    }
    let mut reader = Shell::seen(image.path());
    for line in [
        "label x",
        "uuid random",
        "feature norefcount",
        "set <5>.i_size 1",
        "zap 5",
    ] {
        let said = reader.run(line);
        assert!(
            !said.good && said.err.contains("start with -w"),
            "{line}: {}",
            said.err
        );
    }
}

#[test]
fn inodes_are_cleared_and_blocks_zapped() {
    let image = prepared(4096);
    let mut shell = Shell::edit(image.path()).unwrap();
    let block = shell.json("bmap /d/f 1")["blkno"].as_u64().unwrap();
    let said = shell.json(&format!("zap -o 1 -l 5 -p a1b2 {block}"));
    assert_eq!((&said["len"], &said["stamped"]), (&5.into(), &false.into()));
    let bytes = std::fs::read(image.path()).unwrap();
    let at = usize::try_from(block).unwrap() * 4096;
    assert_eq!(bytes[at..at + 8], [0, 0xa1, 0xb2, 0xa1, 0xb2, 0xa1, 0, 0]);
    // The same block, by the file.
    shell.text("zap -f /d/f -p 77 1");
    let bytes = std::fs::read(image.path()).unwrap();
    assert!(bytes[at..at + 4096].iter().all(|byte| *byte == 0x77));
    assert!(codes(&image).is_empty());

    let inode = shell.json("stat /d/f")["inode"].as_u64().unwrap();
    let at = usize::try_from(inode).unwrap() * 4096;
    // With a right check the number is wrong, without the block.
    shell.text(&format!("zap -k -o 48 -l 4 -p ff {inode}"));
    assert!(shell.run("stat /d/f").good);
    shell.text("begin");
    shell.text(&format!("zap -o 48 -l 4 {inode}"));
    shell.text("abort");
    assert!(shell.run("stat /d/f").good);
    shell.text(&format!("zap -o 48 -l 4 -p 00 {inode}"));
    assert!(!shell.run("stat /d/f").good);
    shell.text("clri /d/f");
    let bytes = std::fs::read(image.path()).unwrap();
    assert!(bytes[at..at + 4096].iter().all(|byte| *byte == 0));
    drop(shell);
    let found = codes(&image);
    assert!(found.contains(&"DIRENT_INODE_FREE"), "{found:?}");
    // Past the journal: what a commit writes itself.
    let mut shell = Shell::edit(image.path()).unwrap();
    let log = shell.json("bmap //journal:0000 7")["blkno"]
        .as_u64()
        .unwrap();
    shell.text(&format!("zap -d -p 55 {log}"));
    let at = usize::try_from(log).unwrap() * 4096;
    let bytes = std::fs::read(image.path()).unwrap();
    assert!(bytes[at..at + 4096].iter().all(|byte| *byte == 0x55));
    shell.text("begin");
    assert!(
        shell
            .run(&format!("zap -d {log}"))
            .err
            .contains("cannot be part of a group")
    );
}

#[test]
fn label_uuid_and_features_change() {
    need!(oracle::tools());
    let image = prepared(4096);
    let before = manifest(image.path());
    let mut shell = Shell::edit(image.path()).unwrap();
    let stats = |word: &str| {
        let said = oracle::debugfs(image.path(), "stats").unwrap();
        assert!(said.contains(word), "{word}: {said}");
    };
    shell.text("label new");
    stats("Label: new");
    assert_eq!(shell.text("label"), "new\n");
    shell.text("uuid 00112233-4455-6677-8899-aabbccddeeff");
    stats("UUID: 00112233445566778899AABBCCDDEEFF");
    shell.text("uuid random");
    assert_ne!(shell.text("uuid"), "00112233445566778899AABBCCDDEEFF\n");
    // Names and attributes are found as before: their hashes did not change.
    assert!(shell.text("xattr /d").contains("user.a"));
    demand_sound(image.path(), "label and UUID");
    assert!(manifest(image.path()) == before);

    // Nothing is shared, no directory has an index.
    for (line, on) in [
        ("feature norefcount", false),
        ("feature ^append-dio ^indexed-dirs", false),
        ("feature refcount append-dio indexed-dirs", true),
    ] {
        let said = shell.json(line);
        let names = said["on"].as_array().unwrap();
        for name in ["refcount", "append-dio", "indexed-dirs"] {
            if line.contains(name) {
                assert_eq!(names.contains(&name.into()), on, "{line}: {said}");
            }
        }
        demand_sound(image.path(), line);
    }
    // What they bring works.
    let mut script = "mkdir /new\nreflink /d/f /new/clone\n".to_owned();
    for i in 0..300 {
        script += &format!("touch /new/{}-{i}\n", "name".repeat(20));
    }
    drop(shell);
    let (code, _, err) = program(
        image.path(),
        &["-w", "-e"],
        &format!("begin\n{script}commit\n"),
    );
    assert_eq!(code, 0, "{err}");
    assert!(theirs(image.path(), "/new").contains("IndexedDir"));
    demand_sound(image.path(), "features in use");
    let mut shell = Shell::edit(image.path()).unwrap();
    for line in ["feature norefcount", "feature noindexed-dirs"] {
        let said = shell.run(line);
        assert!(said.err.contains("uses it"), "{line}: {}", said.err);
    }
    // In a group: seen there, and gone with it.
    shell.text("begin");
    shell.text("label other");
    assert_eq!(shell.text("label"), "other\n");
    shell.text("abort");
    assert_eq!(shell.text("label"), "new\n");
}
