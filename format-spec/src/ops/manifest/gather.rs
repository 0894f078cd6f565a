//! The entries of a subtree of a volume.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

use super::groups::{Groups, Run};
use super::sum::{self, Summer};
use super::{Entry, Fields, Trouble, Value, Xattr};
use crate::block::View;
use crate::error::{Error, FaultKind, Result};
use crate::layout::{DynFeatures, FileType};
use crate::read::file::FileReader;
use crate::read::inode::Inode;
use crate::read::{acl, xattr};
use crate::units::{BlockNo, index};
use crate::volume::scan::Scanner;
use crate::volume::tree::{self, Event};

/// Longest target of a symbolic link.
const TARGET_MAX: u64 = 4096;

/// An entry, where its inode is, and what could not be read of it.
#[derive(Debug)]
pub struct Found {
    /// The entry.
    pub entry: Entry,
    /// Its inode.
    pub blkno: BlockNo,
    /// Why its [`Entry::trouble`] is there.
    pub faults: Vec<Error>,
}

/// Entries that travel together to whoever is told of them.
const BUNDLE: usize = 128;
/// Bundles that wait for it.
const WAITING: usize = 16;

/// Tells `each` of all entries of the subtree from `start` on, in order; it can end that. What
/// `fields` leaves out costs nothing. `progress` is told of bytes read, by any thread. While `each`
/// is at work (it may write lines), the walk goes on beside it.
pub fn gather(
    scanner: &Scanner,
    view: View<'_>,
    start: BlockNo,
    fields: Fields,
    progress: &(dyn Fn(u64) + Sync),
    mut each: impl FnMut(Found) -> ControlFlow<()>,
) {
    std::thread::scope(|scope| {
        let (to, from) = sync_channel::<Vec<Found>>(WAITING);
        scope.spawn(move || {
            let mut bundle = Vec::with_capacity(BUNDLE);
            gather_here(scanner, view, start, fields, progress, |found| {
                bundle.push(found);
                if bundle.len() < BUNDLE {
                    return ControlFlow::Continue(());
                }
                let full = std::mem::replace(&mut bundle, Vec::with_capacity(BUNDLE));
                // Whoever no longer listens has ended it.
                match to.send(full) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            let _ = to.send(bundle);
        });
        for found in from.into_iter().flatten() {
            if each(found).is_break() {
                break;
            }
        }
    });
}

/// As [`gather`], but `each` is called between the steps of the walk.
pub fn gather_here<'v>(
    scanner: &Scanner,
    view: View<'v>,
    start: BlockNo,
    fields: Fields,
    progress: &(dyn Fn(u64) + Sync),
    mut each: impl FnMut(Found) -> ControlFlow<()>,
) {
    let summer = Summer::new(progress);
    let mut groups = Groups::default();
    // A directory is held back until it is known whether all of its names could be read.
    let mut held: Option<Found> = None;
    let mut ended = false;
    tree::walk(
        scanner,
        view,
        start,
        |_, inode| look(view, inode, fields, &summer),
        |event| {
            let next = match event {
                Event::Left(_) => return ControlFlow::Continue(()),
                Event::Found(node, looked) => {
                    looked.place(view, node.path, node.blkno, &mut groups)
                }
                Event::Failed(node, error) => {
                    if let Some(held) = &mut held
                        && held.entry.path == node.path
                        && held.entry.kind == Some(FileType::Directory)
                    {
                        held.entry.note(Trouble::Names);
                        held.faults.push(error);
                        return ControlFlow::Continue(());
                    }
                    let mut entry = Entry::empty(node.path);
                    entry.note(Trouble::Inode);
                    Found {
                        entry,
                        blkno: node.blkno,
                        faults: vec![error],
                    }
                }
            };
            let flow = held
                .replace(next)
                .map_or(ControlFlow::Continue(()), &mut each);
            ended = flow.is_break();
            flow
        },
    );
    if let Some(last) = held.filter(|_| !ended) {
        let _ = each(last);
    }
}

/// What was read of an inode; its place in the order is not known yet.
struct Looked {
    entry: Entry,
    /// The clusters of a file that may share some.
    runs: Vec<Run>,
    faults: Vec<Error>,
}

fn look(view: View<'_>, inode: &Inode<'_>, fields: Fields, summer: &Summer<'_>) -> Looked {
    let kind = inode.file_type();
    let mut entry = Entry::empty(Vec::new());
    entry.kind = kind;
    entry.mode = inode.i_mode.get() & 0o7777;
    entry.uid = inode.i_uid.get();
    entry.gid = inode.i_gid.get();
    entry.attr = inode.i_attr.get();
    if fields.times {
        entry.mtime = Some((inode.i_mtime.get(), inode.i_mtime_nsec.get()));
    }
    let mut looked = Looked {
        entry,
        runs: Vec::new(),
        faults: Vec::new(),
    };
    if kind != Some(FileType::Directory) {
        looked.entry.links = inode.links();
    }
    match kind {
        Some(FileType::Regular) => looked.file(view, inode, fields, summer),
        Some(FileType::Symlink) => match target(view, inode) {
            Ok(target) => looked.entry.target = Some(target),
            Err(error) => looked.trouble(Trouble::Target, error),
        },
        Some(FileType::CharDevice | FileType::BlockDevice) => {
            looked.entry.device = Some(inode.device());
        }
        Some(_) => {}
        None => {
            let fault = FaultKind::Field {
                field: "i_mode",
                value: inode.i_mode.get().into(),
                rule: "it names no type of file",
            };
            let path = std::mem::take(&mut looked.entry.path);
            looked.entry = Entry::empty(path);
            looked.trouble(Trouble::Inode, fault.at(inode.blkno()).into());
            return looked;
        }
    }
    if fields.xattrs {
        looked.xattrs(view, inode);
    }
    looked
}

impl Looked {
    fn trouble(&mut self, what: Trouble, error: Error) {
        self.entry.note(what);
        self.faults.push(error);
    }

    fn file(&mut self, view: View<'_>, inode: &Inode<'_>, fields: Fields, summer: &Summer<'_>) {
        self.entry.size = Some(inode.i_size.get());
        if fields.sums {
            match summer.sum(view, inode) {
                Ok(sum) => self.entry.sum = Some(sum),
                Err(error) => return self.trouble(Trouble::Contents, error),
            }
        }
        let shared = inode.dyn_features().contains(DynFeatures::HAS_REFCOUNT);
        if fields.sharing && shared {
            match sum::open(view, inode) {
                Ok(file) => self.runs = runs(view, &file),
                Err(error) => self.trouble(Trouble::Contents, error),
            }
        }
    }

    fn xattrs(&mut self, view: View<'_>, inode: &Inode<'_>) {
        if !inode.dyn_features().contains(DynFeatures::HAS_XATTR) {
            return;
        }
        match xattr::all(view, inode) {
            Ok(all) => {
                let all = all.into_iter().map(|(name, value)| {
                    let acl = acl::is_acl(&name);
                    let value = Value::of(if acl { acl::shown_value(&value) } else { value });
                    Xattr { name, value }
                });
                self.entry.xattrs = all.collect();
                self.entry.xattrs.sort_by(|a, b| a.name.cmp(&b.name));
            }
            Err(error) => self.trouble(Trouble::Xattrs, error),
        }
    }

    /// Puts the entry into its place among those before it.
    fn place(self, view: View<'_>, path: Vec<u8>, blkno: BlockNo, groups: &mut Groups) -> Found {
        let Self {
            mut entry,
            runs,
            faults,
        } = self;
        entry.path = path;
        let linked = entry.links > 1;
        match linked.then(|| groups.earlier(blkno)).flatten() {
            Some((first, shares)) => {
                entry.hard_link = Some(first);
                entry.shares = shares;
            }
            None => {
                if !runs.is_empty() {
                    let size = entry.size.unwrap_or_default();
                    entry.shares = groups.share(view.geo(), &entry.path, &runs, size);
                }
                if linked {
                    groups.first(blkno, &entry.path, &entry.shares);
                }
            }
        }
        Found {
            entry,
            blkno,
            faults,
        }
    }
}

/// The clusters of a file up to its size.
fn runs(view: View<'_>, file: &FileReader<'_>) -> Vec<Run> {
    let geo = view.geo();
    let end = geo.clusters_for(file.size());
    let inside = file.extents().iter().filter_map(|extent| {
        let left = end.saturating_sub(extent.cpos.into());
        let clusters = u32::try_from(left).unwrap_or(u32::MAX).min(extent.clusters);
        let first = extent
            .is_refcounted()
            .then(|| geo.cluster_of(extent.blkno).0);
        (clusters > 0).then_some(Run {
            cpos: extent.cpos,
            clusters,
            first,
        })
    });
    inside.collect()
}

fn target(view: View<'_>, inode: &Inode<'_>) -> Result<Vec<u8>> {
    let size = inode.i_size.get();
    if size > TARGET_MAX {
        let kind = FaultKind::Field {
            field: "i_size",
            value: size,
            rule: "a symbolic link has at most 4096 bytes",
        };
        return Err(kind.at(inode.blkno()).into());
    }
    let file = FileReader::open(view, inode)?;
    let mut bytes = vec![0; index(size)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
