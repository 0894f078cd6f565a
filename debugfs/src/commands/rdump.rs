//! `rdump`: subtrees as files of the host.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::read::inode;
use cowfs_format::toolkit::report::PathText;
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::tree::{self, Event, Node};
use schemars::JsonSchema;
use serde::Serialize;

use crate::out::host::Tree;
use crate::out::source::{Body, Taken, Taker, lost};
use crate::out::{self, CHUNK};
use crate::report::{Page, PathNamed, Report, Rows, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BEST_EFFORT, Command, Count, Needs, OperandKind, flag, operand};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "rdump",
    aliases: &[],
    options: &[
        BEST_EFFORT,
        flag('v', "verbose", "show the paths as they are made"),
    ],
    operands: &[
        operand("FILE", OperandKind::File, Count::Many),
        operand("HOSTDIR", OperandKind::Host, Count::One),
    ],
    summary: "Copies files and directories with all that is in them into a directory of the host.",
    about: "Each FILE becomes a file of its name in HOSTDIR, which must exist; the root directory \
            (and `.` and `..`) becomes what is in it. Contents, holes, links, devices, FIFOs, \
            sockets, owners, modes, times, attributes and ACLs are copied. Nothing that exists is \
            written over, and nothing is written outside of HOSTDIR, whatever the names and links \
            on the volume. Who is not root cannot set owners, which is said once, nor make \
            devices or set some attributes, which counts as failed. A file that cannot be read \
            whole is named and left out, or with -b made with holes in place of what is lost.",
    needs: Needs::Volume,
    says: |generator| schema::rows::<Made>(generator, "paths", schema::of::<Copied>),
    run: rdump,
}];

/// A path that was made, below the directory of the host.
#[derive(JsonSchema, Serialize)]
struct Made {
    #[serde(flatten)]
    path: PathNamed,
}

impl Text for Made {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.name(self.path.text())?;
        writeln!(page)
    }
}

/// What was copied.
#[derive(Default, JsonSchema, Serialize)]
struct Copied {
    directories: u64,
    files: u64,
    hard_links: u64,
    /// Bytes of data; holes do not count.
    data_bytes: u64,
    unset: NotSet,
}

/// What the host did not let be set.
#[derive(Default, JsonSchema, Serialize)]
struct NotSet {
    owners: u64,
    devices: u64,
    xattrs: u64,
}

impl Text for Copied {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn rdump(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let Some((host, specs)) = args.all().split_last() else {
        bail!("operands are missing");
    };
    let host = session.host_dir.join(OsStr::from_bytes(host));
    let mut starts = Vec::new();
    for spec in specs {
        let start = session.find(spec)?;
        let directory =
            inode::read(session.view()?, start)?.file_type() == Some(FileType::Directory);
        starts.push((&spec[..], start, name_of(spec, directory)?));
    }
    let tree = Tree::open(&host).with_context(|| host.display().to_string())?;
    session.scanner()?;
    let verbose = args.has('v');
    let (scanner, view, rows) = session.rows("paths")?;
    let taker = Taker::new(view, args.has('b'));
    let mut copier = Copier {
        view,
        taker: &taker,
        salvage: args.has('b'),
        rows,
        verbose,
        tree,
        spec: &[],
        top: None,
        open: Vec::new(),
        skip: None,
        links: HashMap::new(),
        copied: Copied::default(),
        buf: Vec::new(),
    };
    for (spec, start, name) in starts {
        (copier.spec, copier.top) = (spec, name);
        let mut failed = Ok(());
        tree::walk(
            scanner,
            view,
            start,
            |_, inode| taker.take(inode),
            |event| match copier.told(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            },
        );
        failed?;
    }
    let (mut copied, unset) = (copier.copied, copier.tree.unset);
    copied.unset = NotSet {
        owners: unset.owners,
        devices: unset.devices,
        xattrs: unset.xattrs,
    };
    if unset.owners > 0 {
        session.note(format!(
            "{} files belong to you and not to their owners, which only root can set",
            unset.owners
        ));
    }
    if unset.devices > 0 {
        session.fault(format!(
            "{} devices were not made, which only root can do",
            unset.devices
        ));
    }
    if let Some(first) = unset.xattr {
        let count = unset.xattrs;
        session.fault(format!(
            "{count} attributes were not set; the first is {first}"
        ));
    }
    Ok(Some(Box::new(copied)))
}

/// The name that a copy gets; none when what is inside goes straight into the directory.
fn name_of(spec: &[u8], directory: bool) -> Result<Option<Vec<u8>>> {
    let last = spec.rsplit(|&b| b == b'/').find(|part| !part.is_empty());
    match last {
        None | Some(b"." | b"..") if directory => Ok(None),
        None | Some(b"." | b"..") => bail!("{}: it has no name", spec.escape_ascii()),
        Some(name) => Ok(Some(name.to_vec())),
    }
}

/// Makes files as the walk finds them.
struct Copier<'v, 'a> {
    view: View<'v>,
    taker: &'a Taker<'v>,
    salvage: bool,
    rows: Rows<'a>,
    verbose: bool,
    tree: Tree,
    /// What is being copied, as it was given, and the name that its copy gets.
    spec: &'a [u8],
    top: Option<Vec<u8>>,
    /// The directories that were entered, with what they will be given when they are left.
    open: Vec<(Vec<u8>, Taken)>,
    /// Depth of a directory that could not be made; what is inside is passed over.
    skip: Option<usize>,
    /// Files that may have more names: the parts of the path of the first copy.
    links: HashMap<BlockNo, Vec<Vec<u8>>>,
    copied: Copied,
    buf: Vec<u8>,
}

impl Copier<'_, '_> {
    fn told(&mut self, event: Event<Taken>) -> io::Result<()> {
        match event {
            Event::Found(node, taken) => self.found(&node, taken),
            Event::Left(node) => {
                self.left(&node);
                Ok(())
            }
            Event::Failed(node, error) => {
                self.fault(&node, &error);
                Ok(())
            }
        }
    }

    fn fault(&mut self, node: &Node, what: &dyn std::fmt::Display) {
        let spec = self.spec.strip_suffix(b"/").unwrap_or(self.spec);
        let path = if node.path.is_empty() && !spec.is_empty() {
            spec.to_vec()
        } else {
            [spec, b"/", &node.path].concat()
        };
        self.rows
            .fault(format_args!("{}: {what}", PathText(path).shown()));
    }

    fn found(&mut self, node: &Node, taken: Taken) -> io::Result<()> {
        if self.skip.is_some_and(|depth| node.depth > depth) {
            self.taker.release(&taken);
            return Ok(());
        }
        self.skip = None;
        for fault in &taken.faults {
            self.fault(node, fault);
        }
        let name = if node.path.is_empty() {
            match self.top.clone() {
                Some(name) => name,
                // The directory of the host stands for it.
                None => return Ok(()),
            }
        } else {
            node.name().to_vec()
        };
        let directory = matches!(taken.body, Body::Directory);
        let made = self.make(node, &name, &taken);
        self.taker.release(&taken);
        match made {
            Ok(true) if self.verbose => self.row(&name)?,
            Ok(_) => {}
            Err(error) => {
                if directory {
                    self.skip = Some(node.depth);
                }
                self.fault(node, &format_args!("left out: {error:#}"));
                return Ok(());
            }
        }
        if directory {
            self.open.push((name, taken));
        }
        Ok(())
    }

    fn row(&mut self, name: &[u8]) -> io::Result<()> {
        let path = [&self.parts()[..], &[name.to_vec()]].concat().join(&b'/');
        let path = PathNamed::new(path);
        self.rows.row(&Made { path })
    }

    /// The parts of the current path below the directory of the host.
    fn parts(&self) -> Vec<Vec<u8>> {
        self.open.iter().map(|(name, _)| name.clone()).collect()
    }

    fn left(&mut self, node: &Node) {
        if self.skip.is_some_and(|depth| node.depth > depth) {
            return;
        }
        // One that could not be made was never entered.
        let refused = self.skip.take().is_some();
        if refused || node.path.is_empty() && self.top.is_none() {
            return;
        }
        if let Some((_, taken)) = self.open.pop()
            && let Err(error) = self.tree.leave(&taken)
        {
            self.fault(node, &error);
        }
    }

    /// Makes a file; false when it could not be made for want of rights, which is told later.
    fn make(&mut self, node: &Node, name: &[u8], taken: &Taken) -> Result<bool> {
        if let Body::Refused(why) = &taken.body {
            bail!("{why}");
        }
        if matches!(taken.body, Body::Directory) {
            self.tree.enter(name)?;
            self.copied.directories += 1;
            return Ok(true);
        }
        let several = taken.links > 1;
        if several && let Some(first) = self.links.get(&node.blkno) {
            self.tree.link(first, name)?;
            self.copied.hard_links += 1;
            return Ok(true);
        }
        if !matches!(taken.body, Body::Small(_) | Body::Large) {
            if !self.tree.node(name, taken)? {
                return Ok(false);
            }
        } else {
            let file = self.tree.create(name)?;
            if let Err(error) = self.fill(node, &file, taken) {
                self.tree.remove(name)?;
                return Err(error);
            }
            self.tree.finish(&file, taken)?;
        }
        self.copied.files += 1;
        if several {
            let mut path = self.parts();
            path.push(name.to_vec());
            self.links.insert(node.blkno, path);
        }
        Ok(true)
    }

    /// Writes the contents of a file; holes stay holes.
    fn fill(&mut self, node: &Node, host: &File, taken: &Taken) -> Result<()> {
        if let Body::Small(bytes) = &taken.body {
            host.write_all_at(bytes, 0)?;
            self.copied.data_bytes += bytes.len() as u64;
            return Ok(());
        }
        let inode = inode::read(self.view, node.blkno)?;
        let file = self.taker.contents(&inode)?;
        host.set_len(file.size())?;
        let mut gaps = Vec::new();
        for segment in file.segments() {
            if segment.blkno.is_none() && !file.is_inline() {
                continue;
            }
            let mut done = 0;
            while done < segment.len {
                self.buf.resize(index((segment.len - done).min(CHUNK)), 0);
                out::prefetch(self.view, &segment, done);
                let at = segment.offset + done;
                file.read_around(at, &mut self.buf, &mut gaps);
                if let Some(gap) = gaps.first().filter(|_| !self.salvage) {
                    bail!("{}", lost(gap));
                }
                host.write_all_at(&self.buf, at)?;
                done += self.buf.len() as u64;
            }
            self.copied.data_bytes += segment.len;
        }
        for gap in &gaps {
            self.fault(node, &lost(gap));
        }
        Ok(())
    }
}
