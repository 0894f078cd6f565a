//! The driver's word on repaired volumes: it mounts them, reads every file, writes, and unmounts.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::NamedTempFile;

use super::run::Cell;
use super::trial;
use crate::guest::Guest;
use crate::kernel::Kernel;

/// Disks of one machine: /dev/vda to /dev/vdy, one letter being left for what the rig itself needs.
pub const DISKS: usize = 24;

/// What is done to each volume.
const TRY: &str = r#"
try() {
    DISK=/dev/vd$1
    mount_vol || return 1
    find $MNT -xdev -type f -exec cat {} + >/dev/null || { umount_vol; return 2; }
    find $MNT -xdev -exec ls -ld {} + >/dev/null || { umount_vol; return 3; }
    mkdir $MNT/made-after && echo text >$MNT/made-after/file || { umount_vol; return 4; }
    rm -r $MNT/made-after && umount_vol || return 5
}
"#;

/// Repairs cells, at most [`DISKS`] of them, and has the driver use the volumes; what it had to say against any
/// of them. Cells that cannot be made, or whose repair is not clean, are left out; the number of those tried
/// comes with the answer.
///
/// # Errors
/// There is no guest, or it does not come to its end.
pub fn mounts(cells: &[Cell], kernel: Kernel) -> Result<(usize, Vec<String>)> {
    let mut guest = Guest::new(kernel)?.timeout(Duration::from_secs(600));
    let mut images: Vec<(String, NamedTempFile)> = Vec::new();
    let mut script = TRY.to_owned();
    for cell in cells.iter().take(DISKS) {
        let Some((outcome, Some(state))) = trial::trial(cell, false) else {
            continue;
        };
        if !outcome.is_clean() {
            continue;
        }
        let image = cell.subject.image(&state)?;
        guest = guest.disk(image.path());
        let number = u8::try_from(images.len())?;
        let letter = char::from(b'a' + number);
        let _ = writeln!(script, "try {letter} || echo \"refused {number} $?\"");
        images.push((cell.name(), image));
    }
    let said = guest.run(&script)?;
    ensure!(said.status == Some(0), "the guest failed:\n{said}");
    let mut against: Vec<String> = said.kernel_log.clone();
    for line in said.stdout.lines() {
        let mut words = line.split(' ');
        if let (Some("refused"), Some(number), Some(step)) =
            (words.next(), words.next(), words.next())
        {
            let name = number
                .parse()
                .ok()
                .and_then(|number: usize| images.get(number));
            let name = name.map_or("", |(name, _)| name);
            against.push(format!("{name}: refused in step {step}"));
        }
    }
    Ok((images.len(), against))
}
