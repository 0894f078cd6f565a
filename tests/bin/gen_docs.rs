//! Writes manual pages, completions and schemas:  gen-docs DIRECTORY
//!
//! They are made from what the programs themselves use: their command lines, the table of commands of debugfs.cowfs, the
//! catalogue of fsck.cowfs. Nothing of it is kept in the source tree, so nothing can fall behind: `install.sh` runs this
//! and installs what it wrote. Below DIRECTORY the files lie as they do below `share`:
//!
//! ```text
//! man/man8/mkfs.cowfs.8
//! bash-completion/completions/mkfs.cowfs
//! zsh/vendor-completions/_mkfs.cowfs
//! fish/vendor_completions.d/mkfs.cowfs.fish
//! cowfs/debugfs.schema.json
//! ```

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use cowfs_format::toolkit::alone;
use cowfs_format::toolkit::exit::ExitBits;
use debugfs_cowfs::table::{self, Needs};
use fsck_cowfs::catalogue;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(directory), None) = (args.next(), args.next()) else {
        eprintln!("usage: gen-docs DIRECTORY");
        return ExitCode::from(2);
    };
    match write_all(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gen-docs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A program: its command line, and what its page says beyond that.
struct Program {
    command: Command,
    more: fn(&mut Roff),
}

fn programs() -> [Program; 4] {
    [
        Program {
            command: mkfs_cowfs::command(),
            more: differences,
        },
        Program {
            command: fsck_cowfs::command(),
            more: problems,
        },
        Program {
            command: debugfs_cowfs::command(),
            more: commands,
        },
        Program {
            command: reflink_cowfs::command(),
            more: |_| {},
        },
    ]
}

fn write_all(directory: &Path) -> Result<()> {
    for program in programs() {
        let mut command = program.command.clone().disable_help_subcommand(true);
        command.build();
        let name = command.get_name().to_owned();
        put(
            &directory.join("man/man8"),
            &format!("{name}.8"),
            &page(&command, program.more)?,
        )?;
        for (shell, folder, file) in [
            (Shell::Bash, "bash-completion/completions", name.clone()),
            (Shell::Zsh, "zsh/vendor-completions", format!("_{name}")),
            (
                Shell::Fish,
                "fish/vendor_completions.d",
                format!("{name}.fish"),
            ),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program.command.clone(), &name, &mut script);
            put(&directory.join(folder), &file, &script)?;
        }
    }
    for (name, schema) in [
        ("debugfs.schema.json", debugfs_cowfs::schema::document()),
        ("fsck.schema.json", fsck_cowfs::schema::document()),
    ] {
        let schema = format!("{schema:#}\n");
        put(&directory.join("cowfs"), name, schema.as_bytes())?;
    }
    Ok(())
}

fn put(folder: &Path, file: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(file);
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}

/// The manual page of a program.
fn page(command: &Command, more: fn(&mut Roff)) -> Result<Vec<u8>> {
    let name = command.get_name();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .source(format!("cowfs {}", env!("CARGO_PKG_VERSION")))
        .manual("cowfs");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(command, "SH", "SYNOPSIS").to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().next().is_some() {
        verbs(command, &mut text)?;
    }
    let mut roff = Roff::new();
    more(&mut roff);
    if WRITERS.contains(&name) {
        clusters(&mut roff);
    }
    notes(&mut roff, command);
    see_also(&mut roff, name);
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// A heading, and the usage below it in the words of `--help`.
fn synopsis(command: &Command, level: &str, heading: &str) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let mut roff = Roff::new();
    roff.control(level, [heading]);
    let (name, rest) = usage.split_once(" [").unwrap_or((usage, ""));
    roff.text([bold(name)]);
    if !rest.is_empty() {
        roff.text([roman(format!("[{rest}"))]);
    }
    roff
}

/// What a program's subcommands do, each as a subsection of its page.
fn verbs(command: &Command, text: &mut Vec<u8>) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(text)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let man = Man::new(verb.clone());
        let mut part = Vec::new();
        synopsis(verb, "SS", verb.get_name()).to_writer(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // The sections of the verb become paragraphs of its subsection.
        let part = String::from_utf8(part)?
            .replace(".SH DESCRIPTION", ".PP")
            .replace(".SH OPTIONS\n", "");
        text.extend(part.into_bytes());
    }
    Ok(())
}

/// What `--help` says at its end, but for lists that the page has as sections of their own.
fn notes(roff: &mut Roff, command: &Command) {
    let Some(after) = command.get_after_long_help() else {
        return;
    };
    let after = after.to_string();
    let paragraphs = after
        .split("\n\n")
        .filter(|paragraph| !paragraph.starts_with("Commands:"));
    roff.control("SH", ["NOTES"]);
    for paragraph in paragraphs {
        roff.control("PP", []);
        roff.text([roman(paragraph.trim())]);
    }
}

/// The programs that write volumes.
const WRITERS: [&str; 4] = ["mkfs.cowfs", "fsck.cowfs", "debugfs.cowfs", "reflink.cowfs"];

/// What a writer does about nodes that may have the volume mounted.
fn clusters(roff: &mut Roff) {
    roff.control("SH", ["CLUSTERS"]);
    for paragraph in alone::ABOUT {
        roff.control("PP", []);
        roff.text([roman(*paragraph)]);
    }
}

fn see_also(roff: &mut Roff, name: &str) {
    let mut pages: Vec<String> = programs()
        .iter()
        .map(|program| program.command.get_name().to_owned())
        .filter(|other| other != name)
        .collect();
    pages.push("mount".to_owned());
    pages.sort();
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(page), roman("(8)")]);
    }
    roff.text(line);
}

/// Where mkfs.cowfs and mkfs.ocfs2 make different volumes.
fn differences(roff: &mut Roff) {
    roff.control("SH", ["DIFFERENCES FROM MKFS.OCFS2"]);
    roff.text([roman(
        "The defaults differ in two ways: metaecc is on besides refcount, and the volume is for local mounts. Given the \
         same options, UUID, time and seeds, the volumes differ in these places only:",
    )]);
    for (name, what) in mkfs_cowfs::DIFFERENCES {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(format!("{what}."))]);
    }
}

/// The exit status of fsck.cowfs, and everything that it can find.
fn problems(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("The sum of:")]);
    for (bit, meaning) in [
        (ExitBits::CLEAN, "Nothing is wrong."),
        (ExitBits::CORRECTED, "Problems were corrected."),
        (ExitBits::UNCORRECTED, "Problems are left."),
        (
            ExitBits::OPERATIONAL,
            "The check or a repair could not be done.",
        ),
        (ExitBits::USAGE, "The command line is wrong."),
        (ExitBits::CANCELLED, "The run was interrupted."),
    ] {
        roff.control("TP", []);
        roff.text([bold(bit.code().to_string())]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["PROBLEMS"]);
    roff.text([roman(
        "Each finding has a code. Where fsck.ocfs2 knows the problem, the code is the one of fsck.ocfs2.checks(8); codes \
         that begin with X_ are of this program. A problem marked as safe can be repaired without a decision and without \
         loss.",
    )]);
    for entry in catalogue::entries() {
        let safe = if entry.preen { ", safe" } else { "" };
        roff.control("TP", []);
        roff.text([
            bold(entry.code),
            roman(format!(" ({}{safe})", entry.severity.name())),
        ]);
        roff.text([roman(entry.explanation.trim())]);
        roff.text([roman(entry.repair())]);
    }
    roff.control("SH", ["CODES OF FSCK.OCFS2 THAT ARE NONE HERE"]);
    for theirs in catalogue::ELSEWHERE {
        roff.control("TP", []);
        roff.text([bold(theirs.code)]);
        roff.text([roman(theirs.why)]);
        if !theirs.ours.is_empty() {
            roff.text([roman(format!("See {}.", theirs.ours.join(", ")))]);
        }
    }
}

/// The commands of debugfs.cowfs.
fn commands(roff: &mut Roff) {
    roff.control("SH", ["COMMANDS"]);
    for command in table::commands() {
        roff.control("TP", []);
        roff.text([bold(command.usage())]);
        roff.text([roman(command.summary)]);
        if command.needs == Needs::Writing {
            roff.text([roman("Needs "), bold("-w"), roman(".")]);
        }
        if !command.aliases.is_empty() {
            roff.text([roman(format!("Also: {}.", command.aliases.join(", ")))]);
        }
        if !command.about.is_empty() {
            roff.control("IP", []);
            roff.text([roman(command.about)]);
        }
        if !command.options.is_empty() {
            roff.control("RS", []);
            for option in command.options {
                let value = option
                    .value
                    .map_or(String::new(), |name| format!(" {name}"));
                roff.control("TP", []);
                roff.text([bold(format!("-{}, --{}{value}", option.short, option.long))]);
                roff.text([roman(option.help)]);
            }
            roff.control("RE", []);
        }
    }
}
