//! What the scan learns of a volume: who claims which cluster and which block of metadata, what
//! each inode is, who shares what. Findings are drawn from these facts once they are complete.

pub(crate) mod clusters;
pub(crate) mod groups;
pub(crate) mod usage;

use std::collections::{BTreeSet, HashMap};

use cowfs_format::block::Checked;
use cowfs_format::block::{EccState, MetaBlock, View};
use cowfs_format::error::FaultKind;
use cowfs_format::layout::RoCompat;
use cowfs_format::units::BlockNo;

use crate::catalogue::{At, BlockKind, DirProblem, Finding, Problem, VolumeProblem};
use crate::pass::index::Lacking;
use crate::pass::reserved;
use clusters::Clusters;
use groups::{Kind, SubGroups};
use usage::Usage;

/// Findings that one work item may keep; the rest is counted. Hostile volumes have millions.
const FINDINGS_PER_ITEM: usize = 4096;

/// What a work item found out.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// What is wrong.
    pub(crate) findings: Vec<Finding>,
    /// Findings beyond the limit.
    pub(crate) left_out: u64,
    /// Directories, to be read once all inodes are known.
    pub(crate) dirs: Vec<BlockNo>,
    /// Inodes that belong to refcount trees: root, inode.
    pub(crate) attached: Vec<(BlockNo, BlockNo)>,
    /// Where the number of shared mappings changes: root, cluster, change.
    pub(crate) shares: Vec<(BlockNo, u32, i32)>,
    /// Claims on clusters that more than one claims: first cluster, number, owner, system file.
    pub(crate) owners: Vec<(u32, u32, BlockNo, bool)>,
    /// Inodes in use.
    pub(crate) inodes: u64,
    /// What users and groups use, on volumes that account for it.
    pub(crate) usage: Usage,
    /// Directories with names that old drivers, and new ones, do not find.
    pub(crate) one_hash: (u64, u64),
    /// Groups that named inodes say they came from and that no allocator has: slot, group.
    pub(crate) missed_groups: BTreeSet<(u16, BlockNo)>,
}

impl Out {
    /// Notes that something is wrong.
    pub(crate) fn find(&mut self, at: At, problem: impl Into<Problem>) {
        if self.findings.len() < FINDINGS_PER_ITEM {
            let problem = problem.into();
            self.findings.push(Finding { at, problem });
        } else {
            self.left_out += 1;
        }
    }

    /// Adds what a later item found.
    pub(crate) fn append(&mut self, mut later: Self) {
        self.findings.append(&mut later.findings);
        self.left_out += later.left_out;
        self.dirs.append(&mut later.dirs);
        self.attached.append(&mut later.attached);
        self.shares.append(&mut later.shares);
        self.owners.append(&mut later.owners);
        self.inodes += later.inodes;
        self.usage.append(later.usage);
        self.one_hash.0 += later.one_hash.0;
        self.one_hash.1 += later.one_hash.1;
        self.missed_groups.append(&mut later.missed_groups);
    }

    /// Notes names that some drivers do not find: each directory that hides some from all of them, and
    /// how many there are that hide some from one kind.
    pub(crate) fn tell_hashes(&mut self, at: At, lacking: Lacking) {
        match (lacking.signed, lacking.unsigned) {
            (0, 0) => {}
            (0, _) => self.one_hash.1 += 1,
            (_, 0) => self.one_hash.0 += 1,
            (old, new) => self.find(at, DirProblem::DxMixed { old, new }),
        }
    }

    /// Adds up changes at the same place, so that memory grows with distinct ranges.
    pub(crate) fn coalesce_shares(&mut self) {
        self.shares
            .sort_unstable_by_key(|(root, cluster, _)| (*root, *cluster));
        self.shares.dedup_by(|later, kept| {
            let same = later.0 == kept.0 && later.1 == kept.1;
            if same {
                kept.2 = kept.2.saturating_add(later.2);
            }
            same
        });
        self.shares.retain(|(_, _, change)| *change != 0);
    }
}

/// What all work items share.
#[derive(Debug)]
pub(crate) struct Cx<'v> {
    pub(crate) view: View<'v>,
    pub(crate) clusters: Clusters,
    pub(crate) groups: SubGroups,
    /// Orphan directories, with their slots.
    pub(crate) orphan_dirs: HashMap<BlockNo, u16>,
    /// Second sweep: only the owners of these ranges are wanted; sorted, disjoint (first, end).
    pub(crate) doubles: Option<Vec<(u32, u32)>>,
}

/// Where a block of metadata says that it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) slot: u16,
    pub(crate) bit: u16,
    pub(crate) loc: u64,
}

impl<'v> Cx<'v> {
    /// Whether usage is accounted for.
    pub(crate) fn has_quota(&self) -> bool {
        let kinds = RoCompat::USRQUOTA | RoCompat::GRPQUOTA;
        self.view.info().features.ro_compat.intersects(kinds)
    }

    /// Claims clusters for an owner.
    pub(crate) fn claim(
        &self,
        out: &mut Out,
        owner: BlockNo,
        system: bool,
        first: u32,
        count: u32,
    ) {
        match &self.doubles {
            None => self.clusters.claim(first, count),
            Some(doubles) => {
                let end = first.saturating_add(count);
                let from = doubles.partition_point(|&(_, double_end)| double_end <= first);
                for &(double, double_end) in &doubles[from..] {
                    if double >= end {
                        break;
                    }
                    let (first, end) = (first.max(double), end.min(double_end));
                    if out.owners.len() < FINDINGS_PER_ITEM {
                        out.owners.push((first, end - first, owner, system));
                    }
                }
            }
        }
    }

    /// Claims a block of metadata of the inode `owner` and compares where it says it came from.
    pub(crate) fn claim_meta(
        &self,
        out: &mut Out,
        owner: BlockNo,
        blkno: BlockNo,
        what: &'static str,
        origin: Origin,
    ) {
        use crate::catalogue::AllocProblem;
        if self.doubles.is_some() {
            return;
        }
        let at = At::within(owner, blkno);
        let Some((group, bit)) = self
            .groups
            .locate(blkno)
            .filter(|(g, _)| g.kind == Kind::Extent)
        else {
            out.find(at, AllocProblem::MetaForeign { what });
            return;
        };
        group.claim(bit);
        let named = if origin.loc == 0 {
            blkno.0.wrapping_sub(u64::from(origin.bit))
        } else {
            origin.loc
        };
        if origin.slot != group.slot || u32::from(origin.bit) != bit || named != group.blkno.0 {
            out.find(
                at,
                AllocProblem::SuballocFields {
                    what,
                    slot: origin.slot,
                    bit: origin.bit,
                    expected_slot: group.slot,
                    expected_bit: bit,
                },
            );
        }
    }

    /// Reads a block of metadata as far as it can be made out, noting what is wrong in it. A block
    /// with a single fault is still looked into; one with more belongs to somebody else.
    pub(crate) fn inspect<B: MetaBlock>(
        &self,
        out: &mut Out,
        at: At,
        blkno: BlockNo,
        kind: BlockKind,
    ) -> Option<Checked<'v, B>> {
        self.inspect_in(self.view, out, at, blkno, kind)
    }

    /// As [`Cx::inspect`], in a view of its own.
    pub(crate) fn inspect_in<B: MetaBlock>(
        &self,
        view: View<'v>,
        out: &mut Out,
        at: At,
        blkno: BlockNo,
        kind: BlockKind,
    ) -> Option<Checked<'v, B>> {
        let (block, faults) = view.inspect::<B>(blkno);
        for fault in &faults {
            out.find(at, kind.problem(fault));
        }
        let block = block.filter(|_| faults.len() <= 1)?;
        note_ecc(out, at, kind.name(), block.ecc());
        reserved::check(out, at, block.bytes());
        Some(block)
    }
}

/// Notes what the check of a block corrected.
pub(crate) fn note_ecc(out: &mut Out, at: At, what: &'static str, state: EccState) {
    match state {
        EccState::Off | EccState::Clean => {}
        EccState::Corrected { bit } => {
            let bit = bit as u64;
            out.find(at, VolumeProblem::EccOneBit { what, bit });
        }
        EccState::Mended { flips } => {
            let bits: Vec<u64> = flips.bits().map(|bit| bit as u64).collect();
            let problem = match *bits {
                [bit] => VolumeProblem::EccOfCheck { what, bit },
                [_, _] => VolumeProblem::EccTwoBits { what, bits },
                _ => VolumeProblem::EccBurst { what, bits },
            };
            out.find(at, problem);
        }
        EccState::Unguarded => out.find(at, VolumeProblem::EccParity { what }),
    }
}

/// The words for an error of a reader.
pub(crate) fn why(error: &cowfs_format::error::Error) -> String {
    match error {
        cowfs_format::error::Error::Fault(fault) => match &fault.kind {
            kind @ FaultKind::Field { .. } => kind.to_string(),
            kind => format!("block {} {kind}", fault.blkno),
        },
        other => other.to_string(),
    }
}
