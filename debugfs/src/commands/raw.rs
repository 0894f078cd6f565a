//! `block`: all bytes of a block, by the field tables of the format.

use std::borrow::Cow;
use std::io::{self, Write};

use anyhow::{Context, Result};
use cowfs_format::dump::{self, BlockKind};
use cowfs_format::layout::XATTR_BUCKET;
use cowfs_format::volume::kinds;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BLOCKS, Command, Needs, Opt};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "block",
    aliases: &["dump_block"],
    options: &[Opt {
        short: 't',
        long: "type",
        value: Some("TYPE"),
        help: "take it for a TYPE, whatever it says of itself; `raw` for plain bytes",
    }],
    operands: &[BLOCKS],
    summary: "Shows all bytes of blocks, each byte once.",
    about: "Columns: offset, length, encoding, field, value. Two different blocks never give the \
            same text. Types: ocfs_header superblock dinode extent_block group_desc dir_block \
            dx_root dx_leaf xattr_block xattr_bucket refcount_block journal_superblock \
            journal_descriptor journal_descriptor_64 journal_descriptor_v2 \
            journal_descriptor_v2_64 journal_descriptor_v3 journal_commit journal_revoke \
            journal_revoke_64 journal_revoke_sum journal_revoke_sum_64 quota_info quota_tree \
            quota_leaf quota_local_info quota_chunk quota_changes slot_map slot_map_extended \
            heartbeat raw.",
    needs: Needs::Volume,
    says: schema::of::<Dumps>,
    run: block,
}];

/// Dumped blocks.
#[derive(JsonSchema, Serialize)]
struct Dumps {
    blocks: Vec<Dump>,
}

/// A dumped block: its layout as data and as text.
#[derive(JsonSchema, Serialize)]
struct Dump {
    blkno: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    #[schemars(with = "Layout")]
    layout: serde_json::Value,
    #[serde(skip)]
    text: String,
}

/// The schema of a layout, which `dump::Node` writes.
struct Layout;

impl JsonSchema for Layout {
    fn schema_name() -> Cow<'static, str> {
        "Layout".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A part of the block: one with `parts`, or a leaf with a `value`.",
            "type": "object",
            "properties": {
                "name": { "type": "string" },
                "offset": { "type": "integer", "minimum": 0 },
                "len": { "type": "integer", "minimum": 0 },
                "type": { "type": "string" },
                "parts": { "type": "array", "items": generator.subschema_for::<Self>() },
                "value": {
                    "description": "A number; text with escapes; bytes in hexadecimal; for `fill`, \
                                    the byte that is repeated.",
                    "type": ["integer", "string"],
                },
                "meaning": {
                    "description": "Names of flags, or a date.",
                    "type": "string",
                },
            },
            "required": ["name", "offset", "len", "type"],
            "oneOf": [{ "required": ["parts"] }, { "required": ["value"] }],
        })
    }
}

/// The type that blocks are to be taken for, by option.
pub(super) fn forced_kind(args: &Args) -> Result<Option<BlockKind>> {
    let Some(name) = args.value('t') else {
        return Ok(None);
    };
    BlockKind::from_name(std::str::from_utf8(name).unwrap_or(""))
        .map(Some)
        .context("no such type; `help block` lists them")
}

fn block(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let forced = forced_kind(args)?;
    let mut blocks = Vec::new();
    for word in args.all() {
        let blkno = session.block_arg(word)?;
        let view = session.view()?;
        let count = match forced {
            Some(BlockKind::XattrBucket) => XATTR_BUCKET >> view.geo().block_bits(),
            _ => 1,
        };
        let bytes = match view.run(blkno, count) {
            Ok(bytes) => bytes,
            Err(error) => {
                session.fault(error);
                continue;
            }
        };
        let kind = forced.unwrap_or_else(|| kinds::kind_of(view, blkno, &bytes));
        let tree = dump::dump(kind, &bytes);
        blocks.push(Dump {
            blkno: blkno.0,
            kind: kind.name(),
            layout: serde_json::to_value(&tree)?,
            text: tree.to_string(),
        });
    }
    Ok(Some(Box::new(Dumps { blocks })))
}

impl Text for Dumps {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for block in &self.blocks {
            writeln!(page, "block {}", block.blkno)?;
            page.write_all(block.text.as_bytes())?;
        }
        Ok(())
    }
}
