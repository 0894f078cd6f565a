//! The golden images are what their records say: ocfs2-tools and the driver still say of each what was recorded.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, ensure};
use cowfs_tests::golden::{self, Golden, Seen};
use cowfs_tests::{Guest, Kernel, need, oracle};
use std::os::unix::fs::MetadataExt;

fn each(check: impl Fn(&Golden) -> Result<()>) {
    let all = golden::all().unwrap();
    assert!(all.len() >= 8, "testdata/images holds too few images");
    for image in all {
        if let Err(e) = check(&image) {
            panic!("{}: {e:#}", image.name);
        }
    }
}

#[test]
fn images_unpack_sparse_and_their_records_parse() {
    each(|image| {
        let file = image.open()?;
        let meta = file.as_file().metadata()?;
        ensure!(meta.len() >= 8 << 20, "an image of {} bytes", meta.len());
        ensure!(meta.blocks() * 512 < meta.len(), "unpacked without holes");
        let packed = golden::directory()
            .join(format!("{}.img.zst", image.name))
            .metadata()?
            .len();
        ensure!(packed <= 200_000, "{packed} bytes packed are too many");
        let Some(Seen { walk, extents }) = image.seen()? else {
            return Ok(());
        };
        ensure!(
            walk.first()
                .is_some_and(|root| root.path == b"." && root.kind == 'd'),
            "no root"
        );
        for file in extents {
            let entry = walk
                .iter()
                .find(|entry| entry.path == file.path)
                .context("extents of an unknown path")?;
            ensure!(
                entry.kind == 'f' && entry.size > 0,
                "extents of an empty file"
            );
        }
        Ok(())
    });
}

#[test]
fn ocfs2_tools_say_what_is_recorded() {
    need!(oracle::tools());
    each(|image| {
        let file = image.open()?;
        let said = oracle::check(file.path())?;
        let recorded = oracle::Report::of(image.fsck()?);
        ensure!(
            said.codes == recorded.codes,
            "fsck.ocfs2 now says\n{}",
            said.transcript
        );
        ensure!(
            said.finished() == recorded.finished(),
            "fsck.ocfs2 now says\n{}",
            said.transcript
        );
        ensure!(
            oracle::debugfs(file.path(), "stats")? == image.stats()?,
            "debugfs.ocfs2 says otherwise"
        );
        Ok(())
    });
}

#[test]
fn the_driver_shows_what_is_recorded() {
    for kernel in Kernel::ALL {
        need!(Guest::new(kernel));
    }
    let all = golden::all().unwrap();
    let mounted: Vec<(&Golden, Seen)> = all
        .iter()
        .filter_map(|image| Some((image, image.seen().unwrap()?)))
        .collect();
    let files: Vec<_> = mounted
        .iter()
        .map(|(image, _)| image.open().unwrap())
        .collect();
    let volumes: Vec<_> = mounted
        .iter()
        .zip(&files)
        .map(|((image, _), file)| (*image, file.path()))
        .collect();
    for ((image, recorded), now) in mounted.iter().zip(golden::ask(&volumes).unwrap()) {
        let differing = now
            .walk
            .iter()
            .zip(&recorded.walk)
            .find(|(now, then)| now != then);
        assert!(
            differing.is_none(),
            "{}: the driver now shows {differing:#?}",
            image.name
        );
        assert_eq!(now.walk.len(), recorded.walk.len(), "{}: paths", image.name);
        assert_eq!(now.extents, recorded.extents, "{}", image.name);
    }
}
