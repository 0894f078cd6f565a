//! `xattr`: extended attributes, in all three places.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::error::Error;
use cowfs_format::layout::XattrBlock;
use cowfs_format::read::acl;
use cowfs_format::read::extent::ListView;
use cowfs_format::read::xattr::{self, Place, Stored};
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;

use super::parts::List;
use crate::report::{Named, Page, Report, Text, Valued};
use crate::schema;
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
    says: schema::of::<Xattrs>,
    run: xattrs,
}];

/// The attributes of an inode.
#[derive(JsonSchema, Serialize)]
struct Xattrs {
    inode: u64,
    xattr_block: Option<u64>,
    /// The list of the tree of buckets, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<List>,
    areas: Vec<Area>,
    count: usize,
    #[serde(skip)]
    verbose: bool,
}

/// A set of attributes.
#[derive(JsonSchema, Serialize)]
pub(super) struct Area {
    place: &'static str,
    blkno: u64,
    xattrs: Vec<Item>,
}

/// An attribute.
#[derive(JsonSchema, Serialize)]
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
            Ok((place, bytes)) => areas.push(Area::of(Some(view), place, bytes, &mut faults)),
        }
        ControlFlow::Continue(())
    });
    let tree = (at != 0)
        .then(|| view.block::<XattrBlock>(BlockNo(at)).ok())
        .flatten()
        .filter(|block| xattr::is_indexed(block))
        .and_then(|block| ListView::parse(xattr::tree_list(&block)).map(List::of));
    let report = Xattrs {
        inode: inode.blkno().0,
        xattr_block: (at != 0).then_some(at),
        tree,
        count: areas.iter().map(|area| area.xattrs.len()).sum(),
        areas,
        verbose: args.has('v'),
    };
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(report)))
}

impl Area {
    /// The attributes of an area; without a view, values that stand outside are left out.
    pub(super) fn of(
        view: Option<View<'_>>,
        place: Place,
        bytes: &[u8],
        faults: &mut Vec<Error>,
    ) -> Self {
        let mut area = Self {
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
            let value = match (entry.value, view) {
                (Stored::Here(bytes), _) => Some(bytes.to_vec()),
                (_, Some(view)) => match entry.read(view, place.blkno()) {
                    Ok(value) => Some(value),
                    Err(error) => {
                        faults.push(error);
                        None
                    }
                },
                (_, None) => None,
            };
            let list = match entry.value {
                Stored::Here(_) => None,
                Stored::Outside(_, list) => ListView::parse(list).map(List::of),
            };
            let name = entry.name();
            area.xattrs.push(Item {
                acl: value
                    .as_ref()
                    .filter(|_| acl::is_acl(&name))
                    .and_then(|v| acl::text(v)),
                name: Named::new(name),
                kind: entry.entry.xe_type & 0x7F,
                hash: entry.entry.xe_name_hash.get(),
                name_len: entry.entry.xe_name_len,
                size: entry.entry.xe_value_size.get(),
                local: entry.entry.xe_type & 0x80 != 0,
                value: value.map(Valued::new),
                list,
            });
        }
        area
    }

    pub(super) fn lines(&self, page: &mut Page<'_>, verbose: bool) -> io::Result<()> {
        let (place, blkno, count) = (self.place, self.blkno, self.xattrs.len());
        writeln!(page, "\tExtended attributes in {place} {blkno}: {count}")?;
        if verbose && count > 0 {
            writeln!(
                page,
                "\t###   Type   Inline   Name Length   Value Length   Hash"
            )?;
        }
        for (i, item) in self.xattrs.iter().enumerate() {
            if verbose {
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
                (None, None) => writeln!(page, ": not read")?,
            }
            if let Some(list) = item.list.as_ref().filter(|_| verbose) {
                list.lines(page)?;
            }
        }
        Ok(())
    }
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
        if let (Some(tree), Some(block)) = (&self.tree, self.xattr_block) {
            writeln!(page, "\tTree of buckets in block {block}")?;
            tree.lines(page)?;
        }
        for area in &self.areas {
            area.lines(page, self.verbose)?;
        }
        writeln!(page, "\tExtended attributes in total: {}", self.count)
    }
}
