//! The commands, grouped by what they look at. Each file has its models, their text, and a table.

mod content;
mod extents;
mod inode;
mod list;
mod names;
mod parts;
mod raw;
mod refcount;
mod shell;
mod space;
mod volume;

use crate::table::Command;

/// The tables of all files.
pub(crate) const GROUPS: &[&[Command]] = &[
    content::COMMANDS,
    extents::COMMANDS,
    inode::COMMANDS,
    list::COMMANDS,
    names::COMMANDS,
    raw::COMMANDS,
    refcount::COMMANDS,
    shell::COMMANDS,
    space::COMMANDS,
    volume::COMMANDS,
];
