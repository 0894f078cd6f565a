//! Exit statuses of checkers, as fsck(8) defines them.

/// Bits of the exit status of a checker; a run may set several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitBits(u8);

impl ExitBits {
    /// Nothing was wrong.
    pub const CLEAN: Self = Self(0);
    /// Problems were corrected.
    pub const CORRECTED: Self = Self(1);
    /// Problems are left.
    pub const UNCORRECTED: Self = Self(4);
    /// The check could not be done.
    pub const OPERATIONAL: Self = Self(8);
    /// The command line was wrong.
    pub const USAGE: Self = Self(16);
    /// The user stopped the run.
    pub const CANCELLED: Self = Self(32);

    /// These bits and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The status as a number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl From<ExitBits> for std::process::ExitCode {
    fn from(bits: ExitBits) -> Self {
        Self::from(bits.0)
    }
}
