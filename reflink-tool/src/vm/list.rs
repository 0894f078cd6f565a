//! `vm ls`.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use cowfs_format::block::View;
use cowfs_format::ops::usage::{self, Account};
use cowfs_format::toolkit::size::show_size;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::scan::Scanner;
use serde::Serialize;

use crate::vm::ListArgs;
use crate::vm::machine::{Layout, Machine, Repository};
use crate::volume::{look, shown};

/// A machine or template.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `machine` or `template`.
    kind: &'static str,
    directory: String,
    uuid: Option<String>,
    memory_mib: Option<u64>,
    vcpus: Option<u64>,
    size_bytes: u64,
    allocated_bytes: u64,
    /// What would become free without its disks.
    exclusive_bytes: u64,
    shared_bytes: u64,
    disks: Vec<DiskRow>,
    snapshots: Vec<String>,
}

/// A disk that a configuration names.
#[derive(Debug, Serialize)]
struct DiskRow {
    path: String,
    /// Whether it is the machine's own: cloned, kept and removed with it.
    own: bool,
    /// `null` when it is none of its own, or does not exist.
    size_bytes: Option<u64>,
    exclusive_bytes: Option<u64>,
    shared_bytes: Option<u64>,
}

/// The list.
#[derive(Debug, Serialize)]
struct List {
    schema: u32,
    /// `2` or `3`, as Oracle VM lays repositories out.
    layout: u32,
    machines: Vec<Row>,
    /// What looks like a machine and cannot be understood.
    faults: Vec<String>,
}

pub(crate) fn run(args: &ListArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let volume = look(&args.volume)?;
    let view = volume.view();
    let repository = Repository::open(view, args.at.repository.as_bytes())?;
    let (machines, faults) = repository.all(view)?;
    let scanner = Scanner::new(None)?;
    let rows: Result<Vec<Row>> = machines
        .iter()
        .map(|machine| row(&scanner, view, machine))
        .collect();
    let list = List {
        schema: 1,
        layout: match repository.layout {
            Layout::Two => 2,
            Layout::Three => 3,
        },
        machines: rows?,
        faults,
    };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
    } else {
        writeln!(
            out,
            "{:<24} {:<9} {:>6} {:>12} {:>12} {:>12}  Snapshots",
            "Name", "Kind", "Disks", "Size", "Exclusive", "Shared"
        )?;
        for row in &list.machines {
            let own = row.disks.iter().filter(|disk| disk.own).count();
            writeln!(
                out,
                "{:<24} {:<9} {:>6} {:>12} {:>12} {:>12}  {}",
                row.name,
                row.kind,
                own,
                show_size(row.size_bytes),
                show_size(row.exclusive_bytes),
                show_size(row.shared_bytes),
                row.snapshots.join(" ")
            )?;
        }
    }
    if list.faults.is_empty() {
        return Ok(());
    }
    for fault in &list.faults {
        writeln!(err, "reflink.cowfs: {fault}")?;
    }
    Err(crate::cli::Told.into())
}

fn row(scanner: &Scanner, view: View<'_>, machine: &Machine) -> Result<Row> {
    let bits = view.geo().cluster_bits();
    let mut all = Account::default();
    let mut disks = Vec::new();
    for disk in &machine.disks {
        let own = disk.place.is_some();
        let usage = disk.inode.map(|inode| {
            let account = account(scanner, view, inode);
            let usage = account.usage();
            all.merge(account);
            usage
        });
        disks.push(DiskRow {
            path: disk.path.clone(),
            own,
            size_bytes: usage.map(|usage| usage.apparent_bytes),
            exclusive_bytes: usage.map(|usage| usage.exclusive << bits),
            shared_bytes: usage.map(|usage| usage.shared << bits),
        });
    }
    let usage = all.usage();
    let config = &machine.config;
    let snapshots = machine.snapshots(view)?;
    Ok(Row {
        name: shown(machine.name().as_bytes()),
        kind: if machine.template {
            "template"
        } else {
            "machine"
        },
        directory: format!("{}/{}", machine.pool, machine.directory_name()),
        uuid: config.text("uuid").map(str::to_owned),
        memory_mib: config.number("memory"),
        vcpus: config.number("vcpus"),
        size_bytes: usage.apparent_bytes,
        allocated_bytes: usage.allocated << bits,
        exclusive_bytes: usage.exclusive << bits,
        shared_bytes: usage.shared << bits,
        disks,
        snapshots: snapshots.iter().map(|(name, _)| shown(name)).collect(),
    })
}

fn account(scanner: &Scanner, view: View<'_>, inode: BlockNo) -> Account {
    usage::subtree(scanner, view, inode, false, |_| ControlFlow::Continue(()))
}
