//! What a command has to say: one model, rendered as text or as JSON.

use std::io::{self, Write};

use cowfs_format::toolkit::report::{PathText, base64};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// The model of what a command says.
pub trait Report {
    /// Writes it for people.
    ///
    /// # Errors
    /// The page cannot be written.
    fn write(&self, page: &mut Page<'_>) -> io::Result<()>;

    /// The same as data.
    ///
    /// # Errors
    /// Never, for the models of this program.
    fn json(&self) -> serde_json::Result<serde_json::Value>;
}

/// How a model is written for people. Whatever is also [`Serialize`] is a [`Report`].
pub trait Text {
    /// Writes it.
    ///
    /// # Errors
    /// The page cannot be written.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()>;
}

impl<T: Text + Serialize> Report for T {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.text(page)
    }

    fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }
}

/// Where text goes.
pub struct Page<'a> {
    out: &'a mut dyn Write,
    terminal: bool,
}

impl<'a> Page<'a> {
    /// A page; on a terminal, names are escaped so that they cannot control it.
    pub fn new(out: &'a mut dyn Write, terminal: bool) -> Self {
        Self { out, terminal }
    }

    /// Writes a name or path.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn name(&mut self, name: &NameText) -> io::Result<()> {
        if self.terminal {
            self.out
                .write_all(PathText(name.0.clone()).shown().as_bytes())
        } else {
            self.out.write_all(&name.0)
        }
    }
}

impl Write for Page<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Results that are written as they are found, so that no more than one of them is held; see
/// [`crate::session::Session::rows`].
pub struct Rows<'a> {
    out: &'a mut dyn Write,
    faults: &'a mut Vec<String>,
    terminal: bool,
    json: bool,
    any: bool,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        out: &'a mut dyn Write,
        faults: &'a mut Vec<String>,
        terminal: bool,
        json: bool,
    ) -> Self {
        Self {
            out,
            faults,
            terminal,
            json,
            any: false,
        }
    }

    /// Writes a result.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn row<T: Text + Serialize>(&mut self, row: &T) -> io::Result<()> {
        if !self.json {
            return row.text(&mut Page::new(self.out, self.terminal));
        }
        if std::mem::replace(&mut self.any, true) {
            self.out.write_all(b",")?;
        }
        Ok(serde_json::to_writer(&mut *self.out, row)?)
    }

    /// Writes what stands before the results, for people. In JSON the command returns it, as
    /// [`Told`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn head<T: Text>(&mut self, head: &T) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        head.text(&mut Page::new(self.out, self.terminal))
    }

    /// Reports trouble that does not end a command, but makes it fail.
    pub fn fault(&mut self, fault: impl std::fmt::Display) {
        self.faults.push(fault.to_string());
    }
}

/// A model that people have been told of already, by [`Rows::head`].
#[derive(Serialize)]
#[serde(transparent)]
pub struct Told<T>(pub T);

impl<T> Text for Told<T> {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// A name from a volume. It serializes as text with replacement characters; where that loses bytes
/// the model adds `b64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameText(pub Vec<u8>);

impl NameText {
    /// The bytes as base64, when they are not UTF-8.
    #[must_use]
    pub fn b64(&self) -> Option<String> {
        std::str::from_utf8(&self.0)
            .is_err()
            .then(|| base64(&self.0))
    }
}

impl Serialize for NameText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

impl JsonSchema for NameText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NameText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A name that serializes as the two entries `name` and, where it is not UTF-8, `name_b64`.
/// The other wrappers differ in the key only.
macro_rules! named {
    ($($(#[$meta:meta])* $type:ident: $key:literal, $b64:literal;)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
            pub struct $type {
                #[serde(rename = $key)]
                text: NameText,
                /// All its bytes in base64, when they are not UTF-8.
                #[schemars(with = "String")]
                #[serde(rename = $b64, skip_serializing_if = "Option::is_none")]
                b64: Option<String>,
            }

            impl $type {
                /// From its bytes.
                #[must_use]
                pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
                    let text = NameText(bytes.into());
                    let b64 = text.b64();
                    Self { text, b64 }
                }

                /// The bytes, to be written on a page.
                #[must_use]
                pub const fn text(&self) -> &NameText {
                    &self.text
                }
            }
        )*
    };
}

named! {
    /// A name: `name`, `name_b64`.
    Named: "name", "name_b64";
    /// A path: `path`, `path_b64`.
    PathNamed: "path", "path_b64";
    /// The target of a symlink: `target`, `target_b64`.
    Target: "target", "target_b64";
    /// A value: `value`, `value_b64`.
    Valued: "value", "value_b64";
    /// Contents of a file: `content`, `content_b64`.
    Content: "content", "content_b64";
    /// A label: `label`, `label_b64`.
    Label: "label", "label_b64";
}

/// Flags that are set: the number and the names.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Flags {
    /// The number.
    pub bits: u64,
    /// Names of the bits; one without a name is given as a number.
    pub names: Vec<String>,
}

impl Flags {
    /// The flags of a word by a table of names.
    #[must_use]
    pub fn of(bits: impl Into<u64>, table: &[(u64, &str)]) -> Self {
        let bits = bits.into();
        let names = (0..64)
            .map(|bit| 1u64 << bit)
            .filter(|bit| bits & bit != 0)
            .map(|bit| match table.iter().find(|(known, _)| *known == bit) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("{bit:#x}"),
            })
            .collect();
        Self { bits, names }
    }

    /// The names in a line.
    #[must_use]
    pub fn line(&self) -> String {
        self.names.join(" ")
    }
}
