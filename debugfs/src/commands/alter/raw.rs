//! Commands that write what no rule of the format is asked about: fields, inodes, blocks.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::block::VolumeInfo;
use cowfs_format::dump::path::select;
use cowfs_format::dump::{self, BlockKind, Node, Value};
use cowfs_format::layout::{Dinode, Encoding, Incompat, Kind, XATTR_BUCKET};
use cowfs_format::ops;
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::txn::Timestamp;
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::kinds;
use cowfs_format::{block::MetaBlock, ecc};
use schemars::JsonSchema;
use serde::Serialize;

use super::attributes::hex;
use super::{Altered, Said, command, text, value, word};
use crate::commands::field;
use crate::commands::raw::forced_kind;
use crate::report::{Page, Text};
use crate::schema;
use crate::session::{Outcome, Session, number};
use crate::table::{Args, BLOCK, Command, Count, FILE, OperandKind, Opt, flag, operand};
use crate::words;

const DIRECT: Opt = flag(
    'd',
    "direct",
    "write at once and not through the journal, which may be what is written over",
);

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "set",
        &[
            value(
                't',
                "type",
                "TYPE",
                "take the block for a TYPE, as `block` does",
            ),
            DIRECT,
        ],
        &[
            operand("FIELD", OperandKind::File, Count::One),
            word("VALUE"),
        ],
        (
            "Sets a field of a block, whatever it means.",
            "FIELD is what `field` takes, and must name one field: `<5>.i_size`, `/file.l_recs[0].e_cpos`, \
             `block:900.dirent[2].name`. VALUE is a number, in decimal, or hexadecimal behind 0x; for \
             modes octal; for times seconds since 1970, or now; for flags also their names with commas \
             between them, or none; for text the text; for bytes hexadecimal digits (dashes are passed \
             over), as many as there are bytes, or two for all of them alike. The check of the block is \
             computed anew, except that of a log. Nothing else follows: no other field, no count.",
        ),
        schema::of::<Set>,
        set,
    ),
    command(
        "clri",
        &[],
        &[FILE],
        (
            "Clears an inode: its block becomes zeros.",
            "Names that lead to it stay, and so does the space of the file; fsck can then show what it \
             does. To remove a file, use unlink.",
        ),
        schema::of::<Altered>,
        clear,
    ),
    command(
        "zap",
        &[
            value('f', "file", "FILE", "BLOCK counts the blocks of FILE"),
            value('o', "offset", "BYTES", "where it begins in the block [0]"),
            value('l', "length", "BYTES", "how much [to the end of the block]"),
            value('p', "pattern", "HEX", "bytes to repeat [00]"),
            flag('k', "keep-check", "compute the check of the block anew"),
            DIRECT,
        ],
        &[BLOCK],
        (
            "Writes a pattern over a block.",
            "For trying what a damaged volume does. Without -k the check of a block of metadata is left \
             as it is, and wrong.",
        ),
        schema::of::<Zapped>,
        zap,
    ),
];

/// A field that was set.
#[derive(JsonSchema, Serialize)]
struct Set {
    blkno: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Names on the way to the field.
    path: String,
    /// Place in the block.
    offset: usize,
    len: usize,
    /// What it was, for people.
    old: String,
    /// What it is now.
    new: String,
    /// Whether the check of the block was computed anew.
    stamped: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Set {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self {
            blkno,
            path,
            old,
            new,
            ..
        } = self;
        writeln!(
            page,
            "\tBlock {blkno} {path}: {old} -> {new}{}",
            self.outcome.note()
        )
    }
}

/// Blocks that are written, in the place of what they were.
struct Blocks {
    first: BlockNo,
    kind: BlockKind,
    bytes: Vec<u8>,
}

impl Blocks {
    fn read(session: &Session, first: BlockNo, forced: Option<BlockKind>) -> Result<Self> {
        let view = session.view()?;
        let count = match forced {
            Some(BlockKind::XattrBucket) => XATTR_BUCKET >> view.geo().block_bits(),
            _ => 1,
        };
        let bytes = view.run(first, count.max(1))?.to_vec();
        let kind = forced.unwrap_or_else(|| kinds::kind_of(view, first, &bytes));
        Ok(Self { first, kind, bytes })
    }

    /// Where the check lies, on a volume with checks.
    fn check_at(&self, session: &Session) -> Result<Option<usize>> {
        let has_checks = session.view()?.info().has(Incompat::META_ECC);
        let at = self.kind.check_at(&self.bytes);
        Ok(at.filter(|_| has_checks))
    }

    /// Writes them, through the journal or `direct`ly.
    fn write(self, session: &mut Session, direct: bool) -> Result<Outcome> {
        let info = session.view()?.info();
        if self.first == info.superblock {
            VolumeInfo::from_superblock(&self.bytes, self.first)
                .context("the volume could not be opened any more; zap -d does that")?;
        }
        if direct {
            return session.write_direct(self.first, &self.bytes);
        }
        let put = session.change(|txn| Ok(ops::put_blocks(txn, self.first, &self.bytes)?));
        Ok(put.context("with -d it can be")?.1)
    }
}

fn set(session: &mut Session, args: &Args) -> Said {
    let (blkno, names) = field::split(session, args.need(0)?)?;
    let names = std::str::from_utf8(names).context("names of fields are ASCII")?;
    let mut blocks = Blocks::read(session, blkno, forced_kind(args)?)?;
    let kind = blocks.kind;
    let changed = {
        let tree = dump::dump(kind, &blocks.bytes);
        let found = select(&tree, names);
        let leaves: Vec<_> = found.iter().flat_map(|found| found.leaves()).collect();
        let leaf = match leaves.as_slice() {
            [leaf] => leaf,
            [] => bail!(
                "block {blkno}, taken for {}, has no field {}; `block {blkno}` shows all",
                kind.name(),
                words::quoted(names.as_bytes())
            ),
            many => bail!(
                "{} names {} fields; name one, as {}",
                words::quoted(names.as_bytes()),
                many.len(),
                many.first().map_or("", |leaf| &leaf.path)
            ),
        };
        let encoded = encoded(leaf.node, args.need(1)?).with_context(|| leaf.path.clone())?;
        (
            leaf.path.clone(),
            leaf.node.offset,
            leaf.node.value_text(),
            encoded,
        )
    };
    let (path, offset, old, encoded) = changed;
    let check_at = blocks.check_at(session)?;
    if let Some(at) = check_at
        && ecc::verify(&blocks.bytes, at) != ecc::Verdict::Good
        && !session.in_group()
    {
        session.note(format!("block {blkno}: its check was wrong before"));
    }
    let len = encoded.len();
    match blocks.bytes.get_mut(offset..offset + len) {
        Some(place) => place.copy_from_slice(&encoded),
        None => bail!("{path} lies outside of the block"),
    }
    // Whoever sets a check itself wants that one.
    let stamped = check_at.filter(|at| offset + len <= *at || *at + ecc::CHECK_BYTES <= offset);
    if let Some(at) = stamped {
        ecc::stamp(&mut blocks.bytes, at);
    }
    let new = {
        let tree = dump::dump(kind, &blocks.bytes);
        let leaves = tree.leaves();
        let now = leaves
            .iter()
            .find(|leaf| leaf.offset == offset && leaf.raw.len() == len);
        now.map_or_else(|| hex_of(&encoded), |leaf| leaf.value_text())
    };
    let outcome = blocks.write(session, args.has('d'))?;
    Ok(Some(Box::new(Set {
        blkno: blkno.0,
        kind: kind.name(),
        path,
        offset,
        len,
        old,
        new,
        stamped: stamped.is_some(),
        outcome,
    })))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that a value becomes in a field.
fn encoded(node: &Node<'_>, word: &[u8]) -> Result<Vec<u8>> {
    let len = node.raw.len();
    match node.value {
        Value::Group(_) => bail!("it has parts; name one of them"),
        Value::Number(_, encoding, kind) => {
            let number = number_of(word, kind)?;
            if len < 8 && number >> (8 * len) != 0 {
                bail!("{number} does not fit into {len} bytes");
            }
            let wide = number.to_le_bytes();
            let mut bytes = wide.get(..len).unwrap_or(&wide).to_vec();
            if encoding == Encoding::Big {
                bytes.reverse();
            }
            Ok(bytes)
        }
        Value::Text => {
            if word.len() > len {
                bail!("a text of {} bytes does not fit into {len}", word.len());
            }
            let mut bytes = word.to_vec();
            bytes.resize(len, 0);
            Ok(bytes)
        }
        Value::Bytes | Value::Fill(_) => {
            let digits: Vec<u8> = word.iter().copied().filter(|byte| *byte != b'-').collect();
            let bytes = hex(&digits).context("bytes are given as hexadecimal digits")?;
            match bytes.as_slice() {
                [one] => Ok(vec![*one; len]),
                all if all.len() == len => Ok(bytes),
                _ => bail!("it has {len} bytes; give {} digits, or two", 2 * len),
            }
        }
    }
}

/// The number that a word is in a field of this kind.
fn number_of(word: &[u8], kind: Kind) -> Result<u64> {
    match kind {
        Kind::Mode => {
            let octal = u64::from_str_radix(text(word)?, 8).ok();
            octal.with_context(|| format!("\"{}\" is no mode in octal digits", words::quoted(word)))
        }
        Kind::Time if word == b"now" => Ok(Timestamp::now().seconds),
        Kind::Flags(names) if !word.first().is_some_and(u8::is_ascii_digit) => {
            let mut bits = 0;
            for name in text(word)?.split(',').filter(|name| *name != "none") {
                let found = names.iter().find(|(_, known)| *known == name);
                let Some((bit, _)) = found else {
                    let known: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
                    bail!("no flag {name:?}; there are {}", known.join(", "));
                };
                bits |= bit;
            }
            Ok(bits)
        }
        _ => number(word),
    }
}

fn clear(session: &mut Session, args: &Args) -> Said {
    let blkno = session.find(args.need(0)?)?;
    let bytes = vec![0; session.view()?.geo().block_bytes()];
    if !session.view()?.raw(blkno)?.starts_with(&Dinode::SIGNATURE) {
        bail!("block {blkno} is no inode; `zap` writes over any block");
    }
    let put = session.change(|txn| Ok(ops::put_blocks(txn, blkno, &bytes)?));
    let ((), outcome) = put.context("zap -d clears it all the same")?;
    Ok(Some(Box::new(Altered {
        inode: blkno.0,
        clusters: None,
        outcome,
    })))
}

/// A block that was written over.
#[derive(JsonSchema, Serialize)]
struct Zapped {
    blkno: u64,
    /// Where it begins in the block.
    offset: usize,
    len: usize,
    /// Whether the check of the block was computed anew.
    stamped: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Text for Zapped {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Self {
            blkno, offset, len, ..
        } = self;
        let note = self.outcome.note();
        writeln!(
            page,
            "\tBlock: {blkno}   Offset: {offset}   Bytes: {len}{note}"
        )
    }
}

fn zap(session: &mut Session, args: &Args) -> Said {
    let blkno = match args.value('f') {
        None => session.block_arg(args.need(0)?)?,
        Some(file) => block_of(session, file, number(args.need(0)?)?)?,
    };
    let mut blocks = Blocks::read(session, blkno, None)?;
    let size = blocks.bytes.len();
    let offset = match args.value('o') {
        Some(word) => index(parse_size(text(word)?)?),
        None => 0,
    };
    let len = match args.value('l') {
        Some(word) => index(parse_size(text(word)?)?),
        None => size.saturating_sub(offset),
    };
    let pattern = hex(args.value('p').unwrap_or(b"00")).filter(|bytes| !bytes.is_empty());
    let pattern = pattern.context("-p: a pattern is pairs of hexadecimal digits")?;
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= size && len > 0);
    let Some(end) = end else {
        bail!("a block has {size} bytes; {len} at {offset} are no part of it");
    };
    let check_at = blocks.check_at(session)?.filter(|_| args.has('k'));
    let place = blocks.bytes.get_mut(offset..end).unwrap_or_default();
    for (byte, new) in place.iter_mut().zip(pattern.iter().cycle()) {
        *byte = *new;
    }
    if let Some(at) = check_at {
        ecc::stamp(&mut blocks.bytes, at);
    }
    let outcome = if args.has('d') {
        session.write_direct(blkno, &blocks.bytes)?
    } else {
        blocks.write(session, false)?
    };
    Ok(Some(Box::new(Zapped {
        blkno: blkno.0,
        offset,
        len,
        stamped: check_at.is_some(),
        outcome,
    })))
}

/// The block in which the block `logical` of a file stands.
fn block_of(session: &Session, file: &[u8], logical: u64) -> Result<BlockNo> {
    let view = session.view()?;
    let inode = session.inode(Some(file))?;
    let bits = view.geo().cluster_bits() - view.geo().block_bits();
    let (cluster, inside) = (logical >> bits, logical & ((1 << bits) - 1));
    let extents = inode.extents(view)?;
    let found = extents
        .iter()
        .find(|e| u64::from(e.cpos) <= cluster && cluster < u64::from(e.end()));
    let Some(extent) = found else {
        bail!("{} has no block {logical}", words::quoted(file));
    };
    let skip = (cluster - u64::from(extent.cpos)) << bits;
    Ok(extent.blkno.plus(skip + inside))
}
