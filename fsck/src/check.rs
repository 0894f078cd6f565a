//! The check as a whole: the order of the passes, and the report drawn from them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use cowfs_format::block::View;
use cowfs_format::device::Device;
use cowfs_format::error::Result;
use cowfs_format::layout::Dinode;
use cowfs_format::read::dir;
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::{Item, PathText, Place, Report, Severity};
use cowfs_format::units::{BlockNo, Geometry, Slot};
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;
use cowfs_format::volume::system::SystemFile;

use crate::catalogue::{AllocProblem, At, DirProblem, Finding, Layer, Problem, VolumeProblem};
use crate::facts::clusters::Clusters;
use crate::facts::groups::SubGroups;
use crate::facts::usage::Usage;
use crate::facts::{Cx, Out};
use crate::pass::chains::{self};
use crate::pass::cluster_groups::{self, GroupFact};
use crate::pass::refcount::Attached;
use crate::pass::system::System;
use crate::pass::{
    bitmap, connect, dir as dir_pass, inode, quota, quota_blocks, refcount, slots, superblock,
    system,
};

/// Cluster groups of one work item: enough to keep a thread busy for a while.
const GROUPS_PER_ITEM: u32 = 64;
/// Findings in a report; a volume that has more is not helped by the rest.
const MOST_FINDINGS: usize = 100_000;
/// Inodes whose names are looked up for the report.
const MOST_NAMED: usize = 10_000;

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Number of threads; `None` = one a processor.
    pub threads: Option<usize>,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong, in a fixed order.
    pub findings: Vec<Finding>,
    /// Findings that were counted but not kept.
    pub left_out: u64,
    /// Names of inodes that findings are about.
    pub names: HashMap<BlockNo, Vec<u8>>,
    /// Numbers about the volume.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Whether the check was stopped before its end.
    pub stopped: bool,
    /// Findings about objects that were not asked for.
    pub(crate) aside: Vec<Finding>,
    /// What repairs are made from.
    pub(crate) evidence: Evidence,
}

/// What the scan learned that repairs need.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Which block is which bit of which group.
    pub(crate) groups: SubGroups,
    /// Which system file is which inode.
    pub(crate) system: System,
    /// Inodes that belong to refcount trees: root, inode; sorted.
    pub(crate) attached: Vec<(BlockNo, BlockNo)>,
    /// Where the number of shared mappings changes: root, cluster, change; sorted.
    pub(crate) shares: Vec<(BlockNo, u32, i32)>,
    /// Directories that have a name: child, parent; sorted.
    pub(crate) children: Vec<(BlockNo, BlockNo)>,
    /// Groups that named inodes say they came from and that no allocator has: slot, group.
    pub(crate) missed_groups: BTreeSet<(u16, BlockNo)>,
    /// Clusters that are marked as used and that nothing uses: first and number, in order.
    pub(crate) leaks: Vec<(u32, u32)>,
    /// What users and groups use.
    pub(crate) usage: Usage,
    /// Whether a quota file is of no use, so that nothing can be charged.
    pub(crate) quota_lost: bool,
    /// How many clusters an inode claims that others claim as well.
    pub(crate) doubled: HashMap<BlockNo, u64>,
}

impl Evidence {
    /// Inodes that claim what others claim as well, those that claim most first.
    pub(crate) fn most_doubled(&self) -> impl Iterator<Item = BlockNo> + use<> {
        let mut all: Vec<_> = self
            .doubled
            .iter()
            .map(|(inode, count)| (*count, *inode))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(_, inode)| inode)
    }
}

impl Checked {
    /// Puts aside all findings but those about one object: an inode, a group and what it allocates, or
    /// any other block.
    pub fn keep_only(&mut self, object: BlockNo) {
        let about = |finding: &Finding| {
            let of = |blkno: BlockNo| {
                let group = self.evidence.groups.locate(blkno);
                blkno == object || group.is_some_and(|(group, _)| group.blkno == object)
            };
            finding.at.inode.is_some_and(of) || finding.at.block.is_some_and(of)
        };
        let (kept, aside) = self.findings.drain(..).partition(about);
        self.findings = kept;
        self.aside = aside;
        self.left_out = 0;
    }

    /// The worst severity among the findings.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings
            .iter()
            .map(|finding| finding.problem.entry().severity)
            .max()
    }

    /// Whether nothing is wrong. Notes are not wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.stopped && self.worst().is_none_or(|worst| worst == Severity::Note)
    }

    /// The codes of all findings that are more than notes, in order, each once.
    #[must_use]
    pub fn codes(&self) -> Vec<&'static str> {
        let mut seen = HashSet::new();
        self.findings
            .iter()
            .map(|finding| finding.problem.entry())
            .filter(|entry| entry.severity > Severity::Note && seen.insert(entry.code))
            .map(|entry| entry.code)
            .collect()
    }

    /// The report, for a volume of that name.
    #[must_use]
    pub fn report(&self, volume: &str) -> Report {
        let (status, exit) = if self.stopped {
            ("cancelled", ExitBits::CANCELLED)
        } else if self.is_clean() {
            ("clean", ExitBits::CLEAN)
        } else {
            ("errors", ExitBits::UNCORRECTED)
        };
        let findings = self.findings.iter().map(|finding| self.item(finding));
        Report {
            schema: 1,
            program: "fsck.cowfs",
            volume: volume.to_owned(),
            status,
            exit: exit.code(),
            facts: self.facts.clone(),
            findings: findings.collect(),
            findings_left_out: self.left_out,
        }
    }

    /// Adds what was found before the check, in front of what it found.
    pub fn given(&mut self, finding: Finding) {
        self.findings.insert(0, finding);
    }

    pub(crate) fn item(&self, finding: &Finding) -> Item {
        let Finding { at, problem } = finding;
        let entry = problem.entry();
        let details = match serde_json::to_value(problem) {
            Ok(serde_json::Value::Object(details)) => details,
            _ => serde_json::Map::new(),
        };
        let path = at.inode.and_then(|inode| self.names.get(&inode));
        Item {
            code: entry.code,
            severity: entry.severity,
            place: Place {
                block: at.block.or(at.inode).map(|block| block.0),
                inode: at.inode.map(|inode| inode.0),
                path: path.cloned().map(PathText),
            },
            message: problem.to_string(),
            details,
            outcome: None,
        }
    }
}

/// The memory that no check of a volume of this size can do without.
pub(crate) fn least_memory(geo: &Geometry) -> u64 {
    // Two bits a cluster.
    u64::from(geo.clusters()) / 4
}

/// Checks a volume and writes nothing. The device is seen as it will be once its journals are
/// replayed.
///
/// # Errors
/// The scan's threads cannot be started.
pub fn check<D: Device>(volume: &Volume<D>, options: &Options) -> Result<Checked> {
    let scanner = Scanner::new(options.threads)?;
    Ok(check_with(volume, &scanner, &Progress::default()))
}

/// As [`check`], with threads and progress of the caller's.
pub fn check_with<D: Device>(
    volume: &Volume<D>,
    scanner: &Scanner,
    progress: &Progress,
) -> Checked {
    let view = volume.view().mending();
    let geo = view.geo();
    let system = System::read(view);
    let orphan_dirs = (0..view.info().max_slots)
        .filter_map(|slot| Some((system.find(SystemFile::OrphanDir(Slot(slot)))?, slot)))
        .collect();
    let mut run = Run {
        cx: Cx {
            view,
            clusters: Clusters::new(geo.clusters(), geo.clusters_per_group()),
            groups: SubGroups::default(),
            orphan_dirs,
            doubles: None,
        },
        scanner,
        progress,
        system,
        out: Out::default(),
        evidence: Evidence::default(),
    };
    if let Some(expected) = superblock::generation_of_the_rest(view) {
        superblock::stale(&run.cx, expected, &mut run.out);
        return run.finish(0);
    }
    superblock::scan(&run.cx, &run.system, &mut run.out);
    system::files(view, &run.system, &mut run.out);
    superblock::journals(volume, &run.system, &mut run.out);
    superblock::slots(volume, &run.cx, &run.system, &mut run.out);
    superblock::heartbeat(&run.cx, &run.system, &mut run.out);
    quota_blocks::scan(&run.cx, &run.system, &mut run.out);
    let groups = run.cluster_groups();
    run.suballocators();
    run.inodes();
    if !scanner.stopped() {
        system::outside(&run.cx, &run.system, &mut run.out);
    }
    run.refcounts();
    let directories = run.directories();
    run.counts();
    run.quota(volume);
    run.bitmaps(&groups);
    run.doubles();
    run.finish(directories)
}

struct Run<'v, 's> {
    cx: Cx<'v>,
    scanner: &'s Scanner,
    progress: &'s Progress,
    system: System,
    out: Out,
    evidence: Evidence,
}

impl Run<'_, '_> {
    /// Runs one pass over its items; results are added in the order of the items.
    fn pass<I: Sync, T: Send>(
        &mut self,
        number: u64,
        items: &[I],
        work: impl Fn(&Cx<'_>, &I) -> T + Sync,
        mut merge: impl FnMut(&mut Out, T),
    ) {
        let (cx, progress, out) = (&self.cx, self.progress, &mut self.out);
        progress.pass(number, items.len() as u64);
        let step = |item: &I| {
            let found = work(cx, item);
            progress.step(1);
            found
        };
        self.scanner.run(items, step, |found| merge(out, found));
    }

    fn bitmap_inode(&self) -> BlockNo {
        self.system
            .find(SystemFile::GlobalBitmap)
            .unwrap_or(self.cx.view.info().system_dir)
    }

    fn cluster_groups(&mut self) -> Vec<GroupFact> {
        let count = self.cx.view.geo().cluster_groups();
        let starts: Vec<u32> = (0..count).step_by(GROUPS_PER_ITEM as usize).collect();
        let bitmap = self.bitmap_inode();
        let mut facts: Vec<GroupFact> = Vec::with_capacity(count as usize);
        self.pass(
            1,
            &starts,
            |cx, &start| {
                let end = start.saturating_add(GROUPS_PER_ITEM).min(count);
                cluster_groups::scan(cx, bitmap, start..end)
            },
            |out, (found, more)| {
                out.append(found);
                facts.extend(more);
            },
        );
        let inode = self.system.inode(self.cx.view, SystemFile::GlobalBitmap);
        if let Some(inode) = inode.filter(|_| !self.scanner.stopped()) {
            cluster_groups::link(&self.cx, &mut self.out, &inode, &mut facts);
        }
        facts
    }

    fn suballocators(&mut self) {
        let allocators = self.system.allocators(self.cx.view);
        let mut groups = Vec::new();
        self.pass(
            1,
            &allocators,
            chains::suballocator,
            |out, (found, more)| {
                out.append(found);
                groups.extend(more);
            },
        );
        let (kept, dropped) = SubGroups::new(groups);
        for (group, other) in dropped {
            let at = At::within(group.allocator, group.blkno);
            self.out
                .find(at, AllocProblem::GroupDuplicate { other: other.0 });
        }
        self.cx.groups = kept;
    }

    fn inodes(&mut self) {
        let items: Vec<usize> = (0..self.cx.groups.all().len()).collect();
        let mut coalesced = 1 << 16;
        self.pass(
            2,
            &items,
            |cx, &item| inode::scan_group(cx, &cx.groups.all()[item]),
            |out, found| {
                out.append(found);
                if out.shares.len() > coalesced {
                    out.coalesce_shares();
                    coalesced = (out.shares.len() * 2).max(1 << 16);
                }
            },
        );
        self.out.coalesce_shares();
    }

    fn refcounts(&mut self) {
        let mut attached = std::mem::take(&mut self.out.attached);
        let shares = std::mem::take(&mut self.out.shares);
        attached.sort_unstable();
        let trees: Vec<Attached<'_>> = attached
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(|inodes| {
                let (root, first) = *inodes.first()?;
                let from = shares.partition_point(|share| share.0 < root);
                let to = shares.partition_point(|share| share.0 <= root);
                Some(Attached {
                    root,
                    inodes: inodes.len() as u64,
                    first,
                    shares: shares.get(from..to)?,
                })
            })
            .collect();
        self.pass(3, &trees, refcount::scan, Out::append);
        drop(trees);
        self.evidence.attached = attached;
        self.evidence.shares = shares;
    }

    fn directories(&mut self) -> u64 {
        let dirs = std::mem::take(&mut self.out.dirs);
        let mut links = connect::Links::default();
        self.pass(
            4,
            &dirs,
            |cx, &dir| dir_pass::scan(cx, dir),
            |out, found| {
                links.children.extend(found.children);
                links.dirs.push((found.dir, found.dotdot));
                out.append(found.out);
            },
        );
        let (old, new) = self.out.one_hash;
        if old + new > 0 {
            let at = At::block(self.cx.view.info().superblock);
            self.out.find(at, DirProblem::DxOneHash { old, new });
        }
        let missed = std::mem::take(&mut self.out.missed_groups);
        for &(slot, group) in &missed {
            let allocator = self.system.find(SystemFile::InodeAlloc(Slot(slot)));
            if let Some(allocator) = allocator {
                let at = At::within(allocator, group);
                self.out.find(at, AllocProblem::GroupUnlinked {});
            }
        }
        self.evidence.missed_groups = missed;
        let count = links.dirs.len() as u64;
        if !self.scanner.stopped() {
            let found = connect::tree(&self.cx, &mut links);
            self.out.append(found);
            self.evidence.children = std::mem::take(&mut links.children);
            let found = connect::tops(&self.cx);
            self.out.append(found);
        }
        count
    }

    fn counts(&mut self) {
        let items: Vec<usize> = (0..self.cx.groups.all().len()).collect();
        let work = |cx: &Cx<'_>, &item: &usize| connect::counts(cx, &cx.groups.all()[item]);
        self.pass(5, &items, work, Out::append);
    }

    fn quota<D: Device>(&mut self, volume: &Volume<D>) {
        if self.cx.has_quota() && !self.scanner.stopped() {
            let usage = std::mem::take(&mut self.out.usage);
            quota::scan(volume, &self.cx, &self.system, &usage, &mut self.out);
            self.evidence.usage = usage;
        }
    }

    fn bitmaps(&mut self, facts: &[GroupFact]) {
        if self.scanner.stopped() {
            // Half of the claims would say nothing of what is in use.
            return;
        }
        let held = slots::scan(&self.cx, &self.system, &mut self.out);
        let items: Vec<usize> = (0..self.cx.groups.all().len()).collect();
        let work = |cx: &Cx<'_>, &item: &usize| bitmap::metadata(cx, &cx.groups.all()[item]);
        self.pass(5, &items, work, Out::append);
        let bitmap = self.bitmap_inode();
        let items: Vec<(u32, GroupFact)> = (0u32..).zip(facts.iter().copied()).collect();
        let system = std::mem::take(&mut self.system);
        self.pass(
            5,
            &items,
            |cx, &(group, fact)| bitmap::clusters(cx, bitmap, group, fact, (&system, &held)),
            Out::append,
        );
        self.system = system;
    }

    /// Finds out who claims the clusters that more than one claims: a second sweep, only then.
    fn doubles(&mut self) {
        let doubles = self.cx.clusters.doubles();
        if doubles.is_empty() || self.scanner.stopped() {
            return;
        }
        self.cx.doubles = Some(doubles);
        let mut owners = Vec::new();
        let mut unheard = Out::default();
        superblock::scan(&self.cx, &self.system, &mut unheard);
        owners.append(&mut unheard.owners);
        let bitmap = self.bitmap_inode();
        let groups: Vec<u32> = (0..self.cx.view.geo().cluster_groups()).collect();
        self.pass(
            6,
            &groups,
            |cx, &group| cluster_groups::scan(cx, bitmap, group..group + 1).0.owners,
            |_, found| owners.extend(found),
        );
        let allocators = self.system.allocators(self.cx.view);
        let work = |cx: &Cx<'_>, item: &_| chains::suballocator(cx, item).0.owners;
        self.pass(6, &allocators, work, |_, found| owners.extend(found));
        let items: Vec<usize> = (0..self.cx.groups.all().len()).collect();
        let work =
            |cx: &Cx<'_>, &item: &usize| inode::scan_group(cx, &cx.groups.all()[item]).owners;
        self.pass(6, &items, work, |_, found| owners.extend(found));
        for (_, count, owner, _) in &owners {
            *self.evidence.doubled.entry(*owner).or_default() += u64::from(*count);
        }
        conflicts(&mut self.out, owners);
    }

    fn finish(self, directories: u64) -> Checked {
        let geo = self.cx.view.geo();
        let Out {
            mut findings,
            mut left_out,
            inodes,
            ..
        } = self.out;
        if findings.len() > MOST_FINDINGS {
            left_out += (findings.len() - MOST_FINDINGS) as u64;
            findings.truncate(MOST_FINDINGS);
        }
        doubt(&mut findings);
        let mut wanted: Vec<BlockNo> = findings.iter().filter_map(|f| f.at.inode).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.truncate(MOST_NAMED);
        let names = if wanted.is_empty() || self.scanner.stopped() {
            HashMap::new()
        } else {
            names(self.cx.view, &wanted)
        };
        let mut facts = serde_json::Map::new();
        facts.insert("uuid".to_owned(), self.cx.view.info().uuid_text().into());
        facts.insert("block_bytes".to_owned(), geo.block_bytes().into());
        facts.insert("cluster_bytes".to_owned(), geo.cluster_bytes().into());
        facts.insert("clusters".to_owned(), geo.clusters().into());
        facts.insert("inodes".to_owned(), inodes.into());
        facts.insert("directories".to_owned(), directories.into());
        let stopped = self.scanner.stopped();
        let leak = |finding: &Finding| match finding.problem {
            Problem::AllocProblem(AllocProblem::ClusterLeak { first, count }) => {
                Some((first, count))
            }
            _ => None,
        };
        let evidence = Evidence {
            leaks: findings.iter().filter_map(leak).collect(),
            quota_lost: findings.iter().any(|finding| finding.problem.loses_quota()),
            groups: self.cx.groups,
            system: self.system,
            ..self.evidence
        };
        Checked {
            findings,
            left_out,
            names,
            facts,
            stopped,
            aside: Vec::new(),
            evidence,
        }
    }
}

/// Takes back corrections of blocks in which something else is wrong: such a block is not what it was
/// before, and the explanation that led to it was a coincidence.
fn doubt(findings: &mut [Finding]) {
    let place = |finding: &Finding| finding.at.block.or(finding.at.inode);
    let guess = |finding: &Finding| match finding.problem {
        Problem::VolumeProblem(
            VolumeProblem::EccTwoBits { what, .. } | VolumeProblem::EccBurst { what, .. },
        ) => Some(what),
        _ => None,
    };
    let mut guessed: HashMap<BlockNo, Vec<(usize, &'static str)>> = HashMap::new();
    for (number, finding) in findings.iter().enumerate() {
        let Some(what) = guess(finding) else { continue };
        // A quota file is told of as a whole.
        let file = finding.at.inode.filter(|_| what == "quota block");
        for blkno in place(finding).into_iter().chain(file) {
            guessed.entry(blkno).or_default().push((number, what));
        }
    }
    if guessed.is_empty() {
        return;
    }
    // Counts and marks that disagree with a block may be wrong themselves.
    let inside = [
        Layer::Volume,
        Layer::Groups,
        Layer::Trees,
        Layer::Names,
        Layer::Index,
    ];
    let wrong = findings.iter().filter(|finding| {
        let entry = finding.problem.entry();
        let layer = entry.remedy.map(|remedy| remedy.layer);
        entry.severity > Severity::Note && layer.is_none_or(|layer| inside.contains(&layer))
    });
    let doubted: Vec<_> = wrong
        .filter_map(|finding| guessed.get(&place(finding)?))
        .flatten()
        .copied()
        .collect();
    for (number, what) in doubted {
        if let Some(finding) = findings.get_mut(number) {
            finding.problem = VolumeProblem::BadCrc { what }.into();
        }
    }
}

/// Draws findings from the claims on clusters that more than one claims.
fn conflicts(out: &mut Out, mut owners: Vec<(u32, u32, BlockNo, bool)>) {
    owners.sort_unstable();
    owners.dedup();
    for (i, &(first, count, owner, system)) in owners.iter().enumerate() {
        let end = first + count;
        let meets = |other: &&(u32, u32, BlockNo, bool)| {
            other.2 != owner && other.0 < end && first < other.0 + other.1
        };
        let near = owners[i.saturating_sub(64)..].iter().take(128);
        let other = near
            .filter(meets)
            .map(|other| other.2.0)
            .next()
            .unwrap_or(owner.0);
        let at = At::inode(owner);
        if system {
            out.find(
                at,
                AllocProblem::DupClustersSystem {
                    first,
                    count,
                    other,
                },
            );
        } else {
            out.find(
                at,
                AllocProblem::DupClusters {
                    first,
                    count,
                    other,
                },
            );
        }
    }
}

/// Finds a name of each of some inodes, in one walk over the tree of directories.
fn names(view: View<'_>, wanted: &[BlockNo]) -> HashMap<BlockNo, Vec<u8>> {
    let mut found = HashMap::new();
    let mut seen: HashSet<BlockNo> = HashSet::new();
    let info = view.info();
    let tops = [
        (info.root, b"/".to_vec()),
        (info.system_dir, b"//".to_vec()),
    ];
    let mut queue = std::collections::VecDeque::from(tops);
    while let Some((blkno, path)) = queue.pop_front() {
        if !seen.insert(blkno) {
            continue;
        }
        if wanted.binary_search(&blkno).is_ok() {
            found.entry(blkno).or_insert_with(|| path.clone());
        }
        let (Some(directory), _) = view.inspect::<Dinode>(blkno) else {
            continue;
        };
        let _ = dir::for_each_entry(view, &directory, &mut |entry| {
            let is_dir = entry.file_type == 2;
            if entry.name != b"." && entry.name != b".." {
                let is_wanted = wanted.binary_search(&entry.inode).is_ok();
                if is_dir || is_wanted {
                    let mut name = path.clone();
                    if !name.ends_with(b"/") {
                        name.push(b'/');
                    }
                    name.extend_from_slice(entry.name);
                    if is_dir {
                        queue.push_back((entry.inode, name));
                    } else {
                        found.entry(entry.inode).or_insert(name);
                    }
                }
            }
            if found.len() == wanted.len() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if found.len() == wanted.len() {
            break;
        }
    }
    found
}
