//! Which blocks a volume has, by kind, and what is lost at most when one of them is.

use std::collections::{BTreeMap, BTreeSet};

use cowfs_format::block::{View, check_offset_of};
use cowfs_format::dump::BlockKind;
use cowfs_format::layout::{Dinode, DynFeatures, FileType, XATTR_BUCKET};
use cowfs_format::read::dir::has_trailer;
use cowfs_format::read::holdings::{self, Purpose, Run};
use cowfs_format::read::inode::Inode;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::inodes;
use cowfs_format::volume::kinds::kind_of;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::{self, SystemFile};

/// Blocks of a log that are worth a try.
const LOG_BLOCKS: u64 = 4;
/// Blocks of a heartbeat or slot map that are worth a try.
const PLAIN_BLOCKS: u64 = 2;

/// What may be lost with a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// Inodes that may be gone or changed.
    pub objects: BTreeSet<BlockNo>,
    /// Directories of which entries may be gone: what they named may have other names.
    pub names: BTreeSet<BlockNo>,
    /// Inodes that may have lost extended attributes.
    pub attributes: BTreeSet<BlockNo>,
}

impl Forced {
    /// Adds what another block may cost.
    pub fn add(&mut self, other: &Self) {
        self.objects.extend(&other.objects);
        self.names.extend(&other.names);
        self.attributes.extend(&other.attributes);
    }
}

/// A block of metadata, or a bucket of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is: a row of the grid.
    pub kind: &'static str,
    /// First block.
    pub blkno: BlockNo,
    /// Number of blocks.
    pub blocks: usize,
    /// Where its check lies, if it has one.
    pub check_at: Option<usize>,
    /// What may be lost with it.
    pub forced: Forced,
}

/// The system files of a volume.
fn system_files(view: View<'_>) -> BTreeMap<BlockNo, SystemFile> {
    use SystemFile as S;
    let mut all = vec![
        S::BadBlocks,
        S::GlobalInodeAlloc,
        S::SlotMap,
        S::Heartbeat,
        S::GlobalBitmap,
        S::UserQuota,
        S::GroupQuota,
    ];
    for slot in (0..view.info().max_slots).map(Slot) {
        all.extend([
            S::OrphanDir(slot),
            S::ExtentAlloc(slot),
            S::InodeAlloc(slot),
            S::Journal(slot),
            S::LocalAlloc(slot),
            S::TruncateLog(slot),
            S::LocalUserQuota(slot),
            S::LocalGroupQuota(slot),
        ]);
    }
    let found = |file| Some((system::find(view, file).ok()?, file));
    all.into_iter().filter_map(found).collect()
}

struct Census<'v> {
    view: View<'v>,
    system: BTreeMap<BlockNo, SystemFile>,
    places: BTreeMap<BlockNo, Place>,
}

/// All blocks of metadata of a sound volume, by kind.
pub(super) fn take(view: View<'_>) -> Vec<Place> {
    let mut census = Census {
        view,
        system: system_files(view),
        places: BTreeMap::new(),
    };
    census.plain("superblock", BlockNo(2), Forced::default());
    for number in 0..6u32 {
        let at = (1u64 << (30 + 2 * number)) >> view.geo().block_bits();
        let backup = view
            .raw(BlockNo(at))
            .is_ok_and(|b| b.starts_with(b"OCFSV2"));
        if backup {
            census.plain("backup superblock", BlockNo(at), Forced::default());
        }
    }
    if let Ok(scanner) = Scanner::new(Some(1)) {
        let (all, _) = inodes::collect(&scanner, view, |inode, found: &mut Vec<BlockNo>, _| {
            found.push(inode.blkno());
        });
        for blkno in all {
            if let Ok(inode) = cowfs_format::read::inode::read(view, blkno) {
                holdings::for_each_run(view, &inode, &mut |run| {
                    if let Ok(run) = run {
                        census.run(&inode, run);
                    }
                });
            }
        }
    }
    let mut places: Vec<Place> = census.places.into_values().collect();
    places.sort_by_key(|place| (place.kind, place.blkno));
    places
}

impl Census<'_> {
    fn plain(&mut self, kind: &'static str, blkno: BlockNo, forced: Forced) {
        self.add(kind, blkno, 1, None, forced);
    }

    fn add(
        &mut self,
        kind: &'static str,
        blkno: BlockNo,
        blocks: usize,
        check_at: Option<usize>,
        forced: Forced,
    ) {
        let mut signature = [0; 8];
        if let Ok(bytes) = self.view.raw(blkno) {
            signature.copy_from_slice(bytes.get(..8).unwrap_or(&[0; 8]));
        }
        let check_at = check_at.or_else(|| check_offset_of(signature));
        let check_at = check_at.filter(|_| self.view.has_ecc());
        match self.places.get_mut(&blkno) {
            Some(place) => place.forced.add(&forced),
            None => {
                let place = Place {
                    kind,
                    blkno,
                    blocks,
                    check_at,
                    forced,
                };
                self.places.insert(blkno, place);
            }
        }
    }

    fn run(&mut self, inode: &Inode<'_>, run: Run) {
        let own = inode.blkno();
        let info = self.view.info();
        let system = self.system.get(&own).copied();
        let ours = system.is_none() && own != info.system_dir;
        let is_dir = inode.file_type() == Some(FileType::Directory);
        let itself = || [own].into_iter().filter(|_| ours).collect::<BTreeSet<_>>();
        let contents = || Forced {
            objects: if is_dir { BTreeSet::new() } else { itself() },
            names: if is_dir { itself() } else { BTreeSet::new() },
            attributes: BTreeSet::new(),
        };
        let attributes = || Forced {
            attributes: itself(),
            ..Forced::default()
        };
        match run.purpose {
            Purpose::Inode => {
                let forced = Forced {
                    objects: itself(),
                    names: itself(),
                    attributes: itself(),
                };
                self.plain(
                    inode_kind(inode, system, info.root, info.system_dir),
                    own,
                    forced,
                );
            }
            Purpose::ExtentBlock => {
                // A tree of attributes or of an index has extent blocks as well.
                let mut forced = contents();
                forced.attributes = itself();
                self.plain("extent block", run.blkno, forced);
            }
            Purpose::IndexRoot => self.plain("index root", run.blkno, Forced::default()),
            Purpose::IndexLeaf => {
                for blkno in blocks(run) {
                    self.plain("index leaf", blkno, Forced::default());
                }
            }
            Purpose::XattrBlock => self.plain("xattr block", run.blkno, attributes()),
            Purpose::XattrBucket => {
                let each = XATTR_BUCKET >> self.view.geo().block_bits();
                for blkno in blocks(run).step_by(each.max(1)) {
                    self.add("xattr bucket", blkno, each.max(1), Some(8), attributes());
                }
            }
            Purpose::RefcountRoot => self.plain("refcount root", run.blkno, Forced::default()),
            Purpose::RefcountLeaf => self.plain("refcount leaf", run.blkno, Forced::default()),
            Purpose::RefcountExtent => {
                self.plain("refcount extent block", run.blkno, Forced::default());
            }
            Purpose::GroupDescriptor => {
                let kind = match system {
                    Some(SystemFile::GlobalBitmap) => "cluster group",
                    Some(SystemFile::ExtentAlloc(_)) => "metadata group",
                    _ => "inode group",
                };
                self.plain(kind, run.blkno, Forced::default());
            }
            Purpose::Data if is_dir => {
                let kind = match system {
                    Some(_) => "orphan directory block",
                    None if own == info.root => "root directory block",
                    None if own == info.system_dir => "system directory block",
                    None => "directory block",
                };
                let check = self.view.geo().block_bytes() - 8;
                let check = has_trailer(self.view, inode).then_some(check);
                let all = self.view.geo().blocks_for(inode.i_size.get());
                let left = all.saturating_sub(run.offset.unwrap_or(0)).min(run.blocks);
                for blkno in (0..left).map(|i| run.blkno.plus(i)) {
                    self.add(kind, blkno, 1, check, contents());
                }
            }
            Purpose::Data if system.is_some() => self.system_data(inode, run),
            _ => {}
        }
    }

    fn system_data(&mut self, inode: &Inode<'_>, run: Run) {
        let all = self.view.geo().blocks_for(inode.i_size.get());
        let from = run.offset.unwrap_or(0);
        let left = all.saturating_sub(from).min(run.blocks);
        let left = match self.system.get(&inode.blkno()) {
            Some(SystemFile::Journal(_)) => left.min(LOG_BLOCKS.saturating_sub(from)),
            Some(SystemFile::Heartbeat | SystemFile::SlotMap) => {
                left.min(PLAIN_BLOCKS.saturating_sub(from))
            }
            _ => left,
        };
        let end_check = self.view.geo().block_bytes() - 8;
        for blkno in (0..left).map(|i| run.blkno.plus(i)) {
            let Ok(bytes) = self.view.raw(blkno) else {
                continue;
            };
            let is_log = matches!(
                self.system.get(&inode.blkno()),
                Some(SystemFile::Journal(_))
            );
            let (kind, check_at) = match kind_of(self.view, blkno, &bytes) {
                BlockKind::JournalSuper => ("journal superblock", None),
                _ if is_log => ("journal log", None),
                BlockKind::SlotMap | BlockKind::SlotMapExtended => ("slot map", None),
                BlockKind::Heartbeat => ("heartbeat", None),
                BlockKind::QuotaInfo => ("quota header", Some(end_check)),
                BlockKind::QuotaTree => ("quota tree", Some(end_check)),
                BlockKind::QuotaLeaf => ("quota entries", Some(end_check)),
                BlockKind::QuotaLocalInfo => ("local quota header", Some(end_check)),
                BlockKind::QuotaChunk | BlockKind::QuotaChanges => {
                    ("local quota changes", Some(end_check))
                }
                _ => continue,
            };
            self.add(kind, blkno, 1, check_at, Forced::default());
        }
    }
}

fn blocks(run: Run) -> impl Iterator<Item = BlockNo> {
    (0..run.blocks).map(move |i| run.blkno.plus(i))
}

fn inode_kind(
    inode: &Dinode,
    system: Option<SystemFile>,
    root: BlockNo,
    system_dir: BlockNo,
) -> &'static str {
    use SystemFile as S;
    let blkno = BlockNo(inode.i_blkno.get());
    if blkno == root {
        return "inode: root directory";
    }
    if blkno == system_dir {
        return "inode: system directory";
    }
    if let Some(file) = system {
        return match file {
            S::BadBlocks => "inode: bad_blocks",
            S::GlobalInodeAlloc => "inode: global_inode_alloc",
            S::SlotMap => "inode: slot_map",
            S::Heartbeat => "inode: heartbeat",
            S::GlobalBitmap => "inode: global_bitmap",
            S::UserQuota | S::GroupQuota => "inode: quota file",
            S::OrphanDir(_) => "inode: orphan_dir",
            S::ExtentAlloc(_) => "inode: extent_alloc",
            S::InodeAlloc(_) => "inode: inode_alloc",
            S::Journal(_) => "inode: journal",
            S::LocalAlloc(_) => "inode: local_alloc",
            S::TruncateLog(_) => "inode: truncate_log",
            S::LocalUserQuota(_) | S::LocalGroupQuota(_) => "inode: local quota file",
        };
    }
    let inline = inode.dyn_features().contains(DynFeatures::INLINE_DATA);
    match inode.file_type() {
        Some(FileType::Directory) if inline => "inode: directory in it",
        Some(FileType::Directory) => "inode: directory with blocks",
        Some(FileType::Symlink) => "inode: symbolic link",
        Some(FileType::Regular) if inline => "inode: file in it",
        Some(FileType::Regular) if inode.i_last_eb_blk.get() != 0 => "inode: file with a tree",
        Some(FileType::Regular) => "inode: file",
        _ => "inode: device, pipe or socket",
    }
}
