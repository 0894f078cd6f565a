//! What two files have in common, told from where they lie: what both map to the same clusters is
//! the same without being read.

use std::ops::ControlFlow;

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{FileType, InodeFlags};
use crate::read::extent::Extent;
use crate::read::file::FileReader;
use crate::read::inode::Inode;
use crate::units::{BlockNo, index};

/// How a range of two files compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Both map the same clusters.
    Shared,
    /// Neither has data: both read as zeros.
    Hole,
    /// Both have data, in different places, which was not compared.
    Apart,
    /// Both have the same data in different places.
    Equal,
    /// Both have data, and it differs.
    Different,
    /// Only the first file has data, or reaches so far.
    OnlyA,
    /// Only the second file has data, or reaches so far.
    OnlyB,
}

impl Relation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Shared,
        Self::Hole,
        Self::Apart,
        Self::Equal,
        Self::Different,
        Self::OnlyA,
        Self::OnlyB,
    ];

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Hole => "hole",
            Self::Apart => "apart",
            Self::Equal => "equal",
            Self::Different => "different",
            Self::OnlyA => "only_a",
            Self::OnlyB => "only_b",
        }
    }
}

/// A range of bytes at the same place in two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// How the files compare there.
    pub relation: Relation,
    /// Where the first file has the range; `None` in a hole, and for data in the inode.
    pub block_a: Option<BlockNo>,
    /// Where the second file has it.
    pub block_b: Option<BlockNo>,
}

/// What a file has at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    /// The file ends before.
    Beyond,
    /// Nothing, or clusters that read as zeros.
    Zeros(Option<BlockNo>),
    /// Data in clusters.
    Data(BlockNo),
    /// Data in the inode.
    Inline,
}

/// One of the two files.
struct Side<'v> {
    reader: FileReader<'v>,
    inline: bool,
    extents: Vec<Extent>,
    next: usize,
    size: u64,
    bits: u32,
    block_bits: u32,
}

impl<'v> Side<'v> {
    fn new(view: View<'v>, inode: &'v Inode<'v>) -> Result<Self> {
        let special = InodeFlags::CHAIN
            .union(InodeFlags::LOCAL_ALLOC)
            .union(InodeFlags::DEALLOC)
            .union(InodeFlags::SUPER_BLOCK);
        if inode.file_type() != Some(FileType::Regular) || inode.flags().intersects(special) {
            let what = format!(
                "inode {}: only regular files can be compared",
                inode.blkno()
            );
            return Err(Error::Input { what });
        }
        Ok(Self {
            reader: FileReader::open(view, inode)?,
            inline: inode.inline_data().is_some(),
            extents: inode.extents(view)?,
            next: 0,
            size: inode.i_size.get(),
            bits: view.geo().cluster_bits(),
            block_bits: view.geo().block_bits(),
        })
    }

    /// What is at a place, and up to where; asked from front to back.
    fn at(&mut self, offset: u64) -> (Here, u64) {
        if offset >= self.size {
            return (Here::Beyond, u64::MAX);
        }
        if self.inline {
            return (Here::Inline, self.size);
        }
        let start = |extent: &Extent| u64::from(extent.cpos) << self.bits;
        let end = |extent: &Extent| u64::from(extent.end()) << self.bits;
        while (self.extents.get(self.next)).is_some_and(|extent| end(extent) <= offset) {
            self.next += 1;
        }
        match self.extents.get(self.next) {
            Some(extent) if start(extent) <= offset => {
                let skip = (offset - start(extent)) >> self.block_bits;
                let blkno = extent.blkno.plus(skip);
                let here = if extent.is_unwritten() {
                    Here::Zeros(Some(blkno))
                } else {
                    Here::Data(blkno)
                };
                (here, end(extent).min(self.size))
            }
            Some(extent) => (Here::Zeros(None), start(extent).min(self.size)),
            None => (Here::Zeros(None), self.size),
        }
    }
}

impl Here {
    const fn block(self) -> Option<BlockNo> {
        match self {
            Self::Data(blkno) | Self::Zeros(Some(blkno)) => Some(blkno),
            _ => None,
        }
    }
}

/// Compares two files from front to back. With `contents`, what they have in different places is
/// read and compared; otherwise nothing but their extents is. `each` can end the comparison.
///
/// # Errors
/// One of them is no regular file, or cannot be read.
pub fn compare<'v>(
    view: View<'v>,
    a: &'v Inode<'v>,
    b: &'v Inode<'v>,
    contents: bool,
    mut each: impl FnMut(Range) -> ControlFlow<()>,
) -> Result<()> {
    let (mut a, mut b) = (Side::new(view, a)?, Side::new(view, b)?);
    let size = a.size.max(b.size);
    let mut offset = 0;
    let mut last: Option<Range> = None;
    let mut put = |range: Range| -> ControlFlow<()> {
        if let Some(known) = &mut last {
            if joins(known, &range, view.geo().block_bits()) {
                known.bytes += range.bytes;
                return ControlFlow::Continue(());
            }
            each(*known)?;
        }
        last = Some(range);
        ControlFlow::Continue(())
    };
    while offset < size {
        let ((here_a, end_a), (here_b, end_b)) = (a.at(offset), b.at(offset));
        let end = end_a.min(end_b).min(size).max(offset + 1);
        let relation = match (here_a, here_b) {
            (Here::Beyond, _) => Relation::OnlyB,
            (_, Here::Beyond) => Relation::OnlyA,
            (Here::Data(x), Here::Data(y)) if x == y => Relation::Shared,
            (Here::Zeros(Some(x)), Here::Zeros(Some(y))) if x == y => Relation::Shared,
            (Here::Zeros(_), Here::Zeros(_)) => Relation::Hole,
            (Here::Zeros(_), _) => Relation::OnlyB,
            (_, Here::Zeros(_)) => Relation::OnlyA,
            _ => Relation::Apart,
        };
        let range = Range {
            offset,
            bytes: end - offset,
            relation,
            block_a: here_a.block(),
            block_b: here_b.block(),
        };
        let flow = if relation == Relation::Apart && contents {
            read_and_compare(view, &a, &b, range, &mut put)?
        } else {
            put(range)
        };
        if flow.is_break() {
            return Ok(());
        }
        offset = end;
    }
    if let Some(range) = last {
        let _ = each(range);
    }
    Ok(())
}

/// Whether a range goes on where another one ends, on the volume as well.
fn joins(known: &Range, next: &Range, block_bits: u32) -> bool {
    let follows = |before: Option<BlockNo>, after: Option<BlockNo>| match (before, after) {
        (Some(before), Some(after)) => {
            known.bytes.is_multiple_of(1 << block_bits)
                && before.plus(known.bytes >> block_bits) == after
        }
        (None, None) => true,
        _ => false,
    };
    known.relation == next.relation
        && follows(known.block_a, next.block_a)
        && follows(known.block_b, next.block_b)
}

/// Cuts a range by whether the blocks of both files are equal.
fn read_and_compare(
    view: View<'_>,
    a: &Side<'_>,
    b: &Side<'_>,
    range: Range,
    put: &mut dyn FnMut(Range) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    const STEP: usize = 1 << 18;
    let block = view.geo().block_bytes();
    let (mut left, mut right) = (vec![0; STEP], vec![0; STEP]);
    let mut done = 0;
    while done < range.bytes {
        let len = STEP.min(index(range.bytes - done));
        let (left, right) = (&mut left[..len], &mut right[..len]);
        a.reader.read_at(range.offset + done, left)?;
        b.reader.read_at(range.offset + done, right)?;
        for (left, right) in left.chunks(block).zip(right.chunks(block)) {
            let skip = done >> view.geo().block_bits();
            let flow = put(Range {
                offset: range.offset + done,
                bytes: left.len() as u64,
                relation: if left == right {
                    Relation::Equal
                } else {
                    Relation::Different
                },
                block_a: range.block_a.map(|blkno| blkno.plus(skip)),
                block_b: range.block_b.map(|blkno| blkno.plus(skip)),
            });
            if flow.is_break() {
                return Ok(flow);
            }
            done += left.len() as u64;
        }
    }
    Ok(ControlFlow::Continue(()))
}
