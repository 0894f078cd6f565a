//! Files and block devices, read and written positionally.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::{Device, DeviceMut, beyond_end, copy_through_buffer, zeros_by_writing};
use crate::error::IoError;

/// Bytes discarded by one system call.
const DISCARD_STEP: u64 = 1 << 36;

/// Alignment of direct reads: no device has larger sectors.
const ALIGN: u64 = 4096;

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

    /// The same file with another size. Whoever holds this device sees its old one.
    ///
    /// # Errors
    /// It is a block device, or the file cannot have that size.
    pub fn resized(&self, size: u64) -> std::io::Result<Self> {
        self.file.set_len(size)?;
        Self::new(self.file.try_clone()?)
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

    /// Reads a range past the page cache; `None` where the filesystem does not do that.
    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Option<()> {
        // A second way to the same file: on the one in use, every access would have to be aligned.
        let name = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::DIRECT.union(OFlags::NONBLOCK).bits();
        let direct = File::options()
            .read(true)
            .custom_flags(i32::try_from(flags).ok()?)
            .open(name)
            .ok()?;
        let begin = offset / ALIGN * ALIGN;
        let end = offset
            .checked_add(buf.len() as u64)?
            .checked_next_multiple_of(ALIGN)?;
        let len = usize::try_from(end - begin).ok()?;
        let mut room = vec![0; len.checked_add(usize::try_from(ALIGN).ok()?)?];
        let start = room.as_ptr().align_offset(usize::try_from(ALIGN).ok()?);
        let room = room.get_mut(start..start.checked_add(len)?)?;
        let mut done = 0;
        while done < len {
            let got = direct
                .read_at(room.get_mut(done..)?, begin + done as u64)
                .ok()?;
            done += got;
            // A file may end within the last piece.
            if got == 0 || !got.is_multiple_of(512) {
                break;
            }
        }
        let skip = usize::try_from(offset - begin).ok()?;
        let read = room.get(skip..done.min(skip + buf.len()))?;
        (read.len() == buf.len()).then(|| buf.copy_from_slice(read))
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

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.check("read", offset, buf.len())?;
        if self.read_direct(offset, buf).is_some() {
            return Ok(());
        }
        // The next best: forget what is remembered.
        let len = std::num::NonZeroU64::new(buf.len() as u64);
        let _ = rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::DontNeed);
        self.read_at(offset, buf)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_reads_are_of_any_place_and_length() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..10_001u32).map(|i| i.to_le_bytes()[0]).collect();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let device = FileDevice::new(file).unwrap();
        for (offset, len) in [(0, 1), (0, 10_001), (4095, 2), (9000, 1001), (10_001, 0)] {
            let mut buf = vec![0; len];
            device.read_fresh(offset as u64, &mut buf).unwrap();
            assert_eq!(buf, bytes[offset..offset + len], "{offset} {len}");
        }
        device.write_at(5000, b"new").unwrap();
        let mut buf = [0; 3];
        device.read_fresh(5000, &mut buf).unwrap();
        assert_eq!(&buf, b"new");
        assert!(device.read_fresh(10_000, &mut buf).is_err());
    }
}
