//! What space and sharing look like: the models and columns of `du` and `delta`, which more than one
//! program has.

use serde::Serialize;

use crate::ops::delta::{self, Relation};
use crate::ops::usage::Usage;
use crate::toolkit::size::show_size;
use crate::units::Geometry;

/// What files take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names say it; crate::ops::usage says more")]
pub struct Sizes {
    pub inodes: u64,
    pub apparent_bytes: u64,
    pub allocated_bytes: u64,
    pub exclusive_bytes: u64,
    pub shared_bytes: u64,
    pub metadata_bytes: u64,
}

/// A size as people read it, or as a number of bytes.
#[must_use]
pub fn size(bytes: u64, exact: bool) -> String {
    if exact {
        bytes.to_string()
    } else {
        show_size(bytes)
    }
}

impl Sizes {
    /// Counts of clusters and blocks as bytes.
    #[must_use]
    pub const fn of(usage: Usage, geo: &Geometry) -> Self {
        Self {
            inodes: usage.inodes,
            apparent_bytes: usage.apparent_bytes,
            allocated_bytes: usage.allocated << geo.cluster_bits(),
            exclusive_bytes: usage.exclusive << geo.cluster_bits(),
            shared_bytes: usage.shared << geo.cluster_bits(),
            metadata_bytes: usage.metadata_blocks << geo.block_bits(),
        }
    }

    /// The names of the columns.
    #[must_use]
    pub fn head() -> String {
        ["Apparent", "Allocated", "Exclusive", "Shared", "Metadata"]
            .map(|name| format!("{name:>12}"))
            .join(" ")
    }

    /// The columns of a line.
    #[must_use]
    pub fn columns(&self, exact: bool) -> String {
        [
            self.apparent_bytes,
            self.allocated_bytes,
            self.exclusive_bytes,
            self.shared_bytes,
            self.metadata_bytes,
        ]
        .map(|bytes| format!("{:>12}", size(bytes, exact)))
        .join(" ")
    }
}

/// A range of bytes at the same place in two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// How the files compare there: see [`Relation::name`].
    pub relation: &'static str,
    /// Where the first file has it.
    pub block_a: Option<u64>,
    /// Where the second file has it.
    pub block_b: Option<u64>,
}

impl Range {
    /// The model of a range.
    #[must_use]
    pub fn of(range: &delta::Range) -> Self {
        Self {
            offset: range.offset,
            bytes: range.bytes,
            relation: range.relation.name(),
            block_a: range.block_a.map(|blkno| blkno.0),
            block_b: range.block_b.map(|blkno| blkno.0),
        }
    }

    /// The names of the columns.
    #[must_use]
    pub fn head() -> String {
        let [offset, bytes] = ["Offset", "Bytes"].map(|name| format!("{name:>14}"));
        let [a, b] = ["Block of A", "Block of B"].map(|name| format!("{name:>12}"));
        format!("{offset} {bytes} {a} {b}  Relation")
    }

    /// The columns of a line.
    #[must_use]
    pub fn columns(&self) -> String {
        let block = |blkno: Option<u64>| blkno.map_or("-".to_owned(), |blkno| blkno.to_string());
        format!(
            "{:>14} {:>14} {:>12} {:>12}  {}",
            self.offset,
            self.bytes,
            block(self.block_a),
            block(self.block_b),
            self.relation
        )
    }
}

/// Bytes of each relation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names say it; see Relation")]
pub struct Totals {
    pub shared_bytes: u64,
    pub hole_bytes: u64,
    pub apart_bytes: u64,
    pub equal_bytes: u64,
    pub different_bytes: u64,
    pub only_a_bytes: u64,
    pub only_b_bytes: u64,
}

impl Totals {
    const fn of(&mut self, relation: Relation) -> &mut u64 {
        match relation {
            Relation::Shared => &mut self.shared_bytes,
            Relation::Hole => &mut self.hole_bytes,
            Relation::Apart => &mut self.apart_bytes,
            Relation::Equal => &mut self.equal_bytes,
            Relation::Different => &mut self.different_bytes,
            Relation::OnlyA => &mut self.only_a_bytes,
            Relation::OnlyB => &mut self.only_b_bytes,
        }
    }

    /// Counts a range.
    pub const fn add(&mut self, range: &delta::Range) {
        let sum = self.of(range.relation);
        *sum = sum.saturating_add(range.bytes);
    }

    /// All that is not 0, in a line.
    #[must_use]
    pub fn line(mut self) -> String {
        let mut parts = Vec::new();
        for relation in Relation::ALL {
            let bytes = *self.of(relation);
            if bytes > 0 {
                parts.push(format!("{} {}", relation.name(), show_size(bytes)));
            }
        }
        if parts.is_empty() {
            parts.push("both files are empty".to_owned());
        }
        parts.join(", ")
    }
}
