//! Finding runs of clusters that hold the same bytes, wherever they stand in their files.
//!
//! Each cluster has a sum, and clusters of the same sum are *anchors*: where two of them hold the
//! same bytes, the run grows to both sides as far as the bytes agree. Memory is bounded by keeping,
//! on much data, only anchors whose sum ends in so many zeros: a choice that depends on what a
//! cluster holds and on nothing else, so that both sides of a long run make the same.

use std::cmp::Ordering;
use std::ops::Range;

use crate::block::{BlockBuf, View};
use crate::error::Result;
use crate::ops::dedupe::find::{Candidate, Found, Piece, STEP, Stored, Sum, Window, each, files};
use crate::ops::dedupe::ranges::Ranges;
use crate::ops::dedupe::{Deduped, Tick, Ticker, WINDOW};
use crate::units::{BlockNo, ClusterNo, Geometry, index, low32};
use crate::volume::scan::Scanner;

/// What bounds the search for runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the shortest run that is worth an extent of its own.
    pub least: u64,
    /// Anchors that are kept, of 16 bytes each.
    pub anchors: u64,
}

impl Default for Limits {
    /// All clusters of 16 GiB are anchors where clusters have 4 KiB; of more data, some.
    fn default() -> Self {
        Self {
            least: 16 << 10,
            anchors: 4 << 20,
        }
    }
}

/// Clusters with the same sum that are tried for one.
const TRIES: usize = 8;

/// Clusters that the same places of files map.
struct Segment {
    first: u32,
    clusters: u32,
    /// Which of all windows these are, in the order of their files.
    windows: Range<usize>,
}

impl Segment {
    const fn end(&self) -> u32 {
        self.first.saturating_add(self.clusters)
    }
}

/// All clusters that files map, in their order on the volume, each once.
struct Shelf {
    segments: Vec<Segment>,
    windows: Vec<Window>,
    /// The same clusters, without the borders between segments.
    whole: Ranges,
}

impl Shelf {
    fn of(geo: Geometry, files: &[Candidate]) -> Self {
        let mut mapped: Vec<(u32, u32, Window)> = Vec::new();
        for (n, file) in files.iter().enumerate() {
            for extent in file.extents.iter().filter(|extent| !extent.is_unwritten()) {
                let clusters = extent.end().min(file.end).saturating_sub(extent.cpos);
                if clusters > 0 {
                    let first = geo.cluster_of(extent.blkno).0;
                    let (file, cpos) = (n, extent.cpos);
                    let end = first.saturating_add(clusters);
                    mapped.push((first, end, Window { file, cpos }));
                }
            }
        }
        mapped.sort_unstable();
        let mut borders: Vec<u32> = mapped.iter().flat_map(|m| [m.0, m.1]).collect();
        borders.sort_unstable();
        borders.dedup();
        let mut shelf = Self {
            segments: Vec::new(),
            windows: Vec::new(),
            whole: Ranges::default(),
        };
        let mut next = mapped.iter().copied().peekable();
        let mut open: Vec<(u32, u32, Window)> = Vec::new();
        for pair in borders.windows(2) {
            let (first, end) = (pair[0], pair[1]);
            open.retain(|mapping| mapping.1 > first);
            while let Some(mapping) = next.next_if(|mapping| mapping.0 <= first) {
                open.push(mapping);
            }
            if open.is_empty() {
                continue;
            }
            let from = shelf.windows.len();
            shelf
                .windows
                .extend(open.iter().map(|(at, _, window)| Window {
                    file: window.file,
                    cpos: window.cpos.saturating_add(first - at),
                }));
            if let Some(new) = shelf.windows.get_mut(from..) {
                new.sort_unstable();
            }
            let windows = from..shelf.windows.len();
            shelf.whole.insert(first, end - first);
            shelf.segments.push(Segment {
                first,
                clusters: end - first,
                windows,
            });
        }
        shelf
    }

    fn clusters(&self) -> u64 {
        let each = self.segments.iter();
        each.map(|segment| u64::from(segment.clusters)).sum()
    }

    fn segment(&self, cluster: u32) -> Option<&Segment> {
        let behind = self.segments.partition_point(|s| s.first <= cluster);
        let segment = self.segments.get(behind.checked_sub(1)?)?;
        (cluster < segment.end()).then_some(segment)
    }

    fn windows(&self, segment: &Segment) -> &[Window] {
        self.windows
            .get(segment.windows.clone())
            .unwrap_or_default()
    }

    /// A part of a segment, as something that is stored.
    fn stored(&self, segment: &Segment, first: u32, clusters: u32) -> Stored {
        let skip = first - segment.first;
        let each = self.windows(segment).iter();
        Stored {
            pieces: vec![Piece {
                at: 0,
                first,
                clusters,
            }],
            windows: each
                .map(|window| Window {
                    file: window.file,
                    cpos: window.cpos.saturating_add(skip),
                })
                .collect(),
        }
    }

    /// Whether a file maps both of two clusters. It could not map one of them twice.
    fn in_one_file(&self, a: &Segment, b: &Segment) -> bool {
        let (mut a, mut b) = (self.windows(a), self.windows(b));
        while let ([one, rest @ ..], [other, others @ ..]) = (a, b) {
            match one.file.cmp(&other.file) {
                Ordering::Less => a = rest,
                Ordering::Greater => b = others,
                Ordering::Equal => return true,
            }
        }
        false
    }
}

/// Looks for equal runs of clusters among files, given by their inodes, at any place of them. Only
/// files of at least `min_size` bytes are looked at. What is equal window by window should be shared
/// before: here it would be found piece by piece.
///
/// # Errors
/// A file cannot be read.
pub fn find_runs(
    scanner: &Scanner,
    view: View<'_>,
    inodes: &[BlockNo],
    (min_size, limits): (u64, Limits),
    tick: Ticker<'_>,
) -> Result<Found> {
    let mut done = Deduped::default();
    let geo = *view.geo();
    let files = if WINDOW >> geo.cluster_bits() > 1 {
        files(scanner, view, inodes, min_size, &mut done)?
    } else {
        // A window is a cluster, and all of them were compared.
        Vec::new()
    };
    let search = Search {
        view,
        shelf: Shelf::of(geo, &files),
        least: low32(geo.clusters_for(limits.least)).max(1),
    };
    let anchors = search.anchors(scanner, limits.anchors, tick)?;
    let (equal, read) = search.equal(&anchors, tick)?;
    done.read_bytes = (search.shelf.clusters() + read) << geo.cluster_bits();
    Ok(Found {
        files,
        equal,
        first_stays: true,
        done,
    })
}

/// Clusters whose sum others have too: the sum and the cluster, in this order.
type Anchors = Vec<(u64, u32)>;

struct Search<'v> {
    view: View<'v>,
    shelf: Shelf,
    /// Clusters of the shortest run.
    least: u32,
}

impl Search<'_> {
    fn anchors(&self, scanner: &Scanner, most: u64, tick: Ticker<'_>) -> Result<Anchors> {
        let geo = *self.view.geo();
        let step = low32(WINDOW >> geo.cluster_bits());
        let parts: Vec<(u32, u32)> = (self.shelf.segments.iter())
            .flat_map(|segment| {
                let starts = (segment.first..segment.end()).step_by(index(step.into()));
                starts.map(|first| (first, step.min(segment.end() - first)))
            })
            .collect();
        let spread = self.shelf.clusters().div_ceil(most.max(1));
        let mask = spread.next_power_of_two() - 1;
        tick(Tick::Pass(parts.len() as u64));
        let found = each(scanner, tick, &parts, |part| self.sums(part, mask))?;
        let mut anchors: Anchors = Vec::with_capacity(found.iter().map(Vec::len).sum());
        found.into_iter().for_each(|part| anchors.extend(part));
        anchors.sort_unstable();
        // Those that have no other one of their sum lead nowhere.
        let (mut kept, mut at) = (0, 0);
        while let Some((sum, _)) = anchors.get(at).copied() {
            let rest = anchors.get(at..).unwrap_or_default();
            let same = rest.partition_point(|(other, _)| *other == sum);
            if same > 1 {
                anchors.copy_within(at..at + same, kept);
                kept += same;
            }
            at += same;
        }
        anchors.truncate(kept);
        Ok(anchors)
    }

    /// The sums of clusters, those that the mask keeps. Clusters of one and the same byte are no
    /// anchors: there are too many of them, and they say nothing of where they stand.
    fn sums(&self, (first, clusters): (u32, u32), mask: u64) -> Result<Anchors> {
        let geo = *self.view.geo();
        let size = index(1 << geo.cluster_bits());
        let at_once = low32(STEP >> geo.cluster_bits()).max(1);
        let mut found = Vec::new();
        let mut at = first;
        while at < first + clusters {
            let count = at_once.min(first + clusters - at);
            let bytes = self.run(at, count)?;
            for (cluster, bytes) in (at..).zip(bytes.chunks_exact(size)) {
                let mut sum = Sum::new(0);
                sum.add(bytes);
                let sum = sum.end();
                if sum & mask == 0 && bytes.get(1..) != bytes.get(..size - 1) {
                    found.push((sum, cluster));
                }
            }
            at += count;
        }
        Ok(found)
    }

    fn run(&self, first: u32, clusters: u32) -> Result<BlockBuf<'_>> {
        let geo = *self.view.geo();
        let blocks = u64::from(clusters) * geo.blocks_per_cluster();
        self.view
            .run(geo.first_block(ClusterNo(first)), index(blocks))
    }

    /// Pairs of equal runs; of each, the first one stays where it is. And how many clusters were
    /// read to find them.
    fn equal(&self, anchors: &Anchors, tick: Ticker<'_>) -> Result<(Vec<Vec<Stored>>, u64)> {
        let mut order: Vec<(u32, u32)> = (0..)
            .zip(anchors)
            .map(|(at, anchor)| (anchor.1, at))
            .collect();
        order.sort_unstable();
        tick(Tick::Pass(order.len() as u64));
        let (mut moving, mut staying) = (Ranges::default(), Ranges::default());
        let (mut equal, mut read) = (Vec::new(), 0);
        for (cluster, at) in order {
            tick(Tick::Step(1));
            let at = index(at.into());
            let sum = anchors.get(at).map_or(0, |anchor| anchor.0);
            let before = anchors.get(..at).unwrap_or_default();
            let first = before.partition_point(|anchor| anchor.0 < sum);
            let others = before.get(first..).unwrap_or_default();
            for (_, other) in others.iter().take(TRIES) {
                if moving.touches(cluster, 1) {
                    break;
                }
                let Some((stays, moves)) = self.roles(*other, cluster, &moving, &staying) else {
                    continue;
                };
                let run = self.grown(stays, moves, &moving, &staying, &mut read)?;
                if run.2 >= self.least {
                    staying.insert(run.0, run.2);
                    moving.insert(run.1, run.2);
                    self.cut(run, &mut equal);
                }
            }
        }
        Ok((equal, read))
    }

    /// Which of two clusters is to stay, and which to move; nothing if neither can.
    fn roles(&self, a: u32, b: u32, moving: &Ranges, staying: &Ranges) -> Option<(u32, u32)> {
        if moving.touches(a, 1) || moving.touches(b, 1) {
            return None;
        }
        let (of_a, of_b) = (self.shelf.segment(a)?, self.shelf.segment(b)?);
        if self.shelf.in_one_file(of_a, of_b) {
            return None;
        }
        match (staying.touches(a, 1), staying.touches(b, 1)) {
            (true, true) => None,
            (true, false) => Some((a, b)),
            (false, true) => Some((b, a)),
            // The one that more files map costs more to move.
            (false, false) if of_b.windows.len() > of_a.windows.len() => Some((b, a)),
            (false, false) => Some((a, b)),
        }
    }

    /// How far the bytes around two clusters agree: where both runs begin, and how long they are.
    fn grown(
        &self,
        stays: u32,
        moves: u32,
        moving: &Ranges,
        staying: &Ranges,
        read: &mut u64,
    ) -> Result<(u32, u32, u32)> {
        // The runs may neither meet each other nor what has a role already.
        let apart = stays.abs_diff(moves);
        let after = |at: u32, taken: &[&Ranges]| {
            let end = self.shelf.whole.end_of(at);
            let next = taken.iter().map(|ranges| ranges.next_after(at)).min();
            end.min(next.unwrap_or(end)).saturating_sub(at)
        };
        let before = |at: u32, taken: &[&Ranges]| {
            let begin = self.shelf.whole.begin_of(at);
            let last = taken.iter().map(|ranges| ranges.last_before(at)).max();
            at.saturating_sub(begin.max(last.unwrap_or(begin)))
        };
        let ahead = after(stays, &[moving])
            .min(after(moves, &[moving, staying]))
            .min(apart);
        let ahead = self.agree(stays, moves, ahead, read)?;
        if ahead == 0 {
            return Ok((stays, moves, 0));
        }
        let back = before(stays, &[moving])
            .min(before(moves, &[moving, staying]))
            .min(apart - ahead);
        let back = self.agree_before(stays, moves, back, read)?;
        Ok((stays - back, moves - back, back + ahead))
    }

    /// How many clusters from two on hold the same bytes, at most so many.
    fn agree(&self, a: u32, b: u32, most: u32, read: &mut u64) -> Result<u32> {
        let geo = *self.view.geo();
        let at_once = low32(STEP >> geo.cluster_bits()).max(1);
        let mut agreed = 0;
        while agreed < most {
            let count = at_once.min(most - agreed);
            let same = self.same(a + agreed, b + agreed, count, read)?;
            agreed += same;
            if same < count {
                break;
            }
        }
        Ok(agreed)
    }

    /// The same for the clusters in front of two.
    fn agree_before(&self, a: u32, b: u32, most: u32, read: &mut u64) -> Result<u32> {
        let mut agreed = 0;
        while agreed < most && self.same(a - agreed - 1, b - agreed - 1, 1, read)? == 1 {
            agreed += 1;
        }
        Ok(agreed)
    }

    /// How many clusters of two pieces hold the same bytes.
    fn same(&self, a: u32, b: u32, count: u32, read: &mut u64) -> Result<u32> {
        let size = index(1 << self.view.geo().cluster_bits());
        *read += 2 * u64::from(count);
        let (a, b) = (self.run(a, count)?, self.run(b, count)?);
        if a[..] == b[..] {
            return Ok(count);
        }
        let pairs = a.chunks_exact(size).zip(b.chunks_exact(size));
        Ok(low32(pairs.take_while(|(a, b)| a == b).count() as u64))
    }

    /// Cuts a pair of runs where the files that map them change.
    fn cut(&self, (stays, moves, clusters): (u32, u32, u32), equal: &mut Vec<Vec<Stored>>) {
        let mut at = 0;
        while at < clusters {
            let (a, b) = (stays + at, moves + at);
            let (Some(of_a), Some(of_b)) = (self.shelf.segment(a), self.shelf.segment(b)) else {
                return;
            };
            let len = (clusters - at).min(of_a.end() - a).min(of_b.end() - b);
            if !self.shelf.in_one_file(of_a, of_b) {
                let pair = [(of_a, a), (of_b, b)];
                equal.push(
                    pair.map(|(of, first)| self.shelf.stored(of, first, len))
                        .into(),
                );
            }
            at += len;
        }
    }
}
