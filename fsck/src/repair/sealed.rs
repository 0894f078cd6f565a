//! Repairs from a seal, before anything is rebuilt from evidence: what is lost and was sealed comes
//! back as it was. Like every other repair it is staged, and the check of the whole decides.

use std::collections::BTreeSet;
use std::path::Path;

use cowfs_format::device::{Device, DeviceMut, OverlayDevice};
use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{Dinode, GroupDesc, InodeFlags};
use cowfs_format::ops::seal::{self, Found, Seal, State};
use cowfs_format::time::Utc;
use cowfs_format::toolkit::open;
use cowfs_format::toolkit::progress::Progress;
use cowfs_format::toolkit::report::Severity;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;

use super::policy::Decider;
use super::stage::Staged;
use crate::check::Checked;
use crate::seal::{Told, shown_runs};

/// What a repair took from a seal.
#[derive(Clone, Debug, Default)]
pub struct FromSeal {
    /// When it was sealed, seconds.
    pub when: u64,
    /// Blocks that were restored, in order.
    pub blocks: BTreeSet<BlockNo>,
    /// Lost blocks that the seal could not give back.
    pub beyond: Vec<BlockNo>,
    /// Blocks that changed since, which were left as they are.
    pub newer: u64,
    /// Whether nothing at all is newer than the seal.
    pub quiet: bool,
    /// The longest run of lost blocks that the seal promises to restore.
    pub run: u64,
}

impl FromSeal {
    /// Whether it gave anything back.
    pub(super) fn gave(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// In a line of text.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let mut words = Vec::new();
        if !self.blocks.is_empty() {
            let blocks: Vec<BlockNo> = self.blocks.iter().copied().collect();
            let count = blocks.len();
            words.push(format!("{count} blocks restored: {}", shown_runs(&blocks)));
        }
        if !self.beyond.is_empty() {
            words.push(format!(
                "{} lost blocks are beyond it ({} in a row are promised): {}",
                self.beyond.len(),
                self.run,
                shown_runs(&self.beyond)
            ));
        }
        if words.is_empty() {
            return None;
        }
        if self.newer > 0 {
            words.push(format!("{} blocks are newer, and left", self.newer));
        }
        Some(format!("seal of {}: {}", Utc(self.when), words.join("; ")))
    }

    /// As facts of a report.
    #[must_use]
    pub fn facts(&self) -> serde_json::Value {
        let blocks: Vec<u64> = self.blocks.iter().map(|blkno| blkno.0).collect();
        let beyond: Vec<u64> = self.beyond.iter().map(|blkno| blkno.0).collect();
        serde_json::json!({
            "sealed": Utc(self.when).to_string(),
            "restored": blocks,
            "beyond": beyond,
            "newer": self.newer,
            "longest_run": self.run,
        })
    }
}

/// Restores what is lost from a seal into `overlay`, if `decider` allows it. `None`: nothing is lost
/// that was sealed, or it is not to be restored.
fn take(
    overlay: &OverlayDevice<&dyn DeviceMut>,
    found: &Found<'_>,
    decider: &mut Decider<'_>,
    (scanner, progress): (&Scanner, &Progress),
) -> Result<Option<FromSeal>> {
    let verified = seal::verify(&overlay, found, scanner, &Told::to(progress))?;
    if verified.count(State::Lost) == 0 || scanner.stopped() {
        return Ok(None);
    }
    let restored = seal::restore(&overlay, found, &verified, scanner)?;
    let taken = FromSeal {
        when: found.seal.header.sh_renewed.get(),
        blocks: restored.blocks.iter().map(|(blkno, _)| *blkno).collect(),
        beyond: restored.beyond,
        newer: verified.count(State::Newer),
        quiet: verified.quiet,
        run: found.seal.header.sh_run.get(),
    };
    if !taken.blocks.is_empty() && !decider.allows_seal(&taken) {
        return Ok(None);
    }
    for (blkno, bytes) in &restored.blocks {
        overlay.write_at(found.seal.geo.byte_of(*blkno), bytes)?;
    }
    Ok(Some(taken))
}

/// Restores what is lost of a volume that is open.
pub(super) fn restore(
    volume: &Staged<'_>,
    checked: &Checked,
    file: Option<&Path>,
    decider: &mut Decider<'_>,
    shared: (&Scanner, &Progress),
) -> Result<Option<FromSeal>> {
    let overlay = volume.device();
    if let Some(path) = file {
        let file = open::read_only(path)?;
        let found = beside(&file, shared.0, path, Some(volume.info().uuid))?;
        return take(overlay, &found, decider, shared);
    }
    let found = match Seal::inside(volume) {
        Ok(found) => found,
        // What has no name any more is searched for where something is wrong.
        Err(_) if checked.findings.is_empty() => None,
        Err(_) => Seal::search(overlay, shared.0, Some(volume.info().uuid)),
    };
    match found {
        Some(found) => take(overlay, &found, decider, shared),
        None => Ok(None),
    }
}

/// Restores a volume that cannot even be opened. `None`: there is no seal, or nothing is to be
/// restored.
pub(super) fn reopen(
    overlay: &OverlayDevice<&dyn DeviceMut>,
    file: Option<&Path>,
    decider: &mut Decider<'_>,
    shared: (&Scanner, &Progress),
) -> Result<Option<FromSeal>> {
    let own = file.map(open::read_only).transpose()?;
    let found = match (&own, file) {
        (Some(own), Some(path)) => Some(beside(own, shared.0, path, None)?),
        _ => Seal::search(overlay, shared.0, None),
    };
    let taken = match found {
        Some(found) => take(overlay, &found, decider, shared)?,
        None => None,
    };
    // Without its superblock the volume is no better off than before.
    Ok(taken.filter(|_| Volume::open(overlay).is_ok()))
}

fn beside<'d>(
    file: &'d dyn Device,
    scanner: &Scanner,
    path: &Path,
    uuid: Option<[u8; 16]>,
) -> Result<Found<'d>> {
    let what = |why: &str| Error::Input {
        what: format!("{}: {why}", path.display()),
    };
    let found = Seal::beside(file, scanner).map_err(|error| what(&error.to_string()))?;
    match uuid {
        Some(uuid) if uuid != found.seal.uuid => Err(what("is the seal of another volume")),
        _ => Ok(found),
    }
}

/// Takes back what was restored where the volume went on without it: inodes that were freed since,
/// and blocks that do not fit to what is newer. Whether there was any. Where nothing is newer than
/// the seal, nothing is taken back.
pub(super) fn withdraw(
    volume: &Staged<'_>,
    checked: &Checked,
    taken: &mut FromSeal,
) -> Result<bool> {
    if taken.quiet {
        return Ok(false);
    }
    let view = volume.view();
    let contradicted: BTreeSet<BlockNo> = checked
        .findings
        .iter()
        .filter(|finding| finding.problem.entry().severity == Severity::Error)
        .flat_map(|finding| [finding.at.block, finding.at.inode])
        .flatten()
        .collect();
    let freed = |blkno: BlockNo| {
        let Ok(inode) = view.block::<Dinode>(blkno) else {
            return false;
        };
        let (bit, loc) = (inode.i_suballoc_bit.get(), inode.i_suballoc_loc.get());
        let group = match loc {
            0 => BlockNo(blkno.0.saturating_sub(bit.into())),
            loc => BlockNo(loc),
        };
        let desc = view.block::<GroupDesc>(group);
        inode.flags().contains(InodeFlags::VALID) && desc.is_ok_and(|desc| !desc.is_set(bit.into()))
    };
    // Bitmaps and superblocks that are too old are brought up to date by the repairs that follow.
    let mended = |blkno: BlockNo| {
        let known = [&b"GROUP01\0"[..], b"OCFSV2\0\0"];
        view.raw(blkno)
            .is_ok_and(|block| known.iter().any(|known| block.starts_with(known)))
    };
    let gone: Vec<BlockNo> = taken
        .blocks
        .iter()
        .copied()
        .filter(|blkno| freed(*blkno) || (contradicted.contains(blkno) && !mended(*blkno)))
        .collect();
    let overlay = volume.device();
    for blkno in &gone {
        let offset = volume.info().geo.byte_of(*blkno);
        let mut bytes = vec![0; volume.info().geo.block_bytes()];
        // What could not be read before is zeros now, which are no metadata either.
        let _ = overlay.base().read_at(offset, &mut bytes);
        overlay.write_at(offset, &bytes)?;
        taken.blocks.remove(blkno);
        taken.beyond.push(*blkno);
    }
    taken.beyond.sort_unstable();
    Ok(!gone.is_empty())
}
