//! Which window comes to share the clusters of which other one.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::block::View;
use crate::error::Result;
use crate::layout::RefcountRec;
use crate::ops::dedupe::Deduped;
use crate::ops::dedupe::find::{Candidate, Found, Piece, Stored, Window};
use crate::ops::dedupe::ranges::Ranges;
use crate::read::extent::Extent;
use crate::read::refcount;
use crate::units::{BlockNo, Geometry, low32};

/// A part of a file that is to share the clusters of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) file: usize,
    pub(super) cpos: u32,
    pub(super) clusters: u32,
    /// Its clusters now, and then.
    pub(super) from: u32,
    pub(super) to: u32,
    /// Who maps those clusters already, and where.
    pub(super) source: Window,
}

/// What is to be done: files, and their parts in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) files: Vec<Candidate>,
    pub(super) moves: Vec<Move>,
    /// Number of files that belong to each tree, as far as they were looked at.
    pub(super) members: HashMap<BlockNo, Vec<BlockNo>>,
}

/// Decides what stays and what moves.
///
/// # Errors
/// A refcount tree cannot be read.
pub(super) fn plan(view: View<'_>, found: Found, done: &mut Deduped) -> Result<Plan> {
    let Found {
        files,
        equal,
        first_stays,
        ..
    } = found;
    let mut members: HashMap<BlockNo, Vec<BlockNo>> = HashMap::new();
    for file in &files {
        if let Some(tree) = file.tree {
            members.entry(tree).or_default().push(file.inode);
        }
    }
    let mut counts = Counts {
        view,
        trees: HashMap::new(),
    };
    let mut mapped: HashMap<usize, Ranges> = HashMap::new();
    let mut moves = Vec::new();
    let left = done.left_bytes;
    for class in equal {
        let mut ranked = Vec::with_capacity(class.len());
        for stored in class {
            let count = counts.of_stored(&files, &stored)?;
            ranked.push((Reverse(count), stored.windows.first().copied(), stored));
        }
        if !first_stays {
            ranked.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        }
        let class: Vec<Stored> = ranked.into_iter().map(|(_, _, stored)| stored).collect();
        // Those that stay, with a window that maps them; and where each file goes on to look.
        let mut staying: Vec<(usize, Window)> = Vec::new();
        let mut cursors: HashMap<usize, usize> = HashMap::new();
        for (n, stored) in class.iter().enumerate() {
            let mut stays = false;
            for window in &stored.windows {
                if stays {
                    break;
                }
                let geo = *view.geo();
                let ranges = mapped
                    .entry(window.file)
                    .or_insert_with(|| mapped_by(geo, &files[window.file].extents));
                let cursor = cursors.entry(window.file).or_default();
                let place = loop {
                    let Some((at, source)) = staying.get(*cursor) else {
                        break None;
                    };
                    let parts = differing(&stored.pieces, &class[*at].pieces);
                    if parts
                        .iter()
                        .all(|(_, _, to, len)| !ranges.touches(*to, *len))
                    {
                        break Some((parts, *source));
                    }
                    *cursor += 1;
                };
                let bytes = |parts: &[(u32, u32, u32, u32)]| -> u64 {
                    parts
                        .iter()
                        .map(|part| u64::from(part.3) << geo.cluster_bits())
                        .sum()
                };
                let Some((parts, source)) = place else {
                    if !staying.is_empty() {
                        let all: u32 = stored.pieces.iter().map(|piece| piece.clusters).sum();
                        done.left_bytes += u64::from(all) << geo.cluster_bits();
                    }
                    staying.push((n, *window));
                    stays = true;
                    continue;
                };
                if !counts.would_free(&files[window.file], stored, &parts)? {
                    done.left_bytes += bytes(&parts);
                    continue;
                }
                for (at, from, to, clusters) in parts {
                    ranges.insert(to, clusters);
                    moves.push(Move {
                        file: window.file,
                        cpos: window.cpos + at,
                        clusters,
                        from,
                        to,
                        source: Window {
                            file: source.file,
                            cpos: source.cpos + at,
                        },
                    });
                }
            }
        }
    }
    if first_stays {
        // Most of what must stay was counted when windows were compared.
        done.left_bytes = left;
    }
    moves.sort_by_key(|step| (step.file, step.cpos));
    Ok(Plan {
        files,
        moves,
        members,
    })
}

/// The parts of two equal windows that lie in different places: where in the window, where now, where
/// then, and how many clusters.
fn differing(old: &[Piece], new: &[Piece]) -> Vec<(u32, u32, u32, u32)> {
    let mut found = Vec::new();
    let mut others = new.iter().copied();
    let mut other = others.next();
    for piece in old {
        let (mut at, mut first, mut left) = (piece.at, piece.first, piece.clusters);
        while left > 0 {
            while other.is_some_and(|o| o.at + o.clusters <= at) {
                other = others.next();
            }
            let Some(to) = other.filter(|o| o.at <= at) else {
                break;
            };
            let clusters = left.min(to.at + to.clusters - at);
            let place = to.first + (at - to.at);
            if place != first {
                found.push((at, first, place, clusters));
            }
            at += clusters;
            first += clusters;
            left -= clusters;
        }
    }
    found
}

/// The clusters that a file maps.
fn mapped_by(geo: Geometry, extents: &[Extent]) -> Ranges {
    let mut ranges = Ranges::default();
    for extent in extents {
        ranges.insert(geo.cluster_of(extent.blkno).0, extent.clusters);
    }
    ranges
}

/// The records of the trees that were asked for.
struct Counts<'v> {
    view: View<'v>,
    trees: HashMap<BlockNo, Vec<RefcountRec>>,
}

impl Counts<'_> {
    /// How many mappings a cluster of a file has.
    fn of(&mut self, tree: Option<BlockNo>, cluster: u32) -> Result<u32> {
        let Some(tree) = tree else { return Ok(1) };
        if !self.trees.contains_key(&tree) {
            self.trees.insert(tree, refcount::records(self.view, tree)?);
        }
        let recs = self.trees.get(&tree).map(Vec::as_slice).unwrap_or_default();
        let at = recs.partition_point(|rec| rec.r_cpos.get() <= u64::from(cluster));
        let rec = at.checked_sub(1).and_then(|at| recs.get(at));
        Ok(rec
            .filter(|rec| {
                u64::from(cluster) < rec.r_cpos.get().saturating_add(rec.r_clusters.get().into())
            })
            .map_or(1, |rec| rec.r_refcount.get().max(1)))
    }

    fn of_stored(&mut self, files: &[Candidate], stored: &Stored) -> Result<u32> {
        let (Some(piece), Some(window)) = (stored.pieces.first(), stored.windows.first()) else {
            return Ok(0);
        };
        self.of(files[window.file].tree, piece.first)
    }

    /// The fewest mappings that a cluster of a range has.
    fn least(&mut self, tree: Option<BlockNo>, first: u32, clusters: u32) -> Result<u32> {
        let mut least = u32::MAX;
        let (mut at, end) = (u64::from(first), u64::from(first) + u64::from(clusters));
        while at < end {
            least = least.min(self.of(tree, low32(at))?);
            let recs = tree.and_then(|tree| self.trees.get(&tree));
            let recs = recs.map(Vec::as_slice).unwrap_or_default();
            let stop =
                |rec: &RefcountRec| rec.r_cpos.get().saturating_add(rec.r_clusters.get().into());
            let next = recs.get(recs.partition_point(|rec| stop(rec) <= at));
            at = match next {
                Some(rec) if rec.r_cpos.get() <= at => stop(rec),
                Some(rec) => rec.r_cpos.get(),
                None => end,
            };
        }
        Ok(least)
    }

    /// Whether some cluster becomes free when the windows that map these clusters leave them.
    fn would_free(
        &mut self,
        file: &Candidate,
        stored: &Stored,
        parts: &[(u32, u32, u32, u32)],
    ) -> Result<bool> {
        let known = low32(stored.windows.len() as u64);
        for (_, from, _, clusters) in parts {
            if self.least(file.tree, *from, *clusters)? <= known {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn piece(at: u32, first: u32, clusters: u32) -> Piece {
        Piece {
            at,
            first,
            clusters,
        }
    }

    #[test]
    fn only_what_lies_elsewhere_moves() {
        let old = [piece(0, 100, 4), piece(4, 200, 4), piece(10, 300, 2)];
        let new = [piece(0, 100, 2), piece(2, 502, 6), piece(10, 300, 2)];
        assert_eq!(differing(&old, &new), [(2, 102, 502, 2), (4, 200, 504, 4)]);
    }
}
