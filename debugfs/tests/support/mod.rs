//! Running commands inside the test process.

#![allow(dead_code, clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

use cowfs_format::device::MemDevice;
use debugfs_cowfs::session::{Session, Superblock};
use debugfs_cowfs::words;

/// Bytes that a session wrote, shared with the test.
#[derive(Clone, Default)]
pub(crate) struct Sink(Rc<RefCell<Vec<u8>>>);

/// Most that a test keeps; a damaged size can ask for any number of zeros.
const LIMIT: usize = 64 << 20;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.borrow().len() > LIMIT {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Said {
    /// Whether it succeeded.
    pub(crate) good: bool,
    /// Its results.
    pub(crate) out: Vec<u8>,
    /// Its complaints.
    pub(crate) err: String,
}

/// A session on a volume.
pub(crate) struct Shell {
    pub(crate) session: Session,
    out: Sink,
    err: Sink,
}

impl Shell {
    /// Opens a volume; an error is what would be said of it.
    pub(crate) fn open(image: &Path) -> Result<Self, String> {
        Self::start(image, false, Superblock::default())
    }

    /// Opens a volume for writing.
    pub(crate) fn edit(image: &Path) -> Result<Self, String> {
        Self::start(image, true, Superblock::default())
    }

    /// Opens what a volume holds now, also while another session may write to it.
    pub(crate) fn seen(image: &Path) -> Self {
        let (out, err) = (Sink::default(), Sink::default());
        let mut session = Session::new(Box::new(out.clone()), Box::new(err.clone()));
        let device = Box::new(MemDevice::new(std::fs::read(image).unwrap()));
        let by = Superblock::default();
        session.look(image.to_path_buf(), device, by).unwrap();
        Self { session, out, err }
    }

    /// Opens a volume for changes that stay in memory.
    pub(crate) fn dry_run(image: &Path) -> Result<Self, String> {
        let (out, err) = (Sink::default(), Sink::default());
        let mut session = Session::new(Box::new(out.clone()), Box::new(err.clone()));
        session.writes = true;
        session.dry_run = true;
        session
            .open(image.to_path_buf(), Superblock::default())
            .map_err(|error| format!("{error:#}"))?;
        Ok(Self { session, out, err })
    }

    /// Opens a metadata image.
    pub(crate) fn image(image: &Path) -> Result<Self, String> {
        let by = Superblock {
            image: true,
            ..Superblock::default()
        };
        Self::start(image, false, by)
    }

    fn start(image: &Path, writes: bool, by: Superblock) -> Result<Self, String> {
        let (out, err) = (Sink::default(), Sink::default());
        let mut session = Session::new(Box::new(out.clone()), Box::new(err.clone()));
        session.writes = writes;
        session
            .open(image.to_path_buf(), by)
            .map_err(|error| format!("{error:#}"))?;
        Ok(Self { session, out, err })
    }

    /// Runs a command line.
    pub(crate) fn run(&mut self, line: &str) -> Said {
        let ran = self.session.line(line.as_bytes());
        let mut err = String::from_utf8(self.err.take()).unwrap();
        let good = ran.unwrap_or_else(|error| {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            err.push_str("cut off\n");
            false
        });
        let out = self.out.take();
        Said { good, out, err }
    }

    /// The text of a command that must succeed.
    pub(crate) fn text(&mut self, line: &str) -> String {
        self.session.json = false;
        let said = self.run(line);
        assert!(said.good, "{line}: {}", said.err);
        String::from_utf8_lossy(&said.out).into_owned()
    }

    /// The JSON of a command that must succeed.
    pub(crate) fn json(&mut self, line: &str) -> serde_json::Value {
        self.session.json = true;
        let said = self.run(line);
        self.session.json = false;
        assert!(said.good, "{line}: {}", said.err);
        let value: serde_json::Value = serde_json::from_slice(&said.out).unwrap();
        assert_eq!(value["schema"], 1);
        value
    }
}

/// A path from the volume's root, as a word of a command line.
pub(crate) fn word(path: &[u8]) -> String {
    let path = path
        .strip_prefix(b".")
        .filter(|rest| rest.is_empty())
        .unwrap_or(path);
    words::quoted(&[b"/", path].concat())
}

/// The bytes of a JSON entry `key` or `key_b64`.
pub(crate) fn bytes(object: &serde_json::Value, key: &str) -> Vec<u8> {
    match object
        .get(format!("{key}_b64"))
        .and_then(|text| text.as_str())
    {
        Some(text) => unbase64(text),
        None => object[key].as_str().unwrap().as_bytes().to_vec(),
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let known = chunk.iter().filter(|c| **c != b'=').count();
        let word = chunk.iter().fold(0u32, |word, c| {
            let digit = digits.iter().position(|d| d == c).unwrap_or(0);
            word << 6 | u32::try_from(digit).unwrap()
        });
        bytes.extend_from_slice(&word.to_be_bytes()[1..known]);
    }
    bytes
}
