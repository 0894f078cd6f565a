//! One model of what a tool has to say, rendered as text and as JSON.
//!
//! A tool collects [`Item`]s and named facts in a [`Report`]; both renderers read the same model,
//! so neither can say more than the other. A path need not be UTF-8: JSON has it as text with
//! replacement characters and, where that loses bytes, also as base64.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Space is lost or a hint is wrong; no data is in danger.
    Warning,
    /// Something is wrong.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A path inside a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathText(pub Vec<u8>);

impl PathText {
    /// The path for people: control characters and bytes that are not UTF-8 are escaped.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut shown = String::new();
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    shown.extend(c.escape_default());
                } else {
                    shown.push(c);
                }
            }
            for byte in chunk.invalid() {
                shown.push_str(&format!("\\x{byte:02x}"));
            }
        }
        shown
    }
}

/// Where a finding is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Place {
    /// The block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// The inode that the block belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// A name of that inode.
    #[serde(flatten, serialize_with = "path_fields")]
    #[cfg_attr(feature = "schema", schemars(with = "PathFields"))]
    pub path: Option<PathText>,
}

/// What a path is in JSON.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[allow(dead_code)] // Only its schema is wanted.
struct PathFields {
    /// The path, with replacement characters for what is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// All bytes of a path that is not UTF-8, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

fn path_fields<S: Serializer>(path: &Option<PathText>, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(None)?;
    if let Some(PathText(bytes)) = path {
        map.serialize_entry("path", &String::from_utf8_lossy(bytes))?;
        if std::str::from_utf8(bytes).is_err() {
            map.serialize_entry("path_b64", &base64(bytes))?;
        }
    }
    map.end()
}

/// Standard base64 with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0usize, |w, &b| w << 8 | usize::from(b));
        for digit in 0..4 {
            text.push(if digit <= chunk.len() {
                char::from(DIGITS[word >> (18 - 6 * digit) & 63])
            } else {
                '='
            });
        }
    }
    text
}

/// The bytes that [`base64`] writes so; `None` for any other text.
#[must_use]
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        let known = chunk.iter().take_while(|byte| **byte != b'=').count();
        let mut word = 0;
        for &byte in chunk.get(..known)? {
            word = word << 6 | digit(byte)?;
        }
        let word = (word << (6 * (4 - known))).to_be_bytes();
        bytes.extend_from_slice(word.get(1..known.max(1))?);
    }
    // One text for each row of bytes: its length and unused bits are as they must be.
    (base64(&bytes) == text).then_some(bytes)
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Item {
    /// Stable code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What it is, in a line.
    pub message: String,
    /// The numbers behind the message.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
    /// What a run that repairs did about it; `None` in a run that only looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What was done about a finding.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Whether it is gone.
    pub repaired: bool,
    /// What was done, or why nothing was.
    pub what: String,
}

/// All that a run has to say of a volume.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Version of this form; it changes when a field changes its meaning.
    pub schema: u32,
    /// The program.
    pub program: &'static str,
    /// The volume as it was named.
    pub volume: String,
    /// In a word: what the run ended with.
    pub status: &'static str,
    /// The exit status.
    pub exit: u8,
    /// Facts about the volume, in order.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// The findings, in order.
    pub findings: Vec<Item>,
    /// Findings that were left out because there are too many.
    pub findings_left_out: u64,
}

impl Report {
    /// Writes one line a finding: `[CODE] place: message`.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn text_findings(&self, out: &mut dyn Write) -> io::Result<()> {
        for item in &self.findings {
            write!(out, "[{}] ", item.code)?;
            let Place { block, inode, path } = &item.place;
            match (inode, path) {
                (Some(inode), Some(path)) => write!(out, "inode {inode} ({}): ", path.shown())?,
                (Some(inode), None) => write!(out, "inode {inode}: ")?,
                (None, _) => {}
            }
            if let Some(block) = block.filter(|block| Some(*block) != *inode) {
                write!(out, "block {block}: ")?;
            }
            write!(out, "{}", item.message)?;
            if let Some(Outcome { repaired, what }) = &item.outcome {
                let word = if *repaired { "repaired" } else { "left" };
                write!(out, "\n    {word}: {what}")?;
            }
            writeln!(out)?;
        }
        if self.findings_left_out > 0 {
            writeln!(out, "... and {} findings more", self.findings_left_out)?;
        }
        Ok(())
    }

    /// Writes the report as one JSON object.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_renderers_say_the_same() {
        let report = Report {
            schema: 1,
            program: "fsck.cowfs",
            findings: vec![Item {
                code: "INODE_COUNT",
                severity: Severity::Error,
                place: Place {
                    block: None,
                    inode: Some(7),
                    path: Some(PathText(b"/a\xff\n".to_vec())),
                },
                message: "link count is 1".to_owned(),
                details: serde_json::Map::new(),
                outcome: None,
            }],
            ..Report::default()
        };
        let mut text = Vec::new();
        report.text_findings(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "[INODE_COUNT] inode 7 (/a\\xff\\n): link count is 1\n"
        );
        let mut json = Vec::new();
        report.json(&mut json).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["findings"][0]["path_b64"], "L2H/Cg==");
        assert_eq!(value["findings"][0]["inode"], 7);
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(unbase64(text).as_deref(), Some(bytes));
        }
        for text in [
            "Z",
            "Zg",
            "Zg=",
            "Zh==",
            "Z===",
            "====",
            "Zm9v=",
            "Zm=v",
            "Zm9\u{e9}",
        ] {
            assert_eq!(unbase64(text), None, "{text}");
        }
    }
}
