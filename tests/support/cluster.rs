//! A real cluster: two guests that have one volume mounted at the same time.
//!
//! The nodes, 0 and 1, boot side by side with the image as their shared disk and a private link between them, join the
//! o2cb cluster that the volume names, and then obey commands one at a time, each a piece of bash as for
//! [`Guest`], with `join`, `leave` and `mount_vol` of their own (`node.sh`). A node can be
//! killed in the middle, as by a power cut. Nothing is left running when a [`Cluster`] is let go.
//!
//! At most one cluster runs at once on a machine; it takes the places of two guests.

use crate::guest::{self, Guest, Machine};
use crate::kernel::Kernel;
use crate::place;
use anyhow::{Context, Result, bail, ensure};
use cowfs_format::read::inode;
use cowfs_format::toolkit::open;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a node may take to boot.
const BOOT: Duration = Duration::from_secs(180);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(180);

/// Two machines with one volume.
pub struct Cluster {
    nodes: Vec<Node>,
    work: TempDir,
    _turns: Vec<File>,
}

struct Node {
    machine: Option<Machine>,
    line: UnixStream,
    /// What came over the line and was not asked for yet.
    unread: Vec<u8>,
    console: PathBuf,
}

/// What a node must know of the volume.
struct Region {
    name: String,
    uuid: String,
    start: u64,
}

impl Region {
    fn of(image: &Path) -> Result<Self> {
        let volume = Volume::open(open::read_only(image)?)?;
        let view = volume.view();
        let heartbeat = inode::read(view, system::find(view, SystemFile::Heartbeat)?)?;
        let extents = heartbeat.extents(view)?;
        let first = extents
            .first()
            .context("the heartbeat file has no extent")?;
        let superblock = view.raw(view.info().superblock)?;
        // `ci_cluster`: behind the head of the inode, at 0xA8 of the superblock's body.
        let name = superblock.get(0x168..0x178).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        Ok(Self {
            name: if name.is_empty() {
                "classic".to_owned()
            } else {
                name
            },
            uuid: view.info().uuid_text(),
            start: view.geo().byte_of(first.blkno) / 512,
        })
    }
}

impl Cluster {
    /// Boots both nodes and lets them join; nothing is mounted yet. The error is [`crate::Missing`] where QEMU or the
    /// kernel is not to be had.
    pub fn boot(kernel: Kernel, image: &Path) -> Result<Self> {
        Self::boot_each([kernel; 2], image)
    }

    /// As [`Self::boot`], each node with a kernel of its own.
    pub fn boot_each(kernels: [Kernel; 2], image: &Path) -> Result<Self> {
        let guests = kernels
            .into_iter()
            .map(|kernel| Ok(Guest::new(kernel)?.clustered().shared_disk(image)))
            .collect::<Result<Vec<_>>>()?;
        let region = Region::of(image)?;
        let place = place::guest_cache();
        // Sockets have short names only.
        let work = tempfile::Builder::new().prefix("cowfs-").tempdir()?;
        // One cluster at a time: two, each with one turn, would wait for each other forever.
        let only = File::create(place.join("turn-cluster"))?;
        only.lock().context("cannot lock the cluster's turn")?;
        let turns = vec![guest::turn(&place)?, guest::turn(&place)?, only];
        let mut nodes = Vec::new();
        for (number, guest) in guests.iter().enumerate() {
            nodes.push(Node::start(number, guest, &region, work.path())?);
        }
        let mut cluster = Self {
            nodes,
            work,
            _turns: turns,
        };
        for number in 0..2 {
            cluster.nodes[number].until("ready", BOOT)?;
            cluster.nodes[number].send("join")?;
        }
        for number in 0..2 {
            cluster.answer(number)?;
        }
        Ok(cluster)
    }

    /// Runs bash on a node and yields its stdout; an error when it fails.
    pub fn run(&mut self, node: usize, script: &str) -> Result<String> {
        self.nodes[node].send(script)?;
        self.answer(node)
            .with_context(|| format!("on node {node}: {script}"))
    }

    /// Runs bash on both nodes at the same time.
    pub fn run_both(&mut self, script: &str) -> Result<[String; 2]> {
        for node in &mut self.nodes {
            node.send(script)?;
        }
        Ok([self.answer(0)?, self.answer(1)?])
    }

    fn answer(&mut self, number: usize) -> Result<String> {
        let node = &mut self.nodes[number];
        let (said, status) = node.until("did", COMMAND)?;
        if status != "0" {
            bail!(
                "status {status}\n--- stdout\n{said}\n--- console\n{}",
                guest::read(&node.console)?
            );
        }
        Ok(said)
    }

    /// Cuts a node's power.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
    }

    /// Switches the nodes that run off, after they have unmounted and stopped to heartbeat; an error when a kernel had
    /// trouble.
    pub fn end(mut self) -> Result<()> {
        for number in 0..2 {
            if self.nodes[number].machine.is_none() {
                continue;
            }
            self.run(
                number,
                "cd /; if grep -q ' ocfs2 ' /proc/mounts; then umount_vol; fi; leave",
            )?;
            let said = self.run(number, "dmesg")?;
            let troubles = guest::troubles(&said);
            ensure!(
                troubles.is_empty(),
                "node {number}'s kernel had trouble:\n{}\n--- all\n{said}",
                troubles.join("\n")
            );
        }
        for node in &mut self.nodes {
            if let Some(machine) = &mut node.machine {
                node.line.write_all(b"poweroff -f\x04")?;
                ensure!(machine.wait(COMMAND)?, "a node did not switch off");
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl Node {
    fn start(number: usize, guest: &Guest, region: &Region, work: &Path) -> Result<Self> {
        let initramfs = work.join(format!("initramfs-{number}"));
        let Region { name, uuid, start } = region;
        let script = format!(
            "NODE={number}\nNAME={name}\nUUID={uuid}\nSTART={start}\n{}",
            include_str!("node.sh")
        );
        guest.write_initramfs(&initramfs, &script)?;
        let console = work.join(format!("console-{number}"));
        let (line, link) = (work.join(format!("line-{number}")), work.join("link"));
        let mut command = guest.command(&initramfs, &console)?;
        let server = if number == 0 { "on" } else { "off" };
        command
            .arg("-chardev")
            .arg(guest::option(
                "socket,id=line,server=on,wait=off,path=",
                &line,
                "",
            ))
            .args(["-serial", "chardev:line", "-netdev"])
            .arg(guest::option(
                &format!("stream,id=link,server={server},addr.type=unix,addr.path="),
                &link,
                "",
            ))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=link,romfile=,mac=52:54:00:c0:f5:0{number}"
            ));
        let mut machine = Machine(command.spawn().context("cannot start QEMU")?);
        let began = Instant::now();
        let line = loop {
            // The first node makes the link to which the second one connects.
            match UnixStream::connect(&line) {
                Ok(line) if link.exists() => break line,
                _ => {}
            }
            if machine.0.try_wait()?.is_some() || began.elapsed() > BOOT {
                bail!("QEMU did not boot: {}", machine.complaint());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        line.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self {
            machine: Some(machine),
            line,
            unread: Vec::new(),
            console,
        })
    }

    fn send(&mut self, script: &str) -> Result<()> {
        ensure!(self.machine.is_some(), "the node was killed");
        self.line.write_all(script.as_bytes())?;
        Ok(self.line.write_all(b"\x04")?)
    }

    /// What the node says up to a mark, and what stands behind the mark.
    fn until(&mut self, mark: &str, patience: Duration) -> Result<(String, String)> {
        let began = Instant::now();
        let mut piece = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&self.unread).into_owned();
            if let Some((said, rest)) = text.rsplit_once(&format!("\u{1e}{mark}"))
                && let Some((behind, "")) = rest.split_once('\n')
            {
                self.unread.clear();
                let said = said.replace('\r', "");
                return Ok((said, behind.trim().to_owned()));
            }
            match self.line.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => self.unread.extend_from_slice(&piece[..len]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
            if began.elapsed() > patience {
                break;
            }
        }
        bail!(
            "no `{mark}` from the node within {patience:?}\n--- line\n{}\n--- console\n{}",
            String::from_utf8_lossy(&self.unread),
            guest::read(&self.console)?
        )
    }
}
