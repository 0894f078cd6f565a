//! Damage: for every entry of the catalogue a recipe that makes exactly it, on a volume that the
//! driver of Linux filled. A code without a recipe does not pass.
#![allow(clippy::unwrap_used)] // A test may panic.

mod flips;
mod healthy;
mod hostile;
mod lost;
mod patch;
mod recipes;
mod repairs;
mod trees;

use std::collections::BTreeSet;

use fsck_cowfs::catalogue::entries;
use patch::Patch;

/// A way to damage a volume, and the entry of the catalogue that must then be found.
pub(crate) struct Recipe {
    pub(crate) code: &'static str,
    pub(crate) name: &'static str,
    pub(crate) image: &'static str,
    pub(crate) damage: fn(&mut Patch),
}

/// Declares recipes: `CODE Variant image: |p| damage`.
macro_rules! define {
    ($( $code:ident $name:ident $image:literal: $damage:expr; )*) => {
        pub(crate) const RECIPES: &[$crate::Recipe] = &[
            $( $crate::Recipe {
                code: stringify!($code),
                name: stringify!($name),
                image: $image,
                damage: $damage,
            }, )*
        ];
    };
}
pub(crate) use define;

/// Codes of blocks whose very identity is damaged.
const IDENTITY: [&str; 7] = [
    "CHAIN_LINK_GEN",
    "EXTENT_EB_INVALID",
    "REFCOUNT_BLOCK_INVALID",
    "REFCOUNT_ROOT_BLOCK_INVALID",
    "XATTR_BLOCK_INVALID",
    "X_BACKUP_SUPER_INVALID",
    "X_SYSTEM_DIR_BLOCK",
];

fn all() -> impl Iterator<Item = &'static Recipe> {
    recipes::RECIPES.iter().chain(trees::RECIPES)
}

#[test]
fn every_problem_has_a_recipe() {
    let known: BTreeSet<_> = entries().map(|entry| (entry.code, entry.name)).collect();
    let made: BTreeSet<_> = all().map(|recipe| (recipe.code, recipe.name)).collect();
    let missing: Vec<_> = known.difference(&made).collect();
    let unknown: Vec<_> = made.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "no recipe: {missing:?}; no entry: {unknown:?}"
    );
}

#[test]
fn every_recipe_is_seen() {
    let mut blind = Vec::new();
    for recipe in all() {
        let mut patch = Patch::new(recipe.image, true);
        (recipe.damage)(&mut patch);
        let checked = patch.check(2).unwrap();
        let found: Vec<_> = checked
            .findings
            .iter()
            .map(|finding| (finding.problem.code(), finding.problem.entry().name))
            .collect();
        if !found.contains(&(recipe.code, recipe.name)) {
            let found: BTreeSet<_> = found.into_iter().collect();
            blind.push(format!("{} {}: found {found:?}", recipe.code, recipe.name));
        }
    }
    assert!(blind.is_empty(), "{}", blind.join("\n"));
}

/// The same damage without a new check is seen by the check alone.
#[test]
fn unstamped_damage_is_seen_by_its_checksum() {
    let mut blind = Vec::new();
    for recipe in all() {
        let mut patch = Patch::new(recipe.image, false);
        (recipe.damage)(&mut patch);
        if !patch.checked_blocks {
            continue;
        }
        let Ok(checked) = patch.check(1) else {
            // The superblock itself: the volume does not open.
            continue;
        };
        // Nobody tests the check of a free block, and the copy's own is right.
        if recipe.code == "X_INODE_COPY" {
            continue;
        }
        let codes = checked.codes();
        // Where a block is no longer what it was, that is told instead.
        if IDENTITY.contains(&recipe.code) && codes.contains(&recipe.code) {
            continue;
        }
        // A block of a quota file of no use is told of its file, a superblock of the volume.
        let told = |code: &&str| {
            let known = ["BAD_CRC32", "X_QUOTA_INVALID", "X_SUPERBLOCK_LOST"];
            known.contains(code) || code.starts_with("X_ECC_")
        };
        if !codes.iter().any(told) {
            blind.push(format!("{} {}: {codes:?}", recipe.code, recipe.name));
        }
    }
    assert!(blind.is_empty(), "{}", blind.join("\n"));
}

/// The number of threads changes nothing.
#[test]
fn threads_change_nothing() {
    for recipe in all().step_by(3) {
        let mut patch = Patch::new(recipe.image, true);
        (recipe.damage)(&mut patch);
        let text = |threads| {
            let report = patch.check(threads).unwrap().report("volume");
            let mut text = Vec::new();
            report.json(&mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(text(1), text(8), "{}", recipe.code);
    }
}
