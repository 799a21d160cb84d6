//! The maximum segment size option of TCP (RFC 9293 section 3.7.1), clamped so that no segment outgrows the tunnel.

/// Bytes of options that a TCP header can carry.
pub const MAX_OPTIONS_LEN: usize = 40;
/// Bytes of the buffer that options are searched in: a power of two, so that every index is a mask.
pub const OPTIONS_BUFFER_LEN: usize = 64;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The largest segment that fits an MTU: IP header (IPv4 or IPv6 without options) and TCP header subtracted.
#[inline(always)]
pub const fn for_mtu(mtu: u32, version: u8) -> u16 {
    let headers = if version == 4 { 20 + 20 } else { 40 + 20 };
    if mtu > headers + 0xffff {
        return u16::MAX;
    }
    mtu.saturating_sub(headers) as u16
}

/// Where the option's value stands in `options` of `len` bytes.
#[inline(always)]
pub fn find(options: &[u8; OPTIONS_BUFFER_LEN], len: usize) -> Option<usize> {
    const MASK: usize = OPTIONS_BUFFER_LEN - 1;
    let mut at = 0;
    for _ in 0..MAX_OPTIONS_LEN {
        if at + 1 >= len || at + 1 >= MAX_OPTIONS_LEN {
            return None;
        }
        let kind = options[at & MASK];
        if kind == END {
            return None;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        let size = options[(at + 1) & MASK] as usize;
        if size < 2 || at + size > len {
            return None;
        }
        if kind == MAXIMUM_SEGMENT_SIZE {
            return if size == 4 { Some(at + 2) } else { None };
        }
        at += size;
    }
    None
}

#[cfg(test)]
mod tests {
    extern crate std;
    use etherparse::{TcpHeader, TcpOptionElement};
    use proptest::prelude::*;

    use super::*;

    /// Finds the option by way of etherparse.
    fn naive(options: &[u8]) -> Option<u16> {
        let mut header = TcpHeader::new(1, 2, 3, 4);
        header.set_options_raw(options).ok()?;
        for option in header.options_iterator() {
            if let TcpOptionElement::MaximumSegmentSize(value) = option.ok()? {
                return Some(value);
            }
        }
        None
    }

    fn found(options: &[u8]) -> Option<u16> {
        let mut buffer = [0; OPTIONS_BUFFER_LEN];
        buffer[..options.len()].copy_from_slice(options);
        find(&buffer, options.len()).map(|at| u16::from_be_bytes([buffer[at], buffer[at + 1]]))
    }

    proptest! {
        #[test]
        fn known_options_in_any_order(order in prop::collection::vec(0usize..5, 0..8)) {
            let choices: [&[u8]; 5] = [&[1], &[2, 4, 5, 0xb4], &[3, 3, 7], &[4, 2], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8]];
            let mut options: std::vec::Vec<u8> = order.iter().flat_map(|&i| choices[i].iter().copied()).collect();
            options.truncate(40);
            while options.len() % 4 != 0 { options.push(0); }
            prop_assert_eq!(found(&options), naive(&options));
        }

        #[test]
        fn arbitrary_bytes_never_lead_outside(options in prop::collection::vec(any::<u8>(), 0..=40)) {
            let mut buffer = [0; OPTIONS_BUFFER_LEN];
            buffer[..options.len()].copy_from_slice(&options);
            if let Some(at) = find(&buffer, options.len()) {
                prop_assert!(at + 2 <= options.len());
            }
        }
    }

    #[test]
    fn segment_sizes() {
        assert_eq!(for_mtu(1500, 4), 1460);
        assert_eq!(for_mtu(1280, 6), 1220);
        assert_eq!(for_mtu(30, 4), 0);
    }
}
