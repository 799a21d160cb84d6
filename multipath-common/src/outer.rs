//! The outer headers: IPv4 or IPv6, UDP.
//!
//! Headers are words in memory order, addresses are words in network order, lengths are bytes, ports host order.

use crate::{
    drops::DropReason,
    inner::fold,
    maps::map_ipv4,
    wire::{HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN},
};

/// Words of an IPv4 and a UDP header.
pub const IPV4_UDP_WORDS: usize = (IPV4_HEADER_LEN + UDP_HEADER_LEN) / 4;
/// Words of an IPv6 and a UDP header.
pub const IPV6_UDP_WORDS: usize = (IPV6_HEADER_LEN + UDP_HEADER_LEN) / 4;

/// Hop limit of outer packets (RFC 1700's default): loops between gateways end, and no inner TTL is told.
const HOP_LIMIT: u8 = 64;
const UDP: u8 = 17;
const DONT_FRAGMENT: u32 = 0x4000;
const MORE_FRAGMENTS: u32 = 0x2000;
const FRAGMENT_OFFSET: u32 = 0x1fff;

#[inline(always)]
const fn udp_words(local_port: u16, remote_port: u16, payload_len: u32, checksum: u16) -> [u32; 2] {
    let ports = (local_port as u32) << 16 | remote_port as u32;
    let len = payload_len + UDP_HEADER_LEN as u32;
    [ports.to_be(), (len << 16 | u16::from_be(checksum) as u32).to_be()]
}

/// IPv4 and UDP header.
///
/// Don't Fragment is set and the identification is 0 (RFC 6864 section 4.1: an atomic datagram needs none); the
/// UDP checksum is 0 (RFC 768: not computed), because the seal covers the payload.
#[inline(always)]
pub const fn ipv4_udp(
    local: u32,
    remote: u32,
    local_port: u16,
    remote_port: u16,
    tos: u8,
    payload_len: u32,
) -> [u32; IPV4_UDP_WORDS] {
    let total = payload_len + (IPV4_HEADER_LEN + UDP_HEADER_LEN) as u32;
    let first = (0x45 << 24 | (tos as u32) << 16 | total).to_be();
    let second = DONT_FRAGMENT.to_be();
    let third = (HOP_LIMIT as u32) << 24 | (UDP as u32) << 16;
    let sum = first as u64 + second as u64 + third.to_be() as u64 + local as u64 + remote as u64;
    let checksum = u16::from_be(!fold(sum));
    let udp = udp_words(local_port, remote_port, payload_len, 0);
    [first, second, (third | checksum as u32).to_be(), local, remote, udp[0], udp[1]]
}

/// IPv6 and UDP header, with the UDP checksum that IPv6 demands (RFC 8200 section 8.1).
///
/// `payload_sum` is the one's complement sum of the UDP payload's 16-bit words in memory order.
#[inline(always)]
pub const fn ipv6_udp(
    local: [u32; 4],
    remote: [u32; 4],
    local_port: u16,
    remote_port: u16,
    tos: u8,
    payload_len: u32,
    payload_sum: u64,
) -> [u32; IPV6_UDP_WORDS] {
    let udp_len = payload_len + UDP_HEADER_LEN as u32;
    let udp = udp_words(local_port, remote_port, payload_len, 0);
    let mut sum = udp_len.to_be() as u64 + (UDP as u32).to_be() as u64 + udp[0] as u64 + udp[1] as u64;
    let mut i = 0;
    while i < 4 {
        sum += local[i] as u64 + remote[i] as u64;
        i += 1;
    }
    // Two 16-bit words in one 32-bit word add up to the same, because 2^16 is 1 modulo 2^16 - 1.
    let checksum = match !fold(sum + fold(payload_sum) as u64) {
        0 => u16::MAX,
        checksum => checksum,
    };
    let udp = udp_words(local_port, remote_port, payload_len, checksum);
    [
        (6 << 28 | (tos as u32) << 20).to_be(),
        (udp_len << 16 | (UDP as u32) << 8 | HOP_LIMIT as u32).to_be(),
        local[0],
        local[1],
        local[2],
        local[3],
        remote[0],
        remote[1],
        remote[2],
        remote[3],
        udp[0],
        udp[1],
    ]
}

/// UDP ports that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The lowest, host order.
    pub first: u16,
    /// How many.
    pub count: u32,
}

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, count: 1 }
    }

    /// Whether the lower half of a word, host order, is one of them: the destination port in the first word of a UDP
    /// header.
    #[inline(always)]
    pub const fn hold(self, word: u32) -> bool {
        (word & 0xffff).wrapping_sub(self.first as u32) < self.count
    }
}

/// The outer headers of a packet to one of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Who sent it.
    pub source: [u32; 4],
    /// To which address.
    pub destination: [u32; 4],
    /// The sender's port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
    /// Bytes of IP and UDP header.
    pub headers_len: u32,
    /// Bytes of UDP payload.
    pub payload_len: u32,
    /// Type-of-service byte or traffic class.
    pub tos: u8,
}

/// Reads IPv4 and UDP header of a packet of `available` bytes. `Ok(None)` when it is for none of the ports.
///
/// Packets with IPv4 options and later fragments (which have no port) are not ours: no tunnel sends them.
///
/// # Errors
/// The packet is for one of the ports, but a fragment, or its lengths contradict each other.
#[inline(always)]
pub const fn parse_ipv4(
    words: &[u32; IPV4_UDP_WORDS],
    available: u32,
    ports: Ports,
) -> Result<Option<Outer>, DropReason> {
    let first = u32::from_be(words[0]);
    let fragment = u32::from_be(words[1]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET);
    if first >> 24 != 0x45
        || u32::from_be(words[2]) >> 16 & 0xff != UDP as u32
        || fragment & FRAGMENT_OFFSET != 0
        || !ports.hold(u32::from_be(words[5]))
    {
        return Ok(None);
    }
    if fragment != 0 {
        return Err(DropReason::OuterFragment);
    }
    let len = first & 0xffff;
    let udp_len = u32::from_be(words[6]) >> 16;
    match check_lengths(len, available, udp_len + IPV4_HEADER_LEN as u32, udp_len) {
        Ok(payload_len) => Ok(Some(Outer {
            source: map_ipv4(words[3]),
            destination: map_ipv4(words[4]),
            source_port: (u32::from_be(words[5]) >> 16) as u16,
            destination_port: u32::from_be(words[5]) as u16,
            headers_len: (IPV4_HEADER_LEN + UDP_HEADER_LEN) as u32,
            payload_len,
            tos: (first >> 16) as u8,
        })),
        Err(reason) => Err(reason),
    }
}

/// Reads IPv6 and UDP header of a packet of `available` bytes. `Ok(None)` when it is for none of the ports.
///
/// Packets with extension headers are not ours: no tunnel sends them. (For fragments see [`is_first_ipv6_fragment`].)
///
/// # Errors
/// The packet is for one of the ports, but its lengths contradict each other.
#[inline(always)]
pub const fn parse_ipv6(
    words: &[u32; IPV6_UDP_WORDS],
    available: u32,
    ports: Ports,
) -> Result<Option<Outer>, DropReason> {
    let first = u32::from_be(words[0]);
    let second = u32::from_be(words[1]);
    if first >> 28 != 6 || second >> 8 & 0xff != UDP as u32 || !ports.hold(u32::from_be(words[10])) {
        return Ok(None);
    }
    let len = (second >> 16) + IPV6_HEADER_LEN as u32;
    let udp_len = u32::from_be(words[11]) >> 16;
    match check_lengths(len, available, udp_len + IPV6_HEADER_LEN as u32, udp_len) {
        Ok(payload_len) => Ok(Some(Outer {
            source: [words[2], words[3], words[4], words[5]],
            destination: [words[6], words[7], words[8], words[9]],
            source_port: (u32::from_be(words[10]) >> 16) as u16,
            destination_port: u32::from_be(words[10]) as u16,
            headers_len: (IPV6_HEADER_LEN + UDP_HEADER_LEN) as u32,
            payload_len,
            tos: (first >> 20) as u8,
        })),
        Err(reason) => Err(reason),
    }
}

/// Whether an IPv6 packet is the first fragment of a UDP datagram (RFC 8200 section 4.5): its UDP header then follows
/// the fragment header.
#[inline(always)]
pub const fn is_first_ipv6_fragment(words: &[u32; IPV6_UDP_WORDS]) -> bool {
    const FRAGMENT: u32 = 44;
    let next = u32::from_be(words[1]) >> 8 & 0xff;
    let fragment = u32::from_be(words[10]);
    next == FRAGMENT && fragment >> 24 == UDP as u32 && fragment & 0xfff8 == 0
}

/// Frame, IP header and UDP header must name the same end. Returns the bytes of UDP payload.
#[inline(always)]
const fn check_lengths(ip_len: u32, available: u32, ip_len_by_udp: u32, udp_len: u32) -> Result<u32, DropReason> {
    if ip_len > available || ip_len_by_udp > ip_len || udp_len < (UDP_HEADER_LEN + HEADER_LEN) as u32 {
        Err(DropReason::Truncated)
    } else if ip_len < available || ip_len_by_udp < ip_len {
        Err(DropReason::Oversized)
    } else {
        Ok(udp_len - UDP_HEADER_LEN as u32)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use etherparse::{IpSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn packet(words: &[u32], payload: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn payload_sum(payload: &[u8]) -> u64 {
        payload.chunks(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
    }

    proptest! {
        #[test]
        fn ipv4_is_what_etherparse_reads(local: u32, remote: u32, ports: (u16, u16), tos: u8, payload in prop::collection::vec(any::<u8>(), 36..300)) {
            let words = ipv4_udp(local, remote, ports.0, ports.1, tos, payload.len() as u32);
            let bytes = packet(&words, &payload);
            let sliced = SlicedPacket::from_ip(&bytes).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
            let header = ip.header().to_header();
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!((header.source, header.destination), (local.to_ne_bytes(), remote.to_ne_bytes()));
            prop_assert!(header.dont_fragment);
            prop_assert_eq!(bytes[1], tos);
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
            prop_assert_eq!((udp.source_port(), udp.destination_port(), udp.checksum()), (ports.0, ports.1, 0));
            prop_assert_eq!(udp.payload(), &payload[..]);
            let outer = parse_ipv4(&words, bytes.len() as u32, Ports::one(ports.1)).unwrap().unwrap();
            prop_assert_eq!((outer.source, outer.source_port, outer.tos), (map_ipv4(local), ports.0, tos));
            prop_assert_eq!(outer.payload_len as usize, payload.len());
        }

        #[test]
        fn ipv6_is_what_etherparse_reads(local: [u32; 4], remote: [u32; 4], ports: (u16, u16), tos: u8, payload in prop::collection::vec(any::<u8>(), 36..300)) {
            let words = ipv6_udp(local, remote, ports.0, ports.1, tos, payload.len() as u32, payload_sum(&payload));
            let bytes = packet(&words, &payload);
            let IpSlice::Ipv6(ip) = IpSlice::from_slice(&bytes).unwrap() else { panic!("no IPv6") };
            let udp = etherparse::UdpSlice::from_slice(ip.payload().payload).unwrap();
            let checksum = udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap();
            prop_assert_eq!(udp.checksum(), checksum);
            prop_assert_eq!((udp.source_port(), udp.destination_port()), ports);
            prop_assert_eq!(ip.header().to_header().traffic_class, tos);
            let outer = parse_ipv6(&words, bytes.len() as u32, Ports::one(ports.1)).unwrap().unwrap();
            prop_assert_eq!((outer.source, outer.destination, outer.tos), (local, remote, tos));
        }

        #[test]
        fn arbitrary_words_are_never_longer_than_the_frame(v4: [u32; IPV4_UDP_WORDS], v6: [u32; IPV6_UDP_WORDS], available in 0u32..70_000) {
            let port4 = Ports::one(u32::from_be(v4[5]) as u16);
            if let Ok(Some(outer)) = parse_ipv4(&v4, available, port4) {
                prop_assert_eq!(outer.headers_len + outer.payload_len, available);
            }
            let port6 = Ports::one(u32::from_be(v6[10]) as u16);
            if let Ok(Some(outer)) = parse_ipv6(&v6, available, port6) {
                prop_assert_eq!(outer.headers_len + outer.payload_len, available);
            }
        }

        #[test]
        fn ports_follow_each_other(first: u16, count in 0u32..9, other: u32) {
            let ports = Ports { first, count };
            for at in 0..count {
                prop_assert_eq!(ports.hold(other << 16 | ((u32::from(first) + at) & 0xffff)), u32::from(first) + at <= 0xffff);
            }
            let is_held = (other as u16) >= first && u32::from(other as u16) < u32::from(first) + count;
            prop_assert_eq!(ports.hold(other), is_held);
        }
    }

    #[test]
    fn the_first_fragment_of_ipv6_is_told_from_later_ones() {
        let fragment = |next: u32, offset_and_more: u32| {
            let mut words = [0; IPV6_UDP_WORDS];
            words[1] = (44_u32 << 8).to_be();
            words[10] = (next << 24 | offset_and_more).to_be();
            words
        };
        assert!(is_first_ipv6_fragment(&fragment(17, 1)));
        assert!(!is_first_ipv6_fragment(&fragment(17, 8)));
        assert!(!is_first_ipv6_fragment(&fragment(6, 1)));
        assert!(!is_first_ipv6_fragment(&ipv6_udp([1; 4], [2; 4], 3, 4, 0, 100, 0)));
    }

    #[test]
    fn lengths_that_contradict_each_other_are_named() {
        let words = ipv4_udp(1, 2, 3, 4, 0, 100);
        assert!(parse_ipv4(&words, 128, Ports::one(4)).unwrap().is_some());
        assert_eq!(parse_ipv4(&words, 127, Ports::one(4)), Err(DropReason::Truncated));
        assert_eq!(parse_ipv4(&words, 129, Ports::one(4)), Err(DropReason::Oversized));
        assert_eq!(parse_ipv4(&words, 128, Ports::one(5)), Ok(None));
        let mut fragment = words;
        fragment[1] = MORE_FRAGMENTS.to_be();
        assert_eq!(parse_ipv4(&fragment, 128, Ports::one(4)), Err(DropReason::OuterFragment));
        fragment[1] = 1_u32.to_be();
        assert_eq!(parse_ipv4(&fragment, 128, Ports::one(4)), Ok(None));
        assert_eq!(parse_ipv4(&ipv4_udp(1, 2, 3, 4, 0, 19), 47, Ports::one(4)), Err(DropReason::Truncated));
        assert_eq!(vec![0u8; HEADER_LEN].len(), 20);
    }
}
