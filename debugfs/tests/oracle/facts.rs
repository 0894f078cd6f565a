//! From the text of a command to facts: fields and rows of tables, in order, without the layout.

/// A field `key: value`, or a row of a table (then the key is [`ROW`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Key of the rows of tables.
pub(crate) const ROW: &str = "row";

impl Fact {
    pub(crate) fn new(key: &str, value: impl Into<String>) -> Self {
        let (key, value) = (key.to_owned(), value.into());
        Self { key, value }
    }
}

/// Fields and rows of a text.
pub(crate) fn fields(text: &str) -> Vec<Fact> {
    let mut facts = Vec::new();
    for line in text.lines() {
        // The one field that debugfs.ocfs2 writes without a colon.
        let line = line.replace("Sub Alloc Group ", "Sub Alloc Group: ");
        let line = line.trim();
        let first = line.split_whitespace().next().unwrap_or("");
        let number = first.trim_start_matches('#').trim_end_matches('.');
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            facts.push(Fact::new(ROW, row(line)));
            continue;
        }
        let mut parts: Vec<String> = Vec::new();
        for part in line.split("  ").map(str::trim).filter(|p| !p.is_empty()) {
            match parts.last_mut() {
                // Part of a value.
                Some(last) if !part.contains(": ") && !part.ends_with(':') => {
                    last.push(' ');
                    last.push_str(part);
                }
                _ => parts.push(part.to_owned()),
            }
        }
        for part in parts {
            if let Some((key, value)) = part.split_once(':') {
                facts.push(Fact::new(key, normal(key, value.trim())));
            }
        }
    }
    facts
}

/// The words of a row. We add targets to links; dates are 22-Nov-2026 there and 2026-11-22 here.
fn row(line: &str) -> String {
    let line = line.split(" -> ").next().unwrap_or("");
    let words = line.split_whitespace().map(|word| {
        let date: Vec<&str> = word.split('-').collect();
        match date[..] {
            [day, month, year] if month_number(month).is_some() && year.len() == 4 => {
                format!("{year}{:02}{day:0>2}", month_number(month).unwrap_or(0))
            }
            _ => word.to_lowercase().replace('-', ""),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn month_number(name: &str) -> Option<usize> {
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let at = (name.len() == 3).then(|| months.find(name)).flatten()?;
    at.is_multiple_of(3).then_some(at / 3 + 1)
}

/// Values that are spelled differently; what is compared is what they mean.
fn normal(key: &str, value: &str) -> String {
    match key {
        // The hexadecimal seconds come first.
        "ctime" | "atime" | "mtime" | "dtime" => value.split(" -- ").next().unwrap().to_owned(),
        "Last Check" => date(value),
        // It gives the number only.
        "Attr" => value.split(' ').next().unwrap().to_owned(),
        // It leaves out the bits above the permissions.
        "Mode" => format!("{:o}", u32::from_str_radix(value, 8).unwrap() & 0o777),
        // It takes numbers for signed, and adds the names of its own machine's users.
        "User" | "Group" if value.contains(|c: char| c.is_ascii_digit()) => {
            let number: i64 = value.split(' ').next().unwrap().parse().unwrap();
            number.rem_euclid(1 << 32).to_string()
        }
        "Type" => match value {
            "Symbolic Link" => "symlink".to_owned(),
            "Char Device" | "Character Device" => "char device".to_owned(),
            // Of a block of a journal: the number, then a name of the kernel's source.
            other if other.starts_with(|c: char| c.is_ascii_digit()) => {
                other.split(' ').next().unwrap().to_owned()
            }
            other => other.to_lowercase(),
        },
        // It has no name for the bit of quota files.
        "Flags" => words(&value.replace("quota", "")),
        "Clusters" | "Cluster" => value.to_owned(),
        // What the images in a journal are is a title behind the number of the block.
        _ if key.starts_with("Block ") => words(value),
        _ => words(value),
    }
}

/// Words in any order, in one spelling.
fn words(text: &str) -> String {
    let mut words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.replace('-', "").to_lowercase())
        .map(|word| match word.as_str() {
            // The same bits under two names.
            "allocbitmap" => "bitmap".to_owned(),
            "hasxattr" => "xattr".to_owned(),
            "orphan" => "orphaned".to_owned(),
            "hasrefcount" => "refcounted".to_owned(),
            _ => word,
        })
        .collect();
    words.sort();
    words.join(" ")
}

/// `Sun Nov 22 21:52:39 2026` and `2026-11-22 21:52:39 UTC` in one form.
fn date(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [_, month, day, time, year] => {
            format!(
                "{year}-{:02}-{day:0>2} {time}",
                month_number(month).unwrap()
            )
        }
        _ => text.trim_end_matches(" UTC").to_owned(),
    }
}

/// The words of each line, as they are.
pub(crate) fn lines(text: &str) -> Vec<Fact> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .map(|line| Fact::new(ROW, line))
        .collect()
}

/// The lines of a listing: the words up to the target of a link, dates in one form.
pub(crate) fn listing(text: &str) -> Vec<Fact> {
    let lines = text.lines().map(row).filter(|row| !row.is_empty());
    lines.map(|line| Fact::new(ROW, line)).collect()
}

/// The numbers of a text; debugfs.ocfs2 puts three runs of a group into a line.
pub(crate) fn numbers(text: &str) -> Vec<Fact> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| Fact::new("number", digits))
        .collect()
}

/// The blocks of a refcount tree in order of their keys: root, its extent tree, leaves.
/// debugfs.ocfs2 goes from the last leaf to the first.
pub(crate) fn refcounts(text: &str) -> Vec<Fact> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim().starts_with("SubAlloc Bit") || blocks.is_empty() {
            blocks.push(String::new());
        }
        let last = blocks.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
    }
    blocks.sort_by_key(|block| {
        let number = |name: &str| -> Option<u64> {
            let value = block.split(name).nth(1)?;
            value.split_whitespace().next()?.parse().ok()
        };
        match (number("Parent: "), number("Cpos: ")) {
            (Some(0), _) => (0, 0),
            (Some(_), cpos) => (2, cpos.unwrap_or(0)),
            (None, _) => (1, 0),
        }
    });
    fields(&blocks.concat())
}

/// Each set of attributes as one fact: where, how many, and the rows without our hashes. In any
/// order: debugfs.ocfs2 goes from the last bucket to the first.
pub(crate) fn xattrs(text: &str) -> Vec<Fact> {
    let mut areas: Vec<Fact> = Vec::new();
    let mut total = Vec::new();
    for line in text.lines() {
        let lower = line.trim().to_lowercase();
        let Some(rest) = lower.strip_prefix("extended attributes ") else {
            let words: Vec<&str> = lower.split_whitespace().collect();
            let is_row = |word: &str| {
                let digits = word.strip_prefix('#').unwrap_or("");
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
            };
            if let Some(area) = areas.last_mut()
                && words.first().is_some_and(|word| is_row(word))
            {
                area.value += &format!("; {}", words[..5].join(" "));
            }
            continue;
        };
        let (place, count) = rest.rsplit_once(':').unwrap_or((rest, ""));
        let count = count.trim();
        match place.split([' ', '#']).collect::<Vec<_>>()[..] {
            ["in", "total"] => total.push(Fact::new("total", count)),
            // It says of each inode that it has none; we name what there is.
            ["inline"] if count == "0" => {}
            ["inline"] | ["in", "inode", ..] => areas.push(Fact::new("inode", count)),
            ["in", "block", .., block] => {
                areas.push(Fact::new("block", format!("{block} {count}")))
            }
            // It numbers the buckets of a record from 0; we give their blocks.
            ["in", "bucket", ..] => areas.push(Fact::new("bucket", count)),
            // The tree of buckets: what is in the buckets is compared.
            _ => {}
        }
    }
    areas.sort_by(|a, b| (&a.key, &a.value).cmp(&(&b.key, &b.value)));
    [areas, total].concat()
}

/// Paths in any order; debugfs.ocfs2 puts a slash behind directories.
pub(crate) fn paths(text: &str) -> Vec<Fact> {
    let mut found: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| match line.split_once('\t') {
            Some((inode, path)) if path.trim_matches('/').is_empty() => format!("{inode} {path}"),
            Some((inode, path)) => format!("{inode} {}", path.trim_end_matches('/')),
            None => line.to_owned(),
        })
        .collect();
    found.sort();
    found.into_iter().map(|line| Fact::new(ROW, line)).collect()
}

/// The first two words of each line.
pub(crate) fn pairs(text: &str) -> Vec<Fact> {
    let pair = |line: &str| {
        line.split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines()
        .map(|line| Fact::new(ROW, pair(line)))
        .collect()
}
