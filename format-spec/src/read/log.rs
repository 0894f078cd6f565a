//! The records of a log: tags, revoked blocks, and their checksums (versions 2 and 3).
//!
//! A checksum is a CRC-32C that begins with the UUID of the journal. Descriptors and revoke records
//! end with theirs, a commit record has it among its first fields, the journal's superblock has its
//! own, which does not begin with the UUID; and a tag has that of its image as it stands in the log,
//! behind the number of the transaction.

use zerocopy::{FromBytes, IntoBytes};

use crate::ecc::crc32c;
use crate::layout::jbd2::{
    BlockHeader, BlockTag, BlockTag3, COMMIT, Checksums, DESCRIPTOR, JournalSuperBlock, LogForm,
    REVOKE, RevokeHeader, TAG_LAST, TAG_SAME_UUID, TAG_UUID,
};
use crate::units::{BlockNo, index, low32};

/// Place of the checksum in a commit record.
const COMMIT_CHECKSUM: usize = 0x10;

/// A tag of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The image's home.
    pub home: BlockNo,
    /// Flags.
    pub flags: u16,
    /// Checksum of the image, as many bits of it as the form has.
    pub checksum: u32,
}

/// The tags of a descriptor.
#[must_use]
pub fn tags(block: &[u8], form: LogForm) -> Vec<Tag> {
    let block = without_tail(block, form);
    let mut found = Vec::new();
    let mut at = size_of::<BlockHeader>();
    while let Some(tag) = block
        .get(at..at.saturating_add(form.tag_bytes()))
        .and_then(|bytes| tag(bytes, form))
    {
        at += form.tag_bytes();
        if tag.flags & TAG_SAME_UUID == 0 {
            at += TAG_UUID;
        }
        found.push(tag);
        if tag.flags & TAG_LAST != 0 {
            break;
        }
    }
    found
}

fn without_tail(block: &[u8], form: LogForm) -> &[u8] {
    let end = block.len().saturating_sub(form.tail_bytes());
    block.get(..end).unwrap_or_default()
}

fn tag(bytes: &[u8], form: LogForm) -> Option<Tag> {
    if form.checksums == Checksums::V3 {
        let (tag, _) = BlockTag3::ref_from_prefix(bytes).ok()?;
        let high = if form.wide {
            tag.t_blocknr_high.get()
        } else {
            0
        };
        let [low, next, ..] = tag.t_flags.get().to_le_bytes();
        return Some(Tag {
            home: BlockNo(u64::from(high) << 32 | u64::from(tag.t_blocknr.get())),
            flags: u16::from_le_bytes([low, next]),
            checksum: tag.t_checksum.get(),
        });
    }
    let (tag, rest) = BlockTag::ref_from_prefix(bytes).ok()?;
    let mut home = u64::from(tag.t_blocknr.get());
    if form.wide {
        let high: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        home |= u64::from(u32::from_be_bytes(high)) << 32;
    }
    Some(Tag {
        home: BlockNo(home),
        flags: tag.t_flags.get(),
        checksum: tag.t_checksum.get().into(),
    })
}

/// The bytes of a tag.
#[must_use]
pub fn encode_tag(form: LogForm, home: BlockNo, flags: u16, checksum: u32) -> Vec<u8> {
    let high = low32(home.0 >> 32);
    let mut bytes = if form.checksums == Checksums::V3 {
        BlockTag3 {
            t_blocknr: low32(home.0).into(),
            t_flags: u32::from(flags).into(),
            t_blocknr_high: high.into(),
            t_checksum: checksum.into(),
        }
        .as_bytes()
        .to_vec()
    } else {
        let [low, next, ..] = checksum.to_le_bytes();
        let tag = BlockTag {
            t_blocknr: low32(home.0).into(),
            t_checksum: u16::from_le_bytes([low, next]).into(),
            t_flags: flags.into(),
        };
        let mut bytes = tag.as_bytes().to_vec();
        if form.wide {
            bytes.extend(high.to_be_bytes());
        }
        bytes
    };
    bytes.resize(form.tag_bytes(), 0);
    bytes
}

/// The blocks of a revoke record.
#[must_use]
pub fn revoked(block: &[u8], form: LogForm) -> Vec<BlockNo> {
    let block = without_tail(block, form);
    let Ok((head, _)) = RevokeHeader::ref_from_prefix(block) else {
        return Vec::new();
    };
    let end = index(head.r_count.get().into()).min(block.len());
    let bytes = block
        .get(size_of::<RevokeHeader>()..end)
        .unwrap_or_default();
    bytes
        .chunks_exact(if form.wide { 8 } else { 4 })
        .map(|b| BlockNo(b.iter().fold(0, |n, &b| n << 8 | u64::from(b))))
        .collect()
}

/// The checksums of a journal.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    form: LogForm,
    seed: u32,
}

impl Sums {
    /// Those of the journal with this superblock.
    #[must_use]
    pub fn of(superblock: &JournalSuperBlock) -> Self {
        Self {
            form: LogForm::of(superblock.s_feature_incompat.get()),
            seed: crc32c(u32::MAX, &superblock.s_uuid),
        }
    }

    /// Place of the checksum in a record.
    fn place(self, block: &[u8], kind: u32) -> Option<usize> {
        match kind {
            DESCRIPTOR | REVOKE => block.len().checked_sub(4),
            COMMIT => Some(COMMIT_CHECKSUM),
            _ => None,
        }
        .filter(|_| self.form.sums())
    }

    fn of_record(self, block: &[u8], place: usize) -> u32 {
        let state = crc32c(self.seed, block.get(..place).unwrap_or_default());
        let state = crc32c(state, &[0; 4]);
        let rest = block.get(place.saturating_add(4)..);
        crc32c(state, rest.unwrap_or_default())
    }

    /// Whether a record's checksum matches; `None` when it has none.
    #[must_use]
    pub fn record(self, block: &[u8], kind: u32) -> Option<bool> {
        let place = self.place(block, kind)?;
        let stored = block.get(place..place.saturating_add(4));
        Some(stored == Some(&self.of_record(block, place).to_be_bytes()[..]))
    }

    /// Sets a record's checksum, if it has one.
    pub fn stamp(self, block: &mut [u8], kind: u32) {
        if let Some(place) = self.place(block, kind) {
            let sum = self.of_record(block, place).to_be_bytes();
            if let Some(stored) = block.get_mut(place..place.saturating_add(4)) {
                stored.copy_from_slice(&sum);
            }
        }
    }

    /// The checksum of an image as it stands in the log; zero without checksums.
    #[must_use]
    pub fn of_image(self, sequence: u32, image: &[u8]) -> u32 {
        if !self.form.sums() {
            return 0;
        }
        crc32c(crc32c(self.seed, &sequence.to_be_bytes()), image)
    }

    /// Whether an image's checksum, if it has one, matches.
    #[must_use]
    pub fn image(self, tag: &Tag, sequence: u32, image: &[u8]) -> bool {
        let sum = self.of_image(sequence, image);
        match self.form.checksums {
            Checksums::None => true,
            Checksums::V2 => tag.checksum == sum & 0xFFFF,
            Checksums::V3 => tag.checksum == sum,
        }
    }

    /// The checksum of a journal's superblock.
    #[must_use]
    pub fn of_superblock(superblock: &JournalSuperBlock) -> u32 {
        let mut superblock = *superblock;
        superblock.s_checksum = 0.into();
        crc32c(u32::MAX, superblock.as_bytes())
    }

    /// Sets the checksum of a journal's superblock, if it has one.
    pub fn stamp_superblock(self, superblock: &mut JournalSuperBlock) {
        if self.form.sums() {
            superblock.s_checksum = Self::of_superblock(superblock).into();
        }
    }
}
