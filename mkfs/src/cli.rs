//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, ValueEnum};
use cowfs_format::ops::seal::MOST_PARITY;
use cowfs_format::toolkit::size::parse_size;
use cowfs_format::txn::Timestamp;

use crate::features::{self, Change};
use crate::make;
use crate::options::{ClusterStack, Mount, Options, Usage};
use crate::populate::{Map, Owners, Rules};

const ABOUT: &str = "Make a volume in the OCFS2 on-disk format";
const LONG_ABOUT: &str = "\
Make a volume in the OCFS2 on-disk format, on a block device or in an image file.

The options are those of mkfs.ocfs2, and so is the volume: with the same UUID, time and seeds the \
two programs write the same bytes, but for a few places where mkfs.ocfs2 errs. Two defaults \
differ. The default feature set has checked metadata (metaecc) besides what mkfs.ocfs2 sets, \
reflink (refcount) among it. And a volume is mounted locally, by one machine and without a \
cluster stack, unless -M cluster or one of the cluster options is given, so that a new volume \
mounts at once.

The program never asks. It refuses a device that is mounted or in use; it refuses, unless -F is \
given, a device on which it recognises a filesystem, a container or a partition table, and says \
what it found and where. The superblock is written last: a run that is interrupted leaves nothing \
that looks like a volume.";
const AFTER_HELP: &str = "\
Sizes take K, M, G, T or P behind the number (powers of 1024), also as KB or KiB.

With SOURCE_DATE_EPOCH in the environment the volume is reproducible: that number of seconds is \
the time of everything in it, and all that would be random follows from the UUID and this time. \
Without -U the UUID then follows from the label, the sizes, the features, and what -d puts in, so \
that two volumes made alike have the same one: give them different labels.

The exit status is 0, or 1 when no volume was made.";

/// Kind of mount on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MountArg {
    /// One machine, without a cluster stack
    Local,
    /// The nodes of a cluster
    Cluster,
}

/// Usage on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UsageArg {
    /// Many small files: larger journals
    Mail,
    /// Few large files: larger clusters
    Datafiles,
    /// Images of virtual machines: larger clusters
    Vmstore,
}

/// The arguments.
#[derive(Debug, Parser)]
#[command(
    name = "mkfs.cowfs",
    bin_name = "mkfs.cowfs",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_HELP,
    max_term_width = 100
)]
pub struct Args {
    /// Block device or image file
    pub(crate) device: PathBuf,

    /// Number of blocks of the volume; all that the device has by default
    #[arg(value_name = "BLOCKS-COUNT")]
    blocks: Option<u64>,

    /// Block size, 512 to 4K; chosen by the size of the volume by default
    ///
    /// The unit of metadata. By default 4K from 1 GiB on, 2K from 512 MiB on, else 1K, and 512 for
    /// volumes of up to 3 MiB; never less than a sector of the device.
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    block_size: Option<u64>,

    /// Cluster size, 4K to 1M; chosen by size and usage by default
    ///
    /// The unit of space for file data. By default 4K, or as much as a very large volume needs.
    #[arg(short = 'C', long, value_name = "SIZE", value_parser = size)]
    cluster_size: Option<u64>,

    /// Volume label, up to 63 bytes
    #[arg(short = 'L', long, default_value = "", hide_default_value = true)]
    label: String,

    /// UUID, with or without dashes; random by default
    ///
    /// Two volumes with the same UUID must never be seen by the same machine.
    #[arg(short = 'U', long, value_parser = uuid)]
    uuid: Option<[u8; 16]>,

    /// Who mounts the volume; local unless a cluster option is given
    #[arg(short = 'M', long, value_enum, ignore_case = true, value_name = "TYPE")]
    mount: Option<MountArg>,

    /// Number of node slots, 1 to 255: how many nodes can mount the volume at once
    ///
    /// By default 1 for local volumes; for clusters 2 below 2 GiB, 4 below 10 GiB, 8 below 1 TiB,
    /// else 16.
    #[arg(short = 'N', long, value_name = "NUMBER")]
    node_slots: Option<u16>,

    /// Journal options, separated by commas: size=SIZE, block32, block64
    ///
    /// size= is the size of each journal, at least 4M and nine clusters, less than 4G. block64 lets
    /// journals hold block numbers of 64 bits; it is chosen by itself where a volume has more than
    /// 2^32 blocks.
    #[arg(short = 'J', long, value_name = "OPTIONS", value_parser = journal)]
    journal_options: Option<JournalArg>,

    /// What the volume will hold; chooses cluster size, journal size and metadata reserve
    #[arg(short = 'T', value_enum, value_name = "USAGE")]
    usage: Option<UsageArg>,

    /// Features to switch on, or off with "no" in front, separated by commas
    ///
    /// The names are local, sparse, backup-super, unwritten, extended-slotmap, inline-data, metaecc,
    /// xattr, indexed-dirs, usrquota, grpquota, refcount, discontig-bg, clusterinfo and append-dio.
    /// unwritten brings sparse along, and nosparse takes unwritten away.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    fs_features: Vec<String>,

    /// Feature set to start from: default, max-compat or max-features
    ///
    /// max-compat has none but backup superblocks; max-features adds user and group quotas to the
    /// default.
    #[arg(long, value_name = "LEVEL", default_value = "default")]
    fs_feature_level: String,

    /// Cluster stack: o2cb, pcmk or cman
    #[arg(long, value_name = "NAME")]
    cluster_stack: Option<String>,

    /// Name of the cluster, up to 16 characters
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,

    /// Heartbeat of the o2cb stack on devices of its own, not on this volume
    #[arg(long)]
    global_heartbeat: bool,

    /// Make no backup superblocks
    #[arg(long)]
    no_backup_super: bool,

    /// Discard what the device holds first (the default)
    ///
    /// On an image file this punches out its contents, so that it is sparse afterwards.
    #[arg(long, overrides_with = "nodiscard")]
    discard: bool,

    /// Do not discard; zeros are written where they are needed
    #[arg(long, overrides_with = "discard")]
    nodiscard: bool,

    /// Create the image file with this size, or grow it to it
    ///
    /// "auto" is the smallest volume that holds what -d puts into it; the file then has that size,
    /// whatever it had before. The source is read twice.
    #[arg(long, value_name = "SIZE|auto", value_parser = wanted_size, conflicts_with = "blocks")]
    pub(crate) size: Option<WantedSize>,

    /// Leave that much free space in a volume of --size auto
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "size")]
    pub(crate) free: Option<u64>,

    /// Fill the volume from a directory, a tar archive (also gzip or zstd), or - for one on stdin
    ///
    /// Everything comes along that the source has: hard links, devices, sparse files, attributes,
    /// ACLs, owners, times of nanoseconds, names of any bytes, and what the root directory itself
    /// has. An archive needs no privileges to carry all of that. Members of an archive must not have
    /// absolute names, nor "..", nor the same name twice.
    #[arg(short = 'd', long, value_name = "SOURCE")]
    pub(crate) populate: Option<PathBuf>,

    /// Owner and group of the root directory, whatever the source says
    #[arg(long, value_name = "UID:GID", value_parser = owner, requires = "populate")]
    root_owner: Option<(u32, u32)>,

    /// Make all files belong to 0:0
    #[arg(long, requires = "populate")]
    all_root: bool,

    /// Make files of user FROM belong to TO, or COUNT users from there on; may be repeated
    #[arg(long, value_name = "FROM:TO[:COUNT]", value_parser = map, requires = "populate")]
    uid_map: Vec<Map>,

    /// The same for groups
    #[arg(long, value_name = "FROM:TO[:COUNT]", value_parser = map, requires = "populate")]
    gid_map: Vec<Map>,

    /// Leave out what matches a shell pattern, by its name or its path from the root
    #[arg(long, value_name = "PATTERN", requires = "populate")]
    exclude: Vec<String>,

    /// Let files of equal contents share their clusters
    #[arg(long, requires = "populate")]
    dedupe: bool,

    /// Seal the volume when it is made: keep parity of its metadata, PERCENT of it (5)
    ///
    /// Lost blocks come back from it with fsck.cowfs -y, and fsck.cowfs --verify compares everything
    /// with its sums: see there. With --size auto the volume gets the room for it.
    #[arg(
        long,
        value_name = "PERCENT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "5",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PARITY))
    )]
    pub(crate) seal: Option<u16>,

    /// Seal what files hold as well
    #[arg(long, requires = "seal")]
    pub(crate) seal_data: bool,

    /// Threads that read the source of -d; the volume is the same for any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    /// Save what is written over in FILE first; fsck.cowfs --rollback FILE puts it back
    ///
    /// Nothing is discarded then. The size of an image file is not saved: give it its size before.
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    pub(crate) undo: Option<PathBuf>,

    /// Print the plan as it would be carried out, and write nothing
    ///
    /// With --size auto the size is an estimate then.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    /// Print the plan or result as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print where the system files lie, too
    #[arg(short, long)]
    verbose: bool,

    /// Format even when the device holds something
    ///
    /// A device that is mounted or otherwise in use is refused all the same.
    #[arg(short = 'F', long)]
    pub(crate) force: bool,
}

/// What `-J` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct JournalArg {
    size: Option<u64>,
    block64: Option<bool>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// How large the volume is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedSize {
    /// That many bytes.
    Bytes(u64),
    /// As small as it can be.
    Auto,
}

fn wanted_size(text: &str) -> Result<WantedSize, String> {
    if text == "auto" {
        return Ok(WantedSize::Auto);
    }
    size(text).map(WantedSize::Bytes)
}

fn map(text: &str) -> Result<Map, String> {
    Map::parse(text).map_err(|error| format!("{error:#}"))
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("\"{text}\" is not UID:GID in numbers");
    let (uid, gid) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| text.parse().map_err(|_| wrong());
    Ok((number(uid)?, number(gid)?))
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.len() - digits.len();
    let grouped = dashes == 0
        || dashes == 4
            && [8, 13, 18, 23]
                .iter()
                .all(|&i| text.as_bytes().get(i) == Some(&b'-'));
    if !grouped || digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err("a UUID has 32 hexadecimal digits, or these in groups of 8-4-4-4-12".into());
    }
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|error| error.to_string())
}

fn journal(text: &str) -> Result<JournalArg, String> {
    let mut arg = JournalArg::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", value)) => arg.size = Some(size(value)?),
            None if matches!(word, "block64" | "noblock32") => arg.block64 = Some(true),
            None if matches!(word, "block32" | "noblock64") => arg.block64 = Some(false),
            _ => return Err(format!("\"{word}\" is none of size=SIZE, block32, block64")),
        }
    }
    Ok(arg)
}

impl Args {
    /// What to make, by the arguments alone: the device adds its sector size, the environment the
    /// time.
    ///
    /// # Errors
    /// The arguments contradict each other.
    pub fn options(&self) -> Result<Options> {
        let change = Change::parse(self.fs_features.iter().map(String::as_str))?;
        let level = features::level(&self.fs_feature_level)?;
        let mut features = change.apply(level);
        if self.no_backup_super {
            features.compat -= cowfs_format::layout::Compat::BACKUP_SB;
        }
        let clustered = self.cluster_stack.is_some()
            || self.cluster_name.is_some()
            || self.global_heartbeat
            || change.local() == Some(false);
        let mount = match self.mount {
            Some(MountArg::Local) if change.local() == Some(false) => {
                bail!("feature nolocal contradicts -M local; leave one out")
            }
            Some(MountArg::Local) if clustered => bail!(
                "-M local contradicts --cluster-stack, --cluster-name and --global-heartbeat; \
                 leave one out"
            ),
            Some(MountArg::Local) => Mount::Local,
            Some(MountArg::Cluster) => Mount::Cluster,
            None if clustered => Mount::Cluster,
            None => Mount::Local,
        };
        let small = |name: &str, value: Option<u64>| {
            value
                .map(|v| u32::try_from(v).with_context(|| format!("{name} {v} cannot be")))
                .transpose()
        };
        let journal = self.journal_options.unwrap_or_default();
        Ok(Options {
            block_size: small("block size", self.block_size)?,
            cluster_size: small("cluster size", self.cluster_size)?,
            label: self.label.clone(),
            uuid: self.uuid,
            mount,
            slots: self.node_slots,
            journal_size: journal.size,
            journal64: journal.block64,
            usage: match self.usage {
                None => Usage::General,
                Some(UsageArg::Mail) => Usage::Mail,
                Some(UsageArg::Datafiles) => Usage::Datafiles,
                Some(UsageArg::Vmstore) => Usage::Vmstore,
            },
            features,
            cluster: self.cluster()?,
            blocks: self.blocks,
            discard: !self.nodiscard,
            ..Options::default()
        })
    }

    /// How the volume is to be filled.
    pub(crate) fn rules(&self, fixed: bool) -> Rules {
        Rules {
            owners: Owners {
                all_root: self.all_root,
                root: self.root_owner,
                users: self.uid_map.clone(),
                groups: self.gid_map.clone(),
            },
            exclude: self.exclude.clone(),
            dedupe: self.dedupe,
            now: Timestamp::now(),
            clamp: fixed,
            fit: (self.size == Some(WantedSize::Auto)).then(|| self.free.unwrap_or(0)),
            digest: fixed && self.uuid.is_none(),
            threads: self.threads.map_or(0, usize::from),
        }
    }

    fn cluster(&self) -> Result<Option<ClusterStack>> {
        let (Some(stack), Some(name)) = (&self.cluster_stack, &self.cluster_name) else {
            if self.cluster_stack.is_none() && self.cluster_name.is_none() && !self.global_heartbeat
            {
                return Ok(None);
            }
            bail!("a cluster needs both --cluster-stack and --cluster-name");
        };
        let Ok(stack) = <[u8; 4]>::try_from(stack.as_bytes()) else {
            bail!("cluster stack \"{stack}\" is not known; give o2cb, pcmk or cman");
        };
        Ok(Some(ClusterStack {
            stack,
            name: name.clone(),
            global_heartbeat: self.global_heartbeat,
        }))
    }
}

/// The command, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the program and tells its exit status.
pub fn run<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let text = error.render();
            return if error.use_stderr() {
                let _ = write!(err, "{text}");
                1
            } else {
                let _ = write!(out, "{text}");
                0
            };
        }
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    match make::make(&args, epoch.as_deref(), err) {
        Ok(report) => {
            // Nobody listening is no failure: the volume is made.
            let _ = if args.json {
                serde_json::to_string_pretty(&report)
                    .map_err(std::io::Error::from)
                    .and_then(|text| writeln!(out, "{text}"))
            } else if args.quiet {
                Ok(())
            } else {
                write!(out, "{}", report.text(args.verbose))
            };
            0
        }
        Err(error) => {
            if args.json {
                let report = serde_json::json!({ "schema": 1, "error": format!("{error:#}") });
                let _ = writeln!(out, "{report:#}");
            }
            let _ = writeln!(err, "mkfs.cowfs: {error:#}");
            1
        }
    }
}
