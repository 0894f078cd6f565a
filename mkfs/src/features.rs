//! Feature sets: the levels, and what `--fs-features` adds to and takes from them.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{Compat, Features, Incompat, RoCompat};

/// Compat features of every level.
const COMPAT: u32 = Compat::BACKUP_SB.bits() | Compat::JBD2_SB.bits();
/// Incompat features that `mkfs.ocfs2` sets by default.
const COMMON: u32 = Incompat::SPARSE_ALLOC.bits()
    | Incompat::INLINE_DATA.bits()
    | Incompat::EXTENDED_SLOT_MAP.bits()
    | Incompat::XATTR.bits()
    | Incompat::INDEXED_DIRS.bits()
    | Incompat::REFCOUNT_TREE.bits()
    | Incompat::DISCONTIG_BG.bits()
    | Incompat::APPEND_DIO.bits();
/// The quotas.
const QUOTAS: u32 = RoCompat::USRQUOTA.bits() | RoCompat::GRPQUOTA.bits();

/// The level `default`: what `mkfs.ocfs2` sets, and checked metadata.
pub const DEFAULT: Features = Features::from_words(
    COMPAT,
    COMMON | Incompat::META_ECC.bits(),
    RoCompat::UNWRITTEN.bits(),
);
/// The level `max-compat`: what the oldest drivers mount.
pub const MAX_COMPAT: Features = Features::from_words(COMPAT, 0, 0);
/// The level `max-features`: everything.
pub const MAX_FEATURES: Features = Features::from_words(
    COMPAT,
    COMMON | Incompat::META_ECC.bits(),
    RoCompat::UNWRITTEN.bits() | QUOTAS,
);

/// A feature that can be named, with what naming it switches on and off.
struct Named {
    name: &'static str,
    on: [u32; 3],
    off: [u32; 3],
}

const fn incompat(name: &'static str, bit: Incompat) -> Named {
    Named {
        name,
        on: [0, bit.bits(), 0],
        off: [0, bit.bits(), 0],
    }
}

const fn ro_compat(name: &'static str, bit: RoCompat) -> Named {
    Named {
        name,
        on: [0, 0, bit.bits()],
        off: [0, 0, bit.bits()],
    }
}

/// All features that can be named. Unwritten extents need holes: the one switches the other on,
/// and holes cannot be switched off while unwritten extents stay.
const NAMED: [Named; 15] = [
    incompat("local", Incompat::LOCAL_MOUNT),
    Named {
        name: "sparse",
        on: [0, Incompat::SPARSE_ALLOC.bits(), 0],
        off: [0, Incompat::SPARSE_ALLOC.bits(), RoCompat::UNWRITTEN.bits()],
    },
    Named {
        name: "backup-super",
        on: [Compat::BACKUP_SB.bits(), 0, 0],
        off: [Compat::BACKUP_SB.bits(), 0, 0],
    },
    Named {
        name: "unwritten",
        on: [0, Incompat::SPARSE_ALLOC.bits(), RoCompat::UNWRITTEN.bits()],
        off: [0, 0, RoCompat::UNWRITTEN.bits()],
    },
    incompat("extended-slotmap", Incompat::EXTENDED_SLOT_MAP),
    incompat("inline-data", Incompat::INLINE_DATA),
    incompat("metaecc", Incompat::META_ECC),
    incompat("xattr", Incompat::XATTR),
    incompat("indexed-dirs", Incompat::INDEXED_DIRS),
    ro_compat("usrquota", RoCompat::USRQUOTA),
    ro_compat("grpquota", RoCompat::GRPQUOTA),
    incompat("refcount", Incompat::REFCOUNT_TREE),
    incompat("discontig-bg", Incompat::DISCONTIG_BG),
    incompat("clusterinfo", Incompat::CLUSTERINFO),
    incompat("append-dio", Incompat::APPEND_DIO),
];

/// The names that `--fs-features` takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|named| named.name)
}

/// The feature set of a level.
///
/// # Errors
/// There is no such level.
pub fn level(name: &str) -> Result<Features> {
    match name {
        "default" => Ok(DEFAULT),
        "max-compat" => Ok(MAX_COMPAT),
        "max-features" => Ok(MAX_FEATURES),
        _ => Err(Error::Input {
            what: format!(
                "feature level \"{name}\" is not known; give default, max-compat or max-features"
            ),
        }),
    }
}

/// What a list of features asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    on: [u32; 3],
    off: [u32; 3],
}

impl Change {
    /// Reads lists such as `sparse,nometaecc`.
    ///
    /// # Errors
    /// A name is not known, or a feature is asked for and asked away.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut change = Self::default();
        for word in lists.into_iter().flat_map(|list| list.split(',')) {
            if word.is_empty() {
                continue;
            }
            let (name, on) = match word.strip_prefix("no") {
                Some(rest) => (rest, false),
                None => (word, true),
            };
            let Some(named) = NAMED.iter().find(|named| named.name == name) else {
                let all: Vec<_> = names().collect();
                return Err(Error::Input {
                    what: format!(
                        "feature \"{word}\" is not known; the names are {}, each also with \"no\" \
                         in front",
                        all.join(", ")
                    ),
                });
            };
            let (words, bits) = if on {
                (&mut change.on, named.on)
            } else {
                (&mut change.off, named.off)
            };
            for (word, bit) in words.iter_mut().zip(bits) {
                *word |= bit;
            }
        }
        let clash: Vec<_> = NAMED
            .iter()
            .filter(|named| (0..3).any(|i| named.off[i] & change.on[i] & change.off[i] != 0))
            .map(|named| named.name)
            .collect();
        if clash.is_empty() {
            Ok(change)
        } else {
            Err(Error::Input {
                what: format!(
                    "features asked for and asked away at once: {}; leave one out",
                    clash.join(", ")
                ),
            })
        }
    }

    /// Whether the list asks for a local mount (`Some(true)`) or against it (`Some(false)`).
    #[must_use]
    pub const fn local(&self) -> Option<bool> {
        let bit = Incompat::LOCAL_MOUNT.bits();
        if self.on[1] & bit != 0 {
            Some(true)
        } else if self.off[1] & bit != 0 {
            Some(false)
        } else {
            None
        }
    }

    /// The features of a level with this change.
    #[must_use]
    pub const fn apply(&self, level: Features) -> Features {
        Features::from_words(
            (level.compat.bits() | self.on[0]) & !self.off[0],
            (level.incompat.bits() | self.on[1]) & !self.off[1],
            (level.ro_compat.bits() | self.on[2]) & !self.off[2],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(features: Features) -> [u32; 3] {
        [
            features.compat.bits(),
            features.incompat.bits(),
            features.ro_compat.bits(),
        ]
    }

    #[test]
    fn levels_are_those_of_the_format() {
        // As mkfs.ocfs2 1.8.7 writes them, but for metaecc (0x800) in the default level.
        assert_eq!(words(DEFAULT), [3, 0xB750 | 0x800, 1]);
        assert_eq!(words(MAX_COMPAT), [3, 0, 0]);
        assert_eq!(words(MAX_FEATURES), [3, 0xBF50, 7]);
    }

    #[test]
    fn dependencies_are_resolved() {
        let on = Change::parse(["unwritten"]).unwrap();
        assert_eq!(words(on.apply(MAX_COMPAT)), [3, 0x10, 1]);
        let off = Change::parse(["nosparse"]).unwrap();
        assert_eq!(words(off.apply(MAX_FEATURES)), [3, 0xBF40, 6]);
    }

    #[test]
    fn contradictions_and_unknown_names_are_refused() {
        for (list, word) in [
            ("sparse,nosparse", "sparse"),
            ("nosparse,unwritten", "sparse"),
            ("sparze", "sparze"),
            ("no", "no"),
        ] {
            let message = Change::parse([list]).unwrap_err().to_string();
            assert!(message.contains(word), "{list}: {message}");
        }
    }
}
