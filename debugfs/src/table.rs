//! The table of commands: their names, options and operands, as data.
//!
//! Help, argument checking, completion and the man page are made from it.

use anyhow::{Result, bail};

use crate::report::Report;
use crate::schema::Says;
use crate::session::Session;

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Name.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Its options.
    pub options: &'static [Opt],
    /// Its operands, in order.
    pub operands: &'static [Operand],
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else there is to know; may be empty.
    pub about: &'static str,
    /// What must be open.
    pub needs: Needs,
    /// The schema of its model.
    pub says: Says,
    /// Does it.
    pub run: Run,
}

/// Does a command; what it has to say is a report.
pub type Run = fn(&mut Session, &Args) -> Result<Option<Box<dyn Report>>>;

/// What must be open for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A volume.
    Volume,
    /// A volume opened for writing (`-w`).
    Writing,
}

/// An option of a command.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// The letter, `-l`.
    pub short: char,
    /// The word, `--long`.
    pub long: &'static str,
    /// Name of its value, when it takes one.
    pub value: Option<&'static str>,
    /// What it does, in a line.
    pub help: &'static str,
}

/// An operand of a command.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Name for the usage.
    pub name: &'static str,
    /// What it names.
    pub kind: OperandKind,
    /// How many there may be.
    pub count: Count,
}

/// What an operand names; completion depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandKind {
    /// A file inside the volume.
    File,
    /// A file outside of it.
    Host,
    /// A number: a block, a slot.
    Number,
    /// A command.
    Command,
    /// A word that the command's own usage spells out.
    Word,
}

/// How many operands of a kind there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Exactly one.
    One,
    /// None or one.
    Optional,
    /// One or more; at most one operand of a command, and none that is optional beside it.
    Many,
}

/// The arguments of a command, tested against the table.
#[derive(Debug, Default)]
pub struct Args {
    options: Vec<(char, Option<Vec<u8>>)>,
    operands: Vec<Vec<u8>>,
}

impl Args {
    /// Whether an option was given.
    #[must_use]
    pub fn has(&self, short: char) -> bool {
        self.options.iter().any(|(given, _)| *given == short)
    }

    /// The value of an option.
    #[must_use]
    pub fn value(&self, short: char) -> Option<&[u8]> {
        let given = self.options.iter().rev().find(|(given, _)| *given == short);
        given.and_then(|(_, value)| value.as_deref())
    }

    /// An operand.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.operands.get(index).map(Vec::as_slice)
    }

    /// An operand that the table demands.
    ///
    /// # Errors
    /// It is not there.
    pub fn need(&self, index: usize) -> Result<&[u8]> {
        match self.get(index) {
            Some(operand) => Ok(operand),
            None => bail!("operand {} is missing", index + 1),
        }
    }

    /// All operands.
    #[must_use]
    pub fn all(&self) -> &[Vec<u8>] {
        &self.operands
    }
}

/// Exit status when a command failed.
pub const FAILED: u8 = 1;
/// Exit status when a comparison found differences.
pub const DIFFERENT: u8 = 1;
/// Exit status when a comparison could not be made, as that of diff(1).
pub const TROUBLE: u8 = 2;

impl Command {
    /// The exit status when the command fails: for comparisons, one that is not taken for a
    /// difference.
    #[must_use]
    pub fn failed(&self) -> u8 {
        if matches!(self.name, "diff" | "verify") {
            TROUBLE
        } else {
            FAILED
        }
    }

    /// Whether the command goes by this name.
    #[must_use]
    pub fn is(&self, name: &[u8]) -> bool {
        self.name.as_bytes() == name || self.aliases.iter().any(|alias| alias.as_bytes() == name)
    }

    /// How it is called: `ls [-l] [FILE]`.
    #[must_use]
    pub fn usage(&self) -> String {
        let mut text = self.name.to_owned();
        for option in self.options {
            let value = option
                .value
                .map_or(String::new(), |name| format!(" {name}"));
            text.push_str(&format!(" [-{}{value}]", option.short));
        }
        for operand in self.operands {
            text.push_str(&match operand.count {
                Count::One => format!(" {}", operand.name),
                Count::Optional => format!(" [{}]", operand.name),
                Count::Many => format!(" {}...", operand.name),
            });
        }
        text
    }

    /// Tests words (without the command's name) against the table.
    ///
    /// # Errors
    /// An option is unknown, or there are too many or too few operands.
    pub fn parse(&self, words: &[Vec<u8>]) -> Result<Args> {
        let mut args = Args::default();
        let mut words = words.iter();
        let mut only_operands = false;
        while let Some(word) = words.next() {
            if only_operands || word == b"-" || !word.starts_with(b"-") {
                args.operands.push(word.clone());
            } else if word == b"--" {
                only_operands = true;
            } else if let Some(long) = word.strip_prefix(b"--") {
                let (name, mut value) = match long.iter().position(|&b| b == b'=') {
                    Some(at) => (&long[..at], Some(long[at + 1..].to_vec())),
                    None => (long, None),
                };
                let option = self.option(|option| option.long.as_bytes() == name, word)?;
                if option.value.is_some() && value.is_none() {
                    value = words.next().cloned();
                }
                self.take(&mut args, option, value)?;
            } else {
                let mut letters = word.get(1..).unwrap_or_default();
                while let Some((&letter, rest)) = letters.split_first() {
                    letters = rest;
                    let option = self.option(|o| o.short == char::from(letter), word)?;
                    let value = match option.value {
                        None => None,
                        Some(_) if rest.is_empty() => words.next().cloned(),
                        Some(_) => {
                            letters = &[];
                            Some(rest.to_vec())
                        }
                    };
                    self.take(&mut args, option, value)?;
                }
            }
        }
        let least = self.operands.iter().filter(|o| o.count != Count::Optional);
        let most = match self.operands.iter().find(|o| o.count == Count::Many) {
            Some(_) => usize::MAX,
            None => self.operands.len(),
        };
        if args.operands.len() < least.count() || args.operands.len() > most {
            bail!("usage: {}", self.usage());
        }
        Ok(args)
    }

    fn option(&self, is: impl Fn(&Opt) -> bool, word: &[u8]) -> Result<&'static Opt> {
        match self.options.iter().find(|option| is(option)) {
            Some(option) => Ok(option),
            None => bail!(
                "no option {}; usage: {}",
                crate::words::quoted(word),
                self.usage()
            ),
        }
    }

    fn take(&self, args: &mut Args, option: &Opt, value: Option<Vec<u8>>) -> Result<()> {
        if option.value.is_some() != value.is_some() {
            bail!("usage: {}", self.usage());
        }
        args.options.push((option.short, value));
        Ok(())
    }
}

/// All commands, by name.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    let mut all: Vec<&Command> = crate::commands::GROUPS.iter().copied().flatten().collect();
    all.sort_by_key(|command| command.name);
    all.into_iter()
}

/// The command that goes by a name.
///
/// # Errors
/// None does.
pub fn find(name: &[u8]) -> Result<&'static Command> {
    match commands().find(|command| command.is(name)) {
        Some(command) => Ok(command),
        None => bail!("no such command; `help` lists all"),
    }
}

/// An option without value, for the tables of commands.
pub(crate) const fn flag(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt {
        short,
        long,
        value: None,
        help,
    }
}

/// The option of the commands that take files out.
pub(crate) const BEST_EFFORT: Opt = flag(
    'b',
    "best-effort",
    "of damaged files take what can be read, and list what cannot",
);

/// An operand, for the tables of commands.
pub(crate) const fn operand(name: &'static str, kind: OperandKind, count: Count) -> Operand {
    Operand { name, kind, count }
}

/// One file inside the volume.
pub(crate) const FILE: Operand = operand("FILE", OperandKind::File, Count::One);
/// A file inside the volume, by default the current directory.
pub(crate) const FILE_OR_HERE: Operand = operand("FILE", OperandKind::File, Count::Optional);
/// One block.
pub(crate) const BLOCK: Operand = operand("BLOCK", OperandKind::Number, Count::One);
/// Several blocks.
pub(crate) const BLOCKS: Operand = operand("BLOCK", OperandKind::Number, Count::Many);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, line: &str) -> Result<Args> {
        let words = crate::words::split(line.as_bytes()).unwrap();
        find(name.as_bytes()).unwrap().parse(&words)
    }

    #[test]
    fn names_are_unique_and_lower_case() {
        let mut names: Vec<&str> = commands()
            .flat_map(|c| std::iter::once(c.name).chain(c.aliases.iter().copied()))
            .collect();
        names.sort_unstable();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique);
        assert!(commands().all(|c| !c.summary.is_empty() && c.summary.ends_with('.')));
    }

    #[test]
    fn words_are_tested_against_the_table() {
        assert!(parse("ls", "-l /").unwrap().has('l'));
        assert!(parse("ls", "--long").unwrap().has('l'));
        assert_eq!(parse("ls", "-- -l").unwrap().get(0), Some(&b"-l"[..]));
        assert_eq!(parse("icheck", "1 2 3").unwrap().all().len(), 3);
        for (name, line) in [
            ("ls", "-x"),
            ("ls", "a b"),
            ("cat", ""),
            ("icheck", ""),
            ("ls", "--no"),
        ] {
            let message = parse(name, line).unwrap_err().to_string();
            assert!(message.contains("usage: "), "{message}");
        }
    }
}
