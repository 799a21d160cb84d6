//! A delay as it is written: `120ms`.

use std::time::Duration;

use multipath_common::playout::MAX_SPREAD_US;

use super::decimal;

/// Units and their microseconds; `s` last, because it ends the other.
const UNITS: [(&str, u64); 2] = [("ms", 1000), ("s", 1_000_000)];

/// Reads how long packets are held at most.
pub(super) fn playout_delay(text: &str) -> Result<Duration, String> {
    let us = decimal::split(text, &UNITS).and_then(|(number, unit)| decimal::scaled(number, unit));
    let us = us.and_then(|us| u32::try_from(us).ok()).filter(|us| *us <= MAX_SPREAD_US);
    us.map(|us| Duration::from_micros(us.into())).ok_or_else(|| {
        format!("a delay from 0ms to {}ms with its unit (ms or s), for instance 120ms", MAX_SPREAD_US / 1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        for (text, us) in [("120ms", 120_000), ("0ms", 0), ("0.25 s", 250_000), ("600ms", 600_000), ("1.5ms", 1500)] {
            assert_eq!(playout_delay(text), Ok(Duration::from_micros(us)), "{text}");
        }
        for text in ["", "120", "ms", "-1ms", "601ms", "1s", "1e2ms", "99999999999999999999s"] {
            assert!(playout_delay(text).is_err(), "{text}");
        }
    }
}
