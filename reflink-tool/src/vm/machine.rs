//! Machines on a repository volume: where they are, what their configuration says, which disks are
//! theirs.

use std::ops::ControlFlow;

use anyhow::{Context, Result, bail};
use cowfs_format::block::View;
use cowfs_format::layout::FileType;
use cowfs_format::read::file::FileReader;
use cowfs_format::read::{dir, inode};
use cowfs_format::units::{BlockNo, index};
use cowfs_format::volume::path::{self, Base, Parent};

use crate::vm::config::{Config, Literal};
use crate::volume::shown;

/// The configuration of a machine, in its directory.
pub(crate) const CONFIG: &[u8] = b"vm.cfg";
/// The snapshots of a machine, in its directory.
pub(crate) const SNAPSHOTS: &[u8] = b".snapshots";
/// Bytes of a configuration, at most.
const CONFIG_MAX: u64 = 1 << 20;

/// How a repository is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Oracle VM 2: disks stand in the directories of machines.
    Two,
    /// Oracle VM 3: disks stand in a directory of their own.
    Three,
}

impl Layout {
    pub(crate) const fn machines(self) -> &'static str {
        match self {
            Self::Two => "running_pool",
            Self::Three => "VirtualMachines",
        }
    }

    pub(crate) const fn templates(self) -> &'static str {
        match self {
            Self::Two => "seed_pool",
            Self::Three => "Templates",
        }
    }
}

/// Directory of the disks of Oracle VM 3.
pub(crate) const DISKS: &str = "VirtualDisks";

/// A repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repository {
    pub(crate) layout: Layout,
    pub(crate) root: BlockNo,
}

impl Repository {
    /// Finds out how a repository is laid out.
    pub(crate) fn open(view: View<'_>, place: &[u8]) -> Result<Self> {
        let root = path::resolve(view, view.info().root, place)?;
        let has = |name: &str| {
            let found = lookup(view, root, name.as_bytes());
            found.is_ok_and(|found| found.is_some())
        };
        for layout in [Layout::Three, Layout::Two] {
            if has(layout.machines()) || has(layout.templates()) {
                return Ok(Self { layout, root });
            }
        }
        bail!(
            "{}: no repository of machines: it has neither running_pool nor VirtualMachines",
            shown(place)
        )
    }

    /// A directory of the repository.
    pub(crate) fn pool(&self, view: View<'_>, name: &str) -> Result<BlockNo> {
        lookup(view, self.root, name.as_bytes())?
            .with_context(|| format!("the repository has no directory {name}"))
    }

    fn base(&self) -> Base {
        Base {
            root: self.root,
            cwd: self.root,
        }
    }

    /// All machines and templates, by name; and what looks like one and cannot be understood.
    pub(crate) fn all(&self, view: View<'_>) -> Result<(Vec<Machine>, Vec<String>)> {
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        for (pool, template) in [
            (self.layout.machines(), false),
            (self.layout.templates(), true),
        ] {
            let Some(directory) = lookup(view, self.root, pool.as_bytes())? else {
                continue;
            };
            for (name, blkno) in names(view, directory)? {
                if inode::read(view, blkno)?.file_type() != Some(FileType::Directory)
                    || lookup(view, blkno, CONFIG)?.is_none()
                {
                    continue;
                }
                match Machine::read(view, self, pool, &name, blkno, template) {
                    Ok(machine) => found.push(machine),
                    Err(error) => failed.push(format!("{pool}/{}: {error:#}", shown(&name))),
                }
            }
        }
        Ok((found, failed))
    }

    /// A machine or template by the name of its directory, or the name in its configuration; the
    /// directory that holds it may stand before it.
    pub(crate) fn find(&self, view: View<'_>, wanted: &str) -> Result<Machine> {
        let (all, failed) = self.all(view)?;
        let matching: Vec<&Machine> = all
            .iter()
            .filter(|machine| {
                let own = machine.directory_name();
                let name = wanted
                    .strip_prefix(machine.pool)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .unwrap_or(wanted);
                own == name || machine.name() == name
            })
            .collect();
        match matching[..] {
            [one] => Ok(one.clone()),
            [] => match failed.iter().find(|line| line.contains(wanted)) {
                Some(line) => bail!("{line}"),
                None => bail!("{wanted}: no such machine or template"),
            },
            [first, second, ..] => bail!(
                "{wanted}: is {}/{} as well as {}/{}; say which",
                first.pool,
                first.directory_name(),
                second.pool,
                second.directory_name()
            ),
        }
    }
}

/// A machine or template.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) pool: &'static str,
    pub(crate) template: bool,
    directory_name: Vec<u8>,
    pub(crate) directory: BlockNo,
    pub(crate) config_inode: BlockNo,
    pub(crate) config: Config,
    pub(crate) disks: Vec<Disk>,
}

/// A disk that a configuration names.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Where its name stands in the configuration.
    pub(crate) literal: Literal,
    /// What stands in front of the path in the repository, and behind it.
    pub(crate) before: String,
    pub(crate) after: String,
    /// Path from the root of the repository; the whole text where it leads elsewhere.
    pub(crate) path: String,
    /// The directory and name, of a disk that is the machine's own.
    pub(crate) place: Option<Parent>,
    pub(crate) inode: Option<BlockNo>,
}

impl Machine {
    fn read(
        view: View<'_>,
        repository: &Repository,
        pool: &'static str,
        name: &[u8],
        directory: BlockNo,
        template: bool,
    ) -> Result<Self> {
        let config_inode = lookup(view, directory, CONFIG)?.context("it has no vm.cfg")?;
        let config = read_config(view, config_inode)?;
        let mut machine = Self {
            pool,
            template,
            directory_name: name.to_vec(),
            directory,
            config_inode,
            config,
            disks: Vec::new(),
        };
        machine.disks = machine.disks_of(view, repository, &machine.config)?;
        Ok(machine)
    }

    /// The disks that a configuration of this machine names.
    pub(crate) fn disks_of(
        &self,
        view: View<'_>,
        repository: &Repository,
        config: &Config,
    ) -> Result<Vec<Disk>> {
        let own = format!("{}/{}/", self.pool, self.directory_name());
        let disk = |literal: &Literal| -> Result<Disk> {
            let text = literal.text().unwrap_or_default();
            let slash = text.find('/').unwrap_or(text.len());
            let comma = text
                .get(slash..)
                .and_then(|rest| rest.find(','))
                .map_or(text.len(), |at| slash + at);
            let (way, after) = text.split_at(comma);
            let known = [own.as_str(), "VirtualDisks/"];
            let inside = known
                .iter()
                .filter_map(|pool| way.rfind(&format!("/{pool}")))
                .max();
            // Written by others too, or never written: not the machine's own.
            let mode = after.rsplit(',').next().unwrap_or_default().trim();
            let mut disk = Disk {
                literal: literal.clone(),
                before: String::new(),
                after: String::new(),
                path: text.to_owned(),
                place: None,
                inode: None,
            };
            if let Some(at) = inside.filter(|_| mode == "w") {
                disk.before = way.get(..=at).unwrap_or_default().to_owned();
                disk.path = way.get(at + 1..).unwrap_or_default().to_owned();
                disk.after = after.to_owned();
                let base = repository.base();
                let at = disk.path.as_bytes();
                disk.place = path::absent(path::resolve_parent_from(view, base, at))?;
                disk.inode = path::absent(path::resolve_from(view, base, at))?;
            }
            Ok(disk)
        };
        config.texts("disk").into_iter().map(disk).collect()
    }

    pub(crate) fn directory_name(&self) -> String {
        shown(&self.directory_name)
    }

    /// Where its directory stands.
    pub(crate) fn place(&self, view: View<'_>, repository: &Repository) -> Result<Parent> {
        Ok(Parent {
            directory: repository.pool(view, self.pool)?,
            name: self.directory_name.clone(),
        })
    }

    /// The name that people know it by.
    pub(crate) fn name(&self) -> &str {
        let simple = self.config.text("OVM_simple_name");
        simple
            .or_else(|| self.config.text("name"))
            .unwrap_or_default()
    }

    /// The disks that are its own and exist.
    pub(crate) fn own_disks(&self) -> impl Iterator<Item = (&Disk, &Parent, BlockNo)> {
        self.disks
            .iter()
            .filter_map(|disk| Some((disk, disk.place.as_ref()?, disk.inode?)))
    }

    /// An error when a disk of its own does not exist.
    pub(crate) fn require_disks(&self) -> Result<()> {
        let lost = self
            .disks
            .iter()
            .find(|disk| !disk.before.is_empty() && disk.inode.is_none());
        match lost {
            Some(disk) => bail!("{}: its disk {} does not exist", self.name(), disk.path),
            None => Ok(()),
        }
    }

    /// Names of its snapshots, with their directories.
    pub(crate) fn snapshots(&self, view: View<'_>) -> Result<Vec<(Vec<u8>, BlockNo)>> {
        match lookup(view, self.directory, SNAPSHOTS)? {
            Some(directory) => names(view, directory),
            None => Ok(Vec::new()),
        }
    }
}

/// Reads a configuration.
pub(crate) fn read_config(view: View<'_>, blkno: BlockNo) -> Result<Config> {
    let reader = FileReader::open(view, &inode::read(view, blkno)?)?;
    if reader.size() > CONFIG_MAX {
        bail!("its vm.cfg has more than 1 MiB");
    }
    let mut bytes = vec![0; index(reader.size())];
    reader.read_at(0, &mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("its vm.cfg is no text"))?;
    Config::parse(&text)
}

/// What a name of a directory leads to.
pub(crate) fn lookup(view: View<'_>, directory: BlockNo, name: &[u8]) -> Result<Option<BlockNo>> {
    Ok(dir::lookup(view, &inode::read(view, directory)?, name)?)
}

/// The names of a directory, in order.
pub(crate) fn names(view: View<'_>, directory: BlockNo) -> Result<Vec<(Vec<u8>, BlockNo)>> {
    let mut found = Vec::new();
    dir::for_each_entry(view, &inode::read(view, directory)?, &mut |entry| {
        if !matches!(entry.name, b"." | b"..") {
            found.push((entry.name.to_vec(), entry.inode));
        }
        ControlFlow::Continue(())
    })?;
    found.sort_unstable();
    Ok(found)
}
