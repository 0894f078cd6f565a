//! Errors that name their place.
//!
//! Two kinds of trouble are kept apart. A [`Fault`] says that a block does not hold what the
//! format asks of it: it is data that a checker collects. An [`enum@Error`] stops an operation: the
//! device failed, the volume cannot be used, or the request cannot be met.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::units::BlockNo;

/// The device failed to read or write.
#[derive(Debug, Error)]
#[error("cannot {op} {len} bytes at byte {offset}: {source}")]
pub struct IoError {
    /// What was tried: `read`, `write`, `flush`, ...
    pub op: &'static str,
    /// Byte offset on the device.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// What the operating system said.
    pub source: io::Error,
}

/// A block that is not what the format says it must be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("block {blkno}: {kind}")]
pub struct Fault {
    /// The block.
    pub blkno: BlockNo,
    /// What is wrong in it.
    pub kind: FaultKind,
}

/// What is wrong in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The block does not begin with the signature of its type.
    Signature {
        /// Name of the type that was expected.
        expected: &'static str,
        /// The eight bytes found.
        found: [u8; 8],
    },
    /// The block's record of its own number differs from where it lies.
    SelfBlkno {
        /// The number found.
        found: u64,
    },
    /// The block belongs to another (earlier) formatting of the device.
    Generation {
        /// The generation found.
        found: u32,
    },
    /// The stored CRC32 does not match, and no single-bit correction makes it match.
    Ecc,
    /// A field holds a value that cannot be.
    Field {
        /// Name of the field as the format spells it.
        field: &'static str,
        /// The value found.
        value: u64,
        /// What is allowed, in words.
        rule: &'static str,
    },
    /// The block lies outside of the volume.
    OutOfVolume,
    /// The device cannot read the block.
    Unreadable,
    /// A walk came back to a block it had already visited, or took more steps than there are blocks.
    Loop,
}

impl FaultKind {
    /// This fault at a block.
    #[must_use]
    pub const fn at(self, blkno: BlockNo) -> Fault {
        Fault { blkno, kind: self }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature { expected, found } => {
                write!(
                    f,
                    "no {expected}: its signature is \"{}\"",
                    found.escape_ascii()
                )
            }
            Self::SelfBlkno { found } => write!(f, "says that it is block {found}"),
            Self::Generation { found } => {
                write!(
                    f,
                    "has generation {found:#010x}, which is not this volume's"
                )
            }
            Self::Ecc => f.write_str("checksum (CRC32 and ECC) does not match its contents"),
            Self::Field { field, value, rule } => write!(f, "{field} is {value}: {rule}"),
            Self::OutOfVolume => f.write_str("lies outside of the volume"),
            Self::Unreadable => f.write_str("cannot be read from the device"),
            Self::Loop => f.write_str("is reached a second time: a pointer loops"),
        }
    }
}

/// Why an operation could not be done.
#[derive(Debug, Error)]
pub enum Error {
    /// The device failed.
    #[error("{0}")]
    Io(IoError),
    /// A block that the operation needs is damaged.
    #[error("{0}; run fsck.cowfs")]
    Fault(Fault),
    /// No superblock was found.
    #[error("no volume here: {why}")]
    NotAVolume {
        /// What was looked for and found.
        why: String,
    },
    /// The volume has a feature that this program does not know or does not support.
    #[error("unsupported: {what}")]
    Unsupported {
        /// The feature, with its bit.
        what: String,
    },
    /// The volume needs something before it can be written.
    #[error("not written: {why}")]
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// Too little free space.
    #[error("no space left on the volume: {needed} more {unit} needed")]
    NoSpace {
        /// How many are missing.
        needed: u64,
        /// Of what: `clusters`, `inodes`, ...
        unit: &'static str,
    },
    /// The device failed when a change was in the journal already, but not yet in its place.
    #[error("{why}; the change is in the journal, and is finished when the volume is opened again")]
    Unfinished {
        /// What failed.
        why: String,
    },
    /// A user or group may not have more.
    #[error(
        "the hard limit of {who} is reached: {limit} {unit}; raise the quota, or use another owner"
    )]
    Quota {
        /// The user or group.
        who: String,
        /// The limit.
        limit: u64,
        /// Of what: `bytes` or `inodes`.
        unit: &'static str,
    },
    /// A path leads nowhere.
    #[error("{path}: {why}")]
    Path {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An argument or a file outside of the volume cannot be used.
    #[error("{what}")]
    Input {
        /// The place and the remedy.
        what: String,
    },
}

// The message of these two is whole: were they sources too, whoever prints the chain of an error
// would print them twice.
impl From<IoError> for Error {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Result of this library's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_said_once() {
        use std::error::Error as _;
        let fault = FaultKind::Loop.at(BlockNo(7));
        assert!(Error::from(fault).source().is_none());
        let source = io::Error::other("broken");
        let (op, offset, len) = ("read", 0, 512);
        let error = Error::from(IoError {
            op,
            offset,
            len,
            source,
        });
        assert_eq!(error.to_string(), "cannot read 512 bytes at byte 0: broken");
        assert!(error.source().is_none());
    }
}
