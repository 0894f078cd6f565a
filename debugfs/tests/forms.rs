//! The forms in which files are named, roots other than `/`, and ACLs in words.

#![allow(clippy::unwrap_used)]

mod support;

use cowfs_tests::golden;
use support::Shell;

#[test]
fn files_are_named_in_many_ways() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let inode = shell.json("stat /links/a")["inode"].as_u64().unwrap();
    let lock = shell.json("encode /links/a")["locks"][0]["lock"].clone();
    let lock = lock.as_str().unwrap();
    let directory = shell.json("stat /links")["inode"].as_u64().unwrap();
    for spec in [
        format!("<{inode}>"),
        format!("<{inode:#x}>"),
        format!("< {inode} >"),
        format!("<{lock}>"),
        format!("<{directory}>/a"),
        "/links/../links/./a".to_owned(),
        "/../../links/a".to_owned(),
    ] {
        let found = shell.json(&format!("stat \"{spec}\""));
        assert_eq!(found["inode"], inode, "{spec}");
    }
    for spec in [
        "<>",
        "<x>",
        "<5",
        "<0x>",
        "<M1>",
        "<99999999999>",
        "/links/a/b",
    ] {
        assert!(!shell.run(&format!("stat \"{spec}\"")).good, "{spec}");
    }
    // Commands that take blocks take them in the same forms.
    for word in [
        format!("{inode}"),
        format!("<{inode}>"),
        format!("<{lock}>"),
    ] {
        let found = shell.json(&format!("ncheck {word}"));
        assert_eq!(found["inodes"][0]["inode"], inode, "{word}");
    }
}

/// Targets are patched over one that stands in its inode, so that no writer is needed.
#[test]
fn links_on_the_way_are_followed() {
    for (target, names) in [
        ("../devices", "/devices"),
        ("/owners", "/owners"),
        ("./../links//../devices/", "/devices"),
        ("deep/er", "/links/deep/er"),
    ] {
        let image = golden::open("b512-c4k-compat").unwrap();
        set_target(image.path(), target);
        let mut shell = Shell::open(image.path()).unwrap();
        let link = shell.json("stat /links/fast")["inode"].clone();
        let there = shell.json(&format!("stat {names}"))["inode"].clone();
        assert_ne!(link, there, "a link that stands last is not followed");
        assert_eq!(shell.json("stat /links/fast/")["inode"], there, "{target}");
        assert_eq!(shell.json("stat /links/fast/.")["inode"], there, "{target}");
    }
    // A link to itself ends.
    let image = golden::open("b512-c4k-compat").unwrap();
    set_target(image.path(), "fast");
    let said = Shell::open(image.path()).unwrap().run("stat /links/fast/x");
    assert!(said.err.contains("too many symbolic links"), "{}", said.err);
}

/// Gives the fast symlink `/links/fast` another target.
fn set_target(image: &std::path::Path, target: &str) {
    use std::os::unix::fs::FileExt;
    let (inode, block) = {
        let mut shell = Shell::open(image).unwrap();
        let inode = shell.json("stat /links/fast")["inode"].as_u64().unwrap();
        (inode, shell.json("stats")["block_size"].as_u64().unwrap())
    };
    let file = std::fs::File::options().write(true).open(image).unwrap();
    let at = inode * block;
    // i_size, and the body. The image has no checks.
    let size = u64::try_from(target.len()).unwrap();
    file.write_all_at(&size.to_le_bytes(), at + 0x20).unwrap();
    file.write_all_at(target.as_bytes(), at + 0xC0).unwrap();
    file.write_all_at(&[0], at + 0xC0 + size).unwrap();
}

#[test]
fn a_root_can_be_chosen_and_is_not_left() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let root = shell.json("stats")["root_blkno"].as_u64().unwrap();
    let deep = shell.json("stat /links/deep")["inode"].clone();
    shell.text("cd /links/deep");
    assert_eq!(shell.text("pwd"), "/links/deep\n");
    shell.text("chroot /links");
    assert_eq!(shell.json("stat /deep")["inode"], deep);
    assert_eq!(shell.text("pwd"), "/deep\n");
    assert_eq!(shell.json("stat /../../deep")["inode"], deep);
    assert!(!shell.run("stat /links").good);
    assert!(shell.json("stat //slot_map")["inode"].as_u64() > Some(0));
    assert!(!shell.run("chroot /a").good, "a file is no root");
    shell.text("chroot /deep");
    shell.text(&format!("cd <{root}>"));
    assert_eq!(
        shell.text("pwd"),
        format!("<{root}>\n"),
        "outside of the root"
    );
    shell.text(&format!("chroot <{root}>"));
    assert_eq!(shell.text("pwd"), "/\n");
    shell.text("cd //orphan_dir:0000");
    assert_eq!(shell.text("pwd"), "//orphan_dir:0000\n");
}

/// The recipe of the images gave these with setfacl(1): `u:1000:rw,g:100:r,m::rwx` over mode 0644
/// for the file; for the directory `u:1000:rwx` and as default `u:1001:rx,g::rx` over 0755.
#[test]
fn acls_are_told_in_words() {
    for name in [
        "b4k-c4k-max",
        "b2k-c8k-max",
        "b4k-c32k-default",
        "b4k-c1m-max",
    ] {
        let image = golden::open(name).unwrap();
        let mut shell = Shell::open(image.path()).unwrap();
        let file = "user::rw-,user:1000:rw-,group::r--,group:100:r--,mask::rwx,other::r--";
        let access = "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x";
        let default = "user::rwx,user:1001:r-x,group::r-x,mask::r-x,other::r-x";
        for (path, expected) in [
            ("/acls/file", vec![("system.posix_acl_access", file)]),
            (
                "/acls/directory",
                vec![
                    ("system.posix_acl_access", access),
                    ("system.posix_acl_default", default),
                ],
            ),
        ] {
            let said = shell.json(&format!("xattr {path}"));
            let areas = said["areas"].as_array().unwrap().iter();
            let items = areas.flat_map(|area| area["xattrs"].as_array().unwrap());
            let mut found: Vec<(&str, &str)> = items
                .map(|item| {
                    (
                        item["name"].as_str().unwrap(),
                        item["acl"].as_str().unwrap(),
                    )
                })
                .collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{name} {path}");
            let text = shell.text(&format!("xattr {path}"));
            for (attribute, acl) in expected {
                assert!(text.contains(&format!("{attribute} = {acl}\n")), "{text}");
            }
        }
    }
}

#[test]
fn symlinks_are_dumped_as_symlinks() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    for name in ["fast", "shortest-slow"] {
        let to = dir.path().join(name);
        std::fs::write(&to, "in the way").unwrap();
        shell.text(&format!("dump /links/{name} {}", to.display()));
        let said = shell.run(&format!("cat /links/{name}"));
        let target = std::fs::read_link(&to).unwrap();
        assert_eq!(target.as_os_str().as_encoded_bytes(), said.out, "{name}");
    }
}
