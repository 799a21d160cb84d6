//! Decimal numbers with a unit, exactly.

/// Most digits before and after the point: those of a `u64`. With units up to 2^60 the product fits into 128 bits.
const DIGITS: usize = 20;

/// How many of the smallest unit a text like `1.5` is, with units of so many of it (at most 2^60); a fraction of one is cut off. `None`
/// when it is no decimal number without a sign.
pub(super) fn scaled(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| {
        let is_short = (1..=DIGITS).contains(&text.len());
        (is_short && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u128>().ok())?
    };
    let unit = u128::from(unit);
    Some(digits(whole)? * unit + digits(fraction)? * unit / 10_u128.pow(fraction.len() as u32))
}

/// The number and the unit of a text like `8 mbit`, with what the unit stands for; the first of `units` that it ends with.
pub(super) fn split<'a>(text: &'a str, units: &[(&str, u64)]) -> Option<(&'a str, u64)> {
    units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_and_cut_off() {
        assert_eq!(scaled("1.5", 1000), Some(1500));
        assert_eq!(scaled("0.0019", 1000), Some(1));
        assert_eq!(scaled("7", 1 << 40), Some(7 << 40));
        let most = "9".repeat(DIGITS);
        assert!(scaled(&format!("{most}.{most}"), 1 << 60).is_some());
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1.2.3", "1 ", &format!("{most}9")] {
            assert_eq!(scaled(text, 1), None, "{text}");
        }
    }
}
