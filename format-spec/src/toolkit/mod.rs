//! What the command-line tools share: sizes as people write them, and opening with safety checks.
//!
//! The tools differ in what they do with a volume, not in how they come to it. A program that only
//! looks opens with [`open::read_only`] and gets something that cannot be written; a program that
//! writes opens with [`open::writable`] and gets the device for itself, or a reason why not, and
//! then makes sure with [`alone::alone`] that no other machine uses it.

pub mod alone;
pub mod exit;
pub mod memory;
pub mod open;
pub mod progress;
pub mod report;
pub mod sharing;
pub mod size;
pub mod undo;
