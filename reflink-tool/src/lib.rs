//! Clones files copy-on-write on a volume that nobody has mounted.
//!
//! The program is a thin layer of arguments over [`cowfs_format::ops`]: [`clone`] opens a volume
//! for writing, makes one transaction and commits it. [`demo`] tells the story of the format on a
//! volume of its own.

mod cli;
mod clone;
mod dedupe;
mod demo;
mod volume;

pub use cli::{command, run};
