//! Putting new files into a volume.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::layout::{Dinode, ExtentFlags, FileType, Incompat};
use crate::ops::write::{check_size, source_error};
use crate::read::extent::Extent;
use crate::txn::{ClusterPool, NewInode, Txn};
use crate::units::{BlockNo, ClusterNo, index, low32};

/// Bytes that are held at a time of contents that are no file of the host.
const CHUNK: u64 = 1 << 20;

/// The contents of a file to be made. Its bytes are asked for in order, and only once unless it says
/// that they can be read again.
pub trait Contents {
    /// What to call it in messages.
    fn name(&self) -> &str;

    /// Its size.
    fn size(&self) -> u64;

    /// The ranges that hold data, in order, as (offset, length); between them it is all zeros.
    fn runs(&self) -> &[(u64, u64)];

    /// Reads data from byte `offset` on, all within one run.
    ///
    /// # Errors
    /// It cannot be read, or ends too early.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()>;

    /// Whether all of it can be read again.
    fn can_rewind(&self) -> bool {
        false
    }

    /// The file of the host in which the data at `offset` stands, and where, if there is one: then
    /// it is copied without a detour through this process.
    fn on_host(&self, offset: u64) -> Option<(&File, u64)> {
        let _ = offset;
        None
    }
}

/// A file of the host.
#[derive(Debug)]
pub struct HostFile<'f> {
    file: &'f File,
    name: &'f str,
    size: u64,
    runs: Vec<(u64, u64)>,
}

impl<'f> HostFile<'f> {
    /// Learns where a file of the host has data.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(file: &'f File, name: &'f str) -> Result<Self> {
        let (size, runs) = data_runs(file, name)?;
        Ok(Self {
            file,
            name,
            size,
            runs,
        })
    }
}

impl Contents for HostFile<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn can_rewind(&self) -> bool {
        true
    }

    fn on_host(&self, offset: u64) -> Option<(&File, u64)> {
        Some((self.file, offset))
    }
}

/// The runs of a file that hold data, as (offset, length); holes between them are left out.
fn data_runs(file: &File, name: &str) -> Result<(u64, Vec<(u64, u64)>)> {
    use rustix::fs::{SeekFrom, seek};
    let size = file.metadata().map_err(|e| source_error(name, &e))?.len();
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // No holes can be told here: all of it is data.
            Err(_) => return Ok((size, vec![(0, size)])),
        };
        let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if start >= end {
            break;
        }
        runs.push((start, end - start));
        at = end;
    }
    Ok((size, runs))
}

/// Puts a file of the host into a directory: see [`import`].
///
/// # Errors
/// As [`import`].
pub fn import_file(
    txn: &mut Txn<'_>,
    parent: BlockNo,
    name: &[u8],
    (file, file_name): (&File, &str),
    attributes: &NewInode,
    progress: &dyn Fn(u64),
) -> Result<BlockNo> {
    let mut contents = HostFile::new(file, file_name)?;
    import(txn, parent, name, &mut contents, attributes, progress)
}

/// Puts contents into a directory under a name that does not exist yet: small ones into the inode,
/// others into new clusters, holes as holes. `progress` is told of bytes copied.
///
/// # Errors
/// The name exists, the contents cannot be read, the volume is full, or a block cannot be used.
pub fn import(
    txn: &mut Txn<'_>,
    parent: BlockNo,
    name: &[u8],
    contents: &mut dyn Contents,
    attributes: &NewInode,
    progress: &dyn Fn(u64),
) -> Result<BlockNo> {
    txn.require_new_name(parent, name)?;
    let size = contents.size();
    let inode = txn.new_inode(attributes)?;
    let blank = contents.runs().is_empty() && txn.info().has(Incompat::SPARSE_ALLOC);
    if size > txn.info().geo.block_bytes() as u64 {
        import_large(txn, inode, contents, progress)?;
    } else if size > 0 {
        let mut bytes = vec![0; index(size)];
        for (offset, len) in contents.runs().to_vec() {
            let part = &mut bytes[index(offset)..index(offset + len)];
            let read = contents.read(offset, part);
            read.map_err(|e| source_error(contents.name(), &e))?;
            progress(len);
        }
        if !txn.store_inline(inode, &bytes)? {
            if !blank {
                super::write::move_out(txn, inode, &bytes)?;
            }
            txn.edit::<Dinode>(inode)?.i_size = size.into();
        }
    }
    txn.add_name(parent, name, inode, FileType::Regular, attributes.ctime)?;
    Ok(inode)
}

fn import_large(
    txn: &mut Txn<'_>,
    inode: BlockNo,
    contents: &mut dyn Contents,
    progress: &dyn Fn(u64),
) -> Result<()> {
    let size = contents.size();
    // Behind this, all numbers of clusters fit into 32 bits.
    check_size(txn, size)?;
    let runs = contents.runs().to_vec();
    let clusters = if txn.info().has(Incompat::SPARSE_ALLOC) {
        cluster_runs(txn, &runs)
    } else {
        // No file has holes here: they become zeros.
        cluster_runs(txn, &[(0, size)])
    };
    let needed: u64 = clusters.iter().map(|(_, count)| u64::from(*count)).sum();
    let free = u64::from(txn.free_clusters()?);
    if needed > free {
        return Err(Error::NoSpace {
            needed: needed - free,
            unit: "clusters",
        });
    }
    let mut extents = Vec::new();
    let mut pool = ClusterPool::new(needed);
    for run in clusters {
        fill(txn, &mut pool, contents, run, &runs, &mut extents, progress)?;
    }
    let root = txn.data_root(inode)?;
    txn.splice(&root, 0, u32::MAX, &extents)?;
    txn.edit::<Dinode>(inode)?.i_size = size.into();
    txn.charge_clusters(inode, needed.cast_signed())
}

/// The runs of clusters that runs of bytes touch, joined.
fn cluster_runs(txn: &Txn<'_>, runs: &[(u64, u64)]) -> Vec<(u32, u32)> {
    let bits = txn.info().geo.cluster_bits();
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (offset, len) in runs {
        let first = low32(offset >> bits);
        let end = low32((offset + len).div_ceil(1 << bits));
        match found.last_mut() {
            Some((start, count)) if *start + *count >= first => {
                *count = (*count).max(end - *start);
            }
            _ => found.push((first, end - first)),
        }
    }
    found
}

/// Allocates a run of logical clusters and copies its bytes there.
fn fill(
    txn: &mut Txn<'_>,
    pool: &mut ClusterPool,
    contents: &mut dyn Contents,
    (mut cpos, mut count): (u32, u32),
    runs: &[(u64, u64)],
    extents: &mut Vec<Extent>,
    progress: &dyn Fn(u64),
) -> Result<()> {
    let geo = txn.info().geo;
    while count > 0 {
        let (cluster, got) = pool.take(txn, count)?;
        let blkno = geo.first_block(cluster);
        extents.push(Extent {
            cpos,
            clusters: got,
            blkno,
            flags: ExtentFlags::empty(),
        });
        let start = u64::from(cpos) << geo.cluster_bits();
        let end = start + (u64::from(got) << geo.cluster_bits());
        let span = (start, end);
        if contents.on_host(start).is_none() && end - start <= CHUNK {
            let mut buf = vec![0; index(end - start)];
            for (first, last) in pieces(runs, span) {
                let part = &mut buf[index(first - start)..index(last - start)];
                let read = contents.read(first, part);
                read.map_err(|e| source_error(contents.name(), &e))?;
                progress(last - first);
            }
            txn.write_data(cluster, 0, &buf)?;
        } else {
            copy_run(txn, cluster, contents, span, runs, progress)?;
        }
        cpos += got;
        count -= got;
    }
    Ok(())
}

/// The parts of runs that lie in a range.
fn pieces(runs: &[(u64, u64)], (start, end): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    let from = runs.partition_point(|(offset, len)| offset + len <= start);
    let inside = runs[from..].iter().take_while(move |run| run.0 < end);
    inside.map(move |(offset, len)| ((*offset).max(start), (offset + len).min(end)))
}

/// Copies what a range of a file holds into its clusters, step by step.
fn copy_run(
    txn: &mut Txn<'_>,
    cluster: ClusterNo,
    contents: &mut dyn Contents,
    (start, end): (u64, u64),
    runs: &[(u64, u64)],
    progress: &dyn Fn(u64),
) -> Result<()> {
    let mut done = start;
    for (first, last) in pieces(runs, (start, end)) {
        txn.zero_data(cluster, done - start, first - done)?;
        let mut at = first;
        while at < last {
            let step = match contents.on_host(at) {
                Some((file, from)) => {
                    let step = (last - at).min(64 << 20);
                    txn.copy_data(cluster, at - start, file, from, step)
                        .map_err(|e| source_error(contents.name(), &e))?;
                    step
                }
                None => {
                    let mut buf = vec![0; index((last - at).min(CHUNK))];
                    let read = contents.read(at, &mut buf);
                    read.map_err(|e| source_error(contents.name(), &e))?;
                    txn.write_data(cluster, at - start, &buf)?;
                    buf.len() as u64
                }
            };
            progress(step);
            at += step;
        }
        done = last;
    }
    txn.zero_data(cluster, done - start, end - done)
}
