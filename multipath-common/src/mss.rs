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

/// A search for the option; [`Search::step`] looks at one option, [`MAX_OPTIONS_LEN`] steps see all of them.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The options, zero beyond `len`.
    pub options: [u8; OPTIONS_BUFFER_LEN],
    /// Bytes of options, at most [`MAX_OPTIONS_LEN`].
    pub len: u32,
    at: u32,
    found: u32,
}

impl Search {
    /// A search that begins at the first option.
    #[inline(always)]
    pub const fn new(options: [u8; OPTIONS_BUFFER_LEN], len: u32) -> Self {
        Self { options, len, at: 0, found: 0 }
    }

    #[inline(always)]
    const fn byte(&self, at: u32) -> u8 {
        self.options[at as usize & (OPTIONS_BUFFER_LEN - 1)]
    }

    /// Looks at one option; `false` when the search is over.
    #[inline(always)]
    pub const fn step(&mut self) -> bool {
        let kind = self.byte(self.at);
        if self.at + 1 >= self.len || kind == END {
            return false;
        }
        if kind == NO_OPERATION {
            self.at += 1;
            return true;
        }
        let size = self.byte(self.at + 1) as u32;
        if size < 2 || self.at + size > self.len {
            return false;
        }
        if kind == MAXIMUM_SEGMENT_SIZE {
            self.found = if size == 4 { self.at + 2 } else { 0 };
            return false;
        }
        self.at += size;
        true
    }

    /// Where the option's value stands, and the value, once the search is over.
    #[inline(always)]
    pub const fn found(&self) -> Option<(u32, u16)> {
        let value = u16::from_be_bytes([self.byte(self.found), self.byte(self.found + 1)]);
        if self.found == 0 { None } else { Some((self.found, value)) }
    }
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

    fn search(options: &[u8]) -> Option<(u32, u16)> {
        let mut buffer = [0; OPTIONS_BUFFER_LEN];
        buffer[..options.len()].copy_from_slice(options);
        let mut search = Search::new(buffer, options.len() as u32);
        for _ in 0..MAX_OPTIONS_LEN {
            if !search.step() {
                break;
            }
        }
        search.found()
    }

    proptest! {
        #[test]
        fn known_options_in_any_order(order in prop::collection::vec(0usize..5, 0..8)) {
            let choices: [&[u8]; 5] = [&[1], &[2, 4, 5, 0xb4], &[3, 3, 7], &[4, 2], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8]];
            let mut options: std::vec::Vec<u8> = order.iter().flat_map(|&i| choices[i].iter().copied()).collect();
            options.truncate(40);
            while !options.len().is_multiple_of(4) { options.push(0); }
            prop_assert_eq!(search(&options).map(|(_, value)| value), naive(&options));
        }

        #[test]
        fn arbitrary_bytes_never_lead_outside(options in prop::collection::vec(any::<u8>(), 0..=40)) {
            if let Some((at, _)) = search(&options) {
                prop_assert!(at as usize + 2 <= options.len());
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
