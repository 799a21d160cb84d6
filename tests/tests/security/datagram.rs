//! Packets of the tunnel on an uplink, read and changed as somebody on the way can: by the wire format alone.

use std::net::Ipv4Addr;

use multipath_tests::config::LISTEN_PORT;
use multipath_tests::{End, Link};

const ETHERNET: usize = 14;
const IP: usize = ETHERNET;
const UDP: usize = IP + 20;
const PAYLOAD: usize = UDP + 8;

/// Bytes of the tunnel's header.
pub const HEADER: usize = 20;
/// Bytes of the tag.
pub const TAG: usize = 16;

/// Type of a handshake's first message.
pub const INITIATION: u8 = 1;
/// Type of the answer to it.
pub const RESPONSE: u8 = 2;
/// Type of a packet with an inner packet.
pub const DATA: u8 = 4;
/// Type of a packet with a control message.
pub const CONTROL: u8 = 5;

/// An Ethernet frame with a UDP packet over IPv4 without options, from or to a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Datagram(Vec<u8>);

impl Datagram {
    /// Reads a frame; `None` when it is something else.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let is_udp = frame.len() > PAYLOAD
            && frame[IP - 2..=IP] == [0x08, 0x00, 0x45]
            && frame[IP + 9] == 17
            && [UDP, UDP + 2].iter().any(|at| frame[*at..*at + 2] == LISTEN_PORT.to_be_bytes());
        is_udp.then(|| Self(frame.to_vec()))
    }

    /// The whole frame.
    pub fn frame(&self) -> &[u8] {
        &self.0
    }

    /// The UDP payload.
    pub fn payload(&self) -> &[u8] {
        &self.0[PAYLOAD..]
    }

    /// First byte of the payload: [`DATA`], ...
    pub fn kind(&self) -> u8 {
        self.payload()[0]
    }

    /// Establishes a session or helps to.
    pub fn is_handshake(&self) -> bool {
        self.kind() < DATA
    }

    /// Receiver index.
    pub fn receiver(&self) -> u32 {
        self.number(4, 4) as u32
    }

    /// Receiver index that the sender of a handshake packet has chosen.
    pub fn sender(&self) -> u32 {
        self.number(4, 4) as u32
    }

    /// Receiver index of the initiation that a response answers.
    pub fn answers(&self) -> u32 {
        self.number(8, 4) as u32
    }

    /// Counter.
    pub fn counter(&self) -> u64 {
        self.number(8, 8)
    }

    /// What is sealed, without tag.
    pub fn sealed(&self) -> &[u8] {
        let payload = self.payload();
        &payload[HEADER..payload.len() - TAG]
    }

    /// The same with another payload; lengths and checksum are right.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Self {
        let mut frame = [&self.0[..PAYLOAD], payload].concat();
        let length = (frame.len() - UDP) as u16;
        frame[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes());
        frame[IP + 2..IP + 4].copy_from_slice(&(length + 20).to_be_bytes());
        Self(frame).repaired()
    }

    /// The same torn after so many bytes of the payload; the headers promise all of it.
    #[must_use]
    pub fn torn(&self, length: usize) -> Self {
        Self(self.0[..PAYLOAD + length].to_vec())
    }

    /// The same with some bits of a byte of the payload flipped.
    #[must_use]
    pub fn flipped(&self, at: usize, bits: u8) -> Self {
        let mut frame = self.0.clone();
        frame[PAYLOAD + at] ^= bits;
        Self(frame)
    }

    /// The same from another source.
    #[must_use]
    pub fn from(&self, address: Ipv4Addr, port: u16) -> Self {
        let mut frame = self.0.clone();
        frame[IP + 12..IP + 16].copy_from_slice(&address.octets());
        frame[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
        Self(frame).repaired()
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| self.0[IP + 12 + at]);
        Ipv4Addr::new(a, b, c, d)
    }

    /// The same back to where it came from.
    #[must_use]
    pub fn reflected(&self) -> Self {
        let mut frame = self.0.clone();
        for (first, second, length) in [(0, 6, 6), (IP + 12, IP + 16, 4), (UDP, UDP + 2, 2)] {
            (0..length).for_each(|at| frame.swap(first + at, second + at));
        }
        Self(frame)
    }

    /// The same between the interfaces of another link.
    #[must_use]
    pub fn over(&self, link: &Link, to: End) -> Self {
        let mut frame = self.0.clone();
        frame[..6].copy_from_slice(&link.interface(to).mac.0);
        frame[6..12].copy_from_slice(&link.interface(to.other()).mac.0);
        Self(frame)
    }

    fn number(&self, at: usize, length: usize) -> u64 {
        let bytes = &self.payload()[at..at + length];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Makes the checksum of the IPv4 header right.
    fn repaired(mut self) -> Self {
        let header = &mut self.0[IP..UDP];
        header[10..12].fill(0);
        let mut sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        self
    }
}
