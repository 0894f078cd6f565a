//! Questions on the terminal.

use std::io::{BufRead, Write};

use crate::repair::policy::Reply;

/// Asks on the terminal.
pub(super) fn ask(question: &str) -> Reply {
    let mut stdout = std::io::stdout();
    loop {
        if write!(stdout, "{question} (y/n/a) ").is_err() || stdout.flush().is_err() {
            return Reply::No;
        }
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => return Reply::No,
            Ok(_) => {}
        }
        match line.trim() {
            "y" | "yes" => return Reply::Yes,
            "n" | "no" => return Reply::No,
            "a" | "all" => return Reply::All,
            _ => {}
        }
    }
}
