//! Files and block devices, read and written positionally.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Device, DeviceMut, beyond_end, copy_through_buffer, zeros_by_writing};
use crate::error::IoError;

/// Bytes discarded by one system call.
const DISCARD_STEP: u64 = 1 << 36;

/// A file or block device.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    size: u64,
    block_device: bool,
}

impl FileDevice {
    /// Takes an open file; its size is that of the file or block device.
    ///
    /// # Errors
    /// The size cannot be found out.
    pub fn new(mut file: File) -> std::io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        let block_device = file.metadata()?.file_type().is_block_device();
        Ok(Self {
            file,
            size,
            block_device,
        })
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a block device.
    #[must_use]
    pub const fn is_block_device(&self) -> bool {
        self.block_device
    }

    fn check(&self, op: &'static str, offset: u64, len: usize) -> Result<(), IoError> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(beyond_end(op, offset, len, self.size)),
        }
    }
}

impl Device for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.check("read", offset, buf.len())?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|source| IoError {
                op: "read",
                offset,
                len: buf.len() as u64,
                source,
            })
    }
}

impl DeviceMut for FileDevice {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.check("write", offset, data.len())?;
        self.file
            .write_all_at(data, offset)
            .map_err(|source| IoError {
                op: "write",
                offset,
                len: data.len() as u64,
                source,
            })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        self.check("zero", offset, crate::units::index(len))?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if len == 0 || fallocate(&self.file, punch, offset, len).is_ok() {
            return Ok(());
        }
        // No holes here (some filesystems and devices): write the zeros.
        zeros_by_writing(self, offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool, IoError> {
        self.check("discard", offset, crate::units::index(len))?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // In steps, so that a signal is not kept waiting on a slow device.
        let mut done = 0;
        while done < len {
            let step = DISCARD_STEP.min(len - done);
            if fallocate(&self.file, punch, offset.saturating_add(done), step).is_err() {
                return Ok(false);
            }
            done += step;
        }
        Ok(true)
    }

    fn copy_from(&self, file: &File, from: u64, offset: u64, len: u64) -> std::io::Result<()> {
        self.check("write", offset, crate::units::index(len))
            .map_err(std::io::Error::other)?;
        let (mut source, mut target) = (from, offset);
        let mut left = len;
        // The kernel copies without a detour through this process, where it can.
        while left > 0 {
            let step = crate::units::index(left.min(1 << 30));
            let copied = rustix::fs::copy_file_range(
                file,
                Some(&mut source),
                &self.file,
                Some(&mut target),
                step,
            );
            match copied {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => left -= copied as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        copy_through_buffer(self, file, source, target, left)
    }

    fn begin_flush(&self, offset: u64, len: u64) {
        // Telling the kernel that the range is not needed in memory makes it write it out.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::DontNeed);
    }

    fn flush(&self) -> Result<(), IoError> {
        self.file.sync_data().map_err(|source| IoError {
            op: "flush",
            offset: 0,
            len: 0,
            source,
        })
    }
}
