//! Whose files become whose.

use anyhow::{Context, Result, bail};

/// A range of numbers that becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    from: u32,
    to: u32,
    count: u32,
}

impl Map {
    /// `FROM:TO`, or `FROM:TO:COUNT` for a range.
    ///
    /// # Errors
    /// It is none of both.
    pub fn parse(text: &str) -> Result<Self> {
        let mut numbers = Vec::new();
        for word in text.split(':') {
            let number: u32 = word
                .parse()
                .with_context(|| format!("\"{word}\" is no number"))?;
            numbers.push(number);
        }
        match numbers.as_slice() {
            [from, to] => Ok(Self {
                from: *from,
                to: *to,
                count: 1,
            }),
            [from, to, count] => Ok(Self {
                from: *from,
                to: *to,
                count: *count,
            }),
            _ => bail!("\"{text}\" is neither FROM:TO nor FROM:TO:COUNT"),
        }
    }

    fn apply(maps: &[Self], id: u32) -> u32 {
        let hit = maps.iter().find(|map| {
            id.checked_sub(map.from)
                .is_some_and(|skip| skip < map.count)
        });
        hit.map_or(id, |map| map.to.wrapping_add(id - map.from))
    }
}

/// Whose the files of a volume are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// All files belong to 0:0.
    pub all_root: bool,
    /// Owner and group of the root directory, whatever the source says.
    pub root: Option<(u32, u32)>,
    /// What becomes of users.
    pub users: Vec<Map>,
    /// What becomes of groups.
    pub groups: Vec<Map>,
}

impl Owners {
    /// Owner and group of a member whose path is `path`.
    pub(crate) fn of(&self, path: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        if let Some(root) = self.root.filter(|_| path.is_empty()) {
            return root;
        }
        if self.all_root {
            return (0, 0);
        }
        (Map::apply(&self.users, uid), Map::apply(&self.groups, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_move_and_others_stay() {
        let owners = Owners {
            users: vec![
                Map::parse("1000:0").unwrap(),
                Map::parse("5:100:3").unwrap(),
            ],
            root: Some((7, 8)),
            ..Owners::default()
        };
        assert_eq!(owners.of(b"a", 1000, 1000), (0, 1000));
        assert_eq!(owners.of(b"a", 7, 0), (102, 0));
        assert_eq!(owners.of(b"a", 8, 0), (8, 0));
        assert_eq!(owners.of(b"", 8, 0), (7, 8));
        for wrong in ["", "1", "a:b", "1:2:3:4"] {
            Map::parse(wrong).unwrap_err();
        }
    }
}
