//! Quantities for people, in few digits.

/// Bytes with the binary prefix that leaves fewest digits, rounded down: `1.2 Gi`, to be followed by `B`.
pub(super) fn bytes(bytes: u64) -> String {
    const PREFIXES: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let prefix = (0..PREFIXES.len() - 1).find(|prefix| bytes >> (10 * (prefix + 1)) == 0).unwrap_or(PREFIXES.len() - 1);
    if prefix == 0 {
        return format!("{bytes} ");
    }
    let tenths = (bytes >> (10 * (prefix - 1))) * 10 / 1024;
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, PREFIXES[prefix])
    } else {
        format!("{} {}", tenths / 10, PREFIXES[prefix])
    }
}

/// Microseconds as milliseconds, without the unit.
pub(super) fn milliseconds(us: impl Into<f64>) -> String {
    let ms = us.into() / 1000.0;
    match ms.abs() {
        ..1.0 => format!("{ms:.2}"),
        ..99.95 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// A time in the unit that fits: `20 ms`, `0.3 s`, `34 s`, `12 min`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.0995 => format!("{:.0} ms", seconds * 1000.0),
        ..9.95 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// Parts per million as per cent, without the unit.
pub(super) fn percent(ppm: u32) -> String {
    let percent = f64::from(ppm) / 10_000.0;
    match ppm {
        0 => "0".to_owned(),
        1..500 => "<0.1".to_owned(),
        500..99_500 => format!("{percent:.1}"),
        _ => format!("{percent:.0}"),
    }
}

/// Kilobits per second as megabits, without the unit.
pub(super) fn megabits(kbps: u32) -> String {
    let mbps = f64::from(kbps) / 1000.0;
    match kbps {
        0 => "0".to_owned(),
        1..50 => "<0.1".to_owned(),
        50..9950 => format!("{mbps:.1}"),
        _ => format!("{mbps:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_digits() {
        for (number, text) in [
            (0, "0 "),
            (1023, "1023 "),
            (1024, "1.0 Ki"),
            (10 << 10, "10 Ki"),
            (1023 << 10, "1023 Ki"),
            (3 << 29, "1.5 Gi"),
            (u64::MAX, "16383 Pi"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (us, text) in [(0, "0.00"), (-140, "-0.14"), (12_345, "12.3"), (99_950, "100"), (-250_000, "-250")] {
            assert_eq!(milliseconds(us), text);
        }
        for (time, text) in
            [(0.04, "40 ms"), (0.0996, "0.1 s"), (9.96, "10 s"), (119.9, "120 s"), (150.0, "2 min"), (9e5, "10 d")]
        {
            assert_eq!(seconds(time), text);
        }
        for (ppm, text) in [(0, "0"), (499, "<0.1"), (500, "0.1"), (23_000, "2.3"), (1_000_000, "100")] {
            assert_eq!(percent(ppm), text);
        }
        for (kbps, text) in [(0, "0"), (49, "<0.1"), (9500, "9.5"), (10_000, "10"), (2_500_000, "2500")] {
            assert_eq!(megabits(kbps), text);
        }
    }
}
