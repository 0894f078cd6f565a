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

    /// Understands `2026-11-22`, `2026-11-22 21:52` and `2026-11-22 21:52:39`, also with a T between
    /// date and clock and a Z behind it: from 1970 on.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('Z').unwrap_or(text);
        let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
        let numbers = |text: &str, sign| -> Option<Vec<u64>> {
            let number = |part: &str| {
                let digits = part.len() >= 2 && part.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| part.parse().ok())?
            };
            text.split(sign).map(number).collect()
        };
        let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
        let clock = numbers(clock, ':')?;
        let (hour, minute, second) = match clock[..] {
            [hour, minute] => (hour, minute, 0),
            [hour, minute, second] => (hour, minute, second),
            _ => return None,
        };
        if !(1970..10_000).contains(&year) || month > 12 || day > 31 {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // As in `date`: years from March on.
        let years = if month <= 2 { year - 1 } else { year };
        let march_month = (month + 9) % 12;
        let days =
            years * 365 + years / 4 - years / 100 + years / 400 + (153 * march_month + 2) / 5 + day;
        let seconds = days.checked_sub(719_469)? * 86_400 + hour * 3_600 + minute * 60 + second;
        // A day that is not in the calendar would be shown as another one.
        let found = Self(seconds);
        (found.date() == Some((year, month, day))).then_some(found)
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
            let parsed = Utc::parse(text).map(|time| time.0);
            assert_eq!(parsed, (seconds < u64::MAX).then_some(seconds), "{text}");
        }
        let noon = Utc::parse("2000-02-29T12:00Z").unwrap();
        assert_eq!(noon.0, 951_782_400 + 43_200);
        for wrong in [
            "",
            "2026",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "1969-12-31",
            "2026-01-01 24:00",
            "2026-01-01 1",
            "2026-01-01T00:00:00:00",
            "2026-1-1",
            "99999-01-01",
        ] {
            assert_eq!(Utc::parse(wrong), None, "{wrong}");
        }
    }
}
