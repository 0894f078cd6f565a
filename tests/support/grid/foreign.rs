//! fsck.ocfs2 in the same cells, and as the judge of our repairs.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cowfs_format::device::FileDevice;
use cowfs_format::volume::Volume;

use super::LIMIT;
use super::contents::Contents;
use super::run::Cell;
use super::subject::Subject;
use super::trial::{self, Outcome, State};
use crate::oracle::{self, Report};

/// Codes that fsck.ocfs2 gives for volumes that the driver has no fault to find with; see [`Report`].
const MISTAKES: &[&str] = &["INODE_SPARSE_SIZE", "DX_TREE_MISSING"];

/// Runs fsck.ocfs2, within a limit of time: some damage makes it loop for ever.
fn run(mode: &str, image: &Path) -> Result<Report> {
    let said = tempfile::tempfile()?;
    let mut child = oracle::fsck(image)?
        .arg(mode)
        .arg(image)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()
        .context("cannot run fsck.ocfs2")?;
    let until = Instant::now() + Duration::from_secs(LIMIT / 4);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // Some damage makes it print without end.
        if Instant::now() > until || said.metadata()?.len() > 1 << 24 {
            child.kill()?;
            child.wait()?;
            bail!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.code().is_none() {
        bail!("it died of {status}");
    }
    let mut text = vec![0; said.metadata()?.len().try_into()?];
    std::os::unix::fs::FileExt::read_exact_at(&said, &mut text, 0)?;
    Ok(Report::of(String::from_utf8_lossy(&text).into_owned()))
}

fn new(subject: &Subject, report: Report) -> BTreeSet<String> {
    let known = |code: &String| subject.foreign.contains(code) || MISTAKES.contains(&&**code);
    let mut codes: BTreeSet<String> = report.codes.iter().filter(|c| !known(c)).cloned().collect();
    if !report.finished() {
        codes.insert("(gave up)".to_owned());
    }
    codes
}

/// The codes that fsck.ocfs2 gives for a state of a subject and does not for the subject.
pub(super) fn new_codes(subject: &Subject, state: &State) -> Result<BTreeSet<String>> {
    let image = subject.image(state)?;
    Ok(new(subject, run("-fn", image.path())?))
}

/// Plays a cell with `fsck.ocfs2 -fy`. `None` when the cell cannot be made.
#[must_use]
pub fn fsck_ocfs2(cell: &Cell) -> Option<Outcome> {
    if !cell.hits.iter().all(|(_, harm)| trial::on_files(*harm)) {
        return None;
    }
    let (state, forced, _) = trial::damage(cell)?;
    let tried = || -> Result<Outcome> {
        let image = cell.subject.image(&state)?;
        let began = Instant::now();
        let first = run("-fy", image.path());
        let mut outcome = Outcome {
            took: began.elapsed(),
            ..Outcome::default()
        };
        match first {
            Err(error) => outcome = Outcome::gave_up(format!("{error:#}")),
            Ok(report) if !report.finished() => {
                let last = report
                    .transcript
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned();
                outcome = Outcome::gave_up(format!("gave up: {last}"));
            }
            Ok(report) => {
                outcome.seen = !report.codes.is_empty();
                match run("-fn", image.path()).map(|report| new(cell.subject, report)) {
                    Ok(codes) if codes.is_empty() => {}
                    Ok(codes) => outcome.wrong.push(format!("then it says {codes:?}")),
                    Err(error) => outcome.wrong.push(format!("then: {error:#}")),
                }
            }
        }
        let device = FileDevice::new(File::open(image.path())?)?;
        let after = Volume::open(device).map(|volume| Contents::of(volume.view()));
        outcome.losses = cell
            .subject
            .contents
            .lost(&after.unwrap_or_default(), &forced);
        Ok(outcome)
    };
    Some(tried().unwrap_or_else(|error| Outcome::gave_up(format!("{error:#}"))))
}
