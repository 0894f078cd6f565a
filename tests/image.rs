//! fsck.cowfs says the same of a volume and of its metadata image.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use cowfs_format::block::check_offset_of;
use cowfs_format::dump::BlockKind;
use cowfs_format::ecc;
use cowfs_tests::golden;
use debugfs_cowfs::session::{Session, Superblock};
use tempfile::TempDir;

fn check(image: &Path) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["fsck.cowfs".into(), "-fn".into(), image.into()];
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    let said = String::from_utf8_lossy(&[out, err].concat()).into_owned();
    (code, said.replace(&*image.to_string_lossy(), "IMAGE"))
}

/// Images `volume`; what was said of it, and whether all was well.
fn image(volume: &Path, option: &str, to: &Path) -> (bool, String) {
    let said = Shared::default();
    let mut session = Session::new(Box::new(std::io::sink()), Box::new(said.clone()));
    let by = Superblock::default();
    session.open(volume.to_path_buf(), by).unwrap();
    let line = format!("image {option} {}", to.display());
    let good = session.line(line.as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&said.0.borrow()).into_owned();
    (good, said)
}

/// Text that is kept.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A byte of each twelfth block is wrong, with the check made right or not. What the checker finds in the volume it finds
/// in the image; where the image leaves a block out, that is said.
#[test]
fn images_of_damaged_volumes_show_the_damage() {
    let golden = golden::open("b1k-c4k-default").unwrap();
    let healthy = std::fs::read(golden.path()).unwrap();
    let structured: Vec<usize> = (healthy.chunks_exact(1024).enumerate())
        .filter(|(_, block)| BlockKind::detect(block) != BlockKind::Raw)
        .map(|(number, _)| number * 1024)
        .skip(3)
        .collect();
    let dir = TempDir::new().unwrap();
    let (hurt, made) = (dir.path().join("hurt"), dir.path().join("image"));
    let (mut same, mut left_out) = (0, 0);
    for (turn, &at) in structured.iter().step_by(12).enumerate() {
        let mut bytes = healthy.clone();
        let block = &mut bytes[at..at + 1024];
        // From the signature on to the lists, one place after another.
        block[turn * 13 % 256] ^= 0x55;
        let mut signature = [0; 8];
        signature.copy_from_slice(&block[..8]);
        if turn % 2 == 0
            && let Some(check) = check_offset_of(signature)
        {
            ecc::stamp(block, check);
        }
        std::fs::write(&hurt, bytes).unwrap();
        let (good, said) = image(&hurt, "", &made);
        let (found, expected) = (check(&made), check(&hurt));
        assert!(good, "block {}: {said}", at / 1024);
        if said.is_empty() {
            assert_eq!(found, expected, "block {}", at / 1024);
            same += 1;
        } else {
            assert!(said.contains("left out"), "block {}: {said}", at / 1024);
            assert_eq!(found.0, expected.0, "block {}: {said}", at / 1024);
            left_out += 1;
        }
        std::fs::remove_file(&made).unwrap();
    }
    assert!(same >= 20 && left_out >= 1, "{same} {left_out}");
}

#[test]
fn images_are_checked_as_their_volumes() {
    let mut checked = 0;
    for golden in golden::all().unwrap() {
        let volume = golden.open().unwrap();
        let dir = TempDir::new().unwrap();
        let expected = check(volume.path());
        for option in ["", "--scramble"] {
            let made = dir.path().join(format!("image{option}"));
            let (good, said) = image(volume.path(), option, &made);
            assert!(good, "{}: {said}", golden.name);
            let (status, said) = check(&made);
            let mut expected = expected.clone();
            if option == "--scramble" && expected.1.contains("[X_DX_") && !said.contains("[X_DX_") {
                // Scrambled names are of letters that all kernels find, so that a note on names goes.
                let notes = |line: &&str| !line.starts_with("[X_DX_");
                expected.1 = expected
                    .1
                    .lines()
                    .filter(notes)
                    .map(|l| format!("{l}\n"))
                    .collect();
                expected.1 = expected.1.replace("clean, 1 findings,", "clean,");
            }
            assert_eq!((status, said), expected, "{} {option}", golden.name);
            checked += 1;
        }
    }
    assert!(checked >= 24, "{checked}");
}
