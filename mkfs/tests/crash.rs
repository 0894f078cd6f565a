//! A run that is stopped leaves nothing that looks like a volume, neither a new one nor the one before.

#![allow(clippy::unwrap_used)]

use cowfs_format::device::{Device, DeviceMut, MemDevice};
use cowfs_format::error::IoError;
use mkfs_cowfs::probe::probe;
use mkfs_cowfs::{Options, format};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A device that fails from the nth writing call on.
#[derive(Debug)]
struct Stops {
    device: MemDevice,
    left: AtomicUsize,
}

impl Stops {
    fn step(&self) -> Result<(), IoError> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        left.map(drop).map_err(|_| IoError {
            op: "write",
            offset: 0,
            len: 0,
            source: std::io::Error::other("stopped"),
        })
    }
}

impl Device for Stops {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.device.read_at(offset, buf)
    }
}

impl DeviceMut for Stops {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.step()?;
        self.device.write_at(offset, data)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        self.step()?;
        self.device.write_zeros(offset, len)
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
}

#[test]
fn only_the_last_write_makes_a_volume() {
    // An older volume with other blocks, so that its superblock lies elsewhere.
    let old = Options {
        block_size: Some(512),
        ..Options::default()
    };
    let before = MemDevice::new(vec![0; 16 << 20]);
    format(&before, &old).unwrap();
    let before = before.snapshot();
    let mut stopped = 0;
    loop {
        let device = Stops {
            device: MemDevice::new(before.clone()),
            left: AtomicUsize::new(stopped),
        };
        let done = format(&device, &Options::default()).is_ok();
        let found = probe(&device);
        if stopped == 0 {
            assert_eq!(found[0].offset, 1024, "the old volume is as it was");
        } else if done {
            assert_eq!(found[0].offset, 2048);
            break;
        } else {
            assert_eq!(found, [], "stopped at write {stopped}");
        }
        stopped += 1;
    }
    assert!(stopped > 10, "{stopped} writes");
}

#[test]
fn stale_contents_do_not_matter() {
    let options = Options {
        uuid: Some([7; 16]),
        time: Some(1_700_000_000),
        entropy: Some(mkfs_cowfs::Entropy::derived([7; 16], 0)),
        ..Options::default()
    };
    let clean = MemDevice::new(vec![0; 16 << 20]);
    let dirty = MemDevice::new(vec![0xA5; 16 << 20]);
    let plan = format(&clean, &options).unwrap();
    format(&dirty, &options).unwrap();
    let [clean, dirty] = [clean.snapshot(), dirty.snapshot()];
    let same = |from: u64, len: u64| {
        let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
        clean[range.clone()] == dirty[range]
    };
    // All that belongs to a file, or is metadata, is the same; free space may hold what it held.
    assert!(same(0, 1 << 20));
    for file in &plan.files {
        assert!(
            same(plan.geo.byte_of(plan.system_block(file.bit)), 1024),
            "{}",
            file.name
        );
        for extent in &file.tree.extents {
            let from = plan.geo.byte_of(plan.geo.first_block(extent.start));
            assert!(same(from, u64::from(extent.len) * 4096), "{}", file.name);
        }
    }
    assert!(same(plan.geo.byte_of(plan.lost_found.place.block), 1024));
}
