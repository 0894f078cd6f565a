//! Formats a volume.
//!
//! [`format`] makes a volume on any device that can be written, be it a file, a block device or
//! memory; the program is a thin layer of arguments and checks over it.
//!
//! ```
//! use cowfs_format::device::{Device, MemDevice};
//! use mkfs_cowfs::{Options, format};
//!
//! let device = MemDevice::new(vec![0; 16 << 20]);
//! let options = Options { label: "scratch".into(), ..Options::default() };
//! let plan = format(&device, &options)?;
//! assert_eq!(plan.geo.bytes(), device.size());
//! # Ok::<(), cowfs_format::error::Error>(())
//! ```

mod blocks;
pub mod cli;
mod contents;
mod demands;
mod differences;
mod dirs;
pub mod features;
mod files;
mod fit;
mod make;
mod options;
pub mod plan;
pub mod populate;
pub mod probe;
pub mod report;
mod sizes;
mod space;
mod write;

use cowfs_format::device::DeviceMut;
use cowfs_format::error::Result;

pub use cli::{command, run};
pub use differences::DIFFERENCES;
pub use options::{
    ClusterStack, Entropy, Mount, Options, Usage, derived_uuid, show_uuid, uuid_of_contents,
};
pub use plan::Plan;
pub use populate::{Filled, Rules, Source};

/// Makes a volume on a device. Whatever the device held is lost.
///
/// # Errors
/// The options cannot be met on such a device (then nothing was written), or the device fails.
pub fn format(device: &dyn DeviceMut, options: &Options) -> Result<Plan> {
    let plan = Plan::new(options, device.size())?;
    execute(device, &plan)?;
    Ok(plan)
}

/// Writes a plan to a device of the size that it was made for.
///
/// # Errors
/// The device fails.
pub fn execute(device: &dyn DeviceMut, plan: &Plan) -> Result<()> {
    write::body(device, plan)?;
    write::superblock(device, plan)
}

/// Writes a plan to a device of the size that it was made for, and fills the volume. Where the rules
/// say so, the volume is then cut behind what it holds, and gets a UUID that depends on its
/// contents; the plan says so afterwards.
///
/// # Errors
/// The device fails, the source cannot be read or holds what cannot be, or the volume is too small
/// for it. Then there is no volume.
pub fn execute_filled(
    device: &dyn DeviceMut,
    plan: &mut Plan,
    source: Source,
    rules: &Rules,
    progress: &dyn Fn(u64),
) -> anyhow::Result<Filled> {
    write::body(device, plan)?;
    let filled = populate::fill(device, plan, source, rules, progress)?;
    if let Some(free) = rules.fit {
        fit::cut(device, plan, free)?;
    }
    if let Some(digest) = &filled.digest {
        plan.uuid = options::uuid_of_contents(plan.uuid, digest);
    }
    if rules.fit.is_some() || filled.digest.is_some() {
        write::identity(device, plan)?;
    }
    write::superblock(device, plan)?;
    Ok(filled)
}
