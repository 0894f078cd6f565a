//! Manifests against the driver's own listings, and comparisons against what was changed.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cowfs_format::device::{MemDevice, MmapDevice};
use cowfs_format::layout::FileType;
use cowfs_format::ops::compare::{Change, Counts, Side, Verdict, compare};
use cowfs_format::ops::manifest::sum::Sum;
use cowfs_format::ops::manifest::{Entry, Fields, Value, kind_name, order, text};
use cowfs_format::units::Geometry;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::extents::FileExtents;
use cowfs_tests::manifest::{self, ALL, Manifest};
use cowfs_tests::session::{NOW, Session, pattern};
use cowfs_tests::{golden, walk};

fn open(image: &Path) -> Volume<MmapDevice> {
    let file = std::fs::File::open(image).unwrap();
    Volume::open(MmapDevice::new(&file).unwrap()).unwrap()
}

/// A path of the driver's listing as manifests have it.
fn path(recorded: &[u8]) -> Vec<u8> {
    match recorded {
        b"." => Vec::new(),
        path => path.strip_prefix(b"./").unwrap_or(path).to_vec(),
    }
}

/// What `find`, `stat`, `sha256sum` and `getfattr` said of a path in the guest, as an entry.
fn told(seen: &walk::Entry) -> Entry {
    let kind = match seen.kind {
        'f' => FileType::Regular,
        'd' => FileType::Directory,
        'l' => FileType::Symlink,
        'c' => FileType::CharDevice,
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        's' => FileType::Socket,
        other => panic!("find's type {other}"),
    };
    let mut entry = Entry::empty(path(&seen.path));
    entry.kind = Some(kind);
    entry.mode = u16::try_from(seen.mode).unwrap();
    (entry.uid, entry.gid) = (seen.uid, seen.gid);
    let (seconds, nanoseconds) = seen.mtime.split_once('.').unwrap();
    entry.mtime = Some((seconds.parse().unwrap(), nanoseconds.parse().unwrap()));
    if kind != FileType::Directory {
        entry.links = u32::try_from(seen.links).unwrap();
    }
    // The listing has no attributes; the recipe of the images says `chattr +d` of these.
    if entry.path.ends_with(b"/nodump") {
        entry.attr = 0x40;
    }
    let payload = || String::from_utf8(seen.payload.clone()).unwrap();
    match kind {
        FileType::Regular => {
            entry.size = Some(seen.size);
            entry.sum = Some(Sum::Whole(text::parse_sum(&payload()).unwrap()));
        }
        FileType::Symlink => entry.target = Some(seen.payload.clone()),
        FileType::CharDevice | FileType::BlockDevice => {
            let payload = payload();
            let (major, minor) = payload.split_once(':').unwrap();
            entry.device = Some((major.parse().unwrap(), minor.parse().unwrap()));
        }
        _ => {}
    }
    entry
}

/// Attributes as the listing has them: short values whole, the others by sum and length.
fn attributes(entry: &Entry) -> BTreeMap<Vec<u8>, walk::Value> {
    let all = entry.xattrs.iter().map(|xattr| {
        let value = match &xattr.value {
            Value::Short(bytes) => walk::Value::Short(bytes.clone()),
            Value::Long(sum, len) => {
                walk::Value::Long(text::hex(sum), usize::try_from(*len).unwrap())
            }
        };
        (xattr.name.clone(), value)
    });
    all.collect()
}

#[test]
fn manifests_say_what_the_driver_says() {
    let (mut names, mut linked, mut shared, mut sums) = (0, 0, 0, 0);
    for image in golden::all().unwrap() {
        let Some(seen) = image.seen().unwrap() else {
            continue;
        };
        let file = image.open().unwrap();
        let volume = open(file.path());
        let entries = manifest::gathered(volume.view(), ALL, 3);
        assert_eq!(
            entries,
            manifest::of(volume.view()),
            "{}: threads",
            image.name
        );

        let mut walk = seen.walk;
        walk.sort_by(|a, b| order(&path(&a.path), &path(&b.path)));
        assert_eq!(entries.len(), walk.len(), "{}", image.name);
        let mut first: HashMap<u64, Vec<u8>> = HashMap::new();
        for (entry, seen) in entries.iter().zip(&walk) {
            assert_eq!(attributes(entry), seen.xattrs, "{}: {entry:?}", image.name);
            let mut expected = told(seen);
            if expected.links > 1 {
                let first = first.entry(seen.inode).or_insert(expected.path.clone());
                expected.hard_link = (*first != expected.path).then(|| first.clone());
                linked += usize::from(expected.hard_link.is_some());
            }
            sums += usize::from(expected.size > Some(0));
            if image.name == "dirty-journal" && entry.path.is_empty() {
                // The driver reads the root directory before it replays the journal, and shows that.
                assert!(entry.mtime > expected.mtime);
                expected.mtime = entry.mtime;
            }
            expected.xattrs.clone_from(&entry.xattrs);
            expected.shares.clone_from(&entry.shares);
            assert_eq!(*entry, expected, "{}", image.name);
        }
        shared += sharing_is_the_drivers(volume.view().geo(), &entries, &seen.extents);
        names += entries.len();

        // What is written is read back.
        for entry in &entries {
            let mut line = String::new();
            text::write(&mut line, entry);
            let line = line.strip_suffix('\n').unwrap();
            assert_eq!(text::parse(line.as_bytes()).as_ref(), Ok(entry), "{line}");
        }
    }
    assert!(
        names > 4000 && linked > 1000 && sums > 150,
        "{names} {linked} {sums}"
    );
    assert!(shared > 500, "only {shared} shared blocks");
}

/// Holds each block of each file, as `filefrag` told of it, against the manifest: it lies in a
/// range of [`Entry::shares`] if and only if an earlier file has it, which is then the file named.
fn sharing_is_the_drivers(geo: &Geometry, entries: &[Entry], told: &[FileExtents]) -> usize {
    let of: HashMap<&[u8], &FileExtents> = told.iter().map(|f| (f.path.as_slice(), f)).collect();
    let mut owner: HashMap<u64, (&[u8], u64)> = HashMap::new();
    let mut found = 0;
    for entry in entries {
        let Some(extents) = of.get(entry.path.as_slice()) else {
            assert!(entry.shares.is_empty(), "{entry:?}");
            continue;
        };
        let size = entry.size.unwrap();
        let end = geo.clusters_for(size) * geo.blocks_per_cluster();
        let runs = extents.extents.iter();
        let runs = runs.filter(|run| !run.flags.iter().any(|flag| flag == "inline"));
        for (run, i) in runs.flat_map(|run| (0..run.length).map(move |i| (run, i))) {
            let (logical, physical) = (run.logical + i, run.physical + i);
            if logical >= end {
                continue;
            }
            let byte = logical << geo.block_bits();
            let at = match &entry.hard_link {
                // Another name of a file says what the first name says.
                Some(first) => {
                    let first = entries.iter().find(|e| e.path == *first).unwrap();
                    assert_eq!(entry.shares, first.shares);
                    continue;
                }
                None => *owner.entry(physical).or_insert((&entry.path, logical)),
            };
            let share = (entry.shares.iter())
                .find(|share| (share.offset..share.offset + share.len).contains(&byte));
            if at == (entry.path.as_slice(), logical) {
                assert!(share.is_none(), "{entry:?}: block {logical} is its own");
            } else if byte < size {
                let share = share.unwrap_or_else(|| panic!("{entry:?}: block {logical}"));
                let there = share.at + (byte - share.offset);
                assert_eq!((&*share.path, there >> geo.block_bits()), at, "{entry:?}");
                found += 1;
            }
        }
    }
    found
}

/// A volume with something of everything, on blocks and clusters of these sizes.
fn made(block: u32, cluster: u32) -> Volume<MemDevice> {
    let device = MemDevice::new(vec![0; if cluster > 4096 { 256 << 20 } else { 64 << 20 }]);
    let options = mkfs_cowfs::Options {
        block_size: Some(block),
        cluster_size: Some(cluster),
        time: Some(NOW.seconds),
        ..mkfs_cowfs::Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let mut volume = Volume::open(device).unwrap();
    volume.mkdir("dir").unwrap();
    let names: Vec<Vec<u8>> = (0..90).map(|n| format!("name {n}").into_bytes()).collect();
    volume.touch("dir", &names).unwrap();
    volume.write("small", &pattern(300, 1)).unwrap();
    volume.write("large", &pattern(3_000_001, 2)).unwrap();
    volume.reflink("large", "clone").unwrap();
    volume.reflink("small", "dir/copy").unwrap();
    volume
}

/// All differences, as `path: what`.
fn differences(left: Side<'_>, right: Side<'_>) -> (Vec<String>, Counts) {
    let scanner = Scanner::new(Some(2)).unwrap();
    let mut told = Vec::new();
    let counts = compare(&scanner, left, right, ALL, &|_| (), |path, verdict| {
        let what = match verdict {
            Verdict::Removed(kind) => format!("removed {}", kind_name(kind)),
            Verdict::Added(kind) => format!("added {}", kind_name(kind)),
            Verdict::Trouble(why) => format!("trouble {}", why.join("; ")),
            Verdict::Changed(changes) => {
                let keys = changes.iter().map(|Change { key, .. }| key.as_str());
                keys.collect::<Vec<_>>().join(" ")
            }
        };
        told.push(format!("{}: {what}", text::shown_path(path)));
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(counts) = counts;
    (told, counts.unwrap())
}

fn whole(volume: &Volume<MemDevice>) -> Side<'_> {
    let view = volume.view();
    Side::Volume(view, view.info().root)
}

fn kept(manifest: Manifest, fields: Fields) -> Side<'static> {
    Side::Kept(
        fields,
        Box::new(move |each| {
            for entry in manifest {
                if each(Ok(entry)).is_break() {
                    return;
                }
            }
        }),
    )
}

#[test]
fn the_same_tree_has_the_same_manifest_whatever_the_geometry() {
    let small = made(1024, 4096);
    let first = manifest::gathered(small.view(), ALL, 2);
    assert!(
        manifest::to_text(&first).contains(" reflink=./clone:0+3000001\n"),
        "{first:#?}"
    );
    for (block, cluster) in [(4096, 4096), (512, 4096), (4096, 32_768), (2048, 1 << 20)] {
        let other = made(block, cluster);
        let second = manifest::gathered(other.view(), ALL, 1);
        let same = manifest::to_text(&second) == manifest::to_text(&first);
        assert!(same, "{block}/{cluster}");
        let (told, counts) = differences(whole(&small), kept(second, ALL));
        assert_eq!((told, counts.same), (vec![], first.len() as u64));
    }
}

#[test]
fn what_was_changed_is_what_differs() {
    let before = made(4096, 4096);
    let mut after = Volume::open(MemDevice::new(before.device().snapshot())).unwrap();
    after.overwrite("clone", 1_234_567, b"other").unwrap();
    after.overwrite("small", 290, &pattern(100, 3)).unwrap();
    after.touch("dir", &[b"new".to_vec()]).unwrap();
    let expected = [
        // Its middle is its own now; the first name of what is shared is still its own.
        "./clone: contents",
        "./dir/new: added file",
        "./large: reflink",
        "./small: size",
    ];
    let (told, counts) = differences(whole(&before), whole(&after));
    assert_eq!(told, expected);
    assert!(!counts.is_same());
    assert_eq!((counts.added, counts.changed, counts.removed), (1, 3, 0));
    assert_eq!(counts.same, manifest::of(before.view()).len() as u64 - 3);

    // The same against what was kept of either side, and the other way round.
    let (told, _) = differences(kept(manifest::of(before.view()), ALL), whole(&after));
    assert_eq!(told, expected);
    let (told, _) = differences(whole(&before), kept(manifest::of(after.view()), ALL));
    assert_eq!(told, expected);
    let (told, _) = differences(whole(&after), whole(&before));
    assert_eq!(told[1], "./dir/new: removed file");
    for volume in [&before, &after] {
        let (told, counts) = differences(whole(volume), whole(volume));
        assert_eq!((told, counts.trouble), (vec![], 0));
        assert!(counts.is_same());
    }
}

#[test]
fn a_kept_manifest_that_breaks_off_is_an_error() {
    let volume = made(4096, 4096);
    let scanner = Scanner::new(Some(2)).unwrap();
    let entries = manifest::of(volume.view());
    let broken = Side::Kept(
        ALL,
        Box::new(move |each| {
            for entry in entries.into_iter().take(5) {
                let _ = each(Ok(entry));
            }
            let _ = each(Err("line 7: torn".to_owned()));
        }),
    );
    let compared = compare(
        &scanner,
        broken,
        whole(&volume),
        ALL,
        &|_| (),
        |path, verdict| {
            panic!("{path:?}: {verdict:?}");
            #[allow(unreachable_code, reason = "it names the type")]
            Ok::<_, std::convert::Infallible>(())
        },
    );
    let Ok(ended) = compared;
    assert_eq!(ended.unwrap_err(), "line 7: torn");
}

#[test]
fn files_of_more_than_a_gib_have_the_sum_of_their_pieces() {
    use cowfs_format::ops::manifest::sum::{PIECE, WHOLE_MAX, sha256};
    // A sparse file is grown by writing behind its end.
    let mut volume = made(4096, 1 << 20);
    let tail = pattern(100_000, 9);
    volume.write("disk", &pattern(10, 4)).unwrap();
    volume.overwrite("disk", WHOLE_MAX + 5, &tail).unwrap();
    let size = WHOLE_MAX + 5 + tail.len() as u64;
    // By the definition: number and sum of each piece that is not zero.
    let mut pieces = Vec::new();
    let mut add = |number: u64, piece: &[u8]| {
        pieces.extend_from_slice(&number.to_le_bytes());
        pieces.extend_from_slice(&sha256(piece));
    };
    let mut first = vec![0; usize::try_from(PIECE).unwrap()];
    first[..10].copy_from_slice(&pattern(10, 4));
    add(0, &first);
    add(WHOLE_MAX / PIECE, &[&[0; 5][..], &tail].concat());
    let entries = manifest::of(volume.view());
    let disk = entries.iter().find(|entry| entry.path == b"disk").unwrap();
    assert_eq!(disk.size, Some(size));
    assert_eq!(disk.sum, Some(Sum::Pieces(sha256(&pieces))));
}
