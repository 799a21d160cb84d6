//! From what the kernel says about a path's uplink and route to the entry that the programs send by.

use std::net::{IpAddr, SocketAddr};

use multipath_common::maps::{FAMILY_IPV4, FAMILY_IPV6, NAME_LEN, PATH_DOWN, PATH_STANDBY, Path, address_bytes};

use super::mtu::inner_mtu;

/// What a path is, whatever the state of its uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathIdentity {
    /// Name of the uplink, zero-padded.
    pub uplink: [u8; NAME_LEN],
    /// The peer's endpoint.
    pub remote: SocketAddr,
    /// Which endpoint of the peer on this uplink and in this list (configured or learned), from 0.
    pub endpoint: u32,
    /// Whether the endpoint was learned from the peer's packets.
    pub is_learned: bool,
    /// Which of the uplink's source ports it sends from, from 0.
    pub flow: u32,
}

/// What the kernel says about the way to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// Source address.
    pub local: IpAddr,
    /// Router; `None` if the endpoint is on the link.
    pub next_hop: Option<IpAddr>,
    /// Largest outer packet, bytes.
    pub mtu: u32,
}

/// The entry of a path. Without a way it is down, and keeps nothing but what it is. With one it waits for somebody to
/// say what may be sent on it: no inner MTU is proven.
pub fn entry(identity: &PathIdentity, way: Option<Way>, listen_port: u16) -> Path {
    let family = |address: IpAddr| if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    let remote = identity.remote.ip();
    let down = Path {
        state: PATH_DOWN,
        ifindex: 0,
        inner_mtu: 0,
        largest: 0,
        family: family(remote),
        next_hop_family: family(remote),
        local_port: listen_port + identity.flow as u16,
        remote_port: identity.remote.port(),
        local: [0; 16],
        remote: address_bytes(remote),
        next_hop: [0; 16],
        uplink: identity.uplink,
        endpoint: identity.endpoint,
        learned: u32::from(identity.is_learned),
        flow: identity.flow,
    };
    let Some(way) = way else { return down };
    let next_hop = way.next_hop.unwrap_or(remote);
    Path {
        state: PATH_STANDBY,
        ifindex: way.ifindex,
        largest: inner_mtu(way.mtu, remote.is_ipv4()),
        next_hop_family: family(next_hop),
        local: address_bytes(way.local),
        next_hop: address_bytes(next_hop),
        ..down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: PathIdentity = PathIdentity {
        uplink: *b"dsl\0\0\0\0\0\0\0\0\0\0\0\0\0",
        remote: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 5182),
        endpoint: 1,
        is_learned: false,
        flow: 0,
    };

    #[test]
    fn without_a_way_it_is_down() {
        let path = entry(&IDENTITY, None, 5000);
        assert_eq!((path.state, path.ifindex, path.largest), (PATH_DOWN, 0, 0));
        assert_eq!((path.remote_port, path.endpoint, path.learned), (5182, 1, 0));
    }

    #[test]
    fn on_link_the_endpoint_is_the_next_hop() {
        let way = Way { ifindex: 7, local: "192.0.2.9".parse().unwrap(), next_hop: None, mtu: 1492 };
        let path = entry(&PathIdentity { flow: 2, ..IDENTITY }, Some(way), 4998);
        assert_eq!((path.state, path.ifindex, path.largest, path.inner_mtu), (PATH_STANDBY, 7, 1428, 0));
        assert_eq!(path.next_hop, path.remote);
        assert_eq!((path.family, path.next_hop_family, path.local_port), (FAMILY_IPV4, FAMILY_IPV4, 5000));
    }

    #[test]
    fn an_ipv4_route_may_lead_over_ipv6() {
        let way = Way {
            ifindex: 7,
            local: "192.0.2.9".parse().unwrap(),
            next_hop: Some("fe80::1".parse().unwrap()),
            mtu: 1500,
        };
        let path = entry(&IDENTITY, Some(way), 5000);
        assert_eq!((path.family, path.next_hop_family), (FAMILY_IPV4, FAMILY_IPV6));
        assert_eq!(path.next_hop[..2], [0xfe, 0x80]);
    }
}
