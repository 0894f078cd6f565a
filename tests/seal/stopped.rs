//! Sealing and renewing, stopped at every write: the volume is sound, and no seal, a whole one, or what is
//! left of the old one is on it; none of them takes a good block for a lost one.

use cowfs_format::device::{FaultDevice, MemDevice};
use cowfs_format::ops::seal::{self, Seal, SealOptions, State};
use cowfs_format::volume::Volume;
use cowfs_tests::session::Session;
use fsck_cowfs::{Options, check};

use crate::rig::{NOW, image, scanner, sealed_device};

fn options() -> SealOptions {
    SealOptions {
        percent: 5,
        data: false,
        now: NOW,
    }
}

/// Looks at what a run that was stopped left; whether there is a seal.
fn sound(device: &MemDevice, when: u64) -> bool {
    let mut volume = Volume::open(device).unwrap();
    volume.recover().unwrap();
    let checked = check(&volume, &Options::default()).unwrap();
    assert!(
        checked.is_clean(),
        "stopped at write {when}: {:?}",
        checked.codes()
    );
    let Ok(Some(found)) = Seal::inside(&volume) else {
        return false;
    };
    let verified = seal::verify(device, &found, &scanner(), &()).unwrap();
    assert_eq!(verified.count(State::Lost), 0, "stopped at write {when}");
    assert!(verified.unknown.is_empty(), "stopped at write {when}");
    true
}

#[test]
fn sealing_can_be_stopped_at_every_write() {
    let pristine = image("pristine-max");
    let mut seen = [0, 0];
    for when in 0.. {
        let base = MemDevice::new(pristine.clone());
        let device = FaultDevice::stopping_at(&base, when);
        let mut volume = Volume::open(&device).unwrap();
        let done = seal::seal(&mut volume, &scanner(), &(), &options());
        drop(volume);
        seen[usize::from(sound(&base, when))] += 1;
        if done.is_ok() {
            break;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 1, "{seen:?}");
}

#[test]
fn renewing_can_be_stopped_at_every_write() {
    let base = MemDevice::new(image("pristine-max"));
    let _ = sealed_device("pristine-max", &base, 5, false);
    {
        let mut volume = Volume::open(&base).unwrap();
        volume.mkdir("one").unwrap();
        volume.mkdir("two").unwrap();
    }
    let changed = base.snapshot();
    for when in 0.. {
        let base = MemDevice::new(changed.clone());
        let device = FaultDevice::stopping_at(&base, when);
        let volume = Volume::open(&device).unwrap();
        let found = Seal::inside(&volume).unwrap().unwrap();
        let done = seal::reseal(&volume, &found, &device, &scanner(), &(), &options());
        drop(found);
        drop(volume);
        // At every moment there is one.
        assert!(sound(&base, when), "stopped at write {when}");
        if let Ok(renewed) = done {
            assert!(renewed.is_some() && when > 5);
            break;
        }
    }
}
