//! The plan of a volume: everything that will be written, before anything is.
//!
//! A plan is a pure function of the options, the size of the device and the entropy. Files are laid
//! out in the order in which `mkfs.ocfs2` allocates, so that the two programs make the same volume.

use std::time::{SystemTime, UNIX_EPOCH};

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{Compat, Features, HEARTBEAT_BLOCKS, Incompat, RoCompat, uuid_hash};
use cowfs_format::units::{BlockNo, ClusterNo, Geometry};

use crate::demands::{check_label, features};
use crate::dirs::{self, Directory};
use crate::files::{Place, SubAlloc, Tree};
use crate::options::{ClusterStack, Entropy, Options, Usage, marked};
use crate::sizes::{self, Sizes, suballoc_group_clusters};
use crate::space::Space;

/// Kind of a system file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// List of bad blocks; empty.
    BadBlocks,
    /// Allocator of system inodes.
    GlobalInodeAlloc,
    /// Which node holds which slot.
    SlotMap,
    /// Where nodes show that they live.
    Heartbeat,
    /// Allocator of clusters.
    GlobalBitmap,
    /// Quota of users or groups.
    GlobalQuota(Quota),
    /// Unlinked files that are still open.
    OrphanDir,
    /// Allocator of extent blocks and their like.
    ExtentAlloc,
    /// Allocator of inodes.
    InodeAlloc,
    /// Journal.
    Journal,
    /// Window of free clusters of a slot.
    LocalAlloc,
    /// Clusters that are to be freed.
    TruncateLog,
    /// Changes of a slot to the quota.
    LocalQuota(Quota),
}

/// Which of the two quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// By user.
    User,
    /// By group.
    Group,
}

/// The kinds in the order of their inodes, with the names of the files.
pub const KINDS: [(Kind, &str); 15] = [
    (Kind::BadBlocks, "bad_blocks"),
    (Kind::GlobalInodeAlloc, "global_inode_alloc"),
    (Kind::SlotMap, "slot_map"),
    (Kind::Heartbeat, "heartbeat"),
    (Kind::GlobalBitmap, "global_bitmap"),
    (Kind::GlobalQuota(Quota::User), "aquota.user"),
    (Kind::GlobalQuota(Quota::Group), "aquota.group"),
    (Kind::OrphanDir, "orphan_dir"),
    (Kind::ExtentAlloc, "extent_alloc"),
    (Kind::InodeAlloc, "inode_alloc"),
    (Kind::Journal, "journal"),
    (Kind::LocalAlloc, "local_alloc"),
    (Kind::TruncateLog, "truncate_log"),
    (Kind::LocalQuota(Quota::User), "aquota.user"),
    (Kind::LocalQuota(Quota::Group), "aquota.group"),
];
/// Kinds of which there is one, not one a slot.
const GLOBAL_KINDS: u64 = 7;
/// Kinds of which there is one a slot.
const SLOT_KINDS: u64 = 8;

impl Kind {
    /// Whether each slot has one.
    #[must_use]
    pub const fn per_slot(self) -> bool {
        !matches!(
            self,
            Self::BadBlocks
                | Self::GlobalInodeAlloc
                | Self::SlotMap
                | Self::Heartbeat
                | Self::GlobalBitmap
                | Self::GlobalQuota(_)
        )
    }
}

/// A system file.
#[derive(Clone, Debug)]
pub struct SystemFile {
    /// What it is.
    pub kind: Kind,
    /// Its slot; 0 when there is only one.
    pub slot: u16,
    /// Name in the system directory.
    pub name: String,
    /// Bit of the inode in the group of system inodes.
    pub bit: u16,
    /// Size in bytes.
    pub size: u64,
    /// Its clusters.
    pub tree: Tree,
    /// Its groups, when it is an inode or extent allocator.
    pub alloc: Option<SubAlloc>,
    /// Its entries, when it is a directory.
    pub dir: Option<Directory>,
}

/// Everything about a volume to be made.
#[derive(Debug)]
pub struct Plan {
    /// Block size, cluster size, clusters.
    pub geo: Geometry,
    /// The features.
    pub features: Features,
    /// What the volume will hold.
    pub usage: Usage,
    /// Node slots.
    pub slots: u16,
    /// Bytes of each journal.
    pub journal_bytes: u64,
    /// Whether journals hold 64-bit block numbers.
    pub journal64: bool,
    /// Groups that each slot's extent allocator begins with.
    pub extent_groups: u32,
    /// Label.
    pub label: String,
    /// UUID.
    pub uuid: [u8; 16],
    /// Hash of the UUID.
    pub uuid_hash: u32,
    /// Generation and seeds.
    pub entropy: Entropy,
    /// Time of everything.
    pub time: u64,
    /// Cluster stack.
    pub cluster: Option<ClusterStack>,
    /// Whether to discard what the device holds.
    pub discard: bool,
    /// Group of the system inodes: first cluster and number of clusters.
    pub inode_group: (ClusterNo, u32),
    /// Root directory.
    pub root: Directory,
    /// System directory.
    pub system_dir: Directory,
    /// `lost+found`.
    pub lost_found: Directory,
    /// The system files, in the order of their inodes.
    pub files: Vec<SystemFile>,
    /// Taken clusters.
    pub space: Space,
}

impl Plan {
    /// Plans a volume on a device of `device_bytes` bytes.
    ///
    /// # Errors
    /// The options contradict each other or cannot be met on such a device.
    pub fn new(options: &Options, device_bytes: u64) -> Result<Self> {
        check_label(&options.label)?;
        let features = features(options)?;
        let sizes = sizes::decide(options, device_bytes)?;
        let uuid = match options.uuid {
            Some(uuid) => uuid,
            None => marked(random()?, 0x40),
        };
        let entropy = match options.entropy {
            Some(entropy) => entropy,
            None => {
                let bytes: [u8; 16] = random()?;
                Entropy::derived(bytes, 0)
            }
        };
        let time = options.time.unwrap_or_else(now);
        Layout::new(sizes, features).plan(options, uuid, entropy, time)
    }

    /// Block of the inode with a bit in the group of system inodes.
    #[must_use]
    pub fn system_block(&self, bit: u16) -> BlockNo {
        self.geo
            .first_block(self.inode_group.0)
            .plus(u64::from(bit))
    }

    /// Whether metadata blocks carry checks.
    #[must_use]
    pub const fn ecc(&self) -> bool {
        self.features.has(Incompat::META_ECC)
    }

    /// Whether there are backup superblocks.
    #[must_use]
    pub const fn has_backups(&self) -> bool {
        self.features.compat.contains(Compat::BACKUP_SB)
    }

    /// The file of a kind that exists once.
    #[must_use]
    pub fn file(&self, kind: Kind) -> Option<&SystemFile> {
        self.files.iter().find(|file| file.kind == kind)
    }

    /// Space that quotas account to root: bytes and inodes of the root directory and `lost+found`.
    #[must_use]
    pub fn quota_usage(&self) -> (u64, u64) {
        let clusters = self.root.tree.clusters() + self.lost_found.tree.clusters();
        (u64::from(clusters) << self.geo.cluster_bits(), 2)
    }
}

/// Sizes, space and files while the volume is being laid out.
struct Layout {
    sizes: Sizes,
    geo: Geometry,
    features: Features,
    space: Space,
    files: Vec<SystemFile>,
}

impl Layout {
    fn new(sizes: Sizes, features: Features) -> Self {
        Self {
            sizes,
            geo: sizes.geo,
            features,
            space: Space::new(sizes.geo),
            files: Vec::new(),
        }
    }

    fn plan(
        mut self,
        options: &Options,
        uuid: [u8; 16],
        entropy: Entropy,
        time: u64,
    ) -> Result<Plan> {
        let geo = self.geo;
        let inline = self.features.has(Incompat::INLINE_DATA);
        let inode_group = self.inode_group()?;
        let first = geo.first_block(inode_group.0);
        let place = |bit: u16| Place {
            block: first.plus(u64::from(bit)),
            bit,
            group: first,
        };
        let mut root = Directory::new(place(1), place(1).block);
        let mut system_dir = Directory::new(place(2), place(2).block);
        if !inline {
            root.tree = self.contiguous(1, "the root directory")?;
        }
        let wanted = dirs::system_dir_clusters(&geo, inline, self.sizes.slots);
        if wanted > 0 {
            system_dir.tree = self.contiguous(wanted, "the system directory")?;
        }
        self.name_files(&mut system_dir, first);
        let heartbeat = geo.clusters_for(HEARTBEAT_BLOCKS << geo.block_bits());
        let heartbeat = u32::try_from(heartbeat).unwrap_or(u32::MAX);
        let tree = self.contiguous(heartbeat, "the heartbeat area")?;
        self.with(Kind::Heartbeat, |file| {
            file.size = HEARTBEAT_BLOCKS << geo.block_bits();
            file.tree = tree.clone();
        });
        for i in self.indexes(Kind::OrphanDir) {
            let tree = if inline {
                Tree::default()
            } else {
                self.contiguous(1, "the orphan directories")?
            };
            let file = &mut self.files[i];
            let mut dir = Directory::new(place(file.bit), system_dir.place.block);
            dir.tree = tree;
            file.dir = Some(dir);
        }
        if self.features.compat.contains(Compat::BACKUP_SB) {
            for offset in geo.backup_offsets() {
                self.space
                    .take_at(geo.cluster_of(BlockNo(offset >> geo.block_bits())));
            }
        }
        self.journals()?;
        self.extent_allocs()?;
        self.slot_map()?;
        self.quotas()?;
        let mut lost_found = self.directories(&mut root, first)?;
        lost_found.parent = root.place.block;
        root.entries
            .push(("lost+found".to_owned(), lost_found.place.block, true));
        let bitmap_bytes = geo.bytes();
        self.with(Kind::GlobalBitmap, |file| file.size = bitmap_bytes);
        let group_bytes = u64::from(inode_group.1) << geo.cluster_bits();
        self.with(Kind::GlobalInodeAlloc, |file| file.size = group_bytes);
        let hashed = self
            .features
            .incompat
            .intersects(Incompat::XATTR.union(Incompat::INDEXED_DIRS));
        let entropy = Entropy {
            dx_seed: if self.features.has(Incompat::INDEXED_DIRS) {
                entropy.dx_seed
            } else {
                [0; 3]
            },
            ..entropy
        };
        Ok(Plan {
            geo,
            features: self.features,
            usage: options.usage,
            slots: self.sizes.slots,
            journal_bytes: self.sizes.journal_bytes,
            journal64: self.sizes.journal64,
            extent_groups: self.sizes.extent_groups,
            label: options.label.clone(),
            uuid,
            uuid_hash: if hashed { uuid_hash(&uuid) } else { 0 },
            entropy,
            time,
            cluster: options.cluster.clone(),
            discard: options.discard,
            inode_group,
            root,
            system_dir,
            lost_found,
            files: self.files,
            space: self.space,
        })
    }

    /// Takes the group of system inodes: room for those of 32 slots at the least.
    fn inode_group(&mut self) -> Result<(ClusterNo, u32)> {
        // Three blocks for the superblock's area, and root, system directory and lost+found.
        let slots = u64::from(self.sizes.slots.max(32));
        let blocks = 3 + 3 + GLOBAL_KINDS + SLOT_KINDS * slots;
        let clusters = self.geo.clusters_for(blocks << self.geo.block_bits());
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        self.space.take(clusters, clusters, "the system inodes")
    }

    /// Takes clusters in one run.
    fn contiguous(&mut self, clusters: u32, what: &str) -> Result<Tree> {
        let (start, len) = self.space.take(clusters, clusters, what)?;
        Ok(Tree {
            extents: vec![crate::files::Extent {
                cpos: 0,
                len,
                start,
            }],
            leaves: Vec::new(),
        })
    }

    /// Lists the system files and their entries in the system directory.
    fn name_files(&mut self, system_dir: &mut Directory, first: BlockNo) {
        let mut bit = 3;
        for (kind, name) in KINDS {
            let wanted = match kind {
                Kind::GlobalQuota(quota) | Kind::LocalQuota(quota) => self.has_quota(quota),
                _ => true,
            };
            if !wanted {
                continue;
            }
            let count = if kind.per_slot() { self.sizes.slots } else { 1 };
            for slot in 0..count {
                let name = if kind.per_slot() {
                    format!("{name}:{slot:04}")
                } else {
                    name.to_owned()
                };
                let block = first.plus(u64::from(bit));
                system_dir
                    .entries
                    .push((name.clone(), block, kind == Kind::OrphanDir));
                self.files.push(SystemFile {
                    kind,
                    slot,
                    name,
                    bit,
                    size: 0,
                    tree: Tree::default(),
                    alloc: matches!(kind, Kind::ExtentAlloc | Kind::InodeAlloc)
                        .then(|| SubAlloc::new(&self.geo, suballoc_group_clusters(&self.geo))),
                    dir: None,
                });
                bit += 1;
            }
        }
    }

    const fn has_quota(&self, quota: Quota) -> bool {
        self.features.ro_compat.contains(match quota {
            Quota::User => RoCompat::USRQUOTA,
            Quota::Group => RoCompat::GRPQUOTA,
        })
    }

    /// Indexes of the files of a kind.
    fn indexes(&self, kind: Kind) -> Vec<usize> {
        (0..self.files.len())
            .filter(|&i| self.files.get(i).is_some_and(|file| file.kind == kind))
            .collect()
    }

    /// Changes the files of a kind.
    fn with(&mut self, kind: Kind, change: impl Fn(&mut SystemFile)) {
        for file in self.files.iter_mut().filter(|file| file.kind == kind) {
            change(file);
        }
    }

    /// Appends clusters to a file, with extent blocks from the first slot's allocator.
    fn extend(&mut self, index: usize, clusters: u32, what: &str) -> Result<()> {
        let geo = self.geo;
        self.with_blocks(|layout, blocks| {
            let mut tree = std::mem::take(&mut layout.files[index].tree);
            tree.extend(&geo, &mut layout.space, blocks, clusters, what)?;
            layout.files[index].tree = tree;
            Ok(())
        })
    }

    /// Lends the first slot's extent allocator.
    fn with_blocks<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut SubAlloc) -> Result<T>,
    ) -> Result<T> {
        let index = self.indexes(Kind::ExtentAlloc).first().copied();
        let taken = index.and_then(|i| self.files[i].alloc.take());
        let mut blocks = taken.unwrap_or_else(|| SubAlloc::new(&self.geo, 1));
        let result = work(self, &mut blocks);
        if let Some(i) = index {
            self.files[i].alloc = Some(blocks);
        }
        result
    }

    fn journals(&mut self) -> Result<()> {
        let bytes = self.sizes.journal_bytes;
        let clusters = u32::try_from(bytes >> self.geo.cluster_bits()).unwrap_or(u32::MAX);
        for i in self.indexes(Kind::Journal) {
            self.files[i].size = bytes;
            self.extend(i, clusters, "the journals")?;
        }
        Ok(())
    }

    fn extent_allocs(&mut self) -> Result<()> {
        let geo = self.geo;
        for i in self.indexes(Kind::ExtentAlloc) {
            let Some(mut alloc) = self.files[i].alloc.take() else {
                continue;
            };
            for _ in 0..self.sizes.extent_groups {
                alloc.grow(&geo, &mut self.space, "the extent allocators")?;
            }
            self.files[i].alloc = Some(alloc);
        }
        Ok(())
    }

    fn slot_map(&mut self) -> Result<()> {
        let record = if self.features.has(Incompat::EXTENDED_SLOT_MAP) {
            8
        } else {
            2
        };
        let clusters = self.geo.clusters_for(record * u64::from(self.sizes.slots));
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        for i in self.indexes(Kind::SlotMap) {
            self.files[i].size = u64::from(clusters) << self.geo.cluster_bits();
            self.extend(i, clusters, "the slot map")?;
        }
        Ok(())
    }

    /// Quota files: the first two blocks of each first, then what the trees need.
    fn quotas(&mut self) -> Result<()> {
        let two = self.geo.clusters_for(2 << self.geo.block_bits());
        let two = u32::try_from(two).unwrap_or(u32::MAX);
        for quota in [Quota::User, Quota::Group] {
            for kind in [Kind::GlobalQuota(quota), Kind::LocalQuota(quota)] {
                for i in self.indexes(kind) {
                    self.files[i].size = 2 << self.geo.block_bits();
                    self.extend(i, two, "the quota files")?;
                }
            }
        }
        let blocks = u64::from(quota_depth(&self.geo)) + 2;
        let clusters = self.geo.clusters_for(blocks << self.geo.block_bits());
        for quota in [Quota::User, Quota::Group] {
            for i in self.indexes(Kind::GlobalQuota(quota)) {
                self.files[i].size = blocks << self.geo.block_bits();
                for _ in u64::from(two)..clusters {
                    self.extend(i, 1, "the quota files")?;
                }
            }
        }
        Ok(())
    }

    /// Indexes of the directories, and `lost+found`, which is the first inode of slot 0.
    fn directories(&mut self, root: &mut Directory, first: BlockNo) -> Result<Directory> {
        let geo = self.geo;
        let inline = self.features.has(Incompat::INLINE_DATA);
        let indexed = self.features.has(Incompat::INDEXED_DIRS) && !inline;
        if indexed {
            root.index = Some(self.take_block("directory indexes")?);
            for i in self.indexes(Kind::OrphanDir) {
                let index = self.take_block("directory indexes")?;
                if let Some(dir) = self.files[i].dir.as_mut() {
                    dir.index = Some(index);
                }
            }
        }
        let index = self.indexes(Kind::InodeAlloc).first().copied();
        let alloc = index.and_then(|i| self.files[i].alloc.as_mut());
        let place = match alloc {
            Some(alloc) => alloc.take(&geo, &mut self.space, "lost+found")?,
            None => Place {
                block: first,
                bit: 0,
                group: first,
            },
        };
        let mut lost_found = Directory::new(place, root.place.block);
        if !inline {
            lost_found.tree = self.contiguous(1, "lost+found")?;
        }
        if indexed {
            lost_found.index = Some(self.take_block("directory indexes")?);
        }
        Ok(lost_found)
    }

    /// Takes a block from the first slot's extent allocator.
    fn take_block(&mut self, what: &str) -> Result<Place> {
        let geo = self.geo;
        self.with_blocks(|layout, blocks| blocks.take(&geo, &mut layout.space, what))
    }
}

/// Levels of the tree of a quota file: enough for 32-bit ids.
#[must_use]
pub const fn quota_depth(geo: &Geometry) -> u32 {
    let per_block = (geo.block_bytes() as u64 - 8) / 4;
    let mut depth = 1;
    let mut ids = per_block;
    while ids < 1 << 32 {
        ids *= per_block;
        depth += 1;
    }
    depth
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Sixteen random bytes.
fn random() -> Result<[u8; 16]> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::Input {
            what: format!("/dev/urandom: cannot read random numbers: {error}; give -U"),
        })?;
    Ok(bytes)
}
