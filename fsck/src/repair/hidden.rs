//! What damage hides: a repair that takes something away because nothing was seen to use it must
//! not be made while something could not be seen.

use cowfs_format::units::BlockNo;
use cowfs_format::volume::system::SystemFile;

use crate::catalogue::{
    AllocProblem, DirProblem, Finding, InodeProblem, Problem, RefcountProblem, VolumeProblem,
    XattrProblem,
};

/// What could not be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hidden {
    /// The directory whose names lead to the allocators of everything.
    system_dir: BlockNo,
    /// Inodes in use may have been missed.
    inodes: bool,
    /// Names may have been missed.
    names: bool,
    /// Uses of clusters or of metadata blocks may have been missed.
    claims: bool,
    /// Clusters are claimed twice: a group may not be where it is thought to be.
    shared: bool,
    /// A repair failed for want of space. What hides who uses a cluster may be what cannot be repaired without
    /// some: clusters that hold no metadata are given back then.
    short: bool,
}

impl Hidden {
    /// What these findings hide together, on a volume with that system directory.
    pub(super) fn by<'f>(
        findings: impl Iterator<Item = &'f Finding>,
        system_dir: BlockNo,
        short: bool,
    ) -> Self {
        let mut all = Self {
            system_dir,
            short,
            ..Self::default()
        };
        for finding in findings {
            let mut one = Self::by_one(&finding.problem);
            one.inodes |= finding.at.inode == Some(system_dir) && may_be_allocator(finding);
            all.inodes |= one.inodes;
            all.names |= one.names || one.inodes;
            all.claims |= one.claims || one.inodes;
            all.shared |= one.shared;
        }
        all
    }

    /// Whether it cannot be known of everything who uses it.
    pub(super) const fn hides_claims(self) -> bool {
        self.claims
    }

    fn by_one(problem: &Problem) -> Self {
        let mut hidden = Self::default();
        match problem {
            Problem::VolumeProblem(problem) => {
                use VolumeProblem as P;
                hidden.inodes = matches!(
                    problem,
                    P::BadCrc { .. }
                        | P::Unreadable { .. }
                        | P::SystemFileMissing { .. }
                        | P::OrphanDirMissing { .. }
                        | P::SystemDirLost { .. }
                        | P::SystemDirBlock { .. }
                        | P::SystemFileLost { .. }
                        | P::SystemFileKind { .. }
                );
            }
            Problem::AllocProblem(problem) => {
                use AllocProblem as P;
                hidden.inodes = matches!(
                    problem,
                    P::ChainCpg { .. }
                        | P::GroupUnexpected { .. }
                        | P::GroupUnlinked { .. }
                        | P::GroupGen { .. }
                        | P::GroupParent { .. }
                        | P::GroupDuplicate { .. }
                        | P::GroupBlkno { .. }
                        | P::GroupChainLoop { .. }
                        | P::ChainCount { .. }
                        | P::ChainNextFree { .. }
                        | P::ChainEmpty { .. }
                        | P::ChainHeadRange { .. }
                        | P::ChainLinkMagic { .. }
                        | P::ChainLinkGen { .. }
                        | P::ChainLinkRange { .. }
                        | P::DiscontigNextFree { .. }
                        | P::DiscontigRange { .. }
                        | P::DiscontigClusters { .. }
                        | P::InodeBitFree { .. }
                );
                if let P::ChainBits {
                    total,
                    expected_total,
                    ..
                }
                | P::ChainGroupBits {
                    total,
                    expected_total,
                    ..
                } = problem
                {
                    // A group that hangs in no chain any more.
                    hidden.inodes |= u64::from(*total) != *expected_total;
                }
                hidden.claims = matches!(problem, P::DeallocUsed { .. } | P::MetaForeign { .. });
                hidden.shared =
                    matches!(problem, P::DupClusters { .. } | P::DupClustersSystem { .. });
            }
            Problem::InodeProblem(problem) => {
                use InodeProblem as P;
                hidden.names = matches!(
                    problem,
                    P::Mode { .. } | P::RootNotDir { .. } | P::Flags { .. }
                );
                hidden.claims = matches!(
                    problem,
                    P::Mode { .. }
                        | P::Flags { .. }
                        | P::InlineXattrSize { .. }
                        | P::LinkFastData { .. }
                        | P::EbBlkno { .. }
                        | P::EbGen { .. }
                        | P::ExtentEbInvalid { .. }
                        | P::ExtentEbRange { .. }
                        | P::ExtentRange { .. }
                        | P::ExtentOverrun { .. }
                        | P::ListDepth { .. }
                        | P::ListCount { .. }
                        | P::ListFree { .. }
                        | P::RefcountFlag { .. }
                );
            }
            Problem::DirProblem(problem) => {
                use DirProblem as P;
                hidden.names = matches!(
                    problem,
                    P::Zero { .. }
                        | P::Length { .. }
                        | P::DotExcess { .. }
                        | P::TrailerBlkno { .. }
                        | P::TrailerParent { .. }
                        | P::TrailerSignature { .. }
                        | P::RootMissing { .. }
                );
                hidden.claims = matches!(problem, P::DxTreeCorrupt { .. } | P::IvDxTree { .. });
            }
            Problem::XattrProblem(problem) => {
                use XattrProblem as P;
                hidden.claims = matches!(
                    problem,
                    P::BlockInvalid { .. }
                        | P::CountInvalid { .. }
                        | P::EntryInvalid { .. }
                        | P::NameOffset { .. }
                        | P::ValueInvalid { .. }
                        | P::LocationInvalid { .. }
                        | P::BucketCount { .. }
                        | P::Flag { .. }
                );
            }
            Problem::RefcountProblem(problem) => {
                use RefcountProblem as P;
                hidden.claims = matches!(
                    problem,
                    P::ListUsed { .. } | P::BlockInvalid { .. } | P::RootBlockInvalid { .. }
                );
            }
        }
        hidden
    }

    /// Why a finding must not be repaired yet.
    pub(super) fn forbids(self, finding: &Finding) -> Option<&'static str> {
        let of_system_dir = finding.at.inode == Some(self.system_dir);
        let (wants_inodes, wants_names, wants_claims) = match &finding.problem {
            // What other names lead to is found through these.
            Problem::DirProblem(_) if of_system_dir => (false, false, false),
            Problem::AllocProblem(problem) => {
                use AllocProblem as P;
                let claims = match problem {
                    P::ClusterLeak { .. } => !self.short || self.inodes,
                    P::InodeCopy { .. } if self.shared => {
                        return Some("the block may be somebody else's");
                    }
                    P::InodeCopy { .. } | P::MetaLeak { .. } | P::LallocRepair { .. } => true,
                    _ => false,
                };
                (false, false, claims)
            }
            Problem::InodeProblem(problem) => {
                use InodeProblem as P;
                let links = matches!(problem, P::Count { .. } | P::NotConnected { .. });
                (links, links, false)
            }
            Problem::DirProblem(problem) => {
                use DirProblem as P;
                let names = matches!(problem, P::InodeFree { .. } | P::ParentDup { .. });
                let links = matches!(problem, P::NotConnected { .. } | P::DotDot { .. });
                (names || links, links, false)
            }
            Problem::RefcountProblem(problem) => {
                use RefcountProblem as P;
                let mappings = matches!(
                    problem,
                    P::ClusterRange { .. }
                        | P::Collision { .. }
                        | P::ListEmpty { .. }
                        | P::ListUsed { .. }
                        | P::BlockInvalid { .. }
                        | P::RootBlockInvalid { .. }
                        | P::Redundant { .. }
                        | P::CountInvalid { .. }
                        | P::Count { .. }
                );
                (mappings, false, false)
            }
            Problem::VolumeProblem(VolumeProblem::QuotaUsage { .. }) => (true, false, false),
            _ => (false, false, false),
        };
        if wants_inodes && self.inodes {
            return Some("inodes that cannot be seen may be what it is about");
        }
        if wants_names && self.names {
            return Some("names that cannot be seen may be what it is about");
        }
        if wants_claims && self.claims {
            return Some("files that cannot be read may use it");
        }
        None
    }
}

/// Whether a name of the system directory that leads to nothing may be that of an allocator.
fn may_be_allocator(finding: &Finding) -> bool {
    use DirProblem as P;
    match &finding.problem {
        Problem::DirProblem(P::InodeFree { name, .. } | P::InodeRange { name, .. }) => {
            *name != SystemFile::BadBlocks.name()
        }
        _ => false,
    }
}
