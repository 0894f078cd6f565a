//! A walk over a subtree: ordered for those who write down what they see, parallel underneath.
//! [`walk`] tells of each name, [`fold`] of directories only, with a sum of the files in each.
//!
//! Events come depth first, the names of a directory bytewise, whatever the order of the entries
//! on disk and however many threads there are. A bounded window of inodes ahead of the event at
//! hand is read by all threads; what waits is their results and the names of the directories that
//! are open, so memory follows the largest directories and not the volume. The one thing that is
//! kept for the length of the walk is the set of directories seen, so that a directory which a
//! damaged volume reaches twice is walked once.

use std::collections::HashSet;
use std::ops::{ControlFlow, Range};

use crate::block::View;
use crate::error::{Error, FaultKind, Result};
use crate::layout::{Dinode, FileType};
use crate::read::dir;
use crate::read::inode::{self, Inode};
use crate::units::BlockNo;
use crate::volume::scan::Scanner;

/// Inodes that are read ahead at a time.
const WINDOW: usize = 1024;
/// Files of a directory that a thread sums up at a time.
const CHUNK: usize = 1024;
/// Directories whose files are summed up at a time.
const DIRECTORIES: usize = 64;
/// What may wait before the window closes to what is needed next.
const WAITING: usize = 1 << 16;
/// Inodes that are read ahead when too much waits.
const NARROW: usize = 64;

/// A name on the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path from the start of the walk, without a slash at either end; empty for the start.
    pub path: Vec<u8>,
    /// The inode that the name leads to.
    pub blkno: BlockNo,
    /// The directory that holds the name; the start holds itself.
    pub parent: BlockNo,
    /// The type byte of the name's entry; 0 for the start.
    pub entry_type: u8,
    /// Directories between the start and this name.
    pub depth: usize,
}

impl Node {
    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let slash = self.path.iter().rposition(|&b| b == b'/');
        self.path
            .get(slash.map_or(0, |at| at + 1)..)
            .unwrap_or_default()
    }

    /// The node of a name in this directory.
    #[must_use]
    pub fn child(&self, name: &[u8], blkno: BlockNo, entry_type: u8) -> Self {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        if !self.path.is_empty() {
            path.extend_from_slice(&self.path);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self {
            path,
            blkno,
            parent: self.blkno,
            entry_type,
            depth: self.depth + 1,
        }
    }
}

/// What happens on a walk.
#[derive(Debug)]
pub enum Event<T> {
    /// A name and what was made of its inode. What is inside of a directory follows.
    Found(Node, T),
    /// All that is inside of a directory was told.
    Left(Node),
    /// The inode of a name cannot be used, or (of a directory, after [`Event::Found`]) a part of
    /// its entries cannot be read. The walk goes on with what can.
    Failed(Node, Error),
}

/// Walks a subtree from its inode `start` on. `look` sees each inode, in parallel; `each` is told
/// of everything in order, and can end the walk.
pub fn walk<'v, T: Send>(
    scanner: &Scanner,
    view: View<'v>,
    start: BlockNo,
    look: impl Fn(&Node, &Inode<'v>) -> T + Sync,
    each: impl FnMut(Event<T>) -> ControlFlow<()>,
) {
    let look = |node: &Node| look_at(view, node, |node, inode, _| (look(node, inode), None));
    tell(scanner, start, WINDOW, &look, each);
}

/// What a directory and the files in it come to.
pub trait Sum<'v>: Default + Send {
    /// Adds a file when the head of its inode and what follows it tell all that there is to know;
    /// whether they do. Such an inode is not tested against its check.
    fn peek(&mut self, view: View<'v>, inode: &Dinode, body: &[u8]) -> bool;
    /// Adds a file, or what kept its inode from being read.
    fn add(&mut self, view: View<'v>, child: Child<'_>, inode: Result<Inode<'v>>);
    /// Adds the sum of other files, which come behind these.
    fn join(&mut self, other: Self);
}

/// Walks the directories of a subtree. `look` sees the inode of each and begins its sum, to which the
/// files in it are added, in no particular order.
///
/// It is what is left of [`walk`] for those to whom the names of files do not matter, and takes half
/// of its time.
pub fn fold<'v, S: Sum<'v>>(
    scanner: &Scanner,
    view: View<'v>,
    start: BlockNo,
    look: impl Fn(&Node, &Inode<'v>) -> S + Sync,
    each: impl FnMut(Event<S>) -> ControlFlow<()>,
) {
    let sum = |names: &Names, chunk: &[Name]| {
        let (mut sum, mut directories) = (S::default(), Vec::new());
        for name in chunk {
            let peeked = view.peek(name.blkno, |inode, body| sum.peek(view, inode, body));
            if peeked == Some(true) {
                continue;
            }
            match inode::read(view, name.blkno) {
                // Its entry takes it for something else.
                Ok(inode) if is_directory(&inode) => directories.push(name.clone()),
                inode => sum.add(view, names.child(name), inode),
            }
        }
        (sum, directories)
    };
    let look = |node: &Node| {
        look_at(view, node, |node, inode, names: Option<&Names>| {
            let mut own = look(node, inode);
            let Some(names) = names else {
                return (own, None);
            };
            let is_directory = |name: &Name| name.entry_type == FileType::Directory.dirent();
            let (mut directories, files): (Vec<Name>, Vec<Name>) =
                names.all.iter().cloned().partition(is_directory);
            let chunks: Vec<&[Name]> = files.chunks(CHUNK).collect();
            scanner.run(
                &chunks,
                |chunk| sum(names, chunk),
                |(part, more)| {
                    own.join(part);
                    directories.extend(more);
                },
            );
            (own, Some(directories))
        })
    };
    tell(scanner, start, DIRECTORIES, &look, each);
}

/// Tells of everything from `start` on in order, reading some `window` names ahead.
fn tell<T: Send>(
    scanner: &Scanner,
    start: BlockNo,
    window: usize,
    look: &(impl Fn(&Node) -> Looked<T> + Sync),
    mut each: impl FnMut(Event<T>) -> ControlFlow<()>,
) {
    let mut seen = HashSet::new();
    let mut stack = vec![Item::Waits(Node {
        path: Vec::new(),
        blkno: start,
        parent: start,
        entry_type: 0,
        depth: 0,
    })];
    while let Some(item) = stack.pop() {
        let event = match item {
            Item::Waits(node) => {
                stack.push(Item::Waits(node));
                read_ahead(scanner, window, look, &mut stack, &mut seen);
                if scanner.stopped() {
                    return;
                }
                continue;
            }
            Item::Tells(event) => event,
        };
        if each(*event).is_break() {
            return;
        }
    }
}

/// What lies on the stack; its end is what comes next.
enum Item<T> {
    /// A name whose inode was not read yet.
    Waits(Node),
    /// An event that is ready to be told. Boxed: most of the stack is names that wait.
    Tells(Box<Event<T>>),
}

impl<T> Item<T> {
    fn tells(event: Event<T>) -> Self {
        Self::Tells(Box::new(event))
    }
}

/// What reading an inode gave.
struct Looked<T> {
    result: Result<T, Error>,
    /// The names inside that come next, when it is a directory.
    inside: Option<Names>,
    /// What of the names could not be read.
    faults: Vec<Error>,
}

/// Names of a directory.
#[derive(Default)]
struct Names {
    text: Vec<u8>,
    all: Vec<Name>,
}

/// A name inside a directory, as a range of the text of all its names.
#[derive(Clone)]
struct Name {
    range: Range<usize>,
    blkno: BlockNo,
    entry_type: u8,
}

/// A file of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Child<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The inode that the name leads to.
    pub blkno: BlockNo,
}

impl Names {
    fn push(&mut self, name: &[u8], blkno: BlockNo, entry_type: u8) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        let range = start..self.text.len();
        self.all.push(Name {
            range,
            blkno,
            entry_type,
        });
    }

    fn text(&self, name: &Name) -> &[u8] {
        self.text.get(name.range.clone()).unwrap_or_default()
    }

    fn child(&self, name: &Name) -> Child<'_> {
        Child {
            name: self.text(name),
            blkno: name.blkno,
        }
    }

    /// The names bytewise.
    fn sorted(self) -> Self {
        let Self { text, mut all } = self;
        let of = |name: &Name| text.get(name.range.clone()).unwrap_or_default();
        all.sort_unstable_by(|a, b| (of(a), a.blkno).cmp(&(of(b), b.blkno)));
        Self { text, all }
    }
}

/// Reads the inodes at the end of the stack and puts what they gave in their place.
fn read_ahead<T: Send>(
    scanner: &Scanner,
    window: usize,
    look: &(impl Fn(&Node) -> Looked<T> + Sync),
    stack: &mut Vec<Item<T>>,
    seen: &mut HashSet<BlockNo>,
) {
    let window = if stack.len() > WAITING {
        NARROW
    } else {
        window
    };
    let top = stack.split_off(stack.len().saturating_sub(window));
    let waiting: Vec<&Node> = (top.iter().rev())
        .filter_map(|item| match item {
            Item::Waits(node) => Some(node),
            Item::Tells(_) => None,
        })
        .collect();
    let mut looked = Vec::with_capacity(waiting.len());
    scanner.run(&waiting, |node| look(node), |found| looked.push(found));
    drop(waiting);
    // `looked` is in the order of the walk, the stack in the opposite one.
    let mut looked = looked.into_iter();
    let mut ahead: Vec<Item<T>> = Vec::new();
    for item in top.into_iter().rev() {
        match item {
            Item::Tells(_) => ahead.push(item),
            Item::Waits(node) => match looked.next() {
                Some(found) => put(node, found, seen, &mut ahead),
                None => ahead.push(Item::Waits(node)),
            },
        }
    }
    stack.extend(ahead.into_iter().rev());
}

/// Reads an inode, and the names inside when it is a directory. `look` makes of both a result, and
/// says which of the names come next unless it is all of them.
fn look_at<'v, T>(
    view: View<'v>,
    node: &Node,
    look: impl Fn(&Node, &Inode<'v>, Option<&Names>) -> (T, Option<Vec<Name>>),
) -> Looked<T> {
    let inode = match inode::read(view, node.blkno) {
        Ok(inode) => inode,
        Err(error) => {
            return Looked {
                result: Err(error),
                inside: None,
                faults: Vec::new(),
            };
        }
    };
    let mut faults = Vec::new();
    let mut inside = is_directory(&inode).then(|| children(view, &inode, &mut faults));
    let (value, next) = look(node, &inode, inside.as_ref());
    if let (Some(names), Some(next)) = (&mut inside, next) {
        names.all = next;
    }
    Looked {
        result: Ok(value),
        inside: inside.map(Names::sorted),
        faults,
    }
}

fn is_directory(inode: &Inode<'_>) -> bool {
    inode.file_type() == Some(FileType::Directory)
}

/// Why a name cannot be that of a file. Such a name is told of as a failure and never put into a
/// path, so that nobody who follows the walk is led out of its directory.
fn impossible(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("a file cannot have an empty name"),
        b"." | b".." => Some("a file cannot go by this name"),
        _ if name.contains(&b'/') => Some("a name cannot hold a slash"),
        _ if name.contains(&0) => Some("a name cannot hold a NUL byte"),
        _ => None,
    }
}

/// The names of a directory; of damaged blocks, those before the damage.
fn children(view: View<'_>, inode: &Inode<'_>, faults: &mut Vec<Error>) -> Names {
    let mut found = Names::default();
    // A directory begins with itself and its parent; nothing else goes by their names.
    let mut own = [&b"."[..], b".."].into_iter();
    let walked = dir::for_each_area(view, inode, &mut |area| {
        match area {
            Err(error) => faults.push(error),
            Ok(area) => {
                for entry in dir::entries(area.bytes) {
                    match entry {
                        Ok(entry) if !entry.is_used() => {}
                        Ok(entry) if own.next() == Some(entry.name) => {}
                        Ok(entry) => match impossible(entry.name) {
                            Some(why) => faults.push(Error::Path {
                                path: entry.name.escape_ascii().to_string(),
                                why,
                            }),
                            None => found.push(entry.name, entry.inode, entry.file_type),
                        },
                        Err(kind) => {
                            faults.push(kind.at(area.block.unwrap_or(inode.blkno())).into());
                        }
                    }
                }
            }
        }
        ControlFlow::Continue(())
    });
    faults.extend(walked.err());
    found
}

/// Puts what a name gave, in the order of the walk.
fn put<T>(node: Node, looked: Looked<T>, seen: &mut HashSet<BlockNo>, ahead: &mut Vec<Item<T>>) {
    let value = match looked.result {
        Ok(value) => value,
        Err(error) => return ahead.push(Item::tells(Event::Failed(node, error))),
    };
    let Some(inside) = looked.inside else {
        return ahead.push(Item::tells(Event::Found(node, value)));
    };
    if !seen.insert(node.blkno) {
        let kind = FaultKind::Field {
            field: "dirent",
            value: node.blkno.0,
            rule: "the directory has another name already",
        };
        let error = kind.at(node.parent).into();
        return ahead.push(Item::tells(Event::Failed(node, error)));
    }
    ahead.push(Item::tells(Event::Found(node.clone(), value)));
    let failed = |error| Item::tells(Event::Failed(node.clone(), error));
    ahead.extend(looked.faults.into_iter().map(failed));
    ahead.extend(inside.all.iter().map(|name| {
        let Name {
            blkno, entry_type, ..
        } = *name;
        Item::Waits(node.child(inside.text(name), blkno, entry_type))
    }));
    ahead.push(Item::tells(Event::Left(node)));
}
