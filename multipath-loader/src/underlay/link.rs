//! Links: what the kernel says about an interface.

use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use super::{Underlay, UnderlayError, is_errno};

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, host order.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Switched on by its operator (`IFF_UP`).
    pub up: bool,
    /// Switched on and connected (`IFF_LOWER_UP`): packets can leave through it.
    pub carrier: bool,
    /// MTU, bytes of a network-layer packet.
    pub mtu: u32,
    /// Ethernet address; `None` if it has none (PPP, TUN, raw IP).
    pub mac: Option<[u8; 6]>,
    /// Kind of a virtual link as `ip -d link` prints it (`veth`, `vlan`, `tun`, ...); `None` for hardware.
    pub kind: Option<String>,
    /// What stands before the network-layer header of its packets.
    pub layer: LinkLayer,
    /// Index of the link that it is stacked on or paired with (VLAN, veth); `None` if that is in another namespace.
    pub lower: Option<u32>,
}

/// What stands before the network-layer header of a link's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header (`ARPHRD_ETHER`, `ARPHRD_LOOPBACK`).
    Ethernet,
    /// Nothing that a program sees: PPP, TUN, raw-IP modems, IP tunnels.
    None,
}

impl Link {
    /// Whether packets can leave through it.
    pub fn is_usable(&self) -> bool {
        self.up && self.carrier
    }
}

impl Underlay {
    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn links(&self) -> Result<Vec<Link>, UnderlayError> {
        let messages = self.handle.link().get().execute();
        messages
            .map_ok(|message| Link::from(&message))
            .try_collect()
            .await
            .map_err(|error| UnderlayError::request("list the interfaces", &error))
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, UnderlayError> {
        let mut messages = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match messages.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(error) if is_errno(&error, &[nix::libc::ENODEV]) => Ok(None),
            Err(error) => Err(UnderlayError::request(format!("look up the interface {name}"), &error)),
        }
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            mac: None,
            kind: None,
            layer: match message.header.link_layer_type {
                LinkLayerType::Ether | LinkLayerType::Loopback => LinkLayer::Ethernet,
                _ => LinkLayer::None,
            },
            lower: None,
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Link(index) => link.lower = Some(*index).filter(|&index| index != link.index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if elsewhere {
            link.lower = None;
        }
        if link.layer == LinkLayer::None {
            link.mac = None;
        }
        link
    }
}
