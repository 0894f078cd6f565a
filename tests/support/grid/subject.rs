//! Sound volumes to be damaged, with what is known of them before.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cowfs_format::block::{View, VolumeInfo};
use cowfs_format::device::{Device, MmapDevice, OverlayDevice};
use cowfs_format::layout::Incompat;
use cowfs_format::layout::jbd2::{BlockHeader, DESCRIPTOR, MAGIC};
use cowfs_format::ops;
use cowfs_format::read::extent::Extent;
use cowfs_format::read::inode;
use cowfs_format::read::journal::Journal;
use cowfs_format::read::log;
use cowfs_format::units::{BlockNo, Slot, index};
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};
use tempfile::NamedTempFile;
use zerocopy::FromBytes;

use super::census::{self, Place};
use super::contents::Contents;
use crate::oracle;
use crate::session::{NOW, Session, find, pattern, source, writable};

/// Bytes that are copied at a time; what is zero for so long stays a hole.
const PIECE: u64 = 1 << 16;

/// A sound volume that is never written: damage and repairs lie over it.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    pub(super) device: &'static dyn Device,
    pub(super) info: VolumeInfo,
    /// All blocks of metadata, by kind.
    pub places: Vec<Place>,
    /// What blocks held before, by the logs of the journals.
    pub(super) older: BTreeMap<BlockNo, Box<[u8]>>,
    /// The blocks of all journals.
    pub(super) journals: BTreeSet<u64>,
    /// What it holds.
    pub contents: Contents,
    /// The codes that fsck.ocfs2 wrongly gives for it.
    pub(super) foreign: BTreeSet<String>,
    /// Where it is not zero: numbers of pieces.
    pieces: BTreeSet<u64>,
    /// Keeps the image that is mapped.
    _image: NamedTempFile,
}

/// A golden image as a subject.
///
/// # Errors
/// There is none of the name, or fsck.ocfs2 does not work.
pub fn golden(name: &str) -> Result<&'static Subject> {
    Subject::new(name, crate::golden::open(name)?)
}

/// A volume made by mkfs.cowfs and our own writers, with more of everything and backup superblocks; with checks
/// in its blocks or without.
///
/// # Errors
/// It cannot be made.
pub fn rich(checks: bool) -> Result<&'static Subject> {
    let image = NamedTempFile::new()?;
    let features = if checks {
        "--fs-feature-level=max-features"
    } else {
        "--fs-features=refcount,xattr,indexed-dirs,discontig-bg"
    };
    let path = image.path().to_string_lossy().into_owned();
    let args = [
        "mkfs.cowfs",
        "-q",
        "-F",
        "--size",
        "1100M",
        "-b",
        "4096",
        "-C",
        "4096",
        "-N",
        "2",
    ];
    let args = args.into_iter().chain(["-J", "size=4M", features, &path]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = mkfs_cowfs::run(args, &mut out, &mut err);
    ensure!(code == 0, "mkfs.cowfs: {}", String::from_utf8_lossy(&err));
    fill(image.path())?;
    Subject::new(if checks { "rich" } else { "rich, no checks" }, image)
}

/// Fills a volume: trees of directories, an indexed one of many names, files of all sizes, clones that were
/// written over in many places, attributes in all places.
fn fill(image: &Path) -> cowfs_format::error::Result<()> {
    let mut volume = writable(image);
    for path in [
        "many",
        "tree",
        "tree/a",
        "tree/a/b",
        "tree/a/b/c",
        "tree/d",
        "clones",
        "attributes",
    ] {
        volume.mkdir(path)?;
    }
    for batch in 0..10 {
        let names: Vec<Vec<u8>> = (0..150)
            .map(|i| format!("a name of some length {batch}-{i}").into_bytes())
            .collect();
        volume.touch("many", &names)?;
    }
    for (number, place) in ["tree", "tree/a", "tree/a/b", "tree/a/b/c", "tree/d"]
        .iter()
        .enumerate()
    {
        for (name, len) in [("tiny", 100), ("small", 7000), ("large", 300_000)] {
            let seed = number as u64 * 10 + len as u64;
            volume.write(&format!("{place}/{name}"), &pattern(len, seed))?;
        }
    }
    volume.write("clones/first", &pattern(6_000_000, 1))?;
    for number in 0..4 {
        let to = format!("clones/of-it-{number}");
        volume.reflink("clones/first", &to)?;
        // Every third cluster becomes its own: trees of extents and of counts grow leaves.
        let inode = find(&volume, &to)?;
        for batch in 0..5u64 {
            let mut txn = volume.begin()?;
            for i in 0..90u64 {
                let at = (batch * 270 + i * 3 + number % 3) * 4096;
                let host = source(&pattern(4096, at + number));
                ops::overwrite(&mut txn, inode, at, (&host.file, "source"), NOW, &|_| {})?;
            }
            txn.commit()?;
        }
    }
    for (name, count, len) in [
        ("in-it", 3, 20),
        ("block", 8, 300),
        ("buckets", 120, 200),
        ("long", 3, 9000),
    ] {
        let path = format!("attributes/{name}");
        volume.write(&path, &pattern(5000, count))?;
        let inode = find(&volume, &path)?;
        for i in 0..count {
            let mut txn = volume.begin()?;
            let attribute = format!("user.attribute-{i}");
            ops::set_xattr(&mut txn, inode, attribute.as_bytes(), &pattern(len, i), NOW)?;
            txn.commit()?;
        }
    }
    Ok(())
}

impl Subject {
    /// Looks at a sound image.
    ///
    /// # Errors
    /// It is no volume, or fsck.ocfs2 does not work.
    pub fn new(name: &str, image: NamedTempFile) -> Result<&'static Self> {
        let device: &'static MmapDevice = Box::leak(Box::new(MmapDevice::new(image.as_file())?));
        let device: &'static dyn Device = device;
        let volume = Volume::open(device)?;
        let view = volume.view();
        let foreign =
            oracle::check(image.path()).with_context(|| format!("fsck.ocfs2 on {name}"))?;
        let mut pieces = BTreeSet::new();
        for number in 0..device.size().div_ceil(PIECE) {
            let at = number * PIECE;
            let len = index((device.size() - at).min(PIECE));
            if device
                .mapped(at, len)
                .is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
            {
                pieces.insert(number);
            }
        }
        let subject = Self {
            name: name.to_owned(),
            device,
            info: view.info().clone(),
            places: census::take(view),
            older: older(view),
            journals: journals(view)
                .iter()
                .flat_map(|journal| blocks(view, journal))
                .collect(),
            contents: Contents::of(view),
            foreign: foreign.codes.into_iter().collect(),
            pieces,
            _image: image,
        };
        Ok(Box::leak(Box::new(subject)))
    }

    /// The volume, to be damaged.
    #[must_use]
    pub fn overlay(&self) -> OverlayDevice<&'static dyn Device> {
        OverlayDevice::new(self.device)
    }

    /// Whether its blocks carry checks.
    #[must_use]
    pub const fn has_checks(&self) -> bool {
        self.info.has(Incompat::META_ECC)
    }

    /// An image of a state of the volume.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn image(&self, state: &OverlayDevice<&'static dyn Device>) -> Result<NamedTempFile> {
        let file = NamedTempFile::new()?;
        file.as_file().set_len(state.size())?;
        let changed = state
            .changed(512)
            .into_iter()
            .map(|sector| sector * 512 / PIECE);
        let pieces: BTreeSet<u64> = self.pieces.iter().copied().chain(changed).collect();
        let mut bytes = vec![0; index(PIECE)];
        for at in pieces.into_iter().map(|number| number * PIECE) {
            let len = index((state.size() - at).min(PIECE));
            state.read_at(at, &mut bytes[..len])?;
            file.as_file().write_all_at(&bytes[..len], at)?;
        }
        Ok(file)
    }
}

fn journals(view: View<'_>) -> Vec<Journal> {
    let slots = (0..view.info().max_slots).map(Slot);
    let open = |slot| Journal::open(view, system::find(view, SystemFile::Journal(slot)).ok()?).ok();
    slots.filter_map(open).collect()
}

/// The blocks of a journal.
fn blocks(view: View<'_>, journal: &Journal) -> BTreeSet<u64> {
    let each = view.geo().blocks_per_cluster();
    let run = |extent: Extent| extent.blkno.0..extent.blkno.0 + u64::from(extent.clusters) * each;
    let inode = inode::read(view, journal.inode);
    let extents = inode.and_then(|inode| inode.extents(view));
    extents
        .unwrap_or_default()
        .into_iter()
        .flat_map(run)
        .collect()
}

/// The oldest image of each block in the logs that is not what the block holds now, but of its kind.
fn older(view: View<'_>) -> BTreeMap<BlockNo, Box<[u8]>> {
    let mut found: BTreeMap<BlockNo, (u32, Box<[u8]>)> = BTreeMap::new();
    for journal in journals(view) {
        let sb = &journal.superblock;
        for at in sb.s_first.get()..sb.s_maxlen.get() {
            let block = journal.home(at.into()).and_then(|home| view.raw(home));
            let Ok(block) = block else { continue };
            let Ok((head, _)) = BlockHeader::read_from_prefix(&block) else {
                continue;
            };
            if head.h_magic.get() != MAGIC || head.h_blocktype.get() != DESCRIPTOR {
                continue;
            }
            let (mut place, sequence) = (at, head.h_sequence.get());
            for tag in log::tags(&block, journal.form()) {
                place = journal.next(place);
                let image = journal.home(place.into()).and_then(|home| view.raw(home));
                let (Ok(image), Ok(now)) = (image, view.raw(tag.home)) else {
                    continue;
                };
                let older = found
                    .get(&tag.home)
                    .is_none_or(|(known, _)| sequence < *known);
                if older && *image != *now && image.get(..8) == now.get(..8) {
                    found.insert(tag.home, (sequence, image.into_owned()));
                }
            }
        }
    }
    found
        .into_iter()
        .map(|(home, (_, image))| (home, image))
        .collect()
}
