//! What a caller can ask for, and where everything random comes from.

use cowfs_format::layout::{Features, uuid_hash};

use crate::features;

/// What a volume will mostly hold; decides cluster size, journal size and metadata reserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// Nothing in particular.
    #[default]
    General,
    /// Many small files: larger journals.
    Mail,
    /// Few large files, such as those of databases: larger clusters.
    Datafiles,
    /// Images of virtual machines: larger clusters and a reserve for their metadata.
    Vmstore,
}

/// Who mounts the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mount {
    /// One machine, without a cluster stack.
    #[default]
    Local,
    /// The nodes of a cluster.
    Cluster,
}

/// The cluster stack that is stamped into the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStack {
    /// Four letters: `o2cb`, `pcmk` or `cman`.
    pub stack: [u8; 4],
    /// Name of the cluster, up to 16 bytes.
    pub name: String,
    /// Whether o2cb beats on devices of its own rather than on each volume.
    pub global_heartbeat: bool,
}

/// The numbers of a volume that would otherwise be random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entropy {
    /// Generation of the volume: tells its blocks from those of an earlier formatting.
    pub generation: u32,
    /// Seeds of the hash of names in directory indexes.
    pub dx_seed: [u32; 3],
}

impl Entropy {
    /// The numbers that follow from a UUID and a time, for reproducible images.
    ///
    /// They are the first four outputs (upper halves) of the generator SplitMix64, started with
    /// the exclusive or of the two big-endian halves of the UUID and the time.
    #[must_use]
    pub fn derived(uuid: [u8; 16], time: u64) -> Self {
        let wide = u128::from_be_bytes(uuid);
        let mut mix = SplitMix(high64(wide) ^ low64(wide) ^ time);
        Self {
            generation: mix.next32(),
            dx_seed: [mix.next32(), mix.next32(), mix.next32()],
        }
    }
}

/// A UUID that follows from a text, for reproducible images without a given UUID: two outputs of
/// SplitMix64 over an FNV-1a hash of the text, marked as a UUID of version 8.
#[must_use]
pub fn derived_uuid(text: &str) -> [u8; 16] {
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let mut mix = SplitMix(hash);
    let wide = u128::from(mix.next64()) << 64 | u128::from(mix.next64());
    marked(wide.to_be_bytes(), 0x80)
}

/// The UUID of a volume with contents of a digest, in place of the UUID that it was filled under.
///
/// Hashes inside the volume begin with a hash of its UUID. It is 32 bits, each byte of the UUID
/// rotated by five more bits than its right neighbour, so the low five bits of the last bytes are
/// free to be chosen such that both UUIDs have the same hash.
#[must_use]
pub fn uuid_of_contents(uuid: [u8; 16], digest: &[u8; 32]) -> [u8; 16] {
    let mut new = uuid;
    for (byte, mixed) in new.iter_mut().zip(digest) {
        *byte ^= mixed;
    }
    let mut new = marked(new, 0x80);
    let mut differ = uuid_hash(&uuid) ^ uuid_hash(&new);
    for byte in new.iter_mut().rev().take(7) {
        *byte ^= differ.to_le_bytes()[0] & 0x1F;
        differ >>= 5;
    }
    new
}

/// Puts version and variant into a UUID.
pub(crate) fn marked(mut uuid: [u8; 16], version: u8) -> [u8; 16] {
    uuid[6] = uuid[6] & 0x0F | version;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

/// A UUID as 32 upper-case hexadecimal digits in groups.
#[must_use]
pub fn show_uuid(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02X}"));
    }
    text
}

/// The generator SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn next32(&mut self) -> u32 {
        cowfs_format::units::low32(self.next64() >> 32)
    }
}

fn high64(wide: u128) -> u64 {
    low64(wide >> 64)
}

fn low64(wide: u128) -> u64 {
    let b = wide.to_le_bytes();
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

/// What to make. `Options::default()` is what the program does without options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Block size in bytes; by the size of the volume when not given.
    pub block_size: Option<u32>,
    /// Cluster size in bytes; by the size of the volume and its use when not given.
    pub cluster_size: Option<u32>,
    /// Label, up to 63 bytes.
    pub label: String,
    /// UUID; random when not given.
    pub uuid: Option<[u8; 16]>,
    /// Who mounts the volume.
    pub mount: Mount,
    /// Number of node slots; by the kind of mount and the size when not given.
    pub slots: Option<u16>,
    /// Bytes of each journal; by the size and use of the volume when not given.
    pub journal_size: Option<u64>,
    /// Whether journals hold 64-bit block numbers; where they must, when not given.
    pub journal64: Option<bool>,
    /// Groups that each slot's extent allocator begins with; by the size and use of the volume when
    /// not given.
    pub extent_groups: Option<u32>,
    /// What the volume will hold.
    pub usage: Usage,
    /// The features, less those that follow from `mount` and `cluster`.
    pub features: Features,
    /// Cluster stack to stamp into the superblock.
    pub cluster: Option<ClusterStack>,
    /// Number of blocks, when the volume is not to take all of the device.
    pub blocks: Option<u64>,
    /// Sector size of the device: no block is smaller.
    pub sector_size: u32,
    /// Time of everything in the volume, seconds since 1970; now when not given.
    pub time: Option<u64>,
    /// Generation and seeds; random when not given.
    pub entropy: Option<Entropy>,
    /// Whether to discard (punch out) what the device held before.
    pub discard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_size: None,
            cluster_size: None,
            label: String::new(),
            uuid: None,
            mount: Mount::Local,
            slots: None,
            journal_size: None,
            journal64: None,
            extent_groups: None,
            usage: Usage::General,
            features: features::DEFAULT,
            cluster: None,
            blocks: None,
            sector_size: 512,
            time: None,
            entropy: None,
            discard: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for the seed 1234567, as published with the generator.
        let mut mix = SplitMix(1_234_567);
        assert_eq!(mix.next64(), 6_457_827_717_110_365_317);
        assert_eq!(mix.next64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_uuid_of_contents_keeps_the_hash() {
        for n in 0..200u8 {
            let uuid = derived_uuid(&n.to_string());
            let digest: [u8; 32] = std::array::from_fn(|i| n.wrapping_mul(37) ^ low8(i * i));
            let new = uuid_of_contents(uuid, &digest);
            assert_eq!(uuid_hash(&new), uuid_hash(&uuid));
            assert_eq!(&show_uuid(&new)[14..15], "8");
            assert_ne!(new, uuid);
            let mut other = digest;
            other[0] ^= 1;
            assert_ne!(new, uuid_of_contents(uuid, &other));
        }
    }

    fn low8(n: usize) -> u8 {
        n.to_le_bytes()[0]
    }

    #[test]
    fn derived_numbers_depend_on_uuid_and_time() {
        let a = Entropy::derived([1; 16], 0);
        assert_eq!(a, Entropy::derived([1; 16], 0));
        assert_ne!(a, Entropy::derived([1; 16], 1));
        assert_ne!(derived_uuid("a"), derived_uuid("b"));
        assert_eq!(&show_uuid(&derived_uuid("a"))[14..15], "8");
    }
}
