//! Modes as chmod(1) takes them: octal, or symbolic.

use anyhow::{Result, bail};

const DIRECTORY: u16 = 0o040_000;
const KIND: u16 = 0o170_000;

/// A mode to be set, or a change of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All bits.
    Exact(u16),
    /// Changes, one after the other.
    Changes(Vec<Change>),
}

/// One change: whose bits, how, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The permission bits of those named, of each class all three.
    who: u16,
    how: How,
    what: Vec<Bits>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Add,
    Take,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// Read, write, execute.
    Permission(u16),
    /// Execute, for directories and files that somebody may execute.
    Search,
    SetId,
    Sticky,
    /// What a class has.
    CopyOf(u16),
}

impl Mode {
    /// Understands a mode: octal digits, or changes like `u+x,go-w,a=rX`. Without `ugoa`, a change
    /// is for all.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("\"{text}\" is no mode; 0644 and u+x,go-w are modes");
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u16::from_str_radix(text, 8).ok();
            return match bits.filter(|bits| *bits <= 0o7777) {
                Some(bits) => Ok(Self::Exact(bits)),
                None => bail!(wrong()),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let start = clause.find(['+', '-', '=']).unwrap_or(clause.len());
            let (classes, mut rest) = clause.split_at(start);
            let mut who = 0;
            for class in classes.chars() {
                match class_bits(class) {
                    Some(bits) => who |= bits,
                    None => bail!(wrong()),
                }
            }
            if classes.is_empty() {
                who = 0o777;
            }
            if rest.is_empty() {
                bail!(wrong());
            }
            while let Some(sign) = rest.chars().next() {
                let how = match sign {
                    '+' => How::Add,
                    '-' => How::Take,
                    _ => How::Set,
                };
                rest = rest.get(1..).unwrap_or_default();
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                let (letters, after) = rest.split_at(end);
                rest = after;
                let what: Option<Vec<Bits>> = letters.chars().map(bits_of).collect();
                let Some(what) = what else { bail!(wrong()) };
                changes.push(Change { who, how, what });
            }
        }
        Ok(Self::Changes(changes))
    }

    /// A mode, with its type, as it becomes.
    pub(super) fn applied(&self, mode: u16) -> u16 {
        match self {
            Self::Exact(bits) => mode & KIND | bits,
            Self::Changes(changes) => changes.iter().fold(mode, |mode, change| change.on(mode)),
        }
    }
}

fn class_bits(class: char) -> Option<u16> {
    Some(match class {
        'u' => 0o700,
        'g' => 0o070,
        'o' => 0o007,
        'a' => 0o777,
        _ => return None,
    })
}

fn bits_of(letter: char) -> Option<Bits> {
    Some(match letter {
        'r' => Bits::Permission(0o444),
        'w' => Bits::Permission(0o222),
        'x' => Bits::Permission(0o111),
        'X' => Bits::Search,
        's' => Bits::SetId,
        't' => Bits::Sticky,
        'u' => Bits::CopyOf(6),
        'g' => Bits::CopyOf(3),
        'o' => Bits::CopyOf(0),
        _ => return None,
    })
}

impl Change {
    fn on(&self, mode: u16) -> u16 {
        let set_ids = (self.who & 0o100) << 5 | (self.who & 0o010) << 7;
        let mut bits = 0;
        for what in &self.what {
            bits |= match *what {
                Bits::Permission(bits) => bits & self.who,
                Bits::Search if mode & KIND == DIRECTORY || mode & 0o111 != 0 => 0o111 & self.who,
                Bits::Search => 0,
                Bits::SetId => set_ids,
                Bits::Sticky if self.who & 0o007 != 0 => 0o1000,
                Bits::Sticky => 0,
                Bits::CopyOf(shift) => {
                    let own = mode >> shift & 7;
                    (own << 6 | own << 3 | own) & self.who
                }
            };
        }
        match self.how {
            How::Add => mode | bits,
            How::Take => mode & !bits,
            How::Set => {
                // The set-ID bits of a directory stay unless they are named.
                let kept = if mode & KIND == DIRECTORY { 0 } else { set_ids };
                let sticky = if self.who & 0o007 != 0 { 0o1000 } else { 0 };
                mode & !(self.who | kept | sticky) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    /// As chmod(1) of coreutils 9.1 did, with a umask of 0.
    #[test]
    fn modes_become_what_chmod_makes_of_them() {
        for (before, change, after) in [
            (0o100_644, "755", 0o100_755),
            (0o104_755, "0644", 0o100_644),
            (0o100_644, "u+x", 0o100_744),
            (0o100_644, "+x", 0o100_755),
            (0o100_755, "go-rx", 0o100_700),
            (0o100_640, "a=rX", 0o100_444),
            (0o100_740, "a=rX", 0o100_555),
            (0o040_700, "go+rX", 0o040_755),
            (0o100_755, "u+s,g+s,+t", 0o107_755),
            (0o107_755, "u-s,g-s,a-t", 0o100_755),
            (0o100_640, "o=g", 0o100_644),
            (0o100_751, "g=u-w", 0o100_751),
            (0o100_604, "ug+w-r,o=", 0o100_220),
            (0o042_755, "a=rx", 0o042_555),
            (0o106_755, "ug=rx", 0o100_555),
            (0o040_755, "a+t", 0o041_755),
            (0o041_755, "u=rwx", 0o041_755),
            (0o041_755, "=rwx", 0o040_777),
            (0o101_755, "o=rx", 0o100_755),
            (0o100_700, "g=u", 0o100_770),
        ] {
            let mode = Mode::parse(change).unwrap().applied(before);
            assert_eq!(mode, after, "{before:o} {change}: {mode:o}");
        }
        for bad in [
            "", "8", "77777", "u", "u+q", "z+x", "u+x,", "+x,,+w", "0o644", "-1",
        ] {
            assert!(Mode::parse(bad).is_err(), "{bad}");
        }
    }
}
