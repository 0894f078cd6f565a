//! The commands, grouped by what they look at. Each file has its models, their text, and a table.

mod alter;
mod compare;
mod content;
mod deleted;
mod delta;
mod extents;
mod field;
mod image;
mod index;
mod inode;
mod list;
mod locks;
mod logdump;
mod logged;
mod manifest;
mod map;
mod names;
mod nodes;
mod owners;
mod parts;
mod quota;
mod raw;
mod rdump;
mod refcount;
mod shell;
mod space;
mod sysdir;
mod tar;
mod usage;
mod volume;
mod xattr;

use crate::table::Command;

/// The tables of all files.
pub(crate) const GROUPS: &[&[Command]] = &[
    alter::attributes::COMMANDS,
    alter::content::COMMANDS,
    alter::group::COMMANDS,
    alter::names::COMMANDS,
    alter::raw::COMMANDS,
    alter::sizes::COMMANDS,
    alter::tune::COMMANDS,
    compare::COMMANDS,
    content::COMMANDS,
    deleted::COMMANDS,
    delta::COMMANDS,
    extents::COMMANDS,
    field::COMMANDS,
    image::COMMANDS,
    index::COMMANDS,
    inode::COMMANDS,
    list::COMMANDS,
    locks::COMMANDS,
    logdump::COMMANDS,
    manifest::COMMANDS,
    map::COMMANDS,
    names::COMMANDS,
    nodes::COMMANDS,
    owners::COMMANDS,
    quota::COMMANDS,
    raw::COMMANDS,
    rdump::COMMANDS,
    refcount::COMMANDS,
    shell::COMMANDS,
    space::COMMANDS,
    sysdir::COMMANDS,
    tar::COMMANDS,
    usage::COMMANDS,
    volume::COMMANDS,
    xattr::COMMANDS,
];
