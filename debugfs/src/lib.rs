//! `debugfs.cowfs`: looks into volumes, at a prompt or from scripts.
//!
//! A command line is split into [`words`], looked up in the [`table`] and run in a [`session`]. A
//! command answers with a model, which the [`report`] module renders as text or as a line of JSON;
//! there is no second way to say anything. Trouble with one block is reported and the command goes
//! on; in the end it counts as failed.

mod cli;
mod commands;
mod kept;
pub mod opened;
mod out;
mod picture;
mod prompt;
pub mod report;
pub mod schema;
pub mod session;
pub mod table;
pub mod words;

pub use cli::{command, run};
