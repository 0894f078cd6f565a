//! A plain model of a tree of files, and random operations done to it and to a volume alike.

#![allow(clippy::unwrap_used)] // Part of tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use cowfs_format::block::View;
use cowfs_format::layout::{FileType, Incompat, RoCompat};
use cowfs_format::ops::{self, Change, CloneOptions};
use cowfs_format::read::{dir, file::FileReader, inode, xattr};
use cowfs_format::txn::{NewInode, Txn};
use cowfs_format::units::{BlockNo, index, low16, low32};
use cowfs_format::volume::path;
use std::ops::ControlFlow;

use crate::session::{NOW, pattern};

/// A small generator; the same seed gives the same numbers for ever (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len().max(1) as u64);
        of.get(index(at))
    }
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A device or FIFO, with its number.
    Node(u64),
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub what: What,
    /// Mode, with the type.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Number of names; of a directory, what Linux counts.
    pub links: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The tree that a volume should hold: inodes by number, and paths without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Model {
    inodes: BTreeMap<u32, Node>,
    names: BTreeMap<Vec<u8>, u32>,
    next: u32,
}

fn parent_of(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/');
    path[..slash.unwrap_or(0)].to_vec()
}

fn name_of(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&b| b == b'/');
    &path[slash.map_or(0, |at| at + 1)..]
}

impl Model {
    /// All paths with what they name; names of the same file come with equal numbers.
    #[must_use]
    pub fn listing(&self) -> BTreeMap<Vec<u8>, Node> {
        self.names
            .iter()
            .map(|(path, id)| (path.clone(), self.inodes[id].clone()))
            .collect()
    }

    pub(crate) fn paths(&self, keep: impl Fn(&Node) -> bool) -> Vec<Vec<u8>> {
        let kept = self.names.iter().filter(|(_, id)| keep(&self.inodes[id]));
        kept.map(|(path, _)| path.clone()).collect()
    }

    pub(crate) fn files(&self) -> Vec<Vec<u8>> {
        self.paths(|node| matches!(node.what, What::File(_)))
    }

    fn directories(&self) -> Vec<Vec<u8>> {
        let mut found = self.paths(|node| node.what == What::Directory);
        found.push(Vec::new());
        found
    }

    pub(crate) fn node(&mut self, path: &[u8]) -> &mut Node {
        let id = self.names[path];
        self.inodes.get_mut(&id).unwrap()
    }

    pub(crate) fn bytes(&mut self, path: &[u8]) -> &mut Vec<u8> {
        match &mut self.node(path).what {
            What::File(bytes) => bytes,
            other => panic!("{other:?} is no file"),
        }
    }

    pub(crate) fn add(&mut self, path: &[u8], node: Node) {
        self.next += 1;
        if node.what == What::Directory {
            self.count(&parent_of(path), 1);
        }
        self.inodes.insert(self.next, node);
        self.names.insert(path.to_vec(), self.next);
    }

    /// Counts a directory more or less in its parent.
    fn count(&mut self, parent: &[u8], by: i32) {
        if let Some(id) = self.names.get(parent) {
            let node = self.inodes.get_mut(id).unwrap();
            node.links = node.links.saturating_add_signed(by);
        }
    }

    pub(crate) fn remove(&mut self, path: &[u8]) {
        let id = self.names.remove(path).unwrap();
        let node = self.inodes.get_mut(&id).unwrap();
        if node.what == What::Directory {
            node.links = 0;
            self.count(&parent_of(path), -1);
        } else {
            node.links -= 1;
        }
        if self.inodes[&id].links == 0 {
            self.inodes.remove(&id);
        }
    }

    pub(crate) fn is_empty(&self, directory: &[u8]) -> bool {
        let inside = [directory, b"/"].concat();
        !self.names.keys().any(|path| path.starts_with(&inside))
    }

    /// Gives a file another name.
    pub(crate) fn link(&mut self, from: &[u8], to: &[u8]) {
        self.node(from).links += 1;
        let id = self.names[from];
        self.names.insert(to.to_vec(), id);
    }

    /// Whether two paths name the same inode.
    pub(crate) fn same(&self, one: &[u8], other: &[u8]) -> bool {
        self.names.get(one) == self.names.get(other)
    }

    /// Moves a name, over another one if need be.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) {
        if self.same(from, to) {
            return; // Two names of one file: nothing happens.
        }
        if self.names.contains_key(to) {
            self.remove(to);
        }
        if self.node(from).what == What::Directory {
            self.count(&parent_of(from), -1);
            self.count(&parent_of(to), 1);
        }
        let id = self.names.remove(from).unwrap();
        self.names.insert(to.to_vec(), id);
        let inside = [from, b"/"].concat();
        let moved = self.names.keys().filter(|path| path.starts_with(&inside));
        for path in moved.cloned().collect::<Vec<_>>() {
            let id = self.names.remove(&path).unwrap();
            let renamed = [to, b"/", &path[inside.len()..]].concat();
            self.names.insert(renamed, id);
        }
    }

    /// A path that does not exist, of letters that every kernel hashes alike.
    pub(crate) fn new_ascii_path(&self, rng: &mut Rng) -> Vec<u8> {
        let directories = self.directories();
        let directory = rng.pick(&directories).unwrap();
        loop {
            let name = format!("made {}", rng.below(100_000));
            let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            let path = [&directory[..], slash, name.as_bytes()].concat();
            if !self.names.contains_key(&path) {
                return path;
            }
        }
    }

    /// A path that does not exist, in a directory that does.
    fn new_path(&self, rng: &mut Rng) -> Vec<u8> {
        let mut directories = self.directories();
        // Below a longer path, no name would do.
        directories.retain(|path| path.len() < 700);
        let directory = rng.pick(&directories).unwrap();
        loop {
            let n = rng.below(5000);
            let name = match rng.below(4) {
                0 => format!("n{n}"),
                1 => format!("\u{e9}t\u{e9} {n}"),
                2 => format!("{}{n}", "long name ".repeat(index(rng.below(20)))),
                _ => format!("file-{n}.txt"),
            };
            let path = if directory.is_empty() {
                name.into_bytes()
            } else {
                [&directory[..], b"/", name.as_bytes()].concat()
            };
            if !self.names.contains_key(&path) && path.len() < 900 {
                return path;
            }
        }
    }
}

fn find(txn: &Txn<'_>, path: &[u8]) -> BlockNo {
    let view = txn.view();
    path::resolve(view, view.info().root, &[b"/", path].concat()).unwrap()
}

fn place(txn: &Txn<'_>, path: &[u8]) -> (BlockNo, Vec<u8>) {
    (find(txn, &parent_of(path)), name_of(path).to_vec())
}

/// A temporary file with these bytes; long runs of zeros are holes.
fn host(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (i, part) in bytes.chunks(4096).enumerate() {
        if part.iter().any(|b| *b != 0) {
            file.write_all_at(part, i as u64 * 4096).unwrap();
        }
    }
    (&file).flush().unwrap();
    file
}

fn random_bytes(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(4) {
        0 => rng.below(60),
        1 => rng.below(5000),
        2 => rng.below(40_000),
        _ => rng.below(300_000),
    };
    let mut bytes = pattern(index(len), rng.below(1 << 40));
    if len > 30_000 && rng.below(2) == 0 {
        let (from, to) = (len / 3, len / 2);
        bytes[index(from)..index(to)].fill(0);
    }
    bytes
}

/// Does one random operation to the model and, by `txn`, to the volume.
///
/// # Panics
/// The volume refuses what the model allows.
#[allow(clippy::too_many_lines, reason = "a list of operations")]
pub fn step(model: &mut Model, rng: &mut Rng, txn: &mut Txn<'_>) {
    let features = txn.info().features;
    let owner = (low32(rng.below(5)), low32(rng.below(3)));
    let files = model.files();
    let new = |mode: u16| NewInode::at(NOW, mode, owner.0, owner.1);
    let node = |what, mode| Node {
        links: if matches!(what, What::Directory) {
            2
        } else {
            1
        },
        what,
        mode,
        owner,
        xattrs: BTreeMap::new(),
    };
    match rng.below(20) {
        0 | 1 => {
            let path = model.new_path(rng);
            let (parent, name) = place(txn, &path);
            txn.make_directory(parent, &name, &new(0o040_750)).unwrap();
            model.add(&path, node(What::Directory, 0o040_750));
        }
        2..=4 => {
            let path = model.new_path(rng);
            let (parent, name) = place(txn, &path);
            let bytes = random_bytes(rng);
            let source = host(&bytes);
            let from = (&source, "source");
            ops::import_file(txn, parent, &name, from, &new(0o100_644), &|_| {}).unwrap();
            model.add(&path, node(What::File(bytes), 0o100_644));
        }
        5 => {
            let path = model.new_path(rng);
            let (parent, name) = place(txn, &path);
            let long = rng.below(2) * rng.below(4000) + 1;
            let target = b"x/".repeat(index(long))[..index(long)].to_vec();
            let target = target[..target.len().min(4095)].to_vec();
            ops::symlink(txn, parent, &name, &target, &new(0o120_777)).unwrap();
            model.add(&path, node(What::Symlink(target), 0o120_777));
        }
        6 => {
            let path = model.new_path(rng);
            let (parent, name) = place(txn, &path);
            let (mode, device) = if rng.below(2) == 0 {
                (0o010_600, 0)
            } else {
                (0o020_600, rng.below(1 << 31))
            };
            ops::make_node(txn, parent, &name, device, &new(mode)).unwrap();
            model.add(&path, node(What::Node(device), mode));
        }
        7 => {
            let all = model.paths(|node| node.what != What::Directory);
            let Some(from) = rng.pick(&all) else { return };
            let to = model.new_path(rng);
            let (parent, name) = place(txn, &to);
            let inode = find(txn, from);
            ops::link(txn, inode, parent, &name, NOW).unwrap();
            model.link(from, &to);
        }
        8 | 9 => {
            let all = model.paths(|node| node.what != What::Directory);
            let Some(path) = rng.pick(&all) else { return };
            let (parent, name) = place(txn, path);
            ops::unlink(txn, parent, &name, NOW).unwrap();
            model.remove(path);
        }
        10 => {
            let mut all = model.paths(|node| node.what == What::Directory);
            all.retain(|path| model.is_empty(path));
            let Some(path) = rng.pick(&all) else { return };
            let (parent, name) = place(txn, path);
            ops::rmdir(txn, parent, &name, NOW).unwrap();
            model.remove(path);
        }
        11 => rename(model, rng, txn),
        12 | 13 => {
            let Some(path) = rng.pick(&files) else { return };
            let inode = find(txn, path);
            let held = model.bytes(path);
            let offset = index(rng.below(held.len() as u64 * 3 / 2 + 5000));
            let bytes = random_bytes(rng);
            let source = host(&bytes);
            let from = (&source, "source");
            ops::overwrite(txn, inode, offset as u64, from, NOW, &|_| {}).unwrap();
            if !bytes.is_empty() {
                held.resize(held.len().max(offset + bytes.len()), 0);
                held[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
        14 => {
            let Some(path) = rng.pick(&files) else { return };
            let inode = find(txn, path);
            let held = model.bytes(path);
            let size = rng.below(held.len() as u64 * 3 / 2 + 3000);
            ops::truncate(txn, inode, size, NOW).unwrap();
            held.resize(index(size), 0);
        }
        15 if features.has(Incompat::SPARSE_ALLOC) => {
            let Some(path) = rng.pick(&files) else { return };
            let inode = find(txn, path);
            let held = model.bytes(path);
            let from = rng.below(held.len() as u64 + 1);
            let len = rng.below(held.len() as u64 + 5000);
            if rng.below(3) == 0 && features.ro_compat.contains(RoCompat::UNWRITTEN) {
                let keep = rng.below(2) == 0;
                ops::fallocate(txn, inode, (from, len), keep, NOW).unwrap();
                if !keep && len > 0 {
                    held.resize(held.len().max(index(from + len)), 0);
                }
            } else {
                ops::punch(txn, inode, (from, len), NOW).unwrap();
                let end = index(from + len).min(held.len());
                held[index(from)..end.max(index(from))].fill(0);
            }
        }
        16 if features.has(Incompat::REFCOUNT_TREE) => {
            let Some(from) = rng.pick(&files) else { return };
            let to = model.new_path(rng);
            let (parent, name) = place(txn, &to);
            let source = find(txn, from);
            let preserve = rng.below(2) == 0;
            let options = CloneOptions {
                preserve,
                uid: owner.0,
                gid: owner.1,
                now: NOW,
            };
            ops::clone_file(txn, source, parent, &name, &options).unwrap();
            let mut copy = model.node(from).clone();
            copy.links = 1;
            if !preserve {
                copy.owner = owner;
                copy.xattrs.clear();
            }
            model.add(&to, copy);
        }
        17 | 18 if features.has(Incompat::XATTR) => attributes(model, rng, txn),
        19 => {
            let all = model.paths(|_| true);
            let Some(path) = rng.pick(&all) else { return };
            let inode = find(txn, path);
            let held = model.node(path);
            let mut change = Change::default();
            if rng.below(2) == 0 {
                let mode = low16(rng.below(0o1000));
                change.mode = Some(mode);
                held.mode = held.mode & 0o170_000 | mode;
            } else {
                (change.uid, change.gid) = (Some(owner.0), Some(owner.1));
                held.owner = owner;
            }
            ops::change(txn, inode, &change, NOW).unwrap();
        }
        _ => {}
    }
}

/// Makes a file over `bytes` of free space and gives every second cluster of it back.
///
/// # Panics
/// There is not so much space.
pub fn ballast(model: &mut Model, txn: &mut Txn<'_>, name: &str, bytes: u64) {
    let root = txn.info().root;
    let new = NewInode::at(NOW, 0o100_644, 0, 0);
    let inode = ops::make_node(txn, root, name.as_bytes(), 0, &new).unwrap();
    ops::fallocate(txn, inode, (0, bytes), true, NOW).unwrap();
    let cluster = 1u64 << txn.view().geo().cluster_bits();
    for at in (0..bytes).step_by(index(2 * cluster)) {
        ops::punch(txn, inode, (at, cluster), NOW).unwrap();
    }
    let node = Node {
        what: What::File(Vec::new()),
        mode: 0o100_644,
        owner: (0, 0),
        links: 1,
        xattrs: BTreeMap::new(),
    };
    model.add(name.as_bytes(), node);
}

fn rename(model: &mut Model, rng: &mut Rng, txn: &mut Txn<'_>) {
    let all = model.paths(|_| true);
    let Some(from) = rng.pick(&all).cloned() else {
        return;
    };
    let directory = model.node(&from).what == What::Directory;
    let mut to = model.new_path(rng);
    if rng.below(3) == 0 {
        // Over something that exists.
        let mut targets = model.paths(|node| (node.what == What::Directory) == directory);
        targets.retain(|path| *path != from && (!directory || model.is_empty(path)));
        if let Some(path) = rng.pick(&targets) {
            to.clone_from(path);
        }
    }
    let inside = [&from[..], b"/"].concat();
    if to.starts_with(&inside) {
        let (old, new) = (place(txn, &from), place(txn, &to));
        ops::rename(txn, (old.0, &old.1), (new.0, &new.1), NOW).unwrap_err();
        return;
    }
    let (old, new) = (place(txn, &from), place(txn, &to));
    ops::rename(txn, (old.0, &old.1), (new.0, &new.1), NOW).unwrap();
    model.rename(&from, &to);
}

fn attributes(model: &mut Model, rng: &mut Rng, txn: &mut Txn<'_>) {
    let all = model.paths(|node| !matches!(node.what, What::Node(_)));
    let Some(path) = rng.pick(&all) else { return };
    let inode = find(txn, path);
    let held = model.node(path);
    let names: Vec<Vec<u8>> = held.xattrs.keys().cloned().collect();
    if rng.below(4) == 0
        && let Some(name) = rng.pick(&names)
    {
        ops::remove_xattr(txn, inode, name, NOW).unwrap();
        held.xattrs.remove(name);
        return;
    }
    // Many at a time now and then, so that buckets are reached.
    let many = if rng.below(6) == 0 { 60 } else { 1 };
    let changes: Vec<(Vec<u8>, Vec<u8>)> = (0..many)
        .map(|_| {
            let prefix = *rng.pick(&["user.", "trusted.", "security."]).unwrap();
            let name = format!(
                "{prefix}{}{}",
                "a".repeat(index(rng.below(30))),
                rng.below(400)
            );
            let len = match rng.below(6) {
                0 => rng.below(20_000),
                1 => 80,
                2 => 81,
                _ => rng.below(60),
            };
            (name.into_bytes(), pattern(index(len), rng.below(1 << 40)))
        })
        .collect();
    let given: Vec<(&[u8], &[u8])> = changes.iter().map(|(n, v)| (&n[..], &v[..])).collect();
    ops::set_xattrs(txn, inode, &given, NOW).unwrap();
    held.xattrs.extend(changes);
}

/// What a volume holds below its root, but for lost+found.
///
/// # Panics
/// A part of it cannot be read.
#[must_use]
pub fn read(view: View<'_>) -> BTreeMap<Vec<u8>, Node> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(Vec::new(), view.info().root)];
    while let Some((path, blkno)) = todo.pop() {
        let directory = inode::read(view, blkno).unwrap();
        dir::for_each_entry(view, &directory, &mut |entry| {
            let lost = path.is_empty() && entry.name == b"lost+found";
            if entry.name == b"." || entry.name == b".." || lost {
                return ControlFlow::Continue(());
            }
            let path = if path.is_empty() {
                entry.name.to_vec()
            } else {
                [&path[..], b"/", entry.name].concat()
            };
            let inode = inode::read(view, entry.inode).unwrap();
            assert_eq!(
                dir::lookup(view, &directory, entry.name).unwrap(),
                Some(entry.inode)
            );
            let file_type = inode.file_type().unwrap();
            let what = match file_type {
                FileType::Directory => {
                    todo.push((path.clone(), entry.inode));
                    What::Directory
                }
                FileType::Regular | FileType::Symlink => {
                    let reader = FileReader::open(view, &inode).unwrap();
                    let mut bytes = vec![0; index(reader.size())];
                    reader.read_at(0, &mut bytes).unwrap();
                    if file_type == FileType::Symlink {
                        What::Symlink(bytes)
                    } else {
                        What::File(bytes)
                    }
                }
                _ => What::Node(inode.rdev()),
            };
            let node = Node {
                what,
                mode: inode.i_mode.get(),
                owner: (inode.i_uid.get(), inode.i_gid.get()),
                links: inode.links(),
                xattrs: xattr::all(view, &inode).unwrap().into_iter().collect(),
            };
            found.insert(path, node);
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    found
}

/// The first difference between what a volume should hold and what it holds.
#[must_use]
pub fn difference(
    expected: &BTreeMap<Vec<u8>, Node>,
    found: &BTreeMap<Vec<u8>, Node>,
) -> Option<String> {
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    for (path, node) in expected {
        let Some(other) = found.get(path) else {
            return Some(format!("{} is missing", shown(path)));
        };
        if node != other {
            let brief = |node: &Node| {
                let size = match &node.what {
                    What::File(bytes) | What::Symlink(bytes) => bytes.len(),
                    _ => 0,
                };
                let (mode, owner, links) = (node.mode, node.owner, node.links);
                let count = node.xattrs.len();
                format!("mode {mode:o} owner {owner:?} links {links} size {size} xattrs {count}")
            };
            let of_both = node.xattrs.keys().chain(other.xattrs.keys());
            let apart = of_both.filter(|name| node.xattrs.get(*name) != other.xattrs.get(*name));
            let apart: Vec<String> = apart.map(|name| shown(name)).collect();
            let bytes = match (&node.what, &other.what) {
                (What::File(a), What::File(b)) => a.iter().zip(b).position(|(a, b)| a != b),
                _ => None,
            };
            return Some(format!(
                "{}: {} != {} (first different byte: {bytes:?}; different attributes: {apart:?})",
                shown(path),
                brief(node),
                brief(other)
            ));
        }
    }
    let extra = found.keys().find(|path| !expected.contains_key(*path));
    extra.map(|path| format!("{} should not be there", shown(path)))
}
