//! Seals: what they give back and what they promise, what they never touch, and what others make of
//! them.
#![allow(clippy::unwrap_used)] // A test may panic.

mod damage;
mod driver;
mod made;
mod program;
mod rig;
mod stopped;
