//! fsck.cowfs says the same of a volume and of its metadata image.

#![allow(clippy::unwrap_used)]

use std::path::Path;

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

#[test]
fn images_are_checked_as_their_volumes() {
    let mut checked = 0;
    for golden in golden::all().unwrap() {
        let volume = golden.open().unwrap();
        let dir = TempDir::new().unwrap();
        let expected = check(volume.path());
        for option in ["", "--scramble"] {
            let image = dir.path().join(format!("image{option}"));
            let sink = || Box::new(std::io::sink());
            let mut session = Session::new(sink(), sink());
            let by = Superblock::default();
            session.open(volume.path().to_path_buf(), by).unwrap();
            let line = format!("image {option} {}", image.display());
            assert!(session.line(line.as_bytes()).unwrap(), "{}", golden.name);
            assert_eq!(check(&image), expected, "{} {option}", golden.name);
            checked += 1;
        }
    }
    assert!(checked >= 24, "{checked}");
}
