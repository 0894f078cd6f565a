//! The story that the format was made for: a system image, its clone, and who pays for what.
//!
//! Our tools put the image in and clone it; the driver reads both and overwrites a part of the
//! clone; we make the same overwrite on another clone. The original never changes, both clones end
//! with the same bytes, and both overwrites cost the same space.
//!
//! The driver's bytes are judged on the host: the guest reads the files past its page cache and
//! writes them to disks of its own, which emulation does at the speed of the host's disk, where a
//! sum taken in the guest would take minutes.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cowfs_format::device::FileDevice;
use cowfs_format::read::inode;
use cowfs_format::volume::{Volume, path};
use cowfs_tests::{Guest, Kernel, need, oracle, place};

const MIB: u64 = 1 << 20;

/// How large a story.
struct Story {
    image_bytes: u64,
    volume_bytes: u64,
    /// First megabyte of the clone that is overwritten, and how many are.
    seek: u64,
    count: u64,
}

/// What the guest does with the disks vda (the volume) and vdb..vde (to hand files out).
fn script(story: &Story) -> String {
    let (seek, count) = (story.seek, story.count);
    format!(
        r#"
        hand_out() {{
            dd if="$1" of="$2" bs=16M iflag=direct oflag=direct conv=notrunc status=none
        }}
        mount_vol
        cd $MNT
        hand_out original /dev/vdb
        hand_out clone /dev/vdc
        dd if=/dev/zero of=clone bs=1M count={count} seek={seek} conv=notrunc status=none
        umount_vol
        mount_vol
        cd $MNT
        hand_out original /dev/vdd
        hand_out clone /dev/vde
        umount_vol
    "#
    )
}

/// The stage: a directory that holds the disks, and the tools.
struct Stage {
    dir: tempfile::TempDir,
    tools: PathBuf,
}

impl Stage {
    fn new() -> Self {
        // Not in /tmp, which may be memory: the disks of the full story hold 13 GB.
        let dir = tempfile::tempdir_in(place::target_dir()).unwrap();
        // target/PROFILE/deps/origin-HASH
        let exe = std::env::current_exe().unwrap();
        let tools = exe.ancestors().nth(2).unwrap().to_path_buf();
        Self { dir, tools }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs one of our programs; its output.
    fn ours(&self, program: &str, args: &[&str]) -> String {
        let ran = Command::new(self.tools.join(program))
            .current_dir(self.dir.path())
            .env_remove("SOURCE_DATE_EPOCH")
            .args(args)
            .output();
        let ran = ran.unwrap_or_else(|e| {
            panic!("{program}: {e}; the tests need `cargo build --workspace --bins` first")
        });
        assert!(
            ran.status.success(),
            "{program} {args:?}: {}\n{}{}",
            ran.status,
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Clusters in use, as `df` says.
    fn used(&self) -> u64 {
        let line = self.ours("debugfs-cowfs", &["--json", "-R", "df", "volume"]);
        let key = "\"clusters_used\":";
        let rest = line.split_once(key).unwrap().1;
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()]
            .parse()
            .unwrap()
    }

    fn clone(&self, name: &str) -> u64 {
        let before = self.used();
        self.ours(
            "reflink-cowfs",
            &["clone", "-q", "volume", "/original", name],
        );
        self.used() - before
    }

    /// Both checkers have nothing to say.
    fn assert_sound(&self) {
        let report = oracle::check(&self.path("volume")).unwrap();
        assert!(report.is_silent(), "{report:?}");
        self.ours("fsck-cowfs", &["-fn", "volume"]);
    }

    /// Clusters that a file of the volume has for itself, and their size.
    fn own_clusters(&self, name: &str) -> (u64, u64) {
        let file = File::open(self.path("volume")).unwrap();
        let volume = Volume::open(FileDevice::new(file).unwrap()).unwrap();
        let view = volume.view();
        let blkno = path::resolve(view, view.info().root, name.as_bytes()).unwrap();
        let extents = inode::read(view, blkno).unwrap().extents(view).unwrap();
        let own = extents.iter().filter(|extent| !extent.is_refcounted());
        let clusters = own.map(|extent| u64::from(extent.clusters)).sum();
        (clusters, view.geo().cluster_bytes())
    }
}

/// Bytes that no filesystem can share or compress, the same in every run.
fn make_image(to: &Path, bytes: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to).unwrap());
    let (mut state, mut left) = (0x9E37_79B9_7F4A_7C15_u64, bytes);
    let mut chunk = vec![0; 1 << 16];
    while left > 0 {
        for word in chunk.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        let now = usize::try_from(left).map_or(chunk.len(), |l| l.min(chunk.len()));
        out.write_all(&chunk[..now]).unwrap();
        left -= now as u64;
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// Asserts that a file begins with the bytes of the image, with zeros where they were overwritten.
fn assert_reads(found: &Path, image: &Path, zeros: Option<(u64, u64)>) {
    let bytes = image.metadata().unwrap().len();
    let (mut found_file, mut image_file) = (File::open(found).unwrap(), File::open(image).unwrap());
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < bytes {
        let now = usize::try_from((bytes - at).min(MIB)).unwrap();
        found_file.read_exact(&mut a[..now]).unwrap();
        image_file.read_exact(&mut b[..now]).unwrap();
        if let Some((from, len)) = zeros
            && (from..from + len).contains(&at)
        {
            b.fill(0);
        }
        assert!(
            a[..now] == b[..now],
            "{} differs in megabyte {}",
            found.display(),
            at / MIB
        );
        at += now as u64;
    }
}

fn tell(story: &Story) {
    need!(oracle::tools());
    let guest = need!(Guest::new(Kernel::V6_1));
    let began = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
    let stage = Stage::new();
    let (image, volume) = (stage.path("image"), stage.path("volume"));
    let overwritten = Some((story.seek * MIB, story.count * MIB));
    make_image(&image, story.image_bytes);

    stage.ours(
        "mkfs-cowfs",
        &["-q", "--size", &story.volume_bytes.to_string(), "volume"],
    );
    let put = &["-w", "-R", "write image /original", "volume"];
    stage.ours("debugfs-cowfs", put);
    said("the image is put in");
    // One is for the driver to write into, one for us. A clone costs an inode, and the first the
    // tree of counts; both come from groups that the volume makes in steps of a few megabytes.
    for clone in ["/clone", "/clone2"] {
        let grown = stage.clone(clone);
        assert!(grown <= 1024, "{clone} cost {grown} clusters");
    }
    stage.assert_sound();
    said("two clones are made, and cost nothing but metadata");

    let disks = ["original", "clone", "original-later", "clone-later"];
    let guest = disks.iter().fold(guest.disk(&volume), |guest, name| {
        let disk = stage.path(name);
        let file = File::create(&disk).unwrap();
        file.set_len(story.image_bytes.next_multiple_of(MIB))
            .unwrap();
        guest.disk(disk)
    });
    let before = stage.used();
    let seen = guest
        .timeout(Duration::from_secs(900))
        .run(&script(story))
        .unwrap()
        .expect_success();
    assert!(seen.kernel_log.is_empty(), "{seen}");
    said("the driver read both, and overwrote its clone");
    for (name, zeros) in disks.iter().zip([None, None, None, overwritten]) {
        assert_reads(&stage.path(name), &image, zeros);
        std::fs::remove_file(stage.path(name)).unwrap();
    }
    said("what the driver read is right, before and after");
    let driver_grew = stage.used() - before;
    let (driver_own, cluster) = stage.own_clusters("/clone");
    stage.assert_sound();

    // The same by us, on the other clone.
    let zeros = stage.path("zeros");
    let file = File::create(&zeros).unwrap();
    file.write_all_at(&[0], story.count * MIB - 1).unwrap();
    let before = stage.used();
    let command = format!("write zeros /clone2 --offset {}", story.seek * MIB);
    stage.ours("debugfs-cowfs", &["-w", "-R", &command, "volume"]);
    let we_grew = stage.used() - before;
    let (our_own, _) = stage.own_clusters("/clone2");
    stage.assert_sound();
    for (name, zeros) in [
        ("original", None),
        ("clone", overwritten),
        ("clone2", overwritten),
    ] {
        let to = stage.path(name);
        stage.ours(
            "debugfs-cowfs",
            &["-R", &format!("dump /{name} {name}"), "volume"],
        );
        assert_eq!(to.metadata().unwrap().len(), story.image_bytes);
        assert_reads(&to, &image, zeros);
        std::fs::remove_file(to).unwrap();
    }
    said("we overwrote ours: same bytes");

    // Copies are made in chunks of 1 MiB: the first and the last may reach beyond what is written.
    let (written, chunk) = (story.count * MIB / cluster, MIB / cluster);
    for own in [driver_own, our_own] {
        assert!(
            (written..written + 2 * chunk).contains(&own),
            "copied {own} clusters for {written}"
        );
    }
    assert_eq!(our_own, driver_own, "the same clusters are copied");
    // Beside the data, extent and refcount blocks, from groups of 1024 clusters at most.
    for (who, grew) in [("the driver", driver_grew), ("we", we_grew)] {
        eprintln!("{who}: {grew} clusters more are used, {our_own} were copied");
        assert!(
            (our_own..=our_own + 1024).contains(&grew),
            "{who}: df grew by {grew} clusters"
        );
    }
}

/// A tenth of it, in the suite.
#[test]
fn a_clone_is_overwritten_by_the_driver_and_by_us() {
    tell(&Story {
        image_bytes: 181_442_089,
        volume_bytes: 640 * MIB,
        seek: 50,
        count: 100,
    });
}

/// The figures of the announcement of 2009, in tests/bench/origin.
#[test]
#[ignore = "takes minutes and 13 GB of disk; tests/bench/origin runs it"]
fn a_clone_of_full_size_is_overwritten_by_the_driver_and_by_us() {
    tell(&Story {
        image_bytes: 1_814_420_898,
        volume_bytes: 6144 * MIB,
        seek: 500,
        count: 1000,
    });
}
