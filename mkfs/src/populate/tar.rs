//! A tar stream as a source: ustar, PAX and GNU headers, sparse files of all GNU forms.
//!
//! Headers are read by the `tar` crate's types; the records between them are put together here, so
//! that a stream cannot ask for memory without end.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, anyhow, bail};
use cowfs_format::layout::device_number;
use cowfs_format::ops::Contents;
use cowfs_format::read::acl;
use cowfs_format::txn::Timestamp;
use cowfs_format::units::{index, low16};
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{Member, Put, What, excluded, stored_value};

/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// The most that the extended headers of one member may have: attributes of 64 KiB and more fit.
const HEADER_MAX: u64 = 16 << 20;
/// The most that global headers may say of all members: each of them has a copy of it.
const GLOBAL_MAX: usize = 64 << 10;
/// The most bytes that the path of a member may have: what Linux takes as one name. A path costs the
/// square of its depth in memory, since each directory on the way is remembered by its path.
const PATH_MAX: usize = 4096;
/// The most pieces that a sparse file may have.
const PIECES_MAX: usize = 1 << 20;

/// A stream with a count of what was read.
struct Stream<'r> {
    reader: &'r mut dyn Read,
    at: u64,
}

impl Stream<'_> {
    /// Fills a buffer; false when the stream ends before its first byte.
    fn fill(&mut self, buf: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < buf.len() {
            match self.reader.read(&mut buf[done..]) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) => bail!("the archive is cut off at byte {}", self.at),
                Ok(read) => {
                    done += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn need(&mut self, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() || self.fill(buf)? {
            return Ok(());
        }
        bail!("the archive is cut off at byte {}", self.at)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        let mut buf = vec![0; index(bytes.min(1 << 16))];
        while bytes > 0 {
            let step = bytes.min(buf.len() as u64);
            self.need(&mut buf[..index(step)])?;
            bytes -= step;
        }
        Ok(())
    }

    /// The data of a record that says something of the next member, with what pads it. `said` are
    /// the bytes of those before it.
    fn record(&mut self, size: u64, said: &mut u64) -> Result<Vec<u8>> {
        *said = said.saturating_add(size);
        if *said > HEADER_MAX {
            bail!(
                "extended headers of {said} bytes at byte {}; at most {HEADER_MAX} are read",
                self.at
            );
        }
        let mut data = vec![0; index(size)];
        self.need(&mut data)?;
        self.skip(padding(size))?;
        Ok(data)
    }
}

const fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// What the records before a member say of it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Pieces of a sparse file in the form 0.0, in which keys repeat.
    pieces: Vec<u64>,
}

impl Said {
    fn text(&self, key: &str) -> Option<&str> {
        self.pax
            .get(key.as_bytes())
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let value = self.text(key);
        value
            .map(|text| {
                text.parse()
                    .map_err(|_| anyhow!("{key} is \"{text}\", no number"))
            })
            .transpose()
    }
}

/// Gives all members of a stream.
pub(super) fn each(
    reader: &mut dyn Read,
    name: &str,
    exclude: &[String],
    put: &mut Put<'_>,
) -> Result<()> {
    let mut stream = Stream { reader, at: 0 };
    let mut global = BTreeMap::new();
    let mut any = false;
    while let Some((header, said)) =
        next(&mut stream, &mut global).with_context(|| name.to_owned())?
    {
        any = true;
        member(&mut stream, &header, said, exclude, put).with_context(|| name.to_owned())?;
    }
    if !any {
        bail!("{name}: holds no member; is it a tar archive?");
    }
    Ok(())
}

/// The header of the next member with what was said before it; `None` at the end.
fn next(
    stream: &mut Stream<'_>,
    global: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Option<(Header, Said)>> {
    let mut said = Said {
        pax: global.clone(),
        ..Said::default()
    };
    let mut bytes = 0;
    loop {
        let mut header = Header::new_old();
        let at = stream.at;
        if !stream.fill(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = header.as_bytes()[..148]
            .iter()
            .map(|b| u32::from(*b))
            .sum::<u32>()
            + header.as_bytes()[156..]
                .iter()
                .map(|b| u32::from(*b))
                .sum::<u32>()
            + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            bail!("no tar header at byte {at}: its checksum is wrong");
        }
        let size = header
            .entry_size()
            .with_context(|| format!("header at byte {at}"))?;
        match header.entry_type() {
            EntryType::GNULongName => said.path = Some(until_nul(stream.record(size, &mut bytes)?)),
            EntryType::GNULongLink => said.link = Some(until_nul(stream.record(size, &mut bytes)?)),
            EntryType::XHeader => {
                let data = stream.record(size, &mut bytes)?;
                pairs(&data, |key, value| {
                    if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
                        let text = std::str::from_utf8(value).ok();
                        let number: Option<u64> = text.and_then(|text| text.parse().ok());
                        said.pieces.extend(number);
                    }
                    said.pax.insert(key.to_vec(), value.to_vec());
                })
                .with_context(|| format!("extended header at byte {at}"))?;
            }
            EntryType::XGlobalHeader => {
                let data = stream.record(size, &mut bytes)?;
                pairs(&data, |key, value| {
                    global.insert(key.to_vec(), value.to_vec());
                    said.pax.insert(key.to_vec(), value.to_vec());
                })
                .with_context(|| format!("extended header at byte {at}"))?;
                let kept: usize = global.iter().map(|(k, v)| k.len() + v.len()).sum();
                if kept > GLOBAL_MAX {
                    bail!(
                        "global headers of {kept} bytes at byte {at}; at most {GLOBAL_MAX} are read"
                    );
                }
            }
            _ => return Ok(Some((header, said))),
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// The records `LENGTH KEY=VALUE\n` of an extended header.
fn pairs(mut data: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
    while !data.is_empty() {
        let wrong = || anyhow!("a record that is no \"LENGTH KEY=VALUE\"");
        let space = data.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
        let len: usize = std::str::from_utf8(&data[..space])?
            .parse()
            .map_err(|_| wrong())?;
        let record = data.get(space + 1..len.max(space + 1)).ok_or_else(wrong)?;
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        each(&record[..equals], &record[equals + 1..]);
        data = &data[len..];
    }
    Ok(())
}

/// A path inside the volume from the name of a member.
fn inside(name: &[u8]) -> Result<Vec<u8>> {
    if name.len() > PATH_MAX {
        bail!(
            "a name of {} bytes; at most {PATH_MAX} are read",
            name.len()
        );
    }
    let shown = name.escape_ascii();
    if name.starts_with(b"/") {
        bail!("{shown}: an absolute name; archive with relative ones");
    }
    if name.contains(&0) {
        bail!("{shown}: a name with a NUL byte");
    }
    let mut parts = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => bail!("{shown}: a name with \"..\""),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

fn member(
    stream: &mut Stream<'_>,
    header: &Header,
    said: Said,
    exclude: &[String],
    put: &mut Put<'_>,
) -> Result<()> {
    let sparse_name = said.pax.get(&b"GNU.sparse.name"[..]);
    let name = sparse_name
        .or_else(|| said.pax.get(&b"path"[..]))
        .cloned()
        .or(said.path.clone())
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let place = || name.escape_ascii().to_string();
    let path = inside(&name)?;
    // What follows the header, whatever the member is.
    let stored = match said.number("size")? {
        Some(size) => size,
        None => header.entry_size().with_context(place)?,
    };
    let kind = header.entry_type();
    let has_data = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
    let pieces = if kind.is_gnu_sparse() {
        gnu_pieces(stream, header).with_context(place)?
    } else {
        Vec::new()
    };
    let start = stream.at;
    // What of the member was not read, when it is done.
    let rest = |at: u64| {
        let left = stored.saturating_sub(at - start);
        left.saturating_add(padding(stored))
    };
    if excluded(exclude, &path) {
        return stream.skip(rest(start));
    }
    let what = match kind {
        EntryType::Directory => What::Directory,
        EntryType::Symlink | EntryType::Link => {
            let target = said
                .pax
                .get(&b"linkpath"[..])
                .cloned()
                .or(said.link.clone());
            let target = match target {
                Some(target) => target,
                None => header.link_name_bytes().unwrap_or_default().into_owned(),
            };
            if kind == EntryType::Symlink {
                What::Symlink(target)
            } else {
                What::Link(inside(&target).with_context(place)?)
            }
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let bits = match kind {
                EntryType::Char => 0o020_000,
                EntryType::Block => 0o060_000,
                _ => 0o010_000,
            };
            // A FIFO has no number, and GNU tar then leaves the fields empty.
            let (major, minor) = if kind == EntryType::Fifo {
                (0, 0)
            } else {
                let major = header.device_major().with_context(place)?;
                let minor = header.device_minor().with_context(place)?;
                (major.unwrap_or(0), minor.unwrap_or(0))
            };
            What::Node(bits, device_number(major, minor))
        }
        _ if has_data => {
            let contents =
                contents(stream, header, &said, stored, pieces, place()).with_context(place)?;
            What::File(Box::new(contents))
        }
        other => bail!(
            "{}: a member of the unknown type {:?}",
            place(),
            other.as_byte() as char
        ),
    };
    let id = |key: &str, plain: std::io::Result<u64>| -> Result<u32> {
        let id = match said.number(key)? {
            Some(id) => id,
            None => plain.with_context(place)?,
        };
        u32::try_from(id).with_context(|| format!("{}: {key} {id}", place()))
    };
    let (uid, gid) = (id("uid", header.uid())?, id("gid", header.gid())?);
    let member = Member {
        path,
        mode: low16(u64::from(header.mode().with_context(place)? & 0o7777)),
        uid,
        gid,
        mtime: mtime(header, &said).with_context(place)?,
        xattrs: attributes(&said).with_context(place)?,
        what,
    };
    put(member)?;
    stream.skip(rest(stream.at))
}

fn mtime(header: &Header, said: &Said) -> Result<Timestamp> {
    let Some(text) = said.text("mtime") else {
        let seconds = header.mtime()?;
        return Ok(Timestamp { seconds, nanos: 0 });
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if seconds.starts_with('-') {
        // Before 1970; the volume counts from there.
        return Ok(Timestamp::default());
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Ok(Timestamp {
        seconds: seconds
            .parse()
            .with_context(|| format!("mtime \"{text}\""))?,
        nanos: digits
            .parse()
            .with_context(|| format!("mtime \"{text}\""))?,
    })
}

/// Attributes as star and GNU tar keep them, and ACLs in words.
fn attributes(said: &Said) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    for (key, value) in &said.pax {
        let (name, value) = match key.as_slice() {
            b"RHT.security.selinux" => {
                let mut label = value.clone();
                label.push(0);
                (b"security.selinux".to_vec(), Some(label))
            }
            b"SCHILY.acl.access" => acl_of(b"system.posix_acl_access", value)?,
            b"SCHILY.acl.default" => acl_of(b"system.posix_acl_default", value)?,
            key => match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) => (name.to_vec(), stored_value(name, value.clone())),
                None => continue,
            },
        };
        if let Some(value) = value {
            found.insert(name, value);
        }
    }
    Ok(found.into_iter().collect())
}

fn acl_of(name: &[u8], text: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let parsed = std::str::from_utf8(text).ok();
    let parsed = parsed.and_then(|text| acl::parse(text, &number_of));
    let Some(entries) = parsed else {
        bail!(
            "the ACL \"{}\" cannot be stored: it names a user or group unknown here; archive with \
             numbers",
            text.escape_ascii()
        );
    };
    let value = [&2u32.to_le_bytes()[..], &entries].concat();
    Ok((name.to_vec(), stored_value(name, value)))
}

/// The number of a user (or group) of the host; archives have ACLs with names.
fn number_of(user: bool, name: &str) -> Option<u32> {
    let table = if user { "/etc/passwd" } else { "/etc/group" };
    let lines = std::fs::read_to_string(table).ok()?;
    let mut fields = lines.lines().map(|line| line.split(':'));
    let mut found = fields.find_map(|mut line| (line.next() == Some(name)).then_some(line))?;
    found.nth(1)?.parse().ok()
}

const BACKWARDS: &str = "a stream cannot be read backwards";

/// The data of a file in a stream.
struct TarFile<'s, 'r> {
    stream: &'s mut Stream<'r>,
    name: String,
    size: u64,
    /// Where the data stands in the file, one piece after the other.
    runs: Vec<(u64, u64)>,
    /// Bytes of the data that were read or passed over.
    done: u64,
    /// Runs that were passed, and the bytes of data in them.
    passed: (usize, u64),
}

impl Contents for TarFile<'_, '_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let mut run = self.runs.get(self.passed.0);
        while let Some((start, len)) = run.filter(|run| run.0 + run.1 <= offset) {
            debug_assert!(start + len <= self.size);
            self.passed = (self.passed.0 + 1, self.passed.1 + len);
            run = self.runs.get(self.passed.0);
        }
        let skipped = run.map_or(Some(0), |run| offset.checked_sub(run.0));
        let skipped = skipped.ok_or_else(|| std::io::Error::other(BACKWARDS))?;
        let at = self.passed.1 + skipped;
        let ahead = at.checked_sub(self.done);
        let read = ahead
            .ok_or_else(|| anyhow!(BACKWARDS))
            .and_then(|ahead| self.stream.skip(ahead))
            .and_then(|()| self.stream.need(buf));
        read.map_err(std::io::Error::other)?;
        self.done = at + buf.len() as u64;
        Ok(())
    }
}

/// The contents of a file: where its data stands, by whatever form of sparse file it has.
fn contents<'s, 'r>(
    stream: &'s mut Stream<'r>,
    header: &Header,
    said: &Said,
    stored: u64,
    mut pieces: Vec<u64>,
    name: String,
) -> Result<TarFile<'s, 'r>> {
    let mut size = stored;
    let mut data = stored;
    if header.entry_type().is_gnu_sparse() {
        size = header
            .as_gnu()
            .map(tar::GnuHeader::real_size)
            .transpose()?
            .unwrap_or(stored);
    } else if let Some(real) = said
        .number("GNU.sparse.realsize")?
        .or(said.number("GNU.sparse.size")?)
    {
        size = real;
        if said.text("GNU.sparse.major") == Some("1") {
            let start = stream.at;
            pieces = written_pieces(stream, stored)?;
            data = stored.saturating_sub(stream.at - start);
        } else if let Some(map) = said.text("GNU.sparse.map") {
            for word in map.split(',') {
                if pieces.len() >= 2 * PIECES_MAX {
                    bail!("a sparse file of more than {PIECES_MAX} pieces");
                }
                pieces.push(
                    word.parse()
                        .with_context(|| format!("GNU.sparse.map \"{word}\""))?,
                );
            }
        } else {
            pieces.clone_from(&said.pieces);
        }
    } else {
        pieces = vec![0, stored];
    }
    let mut runs = Vec::new();
    let (mut end, mut sum) = (0, 0u64);
    for piece in pieces.chunks(2) {
        let [offset, len] = piece else {
            bail!("a sparse file with half a piece");
        };
        let stop = offset
            .checked_add(*len)
            .filter(|stop| *offset >= end && *stop <= size);
        let Some(stop) = stop else {
            bail!("a sparse file whose pieces are out of order, or behind its end");
        };
        end = stop;
        sum += len;
        if *len > 0 {
            runs.push((*offset, *len));
        }
    }
    if sum > data {
        bail!("a sparse file whose pieces are longer than its data");
    }
    Ok(TarFile {
        stream,
        name,
        size,
        runs,
        done: 0,
        passed: (0, 0),
    })
}

/// The pieces of a sparse file in the old form of GNU tar: in its header and the blocks behind it.
fn gnu_pieces(stream: &mut Stream<'_>, header: &Header) -> Result<Vec<u64>> {
    let Some(gnu) = header.as_gnu() else {
        bail!("a sparse file without the header of GNU tar");
    };
    let mut pieces = Vec::new();
    let mut add = |list: &[tar::GnuSparseHeader]| -> Result<()> {
        for piece in list.iter().filter(|piece| !piece.is_empty()) {
            pieces.extend([piece.offset()?, piece.length()?]);
        }
        if pieces.len() > 2 * PIECES_MAX {
            bail!("a sparse file of more than {PIECES_MAX} pieces");
        }
        Ok(())
    };
    add(&gnu.sparse)?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        stream.need(block.as_mut_bytes())?;
        add(&block.sparse)?;
        more = block.is_extended();
    }
    Ok(pieces)
}

/// The pieces of a sparse file in the form 1.0: numbers in lines before the data, up to a multiple
/// of a block.
fn written_pieces(stream: &mut Stream<'_>, stored: u64) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut wanted = None;
    let mut digits = String::new();
    let mut left = stored;
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        let mut block = [0; 512];
        left = left
            .checked_sub(BLOCK)
            .ok_or_else(|| anyhow!("a sparse file without its map"))?;
        stream.need(&mut block)?;
        for byte in block {
            match (byte, wanted) {
                (b'0'..=b'9', _) if digits.len() < 20 => digits.push(byte.into()),
                (b'\n', None) => {
                    let count: usize = std::mem::take(&mut digits).parse()?;
                    if count > PIECES_MAX {
                        bail!("a sparse file of {count} pieces; at most {PIECES_MAX} are read");
                    }
                    wanted = Some(2 * count);
                }
                (b'\n', Some(_)) => numbers.push(std::mem::take(&mut digits).parse()?),
                _ => bail!("a sparse file whose map is no list of numbers"),
            }
            if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                break;
            }
        }
    }
    Ok(numbers)
}
