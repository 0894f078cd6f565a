//! Two sources of manifest entries, held against each other.
//!
//! A [`Side`] is a subtree of a volume or a stream of entries that were kept. Both sides tell their
//! entries in the same order, so the comparison walks them in step and holds no more than a window
//! of each. Contents are compared last and only when all else leaves it open: files of different
//! sizes are not read, of two volumes the bytes are compared without any sum, holes are skipped, and
//! files that share all their clusters with others on both sides are compared once. Sums are made
//! only where one side has nothing else.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::manifest::sum::{self, Sum, Summer};
use super::manifest::text::pairs;
use super::manifest::{Entry, Fields, Found, Trouble, gather_here, order};
use crate::block::View;
use crate::error::Result;
use crate::layout::FileType;
use crate::read::file::FileReader;
use crate::read::inode;
use crate::units::{BlockNo, index};
use crate::volume::scan::Scanner;

/// Entries that travel together.
const BUNDLE: usize = 64;
/// Bundles that wait on either side.
const WAITING: usize = 16;
/// Pairs whose contents are compared together.
const BATCH: usize = 512;
/// Bytes of a file that one thread compares at a time.
const STRETCH: u64 = 4 << 20;
/// Bytes that are compared at a time.
const CHUNK: u64 = 1 << 18;

/// What tells entries one by one; it ends early when the visitor says so.
pub type Entries<'a> =
    dyn FnOnce(&mut dyn FnMut(Result<Entry, String>) -> ControlFlow<()>) + Send + 'a;

/// One of the two things that are compared.
pub enum Side<'a> {
    /// The subtree of a volume from an inode on.
    Volume(View<'a>, BlockNo),
    /// Entries that were kept, and what they record. An error ends them.
    Kept(Fields, Box<Entries<'a>>),
}

impl std::fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volume(view, start) => f.debug_tuple("Volume").field(view).field(start).finish(),
            Self::Kept(fields, _) => f.debug_tuple("Kept").field(fields).finish_non_exhaustive(),
        }
    }
}

impl Side<'_> {
    /// What the side can tell of.
    #[must_use]
    pub const fn fields(&self) -> Fields {
        match self {
            Self::Volume(..) => Fields {
                sums: true,
                times: true,
                xattrs: true,
                sharing: true,
            },
            Self::Kept(fields, _) => *fields,
        }
    }
}

/// One thing that both sides say of a name, differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key in a manifest, or `contents`.
    pub key: String,
    /// What the left side says; nothing when it does not say it.
    pub left: Option<String>,
    /// What the right side says.
    pub right: Option<String>,
}

/// What was found of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is on the left side only.
    Removed(Option<FileType>),
    /// It is on the right side only.
    Added(Option<FileType>),
    /// Both have it, with these differences.
    Changed(Vec<Change>),
    /// It cannot be said, since a side could not be read.
    Trouble(Vec<String>),
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names that are the same on both sides.
    pub same: u64,
    /// Names on the left side only.
    pub removed: u64,
    /// Names on the right side only.
    pub added: u64,
    /// Names that differ.
    pub changed: u64,
    /// Names of which it cannot be said.
    pub trouble: u64,
}

impl Counts {
    /// Whether nothing differs, as far as could be seen.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.removed == 0 && self.added == 0 && self.changed == 0
    }
}

/// Compares two sides by what `fields` and both of them record, and tells `each` what differs, in
/// order. `fields.sums` asks for contents, by whatever means.
///
/// # Errors
/// A stream of entries that were kept is damaged (in words), or `each` fails.
pub fn compare<E>(
    scanner: &Scanner,
    left: Side<'_>,
    right: Side<'_>,
    fields: Fields,
    progress: &(dyn Fn(u64) + Sync),
    mut each: impl FnMut(&[u8], Verdict) -> Result<(), E>,
) -> Result<Result<Counts, String>, E> {
    let fields = fields.and(left.fields()).and(right.fields());
    let views = [&left, &right].map(|side| match side {
        Side::Volume(view, _) => Some(*view),
        Side::Kept(..) => None,
    });
    let judge = Judge {
        scanner,
        left: views[0],
        right: views[1],
        fields,
        summer: Summer::new(progress),
        progress,
        known: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let mut streams = [left, right].map(|side| {
            let (to, from) = sync_channel(WAITING);
            scope.spawn(move || tell(scanner, side, fields, &to));
            Stream {
                from,
                ready: Vec::new().into_iter(),
            }
        });
        let [left, right] = &mut streams;
        judge.merge(left, right, &mut each)
    })
}

/// Is told what differs.
type Each<'a, E> = dyn FnMut(&[u8], Verdict) -> Result<(), E> + 'a;

type Bundle = Vec<Result<Found, String>>;

/// Tells all entries of a side, without sums of contents: a sum may turn out not to be needed.
fn tell(scanner: &Scanner, side: Side<'_>, fields: Fields, to: &SyncSender<Bundle>) {
    let mut bundle = Bundle::new();
    let mut send = |found| {
        bundle.push(found);
        if bundle.len() < BUNDLE {
            return ControlFlow::Continue(());
        }
        // A receiver that is gone has seen enough.
        match to.send(std::mem::take(&mut bundle)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    match side {
        Side::Volume(view, start) => {
            let fields = Fields {
                sums: false,
                ..fields
            };
            gather_here(scanner, view, start, fields, &|_| (), |found| {
                send(Ok(found))
            });
        }
        Side::Kept(_, entries) => entries(&mut |entry| {
            send(entry.map(|entry| Found {
                entry,
                blkno: BlockNo(0),
                faults: Vec::new(),
            }))
        }),
    }
    let _ = to.send(bundle);
}

/// The entries of a side as they come.
struct Stream {
    from: Receiver<Bundle>,
    ready: std::vec::IntoIter<Result<Found, String>>,
}

impl Stream {
    fn next(&mut self) -> Option<Result<Found, String>> {
        loop {
            if let Some(found) = self.ready.next() {
                return Some(found);
            }
            self.ready = self.from.recv().ok()?.into_iter();
        }
    }
}

/// A name that waits for its verdict; contents are still open.
struct Pending {
    left: Option<Found>,
    right: Option<Found>,
}

struct Judge<'a> {
    scanner: &'a Scanner,
    left: Option<View<'a>>,
    right: Option<View<'a>>,
    fields: Fields,
    summer: Summer<'a>,
    progress: &'a (dyn Fn(u64) + Sync),
    /// Of pairs of files that can be met again: the first byte that differs.
    known: Mutex<HashMap<[[u8; 32]; 2], Option<u64>>>,
}

impl Judge<'_> {
    fn merge<E>(
        &self,
        left: &mut Stream,
        right: &mut Stream,
        each: &mut Each<'_, E>,
    ) -> Result<Result<Counts, String>, E> {
        let mut counts = Counts::default();
        let mut batch = Vec::new();
        let (mut l, mut r) = (left.next(), right.next());
        loop {
            use std::cmp::Ordering;
            let first = match (&l, &r) {
                (None, None) => break,
                (Some(Err(_)), _) | (_, Some(Err(_))) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok(l)), Some(Ok(r))) => order(&l.entry.path, &r.entry.path),
            };
            let take = |side: &mut Option<Result<Found, String>>, stream: &mut Stream| {
                let taken = std::mem::replace(side, stream.next());
                taken.and_then(Result::ok)
            };
            let pending = Pending {
                left: first.is_le().then(|| take(&mut l, left)).flatten(),
                right: first.is_ge().then(|| take(&mut r, right)).flatten(),
            };
            batch.push(pending);
            if batch.len() >= BATCH {
                self.flush(&mut batch, &mut counts, each)?;
            }
        }
        self.flush(&mut batch, &mut counts, each)?;
        for side in [l, r].into_iter().flatten() {
            if let Err(why) = side {
                return Ok(Err(why));
            }
        }
        Ok(Ok(counts))
    }

    /// Tells what a batch of names came to.
    fn flush<E>(
        &self,
        batch: &mut Vec<Pending>,
        counts: &mut Counts,
        each: &mut Each<'_, E>,
    ) -> Result<(), E> {
        let mut verdicts = Vec::with_capacity(batch.len());
        self.scanner
            .run(batch, |pending| self.judge(pending), |v| verdicts.push(v));
        for (pending, verdict) in batch.drain(..).zip(verdicts) {
            let counter = match &verdict {
                None => &mut counts.same,
                Some(Verdict::Removed(_)) => &mut counts.removed,
                Some(Verdict::Added(_)) => &mut counts.added,
                Some(Verdict::Changed(_)) => &mut counts.changed,
                Some(Verdict::Trouble(_)) => &mut counts.trouble,
            };
            *counter += 1;
            let either = pending.left.or(pending.right);
            if let (Some(verdict), Some(found)) = (verdict, either) {
                each(&found.entry.path, verdict)?;
            }
        }
        Ok(())
    }

    /// What a name comes to; nothing when it is the same on both sides.
    fn judge(&self, pending: &Pending) -> Option<Verdict> {
        let (left, right) = match (&pending.left, &pending.right) {
            (Some(left), Some(right)) => (left, right),
            (Some(one), None) | (None, Some(one)) if !one.entry.trouble.is_empty() => {
                return Some(Verdict::Trouble(troubles(one)));
            }
            (Some(left), None) => return Some(Verdict::Removed(left.entry.kind)),
            (None, Some(right)) => return Some(Verdict::Added(right.entry.kind)),
            (None, None) => return None,
        };
        let trouble = |found: &Found| !found.entry.trouble.is_empty();
        if trouble(left) || trouble(right) {
            let both = [troubles(left), troubles(right)];
            return Some(Verdict::Trouble(both.concat()));
        }
        let mut changes = self.facts(&left.entry, &right.entry);
        match self.contents(left, right) {
            Ok(None) => {}
            Ok(Some(change)) => changes.push(change),
            Err(error) => return Some(Verdict::Trouble(vec![error.to_string()])),
        }
        (!changes.is_empty()).then_some(Verdict::Changed(changes))
    }

    /// The differences of all facts but contents.
    fn facts(&self, left: &Entry, right: &Entry) -> Vec<Change> {
        let same = left.kind == right.kind
            && left.mode == right.mode
            && (left.uid, left.gid) == (right.uid, right.gid)
            && left.attr == right.attr
            && left.links == right.links
            && left.size == right.size
            && left.device == right.device
            && left.target == right.target
            && left.hard_link == right.hard_link
            && (!self.fields.times || left.mtime == right.mtime)
            && (!self.fields.xattrs || left.xattrs == right.xattrs)
            && (!self.fields.sharing || left.shares == right.shares);
        if same {
            return Vec::new();
        }
        let wanted = |key: &str| match key {
            "time" => self.fields.times,
            "reflink" => self.fields.sharing,
            "sha256" | "sha256p" => false,
            key if key.starts_with("xattr.") => self.fields.xattrs,
            _ => true,
        };
        let said = |entry| -> Vec<(String, String)> {
            let mut all = pairs(entry);
            all.retain(|(key, _)| wanted(key));
            all
        };
        changes(said(left), said(right))
    }

    /// How the contents of two files differ that are the same in type and size.
    fn contents(&self, left: &Found, right: &Found) -> Result<Option<Change>> {
        let (a, b) = (&left.entry, &right.entry);
        let file = Some(FileType::Regular);
        if !self.fields.sums || (a.kind, b.kind) != (file, file) || a.size != b.size {
            return Ok(None);
        }
        let change = |left, right| Change {
            key: "contents".to_owned(),
            left,
            right,
        };
        if let (Some(first), Some(second)) = (self.left, self.right) {
            let differ = self.bytes((first, left.blkno), (second, right.blkno))?;
            return Ok(differ.map(|at| {
                let from = format!("differ from byte {at} on");
                change(None, Some(from))
            }));
        }
        let sum = |view: Option<View<'_>>, found: &Found| match view {
            None => Ok(found.entry.sum),
            Some(view) => {
                let inode = inode::read(view, found.blkno)?;
                self.summer.sum(view, &inode).map(Some)
            }
        };
        let (left, right) = (sum(self.left, left)?, sum(self.right, right)?);
        // A file without a sum in a manifest that has sums: it could not be read then.
        let shown = |sum: Option<Sum>| sum.map(Sum::shown);
        Ok((left != right).then(|| change(shown(left), shown(right))))
    }

    /// The first byte in which two files of the same size differ.
    fn bytes(&self, left: (View<'_>, BlockNo), right: (View<'_>, BlockNo)) -> Result<Option<u64>> {
        let (first, second) = (inode::read(left.0, left.1)?, inode::read(right.0, right.1)?);
        let files = [sum::open(left.0, &first)?, sum::open(right.0, &second)?];
        let shared = |file: &FileReader<'_>| file.extents().iter().any(|e| e.is_refcounted());
        let key = (files.iter().all(shared)).then(|| files.each_ref().map(sum::identity));
        if let Some(key) = key {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(&key) {
                return Ok(*known);
            }
        }
        let [left, right] = &files;
        let stretches = data_of(left, right);
        let compare = |stretch: &(u64, u64)| {
            let differ = differ(left, right, *stretch);
            (self.progress)(stretch.1 - stretch.0);
            differ.transpose()
        };
        let found = match stretches.as_slice() {
            [] => None,
            [one] => compare(one),
            all => all.par_iter().find_map_first(compare),
        };
        let found = found.transpose()?;
        if let Some(key) = key {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, found);
        }
        Ok(found)
    }
}

/// What of a name could not be read, in words.
fn troubles(found: &Found) -> Vec<String> {
    if found.faults.is_empty() {
        let kept = |trouble: &Trouble| format!("the manifest has trouble={}", trouble.name());
        return found.entry.trouble.iter().map(kept).collect();
    }
    found.faults.iter().map(ToString::to_string).collect()
}

/// What two lists of facts, both in the order of a line, do not have in common.
fn changes(left: Vec<(String, String)>, right: Vec<(String, String)>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    for (is_left, (key, value)) in (left.into_iter().map(|pair| (true, pair)))
        .chain(right.into_iter().map(|pair| (false, pair)))
    {
        let at = *place.entry(key.clone()).or_insert(changes.len());
        if at == changes.len() {
            changes.push(Change {
                key,
                left: None,
                right: None,
            });
        }
        if let Some(change) = changes.get_mut(at) {
            let side = if is_left {
                &mut change.left
            } else {
                &mut change.right
            };
            match side {
                Some(text) => {
                    text.push(' ');
                    text.push_str(&value);
                }
                None => *side = Some(value),
            }
        }
    }
    changes.retain(|change| change.left != change.right);
    changes
}

/// The stretches of two files in which either has data, in order; each at most [`STRETCH`] long.
fn data_of(left: &FileReader<'_>, right: &FileReader<'_>) -> Vec<(u64, u64)> {
    let data = |file: &FileReader<'_>| -> Vec<(u64, u64)> {
        let inline = file.is_inline();
        let runs = file.segments().into_iter();
        let data = runs.filter(|run| inline || run.blkno.is_some());
        data.map(|run| (run.offset, run.offset + run.len)).collect()
    };
    let mut all = [data(left), data(right)].concat();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in all {
        match joined.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    let cut = |(from, to): (u64, u64)| {
        let starts = (from..to).step_by(index(STRETCH));
        starts.map(move |start| (start, start.saturating_add(STRETCH).min(to)))
    };
    joined.into_iter().flat_map(cut).collect()
}

/// The first byte of a stretch in which two files differ.
fn differ(
    left: &FileReader<'_>,
    right: &FileReader<'_>,
    (from, to): (u64, u64),
) -> Result<Option<u64>> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut at = from;
    while at < to {
        let len = index((to - at).min(CHUNK));
        a.resize(len, 0);
        b.resize(len, 0);
        left.read_at(at, &mut a)?;
        right.read_at(at, &mut b)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
        at += len as u64;
    }
    Ok(None)
}
