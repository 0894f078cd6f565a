//! The command line of the program.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use cowfs_format::toolkit::size::parse_size;

use crate::prompt;
use crate::session::{Session, Superblock};
use crate::table::{self, Command};
use crate::words;

/// Looks into an OCFS2 volume: a prompt on a terminal, a script runner elsewhere.
#[derive(Debug, Parser)]
#[command(name = "debugfs.cowfs", version, max_term_width = 100)]
struct Cli {
    /// Run COMMAND instead of reading commands; may be repeated
    #[arg(short = 'R', value_name = "COMMAND")]
    requests: Vec<OsString>,
    /// Read commands from FILE; `-` is the standard input
    #[arg(short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Open the volume for writing, exclusively; a dirty journal is replayed first
    #[arg(short = 'w')]
    writes: bool,
    /// Save what is written over in FILE first, so that `fsck.cowfs --rollback FILE` can put it back
    #[arg(short = 'z', long, value_name = "FILE", requires = "writes")]
    undo: Option<PathBuf>,
    /// Stop at the first command that fails
    #[arg(short = 'e')]
    stop: bool,
    /// With -w, change nothing: what is written stays in memory and is gone at the end
    #[arg(long, requires = "writes")]
    dry_run: bool,
    /// With -w the same as --dry-run, otherwise as --noprompt
    #[arg(short = 'n')]
    nothing: bool,
    /// Show no prompt
    #[arg(long = "noprompt")]
    no_prompt: bool,
    /// Open the volume by backup superblock N, 1 to 6
    #[arg(short = 's', value_name = "N")]
    backup: Option<u32>,
    /// Block size, to find the backup superblock
    #[arg(
        short = 'b',
        short_alias = 'B',
        value_name = "BYTES",
        requires = "backup"
    )]
    block_size: Option<String>,
    /// Results as JSON: one object a line for each command
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of what --json prints, and exit
    #[arg(long, exclusive = true)]
    json_schema: bool,
    /// The volume is a metadata image, packed or raw, by `image` or o2image
    #[arg(short = 'i', requires = "volume")]
    image: bool,
    /// Image file or block device; without it, use `open`
    volume: Option<PathBuf>,
}

/// The command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    let mut text = String::from("Commands:\n");
    for command in crate::table::commands() {
        text.push_str(&format!(
            "  {}\n      {}\n",
            command.usage(),
            command.summary
        ));
        for option in command.options {
            let value = option
                .value
                .map_or(String::new(), |name| format!(" {name}"));
            text.push_str(&format!(
                "      -{}, --{}{value}: {}\n",
                option.short, option.long, option.help
            ));
        }
    }
    text.push_str(
        "\nFILE is /path from the root directory, //name of a system file, or a path from the current\n\
         directory; <1234>, <0x4d2> or <name of a cluster lock> is an inode. Symbolic links on the\n\
         way are followed, one that stands last is not. A BLOCK is a number, with or without the\n\
         brackets.\n\
         \n\
         Words are separated by blanks. Within \"...\" and '...', and behind a backslash, a blank is\n\
         part of the word; \\xHH is any byte. # begins a comment. On a terminal names that hold\n\
         control characters are shown with escapes; elsewhere they are written as they are.\n\
         \n\
         With -w each command that changes something is one transaction: all of it happens, or, when\n\
         it fails, is stopped or the machine goes down, nothing. `begin` makes one transaction of all\n\
         commands up to `commit`; those that only look see the changes as well. With -w -n (or\n\
         --dry-run) everything runs the same way and says the same, but over a copy in memory: the\n\
         volume is opened for reading only.\n\
         \n\
         At the prompt the tabulator completes commands and names. What was typed is kept in\n\
         $XDG_STATE_HOME/cowfs/debugfs_history, by default below ~/.local/state.\n\
         \n\
         The exit status is 0 when all commands succeeded and 1 when one failed. `diff` and `verify`\n\
         exit as diff(1) does: 0 when all is the same, 1 when something differs, 2 when there was\n\
         trouble. Of several commands the worst status counts.",
    );
    Cli::command().after_long_help(text)
}

/// Runs the program.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if cli.json_schema {
        return match writeln!(io::stdout(), "{:#}", crate::schema::document()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "debugfs.cowfs: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let out = Box::new(BufWriter::with_capacity(1 << 16, io::stdout()));
    let mut session = Session::new(out, Box::new(io::stderr()));
    session.json = cli.json;
    session.writes = cli.writes;
    session.undo.clone_from(&cli.undo);
    session.dry_run = cli.dry_run || cli.writes && cli.nothing;
    session.terminal = io::stdout().is_terminal();
    let status = session.status();
    match all(&cli, session) {
        Ok(()) => {}
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let _ = writeln!(io::stderr(), "debugfs.cowfs: {error}");
            status.set(status.get().max(cli.failed()));
        }
    }
    ExitCode::from(status.get())
}

impl Cli {
    /// The exit status when the run as a whole fails: what the commands that were asked for would
    /// have failed with.
    fn failed(&self) -> u8 {
        let names = self.requests.iter().filter_map(|request| {
            let words = words::split(request.as_bytes()).ok()?;
            table::find(words.first()?).ok()
        });
        names.map(Command::failed).max().unwrap_or(table::FAILED)
    }
}

/// Does all that the command line asks for. How it went is the session's status.
fn all(cli: &Cli, mut session: Session) -> io::Result<()> {
    let status = session.status();
    let tell = |what: String| {
        status.set(status.get().max(cli.failed()));
        writeln!(io::stderr(), "debugfs.cowfs: {what}")
    };
    let block_bits = match cli.block_size.as_deref().map(parse_size) {
        None => None,
        Some(Ok(size)) if size.is_power_of_two() => Some(size.trailing_zeros()),
        Some(Ok(_)) => return tell("-b: a block size is 512, 1024, 2048 or 4096".to_owned()),
        Some(Err(error)) => return tell(format!("-b: {error}")),
    };
    if let Some(path) = &cli.volume {
        let by = Superblock {
            image: cli.image,
            backup: cli.backup,
            block_bits,
        };
        if let Err(error) = session.open(path.clone(), by) {
            return tell(format!("{error:#}"));
        }
    }
    let mut good = true;
    for request in &cli.requests {
        good &= session.line(request.as_bytes())?;
        if session.ended || !good && cli.stop {
            return session.end();
        }
    }
    let from_stdin = cli
        .file
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if let Some(path) = cli.file.as_ref().filter(|_| !from_stdin) {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) => {
                session.end()?;
                return tell(format!("{}: {error}", path.display()));
            }
        };
        lines(&mut session, &mut BufReader::new(file), cli.stop)?;
        return session.end();
    }
    if !from_stdin && !cli.requests.is_empty() {
        return session.end();
    }
    let interactive = !from_stdin && io::stdin().is_terminal() && io::stdout().is_terminal();
    if interactive {
        let quiet = cli.no_prompt || cli.nothing && !cli.writes;
        return prompt::run(session, if quiet { "" } else { prompt::PROMPT });
    }
    lines(&mut session, &mut io::stdin().lock(), cli.stop)?;
    session.end()
}

/// Runs the lines of a script.
fn lines(session: &mut Session, script: &mut dyn BufRead, stop: bool) -> io::Result<()> {
    let mut good = true;
    let mut line = Vec::new();
    while !session.ended && (good || !stop) {
        line.clear();
        if script.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        good &= session.line(&line)?;
    }
    Ok(())
}
