//! Kept manifests: the JSON form, and reading files of either form.
//!
//! The model is `cowfs_format::ops::manifest::Entry`; the text form is beside it. In JSON a manifest
//! is what `manifest` prints with `--json`: an object with `manifest` (the version), `fields` (what
//! is recorded) and `entries`. It may be laid out in any way and its members may have any order, as
//! after `jq -S`; the order of the entries is that of the manifest.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use cowfs_format::layout::FileType;
use cowfs_format::ops::manifest::sum::Sum;
use cowfs_format::ops::manifest::text;
use cowfs_format::ops::manifest::{
    Entry, Fields, Share, Trouble, VALUE_SHOWN, VERSION, Value, Xattr, kind_name, kind_named, order,
};
use cowfs_format::toolkit::report::{base64, unbase64};
use schemars::JsonSchema;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Longest line of a manifest.
const LINE_MAX: u64 = 256 << 20;

/// An entry in JSON.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    /// `.`, or the path behind `./`.
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    /// `file`, `dir`, `link`, `char`, `block`, `fifo`, `socket` or `unknown`.
    #[serde(rename = "type")]
    kind: String,
    /// Permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    /// Attributes as chattr sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attr: Option<u32>,
    /// Names of the file, when it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    links: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    /// SHA-256 of the contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// SHA-256 of the numbers and sums of the pieces, of a file of more than 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256_pieces: Option<String>,
    /// The first name of the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hard_link: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hard_link_b64: Option<String>,
    /// What lies in clusters of files that come earlier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reflinks: Vec<Reflink>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<Attribute>,
    /// What could not be read: `inode`, `names`, `contents`, `target`, `xattrs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    trouble: Vec<String>,
}

/// A time.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct Time {
    seconds: u64,
    nanoseconds: u32,
}

/// The number of a device.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct Device {
    major: u32,
    minor: u32,
}

/// Bytes that lie in clusters of another file.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct Reflink {
    /// The other file.
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    offset: u64,
    length: u64,
    /// First byte in the other file.
    at: u64,
}

/// An extended attribute: of a value of more than 64 bytes the sum.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct Attribute {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_b64: Option<String>,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// Bytes as JSON has them: as text, and in base64 when they are none.
pub(crate) fn shown(bytes: &[u8]) -> (String, Option<String>) {
    let b64 = std::str::from_utf8(bytes).is_err().then(|| base64(bytes));
    (String::from_utf8_lossy(bytes).into_owned(), b64)
}

/// The path of an entry as JSON has it.
pub(crate) fn shown_path(path: &[u8]) -> (String, Option<String>) {
    if path.is_empty() {
        return (".".to_owned(), None);
    }
    shown(&[b"./", path].concat())
}

fn bytes(text: String, b64: Option<String>) -> Option<Vec<u8>> {
    match b64 {
        Some(b64) => unbase64(&b64),
        None => Some(text.into_bytes()),
    }
}

fn path(text: String, b64: Option<String>) -> Option<Vec<u8>> {
    let path = bytes(text, b64)?;
    if path == b"." {
        return Some(Vec::new());
    }
    let path = path.strip_prefix(b"./")?;
    text::is_path(path).then(|| path.to_vec())
}

fn sum(hex: &str) -> Option<[u8; 32]> {
    text::parse_sum(hex)
}

impl From<&Entry> for Item {
    fn from(entry: &Entry) -> Self {
        let (path, path_b64) = shown_path(&entry.path);
        let mut item = Self {
            path,
            path_b64,
            kind: kind_name(entry.kind).to_owned(),
            trouble: (entry.trouble.iter())
                .map(|trouble| trouble.name().to_owned())
                .collect(),
            ..Self::default()
        };
        if entry.kind.is_none() {
            return item;
        }
        item.mode = Some(entry.mode);
        item.uid = Some(entry.uid);
        item.gid = Some(entry.gid);
        item.attr = (entry.attr != 0).then_some(entry.attr);
        item.links = (entry.links != 1).then_some(entry.links);
        item.size = entry.size;
        item.mtime = entry.mtime.map(|(seconds, nanoseconds)| Time {
            seconds,
            nanoseconds,
        });
        item.device = entry.device.map(|(major, minor)| Device { major, minor });
        if let Some(target) = &entry.target {
            let (target, target_b64) = shown(target);
            (item.target, item.target_b64) = (Some(target), target_b64);
        }
        match &entry.sum {
            Some(Sum::Whole(sum)) => item.sha256 = Some(text::hex(sum)),
            Some(Sum::Pieces(sum)) => item.sha256_pieces = Some(text::hex(sum)),
            None => {}
        }
        if let Some(first) = &entry.hard_link {
            let (first, b64) = shown_path(first);
            (item.hard_link, item.hard_link_b64) = (Some(first), b64);
        }
        item.reflinks = entry.shares.iter().map(Reflink::from).collect();
        item.xattrs = entry.xattrs.iter().map(Attribute::from).collect();
        item
    }
}

impl From<&Share> for Reflink {
    fn from(share: &Share) -> Self {
        let (path, path_b64) = shown_path(&share.path);
        Self {
            path,
            path_b64,
            offset: share.offset,
            length: share.len,
            at: share.at,
        }
    }
}

impl From<&Xattr> for Attribute {
    fn from(xattr: &Xattr) -> Self {
        let (name, name_b64) = shown(&xattr.name);
        let mut item = Self {
            name,
            name_b64,
            size: 0,
            value: None,
            value_b64: None,
            sha256: None,
        };
        match &xattr.value {
            Value::Short(bytes) => {
                item.size = bytes.len() as u64;
                let (value, b64) = shown(bytes);
                (item.value, item.value_b64) = (Some(value), b64);
            }
            Value::Long(sum, size) => {
                item.size = *size;
                item.sha256 = Some(text::hex(sum));
            }
        }
        item
    }
}

impl Item {
    /// The entry; otherwise what is impossible.
    fn entry(self) -> Result<Entry, &'static str> {
        let mut entry = Entry::empty(path(self.path, self.path_b64).ok_or("path")?);
        entry.kind = kind_named(&self.kind).ok_or("type")?;
        for word in self.trouble {
            entry.note(Trouble::named(&word).ok_or("trouble")?);
        }
        if entry.kind.is_none() {
            return Ok(entry);
        }
        entry.mode = self.mode.filter(|mode| *mode <= 0o7777).ok_or("mode")?;
        entry.uid = self.uid.ok_or("uid")?;
        entry.gid = self.gid.ok_or("gid")?;
        entry.attr = self.attr.unwrap_or(0);
        entry.links = self.links.unwrap_or(1);
        entry.size = self.size;
        if entry.kind == Some(FileType::Regular) && entry.size.is_none() {
            return Err("size");
        }
        entry.mtime = self.mtime.map(|time| (time.seconds, time.nanoseconds));
        entry.device = self.device.map(|device| (device.major, device.minor));
        if let Some(target) = self.target {
            entry.target = Some(bytes(target, self.target_b64).ok_or("target")?);
        }
        entry.sum = match (self.sha256, self.sha256_pieces) {
            (Some(hex), None) => Some(Sum::Whole(sum(&hex).ok_or("sha256")?)),
            (None, Some(hex)) => Some(Sum::Pieces(sum(&hex).ok_or("sha256_pieces")?)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err("sha256_pieces"),
        };
        if let Some(first) = self.hard_link {
            entry.hard_link = Some(path(first, self.hard_link_b64).ok_or("hard_link")?);
        }
        for reflink in self.reflinks {
            let path = path(reflink.path, reflink.path_b64).ok_or("reflinks")?;
            entry.shares.push(Share {
                offset: reflink.offset,
                len: reflink.length,
                path: Arc::from(path),
                at: reflink.at,
            });
        }
        for xattr in self.xattrs {
            entry.xattrs.push(xattr.xattr().ok_or("xattrs")?);
        }
        Ok(entry)
    }
}

impl Attribute {
    fn xattr(self) -> Option<Xattr> {
        let name = bytes(self.name, self.name_b64)?;
        let value = if self.size <= VALUE_SHOWN as u64 {
            let bytes = bytes(self.value?, self.value_b64)?;
            (bytes.len() as u64 == self.size).then_some(Value::Short(bytes))?
        } else {
            Value::Long(sum(&self.sha256?)?, self.size)
        };
        Some(Xattr { name, value })
    }
}

/// A manifest in a file.
#[derive(Debug)]
pub(crate) struct Kept {
    place: PathBuf,
    reader: BufReader<File>,
    json: bool,
    /// What it records.
    pub(crate) fields: Fields,
}

/// What tells of entries, one by one.
type Each<'a> = dyn FnMut(Result<Entry, String>) -> ControlFlow<()> + 'a;

impl Kept {
    /// Opens a file when it is a manifest; `None` when it does not begin like one.
    pub(crate) fn open(place: &Path) -> Result<Option<Self>> {
        let shown = || place.display().to_string();
        if !std::fs::metadata(place).with_context(shown)?.is_file() {
            return Ok(None);
        }
        let mut reader = BufReader::new(File::open(place).with_context(shown)?);
        let mut first = [0; 1];
        let read = reader.read(&mut first).with_context(shown)?;
        let json = match first {
            [b'{' | b' ' | b'\n' | b'\t' | b'\r'] => true,
            [b'#'] => false,
            _ if read == 0 => bail!("{}: the file is empty", shown()),
            _ => return Ok(None),
        };
        reader.rewind().with_context(shown)?;
        let fields = if json {
            json_fields(&mut reader).with_context(shown)?
        } else {
            let mut line = Vec::new();
            read_line(&mut reader, &mut line)
                .and_then(|_| text::parse_head(&line))
                .map_err(|why| anyhow!("{}: line 1: {why}", shown()))?
        };
        Ok(Some(Self {
            place: place.to_path_buf(),
            reader,
            json,
            fields,
        }))
    }

    /// Tells all entries. One that is none, or out of order, is an error and the end.
    pub(crate) fn tell(self, each: &mut Each<'_>) {
        let shown = self.place.display().to_string();
        let mut last: Option<Vec<u8>> = None;
        // What is wrong with an entry that follows the last one.
        let mut unordered = |entry: &Entry| -> Option<&'static str> {
            let wrong = last
                .as_ref()
                .and_then(|last| match order(last, &entry.path) {
                    std::cmp::Ordering::Less => None,
                    std::cmp::Ordering::Equal => Some("the path stands twice"),
                    std::cmp::Ordering::Greater => {
                        Some("the path comes too late: entries are sorted")
                    }
                });
            last = Some(entry.path.clone());
            wrong
        };
        let ended = if self.json {
            json_entries(self.reader, &mut unordered, each)
        } else {
            text_entries(self.reader, &mut unordered, each)
        };
        if let Err(why) = ended {
            let _ = each(Err(format!("{shown}: {why}")));
        }
    }
}

/// What finds an entry out of order.
type Unordered<'a> = dyn FnMut(&Entry) -> Option<&'static str> + 'a;

/// Reads a line without its end; false at the end of the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, String> {
    line.clear();
    let read = reader.take(LINE_MAX).read_until(b'\n', line);
    if read.map_err(|error| error.to_string())? == 0 {
        return Ok(false);
    }
    if line.pop() == Some(b'\n') {
        return Ok(true);
    }
    Err("the line is cut short".to_owned())
}

fn text_entries(
    mut reader: BufReader<File>,
    unordered: &mut Unordered<'_>,
    each: &mut Each<'_>,
) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 2u64.. {
        let place = |why: String| format!("line {number}: {why}");
        if !read_line(&mut reader, &mut line).map_err(place)? {
            break;
        }
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let entry = text::parse(&line).map_err(place)?;
        if let Some(why) = unordered(&entry) {
            return Err(place(why.to_owned()));
        }
        if each(Ok(entry)).is_break() {
            break;
        }
    }
    Ok(())
}

/// The members of the document that stand beside the entries.
#[derive(Deserialize)]
struct Head {
    manifest: Option<u32>,
    fields: Option<Vec<String>>,
    errors: Option<IgnoredAny>,
}

fn json_fields(reader: &mut BufReader<File>) -> Result<Fields> {
    let mut document = serde_json::Deserializer::from_reader(&mut *reader);
    let head = Head::deserialize(&mut document)?;
    document
        .end()
        .context("a manifest in JSON is one object, the output of one command")?;
    reader.rewind()?;
    // Errors of the run that wrote it stand in its entries too.
    let _ = head.errors;
    let (Some(version), Some(fields)) = (head.manifest, head.fields) else {
        bail!("no manifest: \"manifest\" or \"fields\" is missing");
    };
    if version != VERSION {
        bail!("the form has version {version}; this program knows version {VERSION}");
    }
    Fields::named(fields.iter().map(String::as_str))
        .ok_or_else(|| anyhow!("it records what this program does not know"))
}

fn json_entries(
    reader: BufReader<File>,
    unordered: &mut Unordered<'_>,
    each: &mut Each<'_>,
) -> Result<(), String> {
    let mut ended = false;
    let mut document = serde_json::Deserializer::from_reader(reader);
    let entries = Entries {
        unordered,
        each,
        ended: &mut ended,
    };
    match entries.deserialize(&mut document) {
        // Whoever wants no more is no trouble.
        Err(error) if !ended => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Passes the elements of `entries` on as they are read; serves for the object and for the array.
struct Entries<'a, 'e> {
    unordered: &'a mut Unordered<'e>,
    each: &'a mut Each<'e>,
    ended: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "entries" {
                map.next_value_seed(Entries {
                    unordered: &mut *self.unordered,
                    each: &mut *self.each,
                    ended: &mut *self.ended,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        use serde::de::Error;
        while let Some(item) = seq.next_element::<Item>()? {
            let shown = item.path.clone();
            let wrong = |why: &str| A::Error::custom(format!("entry {shown:?}: {why}"));
            let entry = item
                .entry()
                .map_err(|key| wrong(&format!("{key} is missing or impossible")))?;
            if let Some(why) = (self.unordered)(&entry) {
                return Err(wrong(why));
            }
            if (self.each)(Ok(entry)).is_break() {
                *self.ended = true;
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}
