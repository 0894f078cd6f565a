//! Sizes as people write them: `4096`, `64K`, `10G`, `1.5TiB`.
//!
//! All suffixes are powers of 1024, with or without `B` or `iB` behind the letter, as the tools of
//! this format have always read them.

use crate::error::{Error, Result};

const SUFFIXES: [(char, u32); 6] = [
    ('k', 10),
    ('m', 20),
    ('g', 30),
    ('t', 40),
    ('p', 50),
    ('e', 60),
];

/// Parses a size in bytes.
///
/// # Errors
/// The text is no number, has an unknown suffix, is not a whole number of bytes, or is too large.
pub fn parse_size(text: &str) -> Result<u64> {
    let refuse = |why: &str| Error::Input {
        what: format!("\"{text}\" is no size: {why} (examples: 4096, 64K, 10G, 1.5TiB)"),
    };
    let trimmed = text.trim();
    if let Some(hex) = trimmed.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).map_err(|_| refuse("bad hexadecimal number"));
    }
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(digits);
    let shift = shift_of(suffix).ok_or_else(|| refuse("unknown suffix"))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(refuse("no number"));
    }
    // Eighteen digits behind the point keep the product below within 128 bits.
    if fraction.len() > 18 || fraction.contains('.') {
        return Err(refuse("bad fraction"));
    }
    let whole: u128 = whole
        .parse::<u64>()
        .map_err(|_| refuse("too large"))?
        .into();
    let scale = fraction.chars().fold(1u128, |scale, _| scale * 10);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| refuse("bad fraction"))?
    };
    let scaled_part = part << shift;
    if !scaled_part.is_multiple_of(scale) {
        return Err(refuse("not a whole number of bytes"));
    }
    u64::try_from((whole << shift) + scaled_part / scale).map_err(|_| refuse("too large"))
}

/// log2 of what a suffix multiplies by.
fn shift_of(suffix: &str) -> Option<u32> {
    let lower = suffix.trim().to_ascii_lowercase();
    let mut chars = lower.chars();
    let Some(first) = chars.next() else {
        return Some(0);
    };
    if lower == "b" {
        return Some(0);
    }
    let (_, shift) = SUFFIXES.iter().find(|(letter, _)| *letter == first)?;
    matches!(chars.as_str(), "" | "b" | "ib").then_some(*shift)
}

/// A size in the largest binary unit that shows it with at most one digit behind the point.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    while unit < 6 && bytes >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let shift = 10 * unit;
    let whole = bytes >> shift;
    let rest = u128::from(bytes - (whole << shift));
    let tenths = (rest * 10) >> shift;
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if tenths == 0 {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{tenths} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096b", 4096),
            ("0x1000", 4096),
            ("4k", 4096),
            ("4KB", 4096),
            ("4 KiB", 4096),
            ("64M", 64 << 20),
            ("10G", 10 << 30),
            ("1.5TiB", 3 << 39),
            ("0.5k", 512),
            ("15P", 15 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_text_and_examples() {
        for text in [
            "",
            "G",
            "-1",
            "1x",
            "1KiBB",
            "1.2.3K",
            ".5K",
            "5.K",
            "1.3",
            "16E",
            "1e9",
            "0x",
            "99999999999999999999",
            "1.0000000000000000001K",
        ] {
            let message = parse_size(text).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")), "{message}");
            assert!(message.contains("10G"), "{message}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
