//! Where files' contents lie, as the driver tells through `FIEMAP`.
//!
//! The text form has one line for each file that has contents, sorted by path (escaped as in [`crate::walk`]): the path,
//! a tab, and the extents separated by spaces, each `logical:physical:length:flags` in blocks of the volume. Flags are
//! filefrag's words joined by commas, or `-`; the end of the file is no flag here.

use crate::walk;
use anyhow::{Context, Result, ensure};

/// A run of blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// First block within the file.
    pub logical: u64,
    /// First block on the volume.
    pub physical: u64,
    /// Blocks.
    pub length: u64,
    /// filefrag's words: `shared`, `unwritten`, `inline` and others.
    pub flags: Vec<String>,
}

/// The extents of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileExtents {
    /// The path from the volume's root.
    pub path: Vec<u8>,
    /// Its extents, in order.
    pub extents: Vec<Extent>,
}

/// Reads what `extents_vol` recorded: a path, a NUL, lines of `filefrag -v`, a NUL, and so on.
pub(crate) fn parse(recorded: &[u8]) -> Result<Vec<FileExtents>> {
    let mut files = Vec::new();
    let mut parts = recorded.split(|byte| *byte == 0);
    while let (Some(path), Some(lines)) = (parts.next(), parts.next()) {
        let lines = std::str::from_utf8(lines).context("filefrag printed no text")?;
        let extents = lines.lines().map(filefrag_line).collect::<Result<_>>()?;
        files.push(FileExtents {
            path: path.strip_prefix(b"./").unwrap_or(path).to_vec(),
            extents,
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// `  0:        0..     511:      32772..     33283:    512:      32770: last,shared,eof`
fn filefrag_line(line: &str) -> Result<Extent> {
    let parts: Vec<&str> = line.split(':').map(str::trim).collect();
    ensure!(parts.len() >= 5, "filefrag printed {line:?}");
    let first = |range: &str| {
        range
            .split("..")
            .next()
            .unwrap_or_default()
            .trim()
            .parse::<u64>()
    };
    // The block expected next stands before the flags only when it was not the one that came.
    let flags = parts.last().unwrap_or(&"");
    let end = ["", "last", "eof"];
    let flags = flags
        .split(',')
        .filter(|flag| !end.contains(flag) && flag.parse::<u64>().is_err());
    Ok(Extent {
        logical: first(parts[1])?,
        physical: first(parts[2])?,
        length: parts[3].parse()?,
        flags: flags.map(str::to_owned).collect(),
    })
}

impl std::fmt::Display for FileExtents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\t", walk::escape(&self.path))?;
        for (
            n,
            Extent {
                logical,
                physical,
                length,
                flags,
            },
        ) in self.extents.iter().enumerate()
        {
            let flags = if flags.is_empty() {
                "-".to_owned()
            } else {
                flags.join(",")
            };
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{logical}:{physical}:{length}:{flags}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FileExtents {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (path, extents) = line
            .split_once('\t')
            .context("a line of extents has no tab")?;
        let one = |text: &str| -> Result<Extent> {
            let parts: Vec<&str> = text.split(':').collect();
            let [logical, physical, length, flags] = parts[..] else {
                anyhow::bail!("an extent is {text:?}")
            };
            let flags = flags
                .split(',')
                .filter(|flag| *flag != "-")
                .map(str::to_owned)
                .collect();
            Ok(Extent {
                logical: logical.parse()?,
                physical: physical.parse()?,
                length: length.parse()?,
                flags,
            })
        };
        let extents = extents
            .split(' ')
            .filter(|text| !text.is_empty())
            .map(one)
            .collect::<Result<_>>()?;
        Ok(Self {
            path: walk::unescape(path.as_bytes())?,
            extents,
        })
    }
}

/// All files' extents as text.
pub fn to_text(files: &[FileExtents]) -> String {
    files.iter().map(|file| format!("{file}\n")).collect()
}

/// Reads all files' extents from text.
pub fn from_text(text: &str) -> Result<Vec<FileExtents>> {
    let parse = |(n, line): (usize, &str)| line.parse().with_context(|| format!("line {}", n + 1));
    text.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::{from_text, parse, to_text};

    #[test]
    fn filefrag_s_lines_survive_the_text_form() {
        let recorded = b"./b c\0   0:        0..       3:       8770..      8773:      4:             shared\n   \
            1:        8..      11:       9000..      9003:      4:       8774: unwritten\n   \
            2:       12..      12:       9100..      9100:      1:       9004: last,eof\n\0\
            ./a\0   0:        0..       0:          0..         0:      1:             last,inline,eof\n\0";
        let files = parse(recorded).unwrap();
        let text = to_text(&files);
        assert_eq!(
            text,
            "a\t0:0:1:inline\nb\\040c\t0:8770:4:shared 8:9000:4:unwritten 12:9100:1:-\n"
        );
        assert_eq!(from_text(&text).unwrap(), files);
    }
}
