//! How much space files and directories take, what of it they have to themselves, and what they
//! share.
//!
//! Space is counted in clusters, as the cluster bitmap does: the inode, extent blocks and other
//! single blocks of a file come out of groups that the allocators below `//` hold, and are told
//! apart ([`Usage::metadata_blocks`]). So each cluster in use belongs to exactly one of: a file or
//! directory below `/` or `//` (one or several of them, when it is shared), or the fixed areas
//! ([`fixed`]).
//!
//! *Exclusive* is what would become free if the set of names were removed: clusters whose mappings
//! all lie inside of it. A file with a name elsewhere would not go, so its clusters are not
//! exclusive to either place. *Shared* is every other cluster that the set reaches, counted once
//! each. For any set, exclusive + shared is the number of different clusters that it reaches.
//!
//! How many mappings a cluster has, the refcount trees say; so no table of all clusters is needed.
//! What is kept is the shared ranges that the walk has met and whose other mappings it has not:
//! joined where they meet, at worst as many as the refcount trees have records. They are kept once
//! for each directory that is open, and handed to the parent when it is left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use crate::block::View;
use crate::error::{Error, Result};
use crate::layout::{Compat, Dinode, ExtentFlags, ExtentRec, FileType, InodeFlags};
use crate::read::holdings::{self, Purpose};
use crate::read::inode::Inode;
use crate::read::refcount::{self, Counted};
use crate::units::BlockNo;
use crate::volume::scan::Scanner;
use crate::volume::tree::{self, Child, Event, Node};

/// What a set of files takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Files of all kinds, directories included; one with several names counts once.
    pub inodes: u64,
    /// Sum of the sizes.
    pub apparent_bytes: u64,
    /// Clusters mapped, as often as they are mapped.
    pub allocated: u64,
    /// Different clusters that only this set maps.
    pub exclusive: u64,
    /// Different clusters that others map too.
    pub shared: u64,
    /// Blocks of metadata that came out of the allocators' groups: inodes, extent blocks, roots of
    /// indexes, xattr blocks. (Not blocks of refcount trees, which belong to nobody alone.)
    pub metadata_blocks: u64,
}

/// What one inode takes, before it is known what others map.
#[derive(Clone, Debug, Default)]
struct Facts {
    links: u32,
    directory: bool,
    apparent_bytes: u64,
    allocated: u64,
    metadata_blocks: u64,
    /// Clusters that nobody else can map.
    plain: u64,
    /// Ranges that others may map. All of its ranges, when the inode has several names.
    counted: Vec<Counted>,
}

impl Facts {
    fn of(view: View<'_>, inode: &Inode<'_>) -> (Self, Vec<Error>) {
        let geo = view.geo();
        let bits = geo.cluster_bits() - geo.block_bits();
        let directory = inode.file_type() == Some(FileType::Directory);
        // A name in an orphan directory is one more than the inode counts.
        let held = InodeFlags::DIO_ORPHANED;
        let links = inode.links().max(1) + u32::from(inode.flags().intersects(held));
        let mut facts = Self {
            links: if directory { 1 } else { links },
            directory,
            apparent_bytes: inode.i_size.get(),
            ..Self::default()
        };
        let (mut plain, mut shared) = (Vec::new(), Vec::new());
        let mut faults = Vec::new();
        let all = u64::from(geo.clusters());
        holdings::for_each_run(view, inode, &mut |run| {
            let run = match run {
                Ok(run) => run,
                Err(error) => return faults.push(error),
            };
            if !run.purpose.in_clusters() {
                let own = !matches!(
                    run.purpose,
                    Purpose::RefcountRoot
                        | Purpose::RefcountLeaf
                        | Purpose::RefcountExtent
                        | Purpose::GroupDescriptor
                );
                facts.metadata_blocks += u64::from(own);
                return;
            }
            let first = (run.blkno.0 >> bits).min(all);
            let end = (run.blkno.0.saturating_add(run.blocks))
                .div_ceil(1 << bits)
                .min(all);
            facts.allocated += end - first;
            if run.flags.contains(ExtentFlags::REFCOUNTED) {
                shared.push((first, end));
            } else {
                facts.plain += end - first;
                // Each name of a file holds it as a whole.
                if facts.links > 1 {
                    plain.push((first, end));
                }
            }
        });
        if inode.flags().contains(InodeFlags::CHAIN) {
            // The size of an allocator is that of what it gives out.
            facts.apparent_bytes = facts.allocated << geo.cluster_bits();
        }
        if !shared.is_empty() {
            shared.sort_unstable();
            match refcount::counted(view, BlockNo(inode.i_refcount_loc.get()), &shared) {
                Ok(counted) => facts.counted = counted,
                Err(error) => {
                    faults.push(error);
                    facts.plain += shared.iter().map(|(first, end)| end - first).sum::<u64>();
                    plain.append(&mut shared);
                }
            }
        }
        if facts.links > 1 {
            facts.plain = 0;
            let alone = |(first, end)| Counted {
                first,
                end,
                count: 1,
            };
            facts.counted.extend(plain.into_iter().map(alone));
        }
        (facts, faults)
    }
}

/// A range of clusters, some of whose mappings were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    end: u64,
    count: u32,
    met: u32,
}

/// An inode, some of whose names were met.
#[derive(Clone, Debug)]
struct Named {
    met: u32,
    facts: Facts,
}

/// The account of a set of files, to which more can be added.
#[derive(Clone, Debug, Default)]
pub struct Account {
    usage: Usage,
    /// Clusters of `open`.
    open_clusters: u64,
    /// Ranges that somebody else maps, by their first cluster.
    open: BTreeMap<u64, Piece>,
    named: HashMap<BlockNo, Named>,
}

impl Account {
    /// What the set takes.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        Usage {
            shared: self.open_clusters,
            ..self.usage
        }
    }

    fn add(&mut self, blkno: BlockNo, facts: Facts) {
        if facts.links > 1 {
            let met = Named { met: 1, facts };
            return self.add_named(blkno, met);
        }
        self.add_sums(&facts);
        self.usage.exclusive += facts.plain;
        for range in &facts.counted {
            self.add_range(*range, 1);
        }
    }

    fn add_sums(&mut self, facts: &Facts) {
        self.usage.inodes += 1;
        self.usage.apparent_bytes = self
            .usage
            .apparent_bytes
            .saturating_add(facts.apparent_bytes);
        self.usage.allocated += facts.allocated;
        self.usage.metadata_blocks += facts.metadata_blocks;
    }

    /// An inode of several names: it counts at once, but what it maps counts as mapped from here
    /// only when all of its names are here.
    fn add_named(&mut self, blkno: BlockNo, more: Named) {
        match self.named.remove(&blkno) {
            None => {
                self.add_sums(&more.facts);
                for range in &more.facts.counted {
                    self.add_range(*range, 0);
                }
                self.named.insert(blkno, more);
            }
            Some(mut known) => {
                known.met = known.met.saturating_add(more.met);
                if known.met < known.facts.links {
                    self.named.insert(blkno, known);
                    return;
                }
                for range in &known.facts.counted {
                    self.add_range(*range, 1);
                }
            }
        }
    }

    /// Counts `met` mappings of a range.
    fn add_range(&mut self, range: Counted, met: u32) {
        let mut at = range.first;
        // The piece that begins before the range and reaches into it.
        if let Some((&first, &piece)) = self.open.range(..at).next_back()
            && piece.end > at
        {
            self.open.insert(first, Piece { end: at, ..piece });
            self.open.insert(at, piece);
        }
        while at < range.end {
            let next = self.open.range(at..range.end).next();
            match next.map(|(&first, &piece)| (first, piece)) {
                Some((first, piece)) if first == at => {
                    let end = piece.end.min(range.end);
                    self.open.remove(&first);
                    if piece.end > end {
                        self.open.insert(end, piece);
                    }
                    self.open_clusters -= end - at;
                    let met = piece.met.saturating_add(met);
                    self.put((at, end), piece.count, met, range.end);
                    at = end;
                }
                next => {
                    let end = next.map_or(range.end, |(first, _)| first);
                    self.put((at, end), range.count, met, range.end);
                    at = end;
                }
            }
        }
    }

    /// Puts a range where there is none, joined to its neighbours; not to one before `last`, whose
    /// own turn comes.
    fn put(&mut self, (mut first, mut end): (u64, u64), count: u32, met: u32, last: u64) {
        if met >= count {
            self.usage.exclusive += end - first;
            return;
        }
        self.open_clusters += end - first;
        let alike = |piece: &Piece| piece.count == count && piece.met == met;
        if let Some((&before, piece)) = self.open.range(..first).next_back()
            && piece.end == first
            && alike(piece)
        {
            first = before;
        }
        if end >= last
            && let Some(piece) = self.open.get(&end).copied()
            && alike(&piece)
        {
            self.open.remove(&end);
            end = piece.end;
        }
        self.open.insert(first, Piece { end, count, met });
    }

    /// Adds the account of other names.
    pub fn merge(&mut self, other: Self) {
        let (mut large, small) = (std::mem::take(self), other);
        let (mut large, small) =
            if large.open.len() + large.named.len() < small.open.len() + small.named.len() {
                (small, large)
            } else {
                (std::mem::take(&mut large), small)
            };
        let twice: HashSet<BlockNo> = (small.named.keys())
            .filter(|blkno| large.named.contains_key(blkno))
            .copied()
            .collect();
        large.usage.inodes += small.usage.inodes;
        large.usage.apparent_bytes = large
            .usage
            .apparent_bytes
            .saturating_add(small.usage.apparent_bytes);
        large.usage.allocated += small.usage.allocated;
        large.usage.metadata_blocks += small.usage.metadata_blocks;
        large.usage.exclusive += small.usage.exclusive;
        for (first, piece) in small.open {
            let range = Counted {
                first,
                end: piece.end,
                count: piece.count,
            };
            large.add_range(range, piece.met);
        }
        for blkno in &twice {
            if let Some(named) = large.named.get(blkno) {
                large.usage.inodes -= 1;
                large.usage.apparent_bytes -= named.facts.apparent_bytes;
                large.usage.allocated -= named.facts.allocated;
                large.usage.metadata_blocks -= named.facts.metadata_blocks;
            }
        }
        for (blkno, named) in small.named {
            if twice.contains(&blkno) {
                large.add_named(blkno, named);
            } else {
                large.named.insert(blkno, named);
            }
        }
        *self = large;
    }
}

/// A line of an account.
#[derive(Debug)]
pub struct Line<'a> {
    /// The file or directory.
    pub node: &'a Node,
    /// Whether it is a directory; it is told after all that is inside of it.
    pub directory: bool,
    /// What it takes, with all that is inside of it.
    pub usage: Usage,
}

/// Accounts for a subtree. `each` is shown a line for each directory, for other files too when
/// `files`, and what could not be read, in the order of a walk; it can end the walk, and then the
/// account is of no use.
pub fn subtree(
    scanner: &Scanner,
    view: View<'_>,
    start: BlockNo,
    files: bool,
    each: impl FnMut(Result<Line<'_>, (&Node, Error)>) -> ControlFlow<()>,
) -> Account {
    let mut open = Open {
        // The first account stands for all.
        stack: vec![Account::default()],
        each,
    };
    let look = |_: &Node, inode: &Inode<'_>| Sum::of(view, inode);
    if files {
        tree::walk(scanner, view, start, look, |event| open.told(event, true));
    } else {
        tree::fold(scanner, view, start, look, |event| open.told(event, false));
    }
    (open.stack.into_iter())
        .reduce(|mut all, next| {
            all.merge(next);
            all
        })
        .unwrap_or_default()
}

/// The account of an inode, and of the files in it when it is a directory; not of the directories.
#[derive(Default)]
struct Sum {
    directory: bool,
    account: Account,
    /// What could not be read of the inode.
    faults: Vec<Error>,
    /// What could not be read of files in it.
    inside: Vec<(Vec<u8>, BlockNo, Error)>,
}

impl Sum {
    fn of(view: View<'_>, inode: &Inode<'_>) -> Self {
        let (facts, faults) = Facts::of(view, inode);
        let mut sum = Self {
            directory: facts.directory,
            faults,
            ..Self::default()
        };
        sum.account.add(inode.blkno(), facts);
        sum
    }
}

impl<'v> tree::Sum<'v> for Sum {
    /// Adds a file of one name whose head tells, in two fields that agree, what it holds: nothing, or
    /// the extents behind the head, up to the cluster in which the file ends.
    fn peek(&mut self, view: View<'v>, inode: &Dinode, body: &[u8]) -> bool {
        let geo = view.geo();
        let size = inode.i_size.get();
        if inode.file_type() != Some(FileType::Regular) || inode.links() != 1 {
            return false;
        }
        let allocated = if inode.holds_nothing() {
            (size < geo.block_bytes() as u64).then_some(0)
        } else {
            let clusters = size.div_ceil(1 << geo.cluster_bits());
            let end = |rec: &ExtentRec| {
                u64::from(rec.e_cpos.get()) + u64::from(rec.e_leaf_clusters.get())
            };
            let last = inode.holds_only(body).and_then(<[_]>::last);
            last.filter(|last| end(last) == clusters)
                .map(|_| u64::from(inode.i_clusters.get()))
        };
        let Some(allocated) = allocated else {
            return false;
        };
        let facts = Facts {
            links: 1,
            apparent_bytes: size,
            allocated,
            plain: allocated,
            metadata_blocks: 1,
            ..Facts::default()
        };
        self.account.add(BlockNo(inode.i_blkno.get()), facts);
        true
    }

    fn add(&mut self, view: View<'v>, child: Child<'_>, inode: Result<Inode<'v>>) {
        let faults = match inode {
            Ok(inode) => {
                let (facts, faults) = Facts::of(view, &inode);
                self.account.add(inode.blkno(), facts);
                faults
            }
            Err(error) => vec![error],
        };
        let told = |error| (child.name.to_vec(), child.blkno, error);
        self.inside.extend(faults.into_iter().map(told));
    }

    fn join(&mut self, other: Self) {
        self.account.merge(other.account);
        self.inside.extend(other.inside);
    }
}

/// The account of a walk under way.
struct Open<F> {
    /// One for each directory that is open, below the one that stands for all.
    stack: Vec<Account>,
    each: F,
}

impl<F: FnMut(Result<Line<'_>, (&Node, Error)>) -> ControlFlow<()>> Open<F> {
    fn told(&mut self, event: Event<Sum>, files: bool) -> ControlFlow<()> {
        let line = |node, directory, account: &Account| {
            Ok(Line {
                node,
                directory,
                usage: account.usage(),
            })
        };
        match event {
            Event::Failed(node, error) => (self.each)(Err((&node, error))),
            Event::Found(node, mut sum) => {
                for error in sum.faults {
                    (self.each)(Err((&node, error)))?;
                }
                sum.inside.sort_by(|(a, ..), (b, ..)| a.cmp(b));
                for (name, blkno, error) in sum.inside {
                    let child = node.child(&name, blkno, 0);
                    (self.each)(Err((&child, error)))?;
                }
                if sum.directory {
                    self.stack.push(sum.account);
                    return ControlFlow::Continue(());
                }
                if files {
                    (self.each)(line(&node, false, &sum.account))?;
                }
                if let Some(account) = self.stack.last_mut() {
                    account.merge(sum.account);
                }
                ControlFlow::Continue(())
            }
            Event::Left(node) => {
                let Some(account) = self.stack.pop() else {
                    return ControlFlow::Break(());
                };
                (self.each)(line(&node, true, &account))?;
                match self.stack.last_mut() {
                    Some(parent) => parent.merge(account),
                    None => self.stack.push(account),
                }
                ControlFlow::Continue(())
            }
        }
    }
}

/// Clusters that are part of the volume for ever, and belong to no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// The first blocks and the superblock.
    pub superblock: u64,
    /// Descriptors of cluster groups.
    pub group_descriptors: u64,
    /// Backups of the superblock.
    pub backups: u64,
}

impl Fixed {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.superblock + self.group_descriptors + self.backups
    }
}

/// The fixed areas of a volume.
#[must_use]
pub fn fixed(view: View<'_>) -> Fixed {
    let geo = view.geo();
    let backups = if view.info().features.compat.contains(Compat::BACKUP_SB) {
        geo.backup_offsets().count() as u64
    } else {
        0
    };
    Fixed {
        superblock: geo.first_group_cluster().0.into(),
        group_descriptors: geo.cluster_groups().into(),
        backups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(first: u64, end: u64, count: u32) -> Counted {
        Counted { first, end, count }
    }

    fn pieces(account: &Account) -> Vec<(u64, u64, u32)> {
        let open = account.open.iter();
        open.map(|(first, piece)| (*first, piece.end, piece.met))
            .collect()
    }

    #[test]
    fn a_range_that_grows_alike_its_neighbour_still_counts_there() {
        let mut account = Account::default();
        account.add_range(range(10, 20, 5), 1);
        account.add_range(range(0, 20, 5), 1);
        assert_eq!(pieces(&account), [(0, 10, 1), (10, 20, 2)]);
        account.add_range(range(0, 20, 5), 1);
        assert_eq!(pieces(&account), [(0, 10, 2), (10, 20, 3)]);
        account.add_range(range(0, 10, 5), 1);
        assert_eq!(pieces(&account), [(0, 20, 3)]);
        assert_eq!(account.usage().shared, 20);
        account.add_range(range(5, 15, 5), 2);
        assert_eq!(pieces(&account), [(0, 5, 3), (15, 20, 3)]);
        assert_eq!(
            (account.usage().exclusive, account.usage().shared),
            (10, 10)
        );
    }
}
