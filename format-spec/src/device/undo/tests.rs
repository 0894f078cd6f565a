//! Logs that are written, cut off, damaged and rolled back, on random writes.

use super::*;
use crate::device::{Device, DeviceMut, FaultDevice, MemDevice};
use proptest::prelude::*;

const SIZE: usize = 70_000;

const VOLUME: Identity = Identity {
    uuid: [7; 16],
    generation: 9,
    at: 8192,
};

/// What is written: place, length, byte, and whether a flush follows.
type Write = (usize, usize, u8, bool);

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let one = (0usize..SIZE - 1, 1usize..9000, any::<u8>(), any::<bool>());
    proptest::collection::vec(
        one.prop_map(|(at, len, byte, flush)| (at, len.min(SIZE - at), byte, flush)),
        1..12,
    )
}

fn original() -> Vec<u8> {
    // Some units are all zeros.
    let byte = |i: u32| {
        if (i / 4096).is_multiple_of(3) {
            0
        } else {
            (i / 7).to_le_bytes()[0]
        }
    };
    (0..70_000u32).map(byte).collect()
}

/// Writes under a log; the device below fails from write `stop` on. What it holds then, and whether
/// all went well.
fn write_under(path: &Path, writes: &[Write], stop: u64) -> (Vec<u8>, bool, u64) {
    let base = FaultDevice::stopping_at(MemDevice::new(original()), stop);
    let log = UndoLog::create(path, VOLUME, SIZE as u64).unwrap();
    let device = Recording::new(&base, log);
    let mut well = true;
    for (at, len, byte, flush) in writes {
        well &= device.write_at(*at as u64, &vec![*byte; *len]).is_ok();
        well &= !flush || device.flush().is_ok();
    }
    well &= device.flush().is_ok();
    drop(device);
    let count = base.writes();
    (base.into_base().snapshot(), well, count)
}

fn rolled_back(path: &Path, bytes: Vec<u8>, stop: u64) -> (Vec<u8>, bool) {
    let device = FaultDevice::stopping_at(MemDevice::new(bytes), stop);
    let undo = Undo::open(path).unwrap();
    undo.check(&device, Some(VOLUME)).unwrap();
    let done = undo.restore(&device).is_ok();
    (device.into_base().snapshot(), done)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn everything_comes_back_wherever_it_stopped(writes in writes()) {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = original();
        for (at, len, byte, _) in &writes {
            expected[*at..at + len].fill(*byte);
        }
        let path = dir.path().join("undo");
        let (after, well, count) = write_under(&path, &writes, u64::MAX);
        prop_assert!(well);
        prop_assert!(after == expected);
        for stop in 0..=count {
            std::fs::remove_file(&path).unwrap();
            let (left, well, _) = write_under(&path, &writes, stop);
            prop_assert_eq!(well, stop == count);
            prop_assert_eq!(Undo::open(&path).unwrap().is_finished(), well);
            // The rollback, too, is stopped, and done again.
            for again in 0..4 {
                let (half, _) = rolled_back(&path, left.clone(), again);
                let (whole, done) = rolled_back(&path, half, u64::MAX);
                prop_assert!(done && whole == original(), "stopped at {stop}, then {again}");
            }
        }
    }
}

#[test]
fn reads_see_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let base = MemDevice::new(original());
    let log = UndoLog::create(&dir.path().join("undo"), VOLUME, SIZE as u64).unwrap();
    let device = Recording::new(&base, log);
    device.write_at(4000, &[0xEE; 200]).unwrap();
    let mut seen = vec![0; SIZE];
    device.read_at(0, &mut seen).unwrap();
    let mut expected = original();
    assert!(base.snapshot() == expected);
    expected[4000..4200].fill(0xEE);
    assert!(seen == expected);
    device.read_fresh(4100, &mut seen[..300]).unwrap();
    assert!(seen[..300] == expected[4100..4400]);
    device.write_zeros(69_990, 10).unwrap();
    assert!(device.write_zeros(69_991, 10).is_err());
    // What nobody flushed is forgotten.
    drop(device);
    assert!(base.snapshot() == original());
}

#[test]
fn what_was_changed_since_is_not_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("undo");
    let writes = [
        (100, 5000, 1, true),
        (100, 10, 2, true),
        (60_000, 9000, 3, true),
    ];
    let (after, _, _) = write_under(&path, &writes, u64::MAX);
    assert!(
        UndoLog::create(&path, VOLUME, 1).is_err(),
        "an older log is kept"
    );
    let undo = Undo::open(&path).unwrap();
    let refused = |bytes: &[u8], found: Option<Identity>| {
        let device = MemDevice::new(bytes.to_vec());
        let said = undo.check(&device, found).unwrap_err().to_string();
        assert!(device.snapshot() == bytes);
        said
    };
    assert!(
        undo.check(&MemDevice::new(after.clone()), Some(VOLUME))
            .is_ok()
    );
    let other = Identity {
        uuid: [8; 16],
        ..VOLUME
    };
    assert!(refused(&after, Some(other)).contains("this is 0808"));
    assert!(refused(&after, None).contains("here is none"));
    assert!(refused(&after[1..], Some(VOLUME)).contains("of a device of 70000 bytes"));
    // One byte that neither was there nor was written, in any sector of a saved unit. The middle of
    // the run, written over later by the same program, is no longer allowed either.
    for (at, byte) in [(50, 99), (300, 77), (105, 1), (69_500, 0)] {
        let mut bytes = after.clone();
        bytes[at] = byte;
        assert!(
            refused(&bytes, Some(VOLUME)).contains("was changed after"),
            "{at}"
        );
    }
    // Elsewhere nothing is known, and nothing touched.
    let mut bytes = after;
    bytes[30_000] ^= 0xFF;
    assert!(undo.check(&MemDevice::new(bytes), Some(VOLUME)).is_ok());
}

#[test]
fn a_log_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("undo");
    write_under(
        &path,
        &[(5000, 9000, 1, true), (9000, 10, 2, true)],
        u64::MAX,
    );
    let whole = std::fs::read(&path).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Undo::open(&path)
    };
    open(&whole).unwrap();
    for len in [0, 5, 63, 1500, 4096, 4200, 9000, whole.len() - 1] {
        open(&whole[..len]).unwrap_err();
    }
    // What follows the end has never counted.
    open(&[&whole[..], b"more"].concat()).unwrap();
    // Every byte of the head and the entries has a checksum.
    for at in (0..64).chain((4096..whole.len()).step_by(61)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(open(&bytes).is_err(), "byte {at}");
    }
    // Of the two places of the progress the older one stands in for the newer: then the entries that
    // it does not count are unknown, and what they wrote is noticed on the volume.
    for place in PROGRESS_AT {
        let mut bytes = whole.clone();
        bytes[usize::try_from(place).unwrap() + 3] ^= 1;
        let _ = open(&bytes);
    }
}

/// Killed while it created its log, a program has written nothing else, and the log may go.
#[test]
fn a_log_that_was_never_begun_is_told_from_one_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("undo");
    drop(UndoLog::create(&path, VOLUME, SIZE as u64).unwrap());
    let created = std::fs::read(&path).unwrap();
    assert!(!Undo::never_begun(&path).unwrap(), "its progress counts");
    let mut head = created[..size_of::<Head>()].to_vec();
    let mut grown = head.clone();
    grown.resize(4096, 0);
    for left in [Vec::new(), head.clone(), grown, vec![0; 4096]] {
        std::fs::write(&path, &left).unwrap();
        assert!(Undo::never_begun(&path).unwrap(), "{} bytes", left.len());
    }
    // Somebody else's file, and one that is longer than any log at its birth.
    head[0] ^= 1;
    for other in [head, vec![0; 4097], [&created[..], &[0; 100]].concat()] {
        std::fs::write(&path, &other).unwrap();
        assert!(!Undo::never_begun(&path).unwrap(), "{} bytes", other.len());
    }
    assert!(Undo::never_begun(&dir.path().join("none")).is_err());
}
