//! Which cluster a volume belongs to, and whether its nodes can be seen from outside.

use zerocopy::FromBytes;

use crate::block::View;
use crate::error::Result;
use crate::layout::{Incompat, SUPER_BLOCK_BODY, SuperBlock};

/// What the superblock says of the volume's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// How nodes agree with each other.
    pub stack: Stack,
    /// Name of the cluster; empty where the volume names none.
    pub cluster: Vec<u8>,
    /// Whether nodes heartbeat on other devices than this volume.
    pub global_heartbeat: bool,
}

/// A cluster stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// None: the volume is for one machine.
    Local,
    /// The kernel's own, on a volume that does not name it.
    ClassicO2cb,
    /// The kernel's own.
    O2cb,
    /// Another one, in user space: `pcmk`, `cman`.
    Userspace(Vec<u8>),
}

impl ClusterInfo {
    /// Reads it from the superblock.
    ///
    /// # Errors
    /// The superblock cannot be read.
    pub fn read(view: View<'_>) -> Result<Self> {
        let info = view.info();
        let named = info.has(Incompat::USERSPACE_STACK) || info.has(Incompat::CLUSTERINFO);
        let block = view.raw(info.superblock)?;
        let body = block.get(SUPER_BLOCK_BODY..).unwrap_or_default();
        let sb = SuperBlock::ref_from_prefix(body).ok().map(|(sb, _)| sb);
        let text = |bytes: &[u8]| -> Vec<u8> {
            let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
            bytes.get(..end).unwrap_or_default().to_vec()
        };
        let stack = sb.map_or_else(Vec::new, |sb| text(&sb.ci_stack));
        Ok(Self {
            stack: if info.has(Incompat::LOCAL_MOUNT) {
                Stack::Local
            } else if !named {
                Stack::ClassicO2cb
            } else if stack == b"o2cb" {
                Stack::O2cb
            } else {
                Stack::Userspace(stack)
            },
            cluster: sb
                .filter(|_| named)
                .map_or_else(Vec::new, |sb| text(&sb.ci_cluster)),
            global_heartbeat: info.has(Incompat::CLUSTERINFO)
                && sb.is_some_and(|sb| sb.ci_stackflags & 1 != 0),
        })
    }

    /// Whether nodes that have the volume mounted sign life on it, so that whoever has the disk can
    /// see them.
    #[must_use]
    pub fn beats_here(&self) -> bool {
        matches!(self.stack, Stack::ClassicO2cb | Stack::O2cb) && !self.global_heartbeat
    }
}

impl std::fmt::Display for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("none (local mounts)"),
            Self::ClassicO2cb => f.write_str("classic o2cb"),
            Self::O2cb => f.write_str("o2cb"),
            Self::Userspace(name) => write!(f, "{}", name.escape_ascii()),
        }
    }
}
