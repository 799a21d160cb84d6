//! What one tunnel needs of its gateway: device, uplinks, forwarding, routes to the peers, a free port.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::Path,
};

use super::{
    check::Check,
    uplink::{self, Facts},
};
use crate::{
    config::{Candidate, Config, Peer},
    dataplane::Pins,
    underlay::{Address, Link, Route, Underlay, UnderlayError, driver, features, native_xdp},
};

/// Checks what the tunnel of that configuration needs.
pub(super) async fn check(config: &Config, bpffs: &Path) -> Vec<Check> {
    match read_and_judge(config, bpffs).await {
        Ok(checks) => checks,
        Err(error) => {
            let found = format!("{:#}", anyhow::Error::new(error));
            vec![Check::fail("network", found, "run mpvpn as root, outside a sandbox")]
        }
    }
}

async fn read_and_judge(config: &Config, bpffs: &Path) -> Result<Vec<Check>, UnderlayError> {
    let underlay = Underlay::open()?;
    let tunnel = &config.tunnel;
    let mut checks = vec![device(&tunnel.name, underlay.tunnel(&tunnel.name).await.map(|found| found.is_some()))];

    let addresses = underlay.addresses().await?;
    let mut links = Vec::new();
    for uplink in &config.uplinks {
        let link = underlay.link(&uplink.interface).await?;
        let facts = link.clone().map(read_uplink);
        checks.extend(uplink::judge(uplink, facts.as_ref(), tunnel.mtu));
        links.push(link);
    }

    checks.push(ipv4_forwarding(number("net/ipv4/ip_forward")));
    let ipv6 = config.peers.iter().flat_map(|peer| &peer.allowed_ips).any(|net| net.addr().is_ipv6());
    if ipv6 {
        checks.push(ipv6_forwarding(number("net/ipv6/conf/all/forwarding")));
    }

    for peer in &config.peers {
        let mut paths = Vec::new();
        for candidate in config.candidates(peer) {
            let route = match (candidate.endpoint, &links[candidate.uplink]) {
                (Some(endpoint), Some(link)) => underlay.route_to(endpoint.ip(), link.index).await?,
                _ => None,
            };
            paths.push((candidate, route));
        }
        checks.extend(reachable(peer, &paths, &links, &addresses));
    }

    let up = Pins::new(bpffs, &tunnel.name).exist().unwrap_or(false);
    let ports = (tunnel.listen_port..).take(config.port_count() as usize);
    checks.extend(ports.map(|number| port(number, up, bind(number))));
    Ok(checks)
}

fn read_uplink(link: Link) -> Facts {
    let rp_filter = |conf: &str| number(&format!("net/ipv4/conf/{conf}/rp_filter"));
    Facts {
        driver: driver(&link.name).ok(),
        native_xdp: native_xdp(link.index).ok().flatten(),
        features: features(&link.name).unwrap_or_default(),
        // The kernel takes the larger of the two (IN_DEV_RPFILTER, include/linux/inetdevice.h).
        rp_filter: rp_filter("all").max(rp_filter(&link.name)),
        link,
    }
}

/// The value of a sysctl in the network namespace of this process.
fn number(sysctl: &str) -> Option<u8> {
    fs::read_to_string(Path::new("/proc/sys").join(sysctl)).ok()?.trim().parse().ok()
}

/// Whether the port can be had, on all addresses of both families.
fn bind(port: u16) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        // A machine without IPv6.
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => Ok(()),
        bound => bound.map(drop),
    }
}

fn device(name: &str, found: Result<bool, UnderlayError>) -> Check {
    match found {
        Ok(true) => Check::ok("device", format!("{name} is there")),
        Ok(false) => Check::ok("device", format!("{name} is free")),
        Err(error) => Check::fail("device", format!("{:#}", anyhow::Error::new(error)), format!("ip link show {name}")),
    }
}

fn ipv4_forwarding(value: Option<u8>) -> Check {
    match value {
        Some(0) | None => Check::warn(
            "IPv4 forwarding",
            "off: only this machine itself can use the tunnel",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        Some(_) => Check::ok("IPv4 forwarding", "on"),
    }
}

fn ipv6_forwarding(value: Option<u8>) -> Check {
    match value {
        Some(0) | None => Check::warn(
            "IPv6 forwarding",
            "off: only this machine itself can use the tunnel",
            "sysctl -w net.ipv6.conf.all.forwarding=1 (and accept_ra=2 on uplinks that live on router advertisements)",
        ),
        Some(_) => Check::ok("IPv6 forwarding", "on"),
    }
}

/// Judges the paths to a peer: each, and whether there is one at all.
fn reachable(
    peer: &Peer,
    paths: &[(Candidate, Option<Route>)],
    links: &[Option<Link>],
    addresses: &[Address],
) -> Vec<Check> {
    if peer.endpoints.is_empty() {
        return vec![Check::ok(format!("peer {}", peer.name), "no endpoints: learned from its packets")];
    }
    let mut checks = Vec::new();
    let mut usable = false;
    for (candidate, route) in paths {
        let (Some(endpoint), Some(link)) = (candidate.endpoint, &links[candidate.uplink]) else { continue };
        let remote = endpoint.ip();
        let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
        let has_family = addresses.iter().any(|address| address.index == link.index && is_global(address, remote));
        let subject = format!("path {}", candidate.name);
        let interface = &link.name;
        checks.push(match route {
            Some(Route { next_hop, source: Some(source), .. }) => {
                usable = true;
                let hop = next_hop.map_or("on the link".to_owned(), |hop| format!("via {hop}"));
                Check::ok(subject, format!("{remote} {hop}, from {source}"))
            }
            Some(_) => Check::warn(
                subject,
                format!("{interface} leads to {remote}, but has no {family} address of its own"),
                format!("give it one, or add `src ADDRESS` to the route through {interface}"),
            ),
            None if has_family => Check::warn(
                subject,
                format!("no route to {remote} through {interface}"),
                format!(
                    "ip route add {remote} via ROUTER dev {interface}, or a default route with a metric of its own"
                ),
            ),
            None => Check::ok(subject, format!("no path, {interface} has no {family} address")),
        });
    }
    if !usable {
        let advice = "make a route to one of its endpoints through one of the uplinks";
        checks.push(Check::fail(format!("peer {}", peer.name), "no endpoint can be reached", advice));
    }
    checks
}

/// Whether it is an address of `remote`'s family that reaches beyond the link.
fn is_global(address: &Address, remote: IpAddr) -> bool {
    match (address.net.addr(), remote) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(ip), IpAddr::V6(_)) => !ip.is_unicast_link_local(),
        _ => false,
    }
}

fn port(port: u16, up: bool, bound: io::Result<()>) -> Check {
    let subject = format!("UDP port {port}");
    match bound {
        Ok(()) => Check::ok(subject, "free"),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && up => {
            Check::ok(subject, "taken, and the tunnel is up: it should be its own")
        }
        Err(error) => Check::fail(
            subject,
            format!("can't be had: {error}"),
            format!("end the process that has it (ss -ulpn sport = :{port}), or choose another listen_port"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::check::Verdict, *};
    use crate::underlay::LinkLayer;

    fn config() -> Config {
        let text = "[tunnel]\nprivate_key = \"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\"\n\
                    [[uplink]]\nname = \"dsl\"\ninterface = \"ppp0\"\n\
                    [[peer]]\nname = \"hub\"\npublic_key = \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"\n\
                    endpoints = [\"198.51.100.7:1\", \"[2001:db8::7]:1\"]\nallowed_ips = [\"10.98.0.0/24\"]\n";
        Config::parse(text, Path::new("mp0.toml")).unwrap()
    }

    fn ppp0() -> Link {
        Link {
            index: 3,
            name: "ppp0".to_owned(),
            up: true,
            carrier: true,
            mtu: 1492,
            mac: None,
            kind: None,
            layer: LinkLayer::None,
            lower: None,
        }
    }

    /// Judges the hub's paths with these routes, on an uplink with one IPv4 address.
    fn judge(routes: [Option<Route>; 2]) -> Vec<Check> {
        let config = config();
        let peer = &config.peers[0];
        let paths: Vec<_> = config.candidates(peer).into_iter().zip(routes).collect();
        let address = Address { index: 3, net: "192.0.2.2/32".parse().unwrap(), valid: true, secondary: false };
        reachable(peer, &paths, &[Some(ppp0())], &[address])
    }

    fn route(source: Option<&str>) -> Route {
        Route { next_hop: None, source: source.map(|ip| ip.parse().unwrap()), mtu: None }
    }

    #[test]
    fn one_path_is_enough() {
        assert_eq!(
            judge([Some(route(Some("192.0.2.2"))), None]),
            [
                Check::ok("path hub/dsl", "198.51.100.7 on the link, from 192.0.2.2"),
                Check::ok("path hub/dsl/2", "no path, ppp0 has no IPv6 address"),
            ]
        );
    }

    #[test]
    fn no_path_is_a_failure() {
        let verdicts = |routes| judge(routes).iter().map(Check::verdict).collect::<Vec<_>>();
        assert_eq!(verdicts([None, None]), [Verdict::Warn, Verdict::Ok, Verdict::Fail]);
        assert_eq!(verdicts([Some(route(None)), None]), [Verdict::Warn, Verdict::Ok, Verdict::Fail]);
    }

    #[test]
    fn a_learned_peer_needs_no_route() {
        let mut peer = config().peers.remove(0);
        peer.endpoints.clear();
        let checks = reachable(&peer, &[], &[], &[]);
        assert_eq!(checks, [Check::ok("peer hub", "no endpoints: learned from its packets")]);
    }

    #[test]
    fn ports() {
        let taken = || Err(io::ErrorKind::AddrInUse.into());
        assert_eq!(port(5182, false, Ok(())).verdict(), Verdict::Ok);
        assert_eq!(port(5182, true, taken()).verdict(), Verdict::Ok);
        assert_eq!(port(5182, false, taken()).verdict(), Verdict::Fail);
        assert_eq!(port(5182, true, Err(io::ErrorKind::PermissionDenied.into())).verdict(), Verdict::Fail);
    }

    #[test]
    fn forwarding() {
        assert_eq!(ipv4_forwarding(Some(1)).verdict(), Verdict::Ok);
        assert_eq!(ipv4_forwarding(Some(0)).verdict(), Verdict::Warn);
        assert_eq!(ipv6_forwarding(None).verdict(), Verdict::Warn);
    }

    #[test]
    fn devices() {
        let taken = UnderlayError::NameTaken { name: "mp0".to_owned(), port: "mp0-port".to_owned() };
        assert_eq!(device("mp0", Err(taken)).verdict(), Verdict::Fail);
        assert_eq!(device("mp0", Ok(false)), Check::ok("device", "mp0 is free"));
    }
}
