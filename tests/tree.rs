//! The ordered walk over a volume, against the driver's own listing of the golden images.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use cowfs_format::device::MmapDevice;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::tree::{self, Event};
use cowfs_tests::golden;

/// Paths with inode and size, in the order of the walk; and how often a directory was left.
fn walked(volume: &Volume<MmapDevice>, threads: usize) -> (Vec<(Vec<u8>, u64, u64)>, usize) {
    let scanner = Scanner::new(Some(threads)).unwrap();
    let (mut found, mut left) = (Vec::new(), 0);
    let view = volume.view();
    tree::walk(
        &scanner,
        view,
        view.info().root,
        |_, inode| inode.i_size.get(),
        |event| {
            match event {
                Event::Found(node, size) => found.push((node.path, node.blkno.0, size)),
                Event::Left(_) => left += 1,
                Event::Failed(node, error) => panic!("{node:?}: {error}"),
            }
            ControlFlow::Continue(())
        },
    );
    (found, left)
}

#[test]
fn walks_see_what_the_driver_sees() {
    let mut seen = 0;
    for image in golden::all().unwrap() {
        let file = image.open().unwrap();
        let volume = Volume::open(MmapDevice::new(file.as_file()).unwrap()).unwrap();
        let (found, left) = walked(&volume, 1);
        assert_eq!((found.clone(), left), walked(&volume, 3), "{}", image.name);
        // Depth first with bytewise names is the order of paths whose slashes sort before any byte.
        let key = |path: &[u8]| {
            path.split(|&b| b == b'/')
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        };
        assert!(
            found.is_sorted_by_key(|(path, ..)| key(path)),
            "{}",
            image.name
        );
        let Some(recorded) = image.seen().unwrap() else {
            continue;
        };
        let mut recorded: Vec<_> = (recorded.walk.into_iter())
            .map(|entry| match entry.path.as_slice() {
                b"." => (Vec::new(), entry.kind, entry.inode, entry.size),
                path => {
                    let path = path.strip_prefix(b"./").unwrap_or(path).to_vec();
                    (path, entry.kind, entry.inode, entry.size)
                }
            })
            .collect();
        recorded.sort_by_key(|(path, ..)| key(path));
        let directories = recorded.iter().filter(|entry| entry.1 == 'd').count();
        assert_eq!(left, directories, "{}", image.name);
        let recorded: Vec<_> = (recorded.into_iter())
            .map(|(path, _, inode, size)| (path, inode, size))
            .collect();
        assert_eq!(found, recorded, "{}", image.name);
        seen += found.len();
    }
    assert!(seen > 1000, "only {seen} names were compared");
}

#[test]
fn a_walk_ends_when_it_is_told_to() {
    let file = golden::open("b4k-c4k-max").unwrap();
    let volume = Volume::open(MmapDevice::new(file.as_file()).unwrap()).unwrap();
    let scanner = Scanner::new(Some(2)).unwrap();
    let mut events = 0;
    let view = volume.view();
    tree::walk(
        &scanner,
        view,
        view.info().root,
        |_, _| (),
        |_| {
            events += 1;
            if events == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert_eq!(events, 3);
}
