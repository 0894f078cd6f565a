//! A plan as a report: one model, as text and as JSON.

use std::fmt::Write;

use cowfs_format::ops::seal::Sealed;
use cowfs_format::toolkit::size::show_size;
use serde::Serialize;

use crate::files::SubAlloc;
use crate::options::{Usage, show_uuid};
use crate::plan::Plan;
use crate::space::Space;

/// What there is to say about a volume to be made, or made.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema: u32,
    /// The device or image.
    pub device: String,
    /// Whether it was written; false for a dry run.
    pub written: bool,
    /// Label.
    pub label: String,
    /// UUID, 32 upper-case hexadecimal digits in groups.
    pub uuid: String,
    /// Names of the features.
    pub features: Vec<String>,
    /// Words of the features: compat, incompat, ro_compat.
    pub feature_words: [u32; 3],
    /// Usage profile (`-T`); null when none was chosen.
    pub usage: Option<&'static str>,
    /// Bytes of a block.
    pub block_size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Clusters.
    pub clusters: u32,
    /// Blocks.
    pub blocks: u64,
    /// Cluster groups.
    pub cluster_groups: u32,
    /// Clusters of a full group.
    pub group_clusters: u32,
    /// Clusters of the last group.
    pub tail_clusters: u32,
    /// Clusters in use after formatting, before the volume was filled.
    pub used_clusters: u32,
    /// What was put into the volume; absent when it was not filled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filled: Option<crate::Filled>,
    /// What its seal protects; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal: Option<Sealed>,
    /// Node slots.
    pub node_slots: u16,
    /// Bytes of each journal.
    pub journal_size: u64,
    /// Bits of the block numbers in journals.
    pub journal_bits: u32,
    /// Groups of all extent allocators together.
    pub extent_groups: usize,
    /// Bytes of all extent allocators together.
    pub extent_bytes: u64,
    /// Byte offsets of the backup superblocks.
    pub backup_superblocks: Vec<u64>,
    /// Cluster stack; null for classic and local volumes.
    pub cluster_stack: Option<String>,
    /// Name of the cluster.
    pub cluster_name: Option<String>,
    /// Whether heartbeat is global.
    pub global_heartbeat: bool,
    /// Time of everything in the volume, seconds since 1970.
    pub time: u64,
    /// The system files.
    pub system_files: Vec<FileReport>,
}

/// A system file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Name in the system directory.
    pub name: String,
    /// Block of its inode.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Its clusters, as pairs of first cluster and number.
    pub extents: Vec<(u32, u32)>,
    /// Groups of an allocator.
    pub groups: usize,
}

impl Report {
    /// The report of a plan.
    #[must_use]
    pub fn new(plan: &Plan, device: &str, written: bool) -> Self {
        let geo = &plan.geo;
        let allocs: Vec<&SubAlloc> = plan
            .files
            .iter()
            .filter(|file| file.kind == crate::plan::Kind::ExtentAlloc)
            .filter_map(|file| file.alloc.as_ref())
            .collect();
        let clusters: u64 = allocs.iter().map(|alloc| u64::from(alloc.clusters())).sum();
        Self {
            filled: None,
            seal: None,
            schema: 1,
            device: device.to_owned(),
            written,
            label: plan.label.clone(),
            uuid: show_uuid(&plan.uuid),
            features: plan.features.names(),
            feature_words: [
                plan.features.compat.bits(),
                plan.features.incompat.bits(),
                plan.features.ro_compat.bits(),
            ],
            usage: match plan.usage {
                Usage::General => None,
                Usage::Mail => Some("mail"),
                Usage::Datafiles => Some("datafiles"),
                Usage::Vmstore => Some("vmstore"),
            },
            block_size: geo.block_bytes() as u64,
            cluster_size: geo.cluster_bytes(),
            size: geo.bytes(),
            clusters: geo.clusters(),
            blocks: geo.blocks(),
            cluster_groups: geo.cluster_groups(),
            group_clusters: geo.clusters_per_group().min(geo.clusters()),
            tail_clusters: tail(&plan.space, geo.cluster_groups()),
            used_clusters: plan.space.used(),
            node_slots: plan.slots,
            journal_size: plan.journal_bytes,
            journal_bits: if plan.journal64 { 64 } else { 32 },
            extent_groups: allocs.iter().map(|alloc| alloc.groups.len()).sum(),
            extent_bytes: clusters << geo.cluster_bits(),
            backup_superblocks: if plan.has_backups() {
                geo.backup_offsets().collect()
            } else {
                Vec::new()
            },
            cluster_stack: plan
                .cluster
                .as_ref()
                .map(|c| String::from_utf8_lossy(&c.stack).into_owned()),
            cluster_name: plan.cluster.as_ref().map(|c| c.name.clone()),
            global_heartbeat: plan.cluster.as_ref().is_some_and(|c| c.global_heartbeat),
            time: plan.time,
            system_files: plan
                .files
                .iter()
                .map(|file| FileReport {
                    name: file.name.clone(),
                    inode: plan.system_block(file.bit).0,
                    size: file.size,
                    extents: file
                        .tree
                        .extents
                        .iter()
                        .map(|extent| (extent.start.0, extent.len))
                        .collect(),
                    groups: file.alloc.as_ref().map_or(0, |alloc| alloc.groups.len()),
                })
                .collect(),
        }
    }

    /// The report as text; `verbose` adds the system files.
    #[must_use]
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}: {value}");
        };
        if let Some(usage) = self.usage {
            line("Filesystem type", usage.to_owned());
        }
        line("Label", self.label.clone());
        line("UUID", self.uuid.clone());
        line("Features", self.features.join(" "));
        if let (Some(stack), Some(name)) = (&self.cluster_stack, &self.cluster_name) {
            let mode = if self.global_heartbeat {
                ", global heartbeat"
            } else {
                ""
            };
            line("Cluster", format!("{name} (stack {stack}{mode})"));
        }
        line("Block size", self.block_size.to_string());
        line("Cluster size", self.cluster_size.to_string());
        line(
            "Volume size",
            format!(
                "{} ({}; {} clusters, {} blocks)",
                self.size,
                show_size(self.size),
                self.clusters,
                self.blocks
            ),
        );
        line(
            "Cluster groups",
            format!(
                "{} (of {} clusters, the last of {})",
                self.cluster_groups, self.group_clusters, self.tail_clusters
            ),
        );
        line(
            "Extent allocators",
            format!(
                "{} ({} groups)",
                show_size(self.extent_bytes),
                self.extent_groups
            ),
        );
        line(
            "Journal size",
            format!(
                "{} ({}-bit block numbers)",
                show_size(self.journal_size),
                self.journal_bits
            ),
        );
        line("Node slots", self.node_slots.to_string());
        line(
            "Backup superblocks",
            self.backup_superblocks.len().to_string(),
        );
        line("Clusters in use", self.used_clusters.to_string());
        if let Some(filled) = &self.filled {
            let shared = match filled.shared_bytes {
                0 => String::new(),
                bytes => format!(", {} of them shared", show_size(bytes)),
            };
            line(
                "Filled",
                format!(
                    "{} inodes, {} more names, {} of data{shared}",
                    filled.inodes,
                    filled.links,
                    show_size(filled.bytes)
                ),
            );
        }
        if let Some(seal) = &self.seal {
            line(
                "Seal",
                format!(
                    "{} blocks in {} groups, of which any {} of {} can be lost, and {} in a row; {}",
                    seal.blocks,
                    seal.groups,
                    seal.parity_shards,
                    u32::from(seal.data_shards) + u32::from(seal.parity_shards),
                    seal.run,
                    show_size(seal.bytes)
                ),
            );
        }
        if verbose {
            for file in &self.system_files {
                let extents: Vec<_> = file
                    .extents
                    .iter()
                    .map(|(start, len)| format!("{start}+{len}"))
                    .collect();
                line(
                    &format!("System file {}", file.name),
                    format!(
                        "inode {}, size {} {}",
                        file.inode,
                        file.size,
                        extents.join(" ")
                    ),
                );
            }
        }
        out
    }
}

/// Clusters of the last group.
fn tail(space: &Space, groups: u32) -> u32 {
    space.bits(groups.saturating_sub(1))
}
