//! What is printed, and where: reports, explanations, refusals.

use std::io::Write;
use std::path::Path;

use cowfs_format::device::Device;
use cowfs_format::error::Error;
use cowfs_format::toolkit::exit::ExitBits;
use cowfs_format::toolkit::report::Report;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::volume::Volume;
use cowfs_format::volume::system::{self, SystemFile};

use serde_json::Value;

use super::Args;
use crate::catalogue;

impl Args {
    pub(super) fn print(
        &self,
        report: &Report,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> ExitBits {
        let done = if self.json {
            report.json(out)
        } else {
            self.text(report, out)
        };
        let bits = exit_bits(report);
        match done {
            // Whoever closed the pipe has seen enough.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                let _ = writeln!(err, "fsck.cowfs: cannot write the report: {error}");
                bits.with(ExitBits::OPERATIONAL)
            }
            _ => bits,
        }
    }

    fn text(&self, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
        report.text_findings(out)?;
        if self.verbose {
            let mut codes: Vec<&str> = report.findings.iter().map(|item| item.code).collect();
            codes.sort_unstable();
            codes.dedup();
            for entry in catalogue::entries().filter(|entry| codes.contains(&entry.code)) {
                writeln!(out, "{}:{}", entry.code, entry.explanation)?;
            }
        }
        if self.quiet {
            return Ok(());
        }
        let number = |key: &str| report.facts.get(key).and_then(serde_json::Value::as_u64);
        let mut words = vec![report.status.to_owned()];
        let errors = report.findings.len() as u64 + report.findings_left_out;
        if errors > 0 {
            words.push(format!("{errors} findings"));
        }
        for (key, what) in [("inodes", "inodes"), ("clusters", "clusters")] {
            if let Some(count) = number(key) {
                words.push(match number(&format!("{key}_used")) {
                    Some(used) => format!("{used}/{count} {what}"),
                    None => format!("{count} {what}"),
                });
            }
        }
        writeln!(out, "{}: {}", report.volume, words.join(", "))?;
        used(report, out)
    }
}

/// Says what the run used, when it was asked.
fn used(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(used) = report.facts.get("used") else {
        return Ok(());
    };
    let seconds = |of: &Value| of.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    for pass in used
        .get("passes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = pass.get("name").and_then(Value::as_str).unwrap_or("");
        let number = pass.get("pass").and_then(Value::as_u64).unwrap_or(0);
        let time = seconds(pass);
        writeln!(
            out,
            "{}: pass {number} ({name}): {time:.3} s",
            report.volume
        )?;
    }
    let mut words = vec![format!("{:.3} s", seconds(used))];
    for (key, what) in [
        ("memory_bytes", "of memory"),
        ("read_bytes", "read from the device"),
        ("written_bytes", "written to it"),
    ] {
        if let Some(bytes) = used.get(key).and_then(Value::as_u64) {
            words.push(format!("{} {what}", show_size(bytes)));
        }
    }
    writeln!(out, "{}: {}", report.volume, words.join(", "))
}

/// The exit status that a report asks for.
pub(super) fn exit_bits(report: &Report) -> ExitBits {
    let all = [
        ExitBits::CORRECTED,
        ExitBits::UNCORRECTED,
        ExitBits::CANCELLED,
    ];
    let set = all.into_iter().filter(|bit| report.exit & bit.code() != 0);
    set.fold(ExitBits::CLEAN, ExitBits::with)
}

/// Tells why nothing could be done.
pub(super) fn failed(path: &Path, error: &Error, err: &mut dyn Write) -> ExitBits {
    let message = error.to_string();
    let line = if message.contains(&path.display().to_string()) {
        format!("fsck.cowfs: {message}")
    } else {
        format!("fsck.cowfs: {}: {message}", path.display())
    };
    let _ = writeln!(err, "{line}");
    ExitBits::OPERATIONAL
}

/// The report of a volume that says of itself that it is clean.
pub(super) fn clean(volume: &Volume<Box<dyn Device>>, name: &str) -> Report {
    let view = volume.view();
    let mut facts = serde_json::Map::new();
    let bitmap = system::find(view, SystemFile::GlobalBitmap)
        .and_then(|blkno| cowfs_format::read::inode::read(view, blkno));
    if let Ok(bitmap) = bitmap {
        facts.insert("clusters_used".to_owned(), bitmap.bitmap_used().into());
        facts.insert("clusters".to_owned(), bitmap.bitmap_total().into());
    }
    Report {
        schema: 1,
        program: "fsck.cowfs",
        volume: name.to_owned(),
        status: "clean",
        exit: ExitBits::CLEAN.code(),
        facts,
        ..Report::default()
    }
}

pub(super) fn explain(code: &str, out: &mut dyn Write, err: &mut dyn Write) -> ExitBits {
    let mut found = false;
    for entry in catalogue::entries() {
        if code == "all" || entry.code.eq_ignore_ascii_case(code) {
            found = true;
            let preen = if entry.preen { ", safe to repair" } else { "" };
            let severity = entry.severity.name();
            let _ = writeln!(
                out,
                "{} ({severity}{preen}):{} {}",
                entry.code,
                entry.explanation,
                entry.repair()
            );
        }
    }
    let theirs = catalogue::ELSEWHERE
        .iter()
        .find(|theirs| theirs.code.eq_ignore_ascii_case(code));
    if let Some(theirs) = theirs.filter(|_| !found) {
        found = true;
        let see = match theirs.ours {
            [] => String::new(),
            ours => format!(" See {}.", ours.join(", ")),
        };
        let _ = writeln!(
            out,
            "{} is a code of fsck.ocfs2. {}{see}",
            theirs.code, theirs.why
        );
    }
    if found {
        ExitBits::CLEAN
    } else {
        let _ = writeln!(
            err,
            "fsck.cowfs: no code \"{code}\"; --explain all lists them"
        );
        ExitBits::USAGE
    }
}
