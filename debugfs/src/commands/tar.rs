//! `tar`: a subtree as a tar stream.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::read::file::{FileReader, Segment};
use cowfs_format::read::{acl, inode};
use cowfs_format::toolkit::report::PathText;
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::tree::{self, Event, Node};
use schemars::JsonSchema;
use serde::Serialize;

use crate::out::source::{Body, Taken, Taker, lost};
use crate::out::stream::{self, Chunks};
use crate::out::tar::{Archive, Kind, Member};
use crate::out::{self, CHUNK};
use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, BEST_EFFORT, Command, FILE_OR_HERE, Needs, Opt};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "tar",
    aliases: &[],
    options: &[
        BEST_EFFORT,
        Opt {
            short: 'o',
            long: "output",
            value: Some("HOST"),
            help: "write to this file of the host; `-` is the standard output",
        },
    ],
    operands: &[FILE_OR_HERE],
    summary: "Writes a directory, or one file, as a tar stream.",
    about: "The stream is a POSIX one: attributes, ACLs (as text), nanoseconds, long names and \
            large sizes stand in PAX records, sparse files in the form of GNU tar, version 1.0. \
            Names are relative to FILE, as of `tar -C FILE -c .`, in bytewise order; the same \
            tree gives the same bytes. Restore with `tar --xattrs --xattrs-include='*' --acls \
            -xf`. A tar stream has no sockets: they are named and left out. A file that cannot \
            be read whole is named and left out, or with -b written with zeros in place of what \
            is lost; where blocks turn out to be unreadable only after its header was written, \
            zeros stand for them in any case, and it is named.",
    needs: Needs::Volume,
    says: schema::of::<Packed>,
    run: tar,
}];

/// What was written.
#[derive(Default, JsonSchema, Serialize)]
struct Packed {
    members: u64,
    hard_links: u64,
    /// Bytes of the stream.
    bytes: u64,
}

impl Text for Packed {
    fn text(&self, _: &mut Page<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn tar(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let spec = args.get(0).unwrap_or(b".");
    let start = session.find(spec)?;
    let host = args.value('o').filter(|name| *name != b"-");
    if host.is_none() && session.json {
        bail!("a tar stream does not fit into JSON; use -o FILE");
    }
    if host.is_none() && session.terminal {
        bail!("a tar stream is nothing for a terminal; use -o FILE, or a pipe");
    }
    session.scanner()?;
    let volume = session.opened()?.path.clone();
    let host = host.map(|name| session.host_dir.join(OsStr::from_bytes(name)));
    let salvage = args.has('b');
    let (scanner, view, out) = session.stream()?;
    let packed = match &host {
        None => pack(scanner, view, (start, spec), salvage, out),
        Some(path) => {
            let place = || path.display().to_string();
            let out = &mut out::create(path, &volume).with_context(place)?;
            pack(scanner, view, (start, spec), salvage, out).with_context(place)
        }
    };
    let (packed, notes, faults) = packed?;
    for note in notes {
        session.note(note);
    }
    for fault in faults {
        session.fault(fault);
    }
    Ok(host.is_some().then(|| Box::new(packed) as Box<dyn Report>))
}

type Done = (Packed, Vec<String>, Vec<String>);

/// Writes the stream.
fn pack(
    scanner: &Scanner,
    view: View<'_>,
    (start, spec): (BlockNo, &[u8]),
    salvage: bool,
    out: &mut dyn Write,
) -> Result<Done> {
    let taker = &Taker::new(view, salvage);
    let make = |chunks: &mut Chunks| {
        let archive = Archive::new(chunks);
        pack_into(scanner, view, (start, spec), taker, archive)
    };
    Ok(stream::through(out, make)?)
}

fn pack_into(
    scanner: &Scanner,
    view: View<'_>,
    (start, spec): (BlockNo, &[u8]),
    taker: &Taker<'_>,
    archive: Archive<&mut Chunks>,
) -> io::Result<Done> {
    let mut packer = Packer {
        view,
        taker,
        archive,
        spec,
        links: HashMap::new(),
        packed: Packed::default(),
        notes: Vec::new(),
        faults: Vec::new(),
        buf: Vec::new(),
    };
    let mut failed = None;
    tree::walk(
        scanner,
        view,
        start,
        |_, inode| taker.take(inode),
        |event| {
            let told = match event {
                Event::Found(node, taken) => packer.found(&node, &taken),
                Event::Left(_) => Ok(()),
                Event::Failed(node, error) => {
                    packer.fault(&node, &error.to_string());
                    Ok(())
                }
            };
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        },
    );
    if let Some(error) = failed {
        return Err(error);
    }
    packer.packed.bytes = packer.archive.finish()?;
    Ok((packer.packed, packer.notes, packer.faults))
}

/// Writes members as the walk finds them.
struct Packer<'v, 'a> {
    view: View<'v>,
    taker: &'a Taker<'v>,
    archive: Archive<&'a mut Chunks>,
    spec: &'a [u8],
    /// Members that may have more names, with their first one.
    links: HashMap<BlockNo, Vec<u8>>,
    packed: Packed,
    notes: Vec<String>,
    faults: Vec<String>,
    buf: Vec<u8>,
}

impl Packer<'_, '_> {
    fn fault(&mut self, node: &Node, what: &str) {
        self.faults.push(said(self.spec, node, what));
    }

    /// The name of a member.
    fn name(&self, node: &Node, taken: &Taken) -> Vec<u8> {
        let directory = matches!(taken.body, Body::Directory);
        if node.path.is_empty() && !directory {
            let last = self.spec.rsplit(|&b| b == b'/').find(|p| !p.is_empty());
            return last.unwrap_or(b"file").to_vec();
        }
        let mut name = [b"./", &node.path[..]].concat();
        if directory && !node.path.is_empty() {
            name.push(b'/');
        }
        name
    }

    fn found(&mut self, node: &Node, taken: &Taken) -> io::Result<()> {
        for fault in &taken.faults {
            self.fault(node, fault);
        }
        let kind = match &taken.body {
            Body::Small(_) | Body::Large => Kind::File,
            Body::Directory => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Device { block: true, .. } => Kind::BlockDevice,
            Body::Device { .. } => Kind::CharDevice,
            Body::Fifo => Kind::Fifo,
            Body::Socket => {
                let note = said(self.spec, node, "a socket, which tar cannot hold; left out");
                self.notes.push(note);
                return Ok(());
            }
            Body::Refused(why) => {
                self.fault(node, &format!("left out: {why}"));
                return Ok(());
            }
        };
        let name = self.name(node, taken);
        let mut member = Member {
            path: &name,
            kind,
            mode: taken.mode,
            uid: taken.uid,
            gid: taken.gid,
            size: 0,
            modified: (taken.modified.seconds, taken.modified.nanoseconds),
            link: &[],
            device: (0, 0),
            acls: Vec::new(),
            xattrs: Vec::new(),
            sparse: None,
        };
        let several = taken.links > 1 && kind != Kind::Directory;
        let first = self.links.get(&node.blkno).filter(|_| several);
        if let Some(first) = first.cloned() {
            member.kind = Kind::Hardlink;
            member.link = &first;
            self.archive.member(&member)?;
            self.packed.members += 1;
            self.packed.hard_links += 1;
            self.taker.release(taken);
            return Ok(());
        }
        match &taken.body {
            Body::Symlink(target) => member.link = target,
            Body::Device { major, minor, .. } => member.device = (*major, *minor),
            _ => {}
        }
        for (attribute, value) in &taken.xattrs {
            let which = match &attribute[..] {
                b"system.posix_acl_access" => "access",
                b"system.posix_acl_default" => "default",
                _ => {
                    member.xattrs.push((attribute, value));
                    continue;
                }
            };
            match acl::text(value) {
                Some(text) => member.acls.push((which, text)),
                None => {
                    let what = format!("left out its {which} ACL, which is no ACL");
                    self.faults.push(said(self.spec, node, &what));
                }
            }
        }
        match &taken.body {
            Body::Small(bytes) => {
                member.size = bytes.len() as u64;
                self.archive.member(&member)?;
                self.archive.data(bytes)?;
                self.archive.end_member()?;
                self.taker.release(taken);
            }
            Body::Large => {
                let file = match inode::read(self.view, node.blkno)
                    .map_err(anyhow::Error::from)
                    .and_then(|inode| self.taker.contents(&inode))
                {
                    Ok(file) => file,
                    Err(error) => {
                        self.fault(node, &format!("left out: {error:#}"));
                        return Ok(());
                    }
                };
                self.large(node, member, &file)?;
            }
            _ => self.archive.member(&member)?,
        }
        self.packed.members += 1;
        if several {
            self.links.insert(node.blkno, name);
        }
        Ok(())
    }

    /// Writes a file piece by piece.
    fn large(
        &mut self,
        node: &Node,
        mut member: Member<'_>,
        file: &FileReader<'_>,
    ) -> io::Result<()> {
        let segments = file.segments();
        let data = |segment: &&Segment| segment.blkno.is_some() || file.is_inline();
        member.size = file.size();
        if !segments.iter().all(|segment| data(&segment)) {
            member.sparse = Some(ranges(segments.iter().filter(data), file.size()));
        }
        self.archive.member(&member)?;
        let mut gaps = Vec::new();
        for segment in segments.iter().filter(data) {
            let mut done = 0;
            while done < segment.len {
                self.buf.resize(index((segment.len - done).min(CHUNK)), 0);
                out::prefetch(self.view, segment, done);
                file.read_around(segment.offset + done, &mut self.buf, &mut gaps);
                self.archive.data(&self.buf)?;
                done += self.buf.len() as u64;
            }
        }
        self.archive.end_member()?;
        for gap in &gaps {
            self.fault(node, &lost(gap));
        }
        Ok(())
    }
}

/// Where data is, with a range of no bytes at the end of a file that ends in a hole.
fn ranges<'s>(segments: impl Iterator<Item = &'s Segment>, size: u64) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for segment in segments {
        match found.last_mut() {
            Some(last) if last.0 + last.1 == segment.offset => last.1 += segment.len,
            _ => found.push((segment.offset, segment.len)),
        }
    }
    if found.last().is_none_or(|last| last.0 + last.1 < size) {
        found.push((size, 0));
    }
    found
}

/// A complaint about a file.
fn said(spec: &[u8], node: &Node, what: &str) -> String {
    let spec = spec.strip_suffix(b"/").unwrap_or(spec);
    let path = if node.path.is_empty() && !spec.is_empty() {
        spec.to_vec()
    } else {
        [spec, b"/", &node.path].concat()
    };
    format!("{}: {what}", PathText(path).shown())
}
