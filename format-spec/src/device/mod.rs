//! Where the bytes of a volume are: files, block devices, memory, and layers over them.
//!
//! Reading and writing are two traits, so that read-only is a type: what holds only a [`Device`]
//! cannot write. All access is positional and through `&self`; threads share a device.

mod fault;
mod file;
mod mem;
mod mmap;
mod overlay;
mod packed;
mod undo;

use std::fmt::Debug;

pub use fault::FaultDevice;
pub use file::FileDevice;
pub use mem::MemDevice;
pub use mmap::MmapDevice;
pub use overlay::OverlayDevice;
pub use packed::{PackedDevice, PaddedDevice, is_packed};
pub use undo::{Identity, Recording, UNDO_MAGIC, Undo, UndoLog, Undone};

use crate::error::IoError;

/// Something that holds a volume and can be read.
pub trait Device: Send + Sync + Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Reads exactly `buf.len()` bytes from byte `offset`.
    ///
    /// # Errors
    /// The range lies beyond the end, or the device fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError>;

    /// As [`Device::read_at`], but what the medium holds now, past any memory of earlier reads:
    /// other hosts may write to it.
    ///
    /// # Errors
    /// The range lies beyond the end, or the device fails.
    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.read_at(offset, buf)
    }

    /// The bytes themselves, when the device has them in memory; `None` means: use `read_at`.
    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// Says that a range will be read soon. A hint: it may do nothing, and cannot fail.
    fn prefetch(&self, offset: u64, len: usize) {
        let _ = (offset, len);
    }
}

/// A device that can be written.
pub trait DeviceMut: Device {
    /// Writes all of `data` at byte `offset`.
    ///
    /// # Errors
    /// The range lies beyond the end, or the device fails.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError>;

    /// Makes a range read as zeros, as a hole or discarded where the device can do that.
    ///
    /// # Errors
    /// The range lies beyond the end, or the device fails.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        zeros_by_writing(self, offset, len)
    }

    /// Drops what a range holds, so that it reads as zeros, if that costs no writing of zeros.
    /// `false`: the device cannot do that, and the range holds what it held, or zeros in parts.
    ///
    /// # Errors
    /// The range lies beyond the end.
    fn discard(&self, offset: u64, len: u64) -> Result<bool, IoError> {
        let _ = (offset, len);
        Ok(false)
    }

    /// Copies `len` bytes from byte `from` of a file to byte `offset` of the device.
    ///
    /// # Errors
    /// The file cannot be read or ends too early, or the device fails.
    fn copy_from(
        &self,
        file: &std::fs::File,
        from: u64,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        copy_through_buffer(self, file, from, offset, len)
    }

    /// Begins to bring what was written in a range to stable storage, without waiting for it: a
    /// hint that makes a later [`flush`](Self::flush) shorter.
    fn begin_flush(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Returns when all writes so far are on stable storage.
    ///
    /// # Errors
    /// The device fails.
    fn flush(&self) -> Result<(), IoError>;
}

impl<D: Device + ?Sized> Device for &D {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        (**self).read_at(offset, buf)
    }

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        (**self).read_fresh(offset, buf)
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).mapped(offset, len)
    }

    fn prefetch(&self, offset: u64, len: usize) {
        (**self).prefetch(offset, len);
    }
}

impl<D: DeviceMut + ?Sized> DeviceMut for &D {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        (**self).write_at(offset, data)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        (**self).write_zeros(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool, IoError> {
        (**self).discard(offset, len)
    }

    fn begin_flush(&self, offset: u64, len: u64) {
        (**self).begin_flush(offset, len);
    }

    fn copy_from(
        &self,
        file: &std::fs::File,
        from: u64,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        (**self).copy_from(file, from, offset, len)
    }

    fn flush(&self) -> Result<(), IoError> {
        (**self).flush()
    }
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        (**self).read_at(offset, buf)
    }

    fn read_fresh(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        (**self).read_fresh(offset, buf)
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).mapped(offset, len)
    }

    fn prefetch(&self, offset: u64, len: usize) {
        (**self).prefetch(offset, len);
    }
}

impl<D: DeviceMut + ?Sized> DeviceMut for Box<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        (**self).write_at(offset, data)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), IoError> {
        (**self).write_zeros(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool, IoError> {
        (**self).discard(offset, len)
    }

    fn begin_flush(&self, offset: u64, len: u64) {
        (**self).begin_flush(offset, len);
    }

    fn copy_from(
        &self,
        file: &std::fs::File,
        from: u64,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        (**self).copy_from(file, from, offset, len)
    }

    fn flush(&self) -> Result<(), IoError> {
        (**self).flush()
    }
}

/// The error for a range that lies beyond the end of the device.
pub(crate) fn beyond_end(op: &'static str, offset: u64, len: usize, size: u64) -> IoError {
    IoError {
        op,
        offset,
        len: len as u64,
        source: std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            format!("the device ends at byte {size}"),
        ),
    }
}

/// `offset..offset + len` as indexes, when it lies below `size`.
pub(crate) fn range(offset: u64, len: usize, size: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= size).then_some(start..end)
}

/// Zeros a range by writing zeros, where the device has no better way.
pub(crate) fn zeros_by_writing<D: DeviceMut + ?Sized>(
    device: &D,
    offset: u64,
    len: u64,
) -> Result<(), IoError> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut done = 0;
    while done < len {
        let step = ZEROS.len().min(crate::units::index(len - done));
        device.write_at(offset.saturating_add(done), &ZEROS[..step])?;
        done += step as u64;
    }
    Ok(())
}

/// Copies from a file by reading and writing.
pub(crate) fn copy_through_buffer<D: DeviceMut + ?Sized>(
    device: &D,
    file: &std::fs::File,
    from: u64,
    offset: u64,
    len: u64,
) -> std::io::Result<()> {
    let mut buf = vec![0; crate::units::index(len.min(1 << 20))];
    let mut done = 0;
    while done < len {
        let step = buf.len().min(crate::units::index(len - done));
        std::os::unix::fs::FileExt::read_exact_at(file, &mut buf[..step], from + done)?;
        device
            .write_at(offset + done, &buf[..step])
            .map_err(std::io::Error::other)?;
        done += step as u64;
    }
    Ok(())
}
