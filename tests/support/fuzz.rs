//! What the fuzz targets in `tests/fuzz` do with their input, and the corpus that is kept of them.
//!
//! The targets themselves need a nightly toolchain; what they call stands here, so that the stable one can replay the
//! corpus (`tests/hostile.rs`). There is no expectation but that nothing panics, runs on, or takes memory without end:
//! libFuzzer watches the last two, and so does the replay.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use cowfs_format::block::check_offset_of;
use cowfs_format::device::{Device, DeviceMut, MemDevice, OverlayDevice, PackedDevice};
use cowfs_format::dump::{self, BlockKind, path};
use cowfs_format::ecc;
use cowfs_format::ops::manifest::text;
use cowfs_format::read::{acl, dir, extent::ListView, xattr};
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::volume::Volume;
use cowfs_format::volume::lockname::LockName;
use cowfs_format::volume::scan::Scanner;
use debugfs_cowfs::session::{Session, Superblock};
use debugfs_cowfs::{table, words};

use crate::{golden, place};

/// Most bytes of results that a run takes; then the reader is gone.
const OUT_MAX: usize = 4 << 20;

/// The volumes that are mutated: small, and among them everything that the format has.
const IMAGES: [(&str, usize); 5] = [
    ("b512-c4k-max", 512),
    ("b1k-c4k-default", 1024),
    ("b2k-c8k-max", 2048),
    ("dirty-journal", 1024),
    ("o2cb-named", 1024),
];

/// Commands that read. What writes to the host or takes time on purpose is left out.
pub const LINES: &[&str] = &[
    "stats",
    "stats -h",
    "label",
    "uuid",
    "feature",
    "df",
    "slotmap",
    "hb",
    "nodes",
    "lsdel",
    "stat_sysdir",
    "logdump 0",
    "logdump -T 0",
    "ls -l /",
    "ls -l //",
    "ls -l /many",
    "dirblocks /many",
    "dx_root /many",
    "dx_dump /many",
    "dx_space /many",
    "dx_leaf 5000",
    "stat //global_bitmap",
    "stat //inode_alloc:0000",
    "stat //truncate_log:0000",
    "stat //local_alloc:0000",
    "stat //journal:0000",
    "stat /fragmented/whole",
    "stat /inline/one",
    "group 32",
    "grpextents 32",
    "refcount -e /shared/first",
    "refcount -e /reflinks/first",
    "extents -o /shared/third",
    "extents /fragmented/whole",
    "extent 3000",
    "frag /fragmented/whole",
    "bmap /fragmented/whole 7",
    "cat /shared/clone",
    "cat /inline/one",
    "cat //slot_map",
    "tar /attributes",
    "tar /",
    "xattr -v /attributes/inode",
    "xattr -v /attributes/block",
    "xattr -v /attributes/buckets",
    "xattr -v /acls/dir",
    "icheck 100 5000 9000",
    "owners 100 5000 9000",
    "ncheck 2700 5",
    "findpath 2700",
    "du -r /",
    "du",
    "delta -c /shared/first /shared/third",
    "manifest",
    "manifest -n",
    "map",
    "quota",
    "block 2 3 4 5 6 7 8 9 10",
    "field <5> <2>.s_label /many.l_recs[0].e_cpos",
    "encode /many",
    "check",
];

struct Image {
    device: MemDevice,
    block: usize,
    /// Where blocks with structure stand.
    places: Vec<usize>,
}

static LOADED: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let load = |(name, block): (&str, usize)| -> Result<Image> {
        let bytes = std::fs::read(golden::open(name)?.path())?;
        let kinds = bytes.chunks_exact(block).map(BlockKind::detect).enumerate();
        let places = kinds
            .filter(|(_, kind)| *kind != BlockKind::Raw)
            .map(|(at, _)| at * block)
            .collect();
        Ok(Image {
            device: MemDevice::new(bytes),
            block,
            places,
        })
    };
    let loaded: Result<Vec<Image>> = IMAGES.into_iter().map(load).collect();
    loaded.unwrap_or_else(|error| panic!("golden images: {error:#}"))
});

static SCANNER: LazyLock<Scanner> =
    LazyLock::new(|| Scanner::new(None).unwrap_or_else(|error| panic!("threads: {error}")));

/// Takes bytes from the front of an input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Results that are counted and dropped.
#[derive(Clone, Default)]
struct Drain(Rc<Cell<usize>>);

impl Write for Drain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.set(self.0.get() + bytes.len());
        if self.0.get() > OUT_MAX {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A volume with bytes changed, looked at by two commands.
///
/// The input: which volume, how (bit 0: checks are made right again, bit 1: JSON), two commands; then changes, each a
/// block (16 bits, among those with structure), a place in it (16 bits), a count of at most 8, and the bytes.
pub fn volume(data: &[u8]) {
    let mut input = Input(data);
    let (Some(image), Some(how)) = (input.byte(), input.byte()) else {
        return;
    };
    let (Some(first), Some(second)) = (input.byte(), input.byte()) else {
        return;
    };
    let image = &LOADED[usize::from(image) % IMAGES.len()];
    let device = OverlayDevice::new(&image.device);
    let mut block = vec![0; image.block];
    while let (Some(which), Some(at), Some(count)) = (input.word(), input.word(), input.byte()) {
        let bytes = input.bytes(usize::from(count % 8) + 1);
        let start = image.places[which % image.places.len()] as u64;
        if device.read_at(start, &mut block).is_err() {
            return;
        }
        let at = at % image.block;
        for (to, from) in block[at..].iter_mut().zip(bytes) {
            *to = *from;
        }
        if how & 1 != 0 {
            let mut signature = [0; 8];
            signature.copy_from_slice(&block[..8]);
            if let Some(at) = check_offset_of(signature) {
                ecc::stamp(&mut block, at);
            }
        }
        if device.write_at(start, &block).is_err() {
            return;
        }
    }
    let lines = [first, second].map(|n| LINES[usize::from(n) % LINES.len()]);
    look(Box::new(device), &lines, how & 2 != 0);
}

/// Runs commands on a volume; `check` is fsck.
pub fn look(device: Box<dyn Device>, lines: &[&str], json: bool) {
    let out = Drain::default();
    let mut session = Session::new(Box::new(out.clone()), Box::new(Drain::default()));
    session.json = json;
    if lines.contains(&"check") {
        if let Ok(volume) = Volume::open(device) {
            let checked = fsck_cowfs::check_with(&volume, &SCANNER, &Progress::default());
            let _ = checked.report("volume");
        }
        return;
    }
    if session
        .look(PathBuf::from("volume"), device, Superblock::default())
        .is_err()
    {
        return;
    }
    for line in lines {
        out.0.set(0);
        let _ = session.line(line.as_bytes());
    }
}

/// One structure, made of the input alone: all decoders that take bytes.
pub fn structure(data: &[u8]) {
    let mut input = Input(data);
    let Some(which) = input.byte() else {
        return;
    };
    let bytes = input.0;
    match which % 9 {
        0 => dumped(&mut input),
        1 => {
            for entry in dir::entries(bytes).flatten() {
                assert!(entry.name.len() <= 255 && entry.rec_len <= bytes.len());
            }
        }
        2 => {
            for entry in xattr::entries(bytes).flatten() {
                let _ = acl::shown_value(&entry.name());
            }
        }
        3 => {
            if let Some(list) = ListView::parse(bytes) {
                assert!(size_of_val(list.recs) <= bytes.len());
                let _ = list.counts_are_sane();
            }
        }
        4 => {
            let _ = acl::entries(bytes);
            let _ = acl::text(bytes);
            let _ = LockName::parse(bytes);
        }
        5 => {
            let _ = text::parse_head(bytes);
            if let Ok(entry) = text::parse(bytes) {
                // What is read can be written, and is then read as the same.
                let mut line = String::new();
                text::write(&mut line, &entry);
                let line = line.trim_end_matches('\n');
                assert_eq!(text::parse(line.as_bytes()).ok(), Some(entry), "{line}");
            }
        }
        6 => {
            if let Ok(words) = words::split(bytes)
                && let Some((name, rest)) = words.split_first()
                && let Ok(command) = table::find(name)
            {
                let _ = command.parse(rest);
            }
        }
        7 => {
            let packed = PackedDevice::open(MemDevice::new(bytes.to_vec()));
            if let Ok(packed) = packed {
                look(Box::new(packed), &["stats", "ls -l //"], false);
            }
        }
        _ => {
            // The first blocks of a volume, which say what it is.
            let mut image = vec![0; 1 << 16];
            let len = bytes.len().min(image.len() - 0x400);
            image[0x400..0x400 + len].copy_from_slice(&bytes[..len]);
            look(Box::new(MemDevice::new(image)), &["stats", "df"], true);
        }
    }
}

fn dumped(input: &mut Input<'_>) {
    let Some(kind) = input.byte() else {
        return;
    };
    let kind = BlockKind::ALL[usize::from(kind) % BlockKind::ALL.len()];
    let len = usize::from(input.byte().unwrap_or(0));
    let name = String::from_utf8_lossy(input.bytes(len % 16)).into_owned();
    let tree = dump::dump(kind, input.0);
    let leaves = tree.leaves();
    let sum: usize = leaves.iter().map(|leaf| leaf.raw.len()).sum();
    assert_eq!(sum, input.0.len());
    let _ = tree.to_string();
    for found in path::select(&tree, &name) {
        let again = path::select(&tree, &found.path);
        assert!(
            again
                .iter()
                .any(|again| again.node.offset == found.node.offset)
        );
    }
}

/// A kept manifest, in either form, that a volume is verified against.
pub fn manifest(data: &[u8]) {
    static SMALL: LazyLock<MemDevice> = LazyLock::new(|| {
        let device = MemDevice::new(vec![0; 16 << 20]);
        let made = mkfs_cowfs::format(&device, &mkfs_cowfs::Options::default());
        made.unwrap_or_else(|error| panic!("a volume: {error}"));
        device
    });
    let out = Drain::default();
    let mut session = Session::new(Box::new(out), Box::new(Drain::default()));
    let volume = PathBuf::from("volume");
    let file = written(data);
    if session
        .look(volume, Box::new(&*SMALL), Superblock::default())
        .is_ok()
    {
        let _ = session.line(format!("verify {}", file.path().display()).as_bytes());
    }
}

/// A tar archive, whose headers have right sums, that a new volume is filled from.
pub fn archive(data: &[u8]) {
    let mut bytes = data.to_vec();
    sum_headers(&mut bytes);
    let file = written(&bytes);
    let device = MemDevice::new(vec![0; 16 << 20]);
    let options = mkfs_cowfs::Options::default();
    let mut plan = mkfs_cowfs::Plan::new(&options, device.size())
        .unwrap_or_else(|error| panic!("a plan: {error}"));
    let Ok(source) = mkfs_cowfs::Source::open(file.path()) else {
        return;
    };
    let rules = mkfs_cowfs::Rules {
        fit: data.len().is_multiple_of(2).then_some(0),
        digest: true,
        threads: 1,
        ..mkfs_cowfs::Rules::default()
    };
    if mkfs_cowfs::execute_filled(&device, &mut plan, source, &rules, &|_| ()).is_ok() {
        let volume = Volume::open(device).unwrap_or_else(|error| panic!("what was made: {error}"));
        let report =
            fsck_cowfs::check_with(&volume, &SCANNER, &Progress::default()).report("volume");
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

/// Puts the right sum into each header of a tar archive.
fn sum_headers(archive: &mut [u8]) {
    let mut rest = archive;
    while rest.len() >= 512 {
        let (head, behind) = rest.split_at_mut(512);
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = head[124..136]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0_usize, |size, digit| {
            size.saturating_mul(8)
                .saturating_add(usize::from(digit - b'0'))
        });
        let skip = size.checked_next_multiple_of(512).unwrap_or(usize::MAX);
        rest = behind.get_mut(skip..).unwrap_or_default();
    }
}

/// An input as a file.
fn written(data: &[u8]) -> tempfile::NamedTempFile {
    let write = || -> io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(data)?;
        Ok(file)
    };
    write().unwrap_or_else(|error| panic!("a temporary file: {error}"))
}

/// What is done with an input.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 4] = [
    ("volume", volume),
    ("structure", structure),
    ("manifest", manifest),
    ("archive", archive),
];

/// Where the kept inputs of a target are.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    let folder = place::source_root().join("tests/fuzz/corpus");
    folder.join(format!("{target}.hex.zst"))
}

/// The kept inputs of a target: a line of hexadecimal digits each.
pub fn kept(target: &str) -> Result<Vec<Vec<u8>>> {
    let path = corpus(target);
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let lines = BufReader::new(zstd::Decoder::new(file)?).lines();
    lines.map(|line| unhex(&line?)).collect()
}

fn unhex(line: &str) -> Result<Vec<u8>> {
    if !line.is_ascii() || !line.len().is_multiple_of(2) {
        bail!("no line of a corpus: {line}");
    }
    (0..line.len() / 2)
        .map(|i| Ok(u8::from_str_radix(&line[2 * i..2 * i + 2], 16)?))
        .collect()
}

/// Keeps the files of a folder as the corpus of a target, sorted, so that the same inputs give the same bytes.
pub fn keep(target: &str, folder: &Path) -> Result<usize> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let mut line = String::new();
        for byte in std::fs::read(entry?.path())? {
            let _ = write!(line, "{byte:02x}");
        }
        lines.push(line);
    }
    lines.sort();
    lines.dedup();
    let mut packer = zstd::Encoder::new(Vec::new(), 19)?;
    packer.include_checksum(true)?;
    for line in &lines {
        writeln!(packer, "{line}")?;
    }
    let path = corpus(target);
    std::fs::write(&path, packer.finish()?).with_context(|| path.display().to_string())?;
    Ok(lines.len())
}

/// Writes the kept inputs of a target into a folder, one a file.
pub fn unpack(target: &str, folder: &Path) -> Result<usize> {
    std::fs::create_dir_all(folder)?;
    let inputs = kept(target)?;
    for (index, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("kept-{index}")), input)?;
    }
    Ok(inputs.len())
}

/// Commands of the table that no line here runs.
#[must_use]
pub fn commands_left_out() -> Vec<&'static str> {
    let ran = |name: &str| {
        LINES
            .iter()
            .any(|line| line.split(' ').next() == Some(name))
    };
    table::commands()
        .map(|command| command.name)
        .filter(|name| !ran(name))
        .collect()
}

/// The most memory that this process ever had, in bytes.
///
/// # Panics
/// The host does not tell.
#[must_use]
#[allow(clippy::unwrap_used, reason = "part of tests")]
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}
