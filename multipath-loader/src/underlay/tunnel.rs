//! The tunnel's device: a veth pair, its addresses and the routes into it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressHeaderFlags, AddressMessage},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};
use nix::libc;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Address, Link, Underlay, UnderlayError, is_errno};

/// Who made a route (`rtm_protocol`): a number that `/etc/iproute2/rt_protos` leaves free, by which the tunnel's routes
/// are told from the operator's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(109);

/// What the tunnel's veth pair must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelDevice {
    /// Name of the end that has the addresses; the other end is `NAME-port`.
    pub name: String,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Ethernet address of the end that has the addresses.
    pub mac: [u8; 6],
    /// Ethernet address of the port.
    pub port_mac: [u8; 6],
}

/// The tunnel's veth pair as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelLink {
    /// The end that has the addresses.
    pub device: Link,
    /// The end where the programs are.
    pub port: Link,
}

impl Underlay {
    /// Makes the veth pair, or adopts the one that is there and corrects it. Both ends are up; the device is NOARP and
    /// makes no link-local address of its own, nor does the port.
    ///
    /// # Errors
    /// Another device has the name, or the kernel refused.
    pub async fn ensure_tunnel(&self, wanted: &TunnelDevice) -> Result<TunnelLink, UnderlayError> {
        let port = port_name(&wanted.name);
        if self.tunnel(&wanted.name).await?.is_none() {
            let request = self.handle.link().add(LinkVeth::new(&wanted.name, &port).build());
            request.execute().await.map_err(|error| {
                UnderlayError::request(format!("make the veth pair {}/{port}", wanted.name), &error)
            })?;
        }
        let found =
            self.tunnel(&wanted.name).await?.ok_or_else(|| UnderlayError::Gone { name: wanted.name.clone() })?;
        self.correct(&found.device, wanted.mtu, wanted.mac).await?;
        self.correct(&found.port, wanted.mtu, wanted.port_mac).await?;
        forbid_redirects(&wanted.name)?;
        self.tunnel(&wanted.name).await?.ok_or_else(|| UnderlayError::Gone { name: wanted.name.clone() })
    }

    /// The veth pair of the tunnel of that name, if it is there.
    ///
    /// # Errors
    /// Another device has the name, or the kernel refused.
    pub async fn tunnel(&self, name: &str) -> Result<Option<TunnelLink>, UnderlayError> {
        let port = port_name(name);
        match (self.link(name).await?, self.link(&port).await?) {
            (None, None) => Ok(None),
            (Some(device), Some(port))
                if device.kind.as_deref() == Some("veth") && device.lower == Some(port.index) =>
            {
                Ok(Some(TunnelLink { device, port }))
            }
            _ => Err(UnderlayError::NameTaken { name: name.to_owned(), port }),
        }
    }

    /// Deletes the veth pair of the tunnel of that name, with its addresses and routes. False if there was none.
    ///
    /// # Errors
    /// Another device has the name, or the kernel refused.
    pub async fn delete_tunnel(&self, name: &str) -> Result<bool, UnderlayError> {
        let Some(found) = self.tunnel(name).await? else { return Ok(false) };
        match self.handle.link().del(found.device.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is_errno(&error, &[libc::ENODEV]) => Ok(false),
            Err(error) => Err(UnderlayError::request(format!("delete the interface {name}"), &error)),
        }
    }

    /// Gives the device exactly these addresses (link-local ones are left alone).
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn set_addresses(&self, device: &Link, wanted: &[IpNet]) -> Result<(), UnderlayError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(device.index)
            .execute()
            .try_collect()
            .await
            .map_err(|error| UnderlayError::request(format!("list the addresses of {}", device.name), &error))?;
        let mut present = Vec::new();
        for message in messages {
            let Some(Address { net, .. }) = Address::from_message(&message) else { continue };
            let link_local = matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            if link_local || wanted.contains(&net) {
                present.push(net);
                continue;
            }
            self.handle.address().del(message).execute().await.map_err(|error| {
                UnderlayError::request(format!("remove the address {net} from {}", device.name), &error)
            })?;
        }
        for net in wanted.iter().filter(|net| !present.contains(net)) {
            let mut request = self.handle.address().add(device.index, net.addr(), net.prefix_len());
            // Nobody else is on this link: an IPv6 address need not wait for duplicate address detection.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            match request.execute().await {
                Err(error) if !is_errno(&error, &[libc::EEXIST]) => {
                    let what = format!("give the address {net} to {}", device.name);
                    return Err(UnderlayError::request(what, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the main table lead exactly these prefixes into the device, as far as the routes are the tunnel's own:
    /// routes of others are neither removed nor replaced. A default route is made as two halves, so that it never
    /// competes with an uplink's.
    ///
    /// # Errors
    /// There is another route for a prefix, or the kernel refused.
    pub async fn set_routes(&self, device: &Link, wanted: &[IpNet]) -> Result<(), UnderlayError> {
        let wanted: Vec<IpNet> = wanted.iter().flat_map(|net| halves(*net)).collect();
        let mut present = Vec::new();
        for message in self.routes().await? {
            let Some(net) = destination(&message) else { continue };
            if message.header.table != libc::RT_TABLE_MAIN || !leads_to(&message, device.index) {
                continue;
            }
            if message.header.protocol != PROTOCOL || wanted.contains(&net) {
                present.push(net);
                continue;
            }
            match self.handle.route().del(message).execute().await {
                Err(error) if !is_errno(&error, &[libc::ESRCH]) => {
                    return Err(UnderlayError::request(format!("remove the route for {net}"), &error));
                }
                _ => {}
            }
        }
        for net in wanted.iter().filter(|net| !present.contains(net)) {
            self.add_route(device, *net).await?;
        }
        Ok(())
    }

    async fn add_route(&self, device: &Link, net: IpNet) -> Result<(), UnderlayError> {
        let message = match net {
            IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(device.index)
                .scope(netlink_packet_route::route::RouteScope::Link)
                .protocol(PROTOCOL)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(device.index)
                .protocol(PROTOCOL)
                .build(),
        };
        match self.handle.route().add(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) if is_errno(&error, &[libc::EEXIST]) => {
                Err(UnderlayError::RouteTaken { prefix: net, device: device.name.clone() })
            }
            Err(error) => {
                Err(UnderlayError::request(format!("make the route for {net} through {}", device.name), &error))
            }
        }
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, UnderlayError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let messages: Vec<_> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(|error| UnderlayError::request("list the routes", &error))?;
            all.extend(messages);
        }
        Ok(all)
    }

    async fn correct(&self, link: &Link, mtu: u32, mac: [u8; 6]) -> Result<(), UnderlayError> {
        // Before the link is up: a link that comes up makes its link-local address at once.
        let no_autoconf = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]);
        let message = LinkUnspec::new_with_index(link.index).append_extra_attribute(no_autoconf).build();
        match self.handle.link().set(message).execute().await {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if !is_errno(&error, &[libc::EAFNOSUPPORT]) => {
                let what = format!("switch off IPv6 autoconfiguration on {}", link.name);
                return Err(UnderlayError::request(what, &error));
            }
            _ => {}
        }
        let mut message = LinkUnspec::new_with_index(link.index).mtu(mtu).arp(false).up();
        if link.mac != Some(mac) {
            message = message.address(mac.to_vec());
        }
        self.handle
            .link()
            .set(message.build())
            .execute()
            .await
            .map_err(|error| UnderlayError::request(format!("set up the interface {}", link.name), &error))
    }
}

/// Keeps the kernel from sending ICMP redirects for packets that it forwards from one peer to another: they come and go
/// by the same device, but there is no shorter way. The setting of `all` counts too; other devices keep their own
/// (include/linux/inetdevice.h, `IN_DEV_TX_REDIRECTS`). IPv6 sends none without a link-local address.
fn forbid_redirects(name: &str) -> Result<(), UnderlayError> {
    for interface in ["all", name] {
        let file = format!("/proc/sys/net/ipv4/conf/{interface}/send_redirects");
        // Where there is no IPv4, there are no redirects.
        match fs::write(&file, "0") {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(UnderlayError::Kernel { what: format!("write {file}"), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn port_name(name: &str) -> String {
    format!("{name}-port")
}

/// The prefix itself, or the two halves of everything.
fn halves(net: IpNet) -> Vec<IpNet> {
    match net {
        IpNet::V4(net) if net.prefix_len() == 0 => net.subnets(1).into_iter().flatten().map(IpNet::V4).collect(),
        IpNet::V6(net) if net.prefix_len() == 0 => net.subnets(1).into_iter().flatten().map(IpNet::V6).collect(),
        _ => vec![net],
    }
}

/// The prefix that a route is for; `None` if it is neither IPv4 nor IPv6.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    use netlink_packet_route::route::RouteAddress::{Inet, Inet6};

    let length = message.header.destination_prefix_length;
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    match (message.header.address_family, address) {
        (AddressFamily::Inet, Some(Inet(ip))) => Ipv4Net::new(*ip, length).ok().map(IpNet::V4),
        (AddressFamily::Inet6, Some(Inet6(ip))) => Ipv6Net::new(*ip, length).ok().map(IpNet::V6),
        // The kernel leaves the address of a default route out.
        (AddressFamily::Inet, None) => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).ok().map(IpNet::V4),
        (AddressFamily::Inet6, None) => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).ok().map(IpNet::V6),
        _ => None,
    }
}

fn leads_to(message: &RouteMessage, index: u32) -> bool {
    message.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(net: &str) -> Vec<String> {
        halves(net.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_default_route_is_split() {
        assert_eq!(split("0.0.0.0/0"), ["0.0.0.0/1", "128.0.0.0/1"]);
        assert_eq!(split("::/0"), ["::/1", "8000::/1"]);
        assert_eq!(split("10.0.0.0/8"), ["10.0.0.0/8"]);
    }
}
