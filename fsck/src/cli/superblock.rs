//! Which superblock a volume is opened by.

use std::path::Path;

use cowfs_format::error::{Error, Result};
use cowfs_format::toolkit::open;
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::volume::Volume;

use super::Args;
use crate::repair::Way;

impl Args {
    /// How the volume is to be opened.
    pub(super) fn way(&self) -> Result<Way> {
        let block_bits = match &self.block_size {
            None => None,
            Some(text) => {
                let bytes = parse_size(text)?;
                if !(512..=4096).contains(&bytes) || !bytes.is_power_of_two() {
                    let what = format!("block size {text}: must be 512, 1024, 2048 or 4096");
                    return Err(Error::Input { what });
                }
                Some(bytes.ilog2())
            }
        };
        let backup = match (self.superblock, block_bits) {
            (Some(2), _) => None,
            (Some(block), Some(bits)) => {
                let offset = block
                    .checked_shl(bits)
                    .filter(|offset| offset >> bits == block);
                let number = (1..=6u32).find(|n| offset == Some(1 << (30 + 2 * (n - 1))));
                Some(number.ok_or_else(|| Error::Input {
                    what: format!(
                        "block {block}: no backup superblock can be there; they are at 1, 4, 16, \
                         64, 256 GiB and 1 TiB"
                    ),
                })?)
            }
            _ => self.backup,
        };
        Ok(Way { backup, block_bits })
    }
}

/// Tells of a usable backup where the superblock is of no use.
pub(super) fn with_backup(path: &Path, error: Error) -> Error {
    let Error::NotAVolume { why } = error else {
        return error;
    };
    Error::NotAVolume {
        why: match usable_backup(path) {
            Some(number) => {
                format!("{why}; backup superblock {number} is usable: give -r {number}")
            }
            None => why,
        },
    }
}

/// The error for a device without a superblock that nothing can be made of.
pub(super) fn none_at_all(error: Error, why: &Error) -> Error {
    match error {
        Error::NotAVolume { why: first } => Error::NotAVolume {
            why: format!("{first}; none can be made anew: {}", bare(why)),
        },
        other => other,
    }
}

/// The words of a refusal.
fn bare(error: &Error) -> String {
    let words = error.to_string();
    words
        .strip_prefix("not written: ")
        .unwrap_or(&words)
        .to_owned()
}

/// The first backup superblock of use.
pub(super) fn usable_backup(path: &Path) -> Option<u32> {
    (1..=6).find(|number| {
        open::read_only(path).is_ok_and(|device| Volume::open_backup(device, *number, None).is_ok())
    })
}
