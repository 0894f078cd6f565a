//! A digest of what is put into a volume: reproducible volumes are told apart by it.

use std::fs::File;

use cowfs_format::ops::Contents;
use cowfs_format::txn::Timestamp;
use sha2::{Digest, Sha256};

use super::{Member, What};

/// Adds bytes with their length, so that no two lists of bytes look alike.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Adds everything of a member but its data, as it will be stored.
pub(super) fn describe(
    hash: &mut Sha256,
    member: &Member<'_>,
    (uid, gid): (u32, u32),
    mtime: Timestamp,
) {
    add(hash, &member.path);
    for number in [
        u64::from(member.mode),
        uid.into(),
        gid.into(),
        mtime.seconds,
        mtime.nanos.into(),
        member.xattrs.len() as u64,
    ] {
        hash.update(number.to_le_bytes());
    }
    for (name, value) in &member.xattrs {
        add(hash, name);
        add(hash, value);
    }
    match &member.what {
        What::Directory => hash.update(b"d"),
        What::File(contents) => {
            hash.update(b"f");
            hash.update(contents.size().to_le_bytes());
            for (offset, len) in contents.runs() {
                hash.update(offset.to_le_bytes());
                hash.update(len.to_le_bytes());
            }
        }
        What::Symlink(target) => {
            hash.update(b"l");
            add(hash, target);
        }
        What::Node(kind, device) => {
            hash.update(b"n");
            hash.update(kind.to_le_bytes());
            hash.update(device.to_le_bytes());
        }
        What::Link(first) => {
            hash.update(b"h");
            add(hash, first);
        }
    }
}

/// Contents whose data is added to a digest as it is read; so it is read by this process, and not
/// copied past it.
pub(super) struct Digested<'c> {
    contents: &'c mut dyn Contents,
    hash: &'c mut Sha256,
}

impl<'c> Digested<'c> {
    pub(super) fn new(contents: &'c mut dyn Contents, hash: &'c mut Sha256) -> Self {
        Self { contents, hash }
    }
}

impl Contents for Digested<'_> {
    fn name(&self) -> &str {
        self.contents.name()
    }

    fn size(&self) -> u64 {
        self.contents.size()
    }

    fn runs(&self) -> &[(u64, u64)] {
        self.contents.runs()
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.contents.read(offset, buf)?;
        self.hash.update(&*buf);
        Ok(())
    }

    fn can_rewind(&self) -> bool {
        self.contents.can_rewind()
    }

    fn on_host(&self, _offset: u64) -> Option<(&File, u64)> {
        None
    }
}
