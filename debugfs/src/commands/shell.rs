//! Commands about the session itself: help, opening, the current directories.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cowfs_format::layout::FileType;
use cowfs_format::read::inode;
use serde::Serialize;

use crate::report::{Page, PathNamed, Report, Text};
use crate::session::{Session, Superblock, number};
use crate::table::{self, Args, Command, Count, FILE, Needs, OperandKind, Opt, operand};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        aliases: &["?"],
        options: &[],
        operands: &[operand("COMMAND", OperandKind::Command, Count::Optional)],
        summary: "Lists the commands, or explains one.",
        about: "",
        needs: Needs::Nothing,
        run: help,
    },
    Command {
        name: "quit",
        aliases: &["q", "exit"],
        options: &[],
        operands: &[],
        summary: "Ends the program.",
        about: "",
        needs: Needs::Nothing,
        run: |session, _| {
            session.ended = true;
            Ok(None)
        },
    },
    Command {
        name: "open",
        aliases: &[],
        options: &[Opt {
            short: 's',
            long: "superblock",
            value: Some("N"),
            help: "open it by backup superblock N, 1 to 6",
        }],
        operands: &[operand("VOLUME", OperandKind::Host, Count::One)],
        summary: "Opens a volume.",
        about: "A volume that is open already is closed first.",
        needs: Needs::Nothing,
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
        run: |session, _| {
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
        run: cd,
    },
    Command {
        name: "pwd",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows the current directory in the volume.",
        about: "",
        needs: Needs::Volume,
        run: |session, _| Ok(place(&session.cwd_path)),
    },
    Command {
        name: "lcd",
        aliases: &[],
        options: &[],
        operands: &[operand("DIRECTORY", OperandKind::Host, Count::One)],
        summary: "Changes the current directory on the host.",
        about: "Names of host files in other commands are taken from there.",
        needs: Needs::Nothing,
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
        run: |session, _| {
            let path = std::path::absolute(&session.host_dir)?;
            Ok(place(path.as_os_str().as_bytes()))
        },
    },
];

/// A path, of whatever.
#[derive(Serialize)]
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

fn open(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
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
        },
    )?;
    Ok(None)
}

fn cd(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let spec = args.need(0)?;
    let blkno = session.find(spec)?;
    if inode::read(session.view()?, blkno)?.file_type() != Some(FileType::Directory) {
        bail!("inode {blkno} is no directory");
    }
    session.cwd = blkno;
    session.cwd_path = joined(&session.cwd_path, spec);
    Ok(None)
}

/// The path of `spec` as seen from the directory `from`.
fn joined(from: &[u8], spec: &[u8]) -> Vec<u8> {
    let system = spec.starts_with(b"//") || from.starts_with(b"//") && !spec.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    let absolute = spec.starts_with(b"/") || spec.starts_with(b"<");
    let base = if absolute { &[][..] } else { from };
    for part in [base, spec]
        .into_iter()
        .flat_map(|path| path.split(|&b| b == b'/'))
    {
        match part {
            b"" | b"." => {}
            // The parent of an inode that was given by number is not known by name.
            b".." if parts.last().is_some_and(|last| !last.starts_with(b"<")) => {
                parts.pop();
            }
            b".." if parts.is_empty() => {}
            _ => parts.push(part),
        }
    }
    let head: &[u8] = match parts.first() {
        Some(first) if first.starts_with(b"<") => b"",
        _ if system => b"//",
        _ => b"/",
    };
    [head, &parts.join(&b'/')].concat()
}

fn lcd(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let path: PathBuf = session.host_dir.join(OsStr::from_bytes(args.need(0)?));
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
#[derive(Serialize)]
struct Help {
    commands: Vec<HelpItem>,
    #[serde(skip)]
    all: bool,
}

#[derive(Serialize)]
struct HelpItem {
    name: &'static str,
    aliases: &'static [&'static str],
    usage: String,
    summary: &'static str,
    options: Vec<HelpOption>,
    about: &'static str,
}

#[derive(Serialize)]
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

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn directories_are_joined() {
        for (from, spec, path) in [
            ("/", "a/b", "/a/b"),
            ("/a/b", "../c", "/a/c"),
            ("/a", "../..", "/"),
            ("/a", "//orphan_dir:0000", "//orphan_dir:0000"),
            ("//orphan_dir:0000", "..", "//"),
            ("//", "/x", "/x"),
            ("/a", "<9>", "<9>"),
            ("<9>", "b", "<9>/b"),
            ("<9>", "..", "<9>/.."),
        ] {
            let joined = joined(from.as_bytes(), spec.as_bytes());
            assert_eq!(String::from_utf8(joined).unwrap(), path, "{from} {spec}");
        }
    }
}
