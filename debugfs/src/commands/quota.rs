//! `quota`: limits and usage of users and groups.

use std::io::{self, Write};

use anyhow::{Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::{DiskDqblk, GLOBAL_QUOTA_MAGIC, LOCAL_QUOTA_MAGIC, RoCompat};
use cowfs_format::read::quota::{GlobalQuota, LocalQuota, Met};
use cowfs_format::time::Utc;
use cowfs_format::units::Slot;
use cowfs_format::volume::system::{self, SystemFile};
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, operand};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "quota",
    aliases: &[],
    options: &[],
    operands: &[operand("user|group", OperandKind::Word, Count::Optional)],
    summary: "Shows limits and usage of users and groups.",
    about: "Space in bytes. Usage is what the quota files say: nodes enter what they changed into a \
            file of their slot first and merge it into the global file later; changes that are not \
            merged yet are shown by slot. A limit of 0 is none.",
    needs: Needs::Volume,
    says: schema::of::<Quotas>,
    run: quota,
}];

/// The quotas of a volume.
#[derive(JsonSchema, Serialize)]
struct Quotas {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Quota>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Quota>,
}

/// The quotas of users, or of groups.
#[derive(JsonSchema, Serialize)]
struct Quota {
    /// Seconds that more than the soft limit of space is tolerated.
    byte_grace_seconds: u32,
    /// The same for inodes.
    inode_grace_seconds: u32,
    /// Milliseconds after which nodes merge their changes.
    sync_ms: u32,
    /// Blocks of the file.
    blocks: u32,
    entries: Vec<Entry>,
    slots: Vec<SlotQuota>,
}

/// Limits and usage of a user or group.
#[derive(JsonSchema, Serialize)]
struct Entry {
    id: u32,
    bytes: u64,
    bytes_soft: u64,
    bytes_hard: u64,
    /// When the soft limit of space becomes a hard one; 0 = it is not exceeded.
    bytes_until: u64,
    inodes: u64,
    inodes_soft: u64,
    inodes_hard: u64,
    /// When the soft limit of inodes becomes a hard one.
    inodes_until: u64,
    /// Slots that hold the entry.
    use_count: u32,
}

/// What a slot has not merged.
#[derive(JsonSchema, Serialize)]
struct SlotQuota {
    slot: u16,
    /// Whether it says that it has merged all.
    clean: bool,
    changes: Vec<ChangeLine>,
}

/// A change that is not merged.
#[derive(JsonSchema, Serialize)]
struct ChangeLine {
    id: u64,
    bytes: i64,
    inodes: i64,
}

fn quota(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let (user, group) = match args.get(0) {
        None => (true, true),
        Some(b"user") => (true, false),
        Some(b"group") => (false, true),
        Some(_) => bail!("give `user`, `group` or nothing"),
    };
    let view = session.view()?;
    let features = view.info().features.ro_compat;
    let mut faults = Vec::new();
    let mut read = |wanted: bool, feature: RoCompat, which: usize, name: &str| {
        if !features.contains(feature) {
            if wanted && args.get(0).is_some() {
                faults.push(format!("the volume keeps no quotas of {name}s"));
            }
            return None;
        }
        wanted
            .then(|| read_quota(view, which, &mut faults))
            .flatten()
    };
    let quotas = Quotas {
        user: read(user, RoCompat::USRQUOTA, 0, "user"),
        group: read(group, RoCompat::GRPQUOTA, 1, "group"),
    };
    for fault in faults {
        session.fault(fault);
    }
    Ok(Some(Box::new(quotas)))
}

/// The quotas of users (0) or groups (1).
fn read_quota(view: View<'_>, which: usize, faults: &mut Vec<String>) -> Option<Quota> {
    let file = [SystemFile::UserQuota, SystemFile::GroupQuota][which];
    let opened = system::find(view, file)
        .and_then(|inode| GlobalQuota::open(view, inode, GLOBAL_QUOTA_MAGIC[which]));
    let global = match opened {
        Ok(global) => global,
        Err(error) => {
            faults.push(error.to_string());
            return None;
        }
    };
    let mut entries = Vec::new();
    global.walk(&mut |met| match met {
        Met::Entry(entry) => entries.push(Entry::new(entry)),
        Met::Fault(error) => faults.push(error.to_string()),
        Met::Tree(_) | Met::Leaf(_) => {}
    });
    entries.sort_by_key(|entry| entry.id);
    let mut slots = Vec::new();
    for slot in (0..view.info().max_slots).map(Slot) {
        let file = match which {
            0 => SystemFile::LocalUserQuota(slot),
            _ => SystemFile::LocalGroupQuota(slot),
        };
        let read = system::find(view, file)
            .and_then(|inode| LocalQuota::open(view, inode, LOCAL_QUOTA_MAGIC[which]))
            .and_then(|local| Ok((local.is_clean(), local.changes()?)));
        match read {
            Ok((clean, changes)) => slots.push(SlotQuota {
                slot: slot.0,
                clean,
                changes: changes
                    .into_iter()
                    .map(|change| ChangeLine {
                        id: change.id,
                        bytes: change.bytes,
                        inodes: change.inodes,
                    })
                    .collect(),
            }),
            Err(error) => faults.push(error.to_string()),
        }
    }
    Some(Quota {
        byte_grace_seconds: global.info.dqi_bgrace.get(),
        inode_grace_seconds: global.info.dqi_igrace.get(),
        sync_ms: global.info.dqi_syncms.get(),
        blocks: global.info.dqi_blocks.get(),
        entries,
        slots,
    })
}

impl Entry {
    fn new(entry: &DiskDqblk) -> Self {
        Self {
            id: entry.dqb_id.get(),
            bytes: entry.dqb_curspace.get(),
            bytes_soft: entry.dqb_bsoftlimit.get(),
            bytes_hard: entry.dqb_bhardlimit.get(),
            bytes_until: entry.dqb_btime.get(),
            inodes: entry.dqb_curinodes.get(),
            inodes_soft: entry.dqb_isoftlimit.get(),
            inodes_hard: entry.dqb_ihardlimit.get(),
            inodes_until: entry.dqb_itime.get(),
            use_count: entry.dqb_use_count.get(),
        }
    }
}

impl Text for Quotas {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.user.is_none() && self.group.is_none() {
            return writeln!(page, "\tThe volume keeps no quotas");
        }
        for (quota, name) in [(&self.user, "User"), (&self.group, "Group")] {
            if let Some(quota) = quota {
                quota.text(page, name)?;
            }
        }
        Ok(())
    }
}

impl Quota {
    fn text(&self, page: &mut Page<'_>, name: &str) -> io::Result<()> {
        writeln!(
            page,
            "\t{name} quotas: grace {} s for space, {} s for inodes; merged every {} ms; {} blocks",
            self.byte_grace_seconds, self.inode_grace_seconds, self.sync_ms, self.blocks
        )?;
        writeln!(
            page,
            "\t{name:>10} {:>15} {:>15} {:>15} {:>10} {:>10} {:>10}",
            "Bytes", "Soft", "Hard", "Inodes", "Soft", "Hard"
        )?;
        for entry in &self.entries {
            writeln!(
                page,
                "\t{:>10} {:>15} {:>15} {:>15} {:>10} {:>10} {:>10}",
                entry.id,
                entry.bytes,
                entry.bytes_soft,
                entry.bytes_hard,
                entry.inodes,
                entry.inodes_soft,
                entry.inodes_hard
            )?;
            for (until, soft, used, what) in [
                (entry.bytes_until, entry.bytes_soft, entry.bytes, "space"),
                (
                    entry.inodes_until,
                    entry.inodes_soft,
                    entry.inodes,
                    "inodes",
                ),
            ] {
                if soft != 0 && used > soft && until != 0 {
                    writeln!(
                        page,
                        "\t{:>10} over its soft limit of {what}, until {} UTC",
                        "",
                        Utc(until)
                    )?;
                }
            }
        }
        for slot in &self.slots {
            if slot.clean && slot.changes.is_empty() {
                continue;
            }
            let state = if slot.clean { "clean" } else { "not merged" };
            writeln!(page, "\tSlot {}: {state}", slot.slot)?;
            for change in &slot.changes {
                writeln!(
                    page,
                    "\t{:>10} {:>+15} bytes {:>+10} inodes",
                    change.id, change.bytes, change.inodes
                )?;
            }
        }
        Ok(())
    }
}
