//! `map`: a picture of the volume, on a terminal, as an SVG file, or as numbers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::ops::map::{self, Cell, Kind, Map};
use cowfs_format::toolkit::size::show_size;
use schemars::JsonSchema;
use serde::Serialize;

use crate::picture::{self, Picture};
use crate::report::{Label, Page, Report, Text};
use crate::schema;
use crate::session::{Session, number};
use crate::table::{Args, Command, Needs, Opt};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "map",
    aliases: &[],
    options: &[
        Opt {
            short: 'g',
            long: "svg",
            value: Some("HOST"),
            help: "draw it into this file of the host, for a browser",
        },
        Opt {
            short: 'n',
            long: "cells",
            value: Some("NUMBER"),
            help: "cut the volume into at most so many parts [1024, or what fits the terminal]",
        },
    ],
    operands: &[],
    summary: "Draws the volume: what lies where, what is shared, and how it is broken up.",
    about: "Cuts the volume into equal cells and counts, block by block, what each holds: file \
            data by the number of its mappings, every kind of metadata, journals, what is free. \
            On a terminal the height of a cell is how full it is and its colour what most of it \
            is (none with NO_COLOR set); elsewhere a letter tells the kind, a capital one that the \
            cell is more than half full. What is less than one part in 256 is not shown there. The second picture shows breaks: places where a file \
            that goes on elsewhere goes on here: 1 for up to one in 64 MiB of the file data there, 2 \
            in 4 MiB, 3 in 512 KiB, 4 in 64 KiB, 5 for more. The SVG shows the parts of \
            each cell, with figures at the pointer. Memory does not grow with the volume.",
    says: schema::of::<Drawn>,
    needs: Needs::Volume,
    run: draw,
}];

/// The map as data; sizes in bytes.
#[derive(JsonSchema, Serialize)]
struct Drawn {
    #[serde(flatten)]
    label: Label,
    bytes: u64,
    cell_bytes: u64,
    used_bytes: u64,
    kinds: Vec<Sum>,
    /// Regular files with clusters, those in more than one piece, and the places where they break.
    files: u64,
    broken_files: u64,
    breaks: u64,
    free_runs: u64,
    longest_free_bytes: u64,
    cells: Vec<Part>,
    #[serde(skip)]
    picture: Picture,
    /// Where the SVG was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    svg: Option<String>,
}

/// What of the volume is of a kind.
#[derive(JsonSchema, Serialize)]
struct Sum {
    kind: &'static str,
    title: &'static str,
    bytes: u64,
}

/// A cell.
#[derive(JsonSchema, Serialize)]
struct Part {
    offset: u64,
    bytes: u64,
    /// The kinds that there are, and their bytes.
    kinds: Vec<Share>,
    breaks: u64,
    free_runs: u64,
    longest_free_bytes: u64,
}

#[derive(JsonSchema, Serialize)]
struct Share {
    kind: &'static str,
    bytes: u64,
}

/// Cells when nothing says how many.
const CELLS: u32 = 1024;
/// Most cells that can be asked for.
const MOST: u64 = 1 << 20;

fn draw(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let columns = if session.terminal {
        picture::columns()
    } else {
        None
    };
    let fits = columns.map_or(picture::COLUMNS, picture::row_cells);
    let cells = match args.value('n') {
        Some(word) => {
            let cells = number(word)?;
            if cells == 0 || cells > MOST {
                bail!("a map has 1 to {MOST} cells");
            }
            u32::try_from(cells).unwrap_or(CELLS)
        }
        None if args.value('g').is_some() || session.json => CELLS,
        None => u32::try_from(fits * 16).unwrap_or(CELLS),
    };
    session.scanner()?;
    let (scanner, view) = session.scan()?;
    let (map, failed) = map::map(scanner, view, cells);
    let geo = *view.geo();
    let label = view.info().label.clone();
    let picture = Picture {
        label: label.clone(),
        bytes: geo.bytes(),
        block_bits: geo.block_bits(),
        cluster_bytes: geo.cluster_bytes(),
        columns: fits,
        colour: session.terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        map,
    };
    let mut svg = None;
    if let Some(host) = args.value('g') {
        let path = session.host_dir.join(OsStr::from_bytes(host));
        let place = || format!("cannot write {}", path.display());
        let mut file = BufWriter::new(File::create(&path).with_context(place)?);
        picture
            .svg(&mut file)
            .and_then(|()| file.flush())
            .with_context(place)?;
        svg = Some(path.display().to_string());
    }
    for fault in failed {
        session.fault(fault);
    }
    Ok(Some(Box::new(drawn(picture, label, svg))))
}

fn drawn(picture: Picture, label: Vec<u8>, svg: Option<String>) -> Drawn {
    let bits = picture.block_bits;
    let map: &Map = &picture.map;
    let cell_bytes = map.cell_clusters * picture.cluster_bytes;
    let sum = |kind: Kind| Sum {
        kind: kind.key(),
        title: kind.title(),
        bytes: map.total.of(kind) << bits,
    };
    let part = |(number, cell): (u64, &Cell)| Part {
        offset: number * cell_bytes,
        bytes: cell.all() << bits,
        kinds: (Kind::ALL.into_iter())
            .filter(|kind| cell.of(*kind) > 0)
            .map(|kind| Share {
                kind: kind.key(),
                bytes: cell.of(kind) << bits,
            })
            .collect(),
        breaks: cell.breaks,
        free_runs: cell.free_runs,
        longest_free_bytes: cell.longest_free << bits,
    };
    Drawn {
        label: Label::new(label),
        bytes: picture.bytes,
        cell_bytes,
        used_bytes: map.total.used() << bits,
        kinds: Kind::ALL.into_iter().map(sum).collect(),
        files: map.files,
        broken_files: map.broken_files,
        breaks: map.total.breaks,
        free_runs: map.total.free_runs,
        longest_free_bytes: map.longest_free << bits,
        cells: (0..).zip(&map.cells).map(part).collect(),
        svg,
        picture,
    }
}

impl Text for Drawn {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if let Some(svg) = &self.svg {
            return writeln!(page, "Drew {} cells into {svg}", self.cells.len());
        }
        let picture = &self.picture;
        writeln!(
            page,
            "{} in {} cells of {}, {} in use",
            show_size(self.bytes),
            self.cells.len(),
            show_size(self.cell_bytes),
            show_size(self.used_bytes)
        )?;
        picture.grid(page, &|cell| picture.glyph(cell))?;
        for (kind, sum) in Kind::ALL.into_iter().zip(&self.kinds) {
            if sum.bytes > 0 {
                picture.legend(page, kind, sum.bytes)?;
            }
        }
        if picture.map.total.breaks > 0 {
            writeln!(page, "\nBreaks in files:")?;
            picture.grid(page, &|cell| picture.wear(cell))?;
        }
        writeln!(
            page,
            "{} files with clusters, {} of them in more than one piece; {} breaks",
            self.files, self.broken_files, self.breaks
        )?;
        writeln!(
            page,
            "{} runs of free clusters, the longest {}",
            self.free_runs,
            show_size(self.longest_free_bytes)
        )
    }
}
