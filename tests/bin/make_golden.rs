//! Makes the golden images anew:  make-golden [NAME]...
//!
//! Each image is formatted by mkfs.ocfs2, filled by the driver of Linux 6.1 with the functions of `golden.sh`, and
//! written with what the oracles say of it to `testdata/images`; `testdata/README.md` is written from the same table.
//! Volume ids, hash seeds and times come out differently each time, and with them the bytes; the shape does not.

use anyhow::{Context, Result, ensure};
use cowfs_tests::golden::{self, Golden};
use cowfs_tests::{Cluster, Ending, Guest, Kernel, Transcript, extents, oracle, place, walk};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How an image is made.
struct Recipe {
    name: &'static str,
    what: &'static str,
    mib: u64,
    block: u32,
    cluster: u32,
    options: &'static str,
    /// Functions of `golden.sh` for 6.1, and what 6.12 does after it.
    fill: &'static str,
    fill_later: &'static str,
    end: End,
    /// Codes that fsck.ocfs2 gives, sorted, all of them known to be its own mistakes or the point of the image.
    codes: &'static [&'static str],
}

#[derive(PartialEq)]
enum End {
    /// Never mounted: only a cluster could.
    Untouched,
    Unmounted,
    /// The machine stops with the volume mounted.
    Crashed,
    /// As before, and fsck.ocfs2 has then replayed the journal.
    CrashedReplayed,
    /// Two nodes of a cluster fill it, each in a directory of its own, and both stop with the volume mounted.
    ClusterCrashed,
}

const SEVERAL: &str =
    "many 400; inline; holes; unwritten; attributes 60; acls; reflinks; links; devices; owners";

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "b512-c4k-compat",
        what: "the oldest format: no holes, no inline data, linear directories, no checks; two slots",
        mib: 24,
        block: 512,
        cluster: 4096,
        options: "-N 2 -J size=4M --fs-feature-level=max-compat",
        fill: "many 300; links; devices; owners; words plain 100000 >plain",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "b512-c4k-max",
        what: "every container at its smallest: extent trees of depth 2, index trees, refcount trees with leaves",
        mib: 32,
        block: 512,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "many 500; inline; attributes 60; fragmented 600; shared 120; links",
        fill_later: "",
        end: End::Unmounted,
        codes: SYSTEM_DIRECTORY,
    },
    Recipe {
        name: "b1k-c4k-default",
        what: "an indexed directory of many names with deletions, inline files, holes, unwritten extents; three slots",
        mib: 32,
        block: 1024,
        cluster: 4096,
        options: "-N 3 -J size=4M",
        fill: "many 1500; inline; holes; unwritten; links; fragmented 200",
        fill_later: "",
        end: End::Unmounted,
        codes: SYSTEM_DIRECTORY,
    },
    Recipe {
        name: "b1k-c4k-kept",
        what: "preallocation beyond a file's end, to which fsck.ocfs2 wrongly objects",
        mib: 16,
        block: 1024,
        cluster: 4096,
        options: "-N 1 -J size=4M",
        fill: "kept",
        fill_later: "",
        end: End::Unmounted,
        codes: &["INODE_SPARSE_SIZE"],
    },
    Recipe {
        name: "b2k-c8k-max",
        what: "extended attributes in all three places, ACLs, quota of several owners, reflinks with attributes; block64 journal",
        mib: 64,
        block: 2048,
        cluster: 8192,
        options: "-N 2 -J size=4M,block64 --fs-feature-level=max-features",
        fill: "inline; attributes 400; acls; owners; reflinks; attribute_clones; devices",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "b4k-c4k-max",
        what: "everything at the usual block size: fragmented files, a refcount tree with leaves, quota",
        mib: 64,
        block: 4096,
        cluster: 4096,
        options: "-N 2 -J size=4M -L everything --fs-feature-level=max-features",
        fill: "SEVERAL; fragmented 600; shared 300; attribute_clones",
        fill_later: "",
        end: End::Unmounted,
        codes: QUOTA_FILES,
    },
    Recipe {
        name: "b4k-c32k-default",
        what: "eight blocks in a cluster",
        mib: 96,
        block: 4096,
        cluster: 32768,
        options: "-N 2 -J size=4M",
        fill: "SEVERAL; fragmented 40",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "b4k-c1m-max",
        what: "the largest cluster",
        mib: 192,
        block: 4096,
        cluster: 1 << 20,
        options: "-N 1 -J size=16M --fs-feature-level=max-features",
        fill: "many 200; inline; acls; links; words file 3000000 >file; cp --reflink=always file clone; echo end >>clone",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "pristine-max",
        what: "as mkfs.ocfs2 leaves it, never mounted for writing",
        mib: 32,
        block: 4096,
        cluster: 4096,
        options: "-N 4 -J size=4M --fs-feature-level=max-features",
        fill: "",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "o2cb-classic",
        what: "for a cluster of the classic o2cb kind (no stack named on the volume), fresh; the driver mounts it in a cluster only",
        mib: 32,
        block: 4096,
        cluster: 4096,
        options: "-M cluster -N 2 -J size=4M",
        fill: "",
        fill_later: "",
        end: End::Untouched,
        codes: &[],
    },
    Recipe {
        name: "o2cb-named",
        what: "for a cluster whose stack and name are on the volume, fresh",
        mib: 32,
        block: 1024,
        cluster: 4096,
        options: "-M cluster --cluster-stack=o2cb --cluster-name=golden -N 2 -J size=4M --fs-feature-level=max-features",
        fill: "",
        fill_later: "",
        end: End::Untouched,
        codes: SYSTEM_DIRECTORY,
    },
    Recipe {
        name: "mixed-hashes",
        what: "an indexed directory in which 6.1 entered names with bytes of 0x80 and above under one hash, then 6.12 under another",
        mib: 16,
        block: 1024,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "foreign_names 0 40",
        fill_later: "foreign_names 40 80",
        end: End::Unmounted,
        codes: &["DX_LOOKUP_FAILED"],
    },
    Recipe {
        name: "discontiguous",
        what: "a group of inodes in pieces, since no whole one was free",
        mib: 32,
        block: 4096,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "crumble; many_files 1100",
        fill_later: "",
        end: End::Unmounted,
        codes: &[],
    },
    Recipe {
        name: "dirty-journal",
        what: "left by a crash: transactions committed to the journal and not yet in their places",
        mib: 16,
        block: 1024,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "acls; sync; many 200; reflinks; links; xfs_io -c fsync links/a",
        fill_later: "",
        end: End::Crashed,
        codes: &[],
    },
    Recipe {
        name: "orphans",
        what: "left by a crash with removed files open, journal then replayed by fsck.ocfs2: orphans still to be removed",
        mib: 32,
        block: 1024,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "orphans; xfs_io -c fsync orphans/clone",
        fill_later: "",
        end: End::CrashedReplayed,
        codes: &[],
    },
    Recipe {
        name: "quota-limits",
        what: "limits of users and groups, some exceeded, for forty ids; beside it what the driver reports (`NAME.quota.txt`)",
        mib: 24,
        block: 1024,
        cluster: 4096,
        options: "-N 2 -J size=4M --fs-feature-level=max-features",
        fill: "limits",
        fill_later: "",
        end: End::Unmounted,
        codes: &["DX_TREE_MISSING", "INODE_SPARSE_SIZE"],
    },
    Recipe {
        name: "truncate-log",
        what: "left by a crash just after a removal, journal then replayed by fsck.ocfs2: clusters still to be freed",
        mib: 24,
        block: 1024,
        cluster: 4096,
        options: "-N 1 -J size=4M --fs-feature-level=max-features",
        fill: "truncated",
        fill_later: "",
        end: End::CrashedReplayed,
        codes: &[],
    },
    Recipe {
        name: "two-dirty-slots",
        what: "left by two nodes of a cluster that died with the volume mounted: two slots held, two dirty journals, heartbeats",
        mib: 48,
        block: 1024,
        cluster: 4096,
        options: "-M cluster --cluster-stack=o2cb --cluster-name=golden -N 3 -J size=4M --fs-feature-level=max-features",
        fill: "acls; many 60; reflinks; links; orphans; xfs_io -c fsync links/a",
        fill_later: "",
        end: End::ClusterCrashed,
        codes: SYSTEM_DIRECTORY,
    },
];

/// On a system directory too large for its inode fsck.ocfs2 misses an index that mkfs.ocfs2 does not make.
const SYSTEM_DIRECTORY: &[&str] = &["DX_TREE_MISSING"];

/// Quota files that the driver has grown have blocks beyond their end, to which fsck.ocfs2 objects.
const QUOTA_FILES: &[&str] = &["INODE_SPARSE_SIZE"];

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = chosen
        .iter()
        .find(|name| RECIPES.iter().all(|recipe| recipe.name != *name))
    {
        eprintln!("make-golden: no recipe {unknown}");
        return ExitCode::from(2);
    }
    let wanted = RECIPES
        .iter()
        .filter(|recipe| chosen.is_empty() || chosen.iter().any(|name| name == recipe.name));
    for recipe in wanted {
        if let Err(e) = make(recipe) {
            eprintln!("make-golden: {}: {e:#}", recipe.name);
            return ExitCode::FAILURE;
        }
    }
    match describe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("make-golden: cannot write the description: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(recipe: &Recipe) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("volume.img");
    oracle::mkfs(
        &image,
        recipe.mib << 20,
        &recipe.mkfs().split(' ').collect::<Vec<_>>(),
    )?;
    let record = Golden {
        name: recipe.name.to_owned(),
    };
    if recipe.end == End::ClusterCrashed {
        fill_as_cluster(recipe, &image)?;
    } else if !recipe.fill.is_empty() {
        let said = fill(recipe, Kernel::V6_1, recipe.fill, &image)?;
        if said.out("quota").is_file() {
            std::fs::copy(said.out("quota"), record.record("quota"))?;
        }
    }
    if !recipe.fill_later.is_empty() {
        fill(recipe, Kernel::V6_12, recipe.fill_later, &image)?;
    }
    if recipe.end == End::CrashedReplayed {
        let said = oracle::repair(&image)?.transcript;
        ensure!(
            said.contains("journal replayed successfully"),
            "fsck.ocfs2 replayed nothing:\n{said}"
        );
    }

    std::fs::create_dir_all(golden::directory())?;
    let packed = golden::pack(&image)?;
    std::fs::write(
        golden::directory().join(format!("{}.img.zst", recipe.name)),
        &packed,
    )?;
    let report = oracle::check(&image)?;
    std::fs::write(record.record("fsck"), &report.transcript)?;
    let codes: BTreeSet<&str> = report.codes.iter().map(String::as_str).collect();
    ensure!(
        codes.iter().eq(recipe.codes),
        "fsck.ocfs2 says\n{}",
        report.transcript
    );
    std::fs::write(record.record("stats"), oracle::debugfs(&image, "stats")?)?;
    if !recipe.end.needs_cluster() {
        let seen = golden::ask(&[(&record, &image)])?.pop().unwrap_or_default();
        std::fs::write(record.record("walk"), walk::to_text(&seen.walk))?;
        std::fs::write(record.record("extents"), extents::to_text(&seen.extents))?;
    }
    println!("{}: {} bytes packed", recipe.name, packed.len());
    Ok(())
}

/// Mounts the image and runs functions of `golden.sh` on it.
fn fill(recipe: &Recipe, kernel: Kernel, what: &str, image: &Path) -> Result<Transcript> {
    let functions = include_str!("golden.sh");
    let what = what.replace("SEVERAL", SEVERAL);
    let end = match recipe.end {
        End::Crashed | End::CrashedReplayed | End::ClusterCrashed => "crash",
        End::Untouched | End::Unmounted => "umount_vol",
    };
    let (block, cluster) = (recipe.block, recipe.cluster);
    let script = format!("BS={block}\nCS={cluster}\nmount_vol\n{functions}\n{what}\n{end}\n");
    let guest = Guest::new(kernel)?
        .disk(image)
        .timeout(Duration::from_secs(900));
    let said = guest.run(&script)?;
    let wanted = if end == "crash" {
        (Ending::Crashed, None)
    } else {
        (Ending::PoweredOff, Some(0))
    };
    ensure!(
        (said.ending, said.status) == wanted && said.kernel_log.is_empty(),
        "filling failed:\n{said}"
    );
    Ok(said)
}

/// Mounts the image on two nodes, runs functions of `golden.sh` on both at the same time, and cuts their power.
fn fill_as_cluster(recipe: &Recipe, image: &Path) -> Result<()> {
    let functions = include_str!("golden.sh").replace("cd \"$MNT\"\n", "");
    let (block, cluster, what) = (recipe.block, recipe.cluster, recipe.fill);
    let mut nodes = Cluster::boot(Kernel::V6_1, image)?;
    nodes.run(0, "mount_vol; mkdir $MNT/node0 $MNT/node1")?;
    nodes.run(1, "mount_vol")?;
    nodes.run_both(&format!(
        "BS={block}\nCS={cluster}\n{functions}\ncd $MNT/node$NODE\n{what}\n"
    ))?;
    nodes.kill(0);
    nodes.kill(1);
    Ok(())
}

impl End {
    /// Whether only a cluster can mount it.
    fn needs_cluster(&self) -> bool {
        matches!(self, Self::Untouched | Self::ClusterCrashed)
    }
}

impl Recipe {
    fn mkfs(&self) -> String {
        let local = if self.end.needs_cluster() {
            ""
        } else {
            " -M local"
        };
        format!(
            "-b {} -C {}{local} {}",
            self.block, self.cluster, self.options
        )
    }
}

const HEAD: &str = "# Golden images

Small whole volumes that neither our mkfs nor our writer has touched: made by `mkfs.ocfs2` 1.8.7 and filled by the driver
of Linux 6.1 (Debian's), packed with zstd. Beside each image lies what the oracles said of it:

- `NAME.fsck.txt`: all that `fsck.ocfs2 -fn` printed. Codes in it are its own known mistakes, or the point of the image.
- `NAME.stats.txt`: `debugfs.ocfs2 -R stats`.
- `NAME.walk.txt`: every path as the driver of 6.1 shows it (in `mixed-hashes` what 6.1 and 6.12 show together, since
  neither finds all), after its own recovery where a crash left the image. One line for each: path, type, mode, uid, gid, links, size, sectors of 512 bytes, inode, mtime, payload, extended attributes,
  separated by tabs; `tests/support/walk.rs` explains the fields.
- `NAME.extents.txt`: where the driver says that files lie; `tests/support/extents.rs` explains it.

This page and all of `images/` are written by `cargo run -p cowfs-tests --bin make-golden [NAME]...`; the recipes are in
`tests/bin/make_golden.rs`, the functions that fill the volumes in `tests/bin/golden.sh`. `tests/golden.rs` checks that the
oracles still say the same.

| image | what | made by | filled by |
|---|---|---|---|
";

fn describe() -> Result<()> {
    let mut page = HEAD.to_owned();
    for recipe in RECIPES {
        let later = if recipe.fill_later.is_empty() {
            String::new()
        } else {
            format!("; 6.12: {}", recipe.fill_later)
        };
        let fill = recipe.fill.replace("SEVERAL", SEVERAL);
        let end = match recipe.end {
            End::Untouched | End::Unmounted => "",
            End::Crashed => "; crash",
            End::CrashedReplayed => "; crash; `fsck.ocfs2 -fy` once",
            End::ClusterCrashed => " on two nodes; power cut",
        };
        let fill = if fill.is_empty() {
            "-".to_owned()
        } else {
            format!("`{fill}{later}`{end}")
        };
        let Recipe {
            name, what, mib, ..
        } = recipe;
        writeln!(
            page,
            "| {name} | {what} | {mib} MiB, `{}` | {fill} |",
            recipe.mkfs()
        )?;
    }
    let file = place::source_root().join("testdata").join("README.md");
    std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}
