//! Commands about the session itself: help, opening, the current directories.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::Base;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::{Session, Superblock, number};
use crate::table::{self, Args, Command, Count, FILE, Needs, OperandKind, Opt, flag, operand};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        aliases: &["?"],
        options: &[],
        operands: &[operand("COMMAND", OperandKind::Command, Count::Optional)],
        summary: "Lists the commands, or explains one.",
        about: "",
        needs: Needs::Nothing,
        says: schema::of::<Help>,
        run: help,
    },
    Command {
        name: "quit",
        aliases: &["q", "exit"],
        options: &[],
        operands: &[],
        summary: "Ends the program.",
        about: "A group of changes that was not committed is given up.",
        needs: Needs::Nothing,
        says: schema::nothing,
        run: |session, _| {
            session.ended = true;
            Ok(None)
        },
    },
    Command {
        name: "open",
        aliases: &[],
        options: &[
            flag('i', "image", "it is a metadata image, packed or raw"),
            Opt {
                short: 's',
                long: "superblock",
                value: Some("N"),
                help: "open it by backup superblock N, 1 to 6",
            },
        ],
        operands: &[operand("VOLUME", OperandKind::Host, Count::One)],
        summary: "Opens a volume.",
        about: "A volume that is open already is closed first. It is opened for writing, and in a dry \
                run, as the program was started.",
        needs: Needs::Nothing,
        says: schema::nothing,
        run: open,
    },
    Command {
        name: "close",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Closes the volume.",
        about: "",
        needs: Needs::Volume,
        says: schema::nothing,
        run: |session, _| {
            refuse_group(session)?;
            session.close();
            Ok(None)
        },
    },
    Command {
        name: "curdev",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows which volume is open.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<Place>,
        run: |session, _| {
            let path = &session.opened()?.path;
            Ok(place(path.as_os_str().as_bytes()))
        },
    },
    Command {
        name: "cd",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Changes the current directory in the volume.",
        about: "",
        needs: Needs::Volume,
        says: schema::nothing,
        run: cd,
    },
    Command {
        name: "chroot",
        aliases: &[],
        options: &[],
        operands: &[FILE],
        summary: "Changes the root directory, where names that begin with / begin.",
        about: "The current directory stays what it is. `//` goes on naming the system directory, \
                and <INODE> any inode; `stats` shows the inode of the volume's root directory.",
        needs: Needs::Volume,
        says: schema::nothing,
        run: |session, args| {
            session.root = directory(session, args.need(0)?)?;
            Ok(None)
        },
    },
    Command {
        name: "pwd",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows the current directory in the volume.",
        about: "A directory outside of the root directory is shown as <INODE>.",
        needs: Needs::Volume,
        says: schema::of::<Place>,
        run: |session, _| {
            let path = path_of(session.view()?, session.base());
            Ok(place(&path.unwrap_or_else(|| {
                format!("<{}>", session.cwd).into_bytes()
            })))
        },
    },
    Command {
        name: "lcd",
        aliases: &[],
        options: &[],
        operands: &[operand("DIRECTORY", OperandKind::Host, Count::Optional)],
        summary: "Changes the current directory on the host, or shows it.",
        about: "Names of host files in other commands are taken from there.",
        needs: Needs::Nothing,
        says: schema::nothing,
        run: lcd,
    },
    Command {
        name: "lpwd",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows the current directory on the host.",
        about: "",
        needs: Needs::Nothing,
        says: schema::of::<Place>,
        run: |session, _| here(session),
    },
];

/// A path, of whatever.
#[derive(JsonSchema, Serialize)]
struct Place {
    #[serde(flatten)]
    path: PathNamed,
}

impl Text for Place {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.name(self.path.text())?;
        writeln!(page)
    }
}

fn place(path: &[u8]) -> Option<Box<dyn Report>> {
    let path = PathNamed::new(path);
    Some(Box::new(Place { path }))
}

/// Changes that were not committed are not given up in passing.
fn refuse_group(session: &Session) -> Result<()> {
    if session.in_group() {
        bail!("a group of changes was begun; commit or abort it first");
    }
    Ok(())
}

fn open(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    refuse_group(session)?;
    let backup = match args.value('s') {
        Some(word) => Some(u32::try_from(number(word)?).context("no such backup")?),
        None => None,
    };
    let path = session.host_dir.join(OsStr::from_bytes(args.need(0)?));
    session.close();
    session.open(
        path,
        Superblock {
            backup,
            block_bits: None,
            image: args.has('i'),
        },
    )?;
    Ok(None)
}

fn cd(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    session.cwd = directory(session, args.need(0)?)?;
    Ok(None)
}

/// The directory that a file specification names.
fn directory(session: &Session, spec: &[u8]) -> Result<BlockNo> {
    let blkno = session.find(spec)?;
    if inode::read(session.view()?, blkno)?.file_type() != Some(FileType::Directory) {
        bail!("inode {blkno} is no directory");
    }
    Ok(blkno)
}

/// The path of the current directory, found upwards; `None` when that does not lead to a root.
fn path_of(view: View<'_>, base: Base) -> Option<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = base.cwd;
    let head: &[u8] = loop {
        if at == base.root {
            break b"/";
        }
        if at == view.info().system_dir {
            break b"//";
        }
        // No path is longer, but a loop of damaged directories is.
        if names.len() > 4096 {
            return None;
        }
        let parent = dir::lookup(view, &inode::read(view, at).ok()?, b"..").ok()??;
        let mut name = None;
        dir::for_each_entry(view, &inode::read(view, parent).ok()?, &mut |entry| {
            let dots = entry.name == b"." || entry.name == b"..";
            if entry.is_used() && entry.inode == at && !dots {
                name = Some(entry.name.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .ok()?;
        names.push(name?);
        at = parent;
    };
    names.reverse();
    Some([head, &names.join(&b'/')].concat())
}

fn here(session: &Session) -> Result<Option<Box<dyn Report>>> {
    let path = std::path::absolute(&session.host_dir)?;
    Ok(place(path.as_os_str().as_bytes()))
}

fn lcd(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let Some(name) = args.get(0) else {
        return here(session);
    };
    let path: PathBuf = session.host_dir.join(OsStr::from_bytes(name));
    if !std::fs::metadata(&path)
        .with_context(|| path.display().to_string())?
        .is_dir()
    {
        bail!("{} is no directory", path.display());
    }
    session.host_dir = path;
    Ok(None)
}

/// What help says.
#[derive(JsonSchema, Serialize)]
struct Help {
    commands: Vec<HelpItem>,
    #[serde(skip)]
    all: bool,
}

#[derive(JsonSchema, Serialize)]
struct HelpItem {
    name: &'static str,
    aliases: &'static [&'static str],
    usage: String,
    summary: &'static str,
    options: Vec<HelpOption>,
    about: &'static str,
}

#[derive(JsonSchema, Serialize)]
struct HelpOption {
    option: String,
    help: &'static str,
}

impl Text for Help {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for item in &self.commands {
            if self.all {
                writeln!(page, "{:<40}  {}", item.usage, item.summary)?;
                continue;
            }
            writeln!(page, "{}\n    {}", item.usage, item.summary)?;
            for option in &item.options {
                writeln!(page, "    {:<20} {}", option.option, option.help)?;
            }
            if !item.aliases.is_empty() {
                writeln!(page, "    Also: {}.", item.aliases.join(", "))?;
            }
            if !item.about.is_empty() {
                writeln!(page, "\n    {}", item.about)?;
            }
        }
        Ok(())
    }
}

fn help(_: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let item = |command: &'static Command| HelpItem {
        name: command.name,
        aliases: command.aliases,
        usage: command.usage(),
        summary: command.summary,
        about: command.about,
        options: command.options.iter().map(option).collect(),
    };
    let commands = match args.get(0) {
        Some(name) => vec![item(table::find(name)?)],
        None => table::commands().map(item).collect(),
    };
    let all = args.get(0).is_none();
    Ok(Some(Box::new(Help { commands, all })))
}

fn option(option: &Opt) -> HelpOption {
    let value = option
        .value
        .map_or(String::new(), |name| format!(" {name}"));
    HelpOption {
        option: format!("-{}, --{}{value}", option.short, option.long),
        help: option.help,
    }
}
