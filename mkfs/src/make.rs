//! From the arguments to the volume: the safety checks, and what is done in which order.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowfs_format::device::{Device, DeviceMut, FileDevice};
use cowfs_format::error::Error;
use cowfs_format::ops::seal::{self, SealOptions, Sealed};
use cowfs_format::toolkit::alone::alone;
use cowfs_format::toolkit::progress::{Progress, Sink};
use cowfs_format::toolkit::size::show_size;
use cowfs_format::toolkit::{open, undo};
use cowfs_format::volume::Volume;
use cowfs_format::volume::scan::Scanner;

use crate::cli::{Args, WantedSize};
use crate::fit;
use crate::options::{Entropy, Options, derived_uuid};
use crate::plan::Plan;
use crate::populate::{Origin, Rules, Source, Tally};
use crate::probe::probe;
use crate::report::Report;

/// Makes or plans the volume.
pub(crate) fn make(args: &Args, epoch: Option<&str>, err: &mut dyn Write) -> Result<Report> {
    let name = args.device.display().to_string();
    let mut options = args.options()?;
    if let Some(epoch) = epoch {
        let time = epoch.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH is \"{epoch}\": it must be a number of seconds")
        })?;
        options.time = Some(time);
    }
    let rules = args.rules(epoch.is_some());
    let size = match (args.size, &args.populate) {
        (Some(WantedSize::Auto), Some(source)) => {
            return make_fitting(args, &rules, options, source, err);
        }
        (Some(WantedSize::Auto), None) => {
            bail!("--size auto needs something that the volume is to hold: give -d")
        }
        (_, _) if args.free.is_some() => {
            bail!("--free is for volumes of --size auto; leave it out, or make the size larger")
        }
        (Some(WantedSize::Bytes(size)), _) => Some(size),
        (None, _) => None,
    };
    if args.dry_run {
        let existing = match size {
            Some(_) if !args.device.exists() => None,
            _ => Some(open::read_only(&args.device)?),
        };
        if let Some(device) = &existing {
            options.sector_size = open::sector_size(&args.device)?;
            if let Some(refusal) = refusal(&name, device) {
                let _ = writeln!(err, "mkfs.cowfs: {refusal}");
            }
        }
        let bytes = match (size, &existing) {
            (Some(size), _) => size,
            (None, Some(device)) => device.size(),
            (None, None) => 0,
        };
        let plan = plan(&mut options, bytes, &name)?;
        return Ok(Report::new(&plan, &name, false));
    }
    let source = args.populate.as_deref().map(Source::open).transpose()?;
    // With a size given the plan comes first: what cannot be made is not created.
    let (device, mut plan) = match size {
        Some(size) => {
            let plan = plan(&mut options, size, &name)?;
            (open::create_or_grow(&args.device, size)?, plan)
        }
        None => {
            let device = writable(&args.device)?;
            options.sector_size = open::sector_size(&args.device)?;
            let plan = plan(&mut options, device.size(), &name)?;
            (device, plan)
        }
    };
    claim(args, &device, &name, err)?;
    let device: Box<dyn DeviceMut> = match &args.undo {
        None => Box::new(device),
        Some(path) => Box::new(undo::recording(device, path)?),
    };
    let mut report = match source {
        None => {
            crate::execute(&device, &plan).with_context(|| name.clone())?;
            Report::new(&plan, &name, true)
        }
        Some(source) => {
            fill(args, &device, &mut plan, source, &rules).with_context(|| name.clone())?
        }
    };
    report.seal = seal(args, &device, &rules)
        .with_context(|| format!("{name}: the volume is made, but not sealed"))?;
    Ok(report)
}

/// How a volume is to be sealed.
fn seal_options(args: &Args, rules: &Rules) -> Option<SealOptions> {
    args.seal.map(|percent| SealOptions {
        percent,
        data: args.seal_data,
        now: rules.now,
    })
}

/// The bytes that a seal of a volume takes.
fn seal_room(args: &Args, device: &dyn DeviceMut, rules: &Rules) -> Result<u64> {
    let Some(options) = seal_options(args, rules) else {
        return Ok(0);
    };
    let volume = Volume::open(device)?;
    let scanner = Scanner::new(args.threads.map(usize::from))?;
    let bytes = seal::Beside::new(&volume, &scanner, &options)?.bytes();
    // Inside of the volume it protects its own inode, too, and takes whole clusters.
    let geo = volume.info().geo;
    let clusters = geo.clusters_for(bytes + bytes / 64) + 16;
    Ok(clusters << geo.cluster_bits())
}

/// Seals a volume that is made, if that is asked for.
fn seal(args: &Args, device: &dyn DeviceMut, rules: &Rules) -> Result<Option<Sealed>> {
    let Some(options) = seal_options(args, rules) else {
        return Ok(None);
    };
    let mut volume = Volume::open(device)?;
    let scanner = Scanner::new(args.threads.map(usize::from))?;
    let sealed = seal::seal(&mut volume, &scanner, &(), &options)?;
    device.flush()?;
    Ok(Some(sealed))
}

/// Fills a device, and tells what was made.
fn fill(
    args: &Args,
    device: &dyn DeviceMut,
    plan: &mut Plan,
    source: Source,
    rules: &Rules,
) -> Result<Report> {
    let progress = Progress::start(Sink::for_terminal(args.quiet || args.json));
    progress.pass(1, 0);
    let step = |bytes| progress.step(bytes);
    let filled = crate::execute_filled(device, plan, source, rules, &step)?;
    drop(progress);
    let mut report = Report::new(plan, &args.device.display().to_string(), true);
    report.filled = Some(filled);
    Ok(report)
}

/// Makes the smallest volume that holds a source.
fn make_fitting(
    args: &Args,
    rules: &Rules,
    options: Options,
    source: &Path,
    err: &mut dyn Write,
) -> Result<Report> {
    let path = &args.device;
    let name = path.display().to_string();
    if path.exists() && !path.is_file() {
        bail!("{name}: --size auto makes an image file, and this is none; give the size");
    }
    let place = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let origin = Origin::keep(source, place.unwrap_or(Path::new(".")))?;
    let tally = Tally::of(origin.open()?, rules)?;
    let mut rules = rules.clone();
    let free = rules.fit.unwrap_or(0);
    let (mut options, mut bytes) =
        fit::settle(&options, &tally, free).with_context(|| name.clone())?;
    if args.dry_run {
        let estimate = fit::estimate(bytes);
        let plan = plan(&mut options, estimate, &name)?;
        return Ok(Report::new(&plan, &name, false));
    }
    let file = open_image(path)?;
    claim(args, &file, &name, err)?;
    let uuid = options.uuid;
    loop {
        options.uuid = uuid;
        let mut plan = plan(&mut options, bytes, &name)?;
        let device = file.resized(bytes.max(file.size())).with_context(|| {
            format!("{name}: cannot have {} while it is made", show_size(bytes))
        })?;
        match fill(args, &device, &mut plan, origin.open()?, &rules) {
            Ok(mut report) => {
                let device = file
                    .resized(plan.geo.bytes())
                    .with_context(|| name.clone())?;
                // How much room a seal takes is known when everything is in its place.
                if args.seal.is_some() && rules.fit == Some(free) {
                    let room = seal_room(args, &device, &rules).with_context(|| name.clone())?;
                    rules.fit = Some(free.saturating_add(room));
                    bytes = bytes.saturating_add(room);
                    continue;
                }
                report.seal = seal(args, &device, &rules)
                    .with_context(|| format!("{name}: the volume is made, but not sealed"))?;
                return Ok(report);
            }
            // The tally was wrong, or the source has grown.
            Err(error) if is_full(&error) && bytes < 1 << 50 => bytes *= 2,
            Err(error) => return Err(error.context(name)),
        }
    }
}

/// Opens an image file whose size does not matter, or makes one.
fn open_image(path: &Path) -> Result<FileDevice> {
    if path.exists() {
        return Ok(open::writable(path)?);
    }
    Ok(open::create_or_grow(path, 0)?)
}

fn is_full(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::NoSpace { .. }))
}

/// Makes sure that a device may be formatted.
fn claim(args: &Args, device: &FileDevice, name: &str, err: &mut dyn Write) -> Result<()> {
    if let Some(refusal) = refusal(name, device)
        && !args.force
    {
        bail!("{refusal}");
    }
    // What is no volume any more can be nobody's.
    if let Ok(mut volume) = Volume::open(device) {
        alone(&mut volume, "mkfs.cowfs", err).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn writable(path: &Path) -> Result<FileDevice> {
    if !path.exists() {
        bail!(
            "{}: does not exist; give --size to create an image file",
            path.display()
        );
    }
    Ok(open::writable(path)?)
}

/// Plans, reproducibly when the time is given.
fn plan(options: &mut Options, bytes: u64, name: &str) -> Result<Plan> {
    if let Some(time) = options.time {
        let uuid = match options.uuid {
            Some(uuid) => uuid,
            None => {
                // A trial run settles the sizes that the UUID follows from.
                let trial = Plan::new(options, bytes).with_context(|| name.to_owned())?;
                derived_uuid(&description(&trial))
            }
        };
        options.uuid = Some(uuid);
        options.entropy = Some(Entropy::derived(uuid, time));
    }
    Plan::new(options, bytes).with_context(|| name.to_owned())
}

/// What a derived UUID follows from.
fn description(plan: &Plan) -> String {
    format!(
        "label={} size={} block={} cluster={} slots={} journal={},{} features={:x},{:x},{:x} \
         stack={:?} time={}",
        plan.label,
        plan.geo.bytes(),
        plan.geo.block_bytes(),
        plan.geo.cluster_bytes(),
        plan.slots,
        plan.journal_bytes,
        plan.journal64,
        plan.features.compat.bits(),
        plan.features.incompat.bits(),
        plan.features.ro_compat.bits(),
        plan.cluster.as_ref().map(|c| (&c.stack, &c.name)),
        plan.time,
    )
}

/// Why a device should not be formatted: what it holds.
fn refusal(name: &str, device: &dyn Device) -> Option<String> {
    let found: Vec<_> = probe(device).iter().map(ToString::to_string).collect();
    (!found.is_empty()).then(|| {
        format!(
            "{name}: holds {}; give -F to overwrite it",
            found.join(", ")
        )
    })
}
