//! Devices that are shared with the test, and that keep a record.

use std::sync::{Arc, Mutex};

use cowfs_format::device::{Device, DeviceMut, MemDevice};
use cowfs_format::error::IoError;

/// A device that the test looks at while a program has it.
#[derive(Debug)]
pub(crate) struct Shared<D>(pub(crate) Arc<D>);

impl<D> Clone for Shared<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Device> Device for Shared<D> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.0.read_at(offset, buf)
    }
}

impl<D: DeviceMut> DeviceMut for Shared<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.0.write_at(offset, data)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.0.flush()
    }
}

#[derive(Debug)]
pub(crate) enum Event {
    Write(usize, Vec<u8>),
    Flush,
}

/// Memory that keeps a record of all writes and flushes.
#[derive(Debug)]
pub(crate) struct Recorder {
    base: MemDevice,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            base: MemDevice::new(bytes),
            events: Mutex::default(),
        }
    }

    /// What happened, and what the device holds now.
    pub(crate) fn taken(&self) -> (Vec<Event>, Vec<u8>) {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        (events, self.base.snapshot())
    }
}

impl Device for Recorder {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.base.read_at(offset, buf)
    }
}

impl DeviceMut for Recorder {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let at = usize::try_from(offset).unwrap();
        let event = Event::Write(at, data.to_vec());
        self.events.lock().unwrap().push(event);
        self.base.write_at(offset, data)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.events.lock().unwrap().push(Event::Flush);
        Ok(())
    }
}

/// Ways to lose some of `count` sectors: true where one is kept.
pub(crate) fn losses(count: usize, seed: &mut u64) -> Vec<Vec<bool>> {
    if count == 0 {
        return Vec::new();
    }
    let mut random = |bound: usize| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed % bound as u64).unwrap()
    };
    let one = random(count);
    let cut = random(count);
    let mut ways: Vec<Vec<bool>> = vec![
        (0..count).map(|i| i == one).collect(),
        (0..count).map(|i| i != one).collect(),
        (0..count).map(|i| i >= cut).collect(),
        (0..count).map(|i| i + 1 == count).collect(),
    ];
    ways.push((0..count).map(|_| random(2) == 0).collect());
    ways.push((0..count).map(|_| random(8) == 0).collect());
    ways
}
