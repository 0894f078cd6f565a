//! The verbs that write: clones, templates, snapshots and back, removal.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::layout::Dinode;
use cowfs_format::ops::{self, CloneTree, Contents, Existing, Marks, Thaw, TreeOptions};
use cowfs_format::read::inode;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::txn::{NewInode, Timestamp, Txn};
use cowfs_format::units::BlockNo;
use cowfs_format::volume::path::Parent;
use serde::Serialize;

use crate::snap::Removal;
use crate::vm::config::Config;
use crate::vm::fresh::Fresh;
use crate::vm::machine::{
    CONFIG, DISKS, Layout, Machine, Repository, SNAPSHOTS, lookup, names, read_config,
};
use crate::vm::{MakeArgs, RemoveArgs, SnapshotArgs};
use crate::volume::{Common, Opened, Steps, clone_options, in_steps, shown};

/// What a verb did.
#[derive(Debug, Serialize)]
struct Done {
    schema: u32,
    dry_run: bool,
    machine: String,
    /// Directory of what was made; `null` when something was removed.
    directory: Option<String>,
    snapshot: Option<String>,
    disks: Vec<String>,
    /// Disks that the configuration names and that are not the machine's own; they stay as they are.
    other_disks: Vec<String>,
    size_bytes: u64,
    shared_bytes: u64,
    removed: u64,
    #[serde(flatten)]
    steps: Steps,
    replayed_transactions: u32,
}

impl Done {
    fn new(common: &Common, machine: &Machine) -> Self {
        let (own, other): (Vec<_>, Vec<_>) =
            machine.disks.iter().partition(|disk| disk.place.is_some());
        Self {
            schema: 1,
            dry_run: common.dry_run,
            machine: machine.name().to_owned(),
            directory: None,
            snapshot: None,
            disks: own.iter().map(|disk| disk.path.clone()).collect(),
            other_disks: other.iter().map(|disk| disk.path.clone()).collect(),
            size_bytes: 0,
            shared_bytes: 0,
            removed: 0,
            steps: Steps::default(),
            replayed_transactions: 0,
        }
    }

    fn counted(mut self, opened: &Opened, steps: Steps, tree: Option<&CloneTree>) -> Self {
        self.steps = steps;
        self.replayed_transactions = opened.replayed;
        if let Some(tree) = tree {
            self.size_bytes = tree.done.size_bytes;
            self.shared_bytes = tree.done.shared_bytes;
        }
        self
    }
}

/// A name for a machine or snapshot.
fn require_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || name.contains(['/', '\0']) {
        bail!("{name:?}: a name has 1 to 255 bytes, no slash, and no dot in front");
    }
    Ok(())
}

/// A tree that is cloned with all that can be kept.
fn cloning(marks: Marks) -> CloneTree {
    CloneTree::new(TreeOptions {
        each: clone_options(true),
        recursive: true,
        marks,
    })
}

/// Does all of it in one transaction, or nothing.
fn at_once(opened: &mut Opened, mut work: impl FnMut(&mut Txn<'_>) -> Result<()>) -> Result<Steps> {
    in_steps(&mut opened.volume, |txn, _| work(txn).map(|()| true))
}

/// Bytes that become a file.
struct Bytes(Vec<u8>, [(u64, u64); 1]);

impl Bytes {
    fn new(text: String) -> Self {
        let bytes = text.into_bytes();
        let runs = [(0, bytes.len() as u64)];
        Self(bytes, runs)
    }
}

impl Contents for Bytes {
    fn name(&self) -> &'static str {
        "the configuration"
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn runs(&self) -> &[(u64, u64)] {
        &self.1
    }

    fn read(&mut self, offset: u64, mut buf: &mut [u8]) -> std::io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = self.0.get(from..).and_then(|rest| rest.get(..buf.len()));
        buf.write_all(part.ok_or(std::io::ErrorKind::UnexpectedEof)?)
    }
}

/// Attributes like those of another inode, made now.
fn like(txn: &Txn<'_>, other: BlockNo, now: Timestamp) -> Result<NewInode> {
    let head: Dinode = *inode::read(txn.view(), other)?;
    Ok(NewInode::at(
        now,
        head.i_mode.get(),
        head.i_uid.get(),
        head.i_gid.get(),
    ))
}

pub(crate) fn clone(
    args: &MakeArgs,
    template: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    require_name(&args.name)?;
    let mut opened = args.common.open(err)?;
    let view = opened.volume.view();
    let repository = Repository::open(view, args.at.repository.as_bytes())?;
    let machine = repository.find(view, &args.source)?;
    machine.require_disks()?;
    let (all, _) = repository.all(view)?;
    let taken = |other: &&Machine| {
        other.template == template
            && (other.name() == args.name || other.directory_name() == args.name)
    };
    if all.iter().any(|other| taken(&other)) {
        let what = if template { "template" } else { "machine" };
        bail!("{}: a {what} of that name exists", args.name);
    }
    let layout = repository.layout;
    let mut fresh = Fresh::new(&[
        &view.info().uuid,
        machine.pool.as_bytes(),
        machine.directory_name().as_bytes(),
        args.name.as_bytes(),
        &[u8::from(template)],
    ]);
    let pool = if template {
        layout.templates()
    } else {
        layout.machines()
    };
    let pool_inode = repository.pool(view, pool)?;
    let directory = match layout {
        Layout::Two => args.name.clone(),
        Layout::Three => fresh.id(if template { "14" } else { "06" })?,
    };
    // Where each disk goes, and what the configuration calls it then.
    let mut config = machine.config.clone();
    let mut disks: Vec<(BlockNo, Parent, String)> = Vec::new();
    for (disk, place, blkno) in machine.own_disks() {
        let file = shown(&place.name);
        let (place, path) = if place.directory == machine.directory {
            (None, format!("{pool}/{directory}/{file}"))
        } else {
            let extension = file
                .rsplit_once('.')
                .map_or("img", |(_, extension)| extension);
            let name = format!("{}.{extension}", fresh.id("12")?);
            let path = format!("{DISKS}/{name}");
            let directory = place.directory;
            let name = name.into_bytes();
            (Some(Parent { directory, name }), path)
        };
        config.replace(
            &disk.literal,
            &format!("{}{path}{}", disk.before, disk.after),
        );
        if let Some(place) = place {
            disks.push((blkno, place, path));
        }
    }
    rewrite(
        &mut config,
        &machine,
        &args.name,
        (pool, &directory),
        template,
        &mut fresh,
    )?;
    let children: Vec<(Vec<u8>, BlockNo)> = names(view, machine.directory)?
        .into_iter()
        .filter(|(name, _)| name != CONFIG && name != SNAPSHOTS)
        .collect();

    let now = Timestamp::now();
    let mut tree = cloning(Marks::Same);
    let steps = at_once(&mut opened, |txn| {
        let new = like(txn, machine.directory, now)?;
        let made = txn.make_directory(pool_inode, directory.as_bytes(), &new)?;
        for (name, blkno) in children.iter().rev() {
            tree.add(*blkno, made, name, name);
        }
        for (blkno, place, path) in &disks {
            tree.add(*blkno, place.directory, &place.name, path.as_bytes());
        }
        tree.step(txn, usize::MAX, &mut |_| Ok(Existing::Refuse))?;
        let new = like(txn, machine.config_inode, now)?;
        let mut contents = Bytes::new(config.written());
        ops::import(txn, made, CONFIG, &mut contents, &new, &|_| {})?;
        Ok(())
    });
    let steps = steps.with_context(|| format!("cannot clone {}", machine.name()))?;
    let mut done = Done::new(&args.common, &machine).counted(&opened, steps, Some(&tree));
    done.directory = Some(format!("{pool}/{directory}"));
    args.common.tell(out, &done, |out| {
        let verb = args.common.verb("shares", "would share");
        writeln!(
            out,
            "{} ({pool}/{directory}): {} disks, {verb} {} of {} with {}",
            args.name,
            done.disks.len(),
            show_size(done.shared_bytes),
            show_size(done.size_bytes),
            machine.name()
        )?;
        for disk in &done.other_disks {
            writeln!(out, "{disk}: is not its own, and stays as it is")?;
        }
        Ok(())
    })
}

/// Gives a configuration what is to be its own: name, UUID, MAC addresses, and its directory.
fn rewrite(
    config: &mut Config,
    machine: &Machine,
    name: &str,
    (pool, directory): (&str, &str),
    template: bool,
    fresh: &mut Fresh,
) -> Result<()> {
    let old = format!("/{}/{}/", machine.pool, machine.directory_name());
    let new = format!("/{pool}/{directory}/");
    let vifs: Vec<_> = config.texts("vif").into_iter().cloned().collect();
    for literal in config.all_texts() {
        let text = literal.text().unwrap_or_default();
        let disk = machine
            .disks
            .iter()
            .any(|disk| disk.place.is_some() && disk.literal == literal);
        if !disk && text.contains(&old) {
            config.replace(&literal, &text.replace(&old, &new));
        }
    }
    for literal in vifs {
        let text = literal.text().unwrap_or_default();
        let mac = if template {
            None
        } else {
            Some(fresh.mac(text)?)
        };
        let mut parts: Vec<String> = mac.map(|mac| format!("mac={mac}")).into_iter().collect();
        let others = text.split(',').map(str::trim);
        parts.extend(
            others
                .filter(|part| !part.starts_with("mac=") && !part.is_empty())
                .map(str::to_owned),
        );
        config.replace(&literal, &parts.join(","));
    }
    let dashes = config.text("uuid").is_none_or(|uuid| uuid.contains('-'));
    config.set("uuid", &fresh.uuid(dashes)?);
    if config.get("OVM_simple_name").is_some()
        || machine.name() != config.text("name").unwrap_or_default()
    {
        config.set("OVM_simple_name", name);
        config.set("name", directory);
    } else {
        config.set("name", name);
    }
    Ok(())
}

pub(crate) fn snap(args: &SnapshotArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    require_name(&args.snapshot)?;
    let mut opened = args.common.open(err)?;
    let view = opened.volume.view();
    let repository = Repository::open(view, args.at.repository.as_bytes())?;
    let machine = repository.find(view, &args.machine)?;
    machine.require_disks()?;
    let name = args.snapshot.as_bytes();
    if machine
        .snapshots(view)?
        .iter()
        .any(|(other, _)| other == name)
    {
        bail!("{}: a snapshot of that name exists", args.snapshot);
    }
    let holder = lookup(view, machine.directory, SNAPSHOTS)?;
    let now = Timestamp::now();
    let mut tree = cloning(Marks::Freeze);
    let steps = at_once(&mut opened, |txn| {
        let new = like(txn, machine.directory, now)?;
        let holder = match holder {
            Some(holder) => holder,
            None => txn.make_directory(machine.directory, SNAPSHOTS, &new)?,
        };
        let made = txn.make_directory(holder, name, &new)?;
        tree.add(machine.config_inode, made, CONFIG, CONFIG);
        for (_, place, blkno) in machine.own_disks() {
            tree.add(blkno, made, &place.name, &place.name);
        }
        tree.step(txn, usize::MAX, &mut |_| Ok(Existing::Refuse))?;
        Ok(ops::freeze(txn, made)?)
    });
    let steps = steps.with_context(|| format!("cannot keep {}", machine.name()))?;
    let mut done = Done::new(&args.common, &machine).counted(&opened, steps, Some(&tree));
    done.snapshot = Some(args.snapshot.clone());
    let at = [SNAPSHOTS, b"/", name].concat();
    done.directory = Some(format!(
        "{}/{}/{}",
        machine.pool,
        machine.directory_name(),
        shown(&at)
    ));
    args.common.tell(out, &done, |out| {
        let verb = args.common.verb("keeps", "would keep");
        writeln!(
            out,
            "{}: {verb} {} disks, {}, of {}",
            args.snapshot,
            done.disks.len(),
            show_size(done.size_bytes),
            machine.name()
        )
    })
}

/// The directory of a snapshot.
fn snapshot_of(opened: &Opened, machine: &Machine, name: &str) -> Result<BlockNo> {
    let all = machine.snapshots(opened.volume.view())?;
    let found = all.iter().find(|(other, _)| other == name.as_bytes());
    let found = found.with_context(|| format!("{}: has no snapshot {name}", machine.name()))?;
    Ok(found.1)
}

pub(crate) fn rollback(
    args: &SnapshotArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let view = opened.volume.view();
    let repository = Repository::open(view, args.at.repository.as_bytes())?;
    let machine = repository.find(view, &args.machine)?;
    let snapshot = snapshot_of(&opened, &machine, &args.snapshot)?;
    let kept = lookup(view, snapshot, CONFIG)?.context("the snapshot has no vm.cfg")?;
    let mut tree = cloning(Marks::Thaw);
    let mut disks = Vec::new();
    for disk in machine.disks_of(view, &repository, &read_config(view, kept)?)? {
        let Some(place) = &disk.place else { continue };
        let Some(blkno) = lookup(view, snapshot, &place.name)? else {
            bail!(
                "{}: the snapshot has no disk {}",
                args.snapshot,
                shown(&place.name)
            );
        };
        tree.add(blkno, place.directory, &place.name, disk.path.as_bytes());
        disks.push(disk.path);
    }
    tree.add(kept, machine.directory, CONFIG, CONFIG);
    let steps = at_once(&mut opened, |txn| {
        tree.step(txn, usize::MAX, &mut |_| Ok(Existing::Replace))?;
        Ok(())
    });
    let steps = steps.with_context(|| format!("cannot put {} back", machine.name()))?;
    let mut done = Done::new(&args.common, &machine).counted(&opened, steps, Some(&tree));
    done.snapshot = Some(args.snapshot.clone());
    done.disks = disks;
    done.directory = Some(format!("{}/{}", machine.pool, machine.directory_name()));
    args.common.tell(out, &done, |out| {
        let verb = args.common.verb("is", "would be");
        writeln!(
            out,
            "{}: {verb} as it was at {}",
            machine.name(),
            args.snapshot
        )
    })
}

pub(crate) fn remove(args: &RemoveArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut opened = args.common.open(err)?;
    let view = opened.volume.view();
    let repository = Repository::open(view, args.at.repository.as_bytes())?;
    let machine = repository.find(view, &args.machine)?;
    let mut removals = Vec::new();
    let start = match &args.snapshot {
        Some(name) => {
            let snapshot = snapshot_of(&opened, &machine, name)?;
            let holder = lookup(view, machine.directory, SNAPSHOTS)?;
            let place = Parent {
                directory: holder.context("it has no snapshots")?,
                name: name.clone().into_bytes(),
            };
            removals.push(Removal::new(view, place, snapshot)?);
            snapshot
        }
        None => {
            // A disk that another configuration names stays.
            let (all, faults) = repository.all(view)?;
            if let Some(fault) = faults.first() {
                bail!("{fault}; whether it needs a disk cannot be told");
            }
            for (disk, place, blkno) in machine.own_disks() {
                let other = |other: &&Machine| {
                    other.directory != machine.directory
                        && other.disks.iter().any(|also| also.inode == Some(blkno))
                };
                if place.directory == machine.directory {
                    continue;
                }
                if let Some(other) = all.iter().find(other) {
                    bail!("{}: {} has this disk too", disk.path, other.name());
                }
                removals.push(Removal::new(view, place.clone(), blkno)?);
            }
            let place = machine.place(view, &repository)?;
            removals.push(Removal::new(view, place, machine.directory)?);
            machine.directory
        }
    };
    let now = Timestamp::now();
    let mut thaw = Some(Thaw::new(start));
    let (mut removed, total) = (0, removals.len());
    let steps = in_steps(&mut opened.volume, |txn, most| {
        if let Some(step) = &mut thaw {
            if !step.step(txn, most, now)? {
                return Ok(false);
            }
            thaw = None;
        }
        while let Some(removal) = removals.get_mut(removed) {
            if !removal.step(txn, most, now)? {
                return Ok(false);
            }
            removed += 1;
        }
        Ok(true)
    });
    let steps = steps.with_context(|| format!("cannot remove {}", machine.name()))?;
    debug_assert_eq!(removed, total);
    let mut done = Done::new(&args.common, &machine).counted(&opened, steps, None);
    done.snapshot.clone_from(&args.snapshot);
    done.removed = removals.iter().map(|removal| removal.names).sum();
    args.common.tell(out, &done, |out| {
        let verb = args.common.verb("is", "would be");
        match &args.snapshot {
            Some(snapshot) => writeln!(
                out,
                "{}: its snapshot {snapshot} {verb} removed",
                machine.name()
            )?,
            None => writeln!(
                out,
                "{}: {verb} removed, {} names",
                machine.name(),
                done.removed
            )?,
        }
        steps.tell(out)
    })
}
