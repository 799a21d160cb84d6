//! Dates and times of the calendar (UTC), for people.

use std::{fmt, str::FromStr, time::Duration};

const SECONDS_PER_DAY: u64 = 86_400;

/// A day of the Gregorian calendar, UTC. `Display` and `FromStr`: `2026-11-22` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl Date {
    /// The day of a time since 1970-01-01.
    pub fn of(unix: Duration) -> Self {
        // Days from 0000-03-01 on, so that the leap day ends a year: howardhinnant.github.io/date_algorithms.html.
        let days = unix.as_secs() / SECONDS_PER_DAY + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: (era * 400 + year_of_era + u64::from(month <= 2)) as u32,
            month: month as u32,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32,
        }
    }

    /// The first day of its month.
    #[must_use]
    pub const fn month_start(self) -> Self {
        Self { day: 1, ..self }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A text that is no [`Date`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a date like 2026-11-22")]
pub struct DateError;

impl FromStr for Date {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let mut numbers = text.splitn(3, '-').map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(DateError);
        let date = Self { year: next()?, month: next()?, day: next()? };
        let is_possible = (1..=12).contains(&date.month) && (1..=31).contains(&date.day);
        if is_possible { Ok(date) } else { Err(DateError) }
    }
}

/// A time since 1970-01-01 as `2026-11-22T21:22:33.123Z` (RFC 3339).
pub fn timestamp(unix: Duration) -> String {
    let (seconds, millis) = (unix.as_secs() % SECONDS_PER_DAY, unix.subsec_millis());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{}T{hours:02}:{minutes:02}:{:02}.{millis:03}Z", Date::of(unix), seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(day: u64) -> Date {
        Date::of(Duration::from_secs(day * SECONDS_PER_DAY + SECONDS_PER_DAY - 1))
    }

    #[test]
    fn known_days() {
        for (day, text) in [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_779, "2026-11-22")] {
            assert_eq!(date(day).to_string(), text);
            assert_eq!(text.parse(), Ok(date(day)));
        }
        assert_eq!(timestamp(Duration::from_millis(1_795_382_553_123)), "2026-11-22T21:22:33.123Z");
    }

    #[test]
    fn days_follow_each_other() {
        let is_leap = |year: u32| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut expected = date(0);
        for day in 0..200_000 {
            assert_eq!(date(day), expected);
            let last = match expected.month {
                2 if is_leap(expected.year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match expected {
                Date { year, month: 12, day: 31 } => Date { year: year + 1, month: 1, day: 1 },
                Date { year, month, day } if day == last => Date { year, month: month + 1, day: 1 },
                Date { day, .. } => Date { day: day + 1, ..expected },
            };
        }
    }

    #[test]
    fn nonsense() {
        for text in ["", "2026", "2026-11", "2026-13-01", "2026-01-32", "2026-00-01", "2026-1-1-1", "-1-1-1"] {
            assert_eq!(text.parse::<Date>(), Err(DateError), "{text}");
        }
    }
}
