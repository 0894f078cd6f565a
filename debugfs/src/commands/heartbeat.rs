//! `hb`: the heartbeats of nodes.

use std::io::{self, Write};

use anyhow::Result;
use cowfs_format::layout::HeartbeatBlock;
use cowfs_format::read::file::FileReader;
use cowfs_format::read::inode;
use cowfs_format::units::index;
use cowfs_format::volume::system::{self, SystemFile};
use serde::Serialize;
use zerocopy::FromBytes;

use crate::report::{Page, Report, Text};
use crate::session::Session;
use crate::table::{Args, Command, Needs};

/// Bytes of a node's place in the heartbeat file.
const SECTOR: usize = 512;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "hb",
    aliases: &[],
    options: &[],
    operands: &[],
    summary: "Shows the heartbeats of nodes.",
    about: "",
    needs: Needs::Volume,
    run: hb,
}];

/// The heartbeats of nodes that ever wrote one.
#[derive(Serialize)]
struct Heartbeats {
    nodes: Vec<Heartbeat>,
}

/// A heartbeat.
#[derive(Serialize)]
struct Heartbeat {
    place: usize,
    node: u8,
    seq: u64,
    generation: u64,
    checksum: u32,
    dead_ms: u32,
}

fn hb(session: &mut Session, _: &Args) -> Result<Option<Box<dyn Report>>> {
    let view = session.view()?;
    let inode = inode::read(view, system::find(view, SystemFile::Heartbeat)?)?;
    let file = FileReader::open(view, &inode)?;
    // One sector for each of 255 nodes.
    let mut bytes = vec![0; index(file.size()).min(255 * SECTOR)];
    file.read_at(0, &mut bytes)?;
    let nodes = bytes
        .chunks_exact(SECTOR)
        .enumerate()
        .filter_map(|(place, sector)| {
            let (block, _) = HeartbeatBlock::ref_from_prefix(sector).ok()?;
            (block.hb_seq.get() != 0).then(|| Heartbeat {
                place,
                node: block.hb_node,
                seq: block.hb_seq.get(),
                generation: block.hb_generation.get(),
                checksum: block.hb_cksum.get(),
                dead_ms: block.hb_dead_ms.get(),
            })
        })
        .collect();
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
                "\t{:>4}: {:>4} {:016x} {:016x} {:08x} {:>6}",
                beat.place, beat.node, beat.seq, beat.generation, beat.checksum, beat.dead_ms
            )?;
        }
        Ok(())
    }
}
