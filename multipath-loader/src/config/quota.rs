//! How much an uplink may carry before it counts as metered, as it is written: `10GB/month`.

use std::{fmt, num::NonZeroU64, str::FromStr};

use super::decimal;

/// A quota of at least one byte in a period, both directions together. `FromStr` takes `10GB/month`, `1.5GiB/day`,
/// `500 MB / day`; `Display` writes the shortest of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    bytes: NonZeroU64,
    period: Period,
}

/// How long a quota lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// A day of the calendar (UTC).
    Day,
    /// A month of the calendar (UTC).
    Month,
}

/// Units and their bytes, the larger first; `B` last, because it ends all others.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];

impl Quota {
    /// The quota of that many bytes; `None` for zero.
    pub fn new(bytes: u64, period: Period) -> Option<Self> {
        Some(Self { bytes: NonZeroU64::new(bytes)?, period })
    }

    /// Bytes in a period.
    pub const fn bytes(self) -> u64 {
        self.bytes.get()
    }

    /// How long it lasts.
    pub const fn period(self) -> Period {
        self.period
    }
}

impl Period {
    const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// As it is written in the configuration and in the file of usage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// A text that is no [`Quota`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a quota from 1B to 18446744TB with its unit (kB, MB, GB, TB or KiB, MiB, GiB, TiB) and its period (day or month), for \
     instance 10GB/month"
)]
pub struct QuotaError;

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let read = || {
            let text = text.to_ascii_lowercase();
            let (amount, period) = text.split_once('/')?;
            let period = Period::ALL.into_iter().find(|known| known.name() == period.trim())?;
            let units = UNITS.map(|(name, bytes)| (name.to_ascii_lowercase(), bytes));
            let units = units.each_ref().map(|(name, bytes)| (name.as_str(), *bytes));
            let (number, unit) = decimal::split(amount.trim(), &units)?;
            Self::new(u64::try_from(decimal::scaled(number, unit)?).ok()?, period)
        };
        read().ok_or(QuotaError)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let fits = |unit: &&(&str, u64)| bytes.is_multiple_of(unit.1);
        let (name, unit) = UNITS.iter().filter(fits).max_by_key(|(_, unit)| *unit).unwrap_or(&("B", 1));
        write!(f, "{}{name}/{}", bytes / unit, self.period.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(u64, Period), QuotaError> {
        text.parse().map(|quota: Quota| (quota.bytes(), quota.period()))
    }

    #[test]
    fn units() {
        assert_eq!(read("10GB/month"), Ok((10_000_000_000, Period::Month)));
        assert_eq!(read("500MB/day"), Ok((500_000_000, Period::Day)));
        assert_eq!(read("1.5GiB/day"), Ok((3 << 29, Period::Day)));
        assert_eq!(read("2 tib / month"), Ok((2 << 40, Period::Month)));
        assert_eq!(read("7B/day"), Ok((7, Period::Day)));
        assert_eq!(read("18446744TB/day"), Ok((18_446_744_000_000_000_000, Period::Day)));
    }

    #[test]
    fn nonsense() {
        for text in [
            "",
            "10",
            "10GB",
            "10/month",
            "GB/month",
            "0GB/month",
            "-1GB/month",
            "10GB/year",
            "10GB/month/day",
            "10Gbit/month",
            "18446745TB/day",
            "0.4B/day",
        ] {
            assert_eq!(read(text), Err(QuotaError), "{text}");
        }
    }

    #[test]
    fn written_with_the_largest_unit() {
        for text in ["10GB/month", "1500MB/day", "3GiB/month", "1537B/day", "1TiB/day"] {
            assert_eq!(text.parse::<Quota>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in 1..=u64::MAX, is_month: bool, zeros in 0..12_u32) {
            let bytes = (bytes / 10_u64.pow(zeros)).max(1);
            let quota = Quota::new(bytes, if is_month { Period::Month } else { Period::Day }).unwrap();
            prop_assert_eq!(quota.to_string().parse(), Ok(quota));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9.]{0,40}[TGMKk]?i?B/(day|month)") {
            let _ = text.parse::<Quota>();
        }
    }
}
