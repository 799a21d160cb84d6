//! Ranges of numbers as they are written: ports (`443, 5000-5100`) and packet sizes (`100-300`, `-200`, `1000-`).

use std::ops::RangeInclusive;

/// Reads a list of ports and ranges of ports. They come back sorted, and those that touch as one.
pub(super) fn ports(text: &str) -> Result<Vec<RangeInclusive<u16>>, &'static str> {
    let expected = "ports from 1 to 65535 and ranges of them, for instance \"443\" or \"443, 5000-5100\"";
    let port = |text: &str| number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(port(first)?..=port(last)?).filter(|range| !range.is_empty())
    };
    let mut ranges = text.split(',').map(range).collect::<Option<Vec<_>>>().ok_or(expected)?;
    ranges.sort_by_key(|range| *range.start());
    let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(before) if u32::from(*range.start()) <= u32::from(*before.end()) + 1 => {
                *before = *before.start()..=*before.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

/// Ports as they are written.
pub(super) fn ports_text(ranges: &[RangeInclusive<u16>]) -> String {
    let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Reads a range of sizes, bytes; an end that is left out is open.
pub(super) fn sizes(text: &str) -> Result<RangeInclusive<u32>, &'static str> {
    let expected = "a range of sizes in bytes, for instance \"100-300\", \"-200\" or \"1000-\"";
    let (first, last) = text.split_once('-').ok_or(expected)?;
    let end = |text: &str, open: u32| if text.trim().is_empty() { Some(open) } else { number(text) };
    let range = end(first, 0).zip(end(last, u32::MAX)).map(|(first, last)| first..=last);
    // Both ends left out are no range.
    range.filter(|range| !range.is_empty() && text.trim() != "-").ok_or(expected)
}

/// A range of sizes as it is written.
pub(super) fn sizes_text(range: &RangeInclusive<u32>) -> String {
    let end = |size: u32, open: u32| if size == open { String::new() } else { size.to_string() };
    format!("{}-{}", end(*range.start(), 0), end(*range.end(), u32::MAX))
}

/// A number without a sign.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_as_documented() {
        assert_eq!(ports("443"), Ok(vec![443..=443]));
        assert_eq!(ports(" 5000 - 5100,443"), Ok(vec![443..=443, 5000..=5100]));
        assert_eq!(ports("1-3,2,4-6,65535,8"), Ok(vec![1..=6, 8..=8, 65535..=65535]));
        for text in ["", ",", "443,", "0", "0-5", "65536", "9-8", "1-2-3", "+1", "-5", "5-", "http"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_documented() {
        assert_eq!(sizes("100-300"), Ok(100..=300));
        assert_eq!(sizes("-200"), Ok(0..=200));
        assert_eq!(sizes("1000 -"), Ok(1000..=u32::MAX));
        for text in ["", "-", " - ", "100", "300-100", "-+1", "1-2-3", "1-99999999999"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// Whether a port is in the ranges is what the parts of the text say, and the ranges are as few as they can be.
        #[test]
        fn joined_ports_are_the_same_ports(
            parts in proptest::collection::vec((1..40_u16, 0..5_u16), 1..12),
            port in 1..50_u16,
        ) {
            let parts: Vec<_> = parts.into_iter().map(|(first, more)| first..=first + more).collect();
            let joined = ports(&ports_text(&parts)).unwrap();
            prop_assert_eq!(
                joined.iter().any(|range| range.contains(&port)),
                parts.iter().any(|range| range.contains(&port))
            );
            prop_assert!(joined.windows(2).all(|pair| pair[0].end() + 1 < *pair[1].start()));
            prop_assert_eq!(ports(&ports_text(&joined)), Ok(joined));
        }

        #[test]
        fn sizes_that_are_written_are_read(first in 0..=u32::MAX, more in 0..=u32::MAX) {
            let range = first..=first.saturating_add(more);
            if range != (0..=u32::MAX) {
                prop_assert_eq!(sizes(&sizes_text(&range)), Ok(range));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[-0-9, ]{0,20}") {
            let _ = (ports(&text), sizes(&text));
        }
    }
}
