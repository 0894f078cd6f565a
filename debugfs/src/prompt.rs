//! The prompt on a terminal: line editing, history, completion of commands and names.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};

use crate::session::Session;
use crate::table::{self, OperandKind};
use crate::words;

/// What stands before a line.
pub(crate) const PROMPT: &str = "debugfs.cowfs: ";
/// What stands there in a group of changes.
const IN_GROUP: &str = "debugfs.cowfs (group): ";
/// Names of a directory that completion reads at most.
const LIMIT: usize = 10_000;

/// Reads and runs commands until the end.
pub(crate) fn run(session: Session, prompt: &str) -> io::Result<()> {
    let config = rustyline::Config::builder()
        .auto_add_history(true)
        .history_ignore_space(true)
        .max_history_size(2000)
        .map_err(io::Error::other)?
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
    // What was typed is a comfort: where it cannot be read or kept, the prompt works without.
    let history = history_file();
    if let Some(path) = &history {
        let _ = editor.load_history(path);
    }
    // The editor looks into the session only while it reads a line.
    let session = Rc::new(RefCell::new(session));
    editor.set_helper(Some(Names {
        session: Rc::clone(&session),
        host: FilenameCompleter::new(),
    }));
    while !session.borrow().ended {
        let shown = match session.borrow().in_group() && !prompt.is_empty() {
            true => IN_GROUP,
            false => prompt,
        };
        match editor.readline(shown) {
            Ok(line) => {
                if let Some(path) = &history {
                    let _ = editor.append_history(path);
                }
                session.borrow_mut().line(line.as_bytes())?;
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(ReadlineError::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    session.borrow_mut().end()
}

/// Where the lines that were typed are kept: in the directory for the state of programs.
fn history_file() -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| {
            let home = PathBuf::from(std::env::var_os("HOME")?);
            Some(home.join(".local/state")).filter(absolute)
        })?;
    let directory = state.join("cowfs");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("debugfs_history"))
}

/// Completes names.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Names {
    session: Rc<RefCell<Session>>,
    host: FilenameCompleter,
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..pos).unwrap_or_default();
        let start = last_word(before);
        let earlier = words::split(before.get(..start).unwrap_or_default().as_bytes());
        let word = before.get(start..).unwrap_or_default();
        let Ok(earlier) = earlier else {
            return Ok((pos, Vec::new()));
        };
        let Some((name, operands)) = earlier.split_first() else {
            return Ok((start, commands(word)));
        };
        let Ok(command) = table::find(name) else {
            return Ok((pos, Vec::new()));
        };
        let index = operands
            .iter()
            .filter(|word| !word.starts_with(b"-"))
            .count();
        let operand = command.operands.get(index).or(command.operands.last());
        Ok(match operand.map(|operand| operand.kind) {
            Some(OperandKind::Command) => (start, commands(word)),
            Some(OperandKind::Host) => return self.host.complete(line, pos, context),
            Some(OperandKind::File) => (start, self.files(word).unwrap_or_default()),
            _ => (pos, Vec::new()),
        })
    }
}

/// Where the word at the end of a line begins; quoted words are not completed.
fn last_word(before: &str) -> usize {
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in before.char_indices() {
        if c.is_whitespace() && !escaped {
            start = at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    start
}

fn commands(start: &str) -> Vec<Pair> {
    table::commands()
        .filter(|command| command.name.starts_with(start))
        .map(|command| Pair {
            display: command.name.to_owned(),
            replacement: format!("{} ", command.name),
        })
        .collect()
}

impl Names {
    fn files(&self, word: &str) -> Option<Vec<Pair>> {
        let session = self.session.borrow();
        let typed = words::split(word.as_bytes())
            .ok()?
            .pop()
            .unwrap_or_default();
        let cut = typed
            .iter()
            .rposition(|&b| b == b'/')
            .map_or(0, |at| at + 1);
        let (head, tail) = typed.split_at(cut);
        let view = session.view().ok()?;
        let directory = if head.is_empty() {
            session.cwd
        } else {
            path::resolve_from(view, session.base(), head).ok()?
        };
        Some(entries(view, directory, head, tail))
    }
}

fn entries(view: View<'_>, directory: BlockNo, head: &[u8], tail: &[u8]) -> Vec<Pair> {
    let mut found = Vec::new();
    let Ok(inode) = inode::read(view, directory) else {
        return found;
    };
    // What can be read of a damaged directory is completed all the same.
    let _ = dir::for_each_entry(view, &inode, &mut |entry| {
        let dots = entry.name == b"." || entry.name == b"..";
        if entry.name.starts_with(tail) && !dots {
            let slash = if entry.file_type == FileType::Directory.dirent() {
                "/"
            } else {
                ""
            };
            let name = words::quoted(entry.name);
            found.push(Pair {
                replacement: format!("{}{name}{slash}", words::quoted(head)),
                display: format!("{name}{slash}"),
            });
        }
        if found.len() < LIMIT {
            std::ops::ControlFlow::Continue(())
        } else {
            std::ops::ControlFlow::Break(())
        }
    });
    found.sort_by(|a, b| a.display.cmp(&b.display));
    found
}
