//! Forged initiations: what somebody sends who wants to keep a gateway busy.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multipath_common::wire::PacketType;
use multipath_tests::config::LISTEN_PORT;
use multipath_tests::device::Mac;

/// Different initiations of a flood, and of its sources where it has many.
pub(crate) const FORGERIES: u16 = 1 << 14;
/// First of the addresses that are nobody's (RFC 2544: 198.18.0.0/15, kept for benchmarks).
const SPOOFED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The network of the spoofed addresses.
pub(crate) const SPOOFED_NETWORK: &str = "198.18.0.0/15";

/// BLAKE3 derive-key context of the first authentication code, as `docs/architecture.md` has it.
const MAC1_CONTEXT: &str = "mpvpn 1 mac1";
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const INITIATION: usize = 160;
/// Where the first of the two authentication codes stands.
const MAC1: usize = INITIATION - 32;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgery {
    /// The sender does not know whom it sends to.
    RandomMac,
    /// The sender knows the gateway's public key, and sends under its own address.
    OneSource,
    /// The same under the address of the gateway's peer.
    PeersAddress,
    /// The same under many addresses.
    ManySources,
}

/// From where to where a flood goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// MAC addresses of sender and receiver.
    pub(crate) macs: [Mac; 2],
    /// Addresses of sender and receiver.
    pub(crate) addresses: [Ipv4Addr; 2],
    /// Address of the receiver's peer.
    pub(crate) peer: Ipv4Addr,
}

impl Forgery {
    /// Ethernet frames with different initiations to the gateway with this public key.
    pub(crate) fn frames(self, route: &Route, public_key: &str) -> Result<Vec<Vec<u8>>> {
        let public_key = STANDARD.decode(public_key).context("a key of the lab is not base64")?;
        let mac1_key = blake3::derive_key(MAC1_CONTEXT, &public_key);
        Ok((0..FORGERIES).map(|number| self.frame(route, &mac1_key, number)).collect())
    }

    fn frame(self, route: &Route, mac1_key: &[u8; 32], number: u16) -> Vec<u8> {
        let [from, to] = route.addresses;
        let from = match self {
            Self::RandomMac | Self::OneSource => from,
            Self::PeersAddress => route.peer,
            Self::ManySources => Ipv4Addr::from_bits(SPOOFED.to_bits() + u32::from(number)),
        };
        let [own, far] = route.macs;
        let mut frame = [&far.0[..], &own.0, &[0x08, 0x00]].concat();
        frame.extend(ipv4_header(from, to));
        let port = LISTEN_PORT.to_be_bytes();
        let length = ((UDP + INITIATION) as u16).to_be_bytes();
        // No checksum: over IPv4 there need not be one.
        frame.extend([port, port, length, [0; 2]].concat());
        frame.extend(self.initiation(mac1_key, number));
        debug_assert_eq!(frame.len(), ETHERNET + IPV4 + UDP + INITIATION, "layout");
        frame
    }

    fn initiation(self, mac1_key: &[u8; 32], number: u16) -> [u8; INITIATION] {
        let mut message = [0; INITIATION];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut message);
        message[..4].copy_from_slice(&[PacketType::HandshakeInitiation as u8, 0, 0, 0]);
        if self != Self::RandomMac {
            let (body, codes) = message.split_at_mut(MAC1);
            codes.fill(0);
            codes[..16].copy_from_slice(&blake3::keyed_hash(mac1_key, body).as_bytes()[..16]);
        }
        message
    }
}

/// An IPv4 header without options for a UDP packet with an initiation.
fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr) -> [u8; IPV4] {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((IPV4 + UDP + INITIATION) as u16).to_be_bytes());
    header[8..10].copy_from_slice(&[64, 17]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    // Ten words carry into the upper half at most twice.
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}
