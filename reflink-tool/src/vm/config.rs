//! `vm.cfg`: assignments of literals, as Oracle VM and xm write them. They look like Python, and are
//! never executed: what is no literal is an error with its line.
//!
//! A change replaces single literals where they stand; every other byte of the file stays.

use std::ops::Range;

use anyhow::{Result, bail};

/// Literals inside literals, at most.
const DEPTH: usize = 16;

/// A literal, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

/// The value of a literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    /// A number, `True`, `False` or `None`, as it is written.
    Word(String),
    /// Of a list or tuple.
    List(Vec<Literal>),
    Table(Vec<(Literal, Literal)>),
}

/// A configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    text: String,
    entries: Vec<(String, Literal)>,
    /// What is to stand where; in any order.
    changes: Vec<(Range<usize>, String)>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is not made of assignments of literals.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { text, at: 0 };
        let mut entries = Vec::new();
        loop {
            reader.blank(true)?;
            let Some(first) = reader.peek() else { break };
            if !(first.is_ascii_alphabetic() || first == b'_') {
                return Err(reader.wrong("no assignment"));
            }
            let name = reader.word().to_owned();
            reader.blank(false)?;
            if reader.next() != Some(b'=') || reader.peek() == Some(b'=') {
                return Err(reader.wrong("no assignment"));
            }
            reader.blank(false)?;
            let literal = reader.literal(0)?;
            reader.blank(false)?;
            if !matches!(reader.peek(), None | Some(b'\n' | b'\r' | b';')) {
                return Err(reader.wrong("more than one literal"));
            }
            if reader.peek() == Some(b';') {
                reader.at += 1;
            }
            entries.push((name, literal));
        }
        Ok(Self {
            text: text.to_owned(),
            entries,
            changes: Vec::new(),
        })
    }

    /// The literal that a name has in the end.
    pub(crate) fn get(&self, name: &str) -> Option<&Literal> {
        let found = self.entries.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, literal)| literal)
    }

    /// The text that a name has.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Literal::text)
    }

    /// The number (or other word) that a name has.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match &self.get(name)?.value {
            Value::Word(word) | Value::Text(word) => word.parse().ok(),
            _ => None,
        }
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, name: &str) -> Vec<&Literal> {
        match self.get(name).map(|literal| &literal.value) {
            Some(Value::List(list)) => list.iter().filter(|item| item.text().is_some()).collect(),
            _ => Vec::new(),
        }
    }

    /// All texts of the file, wherever they stand.
    pub(crate) fn all_texts(&self) -> Vec<Literal> {
        let mut found = Vec::new();
        let mut left: Vec<&Literal> = self.entries.iter().map(|(_, literal)| literal).collect();
        while let Some(literal) = left.pop() {
            match &literal.value {
                Value::Text(_) => found.push(literal.clone()),
                Value::Word(_) => {}
                Value::List(list) => left.extend(list),
                Value::Table(pairs) => left.extend(pairs.iter().flat_map(|(a, b)| [a, b])),
            }
        }
        found.sort_by_key(|literal| literal.span.start);
        found
    }

    /// Puts another text where a literal stands.
    pub(crate) fn replace(&mut self, literal: &Literal, text: &str) {
        self.changes.retain(|(span, _)| *span != literal.span);
        self.changes.push((literal.span.clone(), quoted(text)));
    }

    /// Gives a name a text: in the place of the literal that it has, or in a line of its own.
    pub(crate) fn set(&mut self, name: &str, text: &str) {
        match self.get(name).cloned() {
            Some(literal) => self.replace(&literal, text),
            None => {
                let end = self.text.len();
                let line = if self.text.is_empty() || self.text.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                self.changes
                    .push((end..end, format!("{line}{name} = {}\n", quoted(text))));
            }
        }
    }

    /// The file with all changes.
    pub(crate) fn written(&self) -> String {
        let mut changes = self.changes.clone();
        changes.sort_by_key(|(span, _)| (span.start, span.end));
        let mut text = self.text.clone();
        for (span, new) in changes.into_iter().rev() {
            text.replace_range(span, &new);
        }
        text
    }
}

impl Literal {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ => out.push(c),
        }
    }
    out.push('\'');
    out
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn wrong(&self, why: &str) -> anyhow::Error {
        let before = self.text.as_bytes().get(..self.at).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        anyhow::anyhow!("vm.cfg, line {line}: {why}; only assignments of literals are understood")
    }

    /// Passes over blanks and comments; over the ends of lines too, where those mean nothing.
    fn blank(&mut self, lines: bool) -> Result<()> {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'\n' | b'\r' if lines => self.at += 1,
                b'#' => {
                    while self.peek().is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                b'\\' => {
                    let rest = self.text.get(self.at + 1..).unwrap_or_default();
                    let Some(len) = ["\n", "\r\n"]
                        .iter()
                        .find(|end| rest.starts_with(**end))
                        .map(|end| end.len())
                    else {
                        return Err(self.wrong("a stray backslash"));
                    };
                    self.at += 1 + len;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn word(&mut self) -> &'t str {
        let start = self.at;
        let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
        while self.peek().is_some_and(part) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn literal(&mut self, depth: usize) -> Result<Literal> {
        if depth > DEPTH {
            return Err(self.wrong("too many brackets"));
        }
        let start = self.at;
        let value = match self.peek() {
            Some(b'[') => self.list(b']', depth)?,
            Some(b'(') => self.list(b')', depth)?,
            Some(b'{') => self.table(depth)?,
            Some(b'\'' | b'"') => Value::Text(self.string()?),
            Some(b'-' | b'+' | b'0'..=b'9') => {
                self.at += 1;
                self.word();
                let word = self.text.get(start..self.at).unwrap_or_default();
                if !word.bytes().any(|b| b.is_ascii_digit()) {
                    return Err(self.wrong("no number"));
                }
                Value::Word(word.to_owned())
            }
            Some(b'u') if matches!(self.text.as_bytes().get(start + 1), Some(b'\'' | b'"')) => {
                self.at += 1;
                Value::Text(self.string()?)
            }
            _ => match self.word() {
                word @ ("True" | "False" | "None") => Value::Word(word.to_owned()),
                _ => return Err(self.wrong("no literal")),
            },
        };
        Ok(Literal {
            span: start..self.at,
            value,
        })
    }

    fn list(&mut self, close: u8, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut found = Vec::new();
        loop {
            self.blank(true)?;
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok(Value::List(found));
            }
            found.push(self.literal(depth + 1)?);
            self.comma(close)?;
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut found = Vec::new();
        loop {
            self.blank(true)?;
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(Value::Table(found));
            }
            let key = self.literal(depth + 1)?;
            self.blank(true)?;
            if self.next() != Some(b':') {
                return Err(self.wrong("a key without a value"));
            }
            self.blank(true)?;
            found.push((key, self.literal(depth + 1)?));
            self.comma(b'}')?;
        }
    }

    fn comma(&mut self, close: u8) -> Result<()> {
        self.blank(true)?;
        match self.peek() {
            Some(b',') => self.at += 1,
            Some(byte) if byte == close => {}
            _ => return Err(self.wrong("a bracket that does not close")),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String> {
        let quote = self.next().unwrap_or(b'\'');
        let mut out = String::new();
        let mut from = self.at;
        loop {
            let Some(byte) = self.next() else {
                bail!(self.wrong("a text that does not end"));
            };
            match byte {
                b'\n' => return Err(self.wrong("a text that does not end")),
                b'\\' => {
                    out.push_str(self.text.get(from..self.at - 1).unwrap_or_default());
                    out.push(match self.next() {
                        Some(b'n') => '\n',
                        Some(b't') => '\t',
                        Some(b'r') => '\r',
                        Some(same @ (b'\\' | b'\'' | b'"')) => char::from(same),
                        _ => return Err(self.wrong("an escape that is not understood")),
                    });
                    from = self.at;
                }
                byte if byte == quote => {
                    out.push_str(self.text.get(from..self.at - 1).unwrap_or_default());
                    return Ok(out);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test may panic.

    use super::*;
    use proptest::prelude::*;

    const WRITTEN: &str = "# made by hand\nname = 'el5'\nmemory = 1024 # MiB\nvif = ['mac=00:16:3e:01:02:03, bridge=xenbr0',\n       'bridge=xenbr1']\n\
        disk=[ \"file:/OVS/running_pool/el5/System.img,xvda,w\",\n ]\nvfb = [{'vnc': 1, \"keymap\": 'it\\'s'}]\non_reboot = True ; x = (1, -2.5e3)\n";

    #[test]
    fn what_is_not_replaced_stays_as_it_was() {
        let mut config = Config::parse(WRITTEN).unwrap();
        assert_eq!(config.text("name"), Some("el5"));
        assert_eq!(config.number("memory"), Some(1024));
        assert_eq!(config.written(), WRITTEN);
        let disks: Vec<Literal> = config.texts("disk").into_iter().cloned().collect();
        config.replace(&disks[0], "it's");
        config.set("name", "new");
        config.set("uuid", "1");
        let expected = WRITTEN.replace("'el5'", "'new'").replace(
            "\"file:/OVS/running_pool/el5/System.img,xvda,w\"",
            "'it\\'s'",
        ) + "uuid = '1'\n";
        assert_eq!(config.written(), expected);
        let again = Config::parse(&expected).unwrap();
        assert_eq!(again.texts("disk")[0].text(), Some("it's"));
        assert_eq!(again.all_texts().len(), 8);
    }

    #[test]
    fn what_is_no_literal_is_refused_with_its_line() {
        for (text, line) in [
            ("import os\n", 1),
            ("\nname = os.system('x')\n", 2),
            ("name = 'a' + 'b'\n", 1),
            ("name = 'a' 'b'\n", 1),
            ("name == 'a'\n", 1),
            ("x = ['a'\n", 2),
            ("x = 'a\n", 2),
            ("x = \"\\x41\"\n", 1),
            ("x = `a`\n", 1),
            ("x = lambda: 1\n", 1),
            ("if x:\n  y = 1\n", 1),
            ("x = {'a'}\n", 1),
            ("x = f'{y}'\n", 1),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}:")), "{text}: {error}");
        }
        let deep = format!("x = {}", "[".repeat(10_000));
        assert!(
            Config::parse(&deep)
                .unwrap_err()
                .to_string()
                .contains("brackets")
        );
    }

    proptest! {
        #[test]
        fn texts_come_back(text in any::<String>()) {
            let mut config = Config::parse("a = 1\n").unwrap();
            config.set("x", &text);
            let again = Config::parse(&config.written()).unwrap();
            prop_assert_eq!(again.text("x"), Some(&text[..]));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            if let Ok(config) = Config::parse(&text) {
                prop_assert_eq!(config.written(), text);
            }
        }
    }
}
