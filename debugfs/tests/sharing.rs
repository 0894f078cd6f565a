//! `du`, `owners` and `delta` against a naive count of who maps each cluster, on the golden volumes,
//! on volumes edited at random, and on what the driver made of a workload of reflinks.
#![allow(clippy::unwrap_used)] // A test may panic.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use cowfs_format::block::View;
use cowfs_format::device::Device;
use cowfs_format::layout::{Dinode, DxRoot, DynFeatures, FileType, InodeFlags, XattrBlock};
use cowfs_format::read::extent::{self, Extent};
use cowfs_format::read::inode::{self, Inode};
use cowfs_format::read::{chain, dir, file::FileReader, xattr};
use cowfs_format::toolkit::open;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_tests::session::{NOW, Session as _, find, pattern, writable};
use cowfs_tests::{Guest, Kernel, golden, need, oracle};
use support::{Shell, bytes};

/// Who maps what: the clusters of each inode that a name leads to, as often as it maps them.
struct Naive {
    /// Path to inode, directories included.
    names: BTreeMap<Vec<u8>, BlockNo>,
    clusters: HashMap<BlockNo, Vec<u64>>,
    links: HashMap<BlockNo, u32>,
    sizes: HashMap<BlockNo, u64>,
    mapped_by: HashMap<u64, Vec<BlockNo>>,
    used: u64,
    cluster_bits: u32,
}

impl Naive {
    fn of(view: View<'_>) -> Self {
        let mut names = BTreeMap::new();
        for (top, blkno) in [
            (&b"/"[..], view.info().root),
            (b"//", view.info().system_dir),
        ] {
            let mut todo = vec![(top.to_vec(), blkno)];
            while let Some((path, blkno)) = todo.pop() {
                names.insert(path.clone(), blkno);
                let here = inode::read(view, blkno).unwrap();
                if here.file_type() != Some(FileType::Directory) {
                    continue;
                }
                dir::for_each_entry(view, &here, &mut |entry| {
                    if entry.name != b"." && entry.name != b".." {
                        let slash = if path.ends_with(b"/") { &b""[..] } else { b"/" };
                        todo.push(([&path[..], slash, entry.name].concat(), entry.inode));
                    }
                    ControlFlow::Continue(())
                })
                .unwrap();
            }
        }
        let mut naive = Self {
            names,
            clusters: HashMap::new(),
            links: HashMap::new(),
            sizes: HashMap::new(),
            mapped_by: HashMap::new(),
            used: 0,
            cluster_bits: view.geo().cluster_bits(),
        };
        let all: BTreeSet<BlockNo> = naive.names.values().copied().collect();
        for blkno in all {
            let here = inode::read(view, blkno).unwrap();
            let held = clusters_of(view, &here);
            for cluster in &held {
                naive.mapped_by.entry(*cluster).or_default().push(blkno);
            }
            let size = if here.flags().contains(InodeFlags::CHAIN) {
                (held.len() as u64) << naive.cluster_bits
            } else {
                here.i_size.get()
            };
            let directory = here.file_type() == Some(FileType::Directory);
            let names = naive.names.values().filter(|at| **at == blkno).count();
            let links = u32::try_from(names).unwrap();
            // Who counts the names must come to the same, or the volume is damaged.
            assert!(directory || here.links() == links || here.links() == 0 && links == 1);
            naive.links.insert(blkno, links);
            naive.sizes.insert(blkno, size);
            naive.clusters.insert(blkno, held);
        }
        let bitmap = system::find(view, SystemFile::GlobalBitmap).unwrap();
        let bitmap = inode::read(view, bitmap).unwrap();
        for step in chain::groups(view, &bitmap).unwrap() {
            naive.used += u64::from(step.group.unwrap().count_set());
        }
        naive
    }

    /// (apparent, allocated, exclusive, shared) of what is at a path and below, in bytes.
    fn usage(&self, path: &[u8]) -> [u64; 4] {
        let below = |name: &[u8]| {
            name == path
                || name.starts_with(path)
                    && (path.ends_with(b"/") || name.get(path.len()) == Some(&b'/'))
                    && (path != b"/" || !name.starts_with(b"//"))
        };
        let mut names: HashMap<BlockNo, u32> = HashMap::new();
        for (_, blkno) in self.names.iter().filter(|(name, _)| below(name)) {
            *names.entry(*blkno).or_default() += 1;
        }
        let gone = |blkno: &BlockNo| names.get(blkno) == Some(&self.links[blkno]);
        let mut reached = BTreeSet::new();
        let (mut apparent, mut allocated) = (0, 0);
        for blkno in names.keys() {
            apparent += self.sizes[blkno];
            allocated += self.clusters[blkno].len() as u64;
            reached.extend(&self.clusters[blkno]);
        }
        let exclusive = (reached.iter())
            .filter(|cluster| self.mapped_by[cluster].iter().all(gone))
            .count() as u64;
        let shared = reached.len() as u64 - exclusive;
        let clusters = [allocated, exclusive, shared].map(|count| count << self.cluster_bits);
        [apparent, clusters[0], clusters[1], clusters[2]]
    }
}

fn clusters_of(view: View<'_>, inode: &Inode<'_>) -> Vec<u64> {
    let per_cluster = view.geo().blocks_per_cluster();
    let mut found = Vec::new();
    let mut add = |extents: Vec<Extent>| {
        for extent in extents {
            let first = extent.blkno.0 / per_cluster;
            found.extend(first..first + u64::from(extent.clusters));
        }
    };
    add(inode.extents(view).unwrap());
    if inode.dyn_features().contains(DynFeatures::INDEXED_DIR) {
        let root = view
            .block::<DxRoot>(BlockNo(inode.i_dx_root.get()))
            .unwrap();
        if !root.is_inline() {
            add(extent::extents(view, root.blkno(), root.body()).unwrap());
        }
    }
    if inode.i_xattr_loc.get() != 0 {
        let at = BlockNo(inode.i_xattr_loc.get());
        let block = view.block::<XattrBlock>(at).unwrap();
        if xattr::is_indexed(&block) {
            add(extent::extents(view, at, xattr::tree_list(&block)).unwrap());
        }
    }
    xattr::for_each_area(view, inode, &mut |area| {
        let (place, area) = area.unwrap();
        for entry in xattr::entries(area) {
            add(entry.unwrap().extents(view, place.blkno()).unwrap());
        }
        ControlFlow::Continue(())
    });
    let bitmap = system::find(view, SystemFile::GlobalBitmap).unwrap();
    if inode.flags().contains(InodeFlags::CHAIN) && inode.blkno() != bitmap {
        let bits = chain::chains(inode).unwrap().head.cl_bpc.get();
        for step in chain::groups(view, inode).unwrap() {
            let group = step.group.unwrap();
            let blocks = (0..u32::from(group.bg_bits.get()))
                .map(|bit| group.block_of_bit(bit, bits).unwrap().0 / per_cluster);
            let clusters: BTreeSet<u64> = blocks.collect();
            found.extend(clusters);
        }
    }
    found.extend(freed_and_reserved(inode));
    found
}

/// What local windows and truncate logs hold, read by the offsets of the format.
fn freed_and_reserved(inode: &Inode<'_>) -> Vec<u64> {
    let bytes = inode.bytes();
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let mut found = Vec::new();
    if inode.flags().contains(InodeFlags::LOCAL_ALLOC) {
        for bit in 0..u32_at(0xBC) {
            let at = usize::try_from(bit).unwrap();
            if bytes[0xD0 + at / 8] >> (at % 8) & 1 == 0 {
                found.push(u32_at(0xC0) + bit);
            }
        }
    }
    if inode.flags().contains(InodeFlags::DEALLOC) {
        for rec in 0..u16_at(0xC2) {
            let (first, count) = (u32_at(0xC8 + rec * 8), u32_at(0xCC + rec * 8));
            if first != 0 {
                found.extend(first..first + count);
            }
        }
    }
    found
}

/// Compares all that `du -a` says with the naive count.
fn du_is_right(image: &Path, name: &str) {
    let volume = Volume::open(open::read_only(image).unwrap()).unwrap();
    let naive = Naive::of(volume.view());
    drop(volume);
    let mut shell = Shell::open(image).unwrap();
    let said = shell.json("du -a");
    let entries = said["entries"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for entry in entries {
        let path = bytes(entry, "path");
        let shown = ["apparent", "allocated", "exclusive", "shared"]
            .map(|key| entry[format!("{key}_bytes")].as_u64().unwrap());
        let at = String::from_utf8_lossy(&path).into_owned();
        assert_eq!(shown, naive.usage(&path), "{name}: {at}");
        seen.insert(path);
    }
    assert_eq!(seen, naive.names.keys().cloned().collect(), "{name}");
    let used = naive.used << naive.cluster_bits;
    assert_eq!(said["used_bytes"], used, "{name}");
    assert_eq!(said["unaccounted_bytes"], 0, "{name}: {:#}", said["total"]);
    let total = &said["total"];
    let sum = |key: &str| total[key].as_u64().unwrap();
    assert_eq!(sum("exclusive_bytes") + sum("shared_bytes"), used, "{name}");
    // The parts by themselves: each cluster is exclusive to one of the two, shared by both, or fixed.
    let fixed: u64 = (said["fixed"].as_array().unwrap().iter())
        .map(|area| area["bytes"].as_u64().unwrap())
        .sum();
    let [.., root_own, root_shared] = naive.usage(b"/");
    let [.., system_own, system_shared] = naive.usage(b"//");
    assert_eq!(root_shared, system_shared, "{name}");
    assert_eq!(root_own + system_own + root_shared + fixed, used, "{name}");
}

/// Compares what `owners` says of every kind of cluster with the naive count.
fn owners_are_right(image: &Path, name: &str) {
    let volume = Volume::open(open::read_only(image).unwrap()).unwrap();
    let naive = Naive::of(volume.view());
    let per_cluster = volume.view().geo().blocks_per_cluster();
    drop(volume);
    // The most shared ones, and some of the others.
    let mut clusters: Vec<u64> = naive.mapped_by.keys().copied().collect();
    clusters.sort_by_key(|cluster| (std::cmp::Reverse(naive.mapped_by[cluster].len()), *cluster));
    let step = (clusters.len() / 40).max(1);
    let wanted: Vec<u64> = (clusters.iter().take(20))
        .chain(clusters.iter().step_by(step))
        .copied()
        .collect();
    let line: Vec<String> = wanted
        .iter()
        .map(|c| (c * per_cluster).to_string())
        .collect();
    let mut shell = Shell::open(image).unwrap();
    let said = shell.json(&format!("owners {}", line.join(" ")));
    for (cluster, block) in wanted.iter().zip(said["blocks"].as_array().unwrap()) {
        let place = format!("{name}: cluster {cluster}: {block:#}");
        let allocator = block["allocator"]["inode"].as_u64();
        let mut shown: Vec<u64> = (block["owners"].as_array().unwrap().iter())
            .filter(|owner| {
                let what = owner["use"].as_str().unwrap();
                // Single blocks are those of the allocator that is told apart.
                allocator.is_none() || ["data", "xattr value"].contains(&what)
            })
            .map(|owner| owner["inode"].as_u64().unwrap())
            .chain(allocator)
            .collect();
        let mut known: Vec<u64> = naive.mapped_by[cluster].iter().map(|at| at.0).collect();
        shown.sort_unstable();
        known.sort_unstable();
        assert_eq!(shown, known, "{place}");
        assert_eq!(block["cluster_in_use"], true, "{place}");
        if known.len() > 1 {
            assert_eq!(block["refcount"]["recorded"], known.len(), "{place}");
            assert_eq!(block["found"], known.len(), "{place}");
        }
        for owner in block["owners"].as_array().unwrap() {
            let path = bytes(owner, "path");
            let inode = owner["inode"].as_u64().unwrap();
            assert_eq!(naive.names[&path].0, inode, "{place}");
        }
    }
}

#[test]
fn golden_volumes_are_accounted_for_to_the_cluster() {
    for golden in golden::all().unwrap() {
        let image = golden.open().unwrap();
        du_is_right(image.path(), &golden.name);
        owners_are_right(image.path(), &golden.name);
    }
}

/// Numbers without an order.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

#[test]
fn random_clones_writes_and_links_are_accounted_for() {
    for (seed, name) in ["b4k-c4k-max", "b1k-c4k-default", "b4k-c32k-default"]
        .into_iter()
        .enumerate()
    {
        let image = golden::open(name).unwrap();
        let mut volume = writable(image.path());
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 + seed as u64);
        let mut dirs = vec![String::new()];
        for n in 0..10 {
            let parent = &dirs[usize::try_from(dice.below(dirs.len() as u64)).unwrap()];
            let made = format!("{parent}/dir-{n}");
            volume.mkdir(&made).unwrap();
            dirs.push(made);
        }
        let mut files: Vec<String> = Vec::new();
        for n in 0..120 {
            let into = &dirs[usize::try_from(dice.below(dirs.len() as u64)).unwrap()];
            let new = format!("{into}/file-{n}");
            let old = (!files.is_empty())
                .then(|| files[usize::try_from(dice.below(files.len() as u64)).unwrap()].clone());
            match (dice.below(10), old) {
                (0..=4, Some(old)) => {
                    volume.reflink(&old, &new).unwrap();
                    files.push(new);
                }
                (5..=7, Some(old)) => {
                    let offset = dice.below(60_000);
                    let len = usize::try_from(1 + dice.below(20_000)).unwrap();
                    volume.overwrite(&old, offset, &pattern(len, n)).unwrap();
                }
                (8, Some(old)) => {
                    link(&mut volume, &old, into, &format!("link-{n}"));
                    files.push(format!("{into}/link-{n}"));
                }
                _ => {
                    let len = usize::try_from(1 + dice.below(80_000)).unwrap();
                    volume.write(&new, &pattern(len, n)).unwrap();
                    files.push(new);
                }
            }
        }
        drop(volume);
        du_is_right(image.path(), name);
        owners_are_right(image.path(), name);
        for pair in files.chunks(2).filter(|pair| pair.len() == 2).take(30) {
            delta_is_right(image.path(), &pair[0], &pair[1]);
        }
    }
}

/// Gives a file another name.
fn link<D: cowfs_format::device::DeviceMut>(
    volume: &mut Volume<D>,
    old: &str,
    into: &str,
    name: &str,
) {
    let (inode, into) = (
        find(volume, old).unwrap(),
        find(volume, if into.is_empty() { "/" } else { into }).unwrap(),
    );
    let mut txn = volume.begin().unwrap();
    txn.add_name(into, name.as_bytes(), inode, FileType::Regular, NOW)
        .unwrap();
    let mut edit = txn.edit::<Dinode>(inode).unwrap();
    let links = edit.links();
    edit.set_links(links + 1);
    txn.commit().unwrap();
}

/// Compares what `delta` says of two files with their bytes.
fn delta_is_right(image: &Path, a: &str, b: &str) {
    let volume = Volume::open(open::read_only(image).unwrap()).unwrap();
    let read = |name: &str| contents(&volume, name);
    let (left, right) = (read(a), read(b));
    let mut shell = Shell::open(image).unwrap();
    for options in ["", "-c"] {
        let said = shell.json(&format!("delta {options} {a} {b}"));
        let mut at = 0;
        for range in said["ranges"].as_array().unwrap() {
            let place = format!("{a} {b}: {range}");
            let offset = usize::try_from(range["offset"].as_u64().unwrap()).unwrap();
            let end = offset + usize::try_from(range["bytes"].as_u64().unwrap()).unwrap();
            assert_eq!(offset, at, "{place}");
            at = end;
            let part = |bytes: &[u8]| -> Vec<u8> {
                bytes
                    .get(offset.min(bytes.len())..end.min(bytes.len()))
                    .unwrap()
                    .to_vec()
            };
            let (left, right) = (part(&left), part(&right));
            let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            match range["relation"].as_str().unwrap() {
                "shared" | "equal" => assert!(left == right, "{place}"),
                "different" => assert!(left != right, "{place}"),
                "hole" => assert!(left == right && zeros(&left), "{place}"),
                "only_a" => assert!(zeros(&right), "{place}"),
                "only_b" => assert!(zeros(&left), "{place}"),
                "apart" => assert_eq!(options, "", "{place}"),
                other => panic!("{other}"),
            }
            let blocks = (&range["block_a"], &range["block_b"]);
            assert_eq!(
                range["relation"] == "shared",
                blocks.0 == blocks.1 && !blocks.0.is_null(),
                "{place}"
            );
        }
        assert_eq!(at, left.len().max(right.len()));
        let totals = said["totals"].as_object().unwrap();
        let sum: u64 = totals.values().map(|value| value.as_u64().unwrap()).sum();
        assert_eq!(sum, at as u64);
    }
}

fn contents<D: Device>(volume: &Volume<D>, name: &str) -> Vec<u8> {
    let inode = inode::read(volume.view(), find(volume, name).unwrap()).unwrap();
    let reader = FileReader::open(volume.view(), &inode).unwrap();
    let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Clones of clones in several directories, cut, written into, linked and removed by the driver.
const WORKLOAD: &str = r#"
    mount_vol
    cd $MNT
    mkdir -p a/b/c d e
    head -c 900000 /dev/urandom >a/first
    head -c 100000 /dev/urandom >d/second
    for n in 1 2 3 4; do cp --reflink=always a/first a/b/clone-$n; cp --reflink=always d/second e/clone-$n; done
    cp --reflink=always a/b/clone-1 a/b/c/deep
    cp --reflink=always a/first d/elsewhere
    for n in 0 3 9 27 81 130 200; do
        dd if=/dev/zero of=a/b/clone-2 bs=4096 seek=$n count=2 conv=notrunc 2>/dev/null
    done
    dd if=/dev/zero of=a/first bs=4096 seek=40 count=30 conv=notrunc 2>/dev/null
    truncate -s 333333 a/b/clone-3
    ln a/b/clone-4 e/link; ln d/second a/second; ln d/second e/second
    rm e/clone-2 a/b/clone-1
    cp --reflink=always a/first open-and-gone
    exec 7<open-and-gone
    rm open-and-gone
    exec 7<&-
    cd /
    umount_vol
"#;

#[test]
fn what_the_driver_shares_is_accounted_for() {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    let args = ["-M", "local", "-b", "1024", "-C", "4096", "-N", "2"];
    oracle::mkfs(&small, 64 << 20, &args).unwrap();
    let large = dir.path().join("large");
    let args = [
        "-M",
        "local",
        "-b",
        "4096",
        "-C",
        "32768",
        "-N",
        "1",
        "--fs-feature-level=max-features",
    ];
    oracle::mkfs(&large, 256 << 20, &args).unwrap();
    let script = format!("DISK=/dev/vda; {WORKLOAD}\nDISK=/dev/vdb; {WORKLOAD}");
    let said = guest.disk(&small).disk(&large).run(&script).unwrap();
    said.expect_success();
    for image in [small, large] {
        let name = image.display().to_string();
        du_is_right(&image, &name);
        owners_are_right(&image, &name);
        delta_is_right(&image, "/a/first", "/a/b/clone-2");
        delta_is_right(&image, "/a/b/clone-3", "/d/elsewhere");
    }
}

/// The map's kinds against `du`, the naive count and the bitmap; and cells against the whole.
#[test]
fn the_map_counts_every_block_once() {
    for golden in golden::all().unwrap() {
        let name = &golden.name;
        let image = golden.open().unwrap();
        let volume = Volume::open(open::read_only(image.path()).unwrap()).unwrap();
        let naive = Naive::of(volume.view());
        let whole = volume.view().geo().bytes();
        drop(volume);
        let mut shell = Shell::open(image.path()).unwrap();
        let said = shell.json("map -n 50");
        let kind = |key: &str| -> u64 {
            let kinds = said["kinds"].as_array().unwrap();
            let kind = kinds.iter().find(|kind| kind["kind"] == key).unwrap();
            kind["bytes"].as_u64().unwrap()
        };
        let used = naive.used << naive.cluster_bits;
        assert_eq!(said["used_bytes"], used, "{name}");
        assert_eq!(kind("free"), whole - used, "{name}");
        assert_eq!(kind("unknown"), 0, "{name}");
        for (key, least, most) in [("shared", 2, 2), ("shared_more", 3, usize::MAX)] {
            let owners = naive.mapped_by.values().map(Vec::len);
            let count = owners.filter(|n| (least..=most).contains(n)).count() as u64;
            assert_eq!(kind(key), count << naive.cluster_bits, "{name}: {key}");
        }
        let fixed: u64 = (shell.json("du")["fixed"].as_array().unwrap().iter())
            .map(|area| area["bytes"].as_u64().unwrap())
            .sum();
        assert!(
            kind("superblocks") + kind("group_descriptors") >= fixed,
            "{name}"
        );
        let cells = said["cells"].as_array().unwrap();
        assert!((1..=50).contains(&cells.len()), "{name}");
        let mut at = 0;
        let mut sums: HashMap<&str, u64> = HashMap::new();
        for cell in cells {
            assert_eq!(cell["offset"], at, "{name}");
            at += cell["bytes"].as_u64().unwrap();
            let kinds = cell["kinds"].as_array().unwrap();
            let mut sum = 0;
            for kind in kinds {
                let bytes = kind["bytes"].as_u64().unwrap();
                *sums.entry(kind["kind"].as_str().unwrap()).or_default() += bytes;
                sum += bytes;
            }
            assert_eq!(cell["bytes"], sum, "{name}");
        }
        assert_eq!(at, whole, "{name}");
        assert!(sums.iter().all(|(key, sum)| kind(key) == *sum), "{name}");
    }
}

#[test]
fn the_drawing_is_well_formed_and_the_text_is_plain() {
    let image = golden::open("b4k-c4k-max").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("map.svg");
    let mut shell = Shell::open(image.path()).unwrap();
    shell.text(&format!("map --svg {}", svg.display()));
    let drawn = std::fs::read_to_string(svg).unwrap();
    let mut open = Vec::new();
    let mut rest = drawn.as_str();
    while let Some((text, tag)) = rest.split_once('<') {
        assert!(!text.contains('>') || open == ["svg", "style"], "{text}");
        assert!(!text.contains('&') || text.contains("&lt;"), "{text}");
        let (tag, behind) = tag.split_once('>').unwrap();
        let name = tag.split_whitespace().next().unwrap();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = behind;
    }
    assert!(open.is_empty() && drawn.matches("<title").count() > 500);
    let text = shell.text("map");
    assert!(
        text.is_ascii() && text.contains("File data of two files"),
        "{text}"
    );
    assert!(!shell.run("map -n 0").good && !shell.run("map -n x").good);
}
