//! Test rig shared by the integration tests.
//!
//! Everything that cowfs claims about volumes is checked against programs that its authors did not write: the Linux
//! driver, booted in a small virtual machine ([`guest`], [`kernel`]), and ocfs2-tools ([`oracle`]). Where such an
//! oracle cannot be had, the test that needs it is skipped by name and counted ([`skip`]).
//!
//! A test that asks the driver reads like this:
//!
//! ```no_run
//! use cowfs_tests::{Guest, Kernel, need};
//!
//! fn linux_mounts_it(image: &std::path::Path) {
//!     let guest = need!(Guest::new(Kernel::V6_1));
//!     let said = guest.disk(image).run("mount_vol; ls $MNT; umount_vol").expect("boot the guest");
//!     said.expect_success();
//! }
//! ```

pub mod cluster;
pub mod cpio;
pub mod extents;
pub mod fuzz;
pub mod golden;
pub mod grid;
pub mod guest;
pub mod kernel;
pub mod manifest;
pub mod model;
pub mod oracle;
pub mod place;
pub mod said;
pub mod script;
pub mod session;
pub mod skip;
pub mod sum;
pub mod walk;

pub use cluster::Cluster;
pub use guest::{Ending, Guest, Transcript};
pub use kernel::Kernel;
pub use skip::Missing;
pub use walk::Entry;
