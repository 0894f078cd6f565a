//! `stat_sysdir`: the superblock and all system files at once.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::error::Error;
use cowfs_format::layout::{Dinode, FileType};
use cowfs_format::read::dir;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::inode::Stat;
use super::list::Listing;
use super::volume::{SlotMap, Stats, stats_of};
use crate::report::{Named, Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Needs};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "stat_sysdir",
    aliases: &[],
    options: &[],
    operands: &[],
    summary: "Shows the superblock and all system files.",
    about: "Each as by `stat`; directories with their entries, the slot map with its slots.",
    needs: Needs::Volume,
    says: schema::of::<SysDir>,
    run: stat_sysdir,
}];

/// The superblock and the system files.
#[derive(JsonSchema, Serialize)]
struct SysDir {
    #[serde(flatten)]
    volume: PathNamed,
    superblock: Stats,
    files: Vec<SysFile>,
}

/// A system file.
#[derive(JsonSchema, Serialize)]
struct SysFile {
    /// `.` for the system directory itself.
    #[serde(flatten)]
    name: Named,
    /// Null when it cannot be read.
    stat: Option<Stat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listing: Option<Listing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot_map: Option<SlotMap>,
}

fn stat_sysdir(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    let opened = session.opened()?;
    let view = opened.view();
    let superblock = stats_of(opened, view.info().superblock, true)?;
    let volume = PathNamed::new(opened.path.as_os_str().as_bytes());
    let mut names: Vec<(Vec<u8>, BlockNo)> = Vec::new();
    let directory = cowfs_format::read::inode::read(view, view.info().system_dir)?;
    let mut faults = Vec::new();
    let walked = dir::for_each_entry(view, &directory, &mut |entry| {
        if entry.is_used() && entry.name != b".." {
            names.push((entry.name.to_vec(), entry.inode));
        }
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    let slot_map = system::find(view, SystemFile::SlotMap).ok();
    let files = names.into_iter();
    let files = files.map(|(name, at)| file(view, name, at, slot_map, &mut faults));
    let files = files.collect();
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(SysDir {
        volume,
        superblock,
        files,
    })))
}

fn file(
    view: View<'_>,
    name: Vec<u8>,
    at: BlockNo,
    slot_map: Option<BlockNo>,
    faults: &mut Vec<Error>,
) -> SysFile {
    let mut file = SysFile {
        name: Named::new(name),
        stat: None,
        listing: None,
        slot_map: None,
    };
    match view.block::<Dinode>(at) {
        Ok(inode) => {
            if inode.file_type() == Some(FileType::Directory) {
                file.listing = Some(Listing::of(view, &inode, b"", true, faults));
            }
            file.stat = Some(Stat::whole(view, &inode, true, faults));
        }
        Err(error) => faults.push(error),
    }
    if slot_map == Some(at) {
        match SlotMap::of(view, at) {
            Ok(slots) => file.slot_map = Some(slots),
            Err(error) => faults.push(error),
        }
    }
    file
}

impl Text for SysDir {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "Device: ")?;
        page.name(self.volume.text())?;
        writeln!(page, "\n  superblock")?;
        self.superblock.text(page)?;
        for file in &self.files {
            write!(page, "\n  //")?;
            if file.name.text().0 != b"." {
                page.name(file.name.text())?;
            }
            writeln!(page)?;
            if let Some(stat) = &file.stat {
                stat.text(page)?;
            }
            if let Some(listing) = &file.listing {
                listing.text(page)?;
            }
            if let Some(slots) = &file.slot_map {
                slots.text(page)?;
            }
        }
        Ok(())
    }
}
