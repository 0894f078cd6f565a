//! `field`: any field of any block by its name.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::dump::path::{Found, select};
use cowfs_format::dump::{self, BlockKind, Value};
use cowfs_format::error::Error;
use cowfs_format::layout::XATTR_BUCKET;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::{kinds, path};
use schemars::JsonSchema;
use serde::Serialize;

use super::raw::forced_kind;
use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, Opt, operand};
use crate::words;

/// Longest field whose bytes stand beside its value in the text.
const RAW_SHOWN: usize = 16;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "field",
    aliases: &[],
    options: &[Opt {
        short: 't',
        long: "type",
        value: Some("TYPE"),
        help: "take the blocks for a TYPE, as `block` does",
    }],
    operands: &[operand("FIELD", OperandKind::File, Count::Many)],
    summary: "Shows fields of blocks by name: place, bytes and value.",
    about: "FIELD is a block and names of fields: FILE.NAME for the inode of a file (as in \
            `<5>.i_size`, `/dir/file.i_mode`, `//global_bitmap.cl_recs[0]`), block:N.NAME for any \
            block. Names are the format's own, as `block` shows them; NAME[I] is one of several like \
            parts, names of inner parts follow after a dot (`/file.l_recs[0].e_cpos`, \
            `block:900.dirent[2].name`), parts around them need not be named, and `*` stands for any \
            characters. Without a name, all fields of the block. Columns: offset in the block, \
            length, encoding, bytes, path, value.",
    needs: Needs::Volume,
    says: schema::of::<Blocks>,
    run: field,
}];

/// Fields, by block.
#[derive(JsonSchema, Serialize)]
struct Blocks {
    blocks: Vec<Block>,
}

/// Fields of a block.
#[derive(JsonSchema, Serialize)]
struct Block {
    blkno: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    fields: Vec<Item>,
}

/// A field, or a run of bytes of it.
#[derive(JsonSchema, Serialize)]
struct Item {
    /// Names on the way to it, which lead to it again.
    path: String,
    /// Place in the block.
    offset: usize,
    len: usize,
    /// How it is stored: le16, be32, text, hex and the like.
    encoding: &'static str,
    /// Its bytes in hexadecimal.
    raw: String,
    /// The number, when it is one.
    number: Option<u64>,
    /// The value for people: flags with their names, times as dates.
    value: String,
}

impl Item {
    fn of(found: &Found<'_, '_>) -> Self {
        let node = found.node;
        Self {
            path: found.path.clone(),
            offset: node.offset,
            len: node.raw.len(),
            encoding: node.type_name(),
            raw: node.hex(),
            number: match node.value {
                Value::Number(number, ..) => Some(number),
                _ => None,
            },
            value: node.value_text(),
        }
    }
}

fn field(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let forced = forced_kind(args)?;
    let mut blocks = Vec::new();
    for spec in args.all() {
        match one(session, spec, forced) {
            Ok(block) => blocks.push(block),
            Err(error) => session.fault(format!("{error:#}")),
        }
    }
    Ok(Some(Box::new(Blocks { blocks })))
}

/// The fields that an operand names.
fn one(session: &Session, spec: &[u8], forced: Option<BlockKind>) -> Result<Block> {
    let (blkno, names) = split(session, spec)?;
    let names = std::str::from_utf8(names).context("names of fields are ASCII")?;
    let view = session.view()?;
    let count = match forced {
        Some(BlockKind::XattrBucket) => XATTR_BUCKET >> view.geo().block_bits(),
        _ => 1,
    };
    let bytes = view.run(blkno, count.max(1))?;
    let kind = forced.unwrap_or_else(|| kinds::kind_of(view, blkno, &bytes));
    let tree = dump::dump(kind, &bytes);
    let found = select(&tree, names);
    if found.is_empty() {
        bail!(
            "block {blkno}, taken for {}, has no field {}; `block {blkno}` shows all",
            kind.name(),
            words::quoted(names.as_bytes())
        );
    }
    let leaves = found.iter().flat_map(Found::leaves);
    Ok(Block {
        blkno: blkno.0,
        kind: kind.name(),
        fields: leaves.map(|leaf| Item::of(&leaf)).collect(),
    })
}

/// The block that an operand names, and the names of fields behind it.
pub(super) fn split<'s>(session: &Session, spec: &'s [u8]) -> Result<(BlockNo, &'s [u8])> {
    let at_dot = |at: usize| {
        let (head, tail) = spec.split_at(at);
        (head, tail.get(1..).unwrap_or_default())
    };
    if let Some(rest) = spec.strip_prefix(b"block:") {
        let dot = rest.iter().position(|&b| b == b'.').unwrap_or(rest.len());
        let (number, names) = at_dot(dot + b"block:".len());
        let number = number.strip_prefix(b"block:").unwrap_or(number);
        return Ok((session.block_arg(number)?, names));
    }
    // Names of files have dots, too: the longest that is a file counts.
    let find = |spec| -> Result<Option<BlockNo>> {
        match path::resolve_from(session.view()?, session.base(), spec) {
            // A block that is no inode, or a damaged one, has fields as well.
            Err(Error::Fault(_)) => Ok(None),
            found => Ok(path::absent(found)?),
        }
    };
    if let Some(blkno) = find(spec)? {
        return Ok((blkno, &[]));
    }
    let dots = (0..spec.len())
        .rev()
        .filter(|&at| spec.get(at) == Some(&b'.'));
    for at in dots {
        let (file, names) = at_dot(at);
        if !file.is_empty()
            && let Some(blkno) = find(file)?
        {
            return Ok((blkno, names));
        }
    }
    Ok((session.find(spec)?, &[]))
}

impl Text for Blocks {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for block in &self.blocks {
            writeln!(page, "block {} ({})", block.blkno, block.kind)?;
            for item in &block.fields {
                let Item {
                    path,
                    offset,
                    len,
                    encoding,
                    raw,
                    value,
                    ..
                } = item;
                // Of a longer field the value is the bytes, or tells them.
                let raw = if *len <= RAW_SHOWN { raw } else { "" };
                let wide = RAW_SHOWN;
                writeln!(
                    page,
                    "{offset:04x} {len:>4} {encoding:<5} {raw:<wide$}  {path}: {value}"
                )?;
            }
        }
        Ok(())
    }
}
