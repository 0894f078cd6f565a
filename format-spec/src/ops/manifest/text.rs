//! A manifest as text: one line a name, in the manner of mtree(5).
//!
//! ```text
//! manifest  = head line*
//! head      = "#cowfs-manifest 1" (" sums")? (" times")? (" xattrs")? (" sharing")? LF
//! line      = path " type=" type (" mode=" octal " uid=" n " gid=" n (" attr=0x" hex)?
//!             (" nlink=" n)? (" size=" n)? (" time=" n "." 9digits)? (" device=" n "," n)?
//!             (" link=" bytes)? (" sha256=" 64hex | " sha256p=" 64hex)? (" hardlink=" path)?
//!             (" reflink=" path ":" range ("," range)*)* (" xattr." bytes "=" value)*)?
//!             (" trouble=" word ("," word)*)? LF
//! path      = "." | "./" bytes
//! type      = "file" | "dir" | "link" | "char" | "block" | "fifo" | "socket" | "unknown"
//! range     = n "+" n ("@" n)?
//! value     = n ":" bytes | n ":sha256:" 64hex
//! word      = "inode" | "names" | "contents" | "target" | "xattrs"
//! bytes     = each byte that is printable ASCII, but not "\", as it is, all others as "\" and
//!             three octal digits; in the name of an attribute "=" too, in the path of a reflink ":"
//! ```
//!
//! The head names what is recorded. `nlink` stands when a file has more than one name, `attr` when
//! an attribute is set, `trouble` when something could not be read. An attribute's value of more
//! than 64 bytes is given by its SHA-256. A range is an offset and a number of bytes, and where
//! they begin in the other file when that is elsewhere; ranges with the same other file stand
//! together, in the place of the first of them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use super::sum::Sum;
use super::{
    Entry, Fields, Share, Trouble, VALUE_SHOWN, VERSION, Value, Xattr, kind_name, kind_named,
};
use crate::layout::FileType;

/// What the first line begins with.
pub const MAGIC: &str = "#cowfs-manifest ";

/// The first line, with its end.
#[must_use]
pub fn head(fields: Fields) -> String {
    let mut line = format!("{MAGIC}{VERSION}");
    for name in fields.names() {
        line.push(' ');
        line.push_str(name);
    }
    line.push('\n');
    line
}

/// What the first line (without its end) says is recorded.
///
/// # Errors
/// It is none, or of another version; in words.
pub fn parse_head(line: &[u8]) -> Result<Fields, String> {
    let line = std::str::from_utf8(line).ok();
    let Some(rest) = line.and_then(|line| line.strip_prefix(MAGIC)) else {
        return Err(format!("a manifest begins with \"{MAGIC}{VERSION}\""));
    };
    let mut words = rest.split(' ');
    let version = words.next().unwrap_or_default();
    if version != VERSION.to_string() {
        return Err(format!(
            "the form has version \"{}\"; this program knows version {VERSION}",
            version.escape_default()
        ));
    }
    Fields::named(words).ok_or_else(|| "it records what this program does not know".to_owned())
}

/// Writes bytes as printable ASCII: all others, the backslash and those of `also` as a backslash
/// and three octal digits.
fn escape_into(out: &mut String, bytes: &[u8], also: u8) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'\\' && byte != also {
            out.push(char::from(byte));
        } else {
            let digit = |shift: u32| char::from(b'0' + (byte >> shift & 7));
            out.push('\\');
            out.extend([digit(6), digit(3), digit(0)]);
        }
    }
}

/// The path of an entry as it stands in a manifest: `.`, or `./` and the escaped path.
#[must_use]
pub fn shown_path(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len() + 2);
    path_into(&mut out, path, b'\\');
    out
}

fn path_into(out: &mut String, path: &[u8], also: u8) {
    out.push('.');
    if !path.is_empty() {
        out.push('/');
        escape_into(out, path, also);
    }
}

fn hex_into(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Some bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    hex_into(&mut out, bytes);
    out
}

/// Appends the line of an entry, with its end.
pub fn write(out: &mut String, entry: &Entry) {
    path_into(out, &entry.path, b'\\');
    facts(entry, &mut |key, value| {
        out.push(' ');
        out.push_str(key);
        out.push('=');
        value(out);
    });
    out.push('\n');
}

/// The facts of an entry in the order of its line, as pairs of key and value.
#[must_use]
pub fn pairs(entry: &Entry) -> Vec<(String, String)> {
    let mut found = Vec::new();
    facts(entry, &mut |key, value| {
        let mut text = String::new();
        value(&mut text);
        found.push((key.to_owned(), text));
    });
    found
}

/// Is told a key, and what writes its value.
type Tell<'a> = dyn FnMut(&str, &dyn Fn(&mut String)) + 'a;

/// Appends what `format_args!` makes; writing to a string does not fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn facts(entry: &Entry, tell: &mut Tell<'_>) {
    tell("type", &|out| out.push_str(kind_name(entry.kind)));
    if entry.kind.is_some() {
        known_facts(entry, tell);
    }
    if !entry.trouble.is_empty() {
        let words: Vec<&str> = entry.trouble.iter().map(|trouble| trouble.name()).collect();
        tell("trouble", &|out| out.push_str(&words.join(",")));
    }
}

fn known_facts(entry: &Entry, tell: &mut Tell<'_>) {
    tell("mode", &|out| put(out, format_args!("{:04o}", entry.mode)));
    tell("uid", &|out| put(out, format_args!("{}", entry.uid)));
    tell("gid", &|out| put(out, format_args!("{}", entry.gid)));
    if entry.attr != 0 {
        tell("attr", &|out| put(out, format_args!("{:#x}", entry.attr)));
    }
    if entry.links != 1 {
        tell("nlink", &|out| put(out, format_args!("{}", entry.links)));
    }
    if let Some(size) = entry.size {
        tell("size", &|out| put(out, format_args!("{size}")));
    }
    if let Some((seconds, nanoseconds)) = entry.mtime {
        tell("time", &|out| {
            put(out, format_args!("{seconds}.{nanoseconds:09}"));
        });
    }
    if let Some((major, minor)) = entry.device {
        tell("device", &|out| put(out, format_args!("{major},{minor}")));
    }
    if let Some(target) = &entry.target {
        tell("link", &|out| escape_into(out, target, b'\\'));
    }
    match &entry.sum {
        Some(Sum::Whole(sum)) => tell("sha256", &|out| hex_into(out, sum)),
        Some(Sum::Pieces(sum)) => tell("sha256p", &|out| hex_into(out, sum)),
        None => {}
    }
    if let Some(first) = &entry.hard_link {
        tell("hardlink", &|out| path_into(out, first, b'\\'));
    }
    shares(&entry.shares, tell);
    for Xattr { name, value } in &entry.xattrs {
        let mut key = String::from("xattr.");
        escape_into(&mut key, name, b'=');
        tell(&key, &|out| match value {
            Value::Short(bytes) => {
                put(out, format_args!("{}:", bytes.len()));
                escape_into(out, bytes, b'\\');
            }
            Value::Long(sum, len) => {
                put(out, format_args!("{len}:sha256:"));
                hex_into(out, sum);
            }
        });
    }
}

fn shares(shares: &[Share], tell: &mut Tell<'_>) {
    let mut groups: Vec<Vec<&Share>> = Vec::new();
    let mut group_of: HashMap<&[u8], usize> = HashMap::new();
    for share in shares {
        let group = *group_of.entry(&share.path).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(share),
            None => groups.push(vec![share]),
        }
    }
    for group in groups {
        tell("reflink", &|out| {
            for (n, share) in group.iter().enumerate() {
                if n == 0 {
                    path_into(out, &share.path, b':');
                }
                out.push(if n == 0 { ':' } else { ',' });
                put(out, format_args!("{}+{}", share.offset, share.len));
                if share.at != share.offset {
                    put(out, format_args!("@{}", share.at));
                }
            }
        });
    }
}

/// The entry of a line (without its end).
///
/// # Errors
/// It is none; in words.
pub fn parse(line: &[u8]) -> Result<Entry, String> {
    let line = match std::str::from_utf8(line) {
        Ok(line) if line.is_ascii() => line,
        _ => return Err("a line of a manifest is ASCII".to_owned()),
    };
    let mut words = line.split(' ');
    let mut entry = Entry::empty(parse_path(words.next().unwrap_or_default())?);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("\"{}\" is no key=value", word.escape_default()))?;
        if seen.contains(key) && key != "reflink" {
            return Err(format!("{}= stands twice", key.escape_default()));
        }
        match take(&mut entry, key, value) {
            Some(true) => drop(seen.insert(key)),
            Some(false) => return Err(format!("{}= is unknown", key.escape_default())),
            None => return Err(format!("\"{}\" is impossible", word.escape_default())),
        }
    }
    let needed: &[&str] = match entry.kind {
        _ if !seen.contains("type") => &["type"],
        None => &[],
        Some(FileType::Regular) => &["mode", "uid", "gid", "size"],
        Some(_) => &["mode", "uid", "gid"],
    };
    if let Some(key) = needed.iter().find(|key| !seen.contains(*key)) {
        return Err(format!("{key}= is missing"));
    }
    entry.shares.sort_by_key(|share| share.offset);
    Ok(entry)
}

/// Takes one fact; `None` when its value is none, false when its key is unknown.
fn take(entry: &mut Entry, key: &str, value: &str) -> Option<bool> {
    match key {
        "type" => entry.kind = kind_named(value)?,
        "mode" => entry.mode = octal(value).filter(|mode| *mode <= 0o7777)?,
        "uid" => entry.uid = number(value)?,
        "gid" => entry.gid = number(value)?,
        "attr" => entry.attr = u32::from_str_radix(value.strip_prefix("0x")?, 16).ok()?,
        "nlink" => entry.links = number(value)?,
        "size" => entry.size = Some(number(value)?),
        "time" => {
            let (seconds, fraction) = value.split_once('.')?;
            let nanoseconds = number(fraction).filter(|_| fraction.len() == 9)?;
            entry.mtime = Some((number(seconds)?, nanoseconds));
        }
        "device" => {
            let (major, minor) = value.split_once(',')?;
            entry.device = Some((number(major)?, number(minor)?));
        }
        "link" => entry.target = Some(unescape(value)?),
        "sha256" => entry.sum = Some(Sum::Whole(parse_sum(value)?)),
        "sha256p" => entry.sum = Some(Sum::Pieces(parse_sum(value)?)),
        "hardlink" => entry.hard_link = Some(parse_path(value).ok()?),
        "reflink" => {
            let (path, ranges) = value.rsplit_once(':')?;
            let path: Arc<[u8]> = parse_path(path).ok()?.into();
            for range in ranges.split(',') {
                entry.shares.push(parse_range(range, &path)?);
            }
        }
        "trouble" => {
            for word in value.split(',') {
                entry.note(Trouble::named(word)?);
            }
        }
        _ => {
            let Some(name) = key.strip_prefix("xattr.") else {
                return Some(false);
            };
            let name = unescape(name)?;
            let value = parse_value(value)?;
            entry.xattrs.push(Xattr { name, value });
        }
    }
    Some(true)
}

fn parse_range(range: &str, path: &Arc<[u8]>) -> Option<Share> {
    let (offset, rest) = range.split_once('+')?;
    let offset = number(offset)?;
    let (len, at) = match rest.split_once('@') {
        Some((len, at)) => (number(len)?, number(at)?),
        None => (number(rest)?, offset),
    };
    let path = Arc::clone(path);
    Some(Share {
        offset,
        len,
        path,
        at,
    })
}

fn parse_value(value: &str) -> Option<Value> {
    let (len, value) = value.split_once(':')?;
    let len: u64 = number(len)?;
    if len <= VALUE_SHOWN as u64 {
        let bytes = unescape(value)?;
        return (bytes.len() as u64 == len).then_some(Value::Short(bytes));
    }
    Some(Value::Long(parse_sum(value.strip_prefix("sha256:")?)?, len))
}

/// The path that [`shown_path`] shows.
///
/// # Errors
/// It is none; in words.
pub fn parse_path(word: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("\"{}\" is no path of a manifest", word.escape_default());
    if word == "." {
        return Ok(Vec::new());
    }
    let path = word.strip_prefix("./").and_then(unescape);
    path.filter(|path| is_path(path)).ok_or_else(wrong)
}

/// Whether these bytes can be the path of an entry other than the first.
#[must_use]
pub fn is_path(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').all(|part| !part.is_empty())
}

/// Numbers have one form only, so that two manifests that say the same are the same.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn octal(text: &str) -> Option<u16> {
    u16::from_str_radix(text, 8).ok()
}

/// The sum that [`hex`] shows so.
#[must_use]
pub fn parse_sum(text: &str) -> Option<[u8; 32]> {
    let mut sum = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != sum.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in sum.iter_mut().zip(pairs) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(sum)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(3)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(8);
        let value = digits
            .iter()
            .try_fold(0, |sum, byte| Some(sum << 3 | digit(byte)?))?;
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
