//! Which names are one file, and which files share clusters, in the order of the entries.
//!
//! What is kept costs as much as there is to tell: a path for each file with several names or with
//! clusters that can be shared, and a record for each run of such clusters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Share;
use crate::units::{BlockNo, Geometry};

/// A run of clusters of a file, as far as the file's size goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First cluster in the file.
    pub(super) cpos: u32,
    /// Number of clusters.
    pub(super) clusters: u32,
    /// First cluster on the volume, when it can be shared.
    pub(super) first: Option<u32>,
}

/// What was seen of the groups so far.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Files with several names: the first name, and what the file shares.
    linked: HashMap<BlockNo, Linked>,
    /// The runs of clusters that a file had first, by their first cluster.
    owned: BTreeMap<u32, Owned>,
}

#[derive(Debug)]
struct Linked {
    path: Vec<u8>,
    shares: Vec<Share>,
}

/// A run of clusters and the file that had it first.
#[derive(Debug)]
struct Owned {
    clusters: u32,
    path: Arc<[u8]>,
    cpos: u32,
}

impl Groups {
    /// The first name of a file that has several, and what it shares; `None` for the first name.
    pub(super) fn earlier(&self, blkno: BlockNo) -> Option<(Vec<u8>, Vec<Share>)> {
        let linked = self.linked.get(&blkno)?;
        Some((linked.path.clone(), linked.shares.clone()))
    }

    /// Notes the first name of a file that has several.
    pub(super) fn first(&mut self, blkno: BlockNo, path: &[u8], shares: &[Share]) {
        let (path, shares) = (path.to_vec(), shares.to_vec());
        self.linked.insert(blkno, Linked { path, shares });
    }

    /// What a file shares with those before it; what it has first is noted. `runs` are all clusters
    /// of the file in order, `size` its bytes.
    pub(super) fn share(
        &mut self,
        geo: &Geometry,
        path: &[u8],
        runs: &[Run],
        size: u64,
    ) -> Vec<Share> {
        let path: Arc<[u8]> = path.into();
        let mut found = Found {
            geo,
            size,
            shares: Vec::new(),
            open: false,
        };
        for run in runs {
            let Some(first) = run.first else {
                found.open = false;
                continue;
            };
            self.share_run(&path, run, first, &mut found);
        }
        found.shares
    }

    fn share_run(&mut self, path: &Arc<[u8]>, run: &Run, first: u32, found: &mut Found<'_>) {
        let end = first.saturating_add(run.clusters);
        let mut at = first;
        while at < end {
            let cpos = run.cpos.saturating_add(at - first);
            // The run that holds `at`, or the next one behind it.
            let before = self.owned.range(..=at).next_back();
            let holds = before.filter(|(start, owned)| at - **start < owned.clusters);
            if let Some((start, owned)) = holds {
                let skip = at - start;
                let clusters = (owned.clusters - skip).min(end - at);
                found.add(cpos, clusters, &owned.path, owned.cpos.saturating_add(skip));
                at += clusters;
                continue;
            }
            let next = self.owned.range(at..end).next().map(|(start, _)| *start);
            let clusters = next.unwrap_or(end) - at;
            let path = Arc::clone(path);
            let owned = Owned {
                clusters,
                path,
                cpos,
            };
            self.owned.insert(at, owned);
            found.open = false;
            at += clusters;
        }
    }
}

/// What was found of a file's shares so far.
struct Found<'g> {
    geo: &'g Geometry,
    size: u64,
    shares: Vec<Share>,
    /// Whether the last share can go on: since it nothing came that is not shared.
    open: bool,
}

impl Found<'_> {
    /// Adds clusters that another file had first; what continues the last share joins it, across
    /// holes too, so that the shares do not depend on how the clusters lie.
    fn add(&mut self, cpos: u32, clusters: u32, path: &Arc<[u8]>, at: u32) {
        let bits = self.geo.cluster_bits();
        let offset = u64::from(cpos) << bits;
        let end = (u64::from(cpos.saturating_add(clusters)) << bits).min(self.size);
        let at = u64::from(at) << bits;
        if end <= offset {
            return;
        }
        if self.open
            && let Some(last) = self.shares.last_mut()
            && last.path == *path
            && offset >= last.offset
            && at >= last.at
            && offset - last.offset == at - last.at
        {
            last.len = end - last.offset;
            return;
        }
        self.open = true;
        self.shares.push(Share {
            offset,
            len: end - offset,
            path: Arc::clone(path),
            at,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpos: u32, clusters: u32, first: impl Into<Option<u32>>) -> Run {
        let first = first.into();
        Run {
            cpos,
            clusters,
            first,
        }
    }

    /// Shares as `offset+len@at:path`, in units of clusters.
    fn shares(groups: &mut Groups, path: &str, runs: &[Run], clusters: u64) -> Vec<String> {
        let geo = Geometry::new(12, 12, 1 << 20).unwrap();
        let found = groups.share(&geo, path.as_bytes(), runs, clusters << 12);
        let shown = found.iter().map(|share| {
            let (offset, len, at) = (share.offset >> 12, share.len >> 12, share.at >> 12);
            let path = String::from_utf8_lossy(&share.path);
            format!("{offset}+{len}@{at}:{path}")
        });
        shown.collect()
    }

    #[test]
    fn clusters_belong_to_the_first_file_that_has_them() {
        let groups = &mut Groups::default();
        assert!(shares(groups, "a", &[run(0, 10, 100)], 10).is_empty());
        assert_eq!(shares(groups, "b", &[run(0, 10, 100)], 10), ["0+10@0:a"]);
        // The middle was rewritten, the end is new and comes back in another file.
        let c = [
            run(0, 4, 100),
            run(4, 2, None),
            run(6, 4, 106),
            run(10, 5, 300),
        ];
        assert_eq!(shares(groups, "c", &c, 15), ["0+4@0:a", "6+4@6:a"]);
        assert_eq!(shares(groups, "d", &[run(7, 3, 301)], 10), ["7+3@11:c"]);
        // One run over what two files have and what none has.
        let e = [run(0, 60, 290)];
        assert_eq!(shares(groups, "e", &e, 60), ["10+5@10:c"]);
        assert_eq!(shares(groups, "f", &[run(0, 9, 286)], 9), ["4+5@0:e"]);
    }

    #[test]
    fn a_file_can_share_with_itself() {
        let groups = &mut Groups::default();
        let runs = [run(0, 4, 100), run(4, 4, 100)];
        assert_eq!(shares(groups, "a", &runs, 8), ["4+4@0:a"]);
    }

    #[test]
    fn how_clusters_lie_does_not_matter() {
        let whole = &mut Groups::default();
        shares(whole, "a", &[run(0, 8, 100), run(20, 2, 108)], 30);
        let pieces = &mut Groups::default();
        let a = [run(0, 3, 900), run(3, 5, 40), run(20, 1, 7), run(21, 1, 3)];
        shares(pieces, "a", &a, 30);
        let expected = ["0+22@0:a"];
        let b = [run(0, 8, 100), run(20, 2, 108)];
        assert_eq!(shares(whole, "b", &b, 30), expected);
        assert_eq!(shares(pieces, "b", &a, 30), expected);
    }
}
