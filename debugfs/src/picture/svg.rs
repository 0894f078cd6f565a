//! The map as an SVG that stands alone: no script, no font or style from elsewhere.
//!
//! Colours follow the reader's choice of dark or light. No kind is told by its colour alone: shared
//! data is hatched, the parts of a cell stand in a fixed order, and figures appear at the pointer.

use std::fmt::Write as _;
use std::io::{self, Write};

use cowfs_format::ops::map::{Cell, Kind};
use cowfs_format::toolkit::size::show_size;

use super::{COLUMNS, Picture, Wear, percent};

/// Side of a cell.
const SIDE: u64 = 16;
/// From one cell to the next.
const STEP: u64 = 18;
/// Height of a cell of the second picture.
const LOW: u64 = 8;
/// Where pictures begin, behind the labels of their rows.
const LEFT: u64 = 84;
const WIDTH: u64 = LEFT + COLUMNS as u64 * STEP + 24;

/// The kinds from the bottom of a cell to its top.
const STACK: [Kind; 14] = [
    Kind::Superblock,
    Kind::Descriptor,
    Kind::Journal,
    Kind::System,
    Kind::Inode,
    Kind::Directory,
    Kind::ExtentBlock,
    Kind::Xattr,
    Kind::Refcount,
    Kind::Room,
    Kind::Unknown,
    Kind::SharedMore,
    Kind::Shared,
    Kind::Data,
];

/// Light and dark colour of each kind: told apart by people who see few colours, too.
const fn colours(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Free => ("#e9ecef", "#2b3036"),
        Kind::Data => ("#0072b2", "#3a9bd9"),
        Kind::Shared => ("#cc79a7", "#e39bc4"),
        Kind::SharedMore => ("#882255", "#c2528d"),
        Kind::Directory => ("#e69f00", "#f0b432"),
        Kind::Inode => ("#d8c820", "#f0e442"),
        Kind::ExtentBlock => ("#d55e00", "#ee7f2d"),
        Kind::Xattr => ("#009e73", "#2ec79b"),
        Kind::Refcount => ("#56b4e9", "#8fd0f5"),
        Kind::Room => ("#c9c29b", "#77724f"),
        Kind::Journal => ("#7a7a1f", "#adad3d"),
        Kind::System => ("#868e96", "#98a1a9"),
        Kind::Descriptor => ("#7b4f3a", "#b07f66"),
        Kind::Superblock => ("#111111", "#ffffff"),
        Kind::Unknown => ("#e00000", "#ff4d4d"),
    }
}

/// Light and dark colour of each grade of wear.
const WEAR: [(&str, &str); 6] = [
    ("#e9ecef", "#2b3036"),
    ("#fde0a8", "#5a4416"),
    ("#fbb65e", "#8a5a14"),
    ("#ee7f2d", "#bd6416"),
    ("#cc4c02", "#e5702a"),
    ("#8c2d04", "#ffa46b"),
];

/// Where a cell is drawn.
#[derive(Clone, Copy)]
struct Spot {
    /// Its first byte.
    offset: u64,
    x: u64,
    y: u64,
}

type DrawCell<'a> = dyn FnMut(&mut dyn Write, &Cell, Spot) -> io::Result<()> + 'a;

impl Picture {
    /// Writes the drawing.
    pub(crate) fn svg(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.map.cells.len().div_ceil(COLUMNS) as u64;
        let shown: Vec<Kind> = (Kind::ALL.into_iter())
            .filter(|kind| self.map.total.of(*kind) > 0)
            .collect();
        let legend_rows = shown.len().div_ceil(3) as u64;
        let bar = 84;
        let legend = bar + 50;
        let first = legend + legend_rows * 22 + 40;
        let second = first + rows * STEP + 62;
        let end = second + rows * (LOW + 2) + 40;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{end}\" \
             viewBox=\"0 0 {WIDTH} {end}\" role=\"img\" aria-labelledby=\"t d\">"
        )?;
        let name = self.name();
        writeln!(out, "<title id=\"t\">Map of {name}</title>")?;
        writeln!(out, "<desc id=\"d\">{}</desc>", self.sentence())?;
        self.style(out)?;
        writeln!(
            out,
            "<rect class=\"page\" width=\"{WIDTH}\" height=\"{end}\"/>"
        )?;
        writeln!(out, "<text class=\"h\" x=\"24\" y=\"40\">{name}</text>")?;
        writeln!(
            out,
            "<text class=\"n\" x=\"24\" y=\"64\">{}</text>",
            self.sentence()
        )?;
        self.bar(out, bar)?;
        for (n, kind) in shown.iter().enumerate() {
            let (column, row) = (n as u64 / legend_rows, n as u64 % legend_rows);
            self.entry(out, *kind, 24 + column * 400, legend + row * 22)?;
        }
        let cell_bytes = self.map.cell_clusters * self.cluster_bytes;
        writeln!(
            out,
            "<text class=\"s\" x=\"24\" y=\"{}\">What lies where: each cell is {}, filled from \
             below as far as it is in use; the pointer shows figures</text>",
            first - 14,
            show_size(cell_bytes)
        )?;
        self.cells(out, first, STEP, &mut |out, cell, spot| {
            self.cell(out, cell, spot)
        })?;
        writeln!(
            out,
            "<text class=\"s\" x=\"24\" y=\"{}\">Breaks, where a file that goes on elsewhere goes \
             on here, by the file data of a cell</text>",
            second - 34
        )?;
        for grade in 0..6_u8 {
            let x = LEFT + u64::from(grade) * 192;
            let words = Wear(grade).title();
            writeln!(
                out,
                "<rect class=\"w{grade}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\"/>\
                 <text class=\"t\" x=\"{}\" y=\"{}\">{words}</text>",
                second - 24,
                x + 16,
                second - 14
            )?;
        }
        self.cells(out, second, LOW + 2, &mut |out, cell, spot| {
            let grade = Wear::of(cell, self.block_bits);
            let words = grade.title();
            let some = if cell.data() == 0 { "v" } else { "" };
            let Spot { offset, x, y } = spot;
            writeln!(
                out,
                "<rect class=\"w{}{some}\" x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{LOW}\">\
                 <title>From {} on: {} breaks in {} of file data: {words}</title></rect>",
                grade.0,
                show_size(offset),
                cell.breaks,
                show_size(cell.data() << self.block_bits)
            )
        })?;
        writeln!(
            out,
            "<text class=\"t\" x=\"24\" y=\"{}\">{}</text>\n</svg>",
            end - 16,
            self.foot()
        )
    }

    fn name(&self) -> String {
        let label = String::from_utf8_lossy(&self.label);
        let size = show_size(self.bytes);
        if label.is_empty() {
            return format!("A volume of {size}");
        }
        format!("{}, {size}", escaped(&label))
    }

    fn sentence(&self) -> String {
        let used = self.map.total.used() << self.block_bits;
        let bits = self.block_bits;
        let shared = self.map.total.of(Kind::Shared) + self.map.total.of(Kind::SharedMore);
        format!(
            "{} in use ({}), {} of it shared between files; clusters of {}, blocks of {}",
            show_size(used),
            share(used, self.bytes),
            show_size(shared << bits),
            show_size(self.cluster_bytes),
            show_size(1 << bits)
        )
    }

    fn foot(&self) -> String {
        let map = &self.map;
        format!(
            "{} files with clusters, {} of them in more than one piece, {} breaks; {} runs of free \
             clusters, the longest {}",
            map.files,
            map.broken_files,
            map.total.breaks,
            map.total.free_runs,
            show_size(map.longest_free << self.block_bits)
        )
    }

    fn style(&self, out: &mut dyn Write) -> io::Result<()> {
        let (mut light, mut dark) = (String::new(), String::new());
        let mut class = |name: String, (day, night): (&str, &str)| {
            let _ = write!(light, ".{name}{{fill:{day}}}");
            let _ = write!(dark, ".{name}{{fill:{night}}}");
        };
        class("page".to_owned(), ("#ffffff", "#16191d"));
        class("h,.n,.s,.t".to_owned(), ("#1c1f23", "#e6e9ec"));
        for kind in Kind::ALL {
            class(format!("k{}", number(kind)), colours(kind));
        }
        for (grade, both) in WEAR.into_iter().enumerate() {
            class(format!("w{grade}"), both);
        }
        class("w0v".to_owned(), ("#f6f7f8", "#1d2125"));
        writeln!(
            out,
            "<style>text{{font-family:system-ui,'DejaVu Sans',sans-serif}}.h{{font-size:26px;\
             font-weight:600}}.n{{font-size:15px}}.s{{font-size:15px;font-weight:600}}\
             .t{{font-size:12px}}.r{{font-size:11px;text-anchor:end}}.e{{text-anchor:end}}\
             .hatch{{stroke:#fff;stroke-opacity:.55;stroke-width:1.6}}{light}\
             @media(prefers-color-scheme:dark){{{dark}.hatch{{stroke:#000;stroke-opacity:.5}}}}\
             g:hover>rect{{stroke:#888;stroke-width:.6}}</style>"
        )?;
        writeln!(
            out,
            "<defs><pattern id=\"h\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><path class=\"hatch\" d=\"M0 0V4\"/></pattern></defs>"
        )
    }

    /// The whole volume in one bar.
    fn bar(&self, out: &mut dyn Write, y: u64) -> io::Result<()> {
        let (height, width) = (26, WIDTH - 48);
        let kinds = STACK.into_iter().chain([Kind::Free]);
        let parts: Vec<(Kind, u64)> = kinds.map(|k| (k, self.map.total.of(k))).collect();
        let mut x = 24;
        for (kind, part, long) in spread(&parts, self.map.total.all(), width) {
            let bytes = part << self.block_bits;
            writeln!(
                out,
                "<g><title>{}: {} ({})</title>",
                kind.title(),
                show_size(bytes),
                share(bytes, self.bytes)
            )?;
            rect(out, kind, (x, y), (long, height))?;
            writeln!(out, "</g>")?;
            x += long;
        }
        Ok(())
    }

    fn entry(&self, out: &mut dyn Write, kind: Kind, x: u64, y: u64) -> io::Result<()> {
        rect(out, kind, (x, y - 11), (14, 14))?;
        let bytes = self.map.total.of(kind) << self.block_bits;
        writeln!(
            out,
            "<text class=\"t\" x=\"{}\" y=\"{y}\">{}</text>\
             <text class=\"t e\" x=\"{}\" y=\"{y}\">{}</text>\
             <text class=\"t e\" x=\"{}\" y=\"{y}\">{}</text>",
            x + 22,
            kind.title(),
            x + 290,
            show_size(bytes),
            x + 360,
            share(bytes, self.bytes)
        )
    }

    /// Rows of cells with the places where they begin.
    fn cells(
        &self,
        out: &mut dyn Write,
        top: u64,
        step: u64,
        draw: &mut DrawCell<'_>,
    ) -> io::Result<()> {
        let cell_bytes = self.map.cell_clusters * self.cluster_bytes;
        for (row, cells) in self.map.cells.chunks(COLUMNS).enumerate() {
            let y = top + row as u64 * step;
            if step >= STEP || row % 2 == 0 {
                writeln!(
                    out,
                    "<text class=\"t r\" x=\"{}\" y=\"{}\">{}</text>",
                    LEFT - 8,
                    y + step.min(STEP) / 2 + 3,
                    show_size(row as u64 * COLUMNS as u64 * cell_bytes)
                )?;
            }
            for (column, cell) in cells.iter().enumerate() {
                let number = (row * COLUMNS + column) as u64;
                let spot = Spot {
                    offset: number * cell_bytes,
                    x: LEFT + column as u64 * STEP,
                    y,
                };
                draw(out, cell, spot)?;
            }
        }
        Ok(())
    }

    fn cell(&self, out: &mut dyn Write, cell: &Cell, spot: Spot) -> io::Result<()> {
        let Spot { offset, x, y } = spot;
        let mut words = String::new();
        for kind in Kind::ALL.into_iter().filter(|kind| cell.of(*kind) > 0) {
            let blocks = cell.of(kind);
            let _ = write!(
                words,
                "\n{}: {} ({})",
                kind.title(),
                show_size(blocks << self.block_bits),
                share(blocks, cell.all())
            );
        }
        if cell.free_runs > 0 {
            let longest = show_size(cell.longest_free << self.block_bits);
            let _ = write!(
                words,
                "\n{} free runs, the longest {longest}",
                cell.free_runs
            );
        }
        if cell.breaks > 0 {
            let _ = write!(words, "\n{} breaks in files", cell.breaks);
        }
        let parts: Vec<(Kind, u64)> = STACK.iter().map(|kind| (*kind, cell.of(*kind))).collect();
        let used = share(cell.used(), cell.all());
        let used = format!("From {} on: {used} in use", show_size(offset));
        write!(out, "<g><title>{used}{words}</title>")?;
        rect(out, Kind::Free, (x, y), (SIDE, SIDE))?;
        let mut bottom = y + SIDE;
        for (kind, _, high) in spread(&parts, cell.all(), SIDE) {
            bottom -= high;
            rect(out, kind, (x, bottom), (SIDE, high))?;
        }
        writeln!(out, "</g>")
    }
}

/// Lengths for parts of a whole: each that there is gets one at least, and together they fit.
fn spread(parts: &[(Kind, u64)], whole: u64, room: u64) -> Vec<(Kind, u64, u64)> {
    let mut found: Vec<(Kind, u64, u64)> = (parts.iter())
        .filter(|(_, part)| *part > 0)
        .map(|(kind, part)| {
            let scaled = (u128::from(*part) * u128::from(room) + u128::from(whole) / 2)
                / u128::from(whole.max(1));
            (*kind, *part, u64::try_from(scaled).unwrap_or(room).max(1))
        })
        .collect();
    let mut over = found
        .iter()
        .map(|part| part.2)
        .sum::<u64>()
        .saturating_sub(room);
    while over > 0 {
        let Some(longest) = found
            .iter_mut()
            .max_by_key(|part| part.2)
            .filter(|part| part.2 > 1)
        else {
            break;
        };
        longest.2 -= 1;
        over -= 1;
    }
    found
}

fn number(kind: Kind) -> usize {
    Kind::ALL
        .iter()
        .position(|known| *known == kind)
        .unwrap_or(0)
}

fn rect(
    out: &mut dyn Write,
    kind: Kind,
    (x, y): (u64, u64),
    (width, height): (u64, u64),
) -> io::Result<()> {
    let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
    write!(out, "<rect class=\"k{}\" {place}/>", number(kind))?;
    if matches!(kind, Kind::Shared | Kind::SharedMore) {
        write!(out, "<rect fill=\"url(#h)\" {place}/>")?;
    }
    Ok(())
}

/// A share, for XML.
fn share(part: u64, whole: u64) -> String {
    escaped(&percent(part, whole))
}

/// Text for XML. Characters that XML has no place for are left out.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => {}
            c => safe.push(c),
        }
    }
    safe
}
