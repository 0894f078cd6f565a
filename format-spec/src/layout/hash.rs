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
    if name == b"." || name == b".." {
        return DxHash::default();
    }
    let [mut major, mut minor, ..] = seed;
    let mut rest = name;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min(16));
        let pad = u32::from_le_bytes([rest.len().to_le_bytes()[0]; 4]);
        let mut key = [pad; 4];
        for (word, bytes) in key.iter_mut().zip(chunk.chunks(4)) {
            *word = bytes
                .iter()
                .fold(pad, |w, &b| (w << 8).wrapping_add(kind.widen(b)));
        }
        let (x, y) = tea(major, minor, key);
        major = major.wrapping_add(x);
        minor = minor.wrapping_add(y);
        rest = tail;
    }
    DxHash { major, minor }
}

/// Sixteen rounds of the Tiny Encryption Algorithm.
fn tea(mut x: u32, mut y: u32, key: [u32; 4]) -> (u32, u32) {
    let mut sum = 0u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        x = x.wrapping_add(
            (y << 4).wrapping_add(key[0]) ^ y.wrapping_add(sum) ^ (y >> 5).wrapping_add(key[1]),
        );
        y = y.wrapping_add(
            (x << 4).wrapping_add(key[2]) ^ x.wrapping_add(sum) ^ (x >> 5).wrapping_add(key[3]),
        );
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
