//! Explicit congestion notification and the type-of-service byte through the tunnel (RFC 6040).

/// The two ECN bits of a type-of-service byte or traffic class (RFC 3168 section 5).
pub const ECN_MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The outer byte for an inner one.
///
/// ECN as RFC 6040 section 4.1 (normal mode: copied); DSCP copied too (RFC 2983 section 3.1), so that the
/// underlay treats the packet as the inner network would have.
#[inline(always)]
pub const fn outer_tos(inner: u8) -> u8 {
    inner
}

/// The inner byte after decapsulation (RFC 6040 section 4.2, figure 4); `None` when the packet must be dropped.
/// The inner DSCP stays as it is (RFC 2983 section 4.2).
#[inline(always)]
pub const fn inner_tos(inner: u8, outer: u8) -> Option<u8> {
    match (inner & ECN_MASK, outer & ECN_MASK) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(inner),
        (_, CE) => Some(inner | CE),
        (CE, _) => Some(inner),
        (_, ECT_1) => Some(inner & !ECN_MASK | ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECT_0: u8 = 0b10;

    /// RFC 6040 figure 4, row by row: inner field, then the result for outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn figure_4() {
        let figure = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, results) in figure {
            for (outer, result) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(results) {
                assert_eq!(inner_tos(0xb8 | inner, outer), result.map(|ecn| 0xb8 | ecn), "{inner:02b} {outer:02b}");
            }
        }
    }

    #[test]
    fn the_outer_byte_is_a_copy() {
        for tos in 0..=u8::MAX {
            assert_eq!(outer_tos(tos), tos);
        }
    }
}
