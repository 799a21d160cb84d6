//! The inner packet, against etherparse.
#![no_main]

use etherparse::{Ipv4Header, Ipv4HeaderSlice, Ipv6HeaderSlice};
use libfuzzer_sys::fuzz_target;
use multipath_common::inner::{
    self, IPV4_WORDS, IPV6_WORDS, Inner, TCP, UDP, ipv4_with_tos, ipv6_with_tos, parse_ipv4, parse_ipv6,
};

fuzz_target!(|packet: &[u8]| {
    let Some((&tos, packet)) = packet.split_first() else { return };
    if let Some(words) = words::<IPV4_WORDS>(packet) {
        assert_eq!(inner::version(words[0]), packet[0] >> 4);
        // etherparse reads options too, which the parser leaves alone.
        let mut header = [0; Ipv4Header::MAX_LEN];
        header[..20].copy_from_slice(&packet[..20]);
        let expected = Ipv4HeaderSlice::from_slice(&header).ok();
        let expected = expected.filter(|header| usize::from(header.total_len()) >= header.slice().len());
        let found = parse_ipv4(&words);
        assert_eq!(found.is_some(), expected.is_some());
        if let (Some(found), Some(expected)) = (found, expected) {
            agrees_with_ipv4(&found, &expected);
            marked_ipv4(expected.to_header(), tos);
        }
    }
    if let Some(words) = words::<IPV6_WORDS>(packet) {
        let expected = Ipv6HeaderSlice::from_slice(packet).ok();
        let found = parse_ipv6(&words);
        assert_eq!(found.is_some(), expected.is_some());
        if let (Some(found), Some(expected)) = (found, expected) {
            agrees_with_ipv6(&found, &expected);
            let mut marked = packet[..40].to_vec();
            marked[..4].copy_from_slice(&ipv6_with_tos(words[0], tos).to_ne_bytes());
            let mut header = expected.to_header();
            header.traffic_class = tos;
            assert_eq!(marked, header.to_bytes());
        }
    }
});

/// Packets are words in memory order to the programs.
fn words<const N: usize>(packet: &[u8]) -> Option<[u32; N]> {
    let bytes = packet.get(..4 * N)?;
    Some(std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * word + byte]))))
}

fn agrees_with_ipv4(found: &Inner, expected: &Ipv4HeaderSlice) {
    let protocol = u32::from(expected.protocol().0);
    let len = u32::from(expected.total_len());
    let transport = expected.slice().len() as u32;
    assert_eq!(bytes(found.key.source), expected.source_addr().to_ipv6_mapped().octets());
    assert_eq!(bytes(found.key.destination), expected.destination_addr().to_ipv6_mapped().octets());
    assert_eq!((found.key.protocol, found.key.ports), (protocol, 0));
    assert_eq!((found.len, found.transport, found.version), (len, transport, 4));
    assert_eq!(found.tos, expected.dcp().value() << 2 | expected.ecn().value());
    let ports_fit = [TCP, UDP].contains(&protocol) && len >= transport + 4;
    assert_eq!(found.has_ports, ports_fit && !expected.is_fragmenting_payload());
}

fn agrees_with_ipv6(found: &Inner, expected: &Ipv6HeaderSlice) {
    let protocol = u32::from(expected.next_header().0);
    let payload_len = u32::from(expected.payload_length());
    assert_eq!(bytes(found.key.source), expected.source());
    assert_eq!(bytes(found.key.destination), expected.destination());
    assert_eq!((found.key.protocol, found.key.ports), (protocol, 0));
    assert_eq!((found.len, found.transport, found.version), (40 + payload_len, 40, 6));
    assert_eq!(found.tos, expected.traffic_class());
    assert_eq!(found.has_ports, [TCP, UDP].contains(&protocol) && payload_len >= 4);
}

/// A header whose checksum is right keeps a right one when its type-of-service byte is changed.
fn marked_ipv4(mut header: Ipv4Header, tos: u8) {
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes();
    let first = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (first, checksum) = ipv4_with_tos(first, u16::from_ne_bytes([bytes[10], bytes[11]]), tos);
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
    assert_eq!(bytes[1], tos);
    let (marked, _) = Ipv4Header::from_slice(&bytes).expect("only one byte and the checksum have changed");
    // 0 and 0xffff are the same number in one's complement.
    assert_eq!(marked.header_checksum % u16::MAX, marked.calc_header_checksum() % u16::MAX);
}

fn bytes(address: [u32; 4]) -> [u8; 16] {
    bytemuck::cast(address)
}
