//! Hashes of names.
//!
//! The format does not say whether a byte of a name is signed, and writers differ for bytes from
//! `0x80` on: Linux up to 6.1 on x86 and ocfs2-tools take them as signed, Linux from 6.2 on as
//! unsigned. Names of ASCII only have one hash; others have two, and volumes hold both.

/// How a byte of a name is widened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashKind {
    /// Bytes from `0x80` on are negative: Linux up to 6.1 on x86, ocfs2-tools.
    Signed,
    /// All bytes are positive: Linux from 6.2 on.
    Unsigned,
}

impl HashKind {
    const fn widen(self, byte: u8) -> u32 {
        match self {
            Self::Unsigned => u32::from_le_bytes([byte, 0, 0, 0]),
            Self::Signed => {
                let sign = if byte >= 0x80 { 0xFF } else { 0 };
                u32::from_le_bytes([byte, sign, sign, sign])
            }
        }
    }
}

/// Hash of a directory entry's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DxHash {
    /// Key of the index tree.
    pub major: u32,
    /// Its low bits choose the leaf inside a cluster.
    pub minor: u32,
}

/// Whether the two hash kinds differ for a name.
#[must_use]
pub fn hash_is_split(name: &[u8]) -> bool {
    !name.is_ascii()
}

/// Hash of a name in a directory index: TEA over 16 bytes at a time, seeded by the volume.
#[must_use]
pub fn dx_hash(name: &[u8], seed: [u32; 4], kind: HashKind) -> DxHash {
    let [hash] = hash_lanes([name], seed, kind);
    hash
}

/// Hashes of many names, in their order. They are computed side by side: a round of TEA waits for the one before
/// it, but not for those of other names.
#[must_use]
pub fn dx_hashes(names: &[&[u8]], seed: [u32; 4], kind: HashKind) -> Vec<DxHash> {
    /// So many that the compiler leaves the loops over them to the vector unit.
    const LANES: usize = 32;
    let mut hashes = Vec::with_capacity(names.len());
    for some in names.chunks(LANES) {
        let lanes: [&[u8]; LANES] =
            std::array::from_fn(|lane| some.get(lane).copied().unwrap_or_default());
        let hashed = hash_lanes(lanes, seed, kind);
        hashes.extend(hashed.iter().take(some.len()));
    }
    hashes
}

fn hash_lanes<const N: usize>(names: [&[u8]; N], seed: [u32; 4], kind: HashKind) -> [DxHash; N] {
    let [major, minor, ..] = seed;
    let (mut major, mut minor) = ([major; N], [minor; N]);
    let mut rests = names;
    while rests.iter().any(|rest| !rest.is_empty()) {
        let mut keys = [[0; N]; 4];
        for (lane, rest) in rests.iter().enumerate() {
            for (word, of_all) in key(rest, kind).into_iter().zip(&mut keys) {
                of_all[lane] = word;
            }
        }
        let (x, y) = tea(major, minor, keys);
        for (lane, rest) in rests.iter_mut().enumerate() {
            if !rest.is_empty() {
                major[lane] = major[lane].wrapping_add(x[lane]);
                minor[lane] = minor[lane].wrapping_add(y[lane]);
            }
            *rest = rest.get(16..).unwrap_or_default();
        }
    }
    let dots = names.map(|name| name == b"." || name == b"..");
    std::array::from_fn(|lane| match dots[lane] {
        true => DxHash::default(),
        false => DxHash {
            major: major[lane],
            minor: minor[lane],
        },
    })
}

/// The key of a round: the first 16 bytes of what is left of a name, padded with its length.
fn key(rest: &[u8], kind: HashKind) -> [u32; 4] {
    let pad = u32::from_le_bytes([rest.len().to_le_bytes()[0]; 4]);
    let mut key = [pad; 4];
    for (word, bytes) in key.iter_mut().zip(rest.chunks(4)) {
        *word = match <[u8; 4]>::try_from(bytes) {
            Ok(full) if kind == HashKind::Unsigned || full.is_ascii() => u32::from_be_bytes(full),
            _ => bytes
                .iter()
                .fold(pad, |w, &b| (w << 8).wrapping_add(kind.widen(b))),
        };
    }
    key
}

/// Sixteen rounds of the Tiny Encryption Algorithm, in each lane.
fn tea<const N: usize>(
    mut x: [u32; N],
    mut y: [u32; N],
    keys: [[u32; N]; 4],
) -> ([u32; N], [u32; N]) {
    let mut sum = 0u32;
    let half = |v: u32, low: u32, high: u32, sum: u32| {
        (v << 4).wrapping_add(low) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(high)
    };
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        for i in 0..N {
            x[i] = x[i].wrapping_add(half(y[i], keys[0][i], keys[1][i], sum));
        }
        for i in 0..N {
            y[i] = y[i].wrapping_add(half(x[i], keys[2][i], keys[3][i], sum));
        }
    }
    (x, y)
}

/// Hash of an attribute's name without its prefix.
#[must_use]
pub fn xattr_hash(suffix: &[u8], uuid_hash: u32, kind: HashKind) -> u32 {
    suffix
        .iter()
        .fold(uuid_hash, |h, &b| (h << 5) ^ (h >> 27) ^ kind.widen(b))
}

/// Hash of a volume's UUID.
#[must_use]
pub fn uuid_hash(uuid: &[u8; 16]) -> u32 {
    xattr_hash(uuid, 0, HashKind::Unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u32; 4] = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444];

    #[test]
    fn directory_vectors() {
        let long = [b'x'; 255];
        let vectors: &[(&[u8], u32, u32)] = &[
            (b"a", 0x1495_f16a, 0x7c18_b786),
            (b"ab", 0x2bd7_f483, 0xfb43_d137),
            (b"abc", 0xe87e_ac01, 0x9ddb_3ef2),
            (b"abcd", 0x6efc_cb43, 0x844e_5b6c),
            (b"file1", 0xcacc_53d8, 0xca50_143e),
            (b"lost+found", 0x5e05_eba5, 0x5109_23e3),
            (b"0123456789abcdef", 0xa59a_b06e, 0x633a_4e9e),
            (b"0123456789abcdefg", 0x0dc1_33db, 0x883c_5175),
            (b"\xC3\xA9", 0x35d2_9623, 0xd00c_5222),
            (&long, 0x1837_ace8, 0x32c6_7a44),
        ];
        for &(name, major, minor) in vectors {
            assert_eq!(
                dx_hash(name, SEED, HashKind::Signed),
                DxHash { major, minor }
            );
        }
        assert_eq!(dx_hash(b"..", SEED, HashKind::Signed), DxHash::default());
        // Names of different lengths side by side, and some that are left.
        let names: Vec<&[u8]> = vectors.iter().map(|vector| vector.0).collect();
        let expected = vectors
            .iter()
            .map(|&(_, major, minor)| DxHash { major, minor });
        let hashes = dx_hashes(&names, SEED, HashKind::Signed);
        assert_eq!(hashes, expected.collect::<Vec<_>>());
        let dots = dx_hashes(&[b".".as_slice(); 8], SEED, HashKind::Signed);
        assert_eq!(dots, [DxHash::default(); 8]);
    }

    #[test]
    fn xattr_vectors() {
        let uuid = 0x7210_819E_252F_4CBD_B10C_00D0_4B14_149E_u128.to_be_bytes();
        let seed = uuid_hash(&uuid);
        assert_eq!(seed, 0xFF13_7F9E);
        for (name, hash) in [
            (&b""[..], 0xff13_7f9e),
            (b"a", 0xe26f_f3be),
            (b"attr00000", 0x88eb_7b6f),
            (b"\xC3\xA9", 0x4dfe_7c2a),
        ] {
            assert_eq!(xattr_hash(name, seed, HashKind::Signed), hash);
        }
    }

    #[test]
    fn only_names_with_high_bytes_have_two_hashes() {
        for name in [&b"plain"[..], b"\x7f"] {
            assert!(!hash_is_split(name));
            assert_eq!(
                dx_hash(name, SEED, HashKind::Signed),
                dx_hash(name, SEED, HashKind::Unsigned)
            );
        }
        let name = "caf\u{e9}".as_bytes();
        assert!(hash_is_split(name));
        assert_ne!(
            dx_hash(name, SEED, HashKind::Signed),
            dx_hash(name, SEED, HashKind::Unsigned)
        );
    }
}
