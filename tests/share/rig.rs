//! Volumes to share on, the program as it is called, and the judges.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cowfs_format::block::View;
use cowfs_format::device::{FileDevice, MemDevice};
use cowfs_format::layout::{FileType, InodeFlags};
use cowfs_format::read::{inode, refcount};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::inodes;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::manifest::{self, Manifest};
use cowfs_tests::oracle;
use cowfs_tests::session::NOW;
use mkfs_cowfs::Options;
use tempfile::TempDir;

/// An image of its own.
pub(crate) struct Image {
    _dir: TempDir,
    pub(crate) path: PathBuf,
}

impl Image {
    /// A new volume of so many MiB, after `fill` was done to it.
    pub(crate) fn new(
        mib: usize,
        options: &Options,
        fill: impl FnOnce(&mut Volume<&MemDevice>),
    ) -> Self {
        let device = MemDevice::new(vec![0; mib << 20]);
        let options = Options {
            uuid: Some([7; 16]),
            time: Some(NOW.seconds),
            ..options.clone()
        };
        mkfs_cowfs::format(&device, &options).unwrap();
        fill(&mut Volume::open(&device).unwrap());
        Self::of(&device.snapshot())
    }

    /// An image with these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        Self { _dir: dir, path }
    }

    pub(crate) fn volume(&self) -> Volume<FileDevice> {
        let file = std::fs::File::open(&self.path).unwrap();
        Volume::open(FileDevice::new(file).unwrap()).unwrap()
    }

    pub(crate) fn manifest(&self) -> Manifest {
        manifest::of(self.volume().view())
    }

    /// What the volume holds, sharing and times apart.
    pub(crate) fn contents(&self) -> String {
        let fields = cowfs_format::ops::manifest::Fields {
            sharing: false,
            ..manifest::ALL
        };
        manifest::to_text(&manifest::gathered(self.volume().view(), fields, 2))
    }

    /// Runs the program: `VERB OPTIONS` (split at blanks), the image, `PATHS`.
    pub(crate) fn run(&self, verb: &str, paths: &[&str]) -> Ran {
        let mut args: Vec<&OsStr> = vec!["reflink.cowfs".as_ref()];
        args.extend(verb.split_whitespace().map(OsStr::new));
        args.push(self.path.as_os_str());
        args.extend(paths.iter().map(OsStr::new));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = reflink_cowfs::run(args, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code,
            out: text(out),
            err: text(err),
        }
    }

    /// Runs the program, which must succeed; what it said as JSON.
    pub(crate) fn json(&self, verb: &str, paths: &[&str]) -> serde_json::Value {
        let ran = self.run(&format!("{verb} --json"), paths);
        assert_eq!(ran.code, 0, "{verb} {paths:?}: {}{}", ran.out, ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }

    /// Both checkers are silent, and each tree counts what is mapped.
    pub(crate) fn is_sound(&self, what: &str) {
        let said = self.fsck();
        assert_eq!(said.0, 0, "{what}: {}", said.1);
        counted_right(self.volume().view(), what);
        if oracle::tools().is_ok() {
            let report = oracle::check(&self.path).unwrap();
            assert!(
                report.is_silent() && report.finished(),
                "{what}: {report:?}"
            );
        }
    }

    pub(crate) fn fsck(&self) -> (u8, String) {
        fsck(&self.path)
    }
}

pub(crate) fn fsck(image: &Path) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    (
        code,
        String::from_utf8_lossy(&[out, err].concat()).into_owned(),
    )
}

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Counts, naively, which inode maps which cluster, and holds the refcount trees against that. No
/// inode maps a cluster twice. Gives the number of different clusters of files.
pub(crate) fn counted_right(view: View<'_>, what: &str) -> usize {
    let geo = *view.geo();
    let scanner = Scanner::new(Some(1)).unwrap();
    let (files, faults) = inodes::collect(&scanner, view, |inode, found, _| {
        let users = inode.file_type() == Some(FileType::Regular)
            && !inode.flags().intersects(InodeFlags::SYSTEM);
        if users && inode.has_extents() {
            found.push(inode.blkno());
        }
    });
    assert!(faults.is_empty(), "{what}: {faults:?}");
    let mut mapped: BTreeMap<u64, u32> = BTreeMap::new();
    let mut marked: BTreeMap<u64, BlockNo> = BTreeMap::new();
    for blkno in files {
        let inode = inode::read(view, blkno).unwrap();
        let mut own = std::collections::BTreeSet::new();
        for extent in inode.extents(view).unwrap() {
            let first = u64::from(geo.cluster_of(extent.blkno).0);
            for cluster in first..first + u64::from(extent.clusters) {
                assert!(
                    own.insert(cluster),
                    "{what}: {blkno} maps cluster {cluster} twice"
                );
                *mapped.entry(cluster).or_default() += 1;
                if extent.is_refcounted() {
                    let tree = BlockNo(inode.i_refcount_loc.get());
                    let other = marked.insert(cluster, tree);
                    assert!(other.is_none_or(|other| other == tree), "{what}: {cluster}");
                }
            }
        }
    }
    let mut counted: BTreeMap<u64, u32> = BTreeMap::new();
    let trees: std::collections::BTreeSet<BlockNo> = marked.values().copied().collect();
    for tree in trees {
        for rec in refcount::records(view, tree).unwrap() {
            let first = rec.r_cpos.get();
            for cluster in first..first + u64::from(rec.r_clusters.get()) {
                counted.insert(cluster, rec.r_refcount.get());
            }
        }
    }
    for (cluster, count) in &mapped {
        let expected = marked.contains_key(cluster).then_some(*count);
        // Clusters of large attributes are counted too, but belong to no file's data.
        assert_eq!(
            counted.get(cluster).copied(),
            expected,
            "{what}: cluster {cluster}"
        );
    }
    mapped.len()
}
