//! Commands about the whole volume: its superblock, its journals, its space.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::error::FaultKind;
use cowfs_format::layout::{
    COMPAT_NAMES, Dinode, INCOMPAT_NAMES, Incompat, LocalAlloc, RO_COMPAT_NAMES, SUPER_BLOCK_BODY,
    SUPER_BLOCK_SIGNATURE, SuperBlock, TruncateLog, TruncateRec,
};
use cowfs_format::read::chain::count_ones;
use cowfs_format::read::{inode, slot_map};
use cowfs_format::time::Utc;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::units::{BlockNo, Slot};
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;

use super::inode::Stat;
use crate::report::{Flags, Label, Page, Report, Text};
use crate::schema;
use crate::session::{Open, Session, number};
use crate::table::{Args, Command, Needs, Opt, flag};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "stats",
        aliases: &[],
        options: &[
            flag('h', "header", "leave out the superblock's inode fields"),
            Opt {
                short: 's',
                long: "superblock",
                value: Some("N"),
                help: "show backup superblock N, 1 to 6",
            },
        ],
        operands: &[],
        summary: "Shows the superblock and the state of the journals.",
        about: "A volume whose journals hold transactions is shown as it will be after their replay.",
        needs: Needs::Volume,
        says: schema::of::<Stats>,
        run: stats,
    },
    Command {
        name: "df",
        aliases: &[],
        options: &[flag('h', "human", "sizes in KiB, MiB, ...")],
        operands: &[],
        summary: "Shows space and inodes: all, used, free.",
        about: "Space that a slot holds in its local alloc counts as used, as it does for the kernel.",
        needs: Needs::Volume,
        says: schema::of::<Df>,
        run: df,
    },
    Command {
        name: "slotmap",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows which node holds which slot.",
        about: "",
        needs: Needs::Volume,
        says: schema::of::<SlotMap>,
        run: slotmap,
    },
];

/// The superblock.
#[derive(JsonSchema, Serialize)]
pub(super) struct Stats {
    revision: String,
    mount_count: u16,
    max_mount_count: u16,
    state: u16,
    check_errors: u16,
    check_interval: u32,
    last_check: u64,
    creator_os: u32,
    feature_compat: Flags,
    feature_incompat: Flags,
    tunefs_flag: Flags,
    feature_ro_compat: Flags,
    root_blkno: u64,
    system_dir_blkno: u64,
    first_cluster_group: u64,
    block_size: u64,
    cluster_size: u64,
    max_slots: u16,
    xattr_inline_size: u16,
    #[serde(flatten)]
    label: Label,
    uuid: String,
    uuid_hash: u32,
    dx_seeds: [u32; 3],
    cluster_stack: String,
    cluster_name: String,
    cluster_flags: Flags,
    superblock: u64,
    journals: Vec<JournalLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<Stat>,
}

/// The state of a slot's journal.
#[derive(JsonSchema, Serialize)]
struct JournalLine {
    slot: u16,
    dirty: bool,
    pending_transactions: u32,
    pending_blocks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}

fn text_of(bytes: &[u8]) -> String {
    until_nul(bytes).escape_ascii().to_string()
}

fn stats(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let opened = session.opened()?;
    let view = opened.view();
    let at = match args.value('s') {
        None => view.info().superblock,
        Some(word) => backup(view, number(word)?)?,
    };
    Ok(Some(Box::new(stats_of(opened, at, !args.has('h'))?)))
}

/// The superblock at a block.
pub(super) fn stats_of(opened: &Open, at: BlockNo, with_inode: bool) -> Result<Stats> {
    let view = opened.view();
    let info = view.info();
    let block = view.raw(at)?;
    let (sb, _) = zerocopy_prefix::<SuperBlock>(block.get(SUPER_BLOCK_BODY..).unwrap_or_default())
        .ok_or_else(|| FaultKind::OutOfVolume.at(at))?;
    let (head, _) =
        zerocopy_prefix::<Dinode>(&block).ok_or_else(|| FaultKind::OutOfVolume.at(at))?;
    let journals = opened
        .journals()
        .iter()
        .map(|state| JournalLine {
            slot: state.slot.0,
            dirty: state.journal.as_ref().is_ok_and(|journal| journal.dirty),
            pending_transactions: state.pending_transactions,
            pending_blocks: state.pending_blocks,
            error: state.journal.as_ref().err().map(ToString::to_string),
        })
        .collect();
    let (bits, cluster_bits) = (info.geo.block_bits(), info.geo.cluster_bits());
    Ok(Stats {
        revision: format!("{}.{}", sb.s_major_rev_level, sb.s_minor_rev_level),
        mount_count: sb.s_mnt_count.get(),
        max_mount_count: sb.s_max_mnt_count.get(),
        state: sb.s_state.get(),
        check_errors: sb.s_errors.get(),
        check_interval: sb.s_checkinterval.get(),
        last_check: sb.s_lastcheck.get(),
        creator_os: sb.s_creator_os.get(),
        feature_compat: Flags::of(sb.s_feature_compat.get(), COMPAT_NAMES),
        feature_incompat: Flags::of(sb.s_feature_incompat.get(), INCOMPAT_NAMES),
        tunefs_flag: Flags::of(
            sb.s_tunefs_flag.get(),
            &[(1, "remove-slot"), (2, "dir-trailer")],
        ),
        feature_ro_compat: Flags::of(sb.s_feature_ro_compat.get(), RO_COMPAT_NAMES),
        root_blkno: sb.s_root_blkno.get(),
        system_dir_blkno: sb.s_system_dir_blkno.get(),
        first_cluster_group: sb.s_first_cluster_group.get(),
        block_size: 1 << bits,
        cluster_size: 1 << cluster_bits,
        max_slots: sb.s_max_slots.get(),
        xattr_inline_size: sb.s_xattr_inline_size.get(),
        label: Label::new(until_nul(&sb.s_label)),
        uuid: sb.s_uuid.iter().map(|byte| format!("{byte:02X}")).collect(),
        uuid_hash: sb.s_uuid_hash.get(),
        dx_seeds: [
            sb.s_dx_seed0.get(),
            sb.s_dx_seed1.get(),
            sb.s_dx_seed2.get(),
        ],
        cluster_stack: if info.has(Incompat::USERSPACE_STACK) || info.has(Incompat::CLUSTERINFO) {
            text_of(&sb.ci_stack)
        } else {
            "classic o2cb".to_owned()
        },
        cluster_name: text_of(&sb.ci_cluster),
        cluster_flags: Flags::of(sb.ci_stackflags, &[(1, "global-heartbeat")]),
        superblock: at.0,
        journals,
        inode: with_inode.then(|| Stat::superblock(head)),
    })
}

/// Where a backup of the superblock is.
fn backup(view: View<'_>, number: u64) -> Result<BlockNo> {
    if !(1..=6).contains(&number) {
        bail!("there is no backup superblock {number}; they are numbered 1 to 6");
    }
    let at = BlockNo(1 << (28 + 2 * number) >> view.geo().block_bits());
    let found = view.geo().contains(at, 1) && view.raw(at)?.starts_with(&SUPER_BLOCK_SIGNATURE);
    if !found {
        bail!("the volume has no backup superblock {number}, which would be block {at}");
    }
    Ok(at)
}

/// A structure at the start of bytes.
fn zerocopy_prefix<T>(bytes: &[u8]) -> Option<(&T, &[u8])>
where
    T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned,
{
    T::ref_from_prefix(bytes).ok()
}

impl Text for Stats {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tRevision: {}", self.revision)?;
        writeln!(
            page,
            "\tMount Count: {}   Max Mount Count: {}",
            self.mount_count, self.max_mount_count
        )?;
        writeln!(
            page,
            "\tState: {}   Errors: {}",
            self.state, self.check_errors
        )?;
        writeln!(
            page,
            "\tCheck Interval: {}   Last Check: {} UTC",
            self.check_interval,
            Utc(self.last_check)
        )?;
        writeln!(page, "\tCreator OS: {}", self.creator_os)?;
        for (name, flags) in [
            ("Feature Compat", &self.feature_compat),
            ("Feature Incompat", &self.feature_incompat),
            ("Tunefs Incomplete", &self.tunefs_flag),
            ("Feature RO compat", &self.feature_ro_compat),
        ] {
            writeln!(page, "\t{name}: {} {}", flags.bits, flags.line())?;
        }
        writeln!(
            page,
            "\tRoot Blknum: {}   System Dir Blknum: {}",
            self.root_blkno, self.system_dir_blkno
        )?;
        writeln!(
            page,
            "\tFirst Cluster Group Blknum: {}",
            self.first_cluster_group
        )?;
        writeln!(
            page,
            "\tBlock Size Bits: {}   Cluster Size Bits: {}",
            self.block_size.trailing_zeros(),
            self.cluster_size.trailing_zeros()
        )?;
        writeln!(page, "\tMax Node Slots: {}", self.max_slots)?;
        writeln!(
            page,
            "\tExtended Attributes Inline Size: {}",
            self.xattr_inline_size
        )?;
        write!(page, "\tLabel: ")?;
        page.name(self.label.text())?;
        writeln!(page, "\n\tUUID: {}", self.uuid)?;
        writeln!(page, "\tHash: {0} ({0:#x})", self.uuid_hash)?;
        let [a, b, c] = self.dx_seeds;
        writeln!(
            page,
            "\tDX Seeds: {a} {b} {c} ({a:#010x} {b:#010x} {c:#010x})"
        )?;
        writeln!(page, "\tCluster stack: {}", self.cluster_stack)?;
        if !self.cluster_name.is_empty() {
            writeln!(page, "\tCluster name: {}", self.cluster_name)?;
        }
        let flags = &self.cluster_flags;
        writeln!(page, "\tCluster flags: {} {}", flags.bits, flags.line())?;
        for journal in &self.journals {
            let slot = journal.slot;
            if let Some(error) = &journal.error {
                writeln!(page, "\tJournal {slot}: unusable: {error}")?;
            } else if journal.pending_blocks > 0 {
                writeln!(
                    page,
                    "\tJournal {slot}: dirty, {} transactions with {} blocks; shown as after replay",
                    journal.pending_transactions, journal.pending_blocks
                )?;
            } else if journal.dirty {
                writeln!(page, "\tJournal {slot}: dirty, nothing to replay")?;
            } else {
                writeln!(page, "\tJournal {slot}: clean")?;
            }
        }
        self.inode.as_ref().map_or(Ok(()), |inode| inode.text(page))
    }
}

/// Space and inodes.
#[derive(JsonSchema, Serialize)]
struct Df {
    volume: String,
    block_size: u64,
    cluster_size: u64,
    size_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    clusters: u32,
    clusters_used: u32,
    clusters_free: u32,
    /// Free clusters of local allocs, counted as used.
    local_alloc_bytes: u64,
    /// Clusters of truncate logs, counted as used.
    truncate_log_bytes: u64,
    inodes_used: u64,
    /// Inodes for which allocators have room already.
    inodes_ready: u64,
    #[serde(skip)]
    human: bool,
}

fn df(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let opened = session.opened()?;
    let view = opened.view();
    let geo = view.geo();
    let bitmap = inode::read(view, system::find(view, SystemFile::GlobalBitmap)?)
        .context("the cluster bitmap")?;
    let (total, used) = (bitmap.bitmap_total(), bitmap.bitmap_used());
    let mut df = Df {
        volume: opened.path.display().to_string(),
        block_size: geo.block_bytes() as u64,
        cluster_size: geo.cluster_bytes(),
        size_bytes: u64::from(total) << geo.cluster_bits(),
        used_bytes: u64::from(used) << geo.cluster_bits(),
        free_bytes: u64::from(total.saturating_sub(used)) << geo.cluster_bits(),
        clusters: total,
        clusters_used: used,
        clusters_free: total.saturating_sub(used),
        local_alloc_bytes: 0,
        truncate_log_bytes: 0,
        inodes_used: 0,
        inodes_ready: 0,
        human: args.has('h'),
    };
    let mut faults = Vec::new();
    for slot in (0..view.info().max_slots).map(Slot) {
        let parts = [
            SystemFile::InodeAlloc(slot),
            SystemFile::LocalAlloc(slot),
            SystemFile::TruncateLog(slot),
        ];
        for file in parts {
            if let Err(error) = df.add(view, file) {
                faults.push(error);
            }
        }
    }
    if let Err(error) = df.add(view, SystemFile::GlobalInodeAlloc) {
        faults.push(error);
    }
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(df)))
}

impl Df {
    /// Adds what a system file holds.
    fn add(&mut self, view: View<'_>, file: SystemFile) -> cowfs_format::error::Result<()> {
        let inode = inode::read(view, system::find(view, file)?)?;
        let shift = view.geo().cluster_bits();
        match file {
            SystemFile::LocalAlloc(_) => {
                if let Some((head, bitmap)) = zerocopy_prefix::<LocalAlloc>(inode.body()) {
                    let room = bitmap
                        .get(..usize::from(head.la_size.get()))
                        .unwrap_or(bitmap);
                    let total = inode.bitmap_total();
                    let free = total.saturating_sub(count_ones(room, total));
                    self.local_alloc_bytes += u64::from(free) << shift;
                }
            }
            SystemFile::TruncateLog(_) => {
                let recs = truncate_records(inode.body());
                let clusters: u64 = recs.iter().map(|rec| u64::from(rec.t_clusters.get())).sum();
                self.truncate_log_bytes = self.truncate_log_bytes.saturating_add(clusters << shift);
            }
            _ => {
                let (total, used) = (inode.bitmap_total(), inode.bitmap_used());
                // The descriptor of each group takes a bit.
                let groups = cowfs_format::read::chain::groups(view, &inode)?
                    .filter(|step| step.group.is_ok())
                    .count() as u64;
                self.inodes_used += u64::from(used).saturating_sub(groups);
                self.inodes_ready += u64::from(total.saturating_sub(used));
            }
        }
        Ok(())
    }
}

/// The records of a truncate log in the body of its inode.
pub(super) fn truncate_records(body: &[u8]) -> Vec<TruncateRec> {
    let Some((head, rest)) = zerocopy_prefix::<TruncateLog>(body) else {
        return Vec::new();
    };
    rest.chunks_exact(size_of::<TruncateRec>())
        .take(head.tl_used.get().into())
        .filter_map(|bytes| zerocopy_prefix::<TruncateRec>(bytes).map(|(rec, _)| *rec))
        .collect()
}

impl Text for Df {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let percent = (self.used_bytes * 100).div_ceil(self.size_bytes.max(1));
        let show = |bytes: u64| {
            if self.human {
                show_size(bytes)
            } else {
                (bytes >> 10).to_string()
            }
        };
        let head = if self.human { "Size" } else { "1K-blocks" };
        writeln!(
            page,
            "{head:>12} {:>12} {:>12} {:>5} Volume",
            "Used", "Available", "Use%"
        )?;
        writeln!(
            page,
            "{:>12} {:>12} {:>12} {percent:>4}% {}",
            show(self.size_bytes),
            show(self.used_bytes),
            show(self.free_bytes),
            self.volume
        )?;
        writeln!(
            page,
            "Clusters: {} of {}: {} used, {} free",
            self.clusters,
            show_size(self.cluster_size),
            self.clusters_used,
            self.clusters_free
        )?;
        for (bytes, what) in [
            (self.local_alloc_bytes, "set aside by local allocs"),
            (self.truncate_log_bytes, "waiting in truncate logs"),
        ] {
            if bytes > 0 {
                writeln!(page, "Of the used space, {} are {what}", show_size(bytes))?;
            }
        }
        writeln!(
            page,
            "Inodes: {} used, room made for {} more",
            self.inodes_used, self.inodes_ready
        )
    }
}

/// The slot map.
#[derive(JsonSchema, Serialize)]
pub(super) struct SlotMap {
    slots: Vec<SlotLine>,
}

/// A slot.
#[derive(JsonSchema, Serialize)]
struct SlotLine {
    slot: usize,
    node: Option<u32>,
}

fn slotmap(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let file = system::find(view, SystemFile::SlotMap)?;
    Ok(Some(Box::new(SlotMap::of(view, file)?)))
}

impl SlotMap {
    /// The slots by the slot map's inode.
    pub(super) fn of(view: View<'_>, file: BlockNo) -> cowfs_format::error::Result<Self> {
        let slots = slot_map::read(view, file)?.into_iter().enumerate();
        let slots = slots.map(|(slot, node)| SlotLine { slot, node }).collect();
        Ok(Self { slots })
    }
}

impl Text for SlotMap {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\t{:>5}   {:>5}", "Slot#", "Node#")?;
        for line in &self.slots {
            if let Some(node) = line.node {
                writeln!(page, "\t{:>5}   {node:>5}", line.slot)?;
            }
        }
        Ok(())
    }
}
