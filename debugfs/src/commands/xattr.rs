//! `xattr`: extended attributes, in all three places.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::error::Error;
use cowfs_format::read::acl;
use cowfs_format::read::xattr::{self, Place, Stored};
use serde::Serialize;

use super::parts::List;
use crate::report::{Named, Page, Report, Text, Valued};
use crate::session::Session;
use crate::table::{Args, Command, FILE, Needs, flag};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "xattr",
    aliases: &[],
    options: &[flag('v', "verbose", "show how and where each is stored")],
    operands: &[FILE],
    summary: "Shows the extended attributes of a file with their values.",
    about: "ACLs are shown in words, with numbers for users and groups. Other values that are not \
            text are shown in hexadecimal.",
    needs: Needs::Volume,
    run: xattrs,
}];

/// The attributes of an inode.
#[derive(Serialize)]
struct Xattrs {
    inode: u64,
    xattr_block: Option<u64>,
    areas: Vec<Area>,
    count: usize,
    #[serde(skip)]
    verbose: bool,
}

/// A set of attributes.
#[derive(Serialize)]
struct Area {
    place: &'static str,
    blkno: u64,
    xattrs: Vec<Item>,
}

/// An attribute.
#[derive(Serialize)]
struct Item {
    #[serde(flatten)]
    name: Named,
    #[serde(rename = "type")]
    kind: u8,
    hash: u32,
    name_len: u8,
    size: u64,
    local: bool,
    /// Null when it could not be read.
    #[serde(flatten)]
    value: Option<Valued>,
    /// The value of an ACL in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<List>,
}

fn xattrs(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let at = inode.i_xattr_loc.get();
    let (mut areas, mut faults) = (Vec::new(), Vec::<Error>::new());
    xattr::for_each_area(view, &inode, &mut |area| {
        match area {
            Err(error) => faults.push(error),
            Ok((place, bytes)) => {
                let mut area = Area {
                    place: match place {
                        Place::Inode(_) => "inode",
                        Place::Block(_) => "block",
                        Place::Bucket(_) => "bucket",
                    },
                    blkno: place.blkno().0,
                    xattrs: Vec::new(),
                };
                for entry in xattr::entries(bytes) {
                    let entry = match entry {
                        Ok(entry) => entry,
                        Err(kind) => {
                            faults.push(kind.at(place.blkno()).into());
                            continue;
                        }
                    };
                    let value = entry.read(view, place.blkno());
                    let name = entry.name();
                    let acl = value.as_ref().ok().filter(|_| acl::is_acl(&name));
                    let acl = acl.and_then(|value| acl::text(value));
                    let list = match entry.value {
                        Stored::Here(_) => None,
                        Stored::Outside(_, list) => {
                            cowfs_format::read::extent::ListView::parse(list).map(List::of)
                        }
                    };
                    area.xattrs.push(Item {
                        name: Named::new(name),
                        kind: entry.entry.xe_type & 0x7F,
                        hash: entry.entry.xe_name_hash.get(),
                        name_len: entry.entry.xe_name_len,
                        size: entry.entry.xe_value_size.get(),
                        local: entry.entry.xe_type & 0x80 != 0,
                        acl,
                        value: value.map(Valued::new).map_err(|e| faults.push(e)).ok(),
                        list,
                    });
                }
                areas.push(area);
            }
        }
        ControlFlow::Continue(())
    });
    let report = Xattrs {
        inode: inode.blkno().0,
        xattr_block: (at != 0).then_some(at),
        count: areas.iter().map(|area| area.xattrs.len()).sum(),
        areas,
        verbose: args.has('v'),
    };
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(report)))
}

/// A value for people: text in quotes, or hexadecimal.
fn shown(value: &[u8]) -> String {
    let text = value.strip_suffix(b"\0").unwrap_or(value);
    match std::str::from_utf8(text) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => {
            let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

impl Text for Xattrs {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for area in &self.areas {
            let (place, blkno, count) = (area.place, area.blkno, area.xattrs.len());
            writeln!(page, "\tExtended attributes in {place} {blkno}: {count}")?;
            if self.verbose && count > 0 {
                writeln!(
                    page,
                    "\t###   Type   Inline   Name Length   Value Length   Hash"
                )?;
            }
            for (i, item) in area.xattrs.iter().enumerate() {
                if self.verbose {
                    writeln!(
                        page,
                        "\t#{i:<2}   {:<4}   {:<6}   {:<11}   {:<12}   {:#010x}",
                        item.kind,
                        u8::from(item.local),
                        item.name_len,
                        item.size,
                        item.hash
                    )?;
                }
                write!(page, "\t    ")?;
                page.name(item.name.text())?;
                match (&item.acl, &item.value) {
                    (Some(acl), _) => writeln!(page, " = {acl}")?,
                    (None, Some(value)) => writeln!(page, " = {}", shown(&value.text().0))?,
                    (None, None) => writeln!(page, ": unreadable")?,
                }
                if let Some(list) = item.list.as_ref().filter(|_| self.verbose) {
                    list.lines(page)?;
                }
            }
        }
        writeln!(page, "\tExtended attributes in total: {}", self.count)
    }
}
