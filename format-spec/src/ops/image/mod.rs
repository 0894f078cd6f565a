//! Metadata images: a volume without the data of its files, to be looked at elsewhere.
//!
//! An image is a sparse file of the size of the volume, in which the metadata lies where it lies on
//! the volume and everything else is a hole. All tools open it as a volume.
//!
//! What people send to a stranger must not hold what their files do. So a block gets into an image
//! only as what it is: by its signature and number, at a place where such a block belongs. Data
//! that stands in the inode of a file is zeroed, and so is that of removed inodes. A block that
//! should be metadata and bears no signature of it may be anything, and is left out; those left out
//! are listed, and so are those kept with a wrong check. With scrambling, names, targets of
//! symlinks and values of attributes are replaced as well; see `names.rs` beside this file for how
//! indexes stay true.
//!
//! Clean logs are left out. A dirty one is kept with its records; the images inside are those of
//! the newest state, which is also what lies in their homes, so that a replay changes nothing.

mod clean;
mod log;
mod names;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::{Checked, EccState, MetaBlock, View};
use crate::device::DeviceMut;
use crate::ecc;
use crate::error::{Error, FaultKind, IoError, Result};
use crate::layout::{ExtentBlock, SUPER_BLOCK_SIGNATURE};
use crate::read::extent::{self, TreeStep};
use crate::read::{dir, inode};
use crate::units::BlockNo;
use crate::volume::JournalState;
use crate::volume::scan::Scanner;

/// What an image is made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Whether names, targets of symlinks and values of attributes are replaced.
    pub scramble: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Imaged {
    /// Names that were replaced.
    pub scrambled: u64,
    /// Names that had to be kept, because no other of their length fits into the index.
    pub kept: u64,
    /// Blocks that should be metadata and were left out, and why, by their number.
    pub left_out: Vec<Error>,
}

/// Writes the metadata that `view` shows to `out`, which reads as zeros and has the size of the
/// volume.
///
/// # Errors
/// The image cannot be written, or the volume cannot be read at all.
pub fn write_image(
    scanner: &Scanner,
    view: View<'_>,
    journals: &[JournalState],
    out: &dyn DeviceMut,
    options: ImageOptions,
) -> Result<Imaged> {
    let imager = Imager {
        view,
        out,
        scramble: options.scramble,
        scrambled: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        left_out: Mutex::default(),
        known: known(view),
        seen: Mutex::default(),
        failed: Mutex::default(),
    };
    imager.fixed();
    imager.allocators(scanner);
    for state in journals {
        imager.journal(state);
    }
    if let Some(error) = locked(&imager.failed).take() {
        return Err(error.into());
    }
    let left_out = std::mem::take(&mut *locked(&imager.left_out));
    Ok(Imaged {
        scrambled: imager.scrambled.into_inner(),
        kept: imager.kept.into_inner(),
        left_out: left_out.into_values().collect(),
    })
}

/// The root directory, the system directory and what is in it.
fn known(view: View<'_>) -> BTreeSet<BlockNo> {
    let info = view.info();
    let mut found = BTreeSet::from([info.root, info.system_dir]);
    if let Ok(directory) = inode::read(view, info.system_dir) {
        // What cannot be read is missing, which the image shows.
        let _ = dir::for_each_entry(view, &directory, &mut |entry| {
            found.insert(entry.inode);
            ControlFlow::Continue(())
        });
    }
    found
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An image under way. Threads share it; each block is written the same whoever comes to it.
struct Imager<'v, 'a> {
    view: View<'v>,
    out: &'a dyn DeviceMut,
    scramble: bool,
    scrambled: AtomicU64,
    kept: AtomicU64,
    left_out: Mutex<BTreeMap<BlockNo, Error>>,
    /// Inodes that are found without their allocator: the system's.
    known: BTreeSet<BlockNo>,
    /// Those of them, and refcount trees, that were walked.
    seen: Mutex<HashSet<BlockNo>>,
    failed: Mutex<Option<IoError>>,
}

impl<'v> Imager<'v, '_> {
    /// Writes bytes from the start of a block on; zeros stay holes.
    fn put(&self, blkno: BlockNo, bytes: &[u8]) {
        if bytes.iter().all(|&byte| byte == 0) {
            return;
        }
        let at = self.view.geo().byte_of(blkno);
        if let Err(error) = self.out.write_at(at, bytes) {
            locked(&self.failed).get_or_insert(error);
        }
    }

    /// Notes a block that is left out.
    fn leave_out(&self, blkno: BlockNo, error: impl Into<Error>) {
        locked(&self.left_out)
            .entry(blkno)
            .or_insert_with(|| error.into());
    }

    /// Copies a run of blocks whose meaning is their place.
    fn copy(&self, first: BlockNo, count: u64) {
        for blkno in (0..count).map(|i| first.plus(i)) {
            match self.view.raw(blkno) {
                Ok(bytes) => self.put(blkno, &bytes),
                Err(error) => self.leave_out(blkno, error),
            }
        }
    }

    /// Keeps a metadata block, after `change`. One whose number, generation or check is wrong is
    /// kept with its fault, except where what stands in it is to be hidden.
    fn keep<B: MetaBlock>(
        &self,
        blkno: BlockNo,
        change: impl FnOnce(&Checked<'v, B>, &mut [u8]),
    ) -> Option<Checked<'v, B>> {
        let (block, faults) = self.view.inspect::<B>(blkno);
        let Some(block) = block else {
            let kind = faults.into_iter().next().unwrap_or(FaultKind::Unreadable);
            self.leave_out(blkno, kind.at(blkno));
            return None;
        };
        let mut bytes = block.bytes().to_vec();
        if let Some(fault) = faults.into_iter().next() {
            if self.scramble {
                self.leave_out(blkno, fault.at(blkno));
                return None;
            }
            change(&block, &mut bytes);
            self.put(blkno, &bytes);
            return None;
        }
        change(&block, &mut bytes);
        self.put_stamped(blkno, bytes, block.bytes(), (B::CHECK_AT, block.ecc()));
        Some(block)
    }

    /// Writes a block with a check. A bit that the check corrected is wrong in the image again.
    fn put_stamped(
        &self,
        blkno: BlockNo,
        mut bytes: Vec<u8>,
        before: &[u8],
        (check_at, state): (usize, EccState),
    ) {
        if state != EccState::Off && bytes != before {
            ecc::stamp(&mut bytes, check_at);
        }
        if let EccState::Corrected { bit } = state {
            ecc::flip(&mut bytes, bit);
        }
        self.put(blkno, &bytes);
    }

    /// Keeps the extent blocks of a tree, and shows its extents.
    fn tree(&self, owner: BlockNo, root: &[u8], each: &mut dyn FnMut(&extent::Extent)) {
        let walked = extent::walk_tree(self.view, owner, root, &mut |step| {
            match step {
                TreeStep::List {
                    block: Some(block), ..
                } => drop(self.keep::<ExtentBlock>(block.blkno(), |_, _| ())),
                TreeStep::List { .. } => {}
                TreeStep::Extent(extent) => each(&extent),
                TreeStep::Fault { error, .. } => {
                    if let Error::Fault(fault) = &error
                        && fault.blkno != owner
                    {
                        self.keep::<ExtentBlock>(fault.blkno, |_, _| ());
                    }
                }
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = walked {
            self.leave_out(owner, error);
        }
    }

    /// What lies at places that the format fixes.
    fn fixed(&self) {
        let geo = self.view.geo();
        // The header that makes a driver of the first format refuse the volume.
        self.copy(BlockNo(0), 2);
        let backups = geo
            .backup_offsets()
            .map(|offset| BlockNo(offset >> geo.block_bits()));
        let primary = BlockNo(crate::layout::SUPER_BLOCK_BLKNO);
        for blkno in std::iter::once(primary).chain(backups) {
            match self.view.raw(blkno) {
                Ok(bytes) if bytes.starts_with(&SUPER_BLOCK_SIGNATURE) => self.put(blkno, &bytes),
                // Without a signature there is no backup.
                Ok(_) if blkno != primary => {}
                Ok(_) => self.leave_out(
                    blkno,
                    FaultKind::Field {
                        field: "i_signature",
                        value: 0,
                        rule: "no superblock",
                    }
                    .at(blkno),
                ),
                Err(error) => self.leave_out(blkno, error),
            }
        }
    }

    fn count(&self, scrambled: u64, kept: u64) {
        self.scrambled.fetch_add(scrambled, Ordering::Relaxed);
        self.kept.fetch_add(kept, Ordering::Relaxed);
    }
}
