//! `rdump`: subtrees as files of the host.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::layout::FileType;
use cowfs_format::read::inode;
use cowfs_format::toolkit::report::PathText;
use schemars::JsonSchema;
use serde::Serialize;

use crate::out::copy::{self, Copied, Copier};
use crate::out::host::Tree;
use crate::out::source::Taker;
use crate::report::{Page, PathNamed, Report, Text};
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
    says: |generator| schema::rows::<Made>(generator, "paths", schema::of::<Told>),
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
#[derive(JsonSchema, Serialize)]
struct Told {
    directories: u64,
    files: u64,
    hard_links: u64,
    /// Bytes of data; holes do not count.
    data_bytes: u64,
    unset: NotSet,
}

/// What the host did not let be set.
#[derive(JsonSchema, Serialize)]
struct NotSet {
    owners: u64,
    devices: u64,
    xattrs: u64,
}

impl Text for Told {
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
    let (scanner, view, mut rows) = session.rows("paths")?;
    let taker = Taker::new(view, args.has('b'));
    let mut copier = Copier::new(scanner, view, &taker, tree);
    for (spec, start, name) in starts {
        copier.begin(name);
        let said = |event| match event {
            copy::Said::Made(path) if verbose => rows.row(&Made {
                path: PathNamed::new(path),
            }),
            copy::Said::Made(_) => Ok(()),
            copy::Said::Fault(path, what) => {
                let spec = spec.strip_suffix(b"/").unwrap_or(spec);
                let path = if path.is_empty() && !spec.is_empty() {
                    spec.to_vec()
                } else {
                    [spec, b"/", &path].concat()
                };
                rows.fault(format_args!("{}: {what}", PathText(path).shown()));
                Ok(())
            }
        };
        copier.copy(start, said)?;
    }
    let Copied {
        directories,
        files,
        hard_links,
        data_bytes,
        unset,
    } = copier.copied;
    let told = Told {
        directories,
        files,
        hard_links,
        data_bytes,
        unset: NotSet {
            owners: unset.owners,
            devices: unset.devices,
            xattrs: unset.xattrs,
        },
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
    Ok(Some(Box::new(told)))
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
