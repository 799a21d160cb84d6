//! Where packets to a remote host go when they must leave through one interface.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
    },
};
use nix::libc;

use super::{Address, Underlay, UnderlayError, address::pick_source, is_errno};

/// How packets to a remote host leave through one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The router; `None` if the remote host is on the link. It may be an IPv6 one for an IPv4 destination (RFC 5549).
    pub next_hop: Option<IpAddr>,
    /// The source address: the route's own, or the interface's best. `None` if the interface has none that fits: then
    /// nothing can be sent.
    pub source: Option<IpAddr>,
    /// The route's MTU, bytes; `None` if it is the interface's.
    pub mtu: Option<u32>,
}

/// What the kernel says when there is no route, or one that rejects, or when it does not have the address family.
const NO_ROUTE: [libc::c_int; 10] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::ENODEV,
    libc::ENETDOWN,
    libc::EINVAL,
    libc::EACCES,
    libc::ENOENT,
    libc::EADDRNOTAVAIL,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
];

impl Underlay {
    /// The route to `remote` through the interface with the index `oif`; `None` if there is none.
    ///
    /// Policy rules are asked without a source address first, and if that finds nothing, with each of the interface's
    /// addresses: gateways with several uplinks often keep one table per uplink, chosen by `ip rule from ADDRESS`.
    ///
    /// # Errors
    /// The kernel refused for another reason than that there is no route.
    pub async fn route_to(&self, remote: IpAddr, oif: u32) -> Result<Option<Route>, UnderlayError> {
        let mut addresses = self.addresses().await?;
        addresses.retain(|address| address.index == oif);

        if let Some(route) = self.lookup(remote, oif, None).await? {
            let source = route.source.or_else(|| pick_source(&addresses, remote, route.next_hop));
            return Ok(Some(Route { source, ..route }));
        }
        while let Some(source) = pick_source(&addresses, remote, None) {
            if let Some(route) = self.lookup(remote, oif, Some(source)).await? {
                return Ok(Some(Route { source: route.source.or(Some(source)), ..route }));
            }
            addresses.retain(|Address { net, .. }| net.addr() != source);
        }
        Ok(None)
    }

    async fn lookup(&self, remote: IpAddr, oif: u32, source: Option<IpAddr>) -> Result<Option<Route>, UnderlayError> {
        let mut query = RouteMessage::default();
        let length = if remote.is_ipv4() { 32 } else { 128 };
        query.header.address_family = if remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        query.header.destination_prefix_length = length;
        // Without RTM_F_FIB_MATCH Linux answers "on link" for an IPv4 destination that it has no route to: "Apparently,
        // routing tables are wrong. Assume, that the destination is on link." (ip_route_output_key_hash_rcu,
        // net/ipv4/route.c). With it, the answer is the table's entry or an error, in both families.
        query.header.flags = RouteFlags::FibMatch;
        query.attributes.push(RouteAttribute::Destination(remote.into()));
        query.attributes.push(RouteAttribute::Oif(oif));
        if let Some(source) = source {
            query.header.source_prefix_length = length;
            query.attributes.push(RouteAttribute::Source(source.into()));
        }
        let mut answers = std::pin::pin!(self.handle.route().get(query).execute());
        match answers.try_next().await {
            Ok(answer) => Ok(answer.and_then(|answer| through(&answer, oif))),
            Err(error) if is_errno(&error, &NO_ROUTE) => Ok(None),
            Err(error) => Err(UnderlayError::request(format!("look up the route to {remote}"), &error)),
        }
    }
}

/// The part of a table's entry that leads through the interface `oif`; `None` if none does, or if it leads nowhere.
fn through(entry: &RouteMessage, oif: u32) -> Option<Route> {
    if entry.header.kind != RouteType::Unicast || entry.header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let mut route = Route { next_hop: None, source: None, mtu: None };
    let mut found = false;
    for attribute in &entry.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found |= *index == oif,
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                let usable = |hop: &&netlink_packet_route::route::RouteNextHop| {
                    hop.interface_index == oif && !hop.flags.contains(RouteNextHopFlags::Dead)
                };
                if let Some(hop) = hops.iter().find(usable) {
                    found = true;
                    route.next_hop = hop.attributes.iter().find_map(gateway);
                }
            }
            other => route.next_hop = gateway(other).or(route.next_hop),
        }
    }
    found.then_some(route)
}

/// The router that an attribute names, if it names one.
fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    let router = match attribute {
        RouteAttribute::Gateway(address) => ip(address)?,
        RouteAttribute::Via(RouteVia::Inet(router)) => IpAddr::V4(*router),
        RouteAttribute::Via(RouteVia::Inet6(router)) => IpAddr::V6(*router),
        _ => return None,
    };
    Some(router).filter(|router| !router.is_unspecified())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
