//! Hostile volumes: whatever the bytes, the check ends, soon, and says the same each time.

use std::time::{Duration, Instant};

use cowfs_format::block::check_offset_of;
use cowfs_format::device::{Device, MemDevice};
use cowfs_format::layout::{
    DIR_TRAILER_SIGNATURE, Dinode, DirBlockTrailer, DxLeaf, DxRoot, ExtentBlock, Field, GroupDesc,
    RefcountBlock, XattrBlock,
};
use cowfs_format::volume::Volume;
use fsck_cowfs::{Options, check};

use crate::patch::{Patch, base};

const SEEDS: u64 = 400;
const IMAGES: [&str; 8] = [
    "b512-c4k-max",
    "b1k-c4k-default",
    "b2k-c8k-max",
    "b4k-c4k-max",
    "b4k-c32k-default",
    "discontiguous",
    "dirty-journal",
    "orphans",
];

/// A small generator; the same seed gives the same volume for ever (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// The fields of the head of a block, and where they begin.
fn fields(bytes: &[u8]) -> Option<(usize, &'static [Field])> {
    Some(match &bytes[..8] {
        b"INODE01\0" | b"OCFSV2\0\0" => (0, Dinode::FIELDS),
        b"EXBLK01\0" => (0, ExtentBlock::FIELDS),
        b"GROUP01\0" => (0, GroupDesc::FIELDS),
        b"DXDIR01\0" => (0, DxRoot::FIELDS),
        b"DXLEAF1\0" => (0, DxLeaf::FIELDS),
        b"XATTR01\0" => (0, XattrBlock::FIELDS),
        b"REFCNT1\0" => (0, RefcountBlock::FIELDS),
        _ => {
            let at = bytes.len() - 64;
            (bytes[at + 0x10..at + 0x18] == DIR_TRAILER_SIGNATURE)
                .then_some((at, DirBlockTrailer::FIELDS))?
        }
    })
}

/// The blocks of an image that hold metadata.
fn metadata(image: &str, patch: &Patch) -> Vec<u64> {
    let device = base(image);
    let bytes = patch.info.geo.block_bytes();
    (0..patch.info.geo.blocks())
        .filter(|block| {
            device
                .mapped(block * bytes as u64, bytes)
                .is_some_and(|b| fields(b).is_some())
        })
        .collect()
}

/// One random change of one block.
fn mutate(patch: &mut Patch, random: &mut Random, blocks: &[u64]) {
    let block = blocks[random.below(blocks.len())];
    let mut bytes = patch.read(block);
    let mut signature = [0; 8];
    signature.copy_from_slice(&bytes[..8]);
    let check_at = check_offset_of(signature).or(Some(bytes.len() - 8));
    match random.below(6) {
        0 => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        1 => {
            let other = blocks[random.below(blocks.len())];
            bytes = patch.read(other);
        }
        2 => bytes.fill(0),
        3 => {
            // A number of any width in the lists, where most pointers and counts are.
            let at = random.below(bytes.len() / 2) & !1;
            let width = 2 << random.below(3);
            let value = extreme(random, blocks);
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        _ => {
            if let Some((at, fields)) = fields(&bytes) {
                let field = &fields[random.below(fields.len())];
                let value = extreme(random, blocks);
                let value = if field.len < 8 {
                    value & ((1 << (8 * field.len)) - 1)
                } else {
                    value
                };
                field.set_number(&mut bytes[at..], value);
            }
        }
    }
    patch.put(block, &mut bytes, check_at);
}

/// A number that tends to hurt.
fn extreme(random: &mut Random, blocks: &[u64]) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => blocks[random.below(blocks.len())],
        3 => 1 << random.below(64),
        4 => random.next() & 0xFF,
        _ => random.next(),
    }
}

#[test]
fn random_damage_ends_with_findings_and_nothing_else() {
    let began = Instant::now();
    let places: Vec<Vec<u64>> = IMAGES
        .iter()
        .map(|image| metadata(image, &Patch::new(image, true)))
        .collect();
    let (mut opened, mut damaged) = (0, 0);
    for seed in 1..=SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let which = random.below(IMAGES.len());
        let mut patch = Patch::new(IMAGES[which], random.below(4) > 0);
        for _ in 0..=random.below(10) {
            mutate(&mut patch, &mut random, &places[which]);
        }
        let start = Instant::now();
        let Ok(checked) = patch.check(2) else {
            continue;
        };
        opened += 1;
        damaged += u32::from(!checked.is_clean());
        let taken = start.elapsed();
        assert!(
            taken < Duration::from_secs(20),
            "seed {seed} took {taken:?}"
        );
        if seed % 8 == 0 {
            let text = |threads| format!("{:?}", patch.check(threads).unwrap().findings);
            assert_eq!(text(1), text(8), "seed {seed}");
        }
    }
    assert!(
        opened > SEEDS / 2 && damaged > 150,
        "{opened} opened, {damaged} damaged"
    );
    assert!(
        began.elapsed() < Duration::from_secs(300),
        "took {:?}",
        began.elapsed()
    );
}

#[test]
fn truncated_images_are_refused_or_checked() {
    let device = base("orphans");
    let whole = usize::try_from(device.size()).unwrap();
    let bytes = device.mapped(0, whole).unwrap().to_vec();
    for len in [0, 1, 511, 4096, 1 << 20, whole / 2, whole - 1] {
        let cut = MemDevice::new(bytes[..len].to_vec());
        assert!(Volume::open(&cut).is_err(), "{len} bytes");
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([7; 3000]).collect();
    let volume = Volume::open(MemDevice::new(longer)).unwrap();
    assert!(check(&volume, &Options::default()).unwrap().is_clean());
}
