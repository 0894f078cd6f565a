//! A packed metadata image, read as the device that it was made from.

use std::io;

use zerocopy::FromBytes;

use super::Device;
use crate::error::{Error, IoError, Result};
use crate::layout::{IMAGE_BITMAP_BLOCK, IMAGE_DESC, IMAGE_MAGIC, IMAGE_VERSION, ImageHeader};
use crate::units::{Geometry, index};

/// Blocks under one count of the blocks before them.
const STRIDE: usize = 512;
/// Bytes of the description that o2image sets: the text and a NUL.
const DESC_BYTES: usize = 12;

/// The device behind a packed metadata image. What the image does not hold cannot be read.
#[derive(Debug)]
pub struct PackedDevice<D> {
    image: D,
    block_bits: u32,
    blocks: u64,
    /// A bit for each block of the volume.
    bitmap: Vec<u8>,
    /// Blocks that the image holds before each stride.
    before: Vec<u64>,
}

/// Whether a device begins like a packed image.
pub fn is_packed(device: &impl Device) -> bool {
    let mut head = [0; size_of::<ImageHeader>()];
    device.read_at(0, &mut head).is_ok()
        && ImageHeader::ref_from_bytes(&head).is_ok_and(|head| {
            head.hdr_magic.get() == IMAGE_MAGIC
                && head.hdr_magic_desc[..DESC_BYTES] == IMAGE_DESC[..DESC_BYTES]
        })
}

impl<D: Device> PackedDevice<D> {
    /// Opens a packed image.
    ///
    /// # Errors
    /// It is none, of another version, or cut short.
    pub fn open(image: D) -> Result<Self> {
        let wrong = |why: &str| Error::NotAVolume {
            why: format!("a packed metadata image {why}"),
        };
        if !is_packed(&image) {
            return Err(wrong("was asked for, but this is none"));
        }
        let mut head = [0; size_of::<ImageHeader>()];
        image.read_at(0, &mut head)?;
        let head = ImageHeader::ref_from_bytes(&head).map_err(|_| wrong("without a header"))?;
        if head.hdr_version.get() > IMAGE_VERSION {
            let what = format!("version {} of packed metadata images", head.hdr_version);
            return Err(Error::Unsupported { what });
        }
        if head.hdr_bmpblksz.get() != IMAGE_BITMAP_BLOCK {
            return Err(wrong("whose bitmap is not in pieces of 4096 bytes"));
        }
        let block_bits = Geometry::BLOCK_BITS
            .into_iter()
            .find(|bits| 1 << bits == head.hdr_fsblksz.get())
            .ok_or_else(|| wrong("whose blocks are not of 512 to 4096 bytes"))?;
        let (blocks, held) = (head.hdr_fsblkcnt.get(), head.hdr_imgblkcnt.get());
        let short = || wrong("that is cut short");
        if blocks == 0 || blocks > u64::MAX >> block_bits || held > blocks {
            return Err(wrong("with an impossible number of blocks"));
        }
        // The bitmap is as long as its file at most, so this allocates no more than is there.
        let at = held
            .checked_add(1)
            .and_then(|n| n.checked_mul(1 << block_bits))
            .ok_or_else(short)?;
        let pieces = blocks.div_ceil(IMAGE_BITMAP_BLOCK * 8);
        let bytes = pieces.saturating_mul(IMAGE_BITMAP_BLOCK);
        if at.checked_add(bytes).is_none_or(|end| end > image.size()) {
            return Err(short());
        }
        let mut bitmap = vec![0; index(bytes)];
        image.read_at(at, &mut bitmap)?;
        // Bits beyond the volume mean nothing.
        let last = index(blocks / 8);
        if let Some(byte) = bitmap.get_mut(last) {
            *byte &= (1 << (blocks % 8)) - 1;
        }
        bitmap.truncate(last + 1);
        let mut count = 0;
        let mut before = Vec::with_capacity(bitmap.len().div_ceil(STRIDE / 8));
        for stride in bitmap.chunks(STRIDE / 8) {
            before.push(count);
            count += ones(stride);
        }
        if count != held {
            return Err(wrong(
                "whose bitmap does not count the blocks that it holds",
            ));
        }
        Ok(Self {
            image,
            block_bits,
            blocks,
            bitmap,
            before,
        })
    }

    /// Number of blocks that the image holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
            + self.bitmap.chunks(STRIDE / 8).next_back().map_or(0, ones)
    }

    /// Where the image holds a block.
    fn place(&self, block: u64) -> Option<u64> {
        let byte = index(block / 8);
        let bit = 1u8 << (block % 8);
        let own = *self.bitmap.get(byte)?;
        if own & bit == 0 {
            return None;
        }
        let stride = byte / (STRIDE / 8);
        let whole = self.bitmap.get(stride * (STRIDE / 8)..byte)?;
        let inside = u64::from((own & (bit - 1)).count_ones());
        Some((1 + self.before.get(stride)? + ones(whole) + inside) << self.block_bits)
    }

    /// Where the image holds a range whose blocks all follow one another, as all blocks that it
    /// holds do.
    fn range(&self, offset: u64, len: usize) -> Option<u64> {
        let end = offset.checked_add(len as u64)?;
        let (first, behind) = (
            offset >> self.block_bits,
            end.div_ceil(1 << self.block_bits),
        );
        if (first..behind).any(|block| self.place(block).is_none()) {
            return None;
        }
        Some(self.place(first)? + (offset - (first << self.block_bits)))
    }
}

impl<D: Device> Device for PackedDevice<D> {
    fn size(&self) -> u64 {
        self.blocks << self.block_bits
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        if buf.is_empty() {
            return Ok(());
        }
        match self.range(offset, buf.len()) {
            Some(at) => self.image.read_at(at, buf),
            None => Err(IoError {
                op: "read",
                offset,
                len: buf.len() as u64,
                source: io::Error::other("the metadata image does not hold that"),
            }),
        }
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.image.mapped(self.range(offset, len)?, len)
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

/// An image that may end before the volume does, as raw metadata images do; what is behind its end
/// reads as zeros.
#[derive(Debug)]
pub struct PaddedDevice<D> {
    image: D,
}

impl<D: Device> PaddedDevice<D> {
    /// Takes an image.
    pub const fn new(image: D) -> Self {
        Self { image }
    }
}

impl<D: Device> Device for PaddedDevice<D> {
    fn size(&self) -> u64 {
        // As large as any file can be: the superblock says how large the volume is.
        u64::MAX >> 1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let there = self.image.size().saturating_sub(offset);
        let (data, zeros) = buf.split_at_mut(index(there.min(buf.len() as u64)));
        zeros.fill(0);
        if data.is_empty() {
            return Ok(());
        }
        self.image.read_at(offset, data)
    }

    fn mapped(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.image.mapped(offset, len)
    }

    fn prefetch(&self, offset: u64, len: usize) {
        self.image.prefetch(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDevice;
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    /// An image of a volume whose block *n* is filled with *n*.
    fn packed(held: &[u64], blocks: u64) -> Vec<u8> {
        let mut head = ImageHeader::new_zeroed();
        head.hdr_magic = IMAGE_MAGIC.into();
        head.hdr_magic_desc = IMAGE_DESC;
        head.hdr_version = IMAGE_VERSION.into();
        head.hdr_fsblkcnt = blocks.into();
        head.hdr_fsblksz = 512.into();
        head.hdr_imgblkcnt = (held.len() as u64).into();
        head.hdr_bmpblksz = IMAGE_BITMAP_BLOCK.into();
        let mut bytes = head.as_bytes().to_vec();
        bytes.resize(512, 0xEE);
        let mut bitmap = vec![0u8; index(blocks.div_ceil(32768)) * 4096];
        for &block in held {
            bytes.extend_from_slice(&[block.to_le_bytes()[0]; 512]);
            bitmap[index(block / 8)] |= 1 << (block % 8);
        }
        bytes.extend_from_slice(&bitmap);
        bytes
    }

    proptest! {
        #[test]
        fn blocks_are_found_by_the_bitmap(
            held in proptest::collection::btree_set(0u64..5000, 0..400),
        ) {
            let held: Vec<u64> = held.into_iter().collect();
            let device = PackedDevice::open(MemDevice::new(packed(&held, 5000))).unwrap();
            prop_assert_eq!(device.held(), held.len() as u64);
            let mut block = [0; 512];
            for n in 0..5000 {
                let read = device.read_at(n * 512, &mut block);
                prop_assert_eq!(read.is_ok(), held.contains(&n));
                if read.is_ok() {
                    prop_assert_eq!(block, [n.to_le_bytes()[0]; 512]);
                }
            }
        }
    }

    #[test]
    fn damaged_images_are_refused() {
        let good = packed(&[1, 2, 600], 5000);
        assert!(PackedDevice::open(MemDevice::new(good.clone())).is_ok());
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            assert!(PackedDevice::open(MemDevice::new(bytes)).is_err());
        };
        refused(&|bytes| bytes.truncate(3000));
        refused(&|bytes| bytes[0] = 0);
        refused(&|bytes| bytes[0x18] = 2);
        refused(&|bytes| bytes[0x20..0x28].fill(0xFF));
        refused(&|bytes| bytes[0x30] = 2);
        refused(&|bytes| bytes[0x30..0x38].fill(0xFF));
        refused(&|bytes| bytes[0x28] = 1);
        refused(&|bytes| bytes[0x39] = 0);
    }
}
