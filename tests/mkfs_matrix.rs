//! `mkfs.cowfs` against `mkfs.ocfs2`, byte for byte, over a matrix of volumes.
//!
//! Each volume is made twice, with the same options, UUID, time and seeds. The images may differ only where a
//! [`DIFFERENCES`] entry says so: a rule turns a block as `mkfs.ocfs2` wrote it into what it should be, and its text says why.
//! After the rules every byte must be the same. Then `fsck.ocfs2` looks at our image.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use clap::Parser;
use cowfs_format::device::FileDevice;
use cowfs_format::ecc;
use cowfs_format::layout::{Dinode, Field, GroupDesc, Kind as FieldKind, SuperBlock};
use cowfs_format::units::BlockNo;
use cowfs_tests::{need, oracle};
use mkfs_cowfs::cli::Args;
use mkfs_cowfs::plan::{Kind, Plan};
use mkfs_cowfs::{DIFFERENCES, Entropy, Options};
use rustix::fs::{SeekFrom, seek};
use zerocopy::FromBytes;

const UUID: &str = "7210819E252F4CBDB10C00D04B14149E";

/// A volume of the matrix: size in bytes, and options for both programs.
type Case = (u64, &'static str);

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

const BLOCKS_512: &[Case] = &[
    (
        7 * M,
        "-b 512 -C 4K -M local -J size=4M --fs-features=nometaecc",
    ),
    (
        64 * M,
        "-b 512 -C 4K -M local -J size=4M --fs-feature-level=max-features",
    ),
    (
        64 * M,
        "-b 512 -C 4K -N 3 -M cluster -J size=4M,block64 --fs-feature-level=max-compat",
    ),
    (
        64 * M,
        "-b 512 -C 8K -N 2 -M local -J size=5M --fs-features=nometaecc,noinline-data",
    ),
    (
        64 * M,
        "-b 512 -C 64K -M local -J size=4M --fs-features=metaecc,noindexed-dirs",
    ),
    (
        200 * M,
        "-b 512 -C 4K -N 2 -M local -J size=64M --fs-features=metaecc",
    ),
    (
        1500 * M,
        "-b 512 -C 4K -N 2 -M local -J size=300M,block64 --fs-feature-level=max-features",
    ),
];

const BLOCKS_1K: &[Case] = &[
    (8 * M, "-M local --fs-features=nometaecc"),
    (
        300 * M,
        "-b 1K -C 4K -N 2 -M cluster --fs-feature-level=max-features",
    ),
    (
        64 * M,
        "-b 1K -C 4K -M local --fs-feature-level=max-features --fs-features=noinline-data",
    ),
    (
        100 * M,
        "-b 1K -C 8K -N 4 -M cluster --fs-feature-level=max-compat -J block64",
    ),
    (
        300 * M,
        "-b 1K -C 64K -M local --fs-features=metaecc,noextended-slotmap",
    ),
    (
        64 * M,
        "-b 1K -C 256K -M local --fs-features=metaecc -J size=8M",
    ),
    (
        200 * M,
        "-b 1K -C 1M -M local -J size=16M --fs-features=nometaecc,nobackup-super",
    ),
    (
        1300 * M,
        "-b 1K -C 4K -N 255 -M local -J size=4M --fs-feature-level=max-features",
    ),
];

const BLOCKS_2K: &[Case] = &[
    (16 * M, "-b 2K -C 4K -M local --fs-features=nometaecc"),
    (600 * M, "-N 4 -M cluster --fs-feature-level=max-features"),
    (
        64 * M,
        "-b 2K -C 8K -N 3 -M local --fs-feature-level=max-features -J size=4M,block64",
    ),
    (
        64 * M,
        "-b 2K -C 16K -N 4 -M local --fs-features=noxattr,metaecc -J size=4M",
    ),
    (
        600 * M,
        "-b 2K -C 32K -N 2 -M local --fs-features=metaecc,nosparse,noinline-data,usrquota",
    ),
    (
        1200 * M,
        "-b 2K -C 128K -M cluster --fs-features=nometaecc,grpquota",
    ),
    (
        600 * M,
        "-b 2K -C 512K -M local --fs-features=metaecc,noindexed-dirs,noinline-data",
    ),
    (
        1030 * M,
        "-b 2K -C 4K -M local -L a-label --fs-feature-level=max-features",
    ),
];

const BLOCKS_4K: &[Case] = &[
    (12 * M, "-b 4K -M local --fs-features=nometaecc"),
    (
        64 * M,
        "-b 4K -C 4K -N 8 -M local -J size=4M --fs-feature-level=max-features",
    ),
    (
        64 * M,
        "-b 4K -C 4K -N 9 -M local -J size=4M --fs-features=metaecc",
    ),
    (
        100 * M,
        "-b 4K -C 4K -M local --fs-feature-level=max-features --fs-features=noinline-data",
    ),
    (
        100 * M,
        "-b 4K -C 8K -M local --fs-features=noinline-data,noindexed-dirs,nometaecc",
    ),
    (
        1100 * M,
        "-b 4K -C 16K -N 2 -M cluster --fs-features=metaecc -J block64",
    ),
    (
        300 * M,
        "-b 4K -C 32K -M local --fs-feature-level=max-compat",
    ),
    (
        2 * G,
        "-b 4K -C 64K -M cluster --fs-features=metaecc,nodiscontig-bg,usrquota",
    ),
    (2 * G, "-T datafiles -M local --fs-features=nometaecc"),
    (2 * G, "-T vmstore -M local --fs-features=metaecc"),
    (3 * G, "-T mail -M cluster --fs-features=metaecc"),
    (G, "-b 4K -C 256K -M local --fs-feature-level=max-features"),
    (
        G,
        "-b 4K -C 512K -M local --fs-feature-level=max-features --fs-features=noinline-data",
    ),
    (2 * G, "-b 4K -C 1M -N 4 -M local --fs-features=metaecc"),
];

const OTHERS: &[Case] = &[
    (
        64 * M,
        "--cluster-stack=o2cb --cluster-name=abcdefghijklmnop -N 2 -J size=4M --fs-features=metaecc",
    ),
    (
        64 * M,
        "--cluster-stack=o2cb --cluster-name=webfarmwebfarm16 --global-heartbeat -N 2 -J size=4M --fs-features=metaecc",
    ),
    (
        64 * M,
        "--cluster-stack=pcmk --cluster-name=abcdefgh_jklmnop -N 2 -J size=4M --fs-features=metaecc",
    ),
    (
        1025 * M + 12345,
        "-b 4K -C 4K -M local --fs-features=metaecc",
    ),
    (
        64 * M,
        "-M local -L volume --no-backup-super --fs-features=metaecc",
    ),
    (17 * G, "-M cluster --fs-features=metaecc -J size=8M"),
];

const LARGE: &[Case] = &[
    (
        1100 * G,
        "-C 64K -M cluster --fs-features=metaecc -J size=8M",
    ),
    (1100 * G, "-M local --fs-features=metaecc -J size=8M"),
    (
        15 * T,
        "-M local -C 1M --fs-feature-level=max-features -J size=16M,block64",
    ),
];

fn run(cases: &[Case]) {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let mut used = BTreeSet::new();
    for (bytes, args) in cases {
        used.extend(compare(dir.path(), *bytes, args));
    }
    eprintln!("rules used: {used:?}");
}

#[test]
fn blocks_of_512() {
    run(BLOCKS_512);
}

#[test]
fn blocks_of_1k() {
    run(BLOCKS_1K);
}

#[test]
fn blocks_of_2k() {
    run(BLOCKS_2K);
}

#[test]
fn blocks_of_4k() {
    run(BLOCKS_4K);
}

#[test]
fn others() {
    run(OTHERS);
}

#[test]
fn large_volumes() {
    run(LARGE);
}

/// Makes a volume with both programs and compares; tells which rules were needed.
fn compare(dir: &Path, bytes: u64, args: &str) -> BTreeSet<&'static str> {
    let start = std::time::Instant::now();
    let [theirs, ours] = ["theirs", "ours"].map(|name| dir.join(name));
    let words: Vec<&str> = args.split(' ').collect();
    oracle::mkfs(&theirs, bytes, &[&["-U", UUID], &words[..]].concat())
        .unwrap_or_else(|error| panic!("{bytes} bytes, {args}: {error:#}"));
    let theirs = File::open(&theirs).unwrap();
    let options = options(&theirs, &words);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&ours)
        .unwrap();
    file.set_len(bytes).unwrap();
    let device = FileDevice::new(file.try_clone().unwrap()).unwrap();
    let plan = mkfs_cowfs::format(&device, &options)
        .unwrap_or_else(|error| panic!("{bytes} bytes, {args}: {error}"));
    let mut differences = Vec::new();
    let mut used = BTreeSet::new();
    let size = plan.geo.block_bytes();
    let owners = owners(&plan);
    for number in blocks_with_data(&[&theirs, &file], size as u64) {
        let [mut a, b] = [&theirs, &file].map(|file| {
            let mut block = vec![0; size];
            let at = number * size as u64;
            let len = usize::try_from(bytes.saturating_sub(at))
                .unwrap_or(size)
                .min(size);
            file.read_exact_at(&mut block[..len], at).unwrap();
            block
        });
        if a == b {
            continue;
        }
        as_it_should_be(&plan, BlockNo(number), &mut a, &b, &mut used);
        if a != b {
            let owner = owners.get(&number).map_or("no file", |name| name);
            differences.push(format!("block {number} of {owner}: {}", describe(&a, &b)));
        }
    }
    let count = differences.len();
    differences.truncate(20);
    assert!(
        differences.is_empty(),
        "{bytes} bytes, {args}: {count} blocks differ (theirs != ours)\n{}",
        differences.join("\n")
    );
    let report = oracle::check(&ours).unwrap();
    let codes: Vec<_> = report
        .codes
        .iter()
        // Wrong about an extent-based system directory of a fresh volume.
        .filter(|code| *code != "DX_TREE_MISSING" || plan.system_dir.tree.extents.is_empty())
        .collect();
    assert!(
        codes.is_empty() && report.finished(),
        "{bytes} bytes, {args}: {}",
        report.transcript
    );
    eprintln!(
        "{:5.1} s: {} MiB, {args}",
        start.elapsed().as_secs_f32(),
        bytes >> 20
    );
    used
}

/// Our options: the arguments, with what `mkfs.ocfs2` drew by lot or clock.
fn options(theirs: &File, words: &[&str]) -> Options {
    let args = [&["mkfs.cowfs", "-U", UUID], words, &["image"]].concat();
    let mut options = Args::try_parse_from(args).unwrap().options().unwrap();
    let block = superblock(theirs);
    let (inode, rest) = Dinode::read_from_prefix(&block).unwrap();
    let (sb, _) = SuperBlock::read_from_prefix(rest).unwrap();
    options.time = Some(inode.i_ctime.get());
    options.entropy = Some(Entropy {
        generation: inode.i_fs_generation.get(),
        dx_seed: [
            sb.s_dx_seed0.get(),
            sb.s_dx_seed1.get(),
            sb.s_dx_seed2.get(),
        ],
    });
    options
}

fn superblock(image: &File) -> [u8; 512] {
    for bits in 9..=12 {
        let mut block = [0; 512];
        image.read_exact_at(&mut block, 2 << bits).unwrap();
        if block.starts_with(b"OCFSV2") {
            return block;
        }
    }
    panic!("mkfs.ocfs2 made no superblock");
}

/// Blocks in which one of the files has data.
fn blocks_with_data(files: &[&File], size: u64) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    for file in files {
        let mut at = 0;
        while let Ok(start) = seek(file, SeekFrom::Data(at)) {
            let end = seek(file, SeekFrom::Hole(start)).unwrap();
            blocks.extend(start / size..end.div_ceil(size));
            at = end;
        }
    }
    blocks
}

/// What each block of a known file belongs to.
fn owners(plan: &Plan) -> BTreeMap<u64, String> {
    let mut owners = BTreeMap::new();
    let trees = plan.files.iter().map(|file| (&file.name[..], &file.tree));
    let dirs = [
        ("root", &plan.root),
        ("system directory", &plan.system_dir),
        ("lost+found", &plan.lost_found),
    ];
    for (name, tree) in trees.chain(dirs.map(|(name, dir)| (name, &dir.tree))) {
        for extent in tree.extents.iter().take(64) {
            let first = plan.geo.first_block(extent.start).0;
            for i in 0..(u64::from(extent.len) * plan.geo.blocks_per_cluster()).min(1 << 16) {
                owners.insert(first + i, format!("{name}'s data, block {i} of an extent"));
            }
        }
    }
    for file in &plan.files {
        owners.insert(
            plan.system_block(file.bit).0,
            format!("{}'s inode", file.name),
        );
    }
    for (name, dir) in dirs {
        owners.insert(dir.place.block.0, format!("{name}'s inode"));
        if let Some(index) = dir.index {
            owners.insert(index.block.0, format!("{name}'s index"));
        }
    }
    owners
}

/// Applies the rules to a block of `mkfs.ocfs2`.
fn as_it_should_be(
    plan: &Plan,
    number: BlockNo,
    a: &mut [u8],
    b: &[u8],
    used: &mut BTreeSet<&'static str>,
) {
    let size = a.len();
    let mut rule = |name: &'static str| {
        assert!(DIFFERENCES.iter().any(|(known, _)| *known == name));
        used.insert(name);
    };
    let inline = plan.root.tree.extents.is_empty();
    let mut check_at = size - 8;
    if a.starts_with(b"INODE01") {
        check_at = 0x80;
        let (inode, _) = Dinode::mut_from_prefix(a).unwrap();
        for time in [&mut inode.i_atime, &mut inode.i_ctime, &mut inode.i_mtime] {
            if (plan.time + 1..plan.time + 120).contains(&time.get()) {
                rule("times");
                *time = plan.time.into();
            }
        }
        if number == plan.lost_found.place.block
            && !inline
            && inode.i_size.get() == size as u64 - 64
        {
            rule("lost+found size");
            inode.i_size = (size as u64).into();
        }
    }
    for file in &plan.files {
        if !matches!(file.kind, Kind::GlobalQuota(_)) {
            continue;
        }
        let last = (file.size >> plan.geo.block_bits()) - 1;
        let (bytes, inodes) = plan.quota_usage();
        if file.tree.block(&plan.geo, last) == Some(number) && a[0x28..0x30] == 1u64.to_le_bytes() {
            rule("quota usage");
            a[0x28..0x30].copy_from_slice(&inodes.to_le_bytes());
            a[0x40..0x48].copy_from_slice(&bytes.to_le_bytes());
        }
        if file.tree.block(&plan.geo, 0) == Some(number) && a[0x20..size - 8] != b[0x20..size - 8] {
            rule("quota garbage");
            a[0x20..size - 8].fill(0);
        }
        let indexed = plan.root.index.is_some();
        if file.tree.block(&plan.geo, 0) == Some(number)
            && indexed
            && a[0x14..0x18] == 2u32.to_le_bytes()
        {
            rule("quota info");
            let blocks = u32::try_from(last + 1).unwrap();
            a[0x14..0x18].copy_from_slice(&blocks.to_le_bytes());
            a[0x1C..0x20].copy_from_slice(&(blocks - 1).to_le_bytes());
        }
    }
    if plan.lost_found.tree.block(&plan.geo, 0) == Some(number) {
        // Behind ".." and its name, up to the trailer if there is one.
        let end = if a[size - 48..].starts_with(b"DIRTRL1") {
            size - 64
        } else {
            size
        };
        if a[0x20..end] != b[0x20..end] {
            rule("lost+found garbage");
            a[0x20..end].fill(0);
        }
        // The padding behind the two names.
        for pad in [0x0D..0x10, 0x1E..0x20] {
            a[pad].fill(0);
        }
    }
    if plan.root.index.is_some() && plan.root.tree.block(&plan.geo, 0) == Some(number) {
        let place = size - 64 + 0x0E..size - 64 + 0x10;
        let stale = u16::from_le_bytes([a[place.start], a[place.start + 1]]);
        // ".", "..", and then also lost+found.
        if usize::from(stale) == size - 64 - 32 {
            rule("root's room");
            a[place].copy_from_slice(&(stale - 24).to_le_bytes());
        }
    }
    let blocks = plan
        .file(Kind::ExtentAlloc)
        .and_then(|file| file.alloc.as_ref());
    for group in blocks.iter().flat_map(|alloc| &alloc.groups) {
        let free = group.block.0 + u64::from(group.used)..group.block.0 + u64::from(group.used) + 8;
        if a.starts_with(b"EXBLK01") && free.contains(&number.0) {
            rule("blocks given back");
            a.fill(0);
            return;
        }
    }
    if plan.ecc() {
        ecc::stamp(a, check_at);
    }
}

/// Where two blocks differ, by field where the type is known.
fn describe(a: &[u8], b: &[u8]) -> String {
    let fields: &[Field] = match a.get(..7) {
        Some(b"INODE01" | b"OCFSV2\0") => Dinode::FIELDS,
        Some(b"GROUP01") => GroupDesc::FIELDS,
        _ => &[],
    };
    let mut parts = Vec::new();
    for field in fields {
        let [x, y] = [a, b].map(|block| block[field.offset..field.offset + field.len].to_vec());
        if x != y && !matches!(field.kind, FieldKind::Nested(_)) {
            parts.push(format!(
                "{} {:?} != {:?}",
                field.name,
                field.number(a),
                field.number(b)
            ));
        }
    }
    let known = fields.last().map_or(0, |field| field.offset + field.len);
    let bytes: Vec<_> = (known..a.len()).filter(|&i| a[i] != b[i]).collect();
    for i in bytes.iter().take(12) {
        parts.push(format!("{i:#x}: {:02x} != {:02x}", a[*i], b[*i]));
    }
    if bytes.len() > 12 {
        parts.push(format!("and {} more bytes", bytes.len() - 12));
    }
    parts.push(format!("(starts {:?})", a[..8].escape_ascii().to_string()));
    parts.join(", ")
}

#[test]
fn the_matrix_is_as_large_as_promised() {
    let all = [BLOCKS_512, BLOCKS_1K, BLOCKS_2K, BLOCKS_4K, OTHERS, LARGE].concat();
    assert!(all.len() >= 40, "{}", all.len());
}
