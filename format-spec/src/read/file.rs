//! Contents of files: bytes by offset, data and holes.

use crate::block::{Checked, View};
use crate::error::{Error, FaultKind, Result};
use crate::layout::Dinode;
use crate::read::extent::Extent;
use crate::units::{BlockNo, index};

/// Where the bytes of a file are.
#[derive(Debug)]
enum Contents {
    Inline(Vec<u8>),
    Extents(Vec<Extent>),
}

/// Reads a file's contents by offset.
#[derive(Debug)]
pub struct FileReader<'v> {
    view: View<'v>,
    size: u64,
    contents: Contents,
}

/// A run of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// First block of the run on the device; `None` for a hole (or unwritten space), which reads
    /// as zeros. Inline data is a run without a block: see [`FileReader::is_inline`].
    pub blkno: Option<BlockNo>,
}

impl<'v> FileReader<'v> {
    /// Opens the contents of an inode: a file, a directory, or the target of a symlink.
    ///
    /// # Errors
    /// The extent tree is damaged.
    pub fn open(view: View<'v>, inode: &Checked<'_, Dinode>) -> Result<Self> {
        let size = inode.i_size.get();
        let contents = if let Some(bytes) = inode.inline_data().or_else(|| inode.fast_symlink()) {
            if bytes.len() as u64 != size {
                let rule = "it is more than the inode can hold";
                let kind = FaultKind::Field {
                    field: "i_size",
                    value: size,
                    rule,
                };
                return Err(Error::Fault(kind.at(inode.blkno())));
            }
            Contents::Inline(bytes.to_vec())
        } else {
            Contents::Extents(inode.extents(view)?)
        };
        Ok(Self {
            view,
            size,
            contents,
        })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the contents stand in the inode.
    #[must_use]
    pub const fn is_inline(&self) -> bool {
        matches!(self.contents, Contents::Inline(_))
    }

    /// The extents; none when the contents stand in the inode.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        match &self.contents {
            Contents::Inline(_) => &[],
            Contents::Extents(extents) => extents,
        }
    }

    /// The whole file as runs of data and holes, in order, up to its size.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let mut found: Vec<Segment> = Vec::new();
        let mut at = 0;
        if let Contents::Inline(bytes) = &self.contents {
            found.push(Segment {
                offset: 0,
                len: bytes.len() as u64,
                blkno: None,
            });
            return found;
        }
        let geo = self.view.geo();
        for extent in self.extents() {
            let start = u64::from(extent.cpos) << geo.cluster_bits();
            let end = (u64::from(extent.end()) << geo.cluster_bits()).min(self.size);
            if start > at && at < self.size {
                found.push(Segment {
                    offset: at,
                    len: start.min(self.size) - at,
                    blkno: None,
                });
            }
            if start < end {
                let blkno = (!extent.is_unwritten()).then_some(extent.blkno);
                found.push(Segment {
                    offset: start,
                    len: end - start,
                    blkno,
                });
            }
            at = at.max(end);
        }
        if at < self.size {
            found.push(Segment {
                offset: at,
                len: self.size - at,
                blkno: None,
            });
        }
        found
    }

    /// Reads exactly `buf.len()` bytes from byte `offset`; bytes behind the end are zeros.
    ///
    /// # Errors
    /// A block cannot be read.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let extents = match &self.contents {
            Contents::Inline(bytes) => {
                let from = index(offset).min(bytes.len());
                let len = (bytes.len() - from).min(buf.len());
                buf[..len].copy_from_slice(&bytes[from..from + len]);
                return Ok(());
            }
            Contents::Extents(extents) => extents,
        };
        let geo = self.view.geo();
        let end = offset.saturating_add(buf.len() as u64).min(self.size);
        let first = extents.partition_point(|e| u64::from(e.end()) << geo.cluster_bits() <= offset);
        for extent in &extents[first..] {
            let start = u64::from(extent.cpos) << geo.cluster_bits();
            let stop = u64::from(extent.end()) << geo.cluster_bits();
            if start >= end {
                break;
            }
            if extent.is_unwritten() {
                continue;
            }
            let (from, to) = (start.max(offset), stop.min(end));
            if from >= to {
                // Only extents out of order come here.
                continue;
            }
            self.read_run(
                extent.blkno,
                from - start,
                &mut buf[index(from - offset)..index(to - offset)],
            )?;
        }
        Ok(())
    }

    /// Reads bytes that begin `skip` bytes behind a block.
    fn read_run(&self, blkno: BlockNo, skip: u64, mut out: &mut [u8]) -> Result<()> {
        let geo = self.view.geo();
        let mut blkno = blkno.plus(skip >> geo.block_bits());
        let mut skip = index(skip % geo.block_bytes() as u64);
        while !out.is_empty() {
            let blocks = (skip + out.len())
                .div_ceil(geo.block_bytes())
                .min(1 << 20 >> geo.block_bits());
            let run = self.view.run(blkno, blocks)?;
            let len = (run.len() - skip).min(out.len());
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&run[skip..skip + len]);
            out = later;
            skip = 0;
            blkno = blkno.plus(blocks as u64);
        }
        Ok(())
    }
}
