//! `du`: the space that files and directories take, to themselves and together with others.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use cowfs_format::ops::usage::{self, Account};
use cowfs_format::read::inode;
use cowfs_format::toolkit::sharing::{Sizes, size};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, flag, operand};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "du",
    aliases: &[],
    options: &[
        flag('r', "recursive", "a line for each directory below as well"),
        flag('a', "all", "a line for each file below as well"),
        flag('b', "bytes", "sizes as numbers of bytes"),
    ],
    operands: &[operand("PATH", OperandKind::File, Count::Optional)],
    summary: "Shows the space of files and directories: theirs alone, and shared.",
    about: "Apparent is the sum of the sizes; Allocated, the clusters that the files map, as often \
            as they map them; Exclusive, what would become free if PATH were removed: clusters that \
            nothing outside of it maps, of files that have no name outside of it; Shared, all other \
            clusters that it maps, once each. Exclusive and Shared together are the different \
            clusters that PATH maps. Inodes and other single blocks of metadata (Metadata) lie in \
            clusters of the allocators below // and are counted there. A file with several names \
            counts once in a directory. Without PATH, accounts for the whole volume: /, //, what \
            belongs to no file, and the sum, which is what the cluster bitmap has in use. Memory \
            grows with the number of shared ranges whose other owners the walk has not met.",
    needs: Needs::Volume,
    says: |generator| schema::rows::<Line>(generator, "entries", schema::optional::<Volume>),
    run: du,
}];

/// A line: a file or directory and what it takes.
#[derive(JsonSchema, Serialize)]
struct Line {
    #[serde(flatten)]
    path: PathNamed,
    inode: u64,
    directory: bool,
    #[serde(flatten)]
    sizes: Sizes,
    #[serde(skip)]
    exact: bool,
    /// Whether the text begins with the names of the columns.
    #[serde(skip)]
    first: bool,
}

/// What belongs to no file, and the sum over the volume.
#[derive(JsonSchema, Serialize)]
struct Volume {
    fixed: Vec<Fixed>,
    total: Sizes,
    /// What the cluster bitmap has in use.
    used_bytes: u64,
    /// What of it nothing here accounts for.
    unaccounted_bytes: i64,
    #[serde(skip)]
    exact: bool,
}

/// An area that belongs to no file.
#[derive(JsonSchema, Serialize)]
struct Fixed {
    name: &'static str,
    bytes: u64,
}

fn du(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let whole = args.all().is_empty();
    let given: Vec<Vec<u8>> = if whole {
        vec![b"/".to_vec(), b"//".to_vec()]
    } else {
        args.all().to_vec()
    };
    let starts: Result<Vec<(Vec<u8>, BlockNo)>> = given
        .into_iter()
        .map(|path| session.find(&path).map(|inode| (path, inode)))
        .collect();
    let starts = starts?;
    let (files, below) = (args.has('a'), args.has('a') || args.has('r'));
    let geo = *session.view()?.geo();
    let exact = args.has('b');
    session.scanner()?;
    let (scanner, view, mut rows) = session.rows("entries")?;
    let mut all = Account::default();
    let mut first = true;
    for (path, start) in starts {
        let mut written = Ok(());
        let account = usage::subtree(scanner, view, start, files, |line| {
            let line = match line {
                Ok(line) => line,
                Err((node, error)) => {
                    let at = PathNamed::new(joined(&path, &node.path));
                    let at = String::from_utf8_lossy(&at.text().0).into_owned();
                    rows.fault(format_args!("{at}: {error}"));
                    return ControlFlow::Continue(());
                }
            };
            let top = line.node.depth == 0;
            if !below && !top {
                return ControlFlow::Continue(());
            }
            written = rows.row(&Line {
                path: PathNamed::new(joined(&path, &line.node.path)),
                inode: line.node.blkno.0,
                directory: line.directory,
                sizes: Sizes::of(line.usage, &geo),
                exact,
                first: std::mem::take(&mut first),
            });
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        written?;
        all.merge(account);
    }
    if !whole {
        return Ok(None);
    }
    let bitmap = inode::read(view, system::find(view, SystemFile::GlobalBitmap)?)?;
    let fixed = usage::fixed(view);
    let mut usage = all.usage();
    let area = |name, clusters: u64| Fixed {
        name,
        bytes: clusters << geo.cluster_bits(),
    };
    let areas = vec![
        area("superblock", fixed.superblock),
        area("group descriptors", fixed.group_descriptors),
        area("backup superblocks", fixed.backups),
    ];
    usage.allocated += fixed.all();
    usage.exclusive += fixed.all();
    let used = u64::from(bitmap.bitmap_used());
    let missed = used.cast_signed() - (usage.exclusive + usage.shared).cast_signed();
    Ok(Some(Box::new(Volume {
        fixed: areas,
        total: Sizes::of(usage, &geo),
        used_bytes: used << geo.cluster_bits(),
        unaccounted_bytes: missed.saturating_mul(1 << geo.cluster_bits()),
        exact,
    })))
}

/// A path below the one that was given.
fn joined(start: &[u8], below: &[u8]) -> Vec<u8> {
    let slash = !below.is_empty() && !start.ends_with(b"/");
    [start, if slash { b"/" } else { b"" }, below].concat()
}

impl Text for Line {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.first {
            writeln!(page, "{}  Path", Sizes::head())?;
        }
        write!(page, "{}  ", self.sizes.columns(self.exact))?;
        page.name(self.path.text())?;
        writeln!(page)
    }
}

impl Text for Volume {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for Fixed { name, bytes } in &self.fixed {
            let bytes = size(*bytes, self.exact);
            let blank = "";
            writeln!(
                page,
                "{blank:>12} {bytes:>12} {bytes:>12} {blank:>12} {blank:>12}  ({name})"
            )?;
        }
        writeln!(page, "{}  total", self.total.columns(self.exact))?;
        if self.unaccounted_bytes != 0 {
            let used = size(self.used_bytes, self.exact);
            let missed = size(self.unaccounted_bytes.unsigned_abs(), self.exact);
            let than = if self.unaccounted_bytes > 0 {
                "more"
            } else {
                "less"
            };
            writeln!(
                page,
                "The cluster bitmap has {used} in use, {missed} {than} than this; fsck.cowfs -n says why."
            )?;
        }
        Ok(())
    }
}
