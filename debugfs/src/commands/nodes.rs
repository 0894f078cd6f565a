//! Who has the volume mounted: `nodes`, and `hb`, the heartbeats as they are stored.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use cowfs_format::read::cluster::Stack;
use cowfs_format::time::Utc;
use cowfs_format::volume::watch::Nodes;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Page, Report, Text};
use crate::schema;
use crate::session::{Session, number};
use crate::table::{Args, Command, Needs, Opt};

/// The longest watch: a day.
const LONGEST: u64 = 86_400;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "nodes",
        aliases: &[],
        options: &[Opt {
            short: 'w',
            long: "watch",
            value: Some("SECONDS"),
            help: "look at the heartbeats twice, SECONDS apart, and tell which nodes are alive",
        }],
        operands: &[],
        summary: "Shows which nodes hold slots, their cluster, and which are alive.",
        about: "A node that holds a slot has the volume mounted, or died with it. Nodes of an o2cb \
                cluster write a heartbeat every two seconds: one that changes is of a node that is \
                alive, whatever time it tells. One that does not change for 5 seconds is of a node \
                that is silent; it is dead when it stays silent for as long as its heartbeat says \
                (deadms), after which its cluster gives it up, too. One that stops in order leaves a \
                heartbeat that says so. Nodes that heartbeat on another \
                device or belong to a cluster stack in user space (pcmk, cman) cannot be seen on \
                the disk: their state is unknown.",
        needs: Needs::Volume,
        says: schema::of::<Who>,
        run: nodes,
    },
    Command {
        name: "hb",
        aliases: &[],
        options: &[],
        operands: &[],
        summary: "Shows the heartbeats of nodes.",
        about: "They stay when a node goes; `nodes --watch SECONDS` tells which nodes are alive.",
        needs: Needs::Volume,
        says: schema::of::<Heartbeats>,
        run: hb,
    },
];

/// Who has the volume mounted.
#[derive(JsonSchema, Serialize)]
struct Who {
    cluster_stack: String,
    cluster_name: String,
    /// Whether nodes heartbeat on another device.
    global_heartbeat: bool,
    /// Seconds between the two looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    watched: Option<u64>,
    slots: u16,
    nodes: Vec<NodeLine>,
}

/// A node that holds a slot or has ever written a heartbeat.
#[derive(JsonSchema, Serialize)]
struct NodeLine {
    node: u32,
    /// The slots that it holds.
    slots: Vec<usize>,
    /// Whether the journal of one of them is dirty.
    dirty: bool,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Heartbeat>,
}

/// What is known of a node.
#[derive(Clone, Copy, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Its heartbeat changes.
    Alive,
    /// Its heartbeat did not change, but not for as long as a node can be silent.
    Silent,
    /// Its heartbeat did not change for longer than a node can be silent.
    Dead,
    /// It has stopped in order.
    Left,
    /// Nobody looked, or its heartbeat is not on this volume.
    Unknown,
}

fn nodes(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let watch = match args.value('w') {
        Some(word) => Some(number(word).context("give seconds to --watch")?),
        None => None,
    };
    if watch.is_some_and(|seconds| !(1..=LONGEST).contains(&seconds)) {
        bail!("--watch takes 1 to {LONGEST} seconds");
    }
    let opened = session.opened()?;
    let first = opened.nodes()?;
    let last = match watch {
        Some(seconds) => {
            std::thread::sleep(Duration::from_secs(seconds));
            opened.nodes()?
        }
        None => first.clone(),
    };
    let alive = last.sample.changed_since(&first.sample);
    let mut lines: BTreeMap<u32, NodeLine> = BTreeMap::new();
    let line = |node: u32| NodeLine {
        node,
        slots: Vec::new(),
        dirty: false,
        state: State::Unknown,
        heartbeat: None,
    };
    for (slot, node) in last.held() {
        let journal = opened
            .journals()
            .iter()
            .find(|j| usize::from(j.slot.0) == slot);
        let line = lines.entry(node).or_insert_with(|| line(node));
        line.slots.push(slot);
        line.dirty |= journal.is_some_and(|j| j.journal.as_ref().is_ok_and(|j| j.dirty));
    }
    for beat in heartbeats(&last) {
        let line = lines
            .entry(beat.node.into())
            .or_insert_with(|| line(beat.node.into()));
        line.state = match watch {
            Some(_) if alive.contains(&beat.node) => State::Alive,
            _ if beat.intact && beat.generation == 0 => State::Left,
            Some(seconds) if seconds.saturating_mul(1000) >= beat.dead_ms.into() => State::Dead,
            Some(_) => State::Silent,
            None => State::Unknown,
        };
        line.heartbeat = Some(beat);
    }
    if !last.cluster.beats_here() {
        for line in lines.values_mut().filter(|line| !line.slots.is_empty()) {
            line.state = State::Unknown;
        }
    }
    Ok(Some(Box::new(Who {
        cluster_stack: last.cluster.stack.to_string(),
        cluster_name: last.cluster.cluster.escape_ascii().to_string(),
        global_heartbeat: last.cluster.global_heartbeat,
        watched: watch.filter(|_| last.cluster.stack != Stack::Local),
        slots: u16::try_from(last.slots.len()).unwrap_or(u16::MAX),
        nodes: lines.into_values().collect(),
    })))
}

impl Text for Who {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "\tCluster stack: {}", self.cluster_stack)?;
        if !self.cluster_name.is_empty() {
            writeln!(page, "\tCluster name: {}", self.cluster_name)?;
        }
        if self.global_heartbeat {
            writeln!(page, "\tHeartbeat: on another device (global)")?;
        }
        if let Some(seconds) = self.watched {
            writeln!(page, "\tWatched: {seconds} s")?;
        }
        if self.nodes.is_empty() {
            return writeln!(page, "\tNo node holds any of the {} slots", self.slots);
        }
        writeln!(
            page,
            "\t{:>5} {:<7} {:<10} Last heartbeat",
            "Node#", "State", "Slots"
        )?;
        for line in &self.nodes {
            let mut slots: Vec<String> = line.slots.iter().map(ToString::to_string).collect();
            if line.dirty {
                slots.push("dirty".to_owned());
            }
            let state = match line.state {
                State::Alive => "alive",
                State::Silent => "silent",
                State::Dead => "dead",
                State::Left => "left",
                State::Unknown => "unknown",
            };
            write!(page, "\t{:>5} {state:<7} ", line.node)?;
            let slots = if slots.is_empty() {
                "-".to_owned()
            } else {
                slots.join(",")
            };
            match &line.heartbeat {
                Some(beat) => {
                    let age = beat
                        .age
                        .map_or(String::new(), |age| format!(" ({age} s ago)"));
                    let broken = if beat.intact { "" } else { ", checksum wrong" };
                    writeln!(page, "{slots:<10} {} UTC{age}{broken}", Utc(beat.seq))?;
                }
                None => writeln!(page, "{slots:<10} none")?,
            }
        }
        Ok(())
    }
}

/// The heartbeats of nodes that ever wrote one.
#[derive(JsonSchema, Serialize)]
struct Heartbeats {
    nodes: Vec<Heartbeat>,
}

/// A heartbeat.
#[derive(JsonSchema, Serialize)]
struct Heartbeat {
    place: usize,
    node: u8,
    seq: u64,
    /// Seconds since then by this machine's clock.
    #[serde(skip)]
    age: Option<u64>,
    generation: u64,
    checksum: u32,
    /// Whether the checksum matches.
    intact: bool,
    dead_ms: u32,
}

fn heartbeats(nodes: &Nodes) -> Vec<Heartbeat> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let beats = nodes.sample.beats().into_iter();
    beats
        .map(|beat| Heartbeat {
            place: beat.sector,
            node: beat.node,
            seq: beat.seq,
            age: now.checked_sub(beat.seq),
            generation: beat.generation,
            checksum: beat.checksum,
            intact: beat.intact,
            dead_ms: beat.dead_ms,
        })
        .collect()
}

fn hb(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    let nodes = heartbeats(&session.opened()?.nodes()?);
    Ok(Some(Box::new(Heartbeats { nodes })))
}

impl Text for Heartbeats {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "\tnode: node              seq       generation checksum deadms"
        )?;
        for beat in &self.nodes {
            writeln!(
                page,
                "\t{:>4}: {:>4} {:016x} {:016x} {:08x} {:>6}{}",
                beat.place,
                beat.node,
                beat.seq,
                beat.generation,
                beat.checksum,
                beat.dead_ms,
                if beat.intact { "" } else { "  checksum wrong" }
            )?;
        }
        Ok(())
    }
}
