//! Addresses and prefixes as they are written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// Reads an inner address of the tunnel device; without a length it is a host's.
pub(super) fn address(text: &str) -> Result<IpNet, String> {
    let expected = "an address with the length of its prefix, for instance 10.99.0.1/24 or fd99::1/64";
    let net = net(text).ok_or(expected)?;
    let address = net.addr();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{expected}, and one that a host may have"));
    }
    Ok(net)
}

/// Reads an inner prefix of a peer; without a length it is a host's. Host bits must be zero.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let net = net(text).ok_or("a prefix, for instance 10.98.0.0/24 or fd98::/64")?;
    if net.prefix_len() >= 96 && net.addr().is_ipv6() && net.network().to_canonical().is_ipv4() {
        return Err("an IPv4 prefix as such, for instance 10.98.0.0/24".to_owned());
    }
    if net != net.trunc() {
        return Err(format!("a prefix without host bits: {} (or {} for this one host)", net.trunc(), host(net.addr())));
    }
    Ok(net)
}

/// Reads a prefix of a rule. It is compared with addresses of both families, IPv4 ones mapped, so none may hold these among
/// others.
pub(super) fn class_prefix(text: &str) -> Result<IpNet, String> {
    let net = prefix(text)?;
    if net.contains(&IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())) {
        return Err("an IPv6 prefix that does not hold ::ffff:0:0/96, for instance 2000::/3".to_owned());
    }
    Ok(net)
}

/// Reads a peer's address and UDP port.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let expected = "ADDRESS:PORT, for instance 198.51.100.7:5182 or [2001:db8::7]:5182";
    let Ok(endpoint) = text.parse::<SocketAddr>() else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => format!("a port as well: {}", SocketAddr::new(address, super::DEFAULT_PORT)),
            Err(_) => format!("{expected} (names are not resolved)"),
        });
    };
    let address = endpoint.ip();
    if address != address.to_canonical() {
        return Err(format!("an IPv4 address as such: {}", SocketAddr::new(address.to_canonical(), endpoint.port())));
    }
    if endpoint.port() == 0 {
        return Err("a port from 1 to 65535".to_owned());
    }
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{expected}, and an address that another host may have"));
    }
    Ok(endpoint)
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(host))
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(prefix("10.98.0.0/24"), Ok("10.98.0.0/24".parse().unwrap()));
        assert_eq!(prefix("10.98.0.7"), Ok("10.98.0.7/32".parse().unwrap()));
        assert_eq!(prefix("::/0"), Ok("::/0".parse().unwrap()));
        assert_eq!(
            prefix("10.98.0.7/24"),
            Err("a prefix without host bits: 10.98.0.0/24 (or 10.98.0.7/32 for this one host)".to_owned())
        );
        assert!(prefix("10.98.0.0/33").is_err());
        assert!(prefix("::ffff:10.98.0.0/120").is_err());
        assert_eq!(class_prefix("2000::/3"), Ok("2000::/3".parse().unwrap()));
        assert!(class_prefix("0.0.0.0/0").is_ok() && class_prefix("::/0").is_err());
    }

    #[test]
    fn endpoints() {
        assert!(endpoint("198.51.100.7:5182").is_ok());
        assert!(endpoint("[2001:db8::7]:5182").is_ok());
        assert_eq!(endpoint("2001:db8::7"), Err("a port as well: [2001:db8::7]:5182".to_owned()));
        assert_eq!(endpoint("[::ffff:1.2.3.4]:9"), Err("an IPv4 address as such: 1.2.3.4:9".to_owned()));
        for text in ["hub.example.org:5182", "198.51.100.7:0", "0.0.0.0:1", "224.0.0.1:1", "[::1]:1", ""] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert!(address("10.99.0.1/24").is_ok());
        assert!(address("fd99::1").is_ok());
        assert!(address("0.0.0.0/0").is_err());
        assert!(address("ff02::1/64").is_err());
    }
}
