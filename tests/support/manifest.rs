//! What a volume holds, as its manifest: the whole tree with contents, owners, attributes, times,
//! links and sharing in one value that two states of a volume can be compared by.
//!
//! That manifests are true is tested against the driver's own listings in `tests/manifest.rs`.

#![allow(clippy::unwrap_used)] // Part of tests.

use std::ops::ControlFlow;

use cowfs_format::block::View;
use cowfs_format::ops::manifest::{self, Entry, Fields, text};
use cowfs_format::volume::scan::Scanner;

/// The entries of a volume, in order.
pub type Manifest = Vec<Entry>;

/// Everything is recorded.
pub const ALL: Fields = Fields {
    sums: true,
    times: true,
    xattrs: true,
    sharing: true,
};

/// The manifest of a volume, with everything in it.
///
/// # Panics
/// A part of the volume cannot be read.
#[must_use]
pub fn of(view: View<'_>) -> Manifest {
    gathered(view, ALL, 1)
}

/// The manifest of a volume, gathered by so many threads.
///
/// # Panics
/// A part of the volume cannot be read.
#[must_use]
pub fn gathered(view: View<'_>, fields: Fields, threads: usize) -> Manifest {
    let scanner = Scanner::new(Some(threads)).unwrap();
    let mut entries = Vec::new();
    let root = view.info().root;
    manifest::gather(&scanner, view, root, fields, &|_| (), |found| {
        assert!(found.faults.is_empty(), "{:?}", found.faults);
        entries.push(found.entry);
        ControlFlow::Continue(())
    });
    entries
}

/// A manifest as text, without its head.
#[must_use]
pub fn to_text(manifest: &[Entry]) -> String {
    let mut out = String::new();
    for entry in manifest {
        text::write(&mut out, entry);
    }
    out
}
