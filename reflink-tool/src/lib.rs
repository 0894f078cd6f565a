//! Clones files copy-on-write on a volume that nobody has mounted.
//!
//! The program is a thin layer of arguments over [`cowfs_format::ops`]: `volume.rs` opens a volume
//! for a verb and works in as many transactions as its journal asks for, mostly one; each verb has a
//! file. [`demo`] tells the story of the format on a volume of its own.

mod cli;
mod clone;
mod dedupe;
mod demo;
mod snap;
mod unshare;
mod usage;
mod vm;
mod volume;

pub use cli::{command, run, run_on};
