//! Whole operations that more than one program uses, each made inside one transaction.

mod clone;
mod cow;
mod write;
mod xattr;

pub use clone::{CloneOptions, clone_file};
pub use cow::unshare;
pub use write::{Overwritten, import_file, overwrite};
