//! What a volume holds, inode by inode, and what of it is lost in another state of the volume.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::ops::manifest::{self, Entry, Fields, text};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;

use super::census::Forced;

/// Sharing is no part of it: a cluster may be parted.
const FIELDS: Fields = Fields {
    sums: true,
    times: true,
    xattrs: true,
    sharing: false,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    /// All facts but names, links and attributes; of a directory, what it says of itself.
    facts: String,
    attributes: String,
}

/// The objects of a volume and their names.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    objects: BTreeMap<BlockNo, Object>,
    paths: BTreeMap<Vec<u8>, BlockNo>,
}

/// What is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Objects gone or changed though their own blocks were not hit, by a name they had.
    pub others: Vec<String>,
    /// Objects gone or changed among those whose blocks were hit.
    pub own: usize,
    /// Names gone though nothing on their way was hit.
    pub names: Vec<String>,
}

fn facts(entry: &Entry) -> Object {
    let bare = Entry {
        path: Vec::new(),
        links: 1,
        hard_link: None,
        shares: Vec::new(),
        xattrs: Vec::new(),
        mtime: entry
            .mtime
            .filter(|_| entry.kind != Some(FileType::Directory)),
        ..entry.clone()
    };
    let mut facts = String::new();
    text::write(&mut facts, &bare);
    let attributes = format!("{:?}", entry.xattrs);
    Object { facts, attributes }
}

impl Contents {
    /// What a volume holds; of what cannot be read, that it cannot.
    #[must_use]
    pub fn of(view: View<'_>) -> Self {
        let mut contents = Self::default();
        let Ok(scanner) = Scanner::new(Some(1)) else {
            return contents;
        };
        let root = view.info().root;
        manifest::gather(&scanner, view, root, FIELDS, &|_| (), |found| {
            let (entry, blkno) = (found.entry, found.blkno);
            // Another name of a file has no sum of its own.
            if entry.hard_link.is_none() {
                contents.objects.insert(blkno, facts(&entry));
            }
            contents.paths.insert(entry.path, blkno);
            ControlFlow::Continue(())
        });
        contents
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a directory on the way to a path may have lost entries.
    fn way_is_hit(&self, path: &[u8], forced: &Forced) -> bool {
        let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([0]);
        let mut ways = ends.map(|end| self.paths.get(&path[..end]));
        ways.any(|inode| inode.is_some_and(|inode| forced.names.contains(inode)))
    }

    /// What of this is not in a later state, of which so much was bound to be lost.
    #[must_use]
    pub fn lost(&self, after: &Self, forced: &Forced) -> Losses {
        let mut losses = Losses::default();
        let names: BTreeMap<BlockNo, &Vec<u8>> = self
            .paths
            .iter()
            .map(|(path, inode)| (*inode, path))
            .collect();
        for (inode, before) in &self.objects {
            let now = after.objects.get(inode);
            let same_facts = now.is_some_and(|now| now.facts == before.facts);
            let same = same_facts && now.is_some_and(|now| now.attributes == before.attributes);
            if same {
                continue;
            }
            let bound =
                forced.objects.contains(inode) || (same_facts && forced.attributes.contains(inode));
            if bound {
                losses.own += 1;
                continue;
            }
            let name = names.get(inode).map_or(&[][..], |name| name.as_slice());
            let what = if now.is_none() { "gone" } else { "changed" };
            let name = text::shown_path(name);
            losses.others.push(format!("{name} (inode {inode}) {what}"));
        }
        let gone: BTreeSet<&Vec<u8>> = self
            .paths
            .iter()
            .filter(|(path, inode)| {
                after.paths.get(*path) != Some(inode)
                    && !forced.objects.contains(inode)
                    && !self.way_is_hit(path, forced)
            })
            .map(|(path, _)| path)
            .collect();
        losses.names = gone.iter().map(|path| text::shown_path(path)).collect();
        losses
    }
}
