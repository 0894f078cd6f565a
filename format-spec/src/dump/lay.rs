//! Laying parts over the bytes of a block, from left to right.

use super::{Name, Node, Value};
use crate::layout::{Encoding, Field, Kind};

/// Shortest run of one byte that is folded.
const FOLD: usize = 16;
/// Longest row of bytes.
const ROW: usize = 32;

/// A place in a block, up to which everything has been laid out.
pub(super) struct Lay<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    done: Vec<Node<'a>>,
}

impl<'a> Lay<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            end: bytes.len(),
            done: Vec::new(),
        }
    }

    /// Bytes that are not laid out yet.
    pub(super) fn left(&self) -> &'a [u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    /// The next `len` bytes, or as many as there are.
    fn take(&mut self, len: usize) -> (usize, &'a [u8]) {
        let left = self.left();
        let raw = left.get(..len).unwrap_or(left);
        let offset = self.at;
        self.at += raw.len();
        (offset, raw)
    }

    /// A structure by its table. When fewer bytes are left than it has, they are plain bytes.
    pub(super) fn fields(&mut self, fields: &'static [Field]) {
        let size = fields.last().map_or(0, |last| last.offset + last.len);
        if self.left().len() < size {
            self.rest("cut_off");
            return;
        }
        for field in fields {
            let name = Name::Field(field.name);
            match field.kind {
                Kind::Nested(inner) => self.group(name, field.len, |lay| lay.fields(inner)),
                Kind::Text => self.text(field.name, field.len),
                _ if matches!(field.encoding, Encoding::Bytes) => {
                    self.plain(field.name, field.len);
                }
                kind => {
                    let (offset, raw) = self.take(field.len);
                    let here = Field {
                        offset: 0,
                        ..*field
                    };
                    let number = here.number(raw).unwrap_or(0);
                    let value = Value::Number(number, field.encoding, kind);
                    self.push(name, offset, raw, value);
                }
            }
        }
    }

    fn push(&mut self, name: Name, offset: usize, raw: &'a [u8], value: Value<'a>) {
        if !raw.is_empty() {
            self.done.push(Node {
                name,
                offset,
                raw,
                value,
            });
        }
    }

    /// A leaf of `len` bytes.
    pub(super) fn leaf(&mut self, name: &'static str, len: usize, value: Value<'a>) {
        let (offset, raw) = self.take(len);
        self.push(Name::Field(name), offset, raw, value);
    }

    /// A part of `len` bytes that `inner` lays out; what it leaves is plain bytes.
    pub(super) fn group(&mut self, name: Name, len: usize, inner: impl FnOnce(&mut Self)) {
        let (offset, raw) = self.take(len);
        let mut lay = Lay {
            bytes: self.bytes,
            at: offset,
            end: offset + raw.len(),
            done: Vec::new(),
        };
        inner(&mut lay);
        let parts = lay.finish();
        self.push(name, offset, raw, Value::Group(parts));
    }

    /// At most `count` like records, as many as fit.
    pub(super) fn records(&mut self, name: &'static str, fields: &'static [Field], count: usize) {
        let size = fields.last().map_or(0, |last| last.offset + last.len);
        if size == 0 {
            return;
        }
        for index in 0..count.min(self.left().len() / size) {
            self.group(Name::Item(name, index), size, |lay| lay.fields(fields));
        }
    }

    /// Text of `len` bytes, NUL padded; what follows a NUL and is not padding is plain bytes.
    pub(super) fn text(&mut self, name: &'static str, len: usize) {
        let left = self.left();
        let raw = left.get(..len).unwrap_or(left);
        let end = raw.iter().position(|&b| b == 0).unwrap_or(raw.len());
        if raw.iter().skip(end).all(|&b| b == 0) {
            self.leaf(name, raw.len(), Value::Text);
        } else {
            self.leaf(name, end, Value::Text);
            self.plain(name, raw.len() - end);
        }
    }

    /// `len` bytes without structure: rows, and folded runs.
    pub(super) fn plain(&mut self, name: &'static str, len: usize) {
        let (mut offset, mut raw) = self.take(len);
        while !raw.is_empty() {
            let run = run_of(raw);
            let (len, value) = if run >= FOLD || run == raw.len() && run > 1 {
                (run, Value::Fill(raw.first().copied().unwrap_or(0)))
            } else {
                (row_of(raw), Value::Bytes)
            };
            let (row, rest) = raw.split_at(len.min(raw.len()));
            self.push(Name::Field(name), offset, row, value);
            offset += row.len();
            raw = rest;
        }
    }

    /// All that is left, as plain bytes.
    pub(super) fn rest(&mut self, name: &'static str) {
        self.plain(name, self.left().len());
    }

    /// The parts; whatever was not laid out comes last, as plain bytes.
    pub(super) fn finish(mut self) -> Vec<Node<'a>> {
        self.rest("unused");
        self.done
    }
}

/// How often the first byte is repeated.
fn run_of(raw: &[u8]) -> usize {
    let Some(first) = raw.first() else { return 0 };
    raw.iter().take_while(|byte| *byte == first).count()
}

/// Length of the row that begins here: up to the next run that is folded.
fn row_of(raw: &[u8]) -> usize {
    let limit = raw.len().min(ROW);
    let folded = |at: &usize| run_of(raw.get(*at..).unwrap_or_default()) >= FOLD;
    (1..limit).find(folded).unwrap_or(limit)
}
