//! The all-bytes dump: a block as a tree of named values that leaves nothing out.
//!
//! [`dump`] lays a block out by the field tables of [`crate::layout`]. Every byte of the block
//! stands in exactly one leaf, also the bytes that no structure claims: unused records, slack
//! behind names, garbage behind a bitmap. Runs of one byte are folded and counted. The text (and
//! the JSON) determines the bytes: two different blocks never give the same text, so a difference
//! between two dumps is a difference between two volumes and the other way round.
//!
//! The layout of damaged blocks is best effort, but the two promises hold for any bytes.

mod kind;
mod lay;
pub mod path;
mod system;
mod text;

use std::fmt;

pub use kind::BlockKind;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::layout::{Encoding, Kind};

/// A part of a block.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// Name: of the field as the format spells it, or of the part.
    pub name: Name,
    /// Byte offset from the start of the block.
    pub offset: usize,
    /// The bytes.
    pub raw: &'a [u8],
    /// What they are.
    pub value: Value<'a>,
}

/// Name of a part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A field or a single part.
    Field(&'static str),
    /// One of several like parts.
    Item(&'static str, usize),
}

/// What a part of a block is.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A structure: its parts, in order.
    Group(Vec<Node<'a>>),
    /// A number, with its byte order and meaning.
    Number(u64, Encoding, Kind),
    /// Text, NUL padded.
    Text,
    /// Bytes.
    Bytes,
    /// Several times the same byte.
    Fill(u8),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Item(name, index) => write!(f, "{name}[{index}]"),
        }
    }
}

/// Lays out a block (or a bucket of xattrs) as `kind`.
#[must_use]
pub fn dump(kind: BlockKind, bytes: &[u8]) -> Node<'_> {
    let mut lay = lay::Lay::new(bytes);
    kind::lay_out(&mut lay, kind);
    Node {
        name: Name::Field(kind.name()),
        offset: 0,
        raw: bytes,
        value: Value::Group(lay.finish()),
    }
}

impl<'a> Node<'a> {
    /// All leaves, in order.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Node<'a>> {
        let mut found = Vec::new();
        let mut pending = vec![self];
        while let Some(node) = pending.pop() {
            match &node.value {
                Value::Group(parts) => pending.extend(parts.iter().rev()),
                _ => found.push(node),
            }
        }
        found
    }

    /// How the bytes of a leaf are stored: `le32`, `text`, ...; `group` for a structure.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match (&self.value, self.raw.len()) {
            (Value::Group(_), _) => "group",
            (Value::Number(..), 1) => "u8",
            (Value::Number(_, Encoding::Big, _), 2) => "be16",
            (Value::Number(_, Encoding::Big, _), 4) => "be32",
            (Value::Number(_, Encoding::Big, _), _) => "be64",
            (Value::Number(..), 2) => "le16",
            (Value::Number(..), 4) => "le32",
            (Value::Number(..), _) => "le64",
            (Value::Text, _) => "text",
            (Value::Bytes, _) => "hex",
            (Value::Fill(_), _) => "fill",
        }
    }

    /// The bytes as hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        text::hex(self.raw)
    }

    /// The value of a leaf as text; for a structure, nothing.
    #[must_use]
    pub fn value_text(&self) -> String {
        text::value(self)
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name.to_string())?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("len", &self.raw.len())?;
        map.serialize_entry("type", self.type_name())?;
        match &self.value {
            Value::Group(parts) => map.serialize_entry("parts", parts)?,
            Value::Number(number, _, kind) => {
                map.serialize_entry("value", number)?;
                if let Some(meaning) = text::meaning(*number, *kind) {
                    map.serialize_entry("meaning", &meaning)?;
                }
            }
            Value::Fill(byte) => map.serialize_entry("value", byte)?,
            Value::Text => map.serialize_entry("value", &text::escaped(self.raw))?,
            Value::Bytes => map.serialize_entry("value", &text::hex(self.raw))?,
        }
        map.end()
    }
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::render(self, f)
    }
}

#[cfg(test)]
mod tests;
