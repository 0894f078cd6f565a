//! Who has a volume mounted: what can be told of a cluster's nodes from the disk alone.
//!
//! The slot map says which nodes have mounted the volume and not unmounted it; whether such a node
//! lives, only its heartbeat says, and only by changing. [`Volume::watch`] looks as long as is
//! needed to be sure, and a volume that was watched may be written until the heartbeats change.
//!
//! How long is needed:
//!
//! - Not at all, when no slot is held and every node that ever wrote a heartbeat has left in order,
//!   and on volumes for local mounts.
//! - [`LOOK`] otherwise: a node that lives writes every two seconds, so two of its writes fall into
//!   that time.
//! - When a node holds a slot and its last record is recent, as long as the cluster itself would
//!   wait before it takes the node for dead (`hb_dead_ms`, a minute): its disk may only be slow to
//!   answer. A node whose disk is silent for longer resets itself. Recent is what was written within
//!   [`RECENT`] of our time: the clocks of two machines differ, but hardly by more than that.
//!
//! What cannot be told: whether a node mounts the volume later (a commit looks again, but a moment
//! remains), and whether a node lives that heartbeats elsewhere: on another device (`global`
//! heartbeat), or not on any disk (stacks in user space). When such a node holds a slot, the volume
//! is not written.

use std::time::{Duration, Instant, SystemTime};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::Incompat;
use crate::read::cluster::{ClusterInfo, Stack};
use crate::read::heartbeat::{self, Beat, Sample};
use crate::read::slot_map;
use crate::volume::Volume;
use crate::volume::system::{self, SystemFile};

/// The time in which a node that lives writes twice.
pub const LOOK: Duration = Duration::from_millis(4500);
/// The age up to which a record is worth a longer look.
pub const RECENT: Duration = Duration::from_secs(3600);
/// The longest look at a record, whatever it says.
const LONGEST: Duration = Duration::from_secs(180);
/// Time between two samples.
const PAUSE: Duration = Duration::from_millis(250);
/// The node that we enter for a slot whose journal we are writing: the last number that a node of
/// o2cb can have. See [`Volume::watch`].
pub(crate) const OURS: u16 = 254;

/// What the disk says of the nodes at one moment.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// The cluster.
    pub cluster: ClusterInfo,
    /// The node of each slot.
    pub slots: Vec<Option<u32>>,
    /// The heartbeats.
    pub sample: Sample,
}

/// What [`Volume::watch`] relied on.
#[derive(Clone, Debug)]
pub(crate) struct Alone {
    slots: Vec<Option<u32>>,
    sample: Sample,
}

impl Nodes {
    /// Slots that nodes hold, with their nodes.
    pub fn held(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, node)| node.map(|node| (slot, node)))
    }

    /// How long to look before a node can be taken for dead; zero when none can be alive.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.cluster.stack == Stack::Local {
            return Duration::ZERO;
        }
        let beats = self.sample.beats();
        let mut patience = if beats.iter().all(Beat::left) {
            Duration::ZERO
        } else {
            LOOK
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        for (_, node) in self.held() {
            let mut of_node = beats.iter().filter(|b| u32::from(b.node) == node);
            if of_node.clone().next().is_some() || node != u32::from(OURS) {
                patience = patience.max(LOOK);
            }
            if let Some(beat) = of_node.by_ref().find(|beat| {
                beat.intact && !beat.left() && beat.seq.abs_diff(now.as_secs()) < RECENT.as_secs()
            }) {
                let silence = Duration::from_millis(beat.dead_ms.into());
                patience = patience.max(silence.min(LONGEST));
            }
        }
        patience
    }

    /// Why no look at the disk can tell whether the nodes that hold slots are alive.
    #[must_use]
    pub fn unknowable(&self) -> Option<String> {
        if self.cluster.stack == Stack::Local || self.cluster.beats_here() {
            return None;
        }
        let (slot, node) = self.held().find(|(_, node)| *node != u32::from(OURS))?;
        let why = if self.cluster.global_heartbeat {
            "its cluster heartbeats on another device".to_owned()
        } else {
            format!(
                "its cluster stack ({}) has no heartbeat on disk",
                self.cluster.stack
            )
        };
        Some(format!(
            "node {node} holds slot {slot}, and whether it is alive cannot be seen here, because \
             {why}; unmount the volume there, or mount and unmount it once on its cluster"
        ))
    }
}

impl<D: Device> Volume<D> {
    /// What the disk says of the nodes now.
    ///
    /// # Errors
    /// The slot map or the heartbeat file is damaged, or the device fails.
    pub fn nodes(&self) -> Result<Nodes> {
        let view = self.view();
        let slot_map = system::find(view, SystemFile::SlotMap)?;
        let region = heartbeat::region(view, system::find(view, SystemFile::Heartbeat)?)?;
        Ok(Nodes {
            cluster: ClusterInfo::read(view)?,
            slots: slot_map::read_fresh(view, self.device(), slot_map)?,
            sample: Sample::take(self.device(), &region)?,
        })
    }

    /// Looks again until `until` has passed or a heartbeat has changed since `first`; the nodes
    /// whose heartbeats changed.
    ///
    /// # Errors
    /// The device fails.
    pub fn changed_since(&self, first: &Sample, until: Instant) -> Result<(Vec<u8>, Sample)> {
        let view = self.view();
        let region = heartbeat::region(view, system::find(view, SystemFile::Heartbeat)?)?;
        loop {
            let now = Sample::take(self.device(), &region)?;
            let changed = now.changed_since(first);
            let left = until.saturating_duration_since(Instant::now());
            if !changed.is_empty() || left.is_zero() {
                return Ok((changed, now));
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// Makes sure that no node has the volume mounted, so that it may be written: see the
    /// [module](self). When nobody was seen within [`LOOK`] but that is not long enough, `tell`
    /// learns how long the rest will take.
    ///
    /// # Errors
    /// A node is alive, or it cannot be told, or the device fails.
    pub fn watch(&mut self, tell: &mut dyn FnMut(Duration, &Nodes)) -> Result<()> {
        if self.info().has(Incompat::LOCAL_MOUNT) {
            return Ok(());
        }
        let nodes = self.nodes()?;
        if let Some(why) = nodes.unknowable() {
            return Err(Error::Refused { why });
        }
        let patience = nodes.patience();
        let mut sample = nodes.sample.clone();
        let began = Instant::now();
        for until in [patience.min(LOOK), patience] {
            if until.is_zero() || began.elapsed() >= until {
                continue;
            }
            if until > LOOK {
                tell(until.saturating_sub(began.elapsed()), &nodes);
            }
            let (alive, last) = self.changed_since(&sample, began + until)?;
            refuse_living(&alive, &nodes.slots)?;
            sample = last;
        }
        let slots = nodes.slots;
        self.alone = Some(Alone { slots, sample });
        Ok(())
    }

    /// Takes the word of whoever runs the program that no node has the volume mounted.
    pub fn trust(&mut self) {
        self.trusted = true;
    }

    /// An error when a node may have the volume mounted: when the heartbeats have changed since
    /// [`Volume::watch`], or it was not called and would have something to look at.
    ///
    /// # Errors
    /// One may have.
    pub fn refuse_shared(&self) -> Result<()> {
        if self.trusted || self.info().has(Incompat::LOCAL_MOUNT) {
            return Ok(());
        }
        let nodes = self.nodes()?;
        let new = |slot: usize, node: u32| {
            let known = self.alone.as_ref().and_then(|alone| alone.slots.get(slot));
            node != u32::from(OURS) && known != Some(&Some(node))
        };
        match &self.alone {
            Some(alone) => refuse_living(&nodes.sample.changed_since(&alone.sample), &nodes.slots)?,
            None if !nodes.patience().is_zero() => {
                let why = "nodes of a cluster have used the volume, and nobody has looked whether \
                           one is alive (Volume::watch)";
                return Err(Error::Refused {
                    why: why.to_owned(),
                });
            }
            None => {}
        }
        if let Some((slot, node)) = nodes.held().find(|(slot, node)| new(*slot, *node)) {
            return Err(Error::Refused {
                why: format!(
                    "node {node} holds slot {slot}: it has mounted the volume; unmount it there"
                ),
            });
        }
        Ok(())
    }
}

/// An error when nodes are alive.
fn refuse_living(alive: &[u8], slots: &[Option<u32>]) -> Result<()> {
    let Some(&node) = alive.first() else {
        return Ok(());
    };
    let slot = slots.iter().position(|held| *held == Some(node.into()));
    let doing = match slot {
        Some(slot) => format!("and has the volume mounted in slot {slot}; unmount it there"),
        None => "and may mount the volume at any time; stop its heartbeat".to_owned(),
    };
    Err(Error::Refused {
        why: format!("node {node} is alive (its heartbeat changes) {doing}"),
    })
}
