//! The dump as text: one line a part.
//!
//! A line is: offset, length, type, name (indented by depth), value. From offset, length, type and
//! value the bytes can be told, which the tests do.

use std::fmt::{self, Write};

use super::{Node, Value};
use crate::layout::Kind;
use crate::time::Utc;

/// Writes all lines of a tree.
pub(super) fn render(node: &Node<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Trees are as deep as the field tables, so a stack of their parts is small.
    let mut pending = vec![(node, 0)];
    while let Some((node, depth)) = pending.pop() {
        let (offset, len) = (node.offset, node.raw.len());
        let indent = depth * 2;
        write!(
            f,
            "{offset:04x} {len:>4} {:<5} {:indent$}{}",
            node.type_name(),
            "",
            node.name
        )?;
        if let Value::Group(parts) = &node.value {
            pending.extend(parts.iter().rev().map(|part| (part, depth + 1)));
        } else {
            write!(f, ": {}", value(node))?;
        }
        f.write_char('\n')?;
    }
    Ok(())
}

/// The value of a leaf.
pub(super) fn value(node: &Node<'_>) -> String {
    match node.value {
        Value::Group(_) => String::new(),
        Value::Number(number, _, kind) => {
            let digits = node.raw.len() * 2;
            let mut text = match kind {
                Kind::Hex | Kind::Flags(_) | Kind::Reserved if number != 0 => {
                    format!("0x{number:0digits$x}")
                }
                Kind::Mode => format!("0{number:o}"),
                _ => number.to_string(),
            };
            if let Some(meaning) = meaning(number, kind) {
                let _ = write!(text, " ({meaning})");
            }
            text
        }
        Value::Text => format!("\"{}\"", escaped(node.raw)),
        Value::Bytes => hex(node.raw),
        Value::Fill(byte) => format!("{byte:02x} * {}", node.raw.len()),
    }
}

/// What a number means, in words: the names of flags, a date.
pub(super) fn meaning(number: u64, kind: Kind) -> Option<String> {
    match kind {
        Kind::Flags(names) if number != 0 => {
            let known: Vec<&str> = names
                .iter()
                .filter(|(bit, _)| number & bit != 0)
                .map(|(_, name)| *name)
                .collect();
            (!known.is_empty()).then(|| known.join(" "))
        }
        Kind::Time if number != 0 => Some(Utc(number).to_string()),
        _ => None,
    }
}

/// Text without its padding, with everything but printable ASCII escaped.
pub(super) fn escaped(raw: &[u8]) -> String {
    let end = raw.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    raw.get(..end)
        .unwrap_or_default()
        .escape_ascii()
        .to_string()
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len() * 2);
    for byte in raw {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
