//! Splitting a command line into words.
//!
//! Words are bytes, because names of files are. Blanks separate them. Single quotes keep everything
//! as it is; double quotes and bare words know `\` before a character and `\xHH` for a byte. A `#`
//! at the start of a word begins a comment.

/// The words of a line, or what is wrong with it.
///
/// # Errors
/// A quote is not closed or an escape is no escape.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    let mut quote = 0;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' | b'"' if quote == 0 => {
                quote = byte;
                word.get_or_insert_default();
            }
            _ if quote == byte => quote = 0,
            b'\\' if quote != b'\'' => {
                let escaped = match bytes.next() {
                    Some(b'x') => hex_byte(bytes.next(), bytes.next())
                        .ok_or("\\x must be followed by two hexadecimal digits")?,
                    Some(b'n') => b'\n',
                    Some(b't') => b'\t',
                    Some(b'r') => b'\r',
                    Some(other) => other,
                    None => return Err("the line ends with a backslash"),
                };
                word.get_or_insert_default().push(escaped);
            }
            b'#' if quote == 0 && word.is_none() => break,
            _ if quote == 0 && byte.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quote != 0 {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

fn hex_byte(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// A word in a form that [`split`] reads as that word.
#[must_use]
pub fn quoted(word: &[u8]) -> String {
    let mut text = String::new();
    for chunk in word.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                ' ' | '\'' | '"' | '\\' | '#' => text.extend(['\\', c]),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{quoted, split};

    fn words(line: &str) -> Vec<String> {
        let words = split(line.as_bytes()).unwrap();
        words.iter().map(|w| w.escape_ascii().to_string()).collect()
    }

    #[test]
    fn lines_are_split() {
        assert_eq!(words("  ls -l\t/a b "), ["ls", "-l", "/a", "b"]);
        assert_eq!(words(r#"cat "a b"'c"d'\ e"#), ["cat", r#"a bc\"d e"#]);
        assert_eq!(words(r#"x "" '' "\xff\n""#), ["x", "", "", r"\xff\n"]);
        assert_eq!(words("# all"), Vec::<String>::new());
        assert_eq!(words("ls #x"), ["ls"]);
        assert_eq!(words("ls a#x '#'"), ["ls", "a#x", "#"]);
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        for line in ["\"a", "'a", "a\\", "\\xg0", "\\x1"] {
            assert!(split(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn quoted_words_are_read_back() {
        for word in [
            &b"plain"[..],
            b"a b",
            b"#x",
            b"\xff\xc3",
            b"a\\'\"\n\x07",
            "gr\u{fc}n".as_bytes(),
        ] {
            assert_eq!(split(quoted(word).as_bytes()).unwrap(), [word.to_vec()]);
        }
    }
}
