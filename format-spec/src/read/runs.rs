//! Where the first bytes of a file lie on the device: for the files that nodes read and write past
//! all journals, the slot map and the heartbeats.

use crate::block::View;
use crate::device::Device;
use crate::error::{FaultKind, Result};
use crate::read::{file::FileReader, inode};
use crate::units::{BlockNo, index};

/// The places of a file's first bytes.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Byte offset and length of each run.
    runs: Vec<(u64, usize)>,
}

impl Runs {
    /// The places of the first `len` bytes of a file, or of as many as it has, by its inode.
    ///
    /// # Errors
    /// The file is damaged or has holes there.
    pub fn find(view: View<'_>, blkno: BlockNo, len: u64) -> Result<Self> {
        let geo = view.geo();
        let inode = inode::read(view, blkno)?;
        let mut left = index(inode.i_size.get().min(len));
        let (mut runs, mut next) = (Vec::new(), 0);
        for extent in FileReader::open(view, &inode)?.extents() {
            if left == 0 {
                break;
            }
            if extent.cpos != next {
                let (field, value) = ("e_cpos", u64::from(extent.cpos));
                let rule = "this file has no holes";
                return Err(FaultKind::Field { field, value, rule }.at(blkno).into());
            }
            next = extent.end();
            let len = index(u64::from(extent.clusters) << geo.cluster_bits()).min(left);
            runs.push((geo.byte_of(extent.blkno), len));
            left -= len;
        }
        Ok(Self { runs })
    }

    /// The bytes as the medium holds them now.
    ///
    /// # Errors
    /// The device fails.
    pub fn read_fresh(&self, device: &(impl Device + ?Sized)) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for &(offset, len) in &self.runs {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            device.read_fresh(offset, bytes.get_mut(start..).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    /// The place on the device of a byte of the file.
    #[must_use]
    pub fn place_of(&self, at: usize) -> Option<u64> {
        let mut skipped = 0;
        for &(offset, len) in &self.runs {
            if at < skipped + len {
                return offset.checked_add((at - skipped) as u64);
            }
            skipped += len;
        }
        None
    }
}
