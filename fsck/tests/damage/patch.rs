//! A golden image under damage: writes by field names over an overlay, with the check of each
//! block stamped again or left as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock};

use cowfs_format::block::{VolumeInfo, check_offset_of};
use cowfs_format::device::{Device, DeviceMut, FaultDevice, MmapDevice, OverlayDevice};
use cowfs_format::ecc;
use cowfs_format::error::Result;
use cowfs_format::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, ExtentList, ExtentRec, Field, GroupDesc, Incompat,
    SUPER_BLOCK_BODY,
};
use cowfs_format::read::{chain, dir, inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::path;
use cowfs_format::volume::system::{self, SystemFile};
use fsck_cowfs::repair::rebuild;
use fsck_cowfs::{Checked, Options, check};

/// An image that is never written: recipes write over it.
pub(crate) type Base = &'static MmapDevice;

/// Unpacks an image once for all recipes. `backups` is a larger volume of ours that has backup
/// superblocks, which none of the golden images is large enough for; `new SIZE OPTIONS` is one that
/// mkfs.cowfs makes.
pub(crate) fn base(name: &str) -> Base {
    static IMAGES: OnceLock<Mutex<BTreeMap<String, Base>>> = OnceLock::new();
    let mut images = IMAGES.get_or_init(Mutex::default).lock().unwrap();
    images.entry(name.to_owned()).or_insert_with(|| {
        let file = if name == "backups" {
            new("5G -J size=4M")
        } else if let Some(options) = name.strip_prefix("new ") {
            new(options)
        } else {
            cowfs_tests::golden::open(name).unwrap()
        };
        Box::leak(Box::new(MmapDevice::new(file.as_file()).unwrap()))
    })
}

/// A new volume of ours: its size, then options.
fn new(options: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let args = ["mkfs.cowfs", "-q", "-F", "--size"].into_iter();
    let args = args.chain(options.split(' ')).chain([path]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = mkfs_cowfs::run(args, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    file
}

/// An image with damage over it.
pub(crate) struct Patch {
    pub(crate) image: String,
    pub(crate) device: OverlayDevice<Base>,
    pub(crate) info: VolumeInfo,
    stamp: bool,
    /// Whether a block with a check was written.
    pub(crate) checked_blocks: bool,
    pub(crate) unreadable: BTreeSet<u64>,
}

impl Patch {
    pub(crate) fn new(image: &str, stamp: bool) -> Self {
        let device = OverlayDevice::new(base(image));
        let info = Volume::open(&device).unwrap().info().clone();
        let unreadable = BTreeSet::new();
        Self {
            image: image.to_owned(),
            device,
            info,
            stamp,
            checked_blocks: false,
            unreadable,
        }
    }

    /// Opens the damaged volume, through a backup if it must be, and checks it.
    pub(crate) fn check(&self, threads: usize) -> Result<Checked> {
        let device = FaultDevice::unreadable(&self.device, self.unreadable.iter().copied());
        let options = Options {
            threads: Some(threads),
        };
        match Volume::open_mending(&device).or_else(|_| Volume::open_backup(&device, 1, None)) {
            Ok(volume) => check(&volume, &options),
            Err(_) => {
                let (volume, given) = rebuild::open(&device)?;
                let mut checked = check(&volume, &options)?;
                checked.given(given);
                Ok(checked)
            }
        }
    }

    pub(crate) fn volume(&self) -> Volume<&OverlayDevice<Base>> {
        Volume::open(&self.device).unwrap()
    }

    fn offset(&self, blkno: u64) -> u64 {
        self.info.geo.byte_of(BlockNo(blkno))
    }

    pub(crate) fn read(&self, blkno: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.info.geo.block_bytes()];
        self.device.read_at(self.offset(blkno), &mut bytes).unwrap();
        bytes
    }

    /// Writes bytes over a block and nothing else.
    pub(crate) fn raw(&mut self, blkno: u64, at: usize, bytes: &[u8]) {
        self.device
            .write_at(self.offset(blkno) + at as u64, bytes)
            .unwrap();
    }

    /// Makes a block unreadable.
    pub(crate) fn fail(&mut self, blkno: u64) {
        let sectors = self.info.geo.block_bytes() as u64 / 512;
        self.unreadable
            .extend(blkno * sectors..(blkno + 1) * sectors);
    }

    /// Changes a block and stamps its check, by what the block is.
    pub(crate) fn edit(&mut self, blkno: u64, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.read(blkno);
        let before = check_at(&bytes);
        change(&mut bytes);
        self.put(blkno, &mut bytes, before);
    }

    /// Changes an xattr bucket, whose check covers 4096 bytes.
    pub(crate) fn edit_bucket(&mut self, blkno: u64, change: impl FnOnce(&mut [u8])) {
        let mut bytes = vec![0; 4096];
        self.device.read_at(self.offset(blkno), &mut bytes).unwrap();
        change(&mut bytes);
        self.put(blkno, &mut bytes, Some(8));
    }

    /// Writes a block, stamped if the recipe stamps and the block has a check.
    pub(crate) fn put(&mut self, blkno: u64, bytes: &mut [u8], check_at: Option<usize>) {
        if let Some(at) = check_at.filter(|_| self.info.has(Incompat::META_ECC)) {
            self.checked_blocks = true;
            if self.stamp {
                ecc::stamp(bytes, at);
            }
        }
        self.device.write_at(self.offset(blkno), bytes).unwrap();
    }

    /// Writes bytes into a block of a quota file, whose check stands at its end.
    pub(crate) fn put_quota(&mut self, blkno: u64, at: usize, new: &[u8]) {
        let mut bytes = self.read(blkno);
        bytes[at..at + new.len()].copy_from_slice(new);
        let check_at = bytes.len() - 8;
        self.put(blkno, &mut bytes, Some(check_at));
    }

    pub(crate) fn get(&self, blkno: u64, at: usize, fields: &[Field], name: &str) -> u64 {
        field(fields, name).number(&self.read(blkno)[at..]).unwrap()
    }

    pub(crate) fn set(&mut self, blkno: u64, at: usize, fields: &[Field], name: &str, value: u64) {
        self.edit(blkno, |bytes| {
            assert!(
                field(fields, name).set_number(&mut bytes[at..], value),
                "{name} = {value}"
            );
        });
    }

    /// Adds to a field, wrapping.
    pub(crate) fn add(&mut self, blkno: u64, at: usize, fields: &[Field], name: &str, value: u64) {
        let now = self.get(blkno, at, fields, name);
        self.set(blkno, at, fields, name, now.wrapping_add(value));
    }

    /// Sets a field of the superblock's body.
    pub(crate) fn set_super(&mut self, name: &str, value: u64) {
        self.set(
            2,
            SUPER_BLOCK_BODY,
            cowfs_format::layout::SuperBlock::FIELDS,
            name,
            value,
        );
    }

    pub(crate) fn set_inode(&mut self, blkno: u64, name: &str, value: u64) {
        self.set(blkno, 0, Dinode::FIELDS, name, value);
    }

    pub(crate) fn inode_field(&self, blkno: u64, name: &str) -> u64 {
        self.get(blkno, 0, Dinode::FIELDS, name)
    }

    /// The inode of a path of the undamaged volume.
    pub(crate) fn inode(&self, spec: &str) -> u64 {
        let volume = self.volume();
        let root = self.info.root;
        path::resolve(volume.view(), root, spec.as_bytes())
            .unwrap_or_else(|e| panic!("{e}"))
            .0
    }

    pub(crate) fn system(&self, file: SystemFile) -> u64 {
        system::find(self.volume().view(), file).unwrap().0
    }

    /// The first group of an allocator.
    pub(crate) fn group(&self, file: SystemFile) -> u64 {
        let volume = self.volume();
        let inode = inode::read(volume.view(), BlockNo(self.system(file))).unwrap();
        let groups = chain::chains(&inode).unwrap();
        groups.recs[0].c_blkno.get()
    }

    pub(crate) fn set_group(&mut self, blkno: u64, name: &str, value: u64) {
        self.set(blkno, 0, GroupDesc::FIELDS, name, value);
    }

    /// Flips a bit of a group's bitmap and keeps its count of free bits right.
    pub(crate) fn flip_bit(&mut self, group: u64, bit: usize) {
        self.edit(group, |bytes| {
            let was_set = bytes[0x40 + bit / 8] >> (bit % 8) & 1 == 1;
            bytes[0x40 + bit / 8] ^= 1 << (bit % 8);
            let free = u16::from_le_bytes([bytes[0x0C], bytes[0x0D]]);
            let free = if was_set { free + 1 } else { free - 1 };
            bytes[0x0C..0x0E].copy_from_slice(&free.to_le_bytes());
        });
    }

    /// The first bit of a group that is in that state.
    pub(crate) fn bit_that_is(&self, group: u64, set: bool) -> usize {
        let bytes = self.read(group);
        let bits = usize::from(u16::from_le_bytes([bytes[0x0A], bytes[0x0B]]));
        let mut found =
            (1..bits).filter(|bit| (bytes[0x40 + bit / 8] >> (bit % 8) & 1 == 1) == set);
        found.next().unwrap()
    }

    /// Sets a field of record `index` of the extent list at `at`.
    pub(crate) fn set_rec(&mut self, blkno: u64, at: usize, index: usize, name: &str, value: u64) {
        self.set(blkno, at + 16 + 16 * index, ExtentRec::FIELDS, name, value);
    }

    pub(crate) fn rec(&self, blkno: u64, at: usize, index: usize, name: &str) -> u64 {
        self.get(blkno, at + 16 + 16 * index, ExtentRec::FIELDS, name)
    }

    pub(crate) fn set_list(&mut self, blkno: u64, at: usize, name: &str, value: u64) {
        self.set(blkno, at, ExtentList::FIELDS, name, value);
    }

    /// Where an entry of a directory lies: block and offset in it.
    pub(crate) fn entry(&self, spec: &str, name: &str) -> (u64, usize) {
        let volume = self.volume();
        let view = volume.view();
        let directory = inode::read(view, BlockNo(self.inode(spec))).unwrap();
        let mut found = None;
        dir::for_each_area(view, &directory, &mut |area| {
            let area = area.unwrap();
            for entry in dir::entries(area.bytes) {
                let entry = entry.unwrap();
                if entry.is_used() && entry.name == name.as_bytes() {
                    found = Some(match area.block {
                        Some(block) => (block.0, entry.offset),
                        None => (directory.blkno().0, 0xC8 + entry.offset),
                    });
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        found.unwrap_or_else(|| panic!("no {name} in {spec}"))
    }
}

fn field<'a>(fields: &'a [Field], name: &str) -> &'a Field {
    fields
        .iter()
        .find(|field| field.name == name)
        .unwrap_or_else(|| panic!("no field {name}"))
}

/// Where the check of a block lies, by what the block is.
fn check_at(bytes: &[u8]) -> Option<usize> {
    let mut signature = [0; 8];
    signature.copy_from_slice(&bytes[..8]);
    let trailer = bytes.len() - DIR_TRAILER + 0x10;
    check_offset_of(signature).or_else(|| {
        (bytes[trailer..trailer + 8] == DIR_TRAILER_SIGNATURE).then_some(bytes.len() - 8)
    })
}
