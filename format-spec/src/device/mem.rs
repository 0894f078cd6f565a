//! A volume in memory, for tests and for staging.

use std::sync::RwLock;

use super::{Device, DeviceMut, beyond_end, range};
use crate::error::IoError;

/// Bytes in memory.
#[derive(Debug)]
pub struct MemDevice {
    bytes: RwLock<Vec<u8>>,
    size: usize,
}

impl MemDevice {
    /// A device that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let size = bytes.len();
        Self {
            bytes: RwLock::new(bytes),
            size,
        }
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

impl Device for MemDevice {
    fn size(&self) -> u64 {
        self.size as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let range = range(offset, buf.len(), self.size)
            .ok_or_else(|| beyond_end("read", offset, buf.len(), self.size()))?;
        let bytes = self
            .bytes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        buf.copy_from_slice(&bytes[range]);
        Ok(())
    }
}

impl DeviceMut for MemDevice {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let range = range(offset, data.len(), self.size)
            .ok_or_else(|| beyond_end("write", offset, data.len(), self.size()))?;
        let mut bytes = self
            .bytes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
}
