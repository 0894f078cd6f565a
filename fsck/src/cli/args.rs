//! The command line as data.

use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser, ValueEnum};
use cowfs_format::layout::HashKind;
use cowfs_format::toolkit::size::parse_size;

use crate::repair::policy::{self, Answer};
use crate::seal::SealArgs;

/// Checks a volume in the OCFS2 format, and repairs it.
///
/// With -n the volume is only read; one that was not unmounted is checked as it will be once its
/// journals are replayed. Repairs are made in memory, and the whole volume is checked over them
/// until nothing is left to do; only then are they written, all together, through a journal of the
/// volume. Exit status, added up: 0 nothing is wrong, 1 problems were corrected, 4 problems are
/// left, 8 the check or a repair could not be done, 16 wrong usage, 32 interrupted. Without -n, -p,
/// -y or --policy, it asks on a terminal, and only looks elsewhere.
#[derive(Debug, Parser)]
#[command(name = "fsck.cowfs", version, disable_version_flag = true)]
pub struct Args {
    /// Check even when the volume was left cleanly.
    #[arg(short = 'f', long = "force")]
    pub(super) force: bool,
    /// Only look: nothing is written.
    #[arg(
        short = 'n',
        long = "no",
        conflicts_with_all = ["preen", "yes", "policy", "output", "undo", "optimize", "name_hash"]
    )]
    pub(super) no: bool,
    /// Replay journals, and repair what loses nothing and needs no decision.
    #[arg(
        short = 'p',
        long = "preen",
        visible_short_alias = 'a',
        conflicts_with = "yes"
    )]
    pub(super) preen: bool,
    /// Repair everything that can be.
    #[arg(short = 'y', long = "yes")]
    pub(super) yes: bool,
    /// Decide about a code, whatever the other options say: yes, no or ask. May be repeated.
    #[arg(long, value_name = "CODE=ANSWER", value_parser = policy::parse)]
    pub(super) policy: Vec<(&'static str, Answer)>,
    /// Repair wrong generations of blocks, too, whatever else is repaired.
    ///
    /// A block with another generation than the volume's may be left over from an earlier formatting.
    /// With -y such a block is repaired when everything else speaks for it; this decides so for -p.
    #[arg(short = 'G', long = "fix-generations", conflicts_with = "no")]
    pub(super) generations: bool,
    /// Look at, and repair, only what is wrong with one object: an inode by its number or path, or an
    /// allocator group by the number of its descriptor, as `group:NUMBER`.
    ///
    /// The whole volume is checked all the same, since what is wrong with one object shows in others.
    /// The exit status is that of the object.
    #[arg(long, value_name = "INODE|PATH|GROUP")]
    pub(super) only: Option<String>,
    /// When nothing is left to repair, pack directories: names close up, blocks left empty are freed,
    /// and indexes are made anew, also those that are missing.
    #[arg(short = 'D', long = "optimize-directories")]
    pub(super) optimize: bool,
    /// Index names with bytes of 0x80 and above under these hashes, in all directories.
    ///
    /// Linux up to 6.1 on x86 and ocfs2-tools look for such names under one hash (signed), Linux from
    /// 6.2 on under another (unsigned). A directory that one kernel has filled hides them from the
    /// other. Indexed under both, they are found by all.
    #[arg(long, value_name = "WHICH", value_enum)]
    pub(super) name_hash: Option<NameHash>,
    /// Repair into a copy in this new file, and leave the volume alone.
    #[arg(long, value_name = "NEW")]
    pub(super) output: Option<PathBuf>,
    /// Save what is written over in this new file first; --rollback puts it back.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(super) undo: Option<PathBuf>,
    /// Empty journals that cannot be used although they hold something: what they hold is lost.
    #[arg(long, conflicts_with = "no")]
    pub(super) reset_journal: bool,
    /// Do not look whether a node of a cluster has the volume mounted. Whoever gives this must know
    /// that none has: writing to a volume that is in use destroys it.
    #[arg(short = 'F', long = "skip-cluster-check")]
    pub(super) trusted: bool,
    /// Use the backup superblock in this block; needs -B.
    #[arg(
        short = 'b',
        long = "superblock",
        value_name = "BLOCK",
        requires = "block_size"
    )]
    pub(super) superblock: Option<u64>,
    /// Block size of the volume, with -b or -r.
    #[arg(short = 'B', long = "block-size", value_name = "BYTES")]
    pub(super) block_size: Option<String>,
    /// Use backup superblock number N, 1 to 6.
    #[arg(
        short = 'r',
        long = "backup",
        value_parser = clap::value_parser!(u32).range(1..=6),
        value_name = "N",
        conflicts_with = "superblock"
    )]
    pub(super) backup: Option<u32>,
    /// Show progress on stderr also when that is no terminal.
    #[arg(short = 'P', long = "progress", conflicts_with = "quiet")]
    pub(super) progress: bool,
    /// Write progress for programs to this open file descriptor, as e2fsck does.
    #[arg(short = 'C', value_name = "FD", allow_hyphen_values = true)]
    pub(super) progress_fd: Option<i32>,
    /// Tell how long the run took and what it used; twice: each pass.
    #[arg(short = 't', long = "timings", action = ArgAction::Count)]
    pub(super) timings: u8,
    /// Say more: the explanation of each kind of finding.
    #[arg(short = 'v', long)]
    pub(super) verbose: bool,
    /// Say nothing but findings.
    #[arg(short = 'q', long)]
    pub(super) quiet: bool,
    /// Accepted for the sake of scripts written for fsck.ocfs2, where it asks for buffered reads; here
    /// reads are always buffered.
    #[arg(short = 'u', long = "buffered")]
    pub(super) buffered: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Print the JSON Schema of the report and exit.
    #[arg(long)]
    pub(super) json_schema: bool,
    /// Number of threads; the result is the same for any.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) threads: Option<u16>,
    /// Use no more memory than this; a run that needs more ends with status 8, and nothing is written.
    /// Default: what is free, and what the control group of the process may have.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(super) max_memory: Option<u64>,
    /// Put back everything that the undo log FILE saved, and exit; with -n only look.
    ///
    /// FILE is what a run with --undo left. The volume then is byte for byte as before that run, also
    /// when the run was killed; a rollback that was killed is done again. A volume that was changed
    /// after the run is refused.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preen", "yes", "superblock", "backup", "undo"])]
    pub(super) rollback: Option<PathBuf>,
    #[command(flatten)]
    pub(super) seal: SealArgs,
    /// Explain a code and exit; `all` explains every code.
    #[arg(long, value_name = "CODE")]
    pub(super) explain: Option<String>,
    /// Print the version and exit.
    #[arg(short = 'V', long = "version")]
    pub(super) version: bool,
    /// Device or image file.
    #[arg(
        value_name = "VOLUME",
        required_unless_present_any = ["explain", "version", "json_schema"]
    )]
    pub(super) volume: Option<PathBuf>,
}

/// Hashes that names may be indexed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NameHash {
    /// That of Linux up to 6.1 on x86, and of ocfs2-tools.
    Signed,
    /// That of Linux from 6.2 on.
    Unsigned,
    /// Both.
    Both,
}

impl NameHash {
    pub(super) const fn kinds(self) -> &'static [HashKind] {
        match self {
            Self::Signed => &[HashKind::Signed],
            Self::Unsigned => &[HashKind::Unsigned],
            Self::Both => &[HashKind::Unsigned, HashKind::Signed],
        }
    }
}

/// The least memory that a check can be asked to live with.
const LEAST_MEMORY: u64 = 8 << 20;

fn memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes < LEAST_MEMORY {
        return Err(format!("{text}: less than 8M is not enough for any volume"));
    }
    Ok(bytes)
}

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}
