//! The outer headers: accepted is exactly what etherparse reads as one whole UDP datagram to one of our ports that is
//! long enough and leaves no byte over, and our own headers are accepted again.
#![no_main]

use std::net::Ipv4Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice, UdpHeader};
use libfuzzer_sys::fuzz_target;
use multipath_common::{
    inner::fold,
    outer::{self, IPV4_UDP_WORDS, IPV6_UDP_WORDS, Outer, Ports},
    wire::{DEFAULT_PORT, HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN},
};

/// The gateway's.
const PORTS: Ports = Ports { first: DEFAULT_PORT, count: 4 };

fuzz_target!(|packet: &[u8]| {
    let available = packet.len() as u32;
    if let Some(words) = words::<IPV4_UDP_WORDS>(packet) {
        let found = outer::parse_ipv4(&words, available, PORTS).ok().flatten();
        assert_eq!(found, by_etherparse(packet, 4));
        if let Some(found) = found {
            answered_over_ipv4(&found);
        }
    }
    if let Some(words) = words::<IPV6_UDP_WORDS>(packet) {
        let found = outer::parse_ipv6(&words, available, PORTS).ok().flatten();
        assert_eq!(found, by_etherparse(packet, 6));
        if let Some(found) = found {
            answered_over_ipv6(&found, &packet[found.headers_len as usize..]);
        }
        let is_first_fragment = packet[6] == 44 && packet[40] == 17 && packet[42] == 0 && packet[43] & 0xf8 == 0;
        assert_eq!(outer::is_first_ipv6_fragment(&words), is_first_fragment);
    }
});

/// Packets are words in memory order to the programs.
fn words<const N: usize>(packet: &[u8]) -> Option<[u32; N]> {
    let bytes = packet.get(..4 * N)?;
    Some(std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * word + byte]))))
}

fn by_etherparse(packet: &[u8], version: u8) -> Option<Outer> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { return None };
    let (source, destination, tos, ip_header_len, ip_len) = match sliced.net? {
        NetSlice::Ipv4(ip) if version == 4 && ip.header().ihl() == 5 => {
            let header = ip.header();
            let mapped = |address: Ipv4Addr| address.to_ipv6_mapped().octets();
            let tos = header.dcp().value() << 2 | header.ecn().value();
            let len = usize::from(header.total_len());
            (mapped(header.source_addr()), mapped(header.destination_addr()), tos, IPV4_HEADER_LEN, len)
        }
        NetSlice::Ipv6(ip) if version == 6 && ip.extensions().first_header().is_none() => {
            let header = ip.header();
            let len = IPV6_HEADER_LEN + usize::from(header.payload_length());
            (header.source(), header.destination(), header.traffic_class(), IPV6_HEADER_LEN, len)
        }
        _ => return None,
    };
    let payload_len = udp.payload().len();
    let headers_len = ip_header_len + UDP_HEADER_LEN;
    let is_whole = ip_len == packet.len() && ip_header_len + usize::from(udp.length()) == ip_len;
    if !is_whole || payload_len < HEADER_LEN || !(DEFAULT_PORT..DEFAULT_PORT + 4).contains(&udp.destination_port()) {
        return None;
    }
    Some(Outer {
        source: bytemuck::cast(source),
        destination: bytemuck::cast(destination),
        source_port: udp.source_port(),
        destination_port: udp.destination_port(),
        headers_len: headers_len as u32,
        payload_len: payload_len as u32,
        tos,
    })
}

/// An answer to the sender, from a port that is its own.
fn answered_over_ipv4(found: &Outer) {
    let Outer { source, destination, source_port, destination_port, tos, payload_len, .. } = *found;
    let answer = outer::ipv4_udp(destination[3], source[3], source_port, destination_port, tos, payload_len);
    let sum: u64 = answer[..IPV4_HEADER_LEN / 4].iter().map(|&word| u64::from(word)).sum();
    assert_eq!(fold(sum), u16::MAX, "the header's checksum");
    let read = outer::parse_ipv4(&answer, found.headers_len + payload_len, PORTS);
    assert_eq!(read, Ok(Some(Outer { source: destination, destination: source, ..*found })));
}

fn answered_over_ipv6(found: &Outer, payload: &[u8]) {
    let Outer { source, destination, source_port, destination_port, tos, payload_len, .. } = *found;
    let sum = payload
        .chunks(2)
        .map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
    let answer = outer::ipv6_udp(destination, source, source_port, destination_port, tos, payload_len, sum.sum());
    let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let (udp, _) = UdpHeader::from_slice(&bytes[IPV6_HEADER_LEN..]).expect("eight bytes are there");
    let expected = udp.calc_checksum_ipv6_raw(bytemuck::cast(destination), bytemuck::cast(source), payload);
    assert_eq!(Ok(udp.checksum), expected);
    let read = outer::parse_ipv6(&answer, found.headers_len + payload_len, PORTS);
    assert_eq!(read, Ok(Some(Outer { source: destination, destination: source, ..*found })));
}
