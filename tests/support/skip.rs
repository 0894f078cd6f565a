//! Tests whose oracle cannot be had on this machine.
//!
//! A missing oracle is neither a failure nor a success. The test says what it lacks, leaves a record in the target
//! directory and returns; `tests/run` counts the records and prints them in its closing lines.

use crate::place;
use std::fs;
use std::path::PathBuf;

/// Something that a test needs and that this machine does not have.
#[derive(Debug)]
pub struct Missing {
    what: String,
    remedy: String,
}

impl Missing {
    /// States what is missing and what would bring it.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not to be had here ({})", self.what, self.remedy)
    }
}

impl std::error::Error for Missing {}

/// Where the records of skipped tests are kept, one file for each test.
pub fn record_dir() -> PathBuf {
    place::target_dir().join("skipped-tests")
}

/// Yields the value, or records that the test named `test` is skipped and yields nothing.
///
/// # Panics
///
/// When the error is anything but [`Missing`]: an oracle that is there and does not work is a failure.
pub fn value_or_record<T>(test: &str, tried: anyhow::Result<T>) -> Option<T> {
    let error = match tried {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let Some(missing) = error.downcast_ref::<Missing>() else {
        panic!("{test}: the oracle does not work: {error:#}");
    };
    eprintln!("SKIPPED {test}: {missing}");
    let dir = record_dir();
    let file = dir.join(test.replace([':', '/'], "_"));
    if let Err(e) =
        fs::create_dir_all(&dir).and_then(|()| fs::write(&file, format!("{test}: {missing}\n")))
    {
        panic!(
            "{test} is to be skipped ({missing}) but {} cannot be written: {e}",
            file.display()
        );
    }
    None
}

/// Unwraps an oracle, or records the surrounding test as skipped and returns from it.
#[macro_export]
macro_rules! need {
    ($oracle:expr) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
        match $crate::skip::value_or_record(test, $oracle) {
            Some(value) => value,
            None => return,
        }
    }};
}
