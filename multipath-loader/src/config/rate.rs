//! An uplink's rate as it is written: `8mbit`.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Serialize, Serializer};

use super::decimal;

/// A rate of at least 1 kbit/s, in whole kbit/s (1 kbit = 1000 bits). `FromStr` takes `8mbit`, `1.5gbit`, `640kbit`,
/// `9600bit`; `Display` writes the shortest of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU32);

/// Units and their bits/s; `bit` last, because it ends all others.
const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

impl Rate {
    /// The rate of that many kbit/s; `None` for zero.
    pub fn from_kbit(kbit: u32) -> Option<Self> {
        NonZeroU32::new(kbit).map(Self)
    }

    /// The rate in kbit/s.
    pub fn kbit(self) -> u32 {
        self.0.get()
    }
}

/// A text that is no [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate from 1kbit to 4294gbit with its unit (bit, kbit, mbit or gbit), for instance 8mbit")]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let text = text.to_ascii_lowercase();
        let (number, unit) = decimal::split(&text, &UNITS).ok_or(RateError)?;
        let bits = decimal::scaled(number, unit).ok_or(RateError)?;
        u32::try_from(bits / 1000).ok().and_then(Self::from_kbit).ok_or(RateError)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kbit() {
            kbit if kbit % 1_000_000 == 0 => write!(f, "{}gbit", kbit / 1_000_000),
            kbit if kbit % 1000 == 0 => write!(f, "{}mbit", kbit / 1000),
            kbit => write!(f, "{kbit}kbit"),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kbit(text: &str) -> Result<u32, RateError> {
        text.parse().map(Rate::kbit)
    }

    #[test]
    fn units() {
        assert_eq!(kbit("8mbit"), Ok(8000));
        assert_eq!(kbit("1.5gbit"), Ok(1_500_000));
        assert_eq!(kbit("0.5Mbit"), Ok(500));
        assert_eq!(kbit("640 kbit"), Ok(640));
        assert_eq!(kbit("9600bit"), Ok(9));
        assert_eq!(kbit("4294gbit"), Ok(4_294_000_000));
    }

    #[test]
    fn nonsense() {
        for text in ["", "8", "mbit", "0mbit", "999bit", "-1mbit", "8mbyte", "1e3kbit", "5000gbit", ".5mbit", "1.mbit"]
        {
            assert_eq!(kbit(text), Err(RateError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kbit in 1..=u32::MAX) {
            let rate = Rate::from_kbit(kbit).unwrap();
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9.]{0,40}[gmk]?bit") {
            let _ = text.parse::<Rate>();
        }
    }
}
