//! The two promises: every byte in exactly one leaf, and the text determines the bytes.

use proptest::prelude::*;

use super::{BlockKind, Value, dump};
use crate::block::MetaBlock;
use crate::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, DxLeaf, DxRoot, ExtentBlock, GroupDesc,
    RefcountBlock, SUPER_BLOCK_SIGNATURE, XattrBlock,
};

/// Makes the bytes again from the text alone.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        let len: usize = words.next().unwrap().parse().unwrap();
        let kind = words.next().unwrap();
        if kind == "group" {
            continue;
        }
        assert_eq!(offset, bytes.len(), "leaves stand in order: {line}");
        let (_, value) = line.split_once(": ").unwrap();
        let word = value.split(' ').next().unwrap();
        match kind {
            "hex" => bytes.extend(
                (0..len)
                    .map(|i| u8::from_str_radix(word.get(2 * i..2 * i + 2).unwrap(), 16).unwrap()),
            ),
            "fill" => bytes.extend(vec![u8::from_str_radix(word, 16).unwrap(); len]),
            "text" => bytes.extend(unescaped(value, len)),
            _ => {
                let number = match word.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
                    None if word.starts_with('0') => u64::from_str_radix(word, 8).unwrap(),
                    None => word.parse().unwrap(),
                };
                if kind.starts_with("be") {
                    bytes.extend(&number.to_be_bytes()[8 - len..]);
                } else {
                    bytes.extend(&number.to_le_bytes()[..len]);
                }
            }
        }
        assert_eq!(bytes.len(), offset + len, "{line}");
    }
    bytes
}

fn unescaped(quoted: &str, len: usize) -> Vec<u8> {
    let inner = quoted.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
    let mut chars = inner.bytes();
    let mut bytes = Vec::new();
    while let Some(byte) = chars.next() {
        bytes.push(match (byte, byte == b'\\') {
            (_, true) => match chars.next().unwrap() {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'x' => {
                    let digits = [chars.next().unwrap(), chars.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            (byte, false) => byte,
        });
    }
    bytes.resize(len, 0);
    bytes
}

fn check(kind: BlockKind, block: &[u8]) {
    let tree = dump(kind, block);
    let mut at = 0;
    for leaf in tree.leaves() {
        assert_eq!(leaf.offset, at, "{kind:?} {}", leaf.name);
        assert_eq!(leaf.raw, &block[at..at + leaf.raw.len()]);
        assert!(!leaf.raw.is_empty(), "{kind:?} {}", leaf.name);
        at += leaf.raw.len();
    }
    assert_eq!(at, block.len(), "{kind:?}");
    let text = tree.to_string();
    assert_eq!(bytes_of(&text), block, "{kind:?}\n{text}");
}

/// Blocks that look like blocks: mostly zeros and small numbers, with a signature.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => Just(0u8), 2 => 0..8u8, 1 => any::<u8>(), 1 => Just(0xFF)];
    let runs = prop::collection::vec((byte, 1..40usize), 1..600);
    let sizes = prop_oneof![Just(512usize), Just(1024), Just(4096)];
    (runs, sizes).prop_map(|(runs, size)| {
        let mut block: Vec<u8> = runs
            .into_iter()
            .flat_map(|(byte, count)| std::iter::repeat_n(byte, count % 7 * count % 5 + 1))
            .collect();
        block.resize(size, 0);
        block
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_as_any_kind(block in blocks(), noise in prop::collection::vec(any::<u8>(), 4096)) {
        for kind in BlockKind::ALL {
            check(kind, &block);
            check(kind, &noise[..block.len()]);
        }
    }

    #[test]
    fn inodes_of_all_forms(
        block in blocks(), flags in prop::sample::select(vec![1u32, 0x11, 0x41, 0x401, 0x801, 0x21]),
        mode in prop::sample::select(vec![0o100_644u16, 0o040_755, 0o120_777, 0o060_600, 0]),
        features in 0..32u16, xattr in prop_oneof![Just(256u16), any::<u16>()],
        clusters in 0..2u32, size in prop_oneof![0..400u64, any::<u64>()],
    ) {
        let mut block = block;
        block[..8].copy_from_slice(&Dinode::SIGNATURE);
        block[0x12..0x14].copy_from_slice(&xattr.to_le_bytes());
        block[0x14..0x18].copy_from_slice(&clusters.to_le_bytes());
        block[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        block[0x28..0x2a].copy_from_slice(&mode.to_le_bytes());
        block[0x2c..0x30].copy_from_slice(&flags.to_le_bytes());
        block[0x76..0x78].copy_from_slice(&features.to_le_bytes());
        check(BlockKind::Dinode, &block);
    }

    #[test]
    fn cut_blocks(len in 0..600usize) {
        let block = vec![1; len];
        for kind in BlockKind::ALL {
            check(kind, &block);
        }
    }
}

#[test]
fn one_changed_byte_always_shows() {
    // A mode of 010 and one of 8, a text with padding and one with more of it, runs of 15 and 16.
    let mut block = vec![0; 512];
    block[..8].copy_from_slice(&Dinode::SIGNATURE);
    block[0x28] = 8;
    let before = dump(BlockKind::Dinode, &block).to_string();
    for at in 0..block.len() {
        let mut other = block.clone();
        other[at] ^= 0x20;
        assert_ne!(
            dump(BlockKind::Dinode, &other).to_string(),
            before,
            "byte {at}"
        );
    }
}

#[test]
fn kinds_are_recognised() {
    let with = |at: usize, what: &[u8]| {
        let mut block = vec![0; 1024];
        block[at..at + what.len()].copy_from_slice(what);
        BlockKind::detect(&block)
    };
    for (signature, kind) in [
        (SUPER_BLOCK_SIGNATURE, BlockKind::SuperBlock),
        (Dinode::SIGNATURE, BlockKind::Dinode),
        (ExtentBlock::SIGNATURE, BlockKind::ExtentBlock),
        (GroupDesc::SIGNATURE, BlockKind::GroupDesc),
        (DxRoot::SIGNATURE, BlockKind::DxRoot),
        (DxLeaf::SIGNATURE, BlockKind::DxLeaf),
        (XattrBlock::SIGNATURE, BlockKind::XattrBlock),
        (RefcountBlock::SIGNATURE, BlockKind::RefcountBlock),
    ] {
        assert_eq!(with(0, &signature), kind);
    }
    assert_eq!(
        with(1024 - DIR_TRAILER + 16, &DIR_TRAILER_SIGNATURE),
        BlockKind::DirBlock
    );
    assert_eq!(
        with(0, &[0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 4]),
        BlockKind::JournalSuper
    );
    assert_eq!(with(8, b"this is an ocfs2 volume"), BlockKind::OcfsHeader);
    assert_eq!(with(0, b""), BlockKind::Raw);
    for kind in BlockKind::ALL {
        assert_eq!(BlockKind::from_name(kind.name()), Some(kind));
    }
}

#[test]
fn parts_have_their_names() {
    let mut block = vec![0; 512];
    block[..8].copy_from_slice(&Dinode::SIGNATURE);
    block[0x20] = 4;
    block[0x28..0x2a].copy_from_slice(&0o100_644u16.to_le_bytes());
    block[0x76] = 1;
    block[0xc8..0xcc].copy_from_slice(b"text");
    let tree = dump(BlockKind::Dinode, &block);
    let leaf = |name: &str| {
        let leaves = tree.leaves();
        let found = leaves.iter().find(|leaf| leaf.name.to_string() == name);
        (found.unwrap().offset, found.unwrap().value_text())
    };
    assert_eq!(leaf("i_signature"), (0, "\"INODE01\"".to_owned()));
    assert_eq!(leaf("i_mode"), (0x28, "0100644".to_owned()));
    assert_eq!(leaf("id_data"), (0xc8, "74657874".to_owned()));
    let json = serde_json::to_value(&tree).unwrap();
    assert_eq!(json["parts"][0]["name"], "i_signature");
    assert!(matches!(tree.value, Value::Group(_)));
}
