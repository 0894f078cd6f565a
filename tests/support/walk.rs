//! A volume as the driver shows it: one [`Entry`] for each path.
//!
//! The text form has one line for each path, sorted, fields separated by tabs; bytes of names other than printable
//! ASCII (and the backslash) are written as `\` and three octal digits:
//!
//! ```text
//! path type mode uid gid links size sectors inode mtime payload xattrs
//! ```
//!
//! `type` is find's letter (f d l b c p s), `mode` is octal, `sectors` counts 512 bytes, `inode` is the inode's block
//! number (OCFS2 numbers inodes so), `mtime` is seconds and nanoseconds. `payload` is the SHA-256 of a file, the target
//! of a symbolic link, the major:minor of a device, or `-`. `xattrs` is `-` or `name=value` in hexadecimal, separated by
//! spaces and sorted by name; a value longer than 64 bytes is given as `name=sha256:SUM:LENGTH`.

use crate::sum;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// One path of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path from the volume's root, `.` for the root itself; bytes, not always text.
    pub path: Vec<u8>,
    /// find's letter for the type: f d l b c p s.
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u64,
    /// Bytes.
    pub size: u64,
    /// Sectors of 512 bytes allocated.
    pub sectors: u64,
    /// The inode's block number.
    pub inode: u64,
    /// Time of last modification, `seconds.nanoseconds`.
    pub mtime: String,
    /// SHA-256 of a file's contents, target of a symbolic link, `major:minor` of a device, else empty.
    pub payload: Vec<u8>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Value>,
}

/// The value of an extended attribute: itself when it is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// At most 64 bytes.
    Short(Vec<u8>),
    /// SHA-256 and length.
    Long(String, usize),
}

impl Value {
    /// The value that these bytes are recorded as.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() <= 64 {
            Self::Short(bytes.to_vec())
        } else {
            Self::Long(sum::sha256(bytes), bytes.len())
        }
    }
}

/// Puts together what the programs in the guest printed.
pub(crate) fn parse(find: &[u8], devices: &[u8], sums: &[u8], xattrs: &[u8]) -> Result<Vec<Entry>> {
    let mut payloads: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let devices: Vec<&[u8]> = records(devices);
    for pair in devices.as_chunks::<2>().0 {
        payloads.insert(relative(pair[0]), pair[1].to_vec());
    }
    for record in records(sums) {
        let (sum, name) = record
            .split_at_checked(64)
            .context("a line of sha256sum is too short")?;
        payloads.insert(relative(&name[2.min(name.len())..]), sum.to_vec());
    }
    let mut xattrs = parse_getfattr(xattrs)?;
    let mut entries = Vec::new();
    let found = records(find);
    let (whole, rest) = found.as_chunks::<11>();
    ensure!(rest.is_empty(), "find's output is cut short");
    for [
        path,
        kind,
        mode,
        uid,
        gid,
        links,
        size,
        sectors,
        inode,
        mtime,
        target,
    ] in whole
    {
        let path = relative(path);
        let kind = text(kind)?.chars().next().context("find printed no type")?;
        let payload = match kind {
            'l' => target.to_vec(),
            'f' | 'b' | 'c' => payloads
                .remove(&path)
                .with_context(|| format!("no contents of {}", escape(&path)))?,
            _ => Vec::new(),
        };
        entries.push(Entry {
            kind,
            mode: u32::from_str_radix(text(mode)?, 8)?,
            uid: text(uid)?.parse()?,
            gid: text(gid)?.parse()?,
            links: text(links)?.parse()?,
            size: text(size)?.parse()?,
            sectors: text(sectors)?.parse()?,
            inode: text(inode)?.parse()?,
            mtime: mtime_of(text(mtime)?),
            payload,
            xattrs: xattrs.remove(&path).unwrap_or_default(),
            path,
        });
    }
    ensure!(
        xattrs.is_empty(),
        "attributes of paths that find did not see"
    );
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// find prints ten digits of a second's fraction, of which the kernel keeps nine.
fn mtime_of(printed: &str) -> String {
    let (seconds, fraction) = printed.split_once('.').unwrap_or((printed, "0"));
    let digits = fraction.get(..9).unwrap_or(fraction);
    format!("{seconds}.{digits:0<9}")
}

fn records(bytes: &[u8]) -> Vec<&[u8]> {
    match bytes.strip_suffix(b"\0") {
        Some(bytes) => bytes.split(|b| *b == 0).collect(),
        None => Vec::new(),
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).context("a number is no text")
}

fn relative(path: &[u8]) -> Vec<u8> {
    path.strip_prefix(b"./").unwrap_or(path).to_vec()
}

type Xattrs = BTreeMap<Vec<u8>, Value>;

/// `getfattr -R -d -e hex`: blocks of `# file: NAME` and `name=0x...`, both with octal escapes.
fn parse_getfattr(printed: &[u8]) -> Result<HashMap<Vec<u8>, Xattrs>> {
    let mut all: HashMap<Vec<u8>, Xattrs> = HashMap::new();
    let mut path = None;
    for line in printed.split(|b| *b == b'\n') {
        if let Some(name) = line.strip_prefix(b"# file: ") {
            path = Some(relative(&unescape(name)?));
        } else if let Some(at) = line.windows(3).position(|w| w == b"=0x") {
            let path = path.clone().context("an attribute of no file")?;
            let value = Value::of(&unhex(&line[at + 3..])?);
            all.entry(path)
                .or_default()
                .insert(unescape(&line[..at])?, value);
        } else if !line.is_empty() {
            let path = path.clone().context("an attribute of no file")?;
            let name = line.strip_suffix(b"=").unwrap_or(line);
            all.entry(path)
                .or_default()
                .insert(unescape(name)?, Value::of(&[]));
        }
    }
    Ok(all)
}

/// Writes bytes other than printable ASCII, and the backslash, as a backslash and three octal digits.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            text.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

/// The bytes that were escaped.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(3).context("an escape is cut short")?;
        bytes.push(u8::from_str_radix(self::text(digits)?, 8).context("an escape is not octal")?);
        rest = after;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &[u8]) -> Result<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    ensure!(rest.is_empty(), "an odd number of hexadecimal digits");
    pairs
        .iter()
        .map(|pair| Ok(u8::from_str_radix(text(pair)?, 16)?))
        .collect()
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            mode,
            uid,
            gid,
            links,
            size,
            sectors,
            inode,
            mtime,
            ..
        } = self;
        write!(
            f,
            "{}\t{kind}\t{mode:o}\t{uid}\t{gid}\t{links}",
            escape(&self.path)
        )?;
        write!(f, "\t{size}\t{sectors}\t{inode}\t{mtime}\t")?;
        f.write_str(&if self.payload.is_empty() {
            "-".to_owned()
        } else {
            escape(&self.payload)
        })?;
        let each = self.xattrs.iter().map(|(name, value)| match value {
            Value::Short(bytes) => format!("{}={}", escape(name), hex(bytes)),
            Value::Long(sum, length) => format!("{}=sha256:{sum}:{length}", escape(name)),
        });
        let each = each.collect::<Vec<_>>().join(" ");
        write!(f, "\t{}", if each.is_empty() { "-" } else { &each })
    }
}

impl std::str::FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [
            path,
            kind,
            mode,
            uid,
            gid,
            links,
            size,
            sectors,
            inode,
            mtime,
            payload,
            xattrs,
        ] = fields[..]
        else {
            bail!("a line of a walk has {} fields, not 12", fields.len());
        };
        let dash = |field: &str| field == "-";
        let mut all = Xattrs::new();
        for one in xattrs.split(' ').filter(|one| !dash(one)) {
            let (name, value) = one
                .split_once('=')
                .context("an attribute without a value")?;
            let value = match value
                .strip_prefix("sha256:")
                .and_then(|v| v.split_once(':'))
            {
                Some((sum, length)) => Value::Long(sum.to_owned(), length.parse()?),
                None => Value::Short(unhex(value.as_bytes())?),
            };
            all.insert(unescape(name.as_bytes())?, value);
        }
        Ok(Self {
            path: unescape(path.as_bytes())?,
            kind: kind.chars().next().context("no type")?,
            mode: u32::from_str_radix(mode, 8)?,
            uid: uid.parse()?,
            gid: gid.parse()?,
            links: links.parse()?,
            size: size.parse()?,
            sectors: sectors.parse()?,
            inode: inode.parse()?,
            mtime: mtime.to_owned(),
            payload: if dash(payload) {
                Vec::new()
            } else {
                unescape(payload.as_bytes())?
            },
            xattrs: all,
        })
    }
}

/// A walk as text, one line for each path.
pub fn to_text(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!("{entry}\n")).collect()
}

/// Reads a walk from text.
pub fn from_text(text: &str) -> Result<Vec<Entry>> {
    let parse = |(n, line): (usize, &str)| line.parse().with_context(|| format!("line {}", n + 1));
    text.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::{Value, from_text, parse, to_text};

    /// Records as the programs print them, with a bar for each NUL.
    fn nul(records: &str) -> Vec<u8> {
        records.replace('|', "\0").into_bytes()
    }

    #[test]
    fn what_the_programs_print_survives_the_text_form() {
        let find = nul(concat!(
            ".|d|755|0|0|3|4096|8|101|1700000000.1234567890||",
            "./a\tb\\|f|644|1|2|1|5|0|102|1700000001.0000000000||",
            "./l|l|777|0|0|1|3|0|103|1700000002.5000000000|a b|",
            "./n|c|600|0|0|1|0|0|104|1700000003.0000000000||",
        ));
        let sums = nul(&format!("{}  ./a\tb\\|", "e".repeat(64)));
        let long = "ab".repeat(65);
        let xattrs = format!(
            "# file: a\\011b\\134\ntrusted.x=0x00ff\nuser.long=0x{long}\nuser.empty=0x\nuser.none\n\n"
        );
        let entries = parse(&find, &nul("./n|1:3|"), &sums, xattrs.as_bytes()).unwrap();
        assert_eq!(entries.len(), 4);
        let file = &entries[1];
        assert_eq!(
            (file.path.as_slice(), file.payload.len()),
            (&b"a\tb\\"[..], 64)
        );
        assert_eq!(file.xattrs.len(), 4);
        assert_eq!(file.xattrs[&b"trusted.x"[..]], Value::Short(vec![0, 255]));
        assert!(matches!(file.xattrs[&b"user.long"[..]], Value::Long(_, 65)));
        assert_eq!(entries[0].mtime, "1700000000.123456789");
        assert_eq!(entries[2].payload, b"a b");
        assert_eq!(entries[3].payload, b"1:3");
        let text = to_text(&entries);
        assert_eq!(text.lines().count(), 4);
        assert_eq!(from_text(&text).unwrap(), entries);
    }

    #[test]
    fn a_file_without_a_sum_is_noticed() {
        let find = nul("./a|f|644|0|0|1|5|0|102|1700000001.0||");
        assert!(parse(&find, b"", b"", b"").is_err());
    }
}
