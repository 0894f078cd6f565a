//! A superblock made anew, for a volume that has lost it and has no backup.
//!
//! The inodes of the volume itself lie close to its beginning. Each names its own block, which gives
//! the block size; the cluster allocator gives the number and the size of the clusters; the journals
//! give the UUID. Features are told from what there is. What nothing tells is guessed, and the
//! finding says so.

use std::collections::BTreeMap;

use cowfs_format::block::{MetaBlock, VolumeInfo};
use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::ecc::{self, Verdict};
use cowfs_format::error::Result;
use cowfs_format::layout::jbd2::{JournalSuperBlock, MAGIC};
use cowfs_format::layout::{
    Compat, DINODE_HEAD, DISCONTIG_BITMAP_BYTES, Dinode, DynFeatures, ExtentRec, Features,
    FileType, GLOBAL_QUOTA_MAGIC, GroupDesc, HEARTBEAT_BLOCKS, Incompat, InodeFlags, MAX_SLOTS,
    RoCompat, SUPER_BLOCK_BLKNO, SUPER_BLOCK_BODY, SUPER_BLOCK_SIGNATURE, SuperBlock, uuid_hash,
};
use cowfs_format::read::chain::ChainsView;
use cowfs_format::read::extent::ListView;
use cowfs_format::units::{BlockNo, Geometry, index, low16, low32};
use cowfs_format::volume::Volume;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::stage::cannot;
use crate::catalogue::{At, Finding, VolumeProblem};
use crate::pass::system::{FIRST_FILE_BIT, KINDS, in_order_with};

/// Bytes at the beginning of the device in which the volume's own inodes are looked for.
const NEAR: u64 = 64 << 20;
/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Inodes that are looked at.
const MOST: usize = 4096;
/// Where the text begins that a new volume gets in its first sector.
const TEXT_AT: usize = 8;
const TEXT: &[u8] = b"this is an ocfs2 volume\0";
/// Bytes of room for attributes that a new inode has.
const XATTR_INLINE_BYTES: u16 = 256;
const QUOTA: RoCompat = RoCompat::USRQUOTA.union(RoCompat::GRPQUOTA);
/// Bit of the slot map among the volume's own inodes.
const SLOT_MAP_BIT: u16 = 5;

/// A superblock made from what the rest of the volume says.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// Bits of the block size.
    pub block_bits: u32,
    /// The block.
    pub bytes: Vec<u8>,
    /// What nothing told.
    pub guessed: String,
}

/// Opens a volume that has no superblock by the one that the rest of it gives, over writes that are
/// kept in memory; with the finding that tells so.
///
/// # Errors
/// As [`rebuild`].
pub fn open<D: Device>(device: D) -> Result<(Volume<OverlayDevice<D>>, Finding)> {
    let rebuilt = rebuild(&device)?;
    let overlay = OverlayDevice::new(device);
    let finding = rebuilt.stage(&overlay)?;
    Ok((Volume::open(overlay)?, finding))
}

impl Rebuilt {
    /// Puts the superblock where it belongs; the finding that tells so.
    pub(super) fn stage<D: Device>(&self, overlay: &OverlayDevice<D>) -> Result<Finding> {
        overlay.write_at(SUPER_BLOCK_BLKNO << self.block_bits, &self.bytes)?;
        let guessed = self.guessed.clone();
        Ok(Finding {
            at: At::block(BlockNo(SUPER_BLOCK_BLKNO)),
            problem: VolumeProblem::SuperblockLost { guessed }.into(),
        })
    }
}

/// An inode of the volume itself.
struct Own {
    blkno: BlockNo,
    bytes: Vec<u8>,
}

impl Own {
    fn head(&self) -> Result<&Dinode> {
        let head = Dinode::ref_from_prefix(&self.bytes);
        Ok(head.map_err(|_| cannot("an inode is cut off"))?.0)
    }

    fn has(&self, flags: InodeFlags) -> bool {
        self.head().is_ok_and(|head| head.flags().contains(flags))
    }

    /// Bits of the cluster size, from the sizes of what has its space in whole clusters.
    fn cluster_bits(&self) -> Option<u32> {
        let head = self.head().ok()?;
        let (clusters, bytes) = (u64::from(head.i_clusters.get()), head.i_size.get());
        let size = bytes.checked_div(clusters)?;
        let whole = size.is_power_of_two() && size * clusters == bytes;
        let in_clusters = self.has(InodeFlags::CHAIN) || self.has(InodeFlags::JOURNAL);
        (whole && in_clusters).then(|| size.ilog2())
    }

    /// The first extent, when the inode lists its extents itself.
    fn first_extent(&self) -> Option<BlockNo> {
        let list = ListView::parse(self.bytes.get(DINODE_HEAD..)?)?;
        let rec: &ExtentRec = list.recs.first()?;
        (list.head.l_tree_depth.get() == 0).then(|| BlockNo(rec.e_blkno.get()))
    }
}

/// What was found near the beginning of a device.
struct Found<'d> {
    device: &'d dyn Device,
    block_bits: u32,
    generation: u32,
    inodes: Vec<Own>,
    /// What inodes are marked as that lie among them and say that they are other blocks.
    strays: Vec<InodeFlags>,
}

/// Makes the superblock of a volume that has none.
///
/// # Errors
/// What is on the device was no volume, or too much of it is lost.
pub fn rebuild(device: &dyn Device) -> Result<Rebuilt> {
    let mut sector = [0; 512];
    device.read_at(0, &mut sector)?;
    if sector.get(TEXT_AT..TEXT_AT + TEXT.len()) != Some(TEXT) {
        return Err(cannot(
            "its first sector does not say that there was a volume, so it may hold something else",
        ));
    }
    let found = look(device)?;
    found.superblock()
}

/// A sector that looks like the beginning of an inode of the volume itself.
struct Place {
    at: u64,
    /// Bits of the block size and generation, when its block number is that of its place.
    of: Option<(u32, u32)>,
    flags: InodeFlags,
}

/// Finds the volume's own inodes, by the block numbers and generations that most of them agree on.
fn look(device: &dyn Device) -> Result<Found<'_>> {
    let mut votes: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let mut places: Vec<Place> = Vec::new();
    let end = device.size().min(NEAR);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < end && places.len() < MOST {
        let len = usize::try_from(end - at).map_or(PIECE, |rest| rest.min(PIECE));
        let piece = &mut piece[..len];
        if device.read_at(at, piece).is_err() {
            // What can be read of it.
            for (sector, place) in piece.chunks_mut(512).zip((at..).step_by(512)) {
                if device.read_at(place, sector).is_err() {
                    sector.fill(0);
                }
            }
        }
        for (sector, place) in piece.chunks_exact(512).zip((at..).step_by(512)) {
            let Ok((head, _)) = Dinode::ref_from_prefix(sector) else {
                continue;
            };
            let blkno = head.i_blkno.get();
            let own = head.i_signature == Dinode::SIGNATURE
                && head.i_suballoc_slot.get() == 0xFFFF
                && head
                    .flags()
                    .contains(InodeFlags::SYSTEM | InodeFlags::VALID);
            let bits = Geometry::BLOCK_BITS
                .into_iter()
                .find(|bits| blkno != 0 && blkno.checked_shl(*bits) == Some(place));
            if own {
                let of = bits.map(|bits| (bits, head.i_fs_generation.get()));
                if let Some(of) = of {
                    *votes.entry(of).or_default() += 1;
                }
                let (at, flags) = (place, head.flags());
                places.push(Place { at, of, flags });
            }
        }
        at += len as u64;
    }
    let ((block_bits, generation), _) = votes
        .into_iter()
        .max_by_key(|(_, votes)| *votes)
        .ok_or_else(|| cannot("no inode of a volume was found near the beginning"))?;
    let mut inodes = Vec::new();
    for place in &places {
        if place.of == Some((block_bits, generation)) {
            let mut bytes = vec![0; 1 << block_bits];
            if device.read_at(place.at, &mut bytes).is_ok() {
                let blkno = BlockNo(place.at >> block_bits);
                inodes.push(Own { blkno, bytes });
            }
        }
    }
    let blkno = |own: Option<&Own>| own.map_or(0, |own| own.blkno.0);
    let among = blkno(inodes.first())..=blkno(inodes.last());
    let strays = places
        .iter()
        .filter(|place| place.of.is_none() && among.contains(&(place.at >> block_bits)))
        .map(|place| place.flags)
        .collect();
    Ok(Found {
        device,
        block_bits,
        generation,
        inodes,
        strays,
    })
}

/// What most of some values are.
fn most<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut votes: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *votes.entry(value).or_default() += 1;
    }
    let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
    most.map(|(value, _)| value)
}

impl Found<'_> {
    fn superblock(&self) -> Result<Rebuilt> {
        let (geo, as_device) = self.geometry()?;
        let group = most(self.inodes.iter().filter_map(|inode| {
            let bit = u64::from(inode.head().ok()?.i_suballoc_bit.get());
            inode.blkno.0.checked_sub(bit)
        }));
        let group = group.ok_or_else(|| cannot("the group of its own inodes cannot be found"))?;
        if let Some(bytes) = self.old(&geo, group) {
            let guessed = "nothing, since all that it says fits".to_owned();
            return Ok(Rebuilt {
                block_bits: self.block_bits,
                bytes,
                guessed,
            });
        }
        let features = self.features(&geo, group);
        let (slots, quota) = self.order(group, self.slots(), features.ro_compat);
        let features = Features {
            ro_compat: features.ro_compat | quota,
            ..features
        };
        let mut guessed = vec!["the label", "the seeds of directory indexes"];
        let uuid = self.uuid().unwrap_or_else(|| {
            guessed.push("the UUID");
            self.new_uuid()
        });
        if as_device {
            guessed.push("that it has as many clusters as the device has room for");
        }
        guessed.push("features that leave no mark");
        guessed.push(if features.has(Incompat::LOCAL_MOUNT) {
            "that it is mounted locally, since no node ever signed on it"
        } else {
            "that it is of a cluster, since nodes have signed on it"
        });
        let mut head = Dinode::new_zeroed();
        head.i_signature = SUPER_BLOCK_SIGNATURE;
        head.i_generation = self.generation.into();
        head.i_suballoc_slot = 0xFFFF.into();
        head.i_suballoc_bit = 0xFFFF.into();
        head.i_clusters = geo.clusters().into();
        let flags = InodeFlags::VALID | InodeFlags::SYSTEM | InodeFlags::SUPER_BLOCK;
        head.i_flags = flags.bits().into();
        head.i_blkno = SUPER_BLOCK_BLKNO.into();
        head.i_fs_generation = self.generation.into();
        let mut sb = SuperBlock::new_zeroed();
        sb.s_minor_rev_level = 90.into();
        sb.s_max_mnt_count = 20.into();
        sb.s_feature_compat = features.compat.bits().into();
        sb.s_feature_incompat = features.incompat.bits().into();
        sb.s_feature_ro_compat = features.ro_compat.bits().into();
        sb.s_root_blkno = (group + 1).into();
        sb.s_system_dir_blkno = (group + 2).into();
        sb.s_blocksize_bits = geo.block_bits().into();
        sb.s_clustersize_bits = geo.cluster_bits().into();
        sb.s_max_slots = slots.into();
        sb.s_first_cluster_group = geo.group_block(0).0.into();
        sb.s_uuid = uuid;
        if features
            .incompat
            .intersects(Incompat::XATTR | Incompat::INDEXED_DIRS)
        {
            sb.s_uuid_hash = uuid_hash(&uuid).into();
        }
        if features.has(Incompat::XATTR) {
            sb.s_xattr_inline_size = XATTR_INLINE_BYTES.into();
        }
        if features.has(Incompat::INDEXED_DIRS) {
            // Any seeds will do; the indexes that others made are made anew.
            let seed = u64::from(self.generation) | u64::from(uuid_hash(&uuid)) << 32;
            sb.s_dx_seed0 = low32(seed.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF).into();
            sb.s_dx_seed1 = low32(seed >> 32).into();
            sb.s_dx_seed2 = self.generation.into();
        }
        let mut bytes = vec![0; geo.block_bytes()];
        bytes[..DINODE_HEAD].copy_from_slice(head.as_bytes());
        let end = SUPER_BLOCK_BODY + size_of::<SuperBlock>();
        bytes[SUPER_BLOCK_BODY..end].copy_from_slice(sb.as_bytes());
        if features.has(Incompat::META_ECC) {
            ecc::stamp(&mut bytes, Dinode::CHECK_AT);
        }
        Ok(Rebuilt {
            block_bits: self.block_bits,
            bytes,
            guessed: guessed.join(", "),
        })
    }

    /// Number of node slots and kinds of quota, of which there are at least these, by what lies where: a new
    /// volume gets its own inodes in a fixed order.
    fn order(&self, group: u64, least: u16, seen: RoCompat) -> (u16, RoCompat) {
        let placed: Vec<(usize, InodeFlags)> = self
            .inodes
            .iter()
            .filter_map(|inode| {
                let nth = inode.blkno.0.checked_sub(group + FIRST_FILE_BIT)?;
                let kind = inode.head().ok()?.flags().intersection(KINDS);
                Some((index(nth), kind))
            })
            .collect();
        let seen = seen & QUOTA;
        let kinds = [
            RoCompat::empty(),
            RoCompat::USRQUOTA,
            RoCompat::GRPQUOTA,
            QUOTA,
        ];
        let kinds = kinds.into_iter().filter(|kinds| kinds.contains(seen));
        let guesses = kinds.flat_map(|kinds| (least..=MAX_SLOTS).map(move |slots| (slots, kinds)));
        let fits = |(slots, kinds): &(u16, RoCompat)| {
            let order = in_order_with(*kinds, *slots);
            let fit = |(nth, kind): &&(usize, InodeFlags)| {
                order.get(*nth).is_some_and(|(_, flags)| flags == kind)
            };
            // Of those that fit as well, the first: the fewest.
            (
                placed.iter().filter(fit).count(),
                std::cmp::Reverse((kinds.bits(), *slots)),
            )
        };
        guesses.max_by_key(fits).unwrap_or((least, seen))
    }

    /// Number of node slots, by the files of which each slot has one, or of allocators two.
    fn slots(&self) -> u16 {
        let flags = self.inodes.iter().filter_map(|inode| inode.head().ok());
        let all: Vec<InodeFlags> = flags
            .map(Dinode::flags)
            .chain(self.strays.iter().copied())
            .collect();
        let count = |kind| all.iter().filter(|flags| flags.contains(kind)).count();
        // Two allocators are of the volume as a whole.
        let allocators = count(InodeFlags::CHAIN).saturating_sub(2).div_ceil(2);
        [
            InodeFlags::JOURNAL,
            InodeFlags::LOCAL_ALLOC,
            InodeFlags::DEALLOC,
        ]
        .into_iter()
        .map(count)
        .chain([allocators, 1])
        .max()
        .map_or(1, |slots| low16(slots as u64).min(MAX_SLOTS))
    }

    /// What stands in the superblock's place, with another check, when it says the same as the rest
    /// of the volume: a few wrong bits need not cost the label and the UUID.
    fn old(&self, geo: &Geometry, group: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; geo.block_bytes()];
        let read = self.read(BlockNo(SUPER_BLOCK_BLKNO), &mut bytes);
        ecc::stamp(&mut bytes, Dinode::CHECK_AT);
        let info = VolumeInfo::from_superblock(&bytes, BlockNo(SUPER_BLOCK_BLKNO)).ok()?;
        let fits = info.fs_generation.0 == self.generation
            && info.geo.block_bits() == geo.block_bits()
            && info.geo.cluster_bits() == geo.cluster_bits()
            && info.geo.clusters() == geo.clusters()
            && (info.root.0, info.system_dir.0) == (group + 1, group + 2);
        (read && fits).then_some(bytes)
    }

    /// Block and cluster sizes, from the allocators; and whether the number of clusters is but what the device
    /// has room for.
    fn geometry(&self) -> Result<(Geometry, bool)> {
        for inode in self
            .inodes
            .iter()
            .filter(|inode| inode.has(InodeFlags::CHAIN))
        {
            let body = inode.bytes.get(DINODE_HEAD..).unwrap_or_default();
            let first = ChainsView::parse(body)
                .and_then(|list| Some(BlockNo(list.recs.first()?.c_blkno.get())));
            let clusters = inode.head()?.i_clusters.get();
            // The cluster allocator is the one whose groups lie at fixed places.
            if let Some(bits) = inode.cluster_bits()
                && let Some(geo) = Geometry::new(self.block_bits, bits, clusters)
                && first == Some(geo.group_block(0))
            {
                return Ok((geo, false));
            }
        }
        // Without it, its groups lie where they must, one behind the other.
        let bits = most(self.inodes.iter().filter_map(Own::cluster_bits));
        let none = || cannot("how large the volume was cannot be known");
        let bits = bits.ok_or_else(none)?;
        let whole = low32((self.device.size() >> bits).min(u64::from(u32::MAX)));
        let most = Geometry::new(self.block_bits, bits, whole).ok_or_else(none)?;
        let per_group = most.clusters_per_group();
        let last = (0..most.cluster_groups()).rev().find_map(|group| {
            let blkno = most.group_block(group);
            let mut bytes = vec![0; most.block_bytes()];
            let read = self.read(blkno, &mut bytes);
            let desc = GroupDesc::ref_from_bytes(bytes.get(..size_of::<GroupDesc>())?).ok()?;
            let own = desc.bg_signature == GroupDesc::SIGNATURE
                && desc.bg_blkno.get() == blkno.0
                && desc.bg_generation.get() == self.generation;
            let bits = u32::from(desc.bg_bits.get());
            (read && own && bits <= per_group).then_some((group, bits))
        });
        match last {
            Some((group, bits)) if bits < per_group || group + 1 == most.cluster_groups() => {
                let clusters = group * per_group + bits;
                let geo = Geometry::new(self.block_bits, most.cluster_bits(), clusters);
                Ok((geo.ok_or_else(none)?, false))
            }
            _ => Ok((most, true)),
        }
    }

    fn read(&self, blkno: BlockNo, bytes: &mut [u8]) -> bool {
        let at = blkno.0.checked_shl(self.block_bits);
        at.is_some_and(|at| self.device.read_at(at, bytes).is_ok())
    }

    /// The UUID that the journals carry.
    fn uuid(&self) -> Option<[u8; 16]> {
        let journals = self
            .inodes
            .iter()
            .filter(|inode| inode.has(InodeFlags::JOURNAL));
        most(journals.filter_map(|inode| {
            let mut bytes = [0; size_of::<JournalSuperBlock>()];
            let read = self.read(inode.first_extent()?, &mut bytes);
            let sb = JournalSuperBlock::ref_from_bytes(&bytes).ok()?;
            (read && sb.h_magic.get() == MAGIC).then_some(sb.s_uuid)
        }))
    }

    /// A UUID for a volume whose own is lost: random by version and variant, the same each time.
    fn new_uuid(&self) -> [u8; 16] {
        let mut state = u64::from(self.generation) ^ 0x6F63_6673_3200_0000;
        let mut uuid = [0; 16];
        for byte in &mut uuid {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(0x5851_F42D);
            *byte = state.to_be_bytes()[1];
        }
        uuid[6] = uuid[6] & 0x0F | 0x40;
        uuid[8] = uuid[8] & 0x3F | 0x80;
        uuid
    }

    fn features(&self, geo: &Geometry, group: u64) -> Features {
        let mut incompat = Incompat::SPARSE_ALLOC;
        let mut compat = Compat::empty();
        let mut ro_compat = RoCompat::empty();
        let stamped = self.inodes.iter().filter(|inode| {
            let at = Dinode::CHECK_AT;
            let check = inode.bytes.get(at..at + 4);
            check.is_some_and(|check| check.iter().any(|byte| *byte != 0))
                && ecc::verify(&inode.bytes, at) == Verdict::Good
        });
        incompat.set(Incompat::META_ECC, stamped.count() * 2 > self.inodes.len());
        let inline = |inode: &Own| {
            let features = inode.head().map(Dinode::dyn_features);
            features.is_ok_and(|features| features.contains(DynFeatures::INLINE_DATA))
        };
        incompat.set(Incompat::INLINE_DATA, self.inodes.iter().any(inline));
        let is_dir = |inode: &Own| {
            let kind = inode.head().ok().and_then(Dinode::file_type);
            kind == Some(FileType::Directory)
        };
        let indexed = |inode: &Own| {
            let features = inode.head().map(Dinode::dyn_features);
            features.is_ok_and(|features| features.contains(DynFeatures::INDEXED_DIR))
        };
        let indexed = self
            .inodes
            .iter()
            .any(|inode| is_dir(inode) && indexed(inode));
        // A free slot of the old form of the slot map is a number that none of the new form begins
        // with.
        let slot_map = self.inodes.iter().find(|inode| {
            let own = inode
                .head()
                .is_ok_and(|head| head.i_suballoc_bit.get() == SLOT_MAP_BIT);
            own && inode.blkno.0 == group + u64::from(SLOT_MAP_BIT)
        });
        let mut map = vec![0; geo.block_bytes()];
        let old = slot_map
            .and_then(Own::first_extent)
            .is_some_and(|first| self.read(first, &mut map) && self.is_old_slot_map(&map));
        let modern = !old;
        incompat.set(Incompat::EXTENDED_SLOT_MAP, modern);
        // All of these came with the new slot map or later, and are no burden where they are not
        // used.
        let later = Incompat::XATTR
            | Incompat::REFCOUNT_TREE
            | Incompat::APPEND_DIO
            | Incompat::INLINE_DATA;
        incompat.set(later, modern);
        incompat.set(Incompat::INDEXED_DIRS, modern || indexed);
        ro_compat.set(RoCompat::UNWRITTEN, modern);
        compat.set(Compat::JBD2_SB, true);
        incompat.set(Incompat::DISCONTIG_BG, self.small_groups());
        incompat.set(Incompat::LOCAL_MOUNT, !self.signed(geo));
        // Without a usable backup, there is none; where one would be, a file may lie.
        let none = geo.backup_offsets().next().is_none();
        compat.set(Compat::BACKUP_SB, none);
        for inode in self
            .inodes
            .iter()
            .filter(|inode| inode.has(InodeFlags::QUOTA))
        {
            let mut magic = [0; 4];
            let read = inode.first_extent().is_some_and(|first| {
                let mut block = vec![0; geo.block_bytes()];
                let read = self.read(first, &mut block);
                magic.copy_from_slice(&block[..4]);
                read
            });
            let magic = u32::from_le_bytes(magic);
            let kinds = [RoCompat::USRQUOTA, RoCompat::GRPQUOTA];
            for (known, kind) in GLOBAL_QUOTA_MAGIC.into_iter().zip(kinds) {
                ro_compat.set(kind, ro_compat.contains(kind) || (read && magic == known));
            }
        }
        Features {
            compat,
            incompat,
            ro_compat,
        }
    }

    /// Whether a block is a slot map of the old form: a number for each slot, that of a node or one that no
    /// node has.
    fn is_old_slot_map(&self, map: &[u8]) -> bool {
        const FREE: [u8; 2] = [0xFF; 2];
        let slots = map.chunks_exact(2).take(self.slots().into());
        let sensible = |slot: &[u8]| slot == FREE || slot.get(1) == Some(&0);
        slots.clone().any(|slot| slot == FREE) && slots.clone().all(sensible)
    }

    /// Whether groups of allocators leave room for lists of extents, as they do where groups may
    /// lie in pieces.
    fn small_groups(&self) -> bool {
        let allocators = self
            .inodes
            .iter()
            .filter(|inode| inode.has(InodeFlags::CHAIN));
        allocators
            .filter_map(|inode| {
                let list = ChainsView::parse(inode.bytes.get(DINODE_HEAD..)?)?;
                Some(BlockNo(list.recs.first()?.c_blkno.get()))
            })
            .any(|first| {
                let mut block = vec![0; 1 << self.block_bits];
                self.read(first, &mut block)
                    && GroupDesc::ref_from_prefix(&block).is_ok_and(|(desc, _)| {
                        desc.bg_signature == GroupDesc::SIGNATURE
                            && desc.bg_size.get() == DISCONTIG_BITMAP_BYTES
                    })
            })
    }

    /// Whether a node of a cluster has ever signed in the heartbeat file.
    fn signed(&self, geo: &Geometry) -> bool {
        let file = self
            .inodes
            .iter()
            .find(|inode| inode.has(InodeFlags::HEARTBEAT));
        file.and_then(Own::first_extent).is_some_and(|first| {
            (0..HEARTBEAT_BLOCKS).any(|nth| {
                let mut block = vec![0; geo.block_bytes()];
                self.read(first.plus(nth), &mut block) && block.iter().any(|byte| *byte != 0)
            })
        })
    }
}
