//! Parts of a block by name: `i_size`, `l_recs[3].e_cpos`, `dirent[2].name`.
//!
//! A path is made of names with dots between them. A name is that of a part in the dump; where
//! there are several like parts, `name[N]` is one of them and `name` all. A `*` stands for any
//! characters. Parts that only hold others need not be named: a name is looked for among the parts
//! of what is before it, then among their parts, and so on, up to the first level that has it. So
//! `e_cpos` of an inode is `id2.i_list.l_recs[*].e_cpos`.
//!
//! What is found knows its offset, length and encoding, so that it can be set as well as printed.

use super::{Name, Node, Value};

/// A part of a block with its whole path, which finds it again.
#[derive(Clone, Debug)]
pub struct Found<'n, 'a> {
    /// The names on the way to it.
    pub path: String,
    /// The part.
    pub node: &'n Node<'a>,
}

/// The parts that a path names, in order; none when there are no such parts. An empty path names
/// the whole block.
#[must_use]
pub fn select<'n, 'a>(root: &'n Node<'a>, path: &str) -> Vec<Found<'n, 'a>> {
    let mut found = vec![Found {
        path: String::new(),
        node: root,
    }];
    if path.is_empty() {
        return found;
    }
    for name in path.split('.') {
        found = found.iter().flat_map(|from| below(from, name)).collect();
    }
    found
}

impl<'n, 'a> Found<'n, 'a> {
    /// The leaves of the part: itself, when it has no parts.
    #[must_use]
    pub fn leaves(&self) -> Vec<Found<'n, 'a>> {
        let mut leaves = Vec::new();
        let mut pending = vec![self.clone()];
        while let Some(next) = pending.pop() {
            match &next.node.value {
                Value::Group(_) => pending.extend(next.parts().into_iter().rev()),
                _ => leaves.push(next),
            }
        }
        leaves
    }

    fn parts(&self) -> Vec<Found<'n, 'a>> {
        let Value::Group(parts) = &self.node.value else {
            return Vec::new();
        };
        let dot = if self.path.is_empty() { "" } else { "." };
        parts
            .iter()
            .map(|node| Found {
                path: format!("{}{dot}{}", self.path, node.name),
                node,
            })
            .collect()
    }
}

/// The parts of a name on the first level below `from` that has any.
fn below<'n, 'a>(from: &Found<'n, 'a>, name: &str) -> Vec<Found<'n, 'a>> {
    let mut level = from.parts();
    // As deep as the field tables, which is a few levels.
    while !level.is_empty() {
        let found: Vec<_> = level.iter().filter(|f| is(f.node.name, name)).collect();
        if !found.is_empty() {
            return found.into_iter().cloned().collect();
        }
        level = level.iter().flat_map(Found::parts).collect();
    }
    Vec::new()
}

/// Whether a part goes by a name.
fn is(name: Name, pattern: &str) -> bool {
    match name {
        Name::Field(field) => matches(field.as_bytes(), pattern.as_bytes()),
        Name::Item(items, _) => {
            matches(items.as_bytes(), pattern.as_bytes())
                || matches(name.to_string().as_bytes(), pattern.as_bytes())
        }
    }
}

/// Whether a pattern, in which `*` stands for any characters, is all of a text.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut wanted) = (0, 0);
    // Where to go on when the last `*` has to take one character more.
    let mut retry = None;
    while at < text.len() {
        match pattern.get(wanted) {
            Some(b'*') => {
                retry = Some((wanted + 1, at + 1));
                wanted += 1;
            }
            Some(byte) if text.get(at) == Some(byte) => {
                at += 1;
                wanted += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    (wanted, at) = (after, from);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    let rest = pattern.get(wanted..).unwrap_or_default();
    rest.iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MetaBlock;
    use crate::dump::{BlockKind, dump};
    use crate::layout::{Dinode, ExtentBlock};

    fn paths(root: &Node<'_>, path: &str) -> Vec<String> {
        select(root, path).into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn names_lead_to_parts() {
        let mut block = vec![0; 512];
        block[..8].copy_from_slice(&Dinode::SIGNATURE);
        block[0x20] = 77;
        block[0x28..0x2a].copy_from_slice(&0o100_644u16.to_le_bytes());
        // Three records of depth 0.
        block[0xc2] = 18;
        block[0xc4] = 3;
        block[0xd0 + 16] = 9;
        let root = dump(BlockKind::Dinode, &block);
        let size = select(&root, "i_size");
        assert_eq!((size.len(), size[0].node.offset), (1, 0x20));
        assert_eq!(size[0].node.value_text(), "77");
        let second = select(&root, "l_recs[1].e_cpos");
        assert_eq!(second[0].path, "id2.i_list.l_recs[1].e_cpos");
        assert_eq!(second[0].node.offset, 0xe0);
        assert_eq!(second[0].node.value_text(), "9");
        // The path that is told finds the same again.
        let again = select(&root, &second[0].path);
        assert_eq!((again.len(), again[0].node.offset), (1, 0xe0));
        for all in ["e_cpos", "l_recs.e_cpos", "l_recs[*].e_cpos", "id2.e_cpos"] {
            assert_eq!(paths(&root, all).len(), 3, "{all}");
        }
        let times = paths(&root, "i_*time");
        assert_eq!(times, ["i_atime", "i_ctime", "i_mtime", "i_dtime"]);
        for none in [
            "i_siz",
            "l_recs[3]",
            "l_recs[1].i_size",
            "i_size.",
            ".",
            "i_size.x",
        ] {
            assert!(paths(&root, none).is_empty(), "{none}");
        }
        let all = select(&root, "")[0].leaves();
        let bytes: usize = all.iter().map(|leaf| leaf.node.raw.len()).sum();
        assert_eq!(bytes, 512);
    }

    #[test]
    fn every_leaf_is_found_by_its_path() {
        let mut block = vec![0; 4096];
        block[..8].copy_from_slice(&ExtentBlock::SIGNATURE);
        block[0x34] = 200;
        let root = dump(BlockKind::ExtentBlock, &block);
        for leaf in select(&root, "")[0].leaves() {
            let found = select(&root, &leaf.path);
            let found: Vec<usize> = found.iter().map(|f| f.node.offset).collect();
            assert!(found.contains(&leaf.node.offset), "{}", leaf.path);
        }
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "a*c", true),
            ("abc", "*", true),
            ("abc", "**", true),
            ("abcbc", "a*bc", true),
            ("abc", "a*b", false),
            ("abc", "", false),
            ("", "*", true),
            ("abc", "abcd", false),
            ("abc", "*d*", false),
        ] {
            let found = matches(text.as_bytes(), pattern.as_bytes());
            assert_eq!(found, expected, "{text} {pattern}");
        }
    }
}
