//! Sealing and verifying against par2, on the same bytes with the same redundancy, and against no more
//! than reading them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use cowfs_format::ecc::crc32c;

use crate::measure::{Contender, race, run, run_writing};
use crate::stage::{Stage, remove};
use crate::table::{Figure, Target};
use crate::tasks::{Outcome, if_here};

const MIB: u64 = 1 << 20;
/// Bytes of the file that the volume holds.
const HELD: u64 = 512 * MIB;
/// Room that the volume has left for a seal inside.
const ROOM: &str = "256M";
/// The sizes of the volumes in which the cost of a seal must grow no faster than they do.
const GROWING: [(&str, u64); 3] = [
    ("of 2 GiB", 2048 * MIB),
    ("of 1 GiB", 1024 * MIB),
    ("of 512 MiB", 512 * MIB),
];
/// The seal may take that much memory, whatever the volume.
const MEMORY: f64 = 256.0 * MIB as f64;

/// Reads a file once and computes its sum: what any check costs at the least.
pub(crate) fn floor(file: &Path) -> Result<()> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 18];
    let mut state = u32::MAX;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => state = crc32c(state, &buffer[..read]),
        }
    }
    writeln!(std::io::stdout(), "{state:08x}")?;
    Ok(())
}

/// Makes a seal, and verifies it.
pub(crate) fn seal(stage: &Stage, runs: usize) -> Result<Vec<Outcome>> {
    let (seal, par2) = (stage.path("seal-file"), stage.path("seal-par2"));
    let this = std::env::current_exe()?;
    let volume = holding(stage, "seal-volume", HELD)?;
    let mut missing = Vec::new();
    let peer = if_here(&mut missing, stage.peer("par2", "par2"))?.is_some();
    let clear = || -> Result<()> {
        for entry in std::fs::read_dir(stage.dir())? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("seal-par2") || name == "seal-file" {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    };
    let mut field: Vec<Contender<'_>> = vec![(
        "fsck.cowfs --seal",
        Box::new(|_| {
            clear()?;
            let mut fsck = stage.ours("fsck-cowfs");
            fsck.args(["--seal=5", "--data", "--seal-file"])
                .arg(&seal)
                .arg(&volume);
            run_writing(&mut fsck, &seal)
        }),
    )];
    if peer {
        field.push((
            "par2 create",
            Box::new(|_| {
                clear()?;
                let mut par2_create = stage.peer("par2", "par2")?;
                let args = ["create", "-q", "-q", "-r5", "-n1", "-b2000"];
                par2_create.args(args).arg(&par2).arg(&volume);
                run(&mut par2_create, &[0])
            }),
        ));
    }
    let samples = race(stage.dir(), runs, field)?;
    let mut made = Outcome::new("seal 512 MiB, 5 %", samples, missing.clone());
    made.row(Figure::Time, Some("par2 create"), Target::Better(40.0));
    made.row(Figure::Memory, None, Target::Absolute(MEMORY));

    // Both have their redundancy now.
    clear()?;
    let mut fsck = stage.ours("fsck-cowfs");
    fsck.args(["--seal=5", "--data", "--seal-file"])
        .arg(&seal)
        .arg(&volume);
    run(&mut fsck, &[0])?;
    let mut field: Vec<Contender<'_>> = vec![(
        "fsck.cowfs --verify",
        Box::new(|_| {
            let mut fsck = stage.ours("fsck-cowfs");
            run(
                fsck.args(["--verify", "--seal-file"])
                    .arg(&seal)
                    .arg(&volume),
                &[0],
            )
        }),
    )];
    field.push((
        "read and crc32c",
        Box::new(|_| {
            run(
                std::process::Command::new(&this).arg("sum").arg(&volume),
                &[0],
            )
        }),
    ));
    if peer {
        let mut create = stage.peer("par2", "par2")?;
        let args = ["create", "-q", "-q", "-r5", "-n1", "-b2000"];
        run(create.args(args).arg(&par2).arg(&volume), &[0])?;
        field.push((
            "par2 verify",
            Box::new(|_| {
                let mut verify = stage.peer("par2", "par2")?;
                run(
                    verify.args(["verify", "-q", "-q"]).arg(&par2).arg(&volume),
                    &[0],
                )
            }),
        ));
    }
    let samples = race(stage.dir(), runs, field)?;
    let mut verified = Outcome::new("verify 512 MiB", samples, missing);
    verified.row(Figure::Time, Some("read and crc32c"), Target::AtMost(1.5));
    verified.row(Figure::Time, Some("par2 verify"), Target::Told);
    verified.row(Figure::Memory, None, Target::Absolute(MEMORY));
    clear()?;
    remove(&volume)?;
    Ok(vec![made, verified, growing(stage, runs)?])
}

/// Seals kept inside volumes of several sizes.
fn growing(stage: &Stage, runs: usize) -> Result<Outcome> {
    let mut field: Vec<Contender<'_>> = Vec::new();
    let mut volumes = Vec::new();
    for (n, (name, bytes)) in GROWING.into_iter().enumerate() {
        let volume = holding(stage, &format!("seal-volume-{n}"), bytes)?;
        volumes.push(volume.clone());
        let contender = move |_| {
            let mut fsck = stage.ours("fsck-cowfs");
            let cost = run_writing(fsck.args(["--seal=5", "--data"]).arg(&volume), &volume)?;
            run(stage.ours("fsck-cowfs").arg("--unseal").arg(&volume), &[0])?;
            Ok(cost)
        };
        field.push((name, Box::new(contender)));
    }
    let samples = race(stage.dir(), runs, field)?;
    for volume in volumes {
        remove(&volume)?;
    }
    let mut done = Outcome::new("seal inside a volume", samples, Vec::new());
    let (_, largest) = GROWING[0];
    for (peer, bytes) in GROWING.into_iter().skip(1) {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let times = (largest / bytes) as f64;
        done.row(Figure::Processor, Some(peer), Target::AtMost(times * 1.25));
        done.row(Figure::Time, Some(peer), Target::AtMost(times * 1.25));
        done.row(Figure::Memory, Some(peer), Target::Told);
    }
    done.row(Figure::Memory, None, Target::Absolute(MEMORY));
    Ok(done)
}

/// A volume with a file of so many bytes, and room for a seal.
fn holding(stage: &Stage, name: &str, bytes: u64) -> Result<PathBuf> {
    let (tree, volume) = (stage.path("seal-tree"), stage.path(name));
    std::fs::create_dir_all(&tree)?;
    noise(&tree.join("held"), bytes)?;
    remove(&volume)?;
    let mut mkfs = stage.ours("mkfs-cowfs");
    mkfs.args(["-q", "--size", "auto", "--free", ROOM, "-d"]);
    run(mkfs.arg(&tree).arg(&volume), &[0])?;
    std::fs::remove_dir_all(tree)?;
    Ok(volume)
}

/// A file that nothing can make smaller.
fn noise(path: &Path, len: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = Vec::new();
    for _ in 0..len / MIB {
        block.clear();
        while (block.len() as u64) < MIB {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}
