//! How the map of a volume looks: on a terminal here, as SVG in [`svg`].

mod svg;

use std::io::{self, Write};

use cowfs_format::ops::map::{Cell, Kind, Map};
use cowfs_format::toolkit::size::show_size;

/// Cells of a row where there is no terminal, and in SVG.
pub(crate) const COLUMNS: usize = 64;
/// A cell of which less than one in so many blocks is in use looks free. (There is a group
/// descriptor in every 126 MiB.)
const NEXT_TO_NOTHING: u64 = 256;
/// Characters before the cells of a row.
const MARGIN: usize = 11;

/// What is drawn.
pub(crate) struct Picture {
    /// Label of the volume.
    pub(crate) label: Vec<u8>,
    /// Its size.
    pub(crate) bytes: u64,
    /// log2 of its block size.
    pub(crate) block_bits: u32,
    /// Bytes of a cluster.
    pub(crate) cluster_bytes: u64,
    /// Cells of a row of text.
    pub(crate) columns: usize,
    /// Whether kinds are told by colours.
    pub(crate) colour: bool,
    /// The cells.
    pub(crate) map: Map,
}

/// How broken up the files are in a cell, from 0 (not at all).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wear(pub(crate) u8);

impl Wear {
    /// The wear of a cell: one break in so much file data.
    pub(crate) fn of(cell: &Cell, block_bits: u32) -> Self {
        let bytes = cell.data() << block_bits;
        Self(match bytes.checked_div(cell.breaks) {
            None => 0,
            Some(each) if each >= 64 << 20 => 1,
            Some(each) if each >= 4 << 20 => 2,
            Some(each) if each >= 512 << 10 => 3,
            Some(each) if each >= 64 << 10 => 4,
            Some(_) => 5,
        })
    }

    /// In words.
    pub(crate) const fn title(self) -> &'static str {
        match self.0 {
            0 => "no breaks",
            1 => "up to one in 64 MiB",
            2 => "one in 4 to 64 MiB",
            3 => "one in 512 KiB to 4 MiB",
            4 => "one in 64 to 512 KiB",
            _ => "more than one in 64 KiB",
        }
    }
}

/// Width of the terminal.
pub(crate) fn columns() -> Option<usize> {
    let mut editor = rustyline::DefaultEditor::new().ok()?;
    editor.dimensions().map(|(columns, _)| columns.into())
}

/// Cells of a row on a terminal of this width: a multiple of eight.
pub(crate) fn row_cells(columns: usize) -> usize {
    (columns.saturating_sub(MARGIN + 1) / 8 * 8).clamp(8, 160)
}

/// The letter of a kind.
const fn letter(kind: Kind) -> char {
    match kind {
        Kind::Free => '.',
        Kind::Data => 'd',
        Kind::Shared => 's',
        Kind::SharedMore => 'm',
        Kind::Directory => 'p',
        Kind::Inode => 'i',
        Kind::ExtentBlock => 'e',
        Kind::Xattr => 'x',
        Kind::Refcount => 'r',
        Kind::Room => 'a',
        Kind::Journal => 'j',
        Kind::System => 'y',
        Kind::Descriptor => 'g',
        Kind::Superblock => 'b',
        Kind::Unknown => 'u',
    }
}

/// The colour of a kind, of the 256 that terminals have: those of the SVG, nearly.
const fn colour(kind: Kind) -> u8 {
    match kind {
        Kind::Free => 244,
        Kind::Data => 32,
        Kind::Shared => 169,
        Kind::SharedMore => 127,
        Kind::Directory => 214,
        Kind::Inode => 227,
        Kind::ExtentBlock => 202,
        Kind::Xattr => 36,
        Kind::Refcount => 81,
        Kind::Room => 187,
        Kind::Journal => 142,
        Kind::System => 245,
        Kind::Descriptor => 95,
        Kind::Superblock => 255,
        Kind::Unknown => 196,
    }
}

impl Picture {
    /// Writes rows of cells, each with the place of its first cell.
    pub(crate) fn grid(
        &self,
        page: &mut dyn Write,
        glyph: &dyn Fn(&Cell) -> String,
    ) -> io::Result<()> {
        let cell_bytes = self.map.cell_clusters * self.cluster_bytes;
        for (row, cells) in self.map.cells.chunks(self.columns.max(1)).enumerate() {
            let place = row as u64 * self.columns as u64 * cell_bytes;
            let line: String = cells.iter().map(glyph).collect();
            writeln!(
                page,
                "{:>width$} {line}",
                show_size(place),
                width = MARGIN - 1
            )?;
        }
        Ok(())
    }

    fn paint(&self, kind: Kind, text: &str) -> String {
        if self.colour {
            format!("\x1b[38;5;{}m{text}\x1b[0m", colour(kind))
        } else {
            text.to_owned()
        }
    }

    /// A cell: how full, and of what.
    pub(crate) fn glyph(&self, cell: &Cell) -> String {
        let kind = cell.foremost();
        if cell.used() * NEXT_TO_NOTHING < cell.all() {
            return self.paint(Kind::Free, if self.colour { "·" } else { "." });
        }
        if self.colour {
            let blocks = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
            let level = (cell.used() * 8).div_ceil(cell.all().max(1)).clamp(1, 8);
            let at = usize::try_from(level - 1).unwrap_or(0);
            return self.paint(kind, blocks.get(at).unwrap_or(&"█"));
        }
        let letter = letter(kind);
        if cell.used() * 2 > cell.all() {
            letter.to_ascii_uppercase().to_string()
        } else {
            letter.to_string()
        }
    }

    /// A cell: how broken up its files are.
    pub(crate) fn wear(&self, cell: &Cell) -> String {
        match Wear::of(cell, self.block_bits).0 {
            0 if cell.data() == 0 => " ".to_owned(),
            0 => self.paint(Kind::Free, if self.colour { "·" } else { "." }),
            wear if self.colour => {
                let shade = [227, 220, 214, 208, 202];
                let at = usize::from(wear - 1);
                format!("\x1b[38;5;{}m{wear}\x1b[0m", shade.get(at).unwrap_or(&196))
            }
            wear => wear.to_string(),
        }
    }

    /// A line that tells what stands for a kind, and how much there is of it.
    pub(crate) fn legend(&self, page: &mut dyn Write, kind: Kind, bytes: u64) -> io::Result<()> {
        let sign = if !self.colour {
            letter(kind).to_string()
        } else if kind == Kind::Free {
            "·".to_owned()
        } else {
            "█".to_owned()
        };
        writeln!(
            page,
            "{:>width$} {} {:<27} {}",
            show_size(bytes),
            self.paint(kind, &sign),
            kind.title(),
            percent(bytes, self.bytes),
            width = MARGIN - 1
        )
    }
}

/// A share, with enough digits to tell a little from nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let scaled = u128::from(part) * 10_000 / u128::from(whole.max(1));
    match (part, scaled) {
        (0, _) => "0 %".to_owned(),
        (_, 0) => "< 0.01 %".to_owned(),
        (_, scaled) => format!("{}.{:02} %", scaled / 100, scaled % 100),
    }
}
