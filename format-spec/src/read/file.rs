//! Contents of files: bytes by offset, data and holes.

use crate::block::{Checked, View};
use crate::error::{Error, Fault, FaultKind, Result};
use crate::layout::Dinode;
use crate::read::extent::{self, Extent};
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

/// A part of a file that cannot be read.
#[derive(Debug)]
pub struct Gap {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Why.
    pub error: Error,
}

impl<'v> FileReader<'v> {
    /// Opens the contents of an inode: a file, a directory, or the target of a symlink.
    ///
    /// # Errors
    /// The extent tree is damaged.
    pub fn open(view: View<'v>, inode: &Checked<'_, Dinode>) -> Result<Self> {
        let contents = match inline(inode)? {
            Some(contents) => contents,
            None => {
                let extents = inode.extents(view)?;
                extent::in_order(&extents, inode.blkno())?;
                Contents::Extents(extents)
            }
        };
        Ok(Self {
            view,
            size: inode.i_size.get(),
            contents,
        })
    }

    /// Opens what can be read of an inode whose extent tree may be damaged, with the parts that
    /// the damage hides; they read as zeros.
    ///
    /// # Errors
    /// The inode itself cannot hold what it says.
    pub fn salvage(view: View<'v>, inode: &Checked<'_, Dinode>) -> Result<(Self, Vec<Gap>)> {
        let size = inode.i_size.get();
        let (contents, lost) = match inline(inode)? {
            Some(contents) => (contents, Vec::new()),
            None if inode.has_extents() => {
                let (extents, lost) = extent::salvage(view, inode.blkno(), inode.body());
                (Contents::Extents(extents), lost)
            }
            None => (Contents::Extents(Vec::new()), Vec::new()),
        };
        let bits = view.geo().cluster_bits();
        let gaps = lost.into_iter().map(|part| {
            let offset = (u64::from(part.cpos) << bits).min(size);
            Gap {
                offset,
                len: (u64::from(part.end) << bits).min(size) - offset,
                error: part.error,
            }
        });
        let gaps = gaps.collect();
        let file = Self {
            view,
            size,
            contents,
        };
        Ok((file, gaps))
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

    /// Reads as [`FileReader::read_at`]; blocks that cannot be read are zeros and become gaps.
    pub fn read_around(&self, offset: u64, buf: &mut [u8], gaps: &mut Vec<Gap>) {
        if self.read_at(offset, buf).is_ok() {
            return;
        }
        let size = self.view.geo().block_bytes();
        for (i, part) in buf.chunks_mut(size).enumerate() {
            let at = offset.saturating_add((i * size) as u64);
            let Err(error) = self.read_at(at, part) else {
                continue;
            };
            part.fill(0);
            let error = self.place(at).map_or(error, Error::from);
            let len = part.len() as u64;
            match gaps.last_mut() {
                // What follows for the same reason is one part.
                Some(last) if last.offset + last.len == at && alike(&last.error, &error) => {
                    last.len += len;
                }
                _ => gaps.push(Gap {
                    offset: at,
                    len,
                    error,
                }),
            }
        }
    }

    /// The block behind a byte of the file, as one that cannot be read.
    fn place(&self, offset: u64) -> Option<Fault> {
        let geo = self.view.geo();
        let cluster = u32::try_from(offset >> geo.cluster_bits()).ok()?;
        let extent = self
            .extents()
            .iter()
            .find(|extent| extent.cpos <= cluster && cluster < extent.end())?;
        let skip = offset - (u64::from(extent.cpos) << geo.cluster_bits());
        let blkno = extent.blkno.plus(skip >> geo.block_bits());
        let kind = if geo.contains(blkno, 1) {
            FaultKind::Unreadable
        } else {
            FaultKind::OutOfVolume
        };
        Some(kind.at(blkno))
    }

    /// Whether the extents are as many clusters as the inode counts. A tree that lost its end
    /// looks like a file with a hole there; the count is what tells them apart.
    ///
    /// # Errors
    /// They are not.
    pub fn verify_count(&self, inode: &Checked<'_, Dinode>) -> Result<()> {
        let mapped: u64 = self.extents().iter().map(|e| u64::from(e.clusters)).sum();
        let counted = u64::from(inode.i_clusters.get());
        if mapped == counted {
            return Ok(());
        }
        let kind = FaultKind::Field {
            field: "i_clusters",
            value: counted,
            rule: "it is not the number of clusters that the extents have",
        };
        Err(kind.at(inode.blkno()).into())
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

/// The contents that stand in an inode.
fn inline(inode: &Checked<'_, Dinode>) -> Result<Option<Contents>> {
    let Some(bytes) = inode.inline_data().or_else(|| inode.fast_symlink()) else {
        return Ok(None);
    };
    if bytes.len() as u64 != inode.i_size.get() {
        let kind = FaultKind::Field {
            field: "i_size",
            value: inode.i_size.get(),
            rule: "it is more than the inode can hold",
        };
        return Err(Error::Fault(kind.at(inode.blkno())));
    }
    Ok(Some(Contents::Inline(bytes.to_vec())))
}

/// Whether two errors differ in their place only.
fn alike(a: &Error, b: &Error) -> bool {
    match (a, b) {
        (Error::Fault(a), Error::Fault(b)) => a.kind == b.kind,
        _ => false,
    }
}
