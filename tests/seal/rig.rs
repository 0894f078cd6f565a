//! Sealed volumes in memory and in files, and numbers that follow from a seed.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cowfs_format::device::{Device, DeviceMut, MemDevice};
use cowfs_format::ops::seal::{self, Guard, Seal, SealOptions, Sealed};
use cowfs_format::txn::Timestamp;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_tests::golden;

/// When everything is sealed.
pub(crate) const NOW: Timestamp = Timestamp {
    seconds: 1_750_000_000,
    nanos: 0,
};

/// A sealed volume.
pub(crate) struct Bed {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) sealed: Sealed,
    pub(crate) seal: Seal,
    /// Blocks of the seal's tables, copy by copy, and of its parity.
    pub(crate) tables: [Vec<u64>; 3],
    pub(crate) parity: Vec<u64>,
}

impl Bed {
    pub(crate) fn block(&self) -> usize {
        self.seal.shape.block
    }

    pub(crate) fn device(&self) -> MemDevice {
        MemDevice::new(self.bytes.clone())
    }

    /// Protected blocks with their slots, in the order of the slots.
    pub(crate) fn protected(&self) -> impl Iterator<Item = (u64, BlockNo, Guard)> + '_ {
        self.seal.list.runs.iter().flat_map(|run| {
            (0..run.span.len).map(|i| (run.slot + i, run.span.first.plus(i), run.span.guard))
        })
    }

    /// All blocks of each group: data and parity.
    pub(crate) fn groups(&self) -> Vec<Vec<u64>> {
        let shape = &self.seal.shape;
        let mut groups = vec![Vec::new(); usize::try_from(shape.groups).unwrap()];
        for (slot, blkno, _) in self.protected() {
            groups[usize::try_from(slot % shape.groups).unwrap()].push(blkno.0);
        }
        // As the layout's page says it: parity block p belongs to group (seam + p) mod groups.
        for (p, blkno) in (0u64..).zip(&self.parity) {
            let group = (shape.seam + p) % shape.groups;
            groups[usize::try_from(group).unwrap()].push(*blkno);
        }
        groups
    }

    pub(crate) fn bytes_of(&self, blkno: u64) -> &[u8] {
        let at = usize::try_from(blkno).unwrap() * self.block();
        &self.bytes[at..at + self.block()]
    }
}

pub(crate) fn scanner() -> Scanner {
    Scanner::new(Some(2)).unwrap()
}

/// The bytes of a golden image.
pub(crate) fn image(name: &str) -> Vec<u8> {
    let file = golden::open(name).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// Seals an image, `extra` bytes of which do not belong to the volume.
pub(crate) fn sealed(name: &str, percent: u16, data: bool) -> Bed {
    let device = MemDevice::new(image(name));
    sealed_device(name, &device, percent, data)
}

pub(crate) fn sealed_device(name: &str, device: &MemDevice, percent: u16, data: bool) -> Bed {
    let mut volume = Volume::open(device).unwrap();
    let options = SealOptions {
        percent,
        data,
        now: NOW,
    };
    let sealed = seal::seal(&mut volume, &scanner(), &(), &options)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let found = Seal::inside(&volume).unwrap().unwrap();
    let seal = found.seal.clone();
    let (table, parity) = (seal.shape.table(), seal.shape.parity_blocks());
    // The order of the seal's blocks, from the layout's page: copy 0, parity, copies 1 and 2.
    let places: Vec<u64> = seal
        .list
        .places
        .iter()
        .flat_map(|(first, len)| first.0..first.0 + len)
        .collect();
    let (table, parity) = (
        usize::try_from(table).unwrap(),
        usize::try_from(parity).unwrap(),
    );
    assert_eq!(places.len(), 3 * table + parity, "{name}");
    let rest = table + parity;
    Bed {
        name: name.to_owned(),
        bytes: device.snapshot(),
        sealed,
        tables: [
            places[..table].to_vec(),
            places[rest..rest + table].to_vec(),
            places[rest + table..].to_vec(),
        ],
        parity: places[table..rest].to_vec(),
        seal,
    }
}

/// Volumes of several kinds, sealed once for all tests: with and without checks, of all block sizes.
pub(crate) fn beds() -> &'static [Bed] {
    static BEDS: OnceLock<Vec<Bed>> = OnceLock::new();
    BEDS.get_or_init(|| {
        vec![
            sealed("b4k-c4k-max", 5, false),
            sealed("b2k-c8k-max", 10, true),
            sealed("b512-c4k-max", 5, false),
            sealed("b1k-c4k-default", 20, false),
            sealed("b4k-c32k-default", 3, true),
            sealed("b512-c4k-compat", 5, false),
        ]
    })
}

/// Numbers from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// Some of `all`.
    pub(crate) fn some(&mut self, all: &[u64], count: usize) -> Vec<u64> {
        let mut left = all.to_vec();
        let mut taken = Vec::new();
        while taken.len() < count && !left.is_empty() {
            let at = usize::try_from(self.below(left.len() as u64)).unwrap();
            taken.push(left.swap_remove(at));
        }
        taken
    }

    /// What a lost block holds: zeros, a pattern, or noise.
    pub(crate) fn rubbish(&mut self, len: usize) -> Vec<u8> {
        match self.below(3) {
            0 => vec![0; len],
            1 => vec![0xA5; len],
            _ => self.noise(len),
        }
    }

    pub(crate) fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Loses blocks of a device.
pub(crate) fn lose(device: &MemDevice, block: usize, blocks: &[u64], dice: &mut Dice) {
    for blkno in blocks {
        let rubbish = dice.rubbish(block);
        device.write_at(blkno * block as u64, &rubbish).unwrap();
    }
}

/// Fills blocks with noise, which is no block's right contents.
pub(crate) fn garble(device: &MemDevice, block: usize, blocks: &[u64], dice: &mut Dice) {
    for blkno in blocks {
        let noise = dice.noise(block);
        device.write_at(blkno * block as u64, &noise).unwrap();
    }
}

/// Finds the seal of a device as a repair does, restores what is lost, and writes it. What is beyond.
pub(crate) fn restore(bed: &Bed, device: &MemDevice) -> Result<Vec<u64>, String> {
    let scanner = scanner();
    let volume = Volume::open(device).ok();
    let named = volume
        .as_ref()
        .and_then(|volume| Seal::inside(volume).ok()?);
    let found = named.or_else(|| Seal::search(device, &scanner, Some(bed.seal.uuid)));
    let found = found.ok_or("no seal is found")?;
    let verified = seal::verify(device, &found, &scanner, &()).map_err(|e| e.to_string())?;
    let restored = seal::restore(device, &found, &verified, &scanner).map_err(|e| e.to_string())?;
    let mut beyond: Vec<u64> = verified.beyond(&found.seal).iter().map(|b| b.0).collect();
    beyond.sort_unstable();
    let said: Vec<u64> = restored.beyond.iter().map(|blkno| blkno.0).collect();
    if beyond != said {
        return Err("what is beyond is said in two ways".to_owned());
    }
    for (blkno, bytes) in &restored.blocks {
        device
            .write_at(blkno.0 * bed.block() as u64, bytes)
            .unwrap();
    }
    Ok(beyond)
}

/// The protected blocks of a device that are not as they were sealed.
pub(crate) fn unlike(bed: &Bed, device: &dyn Device) -> BTreeMap<u64, Guard> {
    let mut buffer = vec![0; bed.block()];
    let differ = |(_, blkno, guard): (u64, BlockNo, Guard)| {
        let at = blkno.0 * buffer.len() as u64;
        device.read_at(at, &mut buffer).unwrap();
        (buffer != bed.bytes_of(blkno.0)).then_some((blkno.0, guard))
    };
    bed.protected().filter_map(differ).collect()
}
