//! How much uplinks have carried in the present day or month: what their quotas are held against.
//!
//! The programs' counters go on while no daemon runs, and begin anew with every new map: at a boot, after some upgrades,
//! and when a path id is given to another path. So the last value of each is remembered, in the file too. What a counter
//! has gone on by is counted, and all of it when it has gone back; what passed while nobody looked counts for the present
//! period.
//!
//! The file has a line `uplink NAME DAY BYTES` for each uplink, DAY being the first one of its period, and a line
//! `path KEY BYTES` for each counter.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::{calendar::Date, config::Period};

/// A clock that stands before this, 2026-01-01, was never set: it tells no period. (Time since 1970.)
const FIRST_PLAUSIBLE: Duration = Duration::from_hours(490_896);

/// How much each uplink with a quota has carried. `Display` and `FromStr`: the text of its file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    uplinks: BTreeMap<String, Carried>,
    /// The last value of each path's counter, by the path's key in the maps.
    counters: BTreeMap<u32, u64>,
}

/// What an uplink has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carried {
    /// The first day of the period.
    since: Date,
    bytes: u64,
}

impl Usage {
    /// Counts what the paths of an uplink have carried since they were last looked at, and returns the bytes of the
    /// present period. `paths`: each one's key and the bytes of both directions; `unix`: time since 1970.
    ///
    /// An uplink that was not known begins with nothing: its counters may be older than its quota. Once a counter has begun anew it must be looked at before it has passed its old value.
    pub fn count(
        &mut self,
        uplink: &str,
        period: Period,
        unix: Duration,
        paths: impl IntoIterator<Item = (u32, u64)>,
    ) -> u64 {
        let mut new = 0_u64;
        for (key, bytes) in paths {
            let before = self.counters.insert(key, bytes).unwrap_or(0);
            new = new.saturating_add(bytes.checked_sub(before).unwrap_or(bytes));
        }
        let today = Date::of(unix);
        let since = match period {
            Period::Day => today,
            Period::Month => today.month_start(),
        };
        let Some(carried) = self.uplinks.get_mut(uplink) else {
            self.uplinks.insert(uplink.to_owned(), Carried { since, bytes: 0 });
            return 0;
        };
        if carried.since < since {
            *carried = Carried { since, bytes: 0 };
        } else if carried.since > today && unix >= FIRST_PLAUSIBLE {
            // The clock was in the future. Nothing is given back for it.
            carried.since = since;
        }
        carried.bytes = carried.bytes.saturating_add(new);
        carried.bytes
    }

    /// Forgets the uplinks that have no quota any more.
    pub fn retain(&mut self, has_quota: impl Fn(&str) -> bool) {
        self.uplinks.retain(|name, _| has_quota(name));
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Carried { since, bytes }) in &self.uplinks {
            writeln!(f, "uplink {name} {since} {bytes}")?;
        }
        self.counters.iter().try_for_each(|(key, bytes)| writeln!(f, "path {key} {bytes}"))
    }
}

/// A line that is no part of a [`Usage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is {text:?}, which nobody here has written: remove the file to begin anew")]
pub struct UsageError {
    line: usize,
    text: String,
}

impl FromStr for Usage {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let mut usage = Self::default();
        for (number, line) in text.lines().enumerate() {
            usage.read(line).ok_or_else(|| UsageError { line: number + 1, text: line.to_owned() })?;
        }
        Ok(usage)
    }
}

impl Usage {
    fn read(&mut self, line: &str) -> Option<()> {
        match *line.split(' ').collect::<Vec<_>>() {
            ["uplink", name, since, bytes] => {
                let carried = Carried { since: since.parse().ok()?, bytes: bytes.parse().ok()? };
                self.uplinks.insert(name.to_owned(), carried);
            }
            ["path", key, bytes] => {
                self.counters.insert(key.parse().ok()?, bytes.parse().ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Noon of a day of 2026: 0 is the first of January.
    fn noon(day: u64) -> Duration {
        FIRST_PLAUSIBLE + Duration::from_secs(day * 86_400 + 43_200)
    }

    #[test]
    fn counted_by_day_and_by_month() {
        let mut usage = Usage::default();
        assert_eq!(usage.count("dsl", Period::Day, noon(28), [(1, 5000), (2, 10)]), 0);
        assert_eq!(usage.count("lte", Period::Month, noon(28), []), 0);
        assert_eq!(usage.count("dsl", Period::Day, noon(29), [(1, 5100), (2, 30)]), 120);
        assert_eq!(usage.count("dsl", Period::Day, noon(29), [(1, 5105), (2, 30)]), 125);
        assert_eq!(usage.count("dsl", Period::Day, noon(30), [(1, 5112), (2, 30)]), 7);
        assert_eq!(usage.count("lte", Period::Month, noon(29), [(7, 50)]), 50);
        assert_eq!(usage.count("lte", Period::Month, noon(30), [(7, 60)]), 60);
        assert_eq!(usage.count("lte", Period::Month, noon(31), [(7, 61)]), 1);
    }

    #[test]
    fn a_counter_that_begins_anew_counts_from_zero() {
        let mut usage = Usage::default();
        usage.count("dsl", Period::Day, noon(0), []);
        usage.count("dsl", Period::Day, noon(0), [(1, 100)]);
        let mut usage: Usage = usage.to_string().parse().unwrap();
        assert_eq!(usage.count("dsl", Period::Day, noon(0), [(1, 0)]), 100);
        assert_eq!(usage.count("dsl", Period::Day, noon(0), [(1, 30)]), 130);
    }

    #[test]
    fn a_clock_that_was_not_set_yet_gives_nothing_back() {
        let mut usage = Usage::default();
        usage.count("dsl", Period::Month, noon(40), []);
        usage.count("dsl", Period::Month, noon(40), [(1, 100)]);
        assert_eq!(usage.count("dsl", Period::Month, Duration::from_mins(1), [(1, 110)]), 110);
        assert_eq!(usage.count("dsl", Period::Month, noon(41), [(1, 120)]), 120);
    }

    #[test]
    fn a_clock_that_was_in_the_future_is_no_quota_for_years() {
        let mut usage = Usage::default();
        usage.count("dsl", Period::Month, noon(4000), []);
        usage.count("dsl", Period::Month, noon(4000), [(1, 100)]);
        assert_eq!(usage.count("dsl", Period::Month, noon(10), [(1, 110)]), 110);
        assert_eq!(usage.count("dsl", Period::Month, noon(40), [(1, 111)]), 1);
    }

    #[test]
    fn another_period_in_the_file() {
        let mut usage = Usage::default();
        usage.count("dsl", Period::Day, noon(10), []);
        usage.count("dsl", Period::Day, noon(10), [(1, 100)]);
        assert_eq!(usage.count("dsl", Period::Month, noon(10), [(1, 101)]), 101);
        assert_eq!(usage.count("dsl", Period::Month, noon(20), [(1, 102)]), 102);
        usage.retain(|name| name != "dsl");
        assert_eq!(usage.count("dsl", Period::Month, noon(20), [(1, 103)]), 0);
    }

    #[test]
    fn what_nobody_has_written() {
        let error = "uplink dsl 2026-11-01 5\npath 7\n".parse::<Usage>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2 is \"path 7\", which nobody here has written: remove the file to begin anew"
        );
        for text in ["x", "uplink dsl 2026-11-00 5", "path -1 5", "uplink a b 2026-11-01 5", "\n"] {
            assert!(text.parse::<Usage>().is_err(), "{text:?}");
        }
    }

    proptest! {
        /// However the counters go on and begin anew, and whenever the daemon restarts, every byte of the day is counted.
        #[test]
        fn no_byte_is_lost(steps in prop::collection::vec((0..3_u32, 0..1000_u64, 0..10_u8), 0..60)) {
            let mut usage = Usage::default();
            usage.count("dsl", Period::Day, noon(3), []);
            let (mut counters, mut truth) = ([0_u64; 3], 0);
            for (path, bytes, event) in steps {
                match event {
                    0 => {
                        counters = [0; 3];
                        usage.count("dsl", Period::Day, noon(3), (0..3).map(|path| (path, 0)));
                    }
                    1 => usage = usage.to_string().parse().unwrap(),
                    _ => {}
                }
                counters[path as usize] += bytes;
                truth += bytes;
                let counted = usage.count("dsl", Period::Day, noon(3), (0..3).zip(counters));
                prop_assert_eq!(counted, truth);
            }
        }

        #[test]
        fn what_is_written_is_read(days in prop::collection::vec((0..4000_u64, any::<u64>()), 0..4), counters: BTreeMap<u32, u64>) {
            let mut usage = Usage { counters, ..Usage::default() };
            for (number, (day, bytes)) in days.into_iter().enumerate() {
                usage.uplinks.insert(format!("uplink-{number}"), Carried { since: Date::of(noon(day)), bytes });
            }
            prop_assert_eq!(usage.to_string().parse(), Ok(usage));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|((uplink|path)( [a-z0-9-]{0,12}){0,4}\n){0,3}") {
            let _ = text.parse::<Usage>();
        }
    }
}
