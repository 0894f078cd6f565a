//! The check that precedes every write: no node of a cluster has the volume mounted.

use std::io::Write;
use std::time::Duration;

use crate::device::Device;
use crate::error::Result;
use crate::volume::Volume;

/// What there is to know about it, for the manual pages of all programs that write.
pub const ABOUT: &[&str] = &[
    "A volume for a cluster is written only when no node is alive. Nodes of an o2cb cluster write a \
     heartbeat to the volume every two seconds, and a last one when they stop in order. Where one \
     did not stop in order, the program watches the heartbeats for 5 seconds before it writes, and \
     refuses when one changes. When a node still \
     holds a slot (it has the volume mounted, or died with it) and its last heartbeat is less than \
     an hour old, it watches for as long as the cluster itself would wait before it takes the node \
     for dead, usually 62 seconds. A node found dead is recovered: its journal is replayed first. \
     What else it left (clusters set aside, orphans, changes of quota) stays for the next mount \
     or for fsck.cowfs, and until then its slot stays held. Every later transaction looks at the heartbeats once more \
     and refuses when they have changed. Volumes for local mounts, and those that all nodes have \
     left in order, are written at once.",
    "What no program can know that is not a member of the cluster: whether a node mounts the volume \
     in the moment between the last look and the end of a write. Whether a node is alive that \
     heartbeats on another device (o2cb with a global heartbeat), or on none (cluster stacks in \
     user space: pcmk, cman): a volume of such a cluster is written only when its slot map names \
     no node, and nothing keeps a node from mounting it meanwhile. Whether a machine that was \
     suspended, or whose path to the disk was cut, wakes up later and goes on writing where it \
     stopped. Whether the device that is seen here is the one that the nodes see, and not a \
     snapshot or a mirror of it. While a program writes, no node should be able to mount the \
     volume: unmount it everywhere and stop the cluster service first.",
];

/// Looks whether a node of a cluster is alive on a volume that is about to be written, and says on
/// `err` when that takes long. On volumes for local mounts, and where all nodes have left, it takes
/// no time.
///
/// # Errors
/// A node is alive, or whether one is cannot be told.
pub fn alone<D: Device>(volume: &mut Volume<D>, program: &str, err: &mut dyn Write) -> Result<()> {
    volume.watch(&mut |patience, nodes| {
        let held: Vec<String> = nodes
            .held()
            .map(|(slot, node)| format!("node {node} holds slot {slot}"))
            .collect();
        // Nobody listening is no reason not to look.
        let _ = writeln!(
            err,
            "{program}: {}: watching {} s more whether it is alive",
            held.join(", "),
            seconds(patience)
        );
    })
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() != 0)
}
