//! Commands about directories: their entries and their blocks.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::block::{Checked, View};
use cowfs_format::error::{Error, FaultKind};
use cowfs_format::layout::{DIR_TRAILER, Dinode, DirBlockTrailer, FileType};
use cowfs_format::read::file::FileReader;
use cowfs_format::read::{dir, inode};
use cowfs_format::time::Utc;
use cowfs_format::units::BlockNo;
use schemars::JsonSchema;
use serde::Serialize;
use zerocopy::FromBytes;

use crate::report::{Named, Page, Report, Target, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, FILE, FILE_OR_HERE, Needs, flag};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ls",
        aliases: &[],
        options: &[flag(
            'l',
            "long",
            "show mode, links, owner, size and time too",
        )],
        operands: &[FILE_OR_HERE],
        summary: "Lists a directory, or one file.",
        about: "Without -l: inode, length of the record, length of the name, type, name.",
        needs: Needs::Volume,
        says: schema::of::<Listing>,
        run: ls,
    },
    Command {
        name: "dirblocks",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Shows the blocks of a directory with all their entries, used and free.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<DirBlocks>,
        run: dirblocks,
    },
];

/// Entries of a directory.
#[derive(JsonSchema, Serialize)]
pub(super) struct Listing {
    inode: u64,
    entries: Vec<Line>,
    #[serde(skip)]
    long: bool,
}

/// An entry.
#[derive(JsonSchema, Serialize)]
struct Line {
    inode: u64,
    rec_len: usize,
    name_len: usize,
    file_type: u8,
    #[serde(flatten)]
    name: Named,
    #[serde(flatten)]
    facts: Option<Facts>,
}

/// What `-l` adds.
#[derive(JsonSchema, Serialize)]
struct Facts {
    mode: u16,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    #[serde(flatten)]
    target: Option<Target>,
}

fn ls(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let mut faults = Vec::new();
    let spec = args.get(0).unwrap_or_default();
    let name = spec.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let listing = Listing::of(view, &inode, name, args.has('l'), &mut faults);
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(listing)))
}

impl Listing {
    /// The entries of a directory; for another file, that file under the name `name`.
    pub(super) fn of(
        view: View<'_>,
        inode: &Checked<'_, Dinode>,
        name: &[u8],
        long: bool,
        faults: &mut Vec<Error>,
    ) -> Self {
        let mut entries = Vec::new();
        if inode.file_type() == Some(FileType::Directory) {
            entries = lines(view, inode, faults);
        } else {
            entries.push(Line {
                inode: inode.blkno().0,
                rec_len: 0,
                name_len: name.len(),
                file_type: inode.file_type().map_or(0, FileType::dirent),
                name: Named::new(name),
                facts: None,
            });
        }
        if long {
            for line in &mut entries {
                let facts = inode::read(view, BlockNo(line.inode));
                match facts.and_then(|inode| facts_of(view, &inode)) {
                    Ok(facts) => line.facts = Some(facts),
                    Err(error) => faults.push(error),
                }
            }
        }
        Self {
            inode: inode.blkno().0,
            entries,
            long,
        }
    }
}

/// The entries in use of all readable areas.
fn lines(view: View<'_>, inode: &Checked<'_, Dinode>, faults: &mut Vec<Error>) -> Vec<Line> {
    let mut found = Vec::new();
    let walked = dir::for_each_area(view, inode, &mut |area| {
        let area = match area {
            Ok(area) => area,
            Err(error) => {
                faults.push(error);
                return ControlFlow::Continue(());
            }
        };
        for entry in dir::entries(area.bytes) {
            match entry {
                Ok(entry) if !entry.is_used() => {}
                Ok(entry) => found.push(Line {
                    inode: entry.inode.0,
                    rec_len: entry.rec_len,
                    name_len: entry.name.len(),
                    file_type: entry.file_type,
                    name: Named::new(entry.name),
                    facts: None,
                }),
                Err(kind) => {
                    faults.push(kind.at(area.block.unwrap_or(inode.blkno())).into());
                }
            }
        }
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    found
}

fn facts_of(view: View<'_>, inode: &Checked<'_, Dinode>) -> Result<Facts, Error> {
    let is_link = inode.file_type() == Some(FileType::Symlink);
    Ok(Facts {
        mode: inode.i_mode.get(),
        links: inode.links(),
        uid: inode.i_uid.get(),
        gid: inode.i_gid.get(),
        size: inode.i_size.get(),
        mtime: inode.i_mtime.get(),
        target: is_link.then(|| link(view, inode)).transpose()?,
    })
}

/// The target of a symlink.
fn link(view: View<'_>, inode: &Checked<'_, Dinode>) -> Result<Target, Error> {
    let file = FileReader::open(view, inode)?;
    // A path has at most 4096 bytes.
    let mut bytes = vec![0; cowfs_format::units::index(file.size().min(4096))];
    file.read_at(0, &mut bytes)?;
    Ok(Target::new(bytes))
}

/// A mode as `ls` writes it: `drwxr-sr-t`.
pub(super) fn mode_text(mode: u16) -> String {
    let mut text = String::with_capacity(10);
    text.push(FileType::from_mode(mode).map_or('?', FileType::letter));
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

impl Text for Listing {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for line in &self.entries {
            write!(page, "\t{:<15} ", line.inode)?;
            match &line.facts {
                Some(facts) => {
                    let date = Utc(facts.mtime).to_string();
                    // Without the seconds.
                    let date = date.get(..16).unwrap_or(&date);
                    write!(
                        page,
                        "{} {:>3} {:>5} {:>5} {:>15} {date} ",
                        mode_text(facts.mode),
                        facts.links,
                        facts.uid,
                        facts.gid,
                        facts.size
                    )?;
                }
                None if self.long => write!(page, "?????????? {:>49} ", "")?,
                None => write!(
                    page,
                    "{:<4} {:<4} {:<2} ",
                    line.rec_len, line.name_len, line.file_type
                )?,
            }
            page.name(line.name.text())?;
            if let Some(target) = line.facts.as_ref().and_then(|facts| facts.target.as_ref()) {
                write!(page, " -> ")?;
                page.name(target.text())?;
            }
            writeln!(page)?;
        }
        Ok(())
    }
}

/// The blocks of a directory.
#[derive(JsonSchema, Serialize)]
struct DirBlocks {
    inode: u64,
    blocks: Vec<DirBlock>,
}

/// A block of a directory.
#[derive(JsonSchema, Serialize)]
pub(super) struct DirBlock {
    /// Null for entries in the inode.
    blkno: Option<u64>,
    entries: Vec<Line>,
    trailer: Option<Trailer>,
}

/// The trailer of a block.
#[derive(JsonSchema, Serialize)]
pub(super) struct Trailer {
    blkno: u64,
    parent_inode: u64,
    largest_hole: u16,
    free_next: u64,
    crc32: u32,
    ecc: u16,
}

fn dirblocks(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = session.inode(args.get(0))?;
    let with_trailer = dir::has_trailer(view, &inode);
    let mut faults: Vec<Error> = Vec::new();
    let mut blocks = Vec::new();
    let walked = dir::for_each_area(view, &inode, &mut |area| {
        let area = match area {
            Ok(area) => area,
            Err(error) => {
                faults.push(error);
                return ControlFlow::Continue(());
            }
        };
        let trailer = area.block.filter(|_| with_trailer);
        let trailer = trailer.map(|blkno| trailer_of(view, blkno)).transpose();
        let trailer = trailer.unwrap_or_else(|error| {
            faults.push(error);
            None
        });
        let at = area.block.unwrap_or(inode.blkno());
        let mut block = DirBlock::of(at, area.bytes, trailer, &mut faults);
        block.blkno = area.block.map(|blkno| blkno.0);
        blocks.push(block);
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    let inode = inode.blkno().0;
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(DirBlocks { inode, blocks })))
}

/// The trailer of a directory's block.
pub(super) fn trailer_of(view: View<'_>, blkno: BlockNo) -> Result<Trailer, Error> {
    let trailer = Trailer::of(&view.raw(blkno)?);
    Ok(trailer.ok_or_else(|| FaultKind::OutOfVolume.at(blkno))?)
}

impl Trailer {
    /// The trailer at the end of a block.
    fn of(block: &[u8]) -> Option<Self> {
        let at = block.len().checked_sub(DIR_TRAILER)?;
        let (trailer, _) = DirBlockTrailer::ref_from_prefix(block.get(at..)?).ok()?;
        Some(Self {
            blkno: trailer.db_blkno.get(),
            parent_inode: trailer.db_parent_dinode.get(),
            largest_hole: trailer.db_free_rec_len.get(),
            free_next: trailer.db_free_next.get(),
            crc32: trailer.db_check.bc_crc32.get(),
            ecc: trailer.db_check.bc_ecc.get(),
        })
    }

    pub(super) fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tTrailer Block: {}   Inode: {}   Len: {DIR_TRAILER}",
            self.blkno, self.parent_inode
        )?;
        writeln!(
            page,
            "\tLargest Hole: {}   Next Block: {}",
            self.largest_hole, self.free_next
        )?;
        writeln!(page, "\tCRC32: {:08x}   ECC: {:04x}", self.crc32, self.ecc)
    }
}

impl DirBlock {
    /// A block of which only the bytes are known; its trailer says where it lies.
    pub(super) fn alone(bytes: &[u8], faults: &mut Vec<Error>) -> Option<Self> {
        let trailer = Trailer::of(bytes)?;
        let area = bytes.get(..bytes.len().checked_sub(DIR_TRAILER)?)?;
        let at = BlockNo(trailer.blkno);
        Some(Self::of(at, area, Some(trailer), faults))
    }

    fn of(at: BlockNo, area: &[u8], trailer: Option<Trailer>, faults: &mut Vec<Error>) -> Self {
        let mut entries = Vec::new();
        for entry in dir::entries(area) {
            match entry {
                Ok(entry) => entries.push(Line {
                    inode: entry.inode.0,
                    rec_len: entry.rec_len,
                    name_len: entry.name.len(),
                    file_type: entry.file_type,
                    name: Named::new(entry.name),
                    facts: None,
                }),
                Err(kind) => faults.push(kind.at(at).into()),
            }
        }
        Self {
            blkno: Some(at.0),
            entries,
            trailer,
        }
    }

    pub(super) fn lines(&self, page: &mut Page<'_>) -> io::Result<()> {
        if let Some(trailer) = &self.trailer {
            trailer.lines(page)?;
        }
        writeln!(page, "\tEntries:")?;
        for line in &self.entries {
            write!(
                page,
                "\t{:<15} {:<4} {:<4} {:<2} ",
                line.inode, line.rec_len, line.name_len, line.file_type
            )?;
            page.name(line.name.text())?;
            writeln!(page)?;
        }
        Ok(())
    }
}

impl Text for DirBlocks {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for block in &self.blocks {
            match block.blkno {
                Some(blkno) => writeln!(page, "\tDirblock: {blkno}")?,
                None => writeln!(page, "\tEntries in inode {}", self.inode)?,
            }
            block.lines(page)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::mode_text;

    #[test]
    fn modes_are_written_as_by_ls() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_711, "-rws--x--x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o120_777, "lrwxrwxrwx"),
            (0o000_000, "?---------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }
}
