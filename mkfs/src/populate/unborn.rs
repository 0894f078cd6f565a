//! A volume that has no superblock yet, opened all the same.

use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::error::{IoError, Result};
use cowfs_format::layout::SUPER_BLOCK_BLKNO;
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::Volume;

use crate::plan::Plan;

/// Opens the volume of a plan that is written but for its superblock.
pub(crate) fn open<'d>(device: &'d dyn DeviceMut, plan: &Plan) -> Result<Volume<Unborn<'d>>> {
    Volume::open(Unborn {
        device,
        at: plan.geo.byte_of(BlockNo(SUPER_BLOCK_BLKNO)),
        superblock: plan.primary(),
    })
}

/// A device whose volume has no superblock yet: it is shown where it will be.
#[derive(Debug)]
pub(crate) struct Unborn<'d> {
    device: &'d dyn DeviceMut,
    at: u64,
    superblock: Vec<u8>,
}

impl Device for Unborn<'_> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.device.read_at(offset, buf)?;
        for (byte, at) in buf.iter_mut().zip(offset..) {
            let Some(inside) = at.checked_sub(self.at) else {
                continue;
            };
            let Some(held) = self.superblock.get(index(inside)) else {
                break;
            };
            *byte = *held;
        }
        Ok(())
    }
}

impl DeviceMut for Unborn<'_> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.device.write_at(offset, data)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        self.device.write_zeros(offset, len)
    }

    fn copy_from(
        &self,
        file: &std::fs::File,
        from: u64,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        self.device.copy_from(file, from, offset, len)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.device.flush()
    }
}
