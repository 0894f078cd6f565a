//! fsck.cowfs: checks a volume.
//!
//! The check gathers the evidence of the whole volume first ([`check()`]): parallel passes claim
//! clusters and blocks of metadata for whoever uses them and note what each structure says. Findings
//! are drawn from these facts, each a typed entry of the [`catalogue`]. A check writes nothing;
//! [`repair`] does.

pub mod catalogue;
mod check;
mod cli;
mod facts;
mod pass;
pub mod repair;
pub mod schema;
mod seal;

pub use check::{Checked, Options, check, check_with};
pub use cli::{Args, command, run};
