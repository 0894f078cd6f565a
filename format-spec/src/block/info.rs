//! What the superblock says of a volume, once tested.

use zerocopy::FromBytes;

use super::sense::is_reserved_clear;
use crate::ecc::{self, Flips, Verdict};
use crate::error::{Error, Result};
use crate::layout::{
    Dinode, Features, Incompat, OcfsHeader, SUPER_BLOCK_BLKNO, SUPER_BLOCK_BODY,
    SUPER_BLOCK_SIGNATURE, SuperBlock,
};
use crate::units::{BlockNo, Generation, Geometry};

/// Incompat features that this library can read.
const KNOWN_INCOMPAT: Incompat = Incompat::all().difference(Incompat::HEARTBEAT_DEV);

/// What the superblock says of a volume: the parts that readers need, in range.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Block size, cluster size and number of clusters.
    pub geo: Geometry,
    /// Features.
    pub features: Features,
    /// Generation of the volume.
    pub fs_generation: Generation,
    /// Inode of the root directory.
    pub root: BlockNo,
    /// Inode of the system directory.
    pub system_dir: BlockNo,
    /// Descriptor of cluster group 0.
    pub first_cluster_group: BlockNo,
    /// Number of node slots.
    pub max_slots: u16,
    /// UUID.
    pub uuid: [u8; 16],
    /// Label without its padding.
    pub label: Vec<u8>,
    /// Seeds of directory hashes; the last is the hash of the UUID.
    pub dx_seed: [u32; 4],
    /// Bytes reserved for xattrs at the end of a new inode.
    pub xattr_inline_size: u16,
    /// Where this superblock was read.
    pub superblock: BlockNo,
}

impl VolumeInfo {
    /// Reads a superblock from the bytes of block `blkno`; `blkno` is 2, or that of a backup.
    ///
    /// # Errors
    /// The bytes are no superblock, or describe a volume that cannot be.
    pub fn from_superblock(block: &[u8], blkno: BlockNo) -> Result<Self> {
        let none = |why: String| Error::NotAVolume { why };
        let (head, _) = Dinode::ref_from_prefix(block)
            .map_err(|_| none("the superblock is cut off".to_owned()))?;
        let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
        let (sb, _) = SuperBlock::ref_from_prefix(body)
            .map_err(|_| none("the superblock is cut off".to_owned()))?;
        if head.i_signature != SUPER_BLOCK_SIGNATURE {
            return Err(none(format!("block {blkno} has no OCFSV2 signature")));
        }
        let features = Features::from_words(
            sb.s_feature_compat.get(),
            sb.s_feature_incompat.get(),
            sb.s_feature_ro_compat.get(),
        );
        let mut corrected;
        let (mut head, mut sb) = (head, sb);
        if features.has(Incompat::META_ECC) {
            match ecc::verify(block, 0x80) {
                Verdict::Good => {}
                Verdict::OneBit { bit } => {
                    corrected = block.to_vec();
                    ecc::flip(&mut corrected, bit);
                    let again = "the superblock is cut off";
                    (head, _) =
                        Dinode::ref_from_prefix(&corrected).map_err(|_| none(again.to_owned()))?;
                    (sb, _) = SuperBlock::ref_from_prefix(&corrected[SUPER_BLOCK_BODY..])
                        .map_err(|_| none(again.to_owned()))?;
                }
                Verdict::Bad => {
                    return Err(none(format!(
                        "the superblock in block {blkno} fails its checksum; try a backup with -s"
                    )));
                }
            }
        }
        Self::tested(head, sb, blkno)
    }

    /// The superblock that the damaged one in block `blkno` was, where more than one flipped bit is to be
    /// put right and there is only one way to do that; for checkers.
    #[must_use]
    pub fn mended(block: &[u8], blkno: BlockNo) -> Option<(Self, Flips)> {
        let mut found = None;
        for flips in ecc::explanations(block, 0x80) {
            let mut fixed = block.to_vec();
            flips.apply(&mut fixed);
            let body = fixed.get(SUPER_BLOCK_BODY..)?;
            let (head, _) = Dinode::ref_from_prefix(&fixed).ok()?;
            let (sb, _) = SuperBlock::ref_from_prefix(body).ok()?;
            let sensible = head.i_signature == SUPER_BLOCK_SIGNATURE
                && is_reserved_clear(SuperBlock::FIELDS, body);
            let info = Self::tested(head, sb, blkno).ok().filter(|info| {
                sensible && info.has(Incompat::META_ECC) && info.geo.block_bytes() == block.len()
            });
            if let Some(info) = info
                && found.replace((info, flips)).is_some()
            {
                return None;
            }
        }
        found
    }

    fn tested(head: &Dinode, sb: &SuperBlock, blkno: BlockNo) -> Result<Self> {
        let bad = |what: String| Error::NotAVolume {
            why: format!("superblock: {what}"),
        };
        let features = Features::from_words(
            sb.s_feature_compat.get(),
            sb.s_feature_incompat.get(),
            sb.s_feature_ro_compat.get(),
        );
        if (sb.s_major_rev_level.get(), sb.s_minor_rev_level.get()) != (0, 90) {
            let (major, minor) = (sb.s_major_rev_level.get(), sb.s_minor_rev_level.get());
            return Err(Error::Unsupported {
                what: format!("revision {major}.{minor}, not 0.90"),
            });
        }
        let unknown = features.incompat.difference(KNOWN_INCOMPAT);
        if !unknown.is_empty() {
            let what = format!("incompat feature bits {:#x}", unknown.bits());
            return Err(Error::Unsupported { what });
        }
        let (bits, cbits) = (sb.s_blocksize_bits.get(), sb.s_clustersize_bits.get());
        let geo = Geometry::new(bits, cbits, head.i_clusters.get()).ok_or_else(|| {
            bad(format!(
                "block size 2^{bits} and cluster size 2^{cbits} are not possible"
            ))
        })?;
        if head.i_blkno.get() != blkno.0 {
            return Err(bad(format!(
                "says that it is block {}, not {blkno}",
                head.i_blkno
            )));
        }
        let (root, system_dir) = (sb.s_root_blkno.get(), sb.s_system_dir_blkno.get());
        let first_cluster_group = sb.s_first_cluster_group.get();
        for (what, block) in [
            ("root directory", root),
            ("system directory", system_dir),
            ("first cluster group", first_cluster_group),
        ] {
            if block <= SUPER_BLOCK_BLKNO || !geo.contains(BlockNo(block), 1) {
                return Err(bad(format!(
                    "its {what} is block {block}, outside of the volume"
                )));
            }
        }
        let max_slots = sb.s_max_slots.get();
        if !(1..=255).contains(&max_slots) {
            return Err(bad(format!(
                "{max_slots} node slots; 1 to 255 are possible"
            )));
        }
        let label_len = sb
            .s_label
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(sb.s_label.len());
        Ok(Self {
            geo,
            features,
            fs_generation: Generation(head.i_fs_generation.get()),
            root: BlockNo(root),
            system_dir: BlockNo(system_dir),
            first_cluster_group: BlockNo(first_cluster_group),
            max_slots,
            uuid: sb.s_uuid,
            label: sb.s_label[..label_len].to_vec(),
            dx_seed: [
                sb.s_dx_seed0.get(),
                sb.s_dx_seed1.get(),
                sb.s_dx_seed2.get(),
                sb.s_uuid_hash.get(),
            ],
            xattr_inline_size: sb.s_xattr_inline_size.get(),
            superblock: blkno,
        })
    }

    /// Whether the first sector of a device belongs to OCFS version 1.
    #[must_use]
    pub fn is_ocfs1(sector: &[u8]) -> bool {
        OcfsHeader::ref_from_prefix(sector).is_ok_and(|(header, _)| {
            header.major_version.get() == 1 || header.signature.starts_with(b"OracleCFS")
        })
    }

    /// Whether an incompat feature is on.
    #[must_use]
    pub const fn has(&self, feature: Incompat) -> bool {
        self.features.has(feature)
    }

    /// The UUID as the tools print it: 32 hexadecimal digits.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        self.uuid.iter().map(|b| format!("{b:02X}")).collect()
    }
}
