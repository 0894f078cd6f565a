//! Volumes that are sealed as they are made: `mkfs.cowfs --seal`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowfs_format::volume::Volume;
use cowfs_tests::said::fsck;
use cowfs_tests::session::pattern;
use cowfs_tests::{manifest, need, oracle, place};

use crate::program::{seal_of, write};
use crate::rig::Dice;

/// A tree of a few files.
fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("large"), pattern(3 << 20, 1)).unwrap();
    for n in 0..300 {
        fs::write(source.join(format!("deep/file-{n}")), pattern(n * 40, 2)).unwrap();
    }
    fs::write(source.join("deep/er/small"), b"small").unwrap();
    source
}

/// Makes a volume, and says what the program said.
fn mkfs(image: &Path, options: &str) -> String {
    let words = ["mkfs.cowfs"].into_iter().chain(options.split_whitespace());
    let words = words.chain([image.to_str().unwrap()]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = mkfs_cowfs::run(words, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    String::from_utf8(out).unwrap()
}

fn listing(image: &Path) -> String {
    let device = cowfs_format::toolkit::open::read_only(image).unwrap();
    let volume = Volume::open(device).unwrap();
    manifest::to_text(&manifest::of(volume.view()))
}

/// Both checkers are content, the sums are right, and the files are those of the source.
fn is_sound(image: &Path, unsealed: &Path) {
    let path = image.to_str().unwrap();
    let (code, out, err) = fsck(&["-fn", path]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = fsck(&["--verify", path]);
    assert_eq!(code, 0, "{out}{err}");
    let said = oracle::check(image).unwrap();
    // What it wrongly objects to, it objects to in any case.
    let expected = oracle::check(unsealed).unwrap();
    assert_eq!(said.codes, expected.codes, "{}", said.transcript);
    let files = |image| {
        let listing = listing(image);
        let of_files = |line: &&str| !line.starts_with("./lost+found");
        listing
            .lines()
            .filter(of_files)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(files(image) == files(unsealed), "other files");
}

/// The room for a seal is found with the size, and what is lost comes back from it.
#[test]
fn a_volume_of_its_own_size_has_room_for_its_seal() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let plain = dir.path().join("plain.img");
    let how = format!(
        "-q -U 5a5a0000-0000-4000-8000-000000000001 --size auto -d {}",
        source.display()
    );
    mkfs(&plain, &how);
    for (number, seal) in ["--seal", "--seal=30 --seal-data"].into_iter().enumerate() {
        let image = dir.path().join(format!("sealed-{number}.img"));
        mkfs(&image, &format!("{how} {seal}"));
        is_sound(&image, &plain);
        assert!(fs::metadata(&image).unwrap().len() > fs::metadata(&plain).unwrap().len());

        let path = image.to_str().unwrap();
        let found = seal_of(path);
        let before = listing(&image);
        let mut dice = Dice::new(3);
        // As many blocks next to each other as it promises.
        for blkno in 2..2 + found.header.sh_run.get().min(12) {
            let rubbish = dice.rubbish(found.shape.block);
            write(path, blkno * found.shape.block as u64, &rubbish);
        }
        let (code, out, err) = fsck(&["-fy", path]);
        assert_eq!((code, err.as_str()), (1, ""), "{out}");
        assert_eq!(listing(&image), before);
        is_sound(&image, &plain);
    }
}

/// The same tree and options give the same bytes, seal and all, on any number of threads.
#[test]
fn a_sealed_volume_is_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let image = |threads: &str| {
        let image = dir.path().join(threads);
        let made = Command::new(place::own("mkfs-cowfs"))
            .args([
                "-q",
                "--size",
                "auto",
                "--seal=20",
                "--seal-data",
                "--threads",
                threads,
                "-d",
            ])
            .args([&source, &image])
            .env("SOURCE_DATE_EPOCH", "1790000000")
            .status()
            .unwrap();
        assert!(made.success());
        fs::read(image).unwrap()
    };
    assert!(image("1") == image("4"), "the bytes differ");
}

/// A volume for a cluster, of another geometry, with a given size.
#[test]
fn a_cluster_volume_is_sealed() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let how = format!(
        "-q -b 1024 -C 8192 -N 2 -M cluster --cluster-stack=o2cb --cluster-name=rig \
         --fs-feature-level=max-features --size 96M -d {}",
        source.display()
    );
    let (plain, image) = (dir.path().join("plain.img"), dir.path().join("sealed.img"));
    mkfs(&plain, &how);
    mkfs(&image, &format!("{how} --seal=10"));
    is_sound(&image, &plain);
}
