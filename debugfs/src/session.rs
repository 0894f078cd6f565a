//! What a run of commands shares: the open volume, the current directories, where output goes.

use std::cell::Cell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, anyhow, bail};
use cowfs_format::block::View;
use cowfs_format::device::{Device, DeviceMut};
use cowfs_format::layout::FileType;
use cowfs_format::read::inode::{self, Inode};
use cowfs_format::toolkit::open;
use cowfs_format::txn::Txn;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path;
use cowfs_format::volume::scan::Scanner;

pub use crate::opened::{Open, Outcome, State, Superblock};
use crate::report::{Page, Rows};
use crate::table::{self, Command, Needs};
use crate::words;

const NONE_OPEN: &str = "no volume is open; use `open VOLUME`";

/// What a run of commands shares.
pub struct Session {
    open: Option<Open>,
    /// Root directory, where `/path` begins.
    pub root: BlockNo,
    /// Current directory in the volume.
    pub cwd: BlockNo,
    /// Current directory on the host.
    pub host_dir: PathBuf,
    /// Whether results are JSON.
    pub json: bool,
    /// Whether volumes are opened for writing.
    pub writes: bool,
    /// Where what they held before is saved then.
    pub undo: Option<PathBuf>,
    /// Whether what is written stays in memory.
    pub dry_run: bool,
    /// Whether results go to a terminal.
    pub terminal: bool,
    /// Set when the run is to end.
    pub ended: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    faults: Vec<String>,
    notes: Vec<String>,
    scanner: Option<Scanner>,
    /// The command that runs, as it was typed.
    command: String,
    /// Whether it has begun its JSON document with rows.
    rows: bool,
    /// Whether it found a difference that it was asked for.
    differs: bool,
    /// The worst of the commands' exit statuses.
    status: Rc<Cell<u8>>,
}

impl Session {
    /// A session without a volume.
    #[must_use]
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self {
            open: None,
            root: BlockNo(0),
            cwd: BlockNo(0),
            host_dir: PathBuf::from("."),
            json: false,
            writes: false,
            undo: None,
            dry_run: false,
            terminal: false,
            ended: false,
            out,
            err,
            faults: Vec::new(),
            notes: Vec::new(),
            scanner: None,
            command: String::new(),
            rows: false,
            differs: false,
            status: Rc::default(),
        }
    }

    /// The exit status of the run so far, the worst of its commands; it outlives the session.
    #[must_use]
    pub fn status(&self) -> Rc<Cell<u8>> {
        Rc::clone(&self.status)
    }

    /// Says that the command found a difference: no trouble, but no success either.
    pub fn differs(&mut self) {
        self.differs = true;
    }

    /// Opens a volume, in place of the one that was open. For writing, its journals are replayed.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&mut self, path: PathBuf, by: Superblock) -> Result<()> {
        if !self.writes {
            let device = if by.image {
                open::metadata_image(&path)?
            } else {
                open::read_only(&path)?
            };
            return self.look(path, device, by);
        }
        let undo = self.undo.as_deref();
        let open = Open::to_write(path, by, (self.dry_run, undo), &mut self.err)?;
        self.enter(open);
        Ok(())
    }

    /// Opens a volume for reading, on whatever device; `path` is what it is called.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn look(&mut self, path: PathBuf, device: Box<dyn Device>, by: Superblock) -> Result<()> {
        self.enter(Open::to_read(path, device, by)?);
        Ok(())
    }

    /// Opens a volume for writing, on whatever device; `path` is what it is called.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn edit(&mut self, path: PathBuf, device: Box<dyn DeviceMut>) -> Result<()> {
        let by = Superblock::default();
        let open = Open::on_device(path, device, by, self.dry_run, &mut self.err)?;
        self.enter(open);
        Ok(())
    }

    fn enter(&mut self, open: Open) {
        self.root = open.view().info().root;
        self.cwd = self.root;
        self.open = Some(open);
    }

    /// An error unless a volume is open for writing.
    ///
    /// # Errors
    /// None is.
    pub fn require_writable(&self) -> Result<()> {
        self.opened()?.require_writable()
    }

    /// Makes a change: one transaction, or a step of the group that was begun. All of it or nothing.
    ///
    /// # Errors
    /// The change fails, or cannot be committed; the volume is as before.
    pub fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<(T, Outcome)> {
        match &mut self.open {
            Some(open) => open.change(change),
            None => bail!(NONE_OPEN),
        }
    }

    /// Whether a group was begun and neither committed nor given up yet.
    #[must_use]
    pub fn in_group(&self) -> bool {
        self.open.as_ref().is_some_and(Open::in_group)
    }

    /// Begins a group of changes.
    ///
    /// # Errors
    /// There is one already, or the volume cannot be written.
    pub fn begin_group(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            bail!(NONE_OPEN);
        };
        let (open, begun) = open.begin();
        self.open = Some(open);
        begun
    }

    /// Ends the group: its changes become part of the volume, or (`keep` is false) are given up.
    ///
    /// # Errors
    /// There is none, or it cannot be committed; the volume is as before.
    pub fn end_group(&mut self, keep: bool) -> Result<Outcome> {
        let Some(open) = self.open.take() else {
            bail!(NONE_OPEN);
        };
        let (open, ended) = open.end(keep);
        self.open = Some(open);
        self.leave_what_is_gone();
        ended
    }

    /// Gives up a group that nobody committed, and says so; for the end of the input.
    ///
    /// # Errors
    /// It cannot be said.
    pub fn end(&mut self) -> io::Result<()> {
        if !self.in_group() {
            return Ok(());
        }
        let given_up = self.end_group(false);
        self.status.set(self.status.get().max(table::FAILED));
        let why = match given_up {
            Ok(_) => "the group was not committed: the volume is as it was before it".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        self.complain("", &[why])
    }

    /// Current directories that were made in a group are gone with it.
    fn leave_what_is_gone(&mut self) {
        let Ok(view) = self.view() else { return };
        let root = view.info().root;
        let is_there = |blkno| {
            let inode = inode::read(view, blkno);
            inode.is_ok_and(|inode| inode.file_type() == Some(FileType::Directory))
        };
        let (has_root, has_cwd) = (is_there(self.root), is_there(self.cwd));
        if !has_root {
            self.root = root;
        }
        if !has_cwd {
            self.cwd = self.root;
        }
    }

    /// Writes bytes over blocks at once: see [`Open::write_direct`].
    ///
    /// # Errors
    /// As there.
    pub fn write_direct(&mut self, first: BlockNo, bytes: &[u8]) -> Result<Outcome> {
        match &mut self.open {
            Some(open) => open.write_direct(first, bytes),
            None => bail!(NONE_OPEN),
        }
    }

    /// Closes the volume; false when none was open.
    pub fn close(&mut self) -> bool {
        self.open.take().is_some()
    }

    /// The open volume.
    ///
    /// # Errors
    /// None is open.
    pub fn opened(&self) -> Result<&Open> {
        self.open.as_ref().ok_or_else(|| anyhow!(NONE_OPEN))
    }

    /// A sight of the open volume.
    ///
    /// # Errors
    /// None is open.
    pub fn view(&self) -> Result<View<'_>> {
        Ok(self.opened()?.view())
    }

    /// The inode that a file specification names.
    ///
    /// # Errors
    /// None does.
    pub fn find(&self, spec: &[u8]) -> Result<BlockNo> {
        Ok(path::resolve_from(self.view()?, self.base(), spec)?)
    }

    /// Where names begin.
    #[must_use]
    pub const fn base(&self) -> path::Base {
        path::Base {
            root: self.root,
            cwd: self.cwd,
        }
    }

    /// The directory and name of a file that may not exist yet.
    ///
    /// # Errors
    /// The directory does not exist, or the name cannot be one.
    pub fn parent(&self, spec: &[u8]) -> Result<path::Parent> {
        Ok(path::resolve_parent_from(self.view()?, self.base(), spec)?)
    }

    /// The inode that a file specification names; without one, the current directory.
    ///
    /// # Errors
    /// None does, or the inode is damaged.
    pub fn inode(&self, spec: Option<&[u8]>) -> Result<Inode<'_>> {
        let blkno = spec.map_or(Ok(self.cwd), |spec| self.find(spec))?;
        Ok(inode::read(self.view()?, blkno)?)
    }

    /// Reports trouble that does not end a command, but makes it fail.
    pub fn fault(&mut self, fault: impl std::fmt::Display) {
        self.faults.push(fault.to_string());
    }

    /// Says something beside the results that does not make a command fail.
    pub fn note(&mut self, note: impl std::fmt::Display) {
        self.notes.push(note.to_string());
    }

    /// Threads for scans of the whole volume.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn scanner(&mut self) -> Result<()> {
        if self.scanner.is_none() {
            self.scanner = Some(Scanner::new(None)?);
        }
        Ok(())
    }

    /// The threads that [`Session::scanner`] started, with the volume.
    ///
    /// # Errors
    /// They were not started, or no volume is open.
    pub fn scan(&self) -> Result<(&Scanner, View<'_>)> {
        let scanner = self.scanner.as_ref();
        Ok((
            scanner.ok_or_else(|| anyhow!("the scan was not started"))?,
            self.view()?,
        ))
    }

    /// A sight of the open volume together with where results go, for bytes of files.
    ///
    /// # Errors
    /// No volume is open.
    pub fn view_and_out(&mut self) -> Result<(View<'_>, &mut dyn Write)> {
        match &self.open {
            Some(open) => Ok((open.view(), &mut self.out)),
            None => bail!(NONE_OPEN),
        }
    }

    /// The threads that [`Session::scanner`] started, the volume, and where results go, for a
    /// command that writes bytes there as it goes.
    ///
    /// # Errors
    /// As [`Session::scan`].
    pub fn stream(&mut self) -> Result<(&Scanner, View<'_>, &mut dyn Write)> {
        let view = match &self.open {
            Some(open) => open.view(),
            None => bail!(NONE_OPEN),
        };
        match &self.scanner {
            Some(scanner) => Ok((scanner, view, &mut self.out)),
            None => bail!("the scan was not started"),
        }
    }

    /// The threads that [`Session::scanner`] started, the volume, and a place for results that are
    /// written one by one; in JSON they are the elements of the array `key`. What the command
    /// then returns is added to the same document. At most once in a command.
    ///
    /// # Errors
    /// As [`Session::scan`], or results cannot be written.
    pub fn rows(&mut self, key: &'static str) -> Result<(&Scanner, View<'_>, Rows<'_>)> {
        self.opened()?;
        match self.rows_beside(key)? {
            (scanner, Some(view), rows) => Ok((scanner, view, rows)),
            _ => bail!(NONE_OPEN),
        }
    }

    /// As [`Session::rows`], also when no volume is open.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub fn rows_beside(
        &mut self,
        key: &'static str,
    ) -> Result<(&Scanner, Option<View<'_>>, Rows<'_>)> {
        let Some(scanner) = &self.scanner else {
            bail!("the scan was not started");
        };
        if self.json {
            Self::json_head(&mut self.out, &self.command)?;
            write!(self.out, ",\"{key}\":[")?;
            self.rows = true;
        }
        let view = self.open.as_ref().map(Open::view);
        let rows = Rows::new(&mut self.out, &mut self.faults, self.terminal, self.json);
        Ok((scanner, view, rows))
    }

    /// Runs one line; false when it failed, or found a difference that it was asked for.
    ///
    /// # Errors
    /// Results cannot be written.
    pub fn line(&mut self, line: &[u8]) -> io::Result<bool> {
        let words = match words::split(line) {
            Ok(words) => words,
            Err(why) => {
                self.status.set(self.status.get().max(table::FAILED));
                let why = [why.to_owned()];
                if self.json {
                    self.rows = false;
                    self.json_line("", None, &[], &why)?;
                    self.out.flush()?;
                }
                self.complain("", &why)?;
                return Ok(false);
            }
        };
        let Some((name, rest)) = words.split_first() else {
            return Ok(true);
        };
        self.faults.clear();
        self.notes.clear();
        self.rows = false;
        self.differs = false;
        self.command = words::quoted(name);
        let said = self.command(name, rest);
        let mut faults = std::mem::take(&mut self.faults);
        let notes = std::mem::take(&mut self.notes);
        let shown = self.command.clone();
        let report = match said {
            Ok(report) => report,
            Err(error) => {
                if let Some(io) = error.downcast_ref::<io::Error>()
                    && io.kind() == io::ErrorKind::BrokenPipe
                {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                faults.push(format!("{error:#}"));
                None
            }
        };
        let failed = table::find(name).map_or(table::FAILED, Command::failed);
        let status = match (faults.is_empty(), self.differs) {
            (false, _) => failed,
            (true, true) => table::DIFFERENT,
            (true, false) => 0,
        };
        self.status.set(self.status.get().max(status));
        if self.json {
            self.json_line(&shown, report.as_deref(), &notes, &faults)?;
        } else if let Some(report) = report {
            report.write(&mut Page::new(&mut self.out, self.terminal))?;
        }
        self.out.flush()?;
        self.complain(&shown, &notes)?;
        self.complain(&shown, &faults)?;
        Ok(status == 0)
    }

    fn json_line(
        &mut self,
        name: &str,
        report: Option<&dyn crate::report::Report>,
        notes: &[String],
        faults: &[String],
    ) -> io::Result<()> {
        let mut members = serde_json::Map::new();
        match report.map(crate::report::Report::json).transpose()? {
            Some(serde_json::Value::Object(map)) => members = map,
            Some(other) => drop(members.insert("result".to_owned(), other)),
            None => {}
        }
        if !notes.is_empty() {
            members.insert("notes".to_owned(), notes.into());
        }
        if !faults.is_empty() {
            members.insert("errors".to_owned(), faults.into());
        }
        if self.rows {
            write!(self.out, "]")?;
        } else {
            Self::json_head(&mut self.out, name)?;
        }
        for (key, value) in &members {
            write!(
                self.out,
                ",{}:{value}",
                serde_json::Value::from(key.as_str())
            )?;
        }
        writeln!(self.out, "}}")
    }

    /// Opens the JSON document of a command.
    fn json_head(out: &mut dyn Write, name: &str) -> io::Result<()> {
        let name = serde_json::Value::from(name);
        write!(out, "{{\"schema\":1,\"command\":{name}")
    }

    fn complain(&mut self, name: &str, faults: &[String]) -> io::Result<()> {
        for fault in faults {
            let colon = if name.is_empty() { "" } else { ": " };
            // A message may hold a name from the volume.
            let fault = cowfs_format::toolkit::report::PathText(fault.clone().into_bytes());
            writeln!(self.err, "debugfs.cowfs: {name}{colon}{}", fault.shown())?;
        }
        self.err.flush()
    }

    fn command(
        &mut self,
        name: &[u8],
        rest: &[Vec<u8>],
    ) -> Result<Option<Box<dyn crate::report::Report>>> {
        let command = table::find(name)?;
        let args = command.parse(rest)?;
        match command.needs {
            Needs::Nothing => {}
            Needs::Volume => drop(self.opened()?),
            Needs::Writing => self.require_writable()?,
        }
        (command.run)(self, &args)
    }

    /// A block given as `1234`, `<1234>`, `0x4d2` or by the name of its lock.
    ///
    /// # Errors
    /// It is no number, or no block of the volume.
    pub fn block_arg(&self, word: &[u8]) -> Result<BlockNo> {
        let inner = word
            .strip_prefix(b"<")
            .map_or(word, |inner| inner.strip_suffix(b">").unwrap_or(word));
        let Some(blkno) = path::block(inner) else {
            bail!("\"{}\" is no number of a block", words::quoted(word));
        };
        let blocks = self.view()?.geo().blocks();
        if blkno.0 >= blocks {
            bail!("block {blkno} lies outside of the volume, which has {blocks} blocks");
        }
        Ok(blkno)
    }
}

/// A number given in decimal or, after `0x`, in hexadecimal.
///
/// # Errors
/// It is none.
pub fn number(word: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(word).unwrap_or("");
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| anyhow!("\"{}\" is no number", words::quoted(word)))
}
