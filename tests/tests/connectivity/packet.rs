//! Packets of the tunnel, read and forged from the bytes of design section "wire format" alone, without the code that makes them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, UdpHeader};
use multipath_tests::traffic::Captured;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Offset of the UDP payload in an Ethernet frame with IPv4.
pub const PAYLOAD_V4: usize = ETHERNET + 20 + 8;
/// Bytes of the tunnel's header.
pub const HEADER: usize = 20;
/// Bytes of the tag.
pub const TAG: usize = 16;

/// A packet on an uplink.
#[derive(Clone, Debug)]
pub struct Outer {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tos: u8,
    /// The UDP checksum as it stands there, and as it should be.
    pub checksum: (u16, u16),
    pub header: Header,
    /// What is between header and tag.
    pub sealed: Vec<u8>,
    pub tag: [u8; TAG],
}

/// The tunnel's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub packet_type: u8,
    pub path: u8,
    pub flags: u16,
    pub receiver: u32,
    pub counter: u64,
    pub timestamp: u32,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Self {
        let number = |at: usize, length: usize| {
            bytes[at..at + length].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            packet_type: bytes[0],
            path: bytes[1],
            flags: number(2, 2) as u16,
            receiver: number(4, 4) as u32,
            counter: number(8, 8),
            timestamp: number(16, 4) as u32,
        }
    }

    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.packet_type;
        bytes[1] = self.path;
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_le_bytes());
        bytes[16..].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes
    }
}

impl Outer {
    /// Reads an Ethernet frame; `None` when it is not UDP to `port`.
    pub fn read(frame: &[u8], port: u16) -> Result<Option<Self>> {
        let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return Ok(None) };
        let (Some(net), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else { return Ok(None) };
        if udp.destination_port() != port {
            return Ok(None);
        }
        let header: UdpHeader = udp.to_header();
        let (source, destination, tos, checksum) = match net {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                ensure!(ip.header_checksum == ip.calc_header_checksum(), "the IPv4 header's checksum is wrong");
                ensure!(ip.dont_fragment && !ip.more_fragments, "Don't Fragment is not set");
                let checksum = header.calc_checksum_ipv4(&ip, udp.payload())?;
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), frame[ETHERNET + 1], checksum)
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                let checksum = header.calc_checksum_ipv6(&ip, udp.payload())?;
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.traffic_class, checksum)
            }
            NetSlice::Arp(_) => return Ok(None),
        };
        let payload = udp.payload();
        let (first, rest) = payload.split_first_chunk().context("shorter than the tunnel's header")?;
        let (sealed, tag) = rest.split_last_chunk().context("shorter than header and tag")?;
        Ok(Some(Self {
            source: SocketAddr::new(source, udp.source_port()),
            destination: SocketAddr::new(destination, port),
            tos,
            checksum: (udp.checksum(), checksum),
            header: Header::read(first),
            sealed: sealed.to_vec(),
            tag: *tag,
        }))
    }

    /// What left for `port`, in order, with when it left and the frame.
    pub fn sent(captured: &[Captured], port: u16) -> Result<Vec<(Self, &Captured)>> {
        let outgoing = captured.iter().filter(|frame| frame.is_outgoing);
        outgoing
            .filter_map(|frame| Self::read(&frame.bytes, port).map(|outer| Some((outer?, frame))).transpose())
            .collect()
    }
}

/// A frame between the same addresses as a captured one with IPv4, with another payload.
pub fn with_payload(frame: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut forged = frame[..PAYLOAD_V4].to_vec();
    forged.extend_from_slice(payload);
    let length = (payload.len() + 28) as u16;
    forged[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
    forged[ETHERNET + 24..ETHERNET + 26].copy_from_slice(&(length - 20).to_be_bytes());
    repair(&mut forged);
    forged
}

/// Makes the checksum of the IPv4 header right.
pub fn repair(frame: &mut [u8]) {
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let words = frame[ETHERNET..ETHERNET + 20].chunks(2);
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// The UDP payload that carries an inner packet.
pub fn sealed(header: Header, inner: &[u8]) -> Vec<u8> {
    [&header.to_bytes()[..], inner, &[0; TAG]].concat()
}

/// An inner UDP packet.
pub fn inner_udp(source: [u8; 4], destination: [u8; 4], tos: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let mut ip =
        etherparse::Ipv4Header::new((8 + payload.len()) as u16, 64, etherparse::IpNumber::UDP, source, destination)?;
    ip.dscp = etherparse::IpDscp::try_new(tos >> 2)?;
    ip.ecn = etherparse::IpEcn::try_new(tos & 3)?;
    let mut packet = Vec::new();
    PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .udp(4000, 4001)
        .write(&mut packet, payload)?;
    Ok(packet)
}
