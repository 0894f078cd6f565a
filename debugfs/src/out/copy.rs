//! Subtrees as files of the host: what is made, in which order, by whom.
//!
//! The walk hands out files in order. Directories are made as they come; everything else is gathered
//! into a batch, which all threads make together. When it is made, what depends on it is done in the
//! order of the walk: further names of a file, the attributes of directories that were left (a time
//! set earlier would not last), and what there is to tell.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use anyhow::{Result, bail};
use cowfs_format::block::View;
use cowfs_format::read::inode;
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::tree::{self, Event, Node};

use super::host::{Place, Tree, Unset};
use super::source::{Body, Taken, Taker, lost};
use super::{CHUNK, prefetch};

/// Steps of a batch.
const BATCH: usize = 1024;
/// Directories that a batch may keep open.
const OPEN_MOST: usize = 128;

/// What was copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) directories: u64,
    pub(crate) files: u64,
    pub(crate) hard_links: u64,
    /// Bytes of data; holes do not count.
    pub(crate) data_bytes: u64,
    /// What the host did not let be set.
    pub(crate) unset: Unset,
}

/// What there is to tell.
pub(crate) enum Said {
    /// A path below the directory of the host that was made.
    Made(Vec<u8>),
    /// A path below the start, and what went wrong with it.
    Fault(Vec<u8>, String),
}

/// A step of a batch.
enum Step {
    /// Something to tell.
    Say(Said),
    /// A file to be made, unless it is a further name of one that was.
    Make(Job),
    /// A directory that was left.
    Leave {
        path: Vec<u8>,
        place: Place,
        taken: Taken,
    },
}

/// A file to be made.
struct Job {
    node: Node,
    place: Place,
    /// The name, and the names of the directories above it.
    name: Vec<u8>,
    above: Vec<Vec<u8>>,
    taken: Taken,
    /// Whether a name before it in the walk leads to the same file.
    linked: bool,
}

/// What became of a file.
#[derive(Default)]
struct Done {
    /// Whether it is there; an error says why not, and silence that only root could.
    made: bool,
    error: Option<anyhow::Error>,
    data_bytes: u64,
    /// What of it could not be read.
    gaps: Vec<String>,
    unset: Unset,
}

/// Makes files as the walk finds them.
pub(crate) struct Copier<'v, 'a> {
    scanner: &'a Scanner,
    view: View<'v>,
    taker: &'a Taker<'v>,
    tree: Tree,
    /// The name that the copy of the start gets; none when the directory of the host stands for it.
    top: Option<Vec<u8>>,
    /// The directories that were entered, with what they will be given when they are left.
    open: Vec<(Vec<u8>, Taken)>,
    /// Depth of a directory that could not be made; what is inside is passed over.
    skip: Option<usize>,
    batch: Vec<Step>,
    /// Directories entered since the batch began.
    entered: usize,
    /// Files with several names whose first name is in the batch.
    named: HashSet<BlockNo>,
    /// Those that were made: the parts of the path of the first copy.
    links: HashMap<BlockNo, Vec<Vec<u8>>>,
    pub(crate) copied: Copied,
}

impl<'v, 'a> Copier<'v, 'a> {
    pub(crate) fn new(
        scanner: &'a Scanner,
        view: View<'v>,
        taker: &'a Taker<'v>,
        tree: Tree,
    ) -> Self {
        Self {
            scanner,
            view,
            taker,
            tree,
            top: None,
            open: Vec::new(),
            skip: None,
            batch: Vec::new(),
            entered: 0,
            named: HashSet::new(),
            links: HashMap::new(),
            copied: Copied::default(),
        }
    }

    /// Sets the name that the next copy gets.
    pub(crate) fn begin(&mut self, top: Option<Vec<u8>>) {
        self.top = top;
    }

    /// Copies what is below an inode. `said` is told what happens, in the order of the walk.
    ///
    /// # Errors
    /// Those of `said`.
    pub(crate) fn copy(
        &mut self,
        start: BlockNo,
        mut said: impl FnMut(Said) -> io::Result<()>,
    ) -> io::Result<()> {
        let (scanner, view, taker) = (self.scanner, self.view, self.taker);
        let mut failed = Ok(());
        tree::walk(
            scanner,
            view,
            start,
            |_, inode| taker.take(inode),
            |event| {
                self.told(event);
                if self.batch.len() >= BATCH || self.entered >= OPEN_MOST {
                    failed = self.flush(&mut said);
                }
                if failed.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        );
        failed.and_then(|()| self.flush(&mut said))
    }

    fn told(&mut self, event: Event<Taken>) {
        match event {
            Event::Found(node, taken) => self.found(node, taken),
            Event::Left(node) => self.left(&node),
            Event::Failed(node, error) => self.fault(&node.path, &error),
        }
    }

    fn fault(&mut self, path: &[u8], what: &dyn std::fmt::Display) {
        let said = Said::Fault(path.to_vec(), what.to_string());
        self.batch.push(Step::Say(said));
    }

    fn found(&mut self, node: Node, taken: Taken) {
        if self.skip.is_some_and(|depth| node.depth > depth) {
            return self.taker.release(&taken);
        }
        self.skip = None;
        for fault in &taken.faults {
            self.fault(&node.path, fault);
        }
        let name = match (node.path.is_empty(), &self.top) {
            (true, Some(top)) => top.clone(),
            // The directory of the host stands for it.
            (true, None) => return self.taker.release(&taken),
            (false, _) => node.name().to_vec(),
        };
        if !matches!(taken.body, Body::Directory) {
            return self.add(node, name, taken);
        }
        match self.tree.enter(&name) {
            Ok(()) => {
                self.copied.directories += 1;
                self.entered += 1;
                let path = [self.above(), vec![name.clone()]].concat().join(&b'/');
                self.batch.push(Step::Say(Said::Made(path)));
                self.open.push((name, taken));
            }
            Err(error) => {
                self.skip = Some(node.depth);
                self.fault(&node.path, &left_out(&error.into()));
            }
        }
    }

    /// The names of the directories that are open.
    fn above(&self) -> Vec<Vec<u8>> {
        self.open.iter().map(|(name, _)| name.clone()).collect()
    }

    fn add(&mut self, node: Node, name: Vec<u8>, taken: Taken) {
        let place = match self.tree.here() {
            Ok(place) => place,
            Err(error) => {
                self.taker.release(&taken);
                return self.fault(&node.path, &left_out(&error.into()));
            }
        };
        let several = taken.links > 1;
        let linked =
            several && (self.links.contains_key(&node.blkno) || !self.named.insert(node.blkno));
        self.batch.push(Step::Make(Job {
            above: self.above(),
            node,
            place,
            name,
            taken,
            linked,
        }));
    }

    fn left(&mut self, node: &Node) {
        if self.skip.is_some_and(|depth| node.depth > depth) {
            return;
        }
        // One that could not be made was never entered.
        let refused = self.skip.take().is_some();
        if refused || node.path.is_empty() && self.top.is_none() {
            return;
        }
        if let Some((_, taken)) = self.open.pop() {
            match self.tree.leave() {
                Ok(place) => self.batch.push(Step::Leave {
                    path: node.path.clone(),
                    place,
                    taken,
                }),
                Err(error) => self.fault(&node.path, &error),
            }
        }
    }

    /// Makes what is in the batch.
    fn flush(&mut self, said: &mut impl FnMut(Said) -> io::Result<()>) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.entered = 0;
        self.named.clear();
        let (scanner, maker) = (self.scanner, (self.view, self.taker));
        let mut made = Vec::with_capacity(batch.len());
        let work = |step: &Step| match step {
            Step::Make(job) if !job.linked => Some(job.make(maker)),
            _ => None,
        };
        scanner.run(&batch, work, |done| made.push(done));
        for (step, done) in batch.into_iter().zip(made) {
            match step {
                Step::Say(what) => said(what)?,
                Step::Make(job) => self.settle(job, done, said)?,
                Step::Leave { path, place, taken } => {
                    if let Err(error) = place.finish_directory(&taken, &mut self.copied.unset) {
                        said(Said::Fault(path, error.to_string()))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Does with a file what had to wait until those before it were made.
    fn settle(
        &mut self,
        job: Job,
        done: Option<Done>,
        said: &mut impl FnMut(Said) -> io::Result<()>,
    ) -> io::Result<()> {
        let blkno = job.node.blkno;
        let first = self.links.get(&blkno).filter(|_| job.linked);
        let done = match (done, first) {
            (Some(done), _) => done,
            (None, Some(first)) => {
                self.copied.hard_links += 1;
                let linked = self.tree.link(first, &job.place, &job.name);
                self.copied.hard_links -= u64::from(linked.is_err());
                Done {
                    made: linked.is_ok(),
                    error: linked.err().map(Into::into),
                    ..Done::default()
                }
            }
            // The first name could not be made.
            (None, None) => job.make((self.view, self.taker)),
        };
        self.taker.release(&job.taken);
        self.copied.data_bytes += done.data_bytes;
        self.copied.unset.join(done.unset);
        for gap in done.gaps {
            said(Said::Fault(job.node.path.clone(), gap))?;
        }
        if let Some(error) = done.error {
            said(Said::Fault(job.node.path, left_out(&error)))?;
        }
        if !done.made {
            return Ok(());
        }
        let path = [job.above, vec![job.name]].concat();
        said(Said::Made(path.join(&b'/')))?;
        if !self.links.contains_key(&blkno) {
            self.copied.files += 1;
            if job.taken.links > 1 {
                self.links.insert(blkno, path);
            }
        }
        Ok(())
    }
}

fn left_out(error: &anyhow::Error) -> String {
    format!("left out: {error:#}")
}

impl Job {
    /// Makes a file with all that is in it.
    fn make(&self, (view, taker): (View<'_>, &Taker<'_>)) -> Done {
        let mut done = Done::default();
        match self.try_make(view, taker, &mut done) {
            Ok(made) => done.made = made,
            Err(error) => done.error = Some(error),
        }
        done
    }

    /// False when the file could not be made for want of rights, which is told at the end.
    fn try_make(&self, view: View<'_>, taker: &Taker<'_>, done: &mut Done) -> Result<bool> {
        match &self.taken.body {
            Body::Refused(why) => bail!("{why}"),
            Body::Small(_) | Body::Large => {}
            _ => return Ok(self.place.node(&self.name, &self.taken, &mut done.unset)?),
        }
        let file = self.place.create(&self.name)?;
        if let Err(error) = self.fill(&file, view, taker, done) {
            self.place.remove(&self.name)?;
            return Err(error);
        }
        self.place.finish(&file, &self.taken, &mut done.unset)?;
        Ok(true)
    }

    /// Writes the contents of a file; holes stay holes.
    fn fill(&self, host: &File, view: View<'_>, taker: &Taker<'_>, done: &mut Done) -> Result<()> {
        if let Body::Small(bytes) = &self.taken.body {
            host.write_all_at(bytes, 0)?;
            done.data_bytes = bytes.len() as u64;
            return Ok(());
        }
        let inode = inode::read(view, self.node.blkno)?;
        let file = taker.contents(&inode)?;
        host.set_len(file.size())?;
        let (mut gaps, mut buf) = (Vec::new(), Vec::new());
        for segment in file.segments() {
            if segment.blkno.is_none() && !file.is_inline() {
                continue;
            }
            let mut copied = 0;
            while copied < segment.len {
                buf.resize(index((segment.len - copied).min(CHUNK)), 0);
                prefetch(view, &segment, copied);
                let at = segment.offset + copied;
                file.read_around(at, &mut buf, &mut gaps);
                if let Some(gap) = gaps.first().filter(|_| !taker.salvages()) {
                    bail!("{}", lost(gap));
                }
                host.write_all_at(&buf, at)?;
                copied += buf.len() as u64;
            }
            done.data_bytes += segment.len;
        }
        done.gaps = gaps.iter().map(lost).collect();
        Ok(())
    }
}
