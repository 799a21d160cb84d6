//! The inner packet: its flow, its length, its type-of-service byte.
//!
//! Headers come in as 32-bit words in memory order, because that is how BPF loads them.

use crate::maps::{FlowKey, map_ipv4};

/// IP protocol number of TCP.
pub const TCP: u32 = 6;
/// IP protocol number of UDP.
pub const UDP: u32 = 17;

/// Words of an IPv4 header without options.
pub const IPV4_WORDS: usize = 5;
/// Words of the fixed IPv6 header.
pub const IPV6_WORDS: usize = 10;

/// What the data plane needs of an inner packet.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// The flow; its ports are 0 until they are read from `transport`, where `has_ports` says that they are there.
    pub key: FlowKey,
    /// Length of the IP packet, bytes.
    pub len: u32,
    /// Offset of the transport header in the IP packet, bytes.
    pub transport: u32,
    /// Type-of-service byte or traffic class.
    pub tos: u8,
    /// 4 or 6.
    pub version: u8,
    /// Whether the first four bytes at `transport` are the ports: TCP or UDP, and no fragment.
    pub has_ports: bool,
}

/// The IP version that a packet's first byte claims.
#[inline(always)]
pub const fn version(first_word: u32) -> u8 {
    (u32::from_be(first_word) >> 28) as u8
}

/// Reads an IPv4 header (RFC 791). `None` when version, header length or total length contradict each other.
///
/// Fragments have no ports, not even the first one, so that all of a datagram's take the same path.
#[inline(always)]
pub fn parse_ipv4(words: &[u32; IPV4_WORDS]) -> Option<Inner> {
    const MORE_FRAGMENTS_OR_OFFSET: u32 = 0x3fff;
    let first = u32::from_be(words[0]);
    let header_len = (first >> 24 & 0xf) * 4;
    let len = first & 0xffff;
    if first >> 28 != 4 || header_len < 20 || len < header_len {
        return None;
    }
    let protocol = u32::from_be(words[2]) >> 16 & 0xff;
    let fragment = u32::from_be(words[1]) & MORE_FRAGMENTS_OR_OFFSET != 0;
    Some(Inner {
        key: FlowKey { source: map_ipv4(words[3]), destination: map_ipv4(words[4]), ports: 0, protocol },
        len,
        transport: header_len,
        tos: (first >> 16) as u8,
        version: 4,
        has_ports: !fragment && (protocol == TCP || protocol == UDP) && len >= header_len + 4,
    })
}

/// Reads an IPv6 header (RFC 8200). `None` when the version is wrong.
///
/// Only a transport header that follows at once gives ports; behind extension headers the flow goes by addresses.
#[inline(always)]
pub fn parse_ipv6(words: &[u32; IPV6_WORDS]) -> Option<Inner> {
    let first = u32::from_be(words[0]);
    if first >> 28 != 6 {
        return None;
    }
    let second = u32::from_be(words[1]);
    let protocol = second >> 8 & 0xff;
    let payload_len = second >> 16;
    Some(Inner {
        key: FlowKey {
            source: [words[2], words[3], words[4], words[5]],
            destination: [words[6], words[7], words[8], words[9]],
            ports: 0,
            protocol,
        },
        len: payload_len + 40,
        transport: 40,
        tos: (first >> 20) as u8,
        version: 6,
        has_ports: (protocol == TCP || protocol == UDP) && payload_len >= 4,
    })
}

/// An IPv4 header's first word and checksum after its type-of-service byte changed (RFC 1624, equation 3).
///
/// `checksum` is the checksum as it stands in memory; so is the one that is returned.
#[inline(always)]
pub const fn ipv4_with_tos(first_word: u32, checksum: u16, tos: u8) -> (u32, u16) {
    let old = u32::from_be(first_word);
    let new = old & 0xff00_ffff | (tos as u32) << 16;
    let sum = !u16::from_be(checksum) as u32 + (!(old >> 16) & 0xffff) + (new >> 16);
    (new.to_be(), (!fold(sum as u64)).to_be())
}

/// An IPv6 header's first word after its traffic class changed.
#[inline(always)]
pub const fn ipv6_with_tos(first_word: u32, tos: u8) -> u32 {
    (u32::from_be(first_word) & 0xf00f_ffff | (tos as u32) << 20).to_be()
}

/// Folds a sum of 16- or 32-bit words into a 16-bit one's complement sum (RFC 1071).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    extern crate std;
    use etherparse::{IpFragOffset, Ipv4Header, Ipv6Header, PacketBuilder};
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
        core::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
    }

    fn octets(words: [u32; 4]) -> [u8; 16] {
        bytemuck::cast(words)
    }

    fn mapped(address: [u8; 4]) -> [u8; 16] {
        core::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
    }

    proptest! {
        #[test]
        fn ipv4_agrees_with_etherparse(source: [u8; 4], destination: [u8; 4], from: u16, to: u16, tos: u8, payload in 0usize..100) {
            let mut packet = Vec::new();
            let mut header = Ipv4Header::new(0, 61, etherparse::IpNumber::UDP, source, destination).unwrap();
            header.dscp = (tos >> 2).try_into().unwrap();
            header.ecn = (tos & 3).try_into().unwrap();
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())).udp(from, to).write(&mut packet, &std::vec![7; payload]).unwrap();
            let inner = parse_ipv4(&words(&packet)).unwrap();
            prop_assert_eq!(octets(inner.key.source), mapped(source));
            prop_assert_eq!(octets(inner.key.destination), mapped(destination));
            prop_assert_eq!((inner.key.protocol, inner.tos, inner.version), (UDP, tos, 4));
            prop_assert_eq!(inner.len as usize, packet.len());
            prop_assert!(inner.has_ports);
            prop_assert_eq!(&packet[inner.transport as usize..][..2], &from.to_be_bytes());
        }

        #[test]
        fn ipv6_agrees_with_etherparse(source: [u8; 16], destination: [u8; 16], tos: u8, payload in 0usize..100) {
            let mut packet = Vec::new();
            let header = Ipv6Header { traffic_class: tos, source, destination, hop_limit: 3, ..Default::default() };
            PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())).tcp(1, 2, 3, 4).write(&mut packet, &std::vec![7; payload]).unwrap();
            let inner = parse_ipv6(&words(&packet)).unwrap();
            prop_assert_eq!(octets(inner.key.source), source);
            prop_assert_eq!(octets(inner.key.destination), destination);
            prop_assert_eq!((inner.key.protocol, inner.tos, inner.len as usize), (TCP, tos, packet.len()));
            prop_assert!(inner.has_ports);
        }

        #[test]
        fn arbitrary_words_never_contradict_themselves(v4: [u32; IPV4_WORDS], v6: [u32; IPV6_WORDS]) {
            if let Some(inner) = parse_ipv4(&v4) {
                prop_assert!(inner.transport >= 20 && inner.len >= inner.transport);
                prop_assert!(!inner.has_ports || inner.len >= inner.transport + 4);
            }
            if let Some(inner) = parse_ipv6(&v6) {
                prop_assert!(inner.len >= 40 && (!inner.has_ports || inner.len >= 44));
            }
        }

        #[test]
        fn changed_tos_keeps_the_checksum_right(source: [u8; 4], destination: [u8; 4], id: u16, tos: u8) {
            let mut header = Ipv4Header::new(100, 9, etherparse::IpNumber::TCP, source, destination).unwrap();
            header.identification = id;
            header.header_checksum = header.calc_header_checksum();
            let mut bytes = header.to_bytes();
            let (first, checksum) = ipv4_with_tos(words::<5>(&bytes)[0], u16::from_ne_bytes([bytes[10], bytes[11]]), tos);
            bytes[..4].copy_from_slice(&first.to_ne_bytes());
            bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
            let (changed, _) = Ipv4Header::from_slice(&bytes).unwrap();
            prop_assert_eq!(changed.calc_header_checksum(), changed.header_checksum);
            prop_assert_eq!(bytes[1], tos);
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_are_one_flow() {
        let mut header = Ipv4Header::new(800, 9, etherparse::IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        for (more, offset) in [(true, 0), (true, 100), (false, 200)] {
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            assert!(!parse_ipv4(&words(&header.to_bytes())).unwrap().has_ports);
        }
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        for first in [0x4400_0064_u32, 0x4500_0013, 0x4f00_003b, 0x6500_0064, 0x0500_0064] {
            assert!(parse_ipv4(&[first.to_be(), 0, 0, 0, 0]).is_none(), "{first:#x}");
        }
        assert!(parse_ipv4(&[0x4f00_003c_u32.to_be(), 0, 0, 0, 0]).is_some());
        assert!(parse_ipv6(&[0x4000_0000_u32.to_be(), 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
