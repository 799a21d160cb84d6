//! Addresses of interfaces, and which of them a packet to somewhere should have as its source.

use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::{Underlay, UnderlayError, same_family};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub index: u32,
    /// The address, with the length of the prefix that is on the link.
    pub net: IpNet,
    /// Usable as a source: not tentative, not found to be a duplicate.
    pub valid: bool,
    /// Second choice: deprecated, or an IPv6 temporary address (RFC 8981), or an IPv4 secondary one.
    pub secondary: bool,
}

impl Address {
    /// Reads the kernel's message; `None` if it is not about an IPv4 or IPv6 unicast address.
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        // include/uapi/linux/if_addr.h: IFA_LOCAL is the address where IFA_ADDRESS is a point-to-point peer's.
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            net: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
            valid: !flags.contains(AddressFlags::Dadfailed)
                && (!flags.contains(AddressFlags::Tentative) || flags.contains(AddressFlags::Optimistic)),
            secondary: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
        })
    }
}

impl Underlay {
    /// All addresses of all interfaces, in the kernel's order.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn addresses(&self) -> Result<Vec<Address>, UnderlayError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| UnderlayError::request("list the addresses", &error))?;
        Ok(messages.iter().filter_map(Address::from_message).collect())
    }
}

/// The best source among `addresses` (of one interface) for packets to `remote` by `next_hop`: of the same family and
/// scope, then in the spirit of RFC 6724, section 5: on the next hop's prefix, not secondary, of the same kind (unique
/// local or global), with the longest common prefix; then the first.
pub(super) fn pick_source(addresses: &[Address], remote: IpAddr, next_hop: Option<IpAddr>) -> Option<IpAddr> {
    let towards = next_hop.filter(|&hop| same_family(hop, remote)).unwrap_or(remote);
    let rank = |address: &Address| {
        let ip = address.net.addr();
        (
            address.net.contains(&towards) && !is_link_local(towards),
            !address.secondary,
            is_unique_local(ip) == is_unique_local(remote),
            common_prefix(ip, remote),
        )
    };
    let fits = |address: &&Address| {
        let ip = address.net.addr();
        address.valid && same_family(ip, remote) && is_link_local(ip) == is_link_local(remote) && !ip.is_loopback()
    };
    // `max_by_key` returns the last of equals, the kernel prefers the first.
    addresses.iter().rev().filter(fits).max_by_key(|address| rank(address)).map(|address| address.net.addr())
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_unique_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unique_local())
}

/// Leading bits that two addresses share; zero across families.
fn common_prefix(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (Ipv6Addr::to_bits(one) ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(nets: &[&str]) -> Vec<Address> {
        nets.iter().map(|net| Address { index: 1, net: net.parse().unwrap(), valid: true, secondary: false }).collect()
    }

    fn pick(nets: &[&str], remote: &str, next_hop: Option<&str>) -> Option<String> {
        let next_hop = next_hop.map(|hop| hop.parse().unwrap());
        pick_source(&addresses(nets), remote.parse().unwrap(), next_hop).map(|ip| ip.to_string())
    }

    #[test]
    fn first_of_the_family() {
        let nets = ["fd00::1/64", "192.0.2.1/24", "198.51.100.1/24"];
        assert_eq!(pick(&nets, "203.0.113.9", None).unwrap(), "192.0.2.1");
        assert_eq!(pick(&nets[1..], "2001:db8::1", None), None);
    }

    #[test]
    fn the_next_hops_prefix_comes_first() {
        let nets = ["192.0.2.1/24", "198.51.100.1/24"];
        assert_eq!(pick(&nets, "203.0.113.9", Some("198.51.100.254")).unwrap(), "198.51.100.1");
    }

    #[test]
    fn link_local_only_to_link_local() {
        assert_eq!(pick(&["fe80::1/64"], "2001:db8::9", Some("fe80::99")), None);
        assert_eq!(pick(&["2001:db8::1/64", "fe80::1/64"], "fe80::99", None).unwrap(), "fe80::1");
        assert_eq!(pick(&["fe80::1/64", "2001:db8::1/64"], "2001:db8:9::9", Some("fe80::99")).unwrap(), "2001:db8::1");
    }

    #[test]
    fn global_to_global_and_unique_local_to_unique_local() {
        let nets = ["fd00::1/64", "2001:db8::1/64"];
        assert_eq!(pick(&nets, "2001:db8:5::5", None).unwrap(), "2001:db8::1");
        assert_eq!(pick(&nets, "fd99::5", None).unwrap(), "fd00::1");
    }

    #[test]
    fn tentative_never_and_secondary_last() {
        let mut list = addresses(&["2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/64"]);
        list[0].valid = false;
        list[1].secondary = true;
        let remote = "2001:db8:9::9".parse().unwrap();
        assert_eq!(pick_source(&list, remote, None), Some("2001:db8::3".parse().unwrap()));
        assert_eq!(pick_source(&list[..2], remote, None), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(pick_source(&list[..1], remote, None), None);
    }
}
