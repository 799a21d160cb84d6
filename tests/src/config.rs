//! Configuration files of `mpvpn` for the gateways of a lab.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::gateway::Gateway;
use crate::topology::Connection;

/// UDP port of the first tunnel.
pub const LISTEN_PORT: u16 = 5182;

/// The configuration of one tunnel on one gateway. Tests change its fields before they write it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TunnelConfig {
    /// Name of the tunnel and of its file; not in the file.
    #[serde(skip)]
    pub name: String,
    /// Section `[tunnel]`.
    pub tunnel: TunnelSection,
    /// Sections `[[uplink]]`.
    #[serde(rename = "uplink")]
    pub uplinks: Vec<UplinkSection>,
    /// Sections `[[peer]]`.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerSection>,
    /// Sections `[[class]]`.
    #[serde(rename = "class", skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassSection>,
}

/// Section `[tunnel]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TunnelSection {
    /// Private key in Base64.
    pub private_key: String,
    /// UDP port.
    pub listen_port: u16,
    /// Inner addresses of the tunnel's device, with prefix length.
    pub address: Vec<String>,
    /// Inner MTU in bytes; absent: automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `auto` or `off`; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<String>,
    /// `auto` or `off`; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// How long packets of aggregate flows are held, such as `120ms`; absent: automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub playout_delay: Option<String>,
}

/// A section `[[uplink]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UplinkSection {
    /// Name of the uplink.
    pub name: String,
    /// Its interface.
    pub interface: String,
    /// Unitless share; absent: automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Egress rate with its unit, such as `8mbit`; absent: automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// `auto`, `native`, `generic` or `off`; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp: Option<String>,
    /// `active`, `backup` or `metered`; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Bytes per period after which it is metered, such as `10GB/month`; absent: there is no quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<String>,
    /// Source ports, each a path of its own; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
}

/// A section `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerSection {
    /// Name of the peer.
    pub name: String,
    /// Its public key in Base64.
    pub public_key: String,
    /// Where it is reached, and through which uplinks. Empty: it is learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointEntry>,
    /// Inner prefixes behind it.
    pub allowed_ips: Vec<String>,
    /// `chacha20-poly1305`, `auth` or `none`; absent: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// File with the preshared key; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preshared_key_file: Option<String>,
}

/// A section `[[class]]`. What is absent is any.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassSection {
    /// `automatic`, `pin`, `aggregate` or `duplicate`.
    pub class: String,
    /// Name of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name or number of a protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Ports and ranges of them, such as `443, 5000-5100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Inner prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Name or number of a DSCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<String>,
    /// Range of sizes in bytes, such as `-300`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// An endpoint of a peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointEntry {
    /// Outer address and port.
    pub address: SocketAddr,
    /// The uplinks from which it is reached.
    pub uplinks: Vec<String>,
}

impl TunnelConfig {
    /// The configurations of one tunnel between all `gateways`, in their order. Tunnel number 0 is `mp0` with port 5182 and the
    /// inner addresses 10.99.0.n and `fd99:0::n`; number 1 is `mp1` with 5183, 10.99.1.n and `fd99:1::n`. Only tunnel 0 carries
    /// what is between the LANs; the others carry their inner addresses.
    ///
    /// Every connection is an uplink at both its ends, and an endpoint in both directions, except towards a gateway behind NAT.
    pub fn mesh(number: u8, gateways: &[&Gateway], connections: &[Connection]) -> Vec<Self> {
        gateways.iter().map(|gateway| Self::of(number, gateway, gateways, connections)).collect()
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).with_context(|| format!("cannot write the configuration of {} as TOML", self.name))
    }

    pub(crate) fn of(number: u8, own: &Gateway, gateways: &[&Gateway], connections: &[Connection]) -> Self {
        let port = LISTEN_PORT + u16::from(number);
        let uplinks = connections.iter().filter_map(|connection| connection.end_at(own.name()));
        let peers = gateways.iter().filter(|peer| peer.name() != own.name());
        Self {
            name: format!("mp{number}"),
            tunnel: TunnelSection {
                private_key: STANDARD.encode(private_key(number, own)),
                listen_port: port,
                address: inner_addresses(number, own).map(|(address, prefix, _)| format!("{address}/{prefix}")).into(),
                mtu: None,
                routes: None,
                spread: None,
                playout_delay: None,
            },
            uplinks: uplinks.map(|end| UplinkSection::automatic(&end.interface)).collect(),
            peers: peers.map(|peer| PeerSection::between(number, own, peer, connections)).collect(),
            classes: Vec::new(),
        }
    }
}

impl UplinkSection {
    /// An uplink named like its interface, everything automatic.
    pub fn automatic(interface: &str) -> Self {
        Self {
            name: interface.to_owned(),
            interface: interface.to_owned(),
            weight: None,
            rate: None,
            xdp: None,
            role: None,
            quota: None,
            flows: None,
        }
    }
}

impl ClassSection {
    /// A rule for every packet.
    pub fn everything(class: &str) -> Self {
        Self {
            class: class.to_owned(),
            name: None,
            protocol: None,
            ports: None,
            prefixes: Vec::new(),
            dscp: None,
            size: None,
        }
    }

    /// A rule for packets from or to these ports, such as `443, 5000-5100`.
    pub fn ports(class: &str, ports: &str) -> Self {
        Self { ports: Some(ports.to_owned()), ..Self::everything(class) }
    }
}

impl PeerSection {
    fn between(number: u8, own: &Gateway, peer: &Gateway, connections: &[Connection]) -> Self {
        let port = LISTEN_PORT + u16::from(number);
        let endpoints = connections
            .iter()
            .filter_map(|connection| Some((connection.end_at(own.name())?, connection.end_at(peer.name())?)));
        let endpoints = endpoints.flat_map(|(near, far)| {
            far.public_addresses().map(|address| EndpointEntry {
                address: SocketAddr::new(address, port),
                uplinks: vec![near.interface.clone()],
            })
        });
        let mut allowed_ips: Vec<String> =
            inner_addresses(number, peer).map(|(address, _, host_prefix)| format!("{address}/{host_prefix}")).into();
        if number == 0 {
            allowed_ips.extend([format!("10.98.{}.0/24", peer.number()), format!("fd98:{:x}::/64", peer.number())]);
        }
        Self {
            name: peer.name().to_owned(),
            public_key: STANDARD.encode(PublicKey::from(&StaticSecret::from(private_key(number, peer)))),
            endpoints: endpoints.collect(),
            allowed_ips,
            cipher: None,
            preshared_key_file: None,
        }
    }
}

/// Inner addresses of a gateway in a tunnel: address, length of the network's prefix, length of the host's prefix.
fn inner_addresses(number: u8, gateway: &Gateway) -> [(IpAddr, u8, u8); 2] {
    let last = gateway.number();
    [
        (IpAddr::from([10, 99, number, last]), 24, 32),
        (IpAddr::from([0xfd99, number.into(), 0, 0, 0, 0, 0, last.into()]), 64, 128),
    ]
}

/// A key that is the same in every run: a lab's traffic is no secret, and a failure can be repeated.
fn private_key(tunnel: u8, gateway: &Gateway) -> [u8; 32] {
    let mut key = [0x40 + tunnel; 32];
    key[0] = gateway.number() << 3;
    key
}
