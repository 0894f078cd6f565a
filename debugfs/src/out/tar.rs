//! A tar stream: POSIX headers (ustar) with PAX records for all that these cannot say.
//!
//! PAX records carry nanoseconds, sizes and numbers beyond the fields of a header, long names,
//! attributes (`SCHILY.xattr.*`), ACLs as text (`SCHILY.acl.*`) and the sparse format 1.0 of GNU
//! tar, whose map of data stands before the data. GNU tar, bsdtar, star and Python read all of it.
//!
//! This is written here, and not by a library, because the `tar` crate writes no sparse files of
//! this format and takes names of PAX records only as text, which the names of attributes need not
//! be. What is left besides these is one header of fixed fields.
//!
//! The stream is a function of what is written into it: no clock, no names of users, no process
//! numbers.

use std::io::{self, Write};

/// Unit of a tar stream.
const BLOCK: usize = 512;
/// GNU tar writes and warns about less than records of so many blocks.
const RECORD: u64 = 20 * BLOCK as u64;
/// Most that a name field holds.
const NAME_MAX: usize = 100;

/// What kind of member it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Hardlink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of a file; 0 of all else.
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// Target of a link of either kind.
    pub(crate) link: &'a [u8],
    /// Major and minor.
    pub(crate) device: (u32, u32),
    /// ACLs as text, under `access` or `default`.
    pub(crate) acls: Vec<(&'static str, String)>,
    /// Extended attributes other than ACLs.
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
    /// Where a sparse file has data: offset and length, in order. All but the end of the last are
    /// multiples of 512.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// A tar stream under way.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
}

impl<W: Write> Archive<W> {
    pub(crate) const fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Begins a member. The data of a file follow, as many bytes as its size (of a sparse one, as
    /// its ranges) say, through [`Archive::data`], and then [`Archive::end_member`].
    pub(crate) fn member(&mut self, member: &Member<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        let map = member.sparse.as_deref().map(map_of);
        let mut size = member.size;
        let mut name = member.path.to_vec();
        if let (Some(map), Some(ranges)) = (&map, &member.sparse) {
            size = map.len() as u64 + ranges.iter().map(|range| range.1).sum::<u64>();
            name = aside("GNUSparseFile.0", member.path);
            record(&mut records, b"GNU.sparse.major", b"1");
            record(&mut records, b"GNU.sparse.minor", b"0");
            text(&mut records, b"GNU.sparse.name", member.path);
            let whole = member.size.to_string();
            record(&mut records, b"GNU.sparse.realsize", whole.as_bytes());
        } else if member.path.len() > NAME_MAX {
            text(&mut records, b"path", member.path);
        }
        if member.link.len() > NAME_MAX {
            text(&mut records, b"linkpath", member.link);
        }
        let (seconds, nanoseconds) = member.modified;
        if nanoseconds != 0 || !fits(seconds.cast_unsigned(), 12) {
            record(
                &mut records,
                b"mtime",
                decimal(seconds, nanoseconds).as_bytes(),
            );
        }
        for (key, value, width) in [
            (&b"size"[..], size, 12),
            (b"uid", member.uid.into(), 8),
            (b"gid", member.gid.into(), 8),
        ] {
            if !fits(value, width) {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        for (which, acl) in &member.acls {
            let key = format!("SCHILY.acl.{which}");
            record(&mut records, key.as_bytes(), acl.as_bytes());
        }
        for (attribute, value) in &member.xattrs {
            record(&mut records, &xattr_key(attribute), value);
        }
        if !records.is_empty() {
            let head = Head {
                name: &aside("PaxHeaders", member.path),
                letter: b'x',
                mode: 0o644,
                size: records.len() as u64,
                ..Head::default()
            };
            self.put(&head.bytes())?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        let head = Head {
            name: &name,
            letter: member.kind.letter(),
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            size,
            modified: u64::try_from(seconds).unwrap_or(0),
            link: member.link,
            device: member.device,
        };
        self.put(&head.bytes())?;
        map.map_or(Ok(()), |map| self.put(&map))
    }

    /// Data of the member begun last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)
    }

    /// Ends the data of a member.
    pub(crate) fn end_member(&mut self) -> io::Result<()> {
        self.pad(self.written)
    }

    fn pad(&mut self, behind: u64) -> io::Result<()> {
        let over = behind % BLOCK as u64;
        if over != 0 {
            let zeros = [0; BLOCK];
            self.put(zeros.split_at(usize::try_from(over).unwrap_or(0)).1)?;
        }
        Ok(())
    }

    /// Ends the stream; says how many bytes it has.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.put(&[0; 2 * BLOCK])?;
        while !self.written.is_multiple_of(RECORD) {
            self.put(&[0; BLOCK])?;
        }
        self.out.flush()?;
        Ok(self.written)
    }
}

/// Whether a number fits into a field of octal digits with a NUL behind it.
const fn fits(value: u64, width: u32) -> bool {
    value >> (3 * (width - 1)) == 0
}

/// The name of a header that stands for another: `dir/WHAT/name`, shortened.
fn aside(what: &str, path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let cut = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let (dir, name) = path.split_at(cut);
    let room = NAME_MAX - what.len() - 1;
    let name = name.get(..room.min(name.len())).unwrap_or_default();
    let dir = if dir.len() + name.len() <= room {
        dir
    } else {
        &[]
    };
    [dir, what.as_bytes(), b"/", name].concat()
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + digits(len) {
        len = rest + digits(len);
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Adds a name, which the standard wants in UTF-8 unless it is told otherwise.
fn text(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if std::str::from_utf8(value).is_err() && !records.starts_with(b"21 hdrcharset") {
        let mut first = Vec::new();
        record(&mut first, b"hdrcharset", b"BINARY");
        records.splice(0..0, first);
    }
    record(records, key, value);
}

/// The key of an attribute's record. A key ends at the first `=`, so GNU tar writes one inside as
/// `%3D`, and `%` as `%25`.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for &byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            byte => key.push(byte),
        }
    }
    key
}

/// A time as a decimal fraction.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let (sign, whole, part) = if seconds < 0 && nanoseconds != 0 {
        (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        )
    } else if seconds < 0 {
        ("-", seconds.unsigned_abs(), 0)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    if part == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{part:09}");
    text.trim_end_matches('0').to_owned()
}

/// The map before the data of a sparse file: the number of ranges, then each one, filled up with
/// zeros to whole blocks.
fn map_of(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", ranges.len()).into_bytes();
    for (offset, len) in ranges {
        map.extend_from_slice(format!("{offset}\n{len}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// The fields of a header.
#[derive(Default)]
struct Head<'a> {
    name: &'a [u8],
    letter: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    modified: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl Head<'_> {
    fn bytes(&self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        put(&mut bytes, 0, 100, self.name);
        number(&mut bytes, 100, 8, self.mode.into());
        number(&mut bytes, 108, 8, self.uid.into());
        number(&mut bytes, 116, 8, self.gid.into());
        number(&mut bytes, 124, 12, self.size);
        number(&mut bytes, 136, 12, self.modified);
        put(&mut bytes, 148, 8, b"        ");
        put(&mut bytes, 156, 1, &[self.letter]);
        put(&mut bytes, 157, 100, self.link);
        put(&mut bytes, 257, 8, b"ustar\x0000");
        if matches!(self.letter, b'3' | b'4') {
            number(&mut bytes, 329, 8, self.device.0.into());
            number(&mut bytes, 337, 8, self.device.1.into());
        }
        let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        put(&mut bytes, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

fn put(bytes: &mut [u8; BLOCK], at: usize, width: usize, value: &[u8]) {
    let field = bytes.get_mut(at..at + width).unwrap_or_default();
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}

/// A number in octal, or in the binary form that GNU tar began when it is too large for that.
fn number(bytes: &mut [u8; BLOCK], at: usize, width: u32, value: u64) {
    let count = width as usize;
    if fits(value, width) {
        let digits = format!("{value:0len$o}", len = count - 1);
        put(bytes, at, count, digits.as_bytes());
        return;
    }
    let mut field = vec![0; count];
    for (to, from) in field.iter_mut().rev().zip(value.to_le_bytes()) {
        *to = from;
    }
    field[0] |= 0x80;
    put(bytes, at, count, &field);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(add: impl Fn(&mut Vec<u8>)) -> String {
        let mut found = Vec::new();
        add(&mut found);
        String::from_utf8(found).unwrap()
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        // Nine bytes with their own length, and the lengths where a digit is added.
        assert_eq!(records(|r| record(r, b"path", b"a")), "9 path=a\n");
        for len in 85..95 {
            let value = "x".repeat(len);
            let text = records(|r| record(r, b"path", value.as_bytes()));
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
        }
    }

    #[test]
    fn times_are_decimal_fractions() {
        assert_eq!(decimal(5, 0), "5");
        assert_eq!(decimal(5, 1), "5.000000001");
        assert_eq!(decimal(5, 500_000_000), "5.5");
        // A quarter of a second after -2 s.
        assert_eq!(decimal(-2, 250_000_000), "-1.75");
        assert_eq!(decimal(-1, 250_000_000), "-0.75");
        assert_eq!(decimal(-2, 0), "-2");
        assert_eq!(decimal(i64::MIN, 0), "-9223372036854775808");
    }

    #[test]
    fn keys_of_attributes_have_no_equals_sign() {
        assert_eq!(xattr_key(b"user.a=b%"), b"SCHILY.xattr.user.a%3Db%25");
    }

    #[test]
    fn names_that_are_no_text_are_said_to_be_so_once() {
        let mut found = Vec::new();
        text(&mut found, b"path", b"\xff");
        text(&mut found, b"linkpath", b"\xfe");
        assert!(found.starts_with(b"21 hdrcharset=BINARY\n9 path=\xff\n"));
        assert_eq!(found.iter().filter(|&&b| b == b'\n').count(), 3);
    }
}
