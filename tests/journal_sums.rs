//! Logs with checksums (versions 2 and 3) and 64-bit tags. The driver makes none by itself on these
//! volumes, but it keeps to the features that the journal's superblock names: here they are set by
//! us, the driver writes a log and dies, we read it; and the other way round.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::File;
use std::path::{Path, PathBuf};

use cowfs_format::device::{DeviceMut, FileDevice, MemDevice};
use cowfs_format::layout::jbd2::{INCOMPAT_64BIT, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3};
use cowfs_format::read::log::Sums;
use cowfs_format::toolkit::open;
use cowfs_format::volume::Volume;
use cowfs_tests::session::{contents, killed_commit, pattern};
use cowfs_tests::{Ending, Guest, Kernel, need, sum};
use mkfs_cowfs::Options;
use tempfile::TempDir;
use zerocopy::IntoBytes;

const FORMS: [u32; 4] = [
    INCOMPAT_CSUM_V2,
    INCOMPAT_CSUM_V2 | INCOMPAT_64BIT,
    INCOMPAT_CSUM_V3,
    INCOMPAT_CSUM_V3 | INCOMPAT_64BIT,
];

/// A volume whose journal has these features.
fn volume(image: &Path, incompat: u32) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .unwrap();
    file.set_len(64 << 20).unwrap();
    let device = FileDevice::new(file).unwrap();
    let options = Options {
        journal64: Some(true),
        ..Options::default()
    };
    mkfs_cowfs::format(&device, &options).unwrap();
    let volume = Volume::open(&device).unwrap();
    let journal = volume.journals()[0].journal.as_ref().unwrap();
    let mut superblock = journal.superblock;
    superblock.s_feature_incompat = incompat.into();
    // CRC-32C.
    superblock.s_checksum_type = 4;
    Sums::of(&superblock).stamp_superblock(&mut superblock);
    let at = volume.info().geo.byte_of(journal.home(0).unwrap());
    device.write_at(at, superblock.as_bytes()).unwrap();
}

fn guest(images: &[PathBuf]) -> anyhow::Result<Guest> {
    Ok(images.iter().fold(Guest::new(Kernel::V6_1)?, Guest::disk))
}

#[test]
fn logs_with_checksums_are_read_and_written_as_the_driver_does() {
    let dir = TempDir::new().unwrap();
    let images: Vec<PathBuf> = (0..FORMS.len())
        .map(|i| dir.path().join(format!("image-{i}")))
        .collect();
    for (image, form) in images.iter().zip(FORMS) {
        volume(image, form);
    }
    let guest_there = need!(guest(&images));
    let script = r#"
        for DISK in /dev/vda /dev/vdb /dev/vdc /dev/vdd; do
            MNT=/mnt/$(basename $DISK); mkdir -p $MNT; mount_vol
            for i in $(seq 60); do mkdir $MNT/d$i; echo $i >$MNT/d$i/file; done
            rm -r $MNT/d7
            xfs_io -c fsync $MNT/d60/file
        done
        crash
    "#;
    let said = guest_there.run(script).unwrap();
    assert_eq!(said.ending, Ending::Crashed, "{said}");
    assert!(said.kernel_log.is_empty(), "{said}");
    for (image, form) in images.iter().zip(FORMS) {
        let mut volume = writable_without_replay(image);
        let state = &volume.journals()[0];
        let journal = state.journal.as_ref().unwrap();
        let kept = journal.superblock.s_feature_incompat.get()
            & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 | INCOMPAT_64BIT);
        assert_eq!(kept, form, "the driver changed the features");
        assert_eq!(
            journal.superblock.s_checksum.get(),
            Sums::of_superblock(&journal.superblock)
        );
        assert!(state.pending_transactions > 0, "{form:#x}: {state:?}");
        assert_eq!(contents(&volume, "d60/file"), b"60\n");
        damaged_logs_are_noticed(image);
        volume.recover().unwrap();
        assert_eq!(contents(&volume, "d60/file"), b"60\n");
        drop(volume);
        killed_commit(image);
    }
    let script = r#"
        for DISK in /dev/vda /dev/vdb /dev/vdc /dev/vdd; do
            mount_vol
            sha256sum <$MNT/ours
            cat $MNT/d60/file
            ls $MNT | wc -l
            umount_vol
        done
    "#;
    let said = guest(&images)
        .unwrap()
        .run(script)
        .unwrap()
        .expect_success();
    let once = format!("{}  -\n60\n61\n", sum::sha256(&pattern(5000, 7)));
    assert_eq!(said.stdout, once.repeat(FORMS.len()));
    for image in &images {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
        fsck_cowfs::run(args, &mut out, &mut err);
        let said = String::from_utf8(out).unwrap();
        // ocfs2-tools do not know these features, of which volumes are to be warned; nothing else.
        let codes: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix('[')?.split(']').next())
            .collect();
        assert_eq!(codes, ["JOURNAL_UNKNOWN_FEATURE"], "{said}");
    }
}

fn writable_without_replay(image: &Path) -> Volume<FileDevice> {
    Volume::open(open::writable(image).unwrap()).unwrap()
}

/// One bit in any record or image of the log: a record ends the log before its transaction, an
/// image makes the log unusable.
fn damaged_logs_are_noticed(image: &Path) {
    let bytes = std::fs::read(image).unwrap();
    let volume = Volume::open(MemDevice::new(bytes.clone())).unwrap();
    let state = &volume.journals()[0];
    let (whole, journal) = (state.pending_transactions, state.journal.as_ref().unwrap());
    let start = journal.superblock.s_start.get();
    for nth in [0, 1, 2] {
        let at = (0..nth).fold(start, |at, _| journal.next(at));
        let home = volume.info().geo.byte_of(journal.home(at.into()).unwrap());
        let mut damaged = bytes.clone();
        damaged[usize::try_from(home).unwrap() + 200] ^= 4;
        let volume = Volume::open(MemDevice::new(damaged)).unwrap();
        let state = &volume.journals()[0];
        let less = state.journal.is_ok() && state.pending_transactions < whole;
        assert!(
            less || state.journal.is_err(),
            "block {at} of the log: {state:?}"
        );
    }
}
