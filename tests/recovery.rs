//! What the driver makes of volumes that fsck.cowfs recovered or repaired.
//!
//! A slot that was not left cleanly is settled by the next mount, or by fsck.cowfs: both must end
//! with the same tree, the same space in use and the same quota. And a volume that lost a block of
//! its own structures must be one that the driver mounts, writes and unmounts without a word.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cowfs_format::device::MmapDevice;
use cowfs_format::layout::{GLOBAL_QUOTA_MAGIC, RoCompat};
use cowfs_format::read::quota::{GlobalQuota, Met};
use cowfs_format::read::{inode, slot_map};
use cowfs_format::units::Slot;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};
use cowfs_tests::{Guest, Kernel, golden, manifest, need, oracle};
use tempfile::NamedTempFile;

/// Left by crashes, for local mounts.
const CRASHED: &[&str] = &["dirty-journal", "orphans", "truncate-log"];

/// Runs fsck.cowfs on an image; its exit status.
fn fsck(image: &Path, options: &str) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs", options, image.to_str().unwrap()].map(Into::into);
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    out.extend(err);
    (code, String::from_utf8_lossy(&out).into_owned())
}

/// What two recoveries must agree on.
#[derive(Debug, PartialEq)]
struct State {
    tree: Vec<String>,
    /// Clusters in use, and bits in use of the slot's allocators.
    used: Vec<u32>,
    /// Usage of users and groups: bytes and inodes.
    quota: BTreeMap<(usize, u32), (u64, u64)>,
}

impl State {
    fn of(image: &Path) -> Self {
        let file = std::fs::File::open(image).unwrap();
        let volume = Volume::open(MmapDevice::new(&file).unwrap()).unwrap();
        let view = volume.view();
        let tree = manifest::to_text(&manifest::of(view));
        let slot = Slot(0);
        let files = [
            SystemFile::GlobalBitmap,
            SystemFile::InodeAlloc(slot),
            SystemFile::ExtentAlloc(slot),
        ];
        let used = files.map(|file| {
            let blkno = system::find(view, file).unwrap();
            inode::read(view, blkno).unwrap().bitmap_used()
        });
        let mut quota = BTreeMap::new();
        let kinds = [
            (RoCompat::USRQUOTA, SystemFile::UserQuota),
            (RoCompat::GRPQUOTA, SystemFile::GroupQuota),
        ];
        for (kind, (feature, file)) in kinds.into_iter().enumerate() {
            if !view.info().features.ro_compat.contains(feature) {
                continue;
            }
            let blkno = system::find(view, file).unwrap();
            let file = GlobalQuota::open(view, blkno, GLOBAL_QUOTA_MAGIC[kind]).unwrap();
            file.walk(&mut |met| {
                if let Met::Entry(entry) = met {
                    let used = (entry.dqb_curspace.get(), entry.dqb_curinodes.get());
                    // What is not used and has no limits may have an entry or none.
                    if used != (0, 0) {
                        quota.insert((kind, entry.dqb_id.get()), used);
                    }
                }
            });
        }
        Self {
            tree: tree.lines().map(str::to_owned).collect(),
            used: used.to_vec(),
            quota,
        }
    }
}

/// A block of each kind of the volume's own, by what it is.
fn own_blocks(image: &Path) -> Vec<(String, u64)> {
    let file = std::fs::File::open(image).unwrap();
    let volume = Volume::open(MmapDevice::new(&file).unwrap()).unwrap();
    let view = volume.view();
    let slot = Slot(0);
    let files = [
        SystemFile::GlobalInodeAlloc,
        SystemFile::SlotMap,
        SystemFile::Heartbeat,
        SystemFile::GlobalBitmap,
        SystemFile::UserQuota,
        SystemFile::OrphanDir(slot),
        SystemFile::ExtentAlloc(slot),
        SystemFile::InodeAlloc(slot),
        SystemFile::Journal(slot),
        SystemFile::LocalAlloc(slot),
        SystemFile::TruncateLog(slot),
        SystemFile::LocalGroupQuota(slot),
    ];
    let mut blocks = vec![
        ("superblock".to_owned(), 2),
        ("system directory".to_owned(), view.info().system_dir.0),
        ("root directory".to_owned(), view.info().root.0),
        ("cluster group".to_owned(), view.geo().group_block(0).0),
    ];
    for file in files {
        blocks.push((file.name(), system::find(view, file).unwrap().0));
    }
    blocks
}

/// Two nodes of a cluster died with the volume mounted: both slots are settled and free.
#[test]
fn what_dead_nodes_left_is_settled() {
    need!(oracle::tools());
    let image = golden::open("two-dirty-slots").unwrap();
    let before = State::of(image.path()).tree;
    let (code, said) = fsck(image.path(), "-y");
    assert_eq!(code, 1, "{said}");
    let (code, said) = fsck(image.path(), "-fn");
    assert_eq!(code, 0, "{said}");
    assert!(
        !said.contains("[X_SLOT") && !said.contains("[INODE_ORPHANED"),
        "{said}"
    );
    assert_eq!(State::of(image.path()).tree, before);
    let file = std::fs::File::open(image.path()).unwrap();
    let volume = Volume::open(MmapDevice::new(&file).unwrap()).unwrap();
    for state in volume.journals() {
        assert!(!state.journal.as_ref().unwrap().dirty, "{}", state.slot);
    }
    let slot_map = system::find(volume.view(), SystemFile::SlotMap).unwrap();
    let nodes = slot_map::read(volume.view(), slot_map).unwrap();
    assert!(nodes.iter().all(Option::is_none), "{nodes:?}");
    let report = oracle::check(image.path()).unwrap();
    // What it says of any system directory with blocks of its own: its own mistake.
    assert_eq!(report.codes, ["DX_TREE_MISSING"], "{}", report.transcript);
    assert!(report.finished(), "{}", report.transcript);
}

#[test]
fn the_driver_agrees() {
    need!(oracle::tools());
    let mut guest = need!(Guest::new(Kernel::V6_1));
    let mut letters = 'a'..='z';
    let mut script = String::new();
    // The driver's own recovery.
    let mut theirs: Vec<(&str, NamedTempFile)> = Vec::new();
    for name in CRASHED {
        let image = golden::open(name).unwrap();
        guest = guest.disk(image.path());
        let letter = letters.next().unwrap();
        // Orphans are removed a while after the mount.
        script += &format!("DISK=/dev/vd{letter}; mount_vol; sync; sleep 3; umount_vol\n");
        script += &format!("DISK=/dev/vd{letter}; mount_vol; umount_vol\n");
        theirs.push((name, image));
    }
    // What fsck.cowfs repaired.
    let sound = golden::open("b4k-c4k-max").unwrap();
    let mut repaired = Vec::new();
    for (what, blkno) in own_blocks(sound.path()) {
        let image = golden::open("b4k-c4k-max").unwrap();
        image
            .as_file()
            .write_all_at(&[0; 4096], blkno * 4096)
            .unwrap();
        let (code, said) = fsck(image.path(), "-fy");
        assert_eq!(code, 1, "{what}: {said}");
        guest = guest.disk(image.path());
        let letter = letters.next().unwrap();
        script += &format!(
            "echo '{what}' >&2; DISK=/dev/vd{letter}; mount_vol; ls -R $MNT >/dev/null; \
             mkdir $MNT/new; cp -r $MNT/lost+found $MNT/new; rm -r $MNT/new; umount_vol\n"
        );
        repaired.push((what, image));
    }
    let said = guest.run(&script).unwrap().expect_success();
    assert!(said.kernel_log.is_empty(), "{said}");
    for (what, image) in repaired {
        let (code, said) = fsck(image.path(), "-fn");
        assert_eq!(code, 0, "{what}: {said}");
    }
    for (name, theirs) in theirs {
        let ours = golden::open(name).unwrap();
        let (code, said) = fsck(ours.path(), "-y");
        assert_eq!(code, 1, "{name}: {said}");
        let (code, said) = fsck(ours.path(), "-fy");
        assert_eq!(code, 0, "{name}: {said}");
        let report = oracle::check(ours.path()).unwrap();
        let before = oracle::check(theirs.path()).unwrap();
        assert_eq!(report.codes, before.codes, "{name}: {}", report.transcript);
        assert_eq!(State::of(ours.path()), State::of(theirs.path()), "{name}");
    }
}
