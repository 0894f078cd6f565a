//! Sets of clusters.

use std::collections::BTreeMap;

/// Clusters, as ranges that neither meet nor overlap.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    pub(super) fn insert(&mut self, first: u32, clusters: u32) {
        let (mut start, mut end) = (first, first.saturating_add(clusters));
        while let Some((&at, &stop)) = self.0.range(..=end).next_back()
            && stop >= start
        {
            start = start.min(at);
            end = end.max(stop);
            self.0.remove(&at);
        }
        self.0.insert(start, end);
    }

    pub(super) fn touches(&self, first: u32, clusters: u32) -> bool {
        let end = first.saturating_add(clusters);
        let before = self.0.range(..end).next_back();
        before.is_some_and(|(_, stop)| *stop > first)
    }

    /// Where the range that a cluster lies in begins; the cluster itself if it lies in none.
    pub(super) fn begin_of(&self, at: u32) -> u32 {
        let range = self.0.range(..=at).next_back();
        range.filter(|(_, end)| **end > at).map_or(at, |r| *r.0)
    }

    /// Where the range that a cluster lies in ends; the cluster itself if it lies in none.
    pub(super) fn end_of(&self, at: u32) -> u32 {
        let range = self.0.range(..=at).next_back();
        range.map_or(at, |(_, end)| at.max(*end))
    }

    /// Where the next range behind a cluster begins; the largest number if there is none.
    pub(super) fn next_after(&self, at: u32) -> u32 {
        let next = self.0.range(at.saturating_add(1)..).next();
        next.map_or(u32::MAX, |(first, _)| *first)
    }

    /// Where the last range in front of a cluster ends, which lies in none; 0 if there is none.
    pub(super) fn last_before(&self, at: u32) -> u32 {
        let last = self.0.range(..at).next_back();
        last.map_or(0, |(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_sets(steps in proptest::collection::vec((0u32..80, 1u32..9), 0..30), at in 0u32..90, len in 1u32..9) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (first, clusters) in steps {
                ranges.insert(first, clusters);
                model.extend(first..first + clusters);
            }
            let touched = (at..at + len).any(|cluster| model.contains(&cluster));
            prop_assert_eq!(ranges.touches(at, len), touched);
            let inside = model.contains(&at);
            let end = (at..).find(|cluster| !model.contains(cluster)).unwrap();
            prop_assert_eq!(ranges.end_of(at), end);
            let begin = (0..=at).rev().find(|cluster| !model.contains(cluster)).map_or(0, |out| out + 1);
            prop_assert_eq!(ranges.begin_of(at), if inside { begin } else { at });
            if !inside {
                let next = model.range(at..).next().copied().unwrap_or(u32::MAX);
                prop_assert_eq!(ranges.next_after(at), next);
                let last = model.range(..at).next_back().map_or(0, |last| last + 1);
                prop_assert_eq!(ranges.last_before(at), last);
            }
        }
    }
}
