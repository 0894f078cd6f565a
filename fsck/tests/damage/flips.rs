//! Damage of more bits than the ECC corrects: what is put right, and that nothing else is.

use std::collections::BTreeMap;

use cowfs_format::block::{EccState, View, check_offset_of};
use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::ecc;
use cowfs_format::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, DxLeaf, DxRoot, ExtentBlock, GroupDesc, Incompat,
    InodeFlags, RefcountBlock, XATTR_BUCKET, XattrBlock,
};
use cowfs_format::read::{extent, inode, xattr};
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::SystemFile;
use cowfs_tests::golden;
use fsck_cowfs::repair::policy::Mode;
use zerocopy::FromBytes;

use crate::hostile::Random;
use crate::patch::Patch;
use crate::repairs::{device, run};

/// A block under a check, or a bucket of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) kind: &'static str,
    pub(crate) first: u64,
    count: usize,
    check_at: usize,
}

/// The name of a kind of block by its signature; what is no block in use has none.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    Some(match &bytes[..8] {
        b"OCFSV2\0\0" => "superblock",
        b"INODE01\0" => {
            let (inode, _) = Dinode::ref_from_prefix(bytes).unwrap();
            inode.flags().contains(InodeFlags::VALID).then_some(())?;
            "inode"
        }
        b"EXBLK01\0" => "extent block",
        b"GROUP01\0" => "group",
        b"DXDIR01\0" => "index root",
        b"DXLEAF1\0" => "index leaf",
        b"XATTR01\0" => "xattr block",
        b"REFCNT1\0" => "refcount block",
        _ => return None,
    })
}

/// All blocks of an image that its check covers, in order.
pub(crate) fn covered(p: &Patch) -> Vec<Covered> {
    let volume = p.volume();
    let view = volume.view();
    let mut found = Vec::new();
    let mut add = |kind, first, count, check_at| {
        found.push(Covered {
            kind,
            first,
            count,
            check_at,
        });
    };
    for blkno in 2..view.geo().blocks() {
        let bytes = view.raw(BlockNo(blkno)).unwrap();
        let mut signature = [0; 8];
        signature.copy_from_slice(&bytes[..8]);
        let Some((check_at, kind)) = check_offset_of(signature).zip(kind(&bytes)) else {
            let end = bytes.len() - DIR_TRAILER;
            let own = bytes[end + 0x28..end + 0x30] == blkno.to_le_bytes();
            if own && bytes[end + 0x10..end + 0x18] == DIR_TRAILER_SIGNATURE {
                add("directory block", blkno, 1, bytes.len() - 8);
            }
            continue;
        };
        add(kind, blkno, 1, check_at);
    }
    for slot in (0..view.info().max_slots).map(Slot) {
        for file in [
            SystemFile::UserQuota,
            SystemFile::GroupQuota,
            SystemFile::LocalUserQuota(slot),
            SystemFile::LocalGroupQuota(slot),
        ] {
            let Ok(blkno) = cowfs_format::volume::system::find(view, file) else {
                continue;
            };
            let file = inode::read(view, blkno).unwrap();
            let blocks = view.geo().blocks_for(file.i_size.get());
            for extent in file.extents(view).unwrap() {
                for i in 0..u64::from(extent.clusters) * view.geo().blocks_per_cluster() {
                    if u64::from(extent.cpos) * view.geo().blocks_per_cluster() + i < blocks {
                        let check_at = view.geo().block_bytes() - 8;
                        add("quota block", extent.blkno.0 + i, 1, check_at);
                    }
                }
            }
        }
    }
    let per_bucket = XATTR_BUCKET >> view.geo().block_bits();
    let blocks: Vec<u64> = found_of(&found, "xattr block");
    for blkno in blocks {
        let Ok(block) = view.block::<XattrBlock>(BlockNo(blkno)) else {
            continue;
        };
        if !xattr::is_indexed(&block) {
            continue;
        }
        let root = &block.bytes()[0x40..];
        for extent in extent::extents(view, BlockNo(blkno), root).unwrap() {
            let head = view.raw(extent.blkno).unwrap();
            let buckets = u64::from(u16::from_le_bytes([head[6], head[7]]));
            for i in 0..buckets {
                found.push(Covered {
                    kind: "xattr bucket",
                    first: extent.blkno.0 + i * per_bucket as u64,
                    count: per_bucket,
                    check_at: 8,
                });
            }
        }
    }
    // What was freed or belongs to another volume is not looked at.
    found.retain(|block| {
        let bytes = view.run(BlockNo(block.first), block.count).unwrap();
        ecc::is_whole(&bytes, block.check_at) && looked_at(view, block).is_some()
    });
    found
}

pub(crate) fn found_of(found: &[Covered], kind: &str) -> Vec<u64> {
    let of = found.iter().filter(|block| block.kind == kind);
    of.map(|block| block.first).collect()
}

/// The block as the checker sees it, with what its check said; `None` when it is of no use.
fn looked_at(view: View<'_>, block: &Covered) -> Option<(Box<[u8]>, EccState)> {
    macro_rules! typed {
        ($kind:ty) => {{
            let block = view.block::<$kind>(BlockNo(block.first)).ok()?;
            let state = block.ecc();
            Some((block.into_bytes(), state))
        }};
    }
    let first = BlockNo(block.first);
    match block.kind {
        "inode" => typed!(Dinode),
        "extent block" => typed!(ExtentBlock),
        "group" => typed!(GroupDesc),
        "index root" => typed!(DxRoot),
        "index leaf" => typed!(DxLeaf),
        "xattr block" => typed!(XattrBlock),
        "refcount block" => typed!(RefcountBlock),
        "superblock" => Some((view.raw(first).ok()?.into_owned(), EccState::Clean)),
        kind => {
            let (bytes, state) = match kind {
                "directory block" => view.trailed_block(first),
                "xattr bucket" => view.bucket(first),
                _ => view.quota_block(first),
            }
            .ok()?;
            Some((bytes.into_owned(), state?))
        }
    }
}

pub(crate) fn images_with_checks() -> Vec<String> {
    let all = golden::all().unwrap().into_iter().map(|image| image.name);
    all.filter(|name| {
        let patch = Patch::new(name, true);
        // Blocks that wait in a log are seen instead of those in their places.
        patch.info.has(Incompat::META_ECC) && patch.volume().pending().is_empty()
    })
    .collect()
}

/// Flips bits of a block.
fn hurt(p: &Patch, block: &Covered, bits: impl IntoIterator<Item = usize>) {
    let at = p.info.geo.byte_of(BlockNo(block.first));
    let mut bytes = vec![0; block.count * p.info.geo.block_bytes()];
    p.device.read_at(at, &mut bytes).unwrap();
    for bit in bits {
        ecc::flip(&mut bytes, bit);
    }
    p.device.write_at(at, &bytes).unwrap();
}

/// Ways to flip bits of a block of so many bits; the first two are data, the others the check itself.
fn ways(random: &mut Random, bits: usize, check_at: usize) -> [Vec<usize>; 6] {
    let (one, other) = (random.below(bits), random.below(bits));
    let first = random.below(bits - 16);
    let pattern = random.next() | 1 << 15 | 1;
    let run = (0..16).filter(|i| pattern >> i & 1 == 1);
    let check = check_at * 8;
    [
        vec![one, if one == other { one ^ 1 } else { other }],
        run.clone().map(|i| first + i).collect(),
        vec![check + random.below(32)],
        vec![check + random.below(32), random.below(check.max(8))],
        run.clone().map(|i| check + 24 + i).collect(),
        run.map(|i| (check - 9 + i) % bits).collect(),
    ]
}

/// Of every healthy block of every image: damage is seen through, and the block is what it was.
#[test]
fn every_block_is_what_it_was() {
    let mut random = Random(0x1234_5678_9ABC);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for image in images_with_checks() {
        let sound = Patch::new(&image, true);
        // Old logs hold as many blocks as the volume; the sample of each kind is large enough.
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for block in covered(&sound) {
            let count = left.entry(block.kind).or_insert(40);
            if block.kind == "superblock" || *count == 0 {
                continue;
            }
            *count -= 1;
            let (before, _) = looked_at(sound.volume().view(), &block).unwrap();
            let bits = before.len() * 8;
            for bits in ways(&mut random, bits, block.check_at) {
                // What hits nothing but the parity word keeps nobody from reading.
                let parity = (block.check_at + 4) * 8..(block.check_at + 8) * 8;
                let reserved = parity.start + 16..parity.end;
                let unseen = bits.iter().all(|bit| parity.contains(bit))
                    || bits.len() == 2 && bits.iter().any(|bit| reserved.contains(bit));
                if unseen {
                    continue;
                }
                let p = Patch::new(&image, true);
                let volume = p.volume();
                hurt(&p, &block, bits.iter().copied());
                let seen = looked_at(volume.view().mending(), &block);
                let as_before = seen.as_ref().is_some_and(|(after, state)| {
                    *after == before && matches!(state, EccState::Mended { .. })
                });
                if !as_before {
                    let state = seen.map(|(_, state)| state);
                    wrong.push(format!("{image} {block:?} {bits:?}: {state:?}"));
                }
                if looked_at(volume.view(), &block).is_some() {
                    wrong.push(format!("{image} {block:?}: readers take it"));
                }
            }
            *seen.entry(block.kind).or_default() += 1;
        }
    }
    assert!(
        wrong.is_empty(),
        "{}: {}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert_eq!(seen.len(), 10, "{seen:?}");
}

/// The whole run: found, told, repaired to the byte, and silent afterwards.
#[test]
fn flipped_bits_are_put_right() {
    let mut random = Random(0xFEED_5EED);
    for image in ["b4k-c4k-max", "b2k-c8k-max", "b512-c4k-max"] {
        let sound = Patch::new(image, true);
        let mut kinds: BTreeMap<&str, Covered> = BTreeMap::new();
        for block in covered(&sound) {
            let last = kinds.entry(block.kind).or_insert(block);
            if random.below(3) == 0 {
                *last = block;
            }
        }
        for (kind, block) in kinds {
            for (way, bits) in ways(
                &mut random,
                block.count * sound.info.geo.block_bytes() * 8,
                block.check_at,
            )
            .into_iter()
            .enumerate()
            {
                let p = Patch::new(image, true);
                hurt(&p, &block, bits.iter().copied());
                let what = format!("{image} {kind} {} way {way} {bits:?}", block.first);
                let report = run(&device(&p), Mode::Preen).unwrap().report("volume");
                assert_eq!(report.exit, 1, "{what}: {:?}", report.findings);
                let codes: Vec<_> = report.findings.iter().map(|item| item.code).collect();
                let expected = match bits.len() {
                    1 => "X_ECC_OF_CHECK",
                    2 => "X_ECC_TWO_BITS",
                    _ => "X_ECC_BURST",
                };
                assert!(codes.contains(&expected), "{what}: {codes:?}");
                for i in 0..block.count as u64 {
                    let number = block.first + i;
                    assert!(p.read(number) == sound.read(number), "{what}: other bytes");
                }
                assert!(p.check(1).unwrap().codes().is_empty(), "{what}");
            }
        }
    }
}

/// A wrong parity word keeps nobody from reading, but would not help either.
#[test]
fn a_parity_word_of_no_use_is_told() {
    let mut p = Patch::new("b4k-c4k-max", true);
    let inode = p.inode("/holes/only");
    p.raw(inode, 0x84, &[0xFF, 0x3C]);
    let codes = p.check(1).unwrap().codes();
    assert_eq!(codes, ["X_ECC_PARITY"]);
    let report = run(&device(&p), Mode::Preen).unwrap().report("volume");
    assert_eq!(report.exit, 1);
    assert!(p.read(inode) == Patch::new("b4k-c4k-max", true).read(inode));
}

/// Damage of other kinds is not taken for damage that can be put right. The few explanations that
/// chance leaves (one in 2^17) must not survive a look at the contents: `FLIPS_TRIALS` asks for more
/// trials than the suite has time for.
#[test]
fn other_damage_is_not_explained_away() {
    let trials: usize = std::env::var("FLIPS_TRIALS").map_or(6000, |n| n.parse().unwrap());
    let mut random = Random(0xDEAD_BEEF_1234);
    let images = ["b4k-c4k-max", "b2k-c8k-max", "b512-c4k-max", "quota-limits"];
    let images: Vec<(Patch, Vec<Covered>)> = images
        .iter()
        .map(|image| Patch::new(image, true))
        .filter(|p| p.info.has(Incompat::META_ECC))
        .map(|p| {
            let mut blocks = covered(&p);
            blocks.retain(|block| block.kind != "superblock");
            (p, blocks)
        })
        .collect();
    let mut explained: BTreeMap<(&str, usize), (usize, usize)> = BTreeMap::new();
    for _ in 0..trials {
        let (p, blocks) = &images[random.below(images.len())];
        // Kinds of blocks alike, however many blocks of each there are.
        let kinds: std::collections::BTreeSet<_> = blocks.iter().map(|block| block.kind).collect();
        let kind = *kinds.iter().nth(random.below(kinds.len())).unwrap();
        let of: Vec<_> = blocks.iter().filter(|block| block.kind == kind).collect();
        let block = of[random.below(of.len())];
        let mut bytes = vec![0; block.count * p.info.geo.block_bytes()];
        let at = p.info.geo.byte_of(BlockNo(block.first));
        p.device.read_at(at, &mut bytes).unwrap();
        let sound = bytes.clone();
        let len = bytes.len();
        let way = random.below(6);
        match way {
            // Three bits to twenty, anywhere.
            0 => {
                (0..3 + random.below(18)).for_each(|_| ecc::flip(&mut bytes, random.below(len * 8)))
            }
            // Three to eight bytes anywhere.
            1 => (0..3 + random.below(6)).for_each(|_| {
                bytes[random.below(len)] ^= random.next().to_le_bytes()[0];
            }),
            // A run of bytes, of noise or of zeros.
            2 | 3 => {
                let count = 3 + random.below(512 - 3);
                let from = random.below(len - count);
                for byte in &mut bytes[from..from + count] {
                    *byte = if way == 2 {
                        random.next().to_le_bytes()[0]
                    } else {
                        0
                    };
                }
            }
            // Noise behind a head that is as it was.
            4 => bytes[0xC0..]
                .iter_mut()
                .for_each(|byte| *byte = random.next().to_le_bytes()[0]),
            _ => bytes
                .iter_mut()
                .for_each(|byte| *byte = random.next().to_le_bytes()[0]),
        }
        if bytes == sound || ecc::verify(&bytes, block.check_at) != ecc::Verdict::Bad {
            continue;
        }
        let truth = |flips: ecc::Flips| {
            let mut fixed = bytes.clone();
            flips.apply(&mut fixed);
            fixed == sound
        };
        let chance = ecc::explanations(&bytes, block.check_at);
        let count = explained.entry((block.kind, way)).or_default();
        if chance.iter().any(|flips| truth(*flips)) {
            continue;
        }
        count.0 += chance.len();
        if chance.is_empty() {
            continue;
        }
        let hurt = Patch::new(&p.image, true);
        let volume = hurt.volume();
        hurt.device.write_at(at, &bytes).unwrap();
        if looked_at(volume.view().mending(), block).is_none() {
            continue;
        }
        count.1 += 1;
        println!("{kind} {} way {way}: {chance:?}", block.first);
        let codes = hurt.check(1).unwrap().codes();
        assert!(
            !codes.contains(&"X_ECC_TWO_BITS") && !codes.contains(&"X_ECC_BURST"),
            "{block:?} {chance:?}: {codes:?}"
        );
    }
    println!("{trials} trials, chance explanations and those that make sense: {explained:?}");
}
