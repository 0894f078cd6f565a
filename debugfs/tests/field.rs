//! `field` and the dump of all bytes that it reads from.
//!
//! What fields say is compared with what the driver and mkfs.ocfs2 recorded of the golden volumes.
//! That the dump leaves no byte out is tried on real blocks of each kind: one byte is changed, and
//! the text must change.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use cowfs_format::device::MemDevice;
use cowfs_format::dump::{BlockKind, dump};
use cowfs_format::layout::XATTR_BUCKET;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::kinds::kind_of;
use cowfs_tests::golden;
use proptest::prelude::*;
use support::{Shell, word};

/// The only field that a path names.
fn one(shell: &mut Shell, spec: &str) -> serde_json::Value {
    let said = shell.json(&format!("field {spec}"));
    let fields = said["blocks"][0]["fields"].as_array().unwrap();
    assert_eq!(fields.len(), 1, "{spec}: {said}");
    fields[0].clone()
}

fn number(shell: &mut Shell, spec: &str) -> u64 {
    one(shell, spec)["number"].as_u64().unwrap()
}

#[test]
fn fields_of_inodes_are_what_the_driver_shows() {
    let mut compared = 0;
    for golden in golden::all().unwrap() {
        let Some(seen) = golden.seen().unwrap() else {
            continue;
        };
        if golden.name == "orphans" || golden.name == "dirty-journal" {
            // The driver recovered these first, and times changed.
            continue;
        }
        let image = golden.open().unwrap();
        let mut shell = Shell::open(image.path()).unwrap();
        for entry in seen.walk.iter().step_by(7) {
            let path = word(&entry.path);
            let path = path
                .strip_suffix('"')
                .map_or_else(|| (path.clone(), ""), |inside| (inside.to_owned(), "\""));
            let mut field =
                |name: &str| number(&mut shell, &format!("{}.{name}{}", path.0, path.1));
            assert_eq!(field("i_blkno"), entry.inode, "{golden:?} {path:?}");
            assert_eq!(field("i_mode") & 0o7777, u64::from(entry.mode), "{path:?}");
            assert_eq!(field("i_uid"), u64::from(entry.uid), "{path:?}");
            if entry.kind == 'f' {
                assert_eq!(field("i_size"), entry.size, "{path:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn parts_of_parts_have_names() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    // The same facts as other commands decode them.
    let stat = shell.json("stat //global_bitmap");
    let chain = &stat["body"]["chains"][0];
    let said = number(&mut shell, "//global_bitmap.cl_recs[0].c_blkno");
    assert_eq!(said, chain["blkno"].as_u64().unwrap());
    let group = said;
    let descriptor = one(&mut shell, &format!("block:{group}.bg_signature"));
    assert_eq!(descriptor["value"], "\"GROUP01\"");
    assert_eq!(descriptor["raw"], "47524f5550303100");
    let bits = shell.json(&format!("field block:{group}.bg_bitmap"));
    let bits = bits["blocks"][0]["fields"].as_array().unwrap();
    let len: u64 = bits.iter().map(|run| run["len"].as_u64().unwrap()).sum();
    assert_eq!(len, number(&mut shell, &format!("block:{group}.bg_size")));

    let stat = shell.json("stat /fragmented/whole");
    let tree = &stat["body"]["tree_blocks"][0];
    let block = tree["blkno"].as_u64().unwrap();
    for (index, record) in tree["list"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let path = format!("block:{block}.l_recs[{index}].e_cpos");
        assert_eq!(number(&mut shell, &path), record["cpos"].as_u64().unwrap());
    }

    let blocks = shell.json("dirblocks /many");
    let block = blocks["blocks"][0]["blkno"].as_u64().unwrap();
    let names = shell.json(&format!("field block:{block}.dirent[*].name"));
    let names = names["blocks"][0]["fields"].as_array().unwrap();
    assert_eq!(names[0]["value"], "\".\"");
    let entries = blocks["blocks"][0]["entries"].as_array().unwrap();
    let third = one(&mut shell, &format!("block:{block}.dirent[2].name"));
    let name = entries[2]["name"].as_str().unwrap();
    assert_eq!(third["value"], format!("{name:?}"));

    let xattrs = shell.json("xattr -v /attributes/inode");
    let first = &xattrs["areas"][0]["xattrs"][0];
    let hash = number(&mut shell, "/attributes/inode.xh_entries[0].xe_name_hash");
    assert_eq!(hash, first["hash"].as_u64().unwrap());
    // The name in the area has no prefix; it is the end of the whole one.
    let name = one(&mut shell, "/attributes/inode.xattr[0].name");
    let name = name["value"].as_str().unwrap().trim_matches('"').to_owned();
    assert!(first["name"].as_str().unwrap().ends_with(&name), "{name}");

    let log = shell.json("stat //journal:0000");
    let start = log["body"]["list"]["records"][0]["blkno"].as_u64().unwrap();
    let magic = one(&mut shell, &format!("block:{start}.h_magic"));
    assert_eq!(magic["raw"], "c03b3998");
    let tree = shell.json("refcount /shared/first");
    let leaf = &tree["leaves"][0];
    let path = format!("block:{}.rl_recs[0].r_clusters", leaf["blkno"]);
    let clusters = &leaf["records"]["records"][0]["clusters"];
    assert_eq!(number(&mut shell, &path), clusters.as_u64().unwrap());
}

#[test]
fn names_of_files_may_have_dots() {
    let image = golden::open("b1k-c4k-default").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    shell.session.close();
    shell.session.writes = true;
    let path = image.path().to_path_buf();
    shell.session.open(path, Default::default()).unwrap();
    shell.text("mkdir /many.i_mode");
    // The file is meant where there is one: here with all its fields.
    let all = shell.json("field /many.i_mode");
    assert!(all["blocks"][0]["fields"].as_array().unwrap().len() > 30);
    let inode = number(&mut shell, "/many.i_mode.i_blkno");
    assert_eq!(inode, all["blocks"][0]["blkno"].as_u64().unwrap());
    assert_ne!(inode, number(&mut shell, "/many.i_blkno"));
    for (wrong, why) in [
        ("/.i_nothing", "has no field i_nothing"),
        ("/absent.i_mode", "no such file"),
        ("block:99999999", "outside of the volume"),
        ("block:x", "no number"),
    ] {
        let said = shell.run(&format!("field {wrong}"));
        assert!(
            !said.good && said.err.contains(why),
            "{wrong}: {}",
            said.err
        );
    }
    let text = shell.text("field /many.i_mode.i_links_count /many.i_mode.i_mode");
    assert!(
        text.contains("le16  ed41              i_mode: 040755\n"),
        "{text}"
    );
}

/// Blocks of golden volumes, some of each kind.
fn blocks() -> BTreeMap<&'static str, Vec<(BlockKind, Vec<u8>)>> {
    let mut found: BTreeMap<&'static str, Vec<(BlockKind, Vec<u8>)>> = BTreeMap::new();
    let mut add = |kind: BlockKind, bytes: &[u8]| {
        let all = found.entry(kind.name()).or_default();
        if all.len() < 40 {
            all.push((kind, bytes.to_vec()));
        }
    };
    for name in [
        "b4k-c4k-max",
        "b2k-c8k-max",
        "b512-c4k-max",
        "b1k-c4k-default",
        "dirty-journal",
    ] {
        let image = golden::open(name).unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        let mut shell = Shell::open(image.path()).unwrap();
        let size = shell.json("stats")["block_size"].as_u64().unwrap();
        let size = usize::try_from(size).unwrap();
        for block in bytes.chunks_exact(size) {
            let kind = BlockKind::detect(block);
            // As a record of a log of any form.
            let same =
                |other: &BlockKind| std::mem::discriminant(other) == std::mem::discriminant(&kind);
            for kind in BlockKind::ALL.iter().filter(|other| same(other)) {
                add(*kind, block);
            }
        }
        // What has no signature is named by its owner.
        let at = |blkno: &serde_json::Value, len: usize| {
            let at = usize::try_from(blkno.as_u64().unwrap()).unwrap() * size;
            &bytes[at..at + len]
        };
        let map = shell.json("stat //slot_map");
        let block = at(&map["body"]["list"]["records"][0]["blkno"], size);
        add(BlockKind::SlotMap, block);
        add(BlockKind::SlotMapExtended, block);
        let volume = Volume::open(MemDevice::new(bytes.clone())).unwrap();
        let cluster = shell.json("stats")["cluster_size"].as_u64().unwrap();
        shell.session.json = true;
        for file in ["aquota.user", "aquota.group:0000", "heartbeat"] {
            let said = shell.run(&format!("extents //{file}"));
            let said: serde_json::Value = serde_json::from_slice(&said.out).unwrap();
            for extent in said["extents"].as_array().into_iter().flatten() {
                let number = |key: &str| extent[key].as_u64().unwrap();
                let blocks = (number("clusters") * cluster / size as u64).min(16);
                for blkno in (0..blocks).map(|i| number("blkno") + i) {
                    let block = at(&blkno.into(), size);
                    add(kind_of(volume.view(), BlockNo(blkno), block), block);
                }
            }
        }
        let said = shell.run("xattr /attributes/buckets");
        let said: serde_json::Value = serde_json::from_slice(&said.out).unwrap();
        let areas = said["areas"].as_array().cloned().unwrap_or_default();
        for area in areas.iter().filter(|area| area["place"] == "bucket") {
            add(BlockKind::XattrBucket, at(&area["blkno"], XATTR_BUCKET));
        }
    }
    found
}

#[test]
fn each_changed_byte_of_each_kind_of_block_shows() {
    let found = blocks();
    for kind in BlockKind::ALL {
        // No golden volume has revoked blocks.
        let made_up = matches!(kind, BlockKind::JournalRevoke(_));
        assert!(
            made_up || found.contains_key(kind.name()),
            "{}",
            kind.name()
        );
    }
    for (name, blocks) in &found {
        let count = blocks.len();
        proptest!(ProptestConfig::with_cases(60), |(
            pick in 0..count, place in any::<prop::sample::Index>(), change in 1..=255u8,
        )| {
            let (kind, block) = &blocks[pick];
            let mut other = block.clone();
            let at = place.index(block.len());
            other[at] ^= change;
            let (before, after) = (dump(*kind, block), dump(*kind, &other));
            prop_assert_ne!(before.to_string(), after.to_string(), "{} byte {}", name, at);
            let json = |tree| serde_json::to_string(tree).unwrap();
            prop_assert_ne!(json(&before), json(&after), "{} byte {}", name, at);
            for tree in [before, after] {
                let sum: usize = tree.leaves().iter().map(|leaf| leaf.raw.len()).sum();
                prop_assert_eq!(sum, block.len());
            }
        });
    }
}
