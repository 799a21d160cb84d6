//! Gateways and the links between them: what most experiments start from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::config::TunnelConfig;
use crate::device::{Interface, Kind, Mac};
use crate::gateway::Gateway;
use crate::lab::Lab;
use crate::link::Link;
use crate::namespace::Namespace;
use crate::nat::Nat;
use crate::profile::{LinkProfile, Profile};
use crate::shape::Shape;

/// Address families of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 only; IPv6 is switched off on the interfaces.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    #[default]
    Dual,
}

/// A link between two gateways, to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// The emulator's settings for the directions a to b and b to a; `None`: a plain veth pair without emulator.
    pub shapes: Option<[Shape; 2]>,
    /// Ethernet frames or IP packets; a link without emulator is always Ethernet.
    pub kind: Kind,
    /// Address families.
    pub family: Family,
    /// The first gateway is behind a NAT router: it is reached only after it has sent something.
    pub is_natted: bool,
    /// Largest IP packet in bytes.
    pub mtu: u32,
}

impl LinkSpec {
    /// An emulated dual-stack Ethernet link without limits and delay.
    pub const PERFECT: Self = Self {
        shapes: Some([Shape::PERFECT; 2]),
        kind: Kind::Ethernet,
        family: Family::Dual,
        is_natted: false,
        mtu: 1500,
    };

    /// A dual-stack veth pair without emulator, at the speed of the kernel.
    pub const VETH: Self = Self { shapes: None, ..Self::PERFECT };

    /// A link with the same shape in both directions.
    #[must_use]
    pub const fn shaped(self, shape: Shape) -> Self {
        Self { shapes: Some([shape; 2]), ..self }
    }

    /// A link with other address families.
    #[must_use]
    pub const fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// A link of another kind.
    #[must_use]
    pub const fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// A link with the first gateway behind NAT.
    #[must_use]
    pub const fn natted(self) -> Self {
        Self { is_natted: true, ..self }
    }

    /// A link with another MTU, in bytes.
    #[must_use]
    pub const fn mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }
}

impl From<&LinkProfile> for LinkSpec {
    /// An IPv4-only Ethernet link: with both families a link would be two paths.
    fn from(profile: &LinkProfile) -> Self {
        Self::PERFECT.shaped(profile.shape()).family(Family::V4)
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Name of the gateway.
    pub gateway: String,
    /// The gateway's interface: `up0`, `up1`, ...
    pub interface: String,
    /// The interface's IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The interface's IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// The addresses are private: nobody outside reaches them.
    pub is_natted: bool,
}

impl ConnectionEnd {
    /// The addresses by which others reach this end.
    pub fn public_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6));
        addresses.filter(|_| !self.is_natted)
    }
}

/// A link that joins two gateways.
///
/// Link number i has 10.(100+i).0.0/24 and `fd00:i::/64`, .1 and `::1` at its first gateway, .2 and `::2` at the second. Where the
/// first gateway is behind NAT, those first addresses are the router's, the gateway's own are 192.168.(100+i).2 and `fd01:i::2`,
/// and the emulated link is the one between gateway and router (as with an LTE modem: interface kind and shape are the
/// gateway's uplink); from the router to the second gateway it is a veth pair.
#[derive(Debug)]
pub struct Connection {
    /// Both ends, in the order in which the gateways were given.
    pub ends: [ConnectionEnd; 2],
    /// What the connection was made from.
    pub spec: LinkSpec,
    /// The NAT router.
    pub nat: Option<Nat>,
    link: Option<Link>,
}

impl Connection {
    /// Joins two gateways by link number `number` (at most 99), each by its next free uplink.
    pub fn new(lab: &Lab, number: u8, gateways: [&Gateway; 2], spec: LinkSpec) -> Result<Self> {
        ensure!(number < 100, "a lab has addresses for 100 links");
        ensure!(spec.shapes.is_some() || spec.kind == Kind::Ethernet, "a raw IP link needs the emulator");
        let outer = Addresses {
            spec,
            number,
            v4: Ipv4Addr::new(10, 100 + number, 0, 0),
            v6: Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 0),
        };
        let [first, second] = gateways;
        let names = gateways.map(Gateway::next_uplink);
        let far = outer.interface(&names[1], 2);
        let (near, nat, link) = if spec.is_natted {
            let router = lab.namespace(&format!("nat{number}"))?;
            let inner = Addresses {
                v4: Ipv4Addr::new(192, 168, 100 + number, 0),
                v6: Ipv6Addr::new(0xfd01, number.into(), 0, 0, 0, 0, 0, 0),
                ..outer
            };
            let near = inner.interface(&names[0], 2);
            let link = join(lab, [(first.namespace(), near.clone()), (&router, inner.interface("inside", 1))], spec)?;
            join(
                lab,
                [(&router, outer.interface("outside", 1)), (second.namespace(), far.clone())],
                LinkSpec { shapes: None, ..spec },
            )?;
            first.namespace().ip(&inner.routes_to(&outer, &names[0]))?;
            (near, Some(Nat::start(router, "outside")?), link)
        } else {
            let near = outer.interface(&names[0], 1);
            let link = join(lab, [(first.namespace(), near.clone()), (second.namespace(), far.clone())], spec)?;
            (near, None, link)
        };
        let end = |gateway: &Gateway, interface: Interface, is_natted| ConnectionEnd {
            gateway: gateway.name().to_owned(),
            interface: interface.name,
            v4: interface.v4.map(|(address, _)| address),
            v6: interface.v6.map(|(address, _)| address),
            is_natted,
        };
        Ok(Self { ends: [end(first, near, spec.is_natted), end(second, far, false)], spec, nat, link })
    }

    /// The emulated link.
    ///
    /// # Errors
    /// The connection was made without emulator.
    pub fn link(&self) -> Result<&Link> {
        self.link.as_ref().with_context(|| {
            format!("{} of gateway {} is a veth pair without emulator", self.ends[0].interface, self.ends[0].gateway)
        })
    }

    /// The end at a gateway.
    pub fn end_at(&self, gateway: &str) -> Option<&ConnectionEnd> {
        self.ends.iter().find(|end| end.gateway == gateway)
    }
}

/// The experiment that most tests want: gateways `a` (number 1) and `b` (2), hosts `ha` (10.98.1.2, `fd98:1::2`) and `hb`
/// (10.98.2.2, `fd98:2::2`) behind them, and links between them: link i is `up<i>` on both.
///
/// Without a tunnel the hosts do not reach each other: the gateways have routes only to their own networks.
#[derive(Debug)]
pub struct Topology {
    /// First gateway; the one behind NAT, if any link has it.
    pub a: Gateway,
    /// Second gateway.
    pub b: Gateway,
    /// The links, in the order in which they were given.
    pub connections: Vec<Connection>,
    /// The lab that owns it all. Last, so that it goes last.
    pub lab: Lab,
}

impl Topology {
    /// Makes a lab with these links.
    pub fn new(links: &[LinkSpec]) -> Result<Self> {
        let lab = Lab::new()?;
        let a = Gateway::new(&lab, "a", 1)?;
        let b = Gateway::new(&lab, "b", 2)?;
        let connections = (0..)
            .zip(links)
            .map(|(number, spec)| Connection::new(&lab, number, [&a, &b], *spec))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { a, b, connections, lab })
    }

    /// Makes a lab with the links of a profile: Ethernet, IPv4 only (one path each).
    pub fn from_profile(profile: &Profile) -> Result<Self> {
        Self::new(&profile.links.iter().map(LinkSpec::from).collect::<Vec<_>>())
    }

    /// The host behind `a`.
    pub fn ha(&self) -> &Namespace {
        self.a.host()
    }

    /// The host behind `b`.
    pub fn hb(&self) -> &Namespace {
        self.b.host()
    }

    /// The emulator of link `number`.
    pub fn link(&self, number: usize) -> Result<&Link> {
        self.connections.get(number).with_context(|| format!("there is no link {number}"))?.link()
    }

    /// Waits until the packets of a tunnel are sealed with one session both ways.
    ///
    /// # Errors
    /// As [`Gateway::wait_for_sessions`].
    pub fn wait_for_session(&self, tunnel: &str) -> Result<()> {
        self.a.wait_for_session_with(&self.b, tunnel)
    }

    /// Configurations of tunnel `number` for `a` and `b`; see [`TunnelConfig::mesh`].
    pub fn tunnel_configs(&self, number: u8) -> [TunnelConfig; 2] {
        let [a, b] =
            [&self.a, &self.b].map(|gateway| TunnelConfig::of(number, gateway, &[&self.a, &self.b], &self.connections));
        [a, b]
    }
}

/// The networks of one link.
#[derive(Clone, Copy)]
struct Addresses {
    spec: LinkSpec,
    number: u8,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Addresses {
    fn interface(&self, name: &str, last: u8) -> Interface {
        let v4 = Ipv4Addr::from_bits(self.v4.to_bits() | u32::from(last));
        let v6 = Ipv6Addr::from_bits(self.v6.to_bits() | u128::from(last));
        Interface {
            name: name.to_owned(),
            mac: Mac([0x02, 0x64, 0, self.number, self.v4.octets()[0], last]),
            mtu: self.spec.mtu,
            v4: (self.spec.family != Family::V6).then_some((v4, 24)),
            v6: (self.spec.family != Family::V4).then_some((v6, 64)),
        }
    }

    /// Routes through the router .1 of this network to another one.
    fn routes_to(&self, other: &Self, interface: &str) -> String {
        let router = self.interface(interface, 1);
        let v4 = router.v4.map(|(router, _)| format!("route add {}/24 via {router} dev {interface}\n", other.v4));
        let v6 = router.v6.map(|(router, _)| format!("route add {}/64 via {router} dev {interface}\n", other.v6));
        v4.unwrap_or_default() + &v6.unwrap_or_default()
    }
}

fn join(lab: &Lab, ends: [(&Namespace, Interface); 2], spec: LinkSpec) -> Result<Option<Link>> {
    if let Some(shapes) = spec.shapes {
        return lab.link(spec.kind, ends, shapes).map(Some);
    }
    let [(a, near), (b, far)] = ends;
    lab.veth([(a, &near), (b, &far)])?;
    Ok(None)
}
