//! Finding windows that hold the same bytes.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::block::View;
use crate::error::Result;
use crate::layout::{DynFeatures, FileType, InodeFlags};
use crate::ops::dedupe::{Deduped, Tick, Ticker, WINDOW};
use crate::ops::require_mutable;
use crate::read::extent::{self, Extent};
use crate::read::inode;
use crate::units::{BlockNo, ClusterNo, Geometry, low32};
use crate::volume::scan::Scanner;

/// Bytes read at a time.
pub(super) const STEP: u64 = 64 << 10;
/// Rounds in which windows whose sums agree but whose bytes do not are compared with others.
const ROUNDS: usize = 8;

/// A file that was looked at.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) inode: BlockNo,
    pub(super) tree: Option<BlockNo>,
    pub(super) extents: Vec<Extent>,
    /// Clusters up to the end of the file.
    pub(super) end: u32,
}

/// A part of a window: data that lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Piece {
    /// First cluster, counted from the beginning of the window.
    pub(super) at: u32,
    /// Where it lies.
    pub(super) first: u32,
    pub(super) clusters: u32,
}

/// A window of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    pub(super) file: usize,
    /// Its first cluster in the file.
    pub(super) cpos: u32,
}

/// Clusters that one or more windows map.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) pieces: Vec<Piece>,
    pub(super) windows: Vec<Window>,
}

impl Stored {
    fn clusters(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| u64::from(piece.clusters))
            .sum()
    }

    /// Whether data stands at the same places of both windows.
    fn same_shape(&self, other: &Self) -> bool {
        let clusters = |stored: &Self| -> Vec<(u32, u32)> {
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for piece in &stored.pieces {
                match runs.last_mut() {
                    Some(last) if last.1 == piece.at => last.1 += piece.clusters,
                    _ => runs.push((piece.at, piece.at + piece.clusters)),
                }
            }
            runs
        };
        clusters(self) == clusters(other)
    }
}

/// What was found: the files, and what is stored and whose bytes are the same, group by group.
#[derive(Debug)]
pub struct Found {
    pub(super) files: Vec<Candidate>,
    pub(super) equal: Vec<Vec<Stored>>,
    /// The first of each group stays where it is; otherwise that is to be decided.
    pub(super) first_stays: bool,
    /// What is known before anything is shared.
    pub done: Deduped,
}

/// Looks for equal windows among files, given by their inodes. Only those of at least `min_size`
/// bytes are looked at.
///
/// # Errors
/// A file cannot be read.
pub fn find(
    scanner: &Scanner,
    view: View<'_>,
    inodes: &[BlockNo],
    min_size: u64,
    tick: Ticker<'_>,
) -> Result<Found> {
    let mut done = Deduped::default();
    let files = files(scanner, view, inodes, min_size, &mut done)?;
    let mut stored = windows(*view.geo(), &files, &mut done);
    // Blocks that lie side by side are read one after the other.
    stored.sort_by_key(|stored| stored.pieces.first().map(|piece| piece.first));
    let search = Search {
        view,
        scanner,
        tick,
        read: 0,
    };
    let equal = search.equal(stored, &mut done)?;
    Ok(Found {
        files,
        equal,
        first_stays: false,
        done,
    })
}

/// What is to be known of files; those that take no part are left out.
pub(super) fn files(
    scanner: &Scanner,
    view: View<'_>,
    inodes: &[BlockNo],
    min_size: u64,
    done: &mut Deduped,
) -> Result<Vec<Candidate>> {
    let mut files = Vec::new();
    let mut failed = None;
    let mut known = HashSet::new();
    let inodes: Vec<BlockNo> = (inodes.iter().copied())
        .filter(|at| known.insert(*at))
        .collect();
    scanner.run(
        &inodes,
        |inode| candidate(view, *inode, min_size),
        |file| match file {
            Ok(Some(file)) => files.push(file),
            Ok(None) => done.skipped += 1,
            Err(error) => failed = failed.take().or(Some(error)),
        },
    );
    if let Some(error) = failed {
        return Err(error);
    }
    done.files = files.len() as u64;
    Ok(files)
}

/// What is to be known of a file, if it takes part.
fn candidate(view: View<'_>, blkno: BlockNo, min_size: u64) -> Result<Option<Candidate>> {
    let inode = inode::read(view, blkno)?;
    let special = InodeFlags::SYSTEM.union(InodeFlags::DIO_ORPHANED);
    if inode.file_type() != Some(FileType::Regular)
        || inode.flags().intersects(special)
        || !inode.has_extents()
        || inode.i_size.get() < min_size
        || require_mutable(&inode, blkno).is_err()
    {
        return Ok(None);
    }
    let extents = inode.extents(view)?;
    extent::in_order(&extents, blkno)?;
    let attached = inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
    Ok(Some(Candidate {
        inode: blkno,
        tree: attached.then(|| BlockNo(inode.i_refcount_loc.get())),
        extents,
        end: low32(view.geo().clusters_for(inode.i_size.get())),
    }))
}

/// Cuts files into windows, and gives those that are stored in different places.
fn windows(geo: Geometry, files: &[Candidate], done: &mut Deduped) -> Vec<Stored> {
    let window = low32((WINDOW >> geo.cluster_bits()).max(1));
    let mut found: Vec<Stored> = Vec::new();
    let mut places: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    let mut put = |file: usize, cpos: u32, pieces: Vec<Piece>| {
        let Some(first) = pieces.first() else { return };
        let here = places.entry((first.at, first.first)).or_default();
        let window = Window { file, cpos };
        if let Some(same) = here.iter().find(|at| found[**at].pieces == pieces) {
            found[*same].windows.push(window);
        } else {
            here.push(found.len());
            let windows = vec![window];
            found.push(Stored { pieces, windows });
        }
    };
    for (n, file) in files.iter().enumerate() {
        let mut at = 0;
        let mut pieces: Vec<Piece> = Vec::new();
        for extent in file.extents.iter().filter(|extent| !extent.is_unwritten()) {
            let (mut cpos, end) = (extent.cpos, extent.end().min(file.end));
            let mut first = geo.cluster_of(extent.blkno).0;
            while cpos < end {
                let begin = cpos - cpos % window;
                if begin != at {
                    put(n, at, std::mem::take(&mut pieces));
                    at = begin;
                }
                let clusters = (end - cpos).min(window - (cpos - begin));
                let piece = Piece {
                    at: cpos - begin,
                    first,
                    clusters,
                };
                match pieces.last_mut() {
                    Some(last)
                        if last.at + last.clusters == piece.at
                            && last.first.saturating_add(last.clusters) == first =>
                    {
                        last.clusters += clusters;
                    }
                    _ => pieces.push(piece),
                }
                cpos += clusters;
                first = first.saturating_add(clusters);
            }
        }
        put(n, at, pieces);
    }
    for stored in &found {
        let bytes = stored.clusters() << geo.cluster_bits();
        let times = stored.windows.len() as u64;
        done.mapped_bytes += bytes * times;
        done.already_bytes += bytes * (times - 1);
    }
    found
}

/// The blocks of a stored window, in order.
struct Blocks<'p> {
    pieces: std::slice::Iter<'p, Piece>,
    next: BlockNo,
    left: u64,
    geo: Geometry,
}

impl<'p> Blocks<'p> {
    fn of(geo: Geometry, stored: &'p Stored) -> Self {
        Self {
            pieces: stored.pieces.iter(),
            next: BlockNo(0),
            left: 0,
            geo,
        }
    }

    /// How many blocks follow one another from the next one on; 0 at the end.
    fn ready(&mut self) -> u64 {
        if self.left == 0
            && let Some(piece) = self.pieces.next()
        {
            self.next = self.geo.first_block(ClusterNo(piece.first));
            self.left = u64::from(piece.clusters) * self.geo.blocks_per_cluster();
        }
        self.left
    }

    fn take(&mut self, blocks: u64) -> BlockNo {
        let first = self.next;
        self.next = self.next.plus(blocks);
        self.left -= blocks.min(self.left);
        first
    }
}

/// A sum of bytes: four words at a time, each in a state of its own. It only tells what is worth
/// comparing.
#[derive(Clone, Copy)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

    pub(super) const fn new(seed: u64) -> Self {
        Self([seed, seed ^ Self::ODD, seed.rotate_left(21), !seed])
    }

    const fn mix(state: u64, word: u64) -> u64 {
        (state ^ word).wrapping_mul(Self::ODD).rotate_left(29)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (steps, _) = bytes.as_chunks::<32>();
        let [mut a, mut b, mut c, mut d] = self.0;
        for step in steps {
            let (words, _) = step.as_chunks::<8>();
            a = Self::mix(a, u64::from_le_bytes(words[0]));
            b = Self::mix(b, u64::from_le_bytes(words[1]));
            c = Self::mix(c, u64::from_le_bytes(words[2]));
            d = Self::mix(d, u64::from_le_bytes(words[3]));
        }
        self.0 = [a, b, c, d];
    }

    pub(super) fn end(self) -> u64 {
        self.0.into_iter().fold(0, |all, state| {
            let all = Self::mix(all, state);
            all ^ (all >> 32)
        })
    }
}

struct Search<'s, 'v> {
    view: View<'v>,
    scanner: &'s Scanner,
    tick: Ticker<'s>,
    read: u64,
}

impl Search<'_, '_> {
    fn equal(mut self, stored: Vec<Stored>, done: &mut Deduped) -> Result<Vec<Vec<Stored>>> {
        let all: Vec<usize> = (0..stored.len()).collect();
        (self.tick)(Tick::Pass(all.len() as u64));
        let samples = each(self.scanner, self.tick, &all, |at| self.sample(&stored[at]))?;
        let alike = groups(&all, &samples);
        // Two that look alike are compared at once; where there are more, a sum of all their bytes
        // tells which to compare.
        let many: Vec<usize> = alike
            .iter()
            .filter(|group| group.len() > 2)
            .flatten()
            .copied()
            .collect();
        (self.tick)(Tick::Pass(many.len() as u64));
        let sums = each(self.scanner, self.tick, &many, |at| self.sum(&stored[at]))?;
        self.read += many.iter().map(|at| stored[*at].clusters()).sum::<u64>();
        let pairs = alike.into_iter().filter(|group| group.len() == 2);
        let mut open: Vec<Vec<usize>> = groups(&many, &sums).into_iter().chain(pairs).collect();
        open.sort_unstable();
        let total: usize = open.iter().map(|group| group.len() - 1).sum();
        (self.tick)(Tick::Pass(total as u64));
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for _ in 0..ROUNDS {
            let tries: Vec<(usize, usize)> = (open.iter())
                .flat_map(|group| group.iter().skip(1).map(|other| (group[0], *other)))
                .collect();
            if tries.is_empty() {
                break;
            }
            let same = each(self.scanner, self.tick, &tries, |(a, b)| {
                self.same(&stored[a], &stored[b])
            })?;
            self.read += tries
                .iter()
                .map(|(_, b)| 2 * stored[*b].clusters())
                .sum::<u64>();
            let mut same = same.into_iter();
            let mut next = Vec::new();
            for group in open {
                let (first, others) = (group[0], &group[1..]);
                let (mut class, mut rest) = (vec![first], Vec::new());
                for (other, same) in others.iter().zip(same.by_ref()) {
                    if same { &mut class } else { &mut rest }.push(*other);
                }
                if class.len() > 1 {
                    classes.push(class);
                }
                if rest.len() > 1 {
                    next.push(rest);
                }
            }
            open = next;
        }
        done.read_bytes = self.read << self.view.geo().cluster_bits();
        let mut stored: Vec<Option<Stored>> = stored.into_iter().map(Some).collect();
        let mut equal: Vec<Vec<Stored>> = classes
            .into_iter()
            .map(|class| {
                class
                    .into_iter()
                    .filter_map(|at| stored[at].take())
                    .collect()
            })
            .collect();
        equal.sort_by_key(|class: &Vec<Stored>| {
            class
                .iter()
                .filter_map(|s| s.windows.first().copied())
                .min()
        });
        Ok(equal)
    }

    /// A number that windows of the same bytes have in common, from three of their blocks.
    fn sample(&self, stored: &Stored) -> Result<u64> {
        let geo = *self.view.geo();
        let blocks = stored.clusters() * geo.blocks_per_cluster();
        let mut shape = Sum::new(blocks);
        let mut run = (0, 0);
        for piece in &stored.pieces {
            if piece.at == run.1 {
                run.1 += piece.clusters;
                continue;
            }
            shape.0[0] = Sum::mix(shape.0[0], u64::from(run.0) << 32 | u64::from(run.1));
            run = (piece.at, piece.at + piece.clusters);
        }
        shape.0[0] = Sum::mix(shape.0[0], u64::from(run.0) << 32 | u64::from(run.1));
        let mut sum = shape;
        let mut wanted = [0, blocks / 2, blocks.saturating_sub(1)]
            .into_iter()
            .peekable();
        let (mut at, mut walk) = (0, Blocks::of(geo, stored));
        while let Some(&next) = wanted.peek() {
            let ready = walk.ready();
            if ready == 0 {
                break;
            }
            if next >= at + ready {
                walk.take(ready);
                at += ready;
                continue;
            }
            let block = walk.next.plus(next - at);
            sum.add(&self.view.run(block, 1)?);
            wanted.next();
        }
        Ok(sum.end())
    }

    fn sum(&self, stored: &Stored) -> Result<u64> {
        let geo = *self.view.geo();
        let mut sum = Sum::new(0);
        let mut walk = Blocks::of(geo, stored);
        loop {
            let blocks = walk.ready().min(STEP >> geo.block_bits());
            if blocks == 0 {
                return Ok(sum.end());
            }
            let first = walk.take(blocks);
            sum.add(&self.view.run(first, crate::units::index(blocks))?);
        }
    }

    /// Whether two windows hold the same bytes: all of them are compared.
    fn same(&self, a: &Stored, b: &Stored) -> Result<bool> {
        if !a.same_shape(b) {
            return Ok(false);
        }
        let geo = *self.view.geo();
        let (mut a, mut b) = (Blocks::of(geo, a), Blocks::of(geo, b));
        loop {
            let blocks = a.ready().min(b.ready()).min(STEP >> geo.block_bits());
            if blocks == 0 {
                return Ok(true);
            }
            let count = crate::units::index(blocks);
            let left = self.view.run(a.take(blocks), count)?;
            let right = self.view.run(b.take(blocks), count)?;
            if left[..] != right[..] {
                return Ok(false);
            }
        }
    }
}

/// What `work` makes of each item, in their order.
pub(super) fn each<I: Copy + Sync, T: Send>(
    scanner: &Scanner,
    tick: Ticker<'_>,
    items: &[I],
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let mut found = Vec::with_capacity(items.len());
    let mut failed = None;
    let step = |item: &I| {
        let made = work(*item);
        tick(Tick::Step(1));
        made
    };
    scanner.run(items, step, |made| match made {
        Ok(made) => found.push(made),
        Err(error) => failed = failed.take().or(Some(error)),
    });
    match failed {
        Some(error) => Err(error),
        None if found.len() < items.len() => {
            let what = "stopped".to_owned();
            Err(crate::error::Error::Input { what })
        }
        None => Ok(found),
    }
}

/// Items that have a number in common with others, in order.
fn groups(items: &[usize], numbers: &[u64]) -> Vec<Vec<usize>> {
    let mut all: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (item, number) in items.iter().zip(numbers) {
        all.entry(*number).or_default().push(*item);
    }
    all.into_values().filter(|group| group.len() > 1).collect()
}
