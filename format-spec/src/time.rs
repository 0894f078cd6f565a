//! Times of the format as people read them, always in UTC.
//!
//! Output must not depend on the time zone of the machine that prints it.

use std::fmt;

/// Seconds since 1970, shown as `2026-11-22 21:52:39`. Years beyond 9999 are shown as the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utc(pub u64);

impl Utc {
    /// Last second of the year 9999.
    const LAST: u64 = 253_402_300_799;

    /// Year, month (1 to 12) and day of the month; `None` beyond the year 9999.
    #[must_use]
    pub const fn date(self) -> Option<(u64, u64, u64)> {
        if self.0 > Self::LAST {
            return None;
        }
        // Years are counted from March, so that the leap day is the last day of a year; an era is
        // 400 years, after which the calendar repeats. 719468 days lie between 0000-03-01 and 1970.
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
        Some((year, month, day))
    }

    /// Hour, minute and second of the day.
    #[must_use]
    pub const fn clock(self) -> (u64, u64, u64) {
        let second = self.0 % 86_400;
        (second / 3_600, second / 60 % 60, second % 60)
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((year, month, day)) = self.date() else {
            return write!(f, "{} seconds after 1970", self.0);
        };
        let (hour, minute, second) = self.clock();
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Utc;

    #[test]
    fn times_are_those_of_date_u() {
        // From `date -u -d @N '+%F %T'`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_790_000_000, "2026-09-21 14:13:20"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
            (u64::MAX, "18446744073709551615 seconds after 1970"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }
}
